//! Stage 3: the body, whole, and what it says of itself.

use std::ops::Range;

use la_core::budget::Limits;
use la_dialects::anthropic::bounds::BoundsError;
use la_dialects::facts::{self, Facts};

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
    max_tokens: Option<u64>,
    is_stream: bool,
    /// Its share of the memory for bodies.
    _share: BodyShare,
}

/// What a request for a message asks for.
pub(super) struct Asked<'a> {
    /// All of it.
    pub(super) body: &'a [u8],
    /// The model.
    pub(super) model: &'a str,
    /// Most output tokens.
    pub(super) max_tokens: u64,
    /// Whether the answer is to be a stream.
    pub(super) is_stream: bool,
}

impl Content {
    /// What a request without a body has.
    pub(super) fn none(worker: &Worker) -> Self {
        let _share = worker.bodies.share();
        Self { gathered: None, model: 0..0, max_tokens: None, is_stream: false, _share }
    }

    /// What a message asks for, of a caller who may ask for so much output.
    pub(super) fn message<'a>(
        &'a self,
        head: &'a RequestHead,
        limits: &Limits,
    ) -> Result<Asked<'a>, Refusal> {
        let max_tokens = self.max_tokens.ok_or(BoundsError::NoMaxTokens)?;
        if let Some(most) = limits.max_output_tokens.filter(|most| max_tokens > *most) {
            return Err(Refusal::OutputTooLarge { asked: max_tokens, most });
        }
        let (body, model) = (self.bytes(head), self.model(head));
        Ok(Asked { body, model, max_tokens, is_stream: self.is_stream })
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

/// Reads a body and scans it, for a caller with some limits.
pub(super) async fn content(
    worker: &Worker,
    client: &mut Client,
    head: &RequestHead,
    limits: &Limits,
) -> Result<Content, Refusal> {
    if head.all(b"content-encoding").any(|value| !value.eq_ignore_ascii_case(b"identity")) {
        return Err(Refusal::BodyCompressed);
    }
    let mut bounds = Bounds::begin(worker, head, limits.max_request_bytes)?;
    let gathered = if client.body_is_read() { None } else { Some(gather(client, &mut bounds).await?) };
    let mut content = Content { gathered, _share: bounds.share, ..Content::none(worker) };
    let Facts { model_span, max_tokens, stream, .. } = facts::scan(content.bytes(head))?;
    (content.model, content.max_tokens, content.is_stream) = (model_span, max_tokens, stream);
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
    /// Whether it is the caller who may send no more.
    is_own: bool,
    begun_ms: u64,
}

impl Bounds {
    fn begin(worker: &Worker, head: &RequestHead, own_bytes: Option<u64>) -> Result<Self, Refusal> {
        let own_bytes = own_bytes.map(|most| usize::try_from(most).unwrap_or(usize::MAX));
        let own_bytes = own_bytes.filter(|most| *most < worker.max_body_bytes);
        let (max_bytes, is_own) = (own_bytes.unwrap_or(worker.max_body_bytes), own_bytes.is_some());
        let mut share = worker.bodies.share();
        let announced = match head.framing {
            Framing::Length(length) => Some(usize::try_from(length).unwrap_or(usize::MAX)),
            Framing::Chunked | Framing::UntilClose => None,
        };
        if announced.is_some_and(|announced| announced > max_bytes) {
            return Err(Refusal::BodyTooLarge { max_bytes, is_own });
        }
        if !share.grow_to(announced.unwrap_or(0)) {
            return Err(Refusal::NoMemory);
        }
        Ok(Self { share, announced, max_bytes, is_own, begun_ms: clock::noted_ms() })
    }

    /// Whether another part may be read after the ones so far.
    fn check(&mut self, size: usize) -> Result<(), Refusal> {
        if size > self.max_bytes {
            return Err(Refusal::BodyTooLarge { max_bytes: self.max_bytes, is_own: self.is_own });
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
