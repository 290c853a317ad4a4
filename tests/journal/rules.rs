//! Each rule of the journal, on a disk that works.

use std::collections::BTreeMap;
use std::time::Duration;

use phylactery::config::JournalConfig;
use phylactery::file::{Checksum, Class, Content, Fid};
use phylactery::journal::{By, Details, Journal, Mutation, Outcome, Refused};
use phylactery::locks::KeyLocks;
use phylactery::version::{MAX_AHEAD, Version, wall_clock};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tempfile::tempdir;

use super::{
    announcement, assert_memory_agrees, config, copy, entries, file, intend, intended, open,
    open_as, outbox, put, seed, try_open, until,
};

#[tokio::test]
async fn identity_mark_and_number_outlive_an_empty_journal() {
    let folder = tempdir().expect("a folder");
    let journal = open(folder.path());
    let stream = journal.stream();
    let intent = intended(&journal, put("a")).await;
    let version = intent.version();
    intent.outcome(Outcome::Happened);
    let seq = entries(&journal).await[0].seq;
    let say = announcement(file("a"), version, true);
    journal
        .announce(vec![(seq, vec![say])])
        .await
        .expect("announced");
    let id = outbox(&journal).await[0].id;
    journal.confirm(vec![id], false).await.expect("confirmed");
    journal.close().await;

    let journal = open(folder.path());
    assert_eq!(journal.depth(), Default::default());
    assert_eq!(journal.stream(), stream);
    assert_eq!(journal.last_number(), 1);
    assert!(journal.clock().mark() >= version);
    // Nor are places used twice, for whoever remembers how far it has read.
    let intent = intended(&journal, put("b")).await;
    let next = entries(&journal).await[0].seq;
    assert!(next > seq);
    let say = announcement(file("b"), intent.version(), true);
    intent.outcome(Outcome::Happened);
    journal
        .announce(vec![(next, vec![say])])
        .await
        .expect("announced");
    let out = outbox(&journal).await;
    assert!(out[0].id > id && out[0].number == Some(2), "{out:?}");
}

#[tokio::test]
async fn a_folder_belongs_to_one_node_and_one_process() {
    let folder = tempdir().expect("a folder");
    let journal = open(folder.path());
    let why = try_open(folder.path()).err().expect("refused").to_string();
    assert!(
        why.contains("another process") && why.contains(&folder.path().display().to_string()),
        "{why}"
    );
    journal.close().await;

    for (datacenter, node) in [("tx01", "node1"), ("ma01", "node2")] {
        let why = open_as(folder.path(), datacenter, node)
            .err()
            .expect("refused")
            .to_string();
        assert!(
            why.contains("belongs to node node1 of datacenter ma01"),
            "{why}"
        );
    }
    let db = rusqlite::Connection::open(folder.path().join("journal.db")).expect("a database");
    db.execute("UPDATE meta SET value = 3 WHERE name = 'schema'", [])
        .expect("written");
    let why = try_open(folder.path()).err().expect("refused").to_string();
    assert!(
        why.contains("version 3") && why.contains("knows up to version 2"),
        "{why}"
    );
    db.execute("UPDATE meta SET value = 2 WHERE name = 'schema'", [])
        .expect("written");
    open(folder.path());
}

#[tokio::test]
async fn something_else_in_its_place_is_named_and_left_alone() {
    let folder = tempdir().expect("a folder");
    let db = rusqlite::Connection::open(folder.path().join("journal.db")).expect("a database");
    db.execute_batch("CREATE TABLE recipes (name TEXT)")
        .expect("made");
    let why = try_open(folder.path()).err().expect("refused").to_string();
    assert!(why.contains("meta"), "{why}");
    drop(db);
    std::fs::write(
        folder.path().join("journal.db"),
        "not a database, but long enough to look like one",
    )
    .expect("written");
    let why = try_open(folder.path()).err().expect("refused").to_string();
    assert!(why.contains("not a database"), "{why}");
}

#[tokio::test]
async fn a_version_far_ahead_moves_its_file_and_not_the_clock() {
    let folder = tempdir().expect("a folder");
    let journal = open(folder.path());
    intended(&journal, put("a"))
        .await
        .outcome(Outcome::Happened);
    let far = Version(wall_clock().0 + 2 * MAX_AHEAD.as_micros() as i64);
    let seq = entries(&journal).await[0].seq;
    journal
        .announce(vec![(seq, vec![announcement(file("a"), far, true)])])
        .await
        .expect("announced");
    let again = intended(&journal, put("a")).await;
    let second = again.version();
    assert!(second > far);
    again.outcome(Outcome::Happened);
    journal.close().await;

    let journal = open(folder.path());
    assert!(journal.clock().mark() < far, "the clock was poisoned");
    assert!(intended(&journal, put("b")).await.version() < far);
    assert_eq!(journal.standing(&file("a")).newest, Some(second));
    let third = intended(&journal, put("a")).await;
    assert!(third.version() > second);
    third.outcome(Outcome::DidNotHappen);

    // Nothing is left of it in the journal but what it must be above.
    let settled: Vec<_> = entries(&journal).await;
    let settled = settled.iter().map(|entry| (entry.seq, Vec::new()));
    journal.announce(settled.collect()).await.expect("settled");
    let ids = outbox(&journal).await.iter().map(|out| out.id).collect();
    journal.confirm(ids, false).await.expect("open");
    journal.close().await;
    let journal = open(folder.path());
    assert!(intended(&journal, put("a")).await.version() > second);
    assert!(intended(&journal, put("b")).await.version() < far);
}

#[tokio::test]
async fn what_arrived_from_far_ahead_is_remembered_until_the_clock_has_passed_it() {
    let folder = tempdir().expect("a folder");
    let far = Version(wall_clock().0 + 2 * MAX_AHEAD.as_micros() as i64);
    let journal = open(folder.path());
    assert!(!journal.clock().observe(far));
    for version in [far, Version(far.0 - 7), far] {
        journal
            .raise_floor(&file("a"), version)
            .await
            .expect("written");
    }
    journal
        .raise_floor(&file("old"), Version(wall_clock().0 - 1))
        .await
        .expect("written");
    journal.close().await;

    let journal = open(folder.path());
    assert_eq!(journal.standing(&file("a")), Default::default());
    let rename = Mutation::Rename {
        from: file("a"),
        to: file("c"),
    };
    let renamed = intended(&journal, rename).await;
    assert!(renamed.version() > far);
    renamed.outcome(Outcome::DidNotHappen);
    let at_c = intended(&journal, put("c")).await;
    assert!(at_c.version() > far, "the new name is as far ahead");
    at_c.outcome(Outcome::DidNotHappen);
    let at_b = intended(&journal, put("b")).await;
    assert!(at_b.version() < far, "the clock was poisoned");
    at_b.outcome(Outcome::DidNotHappen);
    journal.close().await;
    let floors = || {
        let db = rusqlite::Connection::open(folder.path().join("journal.db")).expect("a database");
        let mut select = db
            .prepare("SELECT key FROM floors ORDER BY key")
            .expect("a table");
        let found = select.query_map([], |row| row.get(0)).expect("read");
        found.collect::<Result<Vec<String>, _>>().expect("read")
    };
    assert_eq!(floors(), ["a", "c"]);

    // Time goes on.
    let db = rusqlite::Connection::open(folder.path().join("journal.db")).expect("a database");
    db.execute("UPDATE floors SET version = ?1", [wall_clock().0 - 1])
        .expect("written");
    drop(db);
    let journal = open(folder.path());
    assert!(intended(&journal, put("a")).await.version() < far);
    journal.close().await;
    assert_eq!(floors(), Vec::<String>::new());
}

#[tokio::test]
async fn a_clock_that_is_ahead_serves_clients_in_order() {
    let folder = tempdir().expect("a folder");
    open(folder.path()).close().await;
    let ahead = wall_clock().0 + 2 * MAX_AHEAD.as_micros() as i64;
    let db = rusqlite::Connection::open(folder.path().join("journal.db")).expect("a database");
    db.execute(
        "UPDATE meta SET value = ?1 WHERE name = 'clock_mark'",
        [ahead],
    )
    .expect("written");
    drop(db);
    let journal = open(folder.path());
    assert!(journal.writable().is_ok());
    assert!(journal.clock().ahead() > Some(MAX_AHEAD));
    let first = intended(&journal, put("a")).await;
    let second = intended(&journal, put("a")).await;
    assert!(first.version() > Version(ahead));
    assert!(second.version() > first.version());
}

#[tokio::test]
async fn one_that_is_dropped_is_lost_and_one_that_nobody_took_did_not_happen() {
    let folder = tempdir().expect("a folder");
    let journal = open(folder.path());
    let before = wall_clock().0;
    drop(intended(&journal, put("dropped")).await);
    until("a lost outcome", async || {
        let entries = entries(&journal).await;
        (entries[0].outcome == Some(Outcome::Lost), entries)
    })
    .await;
    let lost_at = entries(&journal).await[0].lost_at.expect("a time");
    assert!((before..=wall_clock().0).contains(&lost_at));
    assert!(journal.standing(&file("dropped")).open);

    let locks = KeyLocks::default();
    for n in 0..50 {
        let name = format!("gone {n}");
        let guard = locks.lock(&[&file(&name)], Duration::from_secs(9)).await;
        let asked = journal.intend(&guard, By::Client, put(&name));
        // Gone after having asked: sometimes before, sometimes after the writer has taken it.
        let _gone = tokio::time::timeout(Duration::from_micros(n * 20), asked)
            .await
            .map(|taken| taken.expect("written").outcome(Outcome::DidNotHappen));
    }
    until("only the lost one", async || {
        (journal.depth().entries == 1, journal.depth())
    })
    .await;
    assert_memory_agrees(&journal).await;
}

#[tokio::test]
async fn what_was_under_way_at_a_kill_is_lost_from_the_start_on() {
    let (folder, copied) = (tempdir().expect("a folder"), tempdir().expect("a folder"));
    let journal = open(folder.path());
    let under_way = intended(&journal, put("a")).await;
    assert_eq!(entries(&journal).await[0].outcome, None);
    let copied = copied.path().join("killed");
    copy(folder.path(), &copied);
    let before = wall_clock().0;
    let killed = open(&copied);
    let entry = &entries(&killed).await[0];
    assert_eq!(
        (entry.version, entry.outcome),
        (under_way.version(), Some(Outcome::Lost))
    );
    assert!(entry.lost_at >= Some(before));
    assert_eq!(killed.depth().oldest_open, Some(entry.version));
    // A loss in the future, as a wrong clock may have written it, would never become quiet.
    killed.close().await;
    let db = rusqlite::Connection::open(copied.join("journal.db")).expect("a database");
    db.execute("UPDATE entries SET lost_at = lost_at + 1000000000000", [])
        .expect("written");
    let again = open(&copied);
    assert!(entries(&again).await[0].lost_at <= Some(wall_clock().0));
}

#[tokio::test]
async fn an_outcome_is_written_no_later_than_the_next_intent_of_its_key() {
    let folder = tempdir().expect("a folder");
    let journal = open(folder.path());
    let db = rusqlite::Connection::open(folder.path().join("journal.db")).expect("a database");
    let mut last: Option<Version> = None;
    for _ in 0..100 {
        let intent = intended(&journal, put("a")).await;
        if let Some(last) = last {
            let outcome: Option<String> = db
                .query_row(
                    "SELECT outcome FROM entries WHERE version = ?1",
                    [last.0],
                    |row| row.get(0),
                )
                .expect("a row");
            assert_eq!(outcome.as_deref(), Some("happened"));
            assert!(intent.version() > last);
        }
        last = Some(intent.version());
        intent.outcome(Outcome::Happened);
    }
}

#[tokio::test]
async fn what_is_learned_of_the_bytes_is_added() {
    let folder = tempdir().expect("a folder");
    let journal = open(folder.path());
    let known = Details {
        class: Some(Class::from_bytes(b"thumbs")),
        size: None,
        checksum: Some(Checksum::md5(&[1; 16])),
    };
    let mutation = Mutation::Put {
        file: file("a"),
        fid: None,
        details: known.clone(),
    };
    let intent = intended(&journal, mutation).await;
    intent.happened_with(Details {
        class: None,
        size: Some(12),
        checksum: Some(Checksum::md5(&[2; 16])),
    });
    intended(&journal, Mutation::Delete { file: file("b") })
        .await
        .happened_with(known.clone());
    until("outcomes", async || {
        (journal.depth().open == 0, journal.depth())
    })
    .await;
    let both = entries(&journal).await;
    let expected = Details {
        size: Some(12),
        checksum: Some(Checksum::md5(&[2; 16])),
        ..known
    };
    assert_eq!(
        both[0].mutation,
        Mutation::Put {
            file: file("a"),
            fid: None,
            details: expected
        }
    );
    assert_eq!(both[1].mutation, Mutation::Delete { file: file("b") });
    let bytes = journal.depth().bytes;
    journal.close().await;
    assert_eq!(
        open(folder.path()).depth().bytes,
        bytes,
        "counted one by one, and anew"
    );
}

#[tokio::test]
async fn announcements_take_the_place_of_their_entry_once() {
    let folder = tempdir().expect("a folder");
    let journal = open(folder.path());
    let rename = Mutation::Rename {
        from: file("a"),
        to: file("b"),
    };
    let intent = intended(&journal, rename).await;
    let version = intent.version();
    intent.outcome(Outcome::Happened);
    intended(&journal, put("c"))
        .await
        .outcome(Outcome::Happened);
    let both = entries(&journal).await;
    let settled = vec![
        (
            both[0].seq,
            vec![
                announcement(file("b"), version, true),
                announcement(file("a"), version, true),
            ],
        ),
        (
            both[1].seq,
            vec![announcement(file("c"), both[1].version, false)],
        ),
    ];
    journal.announce(settled.clone()).await.expect("announced");
    journal.announce(settled).await.expect("harmless");
    let out = outbox(&journal).await;
    assert_eq!(
        out.iter().map(|out| out.number).collect::<Vec<_>>(),
        [Some(1), Some(2), None]
    );
    assert_eq!(out[0].announcement, announcement(file("b"), version, true));
    assert!(entries(&journal).await.is_empty());
    assert_eq!(journal.last_number(), 2);
    assert_memory_agrees(&journal).await;

    // Confirmed ones are not read again, even while their rows are still there.
    journal
        .confirm(vec![out[0].id, out[1].id], false)
        .await
        .expect("confirmed");
    journal
        .confirm(vec![out[0].id], false)
        .await
        .expect("harmless");
    assert_eq!(journal.outgoing(0, 1).await.expect("readable"), &out[2..]);
    assert_eq!(journal.outgoing_of(&file("a")).await.expect("readable"), []);
    until("one row", async || {
        (journal.depth().entries == 1, journal.depth())
    })
    .await;
    assert_memory_agrees(&journal).await;
}

#[tokio::test]
async fn an_outcome_wakes_whoever_waits_for_work() {
    let folder = tempdir().expect("a folder");
    let journal = open(folder.path());
    let intent = intended(&journal, put("a")).await;
    let waiting = journal.clone();
    let waiter = tokio::spawn(async move { waiting.wait_for_work(Duration::from_secs(600)).await });
    tokio::task::yield_now().await;
    intent.outcome(Outcome::Happened);
    tokio::time::timeout(Duration::from_secs(30), waiter)
        .await
        .expect("woken")
        .expect("no panic");
    // One that comes later finds that it was rung for.
    intended(&journal, put("b"))
        .await
        .outcome(Outcome::Happened);
    until("written", async || {
        (journal.depth().open == 0, journal.depth())
    })
    .await;
    tokio::time::timeout(
        Duration::from_secs(30),
        journal.wait_for_work(Duration::from_secs(600)),
    )
    .await
    .expect("woken");
}

#[tokio::test]
async fn a_full_journal_refuses_intents_and_nothing_else() {
    let folder = tempdir().expect("a folder");
    let (datacenter, node) = (
        "ma01".parse().expect("a name"),
        "node1".parse().expect("a name"),
    );
    let small = JournalConfig {
        max_size: 4_000,
        ..config(folder.path())
    };
    let journal = Journal::open(&small, &datacenter, &node).expect("opens");
    let mut held = Vec::new();
    let bytes = loop {
        match intend(&journal, put(&format!("{:04}", held.len()))).await {
            Ok(intent) => held.push(intent),
            Err(Refused::Full { bytes }) => break bytes,
            Err(other) => panic!("{other}"),
        }
        assert!(held.len() < 100);
    };
    assert!((4_000..4_300).contains(&bytes), "{bytes}");
    assert!(matches!(journal.writable(), Err(Refused::Full { .. })));
    let count = held.len() as u64;
    held.into_iter()
        .for_each(|intent| intent.outcome(Outcome::Happened));
    until("outcomes", async || {
        (journal.depth().open == 0, journal.depth())
    })
    .await;
    assert_eq!(journal.depth().entries, count);
    let settled = entries(&journal).await;
    let settled = settled.iter().map(|e| {
        (
            e.seq,
            vec![announcement(e.mutation.files()[0].clone(), e.version, true)],
        )
    });
    journal
        .announce(settled.collect())
        .await
        .expect("never refused");
    assert!(matches!(
        intend(&journal, put("x")).await,
        Err(Refused::Full { .. })
    ));
    let ids = outbox(&journal)
        .await
        .into_iter()
        .map(|out| out.id)
        .collect();
    journal.confirm(ids, false).await.expect("never refused");
    until("room", async || {
        (journal.depth().bytes == 0, journal.depth())
    })
    .await;
    journal.writable().expect("there is room");
    intended(&journal, put("x"))
        .await
        .outcome(Outcome::Happened);
}

#[tokio::test]
async fn a_closed_journal_refuses_and_what_was_handed_in_is_there() {
    let folder = tempdir().expect("a folder");
    let journal = open(folder.path());
    let clone = journal.clone();
    let late = intended(&journal, put("late")).await;
    intended(&journal, put("a"))
        .await
        .outcome(Outcome::Happened);
    journal.close().await;
    let why = intend(&clone, put("b"))
        .await
        .err()
        .expect("refused")
        .to_string();
    assert!(why.contains("closed"), "{why}");
    assert!(clone.announce(vec![]).await.is_err() && clone.writable().is_err());
    late.outcome(Outcome::Happened);
    clone.clone().close().await;
    drop(clone);

    // Dropped without a close: the same, a little later.
    let journal = open(folder.path());
    let found = entries(&journal).await;
    let outcomes: Vec<_> = found.iter().map(|entry| entry.outcome).collect();
    assert_eq!(outcomes, [Some(Outcome::Lost), Some(Outcome::Happened)]);
    intended(&journal, put("c"))
        .await
        .outcome(Outcome::Happened);
    drop(journal);
    let journal = open(folder.path());
    assert_eq!(entries(&journal).await[2].outcome, Some(Outcome::Happened));
}

#[tokio::test]
async fn a_rename_stays_in_its_domain() {
    let folder = tempdir().expect("a folder");
    let journal = open(folder.path());
    let to = phylactery::file::FileName::from_bytes(b"other", b"a");
    assert!(
        intend(
            &journal,
            Mutation::Rename {
                from: file("a"),
                to
            }
        )
        .await
        .is_err()
    );
    assert_eq!(journal.depth(), Default::default());
}

/// Any mutation at all, keys of any bytes.
fn any_mutation(chance: &mut StdRng) -> (By, Mutation) {
    let name = |chance: &mut StdRng| {
        let odd = chance.random_ratio(1, 20);
        let length = if odd { chance.random_range(0..40) } else { 1 };
        let key: Vec<u8> = (0..length)
            .map(|_| {
                if odd {
                    chance.random()
                } else {
                    chance.random_range(b'a'..=b'e')
                }
            })
            .collect();
        phylactery::file::FileName::from_bytes(b"photos", &key)
    };
    let class = Class::from_bytes(&[chance.random()]);
    let mutation = match chance.random_range(0..5) {
        0 | 1 => Mutation::Put {
            file: name(chance),
            fid: chance.random_bool(0.8).then(|| Fid(chance.random())),
            details: Details {
                class: chance.random_bool(0.5).then_some(class),
                size: chance.random_bool(0.5).then(|| chance.random()),
                checksum: chance
                    .random_bool(0.5)
                    .then(|| Checksum::md5(&chance.random::<[u8; 16]>())),
            },
        },
        2 => Mutation::Delete { file: name(chance) },
        3 => Mutation::Rename {
            from: name(chance),
            to: name(chance),
        },
        _ => Mutation::SetClass {
            file: name(chance),
            class,
        },
    };
    let by = match chance.random_range(0..4) {
        0 => By::Repair { content: None },
        1 => By::Repair {
            content: Some(Content {
                version: Version(chance.random()),
                origin: "tx01".parse().expect("a name"),
                node: "node9".parse().expect("a name"),
            }),
        },
        _ => By::Client,
    };
    (by, mutation)
}

#[tokio::test]
async fn memory_and_tables_agree_after_a_random_life() {
    let mut chance = StdRng::seed_from_u64(seed());
    let folder = tempdir().expect("a folder");
    let mut journal = open(folder.path());
    let mut expected = BTreeMap::new();
    let mut under_way = Vec::new();
    let mut last = Version::default();
    for step in 0..1500 {
        match chance.random_range(0..100) {
            0..50 => {
                let (by, mutation) = any_mutation(&mut chance);
                let locks = KeyLocks::default();
                let guard = locks.lock(&mutation.files(), Duration::from_secs(9)).await;
                let intent = journal
                    .intend(&guard, by.clone(), mutation.clone())
                    .await
                    .expect("written");
                assert!(intent.version() > last, "stamped backwards");
                last = intent.version();
                expected.insert(intent.version(), (by, mutation));
                under_way.push(intent);
            }
            50..85 if !under_way.is_empty() => {
                let intent = under_way.swap_remove(chance.random_range(0..under_way.len()));
                match chance.random_range(0..6) {
                    0 => drop(intent),
                    1 => intent.outcome(Outcome::Doubtful),
                    2 => {
                        expected.remove(&intent.version());
                        intent.outcome(Outcome::DidNotHappen);
                    }
                    _ => intent.outcome(Outcome::Happened),
                }
            }
            85..93 => {
                let entries = entries(&journal).await;
                let some: Vec<_> = entries.iter().filter(|_| chance.random_bool(0.2)).collect();
                let mut settled = Vec::new();
                for entry in some {
                    if under_way
                        .iter()
                        .any(|intent| intent.version() == entry.version)
                    {
                        continue;
                    }
                    expected.remove(&entry.version);
                    let files = entry.mutation.files().into_iter().cloned();
                    let say = files
                        .filter(|_| chance.random_bool(0.8))
                        .map(|file| announcement(file, entry.version, true));
                    settled.push((entry.seq, say.collect()));
                }
                journal.announce(settled).await.expect("announced");
            }
            93..99 => {
                let out = outbox(&journal).await;
                let ids = out
                    .iter()
                    .filter(|_| chance.random_bool(0.3))
                    .map(|out| out.id);
                journal
                    .confirm(ids.collect(), false)
                    .await
                    .expect("confirmed");
            }
            _ => {
                for intent in under_way.drain(..) {
                    drop(intent);
                }
                let bytes_before = {
                    until("rest", async || {
                        let unknown = entries(&journal)
                            .await
                            .iter()
                            .filter(|e| e.outcome.is_none())
                            .count();
                        (unknown == 0, unknown)
                    })
                    .await;
                    journal.depth().bytes
                };
                let mark = journal.clock().mark();
                journal.close().await;
                journal = open(folder.path());
                assert!(journal.clock().mark() >= last.min(mark), "step {step}");
                assert!(journal.depth().bytes <= bytes_before);
                assert_memory_agrees(&journal).await;
            }
        }
    }
    drop(under_way);
    until("rest", async || {
        let unknown = entries(&journal)
            .await
            .iter()
            .filter(|e| e.outcome.is_none())
            .count();
        (
            unknown == 0
                && journal.depth().entries as usize
                    == entries(&journal).await.len() + outbox(&journal).await.len(),
            unknown,
        )
    })
    .await;
    let found: BTreeMap<_, _> = entries(&journal)
        .await
        .into_iter()
        .map(|e| (e.version, (e.by, e.mutation)))
        .collect();
    assert_eq!(found, expected);
    assert_memory_agrees(&journal).await;
}

#[tokio::test]
async fn a_new_stream_numbers_anew_what_has_yet_to_be_told() {
    let folder = tempdir().expect("a folder");
    let journal = open(folder.path());
    let old = journal.stream();
    let mut versions = Vec::new();
    for (n, key) in ["a", "b", "c", "d"].into_iter().enumerate() {
        let intent = intended(&journal, put(key)).await;
        let version = intent.version();
        intent.outcome(Outcome::Happened);
        let seq = entries(&journal).await[0].seq;
        // One of them is of this datacenter alone, and takes no number.
        let say = announcement(file(key), version, n != 2);
        journal
            .announce(vec![(seq, vec![say])])
            .await
            .expect("announced");
        versions.push(version);
    }
    assert_eq!(journal.last_number(), 3);
    let told = outbox(&journal).await[0].id;
    // A round of delivery under way keeps its stream to the end.
    let round = journal.delivery().await;
    let beginning = tokio::spawn({
        let journal = journal.clone();
        async move { journal.begin_stream("since then".to_owned()).await }
    });
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    assert_eq!(*round.stream(), *old);
    assert_eq!(journal.stream(), old);
    // The ledger has the first, and its row is still there.
    journal.confirm(vec![told], false).await.expect("confirmed");
    drop(round);
    beginning.await.expect("no panic").expect("written");

    let new = journal.stream();
    assert_ne!(new.incarnation, old.incarnation);
    let numbers = async |journal: &phylactery::journal::Journal| -> Vec<_> {
        let waiting = outbox(journal).await;
        waiting
            .into_iter()
            .map(|out| (out.announcement.version, out.number))
            .collect()
    };
    let expected = [
        (versions[1], Some(1)),
        (versions[2], None),
        (versions[3], Some(2)),
    ];
    assert_eq!(numbers(&journal).await, expected);
    assert_eq!(journal.last_number(), 2);
    assert_eq!(journal.delivered_number().await.expect("readable"), 0);
    let mark = journal.clock().mark();
    journal.close().await;

    let journal = open(folder.path());
    assert_eq!(journal.stream(), new);
    assert_eq!(journal.last_number(), 2);
    assert!(
        journal.clock().mark() >= mark,
        "what was remembered carries the clock"
    );
    assert_eq!(numbers(&journal).await, expected);
    let remembered = journal.remembered().await.expect("readable");
    assert_eq!(remembered.as_deref(), Some("since then"));
}
