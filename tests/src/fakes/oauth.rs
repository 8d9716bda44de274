//! The vendor's token endpoint: refresh tokens work once, and a rotation kills the old refresh token and the old
//! access token at once; tokens of a trusted identity are exchanged, each once. Beside it, the vendor of
//! [`super::vendor`], which knows the access tokens that live.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::answer::{Answer, Break};
use super::request::Received;
use super::upstream::Script;
use super::vendor::{self, Known};

/// Where the endpoint is.
pub const PATH: &str = "/v1/oauth/token";

const CLIENT_ID: &str = "9d1c250a-e61b-44d9-88ed-5944d1962f5e";

const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

/// The federation rule that the vendor knows, and what else an exchange has to name.
pub const RULE: [(&str, &str); 4] = [
    ("federation_rule_id", "fdrl_test"),
    ("organization_id", "00000000-0000-0000-0000-0000000000aa"),
    ("service_account_id", "svac_test"),
    ("workspace_id", "wrkspc_test"),
];

/// What one call does instead of rotating.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Twist {
    /// 429, with `retry-after` in seconds if there is any.
    RateLimited(Option<u32>),
    /// This status, in the vendor's shape.
    Status(u16),
    /// No answer; nothing is rotated.
    Hang,
    /// `invalid_grant` for a refresh token that is good.
    InvalidGrant,
    /// The refusal of an identity, although it is trusted.
    Denied,
    /// A page instead of an answer; nothing is rotated.
    Html,
    /// A redirect to a place that must not get a refresh token.
    Redirect,
    /// Rotates, and breaks off in the middle of the answer.
    Cut,
    /// Rotates, and answers after so many milliseconds.
    Late(u64),
}

/// A login as a person gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    pub access_token: String,
    pub refresh_token: String,
    /// When the access token ends, in Unix milliseconds.
    pub expires_at: u64,
}

/// Every login, and what was asked of the endpoint.
#[derive(Debug, Default)]
pub struct Vault {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    issued: u32,
    lifetime: Duration,
    /// Access token by the refresh token it goes with.
    grants: BTreeMap<String, String>,
    /// Access tokens that live, and until when, in Unix milliseconds.
    living: BTreeMap<String, u64>,
    calls: Vec<Value>,
    rotations: usize,
    /// Subject and audience of the identity that is trusted.
    trusted: Option<(String, String)>,
    /// Ids of identity tokens that were exchanged.
    used: BTreeSet<String>,
    exchanges: usize,
    twists: VecDeque<Twist>,
    violations: Vec<String>,
}

impl Login {
    /// The file that Claude Code keeps it in, with keys that nobody but Claude Code knows.
    pub fn file(&self) -> String {
        let Self { access_token, refresh_token, expires_at } = self;
        format!(
            "{{\n  \"zeta\": {{\"b\": 1.50, \"a\": [null]}},\n  \"claudeAiOauth\": {{\n    \"accessToken\": \
             \"{access_token}\",\n    \"refreshToken\": \"{refresh_token}\",\n    \"expiresAt\": \
             {expires_at},\n    \"scopes\": [\"user:inference\", \"user:profile\"],\n    \"subscriptionType\": \
             \"max\"\n  }},\n  \"mcpOAuth\": {{}}\n}}\n"
        )
    }
}

impl Vault {
    /// Access tokens from rotations live so long.
    pub fn new(lifetime: Duration) -> Arc<Self> {
        let vault = Self::default();
        vault.with(|inner| inner.lifetime = lifetime);
        Arc::new(vault)
    }

    /// Somebody logs in: an access token that lives so long, and its refresh token.
    pub fn log_in(&self, lifetime: Duration) -> Login {
        self.with(|inner| inner.issue(lifetime))
    }

    /// What the next calls do, one after the other; then they rotate again.
    pub fn twist(&self, twists: &[Twist]) {
        self.with(|inner| inner.twists = twists.iter().copied().collect());
    }

    /// Kills every access token, but no refresh token.
    pub fn kill_access_tokens(&self) {
        self.with(|inner| inner.living.clear());
    }

    /// Another client renews a login.
    pub fn rotate_elsewhere(&self, login: &Login) -> Option<Login> {
        self.with(|inner| inner.rotate(&login.refresh_token))
    }

    /// From now on tokens of this identity are exchanged.
    pub fn trust(&self, subject: &str, audience: &str) {
        self.with(|inner| inner.trusted = Some((subject.to_owned(), audience.to_owned())));
    }

    /// No identity is trusted any more.
    pub fn distrust(&self) {
        self.with(|inner| inner.trusted = None);
    }

    /// How often an identity token was exchanged.
    pub fn exchanges(&self) -> usize {
        self.with(|inner| inner.exchanges)
    }

    /// The bodies of all calls so far.
    pub fn calls(&self) -> Vec<Value> {
        self.with(|inner| inner.calls.clone())
    }

    /// How often a refresh token was exchanged.
    pub fn rotations(&self) -> usize {
        self.with(|inner| inner.rotations)
    }

    /// What was wrong with calls, in words.
    pub fn violations(&self) -> Vec<String> {
        self.with(|inner| inner.violations.clone())
    }

    /// Whether requests with this access token are answered.
    pub fn accepts(&self, access_token: &str) -> bool {
        let now_ms = now_ms();
        self.with(|inner| inner.living.get(access_token).is_some_and(|until_ms| now_ms < *until_ms))
    }

    fn answer(&self, request: &Received) -> Answer {
        let body = request.json();
        let is_exchange = text(&body, "grant_type") == JWT_BEARER;
        let mut violations = violations(request);
        violations.extend(if is_exchange { of_exchange(request, &body) } else { of_refresh(request, &body) });
        self.with(|inner| {
            inner.violations.extend(violations);
            let twist = inner.twists.pop_front();
            let kept = twist.and_then(instead);
            let answer = match kept {
                Some(answer) => answer,
                None if is_exchange => {
                    inner.exchange(text(&body, "assertion")).map_or_else(denied, exchanged)
                }
                None => match inner.rotate(text(&body, "refresh_token")) {
                    Some(login) => Answer::json(200, renewed(&login, inner.lifetime)),
                    None => invalid_grant(),
                },
            };
            inner.calls.push(body);
            match twist {
                Some(Twist::Cut) => answer.broken(Break::Close, 40),
                Some(Twist::Late(ms)) => answer.delayed(Duration::from_millis(ms)),
                _ => answer,
            }
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        act(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Inner {
    fn issue(&mut self, lifetime: Duration) -> Login {
        self.issued += 1;
        let number = self.issued;
        let expires_at = now_ms().saturating_add(u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX));
        let login = Login {
            access_token: format!("sk-ant-oat01-canary-{number}"),
            refresh_token: format!("sk-ant-ort01-canary-{number}"),
            expires_at,
        };
        self.living.insert(login.access_token.clone(), expires_at);
        self.grants.insert(login.refresh_token.clone(), login.access_token.clone());
        login
    }

    fn rotate(&mut self, refresh_token: &str) -> Option<Login> {
        let access_token = self.grants.remove(refresh_token)?;
        self.living.remove(&access_token);
        self.rotations += 1;
        Some(self.issue(self.lifetime))
    }

    /// An access token, and how long it lives, for a token of the trusted identity that was not used before.
    fn exchange(&mut self, assertion: &str) -> Option<(String, Duration)> {
        let payload = URL_SAFE_NO_PAD.decode(assertion.split('.').nth(1)?).ok()?;
        let claims: Value = serde_json::from_slice(&payload).ok()?;
        let (subject, audience) = self.trusted.as_ref()?;
        let audiences = claims["aud"].as_array().cloned().unwrap_or_else(|| vec![claims["aud"].clone()]);
        if text(&claims, "sub") != subject || !audiences.iter().any(|aud| aud == audience) {
            return None;
        }
        if !self.used.insert(text(&claims, "jti").to_owned()) {
            return None;
        }
        self.exchanges += 1;
        Some((self.issue(self.lifetime).access_token, self.lifetime))
    }
}

/// A token of an identity provider, as far as the fake looks at it.
pub fn identity_token(subject: &str, audience: &str, id: &str) -> String {
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let claims = json!({ "sub": subject, "aud": audience, "jti": id });
    format!("{}.{}.canary-signature", part(json!({ "alg": "RS256", "kid": "1" })), part(claims))
}

/// What a call is answered that neither rotates nor exchanges.
fn instead(twist: Twist) -> Option<Answer> {
    match twist {
        Twist::RateLimited(after) => {
            let answer = Answer::error(429, "rate_limit_error", "slow down");
            Some(match after {
                Some(seconds) => answer.header("retry-after", &seconds.to_string()),
                None => answer,
            })
        }
        Twist::Status(status) => Some(Answer::error(status, "api_error", "scripted")),
        Twist::Hang => Some(Answer::none(Break::Stall)),
        Twist::InvalidGrant => Some(invalid_grant()),
        Twist::Denied => Some(denied()),
        Twist::Html => Some(Answer::html(200)),
        Twist::Redirect => {
            Some(Answer::json(307, "{}").header("location", "http://127.0.0.1:9/v1/oauth/token"))
        }
        Twist::Cut | Twist::Late(_) => None,
    }
}

/// The endpoint at [`PATH`], and the vendor for those whose access token lives.
pub fn script(vault: Arc<Vault>) -> Script {
    let vendor = vendor::script(Known::default());
    Arc::new(move |request| {
        if request.path() == PATH {
            return vault.answer(request);
        }
        let bearer = request.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
        if bearer.is_some_and(|token| vault.accepts(token)) {
            vendor(request)
        } else {
            Answer::error(401, "authentication_error", "Invalid bearer token")
        }
    })
}

/// What the vendor would object to, or should.
fn violations(request: &Received) -> Vec<String> {
    let mut found = Vec::new();
    if request.method != "POST" || request.header("content-type") != Some("application/json") {
        found.push(format!("{} with {:?}", request.method, request.header("content-type")));
    }
    if !request.header("user-agent").is_some_and(|agent| agent.starts_with("la-router/")) {
        found.push(format!("user-agent {:?}", request.header("user-agent")));
    }
    if request.header("authorization").is_some() {
        found.push("a credential in the head".to_owned());
    }
    found
}

fn of_refresh(request: &Received, body: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let (grant, client, scope) = (text(body, "grant_type"), text(body, "client_id"), text(body, "scope"));
    if grant != "refresh_token" || client != CLIENT_ID {
        found.push(format!("grant {grant:?} of client {client:?}"));
    }
    if scope != "user:inference user:profile" {
        found.push(format!("scope {scope:?}"));
    }
    if let Some(beta) = request.header("anthropic-beta") {
        found.push(format!("anthropic-beta {beta} on a refresh"));
    }
    found
}

fn of_exchange(request: &Received, body: &Value) -> Vec<String> {
    let mut found: Vec<_> = RULE
        .iter()
        .filter(|(name, value)| text(body, name) != *value)
        .map(|(name, _)| format!("{name} {:?}", text(body, name)))
        .collect();
    let beta = request.header("anthropic-beta");
    if beta != Some("oauth-2025-04-20,oidc-federation-2026-04-01") {
        found.push(format!("anthropic-beta {beta:?}"));
    }
    found
}

fn text<'a>(body: &'a Value, name: &str) -> &'a str {
    body.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn renewed(login: &Login, lifetime: Duration) -> String {
    let answer = json!({
        "token_type": "Bearer", "access_token": login.access_token, "refresh_token": login.refresh_token,
        "expires_in": lifetime.as_secs(), "scope": "user:inference user:profile",
        "account": {"uuid": "00000000-0000-0000-0000-000000000000", "email_address": "dev@example.test"},
    });
    answer.to_string()
}

fn exchanged((access_token, lifetime): (String, Duration)) -> Answer {
    let answer = json!({
        "access_token": access_token, "token_type": "Bearer", "expires_in": lifetime.as_secs(),
        "scope": "workspace:inference",
    });
    Answer::json(200, answer.to_string())
}

/// The vendor never says what is wrong with an identity.
fn denied() -> Answer {
    Answer::error(401, "authentication_error", "Authentication failed")
}

fn invalid_grant() -> Answer {
    Answer::json(400, r#"{"error":"invalid_grant","error_description":"Refresh token not found or invalid"}"#)
}

#[expect(clippy::disallowed_methods, reason = "the edge where the fake reads the clock")]
fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotation_kills_the_old_pair_at_once_and_a_token_works_once() {
        let vault = Vault::new(Duration::from_secs(60));
        let old = vault.log_in(Duration::from_secs(60));
        assert!(vault.accepts(&old.access_token));
        let new = vault.rotate_elsewhere(&old).unwrap();
        assert!(!vault.accepts(&old.access_token) && vault.accepts(&new.access_token));
        assert_eq!(vault.rotate_elsewhere(&old), None);
        assert_eq!(vault.rotations(), 1);
        assert!(!vault.accepts(&vault.log_in(Duration::ZERO).access_token), "its time is over");
    }
    #[test]
    fn identity_is_exchanged_where_it_is_trusted_and_each_token_of_it_once() {
        let vault = Vault::new(Duration::from_secs(60));
        let exchange = |token: &str| vault.with(|inner| inner.exchange(token).map(|(access, _)| access));
        let token = identity_token("workload", "vendor", "1");
        assert_eq!(exchange(&token), None, "nobody is trusted");
        vault.trust("workload", "vendor");
        assert!(vault.accepts(&exchange(&token).unwrap()));
        assert_eq!(exchange(&token), None, "it was used");
        for (subject, audience) in [("another", "vendor"), ("workload", "another")] {
            assert_eq!(exchange(&identity_token(subject, audience, "2")), None, "{subject} for {audience}");
        }
        vault.distrust();
        assert_eq!(exchange(&identity_token("workload", "vendor", "2")), None);
        assert_eq!(vault.exchanges(), 1);
    }
}
