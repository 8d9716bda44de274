//! An upstream's response head: judged, and read where it lies.

use super::body::Framing;
use super::fields::{self, Fields, Persistence};
use super::violation::Violation;

/// Most bytes of a head.
pub(crate) const MAX_HEAD_BYTES: usize = fields::MAX_READABLE_BYTES;

/// A head that was judged good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ResponseHead {
    /// Its status: 100 to 999.
    pub(crate) status: u16,
    /// How the body is delimited.
    pub(crate) framing: Framing,
    /// Whether the connection can carry another request after it.
    pub(crate) persists: bool,
}

/// Why a head is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadHead {
    /// It is no HTTP/1.1 response.
    #[error("not an HTTP/1.1 response")]
    StatusLine,
    /// A line of it breaks a rule.
    #[error("response with a malformed head: {0:?}")]
    Field(#[from] Violation),
    /// It gives its body two ends, or one that is not known here.
    #[error("response with conflicting or unknown framing")]
    Framing,
    /// It is over its limit.
    #[error("response head is larger than {MAX_HEAD_BYTES} bytes")]
    TooLarge,
}

impl ResponseHead {
    /// Judges and reads a whole head, with its empty line; `fields` tells where its fields are.
    ///
    /// `to_head` is whether it answers a HEAD request: then there is no body, and a length is what a GET
    /// would have.
    pub(crate) fn read(head: &mut [u8], fields: &mut Fields, to_head: bool) -> Result<Self, BadHead> {
        let feed = memchr::memchr(b'\n', head).ok_or(BadHead::StatusLine)?;
        let (status, is_1_1) = status_line(head.get(..feed).unwrap_or_default())?;
        fields.read(head, feed + 1)?;
        let mut persistence = Persistence::default();
        let (mut length, mut is_chunked) = (None, false);
        for (name, value) in fields.iter(head) {
            match name {
                b"connection" => persistence.add(value),
                b"content-length" if length.is_none() => {
                    length = Some(fields::length(value).ok_or(BadHead::Framing)?);
                }
                b"transfer-encoding" if !is_chunked && value.eq_ignore_ascii_case(b"chunked") => {
                    is_chunked = true;
                }
                b"content-length" | b"transfer-encoding" => return Err(BadHead::Framing),
                _ => {}
            }
        }
        let framing = match (is_chunked, length) {
            // Two ends for one answer: somebody on the way would take the wrong one (RFC 9112 §6.3).
            (true, Some(_)) => return Err(BadHead::Framing),
            _ if matches!(status, 100..=199 | 204 | 304) => Framing::Length(0),
            (_, None) if to_head => Framing::Length(0),
            (true, None) => Framing::Chunked,
            (false, Some(length)) => Framing::Length(length),
            (false, None) => Framing::UntilClose,
        };
        let persists = persistence.lasts(is_1_1) && framing != Framing::UntilClose;
        Ok(Self { status, framing, persists })
    }
}

fn status_line(line: &[u8]) -> Result<(u16, bool), BadHead> {
    let line = line.strip_suffix(b"\r").ok_or(BadHead::StatusLine)?;
    fields::no_controls(line)?;
    let (version, rest) = line.split_at_checked(9).ok_or(BadHead::StatusLine)?;
    let is_1_1 = match version {
        b"HTTP/1.1 " => true,
        b"HTTP/1.0 " => false,
        _ => return Err(BadHead::StatusLine),
    };
    let status = match rest {
        [a @ b'1'..=b'9', b, c] | [a @ b'1'..=b'9', b, c, b' ', ..]
            if b.is_ascii_digit() && c.is_ascii_digit() =>
        {
            u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0')
        }
        _ => return Err(BadHead::StatusLine),
    };
    Ok((status, is_1_1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(head: &str) -> Result<ResponseHead, BadHead> {
        ResponseHead::read(&mut head.as_bytes().to_vec(), &mut Fields::default(), false)
    }

    #[test]
    fn good_heads_give_status_framing_and_persistence() {
        let cases = [
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", 200, Framing::Length(5), true),
            (
                "HTTP/1.1 200\r\ncontent-length: 5\r\nconnection: close\r\n\r\n",
                200,
                Framing::Length(5),
                false,
            ),
            (
                "HTTP/1.1 529 Site Overloaded\r\nTransfer-Encoding: Chunked\r\n\r\n",
                529,
                Framing::Chunked,
                true,
            ),
            ("HTTP/1.1 200 \r\n\r\n", 200, Framing::UntilClose, false),
            ("HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\n", 200, Framing::Length(1), false),
            ("HTTP/1.1 204 No Content\r\n\r\n", 204, Framing::Length(0), true),
            ("HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n", 103, Framing::Length(0), true),
        ];
        for (head, status, framing, persists) in cases {
            assert_eq!(read(head), Ok(ResponseHead { status, framing, persists }), "{head:?}");
        }
        let mut head = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n".to_vec();
        let to_head = ResponseHead::read(&mut head, &mut Fields::default(), true).unwrap();
        assert_eq!(to_head.framing, Framing::Length(5));
    }

    #[test]
    fn heads_with_two_meanings_are_not_believed() {
        for fields in [
            "content-length: 5\r\ntransfer-encoding: chunked\r\n",
            "transfer-encoding: chunked\r\ncontent-length: 5\r\n",
            "content-length: 5\r\ncontent-length: 5\r\n",
            "content-length: 5, 5\r\n",
            "content-length: -1\r\n",
            "transfer-encoding: gzip\r\n",
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
        ] {
            assert_eq!(
                read(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n")),
                Err(BadHead::Framing),
                "{fields:?}"
            );
        }
        for line in [
            "HTTP/1.1 20 OK",
            "HTTP/1.1 2000",
            "HTTP/1.1 099 X",
            "HTTP/2 200 OK",
            "hello",
            "HTTP/1.1  200 OK",
        ] {
            assert_eq!(read(&format!("{line}\r\n\r\n")), Err(BadHead::StatusLine), "{line:?}");
        }
        for fields in ["a\r\n", " a: b\r\n", "a: b\nc: d\r\n", "a : b\r\n", "a: b\0\r\n", "a: b\rc\r\n"] {
            let found = read(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n"));
            assert!(matches!(found, Err(BadHead::Field(_))), "{fields:?}: {found:?}");
        }
    }
}
