//! What the journal remembers of its node beside what the ledger shows of it. Pure: no clock, no disk, no network.
//!
//! Always true: what a node publishes is durable in its journal before, so the ledger never shows more of it than the journal remembers;
//! and the ledger, once it has confirmed something, never shows less. Whatever else is found is a finding.

use std::collections::BTreeMap;

use crate::ledger::{NodeRecord, StreamId};
use crate::version::Version;

/// What the journal knows of its own node.
#[derive(Clone, Debug)]
pub struct Own<'a> {
    /// Its stream.
    pub stream: &'a StreamId,
    /// The last number that it has given in that stream.
    pub last_number: u64,
    /// Where its clock stands, as is durable.
    pub clock_mark: Version,
    /// The last heartbeat that may have been published for this stream; `None` if nothing was ever remembered, as by a program
    /// that did not do that yet: then only numbers count.
    pub intended: Option<Version>,
    /// What the ledger has confirmed of this stream.
    pub confirmed: Option<Confirmed>,
    /// Other incarnations that a person has declared gone, or that this journal has left, and when each had spoken last.
    pub gone: &'a BTreeMap<String, Version>,
    /// When other incarnations had spoken at the look before this one.
    pub seen: &'a BTreeMap<String, Version>,
}

/// What the ledger has confirmed of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Confirmed {
    /// Its heartbeat.
    pub heartbeat: Version,
    /// The last number it had given.
    pub last_number: u64,
    /// How far the ledger had its stream.
    pub delivered: u64,
}

impl Confirmed {
    /// What a record says.
    pub fn by(record: &NodeRecord) -> Confirmed {
        Confirmed {
            heartbeat: record.heartbeat,
            last_number: record.last_number,
            delivered: record.delivered,
        }
    }
}

/// What a look has found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Finding {
    /// Both agree.
    Nothing,
    /// The ledger shows less than it had confirmed.
    LedgerSteppedBack {
        /// What it shows.
        shown: Option<Confirmed>,
    },
    /// The ledger shows more than the journal knows.
    JournalSteppedBack {
        /// When the ledger heard this stream last.
        heartbeat: Version,
        /// Where the node's clock stood then.
        clock_mark: Version,
    },
    /// There are other incarnations that nobody has accounted for.
    Others {
        /// All of them, and when each spoke last.
        others: BTreeMap<String, Version>,
        /// Whether one has spoken since it was declared gone, or since the look before.
        speaking: bool,
    },
}

/// Compares. The gravest comes first: numbers that would be used twice, then a ledger that forgets, then other incarnations.
pub fn compare(own: &Own<'_>, nodes: &[NodeRecord]) -> Finding {
    let shown = nodes.iter().find(|node| node.stream == *own.stream);
    if let Some(shown) = shown
        && (shown.last_number > own.last_number
            || own.intended.is_some_and(|intended| {
                shown.heartbeat > intended || shown.clock_mark > own.clock_mark
            }))
    {
        return Finding::JournalSteppedBack {
            heartbeat: shown.heartbeat,
            clock_mark: shown.clock_mark,
        };
    }
    let shown = shown.map(Confirmed::by);
    if let Some(confirmed) = own.confirmed
        && shown.is_none_or(|shown| {
            shown.heartbeat < confirmed.heartbeat
                || shown.last_number < confirmed.last_number
                || shown.delivered < confirmed.delivered
        })
    {
        return Finding::LedgerSteppedBack { shown };
    }
    let mut others = BTreeMap::new();
    let mut speaking = false;
    for (incarnation, heartbeat) in others_of(own.stream, nodes) {
        let gone = own.gone.get(incarnation).copied();
        if gone.is_some_and(|gone| heartbeat <= gone) {
            continue;
        }
        let seen = own.seen.get(incarnation).copied();
        speaking |= gone.is_some() || seen.is_some_and(|seen| heartbeat > seen);
        others.insert(incarnation.to_owned(), heartbeat);
    }
    if others.is_empty() {
        Finding::Nothing
    } else {
        Finding::Others { others, speaking }
    }
}

/// Other incarnations of this node, and when each spoke last.
pub fn others_of<'a>(
    own: &'a StreamId,
    nodes: &'a [NodeRecord],
) -> impl Iterator<Item = (&'a str, Version)> {
    nodes
        .iter()
        .filter(|node| {
            node.stream.datacenter == own.datacenter
                && node.stream.node == own.node
                && node.stream.incarnation != own.incarnation
        })
        .map(|node| (node.stream.incarnation.as_str(), node.heartbeat))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(node: &str, incarnation: &str) -> StreamId {
        StreamId {
            datacenter: "ma01".parse().unwrap(),
            node: node.parse().unwrap(),
            incarnation: incarnation.to_owned(),
        }
    }

    /// (node, incarnation, heartbeat, last number, delivered, clock mark)
    type Row = (&'static str, &'static str, i64, u64, u64, i64);

    fn record(row: Row) -> NodeRecord {
        let (node, incarnation, heartbeat, last_number, delivered, clock_mark) = row;
        NodeRecord {
            stream: stream(node, incarnation),
            last_number,
            delivered,
            oldest_undelivered: None,
            oldest_open: None,
            clock_mark: Version(clock_mark),
            heartbeat: Version(heartbeat),
            generation: 1,
        }
    }

    fn versions(of: &[(&str, i64)]) -> BTreeMap<String, Version> {
        of.iter()
            .map(|(incarnation, at)| ((*incarnation).to_owned(), Version(*at)))
            .collect()
    }

    struct Case {
        name: &'static str,
        intended: Option<i64>,
        confirmed: Option<(i64, u64, u64)>,
        gone: &'static [(&'static str, i64)],
        seen: &'static [(&'static str, i64)],
        ledger: &'static [Row],
        found: Finding,
    }

    /// A node of incarnation `a` that has given number 10, and whose clock stands at 1000.
    const SPOKE: Case = Case {
        name: "",
        intended: Some(1000),
        confirmed: Some((990, 10, 9)),
        gone: &[],
        seen: &[],
        ledger: &[("node1", "a", 990, 10, 9, 990)],
        found: Finding::Nothing,
    };
    const NEW: Case = Case {
        intended: None,
        confirmed: None,
        ledger: &[],
        ..SPOKE
    };

    #[test]
    fn what_is_found() {
        let ledger_back = |shown: Option<(i64, u64, u64)>| Finding::LedgerSteppedBack {
            shown: shown.map(|(heartbeat, last_number, delivered)| Confirmed {
                heartbeat: Version(heartbeat),
                last_number,
                delivered,
            }),
        };
        let journal_back = |heartbeat, clock_mark| Finding::JournalSteppedBack {
            heartbeat: Version(heartbeat),
            clock_mark: Version(clock_mark),
        };
        let others = |of: &[(&str, i64)], speaking| Finding::Others {
            others: versions(of),
            speaking,
        };
        let cases = [
            Case {
                name: "a first start",
                ..NEW
            },
            Case {
                name: "a first start beside other nodes and datacenters",
                ledger: &[("node2", "b", 990, 10, 9, 990)],
                ..NEW
            },
            Case {
                name: "all is as it was",
                ..SPOKE
            },
            Case {
                name: "killed after the word was written down and before the ledger's answer was",
                ledger: &[("node1", "a", 1000, 10, 10, 1000)],
                ..SPOKE
            },
            Case {
                name: "killed before the ledger ever answered",
                confirmed: None,
                ledger: &[],
                ..SPOKE
            },
            Case {
                name: "the ledger is another one",
                ledger: &[],
                found: ledger_back(None),
                ..SPOKE
            },
            Case {
                name: "the ledger is an old copy",
                ledger: &[("node1", "a", 500, 5, 5, 500)],
                found: ledger_back(Some((500, 5, 5))),
                ..SPOKE
            },
            Case {
                name: "the ledger is a copy from a moment ago",
                ledger: &[("node1", "a", 989, 10, 9, 990)],
                found: ledger_back(Some((989, 10, 9))),
                ..SPOKE
            },
            Case {
                name: "the ledger has lost numbers only",
                ledger: &[("node1", "a", 995, 9, 9, 990)],
                found: ledger_back(Some((995, 9, 9))),
                ..SPOKE
            },
            Case {
                name: "the ledger has lost deliveries only",
                ledger: &[("node1", "a", 995, 10, 8, 990)],
                found: ledger_back(Some((995, 10, 8))),
                ..SPOKE
            },
            Case {
                name: "the journal is an old copy by its heartbeat",
                ledger: &[("node1", "a", 1001, 10, 10, 1000)],
                found: journal_back(1001, 1000),
                ..SPOKE
            },
            Case {
                name: "the journal is an old copy by its numbers",
                ledger: &[("node1", "a", 1000, 11, 10, 1000)],
                found: journal_back(1000, 1000),
                ..SPOKE
            },
            Case {
                name: "the journal is an old copy by its clock",
                ledger: &[("node1", "a", 1000, 10, 10, 1001)],
                found: journal_back(1000, 1001),
                ..SPOKE
            },
            Case {
                name: "the journal is a copy from before it ever spoke",
                ledger: &[("node1", "a", 2000, 11, 11, 2000)],
                found: journal_back(2000, 2000),
                ..NEW
            },
            Case {
                name: "the journal was written by a program that remembered nothing",
                ledger: &[("node1", "a", 2000, 10, 10, 2000)],
                ..NEW
            },
            Case {
                name: "both stepped back: numbers used twice are the graver thing",
                ledger: &[("node1", "a", 1001, 5, 5, 1000)],
                found: journal_back(1001, 1000),
                ..SPOKE
            },
            Case {
                name: "the journal was lost",
                ledger: &[("node1", "old", 900, 10, 9, 900)],
                found: others(&[("old", 900)], false),
                ..NEW
            },
            Case {
                name: "the journal was lost, and a person has said so",
                gone: &[("old", 900)],
                ledger: &[("node1", "old", 900, 10, 9, 900)],
                ..NEW
            },
            Case {
                name: "the one that was gone speaks",
                gone: &[("old", 900)],
                ledger: &[
                    ("node1", "a", 990, 10, 9, 990),
                    ("node1", "old", 901, 10, 9, 900),
                ],
                found: others(&[("old", 901)], true),
                ..SPOKE
            },
            Case {
                name: "another one comes up while this one runs",
                seen: &[],
                ledger: &[
                    ("node1", "a", 990, 10, 9, 990),
                    ("node1", "b", 995, 0, 0, 995),
                ],
                found: others(&[("b", 995)], false),
                ..SPOKE
            },
            Case {
                name: "and speaks again",
                seen: &[("b", 995)],
                ledger: &[
                    ("node1", "a", 990, 10, 9, 990),
                    ("node1", "b", 996, 0, 0, 995),
                ],
                found: others(&[("b", 996)], true),
                ..SPOKE
            },
            Case {
                name: "and is silent",
                seen: &[("b", 995)],
                ledger: &[
                    ("node1", "a", 990, 10, 9, 990),
                    ("node1", "b", 995, 0, 0, 995),
                ],
                found: others(&[("b", 995)], false),
                ..SPOKE
            },
            Case {
                name: "a ledger that steps back comes before other incarnations",
                ledger: &[
                    ("node1", "a", 500, 5, 5, 500),
                    ("node1", "b", 995, 0, 0, 995),
                ],
                found: ledger_back(Some((500, 5, 5))),
                ..SPOKE
            },
        ];
        for case in cases {
            let own_stream = stream("node1", "a");
            let own = Own {
                stream: &own_stream,
                last_number: 10,
                clock_mark: Version(1000),
                intended: case.intended.map(Version),
                confirmed: case
                    .confirmed
                    .map(|(heartbeat, last_number, delivered)| Confirmed {
                        heartbeat: Version(heartbeat),
                        last_number,
                        delivered,
                    }),
                gone: &versions(case.gone),
                seen: &versions(case.seen),
            };
            let ledger: Vec<NodeRecord> = case.ledger.iter().copied().map(record).collect();
            assert_eq!(compare(&own, &ledger), case.found, "{}", case.name);
        }
    }
}
