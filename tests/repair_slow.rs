//! What would outlast the hour that a tracker gives an upload is not begun, given up in time, or read into a spool first.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod repair_sites;

use std::time::{Duration, Instant};

use md5::{Digest, Md5};
use phylactery::config::SpoolConfig;
use phylactery::file::Checksum;
use phylactery::repair::budget::Setting;
use repair_sites::{Flaky, Http, Played, Site, bytes, repair_config, until};

fn bytes_per_second(limit: Option<u64>) -> Option<Setting> {
    Some(Setting {
        bytes_per_second: Some(limit),
        ..Setting::default()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_outlast_the_trackers_hour_is_given_up_in_time_or_spooled() {
    let home = tempfile::tempdir().unwrap();
    let ledger = Flaky::open(home.path());
    let ma = Played::new("ma01", &ledger).await;
    let mut tx = Site::new("tx01", home.path(), &ledger).await;
    let mut config = repair_config();
    tx.start(Some(config.clone()));
    // Five seconds instead of the 50 minutes that a copy has of the tracker's 60. It goes for the whole process.
    fail::cfg("copy::reaped_after_seconds", "return(6)").unwrap();
    let body = vec![7; 1000];
    let sum = Some(Checksum::md5(&Md5::digest(&body)));
    ma.serve("slow", 5, Http::Drips(1000, Duration::from_millis(100)));
    let began = Instant::now();
    ma.put("slow", 5, 1000, sum.clone()).await;
    let gap = tx
        .parks("slow", "the tracker gives an upload up after an hour")
        .await;
    assert!(
        gap.last_error.contains("ma01: its 1000 bytes would take"),
        "{gap:?}"
    );
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "it was not given up in time"
    );

    // By what the budget allows it is not even begun.
    let large = bytes(1, 1 << 20);
    tx.repair()
        .set_budget(bytes_per_second(Some(16 << 10)))
        .await
        .unwrap();
    ma.serve("large", 6, Http::Good(large.clone()));
    ma.put("large", 6, large.len() as u64, None).await;
    tx.parks("large", "at 16384 bytes a second").await;
    tx.repair().set_budget(None).await.unwrap();
    tx.comes("large", &large).await;

    // Into a spool, in which what was read outlives a kill.
    tx.kill().await;
    config.sources.spool = Some(SpoolConfig {
        dir: home.path().join("spool"),
        size: 1 << 20,
    });
    tx.start(Some(config.clone()));
    let spooled = async || {
        let folder = std::fs::read_dir(home.path().join("spool"))
            .into_iter()
            .flatten();
        let sizes = folder.map(|entry| entry.unwrap().metadata().unwrap().len());
        sizes.max().unwrap_or(0)
    };
    until("some of it is in the spool", async || {
        let there = spooled().await;
        (there > 50).then_some(()).ok_or(there.to_string())
    })
    .await;
    tx.kill().await;
    let there = spooled().await;
    assert!(there > 50 && there < 1000, "{there}");
    tx.start(Some(config));
    ma.body(5, Http::Drips(1000, Duration::from_millis(6)));
    tx.comes("slow", &body).await;
    assert_eq!(spooled().await, 0, "what is stored is in the spool still");
    assert!(
        ma.gets_from().contains(&there),
        "{:?} without {there}",
        ma.gets_from()
    );
    tx.no_gaps().await;
    fail::remove("copy::reaped_after_seconds");
}
