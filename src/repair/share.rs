//! Which share of what was looked at lately is missing or damaged: above a limit it is not believed.
//!
//! A tracker that suddenly knows nothing (the wrong database), or storage that has nothing (a volume that is not mounted), looks exactly like a
//! datacenter that has lost everything. To bring it all again would be slow at best; so whoever looks stops, and asks. Pure.

use serde::{Deserialize, Serialize};

/// Files that have to be looked at before their share says anything.
pub(super) const LEAST: u64 = 100;

/// What was looked at before the last so many counts ever less: a tracker may lose its mind in the middle of a pass.
const LATELY: u64 = 1000;

/// Files that were looked at lately, and how many of them were not as they should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Share {
    looked_at: u64,
    bad: u64,
}

impl Share {
    /// These, and as many more.
    pub(super) fn and(self, looked_at: u64, bad: u64) -> Share {
        Share {
            looked_at: self.looked_at + looked_at,
            bad: self.bad + bad,
        }
    }

    /// Whether more than `most` per cent of them are bad.
    pub(super) fn is_beyond(self, most: f64) -> bool {
        self.looked_at >= LEAST && self.bad as f64 * 100.0 > most * self.looked_at as f64
    }

    /// What is remembered of them.
    pub(super) fn faded(self) -> Share {
        match self.looked_at >= LATELY {
            true => Share {
                looked_at: self.looked_at / 2,
                bad: self.bad / 2,
            },
            false => self,
        }
    }
}

impl std::fmt::Display for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of the last {} files", self.bad, self.looked_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_judged_only_by_enough_files_and_only_above_the_limit() {
        let beyond = |looked_at, bad, most| Share::default().and(looked_at, bad).is_beyond(most);
        assert!(!beyond(99, 99, 5.0), "too few to tell");
        assert!(beyond(100, 6, 5.0));
        assert!(!beyond(100, 5, 5.0));
        assert!(beyond(1000, 6, 0.5));
        assert!(!beyond(100, 100, 100.0), "an operator believes everything");
        assert!(beyond(100, 1, 0.0));
    }

    #[test]
    fn a_million_good_files_do_not_hide_a_hundred_that_are_gone() {
        let mut lately = Share::default();
        for _ in 0..10_000 {
            lately = lately.and(100, 0).faded();
        }
        assert!(lately.and(100, 100).is_beyond(5.0), "{lately}");
        assert!(!lately.and(100, 2).is_beyond(5.0), "{lately}");
    }
}
