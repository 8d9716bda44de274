//! The task of one pod: polling, nudging and telling, side by side.

use std::sync::Weak;

use tokio::sync::watch;

use super::admin::AdminPort;
use super::lag::Lag;
use super::{PodState, Target, nudge, poll, tell};
use crate::shared::Shared;

/// Follows one pod until dropped.
pub(super) async fn run(shared: Weak<Shared>, target: Target, state: watch::Sender<PodState>) {
    let Ok(port) = AdminPort::new(&target) else {
        tracing::error!(pod.name = %target.pod, "no client for pod {}: it is not followed", target.pod);
        return;
    };
    let Some(published) = shared.upgrade().map(|shared| shared.published.follow(&target.proxy)) else {
        return;
    };
    let lag = || Lag::new(published.clone(), state.subscribe());
    tokio::join!(
        poll::run(&port, &shared, &target, &state),
        nudge::run(&shared, &target, lag()),
        tell::run(&port, &shared, &target, lag()),
    );
}
