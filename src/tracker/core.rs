//! What all parts of one tracker share.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use rusqlite::Connection;
use tokio::sync::{Mutex, Notify};
use tokio_util::sync::CancellationToken;

use crate::tracker::TrackerConfig;
use crate::tracker::activity::Activity;
use crate::tracker::answer::Refusal;
use crate::tracker::paths::{Devid, Fid};
use crate::tracker::storage::Storage;
use crate::tracker::store::{Store, StoreError, topology};
use crate::tracker::topology::Topology;

/// How long another storage node may take to answer.
const NODE_TIMEOUT: Duration = Duration::from_secs(2);

/// One running tracker.
pub struct Core {
    /// What it was told.
    pub config: TrackerConfig,
    /// Its database.
    pub store: Store,
    /// Its device folders.
    pub storage: Storage,
    /// Its queue, its counters and those who watch it.
    pub activity: Activity,
    /// Asks the cleaner for a round before its time.
    pub poke_cleaner: Notify,
    /// Asks the replicator for a round before its time.
    pub poke_replicator: Notify,
    /// Cancelled when the tracker is to stop.
    pub shutdown: CancellationToken,
    topology: RwLock<Arc<Topology>>,
    /// Held while the topology is read again, so that an older picture never replaces a newer one.
    reloading: Mutex<()>,
    own_hosts: Vec<Vec<u8>>,
    own_addresses: Vec<SocketAddr>,
    http: reqwest::Client,
}

/// What is at a URL.
#[derive(Debug)]
pub enum Probe {
    /// A file of this length.
    Size(u64),
    /// Nothing.
    Missing,
    /// Nobody knows, because.
    Unreachable(String),
}

impl Core {
    /// Puts the parts together. `own_addresses` are where the own storage hosts listen.
    pub fn new(
        config: TrackerConfig,
        store: Store,
        storage: Storage,
        own_addresses: Vec<SocketAddr>,
        shutdown: CancellationToken,
    ) -> Result<Core, reqwest::Error> {
        let http = reqwest::Client::builder()
            .connect_timeout(NODE_TIMEOUT)
            .timeout(NODE_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()?;
        Ok(Core {
            own_hosts: config
                .hosts
                .iter()
                .map(|host| host.name.clone().into_bytes())
                .collect(),
            activity: Activity::new(config.workers),
            config,
            store,
            storage,
            poke_cleaner: Notify::new(),
            poke_replicator: Notify::new(),
            shutdown,
            topology: RwLock::default(),
            reloading: Mutex::default(),
            own_addresses,
            http,
        })
    }

    /// Domains, hosts and devices as they are now.
    #[must_use]
    pub fn topology(&self) -> Arc<Topology> {
        Arc::clone(&self.topology.read())
    }

    /// Reads domains, hosts and devices again.
    pub async fn reload_topology(&self) -> Result<(), StoreError> {
        let _one_at_a_time = self.reloading.lock().await;
        let own_hosts = self.own_hosts.clone();
        let topology = self
            .store
            .read(move |conn| topology::load(conn, &own_hosts))
            .await?;
        *self.topology.write() = Arc::new(topology);
        Ok(())
    }

    /// Changes domains, hosts or devices. Requests that come later see it.
    pub async fn change_topology<T, F>(&self, job: F) -> Result<T, Refusal>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<Result<T, Refusal>> + Send + 'static,
    {
        let changed = self.store.write(job).await??;
        self.reload_topology().await?;
        Ok(changed)
    }

    /// Looks at the bytes of a fid: on the disk if the URL is our own, else over HTTP.
    pub async fn probe(&self, devid: Devid, fid: Fid, url: &str) -> Probe {
        let authority = url
            .strip_prefix("http://")
            .and_then(|rest| rest.split('/').next());
        let is_own = authority
            .and_then(|authority| authority.parse().ok())
            .is_some_and(|address: SocketAddr| self.own_addresses.contains(&address));
        if is_own {
            return match self.storage.length(devid, fid).await {
                Ok(Some(length)) => Probe::Size(length),
                Ok(None) => Probe::Missing,
                Err(error) => Probe::Unreachable(error.to_string()),
            };
        }
        match self.http.head(url).send().await {
            Err(error) if error.is_timeout() => Probe::Unreachable("timeout".to_owned()),
            Err(error) if error.is_connect() => Probe::Unreachable("connection refused".to_owned()),
            Err(error) => Probe::Unreachable(error.to_string()),
            Ok(answer) if answer.status() == reqwest::StatusCode::NOT_FOUND => Probe::Missing,
            Ok(answer) if !answer.status().is_success() => {
                Probe::Unreachable(answer.status().to_string())
            }
            Ok(answer) => answer
                .headers()
                .get(reqwest::header::CONTENT_LENGTH)
                .and_then(|length| length.to_str().ok()?.parse().ok())
                .map_or_else(|| Probe::Unreachable("no length".to_owned()), Probe::Size),
        }
    }

    /// Something was left to the background.
    pub fn poke_background(&self) {
        self.poke_cleaner.notify_one();
        self.poke_replicator.notify_one();
    }
}
