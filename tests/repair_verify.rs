//! Verify finds what should be here and is not, and has it brought again; and believes nobody who does not answer.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod repair_sites;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use md5::{Digest, Md5};
use mogilefs_protocol::client::Timeouts;
use parking_lot::Mutex;
use phylactery::config::{RepairConfig, VerifyBy};
use phylactery::file::{Checked, Checksum, Class, Fid, Found, Held, Replica};
use phylactery::ledger::{DatacenterRecord, FileWrite, Ledger, Strength};
use phylactery::repair::status::{Progress, State, VerifyProgress, WorkerStatus};
use phylactery::tracker::fid_file;
use phylactery::trackers::Trackers;
use phylactery::version::{Version, wall_clock};
use repair_sites::{Flaky, Http, Played, Site, any_port, bytes, dc, file, repair_config, until};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

const DAY: Duration = Duration::from_secs(86_400);

async fn played_and_real(by: VerifyBy) -> (TempDir, Arc<Flaky>, Played, Site) {
    let home = tempfile::tempdir().unwrap();
    let ledger = Flaky::open(home.path());
    let ma = Played::new("ma01", &ledger).await;
    let mut tx = Site::new("tx01", home.path(), &ledger).await;
    tx.start(Some(only_asked(by)));
    (home, ledger, ma, tx)
}

/// Verify looks when a test asks.
fn only_asked(by: VerifyBy) -> RepairConfig {
    RepairConfig {
        verify_by: by,
        ..repair_config()
    }
}

fn md5(body: &[u8]) -> Checksum {
    Checksum::md5(&Md5::digest(body))
}

fn worker(site: &Site) -> WorkerStatus {
    let workers = site.repair().status().workers;
    let found = workers.into_iter().find(|worker| worker.name == "verify");
    found.expect("there is one")
}

fn progress(site: &Site) -> VerifyProgress {
    match worker(site).progress {
        Progress::Verify(progress) => progress,
        _ => VerifyProgress::default(),
    }
}

/// Waits for the end of a pass after the one that ended then.
async fn ended_after(site: &Site, before: Option<Version>) -> VerifyProgress {
    until("a whole pass", async || {
        let now = progress(site);
        match now.began.is_none() && now.ended > before {
            true => Ok(now),
            false => Err(format!("{:?}", worker(site))),
        }
    })
    .await
}

/// A whole pass, from now on.
async fn pass(site: &Site) -> VerifyProgress {
    let before = progress(site).ended;
    site.repair().ask_for_verify();
    ended_after(site, before).await
}

/// A file that came from elsewhere.
async fn arrives(ma: &Played, tx: &Site, key: &str, fid: u64, body: &[u8]) -> u64 {
    ma.serve(key, fid, Http::Good(body.to_vec()));
    ma.put(key, fid, body.len() as u64, Some(md5(body))).await;
    tx.comes(key, body).await
}

/// Where the bytes of a fid are on the disks of a site, once its tracker has made all the copies that it wants.
async fn copies(site: &Site, fid: u64) -> [PathBuf; 2] {
    let root = site.folder.join("tracker");
    let copies = [1, 2].map(|devid| fid_file(&root, devid, fid as i64));
    until("two copies", async || {
        match copies.iter().all(|copy| copy.exists()) {
            true => Ok(()),
            false => Err(format!("{copies:?}")),
        }
    })
    .await;
    copies
}

/// A byte is another one, on every disk.
async fn flip(site: &Site, fid: u64) {
    for copy in copies(site, fid).await {
        let mut body = std::fs::read(&copy).unwrap();
        body[0] ^= 1;
        std::fs::write(&copy, body).unwrap();
    }
}

async fn held(site: &Site, key: &str) -> Option<Held> {
    let mut record = site.record(key).await;
    record.replicas.remove(&site.name)?.held
}

async fn checked(site: &Site, key: &str) -> Option<Checked> {
    held(site, key).await?.checked
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_deleted_behind_our_back_is_brought_again() {
    let (_home, ledger, ma, tx) = played_and_real(VerifyBy::Size).await;
    let kept = arrives(&ma, &tx, "kept", 1, b"as it is").await;
    let gone = arrives(&ma, &tx, "gone", 2, b"bytes").await;
    // What only an outsider says is here is nobody's word.
    let revision = ma.revision(wall_clock(), 3, 5, None);
    let claim = Held {
        content: revision.content().unwrap().clone(),
        fid: Fid(3),
        class: Class::default_class(),
        claimed: true,
        checked: None,
        leaving: false,
    };
    let write = FileWrite {
        head: Some(revision.clone()),
        replica: Some((
            dc("tx01"),
            Replica {
                since: revision.version,
                held: Some(claim),
            },
        )),
        ..FileWrite::default()
    };
    ledger
        .write(&file("claimed"), &write, Strength::Local)
        .await
        .unwrap();

    tx.client().await.delete(b"photos", b"gone").await.unwrap();
    let began = wall_clock();
    let seen = pass(&tx).await;
    assert_eq!(
        (seen.looked_at, seen.missing, seen.damaged, seen.unsure),
        (2, 1, 0, 0)
    );
    assert_eq!(seen.brought_again, 1);
    assert_ne!(tx.comes("gone", b"bytes").await, gone);
    assert_eq!(tx.comes("kept", b"as it is").await, kept);
    tx.no_gaps().await;
    let proof = checked(&tx, "kept").await.unwrap();
    assert_eq!((proof.found, proof.checksum), (Found::Size, None));
    assert!(proof.at >= began);

    let seen = pass(&tx).await;
    assert_eq!((seen.looked_at, seen.missing), (2, 0));
    assert_eq!(tx.repair().status().files_copied, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_deleted_through_the_proxy_is_not_brought_again() {
    let (_home, _ledger, ma, tx) = played_and_real(VerifyBy::Size).await;
    arrives(&ma, &tx, "k", 1, b"bytes").await;
    tx.delete("k").await;
    let seen = pass(&tx).await;
    assert_eq!((seen.missing, seen.unsure), (0, 0));
    tx.goes("k").await;
    assert_eq!(tx.repair().status().files_copied, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_is_found_by_reading_and_brought_again_once() {
    let (_home, ledger, ma, tx) = played_and_real(VerifyBy::Bytes).await;
    let bodies = [1, 2, 3].map(|seed| bytes(seed, 10_000));
    let [known, copied, own] = &bodies;
    arrives(&ma, &tx, "known", 1, known).await;
    // Of this one nobody has said what it should have, so it is what the copy had,
    ma.serve("copied", 2, Http::Good(copied.clone()));
    ma.put("copied", 2, copied.len() as u64, None).await;
    tx.comes("copied", copied).await;
    assert_eq!(
        checked(&tx, "copied").await.unwrap().checksum,
        Some(md5(copied))
    );
    // and of this one what the first look had.
    tx.put("own", None, own).await;
    tx.comes("own", own).await;
    assert_eq!(checked(&tx, "own").await, None);
    ma.serve("own", 3, Http::Good(own.clone()));
    let there = Held {
        fid: Fid(3),
        ..held(&tx, "own").await.unwrap()
    };
    let write = FileWrite {
        replica: Some((
            dc("ma01"),
            Replica {
                since: wall_clock(),
                held: Some(there),
            },
        )),
        ..FileWrite::default()
    };
    ledger
        .write(&file("own"), &write, Strength::Local)
        .await
        .unwrap();

    let seen = pass(&tx).await;
    assert_eq!((seen.looked_at, seen.missing, seen.damaged), (3, 0, 0));
    let proof = checked(&tx, "known").await.unwrap();
    assert_eq!((proof.found, proof.checksum), (Found::Bytes, None));
    let proof = checked(&tx, "own").await.unwrap();
    assert_eq!(
        (proof.found, proof.checksum),
        (Found::Bytes, Some(md5(own)))
    );

    let files = [("known", known), ("copied", copied), ("own", own)];
    let mut before = Vec::new();
    for (key, _) in files {
        let fid = held(&tx, key).await.unwrap().fid.0;
        flip(&tx, fid).await;
        before.push(fid);
    }
    let seen = pass(&tx).await;
    assert_eq!(
        (seen.looked_at, seen.damaged, seen.brought_again),
        (3, 3, 3),
        "{:?}",
        worker(&tx)
    );
    for ((key, body), before) in files.into_iter().zip(before) {
        assert_ne!(tx.comes(key, body).await, before, "{key}");
    }
    tx.no_gaps().await;
    let seen = pass(&tx).await;
    assert_eq!((seen.looked_at, seen.damaged), (3, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_is_too_short_or_not_there_is_found_by_its_size() {
    let (_home, _ledger, ma, tx) = played_and_real(VerifyBy::Size).await;
    let whole = arrives(&ma, &tx, "whole", 1, b"").await;
    let short = arrives(&ma, &tx, "short", 2, b"a good length").await;
    let none = arrives(&ma, &tx, "none", 3, b"nowhere").await;
    copies(&tx, whole).await;
    for copy in copies(&tx, short).await {
        std::fs::write(copy, b"a good len").unwrap();
    }
    for copy in copies(&tx, none).await {
        std::fs::remove_file(copy).unwrap();
    }
    let seen = pass(&tx).await;
    assert_eq!(
        (seen.looked_at, seen.damaged, seen.brought_again),
        (3, 2, 2),
        "{:?}",
        worker(&tx)
    );
    tx.comes("short", b"a good length").await;
    tx.comes("none", b"nowhere").await;
    assert_eq!(tx.comes("whole", b"").await, whole);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_damaged_everywhere_is_a_gap_and_kept_as_it_is() {
    let (_home, _ledger, ma, tx) = played_and_real(VerifyBy::Bytes).await;
    let fid = arrives(&ma, &tx, "both", 1, b"bytes").await;
    let own = tx.put("own", None, b"mine").await;
    tx.comes("own", b"mine").await;
    assert_eq!(pass(&tx).await.damaged, 0);
    ma.body(1, Http::Good(b"bytez".to_vec()));
    flip(&tx, fid).await;
    flip(&tx, own).await;

    for _ in 0..2 {
        let seen = pass(&tx).await;
        assert_eq!((seen.damaged, seen.brought_again), (2, 0));
        tx.parks("both", "is expected").await;
        tx.parks("own", "what is here is damaged, and none").await;
        let (there, _, body) = tx.read("both").await.unwrap();
        assert_eq!((there, &body[1..]), (fid, &b"ytes"[..]));
        let (there, _, body) = tx.read("own").await.unwrap();
        assert_eq!((there, &body[1..]), (own, &b"ine"[..]));
        assert!(held(&tx, "own").await.unwrap().is_damaged());
        assert!(!tx.record("own").await.is_whole_in(&tx.name, true));
    }
    // Once it can be had it is brought, without anybody's doing.
    ma.body(1, Http::Good(b"bytes".to_vec()));
    tx.comes("both", b"bytes").await;
    assert!(!held(&tx, "both").await.unwrap().is_damaged());
    // And what is right again by itself is no gap any more.
    flip(&tx, own).await;
    assert_eq!(pass(&tx).await.damaged, 0);
    assert!(!held(&tx, "own").await.unwrap().is_damaged());
    tx.no_gaps().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_known_to_be_damaged_is_no_source() {
    let (_home, ledger, ma, tx) = played_and_real(VerifyBy::Size).await;
    ma.serve("k", 1, Http::Good(b"bytes".to_vec()));
    let revision = ma.revision(wall_clock(), 1, 5, None);
    let damaged = Held {
        content: revision.content().unwrap().clone(),
        fid: Fid(1),
        class: Class::default_class(),
        claimed: false,
        checked: Some(Checked {
            at: revision.version,
            found: Found::Damaged,
            checksum: None,
        }),
        leaving: false,
    };
    let write = FileWrite {
        head: Some(revision.clone()),
        replica: Some((
            dc("ma01"),
            Replica {
                since: revision.version,
                held: Some(damaged),
            },
        )),
        ..FileWrite::default()
    };
    ledger
        .write(&file("k"), &write, Strength::Local)
        .await
        .unwrap();
    ma.change("k", revision.version).await;
    tx.parks("k", "no datacenter").await;
    assert!(ma.gets().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_answer_says_nothing() {
    let home = tempfile::tempdir().unwrap();
    let ledger = Flaky::open(home.path());
    let ma = Played::new("ma01", &ledger).await;
    let mut tx = Site::new("tx01", home.path(), &ledger).await;
    let between = Between::begin(tx.tracker_addr).await;
    tx.trackers = between.trackers();
    // Somewhere that nobody listens, among the storage nodes.
    let dead = {
        let free = TcpListener::bind(any_port()).await.unwrap();
        free.local_addr().unwrap().to_string()
    };
    let hosts = [tx.storage.to_string(), dead.clone()];
    let registered = DatacenterRecord {
        name: tx.name.clone(),
        trackers: vec![tx.tracker_addr.to_string()],
        storage_hosts: BTreeSet::from(hosts),
        api: None,
        updated: wall_clock(),
    };
    ledger.set_datacenter(&registered).await.unwrap();
    tx.start(Some(only_asked(VerifyBy::Size)));
    let one = arrives(&ma, &tx, "one", 1, b"bytes").await;
    let two = arrives(&ma, &tx, "two", 2, b"more bytes").await;
    let nothing_happened = async |seen: VerifyProgress, looked_at, unsure| {
        assert_eq!(
            (seen.looked_at, seen.missing, seen.damaged, seen.unsure),
            (looked_at, 0, 0, unsure),
            "{:?}",
            worker(&tx)
        );
        assert_eq!(tx.repair().status().files_copied, 2);
        between.set(Lie::None);
        assert_eq!(tx.comes("one", b"bytes").await, one);
        assert_eq!(tx.comes("two", b"more bytes").await, two);
        tx.no_gaps().await;
    };

    between.set(Lie::Replace(tx.storage.to_string(), dead));
    nothing_happened(pass(&tx).await, 0, 2).await;
    between.set(Lie::Replace("devpath_".into(), "nopath_".into()));
    nothing_happened(pass(&tx).await, 0, 2).await;
    between.set(Lie::Error("failure"));
    nothing_happened(pass(&tx).await, 0, 2).await;
    between.set(Lie::Error("unreg_domain"));
    nothing_happened(pass(&tx).await, 0, 2).await;
    // The moment between two steps of somebody's overwrite.
    between.set(Lie::EmptyAtFirst(None));
    nothing_happened(pass(&tx).await, 2, 0).await;

    // A tracker that does not answer in time is waited for, however long.
    let before = progress(&tx).ended;
    between.set(Lie::Silence);
    tx.repair().ask_for_verify();
    let hung = between.hung.load(Ordering::SeqCst);
    until("asked again and again", async || {
        match between.hung.load(Ordering::SeqCst) - hung {
            // More than all the looks of a batch that is passed in the end.
            0..20 => Err(format!("{:?}", worker(&tx))),
            _ => Ok(()),
        }
    })
    .await;
    assert_eq!(progress(&tx).looked_at, 0);
    assert!(progress(&tx).began.is_some());
    between.set(Lie::None);
    nothing_happened(ended_after(&tx, before).await, 2, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tracker_that_suddenly_knows_nothing_stops_verify_and_nothing_is_copied() {
    const FILES: u64 = 120;
    let home = tempfile::tempdir().unwrap();
    let ledger = Flaky::open(home.path());
    let ma = Played::new("ma01", &ledger).await;
    let mut tx = Site::new("tx01", home.path(), &ledger).await;
    let between = Between::begin(tx.tracker_addr).await;
    tx.trackers = between.trackers();
    tx.start(Some(only_asked(VerifyBy::Size)));
    let key = |n: u64| format!("file {n}");
    for n in 1..=FILES {
        ma.serve(&key(n), n, Http::Good(b"bytes".to_vec()));
        ma.put(&key(n), n, 5, Some(md5(b"bytes"))).await;
    }
    for n in 1..=FILES {
        tx.comes(&key(n), b"bytes").await;
    }
    tx.stop().await;
    let config = || RepairConfig {
        verify_every: Some(DAY),
        ..only_asked(VerifyBy::Size)
    };
    between.set(Lie::Empty);
    // It stays so through a restart.
    for _ in 0..2 {
        tx.start(Some(config()));
        until("it has stopped and asks", async || {
            let now = worker(&tx);
            match (&progress(&tx).asks, now.state) {
                (Some(asks), State::Asking) if asks.contains("verify_most_missing") => Ok(()),
                _ => Err(format!("{now:?}")),
            }
        })
        .await;
        // It looks again and again, and still believes nothing.
        let asked = between.answered.load(Ordering::SeqCst);
        until("looked again", async || {
            match between.answered.load(Ordering::SeqCst) - asked {
                0..1000 => Err(format!("{:?}", worker(&tx))),
                _ => Ok(()),
            }
        })
        .await;
        let seen = progress(&tx);
        assert_eq!((seen.looked_at, seen.missing, seen.damaged), (0, 0, 0));
        assert!(seen.stopped.is_some());
        assert_eq!(tx.repair().status().files_copied, 0);
        assert_eq!(ledger.count_gaps(&tx.name).await.unwrap(), 0);
        for n in 1..=FILES {
            assert!(held(&tx, &key(n)).await.is_some(), "{n}");
        }
        tx.kill().await;
    }
    tx.start(Some(config()));
    between.set(Lie::None);
    let seen = ended_after(&tx, None).await;
    assert_eq!((seen.looked_at, seen.missing), (FILES, 0));
    assert_eq!((seen.stopped, seen.asks), (None, None));
    assert_eq!(tx.repair().status().files_copied, 0);
    tx.stop().await;

    // Who has really lost all of it says so.
    between.set(Lie::Empty);
    tx.start(Some(RepairConfig {
        verify_most_missing: 100.0,
        ..only_asked(VerifyBy::Size)
    }));
    tx.repair().ask_for_verify();
    until("believed", async || match progress(&tx).missing {
        FILES => Ok(()),
        _ => Err(format!("{:?}", worker(&tx))),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pass_goes_on_where_it_was_after_a_kill() {
    const FILES: u64 = 250;
    let home = tempfile::tempdir().unwrap();
    let ledger = Flaky::open(home.path());
    let mut tx = Site::new("tx01", home.path(), &ledger).await;
    tx.start(Some(repair_config()));
    for n in 0..FILES {
        tx.put(&n.to_string(), None, b"bytes").await;
    }
    for n in 0..FILES {
        tx.comes(&n.to_string(), b"bytes").await;
    }
    tx.stop().await;
    let config = |verify_rate| RepairConfig {
        verify_every: Some(DAY),
        verify_rate,
        ..repair_config()
    };
    tx.start(Some(config(100)));
    let before = until("in the middle", async || {
        let now = progress(&tx);
        match (100..200).contains(&now.looked_at) {
            true => Ok(now),
            false => Err(format!("{:?}", worker(&tx))),
        }
    })
    .await;
    tx.kill().await;
    let killed = wall_clock();
    tx.start(Some(config(10_000)));
    let after = ended_after(&tx, None).await;
    assert_eq!((after.looked_at, after.missing), (FILES, 0));
    let mut not_again = 0;
    for n in 0..FILES {
        let proof = checked(&tx, &n.to_string()).await.expect("looked at");
        not_again += u64::from(proof.at < killed);
    }
    assert_eq!(not_again, before.looked_at);
}

/// How a tracker is told of by somebody between it and us; only what concerns the database (`file_debug`), but for
/// [`Lie::Silence`].
enum Lie {
    None,
    /// One text is another one.
    Replace(String, String),
    Error(&'static str),
    /// It knows no key and no fid.
    Empty,
    /// The same, for a moment that is shorter than the quiet time.
    EmptyAtFirst(Option<Instant>),
    /// No answer ever comes.
    Silence,
}

/// Somebody between a tracker and us.
struct Between {
    addr: SocketAddr,
    lie: Arc<Mutex<Lie>>,
    answered: Arc<AtomicU64>,
    hung: Arc<AtomicU64>,
}

impl Between {
    async fn begin(tracker: SocketAddr) -> Between {
        let listener = TcpListener::bind(any_port()).await.unwrap();
        let between = Between {
            addr: listener.local_addr().unwrap(),
            lie: Arc::new(Mutex::new(Lie::None)),
            answered: Arc::default(),
            hung: Arc::default(),
        };
        let (lie, answered, hung) = (
            Arc::clone(&between.lie),
            Arc::clone(&between.answered),
            Arc::clone(&between.hung),
        );
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (lie, answered, hung) =
                    (Arc::clone(&lie), Arc::clone(&answered), Arc::clone(&hung));
                tokio::spawn(async move {
                    let mut client = BufReader::new(client);
                    let mut tracker = BufReader::new(TcpStream::connect(tracker).await.unwrap());
                    loop {
                        let (mut request, mut answer) = (String::new(), String::new());
                        if client.read_line(&mut request).await.unwrap_or(0) == 0 {
                            return;
                        }
                        tracker.write_all(request.as_bytes()).await.unwrap();
                        tracker.read_line(&mut answer).await.unwrap();
                        let Some(answer) = told(&mut lie.lock(), &request, answer) else {
                            hung.fetch_add(1, Ordering::SeqCst);
                            continue;
                        };
                        answered.fetch_add(1, Ordering::SeqCst);
                        if client.write_all(answer.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        between
    }

    fn set(&self, lie: Lie) {
        *self.lie.lock() = lie;
    }

    fn trackers(&self) -> Arc<Trackers> {
        let timeouts = Timeouts {
            connect: Duration::from_secs(2),
            reply: Duration::from_secs(1),
        };
        let trackers = Trackers::new(vec![self.addr.to_string()], 16);
        Arc::new(trackers.with_timeouts(timeouts))
    }
}

fn told(lie: &mut Lie, request: &str, answer: String) -> Option<String> {
    if let Lie::Silence = lie {
        return None;
    }
    if !request.starts_with("file_debug") {
        return Some(answer);
    }
    let empty = match request.contains("key=") {
        true => "ERR unknown_key unknown_key\r\n".to_owned(),
        false => "OK checksum=NONE\r\n".to_owned(),
    };
    Some(match lie {
        Lie::Replace(from, to) => answer.replace(&*from, to),
        Lie::Error(code) => format!("ERR {code} {code}\r\n"),
        Lie::Empty => empty,
        Lie::EmptyAtFirst(since) => {
            let since = since.get_or_insert_with(Instant::now);
            match since.elapsed() < Duration::from_millis(200) {
                true => empty,
                false => answer,
            }
        }
        Lie::None | Lie::Silence => answer,
    })
}
