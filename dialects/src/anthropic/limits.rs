//! What the head of an answer says of an account's limits.
//!
//! Sources: the vendor's page on rate limits (requests and tokens), and what answers to subscriptions carry
//! (`anthropic-ratelimit-unified-…`, observed, November 2026). Nothing is allocated, and a field that says
//! nothing of limits costs one comparison.

use la_core::account::reading::{Reading, Status, Window, permille, time_ahead, wait_of_ms, wait_seconds};

/// Reads the fields of an answer's head, names in lower case, received at `now` (Unix seconds). What cannot be
/// understood, has passed or is absurdly far ahead is as if it were not there.
pub fn read<'a>(fields: impl Iterator<Item = (&'a [u8], &'a [u8])>, now: i64) -> Reading {
    let mut found = Found { reading: Reading::default(), plain: Default::default(), wait_of_ms: None, now };
    for (name, value) in fields {
        if let Some(name) = name.strip_prefix(b"anthropic-ratelimit-") {
            match name.strip_prefix(b"unified-") {
                Some(name) => found.unified(name, value.trim_ascii()),
                None => found.plain(name, text(value)),
            }
        } else if name == b"retry-after" {
            found.reading.retry_after_seconds = wait_seconds(text(value), now);
        } else if name == b"retry-after-ms" {
            found.wait_of_ms = wait_of_ms(text(value));
        }
    }
    found.finish()
}

/// A value without what surrounds it; empty if it is no ASCII.
fn text(value: &[u8]) -> &str {
    std::str::from_utf8(value.trim_ascii()).unwrap_or_default()
}

struct Found {
    reading: Reading,
    plain: [Plain; PLAIN.len()],
    wait_of_ms: Option<u32>,
    now: i64,
}

/// A limit of requests or tokens, as API keys have them.
#[derive(Default)]
struct Plain {
    is_spent: bool,
    resets_at: Option<i64>,
}

const PLAIN: [&[u8]; 4] = [b"requests-", b"tokens-", b"input-tokens-", b"output-tokens-"];

impl Found {
    fn plain(&mut self, name: &[u8], value: &str) {
        let limits = self.plain.iter_mut().zip(PLAIN);
        let named = limits.filter_map(|(plain, prefix)| Some((plain, name.strip_prefix(prefix)?)));
        for (plain, member) in named {
            match member {
                b"remaining" => plain.is_spent = value == "0",
                b"reset" => plain.resets_at = time_ahead(value.as_bytes(), self.now),
                _ => {}
            }
        }
    }

    fn unified(&mut self, name: &[u8], value: &[u8]) {
        let Self { reading, now, .. } = self;
        match name {
            b"status" => reading.overall = status(value),
            b"reset" => reading.resets_at = time_ahead(value, *now),
            b"overage-status" => reading.overage.status = status(value),
            b"overage-in-use" => reading.overage.is_in_use = value == b"true",
            b"overage-disabled-reason" => reading.overage.is_disabled = !value.is_empty(),
            _ => self.window(name, value),
        }
    }

    /// Reads `5h-status` and the like: what stands before the last `-` is the window.
    fn window(&mut self, name: &[u8], value: &[u8]) {
        let now = self.now;
        if let Some(window) = name.strip_suffix(b"-utilization") {
            self.set(window, |window| window.utilization = permille(value));
        } else if let Some(window) = name.strip_suffix(b"-status") {
            self.set(window, |window| window.status = status(value));
        } else if let Some(window) = name.strip_suffix(b"-reset") {
            self.set(window, |window| window.resets_at = time_ahead(value, now));
        }
    }

    fn set(&mut self, window: &[u8], set: impl FnOnce(&mut Window)) {
        if window != b"overage"
            && let Some(window) = self.reading.window_mut(window)
        {
            set(window);
        }
    }

    fn finish(self) -> Reading {
        let Self { mut reading, plain, wait_of_ms, .. } = self;
        let spent = plain.iter().filter(|plain| plain.is_spent);
        reading.spent_until = spent.filter_map(|plain| plain.resets_at).max();
        reading.retry_after_seconds = wait_of_ms.or(reading.retry_after_seconds);
        reading
    }
}

fn status(value: &[u8]) -> Option<Status> {
    match value {
        b"allowed" => Some(Status::Allowed),
        b"allowed_warning" => Some(Status::Warning),
        b"rejected" => Some(Status::Rejected),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
