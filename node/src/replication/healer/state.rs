//! What is known of this node's healing beside the machine: lost logs, and health as people are told it.

use std::collections::BTreeSet;

use kepler_protocol::api::{self, MAX_LISTED, NodeHealth};
use kepler_protocol::chunk::ChunkId;
use tracing::warn;

use super::Healer;

impl Healer {
    /// Notes which databases the roster binds, and which it dropped: what nobody has seen of their logs is ended
    /// then. Only once this node has seen all that the others know of them.
    pub(super) async fn end_lost_logs(&mut self) {
        let roster = match self.electors.borrow().roster() {
            Some(roster) => roster.clone(),
            None => return,
        };
        let ready = self.electors.borrow().standing().is_ok();
        let bound = match &self.bound {
            Some(noted) => noted,
            None => match self.worker.store.noted_databases().await {
                Ok(noted) => self.bound.insert(noted),
                Err(error) => return warn!(%error, "could not read which databases were bound"),
            },
        };
        let Some(next) = bound.follow(&roster, ready) else { return };
        match self.worker.store.note_databases(next.clone()).await {
            Ok(()) => self.bound = Some(next),
            Err(error) => warn!(%error, "could not note which databases are bound"),
        }
    }

    pub(super) async fn health(&self) -> NodeHealth {
        let health = self.machine.health(self.worker.store.now());
        let usage = self.worker.store.usage().await.map_or(0, |usage| usage.chunks);
        let at = self.worker.store.scrubbed_at().await.ok().flatten();
        let scrub = api::ScrubStatus {
            at: at.map(|at| at.to_string()),
            checked: health.scrub.checked,
            bad: health.scrub.bad,
            running: health.scrub.running,
            progress: if usage == 0 { 1.0 } else { (health.scrub.checked as f64 / usage as f64).min(1.0) },
            paused: health.scrub.paused,
        };
        let waiting = health.waiting.into_iter().take(16).map(|waiting| api::Waiting {
            what: waiting.what,
            until_secs: waiting.remaining.map(|remaining| remaining.as_secs()),
        });
        let listed = |chunks: &BTreeSet<ChunkId>| chunks.iter().take(MAX_LISTED).copied().collect();
        NodeHealth {
            // What is fetched anew is lacking here, and nobody else may know yet.
            under_replicated: health.under_replicated + health.fetching.len() as u64,
            single_copy: health.single_copy,
            missing: health.missing.len() as u64,
            lost: listed(&health.missing),
            fetching: listed(&health.fetching),
            surplus: health.surplus,
            moving: health.moving,
            moving_bytes: health.moving_bytes,
            scrub,
            breaker: health.breaker,
            paused: health.paused,
            waiting: waiting.collect(),
            ..NodeHealth::idle(self.me)
        }
    }
}
