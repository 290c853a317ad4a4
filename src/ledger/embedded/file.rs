//! The file: making it, opening it, its tables.
//!
//! Always true: whoever opens it first makes all tables in one transaction, so nobody sees half of them.
//! Rows are STRICT: a column holds the type that it says.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use md5::{Digest, Md5};
use rusqlite::{
    Connection, ErrorCode, OpenFlags, OptionalExtension, Transaction, TransactionBehavior,
};

use super::PATIENCE;
use crate::file::FileName;

/// The version of the tables that this program makes and understands.
pub const SCHEMA: u32 = 1;

/// Columns named as in `schema/`, values as JSON: an operator reads them with `sqlite3` and `json_extract`.
const TABLES: &str = "
CREATE TABLE meta (                     -- 'schema': the version of these tables
    name TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE files (                    -- what should exist; a row without a head has replicas only
    token INTEGER NOT NULL,             -- first 8 bytes of md5(domain, NUL, key): the place on the ring
    domain TEXT NOT NULL,               -- this and all names as the tracker escapes them
    key TEXT NOT NULL,
    head_version INTEGER,
    head TEXT,                          -- the newest revision
    class_version INTEGER,
    class_cell TEXT,                    -- counts while its content is the head's
    PRIMARY KEY (token, domain, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE replicas (                 -- what each datacenter holds, as last observed
    token INTEGER NOT NULL,
    domain TEXT NOT NULL,
    key TEXT NOT NULL,
    datacenter TEXT NOT NULL,
    since INTEGER NOT NULL,
    replica TEXT NOT NULL,
    PRIMARY KEY (token, domain, key, datacenter)
) STRICT, WITHOUT ROWID;

CREATE TABLE changes (                  -- the streams; a number without a file was used up without a change
    stream TEXT NOT NULL,
    number INTEGER NOT NULL,
    domain TEXT,
    key TEXT,
    version INTEGER NOT NULL,
    about TEXT NOT NULL,                -- 'head' or 'class': the cell that has this version
    PRIMARY KEY (stream, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE gaps (                     -- what did not work at once; a cleared one is remembered for a while
    datacenter TEXT NOT NULL,
    domain TEXT NOT NULL,
    key TEXT NOT NULL,
    observed INTEGER NOT NULL,
    cleared_at INTEGER,                 -- by the wall clock; the gap is open while this is absent
    since INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    last_error TEXT NOT NULL,
    next_try INTEGER NOT NULL,
    expected_head INTEGER,              -- versions that the file has to show before it may be taken for done
    expected_class INTEGER,
    PRIMARY KEY (datacenter, domain, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX gaps_due ON gaps (datacenter, next_try) WHERE cleared_at IS NULL;
CREATE INDEX gaps_cleared ON gaps (cleared_at) WHERE cleared_at IS NOT NULL;
CREATE INDEX gaps_since ON gaps (datacenter, since) WHERE cleared_at IS NULL;

CREATE TABLE nodes (
    datacenter TEXT NOT NULL,
    node TEXT NOT NULL,
    incarnation TEXT NOT NULL,
    heartbeat INTEGER NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (datacenter, node, incarnation)
) STRICT, WITHOUT ROWID;

CREATE TABLE datacenters (
    name TEXT NOT NULL PRIMARY KEY,
    updated INTEGER NOT NULL,
    record TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE placements (               -- a record without datacenters was taken back
    domain TEXT NOT NULL,
    class_name TEXT NOT NULL,           -- empty: all classes of the domain without a row of their own
    updated INTEGER NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (domain, class_name)
) STRICT, WITHOUT ROWID;

CREATE TABLE cursors (
    datacenter TEXT NOT NULL,
    name TEXT NOT NULL,
    updated INTEGER NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (datacenter, name)
) STRICT, WITHOUT ROWID;
";

/// Why the file could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its folder could not be made, or the file not be opened, read or written.
    #[error("open the ledger {}: {why}", path.display())]
    Failed {
        /// Which file.
        path: PathBuf,
        /// What the system or SQLite said.
        why: String,
    },
    /// Something else is there.
    #[error("{} is an SQLite file, but no ledger; give ledger.path a name of its own", path.display())]
    NotALedger {
        /// Which file.
        path: PathBuf,
    },
    /// A newer version of this program has made or changed it.
    #[error(
        "the ledger {} has schema {found} and this program knows {SCHEMA}: run the newer version",
        path.display()
    )]
    Newer {
        /// Which file.
        path: PathBuf,
        /// Its schema.
        found: String,
    },
}

/// Where a file lies on the ring: the first eight bytes of the MD5 of domain, NUL and key, big-endian. Stable
/// over versions and machines, and computable with any tool.
pub fn token(file: &FileName) -> i64 {
    let digest = Md5::new()
        .chain_update(file.domain.escaped())
        .chain_update([0])
        .chain_update(file.key.escaped())
        .finalize();
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    i64::from_be_bytes(first)
}

/// Opens the file for the writer; makes folder, file and tables where they are missing.
pub(super) fn open(path: &Path) -> Result<Connection, OpenError> {
    let failed = |why: String| OpenError::Failed {
        path: path.to_owned(),
        why,
    };
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(folder).map_err(|why| failed(why.to_string()))?;
    let end = Instant::now() + PATIENCE;
    let mut connection =
        connect(path, OpenFlags::SQLITE_OPEN_CREATE).map_err(|why| failed(why.to_string()))?;
    // Going over to WAL takes the file for a moment, and SQLite does not wait with it when two begin at once.
    while let Err(why) = connection.pragma_update(None, "journal_mode", "WAL") {
        if !is_busy(&why) || Instant::now() > end {
            return Err(failed(why.to_string()));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let schema = loop {
        match make_tables(&mut connection) {
            Ok(schema) => break schema,
            Err(why) if is_busy(&why) && Instant::now() < end => {}
            Err(why) => return Err(failed(why.to_string())),
        }
    };
    // So that the file's own name survives a crash of the machine.
    std::fs::File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|why| failed(why.to_string()))?;
    match schema {
        Some(schema) if schema == SCHEMA.to_string() => Ok(connection),
        Some(found) => Err(OpenError::Newer {
            path: path.to_owned(),
            found,
        }),
        None => Err(OpenError::NotALedger {
            path: path.to_owned(),
        }),
    }
}

/// The schema that is there, or was made just now because nothing was there; `None` if something else is.
fn make_tables(connection: &mut Connection) -> rusqlite::Result<Option<String>> {
    let taking = Transaction::new(connection, TransactionBehavior::Immediate)?;
    let tables: i64 = taking.query_row("SELECT count(*) FROM sqlite_schema", [], |r| r.get(0))?;
    if tables == 0 {
        taking.execute_batch(TABLES)?;
        taking.execute(
            "INSERT INTO meta (name, value) VALUES ('schema', ?1)",
            [SCHEMA.to_string()],
        )?;
        taking.commit()?;
        return Ok(Some(SCHEMA.to_string()));
    }
    let ours = "SELECT count(*) FROM sqlite_schema WHERE name IN ('meta', 'files', 'changes')";
    if taking.query_row(ours, [], |row| row.get::<_, i64>(0))? < 3 {
        return Ok(None);
    }
    let schema = taking
        .query_row("SELECT value FROM meta WHERE name = 'schema'", [], |row| {
            row.get::<_, String>(0)
        })
        .optional()?;
    if schema == Some(SCHEMA.to_string()) {
        // It was not always made with the tables; whoever does not know it is none the worse for it.
        taking.execute_batch(
            "CREATE INDEX IF NOT EXISTS gaps_since ON gaps (datacenter, since) WHERE cleared_at IS NULL",
        )?;
        taking.commit()?;
    }
    Ok(schema)
}

/// A connection that reads only.
pub(super) fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let connection = connect(path, OpenFlags::empty())?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

fn connect(path: &Path, making: OpenFlags) -> rusqlite::Result<Connection> {
    // Each connection is used by one thread at a time, so SQLite needs no mutex of its own.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | making;
    let connection = Connection::open_with_flags(path, flags)?;
    // Short: SQLite sleeps longer from try to try, and would starve beside a busy process. The writer tries
    // again by itself; a reader waits only while somebody recovers the log.
    connection.busy_timeout(Duration::from_millis(50))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// Whether another process is just writing.
pub(super) fn is_busy(why: &rusqlite::Error) -> bool {
    matches!(
        why.sqlite_error_code(),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
    )
}
