//! The counts of a stream: in `message_start`, then in every `message_delta`.

use super::counts::{ErrorEvent, Holder, MessageStart};
use super::{Fault, Observed};
use crate::sse::{Decoder, Event};

/// The events that matter here. The others are neither kept nor read.
const NAMES: &[&str] = &["message_start", "message_delta", "message_stop", "error"];

#[derive(Debug)]
pub(super) struct Watch {
    decoder: Decoder,
    seen: Seen,
}

#[derive(Debug, Default)]
struct Seen {
    started: bool,
    observed: Observed,
}

impl Watch {
    pub(super) fn new(limit_bytes: usize) -> Self {
        Self { decoder: Decoder::only(NAMES, limit_bytes), seen: Seen::default() }
    }

    pub(super) fn feed(&mut self, bytes: &[u8]) {
        let seen = &mut self.seen;
        self.decoder.feed(bytes, |event| seen.event(event));
    }

    pub(super) fn observed(&self) -> &Observed {
        &self.seen.observed
    }

    pub(super) fn into_observed(self) -> Observed {
        self.seen.observed
    }
}

impl Seen {
    fn event(&mut self, event: Event<'_>) {
        match event.name {
            "message_stop" => self.observed.complete = true,
            // What an error says beyond its type does not matter, not even whether it is whole.
            "error" => match serde_json::from_slice::<ErrorEvent<'_>>(event.data) {
                Ok(read) => self.observed.fail(&read.error),
                Err(_) => self.observed.error = Some("unknown_error".to_owned()),
            },
            _ if event.is_cut => self.observed.fault(Fault::TooLarge),
            "message_start" => self.start(event.data),
            _ => match serde_json::from_slice::<Holder>(event.data) {
                Ok(delta) => self.observed.count(delta.usage),
                Err(_) => self.observed.fault(Fault::Unreadable),
            },
        }
    }

    /// A second message's counts replace nothing: whatever it is, it is not the answer that was asked for.
    fn start(&mut self, data: &[u8]) {
        if std::mem::replace(&mut self.started, true) {
            return self.observed.fault(Fault::SecondMessage);
        }
        match serde_json::from_slice::<MessageStart>(data) {
            Ok(start) => self.observed.count(start.message.usage),
            Err(_) => self.observed.fault(Fault::Unreadable),
        }
    }
}
