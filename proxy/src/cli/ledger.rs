//! `ledger`: counting again from the usage log, replaying prices, export and import.

use std::path::{Path, PathBuf};

use http::{Method, StatusCode};
use la_core::amount::Unit;
use la_core::budget::{SavedBook, SavedOwner, Window};
use la_core::price::{self, Override};
use la_core::usage::Usage;

use super::beside::Server;
use super::{imported, say, table};
use crate::app::Failure;
use crate::clock;
use crate::data_dir::DataDir;
use crate::ledger::Ledger;
use crate::settings::{self, CommonArgs, ImportArgs, Judge, LedgerCommand, Lookup, RecomputeArgs};
use crate::usage_log::{self, Keeping, Recount};

/// Runs one ledger command.
pub(super) fn run(command: LedgerCommand, lookup: &Lookup) -> Result<(), Failure> {
    match command {
        LedgerCommand::Recompute(args) => recompute(&args, lookup),
        LedgerCommand::Export(args) => {
            let book = held(&data_dir(&args, lookup)?)?;
            let text = serde_json::to_string_pretty(&book).map_err(|e| failed(&e))?;
            say(&format!("{text}\n"))
        }
        LedgerCommand::Import(args) => import(&args, lookup),
    }
}

fn recompute(args: &RecomputeArgs, lookup: &Lookup) -> Result<(), Failure> {
    let data_dir = data_dir(&args.common, lookup)?;
    let places = std::iter::once(&data_dir).chain(&args.also);
    let folders: Vec<_> = places.map(|data_dir| usage_log::folder(data_dir)).collect();
    let unreadable = |error| Failure::Runtime(format!("usage log: {error}"));
    if let Some(file) = &args.prices {
        let replayed = usage_log::replay(&folders, &prices(file)?).map_err(unreadable)?;
        return say(&replayed_table(&replayed));
    }
    let book = held(&data_dir)?;
    let recount = usage_log::recount(&folders, book.entries).map_err(unreadable)?;
    say(&recount_table(&recount, &book))?;
    let mut faults = recount.notes.clone();
    for difference in recount.differences(&book) {
        let usage_log::Difference { subject, what, logged, held } = difference;
        faults.push(format!("{subject}: {what}: {logged} by the log, {held} by the ledger"));
    }
    match (faults.is_empty(), recount.is_whole) {
        (true, true) => say("log and ledger agree\n"),
        // What is before a known state of the ledger is not missed.
        (false, true) if faults.len() == recount.notes.len() => {
            say(&format!("{}\nlog and ledger agree\n", faults.join("\n")))
        }
        _ => Err(Failure::Runtime(format!("log and ledger differ:\n{}", faults.join("\n")))),
    }
}

fn import(args: &ImportArgs, lookup: &Lookup) -> Result<(), Failure> {
    let data_dir = data_dir(&args.common, lookup)?;
    let text = std::fs::read_to_string(&args.file)
        .map_err(|error| Failure::Configuration(vec![format!("{}: {error}", args.file.display())]))?;
    let owners = imported::owners(&text).map_err(|faults| {
        let named = faults.into_iter().map(|fault| format!("{}: {fault}", args.file.display()));
        Failure::Configuration(named.collect())
    })?;
    if Server::find(&data_dir)?.is_some() {
        let place = data_dir.display();
        return Err(Failure::Runtime(format!("a la-router runs on {place}; stop it before an import")));
    }
    let held = DataDir::open(&data_dir).map_err(|e| failed(&e))?;
    let now = clock::unix_seconds();
    let ledger = Ledger::open_embedded(held.path(), Keeping::Owed, now).map_err(|e| failed(&e))?;
    let known = ledger.saved().map_or(0, |book| book.owners.len());
    if known > 0 && !args.merge {
        return Err(Failure::Configuration(vec![format!(
            "--merge: the ledger in {} counts {known} subjects already; give --merge to keep the larger count of \
             each, or import into an empty folder",
            data_dir.display()
        )]));
    }
    ledger.raise_to(&owners, now);
    ledger.close().map_err(|e| failed(&e))?;
    say(&format!("imported {} subjects; the usage log begins anew with the next start\n", owners.len()))
}

/// What the ledger counts: told by the server that runs, else read from its files.
fn held(data_dir: &Path) -> Result<SavedBook, Failure> {
    if let Some(server) = Server::find(data_dir)? {
        let (status, body) = server.ask(Method::GET, "/v1/ledger", Vec::new())?;
        let book = (status == StatusCode::OK).then(|| serde_json::from_slice(&body).ok()).flatten();
        let other = || Failure::Runtime("running server is another version; restart it".to_owned());
        return book.ok_or_else(other);
    }
    let ends = usage_log::ends(&usage_log::folder(data_dir)).map_err(|e| failed(&e))?;
    if ends.is_some_and(|ends| ends.ledger.is_some()) {
        let place = data_dir.display();
        return Err(Failure::Runtime(format!(
            "use is counted in a Redis, which only a running la-router can be asked about; start the one of {place}"
        )));
    }
    let held = DataDir::open(data_dir).map_err(|e| failed(&e))?;
    let ledger =
        Ledger::open_embedded(held.path(), Keeping::Owed, clock::unix_seconds()).map_err(|e| failed(&e))?;
    let book = ledger.saved();
    ledger.close().map_err(|e| failed(&e))?;
    book.ok_or_else(|| Failure::Runtime("use is counted elsewhere".to_owned()))
}

fn data_dir(args: &CommonArgs, lookup: &Lookup) -> Result<PathBuf, Failure> {
    let mut judge = Judge::default();
    let path = settings::data_dir(args, lookup, &mut judge);
    if judge.faults.is_empty() { Ok(path) } else { Err(Failure::Configuration(judge.faults)) }
}

fn prices(file: &Path) -> Result<price::Book, Failure> {
    let faulty = |faults: Vec<String>| {
        let named = faults.into_iter().map(|fault| format!("--prices: {}: {fault}", file.display()));
        Failure::Configuration(named.collect())
    };
    let text = std::fs::read_to_string(file).map_err(|error| faulty(vec![error.to_string()]))?;
    let overrides: Vec<Override> = serde_yaml::from_str(&text)
        .map_err(|error| faulty(vec![format!("{error}; write a list as in `pricing.overrides`")]))?;
    price::Book::with(&overrides).map_err(|faults| faulty(faults.iter().map(ToString::to_string).collect()))
}

fn recount_table(recount: &Recount, book: &SavedBook) -> String {
    let head = ["SUBJECT", "REQUESTS", "TOKENS", "USD", "LEDGER: REQUESTS", "TOKENS", "USD"];
    let rows = book.owners.iter().map(|owner| {
        let (requests, tokens, nano_usd) = recount.totals(&owner.subject);
        [
            owner.subject.to_string(),
            requests.to_string(),
            total(&tokens).to_string(),
            Unit::Usd.text(nano_usd),
            charged_requests(owner).to_string(),
            total(&owner.tokens).to_string(),
            Unit::Usd.text(owner.nano_usd),
        ]
    });
    let mut rows: Vec<_> = rows.collect();
    rows.sort();
    table(head, rows)
}

fn replayed_table(replayed: &usage_log::Replayed) -> String {
    let row = |name: String, (old, new): (u64, u64)| [name, Unit::Usd.text(old), Unit::Usd.text(new)];
    let sum = replayed
        .costs
        .values()
        .fold((0_u64, 0_u64), |sum, cost| (sum.0.saturating_add(cost.0), sum.1.saturating_add(cost.1)));
    let rows = replayed.costs.iter().map(|(subject, cost)| row(subject.to_string(), *cost));
    let rows = rows.chain(std::iter::once(row("all".to_owned(), sum))).collect();
    let mut text = table(["SUBJECT", "USD LOGGED", "USD REPLAYED"], rows);
    if replayed.unknown > 0 {
        text.push_str(&format!("{} charges whose use is not known keep their cost\n", replayed.unknown));
    }
    for (model, count) in &replayed.unpriced {
        text.push_str(&format!("{count} charges for {model:?}, which has no price, keep their cost\n"));
    }
    text
}

fn charged_requests(owner: &SavedOwner) -> u64 {
    let is_it = |unit, window: &Window| unit == Unit::Requests && *window == Window::Lifetime;
    owner.meters.iter().find(|meter| is_it(meter.unit, &meter.window)).map_or(0, |meter| meter.settled)
}

fn total(tokens: &Usage) -> u64 {
    tokens.total_input().saturating_add(tokens.output_tokens)
}

fn failed(error: &dyn std::fmt::Display) -> Failure {
    Failure::Runtime(error.to_string())
}
