//! Files that did not work at once, parked by name in the ledger's `gaps`.
//!
//! Always true: a gap is written at a hybrid time taken when it was observed, so that a late write never covers a newer
//! observation. It stays until somebody has brought the file to where it should be.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

use crate::config::RepairConfig;
use crate::events::{Event, What};
use crate::file::{Class, FileName};
use crate::ledger::{Expected, Gap, LedgerError};
use crate::machine;
use crate::version::{Version, wall_clock};

use super::lag::after;
use super::reconcile::Reconciler;

/// The longest pause for what is only waited for: a local change under way ends soon.
const LATER_MOST: Duration = Duration::from_secs(30);

/// When a file that was being worked on is looked at again, should this process have died over it.
const IN_PROGRESS: Duration = Duration::from_secs(300);

/// Why a file is parked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Parked {
    /// An attempt failed.
    Failed,
    /// Nothing is wrong, but it was not the moment.
    Later,
    /// It is being worked on and takes long; the row is for the case that this process dies.
    InProgress,
}

/// What a parked file has to show before it is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Expects {
    /// This: the file was looked at, and what its gap said before is taken into account.
    Just(Expected),
    /// This and what its gap said before.
    AtLeast(Expected),
}

impl Expects {
    fn beside(self, before: Option<&Gap>) -> Expected {
        match self {
            Expects::Just(expected) => expected,
            Expects::AtLeast(expected) => {
                expected.and(before.map(|gap| gap.expected).unwrap_or_default())
            }
        }
    }
}

/// What there is to say of a file that is parked.
pub(super) struct Parking<'a> {
    pub(super) why: &'a str,
    pub(super) parked: Parked,
    pub(super) expects: Expects,
    /// The version of the oldest change that is not applied; `None` where no change has told of it.
    pub(super) since: Option<Version>,
    /// Its class, where it is known: it decides by when the file is to be here.
    pub(super) class: Option<&'a Class>,
}

impl Parking<'_> {
    /// Of a file that is being worked on.
    pub(super) fn in_progress(why: &str, expects: Expects) -> Parking<'_> {
        Parking {
            why,
            parked: Parked::InProgress,
            expects,
            since: None,
            class: None,
        }
    }
}

impl Reconciler {
    /// Parks a file. When this returns without an error, a cursor may pass the file.
    pub(super) async fn park(
        &self,
        file: &FileName,
        parking: Parking<'_>,
    ) -> Result<(), LedgerError> {
        let Parking {
            why,
            parked,
            expects,
            since,
            class,
        } = parking;
        let before = match self.ledger.gap(&self.datacenter, file).await {
            Ok(gap) => gap,
            Err(error @ LedgerError::Unavailable { .. }) => return Err(error),
            // What cannot be read is written anew.
            Err(LedgerError::Corrupt { .. }) => None,
        };
        let observed = self.now();
        let now = wall_clock();
        let attempts = before.as_ref().map_or(0, |gap| gap.attempts);
        // A file that is changed ten times while it waits has failed no more often for that.
        let was_its_turn = before.as_ref().is_none_or(|gap| gap.next_try <= now);
        let attempts = match parked {
            Parked::InProgress => attempts,
            Parked::Failed | Parked::Later if was_its_turn => attempts.saturating_add(1),
            Parked::Failed | Parked::Later => attempts.max(1),
        };
        let since = since.map_or(observed, |since| since.min(observed));
        let since = before.as_ref().map_or(since, |gap| gap.since.min(since));
        let waited = Duration::from_micros(observed.0.saturating_sub(since.0).max(0) as u64);
        let pause = pause(&self.config, attempts, waited, parked);
        let mut next_try = after(now, pause);
        // Tried at the moment at which it misses its goal, so that this is told then.
        let goal = after(since, self.lag_goal(file, class).await);
        if goal > now {
            next_try = next_try.min(goal);
        }
        let gap = Gap {
            file: file.clone(),
            since,
            attempts,
            last_error: why.to_owned(),
            next_try,
            observed,
            expected: expects.beside(before.as_ref()),
        };
        self.ledger.set_gap(&self.datacenter, &gap).await?;
        if parked == Parked::Failed {
            tracing::warn!(%file, attempts, "parked: {why}");
            let what = What::Parked {
                why: why.to_owned(),
                attempts,
            };
            self.events.publish(Event {
                datacenter: self.datacenter.clone(),
                file: file.clone(),
                what,
            });
        }
        Ok(())
    }

    /// Takes away the file's gap, also one that could not be read or is not seen yet: what should be here is here.
    pub(super) async fn unpark(&self, file: &FileName) -> Result<(), LedgerError> {
        self.ledger
            .clear_gap(&self.datacenter, file, self.now())
            .await
    }

    /// The hybrid time of an observation made now, above that of every earlier one. (A clock that is too far ahead to stamp
    /// for others still tells time.)
    pub(super) fn now(&self) -> Version {
        self.journal.clock().stamp_above(Version(0))
    }
}

/// How long a file that has waited for so long, and failed so often, waits before it is tried again. Never much longer
/// than it has waited already: a file that is changed ten times while a tracker restarts fails ten times in a
/// second, and is to come when the tracker is back.
fn pause(config: &RepairConfig, attempts: u32, waited: Duration, parked: Parked) -> Duration {
    let (first, most) = match parked {
        Parked::Failed => (config.retry_first, config.retry_most),
        Parked::Later => (config.retry_first, config.retry_most.min(LATER_MOST)),
        Parked::InProgress => return IN_PROGRESS,
    };
    ExponentialBuilder::default()
        .with_min_delay(first)
        .with_max_delay(most.min(waited.max(first)))
        .with_factor(2.0)
        .with_jitter()
        .with_jitter_seed(machine::random())
        .without_max_times()
        .build()
        .nth(attempts.saturating_sub(1).min(40) as usize)
        .unwrap_or(most)
}

pub(super) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{OnVanished, SourcesConfig, VerifyBy};
    use crate::repair::budget::Limits;

    #[test]
    fn a_pause_grows_with_the_failures_and_with_the_time_that_they_took() {
        let config = RepairConfig {
            enabled: true,
            budget: Limits::default(),
            sources: SourcesConfig::default(),
            create_domains: true,
            scan_every: Duration::from_secs(1),
            retry_first: Duration::from_secs(2),
            retry_most: Duration::from_secs(3600),
            tombstone_retention: Duration::from_secs(3600),
            verify_every: None,
            verify_by: VerifyBy::Size,
            verify_rate: 1,
            verify_most_missing: 5.0,
            on_vanished: OnVanished::Restore,
            backfill_every: None,
            backfill_rate: 1,
            backfill_sweep_every: Duration::from_secs(1),
            split_from: std::collections::BTreeSet::new(),
        };
        let of = |attempts, waited| {
            let waited = Duration::from_secs(waited);
            pause(&config, attempts, waited, Parked::Failed).as_secs()
        };
        // The chance in it makes a pause at most twice as long.
        assert!((2..=4).contains(&of(1, 0)), "{}", of(1, 0));
        assert!((8..=16).contains(&of(3, 1000)), "{}", of(3, 1000));
        assert!((3600..=7200).contains(&of(30, 9000)), "{}", of(30, 9000));
        // Ten changes of one file while its tracker was away for a moment.
        assert!((2..=4).contains(&of(10, 1)), "{}", of(10, 1));
        assert!((20..=40).contains(&of(10, 20)), "{}", of(10, 20));
    }
}
