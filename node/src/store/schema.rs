//! The database's tables and how a connection to it is set up.
//!
//! Migrations are numbered by their place in [`MIGRATIONS`]; `user_version` says how many were
//! applied. A published migration is never edited, only followed by another.
//!
//! Dots are kept as their token (`id`, `dot`) or as (node, generation, sequence). The generation is
//! 16 hex digits and the sequence an integer, or 8 big-endian bytes where it is beyond an SQLite
//! integer: SQLite sorts every blob after every integer, so the order of rows is the order of dots.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

/// Bytes to which the write-ahead log is cut back after a checkpoint.
const WAL_LIMIT: u64 = 64 << 20;

/// Pages in the write-ahead log after which the writer checkpoints.
const CHECKPOINT_PAGES: u32 = 4_000;

const MIGRATIONS: &[&str] = &["
    CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;

    -- Surviving versions. `chunk_ids` is a JSON list of the root's direct links, null until they are known.
    CREATE TABLE files (
        id TEXT NOT NULL, name TEXT NOT NULL, size INTEGER, chunk_ids TEXT, owner_node TEXT NOT NULL,
        created_at INTEGER NOT NULL,
        generation TEXT NOT NULL, sequence NOT NULL,
        deleted INTEGER NOT NULL, published INTEGER NOT NULL, record BLOB NOT NULL,
        PRIMARY KEY (owner_node, generation, sequence)
    ) WITHOUT ROWID;
    -- One index for both: the live versions of listings, and all versions of a name.
    CREATE INDEX files_by_name ON files (deleted, name);
    CREATE INDEX files_unpublished ON files (owner_node, generation, sequence) WHERE published = 0;

    CREATE TABLE stubs (
        owner_node TEXT NOT NULL, generation TEXT NOT NULL, sequence NOT NULL,
        name TEXT, superseded_by TEXT,
        PRIMARY KEY (owner_node, generation, sequence)
    ) WITHOUT ROWID;
    CREATE INDEX stubs_by_name ON stubs (name) WHERE name IS NOT NULL;
    CREATE INDEX stubs_closed ON stubs (owner_node, generation, sequence) WHERE name IS NULL;

    CREATE TABLE seen (
        owner_node TEXT NOT NULL, generation TEXT NOT NULL, record BLOB NOT NULL,
        PRIMARY KEY (owner_node, generation)
    ) WITHOUT ROWID;

    CREATE TABLE records (tab INTEGER NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL, PRIMARY KEY (tab, key))
        WITHOUT ROWID;

    -- `gone`: being deleted, no longer vouched for. `recovered`: found on disk after the database was
    -- lost, so its references are not known and it is never collected for want of one.
    CREATE TABLE chunks (
        id TEXT PRIMARY KEY, file_id TEXT, \"index\" INTEGER, size INTEGER NOT NULL, path TEXT NOT NULL,
        created_at INTEGER NOT NULL,
        verified_at INTEGER, gone INTEGER NOT NULL DEFAULT 0, recovered INTEGER NOT NULL DEFAULT 0
    ) WITHOUT ROWID;
    CREATE TABLE chunk_references (chunk_id TEXT NOT NULL, dot TEXT NOT NULL, PRIMARY KEY (chunk_id, dot))
        WITHOUT ROWID;

    CREATE TABLE peers (
        id TEXT PRIMARY KEY, addr TEXT NOT NULL, gossip_port INTEGER NOT NULL, transfer_port INTEGER NOT NULL,
        last_seen INTEGER, status TEXT NOT NULL, record BLOB NOT NULL
    ) WITHOUT ROWID;

    -- `last_attempt` is for people; `enqueued` and `due` are milliseconds of running time, 0 for at once.
    CREATE TABLE replication_queue (
        chunk_id TEXT NOT NULL, target_node_id TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0,
        last_attempt INTEGER, enqueued INTEGER NOT NULL, due INTEGER NOT NULL,
        PRIMARY KEY (chunk_id, target_node_id)
    ) WITHOUT ROWID;
    CREATE INDEX queue_by_target ON replication_queue (target_node_id, due);
    CREATE INDEX queue_by_age ON replication_queue (enqueued);
    CREATE TABLE replication_queue_dots (
        chunk_id TEXT NOT NULL, target_node_id TEXT NOT NULL, dot TEXT NOT NULL,
        PRIMARY KEY (chunk_id, target_node_id, dot)
    ) WITHOUT ROWID;
    CREATE INDEX queue_by_dot ON replication_queue_dots (dot);
", "
    -- Times are milliseconds of running time.
    CREATE INDEX chunks_gone ON chunks (id) WHERE gone = 1;
    -- Chunks that this node promised to keep.
    CREATE TABLE promises (chunk_id TEXT PRIMARY KEY, until INTEGER NOT NULL) WITHOUT ROWID;
    -- Copies that belong elsewhere: who owned them when their grace began. `owners` is a list with commas.
    CREATE TABLE surplus (chunk_id TEXT PRIMARY KEY, owners TEXT NOT NULL, since INTEGER NOT NULL) WITHOUT ROWID;
    -- Chunks all of whose references have ended.
    CREATE TABLE unreferenced (chunk_id TEXT PRIMARY KEY, since INTEGER NOT NULL) WITHOUT ROWID;
    -- Chunks without a row for now whose references may have been lost with a database.
    CREATE TABLE lost_references (chunk_id TEXT PRIMARY KEY) WITHOUT ROWID;
    -- Logs of databases that the roster dropped: what was not seen of them never comes.
    CREATE TABLE ended_origins (owner_node TEXT NOT NULL, generation TEXT NOT NULL, PRIMARY KEY (owner_node, generation))
        WITHOUT ROWID;
", "
    -- Bytes of chunks too small for a file of their own, in the order in which they came, so that new ones
    -- are appended. `chunks.packed` says which row has a chunk's bytes; null where it has a file.
    CREATE TABLE packed_chunks (number INTEGER PRIMARY KEY, bytes BLOB NOT NULL);
    ALTER TABLE chunks ADD COLUMN packed INTEGER;
", "
    -- Which databases were dropped is kept in `meta`; whether a log is of one can be told from its generation.
    DROP TABLE ended_origins;
", "
    -- What versions had that do not survive, the latest of them, in the order in which they went: for people, who
    -- may read one or bring it back while its chunks are there. It keeps no chunk.
    CREATE TABLE replaced (number INTEGER PRIMARY KEY, name TEXT NOT NULL, gone_at INTEGER NOT NULL, record BLOB NOT NULL);
    CREATE INDEX replaced_by_name ON replaced (name, number);
"];

/// The newest schema this version knows.
pub(crate) const NEWEST: i64 = MIGRATIONS.len() as i64;

/// Opens the writer's connection, creating the database if there is none.
pub(crate) fn open_writer(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_PRIVATE_CACHE;
    let connection = Connection::open_with_flags(path, flags)?;
    set_up(&connection)?;
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    debug_assert!(mode == "wal" || mode == "memory");
    connection.execute_batch(&format!(
        "PRAGMA synchronous = FULL;
         PRAGMA journal_size_limit = {WAL_LIMIT};
         PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES};
         PRAGMA cache_size = -32768;"
    ))?;
    Ok(connection)
}

/// Opens a connection that can only read.
pub(crate) fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_PRIVATE_CACHE;
    let connection = Connection::open_with_flags(path, flags)?;
    set_up(&connection)?;
    connection.execute_batch("PRAGMA query_only = ON; PRAGMA cache_size = -8192;")?;
    Ok(connection)
}

fn set_up(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(Duration::from_secs(10))?;
    connection.set_prepared_statement_cache_capacity(96);
    connection.execute_batch("PRAGMA temp_store = MEMORY; PRAGMA trusted_schema = OFF;")
}

/// The number of migrations that were applied.
pub(crate) fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

/// Applies what is missing, each migration in a transaction of its own. The caller has checked that
/// the schema is not newer than [`NEWEST`].
pub(crate) fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    let applied = usize::try_from(version(connection)?).unwrap_or(0);
    for (number, sql) in MIGRATIONS.iter().enumerate().skip(applied) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(sql)?;
        transaction.pragma_update(None, "user_version", number as i64 + 1)?;
        transaction.commit()?;
    }
    Ok(())
}
