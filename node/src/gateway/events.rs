//! `GET /v1/events`: server-sent events with a heartbeat.
//!
//! Each follower has a task that turns events into text and a short channel to its connection, so
//! a slow one delays nobody: it loses events and is told how many.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::Stream;
use kepler_protocol::api::Event;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::MissedTickBehavior;
use warp::http::header;
use warp::reply::{Reply, Response};

use super::error::Failure;
use super::{Call, Shared, set};

/// Events on their way to one follower.
const BACKLOG: usize = 64;

/// `GET /v1/events`
pub(super) async fn follow(call: Call) -> Result<Response, Failure> {
    call.query(&[])?;
    let shared = Arc::clone(&call.shared);
    let slot = Arc::clone(&shared.followers)
        .try_acquire_owned()
        .map_err(|_| Failure::too_many("this node has as many followers of its events as it takes"))?;
    let (sender, receiver) = mpsc::channel(BACKLOG);
    let events = shared.files.events();
    tokio::spawn(relay(shared, events, sender, slot));
    let mut response = warp::reply::stream(Follower(receiver)).into_response();
    set(&mut response, header::CONTENT_TYPE, "text/event-stream");
    set(&mut response, header::CACHE_CONTROL, "no-store");
    Ok(response)
}

/// Passes events on until the follower or the node goes away.
async fn relay(
    shared: Arc<Shared>,
    mut events: broadcast::Receiver<Event>,
    sender: mpsc::Sender<Bytes>,
    _slot: OwnedSemaphorePermit,
) {
    let mut heartbeat = tokio::time::interval(shared.config.limits.heartbeat);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Reconnect after two seconds; also tells the follower that it is one.
    if sender.send(Bytes::from_static(b"retry: 2000\n\n")).await.is_err() {
        return;
    }
    loop {
        let text = tokio::select! {
            () = shared.stop.cancelled() => return,
            () = sender.closed() => return,
            _ = heartbeat.tick() => Bytes::from_static(b": heartbeat\n\n"),
            event = events.recv() => match event {
                Ok(event) => encode(&event),
                Err(RecvError::Lagged(missed)) => lagged(missed),
                Err(RecvError::Closed) => return,
            },
        };
        tokio::select! {
            () = shared.stop.cancelled() => return,
            sent = sender.send(text) => if sent.is_err() { return },
        }
    }
}

/// One event: its name is the `type` of its JSON.
fn encode(event: &Event) -> Bytes {
    let name = event.kind();
    // JSON has no line breaks outside strings, and inside it escapes them.
    let data = serde_json::to_string(event).expect("an event is text and numbers");
    format!("event: {name}\ndata: {data}\n\n").into()
}

fn lagged(missed: u64) -> Bytes {
    format!("event: lagged\ndata: {{\"type\":\"lagged\",\"missed\":{missed}}}\n\n").into()
}

struct Follower(mpsc::Receiver<Bytes>);

impl Stream for Follower {
    type Item = Result<Bytes, std::convert::Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx).map(|text| text.map(Ok))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_an_event_is_its_type() {
        let name: kepler_protocol::name::Name = "a".parse().unwrap();
        let node = "n".parse().unwrap();
        let cid = kepler_protocol::chunk::ChunkId::of(kepler_protocol::chunk::Codec::Raw, b"");
        let events = [
            Event::Member { node, status: kepler_protocol::api::Status::Dead },
            Event::Written { name: name.clone(), version: "v".to_owned(), deleted: false },
            Event::Delivered { node, chunks: 1 },
            Event::Quarantined { cid },
            Event::Roster { number: 1, members: vec![] },
            Event::Ready { ready: true },
            Event::RepairStarted { node, chunks: 1 },
            Event::Repaired { node, chunks: 1, bytes: 2 },
            Event::Moved { cid, from: node, to: node, bytes: 2 },
            Event::Released { chunks: 1 },
            Event::Collected { chunks: 1, bytes: 2 },
            Event::Scrubbed { checked: 1, bad: 0 },
            Event::Conflict { name: name.clone() },
            Event::Leaving { node, left_chunks: 1 },
            Event::Health { status: kepler_protocol::api::HealthStatus::AtRisk },
        ];
        for event in events {
            let text = String::from_utf8(encode(&event).to_vec()).unwrap();
            let (name, data) = text.strip_prefix("event: ").unwrap().split_once("\ndata: ").unwrap();
            let json: serde_json::Value = serde_json::from_str(data.trim_end()).unwrap();
            assert_eq!(json["type"], name, "{text}");
        }
    }
}
