//! The vendor's token endpoint.

use std::time::Duration;

use la_core::oauth::{Answer, LoginFile, MAX_ANSWER_BYTES, TokenEndpoint, Trouble};
use reqwest::header::RETRY_AFTER;

use crate::clock;

/// Longest wait for the whole answer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Who asks. A request without it is throttled (observed in 2026).
const USER_AGENT: &str = concat!("la-router/", env!("CARGO_PKG_VERSION"));

/// Where logins are renewed.
pub(crate) struct Endpoint {
    place: TokenEndpoint,
    http: reqwest::Client,
}

/// Why logins cannot be renewed at all.
#[derive(Debug, thiserror::Error)]
#[error("no client for the token endpoint")]
pub struct EndpointError(#[from] reqwest::Error);

impl Endpoint {
    /// An endpoint that trusts the authorities of the web.
    pub(crate) fn new(place: TokenEndpoint) -> Result<Self, EndpointError> {
        // Looking for the system's certificates fails in an image that has none.
        let roots = webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect::<rustls::RootCertStore>();
        let tls = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .user_agent(USER_AGENT)
            .redirect(reqwest::redirect::Policy::none())
            .timeout(TIMEOUT)
            .build()?;
        Ok(Self { place, http })
    }

    /// Asks for the successor of `login`.
    pub(crate) async fn renew(&self, login: &LoginFile) -> Answer {
        let Some(token) = login.refresh_token() else { return Answer::later(Trouble::NotUnderstood) };
        let body = self.place.request(token, login.scopes());
        let request = self
            .http
            .post(&self.place.url)
            .header("content-type", "application/json")
            .header("accept", "application/json")
            .body(body.expose().to_owned());
        match request.send().await {
            Ok(answer) => read(answer).await,
            Err(error) => Answer::later(trouble(&error)),
        }
    }
}

fn trouble(error: &reqwest::Error) -> Trouble {
    if error.is_timeout() { Trouble::Timeout } else { Trouble::Unreachable }
}

async fn read(mut answer: reqwest::Response) -> Answer {
    let status = answer.status().as_u16();
    let retry_after =
        answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let mut body = Vec::new();
    loop {
        match answer.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() > MAX_ANSWER_BYTES => {
                return Answer::later(Trouble::NotUnderstood);
            }
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => break,
            Err(error) => return Answer::later(trouble(&error)),
        }
    }
    Answer::read(status, retry_after.as_deref(), &body, clock::now())
}
