//! The tables in Cassandra: what `schema/` says, and whether the keyspace has it. A process never changes a schema by itself.

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
pub const FILES: [SchemaFile; 1] = [SchemaFile {
    name: "001_tables.cql",
    version: 1,
    text: include_str!("../../../schema/001_tables.cql"),
}];

/// The version of the tables that this program reads and writes.
pub const SCHEMA: u32 = FILES[FILES.len() - 1].version;

/// The keyspace that the files name.
pub const KEYSPACE: &str = "phylactery";

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
