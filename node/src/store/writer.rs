//! The one thread that writes to the database.
//!
//! All waiting jobs and inputs of the resident go into one transaction (group commit). Each job has a
//! savepoint, so one that fails takes no other with it. Invariants:
//!
//! - Nothing is answered and no output of the resident leaves before the commit that it depends on.
//! - A failed commit, a storage error of the resident or damage found in the database stops the
//!   writer for good: all that waits and all that comes is told so, and nothing more is written.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode};
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};
use tracing::{error, info};

use super::Meters;
use super::clock::Clock;
use super::error::DatabaseError;
use super::job::{Guest, Job, Message, Stopped, Tx};
use super::meta::set_meta;
use super::recover::Lock;
use super::room::{Ballast, Journal, Room};

/// The most jobs and inputs in one transaction.
const MAX_BATCH: usize = 512;

/// How often running time is kept on disk while nothing else is written.
const IDLE_TICK: Duration = Duration::from_secs(30);

/// How often running time is kept on disk while other things are written.
const BUSY_TICK: Duration = Duration::from_secs(1);

/// How often room is looked for while there is little.
const LOOK_FOR_ROOM: Duration = Duration::from_millis(500);

/// The state of the thread.
pub(crate) struct Writer {
    connection: Connection,
    clock: Clock,
    receiver: Receiver<Message>,
    resident: Option<Box<dyn Guest>>,
    stopped: watch::Sender<Stopped>,
    ticked: Duration,
    suspect: std::path::PathBuf,
    meters: Meters,
    ballast: Ballast,
    room: watch::Sender<Room>,
    /// What came while nothing could be written.
    postponed: VecDeque<Message>,
    // Released when the thread ends, after the last write.
    _lock: Lock,
}

/// What a batch has to answer.
#[derive(Default)]
struct Batch {
    jobs: Vec<(Box<dyn Job>, Result<(), DatabaseError>)>,
    installed: Vec<SyncSender<Result<(), DatabaseError>>>,
    stepped: bool,
    permits: Vec<OwnedSemaphorePermit>,
    closing: Option<oneshot::Sender<()>>,
}

/// Why a batch ends in failure.
enum Failure {
    /// Nothing was written and no machine has moved on: the next batch may do better.
    Batch(DatabaseError),
    /// The machine's part was committed after all, the jobs' was not.
    Jobs(DatabaseError),
    /// The writer cannot go on.
    Fatal(DatabaseError),
}

impl Writer {
    /// Starts the thread.
    pub(crate) fn start(
        connection: Connection,
        clock: Clock,
        suspect: std::path::PathBuf,
        lock: Lock,
        meters: Meters,
        ballast: Ballast,
    ) -> std::io::Result<(Sender<Message>, watch::Receiver<Stopped>, watch::Receiver<Room>)> {
        let (sender, receiver) = std::sync::mpsc::channel();
        let (stopped, watched) = watch::channel(None);
        let (room, watched_room) = watch::channel(Room::Enough);
        let ticked = clock.running();
        let writer = Self {
            connection,
            clock,
            receiver,
            resident: None,
            stopped,
            ticked,
            suspect,
            meters,
            ballast,
            room,
            postponed: VecDeque::new(),
            _lock: lock,
        };
        std::thread::Builder::new().name("store-writer".into()).spawn(move || writer.run())?;
        Ok((sender, watched, watched_room))
    }

    fn run(mut self) {
        let _guard = StopOnPanic(self.stopped.clone());
        loop {
            let first = match self.postponed.pop_front() {
                Some(message) => Some(message),
                None => match self.receiver.recv_timeout(self.patience()) {
                    Ok(message) => Some(message),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => break,
                },
            };
            self.look_for_room();
            if let Some(closing) = self.batch(first) {
                self.close();
                self.stopped.send_replace(Some("it was closed".into()));
                drop(self);
                let _ = closing.send(());
                return;
            }
        }
        self.close();
    }

    /// How long to wait for the next message.
    fn patience(&self) -> Duration {
        if self.stopped.borrow().is_some() {
            return IDLE_TICK;
        }
        let timeout = self.resident.as_ref().and_then(|resident| resident.poll_timeout());
        let most = if *self.room.borrow() == Room::Enough { IDLE_TICK } else { LOOK_FOR_ROOM };
        timeout.map_or(most, |at| at.since(self.clock.now()).min(most))
    }

    /// One transaction. Returns whom to tell that the store is closed, if that was asked.
    fn batch(&mut self, first: Option<Message>) -> Option<oneshot::Sender<()>> {
        let mut batch = Batch::default();
        let stopped = self.stopped.borrow().clone();
        let outcome = match stopped {
            None => self.transact(first, &mut batch),
            Some(reason) => {
                self.refuse(first, &mut batch, &reason);
                Err(Failure::Batch(DatabaseError::Stopped(reason)))
            }
        };
        // What the machine has to say may leave.
        let committed = matches!(outcome, Ok(()) | Err(Failure::Jobs(_)));
        let outcome = outcome.map_err(|failure| {
            if !self.connection.is_autocommit() {
                // What cannot be rolled back is never committed either: the connection is not used again.
                let _ = self.connection.execute_batch("ROLLBACK");
            }
            match failure {
                Failure::Batch(error) | Failure::Jobs(error) => error,
                Failure::Fatal(error) => self.stop(&error),
            }
        });
        for (job, result) in batch.jobs {
            job.finish(outcome.clone().and(result));
        }
        for answer in batch.installed {
            let _ = answer.send(if committed { Ok(()) } else { outcome.clone() });
        }
        if committed
            && batch.stepped
            && let Some(resident) = &mut self.resident
        {
            resident.release();
        }
        batch.closing
    }

    fn transact(&mut self, first: Option<Message>, batch: &mut Batch) -> Result<(), Failure> {
        let changes = self.connection.total_changes();
        let journal = Journal::default();
        if let Err(error) = self.statement("BEGIN IMMEDIATE") {
            self.refuse(first, batch, "the transaction could not begin");
            return Err(self.judge(error, batch));
        }
        let mut next = first;
        let mut taken = 0;
        while let Some(message) = next.take() {
            self.step(message, batch, &journal)?;
            taken += 1;
            if taken < MAX_BATCH && batch.closing.is_none() {
                next = self.next_waiting();
            }
        }
        let now = self.clock.now();
        if let Some(resident) = &mut self.resident
            && resident.poll_timeout().is_some_and(|at| at <= now)
        {
            batch.stepped = true;
            resident.handle_timeout(&self.connection, &journal, now).map_err(Failure::Fatal)?;
        }
        if journal.changed()
            && let Some(resident) = &mut self.resident
        {
            batch.stepped = true;
            resident.before_commit(&self.connection, &journal).map_err(Failure::Fatal)?;
        }
        self.tick(self.connection.total_changes() != changes).map_err(|error| self.judge(error, batch))?;
        let busy = self.connection.total_changes() != changes;
        let begun = self.clock.running();
        match self.commit() {
            Ok(()) => {}
            Err(DatabaseError::Full) if batch.stepped => return self.write_again(&journal, batch),
            Err(error) => return Err(self.judge(error, batch)),
        }
        if busy {
            self.meters.commits.inc();
            self.meters.sync_seconds.observe(self.clock.running().saturating_sub(begun).as_secs_f64());
        }
        Ok(())
    }

    /// The next message that waits already.
    fn next_waiting(&mut self) -> Option<Message> {
        self.postponed.pop_front().or_else(|| self.receiver.try_recv().ok())
    }

    fn commit(&self) -> Result<(), DatabaseError> {
        #[cfg(test)]
        if self.meters.planted_full() {
            let _ = self.connection.execute_batch("ROLLBACK");
            return Err(DatabaseError::Full);
        }
        self.statement("COMMIT")
    }

    /// The transaction did not fit on the disk and was rolled back, but the machine has moved on: its
    /// part is written again, as often as it takes. What it has to say does not leave before. Jobs
    /// fail meanwhile; what else comes waits.
    fn write_again(&mut self, journal: &Journal, batch: &mut Batch) -> Result<(), Failure> {
        error!("the disk is full: writes are refused until there is room again");
        self.ballast.give_up();
        self.room.send_replace(Room::Low);
        loop {
            if !self.connection.is_autocommit() {
                let _ = self.connection.execute_batch("ROLLBACK");
            }
            // A machine that has written nothing has nothing to wait for.
            let written = match journal.changed() {
                true => self
                    .statement("BEGIN IMMEDIATE")
                    .and_then(|()| journal.replay(&self.connection))
                    .and_then(|()| self.commit()),
                false => Ok(()),
            };
            match written {
                Ok(()) => {
                    self.room.send_replace(Room::Low);
                    return Err(Failure::Jobs(DatabaseError::Full));
                }
                Err(DatabaseError::Full) => {}
                Err(error) => return Err(Failure::Fatal(error)),
            }
            self.room.send_replace(Room::Nothing);
            let until = std::time::Instant::now() + LOOK_FOR_ROOM;
            loop {
                let left = until.saturating_duration_since(std::time::Instant::now());
                match self.receiver.recv_timeout(left) {
                    Ok(Message::Job(job, _)) => job.finish(Err(DatabaseError::Full)),
                    Ok(Message::Close(answer)) => {
                        // What was not written was never said to anybody.
                        batch.closing = Some(answer);
                        return Err(Failure::Fatal(DatabaseError::Full));
                    }
                    Ok(other) => self.postponed.push_back(other),
                    Err(RecvTimeoutError::Timeout) => break,
                    Err(RecvTimeoutError::Disconnected) => return Err(Failure::Fatal(DatabaseError::Full)),
                }
            }
        }
    }

    /// Ends the time of little room once there is enough.
    fn look_for_room(&self) {
        if *self.room.borrow() != Room::Enough && self.ballast.restore() {
            info!("there is room on the disk again: writes are taken");
            self.room.send_replace(Room::Enough);
        }
    }

    fn step(&mut self, message: Message, batch: &mut Batch, journal: &Journal) -> Result<(), Failure> {
        match message {
            Message::Job(mut job, permit) => {
                batch.permits.extend(permit);
                let result = self.run_job(&mut *job);
                let failure = match &result {
                    Ok(()) => None,
                    Err(error) => self.poisons(error, batch),
                };
                batch.jobs.push((job, result));
                failure.map_or(Ok(()), Err)
            }
            Message::Install(mut resident, answer) => {
                let now = self.clock.now();
                match resident.begin(&self.connection, journal, now) {
                    Ok(()) => {
                        self.resident = Some(resident);
                        batch.installed.push(answer);
                        batch.stepped = true;
                        Ok(())
                    }
                    Err(error) => {
                        let _ = answer.send(Err(error.clone()));
                        Err(Failure::Fatal(error))
                    }
                }
            }
            Message::Input(input, permit) => {
                batch.permits.push(permit);
                let now = self.clock.now();
                let Some(resident) = &mut self.resident else { return Ok(()) };
                batch.stepped = true;
                resident.handle(&self.connection, journal, now, input).map_err(Failure::Fatal)
            }
            Message::Close(answer) => {
                batch.closing = Some(answer);
                Ok(())
            }
        }
    }

    fn run_job(&self, job: &mut dyn Job) -> Result<(), DatabaseError> {
        self.statement("SAVEPOINT job")?;
        let tx = Tx { connection: &self.connection, running: self.clock.running_millis() };
        let result = job.run(&tx);
        if result.is_err() && !self.connection.is_autocommit() {
            self.statement("ROLLBACK TO job")?;
        }
        if !self.connection.is_autocommit() {
            self.statement("RELEASE job")?;
        }
        result
    }

    /// Whether a job's error ends the whole transaction, and how.
    fn poisons(&self, error: &DatabaseError, batch: &Batch) -> Option<Failure> {
        if self.connection.is_autocommit() || is_damage(error) || is_io(error) {
            return Some(self.judge(error.clone(), batch));
        }
        None
    }

    /// A batch in which no machine has moved and the disk was merely full may be tried again.
    fn judge(&self, error: DatabaseError, batch: &Batch) -> Failure {
        match error {
            DatabaseError::Full if !batch.stepped => Failure::Batch(error),
            error => Failure::Fatal(error),
        }
    }

    fn tick(&mut self, busy: bool) -> Result<(), DatabaseError> {
        let running = self.clock.running();
        if running.saturating_sub(self.ticked) < if busy { BUSY_TICK } else { IDLE_TICK } {
            return Ok(());
        }
        self.ticked = running;
        set_meta(&self.connection, "running_millis", self.clock.running_millis())?;
        Ok(())
    }

    fn statement(&self, sql: &str) -> Result<(), DatabaseError> {
        self.connection.prepare_cached(sql)?.execute([])?;
        Ok(())
    }

    /// Takes the messages that wait, without running them.
    fn refuse(&mut self, first: Option<Message>, batch: &mut Batch, reason: &str) {
        let mut next = first;
        while let Some(message) = next.take() {
            match message {
                Message::Job(job, _) => {
                    batch.jobs.push((job, Err(DatabaseError::Stopped(reason.into()))));
                }
                Message::Install(_, answer) => batch.installed.push(answer),
                Message::Input(..) => {}
                Message::Close(answer) => {
                    batch.closing = Some(answer);
                    return;
                }
            }
            next = self.next_waiting();
        }
    }

    fn stop(&mut self, cause: &DatabaseError) -> DatabaseError {
        let reason: Arc<str> = cause.to_string().into();
        error!(error = %reason, "the store takes no more writes");
        if is_damage(cause) {
            // The next start sets the database aside. If even this fails, its integrity check decides.
            let _ = std::fs::write(&self.suspect, reason.as_bytes());
        }
        // Its memory may be ahead of the disk.
        self.resident = None;
        self.stopped.send_replace(Some(reason.clone()));
        DatabaseError::Stopped(reason)
    }

    fn close(&mut self) {
        if self.stopped.borrow().is_some() {
            return;
        }
        let closed = set_meta(&self.connection, "running_millis", self.clock.running_millis())
            .and_then(|()| set_meta(&self.connection, "clean", 1))
            .and_then(|()| self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())));
        if let Err(error) = closed {
            error!(%error, "the database was not closed cleanly: the next start checks it");
        }
    }
}

/// Tells everybody if the thread dies of a panic.
struct StopOnPanic(watch::Sender<Stopped>);

impl Drop for StopOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.send_replace(Some("the writer failed unexpectedly".into()));
        }
    }
}

fn is_damage(error: &DatabaseError) -> bool {
    match error {
        DatabaseError::Damaged(_) => true,
        DatabaseError::Sql(error) => {
            matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
        }
        DatabaseError::Full | DatabaseError::Stopped(_) => false,
    }
}

fn is_io(error: &DatabaseError) -> bool {
    match error {
        DatabaseError::Sql(error) => matches!(
            error.sqlite_error_code(),
            Some(ErrorCode::SystemIoFailure | ErrorCode::CannotOpen | ErrorCode::ReadOnly)
        ),
        _ => false,
    }
}
