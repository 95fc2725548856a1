//! The part of KeplerFS that touches the world: sockets, files, SQLite, clocks, HTTP.
//!
//! It decides as little as it can; decisions are made by the machines of `kepler-protocol`.
//!
//! ```text
//!   gateway ─► service ─► replication ─► store
//!                                   └──► swarm ─► gossip
//! ```
//!
//! | module | owns |
//! | --- | --- |
//! | [`config`] | settings, from flags and environment, checked at once |
//! | [`store`] | the data directory: chunk files, SQLite, the catalog's transactions |
//! | [`gossip`] | the SWIM machine on a UDP socket and a thread of its own |
//! | [`swarm`] | libp2p: TCP, TLS, Yamux, request-response between members |
//! | [`replication`] | chunks to their owners, owed copies, the replica's talk with others |
//! | [`service`] | put, get, list, delete …: the only door for gateways |
//! | [`gateway`] | HTTP |
//! | [`node`] | the composition root |
//! | [`throttle`] | the bound on background traffic |
//! | [`tasks`], [`telemetry`], [`memory`] | tasks, logs and metrics, the allocator |

pub mod config;
pub mod gateway;
pub mod gossip;
pub mod memory;
pub mod node;
pub mod replication;
pub mod service;
pub mod store;
pub mod swarm;
pub mod tasks;
pub mod telemetry;
pub mod throttle;
