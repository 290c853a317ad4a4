//! A ledger that is not available, whatever is asked; some nodes of its cluster are reached all the same.

use std::time::Duration;

use async_trait::async_trait;
use phylactery::file::{Datacenter, FileName};
use phylactery::ledger::{
    Change, ClusterNode, Cursor, DatacenterRecord, FileRecord, FileWrite, Gap, Ledger, LedgerError,
    NodeRecord, Page, Placement, StreamId, Strength, TokenRange,
};
use phylactery::version::Version;

pub struct Unavailable;

fn no<T>() -> Result<T, LedgerError> {
    Err(LedgerError::Unavailable {
        doing: "ask",
        why: "the test has unplugged it".to_owned(),
    })
}

#[async_trait]
impl Ledger for Unavailable {
    async fn write(&self, _: &FileName, _: &FileWrite, _: Strength) -> Result<(), LedgerError> {
        no()
    }
    async fn read(&self, _: &FileName, _: Strength) -> Result<FileRecord, LedgerError> {
        no()
    }
    async fn scan(
        &self,
        _: TokenRange,
        _: Option<&str>,
        _: usize,
        _: Strength,
    ) -> Result<Page, LedgerError> {
        no()
    }
    async fn forget(&self, _: &FileName, _: &FileRecord) -> Result<(), LedgerError> {
        no()
    }
    async fn append_change(
        &self,
        _: &StreamId,
        _: &Change,
        _: Strength,
    ) -> Result<(), LedgerError> {
        no()
    }
    async fn changes(
        &self,
        _: &StreamId,
        _: u64,
        _: usize,
        _: Strength,
    ) -> Result<Vec<Change>, LedgerError> {
        no()
    }
    async fn set_gap(&self, _: &Datacenter, _: &Gap) -> Result<(), LedgerError> {
        no()
    }
    async fn clear_gap(&self, _: &Datacenter, _: &FileName, _: Version) -> Result<(), LedgerError> {
        no()
    }
    async fn gap(&self, _: &Datacenter, _: &FileName) -> Result<Option<Gap>, LedgerError> {
        no()
    }
    async fn gaps(&self, _: &Datacenter, _: Version, _: usize) -> Result<Vec<Gap>, LedgerError> {
        no()
    }
    async fn count_gaps(&self, _: &Datacenter) -> Result<u64, LedgerError> {
        no()
    }
    async fn oldest_gap(&self, _: &Datacenter) -> Result<Option<Version>, LedgerError> {
        no()
    }
    async fn set_node(&self, _: &NodeRecord) -> Result<(), LedgerError> {
        no()
    }
    async fn nodes(&self) -> Result<Vec<NodeRecord>, LedgerError> {
        no()
    }
    async fn set_datacenter(&self, _: &DatacenterRecord) -> Result<(), LedgerError> {
        no()
    }
    async fn datacenters(&self) -> Result<Vec<DatacenterRecord>, LedgerError> {
        no()
    }
    async fn set_placement(&self, _: &Placement, _: Strength) -> Result<(), LedgerError> {
        no()
    }
    async fn placements(&self) -> Result<Vec<Placement>, LedgerError> {
        no()
    }
    async fn set_cursor(&self, _: &Datacenter, _: &Cursor) -> Result<(), LedgerError> {
        no()
    }
    async fn cursor(&self, _: &Datacenter, _: &str) -> Result<Option<Cursor>, LedgerError> {
        no()
    }
    fn cluster(&self) -> Vec<ClusterNode> {
        let nodes = [
            ("10.1.0.31:9042", Some("ma01"), true),
            ("10.2.0.31:9042", Some("tx01"), true),
            ("10.2.0.32:9042", Some("tx01"), false),
        ];
        nodes
            .map(|(address, datacenter, reached)| ClusterNode {
                address: address.to_owned(),
                datacenter: datacenter.map(str::to_owned),
                reached,
            })
            .to_vec()
    }
    fn describe(&self) -> String {
        "a ledger that is not there".to_owned()
    }
    fn news(&self) -> u64 {
        0
    }
    async fn wait_for_news_since(&self, _: u64, _: Duration) {}
}
