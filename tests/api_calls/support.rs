//! An API on a free port, in front of a ledger with two datacenters.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use phylactery::api::{Context, Proof, Vitals, serve};
use phylactery::config::ApiConfig;
use phylactery::file::{
    Checksum, Class, ClassCell, Content, Datacenter, Domain, Fid, FileName, Held, Op, Put, Replica,
    Revision,
};
use phylactery::journal::debt::Paying;
use phylactery::journal::{Debts, Depth, Refused};
use phylactery::ledger::embedded::EmbeddedLedger;
use phylactery::ledger::{DatacenterRecord, FileRecord, FileWrite, Ledger, Strength};
use phylactery::proxy::Stats;
use phylactery::repair::explain::Explanation;
use phylactery::repair::settings::{Change, NotChanged};
use phylactery::repair::status::{Status, WorkerStatus};
use phylactery::trust::{Doubt, NotAccepted};
use phylactery::version::{Clock, Version};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// What the other parts of the process would say.
#[derive(Default)]
pub struct Said(
    pub Mutex<(Depth, Option<Refused>, Proof)>,
    pub Mutex<(Debts, Paying)>,
    pub Mutex<Option<Arc<Doubt>>>,
    pub Mutex<Option<String>>,
    pub Mutex<(Status, Stats)>,
    pub Mutex<Option<Explanation>>,
);

#[async_trait]
impl Vitals for Said {
    fn journal(&self) -> Depth {
        self.0.lock().0
    }
    fn debts(&self) -> (Debts, Paying) {
        self.1.lock().clone()
    }
    fn refusing(&self) -> Option<Refused> {
        self.0.lock().1.clone()
    }
    fn repair(&self) -> Status {
        self.4.lock().0.clone()
    }
    fn proxy(&self) -> Stats {
        self.4.lock().1.clone()
    }
    fn proof(&self) -> Proof {
        self.0.lock().2
    }
    fn unheard(&self) -> Option<String> {
        self.3.lock().clone()
    }
    fn doubt(&self) -> Option<Arc<Doubt>> {
        self.2.lock().clone()
    }
    async fn explain(&self, _: &FileName) -> Explanation {
        let said = self.5.lock().clone();
        said.expect("a test says so")
    }
    async fn change_worker(&self, _: &str, _: Change) -> Result<WorkerStatus, NotChanged> {
        unreachable!("tests of the workers have real ones")
    }
    fn begin_worker(&self, _: &str) -> Result<(), NotChanged> {
        unreachable!("tests of the workers have real ones")
    }
    async fn accept(&self, doubt: &str) -> Result<Option<Arc<Doubt>>, NotAccepted> {
        let mut stands = self.2.lock();
        match &*stands {
            None => return Err(NotAccepted::NoDoubt),
            Some(now) if now.id() != doubt => {
                return Err(NotAccepted::Another { now: now.id() });
            }
            Some(_) => *stands = None,
        }
        Ok(None)
    }
}

/// A running API.
pub struct Site {
    pub address: SocketAddr,
    pub ledger: Arc<dyn Ledger>,
    pub said: Arc<Said>,
    pub clock: Arc<Clock>,
    stop: CancellationToken,
    _folder: tempfile::TempDir,
}

impl Drop for Site {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Over an embedded ledger that has ma01 and tx01, answering with the statuses of today.
pub async fn site() -> Site {
    site_with(false, None).await
}

pub async fn site_with(compatible_status: bool, ledger: Option<Arc<dyn Ledger>>) -> Site {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(Clock::new(Version(0)));
    let ledger = match ledger {
        Some(ledger) => ledger,
        None => {
            let ledger: Arc<dyn Ledger> =
                Arc::new(EmbeddedLedger::open(folder.path().join("ledger.db")).unwrap());
            for name in ["ma01", "tx01"] {
                register(&*ledger, name, true, &clock).await;
            }
            ledger
        }
    };
    let said = Arc::new(Said::default());
    let context = Context {
        config: ApiConfig {
            listen: "127.0.0.1:0".parse().unwrap(),
            compatible_status,
            fid_domain: Domain::from_bytes(b"phylactery"),
        },
        datacenter: dc("ma01"),
        node: "node1".parse().unwrap(),
        ledger: Arc::clone(&ledger),
        clock: Arc::clone(&clock),
        vitals: Arc::clone(&said) as Arc<dyn Vitals>,
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    tokio::spawn(serve(listener, context, stop.clone()));
    Site {
        address,
        ledger,
        said,
        clock,
        stop,
        _folder: folder,
    }
}

pub async fn register(ledger: &dyn Ledger, name: &str, active: bool, clock: &Clock) {
    let record = DatacenterRecord {
        name: dc(name),
        active,
        trackers: vec!["127.0.0.1:7011".to_owned()],
        storage_hosts: BTreeSet::new(),
        api: None,
        updated: clock.stamp().unwrap(),
    };
    ledger.set_datacenter(&record).await.unwrap();
}

pub fn dc(name: &str) -> Datacenter {
    name.parse().unwrap()
}

impl Site {
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Status and JSON of a GET.
    pub async fn get(&self, path: &str) -> (u16, Value) {
        answer(client().get(self.url(path)).send().await.unwrap()).await
    }

    /// Status and JSON of a POST of any bytes.
    pub async fn post(&self, path: &str, body: impl Into<Vec<u8>>) -> (u16, Value) {
        let request = client().post(self.url(path)).body(body.into());
        answer(request.send().await.unwrap()).await
    }

    pub async fn record(&self, domain: &str, key: &str) -> FileRecord {
        let file = FileName::from_bytes(domain.as_bytes(), key.as_bytes());
        self.record_of(&file).await
    }

    pub async fn record_of(&self, file: &FileName) -> FileRecord {
        self.ledger.read(file, Strength::Local).await.unwrap()
    }

    /// Writes a file as if a client had stored it in ma01, held there.
    pub async fn stored(&self, file: &FileName) -> Content {
        let version = self.clock.stamp().unwrap();
        let content = Content {
            version,
            origin: dc("ma01"),
            node: "node1".parse().unwrap(),
        };
        let write = FileWrite {
            head: Some(Revision {
                version,
                origin: dc("ma01"),
                node: "node1".parse().unwrap(),
                op: Op::Put(Put {
                    content: content.clone(),
                    size: 5,
                    checksum: Some(Checksum::md5(&[0xab; 16])),
                    fid: Fid(12),
                    renamed_from: None,
                }),
            }),
            class: Some(ClassCell {
                version,
                content: content.clone(),
                class: Class::from_bytes(b"archive"),
            }),
            replica: None,
        };
        self.ledger
            .write(file, &write, Strength::Local)
            .await
            .unwrap();
        self.held(file, "ma01", Some(&content)).await;
        content
    }

    /// Writes what a datacenter holds.
    pub async fn held(&self, file: &FileName, name: &str, content: Option<&Content>) {
        let replica = Replica {
            since: self.clock.stamp().unwrap(),
            held: content.map(|content| Held {
                content: content.clone(),
                fid: Fid(12),
                class: Class::from_bytes(b"archive"),
                claimed: false,
                checked: None,
            }),
        };
        let write = FileWrite {
            replica: Some((dc(name), replica)),
            ..FileWrite::default()
        };
        self.ledger
            .write(file, &write, Strength::Local)
            .await
            .unwrap();
    }

    /// Deletes it, by ma01.
    pub async fn deleted(&self, file: &FileName) {
        let write = FileWrite {
            head: Some(Revision {
                version: self.clock.stamp().unwrap(),
                origin: dc("ma01"),
                node: "node1".parse().unwrap(),
                op: Op::Delete { renamed_to: None },
            }),
            ..FileWrite::default()
        };
        self.ledger
            .write(file, &write, Strength::Local)
            .await
            .unwrap();
        self.held(file, "ma01", None).await;
    }
}

pub fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

pub async fn answer(response: reqwest::Response) -> (u16, Value) {
    let status = response.status().as_u16();
    let body = response.text().await.unwrap();
    let json = serde_json::from_str(&body).unwrap_or_else(|_| panic!("not JSON: {body}"));
    (status, json)
}
