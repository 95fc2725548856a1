//! Dots of this node: reserved durably in blocks, recorded while open, closed after a start.
//!
//! What an earlier process left open is closed only once the database is known to be the latest:
//! an older copy takes for open what was published since, and to close that would deny it.

use super::Config;
use super::merge::Knowledge;
use super::storage::{Result, Storage, StorageError, Table};
use crate::identity::DatabaseId;
use crate::version::{Dot, Origin};

/// How many sequence numbers one durable record reserves.
const BLOCK: u64 = 256;

const BLOCK_KEY: &[u8] = b"dots";

/// The log of this node's writes.
#[derive(Debug)]
pub(super) struct Dots {
    origin: Origin,
    /// The last sequence number given out.
    last: u64,
    /// The last one that is reserved on disk.
    reserved: u64,
    /// Left open by earlier processes.
    left: Vec<Dot>,
}

pub(super) fn key_of(dot: &Dot) -> Vec<u8> {
    minicbor::to_vec(dot).expect("writing to memory cannot fail")
}

pub(super) fn parse<'b, T: minicbor::Decode<'b, ()>>(bytes: &'b [u8]) -> Result<T> {
    minicbor::decode(bytes).map_err(|e| StorageError(format!("unreadable record: {e}")))
}

impl Dots {
    /// Finds what was left open, and begins a log of this generation.
    pub fn open(config: &Config, storage: &mut dyn Storage, generation: u64) -> Result<Self> {
        let records = storage.records(Table::Open)?;
        let left = records.iter().map(|(key, _)| parse(key)).collect::<Result<_>>()?;
        let generation = if config.faults.reuse_dots { 1 } else { generation };
        let (before, reserved) = match storage.record(Table::Catalog, BLOCK_KEY)? {
            Some(record) => parse::<(u64, u64)>(&record)?,
            None => (generation, 0),
        };
        // A log goes on only where its own record says how far it came.
        let last = if before == generation { reserved } else { 0 };
        Ok(Self { origin: Origin { node: config.node, generation }, last, reserved: last, left })
    }

    /// The database is the latest: what was left open was never published.
    pub fn close_left(&mut self, storage: &mut dyn Storage, knowledge: &mut Knowledge) -> Result<()> {
        for dot in std::mem::take(&mut self.left) {
            knowledge.close(storage, dot)?;
            forget_open(storage, &dot)?;
        }
        Ok(())
    }

    /// The database was found to be behind, and has another id: others know better what became of what
    /// it left open, and its log begins anew.
    pub fn replaced(
        &mut self,
        config: &Config,
        storage: &mut dyn Storage,
        database: &DatabaseId,
    ) -> Result<()> {
        if !config.faults.reuse_dots {
            let generation = database.generation(self.origin.generation);
            *self = Self { left: std::mem::take(&mut self.left), ..Self::open(config, storage, generation)? };
        }
        std::mem::take(&mut self.left).iter().try_for_each(|dot| forget_open(storage, dot))
    }

    /// The next dot, not yet recorded as open.
    pub fn next(&mut self, storage: &mut dyn Storage) -> Result<Dot> {
        if self.last == self.reserved {
            let block = (self.origin.generation, self.reserved + BLOCK);
            let record = minicbor::to_vec(block).expect("writing to memory cannot fail");
            storage.put_record(Table::Catalog, BLOCK_KEY, Some(&record))?;
            self.reserved += BLOCK;
        }
        self.last += 1;
        Ok(Dot { origin: self.origin, sequence: self.last })
    }
}

/// Records that an upload has this dot.
pub(super) fn record_open(storage: &mut dyn Storage, dot: &Dot) -> Result<()> {
    storage.put_record(Table::Open, &key_of(dot), Some(&[]))
}

/// Forgets that an upload has this dot: it was published, kept as `fast`, or closed.
pub(super) fn forget_open(storage: &mut dyn Storage, dot: &Dot) -> Result<()> {
    storage.put_record(Table::Open, &key_of(dot), None)
}
