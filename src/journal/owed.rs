//! What the ledger has, but not yet everywhere: the debts, as rows, and what they collapse into.
//!
//! A debt is a file whose cells the ledger has at [`Strength::Local`](crate::ledger::Strength::Local), and which have yet
//! to reach [`Strength::Whole`](crate::ledger::Strength::Whole). Only its name and version are kept, for the cells are in the ledger.
//!
//! Always true: an announcement becomes a debt in the transaction that deletes it from the outbox. A file has one debt at
//! most, for whoever asserts its cells asserts the newest; so a newer announcement takes the place of an older one's debt.
//! What was paid is deleted only if nothing of the file was confirmed since the payment began: the row keeps the
//! place of the last announcement that it stands for, since two announcements may have one version.
//! Bounded: above [`Most`] the rows collapse into "assert again everything since T", where T is the least version among
//! them. One row stays, the last that came, so that somebody can still try whether the ledger takes such writes.
//!
//! Everything since T is paid by a walk over all files of the ledger (`debt`). A walk pays what had collapsed before it
//! began, and nothing else: what collapses meanwhile has a T of its own, and waits for the next walk.
//! Where the walk is stands in `meta`, so that it goes on there after a restart.
//!
//! In memory: versions only, 40 bytes a row at most. Keys stay on the disk.
//! Killed in the middle: a debt that was paid may still be there, and is paid once more, which changes nothing.

use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension, params};

use super::index::Versions;
use super::rows;
use crate::file::FileName;
use crate::version::Version;

/// The table, of a new folder and of one that is brought up to date. `id` is the place in the outbox of the last
/// announcement that it stands for.
pub const TABLE: &str = "
    CREATE TABLE debts (
        domain  TEXT NOT NULL,
        key     TEXT NOT NULL,
        version INTEGER NOT NULL,
        id      INTEGER NOT NULL,
        PRIMARY KEY (domain, key)
    ) STRICT, WITHOUT ROWID;
";

/// How much may be owed by name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Most {
    /// So many files.
    pub files: u64,
    /// So many bytes of names.
    pub bytes: u64,
}

impl Default for Most {
    /// 100,000 files are 20 s of a busy datacenter, or a day of a quiet one, and take 10 to 20 MB of disk. Beyond that a
    /// walk over the ledger costs less than the rows.
    fn default() -> Self {
        Most {
            files: 100_000,
            bytes: 32 << 20,
        }
    }
}

/// A file whose newest cells have yet to be asserted everywhere.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Debt {
    /// Which file.
    pub file: FileName,
    /// The version that the ledger has confirmed of it.
    pub version: Version,
    /// The place in the outbox that its last announcement had.
    pub id: u64,
}

/// What is owed, from memory.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Debts {
    /// Files that are owed by name.
    pub count: u64,
    /// The oldest version among them.
    pub oldest: Option<Version>,
    /// Everything since this is owed too, without a name.
    pub collapsed_since: Option<Version>,
    /// The walk that pays a part of that, as far as it was written down.
    pub walk: Option<Walk>,
}

impl Debts {
    /// Whether nothing is owed.
    pub fn is_none(&self) -> bool {
        self.count == 0 && self.collapsed_since.is_none()
    }
}

/// A walk over all files of the ledger, under way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Walk {
    /// It asserts what is of this version or newer.
    pub since: Version,
    /// The part of the ring at which it is.
    pub part: u32,
    /// The page of that part at which it is, as the ledger names it.
    pub page: Option<String>,
}

/// What becomes of debts beside what confirmed announcements add.
#[derive(Debug)]
pub enum Change {
    /// These are paid.
    Paid(Vec<Debt>),
    /// These are owed, though no announcement says so.
    Owed(Vec<(FileName, Version)>),
    /// A walk begins, over all that has collapsed up to now.
    WalkBegins,
    /// The walk has come to here.
    Walked(Walk),
    /// All that the walk was for is paid, or owed by name.
    WalkEnds,
}

/// The books: what is owed, kept in memory.
pub struct Owed {
    most: Most,
    books: Mutex<Books>,
}

#[derive(Default)]
struct Books {
    versions: Versions,
    bytes: u64,
    collapsed: Collapsed,
}

/// What is owed without a name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Collapsed {
    /// Everything since this, for the next walk.
    since: Option<Version>,
    /// The walk under way, with what it is for.
    walk: Option<Walk>,
}

impl Owed {
    /// Reads the books from the journal.
    pub fn load(db: &Connection, most: Most) -> rusqlite::Result<Owed> {
        let mut books = Books::default();
        let mut select = db.prepare("SELECT version, length(domain) + length(key) FROM debts")?;
        let mut found = select.query([])?;
        while let Some(row) = found.next()? {
            books.versions.add(Version(row.get(0)?));
            books.bytes += row.get::<_, i64>(1)?.unsigned_abs();
        }
        books.collapsed = Collapsed::load(db)?;
        Ok(Owed {
            most,
            books: Mutex::new(books),
        })
    }

    /// What is owed.
    pub fn debts(&self) -> Debts {
        let books = self.books.lock();
        let collapsed = &books.collapsed;
        let walking_since = collapsed.walk.as_ref().map(|walk| walk.since);
        Debts {
            count: books.versions.len(),
            oldest: books.versions.oldest(),
            collapsed_since: [collapsed.since, walking_since].into_iter().flatten().min(),
            walk: collapsed.walk.clone(),
        }
    }

    /// Begins a draft of what a transaction changes. Only one at a time: the journal has one writer.
    pub fn draft(&self) -> Draft {
        let books = self.books.lock();
        Draft {
            most: self.most,
            files: books.versions.len(),
            bytes: books.bytes,
            oldest: books.versions.oldest(),
            last: None,
            before: books.collapsed.clone(),
            collapsed: books.collapsed.clone(),
            steps: Vec::new(),
        }
    }

    /// Takes in a draft whose transaction has succeeded. True if something is owed that was not before.
    pub fn enter(&self, draft: Draft) -> bool {
        let mut books = self.books.lock();
        let mut more = false;
        for step in draft.steps {
            match step {
                Step::Added(version) => {
                    books.versions.add(version);
                    more = true;
                }
                Step::Removed(version) => books.versions.remove(version),
                Step::AllRemoved => books.versions = Versions::default(),
            }
        }
        if let (None, Some(since)) = (draft.before.since, draft.collapsed.since) {
            tracing::warn!(
                since = %since,
                "more files than are remembered by name wait to be written to every copy of the ledger; all that has \
                 changed since then will be written again when the copies that are missing are back"
            );
        }
        books.bytes = draft.bytes;
        books.collapsed = draft.collapsed;
        more
    }
}

/// What one transaction changes. It writes the rows; the books follow when the transaction has succeeded.
pub struct Draft {
    most: Most,
    files: u64,
    bytes: u64,
    /// Not newer than the oldest row.
    oldest: Option<Version>,
    /// The last that was added.
    last: Option<Debt>,
    before: Collapsed,
    collapsed: Collapsed,
    steps: Vec<Step>,
}

enum Step {
    Added(Version),
    Removed(Version),
    AllRemoved,
}

impl Draft {
    /// Whether nothing has changed.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.before == self.collapsed
    }

    /// `version` of `file` is owed, by the announcement that had the place `id` in the outbox.
    pub fn owe(
        &mut self,
        db: &Connection,
        file: &FileName,
        version: Version,
        id: u64,
    ) -> rusqlite::Result<()> {
        let (domain, key) = (file.domain.escaped(), file.key.escaped());
        let before: Option<i64> = db
            .prepare_cached("SELECT version FROM debts WHERE domain = ?1 AND key = ?2")?
            .query_row([domain, key], |row| row.get(0))
            .optional()?;
        db.prepare_cached(
            "INSERT INTO debts (domain, key, version, id) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (domain, key) DO UPDATE SET version = max(version, excluded.version), id = max(id, excluded.id)",
        )?
        .execute(params![domain, key, version.0, id as i64])?;
        self.oldest = Some(self.oldest.map_or(version, |oldest| oldest.min(version)));
        self.last = Some(Debt {
            file: file.clone(),
            version: before.map_or(version, |before| version.max(Version(before))),
            id,
        });
        match before.map(Version) {
            None => {
                self.files += 1;
                self.bytes += weight(file);
                self.steps.push(Step::Added(version));
            }
            Some(before) => {
                self.steps.push(Step::Removed(before));
                self.steps.push(Step::Added(before.max(version)));
            }
        }
        Ok(())
    }

    /// Carries out what was asked for.
    pub fn change(&mut self, db: &Connection, change: &Change) -> rusqlite::Result<()> {
        match change {
            Change::Paid(debts) => debts.iter().try_for_each(|debt| self.pay(db, debt)),
            Change::Owed(files) => files
                .iter()
                .try_for_each(|(file, version)| self.owe(db, file, *version, 0)),
            Change::WalkBegins => {
                if self.collapsed.walk.is_none() {
                    self.collapsed.walk = self.collapsed.since.take().map(|since| Walk {
                        since,
                        part: 0,
                        page: None,
                    });
                }
                Ok(())
            }
            Change::Walked(walk) => {
                self.collapsed.walk = Some(walk.clone());
                Ok(())
            }
            Change::WalkEnds => {
                self.collapsed.walk = None;
                Ok(())
            }
        }
    }

    fn pay(&mut self, db: &Connection, debt: &Debt) -> rusqlite::Result<()> {
        let (domain, key) = (debt.file.domain.escaped(), debt.file.key.escaped());
        let gone: Option<i64> = db
            .prepare_cached(
                "DELETE FROM debts WHERE domain = ?1 AND key = ?2 AND id = ?3 RETURNING version",
            )?
            .query_row(params![domain, key, debt.id as i64], |row| row.get(0))
            .optional()?;
        if let Some(version) = gone {
            self.files -= 1;
            self.bytes -= weight(&debt.file);
            self.steps.push(Step::Removed(Version(version)));
        }
        Ok(())
    }

    /// Lets the rows collapse if there are too many, and writes down what is owed without a name.
    pub fn finish(&mut self, db: &Connection) -> rusqlite::Result<()> {
        if self.files > self.most.files || self.bytes > self.most.bytes {
            self.collapse(db)?;
        }
        if self.before != self.collapsed {
            self.collapsed.save(db)?;
        }
        Ok(())
    }

    /// Clients wait for the transaction that this is a part of. So it reads no row, and deletes without a condition, for
    /// which SQLite gives the pages back without a look at them.
    fn collapse(&mut self, db: &Connection) -> rusqlite::Result<()> {
        let (Some(last), Some(oldest)) = (self.last.take(), self.oldest) else {
            // Nothing has been added: there is time until something is.
            return Ok(());
        };
        db.prepare_cached("DELETE FROM debts")?.execute([])?;
        self.collapsed.since = [self.collapsed.since, Some(oldest)]
            .into_iter()
            .flatten()
            .min();
        (self.files, self.bytes) = (0, 0);
        self.steps.push(Step::AllRemoved);
        self.owe(db, &last.file, last.version, last.id)
    }
}

impl Collapsed {
    fn load(db: &Connection) -> rusqlite::Result<Collapsed> {
        let since = value::<i64>(db, "assert_since")?.map(Version);
        let walk = match value::<i64>(db, "walk_since")? {
            None => None,
            Some(walk_since) => Some(Walk {
                since: Version(walk_since),
                part: value(db, "walk_part")?.unwrap_or_default(),
                page: value(db, "walk_page")?,
            }),
        };
        Ok(Collapsed { since, walk })
    }

    fn save(&self, db: &Connection) -> rusqlite::Result<()> {
        let walk = self.walk.as_ref();
        set(db, "assert_since", self.since.map(|since| since.0))?;
        set(db, "walk_since", walk.map(|walk| walk.since.0))?;
        set(db, "walk_part", walk.map(|walk| walk.part))?;
        set(db, "walk_page", walk.and_then(|walk| walk.page.as_deref()))
    }
}

/// Up to `limit` debts behind `after`, in the order of their names.
pub fn page(
    db: &Connection,
    after: Option<&FileName>,
    limit: usize,
) -> rusqlite::Result<Vec<Debt>> {
    let after = after.map_or(["", ""], |file| [file.domain.escaped(), file.key.escaped()]);
    let mut select = db.prepare_cached(
        "SELECT domain, key, version, id FROM debts WHERE (domain, key) > (?1, ?2) ORDER BY domain, key LIMIT ?3",
    )?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let found = select.query_map(params![after[0], after[1], limit], |row| {
        Ok(Debt {
            file: rows::name(row.get_ref(0)?.as_str()?, row.get_ref(1)?.as_str()?),
            version: Version(row.get(2)?),
            id: row.get::<_, i64>(3)? as u64,
        })
    })?;
    found.collect()
}

fn weight(file: &FileName) -> u64 {
    (file.domain.escaped().len() + file.key.escaped().len()) as u64
}

fn value<T: rusqlite::types::FromSql>(db: &Connection, name: &str) -> rusqlite::Result<Option<T>> {
    db.prepare_cached("SELECT value FROM meta WHERE name = ?1")?
        .query_row([name], |row| row.get(0))
        .optional()
}

/// A row of `meta` that is there only while it has something to say.
fn set(db: &Connection, name: &str, value: Option<impl rusqlite::ToSql>) -> rusqlite::Result<()> {
    match value {
        Some(value) => db
            .prepare_cached(
                "INSERT INTO meta (name, value) VALUES (?1, ?2)
                 ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            )?
            .execute(params![name, value])?,
        None => db
            .prepare_cached("DELETE FROM meta WHERE name = ?1")?
            .execute([name])?,
    };
    Ok(())
}
