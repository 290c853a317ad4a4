//! `phylactery run`

use std::path::PathBuf;

use clap::Args;

use super::{Failure, runtime, signals};
use crate::config::{self, Config};
use crate::events::Events;
use crate::node::Node;

/// What `run` takes.
#[derive(Args, Debug)]
pub struct Arguments {
    /// The TOML file; `fixtures/config/good.toml` explains every key
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    let config =
        config::load(&arguments.config).map_err(|mistakes| Failure::Usage(mistakes.to_string()))?;
    runtime()?.block_on(serve(config))?;
    Ok(())
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let drain = config.proxy.drain;
    let node = Node::start(config, Events::default()).await?;
    for address in node.proxy_addrs() {
        tracing::info!("clients are served at {address}");
    }
    tracing::info!("the API is at http://{}", node.api_addr());
    signals::stop_asked().await?;
    tracing::info!(
        "stopping: requests under way have {}",
        humantime::format_duration(drain)
    );
    node.stop().await;
    tracing::info!("stopped");
    Ok(())
}
