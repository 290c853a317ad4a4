//! One thread of the proxy: its listeners, its sessions, its upstream connections. Threads share no lock on the way of
//! a request; what they share is in [`Shared`].

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Poll, Waker};
use std::time::Duration;

use mogilefs_protocol::reply;
use slab::Slab;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::buffers::Buffers;
use super::commands::Rules;
use super::mutation::Recorder;
use super::session;
use super::trackers::{self, Trackers};
use super::upstream::{Lease, SWEEP_EVERY, Upstreams};

/// How long accepting rests when the system has no room for one more connection.
const NO_ROOM: Duration = Duration::from_millis(100);

/// Refused clients that are still told why, on one thread; more than this are closed without a word.
const FAREWELLS: usize = 256;

/// What all threads have in common.
pub(super) struct Shared {
    pub(super) recorder: Recorder,
    pub(super) trackers: Arc<Trackers>,
    pub(super) rules: Rules,
    pub(super) max_line: usize,
    pub(super) max_connections: usize,
    pub(super) idle_timeout: Option<Duration>,
    /// Clients now.
    pub(super) connections: AtomicUsize,
    /// Clients with an upstream connection of their own.
    pub(super) dedicated: AtomicUsize,
}

/// One thread's figures: written by that thread alone, read by whoever asks.
#[derive(Default)]
pub(super) struct Counters {
    pub(super) accepted: AtomicU64,
    pub(super) turned_away: AtomicU64,
    pub(super) requests: AtomicU64,
    pub(super) mutations: AtomicU64,
    pub(super) refused_mutations: AtomicU64,
    pub(super) upstream_in_use: AtomicUsize,
    pub(super) upstream_idle: AtomicUsize,
}

impl Counters {
    pub(super) fn request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }
    pub(super) fn mutation(&self) {
        self.mutations.fetch_add(1, Ordering::Relaxed);
    }
    pub(super) fn refused_mutation(&self) {
        self.refused_mutations.fetch_add(1, Ordering::Relaxed);
    }
}

/// When a stop's patience ends; `None` while nobody has asked for one.
pub(super) type Stop = watch::Receiver<Option<std::time::Instant>>;

/// What the sessions of one thread share.
pub(super) struct Thread {
    pub(super) shared: Arc<Shared>,
    pub(super) counters: Arc<Counters>,
    pub(super) upstreams: Upstreams,
    pub(super) buffers: Buffers,
    /// One waker a session, so that a stop can wake the idle ones.
    sessions: RefCell<Slab<Waker>>,
    stopping: Cell<bool>,
    /// The last session has ended, or may have.
    emptied: tokio::sync::Notify,
    farewells: Cell<usize>,
    next_home: Cell<usize>,
}

impl Thread {
    pub(super) fn new(
        shared: Arc<Shared>,
        counters: Arc<Counters>,
        upstream_limit: usize,
        number: usize,
    ) -> Self {
        Self {
            upstreams: Upstreams::new(Arc::clone(&shared.trackers), upstream_limit),
            shared,
            counters,
            buffers: Buffers::default(),
            sessions: RefCell::default(),
            stopping: Cell::new(false),
            emptied: tokio::sync::Notify::new(),
            farewells: Cell::new(0),
            next_home: Cell::new(number),
        }
    }

    /// Whether no further request should be begun.
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    /// An answer was read to its end. `in_step`: nothing followed it.
    pub(super) fn done_with(&self, lease: Lease, in_step: bool) {
        if in_step {
            lease.give_back();
        } else {
            tracing::warn!("a tracker sent more than was asked for; its connection is closed");
        }
    }

    /// Runs until a stop; gives the number of sessions that were cut off.
    pub(super) async fn run(
        self: Rc<Self>,
        listeners: Vec<std::net::TcpListener>,
        mut stop: Stop,
    ) -> usize {
        let mut accepting = Vec::new();
        for listener in listeners {
            match TcpListener::from_std(listener) {
                Ok(listener) => {
                    accepting.push(tokio::task::spawn_local(Rc::clone(&self).accept(listener)));
                }
                Err(error) => tracing::error!(%error, "a listener cannot be used"),
            }
        }
        let sweeping = tokio::task::spawn_local(Rc::clone(&self).sweep());
        let deadline = loop {
            if let Some(deadline) = *stop.borrow_and_update() {
                break deadline;
            }
            if stop.changed().await.is_err() {
                break std::time::Instant::now();
            }
        };
        self.stopping.set(true);
        for accepting in accepting {
            accepting.abort();
        }
        let sleeping: Vec<Waker> = self
            .sessions
            .borrow()
            .iter()
            .map(|(_, waker)| waker.clone())
            .collect();
        for waker in sleeping {
            waker.wake();
        }
        while !self.sessions.borrow().is_empty() {
            tokio::select! {
                () = self.emptied.notified() => {}
                () = sleep_until(Instant::from_std(deadline)) => break,
            }
        }
        sweeping.abort();
        self.sessions.borrow().len()
    }

    async fn accept(self: Rc<Self>, listener: TcpListener) {
        let mut complained = false;
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    complained = false;
                    self.admit(stream, peer);
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    if !complained {
                        tracing::warn!(%error, "no connection can be accepted; trying on");
                        complained = true;
                    }
                    sleep(NO_ROOM).await;
                }
            }
        }
    }

    fn admit(self: &Rc<Self>, stream: TcpStream, peer: SocketAddr) {
        self.counters.accepted.fetch_add(1, Ordering::Relaxed);
        let place = Place::take(&self.shared);
        if let Err(error) = trackers::prepare(&stream) {
            tracing::debug!(%peer, %error, "client was gone at once");
            return;
        }
        let Some(place) = place else {
            self.turn_away(stream, peer);
            return;
        };
        let home = self.next_home.get();
        self.next_home.set(home.wrapping_add(1));
        let home = home % self.shared.trackers.all.len();
        let thread = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let _place = place;
            let _seat = Seat::take(&thread).await;
            session::serve(Rc::clone(&thread), stream, peer, home).await;
        });
    }

    fn turn_away(self: &Rc<Self>, stream: TcpStream, peer: SocketAddr) {
        tracing::debug!(%peer, "too many connections");
        self.counters.turned_away.fetch_add(1, Ordering::Relaxed);
        if self.farewells.get() >= FAREWELLS {
            return;
        }
        self.farewells.set(self.farewells.get() + 1);
        let text = format!(
            "{} connections are allowed here (proxy.max_connections)",
            self.shared.max_connections
        );
        let thread = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let line = reply::err("too_many_connections", &text, None);
            if stream.writable().await.is_ok() {
                let _sent_or_gone = stream.try_write(&line);
            }
            session::farewell(stream).await;
            thread.farewells.set(thread.farewells.get() - 1);
        });
    }

    async fn sweep(self: Rc<Self>) {
        let mut looks = 0_u32;
        loop {
            // Figures four times a second; the connections themselves seldom.
            sleep(SWEEP_EVERY / 20).await;
            looks = looks.wrapping_add(1);
            if looks.is_multiple_of(20) {
                self.upstreams.sweep();
            }
            let (lent, idle) = self.upstreams.count();
            self.counters.upstream_in_use.store(lent, Ordering::Relaxed);
            self.counters.upstream_idle.store(idle, Ordering::Relaxed);
        }
    }
}

/// One of `max_connections`.
struct Place(Arc<Shared>);

impl Place {
    fn take(shared: &Arc<Shared>) -> Option<Self> {
        let place = Self(Arc::clone(shared));
        let taken = shared.connections.fetch_add(1, Ordering::AcqRel);
        (taken < shared.max_connections).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A session's entry among those that a stop wakes.
struct Seat<'a> {
    thread: &'a Thread,
    number: usize,
}

impl<'a> Seat<'a> {
    async fn take(thread: &'a Thread) -> Self {
        let number = std::future::poll_fn(|cx| {
            Poll::Ready(thread.sessions.borrow_mut().insert(cx.waker().clone()))
        })
        .await;
        Self { thread, number }
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.thread.sessions.borrow_mut().remove(self.number);
        if self.thread.stopping.get() {
            self.thread.emptied.notify_one();
        }
    }
}

/// Whether an error of accept is that of one client which has gone already.
fn is_of_one_connection(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::ConnectionAborted
            | std::io::ErrorKind::ConnectionReset
            | std::io::ErrorKind::Interrupted
    )
}
