//! The command line: see `phylactery --help`, and `cli` for what each command does.

use std::process::ExitCode;

use phylactery::cli::{Cli, log};

fn main() -> ExitCode {
    let cli = match Cli::from_arguments() {
        Ok(cli) => cli,
        Err(told) => return told,
    };
    let logging = log::start(
        cli.log.as_deref(),
        cli.command.default_log(),
        cli.command.log_lines(),
    );
    let done = logging.and_then(|()| cli.command.run());
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.tell(),
    }
}
