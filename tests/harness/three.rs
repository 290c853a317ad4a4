//! Three datacenters under a mixed load, one of them killed every few seconds, one cut off for the whole of it, and storage that lies;
//! and what has to be so afterwards, without anybody doing anything.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use md5::{Digest, Md5};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::load::{Clients, DOMAIN, Load};
use super::relay::{Liar, Line, WITH_DIGEST};
use super::{Cluster, LedgerAt, Mogile, Site, until};

/// How often a process is killed.
const KILLS: u32 = 6;

/// How a datacenter loses its ledger.
pub enum Cut {
    /// While this file is there.
    While(PathBuf),
    /// By a port at which nobody listens.
    ByPort,
}

/// Three sites, and what stands between them.
pub struct Three {
    pub cluster: Cluster,
    lines: Vec<Line>,
    liars: Vec<Liar>,
    cut: Cut,
    /// The configuration of the one that is cut off, as it should be.
    config: String,
}

impl Three {
    /// Prepares them; nodes are not started.
    pub async fn prepare(home: tempfile::TempDir, ledger: LedgerAt, seed: u64) -> Three {
        let cut = match &ledger {
            LedgerAt::Embedded(_) => Cut::While(home.path().join("cut")),
            LedgerAt::Cassandra(_) => Cut::ByPort,
        };
        let mut cluster = Cluster::prepare_on(home, ledger, "").await;
        cluster.add("or01").await;
        let (mut lines, mut liars) = (Vec::new(), Vec::new());
        for (n, site) in (0..).zip(cluster.all()) {
            let liar = Liar::new(site.storage, seed ^ n).await;
            let line = Line::new(site.tracker, site.storage, liar.address).await;
            site.configure(|text| {
                let reached = format!(
                    "\ntrackers = [\"{}\"]\nstorage_hosts = [\"{}\", \"{}\"]\n",
                    line.address, site.storage, liar.address
                );
                text.replacen("\n\n[proxy]", &format!("{reached}\n[proxy]"), 1)
            });
            lines.push(line);
            liars.push(liar);
        }
        let or01 = &mut cluster.more[0];
        if let Cut::While(file) = &cut {
            let armed = format!("ledger::cut=return({})", file.display());
            or01.node_environment = vec![("PHYLACTERY_FAILPOINTS".into(), armed)];
        }
        let config = or01.configure(str::to_owned);
        Three {
            cluster,
            lines,
            liars,
            cut,
            config,
        }
    }

    async fn cut_off(&mut self) {
        self.lines[2].cut(true);
        match &self.cut {
            Cut::While(file) => std::fs::write(file, b"").expect("written"),
            Cut::ByPort => {
                let or01 = &mut self.cluster.more[0];
                let nowhere = self.config.replace(":9042", ":9");
                assert_ne!(nowhere, self.config, "it names the cluster's port");
                or01.configure(|_| nowhere.clone());
                or01.node().kill();
                or01.start_node().await;
            }
        }
    }

    /// The network is as it was. (A process that had another configuration dies once more, as it did all the time.)
    async fn join_again(&mut self) {
        self.lines[2].cut(false);
        match &self.cut {
            Cut::While(file) => std::fs::remove_file(file).expect("removed"),
            Cut::ByPort => {
                let or01 = &mut self.cluster.more[0];
                or01.configure(|_| self.config.clone());
                or01.node().kill();
                or01.start_node().await;
            }
        }
    }

    /// All of it. The nodes are running, and have their ledger.
    pub async fn drill(mut self, seed: u64) {
        let began = Instant::now();
        let random = &mut StdRng::seed_from_u64(seed);
        let clients = Clients {
            ma01: 2,
            tx01: 2,
            more: 2,
            rest: Duration::from_millis(25),
        };
        let mut load = Load::start(&self.cluster, seed, clients).await;
        load.more(60).await;
        self.cut_off().await;
        for kill in 0..KILLS {
            for n in 0..4 {
                self.store_with_digest(&load, &format!("digest/{kill}/{n}"))
                    .await;
            }
            load.more(60).await;
            tokio::time::sleep(Duration::from_millis(random.random_range(500..2_000))).await;
            let killed = random.random_range(0..3);
            let site = self.cluster.all_mut().swap_remove(killed);
            site.node().kill();
            site.start_node().await;
            println!(
                "{:6.1?} kill {kill}: {}, {} mutations so far",
                began.elapsed(),
                site.name,
                load.acknowledged()
            );
        }
        let alone = self.cluster.more[0].get("/v1/status").await;
        let alone = alone.expect("it answers without a ledger");
        assert!(
            alone["journal"]["depth"].as_u64() > Some(20),
            "it was cut off: {alone:#}"
        );
        self.join_again().await;
        let book = load.stop().await;
        let ended = Instant::now();
        println!("{:6.1?} the load ends", began.elapsed());
        self.cluster.is_well().await;
        self.cluster.settled().await;
        println!(
            "{:6.1?} all is well, {:.1?} after the end, by their own account",
            began.elapsed(),
            ended.elapsed()
        );
        book.check(&self.cluster).await;
        let files = self.compare().await;
        let lies: Vec<[u64; 4]> = self.liars.iter().map(Liar::lies).collect();
        println!(
            "{:6.1?} {} mutations, {files} files, the same in all three; storage gave too little, promised too much, \
             gave other bytes, hung: {lies:?}",
            began.elapsed(),
            book.acknowledged
        );
        for lie in 0..4 {
            let times: u64 = lies.iter().map(|lies| lies[lie]).sum();
            assert!(
                times > 0,
                "a lie that was never told proves nothing: {lies:?}"
            );
        }
        for site in self.cluster.all() {
            let lag = &site.get("/v1/status").await.expect("it answers")["repair"]["lag"];
            println!("       lag in {}: {}", site.name, lag["from"]);
        }
    }

    async fn store_with_digest(&self, load: &Load, key: &str) {
        let mut bytes = WITH_DIGEST.to_vec();
        bytes.extend(key.bytes().cycle().take(5_000));
        let digest = format!("MD5:{}", hex::encode(Md5::digest(&bytes)));
        let proxy = self.cluster.ma01.proxy;
        until("a file with a digest is stored", async || {
            let client = Mogile::connect(proxy).await;
            let mut client = client.map_err(|why| why.to_string())?;
            let stored = client.store_verified(DOMAIN, key.as_bytes(), &bytes, &digest);
            stored.await.map_err(|failed| failed.why)
        })
        .await;
        load.note(key, &bytes);
    }

    /// File by file: the keys, bytes and classes that each tracker has, read past all proxies. How many there are.
    async fn compare(&self) -> usize {
        let mut all: Vec<BTreeMap<Vec<u8>, (Vec<u8>, Vec<u8>)>> = Vec::new();
        for site in self.cluster.all() {
            all.push(with_classes(site).await);
        }
        let first = &all[0];
        for (site, other) in self.cluster.all().iter().zip(&all).skip(1) {
            let keys = first.keys().chain(other.keys());
            let differ = keys.filter(|key| first.get(*key) != other.get(*key));
            let differ: Vec<String> = differ.map(|key| key.escape_ascii().to_string()).collect();
            assert!(differ.is_empty(), "{} differs in {differ:?}", site.name);
        }
        first.len()
    }
}

/// What a tracker has: bytes and class by key.
async fn with_classes(site: &Site) -> BTreeMap<Vec<u8>, (Vec<u8>, Vec<u8>)> {
    let files = site.files(DOMAIN).await.expect("the tracker reads");
    let mut client = Mogile::connect(site.tracker).await.expect("it listens");
    let mut all = BTreeMap::new();
    for (key, bytes) in files {
        let asking = client.raw().file_debug_by_key(DOMAIN.as_bytes(), &key);
        let row = asking
            .await
            .expect("the key is there")
            .file
            .expect("a file");
        all.insert(key, (bytes, row.class));
    }
    all
}
