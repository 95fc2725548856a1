//! One file a verb.

mod cluster;
mod dev;
mod get;
mod names;
mod put;

use anyhow::Result;
use clap::CommandFactory as _;
use serde_json::json;

use crate::args::{self, Args, Command};
use crate::client::Client;
use crate::output::Output;

/// Does what was asked.
///
/// # Errors
/// Whatever went wrong, ready to be shown.
pub async fn run(args: Args, output: &Output) -> Result<()> {
    let client = Client::new(&args.node, args.token)?;
    match args.command {
        Command::Put(put) => put::run(&client, output, put).await,
        Command::Get(get) => get::run(&client, output, get).await,
        Command::Cat { names } => get::cat(&client, &names).await,
        Command::Ls { prefix, recursive, long } => {
            names::ls(&client, output, prefix.as_deref().unwrap_or(""), recursive, long).await
        }
        Command::Rm { names, recursive, version, durability } => {
            names::rm(&client, output, &names, recursive, version.as_deref(), durability).await
        }
        Command::Stat { name } => names::stat(&client, output, &name).await,
        Command::Cp(copy) => names::copy(&client, output, "/v1/copy", copy).await,
        Command::Mv(copy) => names::copy(&client, output, "/v1/move", copy).await,
        Command::Cluster(args::Cluster::Status) => cluster::status(&client, output).await,
        Command::Cluster(args::Cluster::Members) => cluster::members(&client, output).await,
        Command::Cluster(args::Cluster::Ring) => cluster::ring(&client, output).await,
        Command::Locate { name } => names::locate(&client, output, &name).await,
        Command::Events => cluster::events(&client).await,
        Command::Node { flags } => dev::node(&flags),
        Command::Dev(options) => dev::run(options).await,
        Command::Key(args::Key::Generate) => {
            let mut key = [0; 32];
            getrandom::fill(&mut key).map_err(|e| anyhow::anyhow!("draw a key: {e}"))?;
            output.print(&json!({ "cluster_key": hex::encode(key) }), |_| hex::encode(key))
        }
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Args::command(), "kepler", &mut std::io::stdout());
            Ok(())
        }
        Command::Version => cluster::version(&client, output).await,
    }
}
