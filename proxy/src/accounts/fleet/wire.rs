//! Names of keys, what scripts are told, and what they and the news tell. Nothing that is read here is trusted:
//! what has another form or version is nothing.

use la_core::account::AccountId;
use la_core::account::affinity::{Notice, SessionKey};
use la_core::account::sharing::{self, News, Rest, Unreadable};
use la_core::oauth::Fingerprint;
use redis::{Cmd, Value};

use crate::redis_link::Scripts;

/// What can be asked of the server in one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Script {
    Rest,
    Bind,
    Forget,
    Hold,
    Login,
    Read,
}

impl Scripts for Script {
    const ALL: &'static [Self] = &[Self::Rest, Self::Bind, Self::Forget, Self::Hold, Self::Login, Self::Read];

    fn place(self) -> usize {
        self as usize
    }

    fn text(self) -> String {
        let body = match self {
            Self::Rest => include_str!("scripts/rest.lua"),
            Self::Bind => include_str!("scripts/bind.lua"),
            Self::Forget => include_str!("scripts/forget.lua"),
            Self::Hold => include_str!("scripts/hold.lua"),
            Self::Login => include_str!("scripts/login.lua"),
            Self::Read => include_str!("scripts/read.lua"),
        };
        [include_str!("scripts/table.lua"), body].join("\n")
    }
}

/// The keys of one proxy. The tag in braces keeps them in one slot of a cluster.
pub(super) struct Keys {
    proxy: String,
}

impl Keys {
    pub(super) fn of(proxy: &str) -> Self {
        Self { proxy: proxy.to_owned() }
    }

    pub(super) fn are_of(&self, proxy: &str) -> bool {
        self.proxy == proxy
    }

    fn key(&self, name: &str) -> String {
        format!("{{la:{}}}:accounts:{name}", self.proxy)
    }

    fn table(&self, name: &str) -> [String; 2] {
        [self.key(name), self.key(&format!("{name}:ends"))]
    }

    /// What is told, in one order.
    pub(super) fn news(&self) -> String {
        self.key("news")
    }

    /// News, rests and their ends, how often each account was forgotten.
    pub(super) fn rests(&self) -> Vec<String> {
        let [rests, ends] = self.table("rests");
        vec![self.news(), rests, ends, self.key("forgotten")]
    }

    /// What a server that has lost everything has lost too.
    pub(super) fn name(&self) -> String {
        self.key("name")
    }

    /// Sessions that are remembered for so many seconds, and their ends.
    pub(super) fn sessions(&self, ttl_seconds: u32) -> [String; 2] {
        self.table(&format!("sessions:{ttl_seconds}"))
    }

    /// Places of an account by process, and their ends.
    pub(super) fn places(&self, account: AccountId) -> [String; 2] {
        self.table(&format!("places:{}", account_text(account)))
    }

    /// The right to renew the login with this refresh token.
    pub(super) fn login(&self, token: Fingerprint) -> [String; 1] {
        [self.key(&format!("login:{token}"))]
    }
}

/// What others tell.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// Of how an account fares.
    News(AccountId, News),
    /// That an owner has forgotten so often why an account rests.
    Forgotten(AccountId, u64),
    /// Where a session is, of those that are remembered for so many seconds.
    Session { ttl_seconds: u32, key: SessionKey, account: AccountId },
    /// That the sessions of an account are forgotten.
    SessionsForgotten(AccountId),
}

impl Told {
    /// One entry of the news.
    pub(super) fn read(kind: &str, name: &str, value: &str) -> Result<Self, Unreadable> {
        match kind {
            "rest" => Self::rest(name, value),
            "over" => {
                let (account, rest) = name.split_once(' ').ok_or(Unreadable)?;
                let (scope, why) = sharing::read_name(rest)?;
                let until = value.parse().map_err(|_| Unreadable)?;
                Ok(Self::News(read_account(account)?, News::Over { scope, why, until }))
            }
            "forgotten" => Self::forgotten(name, value),
            "sessions forgotten" => Ok(Self::SessionsForgotten(read_versioned(name)?)),
            _ => {
                let ttl = kind.strip_prefix("session ").and_then(|ttl| ttl.parse().ok());
                Self::session(ttl.ok_or(Unreadable)?, name, value)
            }
        }
    }

    /// A rest by its field and value.
    pub(super) fn rest(field: &str, value: &str) -> Result<Self, Unreadable> {
        let (account, name) = field.split_once(' ').ok_or(Unreadable)?;
        Ok(Self::News(read_account(account)?, News::Rests(Rest::read(name, value)?)))
    }

    /// How often an account was forgotten.
    pub(super) fn forgotten(account: &str, times: &str) -> Result<Self, Unreadable> {
        Ok(Self::Forgotten(read_account(account)?, times.parse().map_err(|_| Unreadable)?))
    }

    /// A session by its field and value.
    pub(super) fn session(ttl_seconds: u32, field: &str, value: &str) -> Result<Self, Unreadable> {
        let is_key = field.len() == 32 && field.bytes().all(|byte| byte.is_ascii_hexdigit());
        let bits = u128::from_str_radix(field, 16).ok().filter(|_| is_key).ok_or(Unreadable)?;
        Ok(Self::Session { ttl_seconds, key: SessionKey::from_bits(bits), account: read_versioned(value)? })
    }
}

/// What [`Script::Rest`] is told.
pub(super) fn rest_arguments(news: &[(AccountId, News)]) -> Vec<String> {
    let of = |(account, news): &(AccountId, News)| {
        let (kind, name, value, until) = match news {
            News::Rests(rest) => ("rest", rest.name(), rest.value(), rest.until),
            News::Over { scope, why, until } => ("over", sharing::name(scope, *why), String::new(), *until),
            News::Forgotten => ("forgotten", String::new(), String::new(), 0),
        };
        [kind.to_owned(), account_text(*account), name, value, until.to_string()]
    };
    news.iter().flat_map(of).collect()
}

/// What [`Script::Bind`] is told of each session.
pub(super) fn session_arguments(key: SessionKey, notice: Notice) -> [String; 3] {
    let from = notice.from.map(versioned).unwrap_or_default();
    [format!("{:032x}", key.bits()), from, versioned(notice.to)]
}

/// An account where a value is expected, after the version of that value.
pub(super) fn versioned(account: AccountId) -> String {
    format!("{VERSION} {}", account_text(account))
}

/// The account of a value.
pub(super) fn read_versioned(text: &str) -> Result<AccountId, Unreadable> {
    let (version, account) = text.split_once(' ').ok_or(Unreadable)?;
    if version == VERSION { read_account(account) } else { Err(Unreadable) }
}

/// The version of what is written of sessions.
const VERSION: &str = "1";

fn account_text(account: AccountId) -> String {
    format!("{:016x}", account.bits())
}

fn read_account(text: &str) -> Result<AccountId, Unreadable> {
    let is_one = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let bits = u64::from_str_radix(text, 16).ok().filter(|_| is_one);
    bits.map(AccountId::from_bits).ok_or(Unreadable)
}

/// Asks for news after `last`, and waits for the first of them.
pub(super) fn listen(news: &str, last: &str, (count, wait_ms): (usize, u64)) -> Cmd {
    let mut listen = Cmd::new();
    listen.arg("XREAD").arg("COUNT").arg(count).arg("BLOCK").arg(wait_ms).arg("STREAMS").arg(news).arg(last);
    listen
}

/// One entry of the news: its place in their order, and what it says, if that can be read.
pub(super) type Entry = (String, Result<Told, Unreadable>);

/// The entries of an answer to [`listen`].
pub(super) fn entries(answer: &Value) -> Vec<Entry> {
    let of_stream = list(answer).iter().flat_map(|stream| list(stream).get(1));
    of_stream.flat_map(list).filter_map(entry).collect()
}

fn entry(value: &Value) -> Option<Entry> {
    let [id, fields] = list(value) else { return None };
    let fields = pairs(fields);
    let field = |name: &str| fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    let told = match (field("kind"), field("name"), field("value")) {
        (Some(kind), Some(name), Some(value)) => Told::read(kind, name, value),
        _ => Err(Unreadable),
    };
    Some((text(id)?, told))
}

/// The parts of a list; none of anything else.
pub(super) fn list(value: &Value) -> &[Value] {
    match value {
        Value::Array(values) => values,
        _ => &[],
    }
}

/// The fields and values of a hash.
pub(super) fn pairs(value: &Value) -> Vec<(String, String)> {
    let both = |pair: &[Value]| Some((text(pair.first()?)?, text(pair.get(1)?)?));
    list(value).chunks(2).filter_map(both).collect()
}

/// A text; what is none, or no UTF-8, is written so that it stays unreadable.
pub(super) fn text(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        Value::SimpleString(text) => Some(text.clone()),
        Value::Int(number) => Some(number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use la_core::account::Scope;
    use la_core::account::health::Why;

    use super::*;

    const ACCOUNT: &str = "00000000000000ff";
    const SESSION: &str = "000000000000000000000000000000ab";

    fn account() -> AccountId {
        AccountId::from_bits(0xff)
    }

    #[test]
    fn what_is_told_is_read() {
        let key = SessionKey::from_bits(0xab);
        let over = News::Over { scope: Scope::Account, why: Why::Forbidden, until: 7 };
        let session = Told::Session { ttl_seconds: 3_900, key, account: account() };
        for (kind, name, value, expected) in [
            ("over", &format!("{ACCOUNT} forbidden account")[..], "7", Told::News(account(), over)),
            ("forgotten", ACCOUNT, "3", Told::Forgotten(account(), 3)),
            ("session 3900", SESSION, &versioned(account()), session),
            ("sessions forgotten", &versioned(account()), "", Told::SessionsForgotten(account())),
        ] {
            assert_eq!(Told::read(kind, name, value), Ok(expected), "{kind}");
        }
        let [session, from, to] = session_arguments(key, Notice { from: None, to: account() });
        assert_eq!((session.as_str(), from.as_str(), to.as_str()), (SESSION, "", "1 00000000000000ff"));
    }

    #[test]
    fn what_is_garbage_or_newer_is_not_read() {
        for (kind, name, value) in [
            ("", "", ""),
            ("rest", ACCOUNT, "1 7 1 stated"),
            ("rest", &format!("{ACCOUNT} limit account"), "2 7 1 stated"),
            ("rest", "+0000000000000ff limit account", "1 7 1 stated"),
            ("over", &format!("{ACCOUNT} limit account"), "soon"),
            ("forgotten", ACCOUNT, "-1"),
            ("session 3900", SESSION, "2 00000000000000ff"),
            ("session 3900", SESSION, "1 ff"),
            ("session 3900", "ab", "1 00000000000000ff"),
            ("session", SESSION, "1 00000000000000ff"),
            ("sessions forgotten", ACCOUNT, ""),
            ("something new", ACCOUNT, "1"),
        ] {
            assert_eq!(Told::read(kind, name, value), Err(Unreadable), "{kind} {name} {value}");
        }
    }

    #[test]
    fn answer_of_any_form_is_read_without_a_panic() {
        let bulk = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        for answer in [
            Value::Nil,
            Value::Int(1),
            Value::Array(vec![Value::Nil]),
            Value::Array(vec![Value::Array(vec![bulk("news")])]),
            Value::Array(vec![Value::Array(vec![bulk("news"), Value::Array(vec![Value::Array(vec![])])])]),
        ] {
            assert!(entries(&answer).is_empty(), "{answer:?}");
        }
        let fields = Value::Array(["kind", "rest", "name"].map(bulk).to_vec());
        let stream =
            Value::Array(vec![bulk("news"), Value::Array(vec![Value::Array(vec![bulk("1-0"), fields])])]);
        assert_eq!(entries(&Value::Array(vec![stream])), [("1-0".to_owned(), Err(Unreadable))]);
    }
}
