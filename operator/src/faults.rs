//! Points at which a test kills the process, to show that no crash in the middle of a mint loses or doubles
//! a token, and none around a renewal loses a login; and one at which it delays it, as a slow API server does.
//! They exist only in builds with the feature `fault-points`, which no image has.
//!
//! `LA_FAULT=after-secret` aborts at the point of that name; `LA_FAULT=after-snapshot` rests there.

/// The points, in the order in which a mint passes them, and then a renewal, and the one of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Point {
    /// The new id is recorded as Issuing; the Secret is not written.
    AfterStatusIssuing,
    /// The Secret is written; nothing else was done since.
    AfterSecret,
    /// The status that makes the id Active is about to be written.
    BeforeActive,
    /// A login is about to be read from its Secret.
    BeforeLoginRead,
    /// Its refresh token is about to be posted.
    BeforeLoginPost,
    /// The endpoint has answered; nothing was stored.
    AfterLoginAnswered,
    /// What came of it was stored; nothing else was done since.
    AfterLoginStored,
    /// A snapshot is written; nothing else was done since.
    AfterSnapshot,
}

/// Dies here if the environment names this point.
#[cfg(feature = "fault-points")]
pub(crate) fn reach(point: Point) {
    if let Some(name) = named(point) {
        tracing::warn!(fault.point = name, "dying at fault point {name}");
        std::process::abort();
    }
}

/// Rests here for two seconds if the environment names this point.
#[cfg(feature = "fault-points")]
pub(crate) async fn linger(point: Point) {
    if named(point).is_some() {
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    }
}

/// The point's name, if the environment names it.
#[cfg(feature = "fault-points")]
#[expect(clippy::disallowed_methods, reason = "test builds only: there is no settings file to read it in")]
fn named(point: Point) -> Option<&'static str> {
    let name = match point {
        Point::AfterStatusIssuing => "after-status-issuing",
        Point::AfterSecret => "after-secret",
        Point::BeforeActive => "before-active",
        Point::BeforeLoginRead => "before-login-read",
        Point::BeforeLoginPost => "before-login-post",
        Point::AfterLoginAnswered => "after-login-answered",
        Point::AfterLoginStored => "after-login-stored",
        Point::AfterSnapshot => "after-snapshot",
    };
    std::env::var("LA_FAULT").is_ok_and(|wanted| wanted == name).then_some(name)
}

/// Does nothing: the build has no fault points.
#[cfg(not(feature = "fault-points"))]
pub(crate) const fn reach(_point: Point) {}

/// Does nothing: the build has no fault points.
#[cfg(not(feature = "fault-points"))]
pub(crate) fn linger(_point: Point) -> std::future::Ready<()> {
    std::future::ready(())
}
