//! A doubt: what does not agree, and what it means to accept it, in words for a person.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::version::Version;

/// Ledger and journal disagree about this node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Doubt {
    /// When it was found.
    pub found: Version,
    /// What disagrees.
    pub why: Why,
}

/// What disagrees.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Why {
    /// The ledger shows less of this node than it has confirmed.
    LedgerSteppedBack {
        /// The last word of this node that the ledger had confirmed.
        confirmed: Version,
        /// The last word that it shows now; `None` if it knows nothing of this journal.
        shown: Option<Version>,
    },
    /// The ledger shows more of this node than the journal has ever said. The journal has begun a new stream.
    JournalSteppedBack {
        /// The incarnation that the journal had until then.
        left: String,
        /// The last word that the journal remembers; `None` if it remembers none.
        remembered: Option<Version>,
        /// The last word that the ledger shows.
        shown: Version,
    },
    /// The ledger knows other journals of this node, which say nothing now.
    OtherJournal {
        /// Their incarnations, and when each spoke last.
        others: BTreeMap<String, Version>,
    },
    /// Another process speaks under the name of this node.
    NameUsedTwice {
        /// The incarnations of their journals, and when each spoke last when this was found.
        others: BTreeMap<String, Version>,
    },
}

impl Doubt {
    /// What accepts this doubt and no other one.
    pub fn id(&self) -> String {
        format!("{}-{:x}", self.kind().replace('_', "-"), self.found.0)
    }

    /// One word for scripts.
    pub fn kind(&self) -> &'static str {
        match &self.why {
            Why::LedgerSteppedBack { .. } => "ledger_stepped_back",
            Why::JournalSteppedBack { .. } => "journal_stepped_back",
            Why::OtherJournal { .. } => "other_journal",
            Why::NameUsedTwice { .. } => "name_used_twice",
        }
    }

    /// From when on the ledger may lack what this node did: nobody may say "in sync" as of later.
    pub fn since(&self) -> Version {
        let since = match &self.why {
            Why::LedgerSteppedBack { shown, .. } => *shown,
            Why::JournalSteppedBack { remembered, .. } => *remembered,
            Why::OtherJournal { others } | Why::NameUsedTwice { others } => {
                others.values().min().copied()
            }
        };
        // Nothing is older than this.
        since.unwrap_or(Version(1))
    }

    /// What is wrong, in one sentence without a full stop.
    pub fn sentence(&self) -> String {
        match &self.why {
            Why::LedgerSteppedBack {
                confirmed,
                shown: Some(shown),
            } => format!(
                "the ledger has stepped back: it shows this node as of {}, and had confirmed it as of {}; was it restored from a backup, \
                 or is it another ledger?",
                time(*shown),
                time(*confirmed)
            ),
            Why::LedgerSteppedBack {
                confirmed,
                shown: None,
            } => format!(
                "the ledger does not know this node's journal, and had confirmed it as of {}; was it restored from a backup, or is it another ledger?",
                time(*confirmed)
            ),
            Why::JournalSteppedBack {
                remembered, shown, ..
            } => format!(
                "the journal has stepped back: the ledger heard this node at {}, and the journal remembers {}; was its folder restored from a backup, \
                 or copied to a second process?",
                time(*shown),
                remembered.map_or_else(
                    || "nothing of that".to_owned(),
                    |last| format!("nothing after {}", time(last))
                )
            ),
            Why::OtherJournal { others } => format!(
                "the ledger knows another journal of this node: {}; was the journal's folder lost, or is this name used twice?",
                list(others)
            ),
            Why::NameUsedTwice { others } => format!(
                "another process speaks to the ledger under the name of this node: {}; give each process a datacenter.node of its own",
                list(others)
            ),
        }
    }

    /// What a person says by accepting it, and what happens then.
    pub fn accepting(&self) -> &'static str {
        match &self.why {
            Why::LedgerSteppedBack { .. } => {
                "You say that this ledger is the one to go by. What it had learned and lost again is not told to it a second time: \
                 files that clients stored, deleted or renamed meanwhile are as this datacenter's tracker holds them, and unknown to the ledger. \
                 Repair goes on from where the ledger has it now, and scans all files. If you can bring back a newer ledger, do that instead."
            }
            Why::JournalSteppedBack { .. } => {
                "You say that the newer journal is gone. What it had not told the ledger is lost to it: such files are as this \
                 datacenter's tracker holds them, and unknown elsewhere. The journal has a new incarnation already, so that no number is used twice, and delivery \
                 goes on with it. Repair goes on, and scans all files. If you still have the newer journal, stop this process and put it back instead."
            }
            Why::OtherJournal { .. } => {
                "You say that the other journal is gone for good. What it had not told the ledger is lost to it: such files are as this \
                 datacenter's tracker holds them, and unknown elsewhere. Repair goes on, and scans all files. If you still have that journal's \
                 folder, stop this process and put it back instead."
            }
            Why::NameUsedTwice { .. } => {
                "You say that the other process has been stopped for good, and everything that its journal held was told to the ledger. Repair goes on here. \
                 Should it speak once more, there is a doubt again."
            }
        }
    }
}

fn list(others: &BTreeMap<String, Version>) -> String {
    let each = others.iter().map(|(incarnation, spoke)| {
        format!("incarnation {incarnation}, heard at {}", time(*spoke))
    });
    each.collect::<Vec<_>>().join(" and ")
}

fn time(version: Version) -> String {
    crate::api::rfc3339(version)
}
