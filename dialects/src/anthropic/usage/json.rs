//! The counts of an answer that is one JSON object: its own `usage` or `error`, wherever they stand in it.
//!
//! Follows nesting and strings from byte to byte and keeps only a member that is needed. It does not check
//! the rest: an answer passes as it is.

use memchr::memchr2;

use super::counts::{Counts, ErrorPart};
use super::{Fault, Observed};

#[derive(Debug)]
pub(super) struct Watch {
    limit_bytes: usize,
    depth: u32,
    place: Place,
    escaped: bool,
    key: Vec<u8>,
    value: Vec<u8>,
    wanted: Option<Wanted>,
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
            is_cut: false,
            observed: Observed::default(),
        }
    }

    pub(super) fn feed(&mut self, bytes: &[u8]) {
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
                self.wanted = match self.key.as_slice() {
                    b"\"usage\"" => Some(Wanted::Usage),
                    b"\"error\"" => Some(Wanted::Error),
                    _ => None,
                };
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

    /// Reads the member that has just ended, if it is one that was kept.
    fn end_member(&mut self) {
        let value = std::mem::take(&mut self.value);
        let is_cut = std::mem::take(&mut self.is_cut);
        match self.wanted.take() {
            Some(_) if is_cut => self.observed.fault(Fault::TooLarge),
            Some(Wanted::Usage) => match serde_json::from_slice::<Option<Counts>>(&value) {
                Ok(counts) => self.observed.count(counts),
                Err(_) => self.observed.fault(Fault::Unreadable),
            },
            Some(Wanted::Error) => match serde_json::from_slice::<Option<ErrorPart<'_>>>(&value) {
                Ok(Some(error)) => self.observed.fail(&error),
                Ok(None) => {}
                Err(_) => self.observed.error = Some("unknown_error".to_owned()),
            },
            None => {}
        }
    }
}
