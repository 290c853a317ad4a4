//! How fast a worker may work: files a second, and a rest after work. Both can be changed while it works.
//!
//! Always true: a rest is not made up for by working faster afterwards.

use std::num::NonZeroU32;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Interval, MissedTickBehavior, interval};

/// Turns given in a second, at most: above that several are given at once, since timers are no finer than a millisecond.
const TICKS: u32 = 100;

/// The longest rest at a time, however long the work was.
const LONGEST_REST: Duration = Duration::from_secs(60);

/// The pace of one worker.
#[derive(Debug, Default)]
pub(super) struct Pace {
    limits: Mutex<Limits>,
    /// Whoever waits for a turn has it: the others wait behind.
    turns: tokio::sync::Mutex<Option<Turns>>,
}

/// What an operator allows.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(super) struct Limits {
    /// Files a second; as fast as it can if there is none.
    pub(super) rate: Option<NonZeroU32>,
    /// Rest after each second of work, in seconds.
    pub(super) rest: f64,
}

/// Turns at one rate.
#[derive(Debug)]
struct Turns {
    rate: NonZeroU32,
    ticks: Interval,
    /// Given at a tick, and left of the last one.
    each: u32,
    left: u32,
}

impl Turns {
    fn at(rate: NonZeroU32) -> Turns {
        let each = rate.get().div_ceil(TICKS);
        let mut ticks = interval(Duration::from_secs(1) * each / rate.get());
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Turns {
            rate,
            ticks,
            each,
            left: 0,
        }
    }
}

impl Pace {
    pub(super) fn limits(&self) -> Limits {
        *self.limits.lock()
    }

    pub(super) fn set(&self, limits: Limits) {
        *self.limits.lock() = limits;
    }

    /// Waits until one more file may be seen to. A new rate counts from the next file on, so after a second at most.
    pub(super) async fn turn(&self) {
        if self.limits().rate.is_none() {
            return;
        }
        let mut turns = self.turns.lock().await;
        let Some(rate) = self.limits().rate else {
            return;
        };
        let turns = match &mut *turns {
            Some(turns) if turns.rate == rate => turns,
            turns => turns.insert(Turns::at(rate)),
        };
        if turns.left == 0 {
            turns.ticks.tick().await;
            turns.left = turns.each;
        }
        turns.left -= 1;
    }

    /// How long to rest after having worked so long.
    pub(super) fn rest_after(&self, worked: Duration) -> Duration {
        let rest = self.limits().rest;
        if rest <= 0.0 {
            return Duration::ZERO;
        }
        Duration::try_from_secs_f64(worked.as_secs_f64() * rest)
            .map_or(LONGEST_REST, |rest| rest.min(LONGEST_REST))
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    fn rate(files: u32) -> Limits {
        Limits {
            rate: NonZeroU32::new(files),
            rest: 0.0,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_holds_counts_at_once_and_a_rest_is_not_made_up_for() {
        let pace = Pace::default();
        let took = async |files: u32| {
            let began = Instant::now();
            for _ in 0..files {
                pace.turn().await;
            }
            began.elapsed().as_secs_f64()
        };
        assert_eq!(took(1000).await, 0.0, "without a rate");
        pace.set(rate(10));
        let ten = took(21).await;
        assert!((1.9..=2.2).contains(&ten), "20 at 10 a second: {ten} s");
        tokio::time::sleep(Duration::from_secs(60)).await;
        let after_a_rest = took(21).await;
        assert!((1.9..=2.2).contains(&after_a_rest), "{after_a_rest} s");
        pace.set(rate(10_000));
        let fast = took(20_000).await;
        assert!((1.9..=2.2).contains(&fast), "20,000 at 10,000: {fast} s");
        pace.set(Limits::default());
        assert_eq!(took(1000).await, 0.0, "without a rate again");
    }

    #[test]
    fn a_rest_is_in_proportion_and_has_an_end() {
        let pace = Pace::default();
        assert_eq!(pace.rest_after(Duration::from_secs(3)), Duration::ZERO);
        pace.set(Limits {
            rate: None,
            rest: 2.0,
        });
        assert_eq!(
            pace.rest_after(Duration::from_secs(3)),
            Duration::from_secs(6)
        );
        assert_eq!(pace.rest_after(Duration::from_secs(3000)), LONGEST_REST);
        pace.set(Limits {
            rate: None,
            rest: f64::MAX,
        });
        assert_eq!(pace.rest_after(Duration::from_secs(3000)), LONGEST_REST);
    }
}
