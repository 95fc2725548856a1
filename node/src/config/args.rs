//! The settings as people write them: flags and environment variables, all still text.
//!
//! The doc comment of a field is its help text. Nothing is checked here: [`super::Config`] turns
//! the texts into types, so that every fault is found at once.

use clap::{ArgAction, Args, Parser};

/// A KeplerFS node: HTTP gateway, gossip member and chunk store in one process.
#[derive(Parser, Clone, Debug)]
#[command(name = "kepler-node", version, max_term_width = 100)]
pub struct Arguments {
    #[command(flatten)]
    pub node: NodeArgs,
    #[command(flatten)]
    pub network: NetworkArgs,
    #[command(flatten)]
    pub storage: StorageArgs,
    #[command(flatten)]
    pub security: SecurityArgs,
    #[command(flatten)]
    pub timing: TimingArgs,
    #[command(flatten)]
    pub logs: LogArgs,

    /// Print every setting with its source (flag, environment, default), secrets hidden, and exit.
    #[arg(long, action = ArgAction::SetTrue)]
    pub print_config: bool,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Node")]
pub struct NodeArgs {
    /// Name of this node, unique in the cluster: 1 to 63 of a-z 0-9 . _ - (required).
    #[arg(long, env = "NODE_ID", hide_env_values = true)]
    pub node_id: Option<String>,

    /// Where everything is kept; a second process on it is refused [default: kepler-data/NODE_ID].
    #[arg(long, env = "DATA_DIR", hide_env_values = true)]
    pub data_dir: Option<String>,

    /// Failure zone; replicas go to different zones where they can.
    #[arg(long, env = "ZONE", hide_env_values = true)]
    pub zone: Option<String>,

    /// Bytes this node offers, such as 500GB or 2TiB; decides its share [default: size of the disk].
    #[arg(long, env = "CAPACITY", hide_env_values = true)]
    pub capacity: Option<String>,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Network")]
pub struct NetworkArgs {
    /// TCP port of the HTTP API; 0 picks a free one.
    #[arg(long, env = "HTTP_PORT", hide_env_values = true, default_value = "3000")]
    pub http_port: String,

    /// UDP port to gossip on; 0 picks a free one.
    #[arg(long, env = "GOSSIP_PORT", hide_env_values = true, default_value = "4000")]
    pub gossip_port: String,

    /// TCP port for chunks and versions between members; 0 picks a free one.
    #[arg(long, env = "TRANSFER_PORT", hide_env_values = true, default_value = "5000")]
    pub transfer_port: String,

    /// Members to join through, as host:gossip_port, comma separated; none founds a cluster.
    #[arg(long, env = "SEEDS", hide_env_values = true)]
    pub seeds: Option<String>,

    /// IP address that all three ports listen on; off loopback a cluster key is required, and an API
    /// token unless ANONYMOUS is read.
    #[arg(long, env = "BIND_ADDR", hide_env_values = true, default_value = "127.0.0.1")]
    pub bind_addr: String,

    /// IP address or host name that others reach this node by [default: derived from BIND_ADDR].
    #[arg(long, env = "ADVERTISE_ADDR", hide_env_values = true)]
    pub advertise_addr: Option<String>,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Storage")]
pub struct StorageArgs {
    /// Copies of each chunk and name; a constant of the cluster, set by its founder.
    #[arg(long, env = "REPLICATION_FACTOR", hide_env_values = true, default_value = "3")]
    pub replication_factor: String,

    /// Size of a chunk in MiB, 1 to 64.
    #[arg(long, env = "CHUNK_SIZE_MB", hide_env_values = true, default_value = "4")]
    pub chunk_size_mb: String,

    /// Cap of all background traffic, in MB/s.
    #[arg(long, env = "REBALANCE_BANDWIDTH_MBPS", hide_env_values = true, default_value = "50")]
    pub rebalance_bandwidth_mbps: String,

    /// MiB of the disk kept free; writes that would go below are refused.
    #[arg(long, env = "MIN_FREE_MB", hide_env_values = true, default_value = "1024")]
    pub min_free_mb: String,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Security")]
pub struct SecurityArgs {
    /// Cluster keys, 64 hex digits each, comma separated; the first sends, all are accepted.
    #[arg(long, env = "CLUSTER_KEY", hide_env_values = true)]
    pub cluster_key: Option<String>,

    /// File of cluster keys, mode 0600; instead of CLUSTER_KEY.
    #[arg(long, env = "CLUSTER_KEY_FILE", hide_env_values = true)]
    pub cluster_key_file: Option<String>,

    /// Token that HTTP clients must send, 16 to 256 visible ASCII characters; several with commas.
    #[arg(long, env = "API_TOKEN", hide_env_values = true)]
    pub api_token: Option<String>,

    /// File of API tokens, mode 0600; instead of API_TOKEN.
    #[arg(long, env = "API_TOKEN_FILE", hide_env_values = true)]
    pub api_token_file: Option<String>,

    /// What clients without a token may do: none, or read.
    #[arg(long, env = "ANONYMOUS", hide_env_values = true, default_value = "none")]
    pub anonymous: String,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Timing")]
pub struct TimingArgs {
    /// Milliseconds between probes of the membership protocol.
    #[arg(long, env = "SWIM_PERIOD_MS", hide_env_values = true, default_value = "500")]
    pub swim_period_ms: String,

    /// Milliseconds a write waits for stragglers once a majority has it.
    #[arg(long, env = "ACK_GRACE_MS", hide_env_values = true, default_value = "500")]
    pub ack_grace_ms: String,

    /// Seconds after a death before its chunks are copied again.
    #[arg(long, env = "REPAIR_DELAY_SECS", hide_env_values = true, default_value = "30")]
    pub repair_delay_secs: String,

    /// Seconds a surplus copy is kept after its owners have theirs.
    #[arg(long, env = "HANDOFF_GRACE_SECS", hide_env_values = true, default_value = "600")]
    pub handoff_grace_secs: String,

    /// Seconds a chunk that nothing refers to is kept.
    #[arg(long, env = "GC_GRACE_SECS", hide_env_values = true, default_value = "3600")]
    pub gc_grace_secs: String,

    /// Seconds after which a dead member leaves the roster.
    #[arg(long, env = "FORGET_AFTER_SECS", hide_env_values = true, default_value = "3600")]
    pub forget_after_secs: String,

    /// Seconds in which everything on disk is hashed once.
    #[arg(long, env = "SCRUB_INTERVAL_SECS", hide_env_values = true, default_value = "604800")]
    pub scrub_interval_secs: String,

    /// Seconds between offers of all chunks to their owners.
    #[arg(long, env = "INVENTORY_INTERVAL_SECS", hide_env_values = true, default_value = "600")]
    pub inventory_interval_secs: String,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Logs")]
pub struct LogArgs {
    /// How log lines look: text, or json.
    #[arg(long, env = "LOG_FORMAT", hide_env_values = true, default_value = "text")]
    pub log_format: String,

    /// What is logged: a level (error, warn, info, debug, trace) or a filter such as
    /// info,kepler_node::gateway=debug.
    #[arg(long, env = "LOG_LEVEL", hide_env_values = true, default_value = "info")]
    pub log_level: String,
}
