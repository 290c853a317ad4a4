//! The log: one short line a fact, on stderr.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use super::Failure;

/// Starts it, at the level that `--log`, else `RUST_LOG`, else `default` says.
///
/// # Errors
/// If the level is none.
pub fn start(level: Option<&str>, default: &str) -> Result<(), Failure> {
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
    tracing_subscriber::fmt()
        .compact()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(wanted && std::io::stderr().is_terminal())
        .init();
    Ok(())
}
