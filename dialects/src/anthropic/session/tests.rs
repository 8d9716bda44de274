use super::*;
use crate::facts::scan;

fn of(fields: &[(&str, &str)], body: &str) -> Option<String> {
    let facts = scan(body.as_bytes()).unwrap();
    let fields = fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    session(fields, &facts).map(Cow::into_owned)
}

const BARE: &str = r#"{"model":"m"}"#;

#[test]
fn head_says_it_before_the_body_and_in_a_fixed_order() {
    let body = r#"{"model":"m","session_id":"from-body"}"#;
    let all = [
        ("session-id", "4"),
        ("x-session-id", "3"),
        ("x-codex-session-id", "2"),
        ("x-claude-code-session-id", " 1 "),
    ];
    for (sent, expected) in [(1, "4"), (2, "3"), (3, "2"), (4, "1")] {
        assert_eq!(of(&all[..sent], body).as_deref(), Some(expected), "{:?}", &all[..sent]);
    }
    assert_eq!(of(&[("session", "x"), ("cookie", "session-id=1")], body).as_deref(), Some("from-body"));
}

#[test]
fn both_forms_of_claude_codes_user_id_carry_it() {
    for (user, expected) in [
        (r#"user_ab12_account__session_1f3a-5c"#, Some("1f3a-5c")),
        (r#"{\"device_id\":\"d\",\"account_uuid\":\"\",\"session_id\":\"1f3a-5c\"}"#, Some("1f3a-5c")),
        (r#"{\"session_id\":\"a\\u0062c\"}"#, Some("abc")),
        (r#"user\u005fx_session_\u0031"#, Some("1")),
        (r#"user_without"#, None),
        (r#"user_x_session_"#, None),
        (r#"{\"session_id\":5}"#, None),
        (r#"{\"session_id\":"#, None),
        (r#"{\"other\":\"x_session_y\"}"#, None),
    ] {
        let body = format!(r#"{{"model":"m","metadata":{{"user_id":"{user}"}}}}"#);
        assert_eq!(of(&[], &body).as_deref(), expected, "{user}");
        let body = format!(
            r#"{{"model":"m","prompt_cache_key":"p","metadata":{{"session_id":"s","user_id":"{user}"}}}}"#
        );
        assert_eq!(of(&[], &body).as_deref(), expected.or(Some("s")), "{user} with another id");
    }
}

#[test]
fn id_that_cannot_be_one_is_none_and_the_next_place_is_asked() {
    let long = "x".repeat(257);
    for bad in ["", "a\u{1}b", "a\u{7f}", long.as_str()] {
        assert_eq!(of(&[("session-id", bad)], BARE), None, "{bad:?}");
        let both = [("x-session-id", bad), ("session-id", "good")];
        assert_eq!(of(&both, BARE).as_deref(), Some("good"), "{bad:?}");
    }
    let fits = "x".repeat(256);
    assert_eq!(of(&[("session-id", &fits)], BARE), Some(fits));
    for bad in [r"a\nb", r"\u0000", r"", long.as_str()] {
        let body = format!(r#"{{"model":"m","session_id":"{bad}","prompt_cache_key":"good"}}"#);
        assert_eq!(of(&[], &body).as_deref(), Some("good"), "{bad}");
    }
    let facts = scan(BARE.as_bytes()).unwrap();
    let bytes: [(&[u8], &[u8]); 1] = [(b"session-id", b"\xff")];
    assert_eq!(session(bytes.into_iter(), &facts), None);
}
