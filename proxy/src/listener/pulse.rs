//! Comments in a stream of events, for clients and front ends that cut a connection on which nothing comes.
//!
//! A comment is written only between events, so that no byte of the vendor's is torn apart, and only while the
//! vendor may still be waited for: whoever waits decides that.

use crate::clock;

/// A comment as the HTML standard has it; clients skip it unread.
pub(super) const COMMENT: &[u8] = b": keep-alive\n\n";

/// When a client saw something last, and whether an event is half sent.
pub(super) struct Pulse {
    every_ms: u64,
    last_ms: u64,
    /// The fields of the head that goes before the first comment, if the answer has not begun.
    fields: Vec<u8>,
    /// The last bytes that were sent.
    tail: [u8; 3],
}

impl Pulse {
    pub(super) fn new(every_ms: u64, fields: Vec<u8>) -> Self {
        Self { every_ms, last_ms: clock::noted_ms(), fields, tail: *b"\n\n\n" }
    }

    /// When the next comment is due, on the clock of [`clock::noted_ms`].
    pub(super) fn next_ms(&self) -> u64 {
        self.last_ms.saturating_add(self.every_ms)
    }

    /// Whether no event is half sent.
    pub(super) fn may_beat(&self) -> bool {
        let [_, before, last] = self.tail;
        (before, last) == (b'\n', b'\n') || (before, last) == (b'\r', b'\r') || self.tail == *b"\n\r\n"
    }

    /// Notes a comment, written or not; gives the fields of the head, the first time.
    pub(super) fn beat(&mut self) -> Vec<u8> {
        self.last_ms = clock::noted_ms();
        std::mem::take(&mut self.fields)
    }

    /// Notes what was sent.
    pub(super) fn sent(&mut self, part: &[u8]) {
        if part.is_empty() {
            return;
        }
        self.last_ms = clock::noted_ms();
        for byte in part.get(part.len().saturating_sub(3)..).unwrap_or_default() {
            let [_, before, last] = self.tail;
            self.tail = [before, last, *byte];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comment_may_stand_only_between_events() {
        for end in ["\n", "\r\n", "\r"] {
            let event = format!("event: ping{end}data: {{}}{end}{end}");
            for split in 0..=event.len() {
                let mut pulse = Pulse::new(1, Vec::new());
                let (before, after) = event.as_bytes().split_at(split);
                pulse.sent(before);
                let is_border = split == 0 || split == event.len();
                assert_eq!(pulse.may_beat(), is_border, "{end:?}, {split} of {} bytes", event.len());
                pulse.sent(after);
                assert!(pulse.may_beat(), "{end:?}, after {split} bytes and the rest");
            }
        }
    }
}
