//! One call of the token endpoint, over the connections that vendors are reached by.

use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use la_core::oauth::{Answer, LoginFile, MAX_ANSWER_BYTES, TokenEndpoint, Trouble};

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

/// Where logins are renewed.
pub(super) struct Client {
    endpoint: TokenEndpoint,
    way: Endpoint,
}

impl Client {
    /// For an endpoint whose URL was judged good.
    pub(super) fn new(endpoint: TokenEndpoint) -> Result<Self, EndpointError> {
        let way = Endpoint::parse(&endpoint.url)?;
        Ok(Self { endpoint, way })
    }

    /// Asks for the successor of a login. Redirects are not followed: whoever is meant to have a refresh token
    /// is configured.
    pub(super) async fn renew(&self, login: &LoginFile) -> Answer {
        let Some(refresh_token) = login.refresh_token() else { return Answer::later(Trouble::NotUnderstood) };
        let body = self.endpoint.request(refresh_token, login.scopes());
        let asked = tokio::time::timeout(PATIENCE, self.ask(body.expose().as_bytes())).await;
        asked.unwrap_or_else(|_| Answer::later(Trouble::Timeout))
    }

    async fn ask(&self, body: &[u8]) -> Answer {
        // A connection for one call in hours is not worth keeping.
        let buffers = Rc::new(Buffers::default());
        let mut connection = match upstream::connect(&self.way.place, &buffers).await {
            Ok(connection) => connection,
            Err(error) => {
                tracing::debug!("token endpoint: {error}");
                return Answer::later(Trouble::Unreachable);
            }
        };
        match connection.ask([&self.head(body.len()), body]).await {
            Ok(head) => {
                let retry_after = retry_after(&connection);
                match read_body(&mut connection).await {
                    Ok(body) => {
                        Answer::read(head.status, retry_after.as_deref(), &body, clock::unix_seconds())
                    }
                    Err(trouble) => Answer::later(trouble),
                }
            }
            Err(error) => {
                tracing::debug!("token endpoint: {error}");
                Answer::later(Trouble::Unreachable)
            }
        }
    }

    fn head(&self, length: usize) -> Vec<u8> {
        let path = if self.way.prefix.is_empty() { "/" } else { &self.way.prefix };
        let mut head = format!("POST {path} HTTP/1.1\r\n").into_bytes();
        field(&mut head, b"host", self.way.host_header.as_bytes());
        field(&mut head, b"user-agent", USER_AGENT.as_bytes());
        field(&mut head, b"accept", b"application/json");
        field(&mut head, b"accept-encoding", b"identity");
        field(&mut head, b"content-type", b"application/json");
        framing(&mut head, Framing::Length(length as u64));
        head.extend_from_slice(b"\r\n");
        head
    }
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
