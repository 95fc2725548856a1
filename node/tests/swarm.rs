//! Swarms of two and three nodes on loopback, with chunk stores in memory and views made by hand.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use kepler_node::swarm::{
    self, CallError, ChunkStore, Config, Handle, Inbound, Incoming, Limits, MAX_BODY_BYTES, MAX_DOTS,
    MAX_IDS, Refusal, Service, StartError, TransferError,
};
use kepler_protocol::chunk::{Chunk, ChunkId, Codec};
use kepler_protocol::node_id::NodeId;
use kepler_protocol::version::{Dot, Origin};
use kepler_protocol::view::{Member, Metadata, State, View};
use tokio::sync::{Notify, mpsc, watch};

const MIB: usize = 1 << 20;
const SOON: Duration = Duration::from_secs(20);

/// A chunk store in memory that can be told to misbehave.
#[derive(Default)]
struct Memory {
    chunks: Mutex<BTreeMap<ChunkId, Bytes>>,
    dots: Mutex<BTreeMap<ChunkId, BTreeSet<Dot>>>,
    receives: AtomicUsize,
    most_at_once: AtomicUsize,
    now: AtomicUsize,
    pieces: AtomicUsize,
    full: AtomicBool,
    /// Fails the write of this piece, counted from 1 over all chunks; 0 fails none.
    fails_at_piece: AtomicUsize,
    /// Answers reads with another chunk.
    lies: AtomicBool,
    /// Never returns from writing.
    hangs: AtomicBool,
    hung: Notify,
}

struct MemoryIncoming {
    store: Arc<Memory>,
    id: ChunkId,
    bytes: Vec<u8>,
}

impl Drop for MemoryIncoming {
    fn drop(&mut self) {
        self.store.now.fetch_sub(1, Ordering::SeqCst);
    }
}

struct Shared(Arc<Memory>);

#[async_trait]
impl ChunkStore for Shared {
    async fn receive(&self, id: ChunkId, _: u64) -> Result<Box<dyn Incoming>, Refusal> {
        let store = self.0.clone();
        if store.full.load(Ordering::SeqCst) {
            return Err(Refusal::DiskFull);
        }
        store.receives.fetch_add(1, Ordering::SeqCst);
        let now = store.now.fetch_add(1, Ordering::SeqCst) + 1;
        store.most_at_once.fetch_max(now, Ordering::SeqCst);
        Ok(Box::new(MemoryIncoming { store, id, bytes: Vec::new() }))
    }

    async fn adopt(&self, id: ChunkId, dots: Vec<Dot>) -> Result<bool, Refusal> {
        let here = self.0.chunks.lock().unwrap().contains_key(&id);
        if here {
            self.0.dots.lock().unwrap().entry(id).or_default().extend(dots);
        }
        Ok(here)
    }

    async fn read(&self, id: ChunkId) -> Result<Option<Chunk>, Refusal> {
        if self.0.lies.load(Ordering::SeqCst) {
            return Ok(Some(Chunk::new(Codec::Raw, Bytes::from_static(b"something else"))));
        }
        let bytes = self.0.chunks.lock().unwrap().get(&id).cloned();
        Ok(bytes.map(|bytes| Chunk::new(id.codec(), bytes)))
    }

    async fn held(&self, ids: Vec<ChunkId>) -> Result<Vec<bool>, Refusal> {
        let chunks = self.0.chunks.lock().unwrap();
        Ok(ids.iter().map(|id| chunks.contains_key(id)).collect())
    }
}

#[async_trait]
impl Incoming for MemoryIncoming {
    async fn write(&mut self, piece: Bytes) -> Result<(), Refusal> {
        let nth = self.store.pieces.fetch_add(1, Ordering::SeqCst) + 1;
        if self.store.hangs.load(Ordering::SeqCst) {
            self.store.hung.notify_one();
            std::future::pending::<()>().await;
        }
        if nth == self.store.fails_at_piece.load(Ordering::SeqCst) {
            return Err(Refusal::DiskFull);
        }
        self.bytes.extend_from_slice(&piece);
        Ok(())
    }

    async fn finish(mut self: Box<Self>, dots: Vec<Dot>) -> Result<(), Refusal> {
        let bytes = Bytes::from(std::mem::take(&mut self.bytes));
        let chunk = Chunk::verify(self.id, bytes).map_err(|_| Refusal::Corrupt)?;
        self.store.chunks.lock().unwrap().insert(self.id, chunk.into_bytes());
        self.store.dots.lock().unwrap().entry(self.id).or_default().extend(dots);
        Ok(())
    }
}

struct Node {
    id: NodeId,
    key: [u8; 32],
    addr: SocketAddr,
    handle: Handle,
    inbound: mpsc::Receiver<Inbound>,
    store: Arc<Memory>,
    view: watch::Sender<Arc<View>>,
}

fn id(name: &str) -> NodeId {
    name.parse().unwrap()
}

fn config(name: &str) -> Config {
    let mut identity = [7; 32];
    identity[..name.len()].copy_from_slice(name.as_bytes());
    Config {
        node: id(name),
        identity,
        cluster_keys: vec![[1; 32]],
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        limits: Limits { slot_wait: SOON, ..Limits::default() },
    }
}

impl Node {
    fn start(config: Config) -> Self {
        let pair = libp2p::identity::Keypair::ed25519_from_bytes(config.identity).unwrap();
        let key = pair.public().try_into_ed25519().unwrap().to_bytes();
        let store = Arc::new(Memory::default());
        let (view, receiver) = watch::channel(Arc::new(View::new(0, 1, [])));
        let id = config.node;
        let (handle, inbound, addr) =
            swarm::start(config, receiver, Arc::new(Shared(store.clone()))).unwrap();
        Self { id, key, addr, handle, inbound, store, view }
    }

    fn member(&self, state: State) -> Member {
        let metadata = Metadata {
            key: self.key,
            addr: IpAddr::V4(Ipv4Addr::LOCALHOST),
            gossip_port: 1,
            transfer_port: self.addr.port(),
            http_port: 1,
            zone: None,
            capacity: 1,
            version: "0".into(),
        };
        Member { id: self.id, state, incarnation: 0, metadata }
    }

    fn see(&self, members: Vec<Member>) {
        self.view.send_modify(|view| *view = Arc::new(View::new(view.epoch() + 1, 1, members)));
    }

    async fn next_call(&mut self) -> Inbound {
        let call = tokio::time::timeout(SOON, self.inbound.recv()).await;
        call.expect("a call comes").expect("the swarm runs")
    }

    /// Answers every call with its own body, reversed.
    fn echo(&mut self) {
        let (_, empty) = mpsc::channel(1);
        let mut inbound = std::mem::replace(&mut self.inbound, empty);
        tokio::spawn(async move {
            while let Some(call) = inbound.recv().await {
                call.reply.send(call.body.iter().rev().copied().collect::<Vec<u8>>().into());
            }
        });
    }
}

/// Nodes that all see each other alive.
fn cluster<const N: usize>(configs: [Config; N]) -> [Node; N] {
    let nodes = configs.map(Node::start);
    for node in &nodes {
        node.see(nodes.iter().map(|n| n.member(State::Alive)).collect());
    }
    nodes
}

fn chunk(size: usize, seed: u64) -> Chunk {
    let mut rng = fastrand_like(seed);
    let mut bytes = vec![0; size];
    bytes.iter_mut().for_each(|b| *b = rng() as u8);
    Chunk::new(Codec::Raw, bytes.into())
}

/// Marsaglia's xorshift: enough to tell chunks apart.
fn fastrand_like(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}

fn dot(sequence: u64) -> Dot {
    Dot { origin: Origin { node: id("a"), generation: 1 }, sequence }
}

async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < SOON, "not within {SOON:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_reach_the_right_service_and_name_their_caller() {
    let [a, mut b, c] = cluster([config("a"), config("b"), config("c")]);
    for (caller, service) in [(&a, Service::Catalog), (&c, Service::Gossip), (&a, Service::Load)] {
        let asked = caller.handle.call(b.id, service, Bytes::from_static(b"who is it"), SOON);
        let answered = async {
            let call = b.next_call().await;
            assert_eq!((call.from.node, call.from.key), (caller.id, caller.key));
            assert_eq!((call.service, &call.body[..]), (service, &b"who is it"[..]));
            call.reply.send(Bytes::from_static(b"you"));
        };
        let (answer, ()) = tokio::join!(asked, answered);
        assert_eq!(answer.unwrap(), "you");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_negotiated_cipher_is_aes_128_gcm() {
    let [a, b] = cluster([config("a"), config("b")]);
    assert_eq!(a.handle.stats().cipher_suite, None);
    assert!(a.handle.ping(b.id, SOON).await);
    for node in [&a, &b] {
        assert_eq!(node.handle.stats().cipher_suite.as_deref(), Some("TLS13_AES_128_GCM_SHA256"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_of_every_size_arrive_whole_and_come_back() {
    let [a, b] = cluster([config("a"), config("b")]);
    for (n, size) in [0, 1, 256 << 10, 4 * MIB - 1, 4 * MIB, 64 * MIB].into_iter().enumerate() {
        let chunk = chunk(size, n as u64);
        a.handle.push(b.id, chunk.clone(), &[dot(1)]).await.unwrap();
        assert_eq!(b.store.chunks.lock().unwrap()[&chunk.id()], chunk.bytes(), "{size} bytes");
        assert!(b.store.dots.lock().unwrap()[&chunk.id()].contains(&dot(1)));
        assert_eq!(a.handle.fetch(b.id, chunk.id()).await.unwrap(), chunk, "{size} bytes");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chunk_the_peer_has_is_not_sent_but_its_references_are() {
    let [a, b] = cluster([config("a"), config("b")]);
    let chunk = chunk(4 * MIB, 1);
    a.handle.push(b.id, chunk.clone(), &[dot(1)]).await.unwrap();
    let before = a.handle.stats();
    assert_eq!(before.chunk_bytes_out, 4 * MIB as u64);
    let dots: Vec<Dot> = (2..2 + 2 * MAX_DOTS as u64).map(dot).collect();
    a.handle.push(b.id, chunk.clone(), &dots).await.unwrap();
    let after = a.handle.stats();
    assert_eq!(after.chunk_bytes_out, before.chunk_bytes_out);
    assert!(after.bytes_out - before.bytes_out < MIB as u64, "references alone are small");
    assert_eq!(b.store.dots.lock().unwrap()[&chunk.id()].len(), 1 + dots.len());
    assert_eq!(b.store.receives.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_sends_other_bytes_is_caught() {
    let [a, b] = cluster([config("a"), config("b")]);
    let chunk = chunk(4 * MIB, 1);
    a.handle.push(b.id, chunk.clone(), &[]).await.unwrap();
    b.store.lies.store(true, Ordering::SeqCst);
    assert_eq!(a.handle.fetch(b.id, chunk.id()).await, Err(TransferError::Corrupt));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_missing_or_refused_is_said_so() {
    let [a, b] = cluster([config("a"), config("b")]);
    let (here, gone) = (chunk(MIB, 1), chunk(MIB, 2));
    assert_eq!(a.handle.fetch(b.id, gone.id()).await, Err(TransferError::Missing));
    a.handle.push(b.id, here.clone(), &[]).await.unwrap();
    assert_eq!(a.handle.held(b.id, vec![gone.id(), here.id()]).await, Ok(vec![false, true]));
    let many = vec![here.id(); MAX_IDS + 1];
    assert_eq!(a.handle.held(b.id, many).await, Ok(vec![true; MAX_IDS + 1]));

    b.store.full.store(true, Ordering::SeqCst);
    let refused = Err(TransferError::Refused(Refusal::DiskFull));
    let before = a.handle.stats().chunk_bytes_out;
    assert_eq!(a.handle.push(b.id, gone.clone(), &[]).await, refused);
    assert_eq!(a.handle.stats().chunk_bytes_out, before, "no byte travels in vain");
    b.store.full.store(false, Ordering::SeqCst);
    b.store.fails_at_piece.store(b.store.pieces.load(Ordering::SeqCst) + 2, Ordering::SeqCst);
    assert_eq!(a.handle.push(b.id, chunk(64 * MIB, 3), &[]).await, refused, "in the middle of it");
    a.handle.push(b.id, gone, &[]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_lacks_the_cluster_key_is_cut_off() {
    let wrong = Config { cluster_keys: vec![[2; 32]], ..config("w") };
    let none = Config { cluster_keys: vec![], ..config("n") };
    let [a, w, n] = cluster([config("a"), wrong, none]);
    for (from, to) in [(&w, &a), (&a, &w), (&n, &a), (&a, &n), (&n, &w)] {
        let call = from.handle.call(to.id, Service::Catalog, Bytes::new(), SOON).await;
        assert!(matches!(call, Err(CallError::Unreachable(_))), "{} to {}: {call:?}", from.id, to.id);
        assert_eq!(to.handle.stats().connections, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_rotate_without_anybody_being_cut_off() {
    let (old, new) = ([1; 32], [2; 32]);
    let stages = [vec![old], vec![old, new], vec![new, old], vec![new]];
    for pair in stages.windows(2) {
        let before = Config { cluster_keys: pair[0].clone(), ..config("b") };
        let after = Config { cluster_keys: pair[1].clone(), ..config("a") };
        let [a, b] = cluster([after, before]);
        assert!(a.handle.ping(b.id, SOON).await, "{pair:?}");
        assert!(b.handle.ping(a.id, SOON).await, "{pair:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_no_member_is_cut_off() {
    let [a, b, stranger] = cluster([config("a"), config("b"), config("c")]);
    a.see(vec![a.member(State::Alive), b.member(State::Alive)]);
    assert!(!stranger.handle.ping(a.id, SOON).await);
    assert!(matches!(
        a.handle.call(stranger.id, Service::Catalog, Bytes::new(), SOON).await,
        Err(CallError::Unreachable(_))
    ));
    // The same id under another key is another node.
    let impostor = Node::start(Config { identity: [9; 32], ..config("b") });
    impostor.see(vec![a.member(State::Alive)]);
    assert!(!impostor.handle.ping(a.id, SOON).await);
    assert!(b.handle.ping(a.id, SOON).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_dies_loses_its_connections_and_gets_them_back_when_it_returns() {
    let [a, b] = cluster([config("a"), config("b")]);
    assert!(a.handle.ping(b.id, SOON).await);
    a.see(vec![a.member(State::Alive), b.member(State::Dead)]);
    eventually("connections are closed", || {
        a.handle.stats().connections == 0 && b.handle.stats().connections == 0
    })
    .await;
    assert!(!b.handle.ping(a.id, SOON).await);
    a.see(vec![a.member(State::Alive), b.member(State::Joining)]);
    assert!(b.handle.ping(a.id, SOON).await);
    assert!(a.handle.ping(b.id, SOON).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_the_port_does_no_harm() {
    let [a, b] = cluster([config("a"), config("b")]);
    let addr = a.addr;
    let attack = tokio::task::spawn_blocking(move || {
        let mut random = fastrand_like(5);
        for n in 0..60 {
            let mut socket = TcpStream::connect(addr).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            let garbage: Vec<u8> = match n % 4 {
                0 => (0..5000).map(|_| random() as u8).collect(),
                1 => b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
                2 => b"\x13/multistream/1.0.0\n\x0b/tls/1.0.0\n\x16\x03\x01\xff\xff".to_vec(),
                _ => Vec::new(),
            };
            // It may have hung up already.
            let _ = socket.write_all(&garbage);
            let _ = socket.read(&mut [0; 100]);
        }
    });
    attack.await.unwrap();
    assert!(b.handle.ping(a.id, SOON).await);
    eventually("nothing is left of it", || a.handle.stats().serving == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_calls_at_once_are_all_answered() {
    let [a, mut b] = cluster([config("a"), config("b")]);
    b.echo();
    let calls = (0..200u32).map(|n| {
        let (handle, to) = (a.handle.clone(), b.id);
        tokio::spawn(async move {
            let body = Bytes::copy_from_slice(&n.to_be_bytes());
            (n, handle.call(to, Service::Catalog, body, SOON).await)
        })
    });
    for call in calls.collect::<Vec<_>>() {
        let (n, answer) = call.await.unwrap();
        assert_eq!(answer.unwrap(), &n.to_le_bytes()[..]);
    }
    assert_eq!((a.handle.stats().in_flight, b.handle.stats().connections > 0), (0, true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_chunks_than_slots_wait_for_their_turn() {
    let few = |name| {
        let limits = Limits { receive_slots: 3, chunks_per_peer: 40, ..config(name).limits };
        Config { limits, ..config(name) }
    };
    let [a, b, c] = cluster([few("a"), few("b"), few("c")]);
    let pushes = (0..60u64).map(|n| {
        let (handle, to) = (if n % 2 == 0 { &a } else { &c }.handle.clone(), b.id);
        tokio::spawn(async move { handle.push(to, chunk(100_000, n), &[dot(1)]).await })
    });
    for push in pushes.collect::<Vec<_>>() {
        push.await.unwrap().unwrap();
    }
    assert_eq!(b.store.chunks.lock().unwrap().len(), 60);
    assert!(b.store.most_at_once.load(Ordering::SeqCst) <= 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_cannot_be_answered_are_refused_in_words() {
    let limits = Limits { answer: Duration::from_secs(1), ..Limits::default() };
    let [a, mut b] = cluster([config("a"), Config { limits, ..config("b") }]);
    let to = b.id;
    let call = |body: Bytes| {
        let handle = a.handle.clone();
        async move { handle.call(to, Service::Catalog, body, SOON).await }
    };
    let too_large = call(vec![0; MAX_BODY_BYTES + 1].into()).await;
    assert_eq!(too_large, Err(CallError::TooLarge(MAX_BODY_BYTES + 1)));
    let (dropped, ()) = tokio::join!(call(Bytes::new()), async { drop(b.next_call().await) });
    assert_eq!(dropped, Err(CallError::Refused(Refusal::Failed)));
    let (oversized, ()) = tokio::join!(call(vec![1; MAX_BODY_BYTES].into()), async {
        let call = b.next_call().await;
        assert_eq!(call.body.len(), MAX_BODY_BYTES);
        call.reply.send(vec![0; MAX_BODY_BYTES + 1].into());
    });
    assert_eq!(oversized, Err(CallError::Refused(Refusal::TooLarge)));
    let (ignored, call) = tokio::join!(call(Bytes::new()), b.next_call());
    assert_eq!(ignored, Err(CallError::Refused(Refusal::Busy)));
    assert!(call.reply.is_closed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_holds_whatever_the_peer_does() {
    let [a, b] = cluster([config("a"), config("b")]);
    let deadline = Duration::from_millis(100);
    assert!(a.handle.ping(b.id, SOON).await);
    let started = Instant::now();
    let answer = a.handle.call(b.id, Service::Catalog, Bytes::new(), deadline).await;
    assert_eq!(answer, Err(CallError::TimedOut));
    assert!(started.elapsed() < Duration::from_secs(5));

    let limits = Limits { stall: deadline, answer: deadline, ..Limits::default() };
    let [c, d] = cluster([Config { limits, ..config("c") }, config("d")]);
    d.store.hangs.store(true, Ordering::SeqCst);
    assert_eq!(c.handle.push(d.id, chunk(64 * MIB, 1), &[]).await, Err(TransferError::TimedOut));
}

#[test]
fn a_peer_killed_in_the_middle_of_a_transfer_is_unreachable_at_once() {
    let runtime =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (ours, theirs) = (runtime(), runtime());
    let a = ours.block_on(async { Node::start(config("a")) });
    let b = theirs.block_on(async { Node::start(config("b")) });
    for node in [&a, &b] {
        node.see(vec![a.member(State::Alive), b.member(State::Alive)]);
    }
    b.store.hangs.store(true, Ordering::SeqCst);
    let push = {
        let (handle, to) = (a.handle.clone(), b.id);
        ours.spawn(async move { handle.push(to, chunk(64 * MIB, 1), &[]).await })
    };
    ours.block_on(b.store.hung.notified());
    let started = Instant::now();
    theirs.shutdown_background();
    let pushed = ours.block_on(push).unwrap();
    assert!(matches!(pushed, Err(TransferError::Unreachable(_))), "{pushed:?}");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    let started = Instant::now();
    assert!(!ours.block_on(a.handle.ping(b.id, SOON)), "nobody is there");
    assert!(started.elapsed() < Duration::from_secs(6));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stops_lets_running_calls_finish_and_then_takes_none() {
    let [a, mut b] = cluster([config("a"), config("b")]);
    let call = {
        let (handle, to) = (a.handle.clone(), b.id);
        tokio::spawn(async move { handle.call(to, Service::Catalog, Bytes::new(), SOON).await })
    };
    let running = b.next_call().await;
    let stopping = {
        let handle = b.handle.clone();
        tokio::spawn(async move { handle.shutdown().await })
    };
    tokio::task::yield_now().await;
    running.reply.send(Bytes::from_static(b"just in time"));
    assert_eq!(call.await.unwrap().unwrap(), "just in time");
    stopping.await.unwrap();
    b.handle.shutdown().await;
    assert!(!a.handle.ping(b.id, SOON).await);
    assert!(!b.handle.ping(a.id, SOON).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_in_use_is_an_error_and_the_first_node_keeps_it() {
    let [a, b] = cluster([config("a"), config("b")]);
    let second = Config { listen: a.addr, ..config("c") };
    let (_view, receiver) = watch::channel(Arc::new(View::new(0, 1, [])));
    let store = Arc::new(Shared(Arc::default()));
    let started = swarm::start(second, receiver, store);
    assert!(matches!(started, Err(StartError::Listen { addr, .. }) if addr == a.addr));
    assert!(b.handle.ping(a.id, SOON).await);
}
