//! RouterBudgets, ceilings and ledgers: whom they cover, what becomes of faulty ones, and what is said when
//! pods report that little or nothing is left.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use la_tests::cluster::eventually;
use serde_json::{Value, json};

use super::scene::{LIMIT, Scene, provider, proxy, shared, text, token};

/// A RouterBudget of 10 requests for the proxy `gateway` in `proxy`, with further fields.
pub(crate) fn budget(name: &str, proxy: &str, more: &str) -> String {
    format!(
        "apiVersion: router.link-assistant.dev/v1alpha1
kind: RouterBudget
metadata: {{name: {name}}}
spec:
  proxyRef: {{name: gateway, namespace: {proxy}}}
  budgets: [{{name: pool, unit: Requests, limit: '10'}}]
  thresholds: [80]
  {more}
---
"
    )
}

fn until_record(
    scene: Scene<'_>,
    (proxy, namespace): (&str, &str),
    what: &str,
    good: impl Fn(&Value) -> bool,
) {
    let found = || {
        let record = scene.record(proxy, namespace, "agent").unwrap_or_default();
        Ok(good(&record).then_some(()))
    };
    eventually(what, LIMIT, found).unwrap();
}

#[test]
fn pool_of_the_platform_covers_the_tokens_of_the_namespaces_it_selects() {
    let scene = shared();
    let (platform, team) = (scene.namespace("pool"), scene.namespace("pool-team"));
    scene.gateway(&platform);
    scene.apply(&team, &token("agent", &platform, ", limits: {maxRequests: 5}"));
    let by_label = "appliesTo: {namespaceSelector: {matchLabels: {pooled: 'yes'}}}";
    scene.apply(&platform, &budget("fleet", &platform, by_label));
    let fleet = (platform.as_str(), "routerbudgets", "fleet");
    scene.until(fleet, "Accepted", ("True", "Accepted"));
    scene.until(fleet, "Ready", ("False", "CoversNothing"));
    scene.until_said(&platform, "fleet", "CoversNothing");
    until_record(scene, (&platform, &team), "the token to be served", Value::is_object);
    assert_eq!(
        scene.snapshot(&platform).unwrap().get("pools"),
        None,
        "a pool that covers nothing is not served"
    );

    let label = json!({ "metadata": { "labels": { "pooled": "yes" } } });
    scene.api.client().merge(&format!("/api/v1/namespaces/{team}"), &label).unwrap();
    let subject = format!("pool:gateway/{platform}/fleet");
    until_record(scene, (&platform, &team), "the pool to cover the token", |record| {
        record["pools"] == json!([subject])
    });
    let pool = scene.snapshot(&platform).unwrap()["pools"][0].clone();
    assert_eq!((text(&pool, "/subject"), text(&pool, "/budgets/0/limit")), (subject, "10".to_owned()));
    assert_eq!(pool["thresholds"], json!([80]));
    scene.until(fleet, "Ready", ("True", "Covering"));
    assert_eq!(scene.object(&platform, "routerbudgets", "fleet")["status"]["tokens"], 1);
}

#[test]
fn token_is_refused_while_a_faulty_pool_covers_it() {
    let scene = shared();
    let (platform, team) = (scene.namespace("faulty"), scene.namespace("faulty-team"));
    scene.gateway(&platform);
    scene.apply(&team, &token("agent", &platform, ""));
    scene.token_where(&team, "agent", |_| true);
    until_record(scene, (&platform, &team), "the token to be served", Value::is_object);
    scene.apply(&team, &budget("grasp", &platform, "appliesTo: {namespaceSelector: {}}"));
    scene.until((&team, "routerbudgets", "grasp"), "Accepted", ("False", "InvalidField"));
    scene.until((&team, "routertokens", "agent"), "Ready", ("False", "BudgetFaulty"));
    until_record(scene, (&platform, &team), "the token to leave the snapshot", Value::is_null);
    scene.api.client().delete(&Scene::path(&team, "routerbudgets", "grasp")).unwrap();
    until_record(scene, (&platform, &team), "the token to be served again", Value::is_object);
    scene.until((&team, "routertokens", "agent"), "Ready", ("False", "Pending"));
}

#[test]
fn token_above_a_ceiling_is_refused_by_name_and_one_that_says_nothing_has_the_ceiling() {
    let scene = shared();
    let namespace = scene.namespace("ceiling");
    scene.apply(&namespace, &provider("https://api.anthropic.com"));
    let ceilings = "{maxRequests: 5, budgets: [{name: cap, unit: USD, limit: '2.5'}]}";
    let limited = |ceilings: &str| {
        proxy(0, "{from: All}")
            .replace("{allowedNamespaces", &format!("{{ceilings: {ceilings}, allowedNamespaces"))
    };
    scene.apply(&namespace, &limited(ceilings));
    scene.apply(&namespace, &token("agent", &namespace, ", limits: {maxRequests: 6}"));
    scene.apply(&namespace, &token("modest", &namespace, ""));
    let agent = (namespace.as_str(), "routertokens", "agent");
    scene.until(agent, "Ready", ("False", "AboveCeiling"));
    scene.until_said(&namespace, "agent", "AboveCeiling");
    let conditions = scene.object(&namespace, "routertokens", "agent")["status"]["conditions"].to_string();
    let said = "spec.limits.maxRequests: is \\\"6\\\": the proxy's tokens.ceilings.maxRequests allows at most \\\"5\\\"";
    assert!(conditions.contains(said), "{conditions}");
    assert!(scene.secret(&namespace, "agent").is_none());
    let modest = || Ok(scene.record(&namespace, &namespace, "modest"));
    let limits = eventually("the modest token to be served", LIMIT, modest).unwrap()["limits"].clone();
    assert_eq!((&limits["maxRequests"], &limits["budgets"][0]["limit"]), (&json!(5), &json!("2.5")));
    scene.apply(&namespace, &limited("{maxRequests: 6}"));
    scene.token_where(&namespace, "agent", |_| true);
}

#[test]
fn limits_that_only_the_operator_can_judge_are_refused_with_a_condition() {
    let scene = shared();
    let namespace = scene.namespace("judged");
    scene.gateway(&namespace);
    let zone = "budgets: [{name: day, unit: USD, limit: '1', window: {calendar: {every: Day, timeZone: Mars/Base}}}]";
    scene.apply(&namespace, &token("agent", &namespace, &format!(", limits: {{{zone}}}")));
    scene.until((&namespace, "routertokens", "agent"), "Ready", ("False", "InvalidField"));
    let conditions = scene.object(&namespace, "routertokens", "agent")["status"]["conditions"].to_string();
    assert!(conditions.contains("spec.limits.budgets[0].window.calendar.timeZone: is"), "{conditions}");
    let gateway = (namespace.as_str(), "routerproxies", "gateway");
    scene.until(gateway, "Accepted", ("True", "Accepted"));
    let defaults = "{defaults: {maxRequests: 6}, ceilings: {maxRequests: 5}, allowedNamespaces";
    scene.apply(&namespace, &proxy(0, "{from: All}").replace("{allowedNamespaces", defaults));
    scene.until(gateway, "Accepted", ("False", "InvalidField"));
    scene.apply(&namespace, &token("plain", &namespace, ""));
    scene.until((&namespace, "routertokens", "plain"), "Ready", ("False", "InvalidField"));
    let price = "  pricing: {overrides: [{model: our-model, perMillion: {input: '1'}}]}\n---";
    scene.apply(&namespace, &provider("https://api.anthropic.com").replacen("---", price, 1));
    scene.until((&namespace, "upstreamproviders", "claude"), "Accepted", ("False", "InvalidField"));
}

#[test]
fn proxy_on_redis_says_that_its_secret_is_missing_and_gives_its_pods_the_url_as_a_file() {
    let scene = shared();
    let namespace = scene.namespace("redis");
    scene.apply(&namespace, &provider("https://api.anthropic.com"));
    let ledger = "  ledger: {redis: {urlSecretRef: {name: shared, key: url}}, onUnavailable: Allow}\n";
    scene.apply(&namespace, &format!("{}{ledger}", proxy(3, "{from: Same}")));
    let gateway = (namespace.as_str(), "routerproxies", "gateway");
    scene.until(gateway, "Accepted", ("False", "SecretNotFound"));
    let secret = "{apiVersion: v1, kind: Secret, metadata: {name: shared}, stringData: {url: 'redis://:canary@redis:6379/0'}}";
    scene.apply(&namespace, secret);
    scene.until(gateway, "Accepted", ("True", "Accepted"));
    let set = format!("/apis/apps/v1/namespaces/{namespace}/statefulsets/gateway");
    let set = scene.api.client().get(&set).unwrap().unwrap();
    assert_eq!((&set["spec"]["replicas"], set["spec"].get("volumeClaimTemplates")), (&json!(3), None));
    let container = &set["spec"]["template"]["spec"]["containers"][0];
    let variables = container["env"].as_array().unwrap().iter();
    let variables: Vec<_> = variables.map(|one| (text(one, "/name"), text(one, "/value"))).collect();
    for (name, value) in [
        ("LEDGER", "redis"),
        ("LEDGER_ON_UNAVAILABLE", "allow"),
        ("REDIS_URL_FILE", "/etc/la-router/redis/url"),
    ] {
        assert!(variables.contains(&(name.to_owned(), value.to_owned())), "{name}: {variables:?}");
    }
    let snapshot = scene.secret(&namespace, "gateway-snapshot").unwrap_or_default();
    assert!(!set.to_string().contains("canary") && !snapshot.to_string().contains("canary"));
}

/// A pod's admin port that reports what it is told to: the use of budgets, without a proxy that counts it.
struct Pod {
    report: Arc<(Mutex<Value>, Condvar)>,
}

impl Pod {
    fn listen(address: &str) -> Self {
        let listener = TcpListener::bind((address, 8081)).unwrap();
        let report = Arc::new((Mutex::new(json!({ "revision": 1, "ready": true })), Condvar::new()));
        let told = Arc::clone(&report);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let told = Arc::clone(&told);
                std::thread::spawn(move || answer(stream, &told));
            }
        });
        Self { report }
    }

    /// Reports this use from now on.
    fn tell(&self, usage: Value) {
        self.tell_all(json!({ "usage": usage }));
    }

    /// Reports these members from now on.
    fn tell_all(&self, members: Value) {
        let mut report = self.report.0.lock().unwrap();
        for (name, value) in members.as_object().unwrap() {
            report[name] = value.clone();
        }
        report["revision"] = (report["revision"].as_u64().unwrap() + 1).into();
        self.report.1.notify_all();
    }
}

/// Answers one long poll, for at most a second.
fn answer(mut stream: TcpStream, (report, changed): &(Mutex<Value>, Condvar)) {
    let mut request = [0; 8192];
    let length = stream.read(&mut request).unwrap_or(0);
    let head = String::from_utf8_lossy(&request[..length]).into_owned();
    let guard = report.lock().unwrap();
    let known = |report: &mut Value| head.contains(&format!("revision={}&", report["revision"]));
    let (guard, _) = changed.wait_timeout_while(guard, Duration::from_secs(1), known).unwrap();
    let body = guard.to_string();
    drop(guard);
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
    let _ = stream.write_all((head + &body).as_bytes());
}

/// The use of a subject with one Hard budget of 10 requests.
fn used(subject: &str, budget: &str, used: u64) -> Value {
    let threshold = (used >= 8).then_some(80);
    let budget = json!({ "name": budget, "unit": "Requests", "enforcement": "Hard", "used": used, "limit": 10,
        "resetsAtMs": 4_102_444_800_000_u64, "threshold": threshold });
    let tokens = json!({ "inputTokens": 0, "cacheWriteTokens": 0, "cacheReadTokens": 0, "outputTokens": 0 });
    json!({ "subject": subject, "requests": used, "open": 0, "tokens": tokens, "nanoUsd": 1_500_000_000_u64,
        "budgets": [budget] })
}

/// A gateway whose one pod is the test's, a token and a pool that covers it.
fn reporting(scene: Scene<'_>, namespace: &str, address: &str) -> Pod {
    scene.apply(namespace, &provider("https://api.anthropic.com"));
    scene.apply(namespace, &proxy(1, "{from: Same}"));
    let limits = ", limits: {budgets: [{name: own, unit: Requests, limit: '10', window: {calendar: {every: Month}}}]}, budgetThresholds: [80]";
    scene.apply(namespace, &token("agent", namespace, limits));
    scene.apply(namespace, &budget("team", namespace, ""));
    until_record(scene, (namespace, namespace), "the pool to cover the token", |record| {
        record["pools"].as_array().is_some_and(|pools| pools.len() == 1)
    });
    let pod = format!("/api/v1/namespaces/{namespace}/pods/gateway-0");
    eventually("the pod to be made", LIMIT, || scene.api.client().get(&pod)).unwrap();
    let reporter = Pod::listen(address);
    let status = json!({ "status": { "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }] } });
    scene.api.client().merge(&format!("{pod}/status"), &status).unwrap();
    scene.until((namespace, "routerproxies", "gateway"), "Available", ("True", "Available"));
    reporter
}

#[test]
fn thresholds_and_exhaustion_are_said_once_of_tokens_and_of_pools() {
    let scene = shared();
    let namespace = scene.namespace("exhausted");
    let pod = reporting(scene, &namespace, "127.77.0.9");
    let (own, pool) = (format!("gateway/{namespace}/agent"), format!("pool:gateway/{namespace}/team"));
    let (agent, team) =
        ((namespace.as_str(), "routertokens", "agent"), (namespace.as_str(), "routerbudgets", "team"));

    pod.tell(json!([used(&own, "own", 8), used(&pool, "pool", 3)]));
    scene.until(agent, "BudgetExhausted", ("False", "WithinBudget"));
    scene.until(team, "BudgetExhausted", ("False", "WithinBudget"));
    scene.until_said(&namespace, "agent", "BudgetThreshold");
    let usage = scene.object(&namespace, "routertokens", "agent")["status"]["usage"].clone();
    assert_eq!((text(&usage, "/costUSD"), usage["requests"].as_u64()), ("1.5".to_owned(), Some(8)));
    let window = &usage["windows"][0];
    let expected = json!({ "name": "own", "unit": "Requests", "used": "8", "limit": "10",
        "resetsAt": "2100-01-01T00:00:00Z", "threshold": 80, "thresholdUntil": "2100-01-01T00:00:00Z" });
    assert_eq!(*window, expected);

    pod.tell(json!([used(&own, "own", 10), used(&pool, "pool", 4)]));
    scene.until(agent, "BudgetExhausted", ("True", "BudgetExhausted"));
    scene.until_said(&namespace, "agent", "BudgetExhausted");
    scene.until(team, "BudgetExhausted", ("False", "WithinBudget"));

    pod.tell(json!([used(&own, "own", 9), used(&pool, "pool", 10)]));
    scene.until(team, "BudgetExhausted", ("True", "BudgetExhausted"));
    scene.until_said(&namespace, "team", "BudgetExhausted");
    let named = || {
        let conditions =
            scene.object(&namespace, "routertokens", "agent")["status"]["conditions"].to_string();
        Ok(conditions
            .contains(&format!("nothing is left of pool of RouterBudget {namespace}/team"))
            .then_some(()))
    };
    eventually("the token to name the pool that is exhausted", LIMIT, named).unwrap();

    // The same again, and less within the window: nothing new to tell.
    pod.tell(json!([used(&own, "own", 10), used(&pool, "pool", 9)]));
    scene.until(team, "BudgetExhausted", ("False", "WithinBudget"));
    scene.until(agent, "BudgetExhausted", ("True", "BudgetExhausted"));
    for (name, reason) in
        [("agent", "BudgetThreshold"), ("agent", "BudgetExhausted"), ("team", "BudgetExhausted")]
    {
        assert_eq!(scene.times_said(&namespace, name, reason), 1, "{reason} of {name}");
    }
    assert_eq!(scene.times_said(&namespace, "team", "BudgetThreshold"), 0, "100% says it");
}

#[test]
fn lost_ledger_serves_nobody_until_its_owner_accepts_another_and_that_starts_from_the_reported_use() {
    let scene = shared();
    let namespace = scene.namespace("lost");
    let pod = reporting(scene, &namespace, "127.77.0.10");
    let (own, pool) = (format!("gateway/{namespace}/agent"), format!("pool:gateway/{namespace}/team"));
    let gateway = (namespace.as_str(), "routerproxies", "gateway");
    let counts = |id: &str| {
        let is_it = || {
            let status = scene.object(&namespace, "routerproxies", "gateway")["status"]["ledger"]["id"] == id;
            let written = scene.snapshot(&namespace).unwrap_or_default()["ledger"]["id"] == id;
            Ok((status && written).then_some(()))
        };
        eventually(&format!("ledger {id} to count"), LIMIT, is_it).unwrap();
    };
    pod.tell_all(json!({ "ledgerId": "first", "usage": [used(&own, "own", 8), used(&pool, "pool", 3)] }));
    counts("first");
    let reported = || {
        let [agent, team] = [("routertokens", "agent"), ("routerbudgets", "team")]
            .map(|(kind, name)| scene.object(&namespace, kind, name)["status"].to_string());
        Ok((agent.contains("\"used\":\"8\"") && team.contains("\"used\":\"3\"")).then_some(()))
    };
    eventually("the use to be in the statuses", LIMIT, reported).unwrap();

    pod.tell_all(json!({ "ledgerId": "second", "ready": false, "notReady": ["it is another"], "usage": [] }));
    scene.until(gateway, "LedgerReady", ("False", "LedgerLost"));
    scene.until_said(&namespace, "gateway", "LedgerLost");
    counts("first");
    assert_eq!(reported().unwrap(), Some(()), "what was reported stays");

    let accept =
        json!({ "metadata": { "annotations": { "router.link-assistant.dev/accept-ledger": "second" } } });
    scene.api.client().merge(&Scene::path(&namespace, "routerproxies", "gateway"), &accept).unwrap();
    counts("second");
    scene.until(gateway, "LedgerReady", ("True", "LedgerReady"));
    assert_eq!(scene.times_said(&namespace, "gateway", "LedgerLost"), 1);
    let snapshot = scene.snapshot(&namespace).unwrap();
    let floors = snapshot["ledger"]["floors"].as_array().unwrap();
    let told = |owner: &Value| -> Vec<(String, u64)> {
        let meters = owner["meters"].as_array().unwrap().iter();
        meters.map(|meter| (text(meter, "/window"), meter["settled"].as_u64().unwrap())).collect()
    };
    let floor = |subject: &str| floors.iter().find(|owner| owner["subject"] == subject).map(told).unwrap();
    assert_eq!(floor(&own), [("Month@UTC".to_owned(), 8), ("lifetime".to_owned(), 8)]);
    assert_eq!(floor(&pool), [("lifetime".to_owned(), 3)]);

    let (epoch, generation) = (&snapshot["epoch"], &snapshot["generation"]);
    pod.tell_all(json!({ "ready": true, "notReady": [], "epoch": epoch, "generation": generation }));
    let taken =
        || Ok(scene.snapshot(&namespace).unwrap_or_default()["ledger"].get("floors").is_none().then_some(()));
    eventually("the floors to leave the snapshot", LIMIT, taken).unwrap();
}
