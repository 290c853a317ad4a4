//! The backfill: all files of the local tracker, by their fids, and whether the ledger knows that they are here.
//!
//! So files are found that clients stored or overwrote past the proxy, and those from before there was one. Most rounds go on where the
//! last one ended; once an hour one begins at the fids of two hours before the last such round, since an upload that was opened early may be closed late; and every few days
//! all fids are gone through again. The first round of all is such a sweep.
//!
//! Always true: its cursor passes a fid only when the ledger knows it, when it is told in the journal, or when its file is parked by name; it
//! tells only what [`found`](super::found) lets it. It waits while the journal has much to deliver: it must not refuse a client.
//! Never here: what vanished (`verify`), and names of which the tracker has no fid any more.
//! Killed in the middle: the page is looked at again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use mogilefs_protocol::client::ListedFile;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::file::{Class, Fid, FileName};
use crate::ledger::{Cursor, Expected, LedgerError, Strength};
use crate::trackers::{TrackerError, Trackers};
use crate::version::{Version, ago, wall_clock};

use super::Shared;
use super::found::Took;
use super::park::{Expects, Parked, Parking, micros};
use super::reconcile::NotDone;
use super::status::{BackfillProgress, Progress, State};
use super::trouble::rest;
use super::work::Crew;
use super::worker::{Turn, Worker, look_at_all};

/// The cursor's name.
const NAME: &str = "backfill";

/// Fids asked of the tracker at a time: as many as it gives.
const PAGE: u32 = 500;

/// Files looked at at a time.
const AT_ONCE: usize = 8;

/// Files that repair is at at a time, since what came past the proxy has to give way here.
const WINDOW: usize = 50;

/// How old an upload may be when it is closed: trackers reap them after an hour.
const OVERLAP: Duration = Duration::from_secs(2 * 3600);

/// How often a round goes back that far.
const OVERLAP_EVERY: Duration = Duration::from_secs(3600);

/// How often it is remembered which fid was the last.
const MARK_EVERY: Duration = Duration::from_secs(600);

/// Marks that are kept: they reach back over both of the times above, and some more.
const MARKS: usize = 24;

/// How often it is looked whether a round is due.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A tracker that does not answer is asked again after so long.
const TRACKER_AWAY: Duration = Duration::from_secs(2);

/// How often the cursor is saved while it moves.
const SAVE_EVERY: Duration = Duration::from_secs(1);

/// Changes that the journal may have to tell before more are handed in.
const MOST_WAITING: u64 = 10_000;

/// Pauses before a file that is being changed is looked at again, and then parked.
const GRACE: [Duration; 5] = [
    Duration::from_millis(20),
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_millis(1000),
    Duration::from_millis(3000),
];

/// What the cursor's note keeps; its number is the last fid that was passed.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Note {
    /// Oldest first.
    #[serde(default)]
    marks: VecDeque<Mark>,
    /// When the last round began that went back.
    #[serde(default)]
    went_back: Version,
    /// The sweep under way, but for the first.
    sweep: Option<Sweep>,
    /// When the last sweep ended; `None` before the first has.
    swept: Option<Version>,
    #[serde(default)]
    counts: Counts,
}

/// At that time this was the last fid that was seen: whatever was opened later has a higher one.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Mark {
    at: Version,
    fid: u64,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Sweep {
    began: Version,
    /// The last fid that it has passed.
    at: u64,
}

/// What came of the files that were looked at, since there is a cursor.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Counts {
    looked_at: u64,
    announced: u64,
    adopted: u64,
    conflicts: u64,
    parked: u64,
}

/// What came of one file.
enum Seen {
    Took(Took),
    Parked,
}

/// The worker: where it is, and what has to give way here.
struct Backfill {
    look: Look,
    crew: Crew,
}

struct Look {
    shared: Arc<Shared>,
    standing: Mutex<Standing>,
}

struct Standing {
    note: Note,
    /// The last fid that was passed.
    number: u64,
    round: Option<Round>,
    round_ended: Option<Instant>,
    saved_at: Instant,
    /// Since when this process is at it, and what it has looked at since.
    since: Instant,
    files: u64,
    /// The tracker's newest fid, when it was last asked.
    newest: u64,
}

/// A round under way over the newest fids.
#[derive(Clone, Copy)]
struct Round {
    began: Version,
    at: u64,
    goes_back: bool,
}

/// What to look at next.
#[derive(Clone, Copy)]
enum Next {
    Nothing,
    Round(Round),
    Sweep(Sweep),
}

/// The newest fid that a tracker lists; 0 if it has none. A few dozen short questions.
///
/// # Errors
/// The tracker's.
pub async fn newest_fid(trackers: &Trackers) -> Result<u64, TrackerError> {
    let is_any_above = async |fid: u64| -> Result<bool, TrackerError> {
        Ok(!trackers.list_fids(Fid(fid), 1).await?.is_empty())
    };
    if !is_any_above(0).await? {
        return Ok(0);
    }
    let mut above = 1;
    while is_any_above(above).await? && above < 1 << 50 {
        above *= 2;
    }
    // There is one above `low`, and none above `above`.
    let mut low = above / 2;
    if low <= 1 {
        low = 0;
    }
    while low + 1 < above {
        let middle = low + (above - low) / 2;
        match is_any_above(middle).await? {
            true => low = middle,
            false => above = middle,
        }
    }
    Ok(above)
}

pub(super) async fn begin(shared: Arc<Shared>) -> Result<Box<dyn Worker>, LedgerError> {
    let reconciler = &shared.reconciler;
    let cursor = reconciler
        .ledger
        .cursor(&reconciler.datacenter, NAME)
        .await?;
    let number = cursor.as_ref().map_or(0, |cursor| cursor.number);
    let note: Note = cursor
        .and_then(|cursor| serde_json::from_str(&cursor.note).ok())
        .unwrap_or_default();
    let crew = Crew::new(Arc::clone(reconciler), Arc::clone(&shared.backfill));
    let standing = Mutex::new(Standing {
        note,
        number,
        round: None,
        round_ended: None,
        saved_at: Instant::now(),
        since: Instant::now(),
        files: 0,
        newest: 0,
    });
    Ok(Box::new(Backfill {
        look: Look { shared, standing },
        crew,
    }))
}

#[async_trait]
impl Worker for Backfill {
    async fn turn(&mut self) -> Result<Turn, LedgerError> {
        match self.look.turn(&mut self.crew).await {
            Ok(turn) => Ok(turn),
            Err(Away::Ledger(error)) => Err(error),
            Err(Away::Tracker(error)) => {
                let figures = &self.look.shared.backfill;
                figures.note(format!("list the tracker's files: {error}"));
                Ok(Turn::Idle(TRACKER_AWAY))
            }
        }
    }

    async fn finish(&mut self) {
        self.crew.finish().await;
    }
}

/// Who does not answer.
enum Away {
    Ledger(LedgerError),
    Tracker(TrackerError),
}

impl From<LedgerError> for Away {
    fn from(error: LedgerError) -> Away {
        Away::Ledger(error)
    }
}

impl Look {
    /// One page, or one look at whether a round is due.
    async fn turn(&self, crew: &mut Crew) -> Result<Turn, Away> {
        let shared = &self.shared;
        let reconciler = &shared.reconciler;
        let next = self.next();
        self.report();
        let from = match next {
            Next::Nothing => {
                shared.backfill.state(State::Idle);
                return Ok(Turn::Idle(LOOK_EVERY));
            }
            Next::Round(round) => round.at,
            Next::Sweep(sweep) => sweep.at,
        };
        let page = reconciler.local.list_fids(Fid(from), PAGE).await;
        let page = page.map_err(Away::Tracker)?;
        let last = page.last().map(|file| file.fid);
        if !page.is_empty() {
            shared.backfill.state(State::Running);
        }
        let files = page.len() as u64;
        let Some(counts) = self.see_to(page, crew).await? else {
            return Ok(Turn::Worked);
        };
        reconciler.trouble.end();
        self.pass(next, last, files, counts).await?;
        Ok(Turn::Worked)
    }

    fn next(&self) -> Next {
        if !self.shared.reconciler.takes_in() {
            return Next::Nothing;
        }
        let config = &self.shared.reconciler.config;
        let standing = &mut *self.standing.lock();
        let asked = self.shared.backfill_wanted.swap(false, Ordering::AcqRel);
        if asked && standing.note.swept.is_some() && standing.note.sweep.is_none() {
            standing.note.sweep = Some(Sweep {
                began: wall_clock(),
                at: 0,
            });
        }
        if let Some(round) = standing.round {
            return Next::Round(round);
        }
        let every = config.backfill_every.unwrap_or(OVERLAP_EVERY);
        if asked
            || standing
                .round_ended
                .is_none_or(|ended| ended.elapsed() >= every)
        {
            let round = standing.round();
            standing.round = Some(round);
            return Next::Round(round);
        }
        let due = standing.note.swept.is_some_and(|swept| {
            wall_clock().0 >= swept.0.saturating_add(micros(config.backfill_sweep_every))
        });
        if due && standing.note.sweep.is_none() {
            standing.note.sweep = Some(Sweep {
                began: wall_clock(),
                at: 0,
            });
        }
        standing.note.sweep.map_or(Next::Nothing, Next::Sweep)
    }

    /// Sees to a page. `None` if repair is stopping.
    async fn see_to(
        &self,
        page: Vec<ListedFile>,
        crew: &mut Crew,
    ) -> Result<Option<Counts>, LedgerError> {
        let looks = page.into_iter().map(|listed| self.look_at(listed));
        let (stop, figures) = (&self.shared.reconciler.stop, &self.shared.backfill);
        let Some(seen) = look_at_all(looks.collect(), AT_ONCE, figures, stop).await? else {
            return Ok(None);
        };
        let mut counts = Counts {
            looked_at: seen.len() as u64,
            ..Counts::default()
        };
        for (file, seen) in seen {
            match seen {
                Seen::Took(Took::Known) => {}
                Seen::Took(Took::Adopted) => counts.adopted += 1,
                Seen::Took(Took::Announced | Took::Followed) => counts.announced += 1,
                Seen::Took(Took::Conflict(_)) => counts.conflicts += 1,
                Seen::Parked => counts.parked += 1,
                // Another datacenter's bytes are to take their place.
                Seen::Took(took @ (Took::AdoptedEmpty | Took::Outdone)) => {
                    match took {
                        Took::AdoptedEmpty => counts.adopted += 1,
                        _ => counts.announced += 1,
                    }
                    if !crew.wait_for_room(WINDOW).await? {
                        return Ok(None);
                    }
                    crew.start_next(file, Expected::default());
                }
            }
        }
        Ok(crew.wait_for_all().await?.then_some(counts))
    }

    async fn look_at(&self, listed: ListedFile) -> Result<(FileName, Seen), LedgerError> {
        let shared = &self.shared;
        let reconciler = &shared.reconciler;
        shared.backfill.may_go_on().await;
        while reconciler.journal.depth().entries > MOST_WAITING {
            tokio::time::sleep(GRACE[1]).await;
        }
        let file = FileName::from_bytes(&listed.domain, &listed.key);
        let class = Class::from_bytes(&listed.class);
        let mut grace = GRACE.iter();
        let (why, parked) = loop {
            match self.try_take(&file, Fid(listed.fid), &class).await {
                Ok(Took::Conflict(why)) => {
                    self.park(&file, &why, Parked::Failed).await?;
                    shared.backfill.note(format!("{file}: {why}"));
                    return Ok((file, Seen::Took(Took::Conflict(why))));
                }
                Ok(took) => {
                    shared.backfill.done();
                    return Ok((file, Seen::Took(took)));
                }
                Err(NotDone::LedgerAway(error)) => return Err(error),
                Err(NotDone::Failed(why)) => break (why, Parked::Failed),
                Err(NotDone::Later(why) | NotDone::Crowded(why)) => match grace.next() {
                    Some(pause) if rest(*pause, &reconciler.stop).await => {}
                    Some(_) | None => break (why, Parked::Later),
                },
            }
        };
        self.park(&file, &why, parked).await?;
        shared.backfill.failed(format!("{file}: {why}"));
        Ok((file, Seen::Parked))
    }

    /// The journal is asked first, then the ledger; the tracker's master only about what they do not know.
    async fn try_take(&self, file: &FileName, fid: Fid, class: &Class) -> Result<Took, NotDone> {
        let reconciler = &self.shared.reconciler;
        let view = reconciler.look(file, Strength::Local).await?;
        let held = view.held(&reconciler.datacenter);
        if held.is_some_and(|held| held.fid == fid && held.class == *class) {
            return Ok(Took::Known);
        }
        drop(view);
        reconciler.take_in_file(file).await
    }

    async fn park(&self, file: &FileName, why: &str, parked: Parked) -> Result<(), LedgerError> {
        let parking = Parking {
            parked,
            ..Parking::in_progress(why, Expects::AtLeast(Expected::default()))
        };
        self.shared.reconciler.park(file, parking).await
    }

    /// A page is done.
    async fn pass(
        &self,
        next: Next,
        last: Option<u64>,
        files: u64,
        counts: Counts,
    ) -> Result<(), Away> {
        let reconciler = &self.shared.reconciler;
        let ended = {
            let standing = &mut *self.standing.lock();
            standing.files += files;
            standing.note.counts.add(counts);
            if let Some(last) = last {
                standing.newest = standing.newest.max(last);
            }
            standing.pass(next, last)
        };
        let due = ended || self.standing.lock().saved_at.elapsed() >= SAVE_EVERY;
        if due {
            self.save().await?;
        }
        if ended {
            let newest = newest_fid(&reconciler.local).await.map_err(Away::Tracker)?;
            self.standing.lock().newest = newest;
        }
        self.report();
        Ok(())
    }

    async fn save(&self) -> Result<(), LedgerError> {
        let reconciler = &self.shared.reconciler;
        let cursor = {
            let mut standing = self.standing.lock();
            standing.saved_at = Instant::now();
            Cursor {
                name: NAME.to_owned(),
                number: standing.number,
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
        let note = &standing.note;
        let swept = note.swept;
        self.shared
            .is_backfilled
            .store(swept.is_some(), Ordering::Release);
        // Before the first sweep has ended, the round is it.
        let (at, began) = match (note.sweep, standing.round) {
            (Some(sweep), _) => (sweep.at, Some(sweep.began)),
            (None, Some(round)) => (round.at, Some(round.began)),
            (None, None) => (standing.number, None),
        };
        let counts = note.counts;
        let elapsed = standing.since.elapsed().as_secs_f64();
        let progress = BackfillProgress {
            fid: at,
            newest_fid: standing.newest.max(standing.number),
            began,
            swept,
            files_per_second: (began.is_some() && elapsed > 1.0)
                .then(|| standing.files as f64 / elapsed),
            looked_at: counts.looked_at,
            announced: counts.announced,
            adopted: counts.adopted,
            conflicts: counts.conflicts,
            parked: counts.parked,
        };
        drop(standing);
        *self.shared.backfill.progress.lock() = Progress::Backfill(progress);
    }
}

impl Counts {
    fn add(&mut self, more: Counts) {
        self.looked_at += more.looked_at;
        self.announced += more.announced;
        self.adopted += more.adopted;
        self.conflicts += more.conflicts;
        self.parked += more.parked;
    }
}

impl Standing {
    /// The round that is due now.
    fn round(&self) -> Round {
        let goes_back = self.note.went_back <= ago(overlap_every());
        // What was opened before the last round that went back, and was closed after it, is above this one.
        let long_ago = self.note.went_back.0.saturating_sub(micros(OVERLAP));
        let mark = self
            .note
            .marks
            .iter()
            .rev()
            .find(|mark| mark.at.0 <= long_ago);
        Round {
            began: wall_clock(),
            at: match goes_back {
                true => mark.map_or(0, |mark| mark.fid.min(self.number)),
                false => self.number,
            },
            goes_back,
        }
    }

    /// A page is behind. `last`: its last fid; `None` if there was nothing more. True if something came to its end.
    fn pass(&mut self, next: Next, last: Option<u64>) -> bool {
        match (next, last) {
            (Next::Nothing, _) => false,
            (Next::Round(round), Some(last)) => {
                self.number = self.number.max(last);
                self.mark();
                self.round = Some(Round { at: last, ..round });
                false
            }
            (Next::Round(round), None) => {
                self.mark();
                self.round = None;
                self.round_ended = Some(Instant::now());
                if round.goes_back {
                    self.note.went_back = round.began;
                }
                let first = self.note.swept.is_none();
                if first {
                    self.note.swept = Some(wall_clock());
                }
                true
            }
            (Next::Sweep(sweep), Some(last)) if last < self.number => {
                self.note.sweep = Some(Sweep { at: last, ..sweep });
                false
            }
            (Next::Sweep(_), Some(_) | None) => {
                self.note.sweep = None;
                self.note.swept = Some(wall_clock());
                true
            }
        }
    }

    fn mark(&mut self) {
        let now = wall_clock();
        let last = self.note.marks.back().map_or(Version(0), |mark| mark.at);
        if now.0 < last.0.saturating_add(micros(MARK_EVERY)) {
            return;
        }
        if self.note.marks.len() >= MARKS {
            self.note.marks.pop_front();
        }
        self.note.marks.push_back(Mark {
            at: now,
            fid: self.number,
        });
    }
}

/// [`OVERLAP_EVERY`], or what a test makes of it.
fn overlap_every() -> Duration {
    fail::fail_point!("backfill::goes_back_always", |_| Duration::ZERO);
    OVERLAP_EVERY
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(number: u64, went_back: Version, marks: &[(Duration, u64)]) -> Standing {
        Standing {
            note: Note {
                marks: marks
                    .iter()
                    .map(|(age, fid)| Mark {
                        at: ago(*age),
                        fid: *fid,
                    })
                    .collect(),
                went_back,
                swept: Some(Version(1)),
                ..Note::default()
            },
            number,
            round: None,
            round_ended: None,
            saved_at: Instant::now(),
            since: Instant::now(),
            files: 0,
            newest: 0,
        }
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn rule_15_a_round_goes_back_to_the_fids_of_two_hours_before_the_last_that_did() {
        let marks = [
            (HOUR * 5, 100),
            (HOUR * 4, 200),
            (HOUR * 3, 300),
            (HOUR, 400),
        ];
        // The last one went back 90 minutes ago: what was open then began at most two hours before.
        let due = standing(500, ago(HOUR * 3 / 2), &marks).round();
        assert!(due.goes_back);
        assert_eq!(due.at, 200, "the newest mark that is older than 3.5 hours");
        let not_due = standing(500, ago(HOUR / 2), &marks).round();
        assert_eq!((not_due.goes_back, not_due.at), (false, 500));
        let first = standing(500, Version(0), &[]).round();
        assert_eq!((first.goes_back, first.at), (true, 0));
    }

    #[tokio::test]
    async fn marks_are_bounded_and_reach_back_far_enough() {
        let mut standing = standing(1, Version(0), &[]);
        for _ in 0..100 {
            standing.mark();
            for mark in &mut standing.note.marks {
                mark.at = Version(mark.at.0 - micros(MARK_EVERY));
            }
        }
        assert_eq!(standing.note.marks.len(), MARKS);
        let oldest = standing.note.marks.front().expect("some").at;
        assert!(oldest < ago(OVERLAP + OVERLAP_EVERY), "{oldest}");
    }
}
