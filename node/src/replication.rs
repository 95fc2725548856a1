//! Copies and names that several nodes keep: everything this node says to others about them.
//!
//! | module | owns |
//! | --- | --- |
//! | [`budget`] | bounds the bytes of chunks that are in memory |
//! | [`catalog`] | carries the replica machine's messages; commands in, outcomes out |
//! | [`chunks`] | places a chunk on its owners and fetches it from wherever it is |
//! | [`electorate`] | the roster as the rest of the node sees it |
//! | [`healer`] | carries out what the replicator decides: repair, hand-off, deletion, scrub, leaving |
//! | [`sender`] | delivers `replication_queue`: copies still owed, at least once, across restarts |

pub mod budget;
pub mod catalog;
pub mod chunks;
pub mod electorate;
pub mod healer;
pub mod sender;
