//! The field lines of a head, read where they lie.

use std::ops::Range;
use std::sync::LazyLock;

use memchr::memmem::Finder;
use memchr::{memchr, memchr_iter};

use super::violation::Violation;

/// Most fields of a head.
const MAX_FIELDS: usize = 100;

/// Most bytes of a head that can be read at all: places in it are 16 bits wide.
pub(crate) const MAX_READABLE_BYTES: usize = u16::MAX as usize;

/// Fields of one connection, or of one message on it (RFC 9110 §7.6.1).
const HOP_BY_HOP: [&[u8]; 9] = [
    b"connection",
    b"keep-alive",
    b"proxy-connection",
    b"proxy-authenticate",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
    b"content-length",
];

/// Where the fields of one head are. Names are in lower case once they are read.
#[derive(Debug, Default)]
pub(crate) struct Fields(Vec<Field>);

#[derive(Debug, Clone, Copy)]
struct Field {
    name: Place,
    value: Place,
}

/// A place in a head.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    start: u16,
    end: u16,
}

impl Place {
    /// A place; what lies behind the readable bytes is an empty one.
    pub(crate) fn new(range: Range<usize>) -> Self {
        match (u16::try_from(range.start), u16::try_from(range.end)) {
            (Ok(start), Ok(end)) => Self { start, end },
            _ => Self::default(),
        }
    }

    /// What is there.
    pub(crate) fn of(self, head: &[u8]) -> &[u8] {
        head.get(usize::from(self.start)..usize::from(self.end)).unwrap_or_default()
    }
}

impl Fields {
    /// Reads the field lines of `head` from `start` on, up to its empty line, and puts the names in lower
    /// case.
    ///
    /// # Errors
    /// The first rule that they break.
    pub(crate) fn read(&mut self, head: &mut [u8], mut start: usize) -> Result<(), Violation> {
        self.0.clear();
        let is_clean = has_line_ends_only(head.get(start..).unwrap_or_default());
        loop {
            let rest = head.get(start..).unwrap_or_default();
            let feed = memchr(b'\n', rest).ok_or(Violation::BareLineFeed)?;
            let line = rest.get(..feed).and_then(|line| line.strip_suffix(b"\r"));
            let line = line.ok_or(Violation::BareLineFeed)?;
            if line.is_empty() {
                return Ok(());
            }
            if self.0.len() == MAX_FIELDS {
                return Err(Violation::TooManyFields);
            }
            if !is_clean {
                no_controls(line)?;
            }
            let end = start + line.len();
            self.read_line(head, start..end)?;
            start = end + 2;
        }
    }

    fn read_line(&mut self, head: &mut [u8], at: Range<usize>) -> Result<(), Violation> {
        let line = head.get_mut(at.clone()).unwrap_or_default();
        let colon = lower_name(line);
        match line.get(colon) {
            Some(b':') if colon > 0 => {}
            Some(b' ' | b'\t') if colon == 0 => return Err(Violation::FoldedField),
            _ => return Err(Violation::FieldName),
        }
        let value = line.get(colon + 1..).unwrap_or_default();
        let value_start = value.trim_ascii_start();
        let start = at.end - value_start.len();
        self.0.push(Field {
            name: Place::new(at.start..at.start + colon),
            value: Place::new(start..start + value_start.trim_ascii_end().len()),
        });
        Ok(())
    }

    /// Every field of `head`, with its value trimmed.
    pub(crate) fn iter<'a>(&'a self, head: &'a [u8]) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone {
        self.0.iter().map(|field| (field.name.of(head), field.value.of(head)))
    }

    /// Whether `connection` of `head` names a field.
    pub(crate) fn connection_names(&self, head: &[u8], name: &[u8]) -> bool {
        self.all(head, b"connection")
            .flat_map(|value| value.split(|b| *b == b','))
            .any(|option| option.trim_ascii().eq_ignore_ascii_case(name))
    }

    /// The values of `name`, which is in lower case.
    pub(crate) fn all<'a>(
        &'a self,
        head: &'a [u8],
        name: &'a [u8],
    ) -> impl Iterator<Item = &'a [u8]> + Clone {
        self.iter(head).filter(move |(found, _)| *found == name).map(|(_, value)| value)
    }
}

/// Whether a field is for this hop only, whatever `connection` says.
pub(crate) fn is_hop_by_hop(name: &[u8]) -> bool {
    HOP_BY_HOP.contains(&name)
}

/// What `connection` says of a head's connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Persistence {
    close: bool,
    keep_alive: bool,
    /// Whether it names fields of the head.
    pub(crate) names_fields: bool,
}

impl Persistence {
    /// Adds what one value of `connection` says.
    pub(crate) fn add(&mut self, value: &[u8]) {
        for option in value.split(|b| *b == b',') {
            match option.trim_ascii() {
                option if option.eq_ignore_ascii_case(b"close") => self.close = true,
                option if option.eq_ignore_ascii_case(b"keep-alive") => self.keep_alive = true,
                option => self.names_fields |= !option.is_empty(),
            }
        }
    }

    /// Whether the connection carries another message (RFC 9112 §9.3).
    pub(crate) fn lasts(self, is_1_1: bool) -> bool {
        !self.close && (is_1_1 || self.keep_alive)
    }
}

/// The end of the head that `bytes` starts with, when the first `searched` bytes hold none.
///
/// # Errors
/// When a line does not end in CR LF, as soon as that is seen; in a head that is complete, by [`Fields::read`].
pub(crate) fn find_end(bytes: &[u8], searched: usize) -> Result<Option<usize>, Violation> {
    static END: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\r\n\r\n"));
    let from = searched.saturating_sub(3);
    let fresh = bytes.get(from..).unwrap_or_default();
    if let Some(at) = END.find(fresh) {
        return Ok(Some(from + at + 4));
    }
    let is_bare = |feed: usize| (from + feed).checked_sub(1).and_then(|at| bytes.get(at)) != Some(&b'\r');
    if memchr_iter(b'\n', fresh).any(is_bare) { Err(Violation::BareLineFeed) } else { Ok(None) }
}

/// Whether a byte is a control character that no line may hold: any but the tab. Without a branch, so that many bytes
/// are judged at a time.
const fn is_control(b: u8) -> bool {
    ((b < b' ') & (b != b'\t')) | (b == 0x7f)
}

/// Refuses every control character but the tab in a line without its end. Without an early return, because
/// that is many times faster than byte by byte.
///
/// # Errors
/// When there is one.
pub(crate) fn no_controls(line: &[u8]) -> Result<(), Violation> {
    let found = line.iter().fold(false, |found, b| found | is_control(*b));
    if found { Err(Violation::ControlCharacter) } else { Ok(()) }
}

/// Whether there are as many carriage returns, and other control characters but the tab, as line feeds: then lines that
/// each end in CR LF hold none. Counted over all lines, because each line's beginning and end cost more than its middle.
fn has_line_ends_only(lines: &[u8]) -> bool {
    /// So many bytes at most that their count fits into one.
    const COUNTED: usize = 112;
    // A line feed is a control character too.
    let worth = |b: u8| i8::from(is_control(b)) - 2 * i8::from(b == b'\n');
    let surplus = |some: &[u8]| i32::from(some.iter().fold(0_i8, |sum, b| sum + worth(*b)));
    lines.chunks(COUNTED).map(surplus).sum::<i32>() == 0
}

/// Puts the name that a line begins with in lower case, and says how long it is. The line holds no control character.
fn lower_name(line: &mut [u8]) -> usize {
    let mut length = 0;
    let (words, _) = line.as_chunks_mut::<8>();
    for bytes in words {
        let given = u64::from_le_bytes(*bytes);
        let name = NameBytes::of(given);
        // Most names come in lower case, and what was just written is slow to read again.
        if name.lowered != given {
            *bytes = name.lowered.to_le_bytes();
        }
        length += name.length;
        if name.length < 8 {
            break;
        }
    }
    // A name's rare characters, and the end of a short line.
    for b in line.iter_mut().skip(length) {
        let Some(lower) = name_byte(*b) else { break };
        *b = lower;
        length += 1;
    }
    length
}

/// What eight bytes begin with that is usual in a name: letters, digits and hyphens.
struct NameBytes {
    length: usize,
    /// All eight, these in lower case.
    lowered: u64,
}

impl NameBytes {
    /// All eight at a time: they are added to so that what is in a range reaches the top bit of its byte, or does not.
    fn of(word: u64) -> Self {
        const ONES: u64 = 0x0101_0101_0101_0101;
        const TOPS: u64 = 0x8080_8080_8080_8080;
        /// What a small letter has, and a capital has not; so do digits and the hyphen, which nothing but a control
        /// character turns into by it.
        const SMALL: u64 = ONES * 0x20;
        let small = (word | SMALL) & !TOPS;
        let reaches = |least: u8| small + ONES * u64::from(0x80 - least);
        let within = |first: u8, last: u8| reaches(first) & !reaches(last + 1);
        let usual = within(b'a', b'z') | within(b'0', b'9') | within(b'-', b'-');
        let others = (!usual | word) & TOPS;
        let below_others = ((others & others.wrapping_neg()) >> 7).wrapping_sub(1);
        Self { length: (others.trailing_zeros() / 8) as usize, lowered: word | (SMALL & below_others) }
    }
}

/// The value of a `content-length`: digits only.
pub(crate) fn length(value: &[u8]) -> Option<u64> {
    /// 10^18 bytes.
    const MAX_DIGITS: usize = 18;
    let good = (1..=MAX_DIGITS).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
    good.then(|| value.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}

/// A byte of a field name or method (RFC 9110 §5.6.2), in lower case.
pub(crate) fn name_byte(b: u8) -> Option<u8> {
    LOWER.get(usize::from(b)).copied().filter(|b| *b != 0)
}

/// Every byte of a token in lower case, and 0 for every other.
const LOWER: [u8; 256] = {
    let mut table = [0; 256];
    let mut at = 0;
    while at < 256 {
        #[expect(clippy::cast_possible_truncation, reason = "`at` is below 256")]
        let b = at as u8;
        let mark = matches!(
            b,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        );
        if b.is_ascii_alphanumeric() || mark {
            table[at] = b.to_ascii_lowercase();
        }
        at += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_lowered_and_values_trimmed_in_place() {
        let mut head = b"X-Api-Key:  a b \t\r\nempty:\r\nX-API-KEY: c\r\n\r\nbody".to_vec();
        let mut fields = Fields::default();
        fields.read(&mut head, 0).unwrap();
        let found: Vec<_> = fields.iter(&head).collect();
        let name = &b"x-api-key"[..];
        assert_eq!(found, [(name, &b"a b"[..]), (&b"empty"[..], &b""[..]), (name, &b"c"[..])]);
        assert_eq!(fields.all(&head, name).collect::<Vec<_>>(), [&b"a b"[..], b"c"]);
    }

    #[test]
    fn every_byte_of_a_name_is_judged_and_lowered_wherever_it_stands() {
        for at in 0..20 {
            for b in (0..=u8::MAX).filter(|b| !b.is_ascii_control()) {
                let mut line = b"Abcdefghijklmnopqrst: v".to_vec();
                line[at] = b;
                let mut byte_by_byte = line.clone();
                let length = byte_by_byte.iter().take_while(|b| name_byte(**b).is_some()).count();
                byte_by_byte[..length].make_ascii_lowercase();
                assert_eq!(lower_name(&mut line), length, "{at} {b}");
                assert_eq!(line, byte_by_byte, "{at} {b}");
            }
        }
    }

    #[test]
    fn control_character_is_found_wherever_it_stands() {
        let good = b"name: value\tand more\r\n".repeat(20);
        assert!(has_line_ends_only(&good));
        for b in (0..=u8::MAX).filter(|b| b.is_ascii_control() && *b != b'\t') {
            for at in (0..good.len()).step_by(7).filter(|at| !good[*at].is_ascii_control()) {
                let mut head = good.clone();
                head[at] = b;
                assert!(!has_line_ends_only(&head), "{b} at {at}");
                let read = Fields::default().read(&mut [&head[..], b"\r\n"].concat(), 0);
                assert!(read.is_err(), "{b} at {at}");
            }
        }
    }

    #[test]
    fn a_field_is_for_one_hop_by_its_name_or_because_connection_names_it() {
        let mut head = b"connection: close, X-Secret\r\nx-secret: a\r\nx-other: b\r\n\r\n".to_vec();
        let mut fields = Fields::default();
        fields.read(&mut head, 0).unwrap();
        assert!(fields.connection_names(&head, b"x-secret") && !fields.connection_names(&head, b"x-other"));
        assert!(is_hop_by_hop(b"te") && !is_hop_by_hop(b"x-secret"));
    }

    #[test]
    fn a_connection_lasts_as_its_version_and_options_say() {
        for (values, is_1_1, lasts) in [
            (&[][..], true, true),
            (&[][..], false, false),
            (&["Keep-Alive"][..], false, true),
            (&["x, Close"][..], true, false),
            (&["keep-alive", "close"][..], false, false),
        ] {
            let mut persistence = Persistence::default();
            values.iter().for_each(|value| persistence.add(value.as_bytes()));
            assert_eq!(persistence.lasts(is_1_1), lasts, "{values:?} {is_1_1}");
        }
    }

    #[test]
    fn bare_line_feed_is_found_before_the_head_is_complete() {
        assert_eq!(find_end(b"GET / HTTP/1.1\nhost", 0), Err(Violation::BareLineFeed));
        assert_eq!(find_end(b"\nGET / HTTP/1.1\r\n", 0), Err(Violation::BareLineFeed));
        assert_eq!(find_end(b"GET / HTTP/1.1\r\nhost: x\r\n\r\nrest", 7), Ok(Some(27)));
        assert_eq!(find_end(b"GET / HTTP/1.1\r\nhost: x\r\n\r", 0), Ok(None));
    }
}
