//! Several datacenters in virtual time, with all that goes wrong: no promise is broken, and each rule that is left out is noticed.
//!
//! `PHYLACTERY_SEED=n` plays one story again, `PHYLACTERY_STORIES=n` so many from the first (or that) one on.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::time::{Duration, Instant};

use phylactery::simulate::{Story, Theatre, shortest};

/// Stories that are played in the suite.
const STORIES: u64 = 2_000;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().expect("a number"))
}

/// What is told of stories that break a promise: all of some, and of the others why.
const TOLD: usize = 4;

/// The stories of these seeds that break a promise, the first of them made as short as they can be.
fn broken(theatre: &mut Theatre, seeds: impl Iterator<Item = u64>) -> Vec<String> {
    let mut broken = Vec::new();
    for seed in seeds {
        let story = Story::of(seed);
        let told = theatre.play(&story).unwrap();
        let Some(why) = &told.broken else { continue };
        if broken.len() >= TOLD {
            broken.push(format!("PHYLACTERY_SEED={seed}: {why}"));
            continue;
        }
        theatre.traced = true;
        let again = theatre.play(&story).unwrap();
        let one = again.hash == told.hash;
        let (short, end) = shortest(theatre, story.clone(), again).unwrap();
        theatre.traced = false;
        broken.push(format!(
            "PHYLACTERY_SEED={seed} (the same twice: {one}): {why}\n{story}the shortest: {}\n{short}{}\n",
            end.broken.unwrap_or_default(),
            end.trace.join("\n")
        ));
    }
    broken
}

#[test]
fn whatever_goes_wrong_no_promise_is_broken() {
    let wanted = (number("PHYLACTERY_SEED"), number("PHYLACTERY_STORIES"));
    match wanted {
        (None, None) => no_promise_is_broken(0, STORIES / 2),
        (Some(seed), None) => no_promise_is_broken(seed, 1),
        (first, Some(stories)) => no_promise_is_broken(first.unwrap_or(0), stories),
    }
}

/// The other half, in a thread of its own.
#[test]
fn whatever_goes_wrong_no_promise_is_broken_in_the_other_half() {
    if number("PHYLACTERY_SEED")
        .or(number("PHYLACTERY_STORIES"))
        .is_none()
    {
        no_promise_is_broken(STORIES / 2, STORIES / 2);
    }
}

fn no_promise_is_broken(first: u64, stories: u64) {
    let began = Instant::now();
    let mut theatre = Theatre::new().unwrap();
    let broken = broken(&mut theatre, first..first + stories);
    println!("{stories} stories in {:?}", began.elapsed());
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn the_same_seed_has_the_same_trace() {
    let mut theatre = Theatre::new().unwrap();
    theatre.traced = true;
    for seed in 1_000_000..1_000_010 {
        let story = Story::of(seed);
        assert_eq!(story, Story::of(seed));
        let (one, other) = (theatre.play(&story).unwrap(), theatre.play(&story).unwrap());
        let differs = one.trace.iter().zip(&other.trace).position(|(a, b)| a != b);
        if let Some(at) = differs {
            panic!(
                "seed {seed} has two stories: {:#?} and {:#?}",
                &one.trace[at.saturating_sub(9)..=at],
                &other.trace[at]
            );
        }
        assert_eq!(one.hash, other.hash, "seed {seed}");
        assert!(one.took > Duration::from_secs(1) && !one.trace.is_empty());
    }
}

#[cfg(feature = "rule-switches")]
mod rules {
    use phylactery::machine::Rule;

    use super::*;

    /// Stories within which each has to be noticed.
    const WITHIN: u64 = 2_000;

    #[test]
    fn each_rule_that_is_left_out_is_noticed() {
        let mut unnoticed = Vec::new();
        for rule in Rule::ALL {
            let mut theatre = Theatre::new().unwrap();
            theatre.lacks = Some(rule);
            let noticed = (0..WITHIN).find_map(|seed| {
                let told = theatre.play(&Story::of(seed)).unwrap();
                Some((seed, told.broken?))
            });
            match noticed {
                Some((seed, why)) => println!("{rule:?}: seed {seed}: {why}"),
                None => unnoticed.push(rule),
            }
        }
        assert!(unnoticed.is_empty(), "nobody noticed without {unnoticed:?}");
    }
}
