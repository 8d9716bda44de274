//! `tokens`: beside a running server through its admin socket, else on the files themselves.

use http::Method;
use la_core::budget::MAX_REQUESTS;
use la_core::id::Subject;
use la_core::report::BudgetUse;
use la_core::secret::Secret;

use super::beside::{Server, read};
use super::{say, time};
use crate::admin::tokens::{IssueAnswer, IssueRequest, ListAnswer};
use crate::app::Failure;
use crate::clock;
use crate::data_dir::DataDir;
use crate::ledger::Ledger;
use crate::settings::{self, Judge, Lookup, TokenAccessArgs, TokensCommand};
use crate::tokens::{Record, Shown, Signing, StoreError, TokenStore};
use crate::usage_log::Keeping;

/// Runs one token command.
pub(super) fn run(command: TokensCommand, lookup: &Lookup) -> Result<(), Failure> {
    match command {
        TokensCommand::Issue(args) => {
            let (ttl_hours, max_requests) = (args.ttl_hours, args.max_requests);
            let request = IssueRequest { ttl_hours, label: args.label, max_requests };
            let token = Office::open(&args.access, lookup)?.issue(request)?;
            say(&format!("{}\n", token.expose()))
        }
        TokensCommand::List(args) => say(&list(&Office::open(&args, lookup)?.list()?)),
        TokensCommand::Show(args) => {
            let shown = Office::open(&args.access, lookup)?.one(&args.id, Act::Show)?;
            let text = serde_json::to_string_pretty(&shown).map_err(|e| Failure::Runtime(e.to_string()))?;
            say(&format!("{text}\n"))
        }
        TokensCommand::Revoke(args) => {
            let shown = Office::open(&args.access, lookup)?.one(&args.id, Act::Revoke)?;
            say(&format!("revoked {}\n", shown.id))
        }
        TokensCommand::Expire(args) => {
            let shown = Office::open(&args.access, lookup)?.one(&args.id, Act::Expire)?;
            say(&format!("expired {}\n", shown.id))
        }
    }
}

/// Where tokens are kept now.
enum Office {
    Server(Server),
    Files(Box<Files>),
}

/// The files of a data folder that no server holds.
struct Files {
    data_dir: DataDir,
    store: TokenStore,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Show,
    Revoke,
    Expire,
}

impl Office {
    fn open(args: &TokenAccessArgs, lookup: &Lookup) -> Result<Self, Failure> {
        let mut judge = Judge::default();
        let path = settings::data_dir(&args.common, lookup, &mut judge);
        let shared = settings::shared_key(args.token_secret.as_ref(), lookup, &mut judge);
        if !judge.faults.is_empty() {
            return Err(Failure::Configuration(judge.faults));
        }
        if let Some(server) = Server::find(&path)? {
            return Ok(Self::Server(server));
        }
        let runtime = |error: &dyn std::fmt::Display| Failure::Runtime(error.to_string());
        let data_dir = DataDir::open(&path).map_err(|e| runtime(&e))?;
        let signing = Signing::open(&data_dir, shared).map_err(|e| runtime(&e))?;
        let store = TokenStore::open(&data_dir, signing).map_err(|e| runtime(&e))?;
        Ok(Self::Files(Box::new(Files { data_dir, store })))
    }

    fn issue(self, request: IssueRequest) -> Result<Secret, Failure> {
        match self {
            Self::Server(server) => {
                let body = serde_json::to_vec(&request).map_err(|e| Failure::Runtime(e.to_string()))?;
                let answer: IssueAnswer = read(server.ask(Method::POST, "/api/tokens", body)?)?;
                Ok(Secret::new(answer.token))
            }
            Self::Files(files) => {
                let new = request.into_new().map_err(|fault| Failure::Configuration(vec![fault]))?;
                let record = files.store.issue(new, clock::unix_seconds()).map_err(|e| failure(&e))?;
                files.store.text(&record).map_err(|e| failure(&e))
            }
        }
    }

    fn list(self) -> Result<Vec<Shown>, Failure> {
        match self {
            Self::Server(server) => {
                let answer: ListAnswer = read(server.ask(Method::GET, "/api/tokens", Vec::new())?)?;
                Ok(answer.data)
            }
            Self::Files(files) => files.shown(&files.store.records()),
        }
    }

    fn one(self, id: &str, act: Act) -> Result<Shown, Failure> {
        match self {
            Self::Server(server) => {
                // What has a slash or the like in it is no id, and must not become another path.
                la_core::id::TokenId::try_from(id.to_owned()).map_err(|_| unknown(id))?;
                let (method, path) = match act {
                    Act::Show => (Method::GET, format!("/api/tokens/{id}")),
                    Act::Revoke => (Method::POST, format!("/api/tokens/{id}/revoke")),
                    Act::Expire => (Method::POST, format!("/api/tokens/{id}/expire")),
                };
                read(server.ask(method, &path, Vec::new())?)
            }
            Self::Files(files) => {
                let now = clock::unix_seconds();
                let record = match act {
                    Act::Show => files.store.record(id),
                    Act::Revoke => files.store.revoke(id, now),
                    Act::Expire => files.store.expire(id, now),
                };
                let shown = files.shown(&[record.map_err(|e| failure(&e))?])?;
                shown.into_iter().next().ok_or_else(|| unknown(id))
            }
        }
    }
}

impl Files {
    fn shown(&self, records: &[Record]) -> Result<Vec<Shown>, Failure> {
        let path = self.data_dir.path();
        let ledger = Ledger::open_embedded(path, Keeping::Owed, clock::unix_seconds())
            .map_err(|e| Failure::Runtime(e.to_string()))?;
        let used = |subject: Subject| ledger.usage(&subject).map_or(0, |used| used.settled);
        let shown = records.iter().map(|record| record.shown(record.subject().map_or(0, used))).collect();
        ledger.close().map_err(|e| Failure::Runtime(e.to_string()))?;
        Ok(shown)
    }
}

fn failure(error: &StoreError) -> Failure {
    match error {
        StoreError::Unknown(_) | StoreError::NotAdmitted(_) => {
            Failure::Configuration(vec![error.to_string()])
        }
        _ => Failure::Runtime(error.to_string()),
    }
}

fn unknown(id: &str) -> Failure {
    failure(&StoreError::Unknown(id.to_owned()))
}

fn list(tokens: &[Shown]) -> String {
    let head = ["ID", "ISSUED", "EXPIRES", "REVOKED", "REQUESTS", "BUDGETS", "NAME", "LABEL"];
    let rows = tokens.iter().map(|token| {
        let most = token.max_requests.map_or_else(|| "-".to_owned(), |most| most.to_string());
        [
            token.id.clone(),
            time(token.issued_at.saturating_mul(1_000)),
            time(token.expires_at.saturating_mul(1_000)),
            if token.revoked { "yes" } else { "no" }.to_owned(),
            format!("{}/{most}", token.used_requests),
            budgets(&token.budgets),
            token.name.clone(),
            token.label.clone(),
        ]
    });
    super::table(head, rows.collect())
}

/// Use and limit of each budget, and when its window ends; the short form's is a column of its own.
fn budgets(budgets: &[BudgetUse]) -> String {
    let others = budgets.iter().filter(|budget| budget.name != MAX_REQUESTS);
    let each = others.map(|BudgetUse { name, unit, used, limit, resets_at_ms, .. }| {
        let until = resets_at_ms.map(|at| format!(" until {}", time(i64::try_from(at).unwrap_or(i64::MAX))));
        format!("{name} {}/{} {unit}{}", unit.text(*used), unit.text(*limit), until.unwrap_or_default())
    });
    let each: Vec<_> = each.collect();
    if each.is_empty() { "-".to_owned() } else { each.join(", ") }
}

#[cfg(test)]
mod tests {
    use la_core::amount::Unit;
    use la_core::budget::Enforcement;

    use super::*;

    fn budget(name: &str, unit: Unit, (used, limit): (u64, u64), resets_at_ms: Option<u64>) -> BudgetUse {
        let (name, enforcement) = (name.to_owned(), Enforcement::Hard);
        BudgetUse { name, unit, enforcement, used, limit, resets_at_ms, threshold: None }
    }

    #[test]
    fn list_has_columns_that_line_up() {
        let token = Shown {
            id: "id-1".to_owned(),
            label: "laptop".to_owned(),
            name: "local/id-1".to_owned(),
            issued_at: 0,
            expires_at: 3_600,
            revoked: true,
            max_requests: Some(9),
            used_requests: 2,
            budgets: vec![
                budget(MAX_REQUESTS, Unit::Requests, (2, 9), None),
                budget("daily", Unit::Usd, (1_250_000_000, 5_000_000_000), Some(3_600_000)),
            ],
        };
        let expected = "\
ID    ISSUED                EXPIRES               REVOKED  REQUESTS  BUDGETS                                      NAME        LABEL
id-1  1970-01-01T00:00:00Z  1970-01-01T01:00:00Z  yes      2/9       daily 1.25/5 USD until 1970-01-01T01:00:00Z  local/id-1  laptop
";
        assert_eq!(list(&[token]), expected);
    }
}
