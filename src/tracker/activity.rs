//! What the tracker is doing, as `!` commands show it: requests that wait, run and ran, and the
//! connections that watch for errors.
//!
//! Also the limit on how many requests run at once. Past it they wait, in order and without limit.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, broadcast};

/// How many requests `!recent` shows.
const RECENT: usize = 50;

/// Of a long request, `!recent` and `!queue` keep no more than this.
const MAX_SHOWN: usize = 1000;

/// How many lines a watcher may be behind before it misses some.
const WATCH_BACKLOG: usize = 256;

/// No more workers than this, whoever asks.
pub const MAX_WORKERS: usize = 500;

/// Counters, queue and watchers of one tracker.
pub struct Activity {
    started: Instant,
    workers: Semaphore,
    desired: Mutex<usize>,
    processing: AtomicUsize,
    served: AtomicU64,
    had_to_wait: AtomicU64,
    pending: Mutex<BTreeMap<u64, Vec<u8>>>,
    next_pending: AtomicU64,
    recent: Mutex<VecDeque<Vec<u8>>>,
    watchers: broadcast::Sender<Bytes>,
    /// Fids whose bytes were removed.
    pub cleaned: AtomicU64,
    /// Copies that were made.
    pub replicated: AtomicU64,
}

impl Activity {
    /// Of a tracker that runs `workers` requests at once.
    #[must_use]
    pub fn new(workers: usize) -> Activity {
        let workers = workers.clamp(1, MAX_WORKERS);
        Activity {
            started: Instant::now(),
            workers: Semaphore::new(workers),
            desired: Mutex::new(workers),
            processing: AtomicUsize::new(0),
            served: AtomicU64::new(0),
            had_to_wait: AtomicU64::new(0),
            pending: Mutex::default(),
            next_pending: AtomicU64::new(0),
            recent: Mutex::default(),
            watchers: broadcast::Sender::new(WATCH_BACKLOG),
            cleaned: AtomicU64::new(0),
            replicated: AtomicU64::new(0),
        }
    }

    /// Runs a request when there is a worker for it.
    pub async fn run<T>(&self, client: IpAddr, text: &[u8], request: impl Future<Output = T>) -> T {
        let came = Instant::now();
        let shown = || {
            let mut shown = format!("{client} ").into_bytes();
            shown.extend_from_slice(&text[..text.len().min(MAX_SHOWN)]);
            shown
        };
        let permit = match self.workers.try_acquire() {
            Ok(permit) => Some(permit),
            Err(_) => {
                self.had_to_wait.fetch_add(1, Relaxed);
                let ticket = self.next_pending.fetch_add(1, Relaxed);
                self.pending.lock().insert(ticket, shown());
                let permit = self.workers.acquire().await;
                self.pending.lock().remove(&ticket);
                permit.ok()
            }
        };
        let begun = Instant::now();
        self.processing.fetch_add(1, Relaxed);
        let answer = request.await;
        self.processing.fetch_sub(1, Relaxed);
        self.served.fetch_add(1, Relaxed);
        drop(permit);

        let mut line = shown();
        line.extend_from_slice(
            format!(
                " {:.4} {:.4}",
                came.elapsed().as_secs_f64(),
                begun.elapsed().as_secs_f64()
            )
            .as_bytes(),
        );
        let mut recent = self.recent.lock();
        if recent.len() == RECENT {
            recent.pop_front();
        }
        recent.push_back(line);
        answer
    }

    /// Tells those who watch, and the log.
    pub fn complain(&self, text: &str) {
        tracing::warn!("{text}");
        // Without watchers nobody hears it.
        drop(self.watchers.send(Bytes::from(format!(":: {text}\r\n"))));
    }

    /// Hears what is complained about from now on, line by line.
    #[must_use]
    pub fn watch(&self) -> broadcast::Receiver<Bytes> {
        self.watchers.subscribe()
    }

    /// The last requests, oldest first.
    #[must_use]
    pub fn recent(&self) -> Vec<Vec<u8>> {
        self.recent.lock().iter().cloned().collect()
    }

    /// The requests that wait, oldest first.
    #[must_use]
    pub fn pending(&self) -> Vec<Vec<u8>> {
        self.pending.lock().values().cloned().collect()
    }

    /// How many requests may run at once.
    #[must_use]
    pub fn desired_workers(&self) -> usize {
        *self.desired.lock()
    }

    /// Changes how many requests may run at once. Those that run are not disturbed.
    pub async fn set_desired_workers(&self, count: usize) {
        let count = count.clamp(1, MAX_WORKERS);
        let before = std::mem::replace(&mut *self.desired.lock(), count);
        if count > before {
            self.workers.add_permits(count - before);
        } else if let Ok(permits) = self
            .workers
            .acquire_many(u32::try_from(before - count).unwrap_or(0))
            .await
        {
            permits.forget();
        }
    }

    /// The counters, as `!stats` shows them.
    #[must_use]
    pub fn stats(&self) -> Vec<(&'static str, u64)> {
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        let processing = self.processing.load(Relaxed);
        vec![
            ("uptime", self.uptime().as_secs()),
            ("pending_queries", count(self.pending.lock().len())),
            ("processing_queries", count(processing)),
            (
                "bored_queryworkers",
                count(self.desired_workers().saturating_sub(processing)),
            ),
            ("queries", self.served.load(Relaxed)),
            ("times_out_of_qworkers", self.had_to_wait.load(Relaxed)),
            ("work_sent_to_delete", self.cleaned.load(Relaxed)),
            ("work_sent_to_replicate", self.replicated.load(Relaxed)),
        ]
    }

    fn uptime(&self) -> Duration {
        self.started.elapsed()
    }
}
