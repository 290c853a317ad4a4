//! Which datacenters a file is due in.
//!
//! One rule, for repair, API and status alike: the placement of the file's (domain, class), else the one of its
//! domain, else every datacenter; and never one that was removed. Pure: what the ledger says is loaded once, and then only looked at.
//!
//! Always true: a placement that was taken back is still a row, of no datacenters, so that its time is known: whoever sets it
//! again is newer, and rules that were changed to and fro are not taken for those that never changed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use md5::{Digest, Md5};

use crate::file::{Class, Datacenter, Domain, FileName};
use crate::ledger::{
    DatacenterRecord, FileRecord, Ledger, LedgerError, MemberState, Membership, Placement,
};

/// Within which time a change is to be done wherever it is due, where nobody has said otherwise.
pub const LAG_GOAL: Duration = Duration::from_secs(15 * 60);

/// The placements and datacenters of the ledger, as of one moment.
#[derive(Clone, Debug, Default)]
pub struct Placements {
    rows: BTreeMap<(Domain, Option<Class>), Placement>,
    memberships: BTreeMap<Datacenter, Membership>,
    registered: BTreeSet<Datacenter>,
}

impl Placements {
    /// Reads them.
    ///
    /// # Errors
    /// As the ledger.
    pub async fn load(ledger: &dyn Ledger) -> Result<Self, LedgerError> {
        let datacenters = ledger.datacenters().await?;
        let memberships = ledger.memberships().await?;
        let placements = ledger.placements().await?;
        Ok(Self::new(placements, &datacenters, memberships))
    }

    /// From what was read.
    pub fn new(
        placements: Vec<Placement>,
        datacenters: &[DatacenterRecord],
        memberships: Vec<Membership>,
    ) -> Self {
        let named = datacenters.iter().map(|record| &record.name);
        let said = memberships.iter().map(|said| &said.name);
        let mut registered: BTreeSet<Datacenter> = named.chain(said).cloned().collect();
        for said in &memberships {
            if said.state == MemberState::Removed {
                registered.remove(&said.name);
            }
        }
        Self {
            rows: placements.into_iter().map(by_name).collect(),
            memberships: memberships
                .into_iter()
                .map(|said| (said.name.clone(), said))
                .collect(),
            registered,
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

    /// The row that says where files of this class are due; `None` where no row does, and all datacenters count.
    /// `class`: `None` where it is not known (yet).
    pub fn deciding(&self, domain: &Domain, class: Option<&Class>) -> Option<&Placement> {
        // A file that nobody named a class for is of the class that always exists.
        let class = class.cloned().unwrap_or_else(Class::default_class);
        self.counting(domain, Some(&class))
            .or_else(|| self.counting(domain, None))
    }

    /// Where files of this class are due; `None` where the class is not known (yet).
    pub fn due(&self, domain: &Domain, class: Option<&Class>) -> BTreeSet<Datacenter> {
        self.due_by(self.deciding(domain, class))
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
    pub fn due_of_domain(&self, domain: &Domain) -> BTreeSet<Datacenter> {
        self.due_by(self.counting(domain, None))
    }

    /// Where files are due that this row decides about, or none does.
    pub fn due_by(&self, row: Option<&Placement>) -> BTreeSet<Datacenter> {
        match row {
            Some(row) => row
                .datacenters
                .intersection(&self.registered)
                .cloned()
                .collect(),
            None => self.registered.clone(),
        }
    }

    /// Whether files of this class are due in `datacenter`.
    pub fn is_due(&self, datacenter: &Datacenter, domain: &Domain, class: Option<&Class>) -> bool {
        let row = self.deciding(domain, class);
        self.registered.contains(datacenter)
            && row.is_none_or(|row| row.datacenters.contains(datacenter))
    }

    fn counting(&self, domain: &Domain, class: Option<&Class>) -> Option<&Placement> {
        self.row(domain, class).filter(|row| !row.is_taken_back())
    }

    /// Where this file is due: nowhere, if it is deleted or unknown.
    pub fn due_of(&self, file: &FileName, record: &FileRecord) -> BTreeSet<Datacenter> {
        match record.content() {
            Some(_) => self.due(&file.domain, record.class()),
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
                remove_extra,
                updated,
                ..
            } = row;
            format!("{of:?} {datacenters:?} {remove_extra} {updated}")
        });
        let mut rules: Vec<String> = rows.collect();
        rules.push(format!("else {:?}", self.registered));
        // One that was removed has looked at nothing until it joined again.
        let rejoined = self.memberships.values();
        rules.extend(rejoined.filter_map(|said| Some(format!("{} {}", said.name, said.rejoined?))));
        hex::encode(Md5::digest(rules.join("\n")))
    }

    /// Every datacenter that has registered itself or that an operator has added, and that was not removed. Where nobody has said anything
    /// else, files are due in all of them.
    pub fn registered(&self) -> &BTreeSet<Datacenter> {
        &self.registered
    }

    /// Those that were removed.
    pub fn removed(&self) -> impl Iterator<Item = &Datacenter> {
        let said = self.memberships.values();
        said.filter(|said| said.state == MemberState::Removed)
            .map(|said| &said.name)
    }

    /// What an operator has said of a datacenter.
    pub fn membership(&self, datacenter: &Datacenter) -> Membership {
        let said = self.memberships.get(datacenter).cloned();
        said.unwrap_or_else(|| Membership::unsaid(datacenter.clone()))
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

    fn datacenter(name: &str) -> DatacenterRecord {
        DatacenterRecord {
            name: name.parse().unwrap(),
            trackers: Vec::new(),
            storage_hosts: BTreeSet::new(),
            api: None,
            updated: Version(1),
        }
    }

    fn said(name: &str, state: MemberState) -> Membership {
        Membership {
            state,
            ..Membership::unsaid(name.parse().unwrap())
        }
    }

    fn placement(domain: &str, class: Option<&str>, datacenters: &[&str]) -> Placement {
        Placement {
            domain: Domain::from_bytes(domain.as_bytes()),
            class: class.map(|class| Class::from_bytes(class.as_bytes())),
            datacenters: names(datacenters),
            lag_goal_seconds: None,
            remove_extra: false,
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
            &[datacenter("ma01"), datacenter("or01"), datacenter("tx01")],
            vec![
                said("or01", MemberState::Removed),
                said("tx01", MemberState::Paused),
            ],
        );
        let due = |domain: &str, class: Option<&str>| {
            let class = class.map(|class| Class::from_bytes(class.as_bytes()));
            let domain = Domain::from_bytes(domain.as_bytes());
            let due = placements.due(&domain, class.as_ref());
            for name in ["ma01", "or01", "tx01", "zz99"] {
                let name = name.parse().unwrap();
                let is_due = placements.is_due(&name, &domain, class.as_ref());
                assert_eq!(is_due, due.contains(&name), "{name}");
            }
            due
        };
        // One that was removed counts nowhere.
        assert_eq!(due("logs", Some("audit")), names(&["ma01"]));
        assert_eq!(due("logs", Some("default")), names(&["ma01"]));
        assert_eq!(due("logs", None), names(&["ma01"]));
        // Taken back: what would count without it does.
        assert_eq!(due("logs", Some("gone")), names(&["ma01"]));
        assert_eq!(due("tmp", None), names(&["ma01", "tx01"]));
        assert_eq!(due("photos", Some("audit")), names(&["ma01", "tx01"]));
        assert_eq!(placements.registered(), &names(&["ma01", "tx01"]));
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
            &[datacenter("ma01")],
            Vec::new(),
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
            &[datacenter("ma01"), datacenter("tx01")],
            Vec::new(),
        );
        let photos = Domain::from_bytes(b"photos");
        assert_eq!(placements.due(&photos, None), names(&["tx01"]));
    }

    #[test]
    fn rules_that_were_changed_and_changed_back_are_others() {
        let datacenters = [datacenter("ma01"), datacenter("tx01")];
        let at = |updated, datacenters: &[&str]| Placement {
            updated: Version(updated),
            ..placement("photos", None, datacenters)
        };
        let none = Placements::new(Vec::new(), &datacenters, Vec::new());
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
