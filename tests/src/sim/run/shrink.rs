//! Leaves out of a plan what a violation does not need.

use super::{Plan, run};
use crate::sim::process::Process;

/// Leaves out faults and questions for as long as the run still breaks the same invariant.
pub fn shrink<P: Process>(plan: &Plan, config: &P::Config, attempts: usize) -> Plan {
    let broken = |plan: &Plan| run::<P>(plan, config.clone()).violations.first().map(|v| v.invariant);
    let first = broken(plan);
    let mut best = plan.clone();
    let mut left = attempts;
    let mut piece = (best.faults.len() + best.questions.len()).div_ceil(2);
    while piece > 0 && left > 0 {
        let mut at = 0;
        while at < best.faults.len() + best.questions.len() && left > 0 {
            left -= 1;
            let dropped = |index: usize| index >= at && index < at + piece;
            let mut smaller = best.clone();
            let mut index = 0;
            let mut keep = || {
                index += 1;
                !dropped(index - 1)
            };
            smaller.faults.retain(|_| keep());
            smaller.questions.retain(|_| keep());
            if broken(&smaller) == first {
                best = smaller;
            } else {
                at += piece;
            }
        }
        piece /= 2;
    }
    best
}
