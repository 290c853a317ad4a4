//! The log: one short line a fact, on stderr.

use std::fmt;
use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

use super::Failure;

/// Starts it, at the level that `--log`, else `RUST_LOG`, else `default` says.
///
/// # Errors
/// If the level is none.
pub fn start(level: Option<&str>, default: &str, lines: Lines) -> Result<(), Failure> {
    let variable = std::env::var("RUST_LOG")
        .ok()
        .filter(|text| !text.is_empty());
    let (said, by) = match (level, &variable) {
        (Some(level), _) => (level, "--log"),
        (None, Some(variable)) => (variable.as_str(), "RUST_LOG"),
        (None, None) => (default, "the default"),
    };
    let filter = EnvFilter::builder().parse(said).map_err(|error| {
        Failure::Usage(format!(
            "{by} is {said:?}: {error}; write error, warn, info, debug or trace"
        ))
    })?;
    let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let log = tracing_subscriber::fmt()
        .compact()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(wanted && std::io::stderr().is_terminal());
    match lines {
        Lines::OfAService => log.init(),
        Lines::AmongOthers => log.with_timer(TimeOfDay).with_target(false).init(),
    }
    Ok(())
}

/// How a line looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lines {
    /// Read later, perhaps by a program: the whole time, and which part of the program speaks.
    OfAService,
    /// Read at once, between what is printed for people: as short as that.
    AmongOthers,
}

/// The time of day in UTC, as in 09:35:01.
pub(super) struct TimeOfDay;

impl TimeOfDay {
    pub(super) fn now() -> String {
        let now = humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string();
        now.get(11..19).unwrap_or_default().to_owned()
    }
}

impl FormatTime for TimeOfDay {
    fn format_time(&self, to: &mut Writer<'_>) -> fmt::Result {
        to.write_str(&TimeOfDay::now())
    }
}
