//! The search for files that a datacenter lacks, for `/file/bad`: resumable, and with leases.
//!
//! A ledger has no table of what is missing where, so the search walks the ring of all files. It goes on where the
//! last one stopped, a call takes at most [`CALL`], and "all good" is said only after a walk over the whole ring that
//! began at its beginning and found nothing to hand out.
//!
//! A file that was handed out is leased for [`LEASE`]: no other worker is given it until then. Leases are memory of
//! this process; after a restart, or from another process, a file may be given twice, which costs a worker's
//! time and nothing else.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::Refusal;
use crate::file::{Datacenter, Domain, FileName};
use crate::ledger::{FileRecord, Ledger, LedgerError, Page, Strength, TokenRange};
use crate::placement::Placements;

/// How long a worker has for a file before it is given to another one.
pub(super) const LEASE: Duration = Duration::from_secs(60);
/// How long one call searches, and how long it waits for its turn: together less than scripts wait for an answer.
const CALL: Duration = Duration::from_secs(5);
/// Files read at a time.
const PAGE: usize = 1000;

/// One search a datacenter.
#[derive(Default)]
pub(super) struct Hunts(Mutex<HashMap<Datacenter, Arc<tokio::sync::Mutex<Hunt>>>>);

/// Where the search for one datacenter stands.
#[derive(Default)]
struct Hunt {
    /// The next page; `None` at the beginning of the ring.
    next: Option<String>,
    /// Whether this walk began at the beginning and has handed out nothing.
    clean: bool,
    /// Found on the last page and not handed out yet.
    found: VecDeque<FileName>,
    /// Handed out, and until when.
    leased: HashMap<FileName, Instant>,
}

impl Hunts {
    /// A file of `domain` that is due in `datacenter` and not there, now leased; `None` if there is none for you.
    /// `datacenter` is a registered one: their number bounds the memory.
    pub(super) async fn next(
        &self,
        ledger: &dyn Ledger,
        placements: &Placements,
        domain: &Domain,
        datacenter: &Datacenter,
    ) -> Result<Option<(FileName, FileRecord)>, Refusal> {
        let hunt = Arc::clone(self.0.lock().entry(datacenter.clone()).or_default());
        let waiting = tokio::time::timeout(CALL, hunt.lock()).await;
        let mut hunt = waiting.map_err(|_| unfinished())?;
        let deadline = Instant::now() + CALL;
        let now = Instant::now();
        hunt.leased.retain(|_, until| *until > now);
        let lacks = |file: &FileName, record: &FileRecord| {
            file.domain == *domain
                && placements.due_of(file, record).contains(datacenter)
                && !holds(record, datacenter)
        };
        loop {
            while let Some(file) = hunt.found.front().cloned() {
                // It may have come since the page was read. It leaves the queue only after the answer: this
                // call may be dropped while it waits.
                let record = limited(deadline, ledger.read(&file, Strength::Local)).await?;
                hunt.found.pop_front();
                if lacks(&file, &record) && !hunt.leased.contains_key(&file) {
                    hunt.leased.insert(file.clone(), Instant::now() + LEASE);
                    hunt.clean = false;
                    return Ok(Some((file, record)));
                }
            }
            if hunt.next.is_none() {
                hunt.clean = true;
            }
            let reading = ledger.scan(TokenRange::ALL, hunt.next.as_deref(), PAGE, Strength::Local);
            let Page {
                files,
                unreadable,
                next,
                reached: _,
            } = limited(deadline, reading).await?;
            for bad in unreadable {
                tracing::warn!("a search for bad files passes over what cannot be read: {bad:?}");
            }
            hunt.found = files
                .into_iter()
                .filter(|(file, record)| lacks(file, record) && !hunt.leased.contains_key(file))
                .map(|(file, _)| file)
                .collect();
            let at_the_end = next.is_none();
            hunt.next = next;
            if at_the_end && hunt.found.is_empty() && hunt.clean {
                return Ok(None);
            }
        }
    }

    /// A worker says that it has brought the file: its lease has served.
    pub(super) async fn release(&self, datacenter: &Datacenter, file: &FileName) {
        let hunt = self.0.lock().get(datacenter).map(Arc::clone);
        if let Some(hunt) = hunt {
            hunt.lock().await.leased.remove(file);
        }
    }
}

/// Whether `datacenter` has the bytes that the head names, be it by hearsay.
pub(super) fn holds(record: &FileRecord, datacenter: &Datacenter) -> bool {
    let held = record.replicas.get(datacenter);
    held.is_some_and(|replica| replica.content().is_some() && replica.content() == record.content())
}

async fn limited<T>(
    deadline: Instant,
    asking: impl Future<Output = Result<T, LedgerError>>,
) -> Result<T, Refusal> {
    match tokio::time::timeout_at(deadline, asking).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(unfinished()),
    }
}

fn unfinished() -> Refusal {
    Refusal::Unfinished(
        "still searching: ask again, and the search goes on where it is now".to_owned(),
    )
}
