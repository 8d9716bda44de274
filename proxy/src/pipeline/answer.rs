//! The beginning of a vendor's answer, held back for as long as another attempt may take its place.
//!
//! The body of a refusal is read as far as it is short, so that it can be understood. The start of a stream is
//! held until the message has begun, its time is over, or it has become long. What was held is passed on byte
//! for byte.

use std::task::{Context, Poll};

use la_core::account::Class;
use la_dialects::anthropic::start::{MAX_HELD_BYTES, Start, Verdict};
use la_dialects::anthropic::usage::{Observed, Observer};

use crate::clock;
use crate::http1::body::Framing;
use crate::http1::buffers::Buffers;
use crate::http1::response::ResponseHead;
use crate::http1::write::field;
use crate::listener::client::Client;
use crate::listener::seat::{End, Seat};
use crate::upstream::Connection;
use crate::upstream::connection::BrokenOff;

/// What may be seen of the vendor's head. Not its cookies, organisation or quotas: those are the owner's.
const FIELDS: [&[u8]; 7] = [
    b"content-type",
    b"content-encoding",
    b"cache-control",
    b"retry-after",
    b"x-should-retry",
    b"request-id",
    b"retry-after-ms",
];

/// An answer of which no byte was passed on.
pub(super) struct Answered {
    pub(super) status: u16,
    /// How its end is told.
    pub(super) framing: Framing,
    /// The fields that a client may see, as they stand in a head.
    pub(super) fields: Vec<u8>,
    pub(super) kind: ContentKind,
    /// To be kept once the answer has ended cleanly.
    pub(super) connection: Box<Connection>,
    /// The beginning of its body.
    pub(super) held: Vec<u8>,
    /// Whether the connection's part comes behind that, and was not passed on either.
    pub(super) has_part: bool,
}

/// What an answer calls itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ContentKind {
    /// `text/event-stream`.
    Events,
    /// `text/html`: nothing that the vendor's API ever says.
    Html,
    /// Anything else, or nothing.
    Other,
}

/// What came of holding a stream back.
pub(super) enum Held {
    /// It is to be passed on.
    Begun,
    /// It says that the request failed, and what that means.
    Failed(Class),
    /// It broke off before it said anything.
    Broken,
}

impl Answered {
    /// An answer whose head has come.
    pub(super) fn new(head: ResponseHead, connection: Box<Connection>, buffers: &Buffers) -> Self {
        let (kept, kind) = shown(&connection, buffers);
        let ResponseHead { status, framing, .. } = head;
        Self { status, framing, fields: kept, kind, connection, held: Vec::new(), has_part: false }
    }

    /// Reads the body as far as it is short. Says whether all of it came.
    ///
    /// # Errors
    /// Why the request must end, or the attempt took too long.
    pub(super) async fn read(&mut self, client: &mut Client) -> Result<bool, End> {
        let Self { connection, held, .. } = self;
        client
            .race(std::future::poll_fn(|context| {
                loop {
                    match connection.poll_part(context) {
                        Poll::Ready(Ok(())) => held.extend_from_slice(connection.part()),
                        Poll::Ready(Err(BrokenOff)) => return Poll::Ready(false),
                        Poll::Pending => return Poll::Pending,
                    }
                    if connection.is_ended() || held.len() >= MAX_HELD_BYTES {
                        return Poll::Ready(true);
                    }
                }
            }))
            .await
    }

    /// Holds the start of a stream back, at most for `hold_ms`.
    ///
    /// # Errors
    /// Why the request must end, or the attempt took too long.
    pub(super) async fn hold(
        &mut self,
        client: &mut Client,
        hold_ms: u64,
        buffers: &Buffers,
    ) -> Result<Held, End> {
        let seat = client.seat().clone();
        let until_ms = clock::noted_ms().saturating_add(hold_ms);
        let mut start = Start::default();
        client
            .race(std::future::poll_fn(|context| {
                self.poll_start(context, &mut start, (&seat, until_ms, buffers))
            }))
            .await
    }

    /// What was seen of a stream that was held back.
    pub(super) fn seen(&self) -> Observed {
        let mut observer = Observer::for_stream();
        observer.feed(&self.held);
        observer.finish()
    }

    fn poll_start(
        &mut self,
        context: &mut Context<'_>,
        start: &mut Start,
        (seat, until_ms, buffers): (&Seat, u64, &Buffers),
    ) -> Poll<Held> {
        loop {
            match self.connection.poll_part(context) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(BrokenOff)) => return Poll::Ready(Held::Broken),
                Poll::Pending if clock::noted_ms() >= until_ms => return Poll::Ready(Held::Begun),
                Poll::Pending => {
                    seat.wake_by(until_ms);
                    return Poll::Pending;
                }
            }
            let part = self.connection.part();
            let verdict = start.feed(part);
            let is_ended = self.connection.is_ended();
            if let Verdict::Begun = verdict {
                // The usual case: nothing was copied.
                self.has_part = true;
                return Poll::Ready(Held::Begun);
            }
            if self.held.capacity() == 0 {
                self.held = buffers.take();
            }
            self.held.extend_from_slice(part);
            match verdict {
                Verdict::Undecided if is_ended && self.framing == Framing::UntilClose => {
                    return Poll::Ready(Held::Broken);
                }
                Verdict::Undecided if is_ended || self.held.len() >= MAX_HELD_BYTES => {
                    return Poll::Ready(Held::Begun);
                }
                Verdict::Failed(class) => return Poll::Ready(Held::Failed(class)),
                Verdict::Undecided | Verdict::Begun => {}
            }
        }
    }
}

/// The fields of the vendor's head that a client may see, and what the answer calls itself.
fn shown(connection: &Connection, buffers: &Buffers) -> (Vec<u8>, ContentKind) {
    let (mut kept, mut kind) = (buffers.take(), ContentKind::Other);
    let fields = connection.fields();
    for (at, (name, value)) in fields.clone().enumerate() {
        // Each is a single value; of a repeated one the first counts.
        if FIELDS.contains(&name) && !fields.clone().take(at).any(|(earlier, _)| earlier == name) {
            if name == b"content-type" {
                kind = ContentKind::of(value);
            }
            field(&mut kept, name, value);
        }
    }
    (kept, kind)
}

impl ContentKind {
    fn of(value: &[u8]) -> Self {
        if value.starts_with(b"text/event-stream") {
            Self::Events
        } else if value.starts_with(b"text/html") {
            Self::Html
        } else {
            Self::Other
        }
    }
}
