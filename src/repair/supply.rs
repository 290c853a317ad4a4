//! The bytes of one content, in order, from whoever gives them: all paths of a source, and then the next source.
//!
//! One who breaks in the middle is taken over from where it broke: the same path again while it gets on, another one, another datacenter;
//! whoever waits for the bytes sees nothing of it. What one gives who cannot begin in the middle is read from its beginning, and what lies before
//! is compared with what was given already.
//!
//! Always true: only from hosts that the source's registry entry allows, and of the fid that its replica names; never more bytes than the head
//! says. Bytes of several datacenters are put together only where their digest is known; if it is wrong then, each has to give all of
//! them. Whoever gave nothing of use is named, with the reason.
//! Never here: where the bytes go (`copy`).
//! Killed in the middle: nothing is kept.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use md5::{Digest, Md5};
use reqwest::Url;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use crate::file::{Checksum, Datacenter, Fid, FileName, Put};

use super::budget::{Budget, OfSource, Slot};
use super::fetch::{self, Begun, FetchError, Fetcher, Refused};
use super::reconcile::NotDone;
use super::registry::Known;
use super::sources::Sources;
use super::status::CopyFigures;

/// Paths asked of a source: as many as a file is likely to have copies.
pub(super) const PATHS: u32 = 8;

/// How the last error of a gap begins that was left because nobody gave the bytes.
pub(super) const NO_SOURCE: &str = "no datacenter gives these bytes: ";

/// Who gave so much before it broke is asked again, however often: it gets on.
const GETS_ON: u64 = 1 << 20;

/// Reasons that are kept: those of the first, and the last one.
const WHYS: usize = 20;

/// Somewhere that the bytes can be had from.
#[derive(Clone)]
pub(super) struct Source {
    pub(super) known: Known,
    pub(super) file: FileName,
    pub(super) fid: Fid,
}

impl Source {
    pub(super) fn name(&self) -> &Datacenter {
        &self.known.record.name
    }
}

/// What a supply works with.
#[derive(Clone, Copy)]
pub(super) struct Means<'a> {
    pub(super) fetcher: &'a Fetcher,
    pub(super) sources: &'a Sources,
    pub(super) budget: &'a Budget,
    pub(super) figures: &'a CopyFigures,
}

/// The bytes of one content.
pub(super) struct Supply<'a> {
    means: Means<'a>,
    size: u64,
    wanted: Option<Checksum>,
    all: Vec<Source>,
    /// Those that were not asked yet.
    left: VecDeque<Source>,
    asked: Option<Asked>,
    /// Paths of the source that is being asked.
    paths: VecDeque<Path>,
    open: Option<Open>,
    /// What was given, and its digest so far.
    given: u64,
    digest: Md5,
    /// Who gave it, each once.
    givers: Vec<(Datacenter, Url)>,
    /// Each has to give all: what several gave together was wrong.
    whole_only: bool,
    missed: Missed,
}

/// The source that is being asked.
struct Asked {
    source: Source,
    budget: Arc<OfSource>,
    _place: Slot,
}

struct Path {
    url: Url,
    /// It was asked already, and broke.
    again: bool,
}

/// An answer that is being read.
struct Open {
    begun: Begun,
    path: Path,
    since: Instant,
    gave: u64,
    /// For how long it was waited for the budget.
    held_back: Duration,
    /// Of what was read in order to be compared, the rest.
    ahead: Option<Bytes>,
}

/// Why no source has given the bytes so far.
#[derive(Default)]
struct Missed {
    whys: Vec<String>,
    /// A source has other bytes under the key than its replica names.
    moved_on: bool,
    /// Somebody was asked, and did not give them.
    tried: bool,
    /// A source would be too slow for an upload.
    too_slow: bool,
}

impl Missed {
    fn note(&mut self, why: String) {
        if self.whys.len() >= WHYS {
            self.whys.pop();
        }
        self.whys.push(why);
    }
}

/// Nobody gives the rest.
#[derive(Debug)]
pub(super) struct Nobody;

/// Why not all bytes went on.
#[derive(Debug)]
pub(super) enum Unfilled {
    /// Nobody gives the rest, or not soon enough.
    Nobody,
    /// Whoever takes them does not take any for this time.
    NotTaken(Duration),
    /// Nobody takes them any more.
    Gone,
}

/// Until when all bytes have to be given.
#[derive(Clone, Copy)]
pub(super) struct Until {
    pub(super) began: Instant,
    /// From then on.
    pub(super) within: Duration,
    /// After which time it can be told whether that will do.
    pub(super) judge_after: Duration,
}

impl<'a> Supply<'a> {
    pub(super) fn new(
        means: Means<'a>,
        put: &Put,
        wanted: Option<Checksum>,
        sources: Vec<Source>,
    ) -> Supply<'a> {
        Supply {
            means,
            size: put.size,
            wanted,
            left: sources.clone().into(),
            all: sources,
            asked: None,
            paths: VecDeque::new(),
            open: None,
            given: 0,
            digest: Md5::new(),
            givers: Vec::new(),
            whole_only: false,
            missed: Missed::default(),
        }
    }

    /// Opens the next place that gives what is not given yet. From whom; `None` if nobody does.
    pub(super) async fn open(&mut self) -> Option<Datacenter> {
        while self.open.is_none() {
            if self.whole_only && self.given > 0 {
                return None;
            }
            match self.paths.pop_front() {
                Some(path) => self.open_at(path).await,
                None => self.ask_next().await.then_some(())?,
            }
        }
        Some(self.asked.as_ref()?.source.name().clone())
    }

    /// Gives all bytes, in order.
    pub(super) async fn fill(
        &mut self,
        to: mpsc::Sender<Bytes>,
        until: Until,
    ) -> Result<(), Unfilled> {
        let mut judge_at = until.began + until.judge_after;
        while let Some(chunk) = self.next().await.map_err(|Nobody| Unfilled::Nobody)? {
            send(&to, chunk, self.means.fetcher.patience.stall).await?;
            if Instant::now() >= judge_at && self.given < self.size {
                judge_at = Instant::now() + until.judge_after;
                let elapsed = until.began.elapsed();
                let rate = self.given as f64 / elapsed.as_secs_f64();
                if elapsed.as_secs_f64() + (self.size - self.given) as f64 / rate
                    > until.within.as_secs_f64()
                {
                    self.is_too_slow(rate, until.within);
                    return Err(Unfilled::Nobody);
                }
            }
        }
        Ok(())
    }

    /// The next bytes; `None` when all were given.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Nobody> {
        while self.given < self.size {
            if self.open.is_none() && self.open().await.is_none() {
                return Err(Nobody);
            }
            if let (Some(open), Some(asked)) = (&mut self.open, &self.asked) {
                match open.read(self.given, self.size).await {
                    Ok(chunk) => {
                        let count = chunk.len() as u64;
                        let waiting = Instant::now();
                        self.means.budget.take_bytes(&asked.budget, count).await;
                        open.held_back += waiting.elapsed();
                        open.gave += count;
                        let giver = (asked.source.name(), open.begun.url());
                        if self.givers.last().map(|(name, url)| (name, url)) != Some(giver) {
                            self.givers.push((giver.0.clone(), giver.1.clone()));
                        }
                        self.digest.update(&chunk);
                        self.given += count;
                        self.means.figures.count_bytes(count);
                        if self.given == self.size || open.gave >= GETS_ON {
                            let host = host(open.begun.url());
                            self.means.sources.host_works(asked.source.name(), &host);
                        }
                        if self.given == self.size {
                            self.leave();
                        }
                        return Ok(Some(chunk));
                    }
                    Err(error) => self.broke(error),
                }
            }
        }
        Ok(None)
    }

    /// The digest of all that was given, if it is right. `None`: it is wrong, and who gave it is named.
    pub(super) fn checksum(&mut self) -> Option<Checksum> {
        let checksum = Checksum::md5(&self.digest.clone().finalize());
        let Some(wanted) = self.wanted.clone().filter(|wanted| *wanted != checksum) else {
            return Some(checksum);
        };
        let who: Vec<String> = self.givers.iter().map(|(_, url)| url.to_string()).collect();
        match self.givers.last() {
            Some((name, url)) if who.len() == 1 => {
                let why = format!("the bytes at {url} have {checksum} where {wanted} is expected");
                self.is_of_no_use(&name.clone(), why);
            }
            // One of them is wrong: each on its own will show.
            _ => {
                self.missed.note(format!(
                    "the bytes of {} put together have {checksum} where {wanted} is expected",
                    who.join(" and ")
                ));
                self.whole_only = true;
                self.ask_all();
            }
        }
        None
    }

    /// Begins again with the first byte, at the places that were not asked yet.
    pub(super) fn restart(&mut self) {
        self.leave();
        self.given = 0;
        self.digest = Md5::new();
        self.givers.clear();
    }

    /// Begins again with the first byte, as nothing was wrong with the sources: at the place where it is, else at the first.
    pub(super) fn rewind(&mut self) {
        match self.leave() {
            Some(open) => self.paths.push_front(Path {
                again: false,
                ..open.path
            }),
            None => self.ask_all(),
        }
        self.restart();
    }

    fn ask_all(&mut self) {
        self.paths.clear();
        self.asked = None;
        self.left = self.all.clone().into();
    }

    /// All are asked again, for what comes behind what is `given` already.
    pub(super) fn ask_all_behind(&mut self, given: u64, digest: Md5) {
        self.restart();
        self.ask_all();
        self.missed = Missed::default();
        (self.given, self.digest) = (given, digest);
    }

    /// Whether it can be known that what several gave is right.
    pub(super) fn has_digest(&self) -> bool {
        self.wanted.is_some()
    }

    /// The source that is being asked is left, as it would not be done within this time.
    pub(super) fn is_too_slow(&mut self, rate: f64, within: Duration) {
        self.leave();
        self.paths.clear();
        let Some(asked) = self.asked.take() else {
            return;
        };
        self.missed.too_slow = true;
        let minutes = self.size as f64 / rate.max(1.0) / 60.0;
        self.missed.note(format!(
            "{}: its {} bytes would take {minutes:.0} minutes at {rate:.0} bytes a second, and the tracker gives an upload up after an hour (copies have {:.0} minutes); \
             a higher repair.bytes_per_second or a spool (repair.spool_dir) helps",
            asked.source.name(),
            self.size,
            within.as_secs_f64() / 60.0,
        ));
    }

    /// Whether somebody would give the bytes, but not soon enough for an upload.
    pub(super) fn was_too_slow(&self) -> bool {
        self.missed.too_slow
    }

    pub(super) fn is_at_its_beginning(&self) -> bool {
        self.given == 0
    }

    /// Who gave the last of the bytes.
    pub(super) fn giver(&self) -> Option<&Datacenter> {
        self.givers.last().map(|(name, _)| name)
    }

    /// Why nobody gave them.
    pub(super) fn not_done(&self) -> NotDone {
        let why = self.missed.whys.join("; ");
        if self.missed.moved_on {
            // Where a source has gone on, the ledger is about to say so too.
            NotDone::Later(why)
        } else if self.missed.tried || self.missed.too_slow {
            NotDone::Failed(format!("{NO_SOURCE}{why}"))
        } else {
            NotDone::Crowded(format!("{NO_SOURCE}{why}"))
        }
    }

    /// Asks the tracker of the next source for paths. False if none is left.
    async fn ask_next(&mut self) -> bool {
        // What several gave can be trusted only by its digest.
        if self.given > 0 && (self.whole_only || self.wanted.is_none()) {
            return false;
        }
        let budget = self.means.budget;
        let free = |source: &Source| !budget.source(source.name()).copies.are_full();
        let at = self.left.iter().position(free).unwrap_or(0);
        let Some(source) = self.left.remove(at) else {
            return false;
        };
        // Not two places at a time: who holds one and waits for another might wait for ever.
        self.asked = None;
        let budget = budget.source(source.name());
        let place = budget.copies.take().await;
        let paths = self.paths_of(&source).await;
        self.paths = paths
            .into_iter()
            .map(|url| Path { url, again: false })
            .collect();
        self.asked = Some(Asked {
            source,
            budget,
            _place: place,
        });
        true
    }

    async fn paths_of(&mut self, source: &Source) -> Vec<Url> {
        let (health, name) = (self.means.sources, source.name());
        if let Err(alone) = health.may_ask(name) {
            self.missed.note(format!("{name}: {alone}"));
            return Vec::new();
        }
        let named = match source.known.trackers.get_paths(&source.file, PATHS).await {
            Ok(named) => {
                health.tracker_answered(name);
                named
            }
            Err(error) => {
                match error.code() {
                    Some(_) => health.tracker_answered(name),
                    None => health.tracker_failed(name, &error.to_string()),
                }
                self.missed.moved_on |= error.is_code("unknown_key");
                self.missed.tried = true;
                self.missed.note(format!("{name}: {error}"));
                return Vec::new();
            }
        };
        if named.is_empty() {
            self.is_of_no_use(
                name,
                "its tracker names no storage node that has it".to_owned(),
            );
        }
        let mut paths = Vec::new();
        for path in &named {
            match fetch::allowed(path, &source.known.record, source.fid) {
                Ok(url) => paths.push(url),
                Err(why) => {
                    self.missed.moved_on |= matches!(why, Refused::OtherFid { .. });
                    self.is_of_no_use(name, why.to_string());
                }
            }
        }
        paths
    }

    async fn open_at(&mut self, path: Path) {
        let Some(asked) = &self.asked else { return };
        let (name, budget) = (asked.source.name().clone(), Arc::clone(&asked.budget));
        let (health, began) = (self.means.sources, Instant::now());
        if let Err(alone) = health.may_fetch(&name, &host(&path.url)) {
            self.missed.note(format!("{name}: {alone}"));
            return;
        }
        let from = if self.whole_only { 0 } else { self.given };
        let answer = self.means.fetcher.begin(&path.url, from, self.size).await;
        let begun = match answer {
            Ok(begun) => begun,
            Err(error) => {
                if let FetchError::Source { .. } = error {
                    health.host_works(&name, &host(&path.url));
                }
                self.failed(&name, error);
                return;
            }
        };
        health.began(&name, began.elapsed());
        let mut open = Open {
            begun,
            path,
            since: Instant::now(),
            gave: 0,
            held_back: Duration::ZERO,
            ahead: None,
        };
        match open
            .skip(self.given, &self.digest, self.means.budget, &budget)
            .await
        {
            Ok(()) if self.size == 0 => match open.read_end().await {
                Ok(()) => {
                    health.host_works(&name, &host(open.begun.url()));
                    self.givers.push((name, open.begun.url().clone()));
                    self.open = Some(open);
                }
                Err(error) => self.failed(&name, error),
            },
            Ok(()) => self.open = Some(open),
            Err(error) => self.failed(&name, error),
        }
    }

    /// What is being read broke.
    fn broke(&mut self, error: FetchError) {
        let Some(open) = self.leave() else { return };
        let Some(asked) = &self.asked else { return };
        let name = asked.source.name().clone();
        let stands = matches!(error, FetchError::Away { .. });
        self.failed(&name, error);
        let gets_on = open.gave >= GETS_ON || open.gave > 0 && !open.path.again;
        if gets_on && !self.whole_only {
            let again = Path {
                again: true,
                ..open.path
            };
            // Who stands still is asked again when the other paths have been.
            match stands {
                true => self.paths.push_back(again),
                false => self.paths.push_front(again),
            }
        }
    }

    fn failed(&mut self, name: &Datacenter, error: FetchError) {
        let health = self.means.sources;
        let why = error.to_string();
        match &error {
            FetchError::Away { url, .. } => health.host_failed(name, &host(url), &why),
            FetchError::Source { .. } | FetchError::Destination { .. } => {
                health.was_of_no_use(name, &why);
            }
        }
        self.missed.tried = true;
        self.missed.note(format!("{name}: {why}"));
    }

    fn is_of_no_use(&mut self, name: &Datacenter, why: String) {
        self.means.sources.was_of_no_use(name, &why);
        self.missed.tried = true;
        self.missed.note(format!("{name}: {why}"));
    }

    /// Nothing more is read from the place where it is.
    fn leave(&mut self) -> Option<Open> {
        let open = self.open.take()?;
        if let Some(asked) = &self.asked {
            let took = open.since.elapsed().saturating_sub(open.held_back);
            self.means
                .sources
                .gave(asked.source.name(), open.gave, took);
        }
        Some(open)
    }
}

impl Open {
    /// The next bytes behind `given`, of which there are some.
    async fn read(&mut self, given: u64, size: u64) -> Result<Bytes, FetchError> {
        let chunk = match self.ahead.take() {
            Some(chunk) => chunk,
            None => self.begun.chunk().await?.unwrap_or_default(),
        };
        // The last are not given before it is known that they are the last: who takes them believes it then.
        if given + chunk.len() as u64 == size {
            self.read_end().await?;
        }
        Ok(chunk)
    }

    async fn read_end(&mut self) -> Result<(), FetchError> {
        while let Some(chunk) = self.begun.chunk().await? {
            debug_assert!(chunk.is_empty(), "more would have been an error");
        }
        Ok(())
    }

    /// Reads what lies before `given`, if it began before that, and compares it with what was given.
    async fn skip(
        &mut self,
        given: u64,
        digest: &Md5,
        budget: &Budget,
        of_source: &OfSource,
    ) -> Result<(), FetchError> {
        let begun_at = self.begun.at();
        if begun_at >= given {
            return Ok(());
        }
        let mut before = Md5::new();
        let mut at = begun_at;
        while at < given {
            let mut chunk = self.begun.chunk().await?.unwrap_or_default();
            budget.take_bytes(of_source, chunk.len() as u64).await;
            let part = chunk
                .len()
                .min(usize::try_from(given - at).unwrap_or(usize::MAX));
            before.update(chunk.split_to(part));
            at += part as u64;
            self.ahead = Some(chunk).filter(|rest| !rest.is_empty());
        }
        match before.finalize() == digest.clone().finalize() {
            true => Ok(()),
            false => Err(FetchError::Source {
                url: self.begun.url().clone(),
                why: format!("its first {given} bytes are not those that came from elsewhere"),
            }),
        }
    }
}

/// Hands on a chunk to whoever takes it within this time.
pub(super) async fn send(
    to: &mpsc::Sender<Bytes>,
    chunk: Bytes,
    stall: Duration,
) -> Result<(), Unfilled> {
    match timeout(stall, to.send(chunk)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Unfilled::Gone),
        Err(_elapsed) => Err(Unfilled::NotTaken(stall)),
    }
}

/// The name of its storage host.
fn host(url: &Url) -> String {
    let port = url.port_or_known_default().unwrap_or_default();
    format!("{}:{port}", url.host_str().unwrap_or_default())
}
