//! Keeps credentials in this process: no core dump, no look from other processes of the same user, and
//! files that are private unless said otherwise.

use rustix::fs::Mode;
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit, umask};

/// Hardens the process. What the system refuses is logged; the process works without it.
pub fn process() {
    umask(Mode::from_raw_mode(0o077));
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    for (what, result) in [
        ("core dumps cannot be switched off", setrlimit(Resource::Core, none)),
        (
            "memory cannot be hidden from other processes",
            set_dumpable_behavior(DumpableBehavior::NotDumpable),
        ),
    ] {
        if let Err(error) = result {
            tracing::warn!("{what}: {error}");
        }
    }
}
