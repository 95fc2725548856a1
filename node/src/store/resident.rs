//! The seat of the catalog and the council: a machine that lives on the writer's thread.
//!
//! A [`Resident`] runs inside the writer's transactions, and what it puts out leaves only after the
//! commit. So it may promise and answer at once, as if memory were durable. Commands come through a
//! [`Seat`].

use std::any::Any;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use kepler_protocol::catalog::storage::{self, Storage};
use kepler_protocol::time::Instant;
use rusqlite::Connection;
use tokio::sync::{Semaphore, watch};

use super::catalog::SqlStorage;
use super::error::DatabaseError;
use super::job::{Guest, Message, Stopped};
use super::room::{Journal, Room};

/// The most inputs that wait for a resident.
pub(crate) const MAX_INPUTS: usize = 4_096;

/// A machine that runs on the writer's thread, inside its transactions.
///
/// An error from any method stops the writer: the machine is dropped, nothing of the transaction is
/// kept, and the store takes no more writes until the process is started again.
pub trait Resident: Send + 'static {
    /// What it is told.
    type Input: Send + 'static;
    /// What it has to say, released only after the commit.
    type Output: Send + 'static;

    /// Takes one input.
    ///
    /// # Errors
    /// The storage failed.
    fn handle(&mut self, storage: &mut dyn Storage, now: Instant, input: Self::Input) -> storage::Result<()>;

    /// Does what is due at `now`.
    ///
    /// # Errors
    /// The storage failed.
    fn handle_timeout(&mut self, storage: &mut dyn Storage, now: Instant) -> storage::Result<()>;

    /// When [`Resident::handle_timeout`] is to be called next.
    fn poll_timeout(&self) -> Option<Instant>;

    /// Called once before each commit of a batch that changed the catalog.
    ///
    /// # Errors
    /// The storage failed.
    fn before_commit(&mut self, storage: &mut dyn Storage) -> storage::Result<()>;

    /// Moves all that waits to leave into `out`.
    fn drain(&mut self, out: &mut Vec<Self::Output>);
}

/// The way to a resident. Cheap to clone.
pub struct Seat<I> {
    sender: Sender<Message>,
    permits: Arc<Semaphore>,
    stopped: watch::Receiver<Stopped>,
    room: watch::Receiver<Room>,
    // A function pointer keeps the seat `Send` and `Sync` whatever the input is.
    input: std::marker::PhantomData<fn(I)>,
}

impl<I> Clone for Seat<I> {
    fn clone(&self) -> Self {
        Self {
            sender: self.sender.clone(),
            permits: self.permits.clone(),
            stopped: self.stopped.clone(),
            room: self.room.clone(),
            input: std::marker::PhantomData,
        }
    }
}

impl<I: Send + 'static> Seat<I> {
    pub(crate) fn new(
        sender: Sender<Message>,
        stopped: watch::Receiver<Stopped>,
        room: watch::Receiver<Room>,
    ) -> Self {
        Self {
            sender,
            permits: Arc::new(Semaphore::new(MAX_INPUTS)),
            stopped,
            room,
            input: std::marker::PhantomData,
        }
    }

    /// How much room the database has now.
    pub fn room(&self) -> Room {
        *self.room.borrow()
    }

    /// Waits until the machine waits for room, for ever if it never does. It is a look at the present too.
    pub async fn stuck(&self) {
        let mut room = self.room.clone();
        if room.wait_for(|room| *room == Room::Nothing).await.is_err() {
            std::future::pending::<()>().await; // The writer has ended, and says so itself.
        }
    }

    /// Hands an input over; waits while 4,096 inputs wait already.
    ///
    /// # Errors
    /// The writer has stopped. An input that was taken just before is dropped without an output.
    pub async fn send(&self, input: I) -> Result<(), DatabaseError> {
        let permit = self.permits.clone().acquire_owned().await.expect("never closed");
        self.hand_over(input, permit)
    }

    /// Hands an input over without waiting; gives it back where too many wait already.
    ///
    /// # Errors
    /// The writer has stopped.
    pub fn try_send(&self, input: I) -> Result<Option<I>, DatabaseError> {
        match self.permits.clone().try_acquire_owned() {
            Ok(permit) => self.hand_over(input, permit).map(|()| None),
            Err(_) => Ok(Some(input)),
        }
    }

    fn hand_over(&self, input: I, permit: tokio::sync::OwnedSemaphorePermit) -> Result<(), DatabaseError> {
        if let Some(reason) = self.stopped.borrow().clone() {
            return Err(DatabaseError::Stopped(reason));
        }
        self.sender
            .send(Message::Input(Box::new(input), permit))
            .map_err(|_| DatabaseError::Stopped("it was closed".into()))
    }
}

/// A resident, how it is made, and where its outputs go.
pub(crate) struct Installed<R: Resident, M, O> {
    make: Option<M>,
    resident: Option<R>,
    outputs: O,
}

impl<R: Resident, M, O> Installed<R, M, O> {
    pub(crate) fn new(make: M, outputs: O) -> Self {
        Self { make: Some(make), resident: None, outputs }
    }
}

impl<R, M, O> Guest for Installed<R, M, O>
where
    R: Resident,
    M: FnOnce(&mut dyn Storage, Instant) -> storage::Result<R> + Send,
    O: FnMut(Vec<R::Output>) + Send,
{
    fn begin(&mut self, db: &Connection, journal: &Journal, now: Instant) -> Result<(), DatabaseError> {
        let make = self.make.take().expect("a resident is installed once");
        let mut storage = SqlStorage::new(db, journal);
        let made = make(&mut storage, now);
        self.resident = Some(made.map_err(|error| storage.cause(error))?);
        Ok(())
    }

    fn handle(
        &mut self,
        db: &Connection,
        journal: &Journal,
        now: Instant,
        input: Box<dyn Any + Send>,
    ) -> Result<(), DatabaseError> {
        let (Some(resident), Ok(input)) = (&mut self.resident, input.downcast::<R::Input>()) else {
            return Ok(()); // A seat of a resident that was replaced since.
        };
        let mut storage = SqlStorage::new(db, journal);
        resident.handle(&mut storage, now, *input).map_err(|error| storage.cause(error))
    }

    fn handle_timeout(
        &mut self,
        db: &Connection,
        journal: &Journal,
        now: Instant,
    ) -> Result<(), DatabaseError> {
        let Some(resident) = &mut self.resident else { return Ok(()) };
        let mut storage = SqlStorage::new(db, journal);
        resident.handle_timeout(&mut storage, now).map_err(|error| storage.cause(error))
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.resident.as_ref()?.poll_timeout()
    }

    fn before_commit(&mut self, db: &Connection, journal: &Journal) -> Result<(), DatabaseError> {
        let Some(resident) = &mut self.resident else { return Ok(()) };
        let mut storage = SqlStorage::new(db, journal);
        resident.before_commit(&mut storage).map_err(|error| storage.cause(error))
    }

    fn release(&mut self) {
        let Some(resident) = &mut self.resident else { return };
        let mut out = Vec::new();
        resident.drain(&mut out);
        if !out.is_empty() {
            (self.outputs)(out);
        }
    }
}
