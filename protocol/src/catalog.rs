//! The catalog: names to versions.

pub mod command;
pub mod seen;
pub mod storage;
