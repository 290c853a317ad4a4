//! The tail: what the nodes of other datacenters have changed, from the cursor of each stream on.
//!
//! Always true: a cursor passes an entry only when it is done or parked by name in `gaps`, and stands before the first
//! hole. Entries beyond a hole are worked on meanwhile, up to [`REACH`]. A hole whose changes are gone from the ledger (they
//! expire, or nobody can read them) is passed when a scan has ended that began after it was found; until then nothing is "in sync". At most [`WINDOW`] entries of
//! a stream are in work; when they are, those that take long are parked as being in progress, so
//! that neither a slow file nor a poisonous one holds up the rest.
//! A stream whose node has another journal by now was left: what that node changed and did not tell in it is found by a scan that
//! began after this was seen. When that was is kept beside the cursors.
//! Killed in the middle: what lies beyond the cursor is done again, which is harmless.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::found::was_found;
use crate::ledger::{Change, Cursor, Expected, LedgerError, StreamId, Strength};
use crate::machine::{self, Rule, keeps};
use crate::version::{Version, wall_clock};

use super::Shared;
use super::status::{Progress, State, StreamProgress};
use super::work::Crew;
use super::worker::{Turn, Worker, turns};

/// Entries of one stream that are in work at a time.
const WINDOW: usize = 1_000;

/// Room for so many entries is used at once. Less waits for more, but not for long: a read is a page of one partition, whether it
/// brings one entry or hundreds.
const MUCH_ROOM: usize = WINDOW / 4;
const A_MOMENT: Duration = Duration::from_millis(100);

/// How far beyond its cursor a stream is read: numbers that are kept in memory because of a hole.
const REACH: u64 = 20_000;

/// How often the nodes are asked for, and what is missing is read again.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often a cursor is saved while it moves.
const SAVE_EVERY: Duration = Duration::from_secs(1);

/// A change that the ledger once had, and does not show to all its datacenters for this time, is given up to a scan:
/// longer than any copy of the ledger needs to come back with what the others have, if it comes back at all.
const LOST: Duration = Duration::from_secs(60);

/// All streams of other datacenters, each with a reader of its own.
struct Tail {
    shared: Arc<Shared>,
    readers: JoinSet<()>,
    followed: BTreeSet<StreamId>,
    left: BTreeSet<StreamId>,
}

pub(super) async fn begin(shared: Arc<Shared>) -> Result<Box<dyn Worker>, LedgerError> {
    Ok(Box::new(Tail {
        shared,
        readers: JoinSet::new(),
        followed: BTreeSet::new(),
        left: BTreeSet::new(),
    }))
}

#[async_trait]
impl Worker for Tail {
    /// Looks who there is to be read.
    async fn turn(&mut self) -> Result<Turn, LedgerError> {
        // A reader ends by itself only when repair stops. After a panic all begin again, from their cursors.
        while let Some(ended) = self.readers.try_join_next() {
            if let Err(panic) = ended {
                std::panic::resume_unwind(panic.into_panic());
            }
        }
        self.look().await?;
        Ok(Turn::Idle(LOOK_EVERY))
    }

    async fn finish(&mut self) {
        while self.readers.join_next().await.is_some() {}
    }
}

impl Tail {
    async fn look(&mut self) -> Result<(), LedgerError> {
        let shared = &self.shared;
        let reconciler = &shared.reconciler;
        let mut nodes = reconciler.ledger.nodes().await?;
        reconciler.trouble.end();
        nodes.retain(|node| node.stream.datacenter != reconciler.datacenter);
        for node in &nodes {
            if self.followed.insert(node.stream.clone()) {
                let reader = Follower::new(Arc::clone(shared), node.stream.clone());
                let (shared, figures) = (Arc::clone(shared), Arc::clone(&shared.tail));
                machine::spawn_in(&mut self.readers, async move {
                    turns(Box::new(reader), &shared, &figures).await;
                });
            }
        }
        let read = wall_clock();
        // The clock of a stream that was left has no say any more.
        let mut current = nodes.clone();
        current.retain(|node| !super::is_superseded(&nodes, &node.stream));
        shared.clocks.look(&current, read);
        for node in nodes.iter().filter(|node| node.is_unread()) {
            shared.tail.note(format!(
                "what {} says of itself cannot be read; nobody is in sync while that stands in the ledger",
                node.stream
            ));
        }
        let superseded = nodes
            .iter()
            .filter(|node| super::is_superseded(&nodes, &node.stream));
        for node in superseded {
            if !self.left.contains(&node.stream) {
                note_left(shared, &node.stream).await?;
                self.left.insert(node.stream.clone());
            }
        }
        // Not before: from here on it is not waited for what those that were left say.
        *shared.nodes.lock() = Some((read, nodes));
        Ok(())
    }
}

/// Asks for a scan that begins after this stream was first seen to be left.
async fn note_left(shared: &Shared, stream: &StreamId) -> Result<(), LedgerError> {
    let reconciler = &shared.reconciler;
    let name = format!("left {stream}");
    let known = reconciler
        .ledger
        .cursor(&reconciler.datacenter, &name)
        .await?;
    let since = match known {
        Some(known) => Version(known.number as i64),
        None => {
            // By the wall clock, as a scan says when it began.
            let since = wall_clock();
            let cursor = Cursor {
                name,
                number: since.0 as u64,
                note: String::new(),
                updated: reconciler.now(),
            };
            reconciler
                .ledger
                .set_cursor(&reconciler.datacenter, &cursor)
                .await?;
            tracing::info!(%stream, "this node has another journal now; all files are scanned for what it had not told");
            since
        }
    };
    let mut left = shared.left.lock();
    *left = since.max(*left);
    Ok(())
}

/// Where a reader of one stream is.
struct Reader {
    stream: StreamId,
    /// The highest number that was met.
    met: u64,
    holes: BTreeSet<u64>,
    /// The newest version that was met.
    newest: Option<Version>,
    /// Nothing beyond `met` could be taken when it was last read for.
    dry: bool,
    /// The cursor as the ledger has it.
    saved: u64,
    saved_at: Instant,
    /// When it was last read for what lies beyond `met`.
    read_at: Instant,
    /// When what is missing is next read again.
    look_at: Instant,
    missing: Option<Missing>,
}

/// What is missing from a stream although the ledger had it, as it was when its first number was first missed.
struct Missing {
    first: u64,
    since: Instant,
    /// `since` by the wall clock.
    seen: Version,
    /// Up to where the ledger had everything by then, as the node had said.
    delivered: u64,
    /// Whether a scan was asked for.
    scan_asked: bool,
}

impl Reader {
    fn at(stream: &StreamId, saved: u64) -> Reader {
        let now = Instant::now();
        Reader {
            stream: stream.clone(),
            met: saved,
            holes: BTreeSet::new(),
            newest: None,
            dry: false,
            saved,
            saved_at: now,
            read_at: now - A_MOMENT,
            look_at: now + LOOK_EVERY,
            missing: None,
        }
    }

    /// Everything up to here is done or parked.
    fn cursor(&self, crew: &Crew) -> u64 {
        let open = [crew.first_open(), self.holes.first().copied()]
            .into_iter()
            .flatten()
            .min();
        open.map_or(self.met, |open| open - 1)
    }

    /// How many more entries may be in work.
    fn room(&self, crew: &Crew) -> usize {
        let reach = (self.cursor(crew) + REACH).saturating_sub(self.met) as usize;
        WINDOW.saturating_sub(crew.len()).min(reach)
    }

    /// Begins with entries that were read, as far as they are new and within reach. How many.
    fn take(&mut self, entries: &[Change], crew: &mut Crew) -> usize {
        let reach = self.cursor(crew) + REACH;
        let mut taken = 0;
        for entry in entries {
            if entry.number <= self.met {
                if !self.holes.remove(&entry.number) {
                    continue;
                }
            } else if entry.number <= reach && crew.len() < WINDOW {
                if keeps(Rule::HolesStay) {
                    self.holes.extend(self.met + 1..entry.number);
                }
                self.met = entry.number;
            } else {
                break;
            }
            taken += 1;
            self.newest = self.newest.max(Some(entry.version));
            if let Some(file) = &entry.file {
                // What was there before there was a proxy is not late.
                let since = Some(entry.version).filter(|version| !was_found(*version));
                crew.start(
                    entry.number,
                    file.clone(),
                    Expected::by(&self.stream, entry),
                    since,
                );
            }
        }
        taken
    }

    /// The first number that should be there and is not. `delivered`: as the node says, the ledger has all up to there.
    fn first_missing(&self, delivered: u64) -> Option<u64> {
        let at_the_end = self.dry && self.met < delivered;
        let hole = self.holes.first().copied();
        hole.or(at_the_end.then_some(self.met + 1))
    }

    /// Counts all up to `lost` as passed that is not among `found`, which was read from the first hole on.
    fn give_up(&mut self, lost: u64, found: &[Change]) {
        self.holes.retain(|hole| *hole > lost);
        let next = found.iter().map(|entry| entry.number);
        let next = next.filter(|number| *number > self.met).min();
        let lost = lost.min(next.map_or(u64::MAX, |next| next - 1));
        self.met = self.met.max(lost);
        self.missing = None;
    }
}

/// Follows one stream until repair stops.
struct Follower {
    shared: Arc<Shared>,
    stream: StreamId,
    /// `None` until its cursor was read.
    reader: Option<Reader>,
    crew: Crew,
}

impl Follower {
    fn new(shared: Arc<Shared>, stream: StreamId) -> Follower {
        let crew = Crew::new(Arc::clone(&shared.reconciler), Arc::clone(&shared.tail));
        Follower {
            shared,
            stream,
            reader: None,
            crew,
        }
    }
}

#[async_trait]
impl Worker for Follower {
    /// Reads what there is, or waits until there is something.
    async fn turn(&mut self) -> Result<Turn, LedgerError> {
        let Follower {
            shared,
            stream,
            reader,
            crew,
        } = self;
        let ledger = &shared.reconciler.ledger;
        let reader = match reader {
            Some(reader) => reader,
            None => {
                let name = stream.to_string();
                let cursor = ledger.cursor(&shared.reconciler.datacenter, &name).await?;
                reader.insert(Reader::at(stream, cursor.map_or(0, |cursor| cursor.number)))
            }
        };
        crew.gather();
        let news = ledger.news();
        let read = round(shared, stream, reader, crew).await?;
        report(shared, stream, reader, crew);
        if read > 0 {
            return Ok(Turn::Worked);
        }
        // What ends meanwhile is no reason to read again, unless there was no room.
        let limit = if reader.dry { LOOK_EVERY } else { A_MOMENT };
        let news = ledger.wait_for_news_since(news, limit);
        tokio::pin!(news);
        loop {
            tokio::select! {
                biased;
                () = shared.reconciler.stop.cancelled() => break,
                () = &mut news => break,
                () = crew.wait_for_one() => {
                    crew.gather();
                    save_if_due(shared, stream, reader, crew).await?;
                    report(shared, stream, reader, crew);
                    if !reader.dry && reader.room(crew) >= MUCH_ROOM {
                        break;
                    }
                }
            }
        }
        Ok(Turn::Worked)
    }

    async fn finish(&mut self) {
        self.crew.finish().await;
        if let Some(reader) = &mut self.reader
            && let Err(error) = save(&self.shared, &self.stream, reader, &self.crew).await
        {
            tracing::debug!("save the cursor of {}: {error}", self.stream);
        }
    }
}

/// Reads what there is room for, and saves how far everything is. How many entries were read.
async fn round(
    shared: &Shared,
    stream: &StreamId,
    reader: &mut Reader,
    crew: &mut Crew,
) -> Result<usize, LedgerError> {
    let ledger = &shared.reconciler.ledger;
    if Instant::now() >= reader.look_at {
        reader.look_at = Instant::now() + LOOK_EVERY;
        look_for_missing(shared, stream, reader, crew).await?;
    }
    if crew.len() >= WINDOW {
        crew.park_slow().await?;
    }
    let room = reader.room(crew);
    let mut read = 0;
    if room >= MUCH_ROOM || (room > 0 && reader.read_at.elapsed() >= A_MOMENT) {
        let entries = ledger
            .changes(stream, reader.met, room, Strength::Local)
            .await?;
        read = reader.take(&entries, crew);
        reader.dry = read == 0;
        reader.read_at = Instant::now();
    }
    save_if_due(shared, stream, reader, crew).await?;
    shared.reconciler.trouble.end();
    Ok(read)
}

/// Reads what is missing again, more strongly. What is not to be had although the ledger once had it, since it expired
/// there or its journal was lost, is made up for by a scan of all files, and then passed.
async fn look_for_missing(
    shared: &Shared,
    stream: &StreamId,
    reader: &mut Reader,
    crew: &mut Crew,
) -> Result<(), LedgerError> {
    let delivered = shared.had(stream, reader.met);
    let Some(first) = reader.first_missing(delivered) else {
        reader.missing = None;
        return Ok(());
    };
    let ledger = &shared.reconciler.ledger;
    // One datacenter of the ledger that is away may be enough to fail this: no reason to wait with all that is there.
    let looked = ledger
        .changes(stream, first - 1, WINDOW, Strength::Global)
        .await;
    let found = match looked {
        Ok(found) => found,
        Err(error) => {
            shared.tail.note(format!(
                "{stream}: change {first} is not in this datacenter's copies of the ledger: {error}"
            ));
            return Ok(());
        }
    };
    if reader.take(&found, crew) > 0 {
        // Where many are missing, they are not waited for one look at a time.
        reader.look_at = Instant::now();
    }
    // What is not in the ledger yet may still come.
    let now = reader.first_missing(delivered);
    let now = now.filter(|first| *first <= delivered);
    let missing = match &mut reader.missing {
        Some(missing) if now == Some(missing.first) => missing,
        _ => {
            reader.missing = now.map(|first| Missing {
                first,
                since: Instant::now(),
                seen: wall_clock(),
                delivered,
                scan_asked: false,
            });
            return Ok(());
        }
    };
    let is_there = found.iter().any(|entry| entry.number == missing.first);
    if is_there || missing.since.elapsed() < lost_after() {
        return Ok(());
    }
    // Only what no datacenter's quorum has is not there: its own has it, if it is to be had at all.
    let first = missing.first;
    let found = match ledger
        .changes(stream, first - 1, WINDOW, Strength::Each)
        .await
    {
        Ok(found) => found,
        Err(error) => {
            shared.tail.note(format!(
                "{stream}: change {first} is not in the ledger's copies that answer, and not all datacenters of it do: {error}"
            ));
            return Ok(());
        }
    };
    if reader.take(&found, crew) > 0 {
        reader.look_at = Instant::now();
    }
    let Some(missing) = &mut reader.missing else {
        return Ok(());
    };
    if found.iter().any(|entry| entry.number == first) {
        return Ok(());
    }
    // Beyond a full page it is not known what is there.
    let lost = match found.last() {
        Some(last) if found.len() >= WINDOW => missing.delivered.min(last.number),
        Some(_) | None => missing.delivered,
    };
    if shared.scanned_since(missing.seen) {
        tracing::warn!(%stream, from = missing.first, up_to = lost, "changes that are gone from the ledger were made up for by a scan");
        reader.give_up(lost, &found);
    } else if !std::mem::replace(&mut missing.scan_asked, true) {
        shared.tail.note(format!(
            "{stream}: changes from {first} on are gone from the ledger; all files are scanned instead"
        ));
        shared.ask_for_scan();
    }
    Ok(())
}

/// [`LOST`], or what a test makes of it.
fn lost_after() -> Duration {
    fail::fail_point!("tail::lost_at_once", |_| Duration::ZERO);
    LOST
}

async fn save_if_due(
    shared: &Shared,
    stream: &StreamId,
    reader: &mut Reader,
    crew: &Crew,
) -> Result<(), LedgerError> {
    if reader.saved_at.elapsed() >= SAVE_EVERY || crew.len() == 0 {
        save(shared, stream, reader, crew).await?;
    }
    Ok(())
}

async fn save(
    shared: &Shared,
    stream: &StreamId,
    reader: &mut Reader,
    crew: &Crew,
) -> Result<(), LedgerError> {
    let number = reader.cursor(crew);
    if number == reader.saved {
        return Ok(());
    }
    let reconciler = &shared.reconciler;
    let cursor = Cursor {
        name: stream.to_string(),
        number,
        note: String::new(),
        updated: reconciler.now(),
    };
    reconciler
        .ledger
        .set_cursor(&reconciler.datacenter, &cursor)
        .await?;
    reader.saved = number;
    reader.saved_at = Instant::now();
    Ok(())
}

fn report(shared: &Shared, stream: &StreamId, reader: &Reader, crew: &Crew) {
    let cursor = reader.cursor(crew);
    let node = shared.node(stream);
    let last_number = node
        .as_ref()
        .map_or(0, |node| node.last_number)
        .max(reader.met);
    let heartbeat = node.as_ref().map_or(Version(0), |node| node.heartbeat);
    let open = node.as_ref().and_then(|node| {
        node.oldest_undelivered
            .into_iter()
            .chain(node.oldest_open)
            .min()
    });
    let behind = last_number.saturating_sub(cursor);
    // What cannot be read yet is newer, but for a moment's.
    let oldest_pending = crew.oldest().or(reader.newest.filter(|_| behind > 0));
    let progress = StreamProgress {
        cursor,
        last_number,
        behind,
        oldest_pending,
        in_flight: crew.len() as u64,
        hole: reader
            .holes
            .first()
            .copied()
            .or(reader.missing.as_ref().map(|missing| missing.first)),
        heartbeat,
        complete_until: open
            .filter(|_| keeps(Rule::SilenceFreezes))
            .map_or(heartbeat, |open| {
                heartbeat.min(Version(open.0.saturating_sub(1)))
            }),
    };
    let mut all = shared.tail.progress.lock();
    if !matches!(*all, Progress::Tail(_)) {
        *all = Progress::Tail(BTreeMap::new());
    }
    if let Progress::Tail(streams) = &mut *all {
        streams.insert(stream.to_string(), progress);
        let busy = streams.values().any(|stream| stream.in_flight > 0);
        shared
            .tail
            .state(if busy { State::Running } else { State::Idle });
    }
}
