//! The standard's cases, at every split.

use proptest::prelude::*;

use super::*;

fn events(parts: &[&[u8]], limit: usize) -> Vec<(String, String, bool)> {
    let mut decoder = Decoder::new(limit);
    let mut events = Vec::new();
    for part in parts {
        decoder.feed(part, |event| {
            let data = String::from_utf8_lossy(event.data).into_owned();
            events.push((event.name.to_owned(), data, event.is_cut));
        });
    }
    events
}

fn every_split(text: &str, expected: &[(&str, &str)], what: &str) {
    let bytes = text.as_bytes();
    let expected: Vec<_> =
        expected.iter().map(|(name, data)| ((*name).to_owned(), (*data).to_owned(), false)).collect();
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    assert_eq!(events(&single, 1024), expected, "{what}: byte by byte");
    for a in 0..=bytes.len() {
        for b in a..=bytes.len() {
            assert_eq!(
                events(&[&bytes[..a], &bytes[a..b], &bytes[b..]], 1024),
                expected,
                "{what}: at {a} and {b}"
            );
        }
    }
}

/// A stream, its events by name and data, and what is shown by it.
type Case = (&'static str, &'static [(&'static str, &'static str)], &'static str);

/// The cases of the web platform's `eventsource/format-*` tests, in our words.
#[test]
fn events_are_read_as_the_standard_says() {
    let cases: &[Case] = &[
        ("event: a\ndata: 1\n\n", &[("a", "1")], "name and data"),
        ("data: 1\n\ndata: 2\n\n", &[("message", "1"), ("message", "2")], "no name"),
        ("event: a\ndata: 1\n\ndata: 2\n\n", &[("a", "1"), ("message", "2")], "a name lasts for one event"),
        ("\u{feff}data: 1\n\n", &[("message", "1")], "byte order mark"),
        ("\u{feff}\u{feff}data: 1\n\ndata: 2\n\n", &[("message", "2")], "only one mark is skipped"),
        (
            "data: 1\n\n\u{feff}data: 2\n\ndata: 3\n\n",
            &[("message", "1"), ("message", "3")],
            "no mark later on",
        ),
        (":comment\r: c\n:\ndata: 1\n:x\n\n", &[("message", "1")], "comments"),
        (
            "data: 1\r\rdata: 2\r\n\r\ndata: 3\n\n",
            &[("message", "1"), ("message", "2"), ("message", "3")],
            "line ends",
        ),
        ("data: 1\r\ndata: 2\rdata: 3\n\r\n", &[("message", "1\n2\n3")], "data lines are joined"),
        (
            "data\n\ndata\ndata\n\ndata:\n\n",
            &[("message", ""), ("message", "\n"), ("message", "")],
            "empty data",
        ),
        ("data:\n", &[], "no empty line, no event"),
        ("data: 1\n\ndata: 2", &[("message", "1")], "no end of line"),
        ("event: a\n\ndata: 1\n\n", &[("message", "1")], "a name without data is no event"),
        ("event: a\nevent: b\ndata: 1\n\n", &[("b", "1")], "the last name counts"),
        ("event: a\nevent\ndata: 1\n\n", &[("message", "1")], "an empty name is none"),
        ("data:1\ndata:  2\ndata: \n\n", &[("message", "1\n 2\n")], "one space is skipped"),
        ("data:\ttab\ndata : x\n Data: x\nDATA: x\n\n", &[("message", "\ttab")], "field names are exact"),
        ("dat\nda: x\ndatax: y\nid: 1\nretry: 5\nx\ndata: 1\n\n", &[("message", "1")], "unknown fields"),
        ("data: \u{2028}ü\u{85}\0\n\n", &[("message", "\u{2028}ü\u{85}\0")], "only CR and LF end lines"),
        ("data: 1:2: 3\n\n", &[("message", "1:2: 3")], "colons in data"),
        ("\n\n\r\n\rdata: 1\n\n", &[("message", "1")], "empty lines before"),
    ];
    for (text, expected, what) in cases {
        every_split(text, expected, what);
    }
}

#[test]
fn first_bytes_of_a_mark_are_no_mark() {
    let expected = [("message".to_owned(), "2".to_owned(), false)];
    for start in [&b"\xef"[..], b"\xef\xbb", b"\xbb"] {
        let bytes = [start, b"data: 1\n\ndata: 2\n\n"].concat();
        assert_eq!(events(&[&bytes], 64), expected, "{start:x?}");
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(events(&single, 64), expected, "{start:x?} byte by byte");
    }
}

#[test]
fn data_beyond_the_limit_is_not_kept_and_said_so() {
    let text = "data: 12345\n\ndata: 123\ndata: 45\ndata: 6\n\ndata: 1234\n\n";
    let cut: Vec<_> = events(&[text.as_bytes()], 4)
        .into_iter()
        .map(|(_, data, is_cut)| (data.len() <= 4, is_cut))
        .collect();
    assert_eq!(cut, [(true, true), (true, true), (true, false)]);
}

#[test]
fn unwanted_events_are_neither_kept_nor_reported() {
    let mut decoder = Decoder::only(&["a"], 64);
    let mut seen = Vec::new();
    let text = "event: b\ndata: 1\n\nevent: a\ndata: 2\n\ndata: 3\n\ndata: 4\nevent: a\n\n";
    decoder.feed(text.as_bytes(), |event| seen.push((event.data.to_vec(), event.is_cut)));
    assert_eq!(seen, [(b"2".to_vec(), false), (b"".to_vec(), true)], "the last one's name came too late");
    decoder.feed(format!("event: b\ndata: {}", "x".repeat(100_000)).as_bytes(), |_| ());
    assert!(decoder.data.capacity() <= 64);
}

#[test]
fn memory_does_not_grow_with_what_is_read() {
    let mut decoder = Decoder::new(4096);
    let long = "x".repeat(1 << 16);
    for text in [format!("data: {long}\n"), format!("event: {long}\n"), long.clone(), format!(":{long}\n\n")]
    {
        decoder.feed(text.as_bytes(), |_| ());
    }
    assert!(decoder.data.capacity() <= 8192 && decoder.name.capacity() + decoder.head.capacity() <= 1024);
}

/// A tenth of the rounds, unless the whole proof is asked for.
fn rounds(full: u32) -> u32 {
    #[expect(clippy::disallowed_methods, reason = "tests read their own switch")]
    let whole = std::env::var_os("LA_PROOF").is_some_and(|value| value == "1");
    if whole { full } else { full / 10 }
}

/// The plain reading of the standard, of a stream that is there as a whole.
fn reference(text: &str) -> Vec<(String, String, bool)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).replace("\r\n", "\n").replace('\r', "\n");
    let (mut name, mut data, mut has_data) = (String::new(), String::new(), false);
    let mut events = Vec::new();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    for line in whole.split('\n').take(if text.contains('\n') { usize::MAX } else { 0 }) {
        if line.is_empty() {
            if has_data {
                let shown = if name.is_empty() { "message" } else { &name };
                events.push((shown.to_owned(), data.clone(), false));
            }
            (name, data, has_data) = (String::new(), String::new(), false);
            continue;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut name),
            "data" => {
                if has_data {
                    data.push('\n');
                }
                data.push_str(value);
                has_data = true;
            }
            _ => {}
        }
    }
    events
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(rounds(100_000)) })]

    #[test]
    fn any_stream_at_any_split_is_read_as_the_standard_says(
        pieces in prop::collection::vec(
            prop_oneof![
                6 => prop::sample::select(vec![
                    "data", "event", ":", " ", "\n", "\r", "\r\n", "\n\n", "data: x\n", "event: a\n", "\u{feff}", "id: 1\n", "é",
                ]).prop_map(str::to_owned),
                1 => "\\PC{0,5}",
            ],
            0..24,
        ),
        at in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let text = pieces.concat();
        let bytes = text.as_bytes();
        let mut at: Vec<usize> = at.iter().map(|index| index.index(bytes.len() + 1)).collect();
        at.sort_unstable();
        let mut parts = Vec::new();
        let mut from = 0;
        for to in at {
            parts.push(&bytes[from..to]);
            from = to;
        }
        parts.push(&bytes[from..]);
        prop_assert_eq!(events(&parts, 4096), reference(&text));
    }
}
