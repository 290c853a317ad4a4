//! `phylactery tracker`

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use clap::builder::RangedU64ValueParser;
use tokio_util::sync::CancellationToken;

use super::{Failure, runtime, signals};
use crate::tracker::{Devid, Tracker, TrackerConfig};

/// What `tracker` takes.
#[derive(Args, Debug)]
pub struct Arguments {
    /// The folder that everything is kept in; made if it is not there
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,

    /// Where clients of the tracker connect
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7001")]
    listen: SocketAddr,

    /// Where the files are read and written by HTTP
    ///
    /// Clients are told this address in URLs, so it has to be one that they can reach.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7500")]
    storage_listen: SocketAddr,

    /// How many devices to begin with, each a folder below DIR
    ///
    /// Files whose class asks for several copies get them on different devices. More can be added later
    /// with `mogadm device add`.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = RangedU64ValueParser::<Devid>::new().range(1..=1000))]
    devices: Devid,

    /// A domain to make if the folder is new; may be given several times
    #[arg(long = "domain", value_name = "NAME")]
    domains: Vec<String>,
}

pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    runtime()?.block_on(serve(arguments))?;
    Ok(())
}

async fn serve(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments {
        dir,
        listen,
        storage_listen,
        devices,
        domains,
    } = arguments;
    let mut config = TrackerConfig::new(dir, listen, storage_listen);
    for host in &mut config.hosts {
        host.devices = (1..=devices).collect();
    }
    let config = domains
        .iter()
        .fold(config, |config, domain| config.domain(domain));
    let stop = CancellationToken::new();
    let tracker = Tracker::start(config, stop.clone())
        .await
        .context("start the tracker")?;
    let stopped = tracker.stopped();
    tokio::pin!(stopped);
    tokio::select! {
        asked = signals::stop_asked() => {
            asked?;
            stop.cancel();
            stopped.await;
        }
        // A client said !shutdown.
        () = &mut stopped => {}
    }
    Ok(())
}
