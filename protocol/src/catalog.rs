//! The catalog: names to versions.

pub mod command;
#[doc(hidden)]
pub mod conformance;
pub mod seen;
pub mod storage;
