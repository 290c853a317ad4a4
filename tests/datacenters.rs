//! The life of a datacenter, as repair meets it: what is not due in one, and one that rests, goes, or comes back.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod repair_sites;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use phylactery::config::RepairConfig;
use phylactery::file::{Held, Replica};
use phylactery::ledger::{Cursor, FileWrite, Ledger, MemberState, Membership, Placement, Strength};
use phylactery::repair::explain::Wanting;
use phylactery::repair::status::{Progress, State};
use phylactery::version::{Version, ago, wall_clock};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use repair_sites::{
    Flaky, Http, Played, Site, bytes, dc, file, played_and_real, played_and_real_as, repair_config,
    until,
};
use tempfile::TempDir;

/// An operator says where the files are due.
async fn place(ledger: &Flaky, datacenters: &[&str], remove_extra: bool) {
    let placement = Placement {
        domain: file("x").domain,
        class: None,
        datacenters: datacenters.iter().map(|name| dc(name)).collect(),
        lag_goal_seconds: None,
        remove_extra,
        updated: wall_clock(),
    };
    let setting = ledger.set_placement(&placement, Strength::Each);
    setting.await.unwrap();
}

/// Two real datacenters that repair.
async fn two_real() -> (TempDir, Arc<Flaky>, Site, Site) {
    let home = tempfile::tempdir().unwrap();
    let ledger = Flaky::open(home.path());
    let mut ma = Site::new("ma01", home.path(), &ledger).await;
    let mut tx = Site::new("tx01", home.path(), &ledger).await;
    ma.start(Some(repair_config()));
    tx.start(Some(repair_config()));
    (home, ledger, ma, tx)
}

/// Waits for a whole scan that begins from now on.
async fn scanned(site: &Site) {
    let now = wall_clock();
    site.repair().ask_for_scan();
    until(&format!("a scan of {}", site.name), async || {
        match site
            .repair()
            .status()
            .workers
            .iter()
            .find_map(|w| match &w.progress {
                Progress::Scan(scan) => scan.ended_scan_began,
                _ => None,
            }) {
            Some(began) if began > now => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

/// Waits until a datacenter goes by rules under which the file is not due there; whether what it has is to go.
async fn not_due(site: &Site, key: &str, goes: bool) {
    until(&format!("{key} is not due in {}", site.name), async || {
        let explanation = site.repair().explain(&file(key)).await;
        let to_go = explanation.wanting == Some(Wanting::NotWanted);
        match !explanation.due.contains(&site.name) && to_go == goes {
            true => Ok(()),
            false => Err(format!("{explanation:?}")),
        }
    })
    .await;
}

/// What a datacenter is said to hold of a file.
async fn held(site: &Site, key: &str) -> Option<Held> {
    let mut record = site.record(key).await;
    record.replicas.remove(&site.name)?.held
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_due_goes_only_if_an_operator_has_said_so() {
    let (_home, ledger, ma, tx) = two_real().await;
    ma.put("k", None, b"bytes").await;
    tx.comes("k", b"bytes").await;
    place(&ledger, &["tx01"], false).await;
    not_due(&ma, "k", false).await;
    scanned(&ma).await;
    assert!(ma.read("k").await.is_some(), "narrowing has removed it");

    place(&ledger, &["tx01"], true).await;
    ma.goes("k").await;
    tx.comes("k", b"bytes").await;
    // Due again: it comes back.
    place(&ledger, &["ma01", "tx01"], true).await;
    ma.comes("k", b"bytes").await;
    ma.no_gaps().await;
    tx.no_gaps().await;
}

/// `key` is in ma01, which is played, and in tx01, and due in ma01 alone.
async fn due_elsewhere_alone(key: &str) -> (TempDir, Arc<Flaky>, Played, Site) {
    let (home, ledger, ma, tx) = played_and_real().await;
    ma.serve(key, 1, Http::Good(b"bytes".to_vec()));
    ma.put(key, 1, 5, None).await;
    tx.comes(key, b"bytes").await;
    (home, ledger, ma, tx)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_replica_stays_and_nobody_is_taken_at_their_word() {
    let (_home, ledger, ma, tx) = due_elsewhere_alone("k").await;
    // Said to be there, and it is not.
    ma.body(
        1,
        Http::Raw(b"HTTP/1.0 404 Not found\r\nContent-Length: 0\r\n\r\n".to_vec()),
    );
    place(&ledger, &["ma01"], true).await;
    let why = "no datacenter where it is due shows that it has it: ma01: nothing is at";
    tx.parks("k", why).await;
    assert!(held(&tx, "k").await.unwrap().leaving, "published before");
    assert!(tx.read("k").await.is_some());

    // Due here again: it is not about to go any more.
    place(&ledger, &["ma01", "tx01"], true).await;
    until("k is kept", async || match held(&tx, "k").await {
        Some(held) if !held.leaving => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    tx.no_gaps().await;
    let kept = tx.read("k").await;
    assert_eq!(kept.map(|(_, _, body)| body), Some(b"bytes".to_vec()));

    place(&ledger, &["ma01"], true).await;
    ma.body(1, Http::Good(b"bytes".to_vec()));
    tx.goes("k").await;
}

/// Where the other one is about to go too, each sees the other leaving: whatever rules each of them goes by.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_leaving_elsewhere_is_nobody_to_rely_on() {
    let (_home, ledger, ma, tx) = due_elsewhere_alone("k").await;
    let say_of_ma = async |leaving| {
        let mut replica = tx.record("k").await.replicas.remove(&ma.name).unwrap();
        let held = replica.held.take().unwrap();
        let replica = Replica {
            since: wall_clock(),
            held: Some(Held { leaving, ..held }),
        };
        let write = FileWrite {
            replica: Some((ma.name.clone(), replica)),
            ..FileWrite::default()
        };
        let k = file("k");
        ledger.write(&k, &write, Strength::Each).await.unwrap();
    };
    say_of_ma(true).await;
    place(&ledger, &["ma01"], true).await;
    not_due(&tx, "k", true).await;
    scanned(&tx).await;
    assert!(tx.read("k").await.is_some());
    // Nor is a whole datacenter that is leaving.
    let leaving = Membership {
        state: MemberState::Leaving,
        updated: wall_clock(),
        ..Membership::unsaid(ma.name.clone())
    };
    ledger
        .set_membership(&leaving, Strength::Each)
        .await
        .unwrap();
    say_of_ma(false).await;
    scanned(&tx).await;
    scanned(&tx).await;
    assert!(tx.read("k").await.is_some());
    let stays = Membership {
        state: MemberState::Active,
        updated: wall_clock(),
        ..leaving
    };
    ledger.set_membership(&stays, Strength::Each).await.unwrap();
    until("k goes", async || {
        scanned(&tx).await;
        match tx.read("k").await {
            None => Ok(()),
            Some(_) => Err(format!("{:?}", tx.gap("k").await)),
        }
    })
    .await;
}

/// All datacenters of the ledger have to hear that it is about to go, and say what they have.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_goes_that_not_everybody_has_heard_of() {
    // A scan that does not wait for those who are away. Nobody else here is.
    fail::cfg("scan::silent_at_once", "return").unwrap();
    let (_home, ledger, _ma, tx) = due_elsewhere_alone("k").await;
    place(&ledger, &["ma01"], true).await;
    ledger
        .others_away
        .store(true, std::sync::atomic::Ordering::SeqCst);
    tx.parks("k", "not every datacenter of the ledger").await;
    assert!(tx.read("k").await.is_some());
    ledger
        .others_away
        .store(false, std::sync::atomic::Ordering::SeqCst);
    tx.goes("k").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_that_are_changed_to_and_fro_lose_nothing() {
    let seed = std::env::var("PHYLACTERY_SEED");
    let seed = seed.ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(rand::random::<u64>);
    println!("PHYLACTERY_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let (_home, ledger, ma, tx) = two_real().await;
    let mut stored = BTreeMap::new();
    for n in 0..12 {
        let (key, body) = (format!("k{n}"), bytes(seed ^ n, 100));
        [&ma, &tx][n as usize % 2].put(&key, None, &body).await;
        stored.insert(key, body);
    }
    let rules: [&[&str]; 3] = [&["ma01"], &["tx01"], &["ma01", "tx01"]];
    for _ in 0..15 {
        place(&ledger, rules[rng.random_range(0..3)], rng.random_bool(0.8)).await;
        let pause = Duration::from_millis(rng.random_range(0..1500));
        tokio::time::sleep(pause).await;
        for key in stored.keys() {
            let somewhere = [ma.read(key).await, tx.read(key).await];
            // One that moves between the two looks is met by neither.
            if somewhere.iter().all(Option::is_none) {
                let again = [ma.read(key).await, tx.read(key).await];
                assert!(again.iter().any(Option::is_some), "{key} is lost");
            }
        }
    }
    place(&ledger, &["ma01", "tx01"], true).await;
    for (key, body) in &stored {
        ma.comes(key, body).await;
        tx.comes(key, body).await;
    }
    ma.no_gaps().await;
    tx.no_gaps().await;
}

/// Bytes that were overwritten elsewhere are not served for ever where the file is not due any more, and go only once the new ones are safe.
#[tokio::test(flavor = "multi_thread")]
async fn older_bytes_go_where_newer_ones_do_not_come() {
    let (_home, ledger, ma, tx) = played_and_real().await;
    ma.serve("k", 1, Http::Good(b"older".to_vec()));
    ma.put("k", 1, 5, None).await;
    tx.comes("k", b"older").await;
    place(&ledger, &["ma01"], false).await;
    not_due(&tx, "k", false).await;
    assert!(tx.read("k").await.is_some());
    // Said to be there, and not to be had.
    ma.serve_at("k", vec![ma.url(2)]);
    ma.put("k", 2, 5, None).await;
    tx.parks("k", "shows that it has it").await;
    let older = tx.read("k").await.unwrap();
    assert_eq!(older.2, b"older");
    ma.body(2, Http::Good(b"newer".to_vec()));
    tx.goes("k").await;
    tx.no_gaps().await;
}

/// A client overwrites it where it is not due: that is the newest, and stays until it is elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_stores_where_it_is_not_due_stays() {
    let (_home, ledger, ma, tx) = two_real().await;
    ma.put("k", None, b"older").await;
    tx.comes("k", b"older").await;
    place(&ledger, &["ma01"], false).await;
    not_due(&tx, "k", false).await;
    tx.put("k", None, b"newer").await;
    ma.comes("k", b"newer").await;
    scanned(&tx).await;
    let (_, _, body) = tx.read("k").await.unwrap();
    assert_eq!(body, b"newer");
}

fn state_of(site: &Site, worker: &str) -> State {
    let workers = site.repair().status().workers;
    workers.iter().find(|w| w.name == worker).unwrap().state
}

async fn all_are(site: &Site, state: State) {
    until(&format!("{} is {state:?}", site.name), async || {
        let workers = site.repair().status().workers;
        match workers.iter().all(|worker| worker.state == state) {
            true => Ok(()),
            false => Err(format!("{workers:?}")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_datacenter_rests_until_it_is_resumed_also_over_a_restart() {
    let (_home, _ledger, ma, mut tx) = two_real().await;
    ma.put("before", None, b"bytes").await;
    tx.comes("before", b"bytes").await;
    tx.say(MemberState::Paused).await;
    all_are(&tx, State::Paused).await;
    ma.put("meanwhile", None, b"bytes").await;
    // What clients do there goes on, and is told.
    tx.put("of tx01", None, b"bytes").await;
    ma.comes("of tx01", b"bytes").await;
    tx.kill().await;
    tx.start(Some(repair_config()));
    all_are(&tx, State::Paused).await;
    assert!(tx.read("meanwhile").await.is_none());
    assert_eq!(tx.repair().caught_up(), None);
    let hindered = tx.repair().hindered().unwrap();
    assert!(hindered.contains("paused"), "{hindered}");
    tx.say(MemberState::Active).await;
    tx.comes("meanwhile", b"bytes").await;
}

/// Takes in again what was removed or away.
async fn rejoin(site: &Site) {
    let said = Membership {
        rejoined: Some(wall_clock()),
        updated: wall_clock(),
        ..Membership::unsaid(site.name.clone())
    };
    let saying = site.ledger.set_membership(&said, Strength::Each);
    saying.await.unwrap();
}

/// Until verify has been over all that is there, nothing else is done.
async fn verifies_first(tx: &Site, missing: &str) {
    tx.pause("verify", true).await;
    rejoin(tx).await;
    until("it verifies first", async || match tx.repair().hindered() {
        Some(why) if why.contains("verifies what it holds first") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    // As long as any of the others would need.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(tx.read(missing).await.is_none(), "something else was first");
    assert_ne!(state_of(tx, "tail"), State::Running);
    tx.pause("verify", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_one_that_was_removed_and_it_joins_again_verified() {
    let (_home, ledger, ma, mut tx) = two_real().await;
    for key in ["kept", "deleted", "lost"] {
        ma.put(key, None, key.as_bytes()).await;
        tx.comes(key, key.as_bytes()).await;
    }
    let proved = async |since: Version| {
        until("ma01 is in sync", async || match ma.repair().caught_up() {
            Some(at) if at > since => Ok(()),
            other => Err(format!("{other:?}, {:?}", ma.repair().status())),
        })
        .await;
    };
    proved(Version(0)).await;
    tx.say(MemberState::Removed).await;
    all_are(&tx, State::Stopped).await;
    let hindered = tx.repair().hindered().unwrap();
    assert!(hindered.contains("dc rejoin tx01"), "{hindered}");
    // Its clients are served; what they change is told, as long as it runs.
    tx.put("of tx01", None, b"bytes").await;
    ma.comes("of tx01", b"bytes").await;
    tx.kill().await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    proved(wall_clock()).await;

    ma.delete("deleted").await;
    ma.put("new", None, b"new").await;
    // Past the proxy, while nobody looked.
    let mut client = tx.client().await;
    client.delete(b"photos", b"lost").await.unwrap();
    tx.start(Some(repair_config()));
    all_are(&tx, State::Stopped).await;
    verifies_first(&tx, "new").await;
    tx.comes("new", b"new").await;
    tx.comes("lost", b"lost").await;
    tx.comes("kept", b"kept").await;
    tx.goes("deleted").await;
    tx.no_gaps().await;
    // Nobody takes back a delete.
    assert!(ma.read("deleted").await.is_none());
    let record = ledger.read(&file("deleted"), Strength::Local).await;
    assert_eq!(record.unwrap().content(), None);
    until("it is in sync again", async || {
        match tx.repair().caught_up() {
            Some(_) => Ok(()),
            None => Err(format!("{:?}", tx.repair().status())),
        }
    })
    .await;
}

/// Its last scan that proves anything is older than deletes are remembered: what it holds may have been deleted and forgotten.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_was_away_too_long_does_nothing_before_it_joins_again() {
    let (_home, ledger, ma, mut tx) = two_real().await;
    ma.put("kept", None, b"kept").await;
    tx.comes("kept", b"kept").await;
    scanned(&tx).await;
    tx.stop().await;
    let was = ledger.cursor(&tx.name, "scan").await.unwrap().unwrap();
    let mut note: serde_json::Value = serde_json::from_str(&was.note).unwrap();
    let retention = repair_config().tombstone_retention;
    note["thorough_began"] = serde_json::json!(ago(retention * 2));
    let older = Cursor {
        note: note.to_string(),
        updated: wall_clock(),
        ..was
    };
    ledger.set_cursor(&tx.name, &older).await.unwrap();
    ma.put("new", None, b"new").await;

    tx.start(Some(repair_config()));
    all_are(&tx, State::Stopped).await;
    let why = tx.repair().hindered().unwrap();
    assert!(
        why.contains("away for longer") && why.contains("dc rejoin tx01"),
        "{why}"
    );
    // It is not over by starting again.
    tx.kill().await;
    tx.start(Some(repair_config()));
    all_are(&tx, State::Stopped).await;
    assert!(tx.read("new").await.is_none());
    verifies_first(&tx, "new").await;
    tx.comes("new", b"new").await;
    // Not again, now that it works.
    tx.kill().await;
    tx.start(Some(repair_config()));
    ma.put("newer", None, b"newer").await;
    tx.comes("newer", b"newer").await;
}

/// A node that registers itself does not say what its operator says.
#[tokio::test(flavor = "multi_thread")]
async fn who_registers_does_not_overwrite_an_operator() {
    let (_home, ledger, _ma, tx) = two_real().await;
    tx.say(MemberState::Paused).await;
    tx.register().await;
    let said = ledger.memberships().await.unwrap();
    assert_eq!(said.len(), 1);
    assert_eq!(said[0].state, MemberState::Paused);
    all_are(&tx, State::Paused).await;
}

/// A file in a datacenter that was removed keeps nobody from forgetting; one that is paused does.
#[tokio::test(flavor = "multi_thread")]
async fn a_paused_datacenter_holds_back_forgetting_and_a_removed_one_does_not() {
    let config = RepairConfig {
        scan_every: Duration::from_secs(1),
        tombstone_retention: Duration::from_secs(2),
        ..repair_config()
    };
    let (_home, ledger, ma, tx) = played_and_real_as(config.clone()).await;
    // Of a datacenter that has looked at nothing yet.
    let state_of_ma = async |state| {
        let said = Membership {
            state,
            updated: wall_clock(),
            ..Membership::unsaid(dc("ma01"))
        };
        let saying = ledger.set_membership(&said, Strength::Each);
        saying.await.unwrap();
    };
    state_of_ma(MemberState::Paused).await;
    tx.put("k", None, b"bytes").await;
    tx.delete("k").await;
    tokio::time::sleep(config.tombstone_retention).await;
    // It speaks, and has nothing to tell; only it has not looked.
    ma.beat().await;
    tokio::time::sleep(config.tombstone_retention / 2).await;
    scanned(&tx).await;
    scanned(&tx).await;
    assert!(tx.record("k").await.head.is_some(), "ma01 has not seen it");
    state_of_ma(MemberState::Removed).await;
    until("k is forgotten", async || match tx.record("k").await.head {
        None => Ok(()),
        head => Err(format!("{head:?}")),
    })
    .await;
}
