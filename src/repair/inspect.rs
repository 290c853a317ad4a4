//! Looking at one file that the ledger says is here: does the tracker agree, is the size right, and on request the bytes.
//!
//! Always true: only an answer proves anything. "Not there" is not "deleted", and a tracker that does not answer, any error but
//! `unknown_key`, a list without a path, and a storage node that is away say nothing at all. Only the master database is
//! asked (`file_debug`). A good look leaves a proof in the ledger, a bad one nothing: it has to be as bad a second time.
//! Never here: deciding what to do about it (`verify`), or changing anything here.

use mogilefs_protocol::client::Destination;
use reqwest::Url;

use crate::config::VerifyBy;
use crate::file::{Checksum, Class, Fid, FileName, Found, Held, Put};
use crate::journal::{living, settle::Row};
use crate::ledger::{LedgerError, Strength};
use crate::trackers::TrackerError;

use super::fetch::{self, FetchError};
use super::proof::said_to_be_here;
use super::reconcile::{NotDone, Reconciler, View};

/// What a look came to.
#[derive(Debug)]
pub(super) enum Seen {
    /// It is as it should be, and the ledger has the proof.
    Good,
    Bad(Bad),
    /// Somebody changed it past the proxy.
    Past(Past),
    /// The ledger does not say that it is here, or not any more.
    Moot,
    /// It cannot be said, for this reason.
    Unsure(String),
    /// The tracker does not answer, which may go for all files.
    TrackerAway(String),
}

/// What somebody did to a file past the proxy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Past {
    /// Other bytes are under the key, or its class is another.
    Changed,
    /// Its fid is under another key.
    Renamed(Row),
}

/// A file that is not as it should be.
#[derive(Clone, Debug)]
pub(super) struct Bad {
    /// What it was believed to be here.
    pub(super) fid: Fid,
    pub(super) lacks: Lacks,
    why: String,
}

/// What is missing of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lacks {
    /// The tracker does not know the key.
    File,
    /// It does, and the bytes are not there, or are others.
    Bytes,
}

impl Bad {
    /// Whether a second look has found the same.
    pub(super) fn is_as(&self, before: &Bad) -> bool {
        (self.fid, self.lacks) == (before.fid, before.lacks)
    }
}

impl std::fmt::Display for Bad {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let word = match self.lacks {
            Lacks::File => "missing",
            Lacks::Bytes => "damaged",
        };
        write!(f, "{word} here: {}", self.why)
    }
}

impl Reconciler {
    /// Looks at one file.
    ///
    /// # Errors
    /// The ledger's, when it is away.
    pub(super) async fn inspect(&self, file: &FileName, by: VerifyBy) -> Result<Seen, LedgerError> {
        match self.try_inspect(file, by).await {
            Ok(seen) => Ok(seen),
            Err(NotDone::LedgerAway(error)) => Err(error),
            Err(NotDone::Later(why) | NotDone::Crowded(why) | NotDone::Failed(why)) => {
                Ok(Seen::Unsure(why))
            }
        }
    }

    async fn try_inspect(&self, file: &FileName, by: VerifyBy) -> Result<Seen, NotDone> {
        let Some(_alone) = self.alone_at(file).await else {
            return Ok(Seen::Unsure("another worker is at it".into()));
        };
        let view = self.look(file, Strength::Local).await?;
        let Some((put, held)) = said_to_be_here(&view.record, &self.datacenter) else {
            return Ok(Seen::Moot);
        };
        // That its size is right says nothing of one whose bytes are known to be wrong.
        if by == VerifyBy::Size && held.is_damaged() {
            return Ok(Seen::Moot);
        }
        let known = match self.local.file_debug_by_key(file).await {
            Ok(known) => known,
            Err(error) => return Ok(no_answer(error)),
        };
        let Some(known) = known else {
            return Ok(self.is_gone(held).await);
        };
        let Some(row) = &known.file else {
            return Ok(Seen::Unsure(
                "the tracker knows the key, but not which fid it names".into(),
            ));
        };
        let changed = row.fid != held.fid.0 || Class::from_bytes(&row.class) != held.class;
        if changed && self.takes_in() {
            return Ok(Seen::Past(Past::Changed));
        }
        if row.fid != held.fid.0 {
            return Ok(Seen::Unsure(format!(
                "the tracker holds fid {} under this key, where fid {} was expected: stored past the proxy? It is not touched",
                row.fid, held.fid
            )));
        }
        if row.length != put.size {
            let why = format!(
                "fid {} has {} bytes for the tracker, where {} are expected",
                row.fid, row.length, put.size
            );
            return Ok(bad(held, Lacks::Bytes, why));
        }
        if known.devids.is_empty() {
            let why = format!("the tracker has fid {} on none of its devices", row.fid);
            return Ok(bad(held, Lacks::Bytes, why));
        }
        self.look_at_bytes(&view, put, held, &known.paths, by).await
    }

    /// Of a key that the tracker does not know: before it is called missing, asks where its fid is now.
    async fn is_gone(&self, held: &Held) -> Seen {
        match self.local.file_debug_by_fid(held.fid).await {
            Ok(known) => match living(&known) {
                Some(row) if self.takes_in() => Seen::Past(Past::Renamed(row)),
                Some(row) => Seen::Unsure(format!(
                    "the tracker has its fid {} under the key {} now: renamed past the proxy? It is not touched",
                    held.fid, row.file
                )),
                None => {
                    let why = format!(
                        "the tracker does not know the key any more, under which it held fid {}",
                        held.fid
                    );
                    bad(held, Lacks::File, why)
                }
            },
            Err(error) => no_answer(error),
        }
    }

    /// Asks the storage nodes, one after the other until one has it.
    async fn look_at_bytes(
        &self,
        view: &View,
        put: &Put,
        held: &Held,
        paths: &[Destination],
        by: VerifyBy,
    ) -> Result<Seen, NotDone> {
        let registry = self.registry().await?;
        let Some(here) = registry.datacenter(&self.datacenter) else {
            return Ok(Seen::Unsure(
                "this datacenter has not told the ledger of its storage nodes".into(),
            ));
        };
        // Another datacenter's computation is no judge of ours: only one of the two may be right, and nobody knows which.
        let wanted = put.checksum.as_ref().or(held.checksum());
        let (mut empty, mut silent) = (Vec::new(), Vec::new());
        for Destination { path, .. } in paths {
            let url = match fetch::allowed(path, &here.record, held.fid) {
                Ok(url) => url,
                Err(why) => {
                    silent.push(why.to_string());
                    continue;
                }
            };
            match self.fetcher.length(&url).await {
                Ok(Some(length)) if length == put.size => {}
                Ok(Some(length)) => {
                    let why = format!("{url} has {length} bytes, where {} are expected", put.size);
                    return Ok(bad(held, Lacks::Bytes, why));
                }
                Ok(None) => {
                    empty.push(url.to_string());
                    continue;
                }
                Err(error) => {
                    silent.push(error.to_string());
                    continue;
                }
            }
            if by == VerifyBy::Size {
                let before = held.checksum().cloned();
                return self.is_good(view, held, Found::Size, before).await;
            }
            match self.digest(&url, put.size).await {
                Ok(digest) if wanted.is_none_or(|wanted| *wanted == digest) => {
                    self.compare(view, put, &digest);
                    // What the head says already need not be said again.
                    let computed = put.checksum.is_none().then_some(digest);
                    return self.is_good(view, held, Found::Bytes, computed).await;
                }
                Ok(digest) => {
                    let wanted = wanted.map(ToString::to_string).unwrap_or_default();
                    let why =
                        format!("the bytes at {url} have {digest}, where {wanted} is expected");
                    return Ok(bad(held, Lacks::Bytes, why));
                }
                Err(error) => silent.push(error.to_string()),
            }
        }
        Ok(match (silent.is_empty(), empty.is_empty()) {
            (true, true) => Seen::Unsure("the tracker names no path of it".into()),
            (true, false) => {
                let why = format!("nothing is at {}", empty.join(", nor at "));
                bad(held, Lacks::Bytes, why)
            }
            (false, _) => Seen::Unsure(silent.join("; ")),
        })
    }

    /// Reads all bytes, within the budget, and gives their MD5; nothing of them is kept.
    async fn digest(&self, url: &Url, size: u64) -> Result<Checksum, FetchError> {
        let here = self.budget.source(&self.datacenter);
        self.fetcher.digest(url, size, &self.budget, &here).await
    }

    async fn is_good(
        &self,
        view: &View,
        held: &Held,
        found: Found,
        checksum: Option<Checksum>,
    ) -> Result<Seen, NotDone> {
        Ok(match self.prove(view, held, found, checksum).await? {
            true => Seen::Good,
            false => Seen::Unsure("it was changed here while it was looked at".into()),
        })
    }

    /// Where no head says what the bytes should be, datacenters may differ, and nobody knows who is right.
    fn compare(&self, view: &View, put: &Put, digest: &Checksum) {
        if put.checksum.is_some() {
            return;
        }
        for (datacenter, replica) in &view.record.replicas {
            let other = replica.held.as_ref().filter(|held| {
                *datacenter != self.datacenter && held.content == put.content && !held.claimed
            });
            if let Some(other) = other.and_then(Held::checksum)
                && other != digest
            {
                tracing::error!(
                    file = %view.file,
                    "the bytes here have {digest}, those in {datacenter} {other}, and nobody knows which are right: neither is touched"
                );
            }
        }
    }
}

fn bad(held: &Held, lacks: Lacks, why: String) -> Seen {
    Seen::Bad(Bad {
        fid: held.fid,
        lacks,
        why,
    })
}

fn no_answer(error: TrackerError) -> Seen {
    match error {
        TrackerError::Refused { .. } => Seen::Unsure(error.to_string()),
        TrackerError::NotReached { .. } | TrackerError::Lost { .. } => {
            Seen::TrackerAway(error.to_string())
        }
    }
}
