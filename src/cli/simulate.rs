//! `phylactery simulate`

use std::time::Instant;

use clap::Args;
use serde::Serialize;

use super::Failure;
use super::paint::{bad, good, plain, say, strong};
use crate::simulate::{Story, Theatre, Told, shortest};

/// What `simulate` takes.
#[derive(Args, Debug)]
pub struct Arguments {
    /// The seed of the first story; the next one has the next seed
    ///
    /// The same seed is the same story and ends the same, in the same version of this program.
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,

    /// How many stories are played
    #[arg(long, value_name = "N", default_value_t = 100)]
    runs: u64,

    /// Print all that happens in each story
    #[arg(long)]
    trace: bool,

    /// Print one JSON object a story, and nothing else
    #[arg(long)]
    json: bool,
}

/// A story's end, for scripts.
#[derive(Serialize)]
struct Line<'a> {
    seed: u64,
    broken: Option<&'a str>,
    virtual_seconds: f64,
    trace_hash: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    shortest_story: Option<String>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    trace: &'a [String],
}

pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    let mut theatre = Theatre::new()?;
    theatre.traced = arguments.trace;
    let began = Instant::now();
    let mut broken = 0u64;
    let seeds = arguments.seed..arguments.seed.saturating_add(arguments.runs);
    for seed in seeds.clone() {
        let story = Story::of(seed);
        let told = theatre.play(&story)?;
        let shorter = match told.broken {
            Some(_) => Some(shortest(&theatre, story.clone(), told.clone())?),
            None => None,
        };
        broken += u64::from(told.broken.is_some());
        if arguments.json {
            tell_as_json(&told, seed, shorter.as_ref());
        } else {
            tell(&story, &told, shorter.as_ref());
        }
    }
    if !arguments.json {
        let (runs, seconds) = (arguments.runs, began.elapsed().as_secs_f64());
        match broken {
            0 => say!(
                "{} {runs} stories in {seconds:.1} s, no promise broken",
                good("well:")
            ),
            _ => say!(
                "{} {broken} of {runs} stories broke a promise",
                bad("broken:")
            ),
        }
    }
    match broken {
        0 => Ok(()),
        _ => Err(Failure::Told),
    }
}

fn tell_as_json(told: &Told, seed: u64, shorter: Option<&(Story, Told)>) {
    let line = Line {
        seed,
        broken: told.broken.as_deref(),
        virtual_seconds: told.took.as_secs_f64(),
        trace_hash: format!("{:016x}", told.hash),
        shortest_story: shorter.map(|(story, _)| story.to_string()),
        trace: &told.trace,
    };
    say!(
        "{}",
        serde_json::to_string(&line).expect("plain values always become JSON")
    );
}

fn tell(story: &Story, told: &Told, shorter: Option<&(Story, Told)>) {
    told.trace.iter().for_each(|line| say!("{}", plain(line)));
    let Some((short, end)) = shorter else {
        if !told.trace.is_empty() {
            say!("{} seed {}", good("well:"), story.seed);
        }
        return;
    };
    let why = |told: &Told| plain(told.broken.as_deref().unwrap_or_default());
    say!("{} seed {}: {}", bad("broken:"), story.seed, why(told));
    say!("the shortest story that breaks a promise ({}):", why(end));
    say!("{}", strong(short.to_string().trim_end()));
    end.trace.iter().for_each(|line| say!("{}", plain(line)));
    say!(
        "again: phylactery simulate --seed {} --runs 1 --trace",
        story.seed
    );
}
