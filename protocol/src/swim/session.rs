//! Fresh nonces and the sessions that they prove.
//!
//! A datagram counts only within a session: its sender's present process (epoch) has answered a
//! fresh nonce of ours, and its counter is new. Datagrams of anybody else are answered with a
//! challenge and kept aside, one a sender; they take effect once the challenge is answered by the same
//! process. So neither a restart of ours nor one of theirs makes old datagrams new again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::node_id::NodeId;
use crate::time::Instant;
use crate::wire::gossip::{Announcement, Update};

/// Nonces remembered at most; the one that ends first makes room.
const MAX_NONCES: usize = 8_192;

/// Strangers challenged at once at most.
const MAX_CHALLENGES: usize = 1_024;

/// A stranger's datagram takes effect if its process sent at most so many others until it answered.
pub(super) const STASH_WINDOW: u64 = 64;

/// How long a challenge may be answered.
pub(super) const CHALLENGE_LIFE: Duration = Duration::from_secs(5);

/// One stranger is answered at most [`PACE_ANSWERS`] times in this time.
const PACE: Duration = Duration::from_millis(100);
const PACE_ANSWERS: u8 = 4;

/// What a nonce was drawn for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Probe,
    Relay { origin: NodeId, nonce: u64 },
    Contact,
    Challenge,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    to: Option<NodeId>,
    purpose: Purpose,
    until: Instant,
}

/// Nonces whose answers are awaited.
#[derive(Debug, Default)]
pub(super) struct Nonces {
    asked: BTreeMap<u64, Asked>,
    ends: BTreeSet<(Instant, u64)>,
}

impl Nonces {
    pub fn ask(
        &mut self,
        rng: &mut fastrand::Rng,
        now: Instant,
        to: Option<NodeId>,
        purpose: Purpose,
        until: Instant,
    ) -> u64 {
        while let Some((at, nonce)) = self.ends.first().copied() {
            if at > now && self.asked.len() < MAX_NONCES {
                break;
            }
            self.ends.remove(&(at, nonce));
            self.asked.remove(&nonce);
        }
        let nonce = rng.u64(..);
        if let Some(old) = self.asked.insert(nonce, Asked { to, purpose, until }) {
            self.ends.remove(&(old.until, nonce));
        }
        self.ends.insert((until, nonce));
        nonce
    }

    /// Takes a nonce that `from` echoed, if it was drawn for `from` or for anybody.
    pub fn answer(&mut self, now: Instant, nonce: u64, from: &NodeId) -> Option<Purpose> {
        let asked = self.asked.get(&nonce)?;
        if asked.until < now || asked.to.is_some_and(|to| to != *from) {
            return None;
        }
        let (purpose, until) = (asked.purpose, asked.until);
        self.asked.remove(&nonce);
        self.ends.remove(&(until, nonce));
        Some(purpose)
    }
}

/// A stranger's datagram, kept until it proves to be fresh.
#[derive(Debug)]
pub(super) struct Stash {
    pub process: (u64, u64),
    pub counter: u64,
    pub announcement: Option<Announcement>,
    pub health: u8,
    pub updates: Vec<Update>,
    at: Instant,
    answers: u8,
}

/// Strangers whose answer is awaited.
#[derive(Debug, Default)]
pub(super) struct Challenges {
    open: BTreeMap<NodeId, Stash>,
}

impl Challenges {
    /// Keeps a stranger's datagram; says whether the stranger may be answered now.
    pub fn keep(
        &mut self,
        now: Instant,
        sender: NodeId,
        (process, counter): ((u64, u64), u64),
        (announcement, health): (Option<Announcement>, u8),
        updates: Vec<Update>,
    ) -> bool {
        if let Some(stash) = self.open.get_mut(&sender)
            && now.since(stash.at) < PACE
        {
            stash.answers = stash.answers.saturating_add(1);
            return stash.answers <= PACE_ANSWERS;
        }
        if self.open.len() >= MAX_CHALLENGES {
            self.open.retain(|_, stash| now.since(stash.at) < CHALLENGE_LIFE);
            if self.open.len() >= MAX_CHALLENGES {
                return false;
            }
        }
        self.open
            .insert(sender, Stash { process, counter, announcement, health, updates, at: now, answers: 1 });
        true
    }

    /// What was kept of a process that now answered with its datagram number `counter`.
    pub fn release(
        &mut self,
        now: Instant,
        sender: &NodeId,
        process: (u64, u64),
        counter: u64,
    ) -> Option<Stash> {
        let stash = self.open.remove(sender)?;
        let fresh = stash.process == process
            && counter.checked_sub(stash.counter).is_some_and(|gap| (1..=STASH_WINDOW).contains(&gap))
            && now.since(stash.at) < CHALLENGE_LIFE;
        fresh.then_some(stash)
    }
}
