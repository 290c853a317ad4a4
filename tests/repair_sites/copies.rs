//! A ledger with a copy in each datacenter, as a cluster has, between which words travel as a test says: late, twice, in any order.
//!
//! Always true: each datacenter reads and writes its own copy. What sets a head or a class, and the change that names it, is
//! held while a test says so, and reaches the other copies by its hand; all else is everywhere at once. While
//! anything is held, nobody can ask every datacenter: the others count as away.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use phylactery::file::{Datacenter, FileName};
use phylactery::ledger::embedded::EmbeddedLedger;
use phylactery::ledger::{
    Change, Cursor, DatacenterRecord, FileRecord, FileWrite, Gap, Ledger, LedgerError, NodeRecord,
    Page, Placement, StreamId, Strength, TokenRange,
};
use phylactery::version::Version;

/// The copies of a ledger.
pub struct Copies {
    homes: Vec<EmbeddedLedger>,
    holding: AtomicBool,
    held: Mutex<Vec<Word>>,
}

/// What one datacenter said of one file.
#[derive(Clone, Debug)]
pub struct Word {
    /// By which copy it was said.
    pub from: usize,
    pub file: FileName,
    pub version: Version,
    write: FileWrite,
    change: Option<(StreamId, Change)>,
}

/// What of a word arrives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    Cells,
    Change,
    Both,
}

impl Copies {
    pub fn open(folder: &Path, count: usize) -> Arc<Copies> {
        let open = |n| EmbeddedLedger::open(folder.join(format!("copy {n}.db"))).expect("opens");
        Arc::new(Copies {
            homes: (0..count).map(open).collect(),
            holding: AtomicBool::new(false),
            held: Mutex::default(),
        })
    }

    /// The ledger as a datacenter sees it.
    pub fn seen_by(self: &Arc<Copies>, at: usize) -> Arc<dyn Ledger> {
        Arc::new(OneCopy {
            at,
            all: Arc::clone(self),
        })
    }

    /// From now on words of clients wait to be delivered.
    pub fn hold(&self) {
        self.holding.store(true, Ordering::SeqCst);
    }

    /// The words that wait.
    pub fn held(&self) -> Vec<Word> {
        self.held.lock().clone()
    }

    /// A word arrives at a copy.
    pub async fn deliver(&self, word: &Word, at: usize, part: Part) {
        let home = &self.homes[at];
        if part != Part::Change {
            let writing = home.write(&word.file, &word.write, Strength::Local);
            writing.await.expect("written");
        }
        if part != Part::Cells
            && let Some((stream, change)) = &word.change
        {
            let appending = home.append_change(stream, change, Strength::Local);
            appending.await.expect("appended");
        }
    }

    /// Everything has arrived everywhere, and words travel by themselves again.
    pub fn release(&self) {
        self.holding.store(false, Ordering::SeqCst);
        self.held.lock().clear();
    }

    fn others(&self, at: usize) -> impl Iterator<Item = &EmbeddedLedger> {
        let all = self.homes.iter().enumerate();
        all.filter(move |(n, _)| *n != at).map(|(_, home)| home)
    }
}

struct OneCopy {
    at: usize,
    all: Arc<Copies>,
}

impl OneCopy {
    fn home(&self) -> &EmbeddedLedger {
        &self.all.homes[self.at]
    }

    fn reads(&self, strength: Strength) -> Result<&EmbeddedLedger, LedgerError> {
        if strength == Strength::Each && self.all.holding.load(Ordering::SeqCst) {
            return Err(LedgerError::Unavailable {
                doing: "ask each datacenter",
                why: "words are held back".into(),
            });
        }
        Ok(self.home())
    }
}

#[async_trait]
impl Ledger for OneCopy {
    async fn write(
        &self,
        file: &FileName,
        write: &FileWrite,
        strength: Strength,
    ) -> Result<(), LedgerError> {
        self.home().write(file, write, strength).await?;
        let head = write.head.as_ref().map(|head| head.version);
        let version = head.or(write.class.as_ref().map(|cell| cell.version));
        if let Some(version) = version
            && self.all.holding.load(Ordering::SeqCst)
        {
            self.all.held.lock().push(Word {
                from: self.at,
                file: file.clone(),
                version,
                write: write.clone(),
                change: None,
            });
            return Ok(());
        }
        for other in self.all.others(self.at) {
            other.write(file, write, strength).await?;
        }
        Ok(())
    }
    async fn read(&self, file: &FileName, strength: Strength) -> Result<FileRecord, LedgerError> {
        self.reads(strength)?.read(file, strength).await
    }
    async fn scan(
        &self,
        range: TokenRange,
        from: Option<&str>,
        limit: usize,
        strength: Strength,
    ) -> Result<Page, LedgerError> {
        let home = self.reads(strength)?;
        home.scan(range, from, limit, strength).await
    }
    async fn forget(&self, file: &FileName, record: &FileRecord) -> Result<(), LedgerError> {
        for home in &self.all.homes {
            home.forget(file, record).await?;
        }
        Ok(())
    }
    async fn append_change(
        &self,
        stream: &StreamId,
        change: &Change,
        strength: Strength,
    ) -> Result<(), LedgerError> {
        self.home().append_change(stream, change, strength).await?;
        {
            let mut held = self.all.held.lock();
            let is_of = |word: &&mut Word| {
                word.from == self.at
                    && Some(&word.file) == change.file.as_ref()
                    && word.version == change.version
            };
            if let Some(word) = held.iter_mut().find(is_of) {
                word.change = Some((stream.clone(), change.clone()));
                return Ok(());
            }
        }
        for other in self.all.others(self.at) {
            other.append_change(stream, change, strength).await?;
        }
        Ok(())
    }
    async fn changes(
        &self,
        stream: &StreamId,
        after: u64,
        limit: usize,
        strength: Strength,
    ) -> Result<Vec<Change>, LedgerError> {
        let home = self.reads(strength)?;
        home.changes(stream, after, limit, strength).await
    }
    async fn set_gap(&self, datacenter: &Datacenter, gap: &Gap) -> Result<(), LedgerError> {
        self.home().set_gap(datacenter, gap).await
    }
    async fn clear_gap(
        &self,
        datacenter: &Datacenter,
        file: &FileName,
        observed: Version,
    ) -> Result<(), LedgerError> {
        self.home().clear_gap(datacenter, file, observed).await
    }
    async fn gap(
        &self,
        datacenter: &Datacenter,
        file: &FileName,
    ) -> Result<Option<Gap>, LedgerError> {
        self.home().gap(datacenter, file).await
    }
    async fn gaps(
        &self,
        datacenter: &Datacenter,
        due: Version,
        limit: usize,
    ) -> Result<Vec<Gap>, LedgerError> {
        self.home().gaps(datacenter, due, limit).await
    }
    async fn count_gaps(&self, datacenter: &Datacenter) -> Result<u64, LedgerError> {
        self.home().count_gaps(datacenter).await
    }
    async fn oldest_gap(&self, datacenter: &Datacenter) -> Result<Option<Version>, LedgerError> {
        self.home().oldest_gap(datacenter).await
    }
    async fn set_node(&self, node: &NodeRecord) -> Result<(), LedgerError> {
        for home in &self.all.homes {
            home.set_node(node).await?;
        }
        Ok(())
    }
    async fn nodes(&self) -> Result<Vec<NodeRecord>, LedgerError> {
        self.home().nodes().await
    }
    async fn set_datacenter(&self, datacenter: &DatacenterRecord) -> Result<(), LedgerError> {
        for home in &self.all.homes {
            home.set_datacenter(datacenter).await?;
        }
        Ok(())
    }
    async fn datacenters(&self) -> Result<Vec<DatacenterRecord>, LedgerError> {
        self.home().datacenters().await
    }
    async fn set_placement(
        &self,
        placement: &Placement,
        strength: Strength,
    ) -> Result<(), LedgerError> {
        for home in &self.all.homes {
            home.set_placement(placement, strength).await?;
        }
        Ok(())
    }
    async fn placements(&self) -> Result<Vec<Placement>, LedgerError> {
        self.home().placements().await
    }
    async fn set_cursor(
        &self,
        datacenter: &Datacenter,
        cursor: &Cursor,
    ) -> Result<(), LedgerError> {
        self.home().set_cursor(datacenter, cursor).await
    }
    async fn cursor(
        &self,
        datacenter: &Datacenter,
        name: &str,
    ) -> Result<Option<Cursor>, LedgerError> {
        self.home().cursor(datacenter, name).await
    }
    fn describe(&self) -> String {
        self.home().describe()
    }
    fn news(&self) -> u64 {
        self.home().news()
    }
    async fn wait_for_news_since(&self, seen: u64, limit: Duration) {
        self.home().wait_for_news_since(seen, limit).await;
    }
}
