use std::net::Ipv4Addr;
use std::sync::Arc;

use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::http1::body::Framing;

const REQUEST_HEAD: &[u8] = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n";
static REQUEST_BODY: [u8; 100_000] = [b'r'; 100_000];

/// Runs `test` with a connection to whoever runs `server`, in plain text and over TLS.
fn both_ways<S, T>(server: S, test: T)
where
    S: AsyncFn(&mut dyn Peer) + Copy + 'static,
    T: AsyncFn(Connection),
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default());
    runtime.unwrap().block_on(async {
        for is_tls in [false, true] {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let address = listener.local_addr().unwrap();
            let (acceptor, connector) = tls();
            let serving = tokio::task::spawn_local(async move {
                let mut socket = listener.accept().await.unwrap().0;
                if is_tls {
                    server(&mut acceptor.accept(socket).await.unwrap()).await;
                } else {
                    server(&mut socket).await;
                }
            });
            let socket = TcpStream::connect(address).await.unwrap();
            let stream = if is_tls {
                let name = ServerName::try_from("vendor.example").unwrap();
                Stream::Tls(Box::new(connector.connect(name, socket).await.unwrap()))
            } else {
                Stream::Plain(socket)
            };
            test(Connection::new(stream, Rc::default())).await;
            serving.await.unwrap();
        }
    });
}

trait Peer: AsyncRead + AsyncWrite + Unpin {}

impl<P: AsyncRead + AsyncWrite + Unpin> Peer for P {}

/// Both ends of a TLS that trusts one certificate, made for this test.
fn tls() -> (TlsAcceptor, TlsConnector) {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(vec!["vendor.example".to_owned()]).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let key = PrivateKeyDer::Pkcs8(signing_key.serialize_der().into());
    let server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    (TlsAcceptor::from(Arc::new(server)), TlsConnector::from(Arc::new(client)))
}

async fn read_request(peer: &mut dyn Peer) {
    let mut request = vec![0; REQUEST_HEAD.len() + REQUEST_BODY.len()];
    peer.read_exact(&mut request).await.unwrap();
    assert!(request.starts_with(REQUEST_HEAD) && request.ends_with(&REQUEST_BODY));
}

async fn say(peer: &mut dyn Peer, text: &str) {
    peer.write_all(text.as_bytes()).await.unwrap();
    peer.flush().await.unwrap();
}

/// The whole body of an answer, or what came before it broke off.
async fn rest(connection: &mut Connection) -> (Vec<u8>, Result<(), BrokenOff>) {
    let mut body = Vec::new();
    loop {
        let part = std::future::poll_fn(|context| connection.poll_part(context)).await;
        body.extend_from_slice(connection.part());
        if part.is_err() || connection.is_ended() {
            return (body, part);
        }
    }
}

#[test]
fn requests_follow_each_other_and_their_answers_come_whole() {
    both_ways(
        async |peer| {
            read_request(peer).await;
            for byte in
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nX-A: b\r\ntransfer-encoding: chunked\r\n\r\n\
                         5\r\nhello\r\n6;ext\r\n there\r\n0\r\ntrailer: x\r\n\r\n"
                    .chars()
            {
                say(peer, &byte.to_string()).await;
                tokio::task::yield_now().await;
            }
            read_request(peer).await;
            say(peer, "HTTP/1.1 429 Too Many\r\ncontent-length: 3\r\n\r\nno!").await;
        },
        async |mut connection| {
            let head = connection.ask([REQUEST_HEAD, &REQUEST_BODY]).await.unwrap();
            assert_eq!((head.status, head.framing, head.persists), (200, Framing::Chunked, true));
            assert_eq!(connection.fields().next(), Some((&b"x-a"[..], &b"b"[..])));
            assert_eq!(rest(&mut connection).await, (b"hello there".to_vec(), Ok(())));
            assert!(connection.persists() && connection.is_quiet());
            let head = connection.ask([REQUEST_HEAD, &REQUEST_BODY]).await.unwrap();
            assert_eq!((head.status, head.framing), (429, Framing::Length(3)));
            assert_eq!(rest(&mut connection).await, (b"no!".to_vec(), Ok(())));
            assert!(connection.persists());
        },
    );
}

#[test]
fn answer_to_a_part_of_the_request_is_an_answer_and_the_last_of_its_connection() {
    both_ways(
        async |peer| {
            let mut some = [0; 10];
            peer.read_exact(&mut some).await.unwrap();
            say(peer, "HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n").await;
            // It reads no more, and waits for the other side to leave.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        },
        async |mut connection| {
            let body = vec![b'r'; 32 << 20];
            assert_eq!(connection.ask([REQUEST_HEAD, &body]).await.unwrap().status, 413);
            assert_eq!(rest(&mut connection).await, (Vec::new(), Ok(())));
            assert!(!connection.persists());
        },
    );
}

#[test]
fn answer_that_is_cut_is_no_whole_one_and_surplus_ends_the_connection() {
    let cases = [
        ("content-length: 9", "part", false, false),
        ("transfer-encoding: chunked", "4\r\npart\r\n", false, false),
        ("transfer-encoding: chunked", "4\r\npart?", false, false),
        ("content-length: 4", "part", true, true),
        ("content-length: 4", "partHTTP/1.1 200 OK\r\n\r\n", true, false),
        ("connection: close\r\ncontent-length: 4", "part", true, false),
    ];
    for (fields, body, is_whole, persists) in cases {
        both_ways(
            async move |peer| {
                read_request(peer).await;
                say(peer, &format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n{body}")).await;
                peer.shutdown().await.unwrap();
            },
            async |mut connection| {
                connection.ask([REQUEST_HEAD, &REQUEST_BODY]).await.unwrap();
                let (seen, end) = rest(&mut connection).await;
                assert_eq!((end.is_ok(), connection.persists()), (is_whole, persists), "{fields}, {body:?}");
                assert!(!is_whole || seen == b"part", "{fields}, {body:?}");
                assert!(!connection.is_quiet(), "its end must be noticed");
            },
        );
    }
}

#[test]
fn what_is_no_answer_is_told_from_a_connection_that_broke() {
    for (text, is_bad) in [("HTTP/1.1 200", false), ("", false), ("HTTP/2 200\r\n\r\n", true), ("\n", true)] {
        both_ways(
            async move |peer| {
                read_request(peer).await;
                say(peer, text).await;
                peer.shutdown().await.unwrap();
            },
            async |mut connection| {
                let failure = connection.ask([REQUEST_HEAD, &REQUEST_BODY]).await.unwrap_err();
                assert_eq!(matches!(failure, AskError::BadHead(_)), is_bad, "{text:?}: {failure:?}");
            },
        );
    }
}
