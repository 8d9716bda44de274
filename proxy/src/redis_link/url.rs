//! Where a Redis is and who we are to it: `redis://[USER[:PASSWORD]@]HOST[:PORT][/DATABASE]`, or `rediss://`
//! for TLS. Nothing that is shown of it has the password.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use http::Uri;
use la_core::secret::Secret;
use rustls::pki_types::ServerName;

use super::Fault;
use crate::upstream::endpoint::Place;

/// The port of a Redis that names none.
const DEFAULT_PORT: u16 = 6379;

/// A place, a database there, and a login.
#[derive(Debug, Clone)]
pub struct RedisUrl {
    pub(crate) place: Arc<Place>,
    pub(crate) database: i64,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<Secret>,
}

/// Why a text is not such a URL. Shows nothing of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RedisUrlError {
    #[error("must be of the form redis://[USER[:PASSWORD]@]HOST[:PORT][/DATABASE], or rediss:// for TLS")]
    Form,
    #[error("must start with redis://, or rediss:// for TLS")]
    Scheme,
    #[error("has a host that is neither a name nor an address")]
    Host,
    #[error("has a % in its user or password that is not followed by two hexadecimal digits of UTF-8")]
    Escape,
    #[error("must end with the number of a database after the host, or with nothing")]
    Database,
}

impl FromStr for RedisUrl {
    type Err = RedisUrlError;

    fn from_str(text: &str) -> Result<Self, RedisUrlError> {
        let uri: Uri = text.trim().parse().map_err(|_| RedisUrlError::Form)?;
        let tls = match uri.scheme_str() {
            Some("redis") => false,
            Some("rediss") => true,
            _ => return Err(RedisUrlError::Scheme),
        };
        let authority = uri.authority().ok_or(RedisUrlError::Form)?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned()).map_err(|_| RedisUrlError::Host)?;
        let port = authority.port_u16().unwrap_or(DEFAULT_PORT);
        let place = Arc::new(Place { host: host.into(), port, tls_name: tls.then_some(name) });
        let database = match uri.path().trim_start_matches('/') {
            "" => 0,
            number => number.parse().ok().filter(|n| *n >= 0).ok_or(RedisUrlError::Database)?,
        };
        if uri.query().is_some() {
            return Err(RedisUrlError::Database);
        }
        let login = authority.as_str().rsplit_once('@').map_or("", |(login, _)| login);
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        let told =
            |part: &str| Ok::<_, RedisUrlError>(Some(unescaped(part)?).filter(|text| !text.is_empty()));
        Ok(Self { place, database, user: told(user)?, password: told(password)?.map(Secret::new) })
    }
}

impl RedisUrl {
    /// What to connect to after a fault: where a cluster says that the keys are, else where the URL says.
    pub(crate) fn place_after(&self, fault: &Fault) -> Arc<Place> {
        let Fault::Moved(host, port) = fault else { return Arc::clone(&self.place) };
        // A node that does not know its own address names none.
        let host = if host.is_empty() { self.place.host.clone() } else { host.as_str().into() };
        Arc::new(Place { host, port: *port, tls_name: self.place.tls_name.clone() })
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.place.tls_name.is_some() { "rediss" } else { "redis" };
        write!(f, "{scheme}://{}:{}/{}", self.place.host, self.place.port, self.database)
    }
}

fn unescaped(text: &str) -> Result<String, RedisUrlError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut parts = text.split('%');
    bytes.extend(parts.next().unwrap_or_default().bytes());
    for part in parts {
        let (digits, rest) = part.split_at_checked(2).ok_or(RedisUrlError::Escape)?;
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| RedisUrlError::Escape)?);
        bytes.extend(rest.bytes());
    }
    String::from_utf8(bytes).map_err(|_| RedisUrlError::Escape)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_gives_place_login_and_database() {
        let url: RedisUrl = "rediss://me:p%40ss:w%2Frd@cache.example:7000/3".parse().unwrap();
        assert_eq!(url.to_string(), "rediss://cache.example:7000/3");
        assert_eq!(url.user.as_deref(), Some("me"));
        assert_eq!(url.password.as_ref().map(Secret::expose), Some("p@ss:w/rd"));
        assert!(url.place.tls_name.is_some());
        let url: RedisUrl = "redis://:secret@[::1]".parse().unwrap();
        assert_eq!((url.place.port, &*url.place.host, url.user.as_deref()), (6379, "::1", None));
        assert!(!format!("{url:?} {url}").contains("secret"));
    }

    #[test]
    fn what_is_no_url_is_refused_by_its_part() {
        for (text, why) in [
            ("", RedisUrlError::Form),
            ("cache:6379", RedisUrlError::Scheme),
            ("http://cache", RedisUrlError::Scheme),
            ("redis://:%zz@cache", RedisUrlError::Escape),
            ("redis://cache/x", RedisUrlError::Database),
            ("redis://cache/0?a=b", RedisUrlError::Database),
        ] {
            assert_eq!(text.parse::<RedisUrl>().err(), Some(why), "{text}");
        }
    }
}
