//! One connection of a fake: requests in, scripted answers out, until either side has had enough.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::answer::{Answer, Break, Ending, Framing};
use super::request::{BodyFraming, Received};
use super::upstream::Shared;

/// Longest head that is read.
const MAX_HEAD_BYTES: usize = 128 * 1024;

/// How long a reset waits, so that what was written before it is read and not discarded by it.
const BEFORE_RESET: Duration = Duration::from_millis(50);

pub(super) struct Connection {
    stream: TcpStream,
    shared: Arc<Shared>,
    number: u64,
    unread: Vec<u8>,
}

/// Why a request was not read.
enum NotRead {
    /// The other side has gone.
    Gone,
    /// It cannot be understood.
    Violation(String),
}

impl From<io::Error> for NotRead {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

impl Connection {
    pub(super) fn new(stream: TcpStream, shared: Arc<Shared>, number: u64) -> Self {
        Self { stream, shared, number, unread: Vec::new() }
    }

    pub(super) async fn serve(mut self) {
        // Without it, small writes are joined and nothing is split where it was asked to be.
        if self.stream.set_nodelay(true).is_err() {
            return;
        }
        loop {
            let received = match self.read_request().await {
                Ok(received) => received,
                Err(NotRead::Gone) => return,
                Err(NotRead::Violation(violation)) => {
                    self.shared.note_violation(violation);
                    let refusal =
                        Answer::error(400, "invalid_request_error", "the fake does not understand this");
                    let _gone = self.write(&refusal.ending(Ending::Close), false).await;
                    return;
                }
            };
            let to_head = received.method == "HEAD";
            let (number, answer) = self.shared.answer(received);
            match self.write(&answer, to_head).await {
                Ok(true) => {}
                Ok(false) => return,
                Err(_) => return self.shared.note_cancelled(number),
            }
        }
    }

    async fn read_request(&mut self) -> Result<Received, NotRead> {
        let end = loop {
            if let Some(end) = self.unread.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
            if self.unread.len() > MAX_HEAD_BYTES {
                return Err(NotRead::Violation("head without an end".to_owned()));
            }
            self.read_more().await?;
        };
        let head = self.take(end + 4);
        let head = head.get(..end).unwrap_or_default();
        let (mut received, framing) = Received::read(head).map_err(NotRead::Violation)?;
        received.connection = self.number;
        let body = match framing {
            BodyFraming::Length(length) => self.read_exactly(length).await?,
            BodyFraming::Chunked => self.read_chunks().await?,
        };
        received.set_body(body);
        Ok(received)
    }

    async fn read_chunks(&mut self) -> Result<Vec<u8>, NotRead> {
        let mut body = Vec::new();
        loop {
            let line = self.read_line().await?;
            let size = usize::from_str_radix(&line, 16);
            let size = size.map_err(|_| NotRead::Violation(format!("chunk size {line:?}")))?;
            if size == 0 {
                let line = self.read_line().await?;
                return if line.is_empty() {
                    Ok(body)
                } else {
                    Err(NotRead::Violation("trailers".to_owned()))
                };
            }
            body.extend(self.read_exactly(size).await?);
            if self.read_exactly(2).await? != b"\r\n" {
                return Err(NotRead::Violation("chunk longer than its size".to_owned()));
            }
        }
    }

    async fn read_line(&mut self) -> Result<String, NotRead> {
        loop {
            if let Some(end) = self.unread.windows(2).position(|two| two == b"\r\n") {
                let line = self.take(end + 2);
                return Ok(String::from_utf8_lossy(line.get(..end).unwrap_or_default()).into_owned());
            }
            self.read_more().await?;
        }
    }

    async fn read_exactly(&mut self, length: usize) -> Result<Vec<u8>, NotRead> {
        while self.unread.len() < length {
            self.read_more().await?;
        }
        Ok(self.take(length))
    }

    fn take(&mut self, length: usize) -> Vec<u8> {
        let rest = self.unread.split_off(length.min(self.unread.len()));
        std::mem::replace(&mut self.unread, rest)
    }

    async fn read_more(&mut self) -> io::Result<()> {
        self.unread.reserve(16 * 1024);
        let count = self.stream.read_buf(&mut self.unread).await?;
        self.shared.bytes.fetch_add(count as u64, Ordering::Relaxed);
        if count == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    /// Writes an answer; tells whether the connection goes on.
    ///
    /// # Errors
    /// The other side went away before the answer was over.
    async fn write(&mut self, answer: &Answer, to_head: bool) -> io::Result<bool> {
        let wire = answer.wire(to_head);
        self.wait(answer.delay).await?;
        let mut from = 0;
        for to in wire.writes {
            let part = wire.bytes.get(from..to).unwrap_or_default();
            if from > 0 {
                self.wait(answer.pause).await?;
            }
            self.stream.write_all(part).await?;
            from = to;
        }
        match answer.ending {
            Ending::KeepAlive if answer.framing != Framing::UntilClose => Ok(true),
            Ending::KeepAlive | Ending::Close | Ending::Break(Break::Close, _) => {
                self.stream.shutdown().await?;
                Ok(false)
            }
            Ending::Break(Break::Reset, _) => {
                tokio::time::sleep(BEFORE_RESET).await;
                self.stream.set_zero_linger()?;
                Ok(false)
            }
            Ending::Break(Break::Stall, _) => {
                self.wait(Duration::MAX).await?;
                Ok(false)
            }
        }
    }

    /// Lets time pass, unless the other side goes away.
    async fn wait(&mut self, time: Duration) -> io::Result<()> {
        if time.is_zero() {
            // Lets the other side read what was written, so that splits are seen as splits.
            tokio::task::yield_now().await;
            return Ok(());
        }
        let end = tokio::time::sleep(time);
        tokio::pin!(end);
        loop {
            tokio::select! {
                () = &mut end => return Ok(()),
                read = self.read_more() => read?,
            }
        }
    }
}
