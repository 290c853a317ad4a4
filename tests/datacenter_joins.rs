//! A datacenter that joins is filled by a scan of all files, says how long that takes, and is used by clients meanwhile.
//!
//! In a file of its own: how long something takes is measured while nothing else runs.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod repair_sites;

use std::time::{Duration, Instant};

use phylactery::repair::status::{Progress, ScanProgress};
use phylactery::version::wall_clock;
use repair_sites::{Flaky, Http, Played, Site, repair_config, until};

fn scan_of(site: &Site) -> ScanProgress {
    let status = site.repair().status();
    let scan = status.workers.into_iter().find(|w| w.name == "scan");
    match scan.unwrap().progress {
        Progress::Scan(scan) => scan,
        other => panic!("{other:?}"),
    }
}

/// So many files of ma01, which is played, fill tx01, which joins; clients of tx01 use it meanwhile. How wrong the time left was after the first
/// tenth: 1.0 is right, 2.0 twice too much or too little.
async fn fills(files: u64) -> f64 {
    let home = tempfile::tempdir().unwrap();
    let ledger = Flaky::open(home.path());
    let ma = Played::new("ma01", &ledger).await;
    for n in 1..=files {
        let key = format!("k{n}");
        ma.serve(&key, n, Http::Good(b"bytes".to_vec()));
        let revision = ma.revision(wall_clock(), n, 5, None);
        ma.write(&key, &revision, n).await;
    }
    ma.beat().await;
    let mut tx = Site::new("tx01", home.path(), &ledger).await;
    tx.start(Some(repair_config()));
    let began = Instant::now();
    let (left, at) = until("a time left, after the first tenth", async || {
        let status = tx.repair().status();
        let scan = status.workers.into_iter().find_map(|w| match w.progress {
            Progress::Scan(scan) => Some(scan),
            _ => None,
        });
        match scan {
            Some(scan) if scan.percent >= 10.0 && scan.seconds_left.is_some() => {
                assert!(scan.percent < 100.0, "too fast to tell: take more files");
                Ok((scan.seconds_left.unwrap(), Instant::now()))
            }
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    // Clients use it already.
    tx.put("of tx01", None, b"of a client").await;
    let (_, _, body) = tx.read("of tx01").await.unwrap();
    assert_eq!(body, b"of a client");
    while scan_of(&tx).ended.is_none() {
        assert!(
            at.elapsed().as_secs_f64() < 10.0 * left + 60.0,
            "{:?}",
            scan_of(&tx)
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let took = at.elapsed().as_secs_f64();
    println!(
        "{files} files in {:?}; after the first tenth {left:.1} s were said to be left, and it took {took:.1} s",
        began.elapsed()
    );
    for n in [1, files / 2, files] {
        tx.comes(&format!("k{n}"), b"bytes").await;
    }
    tx.no_gaps().await;
    (left / took).max(took / left)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_datacenter_that_joins_says_how_long_it_takes() {
    let wrong = fills(2_000).await;
    assert!(wrong < 2.0, "by a factor of {wrong:.2}");
}

/// `cargo test --release --test datacenter_joins -- --ignored --nocapture a_datacenter_that_joins_at_100_000_files`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn a_datacenter_that_joins_at_100_000_files() {
    let wrong = fills(100_000).await;
    assert!(wrong < 2.0, "by a factor of {wrong:.2}");
}
