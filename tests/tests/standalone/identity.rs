//! Workload identities whose token is in a file: exchanged by the router itself, with whatever the file holds then.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use la_tests::caller::{Call, Reply};
use la_tests::cluster::{Client, eventually};
use la_tests::fakes::FakeUpstream;
use la_tests::fakes::oauth::{self, RULE, Twist, Vault};
use la_tests::router::{Router, Setup};
use serde_json::Value;
use tempfile::TempDir;

const BODY: &str =
    r#"{"model":"claude-haiku-4-5","max_tokens":16,"messages":[{"role":"user","content":"hi"}]}"#;

const HOUR: Duration = Duration::from_secs(3_600);

const PATIENCE: Duration = Duration::from_secs(30);

const SUBJECT: &str = "system:serviceaccount:agents:claude";
const AUDIENCE: &str = "https://api.anthropic.com";

/// A vendor that trusts an identity, and the folder that its tokens come to.
struct Scene {
    vault: Arc<Vault>,
    vendor: FakeUpstream,
    folder: TempDir,
}

impl Scene {
    async fn new() -> Self {
        let vault = Vault::new(HOUR);
        vault.trust(SUBJECT, AUDIENCE);
        let vendor = FakeUpstream::start(oauth::script(Arc::clone(&vault))).await.unwrap();
        Self { vault, vendor, folder: TempDir::with_prefix("la-router-identity-").unwrap() }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("token")
    }

    /// As a kubelet does it: another file in the place of the one before.
    fn put(&self, id: &str) {
        let draft = self.folder.path().join("draft");
        fs::write(&draft, oauth::identity_token(SUBJECT, AUDIENCE, id) + "\n").unwrap();
        fs::rename(draft, self.file()).unwrap();
    }

    fn exchange_url(&self) -> String {
        format!("{}{}", self.vendor.base_url(), oauth::PATH)
    }

    /// Told by the names of the vendor's SDKs.
    fn flags(&self) -> Setup {
        let ids = RULE.map(|(name, id)| (format!("ANTHROPIC_{}", name.to_uppercase()), id));
        let setup = Setup::flags(&self.vendor.base_url())
            .without_env("ANTHROPIC_API_KEY")
            .env("ANTHROPIC_TOKEN_EXCHANGE_URL", &self.exchange_url())
            .env("ANTHROPIC_IDENTITY_TOKEN_FILE", &self.file().display().to_string());
        ids.iter().fold(setup, |setup, (name, id)| setup.env(name, id))
    }

    fn manifests(&self) -> Setup {
        let [rule, organization, service_account, workspace] = RULE.map(|(_, id)| id);
        let manifests = format!(
            "apiVersion: router.link-assistant.dev/v1alpha1
kind: RouterProxy
metadata: {{name: gateway, namespace: team}}
spec: {{routes: [{{candidates: [{{provider: vendor}}]}}]}}
---
apiVersion: router.link-assistant.dev/v1alpha1
kind: UpstreamProvider
metadata: {{name: vendor, namespace: team}}
spec:
  backend:
    anthropic:
      baseURL: {}
      accounts:
      - name: workload
        credential:
          workloadIdentity:
            federationRuleId: {rule}
            organizationId: {organization}
            serviceAccountId: {service_account}
            workspaceId: {workspace}
            tokenFrom: {{file: {{path: {}}}}}
",
            self.vendor.base_url(),
            self.file().display()
        );
        Setup::manifests(&[("all.yaml", &manifests)])
            .agent()
            .arg("--tokens-dir", "{dir}/tokens")
            .env("ANTHROPIC_TOKEN_EXCHANGE_URL", &self.exchange_url())
    }
}

fn account(router: &Router) -> Value {
    router.ask_admin("GET", "/v1/accounts", "").unwrap().1["data"][0].clone()
}

fn until(router: &Router, what: &str, good: impl Fn(&Value) -> bool) -> Value {
    eventually(what, PATIENCE, || Ok(Some(account(router)).filter(|account| good(account))))
        .unwrap_or_else(|error| panic!("{error}: {}\n{}", account(router), router.log()))
}

async fn message(router: &Router, token: &str) -> Reply {
    Call::message(token, BODY).send(router.address()).await.unwrap()
}

/// Neither an access token nor an identity token is in what people see.
fn tells_no_credential(router: &Router) {
    let status = router.ask_admin("GET", "/status", "").unwrap().1.to_string();
    let metrics = Client::new(router.admin()).send("GET", "/metrics", "", "").unwrap().body;
    assert!(metrics.contains("la_router_refreshes_total"), "{metrics}");
    for told in [router.log(), account(router).to_string(), status, metrics] {
        for credential in ["canary", "sk-ant-", "eyJ"] {
            assert!(!told.contains(credential), "{credential} is in {told}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_access_token_is_replaced_with_the_token_that_the_file_holds_by_then() {
    let scene = Scene::new().await;
    scene.put("1");
    let router = scene.flags().start().unwrap();
    let token = router.issue(&[]).unwrap();
    assert_eq!(message(&router, &token).await.status, 200, "{}", router.log());
    let told = account(&router);
    assert_eq!((&told["state"], &told["name"]), (&"Ready".into(), &"workload-identity".into()), "{told}");
    assert!(told["credentialExpiresAt"].is_number() && told["lastRefreshTime"].is_number(), "{told}");

    scene.put("2");
    scene.vault.kill_access_tokens();
    let replies = futures::future::join_all((0..20).map(|_| message(&router, &token))).await;
    let statuses: Vec<_> = replies.iter().map(|reply| reply.status).collect();
    assert_eq!(statuses, [200; 20], "{}", router.log());
    assert_eq!((scene.vault.exchanges(), scene.vault.violations()), (2, Vec::new()), "{}", router.log());
    tells_no_credential(&router);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn identity_token_that_was_exchanged_is_not_posted_again_and_the_next_is_waited_for() {
    let scene = Scene::new().await;
    scene.put("1");
    let router = scene.flags().start().unwrap();
    let token = router.issue(&[]).unwrap();
    scene.vault.kill_access_tokens();
    let waiting = tokio::spawn({
        let call = Call::message(&token, BODY);
        let address = router.address();
        async move { call.send(address).await.unwrap().status }
    });
    until(&router, "the next token is waited for", |account| {
        account["message"].as_str().is_some_and(|why| why.contains("takes an identity token once"))
    });
    assert_eq!(scene.vault.calls().len(), 2);
    scene.put("2");
    until(&router, "the next token", |account| account["state"] == "Ready");
    assert_eq!(scene.vault.calls().len(), 3);
    assert_ne!(waiting.await.unwrap(), 401);
    assert_eq!(message(&router, &token).await.status, 200, "{}", router.log());
    assert_eq!((scene.vault.exchanges(), scene.vault.violations()), (2, Vec::new()));
    tells_no_credential(&router);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn identity_in_manifests_says_what_stands_in_its_way() {
    let scene = Scene::new().await;
    let router = scene.manifests().start().unwrap();
    let missing = format!("identity token {} cannot be read", scene.file().display());
    until(&router, "what is missing", |account| {
        account["state"] == "Missing"
            && account["message"].as_str().is_some_and(|why| why.starts_with(&missing))
    });
    assert_eq!(scene.vault.calls().len(), 0);

    scene.vault.twist(&[Twist::Denied]);
    scene.put("1");
    let denied = until(&router, "the refusal", |account| {
        account["message"].as_str().is_some_and(|why| why.contains("does not accept this identity"))
    });
    assert_eq!(denied["state"], "Missing", "{denied}");
    assert_eq!(scene.vault.calls().len(), 1, "an identity that is not accepted was posted again");

    // A person has corrected the rule, and need not wait.
    let (status, _) = router.ask_admin("POST", "/v1/accounts/vendor/workload/refresh", "").unwrap();
    assert_eq!(status, 200, "{}", router.log());
    until(&router, "the exchange", |account| account["state"] == "Ready");
    let token = eventually("the token", PATIENCE, || Ok(router.team_token("agent").ok())).unwrap();
    assert_eq!(message(&router, &token).await.status, 200, "{}", router.log());
    assert_eq!((scene.vault.exchanges(), scene.vault.violations()), (1, Vec::new()));
    tells_no_credential(&router);
}
