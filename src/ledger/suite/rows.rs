//! Gaps, and the rows of which the last word counts.

use std::collections::BTreeSet;
use std::sync::Arc;

use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::{datacenter, file, gap, stream};
use crate::file::{Cell, Class, Domain};
use crate::ledger::{
    Cursor, DatacenterRecord, Expected, Gap, Ledger, MemberState, Membership, NodeRecord,
    Placement, Strength,
};
use crate::version::Version;

pub(super) async fn gap_life(ledger: Arc<dyn Ledger>) {
    let (here, there) = (datacenter("ma01"), datacenter("tx01"));
    let name = file("gap");
    let set = async |gap: &Gap| ledger.set_gap(&here, gap).await.unwrap();
    let clear = async |at| ledger.clear_gap(&here, &name, Version(at)).await.unwrap();
    let read = async || ledger.gap(&here, &name).await.unwrap();

    let first = gap("gap", 10, 100);
    set(&first).await;
    set(&first).await;
    assert_eq!(read().await, Some(first.clone()));
    assert_eq!(ledger.count_gaps(&here).await.unwrap(), 1);
    let oldest = async || ledger.oldest_gap(&here).await.unwrap();
    assert_eq!(oldest().await, Some(first.since));
    assert_eq!(ledger.oldest_gap(&there).await.unwrap(), None);
    assert_eq!(ledger.gap(&there, &name).await.unwrap(), None);
    assert_eq!(ledger.count_gaps(&there).await.unwrap(), 0);
    let second = Gap {
        attempts: 3,
        last_error: "500".to_owned(),
        expected: Expected {
            head_by: None,
            head: None,
            class: Some(Version(7)),
        },
        ..gap("gap", 20, 200)
    };
    set(&second).await;
    set(&first).await;
    assert_eq!(read().await, Some(second.clone()), "an older word won");
    clear(19).await;
    assert_eq!(read().await, Some(second.clone()), "an older clearing won");
    clear(20).await;
    assert_eq!(read().await, None);
    assert_eq!(ledger.count_gaps(&here).await.unwrap(), 0);
    assert_eq!(oldest().await, None, "of a gap that was cleared");
    let due = ledger.gaps(&here, Version(i64::MAX), 10).await.unwrap();
    assert_eq!(due, vec![]);
    set(&second).await;
    set(&first).await;
    assert_eq!(read().await, None, "a late word brought a gap back");
    set(&gap("gap", 21, 300)).await;
    assert_eq!(read().await, Some(gap("gap", 21, 300)), "a new gap");

    // Cleared before it was ever set.
    let early = file("early");
    ledger.clear_gap(&here, &early, Version(50)).await.unwrap();
    set(&gap("early", 50, 1)).await;
    assert_eq!(ledger.gap(&here, &early).await.unwrap(), None);
    assert_eq!(ledger.count_gaps(&here).await.unwrap(), 1);
    set(&gap("early", 51, 1)).await;
    assert_eq!(ledger.count_gaps(&here).await.unwrap(), 2);

    let since = |name: &str, since, observed| Gap {
        since: Version(since),
        ..gap(name, observed, 1)
    };
    let oldest = async || ledger.oldest_gap(&there).await.unwrap();
    for gap in [since("young", 7, 60), since("old", 3, 60)] {
        ledger.set_gap(&there, &gap).await.unwrap();
        // Tried again, it is as old as before.
        let again = Gap {
            observed: Version(70),
            attempts: 9,
            ..gap.clone()
        };
        ledger.set_gap(&there, &again).await.unwrap();
        assert_eq!(oldest().await, Some(gap.since));
    }
    let (old, young) = (file("old"), file("young"));
    ledger.clear_gap(&there, &old, Version(80)).await.unwrap();
    assert_eq!(oldest().await, Some(Version(7)));
    ledger.clear_gap(&there, &young, Version(80)).await.unwrap();
    assert_eq!(oldest().await, None);
}

pub(super) async fn gaps_any_order(ledger: Arc<dyn Ledger>, mut rng: StdRng) {
    let here = datacenter("ma01");
    for n in 0..30 {
        let name = format!("any/{n}");
        let mut words: Vec<(i64, Option<Gap>)> = Vec::new();
        for _ in 0..8 {
            let at = rng.random_range(1..6);
            let set = rng.random_bool(0.7);
            words.push((at, set.then(|| gap(&name, at, rng.random_range(1..9)))));
        }
        let cleared = words.iter().filter(|w| w.1.is_none()).map(|w| w.0).max();
        let mut wanted: Option<Gap> = None;
        for word in words.iter().filter_map(|word| word.1.as_ref()) {
            let lives = cleared.is_none_or(|at| word.observed.0 > at);
            if lives && wanted.as_ref().is_none_or(|held| word.wins_over(held)) {
                wanted = Some(word.clone());
            }
        }
        for _ in 0..2 {
            words.shuffle(&mut rng);
            for (at, word) in &words {
                match word {
                    Some(gap) => ledger.set_gap(&here, gap).await,
                    None => ledger.clear_gap(&here, &file(&name), Version(*at)).await,
                }
                .unwrap();
            }
            let held = ledger.gap(&here, &file(&name)).await.unwrap();
            assert_eq!(held, wanted, "of {words:?}");
        }
    }
}

pub(super) async fn gaps_due(ledger: Arc<dyn Ledger>, mut rng: StdRng) {
    let (here, there) = (datacenter("ma01"), datacenter("tx01"));
    let mut all: Vec<_> = (0..50)
        .map(|n| gap(&format!("due/{n}"), 5, 100 + n))
        .collect();
    all.shuffle(&mut rng);
    for gap in &all {
        ledger.set_gap(&here, gap).await.unwrap();
    }
    let elsewhere = gap("due/elsewhere", 5, 1);
    ledger.set_gap(&there, &elsewhere).await.unwrap();
    assert_eq!(ledger.count_gaps(&here).await.unwrap(), 50);
    assert_eq!(ledger.count_gaps(&there).await.unwrap(), 1);

    all.sort_by_key(|gap| gap.next_try);
    let due = async |at, limit| ledger.gaps(&here, Version(at), limit).await.unwrap();
    assert_eq!(due(99, 100).await, vec![]);
    assert_eq!(due(109, 100).await, all[..10]);
    assert_eq!(due(i64::MAX, 7).await, all[..7]);
    // Put off, or cleared, it makes room for the next.
    let later = gap("due/0", 6, 1000);
    ledger.set_gap(&here, &later).await.unwrap();
    ledger
        .clear_gap(&here, &file("due/1"), Version(5))
        .await
        .unwrap();
    assert_eq!(due(109, 3).await, all[2..5]);
    assert_eq!(due(i64::MAX, 100).await.last(), Some(&later));
    assert_eq!(ledger.count_gaps(&here).await.unwrap(), 49);
}

pub(super) async fn last_word(ledger: Arc<dyn Ledger>, mut rng: StdRng) {
    let here = datacenter("ma01");

    let node = |heartbeat, last_number| NodeRecord {
        stream: stream("01"),
        last_number,
        delivered: last_number / 2,
        oldest_undelivered: Some(Version(3)),
        oldest_open: None,
        clock_mark: Version(9),
        heartbeat: Version(heartbeat),
        generation: 4,
    };
    let mut words = vec![node(1, 10), node(3, 30), node(2, 999), node(3, 29)];
    words.push(node(3, 30));
    words.shuffle(&mut rng);
    for word in &words {
        ledger.set_node(word).await.unwrap();
    }
    assert_eq!(ledger.nodes().await.unwrap(), vec![node(3, 30)]);
    // Another life of the same node is another row.
    let reborn = NodeRecord {
        stream: stream("02"),
        ..node(1, 1)
    };
    ledger.set_node(&reborn).await.unwrap();
    let nodes = ledger.nodes().await.unwrap();
    assert_eq!((nodes.len(), nodes.contains(&reborn)), (2, true));

    let site = |name, updated, api: Option<&str>| DatacenterRecord {
        name: datacenter(name),
        trackers: vec!["127.0.0.1:7001".to_owned(), "[::1]:7001".to_owned()],
        storage_hosts: BTreeSet::from(["127.0.0.1:7500".to_owned()]),
        api: api.map(str::to_owned),
        updated: Version(updated),
    };
    let mut words = vec![
        site("tx01", 1, None),
        site("ma01", 1, None),
        site("ma01", 2, Some("http://ma01")),
        site("tx01", 1, Some("http://tx01")),
    ];
    words.shuffle(&mut rng);
    for word in &words {
        ledger.set_datacenter(word).await.unwrap();
    }
    let sites = ledger.datacenters().await.unwrap();
    let latest = vec![site("ma01", 2, Some("http://ma01")), site("tx01", 1, None)];
    assert_eq!(sites, latest);

    // What an operator says stands beside it, also of one that has not registered itself.
    assert_eq!(ledger.memberships().await.unwrap(), vec![]);
    let said = |name, updated, state, seeded| Membership {
        name: datacenter(name),
        state,
        seeded: Some(Version(seeded)),
        rejoined: (updated > 1).then_some(Version(7)),
        updated: Version(updated),
    };
    let mut words = [
        said("tx01", 1, MemberState::Paused, 3),
        said("or01", 4, MemberState::Removed, i64::MIN),
        said("or01", 3, MemberState::Leaving, 9),
        said("tx01", 2, MemberState::Active, -1),
    ];
    words.shuffle(&mut rng);
    for (n, word) in words.iter().enumerate() {
        let strength = [Strength::Local, Strength::Each][n % 2];
        ledger.set_membership(word, strength).await.unwrap();
    }
    let latest = vec![
        said("or01", 4, MemberState::Removed, i64::MIN),
        said("tx01", 2, MemberState::Active, -1),
    ];
    assert_eq!(ledger.memberships().await.unwrap(), latest);
    assert_eq!(ledger.datacenters().await.unwrap(), sites);

    let placement = |class: Option<&str>, updated, at: &[&str]| Placement {
        domain: Domain::from_escaped("photos"),
        class: class.map(Class::from_escaped),
        datacenters: at.iter().map(|name| datacenter(name)).collect(),
        lag_goal_seconds: None,
        remove_extra: updated % 2 == 1,
        updated: Version(updated),
    };
    let mut words = vec![
        placement(None, 5, &["ma01", "tx01"]),
        placement(None, 4, &["ma01"]),
        placement(Some("thumbs"), 3, &[]),
        placement(Some("thumbs"), 2, &["tx01"]),
    ];
    words.shuffle(&mut rng);
    for word in &words {
        let setting = ledger.set_placement(word, Strength::Local);
        setting.await.unwrap();
    }
    let mut placements = ledger.placements().await.unwrap();
    placements.sort_by_key(|placement| placement.class.clone());
    let with_goal = Placement {
        lag_goal_seconds: Some(300),
        ..placement(Some("raw"), 9, &["ma01"])
    };
    let setting = ledger.set_placement(&with_goal, Strength::Local);
    setting.await.unwrap();
    let read = ledger.placements().await.unwrap();
    let read = read.into_iter().find(|row| row.class == with_goal.class);
    assert_eq!(read, Some(with_goal));
    assert_eq!(
        placements,
        vec![
            placement(None, 5, &["ma01", "tx01"]),
            placement(Some("thumbs"), 3, &[])
        ]
    );

    let cursor = |name: &str, updated, number, note: &str| Cursor {
        name: name.to_owned(),
        number,
        note: note.to_owned(),
        updated: Version(updated),
    };
    let name = stream("01").to_string();
    let mut words = vec![
        cursor(&name, 1, 900, ""),
        cursor(&name, 7, 10, "z"),
        cursor(&name, 7, 11, "a"), // of two of one time the one that stands further
        cursor("scan", 7, 3, "page"),
    ];
    words.shuffle(&mut rng);
    for word in &words {
        ledger.set_cursor(&here, word).await.unwrap();
    }
    let read = async |name: &str| ledger.cursor(&here, name).await.unwrap();
    assert_eq!(read(&name).await, Some(cursor(&name, 7, 11, "a")));
    assert_eq!(read("scan").await, Some(cursor("scan", 7, 3, "page")));
    // A later word may step back: that is for whoever says it to answer.
    let back = cursor(&name, 8, 2, "");
    ledger.set_cursor(&here, &back).await.unwrap();
    assert_eq!(read(&name).await, Some(back));
    let other = ledger.cursor(&datacenter("tx01"), &name).await.unwrap();
    assert_eq!(other, None);
}
