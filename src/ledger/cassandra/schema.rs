//! The tables in Cassandra: what `schema/` says, and whether the keyspace has it. A process never changes a schema by itself.

use std::collections::{BTreeMap, BTreeSet};

use scylla::client::session::Session;
use scylla::deserialize::value::DeserializeValue;
use scylla::errors::{DbError, ExecutionError, RequestAttemptError};

use super::OpenError;
use crate::config::CassandraConfig;

/// One file of `schema/`.
#[derive(Clone, Copy, Debug)]
pub struct SchemaFile {
    /// Its name.
    pub name: &'static str,
    /// The version of the tables once it has been pasted.
    pub version: u32,
    /// What is pasted.
    pub text: &'static str,
}

/// All of them, in the order in which they are pasted.
pub const FILES: [SchemaFile; 2] = [
    SchemaFile {
        name: "001_tables.cql",
        version: 1,
        text: include_str!("../../../schema/001_tables.cql"),
    },
    SchemaFile {
        name: "002_lag_goal.cql",
        version: 2,
        text: include_str!("../../../schema/002_lag_goal.cql"),
    },
];

/// The version of the tables that this program reads and writes.
pub const SCHEMA: u32 = FILES[FILES.len() - 1].version;

/// The keyspace that the files name.
pub const KEYSPACE: &str = "phylactery";

/// The tables that this program reads and writes.
const TABLES: [&str; 8] = [
    "files",
    "changes",
    "gaps",
    "nodes",
    "datacenters",
    "placements",
    "cursors",
    "meta",
];

/// Why the tables of a keyspace are not those that this program needs. Each says what to paste.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SchemaError {
    /// There is no such keyspace.
    #[error(
        "there is no keyspace {keyspace}: name your datacenters in the first lines of what `phylactery schema print --keyspace {keyspace}` prints, and paste it into cqlsh"
    )]
    NoKeyspace {
        /// Its name.
        keyspace: String,
    },
    /// A table is not there.
    #[error(
        "the keyspace {keyspace} has no table {table}: paste what `phylactery schema print --keyspace {keyspace}` prints into cqlsh; what is there already stays"
    )]
    NoTable {
        /// The keyspace.
        keyspace: String,
        /// The table.
        table: String,
    },
    /// They were made by an older version of this program.
    #[error(
        "the tables of keyspace {keyspace} are of version {found}, and this program needs version {SCHEMA}: paste what `phylactery schema print --keyspace {keyspace} --after {found}` prints into cqlsh"
    )]
    Old {
        /// The keyspace.
        keyspace: String,
        /// Their version.
        found: u32,
    },
    /// They were made by a newer version of this program, and changed in a way that this one does not know.
    #[error(
        "the tables of keyspace {keyspace} are of version {found}, and this program knows version {SCHEMA}: run the newer program"
    )]
    Newer {
        /// The keyspace.
        keyspace: String,
        /// Their version.
        found: String,
    },
}

/// Whether the keyspace is there, kept in our datacenter, with the tables that this program needs; makes it the session's.
pub(super) async fn check(session: &Session, config: &CassandraConfig) -> Result<(), OpenError> {
    let keyspace = &config.keyspace;
    let here = &config.local_datacenter;
    let there: BTreeSet<String> = session
        .get_cluster_state()
        .get_nodes_info()
        .iter()
        .filter_map(|node| node.datacenter.clone())
        .collect();
    if !there.contains(here) {
        return Err(OpenError::NoSuchDatacenter {
            name: here.clone(),
            there: there.into_iter().collect(),
        });
    }
    let replication = one_of::<BTreeMap<String, String>>(
        session,
        config,
        "SELECT replication FROM system_schema.keyspaces WHERE keyspace_name = ?",
        keyspace,
    );
    let replication = replication.await?.into_iter().next();
    let Some(replication) = replication else {
        let keyspace = keyspace.clone();
        return Err(SchemaError::NoKeyspace { keyspace }.into());
    };
    // Only this strategy names datacenters; under another one LOCAL_QUORUM is a matter of luck.
    let copies = replication.get(here).map(String::as_str);
    if copies.is_none_or(|copies| copies == "0") {
        return Err(OpenError::NoCopyHere {
            keyspace: keyspace.clone(),
            datacenter: here.clone(),
        });
    }
    let tables = one_of::<String>(
        session,
        config,
        "SELECT table_name FROM system_schema.tables WHERE keyspace_name = ?",
        keyspace,
    );
    let tables: BTreeSet<String> = tables.await?.into_iter().collect();
    if let Some(missing) = TABLES.iter().find(|table| !tables.contains(**table)) {
        return Err(SchemaError::NoTable {
            keyspace: keyspace.clone(),
            table: (*missing).to_owned(),
        }
        .into());
    }
    let using = session.use_keyspace(keyspace, false).await;
    using.map_err(|why| unanswered(&why))?;
    let found = one_of::<String>(
        session,
        config,
        "SELECT value FROM meta WHERE name = ?",
        "schema",
    );
    let found = found.await?.into_iter().next().unwrap_or_default();
    match found.parse() {
        Ok(SCHEMA) => Ok(()),
        Ok(found) if found < SCHEMA => Err(SchemaError::Old {
            keyspace: keyspace.clone(),
            found,
        }
        .into()),
        // Somebody pasted a part of the file: the version is its last line.
        Err(_) if found.is_empty() => Err(SchemaError::Old {
            keyspace: keyspace.clone(),
            found: 0,
        }
        .into()),
        Ok(_) | Err(_) => Err(SchemaError::Newer {
            keyspace: keyspace.clone(),
            found,
        }
        .into()),
    }
}

/// The first column of what a question with one name in it is answered by.
async fn one_of<T: for<'f, 'm> DeserializeValue<'f, 'm>>(
    session: &Session,
    config: &CassandraConfig,
    question: &'static str,
    name: &str,
) -> Result<Vec<T>, OpenError> {
    let answer = session.query_unpaged(question, (name,)).await;
    let answer = answer.map_err(|why| match why {
        ExecutionError::LastAttemptError(RequestAttemptError::DbError(
            DbError::Unauthorized,
            said,
        )) => OpenError::NotAllowed {
            user: config.username.clone().unwrap_or_default(),
            keyspace: config.keyspace.clone(),
            said,
        },
        why => unanswered(&why),
    });
    let rows = answer?.into_rows_result();
    let rows = rows.map_err(|why| unanswered(&why))?;
    let column = rows.rows::<(T,)>().map_err(|why| unanswered(&why))?;
    column
        .map(|row| row.map(|(value,)| value))
        .collect::<Result<_, _>>()
        .map_err(|why| unanswered(&why))
}

fn unanswered(why: &dyn std::fmt::Display) -> OpenError {
    OpenError::Failed {
        doing: "look at the schema",
        why: why.to_string(),
    }
}
