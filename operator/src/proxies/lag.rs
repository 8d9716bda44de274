//! How far one pod is behind what was published for its proxy.

use std::time::Duration;

use tokio::sync::watch;

use super::PodState;
use crate::published::Order;

/// What a pod is to serve, and what it reports that it serves.
pub(super) struct Lag {
    published: watch::Receiver<Order>,
    reports: watch::Receiver<PodState>,
}

impl Lag {
    pub(super) fn new(published: watch::Receiver<Order>, reports: watch::Receiver<PodState>) -> Self {
        Self { published, reports }
    }

    /// What the pod is to serve, once that is more than it reports; nothing when nobody publishes any more.
    pub(super) async fn wanted(&mut self) -> Option<Order> {
        loop {
            let wanted = *self.published.borrow_and_update();
            if wanted != (0, 0) && self.served() < Some(wanted) {
                return Some(wanted);
            }
            // A pod that restarted serves less than before, so its reports are followed too.
            self.change().await?;
        }
    }

    /// What the pod serves, while it can be reached.
    pub(super) fn served(&self) -> Option<Order> {
        self.reports.borrow().order()
    }

    /// Waits until something else is published or reported.
    pub(super) async fn change(&mut self) -> Option<()> {
        let changed = tokio::select! {
            changed = self.published.changed() => changed,
            changed = self.reports.changed() => changed,
        };
        changed.ok()
    }

    /// Waits for `pause`, and no longer than until the pod serves `wanted` or something else is published.
    pub(super) async fn rest(&mut self, wanted: Order, pause: Duration) -> Option<()> {
        let is_there = |state: &PodState| state.order() >= Some(wanted);
        tokio::select! {
            () = tokio::time::sleep(pause) => Some(()),
            changed = self.published.changed() => changed.ok(),
            followed = self.reports.wait_for(is_there) => followed.ok().map(|_| ()),
        }
    }
}
