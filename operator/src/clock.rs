//! The one place that reads the wall clock and draws random bytes. Everything else gets them as arguments.

use jiff::Timestamp;
use ring::rand::{SecureRandom as _, SystemRandom};

/// Now, in Unix seconds.
pub(crate) fn now() -> i64 {
    Timestamp::now().as_second()
}

/// Now, in Unix milliseconds.
pub(crate) fn now_ms() -> i64 {
    Timestamp::now().as_millisecond()
}

/// Now, monotonic.
#[expect(clippy::disallowed_methods, reason = "this file is the edge that reads the clock")]
pub(crate) fn instant() -> std::time::Instant {
    std::time::Instant::now()
}

/// Random bytes from the operating system.
///
/// # Errors
/// When the operating system gives none.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], NoRandomness> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| NoRandomness)?;
    Ok(bytes)
}

/// The operating system gave no random bytes.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the operating system gave no random bytes")]
pub(crate) struct NoRandomness;
