//! The import: an existing installation's files, told to the ledger by a command, from the tracker's list or from a dump of its database.
//!
//! It writes to the ledger directly, and not through a journal: it may run beside a node, which holds that, and for billions of files the
//! journal would only be a longer way. What the journal is for is kept in another way:
//! - *No number of a stream, and so nobody's tail hears of it*: when an import ends, its cursor says so, and every datacenter makes a thorough scan
//!   ([`last_ended`], `registry`).
//! - *No debt*: each file is written for every copy of the ledger at once. Where that is refused, a quorum in each datacenter has to do,
//!   which every reader there sees; how many are only so far is in the report.
//! - *No lock, and no clock*: versions are made of fids ([`crate::found`]), also those of replicas, so they are below all that a node or repair ever
//!   writes of a file. Whatever a client does meanwhile wins, and so does what was known before.
//!
//! Always true: a file of which the ledger has any word from this datacenter is left alone. What another datacenter has is adopted by proof.
//! Different files of two installations under one key are listed and left alone, unless somebody is preferred.
//! Killed in the middle: it goes on at its cursor; what is told a second time is told the same.

mod dump;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::time::{Instant, Interval, interval};
use tokio_util::sync::CancellationToken;

use crate::config::Patience;
use crate::file::{
    Checked, Class, ClassCell, Datacenter, Domain, Fid, FileName, Found, Held, Key, NodeName, Op,
    Put, Replica, Revision,
};
use crate::found::{decided_at, is_contest, is_contested, version_of};
use crate::journal::By;
use crate::journal::announcement::{Announcer, Bytes};
use crate::ledger::{Cursor, Expected, FileRecord, FileWrite, Gap, Ledger, LedgerError, Strength};
use crate::trackers::{TrackerError, Trackers};
use crate::version::{Version, wall_clock};

use super::backfill::newest_fid;
use super::budget::{Budget, Limits};
use super::compare::{Compared, Comparing, Ours};
use super::fetch::Fetcher;
use super::found::conflict;
use super::registry::Registry;
use super::trouble::{Pauses, rest};
use dump::{Dump, Names, Place};

pub use dump::DumpError;

/// The cursor's name.
const NAME: &str = "import";

/// Rows read at a time; the cursor moves behind them together.
const BATCH: usize = 500;

/// Rows looked up and written at a time.
const AT_ONCE: usize = 64;

/// Files of which all bytes are read at a time, to compare them.
const READS: u64 = 4;

/// How often the cursor is saved.
const SAVE_EVERY: Duration = Duration::from_secs(1);

/// After a write that did not reach every copy of the ledger, it is not asked of every copy for so long.
const NOT_ALL_FOR: Duration = Duration::from_secs(60);

/// Files and lines that are listed by name; all of them are counted.
const MOST_LISTED: usize = 1_000;

/// When a file is looked at that could not be compared.
const LATER: Duration = Duration::from_secs(60);

/// What an import works with.
pub struct ImportParts {
    /// Where the files are told.
    pub ledger: Arc<dyn Ledger>,
    /// Whose files they are.
    pub datacenter: Datacenter,
    /// The node that tells them.
    pub node: NodeName,
    /// The trackers of this datacenter.
    pub trackers: Arc<Trackers>,
    /// `repair.split_from`
    pub split_from: BTreeSet<Datacenter>,
    /// `proxy.max_key`
    pub max_key: usize,
}

/// How to import.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// From this dump, and not from the tracker's list.
    pub dump: Option<DumpFiles>,
    /// Files in a second, at most.
    pub rate: Option<u32>,
    /// Nothing is written.
    pub dry_run: bool,
    /// Whose file is right where two installations have different ones.
    pub prefer: Option<Datacenter>,
    /// From the beginning, wherever an earlier one has come to.
    pub restart: bool,
}

/// A dump of MogileFS's database.
#[derive(Clone, Debug)]
pub struct DumpFiles {
    /// `fid, dmid, dkey, length, classid` of the table `file`.
    pub files: PathBuf,
    /// `dmid, namespace` of the table `domain`; without it the tracker is asked.
    pub domains: Option<PathBuf>,
    /// `dmid, classid, classname` of the table `class`; without it the tracker is asked.
    pub classes: Option<PathBuf>,
}

/// What an import has met. The counts are those of all its parts, where it was interrupted.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// Rows that were looked at.
    pub looked_at: u64,
    /// Files that the ledger did not know, and that are announced.
    pub new: u64,
    /// Files of which the ledger knew already that they are here, or were.
    pub known: u64,
    /// Files that another datacenter has, and that are the same here, as was proved.
    pub adopted: u64,
    /// As those, but none of the bytes are here: repair fetches them.
    pub to_fetch: u64,
    /// Files that were changed or deleted through a proxy elsewhere, which counts: repair does here what was done there.
    pub outdone: u64,
    /// Files of which two installations have different ones, and that were decided by whom is preferred.
    pub decided: u64,
    /// The same, left alone: they are gaps.
    pub conflicts: u64,
    /// Files that could not be compared yet: they are gaps.
    pub unsure: u64,
    /// Lines or rows that cannot be read.
    pub unreadable: u64,
    /// Rows of a dump that the tracker does not have any more.
    pub gone: u64,
    /// Files that are not on every copy of the ledger yet; a quorum in each datacenter has them.
    pub not_everywhere: u64,
    /// Whether it has come to the end.
    pub ended: bool,
    /// Conflicts, what is unsure and what is unreadable, by name, as far as there is room.
    #[serde(skip_deserializing)]
    pub listed: Vec<Listed>,
}

/// Something that a person may want to look at.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Listed {
    /// `conflict`, `unsure` or `unreadable`.
    pub kind: &'static str,
    /// The line of the dump.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// The domain, escaped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<Domain>,
    /// The key, escaped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<Key>,
    /// Why.
    pub why: String,
}

/// How far it is: so many of so many fids, or bytes of a dump.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Behind it.
    pub at: u64,
    /// In all.
    pub of: u64,
    /// What it waits for, if it does.
    pub waits: Option<String>,
}

/// Why an import did not even begin, or could not go on.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A dump cannot be read.
    #[error(transparent)]
    Dump(#[from] DumpError),
    /// There is no HTTP client to be had.
    #[error("set up the HTTP client that compares files")]
    Http(#[from] reqwest::Error),
    /// The ledger holds what this program cannot read, where that is not about one file.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// What the cursor's note keeps; its number is the last fid, or the bytes of the dump that lie behind.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Note {
    /// Which list or dump the place is in.
    source: String,
    /// Lines of the dump that lie behind.
    #[serde(default)]
    line: u64,
    /// When the last whole import ended.
    ended: Option<Version>,
    /// Whether the one that the place is of has ended.
    #[serde(default)]
    is_over: bool,
    #[serde(default)]
    report: Report,
}

/// When the last whole import of a datacenter ended.
pub(super) async fn last_ended(
    ledger: &dyn Ledger,
    datacenter: &Datacenter,
) -> Result<Option<Version>, LedgerError> {
    let cursor = ledger.cursor(datacenter, NAME).await?;
    let note = cursor.and_then(|cursor| serde_json::from_str::<Note>(&cursor.note).ok());
    Ok(note.and_then(|note| note.ended))
}

/// A file as the installation has it.
#[derive(Clone, Debug)]
struct Row {
    file: FileName,
    fid: Fid,
    class: Class,
    size: u64,
}

/// A row, or why there is none; from which line.
struct Entry {
    line: Option<u64>,
    row: Result<Row, Outcome>,
}

/// Where rows come from.
enum Source {
    Tracker { after: u64 },
    Dump { dump: Box<Dump>, names: Names },
}

/// What became of one row.
enum Outcome {
    New,
    Known,
    Adopted,
    ToFetch,
    Outdone,
    Decided,
    Conflict(String),
    Unsure(String),
    Unreadable(String),
    Gone,
}

struct Importer<'a> {
    parts: &'a ImportParts,
    options: &'a Options,
    fetcher: Fetcher,
    budget: Budget,
    registry: Registry,
    stop: &'a CancellationToken,
    pace: Option<Mutex<Interval>>,
    tell: &'a (dyn Fn(&Report, &Progress) + Sync),
    state: parking_lot::Mutex<State>,
}

struct State {
    report: Report,
    progress: Progress,
    not_all_until: Option<Instant>,
}

/// Imports until the end, or until `stop`. `tell` hears how far it is, many times in a second.
///
/// # Errors
/// A dump that cannot be read. While ledger or tracker are away, it waits for them.
pub async fn import(
    parts: &ImportParts,
    options: &Options,
    stop: &CancellationToken,
    tell: &(dyn Fn(&Report, &Progress) + Sync),
) -> Result<Report, ImportError> {
    let rate = options
        .rate
        .map(|rate| Duration::from_secs(1) / rate.max(1));
    let importer = Importer {
        parts,
        options,
        fetcher: Fetcher::new(Patience::default())?,
        budget: Budget::new(Limits {
            copies_at_once: READS,
            ..Limits::default()
        }),
        registry: Registry::new(
            Arc::clone(&parts.ledger),
            parts.datacenter.clone(),
            Arc::clone(&parts.trackers),
        ),
        stop,
        pace: rate.map(|every| Mutex::new(interval(every))),
        tell,
        state: parking_lot::Mutex::new(State {
            report: Report::default(),
            progress: Progress {
                at: 0,
                of: 0,
                waits: None,
            },
            not_all_until: None,
        }),
    };
    importer.run().await?;
    Ok(importer.state.into_inner().report)
}

/// What tells one list or dump from another.
async fn source_of(options: &Options) -> Result<String, ImportError> {
    let Some(DumpFiles { files, .. }) = &options.dump else {
        return Ok("the tracker's list".to_owned());
    };
    let about = tokio::fs::metadata(files).await;
    let about = about.map_err(|source| DumpError::Read {
        path: files.clone(),
        source,
    })?;
    let changed = about.modified().ok();
    let changed = changed.and_then(|when| when.duration_since(UNIX_EPOCH).ok());
    let path = std::path::absolute(files).unwrap_or_else(|_| files.clone());
    Ok(format!(
        "{}, {} bytes, changed at {}",
        path.display(),
        about.len(),
        changed.unwrap_or_default().as_micros()
    ))
}

impl Importer<'_> {
    async fn run(&self) -> Result<(), ImportError> {
        let wanted = source_of(self.options).await?;
        let Some(cursor) = self
            .patiently(async || self.parts.ledger.cursor(&self.parts.datacenter, NAME).await)
            .await?
        else {
            return Ok(());
        };
        let number = cursor.as_ref().map_or(0, |cursor| cursor.number);
        let mut note: Note = cursor
            .and_then(|cursor| serde_json::from_str(&cursor.note).ok())
            .unwrap_or_default();
        let goes_on = note.source == wanted
            && !note.is_over
            && !self.options.restart
            && !self.options.dry_run;
        let number = if goes_on { number } else { 0 };
        if !goes_on {
            note = Note {
                source: wanted,
                ended: note.ended,
                ..Note::default()
            };
        }
        self.state.lock().report = note.report.clone();
        let mut source = self.open(number, note.line).await?;
        let of = match &self.options.dump {
            Some(files) => length(&files.files).await?,
            None => {
                let newest = self.ask(async || newest_fid(&self.parts.trackers).await);
                newest.await.unwrap_or_default()
            }
        };
        self.state.lock().progress.of = of;
        let mut saved = Instant::now();
        while !self.stop.is_cancelled() {
            let Some(batch) = self.next(&mut source).await? else {
                return Ok(());
            };
            if batch.is_empty() {
                self.state.lock().report.ended = true;
                break;
            }
            let last = batch.iter().rev().find_map(|entry| entry.row.as_ref().ok());
            let last = last.map(|row| row.fid.0);
            if !self.see_to(batch).await? {
                break;
            }
            let at = match &mut source {
                Source::Tracker { after } => {
                    *after = last.unwrap_or(*after);
                    *after
                }
                Source::Dump { dump, .. } => {
                    note.line = dump.place().line;
                    dump.place().offset
                }
            };
            {
                let mut state = self.state.lock();
                state.progress.at = at;
                state.progress.of = state.progress.of.max(at);
                note.report = Report {
                    listed: Vec::new(),
                    ..state.report.clone()
                };
                (self.tell)(&state.report, &state.progress);
            }
            if saved.elapsed() >= SAVE_EVERY {
                self.save(at, &note).await?;
                saved = Instant::now();
            }
        }
        let (at, ended) = {
            let state = self.state.lock();
            note.report = Report {
                listed: Vec::new(),
                ..state.report.clone()
            };
            (state.progress.at, state.report.ended)
        };
        if ended {
            note.is_over = true;
            note.ended = Some(wall_clock());
        }
        let at = if at == 0 { number } else { at };
        self.save(at, &note).await
    }

    async fn open(&self, number: u64, line: u64) -> Result<Source, ImportError> {
        let Some(files) = &self.options.dump else {
            return Ok(Source::Tracker { after: number });
        };
        let mut names = Names::default();
        if let Some(domains) = &files.domains {
            names.read_domains(domains).await?;
        }
        if let Some(classes) = &files.classes {
            names.read_classes(classes).await?;
        }
        let place = Place {
            offset: number,
            line,
        };
        Ok(Source::Dump {
            dump: Box::new(Dump::open(&files.files, place).await?),
            names,
        })
    }

    /// The next rows; empty at the end. `None` if it was told to stop.
    async fn next(&self, source: &mut Source) -> Result<Option<Vec<Entry>>, ImportError> {
        match source {
            Source::Tracker { after } => {
                let after = Fid(*after);
                let list = async || self.parts.trackers.list_fids(after, BATCH as u32).await;
                let Some(page) = self.ask(list).await else {
                    return Ok(None);
                };
                let rows = page.into_iter().map(|listed| Entry {
                    line: None,
                    row: Ok(Row {
                        file: FileName::from_bytes(&listed.domain, &listed.key),
                        fid: Fid(listed.fid),
                        class: Class::from_bytes(&listed.class),
                        size: listed.length,
                    }),
                });
                Ok(Some(rows.collect()))
            }
            Source::Dump { dump, names } => {
                let mut batch = Vec::with_capacity(BATCH);
                while batch.len() < BATCH {
                    let Some(line) = dump.next().await? else {
                        break;
                    };
                    let row = match line.row {
                        Ok(row) => match self.named(names, row).await {
                            Some(row) => row,
                            None => return Ok(None),
                        },
                        Err(why) => Err(Outcome::Unreadable(why)),
                    };
                    batch.push(Entry {
                        line: Some(line.number),
                        row,
                    });
                }
                Ok(Some(batch))
            }
        }
    }

    /// A row with its names. What the tables of names do not say the tracker is asked by the fid. `None` if it was told to stop.
    async fn named(&self, names: &mut Names, row: dump::Row) -> Option<Result<Row, Outcome>> {
        let dump::Row {
            fid,
            dmid,
            key,
            length,
            classid,
        } = row;
        if names.of(dmid, classid).is_none() {
            let ask = async || self.parts.trackers.file_debug_by_fid(Fid(fid)).await;
            let Some(file) = self.ask(ask).await?.file else {
                return Some(Err(Outcome::Gone));
            };
            if (file.dmid, file.classid) == (Some(dmid), Some(classid)) {
                let domain = Domain::from_bytes(&file.domain);
                names.learn(dmid, classid, domain, Class::from_bytes(&file.class));
            }
        }
        let Some((domain, class)) = names.of(dmid, classid) else {
            return Some(Err(Outcome::Unreadable(format!(
                "the names of domain {dmid} and class {classid} are not known; give dumps of the tables domain and class"
            ))));
        };
        Some(Ok(Row {
            file: FileName {
                domain,
                key: Key::from_bytes(&key),
            },
            fid: Fid(fid),
            class,
            size: length,
        }))
    }

    /// False if it was told to stop before all of them were seen to.
    async fn see_to(&self, batch: Vec<Entry>) -> Result<bool, ImportError> {
        let looks: Vec<_> = batch
            .into_iter()
            .map(|entry| self.see_to_one(entry))
            .collect();
        let all = stream::iter(looks)
            .buffer_unordered(AT_ONCE)
            .try_collect::<Vec<bool>>()
            .await?;
        Ok(all.into_iter().all(|done| done))
    }

    async fn see_to_one(&self, entry: Entry) -> Result<bool, ImportError> {
        if let Some(pace) = &self.pace {
            let turn = async { pace.lock().await.tick().await };
            tokio::select! {
                _ = turn => {}
                () = self.stop.cancelled() => return Ok(false),
            }
        }
        let Entry { line, row } = entry;
        let (file, outcome) = match row {
            Ok(row) => {
                let outcome = self.patiently(async || self.row(&row).await).await?;
                let Some(outcome) = outcome else {
                    return Ok(false);
                };
                (Some(row.file), outcome)
            }
            Err(why) => (None, why),
        };
        if let (Some(file), Outcome::Conflict(why) | Outcome::Unsure(why)) = (&file, &outcome)
            && !self.options.dry_run
        {
            let parked = self.patiently(async || self.park(file, why).await).await?;
            if parked.is_none() {
                return Ok(false);
            }
        }
        self.count(line, file, outcome);
        Ok(true)
    }

    fn count(&self, line: Option<u64>, file: Option<FileName>, outcome: Outcome) {
        let mut state = self.state.lock();
        let report = &mut state.report;
        report.looked_at += 1;
        let (count, listed) = match outcome {
            Outcome::New => (&mut report.new, None),
            Outcome::Known => (&mut report.known, None),
            Outcome::Adopted => (&mut report.adopted, None),
            Outcome::ToFetch => (&mut report.to_fetch, None),
            Outcome::Outdone => (&mut report.outdone, None),
            Outcome::Decided => (&mut report.decided, None),
            Outcome::Gone => (&mut report.gone, None),
            Outcome::Conflict(why) => (&mut report.conflicts, Some(("conflict", why))),
            Outcome::Unsure(why) => (&mut report.unsure, Some(("unsure", why))),
            Outcome::Unreadable(why) => (&mut report.unreadable, Some(("unreadable", why))),
        };
        *count += 1;
        if let Some((kind, why)) = listed
            && report.listed.len() < MOST_LISTED
        {
            let (domain, key) = file.map(|file| (file.domain, file.key)).unzip();
            report.listed.push(Listed {
                kind,
                line,
                domain,
                key,
                why,
            });
        }
    }

    /// Tells the ledger of one file, if it does not know.
    async fn row(&self, row: &Row) -> Result<Outcome, LedgerError> {
        let ImportParts {
            ledger,
            datacenter: here,
            max_key,
            ..
        } = self.parts;
        let Some(version) = version_of(row.fid) else {
            let why = format!("no database gives out fids as high as {}", row.fid);
            return Ok(Outcome::Unreadable(why));
        };
        let length = row.file.key.escaped().len();
        if length > *max_key {
            return Ok(Outcome::Unreadable(format!(
                "the key has {length} bytes in its escaped form, more than proxy.max_key = {max_key}"
            )));
        }
        let record = match ledger.read(&row.file, Strength::Local).await {
            Err(LedgerError::Corrupt { why, .. }) => {
                return Ok(Outcome::Unreadable(format!(
                    "its record in the ledger cannot be read: {why}"
                )));
            }
            read => read?,
        };
        let contested = is_contested(&record, here);
        if record.replicas.contains_key(here) && !contested {
            return Ok(Outcome::Known);
        }
        let announced = self.announced(row, version);
        let Some(head) = &record.head else {
            self.write(row, &announced).await?;
            return Ok(Outcome::New);
        };
        let Op::Put(put) = &head.op else {
            self.write(row, &announced).await?;
            return Ok(Outcome::Outdone);
        };
        match self.compare(row, &record, put).await? {
            Compared::Same { found, checksum } => {
                let checked = Checked {
                    at: wall_clock(),
                    found,
                    checksum,
                };
                self.write(row, &self.adopted(row, version, put, checked))
                    .await?;
                Ok(Outcome::Adopted)
            }
            Compared::Absent(_) => {
                let checked = Checked {
                    at: wall_clock(),
                    found: Found::Damaged,
                    checksum: None,
                };
                self.write(row, &self.adopted(row, version, put, checked))
                    .await?;
                Ok(Outcome::ToFetch)
            }
            Compared::Unsure(why) => Ok(Outcome::Unsure(why)),
            Compared::Different(why) if contested || is_contest(&record, here) => {
                let Some(decided) = self.decided(row, &record, put, &announced) else {
                    return Ok(Outcome::Conflict(conflict(&why, put)));
                };
                self.write(row, &decided).await?;
                if !self.options.dry_run {
                    ledger.clear_gap(here, &row.file, wall_clock()).await?;
                }
                Ok(Outcome::Decided)
            }
            Compared::Different(_) => {
                self.write(row, &announced).await?;
                Ok(Outcome::Outdone)
            }
        }
    }

    /// All that is told of a file that was not known.
    fn announced(&self, row: &Row, version: Version) -> FileWrite {
        let us = Announcer {
            datacenter: self.parts.datacenter.clone(),
            node: self.parts.node.clone(),
        };
        let bytes = Bytes {
            content: us.new_content(version),
            fid: row.fid,
            class: row.class.clone(),
            size: row.size,
            checksum: None,
        };
        us.put(version, &By::Client, &row.file, &bytes).write
    }

    /// That what is here is what the head names.
    fn adopted(&self, row: &Row, since: Version, put: &Put, checked: Checked) -> FileWrite {
        let held = Held {
            content: put.content.clone(),
            fid: row.fid,
            class: row.class.clone(),
            claimed: false,
            leaving: false,
            checked: Some(checked),
        };
        let replica = Replica {
            since,
            held: Some(held),
        };
        FileWrite {
            replica: Some((self.parts.datacenter.clone(), replica)),
            ..FileWrite::default()
        }
    }

    /// What a person has decided between two installations' files; `None` if nobody is preferred who has one of them.
    fn decided(
        &self,
        row: &Row,
        record: &FileRecord,
        put: &Put,
        announced: &FileWrite,
    ) -> Option<FileWrite> {
        let prefer = self.options.prefer.as_ref()?;
        let version = decided_at(wall_clock());
        let (put, class) = if *prefer == self.parts.datacenter {
            (announced.head.as_ref()?.put()?.clone(), row.class.clone())
        } else if *prefer == put.content.origin {
            let class = record.class().cloned();
            (put.clone(), class.unwrap_or_else(Class::default_class))
        } else {
            return None;
        };
        Some(FileWrite {
            class: Some(ClassCell {
                version,
                content: put.content.clone(),
                class,
            }),
            head: Some(Revision {
                version,
                origin: self.parts.datacenter.clone(),
                node: self.parts.node.clone(),
                op: Op::Put(put),
            }),
            replica: announced.replica.clone(),
        })
    }

    async fn compare(
        &self,
        row: &Row,
        record: &FileRecord,
        put: &Put,
    ) -> Result<Compared, LedgerError> {
        if !self.registry.knows_us().await? {
            return Ok(Compared::Unsure(format!(
                "{} has not told the ledger of its storage nodes yet: start its node once",
                self.parts.datacenter
            )));
        }
        let registry = self.registry.read().await?;
        let comparing = Comparing {
            here: &self.parts.datacenter,
            fetcher: &self.fetcher,
            budget: &self.budget,
            local: &self.parts.trackers,
            registry: &registry,
            split_from: &self.parts.split_from,
        };
        let ours = Ours {
            file: &row.file,
            fid: row.fid,
            size: row.size,
        };
        Ok(comparing.compare(ours, record, put).await)
    }

    /// For every copy of the ledger, else for a quorum in each datacenter.
    async fn write(&self, row: &Row, write: &FileWrite) -> Result<(), LedgerError> {
        if self.options.dry_run {
            return Ok(());
        }
        let ledger = &self.parts.ledger;
        let all = {
            let until = self.state.lock().not_all_until;
            until.is_none_or(|until| until <= Instant::now())
        };
        if all {
            match ledger.write(&row.file, write, Strength::Whole).await {
                Err(LedgerError::Unavailable { .. }) => {
                    self.state.lock().not_all_until = Some(Instant::now() + NOT_ALL_FOR);
                }
                written => return written,
            }
        }
        ledger.write(&row.file, write, Strength::Each).await?;
        self.state.lock().report.not_everywhere += 1;
        Ok(())
    }

    async fn park(&self, file: &FileName, why: &str) -> Result<(), LedgerError> {
        let now = wall_clock();
        let later = i64::try_from(LATER.as_micros()).unwrap_or(i64::MAX);
        let gap = Gap {
            file: file.clone(),
            since: now,
            attempts: 1,
            last_error: why.to_owned(),
            next_try: Version(now.0.saturating_add(later)),
            observed: now,
            expected: Expected::default(),
        };
        self.parts
            .ledger
            .set_gap(&self.parts.datacenter, &gap)
            .await
    }

    async fn save(&self, at: u64, note: &Note) -> Result<(), ImportError> {
        if self.options.dry_run {
            return Ok(());
        }
        let cursor = Cursor {
            name: NAME.to_owned(),
            number: at,
            note: serde_json::to_string(note).unwrap_or_default(),
            updated: wall_clock(),
        };
        let ledger = &self.parts.ledger;
        // Also after a stop: once, and what is lost by its failing is done again.
        match ledger.set_cursor(&self.parts.datacenter, &cursor).await {
            Err(LedgerError::Unavailable { .. }) if !note.is_over => Ok(()),
            Err(LedgerError::Unavailable { .. }) => {
                let again = async || ledger.set_cursor(&self.parts.datacenter, &cursor).await;
                self.patiently(again).await.map(|_| ())
            }
            saved => Ok(saved?),
        }
    }

    /// Asks the ledger until it answers. `None` if it was told to stop before that.
    async fn patiently<T>(
        &self,
        ask: impl AsyncFn() -> Result<T, LedgerError>,
    ) -> Result<Option<T>, ImportError> {
        let mut pauses = Pauses::default();
        loop {
            match ask().await {
                Err(error @ LedgerError::Unavailable { .. }) => {
                    self.wait_for(Some(error.to_string()));
                    if !pauses.wait(self.stop).await {
                        return Ok(None);
                    }
                    self.wait_for(None);
                }
                answer => return Ok(Some(answer?)),
            }
        }
    }

    /// Asks the tracker until it answers. `None` if it was told to stop before that.
    async fn ask<T>(&self, ask: impl AsyncFn() -> Result<T, TrackerError>) -> Option<T> {
        let mut pause = Duration::from_millis(200);
        loop {
            match ask().await {
                Ok(answer) => return Some(answer),
                Err(error) => {
                    self.wait_for(Some(error.to_string()));
                    if !rest(pause, self.stop).await {
                        return None;
                    }
                    self.wait_for(None);
                    pause = (pause * 2).min(Duration::from_secs(10));
                }
            }
        }
    }

    fn wait_for(&self, what: Option<String>) {
        let mut state = self.state.lock();
        state.progress.waits = what;
        (self.tell)(&state.report, &state.progress);
    }
}

async fn length(path: &Path) -> Result<u64, ImportError> {
    let about = tokio::fs::metadata(path).await;
    let about = about.map_err(|source| DumpError::Read {
        path: path.to_owned(),
        source,
    })?;
    Ok(about.len())
}
