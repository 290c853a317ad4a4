//! Paying debts: what the ledger has is written again until it is everywhere.
//!
//! A debt is paid by reading the file from the ledger at [`Strength::Local`] and writing its head, its class and what this
//! datacenter holds of it at [`Strength::Whole`], each at the timestamp that it has. Doing that twice, late or out of order changes nothing.
//! What was owed and has collapsed (`owed`) is paid by a walk over all files of the ledger, page by page, that does the
//! same for those of which a cell is new enough.
//!
//! Always true: it is a loop of its own, so neither delivery nor a client ever waits for it. A debt leaves the journal only
//! when its write has succeeded. While writes fail only one is under way at a time, with pauses that grow; each
//! success allows one more at a time, so the number doubles from round to round up to [`Limits::at_once`]: a cluster
//! that comes back meets no storm. After a failure the next file is tried, not the same: where only some copies are
//! missing, the files that have none there are paid meanwhile.
//! A walk begins when a write has just succeeded, or nothing is owed by name that could be tried: one that began
//! earlier would not cover what collapses while it waits, and another would have to follow.
//! A file that the ledger cannot read, or of which it shows less than it had confirmed, is set aside: named in the log once, in
//! the status as long as it is so, and tried again now and then. It holds up nothing else. A walk that meets one owes it by name.
//! Never here: deciding when a debt arises (`deliver`, which asks [`Ledger::owes`]), or reaching the copies (`ledger`).
//! Killed in the middle: what was written and not yet noted is written again; a walk goes on where it was a moment before.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use backon::BackoffBuilder;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::file::{Datacenter, FileName};
use crate::ledger::{FileRecord, FileWrite, Ledger, LedgerError, Strength, TokenRange};
use crate::machine;
use crate::version::{Version, ago, wall_clock};

use super::{Debt, Debts, Journal, JournalError, Walk};

/// Parts of the ring that a walk goes through. A walk under way remembers its part by number: whoever changes this has to
/// let walks begin anew.
const PARTS: u32 = 64;

/// Files of a walk read at a time.
const PAGE: usize = 500;

/// The longest that nothing is looked at when nobody has rung: only files that were set aside come due by time alone.
const IDLE: Duration = Duration::from_secs(1);

/// Debts read from the journal for each that may be under way, so that reading them is seldom.
const READ_FOR_EACH: usize = 16;

/// Files that were set aside and are named in the status.
const NAMED: usize = 10;

/// How much at a time, and how patiently.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Writes under way at a time, when all is well.
    pub at_once: usize,
    /// The first pause while writes fail; they grow from there.
    pub first_pause: Duration,
    /// The longest.
    pub longest_pause: Duration,
    /// How long one file may take. Ledgers have limits of their own; this is for one that forgets.
    pub patience: Duration,
    /// How long a file that was set aside is left alone.
    pub aside_for: Duration,
    /// How long after a delete nothing may be left of its file: `repair.tombstone_retention`.
    pub forgotten_after: Duration,
    /// How often a walk writes down where it is.
    pub note_every: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            at_once: 32,
            first_pause: Duration::from_millis(200),
            longest_pause: Duration::from_secs(30),
            patience: Duration::from_secs(60),
            aside_for: Duration::from_secs(600),
            forgotten_after: Duration::from_secs(30 * 86_400),
            note_every: Duration::from_secs(1),
        }
    }
}

/// How paying goes, from memory.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct Paying {
    /// Files paid since the start, by name or by a walk.
    pub paid: u64,
    /// Since when writes fail; `None` while they do not.
    pub failing_since: Option<Version>,
    /// The last failure.
    pub last_error: Option<LastError>,
    /// How far the walk under way is.
    pub walk_percent: Option<f64>,
    /// Files that were set aside.
    pub set_aside: u64,
    /// Some of them, each with its reason.
    pub named: Vec<SetAside>,
}

/// Something that failed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct LastError {
    /// When.
    pub at: Version,
    /// What, and why.
    pub error: String,
}

/// A file that cannot be paid as it is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct SetAside {
    /// Its domain, escaped.
    pub domain: String,
    /// Its key, escaped.
    pub key: String,
    /// What is wrong.
    pub why: String,
}

/// What a [`Payer`] says of itself to others. Cheap to clone.
#[derive(Clone, Default)]
pub struct Figures(Arc<Mutex<Paying>>);

impl Figures {
    /// How it goes.
    pub fn now(&self) -> Paying {
        self.0.lock().clone()
    }
}

/// Pays what the journal says is owed, until it is told to stop.
pub struct Payer {
    journal: Journal,
    ledger: Arc<dyn Ledger>,
    /// The default, but for tests.
    pub limits: Limits,
    figures: Figures,
}

/// Why a file was not paid.
enum Unpaid {
    /// The same may work later, or with another file.
    Failed(String),
    /// It is this file's own fault.
    Aside(String),
}

impl From<LedgerError> for Unpaid {
    fn from(why: LedgerError) -> Self {
        match why {
            LedgerError::Unavailable { .. } => Unpaid::Failed(why.to_string()),
            LedgerError::Corrupt { .. } => Unpaid::Aside(why.to_string()),
        }
    }
}

impl Payer {
    /// Of this journal's debts, to this ledger.
    pub fn new(journal: Journal, ledger: Arc<dyn Ledger>) -> Payer {
        Payer {
            journal,
            ledger,
            limits: Limits::default(),
            figures: Figures::default(),
        }
    }

    /// How it goes, also while it runs.
    pub fn figures(&self) -> Figures {
        self.figures.clone()
    }

    /// Runs until `stop`, which it never makes wait: what is under way then is done again after the next start.
    pub async fn run(self, stop: CancellationToken) {
        let mut round = Round::new(&self);
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = round.go_on() => {}
        }
    }

    fn us(&self) -> Datacenter {
        self.journal.stream().datacenter.clone()
    }

    /// Writes the cells of a file again, everywhere.
    async fn write(&self, file: &FileName, mut record: FileRecord) -> Result<(), LedgerError> {
        let us = self.us();
        let ours = record.replicas.remove(&us);
        let write = FileWrite {
            head: record.head,
            class: record.class_cell,
            replica: ours.map(|replica| (us.clone(), replica)),
        };
        self.ledger.write(file, &write, Strength::Whole).await
    }

    async fn with_patience(
        &self,
        work: impl Future<Output = Result<(), Unpaid>>,
    ) -> Result<(), Unpaid> {
        let patience = self.limits.patience;
        tokio::time::timeout(patience, work)
            .await
            .unwrap_or_else(|_| {
                let why = format!("no answer of the ledger within {} s", patience.as_secs());
                Err(Unpaid::Failed(why))
            })
    }
}

/// A file that can be paid.
trait Payable: Send {
    fn pay(&self, payer: &Payer) -> impl Future<Output = Result<(), Unpaid>> + Send;
}

/// Owed by name: what has to be written is read first.
impl Payable for Debt {
    async fn pay(&self, payer: &Payer) -> Result<(), Unpaid> {
        payer
            .with_patience(async {
                let record = payer.ledger.read(&self.file, Strength::Local).await?;
                if record == FileRecord::default()
                    && self.version < ago(payer.limits.forgotten_after)
                {
                    // Deleted and forgotten since, which is done at the same strength.
                    return Ok(());
                }
                if newest(&record, &payer.us()) < Some(self.version) {
                    return Err(Unpaid::Aside(format!(
                        "the ledger shows nothing of it as new as {}, which it had confirmed; was it set back to an earlier state?",
                        self.version
                    )));
                }
                Ok(payer.write(&self.file, record).await?)
            })
            .await
    }
}

/// A file that a walk has read.
struct Found {
    file: FileName,
    record: FileRecord,
}

impl Payable for Found {
    async fn pay(&self, payer: &Payer) -> Result<(), Unpaid> {
        payer
            .with_patience(async { Ok(payer.write(&self.file, self.record.clone()).await?) })
            .await
    }
}

/// The greatest timestamp of the cells that paying writes.
fn newest(record: &FileRecord, us: &Datacenter) -> Option<Version> {
    let head = record.head.as_ref().map(|head| head.version);
    let class = record.class_cell.as_ref().map(|cell| cell.version);
    let ours = record.replicas.get(us).map(|replica| replica.since);
    head.max(class).max(ours)
}

/// How many at a time, and how long to wait when one failed.
struct Pace {
    limits: Limits,
    allowed: usize,
    /// Failures without a success between them; those of one moment count once.
    failures: u32,
    pauses: Option<backon::ExponentialBackoff>,
    /// Whether the last that was tried succeeded.
    works: bool,
}

impl Pace {
    fn new(limits: Limits) -> Pace {
        Pace {
            limits,
            allowed: 1,
            failures: 0,
            pauses: None,
            works: false,
        }
    }

    fn succeeded(&mut self) {
        self.allowed = (self.allowed + 1).min(self.limits.at_once);
        (self.failures, self.pauses, self.works) = (0, None, true);
    }

    fn failed(&mut self) {
        (self.allowed, self.works) = (1, false);
        self.failures += 1;
    }

    /// After a failure that came alone the next file is tried at once; it may lie elsewhere.
    async fn pause(&mut self) {
        if self.failures < 2 {
            return;
        }
        let Limits {
            first_pause,
            longest_pause,
            ..
        } = self.limits;
        let pauses = self.pauses.get_or_insert_with(|| {
            backon::ExponentialBuilder::default()
                .with_min_delay(first_pause)
                .with_max_delay(longest_pause)
                .with_jitter()
                .with_jitter_seed(machine::random())
                .without_max_times()
                .build()
        });
        // Jitter comes on top of the longest delay.
        let pause = pauses.next().unwrap_or(longest_pause).min(longest_pause);
        tokio::time::sleep(pause).await;
    }
}

/// A page of a walk, as far as it is not done.
struct OpenPage {
    left: VecDeque<Found>,
    /// Those that the walk cannot pay; the journal does not know yet that they are owed by name.
    to_name: Vec<(FileName, Version)>,
    next: Option<String>,
}

/// A file that was set aside.
struct Aside {
    /// The debt that could not be paid; a newer one is tried at once.
    id: u64,
    until: Instant,
    why: String,
    /// Whether this round over the debts has met it.
    met: bool,
}

/// What became of a handful of files.
struct Tried<T> {
    paid: Vec<T>,
    aside: Vec<(T, String)>,
    /// Those that failed, and behind them those that were not tried.
    left: VecDeque<T>,
    /// Those that were tried or failed.
    begun: usize,
}

/// What the loop remembers from turn to turn.
struct Round<'a> {
    payer: &'a Payer,
    pace: Pace,
    /// The last debt that was tried; the next round begins behind it.
    after: Option<FileName>,
    aside: HashMap<FileName, Aside>,
    /// Where the walk is, ahead of what the journal remembers.
    walk: Option<Walk>,
    page: Option<OpenPage>,
    noted: Instant,
}

impl<'a> Round<'a> {
    fn new(payer: &'a Payer) -> Self {
        Round {
            pace: Pace::new(payer.limits),
            payer,
            after: None,
            aside: HashMap::new(),
            walk: None,
            page: None,
            noted: Instant::now(),
        }
    }

    async fn go_on(&mut self) {
        let mut journal_fails = false;
        loop {
            match self.turn().await {
                Ok(worked) => {
                    journal_fails = false;
                    if !worked {
                        self.recovered();
                        self.payer.journal.wait_for_debts(IDLE).await;
                    }
                }
                Err(why) => {
                    if !std::mem::replace(&mut journal_fails, true) {
                        tracing::warn!(
                            "pay what is owed to the ledger: {why}; it is tried again until it works"
                        );
                    }
                    tokio::time::sleep(IDLE).await;
                }
            }
        }
    }

    /// Some debts, and a page of a walk. False if there was nothing to do.
    async fn turn(&mut self) -> Result<bool, JournalError> {
        let debts = self.payer.journal.debts();
        if debts.is_none() && self.walk.is_none() {
            self.aside.clear();
            self.report_aside();
            return Ok(false);
        }
        let paid = self.pay_some().await?;
        let walked = self.walk_on(debts, !paid).await?;
        Ok(paid || walked)
    }

    /// A batch of debts. False if there is none that could be tried now.
    async fn pay_some(&mut self) -> Result<bool, JournalError> {
        let limit = self.pace.allowed * READ_FOR_EACH;
        let journal = &self.payer.journal;
        let read = journal.owed(self.after.clone(), limit).await?;
        let last_of_round = read.len() < limit;
        let mut batch = VecDeque::with_capacity(read.len());
        let end = read.last().map(|debt| debt.file.clone());
        for debt in read {
            match self.aside.get_mut(&debt.file) {
                Some(aside) if aside.id == debt.id && aside.until > Instant::now() => {
                    aside.met = true;
                }
                _ => batch.push_back(debt),
            }
        }
        let names: Vec<FileName> = batch.iter().map(|debt| debt.file.clone()).collect();
        let none = batch.is_empty();
        let payer = self.payer;
        let tried = self.at_pace(batch).await;
        let all_begun = tried.begun == names.len();
        self.after = match (all_begun, last_of_round) {
            (true, true) => None,
            (true, false) => end,
            (false, _) => names.into_iter().take(tried.begun).last(),
        };
        for debt in &tried.paid {
            self.aside.remove(&debt.file);
        }
        for (debt, why) in tried.aside {
            self.set_aside(debt, why);
        }
        if !tried.paid.is_empty() {
            payer.journal.paid(tried.paid).await?;
        }
        if self.after.is_none() {
            // What this round has not met is not owed any more.
            self.aside
                .retain(|_, aside| std::mem::replace(&mut aside.met, false));
        }
        self.report_aside();
        self.pace.pause().await;
        Ok(!none || !last_of_round)
    }

    /// Tries files one after the other, as many at a time as are allowed, until one fails.
    async fn at_pace<T: Payable>(&mut self, mut left: VecDeque<T>) -> Tried<T> {
        let payer = self.payer;
        let (mut paid, mut aside, mut failed) = (Vec::new(), Vec::new(), VecDeque::new());
        let mut begun = 0;
        let mut last_failure = None;
        let mut running = FuturesUnordered::new();
        loop {
            while last_failure.is_none()
                && running.len() < self.pace.allowed
                && let Some(item) = left.pop_front()
            {
                begun += 1;
                running.push(async move {
                    let result = item.pay(payer).await;
                    (item, result)
                });
            }
            let Some((item, result)) = running.next().await else {
                break;
            };
            match result {
                Ok(()) => {
                    self.pace.succeeded();
                    self.payer.figures.0.lock().paid += 1;
                    if self.pace.allowed == self.pace.limits.at_once {
                        self.recovered();
                    }
                    paid.push(item);
                }
                Err(Unpaid::Aside(why)) => aside.push((item, why)),
                Err(Unpaid::Failed(why)) => {
                    last_failure = Some(why);
                    failed.push_back(item);
                }
            }
        }
        drop(running);
        if let Some(why) = last_failure {
            self.pace.failed();
            self.note_failure(why);
        }
        left.append(&mut failed);
        Tried {
            paid,
            aside,
            left,
            begun,
        }
    }

    /// A page of the walk, or its beginning. False if there is nothing to walk for.
    async fn walk_on(&mut self, debts: Debts, none_by_name: bool) -> Result<bool, JournalError> {
        let journal = &self.payer.journal;
        if self.walk.is_none() {
            self.walk = debts.walk;
        }
        if self.walk.is_none() {
            let may_begin = self.pace.works || none_by_name;
            if debts.collapsed_since.is_none() || !may_begin {
                return Ok(false);
            }
            self.walk = journal.begin_walk().await?;
        }
        let Some(walk) = self.walk.clone() else {
            return Ok(false);
        };
        self.payer.figures.0.lock().walk_percent =
            Some(100.0 * f64::from(walk.part) / f64::from(PARTS));
        if walk.part >= PARTS {
            self.end_walk().await?;
            return Ok(true);
        }
        let page = match self.page.take() {
            Some(page) => page,
            None => match self.read_page(&walk).await {
                Some(page) => page,
                None => {
                    self.pace.pause().await;
                    return Ok(true);
                }
            },
        };
        let payer = self.payer;
        let mut to_name = page.to_name;
        let tried = self.at_pace(page.left).await;
        let aside = tried.aside.into_iter();
        to_name.extend(aside.map(|(found, _why)| (found.file, walk.since)));
        let page = self.page.insert(OpenPage {
            left: tried.left,
            to_name,
            next: page.next,
        });
        if !page.to_name.is_empty() {
            payer.journal.owe(page.to_name.clone()).await?;
            page.to_name.clear();
        }
        if let Some(OpenPage { next, .. }) = self.page.take_if(|page| page.left.is_empty()) {
            self.pass_page(walk, next).await?;
        }
        self.pace.pause().await;
        Ok(true)
    }

    /// Reads the page at which the walk is, and keeps what of it is due. `None` if it cannot be read now.
    async fn read_page(&mut self, walk: &Walk) -> Option<OpenPage> {
        let range = TokenRange::part(walk.part, PARTS);
        let reading = self
            .payer
            .ledger
            .scan(range, walk.page.as_deref(), PAGE, Strength::Local);
        let page = match tokio::time::timeout(self.payer.limits.patience, reading).await {
            Ok(Ok(page)) => page,
            Ok(Err(why)) => {
                if matches!(why, LedgerError::Corrupt { .. }) {
                    // If it was the page's name that cannot be read (another ledger gave it), the part begins anew.
                    self.walk = Some(Walk {
                        page: None,
                        ..walk.clone()
                    });
                }
                self.pace.failed();
                self.note_failure(why.to_string());
                return None;
            }
            Err(_) => {
                self.pace.failed();
                self.note_failure("no answer of the ledger to a scan".to_owned());
                return None;
            }
        };
        let us = self.payer.us();
        let files = page.files.into_iter();
        let left = files
            .filter(|(_, record)| newest(record, &us) >= Some(walk.since))
            .map(|(file, record)| Found { file, record })
            .collect();
        // Whether the unreadable ones are due cannot be seen; so they are.
        let unreadable = page.unreadable.into_iter();
        Some(OpenPage {
            left,
            to_name: unreadable
                .filter_map(|bad| Some((bad.file?, walk.since)))
                .collect(),
            next: page.next,
        })
    }

    async fn pass_page(&mut self, walk: Walk, next: Option<String>) -> Result<(), JournalError> {
        let walk = Walk {
            part: walk.part + u32::from(next.is_none()),
            page: next,
            ..walk
        };
        self.walk = Some(walk.clone());
        if walk.part >= PARTS {
            return self.end_walk().await;
        }
        if self.noted.elapsed() >= self.payer.limits.note_every {
            self.payer.journal.walked(walk).await?;
            self.noted = Instant::now();
        }
        Ok(())
    }

    async fn end_walk(&mut self) -> Result<(), JournalError> {
        self.payer.journal.end_walk().await?;
        self.walk = None;
        self.payer.figures.0.lock().walk_percent = None;
        tracing::info!(
            "all that had changed in the ledger while copies of it were missing is written to them"
        );
        Ok(())
    }

    fn set_aside(&mut self, debt: Debt, why: String) {
        let aside = Aside {
            id: debt.id,
            until: Instant::now() + self.payer.limits.aside_for,
            why,
            met: true,
        };
        if !self.aside.contains_key(&debt.file) {
            tracing::warn!(
                file = %debt.file,
                "cannot be written to every copy of the ledger: {}; it is set aside, and tried again now and then",
                aside.why
            );
        }
        self.aside.insert(debt.file, aside);
    }

    fn report_aside(&self) {
        let mut paying = self.payer.figures.0.lock();
        paying.set_aside = self.aside.len() as u64;
        let named = self.aside.iter().take(NAMED);
        paying.named = named
            .map(|(file, aside)| SetAside {
                domain: file.domain.escaped().to_owned(),
                key: file.key.escaped().to_owned(),
                why: aside.why.clone(),
            })
            .collect();
    }

    /// Told once when it begins, however many fail.
    fn note_failure(&self, error: String) {
        let at = wall_clock();
        let mut paying = self.payer.figures.0.lock();
        if paying.failing_since.is_none() {
            paying.failing_since = Some(at);
            tracing::warn!(
                "the ledger does not take writes for every copy: {error}; they wait in the journal, and nothing else waits for them"
            );
        }
        paying.last_error = Some(LastError { at, error });
    }

    /// All is well again: as many succeed at a time as ever, or nothing is left.
    fn recovered(&self) {
        if self.payer.figures.0.lock().failing_since.take().is_some() {
            tracing::info!("the ledger takes writes for every copy again");
        }
    }
}
