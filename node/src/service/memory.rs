//! What a node remembers of its last hour, and who fills it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kepler_protocol::api;
use kepler_protocol::recent::{Counts, Happened, Recent};
use kepler_protocol::time::{Instant, UnixMillis};
use kepler_protocol::wire::operations::{self, MAX_EVENT_BYTES, Told};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio_util::sync::CancellationToken;

use super::healing::Healing;
use super::unix_millis;
use crate::store::Store;
use crate::telemetry::Metrics;

/// What a node remembers of the last hour; cheap to clone.
#[derive(Clone, Default)]
pub struct Memory(Arc<Mutex<Recent>>);

impl Memory {
    fn with<T>(&self, work: impl FnOnce(&mut Recent) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What is remembered of the time from `past` ago on. Of events that are too many for an answer the latest.
    pub(super) fn told(&self, past: Duration) -> operations::Recent {
        let past = u64::try_from(past.as_millis()).unwrap_or(u64::MAX);
        let since = UnixMillis(unix_millis().saturating_sub(past));
        let (samples, events) = self.with(|recent| {
            let events: Vec<Happened> = recent.events(since).into_iter().cloned().collect();
            (recent.samples(since), events)
        });
        let mut room = MAX_EVENT_BYTES;
        let told = events.into_iter().rev().map_while(|Happened { at, number, event }| {
            let event = serde_json::to_string(&event).expect("an event is text and numbers");
            room = room.checked_sub(event.len())?;
            Some(Told { at, number, event })
        });
        let mut events: Vec<Told> = told.collect();
        events.reverse();
        operations::Recent { samples, events }
    }
}

/// Fills a node's [`Memory`].
pub struct Recorder {
    /// What is filled.
    pub memory: Memory,
    /// Whose clock counts.
    pub store: Store,
    /// What the node does about its chunks.
    pub healing: Healing,
    /// What it counts.
    pub metrics: Arc<Metrics>,
    /// What happens.
    pub events: broadcast::Receiver<api::Event>,
    /// When to end.
    pub stop: CancellationToken,
}

impl Recorder {
    /// Records until told to stop.
    pub async fn run(mut self) {
        loop {
            let due = self.memory.with(|recent| recent.poll_timeout());
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(due.since(self.store.now())) => self.measure().await,
                event = self.events.recv() => match event {
                    Ok(event) => {
                        let at = UnixMillis(unix_millis());
                        self.memory.with(|recent| recent.handle_event(at, event));
                    }
                    // What came too fast is missing from the log.
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                },
            }
        }
    }

    async fn measure(&self) {
        let healing = self.healing.health();
        let Some(healing) = self.stop.run_until_cancelled(healing).await else { return };
        let healing = healing.ok();
        let http = &self.metrics.http;
        let counts = Counts {
            received: http.bytes_in.get(),
            sent: http.content_out.get(),
            queue: u64::try_from(self.metrics.queue.depth.get()).unwrap_or(0),
            under_replicated: healing.as_ref().map_or(0, |h| h.under_replicated),
            moving: healing.as_ref().map_or(0, |h| h.moving),
        };
        let (now, at): (Instant, _) = (self.store.now(), UnixMillis(unix_millis()));
        self.memory.with(|recent| recent.handle_counts(now, at, counts));
    }
}
