//! `phylactery check-config`

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::{Failure, paint, runtime};
use crate::config::{self, Mistakes};
use crate::reach::{self, Finding};

/// What `check-config` takes.
#[derive(Args, Debug)]
pub struct Arguments {
    /// The TOML file
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Connect to the ledger and to each tracker too, and say what is there
    ///
    /// What a node would meet that starts with this file: whether the ledger lets us in and has the tables that
    /// this program needs, and whether each tracker of [proxy] answers. Still nothing is made or changed; an embedded
    /// ledger that is not there yet is only told to be missing. A cluster in which a node hangs takes a minute. The
    /// exit status is 1 where something was not reached.
    #[arg(long)]
    connect: bool,

    /// Print JSON: every setting with its default filled in, or every mistake
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    let loaded = config::load(&arguments.file);
    let config = match loaded {
        Ok(config) => config,
        Err(mistakes) if arguments.json => {
            let answer = json!({ "good": false, "mistakes": list(&mistakes) });
            paint::say!("{answer:#}");
            return Err(Failure::UsageTold);
        }
        Err(mistakes) => return Err(Failure::Usage(mistakes.to_string())),
    };
    if !arguments.json {
        let file = arguments.file.display();
        paint::say!("{file} {}\n\n{config}", paint::good("is good"));
    }
    let found = match arguments.connect {
        true => Some(runtime()?.block_on(reach::look(&config))),
        false => None,
    };
    if arguments.json {
        let mut answer = json!({ "good": true, "config": config.to_json() });
        if let Some(found) = &found {
            answer["reached"] = found.iter().map(as_json).collect();
        }
        paint::say!("{answer:#}");
    } else {
        found.iter().flatten().for_each(tell);
    }
    match found.iter().flatten().all(|finding| finding.found.is_ok()) {
        true => Ok(()),
        // Each has its line, or its place in the JSON.
        false => Err(Failure::Told),
    }
}

fn tell(finding: &Finding) {
    let Finding { part, at, found } = finding;
    let (word, text) = match found {
        Ok(there) => (paint::good("reached"), there),
        Err(wrong) => (paint::bad("not reached"), wrong),
    };
    paint::say!("  {part:<11} {at} {word}: {}", paint::plain(text));
}

fn as_json(finding: &Finding) -> serde_json::Value {
    let Finding { part, at, found } = finding;
    let (found, wrong) = (found.as_ref().ok(), found.as_ref().err());
    json!({ "part": part, "at": at, "good": wrong.is_none(), "found": found, "wrong": wrong })
}

fn list(mistakes: &Mistakes) -> serde_json::Value {
    mistakes
        .found
        .iter()
        .map(|mistake| {
            json!({
                "line": mistake.line,
                "key": mistake.key,
                "value": mistake.value,
                "wrong": mistake.wrong,
                "right": mistake.right,
            })
        })
        .collect()
}
