//! Whether ledger and journal agree about this node, and what stops while they do not.
//!
//! A ledger can be restored from a backup, a journal disk can be lost or set back, two processes can have one name. Each shows when
//! what the journal remembers of its node is laid beside what the ledger shows ([`compare`]): numbers, clock marks and heartbeats
//! step back, or there is another incarnation. That is a [`Doubt`]. The [`Auditor`] looks before each publishing.
//!
//! Always true: nothing is written into the node's stream, and repair does nothing, before the first look. While a doubt
//! stands repair does nothing and "in sync" is not said, here or elsewhere; clients are served and the ledger is told. Only a
//! person ends a doubt, also after restarts.
//! Never here: what repair does with a file, and what is published beside the node's own word (`registration`).
//! Killed in the middle: what the journal remembers is durable before the ledger hears the same, so a kill is no doubt.

mod auditor;
pub mod compare;
mod doubt;

use std::sync::Arc;

use tokio::sync::watch;

use crate::version::Version;

pub use auditor::{AuditError, Auditor, NotAccepted};
pub use doubt::{Doubt, Why};

/// What everybody asks whether repair may work. Cheap to clone; all clones say the same.
#[derive(Clone, Debug)]
pub struct Trust(Arc<watch::Sender<State>>);

#[derive(Clone, Debug, Default)]
struct State {
    /// Whether the ledger was looked at since the start.
    looked: bool,
    doubt: Option<Arc<Doubt>>,
    scan_since: Version,
}

impl State {
    fn is_given(&self) -> bool {
        self.looked && self.doubt.is_none()
    }
}

impl Trust {
    /// For parts that run without an [`Auditor`]: nothing is ever in doubt.
    pub fn complete() -> Trust {
        Trust(Arc::new(watch::Sender::new(State {
            looked: true,
            ..State::default()
        })))
    }

    /// Before the first look.
    fn unknown(doubt: Option<Arc<Doubt>>, scan_since: Version) -> Trust {
        Trust(Arc::new(watch::Sender::new(State {
            looked: false,
            doubt,
            scan_since,
        })))
    }

    /// The doubt that stands, if one does.
    pub fn doubt(&self) -> Option<Arc<Doubt>> {
        self.0.borrow().doubt.clone()
    }

    /// Whether the ledger was looked at, and nothing is in doubt.
    pub fn is_given(&self) -> bool {
        self.0.borrow().is_given()
    }

    /// Scans that began before this moment prove nothing.
    pub fn scan_since(&self) -> Version {
        self.0.borrow().scan_since
    }

    /// Waits for the first look at the ledger.
    pub async fn looked(&self) {
        self.wait_for(|state| state.looked).await;
    }

    /// Waits until nothing is in doubt.
    pub async fn given(&self) {
        self.wait_for(State::is_given).await;
    }

    /// Waits until something is in doubt.
    pub async fn withdrawn(&self) {
        self.wait_for(|state| !state.is_given()).await;
    }

    async fn wait_for(&self, wanted: impl FnMut(&State) -> bool) {
        let mut states = self.0.subscribe();
        // The sender is ours, so it cannot be gone.
        let _state = states.wait_for(wanted).await;
    }

    fn set(&self, looked: bool, doubt: Option<Arc<Doubt>>, scan_since: Version) {
        self.0.send_replace(State {
            looked,
            doubt,
            scan_since,
        });
    }
}
