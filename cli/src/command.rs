//! One file a verb.

mod cluster;
mod dev;
mod events;
mod get;
mod health;
mod lines;
mod locate;
mod names;
mod operate;
mod put;
mod upload;
mod verify;

use std::io::Write as _;

use anyhow::{Context as _, Result};
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
    // What needs no node works whatever KEPLER_URL says.
    let client = Client::new(&args.node, args.token);
    match args.command {
        Command::Node { flags } => return dev::node(&flags),
        Command::Dev(options) => return dev::run(output, options).await,
        Command::Key(args::Key::Generate) => return key(output),
        Command::Completions { shell } => return completions(shell),
        Command::Version => return cluster::version(client.ok().as_ref(), output).await,
        _ => {}
    }
    let client = client?;
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
        Command::Cp { copy, version, cid, content_type } => {
            let of = names::Of { version, cid, content_type };
            names::copy(&client, output, "/v1/copy", copy, of).await
        }
        Command::Mv(copy) => names::copy(&client, output, "/v1/move", copy, names::Of::default()).await,
        Command::Cluster(args::Cluster::Status) => cluster::status(&client, output).await,
        Command::Cluster(args::Cluster::Members) => cluster::members(&client, output).await,
        Command::Cluster(args::Cluster::Ring) => cluster::ring(&client, output).await,
        Command::Cluster(args::Cluster::Leave { cancel: true, .. }) => operate::stay(&client, output).await,
        Command::Cluster(args::Cluster::Leave { no_wait, .. }) => {
            operate::leave(&client, output, !no_wait).await
        }
        Command::Cluster(args::Cluster::Forget { nodes, lost }) => {
            operate::forget(&client, output, &nodes, lost).await
        }
        Command::Locate { name, if_down } => locate::run(&client, output, &name, if_down).await,
        Command::Health => health::run(&client, output).await,
        Command::Verify { all } => verify::run(&client, output, all).await,
        Command::Scrub { steer } => operate::scrub(&client, output, steer).await,
        Command::Repair { steer, bandwidth } => operate::repair(&client, output, steer, bandwidth).await,
        Command::Events { types, about } => events::run(&client, output, &types, &about).await,
        Command::Node { .. }
        | Command::Dev(_)
        | Command::Key(_)
        | Command::Completions { .. }
        | Command::Version => unreachable!("done above"),
    }
}

fn key(output: &Output) -> Result<()> {
    let mut key = [0; 32];
    getrandom::fill(&mut key).map_err(|e| anyhow::anyhow!("draw a key: {e}"))?;
    output.print(&json!({ "cluster_key": hex::encode(key) }), |_| hex::encode(key))
}

fn completions(shell: clap_complete::Shell) -> Result<()> {
    // To memory first: the generator panics where its output is closed.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "kepler", &mut script);
    std::io::stdout().write_all(&script).context("print the script")
}
