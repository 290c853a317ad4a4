//! The ledger on a real Cassandra: four nodes in two datacenters, one cluster for all of this.
//!
//! `PHYLACTERY_SEED` repeats what was left to chance. Tests that hurt nodes run alone; the others side by side.

#![allow(clippy::unwrap_used, reason = "what panics in a test has failed it")]
#![allow(clippy::large_futures, reason = "a test has one of each")]

mod clocks;
#[path = "../cassandra_cluster/mod.rs"]
mod cluster;
mod cluster_itself;
mod connection;
mod doubts;
mod drills;
#[path = "../harness/mod.rs"]
mod harness;
mod outside;
#[path = "../repair_sites/mod.rs"]
mod repair_sites;
mod rows;
mod sites;
mod streams;
mod suite;
mod support;
mod three;
mod ties;
