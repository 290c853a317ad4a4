//! One file that was changed past the proxy: what this datacenter tells of it.
//!
//! Always true: only the master database's word counts, under the key's lock, while nothing of the file is open in the journal and
//! nobody has touched it since it was looked at. So a copy that repair has just closed is never taken for somebody's: its intent
//! is in the journal, and what it left is either open there or explained. What is the same as elsewhere is adopted by proof, and not announced. The versions
//! are those of [`crate::found`]; what is told goes through the journal's outbox, so it is numbered, owed and ordered as all else.
//! Of two installations' different contents under one key nothing is told: that is for a person.
//! Never here: finding the files (`backfill`, `verify`, `reconcile`).
//! Killed in the middle: nothing was told, and it is found again.

use crate::file::{Checked, FileName, Found, Held, Op, Put, Replica};
use crate::found::{applied, is_contest, just_above, version_for};
use crate::journal::announcement::{Announcer, Bytes};
use crate::journal::settle::{Look, Row};
use crate::journal::{Announcement, By};
use crate::ledger::{FileWrite, Strength};
use crate::version::Version;

use super::compare::{Compared, Comparing, Ours};
use super::inspect::{Bad, Lacks};
use super::proof::said_to_be_here;
use super::reconcile::{Did, NotDone, Reconciler, View};

/// How the last error of a gap begins that a person has to decide.
pub(super) const CONFLICT: &str = "two installations had different files under this key: ";

/// What is said of it.
pub(super) fn conflict(why: &str, put: &Put) -> String {
    let origin = &put.content.origin;
    format!(
        "{CONFLICT}{why}; the other is from {origin}. Neither is touched; `phylactery import --prefer` decides"
    )
}

/// What is said of a file that nobody knows, where the site was seeded before what is forgotten by now.
const FORGOTTEN: &str = "stored past the proxy, or deleted elsewhere and forgotten since: this datacenter was seeded longer ago than repair.tombstone_retention, \
    so nobody can tell. It is not touched; delete it at the tracker, or store it through the proxy";

/// What was done about a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Took {
    /// The ledger knows what is here.
    Known,
    /// It is what the ledger speaks of: now the ledger knows that it is here.
    Adopted,
    /// The tracker knows the file, and has none of its bytes: they are brought as any others.
    AdoptedEmpty,
    /// It is announced as a new content, or a new class.
    Announced,
    /// The same, and what another datacenter did is newer, and has to come here.
    Outdone,
    /// It is announced as renamed, or as deleted.
    Followed,
    /// Another installation had another file under this key, and nobody knows which is right.
    Conflict(String),
}

impl Reconciler {
    /// Whether what comes past the proxy is taken in at all.
    pub(super) fn takes_in(&self) -> bool {
        self.config.backfill_every.is_some()
    }

    /// Whether this datacenter came with files that are older than what is remembered of deletes.
    async fn may_hold_forgotten(&self) -> Result<bool, NotDone> {
        let membership = self
            .registry()
            .await?
            .placements()
            .membership(&self.datacenter);
        Ok(membership.may_hold_forgotten(self.config.tombstone_retention))
    }

    /// As [`Self::take_in`], for who is not at the file yet.
    pub(super) async fn take_in_file(&self, file: &FileName) -> Result<Took, NotDone> {
        let Some(_alone) = self.alone_at(file).await else {
            return Err(NotDone::Later("another worker is at it".into()));
        };
        let view = self.look(file, Strength::Local).await?;
        self.take_in(&view).await
    }

    /// Tells the ledger what the tracker holds under a key, if it does not know. The caller is alone at the file.
    pub(super) async fn take_in(&self, view: &View) -> Result<Took, NotDone> {
        let row = match self.local.by_key(&view.file).await {
            Ok(Some(row)) => row,
            Ok(None) => return Ok(Took::Known),
            Err(error) => return Err(NotDone::Failed(error.to_string())),
        };
        if row.file != view.file {
            // Its collation takes several spellings for one key.
            return Err(NotDone::Failed(format!(
                "the tracker keeps it as {}, and takes both spellings for one key; it is not touched",
                row.file
            )));
        }
        let held = view.held(&self.datacenter);
        if held.is_some_and(|held| held.fid == row.fid) {
            return self.take_class(view, &row).await;
        }
        let Some(version) = version_for(&view.record, &self.datacenter, row.fid) else {
            return Err(NotDone::Failed(format!(
                "no database gives out fids as high as {}",
                row.fid
            )));
        };
        let put = view.record.head.as_ref().and_then(|head| head.put());
        let wanted = put.filter(|put| held.is_none_or(|held| held.content != put.content));
        if let Some(put) = wanted {
            let never_applied = applied(&view.record, &self.datacenter).is_none();
            let ours = Ours {
                file: &view.file,
                fid: row.fid,
                size: row.size,
            };
            match self.compare_here(ours, view, put).await? {
                Compared::Same { found, checksum } => {
                    let proof = Some((found, checksum));
                    return self.adopt(view, &row, put, proof, Took::Adopted).await;
                }
                Compared::Absent(why) if never_applied => {
                    tracing::debug!(file = %view.file, "{why}");
                    let proof = Some((Found::Damaged, None));
                    return self.adopt(view, &row, put, proof, Took::AdoptedEmpty).await;
                }
                Compared::Unsure(why) if never_applied => return Err(NotDone::Failed(why)),
                Compared::Different(why) if is_contest(&view.record, &self.datacenter) => {
                    return Ok(Took::Conflict(conflict(&why, put)));
                }
                Compared::Absent(_) | Compared::Unsure(_) | Compared::Different(_) => {}
            }
        }
        // Nobody knows it, and it may be what was deleted and forgotten since.
        let unknown = view.record.head.is_none() && held.is_none();
        if unknown && self.may_hold_forgotten().await? {
            return Err(NotDone::Failed(FORGOTTEN.into()));
        }
        let us = self.announcer();
        let bytes = Bytes {
            content: us.new_content(version),
            fid: row.fid,
            class: row.class.clone(),
            size: row.size,
            checksum: None,
        };
        let announcement = us.put(version, &By::Client, &view.file, &bytes);
        self.tell_found(view, &row, announcement).await?;
        tracing::debug!(file = %view.file, fid = %row.fid, "stored past the proxy; announced");
        let head = view.record.head.as_ref();
        Ok(match head.is_some_and(|head| head.version > version) {
            true => Took::Outdone,
            false => Took::Announced,
        })
    }

    /// Two installations' files were told of at the same time: they are the same, or a person has to decide.
    pub(super) async fn settle_contest(&self, view: &View, put: &Put) -> Result<Did, NotDone> {
        let row = match self.local.by_key(&view.file).await {
            Ok(Some(row)) => row,
            Ok(None) => return Err(NotDone::Later("the tracker does not hold it now".into())),
            Err(error) => return Err(NotDone::Failed(error.to_string())),
        };
        let ours = Ours {
            file: &view.file,
            fid: row.fid,
            size: row.size,
        };
        let proof = match self.compare_here(ours, view, put).await? {
            Compared::Same { found, checksum } => Some((found, checksum)),
            Compared::Absent(_) => Some((Found::Damaged, None)),
            Compared::Different(why) => return Err(NotDone::Failed(conflict(&why, put))),
            Compared::Unsure(why) => return Err(NotDone::Failed(why)),
        };
        self.adopt(view, &row, put, proof, Took::Adopted).await?;
        Err(NotDone::Later(
            "it is the same as elsewhere, which is told just now".into(),
        ))
    }

    async fn compare_here(
        &self,
        ours: Ours<'_>,
        view: &View,
        put: &Put,
    ) -> Result<Compared, NotDone> {
        let registry = self.registry().await?;
        let comparing = Comparing {
            here: &self.datacenter,
            fetcher: &self.fetcher,
            budget: &self.budget,
            local: &self.local,
            registry: &registry,
            split_from: &self.config.split_from,
        };
        Ok(comparing.compare(ours, &view.record, put).await)
    }

    /// The bytes are known; their class may have been changed past the proxy.
    async fn take_class(&self, view: &View, row: &Row) -> Result<Took, NotDone> {
        let Some((_, held)) = said_to_be_here(&view.record, &self.datacenter) else {
            return Ok(Took::Known);
        };
        let above = just_above(&view.record, &self.datacenter);
        let (Some(version), false) = (above, held.class == row.class) else {
            return Ok(Took::Known);
        };
        let cell = view.record.class_cell.as_ref().map(|cell| cell.version);
        // What another datacenter has set, and is not applied here yet, is newer.
        let version = match view.record.class() {
            Some(class) if *class != held.class => version,
            Some(_) | None => cell.map_or(version, |cell| version.max(cell.next())),
        };
        let us = self.announcer();
        let announcement = us.set_class(version, &By::Client, &view.file, held, &row.class);
        self.tell_found(view, row, announcement).await?;
        Ok(Took::Announced)
    }

    /// Tells that what is here is what `put` names, or, where none of its bytes are there, that it should be.
    async fn adopt(
        &self,
        view: &View,
        row: &Row,
        put: &Put,
        proof: Option<(Found, Option<crate::file::Checksum>)>,
        took: Took,
    ) -> Result<Took, NotDone> {
        let since = self.stamp()?;
        let held = Held {
            content: put.content.clone(),
            fid: row.fid,
            class: row.class.clone(),
            claimed: false,
            leaving: false,
            checked: proof.map(|(found, checksum)| Checked {
                at: since,
                found,
                checksum,
            }),
        };
        let replica = Replica {
            since,
            held: Some(held),
        };
        let announcement = Announcement {
            file: view.file.clone(),
            write: FileWrite {
                replica: Some((self.datacenter.clone(), replica)),
                ..FileWrite::default()
            },
            version: since,
            // It concerns nobody else.
            change: false,
        };
        self.tell_found(view, row, announcement).await?;
        Ok(took)
    }

    /// Hands one announcement in, if the tracker still holds what was found, and nothing has happened to the file.
    async fn tell_found(
        &self,
        view: &View,
        row: &Row,
        announcement: Announcement,
    ) -> Result<(), NotDone> {
        let Some(guard) = self.locks.try_lock(&[&view.file]) else {
            return Err(NotDone::Later("a client is changing it here".into()));
        };
        let fid = self.fid_here(&guard, &view.file).await?;
        if fid != Some(row.fid.0) || !self.is_as_seen(view) {
            return Err(NotDone::Later("it was changed here just now".into()));
        }
        Ok(self.journal.tell(&guard, vec![announcement]).await?)
    }

    /// Tells that a file which was found missing twice was deleted past the proxy. False if it is not so any more.
    pub(super) async fn take_out(&self, file: &FileName, bad: &Bad) -> Result<bool, NotDone> {
        let Some(_alone) = self.alone_at(file).await else {
            return Err(NotDone::Later("another worker is at it".into()));
        };
        let view = self.look(file, Strength::Local).await?;
        let said = said_to_be_here(&view.record, &self.datacenter);
        if bad.lacks != Lacks::File || said.is_none_or(|(_, held)| held.fid != bad.fid) {
            return Ok(false);
        }
        let Some(version) = applied(&view.record, &self.datacenter) else {
            return Ok(false);
        };
        let Some(guard) = self.locks.try_lock(&[file]) else {
            return Err(NotDone::Later("a client is changing it here".into()));
        };
        let fid = self.fid_here(&guard, file).await?;
        if fid.is_some() || !self.is_as_seen(&view) {
            return Ok(false);
        }
        // Just above what was here, and never now: what others stored meanwhile is newer.
        let delete = self.announcer().delete(version.next(), &By::Client, file);
        let delete = self.seen_now(delete)?;
        self.journal.tell(&guard, vec![delete]).await?;
        Ok(true)
    }

    /// Tells that a file went to another key past the proxy. `row`: where its fid is now. The caller is alone at neither.
    pub(super) async fn follow(&self, file: &FileName, row: &Row) -> Result<Took, NotDone> {
        let _alone = self.at_work.try_lock(&[file, &row.file]);
        if _alone.is_none() {
            return Err(NotDone::Later("another worker is at it".into()));
        }
        let from = self.look(file, Strength::Local).await?;
        let to = self.look(&row.file, Strength::Local).await?;
        let said = said_to_be_here(&from.record, &self.datacenter);
        let Some((put, held)) = said.filter(|(_, held)| held.fid == row.fid) else {
            return Ok(Took::Known);
        };
        let Some(left) = just_above(&from.record, &self.datacenter) else {
            return Ok(Took::Known);
        };
        let Some(guard) = self.locks.try_lock(&[file, &row.file]) else {
            return Err(NotDone::Later("a client is changing it here".into()));
        };
        let (gone, there) = (
            self.fid_here(&guard, file).await?,
            self.fid_here(&guard, &row.file).await?,
        );
        let as_seen = self.is_as_seen(&from) && self.is_as_seen(&to);
        if gone.is_some() || there != Some(row.fid.0) || !as_seen {
            return Err(NotDone::Later("it was changed here just now".into()));
        }
        let us = self.announcer();
        let known = to.held(&self.datacenter).map(|held| held.fid);
        let told = if known == Some(row.fid) || file.domain != row.file.domain {
            // What is under the other key was taken in before.
            let mut delete = us.delete(left, &By::Client, file);
            if let Some(head) = &mut delete.write.head
                && file.domain == row.file.domain
            {
                head.op = Op::Delete {
                    renamed_to: Some(row.file.key.clone()),
                };
            }
            vec![delete]
        } else {
            let arrived = just_above(&to.record, &self.datacenter).unwrap_or(left);
            let bytes = Bytes {
                content: held.content.clone(),
                fid: row.fid,
                class: row.class.clone(),
                size: put.size,
                checksum: put.checksum.clone(),
            };
            us.rename(left.max(arrived), &By::Client, file, &row.file, &bytes)
                .into()
        };
        self.journal.tell(&guard, told).await?;
        tracing::info!(%file, to = %row.file, "renamed past the proxy; announced");
        Ok(Took::Followed)
    }

    /// The same, with what was seen here as of now: the cell of the observation must not be older than the last one.
    fn seen_now(&self, mut announcement: Announcement) -> Result<Announcement, NotDone> {
        if let Some((_, replica)) = &mut announcement.write.replica {
            replica.since = self.stamp()?;
        }
        Ok(announcement)
    }

    fn stamp(&self) -> Result<Version, NotDone> {
        let stamped = self.journal.clock().stamp();
        stamped.map_err(|ahead| NotDone::Failed(ahead.to_string()))
    }

    /// Whether nothing has happened to a file since it was looked at. Asked under the key's lock.
    fn is_as_seen(&self, view: &View) -> bool {
        self.journal.standing(&view.file) == view.standing && view.watch.is_untouched()
    }

    fn announcer(&self) -> Announcer {
        let stream = self.journal.stream();
        Announcer {
            datacenter: stream.datacenter.clone(),
            node: stream.node.clone(),
        }
    }
}
