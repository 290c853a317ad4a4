//! A cursor passes an entry only when it is done or parked by name, whatever is slow, broken, missing or killed.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod repair_sites;

use std::sync::atomic::Ordering;
use std::time::Duration;

use phylactery::journal::{By, Mutation, Outcome};
use phylactery::ledger::{Expected, Gap, Ledger, Strength};
use phylactery::locks::KeyLocks;
use phylactery::repair::status::{Progress, State};
use phylactery::version::{Version, wall_clock};
use repair_sites::{Flaky, Http, Played, Site, file, played_and_real, repair_config, until};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

async fn put(ma: &Played, key: &str, fid: u64) {
    ma.serve(key, fid, Http::Good(key.as_bytes().to_vec()));
    ma.put(key, fid, key.len() as u64, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_is_parked_and_the_rest_goes_on() {
    let (_home, ledger, ma, tx) = played_and_real().await;
    *ledger.poison.lock() = Some(file("poison"));
    for n in 0..20 {
        put(&ma, &format!("before {n}"), 10 + n).await;
    }
    put(&ma, "poison", 5).await;
    put(&ma, "poison", 6).await;
    for n in 0..20 {
        put(&ma, &format!("after {n}"), 40 + n).await;
    }
    ma.passed_by(&tx).await;
    for n in 0..20 {
        tx.comes(&format!("before {n}"), format!("before {n}").as_bytes())
            .await;
        tx.comes(&format!("after {n}"), format!("after {n}").as_bytes())
            .await;
    }
    let gap = tx.parks("poison", "unreadable").await;
    assert!(gap.attempts > 0);
    assert_eq!(ledger.count_gaps(&tx.name).await.unwrap(), 1);
    *ledger.poison.lock() = None;
    tx.comes("poison", b"poison").await;
    tx.no_gaps().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_stands_before_a_hole_and_what_lies_beyond_is_done() {
    let (_home, _ledger, ma, tx) = played_and_real().await;
    put(&ma, "one", 1).await;
    let hole = ma.skip();
    put(&ma, "three", 3).await;
    tx.comes("three", b"three").await;
    assert_eq!(ma.cursor_of(&tx).await, hole - 1);
    assert_eq!(tx.repair().caught_up(), None);
    let status = until("the hole in the status", async || {
        let status = tx.repair().status();
        match &status.workers[0].progress {
            Progress::Tail(streams) if streams.values().any(|stream| stream.hole == Some(hole)) => {
                Ok(status)
            }
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert!(
        serde_json::to_string(&status)
            .unwrap()
            .contains("\"hole\":2")
    );
    ma.serve("two", 2, Http::Good(b"two".to_vec()));
    let revision = ma.revision(wall_clock(), 2, 3, None);
    ma.write("two", &revision, 2).await;
    ma.change_at(hole, "two", revision.version).await;
    tx.comes("two", b"two").await;
    ma.passed_by(&tx).await;
    until("caught up", async || {
        ma.beat().await;
        tx.repair()
            .caught_up()
            .ok_or_else(|| format!("{:?}", tx.repair().status()))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_whose_head_has_not_come_is_not_taken_for_done() {
    let (_home, ledger, ma, mut tx) = played_and_real().await;
    put(&ma, "k", 1).await;
    tx.comes("k", b"k").await;
    let newer = Version(wall_clock().0 + 1_000);
    ma.change("k", newer).await;
    // And one that names less, after it.
    ma.change("k", Version(1)).await;
    ma.passed_by(&tx).await;
    tx.parks("k", &format!("{newer}")).await;
    // Nor by a retry, nor after a start anew.
    tx.kill().await;
    tx.start(Some(repair_config()));
    let parked = tx.parks("k", &format!("{newer}")).await;
    assert_eq!(parked.expected.head, Some(newer));
    until("another try", async || match tx.gap("k").await {
        Some(gap) if gap.attempts > parked.attempts => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    ma.serve("k", 2, Http::Good(b"newer".to_vec()));
    let revision = ma.revision(newer, 2, 5, None);
    ma.write("k", &revision, 2).await;
    tx.comes("k", b"newer").await;
    tx.no_gaps().await;
    assert_eq!(ledger.count_gaps(&tx.name).await.unwrap(), 0);
}

/// Forgets changes, as the ledger does after its time to live.
fn expire(home: &TempDir, numbers: std::ops::RangeInclusive<u64>) {
    let db = rusqlite::Connection::open(home.path().join("ledger.db")).unwrap();
    db.busy_timeout(Duration::from_secs(5)).unwrap();
    let gone = db.execute(
        "DELETE FROM changes WHERE number BETWEEN ?1 AND ?2",
        [*numbers.start() as i64, *numbers.end() as i64],
    );
    assert_eq!(gone.unwrap() as u64, numbers.end() - numbers.start() + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_behind_the_log_scans_all_files() {
    let (home, _ledger, ma, mut tx) = played_and_real().await;
    let says_delivered = async |number| {
        ma.delivered.store(number, Ordering::SeqCst);
        ma.beat().await;
    };
    put(&ma, "first", 1).await;
    ma.passed_by(&tx).await;
    is_caught_up(&ma, &tx).await;
    tx.stop().await;

    for n in 2..=6 {
        put(&ma, &format!("gone {n}"), n).await;
    }
    put(&ma, "seven", 7).await;
    expire(&home, 2..=6);
    fail::cfg("tail::lost_at_once", "return").unwrap();
    // What may still be on its way is waited for.
    says_delivered(1).await;
    tx.start(Some(repair_config()));
    tx.comes("seven", b"seven").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(ma.cursor_of(&tx).await, 1);
    assert_eq!(tx.repair().caught_up(), None);
    assert!(tx.read("gone 2").await.is_none());
    // What the ledger had is gone.
    says_delivered(7).await;
    ma.passed_by(&tx).await;
    for n in 2..=6 {
        tx.comes(&format!("gone {n}"), format!("gone {n}").as_bytes())
            .await;
    }
    is_caught_up(&ma, &tx).await;
    tx.stop().await;

    // All that there was; and then a gap that is wider than a reader's reach.
    put(&ma, "eight", 8).await;
    expire(&home, 8..=8);
    says_delivered(8).await;
    tx.start(Some(repair_config()));
    ma.passed_by(&tx).await;
    tx.comes("eight", b"eight").await;
    tx.stop().await;
    ma.serve("nine", 9, Http::Good(b"nine".to_vec()));
    let revision = ma.revision(wall_clock(), 9, 4, None);
    ma.write("nine", &revision, 9).await;
    for _ in 0..50_000 {
        ma.skip();
    }
    put(&ma, "last", 10).await;
    says_delivered(ma.last_number()).await;
    tx.start(Some(repair_config()));
    ma.passed_by(&tx).await;
    fail::remove("tail::lost_at_once");
    tx.comes("nine", b"nine").await;
    tx.comes("last", b"last").await;
}

async fn is_caught_up(ma: &Played, tx: &Site) {
    until("caught up", async || {
        ma.beat().await;
        let status = || format!("{:?}", tx.repair().status());
        tx.repair().caught_up().ok_or_else(status)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_lost_journal_had_not_told_is_found_by_a_scan() {
    let (_home, ledger, mut ma, mut tx) = played_and_real().await;
    put(&ma, "told", 1).await;
    ma.passed_by(&tx).await;
    is_caught_up(&ma, &tx).await;
    // Killed between a file's cells and the change that names them, and the journal lost.
    ma.serve("not told", 2, Http::Good(b"not told".to_vec()));
    let revision = ma.revision(wall_clock(), 2, 8, None);
    ma.write("not told", &revision, 2).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(tx.read("not told").await.is_none(), "nothing names it");
    ma.begin_stream("played again");
    ma.beat().await;
    tx.comes("not told", b"not told").await;
    put(&ma, "by the new stream", 3).await;
    tx.comes("by the new stream", b"by the new stream").await;
    is_caught_up(&ma, &tx).await;
    let name = tx.name.clone();
    let last_scan = async || {
        let cursor = ledger.cursor(&name, "scan").await.unwrap().unwrap();
        let note: serde_json::Value = serde_json::from_str(&cursor.note).unwrap();
        note["ended_scan_began"].as_i64()
    };
    let before = last_scan().await;
    assert!(before.is_some());
    // Once is enough, also after a start anew.
    tx.stop().await;
    tx.start(Some(repair_config()));
    is_caught_up(&ma, &tx).await;
    assert_eq!(last_scan().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_was_lost_with_its_clock_in_the_year_2099_is_left_like_any_other() {
    let (_home, _ledger, mut ma, tx) = played_and_real().await;
    put(&ma, "told", 1).await;
    tx.comes("told", b"told").await;
    ma.beat_at(Version(4_070_908_800_000_000)).await;
    ma.begin_stream("played with the right time");
    put(&ma, "by the new stream", 2).await;
    tx.comes("by the new stream", b"by the new stream").await;
    // What is proved follows the new one: nothing beyond its last word.
    is_caught_up(&ma, &tx).await;
    let said = wall_clock();
    ma.beat_at(said).await;
    until("all that was said is proved", async || {
        let proved = tx.repair().caught_up();
        assert!(proved <= Some(said), "{proved:?} is beyond {said:?}");
        (proved == Some(said))
            .then_some(())
            .ok_or_else(|| format!("{proved:?}"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn repair_waits_quietly_until_the_ledger_knows_its_datacenter() {
    let home = tempfile::tempdir().unwrap();
    let ledger = Flaky::open(home.path());
    let ma = Played::new("ma01", &ledger).await;
    let mut tx = Site::unregistered("tx01", home.path(), &ledger, Some("photos")).await;
    put(&ma, "k", 1).await;
    tx.start(Some(repair_config()));
    tokio::time::sleep(Duration::from_millis(1500)).await;
    for worker in tx.repair().status().workers {
        assert_eq!(worker.state, State::Idle, "{worker:?}");
        assert!(worker.last_error.is_none(), "{worker:?}");
    }
    assert_eq!(ma.cursor_of(&tx).await, 0);
    tx.register(true).await;
    tx.comes("k", b"k").await;
    tx.stop().await;
    // And it can be stopped while it waits.
    let mut ny = Site::unregistered("ny01", home.path(), &ledger, Some("photos")).await;
    ny.start(Some(repair_config()));
    ny.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_being_worked_on_leaves_no_gap_behind() {
    let (_home, ledger, ma, tx) = played_and_real().await;
    let end = CancellationToken::new();
    ma.serve("slow", 1, Http::Hang(1000, end.clone()));
    ma.put("slow", 1, 1000, None).await;
    until("it is being copied", async || {
        let copies = tx.repair().status().copies_in_flight;
        (copies == 1).then_some(()).ok_or(copies.to_string())
    })
    .await;
    // Both are due, the slow one first.
    let due = |key: &str, next_try| Gap {
        file: file(key),
        since: Version(1),
        attempts: 1,
        last_error: "a test says so".to_owned(),
        next_try: Version(next_try),
        observed: Version(1),
        expected: Expected::default(),
    };
    let slow = due("slow", 1);
    ledger.set_gap(&tx.name, &slow).await.unwrap();
    ledger.set_gap(&tx.name, &due("other", 2)).await.unwrap();
    until("the other one is seen to", async || {
        let gap = ledger.gap(&tx.name, &file("other")).await.unwrap();
        gap.is_none().then_some(()).ok_or(format!("{gap:?}"))
    })
    .await;
    let held = ledger.gap(&tx.name, &file("slow")).await.unwrap();
    assert_eq!(held, Some(slow), "it is left to those who are at the file");
    end.cancel();
    tx.comes("slow", &[1; 1000]).await;
    tx.no_gaps().await;
}

/// A datacenter of the ledger is away while another journal of theirs is lost: what that had not told may lie there alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_scan_proves_nothing_while_a_datacenter_of_the_ledger_is_away() {
    fail::cfg("scan::silent_at_once", "return").unwrap();
    let (_home, ledger, mut ma, tx) = played_and_real().await;
    put(&ma, "before", 1).await;
    is_caught_up(&ma, &tx).await;
    ledger.others_away.store(true, Ordering::SeqCst);
    ma.begin_stream("played again");
    ma.serve("not told", 2, Http::Good(b"not told".to_vec()));
    ma.write("not told", &ma.revision(wall_clock(), 2, 8, None), 2)
        .await;
    ma.beat().await;
    tx.repair().ask_for_scan();
    until("it is seen that a journal was left", async || {
        let proved = tx.repair().caught_up();
        proved
            .is_none()
            .then_some(())
            .ok_or_else(|| format!("{proved:?}"))
    })
    .await;
    // What is here is brought,
    tx.comes("not told", b"not told").await;
    let scanned = async |asked: Version, thorough: bool| {
        until("a scan ended", async || {
            ma.beat().await;
            let status = tx.repair().status();
            let scan = status
                .workers
                .iter()
                .find_map(|worker| match &worker.progress {
                    Progress::Scan(scan) => Some(scan.clone()),
                    _ => None,
                });
            let began = scan.as_ref().and_then(|scan| match thorough {
                true => scan.thorough_scan_began,
                false => scan.ended_scan_began,
            });
            (began > Some(asked))
                .then_some(())
                .ok_or_else(|| format!("{scan:?}"))
        })
        .await;
    };
    let asked = wall_clock();
    tx.repair().ask_for_scan();
    scanned(asked, false).await;
    // and nobody says that this was all.
    assert_eq!(tx.repair().caught_up(), None);
    ledger.others_away.store(false, Ordering::SeqCst);
    scanned(asked, true).await;
    is_caught_up(&ma, &tx).await;
}

/// One copy at a time, and it hangs: files that wait for their turn fill no window.
#[tokio::test(flavor = "multi_thread")]
async fn what_needs_no_copy_does_not_wait_for_those_that_do() {
    let home = tempfile::tempdir().unwrap();
    let ledger = Flaky::open(home.path());
    let ma = Played::new("ma01", &ledger).await;
    let mut tx = Site::new("tx01", home.path(), &ledger).await;
    let mut config = repair_config();
    config.copies_at_once = 1;
    tx.start(Some(config));
    put(&ma, "goes", 1).await;
    tx.comes("goes", b"goes").await;
    let end = CancellationToken::new();
    // More than are looked at at a time.
    for n in 0..1_200 {
        let key = format!("slow {n}");
        ma.serve(&key, 10 + n, Http::Hang(1000, end.clone()));
        ma.put(&key, 10 + n, 1000, None).await;
    }
    ma.delete("goes").await;
    tx.goes("goes").await;
    let gap = tx.parks("slow 1100", "copies").await;
    assert!(gap.attempts > 0);
    end.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_in_the_middle_of_a_copy_loses_nothing() {
    let (_home, _ledger, ma, mut tx) = played_and_real().await;
    let end = CancellationToken::new();
    ma.serve("slow", 1, Http::Hang(1000, end.clone()));
    ma.put("slow", 1, 1000, None).await;
    for n in 0..30 {
        put(&ma, &format!("k{n}"), 10 + n).await;
    }
    for n in 0..30 {
        tx.comes(&format!("k{n}"), format!("k{n}").as_bytes()).await;
    }
    assert_eq!(
        ma.cursor_of(&tx).await,
        0,
        "the cursor passed what is not done"
    );
    assert_eq!(tx.repair().status().copies_in_flight, 1);
    tx.kill().await;
    let body = vec![9; 1000];
    ma.body(1, Http::Good(body.clone()));
    tx.start(Some(repair_config()));
    tx.comes("slow", &body).await;
    ma.passed_by(&tx).await;
    assert_eq!(tx.repair().status().files_copied, 1, "copied again");
    end.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_goes_away_and_comes_back() {
    let (_home, ledger, ma, tx) = played_and_real().await;
    put(&ma, "before", 1).await;
    tx.comes("before", b"before").await;
    put(&ma, "meanwhile", 2).await;
    ledger.set_away(true);
    until("it says so", async || {
        let status = tx.repair().status();
        let waits = |state: State| state == State::WaitingForLedger;
        let told = status
            .workers
            .iter()
            .any(|worker| worker.last_error.is_some());
        if told && status.workers.iter().all(|worker| waits(worker.state)) {
            Ok(())
        } else {
            Err(format!("{status:?}"))
        }
    })
    .await;
    ledger.set_away(false);
    put(&ma, "after", 3).await;
    tx.comes("meanwhile", b"meanwhile").await;
    tx.comes("after", b"after").await;
    ma.passed_by(&tx).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tracker_goes_away_and_files_are_parked() {
    let home = tempfile::tempdir().unwrap();
    let ledger = Flaky::open(home.path());
    let ma = Played::new("ma01", &ledger).await;
    let mut tx = Site::new("tx01", home.path(), &ledger).await;
    tx.start(Some(repair_config()));
    tx.stop_tracker().await;
    put(&ma, "k", 1).await;
    tx.parks("k", "no tracker was reached").await;
    ma.passed_by(&tx).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn repair_gives_way_to_a_client() {
    let (_home, _ledger, ma, tx) = played_and_real().await;
    let locks: KeyLocks = tx.running().locks.clone();
    let name = file("k");
    let held = locks.lock(&[&name], Duration::from_secs(1)).await;
    put(&ma, "k", 1).await;
    // It comes, finds the key taken, gives the upload up, and leaves the file for later.
    tx.parks("k", "a client").await;
    assert!(tx.read("k").await.is_none());
    assert!(ma.gets().len() > 1);
    drop(held);
    tx.comes("k", b"k").await;
    // What was given up is open no more.
    let gone = tx
        .trackers
        .file_debug_by_fid(phylactery::file::Fid(1))
        .await
        .unwrap();
    assert!(gone.tempfile.is_none(), "{gone:?}");
    // A client never waits for a copy that is under way.
    let end = CancellationToken::new();
    ma.serve("slow", 9, Http::Hang(1000, end.clone()));
    ma.put("slow", 9, 1000, None).await;
    until("the copy", async || {
        match tx.repair().status().copies_in_flight {
            0 => Err("none".to_owned()),
            _ => Ok(()),
        }
    })
    .await;
    let began = std::time::Instant::now();
    tx.put("slow", None, b"by a client").await;
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
    end.cancel();
    tx.comes("slow", b"by a client").await;
    let record = tx
        .ledger
        .read(&file("slow"), Strength::Local)
        .await
        .unwrap();
    assert_eq!(record.head.unwrap().origin, tx.name);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_lets_go_of_long_copies_and_a_pause_is_obeyed() {
    let (_home, _ledger, ma, mut tx) = played_and_real().await;
    tx.pause("tail", true).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    put(&ma, "k", 1).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(tx.read("k").await.is_none());
    tx.pause("tail", false).await;
    tx.comes("k", b"k").await;
    let end = CancellationToken::new();
    ma.serve("slow", 9, Http::Hang(1000, end.clone()));
    ma.put("slow", 9, 1000, None).await;
    until("the copy", async || {
        match tx.repair().status().copies_in_flight {
            0 => Err("none".to_owned()),
            _ => Ok(()),
        }
    })
    .await;
    let began = std::time::Instant::now();
    tx.stop().await;
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(ma.cursor_of(&tx).await, 1);
    end.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_closed_over_an_open_change() {
    let (_home, _ledger, ma, tx) = played_and_real().await;
    let running = tx.running();
    let open = async |key: &str| {
        let name = file(key);
        let guard = running.locks.lock(&[&name], Duration::from_secs(1)).await;
        let delete = Mutation::Delete { file: name.clone() };
        running
            .journal
            .intend(&guard, By::Client, delete)
            .await
            .unwrap()
    };
    // Open before repair looks.
    let before = open("before").await;
    put(&ma, "before", 1).await;
    tx.parks("before", "outcome is not known").await;
    assert!(ma.gets().is_empty());
    // Opened while the bytes are on their way.
    let end = CancellationToken::new();
    ma.serve("during", 2, Http::Hang(1000, end.clone()));
    ma.put("during", 2, 1000, None).await;
    until("the copy", async || {
        match tx.repair().status().copies_in_flight {
            0 => Err("none".to_owned()),
            _ => Ok(()),
        }
    })
    .await;
    let during = open("during").await;
    end.cancel();
    tx.parks("during", "outcome is not known").await;
    assert!(tx.read("during").await.is_none());
    assert!(tx.read("before").await.is_none());
    before.outcome(Outcome::DidNotHappen);
    during.outcome(Outcome::DidNotHappen);
    tx.comes("before", b"before").await;
    // The client's delete came after the put: had it happened, the file would be gone.
    tx.comes("during", &[1; 1000]).await;
}
