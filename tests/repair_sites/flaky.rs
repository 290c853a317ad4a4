//! A ledger that can be away, all of it or a part.

use std::collections::BTreeMap;
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

/// A ledger that can be away.
pub struct Flaky {
    inner: Arc<dyn Ledger>,
    pub away: AtomicBool,
    /// Only the nodes cannot be read.
    pub nodes_away: AtomicBool,
    /// Other datacenters of the ledger do not answer.
    pub others_away: AtomicBool,
    /// Reads of this file fail for good.
    pub poison: Mutex<Option<FileName>>,
    /// How often what was called.
    calls: Mutex<BTreeMap<&'static str, u64>>,
}

impl Flaky {
    pub fn open(folder: &Path) -> Arc<Flaky> {
        let inner = EmbeddedLedger::open(folder.join("ledger.db")).expect("the ledger opens");
        Flaky::over(Arc::new(inner))
    }

    /// Over a ledger that somebody else has opened.
    pub fn over(inner: Arc<dyn Ledger>) -> Arc<Flaky> {
        Arc::new(Flaky {
            inner,
            away: AtomicBool::new(false),
            nodes_away: AtomicBool::new(false),
            others_away: AtomicBool::new(false),
            poison: Mutex::default(),
            calls: Mutex::default(),
        })
    }

    pub fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }

    /// How often what was called so far, by the names of the ledger's methods.
    pub fn calls(&self) -> BTreeMap<&'static str, u64> {
        self.calls.lock().clone()
    }

    fn here(&self, call: &'static str) -> Result<&dyn Ledger, LedgerError> {
        *self.calls.lock().entry(call).or_default() += 1;
        if self.away.load(Ordering::SeqCst) {
            return Err(LedgerError::Unavailable {
                doing: "ask",
                why: "a test says so".into(),
            });
        }
        Ok(&*self.inner)
    }

    /// For reads that ask more than this datacenter.
    fn far(&self, call: &'static str, strength: Strength) -> Result<&dyn Ledger, LedgerError> {
        if strength != Strength::Local && self.others_away.load(Ordering::SeqCst) {
            return Err(LedgerError::Unavailable {
                doing: "ask everybody",
                why: "a test says so".into(),
            });
        }
        self.here(call)
    }
}

#[async_trait]
impl Ledger for Flaky {
    async fn write(
        &self,
        file: &FileName,
        write: &FileWrite,
        strength: Strength,
    ) -> Result<(), LedgerError> {
        self.here("write")?.write(file, write, strength).await
    }
    async fn read(&self, file: &FileName, strength: Strength) -> Result<FileRecord, LedgerError> {
        if self.poison.lock().as_ref() == Some(file) {
            return Err(LedgerError::Corrupt {
                doing: "read a file",
                why: "poison".into(),
            });
        }
        self.far("read", strength)?.read(file, strength).await
    }
    async fn scan(
        &self,
        range: TokenRange,
        from: Option<&str>,
        limit: usize,
        strength: Strength,
    ) -> Result<Page, LedgerError> {
        self.far("scan", strength)?
            .scan(range, from, limit, strength)
            .await
    }
    async fn forget(&self, file: &FileName, record: &FileRecord) -> Result<(), LedgerError> {
        self.here("forget")?.forget(file, record).await
    }
    async fn append_change(
        &self,
        stream: &StreamId,
        change: &Change,
        strength: Strength,
    ) -> Result<(), LedgerError> {
        self.here("append_change")?
            .append_change(stream, change, strength)
            .await
    }
    async fn changes(
        &self,
        stream: &StreamId,
        after: u64,
        limit: usize,
        strength: Strength,
    ) -> Result<Vec<Change>, LedgerError> {
        self.far("changes", strength)?
            .changes(stream, after, limit, strength)
            .await
    }
    async fn set_gap(&self, datacenter: &Datacenter, gap: &Gap) -> Result<(), LedgerError> {
        self.here("set_gap")?.set_gap(datacenter, gap).await
    }
    async fn clear_gap(
        &self,
        datacenter: &Datacenter,
        file: &FileName,
        observed: Version,
    ) -> Result<(), LedgerError> {
        self.here("clear_gap")?
            .clear_gap(datacenter, file, observed)
            .await
    }
    async fn gap(
        &self,
        datacenter: &Datacenter,
        file: &FileName,
    ) -> Result<Option<Gap>, LedgerError> {
        self.here("gap")?.gap(datacenter, file).await
    }
    async fn gaps(
        &self,
        datacenter: &Datacenter,
        due: Version,
        limit: usize,
    ) -> Result<Vec<Gap>, LedgerError> {
        self.here("gaps")?.gaps(datacenter, due, limit).await
    }
    async fn count_gaps(&self, datacenter: &Datacenter) -> Result<u64, LedgerError> {
        self.here("count_gaps")?.count_gaps(datacenter).await
    }
    async fn oldest_gap(&self, datacenter: &Datacenter) -> Result<Option<Version>, LedgerError> {
        self.here("oldest_gap")?.oldest_gap(datacenter).await
    }
    async fn set_node(&self, node: &NodeRecord) -> Result<(), LedgerError> {
        self.here("set_node")?.set_node(node).await
    }
    async fn nodes(&self) -> Result<Vec<NodeRecord>, LedgerError> {
        if self.nodes_away.load(Ordering::SeqCst) {
            return Err(LedgerError::Unavailable {
                doing: "read the nodes",
                why: "a test says so".into(),
            });
        }
        self.here("nodes")?.nodes().await
    }
    async fn set_datacenter(&self, datacenter: &DatacenterRecord) -> Result<(), LedgerError> {
        self.here("set_datacenter")?
            .set_datacenter(datacenter)
            .await
    }
    async fn datacenters(&self) -> Result<Vec<DatacenterRecord>, LedgerError> {
        self.here("datacenters")?.datacenters().await
    }
    async fn set_placement(
        &self,
        placement: &Placement,
        strength: Strength,
    ) -> Result<(), LedgerError> {
        self.far("set_placement", strength)?
            .set_placement(placement, strength)
            .await
    }
    async fn placements(&self) -> Result<Vec<Placement>, LedgerError> {
        self.here("placements")?.placements().await
    }
    async fn set_cursor(
        &self,
        datacenter: &Datacenter,
        cursor: &Cursor,
    ) -> Result<(), LedgerError> {
        self.here("set_cursor")?
            .set_cursor(datacenter, cursor)
            .await
    }
    async fn cursor(
        &self,
        datacenter: &Datacenter,
        name: &str,
    ) -> Result<Option<Cursor>, LedgerError> {
        self.here("cursor")?.cursor(datacenter, name).await
    }
    fn describe(&self) -> String {
        self.inner.describe()
    }
    fn news(&self) -> u64 {
        self.inner.news()
    }
    async fn wait_for_news_since(&self, seen: u64, limit: Duration) {
        self.inner.wait_for_news_since(seen, limit).await;
    }
}
