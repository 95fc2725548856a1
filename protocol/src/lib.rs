//! The pure part of KeplerFS: everything that decides, and every byte that crosses a wire.
//!
//! Nothing here opens a socket or a file, reads a clock, starts a thread or draws from a global
//! random source. Time, randomness and messages are arguments; what should happen is a return
//! value. The node and the simulator run the same types.
//!
//! The map, from the leaves up:
//!
//! | module | owns |
//! | --- | --- |
//! | [`time`] | monotonic instants that the caller supplies |
//! | [`chunk`], [`chunker`], [`name`], [`node_id`], [`identity`] | bytes and their ids; validated names |
//! | [`manifest`] | the DAG that lists a file's chunks; byte ranges to chunks |
//! | [`version`] | dots, contexts, stamps: who supersedes whom |
//! | [`roster`] | the agreed list of members, and how they agree on the next one |
//! | [`catalog`] | names to versions: merging, exchange, voting |
//! | [`replica`] | council and catalog on one storage: what a node's writer thread runs |
//! | [`ring`], [`view`] | where chunks belong; who is here |
//! | [`placement`] | why a chunk belongs where it belongs, for people |
//! | [`health`] | one word for a cluster, and why |
//! | [`swim`] | who is alive |
//! | [`fetch`] | whom to ask for a chunk, in which order |
//! | [`relocation`] | a file gets another name: when the old one ends |
//! | [`hint`] | where an owed copy goes when owners change |
//! | [`replicator`] | what to send, fetch, vouch for, delete and re-hash, so that copies are where they belong |
//! | [`recent`] | what a node remembers of the last hour, for people |
//! | [`throttle`] | when how many bytes of background traffic may pass |
//! | [`quorum`] | when enough replicas have acknowledged, and whom to try instead |
//! | [`wire`] | frames and sealed datagrams, with their limits |
//! | [`api`] | the JSON shapes of the HTTP API |

pub mod api;
pub mod catalog;
pub mod chunk;
pub mod chunker;
pub mod fetch;
#[doc(hidden)]
pub mod fuzz;
pub mod health;
pub mod hint;
pub mod identity;
pub mod manifest;
pub mod name;
pub mod node_id;
pub mod placement;
pub mod quorum;
pub mod recent;
pub mod relocation;
pub mod replica;
pub mod replicator;
pub mod ring;
pub mod roster;
pub mod swim;
pub mod throttle;
pub mod time;
pub mod version;
pub mod view;
pub mod wire;
