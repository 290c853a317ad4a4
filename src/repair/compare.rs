//! Whether bytes that lie here are those that the ledger speaks of: the proof by which a file is adopted instead of copied.
//!
//! Always true: only what was looked at proves anything; a digest that the tracker keeps may be a client's claim, and is not asked for. The
//! same size proves nothing by itself. One of two things has to be added: the fid that another datacenter's replica names, where both
//! databases were one before (`repair.split_from`), and one of our storage nodes says that it has the bytes; or the digest of the bytes
//! here, all of them read, and that of theirs.
//! Never here: what follows from it (`found`, `import`).

use std::collections::BTreeSet;

use crate::file::{Checksum, Datacenter, Fid, FileName, Found, Put};
use crate::ledger::FileRecord;
use crate::trackers::Trackers;

use super::budget::Budget;
use super::fetch::{self, FetchError, Fetcher};
use super::registry::Reading;

/// Paths asked of another datacenter.
const PATHS: u32 = 8;

/// What a comparison came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Compared {
    /// They are the same.
    Same {
        found: Found,
        checksum: Option<Checksum>,
    },
    /// The tracker knows the file, and its bytes are on none of its devices.
    Absent(String),
    /// They are others.
    Different(String),
    /// It cannot be said.
    Unsure(String),
}

/// What comparing needs.
pub(super) struct Comparing<'a> {
    pub(super) here: &'a Datacenter,
    pub(super) fetcher: &'a Fetcher,
    /// What may be read at a time, and in a second.
    pub(super) budget: &'a Budget,
    pub(super) local: &'a Trackers,
    pub(super) registry: &'a Reading,
    pub(super) split_from: &'a BTreeSet<Datacenter>,
}

/// A file as the local tracker has it.
#[derive(Clone, Copy)]
pub(super) struct Ours<'a> {
    pub(super) file: &'a FileName,
    pub(super) fid: Fid,
    pub(super) size: u64,
}

impl Comparing<'_> {
    /// Compares what is here with the bytes that `put`, the head of `record`, names.
    pub(super) async fn compare(&self, ours: Ours<'_>, record: &FileRecord, put: &Put) -> Compared {
        if ours.size != put.size {
            return Compared::Different(format!(
                "fid {} has {} bytes here, where {} are expected",
                ours.fid, ours.size, put.size
            ));
        }
        let url = match self.own_url(ours).await {
            Ok(url) => url,
            Err(other) => return other,
        };
        if self.is_of_one_database(ours.fid, record, put) {
            return Compared::Same {
                found: Found::Size,
                checksum: None,
            };
        }
        let _one_of = self.budget.take_copy().await;
        let digest = match self.read(&url, put.size, self.here).await {
            Ok(digest) => digest,
            Err(error) => return Compared::Unsure(error.to_string()),
        };
        let wanted = match record.checksum() {
            Some(known) => known.clone(),
            None => match self.digest_elsewhere(ours.file, record, put).await {
                Ok(digest) => digest,
                Err(why) => return Compared::Unsure(why),
            },
        };
        match digest == wanted {
            true => Compared::Same {
                found: Found::Bytes,
                checksum: put.checksum.is_none().then_some(digest),
            },
            false => Compared::Different(format!(
                "fid {} has {digest} here, where {wanted} is expected",
                ours.fid
            )),
        }
    }

    /// Reads what one datacenter has, and keeps nothing but its digest.
    async fn read(
        &self,
        url: &reqwest::Url,
        size: u64,
        from: &Datacenter,
    ) -> Result<Checksum, FetchError> {
        let of = self.budget.source(from);
        self.fetcher.digest(url, size, self.budget, &of).await
    }

    /// Whether another datacenter holds these bytes under this very fid, given out when the two had one database.
    fn is_of_one_database(&self, fid: Fid, record: &FileRecord, put: &Put) -> bool {
        self.split_from.iter().any(|datacenter| {
            let held = record.replicas.get(datacenter);
            let held = held.and_then(|replica| replica.held.as_ref());
            held.is_some_and(|held| held.fid == fid && held.content == put.content && !held.claimed)
        })
    }

    /// Where one of our storage nodes says that it has all of the bytes.
    async fn own_url(&self, ours: Ours<'_>) -> Result<reqwest::Url, Compared> {
        let Some(here) = self.registry.datacenter(self.here) else {
            return Err(Compared::Unsure(
                "this datacenter has not told the ledger of its storage nodes".to_owned(),
            ));
        };
        let known = self.local.file_debug_by_fid(ours.fid).await;
        let known = known.map_err(|error| Compared::Unsure(error.to_string()))?;
        if known.devids.is_empty() {
            return Err(Compared::Absent(format!(
                "the tracker has fid {} on none of its devices",
                ours.fid
            )));
        }
        let (mut empty, mut silent) = (Vec::new(), Vec::new());
        for place in &known.paths {
            let url = match fetch::allowed(&place.path, &here.record, ours.fid) {
                Ok(url) => url,
                Err(why) => {
                    silent.push(why.to_string());
                    continue;
                }
            };
            match self.fetcher.length(&url).await {
                Ok(Some(length)) if length == ours.size => return Ok(url),
                Ok(Some(length)) => empty.push(format!("{url} has {length} bytes")),
                Ok(None) => empty.push(format!("nothing is at {url}")),
                Err(error) => silent.push(error.to_string()),
            }
        }
        Err(match (silent.is_empty(), empty.is_empty()) {
            (true, false) => Compared::Absent(empty.join(", ")),
            (true, true) => Compared::Unsure("the tracker names no path of it".to_owned()),
            (false, _) => Compared::Unsure(silent.join("; ")),
        })
    }

    /// Reads the bytes where they are, and keeps nothing but their digest.
    async fn digest_elsewhere(
        &self,
        file: &FileName,
        record: &FileRecord,
        put: &Put,
    ) -> Result<Checksum, String> {
        let mut whys = Vec::new();
        for (datacenter, replica) in &record.replicas {
            let held = replica
                .held
                .as_ref()
                .filter(|held| held.content == put.content && !held.claimed && !held.is_damaged());
            let (Some(held), Some(known)) = (held, self.registry.datacenter(datacenter)) else {
                continue;
            };
            let paths = match known.trackers.get_paths(file, PATHS).await {
                Ok(paths) => paths,
                Err(error) => {
                    whys.push(format!("{datacenter}: {error}"));
                    continue;
                }
            };
            for path in paths {
                let read = async {
                    let url = fetch::allowed(&path, &known.record, held.fid);
                    let url = url.map_err(|why| why.to_string())?;
                    let digest = self.read(&url, put.size, datacenter).await;
                    digest.map_err(|why| why.to_string())
                };
                match read.await {
                    Ok(digest) => return Ok(digest),
                    Err(why) => whys.push(format!("{datacenter}: {why}")),
                }
            }
        }
        Err(match whys.is_empty() {
            true => "nobody whom we can ask has the bytes to compare with".to_owned(),
            false => format!(
                "nobody gives the bytes to compare with: {}",
                whys.join("; ")
            ),
        })
    }
}
