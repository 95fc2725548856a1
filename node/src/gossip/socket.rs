//! The loop of the gossip thread: drain the socket, obey, fire timers, send, publish.
//!
//! Invariant: timers fire only when no datagram is waiting. A node that fired them first would
//! accuse others of what lies unread in its own socket.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kepler_protocol::swim::{self, Announcement, Swim};
use kepler_protocol::time::Instant;
use kepler_protocol::view::{State, View};
use kepler_protocol::wire::seal::MAX_DATAGRAM;
use prometheus_client::metrics::histogram::Histogram;
use rustix::time::{ClockId, clock_gettime};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tracing::{debug, info, warn};

use super::{Command, Event};

/// Datagrams read before commands get a turn; more than a socket buffer usually holds.
const DRAIN: usize = 4_096;

/// How often members are offered for persisting at most.
const PERSIST_EVERY: Duration = Duration::from_secs(2);

/// Running time that goes on while the machine sleeps (`CLOCK_BOOTTIME`), from the start of the thread.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    origin: Duration,
}

impl Clock {
    pub fn start() -> Self {
        Self { origin: boot_time() }
    }

    pub fn now(&self) -> Instant {
        Instant::ZERO + boot_time().saturating_sub(self.origin)
    }
}

fn boot_time() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

pub(super) struct Driver {
    socket: UdpSocket,
    clock: Clock,
    swim: Swim,
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<Event>,
    view: watch::Sender<Arc<View>>,
    epoch: u64,
    buffer: Vec<u8>,
    /// Members changed since they were last offered for persisting.
    unsaved: bool,
    saved_at: Instant,
    dropped: u64,
    /// Set by others, taken before anything is sent.
    announcement: Arc<Mutex<Option<Announcement>>>,
    round_trips: Histogram,
}

impl Driver {
    pub fn new(
        socket: UdpSocket,
        clock: Clock,
        swim: Swim,
        commands: mpsc::Receiver<Command>,
        events: mpsc::Sender<Event>,
        view: watch::Sender<Arc<View>>,
        (announcement, round_trips): (Arc<Mutex<Option<Announcement>>>, Histogram),
    ) -> Self {
        let saved_at = clock.now();
        // One byte more than a datagram may have: what is longer shows.
        let buffer = vec![0; MAX_DATAGRAM + 1];
        Self {
            socket,
            clock,
            swim,
            commands,
            events,
            view,
            epoch: 1,
            buffer,
            unsaved: false,
            saved_at,
            dropped: 0,
            announcement,
            round_trips,
        }
    }

    pub async fn run(mut self) {
        loop {
            // Before the datagrams: what they make this machine answer says it too.
            if let Some(announcement) =
                self.announcement.lock().unwrap_or_else(PoisonError::into_inner).take()
            {
                self.swim.set_announcement(announcement);
            }
            let drained = self.drain();
            for round_trip in self.swim.take_round_trips() {
                self.round_trips.observe(round_trip.as_secs_f64());
            }
            if drained {
                self.swim.handle_timeout(self.clock.now());
            }
            self.send().await;
            self.publish();
            if !drained {
                // The socket still holds datagrams: commands get a turn, timers do not.
                if !self.obey_waiting().await {
                    return;
                }
                continue;
            }
            let now = self.clock.now();
            let save = self.unsaved.then(|| self.saved_at + PERSIST_EVERY);
            let wake = self.swim.poll_timeout().into_iter().chain(save).min();
            let wait = wake.map_or(Duration::from_secs(60), |at| at.since(now));
            tokio::select! {
                biased;
                _ = self.socket.readable() => {}
                command = self.commands.recv() => {
                    let Some(command) = command else { return };
                    if !self.obey(command).await {
                        return;
                    }
                }
                () = tokio::time::sleep(wait) => {}
            }
            if !self.obey_waiting().await {
                return;
            }
        }
    }

    /// Hands over what waits in the socket; false if there is more.
    fn drain(&mut self) -> bool {
        for _ in 0..DRAIN {
            match self.socket.try_recv_from(&mut self.buffer) {
                Ok((len, from)) => {
                    let now = self.clock.now();
                    self.swim.handle_datagram(now, canonical(from), &self.buffer[..len]);
                }
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return true,
                // An ICMP refusal of something sent earlier: the next read goes on.
                Err(e) => debug!(error = %e, "receiving a datagram failed"),
            }
        }
        false
    }

    async fn send(&mut self) {
        while let Some(transmit) = self.swim.poll_transmit() {
            if let Err(e) = self.socket.try_send_to(&transmit.datagram, transmit.to) {
                if e.kind() != std::io::ErrorKind::WouldBlock {
                    debug!(peer = %transmit.to, error = %e, "sending a datagram failed");
                    continue;
                }
                // A fresh socket says so before it was polled; a full one empties within moments.
                let sent = self.socket.send_to(&transmit.datagram, transmit.to);
                let _ = tokio::time::timeout(Duration::from_millis(20), sent).await;
            }
        }
    }

    async fn obey_waiting(&mut self) -> bool {
        while let Ok(command) = self.commands.try_recv() {
            if !self.obey(command).await {
                return false;
            }
        }
        true
    }

    /// Does what it is told; false when that ends the thread.
    async fn obey(&mut self, command: Command) -> bool {
        let now = self.clock.now();
        match command {
            Command::Ready(ready) => self.swim.set_ready(ready),
            Command::Constants(constants) => {
                self.swim.set_constants(constants);
                self.epoch += 1;
                self.view.send_replace(Arc::new(self.swim.view(self.epoch)));
            }
            Command::Keys(keys) => self.swim.set_keys(keys),
            Command::Leave => self.swim.leave(),
            Command::Stay => self.swim.stay(),
            Command::Forget(node, answer) => {
                let _ = answer.send(self.swim.forget(&node));
                self.unsaved = true;
            }
            Command::Goodbye(state, answer) => {
                if state == State::Left {
                    self.swim.left();
                } else {
                    self.swim.announce_dead();
                }
                self.send().await;
                self.publish();
                let _ = answer.send(());
                return false;
            }
            Command::PushPull(payload, answer) => {
                let _ = answer.send(self.swim.handle_exchange_request(now, &payload).ok());
            }
            Command::PushPullAnswer(payload) => {
                if let Err(e) = self.swim.handle_exchange_response(now, &payload) {
                    warn!(error = %e, "a member's answer to a full-state exchange was refused");
                }
            }
            Command::StreamProbed(token, ok) => self.swim.handle_stream_probe(now, token, ok),
            Command::Heard(answer) => {
                let heard = self.swim.heard().map(|(node, at)| (node, now.since(at)));
                let _ = answer.send(heard.collect());
            }
            Command::Counters(answer) => {
                let _ = answer.send((self.swim.counters(), self.swim.health()));
            }
        }
        true
    }

    /// Hands events on; a view that changed is published before the events that tell of it.
    fn publish(&mut self) {
        let mut events = Vec::new();
        let mut changed = false;
        while let Some(event) = self.swim.poll_event() {
            changed |= matches!(event, swim::Event::MemberChanged { .. });
            events.push(event);
        }
        if changed {
            self.epoch += 1;
            self.unsaved = true;
            self.view.send_replace(Arc::new(self.swim.view(self.epoch)));
        }
        for event in events {
            let event = self.translate(event);
            self.emit(event);
        }
        let now = self.clock.now();
        if self.unsaved && now.since(self.saved_at) >= PERSIST_EVERY {
            let peers = self.swim.members().map(|(state, record)| (state, Arc::clone(record))).collect();
            self.unsaved = !self.emit(Event::Peers(peers));
            self.saved_at = now;
        }
    }

    fn translate(&mut self, event: swim::Event) -> Event {
        match event {
            swim::Event::PushPull { to } => Event::PushPull { to, payload: self.swim.exchange_payload() },
            swim::Event::StreamProbe { target, token } => Event::StreamProbe { to: target, token },
            swim::Event::Announced { node, announcement } => Event::Announced { node, announcement },
            swim::Event::MemberChanged { node, previous, state } => {
                info!(peer = %node, ?previous, ?state, "a member changed");
                Event::MemberChanged { node, previous, state }
            }
            swim::Event::IdInUse { by } => {
                warn!(%by, "this node's id belongs to a live node with another identity");
                Event::IdInUse { by }
            }
            swim::Event::Refuted { incarnation } => {
                debug!(incarnation, "others doubted this node");
                Event::Refuted { incarnation }
            }
            swim::Event::ForeignCluster { node, from, cluster } => {
                debug!(peer = %node, %from, ?cluster, "ignored a node of another cluster");
                Event::ForeignCluster { node, from }
            }
        }
    }

    /// Never waits: a composition root that is busy loses events, not the cluster its heartbeat.
    fn emit(&mut self, event: Event) -> bool {
        let sent = self.events.try_send(event).is_ok();
        if !sent && !self.events.is_closed() {
            self.dropped += 1;
            if self.dropped.is_power_of_two() {
                warn!(dropped = self.dropped, "gossip events are not fetched fast enough");
            }
        }
        sent
    }
}

/// An IPv4 address that an IPv6 socket reports in disguise.
fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}
