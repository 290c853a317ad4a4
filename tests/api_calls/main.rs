//! The HTTP API over real sockets and a real embedded ledger; and the commands which ask it.

#![allow(clippy::unwrap_used, reason = "what panics in a test has failed it")]

mod asked_by_cli;
mod bare_fids;
mod budget;
mod datacenters;
mod explain;
mod metrics;
mod placements;
#[path = "../repair_sites/mod.rs"]
mod repair_sites;
mod support;
mod unavailable;
mod v1;
