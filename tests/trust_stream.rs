//! No number of a stream is used twice, and nothing is overlooked, whatever is known of the ledger when a journal was set back.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod repair_sites;

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use phylactery::ledger::{Change, Ledger, StreamId, Strength};
use phylactery::trust::Why;
use repair_sites::{Flaky, Http, Played, Site, file, repair_config, until};

fn copy(from: &Path, to: &Path) {
    let _not_there = std::fs::remove_dir_all(to);
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

async fn changes(ledger: &Flaky, stream: &StreamId) -> Vec<Change> {
    ledger
        .changes(stream, 0, 100, Strength::Local)
        .await
        .unwrap()
}

fn keys(changes: &[Change]) -> Vec<(u64, String)> {
    let file = |change: &Change| change.file.as_ref().unwrap().key.escaped().to_owned();
    changes
        .iter()
        .map(|change| (change.number, file(change)))
        .collect()
}

async fn is_delivered(site: &Site) {
    until("all is delivered", async || {
        match site.running().journal.depth().entries {
            0 => Ok(()),
            waiting => Err(format!("{waiting} wait")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_was_set_back_tells_nothing_before_the_ledger_was_looked_at() {
    let home = tempfile::tempdir().unwrap();
    let ledger = Flaky::open(home.path());
    let ma = Played::new("ma01", &ledger).await;
    let mut tx = Site::new("tx01", home.path(), &ledger).await;
    tx.start_audited(Some(repair_config())).await;
    tx.put("one", None, b"1").await;
    is_delivered(&tx).await;
    tx.stop().await;
    let (journal, backup) = (tx.folder.join("journal"), tx.folder.join("backup"));
    copy(&journal, &backup);
    tx.start_audited(Some(repair_config())).await;
    let old = tx.running().journal.stream();
    tx.put("two", None, b"2").await;
    is_delivered(&tx).await;
    tx.put("three", None, b"3").await;
    is_delivered(&tx).await;
    tx.kill().await;
    copy(&backup, &journal);
    let told = changes(&ledger, &old).await;
    assert_eq!(told.len(), 3);

    ledger.nodes_away.store(true, Ordering::SeqCst);
    let auditor = tx.start_audited(Some(repair_config())).await;
    assert_eq!(tx.running().journal.stream(), old);
    tx.put("four", None, b"4").await;
    tx.put("five", None, b"5").await;
    until("they have numbers", async || {
        match tx.running().journal.last_number() {
            3 => Ok(()),
            last => Err(last.to_string()),
        }
    })
    .await;
    // Longer than a round of delivery, if there were one.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(tx.running().journal.depth().entries, 2);
    assert_eq!(
        changes(&ledger, &old).await,
        told,
        "a number was used twice"
    );
    assert!(auditor.trust().doubt().is_none(), "nobody has looked");
    assert!(auditor.unheard().unwrap().contains("a test says so"));
    ma.serve("elsewhere", 1, Http::Good(b"6".to_vec()));
    ma.put("elsewhere", 1, 1, None).await;

    ledger.nodes_away.store(false, Ordering::SeqCst);
    is_delivered(&tx).await;
    let new = tx.running().journal.stream();
    assert_eq!(changes(&ledger, &old).await, told);
    assert_eq!(
        keys(&changes(&ledger, &new).await),
        [(1, "four".to_owned()), (2, "five".to_owned())]
    );
    let doubt = auditor.trust().doubt().unwrap();
    assert!(
        matches!(&doubt.why, Why::JournalSteppedBack { left, .. } if *left == old.incarnation),
        "{doubt:?}"
    );
    assert!(tx.read("elsewhere").await.is_none());
    assert_eq!(tx.repair().caught_up(), None);
    assert!(auditor.accept("another").await.is_err());
    assert_eq!(auditor.accept(&doubt.id()).await.unwrap(), None);
    tx.comes("elsewhere", b"6").await;
    ma.passed_by(&tx).await;
    until("caught up", async || {
        ma.beat().await;
        let status = || format!("{:?}", tx.repair().status());
        tx.repair().caught_up().ok_or_else(status)
    })
    .await;
    let record = ledger.read(&file("five"), Strength::Local).await.unwrap();
    assert_eq!(record.head.unwrap().origin, tx.name);
}
