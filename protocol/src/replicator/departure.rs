//! Leaving for good: whether it may begin, when it may end, and when it is called off.
//!
//! Who leaves owns nothing and takes no copies: one that came between its last look at the disk and its end would
//! count for a client and be gone. It ends once it is drained and the others know all that its catalog knows;
//! until then it looks again and again. An operator may call it off at any time before that.
//!
//! Any number may leave, and the rest is then the cluster, however few: N is never more than the members. But
//! somebody stays. A leave is refused where nobody else owns anything ([`may_begin`]). Where all that are here
//! began at once, none seeing the others yet, nobody could ever take what they hold: then the one with the
//! smallest id calls its own leave off once that has been so for a while ([`is_deserted`]), and the others leave.

use std::time::Duration;

use super::Faults;
use crate::node_id::NodeId;
use crate::roster::Roster;
use crate::time::Instant;
use crate::view::{State as Member, View};

/// How often who is drained looks whether the others know all that its catalog knows.
pub const LOOK: Duration = Duration::from_secs(1);

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask the catalog whether this node may go; then [`Departure::answered`].
    Ask,
    /// It has left: note it, say so, and end the process.
    End,
    /// It stays after all, as nobody else would: note it, and say so.
    Stay,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Stays,
    /// Until all is handed over.
    Drains,
    /// The catalog is being asked.
    Asks,
    /// It said that it is too early.
    Waits(Instant),
    Ends,
}

/// The machine of one node.
#[derive(Debug)]
pub struct Departure {
    state: State,
    /// Since when nobody would stay.
    deserted: Option<Instant>,
    patience: Duration,
    faults: Faults,
}

/// Whether a node may begin to leave: somebody else owns chunks.
pub fn may_begin(me: &NodeId, view: &View) -> bool {
    view.ring().nodes().any(|node| node != *me)
}

/// Whether nobody would stay, and it is this node that has to: none is on the ring, and of the members that leave
/// and can be reached it has the smallest id.
pub fn is_deserted(me: &NodeId, view: &View, roster: &Roster) -> bool {
    let leaves = |id: &&NodeId| view.member(id).is_some_and(|member| member.state == Member::Leaving);
    view.ring().nodes().next().is_none() && roster.members.keys().find(leaves) == Some(me)
}

impl Departure {
    /// Of a node that stays. `patience`: how long nobody may be left before one of those that leave stays.
    pub const fn new(patience: Duration, faults: Faults) -> Self {
        Self { state: State::Stays, deserted: None, patience, faults }
    }

    /// This node was told to leave, now or before its last restart. Harmless to repeat.
    pub fn begin(&mut self) {
        if self.state == State::Stays {
            (self.state, self.deserted) = (State::Drains, None);
        }
    }

    /// It is to stay after all; `false` where it has left, or never was to.
    pub fn cancel(&mut self) -> bool {
        let may = !matches!(self.state, State::Stays | State::Ends);
        if may {
            self.state = State::Stays;
        }
        may
    }

    /// Whether this node is on its way out.
    pub fn is_leaving(&self) -> bool {
        self.state != State::Stays
    }

    /// Whether copies that others bring may be taken.
    pub fn takes_copies(&self) -> bool {
        !self.is_leaving() || self.faults.leaver_takes_copies
    }

    /// What is to be done now. `drained`: every chunk here has its copies elsewhere. `deserted`: [`is_deserted`],
    /// as a node that is ready sees it; one that is cut off cannot tell.
    pub fn look(&mut self, now: Instant, drained: bool, deserted: bool) -> Option<Step> {
        if matches!(self.state, State::Stays | State::Ends) {
            return None;
        }
        self.deserted = if deserted { self.deserted.or(Some(now)) } else { None };
        let long = self.deserted.is_some_and(|since| now.since(since) >= self.patience);
        if long && !self.faults.all_leave {
            self.state = State::Stays;
            return Some(Step::Stay);
        }
        match self.state {
            State::Drains if drained => {}
            State::Waits(at) if at <= now && drained => {}
            State::Waits(at) if at <= now => {
                self.state = State::Drains;
                return None;
            }
            _ => return None,
        }
        self.state = State::Asks;
        Some(Step::Ask)
    }

    /// The catalog says whether this node may go. A chunk may have come meanwhile.
    pub fn answered(&mut self, now: Instant, may: bool, drained: bool) -> Option<Step> {
        if self.state != State::Asks {
            return None;
        }
        self.state = match (may, drained) {
            (true, true) => State::Ends,
            (true, false) => State::Drains,
            (false, _) => State::Waits(now + LOOK),
        };
        (self.state == State::Ends).then_some(Step::End)
    }

    /// When to look again, beside whenever anything has changed.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if matches!(self.state, State::Stays | State::Ends) {
            return None;
        }
        let waits = match self.state {
            State::Waits(at) => Some(at),
            _ => None,
        };
        let deserted = self.deserted.filter(|_| !self.faults.all_leave).map(|since| since + self.patience);
        waits.into_iter().chain(deserted).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn departure() -> (Departure, Instant) {
        let mut departure = Departure::new(30 * SECOND, Faults::default());
        departure.begin();
        (departure, Instant::ZERO + SECOND)
    }

    #[test]
    fn who_leaves_takes_nothing_and_ends_once_it_is_drained_and_the_others_know_all() {
        let (mut departure, now) = departure();
        assert!(!departure.takes_copies());
        assert_eq!(departure.look(now, false, false), None);
        assert_eq!(departure.look(now, true, false), Some(Step::Ask));
        assert_eq!(departure.look(now, true, false), None, "it is asked once");
        assert_eq!(departure.answered(now, false, true), None);
        let again = departure.poll_timeout().expect("it asks again");
        assert_eq!(departure.look(again, true, false), Some(Step::Ask));
        // A chunk came meanwhile.
        assert_eq!(departure.answered(again, true, false), None);
        assert_eq!(departure.look(again, true, false), Some(Step::Ask));
        assert_eq!(departure.answered(again, true, true), Some(Step::End));
        assert!(!departure.cancel() && !departure.takes_copies(), "too late");
    }

    #[test]
    fn a_leave_that_is_called_off_comes_to_nothing() {
        let (mut departure, now) = departure();
        assert_eq!(departure.look(now, true, false), Some(Step::Ask));
        assert!(departure.cancel() && departure.takes_copies());
        assert_eq!(departure.answered(now, true, true), None, "an answer to what was called off");
        assert_eq!((departure.look(now, true, true), departure.poll_timeout()), (None, None));
        assert!(!departure.cancel());
    }

    #[test]
    fn where_nobody_would_stay_for_long_this_node_does() {
        let (mut departure, now) = departure();
        assert_eq!(departure.look(now, false, true), None);
        // Somebody was there for a moment.
        assert_eq!(departure.look(now + 29 * SECOND, false, false), None);
        assert_eq!(departure.look(now + 31 * SECOND, false, true), None);
        let due = departure.poll_timeout().expect("it looks again");
        assert_eq!(due, now + 61 * SECOND);
        assert_eq!(departure.look(due, true, true), Some(Step::Stay));
        assert!(departure.takes_copies());
    }
}
