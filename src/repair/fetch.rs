//! Bytes from one URL to another, as a stream: chunk by chunk, counted and digested on the way; or only looked at.
//!
//! Always true: memory does not grow with the file; never more bytes are passed on than were expected, and fewer are
//! an error that the receiver meets as a broken request; no redirect is followed; a transfer that
//! stands still ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt;
use md5::{Digest, Md5};
use parking_lot::Mutex;
use reqwest::{StatusCode, Url, header};

use crate::file::{Checksum, Datacenter, Fid};
use crate::ledger::DatacenterRecord;
use crate::machine::{self, Rule, keeps};

/// A transfer that moves nothing for so long is given up.
const STALL: Duration = Duration::from_secs(30);

/// After the last byte a storage node may take longer: it writes to its disk what it had in memory.
const LAST_ANSWER: Duration = Duration::from_secs(120);

/// To reach a storage node.
const CONNECT: Duration = Duration::from_secs(5);

/// Why bytes did not arrive, by whose side it was.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    /// The source's: another path or source may do.
    #[error("GET {url}: {why}")]
    Source { url: Url, why: String },
    /// Ours: another destination may do.
    #[error("PUT {url}: {why}")]
    Destination { url: String, why: String },
}

/// The client for storage nodes: it follows nothing, and goes nowhere but where it is told.
pub(super) fn http_client() -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .connect_timeout(CONNECT)
        .pool_max_idle_per_host(4)
        .pool_idle_timeout(Duration::from_secs(20))
        .http1_only()
        .build()
}

/// Why a URL that a tracker named is not fetched.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum Refused {
    /// Not the form of a file's URL.
    #[error("{path:?} is not fetched: {why}")]
    Malformed { path: String, why: &'static str },
    /// A host that the datacenter has not registered.
    #[error(
        "{host} is not a storage node that is registered for {datacenter}; is its storage_hosts complete?"
    )]
    Foreign {
        host: String,
        datacenter: Datacenter,
    },
    /// The key names other bytes by now.
    #[error("fid {named} is under this key by now, not {wanted}")]
    OtherFid { named: Fid, wanted: Fid },
}

/// A URL that a tracker named, if it may be fetched: from a storage node that its datacenter has registered, and of
/// this very fid.
pub(super) fn allowed(path: &str, record: &DatacenterRecord, wanted: Fid) -> Result<Url, Refused> {
    let malformed = |why| Refused::Malformed {
        path: path.to_owned(),
        why,
    };
    let url = Url::parse(path).map_err(|_| malformed("no URL"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(malformed("neither http nor https"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(malformed("it names a user"));
    }
    let host = match (url.host_str(), url.port_or_known_default()) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        _ => return Err(malformed("it names no host")),
    };
    if !record.storage_hosts.contains(&host) {
        return Err(Refused::Foreign {
            host,
            datacenter: record.name.clone(),
        });
    }
    match fid_of(&url) {
        Some(named) if named == wanted || !keeps(Rule::BytesOfTheFid) => Ok(url),
        Some(named) => Err(Refused::OtherFid { named, wanted }),
        None => Err(malformed("it does not end in a fid")),
    }
}

/// `…/0000500054.fid`
fn fid_of(url: &Url) -> Option<Fid> {
    let name = url.path_segments()?.next_back()?;
    let digits = name.strip_suffix(".fid")?;
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().map(Fid)
}

/// What a storage node says that it has at a URL: how many bytes, or that there is nothing.
///
/// # Errors
/// If it does not say: that it is away, or busy, or broken proves nothing.
pub(super) async fn length(http: &reqwest::Client, url: &Url) -> Result<Option<u64>, FetchError> {
    let source = |why: String| FetchError::Source {
        url: url.clone(),
        why,
    };
    let asked = tokio::time::timeout(STALL, machine::send(http.head(url.clone()))).await;
    let response = match asked {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => return Err(source(chain(&error))),
        Err(_elapsed) => return Err(source(format!("no answer within {STALL:?}"))),
    };
    match response.status() {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND | StatusCode::GONE => return Ok(None),
        status => return Err(source(format!("answered {status}"))),
    }
    let length = response.headers().get(header::CONTENT_LENGTH);
    match length.and_then(|length| length.to_str().ok()?.parse().ok()) {
        Some(length) => Ok(Some(length)),
        None => Err(source("does not say how many bytes it has".to_owned())),
    }
}

/// Reads all of a body and gives its MD5; nothing of it is kept.
pub(super) async fn digest(begun: Begun, size: u64) -> Result<Checksum, FetchError> {
    let Begun { url, response } = begun;
    let source = |why: String| FetchError::Source {
        url: url.clone(),
        why,
    };
    let mut chunks = response.bytes_stream();
    let (mut digest, mut read) = (Md5::new(), 0);
    loop {
        match tokio::time::timeout(STALL, chunks.next()).await {
            Ok(Some(Ok(chunk))) => {
                read += chunk.len() as u64;
                if read > size {
                    return Err(source(format!(
                        "has more than the {size} bytes that are expected"
                    )));
                }
                digest.update(&chunk);
            }
            Ok(None) if read == size => return Ok(Checksum::md5(&digest.finalize())),
            Ok(None) => return Err(source(format!("ended after {read} of {size} bytes"))),
            Ok(Some(Err(error))) => {
                return Err(source(format!(
                    "ended after {read} of {size} bytes: {}",
                    chain(&error)
                )));
            }
            Err(_elapsed) => return Err(source(format!("nothing moved for {STALL:?}"))),
        }
    }
}

/// An answer that has begun, with nothing of its body read.
pub(super) struct Begun {
    url: Url,
    response: reqwest::Response,
}

/// Asks for the bytes, and looks whether the answer says that it has as many as expected.
pub(super) async fn begin(
    http: &reqwest::Client,
    url: Url,
    size: u64,
) -> Result<Begun, FetchError> {
    let source = |why: String| FetchError::Source {
        url: url.clone(),
        why,
    };
    let asked = tokio::time::timeout(STALL, machine::send(http.get(url.clone()))).await;
    let response = match asked {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => return Err(source(chain(&error))),
        Err(_elapsed) => return Err(source(format!("no answer within {STALL:?}"))),
    };
    if response.status() != StatusCode::OK {
        return Err(source(format!("answered {}", response.status())));
    }
    let length = response.headers().get(header::CONTENT_LENGTH);
    if let Some(length) = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok())
        && length != size
    {
        return Err(source(format!(
            "has {length} bytes where {size} are expected"
        )));
    }
    Ok(Begun { url, response })
}

/// What is known of a transfer while it goes on.
#[derive(Default)]
struct Passing {
    digest: Mutex<Md5>,
    passed: AtomicU64,
    /// What broke on the source's side, if anything did.
    broken: Mutex<Option<String>>,
}

/// Streams the body to `to` and gives its MD5. `count` gets every byte.
pub(super) async fn pass_on(
    http: &reqwest::Client,
    begun: Begun,
    to: &str,
    size: u64,
    count: &AtomicU64,
) -> Result<Checksum, FetchError> {
    let Begun { url, response } = begun;
    let passing = Arc::new(Passing::default());
    let body = body(response, Arc::clone(&passing), size);
    let request = http
        .put(to)
        .header(header::CONTENT_LENGTH, size)
        .body(reqwest::Body::wrap_stream(body));
    let request = machine::send(request);
    let destination = |why: String| FetchError::Destination {
        url: to.to_owned(),
        why,
    };
    let answer = tokio::select! {
        biased;
        answer = request => answer,
        why = standstill(&passing, size) => return Err(match why {
            Standing::Body => FetchError::Source { url, why: format!("nothing moved for {STALL:?}") },
            Standing::Answer => destination(format!("no answer within {LAST_ANSWER:?}")),
        }),
    };
    count.fetch_add(passing.passed.load(Ordering::Relaxed), Ordering::Relaxed);
    if let Some(why) = passing.broken.lock().take() {
        return Err(FetchError::Source { url, why });
    }
    let response = answer.map_err(|error| destination(chain(&error)))?;
    if !response.status().is_success() {
        return Err(destination(format!("answered {}", response.status())));
    }
    let passed = passing.passed.load(Ordering::Relaxed);
    if passed != size {
        return Err(destination(format!(
            "answered after {passed} of {size} bytes"
        )));
    }
    let digest = std::mem::take(&mut *passing.digest.lock()).finalize();
    Ok(Checksum::md5(&digest))
}

/// The body of `response`, up to `size` bytes; an error where there are fewer or more.
fn body(
    response: reqwest::Response,
    passing: Arc<Passing>,
    size: u64,
) -> impl futures::Stream<Item = Result<bytes::Bytes, std::io::Error>> + Send + 'static {
    let chunks = response
        .bytes_stream()
        .map(Some)
        .chain(futures::stream::once(async { None }));
    chunks.filter_map(move |chunk| {
        let passing = Arc::clone(&passing);
        async move {
            let broken = |why: String| {
                *passing.broken.lock() = Some(why.clone());
                Some(Err(std::io::Error::other(why)))
            };
            let passed = passing.passed.load(Ordering::Relaxed);
            match chunk {
                Some(Ok(chunk)) => {
                    if passed + chunk.len() as u64 > size {
                        return broken(format!("has more than the {size} bytes that are expected"));
                    }
                    passing.digest.lock().update(&chunk);
                    passing
                        .passed
                        .store(passed + chunk.len() as u64, Ordering::Relaxed);
                    Some(Ok(chunk))
                }
                Some(Err(error)) => broken(format!(
                    "ended after {passed} of {size} bytes: {}",
                    chain(&error)
                )),
                None if passed < size => broken(format!("ended after {passed} of {size} bytes")),
                None => None,
            }
        }
    })
}

enum Standing {
    Body,
    Answer,
}

/// Returns when nothing has moved for too long.
async fn standstill(passing: &Passing, size: u64) -> Standing {
    let mut last = 0;
    let mut since = tokio::time::Instant::now();
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = passing.passed.load(Ordering::Relaxed);
        if now != last {
            last = now;
            since = tokio::time::Instant::now();
        } else if last < size && since.elapsed() >= STALL {
            return Standing::Body;
        } else if since.elapsed() >= LAST_ANSWER {
            return Standing::Answer;
        }
    }
}

/// An error with what caused it, on one line, and without the URL, which is said beside it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut parts = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(error) = cause {
        parts.push(error.to_string());
        cause = error.source();
    }
    // The outermost only repeats what was attempted.
    if parts.len() > 1 {
        parts.remove(0);
    }
    parts.join(": ")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::version::Version;

    fn record() -> DatacenterRecord {
        DatacenterRecord {
            name: "ma01".parse().unwrap(),
            active: true,
            trackers: Vec::new(),
            storage_hosts: BTreeSet::from(["10.0.0.1:7500".to_owned(), "10.0.0.2:80".to_owned()]),
            api: None,
            updated: Version(1),
        }
    }

    #[test]
    fn only_registered_storage_nodes_and_the_very_fid_are_fetched() {
        let allowed =
            |path: &str| allowed(path, &record(), Fid(500_054)).map(|url| url.to_string());
        let good = "http://10.0.0.1:7500/dev2/0/000/500/0000500054.fid";
        assert_eq!(allowed(good).unwrap(), good);
        assert!(allowed("http://10.0.0.2/dev2/0/000/500/0000500054.fid").is_ok());
        for bad in [
            "http://10.0.0.1:7501/dev2/0/000/500/0000500054.fid",
            "http://10.0.0.3:7500/dev2/0/000/500/0000500054.fid",
            "http://10.0.0.1:7500@evil.example/dev2/0000500054.fid",
            "http://a:b@10.0.0.1:7500/dev2/0000500054.fid",
            "file:///dev2/0/000/500/0000500054.fid",
            "ftp://10.0.0.1:7500/dev2/0/000/500/0000500054.fid",
            "http://10.0.0.1:7500/dev2/0/000/500/0000500055.fid",
            "http://10.0.0.1:7500/dev2/0/000/500/0000500054",
            "http://10.0.0.1:7500/dev2/0/000/500/+500054.fid",
            "http://10.0.0.1:7500/?/0000500054.fid",
            "http://10.0.0.1:7500/#/0000500054.fid",
            "/dev2/0/000/500/0000500054.fid",
            "",
        ] {
            assert!(allowed(bad).is_err(), "{bad} was allowed");
        }
    }
}
