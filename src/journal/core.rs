//! What the journal's one writer shares with its many handles: the index, the clock, and how the journal is.
//!
//! Always true: a journal that has stopped stays so until the process starts anew; every change of its state is in the log.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::folder::Counters;
use super::index::Index;
use super::owed::Owed;
use crate::ledger::StreamId;
use crate::version::Clock;

/// What the writer shares with the handles.
pub struct Core {
    pub index: Index,
    pub clock: Arc<Clock>,
    pub confirmed: Confirmed,
    pub owed: Owed,
    pub work: Notify,
    /// Something is owed that was not before.
    pub debts: Notify,
    pub ended: watch::Sender<bool>,
    state: Mutex<State>,
    /// The stream that changes are numbered in, and the last number given in it.
    numbering: Mutex<(Arc<StreamId>, u64)>,
}

/// Announcements that the ledger has, as far as their rows may still be there, each with whether it leaves a debt.
#[derive(Default)]
pub struct Confirmed(Mutex<BTreeMap<u64, bool>>);

impl Confirmed {
    /// Takes them in. True if there were none: the writer has to be told then.
    pub fn add(&self, ids: Vec<u64>, owes: bool) -> bool {
        let mut confirmed = self.0.lock();
        let first = confirmed.is_empty() && !ids.is_empty();
        for id in ids {
            *confirmed.entry(id).or_default() |= owes;
        }
        first
    }

    pub fn any(&self) -> bool {
        !self.0.lock().is_empty()
    }

    pub fn all(&self) -> BTreeMap<u64, bool> {
        self.0.lock().clone()
    }

    /// Their rows are gone.
    pub fn deleted(&self, ids: &BTreeMap<u64, bool>) {
        self.0.lock().retain(|id, _| !ids.contains_key(id));
    }
}

/// Whether intents are taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum State {
    /// They are.
    Taking,
    /// The last transaction failed for this reason. The next may succeed.
    Ailing(String),
    /// An fsync failed for this reason. Nothing is taken until the process starts anew.
    Stopped(String),
    /// The writer has ended.
    Closed,
}

impl Core {
    pub fn new(index: Index, owed: Owed, stream: StreamId, counters: &Counters) -> Core {
        Core {
            index,
            clock: Arc::new(Clock::new(counters.mark)),
            confirmed: Confirmed::default(),
            owed,
            work: Notify::new(),
            debts: Notify::new(),
            ended: watch::Sender::new(false),
            state: Mutex::new(State::Taking),
            numbering: Mutex::new((Arc::new(stream), counters.number)),
        }
    }

    /// Changes the state, and says so in the log.
    pub fn set_state(&self, new: State) {
        let mut state = self.state.lock();
        if *state == new || matches!(*state, State::Stopped(_)) {
            return;
        }
        match (&*state, &new) {
            (State::Taking, State::Ailing(why)) => tracing::error!(
                "the journal cannot be written, and mutations are refused until it can: {why}"
            ),
            (State::Ailing(_), State::Taking) => {
                tracing::info!("the journal can be written again");
            }
            (_, State::Stopped(why)) => tracing::error!(
                "the disk has failed to keep what was written to the journal: {why}; mutations are refused from now on: \
                 look at the disk, then restart this process, which goes on with what the disk has kept"
            ),
            _ => {}
        }
        *state = new;
    }

    pub fn taking(&self) -> bool {
        *self.state.lock() == State::Taking
    }

    pub fn stopped(&self) -> bool {
        matches!(*self.state.lock(), State::Stopped(_))
    }

    /// Whether the last transaction failed.
    pub fn ailing(&self) -> bool {
        matches!(*self.state.lock(), State::Ailing(_))
    }

    pub fn why_unwritable(&self) -> String {
        match &*self.state.lock() {
            State::Taking => String::new(),
            State::Ailing(why) => why.clone(),
            State::Stopped(why) => format!("it stopped after {why}; restart the process"),
            State::Closed => "it is closed".to_owned(),
        }
    }

    pub fn numbering(&self) -> (Arc<StreamId>, u64) {
        self.numbering.lock().clone()
    }

    /// `incarnation`: of the stream that begins with these numbers, if another one does.
    pub fn set_numbering(&self, last_number: u64, incarnation: Option<String>) {
        let mut numbering = self.numbering.lock();
        numbering.1 = last_number;
        if let Some(incarnation) = incarnation {
            numbering.0 = Arc::new(StreamId {
                incarnation,
                ..StreamId::clone(&numbering.0)
            });
        }
    }

    /// There is something to settle or deliver.
    pub fn wake(&self) {
        self.work.notify_waiters();
        // Kept for whoever is not waiting just now.
        self.work.notify_one();
    }

    pub fn end(&self) {
        self.set_state(State::Closed);
        self.ended.send_replace(true);
    }
}
