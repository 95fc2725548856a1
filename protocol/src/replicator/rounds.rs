//! Rounds: when the disk is read through, and with whom the count is compared.
//!
//! A round is a pass over all that is held, which counts it for every peer; a comparison with each of
//! them, level by level of the tree where something differs; and, if anything does, a second pass that
//! lists the chunks of the leaves that differ. A round begins at each interval, after each change of
//! the rings, and sooner where something was left undone.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::inventory::{MAX_DEPTH, Prefix, Summary};
use super::message::{Answer, Compare, Item, MAX_FINGERPRINTS, Range};
use crate::chunk::ChunkId;
use crate::node_id::NodeId;
use crate::time::Instant;

/// Ranges of no more chunks are listed without descending further.
const SMALL: u64 = 16;

/// How often a peer that is still counting is asked again, and how long after.
const PATIENCE: u8 = 15;
const LATER: Duration = Duration::from_secs(1);

/// Peers compared with at a time.
const MAX_DESCENTS: usize = 64;

/// The least time between a change of the rings and the pass that follows: changes come in bursts.
const SETTLE: Duration = Duration::from_millis(200);

/// The first wait before what was left undone is looked at again; twice as long after each further one.
const BACKOFF: Duration = Duration::from_secs(5);

/// A pass under way.
#[derive(Debug)]
struct Pass {
    epoch: u64,
    began: Instant,
    /// What is listed for whom; `None` while counting.
    list: Option<BTreeMap<NodeId, BTreeSet<Prefix>>>,
    summaries: BTreeMap<NodeId, Summary>,
}

/// The last complete pass.
#[derive(Debug)]
struct Counted {
    epoch: u64,
    at: Instant,
    summaries: BTreeMap<NodeId, Summary>,
}

#[derive(Debug)]
struct Descent {
    todo: Vec<Prefix>,
    asked: Vec<Prefix>,
    tries: u8,
    retry_at: Option<Instant>,
}

/// The rounds of one node.
#[derive(Debug)]
pub struct Rounds {
    interval: Duration,
    pass: Option<Pass>,
    counted: Option<Counted>,
    descents: BTreeMap<NodeId, Descent>,
    /// Peers still to be compared with.
    peers: VecDeque<NodeId>,
    differing: BTreeMap<NodeId, BTreeSet<Prefix>>,
    next: Instant,
    backoff: Duration,
    /// Something of this round was left undone.
    undone: bool,
    took: Duration,
}

impl Rounds {
    /// The first round is due at once.
    pub fn new(now: Instant, interval: Duration) -> Self {
        Self {
            interval,
            pass: None,
            counted: None,
            descents: BTreeMap::new(),
            peers: VecDeque::new(),
            differing: BTreeMap::new(),
            next: now,
            backoff: BACKOFF.min(interval),
            undone: false,
            took: Duration::ZERO,
        }
    }

    /// The rings are others: what was counted is void.
    pub fn restart(&mut self, now: Instant) {
        self.descents.clear();
        self.peers.clear();
        self.differing.clear();
        self.backoff = BACKOFF.min(self.interval);
        // A pass that runs goes on, and its end begins the next: passes never take more than half of
        // the time, however often the rings change.
        self.next = self.next.min(now + SETTLE.max(self.took));
    }

    /// Looks at the disk again at this instant at the latest.
    pub fn sooner(&mut self, at: Instant) {
        self.next = self.next.min(at);
    }

    /// Something will be worth a look at this instant: not so soon that passes follow each other closely.
    pub fn grace_over(&mut self, now: Instant, at: Instant) {
        self.sooner(at.max(now + self.took.max(Duration::from_secs(1))));
    }

    /// Something was left undone: looks at it again, soon at first and then less often.
    pub fn undone(&mut self, now: Instant) {
        if self.is_idle() {
            self.sooner(now + self.backoff.max(self.took));
            self.backoff = (self.backoff * 2).min(self.interval);
        } else {
            self.undone = true;
        }
    }

    /// Whether no pass and no comparison is under way.
    pub fn is_idle(&self) -> bool {
        self.pass.is_none() && self.descents.is_empty() && self.peers.is_empty()
    }

    /// Whether a pass is under way.
    pub const fn is_reading(&self) -> bool {
        self.pass.is_some()
    }

    /// Begins a pass if one is due.
    pub fn begin(&mut self, now: Instant, epoch: u64) -> bool {
        let due = self.is_idle() && self.next <= now;
        if due {
            self.differing.clear();
            self.open(now, epoch, None);
        }
        due
    }

    fn open(&mut self, now: Instant, epoch: u64, list: Option<BTreeMap<NodeId, BTreeSet<Prefix>>>) {
        // Until it ends, nothing is due.
        self.next = now + self.interval;
        self.pass = Some(Pass { epoch, began: now, list, summaries: BTreeMap::new() });
    }

    /// Whether this is the pass that counts, in which strays are offered.
    pub fn is_counting(&self) -> bool {
        self.pass.as_ref().is_some_and(|pass| pass.list.is_none())
    }

    /// Counts a chunk that this node and `peer` both should hold; whether to list it for the peer.
    pub fn count(&mut self, peer: NodeId, item: &Item) -> bool {
        let Some(pass) = &mut self.pass else { return false };
        pass.summaries.entry(peer).or_default().add(&item.chunk, item.references);
        let differs = |list: &BTreeSet<Prefix>| {
            (0..=MAX_DEPTH).any(|depth| list.contains(&Prefix::of(item.chunk.key(), depth)))
        };
        pass.list.as_ref().is_some_and(|list| list.get(&peer).is_some_and(differs))
    }

    /// The store could not be read.
    pub fn fail(&mut self, now: Instant) {
        self.pass = None;
        self.undone = true;
        self.close(now);
    }

    /// All was read. `reachable`: who can be compared with.
    pub fn end(&mut self, now: Instant, epoch: u64, reachable: impl Fn(&NodeId) -> bool) {
        let Some(pass) = self.pass.take() else { return };
        self.took = now.since(pass.began);
        if pass.epoch != epoch {
            self.next = now + SETTLE.max(self.took);
            return;
        }
        if pass.list.is_none() {
            self.peers = pass.summaries.keys().copied().filter(reachable).collect();
        }
        self.counted = Some(Counted { epoch, at: now, summaries: pass.summaries });
        if self.peers.is_empty() {
            self.close(now);
        }
    }

    fn close(&mut self, now: Instant) {
        self.differing.clear();
        let wait = if std::mem::take(&mut self.undone) {
            let wait = self.backoff.max(self.took);
            self.backoff = (self.backoff * 2).min(self.interval);
            wait
        } else {
            self.backoff = BACKOFF.min(self.interval);
            self.interval
        };
        self.next = self.next.min(now + wait).max(now + SETTLE);
    }

    /// The next question to a peer, if one is to be asked.
    pub fn ask(&mut self, now: Instant) -> Option<(NodeId, Compare)> {
        while self.descents.len() < MAX_DESCENTS
            && let Some(peer) = self.peers.pop_front()
        {
            let descent =
                Descent { todo: vec![Prefix::ROOT], asked: Vec::new(), tries: 0, retry_at: Some(now) };
            self.descents.insert(peer, descent);
        }
        let counted = self.counted.as_ref()?;
        let due = |(_, descent): &(&NodeId, &mut Descent)| descent.retry_at.is_some_and(|at| at <= now);
        let (peer, descent) = self.descents.iter_mut().find(due)?;
        descent.retry_at = None;
        descent.asked = descent.todo.drain(..descent.todo.len().min(MAX_FINGERPRINTS)).collect();
        let none = Summary::default();
        let summary = counted.summaries.get(peer).unwrap_or(&none);
        let of = |prefix: &Prefix| Range { prefix: *prefix, fingerprint: summary.fingerprint(*prefix) };
        Some((*peer, Compare { ranges: descent.asked.iter().map(of).collect() }))
    }

    /// A peer answered, or did not. Whether a pass begins that lists what differs.
    pub fn answered(&mut self, now: Instant, epoch: u64, peer: NodeId, answer: Option<Answer>) -> bool {
        let Some(descent) = self.descents.get_mut(&peer) else { return false };
        let asked = std::mem::take(&mut descent.asked);
        let summary = self.counted.as_ref().and_then(|counted| counted.summaries.get(&peer));
        match (answer, summary) {
            (Some(Answer::Later), _) if descent.tries < PATIENCE => {
                descent.tries += 1;
                descent.todo.extend(asked);
                descent.retry_at = Some(now + LATER);
                return false;
            }
            (Some(Answer::Differ(prefixes)), Some(summary)) => {
                let differing: BTreeSet<Prefix> = prefixes.into_iter().collect();
                for prefix in asked.into_iter().filter(|prefix| differing.contains(prefix)) {
                    let small = summary.fingerprint(prefix).count <= SMALL;
                    if small || prefix.depth() >= MAX_DEPTH {
                        self.differing.entry(peer).or_default().insert(prefix);
                    } else {
                        descent.todo.extend(summary.children(prefix));
                    }
                }
                if !descent.todo.is_empty() {
                    descent.retry_at = Some(now);
                    return false;
                }
            }
            _ => self.undone = true,
        }
        self.descents.remove(&peer);
        if !self.is_idle() {
            return false;
        }
        if self.differing.is_empty() || self.counted.as_ref().is_none_or(|counted| counted.epoch != epoch) {
            self.close(now);
            return false;
        }
        let list = std::mem::take(&mut self.differing);
        self.open(now, epoch, Some(list));
        true
    }

    /// Answers a peer's question.
    pub fn compare(&mut self, now: Instant, epoch: u64, from: &NodeId, compare: &Compare) -> Answer {
        let Some(counted) = self.counted.as_ref().filter(|counted| counted.epoch == epoch) else {
            self.sooner(now);
            return Answer::Later;
        };
        let none = Summary::default();
        let summary = counted.summaries.get(from).unwrap_or(&none);
        let differs = |range: &&Range| summary.fingerprint(range.prefix) != range.fingerprint;
        let prefixes: Vec<Prefix> = compare.ranges.iter().filter(differs).map(|range| range.prefix).collect();
        // Much may have come since this was counted: count again rather than list it all.
        let old = now.since(counted.at) >= self.interval / 4;
        if prefixes.contains(&Prefix::ROOT) && old && (self.is_idle() || self.is_reading()) {
            self.sooner(now);
            return Answer::Later;
        }
        Answer::Differ(prefixes)
    }

    /// When something is due, if it is not an answer that is waited for.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.is_idle() {
            return Some(self.next);
        }
        self.descents.values().filter_map(|descent| descent.retry_at).min()
    }
}

/// Chunks gathered for questions, by peer.
#[derive(Debug, Default)]
pub struct Batches {
    batches: BTreeMap<NodeId, Vec<(Item, u64)>>,
}

/// Chunks in one question.
const BATCH: usize = 512;

impl Batches {
    /// Adds a chunk with its size; a batch, once it is full.
    pub fn add(&mut self, peer: NodeId, item: Item, size: u64) -> Option<Vec<(Item, u64)>> {
        let batch = self.batches.entry(peer).or_default();
        batch.push((item, size));
        (batch.len() >= BATCH).then(|| std::mem::take(batch))
    }

    /// All that is gathered.
    pub fn take(&mut self) -> BTreeMap<NodeId, Vec<(Item, u64)>> {
        let mut all = std::mem::take(&mut self.batches);
        all.retain(|_, batch| !batch.is_empty());
        all
    }
}

/// Chunks that should be here and are not, being fetched.
#[derive(Debug, Default)]
pub struct Fetches {
    wanted: BTreeMap<ChunkId, Fetch>,
}

#[derive(Debug)]
struct Fetch {
    due: Instant,
    tries: u8,
    under_way: bool,
    /// Passes over all holdings since it was last found to be lacking.
    passes: u8,
}

/// Fetches remembered, and under way.
const MAX_WANTED: usize = 4096;
const MAX_FETCHING: usize = 4;

/// After so many tries in vain the time to the next grows no more: 64 s.
const MAX_TRIES: u8 = 6;

impl Fetches {
    /// A chunk is to be fetched.
    pub fn want(&mut self, now: Instant, chunk: ChunkId) {
        if let Some(fetch) = self.wanted.get_mut(&chunk) {
            fetch.passes = 0;
        } else if self.wanted.len() < MAX_WANTED {
            self.wanted.insert(chunk, Fetch { due: now, tries: 0, under_way: false, passes: 0 });
        }
    }

    /// A pass over all holdings ended. What could not be had is lost for as long as passes find it
    /// lacking, and is forgotten when two did not: nothing refers to it any more.
    pub fn end_of_pass(&mut self) {
        self.wanted.retain(|_, fetch| {
            fetch.passes = fetch.passes.saturating_add(1);
            fetch.under_way || fetch.tries < MAX_TRIES || fetch.passes <= 2
        });
    }

    fn busy(&self) -> usize {
        self.wanted.values().filter(|fetch| fetch.under_way).count()
    }

    /// The next chunk to fetch; then [`Fetches::fetched`].
    pub fn next(&mut self, now: Instant) -> Option<ChunkId> {
        if self.busy() >= MAX_FETCHING {
            return None;
        }
        // In turn, so that what nobody has keeps nothing else waiting.
        let due = self.wanted.iter_mut().filter(|(_, f)| !f.under_way && f.due <= now);
        let (chunk, fetch) = due.min_by_key(|(_, f)| f.due)?;
        fetch.under_way = true;
        Some(*chunk)
    }

    /// It is here, or could not be had.
    pub fn fetched(&mut self, now: Instant, chunk: ChunkId, done: bool) {
        let Some(fetch) = self.wanted.get_mut(&chunk) else { return };
        fetch.tries = (fetch.tries + 1).min(MAX_TRIES);
        if done {
            self.wanted.remove(&chunk);
        } else {
            (fetch.under_way, fetch.due) = (false, now + Duration::from_secs(1 << fetch.tries));
        }
    }

    /// When [`Fetches::next`] has something.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.busy() >= MAX_FETCHING {
            return None;
        }
        self.wanted.values().filter(|fetch| !fetch.under_way).map(|fetch| fetch.due).min()
    }

    /// Which were tried at least twice, so that nobody who answers has them: `in_vain`; or the others.
    pub fn which(&self, in_vain: bool) -> BTreeSet<ChunkId> {
        let which = self.wanted.iter().filter(|(_, fetch)| (fetch.tries >= 2) == in_vain);
        which.map(|(chunk, _)| *chunk).collect()
    }

    /// Whether none.
    pub fn is_empty(&self) -> bool {
        self.wanted.is_empty()
    }
}
