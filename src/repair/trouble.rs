//! The ledger being away, told once when it begins and once when it ends, whoever of many meets it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::RngExt;
use tokio_util::sync::CancellationToken;

use crate::ledger::LedgerError;
use crate::machine;

/// The first pause, and the longest, of those who wait for the ledger.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));

/// Whether the ledger is away.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    away: AtomicBool,
}

impl Trouble {
    pub(super) fn begin(&self, error: &LedgerError) {
        if !self.away.swap(true, Ordering::AcqRel) {
            tracing::warn!("repair waits for the ledger: {error}");
        }
    }

    pub(super) fn end(&self) {
        if self.away.load(Ordering::Acquire) && self.away.swap(false, Ordering::AcqRel) {
            tracing::info!("the ledger answers again; repair goes on");
        }
    }

    pub(super) fn is_away(&self) -> bool {
        self.away.load(Ordering::Acquire)
    }
}

/// Pauses that grow, each with its own chance in it, so that not all come back at once.
#[derive(Debug)]
pub(super) struct Pauses {
    next: Duration,
    most: Duration,
}

impl Default for Pauses {
    fn default() -> Self {
        Pauses {
            next: PAUSES.0,
            most: PAUSES.1,
        }
    }
}

impl Pauses {
    /// Waits. False if it was told to stop meanwhile.
    pub(super) async fn wait(&mut self, stop: &CancellationToken) -> bool {
        let pause = self.next.mul_f64(machine::rng().random_range(0.5..1.5));
        self.next = (self.next * 2).min(self.most);
        rest(pause, stop).await
    }
}

/// Waits this long. False if it was told to stop meanwhile.
pub(super) async fn rest(pause: Duration, stop: &CancellationToken) -> bool {
    tokio::select! {
        biased;
        () = stop.cancelled() => false,
        () = tokio::time::sleep(pause) => true,
    }
}
