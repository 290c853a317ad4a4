//! `phylactery placement`: where files are due, and saying so.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};

use super::show::{row, text};
use super::{Asking, segment};
use crate::cli::Failure;
use crate::cli::paint::{bad, faint, plain, say, strong, waiting};
use crate::file::Datacenter;

/// What `placement` takes.
#[derive(Subcommand, Debug)]
pub enum Placement {
    /// Show where files are due
    ///
    /// All placements that were set, and where files are due that none was set for: in every active datacenter.
    Show(Show),

    /// Say in which datacenters the files of a domain, or of a class of it, are due
    ///
    /// Counts in all datacenters within seconds. Where files become due they are brought by a scan; where they
    /// are due no longer nothing is deleted. A class that has a placement of its own does not go by its domain's.
    Set(Set),

    /// Take a placement back
    ///
    /// What counts without it does again: for a class the placement of its domain, for a domain the
    /// default, which is all active datacenters.
    Remove(Remove),
}

/// What `placement show` takes.
#[derive(Args, Debug)]
pub struct Show {
    /// Only this domain's, as clients name it
    domain: Option<OsString>,

    #[command(flatten)]
    asking: Asking,
}

/// What `placement set` takes.
#[derive(Args, Debug)]
pub struct Set {
    /// The domain, or with a colon a class of it; as clients name them, not escaped
    ///
    /// The last colon counts: for a domain with a colon in its name write one more at the end.
    #[arg(value_name = "DOMAIN[:CLASS]")]
    of: OsString,

    /// Where its files are due, as in ma01,tx01
    #[arg(
        value_name = "DATACENTER,…",
        required = true,
        num_args = 1,
        value_delimiter = ','
    )]
    datacenters: Vec<Datacenter>,

    /// Within which time a change is to be done in all of them, as in 5m [default: as it was, at first 15m]
    ///
    /// A file that takes longer is counted in status and metrics, and told as an event when it misses its goal and when it has come.
    #[arg(long, value_name = "TIME", value_parser = lag_goal)]
    lag_goal: Option<u32>,

    #[command(flatten)]
    asking: Asking,
}

/// What `placement remove` takes.
#[derive(Args, Debug)]
pub struct Remove {
    /// The domain, or with a colon a class of it, as for set
    #[arg(value_name = "DOMAIN[:CLASS]")]
    of: OsString,

    #[command(flatten)]
    asking: Asking,
}

pub(in crate::cli) fn run(placement: Placement) -> Result<(), Failure> {
    match placement {
        Placement::Show(Show { domain, asking }) => match domain {
            None => asking.ask("v1/placements", show),
            Some(domain) => {
                let domain = segment("domain", domain.as_bytes())?;
                asking.ask(&format!("v1/placements/{domain}"), show)
            }
        },
        Placement::Set(Set {
            of,
            datacenters,
            lag_goal,
            asking,
        }) => {
            let mut body = json!({ "datacenters": datacenters });
            if let Some(seconds) = lag_goal {
                body["lag_goal_seconds"] = json!(seconds);
            }
            asking.tell(Method::PUT, &path(&of)?, Some(&body), told)
        }
        Placement::Remove(Remove { of, asking }) => {
            asking.tell(Method::DELETE, &path(&of)?, None, told)
        }
    }
}

/// A lag goal, in seconds.
fn lag_goal(text: &str) -> Result<u32, String> {
    let time = humantime::parse_duration(text)
        .map_err(|why| format!("{why}; write a time as in 30s, 5m or 2h"))?;
    match u32::try_from(time.as_secs()) {
        Ok(seconds) if seconds > 0 && time.subsec_nanos() == 0 => Ok(seconds),
        Ok(_) | Err(_) => Err("write whole seconds, at least 1s".to_owned()),
    }
}

/// A time as `--lag-goal` takes it.
fn goal(seconds: &Value) -> Option<String> {
    let time = std::time::Duration::from_secs(seconds.as_u64()?);
    Some(humantime::format_duration(time).to_string())
}

/// Of what stands before the last colon, and behind it.
fn path(of: &OsStr) -> Result<String, Failure> {
    let of = of.as_bytes();
    let colon = of.iter().rposition(|byte| *byte == b':');
    let (domain, class) = match colon {
        Some(colon) => (&of[..colon], &of[colon + 1..]),
        None => (of, &b""[..]),
    };
    let domain = segment("domain", domain)?;
    if class.is_empty() {
        return Ok(format!("v1/placements/{domain}"));
    }
    Ok(format!(
        "v1/placements/{domain}/{}",
        segment("class", class)?
    ))
}

fn show(answer: &Value) {
    let states = &answer["datacenters"];
    let placements = answer["placements"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    // Where a domain has no row of its own, and where nothing has.
    let (without, due) = match answer["domain"].is_string() {
        true => (name(answer), &answer["due"]),
        false => ("(default)".to_owned(), &answer["default"]),
    };
    if !placements
        .iter()
        .any(|placement| name(placement) == without)
    {
        let due = datacenters(due, states);
        let mut more = "all active datacenters".to_owned();
        if let Some(goal) = goal(&answer["default_lag_goal_seconds"]) {
            more.push_str(&format!(", lag goal {goal}"));
        }
        row(&without, format_args!("{due}  {}", faint(more)));
    }
    for placement in placements {
        let due = datacenters(&placement["datacenters"], states);
        let mut more = format!("since {}", text(&placement["since"]));
        if let Some(goal) = goal(&placement["lag_goal_seconds"]) {
            more.push_str(&format!(", lag goal {goal}"));
        }
        row(&name(placement), format_args!("{due}  {}", faint(more)));
    }
}

/// What was changed, and what that means.
fn told(answer: &Value) {
    let none = Value::Null;
    say!(
        "{} is due in {}, and was in {}.",
        strong(name(answer)),
        strong(datacenters(&answer["due"], &none)),
        datacenters(&answer["before"], &none)
    );
    for line in answer["means"].as_array().into_iter().flatten() {
        say!("{}", text(line));
    }
    for line in answer["warnings"].as_array().into_iter().flatten() {
        say!("{}: {}", bad("warning"), text(line));
    }
}

fn name(of: &Value) -> String {
    match of["class"].as_str() {
        Some(class) => format!("{}:{}", text(&of["domain"]), plain(class)),
        None => text(&of["domain"]),
    }
}

/// Their names, with what is to be said of one that is not active.
fn datacenters(names: &Value, states: &Value) -> String {
    let names = names.as_array().into_iter().flatten();
    let named = names.map(|name| {
        let inactive = name.as_str().is_some_and(|name| states[name] == "inactive");
        match inactive {
            true => format!("{} ({})", text(name), waiting("inactive")),
            false => text(name),
        }
    });
    let named: Vec<String> = named.collect();
    match named.is_empty() {
        true => "no datacenter".to_owned(),
        false => named.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lag_goal_is_a_time_of_whole_seconds() {
        assert_eq!(lag_goal("5m"), Ok(300));
        assert_eq!(goal(&json!(300)).as_deref(), Some("5m"));
        for wrong in ["0s", "300", "1500ms", "never"] {
            assert!(lag_goal(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_class_stands_behind_the_last_colon() {
        let cases = [
            ("photos", "v1/placements/photos"),
            ("photos:raw", "v1/placements/photos/raw"),
            ("a:b:raw", "v1/placements/a%3Ab/raw"),
            ("a:b:", "v1/placements/a%3Ab"),
            ("a/b c", "v1/placements/a%2Fb%20c"),
        ];
        for (of, told) in cases {
            assert_eq!(path(OsStr::new(of)).expect("a path"), told, "{of}");
        }
        for of in ["", ":raw", "..", "photos:."] {
            assert!(
                matches!(path(OsStr::new(of)), Err(Failure::Usage(_))),
                "{of}"
            );
        }
    }
}
