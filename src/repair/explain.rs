//! Why a file is here, or is not: one reason, and the facts that it was found by.
//!
//! Always true: what is to be done is judged by `Reconciler::judge`, over what `Reconciler::look` lets repair touch, and what nobody
//! explains by `Reconciler::explained`: repair asks the same, so the two never disagree. Nothing is changed; that the clock
//! goes above what was seen is what looking does.
//! Never here: doing it, and trying to: what a gap says of the last attempt is what is told.

mod says;

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::file::{Class, Datacenter, Fid, FileName, Op};
use crate::journal::Standing;
use crate::journal::settle::Look;
use crate::ledger::{Change, FileRecord, Gap, LedgerError, Placement, StreamId, Strength};
use crate::placement::Placements;
use crate::version::Version;

use super::Shared;
use super::reconcile::{Due, Judged, NotDone, Step, View};
use super::status::{Progress, ScanProgress, State};
use super::supply::NO_SOURCE;

/// How long each question to ledger and tracker may take: all of them together take less than who asks waits.
const LIMIT: Duration = Duration::from_secs(4);

/// Ledger and tracker are not read in one moment. What they contradict each other in is looked at again, so often and
/// after such a pause: a copy that was just closed is not taken for one that came past the proxy.
const AGAIN: u32 = 3;
const PAUSE: Duration = Duration::from_millis(100);

/// Changes of a stream that are looked through for the file, in pages: some megabytes, and a moment.
const PAGE: usize = 1_000;
const PAGES: usize = 10;

/// Why a file is here, or is not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reason {
    /// It is here and as it should be.
    Here,
    /// It is said to exist by outsiders only, and repair leaves it to them.
    OnlyClaimed,
    /// It was deleted, and is not here.
    Deleted,
    /// By the rules of placement it is not due here.
    NotDue,
    /// The ledger has never heard of it, and the tracker here has nothing either.
    Unknown,
    /// The ledger has heard of replicas, and not yet of the file itself.
    NoHead,
    /// The tracker here holds what nobody has reported. Repair does not touch it.
    PastTheProxy(String),
    /// The ledger has it here, and the tracker does not.
    Vanished,
    /// What the ledger has of it cannot be read.
    Unreadable(String),
    /// The ledger does not answer.
    LedgerAway(String),
    /// A change made here is not settled, or not told yet.
    LocalChange(String),
    /// A worker of repair is at it now.
    AtWork,
    /// It did not work at once; see [`Explanation::gap`].
    Parked,
    /// As [`Reason::Parked`], since no datacenter that has its bytes gives them.
    NoSource,
    /// A change that lies ahead says so.
    Pending(Ahead),
    /// No change that lies ahead says so: a scan of all files finds it.
    AwaitsScan,
}

impl Reason {
    /// Its word, for scripts.
    pub fn word(&self) -> &'static str {
        match self {
            Reason::Here => "here",
            Reason::OnlyClaimed => "only_claimed",
            Reason::Deleted => "deleted",
            Reason::NotDue => "not_due",
            Reason::Unknown => "unknown",
            Reason::NoHead => "no_head",
            Reason::PastTheProxy(_) => "past_the_proxy",
            Reason::Vanished => "vanished",
            Reason::Unreadable(_) => "unreadable",
            Reason::LedgerAway(_) => "ledger_away",
            Reason::LocalChange(_) => "local_change",
            Reason::AtWork => "at_work",
            Reason::Parked => "parked",
            Reason::NoSource => "no_source",
            Reason::Pending(_) => "pending",
            Reason::AwaitsScan => "awaits_scan",
        }
    }

    /// Whether ledger and tracker contradict each other in it.
    fn may_be_over(&self) -> bool {
        matches!(self, Reason::PastTheProxy(_) | Reason::Vanished)
    }
}

/// A change that lies ahead of our cursor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ahead {
    /// Whose changes.
    pub stream: StreamId,
    /// Its number; `None` if it lies further ahead than was looked.
    pub number: Option<u64>,
    /// Changes of the stream that are to be seen to before it, or more than so many.
    pub before: u64,
}

/// What is to be done here, and is not done yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Wanting {
    /// Its bytes are to come.
    Missing,
    /// Its bytes are to come, in place of others.
    OtherBytes,
    /// Its bytes are to come again: those that are here are damaged.
    Damaged,
    /// Its class is to change.
    OtherClass {
        /// To this one.
        to: Class,
    },
    /// It is to go.
    StillHere,
    /// It is not due here, and what is here is to go.
    NotWanted,
}

/// Why a file is here, or is not, with the facts.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// Which file.
    pub file: FileName,
    /// Where.
    pub datacenter: Datacenter,
    /// Why.
    pub reason: Reason,
    /// What is to be done, if the reason is why it is not done.
    pub wanting: Option<Wanting>,
    /// What the ledger knows, and over it what this datacenter is about to tell; `None` if it could not be read.
    pub record: Option<FileRecord>,
    /// Where it is due: nowhere, if it is deleted or unknown.
    pub due: BTreeSet<Datacenter>,
    /// The row that says so; `None` where none does, and all datacenters count.
    pub placement: Option<Placement>,
    /// What the journal knows that the ledger may not know.
    pub standing: Standing,
    /// What the tracker here holds under the key, or why that is not known.
    pub tracker: Result<Option<Fid>, String>,
    /// That it is parked here, if it is.
    pub gap: Option<Gap>,
    /// The scan of all files, if this process has looked at one.
    pub scan: Option<ScanProgress>,
    /// When the next scan begins if nothing else asks for one; `None` if it is due.
    pub next_scan: Option<Version>,
    /// Why repair does not work here at the moment, if it does not.
    pub hindered: Option<String>,
}

impl Shared {
    pub(super) async fn explain(&self, file: &FileName) -> Explanation {
        let mut explanation = self.look_into(file).await;
        for _ in 0..AGAIN {
            if !explanation.reason.may_be_over() {
                break;
            }
            tokio::time::sleep(PAUSE).await;
            explanation = self.look_into(file).await;
        }
        explanation
    }

    async fn look_into(&self, file: &FileName) -> Explanation {
        let reconciler = &*self.reconciler;
        let mut explanation = Explanation {
            file: file.clone(),
            datacenter: reconciler.datacenter.clone(),
            reason: Reason::Unknown,
            wanting: None,
            record: None,
            due: BTreeSet::new(),
            placement: None,
            standing: reconciler.journal.standing(file),
            tracker: Ok(None),
            gap: None,
            scan: self.scan_progress(),
            next_scan: self.next_scan(),
            hindered: self.hindered(),
        };
        explanation.reason = match self.reason(file, &mut explanation).await {
            Ok(reason) => reason,
            Err(NotDone::Later(why) | NotDone::Crowded(why)) => Reason::LocalChange(why),
            Err(NotDone::Failed(why)) => Reason::Unreadable(why),
            Err(NotDone::LedgerAway(error)) => Reason::LedgerAway(error.to_string()),
        };
        explanation
    }

    /// The reason; its facts go into `facts` as they are found.
    ///
    /// # Errors
    /// As repair, when it cannot even look at the file.
    async fn reason(&self, file: &FileName, facts: &mut Explanation) -> Result<Reason, NotDone> {
        let reconciler = &*self.reconciler;
        let looked = limited(reconciler.look(file, Strength::Local)).await;
        facts.tracker = self.at_the_tracker(file).await;
        let view = match looked {
            Ok(view) => view,
            Err(why) => {
                // It is not for repair to touch; what the ledger says of it is a fact all the same.
                if let NotDone::Later(_) = why {
                    let reading = reconciler.ledger.read(file, Strength::Local);
                    facts.record = limited(async { Ok(reading.await?) }).await.ok();
                }
                return Err(why);
            }
        };
        facts.standing = view.standing;
        facts.record = Some(view.record.clone());
        let judged = limited(reconciler.judge(&view)).await?;
        let placements = judged.registry.placements();
        facts.due = placements.due_of(file, &view.record);
        facts.placement = deciding(placements, &view);
        facts.gap = limited(async {
            match reconciler.ledger.gap(&reconciler.datacenter, file).await {
                Ok(gap) => Ok(gap),
                // Whoever sees to the file clears it or writes it anew.
                Err(LedgerError::Corrupt { .. }) => Ok(None),
                Err(error) => Err(error.into()),
            }
        })
        .await?;
        if reconciler.journal.standing(file) != view.standing {
            return Ok(Reason::LocalChange(
                "it was changed here just now".to_owned(),
            ));
        }
        let Some(head) = &view.record.head else {
            return Ok(match facts.tracker {
                _ if view.record != FileRecord::default() => Reason::NoHead,
                Ok(Some(fid)) => Reason::PastTheProxy(format!(
                    "it was never reported to the ledger, and the tracker holds it as fid {fid}"
                )),
                Ok(None) | Err(_) => Reason::Unknown,
            });
        };
        if judged.step != Step::Nothing && view.is_outrun(head) {
            return Ok(Reason::LocalChange(
                "a newer change here is on its way to the ledger".to_owned(),
            ));
        }
        let fid = facts.tracker.as_ref().ok().copied().flatten();
        match reconciler.explained(&view, fid.map(|fid| fid.0)) {
            Ok(()) => {}
            Err(NotDone::Failed(why)) => return Ok(Reason::PastTheProxy(why)),
            Err(later) => return Err(later),
        }
        if judged.step == Step::Nothing {
            return Ok(self.why_nothing(&view, &judged, &facts.tracker));
        }
        facts.wanting = wanting(&judged.step, &view, &reconciler.datacenter);
        self.why_not_yet(&view, facts).await
    }

    /// What the local tracker holds under a key, or why that is not known.
    async fn at_the_tracker(&self, file: &FileName) -> Result<Option<Fid>, String> {
        match tokio::time::timeout(LIMIT, self.reconciler.local.by_key(file)).await {
            Ok(Ok(row)) => Ok(row.map(|row| row.fid)),
            Ok(Err(why)) => Err(why.to_string()),
            Err(_) => Err(format!("no answer within {} s", LIMIT.as_secs())),
        }
    }

    /// Repair has nothing to do: why that is.
    fn why_nothing(
        &self,
        view: &View,
        judged: &Judged,
        tracker: &Result<Option<Fid>, String>,
    ) -> Reason {
        let held = view.held(&self.reconciler.datacenter);
        if let (Some(held), Ok(None)) = (held, tracker)
            && !held.claimed
        {
            return Reason::Vanished;
        }
        match view.record.head.as_ref().map(|head| &head.op) {
            None => Reason::NoHead,
            Some(Op::Delete { .. }) => Reason::Deleted,
            Some(Op::Put(_)) if judged.due != Due::Here => Reason::NotDue,
            Some(Op::Put(put)) if held.is_some_and(|held| held.content == put.content) => {
                Reason::Here
            }
            Some(Op::Put(_)) => Reason::OnlyClaimed,
        }
    }

    /// Repair has something to do: why it is not done yet.
    async fn why_not_yet(&self, view: &View, facts: &Explanation) -> Result<Reason, NotDone> {
        if self.reconciler.at_work.try_lock(&[&view.file]).is_none() {
            return Ok(Reason::AtWork);
        }
        if let Some(gap) = &facts.gap {
            return Ok(match gap.last_error.starts_with(NO_SOURCE) {
                true => Reason::NoSource,
                false => Reason::Parked,
            });
        }
        let ahead = limited(async { Ok(self.ahead(view).await?) }).await?;
        Ok(ahead.map_or(Reason::AwaitsScan, Reason::Pending))
    }

    /// The first change of the file that the tail has not come to yet, of all other datacenters' streams.
    async fn ahead(&self, view: &View) -> Result<Option<Ahead>, LedgerError> {
        let Some(head) = &view.record.head else {
            return Ok(None);
        };
        let reconciler = &*self.reconciler;
        let ledger = &reconciler.ledger;
        let mut further = None;
        for node in ledger.nodes().await? {
            let stream = node.stream;
            if stream.datacenter == reconciler.datacenter {
                continue;
            }
            let cursor = self.cursor_of(&stream).await?;
            // A stream's versions grow, but for a moment's: what is newer than all that was looked at lies further ahead.
            let is_by_it = stream.datacenter == head.origin && stream.node == head.node;
            let mut after = cursor;
            for page in 1..=PAGES {
                let changes = ledger
                    .changes(&stream, after, PAGE, Strength::Local)
                    .await?;
                let ours = |change: &&Change| change.file.as_ref() == Some(&view.file);
                if let Some(change) = changes.iter().find(ours) {
                    return Ok(Some(Ahead {
                        before: change.number - cursor - 1,
                        number: Some(change.number),
                        stream,
                    }));
                }
                let Some(last) = changes.last() else { break };
                after = last.number;
                if page == PAGES && is_by_it && view.newest() > Some(last.version) {
                    further = Some(Ahead {
                        before: after - cursor,
                        number: None,
                        stream: stream.clone(),
                    });
                }
            }
        }
        Ok(further)
    }

    /// How far the tail has come in a stream: as it says itself, else as it was saved.
    async fn cursor_of(&self, stream: &StreamId) -> Result<u64, LedgerError> {
        let name = stream.to_string();
        if let Progress::Tail(streams) = &*self.tail.progress.lock()
            && let Some(progress) = streams.get(&name)
        {
            return Ok(progress.cursor);
        }
        let reconciler = &self.reconciler;
        let cursor = reconciler
            .ledger
            .cursor(&reconciler.datacenter, &name)
            .await?;
        Ok(cursor.map_or(0, |cursor| cursor.number))
    }

    fn scan_progress(&self) -> Option<ScanProgress> {
        match &*self.scan.progress.lock() {
            Progress::Scan(scan) => Some(scan.clone()),
            Progress::None | Progress::Tail(_) | Progress::Verify(_) | Progress::Backfill(_) => {
                None
            }
        }
    }

    fn next_scan(&self) -> Option<Version> {
        let ended = self.scan_progress()?.ended?;
        let asked = self.scan_wanted.lock().is_some();
        let current = self.scan_is_current.load(Ordering::Relaxed);
        let every = super::park::micros(self.reconciler.config.scan_every);
        (current && !asked).then(|| Version(ended.0.saturating_add(every)))
    }

    pub(super) fn hindered(&self) -> Option<String> {
        if !self.reconciler.config.enabled {
            return Some("repair is switched off here (repair.enabled)".to_owned());
        }
        if let Some(doubt) = self.trust.doubt() {
            return Some(format!(
                "repair has stopped here until a person has said what is true: {}",
                doubt.sentence()
            ));
        }
        if let Some(why) = self.part.lock().hindrance() {
            return Some(why);
        }
        // Those that bring files here; who verifies does not.
        let paused = [&self.tail, &self.retry, &self.scan]
            .into_iter()
            .filter(|figures| figures.read().state == State::Paused);
        let paused: Vec<&str> = paused.map(|figures| figures.name()).collect();
        (!paused.is_empty()).then(|| format!("repair is paused here ({})", paused.join(", ")))
    }
}

/// The row that says where the file is due. Of a file that is due nowhere, none.
fn deciding(placements: &Placements, view: &View) -> Option<Placement> {
    view.record.content()?;
    let row = placements.deciding(&view.file.domain, view.record.class());
    row.cloned()
}

fn wanting(step: &Step, view: &View, here: &Datacenter) -> Option<Wanting> {
    match step {
        Step::Nothing | Step::Keep => None,
        Step::Bring(put) => Some(match view.held(here) {
            None => Wanting::Missing,
            Some(held) if held.content == put.content => Wanting::Damaged,
            Some(_) => Wanting::OtherBytes,
        }),
        Step::SetClass(class) => Some(Wanting::OtherClass { to: class.clone() }),
        Step::Remove { .. } => Some(Wanting::StillHere),
        Step::RemoveExtra => Some(Wanting::NotWanted),
    }
}

/// A ledger that takes too long is away.
async fn limited<T>(asking: impl Future<Output = Result<T, NotDone>>) -> Result<T, NotDone> {
    tokio::time::timeout(LIMIT, asking)
        .await
        .unwrap_or_else(|_late| {
            Err(NotDone::LedgerAway(LedgerError::Unavailable {
                doing: "look into a file",
                why: format!("no answer within {} s", LIMIT.as_secs()),
            }))
        })
}
