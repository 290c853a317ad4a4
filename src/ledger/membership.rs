//! What an operator has said of a datacenter: whether it takes part, and since when its files can be trusted.
//!
//! Always true: it is a row apart from what the datacenter says of itself ([`DatacenterRecord`](super::DatacenterRecord)), so that a node that
//! registers never overwrites an operator. A datacenter that nobody has said anything of takes part.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::file::Datacenter;
use crate::version::{Version, ago};

/// What an operator has said of a datacenter.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Membership {
    /// Which one.
    pub name: Datacenter,
    /// Whether it takes part.
    pub state: MemberState,
    /// The files that it holds and the ledger does not know are as they were then, as far as anybody can say. `None`: it came without files,
    /// and what it holds has come through a proxy.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub seeded: Option<Version>,
    /// When it was last said to join again: what it was believed to hold before is verified first.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rejoined: Option<Version>,
    /// When this was said; also the timestamp of the row's cells.
    pub updated: Version,
}

impl Membership {
    /// Of a datacenter that nobody has said anything of.
    pub fn unsaid(name: Datacenter) -> Membership {
        Membership {
            name,
            state: MemberState::Active,
            seeded: None,
            rejoined: None,
            updated: Version(0),
        }
    }

    /// Whether a file that is there and that the ledger does not know may have been deleted since, and that forgotten. Then it is for a person to
    /// say what is to become of it: it is listed, and neither announced nor removed.
    pub fn may_hold_forgotten(&self, tombstone_retention: Duration) -> bool {
        self.seeded
            .is_some_and(|seeded| seeded < ago(tombstone_retention))
    }
}

/// Whether a datacenter takes part.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberState {
    /// It does.
    Active,
    /// Its repair rests. Files are due there all the same, and nothing is forgotten that it has not seen.
    Paused,
    /// It is about to be removed: it is not relied on to keep a file.
    Leaving,
    /// It was removed: nothing is due there, and nobody waits for it.
    Removed,
}

impl MemberState {
    /// All there are.
    pub const ALL: [MemberState; 4] = [
        MemberState::Active,
        MemberState::Paused,
        MemberState::Leaving,
        MemberState::Removed,
    ];

    /// As it is kept in a column, and told.
    pub fn word(self) -> &'static str {
        match self {
            MemberState::Active => "active",
            MemberState::Paused => "paused",
            MemberState::Leaving => "leaving",
            MemberState::Removed => "removed",
        }
    }

    /// Whether what is held there counts as kept, for somebody who would give up a replica of their own.
    pub fn is_relied_on(self) -> bool {
        matches!(self, MemberState::Active | MemberState::Paused)
    }
}
