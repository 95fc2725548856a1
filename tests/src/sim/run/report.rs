//! What came of a run, and of many together.

use std::fmt;
use std::time::Duration;

use crate::sim::invariants::Violation;

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What was broken; empty if nothing.
    pub violations: Vec<Violation>,
    /// The fingerprint of all that happened.
    pub trace: u64,
    /// The fingerprint of the state in the end.
    pub state: u64,
    /// Virtual time.
    pub simulated: Duration,
    /// Faults injected.
    pub faults: u64,
    /// Messages lost, cut off or doubled.
    pub disturbed: u64,
    /// Forged datagrams delivered.
    pub forged: u64,
    /// Operations that ended ok, failed, or nobody knows.
    pub operations: [u64; 3],
    /// Datagrams and stream messages.
    pub messages: u64,
    /// Rosters that were decided.
    pub rosters: u64,
    /// Events of the loop.
    pub events: u64,
    /// Copies sent in the background; superfluous and unreferenced ones deleted.
    pub copies: [u64; 3],
    /// Members that left, that were forgotten, and that were taken off the roster because they were dead for long.
    pub gone: [u64; 3],
    /// Copies made rotten or lost, and copies set aside.
    pub rot: [u64; 2],
    /// Databases of members that stayed members, dropped by rosters.
    pub rebound: u64,
    /// How often who was leaving stayed after all.
    pub stayed: u64,
    /// Copies delivered that uploads still owed.
    pub delivered: u64,
    /// The most that a node sent in the background within a second, in percent of its cap.
    pub busiest: u64,
    /// The longest from when everything was healed until all catalogs were equal, every node having been ready and having
    /// taken a write in between.
    pub equal_after: Duration,
    /// Files that were moved.
    pub moved: u64,
    /// What clients missed of versions that only members knew who were given up: those count as lost.
    pub excused: u64,
    /// Lines of JSON: what clients saw.
    pub history: String,
}

impl Report {
    /// Adds another run's figures; its violations too.
    pub fn add(&mut self, other: &Self) {
        self.violations.extend(other.violations.iter().cloned());
        self.simulated += other.simulated;
        self.faults += other.faults;
        self.messages += other.messages;
        self.disturbed += other.disturbed;
        self.forged += other.forged;
        self.events += other.events;
        self.rosters += other.rosters;
        for (sum, more) in self.operations.iter_mut().zip(other.operations) {
            *sum += more;
        }
        for (sum, more) in self.copies.iter_mut().zip(other.copies) {
            *sum += more;
        }
        for (sum, more) in self.gone.iter_mut().zip(other.gone) {
            *sum += more;
        }
        for (sum, more) in self.rot.iter_mut().zip(other.rot) {
            *sum += more;
        }
        self.rebound += other.rebound;
        self.stayed += other.stayed;
        self.busiest = self.busiest.max(other.busiest);
        self.excused += other.excused;
        self.moved += other.moved;
        self.equal_after = self.equal_after.max(other.equal_after);
        self.delivered += other.delivered;
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hours = self.simulated.as_secs_f64() / 3600.0;
        let [ok, fail, unknown] = self.operations;
        write!(
            f,
            "{hours:.2} h simulated, {} faults, {} operations ({ok} ok, {fail} failed, {unknown} unknown), \
             {} rosters, {} messages ({} lost or doubled), {} forged, {} events, {} copies sent, {} owed ones delivered, {} released, \
             {} collected, {} rotted, {} set aside, {} databases dropped, {} left, {} stayed after all, {} forgotten, {} given up, {} % of the cap at most in a second, {} files moved, catalogs equal {:.1} s after healing at most, {} excused, {} violations",
            self.faults,
            ok + fail + unknown,
            self.rosters,
            self.messages,
            self.disturbed,
            self.forged,
            self.events,
            self.copies[0],
            self.delivered,
            self.copies[1],
            self.copies[2],
            self.rot[0],
            self.rot[1],
            self.rebound,
            self.gone[0],
            self.stayed,
            self.gone[1],
            self.gone[2],
            self.busiest,
            self.moved,
            self.equal_after.as_secs_f64(),
            self.excused,
            self.violations.len(),
        )
    }
}
