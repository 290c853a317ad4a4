//! Clients who come between what repair has learned of a file and what it does about it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod repair_sites;

use phylactery::file::Op;
use phylactery::ledger::{FileWrite, Ledger, Strength};
use phylactery::version::{Version, wall_clock};
use repair_sites::{Http, file, played_and_real, until};
use tokio_util::sync::CancellationToken;

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_not_closed_over_a_change_that_was_made_and_delivered_meanwhile() {
    let (_home, ledger, ma, tx) = played_and_real().await;
    let go_on = CancellationToken::new();
    ma.serve("k", 5, Http::Hang(9, go_on.clone()));
    ma.put("k", 5, 9, None).await;
    until("the copy is under way", async || match ma.gets().len() {
        0 => Err("no GET".to_owned()),
        _ => Ok(()),
    })
    .await;
    tx.put("k", None, b"by a client").await;
    tx.delete("k").await;
    until("all is delivered", async || {
        match tx.running().journal.depth().entries {
            0 => Ok(()),
            left => Err(format!("{left} are left")),
        }
    })
    .await;
    go_on.cancel();
    ma.passed_by(&tx).await;
    tx.no_gaps().await;
    assert_eq!(tx.read("k").await, None, "a deleted file came back");
    let record = ledger.read(&file("k"), Strength::Local).await.unwrap();
    assert!(record.is_whole_in(&tx.name, true), "{record:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_newer_than_a_delete_from_a_clock_ahead_that_had_nothing_to_delete_here() {
    let (_home, ledger, ma, tx) = played_and_real().await;
    let ahead = Version(wall_clock().0 + 600_000_000);
    let mut gone = ma.revision(ahead, 5, 15, None);
    gone.op = Op::Delete { renamed_to: None };
    let write = FileWrite {
        head: Some(gone),
        ..FileWrite::default()
    };
    ledger
        .write(&file("k"), &write, Strength::Local)
        .await
        .unwrap();
    ma.change("k", ahead).await;
    ma.passed_by(&tx).await;
    tx.put("k", None, b"by a client").await;
    tx.comes("k", b"by a client").await;
}
