//! One scripted answer: what it says, how it is framed, where it is split, and how it ends.

use std::time::Duration;

use super::bill::Bill;

/// What the upstream does with one request.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// Headers, without those of the framing.
    pub headers: Vec<(String, String)>,
    /// The body before framing.
    pub body: Vec<u8>,
    /// How the end of the body is told.
    pub framing: Framing,
    /// Where in the body a new chunk begins; only with [`Framing::Chunked`].
    pub chunks: Vec<usize>,
    /// Where in the framed body a new write begins, beside the beginnings of chunks.
    pub cuts: Vec<usize>,
    /// How long the first byte is held back.
    pub delay: Duration,
    /// How long each write is held back after the one before.
    pub pause: Duration,
    /// What becomes of the connection.
    pub ending: Ending,
    /// What the vendor bills for it, if the script says so.
    pub bill: Option<Bill>,
}

/// How the end of a body is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// By `content-length`.
    Length,
    /// By chunks.
    Chunked,
    /// By the end of the connection.
    UntilClose,
}

/// What becomes of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It waits for the next request.
    KeepAlive,
    /// It is closed after the whole answer, with `connection: close`.
    Close,
    /// The answer breaks off.
    Break(Break, When),
}

/// How an answer breaks off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Break {
    /// The connection is closed in order (FIN).
    Close,
    /// The connection is reset (RST).
    Reset,
    /// Nothing more comes; the connection stays open.
    Stall,
}

/// When an answer breaks off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Before its first byte.
    BeforeHead,
    /// After its head and so many bytes of its framed body.
    After(usize),
}

/// An answer as it goes over the wire.
pub(super) struct Wire {
    pub(super) bytes: Vec<u8>,
    /// Where writes end, rising; the last is the end of the bytes.
    pub(super) writes: Vec<usize>,
}

impl Answer {
    /// A whole answer of some type, with `content-length`.
    pub fn new(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: vec![("content-type".to_owned(), content_type.to_owned())],
            body: body.into(),
            framing: Framing::Length,
            chunks: Vec::new(),
            cuts: Vec::new(),
            delay: Duration::ZERO,
            pause: Duration::ZERO,
            ending: Ending::KeepAlive,
            bill: None,
        }
    }

    /// A JSON answer.
    pub fn json(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self::new(status, "application/json", body)
    }

    /// An HTML page, as a proxy on the way or a login wall sends it.
    pub fn html(status: u16) -> Self {
        Self::new(status, "text/html; charset=utf-8", "<!doctype html><title>Sorry</title><h1>Sorry</h1>")
    }

    /// A refusal in the vendor's shape.
    pub fn error(status: u16, kind: &str, message: &str) -> Self {
        Self::json(status, la_dialects::anthropic::error::body(kind, message, "req_fake"))
    }

    /// A stream of events, one chunk each.
    pub fn stream(events: &[String]) -> Self {
        let mut body = Vec::new();
        let mut chunks = Vec::new();
        for event in events {
            body.extend_from_slice(event.as_bytes());
            chunks.push(body.len());
        }
        Self { framing: Framing::Chunked, chunks, ..Self::new(200, "text/event-stream; charset=utf-8", body) }
    }

    /// The same with another header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same with another framing.
    #[must_use]
    pub fn framed(self, framing: Framing) -> Self {
        Self { framing, ..self }
    }

    /// The same with its first byte held back.
    #[must_use]
    pub fn delayed(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }

    /// The same with a pause between writes.
    #[must_use]
    pub fn paused(self, pause: Duration) -> Self {
        Self { pause, ..self }
    }

    /// The same with every byte of the framed body in a write of its own.
    #[must_use]
    pub fn byte_by_byte(self) -> Self {
        // A chunk's framing is at most 20 bytes around at least one byte of the body.
        let most = self.body.len().saturating_mul(21).saturating_add(21);
        Self { cuts: (1..most).collect(), ..self }
    }

    /// The same with a bill.
    #[must_use]
    pub fn billed(self, bill: Bill) -> Self {
        Self { bill: Some(bill), ..self }
    }

    /// The same with another ending.
    #[must_use]
    pub fn ending(self, ending: Ending) -> Self {
        Self { ending, ..self }
    }

    /// The same, broken off after its head and so many bytes of its framed body.
    #[must_use]
    pub fn broken(self, how: Break, after: usize) -> Self {
        self.ending(Ending::Break(how, When::After(after)))
    }

    /// No answer at all.
    pub fn none(how: Break) -> Self {
        Self::json(200, "").ending(Ending::Break(how, When::BeforeHead))
    }

    /// The bytes to send, and where to split them; `to_head` for the answer to a HEAD request.
    pub(super) fn wire(&self, to_head: bool) -> Wire {
        let mut bytes = self.head();
        let mut writes = vec![bytes.len()];
        if !to_head {
            let (body, ends) = self.framed_body();
            let from = bytes.len();
            bytes.extend_from_slice(&body);
            let cuts = self.cuts.iter().copied().take_while(|cut| *cut < body.len());
            writes.extend(ends.into_iter().chain(cuts).map(|at| from + at));
        }
        match self.ending {
            Ending::Break(_, When::BeforeHead) => bytes.clear(),
            Ending::Break(_, When::After(after)) => {
                bytes.truncate(writes.first().copied().unwrap_or_default().saturating_add(after));
            }
            Ending::KeepAlive | Ending::Close => {}
        }
        writes.push(bytes.len());
        writes.retain(|at| *at <= bytes.len());
        writes.sort_unstable();
        writes.dedup();
        Wire { bytes, writes }
    }

    fn head(&self) -> Vec<u8> {
        let mut head = format!("HTTP/1.1 {} Scripted\r\n", self.status);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        match self.framing {
            Framing::Length => head.push_str(&format!("content-length: {}\r\n", self.body.len())),
            Framing::Chunked => head.push_str("transfer-encoding: chunked\r\n"),
            Framing::UntilClose => {}
        }
        if self.ending == Ending::Close || self.framing == Framing::UntilClose {
            head.push_str("connection: close\r\n");
        }
        head.push_str("\r\n");
        head.into_bytes()
    }

    /// The body as it is framed, and where its chunks end in it.
    fn framed_body(&self) -> (Vec<u8>, Vec<usize>) {
        if self.framing != Framing::Chunked {
            return (self.body.clone(), Vec::new());
        }
        let mut framed = Vec::new();
        let mut written = Vec::new();
        for piece in self.pieces() {
            framed.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
            framed.extend_from_slice(piece);
            framed.extend_from_slice(b"\r\n");
            written.push(framed.len());
        }
        framed.extend_from_slice(b"0\r\n\r\n");
        (framed, written)
    }

    /// What each chunk of the body holds.
    fn pieces(&self) -> Vec<&[u8]> {
        let mut ends = self.chunks.clone();
        ends.push(self.body.len());
        ends.sort_unstable();
        let mut from = 0;
        let piece = |end| {
            let piece = self.body.get(from..end).filter(|piece| !piece.is_empty())?;
            from = end;
            Some(piece)
        };
        ends.into_iter().filter_map(piece).collect()
    }

    /// Bytes of the framed body.
    pub fn framed_bytes(&self) -> usize {
        self.framed_body().0.len()
    }

    /// The part of the body that is sent before the answer breaks off, if it does.
    pub fn sent(&self) -> Vec<u8> {
        let Ending::Break(_, when) = self.ending else { return self.body.clone() };
        let When::After(mut left) = when else { return Vec::new() };
        if self.framing != Framing::Chunked {
            return self.body.iter().copied().take(left).collect();
        }
        let mut sent = Vec::new();
        for piece in self.pieces() {
            left = left.saturating_sub(format!("{:x}\r\n", piece.len()).len());
            sent.extend(piece.iter().take(left));
            left = left.saturating_sub(piece.len() + "\r\n".len());
        }
        sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(answer: &Answer) -> (String, Vec<usize>) {
        let wire = answer.wire(false);
        (String::from_utf8(wire.bytes).unwrap(), wire.writes)
    }

    #[test]
    fn chunks_and_cuts_are_where_they_were_asked_for() {
        let mut answer = Answer::stream(&["ab".to_owned(), "cde".to_owned()]);
        answer.cuts = vec![1, 9, 10_000];
        let (wire, writes) = text(&answer);
        let (head, body) = wire.split_once("\r\n\r\n").unwrap();
        assert_eq!(body, "2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n");
        let from = head.len() + 4;
        assert_eq!(writes, [from, from + 1, from + 7, from + 9, from + 15, from + 20]);
    }

    #[test]
    fn broken_answers_end_where_they_break() {
        let answer = Answer::json(200, "{}");
        let whole = text(&answer).0;
        assert!(whole.ends_with("content-length: 2\r\n\r\n{}"));
        let cut = text(&answer.clone().broken(Break::Reset, 1)).0;
        assert_eq!(cut, whole[..whole.len() - 1]);
        assert_eq!(text(&Answer::none(Break::Close)).0, "");
        assert_eq!(answer.wire(true).bytes.len(), whole.len() - 2);
    }
}
