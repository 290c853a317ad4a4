//! Hybrid logical time: never behind this machine's clock, always ahead of all that was seen.
//!
//! Always true: a [`Clock`] hands out each version once and in growing order, also over restarts,
//! because the journal keeps its mark. A received version beyond [`MAX_AHEAD`] never moves the shared
//! clock: one clock that is far ahead must not poison everybody's.

use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

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

/// How far above the wall clock anything is stamped. Machines that keep time at all are within
/// a second; an hour leaves room for a bad day and is still no harm to others.
pub const MAX_AHEAD: Duration = Duration::from_secs(3600);

/// The wall clock, in the unit of [`Version`].
pub fn wall_clock() -> Version {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Version(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

/// The clock of one process.
#[derive(Debug)]
pub struct Clock {
    last: AtomicI64,
}

/// The clock would have to stamp too far above the wall clock.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error(
    "the clock of this datacenter is {} s ahead of this machine's; nothing is stamped until they meet (check NTP)",
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
        self.stamp_above(Version(i64::MIN))
    }

    /// As [`Self::stamp`], and above `floor`: the newest version known of the key in question, which may
    /// lie beyond what the shared clock accepts.
    ///
    /// # Errors
    /// As for [`Self::stamp`]. A floor beyond the bound is stamped one above itself, since refusing would
    /// leave the key unwritable, and leaves the shared clock where it was.
    pub fn stamp_above(&self, floor: Version) -> Result<Version, ClockAhead> {
        let wall = wall_clock().0;
        let bound = wall.saturating_add(MAX_AHEAD.as_micros() as i64);
        if floor.0 >= bound {
            return Ok(floor.next());
        }
        let mut last = self.last.load(Ordering::Relaxed);
        loop {
            let next = last.max(floor.0).saturating_add(1).max(wall);
            if next > bound {
                return Err(ClockAhead {
                    ahead: Duration::from_micros((next - wall) as u64),
                });
            }
            match self
                .last
                .compare_exchange_weak(last, next, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) => return Ok(Version(next)),
                Err(now) => last = now,
            }
        }
    }

    /// Moves above a version seen elsewhere, unless it lies beyond the bound. True if it was accepted.
    pub fn observe(&self, seen: Version) -> bool {
        let bound = wall_clock().0.saturating_add(MAX_AHEAD.as_micros() as i64);
        if seen.0 > bound {
            return false;
        }
        self.last.fetch_max(seen.0, Ordering::AcqRel);
        true
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
        assert_eq!(clock.stamp_above(far).unwrap(), far.next());
        assert!(
            clock.stamp().unwrap() < far,
            "the shared clock was poisoned"
        );
    }

    #[test]
    fn a_mark_far_ahead_refuses_to_stamp() {
        let clock = Clock::new(Version(wall_clock().0 + 2 * MAX_AHEAD.as_micros() as i64));
        assert!(clock.stamp().unwrap_err().ahead > MAX_AHEAD);
    }
}
