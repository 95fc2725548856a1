//! Every interleaving of one write with the adoption of one roster change, for rosters of 1 to 4
//! members, all home lists and all changes, with the real rule of what makes a floor.
//!
//! A member holds the old roster, or the new one without its floor, or with it. A write is
//! acknowledged by the majorities that its coordinator's stage requires, from members at that
//! stage. Then no reader at any stage may find its majorities among members without the write.
//! Exchange is left out: it only spreads the write. Who knows a floor with the write but does not
//! have it is not ready; so a member only goes on to a floor that it has seen.

use std::collections::{BTreeMap, BTreeSet};

use super::world::id;
use crate::identity::{ClusterId, DatabaseId};
use crate::roster::change::{Change, Decided, Reason};
use crate::roster::floor::Floor;
use crate::roster::{Constants, Entry, Roster};

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Old,
    Adopted,
    Known,
}

const STAGES: [Stage; 3] = [Stage::Old, Stage::Adopted, Stage::Known];

/// A member as one database; who is bound anew is two.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Member {
    stage: Stage,
    has: bool,
    /// Whether its confirmation has the write.
    confirmed: bool,
}

struct Case {
    /// Databases in the old roster, in the new one, and their home lists, as bits.
    old: u8,
    new: u8,
    old_homes: u8,
    new_homes: u8,
    old_majority: u32,
    new_majority: u32,
    /// For each set of confirmers, whether it is enough.
    enough: Vec<bool>,
    count: usize,
}

impl Case {
    fn bits(&self, state: &[Member], of: impl Fn(&Member) -> bool) -> u8 {
        (0..self.count).filter(|i| of(&state[*i])).fold(0, |bits, i| bits | 1 << i)
    }

    /// Who answers at a stage: newcomers only once they have seen the floor.
    fn entitled(&self, state: &[Member], stage: Stage) -> u8 {
        let there = self.bits(state, |m| m.stage == stage);
        match stage {
            Stage::Old => there & self.old,
            Stage::Adopted => there & self.old & self.new,
            Stage::Known => there & self.new,
        }
    }

    /// Whether these members are the majorities that a request at this stage needs.
    fn suffices(&self, members: u8, stage: Stage) -> bool {
        let old = (members & self.old_homes).count_ones() >= self.old_majority;
        let new = (members & self.new_homes).count_ones() >= self.new_majority;
        match stage {
            Stage::Old => old,
            Stage::Adopted => old && new,
            Stage::Known => new,
        }
    }

    fn steps(&self, state: &[Member], writing: Stage) -> Vec<Vec<Member>> {
        let mut next = Vec::new();
        let mut step = |at: usize, member: Member| {
            let mut changed = state.to_vec();
            changed[at] = member;
            next.push(changed);
        };
        let writable = self.entitled(state, writing) & (self.old_homes | self.new_homes);
        let silent = self.bits(state, |m| m.stage != Stage::Old && !m.confirmed) & self.old;
        let anyone = self.bits(state, |m| m.stage != Stage::Old) & self.old;
        for (at, member) in state.iter().enumerate() {
            if !member.has && writable >> at & 1 == 1 {
                step(at, Member { has: true, ..*member });
            }
            match member.stage {
                Stage::Old => {
                    step(at, Member { stage: Stage::Adopted, confirmed: member.has, ..*member });
                }
                Stage::Adopted if self.enough[usize::from(if member.has { anyone } else { silent })] => {
                    step(at, Member { stage: Stage::Known, ..*member });
                }
                _ => {}
            }
        }
        next
    }

    /// How many states were seen, or `None` if a reader can miss an acknowledged write.
    fn explore(&self, writing: Stage) -> Option<usize> {
        let start = vec![Member { stage: Stage::Old, has: false, confirmed: false }; self.count];
        let mut seen = BTreeSet::from([start.clone()]);
        let mut open = vec![start];
        while let Some(state) = open.pop() {
            let holders = self.bits(&state, |m| m.has);
            let missed = |stage| self.suffices(self.entitled(&state, stage) & !holders, stage);
            if self.suffices(holders, writing) && STAGES.into_iter().any(missed) {
                return None;
            }
            for next in self.steps(&state, writing) {
                if seen.insert(next.clone()) {
                    open.push(next);
                }
            }
        }
        Some(seen.len())
    }
}

fn entry(database: usize) -> Entry {
    Entry { key: [0; 32], database: DatabaseId([database as u8; 16]), zone: None, capacity: 1 }
}

/// All sets of `size` bits out of `of`.
fn subsets(of: u8, size: usize) -> impl Iterator<Item = u8> {
    (0..=of).filter(move |s| s & !of == 0 && s.count_ones() as usize == size)
}

/// All cases of a change; `slack` lets so many more be missing than the floor allows.
fn cases(members: usize, replication_factor: u8, kind: usize, slack: usize) -> Vec<Case> {
    let constants = Constants { cluster: ClusterId([0; 16]), reference_capacity: 1, replication_factor };
    let list: BTreeMap<_, _> = (0..members).map(|i| (id(i), entry(i))).collect();
    let roster = Roster { number: 1, constants, members: list };
    let old = (1u8 << members) - 1;
    let newcomer = 1 << members;
    let (node, bound, new, count) = match kind {
        0 => (id(members), Some(entry(members)), old | newcomer, members + 1),
        1 => (id(0), None, old & !1, members),
        _ => (id(0), Some(entry(members)), old & !1 | newcomer, members + 1),
    };
    if new == 0 {
        return Vec::new();
    }
    let reason = if bound.is_some() { Reason::Admitted } else { Reason::Dead };
    let decided = Decided::after(&roster, &Change { node, entry: bound, reason });
    let floor = Floor::new(&decided);
    let enough = (0..1u8 << count).map(|set| {
        let confirmed: BTreeSet<_> = (0..members).filter(|i| set >> i & 1 == 1).map(id).collect();
        let missing = members - confirmed.len();
        floor.enough(&confirmed) || slack > 0 && missing + roster.majority() <= roster.replicas() + slack
    });
    let enough: Vec<bool> = enough.collect();
    let mut cases = Vec::new();
    for old_homes in subsets(old, roster.replicas()) {
        for new_homes in subsets(new, decided.roster.replicas()) {
            cases.push(Case {
                old,
                new,
                old_homes,
                new_homes,
                old_majority: roster.majority() as u32,
                new_majority: decided.roster.majority() as u32,
                enough: enough.clone(),
                count,
            });
        }
    }
    cases
}

fn all_cases(slack: usize) -> impl Iterator<Item = Case> {
    let shapes = (1..=4).flat_map(|members| (1..=3).flat_map(move |n| (0..3).map(move |k| (members, n, k))));
    shapes.flat_map(move |(members, factor, kind)| cases(members, factor, kind, slack))
}

#[test]
fn no_reader_misses_a_write_acknowledged_across_a_roster_change() {
    let mut states = 0;
    for (number, case) in all_cases(0).enumerate() {
        for writing in STAGES {
            states += case.explore(writing).unwrap_or_else(|| panic!("case {number} misses a write"));
        }
    }
    assert!(states > 10_000, "only {states} states were explored");
}

#[test]
fn a_floor_that_lets_one_more_be_missing_is_found() {
    assert!(all_cases(1).any(|case| STAGES.into_iter().any(|s| case.explore(s).is_none())));
}
