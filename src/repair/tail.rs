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

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::ledger::{Change, Cursor, Expected, LedgerError, StreamId, Strength};
use crate::machine::{self, Rule, keeps};
use crate::version::{Version, wall_clock};

use super::Shared;
use super::status::{Progress, State, StreamProgress};
use super::trouble::Pauses;
use super::work::Crew;

/// Entries of one stream that are in work at a time.
const WINDOW: usize = 1_000;

/// How far beyond its cursor a stream is read: numbers that are kept in memory because of a hole.
const REACH: u64 = 20_000;

/// How often the nodes are asked for, and what is missing is read again.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often a cursor is saved while it moves.
const SAVE_EVERY: Duration = Duration::from_secs(1);

/// A change that the ledger once had, and does not show to all its datacenters for this time, is given up to a scan:
/// longer than any copy of the ledger needs to come back with what the others have, if it comes back at all.
const LOST: Duration = Duration::from_secs(60);

/// All streams of other datacenters.
pub(super) async fn run(shared: Arc<Shared>) -> Result<(), LedgerError> {
    let reconciler = &shared.reconciler;
    let mut streams = JoinSet::new();
    let mut followed: BTreeSet<StreamId> = BTreeSet::new();
    let mut left: BTreeSet<StreamId> = BTreeSet::new();
    while !reconciler.stop.is_cancelled() {
        match reconciler.ledger.nodes().await {
            Ok(mut nodes) => {
                reconciler.trouble.end();
                nodes.retain(|node| node.stream.datacenter != reconciler.datacenter);
                for node in &nodes {
                    if followed.insert(node.stream.clone()) {
                        let following = follow(Arc::clone(&shared), node.stream.clone());
                        machine::spawn_in(&mut streams, following);
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
                let newly: Vec<StreamId> = superseded
                    .map(|node| node.stream.clone())
                    .filter(|stream| !left.contains(stream))
                    .collect();
                let mut all_noted = Ok(());
                for stream in newly {
                    all_noted = note_left(&shared, &stream).await;
                    if all_noted.is_err() {
                        break;
                    }
                    left.insert(stream);
                }
                match all_noted {
                    // Not before: from here on it is not waited for what those that were left say.
                    Ok(()) => *shared.nodes.lock() = Some((read, nodes)),
                    Err(error) => reconciler.trouble.begin(&error),
                }
            }
            Err(error) => {
                reconciler.trouble.begin(&error);
                shared.tail.note(error.to_string());
            }
        }
        tokio::select! {
            biased;
            () = reconciler.stop.cancelled() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
            Some(ended) = streams.join_next() => {
                // A reader ends by itself only when repair stops. After a panic all begin again, from their cursors.
                if let Err(panic) = ended {
                    std::panic::resume_unwind(panic.into_panic());
                }
            }
        }
    }
    while streams.join_next().await.is_some() {}
    Ok(())
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
    /// Nothing beyond `met` could be taken when it was last read for.
    dry: bool,
    /// The cursor as the ledger has it.
    saved: u64,
    saved_at: Instant,
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
            dry: false,
            saved,
            saved_at: now,
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
            if let Some(file) = &entry.file {
                crew.start(
                    entry.number,
                    file.clone(),
                    Expected::by(&self.stream, entry),
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
async fn follow(shared: Arc<Shared>, stream: StreamId) {
    let reconciler = &shared.reconciler;
    let name = stream.to_string();
    let mut reader = None;
    let mut crew = Crew::new(Arc::clone(reconciler), Arc::clone(&shared.tail));
    let mut pauses = Pauses::default();
    while !reconciler.stop.is_cancelled() {
        shared.tail.unless_paused().await;
        crew.gather();
        let news = reconciler.ledger.news();
        let read = match round(&shared, &stream, &mut reader, &mut crew).await {
            Ok(read) => read,
            Err(error) => {
                // What is in work goes on; only reading waits.
                reconciler.trouble.begin(&error);
                shared.tail.note(format!("{name}: {error}"));
                shared.tail.state(State::WaitingForLedger);
                if !pauses.wait(&reconciler.stop).await {
                    break;
                }
                continue;
            }
        };
        pauses = Pauses::default();
        if let Some(reader) = &reader {
            report(&shared, &stream, reader, &crew);
        }
        if read == 0 {
            tokio::select! {
                biased;
                () = reconciler.stop.cancelled() => {}
                () = reconciler.ledger.wait_for_news_since(news, LOOK_EVERY) => {}
                () = crew.wait_for_one() => {}
            }
        }
    }
    crew.finish().await;
    if let Some(reader) = &mut reader
        && let Err(error) = save(&shared, &name, reader, &crew).await
    {
        tracing::debug!("save the cursor of {name}: {error}");
    }
}

/// Reads what there is room for, and saves how far everything is. How many entries were read.
async fn round(
    shared: &Shared,
    stream: &StreamId,
    reader: &mut Option<Reader>,
    crew: &mut Crew,
) -> Result<usize, LedgerError> {
    let ledger = &shared.reconciler.ledger;
    let name = stream.to_string();
    let reader = match reader {
        Some(reader) => reader,
        None => {
            let cursor = ledger.cursor(&shared.reconciler.datacenter, &name).await?;
            reader.insert(Reader::at(stream, cursor.map_or(0, |cursor| cursor.number)))
        }
    };
    if Instant::now() >= reader.look_at {
        reader.look_at = Instant::now() + LOOK_EVERY;
        look_for_missing(shared, stream, reader, crew).await?;
    }
    if crew.len() >= WINDOW {
        crew.park_slow().await?;
    }
    let room = WINDOW
        .saturating_sub(crew.len())
        .min((reader.cursor(crew) + REACH).saturating_sub(reader.met) as usize);
    let mut read = 0;
    if room > 0 {
        let entries = ledger
            .changes(stream, reader.met, room, Strength::Local)
            .await?;
        read = reader.take(&entries, crew);
        reader.dry = read == 0;
    }
    if reader.cursor(crew) != reader.saved
        && (reader.saved_at.elapsed() >= SAVE_EVERY || crew.len() == 0)
    {
        save(shared, &name, reader, crew).await?;
    }
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

async fn save(
    shared: &Shared,
    name: &str,
    reader: &mut Reader,
    crew: &Crew,
) -> Result<(), LedgerError> {
    let number = reader.cursor(crew);
    if number == reader.saved {
        return Ok(());
    }
    let reconciler = &shared.reconciler;
    let cursor = Cursor {
        name: name.to_owned(),
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
    let progress = StreamProgress {
        cursor,
        last_number,
        behind: last_number.saturating_sub(cursor),
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
