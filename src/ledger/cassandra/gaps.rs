//! Gaps in Cassandra: 256 partitions a datacenter, and in memory what each of them is known to hold.
//!
//! A table cannot be asked "what is due?" without a queue in it, and a queue in Cassandra is a heap of tombstones that every
//! look has to read through. So a gap stays one row for as long as it lasts, whatever becomes of its next try, and
//! this process remembers of each partition (a *shard*) how many gaps it has and when the first is due: 256 small entries a
//! datacenter, however many gaps there are. A shard is read when something in it is due. A million gaps are 4,000 a shard;
//! when all of them are cleared they leave 4,000 tombstones in each, which go after `gc_grace_seconds`, and a shard is only read
//! when it has something due.
//!
//! Always true: what this process has set and not cleared is found when it is due. What another process set is found within
//! [`REREAD`]. A shard's entry never says "later" or "none" of a gap that was set before the shard was read.
//! Killed in the middle: after a start nothing is known, and every shard is read once.

use std::collections::{BinaryHeap, HashMap};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use parking_lot::Mutex;
use scylla::response::PagingState;

use super::values::{GapValue, file_name};
use super::{BadRows, CassandraLedger, mistyped, unreadable};
use crate::file::{Datacenter, FileName};
use crate::ledger::embedded::token;
use crate::ledger::{Expected, Gap, LedgerError};
use crate::version::Version;

/// Partitions a datacenter.
const SHARDS: usize = 256;

/// After this time a shard is read again though nothing of it is known to be due.
const REREAD: Duration = Duration::from_secs(300);

/// Shards that are read at once.
const AT_ONCE: usize = 16;

/// Shards that are read again in one look though nothing of them is known to be due.
const REREADS: usize = 4;

/// When so many rows were read for one answer, what was found is enough, though something more urgent may lie elsewhere.
const ROWS_ENOUGH: u64 = 20_000;

/// A shard of so many gaps is counted again only after [`RECOUNT`].
const MANY: u64 = 1_000;
const RECOUNT: Duration = Duration::from_secs(60);

/// What is known of every datacenter's shards.
#[derive(Default)]
pub(super) struct GapShards(Mutex<HashMap<Datacenter, Vec<Shard>>>);

/// What is known of one shard.
#[derive(Clone, Copy, Default)]
struct Shard {
    /// When it was last read to its end.
    read: Option<Instant>,
    /// How many gaps it had then.
    count: u64,
    /// No gap of it is due before this; `None` if it has none.
    first_due: Option<Version>,
    /// The least `since` of those it had then.
    oldest: Option<Version>,
    /// Counts what was set and cleared in it by this process.
    touched: u64,
    /// Whether something was, since it was read: the count may be another one.
    stale: bool,
}

impl GapShards {
    fn all(&self, datacenter: &Datacenter) -> Vec<Shard> {
        let mut known = self.0.lock();
        let shards = known
            .entry(datacenter.clone())
            .or_insert_with(|| vec![Shard::default(); SHARDS]);
        shards.clone()
    }

    /// A gap is being set there, due at `next_try`, or cleared.
    fn touch(&self, datacenter: &Datacenter, shard: usize, next_try: Option<Version>) {
        let mut known = self.0.lock();
        let shards = known
            .entry(datacenter.clone())
            .or_insert_with(|| vec![Shard::default(); SHARDS]);
        let shard = &mut shards[shard];
        shard.touched += 1;
        shard.stale = true;
        shard.first_due = earlier(shard.first_due, next_try);
    }

    /// A shard was read: what it holds counts, unless it was touched since `before`.
    fn learn(&self, datacenter: &Datacenter, shard: usize, before: Shard, read: &Read) {
        let mut known = self.0.lock();
        let Some(shards) = known.get_mut(datacenter) else {
            return;
        };
        let shard = &mut shards[shard];
        let untouched = shard.touched == before.touched;
        *shard = Shard {
            read: Some(Instant::now()),
            count: read.count,
            oldest: read.oldest,
            first_due: match untouched {
                true => read.first_due,
                false => earlier(shard.first_due, read.first_due),
            },
            touched: shard.touched,
            stale: !untouched,
        };
    }
}

fn earlier(one: Option<Version>, other: Option<Version>) -> Option<Version> {
    one.into_iter().chain(other).min()
}

/// What was met in a shard.
#[derive(Default)]
struct Read {
    count: u64,
    first_due: Option<Version>,
    oldest: Option<Version>,
}

/// The partition that a file's gap lies in: the first byte of the MD5 of domain, NUL and key.
fn shard_of(file: &FileName) -> usize {
    usize::from(token(file).to_be_bytes()[0])
}

pub(super) async fn set(
    ledger: &CassandraLedger,
    datacenter: &Datacenter,
    gap: &Gap,
) -> Result<(), LedgerError> {
    let shard = shard_of(&gap.file);
    let values = (
        gap.observed.0,
        GapValue::from(gap),
        datacenter.as_str(),
        shard as i16,
        gap.file.domain.escaped(),
        gap.file.key.escaped(),
    );
    // Before, for whoever reads the shard after the write, and after, for whoever read it before.
    ledger.gaps.touch(datacenter, shard, Some(gap.next_try));
    let told = ledger.tell("set a gap", &ledger.statements.set_gap, values);
    let told = told.await;
    ledger.gaps.touch(datacenter, shard, Some(gap.next_try));
    told
}

pub(super) async fn clear(
    ledger: &CassandraLedger,
    datacenter: &Datacenter,
    file: &FileName,
    observed: Version,
) -> Result<(), LedgerError> {
    let shard = shard_of(file);
    let values = (
        observed.0,
        datacenter.as_str(),
        shard as i16,
        file.domain.escaped(),
        file.key.escaped(),
    );
    let told = ledger.tell("clear a gap", &ledger.statements.clear_gap, values);
    let told = told.await;
    ledger.gaps.touch(datacenter, shard, None);
    told
}

pub(super) async fn one(
    ledger: &CassandraLedger,
    datacenter: &Datacenter,
    file: &FileName,
) -> Result<Option<Gap>, LedgerError> {
    let doing = "read a gap";
    let values = (
        datacenter.as_str(),
        shard_of(file) as i16,
        file.domain.escaped(),
        file.key.escaped(),
    );
    let answer = ledger
        .ask(doing, &ledger.statements.read_gap, values)
        .await?;
    let row = answer.maybe_first_row::<(Option<GapValue<'_>>,)>();
    let value = row.map_err(|why| mistyped(doing, &why))?;
    value
        .and_then(|(value,)| value)
        .map(|value| value.gap())
        .transpose()
        .map_err(|wrong| unreadable(doing, format_args!("gaps, {datacenter} {file}"), wrong))
}

/// The most urgent gaps that are due.
pub(super) async fn due(
    ledger: &CassandraLedger,
    datacenter: &Datacenter,
    due: Version,
    limit: usize,
) -> Result<Vec<Gap>, LedgerError> {
    let known = ledger.gaps.all(datacenter);
    let mut rereads = 0;
    let mut wanted: Vec<usize> = (0..SHARDS)
        .filter(|&shard| {
            let Shard {
                read, first_due, ..
            } = known[shard];
            let Some(read) = read else { return true };
            if first_due.is_some_and(|first| first <= due) {
                return true;
            }
            rereads += usize::from(read.elapsed() >= REREAD);
            read.elapsed() >= REREAD && rereads <= REREADS
        })
        .collect();
    // Where nothing is known, or the most urgent lies.
    wanted.sort_by_key(|&shard| known[shard].read.and(known[shard].first_due));
    let mut found = Urgent {
        limit,
        gaps: BinaryHeap::new(),
    };
    let mut rows = 0;
    for some in wanted.chunks(AT_ONCE) {
        let enough = found.gaps.len() == limit;
        let next = some.iter().map(|&shard| known[shard].first_due).min();
        if enough && (rows >= ROWS_ENOUGH || next.flatten() > found.last_due()) {
            break;
        }
        let reading = some
            .iter()
            .map(|&shard| read_shard(ledger, datacenter, shard, known[shard], Some((due, limit))));
        for (gaps, count) in try_join_all(reading).await? {
            rows += count;
            gaps.into_iter().for_each(|gap| found.add(gap));
        }
    }
    Ok(found.in_order())
}

/// How many gaps there are, and the least `since` of them. Exact where they are few; where there are very many, as of a minute ago.
pub(super) async fn count(
    ledger: &CassandraLedger,
    datacenter: &Datacenter,
) -> Result<(u64, Option<Version>), LedgerError> {
    let known = ledger.gaps.all(datacenter);
    let outdated: Vec<usize> = (0..SHARDS)
        .filter(|&shard| {
            let Shard {
                read, count, stale, ..
            } = known[shard];
            let Some(read) = read else { return true };
            stale && (count < MANY || read.elapsed() >= RECOUNT)
        })
        .collect();
    for some in outdated.chunks(AT_ONCE) {
        let reading = some
            .iter()
            .map(|&shard| read_shard(ledger, datacenter, shard, known[shard], None));
        try_join_all(reading).await?;
    }
    let known = ledger.gaps.all(datacenter);
    let count = known.iter().map(|shard| shard.count).sum();
    Ok((count, known.iter().filter_map(|shard| shard.oldest).min()))
}

/// Reads a shard page by page. The most urgent `limit` of its gaps that are due, if asked for, and how many gaps it has.
async fn read_shard(
    ledger: &CassandraLedger,
    datacenter: &Datacenter,
    shard: usize,
    before: Shard,
    wanted: Option<(Version, usize)>,
) -> Result<(Vec<Gap>, u64), LedgerError> {
    let doing = "read the gaps";
    let broken = |why: &dyn std::fmt::Display| LedgerError::Unavailable {
        doing,
        why: why.to_string(),
    };
    let mut read = Read::default();
    let mut urgent = wanted.map(|(due, limit)| {
        let gaps = BinaryHeap::new();
        (due, Urgent { limit, gaps })
    });
    let values = (datacenter.as_str(), shard as i16);
    let mut paging = PagingState::start();
    loop {
        let page = ledger
            .session
            .execute_single_page(&ledger.statements.list_gaps, values, paging)
            .await;
        let (answer, next) = page.map_err(|why| broken(&why))?;
        let answer = answer.into_rows_result().map_err(|why| broken(&why))?;
        let rows = answer.rows::<(&str, &str, Option<GapValue<'_>>)>();
        for row in rows.map_err(|why| mistyped(doing, &why))? {
            let (domain, key, value) = row.map_err(|why| mistyped(doing, &why))?;
            let Some(value) = value else { continue };
            read.count += 1;
            // One whose file is not even named is counted, and nothing more.
            let Some(gap) = readable(value, domain, key, &ledger.bad_rows, datacenter) else {
                continue;
            };
            read.first_due = earlier(read.first_due, Some(gap.next_try));
            // One that cannot be read says nothing of its age.
            if gap.since > Version(0) {
                read.oldest = earlier(read.oldest, Some(gap.since));
            }
            if let Some((due, urgent)) = &mut urgent
                && gap.next_try <= *due
            {
                urgent.add(gap);
            }
        }
        match next.into_paging_control_flow() {
            ControlFlow::Continue(state) => paging = state,
            ControlFlow::Break(()) => break,
        }
    }
    ledger.gaps.learn(datacenter, shard, before, &read);
    let gaps = urgent.map_or_else(Vec::new, |(_, urgent)| urgent.in_order());
    Ok((gaps, read.count))
}

/// A gap as its row says; or, where that cannot be read, one that only names its file and is due at once: whoever looks at
/// the file clears the row or writes it anew. `None` if not even the file is named, in the one form that a name has.
fn readable(
    value: GapValue<'_>,
    domain: &str,
    key: &str,
    bad_rows: &BadRows,
    datacenter: &Datacenter,
) -> Option<Gap> {
    let wrong = match value.gap() {
        Ok(gap) => return Some(gap),
        Err(wrong) => wrong,
    };
    let row = format!("gaps, {datacenter} {domain} {key}: {wrong}");
    let Ok(file) = file_name(domain, key) else {
        bad_rows.tell(format!("{row}; no file has that name, so delete the row"));
        return None;
    };
    let last_error = format!("its gap in the ledger could not be read: {wrong}");
    bad_rows.tell(format!("{row}; the file is looked at again"));
    Some(Gap {
        file,
        since: Version(0),
        attempts: 0,
        last_error,
        next_try: Version(0),
        observed: Version(0),
        expected: Expected::default(),
    })
}

/// The most urgent of the gaps that were met.
struct Urgent {
    limit: usize,
    gaps: BinaryHeap<ByUrgency>,
}

impl Urgent {
    fn add(&mut self, gap: Gap) {
        self.gaps.push(ByUrgency(gap));
        if self.gaps.len() > self.limit {
            self.gaps.pop();
        }
    }

    fn last_due(&self) -> Option<Version> {
        self.gaps.peek().map(|last| last.0.next_try)
    }

    fn in_order(self) -> Vec<Gap> {
        let sorted = self.gaps.into_sorted_vec();
        sorted.into_iter().map(|gap| gap.0).collect()
    }
}

/// Compared by when it is due.
struct ByUrgency(Gap);

impl ByUrgency {
    fn place(&self) -> (Version, &FileName) {
        (self.0.next_try, &self.0.file)
    }
}

impl PartialEq for ByUrgency {
    fn eq(&self, other: &Self) -> bool {
        self.place() == other.place()
    }
}

impl Eq for ByUrgency {}

impl PartialOrd for ByUrgency {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByUrgency {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.place().cmp(&other.place())
    }
}
