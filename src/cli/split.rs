//! `phylactery split`: whether installations that were one can destroy each other's files, and the steps by which one becomes two.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use super::paint::{bad, good, plain, say, strong, waiting};
use super::{Failure, runtime};
use crate::config;
use crate::file::Datacenter;
use crate::node::open_ledger;
use crate::split::{Finding, Level, Site, check};
use crate::trackers::Trackers;

/// Connections to each tracker.
const CONNECTIONS: usize = 2;

/// What `split` takes.
#[derive(Subcommand, Debug)]
pub enum Split {
    /// Look whether two datacenters can destroy each other's files
    ///
    /// Compares what all datacenters have registered, and what their trackers say: whether two name one storage node,
    /// whether files are said to be on devices that are not theirs, what waits to be deleted, and whether both hand out the same fids. Nothing
    /// is changed. The exit status is 1 where files are in danger.
    Check(Check),

    /// Print the steps by which one MogileFS over several sites becomes one in each, in place
    ///
    /// With the SQL for the copied database, to be run before its tracker first starts.
    Guide,
}

/// For a person, in Markdown.
const GUIDE: &str = include_str!("split_guide.md");

/// What `split check` takes.
#[derive(Args, Debug)]
pub struct Check {
    /// The TOML file of any node, whose [ledger] says which datacenters there are
    #[arg(long, value_name = "FILE")]
    config: PathBuf,

    /// The tracker of a datacenter that has registered nothing yet, or another one than it has; may be given again
    #[arg(long = "tracker", value_name = "NAME=HOST:PORT", value_parser = tracker)]
    trackers: Vec<(Datacenter, String)>,

    /// Files of each datacenter to look at
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(2..=1000))]
    sample: u32,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn tracker(text: &str) -> Result<(Datacenter, String), String> {
    let (name, address) = text
        .split_once('=')
        .ok_or("write NAME=HOST:PORT, as in tx01=10.2.0.5:7001")?;
    let name = name.parse().map_err(|error| format!("{error}"))?;
    match address.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
            Ok((name, address.to_owned()))
        }
        _ => Err(format!("{address:?} is not HOST:PORT")),
    }
}

pub(super) fn run(split: Split) -> Result<(), Failure> {
    match split {
        Split::Check(arguments) => look(arguments),
        Split::Guide => {
            say!("{}", GUIDE.trim_end());
            Ok(())
        }
    }
}

fn look(arguments: Check) -> Result<(), Failure> {
    let config =
        config::load(&arguments.config).map_err(|mistakes| Failure::Usage(mistakes.to_string()))?;
    let found = runtime()?.block_on(async {
        let ledger = open_ledger(&config.ledger).await?;
        let known = ledger.datacenters().await.map_err(anyhow::Error::from)?;
        let mut sites: Vec<Site> = known
            .into_iter()
            .map(|known| Site {
                name: known.name.clone(),
                trackers: Trackers::new(known.trackers.clone(), CONNECTIONS),
                registered: Some(known),
            })
            .collect();
        for (name, address) in &arguments.trackers {
            let trackers = Trackers::new(vec![address.clone()], CONNECTIONS);
            match sites.iter_mut().find(|site| site.name == *name) {
                Some(site) => site.trackers = trackers,
                None => sites.push(Site {
                    name: name.clone(),
                    trackers,
                    registered: None,
                }),
            }
        }
        anyhow::Ok(check(&sites, arguments.sample).await)
    })?;
    let worst = found.iter().map(|finding| finding.level).max();
    if arguments.json {
        let list: Vec<_> = found.iter().map(as_json).collect();
        say!(
            "{:#}",
            json!({ "good": worst != Some(Level::Bad), "found": list })
        );
    } else {
        found.iter().for_each(show);
        say!(
            "{}",
            match worst {
                Some(Level::Bad) =>
                    bad("files are in danger: do not let both trackers run").to_string(),
                Some(Level::Unknown) =>
                    waiting("nothing bad was found; see what could not be told").to_string(),
                Some(Level::Good) => good("nothing bad was found").to_string(),
                None => "no datacenter is registered; name trackers with --tracker".to_owned(),
            }
        );
    }
    match worst {
        Some(Level::Bad) => Err(Failure::Told),
        _ => Ok(()),
    }
}

fn show(finding: &Finding) {
    let level = match finding.level {
        Level::Good => good("good   ").to_string(),
        Level::Unknown => waiting("unknown").to_string(),
        Level::Bad => bad("bad    ").to_string(),
    };
    let of: Vec<String> = finding.of.iter().map(ToString::to_string).collect();
    say!(
        "{level} {} {}: {}",
        strong(of.join(" and ")),
        finding.about,
        plain(&finding.text)
    );
}

fn as_json(finding: &Finding) -> serde_json::Value {
    json!({
        "level": finding.level.word(),
        "datacenters": finding.of,
        "about": finding.about,
        "text": finding.text,
    })
}
