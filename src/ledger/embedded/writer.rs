//! The one thread that writes: all that wait go into one transaction, with one sync.
//!
//! Always true: a caller hears `Ok` after the commit. Where a transaction fails, each of its writes is tried
//! by itself, so that none fails for another's fault.
//! Ends when the ledger is dropped and all that waited is done.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::{mpsc, oneshot, watch};

use super::file::{OpenError, is_busy};
use super::{Fault, QUEUE, TURN, write};
use crate::ledger::LedgerError;
use crate::version::{Version, wall_clock};

/// Writes of one transaction: what 1,000 callers would wait for is still some milliseconds of work.
const MOST_TOGETHER: usize = 256;

/// How long a cleared gap is remembered: longer than anybody retries the setting of one.
const REMEMBER_CLEARED: Duration = Duration::from_secs(10 * 24 * 3600);

/// How many cleared gaps are forgotten at once.
const FORGET_AT_ONCE: usize = 1000;

/// From here on the log is brought to nothing with some force: readers of several processes, one after
/// another, may keep SQLite from beginning it anew by itself.
const LONG_LOG: u64 = 64 << 20;

/// What may be done in a transaction, and again in another if that fails.
type Work = Box<dyn Fn(&Connection) -> Result<(), Fault> + Send>;

/// What the thread is asked.
pub(super) enum Job {
    /// To write something.
    Write {
        doing: &'static str,
        work: Work,
        done: oneshot::Sender<Result<(), LedgerError>>,
    },
    /// To look whether another process has written.
    Look,
}

struct Waiting {
    doing: &'static str,
    work: Work,
    done: oneshot::Sender<Result<(), LedgerError>>,
}

/// Starts the thread.
pub(super) fn start(
    sql: Connection,
    path: &Path,
) -> Result<(mpsc::Sender<Job>, watch::Receiver<u64>), OpenError> {
    let (queue, jobs) = mpsc::channel(QUEUE);
    let (news, seen) = watch::channel(0);
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    let writer = Writer {
        log: log.into(),
        data_version: data_version(&sql).unwrap_or_default(),
        sql,
        news,
        forget_next: Instant::now(),
    };
    std::thread::Builder::new()
        .name("ledger".to_owned())
        .spawn(move || writer.run(jobs))
        .map_err(|why| OpenError::Failed {
            path: path.to_owned(),
            why: format!("start the thread that writes: {why}"),
        })?;
    Ok((queue, seen))
}

/// Changes when a connection other than `sql` has committed.
fn data_version(sql: &Connection) -> rusqlite::Result<i64> {
    sql.pragma_query_value(None, "data_version", |row| row.get(0))
}

struct Writer {
    sql: Connection,
    log: PathBuf,
    data_version: i64,
    news: watch::Sender<u64>,
    forget_next: Instant,
}

impl Writer {
    fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        while let Some(first) = jobs.blocking_recv() {
            let mut look = false;
            let mut batch = Vec::new();
            let mut next = Some(first);
            while let Some(job) = next {
                match job {
                    Job::Look => look = true,
                    Job::Write { doing, work, done } => batch.push(Waiting { doing, work, done }),
                }
                next = (batch.len() < MOST_TOGETHER)
                    .then(|| jobs.try_recv().ok())
                    .flatten();
            }
            if !batch.is_empty() {
                self.write(batch);
                self.shorten_log();
            }
            if look {
                self.look();
            }
            self.forget();
        }
    }

    /// Writes a batch and answers all of it.
    fn write(&mut self, mut batch: Vec<Waiting>) {
        // Nobody waits any more: the caller was told `Unavailable` long ago.
        batch.retain(|waiting| !waiting.done.is_closed());
        match self.commit(&batch) {
            Ok(outcomes) => {
                for (waiting, outcome) in batch.into_iter().zip(outcomes) {
                    answer(waiting, outcome);
                }
            }
            // One that has to wait for its turn will wait as long with each write alone.
            Err(why) if batch.len() == 1 || is_busy(&why) => {
                let why = why.to_string();
                for Waiting { doing, done, .. } in batch {
                    let why = why.clone();
                    let _ = done.send(Err(LedgerError::Unavailable { doing, why }));
                }
            }
            Err(_) => {
                for waiting in batch {
                    let outcome = match self.commit(std::slice::from_ref(&waiting)) {
                        Ok(mut outcomes) => outcomes.pop().unwrap_or(Ok(())),
                        Err(why) => Err(Fault::Sql(why)),
                    };
                    answer(waiting, outcome);
                }
            }
        }
    }

    /// One transaction. `Err` means that nothing of it has happened, or that nobody knows.
    fn commit(&mut self, batch: &[Waiting]) -> rusqlite::Result<Vec<Result<(), Fault>>> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let turn = Instant::now() + TURN;
        let writing = loop {
            match Transaction::new_unchecked(&self.sql, TransactionBehavior::Immediate) {
                Err(why) if is_busy(&why) && Instant::now() < turn => {}
                outcome => break outcome?,
            }
        };
        let mut outcomes = Vec::with_capacity(batch.len());
        for waiting in batch {
            match (waiting.work)(&writing) {
                Err(Fault::Sql(why)) => return Err(why),
                outcome => outcomes.push(outcome),
            }
        }
        writing.commit()?;
        self.news
            .send_modify(|count| *count = count.wrapping_add(1));
        Ok(outcomes)
    }

    fn look(&mut self) {
        // An error here is one of the next write too, and is told there.
        if let Ok(now) = data_version(&self.sql)
            && now != self.data_version
        {
            self.data_version = now;
            self.news
                .send_modify(|count| *count = count.wrapping_add(1));
        }
    }

    fn shorten_log(&self) {
        let long = std::fs::metadata(&self.log).is_ok_and(|log| log.len() > LONG_LOG);
        // Not having done it is no harm; it is tried again after the next write.
        if long
            && let Err(why) = self
                .sql
                .pragma(None, "wal_checkpoint", "TRUNCATE", |_| Ok(()))
        {
            tracing::debug!("the ledger's log stays long: {why}");
        }
    }

    /// Forgets old cleared gaps, a few at a time, once an hour.
    fn forget(&mut self) {
        if Instant::now() < self.forget_next {
            return;
        }
        let before = Version(wall_clock().0 - REMEMBER_CLEARED.as_micros() as i64);
        let pause = match write::forget_cleared_gaps(&self.sql, before, FORGET_AT_ONCE) {
            Ok(FORGET_AT_ONCE) => Duration::from_secs(1),
            Ok(_) => Duration::from_secs(3600),
            Err(why) => {
                tracing::debug!("cleared gaps stay for now: {why}");
                Duration::from_secs(60)
            }
        };
        self.forget_next = Instant::now() + pause;
    }
}

fn answer(waiting: Waiting, outcome: Result<(), Fault>) {
    let Waiting { doing, done, .. } = waiting;
    // Who does not wait any more is not told.
    let _ = done.send(outcome.map_err(|fault| fault.during(doing)));
}
