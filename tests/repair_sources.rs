//! Whatever a source answers, only the right bytes are closed here; and what can be had is had.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod repair_sites;

use std::time::Duration;

use md5::{Digest, Md5};
use phylactery::file::{Checksum, Held, Replica};
use phylactery::ledger::{FileWrite, Ledger, Placement, Strength};
use phylactery::version::{Version, wall_clock};
use repair_sites::{
    Flaky, Http, Played, Site, any_port, bytes, dc, fid_path, file, played_and_real, repair_config,
    until,
};

fn md5(body: &[u8]) -> Option<Checksum> {
    Some(Checksum::md5(&Md5::digest(body)))
}

fn raw(head: &str, body: &[u8]) -> Http {
    Http::Raw([format!("HTTP/1.0 200 OK\r\n{head}\r\n").as_bytes(), body].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_answers_are_never_closed_and_the_good_one_is() {
    let (_home, _ledger, ma, tx) = played_and_real().await;
    let body = bytes(1, 100_000);
    let wrong = bytes(2, 100_000);
    let size = body.len();
    let elsewhere = format!(
        "HTTP/1.0 302 Found\r\nLocation: {}\r\nContent-Length: 0\r\n\r\n",
        ma.url(7)
    );
    let chunked = |body: &[u8]| {
        [
            format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n",
                body.len()
            )
            .as_bytes(),
            body,
            b"\r\n0\r\n\r\n",
        ]
        .concat()
    };
    let cases = [
        (
            "truncated",
            raw(&format!("Content-Length: {size}\r\n"), &body[..50_000]),
            "ended after",
        ),
        (
            "empty",
            raw(&format!("Content-Length: {size}\r\n"), b""),
            "ended after 0",
        ),
        (
            "truncated without a length",
            raw("", &body[..50_000]),
            "ended after 50000 of",
        ),
        (
            "too long without a length",
            raw("", &[&body[..], b"x"].concat()),
            "has more than",
        ),
        (
            "too long, chunked",
            Http::Raw(chunked(&[&body[..], b"x"].concat())),
            "has more than",
        ),
        (
            "too long and says so",
            raw(
                &format!("Content-Length: {}\r\n", size + 1),
                &[&body[..], b"x"].concat(),
            ),
            "are expected",
        ),
        (
            "too short and says so",
            raw("Content-Length: 3\r\n", b"abc"),
            "has 3 bytes",
        ),
        ("wrong bytes", Http::Good(wrong), "have MD5:"),
        ("redirect", Http::Raw(elsewhere.into_bytes()), "302"),
        (
            "refused",
            Http::Raw(b"HTTP/1.0 500 No\r\nContent-Length: 0\r\n\r\n".to_vec()),
            "500",
        ),
        (
            "partial",
            Http::Raw(
                [
                    format!("HTTP/1.0 206 Partial\r\nContent-Length: {size}\r\n\r\n").as_bytes(),
                    &body,
                ]
                .concat(),
            ),
            "206",
        ),
        ("garbage", Http::Raw(b"hello\r\n\r\n".to_vec()), "GET"),
        ("silence", Http::Raw(Vec::new()), "GET"),
    ];
    ma.body(7, Http::Good(body.clone()));
    for (n, (name, answer, _)) in cases.iter().enumerate() {
        let fid = 100 + n as u64;
        ma.serve(name, fid, answer.clone());
        ma.put(name, fid, size as u64, md5(&body)).await;
    }
    for (name, _, why) in &cases {
        tx.parks(name, why).await;
        assert!(tx.read(name).await.is_none(), "{name} was closed");
    }
    ma.passed_by(&tx).await;
    assert!(!ma.gets().contains(&fid_path(7)), "a redirect was followed");
    // Nothing was left open, nothing takes an operator.
    for (n, (name, ..)) in cases.iter().enumerate() {
        ma.body(100 + n as u64, Http::Good(body.clone()));
        tx.comes(name, &body).await;
    }
    tx.no_gaps().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_that_may_not_be_fetched_are_not() {
    let (_home, _ledger, ma, tx) = played_and_real().await;
    let stranger = tokio::net::TcpListener::bind(any_port()).await.unwrap();
    let addr = stranger.local_addr().unwrap();
    let visited = tokio::spawn(async move { stranger.accept().await.map(drop) });
    ma.body(5, Http::Good(b"body".to_vec()));
    ma.serve_at("foreign", vec![format!("http://{addr}{}", fid_path(5))]);
    ma.serve_at(
        "user",
        vec![format!("http://{}@{addr}{}", ma.storage, fid_path(5))],
    );
    ma.serve_at("scheme", vec!["file:///etc/passwd".into()]);
    ma.serve_at(
        "not a fid",
        vec![format!("http://{}/etc/passwd", ma.storage)],
    );
    ma.serve_at("other fid", vec![ma.url(6)]);
    ma.serve_at("none", Vec::new());
    let cases = [
        ("foreign", "not a storage node that is registered"),
        ("user", "names a user"),
        ("scheme", "neither http nor https"),
        ("not a fid", "does not end in a fid"),
        ("other fid", "fid 6 is under this key by now"),
        ("none", "names no storage node"),
        ("not there", "unknown_key"),
    ];
    for (key, _) in cases {
        ma.put(key, 5, 4, None).await;
    }
    for (key, why) in cases {
        tx.parks(key, why).await;
    }
    assert!(!visited.is_finished(), "somebody came to the stranger");
    assert_eq!(ma.gets(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_storage_node_is_left_for_the_next_path_and_the_next_datacenter() {
    let home = tempfile::tempdir().unwrap();
    let ledger = Flaky::open(home.path());
    let ma = Played::new("ma01", &ledger).await;
    let or = Played::new("or01", &ledger).await;
    let mut tx = Site::new("tx01", home.path(), &ledger).await;
    tx.start(Some(repair_config()));
    // One of the paths is gone, and the next one is cut off.
    ma.body(12, raw("Content-Length: 5\r\n", b"by"));
    ma.serve_at(
        "k",
        vec![ma.url(11), ma.url(11), ma.url(11).replace("dev1", "dev2")],
    );
    ma.body(11, raw("Content-Length: 5\r\n", b"by"));
    // The other datacenter has it too.
    or.serve("k", 77, Http::Good(b"bytes".to_vec()));
    let revision = ma.revision(wall_clock(), 11, 5, md5(b"bytes"));
    let held = Held {
        content: revision.content().unwrap().clone(),
        fid: phylactery::file::Fid(77),
        class: phylactery::file::Class::default_class(),
        claimed: false,
        checked: None,
    };
    let replica = Replica {
        since: wall_clock(),
        held: Some(held),
    };
    let write = FileWrite {
        replica: Some((dc("or01"), replica)),
        ..FileWrite::default()
    };
    ledger
        .write(&file("k"), &write, Strength::Local)
        .await
        .unwrap();
    // Last, so that the scan finds no half of it.
    ma.write("k", &revision, 11).await;
    ma.change("k", revision.version).await;
    tx.comes("k", b"bytes").await;
    assert_eq!(ma.gets().len(), 3, "{:?}", ma.gets());
    assert_eq!(or.gets(), [fid_path(77)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_ledger_does_not_explain_is_neither_overwritten_nor_deleted() {
    let (_home, _ledger, ma, mut tx) = played_and_real().await;
    // Never heard of.
    let fid = tx.put_past_the_proxy("new", b"precious").await;
    ma.serve("new", 5, Http::Good(b"bytes".to_vec()));
    ma.put("new", 5, 5, None).await;
    let gap = tx.parks("new", &format!("fid {fid}")).await;
    assert!(gap.last_error.contains("not touched"), "{gap:?}");
    assert_eq!(tx.read("new").await.unwrap().2, b"precious");
    // Changed past the proxy after it was copied: a delete, and an overwrite.
    for (n, key) in ["deleted", "overwritten"].into_iter().enumerate() {
        ma.serve(key, 20 + n as u64, Http::Good(b"bytes".to_vec()));
        ma.put(key, 20 + n as u64, 5, None).await;
        tx.comes(key, b"bytes").await;
        tx.put_past_the_proxy(key, b"precious").await;
    }
    let mut gone = ma.revision(wall_clock(), 20, 5, None);
    gone.op = phylactery::file::Op::Delete { renamed_to: None };
    let write = FileWrite {
        head: Some(gone.clone()),
        ..FileWrite::default()
    };
    tx.ledger
        .write(&file("deleted"), &write, Strength::Local)
        .await
        .unwrap();
    ma.change("deleted", gone.version).await;
    ma.serve("overwritten", 30, Http::Good(b"newer".to_vec()));
    ma.put("overwritten", 30, 5, None).await;
    for key in ["deleted", "overwritten"] {
        tx.parks(key, "not touched").await;
        assert_eq!(tx.read(key).await.unwrap().2, b"precious");
    }
    // A person takes it away: repair goes on by itself.
    tx.client().await.delete(b"photos", b"new").await.unwrap();
    tx.comes("new", b"bytes").await;
    tx.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_outsider_claims_is_no_source() {
    let (_home, ledger, ma, tx) = played_and_real().await;
    ma.serve("claimed", 5, Http::Good(b"bytes".to_vec()));
    let revision = ma.revision(wall_clock(), 5, 5, None);
    let held = Held {
        content: revision.content().unwrap().clone(),
        fid: phylactery::file::Fid(5),
        class: phylactery::file::Class::default_class(),
        claimed: true,
        checked: None,
    };
    let write = FileWrite {
        head: Some(revision.clone()),
        class: None,
        replica: Some((
            dc("ma01"),
            Replica {
                since: revision.version,
                held: Some(held),
            },
        )),
    };
    ledger
        .write(&file("claimed"), &write, Strength::Local)
        .await
        .unwrap();
    ma.change("claimed", revision.version).await;
    ma.passed_by(&tx).await;
    assert!(tx.read("claimed").await.is_none());
    assert!(ma.gets().is_empty());
    tx.no_gaps().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_due_here_comes() {
    let (_home, ledger, ma, tx) = played_and_real().await;
    let placement = Placement {
        domain: file("x").domain,
        class: None,
        datacenters: [dc("ma01")].into(),
        lag_goal_seconds: None,
        updated: wall_clock(),
    };
    let setting = ledger.set_placement(&placement, Strength::Local);
    setting.await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    ma.serve("k", 5, Http::Good(b"bytes".to_vec()));
    ma.put("k", 5, 5, None).await;
    ma.passed_by(&tx).await;
    assert!(tx.read("k").await.is_none());
    // Due here after all: the next scan brings it.
    let placement = Placement {
        datacenters: [dc("ma01"), dc("tx01")].into(),
        updated: wall_clock(),
        ..placement
    };
    let setting = ledger.set_placement(&placement, Strength::Local);
    setting.await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    tx.repair().ask_for_scan();
    tx.comes("k", b"bytes").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_writes_of_one_microsecond_end_as_the_ledger_ends() {
    let (_home, ledger, ma, tx) = played_and_real().await;
    let or = Played::new("or01", &ledger).await;
    for n in 0..4_u64 {
        let key = format!("k{n}");
        let version = wall_clock();
        ma.serve(&key, 10 + n, Http::Good(b"of ma01".to_vec()));
        or.serve(&key, 20 + n, Http::Good(b"of or01".to_vec()));
        let (a, b) = (
            ma.revision(version, 10 + n, 7, None),
            or.revision(version, 20 + n, 7, None),
        );
        let wanted: &[u8] = if a.wins_over(&b) {
            b"of ma01"
        } else {
            b"of or01"
        };
        let (first, second) = if n % 2 == 0 {
            ((&ma, &a), (&or, &b))
        } else {
            ((&or, &b), (&ma, &a))
        };
        first
            .0
            .write(&key, first.1, if n % 2 == 0 { 10 + n } else { 20 + n })
            .await;
        first.0.change(&key, version).await;
        if n > 1 {
            // The loser may have been copied already.
            until("either", async || {
                tx.read(&key).await.ok_or_else(|| "nothing".to_owned())
            })
            .await;
        }
        second
            .0
            .write(&key, second.1, if n % 2 == 0 { 20 + n } else { 10 + n })
            .await;
        second.0.change(&key, version).await;
        tx.comes(&key, wanted).await;
    }
    tx.no_gaps().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_overwrites_what_arrived_from_a_clock_ahead() {
    let (_home, ledger, ma, tx) = played_and_real().await;
    let ahead = Version(wall_clock().0 + 600_000_000);
    ma.serve("k", 5, Http::Good(b"from the future".to_vec()));
    let revision = ma.revision(ahead, 5, 15, None);
    ma.write("k", &revision, 5).await;
    ma.change("k", ahead).await;
    tx.comes("k", b"from the future").await;
    tx.put("k", None, b"by a client").await;
    tx.comes("k", b"by a client").await;
    let record = ledger.read(&file("k"), Strength::Local).await.unwrap();
    assert!(record.head.unwrap().version > ahead);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_two_hours_ahead_moves_its_keys_and_nothing_else() {
    let (home, ledger, ma, mut tx) = played_and_real().await;
    let mut ny = Site::new("ny01", home.path(), &ledger).await;
    ny.start(Some(repair_config()));
    let ahead = Version(wall_clock().0 + 7_200_000_000);
    ma.serve("k", 5, Http::Good(b"from the future".to_vec()));
    let revision = ma.revision(ahead, 5, 15, None);
    ma.write("k", &revision, 5).await;
    ma.change("k", ahead).await;
    // Put and deleted there before it came here.
    let mut gone = ma.revision(Version(ahead.0 + 5), 6, 5, None);
    gone.op = phylactery::file::Op::Delete { renamed_to: None };
    let write = FileWrite {
        head: Some(gone.clone()),
        ..FileWrite::default()
    };
    ledger
        .write(&file("gone"), &write, Strength::Local)
        .await
        .unwrap();
    ma.change("gone", gone.version).await;
    for site in [&tx, &ny] {
        site.comes("k", b"from the future").await;
        ma.passed_by(site).await;
    }

    tx.kill().await;
    tx.start(Some(repair_config()));
    for (key, body) in [
        ("k", "by a client"),
        ("k", "and again"),
        ("gone", "is back"),
    ] {
        tx.put(key, None, body.as_bytes()).await;
        for site in [&tx, &ny] {
            site.comes(key, body.as_bytes()).await;
        }
    }
    // The other way round, after what came back is above what went.
    ny.set_class("gone", "default").await;
    ny.put("k", None, b"the last word").await;
    for site in [&tx, &ny] {
        site.comes("k", b"the last word").await;
        site.no_gaps().await;
    }
    for site in [&tx, &ny] {
        let journal = &site.running().journal;
        assert!(journal.clock().mark() < ahead, "the clock was poisoned");
        site.put("other", None, b"at our time").await;
        let record = ledger.read(&file("other"), Strength::Local).await.unwrap();
        assert!(record.head.is_none_or(|head| head.version < ahead));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_two_keys_should_have_are_copied_from_here_not_renamed() {
    let (_home, ledger, ma, tx) = played_and_real().await;
    ma.serve("k", 5, Http::Good(b"bytes".to_vec()));
    let put = ma.put("k", 5, 5, None).await;
    let fid = tx.comes("k", b"bytes").await;
    // Renamed from there by one, and there again by another, later: both should be.
    let mut renamed = ma.revision(wall_clock(), 5, 5, None);
    if let phylactery::file::Op::Put(there) = &mut renamed.op {
        there.content = put.content().unwrap().clone();
        there.renamed_from = Some(file("k").key);
    }
    let write = FileWrite {
        head: Some(renamed.clone()),
        ..FileWrite::default()
    };
    ledger
        .write(&file("a"), &write, Strength::Local)
        .await
        .unwrap();
    ma.change("a", renamed.version).await;
    tx.comes("a", b"bytes").await;
    assert_eq!(tx.comes("k", b"bytes").await, fid, "moved to and fro");
    assert_eq!(
        tx.saw(|what| matches!(what, phylactery::events::What::Moved { .. })),
        0
    );
    assert_eq!(ma.gets().len(), 1, "fetched again: {:?}", ma.gets());
}
