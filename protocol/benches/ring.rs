//! Prints how long the ring takes to build and to answer, at 100, 1,000 and 10,000 nodes.

use std::hint::black_box;
use std::time::{Duration, Instant};

use kepler_protocol::node_id::NodeId;
use kepler_protocol::ring::{Ring, Weighted};

const REFERENCE: u64 = 100 << 30;
const LOOKUPS: u32 = 2_000_000;

fn main() {
    println!("{:>6} {:>9} {:>11} {:>11} {:>14}", "nodes", "build", "one joins", "3 owners", "first 8 of all");
    for count in [100usize, 1_000, 10_000] {
        let ids: Vec<NodeId> =
            (0..=count).map(|i| format!("node-{i}").parse().expect("a plain name")).collect();
        let nodes =
            |n: usize| ids[..n].iter().map(|id| Weighted { id: *id, zone: None, capacity: REFERENCE });
        let (ring, build) = timed(|| Ring::build(REFERENCE, nodes(count)));
        let (_, join) = timed(|| ring.rebuild(REFERENCE, nodes(count + 1)));
        let mut owners = Vec::with_capacity(3);
        let lookup = each(LOOKUPS, |key| {
            ring.owners_into(key, 3, &mut owners);
            black_box(&owners);
        });
        let candidates = each(LOOKUPS / 20, |key| drop(black_box(ring.candidates(key, 3, 8))));
        println!("{count:>6} {build:>9.1?} {join:>11.1?} {lookup:>11.0?} {candidates:>14.0?}");
    }
}

fn timed<T>(run: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let result = black_box(run());
    (result, start.elapsed())
}

/// The mean time of `run` over pseudo-random keys.
fn each(times: u32, mut run: impl FnMut(u64)) -> Duration {
    let mut random = fastrand::Rng::with_seed(7);
    let keys: Vec<u64> = (0..4096).map(|_| random.u64(..)).collect();
    let start = Instant::now();
    for index in 0..times as usize {
        run(black_box(keys[index % keys.len()].wrapping_add(index as u64) ^ (index as u64) << 40));
    }
    start.elapsed() / times
}
