//! What a request body says about itself, found in one pass without building a tree.
//!
//! The pass goes to the end of the body, always: a reader that stops at the first `model` can be shown one
//! model and charged for another. It accepts what `serde_json` accepts as an object, so that what is
//! checked here and what the vendor executes cannot differ, and refuses every key that two readers could
//! understand in two ways.

use std::ops::Range;

pub(crate) mod cursor;

use cursor::{Cursor, EscapedKey, Text, usual_key};
pub use cursor::{MAX_DEPTH, SyntaxError};

/// Longest model id, in bytes.
pub const MAX_MODEL_BYTES: usize = 256;

/// Most output tokens that a request may ask for: a thousandfold of what any model can do (August 2026).
pub const MAX_OUTPUT_TOKENS: u64 = 100_000_000;

/// What a request says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts<'a> {
    /// The model asked for.
    pub model: &'a str,
    /// Where in the body its text stands, between the quotes.
    pub model_span: Range<usize>,
    /// Whether the answer is to be a stream.
    pub stream: bool,
    /// Most output tokens asked for.
    pub max_tokens: Option<u64>,
    /// `metadata.user_id` as it is written between its quotes, escapes and all. Claude Code puts its session
    /// into it.
    pub user_id: Option<&'a str>,
    /// What else can be the id of a session, as it is written, in the order of [`SESSION_KEYS`].
    pub sessions: [Option<&'a str>; SESSION_KEYS.len()],
}

/// Where agents other than Claude Code put the id of a session, the best first.
pub const SESSION_KEYS: [&str; 5] =
    ["metadata.session_id", "metadata.conversation_id", "session_id", "conversation_id", "prompt_cache_key"];

/// Why a body is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FactsError {
    /// It is not text.
    #[error("body is not valid UTF-8 at byte {at}; send JSON as UTF-8")]
    NotUtf8 {
        /// The first bad byte.
        at: usize,
    },
    /// It is not JSON.
    #[error("body is not valid JSON: {0}")]
    Syntax(#[from] SyntaxError),
    /// It is JSON, but no object.
    #[error("body is not a JSON object; send an object with a `model`")]
    NotAnObject,
    /// A key that decides something is there twice.
    #[error("`{key}` is given more than once; send it once")]
    Duplicate {
        /// The key.
        key: &'static str,
    },
    /// A key of the body, or of `metadata`, is written with a backslash and could pass as another.
    #[error("a key is written with an escape at byte {at}; write keys plainly")]
    EscapedKey {
        /// Where the key begins.
        at: usize,
    },
    /// There is no model.
    #[error("`model` is missing; name the model to use")]
    NoModel,
    /// The model is not a plain text.
    #[error("`model` must be a text of 1 to {MAX_MODEL_BYTES} bytes without escapes or control characters")]
    BadModel,
    /// `stream` is neither true nor false.
    #[error("`stream` must be true or false")]
    BadStream,
    /// `max_tokens` is out of range.
    #[error("`max_tokens` must be a whole number from 0 to {MAX_OUTPUT_TOKENS}")]
    BadMaxTokens,
    /// How much output a message may have is not said.
    #[error("`max_tokens` is missing; give the most output tokens to generate, a whole number such as 4096")]
    NoMaxTokens,
}

/// Scans a whole body.
///
/// # Errors
/// The first fault from the left, or what is missing at the end.
pub fn scan(body: &[u8]) -> Result<Facts<'_>, FactsError> {
    scan_with(body, |_, _| Ok(false))
}

/// As [`scan`], where `take` is shown each member that is no fact, and may take its value: then it says so.
///
/// # Errors
/// Those of [`scan`], and of `take`.
#[inline(always)]
pub(crate) fn scan_with<'a>(
    body: &'a [u8],
    mut take: impl FnMut(&mut Cursor<'a>, &'a [u8]) -> Result<bool, FactsError>,
) -> Result<Facts<'a>, FactsError> {
    let text = std::str::from_utf8(body).map_err(|fault| FactsError::NotUtf8 { at: fault.valid_up_to() })?;
    let mut cursor = Cursor::new(body);
    cursor.skip_whitespace();
    if !cursor.take(b'{') {
        // Whatever it is, it must be JSON before it can be JSON of the wrong kind.
        cursor.skip_value(0)?;
        cursor.end()?;
        return Err(FactsError::NotAnObject);
    }
    let mut found = Found::default();
    cursor.usual_members(
        |cursor| usual_key!(cursor, "model", "max_tokens", "messages", "stream", "system"),
        |cursor, key| found.read(cursor, key, &mut take),
    )?;
    cursor.end()?;
    found.finish(text)
}

impl From<EscapedKey> for FactsError {
    fn from(EscapedKey { at }: EscapedKey) -> Self {
        Self::EscapedKey { at }
    }
}

#[derive(Default)]
struct Found {
    model: Option<Range<usize>>,
    stream: Option<bool>,
    max_tokens: Option<u64>,
    metadata: Option<()>,
    user_id: Option<Option<Range<usize>>>,
    /// The first of each, in the order of [`SESSION_KEYS`]: they decide nothing that is charged.
    sessions: [Option<Range<usize>>; SESSION_KEYS.len()],
}

impl Found {
    /// Reads one member of the body. Keys are compared, not matched: patterns are compiled to one comparison
    /// per byte.
    #[inline(always)]
    fn read<'a>(
        &mut self,
        cursor: &mut Cursor<'a>,
        key: &'a [u8],
        take: impl FnOnce(&mut Cursor<'a>, &'a [u8]) -> Result<bool, FactsError>,
    ) -> Result<(), FactsError> {
        if key == b"model" {
            once(&mut self.model, model(cursor)?, "model")
        } else if key == b"stream" {
            once(&mut self.stream, stream(cursor)?, "stream")
        } else if key == b"max_tokens" {
            once(&mut self.max_tokens, max_tokens(cursor)?, "max_tokens")
        } else if key == b"metadata" {
            once(&mut self.metadata, (), "metadata")?;
            self.read_metadata(cursor)
        } else if take(cursor, key)? {
            Ok(())
        } else {
            self.read_session(cursor, key)
        }
    }

    /// Reads the value of `metadata`, whatever that is.
    #[inline(always)]
    fn read_metadata(&mut self, cursor: &mut Cursor<'_>) -> Result<(), FactsError> {
        if !cursor.take(b'{') {
            return Ok(cursor.skip_value(1)?);
        }
        cursor.members(|cursor, key| {
            if key == b"user_id" {
                let value = string_or_skip(cursor)?.map(|text| text.span);
                once(&mut self.user_id, value, "metadata.user_id")
            } else if key == b"session_id" {
                self.offer(0, cursor)
            } else if key == b"conversation_id" {
                self.offer(1, cursor)
            } else {
                Ok(cursor.skip_value(2)?)
            }
        })
    }

    /// Reads a member that nothing but a session's id can be.
    #[inline(always)]
    fn read_session(&mut self, cursor: &mut Cursor<'_>, key: &[u8]) -> Result<(), FactsError> {
        if key == b"session_id" {
            self.offer(2, cursor)
        } else if key == b"conversation_id" {
            self.offer(3, cursor)
        } else if key == b"prompt_cache_key" {
            self.offer(4, cursor)
        } else {
            Ok(cursor.skip_value(1)?)
        }
    }

    fn offer(&mut self, place: usize, cursor: &mut Cursor<'_>) -> Result<(), FactsError> {
        let value = string_or_skip(cursor)?.map(|text| text.span);
        if let Some(slot) = self.sessions.get_mut(place) {
            *slot = slot.take().or(value);
        }
        Ok(())
    }

    fn finish(self, text: &str) -> Result<Facts<'_>, FactsError> {
        let model_span = self.model.ok_or(FactsError::NoModel)?;
        Ok(Facts {
            model: text.get(model_span.clone()).unwrap_or_default(),
            model_span,
            stream: self.stream.unwrap_or_default(),
            max_tokens: self.max_tokens,
            user_id: self.user_id.flatten().and_then(|span| text.get(span)),
            sessions: self.sessions.map(|span| span.and_then(|span| text.get(span))),
        })
    }
}

fn once<T>(slot: &mut Option<T>, value: T, key: &'static str) -> Result<(), FactsError> {
    match slot.replace(value) {
        Some(_) => Err(FactsError::Duplicate { key }),
        None => Ok(()),
    }
}

#[inline(always)]
fn model(cursor: &mut Cursor<'_>) -> Result<Range<usize>, FactsError> {
    let Some(Text { span, has_escape: false }) = string_or_skip(cursor)? else {
        return Err(FactsError::BadModel);
    };
    let name = cursor.bytes(span.clone());
    let good = (1..=MAX_MODEL_BYTES).contains(&name.len()) && !has_control(name);
    if good { Ok(span) } else { Err(FactsError::BadModel) }
}

/// Whether a string has control characters that JSON allows: U+007F to U+009F.
fn has_control(name: &[u8]) -> bool {
    let is_odd = |b: u8| b >= 0x7f;
    name.iter().fold(false, |any, b| any | is_odd(*b))
        && std::str::from_utf8(name).is_ok_and(|name| name.chars().any(char::is_control))
}

#[inline(always)]
fn stream(cursor: &mut Cursor<'_>) -> Result<bool, FactsError> {
    match cursor.value(1)? {
        b"true" => Ok(true),
        b"false" | b"null" => Ok(false),
        _ => Err(FactsError::BadStream),
    }
}

#[inline(always)]
fn max_tokens(cursor: &mut Cursor<'_>) -> Result<u64, FactsError> {
    match cursor.digits() {
        Some(count) if count <= MAX_OUTPUT_TOKENS => Ok(count),
        Some(_) => Err(FactsError::BadMaxTokens),
        None => {
            cursor.skip_value(1)?;
            Err(FactsError::BadMaxTokens)
        }
    }
}

/// Reads a string, or skips any other value of the top level or one below.
#[inline(always)]
fn string_or_skip(cursor: &mut Cursor<'_>) -> Result<Option<Text>, FactsError> {
    if cursor.peek() == Some(b'"') {
        return Ok(Some(cursor.string()?));
    }
    cursor.skip_value(2)?;
    Ok(None)
}

#[cfg(test)]
mod tests;
