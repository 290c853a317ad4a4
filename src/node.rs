//! One process of a datacenter, put together: proxy, journal, delivery, repair, API, and its own word about itself.
//!
//! Always true: what can fail for a person's mistake (a taken port, a folder that cannot be written) fails before a client is
//! served; nothing at the start waits for the tracker or, but for opening it, for the ledger.
//! A stop drains the proxy first, so that nothing new arrives, then repair, then what the journal still holds is told for
//! a moment; what is left waits on disk, and so does what is not yet on every copy of the ledger. Killed in the middle: the journal says what was under way.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::api::{self, Proof, Vitals};
use crate::config::{Config, LedgerConfig};
use crate::events::Events;
use crate::file::FileName;
use crate::journal::debt::{Figures, Payer, Paying};
use crate::journal::deliver::Deliverer;
use crate::journal::settle::Settler;
use crate::journal::{Debts, Depth, Journal, Refused};
use crate::ledger::cassandra::{CassandraLedger, OpenError};
use crate::ledger::embedded::EmbeddedLedger;
use crate::ledger::{Ledger, awaited};
use crate::locks::KeyLocks;
use crate::proxy::{Drained, Proxy};
use crate::registration::Registration;
use crate::repair::explain::Explanation;
use crate::repair::settings::{Change, NotChanged};
use crate::repair::status::WorkerStatus;
use crate::repair::{Repair, RepairParts};
use crate::trackers::Trackers;
use crate::trust::{Auditor, Doubt, NotAccepted};
use crate::version::{Version, wall_clock};
use crate::{proxy, repair};

/// Connections to the local tracker for settling and repair, beside those of clients: a tracker has 20 workers
/// by default, and most of them are for clients.
const OWN_CONNECTIONS: usize = 8;

/// How long a stop goes on telling the ledger what the journal holds. What is left waits on disk for the next start.
const LAST_DELIVERY: Duration = Duration::from_secs(2);

/// How old a proof may be before "in sync" is not said any more: nodes speak every second, so a minute of silence means
/// that somebody is not heard.
const PROOF_LASTS: Duration = Duration::from_secs(60);

/// A running node.
pub struct Node {
    proxy: Arc<Proxy>,
    repair: Arc<Repair>,
    journal: Journal,
    api_addr: SocketAddr,
    /// Ends API, registration and delivery, after proxy and repair.
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Node {
    /// Starts all parts. Everything that a client may need listens when this returns.
    ///
    /// # Errors
    /// If an address is taken, or journal or ledger cannot be opened. What had been started is stopped again.
    pub async fn start(config: Config, events: Events) -> anyhow::Result<Node> {
        let api_listener = TcpListener::bind(config.api.listen)
            .await
            .with_context(|| format!("listen on {} (api.listen)", config.api.listen))?;
        let api_addr = api_listener.local_addr()?;
        let (journal, ledger) = open_stores(&config).await?;
        // Before anything is stamped, numbered or told.
        let auditor =
            Arc::new(Auditor::open(journal.clone(), Arc::clone(&ledger), api_addr).await?);
        let trackers = Arc::new(Trackers::new(
            config.proxy.trackers.clone(),
            OWN_CONNECTIONS,
        ));
        let locks = KeyLocks::default();
        let proxy = Proxy::start(&config.proxy, journal.clone(), locks.clone())?;

        let stop = CancellationToken::new();
        let settler = Settler::new(
            journal.clone(),
            Arc::clone(&ledger),
            Arc::clone(&trackers) as _,
            config.journal.quiet_time,
        );
        let deliverer = Deliverer {
            journal: journal.clone(),
            ledger: Arc::clone(&ledger),
            settler,
            events: events.clone(),
            trust: auditor.trust(),
        };
        let mut payer = Payer::new(journal.clone(), Arc::clone(&ledger));
        payer.limits.forgotten_after = config.repair.tombstone_retention;
        let paying = payer.figures();
        let registration = Registration {
            config: config.datacenter.clone(),
            api: api_addr,
            journal: journal.clone(),
            ledger: Arc::clone(&ledger),
            trackers: Arc::clone(&trackers),
            auditor: Arc::clone(&auditor),
        };
        let repair = Repair::start(RepairParts {
            config: config.repair.clone(),
            datacenter: config.datacenter.name.clone(),
            ledger: Arc::clone(&ledger),
            journal: journal.clone(),
            locks,
            trackers,
            events,
            trust: auditor.trust(),
            quiet_time: config.journal.quiet_time,
        })?;
        let (proxy, repair) = (Arc::new(proxy), Arc::new(repair));
        let context = api::Context {
            config: config.api,
            datacenter: config.datacenter.name,
            node: config.datacenter.node,
            ledger,
            clock: Arc::clone(journal.clock()),
            vitals: Arc::new(Parts {
                journal: journal.clone(),
                proxy: Arc::clone(&proxy),
                repair: Arc::clone(&repair),
                paying,
                auditor,
            }),
        };
        let serving = api::serve(api_listener, context, stop.clone());
        let tasks = vec![
            tokio::spawn(deliverer.run(stop.clone())),
            tokio::spawn(payer.run(stop.clone())),
            tokio::spawn(registration.run(stop.clone())),
            tokio::spawn(async move {
                if let Err(why) = serving.await {
                    tracing::error!("the API has ended: {why}; clients are served all the same");
                }
            }),
        ];
        Ok(Node {
            proxy,
            repair,
            journal,
            api_addr,
            stop,
            tasks,
        })
    }

    /// Where clients connect, with the real ports.
    pub fn proxy_addrs(&self) -> &[SocketAddr] {
        self.proxy.addrs()
    }

    /// Where the API is.
    pub fn api_addr(&self) -> SocketAddr {
        self.api_addr
    }

    /// Stops in order: requests under way are answered, repair leaves its copies, the ledger hears the last.
    pub async fn stop(self) {
        if let Drained::Cut(clients) = self.proxy.stop().await {
            tracing::warn!(
                clients,
                "cut off in the middle of a request: the tracker did not answer in time"
            );
        }
        self.repair.stop().await;
        let told = async {
            while self.journal.depth().entries > 0 {
                self.journal.wait_for_work(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(LAST_DELIVERY, told).await.is_err() {
            let left = self.journal.depth().entries;
            tracing::info!(left, "the rest waits in the journal for the next start");
        }
        self.stop.cancel();
        for task in self.tasks {
            if let Err(why) = task.await {
                tracing::error!("a part ended badly: {why}");
            }
        }
        self.journal.close().await;
    }
}

/// Opens journal and ledger, off the runtime: both read their files.
async fn open_stores(config: &Config) -> anyhow::Result<(Journal, Arc<dyn Ledger>)> {
    let (of_journal, us) = (config.journal.clone(), config.datacenter.clone());
    let opening = move || Journal::open(&of_journal, &us.name, &us.node);
    let journal = tokio::task::spawn_blocking(opening).await??;
    Ok((journal, open_ledger(&config.ledger).await?))
}

async fn open_ledger(config: &LedgerConfig) -> anyhow::Result<Arc<dyn Ledger>> {
    match config {
        LedgerConfig::Embedded { path } => {
            let (name, path) = (format!("the ledger {}", path.display()), path.clone());
            let opening = awaited::open(name, move || {
                EmbeddedLedger::open(&path).map(|ledger| Arc::new(ledger) as Arc<dyn Ledger>)
            });
            Ok(opening.await?)
        }
        LedgerConfig::Cassandra(config) => {
            let (name, config) = (CassandraLedger::name(config), config.clone());
            Ok(awaited::open_behind(name, move || {
                let config = config.clone();
                async move {
                    let ledger = CassandraLedger::open(&config).await?;
                    Ok::<_, OpenError>(Arc::new(ledger) as Arc<dyn Ledger>)
                }
            }))
        }
    }
}

/// What the API asks of the other parts.
struct Parts {
    journal: Journal,
    proxy: Arc<Proxy>,
    repair: Arc<Repair>,
    paying: Figures,
    auditor: Arc<Auditor>,
}

#[async_trait]
impl Vitals for Parts {
    fn journal(&self) -> Depth {
        self.journal.depth()
    }

    fn debts(&self) -> (Debts, Paying) {
        (self.journal.debts(), self.paying.now())
    }

    fn refusing(&self) -> Option<Refused> {
        self.journal.writable().err()
    }

    fn repair(&self) -> repair::status::Status {
        self.repair.status()
    }

    fn proxy(&self) -> proxy::Stats {
        self.proxy.stats()
    }

    fn unheard(&self) -> Option<String> {
        self.auditor.unheard()
    }

    fn doubt(&self) -> Option<Arc<Doubt>> {
        self.auditor.trust().doubt()
    }

    async fn explain(&self, file: &FileName) -> Explanation {
        self.repair.explain(file).await
    }

    async fn change_worker(
        &self,
        worker: &str,
        change: Change,
    ) -> Result<WorkerStatus, NotChanged> {
        self.repair.change(worker, change).await
    }

    fn begin_worker(&self, worker: &str) -> Result<(), NotChanged> {
        self.repair.begin(worker)
    }

    async fn accept(&self, doubt: &str) -> Result<Option<Arc<Doubt>>, NotAccepted> {
        self.auditor.accept(doubt).await
    }

    /// As of the least of what the others have published and done here, and what this node has not delivered itself.
    fn proof(&self) -> Proof {
        let Some(caught_up) = self.repair.caught_up() else {
            return Proof::default();
        };
        let own = self
            .journal
            .depth()
            .oldest
            .map_or(caught_up, |oldest| Version(oldest.0 - 1));
        let proved_at = caught_up.min(own);
        let age = wall_clock().0.saturating_sub(proved_at.0);
        Proof {
            in_sync: self.auditor.trust().is_given() && age <= PROOF_LASTS.as_micros() as i64,
            proved_at: Some(proved_at),
        }
    }
}
