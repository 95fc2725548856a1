//! Keys and tokens of a running node: read again when their files change or on SIGHUP.
//!
//! Invariant: what cannot be used changes nothing. A file that is half written, empty or malformed is
//! reported, and the secrets in use stay in use.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, anyhow};
use kepler_protocol::wire::seal::KeyRing;
use tokio::signal::unix::Signal;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::{Config, SecurityConfig};
use crate::gateway::{Access, Door};
use crate::{gossip, swarm};

/// How often the files are looked at. One that changed is read once it has rested for as long.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What gossip seals and opens with.
pub(super) fn key_ring(keys: &[[u8; 32]]) -> Result<KeyRing> {
    if keys.is_empty() {
        return Ok(KeyRing::open_to_all());
    }
    KeyRing::new(keys).map_err(|_| anyhow!("CLUSTER_KEY: too many keys"))
}

/// Gives every part of a running node the secrets it uses; cheap to clone.
#[derive(Clone)]
pub struct Secrets {
    gossip: gossip::Handle,
    swarm: swarm::Handle,
    door: Door,
}

/// What tells one content of a file from another.
type Stamp = Option<(i64, i64, u64, u64)>;

impl Secrets {
    pub(super) const fn new(gossip: gossip::Handle, swarm: swarm::Handle, door: Door) -> Self {
        Self { gossip, swarm, door }
    }

    /// Uses these from now on. Connections that stand go on: whoever has not the key any more is soon
    /// dead to gossip, and loses them then.
    ///
    /// # Errors
    /// The keys cannot be used, or the node is stopping; nothing or not all was changed then.
    pub async fn replace(&self, security: &SecurityConfig) -> Result<()> {
        let keys: Vec<[u8; 32]> = security.cluster_keys.iter().map(|key| *key.expose()).collect();
        let ring = key_ring(&keys)?;
        // Both accept before either sends: the order within a node does not matter, as its peers accept
        // what it sends only if they were given the key before.
        self.swarm.set_cluster_keys(keys);
        self.gossip.set_keys(ring).await?;
        self.door.set(Access { tokens: security.api_tokens.clone(), anonymous: security.anonymous });
        Ok(())
    }

    /// Reads the settings again on each `hangup` and whenever one of `files` has changed, until `stop`.
    pub async fn follow(self, files: Vec<PathBuf>, mut hangup: Signal, stop: CancellationToken) {
        let mut used = stamps(&files).await;
        let mut seen = used.clone();
        loop {
            let told = tokio::select! {
                told = hangup.recv() => told.is_some(),
                () = tokio::time::sleep(LOOK_EVERY) => false,
                () = stop.cancelled() => return,
            };
            let now = stamps(&files).await;
            let rested = now == seen;
            seen.clone_from(&now);
            if told || (rested && now != used) {
                used = now;
                self.reread().await;
            }
        }
    }

    async fn reread(&self) {
        let read = tokio::task::spawn_blocking(Config::parse).await;
        let config = match read {
            Ok(Ok(config)) => config,
            Ok(Err(faults)) => return warn!(%faults, "keys and tokens stay as they are"),
            Err(error) => return warn!(%error, "keys and tokens stay as they are"),
        };
        match self.replace(&config.security).await {
            Ok(()) => {
                let (keys, tokens) = (config.security.cluster_keys.len(), config.security.api_tokens.len());
                info!(keys, tokens, "read keys and tokens again");
            }
            Err(error) => warn!(error = format!("{error:#}"), "could not take over keys and tokens"),
        }
    }
}

async fn stamps(files: &[PathBuf]) -> Vec<Stamp> {
    let mut stamps = Vec::with_capacity(files.len());
    for file in files {
        let metadata = tokio::fs::metadata(file).await.ok();
        stamps.push(metadata.map(|m| (m.mtime(), m.mtime_nsec(), m.ino(), m.len())));
    }
    stamps
}
