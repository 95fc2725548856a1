//! Tests of the catalog: merging by itself, exchange, and small clusters in an event loop.

mod cluster;
mod exchange;
mod faults;
mod merging;
mod net;
mod wire;
