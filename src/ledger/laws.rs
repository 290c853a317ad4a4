//! The laws of merging, over values that are often equal in part: of any two different values exactly one wins, and
//! neither order nor repetition of writes changes the end.

use std::collections::BTreeSet;
use std::fmt::Debug;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::sample::select;
use proptest::{prop_assert, prop_assert_eq, proptest};

use super::{
    About, Change, Cursor, DatacenterRecord, Expected, FileRecord, FileWrite, Gap, MemberState,
    Membership, NodeRecord, Placement, StreamId,
};
use crate::file::{
    Cell, Checked, Checksum, Class, ClassCell, Content, Datacenter, Domain, Fid, FileName, Found,
    Held, Key, NodeName, Op, Put, Replica, Revision,
};
use crate::version::Version;

fn version() -> impl Strategy<Value = Version> {
    select(vec![-1, 0, 1, 255, 256, 1_700_000_000_000_000]).prop_map(Version)
}

// Names of several lengths: between texts, Cassandra calls the longer one greater.
fn datacenter() -> impl Strategy<Value = Datacenter> {
    select(vec!["a", "b", "aa", "ma01"]).prop_map(|name| name.parse().unwrap())
}

fn node() -> impl Strategy<Value = NodeName> {
    select(vec!["n", "m", "nn"]).prop_map(|name| name.parse().unwrap())
}

fn text() -> impl Strategy<Value = String> {
    select(vec!["", "a", "b", "ab", "%FF"]).prop_map(str::to_owned)
}

fn class() -> impl Strategy<Value = Class> {
    text().prop_map(|name| Class::from_escaped(&name))
}

fn key() -> impl Strategy<Value = Key> {
    text().prop_map(|name| Key::from_escaped(&name))
}

fn file() -> impl Strategy<Value = FileName> {
    (text(), key()).prop_map(|(domain, key)| FileName {
        domain: Domain::from_escaped(&domain),
        key,
    })
}

fn number() -> impl Strategy<Value = u64> {
    select(vec![0, 1, 256, u64::from(u32::MAX) + 1])
}

fn content() -> impl Strategy<Value = Content> {
    (version(), datacenter(), node()).prop_map(|(version, origin, node)| Content {
        version,
        origin,
        node,
    })
}

fn op() -> impl Strategy<Value = Op> {
    let checksum = select(vec![&b"0123456789abcdef"[..], b"fedcba9876543210"]);
    let put = (
        content(),
        number(),
        option::of(checksum.prop_map(Checksum::md5)),
        number().prop_map(Fid),
        option::of(key()),
    );
    prop_oneof![
        put.prop_map(|(content, size, checksum, fid, renamed_from)| Op::Put(Put {
            content,
            size,
            checksum,
            fid,
            renamed_from
        })),
        option::of(key()).prop_map(|renamed_to| Op::Delete { renamed_to }),
    ]
}

fn revision() -> impl Strategy<Value = Revision> {
    (version(), datacenter(), node(), op()).prop_map(|(version, origin, node, op)| Revision {
        version,
        origin,
        node,
        op,
    })
}

fn class_cell() -> impl Strategy<Value = ClassCell> {
    (version(), content(), class()).prop_map(|(version, content, class)| ClassCell {
        version,
        content,
        class,
    })
}

fn replica() -> impl Strategy<Value = Replica> {
    let checksum = select(vec![&b"0123456789abcdef"[..], b"fedcba9876543210"]);
    let checked = (
        version(),
        select(Found::ALL.to_vec()),
        option::of(checksum.prop_map(Checksum::md5)),
    );
    let checked = checked.prop_map(|(at, found, checksum)| Checked {
        at,
        found,
        checksum,
    });
    let held = (
        content(),
        number(),
        class(),
        any::<bool>(),
        option::of(checked),
        any::<bool>(),
    );
    let held = held.prop_map(|(content, fid, class, claimed, checked, leaving)| Held {
        content,
        fid: Fid(fid),
        class,
        claimed,
        checked,
        leaving,
    });
    (version(), option::of(held)).prop_map(|(since, held)| Replica { since, held })
}

fn file_write() -> impl Strategy<Value = FileWrite> {
    (
        option::of(revision()),
        option::of(class_cell()),
        option::of((datacenter(), replica())),
    )
        .prop_map(|(head, class, replica)| FileWrite {
            head,
            class,
            replica,
        })
}

fn gap() -> impl Strategy<Value = Gap> {
    let expected =
        (option::of(version()), option::of(version())).prop_map(|(head, class)| Expected {
            head,
            head_by: None,
            class,
        });
    (
        file(),
        version(),
        0..3u32,
        text(),
        version(),
        version(),
        expected,
    )
        .prop_map(
            |(file, since, attempts, last_error, next_try, observed, expected)| Gap {
                file,
                since,
                attempts,
                last_error,
                next_try,
                observed,
                expected,
            },
        )
}

fn cursor() -> impl Strategy<Value = Cursor> {
    (text(), number(), text(), version()).prop_map(|(name, number, note, updated)| Cursor {
        name,
        number,
        note,
        updated,
    })
}

fn change() -> impl Strategy<Value = Change> {
    let about = prop_oneof![Just(About::Head), Just(About::Class)];
    (number(), option::of(file()), version(), about).prop_map(|(number, file, version, about)| {
        Change {
            number,
            file,
            version,
            about,
        }
    })
}

fn node_record() -> impl Strategy<Value = NodeRecord> {
    let stream =
        (datacenter(), node(), text()).prop_map(|(datacenter, node, incarnation)| StreamId {
            datacenter,
            node,
            incarnation,
        });
    let open = (option::of(version()), option::of(version()));
    (
        stream,
        number(),
        number(),
        open,
        version(),
        version(),
        number(),
    )
        .prop_map(
            |(stream, last_number, delivered, open, clock_mark, heartbeat, generation)| {
                NodeRecord {
                    stream,
                    last_number,
                    delivered,
                    oldest_undelivered: open.0,
                    oldest_open: open.1,
                    clock_mark,
                    heartbeat,
                    generation,
                }
            },
        )
}

fn datacenter_record() -> impl Strategy<Value = DatacenterRecord> {
    let hosts = vec(text(), 0..3).prop_map(|hosts| hosts.into_iter().collect::<BTreeSet<_>>());
    let lists = (vec(text(), 0..3), hosts);
    (datacenter(), lists, option::of(text()), version()).prop_map(|(name, lists, api, updated)| {
        DatacenterRecord {
            name,
            trackers: lists.0,
            storage_hosts: lists.1,
            api,
            updated,
        }
    })
}

fn placement() -> impl Strategy<Value = Placement> {
    let datacenters = vec(datacenter(), 0..3).prop_map(|all| all.into_iter().collect());
    let goal = option::of(any::<u32>());
    let placed = (
        text(),
        option::of(class()),
        datacenters,
        goal,
        any::<bool>(),
        version(),
    );
    placed.prop_map(
        |(domain, class, datacenters, lag_goal_seconds, remove_extra, updated)| Placement {
            domain: Domain::from_escaped(&domain),
            class,
            datacenters,
            lag_goal_seconds,
            remove_extra,
            updated,
        },
    )
}

fn membership() -> impl Strategy<Value = Membership> {
    let state = select(MemberState::ALL.to_vec());
    let times = (option::of(version()), option::of(version()));
    (datacenter(), state, times, version()).prop_map(|(name, state, times, updated)| Membership {
        name,
        state,
        seeded: times.0,
        rejoined: times.1,
        updated,
    })
}

/// Of two values one wins, exactly if they differ; and winning passes on from value to value. With
/// that, keeping the winner is commutative, associative and idempotent; asked for below all the same.
fn order_is_total<T: Cell + PartialEq + Clone + Debug>(
    a: &T,
    b: &T,
    c: &T,
) -> Result<(), proptest::test_runner::TestCaseError> {
    prop_assert_eq!(a.wins_over(b) || b.wins_over(a), a != b);
    prop_assert!(!(a.wins_over(b) && b.wins_over(a)));
    if a.wins_over(b) && b.wins_over(c) {
        prop_assert!(a.wins_over(c));
    }
    let keep = |old: &T, new: &T| if new.wins_over(old) { new } else { old }.clone();
    prop_assert_eq!(keep(a, a), a.clone());
    prop_assert_eq!(keep(a, b), keep(b, a));
    prop_assert_eq!(keep(&keep(a, b), c), keep(a, &keep(b, c)));
    Ok(())
}

/// The same value with `at` as its timestamp: ties are where it is decided.
macro_rules! total_order {
    ($($test:ident: $strategy:expr, $at:ident;)*) => {
        proptest! {
            $(
                #[test]
                fn $test(a in $strategy, mut b in $strategy, mut c in $strategy, tie in any::<bool>()) {
                    if tie {
                        b.$at = a.$at;
                        c.$at = a.$at;
                    }
                    order_is_total(&a, &b, &c)?;
                }
            )*
        }
    };
}

total_order! {
    revisions: revision(), version;
    class_cells: class_cell(), version;
    replicas: replica(), since;
    changes: change(), version;
    gaps: gap(), observed;
    cursors: cursor(), updated;
    nodes: node_record(), heartbeat;
    datacenters: datacenter_record(), updated;
    placements: placement(), updated;
    memberships: membership(), updated;
}

fn merged<'a>(writes: impl IntoIterator<Item = &'a FileWrite>) -> FileRecord {
    let mut record = FileRecord::default();
    for write in writes {
        record.merge(write);
    }
    record
}

proptest! {
    #[test]
    fn a_record_ends_the_same_in_any_order_and_repetition(
        (writes, mixed) in vec(file_write(), 1..8).prop_flat_map(|writes| {
            let repeated: Vec<_> = writes.iter().chain(&writes).cloned().collect();
            (Just(writes), Just(repeated).prop_shuffle())
        })
    ) {
        prop_assert_eq!(merged(&mixed), merged(&writes));
    }

    /// Cassandra merges cells one by one: no write of two cells may have its effect only as a whole.
    #[test]
    fn a_write_is_its_cells(writes in vec(file_write(), 1..6)) {
        let mut apart = Vec::new();
        for write in &writes {
            apart.push(FileWrite { replica: write.replica.clone(), ..FileWrite::default() });
            apart.push(FileWrite { class: write.class.clone(), ..FileWrite::default() });
            apart.push(FileWrite { head: write.head.clone(), ..FileWrite::default() });
        }
        prop_assert_eq!(merged(&apart), merged(&writes));
    }

    /// The layout as Cassandra's documentation of user-defined types gives it, read back by a second hand: every field
    /// is found behind its length, in the number of the type, and nothing is left.
    #[test]
    fn tie_bytes_are_a_frozen_value(revision in revision(), cell in class_cell(), replica in replica()) {
        let fields = fields(&revision.tie_bytes());
        prop_assert_eq!(fields.len(), 12);
        prop_assert_eq!(fields[0].as_deref(), Some(&revision.version.0.to_be_bytes()[..]));
        prop_assert_eq!(fields[1].as_deref(), Some(&[u8::from(revision.put().is_some())][..]));
        prop_assert_eq!(fields[2].as_deref(), Some(revision.origin.as_str().as_bytes()));
        prop_assert_eq!(self::fields(&cell.tie_bytes()).len(), 5);
        let fields = self::fields(&replica.tie_bytes());
        prop_assert_eq!(fields.len(), 12);
        let leaving = replica.held.as_ref().is_some_and(|held| held.leaving);
        prop_assert_eq!(fields[11].as_deref(), leaving.then_some(&[1][..]));
        prop_assert_eq!(fields[1].as_deref(), Some(&[u8::from(replica.held.is_some())][..]));
        let checked = replica.held.as_ref().and_then(|held| held.checked.as_ref());
        prop_assert_eq!(fields[9].as_deref(), checked.map(|checked| checked.found.word().as_bytes()));
    }
}

fn fields(mut bytes: &[u8]) -> Vec<Option<Vec<u8>>> {
    let mut fields = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk() {
        let length = i32::from_be_bytes(*length);
        let (field, rest) = rest.split_at(usize::try_from(length).unwrap_or(0));
        fields.push((length >= 0).then(|| field.to_vec()));
        bytes = rest;
    }
    assert!(bytes.is_empty(), "bytes after the last field");
    fields
}

fn a_put(version: i64, origin: &str) -> Revision {
    let (version, origin): (_, Datacenter) = (Version(version), origin.parse().unwrap());
    let node: NodeName = "node1".parse().unwrap();
    Revision {
        version,
        origin: origin.clone(),
        node: node.clone(),
        op: Op::Put(Put {
            content: Content {
                version,
                origin,
                node,
            },
            size: 5,
            checksum: None,
            fid: Fid(7),
            renamed_from: None,
        }),
    }
}

#[test]
fn a_put_outlives_a_delete_of_the_same_microsecond() {
    let put = a_put(1000, "ma01");
    let delete = Revision {
        op: Op::Delete { renamed_to: None },
        origin: "zzzz-the-longest".parse().unwrap(),
        ..put.clone()
    };
    assert!(put.wins_over(&delete) && !delete.wins_over(&put));
}

#[test]
fn on_a_tie_bytes_decide_as_cassandra_compares_them() {
    let greater = [
        ("the longer name", a_put(1, "aa"), a_put(1, "b")),
        ("the later letter", a_put(1, "tx01"), a_put(1, "ma01")),
    ];
    for (why, winner, loser) in greater {
        assert!(winner.wins_over(&loser), "{why}");
    }
    let with = |checksum: Option<Checksum>| {
        let mut revision = a_put(1, "ma01");
        if let Op::Put(put) = &mut revision.op {
            put.checksum = checksum;
        }
        revision
    };
    let known = with(Some(Checksum::md5(&[255; 16])));
    assert!(
        with(None).wins_over(&known),
        "a length of -1 is the greatest"
    );
}

#[test]
fn what_is_held_wins_over_nothing_and_what_was_seen_over_a_claim() {
    let held = |claimed| Replica {
        since: Version(9),
        held: Some(Held {
            content: a_put(1, "ma01").content().unwrap().clone(),
            fid: Fid(1),
            class: Class::default_class(),
            claimed,
            checked: None,
            leaving: false,
        }),
    };
    let nothing = Replica {
        since: Version(9),
        held: None,
    };
    assert!(held(true).wins_over(&nothing));
    assert!(held(false).wins_over(&held(true)));
}

/// The bytes themselves, so that nobody changes the layout unawares: ledgers hold values compared by it.
#[test]
fn the_layout_is_this() {
    assert_eq!(
        hex::encode(a_put(1000, "ma01").tie_bytes()),
        concat!(
            "00000008",
            "00000000000003e8", // version
            "00000001",
            "01", // put
            "00000004",
            "6d613031", // origin
            "00000005",
            "6e6f646531", // node
            "00000008",
            "00000000000003e8", // content_version
            "00000004",
            "6d613031", // content_origin
            "00000005",
            "6e6f646531", // content_node
            "00000008",
            "0000000000000005", // size
            "ffffffff",         // checksum
            "00000008",
            "0000000000000007", // fid
            "ffffffff",         // renamed_from
            "ffffffff",         // renamed_to
        )
    );
}
