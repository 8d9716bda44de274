//! Points at which a test kills the process, to show that no crash in the middle of a renewal loses a login.
//! They exist only in builds with the feature `fault-points`, which no image has.
//!
//! `LA_FAULT=refresh-claimed|refresh-answered|refresh-refused|refresh-stored` kills at the point of that name.

/// The points, in the order in which a renewal passes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Point {
    /// The right to renew is taken and the login read; nothing was sent.
    Claimed,
    /// The endpoint has answered; nothing was written.
    Answered,
    /// The endpoint has refused; the login was not read again.
    Refused,
    /// The new login is stored; nobody knows of it.
    Stored,
}

/// Dies here, as by SIGKILL, if the environment names this point.
#[cfg(feature = "fault-points")]
#[expect(clippy::disallowed_methods, reason = "test builds only: there is no setting for it")]
pub(crate) fn reach(point: Point) {
    let name = match point {
        Point::Claimed => "refresh-claimed",
        Point::Answered => "refresh-answered",
        Point::Refused => "refresh-refused",
        Point::Stored => "refresh-stored",
    };
    if std::env::var("LA_FAULT").is_ok_and(|wanted| wanted == name) {
        tracing::warn!(fault.point = name, "dying at fault point {name}");
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}

/// Does nothing: the build has no fault points.
#[cfg(not(feature = "fault-points"))]
pub(crate) const fn reach(_point: Point) {}
