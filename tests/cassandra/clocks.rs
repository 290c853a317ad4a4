//! A datacenter whose clock is wrong: nothing of it is hidden from the others, what it had told is overwritten by who had seen it, no other
//! clock goes with it further than it may, and the operator is told on both sides.

use std::time::{SystemTime, UNIX_EPOCH};

use phylactery::file::Datacenter;
use phylactery::ledger::Ledger;
use phylactery::version::{MAX_AHEAD, Version};

use crate::cluster::Cluster;
use crate::harness::{Mogile, Site, record, until};
use crate::outside::{DOMAIN, comes, logs, prepared, program, put, says};

/// From the days in which this is written to one of the year 2099.
const TO_2099: i64 = 73 * 365 * 86_400;

/// What the test's own clock says, which is right.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    since.as_micros() as i64
}

async fn store(site: &Site, key: &str, bytes: &str) {
    let mut mogile = Mogile::connect(site.proxy).await.unwrap();
    let stored = mogile.store(DOMAIN, key.as_bytes(), "", bytes.as_bytes());
    stored.await.unwrap();
}

async fn holds(site: &Site, key: &str, bytes: Option<&str>) {
    let what = format!("{key} in {} holds {bytes:?}", site.name);
    until(&what, async || {
        let files = site.files(DOMAIN).await?;
        match files.get(key.as_bytes()).map(Vec::as_slice) == bytes.map(str::as_bytes) {
            true => Ok(()),
            false => Err(format!(
                "{:?}; {:#}",
                files.get(key.as_bytes()),
                site.get("/v1/status").await?
            )),
        }
    })
    .await;
}

async fn mark_of(ledger: &dyn Ledger, datacenter: &Datacenter) -> Version {
    let nodes = ledger.nodes().await.unwrap();
    let node = nodes
        .iter()
        .find(|node| node.stream.datacenter == *datacenter);
    node.expect("it has spoken").clock_mark
}

/// ma01's clock is so many seconds ahead, tx01's is right.
async fn ma01_is_ahead(seconds: i64) {
    let cluster = Cluster::shared().await;
    let _calm = cluster.calm().await;
    let keyspace = &cluster.keyspace().await;
    let mut sites = prepared(cluster, keyspace).await;
    sites.ma01.node_environment = vec![(
        "PHYLACTERY_FAILPOINTS".to_owned(),
        format!("clock::ahead=return({seconds})"),
    )];
    for site in sites.sites() {
        site.start_node().await;
    }
    let ledger = sites.ledger().await;
    let far = seconds > MAX_AHEAD.as_secs() as i64;

    // Nothing is hidden, in either direction.
    put(&sites.ma01, "of_ma01").await;
    comes(&sites.tx01, "of_ma01").await;
    put(&sites.tx01, "of_tx01").await;
    comes(&sites.ma01, "of_tx01").await;
    let ahead = record(&*ledger, DOMAIN, b"of_ma01").await.head.unwrap();
    assert!(
        ahead.version.0 > now() + (seconds - 600) * 1_000_000,
        "{ahead:?}"
    );

    // Who has seen a file overwrites it, whatever its own clock says; and is overwritten.
    for (round, bytes) in ["first", "second", "third", "fourth"].iter().enumerate() {
        let (here, there) = match round % 2 {
            0 => (&sites.ma01, &sites.tx01),
            _ => (&sites.tx01, &sites.ma01),
        };
        store(here, "in_turn", bytes).await;
        holds(there, "in_turn", Some(bytes)).await;
    }
    let mut mogile = Mogile::connect(sites.tx01.proxy).await.unwrap();
    for key in ["in_turn", "of_ma01"] {
        mogile.delete(DOMAIN, key.as_bytes()).await.unwrap();
        holds(&sites.ma01, key, None).await;
    }
    put(&sites.tx01, "after_all_that").await;
    comes(&sites.ma01, "after_all_that").await;

    // tx01's clock stays where it may be.
    let bound = now() + MAX_AHEAD.as_micros() as i64;
    let bound = if far { now() + 60_000_000 } else { bound };
    let mark = mark_of(&*ledger, &sites.tx01.name).await;
    assert!(mark.0 <= bound, "{mark} is beyond {bound}");
    let fresh = record(&*ledger, DOMAIN, b"after_all_that")
        .await
        .head
        .unwrap();
    assert!(fresh.version.0 <= bound, "{fresh:?} is beyond {bound}");

    // An operator is told, wherever he looks.
    logs(
        &sites.tx01,
        &[
            "WARN",
            "the clock of ma01/node1 is",
            "ahead of this machine's",
        ],
    )
    .await;
    let status = says(&sites.tx01, "the clock", |status| {
        status["repair"]["clocks"][0]["node"] == "ma01/node1"
    })
    .await;
    let told = status["repair"]["clocks"][0]["ahead_seconds"].as_i64();
    assert!(
        (seconds - 600..seconds + 600).contains(&told.unwrap()),
        "{status:#}"
    );
    let (shown, _) = program(
        &["status", "--api", &format!("http://{}", sites.tx01.api)],
        &[],
    );
    assert!(shown.contains("the clock of ma01/node1 is"), "{shown}");
    if far {
        logs(
            &sites.ma01,
            &[
                "WARN",
                "the clock of tx01/node1 is",
                "behind this machine's",
            ],
        )
        .await;
        // When the machine's time has been set right, the journal still knows what it has stamped: it says so, and clients are served.
        sites.ma01.node().terminate();
        sites.ma01.node_environment.clear();
        sites.ma01.start_node().await;
        put(&sites.ma01, "when_it_is_right").await;
        logs(
            &sites.ma01,
            &["the clock of this datacenter is", "clients are served"],
        )
        .await;
        put(&sites.tx01, "meanwhile").await;
        comes(&sites.ma01, "meanwhile").await;
    } else {
        // An hour is nothing that has to be waited for.
        sites.ma01.node().terminate();
        sites.ma01.node_environment.clear();
        sites.ma01.start_node().await;
        put(&sites.ma01, "when_it_is_right").await;
        comes(&sites.tx01, "when_it_is_right").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_hour_ahead() {
    ma01_is_ahead(3600).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_year_2099() {
    ma01_is_ahead(TO_2099).await;
}
