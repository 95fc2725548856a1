//! `kepler`: the command line of KeplerFS. It talks to a node over HTTP and to nothing else.
//!
//! | module | owns |
//! | --- | --- |
//! | [`args`] | flags and help texts |
//! | [`client`] | requests to a node |
//! | [`command`] | one file a verb |
//! | [`output`] | tables, JSON, progress bars |
//! | [`exit`] | what went wrong, as an exit code |

mod args;
mod client;
mod command;
mod exit;
mod output;

use std::process::ExitCode;

use clap::Parser as _;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args = args::Args::parse();
    let output = output::Output::new(args.json);
    match command::run(args, &output).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output.error(&error);
            exit::code(&error)
        }
    }
}
