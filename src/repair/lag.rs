//! Lag: how long it takes until a change that was made elsewhere is done here, and whether that is within the goal of its placement.
//!
//! Always true: a lag is counted from the version of the change, of the oldest where several of one file were waiting, until
//! the file is as it should be. What a scan or verify finds counts only if it had to wait as a gap, and from then: nobody knows since when
//! it was missing. That a goal is missed is told by whoever is at the file at that moment, or by the retry, whose next try
//! is never put off beyond it; once, but for a kill in between. What came late was told to be missed before.
//! In memory: of each other datacenter some counts and its last [`RECENT`] lags; of a file, nothing.
//! Never here: deciding anything by it.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Serialize, Serializer};

use crate::events::What;
use crate::file::{Class, Datacenter, FileName};
use crate::ledger::{FileRecord, Strength};
use crate::placement::LAG_GOAL;
use crate::version::{Version, wall_clock};

use super::park::micros;
use super::reconcile::{Did, Reconciler};

/// Upper ends of the histogram's steps, in seconds; what is beyond the last is counted too. From a healthy link over the usual goals
/// to an outage of days.
pub const STEPS: [f64; 16] = [
    0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 1_800.0, 3_600.0,
    14_400.0, 86_400.0,
];

/// The lags that percentiles are of.
const RECENT: usize = 1_000;

/// A file that is past its goal is told of only when it has been at work for this long: a reader that catches up after an outage
/// is mostly done by then, or finds that there was nothing to do.
const A_MOMENT: Duration = Duration::from_secs(1);

/// How late changes are, at one moment.
#[derive(Clone, Debug, Default, Serialize)]
pub struct LagStatus {
    /// By the datacenter where the change was made.
    pub from: BTreeMap<String, LagFrom>,
    /// Files that have missed the goal of their placement, since the start.
    pub missed: u64,
    /// Those of them that have come since.
    pub came_late: u64,
    /// The version of the oldest change of another datacenter that its stream holds ready and that is neither done nor
    /// parked; where none can be read at present, of the last one that could.
    pub oldest_pending: Option<Version>,
}

/// How late changes of one datacenter are done here.
#[derive(Clone, Debug, Default, Serialize)]
pub struct LagFrom {
    /// Changes that were done since the start.
    pub changes: u64,
    /// Half of the last thousand were done within this time.
    #[serde(rename = "p50_seconds", serialize_with = "seconds")]
    pub p50: Duration,
    /// And 99 of a hundred.
    #[serde(rename = "p99_seconds", serialize_with = "seconds")]
    pub p99: Duration,
    /// All lags since the start together.
    #[serde(skip)]
    pub sum: Duration,
    /// How many were in each of [`STEPS`], and beyond.
    #[serde(skip)]
    pub steps: [u64; STEPS.len() + 1],
}

fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    // Finer than a clock that two machines agree on.
    serializer.serialize_f64((duration.as_secs_f64() * 1e3).round() / 1e3)
}

/// The lags since the start.
#[derive(Debug, Default)]
pub(super) struct Lags {
    from: Mutex<BTreeMap<Datacenter, Lagged>>,
    missed: AtomicU64,
    came_late: AtomicU64,
}

#[derive(Debug, Default)]
struct Lagged {
    changes: u64,
    sum: Duration,
    steps: [u64; STEPS.len() + 1],
    recent: VecDeque<Duration>,
}

impl Lags {
    fn note(&self, origin: &Datacenter, lag: Duration) {
        let mut from = self.from.lock();
        let lagged = from.entry(origin.clone()).or_default();
        lagged.changes += 1;
        lagged.sum += lag;
        let step = STEPS.iter().position(|end| lag.as_secs_f64() <= *end);
        lagged.steps[step.unwrap_or(STEPS.len())] += 1;
        if lagged.recent.len() >= RECENT {
            lagged.recent.pop_front();
        }
        lagged.recent.push_back(lag);
    }

    pub(super) fn read(&self) -> LagStatus {
        let from = self.from.lock();
        LagStatus {
            from: from
                .iter()
                .map(|(origin, lagged)| (origin.to_string(), lagged.read()))
                .collect(),
            missed: self.missed.load(Ordering::Relaxed),
            came_late: self.came_late.load(Ordering::Relaxed),
            oldest_pending: None,
        }
    }
}

impl Lagged {
    fn read(&self) -> LagFrom {
        let mut sorted: Vec<Duration> = self.recent.iter().copied().collect();
        sorted.sort_unstable();
        // The least that so many percent do not exceed.
        let percentile = |percent: usize| {
            let at = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
            sorted.get(at).copied().unwrap_or_default()
        };
        LagFrom {
            changes: self.changes,
            p50: percentile(50),
            p99: percentile(99),
            sum: self.sum,
            steps: self.steps,
        }
    }
}

/// Since when a file lags, while somebody is at it.
pub(super) struct Lagging {
    /// `None`: it is not known that it does.
    pub(super) since: Option<Version>,
    /// When its gap was last written: a goal that was missed by then was told.
    parked: Option<Version>,
    told: AtomicBool,
}

impl Lagging {
    pub(super) fn new(since: Option<Version>) -> Lagging {
        Lagging {
            since,
            parked: None,
            told: AtomicBool::new(false),
        }
    }

    /// That the file has a gap, or none any more.
    pub(super) fn has_gap(&mut self, since: Option<Version>, observed: Option<Version>) {
        self.since = self.since.into_iter().chain(since).min();
        self.parked = observed;
    }

    fn deadline(&self, goal: Duration) -> Option<Version> {
        Some(after(self.since?, goal))
    }

    /// Whether it was told that this goal is missed.
    fn was_told(&self, goal: Duration) -> bool {
        self.told.load(Ordering::Relaxed)
            || self
                .parked
                .is_some_and(|parked| Some(parked) >= self.deadline(goal))
    }
}

/// A moment after another.
pub(super) fn after(moment: Version, time: Duration) -> Version {
    Version(moment.0.saturating_add(micros(time)))
}

fn until(moment: Version) -> Duration {
    let left = moment.0.saturating_sub(wall_clock().0);
    Duration::from_micros(u64::try_from(left).unwrap_or_default())
}

impl Reconciler {
    /// Within which time a change of this file is to be done here.
    pub(super) async fn lag_goal(&self, file: &FileName, class: Option<&Class>) -> Duration {
        match self.registry.read().await {
            Ok(reading) => reading.placements().lag_goal(&file.domain, class),
            // What nobody can read now is read by the next attempt.
            Err(_) => LAG_GOAL,
        }
    }

    /// Tells when the file misses its goal while it is being worked on. Never returns.
    pub(super) async fn watch_goal(&self, file: &FileName, lagging: &Lagging) -> Infallible {
        let Some(since) = lagging.since else {
            return std::future::pending().await;
        };
        let shortest = match self.registry.read().await {
            Ok(reading) => reading.placements().shortest_lag_goal(),
            Err(_) => LAG_GOAL,
        };
        tokio::time::sleep(until(after(since, shortest)).max(A_MOMENT)).await;
        loop {
            // Most files never come here, so only here it is asked which class they are of.
            let record = self.ledger.read(file, Strength::Local).await;
            let class = record.as_ref().ok().and_then(FileRecord::class);
            let goal = self.lag_goal(file, class).await;
            let left = until(after(since, goal));
            if !left.is_zero() {
                tokio::time::sleep(left).await;
                continue;
            }
            // What is wanted nowhere, or is here already, is not late.
            let is_late = match (&record, self.registry.read().await) {
                (Ok(record), Ok(reading)) => {
                    let due = reading.is_due(&self.datacenter, &file.domain, record.class());
                    record.head.is_none() || !record.is_whole_in(&self.datacenter, due)
                }
                (_, _) => true,
            };
            if is_late {
                self.has_missed(file, lagging, goal);
            }
            return std::future::pending().await;
        }
    }

    /// A file was tried, and is not as it should be.
    pub(super) async fn is_still_missing(
        &self,
        file: &FileName,
        lagging: &Lagging,
        class: Option<&Class>,
    ) {
        let goal = self.lag_goal(file, class).await;
        if lagging.deadline(goal) <= Some(wall_clock()) && lagging.since.is_some() {
            self.has_missed(file, lagging, goal);
        }
    }

    fn has_missed(&self, file: &FileName, lagging: &Lagging, goal: Duration) {
        if !lagging.was_told(goal) {
            lagging.told.store(true, Ordering::Relaxed);
            self.lags.missed.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(%file, ?goal, "not here within its lag goal");
            self.tell(file, What::MissedGoal { goal });
        }
    }

    /// A file is as it should be. `waited`: it had a gap.
    pub(super) async fn has_come(
        &self,
        file: &FileName,
        lagging: &Lagging,
        did: &Did,
        record: Option<&FileRecord>,
        waited: bool,
    ) {
        let (Some(since), Some(record)) = (lagging.since, record) else {
            return;
        };
        let lag = wall_clock().0.saturating_sub(since.0);
        let lag = Duration::from_micros(u64::try_from(lag).unwrap_or_default());
        let did_something = *did != Did::Nothing;
        // What is brought again after it was damaged here is no change of ours that came late.
        let origin = origin(record, did).filter(|origin| **origin != self.datacenter);
        if let (true, Some(origin)) = (did_something, origin) {
            self.lags.note(origin, lag);
        }
        let goal = self.lag_goal(file, record.class()).await;
        if lag > goal && (did_something || waited) {
            self.has_missed(file, lagging, goal);
            self.lags.came_late.fetch_add(1, Ordering::Relaxed);
            self.tell(file, What::CameLate { lag, goal });
        }
    }
}

/// Where the change was made that was done.
fn origin<'a>(record: &'a FileRecord, did: &Did) -> Option<&'a Datacenter> {
    let head = record.head.as_ref()?;
    // A class does not say who set it; that datacenter's replica was set at the same time, and may have been again since.
    let class = record.class_cell.as_ref().map(|cell| cell.version);
    let mut replicas = record.replicas.iter();
    let by = replicas.find(|(_, replica)| Some(replica.since) == class);
    match (did, by) {
        (Did::ClassApplied, Some((datacenter, _))) => Some(datacenter),
        (_, _) => Some(&head.origin),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_last_thousand_and_steps_of_all() {
        let (lags, origin) = (Lags::default(), "ma01".parse().expect("a name"));
        for n in 0..2_000 {
            lags.note(&origin, Duration::from_millis(n));
        }
        lags.note(&origin, Duration::from_secs(1_000_000));
        let read = lags.read();
        let from = &read.from["ma01"];
        assert_eq!(from.changes, 2_001);
        assert_eq!(from.p50, Duration::from_millis(1_500));
        assert_eq!(from.p99, Duration::from_millis(1_990));
        assert_eq!(from.steps[0], 101, "0 to 100 ms");
        assert_eq!(from.steps[STEPS.len()], 1, "beyond all");
        assert_eq!(from.steps.iter().sum::<u64>(), 2_001);
        assert_eq!(lags.from.lock()[&origin].recent.len(), RECENT);
    }

    #[test]
    fn a_goal_that_was_missed_before_the_gap_was_written_was_told() {
        let goal = Duration::from_secs(10);
        let mut lagging = Lagging::new(Some(Version(50_000_000)));
        assert!(!lagging.was_told(goal));
        lagging.has_gap(Some(Version(40_000_000)), Some(Version(49_999_999)));
        assert_eq!(lagging.deadline(goal), Some(Version(50_000_000)));
        assert!(!lagging.was_told(goal), "parked before the goal was missed");
        lagging.has_gap(Some(Version(40_000_000)), Some(Version(50_000_000)));
        assert!(lagging.was_told(goal));
    }
}
