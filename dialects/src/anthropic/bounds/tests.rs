//! Bounds that are never below what a vendor could count, and requests that nobody can bound.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const LIMITS: Limits = Limits { context_window: 1_000_000, max_output_tokens: 128_000, image_tokens: 4784 };

const ANY: &str = r#"{"model":"m"}"#;

fn estimate_of(body: &str) -> Estimate<'_> {
    extent(body).estimate(1024, &LIMITS)
}

fn extent(body: &str) -> Extent<'_> {
    scan(body.as_bytes()).unwrap().1
}

/// A request of one user message with these blocks.
fn with_blocks(blocks: &str) -> String {
    format!(r#"{{"model":"m","max_tokens":1,"messages":[{{"role":"user","content":[{blocks}]}}]}}"#)
}

/// A request with these members more.
fn with_members(members: &str) -> String {
    format!(r#"{{"model":"m","max_tokens":1,"messages":[{{"role":"user","content":"hi"}}],{members}}}"#)
}

fn image(data: &str) -> String {
    format!(r#"{{"type":"image","source":{{"type":"base64","media_type":"image/png","data":"{data}"}}}}"#)
}

/// What a body of only text comes to: its bytes, and the frame.
fn bytes(body: &str) -> u64 {
    body.len() as u64 + FRAME_TOKENS
}

#[test]
fn output_is_the_least_of_what_is_asked_and_possible() {
    for (asked, expected, what) in [
        (1024, 1024, "asked"),
        (100_000_000, 128_000, "more than the model gives"),
        (0, 0, "only to fill a cache"),
    ] {
        let bounds = extent(ANY).estimate(asked, &LIMITS).bounds;
        assert_eq!(bounds.output_tokens, expected, "{what}");
    }
}

#[test]
fn odd_max_tokens_are_refused_with_field_and_remedy() {
    for value in
        ["-1", "1.5", "1e3", "\"4096\"", "100000001", "99999999999999999999", "null", "true", "[1]", "{}"]
    {
        let body = format!(r#"{{"model":"m","max_tokens":{value},"messages":[]}}"#);
        let error = crate::facts::scan(body.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("`max_tokens` must be a whole number from 0 to"), "{value}: {error}");
    }
}

#[test]
fn text_counts_a_token_for_each_byte_of_the_body() {
    for body in [
        with_blocks(r#"{"type":"text","text":"hello"}"#),
        with_blocks(r#"{"text":"h\u00e9llo \ud83d\ude00","type":"text"},{"type":"text","text":"é😀"}"#),
        with_members(r#""system":"be brief","stop_sequences":["x"],"thinking":{"type":"adaptive"}"#),
        with_members(
            r#""system":[{"type":"text","text":"be brief"}],"tools":[],"mcp_servers":[ ],"container":null"#,
        ),
        with_blocks(
            r#"{"type":"thinking","thinking":"","signature":"QUJD"},{"type":"redacted_thinking","data":"QQ=="}"#,
        ),
        with_blocks(
            r#"{"type":"tool_use","id":"t","name":"n","input":{"type":"image","source":{"type":"base64","data":"AAAA"}}}"#,
        ),
        with_blocks(r#"{"type":"tool_result","tool_use_id":"t","content":"done"}"#),
        with_blocks(
            r#"{"type":"document","source":{"type":"text","media_type":"text/plain","data":"a page"}}"#,
        ),
        with_blocks(
            r#"{"type":"search_result","source":"a","title":"b","content":[{"type":"text","text":"c"}]}"#,
        ),
        with_members(
            r#""context_management":{"edits":[{"type":"clear_tool_uses_20250919"}]},"service_tier":"auto""#,
        ),
        r#" { "model" : "m" } "#.to_owned(),
    ] {
        let estimate = estimate_of(&body);
        assert_eq!((estimate.bounds.input_tokens, estimate.unbounded), (bytes(&body), None), "{body}");
    }
}

#[test]
fn an_image_counts_what_the_model_scales_it_to_wherever_it_may_stand() {
    let data = "A".repeat(100_000);
    let nested = |block: &str| format!(r#"{{"content":[{block}],"tool_use_id":"t","type":"tool_result"}}"#);
    let document =
        |block: &str| format!(r#"{{"source":{{"content":[{block}],"type":"content"}},"type":"document"}}"#);
    let reordered = format!(
        r#"{{"source":{{"data":"{data}","media_type":"image/png","type":"base64"}},"type":"image"}}"#
    );
    for (block, images) in [
        (image(&data), 1),
        (reordered, 1),
        (nested(&image(&data)), 1),
        (document(&image(&data)), 1),
        (nested(&document(&image(&data))), 1),
        (format!("{},{}", image(&data), nested(&image(&data))), 2),
    ] {
        let body = with_blocks(&block);
        let expected = bytes(&body) - images * 100_002 + images * LIMITS.image_tokens;
        assert_eq!(estimate_of(&body).bounds.input_tokens, expected, "{}", body.replace(&data, "…"));
    }
    let url = with_blocks(r#"{"type":"image","source":{"type":"url","url":"https://example.com/a.png"}}"#);
    assert_eq!(estimate_of(&url).bounds.input_tokens, bytes(&url) + LIMITS.image_tokens);
}

#[test]
fn what_only_looks_like_an_image_counts_by_its_bytes() {
    let data = "A".repeat(100_000);
    let image = image(&data);
    for block in [
        format!(r#"{{"type":"tool_use","id":"t","name":"n","input":{image}}}"#),
        format!(r#"{{"type":"tool_use","id":"t","name":"n","input":{{}},"content":[{image}]}}"#),
        format!(r#"{{"type":"text","text":"a","content":[{image}]}}"#),
        format!(r#"{{"type":"text","text":"a","source":{{"type":"base64","data":"{data}"}}}}"#),
        format!(r#"{{"type":"document","source":{{"type":"text","data":"{data}","content":[{image}]}}}}"#),
    ] {
        let body = with_blocks(&block);
        assert_eq!(estimate_of(&body).bounds.input_tokens, bytes(&body), "{}", body.replace(&data, "…"));
    }
    for members in [format!(r#""metadata":{image}"#), format!(r#""tool_choice":[{image}]"#)] {
        let body = with_members(&members);
        assert_eq!(estimate_of(&body).bounds.input_tokens, bytes(&body), "{}", body.replace(&data, "…"));
    }
}

#[test]
fn what_cannot_be_measured_counts_as_a_context_window() {
    for block in [
        r#"{"type":"document","source":{"type":"base64","media_type":"application/pdf","data":"JVBE"}}"#,
        r#"{"type":"document","source":{"type":"url","url":"https://example.com/a.pdf"}}"#,
        r#"{"type":"web_search_tool_result","tool_use_id":"t","content":[{"type":"web_search_result"}]}"#,
        r#"{"type":"web_fetch_tool_result","tool_use_id":"t","content":{}}"#,
        r#"{"type":"tool_search_tool_result","tool_use_id":"t","content":{}}"#,
        r#"{"type":"tool_result","tool_use_id":"t","content":[{"type":"document","source":{"type":"url","url":"u"}}]}"#,
    ] {
        let body = with_blocks(block);
        let estimate = estimate_of(&body);
        assert_eq!(
            (estimate.bounds.input_tokens, estimate.unbounded),
            (LIMITS.context_window, None),
            "{block}"
        );
    }
    let long = with_blocks(&format!(r#"{{"type":"text","text":"{}"}}"#, "a".repeat(2_000_000)));
    assert_eq!(estimate_of(&long).bounds.input_tokens, LIMITS.context_window, "longer than any context");
}

#[test]
fn without_the_models_limits_text_is_bounded_and_pages_are_not() {
    let text = with_blocks(r#"{"type":"text","text":"a"}"#);
    let bounds = extent(&text).estimate(1024, &Limits::UNKNOWN).bounds;
    assert_eq!((bounds.input_tokens, bounds.output_tokens), (bytes(&text), 1024));
    for block in [image("AAAA"), r#"{"type":"document","source":{"type":"url","url":"u"}}"#.to_owned()] {
        let body = with_blocks(&block);
        let bounds = extent(&body).estimate(1024, &Limits::UNKNOWN).bounds;
        assert_eq!(bounds.total_tokens(), u64::MAX, "{body}");
    }
}

#[test]
fn tools_count_their_bytes_and_what_the_vendor_adds() {
    for (tools, added) in [
        (r#"{"name":"a","input_schema":{"type":"object"}}"#, 1_032),
        (
            r#"{"type":"custom","name":"a","input_schema":{}},{"type":null,"name":"b","input_schema":{}}"#,
            1_064,
        ),
        (r#"{"type":"bash_20250124","name":"bash"}"#, 1_532),
        (r#"{"type":"text_editor_20250728","name":"str_replace_based_edit_tool"}"#, 2_032),
        (r#"{"type":"computer_toolset_20260801"},{"type":"browser_toolset_20260801"}"#, 17_064),
    ] {
        let body = with_members(&format!(r#""tools":[{tools}]"#));
        let estimate = estimate_of(&body);
        assert_eq!(
            (estimate.bounds.input_tokens, estimate.unbounded),
            (bytes(&body) + added, None),
            "{tools}"
        );
    }
}

#[test]
fn every_reference_to_a_tool_brings_in_its_definition() {
    let long = format!(r#"{{"name":"a","description":"{}","input_schema":{{}}}}"#, "x".repeat(500));
    let body = format!(
        r#"{{"model":"m","messages":[{{"role":"user","content":[{{"type":"tool_result","tool_use_id":"t","content":[
            {{"type":"tool_reference","tool_name":"a"}},{{"type":"tool_reference","tool_name":"a"}}]}}]}}],
            "tools":[{long},{{"name":"b","input_schema":{{}}}}]}}"#
    );
    let expected = bytes(&body) + 1_064 + 2 * long.len() as u64;
    assert_eq!(estimate_of(&body).bounds.input_tokens, expected);
}

#[test]
fn formats_and_citations_add_what_the_vendor_writes_for_them() {
    let text = r#"{"type":"text","data":"a"}"#;
    for body in [
        with_members(r#""output_config":{"format":{"type":"json_schema","schema":{}}}"#),
        with_members(r#""output_format":{"type":"json_schema","schema":{}}"#),
        with_blocks(&format!(r#"{{"type":"document","source":{text},"citations":{{"enabled":true}}}}"#)),
    ] {
        assert_eq!(estimate_of(&body).bounds.input_tokens, bytes(&body) + FORMAT_TOKENS, "{body}");
    }
}

#[test]
fn what_nobody_can_bound_is_named() {
    use Unbounded::*;
    for (body, what) in [
        (
            with_members(r#""tools":[{"type":"web_search_20260318","name":"web_search"}]"#),
            Tool("web_search_20260318"),
        ),
        (with_members(r#""tools":[{"type":"web_fetch_20260318","name":"f"}]"#), Tool("web_fetch_20260318")),
        (
            with_members(r#""tools":[{"type":"code_execution_20260521","name":"c"}]"#),
            Tool("code_execution_20260521"),
        ),
        (with_members(r#""tools":[{"type":"advisor_20260301","name":"a"}]"#), Tool("advisor_20260301")),
        (with_members(r#""tools":[{"type":"mcp_toolset"}]"#), Tool("mcp_toolset")),
        (with_members(r#""tools":[{"type":"b\u0061sh_20250124"}]"#), Tool("b\\u0061sh_20250124")),
        (with_members(r#""tools":[{"type":"next year's"}]"#), Tool("(unreadable)")),
        (with_members(r#""tools":[{"type":"custom","type":"web_search_20260318"}]"#), Ambiguous),
        (with_members(r#""mcp_servers":[{"type":"url","url":"https://example.com"}]"#), McpServers),
        (with_members(r#""container":"container_1""#), Container),
        (with_members(r#""thread":{"type":"continue","previous_message_id":"msg_1"}"#), Thread),
        (with_members(r#""compaction":{}"#), Compaction),
        (with_members(r#""context_management":{"edits":[{"type":"compact_20260112"}]}"#), Compaction),
        (with_members(r#""context_management":{"edits":[{"type":"c\u006fmpact_20260112"}]}"#), Compaction),
        (with_members(r#""fallbacks":[{"model":"claude-opus-5"}]"#), Fallbacks),
        (with_members(r#""fallbacks":"default""#), Fallbacks),
        (with_members(r#""speed":"ludicrous""#), Field("speed")),
        (with_members(r#""something_new":1"#), Field("something_new")),
        (with_blocks(r#"{"type":"image","source":{"type":"file","file_id":"file_1"}}"#), File),
        (with_blocks(r#"{"type":"document","source":{"type":"file","file_id":"file_1"}}"#), File),
        (with_blocks(r#"{"type":"container_upload","file_id":"file_1"}"#), File),
        (
            with_blocks(
                r#"{"type":"tool_result","tool_use_id":"t","content":[{"type":"image","source":{"type":"file"}}]}"#,
            ),
            File,
        ),
        (with_blocks(r#"{"type":"hologram"}"#), Content("hologram")),
        (with_blocks(r#"{"text":"no type"}"#), Content("")),
        (with_blocks(r#"{"type":"image"}"#), Content("image")),
        (with_blocks(r#"{"type":"image","source":{"type":"ftp"}}"#), Content("ftp")),
        (with_blocks(r#"{"type":"document","source":{"url":"no type"}}"#), Content("")),
        (with_blocks(r#"{"type":"text","type":"image","source":{"type":"url"}}"#), Ambiguous),
        (with_blocks(r#"{"type":"image","source":{"type":"url"},"source":{"type":"file"}}"#), Ambiguous),
        (with_blocks(r#"{"type":"image","source":{"type":"base64","data":"A","data":"B"}}"#), Ambiguous),
        (
            with_blocks(r#"{"type":"tool_addition","tool":{"type":"tool_definition","definition":{}}}"#),
            Content("tool_addition"),
        ),
    ] {
        let estimate = estimate_of(&body);
        assert_eq!(estimate.unbounded, Some(what), "{body}");
        assert_eq!(estimate.bounds.input_tokens, LIMITS.context_window, "{body}");
        assert!(!what.to_string().is_empty());
    }
}

#[test]
fn content_that_nests_deeper_than_any_documented_is_not_bounded() {
    let mut block = r#"{"type":"text","text":"a"}"#.to_owned();
    for level in 1..60 {
        block = format!(r#"{{"type":"tool_result","tool_use_id":"t","content":[{block}]}}"#);
        let body = with_blocks(&block);
        assert_eq!(estimate_of(&body).unbounded.is_some(), level > 2, "{level} levels");
    }
    for (levels, is_bounded) in [(2, true), (3, false)] {
        let inner = r#"{"type":"tool_result","tool_use_id":"t","content":"#;
        let block = [inner].repeat(levels).join("[") + r#""a text""# + &["}"].repeat(levels).join("]");
        let body = with_blocks(&block);
        assert_eq!(estimate_of(&body).unbounded.is_none(), is_bounded, "{body}");
    }
}

#[test]
fn keys_that_could_pass_as_others_are_refused() {
    for body in [
        r#"{"mcp_s\u0065rvers":[{}]}"#.to_owned(),
        with_blocks(r#"{"type":"image","sourc\u0065":{"type":"url"}}"#),
        with_blocks(r#"{"type":"image","source":{"typ\u0065":"url"}}"#),
        with_members(r#""tools":[{"typ\u0065":"web_search_20260318"}]"#),
    ] {
        let error = scan(body.as_bytes()).unwrap_err();
        assert!(matches!(error, FactsError::EscapedKey { .. }), "{body}: {error}");
    }
}

#[test]
fn the_longest_asked_for_cache_counts_wherever_it_is_asked_for() {
    use Caching::*;
    let block =
        |control: &str| with_blocks(&format!(r#"{{"type":"text","text":"a","cache_control":{control}}}"#));
    let five = r#"{"type":"ephemeral"}"#;
    let hour = r#"{"type":"ephemeral","ttl":"1h"}"#;
    for (body, caching) in [
        (with_blocks(r#"{"type":"text","text":"cache_control"}"#), None),
        (block("null"), None),
        (block(five), FiveMinutes),
        (block(r#"{"type":"ephemeral","ttl":"5m"}"#), FiveMinutes),
        (block(hour), OneHour),
        (block(r#"{"type":"ephemeral","ttl":"\u0031h"}"#), OneHour),
        (block(r#"{"type":"ephemeral","ttl":"1d"}"#), OneHour),
        (with_members(&format!(r#""cache_control":{hour}"#)), OneHour),
        (with_members(&format!(r#""tools":[{{"name":"a","cache_control":{five}}}]"#)), FiveMinutes),
        (
            with_members(&format!(r#""system":[{{"type":"text","text":"a","cache_control":{hour}}}]"#)),
            OneHour,
        ),
        (
            with_blocks(&format!(
                r#"{{"type":"tool_result","content":[{{"type":"text","text":"a","cache_control":{hour}}}]}}"#
            )),
            OneHour,
        ),
        (
            with_blocks(&format!(
                r#"{{"type":"search_result","content":[{{"type":"text","text":"a","cache_control":{hour}}}]}}"#
            )),
            OneHour,
        ),
        (
            with_members(&format!(
                r#""system":[{{"type":"text","cache_control":{hour}}},{{"type":"text","cache_control":{five}}}]"#
            )),
            OneHour,
        ),
    ] {
        assert_eq!(estimate_of(&body).bounds.caching, caching, "{body}");
    }
}

#[test]
fn speed_and_region_are_the_dearest_that_the_request_leaves_open() {
    for (members, fast, regional) in [
        (r#""x":null"#, false, true),
        (r#""speed":"fast""#, true, true),
        (r#""speed":"standard","inference_geo":"us""#, false, true),
        (r#""speed":null,"inference_geo":"global""#, false, false),
        (r#""inference_geo":"us","inference_geo":"global""#, false, true),
        (r#""inference_geo":"global","inference_geo":"us""#, false, true),
        (r#""speed":"fast","speed":"standard""#, true, true),
    ] {
        let body = with_members(members);
        let Bounds { fast: may_be_fast, regional: may_be_regional, .. } = estimate_of(&body).bounds;
        assert_eq!((may_be_fast, may_be_regional), (fast, regional), "{members}");
    }
}

/// Some content as JSON, and the most tokens that a vendor could plausibly count for it.
fn any_text() -> impl Strategy<Value = (Value, u64)> {
    prop_oneof!["[ -~]{0,40}", "\\PC{0,20}", "[\\x00-\\x1f\"\\\\é😀]{0,20}"].prop_map(|text: String| {
        let tokens = text.len() as u64;
        (json!({"type": "text", "text": text}), tokens)
    })
}

fn any_image() -> impl Strategy<Value = (Value, u64)> {
    ("[A-Za-z0-9+/]{0,200}", 0..=LIMITS.image_tokens).prop_map(|(data, tokens)| {
        (
            json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}),
            tokens,
        )
    })
}

/// An input or a schema, in which everything is text, even what looks like an image.
fn any_json() -> impl Strategy<Value = (Value, u64)> {
    let image = any_image().prop_map(|(image, _)| image);
    prop_oneof![image, any_text().prop_map(|(text, _)| text)].prop_map(|value| {
        let tokens = value.to_string().len() as u64;
        (value, tokens)
    })
}

fn any_block() -> impl Strategy<Value = (Value, u64)> {
    let nested = prop::collection::vec(prop_oneof![any_text(), any_image()], 0..4).prop_map(|blocks| {
        let (content, tokens): (Vec<Value>, Vec<u64>) = blocks.into_iter().unzip();
        (json!({"type": "tool_result", "tool_use_id": "t", "content": content}), tokens.iter().sum())
    });
    let call = any_json().prop_map(|(input, tokens)| {
        (json!({"type": "tool_use", "id": "t", "name": "n", "input": input}), tokens)
    });
    let document = any_text().prop_map(|(text, tokens)| {
        (json!({"type": "document", "source": {"type": "text", "data": text["text"]}}), tokens)
    });
    prop_oneof![any_text(), any_image(), nested, call, document]
}

/// A request, and the most tokens that a vendor could plausibly count for it.
fn any_request() -> impl Strategy<Value = (Value, u64)> {
    let messages = prop::collection::vec(prop::collection::vec(any_block(), 0..4), 0..4);
    let tools = prop::collection::vec(any_json(), 0..3);
    (messages, tools, any_text()).prop_map(|(messages, tools, (system, system_tokens))| {
        let mut tokens = system_tokens + if tools.is_empty() { 0 } else { 804 };
        let mut count = |(value, more): (Value, u64)| {
            tokens += more;
            value
        };
        let messages: Vec<Value> = messages
            .into_iter()
            .map(|blocks| json!({"role": "user", "content": blocks.into_iter().map(&mut count).collect::<Vec<_>>()}))
            .collect();
        let tools: Vec<Value> =
            tools.into_iter().map(|tool| json!({"name": "n", "input_schema": count(tool)})).collect();
        // Some four special tokens a message.
        tokens += 4 * messages.len() as u64;
        (json!({"model": "m", "messages": messages, "tools": tools, "system": system["text"]}), tokens)
    })
}

/// A tenth of the cases, unless the whole proof is asked for.
fn cases(full: u32) -> ProptestConfig {
    #[expect(clippy::disallowed_methods, reason = "tests read their own switch")]
    let whole = std::env::var_os("LA_PROOF").is_some_and(|value| value == "1");
    ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(if whole { full } else { full / 10 })
    }
}

proptest! {
    #![proptest_config(cases(5_000))]

    #[test]
    fn the_bound_is_never_below_a_plausible_count((request, tokens) in any_request()) {
        let body = request.to_string();
        let estimate = estimate_of(&body);
        prop_assert_eq!(estimate.unbounded, None);
        prop_assert!(estimate.bounds.input_tokens >= tokens.min(LIMITS.context_window), "{}", body);
    }

    #[test]
    fn a_piece_less_or_more_is_bounded_or_refused_as_without_its_extent(
        (request, _) in any_request(), at in any::<prop::sample::Index>(), with in any::<[u8; 2]>(),
        take in 0..3_usize,
    ) {
        let mut body = request.to_string().into_bytes();
        let from = at.index(body.len());
        body.splice(from..(from + take).min(body.len()), with);
        same_as_without_extent(&body)?;
        if let Ok((_, extent)) = scan(&body) {
            prop_assert!(extent.estimate(1, &LIMITS).bounds.input_tokens <= LIMITS.context_window);
        }
    }

    #[test]
    fn what_is_accepted_and_found_does_not_depend_on_whether_the_extent_is_taken(
        text in "[\\[\\]{}:,\"a-c\\\\ 1u]{0,64}",
        key in prop_oneof![Just("messages"), Just("system"), Just("tools"), Just("speed"), Just("x")],
        (open, close) in prop_oneof![
            Just(("", "")), Just(("[", "]")), Just((r#"[{"content":"#, "}]")), Just((r#"[{"source":{"data":"#, "}}]")),
        ],
    ) {
        same_as_without_extent(text.as_bytes())?;
        same_as_without_extent(format!(r#"{{"{key}":{open}{text}{close},"model":"m"}}"#).as_bytes())?;
    }

    #[test]
    fn nesting_is_accepted_to_the_same_depth_wherever_it_stands(
        depth in 110..130_usize,
        (open, close) in prop_oneof![
            Just((r#""messages":"#, "")), Just((r#""messages":["#, "]")), Just((r#""messages":[{"role":"#, "}]")),
            Just((r#""messages":[{"content":"#, "}]")), Just((r#""messages":[{"content":["#, "]}]")),
            Just((r#""messages":[{"content":[{"text":"#, "}]}]")),
            Just((r#""messages":[{"content":[{"source":{"x":"#, "}}]}]")),
            Just((r#""system":[{"content":[{"source":{"content":[{"x":"#, "}]}}]}]")),
            Just((r#""system":[{"content":[{"content":[{"content":"#, "}]}]}]")),
            Just((r#""tools":"#, "")), Just((r#""tools":["#, "]")), Just((r#""tools":[{"type":"#, "}]")),
            Just((r#""x":"#, "")),
        ],
    ) {
        let (left, right) = ("[".repeat(depth), "]".repeat(depth));
        same_as_without_extent(format!(r#"{{{open}{left}{right}{close},"model":"m"}}"#).as_bytes())?;
    }
}

/// Asserts that the facts, or what is wrong, are those of [`facts::scan`], but for keys that are read only here.
fn same_as_without_extent(body: &[u8]) -> Result<(), TestCaseError> {
    let (with, without) = (scan(body).map(|(facts, _)| facts), facts::scan(body));
    if !matches!(with, Err(FactsError::EscapedKey { .. })) {
        prop_assert_eq!(with, without, "{}", String::from_utf8_lossy(body));
    }
    Ok(())
}
