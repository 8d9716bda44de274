//! The vendor's token endpoint: where logins are renewed, and where identities are exchanged.

use std::time::Duration;

use la_core::oauth::federation::{Assertion, Denied, EXCHANGE_BETA, Federation};
use la_core::oauth::{Answer, LoginFile, MAX_ANSWER_BYTES, TokenEndpoint, Trouble};
use la_core::secret::Secret;
use reqwest::header::RETRY_AFTER;

use crate::clock;

/// Longest wait for the whole answer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Who asks. A request without it is throttled (observed in 2026).
const USER_AGENT: &str = concat!("la-router/", env!("CARGO_PKG_VERSION"));

/// Where access tokens are from.
pub(crate) struct Endpoint {
    /// Where logins are renewed.
    renewals: TokenEndpoint,
    /// Where identities are exchanged.
    exchanges: String,
    http: reqwest::Client,
}

/// Why logins cannot be renewed at all.
#[derive(Debug, thiserror::Error)]
#[error("no client for the token endpoint")]
pub struct EndpointError(#[from] reqwest::Error);

/// How an answer is read: status, `retry-after`, body and the time it came at, in Unix seconds.
type Read<R> = fn(u16, Option<&str>, &[u8], i64) -> Answer<R>;

impl Endpoint {
    /// An endpoint that trusts the authorities of the web.
    pub(crate) fn new(renewals: TokenEndpoint, exchanges: String) -> Result<Self, EndpointError> {
        // Looking for the system's certificates fails in an image that has none.
        let roots = webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect::<rustls::RootCertStore>();
        let tls = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .user_agent(USER_AGENT)
            .redirect(reqwest::redirect::Policy::none())
            .timeout(TIMEOUT)
            .build()?;
        Ok(Self { renewals, exchanges, http })
    }

    /// Asks for the successor of `login`.
    pub(crate) async fn renew(&self, login: &LoginFile) -> Answer {
        let Some(token) = login.refresh_token() else { return Answer::later(Trouble::NotUnderstood) };
        let body = self.renewals.request(token, login.scopes());
        ask(self.http.post(&self.renewals.url), &body, Answer::read).await
    }

    /// Asks for what `assertion` is good for.
    pub(crate) async fn exchange(&self, federation: &Federation, assertion: &Assertion) -> Answer<Denied> {
        let request = self.http.post(&self.exchanges).header("anthropic-beta", EXCHANGE_BETA);
        ask(request, &federation.request(assertion), Answer::read_exchange).await
    }
}

async fn ask<R>(request: reqwest::RequestBuilder, body: &Secret, read: Read<R>) -> Answer<R> {
    let request = request.header("content-type", "application/json").header("accept", "application/json");
    let answer = match request.body(body.expose().to_owned()).send().await {
        Ok(answer) => answer,
        Err(error) => return Answer::later(trouble(&error)),
    };
    let status = answer.status().as_u16();
    let retry_after =
        answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()).map(str::to_owned);
    match read_body(answer).await {
        Ok(body) => read(status, retry_after.as_deref(), &body, clock::now()),
        Err(trouble) => Answer::later(trouble),
    }
}

fn trouble(error: &reqwest::Error) -> Trouble {
    if error.is_timeout() { Trouble::Timeout } else { Trouble::Unreachable }
}

async fn read_body(mut answer: reqwest::Response) -> Result<Vec<u8>, Trouble> {
    let mut body = Vec::new();
    loop {
        match answer.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() > MAX_ANSWER_BYTES => {
                return Err(Trouble::NotUnderstood);
            }
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => return Ok(body),
            Err(error) => return Err(trouble(&error)),
        }
    }
}
