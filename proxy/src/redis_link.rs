//! One connection to a Redis that is fit to keep what replicas share, and the scripts that run there.

use std::fmt::Write as _;
use std::marker::PhantomData;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, ErrorKind, RedisConnectionInfo, RedisError, ServerErrorKind, Value};
use ring::rand::{SecureRandom as _, SystemRandom};

use crate::upstream::connector::{ConnectError, Speaks, dial};
use crate::upstream::endpoint::Place;

mod url;

#[cfg(test)]
#[expect(unreachable_pub, reason = "it is public in the crate of whole-system tests")]
#[path = "../../tests/src/redis.rs"]
pub(crate) mod server;

pub use url::{RedisUrl, RedisUrlError};

/// How long one command may take.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// How long connecting may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// Written to find out whether the server takes writes, and how long it stays there.
const PROBE_KEY: &str = "{la:probe}:write";
const PROBE_MS: u64 = 60_000;

/// The oldest version that is good enough.
const OLDEST_MAJOR: u32 = 7;

/// Whose clock the scripts go by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clock {
    Server,
    /// What a key says.
    #[cfg(test)]
    Key,
}

/// What can be asked of the server in one step: the scripts of whoever opens a connection.
pub(crate) trait Scripts: Copy + 'static {
    /// Every one.
    const ALL: &'static [Self];

    /// Its place among them.
    fn place(self) -> usize;

    /// What it does, in Lua. It finds the time in `now`, in Unix milliseconds, and in `moment`, in microseconds.
    fn text(self) -> String;
}

/// A connection. Commands of many requests go through it at once.
pub(crate) struct Link<S> {
    connection: MultiplexedConnection,
    /// The scripts' names at the server, in the order of [`Scripts::ALL`].
    digests: Vec<String>,
    clock: Clock,
    scripts: PhantomData<S>,
}

/// Why something was not done. Each is one sentence without any part of a login.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    /// The connection is of no more use; what was sent last may have been done or not.
    #[error("{0}")]
    Lost(String),
    /// The server said no, and did nothing.
    #[error("{0}")]
    Refused(String),
    /// Another node of the cluster has the keys.
    #[error("keys are at {0}:{1}")]
    Moved(String, u16),
}

impl Clock {
    fn text(self) -> &'static str {
        match self {
            Self::Server => include_str!("redis_link/scripts/server_clock.lua"),
            #[cfg(test)]
            Self::Key => include_str!("redis_link/scripts/key_clock.lua"),
        }
    }
}

impl<S: Scripts> Link<S> {
    /// Connects, finds out whether the server can be used, and hands it the scripts.
    pub(crate) async fn open(url: &RedisUrl, place: &Place, clock: Clock) -> Result<Self, Fault> {
        let connecting = async {
            let stream = dial(place, Speaks::Redis).await.map_err(|error| unreachable(place, &error))?;
            let mut login = RedisConnectionInfo::default().set_db(url.database).set_skip_set_lib_name();
            if let Some(user) = &url.user {
                login = login.set_username(user);
            }
            if let Some(password) = &url.password {
                login = login.set_password(password.expose());
            }
            let config = AsyncConnectionConfig::new().set_response_timeout(Some(ANSWER_WITHIN));
            let (connection, driver) = MultiplexedConnection::new_with_config(&login, stream, config)
                .await
                .map_err(|error| not_admitted(place, &error))?;
            tokio::spawn(driver);
            let mut link = Self { connection, digests: Vec::new(), clock, scripts: PhantomData };
            link.check().await?;
            for script in S::ALL {
                let digest = link.load(*script).await?;
                link.digests.push(digest);
            }
            Ok(link)
        };
        let late = || {
            let seconds = CONNECT_WITHIN.as_secs();
            Fault::Lost(format!("{} does not answer within {seconds} s{}", at(place), without_tls(place)))
        };
        tokio::time::timeout(CONNECT_WITHIN, connecting).await.unwrap_or_else(|_| Err(late()))
    }

    /// Whether the server can be used now.
    pub(crate) async fn check(&self) -> Result<(), Fault> {
        let Value::BulkString(info) = self.send(Cmd::new().arg("INFO")).await? else {
            return Err(Fault::Refused("answers INFO with something else".to_owned()));
        };
        fit(&String::from_utf8_lossy(&info)).map_err(Fault::Refused)?;
        // A server whose memory or disk is full says so only when it is written to.
        match self.send(Cmd::new().arg("SET").arg(PROBE_KEY).arg(1).arg("PX").arg(PROBE_MS)).await {
            Ok(_) | Err(Fault::Moved(..)) => Ok(()),
            Err(fault) => Err(fault),
        }
    }

    /// Whether the server answers.
    pub(crate) async fn ping(&self) -> Result<(), Fault> {
        self.send(Cmd::new().arg("PING")).await.map(drop)
    }

    /// Runs a script; hands it over again where the server has lost it.
    pub(crate) async fn run(&self, script: S, keys: &[String], arguments: &[String]) -> Result<Value, Fault> {
        let call = |digest: &str| {
            let mut call = Cmd::new();
            call.arg("EVALSHA").arg(digest).arg(keys.len()).arg(keys).arg(arguments);
            call
        };
        let digest = self.digests.get(script.place()).map_or("", String::as_str);
        match self.answer(&call(digest)).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                let digest = self.load(script).await?;
                self.send(&call(&digest)).await
            }
            other => other.map_err(|error| fault(&error)),
        }
    }

    /// The names of all keys that are like `pattern`. Reads all names of the database.
    pub(crate) async fn names(&self, pattern: &str) -> Result<Vec<String>, Fault> {
        let (mut names, mut at) = (Vec::new(), "0".to_owned());
        loop {
            let mut scan = Cmd::new();
            scan.arg("SCAN").arg(&at).arg("MATCH").arg(pattern).arg("COUNT").arg(1_000);
            let (next, some): (String, Vec<String>) = redis::from_redis_value(self.send(&scan).await?)
                .map_err(|_| Fault::Refused("answers SCAN with something else".to_owned()))?;
            names.extend(some);
            if next == "0" {
                return Ok(names);
            }
            at = next;
        }
    }

    async fn load(&self, script: S) -> Result<String, Fault> {
        let text = [self.clock.text(), &script.text()].join("\n");
        match self.send(Cmd::new().arg("SCRIPT").arg("LOAD").arg(text)).await? {
            Value::BulkString(digest) => Ok(String::from_utf8_lossy(&digest).into_owned()),
            _ => Err(Fault::Refused("answers SCRIPT LOAD with something else".to_owned())),
        }
    }

    /// Sends one command that is no script.
    pub(crate) async fn send(&self, command: &Cmd) -> Result<Value, Fault> {
        self.answer(command).await.map_err(|error| fault(&error))
    }

    async fn answer(&self, command: &Cmd) -> Result<Value, RedisError> {
        self.connection.clone().send_packed_command(command).await?.extract_error()
    }
}

/// A name for this process at the server, which no other has.
///
/// # Errors
/// When the machine has no randomness.
pub(crate) fn process_name() -> Result<String, String> {
    let mut bytes = [0; 12];
    SystemRandom::new().fill(&mut bytes).map_err(|_| "the machine gives no randomness".to_owned())?;
    Ok(bytes.iter().fold(String::new(), |mut name, byte| {
        let _ = write!(name, "{byte:02x}");
        name
    }))
}

fn at(place: &Place) -> String {
    format!("redis at {}:{}", place.host, place.port)
}

fn unreachable(place: &Place, error: &ConnectError) -> Fault {
    let remedy = if matches!(error, ConnectError::Tls(_)) { without_tls(place) } else { "" };
    Fault::Lost(format!("{}: {error}{remedy}", at(place)))
}

/// What may be wrong where a server says nothing to the beginning of TLS, or nothing that belongs to it.
fn without_tls(place: &Place) -> &'static str {
    match place.tls_name {
        Some(_) => "; if the server does not use TLS, write redis:// instead of rediss://",
        None => "",
    }
}

/// Why the server did not let us in.
fn not_admitted(place: &Place, error: &RedisError) -> Fault {
    let code = error.code().unwrap_or_default();
    let wrong_login =
        error.kind() == ErrorKind::AuthenticationFailed || ["WRONGPASS", "NOAUTH"].contains(&code);
    Fault::Lost(match error.kind() {
        _ if wrong_login => {
            format!("{} does not accept the user and password of the URL", at(place))
        }
        ErrorKind::Server(ServerErrorKind::BusyLoading) => format!("{} is still loading its data", at(place)),
        ErrorKind::Io | ErrorKind::Parse if place.tls_name.is_none() => format!(
            "{} does not speak the protocol ({error}); if the server uses TLS, write rediss:// instead of redis://",
            at(place)
        ),
        _ => format!("{}: {error}", at(place)),
    })
}

fn fault(error: &RedisError) -> Fault {
    let node = error.redirect_node().and_then(|(node, _slot)| node.rsplit_once(':'));
    if let Some((host, Ok(port))) = node.map(|(host, port)| (host, port.parse())) {
        return Fault::Moved(host.to_owned(), port);
    }
    match error.kind() {
        _ if error.code() == Some("NOAUTH") => {
            Fault::Refused("wants a password, and the URL has none".to_owned())
        }
        ErrorKind::Server(ServerErrorKind::ReadOnly) => {
            Fault::Refused("is a read-only replica; the URL must name the primary".to_owned())
        }
        ErrorKind::Server(ServerErrorKind::BusyLoading) => {
            Fault::Refused("is still loading its data".to_owned())
        }
        // Such an answer leaves the connection as it was.
        ErrorKind::Server(_) | ErrorKind::Extension => Fault::Refused(error.to_string()),
        _ if error.is_timeout() => Fault::Lost(format!("has not answered for {} s", ANSWER_WITHIN.as_secs())),
        _ => Fault::Lost(format!("connection is lost: {error}")),
    }
}

/// Judges what a server says of itself in `INFO`.
fn fit(info: &str) -> Result<(), String> {
    let told = |name: &str| {
        info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map_or("", str::trim)
    };
    let version = Some(told("valkey_version")).filter(|v| !v.is_empty()).unwrap_or(told("redis_version"));
    let major: u32 = version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or_default();
    if major < OLDEST_MAJOR {
        return Err(format!("has version {version}; it must be {OLDEST_MAJOR} or newer"));
    }
    if told("role") == "slave" {
        return Err("is a read-only replica; the URL must name the primary".to_owned());
    }
    let policy = told("maxmemory_policy");
    if policy.starts_with("allkeys-") || policy.starts_with("volatile-") {
        return Err(format!("has maxmemory-policy {policy}, which throws away use; it must be noeviction"));
    }
    if told("loading") == "1" {
        return Err("is still loading its data".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_that_cannot_keep_a_ledger_is_refused_by_one_sentence() {
        let info = |version: &str, role: &str, policy: &str| {
            format!(
                "# Server\r\nredis_version:{version}\r\nrole:{role}\r\nmaxmemory_policy:{policy}\r\nloading:0\r\n"
            )
        };
        assert_eq!(fit(&info("7.0.15", "master", "noeviction")), Ok(()));
        assert_eq!(fit("redis_version:7.2.4\r\nvalkey_version:8.1.0\r\nrole:master\r\n"), Ok(()));
        for (version, role, policy, part) in [
            ("6.2.14", "master", "noeviction", "has version 6.2.14; it must be 7 or newer"),
            ("7.4.0", "slave", "noeviction", "read-only replica"),
            ("7.4.0", "master", "allkeys-lru", "maxmemory-policy allkeys-lru"),
            ("7.4.0", "master", "volatile-ttl", "maxmemory-policy volatile-ttl"),
        ] {
            let why = fit(&info(version, role, policy)).unwrap_err();
            assert!(why.contains(part), "{why}");
        }
    }
}
