//! The journal's folder: one SQLite file, one process at a time, one node for ever.
//!
//! Always true: a folder has exactly one incarnation at a time, made with it and durable before anything else is, and a new one
//! only where its changes are numbered anew; a folder of another node, another datacenter or a newer program is left as it was found.
//! The file keeps the size of the fullest moment there was, as freed pages are used again; the write-ahead log is cut back
//! to [`WAL_KEPT`] whenever it begins anew. An operator who leaves a read transaction open keeps it from beginning anew.
//! Killed in the middle: the tables and the identity come in one transaction, so a folder has all of it or none.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags, OptionalExtension, params};

use super::owed::{self, Most, Owed};
use super::rows::{self, TABLES};
use super::{Entry, JournalError, Outgoing};
use crate::file::{Datacenter, FileName, NodeName};
use crate::ledger::StreamId;
use crate::machine;
use crate::version::{Version, wall_clock};

/// The layout of the tables. A change of it raises this and adds the step from the one before.
const SCHEMA: i64 = 2;

/// How long to wait for a process that is just ending, as it is when a service is restarted.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// An operator may look with the `sqlite3` tool; one who writes holds up intents this long at most.
const BUSY: Duration = Duration::from_secs(1);

/// The write-ahead log is cut to this when it begins anew: above what is written between two
/// checkpoints, so that in ordinary times it keeps its length and a commit need not grow it.
const WAL_KEPT: i64 = 64 << 20;

/// An open journal folder.
pub struct Folder {
    /// For the writer thread alone.
    pub write: Connection,
    /// For everybody who reads.
    pub read: Connection,
    /// Held as long as the writer lives.
    pub lock: File,
    /// Whose changes these are.
    pub stream: StreamId,
    /// Where the counters stand.
    pub counters: Counters,
    /// What the next versions of some files must pass.
    pub floors: Vec<(FileName, Version)>,
    /// What the ledger has, but not yet everywhere.
    pub owed: Owed,
    path: PathBuf,
}

/// What grows for ever, also over restarts, and is as durable as the rows that carry it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// The last version that the clock may have handed out.
    pub mark: Version,
    /// The last number given to a change.
    pub number: u64,
    /// The last `seq` of an entry.
    pub seq: u64,
    /// The last `id` of an announcement.
    pub id: u64,
}

impl Counters {
    /// The rows of `meta` that hold them.
    fn values(&self) -> [(&'static str, i64); 4] {
        [
            ("clock_mark", self.mark.0),
            ("last_number", self.number as i64),
            ("last_seq", self.seq as i64),
            ("last_id", self.id as i64),
        ]
    }

    /// Writes what differs from `before`.
    pub fn save(&self, db: &Connection, before: &Counters) -> rusqlite::Result<()> {
        for ((name, value), (_, old)) in self.values().into_iter().zip(before.values()) {
            if value != old {
                db.prepare_cached("UPDATE meta SET value = ?2 WHERE name = ?1")?
                    .execute(params![name, value])?;
            }
        }
        Ok(())
    }
}

impl Folder {
    /// Opens or makes the folder for this node, and turns entries that an earlier process left open into lost ones.
    pub fn open(
        path: &Path,
        datacenter: &Datacenter,
        node: &NodeName,
        most_owed: Most,
    ) -> Result<Folder, JournalError> {
        let failed = |why: String| JournalError::Open {
            folder: path.display().to_string(),
            why,
        };
        std::fs::create_dir_all(path).map_err(|why| failed(why.to_string()))?;
        let lock = lock(path).map_err(failed)?;
        survive_size_limits();
        let file = path.join("journal.db");
        let is_new = !file.exists();
        let mut write = connect(&file).map_err(|why| failed(said(&why)))?;
        let (stream, counters) = identify(&mut write, datacenter, node).map_err(failed)?;
        if is_new {
            // SQLite syncs what is in its files; that the files are in the folder is for us to sync.
            for folder in [Some(path), path.parent()].into_iter().flatten() {
                let folder = if folder.as_os_str().is_empty() {
                    Path::new(".")
                } else {
                    folder
                };
                File::open(folder)
                    .and_then(|folder| folder.sync_all())
                    .map_err(|why| failed(format!("sync {}: {why}", folder.display())))?;
            }
        }
        mark_lost(&write).map_err(|why| failed(said(&why)))?;
        let floors = rows::drop_floors(&write, counters.mark)
            .and_then(|()| rows::read_floors(&write))
            .map_err(|why| failed(said(&why)))?;
        let owed = Owed::load(&write, most_owed).map_err(|why| failed(said(&why)))?;
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let read = Connection::open_with_flags(&file, flags).map_err(|why| failed(said(&why)))?;
        read.busy_timeout(BUSY).map_err(|why| failed(said(&why)))?;
        Ok(Folder {
            write,
            read,
            lock,
            stream,
            counters,
            floors,
            owed,
            path: path.to_owned(),
        })
    }

    /// Reads all that is there, once.
    pub fn load(
        &self,
        mut entry: impl FnMut(Entry, u32),
        mut outgoing: impl FnMut(Outgoing, u32),
    ) -> Result<(), JournalError> {
        let failed = |why: rusqlite::Error| JournalError::Open {
            folder: self.path.display().to_string(),
            why: said(&why),
        };
        let mut select = self.write.prepare(rows::SELECT_ENTRIES).map_err(failed)?;
        let mut found = select.query([]).map_err(failed)?;
        while let Some(row) = found.next().map_err(failed)? {
            let (read, weight) = rows::read_entry(row)?;
            entry(read, weight);
        }
        let mut select = self.write.prepare(rows::SELECT_OUTBOX).map_err(failed)?;
        let mut found = select.query([]).map_err(failed)?;
        while let Some(row) = found.next().map_err(failed)? {
            let (read, weight) = rows::read_outgoing(row)?;
            outgoing(read, weight);
        }
        Ok(())
    }
}

/// What SQLite said, with the number that tells one input/output error from another.
pub fn said(why: &rusqlite::Error) -> String {
    match why {
        rusqlite::Error::SqliteFailure(code, _) => {
            format!("{why} (SQLite error {})", code.extended_code)
        }
        _ => why.to_string(),
    }
}

fn lock(folder: &Path) -> Result<File, String> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(folder.join("lock"))
        .map_err(|why| why.to_string())?;
    let give_up = Instant::now() + LOCK_WAIT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(why)) => return Err(format!("lock it: {why}")),
            Err(TryLockError::WouldBlock) if Instant::now() >= give_up => {
                return Err("another process has it open; give each its own [journal] path".into());
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// A limit on the size of files shall be an error of the write that meets it, not the end of the process.
#[expect(unsafe_code, reason = "there is no safe way to ignore a signal")]
fn survive_size_limits() {
    // SAFETY: ignoring a signal installs no handler; it is done to a signal that nobody else handles.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

fn connect(file: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(file, flags)?;
    db.busy_timeout(BUSY)?;
    db.set_prepared_statement_cache_capacity(32);
    let mode: String = db.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))?;
    if mode != "wal" {
        return Err(rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CANTOPEN),
            Some("no write-ahead log is possible here; the folder must be on a local disk".into()),
        ));
    }
    db.pragma_update(None, "synchronous", "full")?;
    db.pragma_update(None, "journal_size_limit", WAL_KEPT)?;
    // The writer does its own checkpoints, since SQLite's automatic ones keep their errors to themselves.
    db.pragma_update(None, "wal_autocheckpoint", 0)?;
    Ok(db)
}

/// Reads who the folder belongs to, or makes it ours if it is new.
fn identify(
    db: &mut Connection,
    datacenter: &Datacenter,
    node: &NodeName,
) -> Result<(StreamId, Counters), String> {
    let tables: i64 = db
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(|why| said(&why))?;
    if tables == 0 {
        create(db, datacenter, node).map_err(|why| said(&why))?;
    }
    let schema: i64 = value(db, "schema")?;
    if !(1..=SCHEMA).contains(&schema) {
        return Err(format!(
            "its tables are of version {schema}, and this program knows up to version {SCHEMA}; start the program that wrote it"
        ));
    }
    let (theirs, their_node): (String, String) = (value(db, "datacenter")?, value(db, "node")?);
    if theirs != datacenter.as_str() || their_node != node.as_str() {
        return Err(format!(
            "it belongs to node {their_node} of datacenter {theirs}, and this is node {node} of datacenter {datacenter}; \
             give each its own [journal] path"
        ));
    }
    bring_up_to_date(db, schema).map_err(|why| said(&why))?;
    let counter = |name| value::<i64>(db, name).map(|value| value as u64);
    let stream = StreamId {
        datacenter: datacenter.clone(),
        node: node.clone(),
        incarnation: value(db, "incarnation")?,
    };
    let counters = Counters {
        mark: Version(value(db, "clock_mark")?),
        number: counter("last_number")?,
        seq: counter("last_seq")?,
        id: counter("last_id")?,
    };
    Ok((stream, counters))
}

/// Brings the tables of an earlier program to today's, all steps in one transaction. What is in them stays. Going back to
/// the earlier program is not possible afterwards: it would not know what is owed.
fn bring_up_to_date(db: &mut Connection, schema: i64) -> rusqlite::Result<()> {
    if schema == SCHEMA {
        return Ok(());
    }
    let all = db.transaction()?;
    if schema < 2 {
        all.execute_batch(owed::TABLE)?;
    }
    all.execute("UPDATE meta SET value = ?1 WHERE name = 'schema'", [SCHEMA])?;
    all.commit()
}

fn create(db: &mut Connection, datacenter: &Datacenter, node: &NodeName) -> rusqlite::Result<()> {
    let all = db.transaction()?;
    all.execute_batch(TABLES)?;
    all.execute_batch(owed::TABLE)?;
    let incarnation = new_incarnation();
    let mut insert = all.prepare("INSERT INTO meta (name, value) VALUES (?1, ?2)")?;
    insert.execute(params!["schema", SCHEMA])?;
    insert.execute(params!["datacenter", datacenter.as_str()])?;
    insert.execute(params!["node", node.as_str()])?;
    insert.execute(params!["incarnation", incarnation])?;
    for (name, value) in Counters::default().values() {
        insert.execute(params![name, value])?;
    }
    drop(insert);
    all.commit()
}

/// A name that no other life of a journal has.
pub fn new_incarnation() -> String {
    let (high, low) = (machine::random(), machine::random());
    uuid::Builder::from_random_bytes(((u128::from(high) << 64) | u128::from(low)).to_be_bytes())
        .into_uuid()
        .simple()
        .to_string()
}

fn value<T: rusqlite::types::FromSql>(db: &Connection, name: &str) -> Result<T, String> {
    db.query_row("SELECT value FROM meta WHERE name = ?1", [name], |row| {
        row.get(0)
    })
    .optional()
    .map_err(|why| format!("read {name} from its table meta: {}", said(&why)))?
    .ok_or_else(|| format!("its table meta lacks {name}; is this a journal of phylactery?"))
}

/// Whatever was under way when the last process ended gets no answer any more. A time of loss in the
/// future, from a clock that was wrong, would make the quiet time endless.
fn mark_lost(db: &Connection) -> rusqlite::Result<()> {
    let now = wall_clock().0;
    db.execute(
        "UPDATE entries SET outcome = 'lost', lost_at = ?1 WHERE outcome IS NULL OR lost_at > ?1",
        [now],
    )?;
    Ok(())
}
