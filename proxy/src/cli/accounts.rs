//! `accounts`: how accounts stand and renewing their logins, beside a running server; and importing a pool
//! file, without one.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt as _;

use http::Method;
use la_core::report::AccountReport;
use la_core::secret::{Secret, exposed};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::beside::{Server, read};
use super::{say, table, time};
use crate::admin::accounts::ListAnswer;
use crate::app::Failure;
use crate::data_dir::write_whole;
use crate::settings::{
    self, AccountImportArgs, AccountRefreshArgs, AccountsCommand, CommonArgs, Judge, Lookup,
};

/// The file of a login in the folder that an import makes.
const LOGIN_FILE: &str = ".credentials.json";

/// Runs one accounts command.
pub(super) fn run(command: AccountsCommand, lookup: &Lookup) -> Result<(), Failure> {
    match command {
        AccountsCommand::List(args) => say(&list(&accounts(&args, lookup)?)),
        AccountsCommand::Refresh(args) => refresh(&args, lookup),
        AccountsCommand::Import(args) => import(&args),
    }
}

fn server(args: &CommonArgs, lookup: &Lookup) -> Result<Server, Failure> {
    let mut judge = Judge::default();
    let path = settings::data_dir(args, lookup, &mut judge);
    if !judge.faults.is_empty() {
        return Err(Failure::Configuration(judge.faults));
    }
    let missing = || Failure::Runtime(format!("no la-router runs on {}", path.display()));
    Server::find(&path)?.ok_or_else(missing)
}

fn accounts(args: &CommonArgs, lookup: &Lookup) -> Result<Vec<AccountReport>, Failure> {
    let answer: ListAnswer = read(server(args, lookup)?.ask(Method::GET, "/v1/accounts", Vec::new())?)?;
    Ok(answer.data)
}

fn list(accounts: &[AccountReport]) -> String {
    let head = ["ACCOUNT", "STATE", "EXPIRES", "RENEWED", "MESSAGE"];
    let at =
        |seconds: Option<i64>| seconds.map_or_else(|| "-".to_owned(), |at| time(at.saturating_mul(1_000)));
    let rows = accounts.iter().map(|account| {
        [
            format!("{}/{}", account.provider, account.name),
            format!("{:?}", account.state),
            at(account.credential_expires_at),
            at(account.last_refresh_time),
            account.message.clone(),
        ]
    });
    table(head, rows.collect())
}

/// Fails when a login that was to be renewed was not.
fn refresh(args: &AccountRefreshArgs, lookup: &Lookup) -> Result<(), Failure> {
    let all = accounts(&args.common, lookup)?;
    let wanted: Vec<&AccountReport> = match &args.name {
        None => all.iter().collect(),
        Some(name) => all
            .iter()
            .filter(|account| {
                account.name == *name || format!("{}/{}", account.provider, account.name) == *name
            })
            .collect(),
    };
    match (&args.name, wanted.len()) {
        (Some(name), 0) => return Err(Failure::Configuration(vec![format!("there is no account {name}")])),
        (Some(name), 2..) => {
            let message = format!("several providers have an account {name}; say PROVIDER/{name}");
            return Err(Failure::Configuration(vec![message]));
        }
        _ => {}
    }
    let (mut after, mut refused) = (Vec::new(), Vec::new());
    for before in wanted {
        let path = format!("/v1/accounts/{}/{}/refresh", before.provider, before.name);
        let answer = server(&args.common, lookup)?.ask(Method::POST, &path, Vec::new())?;
        match read::<AccountReport>(answer) {
            Ok(account) => {
                // One that was renewed has nothing to say.
                if !account.message.is_empty() {
                    refused
                        .push(format!("account {}/{}: {}", account.provider, account.name, account.message));
                }
                after.push(account);
            }
            // Without a name, those that are not renewed here are passed over.
            Err(_) if args.name.is_none() => {}
            Err(error) => return Err(error),
        }
    }
    say(&list(&after))?;
    if refused.is_empty() { Ok(()) } else { Err(Failure::Runtime(refused.join("; "))) }
}

/// A pool of logins as huskies keeps it.
#[derive(Deserialize)]
struct Pool {
    accounts: BTreeMap<String, Pooled>,
}

/// One of them. Its limits are this router's to find out.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Pooled {
    #[serde(with = "exposed")]
    access_token: Secret,
    #[serde(with = "exposed")]
    refresh_token: Secret,
    expires_at: Value,
    #[serde(default)]
    scopes: Value,
    #[serde(default)]
    subscription_type: Value,
    #[serde(default)]
    rate_limit_tier: Value,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct File<'a> {
    claude_ai_oauth: Login<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Login<'a> {
    #[serde(with = "exposed")]
    access_token: &'a Secret,
    #[serde(with = "exposed")]
    refresh_token: &'a Secret,
    expires_at: &'a Value,
    #[serde(skip_serializing_if = "Value::is_null")]
    scopes: &'a Value,
    #[serde(skip_serializing_if = "Value::is_null")]
    subscription_type: &'a Value,
    #[serde(skip_serializing_if = "Value::is_null")]
    rate_limit_tier: &'a Value,
}

/// Writes one folder per account: all of them, or none.
fn import(args: &AccountImportArgs) -> Result<(), Failure> {
    let place = args.file.display();
    let fault = |what: String| Failure::Configuration(vec![format!("{place}: {what}")]);
    let text = fs::read_to_string(&args.file).map_err(|e| fault(format!("cannot be read: {e}")))?;
    let text = Secret::new(text);
    // Serde's own message may quote what it read.
    let pool: Pool = serde_json::from_str(text.expose()).map_err(|e| {
        fault(format!("is not a pool of logins, at line {}, column {}", e.line(), e.column()))
    })?;
    let logins = judged(&pool).map_err(Failure::Configuration)?;
    let homes: Vec<_> = logins.iter().map(|(name, _)| args.to.join(name)).collect();
    let there: Vec<String> = homes
        .iter()
        .filter(|home| home.exists())
        .map(|home| format!("{} is there already and is not overwritten", home.display()))
        .collect();
    if !there.is_empty() {
        return Err(Failure::Configuration(there));
    }
    for (home, (_, login)) in homes.iter().zip(&logins) {
        let failed =
            |e: std::io::Error| Failure::Runtime(format!("{} cannot be written: {e}", home.display()));
        DirBuilder::new().recursive(true).mode(0o700).create(home).map_err(failed)?;
        write_whole(&home.join(LOGIN_FILE), login.expose().as_bytes()).map_err(failed)?;
    }
    let dirs: Vec<String> = homes.iter().map(|home| home.display().to_string()).collect();
    let each: String = dirs.iter().map(|dir| format!("{dir}\n")).collect();
    say(&format!("{each}\nServe them with --additional-account-dirs {}\n", dirs.join(",")))
}

/// The folder's name and the file's text of every account.
fn judged(pool: &Pool) -> Result<Vec<(String, Secret)>, Vec<String>> {
    let (mut logins, mut faults) = (Vec::<(String, Secret)>::new(), Vec::new());
    let mut owners: BTreeMap<&str, &str> = BTreeMap::new();
    for (email, pooled) in &pool.accounts {
        let name = folder_name(email);
        if name.is_empty() || logins.iter().any(|(other, _)| *other == name) {
            faults.push(format!("account {email:?}: gives no folder name of its own"));
        }
        if let Some(other) = owners.insert(pooled.refresh_token.expose(), email) {
            faults.push(format!("account {email}: is the same login as {other}"));
        }
        let login = Login {
            access_token: &pooled.access_token,
            refresh_token: &pooled.refresh_token,
            expires_at: &pooled.expires_at,
            scopes: &pooled.scopes,
            subscription_type: &pooled.subscription_type,
            rate_limit_tier: &pooled.rate_limit_tier,
        };
        let text = serde_json::to_string_pretty(&File { claude_ai_oauth: login }).unwrap_or_default();
        let text = Secret::new(text + "\n");
        match la_core::oauth::LoginFile::read(text.clone()) {
            Ok(login) if login.refresh_token().is_some() => logins.push((name, text)),
            Ok(_) => faults.push(format!("account {email}: has no refresh token")),
            Err(error) => faults.push(format!("account {email}: {error}")),
        }
    }
    if pool.accounts.is_empty() {
        faults.push("the pool has no accounts".to_owned());
    }
    if faults.is_empty() { Ok(logins) } else { Err(faults) }
}

/// Letters, digits and `.@_+-` stay; a name cannot lead out of the folder, hide, or split a list of folders.
fn folder_name(email: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || ".@_+-".contains(c) { c } else { '_' };
    email.trim().trim_start_matches('.').chars().map(safe).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const POOL: &str = r#"{"accounts":{
        "a@example.test":{"email":"a@example.test","accessToken":"sk-ant-oat01-canary-a","refreshToken":"ra","expiresAt":1790000000000,"scopes":["user:inference"],"rateLimited":true,"rateLimitResetAt":1},
        "../b@x, y":{"email":"b","accessToken":"sk-ant-oat01-canary-b","refreshToken":"rb","expiresAt":1790000000000,"scopes":[],"subscriptionType":"max","rateLimited":false}
    }}"#;

    fn run_import(pool: &str) -> (tempfile::TempDir, Result<(), Failure>) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("oauth_pool.json");
        fs::write(&file, pool).unwrap();
        let result = import(&AccountImportArgs { file, to: folder.path().join("homes") });
        (folder, result)
    }

    #[test]
    fn every_account_of_a_pool_gets_a_private_folder_once() {
        let (folder, result) = run_import(POOL);
        result.unwrap();
        for (name, token) in [("a@example.test", "canary-a"), ("_b@x__y", "canary-b")] {
            let home = folder.path().join("homes").join(name);
            let found = crate::credentials::find_home(&home).unwrap();
            assert!(found.login.access_token().expose().ends_with(token));
            assert!(found.login.refresh_token().is_some());
            let mode = fs::metadata(&found.file).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o600);
        }
        let (file, to) = (folder.path().join("oauth_pool.json"), folder.path().join("homes"));
        let Err(Failure::Configuration(faults)) = import(&AccountImportArgs { file, to }) else { panic!() };
        assert!(faults.len() == 2 && faults[0].contains("not overwritten"), "{faults:?}");
    }

    #[test]
    fn faulty_pool_writes_nothing_and_shows_no_token() {
        for (pool, part) in [
            (POOL.replace("\"rb\"", "\"ra\""), "is the same login as"),
            (POOL.replace("\"rb\"", "\"\""), "has no refresh token"),
            (
                POOL.replace("sk-ant-oat01-canary-b", "two words canary"),
                "its access token has something other",
            ),
            (POOL.replace("1790000000000", "\"canary\""), "a field has the wrong type"),
            ("{\"accounts\":{}}".to_owned(), "has no accounts"),
            ("{\"accounts\":{\"canary\":1}}".to_owned(), "is not a pool of logins, at line 1"),
        ] {
            let (folder, result) = run_import(&pool);
            let Err(Failure::Configuration(faults)) = result else { panic!("{part}") };
            assert!(faults.iter().any(|fault| fault.contains(part)), "{faults:?}");
            assert!(!faults.iter().any(|fault| fault.contains("canary")), "{faults:?}");
            assert!(!folder.path().join("homes").exists());
        }
    }
}
