//! Dots of this node: reserved durably in blocks, recorded while open, closed at the start.

use super::Config;
use super::merge::Knowledge;
use super::storage::{Result, Storage, StorageError, Table};
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
}

pub(super) fn key_of(dot: &Dot) -> Vec<u8> {
    minicbor::to_vec(dot).expect("writing to memory cannot fail")
}

pub(super) fn parse<'b, T: minicbor::Decode<'b, ()>>(bytes: &'b [u8]) -> Result<T> {
    minicbor::decode(bytes).map_err(|e| StorageError(format!("unreadable record: {e}")))
}

impl Dots {
    /// Closes what was left open, and begins a log of this generation.
    pub fn open(
        config: &Config,
        storage: &mut dyn Storage,
        knowledge: &mut Knowledge,
        generation: u64,
    ) -> Result<Self> {
        for (key, _) in storage.records(Table::Open)? {
            knowledge.close(storage, parse(&key)?)?;
            storage.put_record(Table::Open, &key, None)?;
        }
        let generation = if config.faults.reuse_dots { 1 } else { generation };
        let (before, reserved) = match storage.record(Table::Catalog, BLOCK_KEY)? {
            Some(record) => parse::<(u64, u64)>(&record)?,
            None => (generation, 0),
        };
        // A log goes on only where its own record says how far it came.
        let last = if before == generation { reserved } else { 0 };
        Ok(Self { origin: Origin { node: config.node, generation }, last, reserved: last })
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
