//! What the machines of a story share: time, chance, the network between them, and what went wrong with it.
//!
//! Always true: all chance of a run comes from one generator, and is drawn in the order in which things happen; time is virtual, and
//! passes only when nobody has anything to do. So one seed has one story.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use mogilefs_protocol::client::Wire;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use tokio::time::Instant;

use super::book::Book;
use super::ledger::Copies;
use super::site::Running;
use super::storage::{self, Shelves};
use super::tracker::{self, Model};
use crate::file::Datacenter;
use crate::machine::{Played, Rule};

/// When stories begin, in µs since 1970.
const ONCE: i64 = 1_800_000_000_000_000;

/// Something that is wrong with a datacenter for a while.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fault {
    /// Nothing goes to or from other datacenters.
    Cut,
    /// Its copies of the ledger do not answer.
    LedgerAway,
    /// Writes to the ledger time out, and may have been applied, or be applied late.
    LedgerOdd,
    /// Its tracker is not there.
    TrackerDown,
    /// Its tracker carries requests out twice, late, or with an error, and loses answers.
    TrackerOdd,
    /// Its storage nodes are not there.
    StorageDown,
    /// Its storage nodes take their time.
    StorageSlow,
    /// Its storage nodes break off, or give other bytes.
    StorageLies,
    /// The journal's disk takes nothing.
    DiskFull,
}

impl Fault {
    /// All there are.
    pub const ALL: [Fault; 9] = [
        Fault::Cut,
        Fault::LedgerAway,
        Fault::LedgerOdd,
        Fault::TrackerDown,
        Fault::TrackerOdd,
        Fault::StorageDown,
        Fault::StorageSlow,
        Fault::StorageLies,
        Fault::DiskFull,
    ];
}

/// All machines, and what is between them.
pub struct World {
    began: Instant,
    chance: Mutex<StdRng>,
    trace: Mutex<Trace>,
    /// One a datacenter.
    pub places: Vec<Place>,
    pub ledger: Copies,
    pub book: Mutex<Book>,
    lacks: Option<Rule>,
    /// Wall clocks show multiples of this, in µs.
    grain: i64,
    broken: Mutex<Option<String>>,
}

/// A datacenter, but for the process that runs there.
pub struct Place {
    pub name: Datacenter,
    /// By how much its clock is wrong, in µs.
    pub skew: AtomicI64,
    faults: Mutex<BTreeMap<Fault, Duration>>,
    pub tracker: Mutex<Model>,
    pub shelves: Mutex<Shelves>,
    pub running: Mutex<Option<Arc<Running>>>,
}

/// What has happened.
struct Trace {
    hash: DefaultHasher,
    /// `None` if nobody wants to read it.
    lines: Option<Vec<String>>,
}

impl World {
    pub fn new(
        names: &[Datacenter],
        seed: u64,
        grain: i64,
        lacks: Option<Rule>,
        told: bool,
    ) -> Arc<World> {
        let place = |name: &Datacenter| Place {
            name: name.clone(),
            skew: AtomicI64::new(0),
            faults: Mutex::default(),
            tracker: Mutex::new(Model::new(name)),
            shelves: Mutex::default(),
            running: Mutex::default(),
        };
        Arc::new(World {
            began: Instant::now(),
            chance: Mutex::new(StdRng::seed_from_u64(seed)),
            trace: Mutex::new(Trace {
                hash: DefaultHasher::new(),
                lines: told.then(Vec::new),
            }),
            places: names.iter().map(place).collect(),
            ledger: Copies::new(names.len()),
            book: Mutex::default(),
            lacks,
            grain,
            broken: Mutex::default(),
        })
    }

    /// Since the story began.
    pub fn now(&self) -> Duration {
        self.began.elapsed()
    }

    pub fn random(&self) -> u64 {
        self.chance.lock().next_u64()
    }

    pub fn chance(&self, share: f64) -> bool {
        self.chance.lock().random_bool(share)
    }

    pub fn pick(&self, of: usize) -> usize {
        self.chance.lock().random_range(0..of)
    }

    /// Waits for a time between these, in ms.
    pub async fn pause(&self, least: u64, most: u64) {
        let micros = self.chance.lock().random_range(least * 1000..=most * 1000);
        tokio::time::sleep(Duration::from_micros(micros)).await;
    }

    /// Notes that something has happened.
    pub fn tell(&self, at: usize, what: impl FnOnce() -> String) {
        let now = self.now();
        let mut trace = self.trace.lock();
        let line = format!("{now:>10.3?} {} {}", self.places[at].name, what());
        trace.hash.write(line.as_bytes());
        if let Some(lines) = &mut trace.lines {
            lines.push(line);
        }
    }

    /// Of all that has happened so far: a number that two runs share if they were the same, and the lines, if they were kept.
    pub fn told(&self) -> (u64, Vec<String>) {
        let trace = self.trace.lock();
        (trace.hash.finish(), trace.lines.clone().unwrap_or_default())
    }

    /// A promise was broken; the first counts.
    pub fn breaks(&self, why: impl FnOnce() -> String) {
        let mut broken = self.broken.lock();
        if broken.is_none() {
            *broken = Some(why());
        }
    }

    pub fn broken(&self) -> Option<String> {
        self.broken.lock().clone()
    }

    pub fn begin(&self, at: usize, fault: Fault, length: Duration) {
        let until = self.now() + length;
        let mut faults = self.places[at].faults.lock();
        let known = faults.entry(fault).or_default();
        *known = until.max(*known);
    }

    pub fn heal(&self) {
        for place in &self.places {
            place.faults.lock().clear();
        }
    }

    pub fn has(&self, at: usize, fault: Fault) -> bool {
        let faults = self.places[at].faults.lock();
        faults.get(&fault).is_some_and(|until| *until > self.now())
    }

    /// Whether a machine of one datacenter reaches one of another.
    pub fn reaches(&self, from: usize, to: usize) -> bool {
        from == to || !(self.has(from, Fault::Cut) || self.has(to, Fault::Cut))
    }

    /// Which datacenter a name begins with.
    pub fn place_of(&self, host: &str) -> Option<usize> {
        self.places
            .iter()
            .position(|place| host.starts_with(place.name.as_str()))
    }

    /// Somewhere in a datacenter on the way to another, in ms.
    pub async fn travel(&self, from: usize, to: usize) {
        if from == to {
            self.pause(0, 1).await;
        } else {
            self.pause(2, 20).await;
        }
    }
}

/// One life of the process of a datacenter.
pub struct Machine {
    pub world: Arc<World>,
    pub at: usize,
    alive: AtomicBool,
}

impl Machine {
    pub fn new(world: &Arc<World>, at: usize) -> Arc<Machine> {
        Arc::new(Machine {
            world: Arc::clone(world),
            at,
            alive: AtomicBool::new(true),
        })
    }

    pub fn kill(&self) {
        self.alive.store(false, Ordering::Relaxed);
    }
}

impl Played for Machine {
    fn wall_clock(&self) -> i64 {
        let skew = self.world.places[self.at].skew.load(Ordering::Relaxed);
        let now = i64::try_from(self.world.now().as_micros()).unwrap_or(i64::MAX);
        let clock = ONCE + now + skew;
        clock - clock % self.world.grain
    }

    fn random(&self) -> u64 {
        self.world.random()
    }

    fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Relaxed)
    }

    fn disk_is_full(&self) -> bool {
        self.world.has(self.at, Fault::DiskFull)
    }

    fn connect(&self, addr: &str) -> BoxFuture<'static, io::Result<Box<dyn Wire>>> {
        let (world, from) = (Arc::clone(&self.world), self.at);
        let to = world.place_of(addr);
        async move {
            let to = to.ok_or(io::ErrorKind::NotFound)?;
            tracker::connect(&world, from, to).await?;
            Ok(Box::new(tracker::Line { world, from, to }) as Box<dyn Wire>)
        }
        .boxed()
    }

    fn send(&self, request: reqwest::Request) -> BoxFuture<'static, io::Result<reqwest::Response>> {
        storage::serve(Arc::clone(&self.world), self.at, request).boxed()
    }

    fn lacks(&self, rule: Rule) -> bool {
        self.world.lacks == Some(rule)
    }
}
