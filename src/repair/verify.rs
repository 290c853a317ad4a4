//! The verify worker: goes over all files that the ledger says are here, and looks whether it is true.
//!
//! A pass goes through the same fixed parts of the ring as a scan, one after the other, in batches that are large enough to
//! judge by. It only finds: what is not as it should be the ledger is told of, as an observation, and
//! [`reconcile`](super::reconcile) brings it again.
//!
//! Always true: what is missing or damaged was found so twice, a quiet time apart, and what cannot be asked says nothing. Where too
//! large a share is bad, nobody is told and nothing is brought: verify stops before that batch, looks at it again and again, and
//! goes on when the share is back, or when an operator has set `repair.verify_most_missing` higher. The cursor passes a batch
//! only when every file of it was seen to, or parked by name in `gaps`.
//! Killed in the middle: the batch is looked at again, and one at which it had stopped stops it again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::config::{OnVanished, VerifyBy};
use crate::file::{Datacenter, FileName};
use crate::ledger::{Cursor, Expected, Ledger, LedgerError, Strength, TokenRange};
use crate::trackers::TrackerError;
use crate::version::{Version, wall_clock};

use super::Shared;
use super::inspect::{Bad, Lacks, Past, Seen};
use super::member::Part;
use super::park::{Expects, Parking, micros};
use super::proof::said_to_be_here;
use super::reconcile::NotDone;
use super::scan::PARTS;
use super::share::{self, Share};
use super::status::{Progress, State, VerifyProgress};
use super::trouble::{Pauses, rest};
use super::work::Crew;
use super::worker::{Turn, Worker, look_at_all};

/// The cursor's name.
pub(super) const NAME: &str = "verify";

/// Files read from the ledger at a time.
const PAGE: usize = 200;

/// Files of a batch, at least, but for the last one of a pass.
const BATCH: usize = share::LEAST as usize;

/// Files that are looked at at a time: few beside the tracker's workers.
const AT_ONCE: usize = 4;

/// Looks at one file before it is passed without a word: two that agree, and one for a moment in which nothing could be said.
const ROUNDS: u32 = 3;

/// Files that are being brought again at a time.
const WINDOW: usize = 50;

/// How often it is looked whether a pass is due.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What the cursor's note keeps; its number is the part of the ring.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Note {
    /// When the pass under way began.
    began: Option<Version>,
    /// Where its next batch begins.
    #[serde(default)]
    place: Place,
    /// When the last whole pass ended, and when that had begun.
    ended: Option<Version>,
    #[serde(default)]
    ended_pass_began: Option<Version>,
    /// Of the pass under way, or of the last one.
    #[serde(default)]
    counts: Counts,
    /// What the next batch is judged together with.
    #[serde(default)]
    lately: Share,
    /// Since when it has stopped before this batch.
    stopped: Option<Version>,
}

/// How far a pass is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Place {
    part: u32,
    page: Option<String>,
    /// Which share of the part lies behind.
    share: f64,
}

/// What came of the files that were looked at.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Counts {
    looked_at: u64,
    missing: u64,
    damaged: u64,
    brought_again: u64,
    unsure: u64,
    #[serde(default)]
    deleted: u64,
    #[serde(default)]
    past_the_proxy: u64,
}

impl Counts {
    fn add(&mut self, more: Counts) {
        self.looked_at += more.looked_at;
        self.missing += more.missing;
        self.damaged += more.damaged;
        self.brought_again += more.brought_again;
        self.unsure += more.unsure;
        self.deleted += more.deleted;
        self.past_the_proxy += more.past_the_proxy;
    }
}

/// The worker: its pass, and what it has found that is being brought again.
struct Verify {
    pass: Pass,
    crew: Crew,
}

/// A pass under way, or waiting to begin.
struct Pass {
    shared: Arc<Shared>,
    standing: Mutex<Standing>,
}

struct Standing {
    note: Note,
    /// What it asks, if it has stopped.
    asks: Option<String>,
    /// The pass under way was asked for.
    asked_for: bool,
    /// Since when this process is at the pass under way, how far that was then, and how many it has looked at since.
    since: Instant,
    percent_then: f64,
    files: u64,
}

/// What came of a batch.
#[derive(Default)]
struct Batch {
    good: u64,
    /// Twice.
    bad: Vec<(FileName, Bad)>,
    /// Changed past the proxy.
    past: Vec<(FileName, Past)>,
    unsure: u64,
}

/// When the last whole pass of a datacenter began.
pub(super) async fn last_began(
    ledger: &dyn Ledger,
    datacenter: &Datacenter,
) -> Result<Option<Version>, LedgerError> {
    let cursor = ledger.cursor(datacenter, NAME).await?;
    let note = cursor.and_then(|cursor| serde_json::from_str::<Note>(&cursor.note).ok());
    Ok(note.and_then(|note| note.ended_pass_began))
}

pub(super) async fn begin(shared: Arc<Shared>) -> Result<Box<dyn Worker>, LedgerError> {
    let reconciler = &shared.reconciler;
    let cursor = reconciler
        .ledger
        .cursor(&reconciler.datacenter, NAME)
        .await?;
    let note: Note = cursor
        .and_then(|cursor| serde_json::from_str(&cursor.note).ok())
        .unwrap_or_default();
    let mut standing = Standing {
        note,
        asks: None,
        asked_for: false,
        since: Instant::now(),
        percent_then: 0.0,
        files: 0,
    };
    standing.percent_then = standing.percent();
    let crew = Crew::new(Arc::clone(reconciler), Arc::clone(&shared.verify));
    let standing = Mutex::new(standing);
    Ok(Box::new(Verify {
        pass: Pass { shared, standing },
        crew,
    }))
}

#[async_trait]
impl Worker for Verify {
    async fn turn(&mut self) -> Result<Turn, LedgerError> {
        self.pass.turn(&mut self.crew).await
    }

    async fn finish(&mut self) {
        self.crew.finish().await;
    }
}

impl Standing {
    fn percent(&self) -> f64 {
        match self.note.began {
            Some(_) => {
                let Place { part, share, .. } = self.note.place;
                100.0 * (f64::from(part) + share) / f64::from(PARTS)
            }
            None => 100.0,
        }
    }
}

impl Pass {
    /// One batch, or one look at whether a pass is due.
    async fn turn(&self, crew: &mut Crew) -> Result<Turn, LedgerError> {
        let shared = &self.shared;
        let reconciler = &shared.reconciler;
        self.report();
        if !self.begin_if_due() {
            shared.verify.state(State::Idle);
            return Ok(Turn::Idle(LOOK_EVERY));
        }
        // It may have begun just now.
        self.report();
        if self.standing.lock().asks.is_none() {
            shared.verify.state(State::Running);
        }
        let from = self.standing.lock().note.place.clone();
        let (files, next) = self.gather(from).await?;
        reconciler.trouble.end();
        let Some(batch) = self.look_until_sure(files).await? else {
            return Ok(Turn::Worked);
        };
        let (looked_at, bad) = (batch.good + batch.bad.len() as u64, batch.bad.len() as u64);
        let lately = self.standing.lock().note.lately.and(looked_at, bad);
        if bad > 0 && lately.is_beyond(reconciler.config.verify_most_missing) {
            return self.ask(lately).await;
        }
        self.go_on();
        let mut counts = Counts {
            looked_at,
            unsure: batch.unsure,
            ..Counts::default()
        };
        self.take_in(&batch.past, &mut counts).await?;
        if !self.see_to(&batch.bad, crew, &mut counts).await? {
            return Ok(Turn::Worked);
        }
        self.pass(next, counts, lately).await?;
        Ok(Turn::Worked)
    }

    /// True if a pass is under way, or begins now.
    fn begin_if_due(&self) -> bool {
        let mut standing = self.standing.lock();
        let every = self.shared.reconciler.config.verify_every;
        let under_way = standing.note.began.is_some();
        let first = match *self.shared.part.lock() {
            Part::VerifyFirst(since) => Some(since),
            _ => None,
        };
        if under_way && (every.is_some() || standing.asked_for || first.is_some()) {
            return true;
        }
        let wanted = self.shared.verify_wanted.swap(false, Ordering::AcqRel);
        let due = every.is_some_and(|every| {
            let ended = standing.note.ended;
            ended.is_none_or(|ended| wall_clock().0 >= ended.0.saturating_add(micros(every)))
        });
        let began = standing.note.ended_pass_began;
        let first = first.is_some_and(|since| began.is_none_or(|began| began <= since));
        if !wanted && !due && !first {
            return false;
        }
        standing.asked_for = wanted;
        if !under_way {
            tracing::debug!("verify of all files begins");
            standing.note.began = Some(wall_clock());
            standing.note.place = Place::default();
            standing.note.counts = Counts::default();
        }
        standing.percent_then = standing.percent();
        (standing.since, standing.files) = (Instant::now(), 0);
        true
    }

    /// The next batch: files that the ledger says are here, and where the batch after it begins.
    async fn gather(&self, mut at: Place) -> Result<(Vec<FileName>, Place), LedgerError> {
        let reconciler = &self.shared.reconciler;
        let here = &reconciler.datacenter;
        let mut files = Vec::new();
        while at.part < PARTS && files.len() < BATCH && !reconciler.stop.is_cancelled() {
            self.shared.verify.unless_paused().await;
            let range = TokenRange::part(at.part, PARTS);
            let ledger = &reconciler.ledger;
            let read = ledger.scan(range, at.page.as_deref(), PAGE, Strength::Local);
            // What of the page cannot be read is parked by the scan.
            let page = read.await?;
            let said = page.files.into_iter().filter(|(_, record)| {
                let said = said_to_be_here(record, here);
                said.is_some_and(|(_, held)| self.by() == VerifyBy::Bytes || !held.is_damaged())
            });
            files.extend(said.map(|(file, _)| file));
            at = match page.next {
                Some(next) => Place {
                    part: at.part,
                    page: Some(next),
                    share: page
                        .reached
                        .map_or(at.share, |token| range.share_up_to(token)),
                },
                None => Place {
                    part: at.part + 1,
                    ..Place::default()
                },
            };
        }
        Ok((files, at))
    }

    fn by(&self) -> VerifyBy {
        self.shared.reconciler.config.verify_by
    }

    /// Looks at the files of a batch, and again a quiet time later at those that are bad, or of which nothing can be said; while the
    /// tracker is away it waits. `None` if repair is stopping.
    async fn look_until_sure(&self, files: Vec<FileName>) -> Result<Option<Batch>, LedgerError> {
        let shared = &self.shared;
        let mut batch = Batch::default();
        // With what was bad about them the last time.
        let mut left: BTreeMap<FileName, Option<Bad>> =
            files.into_iter().map(|file| (file, None)).collect();
        let mut pauses = Pauses::default();
        let mut round = 0;
        while !left.is_empty() {
            let names = left.keys().cloned().collect();
            let Some(seen) = self.look_at(names).await? else {
                return Ok(None);
            };
            let silent = seen
                .iter()
                .any(|(_, seen)| matches!(seen, Seen::TrackerAway(_)));
            let away = silent && self.tracker_is_away().await;
            for (file, seen) in seen {
                let before = left.remove(&file).flatten();
                match seen {
                    Seen::Good => {
                        shared.verify.done();
                        batch.good += 1;
                    }
                    Seen::Moot => {}
                    Seen::Past(past) => batch.past.push((file, past)),
                    Seen::Bad(bad) if before.as_ref().is_some_and(|before| bad.is_as(before)) => {
                        batch.bad.push((file, bad));
                    }
                    Seen::Bad(bad) => {
                        left.insert(file, Some(bad));
                    }
                    Seen::Unsure(why) | Seen::TrackerAway(why) => {
                        shared.verify.note(format!("{file}: {why}"));
                        left.insert(file, None);
                    }
                }
            }
            // One file at which the tracker dies each time does not count as a tracker that is away.
            if away {
                if !pauses.wait(&shared.reconciler.stop).await {
                    return Ok(None);
                }
                continue;
            }
            round += 1;
            if left.is_empty() || round == ROUNDS {
                break;
            }
            if !rest(shared.quiet_time, &shared.reconciler.stop).await {
                return Ok(None);
            }
        }
        batch.unsure = left.len() as u64;
        for file in left.keys() {
            tracing::debug!(%file, "passed by verify, since nothing could be said of it");
        }
        Ok(Some(batch))
    }

    /// One look at each file, at the rate that the operator allows. `None` if repair is stopping.
    async fn look_at(
        &self,
        files: Vec<FileName>,
    ) -> Result<Option<Vec<(FileName, Seen)>>, LedgerError> {
        let looks = files.into_iter().map(|file| self.look_at_one(file));
        let stop = &self.shared.reconciler.stop;
        look_at_all(looks.collect(), AT_ONCE, &self.shared.verify, stop).await
    }

    async fn look_at_one(&self, file: FileName) -> Result<(FileName, Seen), LedgerError> {
        self.shared.verify.may_go_on().await;
        let seen = self.shared.reconciler.inspect(&file, self.by()).await?;
        Ok((file, seen))
    }

    /// Whether the tracker answers nothing at all.
    async fn tracker_is_away(&self) -> bool {
        let asked = self.shared.reconciler.local.get_domains().await;
        matches!(
            asked,
            Err(TrackerError::NotReached { .. } | TrackerError::Lost { .. })
        )
    }

    /// So much is bad that it is not believed: stops here, says so, and rests before it looks at the same batch again.
    async fn ask(&self, lately: Share) -> Result<Turn, LedgerError> {
        let shared = &self.shared;
        let most = shared.reconciler.config.verify_most_missing;
        let asks = format!(
            "{lately} are missing or damaged here, more than repair.verify_most_missing = \"{most}%\": is the tracker on its own database, \
             and are all volumes mounted? Nothing is brought again until the share is back; if these files are really lost, set it higher and start again"
        );
        let first = {
            let mut standing = self.standing.lock();
            standing.note.stopped.get_or_insert_with(wall_clock);
            standing.asks.replace(asks.clone()).is_none()
        };
        if first {
            tracing::error!("verify has stopped: {asks}");
        }
        shared.verify.state(State::Asking);
        shared.verify.note(asks);
        self.report();
        self.save().await?;
        Ok(Turn::Idle(shared.quiet_time))
    }

    /// The batch is believed.
    fn go_on(&self) {
        let mut standing = self.standing.lock();
        standing.asks = None;
        if standing.note.stopped.take().is_some() {
            tracing::info!("verify goes on: what is missing or damaged here is few again");
        }
        self.shared.verify.state(State::Running);
    }

    /// Tells the ledger what is not here, and has it brought again. False if repair is stopping.
    async fn see_to(
        &self,
        bad: &[(FileName, Bad)],
        crew: &mut Crew,
        counts: &mut Counts,
    ) -> Result<bool, LedgerError> {
        let reconciler = &self.shared.reconciler;
        let brought_before = self.shared.verify.brought();
        let mut declared = Vec::new();
        for (file, found) in bad {
            if found.lacks == Lacks::File && reconciler.config.on_vanished == OnVanished::Delete {
                self.take_out(file, found, counts).await?;
                continue;
            }
            // Before it is said: who is killed after that has left a row that finds it again.
            let expects = Expects::AtLeast(Expected::default());
            let why = found.to_string();
            reconciler
                .park(file, Parking::in_progress(&why, expects))
                .await?;
            match reconciler.declare(file, found).await {
                Ok(true) => {
                    tracing::warn!(%file, "{found}");
                    match found.lacks {
                        Lacks::File => counts.missing += 1,
                        Lacks::Bytes => counts.damaged += 1,
                    }
                    declared.push((file, found));
                }
                // It is as it should be by now, or something else.
                Ok(false) => {}
                Err(NotDone::LedgerAway(error)) => return Err(error),
                Err(NotDone::Later(why) | NotDone::Crowded(why) | NotDone::Failed(why)) => {
                    counts.unsure += 1;
                    self.shared.verify.note(format!("{file}: {why}"));
                }
            }
            if !crew.wait_for_room(WINDOW).await? {
                return Ok(false);
            }
            crew.start_next(file.clone(), Expected::default());
        }
        if !crew.wait_for_all().await? {
            return Ok(false);
        }
        counts.brought_again = self.shared.verify.brought() - brought_before;
        for (file, found) in declared {
            if !crew.is_at(file) {
                self.shout_if_lost(file, found).await?;
            }
        }
        Ok(true)
    }

    /// Has it deleted everywhere, but for the first pass of all: then it is left alone, since nobody has ever seen it here.
    async fn take_out(
        &self,
        file: &FileName,
        found: &Bad,
        counts: &mut Counts,
    ) -> Result<(), LedgerError> {
        if self.standing.lock().note.ended.is_none() {
            counts.unsure += 1;
            self.shared.verify.note(format!(
                "{file}: {found}; in the first pass of all that is not taken for a delete"
            ));
            return Ok(());
        }
        match self.shared.reconciler.take_out(file, found).await {
            Ok(true) => {
                tracing::warn!(%file, "{found}; it counts as deleted (repair.on_vanished)");
                counts.deleted += 1;
            }
            // It is there by now.
            Ok(false) => {}
            Err(NotDone::LedgerAway(error)) => return Err(error),
            Err(NotDone::Later(why) | NotDone::Crowded(why) | NotDone::Failed(why)) => {
                counts.unsure += 1;
                self.shared.verify.note(format!("{file}: {why}"));
            }
        }
        Ok(())
    }

    /// Tells what somebody did past the proxy.
    async fn take_in(
        &self,
        past: &[(FileName, Past)],
        counts: &mut Counts,
    ) -> Result<(), LedgerError> {
        let reconciler = &self.shared.reconciler;
        for (file, past) in past {
            let took = match past {
                Past::Changed => reconciler.take_in_file(file).await,
                Past::Renamed(row) => reconciler.follow(file, row).await,
            };
            match took {
                Ok(_) => counts.past_the_proxy += 1,
                Err(NotDone::LedgerAway(error)) => return Err(error),
                Err(NotDone::Later(why) | NotDone::Crowded(why) | NotDone::Failed(why)) => {
                    counts.unsure += 1;
                    self.shared.verify.note(format!("{file}: {why}"));
                }
            }
        }
        Ok(())
    }

    /// What could not be brought again at once somebody has to know of.
    async fn shout_if_lost(&self, file: &FileName, found: &Bad) -> Result<(), LedgerError> {
        let reconciler = &self.shared.reconciler;
        let gap = reconciler.ledger.gap(&reconciler.datacenter, file).await;
        let why = match gap {
            Ok(None) => return Ok(()),
            Ok(Some(gap)) => gap.last_error,
            Err(error @ LedgerError::Unavailable { .. }) => return Err(error),
            Err(error @ LedgerError::Corrupt { .. }) => error.to_string(),
        };
        tracing::error!(%file, "{found}; it could not be brought again: {why}. It is kept as it is, and tried again; see `phylactery gaps`");
        Ok(())
    }

    /// A batch is done: the cursor is behind it, and the pass may be at its end.
    async fn pass(&self, next: Place, counts: Counts, lately: Share) -> Result<(), LedgerError> {
        {
            let mut standing = self.standing.lock();
            standing.files += counts.looked_at;
            let note = &mut standing.note;
            note.counts.add(counts);
            note.lately = lately.faded();
            note.place = next;
            if note.place.part >= PARTS {
                note.ended = Some(wall_clock());
                note.ended_pass_began = note.began.take();
                note.place = Place::default();
                standing.asked_for = false;
                tracing::debug!("verify of all files ended");
            }
        }
        let saved = self.save().await;
        self.report();
        saved
    }

    async fn save(&self) -> Result<(), LedgerError> {
        let reconciler = &self.shared.reconciler;
        let cursor = {
            let standing = self.standing.lock();
            Cursor {
                name: NAME.to_owned(),
                number: standing.note.place.part.into(),
                note: serde_json::to_string(&standing.note).unwrap_or_default(),
                updated: reconciler.now(),
            }
        };
        reconciler
            .ledger
            .set_cursor(&reconciler.datacenter, &cursor)
            .await
    }

    fn report(&self) {
        let standing = self.standing.lock();
        let percent = standing.percent();
        let Note {
            began,
            ended,
            counts,
            stopped,
            ..
        } = standing.note;
        let mut progress = VerifyProgress {
            percent,
            began,
            ended,
            files_per_second: None,
            seconds_left: None,
            looked_at: counts.looked_at,
            missing: counts.missing,
            damaged: counts.damaged,
            brought_again: counts.brought_again,
            unsure: counts.unsure,
            deleted: counts.deleted,
            past_the_proxy: counts.past_the_proxy,
            stopped,
            asks: standing.asks.clone(),
        };
        let (elapsed, done) = (
            standing.since.elapsed().as_secs_f64(),
            percent - standing.percent_then,
        );
        // Before that it would be a guess.
        if began.is_some() && elapsed > 1.0 && done > 0.0 {
            progress.files_per_second = Some(standing.files as f64 / elapsed);
            progress.seconds_left = Some(elapsed * (100.0 - percent) / done);
        }
        drop(standing);
        *self.shared.verify.progress.lock() = Progress::Verify(progress);
    }
}
