//! A kill between any two steps of a mutation or of a copy: all named failpoints, each at several hits, in turn.

#![allow(clippy::large_futures, reason = "a test has one of each")]

mod harness;

use std::time::Duration;

use harness::{Cluster, Mogile, Site, until};
use phylactery::failpoint;

const DOMAIN: &str = "photos";

#[derive(Clone, Copy, Debug)]
enum Step {
    Put(&'static str),
    Delete(&'static str),
    Rename(&'static str, &'static str),
    Class(&'static str, &'static str),
}

/// Several mutations of one key in a row: put, rename away, put again; delete, put; rename twice; swap by a third name.
const SCRIPT: &[Step] = &[
    Step::Put("k"),
    Step::Rename("k", "a"),
    Step::Put("k"),
    Step::Class("k", "thumb"),
    Step::Delete("a"),
    Step::Put("a"),
    Step::Put("a"),
    Step::Rename("a", "b"),
    Step::Rename("b", "c"),
    Step::Rename("k", "a"),
    Step::Rename("c", "k"),
    Step::Delete("a"),
    Step::Put("d"),
];

/// Runs the script through the proxy of ma01, going on after each death as a client does that does not know what
/// became of its request. With `pace`, tx01 follows each step before the next. How often a node died.
async fn play(cluster: &mut Cluster, prefix: &str, pace: bool) -> u32 {
    let mut deaths = 0;
    for (at, step) in SCRIPT.iter().enumerate() {
        let site = &mut cluster.ma01;
        let key = |name: &str| format!("{prefix}/{name}").into_bytes();
        let acknowledged = async {
            let mut mogile = Mogile::connect(site.proxy)
                .await
                .map_err(|why| why.to_string())?;
            let done = match *step {
                Step::Put(name) => {
                    let bytes = format!("{prefix} {name} {at}");
                    mogile
                        .store(DOMAIN, &key(name), "", bytes.as_bytes())
                        .await
                        .map(|_| ())
                }
                Step::Delete(name) => mogile.delete(DOMAIN, &key(name)).await,
                Step::Rename(from, to) => mogile.rename(DOMAIN, &key(from), &key(to)).await,
                Step::Class(name, class) => mogile.updateclass(DOMAIN, &key(name), class).await,
            };
            done.map_err(|failed| failed.why)
        }
        .await;
        deaths += revive(site, acknowledged.is_err()).await;
        if pace {
            until("tx01 follows, or dies", async || {
                deaths += revive(&mut cluster.tx01, false).await;
                cluster.is_settled().await
            })
            .await;
        }
    }
    deaths
}

/// Starts the node again, without failpoint, if it has died. After a lost answer, waits for the death that caused it.
async fn revive(site: &mut Site, lost: bool) -> u32 {
    let grace = std::time::Instant::now() + Duration::from_secs(if lost { 2 } else { 0 });
    while !site.node().has_ended() {
        if std::time::Instant::now() >= grace {
            return 0;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    site.node_environment.clear();
    site.start_node().await;
    1
}

async fn armed(site: &mut Site, failpoint: &str, hit: u32) {
    site.node().terminate();
    site.node_environment = vec![("PHYLACTERY_KILL_AT".into(), format!("{failpoint}:{hit}"))];
    site.launch_node();
    let (proxy, api) = (site.proxy, site.api);
    // A failpoint of repair may end it before it listens.
    until("the armed node listens or has died", async || {
        if site.node().has_ended() {
            return Ok(());
        }
        for address in [proxy, api] {
            tokio::net::TcpStream::connect(address)
                .await
                .map_err(|why| why.to_string())?;
        }
        Ok(())
    })
    .await;
}

async fn kill_at(cluster: &mut Cluster, failpoint: &'static str, hit: u32) {
    let prefix = format!("{}-{hit}", failpoint.replace("::", "-"));
    let repairs = failpoint.starts_with("copy::") || failpoint.starts_with("apply::");
    armed(
        if repairs {
            &mut cluster.tx01
        } else {
            &mut cluster.ma01
        },
        failpoint,
        hit,
    )
    .await;
    let mut deaths = play(cluster, &prefix, repairs).await;
    if deaths == 0 && repairs {
        let tx01 = &mut cluster.tx01;
        until(
            &format!("tx01 dies at {failpoint}:{hit}"),
            async || match revive(tx01, false).await {
                0 => Err("it lives".into()),
                died => {
                    deaths += died;
                    Ok(())
                }
            },
        )
        .await;
    } else if deaths == 0 {
        let ma01 = &mut cluster.ma01;
        until(&format!("ma01 dies at {failpoint}:{hit}"), async || {
            deaths += revive(ma01, false).await;
            if deaths == 0 {
                Err("it lives".into())
            } else {
                Ok(())
            }
        })
        .await;
    }
    assert_eq!(deaths, 1, "{failpoint}:{hit}");
    cluster.settled().await;
    let files = cluster.same_files(DOMAIN).await;
    // What nobody could touch after its acknowledgement is there.
    let last = format!("{prefix}/d").into_bytes();
    if !failpoint.starts_with("proxy::") {
        assert!(
            files.contains_key(&last),
            "{failpoint}:{hit}: the last file is there"
        );
    }
}

async fn try_all(wanted: impl Fn(&str) -> bool) {
    let mut cluster = Cluster::start("").await;
    let mut tried = 0;
    for &failpoint in failpoint::ALL.iter().filter(|name| wanted(name)) {
        for hit in 1..=3 {
            println!("{failpoint}:{hit}");
            kill_at(&mut cluster, failpoint, hit).await;
            tried += 1;
        }
    }
    assert!(tried > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_between_any_two_steps_of_a_mutation() {
    try_all(|name| name.starts_with("proxy::")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_between_any_two_steps_of_a_delivery() {
    try_all(|name| name.starts_with("deliver::")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_between_any_two_steps_of_repair() {
    try_all(|name| name.starts_with("copy::") || name.starts_with("apply::")).await;
}

#[test]
fn every_failpoint_is_of_a_part_that_is_tried() {
    for name in failpoint::ALL {
        let part = name.split("::").next().expect("a part");
        assert!(
            ["proxy", "deliver", "copy", "apply"].contains(&part),
            "{name}"
        );
    }
}
