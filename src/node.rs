//! One process of a datacenter, put together.

use std::net::SocketAddr;

use crate::config::Config;
use crate::events::Events;

/// A running node.
pub struct Node {}

#[allow(missing_docs, clippy::unimplemented, unused_variables)]
impl Node {
    pub async fn start(config: Config, events: Events) -> anyhow::Result<Node> {
        anyhow::bail!("the node is not put together yet")
    }
    pub fn proxy_addrs(&self) -> Vec<SocketAddr> {
        unimplemented!()
    }
    pub fn api_addr(&self) -> SocketAddr {
        unimplemented!()
    }
    pub async fn stop(self) {
        unimplemented!()
    }
}
