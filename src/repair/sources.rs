//! How the sources of copies are doing, and which is asked first: each datacenter, and each of its storage hosts.
//!
//! A *breaker* stands before every tracker and every storage host that copies come from. After [`TOO_OFTEN`] failures in a row it
//! opens: whoever comes is told why at once, and goes elsewhere. When its pause is over one may try; if that works it closes, else it
//! opens for longer.
//!
//! Always true: only what a source owes to all files counts (it is not reached, it does not answer, it says that it is sick); that it has
//! not the bytes of one file, or others, says nothing of the next one. No breaker stays open for good: nobody has to close it.
//! Never here: what is wrong with one file. That is in its gap.
//! Killed in the middle: nothing is kept; after a start all are asked.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use rand::RngExt;
use tokio::time::Instant;

use crate::file::Datacenter;
use crate::machine;
use crate::version::wall_clock;

use super::status::{BreakerState, HostStatus, LastError, SourceStatus};

/// So many failures in a row open a breaker: more than a node's restart causes where four copies meet it.
const TOO_OFTEN: u32 = 5;

/// The first pause of an open breaker, and the longest: what has come back is asked within a minute.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Whoever tries has this time before another one may: longer than a try takes.
const TRIAL: Duration = Duration::from_secs(60);

/// How much a new measurement counts beside those before.
const WEIGHT: f64 = 0.2;

/// A rate is of no use for a forecast after this time: the link may be another by now.
const STALE: Duration = Duration::from_secs(600);

/// Bodies that are smaller tell of latency, not of a rate.
const TELLING: u64 = 1 << 20;

/// Hosts that are kept of one datacenter.
const HOSTS: usize = 1000;

/// How all sources are doing.
pub(super) struct Sources {
    /// `repair.prefer_sources`
    prefer: Vec<Datacenter>,
    known: Mutex<BTreeMap<Datacenter, Health>>,
}

#[derive(Default)]
struct Health {
    trackers: Breaker,
    hosts: BTreeMap<String, Breaker>,
    /// Seconds from a request to the first byte.
    first_byte: Option<f64>,
    /// Bytes in a second of one copy, and when it was measured.
    rate: Option<(f64, Instant)>,
    files: u64,
    bytes: u64,
    failures: u64,
    last_error: Option<LastError>,
}

/// A breaker stands open: nobody is to wait for what lies behind.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "{what} is left alone for {wait:.0?} more, after {failures} failures in a row; the last: {why}"
)]
pub(super) struct LeftAlone {
    what: String,
    wait: Duration,
    failures: u32,
    why: String,
}

/// Where a source stands among others: less is better.
#[derive(PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Rank {
    /// Nothing there answers.
    broken: bool,
    /// As the operator wants it.
    preference: usize,
    /// Doublings of a millisecond: a small difference is chance.
    distance: u32,
    /// Whoever stored it has it for sure.
    not_origin: bool,
}

impl Sources {
    pub(super) fn new(prefer: Vec<Datacenter>) -> Sources {
        Sources {
            prefer,
            known: Mutex::default(),
        }
    }

    pub(super) fn rank(&self, datacenter: &Datacenter, origin: &Datacenter) -> Rank {
        let known = self.known.lock();
        let health = known.get(datacenter);
        let place = self.prefer.iter().position(|name| name == datacenter);
        let first_byte = health.and_then(|health| health.first_byte);
        Rank {
            broken: health.is_some_and(|health| health.state(Instant::now()) == BreakerState::Open),
            preference: place.unwrap_or(self.prefer.len()),
            // One that was never asked comes first, so that it is known from then on.
            distance: first_byte.map_or(0, |seconds| (seconds * 1000.0).max(1.0).log2() as u32),
            not_origin: datacenter != origin,
        }
    }

    /// Whether the trackers of a datacenter may be asked.
    pub(super) fn may_ask(&self, datacenter: &Datacenter) -> Result<(), LeftAlone> {
        let mut known = self.known.lock();
        let health = known.entry(datacenter.clone()).or_default();
        health
            .trackers
            .may_try(Instant::now(), || "its tracker".to_owned())
    }

    /// The trackers of a datacenter have answered, whatever.
    pub(super) fn tracker_answered(&self, datacenter: &Datacenter) {
        self.change(datacenter, |health| health.trackers.worked());
    }

    pub(super) fn tracker_failed(&self, datacenter: &Datacenter, why: &str) {
        self.change(datacenter, |health| {
            health.trackers.failed(Instant::now(), why);
            health.note(why);
        });
    }

    /// Whether a storage host may be asked.
    pub(super) fn may_fetch(&self, datacenter: &Datacenter, host: &str) -> Result<(), LeftAlone> {
        let mut known = self.known.lock();
        let health = known.entry(datacenter.clone()).or_default();
        match health.hosts.get_mut(host) {
            None => Ok(()),
            Some(breaker) => breaker.may_try(Instant::now(), || host.to_owned()),
        }
    }

    /// The first byte of an answer came after this time.
    pub(super) fn began(&self, datacenter: &Datacenter, took: Duration) {
        self.change(datacenter, |health| {
            let seconds = took.as_secs_f64();
            health.first_byte = Some(beside(health.first_byte, seconds));
        });
    }

    /// A storage host gave what was asked for, or said that it has not got it. (That it began to answer is not enough: it may hang.)
    pub(super) fn host_works(&self, datacenter: &Datacenter, host: &str) {
        self.change(datacenter, |health| health.host(host).worked());
    }

    pub(super) fn host_failed(&self, datacenter: &Datacenter, host: &str, why: &str) {
        self.change(datacenter, |health| {
            health.host(host).failed(Instant::now(), why);
            health.note(why);
        });
    }

    /// What it gave was of no use for the file that was wanted.
    pub(super) fn was_of_no_use(&self, datacenter: &Datacenter, why: &str) {
        self.change(datacenter, |health| health.note(why));
    }

    /// Bytes came from it, within a time in which nobody held them back.
    pub(super) fn gave(&self, datacenter: &Datacenter, bytes: u64, took: Duration) {
        self.change(datacenter, |health| {
            health.bytes += bytes;
            if bytes >= TELLING {
                let rate = bytes as f64 / took.as_secs_f64().max(0.001);
                let before = health.fresh_rate(Instant::now());
                health.rate = Some((beside(before, rate), Instant::now()));
            }
        });
    }

    /// A copy from it is done.
    pub(super) fn copied(&self, datacenter: &Datacenter) {
        self.change(datacenter, |health| health.files += 1);
    }

    /// Bytes in a second that a copy from there is likely to get. `None` if that was not measured lately.
    pub(super) fn rate(&self, datacenter: &Datacenter) -> Option<f64> {
        let known = self.known.lock();
        known.get(datacenter)?.fresh_rate(Instant::now())
    }

    pub(super) fn status(&self) -> Vec<SourceStatus> {
        let now = Instant::now();
        let known = self.known.lock();
        let told = known.iter().map(|(datacenter, health)| SourceStatus {
            datacenter: datacenter.clone(),
            state: health.state(now),
            first_byte_seconds: health.first_byte,
            bytes_per_second: health.fresh_rate(now),
            files: health.files,
            bytes: health.bytes,
            failures: health.failures,
            last_error: health.last_error.clone(),
            hosts: health
                .hosts
                .iter()
                .map(|(host, breaker)| HostStatus {
                    host: host.clone(),
                    state: breaker.state(now),
                    failures_in_a_row: breaker.in_a_row,
                    next_try_seconds: breaker.wait(now).map(|wait| wait.as_secs_f64()),
                })
                .collect(),
        });
        told.collect()
    }

    fn change(&self, datacenter: &Datacenter, change: impl FnOnce(&mut Health)) {
        let mut known = self.known.lock();
        match known.get_mut(datacenter) {
            Some(health) => change(health),
            None => change(known.entry(datacenter.clone()).or_default()),
        }
    }
}

/// The average with one more measurement.
fn beside(before: Option<f64>, new: f64) -> f64 {
    before.map_or(new, |before| before + WEIGHT * (new - before))
}

impl Health {
    fn host(&mut self, host: &str) -> &mut Breaker {
        if self.hosts.len() >= HOSTS && !self.hosts.contains_key(host) {
            self.hosts.pop_first();
        }
        self.hosts.entry(host.to_owned()).or_default()
    }

    fn note(&mut self, why: &str) {
        self.failures += 1;
        self.last_error = Some(LastError {
            at: wall_clock(),
            error: why.to_owned(),
        });
    }

    fn fresh_rate(&self, now: Instant) -> Option<f64> {
        let (rate, at) = self.rate?;
        (now.duration_since(at) < STALE).then_some(rate)
    }

    /// Of its trackers, and of all its storage hosts together.
    fn state(&self, now: Instant) -> BreakerState {
        let hosts = self.hosts.values().map(|breaker| breaker.state(now)).min();
        self.trackers.state(now).max(hosts.unwrap_or_default())
    }
}

#[derive(Default)]
struct Breaker {
    in_a_row: u32,
    open: Option<Open>,
}

struct Open {
    until: Instant,
    pause: Duration,
    /// Somebody may try since it was open for so long.
    trying: bool,
    why: String,
}

impl Breaker {
    fn state(&self, now: Instant) -> BreakerState {
        match &self.open {
            None => BreakerState::Closed,
            Some(open) if open.until <= now => BreakerState::HalfOpen,
            Some(_) => BreakerState::Open,
        }
    }

    fn wait(&self, now: Instant) -> Option<Duration> {
        let open = self.open.as_ref()?;
        Some(open.until.saturating_duration_since(now))
    }

    /// One of those who ask after the pause may try; the others wait for what comes of it.
    fn may_try(&mut self, now: Instant, what: impl FnOnce() -> String) -> Result<(), LeftAlone> {
        let Some(open) = &mut self.open else {
            return Ok(());
        };
        if open.until <= now {
            // Also if nothing is ever heard of it.
            open.until = now + TRIAL;
            open.trying = true;
            return Ok(());
        }
        Err(LeftAlone {
            what: what(),
            wait: open.until - now,
            failures: self.in_a_row,
            why: open.why.clone(),
        })
    }

    fn worked(&mut self) {
        self.in_a_row = 0;
        self.open = None;
    }

    fn failed(&mut self, now: Instant, why: &str) {
        self.in_a_row = self.in_a_row.saturating_add(1);
        if self.in_a_row < TOO_OFTEN {
            return;
        }
        let pause = match &self.open {
            // Those who were under way when it opened say nothing new.
            Some(open) if !open.trying => return,
            Some(open) => (open.pause * 2).min(PAUSES.1),
            None => PAUSES.0,
        };
        self.open = Some(Open {
            until: now + pause.mul_f64(machine::rng().random_range(0.8..1.2)),
            pause,
            trying: false,
            why: why.to_owned(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dc(name: &str) -> Datacenter {
        name.parse().expect("a name")
    }

    #[tokio::test(start_paused = true)]
    async fn a_breaker_opens_lets_one_try_and_closes() {
        let sources = Sources::new(Vec::new());
        let (ma, host) = (dc("ma01"), "10.0.0.1:7500");
        let may = || sources.may_fetch(&ma, host);
        for _ in 1..TOO_OFTEN {
            sources.host_failed(&ma, host, "no answer");
        }
        assert_eq!(may(), Ok(()));
        sources.host_works(&ma, host);
        for _ in 0..TOO_OFTEN {
            assert_eq!(may(), Ok(()));
            sources.host_failed(&ma, host, "no answer");
        }
        let alone = may().expect_err("open").to_string();
        assert!(
            alone.contains("after 5 failures in a row; the last: no answer"),
            "{alone}"
        );
        // Its other hosts are not left alone.
        assert_eq!(sources.may_fetch(&ma, "10.0.0.2:7500"), Ok(()));

        let mut pauses = Vec::new();
        for _ in 0..9 {
            let began = Instant::now();
            while may().is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            pauses.push(began.elapsed().as_secs());
            assert!(may().is_err(), "one at a time");
            sources.host_failed(&ma, host, "no answer");
        }
        assert!(pauses[0] <= 1 && pauses[3] >= 6, "{pauses:?}");
        assert!(pauses[8] >= 48 && pauses[8] <= 73, "{pauses:?}");
        tokio::time::sleep(Duration::from_secs(80)).await;
        assert_eq!(may(), Ok(()));
        sources.host_works(&ma, host);
        assert_eq!(may(), Ok(()));
        assert_eq!(may(), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_try_of_which_nothing_is_heard_is_not_waited_for_for_ever() {
        let sources = Sources::new(Vec::new());
        let ma = dc("ma01");
        for _ in 0..TOO_OFTEN {
            sources.tracker_failed(&ma, "refused");
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(sources.may_ask(&ma), Ok(()));
        assert!(sources.may_ask(&ma).is_err());
        tokio::time::sleep(TRIAL).await;
        assert_eq!(sources.may_ask(&ma), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn sources_are_ordered_by_health_preference_and_latency() {
        let sources = Sources::new(vec![dc("or01")]);
        let order = || {
            let mut all = ["ma01", "tx01", "or01", "ny01"].map(dc);
            all.sort_by_key(|name| sources.rank(name, &dc("tx01")));
            all.map(|name| name.to_string()).join(" ")
        };
        assert_eq!(order(), "or01 tx01 ma01 ny01");
        sources.began(&dc("tx01"), Duration::from_millis(90));
        sources.began(&dc("ny01"), Duration::from_micros(700));
        sources.began(&dc("ma01"), Duration::from_micros(900));
        assert_eq!(order(), "or01 ma01 ny01 tx01");
        for _ in 0..TOO_OFTEN {
            sources.tracker_failed(&dc("or01"), "refused");
            sources.host_failed(&dc("ma01"), "h", "refused");
        }
        assert_eq!(order(), "ny01 tx01 or01 ma01");
        // One of its storage hosts is not all of them.
        sources.host_works(&dc("ma01"), "another");
        assert_eq!(order(), "ma01 ny01 tx01 or01");
    }
}
