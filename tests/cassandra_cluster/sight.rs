//! Who sees whom: whether a node takes another one for up, as it shows by what it does.
//!
//! For each node there is a row that lies on it alone (one replica a datacenter, each node with a part of the ring of its own).
//! Asked for that row, another node fetches it there, or refuses at once because it takes it for down.

use std::time::{Duration, Instant};

use scylla::errors::{DbError, ExecutionError, RequestAttemptError};
use scylla::statement::{Consistency, Statement};

use super::{Inner, LOOK_AGAIN, PATIENCE};

/// Where the rows are.
#[derive(Debug)]
pub(super) struct Sight {
    /// By node, the key of the row that lies there alone.
    keys: Vec<i64>,
}

/// Why a node cannot be seen.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unseen {
    #[error("takes it for down")]
    Down,
    #[error("{0}")]
    Unsure(String),
}

/// How many keys to look through for one in each part of the ring: half of all keys are in each.
const KEYS: i64 = 64;

impl Inner {
    /// Makes the rows, once.
    pub(super) async fn prepare_sight(&self) -> Result<(), String> {
        let made = self.sight.get_or_try_init(async || {
            // Before the first keyspace, so that no node misses it: every node knows every other one and its place in the ring.
            for node in 0..self.nodes.len() {
                self.eventually(node, "know the ring", || self.knows_ring(node))
                    .await?;
            }
            self.make_sight().await
        });
        made.await.map(|_| ())
    }

    async fn knows_ring(&self, node: usize) -> Result<(), String> {
        let session = self.session_at(node).await?;
        let said = |why: &dyn std::fmt::Display| why.to_string();
        let peers = session
            .query_unpaged("SELECT tokens FROM system.peers_v2", ())
            .await;
        let peers = peers.map_err(|why| said(&why))?.into_rows_result();
        let peers = peers.map_err(|why| said(&why))?;
        let peers = peers
            .rows::<(Option<Vec<String>>,)>()
            .map_err(|why| said(&why))?;
        let placed = peers.filter(|peer| matches!(peer, Ok((Some(tokens),)) if !tokens.is_empty()));
        match placed.count() + 1 {
            all if all == self.nodes.len() => Ok(()),
            some => Err(format!("knows {some} of {}", self.nodes.len())),
        }
    }

    async fn make_sight(&self) -> Result<Sight, String> {
        let session = self.session_at(0).await?;
        let mut texts = Vec::new();
        let mut datacenters: Vec<&str> = self.nodes.iter().map(|node| node.datacenter).collect();
        datacenters.sort_unstable();
        datacenters.dedup();
        for datacenter in datacenters {
            texts.push(format!(
                "CREATE KEYSPACE sight_{datacenter} WITH replication = {{'class': 'NetworkTopologyStrategy', '{datacenter}': 1}}"
            ));
            texts.push(format!(
                "CREATE TABLE sight_{datacenter}.rows (key bigint PRIMARY KEY)"
            ));
        }
        for text in texts {
            let done = session.query_unpaged(text.as_str(), ()).await;
            done.map_err(|why| format!("{text}: {why}"))?;
        }
        let keys = self.nodes.iter().map(|node| {
            let key = (0..KEYS).find(|key| self.owner(node.datacenter, token(*key)) == node.index);
            key.expect("half of all keys lie there")
        });
        Ok(Sight {
            keys: keys.collect(),
        })
    }

    /// Which node of a datacenter owns a token: the one whose part of the ring ends there or next after it.
    fn owner(&self, datacenter: &str, token: i64) -> usize {
        let nodes = self
            .nodes
            .iter()
            .filter(|node| node.datacenter == datacenter);
        let after = |node: &&super::Node| (node.token < token, node.token);
        nodes.min_by_key(after).expect("a datacenter of ours").index
    }

    /// Whether node `here` takes node `there` for up, and it is.
    pub(super) async fn sees(&self, here: usize, there: usize) -> Result<(), Unseen> {
        let unsure = |why: &dyn std::fmt::Display| Unseen::Unsure(why.to_string());
        let Some(sight) = self.sight.get() else {
            return Err(Unseen::Unsure("not asked yet".into()));
        };
        let session = self.session_at(here).await.map_err(|why| unsure(&why))?;
        let datacenter = self.nodes[there].datacenter;
        let mut row = Statement::new(format!(
            "SELECT key FROM sight_{datacenter}.rows WHERE key = ?"
        ));
        row.set_consistency(Consistency::One);
        row.set_request_timeout(Some(Duration::from_secs(2)));
        match session.query_unpaged(row, (sight.keys[there],)).await {
            Ok(_) => Ok(()),
            Err(ExecutionError::LastAttemptError(RequestAttemptError::DbError(
                DbError::Unavailable { .. },
                _,
            ))) => Err(Unseen::Down),
            Err(why) => Err(unsure(&why)),
        }
    }

    /// Waits until every node that runs takes this one for down.
    pub(super) async fn seen_down(&self, node: usize) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        for here in self.running() {
            loop {
                let last = match self.sees(here, node).await {
                    Err(Unseen::Down) => break,
                    Err(Unseen::Unsure(why)) => why,
                    Ok(()) => "sees it".to_owned(),
                };
                if Instant::now() > deadline {
                    return Err(format!("node {here} does not take {node} for down: {last}"));
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
        Ok(())
    }
}

/// Where the ring has this key.
fn token(key: i64) -> i64 {
    use scylla::routing::partitioner::{Murmur3Partitioner, Partitioner};
    Murmur3Partitioner.hash_one(&key.to_be_bytes()).value()
}
