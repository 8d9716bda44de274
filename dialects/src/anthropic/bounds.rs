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

mod block;
mod tool;
mod walk;

use walk::Walk;

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

/// Why there is no estimate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BoundsError {
    /// How much output it wants is not said.
    #[error("`max_tokens` is missing; give the most output tokens to generate, a whole number such as 4096")]
    NoMaxTokens,
    /// It is not what [`crate::facts::scan`] accepts.
    #[error("body is not a JSON object; send an object with `messages`")]
    NotAnObject,
    /// A key of the request, or of a message, block or tool, is written with a backslash.
    #[error("a key is written with an escape at byte {at}; write keys plainly")]
    EscapedKey {
        /// Where the key begins, in the body or in the tool.
        at: usize,
    },
}

/// Special tokens around a prompt, and remarks about the context that newer models get: a few dozen.
const FRAME_TOKENS: u64 = 256;

/// What the vendor adds for any tool at all: at most 804 tokens (Anthropic's pricing page, read 2026-11-22).
const TOOL_PROMPT_TOKENS: u64 = 1_000;

/// What it adds for a given output format, and for citations: not published, "slightly" more.
const FORMAT_TOKENS: u64 = 1_000;

/// Bounds a body that [`crate::facts::scan`] has accepted, given its `max_tokens`.
///
/// `ceiling` is the most output that the caller lets the request ask for; it must be enforced to be true.
///
/// # Errors
/// When `max_tokens` is missing, or the body is not what `scan` accepts.
pub fn estimate<'a>(
    body: &'a [u8],
    max_tokens: Option<u64>,
    limits: &Limits,
    ceiling: Option<u64>,
) -> Result<Estimate<'a>, BoundsError> {
    let max_tokens = max_tokens.ok_or(BoundsError::NoMaxTokens)?;
    let mut walk = Walk::new(body);
    if !walk.take(b'{') {
        return Err(BoundsError::NotAnObject);
    }
    let mut found = Found::default();
    let mut request = Request::default();
    walk.members(|walk, key| request.read(walk, key, &mut found))?;
    walk.end()?;
    let output_tokens = max_tokens.min(ceiling.unwrap_or(u64::MAX)).min(limits.max_output_tokens);
    let bounds = Bounds {
        input_tokens: found.input_tokens(body.len(), limits),
        output_tokens,
        caching: found.caching,
        fast: request.fast,
        // Without the field, or with another value, a default of the vendor's workspace decides.
        regional: !request.global,
    };
    Ok(Estimate { bounds, unbounded: found.unbounded })
}

/// What the members of the request say about how it is served.
#[derive(Default)]
struct Request {
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

impl Request {
    fn read<'a>(
        &mut self,
        walk: &mut Walk<'a>,
        key: &'a [u8],
        found: &mut Found<'a>,
    ) -> Result<(), BoundsError> {
        match key {
            b"messages" => return walk.elements(|walk| message(walk, found)),
            b"system" => return block::content(walk, found, 0),
            b"tools" => return tool::tools(walk, found),
            _ => {}
        }
        let value = walk.value()?;
        match key {
            b"model"
            | b"max_tokens"
            | b"stream"
            | b"metadata"
            | b"stop_sequences"
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
            | b"anthropic_beta" => {}
            b"cache_control" => found.cache(caching(value)),
            b"output_config" | b"output_format" => found.added_tokens += FORMAT_TOKENS,
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

fn message<'a>(walk: &mut Walk<'a>, found: &mut Found<'a>) -> Result<(), BoundsError> {
    if !walk.take(b'{') {
        return walk.skip();
    }
    walk.members(|walk, key| match key {
        b"content" => block::content(walk, found, 0),
        _ => walk.skip(),
    })
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
