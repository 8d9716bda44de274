//! Bad heads over raw sockets: a 4xx in the vendor's shape, then the end, and nothing smuggled.

use std::io::{Read as _, Write as _};

use crate::router::{Router, body, message, read_answer, status, statuses};
use crate::vendor::Vendor;

#[test]
fn every_bad_head_is_answered_and_its_connection_closed() {
    let vendor = Vendor::start();
    let router = Router::start(vendor.address);
    let smuggled = message(&router.token("id-1"), "json");
    let fields = "a: b\r\n".repeat(101);
    let long = format!("a: {}\r\n", "b".repeat(33_000));
    let cases = [
        ("over 32 kB", format!("GET /health HTTP/1.1\r\nhost: x\r\n{long}\r\n"), 431),
        ("over 100 fields", format!("GET /health HTTP/1.1\r\nhost: x\r\n{fields}\r\n"), 431),
        ("bare LF", "GET /health HTTP/1.1\nhost: x\n\n".to_owned(), 400),
        ("bare CR", "GET /health HTTP/1.1\r\nhost: x\r\na: b\rc: d\r\n\r\n".to_owned(), 400),
        ("NUL", "GET /health HTTP/1.1\r\nhost: x\r\na: b\0\r\n\r\n".to_owned(), 400),
        ("folded field", "GET /health HTTP/1.1\r\nhost: x\r\na: b\r\n c\r\n\r\n".to_owned(), 400),
        ("space before colon", "GET /health HTTP/1.1\r\nhost : x\r\n\r\n".to_owned(), 400),
        ("no host", "GET /health HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("two lengths", "POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\ncontent-length: 0\r\n\r\n".to_owned(), 400),
        ("length and chunked", "POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(), 400),
        ("obfuscated chunked", "POST /v1/messages HTTP/1.1\r\nhost: x\r\ntransfer-encoding: x, chunked\r\n\r\n0\r\n\r\n".to_owned(), 400),
        ("absolute target", "GET http://x/health HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(), 400),
        ("CONNECT", "CONNECT x:443 HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(), 400),
        ("upgrade", "GET /health HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n".to_owned(), 400),
        ("expectation", "GET /health HTTP/1.1\r\nhost: x\r\nexpect: x\r\n\r\n".to_owned(), 417),
        ("HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), 505),
        ("body of a GET", "GET /health HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\nx".to_owned(), 400),
    ];
    for (what, head, expected) in cases {
        for pause in [false, true] {
            let mut client = router.connect();
            let bytes = format!("{head}{smuggled}");
            if pause {
                let (start, rest) = bytes.split_at(12);
                client.write_all(start.as_bytes()).unwrap();
                std::thread::sleep(std::time::Duration::from_millis(5));
                client.write_all(rest.as_bytes()).unwrap();
            } else {
                client.write_all(bytes.as_bytes()).unwrap();
            }
            let mut answer = String::new();
            client.read_to_string(&mut answer).unwrap();
            assert_eq!(statuses(&answer), [expected], "{what}: {answer}");
            assert!(body(&answer).contains("invalid_request_error"), "{what}: {answer}");
        }
    }
    assert_eq!(vendor.requests(), 0);
}

#[test]
fn good_request_before_a_bad_one_is_still_served() {
    let vendor = Vendor::start();
    let router = Router::start(vendor.address);
    let mut client = router.connect();
    write!(client, "{}GET / HTTP/1.1\nhost: x\n\n", message(&router.token("id-1"), "json")).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!((statuses(&answer), vendor.requests()), (vec![200, 400], 1), "{answer}");
}

#[test]
fn malformed_chunk_ends_the_request_and_the_connection() {
    let vendor = Vendor::start();
    let router = Router::start(vendor.address);
    let token = router.token("id-1");
    for pause in [false, true] {
        let mut client = router.connect();
        write!(client, "POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-api-key: {token}\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
        if pause {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        write!(client, "10;x=y\r\n{{\"model\":\"json\"}}\r\n0\r\n\r\n{}", message(&token, "json")).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(statuses(&answer), [400], "{answer}");
        assert!(body(&answer).contains("chunked body is malformed"), "{answer}");
    }
    assert_eq!((vendor.requests(), router.used("agent")), (0, (0, 0)));
}

#[test]
fn head_that_comes_byte_by_byte_is_served() {
    let vendor = Vendor::start();
    let router = Router::start(vendor.address);
    let mut client = router.connect();
    for _ in 0..2 {
        for byte in message(&router.token("id-1"), "json").as_bytes() {
            client.write_all(&[*byte]).unwrap();
        }
        assert_eq!(status(&read_answer(&mut client)), 200);
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let vendor = Vendor::start();
    let router = Router::start(vendor.address);
    let token = router.token("id-1");
    let mut client = router.connect();
    let all = format!(
        "GET /health HTTP/1.1\r\nhost: x\r\n\r\n{}GET /nothing HTTP/1.1\r\nhost: x\r\n\r\n{}GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        message(&token, "json"),
        message(&token, "overloaded")
    );
    client.write_all(all.as_bytes()).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(statuses(&answer), [200, 200, 404, 529, 200], "{answer}");
}

#[test]
fn expected_continue_is_answered() {
    let vendor = Vendor::start();
    let router = Router::start(vendor.address);
    let mut client = router.connect();
    let whole = message(&router.token("id-1"), "json").replace("host: x", "host: x\r\nexpect: 100-continue");
    let (head, text) = whole.split_once("\r\n\r\n").unwrap();
    write!(client, "{head}\r\n\r\n").unwrap();
    let mut scratch = [0; 64];
    let count = client.read(&mut scratch).unwrap();
    assert!(scratch[..count].starts_with(b"HTTP/1.1 100 "));
    client.write_all(text.as_bytes()).unwrap();
    assert_eq!(status(&read_answer(&mut client)), 200);
}
