//! The test cluster itself, and that `schema/` can be pasted into it.

use std::time::Instant;

use crate::cluster::Cluster;

#[tokio::test]
async fn keyspaces_are_made() {
    let began = Instant::now();
    let cluster = Cluster::shared().await;
    eprintln!("started in {:?}", began.elapsed());
    let _calm = cluster.calm().await;
    for _ in 0..5 {
        let began = Instant::now();
        let name = cluster.keyspace().await;
        eprintln!("{name} in {:?}", began.elapsed());
    }
}
