//! `/kepler/transfer/1`: moving chunks. One stream an exchange; both sides are here.
//!
//! ```text
//! push   offer (id, size, dots) ─►   ◄─ have | send | refused     bytes ─►   ◄─ stored | refused
//! adopt  id, dots ─►                 ◄─ have | missing | refused
//! fetch  id ─►                       ◄─ found (size) bytes | missing | refused
//! held   ids ─►                      ◄─ present | refused
//! ```
//!
//! The receiver answers *send* only when it holds one of its slots and has a place for the bytes, so
//! no byte travels in vain and a sender is held back instead of being turned away. Received bytes go
//! to the [`ChunkStore`](super::ChunkStore) in pieces; no chunk is ever whole in the receiver's memory.

mod ask;
pub(super) mod message;
mod serve;

pub(super) use ask::{adopt, fetch, held, push};
pub(super) use message::{How, Offer};
pub use message::{MAX_DOTS, MAX_IDS};
pub(super) use serve::serve;

#[cfg(test)]
pub(super) mod tests;
