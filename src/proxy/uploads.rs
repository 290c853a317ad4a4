//! What create_open said of an upload, for the create_close that comes later: its class.
//!
//! Bounded and expiring: what is not known any more is asked of the tracker afterwards, off the client's path.
//! Lost with the process, which does no harm for the same reason.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use mogilefs_protocol::args::Args;
use mogilefs_protocol::reply::{self, Reply};
use parking_lot::Mutex;

use crate::file::{Class, Domain, Fid};

use super::record;

/// A tracker removes an upload that is open for an hour; twice that leaves no doubt.
const KEPT_FOR: Duration = Duration::from_secs(2 * 3600);

/// Uploads remembered at most; some 200 bytes each.
const KEPT_MOST: usize = 100_000;

/// Fids are consecutive, so the shards are even, and two threads seldom want the same one.
const SHARDS: usize = 32;

/// The uploads opened through this process.
pub(super) struct Uploads {
    shards: Vec<Mutex<Shard>>,
    kept_for: Duration,
    most: usize,
}

#[derive(Default)]
struct Shard {
    by_fid: HashMap<Fid, Upload>,
    /// In the order of opening, with those that were opened anew or forgotten since.
    order: VecDeque<(Instant, Fid)>,
}

struct Upload {
    opened: Instant,
    domain: Domain,
    class: Class,
}

impl Default for Uploads {
    fn default() -> Self {
        Self::bounded(KEPT_FOR, KEPT_MOST / SHARDS)
    }
}

impl Uploads {
    fn bounded(kept_for: Duration, most: usize) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            kept_for,
            most,
        }
    }

    /// Notes the answer (without its end) to a create_open with these arguments.
    pub(super) fn note(&self, asked: &Args<'_>, answer: &[u8]) {
        let Ok(Reply::Ok(fields)) = reply::parse(answer) else {
            return;
        };
        let [domain, class] = asked.pick(["domain", "class"]);
        let (Some(fid), Some(domain)) = (fields.get("fid"), domain) else {
            return;
        };
        let Some(fid) = record::number(&fid) else {
            return;
        };
        let class = match class.as_deref() {
            None | Some(b"") => Class::default_class(),
            Some(name) => Class::from_bytes(name),
        };
        self.insert(fid, Domain::from_bytes(&domain), class);
    }

    /// The class that the upload was opened with, if that was in this domain.
    pub(super) fn class_of(&self, fid: Fid, domain: &Domain) -> Option<Class> {
        let shard = self.shard(fid).lock();
        let upload = shard.by_fid.get(&fid)?;
        let known = upload.domain == *domain && upload.opened.elapsed() < self.kept_for;
        known.then(|| upload.class.clone())
    }

    /// Forgets an upload that was closed.
    pub(super) fn forget(&self, fid: Fid) {
        self.shard(fid).lock().by_fid.remove(&fid);
    }

    fn insert(&self, fid: Fid, domain: Domain, class: Class) {
        let opened = Instant::now();
        let mut shard = self.shard(fid).lock();
        while shard.order.len() >= self.most
            || shard
                .order
                .front()
                .is_some_and(|(opened, _)| opened.elapsed() > self.kept_for)
        {
            let Some((since, oldest)) = shard.order.pop_front() else {
                break;
            };
            if shard
                .by_fid
                .get(&oldest)
                .is_some_and(|upload| upload.opened == since)
            {
                shard.by_fid.remove(&oldest);
            }
        }
        shard.order.push_back((opened, fid));
        let upload = Upload {
            opened,
            domain,
            class,
        };
        shard.by_fid.insert(fid, upload);
    }

    fn shard(&self, fid: Fid) -> &Mutex<Shard> {
        &self.shards[(fid.0 % SHARDS as u64) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(name: &str) -> Domain {
        Domain::from_bytes(name.as_bytes())
    }

    #[test]
    fn a_class_is_known_in_its_domain_until_the_close() {
        let uploads = Uploads::default();
        let asked = Args::new(b"domain=photos&class=thumb&key=a");
        uploads.note(&asked, b"OK devid=1&fid=7&path=x");
        uploads.note(&Args::new(b"domain=photos&class="), b"OK fid=8");
        uploads.note(&asked, b"ERR no_devices x");
        let class = |fid| uploads.class_of(Fid(fid), &domain("photos"));
        assert_eq!(class(7), Some(Class::from_bytes(b"thumb")));
        assert_eq!(class(8), Some(Class::default_class()));
        assert_eq!(uploads.class_of(Fid(7), &domain("docs")), None);
        uploads.forget(Fid(7));
        assert_eq!(class(7), None);
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many() {
        let uploads = Uploads::bounded(KEPT_FOR, 2);
        for fid in (0..10).map(|n| n * SHARDS as u64) {
            uploads.insert(Fid(fid), domain("d"), Class::default_class());
        }
        let kept: Vec<bool> = (0..10)
            .map(|n| {
                uploads
                    .class_of(Fid(n * SHARDS as u64), &domain("d"))
                    .is_some()
            })
            .collect();
        assert_eq!(
            kept,
            [
                false, false, false, false, false, false, false, false, true, true
            ]
        );
        let short = Uploads::bounded(Duration::ZERO, 2);
        short.insert(Fid(1), domain("d"), Class::default_class());
        assert_eq!(short.class_of(Fid(1), &domain("d")), None, "expired");
    }
}
