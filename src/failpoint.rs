//! Places where a test may end the process, named; nothing in a release build.
//!
//! `PHYLACTERY_KILL_AT=journal::intent_durable` ends the process (as by `kill -9`) when it first comes to that place,
//! `…=journal::intent_durable:3` when it comes there for the third time. Only builds of the tests listen to it, and to
//! `PHYLACTERY_FAILPOINTS`, which arms the few that make the program believe something else: what the time is, how long a minute is.

use std::sync::atomic::{AtomicU32, Ordering};

/// Every failpoint there is; a test tries all of them in turn.
pub const ALL: &[&str] = &[
    INTENT_BEFORE,
    INTENT_DURABLE,
    FORWARDED,
    ANSWERED,
    OUTCOME_HANDED,
    NUMBERED,
    HEAD_WRITTEN,
    CHANGE_WRITTEN,
    CONFIRMED,
    COPY_OPENED,
    COPY_UPLOADED,
    COPY_INTENT,
    COPY_CLOSED,
    COPY_OUTCOME,
    REMOVE_INTENT,
    REMOVE_DONE,
];

/// A mutation has arrived; its intent is not written.
pub const INTENT_BEFORE: &str = "proxy::before_intent";
/// The intent is durable; the tracker has not seen the request.
pub const INTENT_DURABLE: &str = "proxy::intent_durable";
/// The request was sent; the answer was not read.
pub const FORWARDED: &str = "proxy::forwarded";
/// The answer was read; the client has not seen it.
pub const ANSWERED: &str = "proxy::answered";
/// The client has its answer and the outcome was handed to the journal, where it may not be durable.
pub const OUTCOME_HANDED: &str = "proxy::outcome_handed";
/// The announcement has its number in the journal; the ledger has nothing.
pub const NUMBERED: &str = "deliver::numbered";
/// The file's cells are in the ledger; its change is not.
pub const HEAD_WRITTEN: &str = "deliver::head_written";
/// The change is in the ledger; the journal does not know it.
pub const CHANGE_WRITTEN: &str = "deliver::change_written";
/// The journal has forgotten the announcement.
pub const CONFIRMED: &str = "deliver::confirmed";
/// Repair has opened an upload.
pub const COPY_OPENED: &str = "copy::opened";
/// Repair has stored and verified the bytes; they are not closed.
pub const COPY_UPLOADED: &str = "copy::uploaded";
/// The intent of repair's closing is durable.
pub const COPY_INTENT: &str = "copy::intent_durable";
/// The tracker has answered repair's closing.
pub const COPY_CLOSED: &str = "copy::closed";
/// The outcome of repair's closing was handed to the journal.
pub const COPY_OUTCOME: &str = "copy::outcome_handed";
/// The intent of repair's removal, rename or class change is durable.
pub const REMOVE_INTENT: &str = "apply::intent_durable";
/// The tracker has answered it.
pub const REMOVE_DONE: &str = "apply::answered";

/// Passes a failpoint.
#[inline]
#[cfg_attr(
    not(test),
    allow(unused_variables, reason = "a release build has no failpoints")
)]
pub fn pass(name: &'static str) {
    fail::fail_point!(name);
}

/// Whether a test wants the embedded ledger to be out of this process's reach: while there is a file of the name that it gives. (A cluster is
/// cut off by the network.)
pub fn ledger_is_cut_off() -> bool {
    fail::fail_point!("ledger::cut", |file| {
        file.is_some_and(|file| std::path::Path::new(&file).exists())
    });
    false
}

/// Arms the failpoints that the environment names, if this build has failpoints: the one of `PHYLACTERY_KILL_AT`, and those that
/// change what the program does (`PHYLACTERY_FAILPOINTS=clock::ahead=return(3600);tail::lost_at_once=return`).
pub fn arm_from_environment() {
    for wanted in std::env::var("PHYLACTERY_FAILPOINTS")
        .unwrap_or_default()
        .split(';')
        .filter(|one| !one.is_empty())
    {
        let (name, actions) = wanted.split_once('=').unwrap_or((wanted, ""));
        if let Err(why) = fail::cfg(name, actions) {
            tracing::warn!("PHYLACTERY_FAILPOINTS: {wanted} is not obeyed: {why}");
        }
    }
    let Ok(wanted) = std::env::var("PHYLACTERY_KILL_AT") else {
        return;
    };
    let (name, count) = match wanted.rsplit_once(':') {
        Some((name, count)) if count.parse::<u32>().is_ok() => (name, count.parse().unwrap_or(1)),
        _ => (wanted.as_str(), 1),
    };
    let left = AtomicU32::new(count);
    let armed = fail::cfg_callback(name, move || {
        if left.fetch_sub(1, Ordering::Relaxed) == 1 {
            // The exit of a killed process: no destructor, no flush.
            std::process::abort();
        }
    });
    if let Err(why) = armed {
        tracing::warn!("PHYLACTERY_KILL_AT={wanted} is not obeyed: {why}");
    }
}
