//! How many gaps there are, for those who ask again and again.
//!
//! Always true: one question is under way at a time, and the next is not asked within [`FRESH`] of the last answer, whatever
//! that was. A count comes with what was proved just before it was asked for: what is proved is done, or among the gaps counted.
//! While a ledger takes its time its last count is told up to [`KEPT`]; after a failure none is.
//! Never here: what to make of a count that is not known. Whoever asks waits [`PATIENCE`] at most.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::Proof;
use crate::version::Version;

/// How long a count stands without asking again: a scrape more costs the ledger nothing.
const FRESH: Duration = Duration::from_secs(5);

/// How old a count may be while the next one is under way.
const KEPT: Duration = Duration::from_secs(60);

/// How long one question waits. Less than a scrape is given: Prometheus gives 10 s, and a late answer is none at all.
const PATIENCE: Duration = Duration::from_secs(2);

/// A count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Counted {
    /// Gaps of this datacenter.
    pub(super) gaps: u64,
    /// Since when the oldest of them is one; `None` if there is none.
    pub(super) oldest: Option<Version>,
    /// What was proved just before.
    pub(super) proof: Proof,
}

/// The last count.
#[derive(Default)]
pub(super) struct GapCount {
    /// Held while the ledger is asked.
    asking: Arc<tokio::sync::Mutex<()>>,
    last: Arc<Mutex<Option<Last>>>,
}

struct Last {
    answered: Instant,
    /// With the time at which it was asked for; `None` if that failed.
    counted: Option<(Instant, Counted)>,
}

impl GapCount {
    /// The last count, which `count` makes anew if it is time to. `None` while it is not known.
    pub(super) async fn known<F, C>(&self, count: F) -> Option<Counted>
    where
        F: FnOnce() -> C + Send + 'static,
        C: Future<Output = Option<Counted>> + Send,
    {
        let (asking, last) = (Arc::clone(&self.asking), Arc::clone(&self.last));
        // A task of its own: an answer that comes too late for this question is there for the next one.
        let answering = tokio::spawn(async move {
            let _one_at_a_time = asking.lock_owned().await;
            let is_fresh = |last: &Last| last.answered.elapsed() < FRESH;
            if last.lock().as_ref().is_some_and(is_fresh) {
                return;
            }
            let asked = Instant::now();
            let counted = count().await;
            *last.lock() = Some(Last {
                answered: Instant::now(),
                counted: counted.map(|counted| (asked, counted)),
            });
        });
        let _what_is_known_is_told = tokio::time::timeout(PATIENCE, answering).await;
        let last = self.last.lock();
        let (asked, counted) = last.as_ref()?.counted?;
        (asked.elapsed() < KEPT).then_some(counted)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    fn counted(gaps: u64) -> Option<Counted> {
        Some(Counted {
            gaps,
            oldest: None,
            proof: Proof::default(),
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_questions_asks_the_ledger_once() {
        let (count, asked) = (GapCount::default(), Arc::new(AtomicU64::new(0)));
        let ask = || {
            let asked = Arc::clone(&asked);
            count.known(move || async move {
                tokio::time::sleep(Duration::from_millis(100)).await;
                counted(asked.fetch_add(1, Ordering::Relaxed))
            })
        };
        let answers = futures::future::join_all((0..100).map(|_| ask())).await;
        assert!(answers.iter().all(|answer| *answer == counted(0)));
        assert_eq!(ask().await, counted(0));
        tokio::time::sleep(FRESH).await;
        assert_eq!(ask().await, counted(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_not_known_and_not_asked_again_at_once() {
        let count = GapCount::default();
        assert_eq!(count.known(async || counted(7)).await, counted(7));
        tokio::time::sleep(FRESH).await;
        assert_eq!(count.known(async || None).await, None);
        assert_eq!(count.known(async || counted(8)).await, None);
        tokio::time::sleep(FRESH).await;
        assert_eq!(count.known(async || counted(8)).await, counted(8));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_ledger_delays_nobody_and_its_last_count_is_told_for_a_while() {
        let count = GapCount::default();
        assert_eq!(count.known(async || counted(7)).await, counted(7));
        tokio::time::sleep(FRESH).await;
        let began = Instant::now();
        let slow = async || {
            tokio::time::sleep(PATIENCE * 2).await;
            counted(8)
        };
        assert_eq!(count.known(slow).await, counted(7));
        assert_eq!(began.elapsed(), PATIENCE);
        // What came too late for that question is there for the next one, which asks nobody.
        tokio::time::sleep(PATIENCE).await;
        assert_eq!(count.known(async || None).await, counted(8));
        tokio::time::sleep(KEPT).await;
        let never = std::future::pending::<Option<Counted>>;
        assert_eq!(count.known(never).await, None);
    }
}
