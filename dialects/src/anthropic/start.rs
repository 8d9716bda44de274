//! How a stream begins: with content, or with an error that another account may not have.
//!
//! A vendor that has said 200 can still fail before the first word. Nothing of an answer may have reached the
//! client then, so its beginning is held back until this says which of the two it is.

use la_core::account::Class;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::classify;
use crate::sse::{Decoder, Event};

/// Most bytes that are held back. Whatever is longer has begun.
pub const MAX_HELD_BYTES: usize = 64 * 1024;

/// What is known of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing yet: pings, comments and the message's head can come before an error.
    Undecided,
    /// It has content, or is longer than can be held back.
    Begun,
    /// It is an error.
    Failed(Class),
}

/// Watches the first events of a stream.
#[derive(Debug, Clone)]
pub struct Start {
    decoder: Decoder,
    held_bytes: usize,
    verdict: Verdict,
}

impl Default for Start {
    fn default() -> Self {
        Self { decoder: Decoder::new(MAX_HELD_BYTES), held_bytes: 0, verdict: Verdict::Undecided }
    }
}

impl Start {
    /// Reads the next bytes of the stream, split anywhere. A verdict is final.
    pub fn feed(&mut self, bytes: &[u8]) -> Verdict {
        let Self { decoder, verdict, held_bytes } = self;
        if *verdict == Verdict::Undecided {
            let room = MAX_HELD_BYTES.saturating_sub(*held_bytes);
            *held_bytes += bytes.len();
            decoder.feed(bytes.get(..room).unwrap_or(bytes), |event| {
                if *verdict == Verdict::Undecided {
                    *verdict = judge(&event);
                }
            });
            if *verdict == Verdict::Undecided && *held_bytes > MAX_HELD_BYTES {
                *verdict = Verdict::Begun;
            }
        }
        *verdict
    }
}

/// The members of an event's data that tell an error.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Data<'a> {
    #[serde(borrow)]
    r#type: Option<std::borrow::Cow<'a, str>>,
    error: Option<IgnoredAny>,
}

fn judge(event: &Event<'_>) -> Verdict {
    let data: Data<'_> = serde_json::from_slice(event.data).unwrap_or_default();
    let is_error = event.name == "error" || data.r#type.as_deref() == Some("error") || data.error.is_some();
    // An event without a name is what its data says.
    let name = match event.name {
        "message" => data.r#type.as_deref().unwrap_or_default(),
        name => name,
    };
    match name {
        _ if is_error => Verdict::Failed(classify::class(200, event.data)),
        "ping" | "message_start" => Verdict::Undecided,
        _ => Verdict::Begun,
    }
}

#[cfg(test)]
mod tests;
