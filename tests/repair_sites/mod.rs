//! Datacenters for the tests of repair, in this process: a real tracker and storage node, a real journal with its delivery,
//! a real ledger, a real repair, over real sockets. And one that is played: a tracker and a storage node that
//! answer what a test wants.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::collections::{BTreeSet, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use mogilefs_protocol::client::{Client, CreateClose, CreateOpen, Timeouts};
use parking_lot::Mutex;
use phylactery::config::{JournalConfig, RepairConfig, VerifyBy};
use phylactery::events::{Event, Events, What};
use phylactery::file::{
    Checksum, Class, ClassCell, Content, Datacenter, Fid, FileName, Held, Op, Put, Replica,
    Revision,
};
use phylactery::journal::deliver::Deliverer;
use phylactery::journal::settle::Settler;
use phylactery::journal::{By, Details, Journal, Mutation, Outcome};
use phylactery::ledger::embedded::EmbeddedLedger;
use phylactery::ledger::{
    About, Change, Cursor, DatacenterRecord, FileRecord, FileWrite, Gap, Ledger, LedgerError,
    NodeRecord, Page, Placement, StreamId, Strength, TokenRange,
};
use phylactery::locks::KeyLocks;
use phylactery::repair::{Repair, RepairParts};
use phylactery::tracker::{Tracker, TrackerConfig};
use phylactery::trackers::Trackers;
use phylactery::trust::{Auditor, Trust};
use phylactery::version::{Version, wall_clock};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// How long a condition may take to come true. Generous: it is only used up by a failure.
pub const PATIENCE: Duration = Duration::from_secs(60);

const QUIET_TIME: Duration = Duration::from_millis(300);

pub fn file(key: &str) -> FileName {
    FileName::from_bytes(b"photos", key.as_bytes())
}

pub fn dc(name: &str) -> Datacenter {
    name.parse().expect("a name")
}

pub fn any_port() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// Bytes that are not all alike, from a seed.
pub fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

/// Waits until `condition` gives something; else fails with `last`.
pub async fn until<T, F: Future<Output = Result<T, String>>>(
    what: &str,
    condition: impl Fn() -> F,
) -> T {
    let began = Instant::now();
    loop {
        match condition().await {
            Ok(met) => return met,
            Err(state) if began.elapsed() > PATIENCE => {
                panic!("{what}: not after {PATIENCE:?}; last: {state}")
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

pub fn repair_config() -> RepairConfig {
    RepairConfig {
        enabled: true,
        copies_at_once: 4,
        create_domains: true,
        scan_every: Duration::from_secs(86_400),
        retry_first: Duration::from_millis(200),
        retry_most: Duration::from_secs(2),
        tombstone_retention: Duration::from_secs(3600),
        // Tests of other workers are not to be helped.
        verify_every: None,
        verify_by: VerifyBy::Size,
        verify_rate: 10_000,
        verify_most_missing: 5.0,
    }
}

/// A ledger that can be away.
pub struct Flaky {
    inner: Arc<dyn Ledger>,
    pub away: AtomicBool,
    /// Only the nodes cannot be read.
    pub nodes_away: AtomicBool,
    /// Other datacenters of the ledger do not answer.
    pub others_away: AtomicBool,
    /// Reads of this file fail for good.
    pub poison: Mutex<Option<FileName>>,
}

impl Flaky {
    pub fn open(folder: &Path) -> Arc<Flaky> {
        let inner = EmbeddedLedger::open(folder.join("ledger.db")).expect("the ledger opens");
        Flaky::over(Arc::new(inner))
    }

    /// Over a ledger that somebody else has opened.
    pub fn over(inner: Arc<dyn Ledger>) -> Arc<Flaky> {
        Arc::new(Flaky {
            inner,
            away: AtomicBool::new(false),
            nodes_away: AtomicBool::new(false),
            others_away: AtomicBool::new(false),
            poison: Mutex::default(),
        })
    }

    pub fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }

    fn here(&self) -> Result<&dyn Ledger, LedgerError> {
        if self.away.load(Ordering::SeqCst) {
            return Err(LedgerError::Unavailable {
                doing: "ask",
                why: "a test says so".into(),
            });
        }
        Ok(&*self.inner)
    }

    /// For reads that ask more than this datacenter.
    fn far(&self, strength: Strength) -> Result<&dyn Ledger, LedgerError> {
        if strength != Strength::Local && self.others_away.load(Ordering::SeqCst) {
            return Err(LedgerError::Unavailable {
                doing: "ask everybody",
                why: "a test says so".into(),
            });
        }
        self.here()
    }
}

#[async_trait]
impl Ledger for Flaky {
    async fn write(
        &self,
        file: &FileName,
        write: &FileWrite,
        strength: Strength,
    ) -> Result<(), LedgerError> {
        self.here()?.write(file, write, strength).await
    }
    async fn read(&self, file: &FileName, strength: Strength) -> Result<FileRecord, LedgerError> {
        if self.poison.lock().as_ref() == Some(file) {
            return Err(LedgerError::Corrupt {
                doing: "read a file",
                why: "poison".into(),
            });
        }
        self.far(strength)?.read(file, strength).await
    }
    async fn scan(
        &self,
        range: TokenRange,
        from: Option<&str>,
        limit: usize,
        strength: Strength,
    ) -> Result<Page, LedgerError> {
        self.far(strength)?.scan(range, from, limit, strength).await
    }
    async fn forget(&self, file: &FileName, record: &FileRecord) -> Result<(), LedgerError> {
        self.here()?.forget(file, record).await
    }
    async fn append_change(
        &self,
        stream: &StreamId,
        change: &Change,
        strength: Strength,
    ) -> Result<(), LedgerError> {
        self.here()?.append_change(stream, change, strength).await
    }
    async fn changes(
        &self,
        stream: &StreamId,
        after: u64,
        limit: usize,
        strength: Strength,
    ) -> Result<Vec<Change>, LedgerError> {
        self.far(strength)?
            .changes(stream, after, limit, strength)
            .await
    }
    async fn set_gap(&self, datacenter: &Datacenter, gap: &Gap) -> Result<(), LedgerError> {
        self.here()?.set_gap(datacenter, gap).await
    }
    async fn clear_gap(
        &self,
        datacenter: &Datacenter,
        file: &FileName,
        observed: Version,
    ) -> Result<(), LedgerError> {
        self.here()?.clear_gap(datacenter, file, observed).await
    }
    async fn gap(
        &self,
        datacenter: &Datacenter,
        file: &FileName,
    ) -> Result<Option<Gap>, LedgerError> {
        self.here()?.gap(datacenter, file).await
    }
    async fn gaps(
        &self,
        datacenter: &Datacenter,
        due: Version,
        limit: usize,
    ) -> Result<Vec<Gap>, LedgerError> {
        self.here()?.gaps(datacenter, due, limit).await
    }
    async fn count_gaps(&self, datacenter: &Datacenter) -> Result<u64, LedgerError> {
        self.here()?.count_gaps(datacenter).await
    }
    async fn set_node(&self, node: &NodeRecord) -> Result<(), LedgerError> {
        self.here()?.set_node(node).await
    }
    async fn nodes(&self) -> Result<Vec<NodeRecord>, LedgerError> {
        if self.nodes_away.load(Ordering::SeqCst) {
            return Err(LedgerError::Unavailable {
                doing: "read the nodes",
                why: "a test says so".into(),
            });
        }
        self.here()?.nodes().await
    }
    async fn set_datacenter(&self, datacenter: &DatacenterRecord) -> Result<(), LedgerError> {
        self.here()?.set_datacenter(datacenter).await
    }
    async fn datacenters(&self) -> Result<Vec<DatacenterRecord>, LedgerError> {
        self.here()?.datacenters().await
    }
    async fn set_placement(
        &self,
        placement: &Placement,
        strength: Strength,
    ) -> Result<(), LedgerError> {
        self.far(strength)?.set_placement(placement, strength).await
    }
    async fn placements(&self) -> Result<Vec<Placement>, LedgerError> {
        self.here()?.placements().await
    }
    async fn set_cursor(
        &self,
        datacenter: &Datacenter,
        cursor: &Cursor,
    ) -> Result<(), LedgerError> {
        self.here()?.set_cursor(datacenter, cursor).await
    }
    async fn cursor(
        &self,
        datacenter: &Datacenter,
        name: &str,
    ) -> Result<Option<Cursor>, LedgerError> {
        self.here()?.cursor(datacenter, name).await
    }
    fn describe(&self) -> String {
        self.inner.describe()
    }
    fn news(&self) -> u64 {
        self.inner.news()
    }
    async fn wait_for_news_since(&self, seen: u64, limit: Duration) {
        self.inner.wait_for_news_since(seen, limit).await;
    }
}

/// A datacenter of real parts.
pub struct Site {
    pub name: Datacenter,
    pub folder: PathBuf,
    pub ledger: Arc<Flaky>,
    pub trackers: Arc<Trackers>,
    pub storage: SocketAddr,
    tracker: Option<Tracker>,
    tracker_stop: CancellationToken,
    pub tracker_addr: SocketAddr,
    pub running: Option<Running>,
    pub http: reqwest::Client,
}

/// The process of a [`Site`]: what ends by a kill.
pub struct Running {
    pub journal: Journal,
    pub locks: KeyLocks,
    pub events: Events,
    pub seen: Arc<Mutex<Vec<Event>>>,
    pub repair: Option<Repair>,
    stop: CancellationToken,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Site {
    pub async fn new(name: &str, folder: &Path, ledger: &Arc<Flaky>) -> Site {
        Site::with_domain(name, folder, ledger, Some("photos")).await
    }

    pub async fn with_domain(
        name: &str,
        folder: &Path,
        ledger: &Arc<Flaky>,
        domain: Option<&str>,
    ) -> Site {
        let site = Site::unregistered(name, folder, ledger, domain).await;
        site.register(true).await;
        site
    }

    /// One that the ledger has not heard of.
    pub async fn unregistered(
        name: &str,
        folder: &Path,
        ledger: &Arc<Flaky>,
        domain: Option<&str>,
    ) -> Site {
        let folder = folder.join(name);
        let mut config = TrackerConfig::new(folder.join("tracker"), any_port(), any_port());
        if let Some(domain) = domain {
            config = config.domain(domain);
        }
        let tracker_stop = CancellationToken::new();
        let tracker = Tracker::start(config, tracker_stop.clone())
            .await
            .expect("the tracker starts");
        Site {
            name: dc(name),
            folder,
            ledger: Arc::clone(ledger),
            trackers: Arc::new(Trackers::new(vec![tracker.addr().to_string()], 16)),
            storage: tracker.storage_addr(),
            tracker_addr: tracker.addr(),
            tracker: Some(tracker),
            tracker_stop,
            running: None,
            http: reqwest::Client::builder()
                .no_proxy()
                .build()
                .expect("a client"),
        }
    }

    pub async fn register(&self, active: bool) {
        let record = DatacenterRecord {
            name: self.name.clone(),
            active,
            trackers: vec![self.tracker_addr.to_string()],
            storage_hosts: BTreeSet::from([self.storage.to_string()]),
            api: None,
            updated: wall_clock(),
        };
        self.ledger
            .set_datacenter(&record)
            .await
            .expect("registered");
    }

    /// Starts journal, delivery and heartbeat; and repair, if `repair` says how.
    pub fn start(&mut self, repair: Option<RepairConfig>) {
        let journal = self.open_journal();
        self.start_with(journal, repair, None);
    }

    /// As [`Self::start`], with somebody who looks whether ledger and journal agree.
    pub async fn start_audited(&mut self, repair: Option<RepairConfig>) -> Arc<Auditor> {
        let journal = self.open_journal();
        let ledger: Arc<dyn Ledger> = Arc::clone(&self.ledger) as Arc<dyn Ledger>;
        let auditor = Auditor::open(journal.clone(), ledger, any_port())
            .await
            .expect("the journal reads");
        let auditor = Arc::new(auditor);
        self.start_with(journal, repair, Some(Arc::clone(&auditor)));
        auditor
    }

    fn open_journal(&self) -> Journal {
        let config = JournalConfig {
            path: self.folder.join("journal"),
            max_size: 1 << 26,
            quiet_time: QUIET_TIME,
        };
        let node = "node1".parse().expect("a name");
        Journal::open(&config, &self.name, &node).expect("the journal opens")
    }

    fn start_with(
        &mut self,
        journal: Journal,
        repair: Option<RepairConfig>,
        auditor: Option<Arc<Auditor>>,
    ) {
        let trust = auditor
            .as_ref()
            .map_or_else(Trust::complete, |auditor| auditor.trust());
        let ledger: Arc<dyn Ledger> = Arc::clone(&self.ledger) as Arc<dyn Ledger>;
        let events = Events::default();
        let settler = Settler::new(
            journal.clone(),
            Arc::clone(&ledger),
            Arc::clone(&self.trackers) as _,
            QUIET_TIME,
        );
        let deliverer = Deliverer {
            journal: journal.clone(),
            ledger: Arc::clone(&ledger),
            settler,
            events: events.clone(),
            trust: trust.clone(),
        };
        let stop = CancellationToken::new();
        let token = stop.clone();
        let mut tasks = vec![tokio::spawn(async move { deliverer.run(token).await })];
        let (token, beating, heart) = (stop.clone(), journal.clone(), Arc::clone(&ledger));
        tasks.push(tokio::spawn(async move {
            while !token.is_cancelled() {
                if let Some(auditor) = &auditor {
                    let _away = auditor.beat().await;
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
                let depth = beating.depth();
                let node = NodeRecord {
                    stream: (*beating.stream()).clone(),
                    last_number: beating.last_number(),
                    delivered: beating.delivered_number().await.unwrap_or_default(),
                    oldest_undelivered: depth.oldest,
                    oldest_open: depth.oldest_open,
                    clock_mark: beating.clock().mark(),
                    heartbeat: wall_clock(),
                    generation: 1,
                };
                let _away = heart.set_node(&node).await;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }));
        let locks = KeyLocks::default();
        let repair = repair.map(|config| {
            Repair::start(RepairParts {
                config,
                datacenter: self.name.clone(),
                ledger,
                journal: journal.clone(),
                locks: locks.clone(),
                trackers: Arc::clone(&self.trackers),
                events: events.clone(),
                trust,
                quiet_time: QUIET_TIME,
            })
            .expect("repair starts")
        });
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (mut listening, kept) = (events.listen(), Arc::clone(&seen));
        tokio::spawn(async move {
            while let Ok(event) = listening.recv().await {
                kept.lock().push(event);
            }
        });
        self.running = Some(Running {
            journal,
            locks,
            events,
            seen,
            repair,
            stop,
            tasks,
        });
    }

    /// Ends everything as it stands, nothing finished.
    pub async fn kill(&mut self) {
        let Some(running) = self.running.take() else {
            return;
        };
        running
            .tasks
            .iter()
            .for_each(tokio::task::JoinHandle::abort);
        drop(running.repair);
        for task in running.tasks {
            let _aborted = task.await;
        }
        running.journal.close().await;
    }

    pub async fn stop(&mut self) {
        let Some(running) = self.running.take() else {
            return;
        };
        if let Some(repair) = &running.repair {
            repair.stop().await;
        }
        running.stop.cancel();
        for task in running.tasks {
            task.await.expect("no panic");
        }
        running.journal.close().await;
    }

    pub fn repair(&self) -> &Repair {
        self.running().repair.as_ref().expect("repair runs")
    }

    pub fn running(&self) -> &Running {
        self.running.as_ref().expect("it runs")
    }

    pub fn saw(&self, wanted: impl Fn(&What) -> bool) -> usize {
        self.running()
            .seen
            .lock()
            .iter()
            .filter(|event| wanted(&event.what))
            .count()
    }

    pub async fn client(&self) -> Client {
        Client::connect(self.tracker_addr, Timeouts::default())
            .await
            .expect("the tracker is there")
    }

    /// A client's mutation through the proxy, in what the proxy does.
    async fn mutate(
        &self,
        mutation: Mutation,
        ask: impl AsyncFnOnce(&mut Client) -> Outcome,
    ) -> Outcome {
        let running = self.running();
        let files: Vec<FileName> = mutation.files().into_iter().cloned().collect();
        let guard = running
            .locks
            .lock(&files.iter().collect::<Vec<_>>(), Duration::from_secs(10))
            .await;
        let intent = running
            .journal
            .intend(&guard, By::Client, mutation)
            .await
            .expect("taken");
        let outcome = ask(&mut self.client().await).await;
        intent.outcome(outcome);
        outcome
    }

    /// Uploads without closing: fid, device, path.
    pub async fn upload(&self, key: &str, class: Option<&str>, body: &[u8]) -> (u64, u32, String) {
        let mut client = self.client().await;
        let open = CreateOpen {
            domain: b"photos",
            key: key.as_bytes(),
            class: class.map(str::as_bytes),
            ..CreateOpen::default()
        };
        let opened = client.create_open(&open).await.expect("opened");
        let to = &opened.destinations[0];
        let put = self
            .http
            .put(&to.path)
            .body(body.to_vec())
            .send()
            .await
            .expect("stored");
        assert!(put.status().is_success(), "{}", put.status());
        (opened.fid, to.devid, to.path.clone())
    }

    pub async fn put(&self, key: &str, class: Option<&str>, body: &[u8]) -> u64 {
        let (fid, devid, path) = self.upload(key, class, body).await;
        let mutation = Mutation::Put {
            file: file(key),
            fid: Some(Fid(fid)),
            details: Details {
                class: Some(class.map_or_else(Class::default_class, |class| {
                    Class::from_bytes(class.as_bytes())
                })),
                size: Some(body.len() as u64),
                checksum: None,
            },
        };
        let close = CreateClose {
            domain: b"photos",
            key: key.as_bytes(),
            fid,
            devid,
            path: &path,
            ..CreateClose::default()
        };
        let outcome = self
            .mutate(mutation, async |client| {
                said(client.create_close(&close).await)
            })
            .await;
        assert_eq!(outcome, Outcome::Happened);
        fid
    }

    /// Stored past the proxy: nobody knows.
    pub async fn put_past_the_proxy(&self, key: &str, body: &[u8]) -> u64 {
        let (fid, devid, path) = self.upload(key, None, body).await;
        let close = CreateClose {
            domain: b"photos",
            key: key.as_bytes(),
            fid,
            devid,
            path: &path,
            ..CreateClose::default()
        };
        self.client()
            .await
            .create_close(&close)
            .await
            .expect("closed");
        fid
    }

    /// As [`Self::put`], whatever comes of it.
    pub async fn try_put(&self, key: &str, class: Option<&str>, body: &[u8]) -> Outcome {
        let (fid, devid, path) = self.upload(key, class, body).await;
        let class = class.map(|class| Class::from_bytes(class.as_bytes()));
        let mutation = Mutation::Put {
            file: file(key),
            fid: Some(Fid(fid)),
            details: Details {
                class: class.or(Some(Class::default_class())),
                ..Details::default()
            },
        };
        let close = CreateClose {
            domain: b"photos",
            key: key.as_bytes(),
            fid,
            devid,
            path: &path,
            ..CreateClose::default()
        };
        self.mutate(mutation, async |client| {
            said(client.create_close(&close).await)
        })
        .await
    }

    /// As [`Self::delete`], whatever comes of it.
    pub async fn try_delete(&self, key: &str) -> Outcome {
        let mutation = Mutation::Delete { file: file(key) };
        self.mutate(mutation, async |client| {
            said(client.delete(b"photos", key.as_bytes()).await)
        })
        .await
    }

    /// As [`Self::rename`], whatever comes of it.
    pub async fn try_rename(&self, from: &str, to: &str) -> Outcome {
        let mutation = Mutation::Rename {
            from: file(from),
            to: file(to),
        };
        self.mutate(mutation, async |client| {
            said(
                client
                    .rename(b"photos", from.as_bytes(), to.as_bytes())
                    .await,
            )
        })
        .await
    }

    /// As [`Self::set_class`], whatever comes of it.
    pub async fn try_set_class(&self, key: &str, class: &str) -> Outcome {
        let mutation = Mutation::SetClass {
            file: file(key),
            class: Class::from_bytes(class.as_bytes()),
        };
        self.mutate(mutation, async |client| {
            said(
                client
                    .updateclass(b"photos", key.as_bytes(), class.as_bytes())
                    .await,
            )
        })
        .await
    }

    pub async fn delete(&self, key: &str) {
        let mutation = Mutation::Delete { file: file(key) };
        let outcome = self
            .mutate(mutation, async |client| {
                said(client.delete(b"photos", key.as_bytes()).await)
            })
            .await;
        assert_eq!(outcome, Outcome::Happened, "delete {key}");
    }

    pub async fn rename(&self, from: &str, to: &str) {
        let mutation = Mutation::Rename {
            from: file(from),
            to: file(to),
        };
        let ask = async |client: &mut Client| {
            said(
                client
                    .rename(b"photos", from.as_bytes(), to.as_bytes())
                    .await,
            )
        };
        assert_eq!(
            self.mutate(mutation, ask).await,
            Outcome::Happened,
            "rename {from} {to}"
        );
    }

    pub async fn set_class(&self, key: &str, class: &str) {
        let mutation = Mutation::SetClass {
            file: file(key),
            class: Class::from_bytes(class.as_bytes()),
        };
        let ask = async |client: &mut Client| {
            said(
                client
                    .updateclass(b"photos", key.as_bytes(), class.as_bytes())
                    .await,
            )
        };
        assert_eq!(
            self.mutate(mutation, ask).await,
            Outcome::Happened,
            "updateclass {key}"
        );
    }

    /// The fid, the class and the bytes under a key, as a client reads them.
    pub async fn read(&self, key: &str) -> Option<(u64, String, Vec<u8>)> {
        let file = file(key);
        let row = self.trackers.file_debug_by_key(&file).await.ok()??.file?;
        let path = self
            .trackers
            .get_paths(&file, 2)
            .await
            .ok()?
            .into_iter()
            .next()?;
        let answer = self.http.get(path).send().await.ok()?;
        let body = answer.error_for_status().ok()?.bytes().await.ok()?;
        Some((
            row.fid,
            String::from_utf8_lossy(&row.class).into_owned(),
            body.to_vec(),
        ))
    }

    /// Waits until a key holds these bytes here, and the ledger knows; the fid.
    pub async fn comes(&self, key: &str, body: &[u8]) -> u64 {
        until(&format!("{key} in {}", self.name), async || {
            let Some((fid, _, found)) = self.read(key).await else {
                return Err(format!(
                    "not there; gap: {:?}; {:?}",
                    self.gap(key).await,
                    self.record(key).await
                ));
            };
            if found != body {
                return Err(format!(
                    "{} bytes where {} are expected",
                    found.len(),
                    body.len()
                ));
            }
            let record = self.record(key).await;
            let held = record
                .replicas
                .get(&self.name)
                .and_then(|replica| replica.held.clone());
            match (&held, record.content()) {
                (Some(held), Some(content)) if held.fid.0 == fid && held.content == *content => {
                    Ok(fid)
                }
                _ => Err(format!("fid {fid}, and the ledger knows {record:?}")),
            }
        })
        .await
    }

    /// Waits until a key is gone here, and the ledger knows.
    pub async fn goes(&self, key: &str) {
        until(&format!("{key} gone from {}", self.name), async || {
            if let Some((fid, _, _)) = self.read(key).await {
                return Err(format!("there as {fid}; gap: {:?}", self.gap(key).await));
            }
            let record = self.record(key).await;
            match record
                .replicas
                .get(&self.name)
                .and_then(|replica| replica.held.clone())
            {
                None => Ok(()),
                Some(held) => Err(format!("the ledger knows {held:?}")),
            }
        })
        .await;
    }

    pub async fn record(&self, key: &str) -> FileRecord {
        self.ledger
            .read(&file(key), Strength::Local)
            .await
            .unwrap_or_default()
    }

    pub async fn gap(&self, key: &str) -> Option<Gap> {
        self.ledger
            .gap(&self.name, &file(key))
            .await
            .unwrap_or_default()
    }

    /// Waits until a file is parked here for a reason that says this.
    pub async fn parks(&self, key: &str, why: &str) -> Gap {
        until(
            &format!("{key} parked in {} because of {why:?}", self.name),
            async || match self.gap(key).await {
                Some(gap) if gap.last_error.contains(why) => Ok(gap),
                other => Err(format!("{other:?}")),
            },
        )
        .await
    }

    pub async fn no_gaps(&self) {
        until("no gaps", async || {
            match self.ledger.count_gaps(&self.name).await {
                Ok(0) => Ok(()),
                other => Err(format!(
                    "{other:?}: {:?}",
                    self.ledger.gaps(&self.name, Version(i64::MAX), 9).await
                )),
            }
        })
        .await;
    }

    /// Stops the tracker and its storage node.
    pub async fn stop_tracker(&mut self) {
        self.tracker_stop.cancel();
        if let Some(tracker) = self.tracker.take() {
            tracker.stopped().await;
        }
    }
}

fn said(answer: Result<(), mogilefs_protocol::client::ClientError>) -> Outcome {
    match answer {
        Ok(()) => Outcome::Happened,
        Err(error) => phylactery::trackers::TrackerError::from(error).outcome(),
    }
}

/// How a played storage node answers.
#[derive(Clone)]
pub enum Http {
    /// Just this, raw, and the connection is closed.
    Raw(Vec<u8>),
    /// The bytes, as they should be.
    Good(Vec<u8>),
    /// So many bytes of a pattern, made as they are sent.
    Pattern(u64),
    /// So many bytes, all ones; after the first, nothing until this is cancelled.
    Hang(u64, CancellationToken),
}

/// A datacenter that is played.
pub struct Played {
    pub name: Datacenter,
    pub stream: StreamId,
    pub tracker: SocketAddr,
    pub storage: SocketAddr,
    pub ledger: Arc<Flaky>,
    number: AtomicU64,
    /// What it says that the ledger has.
    pub delivered: AtomicU64,
    generation: u64,
    parts: Arc<Parts>,
}

#[derive(Default)]
struct Parts {
    /// What `get_paths` answers, by escaped key.
    paths: Mutex<HashMap<String, Vec<String>>>,
    /// What GET answers, by path.
    bodies: Mutex<HashMap<String, Http>>,
    gets: Mutex<Vec<String>>,
}

impl Played {
    pub async fn new(name: &str, ledger: &Arc<Flaky>) -> Played {
        let (tracker, storage) = (
            TcpListener::bind(any_port()).await.expect("bound"),
            TcpListener::bind(any_port()).await.expect("bound"),
        );
        let parts = Arc::new(Parts::default());
        let played = Played {
            name: dc(name),
            stream: StreamId {
                datacenter: dc(name),
                node: "node1".parse().expect("a name"),
                incarnation: "played".into(),
            },
            tracker: tracker.local_addr().expect("bound"),
            storage: storage.local_addr().expect("bound"),
            ledger: Arc::clone(ledger),
            number: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            generation: 1,
            parts: Arc::clone(&parts),
        };
        let of_tracker = Arc::clone(&parts);
        tokio::spawn(async move {
            while let Ok((stream, _)) = tracker.accept().await {
                tokio::spawn(play_tracker(stream, Arc::clone(&of_tracker)));
            }
        });
        tokio::spawn(async move {
            while let Ok((stream, _)) = storage.accept().await {
                tokio::spawn(play_storage(stream, Arc::clone(&parts)));
            }
        });
        let record = DatacenterRecord {
            name: dc(name),
            active: true,
            trackers: vec![played.tracker.to_string()],
            storage_hosts: BTreeSet::from([played.storage.to_string()]),
            api: None,
            updated: wall_clock(),
        };
        ledger.set_datacenter(&record).await.expect("registered");
        played.beat().await;
        played
    }

    /// From now on it has another journal.
    pub fn begin_stream(&mut self, incarnation: &str) {
        self.stream.incarnation = incarnation.to_owned();
        self.generation += 1;
        self.number.store(0, Ordering::SeqCst);
        self.delivered.store(0, Ordering::SeqCst);
    }

    pub async fn beat(&self) {
        self.beat_at(wall_clock()).await;
    }

    /// By a clock that says so.
    pub async fn beat_at(&self, heartbeat: Version) {
        let node = NodeRecord {
            stream: self.stream.clone(),
            last_number: self.number.load(Ordering::SeqCst),
            delivered: self.delivered.load(Ordering::SeqCst),
            oldest_undelivered: None,
            oldest_open: None,
            clock_mark: wall_clock(),
            heartbeat,
            generation: self.generation,
        };
        self.ledger.set_node(&node).await.expect("beaten");
    }

    pub fn url(&self, fid: u64) -> String {
        format!("http://{}{}", self.storage, fid_path(fid))
    }

    pub fn serve(&self, key: &str, fid: u64, body: Http) {
        self.serve_at(key, vec![self.url(fid)]);
        self.body(fid, body);
    }

    pub fn serve_at(&self, key: &str, paths: Vec<String>) {
        self.parts
            .paths
            .lock()
            .insert(file(key).key.escaped().to_owned(), paths);
    }

    pub fn body(&self, fid: u64, body: Http) {
        self.parts.bodies.lock().insert(fid_path(fid), body);
    }

    pub fn gets(&self) -> Vec<String> {
        self.parts.gets.lock().clone()
    }

    /// A put as this datacenter would have delivered it, with its change if `told`.
    pub async fn put(
        &self,
        key: &str,
        fid: u64,
        size: u64,
        checksum: Option<Checksum>,
    ) -> Revision {
        let revision = self.revision(wall_clock(), fid, size, checksum);
        self.write(key, &revision, fid).await;
        self.change(key, revision.version).await;
        revision
    }

    /// A delete as this datacenter would have delivered it.
    pub async fn delete(&self, key: &str) {
        let version = wall_clock();
        let head = Revision {
            op: Op::Delete { renamed_to: None },
            ..self.revision(version, 0, 0, None)
        };
        let write = FileWrite {
            head: Some(head),
            ..FileWrite::default()
        };
        self.ledger
            .write(&file(key), &write, Strength::Local)
            .await
            .expect("written");
        self.change(key, version).await;
    }

    pub fn revision(
        &self,
        version: Version,
        fid: u64,
        size: u64,
        checksum: Option<Checksum>,
    ) -> Revision {
        Revision {
            version,
            origin: self.name.clone(),
            node: self.stream.node.clone(),
            op: Op::Put(Put {
                content: Content {
                    version,
                    origin: self.name.clone(),
                    node: self.stream.node.clone(),
                },
                size,
                checksum,
                fid: Fid(fid),
                renamed_from: None,
            }),
        }
    }

    pub async fn write(&self, key: &str, revision: &Revision, fid: u64) {
        let content = revision.content().expect("a put").clone();
        let held = Held {
            content: content.clone(),
            fid: Fid(fid),
            class: Class::default_class(),
            claimed: false,
            checked: None,
        };
        let write = FileWrite {
            head: Some(revision.clone()),
            class: Some(ClassCell {
                version: revision.version,
                content,
                class: Class::default_class(),
            }),
            replica: Some((
                self.name.clone(),
                Replica {
                    since: revision.version,
                    held: Some(held),
                },
            )),
        };
        self.ledger
            .write(&file(key), &write, Strength::Local)
            .await
            .expect("written");
    }

    pub async fn change(&self, key: &str, version: Version) -> u64 {
        let number = self.number.fetch_add(1, Ordering::SeqCst) + 1;
        self.change_at(number, key, version).await;
        number
    }

    /// Leaves a hole of one number.
    pub fn skip(&self) -> u64 {
        self.number.fetch_add(1, Ordering::SeqCst) + 1
    }

    pub async fn change_at(&self, number: u64, key: &str, version: Version) {
        let change = Change {
            number,
            file: Some(file(key)),
            version,
            about: About::Head,
        };
        self.ledger
            .append_change(&self.stream, &change, Strength::Local)
            .await
            .expect("appended");
        self.beat().await;
    }

    pub fn last_number(&self) -> u64 {
        self.number.load(Ordering::SeqCst)
    }

    /// How far `site` has read this datacenter's stream.
    pub async fn cursor_of(&self, site: &Site) -> u64 {
        let cursor = self
            .ledger
            .cursor(&site.name, &self.stream.to_string())
            .await
            .expect("read");
        cursor.map_or(0, |cursor| cursor.number)
    }

    /// Waits until `site` has passed everything.
    pub async fn passed_by(&self, site: &Site) {
        until("the cursor at the end", async || {
            let (cursor, last) = (self.cursor_of(site).await, self.last_number());
            if cursor == last {
                Ok(())
            } else {
                Err(format!("{cursor} of {last}"))
            }
        })
        .await;
    }
}

pub fn fid_path(fid: u64) -> String {
    format!("/dev1/0/000/000/{fid:010}.fid")
}

async fn play_tracker(stream: TcpStream, parts: Arc<Parts>) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
            return;
        }
        let key = line
            .trim()
            .split(['&', ' '])
            .find_map(|arg| arg.strip_prefix("key="))
            .unwrap_or_default();
        let paths = parts.paths.lock().get(key).cloned();
        let answer = match paths {
            _ if !line.starts_with("get_paths") => {
                "ERR unknown_command unknown_command\r\n".to_owned()
            }
            None => "ERR unknown_key unknown_key\r\n".to_owned(),
            Some(paths) => {
                let mut answer = format!("OK paths={}", paths.len());
                for (n, path) in paths.iter().enumerate() {
                    answer.push_str(&format!("&path{}={}", n + 1, path.replace('&', "%26")));
                }
                answer + "\r\n"
            }
        };
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn play_storage(mut stream: TcpStream, parts: Arc<Parts>) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte).await {
            Ok(1) => head.push(byte[0]),
            _ => return,
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    parts.gets.lock().push(path.clone());
    let body = parts.bodies.lock().get(&path).cloned();
    let told =
        |size: u64| format!("HTTP/1.0 200 OK\r\nContent-Length: {size}\r\n\r\n").into_bytes();
    let _hung_up = match body {
        None => {
            stream
                .write_all(b"HTTP/1.0 404 Not found\r\nContent-Length: 0\r\n\r\n")
                .await
        }
        Some(Http::Raw(raw)) => stream.write_all(&raw).await,
        Some(Http::Good(body)) => {
            stream
                .write_all(&[told(body.len() as u64), body].concat())
                .await
        }
        Some(Http::Pattern(size)) => {
            let chunk = vec![7; 1 << 16];
            let mut left = size;
            let mut sent = stream.write_all(&told(size)).await;
            while left > 0 && sent.is_ok() {
                let part = left.min(chunk.len() as u64);
                sent = stream.write_all(&chunk[..part as usize]).await;
                left -= part;
            }
            sent
        }
        Some(Http::Hang(size, end)) => {
            let sent = stream.write_all(&[told(size), vec![1]].concat()).await;
            end.cancelled().await;
            match sent {
                Ok(()) => stream.write_all(&vec![1; size as usize - 1]).await,
                gone => gone,
            }
        }
    };
    let _gone = stream.shutdown().await;
}
