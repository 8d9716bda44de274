//! Connections of the admin port and socket: few at a time, none for long without a request.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;

/// Most connections at a time: probes, a scraper, an operator and a few people.
const MAX_CONNECTIONS: usize = 256;

/// How long a connection may take for the head of its next request.
const HEAD_WITHIN: Duration = Duration::from_secs(30);

/// How long to wait when no connection can be accepted, because the process has no file left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Something that connections come from.
pub trait Acceptor {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection.
    fn next(&self) -> impl Future<Output = io::Result<Self::Stream>>;
}

impl Acceptor for TcpListener {
    type Stream = tokio::net::TcpStream;

    async fn next(&self) -> io::Result<Self::Stream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

impl Acceptor for UnixListener {
    type Stream = tokio::net::UnixStream;

    async fn next(&self) -> io::Result<Self::Stream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

/// Answers what comes from `acceptor`, for as long as the runtime lives.
pub async fn serve(acceptor: impl Acceptor, router: Router) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let stream = match acceptor.next().await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!("a connection for administration cannot be accepted: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // One too many is closed without a word.
        let Ok(place) = places.clone().try_acquire_owned() else { continue };
        let service = TowerToHyperService::new(router.clone());
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN);
        let connection = http.serve_connection(TokioIo::new(stream), service);
        tokio::spawn(async move {
            // How it ended matters to nobody.
            let _ = connection.await;
            drop(place);
        });
    }
}
