//! The catalog's tables: [`Storage`] over SQLite, and the listing.
//!
//! Rows keep the record of a survivor as its CBOR and, beside it, the columns that queries need.
//! Nothing here decides: merging and voting are the machines'.

mod columns;
mod list;
mod replaced;
mod unseen;

use std::cell::RefCell;

use kepler_protocol::catalog::seen::{Seen, SeenSet};
use kepler_protocol::catalog::storage::{Result, Storage, StorageError, Stub, Survivor, Table};
use kepler_protocol::name::Name;
use kepler_protocol::version::{Dot, Origin};
use rusqlite::{Connection, OptionalExtension as _, ToSql, params};

use self::columns::{
    Sequence, after_params, cap, decode, dot_params, encode, generation, name_at, one, origin_at, saturate,
    stub_of, survivor_at_0,
};
use super::error::DatabaseError;
use super::room::Journal;

pub(super) use columns::{all, damaged};
pub(crate) use list::list;
pub use list::{Listed, Page};
pub(crate) use replaced::replaced;

/// One transaction's view of the catalog.
pub(crate) struct SqlStorage<'a> {
    connection: &'a Connection,
    journal: &'a Journal,
    // The last error in full: `StorageError` has only its text, and the writer needs to know its kind.
    failure: RefCell<Option<DatabaseError>>,
}

impl<'a> SqlStorage<'a> {
    /// `journal` remembers every write.
    pub(crate) fn new(connection: &'a Connection, journal: &'a Journal) -> Self {
        Self { connection, journal, failure: RefCell::new(None) }
    }

    /// What was behind an error that a machine returned.
    pub(crate) fn cause(&self, error: StorageError) -> DatabaseError {
        self.failure.take().unwrap_or_else(|| DatabaseError::Stopped(error.to_string().into()))
    }

    fn read<T>(&self, work: impl FnOnce(&Connection) -> std::result::Result<T, DatabaseError>) -> Result<T> {
        work(self.connection).map_err(|error| {
            let text = StorageError(error.to_string());
            self.failure.replace(Some(error));
            text
        })
    }

    fn write(&mut self, sql: &'static str, params: &[&dyn ToSql]) -> Result<()> {
        let journal = self.journal;
        self.read(|db| journal.run(db, sql, params))
    }
}

impl Storage for SqlStorage<'_> {
    fn survivors(&self, name: &Name) -> Result<Vec<Survivor>> {
        self.read(|db| survivors(db, name))
    }

    fn survivor(&self, dot: &Dot) -> Result<Option<Survivor>> {
        self.read(|db| {
            let mut statement = db.prepare_cached(
                "SELECT record FROM files WHERE owner_node = ?1 AND generation = ?2 AND sequence = ?3",
            )?;
            one(&mut statement, dot_params(dot), survivor_at_0)
        })
    }

    fn put_survivor(&mut self, survivor: &Survivor) -> Result<()> {
        let version = &survivor.version;
        let dot = &version.dot;
        let content = version.content.as_ref();
        // The root of a file of one chunk is that chunk; other links are noted once they are known.
        let links = content.filter(|c| c.chunks <= 1).map(|c| format!("[\"{}\"]", c.root));
        self.write(
            "INSERT INTO files (id, name, size, chunk_ids, owner_node, created_at, generation, sequence, \
                 deleted, published, record)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
             ON CONFLICT DO UPDATE SET name = excluded.name, size = excluded.size, \
                 chunk_ids = coalesce(excluded.chunk_ids, chunk_ids), created_at = excluded.created_at, \
                 deleted = excluded.deleted, published = excluded.published, record = excluded.record",
            params![
                dot.to_string(),
                version.name.as_str(),
                content.map(|c| saturate(c.size)),
                links,
                dot.origin.node.as_str(),
                saturate(version.created_at.0),
                generation(&dot.origin),
                Sequence(dot.sequence),
                version.is_tombstone(),
                survivor.published,
                encode(survivor),
            ],
        )
    }

    fn remove_survivor(&mut self, dot: &Dot) -> Result<()> {
        let (node, generation, sequence) = dot_params(dot);
        self.write(replaced::NOTE, params![node, generation, sequence])?;
        self.write(replaced::FORGET, params![replaced::KEPT])?;
        self.write(
            "DELETE FROM files WHERE owner_node = ?1 AND generation = ?2 AND sequence = ?3",
            params![node, generation, sequence],
        )
    }

    fn unpublished(&self, after: Option<&Dot>, limit: usize) -> Result<Vec<Survivor>> {
        self.read(|db| {
            let mut statement = db.prepare_cached(
                "SELECT record FROM files WHERE published = 0 AND (owner_node, generation, sequence) > (?1, ?2, ?3)
                 ORDER BY owner_node, generation, sequence LIMIT ?4",
            )?;
            let (node, generation, sequence) = after_params(after);
            all(&mut statement, params![node, generation, sequence, cap(limit)], survivor_at_0)
        })
    }

    fn stubs(&self, name: &Name) -> Result<Vec<Stub>> {
        self.read(|db| {
            let mut statement = db.prepare_cached(
                "SELECT owner_node, generation, sequence, name, superseded_by FROM stubs WHERE name = ?1
                 ORDER BY owner_node, generation, sequence",
            )?;
            all(&mut statement, [name.as_str()], stub_of)
        })
    }

    fn stub(&self, dot: &Dot) -> Result<Option<Stub>> {
        self.read(|db| {
            let mut statement = db.prepare_cached(
                "SELECT owner_node, generation, sequence, name, superseded_by FROM stubs
                 WHERE owner_node = ?1 AND generation = ?2 AND sequence = ?3",
            )?;
            one(&mut statement, dot_params(dot), stub_of)
        })
    }

    fn put_stub(&mut self, stub: &Stub) -> Result<()> {
        self.write(
            "INSERT INTO stubs (owner_node, generation, sequence, name, superseded_by) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT DO UPDATE SET name = excluded.name, superseded_by = excluded.superseded_by",
            params![
                stub.dot.origin.node.as_str(),
                generation(&stub.dot.origin),
                Sequence(stub.dot.sequence),
                stub.name.as_ref().map(Name::as_str),
                stub.by.map(|by| by.to_string()),
            ],
        )
    }

    fn remove_stub(&mut self, dot: &Dot) -> Result<()> {
        let (node, generation, sequence) = dot_params(dot);
        self.write(
            "DELETE FROM stubs WHERE owner_node = ?1 AND generation = ?2 AND sequence = ?3",
            params![node, generation, sequence],
        )
    }

    fn stubs_after(&self, after: Option<&Dot>, limit: usize) -> Result<Vec<Stub>> {
        self.read(|db| {
            let mut statement = db.prepare_cached(
                "SELECT owner_node, generation, sequence, name, superseded_by FROM stubs
                 WHERE (owner_node, generation, sequence) > (?1, ?2, ?3)
                 ORDER BY owner_node, generation, sequence LIMIT ?4",
            )?;
            let (node, generation, sequence) = after_params(after);
            all(&mut statement, params![node, generation, sequence, cap(limit)], stub_of)
        })
    }

    fn names(&self, after: Option<&Name>, limit: usize) -> Result<Vec<Name>> {
        self.read(|db| {
            let mut statement = db.prepare_cached(
                "SELECT name FROM files WHERE deleted = 0 AND name > ?1
                 UNION SELECT name FROM files WHERE deleted = 1 AND name > ?1
                 UNION SELECT name FROM stubs WHERE name > ?1
                 ORDER BY name LIMIT ?2",
            )?;
            all(&mut statement, params![after.map_or("", Name::as_str), cap(limit)], |row| name_at(row, 0))
        })
    }

    fn names_unseen_by(&self, theirs: &Seen, after: Option<&Name>, limit: usize) -> Result<Vec<Name>> {
        self.read(|db| unseen::names(db, theirs, after, limit))
    }

    fn closed_unseen_by(&self, theirs: &Seen, after: Option<&Dot>, limit: usize) -> Result<Vec<Dot>> {
        self.read(|db| unseen::closed(db, theirs, after, limit))
    }

    fn seen(&self) -> Result<Seen> {
        self.read(|db| {
            let mut statement = db.prepare_cached("SELECT owner_node, generation, record FROM seen")?;
            let sets =
                all(&mut statement, [], |row| Ok((origin_at(row, 0)?, decode::<SeenSet>(row.get_ref(2)?)?)))?;
            let mut seen = Seen::default();
            sets.into_iter().for_each(|(origin, set)| seen.set_origin(origin, set));
            Ok(seen)
        })
    }

    fn put_seen(&mut self, origin: &Origin, set: &SeenSet) -> Result<()> {
        self.write(
            "INSERT INTO seen (owner_node, generation, record) VALUES (?1, ?2, ?3)
             ON CONFLICT DO UPDATE SET record = excluded.record",
            params![origin.node.as_str(), generation(origin), encode(set)],
        )
    }

    fn record(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.read(|db| {
            let mut statement = db.prepare_cached("SELECT value FROM records WHERE tab = ?1 AND key = ?2")?;
            Ok(statement.query_row(params![table as u8, key], |row| row.get(0)).optional()?)
        })
    }

    fn put_record(&mut self, table: Table, key: &[u8], value: Option<&[u8]>) -> Result<()> {
        match value {
            Some(value) => self.write(
                "INSERT INTO records (tab, key, value) VALUES (?1, ?2, ?3)
                 ON CONFLICT DO UPDATE SET value = excluded.value",
                params![table as u8, key, value],
            ),
            None => self.write("DELETE FROM records WHERE tab = ?1 AND key = ?2", params![table as u8, key]),
        }
    }

    fn records(&self, table: Table) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        self.read(|db| {
            let mut statement =
                db.prepare_cached("SELECT key, value FROM records WHERE tab = ?1 ORDER BY key")?;
            all(&mut statement, [table as u8], |row| Ok((row.get(0)?, row.get(1)?)))
        })
    }
}

/// The survivors of a name, by dot.
pub(crate) fn survivors(db: &Connection, name: &Name) -> std::result::Result<Vec<Survivor>, DatabaseError> {
    let mut statement =
        db.prepare_cached("SELECT record FROM files WHERE deleted IN (0, 1) AND name = ?1")?;
    let mut found = all(&mut statement, [name.as_str()], survivor_at_0)?;
    found.sort_by_key(|survivor| survivor.version.dot);
    Ok(found)
}

/// Whether a surviving version has this dot, published or not.
pub(crate) fn survives(db: &Connection, dot: &Dot) -> std::result::Result<bool, DatabaseError> {
    let mut statement =
        db.prepare_cached("SELECT 1 FROM files WHERE owner_node = ?1 AND generation = ?2 AND sequence = ?3")?;
    Ok(statement.exists(dot_params(dot))?)
}

/// What is seen of one origin.
pub(crate) fn seen_of(
    db: &Connection,
    origin: &Origin,
) -> std::result::Result<Option<SeenSet>, DatabaseError> {
    let mut statement =
        db.prepare_cached("SELECT record FROM seen WHERE owner_node = ?1 AND generation = ?2")?;
    one(&mut statement, params![origin.node.as_str(), generation(origin)], |row| decode(row.get_ref(0)?))
}

/// Fills the column `chunk_ids` of a surviving version.
pub(crate) fn note_links(db: &Connection, dot: &Dot, links: &str) -> std::result::Result<(), DatabaseError> {
    db.prepare_cached(
        "UPDATE files SET chunk_ids = ?4 WHERE owner_node = ?1 AND generation = ?2 AND sequence = ?3",
    )?
    .execute(params![
        dot.origin.node.as_str(),
        generation(&dot.origin),
        Sequence(dot.sequence),
        links
    ])?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use kepler_protocol::catalog::conformance;
    use proptest::prelude::*;

    use super::*;
    use crate::store::schema;

    fn database() -> Connection {
        let mut connection = schema::open_writer(std::path::Path::new(":memory:")).unwrap();
        schema::migrate(&mut connection).unwrap();
        connection
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn it_answers_like_plain_maps(seed: u64) {
            let db = database();
            let journal = Journal::default();
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut storage = SqlStorage::new(&db, &journal);
            conformance::check(&mut storage, &mut rng, 160);
            prop_assert!(journal.changed());
        }
    }

    #[test]
    fn a_rollback_leaves_nothing() {
        let db = database();
        let journal = Journal::default();
        let mut rng = fastrand::Rng::with_seed(7);
        db.execute_batch("BEGIN IMMEDIATE").unwrap();
        conformance::check(&mut SqlStorage::new(&db, &journal), &mut rng, 100);
        db.execute_batch("ROLLBACK").unwrap();
        conformance::compare(&SqlStorage::new(&db, &journal), &conformance::Model::default(), &mut rng);
    }

    #[test]
    fn no_query_of_a_page_sorts_or_scans() {
        let db = database();
        for sql in [
            "SELECT name FROM files WHERE deleted = 0 AND name > ?1
             UNION SELECT name FROM files WHERE deleted = 1 AND name > ?1
             UNION SELECT name FROM stubs WHERE name > ?1 ORDER BY name LIMIT ?2",
            "SELECT record FROM files WHERE deleted IN (0, 1) AND name = ?1",
            "SELECT name, record FROM files WHERE deleted = 0 AND name >= ?1 ORDER BY name",
            "SELECT record FROM files WHERE published = 0 AND (owner_node, generation, sequence) > (?1, ?2, ?3)
             ORDER BY owner_node, generation, sequence LIMIT ?4",
            unseen::FILES,
            unseen::STUBS,
            unseen::CLOSED,
            unseen::BY_NAME,
            replaced::NOTE,
            replaced::FORGET,
            replaced::OF_NAME,
        ] {
            let mut statement = db.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
            let params = vec![rusqlite::types::Value::Integer(1); statement.parameter_count()];
            let plan: Vec<String> = statement
                .query_map(rusqlite::params_from_iter(params), |row| row.get(3))
                .unwrap()
                .collect::<rusqlite::Result<_>>()
                .unwrap();
            let plan = plan.join("\n");
            assert!(!plan.contains("TEMP B-TREE") && !plan.contains("SCAN"), "{sql}\n{plan}");
        }
    }
}
