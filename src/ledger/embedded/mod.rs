//! The ledger of one machine: an SQLite file that several processes may share.
//!
//! It keeps every value whole at its own timestamp and merges by [`Cell`](crate::file::Cell), as Cassandra would,
//! although SQLite could do more: what runs on this ledger must run on the other.
//!
//! Owns: the file and its tables (`file`), one thread that writes (`writer`), a few connections that read.
//! Always true: a write that returned `Ok` is on disk. Writes of one process that wait at the same time share a
//! transaction and its sync; writes of several processes take turns. No read lasts longer than a page.
//! Never here: waiting without limit. What takes longer than [`PATIENCE`] is `Unavailable`, and may still happen.
//! Killed in the middle: SQLite's log takes back what was not committed. The file must be on a local disk, for
//! its locks and shared memory do not work over a network.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use rusqlite::{Connection, ErrorCode};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};

use self::writer::Job;
use super::{
    Change, Cursor, DatacenterRecord, FileRecord, FileWrite, Gap, Ledger, LedgerError, NodeRecord,
    Page, Placement, StreamId, Strength, TokenRange,
};
use crate::failpoint;
use crate::file::{Datacenter, FileName};
use crate::version::Version;

mod file;
mod read;
#[cfg(test)]
mod tests;
mod write;
mod writer;

pub use file::{OpenError, SCHEMA, token};

/// How long one call may take. A disk that syncs slowly needs a second; who waits for ten should be told.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How long a writer waits for its turn while other processes write: less than [`PATIENCE`], so that
/// the error can say why.
const TURN: Duration = Duration::from_secs(5);

/// Reads at a time. They are short, and more would only compete for the same disk and page cache.
const READERS: usize = 4;

/// Writes that may wait; further callers wait to be let in, within the same limit.
const QUEUE: usize = 1024;

/// How often a waiter looks whether another process wrote.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What went wrong inside, before it is known in which call.
#[derive(Debug)]
enum Fault {
    /// SQLite said no.
    Sql(rusqlite::Error),
    /// A row, named, that this program cannot read or write.
    Unreadable(String),
}

impl From<rusqlite::Error> for Fault {
    fn from(why: rusqlite::Error) -> Self {
        Fault::Sql(why)
    }
}

impl Fault {
    fn during(self, doing: &'static str) -> LedgerError {
        let why = match self {
            Fault::Unreadable(why) => return LedgerError::Corrupt { doing, why },
            Fault::Sql(why) => why,
        };
        let damaged = matches!(
            why.sqlite_error_code(),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
        );
        let odd = matches!(
            why,
            rusqlite::Error::InvalidColumnType(..)
                | rusqlite::Error::FromSqlConversionFailure(..)
                | rusqlite::Error::IntegralValueOutOfRange(..)
        );
        let why = why.to_string();
        if damaged || odd {
            LedgerError::Corrupt { doing, why }
        } else {
            LedgerError::Unavailable { doing, why }
        }
    }
}

/// The ledger in an SQLite file.
pub struct EmbeddedLedger {
    path: PathBuf,
    queue: mpsc::Sender<Job>,
    /// Counts commits, of this process and (where noticed) of others.
    news: watch::Receiver<u64>,
    readers: Arc<Readers>,
}

struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    permits: Arc<Semaphore>,
}

impl EmbeddedLedger {
    /// Opens the file, or makes it, with its folder. Blocking; safe while other processes do the same.
    ///
    /// # Errors
    /// If it cannot be made or read, is no ledger, or belongs to a newer version of this program.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        let path = path.as_ref().to_owned();
        let (queue, news) = writer::start(file::open(&path)?, &path)?;
        let readers = Arc::new(Readers {
            path: path.clone(),
            idle: Mutex::new(Vec::new()),
            permits: Arc::new(Semaphore::new(READERS)),
        });
        Ok(Self {
            path,
            queue,
            news,
            readers,
        })
    }

    /// Runs `work` in the next transaction; `Ok` once that is on disk. `work` is run again if the
    /// transaction has to be.
    async fn write_by(
        &self,
        doing: &'static str,
        work: impl Fn(&Connection) -> Result<(), Fault> + Send + 'static,
    ) -> Result<(), LedgerError> {
        let (done, result) = oneshot::channel();
        let job = Job::Write {
            doing,
            work: Box::new(work),
            done,
        };
        let waiting = async {
            let ended = || LedgerError::Unavailable {
                doing,
                why: "its writer has ended".to_owned(),
            };
            self.queue.send(job).await.map_err(|_| ended())?;
            result.await.map_err(|_| ended())?
        };
        within_patience(doing, waiting).await
    }

    /// Runs `work` on a connection that only reads, off the runtime.
    async fn read_by<T: Send + 'static>(
        &self,
        doing: &'static str,
        work: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let readers = self.readers.clone();
        let waiting = async move {
            let broken = |why: String| LedgerError::Unavailable { doing, why };
            let permit = (readers.permits.clone().acquire_owned().await)
                .map_err(|why| broken(why.to_string()))?;
            let reading = tokio::task::spawn_blocking(move || {
                let idle = readers.idle.lock().pop();
                let outcome = idle
                    .map_or_else(|| file::open_reader(&readers.path), Ok)
                    .map_err(Fault::from)
                    .and_then(|connection| {
                        let outcome = work(&connection);
                        readers.idle.lock().push(connection);
                        outcome
                    });
                drop(permit);
                outcome
            });
            match reading.await {
                Ok(outcome) => outcome.map_err(|fault| fault.during(doing)),
                Err(why) => Err(broken(why.to_string())),
            }
        };
        within_patience(doing, waiting).await
    }
}

async fn within_patience<T>(
    doing: &'static str,
    work: impl Future<Output = Result<T, LedgerError>>,
) -> Result<T, LedgerError> {
    if failpoint::ledger_is_cut_off() {
        let why = "a test has cut it off".to_owned();
        return Err(LedgerError::Unavailable { doing, why });
    }
    timeout(PATIENCE, work).await.unwrap_or_else(|_| {
        Err(LedgerError::Unavailable {
            doing,
            why: format!("not done after {} s", PATIENCE.as_secs()),
        })
    })
}

#[async_trait]
impl Ledger for EmbeddedLedger {
    async fn write(
        &self,
        file: &FileName,
        write: &FileWrite,
        _: Strength,
    ) -> Result<(), LedgerError> {
        let (file, write) = (file.clone(), write.clone());
        self.write_by("write a file's cells", move |sql| {
            write::cells(sql, &file, &write)
        })
        .await
    }

    async fn read(&self, file: &FileName, _: Strength) -> Result<FileRecord, LedgerError> {
        let file = file.clone();
        self.read_by("read a file", move |sql| read::record(sql, &file))
            .await
    }

    async fn scan(
        &self,
        range: TokenRange,
        from: Option<&str>,
        limit: usize,
        _: Strength,
    ) -> Result<Page, LedgerError> {
        let doing = "scan the files";
        let from = from
            .map(|text| read::Position::parse(text).map_err(|fault| fault.during(doing)))
            .transpose()?;
        self.read_by(doing, move |sql| read::page(sql, range, from, limit))
            .await
    }

    async fn forget(&self, file: &FileName, record: &FileRecord) -> Result<(), LedgerError> {
        let (file, record) = (file.clone(), record.clone());
        self.write_by("forget a file", move |sql| {
            write::forget(sql, &file, &record)
        })
        .await
    }

    async fn append_change(
        &self,
        stream: &StreamId,
        change: &Change,
        _: Strength,
    ) -> Result<(), LedgerError> {
        let (stream, change) = (stream.to_string(), change.clone());
        self.write_by("append a change", move |sql| {
            write::change(sql, &stream, &change)
        })
        .await
    }

    async fn changes(
        &self,
        stream: &StreamId,
        after: u64,
        limit: usize,
        _: Strength,
    ) -> Result<Vec<Change>, LedgerError> {
        let stream = stream.to_string();
        self.read_by("read changes", move |sql| {
            read::changes(sql, &stream, after, limit)
        })
        .await
    }

    async fn set_gap(&self, datacenter: &Datacenter, gap: &Gap) -> Result<(), LedgerError> {
        let (datacenter, gap) = (datacenter.clone(), gap.clone());
        self.write_by("set a gap", move |sql| {
            write::set_gap(sql, &datacenter, &gap)
        })
        .await
    }

    async fn clear_gap(
        &self,
        datacenter: &Datacenter,
        file: &FileName,
        observed: Version,
    ) -> Result<(), LedgerError> {
        let (datacenter, file) = (datacenter.clone(), file.clone());
        self.write_by("clear a gap", move |sql| {
            write::clear_gap(sql, &datacenter, &file, observed)
        })
        .await
    }

    async fn gap(
        &self,
        datacenter: &Datacenter,
        file: &FileName,
    ) -> Result<Option<Gap>, LedgerError> {
        let (datacenter, file) = (datacenter.clone(), file.clone());
        self.read_by("read a gap", move |sql| {
            Ok(read::gap(sql, &datacenter, &file)?.and_then(read::HeldGap::open))
        })
        .await
    }

    async fn gaps(
        &self,
        datacenter: &Datacenter,
        due: Version,
        limit: usize,
    ) -> Result<Vec<Gap>, LedgerError> {
        let datacenter = datacenter.clone();
        self.read_by("read the gaps that are due", move |sql| {
            read::due_gaps(sql, &datacenter, due, limit)
        })
        .await
    }

    async fn count_gaps(&self, datacenter: &Datacenter) -> Result<u64, LedgerError> {
        let datacenter = datacenter.clone();
        self.read_by("count the gaps", move |sql| {
            read::count_gaps(sql, &datacenter)
        })
        .await
    }

    async fn oldest_gap(&self, datacenter: &Datacenter) -> Result<Option<Version>, LedgerError> {
        let datacenter = datacenter.clone();
        self.read_by("look for the oldest gap", move |sql| {
            read::oldest_gap(sql, &datacenter)
        })
        .await
    }

    async fn set_node(&self, node: &NodeRecord) -> Result<(), LedgerError> {
        let node = node.clone();
        self.write_by("write a node's word", move |sql| {
            let stream = &node.stream;
            let key = [
                stream.datacenter.as_str(),
                stream.node.as_str(),
                &stream.incarnation,
            ];
            write::row(sql, &write::NODES, &key, &node)
        })
        .await
    }

    async fn nodes(&self) -> Result<Vec<NodeRecord>, LedgerError> {
        self.read_by("read the nodes", |sql| {
            read::rows(sql, "nodes", "datacenter, node, incarnation")
        })
        .await
    }

    async fn set_datacenter(&self, datacenter: &DatacenterRecord) -> Result<(), LedgerError> {
        let datacenter = datacenter.clone();
        self.write_by("register a datacenter", move |sql| {
            let key = [datacenter.name.as_str()];
            write::row(sql, &write::DATACENTERS, &key, &datacenter)
        })
        .await
    }

    async fn datacenters(&self) -> Result<Vec<DatacenterRecord>, LedgerError> {
        self.read_by("read the datacenters", |sql| {
            read::rows(sql, "datacenters", "name")
        })
        .await
    }

    async fn set_placement(&self, placement: &Placement, _: Strength) -> Result<(), LedgerError> {
        let placement = placement.clone();
        self.write_by("set a placement", move |sql| {
            let class = placement.class.as_ref().map_or("", |c| c.escaped());
            let key = [placement.domain.escaped(), class];
            write::row(sql, &write::PLACEMENTS, &key, &placement)
        })
        .await
    }

    async fn placements(&self) -> Result<Vec<Placement>, LedgerError> {
        self.read_by("read the placements", |sql| {
            read::rows(sql, "placements", "domain, class_name")
        })
        .await
    }

    async fn set_cursor(
        &self,
        datacenter: &Datacenter,
        cursor: &Cursor,
    ) -> Result<(), LedgerError> {
        let (datacenter, cursor) = (datacenter.clone(), cursor.clone());
        self.write_by("move a cursor", move |sql| {
            let key = [datacenter.as_str(), &cursor.name];
            write::row(sql, &write::CURSORS, &key, &cursor)
        })
        .await
    }

    async fn cursor(
        &self,
        datacenter: &Datacenter,
        name: &str,
    ) -> Result<Option<Cursor>, LedgerError> {
        let (datacenter, name) = (datacenter.clone(), name.to_owned());
        self.read_by("read a cursor", move |sql| {
            read::cursor(sql, &datacenter, &name)
        })
        .await
    }

    fn describe(&self) -> String {
        format!("embedded in {}", self.path.display())
    }

    fn news(&self) -> u64 {
        *self.news.borrow()
    }

    async fn wait_for_news_since(&self, seen: u64, limit: Duration) {
        let mut news = self.news.clone();
        let end = Instant::now() + limit;
        while *news.borrow_and_update() == seen && Instant::now() < end {
            // A full queue is news of its own, soon.
            let _ = self.queue.try_send(Job::Look);
            let next_look = end.min(Instant::now() + LOOK_EVERY);
            tokio::select! {
                changed = news.changed() => if changed.is_err() {
                    // The writer has ended; the calls will say so. Do not spin.
                    sleep_until(end).await;
                },
                () = sleep_until(next_look) => {}
            }
        }
    }
}
