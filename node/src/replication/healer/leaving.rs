//! Leaving: carries out what the departure machine of `kepler-protocol` decides.

use std::sync::atomic::Ordering;
use std::time::Duration;

use kepler_protocol::replica::Operator;
use kepler_protocol::replicator::departure::{self, Step};
use tracing::{debug, info, warn};

use super::Healer;

/// When noting that this node has left is tried again.
const NOTE_AGAIN: Duration = Duration::from_secs(1);

impl Healer {
    /// This node was told to leave, now or before its last restart.
    pub(super) async fn begin_to_leave(&mut self) {
        if !self.departure.is_leaving() {
            info!("leaving: this node owns nothing from now on, and hands over what it holds");
            self.departure.begin();
            self.tell_doors();
            let _ = self.gossip.leave().await;
        }
    }

    /// An operator calls it off: whether there was anything to call off.
    pub(super) async fn cancel_leaving(&mut self) -> bool {
        let cancelled = self.departure.cancel();
        if cancelled {
            self.stay().await;
        }
        cancelled
    }

    /// It leaves no more.
    async fn stay(&mut self) {
        info!("leaving no more: this node owns its share again");
        if let Err(error) = self.worker.store.set_leaving(false).await {
            // It would go on to leave after a restart, and may be told again.
            warn!(%error, "could not note that this node stays");
        }
        self.tell_doors();
        let _ = self.catalog.operate(Operator::Stay).await;
        let _ = self.gossip.stay().await;
    }

    fn tell_doors(&self) {
        self.refusing.store(!self.departure.takes_copies(), Ordering::Relaxed);
    }

    /// Does what is to be done now, if this node leaves.
    pub(super) async fn look_whether_to_leave(&mut self) {
        let deserted = {
            let (view, electors) = (self.view.borrow(), self.electors.borrow());
            let roster = electors.roster().filter(|_| electors.standing().is_ok());
            roster.is_some_and(|roster| departure::is_deserted(&self.me, &view, roster))
        };
        let step = self.departure.look(self.worker.store.now(), self.machine.is_drained(), deserted);
        match step {
            None => {}
            Some(Step::Ask) => self.ask_to_leave(),
            Some(Step::End) => self.end(),
            Some(Step::Stay) => {
                warn!("every member here was told to leave: this one stays");
                self.stay().await;
            }
        }
    }

    /// Everything has its copies elsewhere: asks whether the others know all that this node's catalog knows.
    fn ask_to_leave(&self) {
        let (catalog, answers) = (self.catalog.clone(), self.may_leave.clone());
        self.tasks.spawn(async move {
            let may = match catalog.operate(Operator::Leave).await {
                Ok(()) => true,
                Err(Some(reason)) => {
                    debug!(%reason, "not leaving yet");
                    false
                }
                // The node stops.
                Err(None) => return,
            };
            let _ = answers.send(may).await;
        });
    }

    /// The catalog has answered.
    pub(super) fn may_leave(&mut self, may: bool) {
        let drained = self.machine.is_drained();
        if self.departure.answered(self.worker.store.now(), may, drained) == Some(Step::End) {
            self.end();
        } else if may {
            info!("a chunk came that has no copies elsewhere yet");
        }
    }

    /// Says that it has left, and ends the process.
    fn end(&self) {
        info!("left: every chunk has its copies elsewhere");
        let (store, left) = (self.worker.store.clone(), self.left.clone());
        let stop = self.tasks.stop().clone();
        self.tasks.spawn(async move {
            while let Err(error) = store.set_leaving(false).await {
                warn!(%error, "could not note that this node has left");
                // Who is stopped meanwhile leaves at its next start.
                tokio::select! {
                    () = tokio::time::sleep(NOTE_AGAIN) => {}
                    () = stop.cancelled() => return,
                }
            }
            left.cancel();
        });
    }
}
