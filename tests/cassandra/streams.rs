//! Why nothing is passed over, on the real cluster: what comes late, what only some copies have, what has expired, what a lost journal had not told.
//!
//! ma01 is played: a test says what it has written, and where. tx01 is real, and reads through its own nodes. What only ma01's nodes have is written
//! while the keyspace keeps no copies in tx01: so it lies there as if every hint had been lost.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use phylactery::ledger::{About, Change, Ledger, Strength};
use phylactery::repair::status::Progress;
use phylactery::version::{Version, wall_clock};

use crate::cluster::Cluster;
use crate::outside::{agreed, cql};
use crate::repair_sites::{Flaky, Http, Played, Site, file, repair_config, until};
use crate::support;

struct Two {
    /// The ledger through ma01's nodes, and through tx01's.
    there: Arc<Flaky>,
    here: Arc<Flaky>,
    ma: Played,
    tx: Site,
}

async fn two(cluster: &Cluster, keyspace: &str, home: &Path) -> Two {
    let through = async |datacenter: &str| {
        let ledger = support::ledger(cluster, datacenter, keyspace).await;
        Flaky::over(Arc::new(ledger))
    };
    let (there, here) = (through("ma01").await, through("tx01").await);
    let ma = Played::new("ma01", &there).await;
    let tx = Site::new("tx01", home, &here).await;
    Two {
        there,
        here,
        ma,
        tx,
    }
}

async fn put(ma: &Played, key: &str, fid: u64) {
    ma.serve(key, fid, Http::Good(key.as_bytes().to_vec()));
    ma.put(key, fid, key.len() as u64, None).await;
}

/// A file as [`put`] writes it, of this version, and no change that names it.
async fn untold(ma: &Played, key: &str, fid: u64, version: Version) {
    ma.serve(key, fid, Http::Good(key.as_bytes().to_vec()));
    let revision = ma.revision(version, fid, key.len() as u64, None);
    ma.write(key, &revision, fid).await;
}

async fn comes(tx: &Site, key: &str) {
    tx.comes(key, key.as_bytes()).await;
}

async fn caught_up(ma: &Played, tx: &Site) {
    until("caught up", async || {
        ma.beat().await;
        let proof = tx.repair().caught_up();
        proof.ok_or_else(|| format!("{:?}", tx.repair().status()))
    })
    .await;
}

/// Waits until tx01 says that this number is missing.
async fn misses(tx: &Site, hole: u64) {
    until(&format!("{hole} is missing"), async || {
        let status = tx.repair().status();
        match &status.workers[0].progress {
            Progress::Tail(streams) if streams.values().any(|stream| stream.hole == Some(hole)) => {
                Ok(())
            }
            _ => Err(format!("{status:?}")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_comes_an_hour_late_is_not_passed() {
    let cluster = Cluster::shared().await;
    let _calm = cluster.calm().await;
    let keyspace = &cluster.keyspace().await;
    let home = tempfile::tempdir().unwrap();
    let Two { ma, mut tx, .. } = two(cluster, keyspace, home.path()).await;
    tx.start(Some(repair_config()));
    put(&ma, "one", 1).await;
    let hole = ma.skip();
    put(&ma, "three", 3).await;
    comes(&tx, "three").await;
    misses(&tx, hole).await;
    // It is saved a moment after it moves.
    until("the cursor stands before the hole", async || {
        match ma.cursor_of(&tx).await {
            cursor if cursor == hole - 1 => Ok(()),
            cursor => Err(format!("{cursor}, before {hole}")),
        }
    })
    .await;
    assert_eq!(tx.repair().caught_up(), None);
    // Numbers out of order, and timestamps of an hour ago.
    let (four, five) = (ma.skip(), ma.skip());
    let old = Version(wall_clock().0 - 3_600_000_000);
    for (number, key, fid) in [(five, "five", 5), (hole, "two", 2), (four, "four", 4)] {
        untold(&ma, key, fid, old).await;
        ma.change_at(number, key, old).await;
        comes(&tx, key).await;
    }
    ma.passed_by(&tx).await;
    caught_up(&ma, &tx).await;
    tx.no_gaps().await;
    tx.stop().await;
}

/// While it lives, what is written lies on ma01's nodes alone.
async fn without_tx01(cluster: &Cluster, keyspace: &str, work: impl AsyncFnOnce()) {
    let copies = |text: &str| {
        format!(
            "ALTER KEYSPACE {keyspace} WITH replication = {{'class': 'NetworkTopologyStrategy', {text}}}"
        )
    };
    cql(cluster, &copies("'ma01': 2")).await;
    agreed(cluster).await;
    work().await;
    cql(cluster, &copies("'ma01': 2, 'tx01': 2")).await;
    agreed(cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_the_other_datacenter_has_is_waited_for_and_found() {
    let cluster = Cluster::shared().await;
    let alone = cluster.alone().await;
    let keyspace = &cluster.keyspace().await;
    let home = tempfile::tempdir().unwrap();
    let Two {
        there,
        here,
        ma,
        mut tx,
    } = two(cluster, keyspace, home.path()).await;
    tx.start(Some(repair_config()));
    put(&ma, "one", 1).await;
    comes(&tx, "one").await;
    ma.delivered.store(1, std::sync::atomic::Ordering::SeqCst);
    ma.passed_by(&tx).await;
    let only_there = Change {
        number: 1,
        file: Some(file("only_there")),
        version: Version(5),
        about: About::Head,
    };
    let mut other = ma.stream.clone();
    other.incarnation = "another".to_owned();

    // Nobody in tx01 looks while this is made.
    here.set_away(true);
    let version = wall_clock();
    without_tx01(cluster, keyspace, async || {
        untold(&ma, "head_is_there", 2, version).await;
        untold(&ma, "only_there", 3, Version(5)).await;
        there
            .append_change(&other, &only_there, Strength::Local)
            .await
            .unwrap();
        // The change itself, and all of the file after it.
        let number = ma.skip() + 1;
        assert_eq!(number, 3);
        put(&ma, "change_is_there", 4).await;
    })
    .await;
    // The change before them is everywhere, and its head is not.
    ma.change_at(2, "head_is_there", version).await;
    ma.delivered.store(3, std::sync::atomic::Ordering::SeqCst);
    ma.beat().await;

    // Each level finds what it promises to find.
    let ledger = support::ledger(cluster, "tx01", keyspace).await;
    let changes = async |strength| ledger.changes(&other, 0, 10, strength).await.unwrap();
    assert_eq!(changes(Strength::Local).await, vec![]);
    assert_eq!(changes(Strength::Each).await, vec![only_there.clone()]);
    let name = file("only_there");
    let head = async |strength| ledger.read(&name, strength).await.unwrap().head;
    assert_eq!(head(Strength::Local).await, None);
    assert_eq!(
        head(Strength::Each).await.map(|head| head.version),
        Some(Version(5))
    );

    // While ma01's nodes are down nothing of it is passed, and nothing is said to be in sync.
    for node in cluster.nodes_of("ma01") {
        alone.kill(node).await;
    }
    for node in cluster.nodes_of("ma01") {
        alone.seen_down(node).await;
    }
    here.set_away(false);
    until("the file waits", async || {
        let status = tx.repair().status();
        let said = format!("{status:?}");
        match said.contains("Cannot achieve consistency level") || said.contains("not available") {
            true => Ok(()),
            false => Err(said),
        }
    })
    .await;
    // That something does not happen has no condition to wait for: some rounds of every worker.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let name = ma.stream.to_string();
    let cursor = here.cursor(&tx.name, &name).await.unwrap();
    assert_eq!(cursor.map(|cursor| cursor.number), Some(1));
    assert_eq!(tx.repair().caught_up(), None);
    assert_eq!(tx.read("head_is_there").await, None);

    alone.launch(&cluster.nodes_of("ma01"));
    alone.wait_for(&cluster.nodes_of("ma01")).await;
    comes(&tx, "head_is_there").await;
    comes(&tx, "change_is_there").await;
    ma.passed_by(&tx).await;
    caught_up(&ma, &tx).await;
    tx.no_gaps().await;
    tx.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_expired_and_what_a_lost_journal_had_not_told_is_found_by_a_scan() {
    let cluster = Cluster::shared().await;
    let _calm = cluster.calm().await;
    let keyspace = &cluster.keyspace().await;
    let home = tempfile::tempdir().unwrap();
    let Two { mut ma, mut tx, .. } = two(cluster, keyspace, home.path()).await;
    // Other tests of this process see no difference: what they miss is not said to have been there, or is found.
    fail::cfg("tail::lost_at_once", "return").unwrap();
    tx.start(Some(repair_config()));
    put(&ma, "one", 1).await;
    comes(&tx, "one").await;
    ma.passed_by(&tx).await;
    caught_up(&ma, &tx).await;

    // The reader is away for longer than the changes live.
    tx.kill().await;
    // So are the ledger's copies there: they know nothing of the files either.
    without_tx01(cluster, keyspace, async || {
        for (number, key, fid) in [(2, "two", 2), (3, "three", 3)] {
            assert_eq!(ma.skip(), number);
            let version = wall_clock();
            untold(&ma, key, fid, version).await;
            cql(
                cluster,
                &format!(
                    "UPDATE {keyspace}.changes USING TIMESTAMP {version} AND TTL 1 SET domain = 'photos', key = '{key}', version = {version}, \
                     about = 'head' WHERE stream = '{}' AND block = 0 AND number = {number}",
                    ma.stream
                ),
            )
            .await;
        }
    })
    .await;
    until("they expire", async || {
        let left = ma.ledger.changes(&ma.stream, 1, 10, Strength::Each).await;
        match left.unwrap() {
            none if none.is_empty() => Ok(()),
            left => Err(format!("{left:?}")),
        }
    })
    .await;
    put(&ma, "four", 4).await;
    ma.delivered.store(4, std::sync::atomic::Ordering::SeqCst);
    ma.beat().await;
    tx.start(Some(repair_config()));
    for key in ["two", "three", "four"] {
        // It is not said before it is so.
        let proved = tx.repair().caught_up();
        assert!(proved.is_none() || tx.read(key).await.is_some(), "{key}");
        comes(&tx, key).await;
    }
    ma.passed_by(&tx).await;
    caught_up(&ma, &tx).await;

    // ma01 loses its journal: what it had written and not told is in no stream.
    assert_eq!(ma.skip(), 5);
    without_tx01(cluster, keyspace, async || {
        untold(&ma, "untold", 5, wall_clock()).await;
    })
    .await;
    ma.beat().await;
    let left = ma.stream.to_string();
    ma.begin_stream("another");
    put(&ma, "by_the_new_journal", 6).await;
    comes(&tx, "untold").await;
    comes(&tx, "by_the_new_journal").await;
    ma.passed_by(&tx).await;
    until("the old stream is passed", async || {
        let cursor = tx.ledger.cursor(&tx.name, &left).await.unwrap();
        match cursor.map(|cursor| cursor.number) {
            Some(5) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    caught_up(&ma, &tx).await;
    tx.no_gaps().await;
    tx.stop().await;
}
