//! What happens to files, as it happens: for the demo's lines and whoever else listens.
//!
//! Never relied on: a listener that is slow misses events, and nothing waits for it.

use std::time::Duration;

use tokio::sync::broadcast;

use crate::file::{Class, Datacenter, FileName, Key};

/// One thing that happened, in one datacenter.
#[derive(Clone, Debug)]
pub struct Event {
    /// Where.
    pub datacenter: Datacenter,
    /// To which file.
    pub file: FileName,
    /// What.
    pub what: What,
}

/// What happened to a file.
#[derive(Clone, Debug)]
pub enum What {
    /// A client stored it here, and the ledger knows.
    Stored {
        /// Bytes.
        size: u64,
    },
    /// A client deleted it here, and the ledger knows.
    Deleted,
    /// A client renamed it here, and the ledger knows.
    Renamed {
        /// The new key.
        to: Key,
    },
    /// A client changed its class here, and the ledger knows.
    Reclassed {
        /// The new class.
        class: Class,
    },
    /// Repair brought it here.
    Copied {
        /// From which datacenter.
        from: Datacenter,
        /// Bytes.
        size: u64,
        /// From opening the upload to closing it.
        took: Duration,
        /// Since the revision was made.
        lag: Duration,
    },
    /// Repair deleted it here, because it was deleted elsewhere.
    Removed,
    /// Repair renamed it here, because it was renamed elsewhere.
    Moved {
        /// The new key.
        to: Key,
    },
    /// Repair changed its class here, because it was changed elsewhere.
    ClassApplied {
        /// The new class.
        class: Class,
    },
    /// It is not as it should be, and the time in which it should have come to be so (`lag_goal` of its placement) is over.
    MissedGoal {
        /// Which time that was.
        goal: Duration,
    },
    /// It has come to be as it should be, later than within that time.
    CameLate {
        /// Since when it was not.
        lag: Duration,
        /// Which time that was.
        goal: Duration,
    },
    /// Repair could not do its work on it now and has parked it by name.
    Parked {
        /// Why.
        why: String,
        /// How often it was tried.
        attempts: u32,
    },
}

/// Where events are published. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Events(broadcast::Sender<Event>);

impl Default for Events {
    fn default() -> Self {
        Self(broadcast::channel(4096).0)
    }
}

impl Events {
    /// Publishes one; nobody has to listen.
    pub fn publish(&self, event: Event) {
        let _nobody_listens = self.0.send(event);
    }

    /// Listens from now on.
    pub fn listen(&self) -> broadcast::Receiver<Event> {
        self.0.subscribe()
    }
}
