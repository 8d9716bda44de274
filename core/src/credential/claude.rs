//! Claude logins, setup tokens and API keys as files and Secrets hold them.
//!
//! Nothing here ever holds a refresh token, and no error repeats a part of what was read.

use serde::Deserialize;

use super::Credential;
use crate::secret::{Secret, exposed};
use crate::token;

/// Where a login may be, in a Claude home or a Secret, in the order they are tried.
pub const FILE_NAMES: [&str; 6] = [
    "credentials.json",
    ".credentials.json",
    "claude-credentials.json",
    "auth.json",
    "oauth.json",
    "config.json",
];

/// Fewest bytes of a credential; anything shorter is a slip.
const MIN_BYTES: usize = 8;

/// Most bytes of a credential. Claude's were 108 characters long (observed in 2026).
const MAX_BYTES: usize = 4096;

/// Times from here on are milliseconds: as seconds they would lie beyond the year 5138, as milliseconds
/// everything since March 1973 does.
pub(crate) const FIRST_MILLISECONDS: f64 = 1e11;

/// Why a text is not a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// There is nothing but white space.
    #[error("is empty")]
    Empty,
    /// A login file stands where one line is expected.
    #[error("is JSON; a login file goes under `oauth`")]
    Json,
    /// A token of ours stands where a vendor's credential is expected.
    #[error("is a token of la-router, not a vendor's credential")]
    OwnToken,
    /// The length is not plausible.
    #[error("has {found} bytes, a credential has {MIN_BYTES} to {MAX_BYTES}")]
    Length {
        /// Bytes found.
        found: usize,
    },
    /// It could not be sent in a header, or has a space in it.
    #[error(
        "has something other than printable ASCII at byte {at}; a credential has no spaces and is one line"
    )]
    Character {
        /// Where, from 0, after white space at the start.
        at: usize,
    },
}

/// Why a text is not a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// It is not JSON.
    #[error("is not JSON: stops making sense at line {line}, column {column}")]
    NotJson {
        /// Where, from 1.
        line: usize,
        /// Where, from 1.
        column: usize,
    },
    /// It is JSON, but a field has the wrong form or is there twice.
    #[error("is not a login: a field has the wrong type, or is there twice, at line {line}, column {column}")]
    Shape {
        /// Where, from 1.
        line: usize,
        /// Where, from 1.
        column: usize,
    },
    /// It is well-formed and has no access token.
    #[error("holds no access token, neither in `claudeAiOauth` nor beside it")]
    NoToken,
    /// The access token is not one.
    #[error("its access token {0}")]
    Token(TextError),
    /// The time the access token ends makes no sense.
    #[error("its `expiresAt` is not a time in milliseconds")]
    Expiry,
}

/// Why none of [`FILE_NAMES`] gave a login.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SearchError {
    /// One exists and is faulty.
    #[error("`{name}` {error}")]
    Faulty {
        /// Which.
        name: &'static str,
        /// What is wrong with it.
        error: LoginError,
    },
    /// Some exist, without a token.
    #[error("no access token in {}", listed(.names))]
    NoToken {
        /// Which exist.
        names: Vec<&'static str>,
    },
    /// None exists.
    #[error("none of {} exists", listed(&FILE_NAMES))]
    NoFile,
}

/// A login file. Everything else in it, the refresh token above all, is skipped unread.
#[derive(Deserialize)]
struct File {
    #[serde(rename = "claudeAiOauth", alias = "claude_ai_oauth", default)]
    nested: Option<Login>,
    #[serde(rename = "accessToken", alias = "access_token", default)]
    access_token: Option<Text>,
    #[serde(rename = "expiresAt", alias = "expires_at", default)]
    expires_at: Option<f64>,
}

#[derive(Deserialize)]
struct Login {
    #[serde(rename = "accessToken", alias = "access_token", default)]
    access_token: Option<Text>,
    #[serde(rename = "expiresAt", alias = "expires_at", default)]
    expires_at: Option<f64>,
}

#[derive(Deserialize)]
#[serde(transparent)]
struct Text(#[serde(with = "exposed")] Secret);

/// Reads a login file: nested under `claudeAiOauth`, as Claude Code writes it, or flat.
///
/// # Errors
/// When it is not JSON, has no access token, or a field makes no sense.
pub fn login(text: &str) -> Result<Credential, LoginError> {
    let file: File = serde_json::from_str(text).map_err(|error| unreadable(&error))?;
    let flat = Login { access_token: file.access_token, expires_at: file.expires_at };
    let found = [file.nested, Some(flat)].into_iter().flatten().find_map(|login| {
        let Text(token) = login.access_token?;
        (!token.expose().trim().is_empty()).then_some((token, login.expires_at))
    });
    let (token, expires_at) = found.ok_or(LoginError::NoToken)?;
    let access_token = one_line(token.expose()).map_err(LoginError::Token)?;
    let expires_at = expires_at.map(seconds).transpose()?;
    Ok(Credential::OAuth { access_token, expires_at })
}

/// Finds the login among [`FILE_NAMES`]: the first that exists and holds a token. One without a token is
/// skipped; a faulty one ends the search, so that another account is never taken by accident.
///
/// # Errors
/// When none holds a token, or one is faulty.
pub fn find_login(
    mut read: impl FnMut(&'static str) -> Option<Secret>,
) -> Result<(&'static str, Credential), SearchError> {
    let mut names = Vec::new();
    for name in FILE_NAMES {
        let Some(text) = read(name) else { continue };
        match login(text.expose()) {
            Ok(credential) => return Ok((name, credential)),
            Err(LoginError::NoToken) => names.push(name),
            Err(error) => return Err(SearchError::Faulty { name, error }),
        }
    }
    Err(if names.is_empty() { SearchError::NoFile } else { SearchError::NoToken { names } })
}

/// Reads what `claude setup-token` printed. When it ends is not known from it.
///
/// # Errors
/// When the text cannot be one.
pub fn setup_token(text: &str) -> Result<Credential, TextError> {
    one_line(text).map(|access_token| Credential::OAuth { access_token, expires_at: None })
}

/// Reads an API key.
///
/// # Errors
/// When the text cannot be one.
pub fn api_key(text: &str) -> Result<Credential, TextError> {
    one_line(text).map(|key| Credential::ApiKey { key })
}

pub(crate) fn one_line(text: &str) -> Result<Secret, TextError> {
    let text = text.trim();
    if text.is_empty() {
        return Err(TextError::Empty);
    }
    if text.starts_with('{') {
        return Err(TextError::Json);
    }
    if text.starts_with(token::PREFIX) {
        return Err(TextError::OwnToken);
    }
    if let Some(at) = text.bytes().position(|byte| !byte.is_ascii_graphic()) {
        return Err(TextError::Character { at });
    }
    if !(MIN_BYTES..=MAX_BYTES).contains(&text.len()) {
        return Err(TextError::Length { found: text.len() });
    }
    Ok(Secret::new(text))
}

/// Serde's own message may quote what it read; only the place is kept.
fn unreadable(error: &serde_json::Error) -> LoginError {
    let (line, column) = (error.line(), error.column());
    match error.classify() {
        serde_json::error::Category::Data => LoginError::Shape { line, column },
        _ => LoginError::NotJson { line, column },
    }
}

fn seconds(time: f64) -> Result<i64, LoginError> {
    let time = if time >= FIRST_MILLISECONDS { time / 1000.0 } else { time };
    if !(0.0..FIRST_MILLISECONDS).contains(&time) {
        return Err(LoginError::Expiry);
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the range above fits i64; parts of a second are cut"
    )]
    Ok(time as i64)
}

fn listed(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "sk-ant-oat01-canary";

    fn oauth(expires_at: Option<i64>) -> Credential {
        Credential::OAuth { access_token: Secret::new(TOKEN), expires_at }
    }

    #[test]
    fn every_known_spelling_of_a_login_is_read() {
        let cases = [
            (
                r#"{"claudeAiOauth":{"accessToken":"$T","refreshToken":"R","expiresAt":1790000000000,"scopes":["a"],"subscriptionType":"max"},"mcpOAuth":{}}"#,
                Some(1_790_000_000),
            ),
            (r#"{"claudeAiOauth":{"accessToken":"$T"}}"#, None),
            (r#"{"claudeAiOauth":{"access_token":"$T","expires_at":1790000000}}"#, Some(1_790_000_000)),
            (r#"{"accessToken":"$T","expiresAt":1790000000999}"#, Some(1_790_000_000)),
            (
                r#"{"access_token":" $T\n","refresh_token":"R","expires_at":1790000000.5}"#,
                Some(1_790_000_000),
            ),
            (r#"{"claudeAiOauth":null,"accessToken":"$T","expiresAt":null}"#, None),
            (r#"{"claudeAiOauth":{"accessToken":""},"accessToken":"$T"}"#, None),
            (r#"{"claudeAiOauth":{"accessToken":"$T"},"accessToken":"other-token"}"#, None),
        ];
        for (text, expires_at) in cases {
            let text = text.replace("$T", TOKEN);
            assert_eq!(login(&text), Ok(oauth(expires_at)), "{text}");
        }
    }

    #[test]
    fn faulty_login_is_refused_without_its_content() {
        let cases = [
            ("not json sk-ant-oat01-canary", "is not JSON: stops making sense at line 1, column 2"),
            (r#"["sk-ant-oat01-canary"]"#, "a field has the wrong type"),
            (r#"{"accessToken":"sk-ant-oat01-canary","#, "is not JSON"),
            (r#"{"claudeAiOauth":"sk-ant-oat01-canary"}"#, "a field has the wrong type"),
            (r#"{"accessToken":["sk-ant-oat01-canary"]}"#, "a field has the wrong type"),
            (r#"{"accessToken":"sk-ant-oat01-canary","accessToken":"x"}"#, "is there twice"),
            (
                r#"{"accessToken":"sk-ant-oat01-canary","expiresAt":"soon canary"}"#,
                "a field has the wrong type",
            ),
            (r#"{"accessToken":"sk-ant-oat01-canary","expiresAt":-1}"#, "`expiresAt` is not a time"),
            (r#"{"accessToken":"sk-ant-oat01-canary","expiresAt":1e300}"#, "`expiresAt` is not a time"),
            (
                r#"{"accessToken":"sk-ant canary"}"#,
                "its access token has something other than printable ASCII at byte 6",
            ),
            (r#"{"accessToken":"canary"}"#, "its access token has 6 bytes"),
            (r#"{"refreshToken":"sk-ant-ort01-canary"}"#, "holds no access token"),
            (r#"{"claudeAiOauth":{"accessToken":" "}}"#, "holds no access token"),
        ];
        for (text, expected) in cases {
            let error = login(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text} gave {error:?}");
            assert!(!error.contains("canary"), "{error:?} repeats the content");
        }
    }

    #[test]
    fn first_candidate_with_a_token_is_taken() {
        let login = format!(r#"{{"accessToken":"{TOKEN}"}}"#);
        let read = |name| match name {
            ".credentials.json" => Some(Secret::new(r#"{"mcpOAuth":{}}"#)),
            "auth.json" | "config.json" => Some(Secret::new(login.as_str())),
            _ => None,
        };
        assert_eq!(find_login(read), Ok(("auth.json", oauth(None))));
    }

    #[test]
    fn search_says_what_it_saw() {
        assert_eq!(find_login(|_| None), Err(SearchError::NoFile));
        let empty = |name| (name == "config.json").then(|| Secret::new("{}"));
        assert_eq!(find_login(empty).unwrap_err().to_string(), "no access token in `config.json`");
        let torn = |name| (name != "credentials.json").then(|| Secret::new("{"));
        let error = find_login(torn).unwrap_err().to_string();
        assert!(error.starts_with("`.credentials.json` is not JSON"), "{error}");
    }

    #[test]
    fn keys_and_setup_tokens_are_trimmed_and_checked() {
        assert_eq!(setup_token(&format!("  {TOKEN}\r\n")), Ok(oauth(None)));
        assert_eq!(
            api_key("sk-ant-api03-x\n"),
            Ok(Credential::ApiKey { key: Secret::new("sk-ant-api03-x") })
        );
        let cases = [
            (" \n".to_owned(), TextError::Empty),
            ("{\"accessToken\":1}".to_owned(), TextError::Json),
            ("la_sk_abc.def.ghi".to_owned(), TextError::OwnToken),
            ("short".to_owned(), TextError::Length { found: 5 }),
            ("k".repeat(4097), TextError::Length { found: 4097 }),
            ("two words".to_owned(), TextError::Character { at: 3 }),
            ("line-one\nline-two".to_owned(), TextError::Character { at: 8 }),
            ("schlüssel".to_owned(), TextError::Character { at: 4 }),
        ];
        for (text, expected) in cases {
            assert_eq!(api_key(&text), Err(expected), "{text}");
        }
    }
}
