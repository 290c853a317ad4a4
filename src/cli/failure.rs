//! How a command can fail, and the exit code that says so.

use std::io::Write;
use std::process::ExitCode;

use super::paint;

/// A wrong command line or configuration (EX_USAGE of sysexits.h).
pub(super) const USAGE: u8 = 64;
/// A service that does not answer (EX_UNAVAILABLE).
const UNREACHABLE: u8 = 69;

/// Why a command did not do what it was asked to.
#[derive(Debug)]
pub enum Failure {
    /// The command line or the configuration is wrong, and the text says how.
    Usage(String),
    /// As [`Failure::Usage`], and it has been said already.
    UsageTold,
    /// The API that was asked does not answer.
    Unreachable(String),
    /// Anything else.
    Failed(anyhow::Error),
    /// As [`Failure::Failed`], and it has been said already.
    Told,
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Failure::Failed(error)
    }
}

impl Failure {
    /// Says it on stderr.
    pub fn tell(self) -> ExitCode {
        let (text, code) = match self {
            Failure::UsageTold => return ExitCode::from(USAGE),
            Failure::Told => return ExitCode::FAILURE,
            Failure::Usage(text) => (text, USAGE),
            Failure::Unreachable(text) => (text, UNREACHABLE),
            // The chain of causes reads as one sentence.
            Failure::Failed(error) => (format!("{error:#}"), 1),
        };
        let _unheard = writeln!(anstream::stderr(), "{}: {text}", paint::bad("error"));
        ExitCode::from(code)
    }
}
