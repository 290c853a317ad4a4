//! A real Cassandra for the tests: four nodes in two datacenters, `ma01` (nodes 0 and 2) and `tx01` (nodes 1 and 3), started on first
//! use, once for a whole test binary; and single nodes with passwords or TLS.
//!
//! A test takes [`Cluster::calm`] for as long as it wants a healthy cluster, side by side with others, or [`Cluster::alone`],
//! which is the permission to hurt nodes. Each test has keyspaces of its own ([`Cluster::keyspace`]).
//!
//! Always true: whoever holds `Calm`, or has just been given `Alone`, has a cluster in which every node answers and sees every other one; no
//! node outlives this process, however it ends; two runs on one machine never meet.
//! Never here: a wait for a time rather than for a condition; a test that passes because Cassandra could not be had.
//! Killed in the middle: the kernel ends the nodes ([`spawner`]); the next run removes what lies on disk ([`folder`]).

#![allow(dead_code, reason = "each user of the harness uses a part of it")]

mod addresses;
mod certificates;
pub mod cql;
pub mod folder;
mod keyspaces;
mod node;
mod sight;
mod software;
pub mod spawner;

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use scylla::client::PoolSize;
use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::policies::host_filter::AllowListHostFilter;
use scylla::policies::retry::FallthroughRetryPolicy;
use tokio::runtime::Runtime;
use tokio::sync::{OnceCell, OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use addresses::Addresses;
pub use certificates::Certificates;
use folder::Folder;
pub use node::Node;
use software::Software;

/// How long nodes may take to start or to see each other again. Generous: only a failure uses it up.
const PATIENCE: Duration = Duration::from_secs(240);

/// How long to wait between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Datacenter and end of the part of the ring, of each of the four nodes.
const FOUR: [(&str, i64); 4] = [
    ("ma01", 0),
    ("tx01", 1),
    ("ma01", 1 << 62),
    ("tx01", (1 << 62) + 1),
];

/// The first user of a node with passwords, and its password.
pub const USER: (&str, &str) = ("cassandra", "cassandra");

/// What a node of its own is like.
#[derive(Clone, Copy, Debug, Default)]
pub struct NodeOptions {
    /// Asks clients for user and password; [`USER`] is the first one.
    pub passwords: bool,
    /// What clients have to speak.
    pub tls: Tls,
}

/// TLS between clients and a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tls {
    /// Plain text only.
    #[default]
    Off,
    /// TLS only.
    On,
    /// TLS only, and clients show a certificate too.
    Mutual,
}

/// A cluster of real nodes. Dropped, it is gone.
#[derive(Debug)]
pub struct Cluster {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    // In this order: nodes end before their folder and their addresses are given up.
    nodes: Vec<Node>,
    folder: Folder,
    addresses: Addresses,
    options: NodeOptions,
    certificates: Option<Certificates>,
    sessions: Mutex<Sessions>,
    keyspaces: keyspaces::Keyspaces,
    sight: OnceCell<sight::Sight>,
    /// Read by tests that hurt nobody, written by one that does.
    peace: Arc<RwLock<()>>,
    /// A node was hurt since all were last known to be well.
    hurt: AtomicBool,
    /// Why the nodes could not be brought back.
    broken: Mutex<Option<String>>,
}

/// Kept open, as opening one takes a while: by node, and one for all. Forgotten when a node is hurt.
#[derive(Debug, Default)]
struct Sessions {
    all: Option<Arc<Session>>,
    at: [Option<Arc<Session>>; FOUR.len()],
}

/// What belongs to no single test runs here: a driver's session ends with the runtime that it was opened in, and a test's
/// runtime ends with the test.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("cluster")
        .enable_all()
        .build()
        .expect("a runtime can be made")
});

async fn aside<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    RUNTIME
        .spawn(work)
        .await
        .unwrap_or_else(|why| std::panic::resume_unwind(why.into_panic()))
}

impl Cluster {
    /// The four nodes that all tests of this process share.
    ///
    /// # Panics
    ///
    /// With one line that says what is missing and how to install it, or with the end of a node's log.
    pub async fn shared() -> &'static Cluster {
        static SHARED: OnceCell<Result<Cluster, String>> = OnceCell::const_new();
        let shared = SHARED
            .get_or_init(|| aside(Cluster::start(&FOUR, NodeOptions::default())))
            .await;
        shared.as_ref().unwrap_or_else(|why| panic!("{why}"))
    }

    /// A single node, datacenter `ma01`, that belongs to this test. Panics as [`Self::shared`].
    pub async fn one_node(options: NodeOptions) -> Cluster {
        aside(Cluster::start(&FOUR[..1], options))
            .await
            .unwrap_or_else(|why| panic!("{why}"))
    }

    async fn start(
        places: &'static [(&str, i64)],
        options: NodeOptions,
    ) -> Result<Cluster, String> {
        let prepared = tokio::task::spawn_blocking(move || Inner::prepare(places, options)).await;
        let inner = Arc::new(prepared.expect("it does not panic")?);
        inner.heal().await?;
        Ok(Cluster { inner })
    }

    /// Waits until nobody hurts nodes. Nobody will while this is held; take it once a test, not inside another one.
    pub async fn calm(&self) -> Calm {
        let guard = Arc::clone(&self.inner.peace).read_owned().await;
        self.inner.well();
        Calm { _guard: guard }
    }

    /// Waits until no other test uses the cluster, and until all nodes are well. From then on this test may hurt nodes; when it
    /// drops what it was given, all of them are brought back before anybody else comes.
    pub async fn alone(&self) -> Alone {
        let guard = Arc::clone(&self.inner.peace).write_owned().await;
        let alone = Alone {
            cluster: Cluster {
                inner: Arc::clone(&self.inner),
            },
            guard: Some(guard),
        };
        // Where the last one could not bring them back in time.
        if self.inner.broken.lock().take().is_some() {
            alone.heal().await;
        }
        self.inner.well();
        let inner = Arc::clone(&self.inner);
        // They only cost time where that fails.
        if let Err(why) = aside(async move { inner.drop_keyspaces().await }).await {
            eprintln!("keyspaces of earlier tests: {why}");
        }
        alone
    }

    /// All nodes, by their index.
    pub fn nodes(&self) -> &[Node] {
        &self.inner.nodes
    }

    /// Where its data and logs lie.
    pub fn folder(&self) -> &std::path::Path {
        self.inner.folder.path()
    }

    /// Indices of the nodes of a datacenter.
    pub fn nodes_of(&self, datacenter: &str) -> Vec<usize> {
        let there = self.nodes().iter().filter(|n| n.datacenter == datacenter);
        there.map(|node| node.index).collect()
    }

    /// `address:port` of each node of a datacenter.
    pub fn contact_points(&self, datacenter: &str) -> Vec<String> {
        let there = self.nodes_of(datacenter).into_iter();
        there
            .map(|node| self.nodes()[node].native().to_string())
            .collect()
    }

    /// What clients of a node with TLS need.
    pub fn certificates(&self) -> Option<&Certificates> {
        self.inner.certificates.as_ref()
    }

    /// A session with all nodes, for looking directly.
    pub async fn session(&self) -> Arc<Session> {
        let inner = Arc::clone(&self.inner);
        aside(async move { inner.session().await })
            .await
            .unwrap_or_else(|why| panic!("open a session: {why}"))
    }

    /// A session that talks to this node only, for looking at what *it* holds: with two replicas in each datacenter every node holds
    /// all rows, and a node that is a replica answers a read at `ONE` from its own data (`dynamic_snitch: false`). One
    /// exception: where that takes it longer than usual, a read of one partition is tried on a second replica too
    /// (`speculative_retry`). A read by tokens (`WHERE token(…) >= …`, or without WHERE) never is.
    pub async fn session_at(&self, node: usize) -> Arc<Session> {
        let inner = Arc::clone(&self.inner);
        aside(async move { inner.session_at(node).await })
            .await
            .unwrap_or_else(|why| panic!("open a session at node {node}: {why}"))
    }

    /// A new keyspace with the tables of `schema/`, two replicas in each datacenter (one in a cluster of one node). All nodes that run agree
    /// on it. May be asked for while others are down.
    pub async fn keyspace(&self) -> String {
        let inner = Arc::clone(&self.inner);
        aside(async move { inner.keyspace().await })
            .await
            .unwrap_or_else(|why| panic!("make a keyspace: {why}"))
    }

    /// The options of a new keyspace: two replicas in each datacenter, or one in a cluster of one node.
    pub fn replication(&self) -> String {
        self.inner.replication()
    }

    /// Whether node `here` sees node `there` as up, as it shows when it is asked for a row that lies only there.
    pub async fn sees(&self, here: usize, there: usize) -> bool {
        let inner = Arc::clone(&self.inner);
        aside(async move { inner.sees(here, there).await })
            .await
            .is_ok()
    }

    /// Waits until all nodes that run have noticed that this one does not: from then on they refuse at once what needs it.
    pub async fn seen_down(&self, node: usize) {
        let inner = Arc::clone(&self.inner);
        aside(async move { inner.seen_down(node).await })
            .await
            .unwrap_or_else(|why| panic!("{why}"));
    }
}

/// The cluster is well, and stays so while this is held.
#[must_use = "nodes may be hurt once this is dropped"]
#[derive(Debug)]
pub struct Calm {
    _guard: OwnedRwLockReadGuard<()>,
}

/// The permission to hurt nodes. Dropped, all are brought back, behind the test.
#[derive(Debug)]
pub struct Alone {
    cluster: Cluster,
    guard: Option<OwnedRwLockWriteGuard<()>>,
}

impl Deref for Alone {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

impl Alone {
    /// `kill -9`. The others take about 15 seconds to notice ([`Cluster::seen_down`]). Where the schema was changed since the last time,
    /// the node writes it to disk before ([`Self::write_schema`]), which takes seconds.
    pub async fn kill(&self, node: usize) {
        self.hurt(&[node], Node::kill).await;
    }

    /// `kill -9` to all of these, in one moment.
    pub async fn kill_all(&self, nodes: &[usize]) {
        self.hurt(nodes, Node::kill).await;
    }

    /// SIGSTOP: the node hangs, its connections stay open. As with [`Self::kill`], its schema is written first.
    pub async fn stop(&self, node: usize) {
        self.hurt(&[node], Node::stop).await;
    }

    /// SIGSTOP to all of these, in one moment.
    pub async fn stop_all(&self, nodes: &[usize]) {
        self.hurt(nodes, Node::stop).await;
    }

    /// Lets these nodes write their schema to disk: for a test that wants no wait when it kills one later.
    pub async fn write_schema(&self, nodes: &[usize]) {
        for node in nodes {
            let (inner, node) = (Arc::clone(&self.cluster.inner), *node);
            aside(async move { inner.write_schema(node).await })
                .await
                .unwrap_or_else(|why| panic!("write the schema of node {node}: {why}"));
        }
    }

    async fn hurt(&self, nodes: &[usize], how: fn(&Node)) {
        self.write_schema(nodes).await;
        let (inner, nodes) = (Arc::clone(&self.cluster.inner), nodes.to_vec());
        // Off the test's thread: its load goes on meanwhile, and is measured.
        let hurt = move || {
            inner.hurt.store(true, Ordering::Relaxed);
            inner.forget_sessions();
            for node in nodes {
                how(&inner.nodes[node]);
            }
        };
        aside(async { tokio::task::spawn_blocking(hurt).await.expect("no panic") }).await;
    }

    /// SIGCONT to a stopped node; waits until it answers and it and all that run see each other.
    pub async fn go_on(&self, node: usize) {
        self.start(node).await;
    }

    /// Starts a dead node on its data (a stopped one goes on); waits until it answers and it and all that run see each other.
    pub async fn start(&self, node: usize) {
        self.launch(&[node]);
        self.wait_for(&[node]).await;
    }

    /// Starts these nodes and does not wait.
    pub fn launch(&self, nodes: &[usize]) {
        self.cluster.inner.forget_sessions();
        for node in nodes {
            let launched = self.nodes()[*node].launch();
            launched.unwrap_or_else(|why| panic!("start node {node}: {why}"));
        }
    }

    /// Waits until these nodes answer and they and all that run see each other.
    pub async fn wait_for(&self, nodes: &[usize]) {
        let (inner, nodes) = (Arc::clone(&self.cluster.inner), nodes.to_vec());
        aside(async move { inner.wait_for(&nodes).await })
            .await
            .unwrap_or_else(|why| panic!("{why}"));
    }

    /// Brings all nodes back and waits until they are well.
    pub async fn heal(&self) {
        let inner = Arc::clone(&self.cluster.inner);
        aside(async move { inner.heal().await })
            .await
            .unwrap_or_else(|why| panic!("{why}"));
    }

    /// `nodetool` at this node; what it printed. Takes seconds.
    pub async fn nodetool(&self, node: usize, words: &[&str]) -> Result<String, String> {
        let inner = Arc::clone(&self.cluster.inner);
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        let run = move || {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            inner.nodes[node].nodetool(&words)
        };
        aside(async { tokio::task::spawn_blocking(run).await.expect("no panic") }).await
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        let guard = self.guard.take();
        let inner = Arc::clone(&self.cluster.inner);
        if std::thread::panicking() {
            for node in self.nodes() {
                eprintln!("{}", node.log());
            }
        }
        RUNTIME.spawn(async move {
            if let Err(why) = inner.heal().await {
                *inner.broken.lock() = Some(why);
            }
            drop(guard);
        });
    }
}

impl Inner {
    fn prepare(places: &'static [(&str, i64)], options: NodeOptions) -> Result<Inner, String> {
        let software = Software::find()?;
        let addresses = Addresses::claim(places.len())?;
        let folder = Folder::new().map_err(|why| format!("the cluster's folder: {why}"))?;
        let certificates = match options.tls {
            Tls::Off => None,
            Tls::On | Tls::Mutual => Some(Certificates::make(folder.path(), addresses.of(0))?),
        };
        let seeds: Vec<String> = (0..places.len())
            .map(|node| addresses.of(node).to_string())
            .collect();
        let plan = node::Plan {
            seeds: seeds.join(","),
            options: &options,
            certificates: certificates.as_ref(),
            software: &software,
        };
        let mut nodes = Vec::new();
        for (index, (datacenter, token)) in places.iter().enumerate() {
            let address = addresses.of(index);
            let node = Node::prepare(index, datacenter, *token, address, folder.path(), &plan);
            nodes.push(node.map_err(|why| format!("settings of node {index}: {why}"))?);
        }
        Ok(Inner {
            nodes,
            folder,
            addresses,
            options,
            certificates,
            sessions: Mutex::default(),
            keyspaces: keyspaces::Keyspaces::default(),
            sight: OnceCell::new(),
            peace: Arc::default(),
            hurt: AtomicBool::new(true),
            broken: Mutex::default(),
        })
    }

    /// Panics unless all nodes could be brought back, and none has ended by itself since.
    fn well(&self) {
        if let Some(why) = &*self.broken.lock() {
            panic!("the cluster could not be brought back: {why}");
        }
        if let Some(dead) = self.nodes.iter().find(|node| !node.is_running()) {
            panic!("node {} ended by itself\n{}", dead.index, dead.log());
        }
    }

    /// Brings all nodes back and waits until every one answers and sees every other one.
    async fn heal(&self) -> Result<(), String> {
        if !self.hurt.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.forget_sessions();
        for node in &self.nodes {
            let launched = node.launch();
            launched.map_err(|why| format!("start node {}: {why}", node.index))?;
        }
        let all: Vec<usize> = (0..self.nodes.len()).collect();
        self.wait_for(&all).await?;
        self.hurt.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Waits until these nodes answer, they and all that run see each other, and all have the same schema.
    async fn wait_for(&self, nodes: &[usize]) -> Result<(), String> {
        for &node in nodes {
            self.eventually(node, "answer", || self.session_at(node))
                .await?;
        }
        self.prepare_sight().await?;
        let running = self.running();
        for &node in nodes {
            for &other in &running {
                let what = format!("see node {other}");
                self.eventually(node, &what, || self.sees(node, other))
                    .await?;
                let what = format!("see node {node}");
                self.eventually(other, &what, || self.sees(other, node))
                    .await?;
            }
        }
        self.agreed().await
    }

    fn running(&self) -> Vec<usize> {
        let running = self.nodes.iter().filter(|node| node.is_running());
        running.map(|node| node.index).collect()
    }

    /// Waits until a look at a node succeeds; fails at once when the node has ended.
    async fn eventually<T, E: std::fmt::Display, F: Future<Output = Result<T, E>>>(
        &self,
        node: usize,
        what: &str,
        mut look: impl FnMut() -> F,
    ) -> Result<T, String> {
        let node = &self.nodes[node];
        let deadline = Instant::now() + PATIENCE;
        loop {
            let last = match look().await {
                Ok(seen) => return Ok(seen),
                Err(last) => last,
            };
            if !node.is_running() || Instant::now() > deadline {
                let index = node.index;
                return Err(format!(
                    "node {index} does not {what}: {last}\n{}",
                    node.log()
                ));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    fn forget_sessions(&self) {
        *self.sessions.lock() = Sessions::default();
    }

    /// How the harness connects: no retries, as it looks again by itself, and no wait for the schema.
    fn connecting(&self) -> SessionBuilder {
        let profile = ExecutionProfile::builder()
            .retry_policy(Arc::new(FallthroughRetryPolicy::new()))
            .request_timeout(Some(Duration::from_secs(30)))
            .build();
        let mut builder = SessionBuilder::new()
            .default_execution_profile_handle(profile.into_handle())
            .connection_timeout(Duration::from_secs(3))
            .pool_size(PoolSize::PerHost(1.try_into().expect("one is not zero")))
            .fetch_schema_metadata(false)
            .auto_await_schema_agreement(false)
            .refresh_metadata_on_auto_schema_agreement(false);
        if self.options.passwords {
            builder = builder.user(USER.0, USER.1);
        }
        if let Some(certificates) = &self.certificates {
            builder = builder.tls_context(Some(certificates.client()));
        }
        builder
    }

    /// A new session that talks to one node only.
    async fn connect(&self, node: usize) -> Result<Session, String> {
        let address = std::net::SocketAddr::from(self.nodes[node].native());
        let only = AllowListHostFilter::new([address]).map_err(|why| why.to_string())?;
        let builder = self.connecting().known_node_addr(address);
        let session = builder.host_filter(Arc::new(only)).build().await;
        session.map_err(|why| why.to_string())
    }

    async fn session_at(&self, node: usize) -> Result<Arc<Session>, String> {
        if let Some(open) = &self.sessions.lock().at[node] {
            return Ok(Arc::clone(open));
        }
        let session = Arc::new(self.connect(node).await?);
        self.sessions.lock().at[node] = Some(Arc::clone(&session));
        Ok(session)
    }

    async fn session(&self) -> Result<Arc<Session>, String> {
        if let Some(open) = &self.sessions.lock().all {
            return Ok(Arc::clone(open));
        }
        let running = self.running().into_iter();
        let addresses = running.map(|node| std::net::SocketAddr::from(self.nodes[node].native()));
        let builder = self.connecting().known_nodes_addr(addresses);
        let session = Arc::new(builder.build().await.map_err(|why| why.to_string())?);
        self.sessions.lock().all = Some(Arc::clone(&session));
        Ok(session)
    }
}
