//! Random work by clients of three datacenters, with kills, stops and a ledger that comes and goes: when all that ends,
//! every datacenter holds the same files, and the ledger says so.
//!
//! `REPAIR_SEED=n` runs one seed again, `REPAIR_SEEDS=n` that many from a random one on.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod repair_sites;

use std::collections::BTreeMap;
use std::time::Duration;

use mogilefs_protocol::client::ClassSettings;
use phylactery::journal::Outcome;
use phylactery::ledger::Ledger;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use repair_sites::{Flaky, Site, repair_config, until};

const KEYS: [&str; 5] = ["a", "b", "c", "d", "e"];

async fn one_run(seed: u64) {
    println!("REPAIR_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let home = tempfile::tempdir().unwrap();
    let ledger = Flaky::open(home.path());
    let mut sites = Vec::new();
    for name in ["ma01", "or01", "tx01"] {
        let mut site = Site::new(name, home.path(), &ledger).await;
        let class = ClassSettings {
            domain: b"photos",
            class: b"thumb",
            mindevcount: 1,
            ..ClassSettings::default()
        };
        site.client().await.create_class(&class).await.unwrap();
        site.start(random.random_bool(0.7).then(repair_config));
        sites.push(site);
    }
    let mut history = Vec::new();
    for n in 0..random.random_range(20..80) {
        let at = random.random_range(0..sites.len());
        let key = KEYS[random.random_range(0..KEYS.len())];
        let other = KEYS[random.random_range(0..KEYS.len())];
        let class = if random.random_bool(0.3) {
            Some("thumb")
        } else {
            None
        };
        let site = &mut sites[at];
        let outcome: Option<Outcome> = match random.random_range(0..24) {
            0..=8 => Some(
                site.try_put(key, class, format!("{n} of {seed}").as_bytes())
                    .await,
            ),
            9..=11 => Some(site.try_delete(key).await),
            12..=16 if other != key => Some(site.try_rename(key, other).await),
            17..=18 => Some(site.try_set_class(key, class.unwrap_or("default")).await),
            19 => {
                site.kill().await;
                site.start(random.random_bool(0.7).then(repair_config));
                history.push(format!("{} killed", site.name));
                None
            }
            20 => {
                let away = random.random_bool(0.5);
                ledger.set_away(away);
                history.push(format!("ledger away: {away}"));
                None
            }
            _ => {
                tokio::time::sleep(Duration::from_millis(random.random_range(0..300))).await;
                None
            }
        };
        if let Some(outcome) = outcome {
            history.push(format!(
                "{n} {} {key} {other} {class:?}: {outcome:?}",
                sites[at].name
            ));
        }
    }
    ledger.set_away(false);
    for site in &mut sites {
        if site.running().repair.is_none() {
            site.stop().await;
            site.start(Some(repair_config()));
        }
    }
    let settled = until(
        &format!("seed {seed}: all alike; {history:#?}"),
        async || {
            let mut seen = Vec::new();
            for site in &sites {
                if site.running().journal.depth().entries > 0 {
                    return Err(format!(
                        "{} has not delivered: {:?}",
                        site.name,
                        site.running().journal.depth()
                    ));
                }
                let mut files = BTreeMap::new();
                for key in KEYS {
                    let record = site.record(key).await;
                    if !record.is_whole_in(&site.name, true) {
                        return Err(format!(
                            "{key} in {}: {record:#?}; gap {:?}",
                            site.name,
                            site.gap(key).await
                        ));
                    }
                    let found = site.read(key).await;
                    let held = record
                        .replicas
                        .get(&site.name)
                        .and_then(|replica| replica.held.as_ref());
                    if found.as_ref().map(|found| found.0) != held.map(|held| held.fid.0) {
                        return Err(format!(
                            "{key} in {}: {found:?}, but {record:#?}",
                            site.name
                        ));
                    }
                    files.insert(
                        key,
                        found.map(|(_, class, body)| (class, String::from_utf8(body).unwrap())),
                    );
                }
                if site.ledger.count_gaps(&site.name).await.unwrap_or(1) > 0 {
                    return Err(format!("{} has gaps", site.name));
                }
                seen.push(files);
            }
            if seen.windows(2).all(|pair| pair[0] == pair[1]) {
                Ok(seen)
            } else {
                Err(format!("{seen:#?}"))
            }
        },
    )
    .await;
    drop(settled);
    for site in &mut sites {
        site.stop().await;
        site.stop_tracker().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_clients_do_all_datacenters_end_alike() {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .map(|n| n.parse::<u64>().expect("a number"))
    };
    if let Some(seed) = number("REPAIR_SEED") {
        return one_run(seed).await;
    }
    let first = rand::random_range(0..1_000_000);
    for seed in first..first + number("REPAIR_SEEDS").unwrap_or(5) {
        one_run(seed).await;
    }
}
