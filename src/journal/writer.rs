//! The one thread that writes: it takes all that waits, makes one transaction of it, and answers everybody.
//!
//! Always true: requests take effect in the order in which they came, so an outcome that was handed in before
//! the next intent of its key is in the same commit or an earlier one. An intent is answered after the
//! commit's fsync. What was answered with a refusal is not in the tables, but for a failed fsync.
//! A transaction that fails is rolled back: its intents are refused, its announcements are left to the caller to repeat, and
//! outcomes and confirmations, which nobody would repeat, are kept (an intent has one outcome and an announcement
//! one confirmation, so they are no more than the rows that there are) and go with the next one that succeeds.
//! After a failed fsync the kernel may have dropped what it was to write, and another fsync would lie: nothing is
//! taken any more until the process starts anew and reads what the disk has.
//! Killed in the middle: SQLite's write-ahead log has the transaction or has not.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, TryRecvError};
use std::time::Duration;

use rusqlite::{Connection, ffi};
use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use super::core::{Core, State};
use super::folder::{Counters, said};
use super::handle::Intent;
use super::index::{Table, Tags};
use super::owed::{Change, Draft};
use super::rows::{self, NewAnnouncement, NewEntry};
use super::{Details, JournalError, Outcome, Refused};
use crate::file::FileName;
use crate::machine;
use crate::version::Version;

/// How long an outcome waits for a commit of somebody else's before it gets its own.
const PAUSE: Duration = Duration::from_millis(20);

/// How often an ailing journal is tried when nobody else tries it.
const RETRY: Duration = Duration::from_secs(1);

/// Requests in one transaction: bounds the wait of the first for the last, far above what one fsync's time brings.
const BATCH: usize = 4096;

/// Pages in the write-ahead log from which on it is copied into the file. More make checkpoints rarer and each
/// longer; 2,000 pages of 4 KiB are copied in a few milliseconds.
const CHECKPOINT: i32 = 2_000;

/// How far the clock moves (µs) from one look for floors that it has passed to the next: it means reading all of them.
const FLOORS_EVERY: i64 = 60_000_000;

/// Pages in the log that somebody must look at: 256 MiB.
const LONG_LOG: i32 = 65_536;

/// What callers ask of the writer.
pub enum Request {
    /// Write an intent, durably.
    Intend {
        entry: NewEntry,
        intent: Intent,
        answer: oneshot::Sender<Result<Intent, Refused>>,
        /// Bounds how many wait here.
        permit: OwnedSemaphorePermit,
    },
    /// Note what became of one.
    Outcome(HandedIn),
    /// Replace entries by announcements, durably; `None`: no entry stands behind these.
    Announce {
        settled: Vec<(Option<u64>, Vec<NewAnnouncement>)>,
        answer: oneshot::Sender<Result<(), JournalError>>,
    },
    /// Keep the next version of a file above this one, durably.
    RaiseFloor {
        file: FileName,
        version: Version,
        answer: oneshot::Sender<Result<(), JournalError>>,
    },
    /// Change what is owed, durably, but without haste.
    Debts {
        change: Change,
        answer: oneshot::Sender<Result<(), JournalError>>,
    },
    /// Remember a text in place of the one before, and where the clock stands, durably.
    Remember {
        text: String,
        /// The incarnation that begins with this: all that is in the outbox is numbered anew for it.
        begins: Option<String>,
        answer: oneshot::Sender<Result<(), JournalError>>,
    },
    /// There are confirmed announcements to delete.
    Confirmed,
    /// Write what waits, and end.
    Close,
}

/// Where requests are handed in.
pub struct Requests {
    queue: mpsc::Sender<Request>,
    /// For a writer that is a task.
    bell: Arc<Notify>,
}

/// Where the writer takes them from.
pub struct Queue {
    queue: mpsc::Receiver<Request>,
    bell: Arc<Notify>,
}

/// The way of requests to the writer.
pub fn requests() -> (Requests, Queue) {
    let (hand_in, queue) = mpsc::channel();
    let bell = Arc::new(Notify::new());
    let requests = Requests {
        queue: hand_in,
        bell: Arc::clone(&bell),
    };
    (requests, Queue { queue, bell })
}

impl Requests {
    /// Never waits.
    ///
    /// # Errors
    /// If the writer has ended.
    pub fn send(&self, request: Request) -> Result<(), WriterEnded> {
        let sent = self.queue.send(request).map_err(|_ended| WriterEnded);
        self.bell.notify_one();
        sent
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        self.bell.notify_one();
    }
}

/// Nobody takes requests any more.
#[derive(Debug)]
pub struct WriterEnded;

/// An outcome on its way into its row.
pub struct HandedIn {
    pub seq: u64,
    pub tags: Tags,
    pub outcome: Outcome,
    pub lost_at: Option<i64>,
    /// All that is known of a put's bytes now, if that is more than before.
    pub details: Option<Details>,
    /// What the row counts for with that.
    pub weight: u32,
}

/// An intent with its number and version, not yet written.
struct Stamped {
    entry: NewEntry,
    intent: Intent,
    /// Whether its version is beyond the shared clock.
    beyond: bool,
    answer: oneshot::Sender<Result<Intent, Refused>>,
    /// Given back with the answer.
    _permit: OwnedSemaphorePermit,
}

/// What goes into a transaction in the order in which it came.
enum Work {
    Intend(Stamped),
    Outcome(HandedIn),
    Announce {
        settled: Vec<(Option<u64>, Vec<NewAnnouncement>)>,
        answer: oneshot::Sender<Result<(), JournalError>>,
    },
    RaiseFloor {
        file: FileName,
        version: Version,
        answer: oneshot::Sender<Result<(), JournalError>>,
    },
    Debts {
        change: Change,
        answer: oneshot::Sender<Result<(), JournalError>>,
    },
    Remember {
        text: String,
        begins: Option<String>,
        answer: oneshot::Sender<Result<(), JournalError>>,
    },
}

/// What a transaction does to the index: what it adds is there before the commit, so that whoever sees a row in the
/// tables finds it in the index too; what it takes away goes when it has succeeded.
enum Effect {
    Outcome {
        seq: u64,
        tags: Tags,
        open: bool,
        weight: u32,
    },
    Gone(Table, u64, Tags),
    Announced {
        id: u64,
        tags: Tags,
    },
    Floor(u64, Version),
    /// The clock has passed all floors up to its mark.
    FloorsPassed(Version),
    /// The journal has a new incarnation.
    Begun(String),
}

/// What a transaction that has succeeded means for what is in memory.
struct Written {
    effects: Vec<Effect>,
    owed: Draft,
    after: Counters,
}

/// The writer thread's own.
pub struct Writer {
    db: Connection,
    core: Arc<Core>,
    requests: Queue,
    max_size: u64,
    counters: Counters,
    /// Taken from the queue, not yet written, in order.
    waiting: Vec<Work>,
    checkpoint_at: i32,
    /// Up to where floors were looked for that the clock has passed.
    floors_dropped: Version,
    /// Given up with the thread.
    _lock: File,
    /// Last, since fields are dropped in order: whoever waits for the end finds the folder free.
    _ended: Ended,
}

/// Says at the thread's end, also after a panic, that nobody writes any more.
struct Ended(Arc<Core>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.end();
    }
}

thread_local! {
    /// Pages in the write-ahead log after this thread's last commit.
    static LOG: Cell<i32> = const { Cell::new(0) };
}

/// A wait for requests.
struct Receiving {
    /// When it ends whatever has come.
    limit: Option<Instant>,
    /// Somebody waits for the commit.
    urgent: bool,
}

/// How a wait for requests goes on.
enum Step {
    Received(Received),
    Wait(Option<Instant>),
}

/// Why [`Writer::receive`] came back.
#[derive(PartialEq, Eq)]
enum Received {
    Something,
    NoMore,
}

impl Writer {
    pub fn new(
        db: Connection,
        lock: File,
        core: Arc<Core>,
        requests: Queue,
        max_size: u64,
        counters: Counters,
    ) -> Self {
        Self {
            db,
            _ended: Ended(Arc::clone(&core)),
            core,
            requests,
            max_size,
            counters,
            waiting: Vec::new(),
            checkpoint_at: CHECKPOINT,
            floors_dropped: Version(0),
            _lock: lock,
        }
    }

    /// Runs until the journal is closed or its last handle is gone.
    pub fn run(mut self) {
        self.begin();
        loop {
            let received = self.receive();
            self.commit();
            if received == Received::NoMore {
                break;
            }
        }
        self.finish();
    }

    /// As [`Self::run`], for one thread that plays several machines.
    pub async fn run_as_task(mut self) {
        self.begin();
        loop {
            let received = self.receive_as_task().await;
            self.commit();
            if received == Received::NoMore {
                break;
            }
        }
        self.finish();
    }

    fn begin(&self) {
        self.db.wal_hook(Some(|_, pages| {
            LOG.set(pages);
            Ok(())
        }));
    }

    fn finish(&mut self) {
        if !self.waiting.is_empty() {
            tracing::warn!(
                outcomes = self.waiting.len(),
                "the journal ends without these outcomes, since it cannot be written; the next start asks the tracker"
            );
        }
        if !self.core.stopped() {
            // Leaves the operator one file to look at. All is durable without it.
            self.checkpoint("PRAGMA wal_checkpoint(TRUNCATE)");
        }
    }

    /// Waits for requests and takes all there are.
    fn receive(&mut self) -> Received {
        let mut receiving = self.begin_receiving();
        loop {
            let next = match self.take_all(&mut receiving) {
                Step::Received(received) => return received,
                Step::Wait(None) => self
                    .requests
                    .queue
                    .recv()
                    .map_err(|_gone| RecvTimeoutError::Disconnected),
                Step::Wait(Some(limit)) => self
                    .requests
                    .queue
                    .recv_timeout(limit.saturating_duration_since(Instant::now())),
            };
            match next {
                Ok(Request::Close) | Err(RecvTimeoutError::Disconnected) => {
                    return Received::NoMore;
                }
                Ok(request) => receiving.urgent |= self.take(request),
                Err(RecvTimeoutError::Timeout) => return Received::Something,
            }
        }
    }

    async fn receive_as_task(&mut self) -> Received {
        let mut receiving = self.begin_receiving();
        loop {
            let limit = match self.take_all(&mut receiving) {
                Step::Received(received) => return received,
                Step::Wait(limit) => limit,
            };
            let rung = self.requests.bell.notified();
            match limit {
                None => rung.await,
                Some(limit) => {
                    if tokio::time::timeout_at(limit, rung).await.is_err() {
                        return Received::Something;
                    }
                }
            }
        }
    }

    fn begin_receiving(&self) -> Receiving {
        Receiving {
            limit: self.core.ailing().then(|| Instant::now() + RETRY),
            urgent: false,
        }
    }

    /// Takes all that is there, and says whether more is to be waited for.
    fn take_all(&mut self, receiving: &mut Receiving) -> Step {
        while self.waiting.len() < BATCH {
            match self.requests.queue.try_recv() {
                Ok(Request::Close) | Err(TryRecvError::Disconnected) => {
                    return Step::Received(Received::NoMore);
                }
                Ok(request) => receiving.urgent |= self.take(request),
                Err(TryRecvError::Empty) => break,
            }
        }
        let full = self.waiting.len() >= BATCH && !self.core.ailing();
        if receiving.urgent || full {
            return Step::Received(Received::Something);
        }
        let lazy = !self.waiting.is_empty() || self.core.confirmed.any();
        if receiving.limit.is_none() && lazy && !self.core.stopped() {
            receiving.limit = Some(Instant::now() + PAUSE);
        }
        Step::Wait(receiving.limit)
    }

    /// Puts a request where it belongs. True if somebody waits for its commit.
    fn take(&mut self, request: Request) -> bool {
        match request {
            Request::Intend {
                entry,
                intent,
                answer,
                permit,
            } => {
                // Whoever has gone has released its lock, and must not be found in the journal later.
                if !answer.is_closed() {
                    self.waiting.push(Work::Intend(Stamped {
                        entry,
                        intent,
                        beyond: false,
                        answer,
                        _permit: permit,
                    }));
                }
            }
            Request::Outcome(handed_in) => {
                if !self.core.stopped() {
                    self.waiting.push(Work::Outcome(handed_in));
                }
                return false;
            }
            Request::Announce { settled, answer } => {
                self.waiting.push(Work::Announce { settled, answer });
            }
            Request::RaiseFloor {
                file,
                version,
                answer,
            } => self.waiting.push(Work::RaiseFloor {
                file,
                version,
                answer,
            }),
            Request::Debts { change, answer } => {
                self.waiting.push(Work::Debts { change, answer });
                // What is paid need not be forgotten at once: it rides on somebody else's commit.
                return false;
            }
            Request::Remember {
                text,
                begins,
                answer,
            } => self.waiting.push(Work::Remember {
                text,
                begins,
                answer,
            }),
            Request::Confirmed | Request::Close => return false,
        }
        true
    }

    /// One transaction for all that waits, and the answers.
    fn commit(&mut self) {
        if self.core.stopped() {
            return self.refuse(&self.core.why_unwritable());
        }
        let after = self.stamp();
        let confirmed = self.core.confirmed.all();
        if self.waiting.is_empty() && confirmed.is_empty() && !self.core.ailing() {
            return;
        }
        let mut tried = self.try_write(after, &confirmed);
        if tried.as_ref().is_err_and(|why| !is_lost_sync(why)) && LOG.get() > 0 {
            // Where there is no room for the log to grow there may be room to start it anew.
            if self.checkpoint("PRAGMA wal_checkpoint(PASSIVE)") && !self.core.stopped() {
                tried = self.try_write(after, &confirmed);
            }
        }
        match tried {
            Ok(written) => {
                self.committed(written);
                self.core.confirmed.deleted(&confirmed);
            }
            Err(why) => self.failed(&why),
        }
        if LOG.get() >= self.checkpoint_at && !self.core.ailing() {
            self.checkpoint("PRAGMA wal_checkpoint(PASSIVE)");
        }
    }

    /// Gives every waiting intent its place and version, or refuses it. Returns where the counters then stand.
    fn stamp(&mut self) -> Counters {
        let mut after = self.counters;
        let mut stamped = 0;
        for work in std::mem::take(&mut self.waiting) {
            let Work::Intend(mut new) = work else {
                self.waiting.push(work);
                continue;
            };
            let bytes = self.core.index.bytes();
            if bytes >= self.max_size {
                let _gone = new.answer.send(Err(Refused::Full { bytes }));
                continue;
            }
            let weight = new.entry.weight();
            let tags = new.intent.tags();
            after.seq += 1;
            stamped += 1;
            let (version, beyond) =
                self.core
                    .index
                    .stamp(&self.core.clock, after.seq, tags, weight);
            new.beyond = beyond;
            new.intent.stamp(after.seq, version, weight);
            self.waiting.push(Work::Intend(new));
        }
        let remembers = |work: &Work| matches!(work, Work::Remember { .. });
        if stamped > 0 || self.core.ailing() || self.waiting.iter().any(remembers) {
            after.mark = self.core.clock.mark().max(after.mark);
        }
        after
    }

    /// The transaction. What it takes away in memory is for the caller to do when it has succeeded.
    fn try_write(
        &self,
        after: Counters,
        confirmed: &BTreeMap<u64, bool>,
    ) -> rusqlite::Result<Written> {
        let mut effects = Vec::with_capacity(self.waiting.len());
        match self.write(after, confirmed, &mut effects) {
            Ok((after, owed)) => Ok(Written {
                effects,
                owed,
                after,
            }),
            Err(why) => {
                for effect in effects {
                    if let Effect::Announced { id, tags } = effect {
                        self.core.index.remove(Table::Outbox, id, &tags);
                    }
                }
                Err(why)
            }
        }
    }

    fn write(
        &self,
        mut after: Counters,
        confirmed: &BTreeMap<u64, bool>,
        effects: &mut Vec<Effect>,
    ) -> rusqlite::Result<(Counters, Draft)> {
        fail::fail_point!("journal::write", |code| Err(injected(code)));
        if machine::disk_is_full() {
            return Err(injected(None));
        }
        let transaction = self.db.unchecked_transaction()?;
        let mut owed = self.core.owed.draft();
        // First, so that what is numbered anew is only what has yet to be told.
        for (id, owes) in confirmed {
            if let Some((file, version)) = rows::delete_outgoing(&self.db, *id)? {
                let tags = self.core.index.tags(&[&file]);
                effects.push(Effect::Gone(Table::Outbox, *id, tags));
                if *owes {
                    owed.owe(&self.db, &file, version, *id)?;
                }
            }
        }
        for work in &self.waiting {
            match work {
                Work::Intend(new) => {
                    let version = new.intent.version();
                    new.entry.insert(&self.db, new.intent.seq(), version)?;
                    if new.beyond {
                        for file in new.entry.files() {
                            effects.push(self.raise_floor(file, version)?);
                        }
                    }
                }
                Work::Outcome(handed_in) => effects.push(self.note(handed_in)?),
                Work::Announce { settled, .. } => {
                    for (seq, announcements) in settled {
                        self.announce(*seq, announcements, &mut after, effects)?;
                    }
                }
                Work::RaiseFloor { file, version, .. } => {
                    effects.push(self.raise_floor(file, *version)?);
                }
                Work::Debts { change, .. } => owed.change(&self.db, change)?,
                Work::Remember { text, begins, .. } => {
                    rows::remember(&self.db, text)?;
                    if let Some(incarnation) = begins {
                        rows::set_incarnation(&self.db, incarnation)?;
                        after.number = rows::renumber(&self.db)?;
                        effects.push(Effect::Begun(incarnation.clone()));
                    }
                }
            }
        }
        if self.core.index.floors() > 0 && after.mark.0 >= self.floors_dropped.0 + FLOORS_EVERY {
            rows::drop_floors(&self.db, after.mark)?;
            effects.push(Effect::FloorsPassed(after.mark));
        }
        owed.finish(&self.db)?;
        after.save(&self.db, &self.counters)?;
        transaction.commit()?;
        fail::fail_point!("journal::sync", |code| Err(injected(code)));
        Ok((after, owed))
    }

    fn raise_floor(&self, file: &FileName, version: Version) -> rusqlite::Result<Effect> {
        rows::raise_floor(&self.db, file, version)?;
        Ok(Effect::Floor(self.core.index.tag(file), version))
    }

    fn note(&self, handed_in: &HandedIn) -> rusqlite::Result<Effect> {
        let HandedIn {
            seq,
            tags,
            outcome,
            lost_at,
            details,
            weight,
        } = handed_in;
        if *outcome == Outcome::DidNotHappen {
            rows::delete_entry(&self.db, *seq)?;
            return Ok(Effect::Gone(Table::Entries, *seq, tags.clone()));
        }
        rows::set_outcome(&self.db, *seq, *outcome, *lost_at, details.as_ref())?;
        Ok(Effect::Outcome {
            seq: *seq,
            tags: tags.clone(),
            open: *outcome != Outcome::Happened,
            weight: *weight,
        })
    }

    fn announce(
        &self,
        seq: Option<u64>,
        announcements: &[NewAnnouncement],
        after: &mut Counters,
        effects: &mut Vec<Effect>,
    ) -> rusqlite::Result<()> {
        if let Some(seq) = seq {
            let Some(files) = rows::delete_entry(&self.db, seq)? else {
                // Announced before: what it was to say has its numbers already.
                tracing::debug!(seq, "an entry is announced a second time; once is enough");
                return Ok(());
            };
            let files: Vec<_> = files.iter().collect();
            let tags = self.core.index.tags(&files);
            effects.push(Effect::Gone(Table::Entries, seq, tags));
        }
        for announcement in announcements {
            after.id += 1;
            let number = announcement.change.then(|| {
                after.number += 1;
                after.number
            });
            let tags = Tags::from_slice(&[self.core.index.tag(&announcement.file)]);
            let (version, weight) = (announcement.version, announcement.weight());
            let index = &self.core.index;
            index.add(Table::Outbox, after.id, version, false, &tags, weight);
            effects.push(Effect::Announced { id: after.id, tags });
            announcement.insert(&self.db, after.id, number)?;
        }
        Ok(())
    }

    fn committed(&mut self, written: Written) {
        let Written {
            effects,
            owed,
            after,
        } = written;
        self.counters = after;
        let begun = effects.iter().rev().find_map(|effect| match effect {
            Effect::Begun(incarnation) => Some(incarnation.clone()),
            _ => None,
        });
        self.core.set_numbering(after.number, begun);
        // Before it leaves the outbox in memory: at no moment is it in neither.
        if !owed.is_empty() && self.core.owed.enter(owed) {
            self.core.debts.notify_one();
        }
        let mut work_to_do = false;
        for effect in effects {
            match effect {
                Effect::Outcome {
                    seq,
                    tags,
                    open,
                    weight,
                } => {
                    self.core.index.set_outcome(seq, &tags, open, weight);
                    work_to_do = true;
                }
                Effect::Gone(table, number, tags) => self.core.index.remove(table, number, &tags),
                Effect::Announced { .. } | Effect::Begun(_) => work_to_do = true,
                Effect::Floor(tag, version) => self.core.index.raise_floor(tag, version),
                Effect::FloorsPassed(mark) => {
                    self.core.index.drop_floors(mark);
                    self.floors_dropped = mark;
                }
            }
        }
        self.core.set_state(State::Taking);
        for work in self.waiting.drain(..) {
            match work {
                Work::Intend(Stamped { intent, answer, .. }) => {
                    // One that nobody takes any more says by itself that it did not happen.
                    let _gone = answer.send(Ok(intent));
                }
                Work::Announce { answer, .. }
                | Work::RaiseFloor { answer, .. }
                | Work::Debts { answer, .. }
                | Work::Remember { answer, .. } => {
                    let _gone = answer.send(Ok(()));
                }
                Work::Outcome(_) => {}
            }
        }
        if work_to_do {
            self.core.wake();
        }
    }

    fn failed(&mut self, why: &rusqlite::Error) {
        if is_lost_sync(why) {
            self.stop(why);
        } else {
            self.core.set_state(State::Ailing(said(why)));
        }
        self.refuse(&said(why));
    }

    /// Answers everybody that it did not work; keeps what nobody would repeat.
    fn refuse(&mut self, why: &str) {
        let stopped = self.core.stopped();
        for work in std::mem::take(&mut self.waiting) {
            match work {
                Work::Intend(Stamped {
                    mut intent, answer, ..
                }) => {
                    if let Some(seq) = intent.unstamp() {
                        self.core.index.remove(Table::Entries, seq, intent.tags());
                    }
                    let _gone = answer.send(Err(Refused::Unwritable(why.to_owned())));
                }
                Work::Announce { answer, .. } => {
                    let _gone = answer.send(Err(JournalError::Failed {
                        doing: "write announcements to the journal",
                        why: why.to_owned(),
                    }));
                }
                Work::RaiseFloor { answer, .. } => {
                    let _gone = answer.send(Err(JournalError::Failed {
                        doing: "write a version far ahead to the journal",
                        why: why.to_owned(),
                    }));
                }
                Work::Debts { answer, .. } => {
                    let _gone = answer.send(Err(JournalError::Failed {
                        doing: "write to the journal what is owed",
                        why: why.to_owned(),
                    }));
                }
                Work::Remember { answer, .. } => {
                    let _gone = answer.send(Err(JournalError::Failed {
                        doing: "remember in the journal what the ledger is told",
                        why: why.to_owned(),
                    }));
                }
                Work::Outcome(_) if stopped => {}
                Work::Outcome(handed_in) => self.waiting.push(Work::Outcome(handed_in)),
            }
        }
    }

    /// Copies the log into the file, so that the log can begin anew. True if all of it was copied.
    fn checkpoint(&mut self, pragma: &str) -> bool {
        let done = self.db.query_row(pragma, [], |row| {
            Ok((row.get::<_, i32>(1)?, row.get::<_, i32>(2)?))
        });
        match done {
            Ok((pages, copied)) => {
                let all = pages == copied;
                self.checkpoint_at = CHECKPOINT + if all { 0 } else { pages };
                if !all && pages > LONG_LOG {
                    tracing::warn!(
                        pages,
                        "the journal's write-ahead log grows, since somebody reads it without an end; is an sqlite3 tool open on it?"
                    );
                }
                all
            }
            Err(why) if is_lost_sync(&why) => {
                self.stop(&why);
                false
            }
            Err(why) => {
                tracing::debug!("copy the journal's log into its file: {}", said(&why));
                self.checkpoint_at = LOG.get() + CHECKPOINT;
                false
            }
        }
    }

    fn stop(&self, why: &rusqlite::Error) {
        self.core.set_state(State::Stopped(said(why)));
    }
}

/// Whether an fsync failed, after which nothing that the kernel says of these files can be trusted.
fn is_lost_sync(why: &rusqlite::Error) -> bool {
    matches!(
        why,
        rusqlite::Error::SqliteFailure(code, _)
            if matches!(code.extended_code, ffi::SQLITE_IOERR_FSYNC | ffi::SQLITE_IOERR_DIR_FSYNC)
    )
}

/// The error that a test asks for by its number; a full disk if it gives none.
fn injected(code: Option<String>) -> rusqlite::Error {
    let code = code.and_then(|code| code.parse().ok());
    rusqlite::Error::SqliteFailure(ffi::Error::new(code.unwrap_or(ffi::SQLITE_FULL)), None)
}
