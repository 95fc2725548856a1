//! Flags and help texts.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use kepler_protocol::api;
use kepler_protocol::name::Name;
use kepler_protocol::node_id::NodeId;

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

    /// Print JSON for scripts: one document a line, errors too.
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
  kepler health                            how the cluster is, and why

Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 precondition failed, 5 unavailable";

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Store files.
    ///
    /// With one FILE, NAME is its name; with several, or with a / at its end, NAME is a folder. With -r a
    /// folder becomes NAME; several become folders in NAME. Links are followed. The node gives up on
    /// a pipe that is silent for 30 s, or slower than 1 KiB/s beyond a minute of waiting.
    #[command(after_help = "Examples:
  kepler put a.txt docs/a.txt
  kepler put *.jpg photos
  kepler put -r ./site www              site/index.html becomes www/index.html
  kepler put -r ./site www/             site/index.html becomes www/site/index.html
  pg_dump db | kepler put - dumps/db.sql --durability all")]
    Put(Put),
    /// Fetch a file, verify every chunk against its CID, and resume where a broken fetch ended.
    #[command(after_help = "Examples:
  kepler get docs/a.txt                into ./a.txt
  kepler get docs/a.txt -              to standard output
  kepler get -r photos ./backup        a whole folder")]
    Get(Get),
    /// Print files to standard output, each chunk only after it was verified.
    #[command(after_help = "Examples:
  kepler cat notes.txt
  kepler cat part-1 part-2 | tar x")]
    Cat {
        /// The files.
        #[arg(required = true)]
        names: Vec<Name>,
    },
    /// List names, as the node knows them.
    ///
    /// With --json: one page of the listing a line.
    #[command(after_help = "Examples:
  kepler ls                            files and folders at the top
  kepler ls -l photos                  those in photos, with sizes and times
  kepler ls -r --json | jq -r '.files[].name'")]
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
    #[command(after_help = "Examples:
  kepler rm docs/a.txt
  kepler rm -r photos/2019
  kepler rm docs/a.txt --version node-b.8311d712c8213e9a.1     one side of a conflict")]
    Rm {
        /// The files, or with -r the folders.
        #[arg(required = true)]
        names: Vec<String>,
        /// Delete everything in the folders.
        #[arg(short, long)]
        recursive: bool,
        /// Delete only this version, such as a conflict.
        #[arg(long, conflicts_with = "recursive")]
        version: Option<String>,
        /// What must be reached before the answer.
        #[arg(long, value_enum, default_value_t)]
        durability: Durability,
    },
    /// Show everything known of a file: its versions, conflicts among them.
    #[command(after_help = "Example:
  kepler stat docs/a.txt")]
    Stat {
        /// The file.
        name: Name,
    },
    /// Copy a file, or bring an earlier or deleted version back; no bytes move.
    #[command(after_help = "Examples:
  kepler cp docs/a.txt docs/b.txt
  kepler cp docs/a.txt docs/a.txt --version node-a.00f3a1b2c3d4e5f6.12
  kepler cp --cid bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi docs/a.txt")]
    Cp {
        /// What to copy.
        #[command(flatten)]
        copy: Copy,
        /// This surviving version instead of the head.
        #[arg(long)]
        version: Option<String>,
        /// FROM is a CID that a version had: of one that was replaced or deleted, while its chunks are still there.
        #[arg(long, conflicts_with = "version")]
        cid: bool,
        /// With --cid: the MIME type of the copy.
        #[arg(long, value_name = "TYPE", requires = "cid")]
        content_type: Option<String>,
    },
    /// Move a file; no bytes move.
    #[command(after_help = "Example:
  kepler mv docs/a.txt archive/a.txt --durability all")]
    Mv(Copy),
    /// Look at the cluster; leave it, forget a member.
    #[command(subcommand)]
    Cluster(Cluster),
    /// Explain where a file's chunks belong and why, and show who holds them.
    ///
    /// From a chunk's place on the ring the tokens are walked clockwise; the first nodes that are met take
    /// it. Each node on the way is shown, with why it takes the chunk or is passed over.
    #[command(after_help = "Examples:
  kepler locate docs/a.txt
  kepler locate docs/a.txt --if-down node-b     what would move if node-b were away
  kepler locate docs/a.txt --json | jq -c '.[] | [.cid, .owners]'")]
    Locate {
        /// The file.
        name: Name,
        /// Show also where its chunks would belong if this member were down.
        #[arg(long, value_name = "NODE")]
        if_down: Option<NodeId>,
    },
    /// Say how the cluster is: one word first, then why.
    ///
    /// ok: everything is where it belongs. degraded: something is away or behind, nothing is lost by one
    /// more failure. at risk: one more failure may lose data. data unavailable: some data cannot be read, or
    /// some names cannot be written, now.
    ///
    /// Exit codes: 0 ok, 1 degraded or at risk, 5 data unavailable, or no node answers.
    #[command(after_help = "Examples:
  kepler health
  kepler health --json | jq -r .status
  until kepler health > /dev/null; do sleep 1; done")]
    Health,
    /// Hash every copy again, and say what is wrong.
    ///
    /// Without --all: the disk of the node that is asked. With it: every copy on every member, put side by
    /// side, and every file: whether each chunk has all its copies, and each file all its chunks. What is
    /// rotten is set aside and fetched anew, as whenever it is met.
    ///
    /// Exit codes: 0 nothing is wrong, 1 something is, 5 a chunk has no intact copy or the verification
    /// did not come to its end.
    #[command(after_help = "Examples:
  kepler verify
  kepler verify --all
  kepler verify --all --json | jq -c 'select(.type == \"damaged\")'")]
    Verify {
        /// On all members.
        #[arg(short, long)]
        all: bool,
    },
    /// Re-hash the node's disk now instead of when its time comes, or pause that.
    #[command(after_help = "Examples:
  kepler scrub                  begin now; `kepler health` shows how far it is
  kepler scrub --all            on every member
  kepler scrub --pause --all
  kepler scrub --resume --all")]
    Scrub {
        #[command(flatten)]
        steer: Steer,
    },
    /// Look for missing copies now instead of when their time comes, or pause repair; set its cap.
    ///
    /// Repair goes on by itself: this only hurries it. A pause and a cap last until they are changed or the
    /// node is started again. What clients do is never held back by the cap.
    #[command(after_help = "Examples:
  kepler repair                             hurry
  kepler repair --all --bandwidth 200       200 MB/s of background traffic on each member
  kepler repair --pause --all               during a maintenance, say
  kepler repair --resume --all")]
    Repair {
        #[command(flatten)]
        steer: Steer,
        /// Cap on background traffic in MB/s, 0.1 to 1000000 (REBALANCE_BANDWIDTH_MBPS is the cap at start).
        #[arg(short, long, value_name = "MBPS")]
        bandwidth: Option<f64>,
    },
    /// Follow what happens on the node, until interrupted.
    ///
    /// On a terminal a sentence each; in a pipe, or with --json, a JSON document a line.
    #[command(after_help = "Examples:
  kepler events
  kepler events --type member --type health
  kepler events --about node-b
  kepler events --type written | jq -r .name")]
    Events {
        /// Only events of this type, such as member, written, repaired, health; may be repeated.
        #[arg(short, long = "type", value_name = "TYPE")]
        types: Vec<String>,
        /// Only events about this node, name or CID; may be repeated.
        #[arg(long, value_name = "WHAT")]
        about: Vec<String>,
    },
    /// Run a node: the `kepler-node` beside this program, else on PATH, with the same flags.
    #[command(
        disable_help_flag = true,
        after_help = "Example:
  kepler node --node-id node-b --http-port 3002 --gossip-port 4002 --transfer-port 5002 --seeds 127.0.0.1:4001"
    )]
    Node {
        /// Flags of kepler-node; see `kepler node --help`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        flags: Vec<String>,
    },
    /// Run a whole cluster on this machine until Ctrl-C.
    ///
    /// A node that dies is reported, and the others go on. A second Ctrl-C does not wait for the nodes.
    #[command(after_help = "Examples:
  kepler dev
  kepler dev --nodes 5 --dir /tmp/five --http-port 6001")]
    Dev(Dev),
    /// Make keys.
    #[command(subcommand)]
    Key(Key),
    /// Print a completion script for a shell.
    #[command(after_help = "Example:
  kepler completions bash > ~/.local/share/bash-completion/completions/kepler")]
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
    #[arg(long, conflicts_with = "recursive")]
    pub version: Option<String>,
    /// Refuse anything but this CID, whatever the node says.
    #[arg(long, conflicts_with = "recursive")]
    pub cid: Option<kepler_protocol::chunk::ChunkId>,
}

#[derive(ClapArgs, Debug)]
pub struct Copy {
    /// From.
    pub from: String,
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

/// Now, later, or go on; here or everywhere.
#[derive(ClapArgs, Clone, Copy, Debug)]
pub struct Steer {
    /// Stop it until it is resumed.
    #[arg(long, conflicts_with = "resume")]
    pub pause: bool,
    /// Go on after a pause.
    #[arg(long)]
    pub resume: bool,
    /// On all members.
    #[arg(short, long)]
    pub all: bool,
}

impl Steer {
    /// What is asked for.
    pub const fn action(self) -> api::Action {
        match self {
            Self { pause: true, .. } => api::Action::Pause,
            Self { resume: true, .. } => api::Action::Resume,
            _ => api::Action::Start,
        }
    }
}

#[derive(Subcommand, Debug)]
pub enum Cluster {
    /// One line for each member, and whether this node is ready.
    Status,
    /// Every member with its addresses and load.
    Members,
    /// Each member's share of the ring.
    Ring,
    /// Bring everything that the node holds elsewhere, then take it out of the cluster.
    ///
    /// The node that is asked (--node or KEPLER_URL) leaves. Until every chunk it holds has all its copies on
    /// others, it serves on; then it stops. Nothing has a copy fewer because of it. Interrupted, this
    /// program no longer watches, and the node goes on. Until it has left, --cancel has it stay. Somebody stays:
    /// of members that are all told to leave one does.
    #[command(after_help = "Examples:
  kepler --node http://10.0.0.4:3000 cluster leave
  kepler --node http://10.0.0.4:3000 cluster leave --cancel
  kepler cluster leave --no-wait && kepler events --type leaving")]
    Leave {
        /// Do not wait until it has left.
        #[arg(long)]
        no_wait: bool,
        /// Have a node stay that is leaving.
        #[arg(long, conflicts_with = "no_wait")]
        cancel: bool,
    },
    /// Take a member that will not return from the roster, without waiting for FORGET_AFTER_SECS.
    ///
    /// Ask any other member. One that is alive is not forgotten: let it leave. With --lost, where more than
    /// half of the members are gone for good (`kepler health` says so), the remaining ones become the cluster on your word alone:
    /// name all that are lost. What only they had is lost; should one return, it joins as a newcomer.
    #[command(after_help = "Examples:
  kepler cluster forget node-c
  kepler cluster forget --lost node-b node-c")]
    Forget {
        /// The members.
        #[arg(required = true, value_name = "NODE")]
        nodes: Vec<NodeId>,
        /// A majority is lost for good; make the remaining members the cluster.
        #[arg(long)]
        lost: bool,
    },
}

#[derive(Subcommand, Debug)]
pub enum Key {
    /// Print a new cluster key: 64 hex digits for CLUSTER_KEY.
    #[command(after_help = "Example:
  (umask 077; kepler key generate > cluster.key) && CLUSTER_KEY_FILE=cluster.key kepler node --node-id node-a")]
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
