//! What a council writes down, under which keys, and the mark that counts its transactions.
//!
//! The mark grows in every transaction in which anything was written, once.

use minicbor::{Decode, Encode};

use super::Council;
use crate::catalog::seen::Seen;
use crate::catalog::storage::{Result, Storage, StorageError, Table};
use crate::identity::DatabaseId;

/// The floor of a roster this node has wholly seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(super) struct CaughtUp {
    #[n(0)]
    pub(super) number: u64,
    #[n(1)]
    pub(super) database: DatabaseId,
}

/// What this node had seen when it adopted a roster.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub(super) struct Confirmation {
    #[n(0)]
    pub(super) number: u64,
    #[n(1)]
    pub(super) database: DatabaseId,
    #[n(2)]
    pub(super) seen: Seen,
}

/// The floor of the roster held.
#[derive(Clone, Debug, Encode, Decode)]
#[cbor(map)]
pub(super) struct KnownFloor {
    #[n(0)]
    pub(super) number: u64,
    #[n(1)]
    pub(super) seen: Seen,
}

pub(super) const DATABASE: &[u8] = b"database";
pub(super) const DECIDED: &[u8] = b"decided";
pub(super) const ACCEPTOR: &[u8] = b"acceptor";
pub(super) const FLOOR: &[u8] = b"floor";
pub(super) const CONFIRMATION: &[u8] = b"confirmation";
pub(super) const CAUGHT_UP: &[u8] = b"caught-up";
pub(super) const MARK: &[u8] = b"mark";

pub(super) fn load<T: for<'b> Decode<'b, ()>>(
    storage: &dyn Storage,
    key: &'static [u8],
) -> Result<Option<T>> {
    let Some(bytes) = storage.record(Table::Council, key)? else { return Ok(None) };
    let damaged = |_| StorageError(format!("the council's record {} is damaged", key.escape_ascii()));
    minicbor::decode(&bytes).map(Some).map_err(damaged)
}

impl Council {
    pub(super) fn put<T: Encode<()>>(
        &mut self,
        storage: &mut dyn Storage,
        key: &[u8],
        value: Option<&T>,
    ) -> Result<()> {
        self.marked = true;
        let bytes = value.map(|v| minicbor::to_vec(v).expect("writing to a Vec cannot fail"));
        storage.put_record(Table::Council, key, bytes.as_deref())
    }

    pub(super) fn commit_mark(&mut self, storage: &mut dyn Storage) -> Result<()> {
        if std::mem::take(&mut self.marked) {
            self.mark += 1;
            let bytes = minicbor::to_vec(self.mark).expect("writing to a Vec cannot fail");
            storage.put_record(Table::Council, MARK, Some(&bytes))?;
        }
        Ok(())
    }
}
