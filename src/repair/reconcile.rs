//! The one step of repair: read the ledger, look at what is here, do the one thing that brings it closer.
//!
//! Always true: doing it twice is harmless, and whoever found the file does not matter. It changes nothing that a newer or
//! open local change touches; a fid that nothing explains is neither overwritten nor deleted; bytes here
//! that a rename sent elsewhere are not deleted before they are where they were sent.
//! Never here: finding files, trying again, or writing what this datacenter holds: that is announced by
//! the journal once the tracker has done it.
//! Killed in the middle: the journal's intents say what was under way; the rest is done again.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::RepairConfig;
use crate::events::Events;
use crate::file::{Class, Content, Datacenter, FileName, Held, Key, Op, Put, Revision};
use crate::found::is_contested;
use crate::journal::settle::Look;
use crate::journal::{Journal, JournalError, Standing};
use crate::ledger::{Expected, FileRecord, FileWrite, Ledger, LedgerError, Strength};
use crate::locks::{KeyLocks, Watch};
use crate::machine::{Rule, keeps};
use crate::trackers::{TrackerError, Trackers};
use crate::version::{Version, ago, wall_clock};

use super::budget::Budget;
use super::fetch::Fetcher;
use super::found::Took;
use super::lag::Lags;
use super::park::micros;
use super::registry::{Reading, Registry};
use super::sources::Sources;
use super::spool::Spool;
use super::status::CopyFigures;
use super::trouble::Trouble;

/// How far the target of a rename is followed when it was renamed on.
const HOPS: usize = 8;

/// How long the second half of a rename is waited for: the first is delivered just before it. Then bytes are copied.
const OTHER_HALF: std::time::Duration = std::time::Duration::from_secs(3);

/// Everything that reconciling needs.
pub(super) struct Reconciler {
    pub(super) datacenter: Datacenter,
    pub(super) config: RepairConfig,
    pub(super) ledger: Arc<dyn Ledger>,
    pub(super) journal: Journal,
    /// The locks that are shared with the proxy.
    pub(super) locks: KeyLocks,
    pub(super) local: Arc<Trackers>,
    pub(super) registry: Registry,
    pub(super) events: Events,
    pub(super) fetcher: Fetcher,
    pub(super) sources: Sources,
    pub(super) spool: Option<Spool>,
    /// Shared by all workers.
    pub(super) budget: Budget,
    /// How many files are looked up at once.
    pub(super) looks: Semaphore,
    pub(super) figures: CopyFigures,
    /// Files that a worker is at: no two work on one file.
    pub(super) at_work: KeyLocks,
    /// Locks of keys about which the tracker may still hold a request of ours.
    pub(super) held: Mutex<JoinSet<()>>,
    /// `journal.quiet_time`
    pub(super) quiet_time: Duration,
    pub(super) trouble: Trouble,
    pub(super) lags: Lags,
    pub(super) stop: CancellationToken,
}

/// What is asked of a file, and what was seen of it.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// What the ledger is known to have somewhere; an older answer is asked for again, more strongly. It becomes empty
    /// once the ledger shows it at its ordinary strength, and from then on to everybody here.
    pub(super) expects: Expected,
    /// What ledger and journal knew of it when they were last read.
    pub(super) record: Option<FileRecord>,
}

impl Asked {
    pub(super) fn of(expects: Expected) -> Asked {
        Asked {
            expects,
            record: None,
        }
    }
}

/// What was done. After all of them nothing more is to be done for the file, as far as was known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Did {
    /// It was as it should be.
    Nothing,
    /// The bytes were brought here.
    Copied,
    /// The bytes were here, under this key.
    Moved {
        from: Key,
    },
    Removed,
    ClassApplied,
}

/// Why the file is not as it should be.
#[derive(Debug)]
pub(super) enum NotDone {
    /// It was not the moment: nothing is wrong.
    Later(String),
    /// The same, and a moment more will not help: others have to be done first.
    Crowded(String),
    /// Something is.
    Failed(String),
    /// The ledger is away: nothing is known of the file.
    LedgerAway(LedgerError),
}

impl From<LedgerError> for NotDone {
    fn from(error: LedgerError) -> Self {
        match error {
            LedgerError::Unavailable { .. } => NotDone::LedgerAway(error),
            LedgerError::Corrupt { .. } => NotDone::Failed(error.to_string()),
        }
    }
}

impl From<JournalError> for NotDone {
    fn from(error: JournalError) -> Self {
        NotDone::Failed(error.to_string())
    }
}

impl From<TrackerError> for NotDone {
    fn from(error: TrackerError) -> Self {
        NotDone::Failed(error.to_string())
    }
}

/// A file as ledger and journal together know it, and what the journal said when they were read.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub(super) file: FileName,
    /// The ledger's record, and over it what this datacenter is about to tell the ledger.
    pub(super) record: FileRecord,
    pub(super) standing: Standing,
    /// Since before anything was read: a client's change that began and was delivered meanwhile is seen by nobody else.
    pub(super) watch: Arc<Watch>,
}

impl View {
    /// What this datacenter holds, as far as is known.
    pub(super) fn held(&self, datacenter: &Datacenter) -> Option<&Held> {
        self.record.replicas.get(datacenter)?.held.as_ref()
    }

    /// Whether a change made here is newer than the head, and on its way to the ledger.
    pub(super) fn is_outrun(&self, head: &Revision) -> bool {
        self.standing.newest > Some(head.version)
    }

    /// The newest version that the record shows.
    pub(super) fn newest(&self) -> Option<Version> {
        let head = self.record.head.as_ref().map(|head| head.version);
        head.max(self.record.class_cell.as_ref().map(|cell| cell.version))
    }
}

/// The one thing to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Step {
    Nothing,
    /// These bytes should be here and are not.
    Bring(Put),
    /// They are here, in another class.
    SetClass(Class),
    /// Something is here that should not be.
    Remove {
        renamed_to: Option<Key>,
    },
    /// What is here is not due here, and was overwritten or is not wanted.
    RemoveExtra,
    /// It is said to be about to go, and is not to go.
    Keep,
}

/// Where a file is due, as seen from here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Due {
    Here,
    Elsewhere {
        /// What is here all the same is to be removed.
        alone: bool,
    },
}

/// What is to be done with a file here, and by which rules.
pub(super) struct Judged {
    pub(super) step: Step,
    /// Whether files of its class are due here.
    pub(super) due: Due,
    pub(super) registry: Arc<Reading>,
}

/// Decides; pure. `due`: whether files of the class are due here.
pub(super) fn decide(record: &FileRecord, here: &Datacenter, due: Due) -> Step {
    let Some(head) = &record.head else {
        return Step::Nothing;
    };
    let held = record
        .replicas
        .get(here)
        .and_then(|replica| replica.held.as_ref());
    match (&head.op, held) {
        (Op::Delete { .. }, None) => Step::Nothing,
        // Outsiders said so, and nobody has looked.
        (Op::Delete { .. }, Some(held)) if held.claimed => Step::Nothing,
        (Op::Delete { renamed_to }, Some(_)) => Step::Remove {
            renamed_to: renamed_to.clone(),
        },
        (Op::Put(put), held) if let Due::Elsewhere { alone } = due => match held {
            None => Step::Nothing,
            Some(held) if held.claimed || only_claimed(record, &put.content) => Step::Nothing,
            // Newer bytes than those that the head names are on their way to be the head's.
            Some(held) if held.content != put.content => {
                match held.content.version <= head.version {
                    true => Step::RemoveExtra,
                    false => Step::Nothing,
                }
            }
            Some(_) if alone => Step::RemoveExtra,
            Some(held) if held.leaving => Step::Keep,
            Some(_) => Step::Nothing,
        },
        (Op::Put(put), Some(held))
            if is_same(&held.content, &put.content) && !held.is_damaged() =>
        {
            match record.class() {
                _ if held.leaving => Step::Keep,
                Some(class) if *class != held.class && !held.claimed => {
                    Step::SetClass(class.clone())
                }
                Some(_) | None => Step::Nothing,
            }
        }
        (Op::Put(put), _) if only_claimed(record, &put.content) => Step::Nothing,
        (Op::Put(put), _) => Step::Bring(put.clone()),
    }
}

/// Never by version alone: two sites may well stamp the same microsecond.
fn is_same(one: &Content, other: &Content) -> bool {
    one == other || (!keeps(Rule::ContentIsWhole) && one.version == other.version)
}

/// Whether outsiders, and nobody else, say where these bytes are.
fn only_claimed(record: &FileRecord, content: &Content) -> bool {
    let mut holders = record
        .replicas
        .values()
        .filter_map(|replica| replica.held.as_ref())
        .filter(|held| held.content == *content);
    holders.clone().next().is_some() && holders.all(|held| held.claimed)
}

impl Reconciler {
    /// Brings one file closer to what it should be here.
    pub(super) async fn reconcile(
        &self,
        file: &FileName,
        asked: &mut Asked,
    ) -> Result<Did, NotDone> {
        let Asked { expects, record } = asked;
        // Before anything is looked at, and also where nothing is to be done: a client who changes the file after this
        // is newer, and one who was before is seen.
        if let Some(version) = expects.head.max(expects.class)
            && keeps(Rule::ClockFollows)
        {
            let _beyond = self.journal.clock().observe(version);
        }
        let mut view = self.look(file, Strength::Local).await?;
        if expects.unsure_in(&view.record).is_none() || !keeps(Rule::ChangeNamesVersion) {
            *expects = Expected::default();
        } else {
            for strength in [Strength::Global, Strength::Each] {
                let Some(version) = expects.unsure_in(&view.record) else {
                    break;
                };
                let not_yet = format!("the ledger does not show version {version} yet");
                // Not a reason to wait for the ledger as a whole: one datacenter of it that is away is enough to fail this.
                let looked = self.look(file, strength).await;
                view = looked.map_err(|error| match error {
                    NotDone::LedgerAway(error) => NotDone::Later(format!("{not_yet}: {error}")),
                    other => other,
                })?;
                if strength == Strength::Each
                    && expects.missing_in(&view.record).is_some()
                    && !self.is_forgotten(&view, version)
                {
                    return Err(NotDone::Later(not_yet));
                }
            }
            self.keep_here(&view).await?;
        }
        *record = Some(view.record.clone());
        self.step(view, None).await
    }

    /// What was found elsewhere is written here too, at the times that it has, before anything is done by it: else the next look would
    /// find what this datacenter's copies had before, and put that in the place of what was newer.
    async fn keep_here(&self, view: &View) -> Result<(), LedgerError> {
        let found = FileWrite {
            head: view.record.head.clone(),
            class: view.record.class_cell.clone(),
            replica: None,
        };
        self.ledger.write(&view.file, &found, Strength::Local).await
    }

    /// Whether a file of which no datacenter's quorum shows a head had one of that version, and was deleted and forgotten since. A
    /// head is in the ledger before anything names its version, and only the purge takes it away again.
    fn is_forgotten(&self, view: &View, version: Version) -> bool {
        view.record.head.is_none() && version < ago(self.config.tombstone_retention)
    }

    /// Reads a file. Also says whether it can be touched: a change under way is waited for.
    pub(super) async fn look(&self, file: &FileName, strength: Strength) -> Result<View, NotDone> {
        let _one_of = self.looks.acquire().await;
        let watch = Arc::new(self.locks.watch(file));
        // Journal, outbox, ledger, in this order: what leaves the one in between is found in the next.
        let standing = self.journal.standing(file);
        if standing.open {
            return Err(NotDone::Later(
                "a change here is under way, or its outcome is not known".into(),
            ));
        }
        let outgoing = self.journal.outgoing_of(file).await?;
        if standing
            .newest
            .is_some_and(|newest| outgoing.iter().all(|out| out.version < newest))
        {
            return Err(NotDone::Later("a change here is being settled".into()));
        }
        let mut record = self.ledger.read(file, strength).await?;
        for announcement in &outgoing {
            record.merge(&announcement.write);
        }
        let view = View {
            file: file.clone(),
            record,
            standing,
            watch,
        };
        // From here on a client who changes the key is newer than what arrived. What is too far ahead is remembered
        // for this key alone: it must not carry the shared clock along.
        if let Some(newest) = view.newest()
            && keeps(Rule::ClockFollows)
            && !self.journal.clock().observe(newest)
        {
            self.journal.raise_floor(file, newest).await?;
        }
        Ok(view)
    }

    pub(super) async fn registry(&self) -> Result<Arc<Reading>, NotDone> {
        Ok(self.registry.read().await?)
    }

    /// What is to be done with a file that was looked at. Whoever acts and whoever explains asks here.
    pub(super) async fn judge(&self, view: &View) -> Result<Judged, NotDone> {
        Ok(self.judge_by(view, self.registry().await?))
    }

    pub(super) fn judge_by(&self, view: &View, registry: Arc<Reading>) -> Judged {
        let due = registry.due(&self.datacenter, &view.file.domain, view.record.class());
        Judged {
            step: decide(&view.record, &self.datacenter, due),
            due,
            registry,
        }
    }

    /// `from`: a key whose bytes a rename sent to this file.
    fn step<'a>(
        &'a self,
        view: View,
        from: Option<&'a View>,
    ) -> BoxFuture<'a, Result<Did, NotDone>> {
        async move {
            let step = self.judge(&view).await?.step;
            let head = match (&step, &view.record.head) {
                (Step::Nothing, _) | (_, None) => return Ok(Did::Nothing),
                (_, Some(head)) => head,
            };
            if view.is_outrun(head) {
                return Err(NotDone::Later(
                    "a newer change here is on its way to the ledger".into(),
                ));
            }
            match self.look_for_the_unexplained(&view).await {
                Err(NotDone::Failed(why)) if self.takes_in() => {
                    return Err(self.taken_in(&view, why).await);
                }
                looked => looked?,
            }
            match step {
                Step::Nothing => Ok(Did::Nothing),
                Step::SetClass(class) => self.apply_class(&view, head, &class).await,
                Step::Remove { renamed_to } => {
                    if let Some(target) = &renamed_to
                        && let Some(did) = self.send_along(&view, target).await?
                    {
                        return Ok(did);
                    }
                    self.apply_delete(&view, head).await
                }
                Step::Bring(put) if is_contested(&view.record, &self.datacenter) => {
                    self.settle_contest(&view, &put).await
                }
                Step::Bring(put) => self.bring(&view, head, &put, from).await,
                Step::RemoveExtra => match head.put() {
                    Some(put) => self.remove_extra(&view, head, put).await,
                    None => Ok(Did::Nothing),
                },
                Step::Keep => {
                    self.keep(&view).await?;
                    // What else there is to do is done next, by what the ledger shows then.
                    let view = self.look(&view.file, Strength::Local).await?;
                    match self.judge(&view).await?.step {
                        Step::Keep => Err(NotDone::Later("it stays, which was just said".into())),
                        _ => self.step(view, from).await,
                    }
                }
            }
        }
        .boxed()
    }

    async fn bring(
        &self,
        view: &View,
        head: &Revision,
        put: &Put,
        from: Option<&View>,
    ) -> Result<Did, NotDone> {
        let mut known_from = None;
        let from = match (from, &put.renamed_from) {
            (Some(from), _) => Some(from),
            (None, Some(key)) => {
                let from = FileName {
                    domain: view.file.domain.clone(),
                    key: key.clone(),
                };
                Some(&*known_from.insert(self.look(&from, Strength::Local).await?))
            }
            (None, None) => None,
        };
        if let Some(from) = from
            && view.held(&self.datacenter).is_none()
            && let Some(bytes) = from.held(&self.datacenter)
            && bytes.content == put.content
            && !bytes.claimed
        {
            // Only from a key that should not have the bytes: else two sites' renames chase each other.
            if from.record.head.is_some() && from.record.content() != Some(&put.content) {
                return self.apply_rename(from, view, head).await;
            }
            // Where clocks differ by more, the age says nothing.
            let age = wall_clock().0.saturating_sub(head.version.0);
            if age.unsigned_abs() < micros(OTHER_HALF).unsigned_abs() {
                return Err(NotDone::Later(
                    "the other half of a rename is on its way".into(),
                ));
            }
        }
        self.copy(view, head, put, from).await
    }

    /// Before the bytes under a renamed key are deleted: sees to it that they are where they were sent. `None` if
    /// they are not wanted there.
    async fn send_along(&self, view: &View, target: &Key) -> Result<Option<Did>, NotDone> {
        let Some(held) = view.held(&self.datacenter) else {
            return Ok(None);
        };
        let mut next = target.clone();
        for _ in 0..HOPS {
            let file = FileName {
                domain: view.file.domain.clone(),
                key: next,
            };
            if file == view.file {
                return Ok(None);
            }
            let there = self.look(&file, Strength::Local).await?;
            match there.record.head.as_ref().map(|head| &head.op) {
                Some(Op::Delete {
                    renamed_to: Some(further),
                }) => next = further.clone(),
                Some(Op::Put(put)) if put.content == held.content => {
                    let did = self.step(there, Some(view)).await?;
                    let moved = matches!(&did, Did::Moved { from } if *from == view.file.key);
                    return Ok(moved.then_some(did));
                }
                Some(Op::Put(_) | Op::Delete { renamed_to: None }) => return Ok(None),
                // The half that was delivered first is not to be seen here yet.
                None => {
                    return Err(NotDone::Later(format!(
                        "nothing is known of {file} yet, where it was renamed to"
                    )));
                }
            }
        }
        Ok(None)
    }

    /// Looks whether the local tracker holds under this key what we believe, or nothing.
    pub(super) async fn look_for_the_unexplained(&self, view: &View) -> Result<(), NotDone> {
        let fid = self.fid_of(&view.file).await?;
        self.explained(view, fid)
    }

    /// Whether the fid that the tracker holds under this key, or none, is what we believe. `Failed` where nothing explains it.
    pub(super) fn explained(&self, view: &View, fid: Option<u64>) -> Result<(), NotDone> {
        let believed = view.held(&self.datacenter).map(|held| held.fid.0);
        match fid {
            None => Ok(()),
            Some(_) if fid == believed => Ok(()),
            Some(_) if self.journal.standing(&view.file) != view.standing => {
                Err(NotDone::Later("it was changed here just now".into()))
            }
            Some(fid) => Err(NotDone::Failed(match believed {
                Some(believed) => format!(
                    "the tracker holds fid {fid} under this key, where fid {believed} was expected: stored past the proxy? It is not touched"
                ),
                None => format!(
                    "the tracker holds fid {fid} under this key, of which the ledger does not know: stored past the proxy? It is not touched"
                ),
            })),
        }
    }

    /// Takes in what nothing explains, and says what is to be waited for.
    async fn taken_in(&self, view: &View, unexplained: String) -> NotDone {
        match self.take_in(view).await {
            Ok(Took::Known) => NotDone::Failed(unexplained),
            Ok(Took::Conflict(why)) => NotDone::Failed(why),
            Ok(_) => NotDone::Later("it was changed past the proxy, which is told just now".into()),
            Err(why) => why,
        }
    }

    /// What the local tracker's master database holds under a key.
    pub(super) async fn fid_of(&self, file: &FileName) -> Result<Option<u64>, NotDone> {
        match self.local.by_key(file).await {
            Ok(row) => Ok(row.map(|row| row.fid.0)),
            Err(error) => Err(NotDone::Failed(error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::{Checked, ClassCell, Fid, Found, Replica};

    fn here() -> Datacenter {
        "tx01".parse().expect("a name")
    }

    fn content(version: i64) -> Content {
        Content {
            version: Version(version),
            origin: "ma01".parse().expect("a name"),
            node: "node1".parse().expect("a name"),
        }
    }

    fn head(version: i64, op: Op) -> Revision {
        let Content { origin, node, .. } = content(version);
        Revision {
            version: Version(version),
            origin,
            node,
            op,
        }
    }

    fn put(version: i64) -> Put {
        Put {
            content: content(version),
            size: 1,
            checksum: None,
            fid: Fid(1),
            renamed_from: None,
        }
    }

    fn held(version: i64, class: &str, claimed: bool) -> Replica {
        let class = Class::from_bytes(class.as_bytes());
        Replica {
            since: Version(version),
            held: Some(Held {
                content: content(version),
                fid: Fid(9),
                class,
                claimed,
                checked: None,
                leaving: false,
            }),
        }
    }

    fn record(head: Revision, replicas: &[(&str, Replica)]) -> FileRecord {
        FileRecord {
            head: Some(head),
            class_cell: None,
            replicas: replicas
                .iter()
                .map(|(name, replica)| (name.parse().expect("a name"), replica.clone()))
                .collect(),
        }
    }

    #[test]
    fn the_one_thing_to_do() {
        let gone = |to: Option<&str>| Op::Delete {
            renamed_to: to.map(|to| Key::from_bytes(to.as_bytes())),
        };
        let elsewhere = ("ma01", held(5, "default", false));
        let (due, not_due) = (Due::Here, Due::Elsewhere { alone: false });
        let decide = |record: &FileRecord| decide(record, &here(), due);

        assert_eq!(decide(&FileRecord::default()), Step::Nothing);
        let missing = record(head(5, Op::Put(put(5))), std::slice::from_ref(&elsewhere));
        assert_eq!(decide(&missing), Step::Bring(put(5)));
        assert_eq!(super::decide(&missing, &here(), not_due), Step::Nothing);
        let old = record(
            head(5, Op::Put(put(5))),
            &[elsewhere.clone(), ("tx01", held(4, "default", false))],
        );
        assert_eq!(decide(&old), Step::Bring(put(5)));
        let mut whole = record(
            head(5, Op::Put(put(5))),
            &[("tx01", held(5, "default", false))],
        );
        assert_eq!(decide(&whole), Step::Nothing);
        let thumb = Class::from_bytes(b"thumb");
        whole.class_cell = Some(ClassCell {
            version: Version(7),
            content: content(5),
            class: thumb.clone(),
        });
        assert_eq!(decide(&whole), Step::SetClass(thumb.clone()));
        // A class that was set on other bytes does not count.
        whole.class_cell = Some(ClassCell {
            version: Version(7),
            content: content(4),
            class: thumb,
        });
        assert_eq!(decide(&whole), Step::Nothing);

        let deleted = record(head(6, gone(None)), &[("tx01", held(5, "default", false))]);
        assert_eq!(decide(&deleted), Step::Remove { renamed_to: None });
        assert_eq!(
            super::decide(&deleted, &here(), not_due),
            Step::Remove { renamed_to: None }
        );
        let renamed = record(
            head(6, gone(Some("b"))),
            &[("tx01", held(5, "default", false))],
        );
        assert_eq!(
            decide(&renamed),
            Step::Remove {
                renamed_to: Some(Key::from_bytes(b"b"))
            }
        );
        assert_eq!(
            decide(&record(head(6, gone(None)), &[elsewhere])),
            Step::Nothing
        );

        // What is damaged is brought again, if it is due, and deleted as anything else.
        let mut damaged = held(5, "default", false);
        damaged.held.as_mut().expect("held").checked = Some(Checked {
            at: Version(9),
            found: Found::Damaged,
            checksum: None,
        });
        let record_of = |op| record(head(6, op), &[("tx01", damaged.clone())]);
        assert_eq!(decide(&record_of(Op::Put(put(5)))), Step::Bring(put(5)));
        assert_eq!(
            super::decide(&record_of(Op::Put(put(5))), &here(), not_due),
            Step::Nothing
        );
        assert_eq!(
            decide(&record_of(gone(None))),
            Step::Remove { renamed_to: None }
        );

        // What outsiders claim is left alone.
        let claimed = record(
            head(5, Op::Put(put(5))),
            &[("ma01", held(5, "default", true))],
        );
        assert_eq!(decide(&claimed), Step::Nothing);
        let claimed_here = record(head(6, gone(None)), &[("tx01", held(5, "default", true))]);
        assert_eq!(decide(&claimed_here), Step::Nothing);
    }

    /// What is here and not due here goes if it was overwritten, or if an operator has said so; else it stays, and what was about to go is kept.
    #[test]
    fn what_is_not_due_here() {
        let decide = |record: &FileRecord, due| super::decide(record, &here(), due);
        let (elsewhere, alone) = (
            Due::Elsewhere { alone: false },
            Due::Elsewhere { alone: true },
        );
        let there = ("ma01", held(5, "default", false));
        let with = |replica: Replica| {
            let replicas = [there.clone(), ("tx01", replica)];
            record(head(5, Op::Put(put(5))), &replicas)
        };
        let current = with(held(5, "default", false));
        assert_eq!(decide(&current, elsewhere), Step::Nothing);
        assert_eq!(decide(&current, alone), Step::RemoveExtra);
        let old = with(held(4, "default", false));
        assert_eq!(decide(&old, elsewhere), Step::RemoveExtra);
        assert_eq!(decide(&old, alone), Step::RemoveExtra);
        let newer = with(held(6, "default", false));
        assert_eq!(decide(&newer, alone), Step::Nothing);

        let mut leaving = held(5, "thumb", false);
        leaving.held.as_mut().expect("held").leaving = true;
        let leaving = with(leaving);
        assert_eq!(decide(&leaving, Due::Here), Step::Keep);
        assert_eq!(decide(&leaving, elsewhere), Step::Keep);
        assert_eq!(decide(&leaving, alone), Step::RemoveExtra);

        // What outsiders claim is nobody's word, here and there.
        assert_eq!(
            decide(&with(held(4, "default", true)), alone),
            Step::Nothing
        );
        let claimed_there = [
            ("ma01", held(5, "default", true)),
            ("tx01", held(4, "default", false)),
        ];
        let claimed_there = record(head(5, Op::Put(put(5))), &claimed_there);
        assert_eq!(decide(&claimed_there, alone), Step::Nothing);
    }

    #[test]
    fn a_newer_class_does_not_stand_for_a_head_that_has_not_come() {
        let mut record = record(head(5, Op::Put(put(5))), &[]);
        record.class_cell = Some(ClassCell {
            version: Version(9),
            content: content(5),
            class: Class::default_class(),
        });
        let missing = |head: Option<i64>, class: Option<i64>| {
            let (head, class) = (head.map(Version), class.map(Version));
            Expected {
                head,
                head_by: None,
                class,
            }
            .missing_in(&record)
            .map(|version| version.0)
        };
        assert_eq!(missing(None, None), None);
        assert_eq!(missing(Some(5), None), None);
        assert_eq!(missing(Some(7), None), Some(7));
        assert_eq!(missing(None, Some(9)), None);
        assert_eq!(missing(None, Some(10)), Some(10));
        assert_eq!(missing(Some(5), Some(9)), None);
        assert_eq!(missing(Some(6), Some(9)), Some(6));
        // A head that is newer has taken the place of what was a class.
        record.head = Some(head(12, Op::Put(put(12))));
        let expected = Expected {
            head: None,
            head_by: None,
            class: Some(Version(10)),
        };
        assert_eq!(expected.missing_in(&record), None);
    }
}
