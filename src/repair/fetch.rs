//! Bytes from a URL, and bytes to one, as streams: chunk by chunk, and counted; or only looked at.
//!
//! Always true: memory does not grow with the file; never more bytes come out than were expected; what is asked for from its middle begins
//! where it was asked, or at its beginning, and says which; no redirect is followed; a transfer that
//! stands still ends. There is a time for reaching a host, for its first byte, and for standing still, and none for the whole.
//! Never here: which URL is asked, and what happens when one breaks (`supply`).

use bytes::Bytes;
use futures::stream;
use md5::{Digest, Md5};
use reqwest::header::{self, HeaderValue};
use reqwest::{StatusCode, Url};
use tokio::sync::mpsc;
use tokio::time::{Duration, timeout};

use crate::config::Patience;
use crate::file::{Checksum, Datacenter, Fid};
use crate::ledger::DatacenterRecord;
use crate::machine;

use super::budget::{Budget, OfSource};

/// How long an unused connection is kept; storage nodes close theirs after a little more.
const IDLE: Duration = Duration::from_secs(20);

/// Connections to one host that are kept for the next file.
const KEPT: usize = 64;

/// Why bytes did not arrive, by whose side it was.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    /// The source's, whatever is asked of it: it is not reached, does not answer, or says that it is sick.
    #[error("GET {url}: {why}")]
    Away { url: Url, why: String },
    /// The source's, for these bytes: another path or source may do.
    #[error("GET {url}: {why}")]
    Source { url: Url, why: String },
    /// Ours: another destination may do.
    #[error("PUT {url}: {why}")]
    Destination { url: String, why: String },
}

/// What goes to and comes from storage nodes.
pub(super) struct Fetcher {
    /// It follows nothing, and goes nowhere but where it is told.
    http: reqwest::Client,
    pub(super) patience: Patience,
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
        Some(named) if named == wanted => Ok(url),
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

impl Fetcher {
    pub(super) fn new(patience: Patience) -> Result<Fetcher, reqwest::Error> {
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(patience.connect)
            .pool_max_idle_per_host(KEPT)
            .pool_idle_timeout(IDLE)
            .tcp_nodelay(true)
            .http1_only()
            .build()?;
        Ok(Fetcher { http, patience })
    }

    /// Reads all bytes, within the budget, and gives their MD5; nothing of them is kept.
    pub(super) async fn digest(
        &self,
        url: &Url,
        size: u64,
        budget: &Budget,
        of: &OfSource,
    ) -> Result<Checksum, FetchError> {
        let mut begun = self.begin(url, 0, size).await?;
        let mut digest = Md5::new();
        while let Some(chunk) = begun.chunk().await? {
            budget.take_bytes(of, chunk.len() as u64).await;
            digest.update(&chunk);
        }
        Ok(Checksum::md5(&digest.finalize()))
    }

    /// Sends a request that a source is to answer soon.
    async fn ask(
        &self,
        request: reqwest::RequestBuilder,
        url: &Url,
    ) -> Result<reqwest::Response, FetchError> {
        let away = |why: String| FetchError::Away {
            url: url.clone(),
            why,
        };
        let limit = self.patience.first_byte;
        let response = match timeout(limit, machine::send(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(away(chain(&error))),
            Err(_elapsed) => return Err(away(format!("no answer within {limit:?}"))),
        };
        let status = response.status();
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            return Err(away(format!("answered {status}")));
        }
        Ok(response)
    }

    /// What a storage node says that it has at a URL: how many bytes, or that there is nothing.
    ///
    /// # Errors
    /// If it does not say: that it is away, or busy, or broken proves nothing.
    pub(super) async fn length(&self, url: &Url) -> Result<Option<u64>, FetchError> {
        let source = |why: String| FetchError::Source {
            url: url.clone(),
            why,
        };
        let response = self.ask(self.http.head(url.clone()), url).await?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND | StatusCode::GONE => return Ok(None),
            status => return Err(source(format!("answered {status}"))),
        }
        match number(response.headers().get(header::CONTENT_LENGTH)) {
            Some(length) => Ok(Some(length)),
            None => Err(source("does not say how many bytes it has".to_owned())),
        }
    }

    /// Asks for the bytes from `from` on, and looks whether the answer says that there are `size` in all. One who cannot begin in the
    /// middle begins at the beginning: see [`Begun::at`].
    pub(super) async fn begin(&self, url: &Url, from: u64, size: u64) -> Result<Begun, FetchError> {
        let source = |why: String| FetchError::Source {
            url: url.clone(),
            why,
        };
        let mut request = self.http.get(url.clone());
        if from > 0 {
            request = request.header(header::RANGE, format!("bytes={from}-"));
        }
        let response = self.ask(request, url).await?;
        let at = match response.status() {
            StatusCode::OK => 0,
            StatusCode::PARTIAL_CONTENT if from > 0 => {
                let range = response.headers().get(header::CONTENT_RANGE);
                let range = range.and_then(|range| range.to_str().ok());
                match range.and_then(Range::parse) {
                    Some(range) if range.is_rest(from, size) => from,
                    _ => {
                        return Err(source(format!(
                            "answered with the range {:?} where that from byte {from} of {size} on was asked for",
                            range.unwrap_or_default()
                        )));
                    }
                }
            }
            status => return Err(source(format!("answered {status}"))),
        };
        if let Some(length) = number(response.headers().get(header::CONTENT_LENGTH))
            && length != size - at
        {
            return Err(source(format!(
                "has {length} bytes where {} are expected",
                size - at
            )));
        }
        Ok(Begun {
            url: url.clone(),
            response,
            at,
            size,
            stall: self.patience.stall,
        })
    }

    /// Stores `size` bytes, which come through `chunks`, at a URL of ours.
    pub(super) async fn put(
        &self,
        to: &str,
        size: u64,
        mut chunks: mpsc::Receiver<Bytes>,
    ) -> Result<(), FetchError> {
        let destination = |why: String| FetchError::Destination {
            url: to.to_owned(),
            why,
        };
        let body = stream::poll_fn(move |context| {
            let chunk = std::task::ready!(chunks.poll_recv(context));
            std::task::Poll::Ready(chunk.map(Ok::<_, std::convert::Infallible>))
        });
        let request = self
            .http
            .put(to)
            .header(header::CONTENT_LENGTH, size)
            .body(reqwest::Body::wrap_stream(body));
        let response = machine::send(request)
            .await
            .map_err(|error| destination(chain(&error)))?;
        match response.status() {
            status if status.is_success() => Ok(()),
            status => Err(destination(format!("answered {status}"))),
        }
    }
}

/// `bytes 5-99/100`
struct Range {
    first: u64,
    last: u64,
    /// Not all say it.
    size: Option<u64>,
}

impl Range {
    fn parse(text: &str) -> Option<Range> {
        let (range, size) = text.strip_prefix("bytes ")?.trim().split_once('/')?;
        let (first, last) = range.split_once('-')?;
        Some(Range {
            first: first.trim().parse().ok()?,
            last: last.trim().parse().ok()?,
            size: match size.trim() {
                "*" => None,
                size => Some(size.parse().ok()?),
            },
        })
    }

    fn is_rest(&self, from: u64, size: u64) -> bool {
        self.first == from
            && self.last.checked_add(1) == Some(size)
            && self.size.is_none_or(|said| said == size)
    }
}

fn number(header: Option<&HeaderValue>) -> Option<u64> {
    header?.to_str().ok()?.parse().ok()
}

/// An answer that has begun.
pub(super) struct Begun {
    url: Url,
    response: reqwest::Response,
    /// Where its next byte stands in the file.
    at: u64,
    size: u64,
    stall: Duration,
}

impl Begun {
    /// Where its next byte stands in the file.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    /// The next bytes. `None`: all have come, and no more.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, FetchError> {
        let Begun {
            url,
            response,
            at,
            size,
            stall,
        } = self;
        let source = |why: String| FetchError::Source {
            url: url.clone(),
            why,
        };
        match timeout(*stall, response.chunk()).await {
            Ok(Ok(Some(chunk))) => {
                *at += chunk.len() as u64;
                match *at > *size {
                    true => Err(source(format!(
                        "has more than the {size} bytes that are expected"
                    ))),
                    false => Ok(Some(chunk)),
                }
            }
            Ok(Ok(None)) if at == size => Ok(None),
            Ok(Ok(None)) => Err(source(format!("ended after {at} of {size} bytes"))),
            Ok(Err(error)) => Err(source(format!(
                "ended after {at} of {size} bytes: {}",
                chain(&error)
            ))),
            Err(_elapsed) => Err(FetchError::Away {
                url: url.clone(),
                why: format!("nothing moved for {stall:?} after {at} of {size} bytes"),
            }),
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
            trackers: Vec::new(),
            storage_hosts: BTreeSet::from(["10.0.0.1:7500".to_owned(), "10.0.0.2:80".to_owned()]),
            api: None,
            updated: Version(1),
        }
    }

    #[test]
    fn a_range_is_what_was_asked_for() {
        let is_rest = |text: &str| Range::parse(text).is_some_and(|range| range.is_rest(5, 100));
        assert!(is_rest("bytes 5-99/100"));
        assert!(is_rest("bytes 5-99/*"));
        for bad in [
            "bytes 4-99/100",
            "bytes 5-98/100",
            "bytes 5-99/101",
            "bytes 5-100/100",
            "bytes */100",
            "bytes 5-18446744073709551615/100",
            "5-99/100",
            "",
        ] {
            assert!(!is_rest(bad), "{bad}");
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
