//! The ledger as Cassandra is one: a copy in each datacenter, which hear of each other's writes late, or not at all until a debt is paid.
//!
//! A datacenter's quorum is one copy here: what it takes it shows, and when it does not answer nobody reads or writes at `LOCAL_QUORUM` there.
//! Cells merge by [`Cell`], as everywhere. A write that times out may have been applied, or is applied later.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::world::{Fault, World};
use crate::file::{Cell, Datacenter, FileName};
use crate::ledger::embedded::token;
use crate::ledger::{
    Change, Cursor, DatacenterRecord, FileRecord, FileWrite, Gap, Ledger, LedgerError, Membership,
    NodeRecord, Page, Placement, StreamId, Strength, TokenRange,
};
use crate::version::Version;

/// How often a write is tried with a copy that does not answer, before nobody tries any more but a debt.
const HINTED: u32 = 4;

/// One datacenter's.
#[derive(Default)]
pub struct Copy {
    files: BTreeMap<(i64, FileName), FileRecord>,
    changes: BTreeMap<(StreamId, u64), Change>,
    /// With when each was taken away.
    gaps: BTreeMap<(Datacenter, FileName), (Option<Gap>, Version)>,
    nodes: BTreeMap<StreamId, NodeRecord>,
    datacenters: BTreeMap<Datacenter, DatacenterRecord>,
    placements: BTreeMap<String, Placement>,
    memberships: BTreeMap<Datacenter, Membership>,
    cursors: BTreeMap<(Datacenter, String), Cursor>,
}

/// All of them.
pub struct Copies {
    copies: Vec<Mutex<Copy>>,
    news: Vec<News>,
    /// Since when a copy knows a datacenter's node.
    known: Mutex<BTreeMap<(usize, Datacenter), Duration>>,
}

/// What a copy has taken. (Not a `watch`: that wakes those who wait in an order of its own.)
#[derive(Default)]
struct News {
    count: AtomicU64,
    bell: Notify,
}

/// A write, as a copy takes it.
#[derive(Clone)]
enum Write {
    Cells(FileName, FileWrite),
    Forget(FileName, FileRecord),
    Change(StreamId, Change),
    Gap(Datacenter, Gap),
    NoGap(Datacenter, FileName, Version),
    Node(NodeRecord),
    Datacenter(DatacenterRecord),
    Placement(Placement),
    Membership(Membership),
    Cursor(Datacenter, Cursor),
}

/// Keeps the later of two.
fn keep<K: Ord, V: Cell>(rows: &mut BTreeMap<K, V>, key: K, row: V) {
    if rows.get(&key).is_none_or(|there| row.wins_over(there)) {
        rows.insert(key, row);
    }
}

impl Copy {
    fn apply(&mut self, write: Write) {
        match write {
            Write::Cells(file, write) => {
                self.files
                    .entry((token(&file), file))
                    .or_default()
                    .merge(&write);
            }
            Write::Forget(file, gone) => self.forget(file, &gone),
            Write::Change(stream, change) => {
                keep(&mut self.changes, (stream, change.number), change);
            }
            Write::Gap(datacenter, gap) => {
                let (held, gone) = self.gaps.entry((datacenter, gap.file.clone())).or_default();
                if gap.observed > *gone && held.as_ref().is_none_or(|held| gap.wins_over(held)) {
                    *held = Some(gap);
                }
            }
            Write::NoGap(datacenter, file, observed) => {
                let (held, gone) = self.gaps.entry((datacenter, file)).or_default();
                *gone = observed.max(*gone);
                held.take_if(|held| held.observed <= *gone);
            }
            Write::Node(node) => keep(&mut self.nodes, node.stream.clone(), node),
            Write::Datacenter(record) => {
                keep(&mut self.datacenters, record.name.clone(), record);
            }
            Write::Placement(placement) => {
                let key = format!("{} {:?}", placement.domain, placement.class);
                keep(&mut self.placements, key, placement);
            }
            Write::Membership(membership) => {
                keep(&mut self.memberships, membership.name.clone(), membership);
            }
            Write::Cursor(datacenter, cursor) => {
                keep(&mut self.cursors, (datacenter, cursor.name.clone()), cursor);
            }
        }
    }

    fn forget(&mut self, file: FileName, gone: &FileRecord) {
        fn passed<V: Cell>(there: &V, gone: Option<&V>) -> bool {
            gone.is_some_and(|gone| there.written_at() <= gone.written_at())
        }
        let key = (token(&file), file);
        let Some(record) = self.files.get_mut(&key) else {
            return;
        };
        record.head.take_if(|head| passed(head, gone.head.as_ref()));
        record
            .class_cell
            .take_if(|cell| passed(cell, gone.class_cell.as_ref()));
        record
            .replicas
            .retain(|name, replica| !passed(replica, gone.replicas.get(name)));
        if *record == FileRecord::default() {
            self.files.remove(&key);
        }
    }
}

fn merged(into: &mut FileRecord, other: &FileRecord) {
    into.merge(&FileWrite {
        head: other.head.clone(),
        class: other.class_cell.clone(),
        replica: None,
    });
    for (name, replica) in &other.replicas {
        into.merge(&FileWrite {
            replica: Some((name.clone(), replica.clone())),
            ..FileWrite::default()
        });
    }
}

impl Copies {
    pub fn new(count: usize) -> Copies {
        Copies {
            copies: (0..count).map(|_| Mutex::default()).collect(),
            news: (0..count).map(|_| News::default()).collect(),
            known: Mutex::default(),
        }
    }

    fn apply(&self, world: &World, at: usize, write: Write) {
        if let Write::Cells(
            file,
            FileWrite {
                head: Some(head), ..
            },
        ) = &write
        {
            world.book.lock().told(file, head);
        }
        if let Write::Node(node) = &write {
            let pair = (at, node.stream.datacenter.clone());
            let mut known = self.known.lock();
            known.entry(pair).or_insert_with(|| world.now());
        }
        self.copies[at].lock().apply(write);
        self.news[at].count.fetch_add(1, Ordering::Relaxed);
        self.news[at].bell.notify_waiters();
    }

    /// What some copy has of a file, for those who check.
    pub fn merged(&self, file: &FileName) -> FileRecord {
        let mut all = FileRecord::default();
        for at in 0..self.copies.len() {
            merged(&mut all, &self.at(at, file));
        }
        all
    }

    /// What one copy has of a file.
    pub fn at(&self, at: usize, file: &FileName) -> FileRecord {
        let copy = self.copies[at].lock();
        let found = copy.files.get(&(token(file), file.clone()));
        found.cloned().unwrap_or_default()
    }

    /// All files that some copy has.
    pub fn files(&self) -> Vec<FileName> {
        let mut all: Vec<FileName> = Vec::new();
        for copy in &self.copies {
            all.extend(copy.lock().files.keys().map(|(_, file)| file.clone()));
        }
        all.sort();
        all.dedup();
        all
    }

    /// Since when a datacenter's copy knows the node of another. What a node has not published, nobody counts on.
    pub fn knows_since(&self, at: usize, other: &Datacenter) -> Option<Duration> {
        self.known.lock().get(&(at, other.clone())).copied()
    }

    /// The gaps of a datacenter.
    pub fn gaps_of(&self, at: usize, name: &Datacenter) -> Vec<Gap> {
        let copy = self.copies[at].lock();
        let gaps = copy.gaps.iter().filter(|((of, _), _)| of == name);
        gaps.filter_map(|(_, (gap, _))| gap.clone()).collect()
    }
}

/// The ledger as one datacenter meets it.
pub struct Near {
    pub world: Arc<World>,
    pub at: usize,
}

impl Near {
    fn copies(&self) -> &Copies {
        &self.world.ledger
    }

    fn answers(&self, at: usize) -> bool {
        self.world.reaches(self.at, at) && !self.world.has(at, Fault::LedgerAway)
    }

    /// The copies that a question of this strength is put to.
    fn asked(&self, strength: Strength, doing: &'static str) -> Result<Vec<usize>, LedgerError> {
        let all = self.world.places.len();
        let answering: Vec<usize> = (0..all).filter(|at| self.answers(*at)).collect();
        let enough = match strength {
            Strength::Local => answering.contains(&self.at).then(|| vec![self.at]),
            Strength::Global => (answering.len() > all / 2).then_some(answering),
            Strength::Each | Strength::Whole => (answering.len() == all).then_some(answering),
        };
        enough.ok_or_else(|| LedgerError::Unavailable {
            doing,
            why: format!("not enough copies for {strength:?}"),
        })
    }

    async fn read<T>(
        &self,
        strength: Strength,
        doing: &'static str,
        read: impl Fn(&Copy) -> T,
    ) -> Result<Vec<T>, LedgerError> {
        match strength {
            Strength::Local => self.world.pause(0, 2).await,
            _ => self.world.pause(4, 40).await,
        }
        let asked = self.asked(strength, doing)?.into_iter();
        Ok(asked
            .map(|at| read(&self.copies().copies[at].lock()))
            .collect())
    }

    async fn read_here<T>(
        &self,
        doing: &'static str,
        read: impl Fn(&Copy) -> T,
    ) -> Result<T, LedgerError> {
        let mut read = self.read(Strength::Local, doing, read).await?;
        Ok(read.remove(0))
    }

    /// `spread`: whether other datacenters ever read it.
    async fn write_all(
        &self,
        strength: Strength,
        spread: bool,
        doing: &'static str,
        write: Write,
    ) -> Result<(), LedgerError> {
        let world = &self.world;
        match strength {
            Strength::Local => world.pause(0, 2).await,
            _ => world.pause(4, 40).await,
        }
        let timed_out = || LedgerError::Unavailable {
            doing,
            why: "timed out".to_owned(),
        };
        let odd = world.has(self.at, Fault::LedgerOdd) && world.chance(0.3);
        if odd {
            match world.pick(3) {
                0 => return Err(timed_out()),
                1 => {
                    self.later(self.at, write, 3000);
                    return Err(timed_out());
                }
                _ => {}
            }
        }
        let asked = self.asked(strength, doing);
        let taken = match (&asked, strength) {
            (Ok(asked), _) => asked.clone(),
            (Err(_), Strength::Local) => Vec::new(),
            (Err(_), _) => (0..world.places.len())
                .filter(|at| self.answers(*at))
                .collect(),
        };
        for at in &taken {
            self.copies().apply(world, *at, write.clone());
        }
        if spread && !taken.is_empty() {
            for at in (0..world.places.len()).filter(|at| !taken.contains(at)) {
                // A hint is kept for a while, or not at all.
                let is_rare = matches!(write, Write::Datacenter(_) | Write::Placement(_));
                if self.answers(at) || is_rare || world.chance(0.5) {
                    self.later(at, write.clone(), 300);
                }
            }
        }
        asked?;
        if odd { Err(timed_out()) } else { Ok(()) }
    }

    /// A copy hears of it some time later, if it can be reached then.
    fn later(&self, at: usize, write: Write, most: u64) {
        let (world, from) = (Arc::clone(&self.world), self.at);
        tokio::spawn(async move {
            world.pause(2, most).await;
            // Who is where is repaired by the cluster itself, and not by us.
            let for_ever = matches!(write, Write::Datacenter(_) | Write::Placement(_));
            for tried in 0.. {
                if tried >= HINTED && !for_ever {
                    return;
                }
                if world.reaches(from, at) && !world.has(at, Fault::LedgerAway) {
                    world.ledger.apply(&world, at, write);
                    return;
                }
                world.pause(500, 2000).await;
            }
        });
    }
}

#[async_trait]
impl Ledger for Near {
    async fn write(
        &self,
        file: &FileName,
        write: &FileWrite,
        strength: Strength,
    ) -> Result<(), LedgerError> {
        let write = Write::Cells(file.clone(), write.clone());
        self.write_all(strength, true, "write a file", write).await
    }

    async fn read(&self, file: &FileName, strength: Strength) -> Result<FileRecord, LedgerError> {
        let key = (token(file), file.clone());
        let found = Near::read(self, strength, "read a file", |copy| {
            copy.files.get(&key).cloned()
        });
        let mut record = FileRecord::default();
        for found in found.await?.into_iter().flatten() {
            merged(&mut record, &found);
        }
        Ok(record)
    }

    async fn scan(
        &self,
        range: TokenRange,
        from: Option<&str>,
        limit: usize,
        strength: Strength,
    ) -> Result<Page, LedgerError> {
        let found = Near::read(self, strength, "scan files", |copy| {
            let files = copy.files.iter();
            let files = files.filter(|((token, _), _)| (range.first..=range.last).contains(token));
            files
                .map(|(key, record)| (key.clone(), record.clone()))
                .collect::<Vec<_>>()
        });
        let mut all: BTreeMap<(i64, FileName), FileRecord> = BTreeMap::new();
        for (key, record) in found.await?.into_iter().flatten() {
            merged(all.entry(key).or_default(), &record);
        }
        let place = |(token, file): &(i64, FileName)| {
            format!(
                "{token:+020} {} {}",
                file.domain.escaped(),
                file.key.escaped()
            )
        };
        let mut left = all
            .into_iter()
            .skip_while(|(key, _)| from.is_some_and(|from| place(key) != from))
            .peekable();
        let mut page = Page::default();
        while let Some((key, record)) = left.next_if(|_| page.files.len() < limit) {
            page.reached = Some(key.0);
            page.files.push((key.1, record));
        }
        page.next = left.peek().map(|(key, _)| place(key));
        Ok(page)
    }

    async fn forget(&self, file: &FileName, record: &FileRecord) -> Result<(), LedgerError> {
        let write = Write::Forget(file.clone(), record.clone());
        self.write_all(Strength::Whole, true, "forget a file", write)
            .await
    }

    async fn append_change(
        &self,
        stream: &StreamId,
        change: &Change,
        strength: Strength,
    ) -> Result<(), LedgerError> {
        let write = Write::Change(stream.clone(), change.clone());
        self.write_all(strength, true, "append a change", write)
            .await
    }

    async fn changes(
        &self,
        stream: &StreamId,
        after: u64,
        limit: usize,
        strength: Strength,
    ) -> Result<Vec<Change>, LedgerError> {
        let found = Near::read(self, strength, "read changes", |copy| {
            let from = (stream.clone(), after.saturating_add(1));
            let entries = copy.changes.range(from..);
            let entries = entries.take_while(|((of, _), _)| of == stream).take(limit);
            entries
                .map(|(_, change)| change.clone())
                .collect::<Vec<_>>()
        });
        let mut all = BTreeMap::new();
        for change in found.await?.into_iter().flatten() {
            keep(&mut all, change.number, change);
        }
        Ok(all.into_values().take(limit).collect())
    }

    async fn set_gap(&self, datacenter: &Datacenter, gap: &Gap) -> Result<(), LedgerError> {
        let write = Write::Gap(datacenter.clone(), gap.clone());
        self.write_all(Strength::Local, false, "set a gap", write)
            .await
    }

    async fn clear_gap(
        &self,
        datacenter: &Datacenter,
        file: &FileName,
        observed: Version,
    ) -> Result<(), LedgerError> {
        let write = Write::NoGap(datacenter.clone(), file.clone(), observed);
        self.write_all(Strength::Local, false, "clear a gap", write)
            .await
    }

    async fn gap(
        &self,
        datacenter: &Datacenter,
        file: &FileName,
    ) -> Result<Option<Gap>, LedgerError> {
        let key = (datacenter.clone(), file.clone());
        self.read_here("read a gap", |copy| copy.gaps.get(&key)?.0.clone())
            .await
    }

    async fn gaps(
        &self,
        datacenter: &Datacenter,
        due: Version,
        limit: usize,
    ) -> Result<Vec<Gap>, LedgerError> {
        let mut gaps = self
            .read_here("read the gaps that are due", |copy| {
                let gaps = copy.gaps.iter().filter(|((of, _), _)| of == datacenter);
                let gaps = gaps.filter_map(|(_, (gap, _))| gap.clone());
                gaps.filter(|gap| gap.next_try <= due).collect::<Vec<_>>()
            })
            .await?;
        gaps.sort_by_key(|gap| gap.next_try);
        gaps.truncate(limit);
        Ok(gaps)
    }

    async fn count_gaps(&self, datacenter: &Datacenter) -> Result<u64, LedgerError> {
        let all = self.gaps(datacenter, Version(i64::MAX), usize::MAX).await?;
        Ok(all.len() as u64)
    }

    async fn oldest_gap(&self, datacenter: &Datacenter) -> Result<Option<Version>, LedgerError> {
        let all = self.gaps(datacenter, Version(i64::MAX), usize::MAX).await?;
        Ok(all.iter().map(|gap| gap.since).min())
    }

    async fn set_node(&self, node: &NodeRecord) -> Result<(), LedgerError> {
        let write = Write::Node(node.clone());
        self.write_all(Strength::Local, true, "publish a node", write)
            .await
    }

    async fn nodes(&self) -> Result<Vec<NodeRecord>, LedgerError> {
        self.read_here("read nodes", |copy| copy.nodes.values().cloned().collect())
            .await
    }

    async fn set_datacenter(&self, datacenter: &DatacenterRecord) -> Result<(), LedgerError> {
        let write = Write::Datacenter(datacenter.clone());
        self.write_all(Strength::Local, true, "publish a datacenter", write)
            .await
    }

    async fn datacenters(&self) -> Result<Vec<DatacenterRecord>, LedgerError> {
        self.read_here("read datacenters", |copy| {
            copy.datacenters.values().cloned().collect()
        })
        .await
    }

    async fn set_membership(
        &self,
        membership: &Membership,
        strength: Strength,
    ) -> Result<(), LedgerError> {
        let write = Write::Membership(membership.clone());
        self.write_all(strength, true, "set a membership", write)
            .await
    }

    async fn memberships(&self) -> Result<Vec<Membership>, LedgerError> {
        self.read_here("read memberships", |copy| {
            copy.memberships.values().cloned().collect()
        })
        .await
    }

    async fn set_placement(
        &self,
        placement: &Placement,
        strength: Strength,
    ) -> Result<(), LedgerError> {
        let write = Write::Placement(placement.clone());
        self.write_all(strength, true, "set a placement", write)
            .await
    }

    async fn placements(&self) -> Result<Vec<Placement>, LedgerError> {
        self.read_here("read placements", |copy| {
            copy.placements.values().cloned().collect()
        })
        .await
    }

    async fn set_cursor(
        &self,
        datacenter: &Datacenter,
        cursor: &Cursor,
    ) -> Result<(), LedgerError> {
        let write = Write::Cursor(datacenter.clone(), cursor.clone());
        self.write_all(Strength::Local, false, "move a cursor", write)
            .await
    }

    async fn cursor(
        &self,
        datacenter: &Datacenter,
        name: &str,
    ) -> Result<Option<Cursor>, LedgerError> {
        let key = (datacenter.clone(), name.to_owned());
        self.read_here("read a cursor", |copy| copy.cursors.get(&key).cloned())
            .await
    }

    fn owes(&self) -> bool {
        true
    }

    fn describe(&self) -> String {
        "simulated".to_owned()
    }

    fn news(&self) -> u64 {
        self.copies().news[self.at].count.load(Ordering::Relaxed)
    }

    async fn wait_for_news_since(&self, seen: u64, limit: Duration) {
        if self.news() == seen {
            let rung = self.copies().news[self.at].bell.notified();
            let _either_way = tokio::time::timeout(limit, rung).await;
        }
    }
}
