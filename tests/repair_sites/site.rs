//! A real datacenter in this process.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mogilefs_protocol::client::{Client, CreateClose, CreateOpen, Timeouts};
use parking_lot::Mutex;
use phylactery::config::{JournalConfig, RepairConfig};
use phylactery::events::{Event, Events, What};
use phylactery::file::{Class, Datacenter, Fid, FileName};
use phylactery::journal::deliver::Deliverer;
use phylactery::journal::settle::Settler;
use phylactery::journal::{By, Details, Journal, Mutation, Outcome};
use phylactery::ledger::{DatacenterRecord, FileRecord, Gap, Ledger, NodeRecord, Strength};
use phylactery::locks::KeyLocks;
use phylactery::repair::settings::Change;
use phylactery::repair::{Repair, RepairParts};
use phylactery::tracker::{Tracker, TrackerConfig};
use phylactery::trackers::Trackers;
use phylactery::trust::{Auditor, Trust};
use phylactery::version::{Version, wall_clock};
use tokio_util::sync::CancellationToken;

use super::{Flaky, QUIET_TIME, any_port, dc, file, until};

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

    /// Pauses a worker, or lets it go on.
    pub async fn pause(&self, worker: &str, paused: bool) {
        let change = Change {
            paused: Some(paused),
            ..Change::default()
        };
        let status = self.repair().change(worker, change).await;
        assert_eq!(status.expect("a worker").paused, paused);
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

    /// Starts them again where they were.
    pub async fn start_tracker(&mut self) {
        let folder = self.folder.join("tracker");
        let config = TrackerConfig::new(folder, self.tracker_addr, self.storage);
        let stop = CancellationToken::new();
        let tracker = Tracker::start(config, stop.clone()).await;
        self.tracker = Some(tracker.expect("the tracker starts again"));
        self.tracker_stop = stop;
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
