//! What the writer is sent: jobs, and what its resident is told.

use std::any::Any;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use kepler_protocol::time::Instant;
use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::error::DatabaseError;
use super::room::Journal;

/// Why the writer stopped, once it has.
pub(crate) type Stopped = Option<Arc<str>>;

/// What a job sees of its transaction.
pub(crate) struct Tx<'a> {
    pub(crate) connection: &'a Connection,
    /// Milliseconds of running time.
    pub(crate) running: i64,
}

/// A unit of work with its own savepoint.
pub(crate) trait Job: Send {
    /// Does the work.
    fn run(&mut self, tx: &Tx<'_>) -> Result<(), DatabaseError>;
    /// Answers, after the commit or after the failure.
    fn finish(self: Box<Self>, outcome: Result<(), DatabaseError>);
}

/// A closure as a job, with the channel to who waits for its result.
pub(crate) struct Call<F, T> {
    work: Option<F>,
    result: Option<T>,
    answer: oneshot::Sender<Result<T, DatabaseError>>,
}

impl<F, T> Call<F, T> {
    pub(crate) fn new(work: F, answer: oneshot::Sender<Result<T, DatabaseError>>) -> Self {
        Self { work: Some(work), result: None, answer }
    }
}

impl<F, T> Job for Call<F, T>
where
    F: FnOnce(&Tx<'_>) -> Result<T, DatabaseError> + Send,
    T: Send,
{
    fn run(&mut self, tx: &Tx<'_>) -> Result<(), DatabaseError> {
        let work = self.work.take().expect("a job runs once");
        self.result = Some(work(tx)?);
        Ok(())
    }

    fn finish(self: Box<Self>, outcome: Result<(), DatabaseError>) {
        let Self { result, answer, .. } = *self;
        let result =
            outcome.and_then(|()| result.ok_or_else(|| DatabaseError::Stopped("the job was not run".into())));
        // Whoever asked may have gone away; what was committed stays.
        let _ = answer.send(result);
    }
}

/// A resident without its types, as the writer keeps it.
pub(crate) trait Guest: Send {
    fn begin(&mut self, db: &Connection, journal: &Journal, now: Instant) -> Result<(), DatabaseError>;
    fn handle(
        &mut self,
        db: &Connection,
        journal: &Journal,
        now: Instant,
        input: Box<dyn Any + Send>,
    ) -> Result<(), DatabaseError>;
    fn handle_timeout(
        &mut self,
        db: &Connection,
        journal: &Journal,
        now: Instant,
    ) -> Result<(), DatabaseError>;
    fn poll_timeout(&self) -> Option<Instant>;
    fn before_commit(&mut self, db: &Connection, journal: &Journal) -> Result<(), DatabaseError>;
    fn release(&mut self);
}

/// What the writer takes from its channel.
pub(crate) enum Message {
    Job(Box<dyn Job>, Option<OwnedSemaphorePermit>),
    Install(Box<dyn Guest>, SyncSender<Result<(), DatabaseError>>),
    Input(Box<dyn Any + Send>, OwnedSemaphorePermit),
    Close(oneshot::Sender<()>),
}
