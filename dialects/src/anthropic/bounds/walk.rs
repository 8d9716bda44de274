//! A place in a body that [`crate::facts::scan`] has accepted, moving forward.
//!
//! What was checked there is not checked again, which makes this pass two to three times as fast over text
//! full of escapes. In anything else it may see values where there are none, but it comes to an end.

use super::BoundsError;
use crate::facts::cursor::plain_bytes;

#[derive(Clone, Copy)]
pub(super) struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Walk<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Takes a byte, and the white space before it.
    pub(super) fn take(&mut self, byte: u8) -> bool {
        let taken = self.upcoming() == Some(byte);
        self.at += usize::from(taken);
        taken
    }

    /// Takes white space to the end.
    pub(super) fn end(&mut self) -> Result<(), BoundsError> {
        if self.upcoming().is_none() { Ok(()) } else { Err(BoundsError::NotAnObject) }
    }

    /// Reads the members of an object whose brace has been taken, to its end. `read` takes the value.
    pub(super) fn members(
        &mut self,
        mut read: impl FnMut(&mut Self, &'a [u8]) -> Result<(), BoundsError>,
    ) -> Result<(), BoundsError> {
        while self.has_another(b'}') {
            let key = self.key()?;
            self.take(b':');
            self.upcoming();
            read(self, key)?;
        }
        Ok(())
    }

    /// Goes on to the next member or element, unless `end` comes, which is taken.
    fn has_another(&mut self, end: u8) -> bool {
        let next = self.upcoming();
        self.at += usize::from(next == Some(end) || next == Some(b','));
        if next == Some(b',') {
            self.upcoming();
        }
        next != Some(end)
    }

    /// Takes a key that has no escapes.
    fn key(&mut self) -> Result<&'a [u8], BoundsError> {
        let text = self.bytes.get(self.at..).and_then(|rest| rest.strip_prefix(b"\""));
        let text = text.ok_or(BoundsError::NotAnObject)?;
        let (key, rest) = text.split_at_checked(plain_bytes(text)).ok_or(BoundsError::NotAnObject)?;
        match rest.first() {
            Some(b'"') => self.at += key.len() + 2,
            Some(b'\\') => return Err(BoundsError::EscapedKey { at: self.at }),
            _ => return Err(BoundsError::NotAnObject),
        }
        Ok(key)
    }

    /// Reads the elements of an array; any other value is skipped.
    pub(super) fn elements(
        &mut self,
        mut read: impl FnMut(&mut Self) -> Result<(), BoundsError>,
    ) -> Result<(), BoundsError> {
        if !self.take(b'[') {
            return self.skip();
        }
        while self.has_another(b']') {
            read(self)?;
        }
        Ok(())
    }

    /// Takes one value and gives it as it is written.
    pub(super) fn value(&mut self) -> Result<&'a [u8], BoundsError> {
        let from = self.at;
        self.skip()?;
        Ok(self.bytes.get(from..self.at).unwrap_or_default())
    }

    /// Takes one value.
    pub(super) fn skip(&mut self) -> Result<(), BoundsError> {
        let end = match self.peek() {
            Some(b'"') => self.after_string(self.at),
            Some(b'{' | b'[') => self.after_container(),
            _ => self.after_word(),
        };
        self.at = end.ok_or(BoundsError::NotAnObject)?;
        Ok(())
    }

    /// Where the string ends that begins with the quote at `from`.
    fn after_string(&self, from: usize) -> Option<usize> {
        let text = self.bytes.get(from + 1..)?;
        let mut end = 0;
        loop {
            end += quote(text.get(end..)?)?;
            let escapes = text.get(..end)?.iter().rev().take_while(|b| **b == b'\\').count();
            if escapes % 2 == 0 {
                return Some(from + end + 2);
            }
            end += 1;
        }
    }

    /// Where the array or object ends that begins here.
    fn after_container(&self) -> Option<usize> {
        let mut at = self.at;
        let mut levels = 0_usize;
        loop {
            match self.bytes.get(at)? {
                b'"' => at = self.after_string(at)? - 1,
                b'{' | b'[' => levels += 1,
                b'}' | b']' if levels == 1 => return Some(at + 1),
                b'}' | b']' => levels = levels.checked_sub(1)?,
                _ => {}
            }
            at += 1;
        }
    }

    /// Where the number or literal ends that begins here; it has a byte at least.
    fn after_word(&self) -> Option<usize> {
        let word = self.bytes.get(self.at..)?;
        let is_end = |b: &u8| *b <= b' ' || matches!(b, b',' | b':' | b'}' | b']');
        let length = word.iter().position(is_end).unwrap_or(word.len());
        (length > 0).then_some(self.at + length)
    }

    /// Skips white space: what is next then.
    fn upcoming(&mut self) -> Option<u8> {
        loop {
            let next = self.peek()?;
            if next > b' ' {
                return Some(next);
            }
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }
}

/// Where the first quote is: word by word where it is near, as in keys and in code, then by vectors.
fn quote(text: &[u8]) -> Option<usize> {
    const NEAR_WORDS: usize = 8;
    const ONES: u64 = 0x0101_0101_0101_0101;
    const TOPS: u64 = 0x8080_8080_8080_8080;
    let words = text.as_chunks::<8>().0;
    let near = words.get(..NEAR_WORDS).unwrap_or(words);
    for (index, word) in near.iter().enumerate() {
        let x = u64::from_le_bytes(*word) ^ (ONES * u64::from(b'"'));
        let found = x.wrapping_sub(ONES) & !x & TOPS;
        if found != 0 {
            return Some(index * 8 + (found.trailing_zeros() / 8) as usize);
        }
    }
    let near_bytes = near.len() * 8;
    memchr::memchr(b'"', text.get(near_bytes..)?).map(|at| near_bytes + at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_end_where_json_says() {
        for value in [
            "\"\"",
            "\"a\"",
            "\"\\\"\"",
            "\"\\\\\"",
            "\"\\\\\\\"]\"",
            "\"twenty-four bytes and a quote: \\\" and more, and } and ]\"",
            "\"12345678901234567890123\"",
            "\"123456789012345678901234\"",
            "\"1234567890123456789012345\"",
            "\"1234567890123456789012\\\\\"",
            "\"12345678901234567890123\\\\\"",
            "0",
            "-1.5e+3",
            "null",
            "[]",
            "{}",
            "[[],{\"]\":\"}\"},[\"\\\"]\"]]",
            "{\"a\" : [1 , 2 ] , \"b\":{\"c\":null}}",
        ] {
            for after in ["", ",1", "}", "]", " ", "\n,\"x\""] {
                let text = format!("{value}{after}");
                let mut walk = Walk::new(text.as_bytes());
                assert_eq!(walk.value(), Ok(value.as_bytes()), "{text}");
            }
        }
    }
}
