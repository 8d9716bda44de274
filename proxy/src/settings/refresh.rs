//! Who renews Claude logins in folders, and where.

use std::path::PathBuf;
use std::time::Duration;

use la_core::duration;
use la_core::oauth::federation::EXCHANGE_URL;
use la_core::oauth::{Plan, TokenEndpoint};

use super::args::RefreshArgs;
use super::{Judge, Lookup};
use crate::upstream::endpoint::{Endpoint, EndpointError};

/// Which logins are renewed here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Policy {
    /// Those that can be stored, but not the login that Claude Code itself uses.
    #[default]
    Auto,
    /// Those that can be stored.
    Always,
    /// None.
    Never,
}

/// What there is to know for renewing logins.
#[derive(Debug, Clone)]
pub struct RefreshSettings {
    pub policy: Policy,
    /// Folders of the login that Claude Code uses.
    pub own_homes: Vec<PathBuf>,
    pub endpoint: TokenEndpoint,
    /// Where workload identities are exchanged.
    pub exchange_url: String,
    /// How long before its end a login is renewed at the latest.
    pub before: Duration,
}

impl RefreshSettings {
    /// Judges what is told of renewing.
    pub(super) fn read(args: &RefreshArgs, lookup: &Lookup, judge: &mut Judge) -> Self {
        let policy = lookup.find(("--refresh", args.refresh.as_deref()), "REFRESH");
        let policy = judge.parse(policy, "auto, always or never", policy_of).unwrap_or_default();
        let before = lookup.find(("--refresh-before", args.refresh_before.as_deref()), "REFRESH_BEFORE");
        let before = judge.parse(before, "a duration from `1s` to `4h`", |text| {
            let range = Duration::from_secs(1)..=Duration::from_secs(4 * 3_600);
            duration::parse(text).ok().filter(|before| range.contains(before))
        });
        let default = Duration::from_millis(Plan::BEFORE_DEFAULT_MS.unsigned_abs());
        let home = lookup.named("HOME").map(|home| PathBuf::from(home.text).join(".claude"));
        let config = lookup.named("CLAUDE_CONFIG_DIR").map(|dir| PathBuf::from(dir.text));
        Self {
            policy,
            own_homes: home.into_iter().chain(config).collect(),
            endpoint: endpoint(lookup, judge),
            exchange_url: place(lookup, "ANTHROPIC_TOKEN_EXCHANGE_URL", "identity tokens", judge)
                .unwrap_or_else(|| EXCHANGE_URL.to_owned()),
            before: before.unwrap_or(default),
        }
    }
}

/// A flag that means nothing beside an operator, which renews all logins, is a fault.
pub(super) fn refuse_beside(source: &str, args: &RefreshArgs, judge: &mut Judge) {
    for (flag, given) in [("--refresh", &args.refresh), ("--refresh-before", &args.refresh_before)] {
        if given.is_some() {
            judge.faults.push(format!("{flag}: cannot be used with {source}: the operator renews logins"));
        }
    }
}

fn endpoint(lookup: &Lookup, judge: &mut Judge) -> TokenEndpoint {
    let default = TokenEndpoint::default();
    let client_id = lookup.named("CLAUDE_OAUTH_CLIENT_ID").map_or(default.client_id, |found| found.text);
    let url = place(lookup, "CLAUDE_OAUTH_REFRESH_URL", "refresh tokens", judge);
    TokenEndpoint { url: url.unwrap_or(default.url), client_id }
}

/// A URL that `secrets` are sent to.
fn place(lookup: &Lookup, name: &str, secrets: &str, judge: &mut Judge) -> Option<String> {
    let found = lookup.named(name)?;
    match readable(&found.text) {
        Ok(true) => {}
        Ok(false) => {
            judge.warnings.push(format!("{} sends {secrets} in plain text; use https", found.place));
        }
        Err(error) => judge.faults.push(format!("{} {error}", found.place)),
    }
    Some(found.text)
}

/// Whether nobody on the way can read what is sent there.
fn readable(url: &str) -> Result<bool, EndpointError> {
    let place = Endpoint::parse(url)?.place;
    let is_loopback = &*place.host == "localhost"
        || place.host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    Ok(place.tls_name.is_some() || is_loopback)
}

fn policy_of(text: &str) -> Option<Policy> {
    match text {
        "auto" => Some(Policy::Auto),
        "always" => Some(Policy::Always),
        "never" => Some(Policy::Never),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::settings::CommandLine;

    fn read(line: &[&str], told: &[(&str, &str)]) -> (RefreshSettings, Judge) {
        let line = CommandLine::try_parse_from([&["la-router"], line].concat()).unwrap();
        let mut judge = Judge::default();
        let settings = RefreshSettings::read(&line.serve.refresh, &Lookup::of(told), &mut judge);
        (settings, judge)
    }

    #[test]
    fn logins_that_can_be_stored_are_renewed_unless_told_otherwise() {
        for (line, told, policy) in [
            (&[][..], &[][..], Policy::Auto),
            (&["--refresh"], &[("REFRESH", "never")], Policy::Always),
            (&["--refresh", "never"], &[], Policy::Never),
            (&[], &[("REFRESH", "always")], Policy::Always),
        ] {
            assert_eq!(read(line, told).0.policy, policy, "{line:?} {told:?}");
        }
        let (settings, _) = read(&[], &[("HOME", "/home/me"), ("CLAUDE_CONFIG_DIR", "/claude")]);
        assert_eq!(settings.own_homes, [PathBuf::from("/home/me/.claude"), PathBuf::from("/claude")]);
        assert_eq!(settings.endpoint, TokenEndpoint::default());
        assert_eq!(settings.before, Duration::from_secs(300));
    }

    #[test]
    fn nonsense_is_told_by_its_name() {
        for (told, part) in [
            (("REFRESH", "yes"), "REFRESH: \"yes\" is not auto, always or never"),
            (("REFRESH_BEFORE", "9h"), "REFRESH_BEFORE: \"9h\" is not a duration from `1s` to `4h`"),
            (("CLAUDE_OAUTH_REFRESH_URL", "ftp://x"), "CLAUDE_OAUTH_REFRESH_URL must start with http"),
        ] {
            let (_, judge) = read(&[], &[told]);
            assert!(judge.faults.iter().any(|fault| fault.contains(part)), "{:?}", judge.faults);
        }
    }

    #[test]
    fn refresh_tokens_in_plain_text_are_warned_about_beyond_this_machine() {
        for (url, is_warned) in [
            ("https://idp.example/token", false),
            ("http://127.0.0.1:9/v1/oauth/token", false),
            ("http://idp.example/token", true),
        ] {
            let (settings, judge) = read(&[], &[("CLAUDE_OAUTH_REFRESH_URL", url)]);
            assert_eq!(!judge.warnings.is_empty(), is_warned, "{url}");
            assert_eq!(settings.endpoint.url, url);
        }
    }

    #[test]
    fn operator_that_renews_logins_leaves_nothing_to_say() {
        let line = CommandLine::try_parse_from(["la-router", "--refresh", "never"]).unwrap();
        let mut judge = Judge::default();
        refuse_beside("--snapshot-dir", &line.serve.refresh, &mut judge);
        assert_eq!(
            judge.faults,
            ["--refresh: cannot be used with --snapshot-dir: the operator renews logins"]
        );
    }
}
