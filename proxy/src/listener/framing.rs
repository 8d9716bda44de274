//! Where one request ends and the next begins, followed byte by byte ahead of the HTTP library.
//!
//! [`Follower::pass`] says how many of the next bytes may be passed on. A head is passed on only when it
//! is complete and was judged good; a body is passed on as it arrives, checked on the way.

use super::head::{self, Framing};
use super::violation::Violation;

/// Most bytes of a head.
pub(super) const MAX_HEAD_BYTES: usize = 32 * 1024;

/// Most digits of a chunk's size: chunks below 4 GiB.
const MAX_SIZE_DIGITS: u8 = 8;

/// Follows the requests of one connection.
#[derive(Debug, Default)]
pub(super) struct Follower {
    place: Place,
    heads: u64,
}

/// What may be passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Passed {
    /// So many of the given bytes. The rest must be given again, with more behind it.
    pub(super) count: usize,
    /// What is wrong with what comes after them.
    pub(super) violation: Option<Violation>,
}

#[derive(Debug, Clone, Copy)]
enum Place {
    /// Before or in a head, of which the first `searched` bytes hold no end.
    Head {
        searched: usize,
    },
    Body {
        left: u64,
    },
    Chunk(Chunk),
}

impl Default for Place {
    fn default() -> Self {
        Self::Head { searched: 0 }
    }
}

/// Places in a chunked body, named for what must come next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chunk {
    Size { digits: u8, value: u64 },
    SizeFeed { value: u64 },
    Bytes { left: u64 },
    Return,
    Feed,
    LastReturn,
    LastFeed,
}

impl Follower {
    /// Heads that were passed on so far.
    pub(super) fn heads(&self) -> u64 {
        self.heads
    }

    /// Whether the next byte belongs to a head.
    pub(super) fn is_in_head(&self) -> bool {
        matches!(self.place, Place::Head { .. })
    }

    /// Judges the bytes that follow what was passed before.
    pub(super) fn pass(&mut self, bytes: &[u8]) -> Passed {
        let mut count = 0;
        loop {
            let rest = bytes.get(count..).unwrap_or_default();
            if rest.is_empty() {
                return Passed { count, violation: None };
            }
            let step = match self.place {
                Place::Head { searched } => self.pass_head(rest, searched),
                Place::Body { left } => Ok(self.pass_body(rest, left)),
                Place::Chunk(chunk) => self.pass_chunks(rest, chunk),
            };
            match step {
                Ok(0) => return Passed { count, violation: None },
                Ok(passed) => count += passed,
                Err(violation) => return Passed { count, violation: Some(violation) },
            }
        }
    }

    fn pass_head(&mut self, bytes: &[u8], searched: usize) -> Result<usize, Violation> {
        let Some(end) = find_end(bytes, searched)? else {
            if bytes.len() > MAX_HEAD_BYTES {
                return Err(Violation::HeadTooLarge);
            }
            self.place = Place::Head { searched: bytes.len() };
            return Ok(0);
        };
        if end > MAX_HEAD_BYTES {
            return Err(Violation::HeadTooLarge);
        }
        let head = bytes.get(..end).unwrap_or_default();
        // One empty line before a request line is to be ignored (RFC 9112 §2.2).
        let framing = head::judge(head.strip_prefix(b"\r\n").unwrap_or(head))?;
        self.heads += 1;
        self.place = match framing {
            Framing::Length(0) => Place::default(),
            Framing::Length(left) => Place::Body { left },
            Framing::Chunked => Place::Chunk(Chunk::Size { digits: 0, value: 0 }),
        };
        Ok(end)
    }

    fn pass_body(&mut self, bytes: &[u8], left: u64) -> usize {
        let (taken, left) = take(bytes, left);
        self.place = if left == 0 { Place::default() } else { Place::Body { left } };
        taken
    }

    fn pass_chunks(&mut self, bytes: &[u8], mut chunk: Chunk) -> Result<usize, Violation> {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            if let Chunk::Bytes { left } = chunk {
                let (taken, left) = take(rest, left);
                at += taken;
                chunk = if left == 0 { Chunk::Return } else { Chunk::Bytes { left } };
                continue;
            }
            at += 1;
            match chunk.after(rest.first().copied().unwrap_or_default())? {
                Some(next) => chunk = next,
                None => {
                    self.place = Place::default();
                    return Ok(at);
                }
            }
        }
        self.place = Place::Chunk(chunk);
        Ok(at)
    }
}

impl Chunk {
    /// What comes after `byte`; `None` when the body has ended.
    fn after(self, byte: u8) -> Result<Option<Self>, Violation> {
        let next = match (self, byte) {
            (Self::Size { digits, value }, b'\r') if digits > 0 => Self::SizeFeed { value },
            (Self::Size { digits, value }, _) if digits < MAX_SIZE_DIGITS => {
                let digit = char::from(byte).to_digit(16).ok_or(Violation::Chunk)?;
                Self::Size { digits: digits + 1, value: value * 16 + u64::from(digit) }
            }
            (Self::SizeFeed { value: 0 }, b'\n') => Self::LastReturn,
            (Self::SizeFeed { value }, b'\n') => Self::Bytes { left: value },
            (Self::Return, b'\r') => Self::Feed,
            (Self::Feed, b'\n') => Self::Size { digits: 0, value: 0 },
            (Self::LastReturn, b'\r') => Self::LastFeed,
            (Self::LastFeed, b'\n') => return Ok(None),
            _ => return Err(Violation::Chunk),
        };
        Ok(Some(next))
    }
}

/// Takes up to `left` bytes: how many, and how many are left then.
fn take(bytes: &[u8], left: u64) -> (usize, u64) {
    let taken = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
    (taken, left - taken as u64)
}

/// The end of the head that `bytes` starts with, when the first `searched` bytes hold none.
fn find_end(bytes: &[u8], searched: usize) -> Result<Option<usize>, Violation> {
    let from = searched.saturating_sub(3);
    for feed in memchr::memchr_iter(b'\n', bytes.get(from..).unwrap_or_default()) {
        let feed = from + feed;
        let line_end = feed.checked_sub(1).and_then(|at| bytes.get(at));
        if line_end != Some(&b'\r') {
            return Err(Violation::BareLineFeed);
        }
        if feed >= 3 && bytes.get(feed - 3..feed) == Some(b"\r\n\r") {
            return Ok(Some(feed + 1));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Gives `bytes` in pieces of `size`: what was passed on, and the violation if there was one.
    fn follow(bytes: &[u8], size: usize) -> (Vec<u8>, Option<Violation>, u64) {
        let mut follower = Follower::default();
        let (mut passed, mut held) = (Vec::new(), Vec::new());
        for piece in bytes.chunks(size) {
            held.extend_from_slice(piece);
            let step = follower.pass(&held);
            passed.extend(held.drain(..step.count));
            if step.violation.is_some() {
                return (passed, step.violation, follower.heads());
            }
        }
        (passed, None, follower.heads())
    }

    const GOOD: &[u8] = b"POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello\
        GET / HTTP/1.1\r\nhost: x\r\n\r\n\
        \r\nPOST /b HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0A\r\n0123456789\r\n0\r\n\r\n\
        HEAD / HTTP/1.1\r\nhost: x\r\n\r\n";

    #[test]
    fn good_requests_pass_whole_at_any_split() {
        for size in 1..=GOOD.len() {
            assert_eq!(follow(GOOD, size), (GOOD.to_vec(), None, 4), "in pieces of {size}");
        }
    }

    #[test]
    fn nothing_of_an_incomplete_head_is_passed() {
        let (passed, violation, heads) = follow(b"GET / HTTP/1.1\r\nhost: x\r\n\r\nGET / HTTP/1.1\r\nhos", 7);
        assert_eq!(
            (passed.as_slice(), violation, heads),
            (&b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"[..], None, 1)
        );
    }

    #[test]
    fn bad_chunks_are_found_at_any_split() {
        let head = "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
        let bodies = [
            "\r\n",
            "g\r\n",
            "5;x=y\r\nhello\r\n",
            "5 \r\nhello\r\n",
            "+5\r\nhello\r\n",
            "0x5\r\nhello\r\n",
            "5\nhello\r\n",
            "5\r\nhello\n",
            "5\r\nhelloworld\r\n",
            "5\r\nhello\r\r\n",
            "0\r\nx: y\r\n\r\n",
            "0\r\n\n",
            "000000005\r\nhello\r\n",
            "FFFFFFFFF\r\n",
            " 5\r\nhello\r\n",
        ];
        for body in bodies {
            let bytes = format!("{head}{body}GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n");
            for size in [1, 2, 3, 7, bytes.len()] {
                let (_, violation, heads) = follow(bytes.as_bytes(), size);
                assert_eq!((violation, heads), (Some(Violation::Chunk), 1), "{body:?} in pieces of {size}");
            }
        }
    }

    #[test]
    fn head_over_its_limit_is_refused_whole_or_unfinished() {
        let line = format!("GET / HTTP/1.1\r\nhost: x\r\na: {}\r\n", "b".repeat(MAX_HEAD_BYTES));
        for bytes in [line.clone(), format!("{line}\r\n")] {
            for size in [1_000, bytes.len()] {
                assert_eq!(follow(bytes.as_bytes(), size).1, Some(Violation::HeadTooLarge));
            }
        }
        let fits = format!("GET / HTTP/1.1\r\nhost: x\r\na: {}\r\n\r\n", "b".repeat(MAX_HEAD_BYTES - 32));
        assert_eq!((fits.len(), follow(fits.as_bytes(), 900).1), (MAX_HEAD_BYTES, None));
    }

    #[test]
    fn bare_line_feed_is_refused_before_the_head_is_complete() {
        assert_eq!(follow(b"GET / HTTP/1.1\nhost: x\n\n", 1).1, Some(Violation::BareLineFeed));
        assert_eq!(follow(b"\nGET / HTTP/1.1\r\n", 1).1, Some(Violation::BareLineFeed));
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged_the_same_at_any_split(
            bytes in proptest::collection::vec(prop_oneof![
                Just(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec()),
                Just(b"POST / HTTP/1.1\r\nhost: x\r\n".to_vec()),
                Just(b"transfer-encoding: chunked\r\n\r\n".to_vec()),
                Just(b"content-length: 7\r\n\r\n".to_vec()),
                Just(b"3\r\nabc\r\n".to_vec()),
                Just(b"0\r\n\r\n".to_vec()),
                proptest::collection::vec(any::<u8>(), 0..12),
            ], 0..8).prop_map(|parts| parts.concat()),
            size in 1_usize..40,
        ) {
            let whole = follow(&bytes, bytes.len().max(1));
            let split = follow(&bytes, size);
            prop_assert_eq!(&whole.1, &split.1);
            prop_assert_eq!(whole.2, split.2);
        }
    }
}
