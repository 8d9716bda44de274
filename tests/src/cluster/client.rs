//! HTTP for tests, one connection per request and no client library: the Kubernetes API through `kubectl proxy`,
//! and proxies.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// Speaks HTTP/1.1 to one address.
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
        self.send_with(method, path, &[("content-type", kind)], body)
    }

    /// Any request with these headers, whatever the answer.
    ///
    /// # Errors
    /// When no answer comes within 10 s.
    pub fn send_with(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Result<Response> {
        let limit = Duration::from_secs(10);
        let mut stream = TcpStream::connect_timeout(&self.address, limit)?;
        stream.set_read_timeout(Some(limit))?;
        let mut request =
            format!("{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n", self.address);
        for (name, value) in headers.iter().filter(|(_, value)| !value.is_empty()) {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() {
            request.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        request.push_str("\r\n");
        request.push_str(body);
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).with_context(|| format!("{method} {path}"))?;
        Ok(Response::read(&answer))
    }
}

impl Response {
    fn read(answer: &[u8]) -> Self {
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(answer.len());
        let (head, rest) = answer.split_at(end);
        let head = String::from_utf8_lossy(head).to_lowercase();
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        let rest = rest.get(4..).unwrap_or_default();
        let body =
            if head.contains("transfer-encoding: chunked") { join_chunks(rest) } else { rest.to_vec() };
        Self { status, body: String::from_utf8_lossy(&body).into_owned() }
    }

    fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("answer is not JSON: {}", self.body))
    }
}

fn join_chunks(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = rest.windows(2).position(|two| two == b"\r\n") {
        let (line, after) = rest.split_at(end);
        let size = usize::from_str_radix(String::from_utf8_lossy(line).trim(), 16).unwrap_or(0);
        let Some(chunk) = after.get(2..2 + size).filter(|chunk| !chunk.is_empty()) else { break };
        body.extend_from_slice(chunk);
        rest = after.get(2 + size + 2..).unwrap_or_default();
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_joined_and_the_status_is_read() {
        let answer =
            b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{\"a\r\n4\r\n\":1}\r\n0\r\n\r\n";
        let answer = Response::read(answer);
        assert_eq!((answer.status, answer.body.as_str()), (201, "{\"a\":1}"));
    }
}
