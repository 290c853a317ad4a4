//! Every statement that goes to the cluster, side by side. Nothing else is ever sent, and no statement is put together from input.
//!
//! Always true: each is prepared once, and **idempotent**: a write sets cells at a timestamp that is part of what it writes
//! (`USING TIMESTAMP`), so that the driver may send it twice, and a late or repeated one changes nothing. All are
//! UPDATEs, which leave no row marker, and DELETEs of single cells: no write leaves a range tombstone.
//!
//! Consistency: `LOCAL_QUORUM`, which two of three nodes here answer, and which sees whatever was written so in this datacenter.
//! The few that are used more strongly are kept at each [`Strength`].

use scylla::client::execution_profile::ExecutionProfileHandle;
use scylla::client::session::Session;
use scylla::errors::PrepareError;
use scylla::statement::Consistency;
use scylla::statement::prepared::PreparedStatement;
use scylla::statement::unprepared::Statement;

use super::connect::Profiles;
use crate::config::WriteConsistency;
use crate::ledger::Strength;

/// One statement at every [`Strength`].
pub(super) struct AtStrength {
    local: PreparedStatement,
    global: PreparedStatement,
    each: PreparedStatement,
    whole: PreparedStatement,
}

impl AtStrength {
    pub(super) fn at(&self, strength: Strength) -> &PreparedStatement {
        match strength {
            Strength::Local => &self.local,
            Strength::Global => &self.global,
            Strength::Each => &self.each,
            Strength::Whole => &self.whole,
        }
    }
}

/// The prepared statements. What each is for is said beside its text.
pub(super) struct Statements {
    pub(super) set_head: AtStrength,
    pub(super) set_class: AtStrength,
    pub(super) set_replica: AtStrength,
    pub(super) forget_head: PreparedStatement,
    pub(super) forget_class: PreparedStatement,
    pub(super) forget_replica: PreparedStatement,
    pub(super) read_file: AtStrength,
    pub(super) scan_files: AtStrength,
    pub(super) append_change: AtStrength,
    pub(super) read_changes: AtStrength,
    pub(super) set_gap: PreparedStatement,
    pub(super) clear_gap: PreparedStatement,
    pub(super) read_gap: PreparedStatement,
    pub(super) list_gaps: PreparedStatement,
    pub(super) set_node: PreparedStatement,
    pub(super) list_nodes: PreparedStatement,
    pub(super) set_datacenter: PreparedStatement,
    pub(super) list_datacenters: PreparedStatement,
    pub(super) set_membership: AtStrength,
    pub(super) list_memberships: PreparedStatement,
    pub(super) set_placement: AtStrength,
    pub(super) list_placements: PreparedStatement,
    pub(super) set_cursor: PreparedStatement,
    pub(super) read_cursor: PreparedStatement,
}

/// Rows of one shard of `gaps` that are fetched at a time.
const GAPS_PAGE: i32 = 1_000;

impl Statements {
    /// Prepares all of them.
    pub(super) async fn prepare(
        session: &Session,
        profiles: &Profiles,
        whole: WriteConsistency,
    ) -> Result<Statements, PrepareError> {
        let preparing = Preparing { session, whole };
        let one = |text| preparing.one(text, &profiles.local);
        let strong = |text| preparing.at_every_strength(text, &profiles.local, &profiles.far);
        Ok(Statements {
            // A file's cells, each at its own timestamp: delivered at LOCAL_QUORUM, asserted at the operator's `write_consistency`.
            set_head: strong(
                "UPDATE files USING TIMESTAMP ? SET head = ? WHERE domain = ? AND key = ?",
            )
            .await?,
            set_class: strong(
                "UPDATE files USING TIMESTAMP ? SET class_cell = ? WHERE domain = ? AND key = ?",
            )
            .await?,
            // One entry, never the whole map: that would leave a range tombstone, and take the others' away.
            set_replica: strong(
                "UPDATE files USING TIMESTAMP ? SET replicas[?] = ? WHERE domain = ? AND key = ?",
            )
            .await?,
            // What may be forgotten of a deleted file: each cell at its own timestamp, never the row, at `write_consistency`.
            forget_head: strong("DELETE head FROM files USING TIMESTAMP ? WHERE domain = ? AND key = ?")
                .await?
                .whole,
            forget_class: strong(
                "DELETE class_cell FROM files USING TIMESTAMP ? WHERE domain = ? AND key = ?",
            )
            .await?
            .whole,
            forget_replica: strong(
                "DELETE replicas[?] FROM files USING TIMESTAMP ? WHERE domain = ? AND key = ?",
            )
            .await?
            .whole,
            // At QUORUM and EACH_QUORUM where an older answer than expected came.
            read_file: strong(
                "SELECT head, class_cell, replicas FROM files WHERE domain = ? AND key = ?",
            )
            .await?,
            // A page of a fixed range of the ring. By token, so that it can be gone on with on any node, at any time. At EACH_QUORUM
            // where it is to be known that nothing else is there.
            scan_files: preparing
                .at_every_strength(
                    "SELECT token(domain, key), domain, key, head, class_cell, replicas FROM files \
                     WHERE token(domain, key) >= ? AND token(domain, key) <= ? LIMIT ?",
                    &profiles.scan,
                    &profiles.scan,
                )
                .await?,
            // After the cells that it names. What LOCAL_QUORUM has taken, EACH_QUORUM finds: see `read_changes`.
            append_change: strong(
                "UPDATE changes USING TIMESTAMP ? SET domain = ?, key = ?, version = ?, about = ? \
                 WHERE stream = ? AND block = ? AND number = ?",
            )
            .await?,
            // At QUORUM, then EACH_QUORUM where a number is missing that its node says it has delivered.
            read_changes: strong(
                "SELECT number, domain, key, version, about FROM changes \
                 WHERE stream = ? AND block = ? AND number > ? LIMIT ?",
            )
            .await?,
            // Gaps, cursors and what nodes say of themselves are one datacenter's business, and said again all the time.
            set_gap: one(
                "UPDATE gaps USING TIMESTAMP ? SET gap = ? \
                 WHERE datacenter = ? AND shard = ? AND domain = ? AND key = ?",
            )
            .await?,
            clear_gap: one(
                "DELETE gap FROM gaps USING TIMESTAMP ? \
                 WHERE datacenter = ? AND shard = ? AND domain = ? AND key = ?",
            )
            .await?,
            read_gap: one(
                "SELECT gap FROM gaps WHERE datacenter = ? AND shard = ? AND domain = ? AND key = ?",
            )
            .await?,
            list_gaps: paged(
                preparing
                    .one(
                        "SELECT domain, key, gap FROM gaps WHERE datacenter = ? AND shard = ?",
                        &profiles.scan,
                    )
                    .await?,
                GAPS_PAGE,
            ),
            set_node: one(
                "UPDATE nodes USING TIMESTAMP ? SET record = ? \
                 WHERE part = 0 AND datacenter = ? AND node = ? AND incarnation = ?",
            )
            .await?,
            list_nodes: one(
                "SELECT datacenter, node, incarnation, record FROM nodes WHERE part = 0",
            )
            .await?,
            set_datacenter: one(
                "UPDATE datacenters USING TIMESTAMP ? SET record = ? WHERE part = 0 AND name = ?",
            )
            .await?,
            list_datacenters: one("SELECT name, record FROM datacenters WHERE part = 0").await?,
            // Said once by a person; at EACH_QUORUM too, so that every datacenter reads it at LOCAL_QUORUM. So is a placement.
            set_membership: strong(
                "UPDATE memberships USING TIMESTAMP ? SET record = ? WHERE part = 0 AND name = ?",
            )
            .await?,
            list_memberships: one("SELECT name, record FROM memberships WHERE part = 0").await?,
            set_placement: strong(
                "UPDATE placements USING TIMESTAMP ? SET record = ? \
                 WHERE part = 0 AND domain = ? AND class_name = ?",
            )
            .await?,
            list_placements: one(
                "SELECT domain, class_name, record FROM placements WHERE part = 0",
            )
            .await?,
            set_cursor: one(
                "UPDATE cursors USING TIMESTAMP ? SET record = ? WHERE datacenter = ? AND name = ?",
            )
            .await?,
            read_cursor: one("SELECT record FROM cursors WHERE datacenter = ? AND name = ?").await?,
        })
    }
}

struct Preparing<'a> {
    session: &'a Session,
    whole: WriteConsistency,
}

impl Preparing<'_> {
    async fn one(
        &self,
        text: &'static str,
        profile: &ExecutionProfileHandle,
    ) -> Result<PreparedStatement, PrepareError> {
        let mut prepared = self.session.prepare(Statement::new(text)).await?;
        prepared.set_is_idempotent(true);
        prepared.set_execution_profile_handle(Some(profile.clone()));
        Ok(prepared)
    }

    async fn at_every_strength(
        &self,
        text: &'static str,
        near: &ExecutionProfileHandle,
        far: &ExecutionProfileHandle,
    ) -> Result<AtStrength, PrepareError> {
        let local = self.one(text, near).await?;
        let far = |consistency| {
            let mut prepared = local.clone();
            prepared.set_consistency(consistency);
            prepared.set_execution_profile_handle(Some(far.clone()));
            prepared
        };
        Ok(AtStrength {
            global: far(Consistency::Quorum),
            each: far(Consistency::EachQuorum),
            whole: far(consistency(self.whole)),
            local,
        })
    }
}

/// The driver's word for it.
pub(super) fn consistency(wanted: WriteConsistency) -> Consistency {
    match wanted {
        WriteConsistency::All => Consistency::All,
        WriteConsistency::EachQuorum => Consistency::EachQuorum,
        WriteConsistency::LocalQuorum => Consistency::LocalQuorum,
    }
}

fn paged(mut prepared: PreparedStatement, rows: i32) -> PreparedStatement {
    prepared.set_page_size(rows);
    prepared
}
