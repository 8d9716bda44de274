//! Judging one complete request head, more strictly than any parser behind it.
//!
//! Parsers differ in what they forgive, and every difference is a way to smuggle a second request past
//! one of them. So nothing is forgiven here, and what passes means the same to everyone.

use memchr::memchr_iter;

use super::violation::Violation;

/// Most fields of a head.
const MAX_FIELDS: usize = 100;

/// Most digits of a `content-length`: 10^18 bytes.
const MAX_LENGTH_DIGITS: usize = 18;

/// How the body behind a head is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// So many bytes; 0 where there is no body.
    Length(u64),
    /// In chunks.
    Chunked,
}

/// What the fields of a head said about its body and its host.
#[derive(Default)]
struct Found {
    host: bool,
    length: Option<u64>,
    chunked: bool,
}

/// Judges a head, from the first byte of its request line to its empty line.
///
/// # Errors
/// The first rule that it breaks.
pub(super) fn judge(head: &[u8]) -> Result<Framing, Violation> {
    no_stray_controls(head)?;
    let mut lines = Lines { head, feeds: memchr_iter(b'\n', head), start: 0 };
    let line = lines.next().ok_or(Violation::RequestLine)??;
    let request = request_line(line)?;
    let mut found = Found::default();
    let mut count = 0;
    for line in lines {
        let line = line?;
        if line.is_empty() {
            break;
        }
        count += 1;
        if count > MAX_FIELDS {
            return Err(Violation::TooManyFields);
        }
        field(line, &mut found)?;
    }
    conclude(&request, &found)
}

struct Request<'a> {
    method: &'a [u8],
    is_1_1: bool,
}

fn conclude(request: &Request<'_>, found: &Found) -> Result<Framing, Violation> {
    if request.is_1_1 && !found.host {
        return Err(Violation::Host);
    }
    if found.chunked && (found.length.is_some() || !request.is_1_1) {
        return Err(Violation::TransferEncoding);
    }
    let framing = if found.chunked { Framing::Chunked } else { Framing::Length(found.length.unwrap_or(0)) };
    if matches!(request.method, b"GET" | b"HEAD") && framing != Framing::Length(0) {
        return Err(Violation::UnexpectedBody);
    }
    Ok(framing)
}

/// The lines of a head without their ends, each of which must be CR LF.
struct Lines<'a> {
    head: &'a [u8],
    feeds: memchr::Memchr<'a>,
    start: usize,
}

impl<'a> Iterator for Lines<'a> {
    type Item = Result<&'a [u8], Violation>;

    fn next(&mut self) -> Option<Self::Item> {
        let feed = self.feeds.next()?;
        let line = self.head.get(self.start..feed)?;
        self.start = feed + 1;
        Some(line.strip_suffix(b"\r").ok_or(Violation::BareLineFeed))
    }
}

fn request_line(line: &[u8]) -> Result<Request<'_>, Violation> {
    let mut parts = line.splitn(3, |b| *b == b' ');
    let (Some(method), Some(target), Some(version)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(Violation::RequestLine);
    };
    if method.is_empty() || !method.iter().all(|b| is_token(*b)) {
        return Err(Violation::RequestLine);
    }
    let is_1_1 = match version {
        b"HTTP/1.1" => true,
        b"HTTP/1.0" => false,
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            return Err(Violation::Version);
        }
        _ => return Err(Violation::RequestLine),
    };
    if target.first() != Some(&b'/') || method == b"CONNECT" || !target.iter().all(|b| is_target(*b)) {
        return Err(Violation::Target);
    }
    Ok(Request { method, is_1_1 })
}

fn field(line: &[u8], found: &mut Found) -> Result<(), Violation> {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Err(Violation::FoldedField);
    }
    let colon = memchr::memchr(b':', line).ok_or(Violation::FieldName)?;
    let (name, value) = line.split_at(colon);
    if name.is_empty() || !name.iter().all(|b| is_token(*b)) {
        return Err(Violation::FieldName);
    }
    let value = value.get(1..).unwrap_or_default();
    let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
    // The length decides which names are worth comparing.
    match name.len() {
        4 if is("host") => host(value.trim_ascii(), found),
        6 if is("expect") && !value.trim_ascii().eq_ignore_ascii_case(b"100-continue") => {
            Err(Violation::Expectation)
        }
        7 if is("upgrade") => Err(Violation::Upgrade),
        14 if is("content-length") => content_length(value.trim_ascii(), found),
        17 if is("transfer-encoding") => {
            let again = std::mem::replace(&mut found.chunked, true);
            let good = !again && value.trim_ascii().eq_ignore_ascii_case(b"chunked");
            if good { Ok(()) } else { Err(Violation::TransferEncoding) }
        }
        _ => Ok(()),
    }
}

fn host(value: &[u8], found: &mut Found) -> Result<(), Violation> {
    let allowed = |b: &u8| {
        b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'~' | b':' | b'[' | b']' | b'%')
    };
    let again = std::mem::replace(&mut found.host, true);
    let good = !again && !value.is_empty() && value.iter().all(allowed);
    if good { Ok(()) } else { Err(Violation::Host) }
}

fn content_length(value: &[u8], found: &mut Found) -> Result<(), Violation> {
    let good = found.length.is_none()
        && (1..=MAX_LENGTH_DIGITS).contains(&value.len())
        && value.iter().all(u8::is_ascii_digit);
    if !good {
        return Err(Violation::ContentLength);
    }
    found.length = Some(value.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')));
    Ok(())
}

/// Refuses every control character but the tab, and every CR that ends no line. Over the whole head at
/// once and without early ends, because that is many times faster than byte by byte.
fn no_stray_controls(head: &[u8]) -> Result<(), Violation> {
    let is_stray = |b: u8| (b < b' ' && b != b'\t' && b != b'\r' && b != b'\n') || b == 0x7f;
    let stray = head.iter().fold(false, |found, b| found | is_stray(*b));
    // Each LF is known to follow a CR once the lines are read; so more CR than LF means a bare one.
    let (returns, feeds) = (memchr_iter(b'\r', head).count(), memchr_iter(b'\n', head).count());
    if stray || returns > feeds { Err(Violation::ControlCharacter) } else { Ok(()) }
}

fn is_token(b: u8) -> bool {
    TABLE.get(usize::from(b)).is_some_and(|class| class & TOKEN != 0)
}

fn is_target(b: u8) -> bool {
    TABLE.get(usize::from(b)).is_some_and(|class| class & TARGET != 0)
}

const TOKEN: u8 = 1;
const TARGET: u8 = 2;

/// Classes of bytes: of a field name or method (RFC 9110 §5.6.2), of a path and query (RFC 3986 §3.3, §3.4).
const TABLE: [u8; 256] = {
    let mut table = [0; 256];
    let mut at = 0;
    while at < 256 {
        #[expect(clippy::cast_possible_truncation, reason = "`at` is below 256")]
        let b = at as u8;
        let word = b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
        if word || matches!(b, b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'^' | b'`' | b'|') {
            table[at] |= TOKEN;
        }
        let sub = matches!(b, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=');
        if word || sub || matches!(b, b':' | b'@' | b'/' | b'?' | b'%') {
            table[at] |= TARGET;
        }
        at += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    fn of(fields: &str) -> Result<Framing, Violation> {
        judge(format!("POST /v1/messages HTTP/1.1\r\nhost: x\r\n{fields}\r\n").as_bytes())
    }

    #[test]
    fn good_heads_give_their_framing() {
        let cases = [
            ("GET / HTTP/1.1\r\nHost: localhost:8080\r\n\r\n", Framing::Length(0)),
            ("GET / HTTP/1.0\r\n\r\n", Framing::Length(0)),
            (
                "POST /v1/messages?beta=true HTTP/1.1\r\nHOST:[::1]:80\r\nContent-Length:\t12 \r\n\r\n",
                Framing::Length(12),
            ),
            (
                "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: Chunked\r\nexpect: 100-Continue\r\n\r\n",
                Framing::Chunked,
            ),
            (
                "GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\nx-empty:\r\nx-latin: \u{fc}\r\n\r\n",
                Framing::Length(0),
            ),
        ];
        for (head, framing) in cases {
            assert_eq!(judge(head.as_bytes()), Ok(framing), "{head:?}");
        }
    }

    #[test]
    fn every_bad_request_line_is_refused_for_its_own_reason() {
        let cases = [
            ("", Violation::RequestLine),
            ("GET", Violation::RequestLine),
            ("GET /", Violation::RequestLine),
            ("GET  / HTTP/1.1", Violation::RequestLine),
            (" GET / HTTP/1.1", Violation::RequestLine),
            ("GET / HTTP/1.1 ", Violation::RequestLine),
            ("GET / x HTTP/1.1", Violation::RequestLine),
            ("GET / http/1.1", Violation::RequestLine),
            ("GET / HTTP/1.1\rX", Violation::ControlCharacter),
            ("GET /\0 HTTP/1.1", Violation::ControlCharacter),
            ("G(T / HTTP/1.1", Violation::RequestLine),
            ("GET / HTTP/2.0", Violation::Version),
            ("GET / HTTP/1.2", Violation::Version),
            ("GET http://x/ HTTP/1.1", Violation::Target),
            ("CONNECT x:443 HTTP/1.1", Violation::Target),
            ("CONNECT / HTTP/1.1", Violation::Target),
            ("OPTIONS * HTTP/1.1", Violation::Target),
            ("GET /a#b HTTP/1.1", Violation::Target),
            ("GET /a\\b HTTP/1.1", Violation::Target),
            ("GET /\u{e9} HTTP/1.1", Violation::Target),
            ("PRI * HTTP/2.0", Violation::Version),
        ];
        for (line, violation) in cases {
            let head = format!("{line}\r\nhost: x\r\n\r\n");
            assert_eq!(judge(head.as_bytes()), Err(violation), "{line:?}");
        }
    }

    #[test]
    fn every_bad_field_is_refused_for_its_own_reason() {
        let cases = [
            ("a: b\n", Violation::BareLineFeed),
            (" a: b\r\n", Violation::FoldedField),
            ("a: b\r\n\tc\r\n", Violation::FoldedField),
            ("a : b\r\n", Violation::FieldName),
            (": b\r\n", Violation::FieldName),
            ("a\r\n", Violation::FieldName),
            ("a(b): c\r\n", Violation::FieldName),
            ("a: b\0\r\n", Violation::ControlCharacter),
            ("a: b\rc: d\r\n", Violation::ControlCharacter),
            ("host: y\r\n", Violation::Host),
            ("content-length: 1\r\ncontent-length: 1\r\n", Violation::ContentLength),
            ("content-length: 1, 1\r\n", Violation::ContentLength),
            ("content-length: +1\r\n", Violation::ContentLength),
            ("content-length: -1\r\n", Violation::ContentLength),
            ("content-length: 0x1\r\n", Violation::ContentLength),
            ("content-length: \r\n", Violation::ContentLength),
            ("content-length: 1 1\r\n", Violation::ContentLength),
            ("content-length: 9999999999999999999\r\n", Violation::ContentLength),
            ("content-length: 1\r\ntransfer-encoding: chunked\r\n", Violation::TransferEncoding),
            ("transfer-encoding: chunked\r\ncontent-length: 1\r\n", Violation::TransferEncoding),
            ("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", Violation::TransferEncoding),
            ("transfer-encoding: gzip, chunked\r\n", Violation::TransferEncoding),
            ("transfer-encoding: identity\r\n", Violation::TransferEncoding),
            ("transfer-encoding: xchunked\r\n", Violation::TransferEncoding),
            ("transfer-encoding: \x0bchunked\r\n", Violation::ControlCharacter),
            ("transfer-encoding: chunked;x\r\n", Violation::TransferEncoding),
            ("upgrade: h2c\r\n", Violation::Upgrade),
            ("expect: 200-ok\r\n", Violation::Expectation),
        ];
        for (fields, violation) in cases {
            assert_eq!(of(fields), Err(violation), "{fields:?}");
        }
        for host in ["", "a b", "a/b", "u@a", "a,b"] {
            let head = format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n");
            assert_eq!(judge(head.as_bytes()), Err(Violation::Host), "{host:?}");
        }
        assert_eq!(judge(b"GET / HTTP/1.1\r\n\r\n"), Err(Violation::Host));
        assert_eq!(
            judge(b"POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n"),
            Err(Violation::TransferEncoding)
        );
        for body in ["content-length: 1", "transfer-encoding: chunked"] {
            let head = format!("GET / HTTP/1.1\r\nhost: x\r\n{body}\r\n\r\n");
            assert_eq!(judge(head.as_bytes()), Err(Violation::UnexpectedBody), "{body}");
        }
    }

    #[test]
    fn a_head_may_have_a_hundred_fields_and_not_one_more() {
        assert_eq!(of(&"a: b\r\n".repeat(99)), Ok(Framing::Length(0)));
        assert_eq!(of(&"a: b\r\n".repeat(100)), Err(Violation::TooManyFields));
    }
}
