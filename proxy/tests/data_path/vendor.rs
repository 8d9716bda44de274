//! A vendor on raw sockets that does what the model's name says, and remembers what it received.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

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

    pub(crate) fn last_head(&self) -> String {
        self.seen.lock().unwrap().requests.last().unwrap().0.clone()
    }
}

fn serve(mut socket: TcpStream, seen: &Mutex<Seen>) {
    while let Some((head, body)) = read_request(&mut socket) {
        let text = String::from_utf8_lossy(&body).into_owned();
        seen.lock().unwrap().requests.push((head.clone(), body));
        if !answer(&mut socket, &head, &text, seen) {
            return;
        }
    }
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

const OVERLOADED: &str =
    "{\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}";

const UNAUTHORIZED: &str =
    "{\"type\":\"error\",\"error\":{\"type\":\"authentication_error\",\"message\":\"invalid x-api-key\"}}";

fn fixed(socket: &mut TcpStream, status: &str, extra: &str, text: &str) -> bool {
    let length = text.len();
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n{extra}\r\n"
    );
    socket.write_all(format!("{head}{text}").as_bytes()).is_ok()
}

fn answer(socket: &mut TcpStream, head: &str, body: &str, seen: &Mutex<Seen>) -> bool {
    let does = |what: &str| body.contains(&format!("\"{what}\""));
    if head.starts_with("GET") || does("json") {
        return fixed(socket, "200 OK", "request-id: req_vendor\r\n", JSON);
    }
    if does("overloaded") {
        return fixed(socket, "529 Overloaded", "retry-after: 7\r\n", OVERLOADED);
    }
    if does("unauthorized") {
        return fixed(socket, "401 Unauthorized", "", UNAUTHORIZED);
    }
    if does("failing") {
        return fixed(socket, "500 Internal Server Error", "", OVERLOADED);
    }
    if does("redirect") {
        return fixed(socket, "302 Found", "location: http://127.0.0.1:1/\r\n", "");
    }
    if does("silent") {
        std::thread::sleep(Duration::from_secs(20));
        return false;
    }
    if does("hangup") {
        return false;
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
