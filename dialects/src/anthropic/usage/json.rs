//! The counts of an answer that is one JSON object: its own `usage` or `error`, wherever they stand in it.
//!
//! An answer that is there as a whole, as most are, is read at once. Any other is followed through nesting and
//! strings from byte to byte, and only a member that is needed is kept. That does not check the rest: an answer
//! passes as it is. Both say the same of the same bytes.

use memchr::memchr2;

use super::counts::{Seen, counts, model, stop_reason, type_of};
use super::{Fault, Observed};
use crate::facts::cursor::{Cursor, usual_key};

#[derive(Debug, Clone)]
pub(super) struct Watch {
    limit_bytes: usize,
    depth: u32,
    place: Place,
    escaped: bool,
    key: Vec<u8>,
    value: Vec<u8>,
    wanted: Option<Wanted>,
    seen: Seen,
    is_cut: bool,
    observed: Observed,
}

/// Where the next byte stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Before the answer's brace.
    Before,
    /// Between the members of the answer, or inside a value but not in a string.
    Open,
    /// In a string at the first level, where a key may stand.
    Key,
    /// In any other string.
    String,
    /// After the answer's closing brace, or where nothing can be understood any more.
    Over,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Usage,
    Error,
    Model,
    StopReason,
}

impl Wanted {
    fn called(key: &[u8]) -> Option<Self> {
        if key == b"usage" {
            Some(Self::Usage)
        } else if key == b"model" {
            Some(Self::Model)
        } else if key == b"stop_reason" {
            Some(Self::StopReason)
        } else if key == b"error" {
            Some(Self::Error)
        } else {
            None
        }
    }
}

/// Longest key that is told apart from others.
const MAX_KEY_BYTES: usize = 16;

/// Room made for a member at first: what the vendor's usually have.
const USUAL_VALUE_BYTES: usize = 512;

impl Watch {
    pub(super) fn new(limit_bytes: usize) -> Self {
        Self {
            limit_bytes,
            depth: 0,
            place: Place::Before,
            escaped: false,
            key: Vec::new(),
            value: Vec::new(),
            wanted: None,
            seen: Seen::default(),
            is_cut: false,
            observed: Observed::of_json(),
        }
    }

    pub(super) fn feed(&mut self, bytes: &[u8]) {
        if self.place == Place::Before
            && bytes.len() <= self.limit_bytes
            && let Some(observed) = whole(bytes)
        {
            self.observed = observed;
            self.place = Place::Over;
        }
        let mut rest = bytes;
        while !rest.is_empty() && self.place != Place::Over {
            rest = match self.place {
                Place::Key | Place::String => self.read_string(rest),
                _ => self.read_open(rest),
            };
        }
    }

    pub(super) fn observed(&self) -> &Observed {
        &self.observed
    }

    pub(super) fn into_observed(self) -> Observed {
        self.observed
    }

    /// Reads to the end of a string, or of the bytes.
    fn read_string<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let mut at = 0;
        loop {
            if self.escaped && at < bytes.len() {
                self.escaped = false;
                at += 1;
            }
            let rest = bytes.get(at..).unwrap_or_default();
            let Some(found) = memchr2(b'"', b'\\', rest) else {
                self.keep(bytes);
                return &[];
            };
            at += found + 1;
            if bytes.get(at - 1) == Some(&b'\\') {
                self.escaped = true;
                continue;
            }
            let (part, rest) = bytes.split_at(at);
            self.keep(part);
            self.place = Place::Open;
            return rest;
        }
    }

    /// Reads one byte outside strings, or all up to the next that decides something.
    fn read_open<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        if self.place == Place::Open {
            let plain = bytes.iter().take_while(|byte| !self.decides(**byte)).count();
            if plain > 0 {
                let (part, rest) = bytes.split_at(plain);
                self.keep(part);
                return rest;
            }
        }
        let Some((byte, rest)) = bytes.split_first() else { return bytes };
        match byte {
            b'{' | b'[' if self.place == Place::Before => {
                self.depth = 1;
                self.place = if *byte == b'{' { Place::Open } else { Place::Over };
                return rest;
            }
            b' ' | b'\t' | b'\r' | b'\n' => {}
            _ if self.place == Place::Before => self.place = Place::Over,
            b'"' => {
                let is_key = self.depth == 1 && self.wanted.is_none();
                self.place = if is_key { Place::Key } else { Place::String };
                self.key.clear();
            }
            b'{' | b'[' => self.depth = self.depth.saturating_add(1),
            b':' if self.depth == 1 => {
                self.wanted = self.wanted_member();
                self.value.reserve(if self.wanted.is_some() { USUAL_VALUE_BYTES } else { 0 });
                self.key.clear();
                return rest;
            }
            b',' if self.depth == 1 => self.end_member(),
            b'}' | b']' => {
                if self.depth == 1 {
                    self.end_member();
                    self.place = Place::Over;
                    self.observed.complete = *byte == b'}';
                }
                self.depth = self.depth.saturating_sub(1);
            }
            _ => {}
        }
        self.keep(std::slice::from_ref(byte));
        rest
    }

    /// Whether a byte outside strings changes the place or the depth, or ends a key or member.
    fn decides(&self, byte: u8) -> bool {
        match byte {
            b'"' | b'{' | b'[' | b'}' | b']' => true,
            b':' | b',' => self.depth == 1,
            _ => false,
        }
    }

    fn keep(&mut self, part: &[u8]) {
        if self.wanted.is_some() {
            if part.len() > self.limit_bytes.saturating_sub(self.value.len()) {
                self.is_cut = true;
            } else if !self.is_cut {
                self.value.extend_from_slice(part);
            }
        } else if self.place == Place::Key {
            let room = MAX_KEY_BYTES.saturating_sub(self.key.len());
            self.key.extend_from_slice(part.get(..room).unwrap_or(part));
        }
    }

    /// What the member is whose key has just ended.
    fn wanted_member(&mut self) -> Option<Wanted> {
        if self.key.contains(&b'\\') {
            self.observed.fault(Fault::Unreadable);
        }
        let key = self.key.strip_prefix(b"\"").and_then(|key| key.strip_suffix(b"\""));
        let wanted = Wanted::called(key?)?;
        match self.seen.once(wanted as u8) {
            Ok(()) => Some(wanted),
            Err(fault) => {
                self.observed.fault(fault);
                None
            }
        }
    }

    /// Reads the member that has just ended, if it is one that was kept.
    fn end_member(&mut self) {
        let value = std::mem::take(&mut self.value);
        let is_cut = std::mem::take(&mut self.is_cut);
        let Some(wanted) = self.wanted.take() else { return };
        if is_cut {
            return self.observed.fault(Fault::TooLarge);
        }
        let read = check(&value).and_then(|mut cursor| self.observed.member(wanted, &mut cursor));
        match read {
            Ok(()) => {}
            Err(_) if wanted == Wanted::Error => self.observed.fail(None),
            Err(fault) => self.observed.fault(fault),
        }
    }
}

/// Begins to read a value, which must be one and nothing else.
fn check(value: &[u8]) -> Result<Cursor<'_>, Fault> {
    let mut cursor = Cursor::new(value);
    cursor.skip_whitespace();
    let begin = cursor;
    cursor.skip_value(1)?;
    cursor.end()?;
    Ok(begin)
}

/// What is observed of a whole answer that is as it should be.
fn whole(bytes: &[u8]) -> Option<Observed> {
    // The beginning of a longer answer hardly ever ends so, and is not worth reading twice.
    if bytes.trim_ascii_end().last() != Some(&b'}') {
        return None;
    }
    let mut observed = Observed::of_json();
    let mut seen = Seen::default();
    let mut cursor = Cursor::new(bytes);
    cursor.skip_whitespace();
    if !cursor.take(b'{') {
        return None;
    }
    let usual = |cursor: &mut Cursor<'_>| {
        usual_key!(cursor, "id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "usage")
    };
    let read = cursor.usual_members(usual, |cursor, key| match Wanted::called(key) {
        Some(wanted) => {
            seen.once(wanted as u8)?;
            observed.member(wanted, cursor)
        }
        None => Ok::<(), Fault>(cursor.skip_value(1)?),
    });
    read.ok()?;
    cursor.end().ok()?;
    observed.complete = true;
    Some(observed)
}

impl Observed {
    fn of_json() -> Self {
        let mut observed = Self::default();
        observed.emitted.is_hidden = true;
        observed
    }

    /// Reads a member of the answer.
    fn member(&mut self, wanted: Wanted, cursor: &mut Cursor<'_>) -> Result<(), Fault> {
        match wanted {
            Wanted::Usage => {
                if let Some(counts) = counts(cursor)? {
                    self.has_final_output = counts.output.is_some();
                    self.count(&counts);
                }
            }
            Wanted::Error if cursor.peek() == Some(b'n') => cursor.skip_value(1)?,
            Wanted::Error => {
                let mut kind = None;
                type_of(cursor, &mut kind)?;
                self.fail(kind);
            }
            Wanted::Model => self.model = model(cursor)?,
            Wanted::StopReason => self.stop_reason = stop_reason(cursor)?,
        }
        Ok(())
    }
}
