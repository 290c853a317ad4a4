//! What the ledger says of datacenters and placements, kept for a few seconds, and a pool of connections to the
//! trackers of each other datacenter.
//!
//! Always true: what is kept is a whole reading, never a part of one; when it cannot be read anew, that
//! is an error and not an old answer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::file::{Class, Datacenter, Domain};
use crate::ledger::{DatacenterRecord, Ledger, LedgerError};
use crate::placement::Placements;
use crate::trackers::Trackers;

use super::import;
use super::reconcile::Due;

/// How old an answer may be: an operator's change is obeyed after this time at the latest.
const FRESH: Duration = Duration::from_secs(3);

/// Connections to the trackers of one other datacenter; looking up paths is quick.
const REMOTE_CONNECTIONS: usize = 8;

/// Datacenters and placements as of a moment ago.
pub(super) struct Registry {
    ledger: Arc<dyn Ledger>,
    here: Datacenter,
    local: Arc<Trackers>,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    read: Option<(Instant, Arc<Reading>)>,
    pools: BTreeMap<Datacenter, (Vec<String>, Arc<Trackers>)>,
}

/// One reading of the registry.
pub(super) struct Reading {
    placements: Placements,
    /// See [`Placements::rules`]; and which imports have ended.
    pub(super) rules: String,
    datacenters: BTreeMap<Datacenter, Known>,
}

/// A datacenter that files may be fetched from.
#[derive(Clone)]
pub(super) struct Known {
    pub(super) record: Arc<DatacenterRecord>,
    pub(super) trackers: Arc<Trackers>,
}

impl Registry {
    pub(super) fn new(ledger: Arc<dyn Ledger>, here: Datacenter, local: Arc<Trackers>) -> Registry {
        Registry {
            ledger,
            here,
            local,
            kept: Mutex::default(),
        }
    }

    /// Whether this datacenter has told the ledger of itself.
    pub(super) async fn knows_us(&self) -> Result<bool, LedgerError> {
        let datacenters = self.ledger.datacenters().await?;
        Ok(datacenters.iter().any(|record| record.name == self.here))
    }

    pub(super) async fn read(&self) -> Result<Arc<Reading>, LedgerError> {
        self.read_if(|began| began.elapsed() >= FRESH).await
    }

    /// A reading that began at this moment at the earliest.
    pub(super) async fn read_since(&self, moment: Instant) -> Result<Arc<Reading>, LedgerError> {
        self.read_if(|began| began < moment).await
    }

    /// What is kept, or a new reading if what is kept began too early.
    async fn read_if(
        &self,
        too_early: impl Fn(Instant) -> bool,
    ) -> Result<Arc<Reading>, LedgerError> {
        // Held while reading: others that want the same wait for the one answer.
        let mut kept = self.kept.lock().await;
        if let Some((began, reading)) = &kept.read
            && !too_early(*began)
        {
            return Ok(Arc::clone(reading));
        }
        let began = Instant::now();
        let records = self.ledger.datacenters().await?;
        let memberships = self.ledger.memberships().await?;
        let placements = Placements::new(self.ledger.placements().await?, &records, memberships);
        if !records.iter().any(|record| record.name == self.here) {
            // Nothing is due in a datacenter that nobody knows: what is looked at now would be passed by mistake.
            return Err(LedgerError::Unavailable {
                doing: "read which datacenters there are",
                why: format!("{} has not told the ledger of itself yet", self.here),
            });
        }
        // What an import has told is in nobody's stream: a scan has to begin after it.
        let mut rules = placements.rules();
        let mut datacenters = BTreeMap::new();
        for record in records {
            if let Some(ended) = import::last_ended(&*self.ledger, &record.name).await? {
                rules.push_str(&format!(" {} {ended}", record.name));
            }
            let trackers = if record.name == self.here {
                Arc::clone(&self.local)
            } else {
                let (addrs, pool) = kept
                    .pools
                    .entry(record.name.clone())
                    .or_insert_with(|| (record.trackers.clone(), pool(&record)));
                if *addrs != record.trackers {
                    *addrs = record.trackers.clone();
                    *pool = self::pool(&record);
                }
                Arc::clone(pool)
            };
            datacenters.insert(
                record.name.clone(),
                Known {
                    record: Arc::new(record),
                    trackers,
                },
            );
        }
        let reading = Arc::new(Reading {
            placements,
            rules,
            datacenters,
        });
        kept.read = Some((began, Arc::clone(&reading)));
        Ok(reading)
    }
}

impl Reading {
    /// Whether files of this class are due in `datacenter`.
    pub(super) fn due(
        &self,
        datacenter: &Datacenter,
        domain: &Domain,
        class: Option<&Class>,
    ) -> Due {
        if self.placements.is_due(datacenter, domain, class) {
            return Due::Here;
        }
        let row = self.placements.deciding(domain, class);
        let alone = row.is_some_and(|row| row.remove_extra);
        Due::Elsewhere { alone }
    }

    pub(super) fn placements(&self) -> &Placements {
        &self.placements
    }

    pub(super) fn datacenter(&self, name: &Datacenter) -> Option<&Known> {
        self.datacenters.get(name)
    }
}

fn pool(record: &DatacenterRecord) -> Arc<Trackers> {
    Arc::new(Trackers::new(record.trackers.clone(), REMOTE_CONNECTIONS))
}
