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
    let args = match args::Args::try_parse() {
        Ok(args) => args,
        Err(error) => return usage(&error),
    };
    let output = output::Output::new(args.json);
    match command::run(args, &output).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if exit::reader_left(&error) => ExitCode::SUCCESS,
        Err(error) => {
            if !exit::is_told(&error) {
                output.error(&error);
            }
            exit::exit(&error)
        }
    }
}

/// Help and version, or what is wrong with the arguments: in JSON too, if they ask for it.
fn usage(error: &clap::Error) -> ExitCode {
    if error.use_stderr() && std::env::args_os().any(|arg| arg == "--json") {
        let text = error.render().to_string();
        let failure = exit::Failure::Usage(text.trim().trim_start_matches("error: ").to_owned());
        output::Output::new(true).error(&failure.into());
    } else {
        // Nobody is left to be told that it could not be printed.
        let _ = error.print();
    }
    u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
}
