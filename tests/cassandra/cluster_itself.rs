//! The test cluster keeps its promises, and `schema/` can be pasted into it.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::errors::{DbError, ExecutionError, RequestAttemptError};
use scylla::response::query_result::QueryResult;
use scylla::statement::{Consistency, Statement};

use crate::cluster::folder::Folder;
use crate::cluster::{Cluster, NodeOptions, Tls, USER, cql};
use crate::harness::until;

/// Makes a child of this test binary start a node, say where it is, and wait to be killed.
const CHILD: &str = "PHYLACTERY_CLUSTER_CHILD";

async fn at(
    session: &Session,
    consistency: Consistency,
    text: &str,
) -> Result<QueryResult, ExecutionError> {
    let mut statement = Statement::new(text);
    statement.set_consistency(consistency);
    session.query_unpaged(statement, ()).await
}

async fn texts(session: &Session, text: &str) -> BTreeSet<String> {
    let answer = at(session, Consistency::LocalOne, text).await;
    let rows = answer.expect("answered").into_rows_result().expect("rows");
    let rows = rows.rows::<(String,)>().expect("one text each");
    rows.map(|row| row.expect("a text").0).collect()
}

/// All that a node holds of a table with a text in its first column, read by tokens.
async fn held(cluster: &Cluster, node: usize, table: &str) -> BTreeSet<String> {
    let session = cluster.session_at(node).await;
    let all = format!("SELECT name FROM {table}");
    let answer = at(&session, Consistency::One, &all)
        .await
        .expect("answered");
    let rows = answer.into_rows_result().expect("rows");
    let rows = rows.rows::<(String,)>().expect("a text each");
    rows.map(|row| row.expect("a text").0).collect()
}

fn insert(keyspace: &str, name: &str) -> String {
    format!("UPDATE {keyspace}.meta SET value = 'x' WHERE name = '{name}'")
}

fn is_unavailable<T>(answer: &Result<T, ExecutionError>) -> bool {
    matches!(
        answer,
        Err(ExecutionError::LastAttemptError(
            RequestAttemptError::DbError(DbError::Unavailable { .. }, _)
        ))
    )
}

#[tokio::test]
async fn four_nodes_in_two_datacenters_see_each_other() {
    let cluster = Cluster::shared().await;
    let _calm = cluster.calm().await;
    assert_eq!(cluster.nodes_of("ma01"), [0, 2]);
    assert_eq!(cluster.nodes_of("tx01"), [1, 3]);
    assert_eq!(cluster.contact_points("tx01").len(), 2);
    for here in 0..4 {
        let session = cluster.session_at(here).await;
        let datacenter = texts(&session, "SELECT data_center FROM system.local").await;
        assert!(datacenter.contains(cluster.nodes()[here].datacenter));
        for there in 0..4 {
            assert!(cluster.sees(here, there).await, "{here} sees {there}");
        }
    }
}

#[tokio::test]
async fn every_keyspace_is_new_and_all_nodes_know_it() {
    let cluster = Cluster::shared().await;
    let _calm = cluster.calm().await;
    let (one, other) = futures::future::join(cluster.keyspace(), cluster.keyspace()).await;
    assert_ne!(one, other);
    let session = cluster.session().await;
    for keyspace in [&one, &other] {
        for node in 0..4 {
            let rows = held(cluster, node, &format!("{keyspace}.meta")).await;
            assert_eq!(rows, BTreeSet::from(["schema".to_owned()]), "node {node}");
        }
        let written = at(&session, Consistency::All, &insert(keyspace, "own")).await;
        written.expect("all nodes have it");
    }
}

#[tokio::test]
async fn a_node_answers_from_its_own_data() {
    let cluster = Cluster::shared().await;
    let _calm = cluster.calm().await;
    let keyspace = cluster.keyspace().await;
    for node in cluster.nodes() {
        let session = cluster.session_at(node.index).await;
        for question in [
            format!("SELECT name FROM {keyspace}.meta"),
            format!("SELECT name FROM {keyspace}.meta WHERE name = 'schema'"),
        ] {
            let mut traced = Statement::new(question.as_str());
            traced.set_consistency(Consistency::One);
            traced.set_tracing(true);
            let answer = session.query_unpaged(traced, ()).await.expect("answered");
            let trace = answer.tracing_id().expect("it was traced");
            let trace = session.get_tracing_info(&trace).await.expect("a trace");
            let asked: BTreeSet<IpAddr> = trace.events.iter().filter_map(|e| e.source).collect();
            assert!(
                asked.iter().eq([&IpAddr::V4(*node.native().ip())]),
                "{question} at {}: {:#?}",
                node.native(),
                trace.events
            );
        }
    }
}

#[tokio::test]
async fn a_killed_node_comes_back_with_what_it_had() {
    let cluster = Cluster::shared().await;
    let alone = cluster.alone().await;
    // Tables and rows of the last moment: the node has to know them again.
    let keyspace = cluster.keyspace().await;
    let table = format!("{keyspace}.meta");
    let there = alone.session_at(1).await;
    let before = at(&there, Consistency::All, &insert(&keyspace, "before")).await;
    before.expect("all nodes are well");
    alone.kill(2).await;
    assert!(!alone.nodes()[2].is_running());

    // The other datacenter does not notice.
    let there = alone.session_at(1).await;
    let during = at(
        &there,
        Consistency::LocalQuorum,
        &insert(&keyspace, "during"),
    )
    .await;
    during.expect("the other datacenter is whole");
    alone.seen_down(2).await;
    let refused = at(&there, Consistency::All, &insert(&keyspace, "refused")).await;
    assert!(is_unavailable(&refused), "{refused:?}");
    // A keyspace can be made meanwhile.
    let second = cluster.keyspace().await;

    alone.start(2).await;
    let held_now = held(&alone, 2, &table).await;
    assert!(held_now.contains("before"), "{held_now:?}");
    for node in 0..4 {
        assert!(alone.sees(node, 2).await && alone.sees(2, node).await);
    }
    let there = alone.session_at(1).await;
    for keyspace in [&keyspace, &second] {
        let after = at(&there, Consistency::All, &insert(keyspace, "after")).await;
        after.expect("all nodes are well again");
    }
}

#[tokio::test]
async fn a_stopped_node_is_noticed_and_goes_on() {
    let cluster = Cluster::shared().await;
    let alone = cluster.alone().await;
    let keyspace = cluster.keyspace().await;
    alone.stop(3).await;
    assert!(alone.nodes()[3].pid().is_some() && !alone.nodes()[3].is_running());
    // It hangs: the connection is taken, nothing is answered.
    TcpStream::connect(alone.nodes()[3].native()).expect("its port is open");
    alone.seen_down(3).await;
    alone.go_on(3).await;
    let session = alone.session_at(0).await;
    let after = at(&session, Consistency::All, &insert(&keyspace, "after")).await;
    after.expect("all nodes are well again");
}

#[tokio::test]
async fn whoever_comes_next_finds_the_nodes_well() {
    let cluster = Cluster::shared().await;
    let alone = cluster.alone().await;
    alone.kill_all(&[0, 2]).await;
    alone.stop(1).await;
    drop(alone);
    let _calm = cluster.calm().await;
    for here in 0..4 {
        for there in 0..4 {
            // One look may be too slow on a busy machine.
            until(&format!("{here} sees {there}"), async || {
                match cluster.sees(here, there).await {
                    true => Ok(()),
                    false => Err("not yet".to_owned()),
                }
            })
            .await;
        }
    }
}

#[tokio::test]
async fn a_node_of_its_own_asks_for_password_and_certificate() {
    let cluster = Cluster::one_node(NodeOptions {
        passwords: true,
        tls: Tls::Mutual,
    })
    .await;
    let keyspace = cluster.keyspace().await;
    let session = cluster.session().await;
    let written = at(&session, Consistency::All, &insert(&keyspace, "row")).await;
    written.expect("user, password and certificate are right");

    let address = cluster.contact_points("ma01").remove(0);
    let impatient = || {
        SessionBuilder::new()
            .known_node(&address)
            .connection_timeout(Duration::from_secs(10))
    };
    let plain = impatient().user(USER.0, USER.1).build().await;
    assert!(plain.is_err(), "plain text is refused");

    let files = cluster.certificates().expect("it has TLS").clone();
    for file in [&files.ca, &files.client_cert, &files.client_key] {
        let text = std::fs::read_to_string(file).expect("a file");
        assert!(text.starts_with("-----BEGIN "), "{}", file.display());
    }
    let tls = || Some(files.client());
    let stranger = impatient().tls_context(tls()).user(USER.0, "guessed");
    let refused = stranger.build().await.expect_err("a wrong password");
    assert!(
        refused.to_string().contains("Authentication failed"),
        "{refused}"
    );
    let right = impatient().tls_context(tls()).user(USER.0, USER.1);
    right.build().await.expect("all is right");
}

#[tokio::test]
async fn run_to_be_killed() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let cluster = Cluster::one_node(NodeOptions::default()).await;
    let node = &cluster.nodes()[0];
    let pid = node.pid().expect("it runs");
    println!(
        "\nready {pid} {} {}",
        node.native(),
        cluster.folder().display()
    );
    std::future::pending::<()>().await;
}

/// Whether a process is there and is more than a number that nobody asked for yet.
fn lives(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.contains(") Z ") && !stat.contains(") X "))
}

#[test]
fn nothing_is_left_of_a_run_that_was_killed() {
    let mut run = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "cluster_itself::run_to_be_killed", "--nocapture"])
        .env(CHILD, "1")
        .stdout(Stdio::piped())
        .spawn()
        .expect("started");
    let said = BufReader::new(run.stdout.take().expect("piped"));
    let ready = said.lines().map(|line| line.expect("text"));
    let ready = ready.into_iter().find(|line| line.starts_with("ready "));
    let ready = ready.expect("the run starts a node");
    let words: Vec<&str> = ready.split(' ').collect();
    let (pid, address, folder) = (words[1], words[2], Path::new(words[3]));
    assert!(lives(pid) && folder.exists());
    TcpStream::connect(address).expect("the node listens");

    run.kill().expect("kill -9");
    run.wait().expect("it ends");
    let deadline = Instant::now() + Duration::from_secs(60);
    // Its number goes first, what it held with its last thread.
    while lives(pid) || TcpStream::connect(address).is_ok() {
        assert!(Instant::now() < deadline, "the node {pid} is still there");
        std::thread::sleep(Duration::from_millis(10));
    }
    let _next = Folder::new().expect("the next run begins");
    assert!(!folder.exists(), "the next run removes what lay on disk");
}

/// Where cqlsh is, or one line that says how to get it.
fn cqlsh() -> PathBuf {
    if let Some(named) = std::env::var_os("PHYLACTERY_TEST_CQLSH") {
        return named.into();
    }
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/venv/bin/cqlsh");
    match ours.exists() {
        true => ours,
        false => panic!(
            "no cqlsh: run tests/run, or `pip install cqlsh` and set PHYLACTERY_TEST_CQLSH to its path"
        ),
    }
}

/// All that makes the tables of a keyspace what they are.
async fn described(session: &Session, keyspace: &str) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for (table, columns) in [
        (
            "tables",
            "table_name, default_time_to_live, gc_grace_seconds, compaction",
        ),
        (
            "columns",
            "table_name, column_name, kind, position, clustering_order, type",
        ),
        ("types", "type_name, field_names, field_types"),
    ] {
        let text = format!(
            "SELECT JSON {columns} FROM system_schema.{table} WHERE keyspace_name = '{keyspace}'"
        );
        all.extend(texts(session, &text).await);
    }
    all
}

#[tokio::test]
async fn the_schema_can_be_pasted_twice() {
    let cluster = Cluster::shared().await;
    let _calm = cluster.calm().await;
    let (home, point) = (
        tempfile::tempdir().expect("a folder"),
        cluster.nodes()[0].native(),
    );
    let keyspace = "pasted";
    for round in ["first", "second"] {
        for file in cql::files() {
            // Under another name, as other tests are here too.
            let text = std::fs::read_to_string(&file).expect("a file of schema/");
            let text = text.replace("phylactery", keyspace);
            let paste = home.path().join(file.file_name().expect("it has a name"));
            std::fs::write(&paste, text).expect("written");
            let pasted = tokio::process::Command::new(cqlsh())
                .args([&point.ip().to_string(), &point.port().to_string()])
                .args(["--connect-timeout=30", "--request-timeout=60", "-f"])
                .arg(&paste)
                // Where it would leave a history.
                .env("HOME", home.path())
                .output()
                .await
                .expect("cqlsh starts");
            let said = String::from_utf8_lossy(&pasted.stderr);
            assert!(
                pasted.status.success(),
                "{}, the {round} time: {said}",
                file.display()
            );
        }
    }
    // What it made is what tests get, and so what the splitter of statements made of the same files.
    let session = cluster.session_at(0).await;
    let own = cluster.keyspace().await;
    let (pasted, own) = (
        described(&session, keyspace).await,
        described(&session, &own).await,
    );
    assert!(!pasted.is_empty());
    assert_eq!(pasted, own);
}

#[test]
fn statements_end_at_semicolons_outside_of_quotes_and_comments() {
    let text = "-- a comment; with 'a quote\nSELECT 1 FROM a -- more; of it\n WHERE b = 'it''s; -- no comment'; /* one; \
                two */ SELECT \"odd;name\" FROM c;\n// last; one\nCREATE FUNCTION f $$ a; 'b $$;\n;;  \nSELECT 'ä;' FROM d";
    assert_eq!(
        cql::statements(text),
        [
            "SELECT 1 FROM a  \n WHERE b = 'it''s; -- no comment'",
            "SELECT \"odd;name\" FROM c",
            "CREATE FUNCTION f $$ a; 'b $$",
            "SELECT 'ä;' FROM d",
        ]
    );
    assert!(cql::statements("-- nothing").is_empty());
    assert_eq!(cql::statements("SELECT 'open"), ["SELECT 'open"]);
}

#[test]
fn the_schema_is_read_without_the_statements_that_name_a_keyspace() {
    let schema = cql::schema();
    assert!(schema.len() > 10);
    for statement in &schema {
        let known = ["CREATE TYPE ", "CREATE TABLE ", "ALTER ", "UPDATE "];
        assert!(
            known.iter().any(|start| statement.starts_with(start)),
            "{statement}"
        );
    }
}
