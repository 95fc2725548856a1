//! What crosses a wire: sealed datagrams and the messages in them, with their limits.
//!
//! Every parser here takes bytes from anybody: it never panics, never allocates by a declared
//! size, and refuses what is longer than its stated bound. Unknown fields are ignored.

pub mod gossip;
pub mod load;
pub mod operations;
pub mod seal;
