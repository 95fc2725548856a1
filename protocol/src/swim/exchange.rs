//! Full-state exchange (push-pull): both sides tell all they know, as opaque bytes over the swarm.
//!
//! A verdict on a member that this side sees alive is taken as a suspicion only: after a partition each side has
//! buried the other, and whoever is alive must get the time to say so before anybody moves data.

use std::collections::BTreeSet;

use super::{Event, Swim};
use crate::node_id::NodeId;
use crate::time::Instant;
use crate::view::State;
use crate::wire::gossip::{Accusation, ExchangeHead, InvalidMessage, MAX_EXCHANGE, Update};

/// What is left free at the end: no member takes more.
const ROOM: usize = 2_048;

impl Swim {
    /// Everything this node knows, for [`Event::PushPull`].
    ///
    /// Where not all of it fits, it is as many members as do, from a random one on.
    pub fn exchange_payload(&mut self) -> Vec<u8> {
        let out = self.payload_from(0);
        match self.members.len() {
            all if out.len() + ROOM > MAX_EXCHANGE && all > 0 => {
                let first = self.rng.usize(..all);
                self.payload_from(first)
            }
            _ => out,
        }
    }

    fn payload_from(&self, first: usize) -> Vec<u8> {
        let head = ExchangeHead { cluster: self.constants.map(|c| c.cluster) };
        let mut out = minicbor::to_vec(head).expect("encoding to memory does not fail");
        Update::Claim(self.me.claim().clone()).encode_to(&mut out);
        let (late, early) = (self.members.iter().skip(first), self.members.iter().take(first));
        for (slot, member) in late.chain(early).filter(|(_, m)| !m.unheard) {
            if out.len() + ROOM > MAX_EXCHANGE {
                break;
            }
            Update::Claim(member.record.claim().clone()).encode_to(&mut out);
            if let Some(accusation) = self.accusation(slot, member) {
                Update::Accusation(accusation).encode_to(&mut out);
            }
        }
        out
    }

    /// Another member's payload, received over an authenticated stream: takes it over and returns the answer.
    ///
    /// # Errors
    /// When it is none, too long, or of another cluster; nothing was changed.
    pub fn handle_exchange_request(
        &mut self,
        now: Instant,
        payload: &[u8],
    ) -> Result<Vec<u8>, InvalidMessage> {
        self.merge_exchange(now, payload)?;
        Ok(self.exchange_payload())
    }

    /// The answer of a member to [`Swim::exchange_payload`].
    ///
    /// # Errors
    /// As for [`Swim::handle_exchange_request`].
    pub fn handle_exchange_response(&mut self, now: Instant, payload: &[u8]) -> Result<(), InvalidMessage> {
        self.merge_exchange(now, payload)?;
        self.synced = true;
        Ok(())
    }

    fn merge_exchange(&mut self, now: Instant, payload: &[u8]) -> Result<(), InvalidMessage> {
        if self.stopped {
            return Ok(());
        }
        let (head, updates) = ExchangeHead::decode(payload)?;
        if let (Some(own), Some(cluster)) = (self.constants, head.cluster)
            && own.cluster != cluster
        {
            self.counters.foreign += 1;
            return Err(InvalidMessage::Malformed);
        }
        // Whom this side did not know, or did not know to be here, may be dead for long.
        let alive: BTreeSet<NodeId> =
            self.members.iter().filter(|(_, m)| m.state().is_reachable()).map(|(_, m)| m.id()).collect();
        let mut accusations = Vec::new();
        for update in updates {
            match update {
                // Only what is news spreads on: a newcomer's table is everybody else's old one.
                Update::Claim(claim) => self.apply_claim(claim, self.synced),
                Update::Accusation(accusation) => accusations.push(accusation),
                Update::Unknown => {}
            }
        }
        for accusation in accusations {
            let known = alive.contains(&accusation.subject);
            let verdict = if known { State::Suspect } else { accusation.verdict };
            self.apply_accusation(now, Accusation { verdict, ..accusation });
        }
        Ok(())
    }

    /// Asks for a full-state exchange with `to` out of turn.
    pub fn request_exchange(&mut self, to: NodeId) {
        self.push_event(Event::PushPull { to });
    }
}
