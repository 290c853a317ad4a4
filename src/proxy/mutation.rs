//! A mutation under way: its lock, its intent, and what became of it.
//!
//! Always true: the intent is durable before anything is sent; the lock is released only after the outcome was
//! handed to the journal. Dropped in the middle, the outcome is lost and the tracker has to be asked.

use std::time::Duration;

use bytes::Bytes;
use mogilefs_protocol::reply;

use crate::failpoint;
use crate::file::{Fid, FileName};
use crate::journal::{By, Details, Intent, Journal, Mutation, Outcome};
use crate::locks::{KeyGuard, KeyLocks};
use crate::version::Version;

use super::record::{self, Recorded};
use super::thread::Counters;
use super::uploads::Uploads;

/// What it takes to record a mutation.
pub(super) struct Recorder {
    pub(super) journal: Journal,
    pub(super) locks: KeyLocks,
    pub(super) uploads: Uploads,
    pub(super) lock_wait: Duration,
}

/// A mutation whose intent is on disk.
pub(super) struct Begun<'a> {
    recorder: &'a Recorder,
    // Dropped in this order: the journal knows before the lock is free.
    intent: Intent,
    once_ok: Details,
    upload: Option<Fid>,
    guard: KeyGuard,
}

/// Takes the locks and writes the intent. An error is the answer to the client: nothing has happened.
pub(super) async fn begin<'a>(
    recorder: &'a Recorder,
    counters: &Counters,
    mut recorded: Recorded,
) -> Result<Begun<'a>, Bytes> {
    recorded.learn_from(&recorder.uploads);
    let Recorded {
        mutation,
        once_ok,
        callid,
    } = recorded;
    let files: Vec<FileName> = mutation.files().into_iter().cloned().collect();
    let files: Vec<&FileName> = files.iter().collect();
    let guard = recorder.locks.lock(&files, recorder.lock_wait).await;
    if guard.overran() {
        tracing::info!(file = %files[0], "another mutation of this file is not answered; going on beside it");
    }
    let upload = match &mutation {
        Mutation::Put { fid, .. } => *fid,
        Mutation::Delete { .. } | Mutation::Rename { .. } | Mutation::SetClass { .. } => None,
    };
    failpoint::pass(failpoint::INTENT_BEFORE);
    match recorder.journal.intend(&guard, By::Client, mutation).await {
        Ok(intent) => {
            failpoint::pass(failpoint::INTENT_DURABLE);
            counters.mutation();
            Ok(Begun {
                recorder,
                intent,
                once_ok,
                upload,
                guard,
            })
        }
        Err(refused) => {
            counters.refused_mutation();
            let text = refused.to_string();
            Err(reply::err("journal_unavailable", &text, callid.as_deref()))
        }
    }
}

impl Begun<'_> {
    /// The version that it has, whatever becomes of it.
    pub(super) fn version(&self) -> Version {
        self.intent.version()
    }

    /// No tracker has seen the request.
    pub(super) fn not_sent(self) {
        self.end(Outcome::DidNotHappen);
    }

    /// The connection ended before the answer did.
    pub(super) fn lost(self) {
        self.end(Outcome::Lost);
    }

    /// The tracker has answered; `text` is the line without its end, or the beginning of a long one.
    pub(super) fn answered(self, text: &[u8]) {
        self.end(record::outcome(text));
    }

    fn end(self, outcome: Outcome) {
        // An OK that comes after the next mutation of the key went out says that it happened, not in which order: the
        // tracker has to be asked what it holds.
        let outcome = match outcome {
            Outcome::Happened | Outcome::Doubtful if self.guard.was_passed() => Outcome::Lost,
            outcome => outcome,
        };
        if outcome == Outcome::Happened
            && let Some(fid) = self.upload
        {
            self.recorder.uploads.forget(fid);
            self.intent.happened_with(self.once_ok);
        } else {
            self.intent.outcome(outcome);
        }
        failpoint::pass(failpoint::OUTCOME_HANDED);
        drop(self.guard);
    }
}
