//! Rules of placement that were changed and changed back, as repair meets them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod repair_sites;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use phylactery::ledger::{Ledger, Placement, Strength};
use phylactery::version::wall_clock;
use repair_sites::{Flaky, Http, Played, Site, dc, file, repair_config, until};

/// Stores a file in `ma`, and waits until `tx` has passed its change; the key.
async fn stored(ma: &Played, tx: &Site, fids: &AtomicU64) -> String {
    let fid = fids.fetch_add(1, Ordering::SeqCst);
    let key = format!("k{fid}");
    ma.serve(&key, fid, Http::Good(b"bytes".to_vec()));
    ma.put(&key, fid, 5, None).await;
    ma.passed_by(tx).await;
    key
}

/// Nobody scans while it happens: what the tail passed by under rules that held for a while is found all the same.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_passed_by_comes_when_the_rules_are_as_they_were() {
    let home = tempfile::tempdir().unwrap();
    let ledger = Flaky::open(home.path());
    let ma = Played::new("ma01", &ledger).await;
    let mut tx = Site::new("tx01", home.path(), &ledger).await;
    let set = async |datacenters: &[&str]| {
        let placement = Placement {
            domain: file("x").domain,
            class: None,
            datacenters: datacenters.iter().map(|name| dc(name)).collect(),
            lag_goal_seconds: None,
            updated: wall_clock(),
        };
        let setting = ledger.set_placement(&placement, Strength::Local);
        setting.await.unwrap();
    };
    let fids = AtomicU64::new(1);
    // Set, and taken back: the rules are first those of no row, then those of a row.
    for wide in [&[][..], &["ma01", "tx01"]] {
        if !wide.is_empty() {
            set(wide).await;
        }
        tx.start(Some(repair_config()));
        // The beat of the played one goes on meanwhile.
        until("a whole scan by these rules", async || {
            ma.beat().await;
            match tx.repair().caught_up() {
                Some(_) => Ok(()),
                None => Err(format!("{:?}", tx.repair().status())),
            }
        })
        .await;
        tx.pause("scan", true).await;
        set(&["ma01"]).await;
        let passed_by = loop {
            let key = stored(&ma, &tx, &fids).await;
            if tx.read(&key).await.is_none() {
                break key;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        };
        set(wide).await;
        // Not before the rules are read anew: until then the scan would see that they have changed.
        until("due again", async || {
            let key = stored(&ma, &tx, &fids).await;
            match tx.read(&key).await {
                Some(_) => Ok(()),
                None => Err(format!("{key} is not due yet")),
            }
        })
        .await;
        tx.pause("scan", false).await;
        tx.comes(&passed_by, b"bytes").await;
        tx.no_gaps().await;
        tx.stop().await;
    }
}
