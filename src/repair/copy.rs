//! Copying: the bytes of one content from a datacenter that has them into the local tracker.
//!
//! Always true: what is closed here has the size that the head names, and its MD5 where one is known; it came from the
//! very fid that the source's replica names; it is closed under the key's lock, with nothing newer about.
//! Never here: a whole file in memory; a URL that the source's registry entry does not allow; a replica
//! that only an outsider has claimed, or that is known to be damaged.
//! Killed in the middle: an upload that is not closed is reaped by the tracker after an hour; a closing has its intent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use mogilefs_protocol::client::{ClassSettings, CreateClose, CreateOpen, Destination, Opened};
use reqwest::Url;
use tokio::time::Instant;

use crate::events::What;
use crate::failpoint::{self, pass};
use crate::file::{
    Checksum, Class, Content, Datacenter, Domain, Fid, FileName, Held, Put, Revision,
};
use crate::journal::{By, Details, Mutation};
use crate::ledger::FileRecord;
use crate::trackers::TrackerError;
use crate::version::wall_clock;

use super::apply::{Wanted, settle};
use super::fetch::{self, FetchError, Refused};
use super::reconcile::{Did, NotDone, Reconciler, View};
use super::registry::{Known, Reading};

/// A copy ends before the tracker reaps its upload, which it does after an hour.
pub(super) const WHOLE_COPY: Duration = Duration::from_secs(50 * 60);

/// Paths asked of a source: as many as a file is likely to have copies.
const PATHS: u32 = 8;

/// Local destinations that may fail before a copy does.
const DESTINATIONS: usize = 3;

/// How long a file waits for its turn. One that waits longer is parked: it must not stand in the way of what needs no copy.
const TURN: Duration = Duration::from_secs(15);

/// How the last error of a gap begins that was left because nobody gave the bytes.
pub(super) const NO_SOURCE: &str = "no datacenter gives these bytes: ";

/// Somewhere that the bytes can be had from.
struct Source {
    known: Known,
    file: FileName,
    fid: Fid,
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
        let turn = tokio::time::timeout(TURN, self.copies.acquire()).await;
        let _one_of = match turn {
            Ok(Ok(turn)) => turn,
            Ok(Err(_closed)) => return Err(NotDone::Later("repair is stopping".into())),
            Err(_elapsed) => {
                let all = self.config.copies_at_once;
                return Err(NotDone::Crowded(format!(
                    "{all} other copies are being made (repair.copies_at_once)"
                )));
            }
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
        let copy = tokio::time::timeout(WHOLE_COPY, self.copy_now(view, head, put, from));
        copy.await.unwrap_or_else(|_elapsed| {
            Err(NotDone::Failed(format!(
                "not copied within {} minutes; the tracker would give up the upload",
                WHOLE_COPY.as_secs() / 60
            )))
        })
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
        let mut missed = Missed::default();
        for source in &sources {
            if let Some(stored) = self
                .copy_from(source, view, put, class.as_ref(), &mut missed)
                .await?
            {
                return self.close(view, head, put, class, source, stored).await;
            }
        }
        let why = missed.whys.join("; ");
        // Where a source has gone on, the ledger is about to say so too.
        Err(if missed.moved_on {
            NotDone::Later(why)
        } else {
            NotDone::Failed(format!("{NO_SOURCE}{why}"))
        })
    }

    /// Where the bytes can be had, the nearest first: from another key here, from the origin, from the rest.
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
        let order =
            |datacenter: &&Datacenter| (**datacenter != put.content.origin, (*datacenter).clone());
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

    /// Tries all paths of one source. `None`, and why, if none of them has the bytes.
    async fn copy_from(
        &self,
        source: &Source,
        view: &View,
        put: &Put,
        class: Option<&Class>,
        missed: &mut Missed,
    ) -> Result<Option<Stored>, NotDone> {
        let name = &source.known.record.name;
        let paths = match source.known.trackers.get_paths(&source.file, PATHS).await {
            Ok(paths) => paths,
            Err(error) => {
                missed.moved_on |= error.is_code("unknown_key");
                missed.whys.push(format!("{name}: {error}"));
                return Ok(None);
            }
        };
        if paths.is_empty() {
            missed.whys.push(format!(
                "{name}: its tracker names no storage node that has it"
            ));
        }
        let mut bad_devices = BTreeSet::new();
        for path in &paths {
            let url = match fetch::allowed(path, &source.known.record, source.fid) {
                Ok(url) => url,
                Err(why) => {
                    missed.moved_on |= matches!(why, Refused::OtherFid { .. });
                    missed.whys.push(format!("{name}: {why}"));
                    continue;
                }
            };
            loop {
                match self
                    .store(url.clone(), view, put, class, &bad_devices)
                    .await
                {
                    Ok(stored) => return Ok(Some(stored)),
                    Err(StoreError::Fetch(error @ FetchError::Source { .. }, _)) => {
                        missed.whys.push(format!("{name}: {error}"));
                        break;
                    }
                    Err(StoreError::Fetch(error @ FetchError::Destination { .. }, devid)) => {
                        bad_devices.insert(devid);
                        if bad_devices.len() >= DESTINATIONS {
                            return Err(NotDone::Failed(format!(
                                "no local storage node takes it: {error}"
                            )));
                        }
                    }
                    Err(StoreError::Wrong(why)) => {
                        missed.whys.push(format!("{name}: {why}"));
                        break;
                    }
                    Err(StoreError::NotDone(why)) => return Err(why),
                }
            }
        }
        Ok(None)
    }

    /// One attempt: from one URL into one upload.
    async fn store(
        &self,
        url: Url,
        view: &View,
        put: &Put,
        class: Option<&Class>,
        bad_devices: &BTreeSet<u32>,
    ) -> Result<Stored, StoreError> {
        let begun = fetch::begin(&self.http, url.clone(), put.size)
            .await
            .map_err(|error| StoreError::Fetch(error, 0))?;
        let since = Instant::now();
        let opened = self
            .open(view, put, class)
            .await
            .map_err(StoreError::NotDone)?;
        let Some(to) = best(&opened, bad_devices) else {
            return Err(StoreError::NotDone(NotDone::Failed(
                "the local tracker names no place to store it".into(),
            )));
        };
        let upload = Upload {
            fid: opened.fid,
            to,
            since,
        };
        pass(failpoint::COPY_OPENED);
        let passed = fetch::pass_on(
            &self.http,
            begun,
            &upload.to.path,
            put.size,
            &self.figures.bytes,
        )
        .await;
        let wrong = match (passed, view.record.checksum()) {
            (Ok(checksum), Some(wanted)) if *wanted != checksum => StoreError::Wrong(format!(
                "the bytes at {url} have {checksum} where {wanted} is expected"
            )),
            (Ok(checksum), _) => {
                pass(failpoint::COPY_UPLOADED);
                return Ok(Stored { upload, checksum });
            }
            (Err(error), _) => StoreError::Fetch(error, upload.to.devid),
        };
        self.give_up(&view.file.domain, &upload).await;
        Err(wrong)
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
        class: Option<Class>,
        source: &Source,
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
                class: Some(class.unwrap_or_else(Class::default_class)),
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
        let settled = settle(intent, &permit, answer);
        pass(failpoint::COPY_OUTCOME);
        drop(permit);
        if still_open {
            self.give_up(&view.file.domain, &upload).await;
        }
        settled?;
        self.figures.files.fetch_add(1, Ordering::Relaxed);
        let lag = wall_clock().0.saturating_sub(head.version.0).max(0);
        self.tell(
            &view.file,
            What::Copied {
                from: source.known.record.name.clone(),
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

/// Why no source has given the bytes so far.
#[derive(Default)]
struct Missed {
    whys: Vec<String>,
    /// A source has other bytes under the key than its replica names.
    moved_on: bool,
}

/// Why one attempt stored nothing.
enum StoreError {
    /// The transfer failed; with the local device that it went to.
    Fetch(FetchError, u32),
    /// The source has other bytes.
    Wrong(String),
    /// Further attempts are of no use now.
    NotDone(NotDone),
}

/// The first destination on a device that has not failed, else the first.
fn best(opened: &Opened, bad_devices: &BTreeSet<u32>) -> Option<Destination> {
    let good = opened
        .destinations
        .iter()
        .find(|to| !bad_devices.contains(&to.devid));
    good.or(opened.destinations.first()).cloned()
}
