//! The scan: all files of the ledger, by fixed parts of the ring of tokens.
//!
//! It runs when this journal has never seen one to its end (a new datacenter is filled so), when the rules of what is due
//! where have changed since the last one began, when it is asked for, when a person has accepted that the ledger has stepped back,
//! when another node's journal was lost, and some time after the last one ended.
//!
//! Always true: its cursor passes a page only when every file of it is as it should be or parked by name.
//! Killed in the middle: it goes on with the page at which it was.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ledger::{Cursor, Expected, LedgerError, Page, TokenRange};
use crate::version::{Version, wall_clock};

use super::Shared;
use super::park::{Expects, Parked, micros};
use super::reconcile::{Step, decide};
use super::status::{Progress, ScanProgress, State};
use super::trouble::{Pauses, rest};
use super::work::Crew;

/// The cursor's name.
const NAME: &str = "scan";

/// Parts of the ring: a page's place within one of them is all that has to be remembered.
const PARTS: u32 = 64;

/// Files read at a time.
const PAGE: usize = 500;

/// Files in work at a time.
const WINDOW: usize = 200;

/// How often it is looked whether a scan is due.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What the cursor's note keeps.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Note {
    /// The journal that the scan is, or was, made for.
    incarnation: String,
    /// When the scan under way began.
    began: Option<Version>,
    /// Where the next page of the part begins.
    page: Option<String>,
    /// When the last whole scan ended, and when that had begun.
    ended: Option<Version>,
    ended_scan_began: Option<Version>,
    /// The rules of placement as the scan under way, and as the last whole one, found them at their beginning.
    #[serde(default)]
    rules_at_begin: String,
    #[serde(default)]
    rules_of_ended: String,
}

/// A scan under way, or waiting to begin.
struct Scan<'a> {
    shared: &'a Shared,
    part: u32,
    note: Note,
    crew: Crew,
    /// Files begun with.
    number: u64,
}

pub(super) async fn run(shared: Arc<Shared>) -> Result<(), LedgerError> {
    let reconciler = &shared.reconciler;
    let incarnation = reconciler.journal.stream().incarnation.clone();
    let cursor = reconciler
        .ledger
        .cursor(&reconciler.datacenter, NAME)
        .await?;
    let mut part = cursor
        .as_ref()
        .map_or(0, |cursor| cursor.number.min(PARTS.into()) as u32);
    let mut note: Note = cursor
        .and_then(|cursor| serde_json::from_str(&cursor.note).ok())
        .unwrap_or_default();
    if note.incarnation != incarnation {
        note = Note {
            incarnation,
            ..Note::default()
        };
        part = 0;
    }
    let crew = Crew::new(Arc::clone(reconciler), Arc::clone(&shared.scan));
    let mut scan = Scan {
        shared: &shared,
        part,
        note,
        crew,
        number: 0,
    };
    let mut pauses = Pauses::default();
    while !reconciler.stop.is_cancelled() {
        shared.scan.unless_paused().await;
        match scan.turn().await {
            Ok(()) => pauses = Pauses::default(),
            Err(error) => {
                reconciler.trouble.begin(&error);
                shared.scan.note(error.to_string());
                shared.scan.state(State::WaitingForLedger);
                pauses.wait(&reconciler.stop).await;
            }
        }
    }
    scan.crew.finish().await;
    Ok(())
}

impl Scan<'_> {
    /// One page, or one look at whether a scan is due.
    async fn turn(&mut self) -> Result<(), LedgerError> {
        let shared = self.shared;
        let reconciler = &shared.reconciler;
        self.report();
        let rules = reconciler.registry.read().await?.rules.clone();
        let current = self.note.ended.is_some() && self.note.rules_of_ended == rules;
        shared.scan_is_current.store(current, Ordering::Relaxed);
        if self.note.began.is_none() && !self.begin_if_due(rules) {
            shared.scan.state(State::Idle);
            tokio::select! {
                () = reconciler.stop.cancelled() => {}
                () = shared.scan_asked.notified() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            return Ok(());
        }
        shared.scan.state(State::Running);
        let range = TokenRange::part(self.part, PARTS);
        let page = reconciler
            .ledger
            .scan(range, self.note.page.as_deref(), PAGE)
            .await?;
        reconciler.trouble.end();
        let next = page.next.clone();
        if self.see_to(page).await? {
            self.pass(next).await?;
        }
        Ok(())
    }

    fn begin_if_due(&mut self, rules: String) -> bool {
        let wanted = self.shared.scan_wanted.lock().take();
        let every = self.shared.reconciler.config.scan_every;
        let since = self.shared.scan_since();
        let due = wanted.is_some()
            || self
                .note
                .ended_scan_began
                .is_some_and(|began| began <= since)
            || rules != self.note.rules_of_ended
            || self
                .note
                .ended
                .is_none_or(|ended| wall_clock().0 >= ended.0.saturating_add(micros(every)));
        if due {
            tracing::debug!("scan of all files begins");
            self.part = 0;
            self.note.began = Some(wall_clock());
            self.note.page = None;
            self.note.rules_at_begin = rules;
        }
        due
    }

    /// Sees to what of the page is not as it should be. False if repair is stopping.
    async fn see_to(&mut self, page: Page) -> Result<bool, LedgerError> {
        let reconciler = &self.shared.reconciler;
        let registry = reconciler.registry.read().await?;
        for unreadable in &page.unreadable {
            let why = format!(
                "its record in the ledger cannot be read: {}",
                unreadable.why
            );
            reconciler
                .park(
                    &unreadable.file,
                    &why,
                    Parked::Failed,
                    Expects::AtLeast(Expected::default()),
                )
                .await?;
            self.shared
                .scan
                .failed(format!("{}: {why}", unreadable.file));
        }
        for (file, record) in page.files {
            let due = registry.is_due(&reconciler.datacenter, &file.domain, record.class());
            if decide(&record, &reconciler.datacenter, due) == Step::Nothing {
                self.shared.scan.done();
                continue;
            }
            while self.crew.len() >= WINDOW {
                if !wait(self.shared, &mut self.crew).await? {
                    return Ok(false);
                }
            }
            self.number += 1;
            self.crew.start(self.number, file, Expected::default());
        }
        while self.crew.first_open().is_some() {
            if !wait(self.shared, &mut self.crew).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The page is done: on to the next one.
    async fn pass(&mut self, next: Option<String>) -> Result<(), LedgerError> {
        self.note.page = next;
        if self.note.page.is_none() {
            self.part += 1;
        }
        let ended = self.part >= PARTS;
        if ended {
            self.note.ended = Some(wall_clock());
            self.note.ended_scan_began = self.note.began.take();
            self.note.rules_of_ended = std::mem::take(&mut self.note.rules_at_begin);
            tracing::debug!("scan of all files ended");
        }
        // A part of a nearly empty ring is not worth a write.
        if ended || self.note.page.is_some() || self.part.is_multiple_of(8) {
            let reconciler = &self.shared.reconciler;
            let cursor = Cursor {
                name: NAME.to_owned(),
                number: self.part.into(),
                note: serde_json::to_string(&self.note).unwrap_or_default(),
                updated: reconciler.now(),
            };
            reconciler
                .ledger
                .set_cursor(&reconciler.datacenter, &cursor)
                .await?;
        }
        self.report();
        Ok(())
    }

    fn report(&self) {
        let percent = match self.note.began {
            Some(_) => 100.0 * f64::from(self.part) / f64::from(PARTS),
            None => 100.0,
        };
        *self.shared.scan.progress.lock() = Progress::Scan(ScanProgress {
            percent,
            began: self.note.began,
            ended: self.note.ended,
            ended_scan_began: self.note.ended_scan_began,
        });
    }
}

/// Waits for one of the crew to end, or to take so long that it is parked. False if repair is stopping.
async fn wait(shared: &Shared, crew: &mut Crew) -> Result<bool, LedgerError> {
    tokio::select! {
        () = crew.wait_for_one() => {}
        stopping = async { !rest(LOOK_EVERY, &shared.reconciler.stop).await } => {
            if stopping {
                return Ok(false);
            }
            crew.park_slow().await?;
        }
    }
    crew.gather();
    Ok(true)
}
