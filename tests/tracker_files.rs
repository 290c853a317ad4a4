//! What a tracker keeps: over restarts, under concurrency, and in the background.

#![allow(
    clippy::unwrap_used,
    reason = "a test panics when something is not as it should be"
)]

mod tracker_support;

use std::time::Duration;

use mogilefs_protocol::client::{CreateClose, CreateOpen, ListKeys};
use phylactery::tracker::checksum::Kind;
use phylactery::tracker::{NewClass, TrackerError, fid_file};
use tokio_util::sync::CancellationToken;
use tracker_support::{config, eventually, fetch, start, store};

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(config(dir.path())).await;
    let first_storage = running.tracker.storage_addr();
    let mut client = running.client().await;
    let fid = store(&mut client, "a", b"content").await;
    store(&mut client, "gone", b"x").await;
    client.delete(b"photos", b"gone").await.unwrap();
    client.rename(b"photos", b"a", b"b").await.unwrap();
    client.create_domain(b"later").await.unwrap();
    let open = client
        .create_open(&CreateOpen {
            domain: b"photos",
            key: b"open",
            ..Default::default()
        })
        .await
        .unwrap();
    running.stop().await;

    // A configuration that says less takes nothing away, and the storage port has moved.
    let mut again = config(dir.path());
    again.domains.clear();
    let running = start(again).await;
    assert_ne!(running.tracker.storage_addr(), first_storage);
    let mut client = running.client().await;
    assert_eq!(fetch(&mut client, "b").await, b"content");
    let info = client.file_info(b"photos", b"b").await.unwrap();
    assert_eq!((info.fid, info.length), (fid, 7));
    for absent in ["a", "gone"] {
        let error = client
            .file_info(b"photos", absent.as_bytes())
            .await
            .unwrap_err();
        assert!(error.is_code("unknown_key"), "{absent}: {error}");
    }
    let domains: Vec<Vec<u8>> = client
        .get_domains()
        .await
        .unwrap()
        .into_iter()
        .map(|domain| domain.name)
        .collect();
    assert_eq!(
        domains,
        [b"photos".to_vec(), b"docs".to_vec(), b"later".to_vec()]
    );
    assert!(
        client
            .file_debug_by_fid(open.fid)
            .await
            .unwrap()
            .tempfile
            .is_some()
    );
    // Numbers go on where they were.
    let next = client
        .create_open(&CreateOpen {
            domain: b"photos",
            key: b"c",
            ..Default::default()
        })
        .await
        .unwrap();
    assert_eq!(next.fid, open.fid + 1);
    running.stop().await;
}

#[tokio::test]
async fn a_folder_has_one_tracker() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(config(dir.path())).await;
    let second =
        phylactery::tracker::Tracker::start(config(dir.path()), CancellationToken::new()).await;
    assert!(
        matches!(second, Err(TrackerError::InUse { .. })),
        "{second:?}"
    );

    let other = tempfile::tempdir().unwrap();
    let mut taken = config(other.path());
    taken.listen = running.tracker.addr();
    let second = phylactery::tracker::Tracker::start(taken, CancellationToken::new()).await;
    assert!(
        matches!(second, Err(TrackerError::Listen { address, .. }) if address == running.tracker.addr())
    );
    // A taken port is found before anything is made.
    assert_eq!(std::fs::read_dir(other.path()).unwrap().count(), 0);
    running.stop().await;
}

#[tokio::test]
async fn bytes_of_dead_fids_go_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut patient = config(dir.path());
    patient.delete_delay = Duration::from_secs(3600);
    patient.replication = false;
    let running = start(patient).await;
    let mut client = running.client().await;
    let deleted = store(&mut client, "deleted", b"1").await;
    let overwritten = store(&mut client, "kept", b"2").await;
    let kept = store(&mut client, "kept", b"3").await;
    client.delete(b"photos", b"deleted").await.unwrap();
    // Given up: closed without a key.
    let given_up = client
        .create_open(&CreateOpen {
            domain: b"photos",
            key: b"no",
            ..Default::default()
        })
        .await
        .unwrap();
    let to = &given_up.destinations[0];
    tracker_support::http()
        .put(&to.path)
        .body("4")
        .send()
        .await
        .unwrap();
    client
        .create_close(&CreateClose {
            domain: b"photos",
            key: b"",
            fid: given_up.fid,
            devid: to.devid,
            path: &to.path,
            ..Default::default()
        })
        .await
        .unwrap();
    let on_disk = |fid: u64| {
        (1..=2).any(|devid| fid_file(dir.path(), devid, i64::try_from(fid).unwrap()).exists())
    };
    for fid in [deleted, overwritten, given_up.fid] {
        assert!(on_disk(fid), "fid {fid} is removed too early");
        assert!(client.file_debug_by_fid(fid).await.unwrap().delqueue);
    }
    running.stop().await;

    let running = start(config(dir.path())).await;
    for fid in [deleted, overwritten, given_up.fid] {
        eventually("the bytes are gone", || async { !on_disk(fid) }).await;
    }
    let mut client = running.client().await;
    eventually("the queue is empty", || {
        let client = running.client();
        async {
            !client
                .await
                .file_debug_by_fid(deleted)
                .await
                .unwrap()
                .delqueue
        }
    })
    .await;
    assert!(on_disk(kept));
    assert_eq!(fetch(&mut client, "kept").await, b"3");
    running.stop().await;
}

#[tokio::test]
async fn uploads_that_nobody_closes_are_ended() {
    let dir = tempfile::tempdir().unwrap();
    let mut hasty = config(dir.path());
    hasty.upload_expiry = Duration::from_secs(1);
    let running = start(hasty).await;
    let mut client = running.client().await;
    let open = client
        .create_open(&CreateOpen {
            domain: b"photos",
            key: b"a",
            ..Default::default()
        })
        .await
        .unwrap();
    let to = &open.destinations[0];
    tracker_support::http()
        .put(&to.path)
        .body("x")
        .send()
        .await
        .unwrap();
    let file = fid_file(dir.path(), to.devid, i64::try_from(open.fid).unwrap());
    assert!(file.exists());
    eventually("the bytes are gone", || async { !file.exists() }).await;
    let close = CreateClose {
        domain: b"photos",
        key: b"a",
        fid: open.fid,
        devid: to.devid,
        path: &to.path,
        ..Default::default()
    };
    assert!(
        client
            .create_close(&close)
            .await
            .unwrap_err()
            .is_code("no_temp_file")
    );
    running.stop().await;
}

#[tokio::test]
async fn files_are_copied_to_as_many_devices_as_their_class_wants() {
    let dir = tempfile::tempdir().unwrap();
    let mut three = config(dir.path());
    three.hosts[0].devices = vec![1, 2, 3];
    three.domains[0].classes = vec![
        NewClass {
            name: "once".to_owned(),
            mindevcount: 1,
            hashtype: None,
        },
        NewClass {
            name: "sums".to_owned(),
            mindevcount: 3,
            hashtype: Some(Kind::Md5),
        },
    ];
    let running = start(three).await;
    let mut client = running.client().await;
    store(&mut client, "a", b"hello").await;
    eventually("two copies", || {
        let client = running.client();
        async {
            client
                .await
                .file_info(b"photos", b"a")
                .await
                .unwrap()
                .devcount
                == 2
        }
    })
    .await;
    client.updateclass(b"photos", b"a", b"sums").await.unwrap();
    eventually("three copies and their digest", || {
        let client = running.client();
        async {
            let info = client.await.file_info(b"photos", b"a").await.unwrap();
            info.devcount == 3
                && info.checksum.as_deref() == Some("MD5:5d41402abc4b2a76b9719d911017c592")
        }
    })
    .await;
    let fid = client.file_info(b"photos", b"a").await.unwrap().fid;
    for devid in 1..=3 {
        let copy = std::fs::read(fid_file(dir.path(), devid, i64::try_from(fid).unwrap())).unwrap();
        assert_eq!(copy, b"hello");
    }
    // All of them go.
    client.delete(b"photos", b"a").await.unwrap();
    eventually("no copies", || async {
        (1..=3).all(|devid| !fid_file(dir.path(), devid, i64::try_from(fid).unwrap()).exists())
    })
    .await;
    running.stop().await;
}

#[tokio::test]
async fn of_two_uploads_of_one_key_the_last_close_wins() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(config(dir.path())).await;
    let mut client = running.client().await;
    let open = CreateOpen {
        domain: b"photos",
        key: b"k",
        ..Default::default()
    };
    let early = client.create_open(&open).await.unwrap();
    let late = client.create_open(&open).await.unwrap();
    for (opened, body) in [(&late, "late"), (&early, "early")] {
        let to = &opened.destinations[0];
        tracker_support::http()
            .put(&to.path)
            .body(body)
            .send()
            .await
            .unwrap();
        client
            .create_close(&CreateClose {
                domain: b"photos",
                key: b"k",
                fid: opened.fid,
                devid: to.devid,
                path: &to.path,
                ..Default::default()
            })
            .await
            .unwrap();
    }
    assert_eq!(
        client.file_info(b"photos", b"k").await.unwrap().fid,
        early.fid
    );
    assert_eq!(fetch(&mut client, "k").await, b"early");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_overwritten_is_never_unknown() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(config(dir.path())).await;
    let mut client = running.client().await;
    store(&mut client, "k", b"0").await;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..4 {
        let mut client = running.client().await;
        writers.spawn(async move {
            let mut fids = Vec::new();
            for n in 0..15 {
                fids.push(store(&mut client, "k", format!("{writer} {n}").as_bytes()).await);
            }
            fids
        });
    }
    let mut fids = Vec::new();
    while !writers.is_empty() {
        client.file_info(b"photos", b"k").await.unwrap();
        if let Some(done) = writers.try_join_next() {
            fids.extend(done.unwrap());
        }
    }
    let count = fids.len();
    fids.sort_unstable();
    fids.dedup();
    assert_eq!((fids.len(), count), (60, 60), "a fid was handed out twice");
    let winner = client.file_info(b"photos", b"k").await.unwrap();
    assert!(fids.contains(&winner.fid));
    assert_eq!(client.list_fids(0, 500).await.unwrap().len(), 1);
    assert_eq!(fetch(&mut client, "k").await.len() as u64, winner.length);
    running.stop().await;
}

#[tokio::test]
async fn keys_are_listed_page_by_page_in_the_order_of_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(config(dir.path())).await;
    let mut client = running.client().await;
    let keys: [&[u8]; 8] = [
        b"p/\x00",
        b"p/A",
        b"p/a",
        b"p/a%",
        b"p/a_",
        b"p/\xc3\xa9",
        b"p/\xff",
        b"p/\xff\xff",
    ];
    for key in keys.iter().rev().chain([&&b"P/upper"[..], &&b"q"[..]]) {
        let open = client
            .create_open(&CreateOpen {
                domain: b"docs",
                key,
                ..Default::default()
            })
            .await
            .unwrap();
        let to = &open.destinations[0];
        tracker_support::http()
            .put(&to.path)
            .body("x")
            .send()
            .await
            .unwrap();
        client
            .create_close(&CreateClose {
                domain: b"docs",
                key,
                fid: open.fid,
                devid: to.devid,
                path: &to.path,
                ..Default::default()
            })
            .await
            .unwrap();
    }
    let mut listed = Vec::new();
    let mut after = Vec::new();
    loop {
        let page = client
            .list_keys(&ListKeys {
                domain: b"docs",
                prefix: b"p/",
                after: &after,
                limit: Some(3),
            })
            .await
            .unwrap();
        let Some(last) = page.keys.last() else { break };
        assert!(page.keys.len() <= 3);
        after.clone_from(last);
        listed.extend(page.keys);
    }
    assert_eq!(listed, keys);
    let literal = ListKeys {
        domain: b"docs",
        prefix: b"p/a%",
        ..Default::default()
    };
    assert_eq!(
        client.list_keys(&literal).await.unwrap().keys,
        [b"p/a%".to_vec()]
    );
    let all_ff = ListKeys {
        domain: b"docs",
        prefix: b"p/\xff\xff",
        ..Default::default()
    };
    assert_eq!(
        client.list_keys(&all_ff).await.unwrap().keys,
        [b"p/\xff\xff".to_vec()]
    );
    running.stop().await;
}

#[tokio::test]
async fn a_fid_that_was_asked_for_is_not_given_twice() {
    let dir = tempfile::tempdir().unwrap();
    let mut patient = config(dir.path());
    patient.delete_delay = Duration::from_secs(3600);
    let running = start(patient).await;
    let mut client = running.client().await;
    let fid = store(&mut client, "a", b"x").await;
    let open = |fid| CreateOpen {
        domain: b"photos",
        key: b"b",
        fid: Some(fid),
        ..Default::default()
    };
    assert!(
        client
            .create_open(&open(fid))
            .await
            .unwrap_err()
            .is_code("fid_in_use")
    );
    // Deleted, but its bytes are still there: they would be removed from under the new file.
    client.delete(b"photos", b"a").await.unwrap();
    assert!(
        client
            .create_open(&open(fid))
            .await
            .unwrap_err()
            .is_code("fid_in_use")
    );
    assert_eq!(client.create_open(&open(900)).await.unwrap().fid, 900);
    assert!(
        client
            .create_open(&open(900))
            .await
            .unwrap_err()
            .is_code("fid_in_use")
    );
    assert_eq!(client.create_open(&open(0)).await.unwrap().fid, 901);
    running.stop().await;
}
