//! Rows that this program did not write: each is named in a log line and in status, and parked; everything else goes on, and nobody panics.

use std::time::{SystemTime, UNIX_EPOCH};

use phylactery::file::{Datacenter, FileName};
use phylactery::ledger::embedded::token;
use phylactery::ledger::{
    About, Change, Cursor, Expected, FileWrite, Gap, Ledger, NodeRecord, StreamId, Strength,
};
use phylactery::version::Version;
use serde_json::Value;

use crate::cluster::Cluster;
use crate::harness::{self, Site, until};
use crate::outside::{DOMAIN, comes, cql, log, logs, prepared, program, put, says};
use crate::support;

/// A timestamp that is above what a process has written until now, and below what it writes from now on.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    since.as_micros() as i64
}

/// What ma01 calls its stream.
async fn stream_of_ma01(sites: &harness::Cluster) -> StreamId {
    let nodes = sites.ledger().await.nodes().await.unwrap();
    let mut ma01 = nodes.into_iter().map(|node: NodeRecord| node.stream);
    ma01.find(|stream| stream.datacenter == sites.ma01.name)
        .expect("it has spoken")
}

/// Waits until the ledger has all that was stored in `site`.
async fn delivered(site: &Site) {
    says(site, "an empty journal", |status| {
        status["journal"]["depth"] == 0
    })
    .await;
}

/// Waits until a file is parked in `site` for a reason that says this, as `phylactery gaps` shows it.
async fn parks(site: &Site, key: &str, why: &str) {
    let api = format!("http://{}", site.api);
    until(
        &format!("{key} parked in {} because of {why:?}", site.name),
        async || {
            let gaps = site.get("/v1/gaps?limit=1000").await?;
            let all = gaps["gaps"].as_array().ok_or(gaps.to_string())?;
            let ours = all.iter().find(|gap| gap["key"] == key);
            match ours.and_then(|gap| gap["last_error"].as_str()) {
                Some(said) if said.contains(why) => Ok(()),
                _ => Err(format!("{gaps:#}")),
            }
        },
    )
    .await;
    let (said, good) = program(&["gaps", "--api", &api], &[]);
    assert!(good && said.contains(key), "{said}");
}

/// A `head` of a put by somebody, with these fields instead of the usual ones.
fn head(version: i64, instead: &[(&str, &str)]) -> String {
    let version = version.to_string();
    let mut fields = vec![
        ("version", version.as_str()),
        ("put", "true"),
        ("origin", "'ma01'"),
        ("node", "'node1'"),
        ("content_version", version.as_str()),
        ("content_origin", "'ma01'"),
        ("content_node", "'node1'"),
        ("size", "4"),
        ("fid", "1"),
    ];
    for (name, value) in instead {
        fields
            .iter_mut()
            .filter(|field| field.0 == *name)
            .for_each(|field| field.1 = value);
    }
    let fields: Vec<String> = fields
        .iter()
        .map(|(name, value)| format!("{name}: {value}"))
        .collect();
    format!("{{{}}}", fields.join(", "))
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_rows_of_files_are_parked_by_name_and_the_rest_goes_on() {
    let cluster = Cluster::shared().await;
    let _calm = cluster.calm().await;
    let keyspace = &cluster.keyspace().await;
    let mut sites = prepared(cluster, keyspace).await;
    sites.ma01.start_node().await;
    let bad = [
        "no_put",
        "no_name",
        "no_datacenter",
        "strange_class",
        "of_nobody",
    ];
    for key in bad.iter().chain(&["seen_by_mars", "before"]) {
        put(&sites.ma01, key).await;
    }
    delivered(&sites.ma01).await;
    let set = async |key: &str, cell: &str, value: &str| {
        let now = now();
        cql(
            cluster,
            &format!(
                "UPDATE {keyspace}.files USING TIMESTAMP {now} SET {cell} = {value} WHERE domain = '{DOMAIN}' AND key = '{key}'"
            ),
        )
        .await;
    };
    set("no_put", "head", &head(now(), &[("put", "null")])).await;
    set("no_name", "head", &head(now(), &[("origin", "'MA 01!'")])).await;
    set(
        "no_datacenter",
        "replicas['MA 01!']",
        "{since: 1, holds: false}",
    )
    .await;
    let class = format!(
        "{{version: {}, content_version: 1, content_origin: 'ma01', content_node: 'node1', class_name: 'my class'}}",
        now()
    );
    set("strange_class", "class_cell", &class).await;
    // A name like any other, of a datacenter that nobody has heard of: beside a good copy it is no harm, alone it is no source.
    let held = "{since: 1, holds: true, content_version: 1, content_origin: 'mars01', content_node: 'node1', fid: 1, \
                class_name: 'default', seen: true}";
    set("seen_by_mars", "replicas['mars01']", held).await;
    let mars = [
        ("content_version", "1"),
        ("origin", "'mars01'"),
        ("content_origin", "'mars01'"),
    ];
    set("of_nobody", "head", &head(now(), &mars)).await;
    set("of_nobody", "replicas['mars01']", held).await;
    // A key that no tracker would write so is no file's: a scan meets the row, and names it.
    set("a b", "head", &head(now(), &[])).await;

    sites.tx01.start_node().await;
    for (key, why) in [
        ("no_put", "head: it has no put"),
        ("no_name", "head: "),
        ("no_datacenter", "replica of \"MA 01!\""),
        (
            "strange_class",
            "class_cell: \"my class\" is not escaped as a tracker would",
        ),
        ("of_nobody", ""),
    ] {
        parks(&sites.tx01, key, why).await;
    }
    comes(&sites.tx01, "before").await;
    comes(&sites.tx01, "seen_by_mars").await;
    put(&sites.ma01, "after").await;
    comes(&sites.tx01, "after").await;
    let status = says(&sites.tx01, "five gaps", |status| status["gaps"] == 5).await;
    assert_eq!(status["in_sync"], false);
    // Each is told when its turn comes again.
    says(&sites.tx01, "what cannot be read", |status| {
        let workers = status["repair"]["workers"].as_array().unwrap();
        workers.iter().any(|worker| {
            let said = worker["last_error"]["error"].to_string();
            said.contains("cannot be read") || said.contains("unreadable")
        })
    })
    .await;
    for key in [
        "no_put",
        "no_name",
        "no_datacenter",
        "strange_class",
        "of_nobody",
    ] {
        logs(&sites.tx01, &["parked", key]).await;
    }
    logs(&sites.tx01, &["files, photos a b", "delete the row"]).await;
    // An overwrite mends a row, and nothing else is needed.
    for key in ["no_put", "no_name", "of_nobody"] {
        put(&sites.ma01, key).await;
        comes(&sites.tx01, key).await;
    }
    for site in [&sites.ma01, &sites.tx01] {
        assert!(!log(site).contains("panicked"), "{}", log(site));
    }
}

/// What of a dump is more than the removal of single cells.
fn wide_tombstones(dump: &str) -> Vec<String> {
    let partitions: Vec<Value> = serde_json::from_str(dump).unwrap();
    let mut found = Vec::new();
    for partition in partitions {
        if !partition["partition"]["deletion_info"].is_null() {
            found.push(partition["partition"].to_string());
        }
        for row in partition["rows"].as_array().unwrap() {
            let cells = row["cells"].as_array().into_iter().flatten();
            // Of a whole map; that of a cell says no more than when.
            let maps = cells.filter(|cell| !cell["deletion_info"]["marked_deleted"].is_null());
            let marked = !row["liveness_info"]["tstamp"].is_null();
            if row["type"] != "row" || !row["deletion_info"].is_null() || maps.count() > 0 || marked
            {
                found.push(row.to_string());
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn no_write_leaves_a_range_tombstone_or_a_row_marker() {
    let cluster = Cluster::shared().await;
    let _calm = cluster.calm().await;
    let keyspace = &cluster.keyspace().await;
    let ledger = support::ledger(cluster, "ma01", keyspace).await;
    let mut rng = support::chance();
    let here: Datacenter = "ma01".parse().unwrap();
    let stream = StreamId {
        datacenter: here.clone(),
        node: "node1".parse().unwrap(),
        incarnation: "a".to_owned(),
    };
    for n in 1..=50 {
        let (file, at) = (support::file(&format!("k{n}")), Version(n));
        let mut write = FileWrite::default();
        for turn in 0..3 {
            write.head = (turn != 1).then(|| support::revision(&mut rng, at));
            write.class = (turn != 1).then(|| support::class_cell(&mut rng, at));
            write.replica = (turn != 0).then(|| (here.clone(), support::replica(&mut rng, at)));
            ledger.write(&file, &write, Strength::Local).await.unwrap();
        }
        if n % 2 == 0 {
            let record = ledger.read(&file, Strength::Local).await.unwrap();
            ledger.forget(&file, &record).await.unwrap();
        }
        let change = Change {
            number: n as u64,
            file: (n % 5 > 0).then(|| file.clone()),
            version: at,
            about: About::Class,
        };
        ledger
            .append_change(&stream, &change, Strength::Local)
            .await
            .unwrap();
        let gap = Gap {
            file: file.clone(),
            since: at,
            attempts: 1,
            last_error: "it failed".to_owned(),
            next_try: at,
            observed: at,
            expected: Expected::default(),
        };
        ledger.set_gap(&here, &gap).await.unwrap();
        if n % 2 == 0 {
            ledger.clear_gap(&here, &file, at.next()).await.unwrap();
        }
        let cursor = Cursor {
            name: format!("c{}", n % 5),
            number: n as u64,
            note: String::new(),
            updated: at,
        };
        ledger.set_cursor(&here, &cursor).await.unwrap();
        let mut node = NodeRecord::unread(stream.clone());
        (node.heartbeat, node.last_number) = (at, n as u64);
        ledger.set_node(&node).await.unwrap();
    }
    let name = keyspace.clone();
    let dumped = tokio::task::spawn_blocking(move || {
        let node = &cluster.nodes()[0];
        node.nodetool(&["flush", &name])?;
        let mut all = Vec::new();
        for table in ["files", "changes", "gaps", "cursors", "nodes"] {
            let dumps = node.sstables(&name, table)?;
            assert!(!dumps.is_empty(), "{table} has no file");
            all.extend(dumps.into_iter().map(|dump| (table, dump)));
        }
        Ok::<_, String>(all)
    });
    for (table, dump) in dumped.await.unwrap().unwrap() {
        assert_eq!(wide_tombstones(&dump), Vec::<String>::new(), "{table}");
        // Where readers read along, not even a single cell's.
        assert!(
            table != "changes" || !dump.contains("deletion_info"),
            "{dump}"
        );
    }
    // The test would see one.
    let last = "UPDATE {}.files SET replicas = {} WHERE domain = 'photos' AND key = 'whole_map'";
    cql(cluster, &last.replacen("{}", keyspace, 1)).await;
    let name = keyspace.clone();
    let dumped = tokio::task::spawn_blocking(move || {
        let node = &cluster.nodes()[0];
        node.nodetool(&["flush", &name])?;
        node.sstables(&name, "files")
    });
    let dumps = dumped.await.unwrap().unwrap();
    let found: Vec<String> = dumps
        .iter()
        .flat_map(|dump| wide_tombstones(dump))
        .collect();
    assert!(!found.is_empty(), "{dumps:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_changes_gaps_and_nodes_are_named_and_made_up_for() {
    let cluster = Cluster::shared().await;
    let _calm = cluster.calm().await;
    let keyspace = &cluster.keyspace().await;
    let mut sites = prepared(cluster, keyspace).await;
    sites.tx01.node_environment = vec![(
        "PHYLACTERY_FAILPOINTS".to_owned(),
        "tail::lost_at_once=return".to_owned(),
    )];
    sites.ma01.start_node().await;
    sites.tx01.start_node().await;
    put(&sites.ma01, "before").await;
    comes(&sites.tx01, "before").await;
    delivered(&sites.ma01).await;
    delivered(&sites.tx01).await;

    // While nobody reads them.
    sites.tx01.node().terminate();
    for key in ["strange_about", "half_a_file", "no_version", "good"] {
        put(&sites.ma01, key).await;
    }
    delivered(&sites.ma01).await;
    let stream = stream_of_ma01(&sites).await;
    let change = async |number: u64, cell: &str, value: &str| {
        let now = now();
        cql(
            cluster,
            &format!(
                "UPDATE {keyspace}.changes USING TIMESTAMP {now} SET {cell} = {value} WHERE stream = '{stream}' AND block = 0 AND number = {number}"
            ),
        )
        .await;
    };
    change(2, "about", "'colour'").await;
    change(3, "domain", "null").await;
    change(4, "version", "null").await;
    let before = FileName::from_bytes(DOMAIN.as_bytes(), b"before");
    let shard = token(&before).to_be_bytes()[0];
    for key in ["before", "a b"] {
        cql(
            cluster,
            &format!(
                "UPDATE {keyspace}.gaps USING TIMESTAMP {} SET gap = {{observed: 1}} WHERE datacenter = 'tx01' AND shard = {shard} \
                 AND domain = '{DOMAIN}' AND key = '{key}'",
                now()
            ),
        )
        .await;
    }
    cql(
        cluster,
        &format!(
            "UPDATE {keyspace}.nodes SET record = {{heartbeat: 1}} WHERE part = 0 AND datacenter = 'mars01' AND node = 'node1' AND incarnation = 'x'"
        ),
    )
    .await;

    sites.tx01.start_node().await;
    for key in ["strange_about", "half_a_file", "no_version", "good"] {
        comes(&sites.tx01, key).await;
    }
    let name = stream.to_string();
    for (number, why) in [
        (2, "about is \"colour\""),
        (3, "it names half a file"),
        (4, "it has no version"),
    ] {
        logs(&sites.tx01, &[&format!("changes, {name} {number}: {why}")]).await;
    }
    until("the holes are passed", async || {
        let cursor = sites.ledger().await.cursor(&sites.tx01.name, &name).await;
        match cursor.unwrap().map(|cursor| cursor.number) {
            Some(5..) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    // The file of the one gap is looked at, and the gap cleared; the other one is nobody's, and counted until an operator has deleted it.
    logs(
        &sites.tx01,
        &[
            "gaps, tx01 photos before: it has no",
            "the file is looked at again",
        ],
    )
    .await;
    logs(
        &sites.tx01,
        &["gaps, tx01 photos a b: it has no", "delete the row"],
    )
    .await;
    says(&sites.tx01, "one gap", |status| status["gaps"] == 1).await;
    // The one node is taken for one that has everything still to tell.
    for site in [&sites.ma01, &sites.tx01] {
        logs(
            site,
            &["nodes, mars01 node1 x: it has no", "delete the row"],
        )
        .await;
        let status = says(site, "the bad node", |status| {
            status["repair"]["workers"][0]["last_error"]["error"]
                .as_str()
                .is_some_and(|said| {
                    said.contains("what mars01/node1/x says of itself cannot be read")
                })
        })
        .await;
        assert!(status["proved_at"].is_null(), "{status:#}");
    }
    // Also for who starts with it.
    sites.ma01.node().terminate();
    sites.ma01.start_node().await;
    put(&sites.ma01, "after").await;
    comes(&sites.tx01, "after").await;
    put(&sites.tx01, "back").await;
    comes(&sites.ma01, "back").await;
    assert_eq!(log(&sites.tx01).matches("nodes, mars01 node1 x").count(), 1);

    // Mended as the lines say.
    cql(
        cluster,
        &format!("DELETE FROM {keyspace}.nodes WHERE part = 0 AND datacenter = 'mars01' AND node = 'node1' AND incarnation = 'x'"),
    )
    .await;
    cql(
        cluster,
        &format!("DELETE FROM {keyspace}.gaps WHERE datacenter = 'tx01' AND shard = {shard} AND domain = '{DOMAIN}' AND key = 'a b'"),
    )
    .await;
    says(&sites.ma01, "in sync", |status| status["in_sync"] == true).await;
    for site in [&sites.ma01, &sites.tx01] {
        assert!(!log(site).contains("panicked"), "{}", log(site));
    }
}
