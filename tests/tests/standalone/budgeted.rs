//! A router whose tokens have a budget of each unit, and a vendor that keeps its own account of what it bills them.

use std::sync::Arc;
use std::time::Duration;

use la_core::amount::{Amounts, Unit};
use la_core::budget::{SavedBook, SavedMeter};
use la_tests::cluster::eventually;
use la_tests::fakes::vendor::{self, Known, Turn};
use la_tests::fakes::{Answer, Bill, Break, Script};
use la_tests::router::{Router, Setup};
use serde_json::{Value, json};

/// The model that its clients ask for.
const MODEL: &str = "claude-opus-5";

/// Its price: $5 for a million tokens of input and $25 for one of output.
const PER_INPUT: u64 = 5_000;
const PER_OUTPUT: u64 = 25_000;

/// What the vendor bills for each answer that it gives to its end.
const WHOLE: Amounts = Amounts { requests: 1, tokens: 25 + 42, nano_usd: 25 * PER_INPUT + 42 * PER_OUTPUT };

/// How many times what a token is to be spent by it may use of the other units.
const AMPLE: u64 = 10;

const TOKEN: &str = r#"
apiVersion: router.link-assistant.dev/v1alpha1
kind: RouterToken
metadata: {name: NAME, namespace: team}
spec: {proxyRef: {name: gateway}, secretName: NAME-token, limits: BUDGETS}
"#;

/// A router in front of one vendor, without a token so far.
pub(super) fn setup(base_url: &str) -> Setup {
    Setup::team(base_url, "")
}

/// The limits of a token that may use so many whole answers' worth of one unit, and ample of the others.
pub(super) fn limits(scarce: Unit, answers: u64) -> Amounts {
    let limit = |unit| WHOLE.of(unit) * answers * if unit == scarce { 1 } else { AMPLE };
    Amounts { requests: limit(Unit::Requests), tokens: limit(Unit::Tokens), nano_usd: limit(Unit::Usd) }
}

/// Adds a token with these limits, and gives its text once the router serves it.
pub(super) fn add_token(router: &Router, name: &str, limits: &Amounts) -> String {
    let budget = |unit: Unit| json!({"name": unit, "unit": unit, "limit": unit.text(limits.of(unit))});
    let budgets = json!({"budgets": Unit::ALL.map(budget)}).to_string();
    let manifest = TOKEN.replace("NAME", name).replace("BUDGETS", &budgets);
    std::fs::write(router.directory().join(format!("manifests/{name}.yaml")), manifest).unwrap();
    eventually("the token to be served", Duration::from_secs(20), || {
        let Ok(text) = router.team_token(name) else { return Ok(None) };
        let (_, report) = router.ask_admin("GET", "/status", "")?;
        // Minted in one reading of the folder, served by the next.
        let is_served = report["liveTokens"].as_u64().is_some_and(|live| live >= tokens(router));
        Ok(is_served.then_some(text))
    })
    .unwrap()
}

fn tokens(router: &Router) -> u64 {
    std::fs::read_dir(router.directory().join("tokens/team")).map_or(0, |found| found.count() as u64)
}

/// What a ledger counts of one unit for a token: one entry for each of its windows.
pub(super) fn meters<'a>(book: &'a SavedBook, name: &str, unit: Unit) -> Vec<&'a SavedMeter> {
    let subject = format!("gateway/team/{name}");
    let owner = book.owners.iter().find(|owner| owner.subject.as_str() == subject);
    let meters = owner.map(|owner| owner.meters.as_slice()).unwrap_or_default();
    meters.iter().filter(|meter| meter.unit == unit).collect()
}

/// Every line of the usage log.
pub(super) fn lines(router: &Router) -> Vec<Value> {
    let mut all = Vec::new();
    for number in 1.. {
        let file = router.data_dir().join(format!("usage/usage-{number}.jsonl"));
        let Ok(text) = std::fs::read_to_string(file) else { break };
        // The last may be on its way.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        all.extend(whole.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()));
    }
    all
}

/// What a request asks for that is named after its token.
pub(super) fn body(name: &str, stream: bool) -> String {
    body_with(name, stream, "hi")
}

/// A request whose answer stops in its middle and never ends.
pub(super) fn held_body(name: &str) -> String {
    body_with(name, true, "hold")
}

fn body_with(name: &str, stream: bool, text: &str) -> String {
    json!({
        "model": MODEL, "max_tokens": 64, "stream": stream, "metadata": {"user_id": name},
        "messages": [{"role": "user", "content": text}],
    })
    .to_string()
}

/// Answers as the vendor does, and tells `bill` for which token and how much as soon as a request is here.
pub(super) fn vendor(bill: impl Fn(&str, Amounts) + Send + Sync + 'static) -> Script {
    let usual = vendor::script(Known::default());
    Arc::new(move |request| {
        let (body, answer) = (request.json(), usual(request));
        let is_held = body.pointer("/messages/0/content") == Some(&"hold".into());
        let half = answer.framed_bytes() / 2;
        let answer = if is_held { answer.broken(Break::Stall, half) } else { answer };
        let name = body.pointer("/metadata/user_id").and_then(Value::as_str).unwrap_or_default();
        bill(name, billed(&body, &answer));
        answer
    })
}

fn billed(body: &Value, answer: &Answer) -> Amounts {
    let sent = answer.sent();
    let bill = match body["stream"].as_bool() {
        Some(true) => Bill::of_stream(&sent, 0),
        _ => Bill::of_json(&sent, Turn::asked_for_by(body).output_tokens),
    };
    let Bill { input_tokens, output_tokens, .. } = bill;
    let nano_usd = input_tokens * PER_INPUT + output_tokens * PER_OUTPUT;
    Amounts { requests: 1, tokens: input_tokens + output_tokens, nano_usd }
}
