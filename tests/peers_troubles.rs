//! What users of other replicators suffered, row by row of the table in the design, and the test that it does not happen here.
//!
//! | what happened to them | tests |
//! | --- | --- |
//! | the target was down, the log position moved on, the files never came | [`the_target_was_down_while_the_log_moved_on`] |
//! | one bad entry stopped the stream, or sent it back to the start | `repair_cursors`: `poison_is_parked_and_the_rest_goes_on`, `a_cursor_stands_before_a_hole_and_what_lies_beyond_is_done` |
//! | a replica with the right headers and an empty body | `repair_sources`: `bad_answers_are_never_closed_and_the_good_one_is`; `three_sites` |
//! | stuck as failed for good after a ten-minute outage | [`stuck_as_failed_after_a_ten_minute_outage`] |
//! | "caught up" or "0 objects behind" while it was not so | [`no_objects_behind_is_said_only_when_it_was_proved`]; `repair_cursors`: `a_scan_proves_nothing_while_a_datacenter_of_the_ledger_is_away` |
//! | deleted objects came back | [`deleted_objects_do_not_come_back`]; `conflicts`: all rows with a delete; `repair_converges`: `a_file_deleted_long_ago_is_forgotten_once_everybody_has_looked_since` |
//! | replication starved the traffic of users | `faults`: `a_client_that_wants_a_key_does_not_wait_for_its_copy`; `repair_cursors`: `repair_gives_way_to_a_client` |
//! | nobody could list which objects lag, or why this one is not here | [`which_objects_lag_and_why_is_listed`]; `repair_explain`: each reason |
//! | no lag goal | `repair_lag`: all of it |
//! | a proxy and its server disagreed on where a line ends | `protocol/tests/facts`: `a_line_ends_with_lf_and_one_cr_before_it_is_dropped`, `a_built_request_is_one_line_whatever_is_put_in`; `proxy_requests`: `lines_go_on_as_they_came` |
//! | a fetcher followed a URL that it was given | `repair_sources`: `paths_that_may_not_be_fetched_are_not` |
//! | CQL was built with string formatting | none is: `src/ledger/cassandra/statements.rs` prepares all there are; `cassandra::ties` and the suite put any bytes into every column |

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod repair_sites;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use phylactery::config::RepairConfig;
use phylactery::ledger::{Ledger, Placement, Strength};
use phylactery::version::{Version, wall_clock};
use repair_sites::{Flaky, Http, Played, Site, bytes, dc, file, repair_config, until};
use tempfile::TempDir;

async fn two_as(config: impl Fn() -> RepairConfig) -> (TempDir, std::sync::Arc<Flaky>, Site, Site) {
    let home = tempfile::tempdir().unwrap();
    let ledger = Flaky::open(home.path());
    let mut ma = Site::new("ma01", home.path(), &ledger).await;
    let mut tx = Site::new("tx01", home.path(), &ledger).await;
    ma.start(Some(config()));
    tx.start(Some(config()));
    (home, ledger, ma, tx)
}

/// How far `site` has read the stream of another.
async fn passed(site: &Site, other: &Site) -> Result<(), String> {
    if other.running().journal.depth().entries > 0 {
        return Err(format!("{} has not told all", other.name));
    }
    let stream = other.running().journal.stream().to_string();
    let last = other.running().journal.last_number();
    let cursor = site.ledger.cursor(&site.name, &stream).await.unwrap();
    match cursor.map_or(0, |cursor| cursor.number) {
        at if at == last => Ok(()),
        at => Err(format!("{at} of {last}")),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_target_was_down_while_the_log_moved_on() {
    const FILES: u64 = 40;
    let (_home, ledger, ma, mut tx) = two_as(repair_config).await;
    ma.put("before", None, b"before").await;
    tx.comes("before", b"before").await;
    tx.stop_tracker().await;
    for n in 0..FILES {
        ma.put(&format!("k{n}"), None, &bytes(n, 500)).await;
    }
    ma.delete("before").await;
    // The log moves on: what could not be done is parked, each by its name.
    until("the cursor is at the end", async || passed(&tx, &ma).await).await;
    let gaps = ledger
        .gaps(&tx.name, Version(i64::MAX), 1_000)
        .await
        .unwrap();
    for n in 0..FILES {
        let name = file(&format!("k{n}"));
        assert!(
            gaps.iter().any(|gap| gap.file == name),
            "{name} is passed and not parked"
        );
    }
    assert_eq!(ledger.count_gaps(&tx.name).await.unwrap(), FILES + 1);
    // The position is on disk, and all that it has passed as well.
    tx.kill().await;
    tx.start_tracker().await;
    tx.start(Some(repair_config()));
    for n in 0..FILES {
        tx.comes(&format!("k{n}"), &bytes(n, 500)).await;
    }
    tx.goes("before").await;
    tx.no_gaps().await;
}

/// A hundred times as fast: what is six seconds here is ten minutes there, and the longest pause of an hour 36 s.
#[tokio::test(flavor = "multi_thread")]
async fn stuck_as_failed_after_a_ten_minute_outage() {
    const OUTAGE: Duration = Duration::from_secs(6);
    const FILES: u64 = 30;
    let config = || RepairConfig {
        retry_first: Duration::from_millis(20),
        retry_most: Duration::from_secs(36),
        ..repair_config()
    };
    let (_home, ledger, mut ma, mut tx) = two_as(config).await;
    for n in 0..FILES {
        ma.put(&format!("old {n}"), None, &bytes(n, 300)).await;
    }
    tx.comes(&format!("old {}", FILES - 1), &bytes(FILES - 1, 300))
        .await;
    // The source is unreachable, and so is the target, in turn; files are overwritten in between, again and again.
    let began = Instant::now();
    let mut turn = 0;
    tx.stop_tracker().await;
    while began.elapsed() < OUTAGE {
        for n in 0..FILES {
            ma.put(&format!("new {n}"), None, &bytes(turn * 1_000 + n, 300))
                .await;
        }
        turn += 1;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    tx.start_tracker().await;
    ma.stop_tracker().await;
    tokio::time::sleep(OUTAGE).await;
    assert!(
        ledger.count_gaps(&tx.name).await.unwrap() > 0,
        "it was an outage"
    );
    ma.start_tracker().await;
    let back = Instant::now();
    for n in 0..FILES {
        tx.comes(&format!("new {n}"), &bytes((turn - 1) * 1_000 + n, 300))
            .await;
    }
    tx.no_gaps().await;
    // Not only some day: never much longer than it was away, though some have failed a dozen times.
    assert!(
        back.elapsed() < 4 * OUTAGE,
        "after an outage of {:?} it took {:?}",
        2 * OUTAGE,
        back.elapsed()
    );
}

/// Whenever it says that all up to a moment is here or parked, and nothing is parked, it is so: with clients at work, and
/// ledger and processes that come and go.
#[tokio::test(flavor = "multi_thread")]
async fn no_objects_behind_is_said_only_when_it_was_proved() {
    let (_home, ledger, ma, mut tx) = two_as(repair_config).await;
    let mut stored: BTreeMap<String, Version> = BTreeMap::new();
    let mut proofs = 0;
    for n in 0..120_u64 {
        let key = format!("k{n}");
        ma.put(&key, None, &bytes(n, 200)).await;
        stored.insert(key, wall_clock());
        match n % 30 {
            9 => ledger.set_away(true),
            14 => ledger.set_away(false),
            20 => {
                tx.kill().await;
                tx.start(Some(repair_config()));
            }
            25 => tx.stop_tracker().await,
            29 => tx.start_tracker().await,
            _ => {}
        }
        // Now and then clients rest, so that there is a chance to be in sync.
        let looks = if n % 10 == 5 { 60 } else { 1 };
        for _ in 0..looks {
            tokio::time::sleep(Duration::from_millis(20)).await;
            // As the API does it: what is proved first, that all is told, then the gaps.
            let Some(proved) = tx.repair().caught_up() else {
                continue;
            };
            if tx.running().journal.depth().entries > 0 {
                continue;
            }
            let Ok(0) = ledger.count_gaps(&tx.name).await else {
                continue;
            };
            for (key, at) in stored.iter().filter(|(_, at)| **at < proved) {
                let record = tx.record(key).await;
                assert!(
                    ledger.away.load(Ordering::SeqCst) || record.is_whole_in(&tx.name, true),
                    "said to be in sync as of {proved}, and {key} of {at} is not here: {record:#?}"
                );
                proofs += 1;
            }
        }
    }
    assert!(proofs > 0, "it never said so, which proves nothing");
    // And when all is over it is said.
    let end = wall_clock();
    until("it is proved", async || {
        match (tx.repair().caught_up(), ledger.count_gaps(&tx.name).await) {
            (Some(proved), Ok(0)) if proved > end => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    for n in 0..120 {
        let (_, _, found) = tx.read(&format!("k{n}")).await.expect("it is here");
        assert_eq!(found, bytes(n, 200));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_objects_do_not_come_back() {
    let (home, ledger, ma, mut tx) = two_as(repair_config).await;
    let mut or = Site::new("or01", home.path(), &ledger).await;
    or.start(Some(repair_config()));
    for n in 0..10 {
        ma.put(&format!("k{n}"), None, &bytes(n, 100)).await;
    }
    for n in 0..10 {
        tx.comes(&format!("k{n}"), &bytes(n, 100)).await;
        or.comes(&format!("k{n}"), &bytes(n, 100)).await;
    }
    // One is away when they are deleted, and holds all of them when it is back, when nobody else does.
    or.stop().await;
    for n in 0..10 {
        let by = if n % 2 == 0 { &ma } else { &tx };
        by.delete(&format!("k{n}")).await;
    }
    for n in 0..10 {
        ma.goes(&format!("k{n}")).await;
        tx.goes(&format!("k{n}")).await;
    }
    // What was said before is said again, as late hints do: the puts, and changes that name them.
    let db = rusqlite::Connection::open(home.path().join("ledger.db")).unwrap();
    db.busy_timeout(Duration::from_secs(5)).unwrap();
    let forgotten = db.execute("DELETE FROM cursors WHERE name NOT LIKE 'scan%'", []);
    assert!(
        forgotten.unwrap() > 0,
        "the streams are read from their beginning"
    );
    tx.kill().await;
    tx.start(Some(repair_config()));
    or.start(Some(repair_config()));
    for site in [&ma, &tx, &or] {
        site.repair().ask_for_scan();
        site.repair().ask_for_verify();
    }
    for n in 0..10 {
        or.goes(&format!("k{n}")).await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    for site in [&ma, &tx, &or] {
        site.no_gaps().await;
        for n in 0..10 {
            assert_eq!(
                site.read(&format!("k{n}")).await,
                None,
                "k{n} came back in {}",
                site.name
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn which_objects_lag_and_why_is_listed() {
    let home = tempfile::tempdir().unwrap();
    let ledger = Flaky::open(home.path());
    let ma = Played::new("ma01", &ledger).await;
    let mut tx = Site::new("tx01", home.path(), &ledger).await;
    let placement = Placement {
        domain: file("x").domain,
        class: Some(phylactery::file::Class::from_bytes(b"default")),
        datacenters: [dc("ma01"), dc("tx01")].into(),
        lag_goal_seconds: None,
        updated: wall_clock(),
    };
    ledger
        .set_placement(&placement, Strength::Local)
        .await
        .unwrap();
    tx.start(Some(repair_config()));
    until("the first scan has ended", async || {
        ma.beat().await;
        let status = || format!("{:?}", tx.repair().status());
        tx.repair().caught_up().ok_or_else(status)
    })
    .await;
    // Each lags for a reason of its own.
    ma.serve("here", 1, Http::Good(b"bytes".to_vec()));
    ma.put("here", 1, 5, None).await;
    tx.comes("here", b"bytes").await;
    ma.serve("short", 2, Http::Good(b"byte".to_vec()));
    let short = ma.put("short", 2, 5, None).await;
    ma.put("unknown there", 3, 5, None).await;
    tx.put_past_the_proxy("in the way", b"somebody's").await;
    ma.serve("in the way", 4, Http::Good(b"bytes".to_vec()));
    ma.put("in the way", 4, 5, None).await;
    tx.parks("short", "byte").await;
    tx.parks("unknown there", "unknown_key").await;
    tx.parks("in the way", "stored past the proxy").await;
    // The list is of these, and of no other.
    let gaps = ledger.gaps(&tx.name, Version(i64::MAX), 100).await.unwrap();
    let mut named: Vec<String> = gaps.iter().map(|gap| gap.file.key.to_string()).collect();
    named.sort();
    assert_eq!(named, ["in+the+way", "short", "unknown+there"]);
    for gap in &gaps {
        assert!(gap.attempts > 0 && !gap.last_error.is_empty(), "{gap:?}");
        assert!(gap.next_try > gap.since, "{gap:?}");
    }
    let gap = gaps.iter().find(|gap| gap.file == file("short")).unwrap();
    assert_eq!(gap.since, short.version, "since it was stored");
    assert_eq!(
        ledger.oldest_gap(&tx.name).await.unwrap(),
        Some(short.version)
    );
    // And of each it is said why it is not here.
    let explained = async |key: &str, word: &str| {
        until(&format!("{key} is {word}"), async || {
            let explanation = tx.repair().explain(&file(key)).await;
            match explanation.reason.word() == word {
                true => Ok(()),
                false => Err(explanation.says()),
            }
        })
        .await;
    };
    explained("here", "here").await;
    explained("short", "no_source").await;
    explained("unknown there", "parked").await;
    explained("in the way", "past_the_proxy").await;
    explained("never stored", "unknown").await;
    tx.pause("tail", true).await;
    ma.serve("waits", 5, Http::Good(b"bytes".to_vec()));
    ma.put("waits", 5, 5, None).await;
    explained("waits", "pending").await;
}
