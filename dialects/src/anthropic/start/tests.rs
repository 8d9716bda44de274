use super::*;
use crate::anthropic::error;

const MESSAGE_START: &str = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_1\",\
    \"content\":[],\"error\":null,\"usage\":{\"input_tokens\":25}}}\n\n";
const PING: &str = "event: ping\ndata: {\"type\": \"ping\"}\n\n";
const BLOCK: &str = "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\
    \"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n";
const OVERLOADED: &str = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\
    \"message\":\"Overloaded\"}}\n\n";

/// The verdict of a stream that comes in two parts, and whether it came with the last byte.
fn verdict(stream: &str, at: usize) -> Verdict {
    let mut start = Start::default();
    start.feed(&stream.as_bytes()[..at]);
    start.feed(&stream.as_bytes()[at..])
}

#[test]
fn same_verdict_for_every_split() {
    let failed = Verdict::Failed;
    let cases = [
        (String::new(), Verdict::Undecided, "nothing"),
        (format!(": hello\n\n{PING}{MESSAGE_START}"), Verdict::Undecided, "comment, ping and head"),
        (format!("{MESSAGE_START}{PING}{BLOCK}{OVERLOADED}"), Verdict::Begun, "content before the error"),
        (OVERLOADED.to_owned(), failed(Class::Overload), "an error at once"),
        (format!("{MESSAGE_START}{PING}{OVERLOADED}{BLOCK}"), failed(Class::Overload), "after the head"),
        (OVERLOADED.replace('\n', "\r\n"), failed(Class::Overload), "lines ended otherwise"),
        (OVERLOADED.replace('\n', "\r"), failed(Class::Overload), "and again"),
        (OVERLOADED.replace("event: error\n", ""), failed(Class::Overload), "an error without a name"),
        (
            "data: {\"error\":{\"type\":\"rate_limit_error\",\"message\":\"é\"}}\n\n".to_owned(),
            failed(Class::Quota),
            "a member of that name",
        ),
        ("event: error\ndata: boom\n\n".to_owned(), failed(Class::Unknown), "an error that is no JSON"),
        (
            "event: error\ndata: {\"error\":{\"type\":\"invalid_request_error\",\"message\":\"no\"}}\n\n"
                .into(),
            failed(Class::Client),
            "the client's own",
        ),
        (OVERLOADED.trim_end().to_owned(), Verdict::Undecided, "an event without its end"),
        ("data: [DONE]\n\n".to_owned(), Verdict::Begun, "an event of another dialect"),
        (format!("event: brand_new\ndata: {{}}\n\n{OVERLOADED}"), Verdict::Begun, "an unknown event"),
        (
            "data: {\"type\":\"ping\"}\n\ndata: {\"type\":\"message_start\",\"error\":null}\n\n".to_owned(),
            Verdict::Undecided,
            "a head without names",
        ),
    ];
    for (stream, expected, what) in &cases {
        for at in 0..=stream.len() {
            assert_eq!(verdict(stream, at), *expected, "{what}, split at {at}");
        }
        let mut start = Start::default();
        let last = stream.bytes().fold(Verdict::Undecided, |_, byte| start.feed(&[byte]));
        assert_eq!(last, *expected, "{what}, byte by byte");
    }
}

#[test]
fn error_of_our_own_making_is_recognised_whatever_it_follows() {
    let ours = String::from_utf8(error::event(error::kinds::OVERLOADED, "busy", "req_1")).unwrap();
    for at in 0..=MESSAGE_START.len() {
        let stream = format!("{}{ours}", &MESSAGE_START[..at]);
        assert_eq!(verdict(&stream, at), Verdict::Failed(Class::Overload), "after {at}");
    }
}

#[test]
fn verdict_is_final() {
    let mut start = Start::default();
    assert_eq!(start.feed(BLOCK.as_bytes()), Verdict::Begun);
    assert_eq!(start.feed(OVERLOADED.as_bytes()), Verdict::Begun);
    let mut start = Start::default();
    assert_eq!(start.feed(OVERLOADED.as_bytes()), Verdict::Failed(Class::Overload));
    assert_eq!(start.feed(BLOCK.as_bytes()), Verdict::Failed(Class::Overload));
}

#[test]
fn what_is_longer_than_can_be_held_has_begun() {
    for piece in [": ping\n\n", PING, "event: message_start\ndata: x", "x"] {
        let mut start = Start::default();
        let mut fed = 0;
        while start.feed(piece.as_bytes()) == Verdict::Undecided {
            fed += piece.len();
            assert!(fed <= MAX_HELD_BYTES, "{piece}: held {fed} bytes");
        }
        assert!(fed + piece.len() > MAX_HELD_BYTES, "{piece}: begun after {fed} bytes");
    }
    let mut start = Start::default();
    let padding = format!(": {}\n\n", "x".repeat(MAX_HELD_BYTES - OVERLOADED.len() - 4));
    assert_eq!(start.feed(padding.as_bytes()), Verdict::Undecided);
    assert_eq!(start.feed(OVERLOADED.as_bytes()), Verdict::Failed(Class::Overload), "the last that fits");
}
