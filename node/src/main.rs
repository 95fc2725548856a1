//! `kepler-node`: one node of a KeplerFS cluster.

use std::process::ExitCode;

use kepler_node::config::Config;
use kepler_node::node::Node;
use kepler_node::{memory, telemetry};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    memory::tune();
    let config = match Config::parse() {
        Ok(config) => config,
        Err(faults) => faults.exit(),
    };
    if config.print_config {
        print!("{}", config.describe());
        return ExitCode::SUCCESS;
    }
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kepler-node: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(config: Config) -> anyhow::Result<()> {
    telemetry::init_logging_with(config.logs.format, &config.logs.filter)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let stop = CancellationToken::new();
        // Before anything else: a hangup that comes early must not end the process.
        let hangup = signal(SignalKind::hangup())?;
        let files = config.security.files.clone();
        let node = Node::start(config, stop.clone()).await?;
        tokio::spawn(node.secrets().follow(files, hangup, stop.clone()));
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::spawn(async move {
            let mut told = async || {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            };
            told().await;
            tracing::info!("stopping: finishing what runs; once more stops at once");
            stop.cancel();
            told().await;
            // Nothing is lost: what was acknowledged is durable, and the next start closes the rest.
            tracing::warn!("told twice: stopping at once");
            std::process::exit(1);
        });
        node.run().await
    })
}
