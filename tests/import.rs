//! An installation that was there before is told to the ledger: from its tracker's list, and from a dump of its database.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod repair_sites;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use phylactery::config::RepairConfig;
use phylactery::file::{Class, Fid, FileName};
use phylactery::found::was_found;
use phylactery::ledger::{Ledger, Strength};
use phylactery::repair::import::{DumpFiles, ImportParts, Options, Progress, Report, import};
use phylactery::version::Version;
use repair_sites::{Flaky, Site, bytes, repair_config, until};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

async fn two() -> (TempDir, Arc<Flaky>, Site, Site) {
    let home = tempfile::tempdir().unwrap();
    let ledger = Flaky::open(home.path());
    let ma = Site::new("ma01", home.path(), &ledger).await;
    let tx = Site::new("tx01", home.path(), &ledger).await;
    (home, ledger, ma, tx)
}

fn parts(site: &Site) -> ImportParts {
    ImportParts {
        ledger: Arc::clone(&site.ledger) as Arc<dyn Ledger>,
        datacenter: site.name.clone(),
        node: "node1".parse().unwrap(),
        trackers: Arc::clone(&site.trackers),
        split_from: Default::default(),
        max_key: 60_000,
    }
}

async fn run(site: &Site, options: &Options) -> Report {
    let stop = CancellationToken::new();
    let report = import(&parts(site), options, &stop, &|_, _| {}).await;
    report.unwrap()
}

fn prefer(site: &Site) -> Options {
    Options {
        prefer: Some(site.name.clone()),
        ..Options::default()
    }
}

/// What comes past the proxy is taken in.
fn config() -> RepairConfig {
    RepairConfig {
        backfill_every: Some(std::time::Duration::from_millis(100)),
        ..repair_config()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trackers_list_is_told_and_the_others_hear_of_it() {
    let (_home, ledger, ma, mut tx) = two().await;
    // As it is while nobody takes in what comes past the proxy.
    tx.start(Some(repair_config()));
    until("tx01 has scanned", async || {
        tx.repair()
            .caught_up()
            .map(drop)
            .ok_or("not yet".to_owned())
    })
    .await;
    let mut fids = Vec::new();
    for n in 0..12 {
        let key = format!("file {n} é&\t=%");
        fids.push((
            key.clone(),
            ma.put_past_the_proxy(&key, &bytes(n, 500)).await,
        ));
    }
    let dry = Options {
        dry_run: true,
        ..Options::default()
    };
    let would = run(&ma, &dry).await;
    assert_eq!((would.new, would.looked_at, would.ended), (12, 12, true));
    assert!(
        ma.record(&fids[0].0).await.head.is_none(),
        "a dry run writes"
    );
    let cursor = ledger.cursor(&ma.name, "import").await.unwrap();
    assert!(cursor.is_none(), "a dry run leaves a cursor");

    let done = run(&ma, &Options::default()).await;
    assert_eq!((done.new, done.known, done.ended), (12, 0, true));
    for (key, fid) in &fids {
        let record = ma.record(key).await;
        assert_eq!(record.head.as_ref().unwrap().version, Version(*fid as i64));
        assert_eq!(record.class(), Some(&Class::default_class()));
    }
    for (n, (key, _)) in fids.iter().enumerate() {
        tx.comes(key, &bytes(n as u64, 500)).await;
    }
    let again = run(&ma, &Options::default()).await;
    assert_eq!((again.new, again.known), (0, 12));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_went_through_a_proxy_stays_whatever_an_old_dump_says() {
    let (home, _ledger, mut ma, mut tx) = two().await;
    ma.start(Some(repair_config()));
    tx.start(Some(repair_config()));
    let mut rows = Vec::new();
    for key in ["overwritten", "deleted", "renamed", "elsewhere", "plain"] {
        rows.push((ma.put_past_the_proxy(key, b"old").await, key));
    }
    ma.put("overwritten", None, b"new").await;
    ma.delete("deleted").await;
    ma.rename("renamed", "target").await;
    tx.put("elsewhere", None, b"of tx01").await;
    let dump = home.path().join("file.tsv");
    let text: String = rows
        .iter()
        .map(|(fid, key)| format!("{fid}\t1\t{key}\t3\t0\t1\n"))
        .collect();
    std::fs::write(&dump, text).unwrap();
    until("all of it is known", async || {
        let there = [
            ma.record("overwritten").await.head,
            ma.record("deleted").await.head,
            ma.record("target").await.head,
            ma.record("elsewhere").await.head,
        ];
        match there.iter().all(Option::is_some) {
            true => Ok(()),
            false => Err(format!("{there:?}")),
        }
    })
    .await;
    let domains = home.path().join("domain.tsv");
    std::fs::write(&domains, "1\tphotos\n").unwrap();
    let options = |domains| Options {
        dump: Some(DumpFiles {
            files: dump.clone(),
            domains,
            classes: None,
        }),
        ..Options::default()
    };
    let done = run(&ma, &options(Some(domains))).await;
    assert_eq!(done.unreadable, 0, "{done:?}");
    assert_eq!((done.new, done.known, done.outdone), (1, 3, 1), "{done:?}");
    // Names that no table tells are asked of the tracker, which does not have all of them any more.
    let again = run(&ma, &options(None)).await;
    let counts = (again.gone, again.known, again.looked_at, again.unreadable);
    assert_eq!(counts, (2, 3, 5, 0), "{again:?}");
    for key in ["overwritten", "target", "elsewhere"] {
        let head = ma.record(key).await.head.unwrap();
        assert!(!was_found(head.version), "{key}");
        assert!(head.put().is_some(), "{key}");
    }
    ma.comes("overwritten", b"new").await;
    ma.goes("deleted").await;
    tx.comes("plain", b"old").await;
    tx.comes("target", b"old").await;
    ma.comes("elsewhere", b"of tx01").await;
    tx.comes("elsewhere", b"of tx01").await;
}

/// A dump of so many rows with tables of names, some of them unreadable.
fn dump(folder: &Path, rows: u64) -> DumpFiles {
    let place = |name: &str| -> PathBuf { folder.join(name) };
    let mut text = String::new();
    for fid in 1..=rows {
        text.push_str(&format!("{fid}\t7\tkey\\\t{fid}\t10\t{}\t2\n", fid % 2));
        if fid == 100 {
            text.push_str("not a row\n");
        }
    }
    // Of a domain that the table does not name, and a fid that the tracker does not have any more.
    text.push_str("999999\t8\tlost\t1\t0\t1\n");
    std::fs::write(place("file.tsv"), text).unwrap();
    std::fs::write(place("domain.tsv"), "7\tphotos\n").unwrap();
    std::fs::write(place("class.tsv"), "7\t1\tthumb\t2\t\\N\t\\N\n").unwrap();
    DumpFiles {
        files: place("file.tsv"),
        domains: Some(place("domain.tsv")),
        classes: Some(place("class.tsv")),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_is_read_whole_across_interruptions_and_bad_lines_are_told() {
    const ROWS: u64 = 1_700;
    let (home, ledger, ma, _tx) = two().await;
    let options = Options {
        dump: Some(dump(home.path(), ROWS)),
        ..Options::default()
    };
    let mut runs = 0;
    let report = loop {
        runs += 1;
        // Each ends after the first of its batches.
        let stop = CancellationToken::new();
        let after_one = |_: &Report, progress: &Progress| {
            if progress.at > 0 {
                stop.cancel();
            }
        };
        let report = import(&parts(&ma), &options, &stop, &after_one)
            .await
            .unwrap();
        if report.ended {
            break report;
        }
        assert!(runs < 10, "{report:?}");
    };
    assert!(runs >= 3, "it was never interrupted");
    assert_eq!(report.looked_at, ROWS + 2, "{report:?}");
    let counts = (report.new, report.known, report.unreadable, report.gone);
    assert_eq!(counts, (ROWS, 0, 1, 1), "{report:?}");
    for fid in [1, 100, 101, 500, 501, ROWS] {
        let file = FileName::from_bytes(b"photos", format!("key\t{fid}").as_bytes());
        let record = ledger.read(&file, Strength::Local).await.unwrap();
        let class = if fid % 2 == 1 {
            &b"thumb"[..]
        } else {
            b"default"
        };
        assert_eq!(record.class(), Some(&Class::from_bytes(class)), "{fid}");
        assert_eq!(
            record.replicas[&ma.name].held.as_ref().unwrap().fid,
            Fid(fid)
        );
    }
    // A whole one again: what is listed has its line.
    let again = run(&ma, &options).await;
    assert_eq!((again.known, again.unreadable), (ROWS, 1));
    let told = again.listed.iter().map(|listed| (listed.kind, listed.line));
    let told: Vec<_> = told.collect();
    assert_eq!(told, [("unreadable", Some(101))]);
    assert!(
        again.listed[0].why.contains("1 columns"),
        "{:?}",
        again.listed
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_18_different_files_are_listed_and_decided_by_a_person() {
    let (_home, ledger, mut ma, mut tx) = two().await;
    for (key, ours, theirs) in [
        ("same", &b"the same"[..], &b"the same"[..]),
        ("a", b"of ma01", b"of tx01"),
        ("b", b"of ma01", b"longer, of tx01"),
    ] {
        ma.put_past_the_proxy(key, ours).await;
        tx.put_past_the_proxy(key, theirs).await;
    }
    assert_eq!(run(&ma, &Options::default()).await.new, 3);
    let met = run(&tx, &Options::default()).await;
    assert_eq!((met.adopted, met.conflicts, met.new), (1, 2, 0), "{met:?}");
    assert_eq!(met.listed.len(), 2);
    assert!(met.listed.iter().all(|listed| listed.kind == "conflict"));
    assert_eq!(ledger.count_gaps(&tx.name).await.unwrap(), 2);
    // Repair and backfill leave them alone too.
    ma.start(Some(config()));
    tx.start(Some(config()));
    for site in [&ma, &tx] {
        until("caught up", async || {
            site.repair()
                .caught_up()
                .map(drop)
                .ok_or("not yet".to_owned())
        })
        .await;
    }
    assert_eq!(ma.read("a").await.unwrap().2, b"of ma01");
    assert_eq!(tx.read("a").await.unwrap().2, b"of tx01");
    assert_eq!(tx.read("b").await.unwrap().2, b"longer, of tx01");
    let decided = run(&tx, &prefer(&tx)).await;
    assert_eq!((decided.decided, decided.conflicts), (2, 0), "{decided:?}");
    for site in [&ma, &tx] {
        site.comes("a", b"of tx01").await;
        site.comes("b", b"longer, of tx01").await;
        site.comes("same", b"the same").await;
        site.no_gaps().await;
    }
    assert_eq!(tx.repair().status().files_copied, 0);
    // The other way round.
    tx.put_past_the_proxy("c", b"tx01's").await;
    tx.stop().await;
    ma.stop().await;
    ma.put_past_the_proxy("d", b"of ma01").await;
    tx.put_past_the_proxy("d", b"of tx01").await;
    run(&ma, &Options::default()).await;
    let decided = run(&tx, &prefer(&ma)).await;
    assert_eq!(decided.decided, 1, "{decided:?}");
    ma.start(Some(config()));
    tx.start(Some(config()));
    tx.comes("d", b"of ma01").await;
    ma.comes("d", b"of ma01").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_18_imports_at_the_same_time_do_not_overwrite_each_other() {
    let (_home, ledger, mut ma, mut tx) = two().await;
    ma.put_past_the_proxy("k", b"of ma01").await;
    for n in 0..3 {
        tx.put_past_the_proxy(&format!("{n}"), b"others").await;
    }
    tx.put_past_the_proxy("k", b"of tx01").await;
    // Both had read before either had written: what the second has told is written as it stands.
    run(&ma, &Options::default()).await;
    let of_ma = ma.record("k").await;
    let write =
        |record: &phylactery::ledger::FileRecord, site: &Site| phylactery::ledger::FileWrite {
            head: record.head.clone(),
            class: record.class_cell.clone(),
            replica: record
                .replicas
                .get(&site.name)
                .map(|replica| (site.name.clone(), replica.clone())),
        };
    let other = Flaky::open(&tx.folder);
    let alone = ImportParts {
        ledger: Arc::clone(&other) as Arc<dyn Ledger>,
        ..parts(&tx)
    };
    let stop = CancellationToken::new();
    import(&alone, &Options::default(), &stop, &|_, _| {})
        .await
        .unwrap();
    let file = repair_sites::file("k");
    let of_tx = other.read(&file, Strength::Local).await.unwrap();
    assert!(of_tx.head.as_ref().unwrap().version > of_ma.head.as_ref().unwrap().version);
    ledger
        .write(&file, &write(&of_tx, &tx), Strength::Whole)
        .await
        .unwrap();
    ma.start(Some(config()));
    tx.start(Some(config()));
    ma.parks("k", "two installations had different files").await;
    assert_eq!(ma.read("k").await.unwrap().2, b"of ma01");
    assert_eq!(tx.read("k").await.unwrap().2, b"of tx01");
    assert_eq!(run(&ma, &prefer(&ma)).await.decided, 1);
    tx.comes("k", b"of ma01").await;
    ma.comes("k", b"of ma01").await;
}
