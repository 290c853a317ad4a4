//! What only this ledger has: a file, shared by handles and processes, on a disk that fills.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::RngExt;
use rusqlite::params;
use tempfile::TempDir;

use super::*;
use crate::ledger::suite::{self, content, head, put};
use Strength::Local;

fn name(text: &str) -> FileName {
    FileName::from_bytes(b"photos", text.as_bytes())
}

fn fresh() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("made/on/demand/ledger.sqlite");
    (folder, path)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn passes_the_suite() {
    let folder = tempfile::tempdir().unwrap();
    let count = AtomicU64::new(0);
    suite::passes(async || {
        let n = count.fetch_add(1, Ordering::Relaxed);
        let ledger = EmbeddedLedger::open(folder.path().join(format!("{n}.sqlite"))).unwrap();
        Arc::new(ledger) as Arc<dyn Ledger>
    })
    .await;
}

#[test]
fn a_token_is_the_start_of_an_md5() {
    // printf 'photos\0a+b' | md5sum | cut -c1-16
    assert_eq!(token(&name("a b")) as u64, 0x7903ea9ec61f4559);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_handles_share_a_file() {
    let (_folder, path) = fresh();
    let handles = [(); 2].map(|()| Arc::new(EmbeddedLedger::open(&path).unwrap()));
    let tasks: Vec<_> = (0..16i64)
        .map(|task| {
            let ledger = handles[task as usize % 2].clone();
            tokio::spawn(async move {
                for n in 0..50 {
                    let write = head(put(1 + n * 16 + task, "ma01"));
                    ledger.write(&name("shared"), &write, Local).await.unwrap();
                    let own = name(&format!("{task}/{n}"));
                    ledger.write(&own, &write, Local).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    for ledger in &handles {
        let record = ledger.read(&name("shared"), Local).await.unwrap();
        assert_eq!(record.content(), Some(&content(800, "ma01")));
        let page = ledger
            .scan(TokenRange::ALL, None, 10_000, Strength::Local)
            .await
            .unwrap();
        assert_eq!(page.files.len(), 801);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn news_of_this_and_of_another_handle_wakes() {
    let (_folder, path) = fresh();
    let [one, other] = [(); 2].map(|()| Arc::new(EmbeddedLedger::open(&path).unwrap()));
    let hour = Duration::from_secs(3600);
    // What another handle did while this one was opened may still be news once.
    one.wait_for_news(Duration::from_millis(300)).await;
    for (version, writer) in [(1, &one), (2, &other)] {
        let seen = one.news();
        let waiting = tokio::spawn({
            let one = one.clone();
            async move { one.wait_for_news_since(seen, hour).await }
        });
        tokio::time::sleep(Duration::from_millis(250)).await;
        assert!(!waiting.is_finished(), "woken by nothing");
        let write = head(put(version, "ma01"));
        writer.write(&name("news"), &write, Local).await.unwrap();
        let woken = timeout(Duration::from_secs(5), waiting).await;
        woken.expect("nobody woke the waiter").unwrap();
    }
    // Written between reading and waiting.
    let seen = one.news();
    let write = head(put(3, "ma01"));
    other.write(&name("news"), &write, Local).await.unwrap();
    let waiting = one.wait_for_news_since(seen, hour);
    let woken = timeout(Duration::from_secs(5), waiting).await;
    woken.expect("what came before the waiting was missed");
}

#[test]
fn many_may_make_the_file_at_once() {
    for _ in 0..10 {
        let (_folder, path) = fresh();
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| EmbeddedLedger::open(&path).unwrap());
            }
        });
    }
}

#[test]
fn what_is_not_ours_is_refused() {
    let (folder, path) = fresh();
    drop(EmbeddedLedger::open(&path).unwrap());
    let tamper = Connection::open(&path).unwrap();
    tamper
        .execute("UPDATE meta SET value = '99' WHERE name = 'schema'", [])
        .unwrap();
    let refused = EmbeddedLedger::open(&path).err().unwrap();
    assert!(matches!(refused, OpenError::Newer { .. }), "{refused}");
    assert!(refused.to_string().contains("schema 99"), "{refused}");

    let other = folder.path().join("other.sqlite");
    let theirs = Connection::open(&other).unwrap();
    theirs
        .execute_batch("CREATE TABLE file (fid INTEGER)")
        .unwrap();
    let refused = EmbeddedLedger::open(&other).err().unwrap();
    assert!(matches!(refused, OpenError::NotALedger { .. }), "{refused}");

    let text = folder.path().join("notes.txt");
    std::fs::write(&text, "no database at all".repeat(100)).unwrap();
    let refused = EmbeddedLedger::open(&text).err().unwrap();
    assert!(matches!(refused, OpenError::Failed { .. }), "{refused}");
    let refused = EmbeddedLedger::open(text.join("below")).err().unwrap();
    assert!(refused.to_string().contains("notes.txt/below"), "{refused}");
}

/// The file as version 1 made it: it is brought up to date while those of version 1 go on.
#[tokio::test]
async fn a_file_of_version_1_is_brought_up_to_date() {
    let (_folder, path) = fresh();
    let ledger = EmbeddedLedger::open(&path).unwrap();
    let write = head(put(10, "ma01"));
    ledger.write(&name("kept"), &write, Local).await.unwrap();
    drop(ledger);
    let earlier = Connection::open(&path).unwrap();
    earlier
        .execute_batch("DROP TABLE memberships; UPDATE meta SET value = '1' WHERE name = 'schema'")
        .unwrap();
    let ledger = EmbeddedLedger::open(&path).unwrap();
    assert_eq!(ledger.memberships().await.unwrap(), vec![]);
    let record = ledger.read(&name("kept"), Local).await.unwrap();
    assert_eq!(record.head, write.head);
    let version = "SELECT value FROM meta WHERE name = 'schema'";
    let version: String = earlier.query_row(version, [], |row| row.get(0)).unwrap();
    assert_eq!(version, SCHEMA.to_string());
    // And again it is as it should be.
    drop(EmbeddedLedger::open(&path).unwrap());
}

#[tokio::test]
async fn an_unreadable_row_is_named_and_the_rest_goes_on() {
    let (_folder, path) = fresh();
    let ledger = EmbeddedLedger::open(&path).unwrap();
    for n in 0..10 {
        let write = head(put(10, "ma01"));
        ledger
            .write(&name(&format!("{n}")), &write, Local)
            .await
            .unwrap();
    }
    let tamper = Connection::open(&path).unwrap();
    let broken = r#"{"version":10,"origin":"ma01","node":"node1","op":{"op":"merge"}}"#;
    tamper
        .execute("UPDATE files SET head = ? WHERE key = '3'", [broken])
        .unwrap();

    let bad = name("3");
    let refused = ledger.read(&bad, Local).await.unwrap_err().to_string();
    assert!(refused.contains("files, head of photos 3"), "{refused}");
    assert!(refused.contains("merge"), "{refused}");
    let mut seen = 0;
    let mut unreadable = Vec::new();
    let mut from: Option<String> = None;
    loop {
        let page = ledger
            .scan(TokenRange::ALL, from.as_deref(), 2, Strength::Local)
            .await;
        let page = page.unwrap();
        seen += page.files.len();
        unreadable.extend(page.unreadable);
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    assert_eq!(seen, 9);
    assert_eq!(unreadable.len(), 1);
    assert_eq!(unreadable[0].file.as_ref(), Some(&bad));

    // Which of two of one time wins cannot be said; a later one can.
    let tie = ledger.write(&bad, &head(put(10, "tx01")), Local).await;
    assert!(matches!(tie, Err(LedgerError::Corrupt { .. })), "{tie:?}");
    ledger
        .write(&bad, &head(put(11, "tx01")), Local)
        .await
        .unwrap();
    let healed = ledger.read(&bad, Local).await.unwrap();
    assert_eq!(healed.content(), Some(&content(11, "tx01")));

    tamper
        .execute(
            "INSERT INTO nodes VALUES ('ma01', 'node1', 'ab', 1, '{}')",
            [],
        )
        .unwrap();
    let refused = ledger.nodes().await.unwrap_err().to_string();
    assert!(refused.contains("nodes, ma01 node1 ab"), "{refused}");
    let position = ledger
        .scan(TokenRange::ALL, Some("part 7"), 2, Strength::Local)
        .await;
    assert!(matches!(position, Err(LedgerError::Corrupt { .. })));
}

#[tokio::test]
async fn who_holds_the_file_too_long_makes_it_unavailable() {
    let (_folder, path) = fresh();
    let ledger = EmbeddedLedger::open(&path).unwrap();
    let holder = Connection::open(&path).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    let write = head(put(1, "ma01"));
    let file = name("held");
    // Two at once: the second must not wait for its turn after the first has waited in vain.
    let begun = std::time::Instant::now();
    let (one, two) = tokio::join!(
        ledger.write(&file, &write, Local),
        ledger.write(&file, &write, Local)
    );
    for refused in [one, two] {
        assert!(
            matches!(refused, Err(LedgerError::Unavailable { .. })),
            "{refused:?}"
        );
    }
    assert!(begun.elapsed() < PATIENCE + TURN);
    let reading = ledger.read(&file, Local).await.unwrap();
    assert_eq!(reading, FileRecord::default(), "reads go on");
    holder.execute_batch("COMMIT").unwrap();
    ledger.write(&file, &write, Local).await.unwrap();
}

#[tokio::test]
async fn a_cleared_gap_is_forgotten_after_days() {
    let (_folder, path) = fresh();
    let ledger = EmbeddedLedger::open(&path).unwrap();
    let here: Datacenter = "ma01".parse().unwrap();
    for n in 0..5 {
        let file = name(&format!("{n}"));
        ledger.clear_gap(&here, &file, Version(1)).await.unwrap();
    }
    let sql = Connection::open(&path).unwrap();
    let forget = |before, most| write::forget_cleared_gaps(&sql, before, most).unwrap();
    assert_eq!(forget(Version(1), 10), 0, "by the time of clearing");
    assert_eq!(forget(Version(i64::MAX), 2), 2);
    assert_eq!(forget(Version(i64::MAX), 10), 3);
}

/// This test program again, as another process that runs [`child`].
fn as_child(path: &Path, role: &str, shell: &str) -> Child {
    Command::new("sh")
        .args(["-c", &format!("{shell} exec \"$0\" \"$@\"")])
        .arg(std::env::current_exe().unwrap())
        .args(["ledger::embedded::tests::child", "--exact", "--ignored"])
        .args(["--nocapture", "--test-threads=1"])
        .env("PHYLACTERY_TEST_LEDGER", path)
        .env("PHYLACTERY_TEST_ROLE", role)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
#[ignore = "the other process of the tests below"]
fn child() {
    let Some(path) = std::env::var_os("PHYLACTERY_TEST_LEDGER") else {
        return; // nobody's child
    };
    let role = std::env::var("PHYLACTERY_TEST_ROLE").unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let ledger = Arc::new(EmbeddedLedger::open(path).unwrap());
    runtime.block_on(async {
        if role == "fill" {
            return fill(&ledger).await;
        }
        let tasks: Vec<_> = (0..8)
            .map(|task| {
                let (ledger, role) = (ledger.clone(), role.clone());
                tokio::spawn(async move {
                    for n in 1.. {
                        let file = name(&format!("{role}/{task}"));
                        let write = head(put(n, "ma01"));
                        ledger.write(&file, &write, Local).await.unwrap();
                        // One write call a line: lines of several threads must not mix.
                        let line = format!("\nacknowledged {role}/{task} {n}\n");
                        std::io::stdout().write_all(line.as_bytes()).unwrap();
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
}

#[tokio::test]
async fn what_was_acknowledged_survives_kill_9() {
    let (_folder, path) = fresh();
    let mut rng = rand::rng();
    let mut acknowledged = std::collections::BTreeMap::<String, i64>::new();
    for round in 0..4 {
        // Two processes, both killed in the middle; the first round also makes the file.
        let mut children = [0, 1].map(|n| as_child(&path, &format!("r{round}c{n}"), ""));
        let (begun, beginning) = std::sync::mpsc::channel();
        let readers = children.each_mut().map(|child| {
            let out = BufReader::new(child.stdout.take().unwrap());
            let mut begun = Some(begun.clone());
            std::thread::spawn(move || {
                let lines = out.lines().map_while(Result::ok);
                let acknowledged = lines.filter_map(|line| {
                    let rest = line.strip_prefix("acknowledged ")?;
                    if let Some(begun) = begun.take() {
                        begun.send(()).unwrap();
                    }
                    let (key, n) = rest.split_once(' ')?;
                    Some((key.to_owned(), n.parse().ok()?))
                });
                acknowledged.collect::<Vec<(String, i64)>>()
            })
        });
        for _ in 0..2 {
            beginning
                .recv_timeout(Duration::from_secs(60))
                .expect("both write");
        }
        // Both have got going, and collide; the moment itself is left to chance.
        std::thread::sleep(Duration::from_millis(rng.random_range(0..400)));
        for child in &mut children {
            child.kill().unwrap();
        }
        for child in &mut children {
            child.wait().unwrap();
        }
        for reader in readers {
            let lines = reader.join().unwrap();
            assert!(!lines.is_empty(), "a process has written nothing");
            for (key, n) in lines {
                let last = acknowledged.entry(key).or_default();
                *last = n.max(*last);
            }
        }
        let ledger = EmbeddedLedger::open(&path).unwrap();
        for (key, n) in &acknowledged {
            let record = ledger.read(&name(key), Local).await.unwrap();
            let held = record.content().map_or(0, |content| content.version.0);
            // The write after the last acknowledged one may have happened too.
            assert!(held == *n || held == n + 1, "{key}: {n} but {held}");
        }
    }
    let check = Connection::open(&path).unwrap();
    let sound: String = check
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(sound, "ok");
}

/// Writes until the disk is full, says so, waits for room, and checks what is there.
async fn fill(ledger: &EmbeddedLedger) {
    let mut n = 0;
    let refused = loop {
        let file = name(&format!("{n}/{}", "x".repeat(5000)));
        match ledger.write(&file, &head(put(1, "ma01")), Local).await {
            Ok(()) => n += 1,
            Err(refused) => break refused,
        }
        assert!(n < 100_000, "the disk never was full");
    };
    assert!(
        matches!(refused, LedgerError::Unavailable { .. }),
        "{refused}"
    );
    let all = async || {
        let mut count = 0;
        let mut from: Option<String> = None;
        loop {
            let page = ledger
                .scan(TokenRange::ALL, from.as_deref(), 100, Strength::Local)
                .await;
            let page = page.unwrap();
            count += page.files.len();
            from = page.next;
            if from.is_none() {
                return count;
            }
        }
    };
    assert_eq!(all().await, n, "reads go on");
    println!("\nfull after {n}: {refused}");
    std::io::stdin().read_line(&mut String::new()).unwrap();
    for more in 0..20 {
        let file = name(&format!("more/{more}"));
        ledger
            .write(&file, &head(put(1, "ma01")), Local)
            .await
            .unwrap();
    }
    assert_eq!(all().await, n + 20);
    println!("\nrecovered");
}

/// A limit on the size of files stands for a full disk: it needs no rights and no mount.
#[test]
fn a_full_disk_is_unavailable_until_there_is_room() {
    let (_folder, path) = fresh();
    let mut child = as_child(&path, "fill", "trap '' XFSZ; ulimit -S -f 4000;");
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut until = |word: &str| {
        let mut seen = Vec::new();
        for line in lines.by_ref().map_while(Result::ok) {
            seen.push(line);
            if seen.last().unwrap().starts_with(word) {
                return;
            }
        }
        panic!("no {word:?} in {seen:#?}");
    };
    until("full after");
    let freed = Command::new("prlimit")
        .args(["--fsize=unlimited", "--pid", &child.id().to_string()])
        .status();
    assert!(freed.unwrap().success());
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    until("recovered");
    assert!(child.wait().unwrap().success());
}

#[tokio::test]
async fn counting_a_hundred_thousand_gaps_reads_an_index() {
    let (_folder, path) = fresh();
    let ledger = EmbeddedLedger::open(&path).unwrap();
    let sql = Connection::open(&path).unwrap();
    sql.execute(
        "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 100000)
            INSERT INTO gaps SELECT 'ma01', 'photos', 'k' || n, 1, NULL, 1, 0, '', n, NULL, NULL FROM n",
        params![],
    )
    .unwrap();
    let here: Datacenter = "ma01".parse().unwrap();
    assert_eq!(ledger.count_gaps(&here).await.unwrap(), 100_000);
    let plan = |query: &str| -> String {
        let explain = format!("EXPLAIN QUERY PLAN {query}");
        sql.query_row(&explain, [], |row| row.get(3)).unwrap()
    };
    let due = plan(
        "SELECT key FROM gaps WHERE datacenter = 'ma01' AND cleared_at IS NULL
            AND next_try <= 5 ORDER BY next_try LIMIT 5",
    );
    assert!(due.contains("gaps_due"), "{due}");
    let scan = plan(
        "SELECT key FROM files WHERE (token, domain, key) > (1, 'a', 'b') AND token <= 9
            ORDER BY token, domain, key LIMIT 5",
    );
    assert!(scan.contains("SEARCH files USING PRIMARY KEY"), "{scan}");
}
