//! Writes that were begun: published, or given up whatever becomes of who asked.

use kepler_protocol::catalog::command::Command;
use kepler_protocol::version::Dot;
use tracing::warn;

use crate::service::files::Service;

/// A begun write. It is given up if its future is dropped: a client that breaks off leaves nothing open.
pub(super) struct Begun {
    pub service: Service,
    pub dot: Dot,
    open: bool,
}

impl Begun {
    pub const fn new(service: Service, dot: Dot) -> Self {
        Self { service, dot, open: true }
    }

    /// Closes the dot now.
    pub async fn abort(mut self) {
        self.open = false;
        abort(&self.service, self.dot).await;
    }

    /// Leaves the dot to the catalog.
    pub fn hand_over(mut self) -> Dot {
        self.open = false;
        self.dot
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if self.open {
            let (service, dot) = (self.service.clone(), self.dot);
            self.service.tasks.spawn(async move { abort(&service, dot).await });
        }
    }
}

async fn abort(service: &Service, dot: Dot) {
    if let Err(error) = service.catalog.command(Command::Abort { dot }).await {
        warn!(version = %dot, %error, "closing an upload that failed; the next start closes it");
    }
    forget_owed(service, dot).await;
}

/// Nothing is owed to a version that will never be.
pub(super) async fn forget_owed(service: &Service, dot: Dot) {
    if let Err(error) = service.store.forget_owed(dot).await {
        warn!(version = %dot, %error, "could not drop what was owed to an upload that failed");
    }
}
