//! The only place of this crate that reads a clock.

use std::cell::Cell;
use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The wall clock in Unix seconds; 0 before 1970.
#[expect(clippy::disallowed_methods, reason = "this is the edge where the wall clock is read")]
pub fn unix_seconds() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX))
}

/// The wall clock in Unix milliseconds; 0 before 1970.
#[expect(clippy::disallowed_methods, reason = "this is the edge where the wall clock is read")]
pub fn unix_milliseconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Milliseconds of a clock that never steps back, since some moment of this process.
#[expect(clippy::disallowed_methods, reason = "this is the edge where the monotonic clock is read")]
pub fn monotonic_ms() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let start = *START.get_or_init(Instant::now);
    let since = start.elapsed();
    since.as_secs() * 1_000 + u64::from(since.subsec_millis())
}

thread_local! {
    static NOTED_MS: Cell<u64> = const { Cell::new(0) };
    /// The second that was read last, and the noted tenth of a second in which it was.
    static SECOND: Cell<(u64, i64)> = const { Cell::new((u64::MAX, 0)) };
    /// The date as it was written last, and the noted second in which it was.
    static DATE: Cell<(u64, HttpDate)> = const { Cell::new((u64::MAX, *b"Thu, 01 Jan 1970 00:00:00 GMT")) };
}

/// A wall clock's second as HTTP writes it (RFC 9110 §5.6.7).
pub type HttpDate = [u8; 29];

/// Reads [`monotonic_ms`] for everything that this thread does until the next call.
pub fn note() -> u64 {
    let now_ms = monotonic_ms();
    NOTED_MS.set(now_ms);
    now_ms
}

/// What was read last by [`note`] on this thread: good for what is swept four times a second, and free.
pub fn noted_ms() -> u64 {
    NOTED_MS.get()
}

/// [`unix_seconds`], read ten times a second on a thread that [notes](note): good for what lasts seconds.
pub fn noted_seconds() -> i64 {
    let tenth = noted_ms() / 100;
    let (read_in, mut second) = SECOND.get();
    if read_in != tenth {
        second = unix_seconds();
        SECOND.set((tenth, second));
    }
    second
}

/// The wall clock for a `date` field; read once a second.
#[expect(clippy::disallowed_methods, reason = "this is the edge where the wall clock is read")]
pub fn http_date() -> HttpDate {
    let second = noted_ms() / 1_000;
    let (written_in, mut date) = DATE.get();
    if written_in != second {
        let text = httpdate::fmt_http_date(SystemTime::now());
        date = text.as_bytes().first_chunk().copied().unwrap_or(date);
        DATE.set((second, date));
    }
    date
}
