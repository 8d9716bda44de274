//! A client's request head: judged, and read where it lies.

use std::ops::Range;

use super::body::Framing;
use super::fields::{self, Fields, Persistence, Place, name_byte};
use super::violation::Violation;

/// Most bytes of a head.
pub(crate) const MAX_HEAD_BYTES: usize = 32 * 1024;

/// A head that was judged good, and what came behind it in the same buffer.
#[derive(Debug)]
pub(crate) struct RequestHead {
    bytes: Vec<u8>,
    end: usize,
    fields: Fields,
    line: RequestLine,
    persistence: Persistence,
    /// How the body is delimited.
    pub(crate) framing: Framing,
    /// Whether the client waits for a word before it sends the body.
    pub(crate) expects_continue: bool,
}

#[derive(Debug, Clone, Copy)]
struct RequestLine {
    method: Place,
    path: Place,
    query: Option<Place>,
    is_1_1: bool,
}

/// What the fields of a head say about its body and its connection.
#[derive(Default)]
struct Said {
    has_host: bool,
    length: Option<u64>,
    is_chunked: bool,
    expects_continue: bool,
    persistence: Persistence,
}

impl RequestHead {
    /// Judges and reads the head that `bytes` starts with and that ends, with its empty line, at `end`.
    /// `fields` is room to be used again.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub(crate) fn read(mut bytes: Vec<u8>, end: usize, mut fields: Fields) -> Result<Self, Violation> {
        let head = bytes.get_mut(..end).unwrap_or_default();
        // One empty line before a request line is to be ignored (RFC 9112 §2.2).
        let start = if head.starts_with(b"\r\n") { 2 } else { 0 };
        let feed = memchr::memchr(b'\n', head.get(start..).unwrap_or_default());
        let feed = start + feed.ok_or(Violation::RequestLine)?;
        if feed == start || head.get(feed - 1) != Some(&b'\r') {
            return Err(Violation::BareLineFeed);
        }
        let line = RequestLine::read(head, start..feed - 1)?;
        fields.read(head, feed + 1)?;
        let mut said = Said::default();
        for (name, value) in fields.iter(head) {
            said.add(name, value)?;
        }
        let framing = said.framing(&line, line.method.of(head))?;
        Ok(Self {
            bytes,
            end,
            fields,
            line,
            persistence: said.persistence,
            framing,
            expects_continue: said.expects_continue && line.is_1_1,
        })
    }

    /// The method, as it came.
    pub(crate) fn method(&self) -> &str {
        std::str::from_utf8(self.line.method.of(&self.bytes)).unwrap_or_default()
    }

    /// The path of the target, as it came.
    pub(crate) fn path(&self) -> &str {
        std::str::from_utf8(self.line.path.of(&self.bytes)).unwrap_or_default()
    }

    /// The query of the target, as it came, without `?`.
    pub(crate) fn query(&self) -> Option<&str> {
        self.line.query.map(|query| std::str::from_utf8(query.of(&self.bytes)).unwrap_or_default())
    }

    /// Whether the version is 1.1, not 1.0.
    pub(crate) fn is_1_1(&self) -> bool {
        self.line.is_1_1
    }

    /// Whether the client means to send another request after it.
    pub(crate) fn persists(&self) -> bool {
        self.persistence.lasts(self.line.is_1_1)
    }

    /// Whether a field is for this hop only (RFC 9110 §7.6.1).
    pub(crate) fn is_hop_by_hop(&self, name: &[u8]) -> bool {
        fields::is_hop_by_hop(name)
            || (self.persistence.names_fields && self.fields.connection_names(&self.bytes, name))
    }

    /// Every field: names in lower case, values trimmed.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> + Clone {
        self.fields.iter(&self.bytes)
    }

    /// The values of `name`, which is in lower case.
    pub(crate) fn all<'a>(&'a self, name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> + Clone {
        self.fields.all(&self.bytes, name)
    }

    /// What came behind the head in the same buffer.
    pub(crate) fn behind(&self) -> &[u8] {
        self.bytes.get(self.end..).unwrap_or_default()
    }

    /// Forgets what came behind the head.
    pub(crate) fn forget_behind(&mut self) {
        self.bytes.truncate(self.end);
    }

    /// The buffer and the room for fields, to be used again.
    pub(crate) fn into_parts(self) -> (Vec<u8>, Fields) {
        (self.bytes, self.fields)
    }
}

impl RequestLine {
    /// Reads `METHOD SP path[?query] SP HTTP/1.x`, which is at `at`.
    fn read(head: &[u8], at: Range<usize>) -> Result<Self, Violation> {
        let line = head.get(at.clone()).unwrap_or_default();
        fields::no_controls(line)?;
        let mut parts = line.splitn(3, |b| *b == b' ');
        let (Some(method), Some(target), Some(version)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(Violation::RequestLine);
        };
        if method.is_empty() || !method.iter().all(|b| name_byte(*b).is_some()) {
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
        let start = at.start + method.len() + 1;
        let end = start + target.len();
        let mark = memchr::memchr(b'?', target).map(|mark| start + mark);
        Ok(Self {
            method: Place::new(at.start..at.start + method.len()),
            path: Place::new(start..mark.unwrap_or(end)),
            query: mark.map(|mark| Place::new(mark + 1..end)),
            is_1_1,
        })
    }
}

impl Said {
    /// Adds what one field says.
    fn add(&mut self, name: &[u8], value: &[u8]) -> Result<(), Violation> {
        match name {
            b"host" => {
                let again = std::mem::replace(&mut self.has_host, true);
                if again || value.is_empty() || !value.iter().all(|b| is_host(*b)) {
                    return Err(Violation::Host);
                }
            }
            b"content-length" => {
                let length = fields::length(value).filter(|_| self.length.is_none());
                self.length = Some(length.ok_or(Violation::ContentLength)?);
            }
            b"transfer-encoding" => {
                let again = std::mem::replace(&mut self.is_chunked, true);
                if again || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Violation::TransferEncoding);
                }
            }
            b"connection" => self.persistence.add(value),
            b"expect" => {
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(Violation::Expectation);
                }
                self.expects_continue = true;
            }
            b"upgrade" => return Err(Violation::Upgrade),
            _ => {}
        }
        Ok(())
    }

    fn framing(&self, line: &RequestLine, method: &[u8]) -> Result<Framing, Violation> {
        if line.is_1_1 && !self.has_host {
            return Err(Violation::Host);
        }
        if self.is_chunked && (self.length.is_some() || !line.is_1_1) {
            return Err(Violation::TransferEncoding);
        }
        let framing =
            if self.is_chunked { Framing::Chunked } else { Framing::Length(self.length.unwrap_or(0)) };
        if matches!(method, b"GET" | b"HEAD") && framing != Framing::Length(0) {
            return Err(Violation::UnexpectedBody);
        }
        Ok(framing)
    }
}

fn is_host(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'~' | b':' | b'[' | b']' | b'%')
}

/// A byte of a path and query (RFC 3986 §3.3, §3.4).
fn is_target(b: u8) -> bool {
    let sub = matches!(b, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=');
    let mark = matches!(b, b'-' | b'.' | b'_' | b'~' | b':' | b'@' | b'/' | b'?' | b'%');
    b.is_ascii_alphanumeric() || sub || mark
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn judge(head: &[u8]) -> Result<Framing, Violation> {
        let head = RequestHead::read(head.to_vec(), head.len(), Fields::default())?;
        Ok(head.framing)
    }

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

    proptest! {
        /// The other way round does not hold, and should not: much is refused here that `httparse` forgives.
        #[test]
        fn what_is_accepted_means_the_same_to_another_parser(
            start in prop_oneof![
                Just("GET /v1/models HTTP/1.1\r\n".to_owned()),
                Just("\r\nPOST /v1/messages?beta=true HTTP/1.1\r\n".to_owned()),
                "[A-Z]{1,6} /[!-~]{0,9} HTTP/1[.][01]\r\n",
                "\\PC{0,12}\r\n",
            ],
            fields in proptest::collection::vec(
                prop_oneof![
                    Just("host: x\r\n".to_owned()),
                    Just("Content-Length: 7\r\n".to_owned()),
                    "[!-~]{1,6}:[ -~\t]{0,12}\r\n",
                    "[a-zA-Z-]{1,8}[: ]{1,3}\\PC{0,9}[\r\n]{1,3}",
                ],
                0..6,
            ),
        ) {
            let text = format!("{start}{}\r\n", fields.concat());
            let end = fields::find_end(text.as_bytes(), 0).ok().flatten();
            let ours = end.map(|end| RequestHead::read(text.clone().into_bytes(), end, Fields::default()));
            let Some(Ok(ours)) = ours else { return Ok(()) };
            let mut room = [httparse::EMPTY_HEADER; 128];
            let mut theirs = httparse::Request::new(&mut room);
            prop_assert_eq!(theirs.parse(text.as_bytes()).ok(), end.map(httparse::Status::Complete));
            prop_assert_eq!(theirs.method, Some(ours.method()));
            let target = ours.query().map_or(ours.path().to_owned(), |query| format!("{}?{query}", ours.path()));
            prop_assert_eq!(theirs.path, Some(&*target));
            let theirs: Vec<_> = theirs
                .headers
                .iter()
                .map(|field| (field.name.to_ascii_lowercase().into_bytes(), field.value.trim_ascii().to_vec()))
                .collect();
            let ours: Vec<_> = ours.fields().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
            prop_assert_eq!(theirs, ours);
        }
    }
}
