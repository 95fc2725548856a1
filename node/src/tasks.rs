//! Tasks of the node: spawned in one place, counted, and waited for at the end.
//!
//! Most end by themselves soon. Those that the node cannot do without are *vital*: one that fails or
//! ends before the node stops is a failure of the node, for a node that limps is worse than one that
//! is gone.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::error;

/// Spawns tasks and remembers them; cheap to clone.
#[derive(Clone, Debug)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
    failed: Arc<watch::Sender<Option<String>>>,
}

impl Default for Tasks {
    fn default() -> Self {
        Self {
            tracker: TaskTracker::new(),
            stop: CancellationToken::new(),
            failed: Arc::new(watch::Sender::new(None)),
        }
    }
}

impl Tasks {
    /// Spawns a task that ends by itself soon.
    pub fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tracker.spawn(task)
    }

    /// Spawns a task that runs until [`Tasks::stop`]; if it ends before, [`Tasks::failed`] says so.
    pub fn spawn_vital(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let running = self.tracker.spawn(task);
        self.tracker.spawn(self.watch(name, running));
    }

    /// The same for a task that outlives the others: [`Tasks::finish`] does not wait for it.
    pub fn spawn_last(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(self.watch(name, tokio::spawn(task)));
    }

    fn watch(&self, name: &'static str, running: JoinHandle<()>) -> impl Future<Output = ()> + Send + use<> {
        let (stop, failed) = (self.stop.clone(), self.failed.clone());
        async move {
            let ended = running.await;
            if stop.is_cancelled() {
                return;
            }
            let reason = match ended {
                Ok(()) => format!("the task {name} ended early"),
                Err(error) => format!("the task {name} failed: {error}"),
            };
            error!(task = name, reason, "a part of the node is gone");
            failed.send_if_modified(|first| {
                let is_first = first.is_none();
                first.get_or_insert(reason);
                is_first
            });
        }
    }

    /// Waits until a vital task has failed, and says which and why. Never ends otherwise.
    pub async fn failed(&self) -> String {
        let mut failed = self.failed.subscribe();
        let reason = failed.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        match reason {
            Some(reason) => reason,
            // The sender lives as long as `self`.
            None => std::future::pending().await,
        }
    }

    /// Told when the node stops.
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Tells all tasks to stop and waits for them.
    pub async fn finish(&self) {
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_vital_task_that_panics_is_a_failure_of_the_node() {
        let tasks = Tasks::default();
        tasks.spawn_vital("sender", async { panic!("no more") });
        let reason = tasks.failed().await;
        assert!(reason.contains("sender") && reason.contains("no more"), "{reason}");
    }

    #[tokio::test]
    async fn a_vital_task_that_ends_when_told_to_is_no_failure() {
        let tasks = Tasks::default();
        let stop = tasks.stop().clone();
        tasks.spawn_vital("sender", async move { stop.cancelled().await });
        tasks.finish().await;
        assert!(tasks.failed.borrow().is_none());
    }
}
