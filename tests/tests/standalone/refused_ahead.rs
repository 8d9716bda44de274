//! Tokens that an operator has refused before the files say so.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use la_core::refusals::Refusals;
use la_core::report::{ADMIN_TYPE, AdminClaims};
use la_core::snapshot::{SNAPSHOT_FILE, Snapshot};
use la_core::token::SigningKey;
use la_tests::caller::Call;
use la_tests::cluster::{Client, eventually};
use la_tests::fakes::FakeUpstream;
use la_tests::fakes::vendor::{self, Known};
use la_tests::gateway::{self, Token};
use la_tests::router::{Router, Setup};
use serde_json::{Value, json};

use super::endings::{begin, rest};

const BODY: &str =
    r#"{"model":"claude-haiku-4-5","max_tokens":16,"messages":[{"role":"user","content":"hi"}]}"#;

/// The UID of the pod that the router takes itself for.
const POD: &str = "pod-uid";

/// A router as a pod runs it, with what an operator knows of it.
struct Scene {
    router: Router,
    snapshot: Snapshot,
    operator: SigningKey,
    _upstream: std::sync::Arc<FakeUpstream>,
}

impl Scene {
    /// With a token for each name, and their texts.
    async fn start<const N: usize>(names: [&str; N]) -> (Self, [String; N]) {
        let upstream = FakeUpstream::start(vendor::script(Known::default())).await.unwrap();
        let tokens = names.map(|name| Token { name: name.to_owned(), ..Token::default() });
        let (mut snapshot, texts) = gateway::snapshot(&upstream.base_url(), &tokens).unwrap();
        let operator = SigningKey::from_seed([9; 32]);
        snapshot.admin_keys = vec![operator.verifying().unwrap()];
        let files = gateway::snapshot_files(&snapshot, "sk-ant-api03-key").unwrap();
        let router = Setup::snapshot(&files).env("POD_UID", POD).start().unwrap();
        let texts = names.map(|name| texts[name].expose().to_owned());
        (Self { router, snapshot, operator, _upstream: upstream.into() }, texts)
    }

    /// An operator's credential for the pod `uid`.
    fn credential(&self, uid: &str) -> String {
        let now = now();
        let claims = AdminClaims { aud: uid.to_owned(), iat: now, exp: now + 60 };
        format!("Bearer {}", self.operator.sign(ADMIN_TYPE, &claims).unwrap().expose())
    }

    fn tell_as(&self, authorization: Option<&str>, body: &str) -> (u16, Value) {
        let headers: Vec<_> = authorization.iter().map(|value| ("authorization", *value)).collect();
        let answer =
            Client::new(self.router.admin()).send_with("POST", "/v1/refusals", &headers, body).unwrap();
        (answer.status, serde_json::from_str(&answer.body).unwrap_or_default())
    }

    fn tell(&self, message: &Value) -> (u16, Value) {
        self.tell_as(Some(&self.credential(POD)), &message.to_string())
    }

    async fn ask(&self, token: &str) -> u16 {
        Call::message(token, BODY).send(self.router.address()).await.unwrap().status
    }

    fn generation(&self) -> Value {
        self.router.ask_admin("GET", "/status", "").unwrap().1["generation"].clone()
    }

    /// Puts the snapshot where the router looks, as of a generation.
    fn publish(&mut self, generation: u64) {
        self.snapshot.generation = generation;
        let folder = self.router.directory().join("snapshot");
        std::fs::write(folder.join("new"), serde_json::to_string(&self.snapshot).unwrap()).unwrap();
        std::fs::rename(folder.join("new"), folder.join(SNAPSHOT_FILE)).unwrap();
        let served = || Ok((self.generation() == generation).then_some(()));
        eventually("the snapshot to be served", Duration::from_secs(10), served).unwrap();
    }
}

#[expect(clippy::disallowed_methods, reason = "the edge where the test reads the clock")]
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since.as_secs()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn told_tokens_are_refused_at_once_and_until_their_snapshot_whatever_comes_before_it() {
    let (mut scene, texts) = Scene::start(["gone", "stolen", "paused", "other"]).await;
    let [gone, stolen, paused, other] = &texts;
    let (mut stream, _) = begin(&scene.router, gone, "script-stall").await;
    let message = json!({
        "epoch": 1, "generation": 4, "removed": ["id-gone", "id-nobody-knows"], "revoked": ["id-stolen"],
        "suspended": ["id-paused"],
    });
    assert_eq!(scene.tell(&message), (200, json!({ "refused": 4 })));
    let refused = [(gone, 401), (stolen, 403), (paused, 403), (other, 200)];
    for (token, status) in refused {
        assert_eq!(scene.ask(token).await, status);
    }
    let end = tokio::time::timeout(Duration::from_secs(2), rest(&mut stream)).await.unwrap();
    assert!(end.contains("event: error") && end.contains("permission_error"), "{end}");
    assert_eq!(scene.tell(&message), (200, json!({ "refused": 0 })), "told twice is told once");
    assert_eq!(scene.generation(), 1, "what is reported is what the files say");

    scene.publish(3);
    for (token, status) in refused {
        assert_eq!(scene.ask(token).await, status, "an older snapshot has changed it");
    }
    scene.publish(4);
    for token in &texts {
        assert_eq!(scene.ask(token).await, 200, "the snapshot that was named has the token");
    }
    assert_eq!(scene.tell(&message), (200, json!({ "refused": 0 })), "the files are as late as this");
    assert_eq!(scene.ask(gone).await, 200);
}

#[tokio::test]
async fn only_an_operator_that_names_the_pod_is_heard_and_only_what_can_be_understood() {
    let (scene, [token]) = Scene::start(["agent"]).await;
    let good = json!({ "epoch": 1, "generation": 2, "revoked": ["id-agent"] }).to_string();
    let (mine, others) = (scene.credential(POD), scene.credential("other-pod"));
    for authorization in [None, Some("Bearer x"), Some(others.as_str())] {
        assert_eq!(scene.tell_as(authorization, &good).0, 401, "{authorization:?}");
    }
    let long = format!(r#"{{"epoch":1,"generation":2,"revoked":["{}"]}}"#, "a".repeat(65));
    for bad in
        ["", "[]", "{", r#"{"epoch":1}"#, r#"{"epoch":1,"generation":2,"allowed":["id-agent"]}"#, &long]
    {
        let (status, error) = scene.tell_as(Some(&mine), bad);
        assert_eq!((status, &error["error"]["type"]), (400, &json!("invalid_request_error")), "{bad}");
    }
    let huge = " ".repeat(Refusals::MOST_BYTES + 1);
    assert_eq!(scene.tell_as(Some(&mine), &huge).0, 413);
    assert_eq!(scene.ask(&token).await, 200, "none of it was heard");
    assert_eq!(scene.tell_as(Some(&mine), &good).0, 200);
    assert_eq!(scene.ask(&token).await, 403);
}

#[tokio::test]
async fn router_that_follows_no_operator_has_no_such_path() {
    let upstream = FakeUpstream::start(vendor::script(Known::default())).await.unwrap();
    let router = Setup::flags(&upstream.base_url()).env("POD_UID", POD).start().unwrap();
    let message = json!({ "epoch": 1, "generation": 2, "revoked": ["id"] }).to_string();
    assert_eq!(router.ask_admin("POST", "/v1/refusals", &message).unwrap().0, 404);
}
