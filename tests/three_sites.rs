//! Three datacenters of real processes on one embedded ledger: killed, cut off and lied to under load, they end alike, without an operator.
//!
//! `PHYLACTERY_SEED` repeats what was left to chance.

#![allow(clippy::large_futures, reason = "a test has one of each")]

mod harness;

use harness::LedgerAt;
use harness::three::Three;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_datacenters_end_alike_whatever_happened() {
    let seed = std::env::var("PHYLACTERY_SEED").ok();
    let seed = seed.map(|seed| seed.parse().expect("PHYLACTERY_SEED is a number"));
    let seed = seed.unwrap_or_else(rand::random::<u64>);
    println!("PHYLACTERY_SEED={seed}");
    let home = tempfile::tempdir().expect("a folder");
    let ledger = LedgerAt::Embedded(home.path().join("ledger.db"));
    let mut three = Three::prepare(home, ledger, seed).await;
    for site in three.cluster.all_mut() {
        site.start_node().await;
    }
    three.drill(seed).await;
}
