//! The gateway's answer passes through, byte for byte and no faster than the client reads it.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{Response, response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use la_dialects::anthropic::error::{self, kinds};

use super::desk::{Desk, Sender};
use crate::listener::seat::{End, Seat};

/// How long the gateway may send nothing; longer than it lets a vendor by default.
const IDLE_MS: u64 = 330_000;

/// The body of an answer.
pub(super) enum Passing {
    /// Made here.
    Fixed(Option<Bytes>),
    /// The gateway's. Boxed, so that a connection without an answer is small.
    Relayed(Box<Relayed>),
}

/// An answer on its way.
pub(super) struct Relayed {
    desk: Rc<Desk>,
    seat: Rc<Seat>,
    /// `None` once it has ended.
    source: Option<(Incoming, Sender)>,
    is_stream: bool,
}

/// The answer ends here, although the gateway's did not.
#[derive(Debug, thiserror::Error)]
#[error("answer was cut: {0}")]
pub(super) struct Cut(&'static str);

/// What a relay needs besides the answer.
pub(super) struct Task {
    pub(super) desk: Rc<Desk>,
    pub(super) seat: Rc<Seat>,
    pub(super) sender: Sender,
}

/// Turns the gateway's answer into the client's.
pub(super) fn begin(task: Task, head: response::Parts, body: Incoming) -> Response<Passing> {
    let Task { desk, seat, sender } = task;
    let is_stream = head
        .headers
        .get(CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"))
        && !head.headers.contains_key(CONTENT_LENGTH);
    seat.begin_phase(IDLE_MS);
    let mut relayed = Relayed { desk, seat, source: Some((body, sender)), is_stream };
    relayed.end_if_complete();
    Response::from_parts(head, Passing::Relayed(Box::new(relayed)))
}

impl Passing {
    pub(super) fn fixed(bytes: Bytes) -> Self {
        Self::Fixed((!bytes.is_empty()).then_some(bytes))
    }
}

impl Relayed {
    fn end(&mut self, is_clean: bool) {
        let Some((_, sender)) = self.source.take() else { return };
        self.seat.leave_request();
        if is_clean {
            self.desk.keep(sender);
        }
        // Otherwise the connection is dropped with its sender, which cancels the request at the gateway.
    }

    fn end_if_complete(&mut self) {
        if self.source.as_ref().is_some_and(|(body, _)| body.is_end_stream()) {
            self.end(true);
        }
    }

    /// A stream ends with an error event; any other answer is cut, so that no client takes a part for the whole.
    fn break_off(&mut self, kind: &'static str, why: &'static str) -> Result<Frame<Bytes>, Cut> {
        let id = self.desk.next_id();
        tracing::warn!(request.id = %id, "an answer was cut: {why}");
        self.end(false);
        if self.is_stream {
            Ok(Frame::data(Bytes::from(error::event(kind, why, id.as_str()))))
        } else {
            Err(Cut(why))
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let Some((body, _)) = self.source.as_mut() else { return Poll::Ready(None) };
        match self.seat.end() {
            Some(End::Due | End::Overdue) => {
                return Poll::Ready(Some(self.break_off(kinds::TIMEOUT, "the gateway stopped sending")));
            }
            Some(End::Stopping | End::Revoked | End::Suspended) => {
                return Poll::Ready(Some(self.break_off(kinds::API, "the sidecar is stopping; try again")));
            }
            None => {}
        }
        match Pin::new(body).poll_frame(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) => {
                self.end(true);
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(_))) => {
                Poll::Ready(Some(self.break_off(kinds::API, "the gateway broke off its answer")))
            }
            Poll::Ready(Some(Ok(frame))) => {
                self.seat.begin_phase(IDLE_MS);
                self.end_if_complete();
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }
}

impl Body for Passing {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        match self.get_mut() {
            Self::Fixed(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Relayed(relayed) => relayed.poll(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Fixed(bytes) => bytes.is_none(),
            Self::Relayed(relayed) => relayed.source.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Fixed(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Relayed(relayed) => match &relayed.source {
                Some((body, _)) => body.size_hint(),
                None => SizeHint::with_exact(0),
            },
        }
    }
}

impl Drop for Relayed {
    fn drop(&mut self) {
        self.end(false);
    }
}
