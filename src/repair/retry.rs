//! The retry: rows of `gaps` whose next try is due.
//!
//! Always true: a row goes when its file is as it should be, and stays with a later next try otherwise. A file that
//! another worker is at is left to it.

use std::sync::Arc;
use std::time::Duration;

use crate::ledger::{Expected, LedgerError};
use crate::version::wall_clock;

use super::Shared;
use super::park::{Expects, Parked};
use super::status::State;
use super::trouble::{Pauses, rest};
use super::work::Crew;

/// Rows read at a time, and files in work.
const WINDOW: usize = 200;

/// How often it is asked what is due.
const LOOK_EVERY: Duration = Duration::from_millis(500);

pub(super) async fn run(shared: Arc<Shared>) -> Result<(), LedgerError> {
    let reconciler = &shared.reconciler;
    let mut crew = Crew::new(Arc::clone(reconciler), Arc::clone(&shared.retry));
    let mut number = 0;
    let mut pauses = Pauses::default();
    while !reconciler.stop.is_cancelled() {
        shared.retry.unless_paused().await;
        crew.gather();
        match begin_due(&shared, &mut crew, &mut number).await {
            Ok(()) => {
                reconciler.trouble.end();
                pauses = Pauses::default();
                shared.retry.state(if crew.len() == 0 {
                    State::Idle
                } else {
                    State::Running
                });
                // Also when there was much: what is in work is due until it is done.
                rest(LOOK_EVERY, &reconciler.stop).await;
            }
            Err(error) => {
                reconciler.trouble.begin(&error);
                shared.retry.note(error.to_string());
                shared.retry.state(State::WaitingForLedger);
                pauses.wait(&reconciler.stop).await;
            }
        }
    }
    crew.finish().await;
    Ok(())
}

/// Begins with what is due, as far as there is room.
async fn begin_due(shared: &Shared, crew: &mut Crew, number: &mut u64) -> Result<(), LedgerError> {
    let reconciler = &shared.reconciler;
    if crew.len() >= WINDOW {
        return crew.park_slow().await;
    }
    // Those in work may all be among the first.
    let limit = WINDOW + crew.len();
    for gap in reconciler
        .ledger
        .gaps(&reconciler.datacenter, wall_clock(), limit)
        .await?
    {
        if crew.len() >= WINDOW || crew.is_at(&gap.file) {
            continue;
        }
        if reconciler.at_work.try_lock(&[&gap.file]).is_none() {
            reconciler
                .park(
                    &gap.file,
                    &gap.last_error,
                    Parked::InProgress,
                    Expects::AtLeast(Expected::default()),
                )
                .await?;
            continue;
        }
        *number += 1;
        crew.start(*number, gap.file, Expected::default());
    }
    Ok(())
}
