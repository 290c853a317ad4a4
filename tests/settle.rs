//! Whatever is answered, lost, repeated or cut off by a kill, the ledger ends with what the tracker holds.
//!
//! A model of a tracker (a map of keys) takes random mutations; each is executed or not, answered or not. The journal,
//! the ledger and the settling are the real ones. `SETTLE_SEED=n` runs one seed again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use parking_lot::Mutex;
use phylactery::config::JournalConfig;
use phylactery::events::Events;
use phylactery::file::{Class, Content, Datacenter, Fid, FileName, NodeName, Op};
use phylactery::journal::deliver::Deliverer;
use phylactery::journal::settle::{Look, LookError, Row, Settler};
use phylactery::journal::{By, Details, Journal, Mutation, Outcome};
use phylactery::ledger::embedded::EmbeddedLedger;
use phylactery::ledger::{FileRecord, Ledger, Strength};
use phylactery::locks::KeyLocks;
use phylactery::trust::Trust;
use phylactery::version::{MAX_AHEAD, Version, wall_clock};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio_util::sync::CancellationToken;

const QUIET: Duration = Duration::from_millis(25);
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// A tracker's namespace and nothing else.
#[derive(Default)]
struct Namespace {
    files: BTreeMap<FileName, (Fid, Class)>,
    last_fid: u64,
}

#[derive(Clone, Default)]
struct Model(Arc<Mutex<Namespace>>);

const SIZE: u64 = 7;

#[async_trait]
impl Look for Model {
    async fn by_key(&self, file: &FileName) -> Result<Option<Row>, LookError> {
        Ok(self.0.lock().files.get_key_value(file).map(row))
    }
    async fn by_fid(&self, fid: Fid) -> Result<Option<Row>, LookError> {
        Ok(self
            .0
            .lock()
            .files
            .iter()
            .find(|(_, held)| held.0 == fid)
            .map(row))
    }
}

fn row((file, (fid, class)): (&FileName, &(Fid, Class))) -> Row {
    Row {
        file: file.clone(),
        fid: *fid,
        class: class.clone(),
        size: SIZE,
    }
}

impl Namespace {
    /// Executes a mutation as a tracker does; whether it changed anything, and what an answer would mean.
    fn execute(&mut self, mutation: &Mutation, class: &Class) -> Outcome {
        match mutation {
            Mutation::Put { file, fid, .. } => {
                let fid = fid.expect("the model's puts name their fid");
                self.files.insert(file.clone(), (fid, class.clone()));
                Outcome::Happened
            }
            Mutation::Delete { file } => match self.files.remove(file) {
                Some(_) => Outcome::Happened,
                None => Outcome::Doubtful,
            },
            Mutation::Rename { from, to } => {
                match (self.files.get(from).cloned(), self.files.contains_key(to)) {
                    (None, _) => Outcome::Doubtful,
                    (Some(_), true) => Outcome::DidNotHappen,
                    (Some(held), false) => {
                        self.files.remove(from);
                        self.files.insert(to.clone(), held);
                        Outcome::Happened
                    }
                }
            }
            Mutation::SetClass { file, class } => match self.files.get_mut(file) {
                Some(held) => {
                    held.1 = class.clone();
                    Outcome::Happened
                }
                None => Outcome::DidNotHappen,
            },
        }
    }
}

struct Site {
    journal: Journal,
    ledger: Arc<dyn Ledger>,
    stop: CancellationToken,
    delivery: tokio::task::JoinHandle<()>,
}

impl Site {
    fn open(folder: &Path, ledger: Arc<dyn Ledger>, model: &Model, deliver: bool) -> Site {
        let config = JournalConfig {
            path: folder.to_owned(),
            max_size: 1 << 26,
            quiet_time: QUIET,
        };
        let journal = Journal::open(&config, &us(), &node()).expect("the journal opens");
        let look: Arc<dyn Look> = Arc::new(model.clone());
        let settler = Settler::new(journal.clone(), Arc::clone(&ledger), look, QUIET);
        let deliverer = Deliverer {
            journal: journal.clone(),
            ledger: Arc::clone(&ledger),
            settler,
            events: Events::default(),
            trust: Trust::complete(),
        };
        let stop = CancellationToken::new();
        let token = stop.clone();
        let delivery = tokio::spawn(async move {
            if deliver {
                deliverer.run(token).await;
            }
        });
        Site {
            journal,
            ledger,
            stop,
            delivery,
        }
    }

    async fn close(self) {
        self.stop.cancel();
        self.delivery.await.expect("delivery does not panic");
    }
}

fn us() -> Datacenter {
    "ma01".parse().expect("a name")
}

fn node() -> NodeName {
    "node1".parse().expect("a name")
}

/// The folder as a kill leaves it: all its files as of one moment between two writes.
fn copy_folder(from: &Path, to: &Path) {
    let state = || -> Vec<_> {
        let names = std::fs::read_dir(from).expect("a folder").flatten();
        let mut files: Vec<_> = names
            .filter_map(|entry| {
                let known = entry.metadata().ok()?;
                Some((entry.file_name(), known.len(), known.modified().ok()))
            })
            .collect();
        files.sort();
        files
    };
    loop {
        let before = state();
        std::fs::create_dir_all(to).expect("a new folder");
        let copied = before
            .iter()
            .all(|(name, ..)| std::fs::copy(from.join(name), to.join(name)).is_ok());
        if copied && state() == before {
            return;
        }
        std::fs::remove_dir_all(to).expect("ours");
    }
}

/// What is under way when the process is killed.
enum End {
    Answered,
    Killed,
}

async fn one_run(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let home = tempfile::tempdir().expect("a folder");
    let model = Model::default();
    let locks = KeyLocks::default();
    let ledger: Arc<dyn Ledger> =
        Arc::new(EmbeddedLedger::open(home.path().join("ledger.db")).expect("the ledger opens"));
    let keys: Vec<FileName> = (0..4)
        .map(|n| FileName::from_bytes(b"d", format!("k{n}").as_bytes()))
        .collect();
    let classes = [Class::default_class(), Class::from_bytes(b"thumb")];
    let mut versions: BTreeSet<Version> = BTreeSet::new();
    let mut contents: BTreeMap<Version, Fid> = BTreeMap::new();
    let mut history: Vec<String> = Vec::new();
    let mut lives = 0;
    let mut folder = home.path().join("journal0");
    let mut site = Site::open(
        &folder,
        Arc::clone(&ledger),
        &model,
        random.random_bool(0.7),
    );

    for _ in 0..random.random_range(5..40) {
        let pick = |random: &mut StdRng| keys[random.random_range(0..keys.len())].clone();
        let class = classes[random.random_range(0..2)].clone();
        let file = pick(&mut random);
        let mutation = match random.random_range(0..10) {
            0..=3 => {
                let mut namespace = model.0.lock();
                namespace.last_fid += 1;
                let told = random.random_bool(0.6);
                Mutation::Put {
                    file,
                    fid: Some(Fid(namespace.last_fid)),
                    details: Details {
                        class: told.then(|| class.clone()),
                        size: told.then_some(SIZE),
                        checksum: None,
                    },
                }
            }
            4..=5 => Mutation::Delete { file },
            6..=8 => {
                let to = pick(&mut random);
                if to == file {
                    continue;
                }
                Mutation::Rename { from: file, to }
            }
            _ => Mutation::SetClass {
                file,
                class: class.clone(),
            },
        };
        let guard = locks.lock(&mutation.files(), LOCK_WAIT).await;
        let intent = site
            .journal
            .intend(&guard, By::Client, mutation.clone())
            .await
            .expect("written");
        versions.insert(intent.version());
        let executed = random.random_bool(0.8);
        let honest = if executed {
            model.0.lock().execute(&mutation, &class)
        } else {
            Outcome::Lost
        };
        let (outcome, end) = match random.random_range(0..10) {
            0 => (Outcome::Lost, End::Answered),
            // A worker died after the work, and the request ran again.
            1 if executed && honest == Outcome::Happened => (Outcome::Doubtful, End::Answered),
            2 => (honest, End::Killed),
            _ => (honest, End::Answered),
        };
        history.push(format!(
            "{} {mutation:?} executed={executed} outcome={outcome:?} killed={}",
            intent.version(),
            matches!(end, End::Killed)
        ));
        if let (Outcome::Happened, Mutation::Put { fid: Some(fid), .. }) = (outcome, &mutation) {
            contents.insert(intent.version(), *fid);
        }
        match end {
            End::Answered => intent.outcome(outcome),
            End::Killed => {
                // Half the time the outcome was on its way when the kill came.
                if random.random_bool(0.5) {
                    intent.outcome(outcome);
                } else {
                    std::mem::forget(intent);
                }
                lives += 1;
                let next = home.path().join(format!("journal{lives}"));
                // The delivery of a killed process writes no more.
                site.stop.cancel();
                let old = site;
                old.delivery.await.expect("no panic");
                copy_folder(&folder, &next);
                folder = next;
                drop(guard);
                site = Site::open(
                    &folder,
                    Arc::clone(&ledger),
                    &model,
                    random.random_bool(0.7),
                );
                continue;
            }
        }
        drop(guard);
    }

    let context = || format!("seed {seed}\n{}", history.join("\n"));
    // However the run began, it ends with a process that delivers.
    site.close().await;
    let next = home.path().join("journal-last");
    copy_folder(&folder, &next);
    let site = Site::open(&next, Arc::clone(&ledger), &model, true);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while site.journal.depth().entries > 0 {
        let left = site.journal.entries(0, 100).await.expect("readable");
        assert!(
            tokio::time::Instant::now() < deadline,
            "not settled: {:?} {left:#?}\n{}",
            site.journal.depth(),
            context()
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    for file in &keys {
        let record = site
            .ledger
            .read(file, Strength::Local)
            .await
            .expect("readable");
        let held = record
            .replicas
            .get(&us())
            .and_then(|replica| replica.held.clone());
        let real = model.0.lock().files.get(file).cloned();
        let told = || {
            format!(
                "{file:?}: tracker {real:?}, ledger {record:#?}\n{}",
                context()
            )
        };
        match (&real, &held) {
            (None, None) => {
                let gone = record
                    .head
                    .as_ref()
                    .is_none_or(|head| matches!(head.op, Op::Delete { .. }));
                assert!(gone, "{}", told());
            }
            (Some((fid, class)), Some(held)) => {
                let head = record
                    .head
                    .as_ref()
                    .and_then(|head| head.put())
                    .unwrap_or_else(|| panic!("{}", told()));
                assert_eq!((held.fid, &held.class), (*fid, class), "{}", told());
                assert_eq!(
                    (&head.content, head.fid, head.size),
                    (&held.content, *fid, SIZE),
                    "{}",
                    told()
                );
                assert_eq!(record.class(), Some(class), "{}", told());
                // Where several answers are lost, bytes may be taken for new ones, which costs a copy. They are never
                // taken for others, which would cost the others.
                if let Some(put) = contents.get(&head.content.version) {
                    assert_eq!(put, fid, "the identity of other bytes: {}", told());
                }
            }
            _ => panic!("{}", told()),
        }
        if let Some(head) = &record.head {
            let above = Version(head.version.0 - 1);
            assert!(
                versions.contains(&head.version) || versions.contains(&above),
                "invented: {}",
                told()
            );
        }
    }
    // The stream tells of every change, without holes, and the ledger has what each names.
    let changes = site
        .ledger
        .changes(&site.journal.stream(), 0, 10_000, Strength::Local)
        .await
        .expect("readable");
    for (change, expected) in changes.iter().zip(1..) {
        assert_eq!(change.number, expected, "a hole: {}", context());
        let file = change
            .file
            .as_ref()
            .expect("the journal leaves no number empty");
        let record = site
            .ledger
            .read(file, Strength::Local)
            .await
            .expect("readable");
        let head = record
            .head
            .map(|head| head.version)
            .max(record.class_cell.map(|cell| cell.version));
        assert!(
            head >= Some(change.version),
            "{change:?} is ahead of {head:?}: {}",
            context()
        );
    }
    assert_eq!(
        site.journal.last_number(),
        changes.len() as u64,
        "{}",
        context()
    );
    site.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ledger_ends_with_what_the_tracker_holds() {
    let seeds: Vec<u64> = match std::env::var("SETTLE_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
    {
        Some(seed) => vec![seed],
        None => (0..150).map(|_| rand::random_range(0..u64::MAX)).collect(),
    };
    // Most of a run is waiting for quiet times: many go side by side.
    futures::stream::iter(seeds)
        .for_each_concurrent(8, |seed| async move {
            println!("seed {seed}");
            one_run(seed).await;
        })
        .await;
}

/// A tracker that stands still for longer than a lock is waited for may carry out two uploads in either order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_was_closed_after_a_newer_one_is_the_newest() {
    let class = Class::default_class();
    for closed_last in [Fid(1), Fid(2)] {
        for second_deletes in [false, true] {
            let home = tempfile::tempdir().expect("a folder");
            let model = Model::default();
            let locks = KeyLocks::default();
            let ledger: Arc<dyn Ledger> = Arc::new(
                EmbeddedLedger::open(home.path().join("ledger.db")).expect("the ledger opens"),
            );
            let journal = home.path().join("journal");
            let site = Site::open(&journal, Arc::clone(&ledger), &model, true);
            let file = FileName::from_bytes(b"d", b"k");
            let put = |fid| Mutation::Put {
                file: file.clone(),
                fid: Some(fid),
                details: Details {
                    class: Some(class.clone()),
                    size: Some(SIZE),
                    checksum: None,
                },
            };
            let first = put(Fid(1));
            let second = if second_deletes {
                Mutation::Delete { file: file.clone() }
            } else {
                put(Fid(2))
            };
            let guard = locks.lock(&[&file], LOCK_WAIT).await;
            let intended = site.journal.intend(&guard, By::Client, first.clone());
            let first_intent = intended.await.expect("written");
            let beside = locks.lock(&[&file], Duration::ZERO).await;
            assert!(guard.was_passed());
            let intended = site.journal.intend(&beside, By::Client, second.clone());
            let second_intent = intended.await.expect("written");
            let newest = second_intent.version();
            let order = if closed_last == Fid(1) {
                [&second, &first]
            } else {
                [&first, &second]
            };
            for mutation in order {
                model.0.lock().execute(mutation, &class);
            }
            second_intent.outcome(Outcome::Happened);
            first_intent.outcome(Outcome::Lost);
            drop((guard, beside));
            while site.journal.depth().entries > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let record = ledger.read(&file, Strength::Global).await.expect("read");
            let held = model.0.lock().files.get(&file).map(|(fid, _)| *fid);
            let replica = record.replicas.get(&us()).and_then(|r| r.held.as_ref());
            assert_eq!(replica.map(|held| held.fid), held, "{closed_last:?}");
            let head = record.head.expect("a head");
            assert!(head.version >= newest);
            match head.op {
                Op::Put(put) => assert_eq!(Some(put.fid), held),
                Op::Delete { .. } => assert_eq!(None, held),
            }
            site.close().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stamped_too_far_ahead_waits_and_clients_do_not() {
    let home = tempfile::tempdir().expect("a folder");
    let folder = home.path().join("journal");
    let model = Model::default();
    let ledger: Arc<dyn Ledger> =
        Arc::new(EmbeddedLedger::open(home.path().join("ledger.db")).expect("the ledger opens"));
    let site = Site::open(&folder, Arc::clone(&ledger), &model, false);
    site.journal.clone().close().await;
    site.close().await;
    // The wall clock was once wrong, and has been set right.
    let ahead = wall_clock().0 + MAX_AHEAD.as_micros() as i64 + 3_000_000;
    let db = rusqlite::Connection::open(folder.join("journal.db")).expect("a database");
    db.execute(
        "UPDATE meta SET value = ?1 WHERE name = 'clock_mark'",
        [ahead],
    )
    .expect("written");
    drop(db);

    let site = Site::open(&folder, Arc::clone(&ledger), &model, true);
    let file = FileName::from_bytes(b"d", b"k");
    let locks = KeyLocks::default();
    let mut last = Version(0);
    for fid in 1..=2 {
        let put = Mutation::Put {
            file: file.clone(),
            fid: Some(Fid(fid)),
            details: Details {
                class: Some(Class::default_class()),
                size: Some(SIZE),
                checksum: None,
            },
        };
        let guard = locks.lock(&put.files(), LOCK_WAIT).await;
        let intent = site
            .journal
            .intend(&guard, By::Client, put.clone())
            .await
            .expect("clients are served");
        assert!(intent.version() > last.max(Version(ahead)));
        last = intent.version();
        model.0.lock().execute(&put, &Class::default_class());
        intent.outcome(Outcome::Happened);
    }
    let head = async || {
        let record = ledger.read(&file, Strength::Local).await.expect("readable");
        record.head.map(|head| head.version)
    };
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while head().await != Some(last) {
        assert!(
            tokio::time::Instant::now() < deadline,
            "{:?}",
            site.journal.depth()
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let bound = wall_clock().0 + MAX_AHEAD.as_micros() as i64;
    assert!(
        last.0 <= bound,
        "the ledger heard of it {} us too early",
        last.0 - bound
    );
    site.close().await;
}

/// A request loses its answer, a client goes on beside it, and the tracker carries the first out last.
async fn carried_out_late(by: By, late: Mutation) -> FileRecord {
    let home = tempfile::tempdir().expect("a folder");
    let (model, locks) = (Model::default(), KeyLocks::default());
    let ledger: Arc<dyn Ledger> =
        Arc::new(EmbeddedLedger::open(home.path().join("ledger.db")).expect("the ledger opens"));
    let site = Site::open(&home.path().join("journal"), ledger, &model, true);
    let file = FileName::from_bytes(b"d", b"k");
    let class = Class::default_class();
    let put = |fid| Mutation::Put {
        file: file.clone(),
        fid: Some(Fid(fid)),
        details: Details {
            class: Some(class.clone()),
            size: Some(SIZE),
            checksum: None,
        },
    };
    let intend = async |by, mutation: &Mutation| {
        let guard = locks.lock(&[&file], LOCK_WAIT).await;
        let intent = site.journal.intend(&guard, by, mutation.clone()).await;
        intent.expect("written")
    };
    let before = intend(By::Client, &put(1)).await;
    before.outcome(model.0.lock().execute(&put(1), &class));
    let lost = intend(by, &late).await;
    let newer = intend(By::Client, &put(2)).await;
    newer.outcome(model.0.lock().execute(&put(2), &class));
    model.0.lock().execute(&late, &class);
    lost.outcome(Outcome::Lost);
    while site.journal.depth().entries > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let record = site.ledger.read(&file, Strength::Local).await;
    site.close().await;
    record.expect("readable")
}

#[tokio::test]
async fn what_repair_does_late_takes_a_clients_newer_file_from_here_and_from_nowhere_else() {
    let file = FileName::from_bytes(b"d", b"k");
    let head_fid = |record: &FileRecord| {
        let put = record.head.as_ref().and_then(|head| head.put());
        put.map(|put| put.fid)
    };
    let held = |record: &FileRecord| record.replicas[&us()].held.clone();

    let delete = Mutation::Delete { file: file.clone() };
    let record = carried_out_late(By::Repair { content: None }, delete.clone()).await;
    assert_eq!(head_fid(&record), Some(Fid(2)), "{record:#?}");
    assert_eq!(held(&record), None, "{record:#?}");

    let old = Content {
        version: Version(5),
        origin: "tx01".parse().expect("a name"),
        node: node(),
    };
    let copy = Mutation::Put {
        file,
        fid: Some(Fid(3)),
        details: Details::default(),
    };
    let by = By::Repair {
        content: Some(old.clone()),
    };
    let record = carried_out_late(by, copy.clone()).await;
    assert_eq!(head_fid(&record), Some(Fid(2)), "{record:#?}");
    let copied = held(&record).expect("the copy");
    assert_eq!((copied.fid, copied.content), (Fid(3), old), "{record:#?}");

    // Of two clients the tracker's last is the last.
    let record = carried_out_late(By::Client, copy).await;
    assert_eq!(head_fid(&record), Some(Fid(3)), "{record:#?}");
    let record = carried_out_late(By::Client, delete).await;
    assert_eq!(head_fid(&record), None, "{record:#?}");
}

#[tokio::test]
async fn a_rename_whose_bytes_are_gone_is_told_of_both_keys() {
    let home = tempfile::tempdir().expect("a folder");
    let (model, locks) = (Model::default(), KeyLocks::default());
    let ledger: Arc<dyn Ledger> =
        Arc::new(EmbeddedLedger::open(home.path().join("ledger.db")).expect("the ledger opens"));
    let open = |deliver| {
        let folder = home.path().join("journal");
        Site::open(&folder, Arc::clone(&ledger), &model, deliver)
    };
    let (from, to) = (
        FileName::from_bytes(b"d", b"from"),
        FileName::from_bytes(b"d", b"to"),
    );
    let class = Class::default_class();
    let made = async |site: &Site, mutation: Mutation, answered: bool| {
        let guard = locks.lock(&mutation.files(), LOCK_WAIT).await;
        let intent = site
            .journal
            .intend(&guard, By::Client, mutation.clone())
            .await;
        let intent = intent.expect("written");
        let version = intent.version();
        let outcome = model.0.lock().execute(&mutation, &class);
        intent.outcome(if answered { outcome } else { Outcome::Lost });
        version
    };
    let settled = async |site: Site| {
        while site.journal.depth().entries > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        site.close().await;
    };
    let site = open(true);
    let put = Mutation::Put {
        file: from.clone(),
        fid: Some(Fid(1)),
        details: Details {
            class: Some(class.clone()),
            size: Some(SIZE),
            checksum: None,
        },
    };
    made(&site, put, true).await;
    settled(site).await;
    // Nobody settles until a delete has taken away what was renamed, and lost its answer.
    let site = open(false);
    let rename = Mutation::Rename {
        from: from.clone(),
        to: to.clone(),
    };
    let renamed = made(&site, rename, true).await;
    made(&site, Mutation::Delete { file: to.clone() }, false).await;
    site.close().await;
    settled(open(true)).await;
    for file in [from, to] {
        let record = ledger.read(&file, Strength::Local).await.expect("readable");
        let head = record.head.expect("the ledger has heard of it");
        assert!(
            head.version >= renamed && head.put().is_none(),
            "{file}: {head:#?}"
        );
    }
}
