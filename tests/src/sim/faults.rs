//! What goes wrong, when, and for how long: planned from the seed, within a budget.
//!
//! The budget is what must be recoverable. State is lost (a database, a disk, a step back to an
//! older copy) on at most N - majority nodes of a run, there any number of times; everything else (kills, power cuts, freezes,
//! cuts, loss, delays, doubling, clocks, disk errors) is without limit, for all of it ends.

use std::fmt;
use std::time::Duration;

use kepler_protocol::time::Instant;

use super::network::Place;

/// How a file goes bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// A bit flips.
    Flip,
    /// It is there no more.
    Vanish,
    /// The disk does not give it.
    Unreadable,
}

/// One thing that goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `kill -9`; with `power`, page cache and unsynced names are lost too. Starts again after `down`.
    Kill {
        /// Where.
        place: Place,
        /// Whether the power failed.
        power: bool,
        /// Until it starts again.
        down: Duration,
    },
    /// SIGSTOP, then SIGCONT.
    Freeze {
        /// Where.
        place: Place,
        /// For how long.
        time: Duration,
    },
    /// Only these pairs hear each other: bit `from * nodes + to`.
    Cut {
        /// The directed graph.
        hears: u128,
        /// Whether datagrams are cut.
        datagrams: bool,
        /// Whether streams are cut.
        streams: bool,
        /// For how long.
        time: Duration,
    },
    /// All links of a node lose, double, delay and slow messages down.
    Lossy {
        /// Whose links.
        place: Place,
        /// Parts per million lost.
        loss: u32,
        /// Parts per million doubled.
        duplication: u32,
        /// Parts per million held back.
        delay: u32,
        /// For how long.
        time: Duration,
    },
    /// The wall clock is set.
    Clock {
        /// Whose.
        place: Place,
        /// Milliseconds to add to virtual time.
        wall: i64,
    },
    /// The database is deleted; the chunks stay.
    LoseDatabase {
        /// Where.
        place: Place,
        /// Until it starts again.
        down: Duration,
    },
    /// The database is replaced by a copy made earlier in the run.
    RestoreDatabase {
        /// Where.
        place: Place,
        /// Until it starts again.
        down: Duration,
    },
    /// The disk is replaced by an empty one, identity key and all.
    EmptyDisk {
        /// Where.
        place: Place,
        /// Until it starts again.
        down: Duration,
    },
    /// The next writes and syncs of chunk files fail.
    DiskErrors {
        /// Where.
        place: Place,
        /// How many.
        count: u32,
    },
    /// Whole chunk files go bad: only of chunks that have another good copy that stays.
    Rot {
        /// Where.
        place: Place,
        /// Chooses which files.
        pick: u64,
        /// How many.
        count: u32,
        /// In which way.
        damage: Damage,
    },
    /// No space for chunk files.
    DiskFull {
        /// Where.
        place: Place,
        /// For how long.
        time: Duration,
    },
    /// The next commit of the database fails, which stops the process; it starts again after `down`.
    CommitFails {
        /// Where.
        place: Place,
        /// Until it starts again.
        down: Duration,
    },
    /// Commits take so long.
    SlowDisk {
        /// Where.
        place: Place,
        /// A commit.
        commit: Duration,
        /// For how long.
        time: Duration,
    },
    /// Its operator has it leave; it starts again so long after it has left.
    Leave {
        /// Where.
        place: Place,
        /// Until it starts again.
        away: Duration,
    },
    /// Its operator calls that off.
    Stay {
        /// Where.
        place: Place,
    },
    /// An operator asks a node to have another forgotten, which it refuses where it sees that one.
    Forget {
        /// Whom.
        place: Place,
        /// Who is asked.
        by: Place,
    },
    /// An operator changes the cap of background traffic.
    Cap {
        /// Where.
        place: Place,
        /// Bytes a second.
        cap: u64,
    },
    /// A copy of the database is put aside, for a later [`Fault::RestoreDatabase`].
    Backup {
        /// Where.
        place: Place,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// How much may go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// The mean time between faults.
    pub every: Duration,
    /// On how many nodes state may be lost, however often.
    pub losses: usize,
    /// Whether messages may be cut, lost, delayed.
    pub network: bool,
    /// Whether processes may die and freeze.
    pub processes: bool,
    /// Whether clocks may jump.
    pub clocks: bool,
    /// Whether disks may fail.
    pub disks: bool,
    /// Whether chunk files rot and vanish.
    pub rot: bool,
    /// Whether operators let nodes leave and have them forgotten.
    pub operators: bool,
    /// Whether some of it lasts long enough for copies to be made: up to a minute and a half.
    pub long: bool,
    /// With [`Budget::operators`]: who leaves drains first, and those are forgotten that are away.
    pub drains: bool,
    /// With that: now and then all are told to leave at once.
    pub crowd: bool,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            every: Duration::from_secs(6),
            losses: 1,
            network: true,
            processes: true,
            clocks: true,
            disks: true,
            rot: false,
            operators: false,
            long: false,
            drains: false,
            crowd: false,
        }
    }
}

/// The least age of a copy that is restored. What happened since must have been told to somebody: a
/// copy that nobody can contradict is the operator's risk.
const TOLD: Duration = Duration::from_secs(10);

/// The longest that a process stands still.
const FROZEN: Duration = Duration::from_secs(30);

/// Plans the faults from one instant to another.
pub fn plan(
    budget: &Budget,
    nodes: usize,
    from: Instant,
    to: Instant,
    random: &mut fastrand::Rng,
) -> Vec<(Instant, Fault)> {
    let mut faults = Vec::new();
    let mut at = from;
    let mut losers: Vec<Place> = (0..nodes).collect();
    random.shuffle(&mut losers);
    losers.truncate(budget.losses);
    loop {
        at += Duration::from_micros(random.u64(0..=2 * budget.every.as_micros() as u64));
        if at >= to {
            return faults;
        }
        let place = random.usize(0..nodes);
        let longest = [300, 3_000, 30_000, 90_000][random.usize(0..if budget.long { 4 } else { 3 })];
        let time = Duration::from_millis(random.u64(50..longest));
        if budget.rot && random.u8(0..3) == 0 {
            let (pick, count) = (random.u64(..), random.u32(1..6));
            let damage = [Damage::Flip, Damage::Flip, Damage::Vanish, Damage::Unreadable];
            let damage = damage[random.usize(0..damage.len())];
            // A disk gives up so many of what it cannot read, and then waits.
            let count = if damage == Damage::Unreadable { 1 } else { count };
            faults.push((at, Fault::Rot { place, pick, count, damage }));
            continue;
        }
        if budget.crowd && random.u8(0..8) == 0 {
            all_leave(nodes, at, &mut faults, random);
            faults.sort_by_key(|(at, _)| *at);
            continue;
        }
        if budget.operators && budget.drains && random.u8(0..4) == 0 {
            match random.u8(0..8) {
                0..4 => faults.push((at, Fault::Leave { place, away: time })),
                4..7 => forgotten(nodes, place, at, &mut faults, random),
                _ => faults.push((at, Fault::Cap { place, cap: random.u64(1..=8) << 20 })),
            }
            faults.sort_by_key(|(at, _)| *at);
            continue;
        }
        if budget.operators && !budget.drains && random.u8(0..4) == 0 {
            let by = random.usize(0..nodes);
            let leave = Fault::Leave { place, away: time };
            faults.push((at, if random.bool() { leave } else { Fault::Forget { place, by } }));
            continue;
        }
        let fault = match random.u8(0..16) {
            0..4 if budget.processes => Fault::Kill { place, power: random.bool(), down: time },
            // Not longer than clients wait: else nobody could tell which of their questions came to something.
            4 if budget.processes => Fault::Freeze { place, time: time.min(FROZEN) },
            5..8 if budget.network => cut(nodes, time, random),
            8..10 if budget.network => Fault::Lossy {
                place,
                loss: random.u32(0..400_000),
                duplication: random.u32(0..300_000),
                delay: random.u32(0..200_000),
                time,
            },
            10 if budget.clocks => Fault::Clock { place, wall: any_wall(random) },
            11 if budget.disks => match random.u8(0..3) {
                0 => Fault::DiskErrors { place, count: random.u32(1..4) },
                1 => Fault::DiskFull { place, time },
                _ => Fault::CommitFails { place, down: time },
            },
            12 if budget.disks => {
                Fault::SlowDisk { place, commit: Duration::from_millis(random.u64(5..500)), time }
            }
            13.. if !losers.is_empty() => {
                let place = losers[random.usize(0..losers.len())];
                match random.u8(0..3) {
                    0 => Fault::LoseDatabase { place, down: time },
                    1 if at.since(from) > TOLD => {
                        let latest = (at.since(from) - TOLD).as_micros() as u64;
                        let earlier = from + Duration::from_micros(random.u64(0..=latest));
                        faults.push((earlier, Fault::Backup { place }));
                        Fault::RestoreDatabase { place, down: time }
                    }
                    _ => Fault::EmptyDisk { place, down: time },
                }
            }
            _ => continue,
        };
        faults.push((at, fault));
        faults.sort_by_key(|(at, _)| *at);
    }
}

/// A member goes away, an operator has it forgotten, and it returns as if nothing had been.
fn forgotten(
    nodes: usize,
    place: Place,
    at: Instant,
    faults: &mut Vec<(Instant, Fault)>,
    random: &mut fastrand::Rng,
) {
    let down = Duration::from_millis(random.u64(15_000..80_000));
    faults.push((at, Fault::Kill { place, power: random.bool(), down }));
    let told = at + Duration::from_millis(random.u64(5_000..14_000));
    // Whoever is asked may be away itself.
    for _ in 0..2 {
        let by = (place + random.usize(1..nodes)) % nodes;
        faults.push((told, Fault::Forget { place, by }));
    }
}

/// All but a few are told to leave before they can have heard of each other, and some of them to stay after all.
fn all_leave(nodes: usize, at: Instant, faults: &mut Vec<(Instant, Fault)>, random: &mut fastrand::Rng) {
    let spared = if random.bool() { nodes } else { random.usize(0..nodes) };
    for place in (0..nodes).filter(|place| *place != spared) {
        let told = at + Duration::from_millis(random.u64(0..20));
        faults.push((told, Fault::Leave { place, away: Duration::from_millis(random.u64(50..30_000)) }));
        if random.u8(0..8) == 0 {
            faults.push((told + Duration::from_millis(random.u64(0..20_000)), Fault::Stay { place }));
        }
    }
}

fn cut(nodes: usize, time: Duration, random: &mut fastrand::Rng) -> Fault {
    let bit = |from: usize, to: usize| 1u128 << (from * nodes + to);
    let mut hears = 0;
    let sides: Vec<bool> = (0..nodes).map(|_| random.bool()).collect();
    let shape = random.u8(0..3);
    let (from_alone, to_alone) = (random.usize(0..nodes), random.usize(0..nodes));
    for from in 0..nodes {
        for to in 0..nodes {
            let passes = match shape {
                0 => sides[from] == sides[to],
                1 => !(from == from_alone || (to == to_alone && random.bool())),
                _ => random.u8(0..3) > 0,
            };
            if passes {
                hears |= bit(from, to);
            }
        }
    }
    let (datagrams, streams) = [(true, true), (true, true), (true, false), (false, true)][random.usize(0..4)];
    Fault::Cut { hears, datagrams, streams, time }
}

/// A wall clock anywhere between 1970 and 2100, in milliseconds.
pub fn any_wall(random: &mut fastrand::Rng) -> i64 {
    random.i64(0..4_102_444_800_000)
}
