//! The tracker's database: names, uploads, copies, hosts and settings, in one SQLite file.
//!
//! Always true: what [`Store::write`] returned is on disk (WAL, `synchronous=FULL`), and whatever
//! reads afterwards sees it. Fids come from a counter in the same transaction, so none is handed
//! out twice.
//!
//! One thread owns the writing connection. It takes what has gathered in its queue, up to
//! [`MAX_BATCH`] jobs, runs each in a savepoint and commits them together: one fsync for all that
//! waited. Readers have connections of their own and are never blocked by it.
//!
//! Killed in the middle: SQLite drops the batch that was not committed; nobody was told about it.

pub mod files;
pub mod schema;
pub mod topology;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags};
use tokio::sync::oneshot;

/// How many jobs share one commit at most. More would make the first of them wait for long.
const MAX_BATCH: usize = 256;

/// How many reading connections are kept open between reads.
const MAX_IDLE_READERS: usize = 8;

/// What can go wrong with the database.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite refused: disk full, I/O error, a damaged file.
    #[error("tracker database")]
    Sqlite(#[from] rusqlite::Error),
    /// The transaction that held this write could not be committed.
    #[error("commit to the tracker database: {0}")]
    Commit(Arc<rusqlite::Error>),
    /// The file was made by a later version of this program.
    #[error("{} has format {found}, this program knows up to {}", path.display(), schema::FORMAT)]
    Format {
        /// The database file.
        path: PathBuf,
        /// What it says about itself.
        found: i64,
    },
    /// The thread that writes is gone, because the store was closed.
    #[error("tracker database is closed")]
    Closed,
    /// The thread that writes cannot be started.
    #[error("start the thread of the tracker database")]
    Thread(#[source] std::io::Error),
}

/// Runs inside of the open transaction; what it returns is called after the commit.
type Job = Box<dyn FnOnce(&Connection) -> Deliver + Send>;
type Deliver = Box<dyn FnOnce(Option<&Arc<rusqlite::Error>>) + Send>;

/// A handle on the database; clones share it. The file is closed when the last one is dropped.
#[derive(Clone)]
pub struct Store {
    jobs: mpsc::Sender<Job>,
    readers: Arc<Readers>,
}

struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

impl Store {
    /// Opens or makes the database file.
    pub fn open(path: &Path) -> Result<Store, StoreError> {
        let writer = connect(
            path,
            OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE,
        )?;
        // The journal mode is kept in the file, so readers need not set it.
        writer.pragma_update(None, "journal_mode", "WAL")?;
        writer.pragma_update(None, "synchronous", "FULL")?;
        // In pages: the log stays small enough for the room that storage leaves on a small disk.
        writer.pragma_update(None, "wal_autocheckpoint", 250)?;
        schema::prepare(&writer, path)?;
        let (jobs, queue) = mpsc::channel::<Job>();
        std::thread::Builder::new()
            .name("tracker-store".to_owned())
            .spawn(move || run_writer(&writer, &queue))
            .map_err(StoreError::Thread)?;
        let readers = Readers {
            path: path.to_owned(),
            idle: Mutex::default(),
        };
        Ok(Store {
            jobs,
            readers: Arc::new(readers),
        })
    }

    /// Runs `job` in a transaction; durable when this returns `Ok`.
    ///
    /// The job runs also if the caller stops waiting. If it fails, nothing of it stays.
    pub async fn write<T, F>(&self, job: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let (done, result) = oneshot::channel();
        let job: Job = Box::new(move |conn| {
            let outcome = in_savepoint(conn, job);
            Box::new(move |lost| {
                let outcome = match (outcome, lost) {
                    (Err(error), _) => Err(StoreError::Sqlite(error)),
                    (Ok(_), Some(error)) => Err(StoreError::Commit(Arc::clone(error))),
                    (Ok(value), None) => Ok(value),
                };
                // Nobody waits any more if the client has gone; the write stands all the same.
                drop(done.send(outcome));
            })
        });
        self.jobs.send(job).map_err(|_| StoreError::Closed)?;
        result.await.map_err(|_| StoreError::Closed)?
    }

    /// Runs `job` on a reading connection, away from the async threads.
    pub async fn read<T, F>(&self, job: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let readers = Arc::clone(&self.readers);
        tokio::task::spawn_blocking(move || {
            let conn = readers.take()?;
            let value = job(&conn)?;
            readers.put_back(conn);
            Ok(value)
        })
        .await
        .map_err(|_| StoreError::Closed)?
    }
}

impl Readers {
    fn take(&self) -> rusqlite::Result<Connection> {
        match self.idle.lock().pop() {
            Some(conn) => Ok(conn),
            None => {
                let conn = connect(&self.path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
                conn.pragma_update(None, "query_only", true)?;
                Ok(conn)
            }
        }
    }

    fn put_back(&self, conn: Connection) {
        let mut idle = self.idle.lock();
        if idle.len() < MAX_IDLE_READERS {
            idle.push(conn);
        }
    }
}

fn connect(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    let conn = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    conn.busy_timeout(Duration::from_secs(10))?;
    conn.set_prepared_statement_cache_capacity(64);
    Ok(conn)
}

fn run_writer(conn: &Connection, queue: &mpsc::Receiver<Job>) {
    while let Ok(first) = queue.recv() {
        let mut jobs = VecDeque::from([first]);
        while jobs.len() < MAX_BATCH {
            let Ok(job) = queue.try_recv() else { break };
            jobs.push_back(job);
        }
        while !jobs.is_empty() {
            run_batch(conn, &mut jobs);
        }
    }
}

/// One transaction over as many of `jobs` as it lives; at least one.
fn run_batch(conn: &Connection, jobs: &mut VecDeque<Job>) {
    let begun = conn.execute_batch("BEGIN IMMEDIATE");
    let mut deliveries = Vec::with_capacity(jobs.len());
    while let Some(job) = jobs.pop_front() {
        deliveries.push(job(conn));
        // A full disk makes SQLite roll back the whole transaction, earlier jobs included. Those
        // that follow get one of their own.
        if begun.is_ok() && conn.is_autocommit() {
            break;
        }
    }
    let outcome = match begun {
        Err(error) => Err(error),
        Ok(()) if conn.is_autocommit() => Err(rolled_back()),
        Ok(()) => conn.execute_batch("COMMIT"),
    };
    let lost = outcome.err().map(|error| {
        tracing::error!(%error, writes = deliveries.len(), "the tracker database refused a transaction");
        if !conn.is_autocommit()
            && let Err(error) = conn.execute_batch("ROLLBACK")
        {
            tracing::error!(%error, "the tracker database refused to roll back");
        }
        Arc::new(error)
    });
    for deliver in deliveries {
        deliver(lost.as_ref());
    }
}

fn in_savepoint<T>(
    conn: &Connection,
    job: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    // Outside of a transaction the job would commit by itself, ahead of what the caller is told.
    if conn.is_autocommit() {
        return Err(rolled_back());
    }
    conn.execute_batch("SAVEPOINT job")?;
    let outcome = job(conn);
    if !conn.is_autocommit() {
        let end = if outcome.is_ok() {
            "RELEASE job"
        } else {
            "ROLLBACK TO job; RELEASE job"
        };
        conn.execute_batch(end)?;
    }
    outcome
}

fn rolled_back() -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(
        rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_ABORT),
        Some("the transaction was rolled back".to_owned()),
    )
}

/// Seconds since 1970, as the tracker's tables and answers hold them.
#[must_use]
pub fn unix_time() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| {
            i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
        })
}
