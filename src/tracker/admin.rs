//! The `!` commands: answered at once, also when all workers are busy.

use bytes::Bytes;
use mogilefs_protocol::{reply, request};

use crate::tracker::activity::MAX_WORKERS;
use crate::tracker::core::Core;

/// Answers `!version`: the protocol's version, and who speaks.
const VERSION: &str = concat!("2.73 (phylactery ", env!("CARGO_PKG_VERSION"), ")");

/// The kinds of work that `!jobs` and `!want` know, in the order of their names.
const JOBS: [&str; 4] = ["delete", "queryworker", "reaper", "replicate"];

/// Lines of the help end in a bare LF, unlike everything else.
const HELP: &str = "This tracker's commands beside those of clients:

    !version    which version this is
    !stats      counters
    !jobs       kinds of work, and how many do it
    !recent     the last requests: client, request, seconds in all, seconds of work
    !queue      requests that wait for a worker
    !watch      errors as they happen, until said again
    !want N queryworker
                let N requests run at once
    !to JOB MESSAGE
                nobody listens here; for programs that say it
    !shutdown   stop

";

/// What a connection does after an admin command.
#[derive(Debug)]
pub enum Outcome {
    /// Sends this.
    Reply(Bytes),
    /// Begins or ends to watch, then sends the reply of that.
    ToggleWatch,
    /// Closes; the tracker stops.
    Shutdown,
}

/// Executes the line of an admin command.
pub async fn run(core: &Core, line: &[u8]) -> Outcome {
    let (name, args) = request::admin_parts(line).unwrap_or((b"help", b""));
    // Names are prefixes, except for `stats`.
    let lines: Vec<Vec<u8>> = if name == b"stats" {
        core.activity
            .stats()
            .into_iter()
            .map(|(name, value)| format!("{name} {value}").into_bytes())
            .collect()
    } else if name.starts_with(b"shutdown") {
        return Outcome::Shutdown;
    } else if name.starts_with(b"jobs") {
        jobs(core)
    } else if name.starts_with(b"want") {
        vec![want(core, args).await.into_bytes()]
    } else if name.starts_with(b"to") {
        vec![send_to(core, args).into_bytes()]
    } else if name.starts_with(b"queue") || name.starts_with(b"pend") {
        core.activity.pending()
    } else if name.starts_with(b"watch") {
        return Outcome::ToggleWatch;
    } else if name.starts_with(b"recent") {
        core.activity.recent()
    } else if name.starts_with(b"version") {
        vec![VERSION.into()]
    } else {
        return Outcome::Reply(Bytes::from(format!("{HELP}.\r\n")));
    };
    Outcome::Reply(reply::admin(lines))
}

fn jobs(core: &Core) -> Vec<Vec<u8>> {
    let process = std::process::id();
    JOBS.iter()
        .flat_map(|&job| {
            let count = count_of(core, job);
            [
                format!("{job} count {count}"),
                format!("{job} desired {count}"),
                format!("{job} pids {process}"),
            ]
        })
        .map(String::into_bytes)
        .collect()
}

fn count_of(core: &Core, job: &str) -> usize {
    if job == "queryworker" {
        core.activity.desired_workers()
    } else {
        1
    }
}

async fn want(core: &Core, args: &[u8]) -> String {
    let args = String::from_utf8_lossy(args);
    let mut words = args.split_ascii_whitespace();
    let count = words
        .next()
        .filter(|word| word.bytes().all(|byte| byte.is_ascii_digit()));
    let (Some(count), Some(job)) = (count, words.next()) else {
        return "ERROR: usage: !want <count> <jobclass>".to_owned();
    };
    if !JOBS.contains(&job) {
        return format!(
            "ERROR: Invalid class '{job}'.  Valid classes: {}",
            JOBS.join(", ")
        );
    }
    let count = count.parse().unwrap_or(MAX_WORKERS).min(MAX_WORKERS);
    if job == "queryworker" {
        core.activity.set_desired_workers(count).await;
    }
    format!("Now desiring {count} children doing '{job}'.")
}

/// The workers of this tracker take no messages; how many would have heard it is told all the same.
fn send_to(core: &Core, args: &[u8]) -> String {
    let args = String::from_utf8_lossy(args);
    let mut words = args.split_ascii_whitespace();
    let (Some(job), Some(_)) = (words.next(), words.next()) else {
        return "ERROR: usage: !to <jobclass> <message>".to_owned();
    };
    let count = if JOBS.contains(&job) {
        count_of(core, job)
    } else {
        0
    };
    format!("Message sent to {count} children.")
}
