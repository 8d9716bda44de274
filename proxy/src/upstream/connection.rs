//! One connection to an upstream: a request goes out whole, and its answer is read part by part.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use tokio::io::AsyncWrite as _;
use tokio_util::io::poll_read_buf;

use super::stream::Stream;
use crate::http1::body::Decoder;
use crate::http1::buffers::Buffers;
use crate::http1::fields::{self, Fields};
use crate::http1::response::{BadHead, MAX_HEAD_BYTES, ResponseHead};

/// A connection that carries one request at a time.
pub struct Connection {
    stream: Stream,
    buffers: Rc<Buffers>,
    /// What was read and is not passed on: the head of the answer, then parts of its body.
    inbox: Vec<u8>,
    /// So many bytes of it hold no end of a head, or are a head.
    head_bytes: usize,
    /// Where the part of the body is that was found last.
    part: std::ops::Range<usize>,
    fields: Fields,
    head: Option<ResponseHead>,
    body: Decoder,
    /// Whether the request went out whole.
    is_sent: bool,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// The connection took nothing of the request.
    #[error("connection was closed before the request")]
    Unsent,
    /// The connection broke.
    #[error("connection broke before the answer")]
    Broken,
    /// What came is no answer.
    #[error(transparent)]
    BadHead(#[from] BadHead),
}

/// The answer broke off, or its framing did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("answer broke off")]
pub(crate) struct BrokenOff;

impl Connection {
    pub(super) fn new(stream: Stream, buffers: Rc<Buffers>) -> Self {
        let (inbox, fields) = (Vec::new(), Fields::default());
        let body = Decoder::Ended;
        Self { stream, buffers, inbox, head_bytes: 0, part: 0..0, fields, head: None, body, is_sent: true }
    }

    /// Sends a request, which is all `pieces` in their order, and waits for the head of its answer, which may come
    /// before all is sent.
    pub(crate) async fn ask<const N: usize>(&mut self, pieces: [&[u8]; N]) -> Result<ResponseHead, AskError> {
        self.begin();
        let mut sent = 0;
        std::future::poll_fn(|context| {
            let sending = self.poll_send(context, pieces, &mut sent);
            if let Poll::Ready(Err(_)) = sending
                && sent == 0
            {
                return Poll::Ready(Err(AskError::Unsent));
            }
            self.is_sent = matches!(sending, Poll::Ready(Ok(())));
            // An answer to a part of the request is an answer, and may be why the rest was not taken.
            self.poll_head(context, false)
        })
        .await
    }

    /// Forgets the last answer.
    pub(crate) fn begin(&mut self) {
        self.release();
        self.head = None;
        self.head_bytes = 0;
        self.is_sent = false;
    }

    /// Sends what is left of `pieces` after the first `sent` bytes.
    pub(crate) fn poll_send<const N: usize>(
        &mut self,
        context: &mut Context<'_>,
        pieces: [&[u8]; N],
        sent: &mut usize,
    ) -> Poll<io::Result<()>> {
        let length: usize = pieces.iter().map(|piece| piece.len()).sum();
        while *sent < length {
            let mut skipped = *sent;
            let slices = pieces.map(|piece| {
                let of_piece = skipped.min(piece.len());
                skipped -= of_piece;
                IoSlice::new(piece.get(of_piece..).unwrap_or_default())
            });
            match ready!(Pin::new(&mut self.stream).poll_write_vectored(context, &slices))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                taken => *sent += taken,
            }
        }
        Pin::new(&mut self.stream).poll_flush(context)
    }

    /// Notes that the request went out whole.
    pub(crate) fn end_request(&mut self) {
        self.is_sent = true;
    }

    /// The head of the answer. Interim ones are passed over.
    pub(crate) fn poll_head(
        &mut self,
        context: &mut Context<'_>,
        to_head: bool,
    ) -> Poll<Result<ResponseHead, AskError>> {
        loop {
            while let Some(head) = self.find_head(to_head)? {
                if !matches!(head.status, 100 | 102 | 103) {
                    self.body = if to_head { Decoder::Ended } else { Decoder::for_response(head.framing) };
                    self.head = Some(head);
                    self.part = self.head_bytes..self.head_bytes;
                    return Poll::Ready(Ok(head));
                }
                self.inbox.drain(..self.head_bytes);
                self.head_bytes = 0;
            }
            match ready!(self.poll_fill(context)) {
                Ok(count) if count > 0 => {}
                _ => return Poll::Ready(Err(AskError::Broken)),
            }
        }
    }

    fn find_head(&mut self, to_head: bool) -> Result<Option<ResponseHead>, BadHead> {
        let end = fields::find_end(&self.inbox, self.head_bytes)?;
        if end.unwrap_or(self.inbox.len()) > MAX_HEAD_BYTES {
            return Err(BadHead::TooLarge);
        }
        self.head_bytes = end.unwrap_or(self.inbox.len());
        let Some(head) = end.and_then(|end| self.inbox.get_mut(..end)) else { return Ok(None) };
        ResponseHead::read(head, &mut self.fields, to_head).map(Some)
    }

    /// The fields of the answer's head, names in lower case; only until a part of its body was asked for.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> + Clone {
        self.fields.iter(&self.inbox)
    }

    /// Whether a field of the answer's head is for this hop only (RFC 9110 §7.6.1).
    pub(crate) fn is_hop_by_hop(&self, name: &[u8]) -> bool {
        fields::is_hop_by_hop(name) || self.fields.connection_names(&self.inbox, name)
    }

    /// Finds the next part of the answer's body, which is then [`Connection::part`]; the last one may be
    /// empty.
    pub(crate) fn poll_part(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BrokenOff>> {
        loop {
            // Behind the head, or the last part, which are both passed on.
            let start = self.part.end;
            let fresh = self.inbox.get_mut(start..).unwrap_or_default();
            if !fresh.is_empty() {
                let decoded = self.body.decode(fresh).map_err(|_| BrokenOff)?;
                // What comes after an answer was asked for by nobody.
                self.is_sent &= decoded.taken == fresh.len();
                self.part = start..start + decoded.data;
                self.inbox.truncate(self.part.end);
                if decoded.data > 0 {
                    return Poll::Ready(Ok(()));
                }
            }
            self.release();
            if self.body.is_ended() {
                return Poll::Ready(Ok(()));
            }
            match ready!(self.poll_fill(context)) {
                Ok(count) if count > 0 => {}
                Ok(_) if self.body.close() => return Poll::Ready(Ok(())),
                _ => return Poll::Ready(Err(BrokenOff)),
            }
        }
    }

    /// The part that was found last.
    pub(crate) fn part(&self) -> &[u8] {
        self.inbox.get(self.part.clone()).unwrap_or_default()
    }

    /// Whether the answer has ended.
    pub(crate) fn is_ended(&self) -> bool {
        self.body.is_ended()
    }

    /// Lets go of what was passed on.
    pub(crate) fn release(&mut self) {
        self.part = 0..0;
        self.inbox.clear();
        self.buffers.give(std::mem::take(&mut self.inbox));
    }

    /// Whether the connection can carry another request: the last answer has ended cleanly, and neither
    /// side means to close.
    pub(crate) fn persists(&self) -> bool {
        self.is_sent && self.body.is_ended() && self.head.is_none_or(|head| head.persists)
    }

    /// Whether nothing has come since the connection was last used, not even its end.
    pub(crate) fn is_quiet(&mut self) -> bool {
        self.poll_fill(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.inbox.capacity() == 0 {
            self.inbox = self.buffers.take();
        }
        let read = poll_read_buf(Pin::new(&mut self.stream), context, &mut self.inbox);
        if self.inbox.is_empty() {
            self.release();
        }
        read
    }
}

#[cfg(test)]
mod tests;
