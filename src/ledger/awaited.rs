//! A ledger that may not be there when the process starts: clients are served all the same.
//!
//! Always true: a mistake that shows at once (no such folder, another program's file) fails the start; whatever takes longer
//! (a file that somebody holds locked, a cluster that hangs) goes on in the background until it works, and until
//! then every call says [`LedgerError::Unavailable`].

use std::fmt::Display;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use backon::BackoffBuilder;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{
    Change, ClusterNode, Cursor, Datacenter, DatacenterRecord, FileName, FileRecord, FileWrite,
    Gap, Ledger, LedgerError, NodeRecord, Page, Placement, StreamId, Strength, TokenRange, Version,
};

/// How long a start waits for the ledger. Whoever is alive opens in a few milliseconds.
const PATIENCE: Duration = Duration::from_secs(1);

/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Opens a ledger with `open`, which may block. `name` is what `status` calls it until it is there.
///
/// # Errors
/// Those of `open` that come at once.
pub async fn open<E: Display + Send + 'static>(
    name: String,
    open: impl Fn() -> Result<Arc<dyn Ledger>, E> + Clone + Send + 'static,
) -> Result<Arc<dyn Ledger>, E> {
    let mut first = tokio::task::spawn_blocking(open.clone());
    if let Ok(Ok(opened)) = tokio::time::timeout(PATIENCE, &mut first).await {
        return opened;
    }
    tracing::warn!(
        "{name} does not open yet; clients are served, and announcements wait in the journal"
    );
    let mut first = Some(first);
    let attempt = move || {
        let again = || tokio::task::spawn_blocking(open.clone());
        let attempt = first.take().unwrap_or_else(again);
        async move {
            match attempt.await {
                Ok(opened) => opened.map_err(|why| why.to_string()),
                Err(why) => Err(format!("open it: {why}")),
            }
        }
    };
    Ok(Awaited::begin(name, attempt))
}

/// Opens a ledger that is reached over a network: no state of it, and no mistake in how it is reached, keeps clients from
/// being served. What went wrong is in the log, and in what every call says until it is there.
pub fn open_behind<E, F>(name: String, open: impl Fn() -> F + Send + 'static) -> Arc<dyn Ledger>
where
    E: Display + Send + 'static,
    F: Future<Output = Result<Arc<dyn Ledger>, E>> + Send + 'static,
{
    Awaited::begin(name, move || {
        let opening = open();
        async move { opening.await.map_err(|why| why.to_string()) }
    })
}

struct Awaited {
    name: String,
    there: OnceLock<Arc<dyn Ledger>>,
    came: Notify,
    /// Why the last attempt failed.
    why: Mutex<Option<String>>,
}

impl Awaited {
    /// Tries in the background until an attempt succeeds, or nobody holds the ledger any more.
    fn begin<F>(name: String, mut attempt: impl FnMut() -> F + Send + 'static) -> Arc<dyn Ledger>
    where
        F: Future<Output = Result<Arc<dyn Ledger>, String>> + Send + 'static,
    {
        let awaited = Arc::new(Awaited {
            name,
            there: OnceLock::new(),
            came: Notify::new(),
            why: Mutex::default(),
        });
        let waiting = Arc::clone(&awaited);
        tokio::spawn(async move {
            let mut pauses = backon::ExponentialBuilder::default()
                .with_max_delay(LONGEST_PAUSE)
                .with_jitter()
                .without_max_times()
                .build();
            loop {
                match attempt().await {
                    Ok(ledger) => {
                        tracing::info!("{} is open", waiting.name);
                        waiting.arrived(ledger);
                        return;
                    }
                    Err(why) => waiting.failed(why),
                }
                tokio::time::sleep(pauses.next().unwrap_or(LONGEST_PAUSE)).await;
                // Nobody holds it any more but this task.
                if Arc::strong_count(&waiting) == 1 {
                    return;
                }
            }
        });
        awaited
    }

    /// Told once for each reason, not for each attempt.
    fn failed(&self, why: String) {
        let mut last = self.why.lock();
        if last.as_ref() != Some(&why) {
            tracing::warn!("{why}; it is tried again, and clients are served meanwhile");
        }
        *last = Some(why);
    }

    fn arrived(&self, ledger: Arc<dyn Ledger>) {
        let _only_once = self.there.set(ledger);
        self.came.notify_waiters();
    }

    fn there(&self, doing: &'static str) -> Result<&Arc<dyn Ledger>, LedgerError> {
        self.there.get().ok_or_else(|| LedgerError::Unavailable {
            doing,
            why: match &*self.why.lock() {
                Some(why) => format!("it is not open yet: {why}"),
                None => "it is not open yet".to_owned(),
            },
        })
    }
}

/// Each method asks the ledger that is there, or says that none is.
macro_rules! passed_on {
    ($($doing:literal $method:ident($($arg:ident: $type:ty),*) -> $answer:ty;)*) => {
        #[async_trait]
        impl Ledger for Awaited {
            $(async fn $method(&self, $($arg: $type),*) -> Result<$answer, LedgerError> {
                self.there($doing)?.$method($($arg),*).await
            })*

            fn owes(&self) -> bool {
                self.there.get().is_none_or(|ledger| ledger.owes())
            }

            fn cluster(&self) -> Vec<ClusterNode> {
                self.there.get().map(|ledger| ledger.cluster()).unwrap_or_default()
            }

            fn describe(&self) -> String {
                match self.there.get() {
                    Some(ledger) => ledger.describe(),
                    None => format!("{}, not open yet", self.name),
                }
            }

            fn news(&self) -> u64 {
                self.there.get().map_or(0, |ledger| ledger.news())
            }

            async fn wait_for_news_since(&self, seen: u64, limit: Duration) {
                let came = self.came.notified();
                match self.there.get() {
                    Some(ledger) => ledger.wait_for_news_since(seen, limit).await,
                    None => {
                        let _came_or_not = tokio::time::timeout(limit, came).await;
                    }
                }
            }
        }
    };
}

passed_on! {
    "write a file" write(file: &FileName, write: &FileWrite, strength: Strength) -> ();
    "read a file" read(file: &FileName, strength: Strength) -> FileRecord;
    "scan files" scan(range: TokenRange, from: Option<&str>, limit: usize, strength: Strength) -> Page;
    "forget a file" forget(file: &FileName, record: &FileRecord) -> ();
    "append a change" append_change(stream: &StreamId, change: &Change, strength: Strength) -> ();
    "read changes" changes(stream: &StreamId, after: u64, limit: usize, strength: Strength) -> Vec<Change>;
    "set a gap" set_gap(datacenter: &Datacenter, gap: &Gap) -> ();
    "clear a gap" clear_gap(datacenter: &Datacenter, file: &FileName, observed: Version) -> ();
    "read a gap" gap(datacenter: &Datacenter, file: &FileName) -> Option<Gap>;
    "read gaps" gaps(datacenter: &Datacenter, due: Version, limit: usize) -> Vec<Gap>;
    "count gaps" count_gaps(datacenter: &Datacenter) -> u64;
    "look for the oldest gap" oldest_gap(datacenter: &Datacenter) -> Option<Version>;
    "publish a node" set_node(node: &NodeRecord) -> ();
    "read nodes" nodes() -> Vec<NodeRecord>;
    "publish a datacenter" set_datacenter(datacenter: &DatacenterRecord) -> ();
    "read datacenters" datacenters() -> Vec<DatacenterRecord>;
    "set a placement" set_placement(placement: &Placement, strength: Strength) -> ();
    "read placements" placements() -> Vec<Placement>;
    "move a cursor" set_cursor(datacenter: &Datacenter, cursor: &Cursor) -> ();
    "read a cursor" cursor(datacenter: &Datacenter, name: &str) -> Option<Cursor>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::embedded::EmbeddedLedger;

    #[tokio::test]
    async fn a_mistake_that_shows_at_once_fails_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.db");
        std::fs::write(
            &path,
            b"this is no ledger, and long enough to be seen to be none",
        )
        .unwrap();
        let opened = open("it".to_owned(), move || {
            EmbeddedLedger::open(&path).map(|l| Arc::new(l) as Arc<dyn Ledger>)
        });
        assert!(opened.await.is_err());
    }

    #[tokio::test]
    async fn a_ledger_that_comes_late_is_used_when_it_comes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.db");
        let (open_the_gate, gate) = std::sync::mpsc::channel::<()>();
        let gate = Arc::new(parking_lot::Mutex::new(gate));
        let opening = open("the late one".to_owned(), move || {
            let _opened = gate.lock().recv();
            EmbeddedLedger::open(&path).map(|l| Arc::new(l) as Arc<dyn Ledger>)
        });
        let Ok(ledger) = opening.await else {
            panic!("it only comes late")
        };
        assert!(
            ledger
                .nodes()
                .await
                .unwrap_err()
                .to_string()
                .contains("not open yet")
        );
        assert!(ledger.describe().contains("not open yet"));
        drop(open_the_gate);
        while ledger.nodes().await.is_err() {
            ledger.wait_for_news(Duration::from_secs(5)).await;
        }
        assert!(ledger.describe().starts_with("embedded"));
    }
}
