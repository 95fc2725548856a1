//! Why an operation of the store failed: one enum per kind of operation.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kepler_protocol::chunk::{ChunkId, Corrupt};
use kepler_protocol::node_id::NodeId;

/// Why a data directory was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("the data directory {0} is in use by another process: stop it, or set another DATA_DIR")]
    InUse(PathBuf),
    /// A later version of this software has written it.
    #[error(
        "the database {path} has schema {found}, and this version knows schemas up to {known}: \
         start the version that wrote it, or a later one"
    )]
    NewerSchema {
        /// The database.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// The newest schema known.
        known: i64,
    },
    /// It was made for a node of another name.
    #[error(
        "the data directory {path} belongs to node {theirs}, not to {ours}: set another DATA_DIR or NODE_ID"
    )]
    OtherNode {
        /// The directory.
        path: PathBuf,
        /// Who made it.
        theirs: String,
        /// Who wants it.
        ours: NodeId,
    },
    /// The identity key is no secret.
    #[error("{path} can be read by others (mode {mode:o}): chmod 600 it")]
    IdentityMode {
        /// The key's file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The identity key is not 64 hex digits.
    #[error("{0} is not an identity key: restore it, or start with an empty DATA_DIR")]
    Identity(PathBuf),
    /// A file or folder could not be used.
    #[error("{action} {path}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// SQLite failed in a way that is no damage.
    #[error("open the database {path}")]
    Database {
        /// The database.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// The writer's thread could not be started.
    #[error("start the writer")]
    Writer(#[source] io::Error),
    /// The first transaction failed.
    #[error(transparent)]
    First(#[from] DatabaseError),
}

/// Why a transaction or a query was not done. Nothing of it happened.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DatabaseError {
    /// A commit or the catalog's storage failed before: the store takes no more writes until a restart.
    #[error("the store takes no more writes: {0}")]
    Stopped(Arc<str>),
    /// The disk has no room for the database.
    #[error("the disk is too full for the database")]
    Full,
    /// SQLite failed.
    #[error("database: {0}")]
    Sql(Arc<rusqlite::Error>),
    /// A row is not what was written.
    #[error("a row of the database is damaged: {0}")]
    Damaged(String),
}

impl From<rusqlite::Error> for DatabaseError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => Self::Full,
            _ => Self::Sql(Arc::new(error)),
        }
    }
}

/// Why a chunk was not stored. It is not vouched for.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Writing would go below the reserve.
    #[error("the disk is full: {free} bytes are free and {reserve} are kept in reserve")]
    DiskFull {
        /// Bytes free.
        free: u64,
        /// Bytes kept free.
        reserve: u64,
    },
    /// The bytes are not the chunk's.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
    /// More or fewer bytes than announced, or more than any chunk has.
    #[error("chunk {id} has {actual} bytes and not {expected}")]
    Size {
        /// The chunk.
        id: ChunkId,
        /// Bytes announced.
        expected: u64,
        /// Bytes that came, or the bound they crossed.
        actual: u64,
    },
    /// The disk failed.
    #[error("{action} {path}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The database failed.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

impl WriteError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

/// Why a chunk was not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Ordinary: another node has it.
    #[error("chunk {0} is not stored here")]
    Missing(ChunkId),
    /// The disk lied: quarantine the chunk, fetch a good copy.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
    /// The disk failed.
    #[error("read {path}")]
    Io {
        /// What was read.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The database failed.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}
