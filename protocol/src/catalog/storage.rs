//! What the catalog and the council keep durably, as one transaction sees it.
//!
//! A state machine is handed a [`Storage`] for the length of one step. The driver commits before
//! it lets anything the step produced leave the process, and throws the machine away if the
//! commit fails. SQLite implements it in the node, ordered maps with a crash model in simulation.

use minicbor::{Decode, Encode};

use super::seen::{Seen, SeenSet};
use crate::name::Name;
use crate::version::{Dot, Origin, Version};

/// A version that nothing known supersedes.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Survivor {
    /// The version.
    #[n(0)]
    pub version: Version,
    /// Whether others may know it. A `fast` version is shown by its receiver only until a majority
    /// of the owners has each of its chunks.
    #[n(1)]
    pub published: bool,
}

/// What stays of a superseded version, or of a dot whose upload failed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Stub {
    /// The version's dot.
    #[n(0)]
    pub dot: Dot,
    /// The name it wrote; absent for a closed dot.
    #[n(1)]
    pub name: Option<Name>,
    /// The version that supersedes it; absent for a closed dot.
    #[n(2)]
    pub by: Option<Dot>,
}

/// Small records that only the machines interpret, grouped so that each group is one ordered map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Table {
    /// Singletons of the catalog, such as the reserved block of dots and the mark.
    Catalog = 0,
    /// Singletons of the council: roster, acceptor state, database id, floor.
    Council = 1,
    /// Dots reserved by uploads that are under way, by dot.
    Open = 2,
    /// Standing reservations of names, by name.
    Reservation = 3,
    /// Recorded votes, by attempt.
    Vote = 4,
    /// The greatest mark remembered of each member.
    Mark = 5,
    /// What each member has announced as seen.
    Announced = 6,
    /// Confirmations collected for the present roster, by member.
    Confirmation = 7,
}

/// The disk or the database failed; nothing of the step may be acknowledged.
#[derive(Debug, thiserror::Error)]
#[error("catalog storage: {0}")]
pub struct StorageError(pub String);

/// Shorthand for what every method returns.
pub type Result<T, E = StorageError> = std::result::Result<T, E>;

/// One transaction on a node's catalog. Reads see the transaction's own writes.
pub trait Storage {
    /// The survivors of `name`, by dot.
    fn survivors(&self, name: &Name) -> Result<Vec<Survivor>>;
    /// The survivor with this dot.
    fn survivor(&self, dot: &Dot) -> Result<Option<Survivor>>;
    /// Inserts a survivor or replaces the one with its dot.
    fn put_survivor(&mut self, survivor: &Survivor) -> Result<()>;
    /// Removes the survivor with this dot, if there is one.
    fn remove_survivor(&mut self, dot: &Dot) -> Result<()>;
    /// Survivors that are not published, by dot, after `after`, at most `limit`.
    fn unpublished(&self, after: Option<&Dot>, limit: usize) -> Result<Vec<Survivor>>;

    /// The stubs of `name`, by dot.
    fn stubs(&self, name: &Name) -> Result<Vec<Stub>>;
    /// The stub of this dot.
    fn stub(&self, dot: &Dot) -> Result<Option<Stub>>;
    /// Inserts a stub or replaces the one with its dot.
    fn put_stub(&mut self, stub: &Stub) -> Result<()>;
    /// Removes the stub of this dot, if there is one.
    fn remove_stub(&mut self, dot: &Dot) -> Result<()>;
    /// All stubs, by dot, after `after`, at most `limit`.
    fn stubs_after(&self, after: Option<&Dot>, limit: usize) -> Result<Vec<Stub>>;

    /// Names, in order, after `after`, at most `limit`, that have a survivor or a stub.
    fn names(&self, after: Option<&Name>, limit: usize) -> Result<Vec<Name>>;
    /// Names, in order, after `after`, at most `limit`, that have a survivor (published or not) or
    /// a stub whose dot is not in `theirs`.
    fn names_unseen_by(&self, theirs: &Seen, after: Option<&Name>, limit: usize) -> Result<Vec<Name>>;
    /// Closed dots (stubs without a name), in order, after `after`, at most `limit`, not in `theirs`.
    fn closed_unseen_by(&self, theirs: &Seen, after: Option<&Dot>, limit: usize) -> Result<Vec<Dot>>;

    /// All of what is seen. Costs a read of everything: machines keep a copy.
    fn seen(&self) -> Result<Seen>;
    /// Replaces what is seen of one origin.
    fn put_seen(&mut self, origin: &Origin, set: &SeenSet) -> Result<()>;

    /// A small record.
    fn record(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>>;
    /// Writes a small record, or removes it with `None`.
    fn put_record(&mut self, table: Table, key: &[u8], value: Option<&[u8]>) -> Result<()>;
    /// All records of a table in the order of their keys.
    fn records(&self, table: Table) -> Result<Vec<(Vec<u8>, Vec<u8>)>>;
}

/// Published survivors of a name.
pub(super) fn published(storage: &dyn Storage, name: &Name) -> Result<Vec<Version>> {
    let survivors = storage.survivors(name)?;
    Ok(survivors.into_iter().filter(|s| s.published).map(|s| s.version).collect())
}
