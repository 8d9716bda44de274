//! What an answer used, observed while its bytes pass.
//!
//! The counts of a stream are cumulative: a later value replaces an earlier one and nothing is ever summed.
//! An observer keeps at most 32 KiB, is right at any split of the bytes, and does little more than look for
//! the ends of the parts that hold no counts. It changes nothing and stops nothing: what it cannot understand
//! becomes a [`Fault`], and the bytes pass all the same.

use la_core::usage::{Terms, Usage};

mod counts;
mod emitted;
mod json;
mod name;
mod stream;

use emitted::Emitted;
pub use name::Name;

/// Watches one answer.
#[derive(Debug, Clone)]
pub struct Observer(Kind);

#[derive(Debug, Clone)]
enum Kind {
    Stream(stream::Watch),
    Json(json::Watch),
}

/// What was seen of an answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// The last value of each count, if any count was seen.
    pub usage: Option<Usage>,
    /// What else decides the price, as far as it was seen.
    pub terms: Terms,
    /// The model that the vendor says it ran, unless its name is odd or longer than 63 bytes.
    pub model: Option<Name>,
    /// Why the model stopped.
    pub stop_reason: Option<StopReason>,
    /// Whether the vendor says that it used tokens which `usage` does not hold, or tokens of another model: for
    /// a compaction, an adviser, a fallback. What was used is more than what was counted.
    pub has_more: bool,
    /// Whether the answer came to its proper end: `message_stop`, or the closing brace.
    pub complete: bool,
    /// The type of the error that it ended with, such as `overloaded_error`.
    pub error: Option<String>,
    /// The first thing in it that cannot be.
    pub fault: Option<Fault>,
    has_input: bool,
    has_final_output: bool,
    emitted: Emitted,
}

/// How far `usage` can be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Quality {
    /// It is what the whole answer used.
    Complete,
    /// All input was counted, output only up to some point: see [`Observed::output_at_least`].
    Partial,
    /// Nothing that can be believed was counted. What was reserved is what may be owed.
    Unknown,
}

/// The vendor's `stop_reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StopReason {
    /// `end_turn`: the model was done.
    EndTurn,
    /// `max_tokens`: the most that was asked for, or that the model can say.
    MaxTokens,
    /// `stop_sequence`: one of the caller's was said.
    StopSequence,
    /// `tool_use`: the model wants a tool to be run.
    ToolUse,
    /// `pause_turn`: a long turn may be gone on with.
    PauseTurn,
    /// `refusal`: the vendor's classifiers stepped in.
    Refusal,
    /// `model_context_window_exceeded`.
    ContextWindowExceeded,
    /// One that is not known here.
    Other,
}

impl Observed {
    /// How far the counts can be believed, if the answer ended here.
    pub fn quality(&self) -> Quality {
        if !self.has_input || self.fault.is_some() {
            return Quality::Unknown;
        }
        let is_whole = self.complete && self.has_final_output && self.error.is_none() && !self.has_more;
        if is_whole { Quality::Complete } else { Quality::Partial }
    }

    /// Whether `usage` is what the vendor bills for the message: it came with the reason why the model stopped.
    /// What comes after it, or does not, changes nothing.
    pub fn is_final(&self) -> bool {
        let is_counted = self.has_input && self.has_final_output && self.stop_reason.is_some();
        is_counted && self.fault.is_none() && !self.has_more
    }

    /// Whether nothing was seen that the model said, nor what it had read.
    pub fn is_silent(&self) -> bool {
        self.usage.is_none() && self.fault.is_none() && self.emitted == Emitted::default()
    }

    /// Output tokens that there surely were so far.
    pub fn output_at_least(&self) -> u64 {
        let counted = self.usage.map_or(0, |usage| usage.output_tokens);
        if self.has_final_output { counted } else { counted.max(self.emitted.at_least()) }
    }

    /// Output tokens that there were at most in what was seen so far, or `None` if that cannot be told: some
    /// are hidden, or the answer is no stream. What the vendor had ready and not sent is not in it.
    pub fn output_at_most(&self) -> Option<u64> {
        match (self.quality(), self.usage) {
            (Quality::Complete, Some(usage)) => Some(usage.output_tokens),
            (Quality::Partial, Some(usage)) => {
                self.emitted.at_most().map(|tokens| tokens.max(usage.output_tokens))
            }
            _ => None,
        }
    }
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
    /// A count is negative, no whole number, beyond belief, less than before, or more than what it is part of.
    #[error("counts that cannot be")]
    Impossible,
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
