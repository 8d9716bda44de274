//! What every ending is charged, in tokens and to the nano-dollar.

use la_core::price::{self, Caching};
use la_dialects::anthropic::usage::Observer;

use super::*;

/// $5 for a million tokens of input and $25 for one of output.
fn price() -> Price {
    price::Book::default().model("claude-opus-4-6").unwrap().price
}

fn measured(is_stream: bool) -> Measured {
    let bounds = Bounds {
        input_tokens: 1_000,
        output_tokens: 500,
        caching: Caching::None,
        fast: false,
        regional: false,
    };
    let nano_usd = price::most_nano_usd(&bounds, &price());
    let amounts = Amounts { requests: 1, tokens: 1_500, nano_usd };
    Measured { bounds: Some(bounds), is_unbounded: false, price: Some(price()), amounts, is_stream }
}

/// Events by name and data.
type Events<'a> = &'a [(&'a str, &'a str)];

/// What is known of a charge, input and output tokens, and whether the counts could not be believed.
type Expected = (Quality, u64, u64, bool);

/// What was seen of a stream of events.
fn seen(events: Events<'_>) -> Observed {
    let mut observer = Observer::for_stream();
    for (name, data) in events {
        observer.feed(format!("event: {name}\ndata: {data}\n\n").as_bytes());
    }
    observer.finish()
}

const START: (&str, &str) = (
    "message_start",
    r#"{"type":"message_start","message":{"model":"claude-opus-4-6","usage":{"input_tokens":100,"cache_read_input_tokens":50,"output_tokens":2}}}"#,
);
const TEXT: (&str, &str) = (
    "content_block_delta",
    r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"0123456789"}}"#,
);
const THINKING: (&str, &str) = (
    "content_block_start",
    r#"{"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":""}}"#,
);
const FINAL: (&str, &str) = (
    "message_delta",
    r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":42}}"#,
);
const STOP: (&str, &str) = ("message_stop", r#"{"type":"message_stop"}"#);
const ERROR: (&str, &str) = ("error", r#"{"type":"error","error":{"type":"overloaded_error"}}"#);
const ODD: (&str, &str) = (
    "message_delta",
    r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":-3}}"#,
);
const BEYOND: (&str, &str) = (
    "message_delta",
    r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":2851}}"#,
);
const OVER: (&str, &str) = (
    "message_delta",
    r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":2850}}"#,
);
const MORE: (&str, &str) = (
    "message_delta",
    r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":42,"iterations":[{"type":"compaction"}]}}"#,
);

#[test]
fn every_ending_is_charged_by_its_rule() {
    use Outcome::*;
    use Quality::{Complete as Known, Partial, Unknown};
    let whole = [START, TEXT, FINAL, STOP];
    let cases: [(&str, bool, Outcome, Events<'_>, Expected); 22] = [
        ("finished", true, Complete, &whole, (Known, 150, 42, false)),
        ("client gone after the final counts", true, ClientGone, &whole[..3], (Known, 150, 42, false)),
        (
            "an error event after the final counts",
            true,
            ErrorEvent,
            &[START, FINAL, ERROR],
            (Known, 150, 42, false),
        ),
        ("client gone after the start", true, ClientGone, &[START], (Partial, 150, 2, false)),
        ("client gone in the text", true, ClientGone, &[START, TEXT], (Partial, 150, 10, false)),
        (
            "text is never more than was asked for",
            true,
            Revoked,
            &[START, TEXT, TEXT, TEXT],
            (Partial, 150, 30, false),
        ),
        ("hidden thinking", true, ClientGone, &[START, THINKING], (Partial, 150, 500, false)),
        ("reset", true, BrokenOff, &[START, TEXT], (Partial, 150, 10, false)),
        ("truncated in order", true, Truncated, &[START, TEXT], (Partial, 150, 10, false)),
        ("an error event", true, ErrorEvent, &[START, TEXT, ERROR], (Partial, 150, 10, false)),
        ("stalled", true, Stalled, &[START], (Partial, 150, 2, false)),
        ("stopped", true, Stopped, &[START], (Partial, 150, 2, false)),
        ("nothing of a stream", true, ClientGone, &[], (Unknown, 1_000, 0, false)),
        ("an error event first", true, ErrorEvent, &[ERROR], (Unknown, 1_000, 0, false)),
        ("no answer that is no stream", false, Stalled, &[], (Unknown, 1_000, 500, false)),
        ("the vendor failed", true, Failed, &[], (Unknown, 1_000, 0, false)),
        ("the vendor refused", true, Refused, &[], (Known, 0, 0, false)),
        ("impossible counts", true, Complete, &[START, ODD, STOP], (Unknown, 1_000, 500, true)),
        ("a second message", true, Complete, &[START, START, FINAL, STOP], (Unknown, 1_000, 500, true)),
        ("more than double the bounds", true, Complete, &[START, BEYOND, STOP], (Unknown, 1_000, 500, true)),
        ("over the bounds", true, Complete, &[START, OVER, STOP], (Known, 150, 2_850, false)),
        ("more than was counted", true, Complete, &[START, MORE, STOP], (Partial, 1_000, 500, false)),
    ];
    for (what, is_stream, outcome, events, expected) in cases {
        let measured = measured(is_stream);
        let charge = charge(&measured, outcome, &seen(events), None);
        let Spent { amounts, tokens } = charge.spent;
        let (input, output) = (tokens.total_input(), tokens.output_tokens);
        assert_eq!((charge.quality, input, output, charge.is_implausible), expected, "{what}");
        assert_eq!((amounts.requests, amounts.tokens), (1, input + output), "{what}");
        let cost = charge.cost_nano_usd.unwrap();
        let dearest = price::most_nano_usd(
            &Bounds { input_tokens: input, output_tokens: output, ..measured.bounds.unwrap() },
            &price(),
        );
        assert!(cost <= dearest && (cost > 0 || tokens == Usage::default()), "{what}: {cost}");
        assert_eq!(amounts.nano_usd, cost, "{what}");
    }
}

#[test]
fn final_counts_cost_what_the_vendor_bills() {
    let charge = charge(&measured(true), Outcome::Complete, &seen(&[START, FINAL, STOP]), None);
    // 100 × $5 + 50 × $0.50 + 42 × $25, per million.
    assert_eq!(charge.cost_nano_usd, Some(500_000 + 25_000 + 1_050_000));
}

#[test]
fn model_that_ran_decides_the_price() {
    let haiku = price::Book::default().model("claude-haiku-4-5").unwrap().price;
    let charge = charge(&measured(true), Outcome::Complete, &seen(&[START, FINAL, STOP]), Some(haiku));
    assert_eq!(charge.cost_nano_usd, Some(100_000 + 5_000 + 210_000));
}

#[test]
fn nothing_is_charged_for_what_was_not_sent() {
    let charge = charge(&measured(true), Outcome::Unsent, &Observed::default(), None);
    assert_eq!(charge.spent, Spent::default());
}

#[test]
fn request_without_bounds_is_reported_as_far_as_the_vendor_told() {
    let measured = Measured { bounds: None, amounts: Amounts::of_requests(1), ..measured(true) };
    let output = r#"{"type":"message_start","message":{"usage":{"output_tokens":9}}}"#;
    let cases: [(&str, Outcome, Events<'_>, u64, u64); 6] = [
        ("only output", Outcome::Complete, &[("message_start", output), TEXT, STOP], 0, 9),
        ("no final output", Outcome::Complete, &[START, TEXT, STOP], 150, 2),
        ("finished", Outcome::Complete, &[START, FINAL, STOP], 150, 42),
        ("cut", Outcome::ClientGone, &[START, TEXT], 150, 10),
        ("cut in thinking", Outcome::ClientGone, &[START, THINKING], 150, 2),
        ("nothing known", Outcome::ClientGone, &[], 0, 0),
    ];
    for (what, outcome, events, input, output) in cases {
        let Charge { spent, .. } = charge(&measured, outcome, &seen(events), None);
        assert_eq!((spent.tokens.total_input(), spent.tokens.output_tokens), (input, output), "{what}");
        assert_eq!(spent.amounts.requests, 1, "{what}");
    }
}

#[test]
fn what_may_pass_without_a_bound_is_charged_as_it_came() {
    let measured = Measured { is_unbounded: true, ..measured(true) };
    let charge = charge(&measured, Outcome::Complete, &seen(&[START, BEYOND, STOP]), None);
    assert_eq!((charge.spent.amounts.tokens, charge.is_implausible), (3_001, false));
}

#[test]
fn model_without_a_price_costs_nothing_that_is_known() {
    let unpriced = Measured { price: None, ..measured(true) };
    for (outcome, events) in [(Outcome::Complete, &[START, FINAL, STOP][..]), (Outcome::ClientGone, &[])] {
        let charge = charge(&unpriced, outcome, &seen(events), None);
        assert_eq!((charge.cost_nano_usd, charge.spent.amounts.nano_usd), (None, 0));
        assert!(charge.spent.amounts.tokens > 0);
    }
}
