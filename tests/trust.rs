//! Where ledger and journal disagree about a node: clients go on, repair stops until a person has spoken, and then all converges.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod harness;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use harness::{Cluster, Mogile, Process, Site, free_ports, until};
use serde_json::Value;

const DOMAIN: &str = "photos";

async fn put(site: &Site, key: &str) {
    let mut mogile = Mogile::connect(site.proxy).await.unwrap();
    mogile
        .store(DOMAIN, key.as_bytes(), "", key.as_bytes())
        .await
        .unwrap();
    let read = mogile.fetch(DOMAIN, key.as_bytes()).await.unwrap();
    assert_eq!(read, key.as_bytes());
}

/// Waits until the tracker of `site` has the file.
async fn comes(site: &Site, key: &str) {
    until(&format!("{key} comes to {}", site.name), async || {
        let files = site.files(DOMAIN).await?;
        match files.get(key.as_bytes()) {
            Some(bytes) if bytes == key.as_bytes() => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

/// Two heartbeats and several looks of every worker: what repair was to bring would be here by then.
const WELL_AFTER: Duration = Duration::from_secs(3);

async fn does_not_come(site: &Site, key: &str) {
    tokio::time::sleep(WELL_AFTER).await;
    let files = site.files(DOMAIN).await.unwrap();
    assert!(
        !files.contains_key(key.as_bytes()),
        "repair goes on in {}",
        site.name
    );
}

/// Waits for a doubt of this kind; its JSON.
async fn doubts(site: &Site, kind: &str) -> Value {
    until(&format!("{kind} in {}", site.name), async || {
        let status = site.get("/v1/status").await?;
        let doubt = status["doubt"].clone();
        if doubt["kind"] != kind {
            return Err(format!("{status:#}"));
        }
        assert_eq!(status["in_sync"], false, "{status:#}");
        for worker in status["repair"]["workers"].as_array().unwrap() {
            assert_eq!(worker["state"], "stopped", "{status:#}");
        }
        Ok(doubt)
    })
    .await
}

async fn is_trusted(site: &Site) {
    until(&format!("no doubt in {}", site.name), async || {
        let status = site.get("/v1/status").await?;
        match &status["doubt"] {
            Value::Null => Ok(()),
            doubt => Err(doubt.to_string()),
        }
    })
    .await;
}

/// What a person does: looks, and says yes.
fn accept(site: &Site) -> String {
    let api = format!("http://{}", site.api);
    let ask = |more: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_phylactery"))
            .args(["accept", "--api", &api])
            .args(more)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let shown = ask(&[]);
    assert!(shown.contains("Nothing is changed"), "{shown}");
    ask(&["--yes"])
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// The ledger's file with what belongs to it, as a backup while nobody writes.
fn ledger_files(cluster: &Cluster) -> Vec<PathBuf> {
    ["", "-wal", "-shm"]
        .iter()
        .map(|end| PathBuf::from(format!("{}{end}", cluster.ledger_path().display())))
        .collect()
}

fn stop(site: &mut Site) {
    site.node().terminate();
}

async fn converges(cluster: &Cluster, keys: &[&str]) {
    cluster.settled().await;
    let files = cluster.same_files(DOMAIN).await;
    let there: Vec<&[u8]> = files.keys().map(Vec::as_slice).collect();
    let mut wanted: Vec<&[u8]> = keys.iter().map(|key| key.as_bytes()).collect();
    wanted.sort_unstable();
    assert_eq!(there, wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn restarts_and_kills_are_no_doubt() {
    let mut cluster = Cluster::start("").await;
    put(&cluster.ma01, "a").await;
    comes(&cluster.tx01, "a").await;
    for round in 0..5 {
        for site in cluster.sites() {
            if round % 2 == 0 {
                site.node().kill();
            } else {
                stop(site);
            }
            site.start_node().await;
        }
        let key = format!("after {round}");
        put(&cluster.ma01, &key).await;
        comes(&cluster.tx01, &key).await;
        for site in cluster.sites() {
            let status = site.get("/v1/status").await.unwrap();
            assert_eq!(status["doubt"], Value::Null, "{status:#}");
        }
    }
    // Ready, and says so.
    let ready = cluster.ma01.ready().await.unwrap();
    assert_eq!(ready, (true, "ready\n".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_restored_from_an_old_copy() {
    let mut cluster = Cluster::start("").await;
    put(&cluster.ma01, "before").await;
    comes(&cluster.tx01, "before").await;
    cluster.settled().await;
    cluster.sites().into_iter().for_each(stop);
    let backup = cluster.home().join("backup");
    std::fs::create_dir(&backup).unwrap();
    for file in ledger_files(&cluster).iter().filter(|file| file.exists()) {
        std::fs::copy(file, backup.join(file.file_name().unwrap())).unwrap();
    }
    for site in cluster.sites() {
        site.start_node().await;
    }
    put(&cluster.ma01, "meanwhile").await;
    comes(&cluster.tx01, "meanwhile").await;
    cluster.settled().await;
    // A word of each node after that one is certain to be known to have arrived.
    tokio::time::sleep(WELL_AFTER).await;
    cluster.sites().into_iter().for_each(stop);
    for file in ledger_files(&cluster) {
        let saved = backup.join(file.file_name().unwrap());
        let _not_there = std::fs::remove_file(&file);
        if saved.exists() {
            std::fs::copy(saved, &file).unwrap();
        }
    }
    for site in cluster.sites() {
        site.start_node().await;
    }
    for site in [&cluster.ma01, &cluster.tx01] {
        let doubt = doubts(site, "ledger_stepped_back").await;
        assert!(
            doubt["is"]
                .as_str()
                .unwrap()
                .contains("restored from a backup")
        );
    }
    put(&cluster.ma01, "in doubt").await;
    does_not_come(&cluster.tx01, "in doubt").await;
    // It survives a restart, and is told in the log each time, once.
    stop(&mut cluster.tx01);
    cluster.tx01.start_node().await;
    doubts(&cluster.tx01, "ledger_stepped_back").await;
    let log = std::fs::read_to_string(cluster.tx01.folder.join("node.log")).unwrap();
    let told = log
        .matches("repair has stopped in tx01, and clients are served")
        .count();
    assert_eq!(told, 2, "{log}");
    does_not_come(&cluster.tx01, "in doubt").await;

    assert!(accept(&cluster.tx01).contains("repair goes on"));
    comes(&cluster.tx01, "in doubt").await;
    assert!(accept(&cluster.ma01).contains("repair goes on"));
    put(&cluster.tx01, "afterwards").await;
    comes(&cluster.ma01, "afterwards").await;
    for site in [&cluster.ma01, &cluster.tx01] {
        is_trusted(site).await;
        // What both have and the ledger has forgotten stays.
        assert!(
            site.files(DOMAIN)
                .await
                .unwrap()
                .contains_key(&b"meanwhile"[..])
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_was_lost() {
    let mut cluster = Cluster::start("").await;
    put(&cluster.ma01, "before").await;
    comes(&cluster.tx01, "before").await;
    cluster.settled().await;
    stop(&mut cluster.tx01);
    std::fs::remove_dir_all(cluster.tx01.folder.join("journal")).unwrap();
    put(&cluster.ma01, "meanwhile").await;
    cluster.tx01.start_node().await;
    let doubt = doubts(&cluster.tx01, "other_journal").await;
    assert!(doubt["is"].as_str().unwrap().contains("folder lost"));
    // Nobody may say "in sync" as of later than the lost journal was heard.
    until(
        "its word counts the lost journal as undelivered",
        async || {
            let nodes = cluster
                .ledger()
                .await
                .nodes()
                .await
                .map_err(|why| why.to_string())?;
            let (lost, new): (Vec<_>, Vec<_>) = nodes
                .into_iter()
                .filter(|node| node.stream.datacenter == cluster.tx01.name)
                .partition(|node| {
                    doubt["is"]
                        .as_str()
                        .unwrap()
                        .contains(&node.stream.incarnation)
                });
            match (&lost[..], &new[..]) {
                ([lost], [new]) if new.oldest_undelivered == Some(lost.heartbeat) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        },
    )
    .await;
    put(&cluster.tx01, "in doubt").await;
    // Delivery goes on, by the new stream.
    comes(&cluster.ma01, "in doubt").await;
    does_not_come(&cluster.tx01, "meanwhile").await;
    // It is found again.
    cluster.tx01.node().kill();
    cluster.tx01.start_node().await;
    doubts(&cluster.tx01, "other_journal").await;
    accept(&cluster.tx01);
    comes(&cluster.tx01, "meanwhile").await;
    converges(&cluster, &["before", "in doubt", "meanwhile"]).await;
    // It is accepted for good.
    stop(&mut cluster.tx01);
    cluster.tx01.start_node().await;
    put(&cluster.ma01, "afterwards").await;
    comes(&cluster.tx01, "afterwards").await;
    is_trusted(&cluster.tx01).await;
}

/// The journal's clock is lost with it: what is changed now is newer than what it had stamped all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_was_lost_with_a_clock_that_was_ahead() {
    let mut cluster = Cluster::start("").await;
    put(&cluster.ma01, "before").await;
    comes(&cluster.tx01, "before").await;
    stop(&mut cluster.tx01);
    cluster.tx01.node_environment = vec![(
        "PHYLACTERY_FAILPOINTS".to_owned(),
        "clock::ahead=return(2400)".to_owned(),
    )];
    cluster.tx01.start_node().await;
    put(&cluster.tx01, "theirs").await;
    comes(&cluster.ma01, "theirs").await;
    put(&cluster.tx01, "removed").await;
    comes(&cluster.ma01, "removed").await;
    stop(&mut cluster.tx01);
    std::fs::remove_dir_all(cluster.tx01.folder.join("journal")).unwrap();
    cluster.tx01.node_environment.clear();
    cluster.tx01.start_node().await;
    doubts(&cluster.tx01, "other_journal").await;
    // Nobody but the ledger knows by now where that clock stood.
    let mut mogile = Mogile::connect(cluster.tx01.proxy).await.unwrap();
    mogile.delete(DOMAIN, b"removed").await.unwrap();
    until("the delete is in ma01", async || {
        let files = cluster.ma01.files(DOMAIN).await?;
        match files.contains_key(&b"removed"[..]) {
            false => Ok(()),
            true => Err(format!(
                "{:#}",
                cluster.ma01.get("/v1/files/photos/removed").await?
            )),
        }
    })
    .await;
    accept(&cluster.tx01);
    converges(&cluster, &["before", "theirs"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_restored_from_an_old_copy_uses_no_number_twice() {
    let mut cluster = Cluster::start("").await;
    put(&cluster.ma01, "before").await;
    comes(&cluster.tx01, "before").await;
    stop(&mut cluster.ma01);
    let (journal, backup) = (
        cluster.ma01.folder.join("journal"),
        cluster.ma01.folder.join("backup"),
    );
    copy(&journal, &backup);
    cluster.ma01.start_node().await;
    for n in 0..5 {
        put(&cluster.ma01, &format!("delivered {n}")).await;
        comes(&cluster.tx01, &format!("delivered {n}")).await;
    }
    cluster.settled().await;
    cluster.ma01.node().kill();
    std::fs::remove_dir_all(&journal).unwrap();
    copy(&backup, &journal);
    put(&cluster.tx01, "elsewhere").await;
    cluster.ma01.start_node().await;
    // At once, before or after the ledger was looked at: in the old stream these numbers had been passed.
    for n in 0..5 {
        put(&cluster.ma01, &format!("in doubt {n}")).await;
    }
    let doubt = doubts(&cluster.ma01, "journal_stepped_back").await;
    assert!(
        doubt["is"]
            .as_str()
            .unwrap()
            .contains("restored from a backup")
    );
    for n in 0..5 {
        comes(&cluster.tx01, &format!("in doubt {n}")).await;
    }
    does_not_come(&cluster.ma01, "elsewhere").await;
    // Also after a restart.
    cluster.ma01.node().kill();
    cluster.ma01.start_node().await;
    doubts(&cluster.ma01, "journal_stepped_back").await;
    accept(&cluster.ma01);
    comes(&cluster.ma01, "elsewhere").await;
    let mut keys = vec!["before".to_owned(), "elsewhere".to_owned()];
    for n in 0..5 {
        keys.extend([format!("delivered {n}"), format!("in doubt {n}")]);
    }
    converges(
        &cluster,
        &keys.iter().map(String::as_str).collect::<Vec<_>>(),
    )
    .await;
    is_trusted(&cluster.ma01).await;
}

/// A second process of ma01 on the same tracker that has been given the same name, with a journal of its own or a copy of this one.
async fn start_twin(cluster: &Cluster, journal: Option<&Path>) -> (Site, Process) {
    let [proxy, api] = free_ports();
    let folder = cluster.home().join("twin");
    std::fs::create_dir(&folder).unwrap();
    if let Some(journal) = journal {
        copy(journal, &folder.join("journal"));
    }
    let first = std::fs::read_to_string(cluster.ma01.folder.join("phylactery.toml")).unwrap();
    let config = first
        .replace(
            &cluster.ma01.proxy.to_string(),
            &format!("127.0.0.1:{proxy}"),
        )
        .replace(&cluster.ma01.api.to_string(), &format!("127.0.0.1:{api}"));
    assert_ne!(config, first);
    let path = folder.join("phylactery.toml");
    std::fs::write(&path, config).unwrap();
    let args = ["run", "--config", path.to_str().unwrap()];
    let process = Process::start("twin of ma01", &folder.join("node.log"), &args, &[]);
    let twin = Site {
        name: cluster.ma01.name.clone(),
        folder,
        proxy: format!("127.0.0.1:{proxy}").parse().unwrap(),
        api: format!("127.0.0.1:{api}").parse().unwrap(),
        tracker: cluster.ma01.tracker,
        storage: cluster.ma01.storage,
        tracker_process: None,
        node_process: None,
        node_environment: Vec::new(),
    };
    (twin, process)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_used_twice() {
    let cluster = Cluster::start("").await;
    put(&cluster.ma01, "before").await;
    comes(&cluster.tx01, "before").await;
    let (twin, mut process) = start_twin(&cluster, None).await;
    for site in [&cluster.ma01, &twin] {
        let doubt = doubts(site, "name_used_twice").await;
        assert!(
            doubt["is"]
                .as_str()
                .unwrap()
                .contains("datacenter.node of its own")
        );
    }
    put(&cluster.ma01, "by the first").await;
    put(&twin, "by the second").await;
    for key in ["by the first", "by the second"] {
        comes(&cluster.tx01, key).await;
    }
    put(&cluster.tx01, "elsewhere").await;
    does_not_come(&cluster.ma01, "elsewhere").await;
    // Accepted while the other one goes on speaking, it is in doubt again.
    let first = doubts(&cluster.ma01, "name_used_twice").await;
    accept(&cluster.ma01);
    let again = doubts(&cluster.ma01, "name_used_twice").await;
    assert_ne!(first["id"], again["id"]);
    process.terminate();
    accept(&cluster.ma01);
    comes(&cluster.ma01, "elsewhere").await;
    converges(
        &cluster,
        &["before", "by the first", "by the second", "elsewhere"],
    )
    .await;
    tokio::time::sleep(WELL_AFTER).await;
    is_trusted(&cluster.ma01).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_journal_copied_to_a_second_process() {
    let mut cluster = Cluster::start("").await;
    put(&cluster.ma01, "before").await;
    comes(&cluster.tx01, "before").await;
    stop(&mut cluster.ma01);
    let journal = cluster.ma01.folder.join("journal");
    let copied = cluster.home().join("copied");
    copy(&journal, &copied);
    cluster.ma01.start_node().await;
    put(&cluster.ma01, "by the first").await;
    let (twin, mut process) = start_twin(&cluster, Some(&copied)).await;
    doubts(&twin, "journal_stepped_back").await;
    doubts(&cluster.ma01, "name_used_twice").await;
    put(&cluster.ma01, "by the first again").await;
    put(&twin, "by the second").await;
    let keys = [
        "before",
        "by the first",
        "by the first again",
        "by the second",
    ];
    for key in keys {
        comes(&cluster.tx01, key).await;
    }
    process.terminate();
    accept(&cluster.ma01);
    is_trusted(&cluster.ma01).await;
    converges(&cluster, &keys).await;
}
