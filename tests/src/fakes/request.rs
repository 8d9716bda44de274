//! What arrived at a fake, read strictly: a proxy that sends anything ambiguous is told so.

use sha2::{Digest, Sha256};

use super::bill::Bill;

/// One request whose head arrived whole.
#[derive(Debug, Clone, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Received {
    /// Its place among all requests, from 0; decided after its answer.
    pub number: usize,
    /// Which connection it came on, from 0.
    pub connection: u64,
    pub method: String,
    /// Path and query as they came.
    pub target: String,
    /// In the order they came, names as they were written.
    pub headers: Vec<(String, String)>,
    #[serde(skip)]
    pub body: Vec<u8>,
    pub body_bytes: usize,
    /// In hexadecimal.
    pub body_sha256: String,
    /// The status it was answered with; none if the answer is none.
    pub status: Option<u16>,
    /// Whether a vendor would bill it: it arrived whole at `/v1/messages` and was answered with 2xx.
    pub billed: bool,
    /// What a vendor bills for it, if its script says so.
    #[serde(skip)]
    pub bill: Option<Bill>,
    /// Whether the other side went away before the answer was over.
    pub cancelled: bool,
}

/// How the body of a request is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyFraming {
    Length(usize),
    Chunked,
}

impl Received {
    /// The value of a header that is there exactly once.
    pub fn header(&self, name: &str) -> Option<&str> {
        match self.headers_named(name).as_slice() {
            [only] => Some(only),
            _ => None,
        }
    }

    /// All values of a header.
    pub fn headers_named(&self, name: &str) -> Vec<&str> {
        let named = self.headers.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    }

    /// The path, without the query.
    pub fn path(&self) -> &str {
        self.target.split_once('?').map_or(self.target.as_str(), |(path, _)| path)
    }

    /// The body as JSON; null when it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The model that the body asks for; empty when there is none.
    pub fn model(&self) -> String {
        self.json().get("model").and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
    }

    /// Reads a head, without the empty line at its end.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub(super) fn read(head: &[u8]) -> Result<(Self, BodyFraming), String> {
        let text = std::str::from_utf8(head).map_err(|_| "head is not UTF-8".to_owned())?;
        let mut lines = text.split("\r\n");
        let first = lines.next().unwrap_or_default();
        let [method, target, "HTTP/1.1"] = first.split(' ').collect::<Vec<_>>()[..] else {
            return Err(format!("request line {first:?}"));
        };
        let mut received = Self {
            number: 0,
            connection: 0,
            method: method.to_owned(),
            target: target.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
            body_bytes: 0,
            body_sha256: String::new(),
            status: None,
            billed: false,
            bill: None,
            cancelled: false,
        };
        for line in lines {
            let (name, value) = line.split_once(':').ok_or_else(|| format!("header line {line:?}"))?;
            let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
            if name.is_empty() || !name.bytes().all(is_token) || value.contains(['\r', '\n', '\0']) {
                return Err(format!("header line {line:?}"));
            }
            received.headers.push((name.to_owned(), value.trim_matches([' ', '\t']).to_owned()));
        }
        let framing = received.body_framing()?;
        Ok((received, framing))
    }

    pub(super) fn set_body(&mut self, body: Vec<u8>) {
        self.body_bytes = body.len();
        self.body_sha256 = sha256(&body);
        self.body = body;
    }

    fn body_framing(&self) -> Result<BodyFraming, String> {
        if self.headers_named("host").len() != 1 {
            return Err("not exactly one host header".to_owned());
        }
        let lengths = self.headers_named("content-length");
        let codings = self.headers_named("transfer-encoding");
        match (lengths.as_slice(), codings.as_slice()) {
            ([], []) => Ok(BodyFraming::Length(0)),
            ([length], []) if length.bytes().all(|b| b.is_ascii_digit()) => {
                length.parse().map(BodyFraming::Length).map_err(|_| format!("content-length {length:?}"))
            }
            ([], ["chunked"]) => Ok(BodyFraming::Chunked),
            _ => Err(format!("content-length {lengths:?} with transfer-encoding {codings:?}")),
        }
    }
}

/// The SHA-256 of some bytes, in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ambiguous_heads_are_violations() {
        let cases = [
            "GET / HTTP/1.0\r\nhost: a",
            "GET  / HTTP/1.1\r\nhost: a",
            "GET / HTTP/1.1",
            "GET / HTTP/1.1\r\nhost: a\r\nhost: a",
            "GET / HTTP/1.1\r\nhost: a\r\n folded: b",
            "GET / HTTP/1.1\r\nhost : a",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 1",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +1",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked",
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked",
        ];
        for head in cases {
            assert!(Received::read(head.as_bytes()).is_err(), "{head:?} was accepted");
        }
    }

    #[test]
    fn good_head_is_kept_as_it_came() {
        let head = b"POST /v1/messages?beta=true HTTP/1.1\r\nHost: a\r\nX-One:  1 \r\ncontent-length: 3";
        let (received, framing) = Received::read(head).unwrap();
        assert_eq!((received.method.as_str(), received.path()), ("POST", "/v1/messages"));
        assert_eq!(received.headers[1], ("X-One".to_owned(), "1".to_owned()));
        assert_eq!(framing, BodyFraming::Length(3));
    }
}
