use super::*;

fn error(kind: &str, message: &str) -> String {
    serde_json::json!({"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"})
        .to_string()
}

#[test]
fn type_decides_whatever_the_status_is() {
    for (kind, expected) in [
        ("rate_limit_error", Class::Quota),
        ("billing_error", Class::Quota),
        ("overloaded_error", Class::Overload),
        ("authentication_error", Class::Auth),
        ("request_too_large", Class::ContextTooLong),
        ("not_found_error", Class::Client),
        ("conflict_error", Class::Client),
        ("timeout_error", Class::Unknown),
    ] {
        for status in [200, 400, 401, 403, 429, 500, 529] {
            assert_eq!(class(status, error(kind, "…").as_bytes()), expected, "{kind} with {status}");
        }
    }
}

#[test]
fn code_decides_before_the_type() {
    for (code, expected) in [
        ("credit_balance_too_low", Class::Quota),
        ("usage_limit_reached", Class::Quota),
        ("prompt_too_long", Class::ContextTooLong),
        ("token_expired", Class::Auth),
        ("overloaded_error", Class::Overload),
        ("something_new", Class::Client),
    ] {
        let body = format!(
            r#"{{"error":{{"details":{{"error_code":"{code}","more":[1]}},"type":"invalid_request_error","message":"no"}}}}"#
        );
        assert_eq!(class(400, body.as_bytes()), expected, "{code}");
    }
}

#[test]
fn status_decides_about_a_body_that_nobody_can_read() {
    let bodies: [&[u8]; 7] = [
        b"",
        b"<html><body><h1>502 Bad Gateway</h1> rate limit, overloaded, prompt is too long</body></html>",
        b"{\"type\":\"error\",\"error\":{\"type\":\"rate_limit_error\"",
        b"{\"error\":\"overloaded_error\"}",
        b"{\"error\":{\"type\":5}}",
        b"\xff\xfe",
        b"[]",
    ];
    for body in bodies {
        for (status, expected) in [
            (302, Class::Unknown),
            (400, Class::Client),
            (401, Class::Auth),
            (402, Class::Quota),
            (403, Class::Auth),
            (404, Class::Client),
            (408, Class::Unknown),
            (413, Class::ContextTooLong),
            (422, Class::Client),
            (429, Class::Quota),
            (500, Class::Unknown),
            (502, Class::Unknown),
            (503, Class::Unknown),
            (529, Class::Overload),
            (530, Class::Unknown),
        ] {
            assert_eq!(class(status, body), expected, "{status} with {:?}", String::from_utf8_lossy(body));
        }
    }
}

#[test]
fn text_decides_only_where_code_and_status_are_general() {
    let (invalid, permission) = ("invalid_request_error", "permission_error");
    for (status, kind, message, expected) in [
        (
            403,
            permission,
            "OAuth authentication is currently not allowed for this organization.",
            Class::Auth,
        ),
        (403, permission, "You have exceeded your usage limit for this month", Class::Quota),
        (403, permission, "Rate limit reached for this organization", Class::Quota),
        (403, "", "Your credit balance is too low", Class::Quota),
        (400, invalid, "Your credit balance is too low to access the Anthropic API.", Class::Quota),
        (400, invalid, "You have reached your specified API usage limits.", Class::Quota),
        (400, invalid, "prompt is too long: 208310 tokens > 200000 maximum", Class::ContextTooLong),
        (
            400,
            invalid,
            "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000",
            Class::ContextTooLong,
        ),
        (400, invalid, "max_tokens: 900000 > 128000, which is the maximum allowed", Class::Client),
        (400, invalid, "max tokens must be at least 1", Class::Client),
        (400, invalid, "tools.0.custom.name: 'capacity' is not a valid name", Class::Client),
        (
            400,
            invalid,
            "messages.1.content.0.text: `what is my usage limit and credit balance`",
            Class::Client,
        ),
        (400, invalid, "tool names must be unique: 'rate limit'", Class::Client),
        (400, invalid, "billing, overloaded, too long, too many requests", Class::Client),
        (429, invalid, "slow down", Class::Quota),
        (401, invalid, "who are you", Class::Auth),
        (500, invalid, "no", Class::Client),
        (500, "api_error", "rate limit", Class::Unknown),
        (529, "api_error", "Overloaded", Class::Overload),
        (404, "api_error", "usage limit", Class::Client),
        (200, "api_error", "Internal server error", Class::Unknown),
        (200, invalid, "prompt is too long: 9 tokens > 8 maximum", Class::ContextTooLong),
        (200, invalid, "messages: at least one message is required", Class::Client),
    ] {
        assert_eq!(class(status, error(kind, message).as_bytes()), expected, "{status} {kind}: {message}");
    }
}
