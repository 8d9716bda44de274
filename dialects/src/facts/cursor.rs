//! A place in a JSON text that only moves forward, and only over what is JSON.
//!
//! Strict where `serde_json` is: control characters, lone surrogates, leading zeros and numbers beyond a
//! double are no JSON here either. Allocates nothing; nesting costs one bit per level.

use std::ops::Range;

/// Deepest nesting of arrays and objects, the body itself included.
pub const MAX_DEPTH: u32 = 128;

/// Numbers with this many bytes may be beyond a double (1.8e308) without an exponent.
const LONG_NUMBER_BYTES: usize = 300;

/// Where and why a text stops being JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SyntaxError {
    /// Another byte, or the end, stands where the grammar has a choice.
    #[error("expected {expected} at byte {at}")]
    Unexpected {
        /// What could have stood there.
        expected: &'static str,
        /// Where.
        at: usize,
    },
    /// Arrays and objects nest too deep.
    #[error("nested deeper than {MAX_DEPTH} levels at byte {at}")]
    TooDeep {
        /// Where the level begins.
        at: usize,
    },
    /// A number is beyond what a double holds.
    #[error("number out of range at byte {at}")]
    NumberRange {
        /// Where the number begins.
        at: usize,
    },
}

/// A string of the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Text {
    /// Where it stands, without its quotes.
    pub(super) span: Range<usize>,
    /// Whether it is written with a backslash.
    pub(super) has_escape: bool,
}

pub(super) struct Cursor<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
}

/// The open arrays and objects of a value, one bit each: set for an object.
#[derive(Default)]
struct Open {
    levels: u32,
    objects: u128,
}

impl Open {
    fn push(&mut self, is_object: bool) {
        self.objects = self.objects << 1 | u128::from(is_object);
        self.levels += 1;
    }

    fn pop(&mut self) {
        self.objects >>= 1;
        self.levels = self.levels.saturating_sub(1);
    }

    fn is_in_object(&self) -> bool {
        self.objects & 1 == 1
    }
}

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, bytes: text.as_bytes(), at: 0 }
    }

    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// What stands in `span`, which must have come from this cursor.
    pub(super) fn text(&self, span: &Range<usize>) -> &'a str {
        self.text.get(span.clone()).unwrap_or_default()
    }

    pub(super) fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    pub(super) fn take(&mut self, byte: u8) -> bool {
        let taken = self.peek() == Some(byte);
        self.at += usize::from(taken);
        taken
    }

    pub(super) fn expect(&mut self, byte: u8) -> Result<(), SyntaxError> {
        if self.take(byte) {
            return Ok(());
        }
        Err(self.unexpected(match byte {
            b':' => "`:`",
            b'"' => "a string",
            _ => "`,` or the end of the object",
        }))
    }

    pub(super) fn skip_whitespace(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    /// Takes white space to the end of the text.
    pub(super) fn end(&mut self) -> Result<(), SyntaxError> {
        self.skip_whitespace();
        if self.peek().is_none() { Ok(()) } else { Err(self.unexpected("the end of the body")) }
    }

    /// Takes one value; `outer` levels are open around it.
    pub(super) fn skip_value(&mut self, outer: u32) -> Result<(), SyntaxError> {
        let mut open = Open { levels: outer, objects: 0 };
        loop {
            if !self.enter_value(&mut open)? && !self.leave_value(&mut open, outer)? {
                return Ok(());
            }
        }
    }

    /// Takes a scalar or an empty container whole, or the beginning of a container up to its first value.
    /// Tells whether a value comes next.
    fn enter_value(&mut self, open: &mut Open) -> Result<bool, SyntaxError> {
        match self.peek() {
            Some(b'"') => self.string().map(|_| false),
            Some(b'{') => {
                self.open(open, true)?;
                if self.take(b'}') {
                    open.pop();
                    return Ok(false);
                }
                self.key().map(|()| true)
            }
            Some(b'[') => {
                self.open(open, false)?;
                if self.take(b']') {
                    open.pop();
                    return Ok(false);
                }
                Ok(true)
            }
            Some(b'-' | b'0'..=b'9') => self.number().map(|()| false),
            Some(b't') => self.literal("true").map(|()| false),
            Some(b'f') => self.literal("false").map(|()| false),
            Some(b'n') => self.literal("null").map(|()| false),
            _ => Err(self.unexpected("a value")),
        }
    }

    /// Takes what follows a value, up to the next. Tells whether there is a next.
    fn leave_value(&mut self, open: &mut Open, outer: u32) -> Result<bool, SyntaxError> {
        while open.levels > outer {
            self.skip_whitespace();
            let is_object = open.is_in_object();
            if self.take(b',') {
                self.skip_whitespace();
                if is_object {
                    self.key()?;
                }
                return Ok(true);
            }
            if !self.take(if is_object { b'}' } else { b']' }) {
                let expected = if is_object { "`,` or `}`" } else { "`,` or `]`" };
                return Err(self.unexpected(expected));
            }
            open.pop();
        }
        Ok(false)
    }

    fn open(&mut self, open: &mut Open, is_object: bool) -> Result<(), SyntaxError> {
        if open.levels >= MAX_DEPTH {
            return Err(SyntaxError::TooDeep { at: self.at });
        }
        open.push(is_object);
        self.at += 1;
        self.skip_whitespace();
        Ok(())
    }

    fn key(&mut self) -> Result<(), SyntaxError> {
        self.string()?;
        self.skip_whitespace();
        self.expect(b':')?;
        self.skip_whitespace();
        Ok(())
    }

    /// Takes one string.
    pub(super) fn string(&mut self) -> Result<Text, SyntaxError> {
        self.expect(b'"')?;
        let from = self.at;
        let mut has_escape = false;
        loop {
            self.at += plain_bytes(self.bytes.get(self.at..).unwrap_or_default());
            match self.peek() {
                Some(b'"') => {
                    let span = from..self.at;
                    self.at += 1;
                    return Ok(Text { span, has_escape });
                }
                Some(b'\\') => {
                    has_escape = true;
                    self.escape()?;
                }
                Some(_) => return Err(self.unexpected("no control character in a string")),
                None => return Err(self.unexpected("the end of a string")),
            }
        }
    }

    fn escape(&mut self) -> Result<(), SyntaxError> {
        self.at += 1;
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 1;
                Ok(())
            }
            Some(b'u') => {
                let unit = self.hex()?;
                let is_lead = (0xd800..0xdc00).contains(&unit);
                let is_trail = (0xdc00..0xe000).contains(&unit);
                let paired = is_lead
                    && self.take(b'\\')
                    && self.peek() == Some(b'u')
                    && (0xdc00..0xe000).contains(&self.hex()?);
                if paired || !(is_lead || is_trail) {
                    Ok(())
                } else {
                    Err(self.unexpected("a surrogate pair"))
                }
            }
            _ => Err(self.unexpected("an escape")),
        }
    }

    /// Takes `u` and four hexadecimal digits.
    fn hex(&mut self) -> Result<u32, SyntaxError> {
        self.at += 1;
        let mut unit = 0;
        for _ in 0..4 {
            let digit = self.peek().and_then(|b| char::from(b).to_digit(16));
            unit = unit * 16 + digit.ok_or_else(|| self.unexpected("a hexadecimal digit"))?;
            self.at += 1;
        }
        Ok(unit)
    }

    fn number(&mut self) -> Result<(), SyntaxError> {
        let from = self.at;
        self.take(b'-');
        if !self.take(b'0') {
            self.digits()?;
        }
        if self.take(b'.') {
            self.digits()?;
        }
        let has_exponent = matches!(self.peek(), Some(b'e' | b'E'));
        if has_exponent {
            self.at += 1;
            if !self.take(b'+') {
                self.take(b'-');
            }
            self.digits()?;
        }
        if has_exponent || self.at - from > LONG_NUMBER_BYTES {
            let value: Option<f64> = self.text(&(from..self.at)).parse().ok();
            if !value.is_some_and(f64::is_finite) {
                return Err(SyntaxError::NumberRange { at: from });
            }
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), SyntaxError> {
        let from = self.at;
        while self.peek().is_some_and(|b| b.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at > from { Ok(()) } else { Err(self.unexpected("a digit")) }
    }

    fn literal(&mut self, word: &'static str) -> Result<(), SyntaxError> {
        if !self.bytes.get(self.at..).is_some_and(|rest| rest.starts_with(word.as_bytes())) {
            return Err(self.unexpected("a value"));
        }
        self.at += word.len();
        Ok(())
    }

    fn unexpected(&self, expected: &'static str) -> SyntaxError {
        SyntaxError::Unexpected { expected, at: self.at }
    }
}

/// How many bytes of a string come before the next quote, backslash or control character.
///
/// Words first, because text that is full of escapes has short runs; then blocks that the compiler turns
/// into vector instructions, because pictures are one run of megabytes.
fn plain_bytes(bytes: &[u8]) -> usize {
    const WORDS_FIRST: usize = 4;
    let (words, _) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().take(WORDS_FIRST).enumerate() {
        if let Some(found) = special_in_word(*word) {
            return index * 8 + found;
        }
    }
    let mut at = words.len().min(WORDS_FIRST) * 8;
    let (blocks, _) = bytes.get(at..).unwrap_or_default().as_chunks::<64>();
    at += blocks.iter().take_while(|block| !has_special(block)).count() * 64;
    let rest = bytes.get(at..).unwrap_or_default();
    at + rest.iter().position(|b| is_special(*b)).unwrap_or(rest.len())
}

fn is_special(b: u8) -> bool {
    b < 0x20 || b == b'"' || b == b'\\'
}

fn has_special(block: &[u8; 64]) -> bool {
    block.iter().fold(false, |any, b| any | is_special(*b))
}

/// The first special byte of eight. Each term has the top bit of a byte set where the byte is special; a
/// borrow can set a bit too many only above the first one that is right.
fn special_in_word(word: [u8; 8]) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const TOPS: u64 = 0x8080_8080_8080_8080;
    let x = u64::from_le_bytes(word);
    let below = x.wrapping_sub(ONES * 0x20) & !x;
    let quote = x ^ (ONES * 0x22);
    let backslash = x ^ (ONES * 0x5c);
    let equal = (quote.wrapping_sub(ONES) & !quote) | (backslash.wrapping_sub(ONES) & !backslash);
    let found = (below | equal) & TOPS;
    (found != 0).then(|| (found.trailing_zeros() / 8) as usize)
}
