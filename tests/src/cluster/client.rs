//! The Kubernetes API over plain HTTP, through `kubectl proxy`: enough for tests, without a client library.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// Speaks HTTP/1.0, one connection per request, to one address.
#[derive(Debug, Clone, Copy)]
pub struct Client {
    address: SocketAddr,
}

/// What a server answered.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status code; 0 when there was no status line.
    pub status: u16,
    /// The whole body.
    pub body: String,
}

impl Client {
    /// A client of `address`.
    pub fn new(address: SocketAddr) -> Self {
        Self { address }
    }

    /// The object at `path`, `None` when the answer is 404.
    ///
    /// # Errors
    /// On any other answer but 200.
    pub fn get(&self, path: &str) -> Result<Option<Value>> {
        let answer = self.send("GET", path, "", "")?;
        match answer.status {
            200 => Ok(Some(answer.json()?)),
            404 => Ok(None),
            status => bail!("GET {path}: {status}: {}", answer.body),
        }
    }

    /// Merges `patch` into the object at `path`.
    ///
    /// # Errors
    /// On any answer but 200.
    pub fn merge(&self, path: &str, patch: &Value) -> Result<Value> {
        self.expect("PATCH", path, ("application/merge-patch+json", patch))
    }

    /// Merges `patch` the way Kubernetes does, lists by their keys.
    ///
    /// # Errors
    /// On any answer but 200.
    pub fn strategic_merge(&self, path: &str, patch: &Value) -> Result<Value> {
        self.expect("PATCH", path, ("application/strategic-merge-patch+json", patch))
    }

    /// Creates `object` in the collection at `path`.
    ///
    /// # Errors
    /// On any answer but 200 and 201.
    pub fn create(&self, path: &str, object: &Value) -> Result<Value> {
        self.expect("POST", path, ("application/json", object))
    }

    /// Deletes the object at `path`, in the background.
    ///
    /// # Errors
    /// On any answer but 200, 202 and 404.
    pub fn delete(&self, path: &str) -> Result<()> {
        let answer =
            self.send("DELETE", path, "application/json", r#"{"propagationPolicy":"Background"}"#)?;
        match answer.status {
            200 | 202 | 404 => Ok(()),
            status => bail!("DELETE {path}: {status}: {}", answer.body),
        }
    }

    fn expect(&self, method: &str, path: &str, (kind, body): (&str, &Value)) -> Result<Value> {
        let answer = self.send(method, path, kind, &body.to_string())?;
        match answer.status {
            200 | 201 => answer.json(),
            status => bail!("{method} {path}: {status}: {}", answer.body),
        }
    }

    /// Any request, whatever the answer.
    ///
    /// # Errors
    /// When no answer comes within 10 s.
    pub fn send(&self, method: &str, path: &str, kind: &str, body: &str) -> Result<Response> {
        let limit = Duration::from_secs(10);
        let mut stream = TcpStream::connect_timeout(&self.address, limit)?;
        stream.set_read_timeout(Some(limit))?;
        let mut head = format!("{method} {path} HTTP/1.0\r\nhost: {}\r\n", self.address);
        if !body.is_empty() {
            head.push_str(&format!("content-type: {kind}\r\ncontent-length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes())?;
        stream.write_all(body.as_bytes())?;
        let mut text = Vec::new();
        stream.read_to_end(&mut text).with_context(|| format!("{method} {path}"))?;
        let text = String::from_utf8_lossy(&text);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        Ok(Response { status, body: body.to_owned() })
    }
}

impl Response {
    fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("answer is not JSON: {}", self.body))
    }
}
