//! Clients that change files at random on all sites, a book of what was acknowledged to them, and what must be there when all is over.
//!
//! Always true: a file has one client, which knows what it was told last; only the `rivals/` are written by all sites. What a client
//! was told is written down before it asks for the next thing; where an answer was lost, all that may have come of it is written down, and the file is left alone.
//! Never here: hurting anything. Tests do that meanwhile.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mogilefs_protocol::client::ClassSettings;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Cluster, Failed, Mogile, Site, record, until_within};

/// Where all of it happens.
pub const DOMAIN: &str = "photos";

/// How many clients each site has, besides a rival, and how fast they are.
#[derive(Clone, Copy, Debug)]
pub struct Clients {
    pub ma01: u64,
    pub tx01: u64,
    /// Of each further site.
    pub more: u64,
    /// How long a client rests after each answer.
    pub rest: Duration,
}

/// Clients at work.
pub struct Load {
    seed: u64,
    told: Arc<Told>,
    stop: CancellationToken,
    clients: JoinSet<()>,
}

/// What clients were told, and how soon.
#[derive(Default)]
struct Told {
    book: Mutex<BTreeMap<String, Expected>>,
    acknowledged: AtomicU64,
    /// How long each acknowledged create_close took, in the order of their ends.
    closes: Mutex<Vec<Duration>>,
    /// What was answered with anything but `OK`, or not at all.
    failures: Mutex<Vec<String>>,
    rest_micros: AtomicU64,
}

impl Told {
    fn rest(&self) -> Duration {
        Duration::from_micros(self.rest_micros.load(Ordering::Relaxed))
    }
}

impl Load {
    /// Starts it on running sites. Clients of the others need the domain there; what repair makes by itself is tested elsewhere.
    pub async fn start(cluster: &Cluster, seed: u64, clients: Clients) -> Load {
        for site in cluster.all().into_iter().skip(1) {
            make_domain(site).await;
        }
        let mut load = Load {
            seed,
            told: Arc::default(),
            stop: CancellationToken::new(),
            clients: JoinSet::new(),
        };
        load.rest(clients.rest);
        let ma01 = (0..clients.ma01).map(|_| &cluster.ma01);
        let tx01 = (0..clients.tx01).map(|_| &cluster.tx01);
        let more = cluster.more.iter();
        let more = more.flat_map(|site| (0..clients.more).map(move |_| site));
        for (n, site) in (0..).zip(ma01.chain(tx01).chain(more)) {
            load.add(site, n);
        }
        for (n, site) in (1..).zip(cluster.all()) {
            let rival = Rival {
                name: site.name.to_string(),
                proxy: site.proxy,
                random: StdRng::seed_from_u64(seed ^ n),
                told: Arc::clone(&load.told),
            };
            load.clients.spawn(rival.run(load.stop.clone()));
        }
        load
    }

    fn add(&mut self, site: &Site, n: u64) {
        let worker = Worker {
            name: format!("{}-{n}", site.name),
            proxy: site.proxy,
            random: StdRng::seed_from_u64(self.seed.wrapping_add(n)),
            live: Vec::new(),
            made: 0,
            told: Arc::clone(&self.told),
        };
        self.clients.spawn(worker.run(self.stop.clone()));
    }

    /// Writes down a file that the test has stored by itself.
    pub fn note(&self, key: &str, bytes: &[u8]) {
        let expected = Expected::certain(Some(bytes.to_vec()), "default");
        self.told.book.lock().insert(key.to_owned(), expected);
    }

    /// From now on clients rest for so long after each answer.
    pub fn rest(&self, rest: Duration) {
        let micros = rest.as_micros().try_into().expect("less than an hour");
        self.told.rest_micros.store(micros, Ordering::Relaxed);
    }

    /// Mutations that were acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.told.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until so many more mutations are acknowledged.
    pub async fn more(&self, wanted: u64) {
        let before = self.acknowledged();
        until_within(
            Duration::from_secs(180),
            "clients are served",
            async || match self.acknowledged() - before {
                done if done >= wanted => Ok(()),
                done => Err(format!(
                    "{done} of {wanted} mutations; the last failure: {:?}",
                    self.told.failures.lock().last()
                )),
            },
        )
        .await;
    }

    /// How many create_close were acknowledged so far: where a stretch begins.
    pub fn mark(&self) -> usize {
        self.told.closes.lock().len()
    }

    /// How long those since a mark took.
    pub fn since(&self, mark: usize) -> Times {
        let mut times = self.told.closes.lock()[mark..].to_vec();
        times.sort_unstable();
        Times(times)
    }

    /// Requests that were not answered with `OK`, of files that have one client.
    pub fn failures(&self) -> Vec<String> {
        self.told.failures.lock().clone()
    }

    /// Lets every client end what it is doing.
    pub async fn stop(&mut self) -> Book {
        self.stop.cancel();
        while let Some(client) = self.clients.join_next().await {
            client.expect("no client panics");
        }
        Book {
            seed: self.seed,
            acknowledged: self.acknowledged(),
            expected: self.told.book.lock().clone(),
        }
    }
}

async fn make_domain(site: &Site) {
    let mut warm = Mogile::connect(site.proxy).await.expect("it listens");
    // Repair may have been faster.
    let there = |why: &str| why.contains("domain_exists") || why.contains("class_exists");
    let made = warm.raw().create_domain(DOMAIN.as_bytes()).await;
    assert!(
        made.as_ref()
            .err()
            .is_none_or(|why| there(&why.to_string())),
        "{made:?}"
    );
    let thumb = ClassSettings {
        domain: DOMAIN.as_bytes(),
        class: b"thumb",
        mindevcount: 2,
        ..Default::default()
    };
    let made = warm.raw().create_class(&thumb).await;
    assert!(
        made.as_ref()
            .err()
            .is_none_or(|why| there(&why.to_string())),
        "{made:?}"
    );
}

/// How long requests took, in order.
pub struct Times(Vec<Duration>);

impl Times {
    /// So many percent took no longer.
    pub fn percentile(&self, percent: usize) -> Duration {
        let at = (self.0.len() * percent / 100).min(self.0.len().saturating_sub(1));
        self.0.get(at).copied().unwrap_or_default()
    }

    pub fn longest(&self) -> Duration {
        self.0.last().copied().unwrap_or_default()
    }
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [half, most] = [50, 99].map(|percent| self.percentile(percent));
        let longest = self.longest();
        let count = self.0.len();
        write!(
            f,
            "p50 {half:>9.2?}  p99 {most:>9.2?}  longest {longest:>9.2?}  of {count}"
        )
    }
}

/// What clients were told, when all of them have ended.
pub struct Book {
    seed: u64,
    pub acknowledged: u64,
    expected: BTreeMap<String, Expected>,
}

impl Book {
    /// Of a cluster that has settled: nothing acknowledged is lost, nothing is invented, and both sites and the ledger agree.
    pub async fn check(&self, cluster: &Cluster) {
        let seed = self.seed;
        let files = cluster.same_files(DOMAIN).await;
        let ledger = cluster.ledger().await;
        for (key, expected) in &self.expected {
            let found = files.get(key.as_bytes()).cloned();
            let told = |bytes: &Option<Vec<u8>>| {
                bytes
                    .as_ref()
                    .map(|b| String::from_utf8_lossy(&b[..b.len().min(60)]).into_owned())
            };
            assert!(
                expected.any_of.contains(&found),
                "seed {seed}: {key}: found {:?}, expected one of {:?}",
                told(&found),
                expected.any_of.iter().map(told).collect::<Vec<_>>()
            );
            if let Some(twin) = &expected.twin {
                let there = files.contains_key(twin.as_bytes());
                assert!(
                    found.is_some() != there,
                    "seed {seed}: {key} and {twin}: a rename is done or not"
                );
            }
            if let (Some(class), true) = (expected.class, found.is_some()) {
                let record = record(&*ledger, DOMAIN, key.as_bytes()).await;
                assert_eq!(
                    record.class().map(|c| c.escaped().to_owned()).as_deref(),
                    Some(class),
                    "seed {seed}: {key}"
                );
            }
        }
        let invented: Vec<_> = files
            .keys()
            .map(|key| String::from_utf8_lossy(key).into_owned())
            .filter(|key| !self.expected.contains_key(key) && !key.starts_with("rivals/"))
            .collect();
        assert!(
            invented.is_empty(),
            "seed {seed}: nobody stored {invented:?}"
        );
    }
}

/// What may be under a key when all is over.
#[derive(Clone, Debug)]
struct Expected {
    /// The bytes; `None` for nothing. More than one where an answer was lost.
    any_of: Vec<Option<Vec<u8>>>,
    /// The class, where it is certain.
    class: Option<&'static str>,
    /// For a rename whose answer was lost: the other key, one of the two must have the bytes.
    twin: Option<String>,
}

impl Expected {
    fn certain(bytes: Option<Vec<u8>>, class: &'static str) -> Expected {
        Expected {
            any_of: vec![bytes],
            class: Some(class),
            twin: None,
        }
    }
}

/// A client with keys of its own, which it changes at random and whose fate it writes down.
struct Worker {
    name: String,
    proxy: SocketAddr,
    random: StdRng,
    live: Vec<(String, Vec<u8>, &'static str)>,
    made: u64,
    told: Arc<Told>,
}

impl Worker {
    async fn run(mut self, stop: CancellationToken) {
        let mut client = None;
        while !stop.is_cancelled() {
            let Some(mogile) = client.as_mut() else {
                client = Mogile::connect(self.proxy).await.ok();
                if client.is_none() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                continue;
            };
            if !self.step(mogile).await {
                client = None;
            }
            let rest = self.told.rest();
            if !rest.is_zero() {
                tokio::time::sleep(rest).await;
            }
        }
    }

    /// One mutation, or one look at what is there. False if the connection is of no more use.
    async fn step(&mut self, mogile: &mut Mogile) -> bool {
        let choice = if self.live.len() < 3 {
            0
        } else {
            self.random.random_range(0..11)
        };
        let result = match choice {
            0..=2 => {
                let key = self.new_key();
                self.store(mogile, key, None).await
            }
            3..=5 => {
                let (key, before, _) = self.take_one();
                self.store(mogile, key, Some(before)).await
            }
            6 => self.delete(mogile).await,
            7..=8 => self.rename(mogile).await,
            9 => self.updateclass(mogile).await,
            _ => return self.fetch(mogile).await,
        };
        match result {
            Ok(()) => {
                self.told.acknowledged.fetch_add(1, Ordering::Relaxed);
                true
            }
            Err(failed) => {
                assert!(
                    !failed.why.contains("unknown_key"),
                    "{}: a file of ours is gone: {}",
                    self.name,
                    failed.why
                );
                self.failed(failed.why);
                false
            }
        }
    }

    fn failed(&self, why: String) {
        let why = format!("{}: {why}", self.name);
        self.told.failures.lock().push(why);
    }

    /// Reads a file of its own back.
    async fn fetch(&mut self, mogile: &mut Mogile) -> bool {
        let (key, bytes, _) = &self.live[self.random.random_range(0..self.live.len())];
        match mogile.fetch(DOMAIN, key.as_bytes()).await {
            Ok(read) => {
                assert!(read == *bytes, "{}: {key} has other bytes", self.name);
                true
            }
            Err(why) => {
                self.failed(why);
                false
            }
        }
    }

    fn new_key(&mut self) -> String {
        self.made += 1;
        format!(
            "{}/{} {}",
            self.name,
            self.made,
            ["a", "é", "%", "/x"][self.random.random_range(0..4)]
        )
    }

    fn take_one(&mut self) -> (String, Vec<u8>, &'static str) {
        let at = self.random.random_range(0..self.live.len());
        self.live.swap_remove(at)
    }

    fn write(&self, key: &str, expected: Expected) {
        self.told.book.lock().insert(key.to_owned(), expected);
    }

    /// A client that got no answer does not know, and never touches the key again.
    fn write_unsure(&self, key: &str, any_of: Vec<Option<Vec<u8>>>, twin: Option<&str>) {
        let twin = twin.map(str::to_owned);
        self.write(
            key,
            Expected {
                any_of,
                class: None,
                twin,
            },
        );
    }

    async fn store(
        &mut self,
        mogile: &mut Mogile,
        key: String,
        before: Option<Vec<u8>>,
    ) -> Result<(), Failed> {
        self.made += 1;
        let mut bytes = format!("{} {} ", key, self.made).into_bytes();
        bytes.resize(bytes.len() + self.random.random_range(0..3_000), b'.');
        let class = if self.random.random_bool(0.3) {
            "thumb"
        } else {
            ""
        };
        match mogile.store(DOMAIN, key.as_bytes(), class, &bytes).await {
            Ok(_) => {
                self.told.closes.lock().push(mogile.closing);
                let class = if class.is_empty() { "default" } else { class };
                self.write(&key, Expected::certain(Some(bytes.clone()), class));
                self.live.push((key, bytes, class));
                Ok(())
            }
            Err(failed) => {
                match (failed.certain, before) {
                    // Nothing happened: what was written down of it still holds.
                    (true, _) => {}
                    (false, before) => self.write_unsure(&key, vec![before, Some(bytes)], None),
                }
                Err(failed)
            }
        }
    }

    async fn delete(&mut self, mogile: &mut Mogile) -> Result<(), Failed> {
        let (key, bytes, _) = self.take_one();
        match mogile.delete(DOMAIN, key.as_bytes()).await {
            Ok(()) => {
                self.write(&key, Expected::certain(None, "default"));
                Ok(())
            }
            Err(failed) => {
                if !failed.certain {
                    self.write_unsure(&key, vec![Some(bytes), None], None);
                }
                Err(failed)
            }
        }
    }

    async fn rename(&mut self, mogile: &mut Mogile) -> Result<(), Failed> {
        let (from, bytes, class) = self.take_one();
        let to = self.new_key();
        match mogile.rename(DOMAIN, from.as_bytes(), to.as_bytes()).await {
            Ok(()) => {
                self.write(&from, Expected::certain(None, "default"));
                self.write(&to, Expected::certain(Some(bytes.clone()), class));
                self.live.push((to, bytes, class));
                Ok(())
            }
            Err(failed) => {
                if !failed.certain {
                    self.write_unsure(&from, vec![Some(bytes.clone()), None], Some(&to));
                    self.write_unsure(&to, vec![None, Some(bytes)], Some(&from));
                }
                Err(failed)
            }
        }
    }

    async fn updateclass(&mut self, mogile: &mut Mogile) -> Result<(), Failed> {
        let (key, bytes, class) = self.take_one();
        let new = if class == "thumb" { "default" } else { "thumb" };
        match mogile.updateclass(DOMAIN, key.as_bytes(), new).await {
            Ok(()) => {
                self.write(&key, Expected::certain(Some(bytes.clone()), new));
                self.live.push((key, bytes, new));
                Ok(())
            }
            Err(failed) => {
                if !failed.certain {
                    self.write_unsure(&key, vec![Some(bytes)], None);
                }
                Err(failed)
            }
        }
    }
}

/// All datacenters change the same few keys: who wins is nobody's business here, but all must agree.
struct Rival {
    name: String,
    proxy: SocketAddr,
    random: StdRng,
    told: Arc<Told>,
}

impl Rival {
    async fn run(self, stop: CancellationToken) {
        let Rival {
            name,
            proxy,
            mut random,
            told,
        } = self;
        let mut client = None;
        let mut made = 0;
        while !stop.is_cancelled() {
            let Some(mogile) = client.as_mut() else {
                client = Mogile::connect(proxy).await.ok();
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            made += 1;
            let key = format!("rivals/{}", random.random_range(0..4));
            let other = format!("rivals/{}", random.random_range(0..4));
            let result = match random.random_range(0..7) {
                6 => {
                    let class = ["thumb", "default"][random.random_range(0..2)];
                    mogile.updateclass(DOMAIN, key.as_bytes(), class).await
                }
                0 => mogile.delete(DOMAIN, key.as_bytes()).await,
                1 if key != other => {
                    mogile
                        .rename(DOMAIN, key.as_bytes(), other.as_bytes())
                        .await
                }
                _ => mogile
                    .store(
                        DOMAIN,
                        key.as_bytes(),
                        "",
                        format!("{name} {made}").as_bytes(),
                    )
                    .await
                    .map(|_| ()),
            };
            let refused = |why: &str| {
                ["unknown_key", "key_exists", "no_temp_file"]
                    .iter()
                    .any(|code| why.contains(code))
            };
            if result.is_err_and(|failed| !refused(&failed.why)) {
                client = None;
            }
            tokio::time::sleep(Duration::from_millis(random.random_range(0..60)) + told.rest())
                .await;
        }
    }
}
