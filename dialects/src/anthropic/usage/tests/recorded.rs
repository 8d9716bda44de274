//! Streams as the vendor sends them: whole, in pieces, cut short, and what they come to.

use la_core::usage::{InferenceGeo, ServiceTier, Speed, Terms};
use serde_json::Value;

use super::*;

/// Events by name and data.
type Events<'a> = &'a [(&'a str, &'a str)];

/// A stream with thinking, text, a tool call, pings and counts in three events, by name and data.
const EVENTS: Events<'_> = &[
    (
        "message_start",
        r#"{"type":"message_start","message":{"id":"msg_01EX","type":"message","role":"assistant","model":"claude-opus-5","content":[],"stop_reason":null,"usage":{"input_tokens":25,"cache_creation_input_tokens":10,"cache_read_input_tokens":5,"cache_creation":{"ephemeral_5m_input_tokens":4,"ephemeral_1h_input_tokens":6},"output_tokens":1,"service_tier":"standard","inference_geo":"us","speed":"fast"}}}"#,
    ),
    ("ping", r#"{"type":"ping"}"#),
    (
        "content_block_start",
        r#"{"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":"","signature":""}}"#,
    ),
    (
        "content_block_delta",
        r#"{"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"Adding…"}}"#,
    ),
    (
        "content_block_delta",
        r#"{"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"EXAMPLE=="}}"#,
    ),
    ("content_block_stop", r#"{"type":"content_block_stop","index":0}"#),
    (
        "content_block_start",
        r#"{"type":"content_block_start","index":1,"content_block":{"type":"tool_use","id":"toolu_01EX","name":"add","input":{}}}"#,
    ),
    (
        "content_block_delta",
        r#"{"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"{\"usage\":{\"output_tokens\":9}"}  }"#,
    ),
    ("content_block_stop", r#"{"type":"content_block_stop","index":1}"#),
    ("message_delta", r#"{"type":"message_delta","delta":{},"usage":{"output_tokens":20}}"#),
    (
        "message_delta",
        r#"{"type":"message_delta","delta":{"stop_reason":"tool_use","stop_sequence":null},"usage":{"input_tokens":30,"cache_creation_input_tokens":null,"output_tokens":42,"output_tokens_details":{"thinking_tokens":7},"server_tool_use":{"web_search_requests":2,"web_fetch_requests":1}}}"#,
    ),
    ("message_stop", r#"{"type":"message_stop"}"#),
];

fn written(events: Events<'_>, line_end: &str) -> String {
    events
        .iter()
        .map(|(name, data)| format!("event: {name}{line_end}data: {data}{line_end}{line_end}"))
        .collect()
}

fn seen(events: Events<'_>) -> Observed {
    stream(&[written(events, "\n").as_bytes()])
}

fn start(usage: &str) -> String {
    format!(r#"{{"type":"message_start","message":{{"usage":{usage}}}}}"#)
}

#[test]
fn everything_that_has_a_price_is_metered() {
    let observed = seen(EVENTS);
    tells(&observed, good(used(30, 10, 5, 42)), "recorded");
    let terms = Terms {
        cache_write_5m_tokens: 4,
        cache_write_1h_tokens: 6,
        thinking_tokens: 7,
        web_search_requests: 2,
        web_fetch_requests: 1,
        service_tier: Some(ServiceTier::Standard),
        speed: Some(Speed::Fast),
        inference_geo: Some(InferenceGeo::Us),
    };
    assert_eq!(observed.terms, terms);
    assert_eq!(observed.model.map(|model| model.to_string()).as_deref(), Some("claude-opus-5"));
    assert_eq!(observed.stop_reason, Some(StopReason::ToolUse));
    assert_eq!((observed.quality(), observed.has_more), (Quality::Complete, false));
    assert_eq!((observed.output_at_least(), observed.output_at_most()), (42, Some(42)));
}

#[test]
fn json_answer_says_the_same_as_a_stream() {
    let answer = r#"{"id":"msg_01EX","model":"claude-opus-5","content":[],"stop_reason":"tool_use","usage":{"input_tokens":30,
        "cache_creation_input_tokens":10,"cache_read_input_tokens":5,"output_tokens":42,"service_tier":"standard",
        "cache_creation":{"ephemeral_5m_input_tokens":4,"ephemeral_1h_input_tokens":6},"inference_geo":"us","speed":"fast",
        "output_tokens_details":{"thinking_tokens":7},"server_tool_use":{"web_search_requests":2,"web_fetch_requests":1}}}"#;
    let observed = json(&[answer.as_bytes()]);
    let same = Observed { emitted: observed.emitted, ..seen(EVENTS) };
    assert_eq!(observed, same);
    is_seen_at_every_cut(answer.as_bytes(), &Observer::for_json(1024), &same);
}

/// Feeds `bytes` in three parts, cut at every two places; a tenth of the pairs, unless the whole proof is asked
/// for. What the first part leaves behind is the same for all second cuts, and is only copied.
fn is_seen_at_every_cut(bytes: &[u8], new: &Observer, expected: &Observed) {
    let step = if rounds(10) == 10 { 1 } else { 10 };
    for a in 0..=bytes.len() {
        let mut first = new.clone();
        first.feed(&bytes[..a]);
        for b in (a + a % step..=bytes.len()).step_by(step) {
            let mut observer = first.clone();
            observer.feed(&bytes[a..b]);
            observer.feed(&bytes[b..]);
            assert_eq!(observer.so_far(), expected, "cut at {a} and {b}");
        }
    }
}

#[test]
fn any_line_end_and_any_two_cuts_give_the_same() {
    let error =
        r#"{"type":"error","error":{"details":null,"type":"overloaded_error","message":"Overloaded"}}"#;
    let mut broken = EVENTS.to_vec();
    broken.insert(8, ("error", error));
    broken.truncate(9);
    for events in [EVENTS, &broken] {
        let expected = seen(events);
        for (mark, line_end) in
            [("", "\n"), ("", "\r"), ("", "\r\n"), ("\u{feff}", "\n"), ("\u{feff}: x\n\n", "\r\n")]
        {
            let text = format!("{mark}{}", written(events, line_end));
            assert_eq!(stream(&[text.as_bytes()]), expected, "{mark:?} {line_end:?}");
            is_seen_at_every_cut(text.as_bytes(), &Observer::for_stream(), &expected);
            let single: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
            assert_eq!(stream(&single), expected, "{line_end:?}: byte by byte");
        }
    }
    assert_eq!(seen(&broken).quality(), Quality::Partial);
    assert_eq!(seen(&broken).error.as_deref(), Some("overloaded_error"));
}

#[test]
fn stream_cut_at_every_byte_is_believed_as_far_as_it_goes() {
    let text = written(EVENTS, "\n");
    let started = text.find("event: ping").unwrap();
    let mut before = 0;
    for end in 0..text.len() {
        let observed = stream(&[&text.as_bytes()[..end]]);
        let expected = if end < started { Quality::Unknown } else { Quality::Partial };
        assert_eq!((observed.quality(), observed.fault), (expected, None), "at {end}");
        let least = observed.output_at_least();
        assert!((before..=42).contains(&least), "at {end}: {least}");
        assert!(observed.output_at_most().is_none_or(|most| most >= least), "at {end}");
        before = least;
    }
    assert_eq!(stream(&[text.as_bytes()]).quality(), Quality::Complete);
}

#[test]
fn endings_are_told_apart() {
    let full = start(r#"{"input_tokens":1,"output_tokens":1}"#);
    let stop = ("message_stop", r#"{"type":"message_stop"}"#);
    let delta = ("message_delta", r#"{"usage":{"output_tokens":5}}"#);
    let cases: [(Events<'_>, Quality, &str); 8] = [
        (&[], Quality::Unknown, "nothing"),
        (&[("message_start", &full)], Quality::Partial, "only a start"),
        (&[("message_start", &full), stop], Quality::Partial, "an end without counts"),
        (&[("message_start", &full), delta], Quality::Partial, "counts without an end"),
        (&[("message_start", &full), delta, stop], Quality::Complete, "two events with counts"),
        (&[delta, stop], Quality::Unknown, "no input"),
        (&[("message_start", &full), delta, stop, ("error", "{}")], Quality::Partial, "an error at the end"),
        (
            &[("message_start", &full), ("message_start", &full), delta, stop],
            Quality::Unknown,
            "two messages",
        ),
    ];
    for (events, quality, what) in cases {
        assert_eq!(seen(events).quality(), quality, "{what}");
    }
    assert_eq!(json(&[b"{}"]).quality(), Quality::Unknown, "a JSON answer without counts");
    assert_eq!(json(&[br#"{"usage":{}}"#]).quality(), Quality::Unknown, "empty counts");
    assert_eq!(json(&[br#"{"usage":{"input_tokens":5}}"#]).quality(), Quality::Partial, "only input");
    assert_eq!(json(&[br#"{"usage":{"input_tokens":5}}"#]).output_at_most(), None, "output not counted");
}

#[test]
fn many_counts_are_not_summed_and_output_never_goes_down() {
    let first = start(r#"{"input_tokens":3,"output_tokens":0}"#);
    let deltas: Vec<_> = (1..=1000).map(|n| format!(r#"{{"usage":{{"output_tokens":{n}}}}}"#)).collect();
    let mut events = vec![("message_start", first.as_str())];
    events.extend(deltas.iter().map(|delta| ("message_delta", delta.as_str())));
    assert_eq!(seen(&events).usage, used(3, 0, 0, 1000));
    events.push(("message_delta", r#"{"usage":{"output_tokens":999}}"#));
    let observed = seen(&events);
    assert_eq!((observed.usage, observed.fault), (used(3, 0, 0, 1000), Some(Fault::Impossible)));
    assert_eq!((observed.quality(), observed.output_at_most()), (Quality::Unknown, None));
}

#[test]
fn cache_writes_are_as_much_as_their_parts_say() {
    let observed =
        seen(&[("message_start", &start(r#"{"cache_creation":{"ephemeral_1h_input_tokens":6}}"#))]);
    assert_eq!((observed.usage, observed.terms.cache_write_1h_tokens), (used(0, 6, 0, 0), 6));
    let observed = seen(&[
        (
            "message_start",
            &start(r#"{"cache_creation_input_tokens":6,"cache_creation":{"ephemeral_5m_input_tokens":6}}"#),
        ),
        ("message_delta", r#"{"usage":{"cache_creation_input_tokens":9}}"#),
    ]);
    assert_eq!(
        (observed.usage, observed.terms.cache_write_5m_tokens),
        (used(0, 9, 0, 0), 6),
        "the rest is unknown"
    );
    assert_eq!(observed.fault, None);
}

#[test]
fn tokens_beyond_the_counts_are_told() {
    let cases = [
        ("null", false),
        ("[]", false),
        (r#"[{"type":"message","input_tokens":1},{"input_tokens":1,"type":"message"}]"#, false),
        (r#"[{"type":"message"},{"type":"compaction","input_tokens":5}]"#, true),
        (r#"[{"type":"advisor_message","model":"m"}]"#, true),
        (r#"[{}]"#, true),
        (r#"[1]"#, true),
        ("{}", true),
    ];
    for (iterations, has_more) in cases {
        let usage =
            format!(r#"{{"usage":{{"input_tokens":1,"output_tokens":1,"iterations":{iterations}}}}}"#);
        let observed = json(&[usage.as_bytes()]);
        let quality = if has_more { Quality::Partial } else { Quality::Complete };
        assert_eq!((observed.has_more, observed.quality()), (has_more, quality), "{iterations}");
    }
}

#[test]
fn bounds_of_a_cut_stream_follow_its_content() {
    let first = start(r#"{"input_tokens":3,"output_tokens":2}"#);
    let text = r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#;
    let long = format!(
        r#"{{"type":"content_block_delta","index":10,"delta":{{"type":"text_delta","text":"{}"}}    }}"#,
        "x".repeat(1000)
    );
    let spaced = r#"{ "type": "content_block_delta", "delta": { "text": "Hello", "type": "text_delta" } }"#;
    let result = r#"{"type":"content_block_start","index":1,"content_block":{"type":"web_search_tool_result","content":[]}}"#;
    let block = text.len() as u64;
    let cases: [(Events<'_>, u64, Option<u64>, &str); 7] = [
        (&[], 2, Some(2), "nothing said"),
        (&[("content_block_start", text)], 2, Some(block), "a block begun"),
        (&[("content_block_start", text), ("content_block_delta", &long)], 3, Some(block + 1000), "text"),
        (&[("content_block_delta", spaced)], 2, Some(spaced.len() as u64), "text written in another way"),
        (&[("content_block_start", result)], 2, Some(2), "what a tool found"),
        (&[EVENTS[2]], 2, None, "thinking"),
        (&[("content_block_start", r#"{"content_block":{"type":"new"}}"#)], 2, None, "a kind not known here"),
    ];
    for (events, least, most, what) in cases {
        let observed = seen(&[&[("message_start", first.as_str())], events].concat());
        assert_eq!((observed.output_at_least(), observed.output_at_most()), (least, most), "{what}");
    }
    let cut =
        format!("event: message_start\ndata: {first}\n\nevent: content_block_delta\ndata: {}", &long[..900]);
    assert_eq!(stream(&[cut.as_bytes()]).output_at_most(), Some(900), "the part of a delta that came");
    let huge = format!("{}{}", &long[..90], "x".repeat(MAX_PART_BYTES));
    let observed = seen(&[("message_start", &first), ("content_block_delta", &huge)]);
    assert_eq!((observed.output_at_most(), observed.fault), (None, None), "more than is kept");
}

#[test]
fn odd_names_of_models_are_not_kept() {
    let longest = "m".repeat(63);
    let cases =
        [("claude-opus-5", true), (&longest, true), ("a b", false), ("é", false), ("a\\u0062", false)];
    for (name, kept) in cases {
        let observed = json(&[format!(r#"{{"model":"{name}"}}"#).as_bytes()]);
        assert_eq!(observed.model.map(|model| model.to_string()).as_deref(), kept.then_some(name), "{name}");
    }
    assert_eq!(json(&[format!(r#"{{"model":"{longest}m"}}"#).as_bytes()]).model, None);
}

fn value() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "null",
        "0",
        "7",
        "42",
        "100000000",
        "100000001",
        "-1",
        "1.0",
        "1e2",
        "01",
        "\"7\"",
        "true",
        "{}",
        "[1,{\"a\":\"}\"}]",
        "18446744073709551616",
        " 5",
        "\"standard\"",
        "nul",
    ])
    .prop_map(str::to_owned)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(rounds(50_000)) })]

    #[test]
    fn counts_are_what_serde_json_reads_or_a_fault(
        members in prop::collection::vec(
            (prop::sample::select(vec!["input_tokens", "output_tokens", "cache_read_input_tokens", "x", "service_tier"]), value()),
            0..4,
        ),
    ) {
        let members: Vec<_> = members.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
        let text = format!("{{\"usage\":{{{}}}}}", members.join(","));
        let observed = json(&[text.as_bytes()]);
        let keys = ["input_tokens", "output_tokens", "cache_read_input_tokens"];
        let is_once = |key: &str| text.matches(&format!("\"{key}\":")).count() <= 1;
        let is_count = |value: Option<&Value>| match value {
            None | Some(Value::Null) => true,
            Some(value) => value.as_u64().is_some_and(|count| count <= 100_000_000),
        };
        let known: Option<Value> = serde_json::from_str(&text).ok();
        let usage = known.as_ref().map(|known| &known["usage"]);
        let good = usage.is_some_and(|usage| {
            keys.iter().all(|key| is_once(key) && is_count(usage.get(key))) && is_once("service_tier")
        });
        prop_assert_eq!(observed.fault.is_none(), good, "{}", text);
        if let (true, Some(usage)) = (good, usage) {
            let of = |key: &str| usage.get(key).and_then(Value::as_u64).unwrap_or_default();
            prop_assert_eq!(observed.usage, used(of(keys[0]), 0, of(keys[2]), of(keys[1])));
        }
    }
}
