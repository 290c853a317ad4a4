//! Two datacenters end with the same files: what clients store, delete, rename and reclass in one comes to the other.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod repair_sites;

use std::sync::Arc;

use phylactery::events::What;
use phylactery::repair::status::Progress;
use repair_sites::{Flaky, Site, bytes, repair_config, until};
use tempfile::TempDir;

async fn two() -> (TempDir, Arc<Flaky>, Site, Site) {
    let home = tempfile::tempdir().unwrap();
    let ledger = Flaky::open(home.path());
    let mut ma = Site::new("ma01", home.path(), &ledger).await;
    let mut tx = Site::new("tx01", home.path(), &ledger).await;
    ma.start(Some(repair_config()));
    tx.start(Some(repair_config()));
    (home, ledger, ma, tx)
}

async fn caught_up(sites: &[&Site]) {
    for site in sites {
        until("caught up", async || match site.repair().caught_up() {
            Some(_) => Ok(()),
            None => Err(format!("{:?}", site.repair().status())),
        })
        .await;
        site.no_gaps().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_all_sizes_arrive_byte_for_byte() {
    let (_home, _ledger, ma, tx) = two().await;
    let sizes = [0, 1, 1000, 65_536, 5 << 20];
    for (n, size) in sizes.into_iter().enumerate() {
        let (site, seed) = (if n % 2 == 0 { &ma } else { &tx }, n as u64);
        site.put(&format!("file {n} é&=%"), None, &bytes(seed, size))
            .await;
    }
    for (n, size) in sizes.into_iter().enumerate() {
        for site in [&ma, &tx] {
            site.comes(&format!("file {n} é&=%"), &bytes(n as u64, size))
                .await;
        }
    }
    caught_up(&[&ma, &tx]).await;
    assert_eq!(tx.saw(|what| matches!(what, What::Copied { .. })), 3);
    assert_eq!(tx.repair().status().files_copied, 3);
    assert_eq!(ma.saw(|what| matches!(what, What::Copied { .. })), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn deletes_overwrites_and_class_changes_arrive() {
    let (_home, _ledger, ma, tx) = two().await;
    for class in ["thumb", "raw"] {
        let name = phylactery::file::Domain::from_bytes(b"photos");
        let settings = mogilefs_protocol::client::ClassSettings {
            domain: &name.bytes(),
            class: class.as_bytes(),
            mindevcount: 1,
            ..Default::default()
        };
        ma.client().await.create_class(&settings).await.unwrap();
    }
    let old = ma.put("k", None, b"old").await;
    tx.comes("k", b"old").await;
    ma.put("k", None, b"new bytes").await;
    tx.comes("k", b"new bytes").await;
    assert_ne!(ma.comes("k", b"new bytes").await, old);
    // The class is not there yet: it is made as it is at the source.
    ma.set_class("k", "thumb").await;
    until("the class", async || match tx.read("k").await {
        Some((_, class, _)) if class == "thumb" => Ok(()),
        other => Err(format!("{other:?}; gap {:?}", tx.gap("k").await)),
    })
    .await;
    assert!(tx.saw(|what| matches!(what, What::ClassApplied { .. })) >= 1);
    ma.put("with class", Some("raw"), b"c").await;
    tx.comes("with class", b"c").await;
    assert_eq!(tx.read("with class").await.unwrap().1, "raw");
    tx.delete("k").await;
    ma.goes("k").await;
    // Put again after the delete, elsewhere.
    ma.put("k", None, b"once more").await;
    tx.comes("k", b"once more").await;
    caught_up(&[&ma, &tx]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn domains_are_made_where_they_are_missing() {
    let home = tempfile::tempdir().unwrap();
    let ledger = Flaky::open(home.path());
    let mut ma = Site::new("ma01", home.path(), &ledger).await;
    let mut tx = Site::with_domain("tx01", home.path(), &ledger, None).await;
    ma.start(Some(repair_config()));
    tx.start(Some(repair_config()));
    ma.put("k", None, b"bytes").await;
    tx.comes("k", b"bytes").await;
    tx.no_gaps().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn renames_move_the_bytes_that_are_here() {
    let (_home, _ledger, ma, tx) = two().await;
    ma.put("k", None, b"bytes").await;
    let fid = tx.comes("k", b"bytes").await;
    ma.rename("k", "a").await;
    assert_eq!(tx.comes("a", b"bytes").await, fid, "copied, not renamed");
    tx.goes("k").await;
    // Renamed back to where it was, by the other one.
    tx.rename("a", "k").await;
    ma.comes("k", b"bytes").await;
    ma.goes("a").await;
    assert_eq!(tx.comes("k", b"bytes").await, fid);
    caught_up(&[&ma, &tx]).await;
    assert_eq!(tx.repair().status().files_copied, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_of_renames_made_while_repair_was_away_ends_right() {
    let (_home, _ledger, ma, mut tx) = two().await;
    ma.put("k", None, b"one").await;
    ma.put("z", None, b"two").await;
    tx.comes("k", b"one").await;
    tx.comes("z", b"two").await;
    tx.stop().await;
    // A chain, and names that change places.
    ma.rename("k", "a").await;
    ma.rename("a", "b").await;
    ma.rename("z", "k").await;
    ma.rename("b", "z").await;
    tx.start(Some(repair_config()));
    tx.comes("z", b"one").await;
    tx.comes("k", b"two").await;
    tx.goes("a").await;
    tx.goes("b").await;
    caught_up(&[&ma, &tx]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_renamed_to_two_places_ends_in_both_everywhere() {
    let (_home, _ledger, mut ma, mut tx) = two().await;
    ma.put("k", None, b"bytes").await;
    tx.comes("k", b"bytes").await;
    caught_up(&[&ma, &tx]).await;
    ma.stop().await;
    tx.stop().await;
    ma.start(None);
    tx.start(None);
    ma.rename("k", "a").await;
    tx.rename("k", "b").await;
    ma.stop().await;
    tx.stop().await;
    ma.start(Some(repair_config()));
    tx.start(Some(repair_config()));
    for site in [&ma, &tx] {
        site.comes("a", b"bytes").await;
        site.comes("b", b"bytes").await;
        site.goes("k").await;
    }
    caught_up(&[&ma, &tx]).await;
    let copied = ma.repair().status().files_copied + tx.repair().status().files_copied;
    assert_eq!(copied, 2, "renamed to and fro");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_of_two_writes_wins_in_both() {
    let (_home, _ledger, mut ma, mut tx) = two().await;
    ma.stop().await;
    tx.stop().await;
    ma.start(None);
    tx.start(None);
    for n in 0..10 {
        let key = format!("k{n}");
        let (first, second) = if n % 2 == 0 { (&ma, &tx) } else { (&tx, &ma) };
        first
            .put(&key, None, format!("first of {n}").as_bytes())
            .await;
        second
            .put(&key, None, format!("second of {n}").as_bytes())
            .await;
    }
    // And a delete against a put.
    ma.put("d", None, b"kept?").await;
    tx.put("d", None, b"deleted").await;
    tx.delete("d").await;
    ma.stop().await;
    tx.stop().await;
    ma.start(Some(repair_config()));
    tx.start(Some(repair_config()));
    for site in [&ma, &tx] {
        for n in 0..10 {
            site.comes(&format!("k{n}"), format!("second of {n}").as_bytes())
                .await;
        }
        site.goes("d").await;
    }
    caught_up(&[&ma, &tx]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_datacenter_that_comes_late_is_filled_and_placements_are_kept() {
    let home = tempfile::tempdir().unwrap();
    let ledger = Flaky::open(home.path());
    let mut ma = Site::new("ma01", home.path(), &ledger).await;
    ma.start(Some(repair_config()));
    for n in 0..50 {
        ma.put(&format!("k{n}"), None, &bytes(n, 100)).await;
    }
    let mut tx = Site::new("tx01", home.path(), &ledger).await;
    tx.start(Some(repair_config()));
    for n in 0..50 {
        tx.comes(&format!("k{n}"), &bytes(n, 100)).await;
    }
    caught_up(&[&ma, &tx]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_deleted_long_ago_is_forgotten_once_everybody_has_looked_since() {
    let home = tempfile::tempdir().unwrap();
    let ledger = Flaky::open(home.path());
    let mut ma = Site::new("ma01", home.path(), &ledger).await;
    let mut tx = Site::new("tx01", home.path(), &ledger).await;
    let short = || {
        let mut config = repair_config();
        config.tombstone_retention = std::time::Duration::from_secs(1);
        Some(config)
    };
    ma.start(short());
    tx.start(short());
    ma.put("gone", None, b"bytes").await;
    ma.put("kept", None, b"bytes").await;
    tx.comes("gone", b"bytes").await;
    tx.comes("kept", b"bytes").await;
    ma.delete("gone").await;
    tx.goes("gone").await;
    caught_up(&[&ma, &tx]).await;
    // Its own datacenter has looked a few times, the other has not since.
    tx.pause("scan", true).await;
    let scans = async |site: &Site| {
        let before = site.repair().status().workers[2].progress.clone();
        site.repair().ask_for_scan();
        until("scanned", async || {
            let now = site.repair().status().workers[2].progress.clone();
            match (&before, &now) {
                (Progress::Scan(before), Progress::Scan(now))
                    if now.ended > before.ended && now.began.is_none() =>
                {
                    Ok(())
                }
                _ => Err(format!("{now:?}")),
            }
        })
        .await;
    };
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    scans(&ma).await;
    scans(&ma).await;
    assert!(
        ma.record("gone").await.head.is_some(),
        "tx01 has not looked"
    );
    tx.pause("scan", false).await;
    scans(&tx).await;
    until("forgotten", async || {
        scans(&ma).await;
        match ma.record("gone").await.head {
            None => Ok(()),
            Some(head) => Err(format!("{head:?}")),
        }
    })
    .await;
    assert!(ma.record("gone").await.replicas.is_empty());
    assert!(ma.record("kept").await.head.is_some());
    // Who comes now reads the whole stream, in which the file is still named, and waits for nothing that is forgotten.
    let mut or = Site::new("or01", home.path(), &ledger).await;
    or.start(short());
    or.comes("kept", b"bytes").await;
    caught_up(&[&ma, &tx, &or]).await;
    or.no_gaps().await;
    // The name is as any other.
    tx.put("gone", None, b"new").await;
    ma.comes("gone", b"new").await;
}
