//! The tail: what the nodes of other datacenters have changed, from the cursor of each stream on.
//!
//! Always true: a cursor passes an entry only when it is done or parked by name in `gaps`, and stands before the first
//! hole. Entries beyond a hole are worked on meanwhile, up to [`REACH`]. At most [`WINDOW`] entries of
//! a stream are in work; when they are, those that take long are parked as being in progress, so
//! that neither a slow file nor a poisonous one holds up the rest.
//! Killed in the middle: what lies beyond the cursor is done again, which is harmless.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::ledger::{Change, Cursor, LedgerError, StreamId, Strength};
use crate::version::{Version, wall_clock};

use super::Shared;
use super::status::{Progress, State, StreamProgress};
use super::trouble::Pauses;
use super::work::Crew;

/// Entries of one stream that are in work at a time.
const WINDOW: usize = 1_000;

/// How far beyond its cursor a stream is read: numbers that are kept in memory because of a hole.
const REACH: u64 = 20_000;

/// How often the nodes are asked for, and holes are read again.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often a cursor is saved while it moves.
const SAVE_EVERY: Duration = Duration::from_secs(1);

/// A hole in the stream of a journal that is no more is given up to a scan after this time.
const LOST_HOLE: Duration = Duration::from_secs(60);

/// All streams of other datacenters.
pub(super) async fn run(shared: Arc<Shared>) -> Result<(), LedgerError> {
    let reconciler = &shared.reconciler;
    let mut streams = JoinSet::new();
    let mut followed: BTreeSet<StreamId> = BTreeSet::new();
    while !reconciler.stop.is_cancelled() {
        match reconciler.ledger.nodes().await {
            Ok(mut nodes) => {
                reconciler.trouble.end();
                nodes.retain(|node| node.stream.datacenter != reconciler.datacenter);
                for node in &nodes {
                    if followed.insert(node.stream.clone()) {
                        streams.spawn(follow(Arc::clone(&shared), node.stream.clone()));
                    }
                }
                *shared.nodes.lock() = Some((wall_clock(), nodes));
            }
            Err(error) => {
                reconciler.trouble.begin(&error);
                shared.tail.note(error.to_string());
            }
        }
        tokio::select! {
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

/// Where a reader of one stream is.
struct Reader {
    /// The highest number that was met.
    met: u64,
    holes: BTreeSet<u64>,
    /// The cursor as the ledger has it.
    saved: u64,
    saved_at: Instant,
    holes_read_at: Instant,
    /// Since when the first hole is the first.
    hole_since: Option<(u64, Instant)>,
}

impl Reader {
    fn at(saved: u64) -> Reader {
        let now = Instant::now();
        Reader {
            met: saved,
            holes: BTreeSet::new(),
            saved,
            saved_at: now,
            holes_read_at: now,
            hole_since: None,
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
            reader.insert(Reader::at(cursor.map_or(0, |cursor| cursor.number)))
        }
    };
    if !reader.holes.is_empty() && reader.holes_read_at.elapsed() >= LOOK_EVERY {
        reader.holes_read_at = Instant::now();
        fill_holes(shared, stream, reader, crew).await?;
    }
    if crew.len() >= WINDOW {
        crew.park_slow().await?;
    }
    let cursor = reader.cursor(crew);
    let room = WINDOW
        .saturating_sub(crew.len())
        .min((cursor + REACH).saturating_sub(reader.met) as usize);
    let mut read = 0;
    if room > 0 {
        let entries = ledger
            .changes(stream, reader.met, room, Strength::Local)
            .await?;
        for entry in entries {
            if entry.number <= reader.met {
                continue;
            }
            let missing = reader.met + 1..entry.number;
            if missing.end - missing.start > REACH {
                shared.tail.note(format!(
                    "{name}: no changes {} to {} in the ledger",
                    missing.start,
                    missing.end - 1
                ));
                break;
            }
            reader.holes.extend(missing);
            reader.met = entry.number;
            read += 1;
            begin(crew, entry);
        }
    }
    if reader.cursor(crew) != reader.saved
        && (reader.saved_at.elapsed() >= SAVE_EVERY || crew.len() == 0)
    {
        save(shared, &name, reader, crew).await?;
    }
    shared.reconciler.trouble.end();
    Ok(read)
}

fn begin(crew: &mut Crew, entry: Change) {
    if let Some(file) = entry.file {
        crew.start(entry.number, file, Some(entry.version));
    }
}

/// Reads the holes again, more strongly. One that a lost journal has left is given up to a scan.
async fn fill_holes(
    shared: &Shared,
    stream: &StreamId,
    reader: &mut Reader,
    crew: &mut Crew,
) -> Result<(), LedgerError> {
    let Some(&first) = reader.holes.first() else {
        return Ok(());
    };
    let found = shared
        .reconciler
        .ledger
        .changes(stream, first - 1, WINDOW, Strength::Global)
        .await?;
    for entry in found {
        if reader.holes.remove(&entry.number) {
            begin(crew, entry);
        }
    }
    let now = Instant::now();
    match reader.hole_since {
        Some((hole, since)) if reader.holes.first() == Some(&hole) => {
            if shared.is_superseded(stream) && since.elapsed() >= LOST_HOLE {
                let lost_at = Version(
                    wall_clock()
                        .0
                        .saturating_sub(super::park::micros(since.elapsed())),
                );
                if shared.scanned_since(lost_at) {
                    tracing::warn!(%stream, holes = reader.holes.len(), "changes of a lost journal were made up for by a scan");
                    reader.holes.clear();
                    reader.hole_since = None;
                } else {
                    shared.ask_for_scan();
                }
            }
        }
        _ => reader.hole_since = reader.holes.first().map(|hole| (*hole, now)),
    }
    Ok(())
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
        hole: reader.holes.first().copied(),
        heartbeat,
        complete_until: open.map_or(heartbeat, |open| heartbeat.min(Version(open.0 - 1))),
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
