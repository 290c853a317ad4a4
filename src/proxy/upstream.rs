//! Connections to the trackers, lent to one request at a time. Each thread has its own.
//!
//! Always true: at most `limit` connections to one tracker are open on one thread; who comes when all are
//! lent waits in line. A connection comes back only in step: its last answer was read to the end and nothing
//! followed. The most recently used is lent first, so that the others age and go.
//! Never here: what is sent, and what may be sent twice ([`super::session`]). Requests that are ready together may
//! one day share a connection: they would do it behind [`Upstreams::lease`] and [`Lease`].

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use mogilefs_protocol::line::find_line_end;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::buffers::{self, Buffer, Buffers};
use super::trackers::Trackers;

/// A connection that nobody wanted for so long is closed.
const IDLE: Duration = Duration::from_secs(60);

/// From one look at the idle connections to the next.
pub(super) const SWEEP_EVERY: Duration = Duration::from_secs(5);

/// The connections of one thread.
pub(super) struct Upstreams {
    trackers: Arc<Trackers>,
    pools: Vec<Rc<Pool>>,
}

/// No tracker takes a connection.
#[derive(Debug)]
pub(super) struct NoTracker;

impl Upstreams {
    /// `limit` is that of each tracker, on this thread.
    pub(super) fn new(trackers: Arc<Trackers>, limit: usize) -> Self {
        let pools = trackers
            .all
            .iter()
            .map(|_| {
                Rc::new(Pool {
                    limit,
                    lent: Cell::new(0),
                    idle: RefCell::default(),
                    waiting: RefCell::default(),
                })
            })
            .collect();
        Self { trackers, pools }
    }

    /// A connection for one request: to the tracker that this client talked to before, `home`, or to another one
    /// if that is left out; `home` is then that one. `fresh` asks for one that was not used before.
    pub(super) async fn lease(&self, home: &mut usize, fresh: bool) -> Result<Lease, NoTracker> {
        if !fresh
            && self.trackers.all[*home].is_up()
            && let Some(lease) = self.pools[*home].idle()
        {
            return Ok(lease);
        }
        Box::pin(self.lease_slowly(home, fresh)).await
    }

    async fn lease_slowly(&self, home: &mut usize, fresh: bool) -> Result<Lease, NoTracker> {
        let count = self.pools.len();
        let mut failed = vec![false; count];
        loop {
            let left = || {
                (0..count)
                    .map(|step| (*home + step) % count)
                    .filter(|&at| !failed[at])
            };
            let at = left()
                .find(|&at| self.trackers.all[at].is_up())
                .or_else(|| left().next())
                .ok_or(NoTracker)?;
            let is_up = self.trackers.all[at].is_up();
            match self.from(at, is_up, fresh).await {
                Got::Lease(lease) => {
                    *home = at;
                    return Ok(lease);
                }
                Got::Failure => failed[at] = true,
                Got::News => {}
            }
        }
    }

    async fn from(&self, at: usize, was_up: bool, fresh: bool) -> Got {
        let pool = &self.pools[at];
        if !fresh && let Some(lease) = pool.idle() {
            return Got::Lease(lease);
        }
        let slot = match Pool::slot(pool) {
            Some(slot) => slot,
            None => {
                let news = self.trackers.changed.notified();
                if self.trackers.all[at].is_up() != was_up {
                    return Got::News;
                }
                let (grant, granted) = oneshot::channel();
                pool.waiting.borrow_mut().push_back(grant);
                tokio::select! {
                    granted = granted => match granted {
                        Ok(Grant::Lease(lease)) => return Got::Lease(lease),
                        Ok(Grant::Slot(slot)) => slot,
                        Err(_) => return Got::News,
                    },
                    () = news => return Got::News,
                }
            }
        };
        match self.trackers.connect(at).await {
            Ok(stream) => Got::Lease(Lease { stream, slot }),
            Err(_known_to_trackers) => Got::Failure,
        }
    }

    /// A connection that stays with one client and is none of the lent ones.
    pub(super) async fn connect(&self, home: &mut usize) -> Result<TcpStream, NoTracker> {
        let count = self.pools.len();
        let mut order: Vec<usize> = (0..count).map(|step| (*home + step) % count).collect();
        order.sort_by_key(|&at| !self.trackers.all[at].is_up());
        for at in order {
            if let Ok(stream) = self.trackers.connect(at).await {
                *home = at;
                return Ok(stream);
            }
        }
        Err(NoTracker)
    }

    /// Closes what was idle for long, or was closed by the tracker.
    pub(super) fn sweep(&self) {
        for pool in &self.pools {
            pool.idle
                .borrow_mut()
                .retain(|(stream, since)| since.elapsed() < IDLE && is_quiet(stream));
            pool.waiting
                .borrow_mut()
                .retain(|waiting| !waiting.is_closed());
        }
    }

    /// Connections lent now, and idle ones.
    pub(super) fn count(&self) -> (usize, usize) {
        self.pools.iter().fold((0, 0), |(lent, idle), pool| {
            (lent + pool.lent.get(), idle + pool.idle.borrow().len())
        })
    }
}

enum Got {
    Lease(Lease),
    /// No connection was to be had.
    Failure,
    /// A tracker was left out or came back: choose again.
    News,
}

/// The connections to one tracker.
struct Pool {
    limit: usize,
    lent: Cell<usize>,
    idle: RefCell<Vec<(TcpStream, Instant)>>,
    waiting: RefCell<VecDeque<oneshot::Sender<Grant>>>,
}

enum Grant {
    Lease(Lease),
    Slot(Slot),
}

impl Pool {
    fn idle(self: &Rc<Self>) -> Option<Lease> {
        loop {
            let (stream, _) = self.idle.borrow_mut().pop()?;
            if is_quiet(&stream) {
                self.lent.set(self.lent.get() + 1);
                return Some(Lease {
                    stream,
                    slot: Slot(Rc::clone(self)),
                });
            }
        }
    }

    /// The right to one more connection. An idle one goes for it if need be: the least recently used.
    fn slot(self: &Rc<Self>) -> Option<Slot> {
        if self.lent.get() >= self.limit {
            return None;
        }
        let mut idle = self.idle.borrow_mut();
        if self.lent.get() + idle.len() >= self.limit {
            idle.remove(0);
        }
        self.lent.set(self.lent.get() + 1);
        Some(Slot(Rc::clone(self)))
    }
}

/// The right to one open connection; goes to the next who waits when dropped.
struct Slot(Rc<Pool>);

impl Drop for Slot {
    fn drop(&mut self) {
        loop {
            let next = self.0.waiting.borrow_mut().pop_front();
            match next {
                None => return self.0.lent.set(self.0.lent.get() - 1),
                Some(waiting) if waiting.is_closed() => {}
                Some(waiting) => {
                    // If it closes in between, the grant is dropped there and comes back here.
                    drop(waiting.send(Grant::Slot(Slot(Rc::clone(&self.0)))));
                    return;
                }
            }
        }
    }
}

/// A connection that is lent. Dropped, it is closed: [`Lease::give_back`] is for one that is in step.
pub(super) struct Lease {
    stream: TcpStream,
    slot: Slot,
}

/// A piece of an answer.
pub(super) enum Piece {
    /// Some bytes without an LF.
    Part(Buffer, usize),
    /// The bytes up to the LF, and whether nothing follows it.
    Last(Buffer, usize, bool),
    /// The tracker has closed the connection.
    Closed,
}

/// The tracker cannot have seen a whole line.
#[derive(Debug)]
pub(super) struct Unsent;

impl Lease {
    /// Sends one line. When that fails the tracker has not got the end of the line, and will never act on it.
    pub(super) async fn send(&mut self, line: &[u8]) -> Result<(), Unsent> {
        let mut rest = line;
        while !rest.is_empty() {
            match self.stream.try_write(rest) {
                Ok(sent) => rest = &rest[sent..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.stream.writable().await.map_err(|_| Unsent)?;
                }
                Err(_gone) => return Err(Unsent),
            }
        }
        Ok(())
    }

    /// Waits for more of the answer.
    pub(super) async fn piece(&mut self, buffers: &Buffers) -> Piece {
        match buffers::read(&mut self.stream, buffers).await {
            Err(_) | Ok((_, 0)) => Piece::Closed,
            Ok((buffer, read)) => match find_line_end(&buffer[..read], 0) {
                Some(end) => Piece::Last(buffer, end, end == read),
                None => Piece::Part(buffer, read),
            },
        }
    }

    /// Asks the system whether the connection is still there: for what must not be sent in vain.
    pub(super) fn is_alive(&self) -> bool {
        let mut byte = [std::mem::MaybeUninit::uninit()];
        let peeked = socket2::SockRef::from(&self.stream).peek(&mut byte);
        matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// For the next request: the answer was read to its end and nothing followed.
    pub(super) fn give_back(self) {
        let pool = Rc::clone(&self.slot.0);
        let mut lease = self;
        loop {
            let next = pool.waiting.borrow_mut().pop_front();
            match next {
                None => {
                    let Lease { stream, slot } = lease;
                    // Idle before the slot goes, so that the two are never more than the limit.
                    drop(slot);
                    pool.idle.borrow_mut().push((stream, Instant::now()));
                    return;
                }
                Some(waiting) => match waiting.send(Grant::Lease(lease)) {
                    Ok(()) => return,
                    Err(Grant::Lease(back)) => lease = back,
                    Err(Grant::Slot(_)) => return,
                },
            }
        }
    }
}

/// Whether nothing has come on a connection that should be silent. Needs no system call unless something has.
fn is_quiet(stream: &TcpStream) -> bool {
    let mut cx = Context::from_waker(Waker::noop());
    match stream.poll_read_ready(&mut cx) {
        Poll::Pending => true,
        Poll::Ready(Err(_)) => false,
        Poll::Ready(Ok(())) => {
            let would_block = stream.try_read(&mut [0]);
            matches!(would_block, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
        }
    }
}

/// Sends all of `bytes` to a client, which has `limit` to read on.
pub(super) async fn send_within(
    stream: &mut TcpStream,
    bytes: &[u8],
    limit: Duration,
) -> io::Result<()> {
    match stream.try_write(bytes) {
        Ok(sent) if sent == bytes.len() => Ok(()),
        Ok(sent) => Box::pin(send_slowly(stream, &bytes[sent..], limit)).await,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Box::pin(send_slowly(stream, bytes, limit)).await
        }
        Err(error) => Err(error),
    }
}

async fn send_slowly(stream: &mut TcpStream, bytes: &[u8], limit: Duration) -> io::Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        // Some progress within the limit is enough, as for the tracker.
        let sent = tokio::time::timeout(limit, stream.write(rest))
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the client does not read"))??;
        if sent == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        rest = &rest[sent..];
    }
    Ok(())
}
