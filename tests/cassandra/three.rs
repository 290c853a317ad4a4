//! Three sites of real processes on the cluster, killed, cut off and lied to under load. The third has no nodes of its own, and asks those of ma01.

use crate::cluster::Cluster;
use crate::harness::LedgerAt;
use crate::harness::three::Three;
use crate::support::{config, is_ready, seed};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_datacenters_end_alike_whatever_happened() {
    let cluster = Cluster::shared().await;
    let _calm = cluster.calm().await;
    let keyspace = cluster.keyspace().await;
    let of = |datacenter| config(cluster, datacenter, &keyspace);
    let ledger = LedgerAt::Cassandra(vec![of("ma01"), of("tx01")]);
    let home = tempfile::tempdir().expect("a folder");
    let seed = seed();
    let mut three = Box::pin(Three::prepare(home, ledger, seed)).await;
    for site in three.cluster.all_mut() {
        site.start_node().await;
        is_ready(site).await;
    }
    Box::pin(three.drill(seed)).await;
}
