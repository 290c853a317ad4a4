//! The journal, by its rules: on its own, killed, cut off, and on a disk that fails.

mod copies;
mod crash;
mod debts;
mod disk;
mod rules;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use phylactery::config::JournalConfig;
use phylactery::file::{Fid, FileName};
use phylactery::journal::{
    Announcement, By, Details, Entry, Intent, Journal, JournalError, Mutation, Outgoing, Refused,
};
use phylactery::ledger::FileWrite;
use phylactery::locks::KeyLocks;
use phylactery::version::Version;

/// The environment that makes a child of a test: which folder to work in, and what to do.
const CHILD: &str = "PHYLACTERY_JOURNAL_CHILD";

fn config(folder: &Path) -> JournalConfig {
    JournalConfig {
        path: folder.to_owned(),
        max_size: 1 << 30,
        quiet_time: Duration::from_secs(60),
    }
}

fn try_open(folder: &Path) -> Result<Journal, JournalError> {
    open_as(folder, "ma01", "node1")
}

fn open_as(folder: &Path, datacenter: &str, node: &str) -> Result<Journal, JournalError> {
    let (datacenter, node) = (datacenter.parse(), node.parse());
    Journal::open(
        &config(folder),
        &datacenter.expect("a name"),
        &node.expect("a name"),
    )
}

fn open(folder: &Path) -> Journal {
    try_open(folder).expect("the journal opens")
}

fn file(key: &str) -> FileName {
    FileName::from_bytes(b"photos", key.as_bytes())
}

fn put(key: &str) -> Mutation {
    Mutation::Put {
        file: file(key),
        fid: Some(Fid(7)),
        details: Details::default(),
    }
}

fn announcement(file: FileName, version: Version, change: bool) -> Announcement {
    Announcement {
        file,
        write: FileWrite::default(),
        version,
        change,
    }
}

/// An intent of a client, under its keys' locks, which are given back at once.
async fn intend(journal: &Journal, mutation: Mutation) -> Result<Intent, Refused> {
    let locks = KeyLocks::default();
    let guard = locks.lock(&mutation.files(), Duration::from_secs(9)).await;
    journal.intend(&guard, By::Client, mutation).await
}

async fn intended(journal: &Journal, mutation: Mutation) -> Intent {
    intend(journal, mutation).await.expect("written")
}

async fn entries(journal: &Journal) -> Vec<Entry> {
    journal.entries(0, usize::MAX).await.expect("readable")
}

async fn outbox(journal: &Journal) -> Vec<Outgoing> {
    journal.outgoing(0, 1 << 40).await.expect("readable")
}

/// Waits for `condition`, and shows what there was if it does not come.
async fn until<T: std::fmt::Debug>(what: &str, mut look: impl AsyncFnMut() -> (bool, T)) {
    let give_up = Instant::now() + Duration::from_secs(30);
    loop {
        let (good, seen) = look().await;
        if good {
            return;
        }
        assert!(Instant::now() < give_up, "{what}: still {seen:?}");
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}

/// The journal as a kill at this moment would leave it; nothing may be written meanwhile.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for name in ["journal.db", "journal.db-wal"] {
        if from.join(name).exists() {
            std::fs::copy(from.join(name), to.join(name)).expect("copied");
        }
    }
}

/// What memory says must be what the tables say. For a journal at rest.
async fn assert_memory_agrees(journal: &Journal) {
    use phylactery::journal::{Outcome, Standing};
    let (entries, outbox) = (entries(journal).await, outbox(journal).await);
    let mut standing: BTreeMap<FileName, Standing> = BTreeMap::new();
    let mut rows = Vec::new();
    let mut open_versions = Vec::new();
    for entry in &entries {
        let open = entry.outcome != Some(Outcome::Happened);
        rows.push(entry.version);
        open_versions.extend(open.then_some(entry.version));
        for file in entry.mutation.files() {
            let known = standing.entry(file.clone()).or_default();
            known.newest = known.newest.max(Some(entry.version));
            known.open |= open;
        }
    }
    for out in &outbox {
        rows.push(out.announcement.version);
        let known = standing.entry(out.announcement.file.clone()).or_default();
        known.newest = known.newest.max(Some(out.announcement.version));
    }
    for (file, expected) in &standing {
        assert_eq!(journal.standing(file), *expected, "standing of {file}");
        let theirs = outbox.iter().map(|out| &out.announcement);
        let theirs: Vec<_> = theirs.filter(|a| a.file == *file).cloned().collect();
        let found = journal.outgoing_of(file).await.expect("readable");
        assert_eq!(found, theirs, "the outbox of {file}");
    }
    let depth = journal.depth();
    assert_eq!(depth.entries, rows.len() as u64);
    assert_eq!(depth.open, open_versions.len() as u64);
    assert_eq!(depth.oldest, rows.into_iter().min());
    assert_eq!(depth.oldest_open, open_versions.into_iter().min());
    assert_eq!(depth.bytes == 0, depth.entries == 0);
}

/// A child of this test that works on a journal, and what it has said so far.
struct Worker {
    child: Child,
    said: Arc<Mutex<Vec<String>>>,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Worker {
    /// Runs the test `name` of this binary again, as a child that works in `folder`.
    fn start(name: &str, folder: &Path, seed: u64) -> Worker {
        let mut child = Command::new(std::env::current_exe().expect("this binary"))
            .args(["--exact", name, "--nocapture", "--test-threads=1"])
            .env(CHILD, folder)
            .env("PHYLACTERY_JOURNAL_SEED", seed.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a child");
        let said = Arc::new(Mutex::new(Vec::new()));
        let (lines, heard) = (child.stdout.take().expect("a pipe"), Arc::clone(&said));
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(lines).lines().map_while(Result::ok) {
                heard.lock().push(line);
            }
        });
        Worker {
            child,
            said,
            reader: Some(reader),
        }
    }

    fn said(&self) -> Vec<String> {
        self.said.lock().clone()
    }

    /// Kills it as `kill -9` does; all that it said.
    fn kill(mut self) -> Vec<String> {
        self.child.kill().expect("killed");
        self.child.wait().expect("ended");
        self.hear_out()
    }

    /// Waits for its end, which must be a good one; all that it said.
    fn finish(mut self) -> Vec<String> {
        let status = self.child.wait().expect("ended");
        let said = self.hear_out();
        assert!(status.success(), "{status}: {said:#?}");
        said
    }

    fn hear_out(&mut self) -> Vec<String> {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("no panic");
        }
        self.said()
    }
}

/// Where a child is to work; `None` in the ordinary run of the tests, which has nothing to do there.
fn folder_of_child() -> Option<(PathBuf, u64)> {
    let folder = std::env::var_os(CHILD)?;
    let seed = std::env::var("PHYLACTERY_JOURNAL_SEED").ok()?;
    Some((folder.into(), seed.parse().expect("a number")))
}

/// A seed for chance, printed so that a failure can be had again with `PHYLACTERY_TEST_SEED`.
fn seed() -> u64 {
    let wanted = std::env::var("PHYLACTERY_TEST_SEED").ok();
    let seed = wanted.map_or_else(rand::random, |text| text.parse().expect("a number"));
    println!("PHYLACTERY_TEST_SEED={seed}");
    seed
}
