//! A vendor on raw sockets that does what the model's name says, and remembers what it received.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub(crate) const SSE: &str = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"m\",\"usage\":{\"input_tokens\":7,\"output_tokens\":1}}}\n\n\
event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"hi\"}}\n\n";
pub(crate) const SSE_END: &str = "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":5}}\n\n\
event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
pub(crate) const JSON: &str =
    "{\"id\":\"m\",\"type\":\"message\",\"content\":[],\"usage\":{\"input_tokens\":3,\"output_tokens\":4}}";

#[derive(Default)]
pub(crate) struct Seen {
    /// Every request: its head and its body.
    pub(crate) requests: Vec<(String, Vec<u8>)>,
    /// Connections whose client went away while an answer was being sent.
    pub(crate) gone: usize,
    pub(crate) connections: usize,
    /// Requests that are being answered now, and the most that ever were, by credential.
    pub(crate) open: HashMap<String, (usize, usize)>,
    /// What is done to so many requests with a credential, whatever they ask for.
    faults: HashMap<String, (String, usize)>,
}

pub(crate) struct Vendor {
    pub(crate) address: SocketAddr,
    pub(crate) seen: Arc<Mutex<Seen>>,
}

impl Vendor {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let shared = Arc::clone(&seen);
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let seen = Arc::clone(&shared);
                seen.lock().unwrap().connections += 1;
                std::thread::spawn(move || serve(socket.unwrap(), &seen));
            }
        });
        Self { address, seen }
    }

    pub(crate) fn requests(&self) -> usize {
        self.seen.lock().unwrap().requests.len()
    }

    /// Does `what` to the next so many requests with a credential.
    pub(crate) fn fail(&self, credential: &str, what: &str, times: usize) {
        self.seen.lock().unwrap().faults.insert(credential.to_owned(), (what.to_owned(), times));
    }

    /// The credentials of all requests so far, in order.
    pub(crate) fn credentials(&self) -> Vec<String> {
        self.seen.lock().unwrap().requests.iter().map(|(head, _)| credential(head)).collect()
    }

    pub(crate) fn last_head(&self) -> String {
        self.seen.lock().unwrap().requests.last().unwrap().0.clone()
    }
}

fn serve(mut socket: TcpStream, seen: &Mutex<Seen>) {
    while let Some((head, body)) = read_request(&mut socket) {
        let mut text = String::from_utf8_lossy(&body).into_owned();
        let whose = credential(&head);
        {
            let mut seen = seen.lock().unwrap();
            seen.requests.push((head.clone(), body));
            let (open, most) = seen.open.entry(whose.clone()).or_default();
            *open += 1;
            *most = (*most).max(*open);
            if let Some((what, left)) = seen.faults.get_mut(&whose).filter(|(_, left)| *left > 0) {
                *left -= 1;
                text = format!("\"{what}\"");
            }
        }
        let goes_on = answer(&mut socket, &head, &text, seen);
        seen.lock().unwrap().open.entry(whose).or_default().0 -= 1;
        if !goes_on {
            return;
        }
    }
}

/// The credential in a head.
fn credential(head: &str) -> String {
    let value = |line: &str| {
        let bearer = line.strip_prefix("authorization: Bearer ");
        bearer.or_else(|| line.strip_prefix("x-api-key: ")).map(str::to_owned)
    };
    head.lines().find_map(value).unwrap_or_default()
}

pub(crate) fn read_request(socket: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut scratch = [0; 65_536];
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end + 4]).into_owned();
            let length = head
                .lines()
                .find_map(|line| {
                    line.to_ascii_lowercase()
                        .strip_prefix("content-length:")
                        .map(|n| n.trim().parse().unwrap())
                })
                .unwrap_or(0);
            while bytes.len() < end + 4 + length {
                let count = socket.read(&mut scratch).ok().filter(|count| *count > 0)?;
                bytes.extend_from_slice(&scratch[..count]);
            }
            return Some((head, bytes[end + 4..].to_vec()));
        }
        let count = socket.read(&mut scratch).ok().filter(|count| *count > 0)?;
        bytes.extend_from_slice(&scratch[..count]);
    }
}

fn chunk(socket: &mut TcpStream, text: &str) -> bool {
    socket.write_all(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes()).is_ok()
}

const STREAM_HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\
request-id: req_vendor\r\nset-cookie: a=b\r\nanthropic-organization-id: org\r\nanthropic-ratelimit-unified-status: allowed\r\n\r\n";

fn fixed(socket: &mut TcpStream, status: &str, extra: &str, text: &str) -> bool {
    let length = text.len();
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n{extra}\r\n"
    );
    socket.write_all(format!("{head}{text}").as_bytes()).is_ok()
}

/// The vendor's refusals by what a request asks for: status, fields, and the error's type and message.
const REFUSALS: [(&str, &str, &str, &str, &str); 9] = [
    ("overloaded", "529 Overloaded", "retry-after: 7\r\n", "overloaded_error", "Overloaded"),
    ("unauthorized", "401 Unauthorized", "", "authentication_error", "invalid x-api-key"),
    ("forbidden", "403 Forbidden", "", "permission_error", "Your organization may not do this"),
    ("spent", "403 Forbidden", "", "permission_error", "You have reached your usage limit"),
    ("throttled", "429 Too Many Requests", "", "rate_limit_error", "Slow down"),
    ("failing", "500 Internal Server Error", "", "api_error", "Internal server error"),
    ("mistaken", "400 Bad Request", "", "invalid_request_error", "messages: must not be empty"),
    ("too-long", "400 Bad Request", "", "invalid_request_error", "prompt is too long: 3 tokens > 2 maximum"),
    ("unknown", "404 Not Found", "", "not_found_error", "model: unknown"),
];

/// The body of a refusal.
pub(crate) fn refusal(kind: &str, message: &str) -> String {
    format!("{{\"type\":\"error\",\"error\":{{\"type\":\"{kind}\",\"message\":\"{message}\"}}}}")
}

/// The start of a stream that fails before its message has begun.
pub(crate) const FAILED_START: &str = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"x\",\"usage\":{\"input_tokens\":7,\"output_tokens\":1}}}\n\n\
: comment\n\nevent: ping\ndata: {\"type\":\"ping\"}\n\n\
event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n";

/// A limit that is used up for another hour.
#[expect(clippy::disallowed_methods, reason = "a vendor tells real times")]
fn limited(socket: &mut TcpStream) -> bool {
    let reset = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 3_600;
    let unified = "anthropic-ratelimit-unified";
    let extra = format!(
        "{unified}-status: rejected\r\n{unified}-5h-status: rejected\r\n{unified}-5h-reset: {reset}\r\n\
         {unified}-5h-utilization: 1.0\r\nretry-after: 3600\r\n"
    );
    let text = refusal("rate_limit_error", "This request would exceed your account's rate limit");
    fixed(socket, "429 Too Many Requests", &extra, &text)
}

/// A stream that fails at its start, split in two after so many bytes.
fn failed_start(socket: &mut TcpStream, split: usize) -> bool {
    let (before, after) = FAILED_START.split_at(split.min(FAILED_START.len()));
    let _ = socket.write_all(STREAM_HEAD.as_bytes());
    if !before.is_empty() {
        chunk(socket, before);
        std::thread::sleep(Duration::from_millis(1));
    }
    (after.is_empty() || chunk(socket, after)) && socket.write_all(b"0\r\n\r\n").is_ok()
}

/// Refusals, and what is neither an answer nor a refusal; nothing when another is asked for.
fn no_answer(socket: &mut TcpStream, body: &str) -> Option<bool> {
    let does = |what: &str| body.contains(&format!("\"{what}\""));
    for (what, status, extra, kind, message) in REFUSALS {
        if does(what) {
            return Some(fixed(socket, status, extra, &refusal(kind, message)));
        }
    }
    if does("limited") {
        return Some(limited(socket));
    }
    if does("late") || does("late-overloaded") {
        std::thread::sleep(Duration::from_millis(2_500));
    }
    if does("late-overloaded") {
        return Some(fixed(socket, "529 Overloaded", "", &refusal("overloaded_error", "Overloaded")));
    }
    if does("html") {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 4\r\n\r\n<p/>";
        return Some(socket.write_all(head.as_bytes()).is_ok());
    }
    if does("redirect") {
        return Some(fixed(socket, "302 Found", "location: http://127.0.0.1:1/\r\n", ""));
    }
    if does("silent") {
        std::thread::sleep(Duration::from_secs(20));
        return Some(false);
    }
    does("hangup").then_some(false)
}

/// Streams that are odd at their start or end early; nothing when another answer is asked for.
fn odd_stream(socket: &mut TcpStream, body: &str) -> Option<bool> {
    let does = |what: &str| body.contains(&format!("\"{what}\""));
    let number = |what: &str| -> Option<usize> {
        let (_, rest) = body.split_once(what)?;
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    let (start, content) = SSE.split_once("\n\n").unwrap();
    let start = format!("{start}\n\n");
    if let Some(split) = number("failed-start-") {
        return Some(failed_start(socket, split));
    }
    let begins = ["quiet-start", "half-an-event", "start-until-closed", "content-until-closed"];
    if begins.iter().any(|what| does(what)) || number("reset-after-").is_some() {
        let _ = socket.write_all(STREAM_HEAD.as_bytes());
    }
    if let Some(after) = number("reset-after-") {
        let whole = [SSE, SSE_END].concat();
        chunk(socket, whole.split_at(after).0);
        return Some(false);
    }
    if does("quiet-start") {
        chunk(socket, &start);
        std::thread::sleep(Duration::from_millis(1_200));
        let goes_on = chunk(socket, content) && chunk(socket, SSE_END);
        return Some(goes_on && socket.write_all(b"0\r\n\r\n").is_ok());
    }
    if does("half-an-event") {
        chunk(socket, SSE);
        chunk(socket, "event: ping\ndata: {\"ty");
        std::thread::sleep(Duration::from_secs(20));
        return Some(false);
    }
    if does("start-until-closed") || does("content-until-closed") {
        chunk(socket, if does("start-until-closed") { &start } else { SSE });
    }
    // Whatever comes next is the end.
    body.contains("until-closed\"").then(|| {
        let _ = socket.read(&mut [0; 1]);
        false
    })
}

fn answer(socket: &mut TcpStream, head: &str, body: &str, seen: &Mutex<Seen>) -> bool {
    let does = |what: &str| body.contains(&format!("\"{what}\""));
    if let Some(goes_on) = no_answer(socket, body).or_else(|| odd_stream(socket, body)) {
        return goes_on;
    }
    if head.starts_with("GET") || does("json") {
        return fixed(socket, "200 OK", "request-id: req_vendor\r\n", JSON);
    }
    if does("cut-json") {
        let _ = socket.write_all(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{\"id\":",
        );
        return false;
    }
    if does("undelimited") {
        let _ = socket
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n");
        let _ = socket.write_all(SSE.as_bytes());
        return false;
    }
    let _ = socket.write_all(STREAM_HEAD.as_bytes());
    chunk(socket, SSE);
    if does("reset") {
        return false;
    }
    if does("stall") || does("endless") {
        for _ in 0..400 {
            std::thread::sleep(Duration::from_millis(50));
            if does("endless") && !chunk(socket, "event: ping\ndata: {\"type\": \"ping\"}\n\n") {
                seen.lock().unwrap().gone += 1;
                return false;
            }
        }
        return false;
    }
    chunk(socket, SSE_END) && socket.write_all(b"0\r\n\r\n").is_ok()
}
