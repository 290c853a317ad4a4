//! What holds on a real Cassandra cluster of four nodes in two datacenters, one cluster for all of these tests.

#[path = "../cassandra_cluster/mod.rs"]
mod cluster;
mod cluster_itself;
