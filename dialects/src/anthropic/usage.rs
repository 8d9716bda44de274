//! What an answer used, observed while its bytes pass.
//!
//! The counts of a stream are cumulative: a later value replaces an earlier one and nothing is ever summed.
//! An observer keeps at most 32 KiB, is right at any split of the bytes, and costs next to nothing on the
//! parts of an answer that hold no counts. It changes nothing and stops nothing: what it cannot understand
//! becomes a [`Fault`], and the bytes pass all the same.

use la_core::usage::Usage;

mod counts;
mod json;
mod stream;

/// Watches one answer.
#[derive(Debug)]
pub struct Observer(Kind);

#[derive(Debug)]
enum Kind {
    Stream(stream::Watch),
    Json(json::Watch),
}

/// What was seen of an answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// The last value of each count, if any count was seen.
    pub usage: Option<Usage>,
    /// Whether the answer came to its proper end: `message_stop`, or the closing brace.
    pub complete: bool,
    /// The type of the error that it ended with, such as `overloaded_error`.
    pub error: Option<String>,
    /// The first thing in it that cannot be.
    pub fault: Option<Fault>,
}

/// What cannot be in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A second message began in one answer.
    #[error("a second message_start in one stream")]
    SecondMessage,
    /// A part that holds counts is not what the vendor documents.
    #[error("counts that cannot be read")]
    Unreadable,
    /// A part that holds counts is larger than is kept.
    #[error("counts in a part that is larger than {MAX_PART_BYTES} bytes")]
    TooLarge,
}

/// Most bytes kept of one event, or of one member of a JSON answer. The parts that hold counts are a few
/// hundred bytes.
pub const MAX_PART_BYTES: usize = 32 * 1024;

impl Observer {
    /// For an answer of type `text/event-stream`.
    pub fn for_stream() -> Self {
        Self(Kind::Stream(stream::Watch::new(MAX_PART_BYTES)))
    }

    /// For an answer that is one JSON object, of any size; keeps at most `max_bytes` of a member it needs.
    pub fn for_json(max_bytes: usize) -> Self {
        Self(Kind::Json(json::Watch::new(max_bytes.min(MAX_PART_BYTES))))
    }

    /// Sees the next bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            Kind::Stream(watch) => watch.feed(bytes),
            Kind::Json(watch) => watch.feed(bytes),
        }
    }

    /// What has been seen so far; a stream that is cut short still has its last counts.
    pub fn so_far(&self) -> &Observed {
        match &self.0 {
            Kind::Stream(watch) => watch.observed(),
            Kind::Json(watch) => watch.observed(),
        }
    }

    /// What was seen.
    pub fn finish(self) -> Observed {
        match self.0 {
            Kind::Stream(watch) => watch.into_observed(),
            Kind::Json(watch) => watch.into_observed(),
        }
    }
}

#[cfg(test)]
mod tests;
