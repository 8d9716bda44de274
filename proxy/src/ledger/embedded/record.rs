//! The journal's records: what a reservation, a settlement and a release look like as bytes.
//!
//! A record is a CRC-32C over segment number, length and payload (4 bytes), the length of the payload (2 bytes),
//! and the payload: a kind byte and its fields. An integer takes a byte for each seven bits, nine at most, and as
//! many zero bits as follow the first byte stand below its lowest one, so that neither side looks at every byte.
//! A segment names a meter, and the period that it is in, before it uses the meter, so each segment can be read by
//! itself.

use crc32c::{crc32c, crc32c_append};
use la_core::amount::{Amounts, Unit};
use la_core::budget::{Spent, Taken, Window};
use la_core::id::Subject;
use la_core::usage::Usage;

/// Longest payload that is read: some 500 budgets over one request.
pub(super) const MAX_PAYLOAD_BYTES: usize = 16 * 1024;

/// Checksum and length before every payload.
pub(super) const FRAME_BYTES: usize = SUM_BYTES + 2;

/// The checksum, which is over all that follows it.
const SUM_BYTES: usize = 4;

/// Most bytes that an integer takes.
const MOST_NUMBER_BYTES: usize = 9;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Record {
    /// From here on the place is this meter's.
    Meter { place: u32, unit: Unit, window: Window, subject: Subject },
    /// The meter is in the period that begins then.
    Period { place: u32, start_ms: u64 },
    /// A request has taken these amounts of these meters, its caller's requests first, besides what it has taken
    /// before.
    Reserve { hold: u32, taken: Vec<(u32, u64)> },
    /// A request is settled or, when nothing was spent, released. What that does to its meters follows from what it
    /// has taken of them.
    End { hold: u32, spent: Option<Spent> },
    /// The requests that are open are named next. Takes nothing.
    Holds,
    /// A request that is open has taken this.
    Hold { hold: u32, taken: Vec<Taken> },
}

/// What is at the start of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A record, and how many bytes it takes.
    Record(Record, usize),
    /// No whole, sound record.
    Nothing,
}

/// Records of one segment, to be handed to the kernel by one write.
#[derive(Debug, Default)]
pub(in crate::ledger) struct Batch {
    bytes: Vec<u8>,
    /// [`seed`] of the segment.
    seed: u32,
    /// Where the record begins that is being written.
    begun: usize,
}

const METER: u8 = 1;
const PERIOD: u8 = 2;
const RESERVE: u8 = 3;
const SETTLE: u8 = 4;
const RELEASE: u8 = 5;
const HOLDS: u8 = 6;
const HOLD: u8 = 7;

impl Batch {
    /// Room for records of the segment with this [`seed`].
    pub(in crate::ledger) fn for_segment(seed: u32) -> Self {
        Self { seed, ..Self::default() }
    }

    /// Empties it for records of the segment with this [`seed`], and keeps its memory.
    pub(in crate::ledger) fn clear(&mut self, seed: u32) {
        self.bytes.clear();
        self.seed = seed;
    }

    pub(in crate::ledger) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(in crate::ledger) fn meter(&mut self, place: u32, unit: Unit, window: &Window, subject: &Subject) {
        let window = window.to_string();
        self.begin(METER);
        self.number(place.into());
        self.bytes.push(unit_code(unit));
        self.number(window.len() as u64);
        self.bytes.extend_from_slice(window.as_bytes());
        self.bytes.extend_from_slice(subject.as_str().as_bytes());
        self.end();
    }

    pub(in crate::ledger) fn period(&mut self, place: u32, start_ms: u64) {
        self.begin(PERIOD);
        self.number(place.into());
        self.number(start_ms);
        self.end();
    }

    /// `hold` is what the request is called while it is open.
    pub(in crate::ledger) fn reserve(&mut self, hold: u32, taken: impl Iterator<Item = (u32, u64)>) {
        self.begin(RESERVE);
        self.number(hold.into());
        for (meter, amount) in taken {
            self.number(meter.into());
            self.number(amount);
        }
        self.end();
    }

    pub(in crate::ledger) fn holds(&mut self) {
        self.begin(HOLDS);
        self.end();
    }

    /// `period_of` gives the beginning of the period that a meter is in.
    pub(in crate::ledger) fn hold(&mut self, hold: u32, taken: &[Taken], period_of: impl Fn(u32) -> u64) {
        self.begin(HOLD);
        self.number(hold.into());
        for Taken { meter, start_ms, amount } in taken {
            self.number((*meter).into());
            self.number(period_of(*meter).saturating_sub(*start_ms));
            self.number(*amount);
        }
        self.end();
    }

    pub(in crate::ledger) fn settle(&mut self, hold: u32, spent: &Spent) {
        let Amounts { requests, tokens, nano_usd } = spent.amounts;
        let Usage { input_tokens, cache_write_tokens, cache_read_tokens, output_tokens } = spent.tokens;
        self.begin(SETTLE);
        self.number(hold.into());
        let kinds = [input_tokens, cache_write_tokens, cache_read_tokens, output_tokens];
        for count in [requests, tokens, nano_usd].into_iter().chain(kinds) {
            self.number(count);
        }
        self.end();
    }

    pub(in crate::ledger) fn release(&mut self, hold: u32) {
        self.begin(RELEASE);
        self.number(hold.into());
        self.end();
    }

    fn begin(&mut self, kind: u8) {
        self.begun = self.bytes.len();
        self.bytes.extend_from_slice(&[0, 0, 0, 0, 0, 0, kind]);
    }

    /// A payload of 64 KiB or more has no length, and reads as nothing.
    fn end(&mut self) {
        let record = self.bytes.get_mut(self.begun..).unwrap_or_default();
        let len = record.len().saturating_sub(FRAME_BYTES) as u16;
        let Some((sum, summed)) = record.split_first_chunk_mut::<SUM_BYTES>() else { return };
        if let Some(place) = summed.first_chunk_mut() {
            *place = len.to_le_bytes();
        }
        *sum = crc32c_append(self.seed, summed).to_le_bytes();
    }

    #[inline]
    fn number(&mut self, number: u64) {
        // Most are places, and amounts of nothing or one.
        match u8::try_from(number) {
            Ok(small) if small < 0x80 => self.bytes.push(small << 1 | 1),
            _ => self.long_number(number),
        }
    }

    #[inline(never)]
    fn long_number(&mut self, number: u64) {
        let bits = u64::BITS - (number | 1).leading_zeros();
        let bytes = bits.div_ceil(7);
        if bytes as usize >= MOST_NUMBER_BYTES {
            self.bytes.push(0);
            self.bytes.extend_from_slice(&number.to_le_bytes());
            return;
        }
        let marked = (number << bytes) | (1 << (bytes - 1));
        let end = self.bytes.len() + bytes as usize;
        // One store of eight bytes, of which the first count.
        self.bytes.extend_from_slice(&marked.to_le_bytes());
        self.bytes.truncate(end);
    }
}

/// Reads the record at the start of `bytes`. `period_of` gives the beginning of the period a meter is in, by
/// the records before.
pub(super) fn read(seed: u32, bytes: &[u8], period_of: impl Fn(u32) -> u64) -> Found {
    let Some(payload) = sound_payload(seed, bytes) else { return Found::Nothing };
    match parse(payload, period_of) {
        Some(record) => Found::Record(record, FRAME_BYTES + payload.len()),
        None => Found::Nothing,
    }
}

/// The payload of a record that is whole and has its checksum.
fn sound_payload(seed: u32, bytes: &[u8]) -> Option<&[u8]> {
    let (sum, summed) = bytes.split_first_chunk::<SUM_BYTES>()?;
    let (len, _) = summed.split_first_chunk()?;
    let len = usize::from(u16::from_le_bytes(*len));
    let summed = summed.get(..size_of::<u16>() + len).filter(|_| len <= MAX_PAYLOAD_BYTES)?;
    let is_sound = crc32c_append(seed, summed).to_le_bytes() == *sum;
    summed.get(size_of::<u16>()..).filter(|_| is_sound)
}

fn parse(payload: &[u8], period_of: impl Fn(u32) -> u64) -> Option<Record> {
    let (kind, mut rest) = payload.split_first()?;
    let bytes = &mut rest;
    match *kind {
        METER => {
            let place = place(bytes)?;
            let (unit, after) = bytes.split_first()?;
            *bytes = after;
            let window_bytes = usize::try_from(number(bytes)?).ok()?;
            let (window, subject) = bytes.split_at_checked(window_bytes)?;
            let window = std::str::from_utf8(window).ok()?.parse().ok()?;
            let subject = Subject::try_from(String::from_utf8(subject.to_vec()).ok()?).ok()?;
            Some(Record::Meter { place, unit: unit_of(*unit)?, window, subject })
        }
        PERIOD => {
            let record = Record::Period { place: place(bytes)?, start_ms: number(bytes)? };
            bytes.is_empty().then_some(record)
        }
        RESERVE => {
            let (hold, mut taken) = (place(bytes)?, Vec::new());
            while !bytes.is_empty() {
                taken.push((place(bytes)?, number(bytes)?));
            }
            Some(Record::Reserve { hold, taken })
        }
        SETTLE => {
            let hold = place(bytes)?;
            let amounts =
                Amounts { requests: number(bytes)?, tokens: number(bytes)?, nano_usd: number(bytes)? };
            let tokens = Usage {
                input_tokens: number(bytes)?,
                cache_write_tokens: number(bytes)?,
                cache_read_tokens: number(bytes)?,
                output_tokens: number(bytes)?,
            };
            let record = Record::End { hold, spent: Some(Spent { amounts, tokens }) };
            bytes.is_empty().then_some(record)
        }
        RELEASE => {
            let record = Record::End { hold: place(bytes)?, spent: None };
            bytes.is_empty().then_some(record)
        }
        HOLDS => bytes.is_empty().then_some(Record::Holds),
        HOLD => {
            let hold = place(bytes)?;
            let mut taken = Vec::new();
            while !bytes.is_empty() {
                let meter = place(bytes)?;
                let start_ms = period_of(meter).checked_sub(number(bytes)?)?;
                taken.push(Taken { meter, start_ms, amount: number(bytes)? });
            }
            Some(Record::Hold { hold, taken })
        }
        _ => None,
    }
}

fn place(bytes: &mut &[u8]) -> Option<u32> {
    u32::try_from(number(bytes)?).ok()
}

fn number(bytes: &mut &[u8]) -> Option<u64> {
    let zeros = bytes.first()?.trailing_zeros() as usize;
    let (number, rest) = bytes.split_at_checked(zeros + 1)?;
    *bytes = rest;
    let mut word = [0; size_of::<u64>()];
    let is_marked = zeros < MOST_NUMBER_BYTES - 1;
    let digits = if is_marked { number } else { number.get(1..)? };
    word.get_mut(..digits.len())?.copy_from_slice(digits);
    let word = u64::from_le_bytes(word);
    Some(if is_marked { word >> (zeros + 1) } else { word })
}

const fn unit_code(unit: Unit) -> u8 {
    match unit {
        Unit::Requests => 0,
        Unit::Tokens => 1,
        Unit::Usd => 2,
    }
}

fn unit_of(code: u8) -> Option<Unit> {
    Unit::ALL.into_iter().find(|unit| unit_code(*unit) == code)
}

/// What the checksums of a segment's records begin with, so that no other segment's record passes.
pub(super) fn seed(segment: u64) -> u32 {
    crc32c(&segment.to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const START_MS: u64 = 1_800_000_000_000;

    fn spent() -> Spent {
        let tokens = Usage {
            input_tokens: 0,
            cache_write_tokens: 127,
            cache_read_tokens: u64::MAX,
            output_tokens: 300,
        };
        Spent { tokens, amounts: Amounts { requests: 1, tokens: u64::MAX, nano_usd: 7_000_000 } }
    }

    fn taken(meter: u32, start_ms: u64, amount: u64) -> Taken {
        Taken { meter, start_ms, amount }
    }

    fn batch(write: impl FnOnce(&mut Batch)) -> Vec<u8> {
        let mut batch = Batch::default();
        batch.clear(seed(7));
        write(&mut batch);
        batch.as_bytes().to_vec()
    }

    fn settle() -> Vec<u8> {
        batch(|batch| batch.settle(300, &spent()))
    }

    #[test]
    fn checksum_is_the_published_crc_32c() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn every_integer_reads_back_from_as_many_bytes_as_it_needs() {
        let borders = (0..64).flat_map(|bit| [(1_u64 << bit) - 1, 1 << bit, (1 << bit) + 1]);
        for number in borders.chain([u64::MAX - 1, u64::MAX]) {
            let mut batch = Batch::default();
            batch.number(number);
            let bits = (u64::BITS - number.leading_zeros()).max(1) as usize;
            assert_eq!(batch.bytes.len(), bits.div_ceil(7).min(MOST_NUMBER_BYTES), "{number}");
            let mut bytes = batch.as_bytes();
            assert_eq!((super::number(&mut bytes), bytes), (Some(number), &[][..]), "{number}");
            assert_eq!(super::number(&mut &batch.bytes[..batch.bytes.len() - 1]), None, "{number}, cut");
        }
    }

    #[test]
    fn every_record_reads_back_and_says_its_length() {
        let subject = Subject::try_from("p".repeat(Subject::MAX_CHARACTERS)).unwrap();
        let window: Window = "Day@America/Argentina/Buenos_Aires".parse().unwrap();
        let held = [taken(1, START_MS, 1), taken(2, START_MS - 7, 0)];
        let cases = [
            (
                batch(|batch| batch.meter(u32::MAX, Unit::Usd, &window, &subject)),
                Record::Meter {
                    place: u32::MAX,
                    unit: Unit::Usd,
                    window: window.clone(),
                    subject: subject.clone(),
                },
            ),
            (batch(|batch| batch.period(1, START_MS)), Record::Period { place: 1, start_ms: START_MS }),
            (
                batch(|batch| batch.reserve(200, [(1, 1), (300, 200_000)].into_iter())),
                Record::Reserve { hold: 200, taken: vec![(1, 1), (300, 200_000)] },
            ),
            (settle(), Record::End { hold: 300, spent: Some(spent()) }),
            (batch(Batch::holds), Record::Holds),
            (
                batch(|batch| batch.hold(3, &held, |_| START_MS)),
                Record::Hold { hold: 3, taken: held.to_vec() },
            ),
            (batch(|batch| batch.release(u32::MAX)), Record::End { hold: u32::MAX, spent: None }),
        ];
        for (mut bytes, record) in cases {
            let len = bytes.len();
            bytes.extend_from_slice(b"whatever follows");
            assert_eq!(read(seed(7), &bytes, |_| START_MS), Found::Record(record, len));
            assert_eq!(
                read(seed(8), &bytes, |_| START_MS),
                Found::Nothing,
                "a record of another segment passed"
            );
        }
    }

    #[test]
    fn record_that_is_cut_or_changed_is_not_read() {
        let good = settle();
        for end in 0..good.len() {
            assert_eq!(read(seed(7), &good[..end], |_| START_MS), Found::Nothing, "cut at {end}");
        }
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                assert_eq!(read(seed(7), &bad, |_| START_MS), Found::Nothing, "bit {bit} of byte {at}");
            }
        }
    }

    #[test]
    fn request_under_four_budgets_takes_forty_nine_bytes() {
        let amounts = Amounts { requests: 1, tokens: 40_000, nano_usd: 120_000_000 };
        let parts = [1, amounts.tokens, amounts.nano_usd, amounts.nano_usd, 1];
        let reserve = batch(|batch| batch.reserve(9, (0..).zip(parts)));
        let tokens = Usage { input_tokens: 30_000, output_tokens: 300, ..Usage::default() };
        let settle = batch(|batch| batch.settle(9, &Spent { amounts, tokens }));
        assert_eq!((reserve.len(), settle.len()), (26, 23));
    }
}
