//! An operator says where files are due, at a running node: files come where they are due, and nowhere else, and nothing
//! is lost however often it is changed.

#![allow(clippy::unwrap_used, reason = "what panics in a test has failed it")]

mod harness;

use harness::{Cluster, Mogile, Site, until};
use mogilefs_protocol::client::ClassSettings;
use phylactery::file::FileName;
use phylactery::ledger::Strength;
use serde_json::Value;

/// `phylactery placement …`, asked of a site's API; what it printed.
async fn placement(site: &Site, arguments: &[&str]) -> String {
    phylactery(site, &[&["placement"], arguments].concat()).await
}

async fn phylactery(site: &Site, arguments: &[&str]) -> String {
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_phylactery"))
        .args(arguments)
        .args(["--api", &format!("http://{}", site.api)])
        .output()
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

async fn store(site: &Site, key: &str, class: &str, bytes: &[u8]) {
    let mut client = Mogile::connect(site.proxy).await.unwrap();
    client
        .store("photos", key.as_bytes(), class, bytes)
        .await
        .unwrap();
}

/// Whether a site's tracker holds these bytes under a key.
async fn holds(site: &Site, key: &str, bytes: &[u8]) -> bool {
    let files = site.files("photos").await.unwrap();
    files.get(key.as_bytes()).is_some_and(|held| held == bytes)
}

async fn comes(site: &Site, key: &str, bytes: &[u8]) {
    until(&format!("{key} in {}", site.name), async || {
        let mut client = Mogile::connect(site.tracker)
            .await
            .map_err(|why| why.to_string())?;
        match client.fetch("photos", key.as_bytes()).await {
            Ok(found) if found == bytes => Ok(()),
            other => Err(format!("{other:?}; {:#}", site.get("/v1/gaps").await?)),
        }
    })
    .await;
}

/// Waits until `there` has read the change of this key in the stream of `from`, which is done or parked then.
async fn passed(cluster: &Cluster, from: &Site, there: &Site, key: &str) {
    let ledger = cluster.ledger().await;
    let file = FileName::from_bytes(b"photos", key.as_bytes());
    until(&format!("{key} is passed by {}", there.name), async || {
        let nodes = ledger.nodes().await.map_err(|why| why.to_string())?;
        let node = nodes
            .into_iter()
            .find(|node| node.stream.datacenter == from.name);
        let stream = node.ok_or("no node")?.stream;
        let reading = ledger.changes(&stream, 0, 10_000, Strength::Local).await;
        let changes = reading.map_err(|why| why.to_string())?;
        let change = changes
            .iter()
            .rev()
            .find(|change| change.file.as_ref() == Some(&file));
        let number = change.ok_or("not told yet")?.number;
        let status = there.get("/v1/status").await?;
        let workers = status["repair"]["workers"].as_array().unwrap();
        let tail = workers
            .iter()
            .find(|worker| worker["name"] == "tail")
            .unwrap();
        let cursor = tail["progress"]["tail"][stream.to_string()]["cursor"].as_u64();
        match cursor {
            Some(cursor) if cursor >= number => Ok(()),
            _ => Err(format!("{cursor:?} of {number}")),
        }
    })
    .await;
}

/// Stores files in `from` until one does not come to `there` any more: what was said is obeyed. Their keys and bytes.
async fn obeyed(cluster: &Cluster, from: &Site, there: &Site, name: &str) -> Vec<String> {
    let mut probes = Vec::new();
    loop {
        let key = format!("{name} {}", probes.len());
        assert!(probes.len() < 1000, "it is not obeyed");
        store(from, &key, "", key.as_bytes()).await;
        passed(cluster, from, there, &key).await;
        let came = holds(there, &key, key.as_bytes()).await;
        probes.push(key);
        if !came {
            return probes;
        }
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_come_where_an_operator_says_that_they_are_due_and_nowhere_else() {
    let cluster = Cluster::start("").await;
    let (ma01, tx01) = (&cluster.ma01, &cluster.tx01);
    store(ma01, "before", "", b"bytes").await;
    comes(tx01, "before", b"bytes").await;

    // Whichever node is told.
    let said = placement(tx01, &["set", "photos", "ma01"]).await;
    assert!(said.contains("Nothing is deleted in tx01"), "{said}");
    placement(ma01, &["set", "photos:thumb", "ma01"]).await;
    let probes = obeyed(&cluster, ma01, tx01, "probe").await;
    store(ma01, "hidden", "", b"not for tx01").await;
    store(ma01, "small", "thumb", b"a thumb").await;
    for key in ["hidden", "small"] {
        passed(&cluster, ma01, tx01, key).await;
        assert!(
            !tx01
                .files("photos")
                .await
                .unwrap()
                .contains_key(key.as_bytes()),
            "{key}"
        );
    }
    assert!(
        holds(tx01, "before", b"bytes").await,
        "narrowing has deleted it"
    );
    for (key, rule) in [("hidden", "photos"), ("small", "photos:thumb")] {
        let text = phylactery(tx01, &["explain", "photos", key]).await;
        let words: Vec<&str> = text.split_whitespace().collect();
        let said = format!("It is not due here: the placement of {rule}, set at");
        assert!(words.join(" ").contains(&said), "{text}");
    }
    let shown: Value = serde_json::from_str(&placement(ma01, &["show", "--json"]).await).unwrap();
    assert_eq!(shown["placements"].as_array().unwrap().len(), 2, "{shown}");

    // Due in both: what is there already comes too, but for the class that has a placement of its own.
    let said = placement(ma01, &["set", "photos", "ma01,tx01"]).await;
    assert!(
        said.contains("What is missing in tx01 comes by a scan"),
        "{said}"
    );
    comes(tx01, "hidden", b"not for tx01").await;
    for key in &probes {
        comes(tx01, key, key.as_bytes()).await;
    }
    store(ma01, "small too", "thumb", b"another").await;
    passed(&cluster, ma01, tx01, "small too").await;
    let there = tx01.files("photos").await.unwrap();
    for key in ["small", "small too"] {
        assert!(
            !there.contains_key(key.as_bytes()),
            "{key} is not due there"
        );
    }
    placement(tx01, &["remove", "photos:thumb"]).await;
    comes(tx01, "small", b"a thumb").await;
    comes(tx01, "small too", b"another").await;
    cluster.settled().await;
    cluster.same_files("photos").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changing_it_to_and_fro_loses_nothing() {
    let cluster = Cluster::start("").await;
    let (ma01, tx01) = (&cluster.ma01, &cluster.tx01);
    // Clients store in both from the beginning.
    let mut client = Mogile::connect(tx01.tracker).await.unwrap();
    client.raw().create_domain(b"photos").await.unwrap();
    let thumb = ClassSettings {
        domain: b"photos",
        class: b"thumb",
        mindevcount: 2,
        ..ClassSettings::default()
    };
    client.raw().create_class(&thumb).await.unwrap();
    let said: [&[&str]; 4] = [
        &["set", "photos", "ma01"],
        &["set", "photos", "ma01,tx01"],
        &["set", "photos", "tx01"],
        &["remove", "photos"],
    ];
    for turn in 0..24 {
        // Some turns wait until it is obeyed, so that something is passed by.
        if turn % 8 == 0 {
            placement(ma01, said[0]).await;
            obeyed(&cluster, ma01, tx01, &format!("probe of {turn}")).await;
        }
        placement(if turn % 2 == 0 { ma01 } else { tx01 }, said[turn % 4]).await;
        for site in [ma01, tx01] {
            let key = format!("{turn} of {}", site.name);
            store(
                site,
                &key,
                if turn % 3 == 0 { "thumb" } else { "" },
                key.as_bytes(),
            )
            .await;
        }
    }
    cluster.settled().await;
    let files = cluster.same_files("photos").await;
    for turn in 0..24 {
        for name in ["ma01", "tx01"] {
            let key = format!("{turn} of {name}");
            assert_eq!(
                files.get(key.as_bytes()).map(Vec::as_slice),
                Some(key.as_bytes())
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_holds_a_worker_back_from_the_command_line() {
    let cluster = Cluster::start("").await;
    let tx01 = &cluster.tx01;
    let said = phylactery(tx01, &["repair", "pause", "tail"]).await;
    assert_eq!(said, "tail is paused; kept over restarts.\n");
    let rate = [
        "repair",
        "set",
        "scan",
        "--files-per-second",
        "200",
        "--rest",
        "0.5",
    ];
    let said = phylactery(tx01, &rate).await;
    assert_eq!(
        said,
        "scan may see to 200 files/s, resting 0.5 s after each second of work; kept over restarts.\n"
    );
    let said = phylactery(tx01, &["repair", "show"]).await;
    assert!(said.contains("tail paused"), "{said}");
    assert!(said.contains("at most 200/s, rests 0.5:1"), "{said}");
    let status = tx01.get("/v1/status").await.unwrap();
    assert_eq!(status["repair"]["workers"][0]["paused"], true);

    store(&cluster.ma01, "k", "", b"bytes").await;
    until("the ledger has heard of it", async || {
        tx01.get("/v1/files/photos/k").await.map(drop)
    })
    .await;
    phylactery(tx01, &["repair", "begin", "scan"]).await;
    // Pausing the tail is not pausing repair.
    comes(tx01, "k", b"bytes").await;
    let said = phylactery(tx01, &["repair", "resume", "tail"]).await;
    assert!(
        said.starts_with("tail may work as fast as it can"),
        "{said}"
    );
    let default = [
        "repair",
        "set",
        "scan",
        "--files-per-second",
        "default",
        "--rest",
        "default",
    ];
    let said = phylactery(tx01, &default).await;
    assert!(
        said.starts_with("scan may work as fast as it can;"),
        "{said}"
    );

    for (worker, body, wanted) in [
        (
            "scan",
            r#"{"files_per_second": 0}"#,
            "write a number of 1 or more",
        ),
        (
            "scan",
            r#"{"files_per_second": "fast"}"#,
            "write a number of 1 or more",
        ),
        ("scan", r#"{"pause": true}"#, "unknown field `pause`"),
        ("scan", "{}", "nothing is to be changed"),
        ("tale", r#"{"paused": true}"#, "no worker is called tale"),
        ("tail", r#"{"rest": 1}"#, "tail has no rest to set"),
    ] {
        let url = format!("http://{}/v1/repair/workers/{worker}", tx01.api);
        let request = reqwest::Client::new().put(url).body(body);
        let answer = request.send().await.unwrap();
        assert!(answer.status().is_client_error(), "{body}");
        let message: Value = answer.json().await.unwrap();
        let message = message["message"].as_str().unwrap();
        assert!(message.contains(wanted), "{body}: {message}");
    }
}
