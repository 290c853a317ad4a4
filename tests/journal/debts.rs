//! What the ledger has and not yet everywhere is owed until it is, through kills and outages of any length, and nobody waits for it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use phylactery::events::Events;
use phylactery::file::{Class, Fid, FileName};
use phylactery::journal::announcement::{Announcer, Bytes};
use phylactery::journal::debt::{Figures, Limits, Payer};
use phylactery::journal::deliver::Deliverer;
use phylactery::journal::settle::{Look, LookError, Row, Settler};
use phylactery::journal::{Announcement, By, Debt, Details, Journal, Most, Mutation, Outcome};
use phylactery::ledger::{Ledger, Strength};
use phylactery::version::Version;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tempfile::tempdir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::copies::{Copies, Mode};
use super::{
    Worker, announcement, config, copy, entries, file, folder_of_child, intended, open, open_as,
    outbox, put, seed, try_open, until,
};

/// Kills in one run. More by hand.
const KILLS: u64 = 12;

/// Short pauses, so that tests wait for nothing.
const LIMITS: Limits = Limits {
    at_once: 32,
    first_pause: Duration::from_millis(1),
    longest_pause: Duration::from_millis(20),
    patience: Duration::from_secs(600),
    aside_for: Duration::from_millis(50),
    forgotten_after: Duration::from_secs(3600),
    note_every: Duration::ZERO,
};

fn open_with(folder: &Path, files: u64) -> Journal {
    let most = Most {
        files,
        ..Most::default()
    };
    let (datacenter, node) = ("ma01".parse(), "node1".parse());
    Journal::open_with(
        &config(folder),
        &datacenter.expect("a name"),
        &node.expect("a name"),
        most,
    )
    .expect("the journal opens")
}

/// What a client's put of `key` says.
fn stored(key: &str, version: Version) -> Announcement {
    let announcer = Announcer {
        datacenter: "ma01".parse().expect("a name"),
        node: "node1".parse().expect("a name"),
    };
    let bytes = Bytes {
        content: announcer.new_content(version),
        fid: Fid(7),
        class: Class::default_class(),
        size: 5,
        checksum: None,
    };
    announcer.put(version, &By::Client, &file(key), &bytes)
}

/// Puts, told to the ledger and confirmed, as delivery does it. Their versions.
async fn deliver(journal: &Journal, ledger: &Copies, keys: &[String]) -> Vec<Version> {
    let intents = keys.iter().map(|key| intended(journal, put(key)));
    let intents = futures::future::join_all(intents).await;
    let versions: Vec<_> = intents.iter().map(|intent| intent.version()).collect();
    for intent in intents {
        intent.outcome(Outcome::Happened);
    }
    let settled = entries(journal).await.into_iter().map(|entry| {
        let key = entry.mutation.files()[0].key.escaped().to_owned();
        (entry.seq, vec![stored(&key, entry.version)])
    });
    journal.announce(settled.collect()).await.expect("written");
    let out = outbox(journal).await;
    let writes = out.iter().map(|out| {
        let say = &out.announcement;
        ledger.write(&say.file, &say.write, Strength::Local)
    });
    futures::future::try_join_all(writes).await.expect("taken");
    let ids = out.iter().map(|out| out.id).collect();
    journal.confirm(ids, ledger.owes()).await.expect("open");
    until("empty outbox", async || {
        (journal.depth().entries == 0, journal.depth())
    })
    .await;
    versions
}

fn keys(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|n| format!("{n:05}")).collect()
}

/// A payer at work.
struct AtWork {
    stop: CancellationToken,
    task: JoinHandle<()>,
    figures: Figures,
}

impl AtWork {
    fn start(journal: &Journal, ledger: &Arc<Copies>) -> AtWork {
        AtWork::start_with(journal, ledger, LIMITS)
    }

    fn start_with(journal: &Journal, ledger: &Arc<Copies>, limits: Limits) -> AtWork {
        let mut payer = Payer::new(journal.clone(), Arc::clone(ledger) as _);
        payer.limits = limits;
        let (stop, figures) = (CancellationToken::new(), payer.figures());
        let task = tokio::spawn(payer.run(stop.clone()));
        AtWork {
            stop,
            task,
            figures,
        }
    }

    async fn stop(self) {
        self.stop.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(30), self.task).await;
        ended.expect("a stop waits for nothing").expect("no panic");
    }
}

async fn owed(journal: &Journal) -> Vec<Debt> {
    journal.owed(None, usize::MAX).await.expect("readable")
}

async fn until_paid(journal: &Journal) {
    until("all paid", async || {
        (journal.debts().is_none(), journal.debts())
    })
    .await;
}

#[tokio::test]
async fn what_is_confirmed_is_owed_until_every_copy_has_it() {
    let folder = tempdir().expect("a folder");
    let (journal, ledger) = (open(folder.path()), Copies::open(folder.path()));
    let versions = deliver(&journal, &ledger, &keys(0..50)).await;
    let debts = journal.debts();
    assert_eq!(
        (debts.count, debts.oldest),
        (50, versions.iter().min().copied())
    );
    assert_eq!(debts.collapsed_since, None);
    assert_eq!(ledger.tried(), 0, "delivery does not assert");
    // They outlive the process.
    journal.close().await;
    let journal = open(folder.path());
    assert_eq!(journal.debts(), debts);

    let payer = AtWork::start(&journal, &ledger);
    until_paid(&journal).await;
    assert_eq!(ledger.not_whole().await, []);
    assert_eq!(ledger.tried(), 50);
    assert_eq!(payer.figures.now().paid, 50);
    // And whatever comes is paid as it comes.
    deliver(&journal, &ledger, &keys(40..60)).await;
    until_paid(&journal).await;
    assert_eq!(ledger.not_whole().await, []);
    payer.stop().await;
    assert_eq!(owed(&journal).await, []);
}

#[tokio::test]
async fn a_ledger_of_one_copy_is_owed_nothing() {
    let folder = tempdir().expect("a folder");
    let journal = open(folder.path());
    let intent = intended(&journal, put("a")).await;
    let version = intent.version();
    intent.outcome(Outcome::Happened);
    let seq = entries(&journal).await[0].seq;
    let settled = vec![(seq, vec![stored("a", version)])];
    journal.announce(settled).await.expect("written");
    let ids = vec![outbox(&journal).await[0].id];
    journal.confirm(ids, false).await.expect("open");
    journal.close().await;
    assert!(open(folder.path()).debts().is_none());
}

#[tokio::test]
async fn a_newer_version_takes_the_place_of_an_older_debt() {
    let folder = tempdir().expect("a folder");
    let (journal, ledger) = (open(folder.path()), Copies::open(folder.path()));
    let key = vec!["a".to_owned()];
    deliver(&journal, &ledger, &key).await;
    let first = owed(&journal).await;
    let second = deliver(&journal, &ledger, &key).await[0];
    let debts = journal.debts();
    assert_eq!((debts.count, debts.oldest), (1, Some(second)));

    // What paid the first does not pay the second.
    journal.paid(first).await.expect("written");
    assert_eq!(journal.debts().count, 1);
    let now = owed(&journal).await;
    assert_eq!(now[0].version, second);

    // Nor where two announcements have one version, as when an entry explains two things of one file.
    let intent = intended(&journal, put("b")).await;
    let version = intent.version();
    intent.outcome(Outcome::Happened);
    let seq = entries(&journal).await[0].seq;
    let twice = vec![stored("b", version), stored("b", version)];
    journal.announce(vec![(seq, twice)]).await.expect("written");
    let out = outbox(&journal).await;
    journal.confirm(vec![out[0].id], true).await.expect("open");
    until("one is confirmed", async || {
        (journal.depth().entries == 1, journal.depth())
    })
    .await;
    let first = owed(&journal).await.pop().expect("b is owed");
    journal.confirm(vec![out[1].id], true).await.expect("open");
    until("both are", async || {
        (journal.depth().entries == 0, journal.depth())
    })
    .await;
    journal.paid(vec![first.clone()]).await.expect("written");
    let last = owed(&journal).await.pop().expect("b is still owed");
    assert!(last.file == first.file && last.id > first.id, "{last:?}");
    journal.paid(vec![last]).await.expect("written");
    assert_eq!(owed(&journal).await, now);
    // Paid twice is paid once.
    journal.paid(now.clone()).await.expect("written");
    journal.paid(now).await.expect("written");
    assert!(journal.debts().is_none());
}

#[tokio::test]
async fn a_folder_of_the_first_layout_opens_and_keeps_what_it_holds() {
    let folder = tempdir().expect("a folder");
    let journal = open(folder.path());
    intended(&journal, put("open")).await.outcome(Outcome::Lost);
    let told = intended(&journal, put("told")).await;
    let version = told.version();
    told.outcome(Outcome::Happened);
    let seq = entries(&journal).await[1].seq;
    let say = announcement(file("told"), version, true);
    journal
        .announce(vec![(seq, vec![say])])
        .await
        .expect("written");
    let (before, out) = (entries(&journal).await, outbox(&journal).await);
    let stream = journal.stream().clone();
    journal.close().await;
    let db = rusqlite::Connection::open(folder.path().join("journal.db")).expect("a database");
    let make_old = "DROP TABLE debts; UPDATE meta SET value = 1 WHERE name = 'schema';";
    db.execute_batch(make_old).expect("changed");

    // One of another node is not brought up to date.
    assert!(open_as(folder.path(), "tx01", "node1").is_err());
    let schema = || {
        db.query_row("SELECT value FROM meta WHERE name = 'schema'", [], |row| {
            row.get::<_, i64>(0)
        })
        .expect("readable")
    };
    assert_eq!(schema(), 1);
    let journal = try_open(folder.path()).expect("the first layout opens");
    assert_eq!(schema(), 2);
    assert_eq!(journal.stream(), stream);
    assert_eq!(entries(&journal).await, before);
    assert_eq!(outbox(&journal).await, out);
    assert!(journal.debts().is_none());
    journal.confirm(vec![out[0].id], true).await.expect("open");
    until("owed", async || {
        (journal.debts().count == 1, journal.debts())
    })
    .await;
}

/// The rows on disk.
fn rows(folder: &Path) -> i64 {
    let db = rusqlite::Connection::open(folder.join("journal.db")).expect("a database");
    db.query_row("SELECT count(*) FROM debts", [], |row| row.get(0))
        .expect("readable")
}

#[tokio::test]
async fn too_many_debts_collapse_and_a_walk_pays_exactly_what_is_due() {
    let folder = tempdir().expect("a folder");
    let (journal, ledger) = (open_with(folder.path(), 100), Copies::open(folder.path()));
    deliver(&journal, &ledger, &keys(0..90)).await;
    let payer = AtWork::start(&journal, &ledger);
    until_paid(&journal).await;
    payer.stop().await;

    // A copy of the ledger is dead for weeks.
    ledger.set(Mode::Fails);
    let payer = AtWork::start(&journal, &ledger);
    let mut first = None;
    for round in 0..20 {
        let new = deliver(&journal, &ledger, &keys(100 + 60 * round..160 + 60 * round)).await;
        first = first.or(new.into_iter().min());
        assert!(journal.debts().count <= 100 && rows(folder.path()) <= 100);
        assert_eq!(journal.depth().bytes, 0, "debts refuse no client");
    }
    let debts = journal.debts();
    assert_eq!(debts.collapsed_since, first);
    assert_eq!(debts.walk, None, "a walk begins when writes succeed");
    // Also over a restart.
    payer.stop().await;
    journal.close().await;
    let journal = open_with(folder.path(), 100);
    assert_eq!(journal.debts(), debts);

    ledger.written.lock().clear();
    ledger.set(Mode::Works);
    let payer = AtWork::start(&journal, &ledger);
    until_paid(&journal).await;
    payer.stop().await;
    assert_eq!(ledger.not_whole().await, []);
    let written: BTreeSet<_> = ledger
        .written
        .lock()
        .iter()
        .map(|written| written.file.clone())
        .collect();
    let due: BTreeSet<_> = keys(100..1300).iter().map(|key| file(key)).collect();
    assert_eq!(written, due);
    let twice = ledger.written.lock().len() - written.len();
    assert!(twice <= 100, "{twice} were by name and in the walk");
}

#[tokio::test]
async fn what_collapses_while_a_walk_is_under_way_waits_for_the_next_and_restarts_go_on() {
    let folder = tempdir().expect("a folder");
    let ledger = Copies::open(folder.path());
    let mut journal = open_with(&folder.path().join("0"), 20);
    deliver(&journal, &ledger, &keys(0..400)).await;
    let since = journal.debts().collapsed_since;
    // One debt is left by name; behind it the walk comes to a halt in the middle.
    ledger.set(Mode::HangsAfter(200));
    let payer = AtWork::start(&journal, &ledger);
    until("a walk in the middle", async || {
        (ledger.mode() == Mode::HangsAfter(0), ledger.mode())
    })
    .await;
    assert_eq!(journal.debts().walk.map(|walk| walk.since), since);
    assert!(payer.figures.now().walk_percent > Some(10.0));

    // All of these lie behind the walk or before it.
    deliver(&journal, &ledger, &keys(300..600)).await;
    let debts = journal.debts();
    assert_eq!(debts.collapsed_since, since, "the walk is not at its end");

    // Killed here: what is on disk at this moment is all there is.
    payer.task.abort();
    let _cancelled = payer.task.await;
    journal
        .owe(Vec::new())
        .await
        .expect("nothing is being written any more");
    copy(&folder.path().join("0"), &folder.path().join("1"));
    let killed = std::mem::replace(&mut journal, open_with(&folder.path().join("1"), 20));
    drop(killed);
    let walk = journal.debts().walk.expect("a walk goes on");
    assert!(walk.part > 5, "it goes on where it was: {walk:?}");

    ledger.written.lock().clear();
    ledger.set(Mode::Works);
    let payer = AtWork::start(&journal, &ledger);
    until_paid(&journal).await;
    payer.stop().await;
    assert_eq!(ledger.not_whole().await, []);
    let written = ledger.written.lock();
    let mut times: BTreeMap<&FileName, u32> = BTreeMap::new();
    written
        .iter()
        .for_each(|written| *times.entry(&written.file).or_default() += 1);
    let untouched = keys(0..300);
    let untouched = untouched
        .iter()
        .filter(|key| !times.contains_key(&file(key)));
    // The page at which it was may have been done already.
    assert!(
        untouched.count() > 100,
        "what the walk had paid is not paid again"
    );
}

#[tokio::test]
async fn failing_writes_are_tried_one_at_a_time_and_there_is_no_storm_afterwards() {
    let folder = tempdir().expect("a folder");
    let (journal, ledger) = (open(folder.path()), Copies::open(folder.path()));
    *ledger.takes.lock() = Duration::from_millis(3);
    deliver(&journal, &ledger, &keys(0..1500)).await;
    ledger.set(Mode::HangsAfter(500));
    let payer = AtWork::start(&journal, &ledger);
    until("as many as may be", async || {
        let most = ledger.most.load(Ordering::SeqCst);
        (
            ledger.mode() == Mode::HangsAfter(0) && most == LIMITS.at_once,
            most,
        )
    })
    .await;
    assert!(payer.figures.now().failing_since.is_none());

    // All that are under way fail; from then on each comes alone.
    ledger.set(Mode::Fails);
    until("a failure that is known", async || {
        let now = payer.figures.now();
        (now.failing_since.is_some(), now)
    })
    .await;
    ledger.most.store(0, Ordering::SeqCst);
    let before = ledger.tried();
    until("more tries", async || {
        (ledger.tried() >= before + 10, ledger.tried())
    })
    .await;
    assert_eq!(ledger.most.load(Ordering::SeqCst), 1);
    let now = payer.figures.now();
    assert!(
        now.last_error
            .expect("an error")
            .error
            .contains("required 4")
    );
    assert!(journal.debts().count >= 900);

    ledger.written.lock().clear();
    ledger.set(Mode::Works);
    until_paid(&journal).await;
    assert_eq!(ledger.not_whole().await, []);
    for written in ledger.written.lock().iter() {
        let bound = LIMITS.at_once.min(written.after + 1);
        let (under_way, after) = (written.under_way, written.after);
        assert!(
            under_way <= bound,
            "{under_way} at once after {after} successes"
        );
    }
    assert_eq!(ledger.most.load(Ordering::SeqCst), LIMITS.at_once);
    assert!(payer.figures.now().failing_since.is_none());
    payer.stop().await;
}

#[tokio::test]
async fn where_only_some_copies_are_missing_the_rest_is_paid_meanwhile() {
    let folder = tempdir().expect("a folder");
    let (journal, ledger) = (open(folder.path()), Copies::open(folder.path()));
    deliver(&journal, &ledger, &keys(0..200)).await;
    ledger.set(Mode::HalfFails);
    let payer = AtWork::start(&journal, &ledger);
    until("half of it", async || {
        (journal.debts().count == 100, journal.debts())
    })
    .await;
    assert!(payer.figures.now().failing_since.is_some());
    ledger.set(Mode::Works);
    until_paid(&journal).await;
    payer.stop().await;
    assert_eq!(ledger.not_whole().await, []);
}

#[tokio::test]
async fn a_walk_passes_no_file_that_failed() {
    let folder = tempdir().expect("a folder");
    let (journal, ledger) = (open_with(folder.path(), 20), Copies::open(folder.path()));
    deliver(&journal, &ledger, &keys(0..400)).await;
    ledger.set(Mode::HangsAfter(100));
    let payer = AtWork::start(&journal, &ledger);
    until("a walk in the middle", async || {
        (ledger.mode() == Mode::HangsAfter(0), ledger.mode())
    })
    .await;
    ledger.set(Mode::HalfFails);
    until("a walk that fails", async || {
        let walks = journal.debts().walk.is_some();
        let failing = payer.figures.now().failing_since.is_some();
        (walks && failing, journal.debts())
    })
    .await;
    let before = ledger.tried();
    until("more tries", async || {
        (ledger.tried() >= before + 20, ledger.tried())
    })
    .await;
    assert!(journal.debts().walk.is_some());
    ledger.set(Mode::Works);
    until_paid(&journal).await;
    payer.stop().await;
    assert_eq!(ledger.not_whole().await, []);
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_set_aside_and_holds_up_nothing() {
    let folder = tempdir().expect("a folder");
    let (journal, ledger) = (open_with(folder.path(), 60), Copies::open(folder.path()));
    deliver(&journal, &ledger, &keys(0..50)).await;
    ledger.poison.lock().insert(file("00020"));
    let payer = AtWork::start(&journal, &ledger);
    until("all but one", async || {
        let now = payer.figures.now();
        (journal.debts().count == 1 && now.set_aside == 1, now)
    })
    .await;
    let now = payer.figures.now();
    assert_eq!(
        (now.named[0].key.as_str(), now.failing_since),
        ("00020", None)
    );
    assert!(now.named[0].why.contains("poison"), "{now:?}");

    // A walk meets it, and another one.
    payer.stop().await;
    ledger.poison.lock().insert(file("00200"));
    deliver(&journal, &ledger, &keys(100..300)).await;
    assert!(journal.debts().collapsed_since.is_some());
    let payer = AtWork::start(&journal, &ledger);
    until("a walk that has ended", async || {
        let (debts, now) = (journal.debts(), payer.figures.now());
        let named = debts.count == 2 && debts.collapsed_since.is_none();
        (named && now.set_aside == 2, (debts, now))
    })
    .await;
    let left: Vec<_> = owed(&journal)
        .await
        .into_iter()
        .map(|debt| debt.file)
        .collect();
    assert_eq!(left, [file("00020"), file("00200")]);

    // It is tried again by itself.
    ledger.poison.lock().clear();
    until_paid(&journal).await;
    assert_eq!(ledger.not_whole().await, []);
    until("nothing is set aside", async || {
        let now = payer.figures.now();
        (now.set_aside == 0 && now.named.is_empty(), now)
    })
    .await;
    payer.stop().await;
}

#[tokio::test]
async fn a_ledger_that_shows_less_than_it_confirmed_is_not_taken_for_paid() {
    let folder = tempdir().expect("a folder");
    let (journal, ledger) = (open(folder.path()), Copies::open(folder.path()));
    deliver(&journal, &ledger, &keys(0..3)).await;
    std::fs::create_dir(folder.path().join("restored")).expect("a folder");
    let restored = Copies::open(&folder.path().join("restored"));
    let payer = AtWork::start(&journal, &restored);
    until("set aside", async || {
        let now = payer.figures.now();
        (now.set_aside == 3, now)
    })
    .await;
    assert_eq!(journal.debts().count, 3);
    assert!(payer.figures.now().named[0].why.contains("set back"));
    payer.stop().await;
}

/// A Cassandra node that was dead for longer than deletes are remembered comes back: the file is forgotten everywhere by then.
#[tokio::test]
async fn what_was_forgotten_meanwhile_is_owed_no_more() {
    let folder = tempdir().expect("a folder");
    let (journal, ledger) = (open(folder.path()), Copies::open(folder.path()));
    deliver(&journal, &ledger, &keys(0..3)).await;
    std::fs::create_dir(folder.path().join("purged")).expect("a folder");
    let purged = Copies::open(&folder.path().join("purged"));
    let limits = Limits {
        forgotten_after: Duration::ZERO,
        ..LIMITS
    };
    let payer = AtWork::start_with(&journal, &purged, limits);
    until_paid(&journal).await;
    assert_eq!(payer.figures.now().set_aside, 0);
    assert_eq!(purged.all().await.len(), 0, "and nothing is written");
    payer.stop().await;
}

/// A tracker that is not to be asked.
struct Silent;

#[async_trait]
impl Look for Silent {
    async fn by_key(&self, _: &FileName) -> Result<Option<Row>, LookError> {
        Err(LookError("nobody answers".to_owned()))
    }
    async fn by_fid(&self, _: Fid) -> Result<Option<Row>, LookError> {
        Err(LookError("nobody answers".to_owned()))
    }
}

fn delivering(
    journal: &Journal,
    ledger: &Arc<Copies>,
) -> (tokio::task::JoinHandle<()>, CancellationToken) {
    let settler = Settler::new(
        journal.clone(),
        Arc::clone(ledger) as _,
        Arc::new(Silent),
        Duration::from_secs(60),
    );
    let deliverer = Deliverer {
        journal: journal.clone(),
        ledger: Arc::clone(ledger) as _,
        settler,
        events: Events::default(),
        trust: phylactery::trust::Trust::complete(),
    };
    let stop = CancellationToken::new();
    (tokio::spawn(deliverer.run(stop.clone())), stop)
}

/// Files as clients store them, with the answers that they got.
async fn store(journal: &Journal, prefix: &str, count: u64) {
    let stores = (0..count).map(|n| {
        let details = Details {
            class: Some(Class::default_class()),
            size: Some(5),
            checksum: None,
        };
        intended(
            journal,
            Mutation::Put {
                file: file(&format!("{prefix}{n:05}")),
                fid: Some(Fid(n)),
                details,
            },
        )
    });
    for intent in futures::future::join_all(stores).await {
        intent.outcome(Outcome::Happened);
    }
}

/// Where the nodes of some files are down, those files wait, and no others.
#[tokio::test]
async fn files_whose_copies_are_away_hold_up_no_others() {
    let folder = tempdir().expect("a folder");
    let (journal, ledger) = (open_with(folder.path(), 50), Copies::open(folder.path()));
    ledger.block(true);
    store(&journal, "blocked/", 200).await;
    store(&journal, "free/", 800).await;
    let (delivery, stop) = delivering(&journal, &ledger);
    until("the others are delivered", async || {
        (journal.depth().entries == 200, journal.depth())
    })
    .await;
    assert_eq!(ledger.all().await.len(), 800);
    ledger.block(false);
    until("all delivered", async || {
        (journal.depth().entries == 0, journal.depth())
    })
    .await;
    assert_eq!(ledger.all().await.len(), 1000);
    stop.cancel();
    delivery.await.expect("it does not panic");
}

#[tokio::test]
async fn clients_and_delivery_wait_for_no_debt() {
    let folder = tempdir().expect("a folder");
    let (journal, ledger) = (open_with(folder.path(), 50), Copies::open(folder.path()));
    let (delivery, stop) = delivering(&journal, &ledger);
    ledger.set(Mode::Hangs);
    let payer = AtWork::start(&journal, &ledger);
    store(&journal, "", 300).await;
    until("all delivered", async || {
        (journal.depth().entries == 0, journal.depth())
    })
    .await;
    assert_eq!(ledger.all().await.len(), 300);
    assert_eq!(journal.delivered_number().await.expect("readable"), 300);
    assert!(!journal.debts().is_none());
    // The one that hangs does not hold up a stop either.
    until("one is tried", async || {
        (ledger.tried() > 0, ledger.tried())
    })
    .await;
    assert!(
        ledger.tried() <= 2,
        "{} at a ledger that hangs",
        ledger.tried()
    );
    payer.stop().await;
    let payer = AtWork::start(&journal, &ledger);
    ledger.set(Mode::Works);
    until_paid(&journal).await;
    assert_eq!(ledger.not_whole().await, []);
    payer.stop().await;
    stop.cancel();
    delivery.await.expect("no panic");
}

/// The child of the test below: it stores, confirms and pays until it is killed, and says what it is about to do.
#[test]
fn child_that_owes_and_is_killed() {
    let Some((folder, seed)) = folder_of_child() else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async move {
        let mut chance = StdRng::seed_from_u64(seed);
        let journal = open_with(&folder, 40);
        loop {
            let puts: Vec<_> = (0..chance.random_range(1..20))
                .map(|_| put(&format!("{}", chance.random_range(0..200))))
                .collect();
            for one in puts {
                let intent = intended(&journal, one).await;
                intent.outcome(Outcome::Happened);
            }
            let settled = entries(&journal).await.into_iter();
            let settled = settled
                .filter(|entry| entry.outcome.is_some())
                .map(|entry| {
                    let file = entry.mutation.files()[0].clone();
                    (entry.seq, vec![announcement(file, entry.version, true)])
                });
            journal.announce(settled.collect()).await.expect("written");
            let out = outbox(&journal).await;
            for out in &out {
                let say = &out.announcement;
                println!("owed {} {}.", say.file.key, say.version);
            }
            let ids = out.iter().map(|out| out.id).collect();
            journal.confirm(ids, true).await.expect("open");
            if chance.random_range(0..3) == 0 {
                let limit = chance.random_range(1..60);
                let debts = journal.owed(None, limit).await.expect("readable");
                for debt in &debts {
                    println!("paid {} {}.", debt.file.key, debt.version);
                }
                journal.paid(debts).await.expect("written");
            }
            if chance.random_range(0..20) == 0
                && journal.begin_walk().await.expect("written").is_some()
            {
                println!("walked 0 {}.", journal.clock().mark());
                journal.end_walk().await.expect("written");
            }
        }
    });
}

#[tokio::test]
async fn no_debt_is_lost_by_a_kill() {
    let seed = seed();
    let mut chance = StdRng::seed_from_u64(seed);
    let folder = tempdir().expect("a folder");
    let mut newest: BTreeMap<String, i64> = BTreeMap::new();
    let mut paid: BTreeMap<String, i64> = BTreeMap::new();
    let mut walked = 0;
    let mut collapsed = 0;
    for round in 0..KILLS {
        let name = "debts::child_that_owes_and_is_killed";
        let worker = Worker::start(name, folder.path(), seed.wrapping_add(round));
        until("a child at work", async || {
            let said = worker.said();
            let works = said.iter().filter(|line| line.starts_with("owed")).count() > 100;
            (works, said.len())
        })
        .await;
        tokio::time::sleep(Duration::from_millis(chance.random_range(0..100))).await;
        for line in worker.kill() {
            let mut words = line.split(' ');
            let (word, key) = (words.next(), words.next());
            // A kill may cut the last line.
            let version = words.next().and_then(|word| word.strip_suffix('.'));
            let (Some(key), Some(Ok(version))) = (key, version.map(str::parse::<i64>)) else {
                continue;
            };
            let known = match word {
                Some("owed") => newest.entry(key.to_owned()).or_default(),
                Some("paid") => paid.entry(key.to_owned()).or_default(),
                Some("walked") => &mut walked,
                _ => continue,
            };
            *known = version.max(*known);
        }
        let journal = open_with(folder.path(), 40);
        let debts = journal.debts();
        collapsed += u32::from(debts.collapsed_since.is_some());
        let by_name: BTreeMap<String, i64> = owed(&journal)
            .await
            .into_iter()
            .map(|debt| (debt.file.key.escaped().to_owned(), debt.version.0))
            .collect();
        assert_eq!(
            (debts.count, debts.count <= 40),
            (by_name.len() as u64, true)
        );
        assert_eq!(
            debts.oldest.map(|oldest| oldest.0),
            by_name.values().min().copied()
        );
        let waiting: BTreeSet<i64> = outbox(&journal)
            .await
            .iter()
            .map(|out| out.announcement.version.0)
            .collect();
        for (key, version) in &newest {
            let still_owed = by_name.get(key) >= Some(version)
                || waiting.contains(version)
                || debts
                    .collapsed_since
                    .is_some_and(|since| since.0 <= *version);
            let done = paid.get(key) >= Some(version) || walked >= *version;
            assert!(
                still_owed || done,
                "{key} of {version} is owed by nobody: {debts:?}"
            );
        }
        if round % 3 == 0 {
            journal.close().await;
        }
    }
    println!(
        "{} files over {KILLS} kills, {collapsed} of them after a collapse",
        newest.len()
    );
}

#[tokio::test]
async fn whatever_happens_every_copy_ends_with_the_newest_of_every_file() {
    let seed = seed();
    let mut chance = StdRng::seed_from_u64(seed);
    let folder = tempdir().expect("a folder");
    let ledger = Copies::open(folder.path());
    let most = [15, 60, 1000][chance.random_range(0..3)];
    let mut life = 0;
    let path = |life: u32| folder.path().join(life.to_string());
    let mut journal = open_with(&path(life), most);
    let mut payer = AtWork::start(&journal, &ledger);
    for _ in 0..60 {
        match chance.random_range(0..10) {
            0..=4 => {
                let some = (0..chance.random_range(1..60)).map(|_| chance.random_range(0..500));
                let some: BTreeSet<u32> = some.collect();
                let some: Vec<_> = some.iter().map(|n| format!("{n:05}")).collect();
                deliver(&journal, &ledger, &some).await;
            }
            5..=6 => ledger.set(match chance.random_range(0..5) {
                0 => Mode::Fails,
                1 => Mode::Hangs,
                2 => Mode::HangsAfter(chance.random_range(0..100)),
                3 => Mode::HalfFails,
                _ => Mode::Works,
            }),
            7 => {
                // Killed: at once, wherever it is.
                payer.task.abort();
                let _cancelled = payer.task.await;
                journal
                    .owe(Vec::new())
                    .await
                    .expect("nothing is being written any more");
                copy(&path(life), &path(life + 1));
                life += 1;
                journal = open_with(&path(life), most);
                payer = AtWork::start(&journal, &ledger);
            }
            8 => {
                payer.stop().await;
                journal.close().await;
                journal = open_with(&path(life), most);
                payer = AtWork::start(&journal, &ledger);
            }
            _ => tokio::time::sleep(Duration::from_millis(chance.random_range(0..30))).await,
        }
        assert!(journal.debts().count <= most);
    }
    ledger.set(Mode::Works);
    until_paid(&journal).await;
    payer.stop().await;
    assert_eq!(ledger.not_whole().await, []);
    println!(
        "{} files, {life} kills, {} writes",
        ledger.all().await.len(),
        ledger.tried()
    );
}
