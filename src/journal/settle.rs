//! Settling: what became of each mutation, and what the ledger shall be told of it.
//!
//! Most need no thought: the tracker said `OK`, and what it did not say (class, size) was seen at the create_open.
//! The rest is settled by *what the tracker holds*, not by what was asked: for each key that a mutation touches,
//! what the tracker's master database shows now is compared with what this datacenter is believed to
//! hold (the ledger's replica, and over it what is still in the outbox).
//!
//! Always true: mutations of one key are settled in their order; a key that has to wait holds back only mutations that touch
//! it. "It did not happen" is believed only after the quiet time in which the tracker may still carry a request out,
//! unless the tracker has answered. What no intent explains is announced with the newest open intent's version.
//! While the journal's clock is too far ahead, what it has stamped beyond the bound waits, with an alarm.
//! Never here: a client's path.
//! Killed in the middle: nothing was written, so the next process settles it again.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::file::{Class, Fid, FileName};
use crate::ledger::{Ledger, LedgerError, Strength};
use crate::machine::{Rule, keeps};
use crate::version::{Version, bound, wall_clock};

use super::announcement::{Announcer, Believed, Bytes, believed};
use super::later::{Later, touched_later};
use super::{Announcement, By, Details, Entry, Journal, JournalError, Mutation, Outcome};

/// Entries read at a time. What has to be asked about is asked about among the first so many; what speaks for itself is
/// settled however many wait before it.
const PASS: usize = 10_000;

/// Questions to the tracker and the ledger at a time: enough to keep up with clients, few beside the tracker's workers.
const AT_ONCE: usize = 16;

/// What the tracker's master database holds, as far as settling needs it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// The key that names it.
    pub file: FileName,
    /// The fid.
    pub fid: Fid,
    /// Its class by name.
    pub class: Class,
    /// Its length in bytes.
    pub size: u64,
}

/// The tracker could not be asked, or did not answer the question.
#[derive(Debug, thiserror::Error)]
#[error("ask the tracker what it holds: {0}")]
pub struct LookError(pub String);

/// Looks at what the local tracker's master database holds.
#[async_trait]
pub trait Look: Send + Sync + 'static {
    /// Under this key; `None` only if the master database says that there is nothing, or cannot hold such a key.
    async fn by_key(&self, file: &FileName) -> Result<Option<Row>, LookError>;
    /// Under this fid, whatever its key; `None` if no key names it.
    async fn by_fid(&self, fid: Fid) -> Result<Option<Row>, LookError>;
}

/// Why an entry is not settled yet.
#[derive(Debug, thiserror::Error)]
enum Pending {
    /// The request may still be carried out.
    #[error("the tracker may still carry it out")]
    Quiet,
    /// Something newer happened to the key while it was looked at.
    #[error("the key changed meanwhile")]
    Changed,
    #[error(transparent)]
    Look(#[from] LookError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// Settles the entries of one journal.
pub struct Settler {
    journal: Journal,
    ledger: Arc<dyn Ledger>,
    look: Arc<dyn Look>,
    announcer: Announcer,
    quiet: Duration,
    /// When an unexplained absence was first seen (wall clock, µs), by entry and key: an overwrite has a moment between
    /// its two steps, so it is believed only when seen twice, a quiet time apart. Gone with its entry.
    absent: Mutex<HashMap<(u64, FileName), i64>>,
    /// Whether it was said that entries wait for the wall clock.
    waits_for_time: AtomicBool,
}

fn is_in_time(entry: &Entry, bound: Option<Version>) -> bool {
    bound.is_none_or(|bound| entry.version <= bound)
}

/// What one pass came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Passed {
    /// Entries settled.
    pub settled: usize,
    /// Entries left that nobody but the tracker can settle.
    pub to_ask: usize,
    /// Of these, the ones for which the tracker or the ledger could not be asked.
    pub failed: usize,
}

impl Settler {
    /// Settles `journal`'s entries. `quiet` is [`crate::config::JournalConfig::quiet_time`].
    pub fn new(
        journal: Journal,
        ledger: Arc<dyn Ledger>,
        look: Arc<dyn Look>,
        quiet: Duration,
    ) -> Self {
        let stream = journal.stream();
        let announcer = Announcer {
            datacenter: stream.datacenter.clone(),
            node: stream.node.clone(),
        };
        Self {
            journal,
            ledger,
            look,
            announcer,
            quiet,
            absent: Mutex::default(),
            waits_for_time: AtomicBool::new(false),
        }
    }

    /// Versions beyond this one have to wait, since our clock is too far ahead; `None` if it is not.
    fn bound(&self) -> Option<Version> {
        let ahead = self.journal.clock().ahead();
        match (
            ahead,
            self.waits_for_time.swap(ahead.is_some(), Ordering::Relaxed),
        ) {
            (Some(ahead), false) => tracing::error!(
                "the clock of this datacenter is {} s ahead of this machine's: clients are served, but the ledger hears of their \
                 changes only as the two meet, and until then they fill the journal (check NTP)",
                ahead.as_secs()
            ),
            (None, true) => {
                tracing::info!("the clock is right again; the ledger hears of what waited for it");
            }
            (Some(_), true) | (None, false) => {}
        }
        ahead.map(|_| bound())
    }

    /// Settles all that speaks for itself, without asking anybody.
    ///
    /// May run beside [`Self::ask_pass`]: each leaves alone what is the other's to settle, and what comes after that.
    ///
    /// # Errors
    /// Only if the journal itself cannot be read or written.
    pub async fn quick_pass(&self) -> Result<Passed, JournalError> {
        let mut passed = Passed::default();
        // Names of what waits. It is bounded as the journal itself is, by `journal.max_size`.
        let mut blocked: HashSet<FileName> = HashSet::new();
        let bound = self.bound();
        let mut after = 0;
        loop {
            let began = Instant::now();
            let entries = self.journal.entries(after, PASS).await?;
            let mut settled = Vec::new();
            for entry in &entries {
                let files = entry.mutation.files();
                let free =
                    files.iter().all(|file| !blocked.contains(*file)) && is_in_time(entry, bound);
                match self.at_once(entry) {
                    Some(announcements) if free => settled.push((entry.seq, announcements)),
                    _ => {
                        passed.to_ask += usize::from(entry.outcome.is_some());
                        blocked.extend(files.into_iter().cloned());
                    }
                }
            }
            passed.settled += self.announce(settled).await?;
            match entries.last() {
                Some(last) if entries.len() == PASS => after = last.seq,
                _ => return Ok(passed),
            }
            // So much waits that reading it is work: rest as long as that took.
            tokio::time::sleep(began.elapsed()).await;
        }
    }

    /// Settles what only tracker and ledger can settle, as far as they answer and the quiet times are over.
    ///
    /// # Errors
    /// Only if the journal itself cannot be read or written.
    pub async fn ask_pass(&self) -> Result<Passed, JournalError> {
        let entries = self.journal.entries(0, PASS).await?;
        let bound = self.bound();
        let mut blocked: HashSet<&FileName> = HashSet::new();
        let mut to_ask = Vec::new();
        for (at, entry) in entries.iter().enumerate() {
            let files = entry.mutation.files();
            let free =
                files.iter().all(|file| !blocked.contains(*file)) && is_in_time(entry, bound);
            if free && entry.outcome.is_some() && self.at_once(entry).is_none() {
                to_ask.push(at);
            }
            blocked.extend(files);
        }
        let later = touched_later(&entries, &to_ask);
        let mut passed = Passed {
            to_ask: to_ask.len(),
            ..Passed::default()
        };
        let asked: Vec<_> = to_ask
            .iter()
            .map(|&at| self.ask_about(&entries[at], &later[&at]))
            .collect();
        let mut asked = futures::stream::iter(asked).buffer_unordered(AT_ONCE);
        while let Some((entry, answer)) = asked.next().await {
            match answer {
                Ok(announcements) => {
                    passed.settled += self.announce(vec![(entry.seq, announcements)]).await?
                }
                Err(Pending::Quiet | Pending::Changed) => {}
                Err(why) => {
                    passed.failed += 1;
                    tracing::debug!(seq = entry.seq, mutation = ?entry.mutation, "not settled yet: {why}");
                }
            }
        }
        Ok(passed)
    }

    async fn announce(
        &self,
        settled: Vec<(u64, Vec<Announcement>)>,
    ) -> Result<usize, JournalError> {
        if settled.is_empty() {
            return Ok(0);
        }
        let gone: HashSet<u64> = settled.iter().map(|(seq, _)| *seq).collect();
        self.journal.announce(settled).await?;
        self.absent.lock().retain(|(seq, _), _| !gone.contains(seq));
        Ok(gone.len())
    }

    /// The announcements of an entry that says everything itself.
    fn at_once(&self, entry: &Entry) -> Option<Vec<Announcement>> {
        let us = &self.announcer;
        match (entry.outcome?, &entry.mutation) {
            (Outcome::DidNotHappen, _) => Some(Vec::new()),
            (
                Outcome::Happened,
                Mutation::Put {
                    file,
                    fid: Some(fid),
                    details,
                },
            ) => {
                let bytes = us.put_bytes(entry.version, &entry.by, *fid, details)?;
                Some(vec![us.put(entry.version, &entry.by, file, &bytes)])
            }
            (Outcome::Happened, Mutation::Delete { file }) => {
                Some(vec![us.delete(entry.version, &entry.by, file)])
            }
            (Outcome::Happened | Outcome::Doubtful | Outcome::Lost, _) => None,
        }
    }

    async fn ask_about<'a>(
        &self,
        entry: &'a Entry,
        later: &Later<'_>,
    ) -> (&'a Entry, Result<Vec<Announcement>, Pending>) {
        (entry, self.ask(entry, later).await)
    }

    /// Settles one entry by what tracker, ledger and journal hold.
    async fn ask(&self, entry: &Entry, later: &Later<'_>) -> Result<Vec<Announcement>, Pending> {
        let happened = entry.outcome == Some(Outcome::Happened);
        match &entry.mutation {
            Mutation::Put { file, fid, .. } => {
                self.settle_put(entry, later, file, *fid, happened).await
            }
            Mutation::Delete { file } => self.settle_delete(entry, later, file).await,
            Mutation::Rename { from, to } => {
                self.settle_rename(entry, later, from, to, happened).await
            }
            Mutation::SetClass { file, class } => {
                self.settle_class(entry, later, file, class, happened).await
            }
        }
    }

    async fn settle_put(
        &self,
        entry: &Entry,
        later: &Later<'_>,
        file: &FileName,
        fid: Option<Fid>,
        happened: bool,
    ) -> Result<Vec<Announcement>, Pending> {
        // An upload that is a living file was closed: here, unless this very closing is recorded already.
        if let Some(fid) = fid
            && let Some(row) = self.look.by_fid(fid).await?
            && (happened || later.may_bring(file, &row.file))
            && self
                .believed(entry, file)
                .await?
                .is_none_or(|believed| believed.held.fid != fid)
        {
            if row.file == *file
                && let Some(last) = later.last_replaced(file)
                && !later.names(file, fid)
            {
                // What was decided later is not there, and this is: it was closed after that.
                return Ok(vec![self.closed_late(entry, last, file, &row)]);
            }
            return Ok(vec![self.put_of(entry, file, &row)]);
        }
        if let Some(covered) = self.covered(entry, later, file).await? {
            return Ok(covered);
        }
        let here = self.here(entry, later, file).await?;
        match &here.row {
            // The upload that this intent closed, or, where the request named it in no way we can read, any new one.
            Some(row) if here.is_new(row) && (fid == Some(row.fid) || fid.is_none()) => {
                Ok(vec![self.put_of(entry, file, row)])
            }
            _ => self.unexplained(entry, later, file, &here),
        }
    }

    async fn settle_delete(
        &self,
        entry: &Entry,
        later: &Later<'_>,
        file: &FileName,
    ) -> Result<Vec<Announcement>, Pending> {
        if let Some(covered) = self.covered(entry, later, file).await? {
            return Ok(covered);
        }
        let here = self.here(entry, later, file).await?;
        match (&here.row, &here.believed) {
            // Its bytes live on under another name: not deleted, but renamed by a later mutation.
            (None, Some(believed)) if self.lives_on(believed.held.fid, file, later).await? => {
                self.quiet_since_lost(entry)?;
                Ok(Vec::new())
            }
            (None, Some(_)) => Ok(vec![self.announcer.delete(entry.version, &entry.by, file)]),
            _ => self.unexplained(entry, later, file, &here),
        }
    }

    /// Whether a fid that was under a key is a living file that later renames may have brought where it is.
    async fn lives_on(
        &self,
        fid: Fid,
        file: &FileName,
        later: &Later<'_>,
    ) -> Result<bool, Pending> {
        let now = self.look.by_fid(fid).await?;
        Ok(now.is_some_and(|row| later.may_bring(file, &row.file)))
    }

    async fn settle_rename(
        &self,
        entry: &Entry,
        later: &Later<'_>,
        from: &FileName,
        to: &FileName,
        happened: bool,
    ) -> Result<Vec<Announcement>, Pending> {
        let us = &self.announcer;
        let renamed = |bytes: &Bytes| us.rename(entry.version, &entry.by, from, to, bytes).into();
        // The bytes that the old name was believed to hold, if they live. A belief may be stale where mutations before
        // this one left no trace, so it is never trusted without a look.
        let believed = self.believed(entry, from).await?;
        let living = match &believed {
            Some(believed) => self.look.by_fid(believed.held.fid).await?,
            None => None,
        };
        if let (true, Some(believed), Some(row)) = (happened, &believed, &living)
            && later.may_bring(to, &row.file)
        {
            return Ok(renamed(&moved_bytes(believed, row)));
        }
        let (at_from, at_to) = (
            self.here(entry, later, from).await?,
            self.here(entry, later, to).await?,
        );
        let alone = at_to
            .row
            .as_ref()
            .filter(|row| at_to.is_new(row) && !later.touches(to));
        match (&believed, &living, alone) {
            (Some(believed), Some(row), _)
                if !happened && self.went_to(row, from, to, &at_to, later).await? =>
            {
                return Ok(renamed(&moved_bytes(believed, row)));
            }
            // Bytes that nobody knew under the old name, or others than was believed.
            (_, _, Some(row)) if happened || (believed.is_none() && at_from.row.is_none()) => {
                let content = us.content_of(entry.version, &entry.by);
                return Ok(renamed(&self.bytes_of(content, row)));
            }
            // They went on already, and nobody knows which they were. Where nothing is under the new name, that is as old as this:
            // what is newer says so itself, and what is older does not come back. What is there is what it is believed to be.
            _ if happened => {
                let gone = [to, from]
                    .into_iter()
                    .skip(usize::from(at_to.row.is_some()));
                return Ok(gone
                    .map(|file| us.delete(entry.version, &entry.by, file))
                    .collect());
            }
            _ => {}
        }
        // It left no trace under the new name. Either it did not happen, or later mutations covered it.
        let mut announcements = Vec::new();
        for (file, here) in [(to, &at_to), (from, &at_from)] {
            announcements.extend(match self.covered(entry, later, file).await? {
                Some(covered) => covered,
                None => self.unexplained(entry, later, file, here)?,
            });
        }
        Ok(announcements)
    }

    /// Whether bytes that were under `from` are under `to` now, or were there and went on with a later rename. `row` is
    /// where they live.
    async fn went_to(
        &self,
        row: &Row,
        from: &FileName,
        to: &FileName,
        at_to: &Here,
        later: &Later<'_>,
    ) -> Result<bool, Pending> {
        // A rename does not replace: where something was that still lives, nothing can have arrived.
        if let Some(before) = &at_to.believed
            && self.look.by_fid(before.held.fid).await?.is_some()
        {
            return Ok(false);
        }
        let there = row.file == *to;
        Ok(there || (later.may_bring(to, &row.file) && !later.may_bring(from, &row.file)))
    }

    async fn settle_class(
        &self,
        entry: &Entry,
        later: &Later<'_>,
        file: &FileName,
        class: &Class,
        happened: bool,
    ) -> Result<Vec<Announcement>, Pending> {
        let us = &self.announcer;
        let Some(Believed { held, .. }) = self.believed(entry, file).await? else {
            if later.touches(file) {
                return Ok(Vec::new());
            }
            let here = self.here(entry, later, file).await?;
            return match &here.row {
                // The first mutation of a file that the ledger does not know adopts it.
                Some(row) if happened => Ok(vec![self.put_of(entry, file, row)]),
                _ => self.unexplained(entry, later, file, &here),
            };
        };
        // The class goes with the bytes, wherever later renames have brought them.
        match self.look.by_fid(held.fid).await? {
            Some(row) if happened && later.may_bring(file, &row.file) => Ok(vec![us.set_class(
                entry.version,
                &entry.by,
                file,
                &held,
                class,
            )]),
            // It was set on bytes that are gone, or on others than was believed.
            _ if happened && later.touches(file) => Ok(Vec::new()),
            _ if happened => {
                let here = self.here(entry, later, file).await?;
                match &here.row {
                    Some(row) if here.is_new(row) => Ok(vec![self.put_of(entry, file, row)]),
                    _ => self.unexplained(entry, later, file, &here),
                }
            }
            Some(row) if row.class != held.class => Ok(vec![us.set_class(
                entry.version,
                &entry.by,
                file,
                &held,
                &row.class,
            )]),
            row if row.is_some() || later.touches(file) => {
                self.quiet_since_lost(entry)?;
                Ok(Vec::new())
            }
            _ => {
                let here = self.here(entry, later, file).await?;
                self.unexplained(entry, later, file, &here)
            }
        }
    }

    /// What to say of a key that a later mutation is known to have decided; `None` if none has. What came before it is
    /// no matter, unless its answer was lost and the tracker carried it out late, after the later one. What repair did late is
    /// an accident here, and nothing that other datacenters should do: only what is held here now is told, and repair
    /// brings back what should be.
    async fn covered(
        &self,
        entry: &Entry,
        later: &Later<'_>,
        file: &FileName,
    ) -> Result<Option<Vec<Announcement>>, Pending> {
        let Some(last) = later.last_decided(file) else {
            return Ok(None);
        };
        if entry.outcome != Some(Outcome::Lost) {
            return Ok(Some(Vec::new()));
        }
        self.quiet_since_lost(entry)?;
        if later.is_open(file) {
            return Ok(Some(Vec::new()));
        }
        let here = self.here(entry, later, file).await?;
        let version = last.version.next();
        Ok(Some(match (&last.mutation, &here.row, &entry.mutation) {
            (
                Mutation::Put { fid: Some(_), .. },
                None,
                Mutation::Delete { .. } | Mutation::Rename { .. },
            ) => {
                self.seen_absent_twice(entry, file)?;
                tracing::warn!(%file, "a request without an answer was carried out late and removed a newer file");
                vec![self.announcer.delete(version, &entry.by, file)]
            }
            (_, Some(row), Mutation::Put { fid: Some(fid), .. })
                if row.fid == *fid && !later.names(file, *fid) =>
            {
                vec![self.closed_late(entry, last, file, row)]
            }
            _ => Vec::new(),
        }))
    }

    /// An upload that is under its key, though a later mutation of the key has happened as well.
    fn closed_late(&self, entry: &Entry, last: &Entry, file: &FileName, row: &Row) -> Announcement {
        tracing::warn!(%file, "an upload was closed late, over a newer change");
        let content = self.announcer.content_of(entry.version, &entry.by);
        let bytes = self.bytes_of(content, row);
        let version = last.version.next();
        self.announcer.put(version, &entry.by, file, &bytes)
    }

    /// What to say of a key where the tracker's state does not show that this intent was carried out.
    fn unexplained(
        &self,
        entry: &Entry,
        later: &Later<'_>,
        file: &FileName,
        here: &Here,
    ) -> Result<Vec<Announcement>, Pending> {
        if let Some(row) = &here.row
            && here.is_new(row)
            && later.names(file, row.fid)
        {
            return Ok(Vec::new());
        }
        if later.touches(file) && entry.outcome != Some(Outcome::Lost) {
            // The newest open intent speaks for what nobody explains.
            return Ok(Vec::new());
        }
        self.quiet_since_lost(entry)?;
        if later.touches(file) {
            return Ok(Vec::new());
        }
        match (&here.row, &here.believed) {
            (None, None) => Ok(Vec::new()),
            (Some(row), _) if !here.is_new(row) => Ok(Vec::new()),
            (Some(row), _) => {
                tracing::warn!(%file, fid = %row.fid, "the tracker holds a fid here that no intent explains; announced as a new file");
                Ok(vec![self.announcer.put(
                    entry.version,
                    &By::Client,
                    file,
                    &self.bytes_of(self.announcer.new_content(entry.version), row),
                )])
            }
            (None, Some(_)) => {
                self.seen_absent_twice(entry, file)?;
                tracing::warn!(%file, by = ?entry.by, "the tracker holds this no more and no intent explains it; announced as gone");
                Ok(vec![self.announcer.delete(entry.version, &entry.by, file)])
            }
        }
    }

    fn quiet_since_lost(&self, entry: &Entry) -> Result<(), Pending> {
        if entry.outcome != Some(Outcome::Lost) {
            return Ok(());
        }
        let lost_at = entry.lost_at.unwrap_or(entry.version.0);
        self.quiet_since(lost_at)
    }

    fn quiet_since(&self, moment: i64) -> Result<(), Pending> {
        let passed = wall_clock().0.saturating_sub(moment);
        if !keeps(Rule::QuietTime)
            || passed >= i64::try_from(self.quiet.as_micros()).unwrap_or(i64::MAX)
        {
            Ok(())
        } else {
            Err(Pending::Quiet)
        }
    }

    fn seen_absent_twice(&self, entry: &Entry, file: &FileName) -> Result<(), Pending> {
        let first = *self
            .absent
            .lock()
            .entry((entry.seq, file.clone()))
            .or_insert_with(|| wall_clock().0);
        self.quiet_since(first)
    }

    /// What is under a key now, in the tracker and as believed; only if nothing happened to it that is not among `later`.
    async fn here(
        &self,
        entry: &Entry,
        later: &Later<'_>,
        file: &FileName,
    ) -> Result<Here, Pending> {
        let row = self.look.by_key(file).await?;
        let believed = self.believed(entry, file).await?;
        let known = later.newest(file).unwrap_or(entry.version);
        if self.journal.standing(file).newest > Some(known) {
            return Err(Pending::Changed);
        }
        Ok(Here { row, believed })
    }

    /// What this datacenter is believed to have held before `entry`.
    async fn believed(&self, entry: &Entry, file: &FileName) -> Result<Option<Believed>, Pending> {
        // First the outbox, then the ledger: what leaves the one in between is found in the other.
        let outgoing = self.journal.outgoing_of(file).await?;
        let record = self.ledger.read(file, Strength::Local).await?;
        let before = outgoing
            .iter()
            .filter(|a| a.version < entry.version)
            .map(|a| &a.write);
        Ok(believed(&self.announcer.datacenter, &record, before))
    }

    fn bytes_of(&self, content: crate::file::Content, row: &Row) -> Bytes {
        Bytes {
            content,
            fid: row.fid,
            class: row.class.clone(),
            size: row.size,
            checksum: None,
        }
    }

    fn put_of(&self, entry: &Entry, file: &FileName, row: &Row) -> Announcement {
        let mut bytes = self.bytes_of(self.announcer.content_of(entry.version, &entry.by), row);
        if let Mutation::Put {
            details:
                Details {
                    checksum: Some(verified),
                    ..
                },
            ..
        } = &entry.mutation
        {
            bytes.checksum = Some(verified.clone());
        }
        self.announcer.put(entry.version, &entry.by, file, &bytes)
    }
}

/// Bytes that are known, as they are where they live now.
fn moved_bytes(believed: &Believed, row: &Row) -> Bytes {
    let (size, checksum) = believed.known.clone().unwrap_or((row.size, None));
    Bytes {
        content: believed.held.content.clone(),
        fid: row.fid,
        class: row.class.clone(),
        size,
        checksum,
    }
}

/// A key as the tracker holds it and as this datacenter is believed to hold it.
struct Here {
    row: Option<Row>,
    believed: Option<Believed>,
}

impl Here {
    /// Whether the tracker holds something else than what is believed.
    fn is_new(&self, row: &Row) -> bool {
        self.believed
            .as_ref()
            .is_none_or(|believed| believed.held.fid != row.fid)
    }
}
