//! The scan: all files of the ledger, by fixed parts of the ring of tokens, several at once.
//!
//! It runs when this journal has never seen one to its end (a new datacenter is filled so), when the rules of what is due
//! where have changed since the last one began, when it is asked for, when a person has accepted that the ledger has stepped back,
//! when another node's journal was lost, and some time after the last one ended.
//!
//! A scan is *thorough* when all datacenters of the ledger have answered for every page: only then is what it did not meet not
//! there. Such a one is wanted in all these cases but the last, and once in half of the time that deletes are remembered. Where a
//! datacenter does not answer the scan goes on with what is here, proves nothing, and is made up for when all answer.
//!
//! Always true: its cursor passes a page only when every file of it is as it should be or parked by name; a part is passed
//! only when its last page is. The next page of a part is read while the files of this one are seen to.
//! Killed in the middle: it goes on with the pages at which it was.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::file::{Datacenter, FileName};
use crate::ledger::{
    Cursor, Expected, FileRecord, Ledger, LedgerError, Page, Strength, TokenRange,
};
use crate::version::{Version, ago, wall_clock};

use super::Shared;
use super::park::{Expects, Parked, Parking, micros};
use super::purge::{self, Horizon};
use super::reconcile::{Step, decide};
use super::status::{Progress, ScanProgress, State};
use super::trouble::{Pauses, rest};
use super::work::Crew;
use super::worker::{self, Turn, Worker};

/// The cursor's name.
const NAME: &str = "scan";

/// Parts of the ring: a page's place within each of those under way is all that has to be remembered.
pub(super) const PARTS: u32 = 64;

/// Parts that are gone through at once: while one waits for the ledger, another is looked at.
const LANES: usize = 4;

/// Files read at a time.
const PAGE: usize = 500;

/// Files of one lane that are in work at a time.
const WINDOW: usize = 50;

/// How often it is looked whether a scan is due.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often the cursor is saved while it moves: what lies between is done again after a kill.
const SAVE_EVERY: Duration = Duration::from_secs(1);

/// How long a thorough scan waits for a datacenter of the ledger that does not answer: longer than a node takes to start.
const SILENT: Duration = Duration::from_secs(60);

/// What the cursor's note keeps; its number is the next part that nobody has begun with.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Note {
    /// The journal that the scan is, or was, made for.
    incarnation: String,
    /// When the scan under way began.
    began: Option<Version>,
    /// The parts that were begun with, and where the next page of each begins.
    #[serde(default)]
    under_way: Vec<Place>,
    /// When the last whole scan ended, and when that had begun.
    ended: Option<Version>,
    ended_scan_began: Option<Version>,
    /// The rules of placement as the scan under way, and as the last whole one, found them at their beginning.
    #[serde(default)]
    rules_at_begin: String,
    #[serde(default)]
    rules_of_ended: String,
    /// Whether the scan under way is thorough so far.
    #[serde(default)]
    thorough: bool,
    /// When the last whole scan that was thorough had begun, and the rules as it found them.
    #[serde(default)]
    thorough_began: Option<Version>,
    #[serde(default)]
    rules_of_thorough: String,
    /// When a scan was asked for last: one that is to prove something.
    #[serde(default)]
    asked: Version,
}

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Due {
    Nothing,
    /// A thorough one, as soon as all datacenters of the ledger answer.
    Proof,
    /// One, as thorough as can be.
    Scan,
}

/// How far one part is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Place {
    part: u32,
    page: Option<String>,
    /// Which share of the part lies behind.
    share: f64,
}

/// A scan under way, or waiting to begin.
struct Scan {
    shared: Arc<Shared>,
    place: Mutex<Standing>,
}

/// Where the scan is.
struct Standing {
    note: Note,
    /// The next part that nobody has begun with.
    next_part: u32,
    /// Parts that a lane is at.
    taken: BTreeSet<u32>,
    /// Which share of each of those lies in the page under way, and is done. Few files are few pages, and a page may take long.
    within: BTreeMap<u32, f64>,
    saved_at: Instant,
    /// Since when this process is at the scan under way, how far that was then, and what it has read since.
    since: Instant,
    percent_then: f64,
    files: u64,
    /// Since when not all datacenters of the ledger answer.
    silent_since: Option<Instant>,
    /// What may be forgotten, as of when this scan began.
    horizon: Option<Horizon>,
    purged: u64,
}

/// When the last whole and thorough scan of a datacenter began, whatever its journal was.
///
/// # Errors
/// The ledger's.
pub async fn last_thorough(
    ledger: &dyn Ledger,
    datacenter: &Datacenter,
) -> Result<Option<Version>, LedgerError> {
    let cursor = ledger.cursor(datacenter, NAME).await?;
    let note = cursor.and_then(|cursor| serde_json::from_str::<Note>(&cursor.note).ok());
    Ok(note.and_then(|note| note.thorough_began))
}

pub(super) async fn begin(shared: Arc<Shared>) -> Result<Box<dyn Worker>, LedgerError> {
    let reconciler = &shared.reconciler;
    let incarnation = reconciler.journal.stream().incarnation.clone();
    let cursor = reconciler
        .ledger
        .cursor(&reconciler.datacenter, NAME)
        .await?;
    let mut next_part = cursor
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
        next_part = 0;
    }
    let mut standing = Standing {
        note,
        next_part,
        taken: BTreeSet::new(),
        within: BTreeMap::new(),
        saved_at: Instant::now(),
        since: Instant::now(),
        percent_then: 0.0,
        files: 0,
        silent_since: None,
        horizon: None,
        purged: 0,
    };
    standing.percent_then = standing.percent();
    let place = Mutex::new(standing);
    Ok(Box::new(Scan { shared, place }))
}

#[async_trait]
impl Worker for Scan {
    /// One whole scan, or one look at whether one is due.
    async fn turn(&mut self) -> Result<Turn, LedgerError> {
        let shared = &self.shared;
        let reconciler = &shared.reconciler;
        self.report();
        let rules = reconciler.registry.read().await?.rules.clone();
        let begins = match self.due(&rules) {
            Due::Nothing => false,
            Due::Proof => self.all_answer().await,
            Due::Scan => true,
        };
        if !begins {
            shared.scan.state(State::Idle);
            return Ok(Turn::Idle(LOOK_EVERY));
        }
        self.begin_unless_under_way(rules);
        let retention = reconciler.config.tombstone_retention;
        let horizon = Horizon::look(&*reconciler.ledger, retention).await?;
        self.place.lock().horizon = horizon;
        join_all((0..LANES).map(|_| self.lane())).await;
        self.end().await?;
        Ok(Turn::Worked)
    }

    /// The lanes have ended with their turn.
    async fn finish(&mut self) {}
}

impl Standing {
    fn percent(&self) -> f64 {
        if self.note.began.is_none() {
            return 100.0;
        }
        let behind = self.note.under_way.iter().map(|place| place.share);
        let under_way: f64 = behind.chain(self.within.values().copied()).sum();
        let passed =
            self.next_part as usize - self.note.under_way.len().min(self.next_part as usize);
        100.0 * (passed as f64 + under_way) / f64::from(PARTS)
    }

    /// A part to go on or begin with.
    fn take(&mut self) -> Option<Place> {
        let left = self.note.under_way.iter();
        let mut left = left.filter(|place| !self.taken.contains(&place.part));
        let place = match left.next().cloned() {
            Some(place) => place,
            None if self.next_part < PARTS => {
                let place = Place {
                    part: self.next_part,
                    ..Place::default()
                };
                self.next_part += 1;
                self.note.under_way.push(place.clone());
                place
            }
            None => return None,
        };
        self.taken.insert(place.part);
        Some(place)
    }

    fn is_whole(&self) -> bool {
        self.next_part >= PARTS && self.note.under_way.is_empty()
    }
}

impl Scan {
    fn due(&self, rules: &str) -> Due {
        let shared = &self.shared;
        let config = &shared.reconciler.config;
        let standing = &mut *self.place.lock();
        let note = &mut standing.note;
        let current = note.thorough_began.is_some() && note.rules_of_thorough == rules;
        shared.scan_is_current.store(current, Ordering::Relaxed);
        let wanted = shared.scan_wanted.lock().take();
        note.asked = note.asked.max(wanted.unwrap_or_default());
        let next = note
            .ended
            .map(|ended| ended.0.saturating_add(micros(config.scan_every)));
        if note.began.is_some()
            || wanted.is_some()
            || rules != note.rules_of_ended
            || next.is_none_or(|next| wall_clock().0 >= next)
        {
            return Due::Scan;
        }
        match self.wants_proof(note, rules) {
            true => Due::Proof,
            false => Due::Nothing,
        }
    }

    /// Whether the last thorough scan does not prove what is to be proved now.
    fn wants_proof(&self, note: &Note, rules: &str) -> bool {
        let config = &self.shared.reconciler.config;
        let since = self.shared.scan_since().max(note.asked);
        // Nothing is forgotten that a datacenter has not had such a scan since.
        let for_purge = ago((config.tombstone_retention / 2).max(config.scan_every));
        rules != note.rules_of_thorough
            || note
                .thorough_began
                .is_none_or(|began| began <= since.max(for_purge))
    }

    fn begin_unless_under_way(&self, rules: String) {
        let standing = &mut *self.place.lock();
        if standing.note.began.is_some() {
            return;
        }
        let thorough = self.wants_proof(&standing.note, &rules);
        tracing::debug!(thorough, "scan of all files begins");
        standing.next_part = 0;
        standing.silent_since = None;
        let note = &mut standing.note;
        note.began = Some(wall_clock());
        note.thorough = thorough;
        note.under_way.clear();
        note.rules_at_begin = rules;
        (standing.since, standing.percent_then, standing.files) = (Instant::now(), 0.0, 0);
    }

    /// Whether all datacenters of the ledger answer.
    async fn all_answer(&self) -> bool {
        let ledger = &self.shared.reconciler.ledger;
        let answer = ledger.scan(TokenRange::ALL, None, 1, Strength::Each).await;
        if let Err(error) = &answer {
            self.shared
                .scan
                .note(format!("a scan that proves something waits: {error}"));
        }
        answer.is_ok()
    }

    /// A page, thorough as long as that can be had.
    async fn read(&self, range: TokenRange, from: Option<&str>) -> Result<Page, LedgerError> {
        let ledger = &self.shared.reconciler.ledger;
        let mut silent_for = None;
        if self.place.lock().note.thorough {
            match ledger.scan(range, from, PAGE, Strength::Each).await {
                Err(error @ LedgerError::Unavailable { .. }) => {
                    let mut standing = self.place.lock();
                    let since = *standing.silent_since.get_or_insert_with(Instant::now);
                    if since.elapsed() < silent() {
                        return Err(error);
                    }
                    silent_for = Some(error);
                }
                answer => {
                    self.place.lock().silent_since = None;
                    return answer;
                }
            }
        }
        let page = ledger.scan(range, from, PAGE, Strength::Local).await?;
        if let Some(error) = silent_for
            && std::mem::take(&mut self.place.lock().note.thorough)
        {
            let why = format!("the scan goes on without proving anything: {error}");
            tracing::warn!("{why}");
            self.shared.scan.note(why);
        }
        Ok(page)
    }

    /// Goes through one part after another.
    async fn lane(&self) {
        let shared = &self.shared;
        let mut crew = Crew::new(Arc::clone(&shared.reconciler), Arc::clone(&shared.scan));
        loop {
            let taken = self.place.lock().take();
            let Some(place) = taken else { break };
            let part = place.part;
            let mut pauses = Pauses::default();
            let mut at = place;
            while !shared.reconciler.stop.is_cancelled() {
                match self.go_through(&mut at, &mut crew).await {
                    Ok(()) => break,
                    Err(error) => {
                        self.trouble(&error);
                        pauses.wait(&shared.reconciler.stop).await;
                    }
                }
            }
            self.place.lock().taken.remove(&part);
            if shared.reconciler.stop.is_cancelled() {
                break;
            }
        }
        crew.finish().await;
    }

    /// The rest of one part. Returns early, with the place where it is, if repair is stopping.
    ///
    /// # Errors
    /// The ledger's; `at` is then the page to go on with.
    async fn go_through(&self, at: &mut Place, crew: &mut Crew) -> Result<(), LedgerError> {
        let shared = &self.shared;
        let range = TokenRange::part(at.part, PARTS);
        let read = async |from: Option<String>| self.read(range, from.as_deref()).await;
        let mut page = read(at.page.clone()).await?;
        loop {
            shared.scan.unless_paused().await;
            let began = Instant::now();
            shared.scan.state(State::Running);
            shared.reconciler.trouble.end();
            let (next, reached) = (page.next.clone(), page.reached);
            let ahead = async {
                match next.clone() {
                    Some(from) => Some(read(from.into()).await),
                    None => None,
                }
            };
            let files = (page.files.len() + page.unreadable.len()) as u64;
            let end = match (&next, reached) {
                (Some(_), Some(token)) => range.share_up_to(token),
                (Some(_), None) => at.share,
                (None, _) => 1.0,
            };
            let span = (at.part, end - at.share);
            let (seen_to, ahead) = tokio::join!(self.see_to(page, crew, span), ahead);
            self.place.lock().within.remove(&at.part);
            if !seen_to? {
                return Ok(());
            }
            at.page = next;
            at.share = reached.map_or(at.share, |token| range.share_up_to(token));
            self.pass(at, files).await;
            let pause = shared.scan.pace.rest_after(began.elapsed());
            if !rest(pause, &shared.reconciler.stop).await {
                return Ok(());
            }
            match ahead {
                Some(following) => page = following?,
                None => return Ok(()),
            }
        }
    }

    /// Sees to what of the page is not as it should be. False if repair is stopping. `span`: which part it belongs to, and how large a share of it it is.
    async fn see_to(
        &self,
        page: Page,
        crew: &mut Crew,
        span: (u32, f64),
    ) -> Result<bool, LedgerError> {
        let reconciler = &self.shared.reconciler;
        let registry = reconciler.registry.read().await?;
        for unreadable in &page.unreadable {
            let why = format!(
                "its record in the ledger cannot be read: {}",
                unreadable.why
            );
            let Some(file) = &unreadable.file else {
                self.shared.scan.failed(why);
                continue;
            };
            let parking = Parking {
                why: &why,
                parked: Parked::Failed,
                expects: Expects::AtLeast(Expected::default()),
                since: None,
                class: None,
            };
            reconciler.park(file, parking).await?;
            self.shared.scan.failed(format!("{file}: {why}"));
        }
        let (part, share) = span;
        let all = page.files.len();
        let within = |passed: usize| {
            let share = share * passed as f64 / all as f64;
            self.place.lock().within.insert(part, share);
            self.report();
        };
        for (n, (file, record)) in page.files.into_iter().enumerate() {
            let due = registry.due(&reconciler.datacenter, &file.domain, record.class());
            if decide(&record, &reconciler.datacenter, due) == Step::Nothing {
                self.shared.scan.may_go_on().await;
                self.purge_if_old(&file, &record).await?;
                self.shared.scan.done();
                continue;
            }
            while crew.len() >= WINDOW {
                if !crew.wait().await? {
                    return Ok(false);
                }
                within(n.saturating_sub(crew.len()));
            }
            // A page may show what this datacenter's copies do not have.
            crew.start_next(file, Expected::shown_by(&record));
        }
        while crew.first_open().is_some() {
            if !crew.wait().await? {
                return Ok(false);
            }
            within(all.saturating_sub(crew.len()));
        }
        Ok(true)
    }

    /// Forgets a file that was deleted so long ago that nobody can have missed it.
    async fn purge_if_old(&self, file: &FileName, record: &FileRecord) -> Result<(), LedgerError> {
        let reconciler = &self.shared.reconciler;
        let lets_go = {
            let standing = self.place.lock();
            let horizon = standing.horizon.as_ref();
            horizon.is_some_and(|horizon| horizon.lets_go(record, &reconciler.datacenter))
        };
        if !lets_go {
            return Ok(());
        }
        let began = Instant::now();
        match purge::forget(&*reconciler.ledger, file, record).await {
            Ok(()) => self.place.lock().purged += 1,
            // A copy of the ledger that is away is no reason for the scan to wait: the next one meets the file again.
            Err(error) => self.shared.scan.note(format!("forget {file}: {error}")),
        }
        rest(began.elapsed() * purge::REST, &reconciler.stop).await;
        Ok(())
    }

    /// A page is done: the cursor is behind it.
    async fn pass(&self, at: &Place, files: u64) {
        let due = {
            let mut standing = self.place.lock();
            standing.files += files;
            let under_way = &mut standing.note.under_way;
            match at.page {
                Some(_) => under_way
                    .iter_mut()
                    .filter(|place| place.part == at.part)
                    .for_each(|place| *place = at.clone()),
                None => under_way.retain(|place| place.part != at.part),
            }
            standing.saved_at.elapsed() >= SAVE_EVERY
        };
        self.report();
        // What is not saved now is saved with the next page.
        if due && let Err(error) = self.save().await {
            self.trouble(&error);
        }
    }

    /// All lanes have come to their end: the scan is whole, unless repair is stopping.
    async fn end(&self) -> Result<(), LedgerError> {
        {
            let mut standing = self.place.lock();
            if standing.is_whole() {
                let note = &mut standing.note;
                note.ended = Some(wall_clock());
                note.ended_scan_began = note.began.take();
                note.rules_of_ended = std::mem::take(&mut note.rules_at_begin);
                if note.thorough {
                    note.thorough_began = note.ended_scan_began;
                    note.rules_of_thorough = note.rules_of_ended.clone();
                }
                tracing::debug!("scan of all files ended");
            }
        }
        let saved = self.save().await;
        self.report();
        saved
    }

    async fn save(&self) -> Result<(), LedgerError> {
        let reconciler = &self.shared.reconciler;
        let cursor = {
            let mut standing = self.place.lock();
            standing.saved_at = Instant::now();
            // Stamped under the lock: a later cursor says more.
            Cursor {
                name: NAME.to_owned(),
                number: standing.next_part.into(),
                note: serde_json::to_string(&standing.note).unwrap_or_default(),
                updated: reconciler.now(),
            }
        };
        reconciler
            .ledger
            .set_cursor(&reconciler.datacenter, &cursor)
            .await
    }

    fn trouble(&self, error: &LedgerError) {
        worker::trouble(&self.shared, &self.shared.scan, error);
    }

    fn report(&self) {
        let standing = self.place.lock();
        let percent = standing.percent();
        let mut progress = ScanProgress {
            percent,
            began: standing.note.began,
            ended: standing.note.ended,
            ended_scan_began: standing.note.ended_scan_began,
            thorough_scan_began: standing.note.thorough_began,
            files_per_second: None,
            seconds_left: None,
            purged: standing.purged,
        };
        let (elapsed, done) = (
            standing.since.elapsed().as_secs_f64(),
            percent - standing.percent_then,
        );
        // Before that it would be a guess.
        if progress.began.is_some() && elapsed > 1.0 && done > 0.0 {
            progress.files_per_second = Some(standing.files as f64 / elapsed);
            progress.seconds_left = Some(elapsed * (100.0 - percent) / done);
        }
        drop(standing);
        *self.shared.scan.progress.lock() = Progress::Scan(progress);
    }
}

/// [`SILENT`], or what a test makes of it.
fn silent() -> Duration {
    fail::fail_point!("scan::silent_at_once", |_| Duration::ZERO);
    SILENT
}
