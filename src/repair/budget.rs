//! What repair may take: bytes and files in a second, and copies at once; in all, and from each source.
//!
//! Always true: a limit that is changed holds from the next chunk on, also for those who wait already; who waits has his
//! turn in order; what goes beyond a limit is at most one chunk, and is paid for by the next one's waiting. What an operator has set
//! is above what the configuration says, limit by limit, until he takes it back.
//! Never here: limits of clients. The proxy has connections of its own, and knows nothing of these.
//! Killed in the middle: what was set is a row of the ledger (the cursor [`CURSOR`]), read before the first worker works.
//!
//! The buckets are our own since those of libraries have their rate for good (governor, leaky-bucket), or leave whoever waits already to the
//! rate that he met (async-speed-limit).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Deserializer, Serialize};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::file::Datacenter;
use crate::ledger::{Cursor, Ledger, LedgerError};
use crate::version::Version;

/// The cursor whose note keeps what an operator has set.
pub const CURSOR: &str = "budget";

/// What was not taken for a moment may be made up for, up to what this time allows.
const BURST: Duration = Duration::from_millis(100);

/// Bytes in a second, at least: a copy that moves slower than this is cut off by storage nodes.
pub const LEAST_BYTES: u64 = 16 << 10;
/// Bytes in a second, at most: beyond any link.
pub const MOST_BYTES: u64 = 1 << 40;
/// Files in a second, at most.
pub const MOST_FILES: u64 = 1_000_000;
/// Copies at once, at most.
pub const MOST_COPIES: u64 = 1024;

/// The limits. `None`: there is none.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Limits {
    /// `bytes_per_second`: that are read for copies, and for verify by bytes. No limit by default.
    pub bytes_per_second: Option<u64>,
    /// `bytes_per_source`: the same, from each datacenter. No limit by default.
    pub bytes_per_source: Option<u64>,
    /// `files_per_second`: copies that are begun. No limit by default.
    pub files_per_second: Option<u64>,
    /// `copies_at_once`: files copied at a time. 4 by default.
    pub copies_at_once: u64,
    /// `copies_per_source`: the same, from each datacenter. No further limit by default.
    pub copies_per_source: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            bytes_per_second: None,
            bytes_per_source: None,
            files_per_second: None,
            copies_at_once: 4,
            copies_per_source: None,
        }
    }
}

/// What an operator sets: of each limit, whether it is set, and to what. The outer `None` leaves a limit alone.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setting {
    /// See [`Limits::bytes_per_second`].
    #[serde(
        default,
        deserialize_with = "said",
        skip_serializing_if = "Option::is_none"
    )]
    pub bytes_per_second: Option<Option<u64>>,
    /// See [`Limits::bytes_per_source`].
    #[serde(
        default,
        deserialize_with = "said",
        skip_serializing_if = "Option::is_none"
    )]
    pub bytes_per_source: Option<Option<u64>>,
    /// See [`Limits::files_per_second`].
    #[serde(
        default,
        deserialize_with = "said",
        skip_serializing_if = "Option::is_none"
    )]
    pub files_per_second: Option<Option<u64>>,
    /// See [`Limits::copies_at_once`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copies_at_once: Option<u64>,
    /// See [`Limits::copies_per_source`].
    #[serde(
        default,
        deserialize_with = "said",
        skip_serializing_if = "Option::is_none"
    )]
    pub copies_per_source: Option<Option<u64>>,
}

/// A member that is there, be it `null`.
fn said<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Option<u64>>, D::Error> {
    Option::deserialize(value).map(Some)
}

/// A limit that nobody can keep.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{limit} = {value}: {wrong}; write {least} to {most}, or null for no limit")]
pub struct BadLimit {
    limit: &'static str,
    value: u64,
    wrong: &'static str,
    least: u64,
    most: u64,
}

impl Setting {
    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        *self == Setting::default()
    }

    /// # Errors
    /// The first limit that nobody can keep.
    pub fn check(&self) -> Result<(), BadLimit> {
        let bytes = (LEAST_BYTES, MOST_BYTES);
        let limits = [
            ("bytes_per_second", self.bytes_per_second.flatten(), bytes),
            ("bytes_per_source", self.bytes_per_source.flatten(), bytes),
            (
                "files_per_second",
                self.files_per_second.flatten(),
                (1, MOST_FILES),
            ),
            ("copies_at_once", self.copies_at_once, (1, MOST_COPIES)),
            (
                "copies_per_source",
                self.copies_per_source.flatten(),
                (1, MOST_COPIES),
            ),
        ];
        for (limit, value, (least, most)) in limits {
            let Some(value) = value else { continue };
            let wrong = match value {
                value if value < least => "too little",
                value if value > most => "too much",
                _ => continue,
            };
            return Err(BadLimit {
                limit,
                value,
                wrong,
                least,
                most,
            });
        }
        Ok(())
    }

    /// This, and below it what was set before.
    fn over(self, before: Setting) -> Setting {
        Setting {
            bytes_per_second: self.bytes_per_second.or(before.bytes_per_second),
            bytes_per_source: self.bytes_per_source.or(before.bytes_per_source),
            files_per_second: self.files_per_second.or(before.files_per_second),
            copies_at_once: self.copies_at_once.or(before.copies_at_once),
            copies_per_source: self.copies_per_source.or(before.copies_per_source),
        }
    }

    /// What holds by this over what is configured.
    fn limits(&self, configured: &Limits) -> Limits {
        Limits {
            bytes_per_second: self.bytes_per_second.unwrap_or(configured.bytes_per_second),
            bytes_per_source: self.bytes_per_source.unwrap_or(configured.bytes_per_source),
            files_per_second: self.files_per_second.unwrap_or(configured.files_per_second),
            copies_at_once: self.copies_at_once.unwrap_or(configured.copies_at_once),
            copies_per_source: self
                .copies_per_source
                .unwrap_or(configured.copies_per_source),
        }
    }
}

/// The budget as it stands, for people and scripts.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize)]
pub struct Standing {
    /// What holds.
    pub limits: Limits,
    /// What the configuration says.
    pub configured: Limits,
    /// What an operator has set above it.
    pub set: Setting,
}

/// All of it. Cheap to ask where nothing is limited.
pub(super) struct Budget {
    configured: Limits,
    set: Mutex<Setting>,
    /// What was kept is among it, or was taken back.
    recalled: AtomicBool,
    bytes: Bucket,
    files: Bucket,
    copies: Arc<Slots>,
    /// As many as there are datacenters.
    sources: Mutex<BTreeMap<Datacenter, Arc<OfSource>>>,
}

/// What may be taken from one source.
pub(super) struct OfSource {
    bytes: Bucket,
    pub(super) copies: Arc<Slots>,
}

impl Budget {
    pub(super) fn new(configured: Limits) -> Budget {
        Budget {
            set: Mutex::default(),
            recalled: AtomicBool::new(false),
            bytes: Bucket::new(configured.bytes_per_second),
            files: Bucket::new(configured.files_per_second),
            copies: Arc::new(Slots::new(configured.copies_at_once)),
            sources: Mutex::default(),
            configured,
        }
    }

    pub(super) fn standing(&self) -> Standing {
        let set = self.set.lock().clone();
        Standing {
            limits: set.limits(&self.configured),
            configured: self.configured.clone(),
            set,
        }
    }

    pub(super) fn limits(&self) -> Limits {
        self.set.lock().limits(&self.configured)
    }

    /// Sets what is said, and leaves the rest alone. What is set in all.
    pub(super) fn set(&self, said: Setting) -> Setting {
        let mut set = self.set.lock();
        *set = said.over(std::mem::take(&mut *set));
        self.obey(&set.limits(&self.configured));
        set.clone()
    }

    /// What the configuration says holds again.
    pub(super) fn reset(&self) {
        let mut set = self.set.lock();
        *set = Setting::default();
        self.recalled.store(true, Ordering::Release);
        self.obey(&self.configured);
    }

    fn obey(&self, limits: &Limits) {
        self.bytes.set(limits.bytes_per_second);
        self.files.set(limits.files_per_second);
        self.copies.set(limits.copies_at_once);
        for source in self.sources.lock().values() {
            source.bytes.set(limits.bytes_per_source);
            source.copies.set(of_source(limits));
        }
    }

    pub(super) fn source(&self, datacenter: &Datacenter) -> Arc<OfSource> {
        // In this order everywhere: what is being set reaches also a source that is new.
        let limits = self.set.lock();
        let mut sources = self.sources.lock();
        if let Some(known) = sources.get(datacenter) {
            return Arc::clone(known);
        }
        let limits = limits.limits(&self.configured);
        let new = Arc::new(OfSource {
            bytes: Bucket::new(limits.bytes_per_source),
            copies: Arc::new(Slots::new(of_source(&limits))),
        });
        sources.insert(datacenter.clone(), Arc::clone(&new));
        new
    }

    /// One more file is begun with; waits for its turn.
    pub(super) async fn take_file(&self) {
        self.files.take(1).await;
    }

    /// A copy is made as long as this is held; waits for its turn.
    pub(super) async fn take_copy(&self) -> Slot {
        self.copies.take().await
    }

    /// So many bytes came from a source; waits until they are paid for.
    pub(super) async fn take_bytes(&self, source: &OfSource, bytes: u64) {
        self.bytes.take(bytes).await;
        source.bytes.take(bytes).await;
    }

    /// Keeps what is set, for the next start.
    ///
    /// # Errors
    /// The ledger's. What is set holds all the same.
    pub(super) async fn keep(
        &self,
        ledger: &dyn Ledger,
        datacenter: &Datacenter,
        now: Version,
    ) -> Result<(), LedgerError> {
        let note = serde_json::to_string(&*self.set.lock()).unwrap_or_default();
        let cursor = Cursor {
            name: CURSOR.to_owned(),
            number: 0,
            note,
            updated: now,
        };
        ledger.set_cursor(datacenter, &cursor).await
    }

    /// Sets what was kept, once, below what was set since the start. What cannot be read is told in the log.
    ///
    /// # Errors
    /// The ledger's, when it is away.
    pub(super) async fn recall(
        &self,
        ledger: &dyn Ledger,
        datacenter: &Datacenter,
    ) -> Result<(), LedgerError> {
        if self.recalled.load(Ordering::Acquire) {
            return Ok(());
        }
        let kept = match ledger.cursor(datacenter, CURSOR).await {
            Ok(Some(kept)) => serde_json::from_str::<Setting>(&kept.note)
                .map_err(|error| error.to_string())
                .and_then(|kept| match kept.check() {
                    Ok(()) => Ok(kept),
                    Err(wrong) => Err(wrong.to_string()),
                }),
            Ok(None) => Ok(Setting::default()),
            Err(error @ LedgerError::Corrupt { .. }) => Err(error.to_string()),
            Err(error @ LedgerError::Unavailable { .. }) => return Err(error),
        };
        let mut set = self.set.lock();
        if self.recalled.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        match kept {
            Ok(kept) => {
                *set = std::mem::take(&mut *set).over(kept);
                self.obey(&set.limits(&self.configured));
            }
            Err(why) => tracing::warn!(
                "the budget that was set cannot be read, so that of the configuration holds: {why}"
            ),
        }
        Ok(())
    }
}

fn of_source(limits: &Limits) -> u64 {
    limits.copies_per_source.unwrap_or(MOST_COPIES)
}

/// So much in a second. What is taken is taken at once, as long as nothing is owed; whoever comes next waits until it is paid.
struct Bucket {
    /// Who waits holds it: the next in line waits for this one.
    turn: tokio::sync::Mutex<()>,
    level: Mutex<Level>,
    changed: Notify,
}

struct Level {
    rate: Option<f64>,
    /// What may be taken; below zero is owed.
    left: f64,
    at: Instant,
}

impl Bucket {
    fn new(rate: Option<u64>) -> Bucket {
        Bucket {
            turn: tokio::sync::Mutex::default(),
            level: Mutex::new(Level {
                rate: rate.map(|rate| rate as f64),
                left: 0.0,
                at: Instant::now(),
            }),
            changed: Notify::new(),
        }
    }

    fn set(&self, rate: Option<u64>) {
        let mut level = self.level.lock();
        level.flow();
        level.rate = rate.map(|rate| rate as f64);
        if level.rate.is_none() {
            level.left = 0.0;
        }
        drop(level);
        self.changed.notify_waiters();
    }

    async fn take(&self, amount: u64) {
        if self.level.lock().rate.is_none() {
            return;
        }
        let _turn = self.turn.lock().await;
        loop {
            let changed = self.changed.notified();
            let Some(wait) = self.level.lock().take(amount as f64) else {
                return;
            };
            tokio::select! {
                biased;
                () = tokio::time::sleep(wait) => {}
                () = changed => {}
            }
        }
    }
}

impl Level {
    fn flow(&mut self) {
        let now = Instant::now();
        if let Some(rate) = self.rate {
            let more = rate * now.duration_since(self.at).as_secs_f64();
            self.left = (self.left + more).min(rate * BURST.as_secs_f64());
        }
        self.at = now;
    }

    /// How long to wait; `None` if it was taken.
    fn take(&mut self, amount: f64) -> Option<Duration> {
        self.flow();
        let rate = self.rate?;
        if self.left >= 0.0 {
            self.left -= amount;
            return None;
        }
        // A timer rounds up to a millisecond; what flows meanwhile is not lost.
        Some(Duration::from_secs_f64((-self.left / rate).max(0.001)))
    }
}

/// Places of which there may be more or fewer while some are taken.
pub(super) struct Slots {
    free: Arc<Semaphore>,
    size: Mutex<Size>,
}

struct Size {
    wanted: usize,
    /// Taken places that are to go when they are given back.
    surplus: usize,
}

/// One of the [`Slots`], given back when dropped.
pub(super) struct Slot {
    slots: Arc<Slots>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Slots {
    fn new(size: u64) -> Slots {
        let wanted = places(size);
        Slots {
            free: Arc::new(Semaphore::new(wanted)),
            size: Mutex::new(Size { wanted, surplus: 0 }),
        }
    }

    fn set(&self, wanted: u64) {
        let (wanted, mut size) = (places(wanted), self.size.lock());
        let more = wanted.saturating_sub(size.wanted);
        let stay = more.min(size.surplus);
        size.surplus -= stay;
        self.free.add_permits(more - stay);
        let fewer = size.wanted.saturating_sub(wanted);
        size.surplus += fewer - self.free.forget_permits(fewer);
        size.wanted = wanted;
    }

    pub(super) async fn take(self: &Arc<Self>) -> Slot {
        Slot {
            slots: Arc::clone(self),
            // Nobody closes it.
            permit: Arc::clone(&self.free).acquire_owned().await.ok(),
        }
    }

    pub(super) fn are_full(&self) -> bool {
        self.free.available_permits() == 0
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut size = self.slots.size.lock();
        if size.surplus > 0
            && let Some(permit) = self.permit.take()
        {
            size.surplus -= 1;
            permit.forget();
        }
    }
}

fn places(size: u64) -> usize {
    size.clamp(1, MOST_COPIES) as usize
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_rate_holds_and_may_change_while_somebody_waits() {
        let bucket = Arc::new(Bucket::new(Some(1000)));
        let began = Instant::now();
        for _ in 0..10 {
            bucket.take(500).await;
        }
        // The last one is owed.
        let took = began.elapsed().as_secs_f64();
        assert!((4.3..4.7).contains(&took), "{took}");

        bucket.set(Some(1));
        let began = Instant::now();
        let waiting = tokio::spawn({
            let bucket = Arc::clone(&bucket);
            async move { bucket.take(1).await }
        });
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert!(!waiting.is_finished(), "500 are owed, at 1 a second");
        bucket.set(Some(100_000));
        waiting.await.expect("no panic");
        assert!(began.elapsed() < Duration::from_millis(3100));

        bucket.set(None);
        let began = Instant::now();
        for _ in 0..1000 {
            bucket.take(1 << 30).await;
        }
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_taken_for_long_is_not_made_up_for() {
        let bucket = Bucket::new(Some(1000));
        tokio::time::sleep(Duration::from_secs(3600)).await;
        let began = Instant::now();
        for _ in 0..20 {
            bucket.take(100).await;
        }
        let took = began.elapsed().as_secs_f64();
        assert!((1.7..2.0).contains(&took), "{took}");
    }

    #[tokio::test]
    async fn places_become_more_and_fewer_while_some_are_taken() {
        let slots = Arc::new(Slots::new(3));
        let take = async || slots.take().now_or_never();
        let taken = [take().await, take().await, take().await];
        assert!(taken.iter().all(Option::is_some));
        assert!(slots.are_full() && take().await.is_none());
        slots.set(1);
        let [first, second, third] = taken;
        drop((first, second));
        assert!(take().await.is_none(), "one is taken still");
        slots.set(2);
        let second = take().await;
        assert!(second.is_some() && slots.are_full());
        drop((second, third));
        let both = (take().await, take().await);
        assert!(both.0.is_some() && both.1.is_some());
        assert!(take().await.is_none());
    }

    #[test]
    fn what_is_set_stands_above_what_is_configured() {
        let budget = Budget::new(Limits {
            bytes_per_second: Some(1 << 20),
            ..Limits::default()
        });
        let set: Setting =
            serde_json::from_str(r#"{"bytes_per_second": null, "copies_at_once": 9}"#)
                .expect("a setting");
        set.check().expect("within the limits");
        budget.set(set);
        let second: Setting = serde_json::from_str(r#"{"copies_at_once": 2}"#).expect("a setting");
        let kept = serde_json::to_string(&budget.set(second)).expect("JSON");
        assert_eq!(kept, r#"{"bytes_per_second":null,"copies_at_once":2}"#);
        let Standing { limits, set, .. } = budget.standing();
        assert_eq!((limits.bytes_per_second, limits.copies_at_once), (None, 2));
        assert_eq!(serde_json::from_str::<Setting>(&kept).expect("JSON"), set);
        budget.reset();
        assert_eq!(budget.limits().bytes_per_second, Some(1 << 20));
        assert_eq!(budget.limits().copies_at_once, 4);

        for bad in [
            r#"{"bytes_per_second": 1}"#,
            r#"{"copies_at_once": 0}"#,
            r#"{"files_per_second": 1000000000}"#,
        ] {
            let bad: Setting = serde_json::from_str(bad).expect("a setting");
            assert!(bad.check().is_err(), "{bad:?}");
        }
        assert!(serde_json::from_str::<Setting>(r#"{"bytes": 1}"#).is_err());
        assert!(serde_json::from_str::<Setting>(r#"{"copies_at_once": "many"}"#).is_err());
    }
}
