//! A router whose tokens have budgets, and what the vendor bills for one of their requests.

use la_core::amount::Unit;
use la_core::budget::{SavedBook, SavedMeter};
use la_core::price::{Billed, Book, cost_nano_usd};
use la_core::usage::Usage;
use la_tests::cluster::eventually;
use la_tests::router::{Router, Setup};
use serde_json::Value;
use std::time::Duration;

/// The model that its clients ask for; the vendor's answer is always the same.
pub(super) const MODEL: &str = "claude-opus-5";

/// The budgets of each token, as its manifest has them.
const BUDGETS: &str = "{maxRequests: LIMIT}";

/// The units of [`BUDGETS`].
pub(super) const UNITS: [Unit; 1] = [Unit::Requests];

const MANIFESTS: &str = r#"
apiVersion: router.link-assistant.dev/v1alpha1
kind: RouterProxy
metadata: {name: gateway, namespace: team}
spec: {routes: [{candidates: [{provider: vendor}]}]}
---
apiVersion: router.link-assistant.dev/v1alpha1
kind: UpstreamProvider
metadata: {name: vendor, namespace: team}
spec:
  backend: {anthropic: {baseURL: BASE_URL, accounts: [{name: main, credential: {apiKey: {secretRef: {name: login}}}}]}}
---
apiVersion: v1
kind: Secret
metadata: {name: login, namespace: team}
stringData: {apiKey: sk-ant-api03-canary-key}
"#;

const TOKEN: &str = r#"
apiVersion: router.link-assistant.dev/v1alpha1
kind: RouterToken
metadata: {name: NAME, namespace: team}
spec: {proxyRef: {name: gateway}, secretName: NAME-token, limits: BUDGETS}
"#;

/// A router in front of one vendor, without a token so far.
pub(super) fn setup(base_url: &str) -> Setup {
    let manifests = MANIFESTS.replace("BASE_URL", base_url);
    Setup::manifests(&[("all.yaml", &manifests)]).arg("--tokens-dir", "{dir}/tokens")
}

/// Adds a token with so many requests, and gives its text once the router serves it.
pub(super) fn add_token(router: &Router, name: &str, limit: u64) -> String {
    let budgets = BUDGETS.replace("LIMIT", &limit.to_string());
    let manifest = TOKEN.replace("NAME", name).replace("BUDGETS", &budgets);
    std::fs::write(router.directory().join(format!("manifests/{name}.yaml")), manifest).unwrap();
    let file = router.directory().join(format!("tokens/team/{name}/token"));
    eventually("the token to be served", Duration::from_secs(20), || {
        let Ok(text) = std::fs::read_to_string(&file) else { return Ok(None) };
        let (_, report) = router.ask_admin("GET", "/status", "")?;
        // Minted in one reading of the folder, served by the next.
        let is_served = report["liveTokens"].as_u64().is_some_and(|live| live >= tokens(router));
        Ok(is_served.then(|| text.trim().to_owned()))
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

/// What the vendor bills for one request, by the counts of an answer that came whole.
pub(super) fn bill(lines: &[Value], unit: Unit) -> u64 {
    let Some(line) = lines.iter().find(|line| line["quality"] == "complete") else { return 0 };
    let usage: Usage = serde_json::from_value(line["usage"].clone()).unwrap();
    match unit {
        Unit::Requests => 1,
        Unit::Tokens => usage.total_input() + usage.output_tokens,
        Unit::Usd => {
            let billed: Billed = serde_json::from_value(line["billed"].clone()).unwrap();
            cost_nano_usd(&billed, &Book::default().model(MODEL).unwrap().price)
        }
    }
}
