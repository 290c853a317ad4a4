//! What repair costs a file: statements of the ledger and requests to the tracker. The figures of ARCHITECTURE.md are these.
//!
//! Counted over many files, so that what is asked once a second by the clock does not count; the bounds are what is printed, and
//! a little more.

#![allow(clippy::unwrap_used, reason = "what panics in a test has failed it")]

mod repair_sites;

use std::collections::BTreeMap;

use phylactery::repair::status::Progress;
use repair_sites::{Flaky, Http, Site, played_and_real_as, repair_config, until};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

const FILES: u64 = 400;

/// Requests that the tracker has answered.
async fn requests(site: &Site) -> u64 {
    let stream = TcpStream::connect(site.tracker_addr).await.unwrap();
    let mut lines = BufReader::new(stream);
    lines.write_all(b"!stats\r\n").await.unwrap();
    let mut answered = 0;
    loop {
        let mut line = String::new();
        lines.read_line(&mut line).await.unwrap();
        match line.trim().split_once(' ') {
            Some(("queries", count)) => answered = count.parse().unwrap(),
            Some(_) => {}
            None => return answered,
        }
    }
}

/// What was called while something happened, for each file.
struct Costs {
    before: BTreeMap<&'static str, u64>,
    requests: u64,
}

impl Costs {
    async fn begin(ledger: &Flaky, site: &Site) -> Costs {
        Costs {
            before: ledger.calls(),
            requests: requests(site).await,
        }
    }

    /// Prints them, and holds them against their bounds; what has no bound may be asked by the clock only.
    async fn end(self, what: &str, ledger: &Flaky, site: &Site, bounds: &[(&str, f64)]) {
        let requests = requests(site).await - self.requests;
        let mut each = vec![("requests to the tracker", requests as f64 / FILES as f64)];
        for (call, after) in ledger.calls() {
            let before = self.before.get(call).copied().unwrap_or_default();
            each.push((call, (after - before) as f64 / FILES as f64));
        }
        println!("{what}:");
        for (call, cost) in &each {
            println!("  {call:24} {cost:.3}");
        }
        for (call, cost) in each {
            let bound = bounds.iter().find(|(of, _)| *of == call);
            let bound = bound.map_or(0.5, |(_, bound)| *bound);
            assert!(
                cost <= bound,
                "{what}: {call} {cost:.3} a file, bound {bound}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_costs_what_the_architecture_says() {
    let mut config = repair_config();
    config.copies_at_once = 16;
    let (_home, ledger, ma, tx) = played_and_real_as(config).await;
    tx.pause("tail", true).await;
    for fid in 1..=FILES {
        let key = format!("k{fid}");
        ma.serve(&key, fid, Http::Good(b"bytes".to_vec()));
        ma.put(&key, fid, 5, None).await;
    }
    let costs = Costs::begin(&ledger, &tx).await;
    tx.pause("tail", false).await;
    ma.passed_by(&tx).await;
    until("what was copied is told", async || {
        match tx.running().journal.depth().entries {
            0 => Ok(()),
            left => Err(format!("{left} entries")),
        }
    })
    .await;
    let bounds = [
        ("requests to the tracker", 4.3),
        ("read", 2.2),
        ("gap", 1.2),
        ("write", 1.2),
        // A write wakes who reads an embedded ledger; what ends is no reason to read.
        ("changes", 0.9),
        // The test's own, which waits for it.
        ("cursor", f64::MAX),
    ];
    costs.end("tail, a copy", &ledger, &tx, &bounds).await;

    let ended = |site: &Site, name: &str| {
        let workers = site.repair().status().workers;
        let worker = workers.into_iter().find(|worker| worker.name == name);
        match worker.unwrap().progress {
            Progress::Scan(scan) => scan.ended,
            Progress::Verify(verify) => verify.ended,
            Progress::None | Progress::Tail(_) => None,
        }
    };
    for (name, bounds) in [
        ("scan", &[][..]),
        (
            "verify",
            &[
                ("requests to the tracker", 1.3),
                ("read", 1.2),
                ("write", 1.2),
                ("changes", 1.2),
            ][..],
        ),
    ] {
        let before = ended(&tx, name);
        let costs = Costs::begin(&ledger, &tx).await;
        tx.repair().begin(name).unwrap();
        until("all files", async || match ended(&tx, name) {
            ended if ended != before => Ok(()),
            _ => Err(format!("{:?}", tx.repair().status().workers)),
        })
        .await;
        let what = format!("{name}, a file that is as it should be");
        costs.end(&what, &ledger, &tx, bounds).await;
    }
}
