//! Two sites of real processes on a healthy cluster: what one stores the other has, and when both disagree the newest wins whole.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures::future::join_all;
use mogilefs_protocol::client::{Client, ListKeys, Timeouts};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::cluster::Cluster;
use crate::harness::{Mogile, Site, until};
use crate::support::{is_ready, seed, sites};

const DOMAIN: &str = "photos";

/// Files whose way to the other datacenter is measured.
const MEASURED: usize = 300;

async fn client(site: &Site) -> Mogile {
    Mogile::connect(site.proxy).await.expect("it listens")
}

/// Waits until a client of this site reads these bytes.
async fn reads(site: &Site, key: &str, bytes: &[u8]) {
    let mut client = client(site).await;
    until("the other datacenter reads it", async || {
        let read = client.fetch(DOMAIN, key.as_bytes()).await?;
        match read == bytes {
            true => Ok(()),
            false => Err(format!("{key} has other bytes")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_stored_in_one_is_read_in_the_other() {
    let cluster = Cluster::shared().await;
    let _calm = cluster.calm().await;
    let sites = sites(cluster, &cluster.keyspace().await).await;
    let mut here = client(&sites.ma01).await;
    let big: Vec<u8> = (0..3_000_000_u32).map(|n| (n / 7) as u8).collect();
    for (key, class, bytes) in [
        ("plain", "", &b"some bytes"[..]),
        ("é %/x y", "thumb", b"others"),
        ("empty", "", b""),
        ("big", "", &big),
    ] {
        here.store(DOMAIN, key.as_bytes(), class, bytes)
            .await
            .unwrap();
        reads(&sites.tx01, key, bytes).await;
    }
    let mut there = client(&sites.tx01).await;
    there
        .store(DOMAIN, b"plain", "", b"newer bytes")
        .await
        .unwrap();
    reads(&sites.ma01, "plain", b"newer bytes").await;
    there.delete(DOMAIN, b"big").await.unwrap();
    until("it is deleted here too", async || {
        match here.fetch(DOMAIN, b"big").await {
            Err(why) if why.contains("unknown_key") => Ok(()),
            other => Err(format!("{:?}", other.map(|bytes| bytes.len()))),
        }
    })
    .await;
    delay(&sites.ma01, &sites.tx01).await;
    sites.is_well().await;
    assert_eq!(sites.same_files(DOMAIN).await.len(), 3 + MEASURED);
}

/// From the `OK` of create_close in one datacenter until the tracker of the other lists the file.
async fn delay(from: &Site, to: &Site) {
    let mut listing = Client::connect(to.tracker, Timeouts::default())
        .await
        .expect("it listens");
    let storing = async {
        let mut client = client(from).await;
        let mut stored = HashMap::new();
        for n in 0..MEASURED {
            let key = format!("delay/{n}").into_bytes();
            client.store(DOMAIN, &key, "", &key).await.unwrap();
            stored.insert(key, Instant::now());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        stored
    };
    let looking = async {
        let mut seen = HashMap::new();
        let began = Instant::now();
        while seen.len() < MEASURED {
            let list = ListKeys {
                domain: DOMAIN.as_bytes(),
                prefix: b"delay/",
                limit: Some(1_000),
                ..Default::default()
            };
            let page = listing.list_keys(&list).await.expect("it answers");
            for key in page.keys {
                seen.entry(key).or_insert_with(Instant::now);
            }
            let count = seen.len();
            assert!(
                began.elapsed() < Duration::from_secs(120),
                "{count} have come"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        seen
    };
    let (stored, seen) = tokio::join!(storing, looking);
    let mut delays: Vec<Duration> = stored
        .iter()
        .map(|(key, at)| seen[key].saturating_duration_since(*at))
        .collect();
    delays.sort();
    let at = |percent| delays[delays.len() * percent / 100];
    println!(
        "from OK to the other datacenter's tracker: p50 {:.0?}, p99 {:.0?}",
        at(50),
        at(99)
    );
}

/// Who wins is for the clocks to say; that it is one and the same everywhere, and whole, is for us.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_write_the_same_keys_and_end_alike() {
    const KEYS: usize = 10;
    const WRITES: usize = 500;
    let cluster = Cluster::shared().await;
    let _calm = cluster.calm().await;
    let sites = sites(cluster, &cluster.keyspace().await).await;
    let seed = seed();
    // The domain is in both before they race.
    let mut first = client(&sites.ma01).await;
    first.store(DOMAIN, b"first", "", b"").await.unwrap();
    reads(&sites.tx01, "first", b"").await;
    let both = [&sites.ma01, &sites.tx01];
    let writers = (0..4).map(async |n| {
        let site = both[n % 2];
        let mut random = StdRng::seed_from_u64(seed ^ n as u64);
        let mut client = client(site).await;
        for turn in 0..WRITES {
            let key = format!("same/{}", random.random_range(0..KEYS));
            if random.random_bool(0.2) {
                let deleted = client.delete(DOMAIN, key.as_bytes()).await;
                let fine = |why: &str| why.contains("unknown_key");
                assert!(
                    deleted.as_ref().err().is_none_or(|why| fine(&why.why)),
                    "{deleted:?}"
                );
            } else {
                let bytes = format!("{} {n} {turn}", site.name);
                let stored = client.store(DOMAIN, key.as_bytes(), "", bytes.as_bytes());
                stored.await.unwrap();
            }
        }
    });
    join_all(writers).await;
    sites.is_well().await;
    sites.settled().await;
    let files = sites.same_files(DOMAIN).await;
    for n in 0..KEYS {
        let key = format!("same/{n}");
        let mut heads = Vec::new();
        for site in both {
            let told = site.get(&format!("/v1/files/{DOMAIN}/{key}")).await;
            heads.push(told.expect("it was written")["head"].clone());
        }
        assert_eq!(heads[0], heads[1], "{key}: one head");
        let head = &heads[0];
        assert_eq!(
            files.contains_key(key.as_bytes()),
            head["op"] == "put",
            "{key}: {head:#}"
        );
        if let Some(bytes) = files.get(key.as_bytes()) {
            let origin = head["origin"].as_str().expect("a name");
            let bytes = String::from_utf8_lossy(bytes);
            assert!(bytes.starts_with(origin), "{key} holds {bytes:?}: {head:#}");
        }
    }
}

/// A class change is of the bytes that it was made on. Made elsewhere, later, on bytes that had been replaced already, it brings nothing back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_class_change_does_not_bring_old_bytes_back() {
    let cluster = Cluster::shared().await;
    let _calm = cluster.calm().await;
    let mut sites = sites(cluster, &cluster.keyspace().await).await;
    let mut here = client(&sites.ma01).await;
    let keys = ["the overwrite is told late", "the change is told late"];
    for key in keys {
        here.store(DOMAIN, key.as_bytes(), "", b"old bytes")
            .await
            .unwrap();
        reads(&sites.tx01, key, b"old bytes").await;
    }
    sites.is_well().await;

    for (turn, key) in keys.into_iter().enumerate() {
        // One of them loses the ledger, so that neither hears of the other.
        let cut = [&mut sites.ma01, &mut sites.tx01].into_iter().nth(turn);
        let cut = cut.expect("two turns");
        let config = cut.folder.join("phylactery.toml");
        let text = std::fs::read_to_string(&config).unwrap();
        let nowhere = text.replace(":9042", ":9");
        assert_ne!(text, nowhere, "it names the cluster's port");
        std::fs::write(&config, nowhere).unwrap();
        cut.node().kill();
        cut.start_node().await;

        let mut here = client(&sites.ma01).await;
        here.store(DOMAIN, key.as_bytes(), "", b"new bytes")
            .await
            .unwrap();
        let mut there = client(&sites.tx01).await;
        let seen = there.fetch(DOMAIN, key.as_bytes()).await;
        let unseen = seen.is_ok_and(|bytes| bytes == b"old bytes");
        if unseen {
            there
                .updateclass(DOMAIN, key.as_bytes(), "thumb")
                .await
                .unwrap();
        }
        assert!(unseen, "{key}: tx01 has not heard of the overwrite");

        let cut = [&mut sites.ma01, &mut sites.tx01].into_iter().nth(turn);
        let cut = cut.expect("two turns");
        std::fs::write(&config, text).unwrap();
        cut.node().kill();
        cut.start_node().await;
        is_ready(cut).await;
        sites.is_well().await;
        let files = sites.same_files(DOMAIN).await;
        assert_eq!(files[key.as_bytes()], b"new bytes", "{key}");
    }
}
