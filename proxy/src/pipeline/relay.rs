//! Stages 10 and 11: the answer passes through, byte for byte and no faster than the client reads it, and
//! whatever its ending, the request is settled once.
//!
//! The counts in it are observed on the way. A stream that must end early ends with an error event; any
//! other answer is cut, so that no client takes a part for the whole.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, TRANSFER_ENCODING,
};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use la_dialects::anthropic::usage::Observer;

use crate::config::live::ProviderEntry;
use crate::listener::seat::{End, Seat};
use crate::listener::worker::Worker;
use crate::observe::line::Line;
use crate::observe::metrics::{Failure, Kind};
use crate::refuse::{self, Ending, X_REQUEST_ID, X_SHOULD_RETRY};
use crate::upstream::Sender;

use super::admit::Admitted;
use super::forward::Answered;

/// Most bytes kept of one member of a JSON answer while looking for its counts.
const MAX_JSON_PART_BYTES: usize = 32 * 1024;

/// What may be seen of the vendor's head. Not its cookies, organisation or quotas: those are the owner's.
const ANSWER_FIELDS: [HeaderName; 7] = [
    CONTENT_TYPE,
    CONTENT_ENCODING,
    CACHE_CONTROL,
    RETRY_AFTER,
    X_SHOULD_RETRY,
    HeaderName::from_static("request-id"),
    HeaderName::from_static("retry-after-ms"),
];

/// An answer on its way.
pub(super) struct Relay {
    worker: Rc<Worker>,
    seat: Rc<Seat>,
    provider: Arc<ProviderEntry>,
    admitted: Admitted,
    line: Line,
    status: StatusCode,
    /// `None` once it has ended.
    source: Option<(Incoming, Sender)>,
    observer: Option<Observer>,
    is_stream: bool,
    /// Whether its end is told by its framing, not by the end of the connection.
    is_delimited: bool,
}

/// Why an answer was cut.
#[derive(Debug, thiserror::Error)]
#[error("answer was cut: {0:?}")]
pub struct Cut(Ending);

/// What a relay needs besides the answer.
pub(super) struct Task {
    /// The thread.
    pub(super) worker: Rc<Worker>,
    /// The client's connection.
    pub(super) seat: Rc<Seat>,
    /// The vendor.
    pub(super) provider: Arc<ProviderEntry>,
    /// What is to be settled.
    pub(super) admitted: Admitted,
}

/// Turns the vendor's answer into the client's.
pub(super) fn begin(task: Task, answered: Answered, line: Line) -> Response<Box<Relay>> {
    let Task { worker, seat, provider, admitted } = task;
    let Answered { response, sender } = answered;
    let (head, source) = response.into_parts();
    let headers = headers(&head.headers, &line);
    let is_stream = head.status == StatusCode::OK
        && head
            .headers
            .get(CONTENT_TYPE)
            .is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"));
    let observer = (line.kind == Kind::Messages && head.status == StatusCode::OK)
        .then(|| if is_stream { Observer::for_stream() } else { Observer::for_json(MAX_JSON_PART_BYTES) });
    let is_delimited =
        head.headers.contains_key(CONTENT_LENGTH) || head.headers.contains_key(TRANSFER_ENCODING);
    worker.metrics.open_streams.inc();
    seat.begin_phase(provider.timeouts.idle_ms);
    // Boxed, so that a connection without an answer is small.
    let mut relay = Box::new(Relay {
        worker,
        seat,
        provider,
        admitted,
        line,
        status: head.status,
        source: Some((source, sender)),
        observer,
        is_stream,
        is_delimited,
    });
    relay.end_if_complete();
    let mut response = Response::new(relay);
    *response.status_mut() = head.status;
    *response.headers_mut() = headers;
    response
}

fn headers(vendor: &HeaderMap, line: &Line) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(ANSWER_FIELDS.len());
    for (name, value) in vendor {
        if ANSWER_FIELDS.contains(name) {
            headers.entry(name).or_insert_with(|| value.clone());
        }
    }
    if let Ok(id) = HeaderValue::from_str(line.id.as_str()) {
        headers.insert(X_REQUEST_ID, id);
    }
    headers
}

impl Relay {
    /// Settles everything. Whatever comes first decides; later calls change nothing.
    fn settle(&mut self, outcome: &str, is_clean: bool) {
        let Some((incoming, sender)) = self.source.take() else { return };
        let usage = self.observer.take().and_then(|observer| observer.finish().usage);
        self.admitted.settle(usage.unwrap_or_default());
        self.line.conclude(self.status.as_u16(), outcome, usage.as_ref());
        self.worker.metrics.open_streams.dec();
        self.seat.leave_request();
        drop(incoming);
        if is_clean {
            self.worker.pool.put(&self.provider.endpoint.place, sender);
        }
        // Otherwise the connection is dropped with its sender, which cancels the request at the vendor.
    }

    fn end_if_complete(&mut self) {
        if self.source.as_ref().is_some_and(|(incoming, _)| incoming.is_end_stream()) {
            self.settle("complete", true);
        }
    }

    /// Ends the answer before its end.
    fn break_off(&mut self, ending: Ending) -> Option<Result<Frame<Bytes>, Cut>> {
        let outcome = match ending {
            Ending::Reset => "upstream broke off",
            Ending::Ended(End::Due) => "upstream stalled",
            Ending::Ended(End::Overdue) => "took too long",
            Ending::Ended(End::Revoked) => "token revoked",
            Ending::Ended(End::Suspended) => "token suspended",
            Ending::Ended(End::Stopping) => "router stopped",
        };
        match ending {
            Ending::Reset => self.worker.metrics.failure(Failure::Reset),
            Ending::Ended(End::Due) => self.worker.metrics.failure(Failure::Stall),
            Ending::Ended(_) => {}
        }
        let id = self.line.id;
        self.settle(outcome, false);
        Some(if self.is_stream { Ok(Frame::data(refuse::event(ending, id))) } else { Err(Cut(ending)) })
    }

    /// The source says that it has ended.
    fn finish(&mut self) -> Option<Result<Frame<Bytes>, Cut>> {
        let is_whole = self.observer.as_ref().is_none_or(|observer| {
            let seen = observer.so_far();
            seen.complete || seen.error.is_some()
        });
        if !self.is_delimited && !is_whole {
            // Only the end of the connection says that this answer has ended, and its text says it has not.
            return self.break_off(Ending::Reset);
        }
        self.settle("complete", true);
        None
    }
}

impl Body for Relay {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let relay = &mut *self;
        loop {
            let Some((source, _)) = relay.source.as_mut() else { return Poll::Ready(None) };
            if let Some(end) = relay.seat.end() {
                return Poll::Ready(relay.break_off(Ending::Ended(end)));
            }
            let frame = match Pin::new(source).poll_frame(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(relay.finish()),
                Poll::Ready(Some(Err(_))) => return Poll::Ready(relay.break_off(Ending::Reset)),
                Poll::Ready(Some(Ok(frame))) => frame,
            };
            // Trailers are nothing that a client of this API expects.
            let Ok(bytes) = frame.into_data() else { continue };
            if let Some(observer) = &mut relay.observer {
                observer.feed(&bytes);
            }
            relay.seat.begin_phase(relay.provider.timeouts.idle_ms);
            relay.end_if_complete();
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
    }

    fn is_end_stream(&self) -> bool {
        self.source.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.source.as_ref().map_or_else(|| SizeHint::with_exact(0), |(incoming, _)| incoming.size_hint())
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.settle("client gone", false);
    }
}
