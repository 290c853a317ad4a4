//! Nothing acknowledged is lost, and nothing invented, however the process dies: `kill -9` at random moments under load.
//!
//! `KILL_SEED=n` runs one seed again, `KILL_ROUNDS=n` more or fewer kills (100 by default).

mod harness;

use std::time::Duration;

use harness::Cluster;
use harness::load::{Clients, Load};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_however_the_process_dies() {
    let seed = number("KILL_SEED").unwrap_or_else(|| rand::random_range(0..u64::MAX));
    let rounds = number("KILL_ROUNDS").unwrap_or(100);
    println!("KILL_SEED={seed} KILL_ROUNDS={rounds}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut cluster = Cluster::start("").await;
    let clients = Clients {
        ma01: 4,
        tx01: 2,
        more: 0,
        rest: Duration::ZERO,
    };
    let mut load = Load::start(&cluster, seed, clients).await;

    for round in 0..rounds {
        // So many more mutations, and then at once: wherever the others are just then.
        let wanted = random.random_range(1..60);
        load.more(wanted).await;
        tokio::time::sleep(Duration::from_micros(random.random_range(0..3_000))).await;
        let site = if random.random_bool(0.7) {
            &mut cluster.ma01
        } else {
            &mut cluster.tx01
        };
        site.node().kill();
        site.start_node().await;
        println!(
            "kill {round}: {} after {wanted} more acknowledged",
            site.name
        );
    }
    let book = load.stop().await;
    println!(
        "{} mutations acknowledged over {rounds} kills",
        book.acknowledged
    );
    cluster.settled().await;
    book.check(&cluster).await;
}
