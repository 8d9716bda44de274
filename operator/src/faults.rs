//! Points at which a test kills the process, to show that no crash in the middle of a mint loses or doubles
//! a token. They exist only in builds with the feature `fault-points`, which no image has.
//!
//! `LA_FAULT=after-status-issuing|after-secret|before-active` aborts at the point of that name.

/// The points, in the order in which a mint passes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Point {
    /// The new id is recorded as Issuing; the Secret is not written.
    AfterStatusIssuing,
    /// The Secret is written; nothing else was done since.
    AfterSecret,
    /// The status that makes the id Active is about to be written.
    BeforeActive,
}

/// Dies here if the environment names this point.
#[cfg(feature = "fault-points")]
#[expect(clippy::disallowed_methods, reason = "test builds only: there is no settings file to read it in")]
pub(crate) fn reach(point: Point) {
    let name = match point {
        Point::AfterStatusIssuing => "after-status-issuing",
        Point::AfterSecret => "after-secret",
        Point::BeforeActive => "before-active",
    };
    if std::env::var("LA_FAULT").is_ok_and(|wanted| wanted == name) {
        tracing::warn!(fault.point = name, "dying at fault point {name}");
        std::process::abort();
    }
}

/// Does nothing: the build has no fault points.
#[cfg(not(feature = "fault-points"))]
pub(crate) const fn reach(_point: Point) {}
