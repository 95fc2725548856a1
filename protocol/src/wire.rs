//! What crosses a wire: sealed datagrams and the messages in them, with their limits.
//!
//! Every parser here takes bytes from anybody: it never panics, never allocates by a declared
//! size, and refuses what is longer than its stated bound. Unknown fields are ignored.

/// The greatest request between members and the greatest answer, of whatever service, in bytes: a
/// roster of 4,096 members with a floor of 100,000 origins, a table of 10,000 members.
pub const MAX_CALL_BYTES: usize = 4 << 20;

pub mod gossip;
pub mod load;
pub mod operations;
pub mod seal;
