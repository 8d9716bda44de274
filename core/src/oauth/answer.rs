//! What the token endpoint's answers mean.

use serde::Deserialize;
use serde_json::Value;

use crate::credential::claude;
use crate::secret::{Secret, exposed};

/// Most bytes of an answer that are read (the official SDK's limit).
pub const MAX_ANSWER_BYTES: usize = 1 << 20;

/// How long an access token lives when the answer does not say: 8 h (measured on 2026-09-12).
const LIFETIME_DEFAULT_SECONDS: f64 = 28_800.0;

/// Longest believable life of an access token: a setup token's year, and some.
const LIFETIME_MAX_SECONDS: f64 = 400.0 * 86_400.0;

/// Longest wait that a `retry-after` can ask for, in seconds. A longer one would outlast the access token.
const MAX_RETRY_AFTER_SECONDS: i64 = 3_600;

/// An answer of the token endpoint, or what there is instead. Refusals (`R`) are those of one kind of grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer<R = Refused> {
    /// A new access token.
    Renewed(Renewed),
    /// There will be none for what was posted.
    Refused(R),
    /// Nothing is known of what was posted; ask again.
    TryLater {
        /// What is in the way.
        trouble: Trouble,
        /// How long to wait, in seconds, if the endpoint said so.
        after_seconds: Option<i64>,
    },
}

/// A new access token, and what came with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewed {
    /// Good at once; the one before may be dead already.
    pub access_token: Secret,
    /// The successor of the refresh token. Without one, the old stays good.
    pub refresh_token: Option<Secret>,
    /// When the access token ends, in Unix seconds.
    pub expires_at: i64,
    /// What it is good for, as far as the answer says.
    pub scopes: Vec<String>,
}

/// Why there will be no new access token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The refresh token is used up, revoked or unknown.
    #[error("the refresh token is no longer good (invalid_grant)")]
    InvalidGrant,
    /// The client id may not do this.
    #[error("the OAuth client is not accepted; check CLAUDE_OAUTH_CLIENT_ID")]
    Client,
}

/// Why there is no answer to rely on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// The endpoint asks for patience.
    #[error("the token endpoint answers 429")]
    RateLimited,
    /// An answer with another status that decides nothing.
    #[error("the token endpoint answers {0}")]
    Status(u16),
    /// The answer is not one of a token endpoint.
    #[error("the token endpoint's answer cannot be understood")]
    NotUnderstood,
    /// No connection, or it broke off.
    #[error("the token endpoint cannot be reached")]
    Unreachable,
    /// Nothing came in time.
    #[error("the token endpoint does not answer in time")]
    Timeout,
}

#[derive(Deserialize)]
struct Body {
    #[serde(with = "exposed")]
    access_token: Secret,
    #[serde(default)]
    refresh_token: Option<Text>,
    #[serde(default)]
    expires_in: Value,
    #[serde(default)]
    scope: Option<String>,
}

#[derive(Deserialize)]
#[serde(transparent)]
struct Text(#[serde(with = "exposed")] Secret);

/// How the answers to one kind of grant are read.
#[derive(Debug)]
pub(super) struct Grant<R> {
    /// How long an access token lives when the answer does not say, in seconds.
    pub(super) lifetime_default: f64,
    /// The longest life that is believed, in seconds.
    pub(super) lifetime_max: f64,
    /// What an error code means that came with a status of 400 to 403; nothing when it decides nothing.
    pub(super) refusal: fn(&str) -> Option<R>,
}

const REFRESH: Grant<Refused> = Grant {
    lifetime_default: LIFETIME_DEFAULT_SECONDS,
    lifetime_max: LIFETIME_MAX_SECONDS,
    refusal: |code| match code {
        "invalid_grant" => Some(Refused::InvalidGrant),
        "invalid_client" | "unauthorized_client" => Some(Refused::Client),
        _ => None,
    },
};

impl Answer {
    /// Reads an answer to a refresh token that came at `now` (Unix seconds).
    pub fn read(status: u16, retry_after: Option<&str>, body: &[u8], now: i64) -> Self {
        REFRESH.read(status, retry_after, body, now)
    }
}

impl<R> Grant<R> {
    /// Reads an answer that came at `now` (Unix seconds).
    pub(super) fn read(&self, status: u16, retry_after: Option<&str>, body: &[u8], now: i64) -> Answer<R> {
        if (200..300).contains(&status) {
            let renewed = self.renewed(body, now);
            return renewed.map_or_else(|| Answer::later(Trouble::NotUnderstood), Answer::Renewed);
        }
        let code = error_code(body).filter(|_| (400..=403).contains(&status));
        if let Some(refusal) = code.and_then(|code| (self.refusal)(&code)) {
            return Answer::Refused(refusal);
        }
        let trouble = if status == 429 { Trouble::RateLimited } else { Trouble::Status(status) };
        Answer::TryLater { trouble, after_seconds: retry_after.and_then(|text| wait(text, now)) }
    }

    /// Nothing if there is no access token in it that could go out.
    fn renewed(&self, body: &[u8], now: i64) -> Option<Renewed> {
        let body: Body = serde_json::from_slice(body).ok()?;
        let Body { access_token, refresh_token, expires_in, scope } = body;
        let access_token = claude::one_line(access_token.expose()).ok()?;
        let refresh_token = refresh_token.and_then(|Text(token)| claude::one_line(token.expose()).ok());
        let scopes = scope.unwrap_or_default().split_whitespace().map(str::to_owned).collect();
        let expires_at = now.saturating_add(self.lifetime(&expires_in));
        Some(Renewed { access_token, refresh_token, expires_at, scopes })
    }

    /// A life that makes no sense is not believed, but the tokens beside it are: the old ones are dead.
    fn lifetime(&self, expires_in: &Value) -> i64 {
        let said = expires_in.as_f64().filter(|seconds| (1.0..=self.lifetime_max).contains(seconds));
        #[expect(clippy::cast_possible_truncation, reason = "the range above fits i64")]
        let seconds = said.unwrap_or(self.lifetime_default) as i64;
        seconds
    }
}

impl<R> Answer<R> {
    /// There is no answer.
    pub fn later(trouble: Trouble) -> Self {
        Self::TryLater { trouble, after_seconds: None }
    }
}

/// The code of a refusal, in OAuth's shape (`error` is a text) or the vendor's (`error` is an object).
fn error_code(body: &[u8]) -> Option<String> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let error = body.get("error")?;
    let code = error.as_str().or_else(|| error.get("type")?.as_str())?;
    Some(code.to_owned())
}

/// Seconds or an HTTP date; nothing for what is neither, or is over.
fn wait(retry_after: &str, now: i64) -> Option<i64> {
    let text = retry_after.trim();
    let seconds = match text.parse::<i64>() {
        Ok(seconds) => seconds,
        Err(_) => jiff::fmt::rfc2822::parse(text).ok()?.timestamp().as_second().saturating_sub(now),
    };
    (seconds > 0).then(|| seconds.min(MAX_RETRY_AFTER_SECONDS))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn read(status: u16, body: &str) -> Answer {
        Answer::read(status, None, body.as_bytes(), NOW)
    }

    #[test]
    fn new_tokens_are_read_whatever_else_is_said() {
        let cases = [
            (
                r#"{"token_type":"Bearer","access_token":"sk-ant-oat01-new","refresh_token":"sk-ant-ort01-new","expires_in":600,"scope":"a b","account":{"uuid":"x"}}"#,
                Some("sk-ant-ort01-new"),
                600,
            ),
            (r#"{"access_token":"sk-ant-oat01-new"}"#, None, 28_800),
            (r#"{"access_token":"sk-ant-oat01-new","refresh_token":null,"expires_in":null}"#, None, 28_800),
            (r#"{"access_token":"sk-ant-oat01-new","refresh_token":"","expires_in":0}"#, None, 28_800),
            (r#"{"access_token":"sk-ant-oat01-new","expires_in":-5}"#, None, 28_800),
            (r#"{"access_token":"sk-ant-oat01-new","expires_in":1e300}"#, None, 28_800),
            (r#"{"access_token":"sk-ant-oat01-new","expires_in":"soon"}"#, None, 28_800),
        ];
        for (body, refresh_token, lifetime) in cases {
            let Answer::Renewed(renewed) = read(200, body) else { panic!("{body}") };
            let refresh_token = refresh_token.map(Secret::new);
            assert_eq!(
                (renewed.refresh_token, renewed.expires_at - NOW),
                (refresh_token, lifetime),
                "{body}"
            );
            assert_eq!(renewed.access_token.expose(), "sk-ant-oat01-new");
        }
    }

    #[test]
    fn only_the_two_codes_of_a_dead_login_end_it_in_either_shape() {
        let grant = Answer::Refused(Refused::InvalidGrant);
        let client = Answer::Refused(Refused::Client);
        let later = |status| Answer::later(Trouble::Status(status));
        let cases = [
            (400, r#"{"error":"invalid_grant","error_description":"not found"}"#, grant.clone()),
            (401, r#"{"type":"error","error":{"type":"invalid_grant","message":"x"}}"#, grant),
            (401, r#"{"error":"invalid_client"}"#, client.clone()),
            (403, r#"{"error":{"type":"unauthorized_client"}}"#, client),
            (400, r#"{"error":"invalid_request"}"#, later(400)),
            (400, "Invalid request format", later(400)),
            (403, "<html>1010</html>", later(403)),
            (404, r#"{"error":"invalid_grant"}"#, later(404)),
            (500, r#"{"error":"invalid_grant"}"#, later(500)),
            (307, "", later(307)),
            (200, "<html>log in</html>", Answer::later(Trouble::NotUnderstood)),
            (200, r#"{"access_token":"two words"}"#, Answer::later(Trouble::NotUnderstood)),
            (200, r#"{"access_token":"sk-ant-oat01-cu"#, Answer::later(Trouble::NotUnderstood)),
        ];
        for (status, body, expected) in cases {
            assert_eq!(read(status, body), expected, "{status} {body}");
        }
    }

    #[test]
    fn retry_after_is_honoured_within_reason() {
        let cases = [
            (None, None),
            (Some("7"), Some(7)),
            (Some("Fri, 15 Jan 2027 08:01:00 GMT"), Some(60)),
            (Some("999999999"), Some(3_600)),
            (Some("Fri, 15 Jan 2021 08:00:30 GMT"), None),
            (Some("-3"), None),
            (Some("soon"), None),
        ];
        for (text, expected) in cases {
            let answer = Answer::read(429, text, br#"{"type":"rate_limit_error"}"#, NOW);
            let Answer::TryLater { trouble: Trouble::RateLimited, after_seconds } = answer else {
                panic!("{text:?}: {answer:?}")
            };
            assert_eq!(after_seconds, expected, "{text:?}");
        }
    }
}
