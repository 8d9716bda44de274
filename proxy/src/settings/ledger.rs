//! Where use is counted, as it is told: on this machine's disk, in a Redis that is shared, or only in memory.

use la_core::secret::Secret;

use super::{Found, Judge, LedgerArgs, Lookup};
use crate::ledger::{OnUnavailable, RedisSettings};

/// A kind of ledger, and what it needs.
#[derive(Debug, Default)]
pub enum LedgerSettings {
    /// In the data folder.
    #[default]
    Embedded,
    /// Shared by several processes.
    Redis(RedisSettings),
    /// Forgotten with the process; for tests.
    Memory,
}

/// What a process counts use in, to be compared with what a manifest says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerInUse {
    /// As `--ledger` has it.
    pub kind: &'static str,
    /// What happens to requests without it.
    pub on_unavailable: OnUnavailable,
}

impl LedgerSettings {
    /// What of it a manifest could say otherwise.
    pub fn in_use(&self) -> LedgerInUse {
        let (kind, on_unavailable) = match self {
            Self::Embedded => ("embedded", OnUnavailable::Deny),
            Self::Redis(redis) => ("redis", redis.on_unavailable),
            Self::Memory => ("memory", OnUnavailable::Deny),
        };
        LedgerInUse { kind, on_unavailable }
    }

    /// Judges what is told of the ledger.
    pub fn read(args: &LedgerArgs, lookup: &Lookup, judge: &mut Judge) -> Self {
        let kind = lookup.find(("--ledger", args.ledger.as_deref()), "LEDGER");
        let told = Told {
            url: lookup.find(("--redis-url", args.redis_url.as_ref().map(Secret::expose)), "REDIS_URL"),
            file: lookup.find(("--redis-url-file", args.redis_url_file.as_deref()), "REDIS_URL_FILE"),
            on_unavailable: lookup.find(
                ("--ledger-on-unavailable", args.ledger_on_unavailable.as_deref()),
                "LEDGER_ON_UNAVAILABLE",
            ),
        };
        match kind.as_ref().map_or("embedded", |kind| kind.text.as_str()) {
            "redis" => told.redis(judge).map_or(Self::Embedded, Self::Redis),
            "embedded" => {
                told.refuse("embedded", judge);
                Self::Embedded
            }
            "memory" => {
                told.refuse("memory", judge);
                judge
                    .warnings
                    .push("--ledger memory: what is used is forgotten when the process ends".to_owned());
                Self::Memory
            }
            other => {
                let place = kind.as_ref().map_or("--ledger", |kind| &kind.place);
                judge.faults.push(format!("{place}: {other:?} is not embedded, redis or memory"));
                Self::Embedded
            }
        }
    }
}

/// What only a ledger in a Redis has.
struct Told {
    url: Option<Found>,
    file: Option<Found>,
    on_unavailable: Option<Found>,
}

impl Told {
    fn refuse(&self, kind: &str, judge: &mut Judge) {
        for found in [&self.url, &self.file, &self.on_unavailable].into_iter().flatten() {
            judge
                .faults
                .push(format!("{}: cannot be used with --ledger {kind}; add --ledger redis", found.place));
        }
    }

    fn redis(self, judge: &mut Judge) -> Option<RedisSettings> {
        let on_unavailable = judge.parse(self.on_unavailable, "deny or allow", |text| match text {
            "deny" => Some(OnUnavailable::Deny),
            "allow" => Some(OnUnavailable::Allow),
            _ => None,
        });
        // The URL may hold a password: no message shows any of it.
        let (place, text) = match (self.url, self.file) {
            (Some(url), None) => (url.place, Secret::new(url.text)),
            (None, Some(file)) => {
                let read = std::fs::read_to_string(&file.text).map(Secret::new);
                let unread = |error| {
                    judge.faults.push(format!("{}: {} cannot be read: {error}", file.place, file.text))
                };
                let text = read.map_err(unread).ok()?;
                (format!("{}: {}", file.place, file.text), text)
            }
            (Some(url), Some(file)) => {
                judge
                    .faults
                    .push(format!("{}: cannot be used with {}; give one of them", url.place, file.place));
                return None;
            }
            (None, None) => {
                judge.faults.push("--ledger redis: needs --redis-url-file, or --redis-url".to_owned());
                return None;
            }
        };
        match text.expose().trim().parse() {
            Ok(url) => Some(RedisSettings { url, on_unavailable: on_unavailable.unwrap_or_default() }),
            Err(error) => {
                judge.faults.push(format!("{place}: the URL {error}"));
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(told: &[(&str, &str)]) -> (LedgerSettings, Vec<String>) {
        let mut judge = Judge { faults: Vec::new(), warnings: Vec::new() };
        let settings = LedgerSettings::read(&LedgerArgs::default(), &Lookup::of(told), &mut judge);
        (settings, judge.faults)
    }

    #[test]
    fn ledger_is_on_disk_unless_told_otherwise() {
        assert!(matches!(read(&[]), (LedgerSettings::Embedded, faults) if faults.is_empty()));
        assert!(
            matches!(read(&[("LEDGER", "memory")]), (LedgerSettings::Memory, faults) if faults.is_empty())
        );
    }

    #[test]
    fn url_comes_from_a_file_or_a_text_and_is_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("url");
        std::fs::write(&file, "rediss://me:canary@cache.example:7000\n").unwrap();
        let (settings, faults) = read(&[
            ("LEDGER", "redis"),
            ("REDIS_URL_FILE", file.to_str().unwrap()),
            ("LEDGER_ON_UNAVAILABLE", "allow"),
        ]);
        assert_eq!(faults, Vec::<String>::new());
        assert!(!format!("{settings:?}").contains("canary"), "{settings:?}");
        let LedgerSettings::Redis(redis) = settings else { panic!("{settings:?}") };
        assert_eq!(
            (redis.url.to_string().as_str(), redis.on_unavailable),
            ("rediss://cache.example:7000/0", OnUnavailable::Allow)
        );
    }

    #[test]
    fn what_does_not_go_together_is_refused_by_the_names_of_both() {
        for (told, parts) in [
            (&[("LEDGER", "disk")][..], &["LEDGER", "\"disk\" is not embedded, redis or memory"][..]),
            (&[("LEDGER", "redis")], &["--ledger redis", "--redis-url-file"]),
            (&[("REDIS_URL", "redis://:canary@a")], &["REDIS_URL", "--ledger embedded"]),
            (
                &[("LEDGER", "memory"), ("LEDGER_ON_UNAVAILABLE", "deny")],
                &["LEDGER_ON_UNAVAILABLE", "--ledger memory"],
            ),
            (
                &[("LEDGER", "redis"), ("REDIS_URL", "redis://:canary@a"), ("REDIS_URL_FILE", "/x")],
                &["REDIS_URL", "REDIS_URL_FILE"],
            ),
            (&[("LEDGER", "redis"), ("REDIS_URL_FILE", "/no/such")], &["REDIS_URL_FILE", "/no/such"]),
            (
                &[("LEDGER", "redis"), ("REDIS_URL", "http://:canary@a")],
                &["REDIS_URL", "must start with redis://"],
            ),
        ] {
            let (_, faults) = read(told);
            let [fault] = &faults[..] else { panic!("{told:?}: {faults:?}") };
            assert!(
                parts.iter().all(|part| fault.contains(part)) && !fault.contains("canary"),
                "{told:?}: {fault}"
            );
        }
    }
}
