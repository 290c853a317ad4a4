//! The purge: rows of files that were deleted so long ago that nobody can have missed it.
//!
//! A delete is remembered so that an older put, wherever it still lies, does not bring the file back. The row may go when
//! nothing older can still come: the retention has passed; every datacenter that was ever registered and was not removed, also one that is paused or
//! where the file was not due, has scanned all files since; every node of those has said that it has nothing older undelivered or
//! open; none of those holds the file; and the delete was asserted at the strength that the operator wants.
//!
//! Always true: each cell is removed at its own timestamp. A removal at "now" would swallow later writes of a datacenter whose
//! clock is behind. The head goes last, so that what is begun is found again.
//! Never here: finding files; the scan meets every one of them. Of several datacenters the delete's own does it.
//! Killed in the middle: the head is still there, and the next scan goes on.

use std::collections::BTreeSet;

use crate::file::{Datacenter, FileName, Op};
use crate::ledger::{FileRecord, FileWrite, Ledger, LedgerError, MemberState, Strength};
use crate::placement::Placements;
use crate::version::{Version, ago};

use super::{is_superseded, scan};

/// How long a purge rests, as a multiple of the time that it took: it has all the time in the world.
pub(super) const REST: u32 = 4;

/// What may be forgotten, as of one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Horizon {
    /// Nothing older than this can still come from anywhere.
    before: Version,
    /// Those that take part.
    registered: BTreeSet<Datacenter>,
    /// Those that do not any more, whatever is said to be there.
    removed: BTreeSet<Datacenter>,
}

impl Horizon {
    /// Asks the ledger; `None` while it cannot be said.
    pub(super) async fn look(
        ledger: &dyn Ledger,
        retention: std::time::Duration,
    ) -> Result<Option<Horizon>, LedgerError> {
        let mut before = ago(retention);
        let members = Placements::load(ledger).await?;
        for datacenter in members.registered() {
            match scan::last_thorough(ledger, datacenter).await? {
                Some(began) => before = before.min(began),
                None => return Ok(None),
            }
        }
        let nodes = ledger.nodes().await?;
        for node in &nodes {
            let is_member =
                members.membership(&node.stream.datacenter).state != MemberState::Removed;
            if !is_member || is_superseded(&nodes, &node.stream) {
                continue;
            }
            let oldest = node.oldest_undelivered.into_iter().chain(node.oldest_open);
            before = oldest.fold(before.min(node.heartbeat), Version::min);
        }
        Ok(Some(Horizon {
            before,
            registered: members.registered().clone(),
            removed: members.removed().cloned().collect(),
        }))
    }

    /// Whether all that is known of a file may be forgotten, and by `here`. Pure.
    pub(super) fn lets_go(&self, record: &FileRecord, here: &Datacenter) -> bool {
        let Some(head) = &record.head else {
            return false;
        };
        // Of a datacenter that is gone, the first one by name takes care.
        let by = match self.registered.contains(&head.origin) {
            true => Some(&head.origin),
            false => self.registered.first(),
        };
        let class = record.class_cell.as_ref().map(|cell| cell.version);
        let replicas = record.replicas.iter();
        let mut theirs = replicas.filter(|(name, _)| !self.removed.contains(*name));
        let seen = theirs.clone().map(|(_, replica)| replica.since);
        matches!(head.op, Op::Delete { .. })
            && by == Some(here)
            && theirs.all(|(_, replica)| replica.held.is_none())
            && seen
                .chain(class)
                .chain([head.version])
                .all(|version| version < self.before)
    }
}

/// Forgets a file that [`Horizon::lets_go`].
pub(super) async fn forget(
    ledger: &dyn Ledger,
    file: &FileName,
    record: &FileRecord,
) -> Result<(), LedgerError> {
    // Every copy knows of the delete before any forgets it.
    let head = FileWrite {
        head: record.head.clone(),
        ..FileWrite::default()
    };
    ledger.write(file, &head, Strength::Whole).await?;
    ledger.forget(file, record).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::{Content, Fid, Put, Replica, Revision};

    fn deleted(version: i64) -> FileRecord {
        FileRecord {
            head: Some(Revision {
                version: Version(version),
                origin: "ma01".parse().unwrap(),
                node: "node1".parse().unwrap(),
                op: Op::Delete { renamed_to: None },
            }),
            ..FileRecord::default()
        }
    }

    fn horizon(before: i64, registered: &[&str]) -> Horizon {
        Horizon {
            before: Version(before),
            registered: registered
                .iter()
                .map(|name| name.parse().unwrap())
                .collect(),
            removed: BTreeSet::new(),
        }
    }

    #[test]
    fn only_a_delete_that_is_old_and_held_by_nobody_goes_and_only_from_one_place() {
        let (ma01, tx01): (Datacenter, Datacenter) =
            ("ma01".parse().unwrap(), "tx01".parse().unwrap());
        let both = horizon(100, &["ma01", "tx01"]);
        assert!(both.lets_go(&deleted(99), &ma01));
        assert!(!both.lets_go(&deleted(100), &ma01), "not old enough");
        assert!(!both.lets_go(&deleted(99), &tx01), "its origin does it");
        assert!(horizon(100, &["tx01"]).lets_go(&deleted(99), &tx01));
        assert!(!both.lets_go(&FileRecord::default(), &ma01));

        let mut held = deleted(99);
        let content = Content {
            version: Version(1),
            origin: ma01.clone(),
            node: "node1".parse().unwrap(),
        };
        let replica = |held| Replica {
            since: Version(50),
            held,
        };
        held.replicas.insert(tx01.clone(), replica(None));
        assert!(both.lets_go(&held, &ma01));
        held.replicas.get_mut(&tx01).unwrap().since = Version(101);
        assert!(!both.lets_go(&held, &ma01), "tx01 has just looked");
        let held_there = crate::file::Held {
            content: content.clone(),
            fid: Fid(1),
            class: crate::file::Class::default_class(),
            claimed: false,
            checked: None,
            leaving: false,
        };
        held.replicas
            .insert(tx01.clone(), replica(Some(held_there)));
        assert!(!both.lets_go(&held, &ma01), "tx01 still has it");
        let mut without = horizon(100, &["ma01"]);
        without.removed = BTreeSet::from([tx01.clone()]);
        assert!(
            without.lets_go(&held, &ma01),
            "nobody waits for who was removed"
        );

        let mut put = deleted(99);
        put.head.as_mut().unwrap().op = Op::Put(Put {
            content,
            size: 1,
            checksum: None,
            fid: Fid(1),
            renamed_from: None,
        });
        assert!(!both.lets_go(&put, &ma01), "a file that is there");
    }
}
