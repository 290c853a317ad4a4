//! What an operator has set for the workers while they work: paused or not, how fast. Kept in the ledger, beside the cursors, so that it
//! outlives restarts, and a journal that is lost.
//!
//! Always true: what was told to be kept is kept; while the ledger is away a change is refused, and nothing has changed.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use super::Shared;
use super::pace::Limits;
use super::status::{Figures, WorkerStatus};
use crate::ledger::{Cursor, LedgerError};

/// The cursor's name.
const NAME: &str = "workers";

/// The longest rest that may be asked for, in seconds for each second of work.
pub const MOST_REST: f64 = 1000.0;

/// What is kept of one worker. What is absent is as the configuration says.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
struct Kept {
    #[serde(default)]
    paused: bool,
    #[serde(default)]
    files_per_second: Option<Rate>,
    #[serde(default)]
    rest: Option<f64>,
}

/// Files a second.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rate {
    /// As fast as it can.
    Unlimited,
    /// So many, at most.
    AtMost(NonZeroU32),
}

/// A change of what one worker may do; what is `None` stays as it is.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Change {
    /// Whether it does nothing until it is resumed.
    pub paused: Option<bool>,
    /// Files a second; `Some(None)` for what the configuration says.
    pub files_per_second: Option<Option<Rate>>,
    /// Seconds of rest after each second of work; `Some(None)` for none.
    pub rest: Option<Option<f64>>,
}

/// Why a worker was not changed.
#[derive(Debug, thiserror::Error)]
pub enum NotChanged {
    /// There is no worker of that name.
    #[error("no worker is called {name}; they are {}", .workers.join(", "))]
    NoSuchWorker {
        /// What was asked for.
        name: String,
        /// What there is.
        workers: Vec<&'static str>,
    },
    /// Repair does not run here at all.
    #[error(
        "repair does not run here: repair.enabled = false in the configuration; set it to true and start again"
    )]
    Disabled,
    /// The worker goes by what happens, not over all files.
    #[error(
        "{worker} has no rest to set: only workers that go over all files rest in proportion; set files_per_second instead"
    )]
    NoRest {
        /// The worker.
        worker: &'static str,
    },
    /// It would not be a time.
    #[error("rest = {rest}: write seconds for each second of work, from 0 to {MOST_REST}")]
    RestBeyond {
        /// What was asked for.
        rest: f64,
    },
    /// Only workers that go over all files can be told to begin.
    #[error("{worker} cannot be told to begin: it always goes on with what there is")]
    AlwaysOn {
        /// The worker.
        worker: &'static str,
    },
    /// The change could not be kept.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

impl Shared {
    /// Reads what was kept, once, before the first worker works.
    pub(super) async fn load_settings(&self) -> Result<(), LedgerError> {
        let mut loaded = self.settings_loaded.lock().await;
        if !*loaded {
            let all = self.kept_settings().await?;
            for figures in self.figures() {
                let kept = all.get(figures.name()).copied().unwrap_or_default();
                figures.apply(kept);
            }
            *loaded = true;
        }
        Ok(())
    }

    /// Changes a worker, and keeps the change.
    pub(super) async fn change(
        &self,
        worker: &str,
        change: Change,
    ) -> Result<WorkerStatus, NotChanged> {
        let figures = self.named(worker)?;
        if let Some(Some(rest)) = change.rest {
            if !figures.goes_over_all() {
                let worker = figures.name();
                return Err(NotChanged::NoRest { worker });
            }
            if !(0.0..=MOST_REST).contains(&rest) {
                return Err(NotChanged::RestBeyond { rest });
            }
        }
        self.load_settings().await?;
        // One after another: each writes what the one before has kept.
        let _alone = self.settings_loaded.lock().await;
        let mut all = self.kept_settings().await?;
        let kept = all.entry(figures.name().to_owned()).or_default();
        kept.paused = change.paused.unwrap_or(kept.paused);
        kept.files_per_second = change.files_per_second.unwrap_or(kept.files_per_second);
        kept.rest = change.rest.unwrap_or(kept.rest);
        let kept = *kept;
        let reconciler = &self.reconciler;
        let cursor = Cursor {
            name: NAME.to_owned(),
            number: 0,
            note: serde_json::to_string(&all).unwrap_or_default(),
            updated: reconciler.now(),
        };
        reconciler
            .ledger
            .set_cursor(&reconciler.datacenter, &cursor)
            .await?;
        figures.apply(kept);
        tracing::info!(worker = figures.name(), "{}", figures.allowed());
        Ok(figures.read())
    }

    /// The worker of this name.
    pub(super) fn named(&self, worker: &str) -> Result<&Figures, NotChanged> {
        if !self.reconciler.config.enabled {
            return Err(NotChanged::Disabled);
        }
        let found = self.figures().find(|figures| figures.name() == worker);
        found
            .map(AsRef::as_ref)
            .ok_or_else(|| NotChanged::NoSuchWorker {
                name: worker.to_owned(),
                workers: self.figures().map(|figures| figures.name()).collect(),
            })
    }

    async fn kept_settings(&self) -> Result<BTreeMap<String, Kept>, LedgerError> {
        let reconciler = &self.reconciler;
        let cursor = reconciler
            .ledger
            .cursor(&reconciler.datacenter, NAME)
            .await?;
        let Some(cursor) = cursor else {
            return Ok(BTreeMap::new());
        };
        Ok(serde_json::from_str(&cursor.note).unwrap_or_else(|why| {
            tracing::warn!(
                "what was set for the workers cannot be read, and counts as not set: {why}: {}",
                cursor.note
            );
            BTreeMap::new()
        }))
    }
}

impl Figures {
    fn apply(&self, kept: Kept) {
        self.pause(kept.paused);
        let rate = match kept.files_per_second {
            None => self.configured_rate(),
            Some(Rate::Unlimited) => None,
            Some(Rate::AtMost(rate)) => Some(rate),
        };
        let rest = kept.rest.unwrap_or(0.0);
        self.pace.set(Limits { rate, rest });
    }

    /// What it may do, in words for the log.
    fn allowed(&self) -> String {
        let WorkerStatus {
            paused,
            files_per_second,
            rest,
            ..
        } = self.read();
        let mut said = match (paused, files_per_second) {
            (true, _) => "paused by an operator".to_owned(),
            (false, None) => "may work as fast as it can".to_owned(),
            (false, Some(rate)) => format!("may see to {rate} files/s"),
        };
        if rest > 0.0 {
            said.push_str(&format!(
                ", with {rest} s of rest after each second of work"
            ));
        }
        said
    }
}
