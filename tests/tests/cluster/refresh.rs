//! Logins that the operator renews in their Secrets: once per rotation, never lost, and no client sees it. These
//! tests have API servers of their own, because their operators renew at a scripted endpoint.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use la_tests::cluster::{ApiServer, Client, Kubelet, Operator, eventually};
use la_tests::fakes::FakeUpstream;
use la_tests::fakes::oauth::{self, Login, Twist, Vault};
use serde_json::{Value, json};

use super::scene::{LIMIT, Scene, data, secret_path, text, token, value};

const KEY: &str = ".credentials.json";

/// Longer than any test needs it.
const LONG: Duration = Duration::from_secs(8 * 3_600);

/// So long before its end a login is surely due.
const DUE: Duration = Duration::from_secs(60);

/// A vendor, and a cluster whose operators get access tokens there.
pub(crate) struct Renewing {
    pub(crate) api: ApiServer,
    pub(crate) namespace: String,
    pub(crate) vault: Arc<Vault>,
    upstream: FakeUpstream,
    _runtime: tokio::runtime::Runtime,
}

impl Renewing {
    /// One without any account.
    pub(crate) fn empty(prefix: &str) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let vault = Vault::new(LONG);
        let upstream = runtime.block_on(FakeUpstream::start(oauth::script(Arc::clone(&vault)))).unwrap();
        let api = ApiServer::start().unwrap();
        let namespace = Scene::new(&api).unwrap().namespace(prefix);
        Self { api, namespace, vault, upstream, _runtime: runtime }
    }

    /// One in which the Secret `login` holds a login that has so long to live.
    fn start(prefix: &str, lifetime: Duration) -> Self {
        let renewing = Self::empty(prefix);
        renewing.log_in(lifetime);
        renewing.account_with("{oauth: {secretRef: {name: login}}}");
        renewing
    }

    /// The provider `claude` has one account, `main`, with this credential.
    pub(crate) fn account_with(&self, credential: &str) {
        let base_url = self.upstream.base_url();
        self.scene().apply(
            &self.namespace,
            &format!(
                "apiVersion: router.link-assistant.dev/v1alpha1
kind: UpstreamProvider
metadata: {{name: claude}}
spec: {{backend: {{anthropic: {{baseURL: {base_url}, accounts: [{{name: main, credential: {credential}}}]}}}}}}
"
            ),
        );
    }

    pub(crate) fn scene(&self) -> Scene<'_> {
        Scene { api: &self.api }
    }

    pub(crate) fn operator(&self, identity: &str, more: &[(&str, &str)]) -> Operator {
        let url = format!("{}{}", self.upstream.base_url(), oauth::PATH);
        let places = [("CLAUDE_OAUTH_REFRESH_URL", &*url), ("ANTHROPIC_TOKEN_EXCHANGE_URL", &*url)];
        self.scene().operator(identity, &[&places[..], more].concat()).unwrap()
    }

    /// Makes gateways and a token for each; gives the texts once they are served.
    pub(crate) fn gateways<const N: usize>(&self, names: [&str; N]) -> [String; N] {
        let (scene, namespace) = (self.scene(), self.namespace.as_str());
        for name in names {
            scene.apply(namespace, &(gateway(name) + &token_of(name)));
        }
        names.map(|name| {
            let minted = scene.token_where(namespace, name, |_| true);
            scene.until((namespace, "routertokens", name), "Ready", ("True", "Issued"));
            minted
        })
    }

    /// A person logs in and puts the login where the provider looks.
    fn log_in(&self, lifetime: Duration) -> Login {
        let login = self.vault.log_in(lifetime);
        let content = serde_json::to_string(&login.file()).unwrap();
        self.scene().apply(
            &self.namespace,
            &format!("{{apiVersion: v1, kind: Secret, metadata: {{name: login}}, stringData: {{{KEY}: {content}}}}}"),
        );
        login
    }

    fn stored(&self) -> String {
        self.scene().secret(&self.namespace, "login").map(|secret| value(&secret, KEY)).unwrap_or_default()
    }

    /// Takes the login away from where the provider looks.
    fn delete_secret(&self) {
        self.api.client().delete(&secret_path(&self.namespace, "login")).unwrap();
    }

    /// Waits until the endpoint was called so often.
    fn asked(&self, times: usize) {
        let asked = || Ok((self.vault.calls().len() >= times).then_some(()));
        eventually("a call of the endpoint", LIMIT, asked).unwrap();
    }

    fn rotated(&self, times: usize) {
        let rotated = || Ok((self.vault.rotations() >= times).then_some(()));
        eventually("a rotation", LIMIT, rotated).unwrap();
    }

    /// The Secret holds a login whose access token the vendor takes.
    fn until_stored(&self, operator: &Operator) {
        let is_good = || {
            let Ok(file) = serde_json::from_str::<Value>(&self.stored()) else { return Ok(None) };
            let token = text(&file, "/claudeAiOauth/accessToken");
            Ok(self.vault.accepts(&token).then_some(()))
        };
        eventually("a good login in the Secret", LIMIT, is_good)
            .unwrap_or_else(|error| panic!("{error}: {}", operator.process.log()));
    }

    pub(crate) fn account(&self) -> Value {
        let provider = self.scene().object(&self.namespace, "upstreamproviders", "claude");
        provider["status"]["accounts"][0].clone()
    }

    pub(crate) fn until_account(&self, what: &str, good: impl Fn(&Value) -> bool) -> Value {
        eventually(what, LIMIT, || Ok(Some(self.account()).filter(|account| good(account))))
            .unwrap_or_else(|error| panic!("{error}: {}", self.account()))
    }
}

fn gateway(name: &str) -> String {
    format!(
        "apiVersion: router.link-assistant.dev/v1alpha1
kind: RouterProxy
metadata: {{name: {name}}}
spec: {{tokens: {{allowedNamespaces: {{from: Same}}}}, routes: [{{candidates: [{{provider: claude}}]}}]}}
---
"
    )
}

fn token_of(gateway: &str) -> String {
    token(gateway, "x", "").replace("name: gateway, namespace: x", &format!("name: {gateway}"))
}

/// The status that a request to the only pod of a gateway is answered with.
pub(crate) fn ask(kubelet: &Kubelet, gateway: &str, token: &str) -> String {
    let address = kubelet.address(&format!("{gateway}-0")).unwrap();
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let body = r#"{"model":"claude-haiku-4-5","max_tokens":8,"messages":[{"role":"user","content":"hi"}]}"#;
    let answer = Client::new((address, 8080).into()).send_with("POST", "/v1/messages", &headers, body);
    answer.map_or_else(|error| format!("{error:#}"), |answer| answer.status.to_string())
}

/// So many requests of 24 callers, and something that happens in their midst; gives every status that is not 200.
pub(crate) fn many_across(
    requests: usize,
    ask: impl Fn(usize) -> String + Sync,
    happens: impl FnOnce(),
) -> Vec<String> {
    let (asked, refused) = (AtomicUsize::new(0), std::sync::Mutex::new(Vec::new()));
    thread::scope(|threads| {
        for caller in 0..24 {
            let (ask, asked, refused) = (&ask, &asked, &refused);
            threads.spawn(move || {
                while asked.fetch_add(1, Ordering::Relaxed) < requests {
                    let status = ask(caller);
                    if status != "200" {
                        refused.lock().unwrap().push(status);
                    }
                }
            });
        }
        let midst = || Ok((asked.load(Ordering::Relaxed) > requests / 3).then_some(()));
        eventually("the first requests", LIMIT, midst).unwrap();
        happens();
    });
    refused.into_inner().unwrap()
}

#[test]
fn thousand_requests_on_three_proxies_across_a_rotation_cost_one_call_and_see_no_401() {
    const GATEWAYS: [&str; 3] = ["one", "two", "three"];
    let renewing = Renewing::start("across", LONG);
    let kubelet = Kubelet::start(&renewing.api, &renewing.namespace).unwrap();
    let operators = [renewing.operator("a", &[]), renewing.operator("b", &[])];
    let texts = renewing.gateways(GATEWAYS);
    let refused = many_across(
        1_000,
        |caller| ask(&kubelet, GATEWAYS[caller % 3], &texts[caller % 3]),
        || {
            renewing.vault.kill_access_tokens();
        },
    );
    let logs = || operators.iter().map(|operator| operator.process.log()).collect::<Vec<_>>().join("\n");
    assert!(refused.is_empty(), "{} requests were not answered 200: {refused:?}\n{}", refused.len(), logs());
    assert_eq!((renewing.vault.calls().len(), renewing.vault.rotations()), (1, 1), "{}", logs());
    assert_eq!(renewing.vault.violations(), Vec::<String>::new());
    let account = renewing.until_account("the renewal in the status", |a| !a["lastRefreshTime"].is_null());
    assert_eq!(account["state"], "Ready");
    assert!(!logs().contains("canary"), "a log holds a credential");
}

#[test]
fn due_login_is_renewed_in_place_and_one_renewed_elsewhere_is_adopted() {
    let renewing = Renewing::start("due", DUE);
    let operator = renewing.operator("only", &[]);
    renewing.rotated(1);
    renewing.until_stored(&operator);
    let stored = renewing.stored();
    assert!(stored.contains("\"zeta\": {\"b\": 1.50, \"a\": [null]}"), "other keys are kept as they were");
    // Somebody else renews and stores: the operator takes it over and calls nobody.
    let file: Value = serde_json::from_str(&stored).unwrap();
    let login = Login {
        access_token: text(&file, "/claudeAiOauth/accessToken"),
        refresh_token: text(&file, "/claudeAiOauth/refreshToken"),
        expires_at: 0,
    };
    let elsewhere = renewing.vault.rotate_elsewhere(&login).unwrap();
    let client = renewing.scene().api.client();
    client.merge(&secret_path(&renewing.namespace, "login"), &data(KEY, &elsewhere.file())).unwrap();
    renewing.until_account("the other login", |account| account["state"] == "Ready");
    assert_eq!(renewing.vault.calls().len(), 1);
}

#[test]
fn endpoint_in_trouble_is_waited_out() {
    let renewing = Renewing::start("trouble", DUE);
    renewing.vault.twist(&[Twist::RateLimited(Some(1)), Twist::Status(500)]);
    let operator = renewing.operator("only", &[]);
    renewing.rotated(1);
    renewing.until_stored(&operator);
    assert_eq!(renewing.scene().events(&renewing.namespace, "claude", "LoginRequired"), 0);
}

#[test]
fn operator_killed_before_or_after_a_renewal_loses_no_login() {
    let renewing = Renewing::start("killed", DUE);
    for (nth, point) in ["before-login-read", "before-login-post", "after-login-stored"].iter().enumerate() {
        let login = renewing.log_in(DUE);
        let mut dying = renewing.operator("dying", &[("LA_FAULT", point)]);
        let ended =
            dying.process.wait(LIMIT).unwrap_or_else(|e| panic!("{point}: {e}: {}", dying.process.log()));
        assert!(!ended.success(), "{point}: the operator ended well");
        let mut operator = renewing.operator("next", &[]);
        let leads = || Ok(operator.process.log().contains("operator next leads").then_some(()));
        eventually("the next operator to lead", LIMIT, leads).unwrap();
        renewing.rotated(nth + 1);
        renewing.until_stored(&operator);
        assert!(!renewing.vault.accepts(&login.access_token), "{point}: the login was not renewed");
        assert_eq!(renewing.vault.rotations(), nth + 1, "{point}: it was renewed twice");
        operator.process.terminate().unwrap();
        assert!(operator.process.wait(LIMIT).unwrap().success(), "{}", operator.process.log());
    }
    assert_eq!(renewing.scene().events(&renewing.namespace, "claude", "LoginRequired"), 0);
}

#[test]
fn login_lost_between_answer_and_store_asks_for_a_person_once_and_the_next_login_heals_it() {
    let renewing = Renewing::start("lost", DUE);
    let mut dying = renewing.operator("dying", &[("LA_FAULT", "after-login-answered")]);
    dying.process.wait(LIMIT).unwrap_or_else(|e| panic!("{e}: {}", dying.process.log()));
    assert_eq!(renewing.vault.rotations(), 1, "the endpoint has answered");
    let operator = renewing.operator("next", &[]);
    renewing.scene().until_said(&renewing.namespace, "claude", "LoginRequired");
    let told = renewing.until_account("what to do", |a| text(a, "/message").contains("log in again"));
    assert!(matches!(text(&told, "/state").as_str(), "Ready" | "LoginRequired"), "{told}");
    let calls = renewing.vault.calls().len();
    thread::sleep(Duration::from_secs(5));
    assert_eq!(renewing.vault.calls().len(), calls, "a dead login was posted again");
    assert_eq!(renewing.scene().times_said(&renewing.namespace, "claude", "LoginRequired"), 1);
    renewing.log_in(LONG);
    renewing.until_stored(&operator);
    renewing.until_account("the new login", |account| {
        account["state"] == "Ready" && text(account, "/message").is_empty()
    });
    assert_eq!(renewing.vault.calls().len(), calls);
}

#[test]
fn login_whose_secret_is_deleted_while_it_is_renewed_is_kept_for_the_provider_that_names_it() {
    let renewing = Renewing::start("taken", DUE);
    let (client, secret) = (renewing.api.client(), secret_path(&renewing.namespace, "login"));
    for (nth, is_stopped) in [false, true].into_iter().enumerate() {
        renewing.log_in(DUE);
        client.merge(&secret, &json!({ "metadata": { "labels": { "team": "a" } } })).unwrap();
        renewing.vault.twist(&[Twist::Late(3_000)]);
        let mut operator = renewing.operator("only", &[]);
        renewing.asked(nth + 1);
        renewing.delete_secret();
        if !is_stopped {
            renewing.until_stored(&operator);
        }
        operator.process.terminate().unwrap();
        let ended = operator.process.wait(LIMIT);
        assert!(ended.is_ok_and(|ended| ended.success()), "{}", operator.process.log());
        renewing.until_stored(&operator);
        let stored = client.get(&secret).unwrap().unwrap();
        assert_eq!(stored["metadata"]["labels"], json!({ "team": "a" }));
        assert_eq!(renewing.vault.calls().len(), nth + 1, "it was renewed twice");
    }
}

#[test]
fn login_that_nobody_names_any_more_is_dropped_once_and_keeps_nobody_from_stopping() {
    let renewing = Renewing::start("dropped", DUE);
    renewing.vault.twist(&[Twist::Late(5_000)]);
    let mut operator = renewing.operator("only", &[]);
    renewing.asked(1);
    let provider = Scene::path(&renewing.namespace, "upstreamproviders", "claude");
    renewing.api.client().delete(&provider).unwrap();
    renewing.delete_secret();
    renewing.scene().until_said(&renewing.namespace, "login", "LoginDropped");
    operator.process.terminate().unwrap();
    let ended = operator.process.wait(LIMIT);
    let log = operator.process.log();
    assert!(ended.is_ok_and(|ended| ended.success()), "{log}");
    assert_eq!(log.matches("was dropped").count(), 1, "{log}");
    assert_eq!(renewing.scene().times_said(&renewing.namespace, "login", "LoginDropped"), 1);
    assert_eq!(renewing.stored(), "", "a Secret that nobody names was made");
}

#[test]
fn login_that_comes_while_the_api_server_is_away_is_stored_once_it_is_back() {
    let mut renewing = Renewing::start("away", DUE);
    renewing.vault.twist(&[Twist::Late(2_000)]);
    let operator = renewing.operator("only", &[]);
    renewing.asked(1);
    let unstored = || Ok(operator.process.log().contains("cannot be stored").then_some(()));
    let tried = renewing.api.without(|| eventually("a try to store it", LIMIT, unstored)).unwrap();
    tried.unwrap_or_else(|error| panic!("{error}: {}", operator.process.log()));
    renewing.until_stored(&operator);
    assert_eq!(renewing.vault.calls().len(), 1, "{}", operator.process.log());
}
