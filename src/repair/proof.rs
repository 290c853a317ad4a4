//! What this datacenter tells the ledger of one file that it holds, without a change to it: the proof that a look leaves, that what should be here
//! is not, or that it is about to go.
//!
//! Always true: it is written at the hybrid time of the observation, taken under the key's lock while nothing has changed since the file
//! was looked at; so any change that comes later, by a client or by repair, is newer. Who is told that something is not here is
//! everybody: from then on [`decide`](super::reconcile::decide) has it brought again, whoever meets the file.
//! Never here: looking (`inspect`), bringing anything (`reconcile`), or giving it up (`extra`).
//! Killed in the middle: nothing was said, and the next look says it.

use std::time::Duration;

use crate::file::{Checked, Checksum, Datacenter, FileName, Found, Held, Put, Replica};
use crate::ledger::{FileRecord, FileWrite, Strength};
use crate::locks::KeyGuard;
use crate::version::{Version, wall_clock};

use super::inspect::{Bad, Lacks};
use super::park::micros;
use super::reconcile::{NotDone, Reconciler, View};

/// A process that was killed takes longer to stamp again.
const RESTART: Duration = Duration::from_millis(100);

/// How long another worker may still be at a file that is to be looked at.
const MOMENT: Duration = Duration::from_secs(5);

/// What should be here and what is, where the ledger says that this is the same. (What outsiders claim is nobody's word.)
pub(super) fn said_to_be_here<'a>(
    record: &'a FileRecord,
    here: &Datacenter,
) -> Option<(&'a Put, &'a Held)> {
    let put = record.head.as_ref()?.put()?;
    let held = record.replicas.get(here)?.held.as_ref()?;
    (held.content == put.content && !held.claimed).then_some((put, held))
}

impl Reconciler {
    /// Keeps other workers away from a file, once they have let go of it: what they do to it nobody else would see. `None` if that
    /// takes long.
    pub(super) async fn alone_at(&self, file: &FileName) -> Option<KeyGuard> {
        let guard = self.at_work.lock(&[file], MOMENT).await;
        (!guard.overran()).then_some(guard)
    }

    /// Leaves the proof of a good look. False if the file was changed since `view` was read.
    pub(super) async fn prove(
        &self,
        view: &View,
        held: &Held,
        found: Found,
        checksum: Option<Checksum>,
    ) -> Result<bool, NotDone> {
        let lock = self.locks.try_lock(&[&view.file]);
        let Some(since) = lock.and_then(|_guard| self.moment(view)) else {
            return Ok(false);
        };
        let checked = Checked {
            at: since,
            found,
            checksum,
        };
        let held = Held {
            checked: Some(checked),
            ..held.clone()
        };
        self.observed(&view.file, since, Some(held), Strength::Local)
            .await?;
        Ok(true)
    }

    /// Tells the ledger that this datacenter does not hold what it was believed to. False if it is not so any more.
    pub(super) async fn declare(&self, file: &FileName, bad: &Bad) -> Result<bool, NotDone> {
        let Some(_alone) = self.alone_at(file).await else {
            return Err(NotDone::Later("another worker is at it".into()));
        };
        let view = self.look(file, Strength::Local).await?;
        let said = said_to_be_here(&view.record, &self.datacenter);
        let Some((_, held)) = said.filter(|(_, held)| held.fid == bad.fid) else {
            return Ok(false);
        };
        let since = {
            let Some(guard) = self.locks.try_lock(&[file]) else {
                return Err(NotDone::Later("a client is changing it here".into()));
            };
            let fid = self.fid_here(&guard, file).await?;
            let as_seen = match bad.lacks {
                Lacks::File => fid.is_none(),
                Lacks::Bytes => fid == Some(bad.fid.0),
            };
            match self.moment(&view) {
                Some(since) if as_seen => since,
                Some(_) | None => return Ok(false),
            }
        };
        let left = match bad.lacks {
            Lacks::File => None,
            Lacks::Bytes => Some(Held {
                checked: Some(Checked {
                    at: since,
                    found: Found::Damaged,
                    // What the bytes had while they were good: what comes instead has to have it.
                    checksum: held.checksum().cloned(),
                }),
                ..held.clone()
            }),
        };
        self.observed(file, since, left, Strength::Local).await?;
        if self.ledger.owes() {
            self.journal.owe(vec![(file.clone(), since)]).await?;
        }
        Ok(true)
    }

    /// Says that what is here is about to go, or that it is not.
    pub(super) async fn say_leaving(
        &self,
        view: &View,
        held: &Held,
        leaving: bool,
        strength: Strength,
    ) -> Result<(), NotDone> {
        let lock = self.locks.try_lock(&[&view.file]);
        let Some(since) = lock.and_then(|_guard| self.moment(view)) else {
            return Err(NotDone::Later("it was changed here just now".into()));
        };
        let held = Held {
            leaving,
            ..held.clone()
        };
        let said = self.observed(&view.file, since, Some(held), strength);
        // All datacenters of the ledger have to answer: one that is away is no reason for all else to wait.
        said.await.map_err(|error| match error {
            NotDone::LedgerAway(error) if strength == Strength::Each => NotDone::Later(format!(
                "not every datacenter of the ledger hears that it is about to go: {error}"
            )),
            other => other,
        })
    }

    /// The time of an observation, if nothing has happened to the file since it was looked at. Asked under the key's lock.
    fn moment(&self, view: &View) -> Option<Version> {
        let as_seen = self.journal.standing(&view.file) == view.standing;
        if !as_seen || !view.watch.is_untouched() {
            return None;
        }
        self.journal.clock().stamp().ok()
    }

    async fn observed(
        &self,
        file: &FileName,
        since: Version,
        held: Option<Held>,
        strength: Strength,
    ) -> Result<(), NotDone> {
        // Where the clock runs ahead of this machine's, a kill could set it back below what is written here, and with it the
        // versions of those who change the file next.
        if since.0 > wall_clock().0.saturating_add(micros(RESTART)) {
            self.journal.raise_floor(file, since).await?;
        }
        let replica = Replica { since, held };
        let write = FileWrite {
            replica: Some((self.datacenter.clone(), replica)),
            ..FileWrite::default()
        };
        Ok(self.ledger.write(file, &write, strength).await?)
    }
}
