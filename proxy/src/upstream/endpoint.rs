//! Where a provider's requests go, taken apart once when its snapshot is loaded.

use std::sync::Arc;

use http::{HeaderValue, Uri};
use rustls::pki_types::ServerName;

/// Scheme, authority and path prefix of a base URL.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// What connections are shared by.
    pub place: Arc<Place>,
    /// The value of `host`.
    pub host_header: HeaderValue,
    /// What every path starts with: empty, or `/` and no slash at its end.
    pub prefix: Box<str>,
}

/// One place to connect to.
#[derive(Debug, PartialEq, Eq)]
pub struct Place {
    /// Host name or address, without brackets.
    pub host: Box<str>,
    /// TCP port.
    pub port: u16,
    /// The name its certificate must carry; plain text when absent.
    pub tls_name: Option<ServerName<'static>>,
}

/// Why a text is not a base URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Not a URL at all.
    #[error("is not a URL")]
    Form,
    /// A scheme other than http and https.
    #[error("must start with http:// or https://")]
    Scheme,
    /// A user name or password in it.
    #[error("must not carry a user name or password")]
    UserInfo,
    /// A query.
    #[error("must not carry a query")]
    Query,
    /// A host that no certificate can name.
    #[error("has a host that is neither a name nor an address")]
    Host,
}

impl Endpoint {
    /// Takes a base URL apart.
    pub fn parse(base_url: &str) -> Result<Self, EndpointError> {
        let uri: Uri = base_url.parse().map_err(|_| EndpointError::Form)?;
        let authority = uri.authority().ok_or(EndpointError::Form)?;
        if authority.as_str().contains('@') {
            return Err(EndpointError::UserInfo);
        }
        if uri.query().is_some() {
            return Err(EndpointError::Query);
        }
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(EndpointError::Scheme),
        };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned()).map_err(|_| EndpointError::Host)?;
        let place = Place {
            host: host.into(),
            port: authority.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            tls_name: tls.then_some(name),
        };
        let host_header = HeaderValue::from_str(authority.as_str()).map_err(|_| EndpointError::Form)?;
        Ok(Self { place: Arc::new(place), host_header, prefix: uri.path().trim_end_matches('/').into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_url_gives_place_host_and_prefix() {
        let cases = [
            ("https://api.anthropic.com", "api.anthropic.com", 443, true, ""),
            ("http://127.0.0.1:9000", "127.0.0.1", 9000, false, ""),
            ("https://gateway.example:8443/anthropic", "gateway.example", 8443, true, "/anthropic"),
            ("http://[::1]:80/a/b/", "::1", 80, false, "/a/b"),
        ];
        for (text, host, port, tls, prefix) in cases {
            let endpoint = Endpoint::parse(text).unwrap();
            let place = &endpoint.place;
            let found = (&*place.host, place.port, place.tls_name.is_some(), &*endpoint.prefix);
            assert_eq!(found, (host, port, tls, prefix), "{text}");
        }
    }

    #[test]
    fn what_could_mislead_a_request_is_no_base_url() {
        for text in
            ["ftp://x", "x", "https://a@b", "https://a:b@c", "https://a?x=1", "https://", "https://a b"]
        {
            assert!(Endpoint::parse(text).is_err(), "{text} was accepted");
        }
    }
}
