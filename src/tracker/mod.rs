//! A small MogileFS tracker and storage node over a folder.
//!
//! The demo, the tests and small sites run on it. Clients see what they would see from a tracker of
//! version 2.73 with storage nodes behind it; what it does not do, it refuses in the same form.
//!
//! ```text
//! DIR/lock                        held while a process serves the folder
//! DIR/tracker.db                  names, uploads, copies, hosts, settings (SQLite)
//! DIR/devN/A/BBB/CCC/NNN.fid      the bytes of fid NNN on device N
//! DIR/devN/.incoming/             bytes that are still coming
//! ```
//!
//! Always true:
//! * What was answered with `OK`, or with 201, is on the disk and survives `kill -9` and power cuts.
//! * A fid is never handed out twice, unless a client asks by `fid=` for one of which nothing is left.
//! * Overwriting is one step: a key that exists is never unknown for a moment.
//! * Keys, names and settings are bytes, compared as bytes.
//!
//! Killed in the middle: an upload whose `create_close` was not answered is either closed or still
//! open; bytes that no key names are removed after the next start, and copies that are missing are
//! made then. The folder needs no repair.
//!
//! Absent on purpose: fsck and rebalancing, memcached and so `edit_file`, the side channel of
//! storage nodes, slave databases, watching storage nodes that are not this process.
//!
//! How a request goes: [`server`] takes a line, `commands` finds the function for it, that reads or
//! writes the [`store`], and asks [`storage`] about bytes. [`background`] does what nobody waits for.

pub mod activity;
pub mod admin;
pub mod answer;
pub mod background;
pub mod checksum;
mod commands;
pub mod core;
mod paths;
pub mod server;
pub mod storage;
pub mod store;
pub mod topology;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::ListenerExt;
pub use paths::{Devid, Fid, device_dir, fid_file, fid_path};
use rusqlite::Connection;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::core::Core;
use self::storage::Storage;
use self::store::topology::{ClassChange, HostChange, HostName};
use self::store::{Store, StoreError};
use self::topology::DeviceStatus;

/// What a tracker is told when it starts.
#[derive(Debug, Clone)]
pub struct TrackerConfig {
    /// The folder. Made if it is not there.
    pub dir: PathBuf,
    /// Where clients of the line protocol connect.
    pub listen: SocketAddr,
    /// The storage nodes that this process is. They all serve all device folders.
    pub hosts: Vec<StorageHost>,
    /// Domains to make when the folder is new.
    pub domains: Vec<NewDomain>,
    /// How many requests run at once; others wait.
    pub workers: usize,
    /// The longest line that is taken, in bytes.
    pub max_line: usize,
    /// An upload that is open for longer is given up.
    pub upload_expiry: Duration,
    /// For so long the bytes of a deleted file stay, for clients that were just told a path.
    pub delete_delay: Duration,
    /// How often the background looks for work that it was not told of.
    pub background_interval: Duration,
    /// Whether files are copied to further devices, up to the `mindevcount` of their class.
    pub replication: bool,
    /// How long requests that run may take to end when the tracker stops.
    pub grace: Duration,
}

/// A storage node in this process.
#[derive(Debug, Clone)]
pub struct StorageHost {
    /// Its name in `get_hosts`.
    pub name: String,
    /// Where it listens. Its address and port in URLs follow.
    pub listen: SocketAddr,
    /// The address in URLs, if it is not the one it listens on (as with `0.0.0.0`).
    pub advertise: Option<IpAddr>,
    /// Its devices, made if they are not there. Others may be added later with `create_device`.
    pub devices: Vec<Devid>,
}

/// A domain to make.
#[derive(Debug, Clone, Default)]
pub struct NewDomain {
    /// Its name.
    pub name: String,
    /// Its classes besides `default`, in the order of their numbers.
    pub classes: Vec<NewClass>,
}

/// A class to make.
#[derive(Debug, Clone)]
pub struct NewClass {
    /// Its name.
    pub name: String,
    /// How many copies its files should have.
    pub mindevcount: u32,
    /// The digest that is kept of its files.
    pub hashtype: Option<checksum::Kind>,
}

impl TrackerConfig {
    /// One storage host with two devices, no domains, and the usual limits.
    #[must_use]
    pub fn new(dir: PathBuf, listen: SocketAddr, storage_listen: SocketAddr) -> TrackerConfig {
        TrackerConfig {
            dir,
            listen,
            hosts: vec![StorageHost {
                name: "node1".to_owned(),
                listen: storage_listen,
                advertise: None,
                devices: vec![1, 2],
            }],
            domains: Vec::new(),
            workers: 20,
            max_line: 8 << 20,
            upload_expiry: Duration::from_secs(3600),
            delete_delay: Duration::from_secs(1),
            background_interval: Duration::from_secs(5),
            replication: true,
            grace: Duration::from_secs(5),
        }
    }

    /// Gives the first storage host the devices 1 to `count`.
    #[must_use]
    pub fn devices(mut self, count: u16) -> TrackerConfig {
        if let Some(host) = self.hosts.first_mut() {
            host.devices = (1..=Devid::from(count)).collect();
        }
        self
    }

    /// Adds a domain with no classes but `default`.
    #[must_use]
    pub fn domain(mut self, name: &str) -> TrackerConfig {
        self.domains.push(NewDomain {
            name: name.to_owned(),
            classes: Vec::new(),
        });
        self
    }
}

/// Why a tracker does not start.
#[derive(Debug, thiserror::Error)]
pub enum TrackerError {
    /// The folder cannot be used.
    #[error("use {} as the folder of a tracker", path.display())]
    Folder {
        /// The folder, or what is in it.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process serves the folder.
    #[error("{} is in use by another tracker", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// An address is taken, or not ours.
    #[error("listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Clients could not be told where the storage is.
    #[error("{address} is no address for URLs: say what to advertise for the storage host")]
    Unspecified {
        /// The address.
        address: SocketAddr,
    },
    /// The database cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The HTTP client for other storage nodes cannot be made.
    #[error("make an HTTP client")]
    Http(#[from] reqwest::Error),
}

/// A running tracker. Dropping it does not stop it; cancelling its token does.
#[derive(Debug)]
pub struct Tracker {
    address: SocketAddr,
    storage_addresses: Vec<SocketAddr>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
    grace: Duration,
    /// Unlocked when the tracker is dropped.
    _lock: fs::File,
}

impl Tracker {
    /// Starts serving; every address is bound when this returns. Stops when `shutdown` is cancelled,
    /// or by itself when a client says `!shutdown`.
    pub async fn start(
        config: TrackerConfig,
        shutdown: CancellationToken,
    ) -> Result<Tracker, TrackerError> {
        let listener = bind(config.listen).await?;
        let mut storage_listeners = Vec::with_capacity(config.hosts.len());
        for host in &config.hosts {
            storage_listeners.push(bind(host.listen).await?);
        }
        let address = local_address(&listener, config.listen)?;
        let mut storage_addresses = Vec::with_capacity(config.hosts.len());
        for (host, listener) in config.hosts.iter().zip(&storage_listeners) {
            let bound = local_address(listener, host.listen)?;
            let advertised = SocketAddr::new(host.advertise.unwrap_or(bound.ip()), bound.port());
            if advertised.ip().is_unspecified() {
                return Err(TrackerError::Unspecified {
                    address: advertised,
                });
            }
            storage_addresses.push(advertised);
        }

        let lock = lock_folder(&config.dir)?;
        let store = Store::open(&config.dir.join("tracker.db"))?;
        let (setup, addresses) = (config.clone(), storage_addresses.clone());
        store
            .write(move |conn| set_up(conn, &setup, &addresses))
            .await?;
        let storage = Storage::new(config.dir.clone());
        // A child, so that !shutdown stops this tracker and nothing else.
        let shutdown = shutdown.child_token();
        let grace = config.grace;
        let core = Arc::new(Core::new(
            config,
            store,
            storage,
            storage_addresses.clone(),
            shutdown.clone(),
        )?);
        core.reload_topology().await?;
        prepare_devices(&core).await?;

        let tasks = TaskTracker::new();
        tasks.spawn(server::serve(Arc::clone(&core), listener, tasks.clone()));
        for listener in storage_listeners {
            let router = storage::router(core.storage.clone());
            let stop = shutdown.clone().cancelled_owned();
            // An answer's end does not wait for the other side's word on its beginning.
            let listener = listener.tap_io(|stream| {
                let _as_it_is = stream.set_nodelay(true);
            });
            tasks.spawn(async move {
                if let Err(error) = axum::serve(listener, router)
                    .with_graceful_shutdown(stop)
                    .await
                {
                    tracing::error!(%error, "a storage host ended");
                }
            });
        }
        tasks.spawn(background::clean(Arc::clone(&core)));
        if core.config.replication {
            tasks.spawn(background::replicate(Arc::clone(&core)));
        }
        tasks.close();
        tracing::info!(%address, storage = ?storage_addresses, dir = %core.config.dir.display(), "tracker started");
        Ok(Tracker {
            address,
            storage_addresses,
            shutdown,
            tasks,
            grace,
            _lock: lock,
        })
    }

    /// Where clients of the line protocol connect.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// The address of the first storage host, as in URLs.
    ///
    /// # Panics
    ///
    /// If there is none.
    #[must_use]
    pub fn storage_addr(&self) -> SocketAddr {
        *self
            .storage_addresses
            .first()
            .expect("a tracker was configured without storage hosts")
    }

    /// The addresses of all storage hosts, as in URLs.
    #[must_use]
    pub fn storage_addrs(&self) -> &[SocketAddr] {
        &self.storage_addresses
    }

    /// Waits until the tracker was told to stop and everything has ended, or the grace is over.
    pub async fn stopped(self) {
        self.shutdown.cancelled().await;
        match tokio::time::timeout(self.grace, self.tasks.wait()).await {
            Ok(()) => tracing::info!(address = %self.address, "tracker stopped"),
            Err(_) => {
                tracing::warn!(address = %self.address, left = self.tasks.len(), "tracker stopped in the middle")
            }
        }
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener, TrackerError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| TrackerError::Listen { address, source })
}

fn local_address(listener: &TcpListener, address: SocketAddr) -> Result<SocketAddr, TrackerError> {
    listener
        .local_addr()
        .map_err(|source| TrackerError::Listen { address, source })
}

/// Makes the folder, and sees to it that no other process serves it.
fn lock_folder(dir: &std::path::Path) -> Result<fs::File, TrackerError> {
    let folder = |source| TrackerError::Folder {
        path: dir.to_owned(),
        source,
    };
    fs::create_dir_all(dir).map_err(folder)?;
    let lock = fs::File::create(dir.join("lock")).map_err(folder)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(fs::TryLockError::WouldBlock) => Err(TrackerError::InUse {
            path: dir.to_owned(),
        }),
        Err(fs::TryLockError::Error(error)) => Err(folder(error)),
    }
}

/// Makes what is configured and not there yet; hosts get the addresses that they have today.
fn set_up(
    conn: &Connection,
    config: &TrackerConfig,
    addresses: &[SocketAddr],
) -> rusqlite::Result<()> {
    let is_new = conn.execute("INSERT OR IGNORE INTO counter VALUES ('set_up', 1)", [])? == 1;
    if is_new {
        for domain in &config.domains {
            make_domain(conn, domain)?;
        }
    }
    // Two hosts may have exchanged their addresses: free all of them before any is taken.
    for host in &config.hosts {
        conn.execute(
            "UPDATE host SET hostip = x'' WHERE hostname = ?1",
            [host.name.as_bytes()],
        )?;
    }
    for (host, address) in config.hosts.iter().zip(addresses) {
        let name = host.name.clone().into_bytes();
        let update = conn.query_row(
            "SELECT EXISTS (SELECT 1 FROM host WHERE hostname = ?1)",
            [&name],
            |row| row.get(0),
        )?;
        let change = HostChange {
            name: name.clone(),
            update,
            status: if update {
                None
            } else {
                Some(b"alive".to_vec())
            },
            ip: Some(ip_in_urls(address.ip()).into_bytes()),
            port: Some(address.port().to_string().into_bytes()),
            ..HostChange::default()
        };
        if let Err(refusal) = store::topology::change_host(conn, change)? {
            // Somebody registered another host at this address: then the two are one.
            tracing::warn!(host = host.name, %address, why = %refusal.text, "a storage host has the address of another");
            conn.execute(
                "UPDATE host SET hostip = ?2, http_port = ?3 WHERE hostname = ?1",
                (
                    &name,
                    ip_in_urls(address.ip()).into_bytes(),
                    address.port().to_string().into_bytes(),
                ),
            )?;
        }
        for &devid in &host.devices {
            // That it exists already is usual.
            let _exists = store::topology::create_device(
                conn,
                devid,
                &HostName::Name(name.clone()),
                DeviceStatus::Alive,
            )?;
        }
    }
    Ok(())
}

fn ip_in_urls(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

fn make_domain(conn: &Connection, domain: &NewDomain) -> rusqlite::Result<()> {
    let name = domain.name.as_bytes();
    // A name that is configured twice is one domain.
    let _exists = store::topology::create_domain(conn, name)?;
    for class in &domain.classes {
        let change = ClassChange {
            domain: name.to_vec(),
            class: class.name.clone().into_bytes(),
            mindevcount: i64::from(class.mindevcount),
            replpolicy: None,
            hashtype: Some(class.hashtype),
            update: false,
        };
        let _exists = store::topology::change_class(conn, &change)?;
    }
    Ok(())
}

async fn prepare_devices(core: &Core) -> Result<(), TrackerError> {
    let devids: BTreeSet<Devid> = core
        .topology()
        .own_devices()
        .map(|(device, _)| device.devid)
        .collect();
    for devid in devids {
        core.storage
            .prepare_device(devid)
            .await
            .map_err(|source| TrackerError::Folder {
                path: device_dir(&core.config.dir, devid),
                source,
            })?;
    }
    Ok(())
}
