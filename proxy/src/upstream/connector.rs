//! Making one connection: name look-up, TCP, TLS.

use std::io;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};

use rustls::{ClientConfig, RootCertStore};
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::TlsConnector;

use super::connection::Connection;
use super::endpoint::Place;
use super::stream::Stream;
use crate::http1::buffers::Buffers;

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
    /// TLS cannot be set up at all.
    #[error("TLS cannot be set up: {0}")]
    Setup(#[from] rustls::Error),
}

/// What is spoken over a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    Http1,
    /// TLS has no name for it.
    Redis,
}

/// Connects to `place`. How long that may take is the caller's to limit.
pub async fn connect(place: &Place, buffers: &Rc<Buffers>) -> Result<Box<Connection>, ConnectError> {
    let stream = dial(place, Speaks::Http1).await?;
    // Boxed once: it goes through the stages of many requests, and through the pool.
    Ok(Box::new(Connection::new(stream, Rc::clone(buffers))))
}

/// Connects to `place` before anything is said.
pub async fn dial(place: &Place, speaks: Speaks) -> Result<Stream, ConnectError> {
    let socket = connect_tcp(place).await?;
    // Requests are written whole; waiting for more would only delay them.
    let _ = socket.set_nodelay(true);
    let Some(name) = &place.tls_name else { return Ok(Stream::Plain(socket)) };
    let mut config = tls()?;
    if speaks == Speaks::Redis {
        Arc::make_mut(&mut config).alpn_protocols.clear();
    }
    let tls = TlsConnector::from(config).connect(name.clone(), socket).await.map_err(ConnectError::Tls)?;
    Ok(Stream::Tls(Box::new(tls)))
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
