//! A cluster under a virtual clock, network and disk, from one seed.
//!
//! | module | owns |
//! | --- | --- |
//! | [`clock_heap`] | virtual time, the events to come, the trace |
//! | [`rng`] | a generator for each part of a run |
//! | [`network`] | what becomes of a message |
//! | [`disk`] | chunk files: durable image and page cache |

pub mod client;
pub mod clock_heap;
pub mod disk;
pub mod faults;
pub mod invariants;
pub mod network;
pub mod node;
pub mod process;
pub mod rng;
pub mod run;
pub mod world;

#[cfg(test)]
mod toy;
