//! The network: what becomes of a message, link by link.
//!
//! Datagrams and streams have each their own directed graph of who hears whom. A link has latency,
//! bandwidth, and probabilities of loss, duplication and delay. A stream link that is cut in one
//! direction is half open: what was asked arrives, what is answered does not.
//!
//! The network decides fates and keeps no messages: the world schedules the deliveries.

use std::collections::BTreeMap;
use std::time::Duration;

use kepler_protocol::time::Instant;

use super::rng::chance;

/// A node, by its place in the cluster.
pub type Place = usize;

/// How a link behaves. Probabilities are parts per million.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// The least time a message takes.
    pub latency: Duration,
    /// Up to so much more, drawn for each message: what reorders.
    pub jitter: Duration,
    /// Datagrams lost. Streams lose nothing: they are late by a retransmission instead.
    pub loss: u32,
    /// Messages that arrive twice: datagrams, and requests and answers too, as if sent again.
    pub duplication: u32,
    /// Messages held back for up to ten seconds.
    pub delay: u32,
    /// Datagrams after which an attacker sends something like them.
    pub forged: u32,
    /// Bytes a second; messages queue behind one another.
    pub bandwidth: u64,
    /// Whether datagrams pass.
    pub datagrams: bool,
    /// Whether streams pass.
    pub streams: bool,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            latency: Duration::from_micros(200),
            jitter: Duration::from_micros(800),
            loss: 0,
            duplication: 0,
            delay: 0,
            forged: 0,
            bandwidth: 100_000_000,
            datagrams: true,
            streams: true,
        }
    }
}

/// What went over the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Datagrams sent.
    pub datagrams: u64,
    /// Requests and answers sent.
    pub messages: u64,
    /// Of both, what was lost or cut off.
    pub lost: u64,
    /// Of both, what arrived twice.
    pub doubled: u64,
}

/// All links.
pub struct Network {
    links: BTreeMap<(Place, Place), Link>,
    busy: BTreeMap<(Place, Place), Instant>,
    usual: Link,
    random: fastrand::Rng,
    /// What went over it.
    pub traffic: Traffic,
}

impl Network {
    /// A network where every link is `usual`.
    pub fn new(usual: Link, random: fastrand::Rng) -> Self {
        Self { links: BTreeMap::new(), busy: BTreeMap::new(), usual, random, traffic: Traffic::default() }
    }

    /// The link from one node to another.
    pub fn link(&self, from: Place, to: Place) -> Link {
        self.links.get(&(from, to)).copied().unwrap_or(self.usual)
    }

    /// Changes one direction of a link.
    pub fn change(&mut self, from: Place, to: Place, change: impl FnOnce(&mut Link)) {
        change(self.links.entry((from, to)).or_insert(self.usual));
    }

    /// Makes every link as usual.
    pub fn heal(&mut self) {
        self.links.clear();
    }

    /// Lets pass, datagrams and streams alike, what `hears(from, to)` says and nothing else.
    pub fn connect(&mut self, nodes: usize, hears: impl Fn(Place, Place) -> bool) {
        for from in 0..nodes {
            for to in (0..nodes).filter(|to| *to != from) {
                let passes = hears(from, to);
                self.change(from, to, |link| (link.datagrams, link.streams) = (passes, passes));
            }
        }
    }

    /// When a datagram arrives: never, once, or more than once.
    pub fn datagram(&mut self, now: Instant, from: Place, to: Place, bytes: usize) -> Vec<Instant> {
        self.traffic.datagrams += 1;
        let link = self.link(from, to);
        if !link.datagrams || chance(&mut self.random, link.loss) {
            self.traffic.lost += 1;
            return Vec::new();
        }
        self.arrivals(now, from, to, bytes, link)
    }

    /// When a request or an answer arrives. An empty list is a cut link: the sender learns nothing.
    pub fn stream(&mut self, now: Instant, from: Place, to: Place, bytes: usize) -> Vec<Instant> {
        self.traffic.messages += 1;
        let mut link = self.link(from, to);
        if !link.streams {
            self.traffic.lost += 1;
            return Vec::new();
        }
        if chance(&mut self.random, link.loss) {
            link.latency += Duration::from_millis(200);
        }
        self.arrivals(now, from, to, bytes, link)
    }

    fn arrivals(&mut self, now: Instant, from: Place, to: Place, bytes: usize, link: Link) -> Vec<Instant> {
        let busy = self.busy.entry((from, to)).or_default();
        let sending = Duration::from_micros(bytes as u64 * 1_000_000 / link.bandwidth.max(1));
        *busy = (*busy).max(now) + sending;
        let sent = *busy;
        let mut arrivals = vec![self.arrival(sent, link)];
        if chance(&mut self.random, link.duplication) {
            self.traffic.doubled += 1;
            arrivals.push(self.arrival(sent, link));
        }
        arrivals
    }

    fn arrival(&mut self, sent: Instant, link: Link) -> Instant {
        let mut taken = link.latency;
        taken += Duration::from_micros(self.random.u64(0..=link.jitter.as_micros() as u64));
        if chance(&mut self.random, link.delay) {
            taken += Duration::from_millis(self.random.u64(0..10_000));
        }
        sent + taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(usual: Link) -> Network {
        Network::new(usual, fastrand::Rng::with_seed(7))
    }

    #[test]
    fn a_cut_link_passes_nothing_and_its_other_direction_does() {
        let mut network = network(Link::default());
        network.connect(2, |from, _| from == 0);
        assert_eq!(network.datagram(Instant::ZERO, 0, 1, 10).len(), 1);
        assert_eq!(network.stream(Instant::ZERO, 1, 0, 10).len(), 0);
        network.heal();
        assert_eq!(network.stream(Instant::ZERO, 1, 0, 10).len(), 1);
    }

    #[test]
    fn loss_and_duplication_come_as_often_as_asked() {
        let usual = Link { loss: 250_000, duplication: 500_000, ..Link::default() };
        let mut network = network(usual);
        let counts: Vec<usize> = (0..4000).map(|_| network.datagram(Instant::ZERO, 0, 1, 10).len()).collect();
        let of = |n| counts.iter().filter(|c| **c == n).count();
        assert!((900..1100).contains(&of(0)), "{} of 4,000 lost", of(0));
        assert!((1400..1600).contains(&of(2)), "{} of 4,000 doubled", of(2));
    }

    #[test]
    fn a_narrow_link_queues() {
        let usual = Link { bandwidth: 1000, jitter: Duration::ZERO, ..Link::default() };
        let mut network = network(usual);
        let first = network.stream(Instant::ZERO, 0, 1, 500)[0];
        let second = network.stream(Instant::ZERO, 0, 1, 500)[0];
        assert_eq!(second - first, Duration::from_millis(500));
    }
}
