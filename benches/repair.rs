//! What repair is able to, and what clients notice of it: two datacenters in this process, each with a tracker, its storage node and a whole
//! node (proxy, journal, repair, API), over one embedded ledger.
//!
//! - Files and bytes a second of repair that fills a datacenter, as a share of two loops with as many copies at once, from and to the
//!   same storage nodes: a plain one, which GETs and PUTs and knows all URLs before; and one as a client of MogileFS would write it, which
//!   asks the trackers as well (`get_paths`, `create_open`, `create_close`). Included in repair are digests, the ledger, and the
//!   journal with its syncs. Rounds take turns; a figure is the median of three.
//! - The lag from a client's `create_close` in one datacenter to the closing of the copy in the other, at a steady rate.
//! - The p50 and p99 of a client's calls through the proxy of a datacenter: without a backfill, while one runs, and while one runs within a budget.
//!
//! All of it, clients and storage nodes included, shares this machine, and storage nodes sync what they store: shares are what is worth reading.
//! `REPAIR_BENCH_FILES=10000 cargo bench --bench repair` sets the size of the backfill, `REPAIR_BENCH_ONLY=copy|lag|clients` chooses.

#![allow(clippy::unwrap_used, reason = "a bench may end with a panic")]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use futures::future::join_all;
use mogilefs_protocol::client::{Client, CreateClose, CreateOpen, GetPaths, Timeouts};
use phylactery::config::{
    ApiConfig, Config, DatacenterConfig, JournalConfig, LedgerConfig, OnVanished, ProxyConfig,
    RepairConfig, SourcesConfig, VerifyBy,
};
use phylactery::events::{Events, What};
use phylactery::file::Domain;
use phylactery::node::Node;
use phylactery::repair::budget::Limits;
use phylactery::tracker::{Tracker, TrackerConfig};
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

/// Bytes of a file, and how many of them.
const SIZES: [(usize, usize); 4] = [
    (4 << 10, 2000),
    (64 << 10, 1000),
    (1 << 20, 200),
    (16 << 20, 24),
];
const AT_ONCE: [usize; 2] = [4, 16];
const ROUNDS: usize = 3;

fn main() {
    // `cargo test --benches` only asks whether it runs.
    let quick = !std::env::args().any(|arg| arg == "--bench");
    let only = std::env::var("REPAIR_BENCH_ONLY").ok();
    let wanted = |part: &str| only.as_deref().is_none_or(|only| only == part);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        if wanted("copy") {
            copies(quick).await;
        }
        if wanted("lag") {
            lag(quick).await;
        }
        if wanted("clients") {
            clients(quick).await;
        }
    });
}

async fn copies(quick: bool) {
    println!(
        "{:>9} {:>6} {:>8} | {:>10} {:>9} | {:>9} {:>9}",
        "file", "count", "at once", "repair/s", "MB/s", "of plain", "of client"
    );
    let mut sites = Sites::start().await;
    for (size, count) in SIZES {
        for at_once in AT_ONCE {
            let (count, rounds) = match quick {
                true => (8, 1),
                false => (count, ROUNDS),
            };
            let mut rates = [Vec::new(), Vec::new(), Vec::new()];
            for round in 0..rounds {
                let prefix = format!("{size}/{at_once}/{round}");
                let keys: Vec<String> = (0..count).map(|n| format!("{prefix}/{n}")).collect();
                sites.store(&keys, size).await;
                rates[0].push(sites.repair(count, at_once).await);
                rates[1].push(sites.plain(&keys, size, at_once).await);
                rates[2].push(sites.client(&keys, size, at_once).await);
            }
            let [repair, plain, client] = rates.map(median);
            println!(
                "{:>9} {count:>6} {at_once:>8} | {repair:>10.0} {:>9.1} | {:>8.0}% {:>8.0}%",
                ByteSize(size as u64).to_string(),
                repair * size as f64 / 1e6,
                100.0 * repair / plain,
                100.0 * repair / client,
            );
        }
    }
    sites.stop().await;
}

async fn lag(quick: bool) {
    let mut sites = Sites::start().await;
    let mut heard = sites.events.listen();
    sites.start_tx(repair_config(4)).await;
    let mut client = Client::connect(sites.ma.proxy_addrs()[0], Timeouts::default())
        .await
        .unwrap();
    let count = if quick { 10 } else { 1000 };
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    let listening = tokio::spawn(async move {
        let mut lags = Vec::new();
        while lags.len() < count {
            match heard.recv().await {
                Ok(event) => {
                    if let What::Copied { lag, .. } = event.what {
                        lags.push(lag);
                    }
                }
                Err(RecvError::Lagged(_)) => panic!("the bench does not keep up"),
                Err(RecvError::Closed) => break,
            }
        }
        lags
    });
    for n in 0..count {
        ticks.tick().await;
        store(&mut client, &sites.http, &format!("lag/{n}"), 16 << 10).await;
    }
    let lags = listening.await.unwrap();
    let [p50, p99] = percentiles(lags);
    println!("lag at 50 files of 16 KiB a second: p50 {p50:.1?}, p99 {p99:.1?}");
    sites.stop().await;
}

async fn clients(quick: bool) {
    let files = std::env::var("REPAIR_BENCH_FILES").ok();
    let files = match quick {
        true => 20,
        false => files.map_or(10_000, |files| files.parse().unwrap()),
    };
    let mut sites = Sites::start().await;
    let keys: Vec<String> = (0..files).map(|n| format!("backfill/{n}")).collect();
    sites.store(&keys, 4 << 10).await;
    let off = RepairConfig {
        enabled: false,
        ..repair_config(4)
    };
    sites.start_tx(off).await;
    let length = Duration::from_secs_f64(if quick { 0.2 } else { 8.0 });
    println!("a client's calls through a proxy (4 clients, each 100 calls a second at most):");
    let told = |what: &str, calls: Vec<Duration>, copied: usize, took: Duration| {
        let count = calls.len();
        let [p50, p99] = percentiles(calls);
        println!(
            "  {what:<44} p50 {p50:>8.1?}  p99 {p99:>8.1?}  of {count}; {:.0} files a second copied",
            copied as f64 / took.as_secs_f64()
        );
    };
    told("without a backfill", sites.calls(length).await, 0, length);
    sites.stop_tx().await;

    let copied = Arc::new(AtomicUsize::new(0));
    let mut heard = sites.events.listen();
    let counting = Arc::clone(&copied);
    tokio::spawn(async move {
        while let Ok(event) = heard.recv().await {
            if matches!(event.what, What::Copied { .. }) {
                counting.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    sites.start_tx(repair_config(4)).await;
    sites.budget(json!({ "files_per_second": 100 })).await;
    for (what, budget) in [
        (
            "while one runs, at 100 files a second",
            json!({ "files_per_second": 100 }),
        ),
        (
            "while one runs, one copy at a time",
            json!({ "files_per_second": null, "copies_at_once": 1 }),
        ),
        (
            "while one runs, four copies at a time",
            json!({ "copies_at_once": 4 }),
        ),
    ] {
        sites.budget(budget).await;
        let (before, began) = (copied.load(Ordering::Relaxed), Instant::now());
        let calls = sites.calls(length).await;
        let done = copied.load(Ordering::Relaxed) - before;
        told(what, calls, done, began.elapsed());
    }
    let all = copied.load(Ordering::Relaxed);
    if all >= files {
        println!("  (all {files} were copied before the end: more REPAIR_BENCH_FILES are needed)");
    }
    sites.stop().await;
}

/// Two datacenters: ma01, which has files, and tx01, which is to get them and whose node runs when it is wanted.
struct Sites {
    home: tempfile::TempDir,
    events: Events,
    trackers: Vec<Tracker>,
    stop: CancellationToken,
    ma: Node,
    tx: Option<Node>,
    http: reqwest::Client,
    plain: usize,
}

impl Sites {
    async fn start() -> Sites {
        let home = tempfile::tempdir().unwrap();
        let stop = CancellationToken::new();
        let mut trackers = Vec::new();
        for name in ["ma01", "tx01"] {
            let any = SocketAddr::from(([127, 0, 0, 1], 0));
            let folder = home.path().join(name).join("tracker");
            let config = TrackerConfig::new(folder, any, any)
                .devices(1)
                .domain("photos");
            trackers.push(Tracker::start(config, stop.clone()).await.unwrap());
        }
        let events = Events::default();
        let off = RepairConfig {
            enabled: false,
            ..repair_config(4)
        };
        let config = config(home.path(), "ma01", trackers[0].addr(), off);
        let ma = Node::start(config, events.clone()).await.unwrap();
        Sites {
            home,
            events,
            trackers,
            stop,
            ma,
            tx: None,
            http: reqwest::Client::builder().no_proxy().build().unwrap(),
            plain: 0,
        }
    }

    async fn start_tx(&mut self, repair: RepairConfig) {
        let config = config(self.home.path(), "tx01", self.trackers[1].addr(), repair);
        self.tx = Some(Node::start(config, self.events.clone()).await.unwrap());
    }

    async fn stop_tx(&mut self) {
        if let Some(tx) = self.tx.take() {
            tx.stop().await;
        }
    }

    async fn stop(mut self) {
        self.stop_tx().await;
        self.ma.stop().await;
        self.stop.cancel();
        join_all(self.trackers.into_iter().map(Tracker::stopped)).await;
    }

    async fn budget(&self, limits: serde_json::Value) {
        let api = self.tx.as_ref().unwrap().api_addr();
        let url = format!("http://{api}/v1/repair/budget");
        let answer = self.http.put(url).json(&limits).send().await.unwrap();
        assert!(answer.status().is_success(), "{}", answer.status());
    }

    /// Clients store files in ma01, and the ledger gets to know.
    async fn store(&self, keys: &[String], size: usize) {
        let mut heard = self.events.listen();
        let expected = keys.len();
        let told = tokio::spawn(async move {
            let mut stored = 0;
            while stored < expected {
                match heard.recv().await {
                    Ok(event) => stored += usize::from(matches!(event.what, What::Stored { .. })),
                    Err(RecvError::Lagged(missed)) => stored += missed as usize,
                    Err(RecvError::Closed) => return,
                }
            }
        });
        let proxy = self.ma.proxy_addrs()[0];
        each(keys, 16, async |keys| {
            let mut client = Client::connect(proxy, Timeouts::default()).await.unwrap();
            while let Some(key) = keys.next() {
                store(&mut client, &self.http, key, size).await;
            }
        })
        .await;
        told.await.unwrap();
    }

    /// Repair brings what is new in ma01: files a second, from the first one that came to the last.
    async fn repair(&mut self, count: usize, at_once: usize) -> f64 {
        let mut heard = self.events.listen();
        self.start_tx(repair_config(at_once)).await;
        let (mut first, mut copied) = (None, 0);
        while copied < count {
            let event = heard.recv().await.unwrap();
            if matches!(event.what, What::Copied { .. }) {
                copied += 1;
                first.get_or_insert_with(Instant::now);
            }
        }
        let rate = (count - 1) as f64 / first.unwrap().elapsed().as_secs_f64();
        self.stop_tx().await;
        rate
    }

    /// GET and PUT, of URLs that are known.
    async fn plain(&mut self, keys: &[String], size: usize, at_once: usize) -> f64 {
        let mut client = Client::connect(self.trackers[0].addr(), Timeouts::default())
            .await
            .unwrap();
        let mut urls = Vec::new();
        for key in keys {
            self.plain += 1;
            let to = self.trackers[1].storage_addr();
            let to = format!("http://{to}/dev1/plain/{:010}.fid", self.plain);
            urls.push((path(&mut client, key).await, to));
        }
        let began = Instant::now();
        each(&urls, at_once, async |urls| {
            while let Some((from, to)) = urls.next() {
                copy(&self.http, from, to, size).await;
            }
        })
        .await;
        keys.len() as f64 / began.elapsed().as_secs_f64()
    }

    /// As a client that copies from one MogileFS to another.
    async fn client(&self, keys: &[String], size: usize, at_once: usize) -> f64 {
        let [from, to] = [0, 1].map(|n| self.trackers[n].addr());
        let began = Instant::now();
        each(keys, at_once, async |keys| {
            let mut from = Client::connect(from, Timeouts::default()).await.unwrap();
            let mut to = Client::connect(to, Timeouts::default()).await.unwrap();
            while let Some(key) = keys.next() {
                let url = path(&mut from, key).await;
                let key = format!("client/{key}");
                let opened = open(&mut to, &key).await;
                copy(&self.http, &url, &opened.1, size).await;
                close(&mut to, &key, &opened, size).await;
            }
        })
        .await;
        keys.len() as f64 / began.elapsed().as_secs_f64()
    }

    /// How long calls of clients of tx01 take, for this time.
    async fn calls(&self, length: Duration) -> Vec<Duration> {
        let proxy = self.tx.as_ref().unwrap().proxy_addrs()[0];
        let over = AtomicBool::new(false);
        let clients = join_all((0..4).map(|number| {
            let over = &over;
            async move {
                let mut client = Client::connect(proxy, Timeouts::default()).await.unwrap();
                let mut ticks = tokio::time::interval(Duration::from_millis(40));
                let mut took = Vec::new();
                let mut made = 0;
                while !over.load(Ordering::Relaxed) {
                    ticks.tick().await;
                    made += 1;
                    let key = format!("call/{}/{number}/{made}", length.as_nanos());
                    let began = Instant::now();
                    let opened = open(&mut client, &key).await;
                    took.push(began.elapsed());
                    let put = self.http.put(&opened.1).body(vec![7; 1000]);
                    assert!(put.send().await.unwrap().status().is_success());
                    let began = Instant::now();
                    close(&mut client, &key, &opened, 1000).await;
                    took.push(began.elapsed());
                    for _ in 0..2 {
                        let began = Instant::now();
                        path(&mut client, &key).await;
                        took.push(began.elapsed());
                    }
                }
                took
            }
        }));
        let ending = async {
            tokio::time::sleep(length).await;
            over.store(true, Ordering::Relaxed);
        };
        tokio::join!(clients, ending).0.concat()
    }
}

/// Things that are taken one by one, by several.
struct Shared<'a, T>(&'a [T], AtomicUsize);

impl<T> Shared<'_, T> {
    fn next(&self) -> Option<&T> {
        self.0.get(self.1.fetch_add(1, Ordering::Relaxed))
    }
}

async fn each<'a, T>(all: &'a [T], at_once: usize, work: impl AsyncFn(&Shared<'a, T>)) {
    let shared = Shared(all, AtomicUsize::new(0));
    join_all((0..at_once).map(|_| work(&shared))).await;
}

/// Fid, path and device of an upload.
type Opened = (u64, String, u32);

async fn open(client: &mut Client, key: &str) -> Opened {
    let open = CreateOpen {
        domain: b"photos",
        key: key.as_bytes(),
        ..CreateOpen::default()
    };
    let opened = client.create_open(&open).await.unwrap();
    let to = &opened.destinations[0];
    (opened.fid, to.path.clone(), to.devid)
}

async fn close(client: &mut Client, key: &str, (fid, path, devid): &Opened, size: usize) {
    let close = CreateClose {
        domain: b"photos",
        key: key.as_bytes(),
        fid: *fid,
        devid: *devid,
        path,
        size: Some(size as u64),
        ..CreateClose::default()
    };
    client.create_close(&close).await.unwrap();
}

async fn store(client: &mut Client, http: &reqwest::Client, key: &str, size: usize) {
    let opened = open(client, key).await;
    let put = http
        .put(&opened.1)
        .body(vec![7; size])
        .send()
        .await
        .unwrap();
    assert!(put.status().is_success(), "{}", put.status());
    close(client, key, &opened, size).await;
}

async fn path(client: &mut Client, key: &str) -> String {
    let paths = GetPaths {
        domain: b"photos",
        key: key.as_bytes(),
        noverify: true,
        ..GetPaths::default()
    };
    client.get_paths(&paths).await.unwrap().swap_remove(0)
}

async fn copy(http: &reqwest::Client, from: &str, to: &str, size: usize) {
    let body = http.get(from).send().await.unwrap().bytes_stream();
    let put = http
        .put(to)
        .header("Content-Length", size)
        .body(reqwest::Body::wrap_stream(body));
    let answer = put.send().await.unwrap();
    assert!(answer.status().is_success(), "{}", answer.status());
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

fn percentiles(mut times: Vec<Duration>) -> [Duration; 2] {
    times.sort_unstable();
    [0.5, 0.99].map(|part| times[((times.len() - 1) as f64 * part) as usize])
}

fn repair_config(at_once: usize) -> RepairConfig {
    RepairConfig {
        enabled: true,
        budget: Limits {
            copies_at_once: at_once as u64,
            ..Limits::default()
        },
        sources: SourcesConfig::default(),
        create_domains: true,
        scan_every: Duration::from_secs(86_400),
        retry_first: Duration::from_secs(2),
        retry_most: Duration::from_secs(60),
        tombstone_retention: Duration::from_secs(86_400),
        verify_every: None,
        verify_by: VerifyBy::Size,
        verify_rate: 50,
        verify_most_missing: 5.0,
        on_vanished: OnVanished::Restore,
        backfill_every: None,
        backfill_rate: 50,
        backfill_sweep_every: Duration::from_secs(86_400),
        split_from: BTreeSet::new(),
    }
}

fn config(home: &Path, name: &str, tracker: SocketAddr, repair: RepairConfig) -> Config {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let ledger: PathBuf = home.join("ledger.db");
    Config {
        datacenter: DatacenterConfig {
            name: name.parse().unwrap(),
            node: "node1".parse().unwrap(),
            trackers: vec![tracker.to_string()],
            storage_hosts: None::<BTreeSet<String>>,
        },
        proxy: ProxyConfig {
            listen: vec![any],
            trackers: vec![tracker.to_string()],
            max_connections: 1000,
            max_line: 1 << 20,
            max_key: 60_000,
            deny: Vec::new(),
            idle_timeout: None,
            upstream_connections: 64,
            threads: 1,
            lock_wait: Duration::from_secs(10),
            drain: Duration::from_secs(1),
        },
        journal: JournalConfig {
            path: home.join(name).join("journal"),
            max_size: 1 << 30,
            quiet_time: Duration::from_secs(2),
        },
        ledger: LedgerConfig::Embedded { path: ledger },
        repair,
        api: ApiConfig {
            listen: any,
            compatible_status: false,
            fid_domain: Domain::from_bytes(b"phylactery"),
        },
    }
}
