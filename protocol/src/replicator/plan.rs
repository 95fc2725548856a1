//! Who sends a chunk to an owner that lacks it, when, and in which order.
//!
//! The first live node in ring order that is expected to hold it sends at once; the k-th waits
//! k x [`TURN`], asks whether it is still lacking, and then sends itself. So a sender that dies, stalls
//! or never knew is replaced. The first goes through its chunks in one order and the others in the
//! opposite one, so that they meet once instead of sending the same side by side. Chunks of which no
//! other owner has a copy go first.
//!
//! Invariant: at most [`MAX_WANTS`] are remembered and [`MAX_SENDS`] under way; what does not fit is
//! found again by a later pass.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::chunk::ChunkId;
use crate::node_id::NodeId;
use crate::time::Instant;

/// How long each further holder waits for those before it.
pub const TURN: Duration = Duration::from_secs(15);

/// Copies remembered as lacking.
pub const MAX_WANTS: usize = 16_384;

/// Sendings and questions about them under way.
pub const MAX_SENDS: usize = 16;

/// The same, to one node.
const MAX_SENDS_EACH: usize = 4;

/// How often a sending is tried.
const MAX_TRIES: u8 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Checking,
    Sending,
}

/// What an owner lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// The chunk, of so many bytes.
    Chunk(u64),
    /// Only references.
    References,
}

#[derive(Clone, Copy, Debug)]
struct Want {
    found: Instant,
    due: Instant,
    turn: u8,
    tries: u8,
    lack: Lack,
    state: State,
    single: bool,
}

/// The next thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask whether it is still lacking; then [`Plan::checked`].
    Check(ChunkId, NodeId),
    /// Send it; then [`Plan::copied`], [`Plan::dropped`] or [`Plan::failed`].
    Send {
        /// The chunk.
        chunk: ChunkId,
        /// To whom.
        to: NodeId,
        /// No other owner has it.
        single: bool,
    },
}

type Key = (bool, Instant, u64, ChunkId, NodeId);

/// What is known to be lacking, and what is done about it.
#[derive(Debug, Default)]
pub struct Plan {
    wants: BTreeMap<(ChunkId, NodeId), Want>,
    /// Those that wait: single copies first, then by when they are due.
    queue: BTreeSet<Key>,
    under_way: BTreeMap<NodeId, usize>,
    /// Planted: nobody but the first holder ever sends.
    no_turns: bool,
    /// Something was left out: look again soon.
    pub(super) again: bool,
}

fn key_of(chunk: ChunkId, to: NodeId, want: &Want) -> Key {
    let place = chunk.key();
    (!want.single, want.due, if want.turn == 0 { place } else { !place }, chunk, to)
}

impl Plan {
    /// Nothing is known to be lacking. `no_turns` is a planted bug: only the first holder ever sends.
    pub fn new(no_turns: bool) -> Self {
        Self { no_turns, ..Self::default() }
    }

    /// An owner lacks a chunk, and `turn` other nodes are to send it first; `single`: no other owner
    /// has it. Told again, corrects the turn and whether it is single.
    pub fn lacks(
        &mut self,
        now: Instant,
        (chunk, to): (ChunkId, NodeId),
        lack: Lack,
        turn: usize,
        single: bool,
    ) {
        let turn = u8::try_from(turn).unwrap_or(u8::MAX);
        let full = self.wants.len() >= MAX_WANTS;
        match self.wants.get_mut(&(chunk, to)) {
            Some(want) if want.state == State::Waiting => {
                self.queue.remove(&key_of(chunk, to, want));
                if want.tries == 0 {
                    want.due = want.found + TURN * u32::from(turn);
                }
                (want.turn, want.single) = (turn, single);
                self.queue.insert(key_of(chunk, to, want));
            }
            Some(want) => want.single = single,
            None if full => self.again = true,
            None => {
                let due = now + TURN * u32::from(turn);
                let want = Want { found: now, due, turn, tries: 0, lack, state: State::Waiting, single };
                self.queue.insert(key_of(chunk, to, &want));
                self.wants.insert((chunk, to), want);
            }
        }
    }

    /// It lacks it no more.
    pub fn has(&mut self, chunk: ChunkId, to: NodeId) {
        if self.wants.get(&(chunk, to)).is_some_and(|want| want.state == State::Waiting) {
            self.remove(chunk, to);
        }
    }

    fn remove(&mut self, chunk: ChunkId, to: NodeId) -> Option<Want> {
        let want = self.wants.remove(&(chunk, to))?;
        match want.state {
            State::Waiting => drop(self.queue.remove(&key_of(chunk, to, &want))),
            State::Checking | State::Sending => self.released(to),
        }
        Some(want)
    }

    fn released(&mut self, to: NodeId) {
        if let Some(count) = self.under_way.get_mut(&to) {
            *count -= 1;
            if *count == 0 {
                self.under_way.remove(&to);
            }
        }
    }

    /// Keeps only what `keep` says, and what is under way.
    pub fn retain(&mut self, keep: impl Fn(&ChunkId, &NodeId) -> bool) {
        let gone: Vec<(ChunkId, NodeId)> = self
            .wants
            .iter()
            .filter(|((chunk, to), want)| want.state == State::Waiting && !keep(chunk, to))
            .map(|(key, _)| *key)
            .collect();
        for (chunk, to) in gone {
            self.remove(chunk, to);
        }
    }

    /// What to do next, if anything may be done.
    pub fn next(&mut self, now: Instant) -> Option<Step> {
        if self.under_way.values().sum::<usize>() >= MAX_SENDS {
            return None;
        }
        let due = |single| self.first(single).filter(|key| key.1 <= now);
        let (_, _, _, chunk, to) = due(true).or_else(|| due(false))?;
        let want = self.wants.get_mut(&(chunk, to))?;
        self.queue.remove(&key_of(chunk, to, want));
        *self.under_way.entry(to).or_default() += 1;
        if (want.turn > 0 || want.tries > 0) && matches!(want.lack, Lack::Chunk(_)) {
            if self.no_turns && want.turn > 0 {
                self.wants.remove(&(chunk, to));
                self.released(to);
                return self.next(now);
            }
            want.state = State::Checking;
            return Some(Step::Check(chunk, to));
        }
        want.state = State::Sending;
        Some(Step::Send { chunk, to, single: want.single })
    }

    /// The first that waits for a node that is not busy. Behind a node that is busy there may be one
    /// that is not, but it is not looked for for ever.
    fn first(&self, single: bool) -> Option<Key> {
        let from = (!single, Instant::ZERO, 0, ChunkId::LEAST, key_floor());
        let kind = self.queue.range(from..).take_while(|key| key.0 != single);
        let may = |key: &&Key| self.under_way.get(&key.4).is_none_or(|busy| *busy < MAX_SENDS_EACH);
        kind.take(256).find(may).copied()
    }

    /// Whether it is still lacking, as the owner says: `None` if it does not answer.
    pub fn checked(&mut self, now: Instant, chunk: ChunkId, to: NodeId, lacks: Option<bool>) -> Option<Step> {
        let want = self.wants.get_mut(&(chunk, to)).filter(|want| want.state == State::Checking)?;
        match lacks {
            Some(true) => {
                want.state = State::Sending;
                Some(Step::Send { chunk, to, single: want.single })
            }
            Some(false) => {
                self.remove(chunk, to);
                None
            }
            None => {
                self.failed(now, chunk, to);
                None
            }
        }
    }

    /// It was sent: there is one copy more.
    pub fn copied(&mut self, chunk: ChunkId, to: NodeId) {
        self.remove(chunk, to);
        let others: Vec<NodeId> = self.lacking(&chunk).map(|(other, _)| other).collect();
        for other in others {
            let Some(want) = self.wants.get_mut(&(chunk, other)) else { continue };
            let waits = want.state == State::Waiting && self.queue.remove(&key_of(chunk, other, want));
            want.single = false;
            if waits {
                self.queue.insert(key_of(chunk, other, want));
            }
        }
    }

    /// It is not to be sent, or not here to be sent.
    pub fn dropped(&mut self, chunk: ChunkId, to: NodeId) {
        self.remove(chunk, to);
    }

    /// It could not be sent: it is tried again, a few times.
    pub fn failed(&mut self, now: Instant, chunk: ChunkId, to: NodeId) {
        let Some(mut want) = self.remove(chunk, to) else { return };
        want.tries += 1;
        if want.tries >= MAX_TRIES {
            self.again = true;
            return;
        }
        want.due = now + Duration::from_secs(1 << want.tries);
        want.state = State::Waiting;
        self.queue.insert(key_of(chunk, to, &want));
        self.wants.insert((chunk, to), want);
    }

    /// When [`Plan::next`] may have something, with nothing else happening.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.under_way.values().sum::<usize>() >= MAX_SENDS {
            return None;
        }
        self.first(true).into_iter().chain(self.first(false)).map(|key| key.1).min()
    }

    /// The owners known to lack this chunk.
    pub fn lacking(&self, chunk: &ChunkId) -> impl Iterator<Item = (NodeId, Lack)> {
        let chunk = *chunk;
        let all = self.wants.range((chunk, key_floor())..);
        all.take_while(move |((of, _), _)| *of == chunk).map(|((_, to), want)| (*to, want.lack))
    }

    /// How much room is left.
    pub fn room(&self) -> usize {
        MAX_WANTS - self.wants.len()
    }

    /// Whether nothing is lacking.
    pub fn is_empty(&self) -> bool {
        self.wants.is_empty()
    }

    /// Chunks under-replicated for which this node is first, of them single copies, and what is being
    /// sent: copies and bytes.
    pub fn count(&self) -> (u64, u64, u64, u64) {
        let (mut chunks, mut single, mut moving, mut bytes) = (0, 0, 0, 0);
        let mut last = None;
        for ((chunk, _), want) in &self.wants {
            let Lack::Chunk(size) = want.lack else { continue };
            if want.turn == 0 && last != Some(*chunk) {
                last = Some(*chunk);
                chunks += 1;
                single += u64::from(want.single);
            }
            if want.state == State::Sending {
                moving += 1;
                bytes += size;
            }
        }
        (chunks, single, moving, bytes)
    }
}

fn key_floor() -> NodeId {
    "0".parse().expect("a digit is a node id")
}
