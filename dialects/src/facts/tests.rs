//! What is found, what is refused, and that `serde_json` agrees.

use proptest::prelude::*;
use serde_json::Value;

use super::*;

fn syntax(text: &str) -> bool {
    matches!(scan(text.as_bytes()), Err(FactsError::Syntax(_)))
}

#[test]
fn facts_of_a_usual_request_are_found() {
    let body = r#"{"max_tokens":1024,"messages":[{"role":"user","content":"the \"model\": \"x\" \u00e9"}],
        "metadata":{"user_id":"user_1_session_2"},"stream":true,"model":"claude-opus-5","tools":[{"model":"y"}]}"#;
    let facts = scan(body.as_bytes()).unwrap();
    assert_eq!(facts.model, "claude-opus-5");
    assert_eq!(&body[facts.model_span.clone()], "claude-opus-5");
    assert_eq!(body.as_bytes()[facts.model_span.start - 1], b'"');
    assert!(facts.stream);
    assert_eq!(facts.max_tokens, Some(1024));
    assert_eq!(facts.user_id, Some("user_1_session_2"));
    assert_eq!(facts.sessions, [None; 5]);
}

#[test]
fn optional_facts_may_be_missing() {
    for body in [r#"{"model":"m"}"#, r#" { "model" : "m" , "metadata" : { } , "stream" : null } "#] {
        let facts = scan(body.as_bytes()).unwrap();
        assert_eq!(
            (facts.model, facts.stream, facts.max_tokens, facts.user_id),
            ("m", false, None, None),
            "{body}"
        );
    }
    for metadata in ["null", "5", "[]", r#"{"user_id":null}"#, r#"{"other":{"user_id":"x"}}"#] {
        let body = format!(r#"{{"model":"m","metadata":{metadata}}}"#);
        assert_eq!(scan(body.as_bytes()).unwrap().user_id, None, "{metadata}");
    }
}

#[test]
fn every_place_of_a_session_is_told_apart() {
    let body = r#"{"prompt_cache_key":"e","conversation_id":"d","session_id":"c","session_id":"later","model":"m",
        "metadata":{"conversation_id":"b","user_id":"u","session_id":"a\n"},"tools":[{"session_id":"x"}]}"#;
    let facts = scan(body.as_bytes()).unwrap();
    assert_eq!(facts.user_id, Some("u"));
    assert_eq!(facts.sessions, ["a\\n", "b", "c", "d", "e"].map(Some));
    let odd = r#"{"model":"m","session_id":5,"metadata":{"session_id":{"session_id":"x"}},"prompt_cache_key":null}"#;
    assert_eq!(scan(odd.as_bytes()).unwrap().sessions, [None; 5]);
}

#[test]
fn keys_that_two_readers_could_read_in_two_ways_are_refused() {
    let duplicate = |key| Err(FactsError::Duplicate { key });
    let cases = [
        (r#"{"model":"a","x":1,"model":"b"}"#, duplicate("model")),
        (r#"{"model":"a","model":"a"}"#, duplicate("model")),
        (r#"{"model":"a","stream":true,"stream":true}"#, duplicate("stream")),
        (r#"{"model":"a","stream":null,"stream":true}"#, duplicate("stream")),
        (r#"{"model":"a","max_tokens":1,"max_tokens":2}"#, duplicate("max_tokens")),
        (r#"{"model":"a","metadata":{},"metadata":null}"#, duplicate("metadata")),
        (r#"{"model":"a","metadata":{"user_id":"a","user_id":"b"}}"#, duplicate("metadata.user_id")),
        (r#"{"model":"a","metadata":{"user_id":null,"user_id":"b"}}"#, duplicate("metadata.user_id")),
        (r#"{"\u006dodel":"a","model":"b"}"#, Err(FactsError::EscapedKey { at: 1 })),
        (r#"{"model":"b","m\u006Fdel":"a"}"#, Err(FactsError::EscapedKey { at: 13 })),
        (r#"{"model":"b","s\/":"a"}"#, Err(FactsError::EscapedKey { at: 13 })),
        (r#"{"model":"b","metadata":{"\u0075ser_id":"a"}}"#, Err(FactsError::EscapedKey { at: 25 })),
    ];
    for (body, expected) in cases {
        assert_eq!(scan(body.as_bytes()), expected, "{body}");
    }
}

#[test]
fn duplicates_that_decide_nothing_are_no_fault() {
    let body = r#"{"x":1,"x":2,"y":{"model":1,"model":2,"\u0061":3},"model":"m"}"#;
    assert_eq!(scan(body.as_bytes()).unwrap().model, "m");
}

#[test]
fn bad_values_are_refused_by_name() {
    let long = format!(r#"{{"model":"{}"}}"#, "m".repeat(257));
    let cases = [
        ("{}", FactsError::NoModel),
        (r#"{"Model":"m"}"#, FactsError::NoModel),
        (r#"{"x":{"model":"m"}}"#, FactsError::NoModel),
        (r#"{"model":""}"#, FactsError::BadModel),
        (r#"{"model":null}"#, FactsError::BadModel),
        (r#"{"model":["m"]}"#, FactsError::BadModel),
        (r#"{"model":"m\u0061"}"#, FactsError::BadModel),
        ("{\"model\":\"m\u{7f}\"}", FactsError::BadModel),
        (&long, FactsError::BadModel),
        (r#"{"model":"m","stream":"true"}"#, FactsError::BadStream),
        (r#"{"model":"m","stream":1}"#, FactsError::BadStream),
        (r#"{"model":"m","max_tokens":-1}"#, FactsError::BadMaxTokens),
        (r#"{"model":"m","max_tokens":1.0}"#, FactsError::BadMaxTokens),
        (r#"{"model":"m","max_tokens":1e3}"#, FactsError::BadMaxTokens),
        (r#"{"model":"m","max_tokens":"5"}"#, FactsError::BadMaxTokens),
        (r#"{"model":"m","max_tokens":null}"#, FactsError::BadMaxTokens),
        (r#"{"model":"m","max_tokens":100000001}"#, FactsError::BadMaxTokens),
        (r#"{"model":"m","max_tokens":99999999999999999999999999}"#, FactsError::BadMaxTokens),
    ];
    for (body, fault) in cases {
        assert_eq!(scan(body.as_bytes()), Err(fault), "{body}");
    }
}

#[test]
fn json_of_another_kind_is_not_an_object() {
    for body in ["[]", "null", "5", "\"model\"", " [{\"model\":\"m\"}] ", "true"] {
        assert_eq!(scan(body.as_bytes()), Err(FactsError::NotAnObject), "{body}");
    }
}

#[test]
fn what_is_not_json_is_refused() {
    let cases = [
        "",
        " ",
        "{",
        "}",
        "{\"model\":\"m\"",
        "{\"model\":\"m\"}}",
        "{\"model\":\"m\"} x",
        "{\"model\":\"m\"}{}",
        "{\"model\":\"m\",}",
        "{,\"model\":\"m\"}",
        "{\"model\" \"m\"}",
        "{model:\"m\"}",
        "{'model':'m'}",
        "{\"model\":\"m\" \"x\":1}",
        "{\"model\":\"m\",\"x\":}",
        "{\"model\":\"m\",\"x\":[1,]}",
        "{\"model\":\"m\",\"x\":[1 2]}",
        "{\"model\":\"m\",\"x\":[}",
        "{\"model\":\"m\",\"x\":{]}",
        "{\"model\":\"m\",\"x\":01}",
        "{\"model\":\"m\",\"x\":+1}",
        "{\"model\":\"m\",\"x\":.5}",
        "{\"model\":\"m\",\"x\":1.}",
        "{\"model\":\"m\",\"x\":1e}",
        "{\"model\":\"m\",\"x\":-}",
        "{\"model\":\"m\",\"x\":1e999}",
        "{\"model\":\"m\",\"x\":NaN}",
        "{\"model\":\"m\",\"x\":tru}",
        "{\"model\":\"m\",\"x\":nulll}",
        "{\"model\":\"m\",\"x\":\"\n\"}",
        "{\"model\":\"m\",\"x\":\"\\x\"}",
        "{\"model\":\"m\",\"x\":\"\\u12g4\"}",
        "{\"model\":\"m\",\"x\":\"\\ud800\"}",
        "{\"model\":\"m\",\"x\":\"\\udc00\"}",
        "{\"model\":\"m\",\"x\":\"\\ud800\\u0041\"}",
        "{\"model\":\"m\",\"x\":\"\\",
        "{\"model\":\"m\"}\0",
        "\u{feff}{\"model\":\"m\"}",
        "{\"model\":\"m\"/**/}",
        "{\"model\":\"m\u{c}\"}",
        "<html>",
        "model=m",
    ];
    for body in cases {
        assert!(syntax(body), "{body:?}: {:?}", scan(body.as_bytes()));
        assert!(serde_json::from_str::<Value>(body).is_err(), "{body:?} is JSON");
    }
}

#[test]
fn what_is_not_utf8_is_refused() {
    assert_eq!(scan(b"{\"model\":\"m\",\"x\":\"\xff\"}"), Err(FactsError::NotUtf8 { at: 18 }));
    assert_eq!(scan(b"{\"model\":\"m\",\"x\":\"\xed\xa0\x80\"}"), Err(FactsError::NotUtf8 { at: 18 }));
}

#[test]
fn nesting_ends_at_its_limit() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let nested = |levels: usize| {
            // The body is a level, and so is the innermost, empty array.
            let (open, close) = (open.repeat(levels - 2), close.repeat(levels - 2));
            format!("{{\"model\":\"m\",\"x\":{open}[]{close}}}")
        };
        assert!(scan(nested(128).as_bytes()).is_ok());
        let fault = scan(nested(129).as_bytes()).unwrap_err();
        assert!(matches!(fault, FactsError::Syntax(SyntaxError::TooDeep { .. })), "{fault}");
        assert!(scan(nested(100_000).as_bytes()).is_err());
    }
}

#[test]
fn specials_are_found_at_every_place_in_strings_of_every_length() {
    for length in 0..200 {
        for (special, accepted) in
            [("\"", false), ("\\n", true), ("\n", false), ("\u{1f}", false), ("\u{7f}", true), ("é", true)]
        {
            for at in [0, length / 3, length] {
                let text = format!("{}{special}{}", "a".repeat(at), "b".repeat(length - at));
                let body = format!("{{\"x\":\"{text}\",\"model\":\"m\"}}");
                assert_eq!(scan(body.as_bytes()).is_ok(), accepted, "{body:?}");
            }
        }
    }
}

/// A tenth of the rounds, unless the whole proof is asked for.
fn rounds(full: u32) -> u32 {
    #[expect(clippy::disallowed_methods, reason = "tests read their own switch")]
    let whole = std::env::var_os("LA_PROOF").is_some_and(|value| value == "1");
    if whole { full } else { full / 10 }
}

/// What `serde_json` makes of a body, last key winning, where no key stands for another.
fn reference(body: &[u8]) -> Option<(String, bool, Option<u64>)> {
    let value: Value = serde_json::from_slice(body).ok()?;
    let object = value.as_object()?;
    let model = object.get("model")?.as_str()?.to_owned();
    let stream = object.get("stream").and_then(Value::as_bool).unwrap_or_default();
    Some((model, stream, object.get("max_tokens").and_then(Value::as_u64)))
}

fn scalar() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "null",
        "true",
        "false",
        "0",
        "-0",
        "1024",
        "-1",
        "1.5",
        "1e5",
        "1E-400",
        "0e999",
        "1e400",
        "123456789012345678901234567890",
        "\"\"",
        "\"m\"",
        "\"claude\"",
        "\"\\u006d\"",
        "\"a\\\"b\"",
        "\"\\ud83d\\ude00\"",
        "\"\\ud83d\"",
        "\"é\"",
        "\"a\\\\\"",
        "\"\\n\\t\\/\\b\"",
        "01",
        "tru",
        "\"\\q\"",
        "[]",
        "{}",
        "[1,[2],{\"model\":\"x\"}]",
        "{\"user_id\":\"u\"}",
        "{\"a\":{\"a\":1}}",
    ])
    .prop_map(str::to_owned)
}

fn member() -> impl Strategy<Value = String> {
    let key = prop::sample::select(vec![
        "model",
        "model",
        "stream",
        "max_tokens",
        "metadata",
        "messages",
        "system",
        "x",
        "",
        "m\\u006fdel",
        "model ",
        "Model",
        "mödel",
    ]);
    (key, scalar(), prop::sample::select(vec!["", "", "", " ", "\n\t", ","]))
        .prop_map(|(key, value, space)| format!("{space}\"{key}\"{space}:{value}{space}"))
}

fn body() -> impl Strategy<Value = String> {
    let well =
        || prop::collection::vec(member(), 0..6).prop_map(|members| format!("{{{}}}", members.join(",")));
    let broken = (well(), any::<prop::sample::Index>(), "[ -~]{0,2}").prop_map(|(body, at, with)| {
        let at =
            (0..=at.index(body.len() + 1)).rev().find(|at| body.is_char_boundary(*at)).unwrap_or_default();
        format!("{}{with}{}", &body[..at], body[at..].chars().skip(1).collect::<String>())
    });
    prop_oneof![3 => well(), 1 => broken]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(rounds(100_000)) })]

    #[test]
    fn what_is_accepted_is_what_serde_json_reads(body in body()) {
        if let Ok(facts) = scan(body.as_bytes()) {
            let read = Some((facts.model.to_owned(), facts.stream, facts.max_tokens));
            prop_assert_eq!(read, reference(body.as_bytes()));
        }
    }

    #[test]
    fn what_serde_json_reads_is_accepted_or_refused_for_a_reason_of_ours(body in body()) {
        let known: Result<Value, _> = serde_json::from_str(&body);
        match scan(body.as_bytes()) {
            Err(FactsError::Syntax(fault)) => prop_assert!(known.is_err(), "{fault}"),
            // A key is refused where it stands, whatever follows.
            Err(FactsError::EscapedKey { at }) => prop_assert!(body[at..].contains('\\')),
            Err(FactsError::Duplicate { key }) => {
                let quoted = format!("\"{key}\"");
                prop_assert!(body.matches(&quoted).count() > 1);
            }
            Err(FactsError::NotAnObject) => prop_assert!(!known.unwrap().is_object()),
            Err(FactsError::NoModel) => prop_assert!(known.unwrap().get("model").is_none()),
            Err(_) => {}
            Ok(_) => prop_assert!(known.is_ok()),
        }
    }
}
