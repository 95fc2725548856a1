//! The consistent hash ring: where chunks and names belong.
//!
//! Invariants: the ring is a function of the set of its nodes (ids, zones, capacities) and of the
//! cluster's reference capacity, not of their order; a node that joins, leaves or changes its
//! capacity moves only its own share, as every token depends on one node alone (Karger et al.,
//! *Consistent Hashing and Random Trees*, 1997; many tokens a node as in DeCandia et al., *Dynamo*,
//! 2007, section 6.2, strategy 1).
//!
//! Deliberately absent: who is alive. The view puts on the ring whoever may own something.

pub mod token;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use sha2::{Digest, Sha256};

use crate::node_id::NodeId;

/// Up to so many owners are found without an allocation.
const INLINE_OWNERS: usize = 16;

/// A node with what decides its share of the ring.
#[derive(Clone, Copy, Debug)]
pub struct Weighted<'a> {
    /// The node.
    pub id: NodeId,
    /// Its failure zone; without one it is a zone of its own.
    pub zone: Option<&'a str>,
    /// Bytes it offers.
    pub capacity: u64,
}

/// Tokens of nodes in order; immutable and cheap to clone.
#[derive(Clone, Default)]
pub struct Ring {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    /// By id, so that the order of indexes is the order of ids.
    nodes: Vec<Node>,
    /// How many distinct zones the nodes are in.
    zones: usize,
    /// By position, then by node index: equal positions are ordered by node id.
    tokens: Vec<Token>,
    /// `buckets[b]` is the index of the first token whose leading bits are at least `b`.
    buckets: Vec<u32>,
    /// How far to shift a key to the right to get its bucket.
    shift: u32,
    digest: OnceLock<[u8; 32]>,
}

struct Node {
    id: NodeId,
    /// Number of its zone among the zones of this ring.
    zone: u32,
    zone_name: Option<Box<str>>,
    tokens: u32,
    /// Keys whose first owner it is, of 2^64.
    keys: u128,
}

/// 16 bytes, so that a lookup that passes a few tokens stays within a cache line or two. The zone
/// is repeated here for the same reason.
#[derive(Clone, Copy)]
struct Token {
    position: u64,
    node: u32,
    zone: u32,
}

impl Ring {
    /// Places every node's tokens. `reference_capacity` is the cluster's constant, in bytes.
    ///
    /// Of nodes that are given twice the one with the greatest capacity counts.
    pub fn build<'a>(reference_capacity: u64, nodes: impl IntoIterator<Item = Weighted<'a>>) -> Self {
        Self::default().rebuild(reference_capacity, nodes)
    }

    /// The same as [`Ring::build`], but takes over from this ring the tokens of every node that is
    /// on both, so that a ring of which little changes is made without hashing and sorting it anew.
    /// A ring that nothing changes is returned as it is.
    #[must_use]
    pub fn rebuild<'a>(
        &self,
        reference_capacity: u64,
        nodes: impl IntoIterator<Item = Weighted<'a>>,
    ) -> Self {
        let (nodes, zones) = number_zones(reference_capacity, nodes);
        if self.inner.has_nodes(&nodes) {
            return self.clone();
        }
        let tokens = self.inner.place(&nodes);
        let (buckets, shift) = index(&tokens);
        let mut inner = Inner { nodes, zones, tokens, buckets, shift, digest: OnceLock::new() };
        inner.measure_shares();
        Self { inner: Arc::new(inner) }
    }

    /// All distinct nodes clockwise from `key`, in preference order: for a replication factor of
    /// `n`, the first `n` are the owners (zones not yet used first among them), those after are
    /// the fallbacks in the order in which they take over: clockwise.
    ///
    /// Walks about nodes x ln(nodes) tokens; [`Ring::candidates`] stops earlier.
    pub fn preference(&self, key: u64, n: usize) -> Vec<NodeId> {
        self.candidates(key, n, self.len())
    }

    /// The first `limit` of [`Ring::preference`]: the `n` owners, if `limit` allows, and a few
    /// fallbacks.
    pub fn candidates(&self, key: u64, n: usize, limit: usize) -> Vec<NodeId> {
        let inner = &*self.inner;
        let limit = limit.min(self.len());
        let mut picks = vec![0; n.min(self.len())];
        inner.pick_owners(key, &mut picks);
        let mut taken = vec![false; self.len()];
        picks.iter().for_each(|pick| taken[*pick as usize] = true);
        let mut clockwise = inner.clockwise(key);
        while picks.len() < limit {
            let Some(token) = clockwise.next() else { break };
            if !std::mem::replace(&mut taken[token.node as usize], true) {
                picks.push(token.node);
            }
        }
        picks.truncate(limit);
        picks.into_iter().map(|pick| inner.nodes[pick as usize].id).collect()
    }

    /// The first `n` of [`Ring::preference`]: the owners; fewer if the ring has fewer nodes.
    pub fn owners(&self, key: u64, n: usize) -> Vec<NodeId> {
        let mut owners = Vec::with_capacity(n.min(self.len()));
        self.owners_into(key, n, &mut owners);
        owners
    }

    /// Replaces what is in `owners` by [`Ring::owners`]: no allocation where it has the room.
    pub fn owners_into(&self, key: u64, n: usize, owners: &mut Vec<NodeId>) {
        owners.clear();
        self.with_owners(key, n, |picks| {
            owners.extend(picks.iter().map(|pick| self.inner.nodes[*pick as usize].id));
        });
    }

    /// Whether `id` is among the first `n` of [`Ring::preference`].
    pub fn is_owner(&self, key: u64, n: usize, id: &NodeId) -> bool {
        let Some(index) = self.inner.position(id) else { return false };
        self.with_owners(key, n, |picks| picks.contains(&(index as u32)))
    }

    /// Number of nodes.
    pub fn len(&self) -> usize {
        self.inner.nodes.len()
    }

    /// Whether nobody owns anything.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether `id` is on the ring.
    pub fn contains(&self, id: &NodeId) -> bool {
        self.inner.position(id).is_some()
    }

    /// The nodes on the ring, by id.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = NodeId> {
        self.inner.nodes.iter().map(|node| node.id)
    }

    /// The share of keys, 0 to 1, whose first owner is `id`.
    pub fn share(&self, id: &NodeId) -> f64 {
        self.inner.position(id).map_or(0.0, |index| self.inner.nodes[index].keys as f64 / 2f64.powi(64))
    }

    /// Every token, ascending, with its node.
    pub fn tokens(&self) -> impl Iterator<Item = (u64, NodeId)> {
        self.inner.tokens.iter().map(|token| (token.position, self.inner.nodes[token.node as usize].id))
    }

    /// SHA-256 over all nodes, zones and tokens: equal on nodes with equal views.
    ///
    /// Over the number of nodes (4 bytes), for each node by id: its id, a zero byte, and either a
    /// zero byte or a byte of one, its zone and a zero byte; then for each token: its position
    /// (8 bytes) and the index of its node by id (4 bytes). Numbers are big-endian.
    pub fn digest(&self) -> [u8; 32] {
        *self.inner.digest.get_or_init(|| self.inner.hash())
    }

    fn with_owners<T>(&self, key: u64, n: usize, then: impl FnOnce(&[u32]) -> T) -> T {
        let n = n.min(self.len());
        if n <= INLINE_OWNERS {
            let mut picks = [0; INLINE_OWNERS];
            self.inner.pick_owners(key, &mut picks[..n]);
            then(&picks[..n])
        } else {
            let mut picks = vec![0; n];
            self.inner.pick_owners(key, &mut picks);
            then(&picks)
        }
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ring({} nodes, {} tokens)", self.len(), self.inner.tokens.len())
    }
}

impl PartialEq for Ring {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
            || (self.inner.has_nodes(&other.inner.nodes) && self.tokens().eq(other.tokens()))
    }
}

impl Eq for Ring {}

impl Inner {
    fn position(&self, id: &NodeId) -> Option<usize> {
        self.nodes.binary_search_by(|node| node.id.cmp(id)).ok()
    }

    fn has_nodes(&self, nodes: &[Node]) -> bool {
        let same = |a: &Node, b: &Node| a.id == b.id && a.zone_name == b.zone_name && a.tokens == b.tokens;
        self.nodes.len() == nodes.len() && self.nodes.iter().zip(nodes).all(|(a, b)| same(a, b))
    }

    /// The tokens of `nodes` in order. Those of nodes that have as many here are taken over, the
    /// others are computed, sorted, and merged in.
    fn place(&self, nodes: &[Node]) -> Vec<Token> {
        let mut renumbered = vec![None; self.nodes.len()];
        let mut fresh = Vec::new();
        for (index, node) in (0..).zip(nodes) {
            match self.position(&node.id) {
                Some(old) if self.nodes[old].tokens == node.tokens => renumbered[old] = Some(index),
                _ => fresh.extend(token::of(&node.id, node.tokens).map(|position| Token {
                    position,
                    node: index,
                    zone: node.zone,
                })),
            }
        }
        fresh.sort_unstable_by_key(Token::order);
        // Both sides number nodes by id, so what is kept stays in order.
        let kept = self.tokens.iter().filter_map(|token| {
            let node = renumbered[token.node as usize]?;
            Some(Token { node, zone: nodes[node as usize].zone, ..*token })
        });
        merge(kept, fresh, nodes.iter().map(|node| node.tokens as usize).sum())
    }

    fn measure_shares(&mut self) {
        let Some(last) = self.tokens.last() else { return };
        let mut previous = last.position;
        let mut total = 0;
        for token in &self.tokens {
            let arc = u128::from(token.position.wrapping_sub(previous));
            self.nodes[token.node as usize].keys += arc;
            total += arc;
            previous = token.position;
        }
        // All tokens at one position: the first of them has everything.
        if total == 0 {
            self.nodes[self.tokens[0].node as usize].keys = 1 << 64;
        }
    }

    /// The index of the first token at or after `key`, wrapping.
    fn first_at(&self, key: u64) -> usize {
        let Some(start) = self.buckets.get((key >> self.shift) as usize) else { return 0 };
        let mut index = *start as usize;
        while index < self.tokens.len() && self.tokens[index].position < key {
            index += 1;
        }
        if index == self.tokens.len() { 0 } else { index }
    }

    /// Every token once, clockwise from `key`.
    fn clockwise(&self, key: u64) -> impl Iterator<Item = &Token> {
        let (before, after) = self.tokens.split_at(self.first_at(key));
        after.iter().chain(before)
    }

    /// Fills `picks`, which is not longer than there are nodes, with the indexes of the owners.
    fn pick_owners(&self, key: u64, picks: &mut [u32]) {
        let (wanted, mut found) = (picks.len(), 0);
        let of_distinct_zones = wanted.min(self.zones);
        let mut clockwise = self.clockwise(key);
        while found < of_distinct_zones {
            let Some(token) = clockwise.next() else { break };
            if picks[..found].iter().all(|pick| self.nodes[*pick as usize].zone != token.zone) {
                picks[found] = token.node;
                found += 1;
            }
        }
        if found == wanted {
            return;
        }
        let mut clockwise = self.clockwise(key);
        while found < wanted {
            let Some(token) = clockwise.next() else { break };
            if !picks[..found].contains(&token.node) {
                picks[found] = token.node;
                found += 1;
            }
        }
        assert_eq!(found, wanted, "every node has tokens");
    }

    fn hash(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update((self.nodes.len() as u32).to_be_bytes());
        for node in &self.nodes {
            hash.update(node.id.as_str());
            hash.update([0]);
            match &node.zone_name {
                Some(zone) => {
                    hash.update([1]);
                    hash.update(zone.as_bytes());
                    hash.update([0]);
                }
                None => hash.update([0]),
            }
        }
        for token in &self.tokens {
            let mut bytes = [0; 12];
            bytes[..8].copy_from_slice(&token.position.to_be_bytes());
            bytes[8..].copy_from_slice(&token.node.to_be_bytes());
            hash.update(bytes);
        }
        hash.finalize().into()
    }
}

impl Token {
    const fn order(&self) -> (u64, u32) {
        (self.position, self.node)
    }
}

/// The nodes by id with their numbers of tokens, and how many distinct zones they are in.
fn number_zones<'a>(reference: u64, nodes: impl IntoIterator<Item = Weighted<'a>>) -> (Vec<Node>, usize) {
    let mut by_id: BTreeMap<NodeId, Weighted<'a>> = BTreeMap::new();
    for node in nodes {
        let entry = by_id.entry(node.id).or_insert(node);
        if (node.capacity, node.zone) > (entry.capacity, entry.zone) {
            *entry = node;
        }
    }
    let mut names = BTreeMap::new();
    let mut zones = 0;
    let mut fresh = || {
        zones += 1;
        zones - 1
    };
    let nodes = by_id
        .into_values()
        .map(|node| Node {
            id: node.id,
            zone: match node.zone {
                Some(name) => *names.entry(name).or_insert_with(&mut fresh),
                None => fresh(),
            },
            zone_name: node.zone.map(Box::from),
            tokens: token::count(node.capacity, reference),
            keys: 0,
        })
        .collect();
    (nodes, zones as usize)
}

/// Merges two ordered sequences of tokens.
fn merge(kept: impl Iterator<Item = Token>, fresh: Vec<Token>, total: usize) -> Vec<Token> {
    let mut merged = Vec::with_capacity(total);
    let mut fresh = fresh.into_iter().peekable();
    for token in kept {
        while let Some(earlier) = fresh.next_if(|f| f.order() < token.order()) {
            merged.push(earlier);
        }
        merged.push(token);
    }
    merged.extend(fresh);
    debug_assert_eq!(merged.len(), total);
    merged
}

/// The bucket index over `tokens`: about one token a bucket, so that a lookup scans one or two.
fn index(tokens: &[Token]) -> (Vec<u32>, u32) {
    let bits = tokens.len().next_power_of_two().trailing_zeros().clamp(1, 31);
    let shift = 64 - bits;
    let mut buckets = Vec::with_capacity(1 << bits);
    for (index, token) in (0u32..).zip(tokens) {
        let bucket = (token.position >> shift) as usize;
        while buckets.len() <= bucket {
            buckets.push(index);
        }
    }
    buckets.resize(1 << bits, tokens.len() as u32);
    (buckets, shift)
}

#[cfg(test)]
mod tests;
