//! One MogileFS over two sites becomes two, in place: each keeps the bytes that are on its own disks, and none destroys the other's.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod repair_sites;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mogilefs_protocol::client::ClassSettings;
use phylactery::config::RepairConfig;
use phylactery::file::Found;
use phylactery::repair::status::{BackfillProgress, Progress};
use phylactery::split::{self, Level};
use phylactery::tracker::{StorageHost, TrackerConfig, fid_file};
use phylactery::trackers::Trackers;
use repair_sites::{Flaky, Site, any_port, bytes, dc, repair_config, until};
use rusqlite::Connection;

/// Where the fids of the new installation begin.
const FAR: u64 = 1_000_000_000;

/// Two hosts have two addresses: a tracker insists on that.
fn at(last: u8) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, last], 0))
}

fn host(name: &str, listen: SocketAddr, devices: &[u32]) -> StorageHost {
    StorageHost {
        name: name.to_owned(),
        listen,
        advertise: None,
        devices: devices.to_vec(),
    }
}

fn tracker(folder: &Path, hosts: Vec<StorageHost>) -> TrackerConfig {
    let mut config = TrackerConfig::new(folder.to_owned(), any_port(), any_port()).domain("photos");
    config.hosts = hosts;
    config.background_interval = Duration::from_millis(200);
    config.delete_delay = Duration::ZERO;
    config
}

fn config(split_from: &[&str]) -> RepairConfig {
    RepairConfig {
        backfill_every: Some(Duration::from_millis(100)),
        split_from: split_from.iter().map(|name| dc(name)).collect(),
        ..repair_config()
    }
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

/// The steps of `phylactery split guide`, in this tracker's tables: only these devices and their host stay, nothing waits, and fids begin at `first`.
fn clean(database: &Path, own_host: &str, own: [u32; 2], first: Option<u64>) {
    let db = Connection::open(database).unwrap();
    let [one, two] = own;
    db.execute_batch(&format!(
        "DELETE FROM file_on WHERE devid NOT IN ({one}, {two});
         DELETE FROM device WHERE devid NOT IN ({one}, {two});
         DELETE FROM host WHERE hostname != CAST('{own_host}' AS BLOB);
         DELETE FROM delqueue; DELETE FROM replqueue; DELETE FROM tempfile;
         UPDATE file SET devcount = (SELECT count(*) FROM file_on WHERE file_on.fid = file.fid);"
    ))
    .unwrap();
    if let Some(first) = first {
        db.execute(
            "UPDATE counter SET value = ?1 WHERE name = 'last_fid'",
            [first as i64],
        )
        .unwrap();
    }
}

struct Split {
    home: tempfile::TempDir,
    ledger: Arc<Flaky>,
    /// Keys, and their bytes.
    files: Vec<(String, Vec<u8>)>,
    /// Those of which no copy is on the new site's disks.
    only_old: BTreeSet<String>,
    old: PathBuf,
    hosts: [SocketAddr; 2],
}

/// One installation over two sites, stopped; its database is copied, and its second site's disks are in both folders.
async fn stretched() -> Split {
    let home = tempfile::tempdir().unwrap();
    let ledger = Flaky::open(home.path());
    let old = home.path().join("ma01/tracker");
    let hosts = vec![host("ma", at(2), &[1, 2]), host("tx", at(3), &[3, 4])];
    let mut site = Site::over("ma01", home.path(), &ledger, tracker(&old, hosts)).await;
    let class = ClassSettings {
        domain: b"photos",
        class: b"single",
        mindevcount: 1,
        replpolicy: None,
        hashtype: None,
    };
    site.trackers.create_class(&class).await.unwrap();
    let mut files = Vec::new();
    let mut fids = Vec::new();
    for n in 0..24u64 {
        let (key, body) = (format!("file {n}"), bytes(n, 2000 + n as usize));
        let class = (n % 2 == 1).then_some("single");
        let (fid, devid, path) = site.upload(&key, class, &body).await;
        let close = mogilefs_protocol::client::CreateClose {
            domain: b"photos",
            key: key.as_bytes(),
            fid,
            devid,
            path: &path,
            ..Default::default()
        };
        site.client().await.create_close(&close).await.unwrap();
        fids.push((key.clone(), fid));
        files.push((key, body));
    }
    // Files of the class default get a copy in each site.
    let on = async |fid| {
        site.trackers
            .file_debug_by_fid(phylactery::file::Fid(fid))
            .await
            .unwrap()
            .devids
    };
    for (key, fid) in fids.iter().step_by(2) {
        until("a copy in each site", async || {
            let devids = on(*fid).await;
            match devids.iter().any(|dev| *dev <= 2) && devids.iter().any(|dev| *dev > 2) {
                true => Ok(()),
                false => Err(format!("{key} is on {devids:?}")),
            }
        })
        .await;
    }
    let mut only_old = BTreeSet::new();
    for (key, fid) in &fids {
        if on(*fid).await.iter().all(|dev| *dev <= 2) {
            only_old.insert(key.clone());
        }
    }
    let listed = site.trackers.get_hosts().await.unwrap();
    let bound = |name: &str| -> SocketAddr {
        let host = listed.iter().find(|host| host.hostname == name).unwrap();
        format!("{}:{}", host.hostip, host.http_port)
            .parse()
            .unwrap()
    };
    let hosts = [bound("ma"), bound("tx")];
    site.stop_tracker().await;
    drop(site);
    let new = home.path().join("tx01/tracker");
    std::fs::create_dir_all(&new).unwrap();
    let copy = new.join("tracker.db");
    let db = Connection::open(old.join("tracker.db")).unwrap();
    db.execute("VACUUM INTO ?1", [copy.to_str().unwrap()])
        .unwrap();
    drop(db);
    for device in ["dev3", "dev4"] {
        std::os::unix::fs::symlink(old.join(device), new.join(device)).unwrap();
    }
    Split {
        home,
        ledger,
        files,
        only_old,
        old,
        hosts,
    }
}

impl Split {
    async fn sites(&self) -> (Site, Site) {
        let new = self.home.path().join("tx01/tracker");
        let home = self.home.path();
        let [ma, tx] = self.hosts;
        (
            Site::over(
                "ma01",
                home,
                &self.ledger,
                tracker(&self.old, vec![host("ma", ma, &[1, 2])]),
            )
            .await,
            Site::over(
                "tx01",
                home,
                &self.ledger,
                tracker(&new, vec![host("tx", tx, &[3, 4])]),
            )
            .await,
        )
    }
}

async fn check(sites: [&Site; 2]) -> Vec<split::Finding> {
    let sites = sites.map(|site| split::Site {
        name: site.name.clone(),
        trackers: Trackers::new(vec![site.tracker_addr.to_string()], 2),
        registered: None,
    });
    split::check(&sites, 40).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_split_in_place_copies_what_is_not_there_and_destroys_nothing() {
    let split = stretched().await;
    let new = split.home.path().join("tx01/tracker/tracker.db");
    clean(&split.old.join("tracker.db"), "ma", [1, 2], None);
    clean(&new, "tx", [3, 4], Some(FAR));
    let (mut ma, mut tx) = split.sites().await;
    ma.register().await;
    ma.start(Some(config(&["tx01"])));
    until("the old one is told", async || match backfill(&ma) {
        now if now.swept.is_some() && now.looked_at >= 24 => Ok(()),
        now => Err(format!("{now:?}")),
    })
    .await;
    // Work goes on at both sites before the new one has a proxy.
    ma.put("new of ma01", None, b"new, of ma01").await;
    ma.delete("file 0").await;
    ma.put("file 2", None, b"overwritten in ma01").await;
    tx.put_past_the_proxy("new of tx01", b"new, of tx01").await;

    tx.register().await;
    tx.start(Some(config(&["ma01"])));
    until("the new one is told", async || match backfill(&tx) {
        now if now.swept.is_some() => Ok(()),
        now => Err(format!("{now:?}")),
    })
    .await;
    // What the old one had on the new one's disks only comes back when it looks.
    ma.repair().ask_for_verify();
    let left = split
        .files
        .iter()
        .filter(|(key, _)| key != "file 0" && key != "file 2");
    let left: Vec<_> = left.collect();
    for (key, body) in &left {
        for site in [&ma, &tx] {
            site.comes(key, body).await;
        }
    }
    for site in [&ma, &tx] {
        site.comes("new of ma01", b"new, of ma01").await;
        site.comes("new of tx01", b"new, of tx01").await;
        site.comes("file 2", b"overwritten in ma01").await;
        site.goes("file 0").await;
    }
    // Only what was not on its disks was copied: those files, and the two that are new in ma01.
    let missing = left
        .iter()
        .filter(|(key, _)| split.only_old.contains(key))
        .count() as u64;
    assert!(
        missing > 0,
        "every file was on both sites' disks: the test says nothing"
    );
    assert_eq!(tx.repair().status().files_copied, missing + 2);
    for (key, _) in &left {
        let held = tx.record(key).await.replicas[&tx.name].held.clone();
        let found = held.unwrap().checked.unwrap().found;
        let wanted = match split.only_old.contains(key) {
            true => Found::Copied,
            false => Found::Size,
        };
        assert_eq!(found, wanted, "{key}");
    }

    // Both go on, and none takes the other's bytes: after deletes and overwrites in each, and their trackers' cleaning.
    tx.delete("file 4").await;
    ma.delete("file 6").await;
    tx.put("file 8", None, b"overwritten in tx01").await;
    for site in [&ma, &tx] {
        site.goes("file 4").await;
        site.goes("file 6").await;
        site.comes("file 8", b"overwritten in tx01").await;
    }
    until("the bytes of what was deleted are gone", async || {
        let copies = [1, 2, 3, 4].map(|devid| fid_file(&split.old, devid, 5));
        match copies.iter().any(|copy| copy.exists()) {
            false => Ok(()),
            true => Err(format!("{copies:?}")),
        }
    })
    .await;
    let changed = ["file 0", "file 2", "file 4", "file 6", "file 8"];
    for (key, body) in split
        .files
        .iter()
        .filter(|(key, _)| !changed.contains(&key.as_str()))
    {
        for site in [&ma, &tx] {
            assert_eq!(
                site.read(key).await.unwrap().2,
                *body,
                "{key} in {}",
                site.name
            );
        }
    }
    for site in [&ma, &tx] {
        site.no_gaps().await;
    }
    let found = check([&ma, &tx]).await;
    assert!(
        found.iter().all(|one| one.level != Level::Bad),
        "{found:#?}"
    );
    let apart = found.iter().find(|one| one.about == "fids").unwrap();
    assert_eq!(apart.level, Level::Good, "{apart:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_19_a_database_that_was_only_copied_is_refused() {
    let split = stretched().await;
    // Nobody has taken the steps.
    let (ma, tx) = split.sites().await;
    let found = check([&ma, &tx]).await;
    let bad: Vec<_> = found.iter().filter(|one| one.level == Level::Bad).collect();
    assert_eq!(bad.len(), 2, "{found:#?}");
    for (one, url) in bad.iter().zip(split.hosts) {
        assert_eq!(one.about, "storage");
        let named = split
            .hosts
            .iter()
            .any(|url| one.text.contains(&url.to_string()));
        assert!(named, "{url}: {}", one.text);
        assert!(
            one.text.contains("dev1 alive") || one.text.contains("dev3 alive"),
            "{}",
            one.text
        );
    }
    let fids = found.iter().find(|one| one.about == "fids").unwrap();
    assert_eq!(fids.level, Level::Unknown, "{fids:?}");
    // Devices that were forgotten with their rows left behind are noticed.
    let mut tx = tx;
    tx.stop_tracker().await;
    let database = split.home.path().join("tx01/tracker/tracker.db");
    let db = Connection::open(&database).unwrap();
    db.execute_batch(
        "DELETE FROM device WHERE devid < 3; DELETE FROM host WHERE hostname = CAST('ma' AS BLOB)",
    )
    .unwrap();
    drop(db);
    let new = split.home.path().join("tx01/tracker");
    let tx = Site::over(
        "tx01",
        split.home.path(),
        &split.ledger,
        tracker(&new, vec![host("tx", split.hosts[1], &[3, 4])]),
    )
    .await;
    let found = check([&ma, &tx]).await;
    let left = found
        .iter()
        .find(|one| one.about == "devices" && one.level == Level::Bad);
    let left = left.unwrap_or_else(|| panic!("{found:#?}"));
    assert_eq!(left.of, [dc("tx01")]);
}
