//! `phylactery check-config`

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::{Failure, paint};
use crate::config::{self, Mistakes};

/// What `check-config` takes.
#[derive(Args, Debug)]
pub struct Arguments {
    /// The TOML file
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Print JSON: every setting with its default filled in, or every mistake
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    let loaded = config::load(&arguments.file);
    if arguments.json {
        let answer = match &loaded {
            Ok(config) => json!({ "good": true, "config": config.to_json() }),
            Err(mistakes) => json!({ "good": false, "mistakes": list(mistakes) }),
        };
        paint::say!("{answer:#}");
        return loaded.map(|_| ()).map_err(|_| Failure::UsageTold);
    }
    let config = loaded.map_err(|mistakes| Failure::Usage(mistakes.to_string()))?;
    paint::say!(
        "{} {}\n\n{config}",
        arguments.file.display(),
        paint::good("is good")
    );
    Ok(())
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
