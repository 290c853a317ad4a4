//! The auditor: looks at the ledger before each word of this node, publishes it, and keeps the journal's memory of both.
//!
//! Always true: what the journal remembers is durable before the ledger is told the same; a doubt is durable before anything is
//! published that would cover its evidence. A journal that the ledger has outrun begins a new stream by itself, which is always safe: it is read from
//! its first number on, and what is left of the old one is covered by a scan.
//! While a doubt stands, the node's word counts all that is in question as undelivered, so that nobody elsewhere is "in sync" as of later.
//! Killed in the middle: the ledger has the last word or the one before; both are what the journal remembers.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::compare::{Confirmed, Finding, Own, compare, others_of};
use super::{Doubt, Trust, Why};
use crate::journal::{Journal, JournalError};
use crate::ledger::{Ledger, LedgerError, NodeRecord, StreamId};
use crate::version::{ClockAhead, Version, wall_clock};

/// A node may have stamped for so long after its last word, in µs: some heartbeats.
const AFTER_THE_LAST_WORD: i64 = 10_000_000;

/// What the journal remembers for the auditor. Of its present incarnation, but for `gone`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Memory {
    /// The last heartbeat that may have been published.
    intended: Option<Version>,
    /// What the ledger has confirmed, one word behind.
    confirmed: Option<Confirmed>,
    /// Other incarnations that are accounted for, and when each had spoken last.
    gone: BTreeMap<String, Version>,
    /// The doubt that stands.
    doubt: Option<Doubt>,
    /// Scans that began before this prove nothing.
    scan_since: Version,
}

/// The one who looks. Publishing and accepting take turns.
pub struct Auditor {
    journal: Journal,
    ledger: Arc<dyn Ledger>,
    trust: Trust,
    /// Where a person accepts a doubt; for the log.
    api: SocketAddr,
    /// Why the last word did not come about.
    unheard: parking_lot::Mutex<Option<String>>,
    at_work: Mutex<AtWork>,
}

struct AtWork {
    memory: Memory,
    /// Where number and clock stood when the journal was opened; `None` after the first look.
    opened: Option<(u64, Version)>,
    /// When other incarnations had spoken at the last look.
    seen: BTreeMap<String, Version>,
    /// The doubt that was told last.
    told: Option<String>,
    /// This stream's, as of the last look.
    generation: u64,
}

/// Why a look or a word did not come about.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The journal's fault.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The ledger's.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// What would be said now is of a time that has not come.
    #[error(transparent)]
    Clock(#[from] ClockAhead),
}

/// Why a doubt was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum NotAccepted {
    /// None stands.
    #[error("nothing is in doubt here")]
    NoDoubt,
    /// Another one stands.
    #[error("the doubt is another one now ({now}): look at it, and accept it by its own id")]
    Another {
        /// Its id.
        now: String,
    },
    /// That could not be written down. The doubt stands.
    #[error("write it to the journal")]
    Journal(#[from] JournalError),
}

impl Auditor {
    /// For a journal that was just opened: before anything is settled, delivered or stamped. Nothing is looked at yet.
    ///
    /// # Errors
    /// If the journal cannot be read.
    pub async fn open(
        journal: Journal,
        ledger: Arc<dyn Ledger>,
        api: SocketAddr,
    ) -> Result<Auditor, JournalError> {
        let memory = match journal.remembered().await? {
            None => Memory::default(),
            Some(text) => serde_json::from_str::<Memory>(&text).map_err(|why| {
                JournalError::Corrupt(format!("{why} in what it remembers of the ledger"))
            })?,
        };
        let trust = Trust::unknown(memory.doubt.clone().map(Arc::new), memory.scan_since);
        let opened = Some((journal.last_number(), journal.clock().mark()));
        let auditor = Auditor {
            journal,
            ledger,
            trust,
            api,
            unheard: parking_lot::Mutex::new(Some("the ledger was not looked at yet".to_owned())),
            at_work: Mutex::new(AtWork {
                memory,
                opened,
                seen: BTreeMap::new(),
                told: None,
                generation: 1,
            }),
        };
        auditor.tell(&mut *auditor.at_work.lock().await);
        Ok(auditor)
    }

    /// What everybody asks.
    pub fn trust(&self) -> Trust {
        self.trust.clone()
    }

    /// Looks, and publishes this node's word about itself.
    ///
    /// # Errors
    /// If the ledger does not answer, or the journal cannot be written: what it does not remember is not published.
    pub async fn beat(&self) -> Result<(), AuditError> {
        let said = self.look_and_speak().await;
        *self.unheard.lock() = said.as_ref().err().map(ToString::to_string);
        said
    }

    /// Why the ledger did not hear this node the last time; `None` if it did.
    pub fn unheard(&self) -> Option<String> {
        self.unheard.lock().clone()
    }

    async fn look_and_speak(&self) -> Result<(), AuditError> {
        let at_work = &mut *self.at_work.lock().await;
        self.look(at_work).await?;
        let heartbeat = self.journal.clock().stamp()?;
        let record = self.record(at_work, heartbeat).await?;
        let memory = &mut at_work.memory;
        memory.intended = Some(heartbeat);
        self.journal.remember(memory.text()).await?;
        self.ledger.set_node(&record).await?;
        memory.confirmed = Some(Confirmed::by(&record));
        Ok(())
    }

    async fn record(
        &self,
        at_work: &AtWork,
        heartbeat: Version,
    ) -> Result<NodeRecord, JournalError> {
        let clock_mark = self.journal.clock().mark();
        let depth = self.journal.depth();
        let delivered = self.journal.delivered_number().await?;
        let (stream, last_number) = self.journal.numbering();
        let in_question = at_work.memory.doubt.as_ref().map(Doubt::since);
        Ok(NodeRecord {
            stream: (*stream).clone(),
            last_number,
            delivered,
            oldest_undelivered: depth.oldest.into_iter().chain(in_question).min(),
            oldest_open: depth.oldest_open,
            clock_mark,
            heartbeat,
            generation: at_work.generation,
        })
    }

    /// Compares, and draws the consequences.
    async fn look(&self, at_work: &mut AtWork) -> Result<(), AuditError> {
        let nodes = self.ledger.nodes().await?;
        let (stream, last_number) = self.journal.numbering();
        let (last_number, clock_mark) = at_work
            .opened
            .unwrap_or((last_number, self.journal.clock().mark()));
        if at_work.opened.is_some() {
            // A journal that was lost has lost its clock too: what clients change now is newer than what it had stamped.
            let others = nodes_of_our_name(&stream, &nodes).filter(|node| node.stream != *stream);
            for node in others {
                let stamped = node.clock_mark.max(node.heartbeat);
                let stamped = Version(stamped.0.saturating_add(AFTER_THE_LAST_WORD));
                let _beyond = self.journal.clock().observe(stamped);
            }
        }
        let memory = &mut at_work.memory;
        let finding = compare(
            &Own {
                stream: &stream,
                last_number,
                clock_mark,
                intended: memory.intended,
                confirmed: memory.confirmed,
                gone: &memory.gone,
                seen: &at_work.seen,
            },
            &nodes,
        );
        let found = wall_clock();
        let new = match finding {
            Finding::Nothing => None,
            Finding::LedgerSteppedBack { shown } => {
                let confirmed = memory.confirmed.map_or(found, |of| of.heartbeat);
                // From now on the ledger is held to what it shows now.
                memory.confirmed = shown;
                Some(Why::LedgerSteppedBack {
                    confirmed,
                    shown: shown.map(|shown| shown.heartbeat),
                })
            }
            Finding::JournalSteppedBack {
                heartbeat,
                clock_mark,
            } => {
                self.move_clock(clock_mark.max(heartbeat));
                Some(Why::JournalSteppedBack {
                    left: stream.incarnation.clone(),
                    remembered: memory.intended,
                    shown: heartbeat,
                })
            }
            Finding::Others { others, speaking } => {
                at_work.seen = seen_of(&stream, &nodes);
                let standing = memory.doubt.as_ref().map(|doubt| &doubt.why);
                (!covers(standing, &others, speaking)).then_some(if speaking {
                    Why::NameUsedTwice { others }
                } else {
                    Why::OtherJournal { others }
                })
            }
        };
        let begins = matches!(new, Some(Why::JournalSteppedBack { .. }));
        if let Some(why) = new
            && memory.doubt.as_ref().is_none_or(|doubt| doubt.why != why)
        {
            memory.doubt = Some(Doubt { found, why });
        }
        if begins {
            // Repair stops before the stream changes.
            let doubt = memory.doubt.clone().map(Arc::new);
            self.trust.set(false, doubt, memory.scan_since);
            self.tell(at_work);
            self.begin_stream(at_work).await?;
        }
        self.tell(at_work);
        at_work.opened = None;
        at_work.generation = generation(&self.journal.stream(), &nodes, &at_work.memory.gone);
        self.trust.set(
            true,
            at_work.memory.doubt.clone().map(Arc::new),
            at_work.memory.scan_since,
        );
        Ok(())
    }

    /// The next version shall be above all that was handed out, as far as the wall clock allows.
    fn move_clock(&self, seen: Version) {
        if !self.journal.clock().observe(seen) {
            tracing::error!(
                "the ledger shows this node's clock at {}, far ahead of this machine's: what clients change now is older than that (check NTP)",
                crate::api::rfc3339(seen)
            );
        }
    }

    /// Leaves the stream in which the ledger has outrun the journal.
    async fn begin_stream(&self, at_work: &mut AtWork) -> Result<(), JournalError> {
        let mut after = at_work.memory.clone();
        if let Some(Why::JournalSteppedBack { left, shown, .. }) =
            after.doubt.as_ref().map(|doubt| &doubt.why)
        {
            after.gone.insert(left.clone(), *shown);
        }
        (after.intended, after.confirmed) = (None, None);
        self.journal.begin_stream(after.text()).await?;
        at_work.memory = after;
        tracing::warn!(
            stream = %self.journal.stream(),
            "the journal has begun a new stream, in which the ledger hears of all that it has not confirmed"
        );
        Ok(())
    }

    /// Says what is in doubt, once.
    fn tell(&self, at_work: &mut AtWork) {
        let Some(doubt) = &at_work.memory.doubt else {
            return;
        };
        let id = doubt.id();
        if at_work.told.as_ref() != Some(&id) {
            tracing::error!(
                "repair has stopped in {}, and clients are served; `phylactery accept --api http://{}` says what can be done: {}",
                self.journal.stream().datacenter,
                self.api,
                doubt.sentence()
            );
            at_work.told = Some(id);
        }
    }

    /// A person accepts the doubt of this id. Repair goes on if nothing else is in doubt; what is, is returned.
    ///
    /// # Errors
    /// If no doubt or another one stands, or the journal cannot be written.
    pub async fn accept(&self, id: &str) -> Result<Option<Arc<Doubt>>, NotAccepted> {
        let at_work = &mut *self.at_work.lock().await;
        let memory = &at_work.memory;
        let Some(doubt) = &memory.doubt else {
            return Err(NotAccepted::NoDoubt);
        };
        if doubt.id() != id {
            return Err(NotAccepted::Another { now: doubt.id() });
        }
        let mut after = memory.clone();
        // What the others have said until now is accepted with it, and what they say from now on is not.
        let mut seen = at_work.seen.clone();
        if let Ok(nodes) = self.ledger.nodes().await {
            seen = seen_of(&self.journal.stream(), &nodes);
        }
        match &doubt.why {
            Why::LedgerSteppedBack { .. } => after.scan_since = wall_clock(),
            // The new incarnation has never seen a scan.
            Why::JournalSteppedBack { .. } => {}
            Why::OtherJournal { others } | Why::NameUsedTwice { others } => {
                for (incarnation, spoke) in others {
                    let last = seen.get(incarnation).copied();
                    let last = last.map_or(*spoke, |last| last.max(*spoke));
                    after.gone.insert(incarnation.clone(), last);
                }
            }
        }
        after.doubt = None;
        self.journal.remember(after.text()).await?;
        tracing::warn!("a person has accepted the doubt {id}");
        at_work.memory = after;
        at_work.told = None;
        // Another doubt may have stood behind this one; where the ledger is away, the next look tells.
        self.trust.set(false, None, at_work.memory.scan_since);
        if let Err(why) = self.look(at_work).await {
            tracing::info!("repair goes on when the ledger was looked at again: {why}");
        }
        Ok(self.trust.doubt())
    }
}

/// When the other incarnations have spoken last.
fn seen_of(own: &StreamId, nodes: &[NodeRecord]) -> BTreeMap<String, Version> {
    others_of(own, nodes)
        .map(|(incarnation, heartbeat)| (incarnation.to_owned(), heartbeat))
        .collect()
}

/// Our own row, and those of other journals that this node has had.
fn nodes_of_our_name<'a>(
    own: &'a StreamId,
    nodes: &'a [NodeRecord],
) -> impl Iterator<Item = &'a NodeRecord> {
    nodes
        .iter()
        .filter(|node| node.stream.datacenter == own.datacenter && node.stream.node == own.node)
}

/// A new stream comes after all that its node has had; one that goes on comes after those that are accounted for.
fn generation(own: &StreamId, nodes: &[NodeRecord], gone: &BTreeMap<String, Version>) -> u64 {
    let ours = nodes.iter().find(|node| node.stream == *own);
    let left = nodes_of_our_name(own, nodes).filter(|node| {
        let is_other = node.stream.incarnation != own.incarnation;
        is_other && (ours.is_none() || gone.contains_key(&node.stream.incarnation))
    });
    let next = left
        .map(|node| node.generation.saturating_add(1))
        .max()
        .unwrap_or(1);
    next.max(ours.map_or(1, |node| node.generation))
}

/// Whether the doubt that stands says as much already.
fn covers(standing: Option<&Why>, others: &BTreeMap<String, Version>, speaking: bool) -> bool {
    let all = |of: &BTreeMap<String, Version>| others.keys().all(|other| of.contains_key(other));
    match standing {
        None => false,
        // When that has been accepted, there is another look.
        Some(Why::LedgerSteppedBack { .. } | Why::JournalSteppedBack { .. }) => true,
        Some(Why::OtherJournal { others }) => !speaking && all(others),
        Some(Why::NameUsedTwice { others }) => all(others),
    }
}

impl Memory {
    fn text(&self) -> String {
        serde_json::to_string(self).expect("plain values with text keys always become JSON")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, incarnation: &str, generation: u64) -> NodeRecord {
        let stream = StreamId {
            datacenter: "ma01".parse().unwrap(),
            node: name.parse().unwrap(),
            incarnation: incarnation.to_owned(),
        };
        NodeRecord {
            generation,
            ..NodeRecord::unread(stream)
        }
    }

    #[test]
    fn a_stream_comes_after_all_that_its_node_has_left() {
        let own = node("node1", "own", 0).stream;
        let of = |nodes: &[NodeRecord], gone: &[&str]| {
            let gone = gone.iter().map(|&left| (left.to_owned(), Version(1)));
            generation(&own, nodes, &gone.collect())
        };
        assert_eq!(of(&[], &[]), 1);
        assert_eq!(of(&[node("node2", "a", 9)], &[]), 1);
        // A new journal, accounted for or not.
        let (a, b) = (node("node1", "a", 3), node("node1", "b", 0));
        assert_eq!(of(&[a.clone(), b.clone()], &[]), 4);
        let nodes = [a, b, node("node1", "own", 2)];
        // One that goes on keeps its place while another one of the same name is in question,
        assert_eq!(of(&nodes, &["b"]), 2);
        // and goes above it when a person has said that it is no more.
        assert_eq!(of(&nodes, &["a", "b"]), 4);
        assert_eq!(of(&nodes[2..], &["a", "b"]), 2);
    }
}
