//! `phylactery repair`: what the workers of repair are doing, and what they may do.

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};

use super::show::{part, text};
use super::{Asking, segment};
use crate::cli::Failure;
use crate::cli::paint::{say, strong};

/// What `repair` takes.
#[derive(Subcommand, Debug)]
pub enum Repair {
    /// Show what the workers are doing, how far they are, and how fast they may be
    Show(Show),

    /// Let a worker do nothing until it is resumed, also after restarts
    ///
    /// Clients are served, and what was changed here is told to the others, as ever. What the worker would have found
    /// waits, and nothing is forgotten meanwhile: "in sync" is not said while it matters.
    Pause(Named),

    /// Let a paused worker go on where it was
    Resume(Named),

    /// Say how fast a worker may work, from now on and after restarts
    Set(Set),

    /// Tell a worker that goes over all files (scan, verify) to begin now, or after what it is at
    Begin(Named),
}

/// What `repair show` takes.
#[derive(Args, Debug)]
pub struct Show {
    #[command(flatten)]
    asking: Asking,
}

/// A worker.
#[derive(Args, Debug)]
pub struct Named {
    /// The worker: tail, retry, scan or verify
    worker: String,

    #[command(flatten)]
    asking: Asking,
}

/// What `repair set` takes.
#[derive(Args, Debug)]
pub struct Set {
    /// The worker: tail, retry, scan or verify
    worker: String,

    /// Files that it may see to in a second: a number, "unlimited", or "default" for what the configuration says
    #[arg(long, value_name = "N", value_parser = rate, required_unless_present = "rest")]
    files_per_second: Option<Value>,

    /// Seconds that it rests after each second of work, or "default" for none; for scan and verify
    #[arg(long, value_name = "SECONDS", value_parser = rest)]
    rest: Option<Value>,

    #[command(flatten)]
    asking: Asking,
}

pub(in crate::cli) fn run(repair: Repair) -> Result<(), Failure> {
    match repair {
        Repair::Show(Show { asking }) => asking.ask("v1/repair", |answer| part("repair", answer)),
        Repair::Pause(named) => named.put(&json!({ "paused": true })),
        Repair::Resume(named) => named.put(&json!({ "paused": false })),
        Repair::Set(Set {
            worker,
            files_per_second,
            rest,
            asking,
        }) => {
            let mut body = json!({});
            if let Some(rate) = files_per_second {
                body["files_per_second"] = rate;
            }
            if let Some(rest) = rest {
                body["rest"] = rest;
            }
            Named { worker, asking }.put(&body)
        }
        Repair::Begin(named) => {
            let path = format!("{}/begin", named.path()?);
            named.asking.tell(Method::POST, &path, None, |answer| {
                say!(
                    "{} begins, or goes on to the end and begins again; see `phylactery repair show`.",
                    strong(text(&answer["asked"]))
                );
            })
        }
    }
}

impl Named {
    fn path(&self) -> Result<String, Failure> {
        let worker = segment("worker", self.worker.as_bytes())?;
        Ok(format!("v1/repair/workers/{worker}"))
    }

    fn put(&self, body: &Value) -> Result<(), Failure> {
        self.asking
            .tell(Method::PUT, &self.path()?, Some(body), changed)
    }
}

/// What the worker may do now.
fn changed(worker: &Value) {
    let mut said = match (&worker["paused"], worker["files_per_second"].as_u64()) {
        (Value::Bool(true), _) => "is paused".to_owned(),
        (_, None) => "may work as fast as it can".to_owned(),
        (_, Some(rate)) => format!("may see to {rate} files/s"),
    };
    if let Some(rest) = worker["rest"].as_f64().filter(|rest| *rest > 0.0) {
        said.push_str(&format!(", resting {rest} s after each second of work"));
    }
    say!(
        "{} {said}; kept over restarts.",
        strong(text(&worker["name"]))
    );
}

fn rate(text: &str) -> Result<Value, String> {
    match text {
        "unlimited" => Ok(json!("unlimited")),
        "default" => Ok(Value::Null),
        number => match number.parse::<u32>() {
            Ok(rate) if rate > 0 => Ok(json!(rate)),
            _ => Err("write a number of 1 or more, unlimited, or default".to_owned()),
        },
    }
}

fn rest(text: &str) -> Result<Value, String> {
    match text {
        "default" => Ok(Value::Null),
        number => match number.parse::<f64>() {
            Ok(rest) if rest.is_finite() && rest >= 0.0 => Ok(json!(rest)),
            _ => Err("write seconds such as 0.5, or default".to_owned()),
        },
    }
}
