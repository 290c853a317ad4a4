//! Keyspaces for tests: made of the files in `schema/`, as an operator pastes them, with the cluster's own replication.
//!
//! A new one takes as long as it would to empty an old one (about a second): so each is new, and none is used twice. Each costs every
//! node memory, and every later change of the schema time, so whoever has the cluster alone drops those of the tests before.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use scylla::statement::{Consistency, Statement};
use uuid::Uuid;

use super::{Inner, LOOK_AGAIN, PATIENCE, cql};

/// Numbers for their names.
#[derive(Debug, Default)]
pub(super) struct Keyspaces {
    count: AtomicU32,
    /// Those that were not dropped yet.
    made: Mutex<Vec<String>>,
}

impl Inner {
    pub(super) fn replication(&self) -> String {
        let copies = |datacenter: &str| {
            let nodes = self
                .nodes
                .iter()
                .filter(|node| node.datacenter == datacenter);
            nodes.count()
        };
        let mut text = "{'class': 'NetworkTopologyStrategy'".to_owned();
        for datacenter in ["ma01", "tx01"] {
            if copies(datacenter) > 0 {
                text += &format!(", '{datacenter}': {}", copies(datacenter));
            }
        }
        text + "}"
    }

    /// Makes one by a node that runs. One coordinator needs no agreement between two statements, only at the end.
    pub(super) async fn keyspace(&self) -> Result<String, String> {
        let number = self.keyspaces.count.fetch_add(1, Ordering::Relaxed);
        let name = format!("test{number}");
        let running = self.running();
        let node = *running.first().ok_or("no node runs")?;
        // A connection of its own, for its USE.
        let session = self.connect(node).await?;
        let create = format!(
            "CREATE KEYSPACE {name} WITH replication = {}",
            self.replication()
        );
        let run = async |text: &str, consistency| {
            let mut statement = Statement::new(text);
            statement.set_consistency(consistency);
            let done = session.query_unpaged(statement, ()).await;
            done.map_err(|why| format!("{text}: {why}"))
        };
        run(&create, Consistency::One).await?;
        let used = session.use_keyspace(&name, false).await;
        used.map_err(|why| format!("USE {name}: {why}"))?;
        let (tables, rows): (Vec<_>, Vec<_>) = cql::schema()
            .into_iter()
            .partition(|text| text.starts_with("CREATE") || text.starts_with("ALTER"));
        for text in &tables {
            run(text, Consistency::One).await?;
        }
        self.agreed().await?;
        // What a node is told about a table that it does not know yet is lost on it: so rows come last, and all that run confirm them.
        let all = match running.len() {
            all if all == self.nodes.len() => Consistency::All,
            1 => Consistency::One,
            2 => Consistency::Two,
            _ => Consistency::Three,
        };
        for text in &rows {
            run(text, all).await?;
        }
        self.keyspaces.made.lock().push(name.clone());
        Ok(name)
    }

    /// Drops all keyspaces that were made. Nobody uses one who does not hold the cluster.
    pub(super) async fn drop_keyspaces(&self) -> Result<(), String> {
        let made = std::mem::take(&mut *self.keyspaces.made.lock());
        if made.is_empty() {
            return Ok(());
        }
        let node = *self.running().first().ok_or("no node runs")?;
        let session = self.connect(node).await?;
        for name in made {
            let done = session.query_unpaged(format!("DROP KEYSPACE IF EXISTS {name}"), ());
            done.await.map_err(|why| format!("drop {name}: {why}"))?;
        }
        self.agreed().await
    }

    /// Waits until all nodes that run have the same schema.
    pub(super) async fn agreed(&self) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut versions = Vec::new();
            for node in self.running() {
                versions.push(self.schema_version(node).await?);
            }
            if versions.windows(2).all(|two| two[0] == two[1]) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!(
                    "the nodes do not agree on the schema: {versions:?}"
                ));
            }
            tokio::time::sleep(LOOK_AGAIN / 5).await;
        }
    }

    /// Lets a node write its schema to disk if it has not: before it is killed or stopped, else it would forget tables that it
    /// had learnt since, and their rows (`flush_local_schema_changes` in jvm.options).
    pub(super) async fn write_schema(self: &Arc<Self>, node: usize) -> Result<(), String> {
        if !self.nodes[node].is_running() {
            return Ok(());
        }
        let version = self.schema_version(node).await?;
        if *self.nodes[node].schema_on_disk.lock() == Some(version) {
            return Ok(());
        }
        let inner = Arc::clone(self);
        let flush = move || inner.nodes[node].nodetool(&["flush", "system_schema"]);
        tokio::task::spawn_blocking(flush)
            .await
            .expect("no panic")?;
        *self.nodes[node].schema_on_disk.lock() = Some(version);
        Ok(())
    }

    async fn schema_version(&self, node: usize) -> Result<Uuid, String> {
        let session = self.session_at(node).await?;
        let said = |why: &dyn std::fmt::Display| format!("schema of node {node}: {why}");
        let row = session
            .query_unpaged("SELECT schema_version FROM system.local", ())
            .await;
        let row = row.map_err(|why| said(&why))?.into_rows_result();
        let row = row.map_err(|why| said(&why))?.single_row::<(Uuid,)>();
        row.map(|(version,)| version).map_err(|why| said(&why))
    }
}
