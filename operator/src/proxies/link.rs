//! The task of one pod: polling and nudging, side by side.

use std::sync::Weak;

use tokio::sync::watch;

use super::{PodState, Target, nudge, poll};
use crate::shared::Shared;

/// Follows one pod until dropped.
pub(super) async fn run(shared: Weak<Shared>, target: Target, state: watch::Sender<PodState>) {
    let reports = state.subscribe();
    tokio::join!(poll::run(&shared, &target, &state), nudge::run(&shared, &target, reports));
}
