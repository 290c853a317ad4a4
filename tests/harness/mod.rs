//! Two or three datacenters of real processes, real sockets and real files, for the tests of promises.
//!
//! Every process is the program itself (`phylactery tracker`, `phylactery run`); a test kills and starts them as an
//! operator or a power cut would. All end with the test, also when it panics.

#![allow(dead_code, reason = "each test uses a part of the harness")]

pub mod load;
pub mod relay;
pub mod three;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use mogilefs_protocol::client::{
    Client, ClientError, CreateClose, CreateOpen, GetPaths, ListKeys, Timeouts,
};
use phylactery::config::CassandraConfig;
use phylactery::file::{Datacenter, FileName};
use phylactery::ledger::cassandra::CassandraLedger;
use phylactery::ledger::embedded::EmbeddedLedger;
use phylactery::ledger::{FileRecord, Ledger, Page, Strength, TokenRange};
use tokio::sync::OnceCell;

/// How long a condition may take to come true. Generous: it is only used up by a failure.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A child process that dies with the test.
pub struct Process {
    child: Child,
    /// What it is, for messages.
    pub name: String,
    log: PathBuf,
}

impl Process {
    /// Starts the program itself.
    pub fn start(name: &str, log: &Path, args: &[&str], environment: &[(&str, &str)]) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_phylactery"));
        command.args(args).envs(environment.iter().copied());
        Process::spawn(name, log, command)
    }

    /// Starts any command, with its output in `log`.
    pub fn spawn(name: &str, log: &Path, mut command: Command) -> Process {
        let output = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .expect("a log file");
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a second handle"))
            .stderr(output);
        // Also when the test process itself is killed.
        #[expect(
            unsafe_code,
            reason = "prctl is safe between fork and exec: it only sets a flag"
        )]
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let child = command
            .spawn()
            .unwrap_or_else(|why| panic!("start {name}: {why}"));
        Process {
            child,
            name: name.to_owned(),
            log: log.to_owned(),
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: i32) {
        #[expect(unsafe_code, reason = "a signal to our own child")]
        let sent = unsafe { libc::kill(self.child.id() as i32, signal) };
        assert_eq!(sent, 0, "signal {signal} to {}", self.name);
    }

    /// `kill -9`, and waits for the end.
    pub fn kill(&mut self) {
        let _gone_already = self.child.kill();
        let _reaped = self.child.wait();
    }

    /// Asks it to stop and waits; the exit code.
    pub fn terminate(&mut self) -> Option<i32> {
        self.signal(libc::SIGTERM);
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().expect("our child") {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("{} does not stop\n{}", self.name, self.log());
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("our child").is_some()
    }

    pub fn log(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let tail: Vec<&str> = text.lines().rev().take(60).collect();
        tail.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// Resident memory in bytes.
    pub fn resident(&self) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .expect("Linux says so");
        let kib: u64 = line
            .split_whitespace()
            .nth(1)
            .and_then(|n| n.parse().ok())
            .expect("a number");
        kib << 10
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- end of the log of {}:\n{}", self.name, self.log());
        }
    }
}

/// Ports that nobody listens on now.
pub fn free_ports<const N: usize>() -> [u16; N] {
    let listeners: Vec<TcpListener> = (0..N)
        .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port"))
        .collect();
    std::array::from_fn(|n| listeners[n].local_addr().expect("bound").port())
}

/// Waits until `probe` says yes; else panics with the last thing it said.
pub async fn until<T>(what: &str, probe: impl AsyncFnMut() -> Result<T, String>) -> T {
    until_within(PATIENCE, what, probe).await
}

/// As [`until`], for what may take long.
pub async fn until_within<T>(
    patience: Duration,
    what: &str,
    mut probe: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let deadline = Instant::now() + patience;
    loop {
        match probe().await {
            Ok(value) => return value,
            Err(last) if Instant::now() >= deadline => {
                panic!("{what}: not within {patience:?}; last: {last}")
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// One datacenter: a tracker process and a phylactery process in front of it.
pub struct Site {
    pub name: Datacenter,
    pub folder: PathBuf,
    pub proxy: SocketAddr,
    pub tracker: SocketAddr,
    pub storage: SocketAddr,
    pub api: SocketAddr,
    pub tracker_process: Option<Process>,
    pub node_process: Option<Process>,
    pub node_environment: Vec<(String, String)>,
}

impl Site {
    fn new(name: &str, home: &Path, ledger: &LedgerAt, more: &str) -> Site {
        let [proxy, tracker, storage, api] = free_ports();
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let folder = home.join(name);
        std::fs::create_dir_all(&folder).expect("a folder");
        let config = format!(
            "[datacenter]\nname = \"{name}\"\n\n[proxy]\nlisten = \"{}\"\ntrackers = [\"{}\"]\n\n\
             [journal]\npath = \"journal\"\nquiet_time = \"1s\"\n\n[ledger]\n{}\n\
             [repair]\nretry_first = \"200ms\"\nretry_most = \"2s\"\n\n[api]\nlisten = \"{}\"\n{more}",
            at(proxy),
            at(tracker),
            ledger.section(name),
            at(api),
        );
        std::fs::write(folder.join("phylactery.toml"), config).expect("written");
        Site {
            name: name.parse().expect("a name"),
            folder,
            proxy: at(proxy),
            tracker: at(tracker),
            storage: at(storage),
            api: at(api),
            tracker_process: None,
            node_process: None,
            node_environment: Vec::new(),
        }
    }

    /// Changes its configuration file, for the next start of its node. What it is then.
    pub fn configure(&self, change: impl FnOnce(&str) -> String) -> String {
        let path = self.folder.join("phylactery.toml");
        let text = std::fs::read_to_string(&path).expect("it was written");
        let text = change(&text);
        std::fs::write(&path, &text).expect("written");
        text
    }

    pub async fn start_tracker(&mut self) {
        let (listen, storage) = (self.tracker.to_string(), self.storage.to_string());
        let folder = self.folder.join("tracker");
        let args = [
            "tracker",
            "--dir",
            folder.to_str().expect("a plain path"),
            "--listen",
            &listen,
            "--storage-listen",
            &storage,
        ];
        let name = format!("tracker of {}", self.name);
        self.tracker_process = Some(Process::start(
            &name,
            &self.folder.join("tracker.log"),
            &args,
            &[],
        ));
        let tracker = self.tracker;
        until(&format!("{name} answers"), async || {
            Client::connect(tracker, Timeouts::default())
                .await
                .map_err(|why| why.to_string())?;
            Ok(())
        })
        .await;
    }

    /// Starts the node without waiting for it.
    pub fn launch_node(&mut self) {
        let config = self.folder.join("phylactery.toml");
        let args = ["run", "--config", config.to_str().expect("a plain path")];
        let environment: Vec<(&str, &str)> = self
            .node_environment
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_str()))
            .collect();
        let name = format!("node of {}", self.name);
        self.node_process = Some(Process::start(
            &name,
            &self.folder.join("node.log"),
            &args,
            &environment,
        ));
    }

    pub async fn start_node(&mut self) {
        self.launch_node();
        let (proxy, api) = (self.proxy, self.api);
        until(&format!("node of {} listens", self.name), async || {
            for address in [proxy, api] {
                tokio::net::TcpStream::connect(address)
                    .await
                    .map_err(|why| format!("{address}: {why}"))?;
            }
            Ok(())
        })
        .await;
    }

    pub fn node(&mut self) -> &mut Process {
        self.node_process.as_mut().expect("the node was started")
    }

    /// `GET` of the API, as JSON.
    pub async fn get(&self, path: &str) -> Result<serde_json::Value, String> {
        let url = format!("http://{}{path}", self.api);
        let response = reqwest::get(&url).await.map_err(|why| why.to_string())?;
        let status = response.status();
        let body = response.text().await.map_err(|why| why.to_string())?;
        if !status.is_success() {
            return Err(format!("{status}: {body}"));
        }
        serde_json::from_str(&body).map_err(|why| format!("{why}: {body}"))
    }

    /// What `/readyz` says: whether it is ready, and the line.
    pub async fn ready(&self) -> Result<(bool, String), String> {
        let answer = reqwest::get(format!("http://{}/readyz", self.api))
            .await
            .map_err(|why| why.to_string())?;
        let ready = answer.status().is_success();
        Ok((ready, answer.text().await.map_err(|why| why.to_string())?))
    }

    /// All keys of a domain with their bytes, read from the tracker itself, not through the proxy.
    pub async fn files(&self, domain: &str) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, String> {
        let mut client = Client::connect(self.tracker, Timeouts::default())
            .await
            .map_err(|why| why.to_string())?;
        let mut files = BTreeMap::new();
        for key in keys(&mut client, domain).await? {
            let bytes = fetch_with(&mut client, domain, &key).await?;
            files.insert(key, bytes);
        }
        Ok(files)
    }
}

async fn keys(client: &mut Client, domain: &str) -> Result<Vec<Vec<u8>>, String> {
    let mut keys = Vec::new();
    let mut after = Vec::new();
    loop {
        let list = ListKeys {
            domain: domain.as_bytes(),
            after: &after,
            ..Default::default()
        };
        let page = match client.list_keys(&list).await {
            Ok(page) => page,
            Err(why) if why.is_code("unreg_domain") => return Ok(keys),
            Err(why) => return Err(why.to_string()),
        };
        if page.keys.is_empty() {
            return Ok(keys);
        }
        keys.extend(page.keys);
        match page.next_after {
            Some(next) => after = next,
            None => return Ok(keys),
        }
    }
}

async fn fetch_with(client: &mut Client, domain: &str, key: &[u8]) -> Result<Vec<u8>, String> {
    let paths = client
        .get_paths(&GetPaths {
            domain: domain.as_bytes(),
            key,
            noverify: true,
            ..Default::default()
        })
        .await
        .map_err(|why| format!("get_paths {}: {why}", key.escape_ascii()))?;
    let mut last = "no path".to_owned();
    for path in paths {
        match get(&path).await {
            Ok(bytes) => return Ok(bytes),
            Err(why) => last = why,
        }
    }
    Err(format!("{}: {last}", key.escape_ascii()))
}

async fn get(url: &str) -> Result<Vec<u8>, String> {
    let response = reqwest::get(url).await.map_err(|why| why.to_string())?;
    if !response.status().is_success() {
        return Err(format!("GET {url}: {}", response.status()));
    }
    Ok(response
        .bytes()
        .await
        .map_err(|why| why.to_string())?
        .to_vec())
}

/// A MogileFS client as tests use it: one connection, the whole upload in one call.
pub struct Mogile {
    client: Client,
    http: reqwest::Client,
    /// How long the last create_close took.
    pub closing: Duration,
}

impl Mogile {
    pub async fn connect(address: SocketAddr) -> Result<Mogile, ClientError> {
        let timeouts = Timeouts {
            reply: Duration::from_secs(20),
            ..Timeouts::default()
        };
        Ok(Mogile {
            client: Client::connect(address, timeouts).await?,
            http: reqwest::Client::new(),
            closing: Duration::ZERO,
        })
    }

    /// Opens, puts, closes. The error says whether the tracker may have closed it.
    pub async fn store(
        &mut self,
        domain: &str,
        key: &[u8],
        class: &str,
        bytes: &[u8],
    ) -> Result<u64, Failed> {
        self.store_as(domain, key, class, bytes, None).await
    }

    /// Of class `default`, with a digest that the tracker verifies.
    pub async fn store_verified(
        &mut self,
        domain: &str,
        key: &[u8],
        bytes: &[u8],
        digest: &str,
    ) -> Result<u64, Failed> {
        self.store_as(domain, key, "", bytes, Some(digest)).await
    }

    async fn store_as(
        &mut self,
        domain: &str,
        key: &[u8],
        class: &str,
        bytes: &[u8],
        digest: Option<&str>,
    ) -> Result<u64, Failed> {
        let mut open = CreateOpen {
            domain: domain.as_bytes(),
            key,
            ..Default::default()
        };
        if !class.is_empty() {
            open.class = Some(class.as_bytes());
        }
        let opened = self
            .client
            .create_open(&open)
            .await
            .map_err(Failed::before)?;
        let destination = &opened.destinations[0];
        let put = self
            .http
            .put(&destination.path)
            .body(bytes.to_vec())
            .send()
            .await;
        if !put.is_ok_and(|answer| answer.status().is_success()) {
            return Err(Failed {
                certain: true,
                why: "PUT failed".into(),
            });
        }
        let close = CreateClose {
            domain: domain.as_bytes(),
            key,
            fid: opened.fid,
            devid: destination.devid,
            path: &destination.path,
            size: Some(bytes.len() as u64),
            checksum: digest,
            checksumverify: digest.is_some(),
        };
        let asked = Instant::now();
        let closed = self.client.create_close(&close).await;
        self.closing = asked.elapsed();
        closed.map_err(Failed::of)?;
        Ok(opened.fid)
    }

    pub async fn delete(&mut self, domain: &str, key: &[u8]) -> Result<(), Failed> {
        self.client
            .delete(domain.as_bytes(), key)
            .await
            .map_err(Failed::of)
    }

    pub async fn rename(&mut self, domain: &str, from: &[u8], to: &[u8]) -> Result<(), Failed> {
        self.client
            .rename(domain.as_bytes(), from, to)
            .await
            .map_err(Failed::of)
    }

    pub async fn updateclass(
        &mut self,
        domain: &str,
        key: &[u8],
        class: &str,
    ) -> Result<(), Failed> {
        self.client
            .updateclass(domain.as_bytes(), key, class.as_bytes())
            .await
            .map_err(Failed::of)
    }

    pub async fn fetch(&mut self, domain: &str, key: &[u8]) -> Result<Vec<u8>, String> {
        fetch_with(&mut self.client, domain, key).await
    }

    pub fn raw(&mut self) -> &mut Client {
        &mut self.client
    }
}

/// A request that was not acknowledged.
#[derive(Debug)]
pub struct Failed {
    /// Nothing has happened, for sure: the tracker or the proxy said so.
    pub certain: bool,
    pub why: String,
}

impl Failed {
    fn of(why: ClientError) -> Failed {
        let certain = match &why {
            // These are what a request gives that was already carried out once.
            ClientError::Tracker { code, .. } => {
                !["unknown_key", "no_temp_file", "failure"].contains(&code.as_str())
            }
            other => !other.maybe_seen(),
        };
        Failed {
            certain,
            why: why.to_string(),
        }
    }

    fn before(why: ClientError) -> Failed {
        Failed {
            certain: true,
            why: why.to_string(),
        }
    }
}

/// Where the ledger of two datacenters is.
pub enum LedgerAt {
    /// An SQLite file.
    Embedded(PathBuf),
    /// A keyspace of a cluster, each datacenter by its own nodes.
    Cassandra(Vec<CassandraConfig>),
}

impl LedgerAt {
    /// The keys of `[ledger]` for a datacenter.
    pub fn section(&self, datacenter: &str) -> String {
        match self {
            LedgerAt::Embedded(path) => {
                format!("kind = \"embedded\"\npath = \"{}\"\n", path.display())
            }
            LedgerAt::Cassandra(all) => {
                // One that has no nodes of its own asks those of another.
                let ours = all.iter().find(|one| one.local_datacenter == datacenter);
                let ours = ours.or(all.first()).expect("a configuration for it");
                let mut section = format!(
                    "kind = \"cassandra\"\ncontact_points = {:?}\nlocal_datacenter = \"{}\"\n\
                     keyspace = \"{}\"\nwrite_consistency = \"{}\"\n",
                    ours.contact_points,
                    ours.local_datacenter,
                    ours.keyspace,
                    ours.write_consistency.name(),
                );
                if let Some(user) = &ours.username {
                    section.push_str(&format!("username = \"{user}\"\n"));
                }
                let files = [
                    ("password_file", &ours.password_file),
                    ("tls_ca", &ours.tls_ca),
                    ("tls_cert", &ours.tls_cert),
                    ("tls_key", &ours.tls_key),
                ];
                for (key, file) in files {
                    if let Some(file) = file {
                        section.push_str(&format!("{key} = \"{}\"\n", file.display()));
                    }
                }
                section
            }
        }
    }
}

/// Two datacenters, `ma01` and `tx01`, perhaps more, and the ledger that they share.
pub struct Cluster {
    pub ma01: Site,
    pub tx01: Site,
    pub more: Vec<Site>,
    pub ledger_at: LedgerAt,
    home: tempfile::TempDir,
    /// A session with a cluster takes its time, and lives long.
    looking: OnceCell<Arc<dyn Ledger>>,
}

impl Cluster {
    /// Starts all four processes. `more` is added to each configuration file.
    pub async fn start(more: &str) -> Cluster {
        let mut cluster = Cluster::prepare(more).await;
        cluster.ma01.start_node().await;
        cluster.tx01.start_node().await;
        cluster
    }

    /// Starts the trackers only, with the domain `photos` (class `thumb`) in ma01.
    pub async fn prepare(more: &str) -> Cluster {
        let home = tempfile::tempdir().expect("a folder");
        let ledger = LedgerAt::Embedded(home.path().join("ledger.db"));
        Cluster::prepare_on(home, ledger, more).await
    }

    /// As [`Self::prepare`], with a ledger elsewhere.
    pub async fn prepare_on(home: tempfile::TempDir, ledger_at: LedgerAt, more: &str) -> Cluster {
        let mut cluster = Cluster {
            ma01: Site::new("ma01", home.path(), &ledger_at, more),
            tx01: Site::new("tx01", home.path(), &ledger_at, more),
            more: Vec::new(),
            ledger_at,
            home,
            looking: OnceCell::new(),
        };
        cluster.ma01.start_tracker().await;
        cluster.tx01.start_tracker().await;
        let mut client = Client::connect(cluster.ma01.tracker, Timeouts::default())
            .await
            .expect("it listens");
        client.create_domain(b"photos").await.expect("a new domain");
        let thumb = mogilefs_protocol::client::ClassSettings {
            domain: b"photos",
            class: b"thumb",
            mindevcount: 2,
            ..Default::default()
        };
        client.create_class(&thumb).await.expect("a new class");
        cluster
    }

    pub fn home(&self) -> &Path {
        self.home.path()
    }

    pub fn sites(&mut self) -> [&mut Site; 2] {
        [&mut self.ma01, &mut self.tx01]
    }

    /// Adds a datacenter, and starts its tracker.
    pub async fn add(&mut self, name: &str) {
        let mut site = Site::new(name, self.home.path(), &self.ledger_at, "");
        site.start_tracker().await;
        self.more.push(site);
    }

    /// All there are.
    pub fn all(&self) -> Vec<&Site> {
        [&self.ma01, &self.tx01]
            .into_iter()
            .chain(&self.more)
            .collect()
    }

    pub fn all_mut(&mut self) -> Vec<&mut Site> {
        let both = [&mut self.ma01, &mut self.tx01];
        both.into_iter().chain(&mut self.more).collect()
    }

    /// A handle of its own on the ledger, as a third process.
    pub async fn ledger(&self) -> Arc<dyn Ledger> {
        match &self.ledger_at {
            LedgerAt::Embedded(path) => {
                Arc::new(EmbeddedLedger::open(path).expect("the ledger opens"))
            }
            LedgerAt::Cassandra(all) => {
                let opening = self.looking.get_or_init(async || {
                    let opening = Box::pin(CassandraLedger::open(&all[0])).await;
                    Arc::new(opening.expect("the ledger opens")) as Arc<dyn Ledger>
                });
                Arc::clone(opening.await)
            }
        }
    }

    /// The file of an embedded ledger.
    pub fn ledger_path(&self) -> &Path {
        match &self.ledger_at {
            LedgerAt::Embedded(path) => path,
            LedgerAt::Cassandra(_) => panic!("it is no file"),
        }
    }

    /// Waits until [`Self::is_settled`].
    pub async fn settled(&self) {
        until("the datacenters converge", async || self.is_settled().await).await;
    }

    /// Whether nothing is under way: journals empty, no gaps, every file of the ledger whole in all datacenters.
    pub async fn is_settled(&self) -> Result<(), String> {
        for site in self.all() {
            let status = site.get("/v1/status").await?;
            if status["journal"]["depth"] != 0 || status["gaps"] != 0 {
                return Err(format!("{}: {status:#}", site.name));
            }
        }
        let ledger = self.ledger().await;
        for (file, record) in all_files(&*ledger).await {
            for site in self.all() {
                if !record.is_whole_in(&site.name, true) {
                    return Err(format!("{file:?} in {}: {record:#?}", site.name));
                }
            }
        }
        Ok(())
    }

    /// Waits until all sites say by themselves that all is well, as of a moment after this call: in sync, journals empty, no
    /// gaps, everything on all copies of the ledger.
    pub async fn is_well(&self) {
        // Thousands of files may wait to be copied.
        let patience = 5 * PATIENCE;
        let now = SystemTime::now();
        let each = async |is_so: &dyn Fn(&serde_json::Value) -> bool| {
            for site in self.all() {
                let status = site.get("/v1/status").await?;
                if !is_so(&status) {
                    let gaps = site.get("/v1/gaps").await?;
                    return Err(format!("{}: {status:#}\n{gaps:#}", site.name));
                }
            }
            Ok(())
        };
        until_within(patience, "all are in sync", async || {
            each(&|status| {
                let proved = status["proved_at"].as_str();
                let proved = proved.and_then(|at| humantime::parse_rfc3339(at).ok());
                status["in_sync"] == true && proved.is_some_and(|at| at > now)
            })
            .await
        })
        .await;
        until_within(patience, "all copies have everything", async || {
            each(&|status| {
                let whole = &status["ledger"]["not_yet_whole"];
                let owed = whole["count"] != 0 || !whole["asserting_since"].is_null();
                status["journal"]["depth"] == 0 && status["gaps"] == 0 && !owed
            })
            .await
        })
        .await;
    }

    /// After [`Self::settled`]: all trackers hold the same files, byte for byte, and these are what the ledger says.
    pub async fn same_files(&self, domain: &str) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let here = self.ma01.files(domain).await.expect("ma01 reads");
        let keys = |files: &BTreeMap<Vec<u8>, Vec<u8>>| -> Vec<String> {
            files
                .keys()
                .map(|key| key.escape_ascii().to_string())
                .collect()
        };
        for site in self.all().into_iter().skip(1) {
            let there = site.files(domain).await.expect("the other reads");
            assert_eq!(keys(&here), keys(&there), "the same keys in {}", site.name);
            for (key, bytes) in &here {
                assert!(
                    there[key] == *bytes,
                    "{}: different bytes in {}",
                    key.escape_ascii(),
                    site.name
                );
            }
        }
        let ledger = self.ledger().await;
        let mut told: Vec<String> = all_files(&*ledger)
            .await
            .into_iter()
            .filter(|(file, record)| file.domain.escaped() == domain && record.content().is_some())
            .map(|(file, _)| file.key.bytes().escape_ascii().to_string())
            .collect();
        let mut held = keys(&here);
        told.sort();
        held.sort();
        assert_eq!(
            told, held,
            "the ledger names exactly the files that are there"
        );
        here
    }
}

/// Every file of a ledger.
pub async fn all_files(ledger: &dyn Ledger) -> Vec<(FileName, FileRecord)> {
    let mut files = Vec::new();
    let mut from: Option<String> = None;
    loop {
        let page: Page = ledger
            .scan(TokenRange::ALL, from.as_deref(), 1_000, Strength::Local)
            .await
            .expect("the ledger scans");
        files.extend(page.files);
        match page.next {
            Some(next) => from = Some(next),
            None => return files,
        }
    }
}

/// One file's record.
pub async fn record(ledger: &dyn Ledger, domain: &str, key: &[u8]) -> FileRecord {
    let file = FileName::from_bytes(domain.as_bytes(), key);
    ledger
        .read(&file, Strength::Local)
        .await
        .expect("the ledger reads")
}
