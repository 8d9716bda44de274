//! A client's connection: requests come in by it one after the other, and each is answered on it.
//!
//! It buffers no more than it must: nothing while it waits for a request, the head and the body while they
//! are needed, and of an answer only what the socket has not taken. [`super::passing`] reads no more from
//! upstream until the socket has taken it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{BufMut as _, Bytes};
use http::Response;
use tokio::io::AsyncWrite as _;
use tokio::net::TcpStream;
use tokio_util::io::poll_read_buf;

use super::pulse::{self, Pulse};
use super::seat::{End, Seat};
use crate::clock;
use crate::http1::body::{Decoder, Framing, Malformed};
use crate::http1::buffers::Buffers;
use crate::http1::fields::{self, Fields};
use crate::http1::request::{MAX_HEAD_BYTES, RequestHead};
use crate::http1::violation::Violation;
use crate::http1::write::{self, ChunkLine, LAST_CHUNK};

/// Most bytes read ahead of the request that is being answered.
const MAX_AHEAD_BYTES: usize = 4 * 1024;

/// How long to go on reading after the last answer, so that the client can read it: closing with unread
/// bytes would reset the connection and discard what was sent.
const LINGER_MS: u64 = 3_000;

/// Most bytes to read in that time: a body over the limit is read to its end.
const MAX_LINGER_BYTES: usize = 64 * 1024 * 1024;

/// A client's connection.
pub(crate) struct Client {
    socket: TcpStream,
    seat: Rc<Seat>,
    buffers: Rc<Buffers>,
    /// What was read and belongs to nothing yet.
    inbox: Vec<u8>,
    /// So many bytes of it hold no end of a head.
    searched: usize,
    fields: Fields,
    body: Decoder,
    owes_continue: bool,
    /// What the socket has not taken, from `sent` on.
    outbox: Vec<u8>,
    sent: usize,
    /// Whether the socket took less of an answer than it was given.
    is_blocked: bool,
    answer: Delimiting,
    /// Whether the head of the answer has been written.
    has_begun: bool,
    /// What keeps it from seeing nothing for long, while it waits for a stream.
    pulse: Option<Box<Pulse>>,
    /// Whether another request may come after this one.
    persists: bool,
    is_1_1: bool,
    is_head: bool,
}

/// How the answer that is being written shows its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Delimiting {
    /// It does not need to: its length was told, or it has no body.
    Silent,
    Chunks,
    /// The connection ends with it.
    Close,
    /// Nothing more is written, ever.
    Cut,
}

/// Why no more of a body comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyError {
    /// The client has gone.
    Gone,
    /// Its framing is broken.
    Malformed,
    /// The request must end.
    Ended(End),
}

impl From<Malformed> for BodyError {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

impl Client {
    pub(crate) fn new(socket: TcpStream, seat: Rc<Seat>, buffers: Rc<Buffers>) -> Self {
        // Events of a stream are small and must not wait for each other.
        let _ = socket.set_nodelay(true);
        seat.expect_head();
        Self {
            socket,
            seat,
            buffers,
            inbox: Vec::new(),
            searched: 0,
            fields: Fields::default(),
            body: Decoder::Ended,
            owes_continue: false,
            outbox: Vec::new(),
            sent: 0,
            is_blocked: false,
            answer: Delimiting::Silent,
            has_begun: false,
            pulse: None,
            persists: true,
            is_1_1: true,
            is_head: false,
        }
    }

    /// What the thread knows of this connection.
    pub(crate) fn seat(&self) -> &Rc<Seat> {
        &self.seat
    }

    /// The next request's head, once the answer before it is on its way; `None` when there is none to come.
    pub(crate) async fn request(&mut self) -> Option<Result<RequestHead, Violation>> {
        std::future::poll_fn(|context| match ready!(self.poll_flush(context)) {
            Ok(()) if self.persists => self.poll_request(context),
            _ => Poll::Ready(None),
        })
        .await
    }

    fn poll_request(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<RequestHead, Violation>>> {
        loop {
            if self.inbox.len() > self.searched {
                match self.find_head() {
                    Ok(None) => {}
                    Ok(Some(end)) => return Poll::Ready(Some(self.read_head(end))),
                    Err(violation) => return Poll::Ready(Some(Err(self.accuse(violation)))),
                }
            }
            match self.poll_fill(context) {
                Poll::Ready(Ok(count)) if count > 0 => {}
                Poll::Ready(_) => return Poll::Ready(None),
                Poll::Pending if self.seat.is_head_late() => {
                    return Poll::Ready(Some(Err(self.accuse(Violation::HeadTooSlow))));
                }
                Poll::Pending if self.seat.is_over() => return Poll::Ready(None),
                Poll::Pending if self.seat.is_leaving() && self.inbox.is_empty() => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn find_head(&mut self) -> Result<Option<usize>, Violation> {
        let end = fields::find_end(&self.inbox, self.searched)?;
        if end.unwrap_or(self.inbox.len()) > MAX_HEAD_BYTES {
            return Err(Violation::HeadTooLarge);
        }
        if end.is_none() {
            self.searched = self.inbox.len();
            self.seat.head_begins();
        }
        Ok(end)
    }

    fn read_head(&mut self, end: usize) -> Result<RequestHead, Violation> {
        self.searched = 0;
        self.has_begun = false;
        self.pulse = None;
        self.seat.begin_request();
        let bytes = std::mem::take(&mut self.inbox);
        let head = RequestHead::read(bytes, end, std::mem::take(&mut self.fields));
        let mut head = head.map_err(|violation| self.accuse(violation))?;
        self.body = Decoder::for_request(head.framing);
        if self.body == Decoder::Length(head.behind().len() as u64) {
            self.body = Decoder::Ended;
        } else if !head.behind().is_empty() {
            self.inbox = self.buffers.take();
            self.inbox.extend_from_slice(head.behind());
            head.forget_behind();
        }
        self.owes_continue = head.expects_continue;
        self.persists = head.persists() && !self.seat.is_leaving();
        self.is_1_1 = head.is_1_1();
        self.is_head = head.method() == "HEAD";
        Ok(head)
    }

    /// Nothing that comes after a violation is believed.
    fn accuse(&mut self, violation: Violation) -> Violation {
        self.has_begun = false;
        self.pulse = None;
        self.seat.begin_request();
        self.persists = false;
        self.body = Decoder::UntilClose;
        (self.is_1_1, self.is_head) = (true, false);
        violation
    }

    /// Whether the body was read to its end. One that came whole with its head is, and stays behind it.
    pub(crate) fn body_is_read(&self) -> bool {
        self.body.is_ended()
    }

    /// Adds the next part of the body to `into`, as much as it has room for.
    pub(crate) async fn body_part(&mut self, into: &mut Vec<u8>) -> Result<(), BodyError> {
        std::future::poll_fn(|context| match (self.poll_body(context, into), self.seat.end()) {
            (Poll::Pending, Some(end)) => Poll::Ready(Err(BodyError::Ended(end))),
            (read, _) => read,
        })
        .await
    }

    /// Adds the next part of the body to `into`, as much as it has room for.
    pub(crate) fn poll_body(
        &mut self,
        context: &mut Context<'_>,
        into: &mut Vec<u8>,
    ) -> Poll<Result<(), BodyError>> {
        while !self.body.is_ended() {
            if self.inbox.is_empty() {
                if std::mem::take(&mut self.owes_continue) {
                    self.outbox.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
                }
                if let Poll::Ready(Err(_)) = self.poll_flush(context) {
                    return Poll::Ready(Err(BodyError::Gone));
                }
            }
            let before = into.len();
            match self.body {
                Decoder::Length(left) if self.inbox.is_empty() => {
                    ready!(self.poll_body_direct(context, left, into))?;
                }
                _ => {
                    if self.inbox.is_empty() {
                        let count = ready!(self.poll_fill(context)).map_err(|_| BodyError::Gone)?;
                        if count == 0 {
                            return Poll::Ready(Err(BodyError::Gone));
                        }
                    }
                    let decoded = self.body.decode(&mut self.inbox)?;
                    into.extend_from_slice(self.inbox.get(..decoded.data).unwrap_or_default());
                    self.inbox.drain(..decoded.taken);
                    self.release_inbox();
                }
            }
            if into.len() > before {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// A body with a length is read to where it will stay, and nothing behind it is read.
    fn poll_body_direct(
        &mut self,
        context: &mut Context<'_>,
        left: u64,
        into: &mut Vec<u8>,
    ) -> Poll<Result<(), BodyError>> {
        let room = into.capacity().saturating_sub(into.len()).max(1);
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(room);
        let read = poll_read_buf(Pin::new(&mut self.socket), context, &mut into.limit(most));
        let count = ready!(read).map_err(|_| BodyError::Gone)?;
        if count == 0 {
            return Poll::Ready(Err(BodyError::Gone));
        }
        let left = left.saturating_sub(count as u64);
        self.body = if left == 0 { Decoder::Ended } else { Decoder::Length(left) };
        Poll::Ready(Ok(()))
    }

    /// Runs `work` until it is done, the request must end, or the client has gone.
    pub(crate) async fn race<T>(&mut self, work: impl Future<Output = T>) -> Result<T, End> {
        let mut work = std::pin::pin!(work);
        std::future::poll_fn(|context| match work.as_mut().poll(context) {
            Poll::Ready(done) => Poll::Ready(Ok(done)),
            Poll::Pending => match self.seat.end() {
                Some(end) => Poll::Ready(Err(end)),
                None if self.beat(context).is_err() => Poll::Ready(Err(End::Gone)),
                None => self.poll_gone(context).map(|()| Err(End::Gone)),
            },
        })
        .await
    }

    /// From now on, writes a comment whenever the client has seen nothing for `every_ms`, after a head with
    /// `fields` if the answer has not begun.
    pub(crate) fn keep_alive(&mut self, every_ms: u64, fields: Vec<u8>) {
        self.pulse = Some(Box::new(Pulse::new(every_ms, fields)));
    }

    /// Writes no more comments.
    pub(crate) fn stop_pulse(&mut self) {
        self.pulse = None;
    }

    /// Whether the head of the answer has been written.
    pub(crate) fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Writes a comment if it is time to and no event is half sent.
    ///
    /// # Errors
    /// When the client has gone.
    pub(crate) fn beat(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        let Some(pulse) = &mut self.pulse else { return Ok(()) };
        let next_ms = pulse.next_ms();
        if next_ms > clock::noted_ms() {
            self.seat.wake_by(next_ms);
            return Ok(());
        }
        let may_beat = pulse.may_beat() && !self.is_blocked;
        let fields = pulse.beat();
        self.seat.wake_by(pulse.next_ms());
        if !may_beat {
            return Ok(());
        }
        if !self.has_begun {
            let out = self.begin_head();
            write::status_line(out, 200);
            out.extend_from_slice(&fields);
            self.end_head(Framing::Chunked);
        }
        self.send(context, pulse::COMMENT, false)
    }

    /// Ready when the client has closed its side. What it sends meanwhile is kept for later, up to a bound.
    pub(crate) fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while self.inbox.len() < MAX_AHEAD_BYTES && self.body.is_ended() {
            if !ready!(self.poll_fill(context)).is_ok_and(|count| count > 0) {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }

    /// Reads more into the inbox.
    fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.inbox.capacity() == 0 {
            self.inbox = self.buffers.take();
        }
        let read = poll_read_buf(Pin::new(&mut self.socket), context, &mut self.inbox);
        self.release_inbox();
        read
    }

    fn release_inbox(&mut self) {
        if self.inbox.is_empty() {
            self.searched = 0;
            self.buffers.give(std::mem::take(&mut self.inbox));
        }
    }

    /// Takes back what a head was read in.
    pub(crate) fn recycle(&mut self, head: RequestHead) {
        let (bytes, fields) = head.into_parts();
        self.fields = fields;
        self.buffers.give(bytes);
    }

    /// Begins an answer; the caller writes the status line and its fields, then calls [`Client::end_head`].
    pub(crate) fn begin_head(&mut self) -> &mut Vec<u8> {
        // A body that is not wanted and not here ends the connection with the answer.
        self.persists &= self.body.is_ended();
        if self.outbox.capacity() == 0 {
            self.outbox = self.buffers.take();
        }
        &mut self.outbox
    }

    /// Ends the head of an answer whose body is delimited upstream as `framing` says, for a client of
    /// either version. Nothing is written to the socket yet.
    pub(crate) fn end_head(&mut self, framing: Framing) {
        self.has_begun = true;
        let delimiting = match framing {
            Framing::Length(_) => framing,
            Framing::Chunked | Framing::UntilClose if self.is_1_1 => Framing::Chunked,
            Framing::Chunked | Framing::UntilClose => Framing::UntilClose,
        };
        self.persists &= delimiting != Framing::UntilClose;
        write::field(&mut self.outbox, b"date", &clock::http_date());
        write::framing(&mut self.outbox, delimiting);
        match (self.persists, self.is_1_1) {
            (false, _) => self.outbox.extend_from_slice(b"connection: close\r\n\r\n"),
            (true, false) => self.outbox.extend_from_slice(b"connection: keep-alive\r\n\r\n"),
            (true, true) => self.outbox.extend_from_slice(b"\r\n"),
        }
        self.answer = match delimiting {
            _ if self.is_head => Delimiting::Silent,
            Framing::Length(_) => Delimiting::Silent,
            Framing::Chunked => Delimiting::Chunks,
            Framing::UntilClose => Delimiting::Close,
        };
    }

    /// Answers with what was made here.
    pub(crate) fn answer(&mut self, response: &Response<Bytes>) {
        if response.headers().get(http::header::CONNECTION).is_some() {
            self.persists = false;
        }
        let out = self.begin_head();
        write::status_line(out, response.status().as_u16());
        for (name, value) in response.headers() {
            if name != http::header::CONNECTION {
                write::field(out, name.as_str().as_bytes(), value.as_bytes());
            }
        }
        self.end_head(Framing::Length(response.body().len() as u64));
        if !self.is_head {
            self.outbox.extend_from_slice(response.body());
        }
    }

    /// Sends the next part of the answer; `ends` when it is the last. What the socket does not take now is
    /// kept for [`Client::poll_flush`].
    ///
    /// # Errors
    /// When the client has gone.
    pub(crate) fn send(&mut self, context: &mut Context<'_>, part: &[u8], ends: bool) -> io::Result<()> {
        let line = ChunkLine::new(part.len());
        let (before, after, last): (&[u8], &[u8], &[u8]) = match self.answer {
            Delimiting::Cut => return Ok(()),
            Delimiting::Silent | Delimiting::Close => (b"", b"", b""),
            Delimiting::Chunks if part.is_empty() => (b"", b"", if ends { LAST_CHUNK } else { b"" }),
            Delimiting::Chunks => (line.as_bytes(), b"\r\n", if ends { LAST_CHUNK } else { b"" }),
        };
        let part = if self.is_head { b"" } else { part };
        if let Some(pulse) = &mut self.pulse {
            pulse.sent(part);
        }
        let fresh = [before, part, after, last];
        let waiting = self.outbox.get(self.sent..).unwrap_or_default();
        let slices = [waiting, before, part, after, last].map(IoSlice::new);
        let taken = match Pin::new(&mut self.socket).poll_write_vectored(context, &slices) {
            Poll::Ready(taken) => taken?,
            Poll::Pending => 0,
        };
        let of_waiting = taken.min(waiting.len());
        self.sent += of_waiting;
        self.keep_unsent(fresh, taken - of_waiting);
        Ok(())
    }

    /// Keeps what is left of `pieces` after the first `taken` bytes.
    fn keep_unsent(&mut self, pieces: [&[u8]; 4], mut taken: usize) {
        if self.sent == self.outbox.len() && pieces.iter().map(|piece| piece.len()).sum::<usize>() == taken {
            return self.release_outbox();
        }
        self.is_blocked = true;
        if self.outbox.capacity() == 0 {
            self.outbox = self.buffers.take();
        }
        for piece in pieces {
            let skipped = taken.min(piece.len());
            taken -= skipped;
            self.outbox.extend_from_slice(piece.get(skipped..).unwrap_or_default());
        }
    }

    /// Ready when the socket has taken everything.
    pub(crate) fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(waiting) = self.outbox.get(self.sent..).filter(|waiting| !waiting.is_empty()) {
            match Pin::new(&mut self.socket).poll_write(context, waiting) {
                Poll::Ready(taken) => {
                    self.sent += taken?;
                    self.seat.takes();
                }
                Poll::Pending if self.seat.is_over() => {
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
        self.release_outbox();
        Poll::Ready(Ok(()))
    }

    /// Whether the client has yet to take a part that was sent before.
    pub(crate) fn is_blocked(&self) -> bool {
        self.is_blocked
    }

    fn release_outbox(&mut self) {
        self.is_blocked = false;
        self.sent = 0;
        self.outbox.clear();
        self.buffers.give(std::mem::take(&mut self.outbox));
    }

    /// Ends an answer before its end: with `event`, if there is one and its length was not told before, else by
    /// cutting it.
    pub(crate) async fn break_off(&mut self, event: Option<&[u8]>) {
        match event.filter(|_| matches!(self.answer, Delimiting::Chunks | Delimiting::Close)) {
            // A client that has gone meanwhile needs no event.
            Some(event) => {
                let _ = std::future::poll_fn(|context| Poll::Ready(self.send(context, event, true))).await;
            }
            None => self.cut(),
        }
    }

    /// Ends the answer and the connection here and now, so that nobody takes a part for the whole.
    pub(crate) fn cut(&mut self) {
        self.persists = false;
        self.release_outbox();
        if std::mem::replace(&mut self.answer, Delimiting::Cut) == Delimiting::Close {
            // It must not end like a whole one.
            let _ = socket2::SockRef::from(&self.socket).set_linger(Some(std::time::Duration::ZERO));
        }
    }

    /// Ends the connection.
    pub(crate) async fn close(mut self) {
        if self.answer == Delimiting::Cut {
            return;
        }
        let flushed = std::future::poll_fn(|context| self.poll_flush(context)).await;
        let must_linger = flushed.is_ok() && (!self.body.is_ended() || !self.inbox.is_empty());
        self.seat.expect(LINGER_MS);
        let mut lingered_bytes = 0;
        std::future::poll_fn(|context| {
            if self.seat.is_over() {
                return Poll::Ready(());
            }
            let _ = ready!(Pin::new(&mut self.socket).poll_shutdown(context));
            while must_linger && lingered_bytes < MAX_LINGER_BYTES {
                self.inbox.clear();
                match ready!(self.poll_fill(context)) {
                    Ok(count) if count > 0 => lingered_bytes += count,
                    _ => break,
                }
            }
            Poll::Ready(())
        })
        .await;
    }
}
