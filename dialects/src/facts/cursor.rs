//! A place in a JSON text that only moves forward, and only over what is JSON.
//!
//! Strict where `serde_json` is: control characters, lone surrogates, leading zeros and numbers beyond a
//! double are no JSON here either. Whether strings are UTF-8 is left to who reads them. Allocates nothing;
//! nesting costs one bit per level.
//!
//! Written for few instructions on small texts: what is usual is looked for first and in line, what is
//! rare stands in functions of its own.

use std::ops::Range;

/// Deepest nesting of arrays and objects, the body itself included.
pub const MAX_DEPTH: u32 = 128;

/// Numbers with this many bytes may be beyond a double (1.8e308) without an exponent.
const LONG_NUMBER_BYTES: usize = 300;

/// Most digits of a number that surely fits into 64 bits.
const MAX_DIGITS: usize = 19;

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

/// A key that is written with a backslash, and could pass as another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EscapedKey {
    /// Where the key begins.
    pub(crate) at: usize,
}

/// A string of the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Text {
    /// Where it stands, without its quotes.
    pub(crate) span: Range<usize>,
    /// Whether it is written with a backslash.
    pub(crate) has_escape: bool,
}

/// Takes a key with its quotes and colon, if it is one of those given and written without spaces: comparing with
/// what is likely to come costs a tenth of finding its end.
macro_rules! usual_key {
    ($cursor:expr, $($key:literal),+) => {
        $(if $cursor.take_text(concat!("\"", $key, "\":").as_bytes()) { Some($key.as_bytes()) } else)+ { None }
    };
}
pub(crate) use usual_key;

#[derive(Clone, Copy)]
pub(crate) struct Cursor<'a> {
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
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// What stands in `span`, which must have come from this cursor.
    pub(crate) fn bytes(&self, span: Range<usize>) -> &'a [u8] {
        self.bytes.get(span).unwrap_or_default()
    }

    /// How many bytes lie behind.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    pub(crate) fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    #[inline(always)]
    pub(crate) fn take(&mut self, byte: u8) -> bool {
        let taken = self.peek() == Some(byte);
        if taken {
            self.at += 1;
        }
        taken
    }

    /// Takes what the text begins with here, if it is this.
    #[inline(always)]
    pub(crate) fn take_text(&mut self, text: &[u8]) -> bool {
        let taken = self.bytes.get(self.at..).is_some_and(|rest| rest.starts_with(text));
        if taken {
            self.at += text.len();
        }
        taken
    }

    #[inline(always)]
    fn expect(&mut self, byte: u8, expected: &'static str) -> Result<(), SyntaxError> {
        if self.take(byte) { Ok(()) } else { Err(self.unexpected(expected)) }
    }

    #[inline(always)]
    pub(crate) fn skip_whitespace(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    /// Takes white space to the end of the text.
    pub(crate) fn end(&mut self) -> Result<(), SyntaxError> {
        self.skip_whitespace();
        if self.peek().is_none() { Ok(()) } else { Err(self.unexpected("the end of the body")) }
    }

    /// Reads the members of an object whose brace has been taken, to its end. `read` takes the value.
    #[inline(always)]
    pub(crate) fn members<E: From<SyntaxError> + From<EscapedKey>>(
        &mut self,
        read: impl FnMut(&mut Self, &'a [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.usual_members(|_| None, read)
    }

    /// The same, where `usual` may take a key and its colon in one step: see [`usual_key`].
    #[inline(always)]
    pub(crate) fn usual_members<E: From<SyntaxError> + From<EscapedKey>>(
        &mut self,
        usual: impl Fn(&mut Self) -> Option<&'static [u8]>,
        mut read: impl FnMut(&mut Self, &'a [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.skip_whitespace();
        if self.take(b'}') {
            return Ok(());
        }
        loop {
            let key = match usual(self) {
                Some(key) => key,
                None => {
                    let Some(key) = self.plain_string() else { return Err(self.bad_key()) };
                    self.skip_whitespace();
                    self.expect(b':', "`:`")?;
                    key
                }
            };
            self.skip_whitespace();
            read(self, key)?;
            if !self.take(b',') {
                self.skip_whitespace();
                if self.take(b'}') {
                    return Ok(());
                }
                self.expect(b',', "`,` or `}`")?;
            }
            self.skip_whitespace();
        }
    }

    /// Reads the elements of an array whose bracket has been taken, to its end. `read` takes the value.
    pub(crate) fn elements<E: From<SyntaxError>>(
        &mut self,
        mut read: impl FnMut(&mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        self.skip_whitespace();
        if self.take(b']') {
            return Ok(());
        }
        loop {
            read(self)?;
            self.skip_whitespace();
            if self.take(b']') {
                return Ok(());
            }
            self.expect(b',', "`,` or `]`")?;
            self.skip_whitespace();
        }
    }

    /// Takes a colon and the white space around it.
    #[inline(always)]
    fn colon(&mut self) -> Result<(), SyntaxError> {
        self.skip_whitespace();
        self.expect(b':', "`:`")?;
        self.skip_whitespace();
        Ok(())
    }

    #[cold]
    fn bad_key<E: From<SyntaxError> + From<EscapedKey>>(mut self) -> E {
        let at = self.at;
        self.string().map_or_else(E::from, |_| EscapedKey { at }.into())
    }

    /// Takes one string, if it is written without a backslash.
    #[inline(always)]
    pub(crate) fn plain_string(&mut self) -> Option<&'a [u8]> {
        let rest = self.bytes.get(self.at..).and_then(|rest| rest.strip_prefix(b"\""))?;
        let (string, rest) = rest.split_at_checked(plain_bytes(rest))?;
        if rest.first() != Some(&b'"') {
            return None;
        }
        self.at += string.len() + 2;
        Some(string)
    }

    /// Takes one string.
    #[inline(always)]
    pub(crate) fn string(&mut self) -> Result<Text, SyntaxError> {
        let from = self.at + 1;
        let has_escape = self.plain_string().is_none();
        if has_escape {
            self.at = self.after_string()?;
        }
        Ok(Text { span: from..self.at - 1, has_escape })
    }

    #[inline(always)]
    fn skip_string(&mut self) -> Result<(), SyntaxError> {
        if self.plain_string().is_none() {
            self.at = self.after_string()?;
        }
        Ok(())
    }

    /// Takes one value and gives it as it is written; `outer` levels are open around it.
    #[inline(always)]
    pub(crate) fn value(&mut self, outer: u32) -> Result<&'a [u8], SyntaxError> {
        let from = self.at;
        self.skip_value(outer)?;
        Ok(self.bytes(from..self.at))
    }

    /// Takes a number, if it is nothing but up to 19 digits.
    #[inline(always)]
    pub(crate) fn digits(&mut self) -> Option<u64> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let mut number = 0_u64;
        let mut length = 0;
        while let Some(digit @ b'0'..=b'9') = rest.get(length)
            && length < MAX_DIGITS
        {
            number = number * 10 + u64::from(digit - b'0');
            length += 1;
        }
        let goes_on = matches!(rest.get(length), Some(b'0'..=b'9' | b'.' | b'e' | b'E'));
        let has_leading_zero = length > 1 && rest.first() == Some(&b'0');
        if length == 0 || goes_on || has_leading_zero {
            return None;
        }
        self.at += length;
        Some(number)
    }

    /// Takes one value; `outer` levels are open around it.
    #[inline(always)]
    pub(crate) fn skip_value(&mut self, outer: u32) -> Result<(), SyntaxError> {
        match self.peek() {
            Some(b'"') => self.skip_string()?,
            Some(b'{' | b'[') => self.at = self.after_container(outer)?,
            _ => self.at = self.after_word()?,
        }
        Ok(())
    }

    /// Where the array or object ends that begins here.
    #[inline(never)]
    fn after_container(mut self, outer: u32) -> Result<usize, SyntaxError> {
        let mut open = Open { levels: outer, objects: 0 };
        loop {
            if !self.enter_value(&mut open)? && !self.leave_value(&mut open, outer)? {
                return Ok(self.at);
            }
        }
    }

    /// Takes a scalar or an empty container whole, or the beginning of a container up to its first value.
    /// Tells whether a value comes next.
    #[inline(always)]
    fn enter_value(&mut self, open: &mut Open) -> Result<bool, SyntaxError> {
        match self.peek() {
            Some(b'"') => {
                self.skip_string()?;
                Ok(false)
            }
            Some(bracket @ (b'{' | b'[')) => {
                let is_object = bracket == b'{';
                if open.levels >= MAX_DEPTH {
                    return Err(SyntaxError::TooDeep { at: self.at });
                }
                self.at += 1;
                self.skip_whitespace();
                if self.take(if is_object { b'}' } else { b']' }) {
                    return Ok(false);
                }
                open.push(is_object);
                if is_object {
                    self.skip_string()?;
                    self.colon()?;
                }
                Ok(true)
            }
            _ => {
                self.at = self.after_word()?;
                Ok(false)
            }
        }
    }

    /// Takes what follows a value, up to the next. Tells whether there is a next.
    #[inline(always)]
    fn leave_value(&mut self, open: &mut Open, outer: u32) -> Result<bool, SyntaxError> {
        while open.levels > outer {
            self.skip_whitespace();
            let is_object = open.is_in_object();
            if self.take(b',') {
                self.skip_whitespace();
                if is_object {
                    self.skip_string()?;
                    self.colon()?;
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

    /// Where the string ends that begins here and has a backslash, or a fault.
    #[inline(never)]
    fn after_string(mut self) -> Result<usize, SyntaxError> {
        self.expect(b'"', "a string")?;
        loop {
            self.at += plain_bytes(self.bytes.get(self.at..).unwrap_or_default());
            match self.peek() {
                Some(b'"') => return Ok(self.at + 1),
                Some(b'\\') => self.escape()?,
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

    /// Where the number or literal ends that begins here.
    #[inline(never)]
    fn after_word(mut self) -> Result<usize, SyntaxError> {
        match self.peek() {
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(b't') => self.literal("true")?,
            Some(b'f') => self.literal("false")?,
            Some(b'n') => self.literal("null")?,
            _ => return Err(self.unexpected("a value")),
        }
        Ok(self.at)
    }

    fn number(&mut self) -> Result<(), SyntaxError> {
        let from = self.at;
        self.take(b'-');
        if !self.take(b'0') {
            self.some_digits()?;
        }
        if self.take(b'.') {
            self.some_digits()?;
        }
        let has_exponent = matches!(self.peek(), Some(b'e' | b'E'));
        if has_exponent {
            self.at += 1;
            if !self.take(b'+') {
                self.take(b'-');
            }
            self.some_digits()?;
        }
        if has_exponent || self.at - from > LONG_NUMBER_BYTES {
            let digits = std::str::from_utf8(self.bytes(from..self.at));
            let value: Option<f64> = digits.ok().and_then(|digits| digits.parse().ok());
            if !value.is_some_and(f64::is_finite) {
                return Err(SyntaxError::NumberRange { at: from });
            }
        }
        Ok(())
    }

    fn some_digits(&mut self) -> Result<(), SyntaxError> {
        let from = self.at;
        while self.peek().is_some_and(|b| b.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at > from { Ok(()) } else { Err(self.unexpected("a digit")) }
    }

    fn literal(&mut self, word: &'static str) -> Result<(), SyntaxError> {
        if self.take_text(word.as_bytes()) { Ok(()) } else { Err(self.unexpected("a value")) }
    }

    #[cold]
    fn unexpected(self, expected: &'static str) -> SyntaxError {
        SyntaxError::Unexpected { expected, at: self.at }
    }
}

/// How many bytes of a string come before the next quote, backslash or control character.
///
/// Words first and in line, because most strings are short and text that is full of escapes has short runs.
#[inline(always)]
fn plain_bytes(bytes: &[u8]) -> usize {
    for at in [0, 8, 16, 24] {
        let Some(word) = bytes.get(at..).and_then(<[u8]>::first_chunk) else { return plain_run(bytes, at) };
        let found = special_in_word(*word);
        if found != 0 {
            return at + (found.trailing_zeros() / 8) as usize;
        }
    }
    plain_run(bytes, 32)
}

/// The same for a long run, such as a picture, of which `at` bytes are known, and near the end: whole blocks,
/// which the compiler turns into vector instructions, then words to find the place.
#[inline(never)]
fn plain_run(bytes: &[u8], mut at: usize) -> usize {
    let (blocks, _) = bytes.get(at..).unwrap_or_default().as_chunks::<64>();
    let has_special = |block: &[u8; 64]| block.iter().fold(false, |any, b| any | is_special(*b));
    at += blocks.iter().take_while(|block| !has_special(block)).count() * 64;
    let (words, _) = bytes.get(at..).unwrap_or_default().as_chunks();
    for word in words {
        let found = special_in_word(*word);
        if found != 0 {
            return at + (found.trailing_zeros() / 8) as usize;
        }
        at += size_of_val(word);
    }
    let rest = bytes.get(at..).unwrap_or_default();
    at + rest.iter().position(|b| is_special(*b)).unwrap_or(rest.len())
}

fn is_special(b: u8) -> bool {
    b < 0x20 || b == b'"' || b == b'\\'
}

/// The special bytes of eight, as the top bits of theirs. A borrow can set a bit too many, but only above
/// the first one that is right.
fn special_in_word(word: [u8; 8]) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const TOPS: u64 = 0x8080_8080_8080_8080;
    let x = u64::from_le_bytes(word);
    // A quote is made one with the control characters, so that there is one comparison less.
    let below = (x ^ (ONES * 0x02)).wrapping_sub(ONES * 0x21);
    let backslash = (x ^ (ONES * 0x5c)).wrapping_sub(ONES);
    (below | backslash) & !x & TOPS
}
