//! What the tests of this binary share: ledgers on the cluster, values of chance.

use std::time::Duration;

use phylactery::config::{CassandraConfig, LedgerCompression, WriteConsistency};
use phylactery::file::{
    Checked, Checksum, Class, ClassCell, Content, Datacenter, Fid, FileName, Found, Held, Key,
    NodeName, Op, Put, Replica, Revision,
};
use phylactery::ledger::cassandra::CassandraLedger;
use phylactery::version::Version;
use rand::RngExt;
use rand::rngs::StdRng;
use rand::{SeedableRng, seq::IndexedRandom};

use crate::cluster::Cluster;
use crate::harness::{self, LedgerAt, Site, until};

/// The configuration of a ledger through one datacenter of the cluster.
pub fn config(cluster: &Cluster, datacenter: &str, keyspace: &str) -> CassandraConfig {
    CassandraConfig {
        contact_points: cluster.contact_points(datacenter),
        local_datacenter: datacenter.to_owned(),
        keyspace: keyspace.to_owned(),
        write_consistency: WriteConsistency::All,
        username: None,
        password_file: None,
        tls_ca: None,
        tls_cert: None,
        tls_key: None,
        compression: LedgerCompression::Lz4,
        request_timeout: Duration::from_secs(5),
        connect_timeout: Duration::from_secs(5),
    }
}

/// A ledger through one datacenter of the cluster.
pub async fn ledger(cluster: &Cluster, datacenter: &str, keyspace: &str) -> CassandraLedger {
    CassandraLedger::open(&config(cluster, datacenter, keyspace))
        .await
        .expect("the ledger opens")
}

/// Two sites whose ledger is a keyspace of the cluster, each by its own nodes; it is open to both.
pub async fn sites(cluster: &Cluster, keyspace: &str) -> harness::Cluster {
    let of = |datacenter| config(cluster, datacenter, keyspace);
    let ledger_at = LedgerAt::Cassandra(vec![of("ma01"), of("tx01")]);
    let home = tempfile::tempdir().expect("a folder");
    let mut sites = harness::Cluster::prepare_on(home, ledger_at, "").await;
    for site in sites.sites() {
        site.start_node().await;
    }
    for site in sites.sites() {
        is_ready(site).await;
    }
    sites
}

/// Waits until a site has its ledger.
pub async fn is_ready(site: &Site) {
    until("the ledger is open", async || match site.ready().await? {
        (true, _) => Ok(()),
        (false, why) => Err(why),
    })
    .await;
}

/// A seed, printed; `PHYLACTERY_SEED` repeats a run.
pub fn seed() -> u64 {
    let seed = std::env::var("PHYLACTERY_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(rand::random::<u64>);
    println!("PHYLACTERY_SEED={seed}");
    seed
}

/// What is random in a test, by such a seed.
pub fn chance() -> StdRng {
    StdRng::seed_from_u64(seed())
}

pub fn file(key: &str) -> FileName {
    FileName::from_bytes(b"photos", key.as_bytes())
}

fn one_of<T: Copy>(rng: &mut StdRng, choice: &[T]) -> T {
    *choice.choose(rng).expect("a choice")
}

/// Names of several lengths: between texts, Cassandra calls the longer one greater.
pub fn datacenter(rng: &mut StdRng) -> Datacenter {
    one_of(rng, &["a", "b", "aa", "ma01"])
        .parse()
        .expect("a name")
}

fn node(rng: &mut StdRng) -> NodeName {
    one_of(rng, &["n", "m", "nn"]).parse().expect("a name")
}

fn version(rng: &mut StdRng) -> Version {
    Version(one_of(rng, &[1, 255, 256, 1_700_000_000_000_000]))
}

fn text(rng: &mut StdRng) -> &'static str {
    one_of(rng, &["", "a", "b", "ab", "%FF"])
}

fn number(rng: &mut StdRng) -> u64 {
    one_of(rng, &[0, 1, 256, 1 << 40])
}

pub fn content(rng: &mut StdRng) -> Content {
    Content {
        version: version(rng),
        origin: datacenter(rng),
        node: node(rng),
    }
}

/// A revision at `version`: alike in much, different in something.
pub fn revision(rng: &mut StdRng, at: Version) -> Revision {
    let key = |rng: &mut StdRng| rng.random_bool(0.5).then(|| Key::from_escaped(text(rng)));
    let op = if rng.random_bool(0.6) {
        let digest = [one_of(rng, &[0, 1, 255]); 16];
        Op::Put(Put {
            content: content(rng),
            size: number(rng),
            checksum: rng.random_bool(0.5).then(|| Checksum::md5(&digest)),
            fid: Fid(number(rng)),
            renamed_from: key(rng),
        })
    } else {
        Op::Delete {
            renamed_to: key(rng),
        }
    };
    Revision {
        version: at,
        origin: datacenter(rng),
        node: node(rng),
        op,
    }
}

pub fn class_cell(rng: &mut StdRng, at: Version) -> ClassCell {
    ClassCell {
        version: at,
        content: content(rng),
        class: Class::from_escaped(text(rng)),
    }
}

pub fn replica(rng: &mut StdRng, at: Version) -> Replica {
    let held = rng.random_bool(0.7).then(|| Held {
        content: content(rng),
        fid: Fid(number(rng)),
        class: Class::from_escaped(text(rng)),
        claimed: rng.random_bool(0.3),
        checked: rng.random_bool(0.5).then(|| Checked {
            at,
            found: Found::ALL[rng.random_range(0..Found::ALL.len())],
            checksum: rng
                .random_bool(0.5)
                .then(|| Checksum::md5(&[rng.random_range(0..=u8::MAX); 16])),
        }),
        leaving: rng.random_bool(0.3),
    });
    Replica { since: at, held }
}
