//! Which of two cells wins is Cassandra's to say: our rule has to be its own, for every pair, in every order and repetition.

use std::sync::Arc;

use futures::future::join_all;
use phylactery::ledger::{FileRecord, FileWrite, Ledger, Strength};
use phylactery::version::Version;
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use crate::cluster::Cluster;
use crate::support::{chance, class_cell, datacenter, file, ledger, replica, revision};

/// Files of a run, and writes of each.
const FILES: usize = 300;
const WRITES: usize = 6;

fn write_of_chance(rng: &mut StdRng) -> FileWrite {
    // Few versions, so that most meet another of the same microsecond.
    let at = Version(1_000 + rng.random_range(0..2));
    let mut write = FileWrite::default();
    match rng.random_range(0..4) {
        0 => write.class = Some(class_cell(rng, at)),
        1 => write.replica = Some((datacenter(rng), replica(rng, at))),
        2 => write.head = Some(revision(rng, at)),
        _ => {
            write.head = Some(revision(rng, at));
            write.class = Some(class_cell(rng, at));
            write.replica = Some((datacenter(rng), replica(rng, at)));
        }
    }
    write
}

#[tokio::test(flavor = "multi_thread")]
async fn our_rule_is_cassandras_own() {
    let cluster = Cluster::shared().await;
    // What is written at ALL waits for the slowest node: nothing else makes one slow.
    let _alone = cluster.alone().await;
    let keyspace = cluster.keyspace().await;
    // Through both datacenters: each write goes to the nodes in an order of its own.
    let ledgers = [
        Arc::new(ledger(cluster, "ma01", &keyspace).await),
        Arc::new(ledger(cluster, "tx01", &keyspace).await),
    ];
    let mut rng = chance();
    let mut files = Vec::new();
    for n in 0..FILES {
        let writes: Vec<FileWrite> = (0..WRITES).map(|_| write_of_chance(&mut rng)).collect();
        let mut wanted = FileRecord::default();
        writes.iter().for_each(|write| wanted.merge(write));
        let mut order: Vec<FileWrite> = writes.iter().chain(&writes).cloned().collect();
        order.shuffle(&mut rng);
        files.push((file(&format!("ties/{n}")), order, wanted));
    }
    for some in files.chunks(30) {
        join_all(
            some.iter()
                .enumerate()
                .map(async |(n, (file, order, wanted))| {
                    for (turn, write) in order.iter().enumerate() {
                        let ledger = &ledgers[(n + turn) % 2];
                        ledger.write(file, write, Strength::Whole).await.unwrap();
                    }
                    for ledger in &ledgers {
                        let held = ledger.read(file, Strength::Local).await.unwrap();
                        assert_eq!(held, *wanted, "{file:?}, written in this order: {order:#?}");
                    }
                }),
        )
        .await;
    }
}
