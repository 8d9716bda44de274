//! Stage 3: the body, whole, and what it says of itself.

use std::borrow::Cow;
use std::ops::Range;

use la_core::budget::Limits;
use la_dialects::anthropic::bounds::{self, Extent};
use la_dialects::anthropic::session;
use la_dialects::facts::{self, Facts, FactsError};

use crate::clock;
use crate::config::live::ModelName;
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

/// A body.
pub(super) struct Body {
    /// All of it, unless it came whole with its head and stays there.
    gathered: Option<Vec<u8>>,
    /// Its share of the memory for bodies.
    _share: BodyShare,
}

/// A body and what it says of itself, and of its session together with its head.
pub(super) struct Content<'a> {
    /// The body as it came.
    pub(super) body: &'a [u8],
    /// Nothing for a request without a body.
    facts: Option<Facts<'a>>,
    /// How much it holds, where a limit asks for that.
    extent: Option<Extent<'a>>,
    /// The session that it belongs to.
    pub(super) session: Option<Cow<'a, str>>,
}

/// What a request for a message asks for.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    /// How many bytes it is in all.
    pub(super) body_bytes: usize,
    /// How much it holds, where a limit asks for that.
    pub(super) extent: Option<&'a Extent<'a>>,
    /// The model.
    pub(super) model: &'a str,
    /// Most output tokens.
    pub(super) max_tokens: u64,
    /// Whether the answer is to be a stream.
    pub(super) is_stream: bool,
}

impl Body {
    /// Scans it, given its head; where a limit of its caller `weighs`, with its extent.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn content<'a>(&'a self, head: &'a RequestHead, weighs: bool) -> Result<Content<'a>, Refusal> {
        let body = self.gathered.as_deref().unwrap_or(head.behind());
        let (facts, extent) = if weighs {
            let (facts, extent) = bounds::scan(body)?;
            (facts, Some(extent))
        } else {
            (facts::scan(body)?, None)
        };
        let session = session::session(head.fields(), &facts);
        Ok(Content { body, facts: Some(facts), extent, session })
    }
}

impl<'a> Content<'a> {
    /// What a request without a body says.
    pub(super) const NONE: Self = Self { body: b"", facts: None, extent: None, session: None };

    /// What a message asks for, of a caller who may ask for so much output.
    pub(super) fn message(&self, limits: &Limits) -> Result<Asked<'_>, Refusal> {
        let facts = self.facts.as_ref();
        let max_tokens = facts.and_then(|facts| facts.max_tokens).ok_or(FactsError::NoMaxTokens)?;
        if let Some(most) = limits.max_output_tokens.filter(|most| max_tokens > *most) {
            return Err(Refusal::OutputTooLarge { asked: max_tokens, most });
        }
        let (body_bytes, extent) = (self.body.len(), self.extent.as_ref());
        Ok(Asked { body_bytes, extent, model: self.model(), max_tokens, is_stream: self.is_stream() })
    }

    /// Whether the answer is to be a stream.
    pub(super) fn is_stream(&self) -> bool {
        self.facts.as_ref().is_some_and(|facts| facts.stream)
    }

    /// The body as it goes out, in three parts: before the model's name, the name that it has there, and the
    /// rest. All of it is in the first where the name stays as it is.
    pub(super) fn pieces<'b>(&'b self, renamed: Option<&'b ModelName>) -> [&'b [u8]; 3] {
        let parts = renamed.zip(self.facts.as_ref()).and_then(|(renamed, facts)| {
            let Range { start, end } = facts.model_span;
            Some([self.body.get(..start)?, renamed.json.as_bytes(), self.body.get(end..)?])
        });
        parts.unwrap_or([self.body, b"", b""])
    }

    /// The model asked for.
    pub(super) fn model(&self) -> &'a str {
        self.facts.as_ref().map_or("", |facts| facts.model)
    }
}

/// Reads a body, for a caller with some limits.
pub(super) async fn body(
    worker: &Worker,
    client: &mut Client,
    head: &RequestHead,
    limits: &Limits,
) -> Result<Body, Refusal> {
    if head.all(b"content-encoding").any(|value| !value.eq_ignore_ascii_case(b"identity")) {
        return Err(Refusal::BodyCompressed);
    }
    let mut bounds = Bounds::begin(worker, head, limits.max_request_bytes)?;
    let gathered = if client.body_is_read() { None } else { Some(gather(client, &mut bounds).await?) };
    Ok(Body { gathered, _share: bounds.share })
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
