//! How fast chunks and calls go between two processes on loopback, and what they cost.
//!
//! `cargo bench -p kepler-node --bench transfer`. The receiver hashes on a blocking thread while bytes
//! arrive and throws them away: this measures the swarm, not a disk.
#![allow(clippy::unwrap_used, missing_docs)]

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use kepler_node::swarm::{self, ChunkStore, Config, Incoming, Limits, Refusal, Service};
use kepler_protocol::chunk::{Chunk, ChunkId, Codec};
use kepler_protocol::node_id::NodeId;
use kepler_protocol::version::Dot;
use kepler_protocol::view::{Member, Metadata, State, View};
use tokio::sync::{mpsc, oneshot, watch};

const MIB: usize = 1 << 20;
const CHILD: &str = "KEPLER_BENCH_RECEIVER";
const CONNECTIONS: &str = "KEPLER_BENCH_CONNECTIONS";

/// What `main` of a node sets by mallopt: big buffers stay with the process.
const MALLOC: [(&str, &str); 3] = [
    ("MALLOC_TRIM_THRESHOLD_", "536870912"),
    ("MALLOC_MMAP_THRESHOLD_", "33554432"),
    ("MALLOC_TOP_PAD_", "4194304"),
];

/// Hashes what comes, and gives back one chunk.
struct Hashing {
    sample: Chunk,
}

struct HashingIncoming {
    pieces: mpsc::Sender<Bytes>,
    digest: oneshot::Receiver<[u8; 32]>,
    id: ChunkId,
}

#[async_trait]
impl ChunkStore for Hashing {
    async fn receive(&self, id: ChunkId, _: u64) -> Result<Box<dyn Incoming>, Refusal> {
        let (pieces, mut receiver) = mpsc::channel::<Bytes>(4);
        let (sender, digest) = oneshot::channel();
        tokio::task::spawn_blocking(move || {
            use aws_lc_rs::digest::{Context, SHA256};
            let mut context = Context::new(&SHA256);
            while let Some(piece) = receiver.blocking_recv() {
                context.update(&piece);
            }
            let _ = sender.send(context.finish().as_ref().try_into().unwrap());
        });
        Ok(Box::new(HashingIncoming { pieces, digest, id }))
    }

    async fn adopt(&self, _: ChunkId, _: Vec<Dot>) -> Result<bool, Refusal> {
        Ok(false)
    }

    async fn read(&self, _: ChunkId) -> Result<Option<Chunk>, Refusal> {
        Ok(Some(self.sample.clone()))
    }

    async fn held(&self, ids: Vec<ChunkId>) -> Result<Vec<bool>, Refusal> {
        Ok(vec![true; ids.len()])
    }
}

#[async_trait]
impl Incoming for HashingIncoming {
    async fn write(&mut self, piece: Bytes) -> Result<(), Refusal> {
        self.pieces.send(piece).await.map_err(|_| Refusal::Failed)
    }

    async fn finish(self: Box<Self>, _: Vec<Dot>) -> Result<(), Refusal> {
        drop(self.pieces);
        let digest = self.digest.await.map_err(|_| Refusal::Failed)?;
        if digest == *self.id.digest() { Ok(()) } else { Err(Refusal::Corrupt) }
    }
}

fn sample(size: usize, seed: u64) -> Chunk {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let bytes: Vec<u8> = (0..size / 8).flat_map(|_| next().to_le_bytes()).collect();
    Chunk::new(Codec::Raw, bytes.into())
}

fn config(name: &str) -> Config {
    let connections = std::env::var(CONNECTIONS).ok().and_then(|n| n.parse().ok()).unwrap_or(2);
    Config {
        node: name.parse().unwrap(),
        identity: [name.as_bytes()[0]; 32],
        cluster_keys: vec![[1; 32]],
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        limits: Limits { connections_per_peer: connections, ..Limits::default() },
    }
}

fn member(name: &str, port: u16) -> Member {
    let pair = libp2p::identity::Keypair::ed25519_from_bytes(config(name).identity).unwrap();
    let metadata = Metadata {
        key: pair.public().try_into_ed25519().unwrap().to_bytes(),
        addr: IpAddr::V4(Ipv4Addr::LOCALHOST),
        gossip_port: 1,
        transfer_port: port,
        http_port: 1,
        zone: None,
        capacity: 1,
        version: "0".into(),
    };
    Member { id: name.parse().unwrap(), state: State::Alive, incarnation: 0, metadata }
}

fn store() -> Arc<Hashing> {
    Arc::new(Hashing { sample: sample(4 * MIB, 0) })
}

/// The receiver: prints its port, echoes calls, and ends with its standard input.
async fn receive() {
    let (_view, view) = watch::channel(Arc::new(View::new(1, 1, [member("a", 1), member("b", 1)])));
    let (_handle, mut inbound, addr) = swarm::start(config("b"), view, store()).unwrap();
    println!("{}", addr.port());
    tokio::spawn(async move {
        while let Some(call) = inbound.recv().await {
            call.reply.send(call.body);
        }
    });
    let end = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()));
    let _ = end.await;
}

/// Seconds of CPU that both processes have used, by the kernel's count in hundredths.
fn cpu_seconds(child: &Child) -> f64 {
    let of = |pid: u32| -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
    };
    of(std::process::id()) + of(child.id())
}

/// The largest resident set of a process so far, in MiB.
fn peak_mib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

struct Bench {
    handle: swarm::Handle,
    to: NodeId,
    child: Child,
}

impl Bench {
    async fn run<F: Future<Output = ()>>(
        &self,
        what: &str,
        count: usize,
        bytes: usize,
        at_once: usize,
        one: impl Fn(usize) -> F,
    ) {
        let (started, cpu) = (Instant::now(), cpu_seconds(&self.child));
        futures::stream::iter(0..count).for_each_concurrent(at_once, one).await;
        let seconds = started.elapsed().as_secs_f64();
        let cpu = cpu_seconds(&self.child) - cpu;
        let gigabytes = (count * bytes) as f64 / 1e9;
        print!("{what:<44} {:>9.0}/s", count as f64 / seconds);
        if gigabytes >= 0.1 {
            print!("  {:>6.0} MB/s  {:>5.2} CPU s/GB", gigabytes * 1e3 / seconds, cpu / gigabytes);
        }
        println!("  {:>5.1} % of a core", 100.0 * cpu / seconds);
    }
}

async fn send() {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .env(CHILD, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let port = line.trim().parse().unwrap();
    let (_view, view) = watch::channel(Arc::new(View::new(1, 1, [member("a", 1), member("b", port)])));
    let (handle, _inbound, _) = swarm::start(config("a"), view, store()).unwrap();
    let bench = Bench { handle, to: "b".parse().unwrap(), child };
    let deadline = Duration::from_secs(30);
    assert!(bench.handle.ping(bench.to, deadline).await);

    let chunks: Vec<Chunk> = (0..8).map(|n| sample(4 * MIB, n)).collect();
    let small: Vec<Chunk> = (0..8).map(|n| sample(4 << 10, n)).collect();
    let (handle, to) = (&bench.handle, bench.to);
    for round in 1..=3 {
        for at_once in [4, 16] {
            let what = format!("push 4 MiB, {at_once} at once, round {round}");
            let chunks = &chunks;
            let push = |n: usize| async move { handle.push(to, chunks[n % 8].clone(), &[]).await.unwrap() };
            bench.run(&what, 256, 4 * MIB, at_once, push).await;
        }
    }
    let sample_id = sample(4 * MIB, 0).id();
    bench
        .run("fetch 4 MiB, verified, 8 at once", 256, 4 * MIB, 8, |_| async move {
            assert_eq!(handle.fetch(to, sample_id).await.unwrap().id(), sample_id);
        })
        .await;
    for at_once in [1, 16] {
        let small = &small;
        bench
            .run(&format!("push 4 KiB, {at_once} at once"), 4000, 4 << 10, at_once, |n| async move {
                handle.push(to, small[n % 8].clone(), &[]).await.unwrap();
            })
            .await;
        bench
            .run(&format!("call with 200 bytes, {at_once} at once"), 4000, 200, at_once, |_| async move {
                let body = Bytes::from_static(&[0; 200]);
                handle.call(to, Service::Catalog, body, deadline).await.unwrap();
            })
            .await;
    }
    let stats = bench.handle.stats();
    println!("cipher {}, {} connections", stats.cipher_suite.unwrap_or_default(), stats.connections);
    println!(
        "peak resident: sender {} MiB, receiver {} MiB",
        peak_mib(std::process::id()),
        peak_mib(bench.child.id())
    );
    let mut child = bench.child;
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    child.wait().unwrap();
}

fn main() {
    if std::env::var_os(MALLOC[0].0).is_none() {
        // The allocator reads its settings when a process starts.
        let mut again = Command::new(std::env::current_exe().unwrap());
        again.args(std::env::args_os().skip(1)).envs(MALLOC);
        std::process::exit(again.status().unwrap().code().unwrap_or(1));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    match std::env::var_os(CHILD) {
        Some(_) => runtime.block_on(receive()),
        // On a worker, as in a node: the main thread would be woken for every step.
        None => runtime.block_on(async { tokio::spawn(send()).await.unwrap() }),
    }
    runtime.shutdown_background();
}
