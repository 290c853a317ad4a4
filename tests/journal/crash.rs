//! Killed at any moment: what was answered is there, what was never asked is not, and numbers have no holes.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use phylactery::journal::{Journal, Outcome};
use phylactery::version::Version;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tempfile::tempdir;

use super::{
    Worker, announcement, assert_memory_agrees, copy, entries, file, folder_of_child, intended,
    open, outbox, put, seed,
};

/// Kills and snapshots in one run. More by hand.
const ROUNDS: u32 = 25;

/// What a child said: each line is a word and a number, or a key. It says `asked` before, `have` after an intent; `gone`
/// before a row may vanish for good, and `confirm` before its change may.
#[derive(Default)]
struct Said {
    asked: BTreeSet<String>,
    have: BTreeSet<i64>,
    gone: BTreeSet<i64>,
    confirmed: BTreeSet<u64>,
}

impl Said {
    fn hear(&mut self, lines: &[String]) {
        for line in lines {
            // A kill may cut the last line, which then counts for what it can say.
            match line.split_once(' ') {
                Some(("asked", key)) => {
                    self.asked.insert(key.to_owned());
                }
                Some(("have", version)) => self.have.extend(
                    version
                        .strip_suffix('.')
                        .and_then(|v| v.parse::<i64>().ok()),
                ),
                Some(("gone", version)) => self.gone.extend(
                    version
                        .strip_suffix('.')
                        .and_then(|v| v.parse::<i64>().ok()),
                ),
                Some(("confirm", number)) => self
                    .confirmed
                    .extend(number.strip_suffix('.').and_then(|v| v.parse::<u64>().ok())),
                _ => {}
            }
        }
    }
}

/// What a journal must hold after a kill. `before` is what had been said when it came, `all` what was said at all.
async fn assert_whole(journal: &Journal, before: &Said, all: &Said) {
    let (entries, outbox) = (entries(journal).await, outbox(journal).await);
    let mut versions: BTreeSet<i64> = entries.iter().map(|entry| entry.version.0).collect();
    versions.extend(outbox.iter().map(|out| out.announcement.version.0));
    let missing: Vec<_> = before
        .have
        .iter()
        .filter(|version| !versions.contains(version) && !all.gone.contains(version))
        .collect();
    assert!(missing.is_empty(), "acknowledged and lost: {missing:?}");
    for entry in &entries {
        assert!(entry.outcome.is_some());
        let name = entry.mutation.files()[0].key.escaped();
        assert!(all.asked.contains(name), "nobody asked for {entry:?}");
    }
    let mut numbers: BTreeSet<u64> = outbox.iter().filter_map(|out| out.number).collect();
    assert_eq!(
        numbers.len(),
        outbox.iter().filter(|out| out.number.is_some()).count(),
        "a number twice"
    );
    assert!(numbers.last() <= Some(&journal.last_number()));
    numbers.extend(&all.confirmed);
    let holes: Vec<_> = (1..=journal.last_number())
        .filter(|number| !numbers.contains(number))
        .collect();
    assert!(holes.is_empty(), "holes in the stream: {holes:?}");
    let newest = versions.last().max(before.have.last());
    assert!(
        Some(&journal.clock().mark().0) >= newest,
        "the clock has gone back"
    );
    assert_memory_agrees(journal).await;
}

/// The child of the tests below: writers and one that settles and delivers, until it is killed.
#[test]
fn child_that_is_killed() {
    let Some((folder, seed)) = folder_of_child() else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async move {
        let journal = open(&folder);
        println!("open");
        for writer in 0..8 {
            tokio::spawn(write(journal.clone(), seed, writer));
        }
        deliver(journal).await;
    });
}

async fn write(journal: Journal, seed: u64, writer: u64) {
    let mut chance = StdRng::seed_from_u64(seed ^ (writer << 32));
    for n in 0.. {
        let key = format!("{seed}-{writer}-{n}");
        println!("asked {key}");
        let intent = intended(&journal, put(&key)).await;
        println!("have {}.", intent.version());
        match chance.random_range(0..10) {
            0 => {
                println!("gone {}.", intent.version());
                intent.outcome(Outcome::DidNotHappen);
            }
            1 => intent.outcome(Outcome::Doubtful),
            2 => drop(intent),
            _ => intent.outcome(Outcome::Happened),
        }
    }
}

async fn deliver(journal: Journal) {
    let mut after = 0;
    for round in 0u64.. {
        let entries = journal.entries(after, 200).await.expect("readable");
        let known = entries.iter().take_while(|entry| entry.outcome.is_some());
        let mut settled = Vec::new();
        for entry in known {
            after = entry.seq;
            match entry.outcome {
                Some(Outcome::Happened) => {
                    let say = |change| {
                        announcement(entry.mutation.files()[0].clone(), entry.version, change)
                    };
                    settled.push((entry.seq, vec![say(true), say(entry.seq % 3 == 0)]));
                }
                Some(Outcome::Doubtful) if entry.seq % 2 == 0 => {
                    println!("gone {}.", entry.version);
                    settled.push((entry.seq, vec![]));
                }
                _ => {}
            }
        }
        journal.announce(settled).await.expect("announced");
        if round % 3 == 0 {
            let out = journal.outgoing(0, 300).await.expect("readable");
            // The last of a version goes with it.
            out.iter()
                .for_each(|out| println!("gone {}.", out.announcement.version));
            out.iter()
                .filter_map(|out| out.number)
                .for_each(|number| println!("confirm {number}."));
            journal
                .confirm(out.iter().map(|out| out.id).collect(), false)
                .await
                .expect("confirmed");
        }
    }
}

/// Starts a child, and waits until it has written something.
async fn start(folder: &Path, seed: u64) -> Worker {
    let worker = Worker::start("crash::child_that_is_killed", folder, seed);
    super::until("a child at work", async || {
        let said = worker.said();
        (said.iter().any(|line| line.starts_with("have")), said)
    })
    .await;
    worker
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_by_a_kill() {
    let seed = seed();
    let mut chance = StdRng::seed_from_u64(seed);
    let folder = tempdir().expect("a folder");
    let mut said = Said::default();
    let mut stream = None;
    for round in 0..u64::from(ROUNDS) {
        let worker = start(folder.path(), seed.wrapping_add(round)).await;
        tokio::time::sleep(Duration::from_millis(chance.random_range(0..200))).await;
        said.hear(&worker.kill());
        let journal = open(folder.path());
        assert_whole(&journal, &said, &said).await;
        assert_eq!(journal.stream(), *stream.get_or_insert(journal.stream()));
        if round % 4 == 0 {
            journal.close().await;
        }
    }
    println!("{} acknowledged over {ROUNDS} kills", said.have.len());
}

/// Stops every thread of a process, as one moment of it.
#[cfg(target_os = "linux")]
fn signal(pid: u32, signal: libc::c_int) {
    #[expect(unsafe_code, reason = "there is no safe way to send a signal")]
    // SAFETY: a signal to a child of ours, which we have not waited for yet.
    let sent = unsafe { libc::kill(pid.cast_signed(), signal) };
    assert_eq!(sent, 0);
}

#[cfg(target_os = "linux")]
fn freeze(pid: u32) {
    signal(pid, libc::SIGSTOP);
    let give_up = std::time::Instant::now() + Duration::from_secs(30);
    loop {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("a process");
        let running = tasks.filter_map(Result::ok).any(|task| {
            let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            !matches!(stat.rsplit_once(')'), Some((_, rest)) if rest.trim_start().starts_with('T'))
        });
        if !running {
            return;
        }
        assert!(std::time::Instant::now() < give_up, "{pid} does not stop");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_copy_of_any_moment_holds_all_that_was_answered_before() {
    let seed = seed();
    let mut chance = StdRng::seed_from_u64(seed);
    let (folder, copies) = (tempdir().expect("a folder"), tempdir().expect("a folder"));
    let worker = start(folder.path(), seed).await;
    let pid = worker.child.id();
    let mut moments = Vec::new();
    for round in 0..ROUNDS {
        tokio::time::sleep(Duration::from_millis(chance.random_range(0..100))).await;
        let mut before = Said::default();
        before.hear(&worker.said());
        freeze(pid);
        let copied = copies.path().join(round.to_string());
        copy(folder.path(), &copied);
        signal(pid, libc::SIGCONT);
        moments.push((copied, before));
    }
    let mut all = Said::default();
    all.hear(&worker.kill());
    for (copied, before) in moments {
        assert_whole(&open(&copied), &before, &all).await;
    }
}

#[tokio::test]
async fn a_log_cut_anywhere_opens_with_all_up_to_there() {
    let seed = seed();
    let mut chance = StdRng::seed_from_u64(seed);
    let (folder, copies) = (tempdir().expect("a folder"), tempdir().expect("a folder"));
    let journal = open(folder.path());
    let mut versions = Vec::new();
    for n in 0..60 {
        let intent = intended(&journal, put(&format!("{n:03}"))).await;
        versions.push(intent.version());
        intent.outcome(Outcome::Happened);
    }
    super::until("rest", async || {
        (journal.depth().open == 0, journal.depth())
    })
    .await;
    let whole = copies.path().join("whole");
    copy(folder.path(), &whole);
    let log = std::fs::read(whole.join("journal.db-wal")).expect("a log");
    let frame = 4096 + 24;
    let mut cuts: Vec<usize> = vec![
        0,
        1,
        31,
        32,
        33,
        32 + frame - 1,
        32 + frame,
        log.len() - 1,
        log.len(),
    ];
    cuts.extend((0..60).map(|_| chance.random_range(0..log.len())));
    cuts.sort_unstable();
    let mut most = 0;
    for cut in cuts {
        let copied = copies.path().join(format!("cut-{cut}"));
        copy(&whole, &copied);
        std::fs::write(copied.join("journal.db-wal"), &log[..cut]).expect("cut");
        let journal = open(&copied);
        let found: Vec<Version> = entries(&journal)
            .await
            .iter()
            .map(|entry| entry.version)
            .collect();
        assert!(found.len() >= most, "a longer log holds less");
        most = found.len();
        assert_eq!(found, versions[..most]);
        assert!(journal.clock().mark() >= found.last().copied().unwrap_or_default());
        assert_memory_agrees(&journal).await;
        // And it goes on from there.
        let next = intended(&journal, put("next")).await;
        assert!(Some(&next.version()) > found.last());
        assert_eq!(journal.standing(&file("next")).newest, Some(next.version()));
        next.outcome(Outcome::Happened);
        journal.close().await;
        std::fs::remove_dir_all(&copied).expect("removed");
    }
    assert_eq!(most, versions.len());
}
