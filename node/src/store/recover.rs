//! Opening a data directory, whatever state the last process left it in.
//!
//! One process at a time holds the lock. Temporary files are swept. A database that is missing, is
//! not a database or fails its check is set aside, never deleted, and made anew: its chunk rows come
//! from the files in `chunks/`, everything else from the peers.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kepler_protocol::chunk::ChunkId;
use rusqlite::{Connection, ErrorCode};
use rustix::fs::{FlockOperation, flock};
use tracing::{info, warn};

use super::chunk_file::sync_folder;
use super::clock::Clock;
use super::contents;
use super::durable::{create_folders, replace};
use super::error::OpenError;
use super::layout::Layout;
use super::meta::{meta, set_meta};
use super::release::{finish_deletions, renew_promises};
use super::rows::insert_found;
use super::schema;
use super::{Config, Opened};

/// Databases up to this many bytes are checked at every start, larger ones only after a crash.
const CHECK_ALWAYS: u64 = 1 << 30;

/// The lock on a data directory; released when dropped.
#[derive(Debug)]
pub(crate) struct Lock(File);

impl Lock {
    fn take(layout: &Layout) -> Result<Self, OpenError> {
        let path = layout.lock();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed("open", &path))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self(file)),
            Err(error) if error == rustix::io::Errno::WOULDBLOCK => {
                Err(OpenError::InUse(layout.root().to_owned()))
            }
            Err(error) => Err(failed("lock", &path)(error.into())),
        }
    }

    /// The epoch noted in the lock file: it outlives a lost database. 0 if there is none.
    fn epoch(&mut self) -> u64 {
        let mut text = String::new();
        let read = self.0.rewind().and_then(|()| (&mut self.0).take(64).read_to_string(&mut text));
        match read {
            Ok(_) => text.strip_prefix("epoch ").and_then(|n| n.trim_end().parse().ok()).unwrap_or(0),
            Err(_) => 0,
        }
    }

    fn note_epoch(&mut self, epoch: u64) -> io::Result<()> {
        self.0.rewind()?;
        self.0.set_len(0)?;
        writeln!(self.0, "epoch {epoch}")?;
        self.0.sync_all()
    }
}

/// What opening found.
pub(crate) struct Recovered {
    pub(crate) connection: Connection,
    pub(crate) clock: Clock,
    pub(crate) lock: Lock,
    pub(crate) opened: Opened,
    /// The last process did not close the store: there may be chunk files without a row.
    pub(crate) unclean: bool,
}

/// Takes the directory over.
pub(crate) fn open(config: &Config, layout: &Layout) -> Result<Recovered, OpenError> {
    let create = |path: &Path| create_folders(path).map_err(failed("create", path));
    create(layout.root())?;
    let mut lock = Lock::take(layout)?;
    create(&layout.chunks())?;
    create(&layout.quarantine())?;
    sweep(layout)?;
    let identity = identity(layout)?;
    let (mut connection, fresh, aside) = database(layout)?;
    let unclean = fresh || prepare(config, layout, &connection)?;

    let sql = |source| OpenError::Database { path: layout.database(), source };
    let before: i64 = meta(&connection, "running_millis").map_err(sql)?.unwrap_or(0);
    let clock = Clock::start(Duration::from_millis(u64::try_from(before).unwrap_or(0)));
    let noted: i64 = meta(&connection, "epoch").map_err(sql)?.unwrap_or(0);
    let epoch = lock.epoch().max(u64::try_from(noted).unwrap_or(0)) + 1;
    let transaction = connection.transaction().map_err(sql)?;
    if fresh {
        if let Some(aside) = aside
            && let Err(error) = contents::salvage(&aside, &transaction)
        {
            info!(%error, "the database that was set aside gives no more small chunks");
        }
        let found = rebuild(layout, &transaction)?;
        if found > 0 {
            info!(chunks = found, "chunks found on disk are known again");
        }
    }
    let unfinished = finish_deletions(&transaction, layout)?;
    if unfinished > 0 {
        info!(chunks = unfinished, "deletions that were cut short are finished");
    }
    renew_promises(&transaction, clock.running_millis()).map_err(sql)?;
    set_meta(&transaction, "node", config.node.as_str()).map_err(sql)?;
    set_meta(&transaction, "epoch", i64::try_from(epoch).unwrap_or(i64::MAX)).map_err(sql)?;
    set_meta(&transaction, "clean", 0).map_err(sql)?;
    transaction.commit().map_err(sql)?;
    lock.note_epoch(epoch).map_err(failed("write", &layout.lock()))?;
    sync_folder(layout.root()).map_err(failed("sync", layout.root()))?;
    let opened = Opened { fresh, identity, epoch };
    Ok(Recovered { connection, clock, lock, opened, unclean: unclean && !fresh })
}

/// Removes what unfinished writes left.
fn sweep(layout: &Layout) -> Result<(), OpenError> {
    for folder in [layout.root().to_owned(), layout.chunks()] {
        for entry in fs::read_dir(&folder).map_err(failed("read", &folder))? {
            let path = entry.map_err(failed("read", &folder))?.path();
            if path.extension().is_some_and(|extension| extension == "tmp") {
                fs::remove_file(&path).map_err(failed("remove", &path))?;
            }
        }
    }
    Ok(())
}

/// Reads the node's secret key, or makes one.
fn identity(layout: &Layout) -> Result<[u8; 32], OpenError> {
    let path = layout.identity();
    let text = match fs::metadata(&path) {
        Ok(metadata) => {
            let mode = metadata.permissions().mode() & 0o777;
            if mode & 0o077 != 0 {
                return Err(OpenError::IdentityMode { path, mode });
            }
            fs::read_to_string(&path).map_err(failed("read", &path))?
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => make_identity(layout)?,
        Err(error) => return Err(failed("read", &path)(error)),
    };
    let mut seed = [0; 32];
    match hex::decode_to_slice(text.trim_end(), &mut seed) {
        Ok(()) => Ok(seed),
        Err(_) => Err(OpenError::Identity(path)),
    }
}

fn make_identity(layout: &Layout) -> Result<String, OpenError> {
    let path = layout.identity();
    let mut seed = [0; 32];
    getrandom::fill(&mut seed)
        .map_err(|error| failed("draw randomness for", &path)(io::Error::other(error.to_string())))?;
    let text = format!("{}\n", hex::encode(seed));
    replace(&path, 0o600, text.as_bytes()).map_err(failed("write", &path))?;
    Ok(text)
}

/// Opens the database, or a new one in place of one that is damaged; says whether it is new, and where
/// the damaged one is.
fn database(layout: &Layout) -> Result<(Connection, bool, Option<PathBuf>), OpenError> {
    let path = layout.database();
    let damage = if layout.suspect().exists() {
        Some("it was found damaged while in use".to_owned())
    } else if !path.exists() {
        // A log without its database would be replayed into the new one.
        set_aside(layout)?;
        return Ok((create(&path)?, true, None));
    } else {
        match check(&path) {
            Ok(None) => return Ok((create(&path)?, false, None)),
            Ok(Some(damage)) => Some(damage),
            Err(OpenError::Database { source, .. }) if is_damage(&source) => Some(source.to_string()),
            Err(error) => return Err(error),
        }
    };
    let aside = set_aside(layout)?;
    warn!(
        reason = damage.as_deref(),
        path = %aside.display(),
        "the database is damaged: it was set aside, and a new one is filled from disk and peers"
    );
    Ok((create(&path)?, true, Some(aside)))
}

fn create(path: &Path) -> Result<Connection, OpenError> {
    let sql = |source| OpenError::Database { path: path.to_owned(), source };
    let mut connection = schema::open_writer(path).map_err(sql)?;
    schema::migrate(&mut connection).map_err(sql)?;
    Ok(connection)
}

/// What is wrong with the database, if anything is.
fn check(path: &Path) -> Result<Option<String>, OpenError> {
    let sql = |source| OpenError::Database { path: path.to_owned(), source };
    let connection = schema::open_writer(path).map_err(sql)?;
    let found = schema::version(&connection).map_err(sql)?;
    if found > schema::NEWEST {
        return Err(OpenError::NewerSchema { path: path.to_owned(), found, known: schema::NEWEST });
    }
    if found == 0 {
        // The first migration was not committed, or the file was emptied: nothing is in it.
        return Ok(Some("it has no schema".into()));
    }
    let clean: Option<i64> = meta(&connection, "clean").map_err(sql)?;
    let small = fs::metadata(path).map(|m| m.len() <= CHECK_ALWAYS).unwrap_or(true);
    if clean == Some(1) && !small {
        return Ok(None);
    }
    let verdict: String =
        connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0)).map_err(sql)?;
    Ok((verdict != "ok").then_some(verdict))
}

fn is_damage(error: &rusqlite::Error) -> bool {
    // A row of the wrong type or a missing table is damage too: the schema's number said otherwise.
    !matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::CannotOpen
                | ErrorCode::PermissionDenied
                | ErrorCode::ReadOnly
                | ErrorCode::DiskFull
                | ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::OutOfMemory
                | ErrorCode::SystemIoFailure
        )
    )
}

/// Moves the database and its log to the first free `kepler.db.damaged-<n>`.
fn set_aside(layout: &Layout) -> Result<PathBuf, OpenError> {
    let path = layout.database();
    let named = |suffix: &str| layout.root().join(format!("kepler.db{suffix}"));
    let taken = |n: u32| ["", "-wal", "-shm"].iter().any(|s| named(&format!(".damaged-{n}{s}")).exists());
    let number = (1..u32::MAX).find(|n| !taken(*n)).expect("a folder has fewer files");
    for suffix in ["", "-wal", "-shm"] {
        let (from, to) = (named(suffix), named(&format!(".damaged-{number}{suffix}")));
        match fs::rename(&from, &to) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("set aside", &path)(error)),
        }
    }
    match fs::remove_file(layout.suspect()) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed("remove", &layout.suspect())(error)),
    }
    sync_folder(layout.root()).map_err(failed("sync", layout.root()))?;
    Ok(named(&format!(".damaged-{number}")))
}

/// Checks whose directory it is; says whether the last process ended without closing it.
fn prepare(config: &Config, layout: &Layout, connection: &Connection) -> Result<bool, OpenError> {
    let sql = |source| OpenError::Database { path: layout.database(), source };
    let node: Option<String> = meta(connection, "node").map_err(sql)?;
    if let Some(theirs) = node
        && theirs != config.node.as_str()
    {
        return Err(OpenError::OtherNode { path: layout.root().to_owned(), theirs, ours: config.node });
    }
    let clean: Option<i64> = meta(connection, "clean").map_err(sql)?;
    Ok(clean != Some(1))
}

/// Inserts a row for each chunk file.
fn rebuild(layout: &Layout, connection: &Connection) -> Result<u64, OpenError> {
    let sql = |source| OpenError::Database { path: layout.database(), source };
    let mut found = 0;
    let mut failure = None;
    scan(layout, |id, size| match insert_found(connection, &id, size) {
        Ok(inserted) => {
            found += u64::from(inserted);
            true
        }
        Err(error) => {
            failure = Some(error);
            false
        }
    })
    .map_err(failed("read", &layout.chunks()))?;
    match failure {
        Some(error) => Err(sql(error)),
        None => Ok(found),
    }
}

/// Visits the chunk files with their sizes until `visit` says that it is enough.
pub(crate) fn scan(layout: &Layout, mut visit: impl FnMut(ChunkId, u64) -> bool) -> io::Result<()> {
    for outer in fs::read_dir(layout.chunks())? {
        let outer = outer?;
        if !outer.file_type()?.is_dir() {
            continue;
        }
        for inner in fs::read_dir(outer.path())? {
            let inner = inner?;
            if !inner.file_type()?.is_dir() {
                continue;
            }
            for file in fs::read_dir(inner.path())? {
                let file = file?;
                let id = Layout::parse(&outer.file_name(), &inner.file_name(), &file.file_name());
                let Some(id) = id.filter(|_| file.file_type().is_ok_and(|t| t.is_file())) else { continue };
                // It may have been removed since the folder was read.
                let Ok(metadata) = file.metadata() else { continue };
                if !visit(id, metadata.len()) {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError + use<> {
    let path = path.to_owned();
    move |source| OpenError::Io { action, path, source }
}
