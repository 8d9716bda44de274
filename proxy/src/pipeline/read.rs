//! Stage 3: the body, whole, and what it says of itself.

use std::ops::Range;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use la_dialects::facts;

use crate::clock;
use crate::listener::seat::{End, Seat};
use crate::listener::worker::{BodyShare, Worker};
use crate::refuse::{self, Refusal};

/// How long the next part of a body may take.
const PART_MS: u64 = 30_000;

/// Slowest a body may come after its first 30 s, in bytes per millisecond.
const LEAST_BYTES_PER_MS: u64 = 1;

/// A body and what it says of itself.
pub(super) struct Content {
    /// The body as it came.
    pub(super) bytes: Bytes,
    /// Where in it the model's name stands.
    model: Range<usize>,
    /// Its share of the memory for bodies.
    pub(super) share: BodyShare,
}

impl Content {
    /// What a request without a body has.
    pub(super) fn none(worker: &Worker) -> Self {
        Self { bytes: Bytes::new(), model: 0..0, share: worker.bodies.share() }
    }

    /// The model asked for.
    pub(super) fn model(&self) -> &str {
        self.bytes.get(self.model.clone()).and_then(|name| std::str::from_utf8(name).ok()).unwrap_or_default()
    }
}

/// Reads a body and scans it.
pub(super) async fn content(
    worker: &Rc<Worker>,
    seat: &Seat,
    headers: &HeaderMap,
    body: Incoming,
) -> Result<Content, Refusal> {
    if headers
        .get_all(CONTENT_ENCODING)
        .iter()
        .any(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity"))
    {
        return Err(Refusal::BodyCompressed);
    }
    let mut share = worker.bodies.share();
    let bytes = collect(worker, seat, headers, body, &mut share).await?;
    let facts = facts::scan(&bytes)?;
    let model = facts.model_span.clone();
    Ok(Content { bytes, model, share })
}

async fn collect(
    worker: &Rc<Worker>,
    seat: &Seat,
    headers: &HeaderMap,
    mut body: Incoming,
    share: &mut BodyShare,
) -> Result<Bytes, Refusal> {
    let max_bytes = worker.max_body_bytes;
    let announced = announced(headers);
    if announced > max_bytes {
        return Err(Refusal::BodyTooLarge { max_bytes });
    }
    if !share.grow_to(announced) {
        return Err(Refusal::NoMemory);
    }
    let begun_ms = clock::noted_ms();
    let mut first = Bytes::new();
    let mut whole = BytesMut::new();
    while !body.is_end_stream() {
        seat.begin_phase(PART_MS);
        let Some(part) = seat.race(body.frame()).await.map_err(late)? else { break };
        let Ok(part) = part.map_err(|_| broken(seat))?.into_data() else { continue };
        let so_far = first.len() + whole.len();
        let size = so_far + part.len();
        if size > max_bytes {
            return Err(Refusal::BodyTooLarge { max_bytes });
        }
        if !share.grow_to(size) {
            return Err(Refusal::NoMemory);
        }
        if is_too_slow(size, begun_ms) {
            return Err(Refusal::BodySlow);
        }
        if so_far == 0 {
            first = part;
            continue;
        }
        if whole.is_empty() {
            whole.reserve(announced.max(size));
            whole.extend_from_slice(&std::mem::take(&mut first));
        }
        whole.extend_from_slice(&part);
    }
    // A body that came in one part, as most do, is not copied.
    Ok(if whole.is_empty() { first } else { whole.freeze() })
}

fn announced(headers: &HeaderMap) -> usize {
    let length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    length.and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn is_too_slow(bytes: usize, begun_ms: u64) -> bool {
    let allowed_ms = PART_MS.saturating_add(bytes as u64 / LEAST_BYTES_PER_MS);
    clock::noted_ms().saturating_sub(begun_ms) > allowed_ms
}

fn late(end: End) -> Refusal {
    match end {
        End::Due | End::Overdue => Refusal::BodySlow,
        other => refuse::ended(other, "", ""),
    }
}

fn broken(seat: &Seat) -> Refusal {
    seat.violation().map_or(Refusal::BodyBroken, Refusal::Head)
}
