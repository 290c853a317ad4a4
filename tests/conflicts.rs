//! Clients of two datacenters who do not know of one another change the same keys: every pair of changes of the table in
//! ARCHITECTURE.md ("When two datacenters change the same file"), a test for each row.
//!
//! In each test the pair is played under many names at once: in every order of versions, and its words arrive at the three datacenters in every
//! order that there is (in [`PLAYS`] of them by chance, where there are more), each datacenter in an order of its own, some twice, some in halves, with repair at work in
//! between. All of it has to end in what the rules say, which [`Model`] knows, everywhere; and then to stay so.
//!
//! `PHYLACTERY_SEED` repeats what was left to chance.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod repair_sites;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mogilefs_protocol::client::ClassSettings;
use phylactery::events::What;
use phylactery::file::Key;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};
use repair_sites::{Copies, Flaky, Part, Site, Word, repair_config, until};
use tempfile::TempDir;

/// How often a pair is played at most.
const PLAYS: usize = 6;

/// Datacenters by number. Nobody is a client in the third.
const MA: usize = 0;
const TX: usize = 1;
const NAMES: [&str; 3] = ["ma01", "tx01", "or01"];

/// How long repair is left alone between two steps of delivery, in ms: from not at all to longer than it waits for anything.
const PAUSES: [u64; 6] = [0, 20, 100, 400, 1_000, 4_500];

/// What a client does, to keys of one letter.
#[derive(Clone, Copy, Debug)]
enum Op {
    /// With its class.
    Put(&'static str, &'static str),
    Delete(&'static str),
    Rename(&'static str, &'static str),
    Class(&'static str, &'static str),
}
use Op::{Class, Delete, Put, Rename};

impl Op {
    /// How many words it becomes.
    fn words(self) -> usize {
        match self {
            Put(..) | Delete(_) | Class(..) => 1,
            Rename(..) => 2,
        }
    }
}

/// A pair: what all know before, and what each of two datacenters does without knowing of the other.
struct Pair {
    before: &'static [Op],
    ma: &'static [Op],
    tx: &'static [Op],
}

/// One play of a pair, under keys with a prefix of its own.
struct Play {
    prefix: String,
    /// In the order of the versions.
    ops: Vec<(usize, Op)>,
    model: Model,
    words: Vec<Word>,
    /// What arrives at each datacenter, step by step.
    steps: [Vec<(usize, Part)>; 3],
}

/// What a datacenter holds under a key: bytes and class.
type Held = (String, &'static str);

/// The rules, over a few keys: the last word of a key counts, a rename is two words, and a class is of the bytes that it was set on.
#[derive(Default)]
struct Model {
    /// What each datacenter holds as long as it hears of nobody else.
    local: [BTreeMap<&'static str, Held>; 2],
    /// The last word of each key: where it was said, and the bytes, if it was a put.
    heads: BTreeMap<&'static str, (usize, Option<String>)>,
    /// The last class that was set under each key, and on which bytes.
    classes: BTreeMap<&'static str, Held>,
    made: usize,
}

impl Model {
    /// The bytes of a put.
    fn apply(&mut self, at: usize, op: Op) -> Option<String> {
        let local = &mut self.local[at];
        match op {
            Put(key, class) => {
                self.made += 1;
                let bytes = format!("{} of {key} in {}", self.made, NAMES[at]);
                local.insert(key, (bytes.clone(), class));
                self.heads.insert(key, (at, Some(bytes.clone())));
                self.classes.insert(key, (bytes.clone(), class));
                return Some(bytes);
            }
            Delete(key) => {
                local.remove(key).expect("it is there");
                self.heads.insert(key, (at, None));
            }
            Rename(from, to) => {
                let held = local.remove(from).expect("it is there");
                let replaced = local.insert(to, held.clone());
                assert_eq!(replaced, None, "a rename does not replace");
                self.heads.insert(to, (at, Some(held.0.clone())));
                self.heads.insert(from, (at, None));
                self.classes.insert(to, held);
            }
            Class(key, class) => {
                let held = local.get_mut(key).expect("it is there");
                held.1 = class;
                self.classes.insert(key, held.clone());
            }
        }
        None
    }

    /// Everybody knows what is known so far.
    fn share(&mut self) {
        self.local[TX] = self.local[MA].clone();
    }

    /// What everybody holds in the end.
    fn end(&self) -> BTreeMap<&'static str, Option<Held>> {
        let end = self.heads.iter().map(|(key, (origin, bytes))| {
            let held = bytes.as_ref().map(|bytes| {
                let class = self.classes.get(key).filter(|set| set.0 == *bytes);
                // A class that was set on other bytes does not count; then what they have where they came from does.
                let there = self.local[*origin].get(key).filter(|held| held.0 == *bytes);
                let class = class.or(there).expect("a class");
                (bytes.clone(), class.1)
            });
            (*key, held)
        });
        end.collect()
    }
}

/// All orders of some things that keep the order within each of two lists.
fn interleavings(ma: &[Op], tx: &[Op]) -> Vec<Vec<(usize, Op)>> {
    let begun = |at: usize, ops: &[Op]| Some((at, *ops.first()?));
    let mut all = Vec::new();
    for (first, rest) in [(begun(MA, ma), MA), (begun(TX, tx), TX)] {
        let Some(first) = first else { continue };
        let (ma, tx) = match rest {
            MA => (&ma[1..], tx),
            _ => (ma, &tx[1..]),
        };
        let mut rests = interleavings(ma, tx);
        if rests.is_empty() {
            rests.push(Vec::new());
        }
        all.extend(rests.into_iter().map(|rest| {
            let mut order = vec![first];
            order.extend(rest);
            order
        }));
    }
    all
}

/// All orders of so many things.
fn permutations(count: usize) -> Vec<Vec<usize>> {
    let mut all = vec![Vec::new()];
    for next in 0..count {
        all = all
            .into_iter()
            .flat_map(|order: Vec<usize>| {
                (0..=order.len()).map(move |at| {
                    let mut order = order.clone();
                    order.insert(at, next);
                    order
                })
            })
            .collect();
    }
    all
}

fn seed() -> u64 {
    let given = std::env::var("PHYLACTERY_SEED").ok();
    let given = given.map(|seed| seed.parse().expect("PHYLACTERY_SEED is a number"));
    let seed = given.unwrap_or_else(rand::random::<u64>);
    println!("PHYLACTERY_SEED={seed}");
    seed
}

/// Three datacenters, and their ledger with a copy in each.
struct World {
    copies: Arc<Copies>,
    sites: Vec<Site>,
    _home: TempDir,
}

impl World {
    async fn new() -> World {
        let home = tempfile::tempdir().unwrap();
        let copies = Copies::open(home.path(), NAMES.len());
        let mut sites = Vec::new();
        for (at, name) in NAMES.into_iter().enumerate() {
            let ledger = Flaky::over(copies.seen_by(at));
            let mut site = Site::new(name, home.path(), &ledger).await;
            for class in ["thumb", "raw"] {
                let class = ClassSettings {
                    domain: b"photos",
                    class: class.as_bytes(),
                    mindevcount: 1,
                    ..ClassSettings::default()
                };
                site.client().await.create_class(&class).await.unwrap();
            }
            site.start(Some(repair_config()));
            sites.push(site);
        }
        World {
            copies,
            sites,
            _home: home,
        }
    }

    /// A client's request, under a prefix.
    async fn ask(&self, at: usize, prefix: &str, op: Op, bytes: Option<String>) {
        let (site, name) = (&self.sites[at], |key: &str| format!("{prefix}{key}"));
        match op {
            Put(key, class) => {
                let bytes = bytes.expect("the bytes of a put");
                let class = Some(class).filter(|class| *class != "default");
                site.put(&name(key), class, bytes.as_bytes()).await;
            }
            Delete(key) => site.delete(&name(key)).await,
            Rename(from, to) => site.rename(&name(from), &name(to)).await,
            Class(key, class) => site.set_class(&name(key), class).await,
        }
    }

    async fn all_told(&self) {
        for site in &self.sites {
            until("the journal is empty", async || {
                match site.running().journal.depth().entries {
                    0 => Ok(()),
                    left => Err(format!("{left} are left in {}", site.name)),
                }
            })
            .await;
        }
    }

    /// Waits until everybody holds what the model says, and the ledger has it.
    async fn ends_as(&self, play: &Play, seed: u64) {
        for (key, expected) in play.model.end() {
            let name = format!("{}{key}", play.prefix);
            for site in &self.sites {
                let what = format!(
                    "{name} is {expected:?} in {}, PHYLACTERY_SEED={seed}, after {:?}, steps {:?}",
                    site.name, play.ops, play.steps
                );
                until(&what, async || {
                    let found = site.read(&name).await;
                    let found = found.map(|(_, class, bytes)| {
                        (String::from_utf8_lossy(&bytes).into_owned(), class)
                    });
                    let expected = expected.clone().map(|(b, c)| (b, c.to_owned()));
                    let record = site.record(&name).await;
                    let told = record.is_whole_in(&site.name, true);
                    let gap = site.gap(&name).await;
                    match found == expected && told && gap.is_none() {
                        true => Ok(()),
                        false => Err(format!("{found:?}, {gap:?}, {record:#?}")),
                    }
                })
                .await;
            }
        }
    }

    /// What repair has done to bytes and names, in all datacenters.
    fn done(&self) -> usize {
        let of_repair = |what: &What| {
            matches!(
                what,
                What::Copied { .. }
                    | What::Moved { .. }
                    | What::Removed
                    | What::ClassApplied { .. }
            )
        };
        self.sites.iter().map(|site| site.saw(of_repair)).sum()
    }
}

/// The parts in which words arrive at one datacenter, in this order: most whole, some twice, some in halves.
fn parts(order: &[usize], random: &mut StdRng) -> Vec<(usize, Part)> {
    let mut parts = Vec::new();
    let mut later = Vec::new();
    for &word in order {
        match random.random_range(0..10) {
            0..=5 => parts.push((word, Part::Both)),
            6 => parts.extend([(word, Part::Both), (word, Part::Both)]),
            // The cells are found by whoever looks at the file for another reason.
            7 => {
                parts.push((word, Part::Cells));
                later.push((word, Part::Change));
            }
            // The change is read before the cells are there.
            _ => {
                parts.push((word, Part::Change));
                later.push((word, Part::Cells));
            }
        }
        if let Some(late) = later.pop_if(|_| random.random_bool(0.5)) {
            parts.push(late);
        }
    }
    parts.extend(later);
    parts
}

async fn plays(pair: Pair) {
    let seed = seed();
    let random = &mut StdRng::seed_from_u64(seed);
    let world = World::new().await;
    let count = |ops: &[Op]| ops.iter().map(|op| op.words()).sum::<usize>();
    let words = count(pair.ma) + count(pair.tx);
    let mut kinds = Vec::new();
    for order in interleavings(pair.ma, pair.tx) {
        let permutations = permutations(words).into_iter();
        kinds.extend(permutations.map(|arrival| (order.clone(), arrival)));
    }
    if kinds.len() > PLAYS {
        kinds = kinds.sample(random, PLAYS).cloned().collect();
    }
    let mut plays = Vec::new();
    for (n, (ops, arrival)) in kinds.into_iter().enumerate() {
        let mut play = Play {
            prefix: format!("play {n} "),
            ops,
            model: Model::default(),
            words: Vec::new(),
            steps: Default::default(),
        };
        for &op in pair.before {
            let bytes = play.model.apply(MA, op);
            world.ask(MA, &play.prefix, op, bytes).await;
        }
        play.model.share();
        plays.push((play, arrival));
    }
    for (play, _) in &plays {
        world.ends_as(play, seed).await;
    }
    world.all_told().await;

    world.copies.hold();
    for (play, _) in &mut plays {
        for (at, op) in play.ops.clone() {
            let bytes = play.model.apply(at, op);
            world.ask(at, &play.prefix, op, bytes).await;
        }
    }
    world.all_told().await;
    let held = world.copies.held();
    for (play, arrival) in &mut plays {
        let prefix = Key::from_bytes(play.prefix.as_bytes());
        let ours = held
            .iter()
            .filter(|word| word.file.key.escaped().starts_with(prefix.escaped()));
        play.words = ours.cloned().collect();
        assert_eq!(play.words.len(), words, "{:?}", play.words);
        play.words.sort_by_key(|word| word.version);
        let said: Vec<usize> = play.words.iter().map(|word| word.from).collect();
        let by = play.ops.iter();
        let by: Vec<usize> = by.flat_map(|(at, op)| vec![*at; op.words()]).collect();
        assert_eq!(said, by, "versions are in the order of the requests");
        for at in 0..NAMES.len() {
            let mut order = arrival.clone();
            if at != 2 {
                order.shuffle(random);
            }
            order.retain(|&word| play.words[word].from != at);
            play.steps[at] = parts(&order, random);
        }
    }

    let most = plays.iter().flat_map(|(play, _)| &play.steps);
    let most = most.map(Vec::len).max().unwrap_or_default();
    for step in 0..most {
        for (play, _) in &plays {
            for (at, steps) in play.steps.iter().enumerate() {
                if let Some((word, part)) = steps.get(step) {
                    let word = &play.words[*word];
                    world.copies.deliver(word, at, *part).await;
                }
            }
        }
        let pause = PAUSES.choose(random).expect("pauses");
        tokio::time::sleep(Duration::from_millis(*pause)).await;
    }
    // Late hints: all of it once more, anyhow.
    let mut again: Vec<(&Word, usize)> = Vec::new();
    for (play, _) in &plays {
        for word in &play.words {
            let others = (0..NAMES.len()).filter(|at| *at != word.from);
            again.extend(others.map(|at| (word, at)));
        }
    }
    again.shuffle(random);
    for (word, at) in again {
        world.copies.deliver(word, at, Part::Both).await;
    }
    world.copies.release();

    for (play, _) in &plays {
        world.ends_as(play, seed).await;
    }
    for site in &world.sites {
        site.no_gaps().await;
    }
    // It stays so: nobody renames to and fro.
    let done = world.done();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(world.done(), done, "repair goes on, PHYLACTERY_SEED={seed}");
    for (play, _) in &plays {
        world.ends_as(play, seed).await;
    }
}

/// Each row of the table: its name, what all know before, and what ma01 and tx01 do.
macro_rules! rows {
    ($($name:ident: $before:expr, $ma:expr, $tx:expr;)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                plays(Pair { before: &$before, ma: &$ma, tx: &$tx }).await;
            }
        )*
    };
}

const K: Op = Put("k", "default");
const L: Op = Put("l", "default");
const T: Op = Put("t", "default");

rows! {
    put_and_put: [K], [K], [Put("k", "thumb")];
    put_and_put_of_a_new_file: [], [K], [Put("k", "thumb")];
    put_and_delete: [K], [K], [Delete("k")];
    put_and_delete_and_put: [K], [K], [Delete("k"), K];
    delete_and_delete: [K], [Delete("k")], [Delete("k")];
    rename_and_put_at_its_source: [K], [Rename("k", "t")], [K];
    rename_and_put_at_its_target: [K], [Rename("k", "t")], [T];
    rename_and_delete_at_its_source: [K], [Rename("k", "t")], [Delete("k")];
    rename_and_delete_at_its_target: [K], [Rename("k", "t")], [T, Delete("t")];
    rename_and_rename_to_two_places: [K], [Rename("k", "t")], [Rename("k", "u")];
    rename_and_rename_to_one_place: [K, L], [Rename("k", "t")], [Rename("l", "t")];
    rename_and_the_same_rename: [K], [Rename("k", "t")], [Rename("k", "t")];
    rename_and_rename_crossing: [], [K, Rename("k", "t")], [T, Rename("t", "k")];
    rename_and_rename_on_and_back: [K], [Rename("k", "t"), Rename("t", "k")], [Rename("k", "u")];
    class_and_put: [K], [Class("k", "thumb")], [Put("k", "raw")];
    class_and_put_and_class: [K], [Class("k", "thumb")], [K, Class("k", "raw")];
    class_and_class: [K], [Class("k", "thumb")], [Class("k", "raw")];
    class_and_rename: [K], [Class("k", "thumb")], [Rename("k", "t")];
    class_and_delete: [K], [Class("k", "thumb")], [Delete("k")];
}
