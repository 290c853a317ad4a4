//! Seeing to one file until a cursor may pass it, and a crew of such tasks.
//!
//! Always true: [`Reconciler::see_to`] ends when the file is as it should be or parked by name, and not before; while
//! the ledger is away it waits. No two tasks are at one file. A file that takes long is parked as being
//! in progress when it holds up others; the work on it goes on.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::file::FileName;
use crate::ledger::{Expected, FileRecord, LedgerError, Strength};
use crate::machine;
use crate::version::Version;

use super::found::Took;
use super::lag::Lagging;
use super::park::{Expects, Parked, Parking};
use super::reconcile::{Asked, Did, NotDone, Reconciler};
use super::status::Figures;
use super::trouble::{Pauses, rest};

/// What is not the moment is tried again after these pauses, then parked: most local changes under way are over
/// by then.
const GRACE: [Duration; 7] = [
    Duration::from_millis(20),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(800),
    Duration::from_millis(1600),
];

/// After this time a file that holds up others is parked as being in progress.
const SLOW: Duration = Duration::from_secs(30);

/// How often who waits looks for those.
const LOOK_AT_SLOW_EVERY: Duration = Duration::from_secs(1);

/// How far the work on a file is, as to its gap.
#[derive(Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Working,
    /// A row in `gaps` says that it is being worked on, or may.
    InProgress,
    Finished,
}

impl Reconciler {
    /// Returns when the file is as it should be or parked; false if repair is stopping before that.
    /// `since`: the version of the change that it was found by, or since when it waits.
    async fn see_to(
        &self,
        file: &FileName,
        expects: Expected,
        since: Option<Version>,
        figures: &Figures,
        phase: &Mutex<Phase>,
    ) -> bool {
        let tried = async {
            // Longer than anybody is at a file: those before us end.
            let _alone = self
                .at_work
                .lock(&[file], super::copy::whole_copy() * 2)
                .await;
            let mut pauses = Pauses::default();
            let mut lagging = Lagging::new(since);
            loop {
                let tried = self.try_once(file, expects, &mut lagging, figures, phase);
                match tried.await {
                    Ok(()) => {
                        self.trouble.end();
                        return true;
                    }
                    Err(error) => {
                        self.trouble.begin(&error);
                        if !pauses.wait(&self.stop).await {
                            return false;
                        }
                    }
                }
            }
        };
        tokio::select! {
            biased;
            passed = tried => passed,
            // What is under way gets a moment to come to its end; a copy that takes longer is begun anew after the start.
            () = async { self.stop.cancelled().await; tokio::time::sleep(super::LAST_MOMENT).await } => false,
        }
    }

    /// # Errors
    /// The ledger's, when it is away: the file is neither done nor parked.
    async fn try_once(
        &self,
        file: &FileName,
        expects: Expected,
        lagging: &mut Lagging,
        figures: &Figures,
        phase: &Mutex<Phase>,
    ) -> Result<(), LedgerError> {
        let (gap, parked_before) = match self.ledger.gap(&self.datacenter, file).await {
            Ok(gap) => (gap.clone(), gap.is_some()),
            Err(error @ LedgerError::Unavailable { .. }) => return Err(error),
            // One that cannot be read is a gap all the same.
            Err(LedgerError::Corrupt { .. }) => (None, true),
        };
        let before = gap.as_ref().map(|gap| gap.expected).unwrap_or_default();
        lagging.has_gap(
            gap.as_ref().map(|gap| gap.since),
            gap.as_ref().map(|gap| gap.observed),
        );
        let mut asked = Asked::of(expects.and(before));
        let worked = tokio::select! {
            biased;
            worked = self.attempt(file, &mut asked, parked_before) => worked?,
            never = self.watch_goal(file, lagging) => match never {},
        };
        let mut phase = phase.lock().await;
        match worked {
            Ok(did) => {
                if did != Did::Nothing {
                    tracing::debug!(%file, ?did, "reconciled");
                }
                let waited = parked_before || *phase == Phase::InProgress;
                if waited {
                    self.unpark(file).await?;
                }
                *phase = Phase::Finished;
                let record = asked.record.as_ref();
                self.has_come(file, lagging, &did, record, waited).await;
                if matches!(did, Did::Copied | Did::Moved { .. }) {
                    figures.has_brought();
                }
                figures.done();
            }
            Err((why, parked)) => {
                let class = asked.record.as_ref().and_then(FileRecord::class);
                self.is_still_missing(file, lagging, class).await;
                let parking = Parking {
                    why: &why,
                    parked,
                    expects: Expects::Just(asked.expects),
                    since: lagging.since,
                    class,
                };
                self.park(file, parking).await?;
                *phase = Phase::Finished;
                match parked {
                    Parked::Failed => figures.failed(format!("{file}: {why}")),
                    Parked::Later | Parked::InProgress => figures.done(),
                }
            }
        }
        Ok(())
    }

    /// Reconciles a file, and again while it is only not the moment. What was done, or why it is to be parked.
    ///
    /// # Errors
    /// The ledger's, when it is away.
    async fn attempt(
        &self,
        file: &FileName,
        asked: &mut Asked,
        parked_before: bool,
    ) -> Result<Result<Did, (String, Parked)>, LedgerError> {
        let mut grace = GRACE.iter();
        loop {
            let worked = AssertUnwindSafe(self.reconcile(file, asked))
                .catch_unwind()
                .await;
            let worked = worked.unwrap_or_else(|_panic| {
                Err(NotDone::Failed(
                    "repair itself failed here: see the log".into(),
                ))
            });
            // A gap may tell of what came past the proxy, of which the ledger has nothing to do.
            let worked = match worked {
                Ok(Did::Nothing) if parked_before && self.takes_in() => {
                    self.after_nothing(file).await
                }
                worked => worked,
            };
            return Ok(Err(match worked {
                Ok(did) => return Ok(Ok(did)),
                Err(NotDone::LedgerAway(error)) => return Err(error),
                Err(NotDone::Failed(why)) => (why, Parked::Failed),
                Err(NotDone::Crowded(why)) => (why, Parked::Later),
                Err(NotDone::Later(why)) => match grace.next() {
                    Some(pause) if rest(*pause, &self.stop).await => continue,
                    Some(_) | None => (why, Parked::Later),
                },
            }));
        }
    }
}

impl Reconciler {
    /// Takes in what the tracker holds of a file for which there is nothing to do by the ledger.
    async fn after_nothing(&self, file: &FileName) -> Result<Did, NotDone> {
        let view = self.look(file, Strength::Local).await?;
        match self.take_in(&view).await? {
            Took::Known => Ok(Did::Nothing),
            Took::Conflict(why) => Err(NotDone::Failed(why)),
            _ => Err(NotDone::Later(
                "it was changed past the proxy, which is told just now".into(),
            )),
        }
    }
}

/// Files that are being seen to at the same time, by a number of the caller's.
pub(super) struct Crew {
    reconciler: Arc<Reconciler>,
    figures: Arc<Figures>,
    tasks: JoinSet<(u64, bool)>,
    members: BTreeMap<u64, Member>,
    /// The number of the last one begun by [`Crew::start_next`].
    last: u64,
}

struct Member {
    file: FileName,
    expects: Expected,
    since: Option<Version>,
    /// When the work on it began; it may have to wait for that.
    began: Arc<OnceLock<Instant>>,
    phase: Arc<Mutex<Phase>>,
    /// Parked as being in progress: a cursor may pass it.
    passed: bool,
}

impl Crew {
    pub(super) fn new(reconciler: Arc<Reconciler>, figures: Arc<Figures>) -> Crew {
        Crew {
            reconciler,
            figures,
            tasks: JoinSet::new(),
            members: BTreeMap::new(),
            last: 0,
        }
    }

    /// Begins with a file, for a caller who keeps no numbers.
    pub(super) fn start_next(&mut self, file: FileName, expects: Expected) {
        self.last += 1;
        self.start(self.last, file, expects, None);
    }

    /// `since`: the version of the change that it was found by, or since when it waits.
    pub(super) fn start(
        &mut self,
        number: u64,
        file: FileName,
        expects: Expected,
        since: Option<Version>,
    ) {
        let phase = Arc::new(Mutex::new(Phase::default()));
        let began = Arc::new(OnceLock::new());
        let member = Member {
            file: file.clone(),
            expects,
            since,
            began: Arc::clone(&began),
            phase: Arc::clone(&phase),
            passed: false,
        };
        self.members.insert(number, member);
        let (reconciler, figures) = (Arc::clone(&self.reconciler), Arc::clone(&self.figures));
        machine::spawn_in(&mut self.tasks, async move {
            tokio::select! {
                biased;
                () = figures.may_go_on() => {}
                () = reconciler.stop.cancelled() => return (number, false),
            }
            began.get_or_init(Instant::now);
            let passed = reconciler.see_to(&file, expects, since, &figures, &phase);
            (number, passed.await)
        });
    }

    /// How many are at work.
    pub(super) fn len(&self) -> usize {
        self.tasks.len()
    }

    /// The least number that a cursor may not pass.
    pub(super) fn first_open(&self) -> Option<u64> {
        self.members
            .iter()
            .find(|(_, member)| !member.passed)
            .map(|(number, _)| *number)
    }

    /// The least `since` of those that no cursor may pass.
    pub(super) fn oldest(&self) -> Option<Version> {
        let open = self.members.values().filter(|member| !member.passed);
        open.filter_map(|member| member.since).min()
    }

    pub(super) fn is_at(&self, file: &FileName) -> bool {
        self.members.values().any(|member| member.file == *file)
    }

    /// Takes out all that have ended.
    pub(super) fn gather(&mut self) {
        while let Some(ended) = self.tasks.try_join_next() {
            self.ended(ended);
        }
    }

    /// Waits until one has ended; for ever if there is none.
    pub(super) async fn wait_for_one(&mut self) {
        match self.tasks.join_next().await {
            Some(ended) => self.ended(ended),
            None => std::future::pending().await,
        }
    }

    fn ended(&mut self, ended: Result<(u64, bool), tokio::task::JoinError>) {
        match ended {
            Ok((number, true)) => {
                self.members.remove(&number);
            }
            // Stopping: it stays open, so no cursor passes it.
            Ok((_, false)) => {}
            Err(error) => tracing::error!("a task of repair ended without an answer: {error}"),
        }
    }

    /// Waits for one to end, or to take so long that it is parked. False if repair is stopping.
    ///
    /// # Errors
    /// The ledger's.
    pub(super) async fn wait(&mut self) -> Result<bool, LedgerError> {
        let reconciler = Arc::clone(&self.reconciler);
        tokio::select! {
            biased;
            () = self.wait_for_one() => {}
            stopping = async { !rest(LOOK_AT_SLOW_EVERY, &reconciler.stop).await } => {
                if stopping {
                    return Ok(false);
                }
                self.park_slow().await?;
            }
        }
        self.gather();
        Ok(true)
    }

    /// Waits until fewer than `most` are at work. False if repair is stopping.
    ///
    /// # Errors
    /// The ledger's.
    pub(super) async fn wait_for_room(&mut self, most: usize) -> Result<bool, LedgerError> {
        while self.len() >= most {
            if !self.wait().await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Waits until a cursor may pass all. False if repair is stopping.
    ///
    /// # Errors
    /// The ledger's.
    pub(super) async fn wait_for_all(&mut self) -> Result<bool, LedgerError> {
        while self.first_open().is_some() {
            if !self.wait().await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Parks those that have been at work for long, so that a cursor may pass them.
    ///
    /// # Errors
    /// The ledger's.
    pub(super) async fn park_slow(&mut self) -> Result<(), LedgerError> {
        for member in self.members.values_mut() {
            let began = member.began.get();
            if member.passed || began.is_none_or(|began| began.elapsed() < SLOW) {
                continue;
            }
            let mut phase = member.phase.lock().await;
            if *phase != Phase::Finished {
                // Said before it is: a row may be written though the ledger did not answer, and then has to be taken away.
                *phase = Phase::InProgress;
                let why = "it is being worked on and takes long";
                let parking = Parking {
                    since: member.since,
                    ..Parking::in_progress(why, Expects::AtLeast(member.expects))
                };
                self.reconciler.park(&member.file, parking).await?;
            }
            member.passed = true;
        }
        Ok(())
    }

    /// Waits for all, after a stop.
    pub(super) async fn finish(&mut self) {
        while let Some(ended) = self.tasks.join_next().await {
            self.ended(ended);
        }
    }
}
