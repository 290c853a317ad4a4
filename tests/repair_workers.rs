//! An operator pauses workers, says how fast they may be and tells them to begin; what was said outlives restarts.

#![allow(clippy::unwrap_used, reason = "what panics in a test has failed it")]

mod repair_sites;

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use phylactery::repair::settings::{Change, MOST_REST, NotChanged, Rate};
use phylactery::repair::status::{Progress, State, WorkerStatus};
use repair_sites::{Http, Site, played_and_real, played_and_real_as, repair_config, until};

fn worker(site: &Site, name: &str) -> WorkerStatus {
    let workers = site.repair().status().workers;
    let found = workers.into_iter().find(|worker| worker.name == name);
    found.unwrap()
}

fn at_most(files: u32) -> Change {
    Change {
        files_per_second: Some(Some(Rate::AtMost(NonZeroU32::new(files).unwrap()))),
        ..Change::default()
    }
}

async fn done(site: &Site, name: &str, files: u64) {
    until("files seen to", async || match worker(site, name).done {
        done if done >= files => Ok(()),
        done => Err(done.to_string()),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_and_a_rate_outlive_a_restart_and_are_taken_back() {
    let (_home, _ledger, ma, mut tx) = played_and_real().await;
    tx.pause("tail", true).await;
    let rest = Change {
        rest: Some(Some(0.5)),
        ..at_most(7)
    };
    tx.repair().change("scan", rest).await.unwrap();
    tx.stop().await;
    tx.start(Some(repair_config()));
    // What was kept is read before the first worker works.
    until("a scan", async || match worker(&tx, "scan").progress {
        Progress::Scan(scan) if scan.ended.is_some() => Ok(()),
        progress => Err(format!("{progress:?}")),
    })
    .await;
    let tail = worker(&tx, "tail");
    assert_eq!((tail.state, tail.paused), (State::Paused, true));
    let scan = worker(&tx, "scan");
    assert_eq!(
        (scan.files_per_second, scan.rest),
        (NonZeroU32::new(7), 0.5)
    );

    ma.serve("k", 1, Http::Good(b"k".to_vec()));
    ma.put("k", 1, 1, None).await;
    // Another worker is at work in the meantime, so this one could have been.
    tx.repair().begin("scan").unwrap();
    tx.comes("k", b"k").await;
    assert_eq!(worker(&tx, "tail").done, 0, "paused");
    tx.pause("tail", false).await;
    done(&tx, "tail", 1).await;

    let none = Change {
        files_per_second: Some(None),
        rest: Some(None),
        ..Change::default()
    };
    let scan = tx.repair().change("scan", none).await.unwrap();
    assert_eq!((scan.files_per_second, scan.rest), (None, 0.0));
    let verify = tx.repair().change("verify", none).await.unwrap();
    let configured = NonZeroU32::new(repair_config().verify_rate);
    assert_eq!(verify.files_per_second, configured);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_holds_and_can_be_changed_in_the_middle() {
    let (_home, _ledger, ma, tx) = played_and_real().await;
    tx.repair().change("tail", at_most(4)).await.unwrap();
    let began = Instant::now();
    for fid in 1..=100 {
        let key = format!("k{fid}");
        ma.serve(&key, fid, Http::Good(b"bytes".to_vec()));
        ma.put(&key, fid, 5, None).await;
    }
    done(&tx, "tail", 7).await;
    let took = began.elapsed();
    assert!(took > Duration::from_millis(1400), "7 at 4/s: {took:?}");
    let unlimited = Change {
        files_per_second: Some(Some(Rate::Unlimited)),
        ..Change::default()
    };
    let (since, before) = (Instant::now(), worker(&tx, "tail").done);
    tx.repair().change("tail", unlimited).await.unwrap();
    done(&tx, "tail", 100).await;
    let slow = Duration::from_secs((100 - before) / 4);
    assert!(since.elapsed() < slow / 2, "{:?}", since.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_rests_in_proportion_to_its_work() {
    let (_home, _ledger, ma, tx) = played_and_real().await;
    for fid in 1..=20 {
        ma.serve(&format!("k{fid}"), fid, Http::Good(b"bytes".to_vec()));
        ma.put(&format!("k{fid}"), fid, 5, None).await;
    }
    done(&tx, "tail", 20).await;
    let whole = async || {
        let ended = |progress| match progress {
            Progress::Scan(scan) => scan.ended,
            other => panic!("{other:?}"),
        };
        let before = ended(worker(&tx, "scan").progress);
        let began = Instant::now();
        tx.repair().begin("scan").unwrap();
        until("a scan", async || {
            match ended(worker(&tx, "scan").progress) != before {
                true => Ok(()),
                false => Err("not ended".to_owned()),
            }
        })
        .await;
        began.elapsed()
    };
    until("the first scan", async || {
        match worker(&tx, "scan").progress {
            Progress::Scan(scan) if scan.ended.is_some() => Ok(()),
            progress => Err(format!("{progress:?}")),
        }
    })
    .await;
    // The machine may be busy with something else at times.
    let without = whole().await.min(whole().await).min(whole().await);
    let rest = Change {
        rest: Some(Some(MOST_REST)),
        ..Change::default()
    };
    tx.repair().change("scan", rest).await.unwrap();
    let with = whole().await;
    // 16 pages one after another, of 10 µs at the very least, and a thousand times that of rest.
    let rested = Duration::from_millis(100);
    assert!(
        with > without + rested,
        "{without:?} without, {with:?} with"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_or_cannot_be_kept_changes_nothing() {
    let (_home, ledger, _ma, tx) = played_and_real().await;
    let pause = Change {
        paused: Some(true),
        ..Change::default()
    };
    let rest = |rest| Change {
        rest: Some(Some(rest)),
        ..Change::default()
    };
    let refused = tx.repair().change("tale", pause).await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "no worker is called tale; they are tail, retry, scan, verify, backfill"
    );
    let refused = tx.repair().change("tail", rest(1.0)).await;
    assert!(matches!(
        refused,
        Err(NotChanged::NoRest { worker: "tail" })
    ));
    for beyond in [-1.0, MOST_REST + 1.0, f64::NAN, f64::INFINITY] {
        let refused = tx.repair().change("scan", rest(beyond)).await;
        assert!(matches!(refused, Err(NotChanged::RestBeyond { .. })));
    }
    let refused = tx.repair().begin("retry");
    assert!(matches!(refused, Err(NotChanged::AlwaysOn { .. })));

    ledger.set_away(true);
    let refused = tx.repair().change("scan", pause).await;
    assert!(matches!(refused, Err(NotChanged::Ledger(_))), "{refused:?}");
    assert!(!worker(&tx, "scan").paused);
    ledger.set_away(false);

    let mut config = repair_config();
    config.enabled = false;
    let (_home, _ledger, _ma, tx) = played_and_real_as(config).await;
    let refused = tx.repair().change("scan", pause).await;
    assert!(matches!(refused, Err(NotChanged::Disabled)));
}
