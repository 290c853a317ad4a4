//! The command line: what a person meets first.
//!
//! Always true: results go to stdout, everything else to stderr; colours only to a terminal that wants them; a
//! wrong command line or configuration ends with 64 before anything was bound or made, an API that does not answer with 69,
//! any other failure with 1. Never here: the work itself.

mod ask;
mod check_config;
mod demo;
mod failure;
mod import;
pub mod log;
mod paint;
mod process;
mod run;
mod schema;
mod signals;
mod simulate;
mod split;
mod tracker;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use failure::Failure;

/// The whole command line.
#[derive(Parser, Debug)]
#[command(
    name = "phylactery",
    version,
    about = "Keep the same files in MogileFS installations that stand alone",
    long_about = "Phylactery stands in front of the MogileFS tracker of a datacenter. Clients talk to it as to the \
        tracker; it notes what they change, tells a ledger that all datacenters share, and brings here \
        what was stored elsewhere.\n\n\
        To see it work, run `phylactery demo`: two datacenters on this machine, and nothing else to install.",
    after_help = "Exit status: 0 done, 1 failed, 64 wrong command line or configuration, 69 API not reached.",
    after_long_help = "Examples:\n  \
          phylactery demo\n  \
          phylactery check-config /etc/phylactery.toml && phylactery run --config /etc/phylactery.toml\n  \
          phylactery schema print | cqlsh\n  \
          phylactery file show photos 2026/cat.jpg\n  \
          phylactery explain photos 2026/cat.jpg\n  \
          phylactery gaps --json | jq '.gaps[].key'\n  \
          phylactery placement set photos:raw ma01,tx01\n  \
          phylactery repair budget set --bytes-per-second 50MB\n  \
          phylactery import --config /etc/phylactery.toml --dump file.tsv --dry-run\n\n\
        Exit status:\n  \
          0   done\n  \
          1   failed, for the reason told\n  \
          64  the command line or the configuration is wrong; nothing was started or made\n  \
          69  the HTTP API that was asked does not answer",
    disable_help_subcommand = true,
    max_term_width = 100
)]
pub struct Cli {
    /// Log this and more: error, warn, info, debug, trace
    ///
    /// Also per part, as in "warn,phylactery::repair=debug". Goes to stderr. Without this option the
    /// variable RUST_LOG counts; without that it is "info" for run and tracker, "warn" for the rest, in which the
    /// driver of Cassandra is not heard.
    #[arg(long, global = true, value_name = "LEVEL", display_order = 1000)]
    pub log: Option<String>,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Serve a datacenter: proxy, repair and HTTP API
    ///
    /// Runs in the foreground until it gets SIGTERM or Ctrl-C; it then finishes the requests under
    /// way and ends. A second signal ends it at once, which is safe too: whatever a client was promised is on
    /// disk. The configuration is checked before any port is bound or any file made.
    Run(run::Arguments),

    /// Say what a configuration file means, or all that is wrong with it
    ///
    /// Nothing is bound, made or changed, so it is safe beside a running process. Every mistake is told at
    /// once, with its line and with what would be right; the exit status is then 64. With --connect it goes on to
    /// look at ledger and trackers, by reading only.
    CheckConfig(check_config::Arguments),

    /// Print the ledger's tables for Cassandra, or see whether a cluster has them
    ///
    /// The tables of a ledger in Cassandra are made by a person, who pastes what `schema print` prints into
    /// cqlsh. This program never changes them by itself.
    #[command(subcommand, arg_required_else_help = true)]
    Schema(schema::Schema),

    /// Run two datacenters on this machine, to try it out
    ///
    /// Starts `ma01` and `tx01`, each with a small tracker of its own, a proxy, repair and an HTTP API, over
    /// one ledger: a file, or with --ledger cassandra a cluster that you have. It prints where everything is and two things to try, and then a line for each thing that
    /// happens. Ctrl-C stops it; started again on the same folder it goes on where it was.
    Demo(demo::Arguments),

    /// Serve a small MogileFS tracker and storage node over a folder
    ///
    /// It answers as mogilefsd does, to any MogileFS client, and keeps everything in one folder. Good for trying,
    /// for tests and for a small site; it is one process on one disk, so it is no replacement for the
    /// real one where files must survive the loss of a machine.
    Tracker(tracker::Arguments),

    /// Tell the ledger of the files that a datacenter had before it had a proxy
    ///
    /// Reads the tracker's list of files, or faster a dump of its database, and writes to the ledger that they are here; safe beside
    /// a running node, and while clients change files. Interrupted, the same command goes on where it stopped. What another
    /// datacenter has too is compared: the same is adopted, the different is listed and left alone, unless --prefer says whose
    /// counts. A node finds all these files by itself too, by its backfill; this is the faster way, and says what it has met. The exit status is 0 when
    /// it came to the end, whatever it met.
    Import(import::Arguments),

    /// See to it that installations which were one do not destroy each other's files
    ///
    /// For one MogileFS over several sites that becomes one in each, without copying: `split guide` has the steps.
    #[command(subcommand, arg_required_else_help = true)]
    Split(split::Split),

    /// Show how a datacenter is doing
    ///
    /// Whether it is in sync and since when that is proved, what waits for the ledger, what repair
    /// is doing, and how many files did not come at once.
    Status(ask::Status),

    /// Say what is true where ledger and journal disagree
    ///
    /// When a ledger was restored from a backup, a journal was lost or set back, or a name is used twice, repair
    /// stops until a person has looked. This shows what is in doubt and what it would mean to accept it; with --yes it
    /// accepts, and repair goes on without a restart.
    Accept(ask::Accept),

    /// Look at one file
    ///
    /// Asks the HTTP API of a datacenter what the ledger knows of it, and so gets the same answer in all of
    /// them. Keys are given as clients give them.
    #[command(subcommand, arg_required_else_help = true)]
    File(ask::File),

    /// Say why a file is in a datacenter, or is not
    ///
    /// In one sentence, with the facts: not due there by placement, deleted, parked with its last error, a change that lies
    /// ahead, stored past the proxy, and so on. Ask the datacenter that you wonder about; it looks at its tracker too.
    Explain(ask::Explain),

    /// List the files that did not come at once, and why
    ///
    /// These are the files that repair has tried to bring to this datacenter (or to delete, rename or reclass in it)
    /// without success, most urgent first, each with its last error. It goes on trying by itself.
    Gaps(ask::Gaps),

    /// Say, or show, in which datacenters files are due
    ///
    /// Files are due in all datacenters, unless a placement was set for their domain or class. It is kept in the
    /// ledger, and so counts in all datacenters, whichever of them is told.
    #[command(subcommand, arg_required_else_help = true)]
    Placement(ask::placement::Placement),

    /// Pause the workers of repair, say how fast they may be, tell them to begin
    ///
    /// Tail follows what the other datacenters change, retry tries again what did not come, scan goes over all files
    /// that should be here, verify over all that are, and backfill looks for those that came past the proxy. What is said here counts from that moment on, in the datacenter that is
    /// asked, and outlives restarts.
    #[command(subcommand, arg_required_else_help = true)]
    Repair(ask::repair::Repair),

    /// Show the datacenters, add, pause, remove one, or have it join again
    ///
    /// What is said of a datacenter is kept in the ledger, and so counts everywhere within seconds, whichever of them is told.
    #[command(subcommand, arg_required_else_help = true)]
    Dc(ask::dc::Dc),

    /// Play datacenters through faults, and see whether a promise breaks
    ///
    /// Journals, delivery and repair of several datacenters run here in one thread and in virtual time, against played trackers,
    /// storage nodes, networks, clocks and a played ledger, all of which fail by chance. What is promised is checked all the while, and
    /// at the end that everything is everywhere. A story that breaks a promise is made as short as it can be, and printed.
    Simulate(simulate::Arguments),
}

impl Cli {
    /// Parses the command line. On a mistake (64), or for `--help` and `--version` (0), what there is to say has
    /// been said, and the exit code is left.
    pub fn from_arguments() -> Result<Cli, ExitCode> {
        Cli::try_parse().map_err(|said| {
            // Nobody left to tell if that fails.
            let _unheard = said.print();
            if said.use_stderr() {
                ExitCode::from(failure::USAGE)
            } else {
                ExitCode::SUCCESS
            }
        })
    }
}

impl Command {
    /// What is logged if nobody says.
    pub fn default_log(&self) -> &'static str {
        match self {
            Command::Run(_) => "info,scylla=error",
            Command::Tracker(_) => "info",
            // What the driver of Cassandra notices is for the log of a service; what comes of it is told here anyway.
            Command::CheckConfig(_)
            | Command::Schema(_)
            | Command::Demo(_)
            | Command::Import(_)
            | Command::Split(_) => "warn,scylla=off",
            Command::Status(_)
            | Command::Accept(_)
            | Command::File(_)
            | Command::Explain(_)
            | Command::Gaps(_)
            | Command::Placement(_)
            | Command::Repair(_)
            | Command::Dc(_) => "warn",
            // What is wrong in a story is part of it.
            Command::Simulate(_) => "off",
        }
    }

    /// Whom its log is for.
    pub fn log_lines(&self) -> log::Lines {
        match self {
            Command::Demo(_) => log::Lines::AmongOthers,
            _ => log::Lines::OfAService,
        }
    }

    /// Does it.
    pub fn run(self) -> Result<(), Failure> {
        match self {
            Command::Run(arguments) => run::run(arguments),
            Command::CheckConfig(arguments) => check_config::run(arguments),
            Command::Schema(schema::Schema::Print(arguments)) => schema::print(arguments),
            Command::Schema(schema::Schema::Check(arguments)) => schema::check(arguments),
            Command::Demo(arguments) => demo::run(arguments),
            Command::Tracker(arguments) => tracker::run(arguments),
            Command::Import(arguments) => import::run(arguments),
            Command::Split(split) => split::run(split),
            Command::Status(arguments) => ask::status(arguments),
            Command::Accept(arguments) => ask::accept(arguments),
            Command::File(ask::File::Show(arguments)) => ask::file(arguments),
            Command::Explain(arguments) => ask::explain(arguments),
            Command::Gaps(arguments) => ask::gaps(arguments),
            Command::Placement(placement) => ask::placement::run(placement),
            Command::Repair(repair) => ask::repair::run(repair),
            Command::Dc(dc) => ask::dc::run(dc),
            Command::Simulate(arguments) => simulate::run(arguments),
        }
    }
}

/// The runtime of everything but the proxy, which has its own.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(anyhow::Error::new(error).context("start the runtime")))?;
    let within = runtime.enter();
    process::raise_open_files();
    process::outlive_file_size_limits();
    crate::failpoint::arm_from_environment();
    drop(within);
    Ok(runtime)
}
