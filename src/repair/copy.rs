//! Copying: the bytes of one content from a datacenter that has them into the local tracker.
//!
//! Always true: what is closed here has the size that the head names, and its MD5 where one is known; it came from the
//! very fid that the source's replica names; it is closed under the key's lock, with nothing newer about. An upload that the tracker would
//! reap before its bytes are there is not begun, or given up as soon as that shows.
//! Never here: a whole file in memory; a replica
//! that only an outsider has claimed, or that is known to be damaged.
//! Killed in the middle: an upload that is not closed is reaped by the tracker after an hour; a closing has its intent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use md5::{Digest, Md5};
use mogilefs_protocol::client::{ClassSettings, CreateClose, CreateOpen, Destination, Opened};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use crate::events::What;
use crate::failpoint::{self, pass};
use crate::file::{Checksum, Class, Content, Datacenter, Domain, Fid, Held, Put, Revision};
use crate::journal::{By, Details, Mutation};
use crate::ledger::FileRecord;
use crate::trackers::TrackerError;
use crate::version::wall_clock;

use super::apply::Wanted;
use super::fetch::FetchError;
use super::reconcile::{Did, NotDone, Reconciler, View};
use super::registry::Reading;
use super::spool::{Spool, SpoolError};
use super::supply::{Means, NO_SOURCE, Nobody, Source, Supply, Unfilled, Until, send};

/// The tracker reaps an upload that is open for so long.
const REAPED: Duration = Duration::from_secs(60 * 60);

/// Local destinations that may fail before a copy does.
const DESTINATIONS: usize = 3;

/// How long a file waits for its turn. One that waits longer is parked: it must not stand in the way of what needs no copy.
const TURN: Duration = Duration::from_secs(15);

/// After the last byte a storage node may take longer: it writes to its disk what it had in memory.
const LAST_ANSWER: Duration = Duration::from_secs(120);

/// Chunks between reading and writing: enough that neither waits for the other all the time.
const CHUNKS: usize = 4;

/// How long an upload may be filled: it is closed well before the tracker reaps it. In a test the hour may be shorter.
pub(super) fn whole_copy() -> Duration {
    let reaped = || {
        fail::fail_point!("copy::reaped_after_seconds", |seconds| Duration::from_secs(
            seconds
                .and_then(|seconds| seconds.parse().ok())
                .unwrap_or(1)
        ));
        REAPED
    };
    reaped() / 6 * 5
}

/// An upload that is open in the local tracker.
struct Upload {
    fid: u64,
    to: Destination,
    since: Instant,
}

/// Bytes that are stored and verified, and under no key yet.
struct Stored {
    upload: Upload,
    checksum: Checksum,
}

impl Reconciler {
    /// `from`: a key that may hold the same bytes, here or elsewhere.
    pub(super) async fn copy(
        &self,
        view: &View,
        head: &Revision,
        put: &Put,
        from: Option<&View>,
    ) -> Result<Did, NotDone> {
        let waited_since = Instant::now();
        let turn = async {
            let place = self.budget.take_copy().await;
            self.budget.take_file().await;
            place
        };
        let Ok(_one_of) = timeout(TURN, turn).await else {
            return Err(NotDone::Crowded(self.crowd()));
        };
        if waited_since.elapsed() > Duration::from_secs(1) {
            // What was read is old by now.
            let again = self
                .look(&view.file, crate::ledger::Strength::Local)
                .await?;
            if again.record.head != view.record.head || again.standing != view.standing {
                return Err(NotDone::Later(
                    "it changed while it waited for its turn".into(),
                ));
            }
        }
        let _counted = self.figures.begin();
        self.copy_now(view, head, put, from).await
    }

    fn crowd(&self) -> String {
        let limits = self.budget.limits();
        let begun = match limits.files_per_second {
            Some(rate) => format!(", of which {rate} a second may be begun (files_per_second)"),
            None => String::new(),
        };
        let all = limits.copies_at_once;
        format!("{all} other copies are being made (copies_at_once){begun}")
    }

    async fn copy_now(
        &self,
        view: &View,
        head: &Revision,
        put: &Put,
        from: Option<&View>,
    ) -> Result<Did, NotDone> {
        let registry = self.registry().await?;
        let sources = self.sources(&registry, view, put, from);
        if sources.is_empty() {
            let damaged = view.held(&self.datacenter).is_some_and(Held::is_damaged);
            let here = match damaged {
                true => "what is here is damaged, and ",
                false => "",
            };
            return Err(NotDone::Failed(format!(
                "{NO_SOURCE}{here}none that we can ask is known to hold them"
            )));
        }
        let class = self.class_of(view, put);
        let means = Means {
            fetcher: &self.fetcher,
            sources: &self.sources,
            budget: &self.budget,
            figures: &self.figures,
        };
        let mut supply = Supply::new(means, put, view.record.checksum().cloned(), sources);
        let mut bad_devices = BTreeSet::new();
        let class = class.as_ref();
        while let Some(source) = supply.open().await {
            if let Some(rate) = self.would_outlast(&source, put.size) {
                supply.is_too_slow(rate, whole_copy());
                continue;
            }
            let stored = self
                .store(&mut supply, view, put, class, &bad_devices)
                .await;
            match stored {
                Ok(stored) => {
                    let source = supply.giver().cloned().unwrap_or(source);
                    return self.close(view, head, put, class, source, stored).await;
                }
                Err(StoreError::Source) => supply.restart(),
                Err(StoreError::Destination(error, devid)) => {
                    no_longer(&mut bad_devices, devid, &error)?;
                    supply.rewind();
                }
                Err(StoreError::NotDone(why)) => return Err(why),
            }
        }
        match &self.spool {
            Some(spool) if supply.was_too_slow() => {
                let (source, stored) = self.store_by_spool(spool, supply, view, put, class).await?;
                self.close(view, head, put, class, source, stored).await
            }
            Some(_) | None => Err(supply.not_done()),
        }
    }

    /// What would outlast an upload: into the spool, however long that takes, and from there into one.
    async fn store_by_spool(
        &self,
        spool: &Spool,
        mut supply: Supply<'_>,
        view: &View,
        put: &Put,
        class: Option<&Class>,
    ) -> Result<(Datacenter, Stored), NotDone> {
        let mut spooled = match spool.claim(&put.content, put.size).await {
            Ok(spooled) => spooled,
            Err(why @ (SpoolError::Claimed | SpoolError::Full { .. })) => {
                return Err(NotDone::Crowded(why.to_string()));
            }
            Err(why) => return Err(NotDone::Failed(why.to_string())),
        };
        let path = spooled.path.display().to_string();
        let disk = |why: std::io::Error| NotDone::Failed(format!("the spool {path}: {why}"));
        let (given, digest) = spooled.there(put.size).await.map_err(disk)?;
        if supply.has_digest() {
            supply.ask_all_behind(given, digest);
        } else {
            // Nobody knows who gave it.
            spooled.clear().await.map_err(disk)?;
            supply.ask_all_behind(0, Md5::new());
        }
        let checksum = loop {
            match supply.next().await {
                Ok(Some(chunk)) => spooled.write(&chunk).await.map_err(disk)?,
                Ok(None) => match supply.checksum() {
                    Some(checksum) => break checksum,
                    None => {
                        supply.restart();
                        spooled.clear().await.map_err(disk)?;
                    }
                },
                // What is there the next try goes on with.
                Err(Nobody) if supply.has_digest() || supply.is_at_its_beginning() => {
                    return Err(supply.not_done());
                }
                Err(Nobody) => {
                    supply.restart();
                    spooled.clear().await.map_err(disk)?;
                }
            }
        };
        let source = supply
            .giver()
            .cloned()
            .unwrap_or(put.content.origin.clone());
        let mut bad_devices = BTreeSet::new();
        loop {
            let upload = self.open_upload(view, put, class, &bad_devices).await?;
            spooled.rewind().await.map_err(disk)?;
            let mut read = Md5::new();
            let stored = self
                .transfer(&upload, put.size, async |chunks| {
                    while let Ok(Some(part)) = spooled.read().await {
                        read.update(&part);
                        send(&chunks, part, self.fetcher.patience.stall).await?;
                    }
                    Ok(())
                })
                .await;
            match stored {
                Ok(()) if Checksum::md5(&read.finalize()) == checksum => {
                    spooled.remove().await;
                    return Ok((source, Stored { upload, checksum }));
                }
                Ok(()) | Err(StoreError::Source) => {
                    self.give_up(&view.file.domain, &upload).await;
                    spooled.remove().await;
                    return Err(NotDone::Failed(format!(
                        "what was read into the spool is not there any more as it was: {path}"
                    )));
                }
                Err(StoreError::NotDone(why)) => return Err(why),
                Err(StoreError::Destination(error, devid)) => {
                    self.give_up(&view.file.domain, &upload).await;
                    no_longer(&mut bad_devices, devid, &error)?;
                }
            }
        }
    }

    /// The rate at which a copy from there would take too long for an upload, as far as can be told: by what was measured lately, and by
    /// what the budget allows at best.
    fn would_outlast(&self, source: &Datacenter, size: u64) -> Option<f64> {
        let limits = self.budget.limits();
        let allowed = [limits.bytes_per_second, limits.bytes_per_source];
        let allowed = allowed.into_iter().flatten().map(|rate| rate as f64);
        let rate = allowed.chain(self.sources.rate(source)).reduce(f64::min)?;
        (size as f64 / rate > whole_copy().as_secs_f64()).then_some(rate)
    }

    /// Where the bytes can be had: from another key here, then from other datacenters in their order ([`super::sources`]).
    fn sources(
        &self,
        registry: &Reading,
        view: &View,
        put: &Put,
        from: Option<&View>,
    ) -> Vec<Source> {
        let mut sources = Vec::new();
        let mut add = |view: &View, datacenter: &Datacenter, held: &Held| {
            if held.content == put.content
                && !held.claimed
                && !held.is_damaged()
                && let Some(known) = registry.datacenter(datacenter)
            {
                sources.push(Source {
                    known: known.clone(),
                    file: view.file.clone(),
                    fid: held.fid,
                });
            }
        };
        let holders = |view: &View| -> BTreeMap<Datacenter, Held> {
            let replicas = &view.record.replicas;
            replicas
                .iter()
                .filter_map(|(dc, replica)| Some((dc.clone(), replica.held.clone()?)))
                .collect()
        };
        let (there, elsewhere) = (holders(view), from.map(holders).unwrap_or_default());
        if let (Some(from), Some(held)) = (from, elsewhere.get(&self.datacenter)) {
            add(from, &self.datacenter, held);
        }
        let order = |datacenter: &&Datacenter| {
            let rank = self.sources.rank(datacenter, &put.content.origin);
            (rank, (*datacenter).clone())
        };
        for (view, holders) in [(Some(view), &there), (from, &elsewhere)] {
            let Some(view) = view else { continue };
            let mut datacenters: Vec<&Datacenter> = holders
                .keys()
                .filter(|datacenter| **datacenter != self.datacenter)
                .collect();
            datacenters.sort_by_key(order);
            for datacenter in datacenters {
                add(view, datacenter, &holders[datacenter]);
            }
        }
        sources
    }

    /// The ledger's class, else the one that the bytes have somewhere.
    fn class_of(&self, view: &View, put: &Put) -> Option<Class> {
        let holder = |content: &Content| {
            let mut held = view
                .record
                .replicas
                .values()
                .filter_map(|replica| replica.held.as_ref());
            held.find(|held| held.content == *content && !held.claimed)
                .map(|held| held.class.clone())
        };
        view.record
            .class()
            .cloned()
            .or_else(|| holder(&put.content))
    }

    /// One attempt: from where the supply stands open into one upload.
    async fn store(
        &self,
        supply: &mut Supply<'_>,
        view: &View,
        put: &Put,
        class: Option<&Class>,
        bad_devices: &BTreeSet<u32>,
    ) -> Result<Stored, StoreError> {
        let upload = self
            .open_upload(view, put, class, bad_devices)
            .await
            .map_err(StoreError::NotDone)?;
        pass(failpoint::COPY_OPENED);
        let within = whole_copy();
        let until = Until {
            began: upload.since,
            within,
            judge_after: within / 50,
        };
        let transferred = self
            .transfer(&upload, put.size, async |chunks| {
                supply.fill(chunks, until).await
            })
            .await;
        let stored = match transferred {
            Ok(()) => supply.checksum().ok_or(StoreError::Source),
            Err(error) => Err(error),
        };
        match stored {
            Ok(checksum) => {
                pass(failpoint::COPY_UPLOADED);
                Ok(Stored { upload, checksum })
            }
            Err(error) => {
                self.give_up(&view.file.domain, &upload).await;
                Err(error)
            }
        }
    }

    async fn open_upload(
        &self,
        view: &View,
        put: &Put,
        class: Option<&Class>,
        bad_devices: &BTreeSet<u32>,
    ) -> Result<Upload, NotDone> {
        let since = Instant::now();
        let opened = self.open(view, put, class).await?;
        match best(&opened, bad_devices) {
            Some(to) => Ok(Upload {
                fid: opened.fid,
                to,
                since,
            }),
            None => Err(NotDone::Failed(
                "the local tracker names no place to store it".into(),
            )),
        }
    }

    /// All bytes into one upload, as `fill` sends them. Who stands still ends it, on either side.
    async fn transfer(
        &self,
        upload: &Upload,
        size: u64,
        fill: impl AsyncFnOnce(mpsc::Sender<Bytes>) -> Result<(), Unfilled>,
    ) -> Result<(), StoreError> {
        let (chunks, body) = mpsc::channel(CHUNKS);
        let to = &upload.to;
        let destination = |error| StoreError::Destination(error, to.devid);
        let because = |why: String| {
            destination(FetchError::Destination {
                url: to.path.clone(),
                why,
            })
        };
        let too_early = || because(format!("answered before it had all of {size} bytes"));
        let mut answer = std::pin::pin!(self.fetcher.put(&to.path, size, body));
        let filled = tokio::select! {
            biased;
            filled = fill(chunks) => filled,
            early = &mut answer => {
                early.map_err(destination)?;
                return Err(too_early());
            }
        };
        match &filled {
            Ok(()) | Err(Unfilled::Gone) => match timeout(LAST_ANSWER, answer).await {
                Ok(answer) => answer.map_err(destination)?,
                Err(_elapsed) => return Err(because(format!("no answer within {LAST_ANSWER:?}"))),
            },
            Err(Unfilled::Nobody) => return Err(StoreError::Source),
            Err(Unfilled::NotTaken(limit)) => {
                return Err(because(format!("nothing moved for {limit:?}")));
            }
        }
        filled.map_err(|_| too_early())
    }

    async fn open(&self, view: &View, put: &Put, class: Option<&Class>) -> Result<Opened, NotDone> {
        let (domain, key) = (view.file.domain.bytes(), view.file.key.bytes());
        let class_name = class
            .filter(|class| **class != Class::default_class())
            .map(Class::bytes);
        let request = CreateOpen {
            domain: &domain,
            key: &key,
            class: class_name.as_deref(),
            fid: None,
            size: Some(put.size).filter(|size| *size > 0),
            multi_dest: true,
        };
        match self.local.create_open(&request).await {
            Err(error)
                if self.config.create_domains
                    && (error.is_code("unreg_domain") || error.is_code("unreg_class")) =>
            {
                self.make_domain_as_elsewhere(&view.record, &view.file.domain)
                    .await?;
                Ok(self.local.create_open(&request).await?)
            }
            answer => Ok(answer?),
        }
    }

    /// Puts verified bytes under their key.
    async fn close(
        &self,
        view: &View,
        head: &Revision,
        put: &Put,
        class: Option<&Class>,
        source: Datacenter,
        stored: Stored,
    ) -> Result<Did, NotDone> {
        let Stored { upload, checksum } = stored;
        let permit = match self
            .permit(&[(view, Wanted::AtMostBelieved)], head.version)
            .await
        {
            Ok(permit) => permit,
            Err(why) => {
                self.give_up(&view.file.domain, &upload).await;
                return Err(why);
            }
        };
        let mutation = Mutation::Put {
            file: view.file.clone(),
            fid: Some(Fid(upload.fid)),
            details: Details {
                class: Some(class.cloned().unwrap_or_else(Class::default_class)),
                size: Some(put.size),
                // What the head says already need not be said again.
                checksum: put.checksum.is_none().then(|| checksum.clone()),
            },
        };
        let by = By::Repair {
            content: Some(put.content.clone()),
        };
        let intent = match self.intend(&permit, by, mutation).await {
            Ok(intent) => intent,
            Err(why) => {
                drop(permit);
                self.give_up(&view.file.domain, &upload).await;
                return Err(why);
            }
        };
        pass(failpoint::COPY_INTENT);
        let (domain, key) = (view.file.domain.bytes(), view.file.key.bytes());
        let answer = self
            .local
            .create_close(&CreateClose {
                domain: &domain,
                key: &key,
                fid: upload.fid,
                devid: upload.to.devid,
                path: &upload.to.path,
                size: Some(put.size),
                checksum: Some(&checksum.0),
                checksumverify: false,
            })
            .await;
        pass(failpoint::COPY_CLOSED);
        // The tracker keeps an upload open that it would not even look at.
        let still_open = answer
            .as_ref()
            .is_err_and(|error| error.is_code("bogus_args"));
        let settled = self.settle(intent, permit, answer);
        pass(failpoint::COPY_OUTCOME);
        if still_open {
            self.give_up(&view.file.domain, &upload).await;
        }
        settled?;
        self.figures.files.fetch_add(1, Ordering::Relaxed);
        self.sources.copied(&source);
        let lag = wall_clock().0.saturating_sub(head.version.0).max(0);
        self.tell(
            &view.file,
            What::Copied {
                from: source,
                size: put.size,
                took: upload.since.elapsed(),
                lag: Duration::from_micros(lag.unsigned_abs()),
            },
        );
        Ok(Did::Copied)
    }

    /// Tells the tracker that an upload is not wanted. If that fails, it finds out by itself after an hour.
    async fn give_up(&self, domain: &Domain, upload: &Upload) {
        let given_up = self
            .local
            .create_close(&CreateClose {
                domain: &domain.bytes(),
                key: b"",
                fid: upload.fid,
                devid: upload.to.devid,
                path: &upload.to.path,
                size: None,
                checksum: None,
                checksumverify: false,
            })
            .await;
        if let Err(error) = given_up {
            tracing::debug!(fid = upload.fid, "give up an upload: {error}");
        }
    }

    /// Makes a domain and its classes here as they are in a datacenter that holds the file.
    pub(super) async fn make_domain_as_elsewhere(
        &self,
        record: &FileRecord,
        domain: &Domain,
    ) -> Result<(), NotDone> {
        let registry = self.registry().await?;
        let origin = record.head.as_ref().map(|head| &head.origin);
        let holders = record
            .replicas
            .keys()
            .filter(|dc| record.replicas[*dc].held.is_some());
        let mut why = "no datacenter that we can ask knows the domain".to_owned();
        for datacenter in origin
            .into_iter()
            .chain(holders)
            .filter(|dc| **dc != self.datacenter)
        {
            let Some(known) = registry.datacenter(datacenter) else {
                continue;
            };
            match known.trackers.get_domains().await {
                Ok(domains) => {
                    if let Some(there) = domains.iter().find(|there| there.name == *domain.bytes())
                    {
                        return self.make_domain(domain, there).await;
                    }
                }
                Err(error) => why = format!("{datacenter}: {error}"),
            }
        }
        Err(NotDone::Failed(format!(
            "domain {domain} is not here and cannot be made: {why}"
        )))
    }

    async fn make_domain(
        &self,
        domain: &Domain,
        there: &mogilefs_protocol::client::Domain,
    ) -> Result<(), NotDone> {
        let exists = |made: Result<(), TrackerError>, code: &str| match made {
            Err(error) if !error.is_code(code) => Err(error),
            Ok(()) | Err(_) => Ok(()),
        };
        exists(self.local.create_domain(domain).await, "domain_exists")?;
        for class in &there.classes {
            if class.name == b"default" {
                continue;
            }
            let made = self
                .local
                .create_class(&ClassSettings {
                    domain: &domain.bytes(),
                    class: &class.name,
                    mindevcount: class.mindevcount,
                    replpolicy: Some(class.replpolicy.as_str()).filter(|policy| !policy.is_empty()),
                    hashtype: class.hashtype.as_deref(),
                })
                .await;
            exists(made, "class_exists")?;
        }
        Ok(())
    }
}

/// Why one attempt stored nothing.
enum StoreError {
    /// No source gave the bytes, or they were others; the supply knows why.
    Source,
    /// They did not get to this local device.
    Destination(FetchError, u32),
    /// Further attempts are of no use now.
    NotDone(NotDone),
}

/// Counts a local device out; an error when that were too many.
fn no_longer(bad: &mut BTreeSet<u32>, devid: u32, error: &FetchError) -> Result<(), NotDone> {
    bad.insert(devid);
    match bad.len() < DESTINATIONS {
        true => Ok(()),
        false => Err(NotDone::Failed(format!(
            "no local storage node takes it: {error}"
        ))),
    }
}

/// The first destination on a device that has not failed, else the first.
fn best(opened: &Opened, bad_devices: &BTreeSet<u32>) -> Option<Destination> {
    let good = opened
        .destinations
        .iter()
        .find(|to| !bad_devices.contains(&to.devid));
    good.or(opened.destinations.first()).cloned()
}
