//! Which datacenters a file is due in.
//!
//! One rule, for repair, API and status alike: the placement of the file's (domain, class), else the one of its
//! domain, else every active datacenter. Pure: what the ledger says is loaded once, and then only looked at.
//!
//! Always true: a placement that was taken back is still a row, of no datacenters, so that its time is known: whoever sets it
//! again is newer, and rules that were changed to and fro are not taken for those that never changed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use md5::{Digest, Md5};

use crate::file::{Class, Datacenter, Domain, FileName};
use crate::ledger::{DatacenterRecord, FileRecord, Ledger, LedgerError, Placement};

/// Within which time a change is to be done wherever it is due, where nobody has said otherwise.
pub const LAG_GOAL: Duration = Duration::from_secs(15 * 60);

/// The placements and datacenters of the ledger, as of one moment.
#[derive(Clone, Debug, Default)]
pub struct Placements {
    rows: BTreeMap<(Domain, Option<Class>), Placement>,
    active: BTreeSet<Datacenter>,
    registered: BTreeSet<Datacenter>,
}

impl Placements {
    /// Reads them.
    ///
    /// # Errors
    /// As the ledger.
    pub async fn load(ledger: &dyn Ledger) -> Result<Self, LedgerError> {
        let datacenters = ledger.datacenters().await?;
        Ok(Self::new(ledger.placements().await?, &datacenters))
    }

    /// From what was read.
    pub fn new(placements: Vec<Placement>, datacenters: &[DatacenterRecord]) -> Self {
        let active = datacenters.iter().filter(|record| record.active);
        Self {
            rows: placements.into_iter().map(by_name).collect(),
            active: active.map(|record| record.name.clone()).collect(),
            registered: datacenters.iter().map(|r| r.name.clone()).collect(),
        }
    }

    /// These, once `placement` is set.
    pub fn with(mut self, placement: Placement) -> Self {
        self.rows.extend([by_name(placement)]);
        self
    }

    /// The row of a domain, or of a class of it, whether or not it was taken back.
    pub fn row(&self, domain: &Domain, class: Option<&Class>) -> Option<&Placement> {
        self.rows.get(&(domain.clone(), class.cloned()))
    }

    /// The rows that count, by domain and class.
    pub fn stated(&self) -> impl Iterator<Item = &Placement> {
        self.rows.values().filter(|row| !row.is_taken_back())
    }

    /// The row that says where files of this class are due; `None` where no row does, and all active datacenters count.
    /// `class`: `None` where it is not known (yet).
    pub fn deciding(&self, domain: &Domain, class: Option<&Class>) -> Option<&Placement> {
        // A file that nobody named a class for is of the class that always exists.
        let class = class.cloned().unwrap_or_else(Class::default_class);
        self.counting(domain, Some(&class))
            .or_else(|| self.counting(domain, None))
    }

    /// Where files of this class are due; `None` where the class is not known (yet).
    pub fn due(&self, domain: &Domain, class: Option<&Class>) -> &BTreeSet<Datacenter> {
        self.deciding(domain, class)
            .map_or(&self.active, |row| &row.datacenters)
    }

    /// Within which time a change of such a file is to be done where it is due.
    pub fn lag_goal(&self, domain: &Domain, class: Option<&Class>) -> Duration {
        self.deciding(domain, class).map_or(LAG_GOAL, lag_goal_of)
    }

    /// The shortest goal that any file has: who waits for less has missed none.
    pub fn shortest_lag_goal(&self) -> Duration {
        self.stated().map(lag_goal_of).fold(LAG_GOAL, Duration::min)
    }

    /// Where files of a domain are due whose class has no placement of its own.
    pub fn due_of_domain(&self, domain: &Domain) -> &BTreeSet<Datacenter> {
        self.counting(domain, None)
            .map_or(&self.active, |row| &row.datacenters)
    }

    fn counting(&self, domain: &Domain, class: Option<&Class>) -> Option<&Placement> {
        self.row(domain, class).filter(|row| !row.is_taken_back())
    }

    /// Where this file is due: nowhere, if it is deleted or unknown.
    pub fn due_of(&self, file: &FileName, record: &FileRecord) -> BTreeSet<Datacenter> {
        match record.content() {
            Some(_) => self.due(&file.domain, record.class()).clone(),
            None => BTreeSet::new(),
        }
    }

    /// The same text for the same rules: who compares it with an earlier one knows whether files may have become due.
    ///
    /// With the time of each row, so that rules that were changed and changed back are others: what was passed by while
    /// it was not due is looked at again, whoever looked meanwhile.
    pub fn rules(&self) -> String {
        let rows = self.rows.iter().map(|(of, row)| {
            let Placement {
                datacenters,
                updated,
                ..
            } = row;
            format!("{of:?} {datacenters:?} {updated}")
        });
        let mut rules: Vec<String> = rows.collect();
        rules.push(format!("else {:?}", self.active));
        hex::encode(Md5::digest(rules.join("\n")))
    }

    /// Every datacenter where files are due that nobody has said anything else of.
    pub fn active(&self) -> &BTreeSet<Datacenter> {
        &self.active
    }

    /// Every datacenter that was ever registered.
    pub fn registered(&self) -> &BTreeSet<Datacenter> {
        &self.registered
    }
}

/// The goal of the files that a row decides of.
pub fn lag_goal_of(row: &Placement) -> Duration {
    row.lag_goal_seconds
        .map_or(LAG_GOAL, |seconds| Duration::from_secs(seconds.into()))
}

fn by_name(row: Placement) -> ((Domain, Option<Class>), Placement) {
    ((row.domain.clone(), row.class.clone()), row)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::Version;

    fn names(names: &[&str]) -> BTreeSet<Datacenter> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    fn datacenter(name: &str, active: bool) -> DatacenterRecord {
        DatacenterRecord {
            name: name.parse().unwrap(),
            active,
            trackers: Vec::new(),
            storage_hosts: BTreeSet::new(),
            api: None,
            updated: Version(1),
        }
    }

    fn placement(domain: &str, class: Option<&str>, datacenters: &[&str]) -> Placement {
        Placement {
            domain: Domain::from_bytes(domain.as_bytes()),
            class: class.map(|class| Class::from_bytes(class.as_bytes())),
            datacenters: names(datacenters),
            lag_goal_seconds: None,
            updated: Version(1),
        }
    }

    #[test]
    fn the_most_specific_placement_counts() {
        let placements = Placements::new(
            vec![
                placement("logs", None, &["ma01"]),
                placement("logs", Some("audit"), &["ma01", "or01"]),
                placement("logs", Some("gone"), &[]),
                placement("tmp", None, &[]),
            ],
            &[
                datacenter("ma01", true),
                datacenter("or01", false),
                datacenter("tx01", true),
            ],
        );
        let due = |domain: &str, class: Option<&str>| {
            let class = class.map(|class| Class::from_bytes(class.as_bytes()));
            let domain = Domain::from_bytes(domain.as_bytes());
            placements.due(&domain, class.as_ref()).clone()
        };
        assert_eq!(due("logs", Some("audit")), names(&["ma01", "or01"]));
        assert_eq!(due("logs", Some("default")), names(&["ma01"]));
        assert_eq!(due("logs", None), names(&["ma01"]));
        // Taken back: what would count without it does.
        assert_eq!(due("logs", Some("gone")), names(&["ma01"]));
        assert_eq!(due("tmp", None), names(&["ma01", "tx01"]));
        assert_eq!(due("photos", Some("audit")), names(&["ma01", "tx01"]));
        assert_eq!(placements.registered(), &names(&["ma01", "or01", "tx01"]));
    }

    #[test]
    fn the_lag_goal_is_that_of_the_row_that_decides() {
        let goal = |seconds, row: Placement| Placement {
            lag_goal_seconds: Some(seconds),
            ..row
        };
        let placements = Placements::new(
            vec![
                goal(60, placement("logs", None, &["ma01"])),
                placement("logs", Some("audit"), &["ma01"]),
                goal(9, placement("logs", Some("gone"), &[])),
                goal(86_400, placement("old", None, &["ma01"])),
            ],
            &[datacenter("ma01", true)],
        );
        let of = |domain: &str, class: Option<&str>| {
            let class = class.map(|class| Class::from_bytes(class.as_bytes()));
            let domain = Domain::from_bytes(domain.as_bytes());
            placements.lag_goal(&domain, class.as_ref()).as_secs()
        };
        assert_eq!(of("logs", None), 60);
        assert_eq!(of("logs", Some("gone")), 60);
        assert_eq!(of("logs", Some("audit")), LAG_GOAL.as_secs());
        assert_eq!(of("old", Some("any")), 86_400);
        assert_eq!(of("photos", None), LAG_GOAL.as_secs());
        assert_eq!(placements.shortest_lag_goal().as_secs(), 60);
    }

    #[test]
    fn a_placement_of_the_default_class_holds_for_files_without_one() {
        let placements = Placements::new(
            vec![placement("photos", Some("default"), &["tx01"])],
            &[datacenter("ma01", true)],
        );
        let photos = Domain::from_bytes(b"photos");
        assert_eq!(*placements.due(&photos, None), names(&["tx01"]));
    }

    #[test]
    fn rules_that_were_changed_and_changed_back_are_others() {
        let datacenters = [datacenter("ma01", true), datacenter("tx01", true)];
        let at = |updated, datacenters: &[&str]| Placement {
            updated: Version(updated),
            ..placement("photos", None, datacenters)
        };
        let none = Placements::new(Vec::new(), &datacenters);
        let mut seen = vec![none.rules()];
        assert_eq!(none.rules(), none.clone().rules());
        let mut placements = none;
        for row in [
            at(1, &["ma01"]),
            at(2, &["ma01", "tx01"]),
            at(3, &["ma01"]),
            at(4, &[]),
            at(5, &["ma01"]),
            at(6, &[]),
        ] {
            placements = placements.with(row);
            let rules = placements.rules();
            assert!(!seen.contains(&rules), "{placements:?}");
            seen.push(rules);
        }
    }
}
