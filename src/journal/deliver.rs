//! Delivery: what the ledger shall be told, told until it has it.
//!
//! Always true: announcements of one file are written in their order, the put half of a rename before its delete half, a
//! file's cells before the change that names them. One that cannot be written holds back only what must follow it.
//! (Up to [`BATCH`] of them: a round reads so many from the front, and more that are blocked there would hide what follows.)
//! Nothing is written before the ledger was looked at once ([`Trust::looked`]): a journal that was set back would use numbers twice.
//! Never here: giving up. What the ledger has not confirmed stays in the outbox.
//! Killed in the middle: the same cells are written again, which changes nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use backon::BackoffBuilder;
use futures::StreamExt;
use rand::seq::SliceRandom;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::events::{Event, Events, What};
use crate::failpoint::{self, pass};
use crate::file::{FileName, Op};
use crate::ledger::{About, Change, FileWrite, Ledger, LedgerError, Strength};
use crate::machine;
use crate::trust::Trust;

use super::settle::{Passed, Settler};
use super::{Delivery, Journal, JournalError, Outgoing};

/// Announcements read from the outbox at a time.
const BATCH: usize = 2_000;

/// Lanes written at a time: enough for the ledger to put many into one commit or round trip.
const LANES_AT_ONCE: usize = 64;

/// The longest that nothing is looked at when nobody has rung: settled quiet times end unannounced.
const IDLE: Duration = Duration::from_millis(500);

/// The longest pause between two tries while tracker or ledger do not answer.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Settles and delivers what the journal holds, until it is told to stop.
pub struct Deliverer {
    /// The journal.
    pub journal: Journal,
    /// Where its entries go.
    pub ledger: Arc<dyn Ledger>,
    /// What makes announcements of its entries.
    pub settler: Settler,
    /// Where delivered changes are told.
    pub events: Events,
    /// Whether the ledger was looked at: before that, a number of the stream may have been used already.
    pub trust: Trust,
}

impl Deliverer {
    /// Runs until `stop`. Three loops side by side, so that a tracker or a ledger that hangs holds back only what
    /// needs it. Failures are logged once when they begin and once when they end.
    pub async fn run(self, stop: CancellationToken) {
        let (to_ask, to_deliver) = (Notify::new(), Notify::new());
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = self.settle_what_is_clear(&to_ask, &to_deliver) => {}
            () = self.settle_what_is_not(&to_ask, &to_deliver) => {}
            () = self.deliver_all(&to_deliver) => {}
        }
    }

    async fn settle_what_is_clear(&self, to_ask: &Notify, to_deliver: &Notify) {
        let mut trouble = Trouble::of("settle what needs no asking");
        loop {
            match self.settler.quick_pass().await {
                Ok(passed) => {
                    trouble.is_over();
                    if passed.to_ask > 0 {
                        to_ask.notify_one();
                    }
                    if passed.settled > 0 {
                        to_deliver.notify_one();
                    } else {
                        self.journal.wait_for_work(IDLE).await;
                    }
                }
                Err(why) => trouble.pause(&why.to_string()).await,
            }
        }
    }

    async fn settle_what_is_not(&self, to_ask: &Notify, to_deliver: &Notify) {
        let mut trouble = Trouble::of("ask what became of mutations");
        loop {
            match self.settler.ask_pass().await {
                Ok(Passed {
                    settled: 0,
                    failed: failed @ 1..,
                    ..
                }) => {
                    trouble
                        .pause(&format!("{failed} cannot be settled now"))
                        .await;
                }
                Ok(Passed { settled: 0, .. }) => {
                    trouble.is_over();
                    let _new_or_idle = tokio::time::timeout(IDLE, to_ask.notified()).await;
                }
                Ok(Passed { .. }) => {
                    trouble.is_over();
                    to_deliver.notify_one();
                }
                Err(why) => trouble.pause(&why.to_string()).await,
            }
        }
    }

    async fn deliver_all(&self, to_deliver: &Notify) {
        let mut trouble = Trouble::of("tell the ledger");
        self.trust.looked().await;
        loop {
            match self.deliver().await {
                Ok(delivered) => {
                    trouble.is_over();
                    if delivered == 0 {
                        let _new_or_idle = tokio::time::timeout(IDLE, to_deliver.notified()).await;
                    }
                }
                Err(Undelivered { delivered, why }) => {
                    if delivered > 0 {
                        trouble.is_not_of_all();
                    }
                    trouble.pause(&why.to_string()).await;
                }
            }
        }
    }

    /// One round: reads a batch of the outbox and writes it. How many the ledger has taken.
    async fn deliver(&self) -> Result<usize, Undelivered> {
        let delivery = self.journal.delivery().await;
        let batch = self.journal.outgoing(0, BATCH).await?;
        if batch.is_empty() {
            return Ok(0);
        }
        if batch.iter().any(|out| out.number.is_some()) {
            pass(failpoint::NUMBERED);
        }
        let mut done = 0;
        let (mut failed, mut unavailable) = (None, 0);
        let mut lanes = lanes(batch);
        // What is blocked collects at the front: in any other order some of the first to be tried are not.
        lanes.shuffle(&mut machine::rng());
        let lanes: Vec<_> = lanes
            .into_iter()
            .map(|lane| self.deliver_lane(&delivery, lane))
            .collect();
        let mut lanes = futures::stream::iter(lanes).buffer_unordered(LANES_AT_ONCE);
        while let Some((delivered, result)) = lanes.next().await {
            done += delivered.len();
            if !delivered.is_empty() {
                let ids = delivered.iter().map(|out| out.id).collect();
                self.journal.confirm(ids, self.ledger.owes()).await?;
                pass(failpoint::CONFIRMED);
                delivered.iter().for_each(|out| self.tell(out));
            }
            if let Err(why) = result {
                unavailable += usize::from(matches!(why, LedgerError::Unavailable { .. }));
                failed = Some(why);
                // Where some files' copies are away, the others are written; where none succeeds, the rest is not tried.
                if done == 0 && unavailable >= LANES_AT_ONCE {
                    break;
                }
            }
        }
        match failed {
            Some(why) => Err(Undelivered {
                delivered: done,
                why: why.into(),
            }),
            None => Ok(done),
        }
    }

    /// Writes one lane in order, up to the first that fails.
    async fn deliver_lane(
        &self,
        delivery: &Delivery<'_>,
        lane: Vec<Outgoing>,
    ) -> (Vec<Outgoing>, Result<(), LedgerError>) {
        let mut delivered = Vec::with_capacity(lane.len());
        for out in lane {
            if let Err(why) = self.deliver_one(delivery, &out).await {
                return (delivered, Err(why));
            }
            delivered.push(out);
        }
        (delivered, Ok(()))
    }

    async fn deliver_one(
        &self,
        delivery: &Delivery<'_>,
        out: &Outgoing,
    ) -> Result<(), LedgerError> {
        let announcement = &out.announcement;
        self.ledger
            .write(&announcement.file, &announcement.write, Strength::Local)
            .await?;
        pass(failpoint::HEAD_WRITTEN);
        if let Some(number) = out.number {
            let change = Change {
                number,
                file: Some(announcement.file.clone()),
                version: announcement.version,
                about: about(&announcement.write),
            };
            self.ledger
                .append_change(delivery.stream(), &change, Strength::Local)
                .await?;
            pass(failpoint::CHANGE_WRITTEN);
        }
        Ok(())
    }

    fn tell(&self, out: &Outgoing) {
        let announcement = &out.announcement;
        let Some(what) = told(&announcement.write) else {
            return;
        };
        let datacenter = self.journal.stream().datacenter.clone();
        self.events.publish(Event {
            datacenter,
            file: announcement.file.clone(),
            what,
        });
    }
}

/// Which of a change's cells others have to expect.
fn about(write: &FileWrite) -> About {
    match (&write.head, &write.class) {
        (None, Some(_)) => About::Class,
        (_, _) => About::Head,
    }
}

/// What a client did, as listeners hear of it. Half of a rename and what repair did are told elsewhere or not at all.
fn told(write: &FileWrite) -> Option<What> {
    match (&write.head, &write.class) {
        (Some(head), _) => match &head.op {
            Op::Put(put) if put.renamed_from.is_none() => Some(What::Stored { size: put.size }),
            Op::Put(_) => None,
            Op::Delete { renamed_to: None } => Some(What::Deleted),
            Op::Delete {
                renamed_to: Some(to),
            } => Some(What::Renamed { to: to.clone() }),
        },
        (None, Some(cell)) => Some(What::Reclassed {
            class: cell.class.clone(),
        }),
        (None, None) => None,
    }
}

/// A round that left something.
struct Undelivered {
    /// How many the ledger has taken all the same.
    delivered: usize,
    why: DeliverError,
}

impl From<JournalError> for Undelivered {
    fn from(why: JournalError) -> Self {
        Undelivered {
            delivered: 0,
            why: why.into(),
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum DeliverError {
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// Sorts a batch into lanes that may be written side by side: all of one file is in one lane, in order, and so is a
/// rename's delete half with the file that its bytes went to.
fn lanes(batch: Vec<Outgoing>) -> Vec<Vec<Outgoing>> {
    let mut lane_of: HashMap<FileName, usize> = HashMap::new();
    let mut lanes: Vec<Vec<Outgoing>> = Vec::new();
    for out in batch {
        let file = out.announcement.file.clone();
        let at = *lane_of.entry(file.clone()).or_insert_with(|| {
            lanes.push(Vec::new());
            lanes.len() - 1
        });
        let target = renamed_to(&out).and_then(|target| lane_of.get(&target).copied());
        if let Some(other) = target
            && other != at
        {
            let moved = std::mem::take(&mut lanes[at]);
            lanes[other].extend(moved);
            lanes[other].sort_by_key(|out| out.id);
            lane_of
                .values_mut()
                .filter(|lane| **lane == at)
                .for_each(|lane| *lane = other);
            lanes[other].push(out);
        } else {
            lanes[at].push(out);
        }
    }
    lanes.retain(|lane| !lane.is_empty());
    lanes
}

fn renamed_to(out: &Outgoing) -> Option<FileName> {
    match &out.announcement.write.head.as_ref()?.op {
        Op::Delete {
            renamed_to: Some(key),
        } => Some(FileName {
            domain: out.announcement.file.domain.clone(),
            key: key.clone(),
        }),
        _ => None,
    }
}

/// Pauses that grow while something fails, and a log that says so once.
struct Trouble {
    what: &'static str,
    pauses: Option<backon::ExponentialBackoff>,
}

impl Trouble {
    fn of(what: &'static str) -> Self {
        Self { what, pauses: None }
    }

    fn is_over(&mut self) {
        if self.pauses.take().is_some() {
            tracing::info!("{}: works again", self.what);
        }
    }

    /// Something else succeeds meanwhile, which must not wait for what does not: the next pause is a short one.
    fn is_not_of_all(&mut self) {
        self.pauses = self.pauses.take().map(|_longer| pauses());
    }

    async fn pause(&mut self, why: &str) {
        if self.pauses.is_none() {
            tracing::warn!("{}: {why}; it is tried again until it works", self.what);
        }
        let pauses = self.pauses.get_or_insert_with(pauses);
        tokio::time::sleep(pauses.next().unwrap_or(LONGEST_PAUSE)).await;
    }
}

fn pauses() -> backon::ExponentialBackoff {
    backon::ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(200))
        .with_max_delay(LONGEST_PAUSE)
        .with_jitter()
        .with_jitter_seed(machine::random())
        .without_max_times()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::{Class, ClassCell, Content, Datacenter, NodeName, Revision};
    use crate::journal::Announcement;
    use crate::version::Version;

    fn outgoing(id: u64, key: &str, renamed_to: Option<&str>) -> Outgoing {
        let version = Version(id as i64);
        let head = renamed_to.map(|to| Revision {
            version,
            origin: "ma01".parse::<Datacenter>().unwrap(),
            node: "node1".parse::<NodeName>().unwrap(),
            op: Op::Delete {
                renamed_to: Some(crate::file::Key::from_bytes(to.as_bytes())),
            },
        });
        let announcement = Announcement {
            file: FileName::from_bytes(b"photos", key.as_bytes()),
            write: FileWrite {
                head,
                ..FileWrite::default()
            },
            version,
            change: true,
        };
        Outgoing {
            id,
            number: Some(id),
            announcement,
        }
    }

    #[test]
    fn a_change_says_which_cell_to_expect() {
        let head = outgoing(1, "k", Some("a")).announcement.write;
        let class = ClassCell {
            version: Version(1),
            content: Content {
                version: Version(1),
                origin: "ma01".parse().unwrap(),
                node: "node1".parse().unwrap(),
            },
            class: Class::default_class(),
        };
        let class_only = FileWrite {
            class: Some(class.clone()),
            ..FileWrite::default()
        };
        let put = FileWrite {
            class: Some(class),
            ..head.clone()
        };
        assert_eq!(
            [about(&head), about(&put), about(&class_only)],
            [About::Head, About::Head, About::Class]
        );
    }

    #[test]
    fn a_rename_joins_the_lanes_of_both_names_and_order_stays() {
        let batch = vec![
            outgoing(1, "k", None),
            outgoing(2, "a", None),
            outgoing(3, "other", None),
            outgoing(4, "a", None),
            outgoing(5, "k", Some("a")),
            outgoing(6, "a", None),
            outgoing(7, "k", None),
        ];
        let mut ids: Vec<Vec<u64>> = lanes(batch)
            .iter()
            .map(|lane| lane.iter().map(|out| out.id).collect())
            .collect();
        ids.sort();
        assert_eq!(ids, [vec![1, 2, 4, 5, 6, 7], vec![3]]);
    }
}
