//! Simulations and cluster tests of KeplerFS.

pub mod membership;
