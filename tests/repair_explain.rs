//! Why a file is here or is not: each reason, as repair itself would judge it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod repair_sites;

use std::sync::Arc;
use std::time::Duration;

use phylactery::file::{Class, ClassCell, Fid, Held, Op, Replica};
use phylactery::journal::{By, Mutation, Outcome};
use phylactery::ledger::{FileWrite, Ledger, Placement, Strength};
use phylactery::repair::explain::{Explanation, Reason, Wanting};
use phylactery::version::wall_clock;
use repair_sites::{Flaky, Http, Played, Site, dc, file, repair_config, until};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

async fn played_and_real() -> (TempDir, Arc<Flaky>, Played, Site) {
    let home = tempfile::tempdir().unwrap();
    let ledger = Flaky::open(home.path());
    let ma = Played::new("ma01", &ledger).await;
    let mut tx = Site::new("tx01", home.path(), &ledger).await;
    tx.start(Some(repair_config()));
    // From here on no scan runs by itself.
    until("the first scan has ended", async || {
        ma.beat().await;
        match tx.repair().caught_up() {
            Some(_) => Ok(()),
            None => Err(format!("{:?}", tx.repair().status())),
        }
    })
    .await;
    (home, ledger, ma, tx)
}

async fn explain(site: &Site, key: &str) -> Explanation {
    site.repair().explain(&file(key)).await
}

/// Waits until the reason has this word, and what is told these words.
async fn explains(site: &Site, key: &str, word: &str, words: &[&str]) -> Explanation {
    until(
        &format!("{key} is explained by {word}, with {words:?}"),
        async || {
            let explanation = explain(site, key).await;
            let says = explanation.says();
            match explanation.reason.word() == word
                && words.iter().all(|words| says.contains(words))
            {
                true => Ok(explanation),
                false => Err(format!("{says} {explanation:?}")),
            }
        },
    )
    .await
}

async fn write(ledger: &Flaky, key: &str, write: FileWrite) {
    ledger
        .write(&file(key), &write, Strength::Local)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_here_and_what_was_deleted() {
    let (_home, ledger, ma, tx) = played_and_real().await;
    ma.serve("k", 5, Http::Good(b"bytes".to_vec()));
    let revision = ma.put("k", 5, 5, None).await;
    let fid = tx.comes("k", b"bytes").await;
    let explanation = explains(
        &tx,
        "k",
        "here",
        &[
            "as it should be",
            &format!("fid {fid}, class default"),
            "stored in ma01 at 20",
        ],
    )
    .await;
    assert_eq!(explanation.tracker, Ok(Some(Fid(fid))));
    assert_eq!(explanation.due, [dc("ma01"), dc("tx01")].into());
    assert_eq!(explanation.placement, None);
    assert_eq!(explanation.record.unwrap().content(), revision.content());

    // Deleted elsewhere: when, and by whom.
    let mut gone = ma.revision(wall_clock(), 5, 5, None);
    gone.op = Op::Delete { renamed_to: None };
    let head = Some(gone.clone());
    write(
        &ledger,
        "k",
        FileWrite {
            head,
            ..FileWrite::default()
        },
    )
    .await;
    let explanation = explains(
        &tx,
        "k",
        "awaits_scan",
        &["was deleted in ma01", "is still here"],
    )
    .await;
    assert_eq!(explanation.wanting, Some(Wanting::StillHere));
    ma.change("k", gone.version).await;
    tx.goes("k").await;
    explains(
        &tx,
        "k",
        "deleted",
        &["It was deleted in ma01 (by node1) at 20", "not here"],
    )
    .await;
    // Here, by the hand of a client of ours.
    tx.put("mine", None, b"mine").await;
    tx.rename("mine", "yours").await;
    explains(
        &tx,
        "mine",
        "deleted",
        &["It was renamed to yours in tx01 (by node1)"],
    )
    .await;
    explains(&tx, "yours", "here", &["stored in tx01"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_due_here_and_which_row_says_so() {
    let (_home, ledger, ma, tx) = played_and_real().await;
    let set = async |class: Option<&str>, datacenters: &[&str]| {
        let placement = Placement {
            domain: file("x").domain,
            class: class.map(|class| Class::from_bytes(class.as_bytes())),
            datacenters: datacenters.iter().map(|name| dc(name)).collect(),
            lag_goal_seconds: None,
            updated: wall_clock(),
        };
        let setting = ledger.set_placement(&placement, Strength::Local);
        setting.await.unwrap();
    };
    ma.serve("old", 4, Http::Good(b"bytes".to_vec()));
    ma.put("old", 4, 5, None).await;
    let fid = tx.comes("old", b"bytes").await;

    set(None, &["ma01"]).await;
    // Until it is obeyed here, another reason counts.
    explains(
        &tx,
        "old",
        "not_due",
        &[
            "the placement of photos, set at 20",
            "says ma01.",
            &format!("here all the same as fid {fid}"),
        ],
    )
    .await;
    ma.put("k", 5, 5, None).await;
    ma.passed_by(&tx).await;
    let explanation = explains(&tx, "k", "not_due", &["the placement of photos, set at 20"]).await;
    assert!(
        !explanation.says().contains("all the same"),
        "{}",
        explanation.says()
    );
    assert_eq!(explanation.due, [dc("ma01")].into());
    assert_eq!(explanation.placement.unwrap().class, None);
    assert!(tx.read("k").await.is_none());

    // Its class counts before its domain.
    set(None, &["ma01", "tx01"]).await;
    set(Some("default"), &["ma01"]).await;
    explains(
        &tx,
        "k",
        "not_due",
        &["the placement of photos:default, set at 20", "says ma01"],
    )
    .await;
    // An older revision that nobody replaces any more.
    ma.put("old", 6, 5, None).await;
    explains(
        &tx,
        "old",
        "not_due",
        &["An older revision of it is here all the same"],
    )
    .await;

    // By default: where an operator has switched it off.
    set(Some("default"), &[]).await;
    set(None, &[]).await;
    tx.register(false).await;
    explains(
        &tx,
        "k",
        "not_due",
        &[
            "no placement was set for it",
            "the active datacenters, which are ma01",
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_did_not_work_and_who_does_not_give_it() {
    let (_home, _ledger, ma, mut tx) = played_and_real().await;
    // Its storage node has lost it.
    ma.serve_at("lost", vec![ma.url(5)]);
    ma.put("lost", 5, 5, None).await;
    let explanation = explains(
        &tx,
        "lost",
        "no_source",
        &[
            "due here and is not here",
            "none of the datacenters that have it (ma01) gives it",
            "404",
        ],
    )
    .await;
    let gap = explanation.gap.unwrap();
    assert!(
        gap.attempts >= 1 && gap.last_error.contains("ma01"),
        "{gap:?}"
    );
    let times = until("a second try", async || {
        let explanation = explain(&tx, "lost").await;
        match explanation.gap {
            Some(ref gap) if gap.attempts >= 2 => Ok(explanation.says()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert!(
        times.contains("times since 20") && times.contains(", again at 20"),
        "{times}"
    );
    // Our own tracker is away: that is no source's fault.
    tx.stop_tracker().await;
    ma.serve("parked", 6, Http::Good(b"bytes".to_vec()));
    ma.put("parked", 6, 5, None).await;
    let explanation = explains(&tx, "parked", "parked", &["tried ", "the last time: "]).await;
    assert!(explanation.tracker.is_err(), "{explanation:?}");
    assert_eq!(explanation.wanting, Some(Wanting::Missing));
    assert_eq!(explanation.hindered, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lies_ahead_and_what_only_a_scan_finds() {
    let (_home, ledger, ma, tx) = played_and_real().await;
    ma.serve("old", 3, Http::Good(b"old".to_vec()));
    ma.put("old", 3, 3, None).await;
    let fid = tx.comes("old", b"old").await;
    // A round of reading may be under way when it is paused.
    tx.pause("tail", true).await;
    let mut seen = 0;
    for fid in 10.. {
        assert!(fid < 100, "the tail does not pause");
        let key = format!("probe {fid}");
        ma.serve(&key, fid, Http::Good(b"bytes".to_vec()));
        ma.put(&key, fid, 5, None).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        if let Reason::Pending(ahead) = explain(&tx, &key).await.reason {
            seen = ahead.number.unwrap() - ahead.before - 1;
            break;
        }
    }
    for (n, key) in ["a", "b", "c"].into_iter().enumerate() {
        ma.serve(key, 200 + n as u64, Http::Good(b"bytes".to_vec()));
        ma.put(key, 200 + n as u64, 5, None).await;
    }
    let explanation = explains(
        &tx,
        "c",
        "pending",
        &[
            "due here and is not here",
            "of the stream ma01/node1/played",
            "repair is paused here (tail)",
        ],
    )
    .await;
    let Reason::Pending(ahead) = explanation.reason else {
        panic!("{explanation:?}");
    };
    assert_eq!(ahead.number, Some(ma.last_number()));
    assert_eq!(ahead.before, ma.last_number() - seen - 1);
    assert!(ahead.before >= 3, "{ahead:?}");
    ma.serve("old", 4, Http::Good(b"newer".to_vec()));
    ma.put("old", 4, 5, None).await;
    let explanation = explains(
        &tx,
        "old",
        "pending",
        &[&format!("Other bytes of it are here as fid {fid}")],
    )
    .await;
    assert_eq!(explanation.wanting, Some(Wanting::OtherBytes));

    // Nobody was told of it.
    ma.serve("untold", 300, Http::Good(b"bytes".to_vec()));
    let revision = ma.revision(wall_clock(), 300, 5, None);
    ma.write("untold", &revision, 300).await;
    let explanation = explains(
        &tx,
        "untold",
        "awaits_scan",
        &[
            "no change that lies ahead says so",
            "only a scan of all files finds it; the next one begins at 20",
        ],
    )
    .await;
    assert!(explanation.next_scan.is_some(), "{explanation:?}");
    tx.pause("scan", true).await;
    tx.repair().ask_for_scan();
    explains(
        &tx,
        "untold",
        "awaits_scan",
        &["repair is paused here (tail, scan)"],
    )
    .await;
    tx.pause("scan", false).await;
    tx.comes("untold", b"bytes").await;
    explains(&tx, "untold", "here", &[]).await;
    until("the scan has ended", async || {
        match explain(&tx, "untold").await.scan {
            Some(scan) if scan.began.is_none() => Ok(()),
            scan => Err(format!("{scan:?}")),
        }
    })
    .await;

    // Here in another class than it should be.
    let class = ClassCell {
        version: wall_clock(),
        content: revision.content().unwrap().clone(),
        class: Class::from_bytes(b"thumb"),
    };
    write(
        &ledger,
        "untold",
        FileWrite {
            class: Some(class),
            ..FileWrite::default()
        },
    )
    .await;
    let explanation = explains(
        &tx,
        "untold",
        "awaits_scan",
        &["here in class default and should be in thumb"],
    )
    .await;
    let to = Class::from_bytes(b"thumb");
    assert_eq!(explanation.wanting, Some(Wanting::OtherClass { to }));

    tx.pause("tail", false).await;
    for key in ["a", "b", "c"] {
        tx.comes(key, b"bytes").await;
    }
    explains(&tx, "c", "here", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_being_worked_on() {
    let (_home, _ledger, ma, tx) = played_and_real().await;
    let end = CancellationToken::new();
    ma.serve("slow", 5, Http::Hang(5, end.clone()));
    ma.put("slow", 5, 5, None).await;
    explains(
        &tx,
        "slow",
        "at_work",
        &["due here and is not here; repair is at it now"],
    )
    .await;
    end.cancel();
    tx.comes("slow", &[1; 5]).await;
    explains(&tx, "slow", "here", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_change_and_a_ledger_that_is_away() {
    let (_home, ledger, _ma, tx) = played_and_real().await;
    let fid = tx.put("k", None, b"bytes").await;
    explains(&tx, "k", "here", &[]).await;
    let running = tx.running();
    let guard = running
        .locks
        .lock(&[&file("k")], Duration::from_secs(10))
        .await;
    let deleting = Mutation::Delete { file: file("k") };
    let intent = running
        .journal
        .intend(&guard, By::Client, deleting)
        .await
        .unwrap();
    let explanation = explains(
        &tx,
        "k",
        "local_change",
        &["changed here", "its outcome is not known"],
    )
    .await;
    assert!(explanation.standing.open, "{explanation:?}");
    assert!(
        explanation.record.unwrap().content().is_some(),
        "what the ledger knows is a fact too"
    );
    intent.outcome(Outcome::DidNotHappen);
    drop(guard);
    explains(&tx, "k", "here", &[]).await;

    ledger.set_away(true);
    let explanation = explains(
        &tx,
        "k",
        "ledger_away",
        &[
            "The ledger is away",
            "a test says so",
            &format!("the tracker here has it as fid {fid}"),
        ],
    )
    .await;
    assert!(explanation.record.is_none(), "{explanation:?}");
    explains(
        &tx,
        "none",
        "ledger_away",
        &["the tracker here does not have it"],
    )
    .await;
    // Told to the journal, and to nobody else yet.
    let newest = tx.put("new", None, b"new").await;
    explains(&tx, "new", "ledger_away", &[&format!("as fid {newest}")]).await;
    ledger.set_away(false);
    explains(&tx, "new", "here", &["stored in tx01"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_or_went_past_the_proxy() {
    let (_home, _ledger, ma, tx) = played_and_real().await;
    explains(
        &tx,
        "none",
        "unknown",
        &["Nobody has reported it", "does not have it"],
    )
    .await;
    let fid = tx.put_past_the_proxy("past", b"bytes").await;
    let explanation = explains(
        &tx,
        "past",
        "past_the_proxy",
        &[
            "past the proxy",
            "never reported to the ledger",
            &format!("as fid {fid}"),
        ],
    )
    .await;
    assert!(explanation.due.is_empty(), "{explanation:?}");

    for key in ["replaced", "gone"] {
        ma.serve(key, 5, Http::Good(b"bytes".to_vec()));
        ma.put(key, 5, 5, None).await;
        tx.comes(key, b"bytes").await;
    }
    let fid = tx.put_past_the_proxy("replaced", b"other").await;
    explains(
        &tx,
        "replaced",
        "past_the_proxy",
        &[&format!("holds fid {fid}"), "It is not touched"],
    )
    .await;
    tx.client().await.delete(b"photos", b"gone").await.unwrap();
    explains(
        &tx,
        "gone",
        "vanished",
        &["The ledger has it here as fid", "the tracker has lost it"],
    )
    .await;
    // What repair says when it meets it is what was told.
    ma.serve("replaced", 6, Http::Good(b"newer".to_vec()));
    ma.put("replaced", 6, 5, None).await;
    let gap = tx.parks("replaced", "not touched").await;
    let explanation = explains(&tx, "replaced", "past_the_proxy", &[]).await;
    assert_eq!(explanation.reason, Reason::PastTheProxy(gap.last_error));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_only_claimed_and_what_cannot_be_read() {
    let (_home, ledger, ma, tx) = played_and_real().await;
    let revision = ma.revision(wall_clock(), 5, 5, None);
    let replica = |claimed| Replica {
        since: revision.version,
        held: Some(Held {
            content: revision.content().unwrap().clone(),
            fid: Fid(5),
            class: Class::default_class(),
            claimed,
            checked: None,
        }),
    };
    let claimed = FileWrite {
        head: Some(revision.clone()),
        class: None,
        replica: Some((dc("ma01"), replica(true))),
    };
    write(&ledger, "claimed", claimed).await;
    explains(
        &tx,
        "claimed",
        "only_claimed",
        &["Outsiders say that it is in ma01"],
    )
    .await;
    let here = FileWrite {
        replica: Some((dc("tx01"), replica(true))),
        ..FileWrite::default()
    };
    write(&ledger, "claimed", here).await;
    explains(
        &tx,
        "claimed",
        "here",
        &["as somebody claims, and nobody has looked"],
    )
    .await;
    let alone = FileWrite {
        replica: Some((dc("ma01"), replica(false))),
        ..FileWrite::default()
    };
    write(&ledger, "early", alone).await;
    explains(&tx, "early", "no_head", &["has not arrived"]).await;
    *ledger.poison.lock() = Some(file("claimed"));
    explains(
        &tx,
        "claimed",
        "unreadable",
        &["cannot be judged", "poison"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn repair_that_is_switched_off_is_a_reason() {
    let (_home, _ledger, ma, mut tx) = played_and_real().await;
    tx.stop().await;
    let mut off = repair_config();
    off.enabled = false;
    tx.start(Some(off));
    ma.put("k", 5, 5, None).await;
    let explanation = explains(
        &tx,
        "k",
        "pending",
        &["is the next", "switched off here (repair.enabled)"],
    )
    .await;
    assert!(explanation.scan.is_none(), "{explanation:?}");
}
