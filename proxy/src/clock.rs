//! The only place of this crate that reads a clock.

use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The wall clock in Unix seconds; 0 before 1970.
#[expect(clippy::disallowed_methods, reason = "this is the edge where the wall clock is read")]
pub fn unix_seconds() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX))
}

/// Milliseconds of a clock that never steps back, since some moment of this process.
#[expect(clippy::disallowed_methods, reason = "this is the edge where the monotonic clock is read")]
pub fn monotonic_ms() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let start = *START.get_or_init(Instant::now);
    u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX)
}
