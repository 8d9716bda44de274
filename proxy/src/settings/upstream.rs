//! The one provider of a router that is configured by flags: its address and its accounts, in order.

use std::path::PathBuf;

use la_core::credential::Credential;
use la_core::credential::claude::{self, TextError};
use la_core::oauth::federation::Federation;
use la_core::secret::Secret;

use super::args::{IdentityArgs, UpstreamArgs};
use super::{Judge, Lookup};

const BASE_URL_DEFAULT: &str = "https://api.anthropic.com";

/// Where requests go and what pays for them.
#[derive(Debug, Clone)]
pub struct UpstreamSettings {
    /// Without a slash at its end.
    pub base_url: String,
    /// Claude logins, tried in this order, before the setup token and the key.
    pub logins: Vec<LoginDirectory>,
    /// What `claude setup-token` printed.
    pub setup_token: Option<Secret>,
    pub api_key: Option<Secret>,
    pub identity: Option<IdentitySettings>,
}

/// A workload identity whose token is in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentitySettings {
    pub federation: Federation,
    pub token_file: PathBuf,
}

/// A folder of a Claude login.
#[derive(Debug, Clone)]
pub struct LoginDirectory {
    /// The account's name, as link-assistant/router gave it: `primary`, `account-1`, …
    pub account: String,
    pub path: PathBuf,
}

impl UpstreamSettings {
    pub(super) fn read(args: &UpstreamArgs, lookup: &Lookup, judge: &mut Judge) -> Self {
        let provider =
            lookup.find(("--upstream-provider", args.upstream_provider.as_deref()), "UPSTREAM_PROVIDER");
        judge.parse(provider, "a provider of this version, which has `anthropic` only", |text| {
            (text == "anthropic").then_some(())
        });
        let base_url =
            lookup.find(("--upstream-base-url", args.upstream_base_url.as_deref()), "UPSTREAM_BASE_URL");
        let base_url = judge
            .parse(base_url, "http(s)://HOST[:PORT][/PREFIX]", is_base_url)
            .unwrap_or_else(|| BASE_URL_DEFAULT.to_owned());
        let setup_token = credential("CLAUDE_CODE_OAUTH_TOKEN", claude::setup_token, lookup, judge);
        let api_key = credential("ANTHROPIC_API_KEY", claude::api_key, lookup, judge);
        let identity = identity(&args.identity, lookup, judge);
        let by_default = setup_token.is_none() && api_key.is_none() && identity.is_none();
        let logins = logins(args, lookup, by_default, judge);
        Self { base_url, logins, setup_token, api_key, identity }
    }
}

fn credential(
    name: &str,
    read: fn(&str) -> Result<Credential, TextError>,
    lookup: &Lookup,
    judge: &mut Judge,
) -> Option<Secret> {
    let found = lookup.named(name)?;
    match read(&found.text) {
        Ok(Credential::ApiKey { key: secret } | Credential::OAuth { access_token: secret, .. }) => {
            Some(secret)
        }
        Err(error) => {
            judge.faults.push(format!("{} {error}", found.place));
            None
        }
    }
}

/// A flag, what it was given, and its name in the environment.
type Setting<'a> = (&'static str, Option<&'a str>, &'static str);

/// What is told of an identity: file, rule, organization, service account, workspace. The names in the environment are
/// those of the vendor's SDKs.
fn identity_settings(args: &IdentityArgs) -> [Setting<'_>; 5] {
    [
        ("--identity-token-file", args.identity_token_file.as_deref(), "ANTHROPIC_IDENTITY_TOKEN_FILE"),
        ("--federation-rule-id", args.federation_rule_id.as_deref(), "ANTHROPIC_FEDERATION_RULE_ID"),
        ("--organization-id", args.organization_id.as_deref(), "ANTHROPIC_ORGANIZATION_ID"),
        ("--service-account-id", args.service_account_id.as_deref(), "ANTHROPIC_SERVICE_ACCOUNT_ID"),
        ("--workspace-id", args.workspace_id.as_deref(), "ANTHROPIC_WORKSPACE_ID"),
    ]
}

/// An identity, whole, as soon as a file or a rule is told.
fn identity(args: &IdentityArgs, lookup: &Lookup, judge: &mut Judge) -> Option<IdentitySettings> {
    let [file, rule, organization, account, workspace] = identity_settings(args);
    let find = |(flag, given, name): Setting<'_>| lookup.find((flag, given), name);
    find(file).or_else(|| find(rule))?;
    let mut need = |setting: Setting<'_>, prefix: &str| {
        let found = find(setting);
        if found.is_none() {
            judge.faults.push(format!("{}: must be given with a workload identity", setting.0));
        }
        judge.parse(found, &format!("an id that begins with {prefix}"), |text| {
            (text.starts_with(prefix) && text.len() > prefix.len()).then(|| text.to_owned())
        })
    };
    let token_file = need(file, "");
    let (rule, organization, account) = (need(rule, "fdrl_"), need(organization, ""), need(account, "svac_"));
    Some(IdentitySettings {
        federation: Federation {
            federation_rule_id: rule?,
            organization_id: organization?,
            service_account_id: account?,
            workspace_id: find(workspace).map(|found| found.text),
        },
        token_file: PathBuf::from(token_file?),
    })
}

/// A flag that means nothing beside `source` is a fault; an environment name may be there for others.
pub(super) fn refuse_beside(source: &str, args: &UpstreamArgs, lookup: &Lookup, judge: &mut Judge) {
    let settings = [
        ("--upstream-provider", args.upstream_provider.as_deref(), "UPSTREAM_PROVIDER"),
        ("--upstream-base-url", args.upstream_base_url.as_deref(), "UPSTREAM_BASE_URL"),
        ("--claude-code-home", args.claude_code_home.as_deref(), "CLAUDE_CODE_HOME"),
        ("--additional-account-dirs", args.additional_account_dirs.as_deref(), "ADDITIONAL_ACCOUNT_DIRS"),
    ];
    for (flag, given, name) in settings.into_iter().chain(identity_settings(&args.identity)) {
        if given.is_some() {
            judge.faults.push(format!("{flag}: cannot be used with {source}, which names the providers"));
        } else if let Some(found) = lookup.named(name) {
            judge
                .warnings
                .push(format!("{} is not used with {source}, which names the providers", found.place));
        }
    }
}

fn logins(args: &UpstreamArgs, lookup: &Lookup, by_default: bool, judge: &mut Judge) -> Vec<LoginDirectory> {
    let home = lookup.find(("--claude-code-home", args.claude_code_home.as_deref()), "CLAUDE_CODE_HOME");
    let mut paths: Vec<PathBuf> = home.map(|found| PathBuf::from(found.text)).into_iter().collect();
    if paths.is_empty() && by_default {
        match lookup.named("HOME") {
            Some(home) => paths.push(PathBuf::from(home.text).join(".claude")),
            None => judge.faults.push("CLAUDE_CODE_HOME: must be given, because HOME is not set".to_owned()),
        }
    }
    let primary = paths.len();
    let flag = ("--additional-account-dirs", args.additional_account_dirs.as_deref());
    if let Some(found) = lookup.find(flag, "ADDITIONAL_ACCOUNT_DIRS") {
        let dirs = found.text.split(',').map(str::trim).filter(|dir| !dir.is_empty());
        paths.extend(dirs.map(PathBuf::from));
    }
    let name =
        |at: usize| if at < primary { "primary".to_owned() } else { format!("account-{}", at + 1 - primary) };
    paths.into_iter().enumerate().map(|(at, path)| LoginDirectory { account: name(at), path }).collect()
}

fn is_base_url(text: &str) -> Option<String> {
    let text = text.trim_end_matches('/');
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"))?;
    let good = !rest.is_empty() && !rest.contains(['@', '?', '#', ' ']) && !rest.starts_with('/');
    good.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(environment: &[(&str, &str)]) -> (UpstreamSettings, Vec<String>) {
        let mut judge = Judge::default();
        let settings = UpstreamSettings::read(&UpstreamArgs::default(), &Lookup::of(environment), &mut judge);
        (settings, judge.faults)
    }

    #[test]
    fn logins_come_in_the_order_they_are_named() {
        let (settings, faults) = read(&[
            ("CLAUDE_CODE_HOME", "/a"),
            ("ADDITIONAL_ACCOUNT_DIRS", "/b, /c,"),
            ("ANTHROPIC_API_KEY", "sk-ant-api03-key"),
        ]);
        assert!(faults.is_empty(), "{faults:?}");
        let shown: Vec<_> =
            settings.logins.iter().map(|l| format!("{}={}", l.account, l.path.display())).collect();
        assert_eq!(shown, ["primary=/a", "account-1=/b", "account-2=/c"]);
    }

    #[test]
    fn api_key_alone_needs_no_login() {
        let (settings, faults) = read(&[("ANTHROPIC_API_KEY", "sk-ant-api03-key"), ("HOME", "/h")]);
        assert!(faults.is_empty() && settings.logins.is_empty());
    }

    #[test]
    fn setup_token_alone_needs_no_login() {
        let told = [("CLAUDE_CODE_OAUTH_TOKEN", "sk-ant-oat01-setup\n"), ("HOME", "/h")];
        let (settings, faults) = read(&told);
        assert!(faults.is_empty() && settings.logins.is_empty());
        assert_eq!(settings.setup_token, Some(Secret::new("sk-ant-oat01-setup")));
    }

    #[test]
    fn identity_alone_needs_no_login_and_is_told_whole() {
        let told = [
            ("HOME", "/h"),
            ("ANTHROPIC_IDENTITY_TOKEN_FILE", "/run/token"),
            ("ANTHROPIC_FEDERATION_RULE_ID", "fdrl_1"),
            ("ANTHROPIC_ORGANIZATION_ID", "00000000-0000-0000-0000-000000000000"),
            ("ANTHROPIC_SERVICE_ACCOUNT_ID", "svac_1"),
            ("ANTHROPIC_WORKSPACE_ID", "default"),
        ];
        let (settings, faults) = read(&told);
        assert!(faults.is_empty() && settings.logins.is_empty(), "{faults:?}");
        let identity = settings.identity.unwrap();
        assert_eq!(identity.token_file, PathBuf::from("/run/token"));
        assert_eq!(identity.federation.workspace_id.as_deref(), Some("default"));
        assert_eq!(read(&told[..1]).0.identity, None);
        assert_eq!(read(&told[3..]).0.identity, None, "what is there for others is no identity");
        let (settings, faults) = read(&[told[0], told[1], ("ANTHROPIC_FEDERATION_RULE_ID", "svac_1")]);
        assert_eq!(settings.identity, None);
        assert_eq!(
            faults,
            [
                "ANTHROPIC_FEDERATION_RULE_ID: \"svac_1\" is not an id that begins with fdrl_",
                "--organization-id: must be given with a workload identity",
                "--service-account-id: must be given with a workload identity",
            ]
        );
    }

    #[test]
    fn token_of_ours_is_no_api_key() {
        let (settings, faults) = read(&[("ANTHROPIC_API_KEY", "la_sk_canary"), ("HOME", "/h")]);
        assert!(settings.api_key.is_none());
        assert_eq!(faults, ["ANTHROPIC_API_KEY is a token of la-router, not a vendor's credential"]);
    }

    #[test]
    fn base_url_loses_its_last_slash_and_must_be_http() {
        let (settings, _) = read(&[("HOME", "/h"), ("UPSTREAM_BASE_URL", "http://127.0.0.1:1/prefix/")]);
        assert_eq!(settings.base_url, "http://127.0.0.1:1/prefix");
        for bad in ["ftp://x", "https://", "https://user@host", "host:80", "https://h?x"] {
            let (_, faults) = read(&[("HOME", "/h"), ("UPSTREAM_BASE_URL", bad)]);
            assert_eq!(faults.len(), 1, "{bad}");
        }
    }
}
