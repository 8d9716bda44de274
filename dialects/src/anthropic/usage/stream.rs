//! The counts of a stream: in `message_start`, then in every `message_delta`.

use super::counts::{Seen, counts, model, object, stop_reason, type_in};
use super::{Fault, Observed};
use crate::sse::{Decoder, Event};

/// The events that matter here, the most frequent first. The others are neither kept nor read.
const NAMES: &[&str] = &[
    "content_block_delta",
    "content_block_start",
    "message_start",
    "message_delta",
    "message_stop",
    "error",
];

#[derive(Debug, Clone)]
pub(super) struct Watch {
    decoder: Decoder,
    started: bool,
    observed: Observed,
}

impl Watch {
    pub(super) fn new(limit_bytes: usize) -> Self {
        Self { decoder: Decoder::only(NAMES, limit_bytes), started: false, observed: Observed::default() }
    }

    pub(super) fn feed(&mut self, bytes: &[u8]) {
        let Self { decoder, started, observed } = self;
        decoder.feed(bytes, |event| observed.event(event, started));
    }

    pub(super) fn observed(&self) -> &Observed {
        &self.observed
    }

    pub(super) fn into_observed(self) -> Observed {
        let Self { decoder, mut observed, .. } = self;
        match decoder.unfinished() {
            Some(Event { name: "content_block_delta" | "content_block_start", is_cut: true, .. }) => {
                observed.emitted.is_hidden = true;
            }
            Some(Event { name: "content_block_delta", data, .. }) => observed.emitted.part_of_delta(data),
            Some(Event { name: "content_block_start", data, .. }) if !data.is_empty() => {
                observed.emitted.block(data);
            }
            _ => {}
        }
        observed
    }
}

impl Observed {
    fn event(&mut self, event: Event<'_>, started: &mut bool) {
        match event.name {
            "content_block_delta" if event.is_cut => self.emitted.is_hidden = true,
            "content_block_delta" => self.emitted.delta(event.data),
            "content_block_start" => self.emitted.block(event.data),
            "message_stop" => self.complete = true,
            "error" => self.fail(type_in(event.data, b"error")),
            // A second message's counts replace nothing: whatever it is, it is not the answer asked for.
            "message_start" if std::mem::replace(started, true) => self.fault(Fault::SecondMessage),
            _ if event.is_cut => self.fault(Fault::TooLarge),
            "message_start" => self.read(event.data, Self::start),
            _ => self.read(event.data, Self::delta),
        }
    }

    fn read(&mut self, data: &[u8], read: fn(&mut Self, &[u8]) -> Result<(), Fault>) {
        if let Err(fault) = read(self, data) {
            self.fault(fault);
        }
    }

    fn start(&mut self, data: &[u8]) -> Result<(), Fault> {
        let mut seen = Seen::default();
        let (mut used, mut name) = (None, None);
        object(data, |cursor, key| {
            if key != b"message" {
                return Ok(cursor.skip_value(1)?);
            }
            seen.once(0)?;
            if !cursor.take(b'{') {
                return Err(Fault::Unreadable);
            }
            cursor.members(|cursor, key| {
                match key {
                    b"usage" => used = seen.once(1).and_then(|()| counts(cursor))?,
                    b"model" => name = seen.once(2).and_then(|()| model(cursor))?,
                    _ => cursor.skip_value(2)?,
                }
                Ok(())
            })
        })?;
        self.model = name;
        used.iter().for_each(|used| self.count(used));
        if seen.has(0) { Ok(()) } else { Err(Fault::Unreadable) }
    }

    fn delta(&mut self, data: &[u8]) -> Result<(), Fault> {
        let mut seen = Seen::default();
        let (mut used, mut reason) = (None, None);
        object(data, |cursor, key| {
            match key {
                b"usage" => used = seen.once(0).and_then(|()| counts(cursor))?,
                b"delta" if cursor.peek() == Some(b'{') => {
                    seen.once(1)?;
                    cursor.take(b'{');
                    cursor.members(|cursor, key| {
                        match key {
                            b"stop_reason" => reason = stop_reason(cursor)?,
                            _ => cursor.skip_value(2)?,
                        }
                        Ok::<(), Fault>(())
                    })?;
                }
                _ => cursor.skip_value(1)?,
            }
            Ok(())
        })?;
        self.stop_reason = reason.or(self.stop_reason);
        if let Some(used) = used {
            self.has_final_output |= used.output.is_some();
            self.count(&used);
        }
        Ok(())
    }
}
