//! What every ledger must pass, whatever it is made of: [`passes`] runs all of it on ledgers that a caller makes.
//!
//! Chance is seeded: the seed is printed, and `PHYLACTERY_SEED` repeats a run.

#![allow(
    clippy::unwrap_used,
    reason = "these are tests, also where a feature lets them be used from elsewhere"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, FutureExt, join_all};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use super::{
    About, CHANGES_IN_A_BLOCK, Change, Expected, FileRecord, FileWrite, Gap, Ledger, StreamId,
    Strength, TokenRange,
};
use crate::file::{
    Checked, Checksum, Class, ClassCell, Content, Datacenter, Fid, FileName, Found, Held, Op, Put,
    Replica, Revision,
};
use crate::version::Version;

mod rows;

use Strength::Local;

type Case = fn(Arc<dyn Ledger>, StdRng) -> BoxFuture<'static, ()>;

/// Every case, by name. Each runs on an empty ledger.
const CASES: &[(&str, Case)] = &[
    ("an empty ledger", |l, _| empty(l).boxed()),
    ("heads in any order", |l, r| heads(l, r).boxed()),
    ("a class counts on its bytes only", |l, _| class(l).boxed()),
    ("replicas stand alone", |l, r| replicas(l, r).boxed()),
    ("what is forgotten", |l, _| forgotten(l).boxed()),
    ("streams with holes and repeats", |l, r| {
        streams(l, r).boxed()
    }),
    ("odd and long names", |l, _| names(l).boxed()),
    ("a scan sees every file once", |l, r| scan(l, r).boxed()),
    ("the life of a gap", |l, _| rows::gap_life(l).boxed()),
    ("gaps in any order", |l, r| {
        rows::gaps_any_order(l, r).boxed()
    }),
    ("gaps by urgency", |l, r| rows::gaps_due(l, r).boxed()),
    ("the last word counts", |l, r| rows::last_word(l, r).boxed()),
    ("many writers at once", |l, r| many_writers(l, r).boxed()),
    ("news", |l, _| news(l).boxed()),
];

/// Runs every case on a ledger of its own, made empty by `make`.
///
/// # Panics
/// If one fails; the last line printed names it.
pub async fn passes<F>(make: impl Fn() -> F)
where
    F: Future<Output = Arc<dyn Ledger>>,
{
    let seed = std::env::var("PHYLACTERY_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(rand::random::<u64>);
    println!("PHYLACTERY_SEED={seed}");
    for (name, case) in CASES {
        println!("{name}");
        case(make().await, StdRng::seed_from_u64(seed)).await;
    }
}

fn file(name: &str) -> FileName {
    FileName::from_bytes(b"photos", name.as_bytes())
}

fn datacenter(name: &str) -> Datacenter {
    name.parse().unwrap()
}

fn stream(incarnation: &str) -> StreamId {
    StreamId {
        datacenter: datacenter("ma01"),
        node: "node1".parse().unwrap(),
        incarnation: incarnation.to_owned(),
    }
}

/// The content of a put in `origin` at `version`.
pub fn content(version: i64, origin: &str) -> Content {
    Content {
        version: Version(version),
        origin: datacenter(origin),
        node: "node1".parse().unwrap(),
    }
}

/// A put.
pub fn put(version: i64, origin: &str) -> Revision {
    let content = content(version, origin);
    Revision {
        version: content.version,
        origin: content.origin.clone(),
        node: content.node.clone(),
        op: Op::Put(Put {
            content,
            size: 5,
            checksum: None,
            fid: Fid(7),
            renamed_from: None,
        }),
    }
}

fn delete(version: i64, origin: &str) -> Revision {
    Revision {
        op: Op::Delete { renamed_to: None },
        ..put(version, origin)
    }
}

/// A write of a head alone.
pub fn head(revision: Revision) -> FileWrite {
    FileWrite {
        head: Some(revision),
        ..FileWrite::default()
    }
}

fn class_write(version: i64, on: &Content, class: &str) -> FileWrite {
    FileWrite {
        class: Some(ClassCell {
            version: Version(version),
            content: on.clone(),
            class: Class::from_escaped(class),
        }),
        ..FileWrite::default()
    }
}

fn replica_write(name: &str, since: i64, held: Option<&Content>) -> FileWrite {
    let replica = Replica {
        since: Version(since),
        held: held.map(|content| Held {
            content: content.clone(),
            fid: Fid(u64::MAX),
            class: Class::default_class(),
            claimed: false,
            checked: (since > 10).then(|| Checked {
                at: Version(since),
                found: Found::ALL[since as usize % Found::ALL.len()],
                checksum: (since % 2 == 1).then(|| Checksum::md5(&[7; 16])),
            }),
            leaving: since % 3 == 1,
        }),
    };
    FileWrite {
        replica: Some((datacenter(name), replica)),
        ..FileWrite::default()
    }
}

fn gap(name: &str, observed: i64, next_try: i64) -> Gap {
    Gap {
        file: file(name),
        since: Version(1),
        attempts: 2,
        last_error: "connect to tx01: refused".to_owned(),
        next_try: Version(next_try),
        observed: Version(observed),
        expected: Expected {
            head_by: None,
            head: Some(Version(observed)),
            class: None,
        },
    }
}

async fn empty(ledger: Arc<dyn Ledger>) {
    let here = datacenter("ma01");
    let nobody = file("nobody");
    assert_eq!(
        ledger.read(&nobody, Local).await.unwrap(),
        FileRecord::default()
    );
    let page = ledger
        .scan(TokenRange::ALL, None, 10, Strength::Local)
        .await
        .unwrap();
    assert_eq!(
        (page.files, page.unreadable, page.next),
        (vec![], vec![], None)
    );
    let none = ledger.changes(&stream("a"), 0, 10, Local).await.unwrap();
    assert_eq!(none, vec![]);
    assert_eq!(ledger.gap(&here, &nobody).await.unwrap(), None);
    let none = ledger.gaps(&here, Version(i64::MAX), 10).await.unwrap();
    assert_eq!(none, vec![]);
    assert_eq!(ledger.count_gaps(&here).await.unwrap(), 0);
    assert_eq!(ledger.nodes().await.unwrap(), vec![]);
    assert_eq!(ledger.datacenters().await.unwrap(), vec![]);
    assert_eq!(ledger.placements().await.unwrap(), vec![]);
    assert_eq!(ledger.cursor(&here, "scan").await.unwrap(), None);
    assert!(!ledger.describe().is_empty());

    // A write of no cells is no file.
    let nothing = FileWrite::default();
    ledger.write(&nobody, &nothing, Local).await.unwrap();
    let page = ledger
        .scan(TokenRange::ALL, None, 10, Strength::Local)
        .await
        .unwrap();
    assert_eq!(page.files, vec![]);
}

async fn heads(ledger: Arc<dyn Ledger>, mut rng: StdRng) {
    // Versions few and close, so that most meet another of the same microsecond.
    let mut writes = Vec::new();
    for version in [5, 6, 7] {
        for origin in ["ma01", "tx01", "b"] {
            writes.push(head(put(version, origin)));
            writes.push(head(delete(version, origin)));
        }
    }
    let mut wanted = FileRecord::default();
    writes.iter().for_each(|write| wanted.merge(write));
    assert_eq!(
        wanted.content(),
        Some(&content(7, "tx01")),
        "the rule itself"
    );

    let files = (0..20).map(|n| {
        let mut order: Vec<_> = writes.iter().chain(&writes[..6]).cloned().collect();
        order.shuffle(&mut rng);
        let (ledger, wanted) = (&ledger, &wanted);
        async move {
            let file = file(&format!("heads/{n}"));
            let mut so_far = FileRecord::default();
            for write in &order {
                ledger.write(&file, write, Local).await.unwrap();
                so_far.merge(write);
                let read = ledger.read(&file, Local).await.unwrap();
                assert_eq!(read, so_far, "after {write:?}");
            }
            assert_eq!(so_far, *wanted);
        }
    });
    join_all(files).await;

    // The same at once instead of one after another.
    let file = file("heads/at-once");
    join_all(writes.iter().map(|w| ledger.write(&file, w, Local)))
        .await
        .into_iter()
        .for_each(|done| done.unwrap());
    assert_eq!(ledger.read(&file, Strength::Whole).await.unwrap(), wanted);
}

async fn class(ledger: Arc<dyn Ledger>) {
    let file = file("class");
    let (old, new) = (content(10, "ma01"), content(20, "tx01"));
    let class = |name| Some(Class::from_escaped(name));
    let read = async || ledger.read(&file, Local).await.unwrap();
    let write = async |write: FileWrite| ledger.write(&file, &write, Local).await.unwrap();

    write(class_write(15, &old, "gold")).await;
    assert_eq!(read().await.class(), None, "there is no head");
    write(head(put(10, "ma01"))).await;
    assert_eq!(read().await.class().cloned(), class("gold"));
    // An overwrite made elsewhere, and then a class change by somebody who has not seen it.
    write(head(put(20, "tx01"))).await;
    write(class_write(25, &old, "silver")).await;
    let record = read().await;
    assert_eq!(record.content(), Some(&new), "the old bytes came back");
    assert_eq!(record.class(), None, "a class of other bytes counts");
    write(class_write(24, &new, "late")).await;
    assert_eq!(read().await.class(), None, "an older class won");
    write(class_write(26, &new, "gold")).await;
    assert_eq!(read().await.class().cloned(), class("gold"));
    write(head(delete(30, "ma01"))).await;
    assert_eq!(read().await.class(), None, "a deleted file has a class");
    // Head and class of one put in one write.
    let mut both = head(put(40, "ma01"));
    both.class = class_write(40, &content(40, "ma01"), "bronze").class;
    write(both).await;
    assert_eq!(read().await.class().cloned(), class("bronze"));
}

async fn replicas(ledger: Arc<dyn Ledger>, mut rng: StdRng) {
    let (old, new) = (content(10, "ma01"), content(20, "ma01"));
    let mut writes = Vec::new();
    for name in ["ma01", "tx01", "b"] {
        writes.push(replica_write(name, 11, Some(&old)));
        writes.push(replica_write(name, 12, None));
    }
    writes.push(replica_write("tx01", 22, Some(&new)));
    writes.push(replica_write("tx01", 22, None)); // a tie: what is held wins
    writes.push(replica_write("b", 21, Some(&old)));
    writes.push(head(put(20, "ma01")));
    writes.push(class_write(20, &new, "gold"));
    let mut wanted = FileRecord::default();
    writes.iter().for_each(|write| wanted.merge(write));
    for n in 0..10 {
        let file = file(&format!("replicas/{n}"));
        writes.shuffle(&mut rng);
        for write in &writes {
            ledger.write(&file, write, Local).await.unwrap();
        }
        assert_eq!(ledger.read(&file, Local).await.unwrap(), wanted);
    }
    let held = |name| wanted.replicas[&datacenter(name)].content();
    assert_eq!(
        (held("ma01"), held("tx01"), held("b")),
        (None, Some(&new), Some(&old))
    );

    // A file of which only a replica has arrived is one that a scan shows.
    let alone = file("replicas/alone");
    let write = replica_write("tx01", 5, Some(&old));
    ledger.write(&alone, &write, Local).await.unwrap();
    let page = ledger
        .scan(TokenRange::ALL, None, 100, Strength::Local)
        .await
        .unwrap();
    let seen = page.files.iter().find(|(file, _)| *file == alone).unwrap();
    assert_eq!(seen.1.replicas.len(), 1);
    assert_eq!(seen.1.head, None);
}

async fn forgotten(ledger: Arc<dyn Ledger>) {
    let (gone, kept) = (file("forgotten"), file("forgotten/not"));
    for file in [&gone, &kept] {
        let mut write = head(put(10, "ma01"));
        write.class = class_write(10, &content(10, "ma01"), "gold").class;
        write.replica = replica_write("tx01", 12, None).replica;
        ledger.write(file, &write, Local).await.unwrap();
        let write = head(delete(20, "tx01"));
        ledger.write(file, &write, Local).await.unwrap();
    }
    let record = ledger.read(&gone, Local).await.unwrap();
    // Meanwhile: cells that are newer than those to be forgotten.
    let newer = [head(put(30, "ma01")), replica_write("ma01", 31, None)];
    for write in &newer {
        ledger.write(&kept, write, Local).await.unwrap();
    }
    for file in [&gone, &kept] {
        ledger.forget(file, &record).await.unwrap();
        ledger.forget(file, &record).await.unwrap();
    }
    assert_eq!(
        ledger.read(&gone, Local).await.unwrap(),
        FileRecord::default()
    );
    let mut wanted = FileRecord::default();
    newer.iter().for_each(|write| wanted.merge(write));
    assert_eq!(ledger.read(&kept, Local).await.unwrap(), wanted);
    let page = ledger
        .scan(TokenRange::ALL, None, 10, Strength::Local)
        .await
        .unwrap();
    assert_eq!(page.files, vec![(kept, wanted)], "a row of nothing is left");
    // What comes later is a file as any other, also where its clock is behind.
    ledger
        .write(&gone, &head(put(25, "ma01")), Local)
        .await
        .unwrap();
    let record = ledger.read(&gone, Local).await.unwrap();
    assert_eq!(record.content(), Some(&content(25, "ma01")));
}

async fn streams(ledger: Arc<dyn Ledger>, mut rng: StdRng) {
    let change = |number: u64| Change {
        number,
        file: (number != 5).then(|| file(&format!("changes/{number}"))),
        version: Version(1000 + number as i64),
        about: match number % 3 {
            0 => About::Class,
            _ => About::Head,
        },
    };
    // 1 to 40 with some holes, twice, in any order, on one stream; another has its own numbers.
    let holes = [4, 17, 18, 33];
    let present: Vec<u64> = (1..=40).filter(|n| !holes.contains(n)).collect();
    let mut order: Vec<_> = present.iter().chain(&present).copied().collect();
    order.shuffle(&mut rng);
    let (one, other) = (stream("0a"), stream("0b"));
    let append = async |stream: &StreamId, change: &Change| {
        let done = ledger.append_change(stream, change, Local).await;
        done.unwrap();
    };
    for number in order {
        append(&one, &change(number)).await;
    }
    append(&other, &change(1)).await;

    let read = async |after, limit| ledger.changes(&one, after, limit, Local).await.unwrap();
    let wanted = |numbers: &[u64]| numbers.iter().map(|&n| change(n)).collect::<Vec<_>>();
    assert_eq!(read(0, 1000).await, wanted(&present));
    assert_eq!(read(3, 3).await, wanted(&[5, 6, 7]));
    assert_eq!(read(16, 2).await, wanted(&[19, 20]));
    assert_eq!(read(40, 10).await, vec![]);
    assert_eq!(read(u64::MAX, 10).await, vec![]);
    let strong = ledger.changes(&other, 0, 10, Strength::Global).await;
    assert_eq!(strong.unwrap(), wanted(&[1]));

    // A hole is filled later.
    append(&one, &change(4)).await;
    assert_eq!(read(3, 2).await, wanted(&[4, 5]));
    // Over the edges of blocks, also where what lies before the edge is gone.
    let (edge, next) = (CHANGES_IN_A_BLOCK, 2 * CHANGES_IN_A_BLOCK);
    for number in [edge - 1, edge, edge + 1, next - 1, next] {
        append(&one, &change(number)).await;
    }
    assert_eq!(read(40, 2).await, wanted(&[edge - 1, edge]));
    assert_eq!(read(edge - 1, 1).await, wanted(&[edge]));
    // A page may end at an edge; the next one goes on behind it.
    let (mut met, mut after) = (Vec::new(), 40);
    loop {
        let page = read(after, 10).await;
        match page.last() {
            Some(last) => after = last.number,
            None => break,
        }
        met.extend(page);
    }
    assert_eq!(met, wanted(&[edge - 1, edge, edge + 1, next - 1, next]));
    assert_eq!(read(next - 1, 10).await, wanted(&[next]));
}

async fn names(ledger: Arc<dyn Ledger>) {
    let long = "x".repeat(60_000);
    let all_bytes: Vec<u8> = (0..=255).collect();
    let odd: Vec<(&[u8], &[u8])> = vec![
        (b"photos", long.as_bytes()),
        (b"photos", &long.as_bytes()[1..]),
        (b"photos", &all_bytes),
        (&all_bytes, b"key"),
        (b"photos", b"a b"),
        (b"photos", b"a+b"),
        (b"photos", b"a%20b"),
        (b"photos", b"Case"),
        (b"photos", b"case"),
        (b"photos", b"it's; DROP TABLE files --"),
        (b"photos", b"%_*?"),
        (b"a", b"b c"),
        (b"a b", b"c"),
        (b"photos", "\u{e9}\u{0301}\u{1f480}".as_bytes()),
        (b"photos", b"\xff\xfe"),
        (b"photos", b"\n\r\t"),
    ];
    let files: Vec<_> = odd
        .iter()
        .map(|(d, k)| FileName::from_bytes(d, k))
        .collect();
    let here = datacenter("ma01");
    for (n, file) in files.iter().enumerate() {
        let version = 100 + n as i64;
        ledger
            .write(file, &head(put(version, "ma01")), Local)
            .await
            .unwrap();
        let change = Change {
            number: 1 + n as u64,
            file: Some(file.clone()),
            version: Version(version),
            about: About::Head,
        };
        ledger
            .append_change(&stream("names"), &change, Local)
            .await
            .unwrap();
        let gap = Gap {
            file: file.clone(),
            last_error: "it's \"here\"\n\u{1f480}".to_owned(),
            ..gap("", 10, version)
        };
        ledger.set_gap(&here, &gap).await.unwrap();
        assert_eq!(ledger.gap(&here, file).await.unwrap(), Some(gap));
    }
    for (n, file) in files.iter().enumerate() {
        let record = ledger.read(file, Local).await.unwrap();
        assert_eq!(record.head, Some(put(100 + n as i64, "ma01")), "{file:.80}");
    }
    let changes = ledger.changes(&stream("names"), 0, 100, Local).await;
    let changed: Vec<_> = changes
        .unwrap()
        .into_iter()
        .filter_map(|c| c.file)
        .collect();
    assert_eq!(changed, files);
    let due = ledger.gaps(&here, Version(i64::MAX), 100).await.unwrap();
    assert_eq!(due.into_iter().map(|g| g.file).collect::<Vec<_>>(), files);
    let seen = scan_range(&*ledger, TokenRange::ALL, 3).await;
    let seen: BTreeSet<_> = seen.into_iter().map(|(file, _)| file).collect();
    assert_eq!(seen, files.into_iter().collect());
}

/// All pages of a range, `limit` files at a time.
async fn scan_range(
    ledger: &dyn Ledger,
    range: TokenRange,
    limit: usize,
) -> Vec<(FileName, FileRecord)> {
    let mut all = Vec::new();
    let mut from: Option<String> = None;
    loop {
        let page = ledger
            .scan(range, from.as_deref(), limit, Strength::Local)
            .await
            .unwrap();
        assert!(page.files.len() <= limit);
        assert_eq!(page.unreadable, vec![]);
        all.extend(page.files);
        if page.next.is_none() {
            return all;
        }
        assert_ne!(page.next, from, "a scan that does not get on");
        from = page.next;
    }
}

async fn scan(ledger: Arc<dyn Ledger>, mut rng: StdRng) {
    let there: BTreeMap<_, _> = (0..300)
        .map(|n| (file(&format!("scan/{n}")), put(10 + n, "ma01")))
        .collect();
    join_all(there.iter().map(async |(file, revision)| {
        let write = head(revision.clone());
        ledger.write(file, &write, Local).await.unwrap();
    }))
    .await;

    // While others add files, and replicas and heads to those that are there.
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let (busy_ledger, busy_files) = (ledger.clone(), there.keys().cloned().collect::<Vec<_>>());
    let mut busy_rng = StdRng::seed_from_u64(rng.random());
    let (progress, progressed) = tokio::sync::watch::channel(0);
    let busy = tokio::spawn(async move {
        let mut added = 0;
        while !*stopped.borrow() {
            let new = file(&format!("scan/new/{added}"));
            let write = head(put(9, "tx01"));
            busy_ledger.write(&new, &write, Local).await.unwrap();
            added += 1;
            let old = &busy_files[busy_rng.random_range(0..busy_files.len())];
            let write = replica_write("tx01", 50 + added, Some(&content(9, "tx01")));
            busy_ledger.write(old, &write, Local).await.unwrap();
            progress.send_replace(added);
        }
        added
    });

    let mut cuts = [(1, 1000), (1, 7), (16, 3), (64, 1), (1000, 100)].into_iter();
    let mut next = cuts.next();
    while let Some((parts, limit)) = next {
        let before = *progressed.borrow();
        let mut seen = BTreeMap::new();
        for part in 0..parts {
            let range = TokenRange::part(part, parts);
            for (file, record) in scan_range(&*ledger, range, limit).await {
                let twice = seen.insert(file.clone(), record);
                assert!(twice.is_none(), "{file} twice in {parts} parts");
            }
        }
        for (file, revision) in &there {
            let record = seen.get(file).unwrap_or_else(|| {
                panic!("{file} was not seen in {parts} parts by {limit}");
            });
            assert_eq!(record.head.as_ref(), Some(revision));
        }
        // Again, if nobody has written meanwhile.
        if *progressed.borrow() > before {
            next = cuts.next();
        }
    }
    stop.send_replace(true);
    let added = busy.await.unwrap();

    // With nobody writing, every cut of the ring shows the same, in the same order.
    let whole = scan_range(&*ledger, TokenRange::ALL, 1000).await;
    assert_eq!(whole.len(), there.len() + added as usize);
    let mut cut = Vec::new();
    for part in 0..7 {
        cut.extend(scan_range(&*ledger, TokenRange::part(part, 7), 11).await);
    }
    assert_eq!(cut, whole);
}

async fn many_writers(ledger: Arc<dyn Ledger>, mut rng: StdRng) {
    let shared = file("many/shared");
    let tasks: Vec<_> = (0..32)
        .map(|task| {
            let (ledger, shared) = (ledger.clone(), shared.clone());
            let mut rng = StdRng::seed_from_u64(rng.random());
            tokio::spawn(async move {
                let mut said = FileRecord::default();
                for n in 0..20u64 {
                    let write = head(put(rng.random_range(1..1000), "ma01"));
                    ledger.write(&shared, &write, Local).await.unwrap();
                    said.merge(&write);
                    let own = file(&format!("many/{task}/{n}"));
                    ledger.write(&own, &write, Local).await.unwrap();
                    let record = ledger.read(&own, Local).await.unwrap();
                    assert_eq!(record.head, write.head, "own write not seen");
                    let change = Change {
                        number: 1 + task * 20 + n,
                        file: Some(own),
                        version: Version(1),
                        about: About::Head,
                    };
                    let stream = stream("many");
                    ledger.append_change(&stream, &change, Local).await.unwrap();
                }
                said.head.unwrap()
            })
        })
        .collect();
    let mut wanted = FileRecord::default();
    for task in tasks {
        wanted.merge(&head(task.await.unwrap()));
    }
    assert_eq!(ledger.read(&shared, Local).await.unwrap(), wanted);
    let changes = ledger.changes(&stream("many"), 0, 1000, Local).await;
    let numbers: Vec<_> = changes.unwrap().iter().map(|c| c.number).collect();
    assert_eq!(numbers, (1..=640).collect::<Vec<_>>());
}

/// Waiting ends: with news that came before the waiting began, and without any at the limit.
async fn news(ledger: Arc<dyn Ledger>) {
    let seen = ledger.news();
    let write = head(put(1, "ma01"));
    ledger.write(&file("news"), &write, Local).await.unwrap();
    let begun = Instant::now();
    let limit = Duration::from_millis(300);
    ledger.wait_for_news_since(seen, limit).await;
    ledger.wait_for_news(limit).await;
    let waited = begun.elapsed();
    assert!(waited < 20 * limit, "waited {waited:?}");
}
