//! What clients see while parts fail: the disk is full, the ledger hangs, the tracker dies or freezes, a copy stalls.

mod harness;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use harness::{Cluster, Mogile, Process, until};

const DOMAIN: &str = "photos";

/// A client's patience: the Perl client waits 3 s for an answer. What takes longer has waited for something.
const CLIENT_PATIENCE: Duration = Duration::from_secs(3);

async fn depth(site: &harness::Site) -> u64 {
    let status = site.get("/v1/status").await.expect("the API answers");
    status["journal"]["depth"].as_u64().expect("a number")
}

/// Waits until `/readyz` says no, for this reason.
async fn is_not_ready(site: &harness::Site, why: &str) {
    until(&format!("not ready: {why}"), async || {
        match site.ready().await? {
            (false, line) if line.contains(why) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

/// The node of `site` in a mount namespace of its own, with its journal on a tiny disk. The folder as this process sees it.
async fn start_on_a_tiny_disk(site: &mut harness::Site) -> std::path::PathBuf {
    let journal = site.folder.join("journal");
    std::fs::create_dir_all(&journal).expect("a folder");
    let script = format!(
        "mount -t tmpfs -o size=2m tiny '{}' && exec '{}' run --config '{}'",
        journal.display(),
        env!("CARGO_BIN_EXE_phylactery"),
        site.folder.join("phylactery.toml").display()
    );
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script]);
    site.node_process = Some(Process::spawn(
        "node on a tiny disk",
        &site.folder.join("node.log"),
        command,
    ));
    let (proxy, api) = (site.proxy, site.api);
    let node = site.node();
    until("the node on a tiny disk listens", async || {
        assert!(
            !node.has_ended(),
            "it ended: may this user make a mount namespace (unshare --user --mount)?\n{}",
            node.log()
        );
        for address in [proxy, api] {
            tokio::net::TcpStream::connect(address)
                .await
                .map_err(|why| why.to_string())?;
        }
        Ok(())
    })
    .await;
    Path::new(&format!("/proc/{}/root", site.node().pid()))
        .join(journal.strip_prefix("/").expect("absolute"))
}

/// Writes zeros until nothing fits any more.
fn fill(folder: &Path) {
    use std::io::Write;
    let mut file = std::fs::File::create(folder.join("filler")).expect("a file");
    let block = [0u8; 4096];
    while file.write_all(&block).is_ok() {}
    while file.write_all(&block[..1]).is_ok() {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_mutations_and_loses_nothing() {
    let mut cluster = Cluster::prepare("").await;
    let disk = start_on_a_tiny_disk(&mut cluster.ma01).await;
    cluster.tx01.start_node().await;
    let mut mogile = Mogile::connect(cluster.ma01.proxy)
        .await
        .expect("it listens");
    let mut stored = Vec::new();
    for n in 0..20 {
        let key = format!("before/{n}");
        mogile
            .store(DOMAIN, key.as_bytes(), "", key.as_bytes())
            .await
            .expect("there is room");
        stored.push(key);
    }
    fill(&disk);

    // Every kind of mutation is refused in the end, before the tracker sees it.
    let refused = until("the full disk is felt", async || {
        let key = format!("full/{}", stored.len());
        match mogile.store(DOMAIN, key.as_bytes(), "", b"x").await {
            Ok(_) => {
                stored.push(key);
                Err("stored".to_owned())
            }
            Err(failed) => Ok((key, failed)),
        }
    })
    .await;
    assert!(
        refused.1.why.contains("journal_unavailable"),
        "{:?}",
        refused.1
    );
    for result in [
        mogile.delete(DOMAIN, b"before/0").await,
        mogile.rename(DOMAIN, b"before/0", b"before/moved").await,
        mogile.updateclass(DOMAIN, b"before/0", "thumb").await,
    ] {
        let failed = result.expect_err("refused");
        assert!(failed.why.contains("journal_unavailable"), "{failed:?}");
    }
    let mut direct = Mogile::connect(cluster.ma01.tracker)
        .await
        .expect("it listens");
    assert!(
        direct.fetch(DOMAIN, refused.0.as_bytes()).await.is_err(),
        "a refused upload reached the tracker"
    );
    assert_eq!(
        direct
            .fetch(DOMAIN, b"before/0")
            .await
            .expect("still there"),
        b"before/0"
    );

    // Reads go on.
    assert_eq!(
        mogile
            .fetch(DOMAIN, b"before/1")
            .await
            .expect("reads go on"),
        b"before/1"
    );

    // There is room again: no restart, no lost outcome.
    std::fs::remove_file(disk.join("filler")).expect("removed");
    until("mutations are taken again", async || {
        mogile
            .store(DOMAIN, b"after", "", b"after")
            .await
            .map(|_| ())
            .map_err(|failed| failed.why)
    })
    .await;
    stored.push("after".to_owned());
    cluster.settled().await;
    let files = cluster.same_files(DOMAIN).await;
    for key in stored {
        assert!(files.contains_key(key.as_bytes()), "{key} was acknowledged");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_that_hangs_is_felt_by_no_client() {
    let mut cluster = Cluster::start("").await;
    let lock = rusqlite::Connection::open(cluster.ledger_path()).expect("opens");
    lock.busy_timeout(Duration::from_secs(20)).expect("set");
    lock.execute_batch("BEGIN EXCLUSIVE").expect("locked");

    let mut mogile = Mogile::connect(cluster.ma01.proxy)
        .await
        .expect("it listens");
    let begin = Instant::now();
    for n in 0..50 {
        let key = format!("hang/{n}");
        mogile
            .store(DOMAIN, key.as_bytes(), "", key.as_bytes())
            .await
            .expect("no ledger is needed");
    }
    mogile
        .rename(DOMAIN, b"hang/0", b"hang/moved")
        .await
        .expect("no ledger is needed");
    mogile
        .updateclass(DOMAIN, b"hang/1", "thumb")
        .await
        .expect("no ledger is needed");
    mogile
        .delete(DOMAIN, b"hang/2")
        .await
        .expect("no ledger is needed");
    assert_eq!(
        mogile.fetch(DOMAIN, b"hang/3").await.expect("reads go on"),
        b"hang/3"
    );
    let took = begin.elapsed();
    assert!(
        took < Duration::from_secs(20),
        "54 requests took {took:?}: they waited for the ledger"
    );
    assert!(
        depth(&cluster.ma01).await >= 50,
        "what the ledger has not taken is in the journal"
    );

    is_not_ready(&cluster.ma01, "the ledger is not available").await;

    // Neither a restart nor a kill in the outage loses anything.
    cluster.ma01.node().kill();
    cluster.ma01.start_node().await;
    is_not_ready(&cluster.ma01, "it is not open yet").await;
    let mut mogile = Mogile::connect(cluster.ma01.proxy)
        .await
        .expect("it listens");
    mogile
        .store(DOMAIN, b"hang/after", "", b"after")
        .await
        .expect("no ledger is needed");
    drop(lock);
    cluster.settled().await;
    until("ready again", async || match cluster.ma01.ready().await? {
        (true, _) => Ok(()),
        (false, why) => Err(why),
    })
    .await;
    let files = cluster.same_files(DOMAIN).await;
    assert_eq!(
        files.len(),
        50,
        "{:?}",
        files
            .keys()
            .map(|key| key.escape_ascii().to_string())
            .collect::<Vec<_>>()
    );
    assert!(
        files.contains_key(b"hang/moved".as_slice())
            && files.contains_key(b"hang/after".as_slice())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_wants_a_key_does_not_wait_for_its_copy() {
    let cluster = Cluster::start("").await;
    // The trackers' storage at the source freezes in the middle of the copy.
    let mut here = Mogile::connect(cluster.ma01.proxy)
        .await
        .expect("it listens");
    let big = vec![b'x'; 64 << 20];
    let source = cluster.ma01.tracker_process.as_ref().expect("started");
    here.store(DOMAIN, b"wanted", "", &big)
        .await
        .expect("stored");
    until("the copy is under way", async || {
        let status = cluster.tx01.get("/v1/status").await?;
        let copying = status["repair"]["copies"]
            .as_u64()
            .or(status["repair"]["copies_in_flight"].as_u64());
        if copying.is_some_and(|copies| copies > 0) {
            Ok(())
        } else {
            Err(format!("{status:#}"))
        }
    })
    .await;
    source.signal(libc::SIGSTOP);
    let mut there = Mogile::connect(cluster.tx01.proxy)
        .await
        .expect("it listens");
    let begin = Instant::now();
    there.raw().create_domain(DOMAIN.as_bytes()).await.ok();
    there
        .store(DOMAIN, b"wanted", "", b"mine is newer")
        .await
        .expect("stored");
    assert!(
        begin.elapsed() < CLIENT_PATIENCE,
        "it waited {:?} for the copy",
        begin.elapsed()
    );
    source.signal(libc::SIGCONT);
    cluster.settled().await;
    assert_eq!(
        cluster.same_files(DOMAIN).await[b"wanted".as_slice()],
        b"mine is newer"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tracker_that_dies_or_freezes_comes_back_by_itself() {
    let mut cluster = Cluster::start("").await;
    let mut mogile = Mogile::connect(cluster.ma01.proxy)
        .await
        .expect("it listens");
    mogile
        .store(DOMAIN, b"one", "", b"1")
        .await
        .expect("stored");

    cluster
        .ma01
        .tracker_process
        .as_mut()
        .expect("started")
        .kill();
    let failed = mogile
        .store(DOMAIN, b"two", "", b"2")
        .await
        .expect_err("the tracker is dead");
    assert!(!failed.why.is_empty());
    cluster.ma01.start_tracker().await;
    until("clients are served again", async || {
        let mut mogile = Mogile::connect(cluster.ma01.proxy)
            .await
            .map_err(|why| why.to_string())?;
        mogile
            .store(DOMAIN, b"two", "", b"2")
            .await
            .map(|_| ())
            .map_err(|failed| failed.why)
    })
    .await;

    let tracker = cluster.ma01.tracker_process.as_ref().expect("started");
    tracker.signal(libc::SIGSTOP);
    let mut waiting = Mogile::connect(cluster.ma01.proxy)
        .await
        .expect("the proxy still listens");
    let asked = tokio::spawn(async move { waiting.delete(DOMAIN, b"one").await });
    // It waits, as it would without the proxy; the other datacenter is not disturbed.
    let mut there = Mogile::connect(cluster.tx01.proxy)
        .await
        .expect("it listens");
    there.raw().create_domain(DOMAIN.as_bytes()).await.ok();
    there
        .store(DOMAIN, b"three", "", b"3")
        .await
        .expect("not disturbed");
    assert!(!asked.is_finished());
    tracker.signal(libc::SIGCONT);
    asked.await.expect("no panic").expect("answered after all");
    cluster.settled().await;
    let files = cluster.same_files(DOMAIN).await;
    assert_eq!(
        files
            .keys()
            .map(|k| k.escape_ascii().to_string())
            .collect::<Vec<_>>(),
        ["three", "two"]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_answers_what_is_under_way_and_ends_well() {
    let mut cluster = Cluster::start("").await;
    let mut mogile = Mogile::connect(cluster.ma01.proxy)
        .await
        .expect("it listens");
    mogile
        .store(DOMAIN, b"one", "", b"1")
        .await
        .expect("stored");
    let tracker = cluster.ma01.tracker_process.as_ref().expect("started");
    tracker.signal(libc::SIGSTOP);
    let asked = tokio::spawn(async move { mogile.delete(DOMAIN, b"one").await });
    until("the intent is in the journal", async || {
        let status = cluster.ma01.get("/v1/status").await?;
        if status["journal"]["open_intents"] == 1 {
            Ok(())
        } else {
            Err(format!("{status:#}"))
        }
    })
    .await;
    cluster.ma01.node().signal(libc::SIGTERM);
    let proxy = cluster.ma01.proxy;
    until(
        "nobody new is taken",
        async || match tokio::net::TcpStream::connect(proxy).await {
            Ok(_) => Err("it still listens".to_owned()),
            Err(_) => Ok(()),
        },
    )
    .await;
    cluster
        .ma01
        .tracker_process
        .as_ref()
        .expect("started")
        .signal(libc::SIGCONT);
    asked
        .await
        .expect("no panic")
        .expect("the request under way is answered");
    let node = cluster.ma01.node();
    until("it ends", async || {
        if node.has_ended() {
            Ok(())
        } else {
            Err(node.log())
        }
    })
    .await;
    cluster.ma01.start_node().await;
    cluster.settled().await;
    assert!(cluster.same_files(DOMAIN).await.is_empty());
}
