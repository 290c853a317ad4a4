//! Repair: bringing here what is missing here, and taking away what was deleted elsewhere.
//!
//! Workers ([`worker`]) find files: [`tail`], [`retry`], [`scan`], [`verify`], [`backfill`]; one idempotent step acts on a file ([`reconcile`]), by a copy
//! ([`copy`]), within a [`budget`], or by a change in the local tracker ([`apply`]); what did not work is parked by name ([`park`]). Why a file is here
//! or not is told by the same judgement ([`explain`]). What was changed past the proxy is told the ledger by [`found`].
//!
//! Always true: nothing newer is replaced by older, whatever finds a file how often; a cursor passes a file only when it is
//! done or parked; a client waits for repair only while a change of repair's of that very key is with the tracker.
//! Never here: what a client changed (`proxy`), and what this datacenter holds as the ledger is told it (`journal`), but for what verify
//! has observed ([`proof`]) and what nobody has reported ([`found`], [`import`]).
//! Killed in the middle: cursors, gaps and intents are on disk; everything else is found again.

mod apply;
mod backfill;
pub mod budget;
mod clocks;
mod compare;
mod copy;
pub mod explain;
mod extra;
mod fetch;
mod found;
pub mod import;
mod inspect;
pub mod lag;
mod member;
mod pace;
mod park;
mod proof;
mod purge;
mod reconcile;
mod registry;
mod retry;
mod scan;
pub mod settings;
mod share;
mod sources;
mod spool;
pub mod status;
mod supply;
mod tail;
mod trouble;
mod verify;
mod work;
mod worker;

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt;
use parking_lot::Mutex;
use tokio::sync::{Notify, OnceCell, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::RepairConfig;
use crate::events::Events;
use crate::file::{Datacenter, FileName};
use crate::journal::Journal;
use crate::ledger::{Ledger, LedgerError, NodeRecord, StreamId};
use crate::locks::KeyLocks;
use crate::machine::{self, Rule, keeps};
use crate::trackers::Trackers;
use crate::trust::Trust;
use crate::version::Version;

pub use backfill::newest_fid;

use budget::Budget;
use clocks::Clocks;
use explain::Explanation;
use fetch::Fetcher;
use lag::LagStatus;
use member::Part;
pub use member::SHOWN;
use reconcile::Reconciler;
use registry::Registry;
pub use scan::last_thorough;
use settings::{Change, NotChanged};
use sources::Sources;
use spool::Spool;
use status::{CopyFigures, Figures, Progress, State, Status, WorkerStatus};
use trouble::Trouble;
use worker::{Begin, keep};

/// How long a stop waits for what is under way: longer than any exchange with a tracker.
const LAST_MOMENT: Duration = Duration::from_secs(5);

/// Files looked up in journal and ledger at once.
const LOOKS: usize = 64;

/// How often it is looked whether the ledger knows this datacenter, and after which time its absence is told.
const LOOK_REGISTERED: Duration = Duration::from_millis(250);
const SOON: Duration = Duration::from_secs(5);

/// What repair works with.
pub struct RepairParts {
    /// `[repair]`
    pub config: RepairConfig,
    /// This datacenter.
    pub datacenter: Datacenter,
    /// Where it is said what should be here.
    pub ledger: Arc<dyn Ledger>,
    /// Where repair's own changes are written down before they are made.
    pub journal: Journal,
    /// The locks that proxy and repair share.
    pub locks: KeyLocks,
    /// The trackers of this datacenter, over connections that clients do not use.
    pub trackers: Arc<Trackers>,
    /// Where it is told what repair does.
    pub events: Events,
    /// Whether ledger and journal agree: else no worker works.
    pub trust: Trust,
    /// `journal.quiet_time`: how far apart two looks have to be before what is not there is missing.
    pub quiet_time: Duration,
}

/// Repair could not be started.
#[derive(Debug, thiserror::Error)]
#[error("set up the HTTP client that fetches from storage nodes")]
pub struct StartError(#[from] reqwest::Error);

/// The running workers. Dropped, they stop at once; [`Repair::stop`] lets them finish what is short.
pub struct Repair {
    shared: Arc<Shared>,
    workers: tokio::sync::Mutex<JoinSet<()>>,
}

/// What the workers share.
struct Shared {
    reconciler: Arc<Reconciler>,
    tail: Arc<Figures>,
    retry: Arc<Figures>,
    scan: Arc<Figures>,
    verify: Arc<Figures>,
    backfill: Arc<Figures>,
    /// Whether what an operator has set for them was read; held by whoever sets something.
    settings_loaded: tokio::sync::Mutex<bool>,
    /// The nodes of other datacenters, and when they were read.
    nodes: Mutex<Option<(Version, Vec<NodeRecord>)>>,
    /// Since when a scan is asked for.
    scan_wanted: Mutex<Option<Version>>,
    /// Whether a pass of verify is asked for.
    verify_wanted: AtomicBool,
    /// Whether a look at all files of the tracker is asked for.
    backfill_wanted: AtomicBool,
    /// Whether all files of the tracker were looked at once.
    is_backfilled: AtomicBool,
    /// When streams of other nodes were found to have been left, the last of them: what was left in them is for a scan to find.
    left: Mutex<Version>,
    /// Whether the last whole scan was made under the rules of placement of today.
    scan_is_current: AtomicBool,
    /// Which part repair may take, by what an operator has said.
    part: Mutex<Part>,
    /// (No `watch`: that wakes those who wait in an order of its own, and a story would have two ends.)
    part_changed: Notify,
    /// Datacenters that were removed: nobody waits for them.
    removed: Mutex<BTreeSet<Datacenter>>,
    /// Set once the ledger knows this datacenter; false if repair was stopped before.
    registered: OnceCell<bool>,
    trust: Trust,
    clocks: Clocks,
    quiet_time: Duration,
}

impl Repair {
    /// Starts the workers, if the configuration has them enabled.
    ///
    /// # Errors
    /// If there is no HTTP client to be had.
    pub fn start(parts: RepairParts) -> Result<Repair, StartError> {
        let enabled = parts.config.enabled;
        let verify_rate = NonZeroU32::new(parts.config.verify_rate);
        let backfill_rate = NonZeroU32::new(parts.config.backfill_rate);
        let registry = Registry::new(
            Arc::clone(&parts.ledger),
            parts.datacenter.clone(),
            Arc::clone(&parts.trackers),
        );
        let reconciler = Reconciler {
            datacenter: parts.datacenter,
            budget: Budget::new(parts.config.budget.clone()),
            sources: Sources::new(parts.config.sources.prefer.clone()),
            spool: parts.config.sources.spool.clone().map(Spool::new),
            fetcher: Fetcher::new(parts.config.sources.patience)?,
            looks: Semaphore::new(LOOKS),
            config: parts.config,
            ledger: parts.ledger,
            journal: parts.journal,
            locks: parts.locks,
            local: parts.trackers,
            registry,
            events: parts.events,
            figures: CopyFigures::default(),
            at_work: KeyLocks::default(),
            held: Mutex::default(),
            quiet_time: parts.quiet_time,
            trouble: Trouble::default(),
            lags: lag::Lags::default(),
            stop: CancellationToken::new(),
        };
        let shared = Arc::new(Shared {
            reconciler: Arc::new(reconciler),
            tail: Arc::new(Figures::new("tail")),
            retry: Arc::new(Figures::new("retry")),
            scan: Arc::new(Figures::over_all("scan", None)),
            verify: Arc::new(Figures::over_all("verify", verify_rate)),
            backfill: Arc::new(Figures::over_all("backfill", backfill_rate)),
            settings_loaded: tokio::sync::Mutex::new(false),
            nodes: Mutex::default(),
            scan_wanted: Mutex::default(),
            verify_wanted: AtomicBool::new(false),
            backfill_wanted: AtomicBool::new(false),
            is_backfilled: AtomicBool::new(false),
            left: Mutex::default(),
            scan_is_current: AtomicBool::new(false),
            part: Mutex::default(),
            part_changed: Notify::new(),
            removed: Mutex::default(),
            registered: OnceCell::new(),
            trust: parts.trust,
            clocks: Clocks::default(),
            quiet_time: parts.quiet_time,
        });
        let mut workers = JoinSet::new();
        if enabled {
            machine::spawn_in(&mut workers, member::watch(Arc::clone(&shared)));
            let all: [(&Arc<Figures>, Begin); 5] = [
                (&shared.tail, |shared| tail::begin(shared).boxed()),
                (&shared.retry, |shared| retry::begin(shared).boxed()),
                (&shared.scan, |shared| scan::begin(shared).boxed()),
                (&shared.verify, |shared| verify::begin(shared).boxed()),
                (&shared.backfill, |shared| backfill::begin(shared).boxed()),
            ];
            for (figures, begin) in all {
                let kept = keep(Arc::clone(&shared), Arc::clone(figures), begin);
                machine::spawn_in(&mut workers, kept);
            }
        } else {
            shared.figures().for_each(|figures| figures.pause(true));
        }
        Ok(Repair {
            shared,
            workers: tokio::sync::Mutex::new(workers),
        })
    }

    /// What the workers are doing.
    pub fn status(&self) -> Status {
        let copies = &self.shared.reconciler.figures;
        Status {
            workers: self
                .shared
                .figures()
                .map(|figures| self.read(figures))
                .collect(),
            copies_in_flight: copies.in_flight.load(Ordering::Relaxed),
            files_copied: copies.files.load(Ordering::Relaxed),
            bytes_copied: copies.bytes.load(Ordering::Relaxed),
            caught_up: self.caught_up(),
            clocks: self.shared.clocks.off(),
            lag: self.shared.lag(),
            sources: self.shared.reconciler.sources.status(),
        }
    }

    fn read(&self, figures: &Figures) -> WorkerStatus {
        let mut worker = figures.read();
        // Also one that has nothing to ask of it at the moment.
        if worker.state != State::Paused {
            let part = self.shared.part.lock();
            let barred = part.state().filter(|_| !part.lets(figures.name()));
            if self.shared.trust.doubt().is_some() {
                worker.state = State::Stopped;
            } else if let Some(state) = barred {
                worker.state = state;
            } else if self.shared.reconciler.trouble.is_away() {
                worker.state = State::WaitingForLedger;
            }
        }
        worker
    }

    /// The moment T such that every change that a node of another datacenter recorded before T is done or parked
    /// by name here, all files were scanned since this journal began, and those of the tracker were looked at once. `None` while that cannot be said of any, or ledger and
    /// journal disagree.
    ///
    /// A node that is silent holds T back. "In sync" takes more: no gaps, and nothing undelivered here.
    pub fn caught_up(&self) -> Option<Version> {
        self.shared.caught_up()
    }

    /// As of when it is proved that this datacenter holds what it should: [`Self::caught_up`], and nothing undelivered here.
    pub fn proved_at(&self) -> Option<Version> {
        self.shared.proved_at()
    }

    /// Why repair does not do all its work here, if it does not.
    pub fn hindered(&self) -> Option<String> {
        self.shared.hindered()
    }

    /// Why a file is here, or is not. Asks ledger and tracker, and changes nothing.
    pub async fn explain(&self, file: &FileName) -> Explanation {
        self.shared.explain(file).await
    }

    /// Asks for a scan of all files, now or after the one under way.
    pub fn ask_for_scan(&self) {
        self.shared.ask_for_scan();
    }

    /// Asks for a pass of verify over all files that are here, now or after the one under way.
    pub fn ask_for_verify(&self) {
        self.shared.verify_wanted.store(true, Ordering::Release);
        self.shared.verify.asked.notify_one();
    }

    /// Asks for a look at all files of the local tracker, now or after the one under way.
    pub fn ask_for_backfill(&self) {
        self.shared.backfill_wanted.store(true, Ordering::Release);
        self.shared.backfill.asked.notify_one();
    }

    /// Changes what a worker may do, from now on and after restarts.
    ///
    /// # Errors
    /// If there is no such worker, or the change makes no sense or cannot be kept; nothing has changed then.
    pub async fn change(&self, worker: &str, change: Change) -> Result<WorkerStatus, NotChanged> {
        self.shared.change(worker, change).await?;
        Ok(self.read(self.shared.named(worker)?))
    }

    /// Tells a worker that goes over all files to begin, now or after what it is at.
    ///
    /// # Errors
    /// If there is no such worker, or it always goes on.
    pub fn begin(&self, worker: &str) -> Result<(), NotChanged> {
        match self.shared.named(worker)?.name() {
            "scan" => self.ask_for_scan(),
            "verify" => self.ask_for_verify(),
            "backfill" => self.ask_for_backfill(),
            worker => return Err(NotChanged::AlwaysOn { worker }),
        }
        Ok(())
    }

    /// What repair may take.
    pub fn budget(&self) -> budget::Standing {
        self.shared.reconciler.budget.standing()
    }

    /// Sets some limits, from now on and for the next start; `None` takes back all that was set.
    ///
    /// # Errors
    /// The ledger's: what is set holds now, but is not kept.
    pub async fn set_budget(&self, setting: Option<budget::Setting>) -> Result<(), LedgerError> {
        let reconciler = &self.shared.reconciler;
        let (ledger, datacenter) = (&*reconciler.ledger, &reconciler.datacenter);
        match setting {
            Some(setting) => {
                // What was set before is set still.
                let _away = reconciler.budget.recall(ledger, datacenter).await;
                let set = reconciler.budget.set(setting);
                let set = serde_json::to_string(&set).unwrap_or_default();
                tracing::info!(set, "an operator has set the budget of repair");
            }
            None => {
                reconciler.budget.reset();
                tracing::info!("repair has the budget of its configuration again");
            }
        }
        let now = reconciler.now();
        reconciler.budget.keep(ledger, datacenter, now).await
    }

    /// Stops the workers: what is short comes to its end, long copies are left and begun anew after a start.
    pub async fn stop(&self) {
        self.shared.reconciler.stop.cancel();
        self.shared
            .figures()
            .for_each(|figures| figures.pause(false));
        let mut workers = self.workers.lock().await;
        while workers.join_next().await.is_some() {}
    }
}

impl Shared {
    fn figures(&self) -> impl Iterator<Item = &Arc<Figures>> {
        [
            &self.tail,
            &self.retry,
            &self.scan,
            &self.verify,
            &self.backfill,
        ]
        .into_iter()
    }

    /// Waits until the ledger knows this datacenter, which takes a moment after the very first start: before that nothing
    /// is due here. False if repair is stopping.
    async fn is_registered(&self) -> bool {
        let Reconciler {
            registry,
            trouble,
            stop,
            datacenter,
            ..
        } = &*self.reconciler;
        let began = tokio::time::Instant::now();
        let mut told = false;
        loop {
            match registry.knows_us().await {
                Ok(true) => {
                    trouble.end();
                    return true;
                }
                Ok(false) => trouble.end(),
                Err(error) => trouble.begin(&error),
            }
            if !told && began.elapsed() > SOON && !trouble.is_away() {
                told = true;
                tracing::info!(
                    "repair begins when {datacenter} has told the ledger of itself; its tracker has to answer for that"
                );
            }
            if !trouble::rest(LOOK_REGISTERED, stop).await {
                return false;
            }
        }
    }

    fn ask_for_scan(&self) {
        *self.scan_wanted.lock() = Some(crate::version::wall_clock());
        self.scan.asked.notify_one();
    }

    /// Waits until this worker may work, or may not.
    async fn part_lets(&self, worker: &str, wanted: bool) {
        loop {
            let changed = self.part_changed.notified();
            if self.part.lock().lets(worker) == wanted {
                return;
            }
            changed.await;
        }
    }

    /// Scans that began before this prove nothing.
    fn scan_since(&self) -> Version {
        self.trust.scan_since().max(*self.left.lock())
    }

    /// Whether a whole and thorough scan ended that began after `moment`.
    fn scanned_since(&self, moment: Version) -> bool {
        match &*self.scan.progress.lock() {
            Progress::Scan(scan) => scan.thorough_scan_began.is_some_and(|began| began > moment),
            Progress::None | Progress::Tail(_) | Progress::Verify(_) | Progress::Backfill(_) => {
                false
            }
        }
    }

    fn lag(&self) -> LagStatus {
        let oldest_pending = match &*self.tail.progress.lock() {
            Progress::Tail(streams) => streams.values().filter_map(|at| at.oldest_pending).min(),
            Progress::None | Progress::Scan(_) | Progress::Verify(_) | Progress::Backfill(_) => {
                None
            }
        };
        LagStatus {
            oldest_pending,
            ..self.reconciler.lags.read()
        }
    }

    fn node(&self, stream: &StreamId) -> Option<NodeRecord> {
        let nodes = self.nodes.lock();
        nodes
            .as_ref()?
            .1
            .iter()
            .find(|node| node.stream == *stream)
            .cloned()
    }

    /// Up to which number nobody will write anything to this stream any more. `met`: a number that it has.
    fn had(&self, stream: &StreamId, met: u64) -> u64 {
        match self.node(stream) {
            // What a lost journal has not delivered, nobody delivers.
            Some(node) if self.is_superseded(stream) => node.last_number.max(met),
            Some(node) => node.delivered,
            None => 0,
        }
    }

    /// Whether the node of this stream has another journal by now.
    fn is_superseded(&self, stream: &StreamId) -> bool {
        let nodes = self.nodes.lock();
        nodes
            .as_ref()
            .is_some_and(|(_, nodes)| is_superseded(nodes, stream))
    }

    fn caught_up(&self) -> Option<Version> {
        if !self.trust.is_given()
            || !self.scanned_since(self.scan_since())
            || !self.scan_is_current.load(Ordering::Relaxed)
            || self.reconciler.takes_in() && !self.is_backfilled.load(Ordering::Acquire)
            || *self.part.lock() != Part::All
        {
            return None;
        }
        let nodes = self.nodes.lock();
        let (read, nodes) = nodes.as_ref()?;
        let progress = self.tail.progress.lock();
        let removed = self.removed.lock();
        let mut until = *read;
        for node in nodes {
            let Progress::Tail(streams) = &*progress else {
                return None;
            };
            let stream = streams.get(&node.stream.to_string())?;
            // What it had told before it was removed counts; what it did not tell, nobody waits for.
            let is_removed = removed.contains(&node.stream.datacenter);
            let told = match is_removed {
                true => node.delivered,
                false => stream.last_number.max(node.last_number),
            };
            if stream.cursor < told && keeps(Rule::SilenceFreezes) {
                return None;
            }
            if !is_removed && !is_superseded(nodes, &node.stream) {
                until = until.min(stream.complete_until);
            }
        }
        // Before all that there is nothing is proved.
        (until > Version(0)).then_some(until)
    }

    /// As of the least of what the others have published and done here, and what this node has not delivered itself.
    fn proved_at(&self) -> Option<Version> {
        let caught_up = self.caught_up()?;
        let oldest = self.reconciler.journal.depth().oldest;
        Some(oldest.map_or(caught_up, |oldest| caught_up.min(Version(oldest.0 - 1))))
    }

    /// What a worker knew of the ledger does not count any more.
    fn forget(&self, figures: &Figures) {
        *figures.progress.lock() = Progress::None;
        *self.nodes.lock() = None;
        self.scan_is_current.store(false, Ordering::Relaxed);
    }
}

/// Whether the node of this stream has another one by now. The heartbeats only tell for words of earlier programs: a clock
/// that was wrong once has put the last word of the stream it was left in beyond all later ones.
fn is_superseded(nodes: &[NodeRecord], stream: &StreamId) -> bool {
    let place = |node: &NodeRecord| (node.generation, node.heartbeat);
    let ours = nodes.iter().find(|node| node.stream == *stream).map(place);
    nodes.iter().any(|node| {
        node.stream.datacenter == stream.datacenter
            && node.stream.node == stream.node
            && node.stream.incarnation != stream.incarnation
            && Some(place(node)) > ours
    })
}
