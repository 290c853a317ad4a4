//! A copy costs the same memory whatever the size of the file.
//!
//! Alone in its process: what is measured is all of it, the receiving tracker and storage node included.
//! `REPAIR_MEMORY_MIB=1024` takes a larger file.

mod repair_sites;

use phylactery::ledger::{Ledger, Strength};
use repair_sites::{Flaky, Http, Played, Site, file, repair_config, until};

/// `VmRSS` or `VmHWM` of this process, in KiB.
fn memory(what: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc is there");
    let line = status
        .lines()
        .find(|line| line.starts_with(what))
        .expect("the line is there");
    line.split_whitespace()
        .nth(1)
        .and_then(|kib| kib.parse().ok())
        .expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_copy_stays_small_in_memory() {
    let mib: u64 =
        std::env::var("REPAIR_MEMORY_MIB").map_or(256, |mib| mib.parse().expect("a number"));
    let home = tempfile::tempdir().unwrap();
    let ledger = Flaky::open(home.path());
    let ma = Played::new("ma01", &ledger).await;
    let mut tx = Site::new("tx01", home.path(), &ledger).await;
    tx.start(Some(repair_config()));
    ma.serve("small", 1, Http::Pattern(1 << 20));
    ma.put("small", 1, 1 << 20, None).await;
    until("the small one", async || {
        tx.read("small").await.ok_or_else(|| "not there".to_owned())
    })
    .await;
    let idle = memory("VmRSS");
    // Peaks from here on only.
    std::fs::write("/proc/self/clear_refs", "5").expect("the peak is reset");
    let size = mib << 20;
    ma.serve("large", 2, Http::Pattern(size));
    ma.put("large", 2, size, None).await;
    until("the large one", async || {
        let record = ledger
            .read(&file("large"), Strength::Local)
            .await
            .map_err(|e| e.to_string())?;
        match record.replicas.get(&tx.name) {
            Some(replica) if replica.held.is_some() => Ok(()),
            _ => Err(format!(
                "{:?}; {:?}",
                tx.repair().status(),
                tx.gap("large").await
            )),
        }
    })
    .await;
    let peak = memory("VmHWM");
    println!(
        "{mib} MiB copied: {} KiB above idle ({idle} KiB)",
        peak.saturating_sub(idle)
    );
    assert!(
        peak < idle + (64 << 10),
        "{} KiB above idle",
        peak.saturating_sub(idle)
    );
    let length = tx.trackers.file_info(&file("large")).await.unwrap().length;
    assert_eq!(length, size);
}
