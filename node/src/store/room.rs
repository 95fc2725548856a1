//! What a full disk leaves: a little room that is kept for the machine on the writer's thread.
//!
//! When a transaction does not fit on the disk any more, the machine has moved on and its part must be
//! written all the same. For that a file of [`BALLAST_BYTES`] is given up; writes are then refused until
//! there is room for it again.

use std::cell::{Cell, RefCell};
use std::fs::{self, OpenOptions};
use std::io;
use std::path::PathBuf;

use rusqlite::types::{ToSqlOutput, Value};
use rusqlite::{Connection, ToSql};
use rustix::fs::{FallocateFlags, fallocate, statvfs};

use super::error::DatabaseError;
use super::layout::Layout;

/// More than one transaction writes.
const BALLAST_BYTES: u64 = 16 << 20;

/// How much room the database has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Room {
    /// Enough.
    #[default]
    Enough,
    /// The ballast was given up: what is under way ends, and nothing new is to be begun.
    Low,
    /// Nothing can be written: the machine waits.
    Nothing,
}

/// The file that is given up.
pub(crate) struct Ballast {
    path: PathBuf,
    root: PathBuf,
}

impl Ballast {
    /// Makes sure that it is there, if there is room for it.
    pub(crate) fn new(layout: &Layout) -> Self {
        let ballast = Self { path: layout.root().join("ballast"), root: layout.root().to_owned() };
        ballast.restore();
        ballast
    }

    /// Gives the room back to the disk.
    pub(crate) fn give_up(&self) {
        let _ = fs::remove_file(&self.path);
    }

    /// Takes the room again; says whether it has it.
    pub(crate) fn restore(&self) -> bool {
        if fs::metadata(&self.path).is_ok_and(|found| found.len() >= BALLAST_BYTES) {
            return true;
        }
        let room = statvfs(&self.root).map_or(0, |disk| disk.f_bavail.saturating_mul(disk.f_frsize));
        if room < 2 * BALLAST_BYTES {
            return false;
        }
        let taken =
            OpenOptions::new().write(true).create(true).truncate(false).open(&self.path).and_then(|file| {
                match fallocate(&file, FallocateFlags::empty(), 0, BALLAST_BYTES) {
                    // A disk that keeps no room for a file has none to give up.
                    Err(rustix::io::Errno::OPNOTSUPP) => file.set_len(BALLAST_BYTES),
                    other => other.map_err(io::Error::from),
                }
            });
        if taken.is_err() {
            self.give_up();
        }
        taken.is_ok()
    }
}

/// What the machine wrote in the present transaction, so that it can be written again.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    changed: Cell<bool>,
    statements: RefCell<Vec<(&'static str, Vec<Value>)>>,
}

impl Journal {
    /// Whether anything was written.
    pub(crate) fn changed(&self) -> bool {
        self.changed.get()
    }

    /// Runs a statement and remembers it.
    pub(crate) fn run(
        &self,
        db: &Connection,
        sql: &'static str,
        params: &[&dyn ToSql],
    ) -> Result<(), DatabaseError> {
        self.changed.set(true);
        db.prepare_cached(sql)?.execute(params)?;
        let values: rusqlite::Result<Vec<Value>> = params.iter().map(|param| value_of(*param)).collect();
        self.statements.borrow_mut().push((sql, values?));
        Ok(())
    }

    /// Runs everything again.
    pub(crate) fn replay(&self, db: &Connection) -> Result<(), DatabaseError> {
        for (sql, values) in self.statements.borrow().iter() {
            db.prepare_cached(sql)?.execute(rusqlite::params_from_iter(values))?;
        }
        Ok(())
    }
}

fn value_of(param: &dyn ToSql) -> rusqlite::Result<Value> {
    match param.to_sql()? {
        ToSqlOutput::Owned(value) => Ok(value),
        ToSqlOutput::Borrowed(value) => {
            Value::try_from(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
        }
        _ => Err(rusqlite::Error::InvalidQuery),
    }
}
