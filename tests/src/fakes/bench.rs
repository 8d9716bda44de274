//! An upstream that does as little as it can, to measure what stands before it.
//!
//! Any POST gets the same JSON of 505 bytes, or the same short stream if its body says `"stream":true`. A
//! stream for the model `hold-MS` sends its end MS milliseconds after its beginning. On demand every answer tells
//! of limits as a subscription's do, or has as many fields that say nothing.

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::vendor::{Turn, stream};

/// Bytes of the body of a JSON answer.
const JSON_BYTES: usize = 505;

/// What a subscription's answers tell of its limits; `RESET` stands for a time ahead.
const LIMITS: &str = "anthropic-ratelimit-unified-status: allowed\r\n\
    anthropic-ratelimit-unified-reset: RESET\r\n\
    anthropic-ratelimit-unified-5h-status: allowed\r\n\
    anthropic-ratelimit-unified-5h-utilization: 0.17\r\n\
    anthropic-ratelimit-unified-5h-reset: RESET\r\n\
    anthropic-ratelimit-unified-7d-status: allowed\r\n\
    anthropic-ratelimit-unified-7d-utilization: 0.48\r\n\
    anthropic-ratelimit-unified-7d-reset: RESET\r\n";

/// What every answer has besides what it must have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum More {
    /// Nothing.
    #[default]
    Nothing,
    /// How the limits of the account stand.
    Limits,
    /// Fields of the same length that nobody reads: what remains of the difference is the reading.
    Others,
}

impl More {
    fn fields(self) -> String {
        let limits = LIMITS.replace("RESET", &in_a_day().to_string());
        match self {
            Self::Nothing => String::new(),
            Self::Limits => limits,
            Self::Others => limits.replace("anthropic-ratelimit-unified", "anthropic-telemetry-of-edge"),
        }
    }
}

struct Answers {
    json: Vec<u8>,
    stream: Vec<u8>,
    stream_start: Vec<u8>,
    stream_end: Vec<u8>,
}

impl Answers {
    fn new(more: More) -> Self {
        let more = more.fields();
        let turn = Turn::asked_for_by(&serde_json::json!({"model": "bench"}));
        let empty = super::vendor::json(&Turn { text: String::new(), ..turn.clone() });
        let text = "x".repeat(JSON_BYTES.saturating_sub(empty.len()));
        let body = super::vendor::json(&Turn { text, ..turn.clone() });
        let json = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{more}\r\n{body}",
            body.len()
        );
        let events = stream(&turn);
        let (start, end) = events.split_at(events.len().saturating_sub(2));
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n{more}\r\n"
        );
        let stream_start = format!("{head}{}", chunk(&start.concat())).into_bytes();
        let stream_end = format!("{}0\r\n\r\n", chunk(&end.concat())).into_bytes();
        Self {
            json: json.into_bytes(),
            stream: [stream_start.as_slice(), &stream_end].concat(),
            stream_start,
            stream_end,
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a vendor tells real times")]
fn in_a_day() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_secs() + 86_400
}

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

/// Answers every connection of `listener`, for ever, with `more` fields.
///
/// # Errors
/// When connections can no longer be accepted.
pub async fn serve(listener: TcpListener, more: More) -> io::Result<()> {
    let answers: &'static Answers = Box::leak(Box::new(Answers::new(more)));
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            // A connection that breaks is the business of whoever broke it.
            let _gone = connection(stream, answers).await;
        });
    }
}

async fn connection(mut stream: TcpStream, answers: &Answers) -> io::Result<()> {
    let mut unread = Vec::with_capacity(8 * 1024);
    loop {
        let end = loop {
            if let Some(end) = find(&unread, b"\r\n\r\n") {
                break end + 4;
            }
            if stream.read_buf(&mut unread).await? == 0 {
                return Ok(());
            }
        };
        let length = body_length(unread.get(..end).unwrap_or_default());
        while unread.len() < end + length {
            if stream.read_buf(&mut unread).await? == 0 {
                return Ok(());
            }
        }
        let body = unread.get(end..end + length).unwrap_or_default();
        match hold(body) {
            Some(time) => {
                stream.write_all(&answers.stream_start).await?;
                tokio::time::sleep(time).await;
                stream.write_all(&answers.stream_end).await?;
            }
            None if find(body, b"\"stream\":true").is_some() => stream.write_all(&answers.stream).await?,
            None => stream.write_all(&answers.json).await?,
        }
        unread.drain(..end + length);
    }
}

fn body_length(head: &[u8]) -> usize {
    let name = b"content-length: ";
    let at = head.windows(name.len()).position(|window| window.eq_ignore_ascii_case(name));
    let Some(value) = at.and_then(|at| head.get(at + name.len()..)) else { return 0 };
    value.iter().take_while(|b| b.is_ascii_digit()).fold(0, |sum, b| sum * 10 + usize::from(b - b'0'))
}

/// The time in `"hold-MS"`.
fn hold(body: &[u8]) -> Option<Duration> {
    let name = b"\"hold-";
    let rest = body.get(find(body, name)? + name.len()..)?;
    let ms = rest.iter().take_while(|b| b.is_ascii_digit()).fold(0, |sum, b| sum * 10 + u64::from(b - b'0'));
    Some(Duration::from_millis(ms))
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_answer_has_the_size_it_is_measured_with() {
        let json = Answers::new(More::Nothing).json;
        assert_eq!(json.len() - find(&json, b"\r\n\r\n").unwrap() - 4, JSON_BYTES);
    }

    #[test]
    fn fields_that_nobody_reads_are_as_long_as_limits() {
        let json = |more| Answers::new(more).json;
        assert_eq!(json(More::Limits).len(), json(More::Others).len());
        assert!(find(&json(More::Limits), b"ratelimit").is_some());
        assert!(find(&json(More::Others), b"ratelimit").is_none());
    }

    #[test]
    fn time_to_hold_is_read_from_the_model() {
        assert_eq!(hold(b"{\"model\":\"hold-1500\"}"), Some(Duration::from_millis(1500)));
        assert_eq!(hold(b"{\"model\":\"claude\"}"), None);
        assert_eq!(body_length(b"POST / HTTP/1.1\r\nContent-Length: 123\r\n\r\n"), 123);
    }
}
