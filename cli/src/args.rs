//! Flags and help texts.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use kepler_protocol::api;
use kepler_protocol::name::Name;

/// Store files on a few unreliable machines, without a leader.
#[derive(Parser, Debug)]
#[command(name = "kepler", version, arg_required_else_help = true, after_help = EXAMPLES)]
pub struct Args {
    /// The node to talk to.
    #[arg(long, env = "KEPLER_URL", default_value = "http://127.0.0.1:3000", global = true)]
    pub node: String,

    /// The API token, if the node asks for one.
    #[arg(long, env = "KEPLER_TOKEN", hide_env_values = true, global = true)]
    pub token: Option<String>,

    /// Print JSON for scripts.
    #[arg(long, global = true)]
    pub json: bool,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "Examples:
  kepler dev --nodes 3                     start a cluster on this machine
  export KEPLER_URL=http://127.0.0.1:3001
  kepler put photo.jpg photos/photo.jpg    store a file
  kepler get photos/photo.jpg              fetch it, verified chunk by chunk
  tar c . | kepler put - backup.tar        store what a pipe gives
  kepler ls -r photos                      list names

Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 precondition failed, 5 unavailable";

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Store files.
    ///
    /// With one FILE, NAME is its name; with several, or with -r, NAME is a folder.
    #[command(after_help = "Examples:
  kepler put a.txt docs/a.txt
  kepler put *.jpg photos
  kepler put -r ./site www
  pg_dump db | kepler put - dumps/db.sql --durability all")]
    Put(Put),
    /// Fetch a file, verify every chunk against its CID, and resume where a broken fetch ended.
    #[command(after_help = "Examples:
  kepler get docs/a.txt                into ./a.txt
  kepler get docs/a.txt -              to standard output
  kepler get -r photos ./backup        a whole folder")]
    Get(Get),
    /// Print files to standard output.
    Cat {
        /// The files.
        #[arg(required = true)]
        names: Vec<Name>,
    },
    /// List names.
    Ls {
        /// Only names in this folder.
        prefix: Option<String>,
        /// Go into folders.
        #[arg(short, long)]
        recursive: bool,
        /// Sizes, times and types too.
        #[arg(short, long)]
        long: bool,
    },
    /// Delete files.
    Rm {
        /// The files, or with -r the folders.
        #[arg(required = true)]
        names: Vec<String>,
        /// Delete everything in the folders.
        #[arg(short, long)]
        recursive: bool,
        /// Delete only this version, such as a conflict.
        #[arg(long)]
        version: Option<String>,
        /// What must be reached before the answer.
        #[arg(long, value_enum, default_value_t)]
        durability: Durability,
    },
    /// Show everything known of a file.
    Stat {
        /// The file.
        name: Name,
    },
    /// Copy a file; no bytes move.
    Cp(Copy),
    /// Move a file; no bytes move.
    Mv(Copy),
    /// Look at the cluster.
    #[command(subcommand)]
    Cluster(Cluster),
    /// Show where a file's chunks belong and who holds them.
    Locate {
        /// The file.
        name: Name,
    },
    /// Follow what happens on the node, until interrupted.
    Events,
    /// Run a node: the `kepler-node` beside this program, else on PATH, with the same flags.
    #[command(disable_help_flag = true)]
    Node {
        /// Flags of kepler-node; see `kepler node --help`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        flags: Vec<String>,
    },
    /// Run a whole cluster on this machine until Ctrl-C.
    Dev(Dev),
    /// Make keys.
    #[command(subcommand)]
    Key(Key),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the version of this program and of the node.
    Version,
}

#[derive(ClapArgs, Debug)]
pub struct Put {
    /// Files to store (`-` is standard input), then the name or folder to store them under.
    #[arg(required = true, num_args = 2.., value_name = "FILE... NAME")]
    pub paths: Vec<String>,
    /// Store folders with everything in them.
    #[arg(short, long)]
    pub recursive: bool,
    /// What must be reached before the answer.
    #[arg(long, value_enum, default_value_t)]
    pub durability: Durability,
    /// Only if the file still is this version.
    #[arg(long, value_name = "VERSION")]
    pub if_match: Option<String>,
    /// Only if there is no such file yet.
    #[arg(long, conflicts_with = "if_match")]
    pub no_clobber: bool,
    /// The MIME type; guessed from the name if not given.
    #[arg(long)]
    pub content_type: Option<String>,
}

#[derive(ClapArgs, Debug)]
pub struct Get {
    /// The file, or with -r the folder.
    pub name: String,
    /// Where to; `-` is standard output. Without it, the last segment of the name.
    pub file: Option<PathBuf>,
    /// Fetch everything in the folder.
    #[arg(short, long)]
    pub recursive: bool,
    /// Fetch this version, such as a conflict.
    #[arg(long)]
    pub version: Option<String>,
    /// Refuse anything but this CID, whatever the node says.
    #[arg(long)]
    pub cid: Option<kepler_protocol::chunk::ChunkId>,
}

#[derive(ClapArgs, Debug)]
pub struct Copy {
    /// From.
    pub from: Name,
    /// To.
    pub to: Name,
    /// What must be reached before the answer.
    #[arg(long, value_enum, default_value_t)]
    pub durability: Durability,
}

#[derive(ClapArgs, Debug)]
pub struct Dev {
    /// How many nodes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=26))]
    pub nodes: u16,
    /// Where they keep their data.
    #[arg(long, default_value = "kepler-data/dev")]
    pub dir: PathBuf,
    /// HTTP port of the first node; gossip is 1,000 and transfer 2,000 above.
    #[arg(long, default_value_t = 3001)]
    pub http_port: u16,
}

#[derive(Subcommand, Debug)]
pub enum Cluster {
    /// One line for each member, and whether this node is ready.
    Status,
    /// Every member with its addresses and load.
    Members,
    /// Each member's share of the ring.
    Ring,
}

#[derive(Subcommand, Debug)]
pub enum Key {
    /// Print a new cluster key: 64 hex digits for CLUSTER_KEY.
    Generate,
}

/// What a write must have reached before it is answered.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum Durability {
    /// Durable on the receiving node; the rest follows.
    Fast,
    /// Durable on a majority of the owners.
    #[default]
    Quorum,
    /// Durable on every owner.
    All,
}

impl From<Durability> for api::Durability {
    fn from(durability: Durability) -> Self {
        match durability {
            Durability::Fast => Self::Fast,
            Durability::Quorum => Self::Quorum,
            Durability::All => Self::All,
        }
    }
}
