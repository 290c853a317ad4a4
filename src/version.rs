//! Hybrid logical time: never behind this machine's clock, always ahead of all that was seen.
//!
//! Always true: a [`Clock`] hands out each version once and in growing order, also over restarts,
//! because the journal keeps its mark. A received version beyond [`MAX_AHEAD`] never moves the shared
//! clock, only the next version of its own key: one clock that is far ahead must not poison everybody's.
//!
//! Should this clock itself be found too far ahead (its machine once had a wrong time, or time was set back), its mutations
//! are still stamped, since their order counts and clients are waiting; the journal holds them, with an
//! alarm, and the ledger hears of them when the wall clock has come within the bound. Nothing else is stamped meanwhile.

use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::machine::{self, Rule, keeps};

/// Microseconds since 1970, hybrid logical.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Version(pub i64);

impl Version {
    /// The next one after this.
    pub fn next(self) -> Version {
        Version(self.0.saturating_add(1))
    }

    /// As seconds since 1970, for people.
    pub fn seconds(self) -> f64 {
        self.0 as f64 / 1e6
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How far above the wall clock anything may be that others shall hear of. Machines that keep time at all are within
/// a second; an hour leaves room for a bad day and is still no harm to others.
pub const MAX_AHEAD: Duration = Duration::from_secs(3600);

/// The wall clock, in the unit of [`Version`].
pub fn wall_clock() -> Version {
    Version(machine::wall_clock().saturating_add(wrong_by()))
}

/// By how much (µs) a test wants this machine's clock to be wrong.
fn wrong_by() -> i64 {
    fail::fail_point!("clock::ahead", |seconds| {
        let seconds = seconds.and_then(|text| text.parse::<i64>().ok());
        seconds.unwrap_or_default().saturating_mul(1_000_000)
    });
    0
}

/// Where the wall clock stood so long ago.
pub fn ago(duration: Duration) -> Version {
    let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
    Version(wall_clock().0.saturating_sub(micros))
}

/// The last version that is not too far ahead at this moment.
pub fn bound() -> Version {
    Version(wall_clock().0.saturating_add(MAX_AHEAD.as_micros() as i64))
}

/// The clock of one process.
#[derive(Debug)]
pub struct Clock {
    last: AtomicI64,
}

/// The clock would have to stamp too far above the wall clock.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error(
    "the clock of this datacenter is {} s ahead of this machine's; it says nothing to the ledger until they meet (check NTP)",
    ahead.as_secs()
)]
pub struct ClockAhead {
    /// By how much the next stamp would be ahead.
    pub ahead: Duration,
}

impl Clock {
    /// A clock that stands at `mark`, the last version that may have been handed out before.
    pub fn new(mark: Version) -> Self {
        Self {
            last: AtomicI64::new(mark.0),
        }
    }

    /// A new version: above every one handed out or seen, and at or above the wall clock.
    ///
    /// # Errors
    /// If that is more than [`MAX_AHEAD`] above the wall clock.
    pub fn stamp(&self) -> Result<Version, ClockAhead> {
        if let Some(ahead) = self.ahead() {
            return Err(ClockAhead { ahead });
        }
        Ok(Version(self.advance(i64::MIN)))
    }

    /// A new version for a mutation, and above `floor`: the newest version known of the keys in question.
    ///
    /// A floor beyond the bound leaves the shared clock where it is: the version is then just above the floor, at most a
    /// second, and ends in the six digits of a version of the shared clock, so that two keys do not share it.
    pub fn stamp_above(&self, floor: Version) -> Version {
        let within = if floor > bound() { i64::MIN } else { floor.0 };
        let own = self.advance(within);
        if own > floor.0 {
            return Version(own);
        }
        let digits = own.wrapping_sub(floor.0).wrapping_sub(1);
        Version(floor.next().0.saturating_add(digits.rem_euclid(1_000_000)))
    }

    /// Moves the last version on, above `floor` and to the wall clock at least.
    fn advance(&self, floor: i64) -> i64 {
        let wall = wall_clock().0;
        let next = |last: i64| last.max(floor).saturating_add(1).max(wall);
        let last = self
            .last
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |last| Some(next(last)));
        next(last.unwrap_or_else(|last| last))
    }

    /// Moves above a version seen elsewhere, unless it lies beyond the bound. True if it was accepted.
    pub fn observe(&self, seen: Version) -> bool {
        let accepted = seen <= bound() || !keeps(Rule::ClockIsBound);
        if accepted {
            self.last.fetch_max(seen.0, Ordering::AcqRel);
        }
        accepted
    }

    /// By how much the clock is ahead of the wall clock, if that is more than [`MAX_AHEAD`].
    pub fn ahead(&self) -> Option<Duration> {
        let ahead = self.mark().0.saturating_sub(wall_clock().0);
        let ahead = Duration::from_micros(u64::try_from(ahead).unwrap_or_default());
        (ahead >= MAX_AHEAD).then_some(ahead)
    }

    /// The last version handed out or accepted.
    pub fn mark(&self) -> Version {
        Version(self.last.load(Ordering::Acquire))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_grow_and_pass_what_was_seen() {
        let clock = Clock::new(Version(0));
        let first = clock.stamp().unwrap();
        let seen = Version(first.0 + 60_000_000);
        assert!(clock.observe(seen));
        assert!(clock.stamp().unwrap() > seen);
    }

    #[test]
    fn a_version_far_ahead_moves_its_key_only() {
        let clock = Clock::new(Version(0));
        let far = Version(wall_clock().0 + 2 * MAX_AHEAD.as_micros() as i64);
        assert!(!clock.observe(far));
        let (one, other) = (clock.stamp_above(far), clock.stamp_above(far));
        for above in [one, other] {
            assert!(above > far && above.0 <= far.0 + 1_000_000, "{above}");
        }
        assert_ne!(one, other, "two keys, one version");
        assert!(
            clock.stamp().unwrap() < far,
            "the shared clock was poisoned"
        );
    }

    #[test]
    fn a_mark_far_ahead_stamps_mutations_only() {
        let mark = Version(wall_clock().0 + 2 * MAX_AHEAD.as_micros() as i64);
        let clock = Clock::new(mark);
        assert!(clock.stamp().unwrap_err().ahead > MAX_AHEAD);
        assert_eq!(clock.stamp_above(Version(0)), mark.next());
        let further = Version(mark.0 + 3_000_000);
        assert!(clock.stamp_above(further) > further);
        assert!(clock.mark() < further);
    }
}
