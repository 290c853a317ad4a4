//! A simulation: several datacenters in one thread and in virtual time, with all that goes wrong.
//!
//! The code of journal, settling, delivery, debts, repair and its workers, the trust in both and the proxy's way of a mutation is the real one. Played are
//! clocks, the network, trackers, storage nodes, the ledger (copies in each datacenter, merged by the real rules) and whether a
//! disk takes anything; a journal is a real one, in memory where there is such a folder. A crash falls at any await: nothing of that machine is polled
//! any more, and what its journal had not committed is lost.
//!
//! Always true: the same seed has the same trace. What is checked are the promises: at every moment that nothing newer is replaced by older, that a
//! client who overwrites what it sees is newer, that nothing acknowledged is forgotten, that "in sync as of T" is true; and, when all
//! faults are over, that within [`PATIENCE`] everything is everywhere as it should be.
//! Never here: sockets, threads, a real fsync, Cassandra's own behaviour. Those are for the tests on real processes.

mod book;
mod check;
mod client;
mod ledger;
mod shrink;
mod site;
mod storage;
mod story;
mod tracker;
mod world;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context;

pub use shrink::shortest;
pub use story::{Digest, Op, Step, Story, What};
pub use world::Fault;

use crate::machine::Rule;
use site::Running;
use world::World;

/// How long it may take, in virtual time, until all is well after the last fault.
const PATIENCE: Duration = Duration::from_secs(240);

/// How often it is looked whether what is said is true.
const LOOK_EVERY: Duration = Duration::from_millis(400);

/// What came of a story.
#[derive(Clone, Debug)]
pub struct Told {
    /// The promise that was broken, if one was.
    pub broken: Option<String>,
    /// The same number for the same trace.
    pub hash: u64,
    /// The trace, if it was wanted.
    pub trace: Vec<String>,
    /// How long it took, in virtual time.
    pub took: Duration,
}

/// Plays stories, one after the other.
pub struct Theatre {
    /// Removed with the theatre.
    home: PathBuf,
    /// A rule that is left out, in a build that can do so.
    pub lacks: Option<Rule>,
    /// Whether traces are kept.
    pub traced: bool,
}

impl Theatre {
    /// With journals in memory, where there is a folder that is.
    ///
    /// # Errors
    /// If there is no folder to be had.
    pub fn new() -> anyhow::Result<Theatre> {
        let memory = Path::new("/dev/shm");
        let below = match memory.is_dir() {
            true => memory.to_owned(),
            false => std::env::temp_dir(),
        };
        let name = format!(
            "phylactery-{}-{:x}",
            std::process::id(),
            rand::random::<u64>()
        );
        let home = below.join(name);
        std::fs::create_dir_all(&home).with_context(|| format!("make {}", home.display()))?;
        Ok(Theatre {
            home,
            lacks: None,
            traced: false,
        })
    }

    /// Plays a story.
    ///
    /// # Errors
    /// If it cannot be played: no runtime, or no journal.
    pub fn play(&self, story: &Story) -> anyhow::Result<Told> {
        let home = self.home.join(format!("story-{}", story.seed));
        std::fs::create_dir_all(&home).with_context(|| format!("make {}", home.display()))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .context("make a runtime")?;
        let told = runtime.block_on(self.tell(story, &home));
        drop(runtime);
        let _left = std::fs::remove_dir_all(&home);
        told
    }

    async fn tell(&self, story: &Story, home: &Path) -> anyhow::Result<Told> {
        let names: Vec<_> = story::DATACENTERS[..story.places]
            .iter()
            .map(|name| name.parse().expect("a name"))
            .collect();
        let world = World::new(&names, story.seed, story.grain, self.lacks, self.traced);
        let mut play = Play {
            world: Arc::clone(&world),
            home,
            verifies: story.verifies,
            down_until: vec![None; names.len()],
        };
        let ended = play.play(story).await;
        play.end();
        ended?;
        let (hash, trace) = world.told();
        Ok(Told {
            broken: world.broken(),
            hash,
            trace,
            took: world.now(),
        })
    }
}

impl Drop for Theatre {
    fn drop(&mut self) {
        let _left = std::fs::remove_dir_all(&self.home);
    }
}

/// A story that is being played.
struct Play<'a> {
    world: Arc<World>,
    home: &'a Path,
    verifies: bool,
    /// When a process that was killed begins again.
    down_until: Vec<Option<Duration>>,
}

impl Play<'_> {
    async fn play(&mut self, story: &Story) -> anyhow::Result<()> {
        for at in 0..story.places {
            self.start(at).await?;
        }
        for step in &story.steps {
            self.pass_until(step.at).await?;
            self.happens(step);
        }
        self.world.heal();
        for until in self.down_until.iter_mut().flatten() {
            *until = Duration::ZERO;
        }
        let end = self.world.now() + PATIENCE;
        loop {
            self.pass_until(self.world.now() + LOOK_EVERY).await?;
            if self.world.broken().is_some() {
                return Ok(());
            }
            match check::all_is_well(&self.world) {
                Ok(()) => return Ok(()),
                Err(why) if self.world.now() >= end => {
                    self.world
                        .breaks(|| format!("not well {PATIENCE:?} after the last fault: {why}"));
                    return Ok(());
                }
                Err(_not_yet) => {}
            }
        }
    }

    /// Lets time pass, and looks now and then.
    async fn pass_until(&mut self, when: Duration) -> anyhow::Result<()> {
        loop {
            let now = self.world.now();
            let begins = self.down_until.iter().flatten().min().copied();
            let next = when.min(now + LOOK_EVERY);
            let next = begins.map_or(next, |begins| next.min(begins.max(now)));
            tokio::time::sleep(next.saturating_sub(now)).await;
            let now = self.world.now();
            for at in 0..self.down_until.len() {
                if self.down_until[at].is_some_and(|until| until <= now) {
                    self.down_until[at] = None;
                    self.start(at).await?;
                    check::nothing_is_lost(&self.world, at);
                }
                check::in_sync_is_true(&self.world, at);
            }
            if now >= when {
                return Ok(());
            }
        }
    }

    async fn start(&self, at: usize) -> anyhow::Result<()> {
        // What was killed a moment ago lets go of its files.
        tokio::time::sleep(Duration::from_millis(1)).await;
        self.world.tell(at, || "the process begins".to_owned());
        let running = Running::start(&self.world, at, self.home, self.verifies).await?;
        *self.world.places[at].running.lock() = Some(running);
        Ok(())
    }

    fn happens(&mut self, step: &Step) {
        let (world, at) = (&self.world, step.place);
        match &step.what {
            What::Client(op) => {
                let running = world.places[at].running.lock().clone();
                if let Some(running) = running {
                    let wants =
                        client::wants(Arc::clone(world), at, Arc::clone(&running), op.clone());
                    running.spawn(wants);
                }
            }
            What::Fault(fault, length) => {
                world.tell(at, || format!("{fault:?} for {length:?}"));
                world.begin(at, *fault, *length);
            }
            What::Crash(length) => {
                if let Some(running) = world.places[at].running.lock().take() {
                    world.tell(at, || "the process is killed".to_owned());
                    running.crash();
                    self.down_until[at] = Some(world.now() + *length);
                }
            }
            What::Clock(seconds) => {
                world.tell(at, || format!("the clock is wrong by {seconds} s"));
                let skew = seconds.saturating_mul(1_000_000);
                world.places[at].skew.store(skew, Ordering::Relaxed);
            }
        }
    }

    fn end(&self) {
        for place in &self.world.places {
            if let Some(running) = place.running.lock().take() {
                running.crash();
            }
        }
    }
}
