//! A story: what clients do, and what goes wrong when.

use std::fmt;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use super::tracker::CLASSES;
use super::world::Fault;

/// The datacenters, as many of them as a story has.
pub const DATACENTERS: [&str; 3] = ["ma01", "or01", "tx01"];

const KEYS: [&str; 4] = ["a", "b", "c", "d"];

/// What a client asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Op {
    /// An upload.
    Put {
        /// Under which key.
        key: String,
        /// In which class.
        class: Option<String>,
        /// What it stores; no two are the same.
        body: String,
        /// What it says of the digest.
        digest: Digest,
    },
    /// A delete.
    Delete {
        /// Of which key.
        key: String,
    },
    /// A rename.
    Rename {
        /// The old key.
        from: String,
        /// The new one.
        to: String,
    },
    /// A change of class.
    SetClass {
        /// Of which key.
        key: String,
        /// To which class.
        class: String,
    },
}

/// What a client says of a digest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Digest {
    /// Nothing.
    Unsaid,
    /// The right one, which the tracker is to compare.
    Verified,
    /// A wrong one, which nobody compares.
    Claimed,
}

/// Something that happens.
#[derive(Clone, PartialEq, Debug)]
pub enum What {
    /// A client of a datacenter asks for this.
    Client(Op),
    /// Something is wrong for so long.
    Fault(Fault, Duration),
    /// The process ends as by `kill -9`, and begins again after so long.
    Crash(Duration),
    /// The clock goes on from elsewhere: by so many seconds wrong.
    Clock(i64),
}

/// When and where it happens.
#[derive(Clone, PartialEq, Debug)]
pub struct Step {
    /// Since the beginning.
    pub at: Duration,
    /// In which datacenter.
    pub place: usize,
    /// What.
    pub what: What,
}

/// All of it.
#[derive(Clone, PartialEq, Debug)]
pub struct Story {
    /// What chance is drawn from while it is played.
    pub seed: u64,
    /// How many datacenters there are.
    pub places: usize,
    /// Wall clocks show multiples of this, in µs.
    pub grain: i64,
    /// Whether files are verified from the beginning on.
    pub verifies: bool,
    /// In the order of their times.
    pub steps: Vec<Step>,
}

impl Story {
    /// The story of a seed.
    pub fn of(seed: u64) -> Story {
        let mut random = StdRng::seed_from_u64(seed);
        let places = random.random_range(2..=3);
        let keys = random.random_range(1..=KEYS.len());
        let length = random.random_range(1_000..6_000);
        let mut steps = Vec::new();
        for n in 0..random.random_range(3..=14) {
            let what = What::Client(op(&mut random, &KEYS[..keys], n));
            steps.push((random.random_range(0..length), what));
        }
        for _ in 0..random.random_range(0..=5) {
            let what = match random.random_range(0..12) {
                0..=2 => What::Crash(Duration::from_millis(random.random_range(20..3_000))),
                // Back no further than is waited for in the end: what was to be done at a time waits for that time.
                3 => What::Clock(random.random_range(-100..1_500)),
                _ => {
                    let fault = *Fault::ALL.choose(&mut random).expect("there are some");
                    What::Fault(fault, Duration::from_millis(random.random_range(50..6_000)))
                }
            };
            steps.push((random.random_range(0..length), what));
        }
        let mut steps: Vec<Step> = steps
            .into_iter()
            .map(|(at, what)| Step {
                at: Duration::from_millis(at),
                place: random.random_range(0..places),
                what,
            })
            .collect();
        if random.random_bool(0.1) {
            // 2099, and nobody sets it right: from there back everything would wait for that year.
            let place = random.random_range(0..places);
            let is_clock = |step: &Step| matches!(step.what, What::Clock(_));
            steps.retain(|step| step.place != place || !is_clock(step));
            steps.push(Step {
                at: Duration::ZERO,
                place,
                what: What::Clock(73 * 365 * 86_400),
            });
        }
        steps.sort_by_key(|step| step.at);
        Story {
            seed,
            places,
            grain: if random.random_bool(0.3) {
                1_000_000
            } else {
                1
            },
            verifies: random.random_bool(0.2),
            steps,
        }
    }
}

fn op(random: &mut StdRng, keys: &[&str], n: usize) -> Op {
    let key = |random: &mut StdRng| (*keys.choose(random).expect("there are some")).to_owned();
    let class = |random: &mut StdRng| {
        let class = CLASSES.choose(random).expect("there are some");
        (*class).to_owned()
    };
    match random.random_range(0..20) {
        0..=9 => Op::Put {
            key: key(random),
            class: random.random_bool(0.3).then(|| class(random)),
            body: match random.random_bool(0.7) {
                true => format!("body {n:02}"),
                false => format!("a longer body {n:02}"),
            },
            digest: match random.random_range(0..4) {
                0..=1 => Digest::Unsaid,
                2 => Digest::Verified,
                _ => Digest::Claimed,
            },
        },
        10..=13 => Op::Delete { key: key(random) },
        14..=17 if keys.len() > 1 => {
            let from = key(random);
            let to = loop {
                let to = key(random);
                if to != from {
                    break to;
                }
            };
            Op::Rename { from, to }
        }
        _ => Op::SetClass {
            key: key(random),
            class: class(random),
        },
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Op::Put {
                key, class, body, ..
            } => {
                write!(f, "a client stores {body:?} under {key}")?;
                match class {
                    Some(class) => write!(f, " in class {class}"),
                    None => Ok(()),
                }
            }
            Op::Delete { key } => write!(f, "a client deletes {key}"),
            Op::Rename { from, to } => write!(f, "a client renames {from} to {to}"),
            Op::SetClass { key, class } => {
                write!(f, "a client puts {key} into class {class}")
            }
        }
    }
}

impl fmt::Display for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Step { at, place, what } in &self.steps {
            write!(f, "{:>7.3}s  {}  ", at.as_secs_f64(), DATACENTERS[*place])?;
            match what {
                What::Client(op) => writeln!(f, "{op}")?,
                What::Fault(fault, length) => writeln!(f, "{fault:?} for {length:?}")?,
                What::Crash(length) => writeln!(f, "killed, and begun again after {length:?}")?,
                What::Clock(seconds) => writeln!(f, "its clock is wrong by {seconds} s")?,
            }
        }
        Ok(())
    }
}
