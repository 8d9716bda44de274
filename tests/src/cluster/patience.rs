//! Waiting for what other processes do, and measuring how long it took.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

const PAUSE: Duration = Duration::from_millis(25);

/// Asks `probe` until it gives something or `limit` is over.
///
/// # Errors
/// When it never did; the message holds `what`. An error of `probe` ends the waiting at once.
pub fn eventually<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = now();
    loop {
        if let Some(found) = probe()? {
            return Ok(found);
        }
        if start.elapsed() > limit {
            bail!("waited {limit:?} in vain for {what}");
        }
        std::thread::sleep(PAUSE);
    }
}

/// What `work` gives, and how long it took.
pub fn measure<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = now();
    let product = work();
    (product, start.elapsed())
}

#[expect(clippy::disallowed_methods, reason = "the edge where tests measure time")]
fn now() -> Instant {
    Instant::now()
}
