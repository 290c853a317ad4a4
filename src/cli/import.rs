//! `phylactery import`: what was there before there was a proxy, told to the ledger.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::paint::{bad, faint, good, grouped, plain, say, waiting};
use super::{Failure, runtime, signals};
use crate::config::{self, Config};
use crate::file::Datacenter;
use crate::node::open_ledger;
use crate::repair::import::{
    DumpFiles, ImportError, ImportParts, Listed, Options, Progress, Report, import,
};
use crate::trackers::Trackers;

/// Connections to the tracker: clients have most of its workers.
const CONNECTIONS: usize = 4;

/// What is shown of the list without --json.
const SHOWN: usize = 20;

/// What `import` takes.
#[derive(Args, Debug)]
pub struct Arguments {
    /// The TOML file of a node of the datacenter whose files these are
    #[arg(long, value_name = "FILE")]
    config: PathBuf,

    /// Read this dump of MogileFS's table `file`, and not the tracker's list
    ///
    /// As MySQL writes it: SELECT fid, dmid, dkey, length, classid FROM file ORDER BY fid INTO OUTFILE '/tmp/file.tsv'.
    /// It is read while it is as it was; a later dump is a new import. What changed since it was made is found by the
    /// backfill of the node.
    #[arg(long, value_name = "FILE")]
    dump: Option<PathBuf>,

    /// A dump of the table `domain` (dmid, namespace); without it the tracker is asked
    #[arg(long, value_name = "FILE", requires = "dump")]
    domains: Option<PathBuf>,

    /// A dump of the table `class` (dmid, classid, classname); without it the tracker is asked
    #[arg(long, value_name = "FILE", requires = "dump")]
    classes: Option<PathBuf>,

    /// Files in a second, at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: Option<u32>,

    /// Write nothing; say what would be met
    #[arg(long)]
    dry_run: bool,

    /// Where this datacenter and another have different files under one key, take this one's
    ///
    /// Without it they are listed and left alone, and are gaps (`phylactery gaps`). The other file is replaced, and
    /// with it lost: look at them first.
    #[arg(long, value_name = "DATACENTER")]
    prefer: Option<Datacenter>,

    /// Begin anew, wherever an interrupted import has come to
    #[arg(long)]
    restart: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    let config =
        config::load(&arguments.config).map_err(|mistakes| Failure::Usage(mistakes.to_string()))?;
    if arguments.prefer.is_some() && arguments.dry_run {
        return Err(Failure::Usage(
            "--prefer decides, and --dry-run writes nothing; give one of them".to_owned(),
        ));
    }
    let json = arguments.json;
    let report = runtime()?.block_on(work(config, arguments))?;
    match json {
        true => say!("{:#}", serde_json::json!(report)),
        false => show(&report),
    }
    match report.ended {
        true => Ok(()),
        false => Err(Failure::Told),
    }
}

async fn work(config: Config, arguments: Arguments) -> Result<Report, Failure> {
    let ledger = open_ledger(&config.ledger).await?;
    let Arguments {
        dump,
        domains,
        classes,
        rate,
        dry_run,
        prefer,
        restart,
        json,
        ..
    } = arguments;
    let options = Options {
        dump: dump.map(|files| DumpFiles {
            files,
            domains,
            classes,
        }),
        rate,
        dry_run,
        prefer,
        restart,
    };
    let parts = ImportParts {
        ledger,
        datacenter: config.datacenter.name,
        node: config.datacenter.node,
        trackers: Trackers::new(config.proxy.trackers, CONNECTIONS).into(),
        split_from: config.repair.split_from,
        max_key: config.proxy.max_key,
    };
    let bar = Bar::new(json, options.dump.is_some());
    let stop = CancellationToken::new();
    let asked = stop.clone();
    let signal = tokio::spawn(async move {
        if signals::stop_asked().await.is_ok() {
            asked.cancel();
        }
    });
    let report = import(&parts, &options, &stop, &|report, progress| {
        bar.tell(report, progress);
    })
    .await;
    signal.abort();
    bar.end();
    report.map_err(|error| match error {
        ImportError::Dump(why) => Failure::Usage(why.to_string()),
        error @ (ImportError::Http(_) | ImportError::Ledger(_)) => Failure::Failed(error.into()),
    })
}

/// The progress, on a terminal; nothing elsewhere.
struct Bar {
    bar: ProgressBar,
    last: Mutex<Option<std::time::Instant>>,
}

impl Bar {
    fn new(json: bool, bytes: bool) -> Bar {
        let target = match json {
            true => ProgressDrawTarget::hidden(),
            // Draws on a terminal only.
            false => ProgressDrawTarget::stderr(),
        };
        let what = match bytes {
            true => "{bytes} of {total_bytes}",
            false => "fid {human_pos} of {human_len}",
        };
        let bar = ProgressBar::with_draw_target(Some(0), target);
        let style = format!("{{bar:30}} {{percent:>3}}%  {what}, {{eta}} left  {{wide_msg}}");
        if let Ok(style) = ProgressStyle::with_template(&style) {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(250));
        Bar {
            bar,
            last: Mutex::default(),
        }
    }

    fn tell(&self, report: &Report, progress: &Progress) {
        self.bar.set_length(progress.of);
        // What lies behind from the start took no time.
        let first = self
            .last
            .lock()
            .replace(std::time::Instant::now())
            .is_none();
        match first {
            true => {
                self.bar.set_position(progress.at);
                self.bar.reset_eta();
            }
            false => self.bar.set_position(progress.at),
        }
        self.bar.set_message(match &progress.waits {
            Some(why) => format!("waits: {}", plain(why)),
            None => format!("{} files", grouped(report.looked_at)),
        });
    }

    fn end(&self) {
        self.bar.finish_and_clear();
    }
}

fn show(report: &Report) {
    let what = match report.ended {
        true => good("imported").to_string(),
        false => waiting("interrupted; the same command goes on where it stopped").to_string(),
    };
    say!("{} files: {what}", grouped(report.looked_at));
    let lines = [
        (report.new, "new to the ledger"),
        (report.known, "known before"),
        (report.adopted, "the same as elsewhere, by proof"),
        (
            report.to_fetch,
            "known to the tracker without their bytes; repair fetches them",
        ),
        (
            report.outdone,
            "changed or deleted elsewhere through a proxy; repair follows that",
        ),
        (report.gone, "not in the tracker any more"),
        (report.decided, "different elsewhere, decided by --prefer"),
        (
            report.not_everywhere,
            "not on every copy of the ledger yet; a quorum in each datacenter has them",
        ),
    ];
    for (count, what) in lines.iter().filter(|(count, _)| *count > 0) {
        say!("  {:>14} {what}", grouped(*count));
    }
    let wrong = [
        (
            report.conflicts,
            "different elsewhere, left alone; --prefer decides",
        ),
        (report.unsure, "not to be compared yet; repair tries again"),
        (report.unreadable, "unreadable"),
    ];
    for (count, what) in wrong.iter().filter(|(count, _)| *count > 0) {
        say!("  {:>14} {}", bad(grouped(*count)), what);
    }
    for listed in report.listed.iter().take(SHOWN) {
        say!("{}", line(listed));
    }
    let counted = report.conflicts + report.unsure + report.unreadable;
    let left = counted.saturating_sub(report.listed.len().min(SHOWN) as u64);
    if left > 0 {
        say!(
            "  {}",
            faint(format!(
                "and {} more; --json lists up to 1,000, and `phylactery gaps` what waits",
                grouped(left)
            ))
        );
    }
}

fn line(listed: &Listed) -> String {
    let place = listed.line.map(|line| format!(" line {line}"));
    let name = match (&listed.domain, &listed.key) {
        (Some(domain), Some(key)) => format!(" {domain} {key}"),
        _ => String::new(),
    };
    format!(
        "  {}{}{}: {}",
        bad(listed.kind),
        place.unwrap_or_default(),
        plain(&name),
        plain(&listed.why)
    )
}
