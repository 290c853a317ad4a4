//! Real processes on the cluster, and what a test does to them from outside: raw CQL, a client's put, a person's yes.

use std::process::Command;
use std::time::Duration;

use phylactery::config::CassandraConfig;
use scylla::statement::{Consistency, Statement};
use serde_json::Value;

use crate::cluster::Cluster;
use crate::harness::{self, LedgerAt, Mogile, Site, until};
use crate::support::config;

pub const DOMAIN: &str = "photos";

/// Two heartbeats and several looks of every worker: what repair was to bring would be here by then.
const WELL_AFTER: Duration = Duration::from_secs(3);

/// The ledger's configuration in each of the two datacenters.
pub fn both(cluster: &Cluster, keyspace: &str) -> Vec<CassandraConfig> {
    ["ma01", "tx01"]
        .map(|name| config(cluster, name, keyspace))
        .to_vec()
}

/// Both trackers, and the files of both processes; no process runs.
pub async fn prepared(cluster: &Cluster, keyspace: &str) -> harness::Cluster {
    let home = tempfile::tempdir().unwrap();
    let ledger = LedgerAt::Cassandra(both(cluster, keyspace));
    harness::Cluster::prepare_on(home, ledger, "").await
}

/// Runs a statement on every node that holds what it touches.
pub async fn cql(cluster: &Cluster, text: &str) {
    cql_at(cluster, text, Consistency::All).await;
}

pub async fn cql_at(cluster: &Cluster, text: &str, consistency: Consistency) {
    let mut statement = Statement::new(text);
    statement.set_consistency(consistency);
    let session = cluster.session().await;
    let done = session.query_unpaged(statement, ()).await;
    done.unwrap_or_else(|why| panic!("{text}: {why}"));
}

/// Waits until all nodes have the same schema.
pub async fn agreed(cluster: &Cluster) {
    until("the nodes agree on the schema", async || {
        let mut versions = Vec::new();
        for node in 0..cluster.nodes().len() {
            let session = cluster.session_at(node).await;
            let row = session
                .query_unpaged("SELECT schema_version FROM system.local", ())
                .await
                .map_err(|why| why.to_string())?;
            let row = row.into_rows_result().map_err(|why| why.to_string())?;
            let (version,) = row
                .single_row::<(uuid::Uuid,)>()
                .map_err(|why| why.to_string())?;
            versions.push(version);
        }
        match versions.windows(2).all(|two| two[0] == two[1]) {
            true => Ok(()),
            false => Err(format!("{versions:?}")),
        }
    })
    .await;
}

/// Stores a file under a key whose bytes are the key, through the proxy, and reads it there.
pub async fn put(site: &Site, key: &str) {
    let mut mogile = Mogile::connect(site.proxy).await.unwrap();
    let bytes = key.as_bytes();
    mogile.store(DOMAIN, bytes, "", bytes).await.unwrap();
    assert_eq!(mogile.fetch(DOMAIN, bytes).await.unwrap(), bytes);
}

/// Waits until the tracker of `site` has the file of [`put`].
pub async fn comes(site: &Site, key: &str) {
    until(&format!("{key} comes to {}", site.name), async || {
        let files = site.files(DOMAIN).await?;
        match files.get(key.as_bytes()) {
            Some(bytes) if bytes == key.as_bytes() => Ok(()),
            other => Err(format!("{other:?}, {}", the_status(site).await)),
        }
    })
    .await;
}

pub async fn does_not_come(site: &Site, key: &str) {
    tokio::time::sleep(WELL_AFTER).await;
    let files = site.files(DOMAIN).await.unwrap();
    assert!(
        !files.contains_key(key.as_bytes()),
        "{key} came to {}",
        site.name
    );
}

async fn the_status(site: &Site) -> String {
    let status = site.get("/v1/status").await;
    status.map_or_else(|why| why, |status| format!("{status:#}"))
}

/// Waits until status says what is wanted; the status.
pub async fn says(site: &Site, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    until(
        &format!("{what} in the status of {}", site.name),
        async || {
            let status = site.get("/v1/status").await?;
            match wanted(&status) {
                true => Ok(status),
                false => Err(format!("{status:#}")),
            }
        },
    )
    .await
}

/// All that the process has written.
pub fn log(site: &Site) -> String {
    std::fs::read_to_string(site.folder.join("node.log")).unwrap()
}

/// Waits until a line of the log has all of these words in it; the line.
pub async fn logs(site: &Site, words: &[&str]) -> String {
    until(
        &format!("{words:?} in the log of {}", site.name),
        async || {
            let log = log(site);
            let mut lines = log.lines();
            let found = lines.find(|line| words.iter().all(|word| line.contains(word)));
            found.map(str::to_owned).ok_or(log.clone())
        },
    )
    .await
}

/// Runs the program to its end: standard output and standard error together, and whether it has succeeded.
pub fn program(arguments: &[&str], environment: &[(&str, &str)]) -> (String, bool) {
    let output = Command::new(env!("CARGO_BIN_EXE_phylactery"))
        .args(arguments)
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (String::from_utf8(said).unwrap(), output.status.success())
}

/// What a person does about a doubt: looks, and says yes.
pub fn accept(site: &Site) -> String {
    let api = format!("http://{}", site.api);
    let (shown, good) = program(&["accept", "--api", &api], &[]);
    assert!(good && shown.contains("Nothing is changed"), "{shown}");
    let (said, good) = program(&["accept", "--api", &api, "--yes"], &[]);
    assert!(good, "{said}");
    said
}

/// Waits for a doubt of this kind; its JSON.
pub async fn doubts(site: &Site, kind: &str) -> Value {
    let status = says(site, kind, |status| status["doubt"]["kind"] == kind).await;
    assert_eq!(status["in_sync"], false, "{status:#}");
    for worker in status["repair"]["workers"].as_array().unwrap() {
        assert_eq!(worker["state"], "stopped", "{status:#}");
    }
    status["doubt"].clone()
}

pub async fn is_trusted(site: &Site) {
    says(site, "no doubt", |status| status["doubt"].is_null()).await;
}
