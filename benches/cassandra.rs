//! The ledger on a real Cassandra: four nodes in two datacenters, on this machine, beside this program.
//!
//! What it tells are ratios and limits: what a write at `ALL` costs beside one at `LOCAL_QUORUM`, which share of a bare driver
//! loop's speed a scan keeps, how much memory a scan takes however many files there are. Four nodes and a program on two cores make
//! the numbers themselves small. Included: everything that `Ledger` does. Left out: the journal, and the distance between datacenters.
//!
//! `PHYLACTERY_BENCH_FILES=1000000 cargo bench --bench cassandra` for more files than the usual 100,000.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;
use phylactery::config::CassandraConfig;
use phylactery::file::FileName;
use phylactery::ledger::cassandra::CassandraLedger;
use phylactery::ledger::{About, Change, Ledger, StreamId, Strength, TokenRange};
use phylactery::version::Version;
use scylla::client::session::Session;
use scylla::deserialize::row::ColumnIterator;
use scylla::statement::Consistency;

mod announced;
#[path = "../tests/cassandra_cluster/mod.rs"]
mod cluster;

use announced::write;
use cluster::Cluster;

/// Writes of each figure of delivery.
const WRITES: u64 = 20_000;

/// Under way at a time, as in delivery.
const AT_ONCE: u64 = 64;

/// As the scan has it: parts of the ring, how many at once, files a page.
const PARTS: u32 = 64;
const LANES: usize = 4;
const PAGE: usize = 500;

fn file(n: u64) -> FileName {
    FileName::from_bytes(
        b"photos",
        format!("2026/11/{n:012}/original.jpg").as_bytes(),
    )
}

/// Runs `one` for every number below `count`, [`AT_ONCE`] at a time; how many a second.
async fn rate<F: Future<Output = ()> + Send>(count: u64, one: impl Fn(u64) -> F) -> f64 {
    let (next, begun) = (AtomicU64::new(0), Instant::now());
    join_all((0..AT_ONCE).map(|_| async {
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= count {
                return;
            }
            one(n).await;
        }
    }))
    .await;
    count as f64 / begun.elapsed().as_secs_f64()
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.unwrap_or_default() << 10
}

/// Goes through the parts of the ring, [`LANES`] at once; rows in all, and how many a second.
async fn through_the_ring<F: Future<Output = u64>>(part: impl Fn(TokenRange) -> F) -> (u64, f64) {
    let (next, rows, begun) = (AtomicU32::new(0), AtomicU64::new(0), Instant::now());
    join_all((0..LANES).map(|_| async {
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= PARTS {
                return;
            }
            let found = part(TokenRange::part(n, PARTS)).await;
            rows.fetch_add(found, Ordering::Relaxed);
        }
    }))
    .await;
    let rows = rows.into_inner();
    (rows, rows as f64 / begun.elapsed().as_secs_f64())
}

async fn scan(ledger: &CassandraLedger, range: TokenRange) -> u64 {
    let (mut rows, mut from) = (0, None::<String>);
    loop {
        let page = ledger
            .scan(range, from.as_deref(), PAGE, Strength::Local)
            .await;
        let page = page.expect("a page");
        rows += page.files.len() as u64;
        match page.next {
            Some(next) => from = Some(next),
            None => return rows,
        }
    }
}

/// The least that a client of the driver can do for the same rows: pages of the same statement, no value decoded.
async fn bare(session: &Session, range: TokenRange) -> u64 {
    let text = "SELECT token(domain, key), domain, key, head, class_cell, replicas FROM files \
                WHERE token(domain, key) >= ? AND token(domain, key) <= ?";
    let mut statement = session.prepare(text).await.expect("prepared");
    statement.set_consistency(Consistency::LocalQuorum);
    statement.set_page_size(PAGE as i32);
    let (mut rows, mut paging) = (0, scylla::response::PagingState::start());
    loop {
        let values = (range.first, range.last);
        let page = session.execute_single_page(&statement, values, paging);
        let (answer, next) = page.await.expect("a page");
        let answer = answer.into_rows_result().expect("rows");
        for row in answer.rows::<ColumnIterator<'_, '_>>().expect("columns") {
            row.expect("a row").for_each(drop);
            rows += 1;
        }
        match next.into_paging_control_flow() {
            std::ops::ControlFlow::Continue(state) => paging = state,
            std::ops::ControlFlow::Break(()) => return rows,
        }
    }
}

#[tokio::main]
async fn main() {
    let files: u64 = std::env::var("PHYLACTERY_BENCH_FILES")
        .ok()
        .and_then(|files| files.parse().ok())
        .unwrap_or(100_000);
    let cluster = Cluster::shared().await;
    let keyspace = cluster.keyspace().await;
    let config = CassandraConfig {
        keyspace: keyspace.clone(),
        ..CassandraConfig::new(cluster.contact_points("ma01"), "ma01".to_owned())
    };
    let ledger = Arc::new(CassandraLedger::open(&config).await.expect("it opens"));
    let ledger = &ledger;
    let stream = &StreamId {
        datacenter: "ma01".parse().expect("a name"),
        node: "node1".parse().expect("a name"),
        incarnation: "bench".to_owned(),
    };

    let deliver = async |n: u64| {
        let (file, version) = (file(n), 1_000 + n as i64);
        let told = ledger.write(&file, &write(version), Strength::Local).await;
        told.expect("a write");
        let change = Change {
            number: n + 1,
            file: Some(file),
            version: Version(version),
            about: About::Head,
        };
        let told = ledger.append_change(stream, &change, Strength::Local).await;
        told.expect("a change");
    };
    // Warm: connections, caches, the nodes' compiler.
    rate(2_000, &deliver).await;
    let local = rate(WRITES, &deliver).await;
    println!("deliveries/s at LOCAL_QUORUM (cells, then change), {AT_ONCE} at once: {local:.0}");
    let whole = rate(WRITES, async |n| {
        let record = ledger.read(&file(n), Strength::Local).await;
        assert!(record.expect("a read").head.is_some(), "it was delivered");
        let (file, write) = (file(n), write(1_000 + n as i64));
        let told = ledger.write(&file, &write, Strength::Whole).await;
        told.expect("a write");
    })
    .await;
    println!(
        "debts paid/s at ALL (read, then write): {whole:.0}, {:.2} of that",
        whole / local
    );

    let loading = rate(files.saturating_sub(WRITES), async |n| {
        let n = n + WRITES;
        let (file, write) = (file(n), write(1_000 + n as i64));
        let told = ledger.write(&file, &write, Strength::Local).await;
        told.expect("a write");
    })
    .await;
    println!("cells of a file alone at LOCAL_QUORUM: {loading:.0}/s");

    let name = keyspace.clone();
    let told = tokio::task::spawn_blocking(move || {
        let node = &cluster.nodes()[0];
        node.nodetool(&["flush", &name])?;
        node.nodetool(&["tablestats", &name])
    });
    let told = told.await.expect("no panic").expect("it is up");
    println!("what the first node has on disk (one copy of all files is on each):");
    let wanted = [
        "Table: ",
        "Space used (live)",
        "SSTable Compression Ratio",
        "Number of partitions",
    ];
    let lines = told.lines().map(str::trim);
    lines
        .filter(|line| wanted.iter().any(|wanted| line.starts_with(wanted)))
        .for_each(|line| println!("    {line}"));

    let session = cluster.session().await;
    let used = session.use_keyspace(&keyspace, false).await;
    used.expect("it is there");
    let session = &*session;
    bare(session, TokenRange::part(0, PARTS)).await;
    let before = resident();
    let stop = tokio_util::sync::CancellationToken::new();
    let watching = tokio::spawn({
        let stop = stop.clone();
        async move {
            let mut most = 0;
            while !stop.is_cancelled() {
                most = most.max(resident());
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            most
        }
    });
    let mut shares = Vec::new();
    for round in 1..=3 {
        let (rows, ours) = through_the_ring(|range| scan(ledger, range)).await;
        assert_eq!(rows, files.max(WRITES), "every file");
        let (rows, bare) = through_the_ring(|range| bare(session, range)).await;
        assert_eq!(rows, files.max(WRITES), "every file");
        println!(
            "scan {round}: {ours:.0} files/s; a bare driver loop {bare:.0} rows/s; share {:.2}",
            ours / bare
        );
        shares.push(ours / bare);
    }
    shares.sort_by(f64::total_cmp);
    stop.cancel();
    let most = watching.await.expect("it does not panic");
    println!(
        "share of a bare loop, median: {:.2}; memory while scanning {files} files: {:.1} MiB, {:.1} MiB above before",
        shares[1],
        most as f64 / f64::from(1 << 20),
        most.saturating_sub(before) as f64 / f64::from(1 << 20)
    );
}
