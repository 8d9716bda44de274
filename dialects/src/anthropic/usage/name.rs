//! A model's name, held in place.

use std::fmt;

/// Longest name that is kept, in bytes; the vendor's have up to 40.
const MAX_BYTES: usize = 63;

/// A name that the vendor gives: up to 63 printable ASCII characters, without spaces, quotes or backslashes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Name {
    length: u8,
    bytes: [u8; MAX_BYTES],
}

impl Name {
    pub(super) fn new(name: &[u8]) -> Option<Self> {
        let mut bytes = [0; MAX_BYTES];
        bytes.get_mut(..name.len())?.copy_from_slice(name);
        let length = u8::try_from(name.len()).ok()?;
        let is_odd = |b: u8| !b.is_ascii_graphic() || b == b'"' || b == b'\\';
        // To the end in any case, which the compiler turns into vector instructions.
        let odd = name.iter().fold(false, |odd, b| odd | is_odd(*b));
        (!odd).then_some(Self { length, bytes })
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..usize::from(self.length)).unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or_default()
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
