//! The way of one request without the sockets on both sides of it: for a simulation.
//!
//! Always true: what is decided about a line, and what is recorded of it when, is what [`super::session`] does; only the bytes come
//! and go by calls.

use std::time::Duration;

use bytes::Bytes;
use mogilefs_protocol::line::text_of;

use super::commands::{Rules, Way};
use super::mutation::{self, Recorder};
use super::thread::Counters;
use super::uploads::Uploads;
use crate::journal::Journal;
use crate::locks::KeyLocks;
use crate::version::Version;

/// A proxy that listens nowhere.
pub struct Unsocketed {
    recorder: Recorder,
    counters: Counters,
    rules: Rules,
}

/// Whom it asks.
pub trait Upstream {
    /// Sends a line and gives the answer, both with their ends; `None` if the connection ended before it.
    ///
    /// # Errors
    /// [`NotSent`]
    fn ask(&mut self, line: &[u8]) -> impl Future<Output = Result<Option<Bytes>, NotSent>> + Send;

    /// The next line to be asked is a mutation, of this version.
    fn intended(&mut self, version: Version);
}

/// No tracker can have seen the request.
#[derive(Debug)]
pub struct NotSent;

impl Unsocketed {
    /// In front of a tracker that each request names.
    pub fn new(journal: Journal, locks: KeyLocks, lock_wait: Duration, max_key: usize) -> Self {
        Self {
            recorder: Recorder {
                journal,
                locks,
                uploads: Uploads::default(),
                lock_wait,
            },
            counters: Counters::default(),
            rules: Rules::new(&[], max_key),
        }
    }

    /// What the client reads; `None` if its connection ends.
    pub async fn serve(&self, line: &[u8], upstream: &mut impl Upstream) -> Option<Bytes> {
        let asked = match self.rules.way(text_of(line)) {
            Way::Nothing => return None,
            Way::Refuse(answer) => return Some(answer),
            Way::Forward { .. } | Way::Admin => None,
            Way::Open(asked) => Some(asked),
            Way::Record(recorded) => {
                let begun = mutation::begin(&self.recorder, &self.counters, *recorded).await;
                let begun = match begun {
                    Ok(begun) => begun,
                    Err(refusal) => return Some(refusal),
                };
                upstream.intended(begun.version());
                return match upstream.ask(line).await {
                    Err(NotSent) => {
                        begun.not_sent();
                        None
                    }
                    Ok(None) => {
                        begun.lost();
                        None
                    }
                    Ok(Some(answer)) => {
                        begun.answered(text_of(&answer));
                        Some(answer)
                    }
                };
            }
        };
        let answer = upstream.ask(line).await.ok()??;
        if let Some(asked) = asked {
            self.recorder.uploads.note(&asked, text_of(&answer));
        }
        Some(answer)
    }
}
