//! Ledger and journal disagree, on the real cluster: clients go on, repair stops with a message until a person has spoken, and then all
//! converges. Every kind of it is tested on the embedded ledger; here it is what a keyspace, restored or emptied, makes of them.

use std::path::Path;

use crate::cluster::Cluster;
use crate::harness::{self, Process, Site, free_ports};
use crate::outside::{
    accept, comes, cql, does_not_come, doubts, is_trusted, logs, prepared, put, says,
};

/// Both run, and each has seen the other.
async fn running(cluster: &Cluster, keyspace: &str) -> harness::Cluster {
    let mut sites = prepared(cluster, keyspace).await;
    for site in sites.sites() {
        site.start_node().await;
    }
    put(&sites.ma01, "before").await;
    comes(&sites.tx01, "before").await;
    sites.settled().await;
    sites
}

#[tokio::test(flavor = "multi_thread")]
async fn the_keyspace_is_set_back() {
    let cluster = Cluster::shared().await;
    let _calm = cluster.calm().await;
    let keyspace = &cluster.keyspace().await;
    let mut sites = running(cluster, keyspace).await;
    for site in sites.sites() {
        // A word of each that says more, after one that is certain to be known to have arrived.
        put(site, &format!("after_{}", site.name)).await;
    }
    sites.settled().await;
    sites.sites().into_iter().for_each(|site| {
        site.node().terminate();
    });
    // What a restored backup shows, or another cluster: no word of anybody.
    cql(cluster, &format!("TRUNCATE {keyspace}.nodes")).await;
    for site in sites.sites() {
        site.start_node().await;
    }
    for site in [&sites.ma01, &sites.tx01] {
        let doubt = doubts(site, "ledger_stepped_back").await;
        let is = doubt["is"].as_str().unwrap();
        assert!(
            is.contains("the ledger does not know this node's journal"),
            "{is}"
        );
        logs(site, &["repair has stopped in", "phylactery accept --api"]).await;
    }
    put(&sites.ma01, "in_doubt").await;
    does_not_come(&sites.tx01, "in_doubt").await;
    accept(&sites.tx01);
    comes(&sites.tx01, "in_doubt").await;
    accept(&sites.ma01);
    put(&sites.tx01, "afterwards").await;
    comes(&sites.ma01, "afterwards").await;
    for site in [&sites.ma01, &sites.tx01] {
        is_trusted(site).await;
    }
    sites.settled().await;
    sites.same_files("photos").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_folder_is_deleted() {
    let cluster = Cluster::shared().await;
    let _calm = cluster.calm().await;
    let keyspace = &cluster.keyspace().await;
    let mut sites = running(cluster, keyspace).await;
    sites.tx01.node().terminate();
    std::fs::remove_dir_all(sites.tx01.folder.join("journal")).unwrap();
    put(&sites.ma01, "meanwhile").await;
    sites.tx01.start_node().await;
    let doubt = doubts(&sites.tx01, "other_journal").await;
    assert!(doubt["is"].as_str().unwrap().contains("folder lost"));
    put(&sites.tx01, "in_doubt").await;
    // Delivery goes on, by the new stream.
    comes(&sites.ma01, "in_doubt").await;
    does_not_come(&sites.tx01, "meanwhile").await;
    accept(&sites.tx01);
    comes(&sites.tx01, "meanwhile").await;
    is_trusted(&sites.tx01).await;
    // ma01 has scanned for what the lost journal had not told.
    logs(&sites.ma01, &["this node has another journal now"]).await;
    says(&sites.ma01, "in sync", |status| status["in_sync"] == true).await;
    sites.settled().await;
    sites.same_files("photos").await;
}

/// A second process of ma01 on the same tracker that has been given the same name, with a journal of its own.
async fn start_twin(sites: &harness::Cluster) -> (Site, Process) {
    let [proxy, api] = free_ports();
    let folder = sites.home().join("twin");
    std::fs::create_dir(&folder).unwrap();
    let ma01 = &sites.ma01;
    let at = |port: u16| std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let first = std::fs::read_to_string(ma01.folder.join("phylactery.toml")).unwrap();
    let config = first
        .replace(&ma01.proxy.to_string(), &at(proxy).to_string())
        .replace(&ma01.api.to_string(), &at(api).to_string());
    assert_ne!(config, first);
    let path = folder.join("phylactery.toml");
    std::fs::write(&path, config).unwrap();
    let process = start(&folder, &path);
    let twin = Site {
        name: ma01.name.clone(),
        folder,
        proxy: at(proxy),
        api: at(api),
        tracker: ma01.tracker,
        storage: ma01.storage,
        tracker_process: None,
        node_process: None,
        node_environment: Vec::new(),
    };
    (twin, process)
}

fn start(folder: &Path, config: &Path) -> Process {
    let args = ["run", "--config", config.to_str().unwrap()];
    Process::start("twin of ma01", &folder.join("node.log"), &args, &[])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_used_twice() {
    let cluster = Cluster::shared().await;
    let _calm = cluster.calm().await;
    let keyspace = &cluster.keyspace().await;
    let sites = running(cluster, keyspace).await;
    let (twin, mut process) = start_twin(&sites).await;
    for site in [&sites.ma01, &twin] {
        let doubt = doubts(site, "name_used_twice").await;
        let is = doubt["is"].as_str().unwrap();
        assert!(
            is.contains("give each process a datacenter.node of its own"),
            "{is}"
        );
    }
    put(&sites.ma01, "by_the_first").await;
    put(&twin, "by_the_second").await;
    for key in ["by_the_first", "by_the_second"] {
        comes(&sites.tx01, key).await;
    }
    put(&sites.tx01, "elsewhere").await;
    does_not_come(&sites.ma01, "elsewhere").await;
    process.terminate();
    accept(&sites.ma01);
    comes(&sites.ma01, "elsewhere").await;
    is_trusted(&sites.ma01).await;
    sites.settled().await;
    sites.same_files("photos").await;
}
