//! The local trackers: which of them answer, found out beside the clients' requests.
//!
//! Always true: a tracker that refuses connections, or is one of several and does not answer `!version` in time, is
//! left out until it answers again, which needs nobody's help. When all are left out they are tried all the
//! same: a request then meets what it would have met without the proxy.
//! Never here: the connections that requests use ([`super::upstream`]).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

/// How long a connection may take to come about. Trackers are near.
pub(super) const CONNECT: Duration = Duration::from_secs(3);

/// How long a tracker may take to answer `!version`, which never waits for a worker of its own.
const PROBE: Duration = Duration::from_millis(2500);

/// From one probe of a tracker that answers to the next.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// After a failed probe; doubles up to [`PROBE_EVERY`].
const PROBE_AGAIN: Duration = Duration::from_millis(50);

/// All trackers of this datacenter, in the configured order.
pub(super) struct Trackers {
    pub(super) all: Vec<Tracker>,
    /// Told whenever one of them is left out or comes back.
    pub(super) changed: Notify,
}

/// One tracker.
pub(super) struct Tracker {
    /// `host:port` as configured.
    pub(super) name: String,
    up: AtomicBool,
    last_error: Mutex<Option<String>>,
    /// Told when the tracker should be looked at now.
    look: Notify,
}

impl Trackers {
    pub(super) fn new(names: &[String]) -> Arc<Self> {
        Arc::new(Self {
            all: names
                .iter()
                .map(|name| Tracker {
                    name: name.clone(),
                    up: AtomicBool::new(true),
                    last_error: Mutex::default(),
                    look: Notify::new(),
                })
                .collect(),
            changed: Notify::new(),
        })
    }

    /// A connection to tracker `at`, which is left out if there is none to be had.
    pub(super) async fn connect(&self, at: usize) -> io::Result<TcpStream> {
        let tracker = &self.all[at];
        match connect(&tracker.name).await {
            Ok(stream) => {
                if !tracker.is_up() {
                    tracker.look.notify_one();
                }
                Ok(stream)
            }
            Err(error) => {
                if is_our_own(&error) {
                    tracing::warn!(tracker = tracker.name, %error, "no connection can be made from here");
                } else {
                    self.leave_out(tracker, &error.to_string());
                }
                Err(error)
            }
        }
    }

    fn leave_out(&self, tracker: &Tracker, why: &str) {
        *tracker.last_error.lock() = Some(why.to_owned());
        if tracker.up.swap(false, Ordering::AcqRel) {
            tracing::info!(tracker = tracker.name, why, "tracker is left out");
            self.changed.notify_waiters();
        }
        tracker.look.notify_one();
    }

    /// Looks after tracker `at`, for ever.
    pub(super) async fn watch_over(self: Arc<Self>, at: usize) {
        let tracker = &self.all[at];
        let mut kept = None;
        let mut pause = PROBE_AGAIN;
        loop {
            if tracker.is_up() {
                // The only one is not left out for being slow, so nobody needs to know.
                let every = async {
                    if self.all.len() > 1 {
                        sleep(PROBE_EVERY).await;
                    } else {
                        std::future::pending().await
                    }
                };
                tokio::select! {
                    () = every => {}
                    () = tracker.look.notified() => {}
                }
            } else {
                let jitter = pause.mul_f64(rand::random_range(0.0..0.5));
                sleep(pause + jitter).await;
                pause = (pause * 2).min(PROBE_EVERY);
            }
            match probe(&tracker.name, &mut kept).await {
                Ok(()) => {
                    pause = PROBE_AGAIN;
                    if !tracker.up.swap(true, Ordering::AcqRel) {
                        tracing::info!(tracker = tracker.name, "tracker answers again");
                        self.changed.notify_waiters();
                    }
                }
                Err(error) if is_our_own(&error) => {}
                Err(error) => self.leave_out(tracker, &error.to_string()),
            }
        }
    }
}

impl Tracker {
    /// Whether requests should go there.
    pub(super) fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// What last went wrong with it.
    pub(super) fn last_error(&self) -> Option<String> {
        self.last_error.lock().clone()
    }
}

/// Whether an error says something about this process, not about the tracker.
fn is_our_own(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::EADDRNOTAVAIL)
    )
}

/// Sends small lines at once, and notices within a minute and a half when the other host is gone without a word: else
/// a client's place would be taken, and a mutation's answer awaited, for ever.
pub(super) fn prepare(stream: &TcpStream) -> io::Result<()> {
    let alive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(10))
        .with_retries(3);
    socket2::SockRef::from(stream).set_tcp_keepalive(&alive)?;
    stream.set_nodelay(true)
}

async fn connect(name: &str) -> io::Result<TcpStream> {
    let connecting = async {
        let stream = match name.parse::<SocketAddr>() {
            Ok(addr) => TcpStream::connect(addr).await?,
            Err(_a_host_name) => TcpStream::connect(name).await?,
        };
        prepare(&stream)?;
        Ok(stream)
    };
    timeout(CONNECT, connecting)
        .await
        .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "connect timed out")))
}

/// Asks for the version, on the connection of the last time if that still works.
async fn probe(name: &str, kept: &mut Option<TcpStream>) -> io::Result<()> {
    let asking = async {
        if let Some(mut stream) = kept.take()
            && ask_version(&mut stream).await.is_ok()
        {
            *kept = Some(stream);
            return Ok(());
        }
        let mut stream = connect(name).await?;
        ask_version(&mut stream).await?;
        *kept = Some(stream);
        Ok(())
    };
    timeout(PROBE, asking)
        .await
        .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "does not answer")))
}

async fn ask_version(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(b"!version\r\n").await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b".\r\n") {
        let mut some = [0; 256];
        let read = stream.read(&mut some).await?;
        if read == 0 || answer.len() > 4096 {
            return Err(io::Error::other(
                "answers !version in a way that is not understood",
            ));
        }
        answer.extend_from_slice(&some[..read]);
    }
    Ok(())
}
