//! What a long-lived process asks of the system before it begins.

use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

/// Asks for as many open files as the system allows this user: a proxy holds thousands of connections, and a shell's
/// default is often 1,024.
pub(super) fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    let raised = rustix::process::Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(why) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!("only {:?} files may be open: {why}", limit.current);
    }
}

/// A file that may not grow (`ulimit -f`) is an error of the write, as a full disk is, and not the end of the process.
/// Call it within the runtime.
pub(super) fn outlive_file_size_limits() {
    // A signal that was listened for once never has its default effect again, also when nobody listens any more.
    if let Err(why) = signal(SignalKind::from_raw(libc::SIGXFSZ)) {
        tracing::warn!("a file-size limit would end this process: {why}");
    }
}
