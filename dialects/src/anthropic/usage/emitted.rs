//! How much a stream has said so far, for one that ends before it says how much it used.
//!
//! Bounds in tokens come from bytes. A token of text has at least one byte, so the bytes seen, written as
//! JSON, are at least as many as the tokens. A block of thinking has no upper bound: the vendor shows a
//! summary, or nothing, and counts what was thought.

use memchr::memrchr;

use super::counts::type_in;

/// Most bytes that one token stands for, as JSON writes them: 128, the longest in published vocabularies (the
/// vendor's is not published; August 2026), where two bytes may be written as six.
const MAX_TOKEN_BYTES: u64 = 384;

/// What has been seen of the content.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Emitted {
    /// Bytes of text, tool input and shown thinking, as JSON writes them.
    bytes: u64,
    /// Bytes of the events that began blocks: room for what a block costs beside its content, such as the
    /// name of a tool.
    frame_bytes: u64,
    /// Bytes of a last event that was cut short, not all of them content.
    part_bytes: u64,
    /// Whether there was output that cannot be seen.
    pub(super) is_hidden: bool,
}

impl Emitted {
    /// Tokens that this surely is.
    pub(super) fn at_least(&self) -> u64 {
        self.bytes.div_ceil(MAX_TOKEN_BYTES)
    }

    /// Tokens that this is at most, unless some of it is hidden.
    pub(super) fn at_most(&self) -> Option<u64> {
        let bytes = self.bytes.saturating_add(self.frame_bytes).saturating_add(self.part_bytes);
        (!self.is_hidden).then_some(bytes)
    }

    /// Sees the data of a `content_block_start`, of which the end may be missing.
    pub(super) fn block(&mut self, data: &[u8]) {
        match type_in(data, b"content_block") {
            Some(b"text" | b"tool_use" | b"server_tool_use" | b"mcp_tool_use") => {
                self.frame_bytes = self.frame_bytes.saturating_add(data.len() as u64);
            }
            // What a tool of the vendor found is no output.
            Some(kind) if kind.ends_with(b"_tool_result") => {}
            _ => self.is_hidden = true,
        }
    }

    /// Sees the data of a `content_block_delta` of which the end is missing.
    pub(super) fn part_of_delta(&mut self, data: &[u8]) {
        self.part_bytes = data.len() as u64;
    }

    /// Sees the data of a whole `content_block_delta`.
    pub(super) fn delta(&mut self, data: &[u8]) {
        self.bytes = self.bytes.saturating_add(content_bytes(data) as u64);
    }
}

/// How many bytes of an event are content, or more. Told from how the vendor writes it, without reading it;
/// an event that is written in another way counts as a whole.
fn content_bytes(data: &[u8]) -> usize {
    content(data).unwrap_or(data.len())
}

fn content(data: &[u8]) -> Option<usize> {
    let index = data.strip_prefix(br#"{"type":"content_block_delta","index":"#)?;
    let digits = index.iter().take_while(|b| b.is_ascii_digit()).count();
    let delta = index.get(digits..)?.strip_prefix(br#","delta":{"type":""#)?;
    let text = delta
        .strip_prefix(br#"text_delta","text":""#)
        .or_else(|| delta.strip_prefix(br#"input_json_delta","partial_json":""#))
        .or_else(|| delta.strip_prefix(br#"thinking_delta","thinking":""#));
    match text {
        // The last quote ends the text, or stands behind it: what is counted is never too little.
        Some(text) => memrchr(b'"', text),
        None => delta.starts_with(br#"signature_delta""#).then_some(0),
    }
}
