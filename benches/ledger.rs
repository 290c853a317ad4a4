//! The embedded ledger's figures: durable writes per second by the number of callers, and files scanned per second.
//!
//! Includes the sync of every commit and the reading of what a write meets. Leaves out several processes
//! on one file. `cargo bench --bench ledger [-- FOLDER]`; the folder decides which disk is measured.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use phylactery::file::FileName;
use phylactery::ledger::embedded::EmbeddedLedger;
use phylactery::ledger::{Ledger, Strength, TokenRange};

mod announced;
use announced::write;

/// Long enough to pass several checkpoints.
const WRITING: Duration = Duration::from_secs(5);

/// As many as one transaction takes: what one caller after another would write alone.
const CALLERS: [usize; 4] = [1, 16, 64, 256];

async fn writes_per_second(ledger: &Arc<EmbeddedLedger>, next: &Arc<AtomicI64>, callers: usize) {
    let begun = Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|_| {
            let (ledger, next) = (ledger.clone(), next.clone());
            tokio::spawn(async move {
                let mut waits = Vec::new();
                while begun.elapsed() < WRITING {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    let file =
                        FileName::from_bytes(b"photos", format!("2024/{n:09}.jpg").as_bytes());
                    let asked = Instant::now();
                    let done = ledger.write(&file, &write(n), Strength::Local).await;
                    done.expect("a write");
                    waits.push(asked.elapsed());
                }
                waits
            })
        })
        .collect();
    let mut waits = Vec::new();
    for task in tasks {
        waits.extend(task.await.expect("a caller"));
    }
    let rate = waits.len() as f64 / begun.elapsed().as_secs_f64();
    waits.sort();
    let at = |share: f64| waits[(waits.len() as f64 * share) as usize].as_secs_f64() * 1e3;
    println!(
        "{callers:>4} callers: {rate:>7.0} writes/s, each {:.2} ms (half), {:.2} ms (99 of 100)",
        at(0.5),
        at(0.99)
    );
}

async fn scanned_per_second(ledger: &EmbeddedLedger, limit: usize) {
    let begun = Instant::now();
    let mut files = 0;
    let mut from: Option<String> = None;
    loop {
        let page = ledger
            .scan(TokenRange::ALL, from.as_deref(), limit, Strength::Local)
            .await;
        let page = page.expect("a page");
        files += page.files.len();
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    let rate = files as f64 / begun.elapsed().as_secs_f64();
    println!("scan of {files} files by {limit}: {rate:.0} files/s");
}

fn main() {
    // Cargo passes options of its own.
    let folder = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let folder = folder.map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = tempfile::tempdir_in(folder).expect("a folder");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let ledger = EmbeddedLedger::open(folder.path().join("ledger.sqlite")).expect("a ledger");
        let ledger = Arc::new(ledger);
        let next = Arc::new(AtomicI64::new(1));
        for callers in CALLERS {
            writes_per_second(&ledger, &next, callers).await;
        }
        for limit in [100, 1000] {
            scanned_per_second(&ledger, limit).await;
        }
    });
}
