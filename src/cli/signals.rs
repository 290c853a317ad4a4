//! SIGTERM and Ctrl-C: the first asks for an end, the second makes one.

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

/// Waits for the first signal. From then on a second one ends the process at once: that is safe, since whatever
/// was promised is on disk, and is what somebody wants who asks twice.
///
/// # Errors
/// If the system does not let us listen.
pub(super) async fn stop_asked() -> anyhow::Result<()> {
    let listen = |kind| signal(kind).context("listen for signals");
    let (mut terminate, mut interrupt) = (
        listen(SignalKind::terminate())?,
        listen(SignalKind::interrupt())?,
    );
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tokio::spawn(async move {
        let number = tokio::select! {
            _ = terminate.recv() => SignalKind::terminate(),
            _ = interrupt.recv() => SignalKind::interrupt(),
        };
        // As the shell says it of a process that a signal ended.
        std::process::exit(128 + number.as_raw_value());
    });
    Ok(())
}
