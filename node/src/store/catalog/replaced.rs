//! What versions had that do not survive: the latest [`KEPT`] of them, for people.
//!
//! It is noted in the transaction in which a version goes and decides nothing: no chunk is kept for it, and no
//! peer is told it by an exchange.

use kepler_protocol::catalog::storage::Survivor;
use kepler_protocol::name::Name;
use kepler_protocol::time::UnixMillis;
use kepler_protocol::wire::operations::{MAX_REPLACED, Replaced};
use rusqlite::{Connection, params};

use super::{all, cap, decode};
use crate::store::error::DatabaseError;

/// Versions remembered, of all names together.
pub(super) const KEPT: i64 = 16_384;

/// Notes a version before its row goes. Tombstones and what was never published have nothing to bring back.
pub(super) const NOTE: &str = "INSERT INTO replaced (name, gone_at, record)
     SELECT name, CAST(1000 * unixepoch('now', 'subsec') AS INTEGER), record FROM files
     WHERE owner_node = ?1 AND generation = ?2 AND sequence = ?3 AND deleted = 0 AND published = 1";

/// Forgets what lies further back than so many.
pub(super) const FORGET: &str =
    "DELETE FROM replaced WHERE number <= (SELECT max(number) FROM replaced) - ?1";

pub(super) const OF_NAME: &str =
    "SELECT gone_at, record FROM replaced WHERE name = ?1 ORDER BY number DESC LIMIT ?2";

/// What is remembered of a name, the last to go first; at most [`MAX_REPLACED`].
pub(crate) fn replaced(db: &Connection, name: &Name) -> Result<Vec<Replaced>, DatabaseError> {
    let mut statement = db.prepare_cached(OF_NAME)?;
    let found = all(&mut statement, params![name.as_str(), cap(MAX_REPLACED)], |row| {
        let gone_at = UnixMillis(u64::try_from(row.get::<_, i64>(0)?).unwrap_or(0));
        Ok((gone_at, decode::<Survivor>(row.get_ref(1)?)?.version))
    })?;
    let found = found.into_iter().filter_map(|(gone_at, version)| {
        let content = version.content?;
        Some(Replaced { dot: version.dot, content, created_at: version.created_at, gone_at })
    });
    Ok(found.collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use kepler_protocol::catalog::storage::Storage as _;
    use kepler_protocol::chunk::{ChunkId, Codec};
    use kepler_protocol::version::{Content, Context, Dot, Version};

    use super::*;
    use crate::store::catalog::SqlStorage;
    use crate::store::room::Journal;
    use crate::store::schema;

    fn survivor(name: &str, sequence: u64, file: bool, published: bool) -> Survivor {
        let root = ChunkId::of(Codec::Raw, &sequence.to_be_bytes());
        let content = Content { root, size: sequence, chunks: 1, content_type: None };
        let version = Version {
            name: name.parse().unwrap(),
            dot: Dot { origin: "a.0000000000000001.1".parse::<Dot>().unwrap().origin, sequence },
            context: Context::default(),
            count: 1,
            content: file.then_some(content),
            created_at: UnixMillis(sequence),
        };
        Survivor { version, published }
    }

    #[test]
    fn what_a_version_had_is_remembered_when_it_goes_and_the_oldest_is_forgotten() {
        let mut db = schema::open_writer(std::path::Path::new(":memory:")).unwrap();
        schema::migrate(&mut db).unwrap();
        let journal = Journal::default();
        let mut storage = SqlStorage::new(&db, &journal);
        let go = |storage: &mut SqlStorage<'_>, survivor: Survivor| {
            storage.put_survivor(&survivor).unwrap();
            storage.remove_survivor(&survivor.version.dot).unwrap();
        };
        go(&mut storage, survivor("a", 1, true, true));
        go(&mut storage, survivor("a", 2, false, true));
        go(&mut storage, survivor("a", 3, true, false));
        go(&mut storage, survivor("b", 4, true, true));
        go(&mut storage, survivor("a", 5, true, true));
        let of = |name: &str| -> Vec<u64> {
            replaced(&db, &name.parse().unwrap()).unwrap().iter().map(|r| r.dot.sequence).collect()
        };
        assert_eq!(of("a"), [5, 1], "no tombstone, nothing unpublished");
        let found = replaced(&db, &"a".parse().unwrap()).unwrap();
        assert_eq!((found[0].content.size, found[0].created_at), (5, UnixMillis(5)));
        assert!(found[0].gone_at > UnixMillis(1_700_000_000_000), "milliseconds of the wall clock");
        db.execute("UPDATE replaced SET number = number + ?1 WHERE name = 'b'", [KEPT]).unwrap();
        go(&mut storage, survivor("c", 6, true, true));
        assert!(of("a").is_empty());
        assert_eq!((of("b"), of("c")), (vec![4], vec![6]));
    }
}
