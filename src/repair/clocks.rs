//! Whether the clocks of the other nodes agree with this machine's, as far as their words in the ledger show.
//!
//! A clock that is wrong hides nothing and poisons nobody (`version`), but what its clients store counts as newer, or older, than what
//! others store at that time. So somebody has to be told. Which of two clocks is wrong nobody here can say.
//!
//! Always true: a node is told when its clock is first seen to be off, and when it is right again, and not in between. One that is silent is not
//! thought to be behind. A clock that follows another one, as far as it may, is ahead with it.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;

use crate::ledger::{NodeRecord, StreamId};
use crate::version::Version;

/// Machines that keep time at all are within a second, and a word takes a few to get here.
const TOLERATED: Duration = Duration::from_secs(60);

/// A node whose clock is off.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ClockOff {
    /// `datacenter/node`
    pub node: String,
    /// By how much it is ahead of this machine's clock; negative where it is behind.
    pub ahead_seconds: i64,
}

/// What was seen of the others' clocks.
#[derive(Debug, Default)]
pub(super) struct Clocks(Mutex<BTreeMap<StreamId, Seen>>);

#[derive(Debug)]
struct Seen {
    heartbeat: Version,
    /// µs; `None` if it is right.
    off: Option<i64>,
}

impl Clocks {
    /// Looks at the words of the other nodes, which were read when this machine's clock stood at `now`.
    pub(super) fn look(&self, nodes: &[NodeRecord], now: Version) {
        let mut all = self.0.lock();
        all.retain(|stream, _| nodes.iter().any(|node| node.stream == *stream));
        for node in nodes.iter().filter(|node| !node.is_unread()) {
            let before = all.get(&node.stream);
            let off = off(node, before, now);
            tell(node, before.and_then(|seen| seen.off), off, now);
            let heartbeat = node.heartbeat;
            all.insert(node.stream.clone(), Seen { heartbeat, off });
        }
    }

    /// Those that are off.
    pub(super) fn off(&self) -> Vec<ClockOff> {
        let all = self.0.lock();
        let off = all.iter().filter_map(|(stream, seen)| {
            Some(ClockOff {
                node: format!("{}/{}", stream.datacenter, stream.node),
                ahead_seconds: seen.off? / 1_000_000,
            })
        });
        off.collect()
    }
}

/// By how much a node's clock is off, in µs.
fn off(node: &NodeRecord, before: Option<&Seen>, now: Version) -> Option<i64> {
    let tolerated = TOLERATED.as_micros() as i64;
    let ahead = node.clock_mark.max(node.heartbeat).0.saturating_sub(now.0);
    if ahead > tolerated {
        return Some(ahead);
    }
    // An old word says that a node is silent, or that its clock is behind. It is not silent when there is another one.
    let spoke = before.filter(|seen| seen.heartbeat != node.heartbeat);
    let late = node.heartbeat.0.saturating_sub(now.0);
    match (before, spoke) {
        (Some(seen), None) => seen.off.filter(|off| *off < 0),
        (_, Some(_)) if late < -tolerated => Some(late),
        _ => None,
    }
}

fn tell(node: &NodeRecord, before: Option<i64>, off: Option<i64>, now: Version) {
    let StreamId {
        datacenter, node, ..
    } = &node.stream;
    let by = |off: i64| {
        let off = Duration::from_secs(off.unsigned_abs() / 1_000_000);
        humantime::format_duration(off)
    };
    match (before, off) {
        (None, Some(off)) => tracing::warn!(
            "the clock of {datacenter}/{node} is {} {} this machine's, which stands at {}: look at the time of both (NTP). Until they agree, what \
             clients store there at the same time counts as {} than what they store here",
            by(off),
            if off > 0 { "ahead of" } else { "behind" },
            crate::api::rfc3339(now),
            if off > 0 { "newer" } else { "older" },
        ),
        (Some(_), None) => tracing::info!("the clock of {datacenter}/{node} is right again"),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Version = Version(4_000_000_000_000_000);
    const HOUR: i64 = 3_600_000_000;

    fn node(heartbeat: i64, mark: i64) -> NodeRecord {
        let stream = StreamId {
            datacenter: "ma01".parse().unwrap(),
            node: "node1".parse().unwrap(),
            incarnation: "a".to_owned(),
        };
        NodeRecord {
            clock_mark: Version(NOW.0 + mark),
            heartbeat: Version(NOW.0 + heartbeat),
            oldest_undelivered: None,
            ..NodeRecord::unread(stream)
        }
    }

    fn after(words: &[NodeRecord]) -> Vec<i64> {
        let clocks = Clocks::default();
        for word in words {
            clocks.look(std::slice::from_ref(word), NOW);
        }
        let off = clocks.off().into_iter();
        off.map(|clock| clock.ahead_seconds).collect()
    }

    #[test]
    fn a_clock_that_is_ahead_is_seen_at_once() {
        assert_eq!(after(&[node(HOUR, HOUR)]), [3600]);
        assert_eq!(after(&[node(0, HOUR)]), [3600], "by its mark");
        assert_eq!(after(&[node(0, 59_000_000)]), [0; 0]);
        assert_eq!(after(&[node(HOUR, HOUR), node(0, 0)]), [0; 0]);
    }

    #[test]
    fn a_clock_that_is_behind_is_seen_when_it_moves() {
        assert_eq!(after(&[node(-HOUR, -HOUR)]), [0; 0], "it may be silent");
        let same = node(-HOUR, -HOUR);
        assert_eq!(after(&[same.clone(), same]), [0; 0]);
        let moved = [node(-HOUR, -HOUR), node(-HOUR + 1_000_000, -HOUR)];
        assert_eq!(after(&moved), [-3599]);
        let [first, second] = moved;
        let silent = [first, second.clone(), second];
        assert_eq!(after(&silent), [-3599], "and now it is silent");
    }
}
