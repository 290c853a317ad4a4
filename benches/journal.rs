//! Durable appends per second, beside the least that a disk asks for.
//!
//! `intents`: every writer takes a key's lock, writes an intent, and hands in its outcome, in a closed loop. `lives`: the same,
//! while one task replaces entries by announcements and confirms them, as settling and delivering do. `bare`: the peer,
//! a thread that appends what waits to a file, calls fdatasync once, and answers; same runtime, same channels,
//! as many bytes a record as the journal counts. Left out: tracker, network, ledger.
//!
//! All three take turns in one process, so that the ratio says more than the figures. The folder is
//! made below `PHYLACTERY_BENCH_DIR` (else the target folder): it matters which disk that is.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use phylactery::config::JournalConfig;
use phylactery::file::{Fid, FileName};
use phylactery::journal::{Announcement, By, Details, Journal, Mutation, Outcome};
use phylactery::ledger::FileWrite;
use phylactery::locks::KeyLocks;
use tokio::sync::oneshot;

const ROUND: Duration = Duration::from_secs(2);
const ROUNDS: usize = 3;

/// A line of a bare log: what one intent's row counts for.
const RECORD: usize = 170;

#[tokio::main(flavor = "multi_thread")]
async fn main() {
    // `cargo test --benches` only wants to know that it runs.
    let quick = std::env::args().any(|arg| arg == "--test");
    let round = if quick {
        Duration::from_millis(50)
    } else {
        ROUND
    };
    let root = std::env::var_os("PHYLACTERY_BENCH_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    println!("writers     bare/s  intents/s   ratio    lives/s   ratio   slowest intent");
    for writers in [1, 16, 64] {
        let (mut bare, mut intents, mut lives) = (Vec::new(), Vec::new(), Vec::new());
        let mut slowest = Duration::ZERO;
        for _ in 0..if quick { 1 } else { ROUNDS } {
            bare.push(bare_appends(&root, writers, round).await);
            let (rate, worst) = journal_appends(&root, writers, round, false).await;
            intents.push(rate);
            slowest = slowest.max(worst);
            let (rate, worst) = journal_appends(&root, writers, round, true).await;
            lives.push(rate);
            slowest = slowest.max(worst);
        }
        let (bare, intents, lives) = (median(bare), median(intents), median(lives));
        println!(
            "{writers:7} {bare:10.0} {intents:10.0} {:7.2} {lives:10.0} {:7.2} {slowest:16.1?}",
            intents / bare,
            lives / bare
        );
    }
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

/// Runs `writers` tasks for a round; each calls `step` with its number until the round is over.
async fn closed_loops<F, Fut>(writers: usize, round: Duration, step: F) -> (f64, Duration)
where
    F: Fn(usize, u64) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send,
{
    let done = Arc::new(AtomicU64::new(0));
    let slowest = Arc::new(AtomicU64::new(0));
    let begun = Instant::now();
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let (step, done, slowest) = (step.clone(), done.clone(), slowest.clone());
            tokio::spawn(async move {
                let mut n = 0;
                while begun.elapsed() < round {
                    let asked = Instant::now();
                    step(writer, n).await;
                    slowest.fetch_max(asked.elapsed().as_micros() as u64, Ordering::Relaxed);
                    n += 1;
                }
                done.fetch_add(n, Ordering::Relaxed);
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("a writer panicked");
    }
    let rate = done.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64();
    (rate, Duration::from_micros(slowest.load(Ordering::Relaxed)))
}

async fn journal_appends(
    root: &Path,
    writers: usize,
    round: Duration,
    deliver: bool,
) -> (f64, Duration) {
    let folder = root.join("bench-journal");
    let _fresh = std::fs::remove_dir_all(&folder);
    let config = JournalConfig {
        path: folder.clone(),
        max_size: 8 << 30,
        quiet_time: Duration::from_secs(60),
    };
    let datacenter = "ma01".parse().expect("a name");
    let node = "node1".parse().expect("a name");
    let journal = Journal::open(&config, &datacenter, &node).expect("the journal opens");
    let stop = Arc::new(AtomicBool::new(false));
    let deliverer = deliver.then(|| tokio::spawn(live(journal.clone(), stop.clone())));
    let locks = KeyLocks::default();
    let writing = journal.clone();
    let result = closed_loops(writers, round, move |writer, n| {
        let (journal, locks) = (writing.clone(), locks.clone());
        async move {
            let key = format!("photos/2024/{writer}/{n}.jpg");
            let file = FileName::from_bytes(b"photos", key.as_bytes());
            let guard = locks.lock(&[&file], Duration::from_secs(9)).await;
            let mutation = Mutation::Put {
                file,
                fid: Some(Fid(n)),
                details: Details::default(),
            };
            let intent = journal.intend(&guard, By::Client, mutation).await;
            intent.expect("written").outcome(Outcome::Happened);
        }
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    if let Some(deliverer) = deliverer {
        deliverer.await.expect("delivery panicked");
    }
    journal.close().await;
    let _gone = std::fs::remove_dir_all(&folder);
    result
}

/// What settling and delivering ask of the journal, with a ledger that takes no time.
async fn live(journal: Journal, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        let entries = journal.entries(0, 1000).await.expect("readable");
        let settled: Vec<_> = entries
            .into_iter()
            .filter(|entry| entry.outcome == Some(Outcome::Happened))
            .map(|entry| {
                let announcement = Announcement {
                    file: entry.mutation.files()[0].clone(),
                    write: FileWrite::default(),
                    version: entry.version,
                    change: true,
                };
                (entry.seq, vec![announcement])
            })
            .collect();
        if settled.is_empty() {
            journal.wait_for_work(Duration::from_millis(100)).await;
            continue;
        }
        journal.announce(settled).await.expect("announced");
        let outgoing = journal.outgoing(0, 2000).await.expect("readable");
        let ids = outgoing.into_iter().map(|outgoing| outgoing.id).collect();
        journal.confirm(ids, false).await.expect("confirmed");
    }
}

async fn bare_appends(root: &Path, writers: usize, round: Duration) -> f64 {
    let path = root.join("bench-bare");
    let mut file = std::fs::File::create(&path).expect("a file");
    let (requests, queue) = mpsc::channel::<([u8; RECORD], oneshot::Sender<()>)>();
    let thread = std::thread::spawn(move || {
        let (mut bytes, mut waiting) = (Vec::new(), Vec::new());
        while let Ok(first) = queue.recv() {
            for (record, answer) in std::iter::once(first).chain(queue.try_iter()) {
                bytes.extend_from_slice(&record);
                waiting.push(answer);
            }
            file.write_all(&bytes).expect("appended");
            file.sync_data().expect("synced");
            bytes.clear();
            for answer in waiting.drain(..) {
                let _gone = answer.send(());
            }
        }
    });
    let (rate, _slowest) = closed_loops(writers, round, move |_, _| {
        let requests = requests.clone();
        async move {
            let (answer, answered) = oneshot::channel();
            requests
                .send(([7; RECORD], answer))
                .expect("the thread lives");
            answered.await.expect("answered");
        }
    })
    .await;
    thread.join().expect("no panic");
    let _gone = std::fs::remove_file(&path);
    rate
}
