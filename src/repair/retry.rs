//! The retry: rows of `gaps` whose next try is due.
//!
//! Always true: a row goes when its file is as it should be, and stays with a later next try otherwise. A file that
//! somebody is at is left to them, and so is its row: written now, it might outlast the work it tells of.

use std::sync::Arc;
use std::time::Duration;

use crate::ledger::{Expected, LedgerError};
use crate::version::wall_clock;

use super::Shared;
use super::status::State;
use super::trouble::{Pauses, rest};
use super::work::Crew;

/// Rows read at a time, and files in work.
const WINDOW: usize = 200;

/// How often it is asked what is due.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The same, when all that is due is being worked on.
const LOOK_AT_BUSY_EVERY: Duration = Duration::from_secs(5);

pub(super) async fn run(shared: Arc<Shared>) -> Result<(), LedgerError> {
    let reconciler = &shared.reconciler;
    let mut crew = Crew::new(Arc::clone(reconciler), Arc::clone(&shared.retry));
    let mut number = 0;
    let mut pauses = Pauses::default();
    while !reconciler.stop.is_cancelled() {
        shared.retry.unless_paused().await;
        crew.gather();
        match begin_due(&shared, &mut crew, &mut number).await {
            Ok(met) => {
                reconciler.trouble.end();
                pauses = Pauses::default();
                shared.retry.state(if crew.len() == 0 {
                    State::Idle
                } else {
                    State::Running
                });
                // Also when there was much: what is in work is due until it is done.
                let pause = match met {
                    Met::Busy => LOOK_AT_BUSY_EVERY,
                    Met::Nothing | Met::Work => LOOK_EVERY,
                };
                rest(pause, &reconciler.stop).await;
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

/// What a look at the gaps that are due met.
enum Met {
    Nothing,
    /// Nothing but files that somebody is at.
    Busy,
    Work,
}

/// Begins with what is due, as far as there is room.
async fn begin_due(shared: &Shared, crew: &mut Crew, number: &mut u64) -> Result<Met, LedgerError> {
    let reconciler = &shared.reconciler;
    if crew.len() >= WINDOW {
        crew.park_slow().await?;
        return Ok(Met::Work);
    }
    // Those that somebody is at may all be among the first.
    let limit = WINDOW + reconciler.at_work.in_use();
    let due = reconciler
        .ledger
        .gaps(&reconciler.datacenter, wall_clock(), limit);
    let mut met = Met::Nothing;
    for gap in due.await? {
        if crew.len() >= WINDOW {
            break;
        }
        if crew.is_at(&gap.file) || reconciler.at_work.try_lock(&[&gap.file]).is_none() {
            if let Met::Nothing = met {
                met = Met::Busy;
            }
            continue;
        }
        met = Met::Work;
        *number += 1;
        crew.start(*number, gap.file, Expected::default());
    }
    Ok(met)
}
