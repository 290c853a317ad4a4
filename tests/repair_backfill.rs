//! What clients do past the proxy is found and honoured, and nothing of it is undone; what was there before a proxy is taken in.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod repair_sites;

use std::sync::Arc;
use std::time::Duration;

use phylactery::config::{OnVanished, RepairConfig};
use phylactery::events::What;
use phylactery::file::{Class, Found, Op};
use phylactery::found::was_found;
use phylactery::ledger::{Ledger, Membership, Strength};
use phylactery::repair::status::{BackfillProgress, Progress, VerifyProgress};
use phylactery::version::{Version, wall_clock};
use repair_sites::{Flaky, Site, bytes, repair_config, until};
use tempfile::TempDir;

/// Backfill looks ten times in a second; verify only when a test asks.
fn config() -> RepairConfig {
    RepairConfig {
        backfill_every: Some(Duration::from_millis(100)),
        ..repair_config()
    }
}

async fn two() -> (TempDir, Arc<Flaky>, Site, Site) {
    let home = tempfile::tempdir().unwrap();
    let ledger = Flaky::open(home.path());
    let ma = Site::new("ma01", home.path(), &ledger).await;
    let tx = Site::new("tx01", home.path(), &ledger).await;
    (home, ledger, ma, tx)
}

async fn two_running() -> (TempDir, Arc<Flaky>, Site, Site) {
    let (home, ledger, mut ma, mut tx) = two().await;
    ma.start(Some(config()));
    tx.start(Some(config()));
    (home, ledger, ma, tx)
}

fn backfill(site: &Site) -> BackfillProgress {
    let workers = site.repair().status().workers;
    let found = workers
        .into_iter()
        .find_map(|worker| match worker.progress {
            Progress::Backfill(progress) => Some(progress),
            _ => None,
        });
    found.unwrap_or_default()
}

fn verify(site: &Site) -> VerifyProgress {
    let workers = site.repair().status().workers;
    let found = workers
        .into_iter()
        .find_map(|worker| match worker.progress {
            Progress::Verify(progress) => Some(progress),
            _ => None,
        });
    found.unwrap_or_default()
}

/// A whole pass of verify, from now on.
async fn pass(site: &Site) -> VerifyProgress {
    let before = verify(site).ended;
    site.repair().ask_for_verify();
    until("a whole pass", async || {
        let now = verify(site);
        match now.began.is_none() && now.ended > before {
            true => Ok(now),
            false => Err(format!("{now:?}")),
        }
    })
    .await
}

/// Waits until all files of a site's tracker were looked at, from now on.
async fn swept(site: &Site) {
    let before = until("a first sweep", async || {
        backfill(site).swept.ok_or("none".to_owned())
    })
    .await;
    site.repair().ask_for_backfill();
    until("a sweep", async || match backfill(site) {
        now if now.swept > Some(before) => Ok(()),
        now => Err(format!("{now:?}")),
    })
    .await;
}

async fn head(site: &Site, key: &str) -> Version {
    site.record(key).await.head.expect("a head").version
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_stored_past_the_proxy_comes_to_the_others_below_all_that_went_through_one() {
    let (_home, _ledger, ma, tx) = two_running().await;
    let body = bytes(1, 3000);
    let fid = ma.put_past_the_proxy("new", &body).await;
    tx.comes("new", &body).await;
    let record = ma.record("new").await;
    assert_eq!(head(&ma, "new").await, Version(fid as i64));
    assert!(was_found(head(&ma, "new").await));
    assert_eq!(record.class(), Some(&Class::default_class()));
    // Whoever changes it through the proxy is newer.
    tx.put("new", None, b"newer").await;
    ma.comes("new", b"newer").await;
    assert!(!was_found(head(&ma, "new").await));
    ma.no_gaps().await;
    tx.no_gaps().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_14_an_overwrite_past_the_proxy_is_just_above_what_was_here() {
    let (_home, _ledger, ma, tx) = two_running().await;
    tx.put("k", None, b"first").await;
    ma.comes("k", b"first").await;
    let since = ma.record("k").await.replicas[&ma.name].since;
    ma.put_past_the_proxy("k", b"second").await;
    tx.comes("k", b"second").await;
    assert_eq!(head(&tx, "k").await, since.next());
    // And what is stored through a proxy after that wins again.
    tx.put("k", None, b"third").await;
    ma.comes("k", b"third").await;
    ma.no_gaps().await;
    tx.no_gaps().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_14_what_was_never_applied_here_gives_way_to_what_went_through_a_proxy() {
    let (_home, _ledger, mut ma, mut tx) = two().await;
    ma.put_past_the_proxy("k", b"from before").await;
    ma.put_past_the_proxy("deleted", b"from before").await;
    tx.start(Some(config()));
    tx.put("k", None, b"through a proxy").await;
    tx.put("deleted", None, b"short-lived").await;
    tx.delete("deleted").await;
    tx.goes("deleted").await;
    ma.start(Some(config()));
    ma.comes("k", b"through a proxy").await;
    ma.goes("deleted").await;
    tx.comes("k", b"through a proxy").await;
    ma.no_gaps().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_class_set_past_the_proxy_is_told() {
    let (_home, _ledger, ma, tx) = two_running().await;
    let domain = phylactery::file::Domain::from_bytes(b"photos");
    for site in [&ma, &tx] {
        site.client().await;
        let class = mogilefs_protocol::client::ClassSettings {
            domain: &domain.bytes(),
            class: b"thumb",
            mindevcount: 1,
            replpolicy: None,
            hashtype: None,
        };
        site.trackers.create_class(&class).await.unwrap();
    }
    ma.put("k", None, b"bytes").await;
    tx.comes("k", b"bytes").await;
    let mut client = ma.client().await;
    client.updateclass(b"photos", b"k", b"thumb").await.unwrap();
    swept(&ma).await;
    until("the class in tx01", async || match tx.read("k").await {
        Some((_, class, _)) if class == "thumb" => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_6_a_rename_past_the_proxy_is_a_rename_and_no_loss() {
    let (_home, _ledger, ma, tx) = two_running().await;
    let body = bytes(2, 5000);
    ma.put("a", None, &body).await;
    tx.comes("a", &body).await;
    let mut client = ma.client().await;
    client.rename(b"photos", b"a", b"b").await.unwrap();
    let seen = pass(&ma).await;
    assert_eq!((seen.missing, seen.past_the_proxy), (0, 1), "{seen:?}");
    tx.comes("b", &body).await;
    tx.goes("a").await;
    assert_eq!(tx.saw(|what| matches!(what, What::Moved { .. })), 1);
    assert_eq!(tx.repair().status().files_copied, 1, "copied once, as a");
    // The target may have been taken in before: then the source follows it.
    ma.put("c", None, &body).await;
    tx.comes("c", &body).await;
    client.rename(b"photos", b"c", b"d").await.unwrap();
    swept(&ma).await;
    tx.comes("d", &body).await;
    pass(&ma).await;
    tx.goes("c").await;
    ma.no_gaps().await;
    tx.no_gaps().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_6_a_vanish_becomes_a_delete_only_where_that_was_said_and_not_in_the_first_pass() {
    let (_home, _ledger, mut ma, mut tx) = two().await;
    tx.start(Some(config()));
    ma.start(Some(RepairConfig {
        on_vanished: OnVanished::Delete,
        ..config()
    }));
    for key in ["k", "kept"] {
        ma.put(key, None, b"bytes").await;
        tx.comes(key, b"bytes").await;
    }
    let content = head(&ma, "k").await;
    let mut client = ma.client().await;
    client.delete(b"photos", b"k").await.unwrap();
    // In the first pass nobody has ever seen it here.
    let first = pass(&ma).await;
    assert_eq!((first.deleted, first.unsure), (0, 1), "{first:?}");
    assert_eq!(head(&ma, "k").await, content);
    let second = pass(&ma).await;
    assert_eq!((second.deleted, second.unsure), (1, 0), "{second:?}");
    tx.goes("k").await;
    let record = ma.record("k").await;
    let told = record.head.as_ref().unwrap();
    assert_eq!(told.version, content.next(), "never now");
    assert!(matches!(told.op, Op::Delete { renamed_to: None }));
    tx.comes("kept", b"bytes").await;

    // The other one restores, as is the default.
    let mut client = tx.client().await;
    client.delete(b"photos", b"kept").await.unwrap();
    for _ in 0..2 {
        pass(&tx).await;
    }
    tx.comes("kept", b"bytes").await;
    ma.comes("kept", b"bytes").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_7_a_tracker_that_knows_nothing_deletes_nothing() {
    let (_home, _ledger, mut ma, mut tx) = two().await;
    tx.start(Some(config()));
    ma.start(Some(RepairConfig {
        on_vanished: OnVanished::Delete,
        ..config()
    }));
    let keys: Vec<String> = (0..110).map(|n| format!("file {n}")).collect();
    for key in &keys {
        ma.put(key, None, b"bytes").await;
    }
    for key in &keys {
        tx.comes(key, b"bytes").await;
    }
    pass(&ma).await;
    let mut client = ma.client().await;
    for key in &keys[..20] {
        client.delete(b"photos", key.as_bytes()).await.unwrap();
    }
    ma.repair().ask_for_verify();
    until("it asks", async || match verify(&ma).asks {
        Some(_) => Ok(()),
        None => Err(format!("{:?}", verify(&ma))),
    })
    .await;
    assert_eq!(verify(&ma).deleted, 0);
    for key in &keys {
        let record = ma.record(key).await;
        assert!(record.content().is_some(), "{key} was deleted");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_15_what_repair_has_brought_is_not_announced_and_a_late_close_is_found() {
    let (_home, _ledger, mut ma, tx) = two_running().await;
    // Opened early, closed after the cursor has passed.
    let (fid, devid, path) = ma.upload("late", None, b"late").await;
    for n in 0..20 {
        tx.put(&format!("file {n}"), None, &bytes(n, 100)).await;
    }
    for n in 0..20 {
        ma.comes(&format!("file {n}"), &bytes(n, 100)).await;
    }
    until("the cursor is behind them", async || match backfill(&ma) {
        now if now.looked_at >= 20 => Ok(()),
        now => Err(format!("{now:?}")),
    })
    .await;
    // Also right after a kill, when the ledger may not know yet.
    tx.put("last", None, b"last").await;
    until("copied", async || match ma.read("last").await {
        Some(_) => Ok(()),
        None => Err("not yet".to_owned()),
    })
    .await;
    ma.kill().await;
    ma.start(Some(config()));
    ma.comes("last", b"last").await;
    let close = mogilefs_protocol::client::CreateClose {
        domain: b"photos",
        key: b"late",
        fid,
        devid,
        path: &path,
        ..Default::default()
    };
    ma.client().await.create_close(&close).await.unwrap();
    swept(&ma).await;
    tx.comes("late", b"late").await;
    assert_eq!(backfill(&ma).announced, 1, "the late one alone");
    for n in 0..20 {
        let record = ma.record(&format!("file {n}")).await;
        assert_eq!(record.head.unwrap().origin, tx.name, "file {n}");
    }
    assert_eq!(tx.repair().status().files_copied, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_18_two_installations_with_different_files_under_a_key_are_left_to_a_person() {
    let (_home, ledger, mut ma, mut tx) = two().await;
    let same = bytes(3, 4000);
    ma.put_past_the_proxy("same", &same).await;
    tx.put_past_the_proxy("same", &same).await;
    ma.put_past_the_proxy("size", b"of ma01").await;
    tx.put_past_the_proxy("size", b"of tx01, and longer").await;
    ma.put_past_the_proxy("bytes", b"of ma01").await;
    tx.put_past_the_proxy("bytes", b"of tx01").await;
    ma.start(Some(config()));
    until("taken in", async || match backfill(&ma) {
        now if now.announced == 3 && now.swept.is_some() => Ok(()),
        now => Err(format!("{now:?}")),
    })
    .await;
    until("told", async || {
        let known = ma.record("bytes").await.head.is_some();
        known.then_some(()).ok_or("not yet".to_owned())
    })
    .await;
    tx.start(Some(config()));
    for key in ["size", "bytes"] {
        let gap = tx.parks(key, "two installations had different files").await;
        assert!(gap.last_error.contains("ma01"), "{}", gap.last_error);
    }
    tx.comes("same", &same).await;
    let held = tx.record("same").await.replicas[&tx.name].held.clone();
    assert_eq!(held.unwrap().checked.unwrap().found, Found::Bytes);
    // Retries and scans change nothing about it.
    tx.repair().ask_for_scan();
    swept(&tx).await;
    for (site, size, body) in [
        (&ma, &b"of ma01"[..], b"of ma01"),
        (&tx, &b"of tx01, and longer"[..], b"of tx01"),
    ] {
        assert_eq!(site.read("size").await.unwrap().2, size);
        assert_eq!(site.read("bytes").await.unwrap().2, body);
    }
    assert_eq!(tx.repair().status().files_copied, 0);
    assert_eq!(ledger.count_gaps(&tx.name).await.unwrap(), 2);
    // What goes through a proxy ends it.
    ma.put("size", None, b"decided").await;
    tx.comes("size", b"decided").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_5_what_may_have_been_deleted_and_forgotten_is_listed_and_not_announced() {
    let (_home, ledger, mut ma, mut tx) = two().await;
    let known = bytes(1, 100);
    tx.put_past_the_proxy("old", b"from the time before").await;
    let here = tx.name.clone();
    let seeded = |seeded: Version| {
        let said = Membership {
            seeded: Some(seeded),
            updated: wall_clock(),
            ..Membership::unsaid(here.clone())
        };
        let ledger = Arc::clone(&ledger);
        async move { ledger.set_membership(&said, Strength::Each).await.unwrap() }
    };
    let retention = config().tombstone_retention.as_micros() as i64;
    seeded(Version(wall_clock().0 - 2 * retention)).await;
    tx.start(Some(config()));
    ma.start(Some(config()));
    let gap = tx
        .parks("old", "deleted elsewhere and forgotten since")
        .await;
    assert!(gap.last_error.contains("not touched"), "{gap:?}");
    assert_eq!(ma.record("old").await.head, None, "it was announced");
    assert!(tx.read("old").await.is_some(), "it was removed");
    // What goes through the proxy is known to be new.
    tx.put("new", None, &known).await;
    ma.comes("new", &known).await;
    // One that was seeded since deletes are remembered knows of all of them.
    seeded(Version(wall_clock().0 - retention / 2)).await;
    ma.comes("old", b"from the time before").await;
}
