//! `quickstart`: from nothing to a running router with a token and a line to try it with.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;

use la_core::secret::Secret;

use super::say;
use crate::app::{Failure, Router, base_url};
use crate::credentials::{HomeError, find_home_patiently};
use crate::settings::{
    ListenArgs, LoginDirectory, Lookup, QuickstartArgs, ServeArgs, ServeSettings, SourceSettings,
    UpstreamSettings,
};
use crate::tokens::{NewToken, Origin};
use crate::{clock, logs, sandbox};

const LIFETIME_SECONDS: i64 = 24 * 3_600;

/// What pays for requests.
enum Payer {
    Login(PathBuf),
    SetupToken,
    Identity,
    ApiKey,
    Sandbox { why: String, listener: TcpListener },
}

/// Finds a credential, issues a token, says how to use it, and serves.
pub(super) fn run(args: &QuickstartArgs, lookup: &Lookup) -> Result<(), Failure> {
    let listen = ListenArgs {
        host: Some("127.0.0.1".to_owned()),
        port: args.port.clone(),
        admin_listen: args.admin_listen.clone(),
        drain: None,
    };
    let serve = ServeArgs { common: args.common.clone(), listen, ..ServeArgs::default() };
    let mut settings = ServeSettings::read(&serve, lookup).map_err(Failure::Configuration)?;
    logs::start(&settings.logging);
    let SourceSettings::Flags(upstream) = &mut settings.source else {
        return Err(Failure::Runtime("quickstart is configured by flags only".to_owned()));
    };
    let payer = choose(args.sandbox, upstream, lookup)?;
    let data_dir = settings.data_dir.clone();
    let mut router = Router::open(settings)?;
    let token = issue(&router)?;
    router.reload()?;
    router.run(move |address| {
        let text = instructions(&payer, address, &token, &data_dir);
        if let Payer::Sandbox { listener, .. } = payer
            && let Err(error) = sandbox::start(listener)
        {
            tracing::error!("sandbox cannot be served: {error}");
        }
        // A closed standard output does not keep the router from serving.
        let _ = say(&text);
    })
}

/// A login comes first, because it costs nothing extra; then a setup token; then a workload identity; then a key;
/// then the sandbox.
fn choose(sandbox: bool, upstream: &mut UpstreamSettings, lookup: &Lookup) -> Result<Payer, Failure> {
    if sandbox {
        return take_sandbox(upstream, "it was asked for");
    }
    let home = lookup.named("CLAUDE_CODE_HOME").map(|found| PathBuf::from(found.text));
    let home = home.or_else(|| Some(PathBuf::from(lookup.named("HOME")?.text).join(".claude")));
    if let Some(home) = home {
        match find_home_patiently(&home) {
            Ok(_) => {
                upstream.logins = vec![LoginDirectory { account: "primary".to_owned(), path: home.clone() }];
                (upstream.setup_token, upstream.api_key, upstream.identity) = (None, None, None);
                return Ok(Payer::Login(home));
            }
            Err(HomeError::None { .. }) => {}
            Err(error) => return Err(Failure::Configuration(vec![error.to_string()])),
        }
    }
    if upstream.setup_token.is_some() {
        upstream.logins.clear();
        (upstream.api_key, upstream.identity) = (None, None);
        return Ok(Payer::SetupToken);
    }
    if upstream.identity.is_some() {
        upstream.logins.clear();
        upstream.api_key = None;
        return Ok(Payer::Identity);
    }
    if upstream.api_key.is_some() {
        upstream.logins.clear();
        return Ok(Payer::ApiKey);
    }
    take_sandbox(upstream, "neither a Claude login nor ANTHROPIC_API_KEY was found")
}

fn take_sandbox(upstream: &mut UpstreamSettings, why: &str) -> Result<Payer, Failure> {
    let failed = |error: std::io::Error| Failure::Runtime(format!("sandbox cannot listen: {error}"));
    let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(failed)?;
    upstream.base_url = format!("http://{}", listener.local_addr().map_err(failed)?);
    upstream.logins.clear();
    (upstream.setup_token, upstream.identity) = (None, None);
    upstream.api_key = Some(Secret::new(sandbox::API_KEY));
    Ok(Payer::Sandbox { why: why.to_owned(), listener })
}

fn issue(router: &Router) -> Result<Secret, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::Runtime(error.to_string());
    let store = router.tokens().ok_or_else(|| failed(&"there is no token store"))?;
    let new = NewToken {
        place: None,
        label: "quickstart".to_owned(),
        lifetime_seconds: LIFETIME_SECONDS,
        max_requests: None,
        origin: Origin::Issued,
    };
    let record = store.issue(new, clock::unix_seconds()).map_err(|e| failed(&e))?;
    store.text(&record).map_err(|e| failed(&e))
}

fn instructions(payer: &Payer, address: SocketAddr, token: &Secret, data_dir: &std::path::Path) -> String {
    let url = base_url(address);
    let (token, data_dir) = (token.expose(), data_dir.display());
    let (who, model) = match payer {
        Payer::Login(home) => (format!("the Claude login in {}", home.display()), "claude-haiku-4-5"),
        Payer::SetupToken => ("the token in CLAUDE_CODE_OAUTH_TOKEN".to_owned(), "claude-haiku-4-5"),
        Payer::Identity => ("the identity in ANTHROPIC_IDENTITY_TOKEN_FILE".to_owned(), "claude-haiku-4-5"),
        Payer::ApiKey => ("the key in ANTHROPIC_API_KEY".to_owned(), "claude-haiku-4-5"),
        Payer::Sandbox { why, .. } => {
            (format!("nobody: answers come from a built-in script, because {why}"), "claude-sandbox")
        }
    };
    let body = format!(
        r#"{{"model":"{model}","max_tokens":64,"stream":true,"messages":[{{"role":"user","content":"Say hello."}}]}}"#
    );
    format!(
        "\nla-router is running at {url}. Requests are paid by {who}.\n\
         \nUse it, for the next 24 hours:\n\n\
         export ANTHROPIC_BASE_URL={url}\n\
         export ANTHROPIC_AUTH_TOKEN={token}\n\
         \nTry it:\n\n\
         curl -sN {url}/v1/messages -H 'authorization: Bearer {token}' \
         -H 'content-type: application/json' -d '{body}'\n\
         \nMore tokens: la-router tokens issue --data-dir {data_dir}\n\
         Ctrl-C ends it.\n\n"
    )
}
