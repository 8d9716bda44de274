//! Requests to one pod's admin port. The credential is signed anew for every one, is good for this pod only and
//! for at most a minute.

use std::net::SocketAddr;
use std::time::Duration;

use la_core::report::{ADMIN_LIFETIME_SECONDS, ADMIN_TYPE, AdminClaims};
use reqwest::{Method, RequestBuilder};

use super::Target;
use crate::clock;
use crate::shared::Shared;

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The admin port of one pod.
pub(super) struct AdminPort<'a> {
    http: reqwest::Client,
    target: &'a Target,
}

/// Why a pod cannot be asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum AdminError {
    #[error("no signing key yet")]
    NoKey,
    #[error("admin credential cannot be signed")]
    Unsigned(#[source] la_core::token::KeyError),
}

impl<'a> AdminPort<'a> {
    /// The admin port of the pod `target`.
    ///
    /// # Errors
    /// When there can be no client at all.
    pub(super) fn new(target: &'a Target) -> reqwest::Result<Self> {
        let http = reqwest::Client::builder()
            // Pods are asked over plain HTTP; looking for the system's certificates fails in an image that has none.
            .tls_certs_only([])
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .build()?;
        Ok(Self { http, target })
    }

    /// A request for `path`, which has `timeout` for its whole answer.
    ///
    /// # Errors
    /// When there is no credential for it.
    pub(super) fn request(
        &self,
        shared: &Shared,
        (method, path): (Method, &str),
        timeout: Duration,
    ) -> Result<RequestBuilder, AdminError> {
        let keys = shared.keys.of(&self.target.proxy).ok_or(AdminError::NoKey)?;
        let now = clock::now();
        let claims =
            AdminClaims { aud: self.target.uid.clone(), iat: now, exp: now + ADMIN_LIFETIME_SECONDS };
        let credential = keys.admin.sign(ADMIN_TYPE, &claims).map_err(AdminError::Unsigned)?;
        let address = SocketAddr::new(self.target.address, shared.settings.admin_port);
        let request = self.http.request(method, format!("http://{address}{path}"));
        Ok(request.bearer_auth(credential.expose()).timeout(timeout))
    }
}
