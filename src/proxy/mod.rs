//! The proxy: what clients meet in place of the tracker.
//!
//! Always true: a client reads, byte for byte and in order, what a tracker answered, whatever the command. A mutation
//! is in the journal before a tracker sees it. The ledger is never on a client's path.
//! Never here: what the journal does with an outcome, and repair.
//! Killed in the middle: clients see their connections end, and the journal holds the intents of what was under way.
//!
//! How it is built: [`thread`] by thread, each with a listener of its own on the same port (SO_REUSEPORT), its own
//! sessions ([`session`], [`dedicated`]) and its own upstream connections ([`upstream`]). A client keeps to one
//! tracker while that is up ([`trackers`]); its create_close may still go to another one, which is as good
//! provided that all of them are in the same datacenter and see this host in the same zone.

mod buffers;
mod commands;
mod dedicated;
mod mutation;
mod record;
mod session;
mod thread;
mod trackers;
pub mod unsocketed;
mod uploads;
mod upstream;

use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use serde::Serialize;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::runtime::LocalOptions;
use tokio::sync::{oneshot, watch};

use crate::config::ProxyConfig;
use crate::journal::Journal;
use crate::locks::KeyLocks;

use commands::Rules;
use mutation::Recorder;
use thread::{Counters, Shared, Thread};
use trackers::Trackers;
use uploads::Uploads;

/// Connections that the system keeps ready for a thread that is busy.
const BACKLOG: i32 = 4096;

/// Why the proxy cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The address is somebody else's, or not of this machine.
    #[error("listen on {addr} (proxy.listen)")]
    Listen {
        /// As configured.
        addr: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// There is no tracker to stand in front of.
    #[error("proxy.trackers names no tracker")]
    NoTracker,
    /// The system gave no thread or no event queue.
    #[error("start a thread of the proxy")]
    Thread(#[source] std::io::Error),
}

/// A running proxy. Dropped, it ends at once; [`Proxy::stop`] lets requests finish.
pub struct Proxy {
    addrs: Vec<SocketAddr>,
    shared: Arc<Shared>,
    counters: Vec<Arc<Counters>>,
    stop: watch::Sender<Option<Instant>>,
    drain: std::time::Duration,
    ended: Mutex<Vec<oneshot::Receiver<usize>>>,
}

/// Which way a stop ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Drained {
    /// Every request under way was answered.
    Clean,
    /// The time was over; this many clients were cut off.
    Cut(usize),
}

/// Figures of a running proxy.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Stats {
    /// Clients now.
    pub connections: usize,
    /// Clients ever.
    pub accepted: u64,
    /// Clients turned away because there were too many.
    pub turned_away: u64,
    /// Requests served.
    pub requests: u64,
    /// Mutations whose intent was written.
    pub mutations: u64,
    /// Mutations refused because the journal would not take them.
    pub refused_mutations: u64,
    /// Upstream connections that serve a request, as of a moment ago.
    pub upstream_in_use: usize,
    /// Upstream connections that wait for one, as of a moment ago.
    pub upstream_idle: usize,
    /// Clients with an upstream connection of their own.
    pub dedicated: usize,
    /// The trackers, in their order.
    pub trackers: Vec<TrackerStats>,
}

/// What is known of one tracker.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct TrackerStats {
    /// As configured.
    pub name: String,
    /// Whether requests go there.
    pub up: bool,
    /// What last went wrong with it.
    pub last_error: Option<String>,
}

impl Proxy {
    /// Binds all addresses, then begins to serve on them. `locks` are those that repair takes too.
    ///
    /// # Errors
    /// If an address cannot be had, or there is no tracker. Nothing has been started then.
    pub fn start(
        config: &ProxyConfig,
        journal: Journal,
        locks: KeyLocks,
    ) -> Result<Self, ProxyError> {
        if config.trackers.is_empty() {
            return Err(ProxyError::NoTracker);
        }
        let threads = config.threads.max(1);
        let (addrs, listeners) = bind(&config.listen, threads)?;
        let shared = Arc::new(Shared {
            recorder: Recorder {
                journal,
                locks,
                uploads: Uploads::default(),
                lock_wait: config.lock_wait,
            },
            trackers: Trackers::new(&config.trackers),
            rules: Rules::new(&config.deny, config.max_key),
            max_line: config.max_line,
            max_connections: config.max_connections,
            idle_timeout: config.idle_timeout,
            connections: AtomicUsize::new(0),
            dedicated: AtomicUsize::new(0),
        });
        let limit = (config.upstream_connections / threads).max(1);
        let (stop, stopping) = watch::channel(None);
        let mut counters = Vec::new();
        let mut ended = Vec::new();
        for (number, listeners) in listeners.into_iter().enumerate() {
            let own = Arc::new(Counters::default());
            counters.push(Arc::clone(&own));
            let (end, ending) = oneshot::channel();
            ended.push(ending);
            let (ready, started) = std::sync::mpsc::channel();
            let (shared, stop) = (Arc::clone(&shared), stopping.clone());
            std::thread::Builder::new()
                .name(format!("proxy-{number}"))
                .spawn(move || {
                    // A runtime that keeps its tasks to itself has to be made where it runs.
                    let runtime = match tokio::runtime::Builder::new_current_thread()
                        .enable_all()
                        .build_local(LocalOptions::default())
                    {
                        Ok(runtime) => runtime,
                        Err(error) => {
                            let _reported = ready.send(Err(error));
                            return;
                        }
                    };
                    let _reported = ready.send(Ok(()));
                    let left = runtime.block_on(async {
                        if number == 0 {
                            for at in 0..shared.trackers.all.len() {
                                let trackers = Arc::clone(&shared.trackers);
                                tokio::task::spawn_local(trackers.watch_over(at));
                            }
                        }
                        let thread = Rc::new(Thread::new(shared, own, limit, number));
                        thread.run(listeners, stop).await
                    });
                    drop(runtime);
                    let _nobody_waits = end.send(left);
                })
                .map_err(ProxyError::Thread)?;
            started
                .recv()
                .unwrap_or_else(|_| Err(std::io::Error::other("the thread ended at once")))
                .map_err(ProxyError::Thread)?;
        }
        Ok(Self {
            addrs,
            shared,
            counters,
            stop,
            drain: config.drain,
            ended: Mutex::new(ended),
        })
    }

    /// The addresses that clients can connect to, with their real ports.
    pub fn addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// Accepts nobody any more, closes idle clients, waits until the requests under way are answered, and says
    /// whether they all were. A second call waits for nothing.
    pub async fn stop(&self) -> Drained {
        self.stop.send_if_modified(|deadline| {
            let first = deadline.is_none();
            deadline.get_or_insert_with(|| Instant::now() + self.drain);
            first
        });
        let ended = std::mem::take(&mut *self.ended.lock());
        let mut left = 0;
        for ended in ended {
            left += ended.await.unwrap_or_default();
        }
        if left == 0 {
            Drained::Clean
        } else {
            Drained::Cut(left)
        }
    }

    /// The figures of this moment.
    pub fn stats(&self) -> Stats {
        let mut stats = Stats {
            connections: self.shared.connections.load(Ordering::Relaxed),
            dedicated: self.shared.dedicated.load(Ordering::Relaxed),
            trackers: self
                .shared
                .trackers
                .all
                .iter()
                .map(|tracker| TrackerStats {
                    name: tracker.name.clone(),
                    up: tracker.is_up(),
                    last_error: tracker.last_error(),
                })
                .collect(),
            ..Stats::default()
        };
        for of_thread in &self.counters {
            stats.accepted += of_thread.accepted.load(Ordering::Relaxed);
            stats.turned_away += of_thread.turned_away.load(Ordering::Relaxed);
            stats.requests += of_thread.requests.load(Ordering::Relaxed);
            stats.mutations += of_thread.mutations.load(Ordering::Relaxed);
            stats.refused_mutations += of_thread.refused_mutations.load(Ordering::Relaxed);
            stats.upstream_in_use += of_thread.upstream_in_use.load(Ordering::Relaxed);
            stats.upstream_idle += of_thread.upstream_idle.load(Ordering::Relaxed);
        }
        stats
    }
}

/// The real addresses, and for each thread one listener of each.
fn bind(
    wanted: &[SocketAddr],
    threads: usize,
) -> Result<(Vec<SocketAddr>, Vec<Vec<TcpListener>>), ProxyError> {
    let mut addrs = Vec::new();
    let mut listeners: Vec<Vec<TcpListener>> = (0..threads).map(|_| Vec::new()).collect();
    for &addr in wanted {
        let failed = |source| ProxyError::Listen { addr, source };
        // Listeners that share a port would share it with another process too: ask for it alone first.
        drop(listener(addr, false).map_err(failed)?);
        let mut real = addr;
        for of_thread in &mut listeners {
            let listener = listener(real, true).map_err(failed)?;
            real = listener.local_addr().map_err(failed)?;
            of_thread.push(listener);
        }
        addrs.push(real);
    }
    Ok((addrs, listeners))
}

fn listener(addr: SocketAddr, shared: bool) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    // The probe listens too: a port that somebody has bound without listening is taken all the same.
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
