//! `phylactery schema print` and `schema check`: the ledger's tables in Cassandra, for whoever makes them.
//!
//! Always true: `print` says nothing on stdout but what is to be pasted. Never here: changing a schema.

use std::io::{ErrorKind, Write};
use std::path::PathBuf;

use clap::builder::RangedU64ValueParser;
use clap::{Args, Subcommand};
use serde_json::json;

use super::{Failure, paint, runtime};
use crate::config::{self, KEYSPACE_RULE, LedgerConfig, is_keyspace};
use crate::ledger::cassandra::schema::{FILES, KEYSPACE, SCHEMA};
use crate::reach;

/// What `schema` takes.
#[derive(Subcommand, Debug)]
pub enum Schema {
    /// Print the CQL that makes the ledger's tables
    ///
    /// Name your datacenters in its first lines, as `nodetool status` does, and paste it into cqlsh. Pasted again it does
    /// no harm: what is there stays.
    Print(Print),

    /// See whether a cluster has the tables that this program needs
    ///
    /// Connects as a node would that has this configuration. The exit status is 0 if it would find what it
    /// needs, and 1 if not; then what there is to paste is told. Nothing is changed.
    Check(Check),
}

/// What `schema print` takes.
#[derive(Args, Debug)]
pub struct Print {
    /// The keyspace to make, as in [ledger] keyspace
    #[arg(long, value_name = "NAME", default_value = KEYSPACE, value_parser = keyspace)]
    keyspace: String,

    /// Print only what came after this version, for tables that are there and older
    #[arg(long, value_name = "VERSION", default_value_t = 0, value_parser = RangedU64ValueParser::<u32>::new().range(..=u64::from(SCHEMA)))]
    after: u32,
}

/// What `schema check` takes.
#[derive(Args, Debug)]
pub struct Check {
    /// The TOML file, whose [ledger] says where the cluster is
    #[arg(long, value_name = "FILE")]
    config: PathBuf,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A keyspace that was named on the command line.
pub(super) fn keyspace(name: &str) -> Result<String, String> {
    match is_keyspace(name) {
        true => Ok(name.to_owned()),
        false => Err(KEYSPACE_RULE.to_owned()),
    }
}

pub(super) fn print(arguments: Print) -> Result<(), Failure> {
    let Print { keyspace, after } = arguments;
    let newer = FILES.iter().filter(|file| file.version > after);
    let text: String = newer.map(|file| named(file.text, &keyspace)).collect();
    if text.is_empty() {
        let _unheard = writeln!(
            anstream::stderr(),
            "nothing to paste: {SCHEMA} is the newest version"
        );
    }
    // Half a schema in a file must not look like a whole one.
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(why) if why.kind() != ErrorKind::BrokenPipe => Err(Failure::from(
            anyhow::Error::new(why).context("write to stdout"),
        )),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// A file of `schema/` for another keyspace. The name is replaced where the file makes the keyspace and where it chooses it;
/// nothing else in it names one.
fn named(text: &str, keyspace: &str) -> String {
    let places = [("CREATE KEYSPACE IF NOT EXISTS ", "\n"), ("USE ", ";")];
    places
        .iter()
        .fold(text.to_owned(), |text, (before, after)| {
            text.replace(
                &format!("{before}{KEYSPACE}{after}"),
                &format!("{before}{keyspace}{after}"),
            )
        })
}

pub(super) fn check(arguments: Check) -> Result<(), Failure> {
    let config =
        config::load(&arguments.config).map_err(|mistakes| Failure::Usage(mistakes.to_string()))?;
    let LedgerConfig::Cassandra(cluster) = &config.ledger else {
        return Err(Failure::Usage(format!(
            "{}: the ledger is embedded, and makes its tables by itself; schema check is for kind = \"cassandra\"",
            arguments.config.display()
        )));
    };
    let found = runtime()?.block_on(reach::ledger(&config.ledger)).found;
    if arguments.json {
        let answer = json!({
            "good": found.is_ok(),
            "keyspace": cluster.keyspace,
            "needed": SCHEMA,
            "wrong": found.as_ref().err(),
        });
        paint::say!("{answer:#}");
        return found.map(|_| ()).map_err(|_| Failure::Told);
    }
    match found {
        Ok(_) => {
            paint::say!(
                "the keyspace {} {}: version {SCHEMA}",
                cluster.keyspace,
                paint::good("has the tables that this program needs")
            );
            Ok(())
        }
        Err(wrong) => Err(Failure::Failed(anyhow::Error::msg(wrong))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What cqlsh reads of a text: its words outside of comments.
    fn words(text: &str) -> Vec<&str> {
        text.lines()
            .filter_map(|line| line.split("--").next())
            .flat_map(|code| code.split(|c: char| !c.is_alphanumeric() && c != '_'))
            .filter(|word| !word.is_empty())
            .collect()
    }

    #[test]
    fn another_keyspace_is_named_everywhere_and_nothing_else_changes() {
        for file in FILES {
            let other = named(file.text, "ledger_2");
            let (before, after) = (words(file.text), words(&other));
            assert!(
                before.contains(&KEYSPACE),
                "{} chooses no keyspace",
                file.name
            );
            assert!(!after.contains(&KEYSPACE), "{} still names it", file.name);
            let wanted = before
                .iter()
                .map(|word| if *word == KEYSPACE { "ledger_2" } else { word });
            assert!(wanted.eq(after.iter().copied()), "{}", file.name);
            assert_eq!(other.lines().count(), file.text.lines().count());
        }
    }

    #[test]
    fn its_own_keyspace_changes_nothing() {
        for file in FILES {
            assert_eq!(named(file.text, KEYSPACE), file.text);
            assert!(
                file.text.ends_with('\n'),
                "{} runs into the next",
                file.name
            );
        }
    }

    #[test]
    fn files_are_in_order() {
        for (earlier, later) in FILES.iter().zip(FILES.iter().skip(1)) {
            assert!(earlier.version < later.version, "{}", later.name);
        }
    }
}
