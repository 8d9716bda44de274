//! Server-sent events, read from bytes as they come.
//!
//! Any split of a stream gives the same events. CR, LF and CRLF end a line, a byte order mark at the very
//! beginning is skipped, comments and unknown fields are ignored, and an event without its empty line is
//! no event, all as in the HTML standard. Memory is bounded: what an event has beyond the limit is not kept.
//!
//! An event that is written in the usual way and comes in one piece is not copied.

use memchr::memchr2;

/// One event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event<'a> {
    /// Its name; `message` when it has none.
    pub name: &'a str,
    /// Its data lines, joined by LF.
    pub data: &'a [u8],
    /// Whether the data had more than the limit, or began before the name made it wanted, and is incomplete.
    pub is_cut: bool,
}

/// Reads events incrementally.
#[derive(Debug, Clone)]
pub struct Decoder {
    limit_bytes: usize,
    wanted: Option<&'static [&'static str]>,
    mark: usize,
    after_cr: bool,
    line: Line,
    head: Vec<u8>,
    name: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    is_cut: bool,
}

/// Where in a line the next byte stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    /// In the field's name.
    Head,
    /// After the colon of a field, where one space is skipped.
    Colon(Field),
    /// In the value of a field.
    Value(Field),
    /// In a field or comment that means nothing here.
    Ignored,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Name,
    Data,
}

const BYTE_ORDER_MARK: [u8; 3] = [0xef, 0xbb, 0xbf];

/// Longest event name and field name that is told apart from others.
const MAX_NAME_BYTES: usize = 64;

/// Above this, an event's memory is given back once it has been read: streams live long.
const KEPT_BYTES: usize = 1024;

impl Decoder {
    /// A decoder that keeps at most `max_event_bytes` of each event's data.
    pub fn new(max_event_bytes: usize) -> Self {
        Self {
            limit_bytes: max_event_bytes,
            wanted: None,
            mark: 0,
            after_cr: false,
            line: Line::Head,
            head: Vec::new(),
            name: Vec::new(),
            data: Vec::new(),
            has_data: false,
            is_cut: false,
        }
    }

    /// A decoder that reports only events called one of `names`, and keeps nothing of any other.
    ///
    /// An event whose name comes after its data is reported as cut if the data was not kept.
    pub fn only(names: &'static [&'static str], max_event_bytes: usize) -> Self {
        Self { wanted: Some(names), ..Self::new(max_event_bytes) }
    }

    /// Reads the next bytes and reports every event that they complete.
    pub fn feed(&mut self, bytes: &[u8], mut on: impl FnMut(Event<'_>)) {
        let mut rest = self.skip_mark(bytes);
        while let Some(first) = rest.first() {
            if let Some((name, data, after)) = self.usual(rest) {
                if let Some(name) = self.wanted_name(name) {
                    on(Event { name, data, is_cut: false });
                }
                rest = after;
                continue;
            }
            if std::mem::take(&mut self.after_cr) && *first == b'\n' {
                rest = rest.get(1..).unwrap_or_default();
                continue;
            }
            rest = match self.line {
                Line::Head => self.read_head(rest, &mut on),
                Line::Colon(field) => {
                    self.line = Line::Value(field);
                    rest.strip_prefix(b" ").unwrap_or(rest)
                }
                Line::Value(_) | Line::Ignored => self.read_value(rest),
            };
        }
    }

    /// The event that has begun and not ended, with what is kept of its data so far.
    pub fn unfinished(&self) -> Option<Event<'_>> {
        let name = self.wanted_name(&self.name).filter(|_| self.has_data)?;
        Some(Event { name, data: &self.data, is_cut: self.is_cut })
    }

    /// Takes an event whole that is written in the usual way: a line with its name, a line with its data and
    /// an empty line, all ended by LF. Gives its name, its data and what follows.
    fn usual<'b>(&self, bytes: &'b [u8]) -> Option<(&'b [u8], &'b [u8], &'b [u8])> {
        let is_between = self.line == Line::Head && self.head.is_empty() && self.name.is_empty();
        if !is_between || self.has_data || self.after_cr {
            return None;
        }
        let bytes = bytes.strip_prefix(b"event: ")?;
        let (name, bytes) = bytes.split_at(memchr2(b'\n', b'\r', bytes)?);
        let bytes = bytes.strip_prefix(b"\ndata: ")?;
        let (data, bytes) = bytes.split_at(memchr2(b'\n', b'\r', bytes)?);
        let bytes = bytes.strip_prefix(b"\n\n")?;
        (name.len() <= MAX_NAME_BYTES && data.len() <= self.limit_bytes).then_some((name, data, bytes))
    }

    /// Skips a byte order mark, whose bytes may come one by one, at the very beginning.
    fn skip_mark<'b>(&mut self, mut bytes: &'b [u8]) -> &'b [u8] {
        while let (Some(expected), Some((first, rest))) =
            (BYTE_ORDER_MARK.get(self.mark), bytes.split_first())
        {
            if first == expected {
                self.mark += 1;
                bytes = rest;
                continue;
            }
            // Not a mark after all: what was skipped begins the first line's field name.
            self.head.extend(BYTE_ORDER_MARK.iter().take(self.mark));
            self.mark = BYTE_ORDER_MARK.len();
        }
        bytes
    }

    /// Reads a field's name, to its colon or the end of the line.
    fn read_head<'b>(&mut self, bytes: &'b [u8], on: &mut impl FnMut(Event<'_>)) -> &'b [u8] {
        if self.head.is_empty() {
            // The two usual beginnings, whole: nearly every line of a stream.
            if let Some(rest) = bytes.strip_prefix(b"data:") {
                self.begin_field(b"data");
                return rest;
            }
            if let Some(rest) = bytes.strip_prefix(b"event:") {
                self.begin_field(b"event");
                return rest;
            }
        }
        let is_end = |b: &u8| matches!(b, b':' | b'\n' | b'\r');
        let length = bytes.iter().position(is_end).unwrap_or(bytes.len());
        let (part, rest) = bytes.split_at(length);
        let room = MAX_NAME_BYTES.saturating_sub(self.head.len());
        self.head.extend(part.iter().take(room));
        let Some((end, rest)) = rest.split_first() else { return rest };
        if *end == b':' {
            let head = std::mem::take(&mut self.head);
            self.begin_field(&head);
            return rest;
        }
        self.after_cr = *end == b'\r';
        if self.head.is_empty() {
            self.dispatch(on);
        } else {
            // A line without a colon is a field with an empty value.
            let head = std::mem::take(&mut self.head);
            self.begin_field(&head);
            self.line = Line::Head;
        }
        rest
    }

    fn begin_field(&mut self, head: &[u8]) {
        self.line = match head {
            b"event" => {
                self.name.clear();
                Line::Colon(Field::Name)
            }
            b"data" => {
                if self.has_data {
                    self.keep(b"\n");
                }
                self.has_data = true;
                Line::Colon(Field::Data)
            }
            _ => Line::Ignored,
        };
    }

    /// Reads a value, to the end of the line or of the bytes.
    fn read_value<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let end = memchr2(b'\n', b'\r', bytes);
        let (part, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
        match self.line {
            Line::Value(Field::Data) => self.keep(part),
            Line::Value(Field::Name) => {
                let room = MAX_NAME_BYTES.saturating_sub(self.name.len());
                self.name.extend(part.iter().take(room));
            }
            _ => {}
        }
        let Some((end, rest)) = rest.split_first() else { return rest };
        self.after_cr = *end == b'\r';
        self.line = Line::Head;
        rest
    }

    fn keep(&mut self, part: &[u8]) {
        // Once cut, a hole must not be joined over.
        if self.is_cut || self.wanted_name(&self.name).is_none() {
            self.is_cut = self.is_cut || !part.is_empty();
            return;
        }
        let room = self.limit_bytes.saturating_sub(self.data.len());
        self.is_cut = part.len() > room;
        self.data.extend_from_slice(part.get(..room).unwrap_or(part));
    }

    /// The name of an event, if such events are wanted.
    fn wanted_name<'b>(&self, name: &'b [u8]) -> Option<&'b str> {
        let Some(names) = self.wanted else { return Some(name_of(name)) };
        let name: &[u8] = if name.is_empty() { b"message" } else { name };
        names.iter().copied().find(|wanted| wanted.as_bytes() == name)
    }

    fn dispatch(&mut self, on: &mut impl FnMut(Event<'_>)) {
        if self.has_data
            && let Some(name) = self.wanted_name(&self.name)
        {
            on(Event { name, data: &self.data, is_cut: self.is_cut });
        }
        self.name.clear();
        self.data.clear();
        if self.data.capacity() > KEPT_BYTES {
            self.data = Vec::new();
        }
        self.has_data = false;
        self.is_cut = false;
    }
}

fn name_of(bytes: &[u8]) -> &str {
    match std::str::from_utf8(bytes) {
        Ok("") => "message",
        Ok(name) => name,
        Err(_) => "\u{fffd}",
    }
}

#[cfg(test)]
mod tests;
