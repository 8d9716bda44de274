//! `tokens`: beside a running server through its admin socket, else on the files themselves.

use bytes::Bytes;
use http::{Method, StatusCode};
use la_core::id::Subject;
use la_core::secret::Secret;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::beside::Server;
use super::say;
use crate::admin::tokens::{IssueAnswer, IssueRequest, ListAnswer};
use crate::app::Failure;
use crate::clock;
use crate::data_dir::DataDir;
use crate::ledger::Ledger;
use crate::settings::{self, Judge, Lookup, TokenAccessArgs, TokensCommand};
use crate::tokens::{Record, Shown, Signing, StoreError, TokenStore};

/// Runs one token command.
pub(super) fn run(command: TokensCommand, lookup: &Lookup) -> Result<(), Failure> {
    match command {
        TokensCommand::Issue(args) => {
            let (ttl_hours, max_requests) = (args.ttl_hours, args.max_requests);
            let request = IssueRequest { ttl_hours, label: args.label, max_requests };
            let token = Office::open(&args.access, lookup)?.issue(request)?;
            say(&format!("{}\n", token.expose()))
        }
        TokensCommand::List(args) => say(&table(&Office::open(&args, lookup)?.list()?)),
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
    Files(Files),
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
        Ok(Self::Files(Files { data_dir, store }))
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
        let ledger = Ledger::open_embedded(path, clock::unix_seconds())
            .map_err(|e| Failure::Runtime(e.to_string()))?;
        let used = |subject: Subject| ledger.usage(&subject).map_or(0, |used| used.settled);
        let shown = records.iter().map(|record| record.shown(record.subject().map_or(0, used))).collect();
        ledger.close().map_err(|e| Failure::Runtime(e.to_string()))?;
        Ok(shown)
    }
}

fn read<T: DeserializeOwned>((status, body): (StatusCode, Bytes)) -> Result<T, Failure> {
    #[derive(Deserialize)]
    struct Refused {
        error: Inner,
    }
    #[derive(Deserialize)]
    struct Inner {
        message: String,
    }
    if status.is_success() {
        let unreadable = |_| Failure::Runtime("running server is another version; restart it".to_owned());
        return serde_json::from_slice(&body).map_err(unreadable);
    }
    let message =
        serde_json::from_slice::<Refused>(&body).map_or_else(|_| status.to_string(), |r| r.error.message);
    match status {
        StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST => Err(Failure::Configuration(vec![message])),
        _ => Err(Failure::Runtime(message)),
    }
}

fn failure(error: &StoreError) -> Failure {
    match error {
        StoreError::Unknown(_) => Failure::Configuration(vec![error.to_string()]),
        _ => Failure::Runtime(error.to_string()),
    }
}

fn unknown(id: &str) -> Failure {
    failure(&StoreError::Unknown(id.to_owned()))
}

fn table(tokens: &[Shown]) -> String {
    let time =
        |seconds| jiff::Timestamp::from_second(seconds).map_or_else(|_| "?".to_owned(), |t| t.to_string());
    let head = ["ID", "ISSUED", "EXPIRES", "REVOKED", "REQUESTS", "NAME", "LABEL"].map(str::to_owned);
    let rows = tokens.iter().map(|token| {
        let most = token.max_requests.map_or_else(|| "-".to_owned(), |most| most.to_string());
        [
            token.id.clone(),
            time(token.issued_at),
            time(token.expires_at),
            if token.revoked { "yes" } else { "no" }.to_owned(),
            format!("{}/{most}", token.used_requests),
            token.name.clone(),
            token.label.clone(),
        ]
    });
    let rows: Vec<[String; 7]> = std::iter::once(head).chain(rows).collect();
    let mut widths = [0; 7];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for row in &rows {
        let cells: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

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
        };
        let expected = "ID    ISSUED                EXPIRES               REVOKED  REQUESTS  NAME        LABEL\n\
                        id-1  1970-01-01T00:00:00Z  1970-01-01T01:00:00Z  yes      2/9       local/id-1  laptop\n";
        assert_eq!(table(&[token]), expected);
    }
}
