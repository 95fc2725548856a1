//! Judges a short history by trying every explanation.
//!
//! The rules are those of [`checker`](super::checker), written without its shortcut: for every
//! operation every set of versions is tried, and every combination of sets of a session. It is
//! what the checker is tested against, and far too slow for anything longer than a few operations.

use std::collections::BTreeSet;

use super::checker::{Register, Shape, follows};
use super::{Operation, Phase};

/// The most versions a judged history may write.
pub const MAX_VERSIONS: usize = 8;

/// Whether some explanation makes every operation of this one name right.
///
/// # Panics
/// With more than [`MAX_VERSIONS`] writes.
pub fn is_explicable(operations: &[Operation]) -> bool {
    let all: Vec<&Operation> = operations.iter().collect();
    let register = Register::new(&all);
    assert!(register.versions.len() <= MAX_VERSIONS, "too many versions to try every set");
    let shown_unwritten =
        operations.iter().filter(|o| o.phase == Phase::Ok && !o.is_write()).any(|o| {
            o.survivors.iter().flatten().chain(o.version.iter()).any(|token| {
                register.by_token.get(token).is_none_or(|index| register.versions[*index].failed)
            })
        });
    let superseded_failed = operations.iter().filter(|o| o.phase == Phase::Ok).any(|o| {
        o.context
            .iter()
            .flatten()
            .any(|token| register.by_token.get(token).is_some_and(|index| register.versions[*index].failed))
    });
    let good: Vec<&Operation> = all.iter().copied().filter(|o| o.phase == Phase::Ok).collect();
    let two_winners = good.iter().enumerate().any(|(at, a)| {
        good[at + 1..]
            .iter()
            .any(|b| a.is_write() && b.is_write() && a.if_match.is_some() && a.if_match == b.if_match)
    });
    !shown_unwritten && !superseded_failed && !two_winners && assign(&register, &good, &mut Vec::new())
}

/// Gives the next operation every set it could have known, and goes on.
fn assign(register: &Register<'_>, good: &[&Operation], sets: &mut Vec<BTreeSet<usize>>) -> bool {
    let Some(operation) = good.get(sets.len()) else {
        return creations_know_one_another(register, good, sets);
    };
    let possible = register.possible(operation);
    let demanded = register.demanded(operation);
    for bits in 0u32..1 << register.versions.len() {
        let set: BTreeSet<usize> = (0..register.versions.len()).filter(|v| bits >> v & 1 == 1).collect();
        let sound = set.is_subset(&possible)
            && demanded.is_subset(&set)
            && has_shape(register, operation, &set)
            && good.iter().zip(sets.iter()).all(|(other, known)| {
                (!follows(other, operation) || known.is_subset(&set))
                    && (!follows(operation, other) || set.is_subset(known))
            });
        if !sound {
            continue;
        }
        sets.push(set);
        if assign(register, good, sets) {
            return true;
        }
        sets.pop();
    }
    false
}

fn has_shape(register: &Register<'_>, operation: &Operation, set: &BTreeSet<usize>) -> bool {
    let superseded_by = |field: fn(&super::checker::Written) -> &BTreeSet<usize>, victim: usize| {
        set.iter().any(|v| field(&register.versions[*v]).contains(&victim))
    };
    let shape = register.shape(operation);
    let local = matches!(shape, Shape::Locally(_));
    match shape {
        Shape::Impossible(_) => false,
        Shape::Free => true,
        Shape::Holds(base) => set.contains(&base) && !superseded_by(|v| &v.surely, base),
        Shape::Within(live) => set.iter().all(|v| {
            live.contains(v) || register.versions[*v].tombstone || superseded_by(|w| &w.perhaps, *v)
        }),
        Shape::Exactly(ref live) | Shape::Locally(ref live) => (0..register.versions.len()).all(|v| {
            let here = set.contains(&v);
            if live.contains(&v) {
                here && !superseded_by(if local { |w| &w.direct } else { |w| &w.surely }, v)
            } else {
                !here || register.versions[v].tombstone || superseded_by(|w| &w.perhaps, v)
            }
        }),
    }
}

fn creations_know_one_another(
    register: &Register<'_>,
    good: &[&Operation],
    sets: &[BTreeSet<usize>],
) -> bool {
    let creations: Vec<usize> =
        (0..good.len()).filter(|at| good[*at].if_absent && good[*at].is_write()).collect();
    creations.iter().enumerate().all(|(position, a)| {
        creations[position + 1..].iter().all(|b| {
            sets[*a].contains(&register.own[&good[*b].id]) || sets[*b].contains(&register.own[&good[*a].id])
        })
    })
}
