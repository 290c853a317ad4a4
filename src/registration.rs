//! What this node publishes of itself: its stream and how far the ledger has it, and how the others reach this datacenter.
//!
//! Always true: what a node has not published, nobody counts on; a node that is silent is one that "in sync" waits for. The node's own
//! word is published by the auditor (`trust`), which looks at the ledger before.
//! Never here: what an operator decided about a datacenter; that is kept as the ledger has it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::config::DatacenterConfig;
use crate::journal::Journal;
use crate::ledger::{DatacenterRecord, Ledger};
use crate::split::{self, Clash};
use crate::trackers::Trackers;
use crate::trust::Auditor;
use crate::version::Version;

/// How often a node speaks. Others prove "in sync" as of what they heard last.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// Heartbeats from one look at the tracker's hosts to the next: hosts are added by hand, and rarely.
const BEATS_A_LOOK: u32 = 30;

/// Publishes one node.
pub struct Registration {
    /// Who we are.
    pub config: DatacenterConfig,
    /// Where our API is.
    pub api: SocketAddr,
    /// What we have not delivered yet.
    pub journal: Journal,
    /// Where it is published.
    pub ledger: Arc<dyn Ledger>,
    /// Whose storage hosts others may fetch from.
    pub trackers: Arc<Trackers>,
    /// Who publishes our stream.
    pub auditor: Arc<Auditor>,
}

impl Registration {
    /// Publishes until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut beats = tokio::time::interval(HEARTBEAT);
        beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut until_look = 0;
        let mut silent = false;
        let mut clashed = None;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = beats.tick() => {}
            }
            // First, since delivery and repair wait for the first look, and a tracker may take its time.
            match self.auditor.beat().await {
                Ok(()) if silent => {
                    silent = false;
                    tracing::info!("the ledger hears this node again");
                }
                Ok(()) => {}
                Err(why) if !silent => {
                    silent = true;
                    tracing::warn!("the ledger does not hear this node: {why}");
                }
                Err(_) => {}
            }
            if until_look == 0 {
                until_look = match self.publish_datacenter().await {
                    Ok(()) => BEATS_A_LOOK,
                    Err(why) => {
                        match why.downcast_ref::<Clash>() {
                            Some(clash) if clashed != Some(clash.clone()) => {
                                tracing::error!("this datacenter is not published: {clash}");
                                clashed = Some(clash.clone());
                            }
                            Some(_) => {}
                            None => tracing::debug!("this datacenter is not published yet: {why}"),
                        }
                        1
                    }
                };
            }
            until_look -= 1;
        }
    }

    async fn publish_datacenter(&self) -> anyhow::Result<()> {
        let storage_hosts = match &self.config.storage_hosts {
            Some(hosts) => hosts.clone(),
            None => self.hosts_of_the_tracker().await?,
        };
        let known = self.ledger.datacenters().await?;
        // Who is not registered is fetched from by nobody, and fetches nothing.
        if let Some(clash) = split::clash(&self.config.name, &storage_hosts, &known) {
            return Err(clash.into());
        }
        let known = known
            .into_iter()
            .find(|known| known.name == self.config.name);
        let record = DatacenterRecord {
            name: self.config.name.clone(),
            trackers: self.config.trackers.clone(),
            storage_hosts,
            api: Some(format!("http://{}", self.api)),
            updated: Version(0),
        };
        let same = known.filter(|known| {
            let known = DatacenterRecord {
                updated: Version(0),
                ..known.clone()
            };
            known == record
        });
        let record = match same {
            // The same again, at its time: copies of the ledger that missed it hear it now. Without it nobody there fetches from us.
            Some(known) => known,
            None => DatacenterRecord {
                updated: self.journal.clock().stamp()?,
                ..record
            },
        };
        self.ledger.set_datacenter(&record).await?;
        Ok(())
    }

    async fn hosts_of_the_tracker(&self) -> anyhow::Result<BTreeSet<String>> {
        Ok(split::storage_urls(&self.trackers.get_hosts().await?))
    }
}
