//! Stage 3: the body, whole, and what it says of itself.

use std::ops::Range;

use la_dialects::facts;

use crate::clock;
use crate::http1::body::Framing;
use crate::http1::request::RequestHead;
use crate::http1::violation::Violation;
use crate::listener::client::{BodyError, Client};
use crate::listener::seat::End;
use crate::listener::worker::{BodyShare, Worker};
use crate::refuse::{self, Refusal};

/// How long the next part of a body may take.
const PART_MS: u64 = 30_000;

/// Slowest a body may come after its first 30 s, in bytes per millisecond.
const LEAST_BYTES_PER_MS: u64 = 1;

/// Bytes to make room for when a client does not say how many come.
const UNANNOUNCED_BYTES: usize = 16 * 1024;

/// A body and what it says of itself.
pub(super) struct Content {
    /// The body, unless it came whole with its head and stays there.
    gathered: Option<Vec<u8>>,
    /// Where in it the model's name stands.
    model: Range<usize>,
    /// Its share of the memory for bodies.
    _share: BodyShare,
}

impl Content {
    /// What a request without a body has.
    pub(super) fn none(worker: &Worker) -> Self {
        Self { gathered: None, model: 0..0, _share: worker.bodies.share() }
    }

    /// The body as it came, given its head.
    pub(super) fn bytes<'a>(&'a self, head: &'a RequestHead) -> &'a [u8] {
        self.gathered.as_deref().unwrap_or(head.behind())
    }

    /// The model asked for.
    pub(super) fn model<'a>(&'a self, head: &'a RequestHead) -> &'a str {
        let name = self.bytes(head).get(self.model.clone());
        name.and_then(|name| std::str::from_utf8(name).ok()).unwrap_or_default()
    }
}

/// Reads a body and scans it.
pub(super) async fn content(
    worker: &Worker,
    client: &mut Client,
    head: &RequestHead,
) -> Result<Content, Refusal> {
    if head.all(b"content-encoding").any(|value| !value.eq_ignore_ascii_case(b"identity")) {
        return Err(Refusal::BodyCompressed);
    }
    let mut bounds = Bounds::begin(worker, head)?;
    let gathered = if client.body_is_read() { None } else { Some(gather(client, &mut bounds).await?) };
    let mut content = Content { gathered, model: 0..0, _share: bounds.share };
    content.model = facts::scan(content.bytes(head))?.model_span;
    Ok(content)
}

async fn gather(client: &mut Client, bounds: &mut Bounds) -> Result<Vec<u8>, Refusal> {
    let mut body = Vec::with_capacity(bounds.announced.unwrap_or(UNANNOUNCED_BYTES));
    while !client.body_is_read() {
        client.seat().begin_phase(PART_MS);
        if body.len() == body.capacity() {
            body.reserve(body.len());
        }
        client.body_part(&mut body).await.map_err(|error| match error {
            BodyError::Gone => Refusal::BodyBroken,
            BodyError::Malformed => Refusal::Head(Violation::Chunk),
            BodyError::Ended(End::Due | End::Overdue) => Refusal::BodySlow,
            BodyError::Ended(end) => refuse::ended(end, "", ""),
        })?;
        bounds.check(body.len())?;
    }
    Ok(body)
}

/// What a body may cost.
struct Bounds {
    share: BodyShare,
    announced: Option<usize>,
    max_bytes: usize,
    begun_ms: u64,
}

impl Bounds {
    fn begin(worker: &Worker, head: &RequestHead) -> Result<Self, Refusal> {
        let max_bytes = worker.max_body_bytes;
        let mut share = worker.bodies.share();
        let announced = match head.framing {
            Framing::Length(length) => Some(usize::try_from(length).unwrap_or(usize::MAX)),
            Framing::Chunked | Framing::UntilClose => None,
        };
        if announced.is_some_and(|announced| announced > max_bytes) {
            return Err(Refusal::BodyTooLarge { max_bytes });
        }
        if !share.grow_to(announced.unwrap_or(0)) {
            return Err(Refusal::NoMemory);
        }
        Ok(Self { share, announced, max_bytes, begun_ms: clock::noted_ms() })
    }

    /// Whether another part may be read after the ones so far.
    fn check(&mut self, size: usize) -> Result<(), Refusal> {
        if size > self.max_bytes {
            return Err(Refusal::BodyTooLarge { max_bytes: self.max_bytes });
        }
        if !self.share.grow_to(size) {
            return Err(Refusal::NoMemory);
        }
        let allowed_ms = PART_MS.saturating_add(size as u64 / LEAST_BYTES_PER_MS);
        if clock::noted_ms().saturating_sub(self.begun_ms) > allowed_ms {
            return Err(Refusal::BodySlow);
        }
        Ok(())
    }
}
