//! A ledger of several copies, of which a test may take some away: what is written at `Local` it always takes, what is
//! written at `Whole` as the test says.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use phylactery::file::{Datacenter, FileName};
use phylactery::ledger::embedded::EmbeddedLedger;
use phylactery::ledger::{
    Change, Cursor, DatacenterRecord, FileRecord, FileWrite, Gap, Ledger, LedgerError, NodeRecord,
    Page, Placement, StreamId, Strength, TokenRange, Unreadable,
};
use phylactery::version::Version;

/// What becomes of writes at `Whole`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    Works,
    Fails,
    /// No answer, ever.
    Hangs,
    /// So many succeed, then none gets an answer.
    HangsAfter(u64),
    /// Those of about a half of the files fail, always of the same.
    HalfFails,
}

pub struct Copies {
    inner: EmbeddedLedger,
    mode: Mutex<Mode>,
    /// Reads of these fail for good, and a scan cannot read them.
    pub poison: Mutex<BTreeSet<FileName>>,
    /// How long each write at `Whole` takes.
    pub takes: Mutex<Duration>,
    /// What a copy holds that has got nothing but what was written at `Whole`.
    pub whole: Mutex<BTreeMap<FileName, FileRecord>>,
    /// The writes at `Whole` that succeeded, in order.
    pub written: Mutex<Vec<Written>>,
    pub tried: AtomicU64,
    blocked: AtomicBool,
    under_way: AtomicUsize,
    /// The greatest number under way since a test set it to zero.
    pub most: AtomicUsize,
}

/// A write at `Whole` that succeeded.
pub struct Written {
    pub file: FileName,
    /// How many were under way when it began, itself included.
    pub under_way: usize,
    /// How many had succeeded when it began.
    pub after: usize,
}

/// Counts a write as under way.
struct UnderWay<'a>(&'a Copies);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Copies {
    pub fn open(folder: &Path) -> Arc<Copies> {
        let inner = EmbeddedLedger::open(folder.join("ledger.db")).expect("the ledger opens");
        Arc::new(Copies {
            inner,
            mode: Mutex::new(Mode::Works),
            poison: Mutex::default(),
            takes: Mutex::default(),
            whole: Mutex::default(),
            written: Mutex::default(),
            blocked: AtomicBool::new(false),
            tried: AtomicU64::new(0),
            under_way: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
        })
    }

    /// From now on; a write that hangs goes on with it.
    pub fn set(&self, mode: Mode) {
        *self.mode.lock() = mode;
    }

    /// While it is set, files whose key begins with "blocked" find no copy of theirs.
    pub fn block(&self, blocked: bool) {
        self.blocked.store(blocked, Ordering::SeqCst);
    }

    fn is_blocked(&self, file: &FileName) -> bool {
        self.blocked.load(Ordering::SeqCst) && file.key.escaped().starts_with("blocked")
    }

    pub fn mode(&self) -> Mode {
        *self.mode.lock()
    }

    pub fn tried(&self) -> u64 {
        self.tried.load(Ordering::SeqCst)
    }

    /// All that the ledger holds.
    pub async fn all(&self) -> BTreeMap<FileName, FileRecord> {
        let mut found = BTreeMap::new();
        let mut from = None;
        loop {
            let page = self
                .inner
                .scan(TokenRange::ALL, from.as_deref(), 1000, Strength::Local);
            let page = page.await.expect("it is readable");
            found.extend(page.files);
            from = page.next;
            if from.is_none() {
                return found;
            }
        }
    }

    /// Files whose newest cells, as far as a node of `ma01` owes them, have not been written at `Whole`.
    pub async fn not_whole(&self) -> Vec<FileName> {
        let all = self.all().await;
        let whole = self.whole.lock();
        let cells = |record: &FileRecord| {
            let ours = record
                .replicas
                .get(&"ma01".parse::<Datacenter>().expect("a name"));
            (
                record.head.clone(),
                record.class_cell.clone(),
                ours.cloned(),
            )
        };
        let missing = all
            .iter()
            .filter(|(file, record)| whole.get(file).map(cells) != Some(cells(record)));
        missing.map(|(file, _)| file.clone()).collect()
    }

    /// Waits as the mode says. `Err` where it says that the write fails.
    async fn admit(&self, file: &FileName) -> Result<(), LedgerError> {
        loop {
            let admitted = {
                let mut mode = self.mode.lock();
                match *mode {
                    Mode::Works => Some(true),
                    Mode::Fails => Some(false),
                    Mode::Hangs | Mode::HangsAfter(0) => None,
                    Mode::HangsAfter(left) => {
                        *mode = Mode::HangsAfter(left - 1);
                        Some(true)
                    }
                    Mode::HalfFails => {
                        let bytes = file.key.bytes();
                        let sum: u32 = bytes.iter().map(|byte| u32::from(*byte)).sum();
                        Some(sum.is_multiple_of(2))
                    }
                }
            };
            match admitted {
                Some(true) => return Ok(()),
                Some(false) => {
                    return Err(LedgerError::Unavailable {
                        doing: "write a file's cells",
                        why: "received 3, required 4".to_owned(),
                    });
                }
                None => tokio::time::sleep(Duration::from_millis(2)).await,
            }
        }
    }
}

macro_rules! passed_on {
    ($($method:ident($($arg:ident: $type:ty),*) -> $answer:ty;)*) => {
        #[async_trait]
        impl Ledger for Copies {
            async fn write(&self, file: &FileName, write: &FileWrite, strength: Strength) -> Result<(), LedgerError> {
                if strength != Strength::Whole {
                    if self.is_blocked(file) {
                        return Err(LedgerError::Unavailable { doing: "write a file's cells", why: "alive 1, required 2".to_owned() });
                    }
                    return self.inner.write(file, write, strength).await;
                }
                self.tried.fetch_add(1, Ordering::SeqCst);
                let under_way = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
                let _under_way = UnderWay(self);
                self.most.fetch_max(under_way, Ordering::SeqCst);
                let after = self.written.lock().len();
                let takes = *self.takes.lock();
                if !takes.is_zero() {
                    tokio::time::sleep(takes).await;
                }
                self.admit(file).await?;
                self.inner.write(file, write, strength).await?;
                self.whole.lock().entry(file.clone()).or_default().merge(write);
                self.written.lock().push(Written { file: file.clone(), under_way, after });
                Ok(())
            }

            async fn read(&self, file: &FileName, strength: Strength) -> Result<FileRecord, LedgerError> {
                if self.poison.lock().contains(file) {
                    return Err(LedgerError::Corrupt { doing: "read a file", why: "poison".into() });
                }
                self.inner.read(file, strength).await
            }

            async fn scan(&self, range: TokenRange, from: Option<&str>, limit: usize, strength: Strength) -> Result<Page, LedgerError> {
                let mut page = self.inner.scan(range, from, limit, strength).await?;
                let poison = self.poison.lock().clone();
                let bad = page.files.extract_if(.., |(file, _)| poison.contains(file));
                page.unreadable = bad.map(|(file, _)| Unreadable { file: Some(file), why: "poison".into() }).collect();
                Ok(page)
            }

            $(async fn $method(&self, $($arg: $type),*) -> Result<$answer, LedgerError> {
                self.inner.$method($($arg),*).await
            })*

            fn owes(&self) -> bool {
                true
            }
            fn describe(&self) -> String {
                "several copies".to_owned()
            }
            fn news(&self) -> u64 {
                self.inner.news()
            }
            async fn wait_for_news_since(&self, seen: u64, limit: Duration) {
                self.inner.wait_for_news_since(seen, limit).await;
            }
        }
    };
}

passed_on! {
    forget(file: &FileName, record: &FileRecord) -> ();
    append_change(stream: &StreamId, change: &Change, strength: Strength) -> ();
    changes(stream: &StreamId, after: u64, limit: usize, strength: Strength) -> Vec<Change>;
    set_gap(datacenter: &Datacenter, gap: &Gap) -> ();
    clear_gap(datacenter: &Datacenter, file: &FileName, observed: Version) -> ();
    gap(datacenter: &Datacenter, file: &FileName) -> Option<Gap>;
    gaps(datacenter: &Datacenter, due: Version, limit: usize) -> Vec<Gap>;
    count_gaps(datacenter: &Datacenter) -> u64;
    oldest_gap(datacenter: &Datacenter) -> Option<Version>;
    set_node(node: &NodeRecord) -> ();
    nodes() -> Vec<NodeRecord>;
    set_datacenter(datacenter: &DatacenterRecord) -> ();
    datacenters() -> Vec<DatacenterRecord>;
    set_placement(placement: &Placement, strength: Strength) -> ();
    placements() -> Vec<Placement>;
    set_cursor(datacenter: &Datacenter, cursor: &Cursor) -> ();
    cursor(datacenter: &Datacenter, name: &str) -> Option<Cursor>;
}
