//! What the journal answers from memory: how a file stands, and how full the journal is.
//!
//! Always true: it knows every row that is in the tables, and besides those that a commit is just adding or has
//! just taken away, so whoever has seen in the tables that an entry was announced finds the announcement. Whoever reads the clock's mark and then [`Index::depth`] finds every version up to that
//! mark among the open ones, or it is settled: stamping and counting are one step.
//! Memory: about 100 bytes a row, whatever its key's length, for files are known by a random hash of their name. Two
//! files whose hashes meet (one chance in 2^64 for a pair) share their standing, which can only make repair wait.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};

use dashmap::DashMap;
use parking_lot::Mutex;
use smallvec::SmallVec;

use super::{Depth, Standing};
use crate::file::FileName;
use crate::version::{Clock, Version};

/// The files of one row, as the index knows them: one, or two for a rename.
pub type Tags = SmallVec<[u64; 2]>;

/// Which table a row is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Table {
    Entries,
    Outbox,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    version: Version,
    /// `seq` or `id`.
    number: u64,
    weight: u32,
    table: Table,
    open: bool,
}

/// All rows of both tables, by file.
pub struct Index {
    hasher: RandomState,
    files: DashMap<u64, SmallVec<[Known; 1]>>,
    totals: Mutex<Totals>,
}

#[derive(Default)]
struct Totals {
    bytes: u64,
    rows: Versions,
    open: Versions,
    floors: HashMap<u64, Version>,
}

/// A multiset: announcements of one entry share its version.
#[derive(Default)]
pub struct Versions {
    counts: BTreeMap<Version, u32>,
    len: u64,
}

impl Versions {
    pub fn add(&mut self, version: Version) {
        *self.counts.entry(version).or_default() += 1;
        self.len += 1;
    }

    pub fn remove(&mut self, version: Version) {
        if let Some(count) = self.counts.get_mut(&version) {
            self.len -= 1;
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&version);
            }
        }
    }

    /// How many there are.
    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn oldest(&self) -> Option<Version> {
        self.counts.first_key_value().map(|(version, _)| *version)
    }
}

impl Index {
    pub fn new() -> Self {
        Self {
            hasher: RandomState::new(),
            files: DashMap::new(),
            totals: Mutex::default(),
        }
    }

    pub fn tag(&self, file: &FileName) -> u64 {
        self.hasher.hash_one(file)
    }

    pub fn tags(&self, files: &[&FileName]) -> Tags {
        let mut tags: Tags = files.iter().map(|file| self.tag(file)).collect();
        tags.sort_unstable();
        tags.dedup();
        tags
    }

    /// Stamps an intent above all that is known of its files, and counts it as open. True beside a version that is
    /// beyond the shared clock, so that its files need it as their floor.
    pub fn stamp(&self, clock: &Clock, seq: u64, tags: &Tags, weight: u32) -> (Version, bool) {
        let mut totals = self.totals.lock();
        let floor = tags.iter().filter_map(|tag| {
            let known = self.files.get(tag);
            let newest = known.and_then(|known| known.iter().map(|row| row.version).max());
            newest.max(totals.floors.get(tag).copied())
        });
        let version = clock.stamp_above(floor.max().unwrap_or(Version(i64::MIN)));
        self.add_to(
            &mut totals,
            Table::Entries,
            seq,
            version,
            true,
            tags,
            weight,
        );
        (version, version > clock.mark())
    }

    /// What the next version of a file must pass, if that is beyond the shared clock.
    pub fn floor(&self, file: &FileName) -> Option<Version> {
        self.totals.lock().floors.get(&self.tag(file)).copied()
    }

    /// How many files have a floor.
    pub fn floors(&self) -> usize {
        self.totals.lock().floors.len()
    }

    pub fn raise_floor(&self, tag: u64, version: Version) {
        let mut totals = self.totals.lock();
        let floor = totals.floors.entry(tag).or_insert(version);
        *floor = version.max(*floor);
    }

    /// Forgets the floors up to `mark`, which the shared clock has passed.
    pub fn drop_floors(&self, mark: Version) {
        self.totals.lock().floors.retain(|_, floor| *floor > mark);
    }

    /// Counts a row.
    pub fn add(
        &self,
        table: Table,
        number: u64,
        version: Version,
        open: bool,
        tags: &Tags,
        weight: u32,
    ) {
        let mut totals = self.totals.lock();
        self.add_to(&mut totals, table, number, version, open, tags, weight);
    }

    #[expect(clippy::too_many_arguments, reason = "a row has that many parts")]
    fn add_to(
        &self,
        totals: &mut Totals,
        table: Table,
        number: u64,
        version: Version,
        open: bool,
        tags: &Tags,
        weight: u32,
    ) {
        for tag in tags {
            self.files.entry(*tag).or_default().push(Known {
                version,
                number,
                weight,
                table,
                open,
            });
        }
        totals.bytes += u64::from(weight);
        totals.rows.add(version);
        if open {
            totals.open.add(version);
        }
    }

    /// Takes a row out, if it is there.
    pub fn remove(&self, table: Table, number: u64, tags: &Tags) {
        let mut totals = self.totals.lock();
        let mut gone = None;
        for tag in tags {
            self.files.remove_if_mut(tag, |_, known| {
                let at = known
                    .iter()
                    .position(|row| row.table == table && row.number == number);
                if let Some(at) = at {
                    gone = Some(known.remove(at));
                }
                known.is_empty()
            });
        }
        if let Some(row) = gone {
            totals.bytes -= u64::from(row.weight);
            totals.rows.remove(row.version);
            if row.open {
                totals.open.remove(row.version);
            }
        }
    }

    /// Notes an entry's outcome, if the entry is there.
    pub fn set_outcome(&self, seq: u64, tags: &Tags, open: bool, weight: u32) {
        let mut totals = self.totals.lock();
        let mut before = None;
        for tag in tags {
            let Some(mut known) = self.files.get_mut(tag) else {
                continue;
            };
            let row = known
                .iter_mut()
                .find(|row| row.table == Table::Entries && row.number == seq);
            if let Some(row) = row {
                before = Some(*row);
                row.open = open;
                row.weight = weight;
            }
        }
        if let Some(before) = before {
            totals.bytes = totals.bytes - u64::from(before.weight) + u64::from(weight);
            match (before.open, open) {
                (true, false) => totals.open.remove(before.version),
                (false, true) => totals.open.add(before.version),
                (true, true) | (false, false) => {}
            }
        }
    }

    pub fn standing(&self, file: &FileName) -> Standing {
        let Some(known) = self.files.get(&self.tag(file)) else {
            return Standing::default();
        };
        Standing {
            newest: known.iter().map(|row| row.version).max(),
            open: known.iter().any(|row| row.open),
        }
    }

    /// Where in the outbox a file may be found, in order.
    pub fn outbox_of(&self, file: &FileName) -> Vec<u64> {
        let Some(known) = self.files.get(&self.tag(file)) else {
            return Vec::new();
        };
        let outbox = known.iter().filter(|row| row.table == Table::Outbox);
        let mut ids: Vec<u64> = outbox.map(|row| row.number).collect();
        ids.sort_unstable();
        ids
    }

    pub fn bytes(&self) -> u64 {
        self.totals.lock().bytes
    }

    pub fn depth(&self) -> Depth {
        let totals = self.totals.lock();
        Depth {
            entries: totals.rows.len,
            open: totals.open.len,
            bytes: totals.bytes,
            oldest: totals.rows.oldest(),
            oldest_open: totals.open.oldest(),
        }
    }
}
