//! `phylactery repair budget`: what repair may take of links, disks and trackers, and saying how much.

use bytesize::ByteSize;
use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::Asking;
use super::show::text;
use crate::cli::Failure;
use crate::cli::paint::{bad, bytes, faint, grouped, say, strong};

/// What `repair budget` takes.
#[derive(Subcommand, Debug)]
pub enum Budget {
    /// Show what repair may take, what is configured, and what was set above that
    Show(Show),

    /// Set limits, from now on and across restarts
    ///
    /// Limits that are not named stay as they are. They are of the datacenter that is asked, hold at once, also for copies
    /// under way, and stand above its configuration until `reset`.
    Set(Set),

    /// Take back what was set: the configuration holds
    Reset(Show),
}

/// What `repair budget show` and `reset` take.
#[derive(Args, Debug)]
pub struct Show {
    #[command(flatten)]
    asking: Asking,
}

/// What `repair budget set` takes.
#[derive(Args, Debug)]
#[group(skip)]
pub struct Set {
    #[command(flatten)]
    limits: Limits,

    #[command(flatten)]
    asking: Asking,
}

/// The limits, each as a number or "unlimited".
#[derive(Args, Debug)]
#[group(required = true, multiple = true)]
struct Limits {
    /// Bytes read in a second for all copies, as in 50MB, 100MiB or unlimited
    ///
    /// Verify by bytes is counted too.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    bytes_per_second: Option<Limit>,

    /// The same, from each datacenter
    #[arg(long, value_name = "SIZE", value_parser = size)]
    bytes_per_source: Option<Limit>,

    /// Copies begun in a second, or unlimited
    #[arg(long, value_name = "N", value_parser = count)]
    files_per_second: Option<Limit>,

    /// Files copied at a time
    #[arg(long, value_name = "N")]
    copies_at_once: Option<u64>,

    /// The same, from each datacenter, or unlimited
    #[arg(long, value_name = "N", value_parser = count)]
    copies_per_source: Option<Limit>,
}

/// A limit; `None` for none.
type Limit = MaybeUnlimited;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct MaybeUnlimited(Option<u64>);

fn size(text: &str) -> Result<Limit, String> {
    limit(text, |text| {
        text.parse::<ByteSize>().ok().map(|size| size.as_u64())
    })
    .ok_or_else(|| "write a size such as 50MB or 100MiB, or unlimited".to_owned())
}

fn count(text: &str) -> Result<Limit, String> {
    limit(text, |text| text.parse().ok())
        .ok_or_else(|| "write a whole number, or unlimited".to_owned())
}

fn limit(text: &str, parse: impl Fn(&str) -> Option<u64>) -> Option<Limit> {
    match text.trim() {
        "unlimited" => Some(MaybeUnlimited(None)),
        text => parse(text).map(|limit| MaybeUnlimited(Some(limit))),
    }
}

const PATH: &str = "v1/repair/budget";

pub(in crate::cli) fn run(budget: Budget) -> Result<(), Failure> {
    match budget {
        Budget::Show(Show { asking }) => asking.ask(PATH, show),
        Budget::Set(Set { limits, asking }) => {
            asking.tell(Method::PUT, PATH, Some(&limits.said()), show)
        }
        Budget::Reset(Show { asking }) => asking.tell(Method::DELETE, PATH, None, show),
    }
}

impl Limits {
    /// As the API wants to be told: those that are named.
    fn said(&self) -> Value {
        let limits = [
            ("bytes_per_second", self.bytes_per_second),
            ("bytes_per_source", self.bytes_per_source),
            ("files_per_second", self.files_per_second),
            (
                "copies_at_once",
                self.copies_at_once
                    .map(|copies| MaybeUnlimited(Some(copies))),
            ),
            ("copies_per_source", self.copies_per_source),
        ];
        let named = limits
            .into_iter()
            .filter_map(|(name, limit)| Some((name.to_owned(), json!(limit?.0))));
        Value::Object(named.collect::<Map<_, _>>())
    }
}

fn show(answer: &Value) {
    for name in [
        "copies_at_once",
        "copies_per_source",
        "bytes_per_second",
        "bytes_per_source",
        "files_per_second",
    ] {
        let value = |of: &str| figure(name, &answer[of][name]);
        let set = !answer["set"][name].is_null()
            || answer["set"]
                .as_object()
                .is_some_and(|set| set.contains_key(name));
        let now = strong(value("limits"));
        let beside = match set {
            true => format!("  (set; {} is configured)", value("configured")),
            false => String::new(),
        };
        say!("  {name:<17} {now}{}", faint(beside));
    }
    for line in answer["warnings"].as_array().into_iter().flatten() {
        say!("{}: {}", bad("warning"), text(line));
    }
}

fn figure(name: &str, value: &Value) -> String {
    match value.as_u64() {
        None => "unlimited".to_owned(),
        Some(value) if name.starts_with("bytes") => bytes(value),
        Some(value) => grouped(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_sizes_numbers_or_none() {
        let set = |limit: u64| Ok(MaybeUnlimited(Some(limit)));
        assert_eq!(size("50MB"), set(50_000_000));
        assert_eq!(size("16 KiB"), set(16 << 10));
        assert_eq!(size("unlimited"), Ok(MaybeUnlimited(None)));
        assert_eq!(count("8"), set(8));
        assert!(size("fast").is_err() && count("-1").is_err() && count("1.5").is_err());
        let limits = Limits {
            bytes_per_second: Some(MaybeUnlimited(None)),
            bytes_per_source: None,
            files_per_second: None,
            copies_at_once: Some(3),
            copies_per_source: None,
        };
        assert_eq!(
            limits.said(),
            json!({ "bytes_per_second": null, "copies_at_once": 3 })
        );
    }
}
