//! Writing heads and chunks.

use http::StatusCode;

use super::body::Framing;

/// What ends a chunked body, after the end of its last chunk.
pub(crate) const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// The line before a chunk's bytes.
pub(crate) struct ChunkLine {
    text: [u8; 18],
    start: usize,
}

/// Writes a status line.
pub(crate) fn status_line(out: &mut Vec<u8>, status: u16) {
    if status == 200 {
        out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
        return;
    }
    let reason = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    out.extend_from_slice(b"HTTP/1.1 ");
    decimal(out, u64::from(status));
    out.push(b' ');
    out.extend_from_slice(reason.unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Writes one field. Neither part may hold a control character; what was read by [`super::fields`] does not.
pub(crate) fn field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Writes the field that delimits a body.
pub(crate) fn framing(out: &mut Vec<u8>, framing: Framing) {
    match framing {
        Framing::Length(length) => {
            out.extend_from_slice(b"content-length: ");
            decimal(out, length);
            out.extend_from_slice(b"\r\n");
        }
        Framing::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        Framing::UntilClose => {}
    }
}

/// Writes a part of a body, delimited as `framing` says; `ends` when it is the last.
pub(crate) fn part(out: &mut Vec<u8>, framing: Framing, part: &[u8], ends: bool) {
    if framing != Framing::Chunked {
        out.extend_from_slice(part);
        return;
    }
    if !part.is_empty() {
        out.extend_from_slice(ChunkLine::new(part.len()).as_bytes());
        out.extend_from_slice(part);
        out.extend_from_slice(b"\r\n");
    }
    if ends {
        out.extend_from_slice(LAST_CHUNK);
    }
}

/// Writes a number in decimal.
fn decimal(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + u8::try_from(value % 10).unwrap_or_default();
        start -= 1;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(start..).unwrap_or_default());
}

impl ChunkLine {
    /// The line before a chunk of `size` bytes, which are at least one.
    pub(crate) fn new(size: usize) -> Self {
        let mut text = *b"0000000000000000\r\n";
        let (mut start, mut left) = (16, size);
        for (at, digit) in text.iter_mut().enumerate().take(16).rev() {
            if left == 0 {
                break;
            }
            *digit = b"0123456789abcdef".get(left % 16).copied().unwrap_or_default();
            start = at;
            left /= 16;
        }
        Self { text, start }
    }

    /// The text.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.text.get(self.start..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_they_are_read() {
        for value in [0, 7, 10, 505, u64::MAX] {
            let mut out = Vec::new();
            decimal(&mut out, value);
            assert_eq!(String::from_utf8(out).unwrap(), value.to_string());
        }
        for size in [1, 15, 16, 505, usize::MAX] {
            assert_eq!(ChunkLine::new(size).as_bytes(), format!("{size:x}\r\n").as_bytes());
        }
    }

    #[test]
    fn a_status_without_a_name_is_written_all_the_same() {
        let mut out = Vec::new();
        status_line(&mut out, 529);
        status_line(&mut out, 404);
        assert_eq!(out, b"HTTP/1.1 529 \r\nHTTP/1.1 404 Not Found\r\n");
    }
}
