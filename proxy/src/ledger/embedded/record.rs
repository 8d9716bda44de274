//! The journal's records: what a reservation, a settlement and a release look like as bytes.
//!
//! A record is the length of its payload (2 bytes), a CRC-32 over segment number, length and payload
//! (4 bytes), and the payload: a kind byte and its fields, integers little-endian, token counts in LEB128.
//! A segment names a slot's subject before it uses the slot, so each segment can be read by itself.

use la_core::id::Subject;
use la_core::usage::Usage;

/// Longest payload: a kind, a slot and the longest subject.
pub(super) const MAX_PAYLOAD_BYTES: usize = 1 + 4 + Subject::MAX_CHARACTERS;

/// Length and checksum before every payload.
pub(super) const FRAME_BYTES: usize = 6;

/// Room for a record that names no subject: frame, kind, slot, four LEB128 of 64 bits.
const SHORT_BYTES: usize = FRAME_BYTES + 1 + 4 + 4 * 10;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Record {
    /// From here on the slot is this subject's.
    Name { slot: u32, subject: Subject },
    /// One request is open.
    Reserve { slot: u32 },
    /// One open request is settled.
    Settle { slot: u32, tokens: Usage },
    /// One open request did not happen.
    Release { slot: u32 },
}

/// What is at the start of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A record, and how many bytes it takes.
    Record(Record, usize),
    /// No whole, sound record.
    Nothing,
}

/// A record as bytes, on the stack.
pub(in crate::ledger) struct Short {
    bytes: [u8; SHORT_BYTES],
    len: usize,
}

const NAME: u8 = 1;
const RESERVE: u8 = 2;
const SETTLE: u8 = 3;
const RELEASE: u8 = 4;

impl Short {
    pub(in crate::ledger) fn reserve(segment: u64, slot: u32) -> Self {
        Self::of(segment, RESERVE, slot, None)
    }

    pub(in crate::ledger) fn settle(segment: u64, slot: u32, tokens: &Usage) -> Self {
        Self::of(segment, SETTLE, slot, Some(tokens))
    }

    pub(in crate::ledger) fn release(segment: u64, slot: u32) -> Self {
        Self::of(segment, RELEASE, slot, None)
    }

    pub(in crate::ledger) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    fn of(segment: u64, kind: u8, slot: u32, tokens: Option<&Usage>) -> Self {
        let mut short = Self { bytes: [0; SHORT_BYTES], len: FRAME_BYTES };
        short.push(kind);
        slot.to_le_bytes().into_iter().for_each(|byte| short.push(byte));
        if let Some(tokens) = tokens {
            for count in counts(tokens) {
                short.push_number(count);
            }
        }
        let frame = frame(segment, short.as_bytes().get(FRAME_BYTES..).unwrap_or_default());
        if let Some(place) = short.bytes.get_mut(..FRAME_BYTES) {
            place.copy_from_slice(&frame);
        }
        short
    }

    fn push_number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.push((number & 0x7f) as u8 | 0x80);
            number >>= 7;
        }
        self.push(number as u8);
    }

    fn push(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.len) {
            *place = byte;
            self.len += 1;
        }
    }
}

/// The record that names a slot. Rare: once per subject and segment.
pub(in crate::ledger) fn name(segment: u64, slot: u32, subject: &Subject) -> Vec<u8> {
    let mut payload = vec![NAME];
    payload.extend_from_slice(&slot.to_le_bytes());
    payload.extend_from_slice(subject.as_str().as_bytes());
    let mut bytes = frame(segment, &payload).to_vec();
    bytes.append(&mut payload);
    bytes
}

/// Reads the record at the start of `bytes`.
pub(super) fn read(segment: u64, bytes: &[u8]) -> Found {
    let Some((head, rest)) = bytes.split_first_chunk::<FRAME_BYTES>() else { return Found::Nothing };
    let len = usize::from(u16::from_le_bytes([head[0], head[1]]));
    let Some(payload) = rest.get(..len).filter(|_| len <= MAX_PAYLOAD_BYTES) else { return Found::Nothing };
    if frame(segment, payload) != *head {
        return Found::Nothing;
    }
    match parse(payload) {
        Some(record) => Found::Record(record, FRAME_BYTES + len),
        None => Found::Nothing,
    }
}

fn parse(payload: &[u8]) -> Option<Record> {
    let (kind, rest) = payload.split_first()?;
    let (slot, rest) = rest.split_first_chunk::<4>()?;
    let slot = u32::from_le_bytes(*slot);
    match (*kind, rest.is_empty()) {
        (NAME, false) => {
            let text = String::from_utf8(rest.to_vec()).ok()?;
            Some(Record::Name { slot, subject: Subject::try_from(text).ok()? })
        }
        (RESERVE, true) => Some(Record::Reserve { slot }),
        (SETTLE, false) => Some(Record::Settle { slot, tokens: tokens(rest)? }),
        (RELEASE, true) => Some(Record::Release { slot }),
        _ => None,
    }
}

fn counts(tokens: &Usage) -> [u64; 4] {
    [tokens.input_tokens, tokens.cache_write_tokens, tokens.cache_read_tokens, tokens.output_tokens]
}

fn tokens(mut bytes: &[u8]) -> Option<Usage> {
    let mut next = || number(&mut bytes);
    let tokens = Usage {
        input_tokens: next()?,
        cache_write_tokens: next()?,
        cache_read_tokens: next()?,
        output_tokens: next()?,
    };
    bytes.is_empty().then_some(tokens)
}

fn number(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// Length and checksum of a payload. The segment's number is in it, so no other segment's record passes.
fn frame(segment: u64, payload: &[u8]) -> [u8; FRAME_BYTES] {
    let len = (payload.len() as u16).to_le_bytes();
    let state = crc32(u32::MAX, &segment.to_le_bytes());
    let sum = (!crc32(crc32(state, &len), payload)).to_le_bytes();
    [len[0], len[1], sum[0], sum[1], sum[2], sum[3]]
}

/// CRC-32 as in IEEE 802.3, without the final inversion.
fn crc32(state: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(state, |state, byte| {
        let at = usize::from((state as u8) ^ byte);
        TABLE.get(at).copied().unwrap_or_default() ^ (state >> 8)
    })
}

static TABLE: [u32; 256] = {
    let mut table = [0_u32; 256];
    let mut at = 0;
    while at < 256 {
        let mut value = at as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { 0xedb8_8320 ^ (value >> 1) } else { value >> 1 };
            bit += 1;
        }
        table[at] = value;
        at += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    fn usage() -> Usage {
        Usage { input_tokens: 0, cache_write_tokens: 127, cache_read_tokens: u64::MAX, output_tokens: 300 }
    }

    #[test]
    fn checksum_is_the_published_crc_32() {
        assert_eq!(!crc32(u32::MAX, b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn every_record_reads_back_and_says_its_length() {
        let subject = Subject::try_from("p".repeat(Subject::MAX_CHARACTERS)).unwrap();
        let cases = [
            (Short::reserve(7, 1).as_bytes().to_vec(), Record::Reserve { slot: 1 }),
            (Short::release(7, u32::MAX).as_bytes().to_vec(), Record::Release { slot: u32::MAX }),
            (Short::settle(7, 3, &usage()).as_bytes().to_vec(), Record::Settle { slot: 3, tokens: usage() }),
            (name(7, 9, &subject), Record::Name { slot: 9, subject }),
        ];
        for (mut bytes, record) in cases {
            let len = bytes.len();
            bytes.extend_from_slice(b"whatever follows");
            assert_eq!(read(7, &bytes), Found::Record(record, len));
            assert_eq!(read(8, &bytes), Found::Nothing, "a record of another segment passed");
        }
    }

    #[test]
    fn record_that_is_cut_or_changed_is_not_read() {
        let good = Short::settle(1, 3, &usage()).as_bytes().to_vec();
        for end in 0..good.len() {
            assert_eq!(read(1, &good[..end]), Found::Nothing, "cut at {end}");
        }
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                assert_eq!(read(1, &bad), Found::Nothing, "bit {bit} of byte {at}");
            }
        }
    }
}
