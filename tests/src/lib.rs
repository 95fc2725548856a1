//! Everything that tries to break KeplerFS.
//!
//! | module | owns |
//! | --- | --- |
//! | [`sim`] | a cluster under a virtual clock, network and disk, from one seed |
//! | [`membership`] | membership alone, at sizes that the whole cluster is not simulated at |
//! | [`history`] | what clients saw, as lines of JSON, and the checker that judges it |
//! | [`cluster`] | real processes, driven over HTTP and by signals (feature `cluster`) |
//! | [`network`] | namespaces for their nodes, whose links can be cut (feature `cluster`) |
//!
//! Without the feature `cluster` this crate needs `kepler-protocol` alone and builds in seconds.

#[cfg(feature = "cluster")]
pub mod cluster;
pub mod history;
pub mod membership;
#[cfg(feature = "cluster")]
pub mod network;
pub mod sim;
