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

use std::pin::pin;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::version::Version;

pub use auditor::{AuditError, Auditor, NotAccepted};
pub use doubt::{Doubt, Why};

/// What everybody asks whether repair may work. Cheap to clone; all clones say the same.
#[derive(Clone, Debug)]
pub struct Trust(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

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
        Trust::of(State {
            looked: true,
            ..State::default()
        })
    }

    /// Before the first look.
    fn unknown(doubt: Option<Arc<Doubt>>, scan_since: Version) -> Trust {
        Trust::of(State {
            looked: false,
            doubt,
            scan_since,
        })
    }

    fn of(state: State) -> Trust {
        Trust(Arc::new(Shared {
            state: Mutex::new(state),
            changed: Notify::new(),
        }))
    }

    /// The doubt that stands, if one does.
    pub fn doubt(&self) -> Option<Arc<Doubt>> {
        self.0.state.lock().doubt.clone()
    }

    /// Whether the ledger was looked at, and nothing is in doubt.
    pub fn is_given(&self) -> bool {
        self.0.state.lock().is_given()
    }

    /// Scans that began before this moment prove nothing.
    pub fn scan_since(&self) -> Version {
        self.0.state.lock().scan_since
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

    async fn wait_for(&self, wanted: impl Fn(&State) -> bool) {
        loop {
            let mut changed = pin!(self.0.changed.notified());
            // From here on no change is missed.
            changed.as_mut().enable();
            if wanted(&self.0.state.lock()) {
                return;
            }
            changed.await;
        }
    }

    fn set(&self, looked: bool, doubt: Option<Arc<Doubt>>, scan_since: Version) {
        *self.0.state.lock() = State {
            looked,
            doubt,
            scan_since,
        };
        self.0.changed.notify_waiters();
    }
}
