//! Everything that tries to break KeplerFS.
//!
//! | module | owns |
//! | --- | --- |
//! | [`cluster`] | real processes, driven over HTTP and by signals (feature `cluster`) |

#[cfg(feature = "cluster")]
pub mod cluster;
