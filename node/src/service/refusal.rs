//! What went wrong below, in the words of the services.

use kepler_protocol::catalog::command::{Outcome, Refusal};

use super::{ReadError, WriteError};
use crate::replication::catalog::CommandError;
use crate::replication::chunks::{PlaceError, Unavailable};
use crate::store::DatabaseError;

/// Why the catalog did not do what a write asked.
pub(super) fn refused(outcome: Outcome, name: &impl ToString) -> WriteError {
    match outcome {
        Outcome::Refused(Refusal::NotReady(reason)) => WriteError::NotReady(reason),
        Outcome::Refused(Refusal::NoQuorum { answered, needed }) => WriteError::NoQuorum { answered, needed },
        Outcome::Refused(Refusal::PreconditionFailed { head }) => WriteError::PreconditionFailed { head },
        Outcome::Refused(Refusal::Unknown { dot, answered, needed }) => {
            WriteError::Unknown { version: dot, answered, needed }
        }
        Outcome::Refused(Refusal::NotFound) => WriteError::NotFound(name.to_string()),
        Outcome::Refused(Refusal::TooManyConflicts) => WriteError::TooManyConflicts(name.to_string()),
        Outcome::Refused(Refusal::NotBegun) => {
            WriteError::NotReady("it restarted its catalog while the write was under way".to_owned())
        }
        outcome @ (Outcome::Begun { .. }
        | Outcome::Published { .. }
        | Outcome::Read { .. }
        | Outcome::Done) => WriteError::Store(anyhow::anyhow!("the catalog answered {outcome:?}")),
    }
}

impl From<crate::store::WriteError> for WriteError {
    fn from(error: crate::store::WriteError) -> Self {
        match error {
            crate::store::WriteError::DiskFull { free, reserve } => Self::DiskFull { free, reserve },
            crate::store::WriteError::Database(error) => error.into(),
            other => Self::Store(other.into()),
        }
    }
}

impl From<DatabaseError> for WriteError {
    fn from(error: DatabaseError) -> Self {
        match error {
            DatabaseError::Full => Self::DiskFull { free: 0, reserve: 0 },
            other => Self::Store(other.into()),
        }
    }
}

impl From<PlaceError> for WriteError {
    fn from(error: PlaceError) -> Self {
        match error {
            PlaceError::NotReady(reason) => Self::NotReady(reason),
            PlaceError::NoQuorum { answered, needed } => Self::NoQuorum { answered, needed },
            PlaceError::Store(error) => error.into(),
            PlaceError::Transfer(error) => Self::Store(error.into()),
            PlaceError::Fetch(unavailable) => Self::Read(unavailable.into()),
        }
    }
}

impl From<Unavailable> for ReadError {
    fn from(unavailable: Unavailable) -> Self {
        Self::ChunkUnavailable(unavailable.id)
    }
}

impl From<CommandError> for WriteError {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::Full => Self::DiskFull { free: 0, reserve: 0 },
            CommandError::Busy | CommandError::Stopped | CommandError::Lost => {
                Self::NotReady(error.to_string())
            }
        }
    }
}

impl From<CommandError> for ReadError {
    fn from(error: CommandError) -> Self {
        Self::NotReady(error.to_string())
    }
}
