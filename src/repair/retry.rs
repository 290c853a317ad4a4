//! The retry: rows of `gaps` whose next try is due.
//!
//! Always true: a row goes when its file is as it should be, and stays with a later next try otherwise. A file that
//! somebody is at is left to them, and so is its row: written now, it might outlast the work it tells of.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::ledger::{Expected, LedgerError};
use crate::version::{Version, wall_clock};

use super::Shared;
use super::status::State;
use super::work::Crew;
use super::worker::{Turn, Worker};

/// Rows read at a time, and files in work.
const WINDOW: usize = 200;

/// How often it is asked what is due.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The same, when all that is due is being worked on.
const LOOK_AT_BUSY_EVERY: Duration = Duration::from_secs(5);

/// Files whose gaps are due, in work.
struct Retry {
    shared: Arc<Shared>,
    crew: Crew,
    number: u64,
}

pub(super) async fn begin(shared: Arc<Shared>) -> Result<Box<dyn Worker>, LedgerError> {
    let crew = Crew::new(Arc::clone(&shared.reconciler), Arc::clone(&shared.retry));
    Ok(Box::new(Retry {
        shared,
        crew,
        number: 0,
    }))
}

#[async_trait]
impl Worker for Retry {
    async fn turn(&mut self) -> Result<Turn, LedgerError> {
        self.crew.gather();
        let met = self.begin_due().await?;
        self.shared.reconciler.trouble.end();
        self.shared.retry.state(if self.crew.len() == 0 {
            State::Idle
        } else {
            State::Running
        });
        // Also when there was much: what is in work is due until it is done.
        Ok(Turn::Idle(match met {
            Met::Busy => LOOK_AT_BUSY_EVERY,
            Met::Nothing | Met::Work => LOOK_EVERY,
        }))
    }

    async fn finish(&mut self) {
        self.crew.finish().await;
    }
}

/// What a look at the gaps that are due met.
enum Met {
    Nothing,
    /// Nothing but files that somebody is at.
    Busy,
    Work,
}

impl Retry {
    /// Begins with what is due, as far as there is room.
    async fn begin_due(&mut self) -> Result<Met, LedgerError> {
        let (crew, reconciler) = (&mut self.crew, &self.shared.reconciler);
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
            self.number += 1;
            // One that cannot be read has no age.
            let since = Some(gap.since).filter(|since| *since > Version(0));
            crew.start(self.number, gap.file, Expected::default(), since);
        }
        Ok(met)
    }
}
