//! Settings, from flags and environment variables, checked at once.
//!
//! Invariants: a [`Config`] in hand is valid as a whole, off-loopback rules included; it was made
//! by [`Config::parse_from`], which names every fault before it gives up. Secrets are types that
//! cannot be printed. No other module reads the environment. Parts receive their own group, never
//! the whole.

mod args;
mod faults;
mod host;
mod parse;
mod print;
mod reader;
mod secret;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::CommandFactory;
use kepler_protocol::node_id::NodeId;

use self::args::Arguments;
pub use self::faults::{Fault, Faults};
pub use self::host::{Authority, Host, InvalidHost, Seed};
pub use self::secret::{ApiTokens, ClusterKey};
use crate::telemetry::LogFormat;

/// Where a setting came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A flag on the command line; it wins.
    Flag,
    /// An environment variable.
    Environment,
    /// Neither.
    Default,
}

/// Everything that can be set, in types.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who this node is and what it offers.
    pub node: NodeConfig,
    /// Where it listens and whom it joins.
    pub network: NetworkConfig,
    /// How files are cut and kept.
    pub storage: StorageConfig,
    /// Who may talk to it.
    pub security: SecurityConfig,
    /// Periods, graces and delays.
    pub timing: TimingConfig,
    /// What is logged, and how.
    pub logs: LogConfig,
    /// Whether to print the settings ([`Config::describe`]) and exit.
    pub print_config: bool,
    settings: Vec<print::Setting>,
}

/// Who this node is and what it offers.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// `NODE_ID`.
    pub id: NodeId,
    /// `DATA_DIR`; relative to the working folder unless absolute.
    pub data_dir: PathBuf,
    /// `ZONE`.
    pub zone: Option<String>,
    /// `CAPACITY` in bytes; without one the size of the disk counts.
    pub capacity: Option<u64>,
}

/// Where the node listens and whom it joins.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// `BIND_ADDR`.
    pub bind: IpAddr,
    /// `ADVERTISE_ADDR`, or the bound address where that is one address. `None` when bound to all
    /// addresses without saying which: then it is the one that packets to the seeds leave from.
    pub advertise: Option<Host>,
    /// `HTTP_PORT` (TCP); 0 picks a free one.
    pub http_port: u16,
    /// `GOSSIP_PORT` (UDP); 0 picks a free one.
    pub gossip_port: u16,
    /// `TRANSFER_PORT` (TCP); 0 picks a free one.
    pub transfer_port: u16,
    /// `SEEDS`; at most 64.
    pub seeds: Vec<Seed>,
}

/// How files are cut and kept.
#[derive(Clone, Debug)]
pub struct StorageConfig {
    /// `REPLICATION_FACTOR`, 1 to 32.
    pub replication_factor: u8,
    /// `CHUNK_SIZE_MB` in bytes: 1 to 64 MiB.
    pub chunk_size: usize,
    /// `REBALANCE_BANDWIDTH_MBPS` in bytes a second.
    pub background_bytes_per_second: u64,
    /// `MIN_FREE_MB` in bytes.
    pub min_free: u64,
}

/// Who may talk to the node.
#[derive(Clone, Debug)]
pub struct SecurityConfig {
    /// `CLUSTER_KEY`: the first sends, all are accepted; none only on loopback.
    pub cluster_keys: Vec<ClusterKey>,
    /// `API_TOKEN`: each is accepted.
    pub api_tokens: ApiTokens,
    /// `ANONYMOUS`.
    pub anonymous: Anonymous,
    /// `CLUSTER_KEY_FILE` and `API_TOKEN_FILE`, where they are given: read again when they change.
    pub files: Vec<PathBuf>,
}

/// What HTTP clients without a token may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Anonymous {
    /// Nothing where a token is set; everything where none is, which is allowed on loopback only.
    #[default]
    None,
    /// Read.
    Read,
}

/// Periods, graces and delays, by the variables of the same names.
#[derive(Clone, Debug)]
pub struct TimingConfig {
    /// `SWIM_PERIOD_MS`, 10 ms to 60 s.
    pub swim_period: Duration,
    /// `ACK_GRACE_MS`, up to 60 s.
    pub ack_grace: Duration,
    /// `REPAIR_DELAY_SECS`.
    pub repair_delay: Duration,
    /// `HANDOFF_GRACE_SECS`.
    pub handoff_grace: Duration,
    /// `GC_GRACE_SECS`.
    pub gc_grace: Duration,
    /// `FORGET_AFTER_SECS`, at least 1 s.
    pub forget_after: Duration,
    /// `SCRUB_INTERVAL_SECS`, at least 1 s.
    pub scrub_interval: Duration,
    /// `INVENTORY_INTERVAL_SECS`, at least 1 s.
    pub inventory_interval: Duration,
}

/// What is logged, and how.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// `LOG_FORMAT`.
    pub format: LogFormat,
    /// `LOG_LEVEL`: a level or a filter of directives.
    pub filter: String,
}

impl Config {
    /// Reads this process's arguments and environment.
    ///
    /// # Errors
    /// As [`Config::parse_from`].
    pub fn parse() -> Result<Self, Faults> {
        Self::parse_from(std::env::args_os(), std::env::vars_os())
    }

    /// Reads arguments (the first is the program's name) and environment variables. A flag wins
    /// over its variable; a variable that is set but empty counts as not set.
    ///
    /// # Errors
    /// [`Faults`] with every fault there is.
    pub fn parse_from<A, E, K, V>(args: A, env: E) -> Result<Self, Faults>
    where
        A: IntoIterator,
        A::Item: Into<OsString> + Clone,
        E: IntoIterator<Item = (K, V)>,
        K: Into<OsString>,
        V: Into<OsString>,
    {
        let env: BTreeMap<OsString, OsString> = env.into_iter().map(|(k, v)| (k.into(), v.into())).collect();
        let mut reader = reader::Reader::default();
        let arguments = reader.gather(args.into_iter().map(Into::into).collect(), &env)?;
        let config = reader.config(arguments);
        if reader.faults.is_empty() { Ok(config) } else { Err(Faults::Settings(reader.faults)) }
    }

    /// The command line's definition, for completions and help pages.
    pub fn command() -> clap::Command {
        Arguments::command()
    }

    /// Every setting with its value and source, one a line, secrets hidden.
    pub fn describe(&self) -> String {
        print::describe(&self.settings)
    }
}
