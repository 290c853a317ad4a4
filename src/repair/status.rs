//! What repair says of itself: counted as it works, read by the API.
//!
//! Never here: what is missing where. That is the ledger's to say; a worker's figures are about the worker.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::Notify;

pub use super::clocks::ClockOff;
pub use super::lag::{LagFrom, LagStatus};
use super::pace::{Limits, Pace};
use crate::version::{Version, wall_clock};

/// All of repair, at one moment.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Status {
    /// One entry a worker.
    pub workers: Vec<WorkerStatus>,
    /// Files that are being copied now.
    pub copies_in_flight: u64,
    /// Files copied since the start.
    pub files_copied: u64,
    /// Bytes stored by copies since the start, those given up included.
    pub bytes_copied: u64,
    /// As of when everything that other datacenters have said is done or parked here; see [`super::Repair::caught_up`].
    pub caught_up: Option<Version>,
    /// Nodes of other datacenters whose clocks do not agree with this machine's.
    pub clocks: Vec<ClockOff>,
    /// How late the changes of other datacenters are done here.
    pub lag: LagStatus,
}

/// One worker, at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct WorkerStatus {
    /// `tail`, `retry`, `scan` or `verify`.
    pub name: &'static str,
    /// What it is doing.
    pub state: State,
    /// Whether an operator has paused it, or repair is not enabled.
    pub paused: bool,
    /// Files that it may see to in a second. Absent: as many as it can.
    pub files_per_second: Option<NonZeroU32>,
    /// Seconds that it rests after each second of work.
    pub rest: f64,
    /// Files that it has seen to since the start, whether or not there was anything to do.
    pub done: u64,
    /// Attempts that failed since the start.
    pub failed: u64,
    /// The last thing that failed.
    pub last_error: Option<LastError>,
    /// How far it is.
    pub progress: Progress,
}

/// What a worker is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum State {
    /// There is work.
    Running,
    /// There is none.
    #[default]
    Idle,
    /// An operator has stopped it for now.
    Paused,
    /// The ledger does not answer; it goes on by itself.
    WaitingForLedger,
    /// Ledger and journal disagree; it goes on when a person has said what is true.
    Stopped,
    /// It has found what it does not believe, and asks a person; it looks again and again, and goes on when it is over.
    Asking,
}

impl State {
    /// All there are.
    pub const ALL: [State; 6] = [
        State::Running,
        State::Idle,
        State::Paused,
        State::WaitingForLedger,
        State::Stopped,
        State::Asking,
    ];

    /// Its word, the same wherever it is told.
    pub fn word(self) -> &'static str {
        match self {
            State::Running => "running",
            State::Idle => "idle",
            State::Paused => "paused",
            State::WaitingForLedger => "waiting_for_ledger",
            State::Stopped => "stopped",
            State::Asking => "asking",
        }
    }
}

impl Serialize for State {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.word())
    }
}

/// The last thing that failed.
#[derive(Clone, Debug, Serialize)]
pub struct LastError {
    /// When, in µs since 1970.
    pub at: Version,
    /// What.
    pub error: String,
}

/// How far a worker is.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Progress {
    /// It keeps no place.
    #[default]
    None,
    /// The streams of the other datacenters, by their text.
    Tail(BTreeMap<String, StreamProgress>),
    /// The scan of all files.
    Scan(ScanProgress),
    /// The pass over all files that are here.
    Verify(VerifyProgress),
}

/// How far one stream was read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StreamProgress {
    /// Everything up to here is done or parked.
    pub cursor: u64,
    /// The last number that its node says the ledger has.
    pub last_number: u64,
    /// Changes not yet passed.
    pub behind: u64,
    /// Changes being worked on.
    pub in_flight: u64,
    /// The first number that is missing from the stream, if one is.
    pub hole: Option<u64>,
    /// The version of the oldest change that is neither done nor parked: of those in work, else of the last one that could be read.
    pub oldest_pending: Option<Version>,
    /// When its node last spoke.
    pub heartbeat: Version,
    /// Nothing of its node that is older than this is still on its way.
    pub complete_until: Version,
}

/// How far the scan of all files is.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ScanProgress {
    /// Of the scan under way; 100 between scans.
    pub percent: f64,
    /// When the scan under way began.
    pub began: Option<Version>,
    /// When the last whole scan ended.
    pub ended: Option<Version>,
    /// When the last whole scan had begun.
    pub ended_scan_began: Option<Version>,
    /// When the last whole scan had begun in which all datacenters of the ledger answered: what it proves is as of then.
    pub thorough_scan_began: Option<Version>,
    /// Files read in a second, on the average since this process is at it.
    pub files_per_second: Option<f64>,
    /// How long the rest takes if it goes on like that.
    pub seconds_left: Option<f64>,
    /// Files forgotten since the start: their delete is older than the retention, and nobody can have missed it.
    pub purged: u64,
}

/// How far verify is. What is counted is of the pass under way, or of the last one, across restarts.
#[derive(Clone, Debug, Default, Serialize)]
pub struct VerifyProgress {
    /// Of the pass under way; 100 between passes.
    pub percent: f64,
    /// When the pass under way began.
    pub began: Option<Version>,
    /// When the last whole pass ended.
    pub ended: Option<Version>,
    /// Files looked at in a second, on the average since this process is at it.
    pub files_per_second: Option<f64>,
    /// How long the rest takes if it goes on like that.
    pub seconds_left: Option<f64>,
    /// Files of which it could be said whether they are as they should be.
    pub looked_at: u64,
    /// Files that the tracker did not know any more.
    pub missing: u64,
    /// Files whose bytes were others, or were not there.
    pub damaged: u64,
    /// Of those two, the ones that were brought again at once. The others are gaps.
    pub brought_again: u64,
    /// Files of which nothing could be said; the worker's last error names one.
    pub unsure: u64,
    /// Since when it has stopped and asks.
    pub stopped: Option<Version>,
    /// What it asks, if it does.
    pub asks: Option<String>,
}

/// The figures of one worker.
#[derive(Debug)]
pub(super) struct Figures {
    name: &'static str,
    state: Mutex<State>,
    done: AtomicU64,
    failed: AtomicU64,
    brought: AtomicU64,
    last_error: Mutex<Option<LastError>>,
    pub(super) progress: Mutex<Progress>,
    pub(super) pace: Pace,
    /// The pace that the configuration says.
    configured: Option<NonZeroU32>,
    /// Whether it goes over all files, again and again; else it goes by what happens.
    over_all: bool,
    paused: AtomicBool,
    resumed: Notify,
    /// Somebody wants it to look now whether there is work.
    pub(super) asked: Notify,
}

impl Figures {
    /// Of a worker that goes by what happens.
    pub(super) fn new(name: &'static str) -> Figures {
        Figures {
            name,
            state: Mutex::default(),
            done: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            brought: AtomicU64::new(0),
            last_error: Mutex::default(),
            progress: Mutex::default(),
            pace: Pace::default(),
            configured: None,
            over_all: false,
            paused: AtomicBool::new(false),
            resumed: Notify::new(),
            asked: Notify::new(),
        }
    }

    /// Of a worker that goes over all files, at most so many in a second unless an operator sets another rate.
    pub(super) fn over_all(name: &'static str, configured: Option<NonZeroU32>) -> Figures {
        let figures = Figures {
            configured,
            over_all: true,
            ..Figures::new(name)
        };
        figures.pace.set(Limits {
            rate: configured,
            rest: 0.0,
        });
        figures
    }

    pub(super) fn configured_rate(&self) -> Option<NonZeroU32> {
        self.configured
    }

    pub(super) fn goes_over_all(&self) -> bool {
        self.over_all
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn read(&self) -> WorkerStatus {
        let paused = self.paused.load(Ordering::Acquire);
        let Limits { rate, rest } = self.pace.limits();
        WorkerStatus {
            name: self.name,
            state: if paused {
                State::Paused
            } else {
                *self.state.lock()
            },
            paused,
            files_per_second: rate,
            rest,
            done: self.done.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            last_error: self.last_error.lock().clone(),
            progress: self.progress.lock().clone(),
        }
    }

    pub(super) fn state(&self, state: State) {
        *self.state.lock() = state;
    }

    pub(super) fn done(&self) {
        self.done.fetch_add(1, Ordering::Relaxed);
    }

    /// Bytes came to be where they should be, by a copy or under another key.
    pub(super) fn has_brought(&self) {
        self.brought.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn brought(&self) -> u64 {
        self.brought.load(Ordering::Relaxed)
    }

    pub(super) fn failed(&self, error: String) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.note(error);
    }

    /// Remembers an error that is not a failed attempt at a file.
    pub(super) fn note(&self, error: String) {
        *self.last_error.lock() = Some(LastError {
            at: wall_clock(),
            error,
        });
    }

    pub(super) fn pause(&self, paused: bool) {
        self.paused.store(paused, Ordering::Release);
        if !paused {
            self.resumed.notify_waiters();
        }
    }

    /// Returns at once unless the worker is paused.
    pub(super) async fn unless_paused(&self) {
        loop {
            let resumed = self.resumed.notified();
            if !self.paused.load(Ordering::Acquire) {
                return;
            }
            resumed.await;
        }
    }

    /// Waits until one more file may be seen to: not while the worker is paused, and at its rate.
    pub(super) async fn may_go_on(&self) {
        self.unless_paused().await;
        self.pace.turn().await;
    }
}

/// What all copies together have done.
#[derive(Debug, Default)]
pub(super) struct CopyFigures {
    pub(super) in_flight: AtomicU64,
    pub(super) files: AtomicU64,
    pub(super) bytes: AtomicU64,
}

/// Counts one copy for as long as it lives.
pub(super) struct InFlight<'a>(&'a CopyFigures);

impl CopyFigures {
    pub(super) fn begin(&self) -> InFlight<'_> {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(self)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
