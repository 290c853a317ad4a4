//! The process of a datacenter: the real parts of a node on a played machine, begun and crashed.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use mogilefs_protocol::client::Timeouts;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::ledger::Near;
use super::storage;
use super::world::{Machine, World};
use crate::config::{
    DatacenterConfig, JournalConfig, OnVanished, RepairConfig, SourcesConfig, VerifyBy,
};
use crate::events::Events;
use crate::journal::Journal;
use crate::journal::debt::Payer;
use crate::journal::deliver::Deliverer;
use crate::journal::settle::Settler;
use crate::ledger::Ledger;
use crate::locks::KeyLocks;
use crate::machine::{On, Played, spawn_in};
use crate::proxy::unsocketed::Unsocketed;
use crate::registration::Registration;
use crate::repair::budget::Limits;
use crate::repair::{Repair, RepairParts};
use crate::trackers::Trackers;
use crate::trust::{Auditor, Trust};
use crate::version::Version;

/// A tracker may carry out for less than half of this what it has given up to answer.
const QUIET_TIME: Duration = Duration::from_secs(2);

/// How long a tracker's answer is waited for: trackers here are as much faster as the quiet time is shorter.
const TIMEOUTS: Timeouts = Timeouts {
    connect: Duration::from_millis(500),
    reply: Duration::from_secs(3),
};

/// How long a client waits for another one's mutation of its key.
const LOCK_WAIT: Duration = Duration::from_secs(3);

/// A process.
pub struct Running {
    machine: Arc<Machine>,
    pub journal: Journal,
    pub proxy: Arc<Unsocketed>,
    pub trust: Trust,
    repair: Repair,
    tasks: Mutex<JoinSet<()>>,
}

impl Running {
    /// Starts the process of a datacenter, on the journal that it had.
    ///
    /// # Errors
    /// If the journal cannot be opened.
    pub async fn start(
        world: &Arc<World>,
        at: usize,
        home: &Path,
        verifies: bool,
    ) -> anyhow::Result<Arc<Running>> {
        let machine = Machine::new(world, at);
        let parts = Self::begin(Arc::clone(&machine), home, verifies);
        On::machine(Arc::clone(&machine) as Arc<dyn Played>, parts).await
    }

    async fn begin(
        machine: Arc<Machine>,
        home: &Path,
        verifies: bool,
    ) -> anyhow::Result<Arc<Running>> {
        let (world, at) = (Arc::clone(&machine.world), machine.at);
        let name = world.places[at].name.clone();
        let config = DatacenterConfig {
            name: name.clone(),
            node: "node1".parse().expect("a name"),
            trackers: vec![format!("{name}:7001")],
            storage_hosts: Some(BTreeSet::from([storage::host(&name)])),
        };
        let of_journal = JournalConfig {
            path: home.join(name.as_str()),
            max_size: 1 << 26,
            quiet_time: QUIET_TIME,
        };
        let (journal, writer) = Journal::open_with_task(&of_journal, &name, &config.node)
            .context("open a simulated journal")?;
        let mut tasks = JoinSet::new();
        spawn_in(&mut tasks, writer);
        let ledger: Arc<dyn Ledger> = Arc::new(Near { world, at });
        let api: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
        let auditor = Auditor::open(journal.clone(), Arc::clone(&ledger), api).await?;
        let auditor = Arc::new(auditor);
        let trust = auditor.trust();
        let trackers = Trackers::new(config.trackers.clone(), 8).with_timeouts(TIMEOUTS);
        let trackers = Arc::new(trackers);
        let locks = KeyLocks::default();
        let events = Events::default();
        let stop = CancellationToken::new();
        let deliverer = Deliverer {
            journal: journal.clone(),
            ledger: Arc::clone(&ledger),
            settler: Settler::new(
                journal.clone(),
                Arc::clone(&ledger),
                Arc::clone(&trackers) as _,
                QUIET_TIME,
            ),
            events: events.clone(),
            trust: trust.clone(),
        };
        spawn_in(&mut tasks, deliverer.run(stop.clone()));
        let mut payer = Payer::new(journal.clone(), Arc::clone(&ledger));
        payer.limits.longest_pause = Duration::from_secs(5);
        spawn_in(&mut tasks, payer.run(stop.clone()));
        let registration = Registration {
            config,
            api,
            journal: journal.clone(),
            ledger: Arc::clone(&ledger),
            trackers: Arc::clone(&trackers),
            auditor,
        };
        spawn_in(&mut tasks, registration.run(stop));
        let repair = Repair::start(RepairParts {
            config: repair_config(verifies),
            datacenter: name,
            ledger,
            journal: journal.clone(),
            locks: locks.clone(),
            trackers,
            events,
            trust: trust.clone(),
            quiet_time: QUIET_TIME,
        })?;
        let proxy = Unsocketed::new(journal.clone(), locks, LOCK_WAIT, 1000);
        Ok(Arc::new(Running {
            machine,
            journal,
            proxy: Arc::new(proxy),
            trust,
            repair,
            tasks: Mutex::new(tasks),
        }))
    }

    /// Begins something that ends with the process.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let machine = Arc::clone(&self.machine) as Arc<dyn Played>;
        self.tasks.lock().spawn(On::machine(machine, task));
    }

    /// Ends it as it stands: nothing of it runs any more.
    pub fn crash(&self) {
        self.machine.kill();
        self.tasks.lock().abort_all();
    }

    /// As of when this datacenter says that it is in sync.
    pub fn proved_at(&self) -> Option<Version> {
        let caught_up = self.repair.caught_up()?;
        let own = self.journal.depth().oldest;
        Some(own.map_or(caught_up, |oldest| caught_up.min(Version(oldest.0 - 1))))
    }
}

fn repair_config(verifies: bool) -> RepairConfig {
    RepairConfig {
        enabled: true,
        budget: Limits::default(),
        sources: SourcesConfig::default(),
        create_domains: true,
        // So that nobody is helped by it but where it is asked for.
        scan_every: Duration::from_secs(86_400),
        retry_first: Duration::from_millis(500),
        retry_most: Duration::from_secs(4),
        tombstone_retention: Duration::from_secs(3600),
        verify_every: verifies.then_some(Duration::from_secs(30)),
        verify_by: VerifyBy::Size,
        verify_rate: 10_000,
        verify_most_missing: 5.0,
        on_vanished: OnVanished::Restore,
        // Nobody goes past the proxy here.
        backfill_every: None,
        backfill_rate: 50,
        backfill_sweep_every: Duration::from_secs(86_400),
        split_from: BTreeSet::new(),
    }
}
