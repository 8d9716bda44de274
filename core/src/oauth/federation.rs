//! Workload Identity Federation: the token of a workload's own identity provider, such as a Kubernetes
//! ServiceAccount's, is exchanged for a short-lived access token (RFC 7523). Nothing is stored anywhere.
//!
//! What is said and what the answers mean is here; what to do next, in [`Exchanger`]. Facts are from the vendor's
//! WIF reference (August 2026).

use std::fmt;

use serde::{Deserialize, Serialize};

use super::answer::Grant;
use super::{Answer, Fingerprint};
use crate::secret::{Secret, exposed};

mod exchanger;

pub use exchanger::{Action, Event, Exchanger, Hindrance, Obtained, Standing};

/// Where identities are exchanged.
pub const EXCHANGE_URL: &str = "https://api.anthropic.com/v1/oauth/token";

/// The value of `anthropic-beta` that an exchange carries. Refresh grants must not.
pub const EXCHANGE_BETA: &str = "oauth-2025-04-20,oidc-federation-2026-04-01";

/// The audience that the vendor's guides give an identity token.
pub const AUDIENCE_DEFAULT: &str = "https://api.anthropic.com";

/// Most bytes of an identity token.
pub const MAX_ASSERTION_BYTES: usize = 16 << 10;

/// A rule at the vendor and whom it makes of a workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Federation {
    /// The rule, `fdrl_…`.
    pub federation_rule_id: String,
    /// The organisation, a UUID.
    pub organization_id: String,
    /// The service account at the vendor, `svac_…`.
    pub service_account_id: String,
    /// The workspace, `wrkspc_…` or `default`; needed where the rule is for several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace_id: Option<String>,
}

/// A token of the workload's own identity provider: a JWT, as far as its form goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assertion(Secret);

/// Why a text is no identity token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AssertionError {
    /// There is nothing but white space.
    #[error("is empty")]
    Empty,
    /// The vendor takes none that is so long.
    #[error("has {found} bytes, an identity token has at most {MAX_ASSERTION_BYTES}")]
    TooLong {
        /// Bytes found.
        found: usize,
    },
    /// It does not have three parts of base64url.
    #[error("is not a JWT: three parts of base64url with dots between them")]
    NotJwt,
}

/// Why the vendor gives no access token for an identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// The rule does not take this identity, does not exist, or needs a workspace. The vendor never says which.
    Identity,
    /// An id of the request is malformed.
    Request,
}

impl fmt::Display for Denied {
    /// What it is, and what to check.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Identity => {
                "the vendor does not accept this identity; compare its issuer, subject and audience with the federation \
                 rule, check the rule's id and whether it needs a workspace id (the Claude Console's authentication \
                 history says which check failed)"
            }
            Self::Request => {
                "the vendor finds a fault in the request; check the ids of rule, organization, service account and \
                 workspace"
            }
        })
    }
}

#[derive(Serialize)]
struct Request<'a> {
    grant_type: &'static str,
    #[serde(with = "exposed")]
    assertion: &'a Secret,
    federation_rule_id: &'a str,
    organization_id: &'a str,
    service_account_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    workspace_id: Option<&'a str>,
}

/// Tokens live 1 min to 24 h, 1 h unless the rule says otherwise.
const EXCHANGE: Grant<Denied> = Grant {
    lifetime_default: 3_600.0,
    lifetime_max: 86_400.0,
    refusal: |code| match code {
        "authentication_error"
        | "permission_error"
        | "invalid_grant"
        | "invalid_client"
        | "unauthorized_client" => Some(Denied::Identity),
        "invalid_request_error" | "invalid_request" | "invalid_scope" | "invalid_target" => {
            Some(Denied::Request)
        }
        _ => None,
    },
};

impl Federation {
    /// The JSON body that asks for an access token for `assertion`.
    pub fn request(&self, assertion: &Assertion) -> Secret {
        let request = Request {
            grant_type: "urn:ietf:params:oauth:grant-type:jwt-bearer",
            assertion: &assertion.0,
            federation_rule_id: &self.federation_rule_id,
            organization_id: &self.organization_id,
            service_account_id: &self.service_account_id,
            workspace_id: self.workspace_id.as_deref(),
        };
        // Texts under fixed keys can always be written.
        Secret::new(serde_json::to_string(&request).unwrap_or_default())
    }
}

impl Answer<Denied> {
    /// Reads an answer to an identity token that came at `now` (Unix seconds).
    pub fn read_exchange(status: u16, retry_after: Option<&str>, body: &[u8], now: i64) -> Self {
        EXCHANGE.read(status, retry_after, body, now)
    }
}

impl Assertion {
    /// Reads an identity token; white space around it is not part of it.
    ///
    /// # Errors
    /// When the vendor could not take it.
    pub fn read(text: &str) -> Result<Self, AssertionError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(AssertionError::Empty);
        }
        if text.len() > MAX_ASSERTION_BYTES {
            return Err(AssertionError::TooLong { found: text.len() });
        }
        let is_part = |part: &str| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        if text.split('.').count() != 3 || !text.split('.').all(is_part) {
            return Err(AssertionError::NotJwt);
        }
        Ok(Self(Secret::new(text)))
    }

    fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oauth::{Renewed, Trouble};

    const NOW: i64 = 1_800_000_000;

    #[test]
    fn request_names_the_rule_and_whom_to_become() {
        let mut federation = Federation {
            federation_rule_id: "fdrl_1".to_owned(),
            organization_id: "00000000-0000-0000-0000-000000000000".to_owned(),
            service_account_id: "svac_1".to_owned(),
            workspace_id: None,
        };
        let assertion = Assertion::read(" eyJ.eyJ.c2ln\n").unwrap();
        let grant = r#"{"grant_type":"urn:ietf:params:oauth:grant-type:jwt-bearer","assertion":"eyJ.eyJ.c2ln","federation_rule_id":"fdrl_1","organization_id":"00000000-0000-0000-0000-000000000000","service_account_id":"svac_1""#;
        assert_eq!(federation.request(&assertion).expose(), format!("{grant}}}"));
        federation.workspace_id = Some("default".to_owned());
        let body = federation.request(&assertion);
        assert_eq!(body.expose(), format!(r#"{grant},"workspace_id":"default"}}"#));
    }

    #[test]
    fn what_is_no_identity_token_is_refused_without_its_content() {
        let long = format!("a.b.{}", "c".repeat(MAX_ASSERTION_BYTES));
        let longest = format!("a.b.{}", "c".repeat(MAX_ASSERTION_BYTES - 4));
        let cases = [
            (" \n", Err(AssertionError::Empty)),
            (&long, Err(AssertionError::TooLong { found: MAX_ASSERTION_BYTES + 4 })),
            ("canary", Err(AssertionError::NotJwt)),
            ("a.b", Err(AssertionError::NotJwt)),
            ("a..c", Err(AssertionError::NotJwt)),
            ("a.b.c.d", Err(AssertionError::NotJwt)),
            ("a.b\n.c", Err(AssertionError::NotJwt)),
            ("{\"token\":\"a.b.c\"}", Err(AssertionError::NotJwt)),
            (&longest, Ok(())),
            ("a-_.b.c", Ok(())),
        ];
        for (text, expected) in cases {
            assert_eq!(Assertion::read(text).map(|_| ()), expected, "{text:.20}");
        }
        let shown = format!("{:?}", Assertion::read("canary.canary.canary"));
        assert!(!shown.contains("canary"), "{shown}");
    }

    #[test]
    fn access_token_lives_as_long_as_the_answer_says_or_an_hour() {
        for (expires_in, lifetime) in [
            ("60", 60),
            ("86400", 86_400),
            ("90000", 3_600),
            ("0", 3_600),
            ("null", 3_600),
            ("\"1h\"", 3_600),
        ] {
            let body = format!(
                r#"{{"access_token":"sk-ant-oat01-new","token_type":"Bearer","expires_in":{expires_in},"scope":"workspace:inference"}}"#
            );
            let expected = Renewed {
                access_token: Secret::new("sk-ant-oat01-new"),
                refresh_token: None,
                expires_at: NOW + lifetime,
                scopes: vec!["workspace:inference".to_owned()],
            };
            let answer = Answer::read_exchange(200, None, body.as_bytes(), NOW);
            assert_eq!(answer, Answer::Renewed(expected), "{expires_in}");
        }
    }

    #[test]
    fn only_codes_decide_that_an_identity_is_not_accepted() {
        let (identity, request) = (Answer::Refused(Denied::Identity), Answer::Refused(Denied::Request));
        let later = |status| Answer::later(Trouble::Status(status));
        let cases = [
            (
                401,
                r#"{"type":"error","error":{"type":"authentication_error","message":"x"}}"#,
                identity.clone(),
            ),
            (403, r#"{"type":"error","error":{"type":"permission_error","message":"x"}}"#, identity.clone()),
            (400, r#"{"error":"invalid_grant"}"#, identity),
            (400, r#"{"type":"error","error":{"type":"invalid_request_error","message":"x"}}"#, request),
            (401, "<html>log in</html>", later(401)),
            (404, r#"{"error":{"type":"not_found_error"}}"#, later(404)),
            (500, r#"{"error":"invalid_grant"}"#, later(500)),
            (200, r#"{"token_type":"Bearer"}"#, Answer::later(Trouble::NotUnderstood)),
        ];
        for (status, body, expected) in cases {
            assert_eq!(
                Answer::read_exchange(status, None, body.as_bytes(), NOW),
                expected,
                "{status} {body}"
            );
        }
        let limited = Answer::read_exchange(429, Some("7"), br#"{"error":{"type":"rate_limit_error"}}"#, NOW);
        assert_eq!(limited, Answer::TryLater { trouble: Trouble::RateLimited, after_seconds: Some(7) });
    }
}
