//! The suite of the ledger's interface, unchanged, on four nodes in two datacenters.

use std::sync::Arc;

use phylactery::ledger::{Ledger, suite};

use crate::cluster::Cluster;
use crate::support::ledger;

#[tokio::test(flavor = "multi_thread")]
async fn passes_on_four_nodes_in_two_datacenters() {
    let cluster = Cluster::shared().await;
    // A keyspace for each of its parts, and nothing beside them.
    let _alone = cluster.alone().await;
    suite::passes(|| async {
        let keyspace = cluster.keyspace().await;
        Arc::new(ledger(cluster, "ma01", &keyspace).await) as Arc<dyn Ledger>
    })
    .await;
}
