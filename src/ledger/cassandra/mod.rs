//! The ledger in Cassandra, its real home: one keyspace over all datacenters.
//!
//! Owns: one session ([`connect`]), the statements ([`statements`]), and where gaps lie ([`gaps`]).
//! Always true: a write carries the timestamp of its value, so it may be repeated, late and out of order; what was written
//! at [`Strength::Local`] is seen by every later read at that strength in this datacenter, and by one at [`Strength::Each`]
//! in any. A row that cannot be read is named and keeps nobody from the others.
//! Never here: waiting without limit (`request_timeout`), trying again until it works (delivery and repair do), changing the
//! schema, or merging values: the cluster does, by the rule of [`Cell`](crate::file::Cell).
//! Killed in the middle: a write that was not answered may have happened, and is said again by whoever said it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use scylla::client::session::Session;
use scylla::errors::ExecutionError;
use scylla::response::query_result::QueryRowsResult;
use scylla::serialize::row::SerializeRow;
use scylla::statement::batch::{Batch, BatchType};
use scylla::statement::prepared::PreparedStatement;
use scylla::value::MaybeUnset;

use self::connect::Profiles;
use self::gaps::GapShards;
use self::position::Position;
use self::schema::SchemaError;
use self::statements::{AtStrength, Statements};
use self::values::{
    ChangeRow, ClassValue, CursorValue, DatacenterValue, NodeValue, PlacementValue, ReplicaValue,
    RevisionValue, Wrong,
};
use super::{
    CHANGES_IN_A_BLOCK, Change, ClusterNode, Cursor, DatacenterRecord, FileRecord, FileWrite, Gap,
    Ledger, LedgerError, NodeRecord, Page, Placement, StreamId, Strength, TokenRange, Unreadable,
};
use crate::config::{CassandraConfig, WriteConsistency};
use crate::file::{Cell, Datacenter, FileName};
use crate::version::Version;

mod connect;
mod gaps;
mod position;
pub mod schema;
mod statements;
mod values;

/// How long a waiter waits before it looks whether others have written. Nobody is told by Cassandra; a look is one read of
/// one partition for each stream, and half of this is what it adds to the delay of a change on the average.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Why the ledger could not be opened. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No contact point answered as it should.
    #[error("connect to Cassandra at {points} (ledger.contact_points): {why}; {hint}")]
    Unreachable {
        /// Those that were tried.
        points: String,
        /// What to look at.
        hint: &'static str,
        /// What the driver said.
        why: String,
    },
    /// Wrong name or password.
    #[error(
        "Cassandra does not let {user:?} in: {said}; look at ledger.username and ledger.password_file"
    )]
    Login {
        /// The name that was given.
        user: String,
        /// What Cassandra said.
        said: String,
    },
    /// A name and a password are wanted, and none were given.
    #[error(
        "Cassandra at {points} asks for a name and a password: set ledger.username and ledger.password_file"
    )]
    LoginWanted {
        /// Those that were tried.
        points: String,
    },
    /// That name may not read the tables.
    #[error(
        "Cassandra does not let {user:?} read the keyspace {keyspace}: {said}; in cqlsh: GRANT SELECT ON KEYSPACE {keyspace} TO \"{user}\"; \
         GRANT MODIFY ON KEYSPACE {keyspace} TO \"{user}\";"
    )]
    NotAllowed {
        /// The name that was given.
        user: String,
        /// The keyspace.
        keyspace: String,
        /// What Cassandra said.
        said: String,
    },
    /// A name without a password.
    #[error(
        "there is no password for {user:?}: set ledger.password_file, or the variable {}",
        crate::config::PASSWORD_VARIABLE
    )]
    NoPassword {
        /// The name.
        user: String,
    },
    /// A file that the configuration names cannot be used.
    #[error("ledger.{key}, {}: {why}", file.display())]
    File {
        /// Which key names it.
        key: &'static str,
        /// Which file.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The cluster has no nodes of that datacenter.
    #[error(
        "the cluster has no datacenter {name:?} (ledger.local_datacenter); it has {}",
        there.join(", ")
    )]
    NoSuchDatacenter {
        /// The name that was given.
        name: String,
        /// The names that there are.
        there: Vec<String>,
    },
    /// The keyspace keeps nothing in the local datacenter.
    #[error(
        "the keyspace {keyspace} keeps no copy in {datacenter}: add it with ALTER KEYSPACE, then run `nodetool rebuild` there (schema/README.md)"
    )]
    NoCopyHere {
        /// The keyspace.
        keyspace: String,
        /// The local datacenter.
        datacenter: String,
    },
    /// The tables are not those that this program needs.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// The cluster was reached, and did not answer a question.
    #[error("{doing}: {why}")]
    Failed {
        /// What was attempted.
        doing: &'static str,
        /// What the driver said.
        why: String,
    },
}

/// The ledger in a Cassandra cluster.
pub struct CassandraLedger {
    session: Session,
    statements: Statements,
    gaps: GapShards,
    bad_rows: BadRows,
    config: CassandraConfig,
}

/// Rows that cannot be read and were told. Each is met again and again, and told once.
#[derive(Default)]
struct BadRows(Mutex<BTreeSet<String>>);

/// So many are remembered; then all are told anew.
const BAD_ROWS: usize = 1_000;

impl BadRows {
    fn tell(&self, row: String) {
        let mut told = self.0.lock();
        if told.contains(&row) {
            return;
        }
        tracing::warn!("a row of the ledger cannot be read: {row}");
        if told.len() >= BAD_ROWS {
            told.clear();
        }
        told.insert(row);
    }
}

impl CassandraLedger {
    /// What `status` calls it until it is open.
    pub fn name(config: &CassandraConfig) -> String {
        format!(
            "the ledger in Cassandra at {}",
            config.contact_points.join(", ")
        )
    }

    /// Connects, looks whether the tables are there, and prepares every statement. Takes up to a minute where a node hangs.
    ///
    /// # Errors
    /// [`OpenError`] says what to do.
    pub async fn open(config: &CassandraConfig) -> Result<Self, OpenError> {
        let profiles = Profiles::new(config);
        let session = connect::session(config, &profiles).await?;
        schema::check(&session, config).await?;
        let preparing = Statements::prepare(&session, &profiles, config.write_consistency);
        // All of them lie in its future until the last is prepared: too much for those that wait for an opening.
        let statements = Box::pin(preparing).await.map_err(|why| OpenError::Failed {
            doing: "prepare the statements",
            why: why.to_string(),
        })?;
        Ok(Self {
            session,
            statements,
            gaps: GapShards::default(),
            bad_rows: BadRows::default(),
            config: config.clone(),
        })
    }

    /// Writes by one statement.
    async fn tell(
        &self,
        doing: &'static str,
        statement: &PreparedStatement,
        values: impl SerializeRow,
    ) -> Result<(), LedgerError> {
        let told = self.session.execute_unpaged(statement, values).await;
        told.map(|_nothing| ()).map_err(|why| failed(doing, &why))
    }

    /// Reads by one statement whose answer is bounded: one row, a page by LIMIT, or a table of the registry.
    async fn ask(
        &self,
        doing: &'static str,
        statement: &PreparedStatement,
        values: impl SerializeRow,
    ) -> Result<QueryRowsResult, LedgerError> {
        let answer = self.session.execute_unpaged(statement, values).await;
        answer
            .map_err(|why| failed(doing, &why))?
            .into_rows_result()
            .map_err(|why| LedgerError::Unavailable {
                doing,
                why: why.to_string(),
            })
    }

    /// All rows of a registry table. One that cannot be read is an error: who decides by them must not decide by a part.
    async fn registry<T>(
        &self,
        doing: &'static str,
        statement: &PreparedStatement,
        read: impl Fn(&QueryRowsResult) -> Result<Vec<T>, LedgerError>,
    ) -> Result<Vec<T>, LedgerError> {
        read(&self.ask(doing, statement, ()).await?)
    }

    /// The datacenter of the node at `contact_point` (`host:port`), as the cluster names it, for who has not been told. Opens a
    /// session for this alone.
    ///
    /// # Errors
    /// [`OpenError`] says what to do.
    pub async fn datacenter_at(contact_point: &str) -> Result<String, OpenError> {
        let unknown = |why: String| OpenError::Failed {
            doing: "ask a node of Cassandra for its datacenter",
            why,
        };
        let nowhere = String::new();
        let config = CassandraConfig::new(vec![contact_point.to_owned()], nowhere);
        let session = connect::session(&config, &Profiles::new(&config)).await?;
        let found = tokio::net::lookup_host(contact_point).await;
        let points: Vec<_> = found.map_err(|why| unknown(why.to_string()))?.collect();
        let state = session.get_cluster_state();
        let nodes = state.get_nodes_info();
        let all: BTreeSet<&str> = nodes
            .iter()
            .filter_map(|node| node.datacenter.as_deref())
            .collect();
        let it = nodes
            .iter()
            .find(|node| points.iter().any(|point| point.ip() == node.address.ip()));
        // A cluster may know its nodes by other addresses than we do. Where it has one datacenter, that is the one.
        match (it.and_then(|node| node.datacenter.as_deref()), &all) {
            (Some(name), _) => Ok(name.to_owned()),
            (None, all) if all.len() == 1 => Ok(all.iter().copied().collect()),
            (None, all) => {
                let all: Vec<_> = all.iter().copied().collect();
                Err(unknown(format!(
                    "the cluster knows no node by the address {contact_point}; name its datacenter yourself, one of {}",
                    all.join(", ")
                )))
            }
        }
    }
}

/// The cluster was not reached, or not enough of it, or not in time.
fn failed(doing: &'static str, why: &ExecutionError) -> LedgerError {
    LedgerError::Unavailable {
        doing,
        why: why.to_string(),
    }
}

/// What was read is not what was asked for: the columns have other types than this program knows.
fn mistyped(doing: &'static str, why: &dyn std::fmt::Display) -> LedgerError {
    LedgerError::Corrupt {
        doing,
        why: why.to_string(),
    }
}

fn unreadable(doing: &'static str, which: impl std::fmt::Display, wrong: Wrong) -> LedgerError {
    LedgerError::Corrupt {
        doing,
        why: format!("{which}: {wrong}"),
    }
}

type ReplicaValues<'a> = BTreeMap<&'a str, ReplicaValue<'a>>;

/// The cells of a row of `files`.
fn record(
    head: Option<RevisionValue<'_>>,
    class: Option<ClassValue<'_>>,
    replicas: Option<ReplicaValues<'_>>,
) -> Result<FileRecord, Wrong> {
    let named = |cell: &str, wrong: Wrong| Wrong::from(format!("{cell}: {wrong}"));
    let mut record = FileRecord {
        head: head
            .map(|head| head.revision())
            .transpose()
            .map_err(|wrong| named("head", wrong))?,
        class_cell: class
            .map(|class| class.cell())
            .transpose()
            .map_err(|wrong| named("class_cell", wrong))?,
        replicas: BTreeMap::new(),
    };
    for (name, replica) in replicas.into_iter().flatten() {
        let of = |wrong| named(&format!("replica of {name:?}"), wrong);
        let datacenter = values::datacenter(name).map_err(of)?;
        record
            .replicas
            .insert(datacenter, replica.replica().map_err(of)?);
    }
    Ok(record)
}

#[async_trait]
impl Ledger for CassandraLedger {
    async fn write(
        &self,
        file: &FileName,
        write: &FileWrite,
        strength: Strength,
    ) -> Result<(), LedgerError> {
        let doing = "write a file's cells";
        let (domain, key) = (file.domain.escaped(), file.key.escaped());
        let mut cells: Vec<(&AtStrength, Box<dyn SerializeRow + Send + Sync + '_>)> = Vec::new();
        if let Some(head) = &write.head {
            let row = (head.version.0, RevisionValue::from(head), domain, key);
            cells.push((&self.statements.set_head, Box::new(row)));
        }
        if let Some(class) = &write.class {
            let row = (class.version.0, ClassValue::from(class), domain, key);
            cells.push((&self.statements.set_class, Box::new(row)));
        }
        if let Some((datacenter, replica)) = &write.replica {
            let value = ReplicaValue::from(replica);
            let row = (replica.since.0, datacenter.as_str(), value, domain, key);
            cells.push((&self.statements.set_replica, Box::new(row)));
        }
        match &*cells {
            [] => Ok(()),
            [(statement, row)] => self.tell(doing, statement.at(strength), row).await,
            // One partition, so one mutation for each node: unlogged costs nothing and is not half done.
            [(first, _), ..] => {
                let mut batch = Batch::new(BatchType::Unlogged);
                batch.set_is_idempotent(true);
                batch.set_consistency(first.at(strength).get_consistency().unwrap_or_default());
                let profile = first.at(strength).get_execution_profile_handle();
                batch.set_execution_profile_handle(profile.cloned());
                let mut rows = Vec::with_capacity(cells.len());
                for (statement, row) in &cells {
                    batch.append_statement(statement.at(strength).clone());
                    rows.push(row);
                }
                let told = self.session.batch(&batch, rows).await;
                told.map(|_nothing| ()).map_err(|why| failed(doing, &why))
            }
        }
    }

    async fn read(&self, file: &FileName, strength: Strength) -> Result<FileRecord, LedgerError> {
        let doing = "read a file";
        let (domain, key) = (file.domain.escaped(), file.key.escaped());
        let statement = self.statements.read_file.at(strength);
        let answer = self.ask(doing, statement, (domain, key)).await?;
        let row = answer.maybe_first_row::<(
            Option<RevisionValue<'_>>,
            Option<ClassValue<'_>>,
            Option<ReplicaValues<'_>>,
        )>();
        match row.map_err(|why| mistyped(doing, &why))? {
            Some((head, class, replicas)) => record(head, class, replicas)
                .map_err(|wrong| unreadable(doing, format_args!("files, {file}"), wrong)),
            None => Ok(FileRecord::default()),
        }
    }

    async fn scan(
        &self,
        range: TokenRange,
        from: Option<&str>,
        limit: usize,
        strength: Strength,
    ) -> Result<Page, LedgerError> {
        let doing = "scan the files";
        let statement = self.statements.scan_files.at(strength);
        let from = from
            .map(|text| Position::parse(text).map_err(|wrong| unreadable(doing, "scan", wrong)))
            .transpose()?
            .filter(|from| from.token >= range.first);
        let first = from.as_ref().map_or(range.first, |from| from.token);
        // One more, as the page before ended with a row of the token that this one begins with.
        let mut rows_asked = i32::try_from(limit.max(1))
            .unwrap_or(i32::MAX)
            .saturating_add(1);
        loop {
            let values = (first, range.last, rows_asked);
            let answer = self.ask(doing, statement, values).await?;
            let rows = answer.rows::<(
                i64,
                &str,
                &str,
                Option<RevisionValue<'_>>,
                Option<ClassValue<'_>>,
                Option<ReplicaValues<'_>>,
            )>();
            let mut page = Page::default();
            let (mut read, mut last) = (0, None);
            for row in rows.map_err(|why| mistyped(doing, &why))? {
                let (token, domain, key, head, class, replicas) =
                    row.map_err(|why| mistyped(doing, &why))?;
                read += 1;
                if from
                    .as_ref()
                    .is_some_and(|from| !from.is_before(token, domain, key))
                {
                    continue;
                }
                if page.files.len() + page.unreadable.len() == limit.max(1) {
                    break;
                }
                last = Some((token, domain, key));
                let file = match values::file_name(domain, key) {
                    Ok(file) => file,
                    // It would be another row than that of any file.
                    Err(wrong) => {
                        let why = format!(
                            "files, {domain} {key}: {wrong}; no file has that name, so delete the row"
                        );
                        self.bad_rows.tell(why.clone());
                        page.unreadable.push(Unreadable { file: None, why });
                        continue;
                    }
                };
                match record(head, class, replicas) {
                    Ok(record) => page.files.push((file, record)),
                    Err(wrong) => page.unreadable.push(Unreadable {
                        file: Some(file),
                        why: format!("files, {domain} {key}: {wrong}"),
                    }),
                }
            }
            let more = read == rows_asked;
            match last {
                Some((token, domain, key)) => {
                    page.reached = Some(token);
                    page.next = more.then(|| Position::of(token, domain, key).to_string());
                    return Ok(page);
                }
                // Many files of one token, all of them passed before: look further.
                None if more => rows_asked = rows_asked.saturating_mul(2),
                None => return Ok(page),
            }
        }
    }

    async fn forget(&self, file: &FileName, record: &FileRecord) -> Result<(), LedgerError> {
        let doing = "forget a file";
        let (domain, key) = (file.domain.escaped(), file.key.escaped());
        for (datacenter, replica) in &record.replicas {
            let values = (datacenter.as_str(), replica.since.0, domain, key);
            self.tell(doing, &self.statements.forget_replica, values)
                .await?;
        }
        if let Some(class) = &record.class_cell {
            let values = (class.version.0, domain, key);
            self.tell(doing, &self.statements.forget_class, values)
                .await?;
        }
        if let Some(head) = &record.head {
            let values = (head.version.0, domain, key);
            self.tell(doing, &self.statements.forget_head, values)
                .await?;
        }
        Ok(())
    }

    async fn append_change(
        &self,
        stream: &StreamId,
        change: &Change,
        strength: Strength,
    ) -> Result<(), LedgerError> {
        let file = change.file.as_ref();
        let number = change.number as i64;
        let values = (
            change.version.0,
            // Left unset where there is none: a null would be a tombstone.
            MaybeUnset::from_option(file.map(|file| file.domain.escaped())),
            MaybeUnset::from_option(file.map(|file| file.key.escaped())),
            change.version.0,
            change.about.word(),
            stream.to_string(),
            number / CHANGES_IN_A_BLOCK as i64,
            number,
        );
        let statement = self.statements.append_change.at(strength);
        self.tell("append a change", statement, values).await
    }

    async fn changes(
        &self,
        stream: &StreamId,
        after: u64,
        limit: usize,
        strength: Strength,
    ) -> Result<Vec<Change>, LedgerError> {
        let doing = "read changes";
        let name = stream.to_string();
        let statement = self.statements.read_changes.at(strength);
        let Some(first) = after.checked_add(1) else {
            return Ok(Vec::new());
        };
        let mut changes: Vec<Change> = Vec::new();
        let mut last = None;
        // Over the edge once: a stream has no holes as wide as a block but those that have expired.
        let block = first / CHANGES_IN_A_BLOCK;
        for block in [block, block.saturating_add(1)] {
            let room = limit - changes.len();
            let asked = i32::try_from(room).unwrap_or(i32::MAX);
            let values = (&name, block as i64, after as i64, asked);
            let answer = self.ask(doing, statement, values).await?;
            let rows = answer.rows::<ChangeRow<'_>>();
            for row in rows.map_err(|why| mistyped(doing, &why))? {
                let row = row.map_err(|why| mistyped(doing, &why))?;
                let number = row.0;
                match values::change(row) {
                    Ok(change) => changes.push(change),
                    // A hole to its readers. Told when one of them makes sure of it.
                    Err(wrong) if strength == Strength::Each => self.bad_rows.tell(format!(
                        "changes, {name} {number}: {wrong}; it is passed over, and all files are scanned instead"
                    )),
                    Err(_) => {}
                }
                last = Some(number);
            }
            // Only a block that was read to its end has a next one.
            let ended = last.is_none_or(|last| (last + 1) % CHANGES_IN_A_BLOCK as i64 == 0);
            if changes.len() >= limit || !ended {
                break;
            }
        }
        Ok(changes)
    }

    async fn set_gap(&self, datacenter: &Datacenter, gap: &Gap) -> Result<(), LedgerError> {
        gaps::set(self, datacenter, gap).await
    }

    async fn clear_gap(
        &self,
        datacenter: &Datacenter,
        file: &FileName,
        observed: Version,
    ) -> Result<(), LedgerError> {
        gaps::clear(self, datacenter, file, observed).await
    }

    async fn gap(
        &self,
        datacenter: &Datacenter,
        file: &FileName,
    ) -> Result<Option<Gap>, LedgerError> {
        gaps::one(self, datacenter, file).await
    }

    async fn gaps(
        &self,
        datacenter: &Datacenter,
        due: Version,
        limit: usize,
    ) -> Result<Vec<Gap>, LedgerError> {
        gaps::due(self, datacenter, due, limit).await
    }

    async fn count_gaps(&self, datacenter: &Datacenter) -> Result<u64, LedgerError> {
        let (count, _) = gaps::count(self, datacenter).await?;
        Ok(count)
    }

    async fn oldest_gap(&self, datacenter: &Datacenter) -> Result<Option<Version>, LedgerError> {
        let (_, oldest) = gaps::count(self, datacenter).await?;
        Ok(oldest)
    }

    async fn set_node(&self, node: &NodeRecord) -> Result<(), LedgerError> {
        let stream = &node.stream;
        let values = (
            node.written_at().0,
            NodeValue::from(node),
            stream.datacenter.as_str(),
            stream.node.as_str(),
            &stream.incarnation,
        );
        let statement = &self.statements.set_node;
        self.tell("write a node's word", statement, values).await
    }

    async fn nodes(&self) -> Result<Vec<NodeRecord>, LedgerError> {
        let doing = "read the nodes";
        self.registry(doing, &self.statements.list_nodes, |answer| {
            let rows = answer.rows::<(&str, &str, &str, Option<NodeValue<'_>>)>();
            let mut nodes = Vec::new();
            for row in rows.map_err(|why| mistyped(doing, &why))? {
                let (datacenter, node, incarnation, value) =
                    row.map_err(|why| mistyped(doing, &why))?;
                let Some(value) = value else { continue };
                let which = format!("nodes, {datacenter} {node} {incarnation}");
                let record = match value.record() {
                    Ok(record) => record,
                    Err(wrong) => {
                        let stream = values::stream(datacenter, node, incarnation);
                        let stream = stream.map_err(|wrong| unreadable(doing, &which, wrong))?;
                        self.bad_rows.tell(format!(
                            "{which}: {wrong}; nobody is in sync while it stands. If no process of that name runs, delete the row"
                        ));
                        NodeRecord::unread(stream)
                    }
                };
                nodes.push(record);
            }
            Ok(nodes)
        })
        .await
    }

    async fn set_datacenter(&self, datacenter: &DatacenterRecord) -> Result<(), LedgerError> {
        let values = (
            datacenter.written_at().0,
            DatacenterValue::from(datacenter),
            datacenter.name.as_str(),
        );
        let statement = &self.statements.set_datacenter;
        self.tell("register a datacenter", statement, values).await
    }

    async fn datacenters(&self) -> Result<Vec<DatacenterRecord>, LedgerError> {
        let doing = "read the datacenters";
        self.registry(doing, &self.statements.list_datacenters, |answer| {
            let rows = answer.rows::<(&str, Option<DatacenterValue<'_>>)>();
            let mut datacenters = Vec::new();
            for row in rows.map_err(|why| mistyped(doing, &why))? {
                let (name, value) = row.map_err(|why| mistyped(doing, &why))?;
                if let Some(value) = value {
                    datacenters.push(value.record().map_err(|wrong| {
                        unreadable(doing, format_args!("datacenters, {name}"), wrong)
                    })?);
                }
            }
            Ok(datacenters)
        })
        .await
    }

    async fn set_placement(
        &self,
        placement: &Placement,
        strength: Strength,
    ) -> Result<(), LedgerError> {
        let values = (
            placement.written_at().0,
            PlacementValue::from(placement),
            placement.domain.escaped(),
            placement.class.as_ref().map_or("", |class| class.escaped()),
        );
        let statement = self.statements.set_placement.at(strength);
        self.tell("set a placement", statement, values).await
    }

    async fn placements(&self) -> Result<Vec<Placement>, LedgerError> {
        let doing = "read the placements";
        self.registry(doing, &self.statements.list_placements, |answer| {
            let rows = answer.rows::<(&str, &str, Option<PlacementValue<'_>>)>();
            let mut placements = Vec::new();
            for row in rows.map_err(|why| mistyped(doing, &why))? {
                let (domain, class, value) = row.map_err(|why| mistyped(doing, &why))?;
                if let Some(value) = value {
                    placements.push(value.record().map_err(|wrong| {
                        unreadable(doing, format_args!("placements, {domain} {class}"), wrong)
                    })?);
                }
            }
            Ok(placements)
        })
        .await
    }

    async fn set_cursor(
        &self,
        datacenter: &Datacenter,
        cursor: &Cursor,
    ) -> Result<(), LedgerError> {
        let values = (
            cursor.written_at().0,
            CursorValue::from(cursor),
            datacenter.as_str(),
            &cursor.name,
        );
        let statement = &self.statements.set_cursor;
        self.tell("move a cursor", statement, values).await
    }

    async fn cursor(
        &self,
        datacenter: &Datacenter,
        name: &str,
    ) -> Result<Option<Cursor>, LedgerError> {
        let doing = "read a cursor";
        let statement = &self.statements.read_cursor;
        let values = (datacenter.as_str(), name);
        let answer = self.ask(doing, statement, values).await?;
        let row = answer.maybe_first_row::<(Option<CursorValue<'_>>,)>();
        let value = row.map_err(|why| mistyped(doing, &why))?;
        value
            .and_then(|(value,)| value)
            .map(|value| value.record())
            .transpose()
            .map_err(|wrong| unreadable(doing, format_args!("cursors, {datacenter} {name}"), wrong))
    }

    fn owes(&self) -> bool {
        self.config.write_consistency != WriteConsistency::LocalQuorum
    }

    fn cluster(&self) -> Vec<ClusterNode> {
        let state = self.session.get_cluster_state();
        let nodes = state.get_nodes_info().iter();
        nodes
            .map(|node| ClusterNode {
                address: node.address.to_string(),
                datacenter: node.datacenter.clone(),
                reached: node.is_connected(),
            })
            .collect()
    }

    fn describe(&self) -> String {
        let state = self.session.get_cluster_state();
        let CassandraConfig {
            keyspace,
            local_datacenter,
            ..
        } = &self.config;
        format!(
            "Cassandra, cluster {:?}, keyspace {keyspace}, through {local_datacenter}",
            state.cluster_name()
        )
    }

    /// Cassandra tells nobody; whoever waits looks again after [`LOOK_EVERY`].
    fn news(&self) -> u64 {
        0
    }

    async fn wait_for_news_since(&self, _seen: u64, limit: Duration) {
        tokio::time::sleep(limit.min(LOOK_EVERY)).await;
    }
}
