//! Chunks that wait for the throttle, in order: those at a tenth of the cap have to pass twice, through
//! their own bucket and then, behind what waits there, through the whole one.

use std::collections::VecDeque;

use kepler_protocol::chunk::ChunkId;
use kepler_protocol::node_id::NodeId;
use kepler_protocol::replicator::{ActionId, Pace};
use kepler_protocol::throttle::Throttle;
use kepler_protocol::time::Instant;

use crate::sim::node::room::CHUNK_BYTES;

/// A chunk that is to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Sending {
    /// The replicator's; none for a copy that is owed.
    pub id: Option<ActionId>,
    /// The chunk.
    pub chunk: ChunkId,
    /// To whom.
    pub to: NodeId,
}

/// What waits for one bucket of the throttle.
#[derive(Default)]
struct Lane {
    /// With how many bytes of the chunk are still to be let through.
    waiting: VecDeque<(Sending, u64)>,
    /// When to ask for the first.
    due: Instant,
}

/// The throttle, and what waits for tokens: of the whole cap, and of a tenth of it.
pub struct Lanes {
    throttle: Throttle,
    lanes: [Lane; 2],
}

impl Lanes {
    /// Nothing waits.
    pub fn new(throttle: Throttle) -> Self {
        Self { throttle, lanes: Default::default() }
    }

    /// When to ask the throttle next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.lanes.iter().filter(|lane| !lane.waiting.is_empty()).map(|lane| lane.due).min()
    }

    /// Takes up a chunk, behind those that wait.
    pub fn wait(&mut self, now: Instant, pace: Pace, sending: Sending) {
        let lane = &mut self.lanes[pace as usize];
        if lane.waiting.is_empty() {
            lane.due = now;
        }
        lane.waiting.push_back((sending, CHUNK_BYTES));
    }

    /// Another cap: whoever waits asks again at once.
    pub fn set_cap(&mut self, now: Instant, cap: u64) {
        self.throttle.set_cap(now, cap);
        self.lanes.iter_mut().for_each(|lane| lane.due = now);
    }

    /// Moves what its tenth lets through behind those that wait for the whole cap.
    pub fn let_tenth_through(&mut self, now: Instant) {
        while let Some(sending) = self.pass(now, Pace::Tenth, |_| ()) {
            self.wait(now, Pace::Full, sending);
        }
    }

    /// The next chunk that the cap lets through; `sends` is told of each piece of it, also of those of a
    /// chunk whose other pieces have to wait.
    pub fn next(&mut self, now: Instant, sends: impl FnMut(u64)) -> Option<Sending> {
        self.pass(now, Pace::Full, sends)
    }

    fn pass(&mut self, now: Instant, pace: Pace, mut passes: impl FnMut(u64)) -> Option<Sending> {
        let lane = &mut self.lanes[pace as usize];
        while let Some((_, left)) = lane.waiting.front_mut() {
            match self.throttle.take(now, pace, (*left).min(self.throttle.piece())) {
                Ok(bytes) => {
                    *left -= bytes;
                    passes(bytes);
                    if *left == 0 {
                        return lane.waiting.pop_front().map(|(sending, _)| sending);
                    }
                }
                Err(at) => {
                    lane.due = at;
                    break;
                }
            }
        }
        None
    }
}
