//! One call of the token endpoint, over the connections that vendors are reached by.

use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use la_core::oauth::federation::{Assertion, Denied, EXCHANGE_BETA, Federation};
use la_core::oauth::{Answer, LoginFile, MAX_ANSWER_BYTES, TokenEndpoint, Trouble};
use la_core::secret::Secret;

use crate::clock;
use crate::http1::body::Framing;
use crate::http1::buffers::Buffers;
use crate::http1::write::{field, framing};
use crate::upstream::connection::Connection;
use crate::upstream::endpoint::{Endpoint, EndpointError};
use crate::upstream::{self};

/// Longest that one call may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Who we are. The endpoint refuses requests without a name (observed in 2026), and gets no other one.
const USER_AGENT: &str = concat!("la-router/", env!("CARGO_PKG_VERSION"));

/// Where logins are renewed, and identities exchanged.
pub(super) struct Client {
    endpoint: TokenEndpoint,
    way: Endpoint,
    exchanges: Endpoint,
}

/// How an answer is read: status, `retry-after`, body and the time it came at, in Unix seconds.
type Read<R> = fn(u16, Option<&str>, &[u8], i64) -> Answer<R>;

impl Client {
    /// For endpoints whose URLs were judged good.
    pub(super) fn new(endpoint: TokenEndpoint, exchange_url: &str) -> Result<Self, EndpointError> {
        let (way, exchanges) = (Endpoint::parse(&endpoint.url)?, Endpoint::parse(exchange_url)?);
        Ok(Self { endpoint, way, exchanges })
    }

    /// Asks for the successor of a login. Redirects are not followed: whoever is meant to have a refresh token
    /// is configured.
    pub(super) async fn renew(&self, login: &LoginFile) -> Answer {
        let Some(refresh_token) = login.refresh_token() else { return Answer::later(Trouble::NotUnderstood) };
        let body = self.endpoint.request(refresh_token, login.scopes());
        ask(&self.way, None, &body, Answer::read).await
    }

    /// Asks for what an identity token is good for. Redirects are not followed either.
    pub(super) async fn exchange(&self, federation: &Federation, assertion: &Assertion) -> Answer<Denied> {
        let body = federation.request(assertion);
        ask(&self.exchanges, Some(EXCHANGE_BETA), &body, Answer::read_exchange).await
    }
}

async fn ask<R>(way: &Endpoint, beta: Option<&str>, body: &Secret, read: Read<R>) -> Answer<R> {
    let body = body.expose().as_bytes();
    let asked = tokio::time::timeout(PATIENCE, post(way, &head(way, beta, body.len()), body)).await;
    match asked.unwrap_or(Err(Trouble::Timeout)) {
        Ok((status, retry_after, body)) => read(status, retry_after.as_deref(), &body, clock::unix_seconds()),
        Err(trouble) => Answer::later(trouble),
    }
}

/// Status, `retry-after` and body of the answer.
async fn post(way: &Endpoint, head: &[u8], body: &[u8]) -> Result<(u16, Option<String>, Vec<u8>), Trouble> {
    // A connection for one call in hours is not worth keeping.
    let buffers = Rc::new(Buffers::default());
    let unreachable = |error: &dyn std::fmt::Display| {
        tracing::debug!("token endpoint: {error}");
        Trouble::Unreachable
    };
    let mut connection =
        upstream::connect(&way.place, &buffers).await.map_err(|error| unreachable(&error))?;
    let status = connection.ask([head, body]).await.map_err(|error| unreachable(&error))?.status;
    let retry_after = retry_after(&connection);
    Ok((status, retry_after, read_body(&mut connection).await?))
}

fn head(way: &Endpoint, beta: Option<&str>, length: usize) -> Vec<u8> {
    let path = if way.prefix.is_empty() { "/" } else { &way.prefix };
    let mut head = format!("POST {path} HTTP/1.1\r\n").into_bytes();
    field(&mut head, b"host", way.host_header.as_bytes());
    field(&mut head, b"user-agent", USER_AGENT.as_bytes());
    field(&mut head, b"accept", b"application/json");
    field(&mut head, b"accept-encoding", b"identity");
    field(&mut head, b"content-type", b"application/json");
    if let Some(beta) = beta {
        field(&mut head, b"anthropic-beta", beta.as_bytes());
    }
    framing(&mut head, Framing::Length(length as u64));
    head.extend_from_slice(b"\r\n");
    head
}

fn retry_after(connection: &Connection) -> Option<String> {
    let (_, value) = connection.fields().find(|(name, _)| *name == b"retry-after")?;
    std::str::from_utf8(value).ok().map(str::to_owned)
}

async fn read_body(connection: &mut Connection) -> Result<Vec<u8>, Trouble> {
    let mut body = Vec::new();
    loop {
        poll_fn(|context| connection.poll_part(context)).await.map_err(|_| Trouble::Unreachable)?;
        body.extend_from_slice(connection.part());
        if body.len() > MAX_ANSWER_BYTES {
            return Err(Trouble::NotUnderstood);
        }
        if connection.is_ended() {
            return Ok(body);
        }
    }
}
