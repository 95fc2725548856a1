//! Receipts and releases alone, without the machine that asks for them.

use std::collections::BTreeSet;
use std::time::Duration;

use super::world::chunk;
use crate::node_id::NodeId;
use crate::replicator::Faults;
use crate::replicator::memory::{Judge, Shelf};
use crate::replicator::rules::{Claim, PROMISE, RECEIPT_VALID, Reference};
use crate::time::Instant;
use crate::version::Dot;

/// Receipts alone, step by step: nodes with any idea of who the owners are ask, vouch, release, restart and
/// get copies again, in any order and with pauses. Whoever releases leaves N copies elsewhere.
pub fn receipts(seed: u64, faults: Faults) -> Result<(), String> {
    let (nodes, needed) = (6, 2);
    let mut random = fastrand::Rng::with_seed(seed);
    let ids: Vec<NodeId> = (0..nodes).map(|i| format!("n{i}").parse().unwrap()).collect();
    let chunk = chunk(1);
    let mut shelves: Vec<Shelf> = ids.iter().map(|_| Shelf::default()).collect();
    let mut origins = vec![Instant::ZERO; nodes];
    let mut claims: Vec<Option<Claim>> = vec![None; nodes];
    let mut now = Instant::ZERO;
    for shelf in &mut shelves {
        shelf.enter(chunk, 1, &[], true, faults);
    }
    let mut promised: Vec<Option<Instant>> = vec![None; nodes];
    for _ in 0..2000 {
        let pause = if random.u8(0..100) == 0 { 100_000 } else { 400 };
        now += Duration::from_millis(random.u64(0..pause));
        let at = random.usize(0..nodes);
        let clock = |at: usize| Instant::ZERO + now.since(origins[at]);
        match random.u8(0..12) {
            0..3 if shelves[at].has(&chunk) && claims[at].is_none() => {
                let mut others: Vec<usize> = (0..nodes).filter(|other| *other != at).collect();
                random.shuffle(&mut others);
                claims[at] = Some(Claim {
                    chunk,
                    asked_at: clock(at),
                    owners: others.into_iter().take(needed).map(|other| ids[other]).collect(),
                    receipts: BTreeSet::new(),
                    references: BTreeSet::new(),
                });
            }
            3..8 => {
                let Some(claim) = &mut claims[at] else { continue };
                let outstanding = claim.owners.difference(&claim.receipts).copied().collect::<Vec<_>>();
                if let Some(owner) = random.choice(&outstanding) {
                    let of = ids.iter().position(|id| id == owner).unwrap();
                    if shelves[of].promise(clock(of), chunk, &[], faults) {
                        if !shelves[of].has(&chunk) {
                            return Err(format!("I8: {owner} vouches for what it is deleting"));
                        }
                        promised[of] = Some(now);
                        claim.receipts.insert(*owner);
                    } else {
                        claims[at] = None;
                    }
                }
            }
            8 | 9 => {
                let Some(claim) = claims[at].clone().filter(|c| c.receipts == c.owners) else { continue };
                claims[at] = None;
                let (gc_grace, worth) = (Duration::ZERO, |_: &Dot| Reference::Live);
                let judge =
                    Judge { worth: &worth, now: clock(at), breaker: false, ready: true, gc_grace, faults };
                if shelves[at].release(&judge, &claim).is_ok() {
                    let others = (0..nodes).filter(|o| *o != at && shelves[*o].has(&chunk)).count();
                    let age = clock(at).since(claim.asked_at);
                    let kept = promised[at].is_none_or(|given| now.since(given) >= PROMISE);
                    if others < needed || age >= RECEIPT_VALID || !kept {
                        let me = ids[at];
                        return Err(format!(
                            "I8: {me} leaves {others} after {age:?}, its promise kept: {kept}"
                        ));
                    }
                }
            }
            10 if random.u8(0..4) == 0 => {
                // Killed and started: what was marked is unlinked.
                (origins[at], claims[at]) = (now, None);
                for gone in shelves[at].open(Instant::ZERO, faults) {
                    shelves[at].forget(&gone);
                }
            }
            _ => {
                // What was marked is unlinked, and somebody sends the chunk anew.
                if shelves[at].row(&chunk).is_none_or(|row| row.gone) && random.bool() {
                    shelves[at].forget(&chunk);
                    shelves[at].enter(chunk, 1, &[], true, faults);
                }
            }
        }
    }
    Ok(())
}

#[test]
fn whoever_releases_leaves_enough_copies_in_any_order_of_steps() {
    for seed in 0..1000 {
        assert_eq!(receipts(seed, Faults::default()), Ok(()), "seed {seed}");
    }
}
