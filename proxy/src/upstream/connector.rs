//! Making one connection: name look-up, TCP, TLS, HTTP/1.1.

use std::io;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http_body::Body;
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::TlsConnector;

use super::endpoint::Place;
use super::stream::Stream;

/// Sends requests over one connection.
pub type Sender = http1::SendRequest<Full<Bytes>>;

/// Most bytes that a connection buffers, and so the most that an answer's head may have.
const MAX_BUFFER_BYTES: usize = 64 * 1024;

/// Why there is no connection. Tells nothing of credentials.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The name has no address.
    #[error("host name cannot be resolved: {0}")]
    Resolve(io::Error),
    /// No address answers.
    #[error("connection refused or unreachable: {0}")]
    Tcp(io::Error),
    /// The TLS handshake failed.
    #[error("TLS handshake failed: {0}")]
    Tls(io::Error),
    /// The HTTP library refused the connection.
    #[error("connection cannot carry HTTP: {0}")]
    Http(#[from] hyper::Error),
    /// TLS cannot be set up at all.
    #[error("TLS cannot be set up: {0}")]
    Setup(#[from] rustls::Error),
}

/// Connects to `place`. How long that may take is the caller's to limit.
pub async fn connect(place: &Place) -> Result<Sender, ConnectError> {
    connect_for(place).await
}

/// Connects to `place` for requests whose bodies are of another kind.
pub async fn connect_for<B>(place: &Place) -> Result<http1::SendRequest<B>, ConnectError>
where
    B: Body + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let socket = connect_tcp(place).await?;
    // Requests are written whole; waiting for more would only delay them.
    let _ = socket.set_nodelay(true);
    let stream = match &place.tls_name {
        None => Stream::Plain(socket),
        Some(name) => {
            let connector = TlsConnector::from(tls()?);
            let tls = connector.connect(name.clone(), socket).await.map_err(ConnectError::Tls)?;
            Stream::Tls(Box::new(tls))
        }
    };
    let (sender, connection) =
        http1::Builder::new().max_buf_size(MAX_BUFFER_BYTES).handshake(TokioIo::new(stream)).await?;
    tokio::task::spawn_local(async move {
        // Whoever waits for an answer on this connection is told of its failure.
        let _ = connection.await;
    });
    Ok(sender)
}

async fn connect_tcp(place: &Place) -> Result<TcpStream, ConnectError> {
    let addresses = lookup_host((&*place.host, place.port)).await.map_err(ConnectError::Resolve)?;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "name has no address");
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(socket) => return Ok(socket),
            Err(e) => last = e,
        }
    }
    Err(ConnectError::Tcp(last))
}

/// One configuration for the whole process, made when the first `https` provider is called, so that
/// sessions are resumed across threads.
fn tls() -> Result<Arc<ClientConfig>, rustls::Error> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    if let Some(config) = CONFIG.get() {
        return Ok(Arc::clone(config));
    }
    let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::clone(CONFIG.get_or_init(|| Arc::new(config))))
}
