//! Drills: nodes of the cluster are hurt under a load of clients of both datacenters, one drill a test.
//!
//! In each, once, a process of ours dies too. Afterwards nobody does anything but bring nodes back, and all of it must be well: every
//! journal empty, every row the same on every node, nothing lost of what a client was told, nothing invented.
//!
//! With two copies in a datacenter, one node down stops `LOCAL_QUORUM` there: its journal grows meanwhile. Nothing else may show.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use futures::future::join_all;
use scylla::statement::{Consistency, Statement};
use scylla::value::{CqlValue, Row};

use crate::cluster::{Alone, Cluster};
use crate::harness::load::{Clients, DOMAIN, Load, Times};
use crate::harness::{self, Mogile, Site, until};
use crate::support::{seed, sites};

/// No create_close may take so long: far below what any wait for the ledger would be (`request_timeout`, again and again).
const LIMIT: Duration = Duration::from_secs(5);

/// Mutations of a healthy stretch, before anything is hurt.
const HEALTHY: u64 = 150;

/// How long clients rest after each answer, where it does not matter how many mutations there are.
const REST: Duration = Duration::from_millis(100);

/// And while nodes start, which need the machine for themselves.
const LONG_REST: Duration = Duration::from_secs(1);

/// A cluster that is hurt, two sites on it, and their clients.
struct Drill {
    nodes: Alone,
    sites: harness::Cluster,
    load: Load,
    /// Processes of ours that were killed, and files that the drill has stored by itself.
    killed: usize,
    stored: usize,
}

/// Which site.
type Which = fn(&mut harness::Cluster) -> &mut Site;
const MA01: Which = |sites| &mut sites.ma01;
const TX01: Which = |sites| &mut sites.tx01;

impl Drill {
    /// Stores a file by a client of its own, as soon as one is served; its key.
    async fn store(&mut self, site: Which) -> String {
        self.stored += 1;
        let key = format!("drill/{}", self.stored);
        let proxy = site(&mut self.sites).proxy;
        until("a file is stored", async || {
            let client = Mogile::connect(proxy).await;
            let mut client = client.map_err(|why| why.to_string())?;
            let stored = client.store(DOMAIN, key.as_bytes(), "", key.as_bytes());
            stored.await.map_err(|why| why.why)
        })
        .await;
        self.load.note(&key, key.as_bytes());
        key
    }

    /// `kill -9` of a process of ours, started again at once. Whatever the ledger does, it serves clients.
    async fn kill_ours(&mut self, site: Which) {
        let died = Instant::now();
        let ours = site(&mut self.sites);
        ours.node().kill();
        ours.launch_node();
        self.killed += 1;
        self.store(site).await;
        let served = died.elapsed();
        println!("    a process of ours that was killed serves clients after {served:.2?}");
        assert!(served < LIMIT, "clients wait {served:?} for a new process");
    }

    /// A file that is stored now is in the ledger soon, by what this site sees of it.
    async fn ledger_goes_on(&mut self, site: Which) {
        let key = self.store(site).await;
        let site = site(&mut self.sites);
        until("the ledger has a new file", async || {
            let told = site.get(&format!("/v1/files/{DOMAIN}/{key}")).await?;
            match told["head"].is_null() {
                true => Err(format!("{told:#}")),
                false => Ok(()),
            }
        })
        .await;
    }

    /// Brings nodes back, the load going on.
    async fn bring_back(&self, nodes: &[usize]) {
        self.load.rest(LONG_REST);
        self.nodes.launch(nodes);
        self.nodes.wait_for(nodes).await;
        self.load.rest(REST);
    }

    /// What waits in a site's journal.
    async fn waiting(&mut self, site: Which) -> u64 {
        let status = site(&mut self.sites).get("/v1/status").await;
        let status = status.expect("it answers whatever the ledger does");
        status["journal"]["depth"].as_u64().expect("a number")
    }
}

/// One drill: a healthy stretch, then `hurt`, which leaves nodes hurt; they are brought back, and everything is looked at.
async fn drill(name: &str, hurt: impl AsyncFnOnce(&mut Drill)) {
    let nodes = Cluster::shared().await.alone().await;
    let began = Instant::now();
    let keyspace = nodes.keyspace().await;
    let sites = Box::pin(sites(&nodes, &keyspace)).await;
    let clients = Clients {
        ma01: 3,
        tx01: 3,
        more: 0,
        rest: REST,
    };
    let load = Box::pin(Load::start(&sites, seed(), clients)).await;
    let mut drill = Drill {
        nodes,
        sites,
        load,
        killed: 0,
        stored: 0,
    };
    println!("{name}: prepared in {:.1?}", began.elapsed());

    drill.load.more(HEALTHY).await;
    let healthy = drill.load.since(0);
    let (mark, before, hurting) = (drill.load.mark(), drill.load.acknowledged(), Instant::now());
    hurt(&mut drill).await;
    let outage = drill.load.since(mark);
    println!(
        "    {} mutations in {:.1?} of outage\n    create_close, healthy: {healthy}\n    create_close, outage:  {outage}",
        drill.load.acknowledged() - before,
        hurting.elapsed()
    );

    let all: Vec<usize> = (0..drill.nodes.nodes().len()).collect();
    let back = Instant::now();
    drill.bring_back(&all).await;
    drill.load.more(50).await;
    println!("    nodes are back after {:.1?}", back.elapsed());
    let whole = drill.load.since(0);
    never_waited(&healthy, &outage, &whole);
    // A request that is under way when its process dies is lost to its client: one for each client there.
    let failures = drill.load.failures();
    assert!(
        failures.len() <= 3 * drill.killed,
        "clients were refused: {failures:#?}"
    );

    let book = drill.load.stop().await;
    let back = Instant::now();
    drill.sites.is_well().await;
    println!(
        "    {} mutations; all is well after {:.1?}",
        book.acknowledged,
        back.elapsed()
    );
    // Before anything is read at a quorum, which would mend what is not the same.
    every_node_has_the_same(&drill.nodes, &keyspace).await;
    Box::pin(drill.sites.settled()).await;
    Box::pin(book.check(&drill.sites)).await;
    println!("    done in {:.1?}", began.elapsed());
}

/// Clients do not wait for the ledger.
fn never_waited(healthy: &Times, outage: &Times, whole: &Times) {
    let longest = whole.longest();
    assert!(longest < LIMIT, "a create_close took {longest:?}: {whole}");
    let [before, then] = [healthy, outage].map(|times| times.percentile(50));
    assert!(
        then <= before * 5 + Duration::from_millis(50),
        "create_close in the outage: {outage}; before: {healthy}"
    );
}

type Rows = BTreeMap<String, Vec<Option<CqlValue>>>;

/// Every row of `files`, as one node has it.
async fn rows(nodes: &Cluster, node: usize, keyspace: &str) -> Rows {
    let mut select = Statement::new(format!(
        "SELECT domain, key, writetime(head), writetime(class_cell), head, class_cell, replicas FROM {keyspace}.files"
    ));
    select.set_consistency(Consistency::One);
    let session = nodes.session_at(node).await;
    let rows = session.query_iter(select, ()).await.expect("it is up");
    let rows = rows.rows_stream::<Row>().expect("any row");
    let rows = rows.map_ok(|row| {
        let name = |column: usize| row.columns[column].as_ref().and_then(CqlValue::as_ascii);
        let [domain, key] = [0, 1].map(|column| name(column).expect("ascii").clone());
        (format!("{domain} {key}"), row.columns)
    });
    rows.try_collect().await.expect("it is up")
}

async fn every_node_has_the_same(nodes: &Cluster, keyspace: &str) {
    let first = rows(nodes, 0, keyspace).await;
    assert!(!first.is_empty(), "the load has left something");
    for node in 1..nodes.nodes().len() {
        let other = rows(nodes, node, keyspace).await;
        let names = first.keys().chain(other.keys());
        let mut differ: Vec<&String> = names
            .filter(|name| first.get(*name) != other.get(*name))
            .collect();
        differ.sort();
        differ.dedup();
        let some = differ.iter().take(3);
        let some: Vec<_> = some
            .map(|&name| (name, first.get(name), other.get(name)))
            .collect();
        assert!(
            differ.is_empty(),
            "{} of {} rows are not on node {node} as on node 0: {some:#?}",
            differ.len(),
            first.len()
        );
    }
    println!("    {} rows of files, the same on every node", first.len());
}

/// A node of ma01 does not answer: its quorum is gone there, and there only.
async fn ma01_has_no_quorum(drill: &mut Drill) {
    drill.load.more(150).await;
    assert!(drill.waiting(MA01).await > 0, "ma01 has no quorum");
    drill.ledger_goes_on(TX01).await;
    drill.kill_ours(MA01).await;
    drill.load.more(150).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_is_killed() {
    drill("one node killed", async |drill| {
        drill.nodes.kill(0).await;
        ma01_has_no_quorum(drill).await;
    })
    .await;
}

/// A session that is opened meanwhile takes up to a minute; nobody waits for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_hangs() {
    drill("one node hangs", async |drill| {
        drill.nodes.stop(0).await;
        ma01_has_no_quorum(drill).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_datacenter_is_down() {
    drill("all nodes of tx01 killed", async |drill| {
        for node in drill.nodes.nodes_of("tx01") {
            drill.nodes.kill(node).await;
        }
        drill.load.more(150).await;
        assert!(drill.waiting(TX01).await > 0, "tx01 has no node");
        drill.ledger_goes_on(MA01).await;
        drill.kill_ours(TX01).await;
        drill.load.more(150).await;
        drill.ledger_goes_on(MA01).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_whole_cluster_is_down() {
    drill("the whole cluster killed", async |drill| {
        let nodes = drill.nodes.nodes();
        join_all(nodes.iter().map(|node| drill.nodes.kill(node.index))).await;
        drill.load.rest(Duration::ZERO);
        drill.load.more(2_500).await;
        drill.kill_ours(MA01).await;
        drill.load.more(2_500).await;
        let waiting = [drill.waiting(MA01).await, drill.waiting(TX01).await];
        println!("    {waiting:?} wait in the journals");
        assert!(waiting[0] + waiting[1] >= 5_000, "there is no ledger");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_are_killed_one_after_another() {
    drill("nodes killed one after another", async |drill| {
        drill.nodes.kill(0).await;
        for next in 1..drill.nodes.nodes().len() {
            drill.load.more(50).await;
            if next == 2 {
                drill.kill_ours(TX01).await;
            }
            drill.bring_back(&[next - 1]).await;
            drill.nodes.kill(next).await;
        }
        drill.load.more(50).await;
    })
    .await;
}
