//! The body of an answer: bytes made here, or a vendor's passing through.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::relay::{Cut, Relay};

/// A body.
pub struct Answer(Source);

enum Source {
    Fixed(Option<Bytes>),
    Relayed(Box<Relay>),
}

impl Answer {
    /// These bytes.
    pub fn fixed(bytes: Bytes) -> Self {
        Self(Source::Fixed((!bytes.is_empty()).then_some(bytes)))
    }

    /// What a vendor sends.
    pub(super) fn relayed(relay: Box<Relay>) -> Self {
        Self(Source::Relayed(relay))
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        match &mut self.get_mut().0 {
            Source::Fixed(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Source::Relayed(relay) => Pin::new(relay.as_mut()).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Source::Fixed(bytes) => bytes.is_none(),
            Source::Relayed(relay) => relay.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Source::Fixed(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Source::Relayed(relay) => relay.size_hint(),
        }
    }
}
