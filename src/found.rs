//! What is found at a tracker though nobody reported it: files from before there was a proxy, and what clients do past it.
//! By which version it is told; pure.
//!
//! Always true: a file of which this datacenter had never applied a revision gets a version made of its fid, years below any
//! mutation that was ever made through a proxy. The same find gives the same version, whoever makes it and how often, so an import may be
//! repeated, and may run beside a proxy: whatever went through that is newer. Where this datacenter had applied a revision, what came past
//! the proxy came *after* that, and gets a version just above it: what others did meanwhile, and is not here yet, stays newer.
//! Never here: asking trackers or storage nodes (`repair::found`, `repair::compare`), or writing anything.

use crate::file::{Datacenter, Fid, Op, Replica};
use crate::ledger::FileRecord;
use crate::version::Version;

/// 2000-01-01, in µs since 1970: no proxy has ever stamped a version below it, and no database comes to such a fid.
const BEFORE_ALL_PROXIES: i64 = 946_684_800_000_000;

/// The version of a file that is found where no revision of it was ever applied; `None` for a fid that no database has.
pub fn version_of(fid: Fid) -> Option<Version> {
    let version = i64::try_from(fid.0).ok()?;
    (1..BEFORE_ALL_PROXIES)
        .contains(&version)
        .then_some(Version(version))
}

/// Whether a revision of this version was found, or follows what was, and never went through a proxy.
pub fn was_found(version: Version) -> bool {
    version.0 < BEFORE_ALL_PROXIES
}

/// The newest version that `here` is known to have applied of a file: that of the head, if what is here is what the head says, else
/// that of the bytes that are here. `None` if it never applied any.
pub fn applied(record: &FileRecord, here: &Datacenter) -> Option<Version> {
    let Replica { since, held } = record.replicas.get(here)?;
    let head = record.head.as_ref();
    Some(match held {
        Some(held) => match head {
            Some(head) if head.content() == Some(&held.content) => head.version,
            Some(_) | None => held.content.version,
        },
        // It was deleted here, or is missing: all that was known then was applied before.
        None => match head {
            Some(head) if head.version <= *since => head.version,
            Some(_) | None => *since,
        },
    })
}

/// Just above all that `here` has applied of a file, and above what was last seen there: for what was stored, renamed or reclassed
/// since. `None` if it never applied any.
pub fn just_above(record: &FileRecord, here: &Datacenter) -> Option<Version> {
    let since = record.replicas.get(here)?.since;
    Some(applied(record, here)?.max(since).next())
}

/// The version by which a fid is told that is under a key, and that nothing explains.
pub fn version_for(record: &FileRecord, here: &Datacenter, fid: Fid) -> Option<Version> {
    just_above(record, here).or_else(|| version_of(fid))
}

/// Whether two installations had a file of this name before there was a proxy: the head was found in another datacenter, and this one
/// has never applied any revision of it. Which of two contents is right then only a person knows.
pub fn is_contest(record: &FileRecord, here: &Datacenter) -> bool {
    let found_elsewhere = |head: &crate::file::Revision| {
        head.origin != *here && was_found(head.version) && matches!(head.op, Op::Put(_))
    };
    record.head.as_ref().is_some_and(found_elsewhere) && !record.replicas.contains_key(here)
}

/// Whether both of two installations' files under a key have been told, as may happen where they are taken in at the same time: what is here
/// was found here, what should be was found elsewhere, and neither followed the other.
pub fn is_contested(record: &FileRecord, here: &Datacenter) -> bool {
    let held = record.replicas.get(here);
    let held = held.and_then(|replica| replica.held.as_ref());
    let (Some(head), Some(held)) = (&record.head, held) else {
        return false;
    };
    head.content() != Some(&held.content)
        && head.origin != *here
        && was_found(head.version)
        && matches!(head.op, Op::Put(_))
        && held.content.origin == *here
        && was_found(held.content.version)
}

/// The version by which a person decides now between files that were found: above all of these, and below any mutation that was
/// ever made through a proxy.
pub fn decided_at(now: Version) -> Version {
    Version(BEFORE_ALL_PROXIES.saturating_add(now.0 / 1_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::{Class, Content, Held, Put, Revision};
    use crate::version::wall_clock;

    fn here() -> Datacenter {
        "tx01".parse().expect("a name")
    }

    fn content(version: i64, origin: &str) -> Content {
        Content {
            version: Version(version),
            origin: origin.parse().expect("a name"),
            node: "node1".parse().expect("a name"),
        }
    }

    fn put(version: i64, of: i64, origin: &str) -> Revision {
        Revision {
            version: Version(version),
            origin: origin.parse().expect("a name"),
            node: "node1".parse().expect("a name"),
            op: Op::Put(Put {
                content: content(of, origin),
                size: 1,
                checksum: None,
                fid: Fid(1),
                renamed_from: None,
            }),
        }
    }

    fn holds(of: i64, since: i64) -> Replica {
        Replica {
            since: Version(since),
            held: Some(Held {
                content: content(of, "ma01"),
                fid: Fid(9),
                class: Class::default_class(),
                claimed: false,
                leaving: false,
                checked: None,
            }),
        }
    }

    fn record(head: Option<Revision>, replica: Option<Replica>) -> FileRecord {
        FileRecord {
            head,
            class_cell: None,
            replicas: replica
                .map(|replica| (here(), replica))
                .into_iter()
                .collect(),
        }
    }

    #[test]
    fn rule_14_what_was_never_applied_is_below_all_mutations_and_what_was_is_just_above() {
        let version = |record: &FileRecord| version_for(record, &here(), Fid(77)).expect("one").0;
        assert_eq!(version(&record(None, None)), 77);
        assert_eq!(version(&record(Some(put(5000, 5000, "ma01")), None)), 77);
        assert!(was_found(Version(77)) && !was_found(wall_clock()));
        // What is here is what the head says, by a rename.
        let renamed = record(Some(put(6000, 5000, "ma01")), Some(holds(5000, 5500)));
        assert_eq!(version(&renamed), 6001);
        // Another datacenter's newer one has not come here yet: it stays newer.
        let behind = record(Some(put(9000, 9000, "ma01")), Some(holds(5000, 5500)));
        assert_eq!(version(&behind), 5501);
        // It was looked at since.
        let seen = record(Some(put(5000, 5000, "ma01")), Some(holds(5000, 7000)));
        assert_eq!(version(&seen), 7001);
        let gone = |since| Replica {
            since: Version(since),
            held: None,
        };
        assert_eq!(version(&record(None, Some(gone(40)))), 41);
    }

    #[test]
    fn rule_6_a_vanish_goes_by_what_was_applied_and_never_by_when_it_was_looked_at() {
        let seen = record(Some(put(5000, 5000, "ma01")), Some(holds(5000, 7000)));
        assert_eq!(applied(&seen, &here()), Some(Version(5000)));
        assert_eq!(applied(&record(None, None), &here()), None);
    }

    #[test]
    fn rule_18_two_imports_contest_and_a_mutation_through_a_proxy_does_not() {
        let now = wall_clock().0;
        let contest = |head, replica| is_contest(&record(head, replica), &here());
        assert!(contest(Some(put(12, 12, "ma01")), None));
        assert!(!contest(Some(put(12, 12, "tx01")), None), "our own");
        assert!(
            !contest(Some(put(now, now, "ma01")), None),
            "through a proxy"
        );
        assert!(!contest(Some(put(12, 12, "ma01")), Some(holds(12, 12))));
        assert!(!contest(None, None));
        let mut own = holds(77, 77);
        own.held.as_mut().expect("held").content = content(77, "tx01");
        let both = |head| is_contested(&record(Some(head), Some(own.clone())), &here());
        assert!(both(put(99, 99, "ma01")), "both were told at once");
        assert!(!both(put(now, now, "ma01")), "through a proxy");
        assert!(!both(put(77, 77, "tx01")), "what is here is what should be");
        let decided = decided_at(Version(now)).0;
        assert!(!both(put(decided, 99, "ma01")), "a person has decided");
        assert!(decided < now && decided_at(Version(now + 1_000_000)).0 > decided);
    }

    #[test]
    fn fids_beyond_any_database_are_refused() {
        assert_eq!(version_of(Fid(0)), None);
        assert_eq!(version_of(Fid(u64::MAX)), None);
        assert_eq!(
            version_of(Fid(10_000_000_000)),
            Some(Version(10_000_000_000))
        );
    }
}
