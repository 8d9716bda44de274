//! The most that a Messages request can use, found in its body without building a tree.
//!
//! Input is bounded by bytes: a token of text stands for at least one byte of it, JSON writes no text in
//! fewer bytes than it has, and what the vendor puts around a message, a block or a tool is shorter in tokens
//! than its JSON is in bytes. So the whole body counts, byte for token, but for two things that are known
//! better: an image counts as many tokens as the model scales it down to, and never its data; a document in
//! pages, or one behind a URL, counts as a whole context window. What the vendor adds unseen is added here. In
//! no case is input more than the context window, because the vendor refuses such a request.
//!
//! Assumed, because nothing is published: encrypted content (signatures of thinking, redacted thinking,
//! compactions) has no more tokens than bytes.
//!
//! What can use the context any number of times, or brings in what is not in the body, is [`Unbounded`]; so
//! is everything that is not known here, because a new feature must not pass for a free one.

use la_core::price::{Bounds, Caching, Limits};

use crate::facts::cursor::{Cursor, usual_key};
use crate::facts::{self, Facts, FactsError};

mod block;
mod tool;

/// The most that a request can use, as far as it is bounded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Estimate<'a> {
    /// The most it can use. With something unbounded in it that is one whole context window of input, which
    /// the vendor may then exceed.
    pub bounds: Bounds,
    /// The first thing in it that nobody can bound. A budget that must hold refuses the request for it.
    pub unbounded: Option<Unbounded<'a>>,
}

/// What nobody can bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unbounded<'a> {
    /// A tool that the vendor runs, or one that is not known.
    #[error("tool type {0:?} may run at the vendor, any number of times")]
    Tool(&'a str),
    /// Tools that the vendor calls on other servers.
    #[error("`mcp_servers` are called by the vendor, any number of times")]
    McpServers,
    /// A place at the vendor where code runs and files lie.
    #[error("`container` holds what is not in the request")]
    Container,
    /// A file at the vendor.
    #[error("a file id stands for what is not in the request")]
    File,
    /// A conversation at the vendor.
    #[error("`thread` continues what is not in the request")]
    Thread,
    /// Summaries on the way.
    #[error("compaction runs the model more than once")]
    Compaction,
    /// Other models that may run as well.
    #[error("`fallbacks` may run several models")]
    Fallbacks,
    /// A member of the request that is not known.
    #[error("field {0:?} is not known here")]
    Field(&'a str),
    /// A content block, or a source of one, that is not known.
    #[error("content of type {0:?} is not known here")]
    Content(&'a str),
    /// Content that two readers could understand in two ways, or that nests deeper than any documented.
    #[error("content has a repeated or escaped `type` or `source`, or nests too deep")]
    Ambiguous,
}

/// Special tokens around a prompt, and remarks about the context that newer models get: a few dozen.
const FRAME_TOKENS: u64 = 256;

/// What the vendor adds for any tool at all: at most 804 tokens (Anthropic's pricing page, read 2026-11-22).
const TOOL_PROMPT_TOKENS: u64 = 1_000;

/// What it adds for a given output format, and for citations: not published, "slightly" more.
const FORMAT_TOKENS: u64 = 1_000;

/// Scans a whole body as [`facts::scan`] does, and takes its extent in the same pass.
///
/// # Errors
/// Those of [`facts::scan`], also for an escaped key of a message, block or tool.
pub fn scan(body: &[u8]) -> Result<(Facts<'_>, Extent<'_>), FactsError> {
    let mut extent = Extent::of(body);
    let facts = facts::scan_with(body, |cursor, key| extent.take(cursor, key))?;
    Ok((facts, extent))
}

/// What of a request decides how much it can use, whatever model serves it.
#[derive(Debug, Clone)]
pub struct Extent<'a> {
    body_bytes: usize,
    found: Found<'a>,
    fast: bool,
    global: bool,
    has_geo: bool,
}

/// What was found so far, here or inside something.
#[derive(Debug, Clone)]
struct Found<'a> {
    /// Bytes of the body that are no text: data of images.
    data_bytes: usize,
    images: u64,
    /// Tokens that the vendor adds.
    added_tokens: u64,
    /// References to a tool, each of which brings in its definition.
    references: u64,
    /// The longest definition of a tool, in bytes.
    longest_tool: usize,
    /// Whether something in it has no bound but the context window.
    is_window: bool,
    caching: Caching,
    unbounded: Option<Unbounded<'a>>,
}

impl Default for Found<'_> {
    fn default() -> Self {
        Self {
            data_bytes: 0,
            images: 0,
            added_tokens: FRAME_TOKENS,
            references: 0,
            longest_tool: 0,
            is_window: false,
            caching: Caching::None,
            unbounded: None,
        }
    }
}

impl<'a> Found<'a> {
    /// Nothing, inside of something.
    fn inside() -> Self {
        Self { added_tokens: 0, ..Self::default() }
    }

    /// Takes over what was found inside.
    fn absorb(&mut self, inside: Self) {
        self.data_bytes += inside.data_bytes;
        self.images += inside.images;
        self.added_tokens += inside.added_tokens;
        self.references += inside.references;
        self.longest_tool = self.longest_tool.max(inside.longest_tool);
        self.is_window |= inside.is_window;
        self.caching = self.caching.max(inside.caching);
        self.unbounded = self.unbounded.or(inside.unbounded);
    }

    fn cache(&mut self, caching: Caching) {
        self.caching = self.caching.max(caching);
    }

    fn unbound(&mut self, what: Unbounded<'a>) {
        self.unbounded.get_or_insert(what);
    }

    fn input_tokens(&self, body_bytes: usize, limits: &Limits) -> u64 {
        if self.is_window || self.unbounded.is_some() {
            return limits.context_window;
        }
        let text = body_bytes.saturating_sub(self.data_bytes) as u64;
        let images = self.images.saturating_mul(limits.image_tokens);
        let referenced = self.references.saturating_mul(self.longest_tool as u64);
        let tokens = [text, images, referenced].into_iter().fold(self.added_tokens, u64::saturating_add);
        tokens.min(limits.context_window)
    }
}

impl<'a> Extent<'a> {
    fn of(body: &[u8]) -> Self {
        let found = Found::default();
        Self { body_bytes: body.len(), found, fast: false, global: false, has_geo: false }
    }

    /// The most that it can use of a model with these `limits`, given its `max_tokens`.
    pub fn estimate(&self, max_tokens: u64, limits: &Limits) -> Estimate<'a> {
        let bounds = Bounds {
            input_tokens: self.found.input_tokens(self.body_bytes, limits),
            output_tokens: max_tokens.min(limits.max_output_tokens),
            caching: self.found.caching,
            fast: self.fast,
            // Without the field, or with another value, a default of the vendor's workspace decides.
            regional: !self.global,
        };
        Estimate { bounds, unbounded: self.found.unbounded }
    }

    /// Looks at a member of the request, and takes its value where that is to be looked through.
    #[inline(always)]
    fn take(&mut self, cursor: &mut Cursor<'a>, key: &'a [u8]) -> Result<bool, FactsError> {
        let found = &mut self.found;
        if key == b"messages" {
            elements(cursor, 1, |cursor| message(cursor, found))?;
        } else if key == b"system" {
            block::content(cursor, found, 0, 1)?;
        } else if key == b"tools" {
            tool::tools(cursor, found)?;
        } else {
            self.look(*cursor, key)?;
            return Ok(false);
        }
        Ok(true)
    }

    /// Looks at a member whose value somebody else takes.
    fn look(&mut self, mut ahead: Cursor<'a>, key: &'a [u8]) -> Result<(), FactsError> {
        let found = &mut self.found;
        match key {
            b"stop_sequences"
            | b"temperature"
            | b"top_p"
            | b"top_k"
            | b"thinking"
            | b"tool_choice"
            | b"service_tier"
            | b"diagnostics"
            | b"billing_policy"
            | b"fallback_credit_token"
            | b"anthropic_version"
            | b"anthropic_beta" => return Ok(()),
            b"output_config" | b"output_format" => {
                found.added_tokens += FORMAT_TOKENS;
                return Ok(());
            }
            _ => {}
        }
        let value = ahead.value(1)?;
        match key {
            b"cache_control" => found.cache(caching(value)),
            b"speed" if value == b"\"fast\"" => self.fast = true,
            b"speed" if value == b"\"standard\"" => {}
            b"inference_geo" => {
                // Of two, either may count.
                self.global = !self.has_geo && value == b"\"global\"";
                self.has_geo = true;
            }
            b"context_management" if !has(value, b"compact") && !has(value, b"\\") => {}
            b"context_management" => found.unbound(Unbounded::Compaction),
            _ if is_nothing(value) => {}
            b"compaction" => found.unbound(Unbounded::Compaction),
            b"mcp_servers" => found.unbound(Unbounded::McpServers),
            b"container" => found.unbound(Unbounded::Container),
            b"fallbacks" => found.unbound(Unbounded::Fallbacks),
            b"thread" => found.unbound(Unbounded::Thread),
            _ => found.unbound(Unbounded::Field(name(key))),
        }
        Ok(())
    }
}

/// Levels that are open around the members of a message.
const IN_MESSAGE: u32 = 3;

#[inline(always)]
fn message<'a>(cursor: &mut Cursor<'a>, found: &mut Found<'a>) -> Result<(), FactsError> {
    if !cursor.take(b'{') {
        return Ok(cursor.skip_value(IN_MESSAGE - 1)?);
    }
    cursor.usual_members(
        |cursor| usual_key!(cursor, "role", "content"),
        |cursor, key| {
            if key == b"content" {
                block::content(cursor, found, 0, IN_MESSAGE)
            } else {
                Ok(cursor.skip_value(IN_MESSAGE)?)
            }
        },
    )
}

/// Reads the elements of an array, around which `outer` levels are open; any other value is skipped.
#[inline(always)]
fn elements<'a>(
    cursor: &mut Cursor<'a>,
    outer: u32,
    read: impl FnMut(&mut Cursor<'a>) -> Result<(), FactsError>,
) -> Result<(), FactsError> {
    if cursor.take(b'[') { cursor.elements(read) } else { Ok(cursor.skip_value(outer)?) }
}

/// What a `cache_control` asks for: five minutes, unless it says anything else.
fn caching(control: &[u8]) -> Caching {
    let is_plain = !has(control, b"\\") && !has(control, b"1h");
    match control {
        b"null" => Caching::None,
        _ if is_plain && (!has(control, b"ttl") || has(control, b"\"5m\"")) => Caching::FiveMinutes,
        _ => Caching::OneHour,
    }
}

/// Whether a value asks for nothing: null, or a list of nothing.
fn is_nothing(value: &[u8]) -> bool {
    let list = value.strip_prefix(b"[").and_then(|rest| rest.strip_suffix(b"]"));
    value == b"null" || list.is_some_and(|inside| inside.trim_ascii().is_empty())
}

fn has(value: &[u8], part: &[u8]) -> bool {
    memchr::memmem::find(value, part).is_some()
}

/// A client's text, if it is short and plain enough to be shown.
fn name(text: &[u8]) -> &str {
    const MAX_BYTES: usize = 64;
    let plain = text.len() <= MAX_BYTES && text.iter().all(u8::is_ascii_graphic);
    std::str::from_utf8(text).ok().filter(|_| plain).unwrap_or("(unreadable)")
}

#[cfg(test)]
mod tests;
