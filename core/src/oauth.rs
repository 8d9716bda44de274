//! Renewing a Claude login: what is said to the token endpoint, what its answers mean, when a login is due,
//! and what to do next.
//!
//! A refresh token works once, and its successor is in the answer: what is not stored is lost. The rules are
//! in [`Renewer`], a machine without I/O that a process drives with a file and the operator with a Secret.
//! [`LoginFile`] rewrites what was renewed and keeps every other byte. Where there is no refresh token but an
//! identity that the vendor trusts, see [`federation`].

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use crate::secret::{Secret, exposed};

mod answer;
pub mod federation;
mod login_file;
mod plan;
mod renewer;

pub use answer::{Answer, MAX_ANSWER_BYTES, Refused, Renewed, Trouble};
pub use login_file::LoginFile;
pub use plan::{Jitter, Plan};
pub use renewer::{Action, Event, Renewer, Standing};

/// Where logins are renewed, and as whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenEndpoint {
    /// The whole URL.
    pub url: String,
    /// Claude Code's public client id; refresh tokens are bound to it.
    pub client_id: String,
}

impl Default for TokenEndpoint {
    /// The values of Claude Code (observed in 2026; both have moved before).
    fn default() -> Self {
        Self {
            url: "https://platform.claude.com/v1/oauth/token".to_owned(),
            client_id: "9d1c250a-e61b-44d9-88ed-5944d1962f5e".to_owned(),
        }
    }
}

#[derive(Serialize)]
struct Request<'a> {
    grant_type: &'static str,
    #[serde(with = "exposed")]
    refresh_token: &'a Secret,
    client_id: &'a str,
    #[serde(skip_serializing_if = "String::is_empty")]
    scope: String,
}

impl TokenEndpoint {
    /// The JSON body that asks for a successor of `refresh_token`. The scopes are those stored with it: fewer
    /// would silently narrow the login, and none lets the vendor decide.
    pub fn request(&self, refresh_token: &Secret, scopes: &[String]) -> Secret {
        let (grant_type, client_id) = ("refresh_token", self.client_id.as_str());
        let request = Request { grant_type, refresh_token, client_id, scope: scopes.join(" ") };
        // Texts under fixed keys can always be written.
        Secret::new(serde_json::to_string(&request).unwrap_or_default())
    }
}

/// Names a token without telling anything of it: the first eight bytes of its SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 8]);

impl Fingerprint {
    /// The fingerprint of a token.
    pub fn of(token: &Secret) -> Self {
        Self(digest(token.expose()))
    }
}

impl fmt::Display for Fingerprint {
    /// 16 hex digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A text that is no fingerprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a fingerprint has 16 hex digits")]
pub struct NoFingerprint;

impl FromStr for Fingerprint {
    type Err = NoFingerprint;

    fn from_str(text: &str) -> Result<Self, NoFingerprint> {
        let is_one = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u64::from_str_radix(text, 16).ok().filter(|_| is_one).ok_or(NoFingerprint)?;
        Ok(Self(number.to_be_bytes()))
    }
}

/// The first bytes of a text's SHA-256.
fn digest(text: &str) -> [u8; 8] {
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    digest.as_ref().first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_has_the_stored_scopes_or_none() {
        let endpoint = TokenEndpoint { client_id: "client".to_owned(), ..TokenEndpoint::default() };
        let token = Secret::new("sk-ant-ort01-\"one\"");
        let scopes = ["user:inference".to_owned(), "user:profile".to_owned()];
        let ask = |scopes| endpoint.request(&token, scopes).expose().to_owned();
        let grant =
            r#"{"grant_type":"refresh_token","refresh_token":"sk-ant-ort01-\"one\"","client_id":"client""#;
        assert_eq!(ask(&scopes), format!(r#"{grant},"scope":"user:inference user:profile"}}"#));
        assert_eq!(ask(&[]), format!("{grant}}}"));
    }

    #[test]
    fn fingerprint_is_the_start_of_the_sha_256() {
        let shown = Fingerprint::of(&Secret::new("abc")).to_string();
        assert_eq!(shown, "ba7816bf8f01cfea");
        assert_eq!(shown.parse(), Ok(Fingerprint::of(&Secret::new("abc"))));
        for wrong in ["", "ba7816bf8f01cfe", "ba7816bf8f01cfea0", "+a7816bf8f01cfea"] {
            assert_eq!(wrong.parse::<Fingerprint>(), Err(NoFingerprint), "{wrong:?}");
        }
    }
}
