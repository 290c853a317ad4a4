//! What the rest of the program holds of the journal: [`Journal`] and [`Intent`].
//!
//! Always true: an [`Intent`] in somebody's hands is on disk. One that is dropped without a word is lost, if it was
//! handed out; if whoever asked for it had gone before, it did not happen.
//! Bounded: [`QUEUE`] intents wait for the writer at a time and the others wait for their turn; outcomes never wait, and there are
//! no more of them than intents that were handed out.
//! The writer ends, and gives up the folder, when [`Journal::close`] says so or the last `Journal` and `Intent` are gone.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::{RwLock, RwLockReadGuard, Semaphore, oneshot};

use super::core::Core;
use super::folder::{Folder, new_incarnation, said};
use super::index::{Index, Table, Tags};
use super::owed::{self, Change, Debt, Debts, Most, Walk};
use super::rows::{self, NewAnnouncement, NewEntry};
use super::writer::{HandedIn, Request, Requests, Writer, requests};
use super::{
    Announcement, By, Depth, Details, Entry, JournalError, Mutation, Outcome, Outgoing, Refused,
    Standing,
};
use crate::config::JournalConfig;
use crate::file::{Datacenter, FileName, NodeName};
use crate::ledger::StreamId;
use crate::locks::KeyGuard;
use crate::machine;
use crate::version::{Clock, Version, wall_clock};

/// Intents that wait for the writer at a time; about what it writes in one tenth of a second.
const QUEUE: usize = 4096;

/// Files whose versions are beyond the shared clock: each takes about 50 bytes of memory. A datacenter whose clock is
/// an hour too far ahead has stored fewer.
const MAX_FLOORS: usize = 1_000_000;

/// What is attempted where the journal's memory of the ledger is written.
const REMEMBERING: &str = "remember in the journal what the ledger is told";

/// The journal of one process. Cheap to clone.
#[derive(Clone)]
pub struct Journal(Arc<Shared>);

struct Shared {
    core: Arc<Core>,
    requests: Requests,
    turn: Arc<Semaphore>,
    /// Held while numbers of the stream are on their way into the ledger.
    delivery: RwLock<()>,
    read: Mutex<Connection>,
    max_size: u64,
}

impl Journal {
    /// Opens or makes the journal in `config.path`. Entries left open by an earlier process become [`Outcome::Lost`].
    /// Blocking: reads all that is there once.
    pub fn open(
        config: &JournalConfig,
        datacenter: &Datacenter,
        node: &NodeName,
    ) -> Result<Journal, JournalError> {
        Self::open_with(config, datacenter, node, Most::default())
    }

    /// As [`Self::open`], with another bound for what is owed by name.
    pub fn open_with(
        config: &JournalConfig,
        datacenter: &Datacenter,
        node: &NodeName,
        most_owed: Most,
    ) -> Result<Journal, JournalError> {
        let (journal, writer) = Self::open_apart(config, datacenter, node, most_owed)?;
        std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || writer.run())
            .map_err(|why| JournalError::Open {
                folder: config.path.display().to_string(),
                why: format!("start its thread: {why}"),
            })?;
        Ok(journal)
    }

    /// As [`Self::open`], with a writer that is a task and not a thread: for a simulation, in which nothing runs beside the
    /// story. Nothing is written but by that task, so a crash is that it is polled no more: what it had not committed is lost.
    pub fn open_with_task(
        config: &JournalConfig,
        datacenter: &Datacenter,
        node: &NodeName,
    ) -> Result<(Journal, impl Future<Output = ()> + Send + use<>), JournalError> {
        let (journal, writer) = Self::open_apart(config, datacenter, node, Most::default())?;
        Ok((journal, writer.run_as_task()))
    }

    fn open_apart(
        config: &JournalConfig,
        datacenter: &Datacenter,
        node: &NodeName,
        most_owed: Most,
    ) -> Result<(Journal, Writer), JournalError> {
        let folder = Folder::open(&config.path, datacenter, node, most_owed)?;
        let index = Index::new();
        for (file, version) in &folder.floors {
            index.raise_floor(index.tag(file), *version);
        }
        folder.load(
            |entry, weight| {
                let open = entry.outcome != Some(Outcome::Happened);
                let tags = index.tags(&entry.mutation.files());
                index.add(
                    Table::Entries,
                    entry.seq,
                    entry.version,
                    open,
                    &tags,
                    weight,
                );
            },
            |outgoing, weight| {
                let tags = index.tags(&[&outgoing.announcement.file]);
                let version = outgoing.announcement.version;
                index.add(Table::Outbox, outgoing.id, version, false, &tags, weight);
            },
        )?;
        let Folder {
            write,
            read,
            lock,
            stream,
            counters,
            owed,
            ..
        } = folder;
        let core = Arc::new(Core::new(index, owed, stream, &counters));
        let (requests, queue) = requests();
        let writer = Writer::new(
            write,
            lock,
            Arc::clone(&core),
            queue,
            config.max_size,
            counters,
        );
        let journal = Journal(Arc::new(Shared {
            core,
            requests,
            turn: Arc::new(Semaphore::new(QUEUE)),
            delivery: RwLock::default(),
            read: Mutex::new(read),
            max_size: config.max_size,
        }));
        Ok((journal, writer))
    }

    /// Writes what was handed in, and gives up the folder. From then on every intent is refused, and an
    /// outcome counts as lost. Without it the same happens soon after the last handle is gone.
    pub async fn close(self) {
        let mut ended = self.0.core.ended.subscribe();
        if self.0.requests.send(Request::Close).is_ok() {
            let _writer_is_gone = ended.wait_for(|ended| *ended).await;
        }
    }

    /// The clock, restored from the journal's mark.
    pub fn clock(&self) -> &Arc<Clock> {
        &self.0.core.clock
    }

    /// The stream that this journal's changes are numbered in. Another one from [`Self::begin_stream`] on.
    pub fn stream(&self) -> Arc<StreamId> {
        self.0.core.numbering().0
    }

    /// The stream, and the last number given in it.
    pub fn numbering(&self) -> (Arc<StreamId>, u64) {
        self.0.core.numbering()
    }

    /// The permission to write changes into the stream: while it is held, [`Self::stream`] and the numbers of the outbox
    /// stay what they are. Not for holding two of.
    pub async fn delivery(&self) -> Delivery<'_> {
        let held = self.0.delivery.read().await;
        Delivery {
            stream: self.stream(),
            _held: held,
        }
    }

    /// What [`Self::remember`] has written last; it outlives restarts.
    pub async fn remembered(&self) -> Result<Option<String>, JournalError> {
        self.read("read what the journal remembers of the ledger", |db| {
            Ok(rows::remembered(db)?)
        })
        .await
    }

    /// Remembers `text`, and where the clock stands, in place of what was remembered before; durable when this returns.
    ///
    /// # Errors
    /// If it cannot be written. What was remembered before stands, but for a failed fsync.
    pub async fn remember(&self, text: String) -> Result<(), JournalError> {
        self.ask(REMEMBERING, |answer| Request::Remember {
            text,
            begins: None,
            answer,
        })
        .await
    }

    /// Begins a new incarnation with a stream of its own, and remembers `text`, in one transaction: what the ledger has not confirmed
    /// takes the numbers 1, 2, 3 … of the new stream, in order. Waits for the round of delivery that is under way.
    ///
    /// # Errors
    /// If it cannot be written. Nothing has changed then, but for a failed fsync.
    pub async fn begin_stream(&self, text: String) -> Result<(), JournalError> {
        let _nothing_under_way = self.0.delivery.write().await;
        self.ask(REMEMBERING, |answer| Request::Remember {
            text,
            begins: Some(new_incarnation()),
            answer,
        })
        .await
    }

    /// Stamps and writes an intent; durable when this returns. `guard` covers the mutation's files. Dropped before it
    /// returns, nothing has happened.
    ///
    /// # Errors
    /// [`Refused`]: nothing has happened, and the request must not be sent.
    pub async fn intend(
        &self,
        guard: &KeyGuard,
        by: By,
        mutation: Mutation,
    ) -> Result<Intent, Refused> {
        let refused = |why: &str| Refused::Unwritable(why.to_owned());
        if let Mutation::Rename { from, to } = &mutation
            && from.domain != to.domain
        {
            return Err(refused("a rename stays in its domain"));
        }
        let files = mutation.files();
        debug_assert!(
            files.iter().all(|file| guard.covers(file)),
            "an intent needs the locks of its keys"
        );
        let tags = self.0.core.index.tags(&files);
        let details = match &mutation {
            Mutation::Put { details, .. } => Some(details.clone()),
            Mutation::Delete { .. } | Mutation::Rename { .. } | Mutation::SetClass { .. } => None,
        };
        let entry = NewEntry::new(by, mutation).map_err(|why| refused(&why.to_string()))?;
        let turn = Arc::clone(&self.0.turn).acquire_owned();
        let permit = turn.await.map_err(|_closed| refused("it is closed"))?;
        let intent = Intent {
            journal: self.clone(),
            stage: Stage::New,
            seq: 0,
            version: Version::default(),
            tags,
            details,
            weight: 0,
        };
        let (answer, answered) = oneshot::channel();
        let request = Request::Intend {
            entry,
            intent,
            answer,
            permit,
        };
        if self.0.requests.send(request).is_err() {
            return Err(refused(&self.0.core.why_unwritable()));
        }
        let mut intent = answered
            .await
            .map_err(|_writer_is_gone| refused("it is closed"))??;
        intent.stage = Stage::Taken;
        Ok(intent)
    }

    /// From memory: is there a newer or open local change of this file? An outcome shows here once it is
    /// written, a few milliseconds after it was handed in.
    pub fn standing(&self, file: &FileName) -> Standing {
        self.0.core.index.standing(file)
    }

    /// From memory: how full it is. Whoever wants to say that everything up to the clock's mark is settled
    /// reads the mark first and this afterwards.
    pub fn depth(&self) -> Depth {
        self.0.core.index.depth()
    }

    /// Whether intents are taken at the moment; else why not.
    pub fn writable(&self) -> Result<(), Refused> {
        let core = &self.0.core;
        if !core.taking() {
            return Err(Refused::Unwritable(core.why_unwritable()));
        }
        let bytes = core.index.bytes();
        if bytes >= self.0.max_size {
            return Err(Refused::Full { bytes });
        }
        Ok(())
    }

    /// The last number given to a change.
    pub fn last_number(&self) -> u64 {
        self.0.core.numbering().1
    }

    /// Every number up to this one is in the ledger.
    pub async fn delivered_number(&self) -> Result<u64, JournalError> {
        // Taken first: what gets its number later is above it.
        let last = self.last_number();
        self.read("read the journal's outbox", move |db| {
            let waiting = rows::first_number(db)?;
            Ok(waiting.map_or(last, |waiting| last.min(waiting - 1)))
        })
        .await
    }

    /// Sees to it that the next version of this file is above `version`, though that lies beyond what the shared clock
    /// accepts; durable when this returns. To be called before anything is done here that came with such a version.
    ///
    /// # Errors
    /// If it cannot be written, or [`MAX_FLOORS`] files are remembered in this way.
    pub async fn raise_floor(&self, file: &FileName, version: Version) -> Result<(), JournalError> {
        let doing = "remember a version that is far ahead of this machine's clock";
        let index = &self.0.core.index;
        if index.floor(file) >= Some(version) {
            return Ok(());
        }
        if index.floors() >= MAX_FLOORS {
            return Err(JournalError::Failed {
                doing,
                why: format!(
                    "{MAX_FLOORS} files have one already; check the clock (NTP) of the datacenter that they come from"
                ),
            });
        }
        let file = file.clone();
        self.ask(doing, |answer| Request::RaiseFloor {
            file,
            version,
            answer,
        })
        .await
    }

    /// Up to `limit` entries after `after`, in order.
    pub async fn entries(&self, after: u64, limit: usize) -> Result<Vec<Entry>, JournalError> {
        self.read("read entries of the journal", move |db| {
            let query = format!(
                "{} WHERE seq > ?1 ORDER BY seq LIMIT ?2",
                rows::SELECT_ENTRIES
            );
            page(db, &query, after, limit, rows::read_entry)
        })
        .await
    }

    /// Replaces entries by what the ledger shall be told of them (possibly nothing), in this order, in one
    /// transaction, and gives the changes their numbers. Durable when this returns. An entry that is
    /// not there any more was replaced before, and is passed over.
    pub async fn announce(
        &self,
        settled: Vec<(u64, Vec<Announcement>)>,
    ) -> Result<(), JournalError> {
        let settled = settled.into_iter();
        self.write_announcements(settled.map(|(seq, said)| (Some(seq), said)))
            .await
    }

    /// Tells the ledger what no intent of this journal has brought about: what clients did past the proxy. As with
    /// [`Self::announce`] the changes get their numbers, become debts and are durable when this returns. `guard` covers
    /// the files; whoever changes them next is newer than what is told.
    ///
    /// # Errors
    /// If it cannot be written. Nothing is told then.
    pub async fn tell(
        &self,
        guard: &KeyGuard,
        announcements: Vec<Announcement>,
    ) -> Result<(), JournalError> {
        for Announcement { file, version, .. } in &announcements {
            debug_assert!(
                guard.covers(file),
                "what is told needs the locks of its keys"
            );
            if !self.clock().observe(*version) {
                self.raise_floor(file, *version).await?;
            }
        }
        self.write_announcements(std::iter::once((None, announcements)))
            .await
    }

    async fn write_announcements(
        &self,
        settled: impl Iterator<Item = (Option<u64>, Vec<Announcement>)>,
    ) -> Result<(), JournalError> {
        let doing = "write announcements to the journal";
        let ready = |announcements: Vec<Announcement>| {
            announcements
                .into_iter()
                .map(NewAnnouncement::new)
                .collect::<Result<_, _>>()
        };
        let settled = settled
            .map(|(seq, announcements)| Ok((seq, ready(announcements)?)))
            .collect::<Result<_, serde_json::Error>>()
            .map_err(|why| JournalError::Failed {
                doing,
                why: why.to_string(),
            })?;
        self.ask(doing, |answer| Request::Announce { settled, answer })
            .await
    }

    /// Up to `limit` of the outbox after `after`, in order.
    pub async fn outgoing(&self, after: u64, limit: usize) -> Result<Vec<Outgoing>, JournalError> {
        // Taken before the rows are read: whatever leaves it meanwhile has left the table already.
        let confirmed = self.0.core.confirmed.all();
        self.read("read the journal's outbox", move |db| {
            let query = format!("{} WHERE id > ?1 ORDER BY id LIMIT ?2", rows::SELECT_OUTBOX);
            let mut found = page(
                db,
                &query,
                after,
                limit.saturating_add(confirmed.len()),
                rows::read_outgoing,
            )?;
            found.retain(|outgoing| !confirmed.contains_key(&outgoing.id));
            found.truncate(limit);
            Ok(found)
        })
        .await
    }

    /// What of one file is still in the outbox, in order.
    pub async fn outgoing_of(&self, file: &FileName) -> Result<Vec<Announcement>, JournalError> {
        let mut ids = self.0.core.index.outbox_of(file);
        let confirmed = self.0.core.confirmed.all();
        ids.retain(|id| !confirmed.contains_key(id));
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let file = file.clone();
        self.read("read a file in the journal's outbox", move |db| {
            let mut found = Vec::with_capacity(ids.len());
            for id in ids {
                let query = format!("{} WHERE id > ?1 ORDER BY id LIMIT ?2", rows::SELECT_OUTBOX);
                let outgoing = page(db, &query, id - 1, 1, rows::read_outgoing)?;
                // One that was confirmed meanwhile is not there, and two files may share a hash.
                let ours =
                    |outgoing: &Outgoing| outgoing.id == id && outgoing.announcement.file == file;
                found.extend(outgoing.into_iter().filter(ours).map(|o| o.announcement));
            }
            Ok(found)
        })
        .await
    }

    /// Forgets announcements that the ledger has: none is read again. Never waits: they leave the tables with the
    /// next commit, and after a kill before that they are read, and delivered, once more, which is harmless.
    ///
    /// Where the ledger `owes` ([`Ledger::owes`](crate::ledger::Ledger::owes)) each becomes a debt with the same commit.
    ///
    /// # Errors
    /// If the journal is closed.
    pub async fn confirm(&self, ids: Vec<u64>, owes: bool) -> Result<(), JournalError> {
        if self.0.core.confirmed.add(ids, owes) {
            let told = self.0.requests.send(Request::Confirmed);
            told.map_err(|_closed| JournalError::Failed {
                doing: "delete confirmed announcements from the journal",
                why: self.0.core.why_unwritable(),
            })?;
        }
        Ok(())
    }

    /// From memory: what the ledger has, but not yet everywhere. It refuses no client: `max_size` does not count it.
    pub fn debts(&self) -> Debts {
        self.0.core.owed.debts()
    }

    /// Up to `limit` of what is owed by name, behind `after`, in the order of the names.
    pub async fn owed(
        &self,
        after: Option<FileName>,
        limit: usize,
    ) -> Result<Vec<Debt>, JournalError> {
        self.read("read what is owed from the journal", move |db| {
            Ok(owed::page(db, after.as_ref(), limit)?)
        })
        .await
    }

    /// Forgets debts that are paid, but for those of which more was confirmed since they were read.
    pub async fn paid(&self, debts: Vec<Debt>) -> Result<(), JournalError> {
        self.change_debts(Change::Paid(debts)).await
    }

    /// These files are owed by name, whatever announced them.
    pub async fn owe(&self, files: Vec<(FileName, Version)>) -> Result<(), JournalError> {
        self.change_debts(Change::Owed(files)).await
    }

    /// Begins to walk over all files of the ledger, for all that has collapsed up to now; or tells where the walk is that
    /// has begun already. `None` if there is nothing to walk for.
    pub async fn begin_walk(&self) -> Result<Option<Walk>, JournalError> {
        self.change_debts(Change::WalkBegins).await?;
        Ok(self.debts().walk)
    }

    /// Remembers where the walk is.
    pub async fn walked(&self, walk: Walk) -> Result<(), JournalError> {
        self.change_debts(Change::Walked(walk)).await
    }

    /// All that the walk was for is paid, or owed by name.
    pub async fn end_walk(&self) -> Result<(), JournalError> {
        self.change_debts(Change::WalkEnds).await
    }

    async fn change_debts(&self, change: Change) -> Result<(), JournalError> {
        self.ask("write to the journal what is owed", |answer| {
            Request::Debts { change, answer }
        })
        .await
    }

    /// Waits until something may be owed that was not before, or `limit` has passed. Made for one who waits.
    pub async fn wait_for_debts(&self, limit: Duration) {
        let _either_way = tokio::time::timeout(limit, self.0.core.debts.notified()).await;
    }

    /// Waits until there may be new work to settle or deliver, or `limit` has passed. Made for one who waits: of
    /// several, one that was busy may hear of it only at its limit.
    pub async fn wait_for_work(&self, limit: Duration) {
        let _either_way = tokio::time::timeout(limit, self.0.core.work.notified()).await;
    }

    async fn ask(
        &self,
        doing: &'static str,
        request: impl FnOnce(oneshot::Sender<Result<(), JournalError>>) -> Request,
    ) -> Result<(), JournalError> {
        let failed = || JournalError::Failed {
            doing,
            why: self.0.core.why_unwritable(),
        };
        let (answer, answered) = oneshot::channel();
        self.0
            .requests
            .send(request(answer))
            .map_err(|_closed| failed())?;
        answered.await.map_err(|_writer_is_gone| failed())?
    }

    /// Reads on a connection of its own, off the runtime's threads.
    async fn read<T: Send + 'static>(
        &self,
        doing: &'static str,
        read: impl FnOnce(&Connection) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, JournalError> {
        let shared = Arc::clone(&self.0);
        let read = machine::off_the_runtime(move || read(&shared.read.lock()));
        let failed = |why: String| JournalError::Failed { doing, why };
        match read.await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(ReadError::Journal(why))) => Err(why),
            Ok(Err(ReadError::Sqlite(why))) => Err(failed(said(&why))),
            Err(why) => Err(failed(why.to_string())),
        }
    }
}

/// The permission to write changes into a stream.
pub struct Delivery<'a> {
    stream: Arc<StreamId>,
    _held: RwLockReadGuard<'a, ()>,
}

impl Delivery<'_> {
    /// Which stream.
    pub fn stream(&self) -> &StreamId {
        &self.stream
    }
}

#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
}

fn page<T>(
    db: &Connection,
    query: &str,
    after: u64,
    limit: usize,
    read: impl Fn(&rusqlite::Row<'_>) -> Result<(T, u32), JournalError>,
) -> Result<Vec<T>, ReadError> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut select = db.prepare_cached(query)?;
    let mut found = select.query([i64::try_from(after).unwrap_or(i64::MAX), limit])?;
    let mut values = Vec::new();
    while let Some(row) = found.next()? {
        values.push(read(row)?.0);
    }
    Ok(values)
}

/// An intent that is on disk: the permission to send the request, and the duty to say what became of it.
#[must_use = "an intent that is dropped counts as lost, and the tracker has to be asked"]
pub struct Intent {
    journal: Journal,
    stage: Stage,
    seq: u64,
    version: Version,
    tags: Tags,
    /// Of a put: what its row holds.
    details: Option<Details>,
    weight: u32,
}

/// How far an intent has come: what its end means if nobody says anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Not in the journal.
    New,
    /// In the journal, or in the commit that is being made, and in nobody's hands: no request can have been sent.
    Written,
    /// In somebody's hands.
    Taken,
    /// Its outcome was handed in.
    Told,
}

impl Intent {
    /// The final version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Says what became of it. Never waits.
    pub fn outcome(mut self, outcome: Outcome) {
        self.tell(outcome, None);
    }

    /// As [`Self::outcome`] with [`Outcome::Happened`], adding what was learned of the bytes meanwhile.
    pub fn happened_with(mut self, details: Details) {
        let merged = self.details.take().map(|before| {
            let merged = Details {
                class: details.class.or_else(|| before.class.clone()),
                size: details.size.or(before.size),
                checksum: details.checksum.or_else(|| before.checksum.clone()),
            };
            self.weight -= rows::weigh_details(&before);
            self.weight += rows::weigh_details(&merged);
            merged
        });
        self.tell(Outcome::Happened, merged);
    }

    fn tell(&mut self, outcome: Outcome, details: Option<Details>) {
        self.stage = Stage::Told;
        let handed_in = HandedIn {
            seq: self.seq,
            tags: std::mem::take(&mut self.tags),
            outcome,
            lost_at: (outcome == Outcome::Lost).then(|| wall_clock().0),
            details,
            weight: self.weight,
        };
        // Where the writer is gone the next start finds it without an outcome, and asks the tracker.
        let _writer_is_gone = self.journal.0.requests.send(Request::Outcome(handed_in));
    }

    pub(super) fn seq(&self) -> u64 {
        self.seq
    }

    pub(super) fn tags(&self) -> &Tags {
        &self.tags
    }

    /// The writer gives it its place.
    pub(super) fn stamp(&mut self, seq: u64, version: Version, weight: u32) {
        self.stage = Stage::Written;
        (self.seq, self.version, self.weight) = (seq, version, weight);
    }

    /// The writer could not write it; returns the place that it was to have.
    pub(super) fn unstamp(&mut self) -> Option<u64> {
        let stamped = self.stage == Stage::Written;
        self.stage = Stage::New;
        stamped.then_some(self.seq)
    }
}

impl Drop for Intent {
    fn drop(&mut self) {
        match self.stage {
            Stage::New | Stage::Told => {}
            Stage::Written => self.tell(Outcome::DidNotHappen, None),
            Stage::Taken => {
                tracing::debug!(version = %self.version, "an intent was dropped without an outcome");
                self.tell(Outcome::Lost, None);
            }
        }
    }
}
