//! Settings of the membership protocol and the formulas that follow from them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::SigningKey;

use crate::node_id::NodeId;
use crate::roster::Constants;
use crate::view::Metadata;
use crate::wire::gossip::Record;
use crate::wire::seal::KeyRing;

/// Members remembered at most, dead ones included.
pub const MAX_MEMBERS: usize = 20_000;

/// How far an accusation may run ahead of the incarnation it is about, and a statement ahead of the last one.
/// Whoever claims more is not believed, so no datagram can push an incarnation to its end.
pub const MAX_JUMP: u64 = 1 << 40;

/// How a node takes part.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node.
    pub id: NodeId,
    /// Its identity; `metadata.key` is set from it.
    pub identity: SigningKey,
    /// What it says of itself.
    pub metadata: Metadata,
    /// The cluster's keys.
    pub keys: KeyRing,
    /// This process: persisted before use, greater than every earlier one, from 1.
    pub epoch: u64,
    /// The probe period; 500 ms unless a test says otherwise.
    pub period: Duration,
    /// Gossip addresses of nodes to join through.
    pub seeds: Vec<SocketAddr>,
    /// Members known from an earlier run; none of them counts as alive before it answers.
    pub peers: Vec<Arc<Record>>,
    /// The cluster's constants, if an earlier run knew them.
    pub constants: Option<Constants>,
}

/// Members asked for help with a silent one.
pub const INDIRECT: usize = 3;

/// Independent suspicions that bring the timeout down to its minimum.
pub const CONFIRMATIONS: usize = 3;

/// Members gossiped to at each tick.
pub const FANOUT: usize = 3;

impl Config {
    /// How long a ping may take before others are asked to help.
    pub fn direct_timeout(&self) -> Duration {
        self.period * 2 / 5
    }

    /// The time between rounds of gossip while there is news.
    pub fn gossip_interval(&self) -> Duration {
        self.period * 2 / 5
    }

    /// The least and the greatest suspicion timeout among `members`.
    ///
    /// The least is five periods in small clusters, so that a pause of two seconds never kills at the
    /// default period, and grows with the time that a refutation needs to reach everybody.
    pub fn suspicion_bounds(&self, members: usize) -> (Duration, Duration) {
        let growth = (members.max(1) as f64).log10();
        let least = self.period.mul_f64((2.0 * growth).max(5.0));
        (least, least * 4)
    }

    /// How often one update is sent before it rests: lambda * log(n), and 15 in small clusters,
    /// where chance alone would miss somebody.
    pub fn transmit_limit(&self, members: usize) -> u32 {
        let digits = (members as f64 + 1.0).log10().ceil() as u32;
        (4 * digits).max(15)
    }

    /// The mean time between full-state exchanges; longer in larger clusters, whose exchanges are larger.
    pub fn exchange_interval(&self, members: usize) -> Duration {
        let doublings = (members as f64 / 32.0).max(1.0).log2().ceil() as u32;
        self.period * 60 * (1 + doublings)
    }

    /// The time between two attempts to reach somebody who is dead, or a seed or persisted peer that is
    /// not a member. All nodes together try each about eight times a second at most, alone once a second.
    pub fn contact_interval(&self, members: usize, absent: usize) -> Duration {
        let share = (members / (8 * absent.max(1))).clamp(1, 30) as u32;
        self.period * 2 * share
    }
}
