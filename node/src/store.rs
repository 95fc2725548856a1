//! Everything durable of a node: chunk files, and SQLite for the rest.
//!
//! One thread writes to the database, in transactions that many callers share; a few read-only
//! connections answer queries. Files and SQL are never touched on an async thread. Invariants:
//!
//! - What a call has answered survives a power cut: files and folders are synced, then the row is
//!   committed with `synchronous=FULL`, then the answer leaves.
//! - A chunk is vouched for only while its row says so; its file was whole when the row was written.
//! - After a failed commit nothing is written any more, and every caller is told; save where the disk is
//!   merely full: then what was to be said waits for what it depends on, and all else is refused aloud.
//!
//! The store decides nothing about replicas, versions or membership.

mod catalog;
mod chunk_file;
mod chunks;
mod clock;
mod contents;
pub mod durable;
mod error;
mod holdings;
mod job;
mod layout;
mod leaving;
mod meta;
mod peers;
mod pending;
mod queue;
mod recover;
mod references;
mod release;
mod resident;
mod room;
mod rows;
mod schema;
mod scrub;
mod usage;
mod writer;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};

use kepler_protocol::catalog::storage::{self, Storage, Survivor};
use kepler_protocol::chunk::ChunkId;
use kepler_protocol::name::Name;
use kepler_protocol::node_id::NodeId;
use kepler_protocol::time::Instant;
use kepler_protocol::wire::operations::Replaced;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tracing::warn;

pub use catalog::{Listed, Page};
pub use chunks::{Incoming, Looked, Unreadable};
pub use error::{DatabaseError, OpenError, ReadError, WriteError};
pub use peers::PeerRow;
pub use queue::{DueRow, QueueRow, QueueState};
pub use references::Kept;
pub use release::Conditions;
pub use resident::{Resident, Seat};
pub use room::Room;
pub use scrub::ScrubStep;
pub use usage::Usage;

use clock::Clock;
use job::{Call, Message, Stopped, Tx};
use layout::Layout;
pub use rows::Held;
use writer::Writer;

/// The most queries at once, and read-only connections at the start.
const READERS: usize = 4;

/// Read-only connections kept open: file operations look rows up too, more of them at once.
const MAX_READERS: usize = 16;

/// The most file operations at once.
const DISK_SLOTS: usize = 32;

/// The most jobs that wait for the writer.
const MAX_JOBS: usize = 2_048;

/// Locks that keep operations on one chunk's file apart; different chunks rarely share one.
const STRIPES: usize = 1_024;

/// Settings of the store.
#[derive(Clone, Debug)]
pub struct Config {
    /// The data directory; created if there is none.
    pub data_dir: PathBuf,
    /// Bytes kept free: a chunk that would go below is refused.
    pub min_free: u64,
    /// Whose directory it is.
    pub node: NodeId,
}

/// What opening a data directory found.
#[derive(Clone)]
pub struct Opened {
    /// The database was created, or rebuilt after damage: it does not know what the node once promised.
    pub fresh: bool,
    /// The node's Ed25519 secret seed.
    pub identity: [u8; 32],
    /// Raised durably at each start, and kept outside the database too: no start reuses one.
    pub epoch: u64,
}

impl std::fmt::Debug for Opened {
    /// Leaves the secret out.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened")
            .field("fresh", &self.fresh)
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}

/// A data directory in use. Cheap to clone; the directory is released after [`Store::close`], or some
/// time after the last clone is gone.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    layout: Layout,
    min_free: u64,
    clock: Clock,
    sender: Sender<Message>,
    jobs: Arc<Semaphore>,
    stopped: watch::Receiver<Stopped>,
    room: watch::Receiver<Room>,
    readers: Mutex<Vec<Connection>>,
    queries: Arc<Semaphore>,
    disk: Arc<Semaphore>,
    stripes: Vec<Arc<tokio::sync::Mutex<()>>>,
    leases: Mutex<queue::Leases>,
    chunks: AtomicU64,
    bytes: AtomicU64,
    names: Mutex<Option<usage::Counted>>,
    meters: Meters,
}

/// What the store counts, for metrics; clones count together.
#[derive(Clone, Debug)]
pub struct Meters {
    /// Transactions committed that changed something.
    pub commits: Counter,
    /// Seconds that making a chunk's file or a transaction durable took.
    pub sync_seconds: Histogram,
    /// Commits that are to find a full disk.
    #[cfg(test)]
    planted: Arc<AtomicU64>,
}

impl Default for Meters {
    fn default() -> Self {
        Self {
            commits: Counter::default(),
            sync_seconds: Histogram::new(exponential_buckets(0.0001, 2.0, 18)),
            #[cfg(test)]
            planted: Arc::default(),
        }
    }
}

#[cfg(test)]
impl Store {
    /// Has the next `commits` commits find the disk full.
    pub(crate) fn plant_full(&self, commits: u64) {
        self.inner.meters.planted.store(commits, Ordering::Relaxed);
    }
}

#[cfg(test)]
impl Meters {
    fn planted_full(&self) -> bool {
        self.planted.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }
}

impl Store {
    /// Opens a data directory: takes its lock, sweeps temporary files, checks and migrates the
    /// database, and rebuilds it where it is lost or damaged. Blocks; takes time in proportion to the
    /// chunks only in the last case.
    ///
    /// # Errors
    /// See [`OpenError`]. A damaged database is no error.
    pub fn open(config: Config) -> Result<(Self, Opened), OpenError> {
        let layout = Layout::new(config.data_dir.clone());
        let recovered = recover::open(&config, &layout)?;
        let sql = |source| OpenError::Database { path: layout.database(), source };
        let readers: Vec<Connection> = (0..READERS)
            .map(|_| schema::open_reader(&layout.database()))
            .collect::<rusqlite::Result<_>>()
            .map_err(sql)?;
        let (chunks, bytes) = rows::totals(&recovered.connection).map_err(sql)?;
        let clock = recovered.clock;
        let meters = Meters::default();
        let ballast = room::Ballast::new(&layout);
        let (sender, stopped, room) = Writer::start(
            recovered.connection,
            clock,
            layout.suspect(),
            recovered.lock,
            meters.clone(),
            ballast,
        )
        .map_err(OpenError::Writer)?;
        let store = Self {
            inner: Arc::new(Inner {
                layout,
                min_free: config.min_free,
                clock,
                sender,
                jobs: Arc::new(Semaphore::new(MAX_JOBS)),
                stopped,
                room,
                readers: Mutex::new(readers),
                queries: Arc::new(Semaphore::new(READERS)),
                disk: Arc::new(Semaphore::new(DISK_SLOTS)),
                stripes: (0..STRIPES).map(|_| Arc::default()).collect(),
                leases: Mutex::default(),
                chunks: AtomicU64::new(chunks),
                bytes: AtomicU64::new(bytes),
                names: Mutex::default(),
                meters,
            }),
        };
        if recovered.unclean {
            store.adopt_strays();
        }
        Ok((store, recovered.opened))
    }

    /// Starts the writer's resident: `make` builds it inside a transaction, and `outputs` gets what it
    /// has to say after each commit, on the writer's thread, so it must not block. Replaces a former
    /// resident. Blocks until the first commit.
    ///
    /// # Errors
    /// The transaction failed; the store takes no more writes.
    pub fn install<R: Resident>(
        &self,
        make: impl FnOnce(&mut dyn Storage, Instant) -> storage::Result<R> + Send + 'static,
        outputs: impl FnMut(Vec<R::Output>) + Send + 'static,
    ) -> Result<Seat<R::Input>, DatabaseError> {
        let (answer, answered) = std::sync::mpsc::sync_channel(1);
        let guest = Box::new(resident::Installed::<R, _, _>::new(make, outputs));
        self.send(Message::Install(guest, answer))?;
        answered.recv().unwrap_or_else(|_| Err(self.why_stopped()))?;
        Ok(Seat::new(self.inner.sender.clone(), self.inner.stopped.clone(), self.inner.room.clone()))
    }

    /// The node's one clock: `CLOCK_BOOTTIME` since the store was opened.
    pub fn now(&self) -> Instant {
        self.inner.clock.now()
    }

    /// What is counted here.
    pub fn meters(&self) -> &Meters {
        &self.inner.meters
    }

    /// Makes a chunk's file durable, and counts the time.
    fn keep(&self, sink: chunk_file::Sink) -> Result<(), WriteError> {
        let begun = self.now();
        sink.keep(&self.inner.layout)?;
        self.inner.meters.sync_seconds.observe((self.now() - begun).as_secs_f64());
        Ok(())
    }

    /// Why the store takes no more writes, if it does not.
    pub fn failure(&self) -> Option<Arc<str>> {
        self.inner.stopped.borrow().clone()
    }

    /// Waits until the store takes no more writes, and says why.
    pub async fn stopped(&self) -> Arc<str> {
        let mut stopped = self.inner.stopped.clone();
        match stopped.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_else(|| "it was closed".into()),
            Err(_) => "it was closed".into(),
        }
    }

    /// The survivors of a name, by dot, as last committed.
    ///
    /// # Errors
    /// The database failed.
    pub async fn survivors(&self, name: &Name) -> Result<Vec<Survivor>, DatabaseError> {
        let name = name.clone();
        self.query(move |db| catalog::survivors(db, &name)).await
    }

    /// What is remembered of versions of a name that do not survive, the last to go first.
    ///
    /// # Errors
    /// The database failed.
    pub async fn replaced(&self, name: &Name) -> Result<Vec<Replaced>, DatabaseError> {
        let name = name.clone();
        self.query(move |db| catalog::replaced(db, &name)).await
    }

    /// A page of live names in the order of their bytes. With `delimiter`, names that hold it after
    /// `prefix` are folded into one entry. Only entries after `after`; `limit` counts folded ones too.
    ///
    /// # Errors
    /// The database failed.
    pub async fn list(
        &self,
        prefix: String,
        delimiter: Option<String>,
        after: Option<String>,
        limit: usize,
    ) -> Result<Page, DatabaseError> {
        self.query(move |db| catalog::list(db, &prefix, delimiter.as_deref(), after.as_deref(), limit.max(1)))
            .await
    }

    /// Notes the direct links of the root of a version's file, for people who read the database.
    ///
    /// # Errors
    /// The database failed.
    pub async fn note_links(
        &self,
        dot: kepler_protocol::version::Dot,
        links: &[ChunkId],
    ) -> Result<(), DatabaseError> {
        let links = format!("[{}]", links.iter().map(|id| format!("\"{id}\"")).collect::<Vec<_>>().join(","));
        self.execute(move |tx| catalog::note_links(tx.connection, &dot, &links)).await
    }

    /// Commits what waits, closes the database and releases the directory.
    pub async fn close(&self) {
        // The last connection that can write removes the log, if no other is open.
        lock(&self.inner.readers).clear();
        let (answer, answered) = oneshot::channel();
        if self.inner.sender.send(Message::Close(answer)).is_ok() {
            let _ = answered.await;
        }
        lock(&self.inner.readers).clear();
    }

    /// Runs `work` in the writer's next transaction and answers after its commit.
    async fn execute<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Tx<'_>) -> Result<T, DatabaseError> + Send + 'static,
    ) -> Result<T, DatabaseError> {
        let permit = self.inner.jobs.clone().acquire_owned().await.expect("never closed");
        let (answer, answered) = oneshot::channel();
        self.send(Message::Job(Box::new(Call::new(work, answer)), Some(permit)))?;
        answered.await.unwrap_or_else(|_| Err(self.why_stopped()))
    }

    /// The same on a thread that may block; not bounded, for work in the background.
    fn execute_now<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Tx<'_>) -> Result<T, DatabaseError> + Send + 'static,
    ) -> Result<T, DatabaseError> {
        let (answer, answered) = oneshot::channel();
        self.send(Message::Job(Box::new(Call::new(work, answer)), None))?;
        answered.blocking_recv().unwrap_or_else(|_| Err(self.why_stopped()))
    }

    /// Runs `work` on a read-only connection, off the async threads.
    async fn query<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, DatabaseError> + Send + 'static,
    ) -> Result<T, DatabaseError> {
        let permit = self.inner.queries.clone().acquire_owned().await.expect("never closed");
        let store = self.clone();
        blocking(move || {
            let _permit = permit;
            store.read_now(work)
        })
        .await
    }

    /// The same on a thread that may block.
    fn read_now<T>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, DatabaseError>,
    ) -> Result<T, DatabaseError> {
        let connection = lock(&self.inner.readers).pop();
        let connection = match connection {
            Some(connection) => connection,
            None if self.inner.stopped.borrow().as_deref() == Some("it was closed") => {
                return Err(self.why_stopped());
            }
            None => schema::open_reader(&self.inner.layout.database())?,
        };
        let result = work(&connection);
        let mut readers = lock(&self.inner.readers);
        if readers.len() < MAX_READERS {
            readers.push(connection);
        }
        result
    }

    /// Runs file work off the async threads, a bounded number of pieces at once.
    async fn on_disk<T: Send + 'static>(&self, work: impl FnOnce(&Self) -> T + Send + 'static) -> T {
        let permit: OwnedSemaphorePermit =
            self.inner.disk.clone().acquire_owned().await.expect("never closed");
        let store = self.clone();
        blocking(move || {
            let _permit = permit;
            work(&store)
        })
        .await
    }

    fn send(&self, message: Message) -> Result<(), DatabaseError> {
        if let Some(reason) = self.failure() {
            return Err(DatabaseError::Stopped(reason));
        }
        self.inner.sender.send(message).map_err(|_| self.why_stopped())
    }

    fn why_stopped(&self) -> DatabaseError {
        DatabaseError::Stopped(self.failure().unwrap_or_else(|| "it was closed".into()))
    }

    fn stripe(&self, id: &ChunkId) -> Arc<tokio::sync::Mutex<()>> {
        let at = usize::try_from(id.key() % STRIPES as u64).expect("fewer stripes than addresses");
        self.inner.stripes[at].clone()
    }

    /// Runs work on the file of one chunk while nobody else does, to its end even if the caller gives
    /// up. The guard that comes back keeps others off until it is dropped.
    async fn alone_on_disk<T: Send + 'static>(
        &self,
        id: &ChunkId,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> (tokio::sync::OwnedMutexGuard<()>, T) {
        let guard = self.stripe(id).lock_owned().await;
        self.on_disk(move |store| (guard, work(store))).await
    }

    /// After a crash: gives chunk files that were renamed but not yet entered a row, on a thread of
    /// its own.
    fn adopt_strays(&self) {
        let store = self.clone();
        let spawned = std::thread::Builder::new().name("store-strays".into()).spawn(move || {
            if let Err(error) = store.adopt_strays_now() {
                warn!(%error, "looking for chunk files without a row failed");
            }
        });
        if let Err(error) = spawned {
            warn!(%error, "looking for chunk files without a row failed");
        }
    }

    fn add_totals(&self, chunks: u64, bytes: u64) {
        self.inner.chunks.fetch_add(chunks, Ordering::Relaxed);
        self.inner.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn subtract_totals(&self, chunks: u64, bytes: u64) {
        self.inner.chunks.fetch_sub(chunks, Ordering::Relaxed);
        self.inner.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Takes a lock; what it guards stays whole even if a holder panicked.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs work on a blocking thread.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is going down: nobody waits for the result.
            Err(_) => std::future::pending().await,
        },
    }
}
