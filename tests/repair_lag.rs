//! How late changes are done, and who misses the goal of its placement: counted, and told once.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod repair_sites;

use std::sync::Arc;
use std::time::{Duration, Instant};

use mogilefs_protocol::client::ClassSettings;
use phylactery::config::RepairConfig;
use phylactery::events::What;
use phylactery::ledger::{Ledger, Placement, Strength};
use phylactery::repair::status::LagStatus;
use phylactery::version::{Version, wall_clock};
use repair_sites::{Flaky, Http, Played, Site, dc, file, repair_config, until};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// A played datacenter and a real one, which has done its first scan: from then on it is the tail that finds.
async fn played_and_real_as(config: RepairConfig) -> (TempDir, Arc<Flaky>, Played, Site) {
    let (home, ledger, ma, tx) = repair_sites::played_and_real_as(config).await;
    is_caught_up(&tx, async || ma.beat().await).await;
    (home, ledger, ma, tx)
}

async fn played_and_real() -> (TempDir, Arc<Flaky>, Played, Site) {
    played_and_real_as(repair_config()).await
}

async fn is_caught_up(site: &Site, beat: impl AsyncFn()) {
    until("caught up", async || {
        beat().await;
        let status = || format!("{:?}", site.repair().status());
        site.repair().caught_up().ok_or_else(status)
    })
    .await;
}

/// Says within how many seconds changes of files are to be done.
async fn set_goal(ledger: &Flaky, seconds: u32) {
    let placement = Placement {
        domain: file("x").domain,
        class: None,
        datacenters: [dc("ma01"), dc("tx01")].into(),
        lag_goal_seconds: Some(seconds),
        remove_extra: false,
        updated: wall_clock(),
    };
    let setting = ledger.set_placement(&placement, Strength::Local);
    setting.await.unwrap();
    // The registry's reading is obeyed after this time at the latest.
    tokio::time::sleep(Duration::from_secs(4)).await;
}

fn lag(site: &Site) -> LagStatus {
    site.repair().status().lag
}

fn missed(site: &Site) -> usize {
    site.saw(|what| matches!(what, What::MissedGoal { .. }))
}

fn came_late(site: &Site) -> usize {
    site.saw(|what| matches!(what, What::CameLate { .. }))
}

async fn is_missed(site: &Site) {
    until("the goal is missed", async || match missed(site) {
        0 => Err(format!("{:?}", lag(site))),
        _ => Ok(()),
    })
    .await;
}

/// A put that nobody can give the bytes of yet.
async fn put_unserved(ma: &Played, key: &str) -> Version {
    ma.serve_at(key, Vec::new());
    ma.put(key, 5, 5, None).await.version
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lag_is_from_the_change_until_it_is_done_by_where_it_was_made() {
    let (_home, ledger, ma, tx) = played_and_real().await;
    ma.serve("k", 5, Http::Good(b"bytes".to_vec()));
    ma.put("k", 5, 5, None).await;
    tx.comes("k", b"bytes").await;
    let first = until("one lag", async || match lag(&tx).from.get("ma01") {
        Some(from) => Ok(from.clone()),
        None => Err(format!("{:?}", lag(&tx))),
    })
    .await;
    assert_eq!(first.changes, 1);
    assert!(first.p50 < Duration::from_secs(30), "{first:?}");
    // Told a hundred seconds after it was made.
    let made = Version(wall_clock().0 - 100_000_000);
    ma.serve("late", 6, Http::Good(b"later".to_vec()));
    ma.write("late", &ma.revision(made, 6, 5, None), 6).await;
    ma.change("late", made).await;
    // Nothing is to be done for it: no lag, whatever its age.
    ma.change("k", made).await;
    tx.comes("late", b"later").await;
    ma.passed_by(&tx).await;
    let both = lag(&tx).from["ma01"].clone();
    assert_eq!(both.changes, 2);
    assert!(both.p99 >= Duration::from_secs(100), "{both:?}");
    assert!(both.p50 < Duration::from_secs(30), "{both:?}");
    // Of ours there is none, and within the goal all are.
    tx.put("mine", None, b"mine").await;
    ma.put("k", 5, 5, None).await;
    tx.comes("mine", b"mine").await;
    let status = lag(&tx);
    assert_eq!(status.from.keys().collect::<Vec<_>>(), ["ma01"]);
    assert_eq!((status.missed, status.came_late), (0, 0));
    drop(ledger);
}

#[tokio::test(flavor = "multi_thread")]
async fn class_changes_renames_and_deletes_have_a_lag_too() {
    let home = tempfile::tempdir().unwrap();
    let ledger = Flaky::open(home.path());
    let mut ma = Site::new("ma01", home.path(), &ledger).await;
    let mut tx = Site::new("tx01", home.path(), &ledger).await;
    ma.start(Some(repair_config()));
    tx.start(Some(repair_config()));
    let class = ClassSettings {
        domain: b"photos",
        class: b"thumb",
        mindevcount: 1,
        ..ClassSettings::default()
    };
    ma.client().await.create_class(&class).await.unwrap();
    tx.client().await.create_class(&class).await.unwrap();
    for site in [&ma, &tx] {
        is_caught_up(site, async || ()).await;
    }
    ma.put("k", None, b"bytes").await;
    tx.comes("k", b"bytes").await;
    // Set where the bytes were not written: it is that datacenter's change.
    tx.set_class("k", "thumb").await;
    let counts = async |site: &Site, from: &str, wanted: u64| {
        until(
            &format!("{wanted} lags of {from} in {}", site.name),
            async || {
                let status = lag(site);
                match status.from.get(from).map(|from| from.changes) {
                    Some(changes) if changes == wanted => Ok(()),
                    _ => Err(format!("{status:?}")),
                }
            },
        )
        .await;
    };
    counts(&ma, "tx01", 1).await;
    counts(&tx, "ma01", 1).await;
    ma.rename("k", "moved").await;
    counts(&tx, "ma01", 2).await;
    ma.delete("moved").await;
    counts(&tx, "ma01", 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_misses_its_goal_is_told_once_and_once_more_when_it_came() {
    let (_home, ledger, ma, mut tx) = played_and_real().await;
    set_goal(&ledger, 1).await;
    let version = put_unserved(&ma, "k").await;
    is_missed(&tx).await;
    // As the ledger has it: since when, why, and how often, also across a start anew.
    let gap = tx.parks("k", "no datacenter gives these bytes").await;
    assert_eq!(gap.since, version);
    let oldest = ledger.oldest_gap(&tx.name).await.unwrap();
    assert_eq!(oldest, Some(version));
    let tried_again = async |site: &Site| {
        let before = site.gap("k").await.expect("a gap").attempts;
        until("tried again", async || match site.gap("k").await {
            Some(gap) if gap.attempts > before => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
    };
    tried_again(&tx).await;
    assert_eq!((missed(&tx), came_late(&tx)), (1, 0));
    tx.kill().await;
    tx.start(Some(repair_config()));
    tried_again(&tx).await;
    tried_again(&tx).await;
    assert_eq!(missed(&tx), 0, "told before the start");
    assert_eq!(tx.gap("k").await.unwrap().since, version);
    ma.serve("k", 5, Http::Good(b"bytes".to_vec()));
    tx.comes("k", b"bytes").await;
    tx.no_gaps().await;
    until("it is told that it came", async || match came_late(&tx) {
        1 => Ok(()),
        other => Err(format!("{other} times")),
    })
    .await;
    assert_eq!(lag(&tx).came_late, 1);
    assert!(lag(&tx).from["ma01"].p50 > Duration::from_secs(1));
    assert_eq!(ledger.oldest_gap(&tx.name).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_takes_too_long_is_told_while_it_is_under_way() {
    let (_home, ledger, ma, tx) = played_and_real().await;
    set_goal(&ledger, 2).await;
    let go_on = CancellationToken::new();
    ma.serve("k", 5, Http::Hang(9, go_on.clone()));
    let version = ma.put("k", 5, 9, None).await.version;
    is_missed(&tx).await;
    assert_eq!(tx.gap("k").await, None, "it is not parked, and late");
    assert_eq!(lag(&tx).oldest_pending, Some(version));
    go_on.cancel();
    tx.comes("k", &[1; 9]).await;
    ma.passed_by(&tx).await;
    until("nothing is pending", async || {
        match (lag(&tx).oldest_pending, came_late(&tx)) {
            (None, 1) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert_eq!(missed(&tx), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_goal_is_missed_in_time_however_far_off_the_next_try_is() {
    let slow = RepairConfig {
        retry_first: Duration::from_secs(600),
        retry_most: Duration::from_secs(3600),
        ..repair_config()
    };
    let (_home, ledger, ma, tx) = played_and_real_as(slow).await;
    set_goal(&ledger, 6).await;
    put_unserved(&ma, "k").await;
    tx.parks("k", "no datacenter gives these bytes").await;
    assert_eq!(missed(&tx), 0, "there is time left");
    let began = Instant::now();
    is_missed(&tx).await;
    assert!(
        began.elapsed() < Duration::from_secs(30),
        "{:?}",
        began.elapsed()
    );
    // From then on at its own pace, once the try that has told of it is over.
    until("the next try", async || match tx.gap("k").await {
        Some(gap) if gap.next_try.0 > wall_clock().0 + 500_000_000 => Ok(()),
        gap => Err(format!("{gap:?}")),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_a_file_that_waits_do_not_put_it_off_further() {
    let slow = RepairConfig {
        retry_first: Duration::from_secs(2),
        retry_most: Duration::from_secs(3600),
        ..repair_config()
    };
    let (_home, _ledger, ma, tx) = played_and_real_as(slow).await;
    // An hour old already when they are read, so that the time they took is no bound.
    ma.serve_at("k", Vec::new());
    for n in 0..12 {
        let made = Version(wall_clock().0 - 3_600_000_000 + n);
        ma.write("k", &ma.revision(made, 5, 5, None), 5).await;
        ma.change("k", made).await;
    }
    ma.passed_by(&tx).await;
    let gap = tx.parks("k", "no datacenter gives these bytes").await;
    let ahead = gap.next_try.0 - wall_clock().0;
    assert!(ahead < 20_000_000, "put off for {ahead} µs: {gap:?}");
}
