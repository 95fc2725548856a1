//! The gateway over real sockets, on files in memory.

mod bodies;
mod calls;
mod client;
mod connections;
mod fake;
mod operations;
mod problems;
mod security;
