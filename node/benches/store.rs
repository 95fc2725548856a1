//! How fast one store takes chunks: `cargo bench -p kepler-node --bench store -- [clients] [seconds]`.
//!
//! Prints one line a size: chunks and bytes a second, and latencies. `STORE_BENCH_DIR` says on which
//! disk. Nothing is asserted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use kepler_node::store::{Config, Store};
use kepler_protocol::chunk::{Chunk, Codec};
use kepler_protocol::version::{Dot, Origin};

fn main() {
    let mut numbers = std::env::args().skip(1).filter_map(|argument| argument.parse::<u64>().ok());
    let clients = numbers.next().unwrap_or(16);
    let seconds = numbers.next().unwrap_or(3);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    for (size, streamed) in
        [(4 << 10, false), (4 << 10, true), (64 << 10, false), (1 << 20, false), (4 << 20, true)]
    {
        let dir = match std::env::var("STORE_BENCH_DIR") {
            Ok(base) => tempfile::tempdir_in(base),
            Err(_) => tempfile::tempdir(),
        };
        let dir = dir.expect("a temporary directory can be made");
        runtime.block_on(measure(dir.path(), clients, Duration::from_secs(seconds), size, streamed));
    }
}

async fn measure(dir: &std::path::Path, clients: u64, time: Duration, size: usize, streamed: bool) {
    let config =
        Config { data_dir: dir.join("data"), min_free: 0, node: "bench".parse().expect("a valid id") };
    let (store, _) = Store::open(config).expect("the store opens");
    let next = Arc::new(AtomicU64::new(1));
    let begun = Instant::now();
    let before = cpu_time();
    let tasks: Vec<_> = (0..clients)
        .map(|_| tokio::spawn(client(store.clone(), next.clone(), begun + time, size, streamed)))
        .collect();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await.expect("a client ends"));
    }
    let (took, cpu) = (begun.elapsed().as_secs_f64(), cpu_time() - before);
    latencies.sort_unstable();
    let count = latencies.len();
    let at = |share: f64| latencies[((count - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    println!(
        "{:>8} B {:<8} {clients:>3} clients: {:>7.0}/s {:>8.1} MB/s  p50 {:>6.2} ms  p99 {:>7.2} ms  {:>6.0} us CPU each",
        size,
        if streamed { "streamed" } else { "whole" },
        count as f64 / took,
        (count * size) as f64 / took / 1e6,
        at(0.5),
        at(0.99),
        cpu.as_secs_f64() * 1e6 / count as f64,
    );
    store.close().await;
}

async fn client(
    store: Store,
    next: Arc<AtomicU64>,
    until: Instant,
    size: usize,
    streamed: bool,
) -> Vec<Duration> {
    let origin = Origin { node: "bench".parse().expect("a valid id"), generation: 1 };
    let mut latencies = Vec::new();
    let mut bytes = vec![0_u8; size];
    while Instant::now() < until {
        let number = next.fetch_add(1, Ordering::Relaxed);
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        let chunk = Chunk::new(Codec::Raw, Bytes::copy_from_slice(&bytes));
        let dots = [Dot { origin, sequence: number }];
        let begun = Instant::now();
        if streamed {
            let mut incoming = store.receive(chunk.id(), size as u64).await.expect("there is room");
            for at in (0..size).step_by(256 << 10) {
                incoming
                    .write(chunk.bytes().slice(at..size.min(at + (256 << 10))))
                    .await
                    .expect("it is written");
            }
            incoming.finish(&dots).await.expect("it is stored");
        } else {
            store.put(chunk, &dots).await.expect("it is stored");
        }
        latencies.push(begun.elapsed());
    }
    latencies
}

/// CPU time of this process.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}
