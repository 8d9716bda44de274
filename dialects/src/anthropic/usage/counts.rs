//! The vendor's counts and errors, read from the small parts of an answer that hold them.

use la_core::usage::{InferenceGeo, ServiceTier, Speed};

use super::{Fault, Name, Observed, StopReason};
use crate::facts::cursor::{Cursor, EscapedKey, SyntaxError, usual_key};

/// The `usage` of a message; every field may be missing or null.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) input: Option<u64>,
    pub(super) output: Option<u64>,
    cache_write: Option<u64>,
    cache_read: Option<u64>,
    cache_write_5m: Option<u64>,
    cache_write_1h: Option<u64>,
    thinking: Option<u64>,
    searches: Option<u64>,
    fetches: Option<u64>,
    tier: Option<ServiceTier>,
    speed: Option<Speed>,
    geo: Option<InferenceGeo>,
    has_more: bool,
}

/// Longest error type that is kept; the vendor's have up to 22 characters.
const MAX_ERROR_TYPE_BYTES: usize = 64;

/// Most tokens that a count can be believed to say: a hundredfold of the largest context window (August 2026).
const MAX_COUNT: u64 = 100_000_000;

/// Most levels that are open around a value that is read here.
const OUTER: u32 = 5;

impl From<SyntaxError> for Fault {
    fn from(_: SyntaxError) -> Self {
        Self::Unreadable
    }
}

impl From<EscapedKey> for Fault {
    fn from(_: EscapedKey) -> Self {
        Self::Unreadable
    }
}

/// Reads the value of `usage`: an object, or null.
pub(super) fn counts(cursor: &mut Cursor<'_>) -> Result<Option<Counts>, Fault> {
    if !cursor.take(b'{') {
        return null(cursor).map(|()| None);
    }
    let mut counts = Counts::default();
    let mut seen = Seen::default();
    cursor.usual_members(usual, |cursor, key| counts.read(cursor, key, &mut seen))?;
    Ok(Some(counts))
}

#[inline(always)]
fn usual(cursor: &mut Cursor<'_>) -> Option<&'static [u8]> {
    usual_key!(
        cursor,
        "input_tokens",
        "cache_creation_input_tokens",
        "cache_read_input_tokens",
        "output_tokens",
        "service_tier"
    )
}

impl Counts {
    /// Reads one member of `usage`. Keys are compared, not matched: patterns are compiled to one comparison
    /// per byte.
    #[inline(always)]
    fn read(&mut self, cursor: &mut Cursor<'_>, key: &[u8], seen: &mut Seen) -> Result<(), Fault> {
        if key == b"input_tokens" {
            seen.once(0)?;
            count(cursor, &mut self.input)
        } else if key == b"output_tokens" {
            seen.once(1)?;
            count(cursor, &mut self.output)
        } else if key == b"cache_creation_input_tokens" {
            seen.once(2)?;
            count(cursor, &mut self.cache_write)
        } else if key == b"cache_read_input_tokens" {
            seen.once(3)?;
            count(cursor, &mut self.cache_read)
        } else if key == b"service_tier" {
            seen.once(4)?;
            tier(cursor, &mut self.tier)
        } else if key == b"cache_creation" {
            seen.once(5)?;
            let long = (&b"ephemeral_1h_input_tokens"[..], &mut self.cache_write_1h);
            pair(cursor, [(b"ephemeral_5m_input_tokens", &mut self.cache_write_5m), long])
        } else {
            self.read_rare(cursor, key, seen)
        }
    }

    #[inline(never)]
    fn read_rare(&mut self, cursor: &mut Cursor<'_>, key: &[u8], seen: &mut Seen) -> Result<(), Fault> {
        match key {
            b"server_tool_use" => {
                seen.once(6)?;
                let fetches = (&b"web_fetch_requests"[..], &mut self.fetches);
                pair(cursor, [(b"web_search_requests", &mut self.searches), fetches])?;
            }
            b"output_tokens_details" => {
                seen.once(7)?;
                pair(cursor, [(b"thinking_tokens", &mut self.thinking), (b"", &mut None)])?;
            }
            b"speed" => self.speed = seen.once(8).and_then(|()| speed(cursor))?,
            b"inference_geo" => self.geo = seen.once(9).and_then(|()| geo(cursor))?,
            b"iterations" => self.has_more = seen.once(10).and_then(|()| has_more(cursor))?,
            _ => cursor.skip_value(OUTER)?,
        }
        Ok(())
    }
}

/// Which members of an object have been there; one that counts may be there once.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen(u16);

impl Seen {
    pub(super) fn once(&mut self, member: u8) -> Result<(), Fault> {
        if self.has(member) {
            return Err(Fault::Unreadable);
        }
        self.0 |= 1 << member;
        Ok(())
    }

    pub(super) fn has(&self, member: u8) -> bool {
        self.0 & 1 << member != 0
    }
}

/// Reads a count: a whole number that can be, or null.
#[inline(always)]
fn count(cursor: &mut Cursor<'_>, into: &mut Option<u64>) -> Result<(), Fault> {
    *into = cursor.digits();
    match *into {
        Some(count) if count <= MAX_COUNT => Ok(()),
        Some(_) => Err(Fault::Impossible),
        None => no_count(cursor),
    }
}

/// Tells why a value is no count, unless it is null.
#[inline(never)]
fn no_count(cursor: &mut Cursor<'_>) -> Result<(), Fault> {
    match cursor.peek() {
        Some(b'0'..=b'9' | b'-') => cursor.skip_value(OUTER)?,
        _ => return null(cursor),
    }
    Err(Fault::Impossible)
}

fn null(cursor: &mut Cursor<'_>) -> Result<(), Fault> {
    if cursor.value(OUTER)? == b"null" { Ok(()) } else { Err(Fault::Unreadable) }
}

/// Reads the counts of two members of an object, or none of null.
fn pair(cursor: &mut Cursor<'_>, [one, two]: [(&[u8], &mut Option<u64>); 2]) -> Result<(), Fault> {
    if !cursor.take(b'{') {
        return null(cursor);
    }
    let mut seen = Seen::default();
    cursor.members(|cursor, key| {
        if key == one.0 {
            seen.once(0)?;
            count(cursor, one.1)
        } else if key == two.0 {
            seen.once(1)?;
            count(cursor, two.1)
        } else {
            Ok(cursor.skip_value(OUTER)?)
        }
    })
}

fn tier(cursor: &mut Cursor<'_>, into: &mut Option<ServiceTier>) -> Result<(), Fault> {
    *into = word(cursor)?.map(|tier| {
        if tier == b"standard" {
            ServiceTier::Standard
        } else if tier == b"priority" {
            ServiceTier::Priority
        } else if tier == b"batch" {
            ServiceTier::Batch
        } else {
            ServiceTier::Other
        }
    });
    Ok(())
}

fn speed(cursor: &mut Cursor<'_>) -> Result<Option<Speed>, Fault> {
    Ok(match word(cursor)? {
        None => None,
        Some(b"standard") => Some(Speed::Standard),
        Some(b"fast") => Some(Speed::Fast),
        Some(_) => Some(Speed::Other),
    })
}

fn geo(cursor: &mut Cursor<'_>) -> Result<Option<InferenceGeo>, Fault> {
    Ok(match word(cursor)? {
        None => None,
        Some(b"global" | b"not_available") => Some(InferenceGeo::Global),
        Some(b"us") => Some(InferenceGeo::Us),
        Some(_) => Some(InferenceGeo::Other),
    })
}

/// Reads `stop_reason`, or skips what is none.
pub(super) fn stop_reason(cursor: &mut Cursor<'_>) -> Result<Option<StopReason>, Fault> {
    Ok(word(cursor)?.map(|reason| match reason {
        b"end_turn" => StopReason::EndTurn,
        b"max_tokens" => StopReason::MaxTokens,
        b"stop_sequence" => StopReason::StopSequence,
        b"tool_use" => StopReason::ToolUse,
        b"pause_turn" => StopReason::PauseTurn,
        b"refusal" => StopReason::Refusal,
        b"model_context_window_exceeded" => StopReason::ContextWindowExceeded,
        _ => StopReason::Other,
    }))
}

/// Reads `model`, or skips what is none.
pub(super) fn model(cursor: &mut Cursor<'_>) -> Result<Option<Name>, Fault> {
    Ok(word(cursor)?.and_then(Name::new))
}

/// Reads a string as it is written, or skips any other value.
fn word<'a>(cursor: &mut Cursor<'a>) -> Result<Option<&'a [u8]>, Fault> {
    let plain = cursor.plain_string();
    if plain.is_some() {
        return Ok(plain);
    }
    // One with a backslash is none that is known.
    let value = cursor.value(OUTER)?;
    Ok(value.starts_with(b"\"").then_some(value))
}

/// Reads `iterations`, and tells whether one of them is more than a turn of the message: the counts hold
/// neither a compaction nor what an adviser used, and another model's turns have another price.
fn has_more(cursor: &mut Cursor<'_>) -> Result<bool, Fault> {
    if !cursor.take(b'[') {
        return Ok(cursor.value(OUTER)? != b"null");
    }
    let mut has_more = false;
    cursor.elements(|cursor| {
        let mut kind = None;
        type_of(cursor, &mut kind)?;
        has_more |= kind != Some(b"message");
        Ok::<(), Fault>(())
    })?;
    Ok(has_more)
}

/// The `type` of a member of a text that is an object, found even if the end of the text is missing.
pub(super) fn type_in<'a>(text: &'a [u8], member: &[u8]) -> Option<&'a [u8]> {
    let mut kind = None;
    // What follows the type does not matter, not even whether it is whole.
    let _ = object(
        text,
        |cursor, key| {
            if key == member { type_of(cursor, &mut kind) } else { Ok(cursor.skip_value(1)?) }
        },
    );
    kind
}

/// Reads the members of a text that is an object.
pub(super) fn object<'a>(
    text: &'a [u8],
    read: impl FnMut(&mut Cursor<'a>, &'a [u8]) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let mut cursor = Cursor::new(text);
    cursor.skip_whitespace();
    if !cursor.take(b'{') {
        return Err(Fault::Unreadable);
    }
    cursor.members(read)?;
    Ok(cursor.end()?)
}

/// Reads an object and finds its `type`, which is there before the object has been read to its end.
pub(super) fn type_of<'a>(cursor: &mut Cursor<'a>, kind: &mut Option<&'a [u8]>) -> Result<(), Fault> {
    if !cursor.take(b'{') {
        return Ok(cursor.skip_value(OUTER)?);
    }
    cursor.members(|cursor, key| {
        if key == b"type" {
            *kind = word(cursor)?;
        } else {
            cursor.skip_value(OUTER)?;
        }
        Ok(())
    })
}

impl Observed {
    /// Takes over counts: a later value wins where there is one.
    pub(super) fn count(&mut self, counts: &Counts) {
        let (usage, terms) = (self.usage.get_or_insert_default(), &mut self.terms);
        let is_less = counts.output.is_some_and(|output| output < usage.output_tokens);
        let split = counts.cache_write_5m.unwrap_or_default() + counts.cache_write_1h.unwrap_or_default();
        let pairs = [
            (&mut usage.input_tokens, counts.input),
            (&mut usage.output_tokens, counts.output.filter(|_| !is_less)),
            (&mut usage.cache_write_tokens, counts.cache_write.or((split > 0).then_some(split))),
            (&mut usage.cache_read_tokens, counts.cache_read),
            (&mut terms.cache_write_5m_tokens, counts.cache_write_5m),
            (&mut terms.cache_write_1h_tokens, counts.cache_write_1h),
            (&mut terms.thinking_tokens, counts.thinking),
            (&mut terms.web_search_requests, counts.searches),
            (&mut terms.web_fetch_requests, counts.fetches),
        ];
        for (slot, value) in pairs {
            *slot = value.unwrap_or(*slot);
        }
        terms.service_tier = counts.tier.or(terms.service_tier);
        terms.speed = counts.speed.or(terms.speed);
        terms.inference_geo = counts.geo.or(terms.inference_geo);
        self.has_more |= counts.has_more;
        self.has_input |= counts.input.is_some();
        let is_more_than_whole = terms.cache_write_5m_tokens + terms.cache_write_1h_tokens
            > usage.cache_write_tokens
            || terms.thinking_tokens > usage.output_tokens;
        if is_less || is_more_than_whole {
            self.fault(Fault::Impossible);
        }
    }

    /// Takes over the type of an error, if it is one: short, and made of lower-case letters and `_`.
    pub(super) fn fail(&mut self, kind: Option<&[u8]>) {
        let plain = |kind: &&[u8]| {
            kind.len() <= MAX_ERROR_TYPE_BYTES && kind.iter().all(|b| b.is_ascii_lowercase() || *b == b'_')
        };
        let kind = kind.filter(plain).and_then(|kind| std::str::from_utf8(kind).ok());
        self.error = Some(kind.unwrap_or("unknown_error").to_owned());
    }

    /// Notes what cannot be; the first counts.
    pub(super) fn fault(&mut self, fault: Fault) {
        self.fault.get_or_insert(fault);
    }
}
