//! Two datacenters on this machine, to try Phylactery out: `ma01` and `tx01`.
//!
//! Each has a small tracker of its own ([`crate::tracker`]) and a node ([`crate::node`]) with journal, proxy, repair and
//! API, as it would have anywhere; only the ledger is one for both: a file, or a cluster that is there already. The domain [`DOMAIN`] is there from
//! the start in the first one alone, so that repair is seen to make it in the other.
//!
//! ```text
//! DIR/lock                     held while a demo runs on the folder
//! DIR/ledger.db                the ledger of both, unless that is a cluster
//! DIR/ma01/tracker, DIR/tx01/tracker     the trackers' databases and files
//! DIR/ma01/journal, DIR/tx01/journal     the journals
//! ```
//!
//! Always true: nothing is started before every port was found free, and nothing outside of `DIR` is made.
//! Killed in the middle: started again on the same folder, it goes on where it was.

use std::collections::BTreeSet;
use std::fs::{File, TryLockError};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio_util::sync::CancellationToken;

use crate::config::{
    ApiConfig, Config, DatacenterConfig, JournalConfig, LedgerConfig, OnVanished, ProxyConfig,
    RepairConfig, SourcesConfig, VerifyBy,
};
use crate::events::Events;
use crate::file::{Datacenter, Domain};
use crate::ledger::cassandra::CassandraLedger;
use crate::node::Node;
use crate::repair::budget::Limits;
use crate::tracker::{Tracker, TrackerConfig};

/// The domain that is there to be used.
pub const DOMAIN: &str = "demo";

/// The highest port without an offset: what an offset may add ends below 65,536.
const HIGHEST_PORT: u16 = 8081;
/// The largest offset.
pub const MOST_OFFSET: u16 = u16::MAX - HIGHEST_PORT;

/// Our own trackers never run a request twice, so an answer that is lost is soon settled.
const QUIET_TIME: Duration = Duration::from_secs(2);
/// Somebody is looking on.
const RETRY_FIRST: Duration = Duration::from_millis(500);
/// A datacenter that was away is taken up again while one still looks on.
const RETRY_MOST: Duration = Duration::from_secs(10);
/// As everywhere.
const TOMBSTONE_RETENTION: Duration = Duration::from_secs(30 * 86_400);
/// A demo has few files.
const SCAN_EVERY: Duration = Duration::from_secs(60);
/// As often as all files can be read without anybody noticing.
const VERIFY_EVERY: Duration = Duration::from_secs(600);

/// As for verify: whoever plays may go past the proxy, and is to see that it is noticed.
const BACKFILL_EVERY: Duration = Duration::from_secs(5);
const BACKFILL_SWEEP_EVERY: Duration = Duration::from_secs(600);
/// Ctrl-C should not take longer than one waits for it.
const DRAIN: Duration = Duration::from_secs(3);

/// One datacenter of the demo, by its addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Site {
    /// Its name.
    pub name: &'static str,
    /// Where clients connect.
    pub proxy: SocketAddr,
    /// The tracker behind the proxy.
    pub tracker: SocketAddr,
    /// The storage node, by HTTP.
    pub storage: SocketAddr,
    /// The API.
    pub api: SocketAddr,
}

/// The two datacenters, with every port moved by `offset`, which is at most [`MOST_OFFSET`].
pub fn sites(offset: u16) -> [Site; 2] {
    let at = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port.saturating_add(offset)));
    [
        Site {
            name: "ma01",
            proxy: at(7001),
            tracker: at(7011),
            storage: at(7511),
            api: at(8080),
        },
        Site {
            name: "tx01",
            proxy: at(7002),
            tracker: at(7012),
            storage: at(7512),
            api: at(8081),
        },
    ]
}

/// A running demo.
pub struct Demo {
    nodes: Vec<Node>,
    trackers: Vec<Tracker>,
    stop_trackers: CancellationToken,
    /// Unlocked when dropped.
    _lock: File,
}

impl Demo {
    /// Starts both datacenters over the folder and the ledger; what happens in them is published as `events`.
    ///
    /// # Errors
    /// If a port is taken (all that are, are named), another demo runs on the folder, the ledger is a cluster that cannot be
    /// used, or a part does not start.
    pub async fn start(
        dir: &Path,
        sites: &[Site],
        ledger: &LedgerConfig,
        events: &Events,
    ) -> anyhow::Result<Demo> {
        not_running(dir)?;
        all_free(sites)?;
        if let LedgerConfig::Cassandra(cluster) = ledger {
            // A node would wait for it and serve its clients; here somebody looks on who can do something about it.
            CassandraLedger::open(cluster).await?;
        }
        let lock = lock(dir)?;
        let mut demo = Demo {
            nodes: Vec::new(),
            trackers: Vec::new(),
            stop_trackers: CancellationToken::new(),
            _lock: lock,
        };
        for (nth, site) in sites.iter().enumerate() {
            let started = demo.start_site(dir, site, ledger, nth == 0, events).await;
            if let Err(error) = started {
                demo.stop().await;
                return Err(error.context(format!("start {}", site.name)));
            }
        }
        Ok(demo)
    }

    async fn start_site(
        &mut self,
        dir: &Path,
        site: &Site,
        ledger: &LedgerConfig,
        with_domain: bool,
        events: &Events,
    ) -> anyhow::Result<()> {
        let folder = dir.join(site.name).join("tracker");
        let mut config = TrackerConfig::new(folder, site.tracker, site.storage);
        if with_domain {
            config = config.domain(DOMAIN);
        }
        let tracker = Tracker::start(config, self.stop_trackers.clone());
        self.trackers
            .push(tracker.await.context("start the tracker")?);
        let node = Node::start(config_of(dir, site, ledger.clone())?, events.clone());
        self.nodes.push(node.await?);
        Ok(())
    }

    /// Ends both: first the nodes, which may still need their trackers.
    pub async fn stop(self) {
        futures::future::join_all(self.nodes.into_iter().map(Node::stop)).await;
        self.stop_trackers.cancel();
        futures::future::join_all(self.trackers.into_iter().map(Tracker::stopped)).await;
    }
}

fn config_of(dir: &Path, site: &Site, ledger: LedgerConfig) -> anyhow::Result<Config> {
    let name: Datacenter = site.name.parse()?;
    let trackers = vec![site.tracker.to_string()];
    Ok(Config {
        datacenter: DatacenterConfig {
            name,
            node: "node1".parse()?,
            trackers: trackers.clone(),
            storage_hosts: None,
        },
        proxy: ProxyConfig {
            listen: vec![site.proxy],
            trackers,
            max_connections: 1000,
            max_line: 1 << 20,
            max_key: 60_000,
            deny: vec!["!shutdown".to_owned()],
            idle_timeout: None,
            upstream_connections: 64,
            // Two datacenters share this machine with whoever tries them.
            threads: 1,
            lock_wait: Duration::from_secs(10),
            drain: DRAIN,
        },
        journal: JournalConfig {
            path: dir.join(site.name).join("journal"),
            max_size: 256 << 20,
            quiet_time: QUIET_TIME,
        },
        ledger,
        repair: RepairConfig {
            enabled: true,
            budget: Limits::default(),
            sources: SourcesConfig::default(),
            create_domains: true,
            scan_every: SCAN_EVERY,
            retry_first: RETRY_FIRST,
            retry_most: RETRY_MOST,
            tombstone_retention: TOMBSTONE_RETENTION,
            verify_every: Some(VERIFY_EVERY),
            verify_by: VerifyBy::Bytes,
            verify_rate: 50,
            verify_most_missing: 5.0,
            on_vanished: OnVanished::Restore,
            backfill_every: Some(BACKFILL_EVERY),
            backfill_rate: 200,
            backfill_sweep_every: BACKFILL_SWEEP_EVERY,
            split_from: BTreeSet::new(),
        },
        api: ApiConfig {
            listen: site.api,
            compatible_status: false,
            fid_domain: Domain::from_bytes(b"phylactery"),
        },
    })
}

/// The ledger of a demo that has no cluster.
pub fn embedded_ledger(dir: &Path) -> LedgerConfig {
    LedgerConfig::Embedded {
        path: dir.join("ledger.db"),
    }
}

/// Where a demo lives if nobody says.
///
/// # Errors
/// If this user has no home.
pub fn default_dir() -> anyhow::Result<PathBuf> {
    match directories::ProjectDirs::from("", "", "phylactery") {
        Some(dirs) => Ok(dirs.data_dir().join("demo")),
        None => bail!("find your data directory: you have no home; name a folder with --dir"),
    }
}

/// One that does has the ports too; that it runs is the shorter thing to say.
fn not_running(dir: &Path) -> anyhow::Result<()> {
    match File::open(dir.join("lock")) {
        Ok(lock) => try_lock(dir, &lock),
        Err(_) => Ok(()),
    }
}

fn lock(dir: &Path) -> anyhow::Result<File> {
    let making = || {
        format!(
            "make the folder {} (--dir names another one)",
            dir.display()
        )
    };
    std::fs::create_dir_all(dir).with_context(making)?;
    let lock = File::create(dir.join("lock")).with_context(making)?;
    try_lock(dir, &lock)?;
    Ok(lock)
}

fn try_lock(dir: &Path, lock: &File) -> anyhow::Result<()> {
    match lock.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => bail!(
            "another demo runs on {}; stop it, or run this one beside it with --dir DIR --port-offset 100",
            dir.display()
        ),
        Err(TryLockError::Error(error)) => Err(error).context("lock the folder"),
    }
}

/// Whether every port could be bound; if not, which could not, and what they were for.
fn all_free(sites: &[Site]) -> anyhow::Result<()> {
    let mut taken = Vec::new();
    for site in sites {
        let Site {
            name,
            proxy,
            tracker,
            storage,
            api,
        } = site;
        let needed = [
            ("proxy", proxy),
            ("tracker", tracker),
            ("storage", storage),
            ("API", api),
        ];
        for (part, address) in needed {
            // Bound for a moment only: the parts bind by themselves.
            if let Err(error) = TcpListener::bind(address) {
                taken.push(format!("{address}, for the {part} of {name}: {error}"));
            }
        }
    }
    if taken.is_empty() {
        return Ok(());
    }
    bail!(
        "listen on {}\n  --port-offset 100 moves all ports",
        taken.join("\n  and on ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_offset_still_has_ports() {
        let [ma01, tx01] = sites(MOST_OFFSET);
        assert_eq!(tx01.api.port(), u16::MAX);
        assert_eq!(ma01.proxy.port(), 7001 + MOST_OFFSET);
    }
}
