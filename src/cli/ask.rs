//! `phylactery status`, `accept`, `file show`, `explain`, `gaps`, `placement` and `repair`: they ask the HTTP API, and know nothing that it does not say.

pub(super) mod placement;
pub(super) mod repair;
mod show;

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use clap::{Args, Subcommand};
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use reqwest::{Method, Url};
use serde_json::Value;

use super::{Failure, runtime};

/// How long an answer may take: longer than the API gives the ledger.
const LIMIT: Duration = Duration::from_secs(30);

/// Where to ask, and how to show the answer.
#[derive(Args, Debug)]
pub struct Asking {
    /// The HTTP API to ask, that is [api] listen of the datacenter that you want to know about
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    api: String,

    /// Print the API's JSON as it is
    #[arg(long)]
    json: bool,
}

/// What `status` takes.
#[derive(Args, Debug)]
pub struct Status {
    #[command(flatten)]
    asking: Asking,
}

/// What `accept` takes.
#[derive(Args, Debug)]
pub struct Accept {
    #[command(flatten)]
    asking: Asking,

    /// Accept what is shown; without it nothing is changed
    #[arg(long)]
    yes: bool,
}

/// What `gaps` takes.
#[derive(Args, Debug)]
pub struct Gaps {
    #[command(flatten)]
    asking: Asking,

    /// Show at most so many
    #[arg(long, value_name = "N", default_value_t = 1000)]
    limit: usize,
}

/// What `file` takes.
#[derive(Subcommand, Debug)]
pub enum File {
    /// Show what is known of one file
    ///
    /// Its newest revision, which datacenters hold it, where it is due, and where it is missing.
    Show(Show),
}

/// A file by its name.
#[derive(Args, Debug)]
struct Named {
    /// The domain
    domain: OsString,

    /// The key, as clients give it: any bytes, not escaped
    key: OsString,
}

/// What `file show` takes.
#[derive(Args, Debug)]
pub struct Show {
    #[command(flatten)]
    file: Named,

    #[command(flatten)]
    asking: Asking,
}

/// What `explain` takes.
#[derive(Args, Debug)]
pub struct Explain {
    #[command(flatten)]
    file: Named,

    #[command(flatten)]
    asking: Asking,
}

pub(super) fn status(arguments: Status) -> Result<(), Failure> {
    arguments.asking.ask("v1/status", show::status)
}

/// What is accepted is what is shown: should the doubt be another one by then, the API refuses.
pub(super) fn accept(arguments: Accept) -> Result<(), Failure> {
    let Accept { asking, yes } = arguments;
    let runtime = runtime()?;
    let status = runtime.block_on(asking.fetch("v1/status"))?;
    let doubt = &status["doubt"];
    if !asking.json {
        show::doubt(&status);
    }
    let id = match doubt["id"].as_str() {
        Some(id) if yes => id,
        Some(_) | None => {
            if asking.json {
                super::paint::say!("{doubt:#}");
            } else if doubt.is_object() {
                super::paint::say!("Nothing is changed; --yes accepts it.");
            }
            return Ok(());
        }
    };
    let body = serde_json::json!({ "id": id });
    let answer = runtime.block_on(asking.send(Method::POST, "v1/doubt/accept", Some(&body)))?;
    if asking.json {
        super::paint::say!("{answer:#}");
    } else {
        show::accepted(&answer);
    }
    Ok(())
}

pub(super) fn gaps(arguments: Gaps) -> Result<(), Failure> {
    let path = format!("v1/gaps?limit={}", arguments.limit);
    arguments.asking.ask(&path, show::gaps)
}

pub(super) fn file(arguments: Show) -> Result<(), Failure> {
    let Show { file, asking } = arguments;
    asking.ask(&file.path("v1/files", &asking.api)?, show::file)
}

pub(super) fn explain(arguments: Explain) -> Result<(), Failure> {
    let Explain { file, asking } = arguments;
    asking.ask(&file.path("v1/explain", &asking.api)?, show::explained)
}

impl Named {
    /// Where a call of the API has it.
    fn path(&self, call: &str, api: &str) -> Result<String, Failure> {
        let (domain, key) = (self.domain.as_bytes(), self.key.as_bytes());
        if domain.is_empty() || key.is_empty() {
            return Err(Failure::Usage("a domain or key is never empty".to_owned()));
        }
        let path = |key: &str| format!("{call}/{}/{key}", encoded(domain));
        if is_dots(key) {
            return Err(Failure::Usage(format!(
                "the key {key} cannot stand in a URL as other programs read them; ask with \
                 `curl --path-as-is {}/{}`",
                api.trim_end_matches('/'),
                path(&self.key.to_string_lossy()),
                key = self.key.display(),
            )));
        }
        Ok(path(&encoded(key)))
    }
}

fn encoded(name: &[u8]) -> String {
    percent_encode(name, NON_ALPHANUMERIC).to_string()
}

/// However they are encoded, URLs take these two for steps through folders.
fn is_dots(name: &[u8]) -> bool {
    matches!(name, b"." | b"..")
}

/// A name as a part of a path. `what`: what it is the name of.
fn segment(what: &str, name: &[u8]) -> Result<String, Failure> {
    if name.is_empty() {
        return Err(Failure::Usage(format!("a {what} is never empty")));
    }
    if is_dots(name) {
        return Err(Failure::Usage(format!(
            "the {what} {} cannot stand in a URL as other programs read them",
            name.escape_ascii()
        )));
    }
    Ok(encoded(name))
}

impl Asking {
    fn ask(&self, path: &str, show: fn(&Value)) -> Result<(), Failure> {
        self.tell(Method::GET, path, None, show)
    }

    fn tell(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        show: fn(&Value),
    ) -> Result<(), Failure> {
        let answer = runtime()?.block_on(self.send(method, path, body))?;
        if self.json {
            super::paint::say!("{answer:#}");
        } else {
            show(&answer);
        }
        Ok(())
    }

    async fn fetch(&self, path: &str) -> Result<Value, Failure> {
        self.send(Method::GET, path, None).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, Failure> {
        let base = self.api.trim_end_matches('/');
        let wrong = |why: &dyn std::fmt::Display| {
            Failure::Usage(format!(
                "--api {base}: {why}; write a URL such as http://127.0.0.1:8080"
            ))
        };
        let url = Url::parse(&format!("{base}/{path}")).map_err(|error| wrong(&error))?;
        if url.scheme() != "http" {
            return Err(wrong(&"not an http URL"));
        }
        let unreachable = |error: reqwest::Error| {
            Failure::Unreachable(format!(
                "cannot reach the API at {base}: {}; is `phylactery run` or `phylactery demo` running there?",
                root_cause(&error)
            ))
        };
        let client = reqwest::Client::builder().no_proxy().timeout(LIMIT).build();
        let client = client.map_err(|error| anyhow::Error::new(error).context("make a client"))?;
        let request = client.request(method, url);
        let request = match body {
            None => request,
            Some(body) => request.json(body),
        };
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let body = response.bytes().await.map_err(unreachable)?;
        let answer: Option<Value> = serde_json::from_slice(&body).ok();
        match answer {
            Some(answer) if status.is_success() => Ok(answer),
            Some(answer) if answer["message"].is_string() => Err(Failure::Failed(anyhow::anyhow!(
                "{}",
                super::paint::plain(answer["message"].as_str().unwrap_or_default())
            ))),
            _ => Err(Failure::Failed(anyhow::anyhow!(
                "{base} answered {status}, and not as the API of phylactery does: is it another service?"
            ))),
        }
    }
}

/// The innermost cause: "Connection refused" says more than what stands around it.
fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    if error.is_timeout() {
        return format!("no answer within {} s", LIMIT.as_secs());
    }
    cause.to_string()
}
