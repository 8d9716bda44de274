//! A client on raw TCP: it can send what no library would, and sees answers as they came.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long an answer may be silent before a test fails instead of hanging.
const PATIENCE: Duration = Duration::from_secs(60);

/// A request to send.
#[derive(Debug, Clone)]
pub struct Call {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// Without its framing.
    pub body: Vec<u8>,
    /// Whether the body came to the end that its framing announced.
    pub complete: bool,
}

/// A connection to one address.
pub struct Caller {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Call {
    /// Any request, without headers but `host`.
    pub fn new(method: &str, target: &str) -> Self {
        let headers = vec![("host".to_owned(), "router.test".to_owned())];
        Self { method: method.to_owned(), target: target.to_owned(), headers, body: Vec::new() }
    }

    /// A request for a message, with a token.
    pub fn message(token: &str, body: impl Into<Vec<u8>>) -> Self {
        Self::new("POST", "/v1/messages").bearer(token).json(body)
    }

    /// The same with another header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same with `authorization: Bearer`.
    #[must_use]
    pub fn bearer(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    /// The same with a JSON body.
    #[must_use]
    pub fn json(self, body: impl Into<Vec<u8>>) -> Self {
        let call = self.header("content-type", "application/json").header("anthropic-version", "2023-06-01");
        Self { body: body.into(), ..call }
    }

    /// The bytes that go over the wire.
    pub fn bytes(&self) -> Vec<u8> {
        let mut text = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if !self.body.is_empty() {
            text.push_str(&format!("content-length: {}\r\n", self.body.len()));
        }
        text.push_str("\r\n");
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }

    /// Sends it on a connection of its own.
    ///
    /// # Errors
    /// When there is no connection, or no head of an answer.
    pub async fn send(&self, address: SocketAddr) -> io::Result<Reply> {
        let mut caller = Caller::connect(address).await?;
        // Not `?`: a refusal may come, and the connection end, before the whole body was sent.
        let sent = caller.write(&self.bytes()).await;
        match caller.reply(self.method == "HEAD").await {
            Ok(reply) => Ok(reply),
            Err(error) => Err(sent.err().unwrap_or(error)),
        }
    }
}

impl Reply {
    /// The value of a header that is there exactly once.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut named = self.headers.iter().filter(|(other, _)| other == name);
        let (_, value) = named.next()?;
        named.next().is_none().then_some(value)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; null when it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

impl Caller {
    /// Connects.
    ///
    /// # Errors
    /// When nobody listens.
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, unread: Vec::new() })
    }

    /// Connects anew where `reply` was the last on this connection. Whether it can go on.
    pub async fn go_on(&mut self, reply: &Reply, address: SocketAddr) -> bool {
        if !reply.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
            return true;
        }
        let again = Self::connect(address).await;
        again.map(|again| *self = again).is_ok()
    }

    /// Sends bytes, whatever they are.
    ///
    /// # Errors
    /// When the other side no longer takes them.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Sends no more, and still reads.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn finish(&mut self) -> io::Result<()> {
        self.stream.shutdown().await
    }

    /// Reads one answer; `to_head` for one without a body.
    ///
    /// # Errors
    /// When its head does not come, or is none.
    pub async fn reply(&mut self, to_head: bool) -> io::Result<Reply> {
        let mut reply = self.head().await?;
        while reply.status == 100 {
            reply = self.head().await?;
        }
        if !to_head && reply.status != 204 {
            reply.complete = self.body(&mut reply).await;
        }
        Ok(reply)
    }

    /// Reads the head of an answer; its body, in its framing, is left for [`Self::some`].
    ///
    /// # Errors
    /// When it does not come, or is none.
    pub async fn head(&mut self) -> io::Result<Reply> {
        let end = loop {
            if let Some(end) = self.unread.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
            self.read_more().await?;
        };
        let head: Vec<u8> = self.unread.drain(..end + 4).collect();
        read_head(&String::from_utf8_lossy(&head)).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Whatever bytes come next; none at the end.
    ///
    /// # Errors
    /// When the connection is reset or silent.
    pub async fn some(&mut self) -> io::Result<Vec<u8>> {
        if self.unread.is_empty() {
            match self.read_more().await {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
                other => other?,
            }
        }
        Ok(std::mem::take(&mut self.unread))
    }

    /// Reads the body that a head announces. Tells whether it came to its end.
    async fn body(&mut self, reply: &mut Reply) -> bool {
        if reply.header("transfer-encoding").is_some() {
            return self.chunks(&mut reply.body).await.is_ok();
        }
        let length =
            reply.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(usize::MAX);
        while self.unread.len() < length {
            if let Err(error) = self.read_more().await {
                reply.body = std::mem::take(&mut self.unread);
                return length == usize::MAX && error.kind() == io::ErrorKind::UnexpectedEof;
            }
        }
        reply.body = self.unread.drain(..length).collect();
        true
    }

    async fn chunks(&mut self, body: &mut Vec<u8>) -> io::Result<()> {
        loop {
            let size = self.line().await?;
            let size = usize::from_str_radix(&size, 16).map_err(|_| io::ErrorKind::InvalidData)?;
            if size == 0 {
                let end = self.line().await?;
                return if end.is_empty() { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) };
            }
            let mut left = size;
            while left > 0 {
                if self.unread.is_empty() {
                    self.read_more().await?;
                }
                let count = left.min(self.unread.len());
                body.extend(self.unread.drain(..count));
                left -= count;
            }
            self.line().await?;
        }
    }

    async fn line(&mut self) -> io::Result<String> {
        let end = loop {
            if let Some(end) = self.unread.windows(2).position(|two| two == b"\r\n") {
                break end;
            }
            self.read_more().await?;
        };
        let line: Vec<u8> = self.unread.drain(..end + 2).collect();
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    async fn read_more(&mut self) -> io::Result<()> {
        self.unread.reserve(16 * 1024);
        let read = timeout(PATIENCE, self.stream.read_buf(&mut self.unread)).await;
        let count = read.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        if count == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }
}

fn read_head(text: &str) -> Option<Reply> {
    let mut lines = text.trim_end().split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let header = |line: &str| {
        line.split_once(':').map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
    };
    let headers = lines.map(header).collect::<Option<Vec<_>>>()?;
    Some(Reply { status, headers, body: Vec::new(), complete: true })
}
