//! Nothing acknowledged is lost, and nothing invented, however the process dies: `kill -9` at random moments under load.
//!
//! `KILL_SEED=n` runs one seed again, `KILL_ROUNDS=n` more or fewer kills (100 by default).

mod harness;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use harness::{Cluster, Failed, Mogile, record, until};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio_util::sync::CancellationToken;

const DOMAIN: &str = "photos";

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

type Book = Arc<Mutex<BTreeMap<String, Expected>>>;

/// A client with keys of its own, which it changes at random and whose fate it writes down.
struct Worker {
    name: String,
    proxy: SocketAddr,
    random: StdRng,
    live: Vec<(String, Vec<u8>, &'static str)>,
    made: u64,
    book: Book,
    acknowledged: Arc<AtomicU64>,
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
        }
    }

    /// One mutation. False if the connection is of no more use.
    async fn step(&mut self, mogile: &mut Mogile) -> bool {
        let choice = if self.live.len() < 3 {
            0
        } else {
            self.random.random_range(0..10)
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
            _ => self.updateclass(mogile).await,
        };
        match result {
            Ok(()) => {
                self.acknowledged.fetch_add(1, Ordering::Relaxed);
                true
            }
            Err(failed) => {
                assert!(
                    !failed.why.contains("unknown_key"),
                    "{}: a file of ours is gone: {}",
                    self.name,
                    failed.why
                );
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
        self.book.lock().insert(key.to_owned(), expected);
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

/// Both datacenters write the same few keys: who wins is nobody's business here, but both must agree.
async fn rival(name: &'static str, proxy: SocketAddr, seed: u64, stop: CancellationToken) {
    let mut random = StdRng::seed_from_u64(seed);
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
        let result = match random.random_range(0..6) {
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
        tokio::time::sleep(Duration::from_millis(random.random_range(0..60))).await;
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_however_the_process_dies() {
    let seed = number("KILL_SEED").unwrap_or_else(|| rand::random_range(0..u64::MAX));
    let rounds = number("KILL_ROUNDS").unwrap_or(100);
    println!("KILL_SEED={seed} KILL_ROUNDS={rounds}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut cluster = Cluster::start("").await;
    let book = Book::default();
    let acknowledged = Arc::new(AtomicU64::new(0));
    let stop = CancellationToken::new();
    // Clients of tx01 need the domain there; what repair makes by itself is tested elsewhere.
    let mut warm = Mogile::connect(cluster.tx01.proxy)
        .await
        .expect("it listens");
    warm.raw()
        .create_domain(DOMAIN.as_bytes())
        .await
        .expect("a new domain");
    let thumb = mogilefs_protocol::client::ClassSettings {
        domain: DOMAIN.as_bytes(),
        class: b"thumb",
        mindevcount: 2,
        ..Default::default()
    };
    warm.raw().create_class(&thumb).await.expect("a new class");

    let mut clients = tokio::task::JoinSet::new();
    for n in 0..6 {
        let site = if n < 4 { &cluster.ma01 } else { &cluster.tx01 };
        let worker = Worker {
            name: format!("{}-{n}", site.name),
            proxy: site.proxy,
            random: StdRng::seed_from_u64(seed.wrapping_add(n)),
            live: Vec::new(),
            made: 0,
            book: Arc::clone(&book),
            acknowledged: Arc::clone(&acknowledged),
        };
        clients.spawn(worker.run(stop.clone()));
    }
    clients.spawn(rival("ma01", cluster.ma01.proxy, seed ^ 1, stop.clone()));
    clients.spawn(rival("tx01", cluster.tx01.proxy, seed ^ 2, stop.clone()));

    for round in 0..rounds {
        // So many more mutations, and then at once: wherever the others are just then.
        let wanted = random.random_range(1..60);
        let before = acknowledged.load(Ordering::Relaxed);
        until("clients are served", async || {
            let done = acknowledged.load(Ordering::Relaxed) - before;
            if done >= wanted {
                Ok(())
            } else {
                Err(format!("{done} of {wanted} mutations"))
            }
        })
        .await;
        tokio::time::sleep(Duration::from_micros(random.random_range(0..3_000))).await;
        let site = if random.random_bool(0.7) {
            &mut cluster.ma01
        } else {
            &mut cluster.tx01
        };
        site.node().kill();
        site.start_node().await;
        println!(
            "kill {round}: {} after {wanted} more acknowledged",
            site.name
        );
    }
    stop.cancel();
    while let Some(client) = clients.join_next().await {
        client.expect("no client panics");
    }
    let total = acknowledged.load(Ordering::Relaxed);
    println!("{total} mutations acknowledged over {rounds} kills");

    cluster.settled().await;
    let files = cluster.same_files(DOMAIN).await;
    let ledger = cluster.ledger().await;
    let book = book.lock().clone();
    for (key, expected) in &book {
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
        .filter(|key| !book.contains_key(key) && !key.starts_with("rivals/"))
        .collect();
    assert!(
        invented.is_empty(),
        "seed {seed}: nobody stored {invented:?}"
    );
}
