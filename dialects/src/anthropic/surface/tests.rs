//! What is found, and how little.

use proptest::prelude::*;

use super::*;

fn target(method: &str, path: &str, query: Option<&str>) -> Result<(Operation, String), NotFound> {
    find(method, path, query).map(|found| {
        let query = found.upstream_query.map(|query| format!("?{query}")).unwrap_or_default();
        (found.operation, format!("{}{query}", found.upstream_path))
    })
}

#[test]
fn every_listed_operation_is_found_under_both_prefixes() {
    let cases = [
        ("POST", "/v1/messages", None, Operation::Messages, "/v1/messages"),
        ("POST", "/v1/messages", Some(""), Operation::Messages, "/v1/messages"),
        ("POST", "/v1/messages", Some("beta=true"), Operation::Messages, "/v1/messages?beta=true"),
        ("POST", "/v1/messages/count_tokens", None, Operation::CountTokens, "/v1/messages/count_tokens"),
        ("GET", "/v1/models", Some("limit=1000"), Operation::Models, "/v1/models?limit=1000"),
        (
            "GET",
            "/v1/models",
            Some("before_id=b&limit=2&after_id=a"),
            Operation::Models,
            "/v1/models?limit=2&after_id=a&before_id=b",
        ),
        ("GET", "/v1/models/claude-opus-5", None, Operation::Model, "/v1/models/claude-opus-5"),
        ("GET", "/v1/models/us.a_b-v2:0@x", None, Operation::Model, "/v1/models/us.a_b-v2:0@x"),
    ];
    for (method, path, query, operation, upstream) in cases {
        let expected = Ok((operation, upstream.to_owned()));
        assert_eq!(target(method, path, query), expected, "{method} {path} {query:?}");
        let legacy = format!("/api/latest/anthropic{path}");
        assert_eq!(target(method, &legacy, query), expected, "{method} {legacy} {query:?}");
    }
}

#[test]
fn local_operations_are_found_without_the_legacy_prefix_only() {
    assert_eq!(find("GET", "/health", None).map(|found| found.operation), Ok(Operation::Health));
    assert_eq!(find("HEAD", "/", None).map(|found| found.operation), Ok(Operation::Root));
    for path in ["/api/latest/anthropic", "/api/latest/anthropic/", "/api/latest/anthropic/health"] {
        assert_eq!(find("GET", path, None), Err(NotFound::Path), "{path}");
    }
}

#[test]
fn model_in_the_path_is_told() {
    let found = find("GET", "/api/latest/anthropic/v1/models/claude-opus-5", None).unwrap();
    assert_eq!(found.model, Some("claude-opus-5"));
    assert_eq!(find("GET", "/v1/models", None).unwrap().model, None);
}

#[test]
fn other_paths_are_not_found() {
    let long = format!("/v1/models/{}", "x".repeat(129));
    let cases = [
        ("", "empty"),
        ("*", "asterisk form"),
        ("http://host/v1/messages", "absolute form"),
        ("//v1/messages", "double slash"),
        ("/v1//messages", "inner double slash"),
        ("/v1/messages/", "trailing slash"),
        ("/v1/./messages", "dot segment"),
        ("/v1/models/../messages", "dot-dot segment"),
        ("/v1/models/.", "dot as an id"),
        ("/v1/models/..", "dot-dot as an id"),
        ("/v1/models/", "no id"),
        ("/v1/models/a/b", "a path below an id"),
        ("/v1/models/a%2fb", "encoded slash in an id"),
        ("/v1/models/%2e%2e", "encoded dots in an id"),
        ("/v1/models/a;b", "parameter in an id"),
        ("/v1/models/a\\b", "backslash in an id"),
        ("/v1/models/a b", "space in an id"),
        ("/v1/models/é", "non-ASCII in an id"),
        (&long, "over-long id"),
        ("/v1/%6dessages", "encoded letter"),
        ("/v1/messages%2f", "encoded slash"),
        ("/v1/messages;x=1", "path parameter"),
        ("/v1\\messages", "backslash"),
        ("/V1/messages", "upper case"),
        ("/v1/messages/batches", "batches"),
        ("/v1/files", "files"),
        ("/v1/organizations/x", "organisation"),
        ("/api/oauth/profile", "account"),
        ("/api/oauth/claude_cli/roles", "account roles"),
        ("/v1/oauth/token", "token endpoint"),
        ("/api/latest/anthropic/api/latest/anthropic/v1/messages", "prefix twice"),
        ("/api/latest/anthropicv1/messages", "prefix without a slash"),
        ("/health/", "health with a slash"),
        ("/v1/messages\0", "NUL"),
    ];
    for (path, what) in cases {
        for method in ["GET", "POST", "HEAD"] {
            assert_eq!(find(method, path, None), Err(NotFound::Path), "{what}: {method} {path:?}");
        }
    }
}

#[test]
fn other_methods_are_refused_with_the_one_that_is_allowed() {
    let cases = [
        ("/v1/messages", "POST"),
        ("/v1/messages/count_tokens", "POST"),
        ("/v1/models", "GET"),
        ("/v1/models/x", "GET"),
        ("/health", "GET"),
        ("/", "HEAD"),
    ];
    for (path, allow) in cases {
        for method in
            ["GET", "POST", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "post", ""]
        {
            let found = find(method, path, None);
            if method == allow {
                assert!(found.is_ok(), "{method} {path}");
            } else {
                assert_eq!(found, Err(NotFound::Method { allow }), "{method} {path}");
            }
        }
    }
}

#[test]
fn other_query_parameters_are_refused_by_name() {
    let cases = [
        ("POST", "/v1/messages", "beta=false", "beta"),
        ("POST", "/v1/messages", "beta", "beta"),
        ("POST", "/v1/messages", "beta=true&beta=true", "beta"),
        ("POST", "/v1/messages", "beta=true&api_key=x", "api_key"),
        ("POST", "/v1/messages", "limit=1", "limit"),
        ("POST", "/v1/messages", "sk-ant-%61=x", ""),
        ("POST", "/v1/messages", "&", ""),
        ("POST", "/v1/messages", "bet%61=true", ""),
        ("GET", "/v1/models", "limit=0", "limit"),
        ("GET", "/v1/models", "limit=01", "limit"),
        ("GET", "/v1/models", "limit=+1", "limit"),
        ("GET", "/v1/models", "limit=1001", "limit"),
        ("GET", "/v1/models", "limit=", "limit"),
        ("GET", "/v1/models", "after_id=a%20b", "after_id"),
        ("GET", "/v1/models", "after_id=..", "after_id"),
        ("GET", "/v1/models", "beta=true", "beta"),
        ("GET", "/v1/models/x", "limit=1", "limit"),
        ("GET", "/health", "x=1", "x"),
        ("HEAD", "/", "x=1", "x"),
    ];
    for (method, path, query, name) in cases {
        let expected = Err(NotFound::Query { name: name.to_owned() });
        assert_eq!(find(method, path, Some(query)), expected, "{path}?{query}");
    }
}

/// A tenth of the rounds, unless the whole proof is asked for.
fn rounds(full: u32) -> u32 {
    #[expect(clippy::disallowed_methods, reason = "tests read their own switch")]
    let whole = std::env::var_os("LA_PROOF").is_some_and(|value| value == "1");
    if whole { full } else { full / 10 }
}

fn piece() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "/",
        "/v1",
        "/messages",
        "/models",
        "/count_tokens",
        "/api/latest/anthropic",
        "/health",
        "/.",
        "/..",
        "%2e",
        "%2f",
        ";",
        "\\",
        "//",
        "beta=true",
        "claude-opus-5",
        "?",
        "#",
        "@",
        ":",
        "%00",
        "\r\n",
        " ",
    ])
    .prop_map(str::to_owned);
    prop_oneof![8 => known, 1 => "[ -~]{0,8}", 1 => "\\PC{0,4}"]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(rounds(100_000)) })]

    #[test]
    fn whatever_is_asked_for_only_table_targets_go_upstream(
        method in prop::sample::select(vec!["GET", "POST", "HEAD", "PUT"]),
        path in prop::collection::vec(piece(), 0..6).prop_map(|pieces| pieces.concat()),
        query in prop::option::of(prop::collection::vec(piece(), 0..3).prop_map(|pieces| pieces.join("&"))),
    ) {
        if let Ok(found) = find(method, &path, query.as_deref()) {
            let fixed = ["/v1/messages", "/v1/messages/count_tokens", "/v1/models", "/health", "/"];
            let by_id = found.upstream_path.strip_prefix("/v1/models/").is_some_and(is_id);
            prop_assert!(fixed.contains(&found.upstream_path.as_ref()) || by_id, "{}", found.upstream_path);
            let query = found.upstream_query.unwrap_or_default();
            prop_assert!(query.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:@-=&".contains(&b)), "{query}");
        }
    }
}
