//! Tests on real processes: black box, over HTTP, by signals and by looking at the disks.
//!
//! Each prints its counts. `FULL=1` runs the full numbers of the acceptance list, otherwise a tenth.

mod bad_input;
mod basics;
mod cli;
mod conditional;
mod crashes;
mod crowds;
mod databases;
mod deaths;
mod disks;
mod examples;
mod flags;
mod healing;
mod joins;
mod moves;
mod operations;
mod partitions;
mod readme;
mod syncs;
mod vectors;
