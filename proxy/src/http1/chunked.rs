//! Chunked bodies: the framing is checked and taken away, in place.

use super::body::{Decoded, Malformed};

/// Most digits of a chunk's size: chunks below 4 GiB.
const MAX_SIZE_DIGITS: u8 = 8;

/// Most bytes of extensions and trailers in one body, where they are tolerated.
const MAX_SPARE_BYTES: u16 = 8 * 1024;

/// Follows one chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chunked {
    place: Place,
    /// How many more bytes of extensions and trailers are skipped; with none left they are refused.
    spare_bytes: u16,
}

/// Places in a chunked body, named for what must come next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Size { digits: u8, value: u64 },
    Extension { value: u64 },
    SizeFeed { value: u64 },
    Bytes { left: u64 },
    Return,
    Feed,
    LastReturn,
    LastFeed,
    Trailer,
    TrailerFeed,
}

impl Chunked {
    /// Extensions and trailers are malformed: nothing that an agent sends has them.
    pub(crate) fn strict() -> Self {
        Self { place: Place::Size { digits: 0, value: 0 }, spare_bytes: 0 }
    }

    /// Extensions and trailers are skipped.
    pub(crate) fn tolerant() -> Self {
        Self { spare_bytes: MAX_SPARE_BYTES, ..Self::strict() }
    }

    /// Moves the body's bytes to the front of `bytes`.
    pub(crate) fn decode(&mut self, bytes: &mut [u8]) -> Result<Decoded, Malformed> {
        let (mut data, mut taken) = (0, 0);
        while let Some(byte) = bytes.get(taken).copied() {
            if let Place::Bytes { left } = self.place {
                let count = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len() - taken);
                if data != taken {
                    bytes.copy_within(taken..taken + count, data);
                }
                (data, taken) = (data + count, taken + count);
                let left = left - count as u64;
                self.place = if left == 0 { Place::Return } else { Place::Bytes { left } };
                continue;
            }
            taken += 1;
            match self.after(byte)? {
                Some(next) => self.place = next,
                None => return Ok(Decoded { data, taken, ended: true }),
            }
        }
        Ok(Decoded { data, taken, ended: false })
    }

    /// What comes after `byte`; `None` when the body has ended.
    fn after(&mut self, byte: u8) -> Result<Option<Place>, Malformed> {
        let next = match (self.place, byte) {
            (Place::Size { digits, value }, b'\r') if digits > 0 => Place::SizeFeed { value },
            (Place::Size { digits, value }, b';' | b' ' | b'\t') if digits > 0 => {
                self.skip()?;
                Place::Extension { value }
            }
            (Place::Size { digits, value }, _) if digits < MAX_SIZE_DIGITS => {
                let digit = char::from(byte).to_digit(16).ok_or(Malformed)?;
                Place::Size { digits: digits + 1, value: value * 16 + u64::from(digit) }
            }
            (Place::Extension { value }, b'\r') => Place::SizeFeed { value },
            (Place::SizeFeed { value: 0 }, b'\n') => Place::LastReturn,
            (Place::SizeFeed { value }, b'\n') => Place::Bytes { left: value },
            (Place::Return, b'\r') => Place::Feed,
            (Place::Feed, b'\n') => Place::Size { digits: 0, value: 0 },
            (Place::LastReturn, b'\r') => Place::LastFeed,
            (Place::LastFeed, b'\n') => return Ok(None),
            (Place::Trailer, b'\r') => Place::TrailerFeed,
            (Place::TrailerFeed, b'\n') => Place::LastReturn,
            (place @ Place::Extension { .. }, byte) if byte != b'\n' => self.skip().map(|()| place)?,
            (Place::LastReturn | Place::Trailer, byte) if byte != b'\n' => {
                self.skip().map(|()| Place::Trailer)?
            }
            _ => return Err(Malformed),
        };
        Ok(Some(next))
    }

    fn skip(&mut self) -> Result<(), Malformed> {
        self.spare_bytes = self.spare_bytes.checked_sub(1).ok_or(Malformed)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decodes `bytes` given in pieces of `size`: the body, what follows it, or nothing if it is malformed.
    fn decode(mut chunked: Chunked, bytes: &[u8], size: usize) -> Option<(Vec<u8>, Option<Vec<u8>>)> {
        let mut body = Vec::new();
        for (at, piece) in bytes.chunks(size).enumerate() {
            let mut piece = piece.to_vec();
            let decoded = chunked.decode(&mut piece).ok()?;
            body.extend_from_slice(&piece[..decoded.data]);
            if decoded.ended {
                return Some((body, Some(bytes[at * size + decoded.taken..].to_vec())));
            }
            assert_eq!(decoded.taken, piece.len());
        }
        Some((body, None))
    }

    #[test]
    fn a_body_is_the_same_at_any_split_and_what_follows_is_left() {
        let bytes = b"5\r\nhello\r\n0A\r\n0123456789\r\n1\r\n!\r\n0\r\n\r\nGET / HTTP/1.1\r\n";
        for size in 1..=bytes.len() {
            for chunked in [Chunked::strict(), Chunked::tolerant()] {
                let (body, rest) = decode(chunked, bytes, size).unwrap();
                assert_eq!(body, b"hello0123456789!", "in pieces of {size}");
                assert_eq!(rest.as_deref(), Some(&b"GET / HTTP/1.1\r\n"[..]), "in pieces of {size}");
            }
        }
    }

    #[test]
    fn bad_chunks_are_refused_at_any_split() {
        let cases = [
            ("\r\n", false),
            ("g\r\n", false),
            ("5;x=y\r\nhello\r\n", true),
            ("5 \r\nhello\r\n", true),
            ("+5\r\nhello\r\n", false),
            ("0x5\r\nhello\r\n", false),
            ("5\nhello\r\n", false),
            ("5;x\nhello\r\n", false),
            ("5\r\nhello\n", false),
            ("5\r\nhelloworld\r\n", false),
            ("5\r\nhello\r\r\n", false),
            ("0\r\nx: y\r\n\r\n", true),
            ("0\r\nx: y\n\r\n", false),
            ("0\r\n\n", false),
            ("000000005\r\nhello\r\n", false),
            ("FFFFFFFFF\r\n", false),
            (" 5\r\nhello\r\n", false),
        ];
        for (body, is_tolerated) in cases {
            let bytes = format!("{body}0\r\n\r\n");
            for size in [1, 2, 3, 7, bytes.len()] {
                assert_eq!(decode(Chunked::strict(), bytes.as_bytes(), size), None, "{body:?}, {size}");
                let tolerated = decode(Chunked::tolerant(), bytes.as_bytes(), size).is_some();
                assert_eq!(tolerated, is_tolerated, "{body:?} tolerated, in pieces of {size}");
            }
        }
    }

    #[test]
    fn what_is_skipped_is_bounded() {
        let bytes = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(usize::from(MAX_SPARE_BYTES)));
        assert_eq!(decode(Chunked::tolerant(), bytes.as_bytes(), 1_000), None);
        let bytes = format!("0\r\n{}", "a: b\r\n".repeat(usize::from(MAX_SPARE_BYTES)));
        assert_eq!(decode(Chunked::tolerant(), bytes.as_bytes(), 1_000), None);
    }
}
