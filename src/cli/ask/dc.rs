//! `phylactery dc`: the datacenters, and what an operator says of them.

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::Method;
use serde_json::{Value, json};

use super::show::{describe_scan, row, text, wrapped};
use super::{Asking, segment};
use crate::cli::paint::{bad, bytes, faint, good, grouped, plain, say, strong, waiting};
use crate::cli::{Failure, runtime};
use crate::file::Datacenter;

/// What `dc` takes.
#[derive(Subcommand, Debug)]
pub enum Dc {
    /// Show the datacenters: state, trackers, how far behind, gaps, scan
    ///
    /// As the ledger has it, so any datacenter can be asked about all of them. "In sync" is what each has last proved of itself.
    Show(Show),

    /// Have a datacenter take part, also before its process first starts
    ///
    /// A process registers its datacenter by itself. Said before, files are due there at once, and nothing is forgotten
    /// before it has looked. A site whose MogileFS holds files already needs --seeded.
    Add(Add),

    /// Have repair rest in a datacenter
    ///
    /// Until it is resumed, also over restarts. Clients are served there, and what they change is told to the others. Files stay due
    /// there, and deleted files are remembered until it has gone on.
    Pause(One),

    /// Have repair work in a datacenter again
    ///
    /// Also takes back that a datacenter is leaving, after `dc remove` was interrupted.
    Resume(One),

    /// Remove a datacenter, if no file loses its last replica
    ///
    /// It is leaving from the first moment: nobody relies on it any more. Then all files are counted; if none is there alone, nothing is
    /// due there any more and nobody waits for it. Its own process, if it runs, serves clients and repairs nothing. Nothing is deleted there.
    Remove(Remove),

    /// Have a datacenter take part again that was removed, or away for too long
    ///
    /// It verifies what it is believed to hold before repair does anything else there. What was deleted meanwhile goes. Files there that the
    /// ledger does not know are not told to anybody if they may have been deleted and forgotten.
    Rejoin(One),
}

/// What `dc show` takes.
#[derive(Args, Debug)]
pub struct Show {
    /// Only this one
    datacenter: Option<Datacenter>,

    #[command(flatten)]
    asking: Asking,
}

/// What `dc add` takes.
#[derive(Args, Debug)]
pub struct Add {
    /// Its name
    datacenter: Datacenter,

    /// Its MogileFS holds files, as they were at this time: a date, or a date and a time, in UTC
    ///
    /// For a copied database the time of the copy; for an installation that clients use until now, now. A file there that the ledger does not
    /// know is told to the others, unless it may have been deleted since, and that forgotten: then it is listed.
    #[arg(long, value_name = "WHEN")]
    seeded: Option<String>,

    #[command(flatten)]
    asking: Asking,
}

/// What the others take.
#[derive(Args, Debug)]
pub struct One {
    /// Its name
    datacenter: Datacenter,

    #[command(flatten)]
    asking: Asking,
}

/// What `dc remove` takes.
#[derive(Args, Debug)]
pub struct Remove {
    /// Its name
    datacenter: Datacenter,

    /// Remove it in any case, and list the files that lose their last replica
    #[arg(long)]
    lost: bool,

    #[command(flatten)]
    asking: Asking,
}

pub(in crate::cli) fn run(dc: Dc) -> Result<(), Failure> {
    let say_to = |one: One, word: &str| {
        let path = format!("{}/{word}", path(&one.datacenter)?);
        one.asking.tell(Method::POST, &path, None, told)
    };
    match dc {
        Dc::Show(Show { datacenter, asking }) => match datacenter {
            None => asking.ask("v1/datacenters", show_all),
            Some(datacenter) => asking.ask(&path(&datacenter)?, show),
        },
        Dc::Add(Add {
            datacenter,
            seeded,
            asking,
        }) => {
            let body = json!({ "seeded": seeded });
            asking.tell(Method::PUT, &path(&datacenter)?, Some(&body), told)
        }
        Dc::Pause(one) => say_to(one, "pause"),
        Dc::Resume(one) => say_to(one, "resume"),
        Dc::Rejoin(one) => say_to(one, "rejoin"),
        Dc::Remove(arguments) => remove(&arguments),
    }
}

fn path(datacenter: &Datacenter) -> Result<String, Failure> {
    let name = segment("datacenter", datacenter.as_str().as_bytes())?;
    Ok(format!("v1/datacenters/{name}"))
}

fn show_all(answer: &Value) {
    for (n, datacenter) in answer["datacenters"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
    {
        if n > 0 {
            say!();
        }
        show(datacenter);
    }
}

fn show(datacenter: &Value) {
    let state = match datacenter["state"].as_str() {
        Some("active") => good("active".to_owned()),
        Some(state @ ("joining" | "paused")) => waiting(plain(state)),
        other => bad(plain(other.unwrap_or("not known"))),
    };
    say!("{}  {state}", strong(text(&datacenter["name"])));
    if let Some(why) = datacenter["hindered"].as_str() {
        for line in wrapped(&plain(why)) {
            row("", bad(line));
        }
    }
    let trackers = datacenter["trackers"].as_array();
    match trackers.map(|trackers| trackers.iter().map(text).collect::<Vec<_>>()) {
        Some(trackers) => row("trackers", trackers.join(", ")),
        None => row("trackers", waiting("its process has not started yet")),
    }
    if let Some(heard) = datacenter["last_heard"].as_str() {
        row("last heard", plain(heard));
    }
    if let Some(since) = datacenter["undelivered_since"].as_str() {
        let since = format!("changes since {} to be told", plain(since));
        row("", waiting(since));
    }
    match datacenter["behind"].as_u64() {
        Some(0) => row("behind by", good("nothing")),
        Some(count) => row("behind by", waiting(format!("{} changes", grouped(count)))),
        None => {}
    }
    match datacenter["gaps"].as_u64() {
        Some(0) => row("gaps", good("none")),
        Some(count) => row("gaps", waiting(grouped(count))),
        None => {}
    }
    match datacenter["in_sync_as_of"].as_str() {
        Some(at) => row("in sync", format_args!("as of {}", plain(at))),
        None => row("in sync", waiting("not proved")),
    }
    if let Some(scan) = describe_scan(&datacenter["scan"]) {
        row("scan", scan);
    }
    if let Some(seeded) = datacenter["seeded"].as_str() {
        row("seeded", plain(seeded));
    }
}

/// What was said, and what that means.
fn told(answer: &Value) {
    for line in answer["means"].as_array().into_iter().flatten() {
        say!("{}", text(line));
    }
    warn(answer);
}

fn warn(answer: &Value) {
    for line in answer["warnings"].as_array().into_iter().flatten() {
        say!("{}: {}", bad("warning"), text(line));
    }
}

/// Counts, step by step, and lists what would be lost as it is met.
fn remove(arguments: &Remove) -> Result<(), Failure> {
    let Remove {
        datacenter,
        lost,
        asking,
    } = arguments;
    let runtime = runtime()?;
    let path = format!("{}/removal", path(datacenter)?);
    let body = json!({ "lost": lost });
    let begun = runtime.block_on(asking.send(Method::POST, &path, Some(&body)))?;
    let next = json!({ "id": begun["id"] });
    let path = format!("{path}/next");
    // On a terminal only; on standard error, so that what is listed can be kept.
    let bar = ProgressBar::new(1000);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {percent} %  {msg}  {eta} left") {
        bar.set_style(style);
    }
    loop {
        let answer = runtime.block_on(asking.send(Method::POST, &path, Some(&next)));
        let answer = answer.inspect_err(|_| bar.finish_and_clear())?;
        bar.set_position((answer["percent"].as_f64().unwrap_or_default() * 10.0) as u64);
        let files = answer["files"].as_u64().unwrap_or_default();
        bar.set_message(format!("{} files", grouped(files)));
        if asking.json {
            bar.suspend(|| say!("{answer}"));
        } else if *lost {
            bar.suspend(|| list(&answer["listed"]));
        }
        if answer["done"].as_bool() == Some(true) {
            bar.finish_and_clear();
            return ended(datacenter, &answer, asking.json);
        }
    }
}

fn list(files: &Value) {
    for file in files.as_array().into_iter().flatten() {
        let size = bytes(file["size"].as_u64().unwrap_or_default());
        say!(
            "{} {}  {}",
            text(&file["domain"]),
            text(&file["key"]),
            faint(size)
        );
    }
}

fn ended(datacenter: &Datacenter, answer: &Value, json: bool) -> Result<(), Failure> {
    if answer["removed"].as_bool() != Some(true) {
        let why = answer["why_not"].as_str().unwrap_or("it is not said why");
        return Err(Failure::Failed(anyhow::anyhow!(
            "{datacenter} was not removed: {}. With --lost it is removed all the same, and what is lost is listed",
            plain(why)
        )));
    }
    if json {
        return Ok(());
    }
    let files = answer["files"].as_u64().unwrap_or_default();
    let lost = answer["only_there"].as_u64().unwrap_or_default();
    say!(
        "{datacenter} was removed: nothing is due there any more, and nobody waits for it. Nothing is deleted there."
    );
    say!(
        "{} files were counted, and {} had their last replica there.",
        grouped(files),
        match lost {
            0 => "none".to_owned(),
            lost => grouped(lost),
        }
    );
    warn(answer);
    Ok(())
}
