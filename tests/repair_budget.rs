//! What repair takes is limited, and the limits can be changed while it works.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod repair_sites;

use std::time::{Duration, Instant};

use phylactery::ledger::Ledger;
use phylactery::repair::budget::{CURSOR, Setting};
use repair_sites::{Http, Played, played_and_real_as, repair_config, until};

fn bytes_per_second(limit: Option<u64>) -> Option<Setting> {
    Some(Setting {
        bytes_per_second: Some(limit),
        ..Setting::default()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_holds_is_changed_under_a_copy_and_survives_a_kill() {
    let mut config = repair_config();
    config.budget.bytes_per_second = Some(1 << 20);
    // Longer than the pauses that the budget makes.
    config.sources.patience.stall = Duration::from_secs(10);
    let (_home, _ledger, ma, mut tx) = played_and_real_as(config.clone()).await;
    let body = vec![7; 4 << 20];
    ma.serve("first", 1, Http::Pattern(4 << 20));
    let began = Instant::now();
    ma.put("first", 1, 4 << 20, None).await;
    tx.comes("first", &body).await;
    let took = began.elapsed().as_secs_f64();
    assert!(took > 3.0, "4 MiB at 1 MiB a second took {took} s");

    // As slow as can be, and in the middle of it as fast as can be.
    tx.repair()
        .set_budget(bytes_per_second(Some(16 << 10)))
        .await
        .unwrap();
    ma.serve("second", 2, Http::Pattern(4 << 20));
    ma.put("second", 2, 4 << 20, None).await;
    until("the copy is under way", async || {
        let copied = tx.repair().status().bytes_copied;
        (copied > 4 << 20).then_some(()).ok_or(copied.to_string())
    })
    .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(tx.repair().status().copies_in_flight, 1);
    let began = Instant::now();
    tx.repair()
        .set_budget(bytes_per_second(None))
        .await
        .unwrap();
    tx.comes("second", &body).await;
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "it was not heard"
    );

    // What was set stands above the configuration, also of the next process.
    let set = Setting {
        copies_at_once: Some(2),
        ..Setting::default()
    };
    tx.repair().set_budget(Some(set)).await.unwrap();
    tx.kill().await;
    tx.start(Some(config.clone()));
    until("the budget is recalled", async || {
        let limits = tx.repair().budget().limits;
        let as_set = (limits.bytes_per_second, limits.copies_at_once) == (None, 2);
        as_set.then_some(()).ok_or(format!("{limits:?}"))
    })
    .await;
    tx.repair().set_budget(None).await.unwrap();
    tx.kill().await;
    tx.start(Some(config));
    ma.serve("third", 3, Http::Good(b"third".to_vec()));
    ma.put("third", 3, 5, None).await;
    tx.comes("third", b"third").await;
    assert_eq!(tx.repair().budget().limits.bytes_per_second, Some(1 << 20));
    assert_eq!(tx.repair().budget().limits.copies_at_once, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_set_while_the_ledger_is_away_holds_and_drops_nothing_set_before() {
    let (_home, ledger, _ma, mut tx) = played_and_real_as(repair_config()).await;
    let copies = |copies_at_once| {
        Some(Setting {
            copies_at_once: Some(copies_at_once),
            ..Setting::default()
        })
    };
    tx.repair()
        .set_budget(bytes_per_second(Some(1 << 30)))
        .await
        .unwrap();
    ledger.set_away(true);
    assert!(tx.repair().set_budget(copies(3)).await.is_err());
    assert_eq!(tx.repair().budget().limits.copies_at_once, 3);
    tx.kill().await;
    // Set before what was kept could be read.
    tx.start(Some(repair_config()));
    assert!(tx.repair().set_budget(copies(9)).await.is_err());
    ledger.set_away(false);
    until("what was kept is recalled", async || {
        let limits = tx.repair().budget().limits;
        let both = (limits.bytes_per_second, limits.copies_at_once) == (Some(1 << 30), 9);
        both.then_some(()).ok_or(format!("{limits:?}"))
    })
    .await;
    tx.repair().set_budget(copies(8)).await.unwrap();
    let kept = ledger.cursor(&tx.name, CURSOR).await.unwrap().unwrap();
    assert_eq!(
        kept.note,
        r#"{"bytes_per_second":1073741824,"copies_at_once":8}"#
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn files_a_second_and_copies_of_one_source_are_limited() {
    let mut config = repair_config();
    config.budget.files_per_second = Some(10);
    let (_home, _ledger, ma, tx) = played_and_real_as(config).await;
    let began = Instant::now();
    for n in 0..30 {
        let key = format!("k{n}");
        ma.serve(&key, 10 + n, Http::Good(key.as_bytes().to_vec()));
        ma.put(&key, 10 + n, key.len() as u64, None).await;
    }
    for n in 0..30 {
        let key = format!("k{n}");
        tx.comes(&key, key.as_bytes()).await;
    }
    let took = began.elapsed().as_secs_f64();
    assert!(took > 2.5, "30 files at 10 a second took {took} s");

    // Of one source, one at a time; the other one is not held up by it.
    let set = Setting {
        files_per_second: Some(None),
        copies_per_source: Some(Some(1)),
        ..Setting::default()
    };
    tx.repair().set_budget(Some(set)).await.unwrap();
    let or = Played::new("or01", &tx.ledger).await;
    let end = tokio_util::sync::CancellationToken::new();
    for n in 0..3 {
        ma.serve(&format!("slow {n}"), 50 + n, Http::Hang(100, end.clone()));
        ma.put(&format!("slow {n}"), 50 + n, 100, None).await;
    }
    or.serve("other", 9, Http::Good(b"other".to_vec()));
    or.put("other", 9, 5, None).await;
    tx.comes("other", b"other").await;
    let slow = ma
        .gets()
        .into_iter()
        .filter(|path| path.contains("000000005"));
    assert_eq!(slow.count(), 1, "{:?}", ma.gets());
    end.cancel();
    for n in 0..3 {
        tx.comes(&format!("slow {n}"), &[1; 100]).await;
    }
}
