//! Which datacenters a file is due in.
//!
//! One rule, for repair, API and status alike: the placement of the file's (domain, class), else the one of its
//! domain, else every active datacenter. Pure: what the ledger says is loaded once, and then only looked at.

use std::collections::{BTreeSet, HashMap};

use md5::{Digest, Md5};

use crate::file::{Class, Datacenter, Domain, FileName};
use crate::ledger::{DatacenterRecord, FileRecord, Ledger, LedgerError, Placement};

/// The placements and datacenters of the ledger, as of one moment.
#[derive(Clone, Debug, Default)]
pub struct Placements {
    stated: HashMap<(Domain, Option<Class>), BTreeSet<Datacenter>>,
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
            stated: placements
                .into_iter()
                .map(|stated| ((stated.domain, stated.class), stated.datacenters))
                .collect(),
            active: active.map(|record| record.name.clone()).collect(),
            registered: datacenters.iter().map(|r| r.name.clone()).collect(),
        }
    }

    /// Where files of this class are due; `None` where the class is not known (yet).
    pub fn due(&self, domain: &Domain, class: Option<&Class>) -> &BTreeSet<Datacenter> {
        // A file that nobody named a class for is of the class that always exists.
        let class = class.cloned().unwrap_or_else(Class::default_class);
        self.stated
            .get(&(domain.clone(), Some(class)))
            .or_else(|| self.stated.get(&(domain.clone(), None)))
            .unwrap_or(&self.active)
    }

    /// Where this file is due: nowhere, if it is deleted or unknown.
    pub fn due_of(&self, file: &FileName, record: &FileRecord) -> BTreeSet<Datacenter> {
        match record.content() {
            Some(_) => self.due(&file.domain, record.class()).clone(),
            None => BTreeSet::new(),
        }
    }

    /// The same text for the same rules: who compares it with an earlier one knows whether files may have become due.
    pub fn rules(&self) -> String {
        let mut rules: Vec<String> = self
            .stated
            .iter()
            .map(|(of, where_due)| format!("{of:?} {where_due:?}"))
            .collect();
        rules.sort();
        rules.push(format!("else {:?}", self.active));
        hex::encode(Md5::digest(rules.join("\n")))
    }

    /// Every datacenter that was ever registered.
    pub fn registered(&self) -> &BTreeSet<Datacenter> {
        &self.registered
    }
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
            updated: Version(1),
        }
    }

    #[test]
    fn the_most_specific_placement_counts() {
        let placements = Placements::new(
            vec![
                placement("logs", None, &["ma01"]),
                placement("logs", Some("audit"), &["ma01", "or01"]),
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
        // Due nowhere is a placement too.
        assert_eq!(due("tmp", None), names(&[]));
        assert_eq!(due("photos", Some("audit")), names(&["ma01", "tx01"]));
        assert_eq!(placements.registered(), &names(&["ma01", "or01", "tx01"]));
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
}
