//! Asking a running server, over the admin socket in its data folder.

use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::admin::SOCKET_FILE;
use crate::app::Failure;

/// How long a running server has to answer; renewing a login may take half a minute.
const PATIENCE: Duration = Duration::from_secs(45);

/// A server that listens on the admin socket of a data folder.
pub(super) struct Server {
    stream: std::os::unix::net::UnixStream,
}

impl Server {
    /// The server of `data_dir`, if one runs.
    ///
    /// # Errors
    /// When the socket is there and cannot be used by this user.
    pub(super) fn find(data_dir: &Path) -> Result<Option<Self>, Failure> {
        let path = data_dir.join(SOCKET_FILE);
        match std::os::unix::net::UnixStream::connect(&path) {
            Ok(stream) => Ok(Some(Self { stream })),
            // Missing, or left behind by a process that is gone.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) =>
            {
                Ok(None)
            }
            Err(error) => Err(Failure::Runtime(format!("{} cannot be used: {error}", path.display()))),
        }
    }

    /// Asks once, and gives status and body of the answer.
    ///
    /// # Errors
    /// When the server does not answer.
    pub(super) fn ask(
        self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<(StatusCode, Bytes), Failure> {
        let failed = |error: &dyn std::fmt::Display| {
            Failure::Runtime(format!("running server does not answer on its admin socket: {error}"))
        };
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| failed(&e))?;
        runtime.block_on(async {
            match tokio::time::timeout(PATIENCE, exchange(self.stream, method, path, body)).await {
                Ok(answer) => answer.map_err(|e| failed(&e)),
                Err(elapsed) => Err(failed(&elapsed)),
            }
        })
    }
}

/// Reads an answer, or says why it is a refusal.
///
/// # Errors
/// What the server says, or that it cannot be understood.
pub(super) fn read<T: DeserializeOwned>((status, body): (StatusCode, Bytes)) -> Result<T, Failure> {
    #[derive(Deserialize)]
    struct Refused {
        error: Inner,
    }
    #[derive(Deserialize)]
    struct Inner {
        message: String,
    }
    if status.is_success() {
        let unreadable = |_| Failure::Runtime("running server is another version; restart it".to_owned());
        return serde_json::from_slice(&body).map_err(unreadable);
    }
    let message =
        serde_json::from_slice::<Refused>(&body).map_or_else(|_| status.to_string(), |r| r.error.message);
    match status {
        StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST => Err(Failure::Configuration(vec![message])),
        _ => Err(Failure::Runtime(message)),
    }
}

async fn exchange(
    stream: std::os::unix::net::UnixStream,
    method: Method,
    path: &str,
    body: Vec<u8>,
) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error>> {
    stream.set_nonblocking(true)?;
    let stream = UnixStream::from_std(stream)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "la-router")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))?;
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    driver.abort();
    Ok((status, body))
}
