//! What is observed, at any split.

use proptest::prelude::*;

use super::*;

mod recorded;

const STREAM: &str = concat!(
    "event: message_start\n",
    r#"data: {"type":"message_start","message":{"id":"msg_1","content":[],"usage":{"input_tokens":25,"#,
    r#""cache_creation_input_tokens":7,"cache_read_input_tokens":null,"output_tokens":1}}}"#,
    "\n\n",
    "event: ping\ndata: {\"type\":\"ping\"}\n\n",
    "event: content_block_delta\n",
    r#"data: {"type":"content_block_delta","index":0,"delta":{"text":"\"usage\":{\"output_tokens\":9}"}}"#,
    "\n\n",
    ": keep-alive\n\n",
    "event: message_delta\r\n",
    r#"data: {"type":"message_delta","delta":{},"usage":{"output_tokens":42}}"#,
    "\r\n\r\n",
    "event: message_delta\n",
    r#"data: {"type":"message_delta","usage":{"input_tokens":null,"cache_read_input_tokens":5,"output_tokens":43}}"#,
    "\n\n",
    "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
);

fn stream(parts: &[&[u8]]) -> Observed {
    let mut observer = Observer::for_stream();
    parts.iter().for_each(|part| observer.feed(part));
    observer.finish()
}

fn json(parts: &[&[u8]]) -> Observed {
    let mut observer = Observer::for_json(1024);
    parts.iter().for_each(|part| observer.feed(part));
    observer.finish()
}

fn used(input: u64, write: u64, read: u64, output: u64) -> Option<Usage> {
    Some(Usage {
        input_tokens: input,
        cache_write_tokens: write,
        cache_read_tokens: read,
        output_tokens: output,
    })
}

/// What an ending comes down to: counts, whether it is proper, error, fault.
type Told = (Option<Usage>, bool, Option<&'static str>, Option<Fault>);

fn good(usage: Option<Usage>) -> Told {
    (usage, true, None, None)
}

#[track_caller]
fn tells(observed: &Observed, told: Told, what: &str) {
    let Observed { usage, complete, error, fault, .. } = observed;
    assert_eq!((*usage, *complete, error.as_deref(), *fault), told, "{what}");
}

/// Every way to cut `bytes` into three parts.
fn cuts(bytes: &[u8]) -> impl Iterator<Item = [&[u8]; 3]> {
    (0..=bytes.len())
        .flat_map(move |a| (a..=bytes.len()).map(move |b| [&bytes[..a], &bytes[a..b], &bytes[b..]]))
}

#[test]
fn last_value_of_each_count_wins_at_every_split() {
    for parts in cuts(STREAM.as_bytes()) {
        tells(&stream(&parts), good(used(25, 7, 5, 43)), &format!("{:?}", parts.map(<[u8]>::len)));
    }
}

#[test]
fn stream_cut_short_keeps_its_counts_and_is_not_complete() {
    let until = STREAM.find("event: message_stop").unwrap();
    let observed = stream(&[&STREAM.as_bytes()[..until]]);
    tells(&observed, (used(25, 7, 5, 43), false, None, None), "before its last event");
    let before_delta = STREAM.find("event: message_delta").unwrap();
    assert_eq!(stream(&[&STREAM.as_bytes()[..before_delta]]).usage, used(25, 7, 0, 1));
    assert_eq!(stream(&[b""]), Observed::default());
}

#[test]
fn counts_are_known_while_the_stream_is_open() {
    let mut observer = Observer::for_stream();
    observer.feed(&STREAM.as_bytes()[..STREAM.find("event: ping").unwrap()]);
    assert_eq!(observer.so_far().usage, used(25, 7, 0, 1));
}

#[test]
fn error_event_is_reported_by_its_type() {
    let cases = [
        (
            r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#,
            "overloaded_error",
        ),
        (r#"{"type":"error","error":{"type":"not a type"}}"#, "unknown_error"),
        (r#"{"type":"error"}"#, "unknown_error"),
        ("oops", "unknown_error"),
    ];
    for (data, kind) in cases {
        let observed = stream(&[format!("event: error\ndata: {data}\n\n").as_bytes()]);
        assert_eq!(observed.error.as_deref(), Some(kind), "{data}");
        assert!(!observed.complete);
    }
}

#[test]
fn second_message_in_one_stream_is_a_fault_and_counts_nothing() {
    let twice = STREAM.replacen(
        "event: ping",
        "event: message_start\ndata: {\"message\":{\"usage\":{\"input_tokens\":99}}}\n\nevent: ping",
        1,
    );
    let observed = stream(&[twice.as_bytes()]);
    tells(&observed, (used(25, 7, 5, 43), true, None, Some(Fault::SecondMessage)), "twice");
}

#[test]
fn what_cannot_be_read_is_a_fault() {
    let big = format!("{{\"usage\":{{}},\"x\":\"{}\"}}", "x".repeat(MAX_PART_BYTES));
    let cases = [
        ("message_start", "{", Fault::Unreadable),
        ("message_start", r#"{"message":{"usage":{"input_tokens":"7"}}}"#, Fault::Unreadable),
        ("message_start", r#"{"type":"message_start"}"#, Fault::Unreadable),
        ("message_start", r#"{"message":null}"#, Fault::Unreadable),
        ("message_delta", r#"{"usage":{"output_tokens":1}"#, Fault::Unreadable),
        ("message_delta", r#"{"usage":[]}"#, Fault::Unreadable),
        ("message_delta", r#"{"usage":{"output_tokens":1,"output_tokens":1}}"#, Fault::Unreadable),
        ("message_delta", r#"{"usage":{"output_tokens":null,"output_tokens":1}}"#, Fault::Unreadable),
        ("message_delta", r#"{"usage":{"output_tokens":1},"usage":null}"#, Fault::Unreadable),
        ("message_delta", r#"{"usage":{"output\u005ftokens":1}}"#, Fault::Unreadable),
        (
            "message_delta",
            r#"{"usage":{"cache_creation":{"ephemeral_1h_input_tokens":"1"}}}"#,
            Fault::Unreadable,
        ),
        ("message_delta", r#"{"usage":{"output_tokens":-1}}"#, Fault::Impossible),
        ("message_delta", r#"{"usage":{"output_tokens":1.5}}"#, Fault::Impossible),
        ("message_delta", r#"{"usage":{"output_tokens":1e3}}"#, Fault::Impossible),
        ("message_delta", r#"{"usage":{"input_tokens":100000001}}"#, Fault::Impossible),
        ("message_delta", r#"{"usage":{"input_tokens":99999999999999999999999999}}"#, Fault::Impossible),
        (
            "message_delta",
            r#"{"usage":{"cache_creation_input_tokens":3,"cache_creation":{"ephemeral_5m_input_tokens":4}}}"#,
            Fault::Impossible,
        ),
        (
            "message_delta",
            r#"{"usage":{"output_tokens":3,"output_tokens_details":{"thinking_tokens":4}}}"#,
            Fault::Impossible,
        ),
        ("message_delta", &big, Fault::TooLarge),
    ];
    for (name, data, fault) in cases {
        let observed = stream(&[format!("event: {name}\ndata: {data}\n\n").as_bytes()]);
        assert_eq!(observed.fault, Some(fault), "{name}: {}", &data[..data.len().min(60)]);
    }
}

#[test]
fn large_events_without_counts_are_no_fault() {
    let big = format!("event: content_block_start\ndata: {}\n\n", "x".repeat(1 << 20));
    let observed = stream(&[big.as_bytes(), STREAM.as_bytes()]);
    tells(&observed, good(used(25, 7, 5, 43)), "after a megabyte");
}

const ANSWER: &str = r#" {"id":"msg_1","content":[{"type":"text","text":"\"usage\": {\"input_tokens\":1}\\"},{"usage":{"input_tokens":2}}],
  "stop_reason":"usage", "usage" : {"input_tokens":12,"output_tokens":345,"cache_creation_input_tokens":null,
  "server_tool_use":{"web_search_requests":1},"service_tier":"a\\\"}"}, "last":[1,{"error":{"type":"x"}}]} "#;

#[test]
fn own_counts_of_a_json_answer_are_found_at_every_split() {
    for parts in cuts(ANSWER.as_bytes()) {
        tells(&json(&parts), good(used(12, 0, 0, 345)), &format!("{:?}", parts.map(<[u8]>::len)));
    }
}

#[test]
fn counts_are_found_before_and_after_megabytes() {
    let filler = "x".repeat(8 << 20);
    let usage = r#""usage":{"input_tokens":3,"output_tokens":4}"#;
    for text in [format!("{{{usage},\"a\":\"{filler}\"}}"), format!("{{\"a\":\"{filler}\",{usage}}}")] {
        let parts: Vec<&[u8]> = text.as_bytes().chunks(4096).collect();
        tells(&json(&parts), good(used(3, 0, 0, 4)), &text[..20]);
    }
}

#[test]
fn json_answers_without_counts_are_told_apart() {
    let cases = [
        ("{}", good(None)),
        (r#"{"input_tokens":14}"#, good(None)),
        (r#"{"usage":null}"#, good(None)),
        (r#"{"usage":{}}"#, good(used(0, 0, 0, 0))),
        (r#"{"usage":{"input_tokens":1}"#, (None, false, None, None)),
        (r#"{"usage":"x"}"#, (None, true, None, Some(Fault::Unreadable))),
        (r#"{"usage":{"input_tokens":-1}}"#, (None, true, None, Some(Fault::Impossible))),
        (r#"{"usage":null,"usage":{}}"#, (None, true, None, Some(Fault::Unreadable))),
        (r#"{"us\u0061ge":{}}"#, (None, true, None, Some(Fault::Unreadable))),
        (r#"{"x":{"us\u0061ge":{}, "usage":5}}"#, good(None)),
        (r#"{"usage":{} x}"#, (None, true, None, Some(Fault::Unreadable))),
        (
            r#"{"type":"error","error":{"type":"overloaded_error","message":"m"}}"#,
            (None, true, Some("overloaded_error"), None),
        ),
        (r#"{"error":"x"}"#, (None, true, Some("unknown_error"), None)),
        (r#"{"error":null}"#, good(None)),
        (r#"[{"usage":{"input_tokens":1}}]"#, (None, false, None, None)),
        ("<html>{\"usage\":{}}</html>", (None, false, None, None)),
        ("", (None, false, None, None)),
    ];
    for (text, expected) in cases {
        for parts in cuts(text.as_bytes()) {
            tells(&json(&parts), expected, text);
        }
    }
    let big = format!(r#"{{"usage":{{"x":"{}"}}}}"#, "x".repeat(2048));
    assert_eq!(json(&[big.as_bytes()]).fault, Some(Fault::TooLarge));
}

/// A tenth of the rounds, unless the whole proof is asked for.
fn rounds(full: u32) -> u32 {
    #[expect(clippy::disallowed_methods, reason = "tests read their own switch")]
    let whole = std::env::var_os("LA_PROOF").is_some_and(|value| value == "1");
    if whole { full } else { full / 10 }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(rounds(100_000)) })]

    #[test]
    fn any_bytes_at_any_split_are_observed_the_same(
        pieces in prop::collection::vec(
            prop_oneof![
                2 => prop::sample::select(vec![
                    "event: message_delta\n", "event: message_start\n", "event: message_stop\n", "event: error\n",
                    "data: {\"usage\":{\"output_tokens\":3}}\n", "data: {\"message\":{\"usage\":{\"input_tokens\":4}}}\n",
                    "\n", "\r\n", "\r", "data: {}\n", "{\"usage\":{", "\"output_tokens\":5}", "}", "\"", "\\", ",", "[", "]",
                    "\"usage\":", "\u{feff}",
                ]).prop_map(|text| text.as_bytes().to_vec()),
                1 => prop::collection::vec(any::<u8>(), 0..4),
            ],
            0..12,
        ),
        at in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let bytes = pieces.concat();
        let mut at: Vec<usize> = at.iter().map(|index| index.index(bytes.len() + 1)).collect();
        at.sort_unstable();
        let mut parts = Vec::new();
        let mut from = 0;
        for to in at {
            parts.push(&bytes[from..to]);
            from = to;
        }
        parts.push(&bytes[from..]);
        prop_assert_eq!(stream(&parts), stream(&[&bytes]));
        prop_assert_eq!(json(&parts), json(&[&bytes]));
    }
}
