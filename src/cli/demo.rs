//! `phylactery demo`

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use tokio::sync::broadcast::error::RecvError;

use super::log::TimeOfDay;
use super::paint::{bad, bytes, faint, good, plain, say, strong, waiting};
use super::schema::keyspace;
use super::{Failure, runtime, signals};
use crate::config::{CassandraConfig, LedgerConfig, contact_point};
use crate::demo::{DOMAIN, Demo, MOST_OFFSET, Site, default_dir, embedded_ledger, sites};
use crate::events::{Event, Events, What};
use crate::ledger::cassandra::CassandraLedger;

/// What `demo` takes.
#[derive(Args, Debug)]
pub struct Arguments {
    /// The folder that everything is kept in; made if it is not there
    ///
    /// By default a folder in your data directory, which is named at the start. Remove it to begin anew.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,

    /// Add N to every port
    ///
    /// The ports are 7001 and 7002 (proxies), 7011 and 7012 (trackers), 7511 and 7512 (storage), 8080 and 8081 (API).
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u16).range(..=i64::from(MOST_OFFSET)))]
    port_offset: u16,

    /// What the ledger is: a file in the demo's folder, or a keyspace of a Cassandra cluster
    ///
    /// For a cluster the keyspace has to be there: `phylactery schema print` prints what makes it.
    #[arg(long, value_enum, value_name = "KIND", default_value_t = Home::Embedded)]
    ledger: Home,

    #[command(flatten)]
    cluster: Cluster,
}

/// Where the demo's ledger is.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum Home {
    /// A file
    Embedded,
    /// A cluster
    Cassandra,
}

/// The options of `--ledger cassandra`.
#[derive(Args, Debug)]
struct Cluster {
    /// With --ledger cassandra: a node of the cluster; port 9042 if none is given
    #[arg(long, value_name = "HOST:PORT", value_parser = node_at, required_if_eq("ledger", "cassandra"))]
    contact_point: Option<String>,

    /// With --ledger cassandra: the keyspace [default: phylactery]
    #[arg(long, value_name = "NAME", value_parser = keyspace)]
    keyspace: Option<String>,

    /// With --ledger cassandra: the cluster's datacenter to use, by default that of the contact point
    #[arg(long, value_name = "NAME")]
    local_datacenter: Option<String>,
}

fn node_at(text: &str) -> Result<String, String> {
    contact_point(text).ok_or_else(|| "write host or host:port, such as 127.0.0.1:9042".to_owned())
}

impl Cluster {
    /// The ledger that they name; the contact point is asked for what was not said.
    async fn ledger(self, home: Home, dir: &Path) -> Result<LedgerConfig, Failure> {
        let Cluster {
            contact_point,
            keyspace,
            local_datacenter,
        } = self;
        let contact_point = match (home, contact_point) {
            (Home::Cassandra, Some(contact_point)) => contact_point,
            (Home::Embedded, None) if keyspace.is_none() && local_datacenter.is_none() => {
                return Ok(embedded_ledger(dir));
            }
            _ => {
                return Err(Failure::Usage(
                    "--contact-point, --keyspace and --local-datacenter go with --ledger cassandra"
                        .to_owned(),
                ));
            }
        };
        let datacenter = match local_datacenter {
            Some(name) => name,
            None => (CassandraLedger::datacenter_at(&contact_point).await)
                .map_err(anyhow::Error::new)?,
        };
        let mut config = CassandraConfig::new(vec![contact_point], datacenter);
        if let Some(keyspace) = keyspace {
            config.keyspace = keyspace;
        }
        Ok(LedgerConfig::Cassandra(config))
    }
}

pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    let dir = match arguments.dir {
        // What is printed has to make sense elsewhere too.
        Some(dir) => std::path::absolute(&dir).unwrap_or(dir),
        None => default_dir()?,
    };
    runtime()?.block_on(async {
        let ledger = arguments.cluster.ledger(arguments.ledger, &dir).await?;
        serve(&dir, &sites(arguments.port_offset), &ledger).await?;
        Ok(())
    })
}

async fn serve(dir: &Path, sites: &[Site; 2], ledger: &LedgerConfig) -> anyhow::Result<()> {
    let events = Events::default();
    let mut news = events.listen();
    say!("The demo lives in {}", strong(dir.display()));
    if let LedgerConfig::Cassandra(cluster) = ledger {
        say!(
            "Its ledger is the keyspace {} of Cassandra at {}, through {}",
            strong(&cluster.keyspace),
            cluster.contact_points.join(", "),
            cluster.local_datacenter
        );
    }
    let demo = Demo::start(dir, sites, ledger, &events).await?;
    introduce(sites);
    let telling = tokio::spawn(async move {
        loop {
            match news.recv().await {
                Ok(event) => tell(&event),
                Err(RecvError::Lagged(count)) => {
                    say!("{}", faint(format_args!("          … and {count} more")));
                }
                Err(RecvError::Closed) => return,
            }
        }
    });
    signals::stop_asked().await?;
    say!(
        "{}",
        faint("stopping; start it again and it goes on from here")
    );
    demo.stop().await;
    telling.abort();
    Ok(())
}

fn introduce([first, second]: &[Site; 2]) {
    // The name that this program was started by will start it again.
    let program = std::env::args().next();
    let program = program.as_deref().map_or("phylactery".into(), plain);
    say!();
    say!(
        "  {:<10} {:<26} {}",
        "",
        strong(first.name),
        strong(second.name)
    );
    let row = |name: &str, one: String, other: String| say!("  {name:<10} {one:<26} {other}");
    let http = |address| format!("http://{address}");
    row("proxy", first.proxy.to_string(), second.proxy.to_string());
    row(
        "tracker",
        first.tracker.to_string(),
        second.tracker.to_string(),
    );
    row("storage", http(first.storage), http(second.storage));
    row("API", http(first.api), http(second.api));
    say!();
    say!(
        "Store a file in {} (`pip install pymogilefs` first), and see it in {}:",
        first.name,
        second.name
    );
    say!();
    // Not indented, as Python wants it, and within 80 columns.
    say!("python3 -c '");
    say!("from pymogilefs.client import Client");
    say!("client = Client([\"{}\"], \"{DOMAIN}\")", first.proxy);
    say!("client.store_file(open(\"/etc/hostname\", \"rb\"), \"hello\")'");
    say!();
    say!(
        "{program} file show {DOMAIN} hello --api http://{}",
        second.api
    );
    say!();
    say!("Ctrl-C stops it. What happens, in UTC:");
    say!();
}

/// One readable line for one thing that happened.
fn tell(event: &Event) {
    let clock = TimeOfDay::now();
    let place = event.datacenter.as_str();
    let (verb, more) = match &event.what {
        What::Stored { size } => (strong("stored".to_owned()), bytes(*size)),
        What::Deleted => (strong("deleted".to_owned()), String::new()),
        What::Renamed { to } => (
            strong("renamed".to_owned()),
            format!("to {}", name(&to.bytes())),
        ),
        What::Reclassed { class } => (strong("reclassed".to_owned()), format!("as {class}")),
        What::Copied {
            from,
            size,
            took,
            lag,
        } => (
            good(format!("copied in {}", seconds(*took))),
            // How long the copy took says little if it came late.
            match lag.saturating_sub(*took) {
                late if late > Duration::from_secs(1) => {
                    format!(
                        "{} from {from}, {} after it was stored",
                        bytes(*size),
                        seconds(*lag)
                    )
                }
                _ => format!("{} from {from}", bytes(*size)),
            },
        ),
        What::Removed => (good("deleted here too".to_owned()), String::new()),
        What::Moved { to } => (
            good("renamed here too".to_owned()),
            format!("to {}", name(&to.bytes())),
        ),
        What::ClassApplied { class } => {
            (good("reclassed here too".to_owned()), format!("as {class}"))
        }
        What::MissedGoal { goal } => (
            bad("late".to_owned()),
            format!("not as it should be after {}", seconds(*goal)),
        ),
        What::CameLate { lag, goal } => (
            waiting("came late".to_owned()),
            format!("after {}, the goal is {}", seconds(*lag), seconds(*goal)),
        ),
        What::Parked {
            why,
            attempts: 0 | 1,
        } => (waiting("put off".to_owned()), plain(why)),
        What::Parked { why, attempts } => (
            bad("put off".to_owned()),
            format!("{} (tried {attempts} times)", plain(why)),
        ),
    };
    let file = format!(
        "{}/{}",
        name(&event.file.domain.bytes()),
        name(&event.file.key.bytes())
    );
    let line = format!(
        "{} {place}  {verb:<18} {}  {more}",
        faint(clock),
        strong(file)
    );
    say!("{}", line.trim_end());
}

/// How much of a name is shown: the line is to fit a terminal.
const NAME: usize = 40;

/// A name for people: as it is where it is text, and without its middle where it is long.
fn name(bytes: &[u8]) -> String {
    let whole = plain(&String::from_utf8_lossy(bytes));
    let length = whole.chars().count();
    if length <= NAME {
        return whole;
    }
    let half = NAME / 2;
    let begin: String = whole.chars().take(half - 1).collect();
    let end: String = whole.chars().skip(length - half).collect();
    format!("{begin}…{end}")
}

/// As in "copied in 0.4 s".
fn seconds(span: Duration) -> String {
    match span.as_secs_f64() {
        short if short < 0.095 => format!("{:.2} s", short.max(0.01)),
        some if some < 60.0 => format!("{some:.1} s"),
        _ => humantime::format_duration(Duration::from_secs(span.as_secs())).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_loses_its_middle() {
        assert_eq!(name(&[b'a'; NAME]), "a".repeat(NAME));
        let long = name(format!("{}\u{fc}{}", "b".repeat(50), "c".repeat(19)).as_bytes());
        assert_eq!(long, format!("{}…\u{fc}{}", "b".repeat(19), "c".repeat(19)));
        assert_eq!(long.chars().count(), NAME);
    }

    #[test]
    fn nothing_takes_no_time() {
        assert_eq!(seconds(Duration::from_micros(20)), "0.01 s");
        assert_eq!(seconds(Duration::from_millis(400)), "0.4 s");
        assert_eq!(seconds(Duration::from_secs(90)), "1m 30s");
    }
}
