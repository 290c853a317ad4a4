//! Whether repair may work here, by what an operator has said of this datacenter; and what this datacenter shows of its repair to the others.
//!
//! Always true: no worker works before the ledger was asked, and none while the datacenter is paused, was removed, or was away for longer than
//! deletes are remembered: then what it holds may have been deleted and forgotten, and a person has to have it join again. One that joins again verifies all that it
//! is believed to hold before it does anything else.
//! Never here: clients and delivery, which go on whatever an operator says.
//! Killed in the middle: what was said is in the ledger, and read again. That it was away is told by its last thorough scan, which only working makes
//! later.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::ledger::{Cursor, LedgerError, MemberState, Membership};
use crate::version::{Version, ago, wall_clock};

use super::status::{Progress, State};
use super::trouble::rest;
use super::{Shared, scan, verify};

/// How often it is asked what an operator has said.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often this datacenter shows how far its repair is.
const SHOW_EVERY: Duration = Duration::from_secs(5);

/// The cursor that holds what is shown: no place, only a note.
pub const SHOWN: &str = "shown";

/// Which part repair may take.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) enum Part {
    /// The ledger was not asked yet.
    #[default]
    Unknown,
    All,
    /// Verify only, until a pass has ended that began after this.
    VerifyFirst(Version),
    Paused,
    /// None, for this reason, until a person has it join again.
    None(String),
}

impl Part {
    /// Whether the worker of this name may work.
    pub(super) fn lets(&self, worker: &str) -> bool {
        match self {
            Part::All => true,
            Part::VerifyFirst(_) => worker == verify::NAME,
            Part::Unknown | Part::Paused | Part::None(_) => false,
        }
    }

    /// What it means for the state of a worker that it does not let work.
    pub(super) fn state(&self) -> Option<State> {
        match self {
            Part::Paused => Some(State::Paused),
            Part::None(_) => Some(State::Stopped),
            Part::Unknown | Part::All | Part::VerifyFirst(_) => None,
        }
    }

    /// Why repair does not do all that it otherwise does.
    pub(super) fn hindrance(&self) -> Option<String> {
        match self {
            Part::Unknown | Part::All => None,
            Part::VerifyFirst(_) => {
                Some("this datacenter joins again, and verifies what it holds first".to_owned())
            }
            Part::Paused => Some("an operator has paused this datacenter".to_owned()),
            Part::None(why) => Some(why.clone()),
        }
    }
}

/// Looks at what operators say until repair stops.
pub(super) async fn watch(shared: Arc<Shared>) {
    let reconciler = &shared.reconciler;
    let mut shown_at: Option<Instant> = None;
    loop {
        match look(&shared).await {
            Ok(part) => obey(&shared, part),
            // What was said last counts on.
            Err(error) => tracing::debug!("what operators say of this datacenter: {error}"),
        }
        if shown_at.is_none_or(|at| at.elapsed() >= SHOW_EVERY) {
            shown_at = Some(Instant::now());
            if let Err(error) = show(&shared).await {
                tracing::debug!("show how far repair is: {error}");
            }
        }
        if !rest(LOOK_EVERY, &reconciler.stop).await {
            return;
        }
    }
}

async fn look(shared: &Shared) -> Result<Part, LedgerError> {
    let reconciler = &shared.reconciler;
    let (ledger, here) = (&*reconciler.ledger, &reconciler.datacenter);
    let said = ledger.memberships().await?;
    let removed = said
        .iter()
        .filter(|said| said.state == MemberState::Removed);
    *shared.removed.lock() = removed
        .map(|said| said.name.clone())
        .collect::<BTreeSet<_>>();
    let ours = said.into_iter().find(|said| said.name == *here);
    let ours = ours.unwrap_or_else(|| Membership::unsaid(here.clone()));
    match ours.state {
        MemberState::Removed => {
            return Ok(Part::None(format!(
                "{here} was removed: clients are served, and repair does nothing here; `phylactery dc rejoin {here}` takes it in again"
            )));
        }
        MemberState::Paused => return Ok(Part::Paused),
        MemberState::Active | MemberState::Leaving => {}
    }
    let worked = *shared.part.lock() == Part::All;
    let scanned = scan::last_thorough(ledger, here).await?;
    let retention = reconciler.config.tombstone_retention;
    // One that works is not away: whatever keeps its scans from proving anything.
    if !worked
        && let Some(scanned) = scanned
        && scanned.max(ours.rejoined.unwrap_or_default()) < ago(retention)
    {
        return Ok(Part::None(format!(
            "{here} was away for longer than deletes are remembered: its last scan that proves anything began at {}, and repair.tombstone_retention is {}. What it \
             holds may have been deleted and forgotten, so repair does nothing here until `phylactery dc rejoin {here}` has it verify first",
            crate::api::rfc3339(scanned),
            humantime::format_duration(retention),
        )));
    }
    let Some(rejoined) = ours.rejoined else {
        return Ok(Part::All);
    };
    {
        // Scans from before prove nothing.
        let mut left = shared.left.lock();
        *left = rejoined.max(*left);
    }
    match verify::last_began(ledger, here).await? {
        Some(began) if began > rejoined => Ok(Part::All),
        Some(_) | None => Ok(Part::VerifyFirst(rejoined)),
    }
}

fn obey(shared: &Shared, part: Part) {
    let before = std::mem::replace(&mut *shared.part.lock(), part.clone());
    if before == part {
        return;
    }
    shared.part_changed.notify_waiters();
    match (&part, part.hindrance()) {
        (Part::None(why), _) => tracing::error!("{why}"),
        (_, Some(why)) => tracing::info!("repair: {why}"),
        (_, None) => tracing::debug!("repair may work here"),
    }
}

/// For `dc show`, wherever it is asked.
async fn show(shared: &Shared) -> Result<(), LedgerError> {
    let reconciler = &shared.reconciler;
    let scan = match &*shared.scan.progress.lock() {
        Progress::Scan(scan) => json!(scan),
        Progress::None | Progress::Tail(_) | Progress::Verify(_) | Progress::Backfill(_) => {
            json!(null)
        }
    };
    let shown = json!({
        "scan": scan,
        "proved_at": shared.proved_at(),
        "hindered": shared.hindered(),
        "at": wall_clock(),
    });
    let cursor = Cursor {
        name: SHOWN.to_owned(),
        number: 0,
        note: shown.to_string(),
        updated: reconciler.now(),
    };
    let ledger = &reconciler.ledger;
    ledger.set_cursor(&reconciler.datacenter, &cursor).await
}
