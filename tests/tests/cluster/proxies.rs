//! RouterProxies: their objects, and real `la-router` processes in a pretend kubelet's pods.

use std::cell::Cell;
use std::time::Duration;

use la_tests::cluster::{ApiServer, Client, Kubelet, eventually, measure};
use la_tests::fakes::{Answer, FakeUpstream, always};
use serde_json::{Value, json};

use super::scene::{COLLECTED, LIMIT, Scene, data, secret_path, shared, text, token};

const BODY: &str =
    r#"{"model":"claude-sonnet-4-5","max_tokens":8,"messages":[{"role":"user","content":"hi"}]}"#;

const ANSWER: &str = r#"{"id":"msg_1","type":"message","role":"assistant","model":"claude-sonnet-4-5","content":[],"stop_reason":"end_turn","usage":{"input_tokens":3,"output_tokens":2}}"#;

/// A gateway with one running pod, and the upstream behind it.
struct Running {
    scene: Scene<'static>,
    namespace: String,
    kubelet: Kubelet,
    upstream: FakeUpstream,
    /// Requests that were answered with 200.
    answered: Cell<usize>,
    _runtime: tokio::runtime::Runtime,
}

impl Running {
    fn start(prefix: &str) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let upstream = runtime.block_on(FakeUpstream::start(always(Answer::json(200, ANSWER)))).unwrap();
        let scene = shared();
        let (namespace, kubelet) = scene.served(prefix, &upstream.base_url());
        let running =
            Self { scene, namespace, kubelet, upstream, answered: Cell::default(), _runtime: runtime };
        running.until("Available", ("True", "Available"));
        running
    }

    fn until(&self, kind: &str, wanted: (&str, &str)) {
        self.scene.until((&self.namespace, "routerproxies", "gateway"), kind, wanted);
    }

    fn ask(&self, token: &str) -> u16 {
        let Some(address) = self.kubelet.address("gateway-0") else { return 0 };
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        let answer = Client::new((address, 8080).into()).send_with("POST", "/v1/messages", &headers, BODY);
        let status = answer.map_or(0, |answer| answer.status);
        self.answered.update(|answered| answered + usize::from(status == 200));
        status
    }

    fn until_answered(&self, token: &str, status: u16) {
        let answered = || Ok((self.ask(token) == status).then_some(()));
        eventually(&format!("the answer {status}"), LIMIT, answered)
            .unwrap_or_else(|error| panic!("{error}: {}", end_of(&self.kubelet.log("gateway-0"))));
    }
}

fn end_of(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    lines.get(lines.len().saturating_sub(5)..).unwrap_or_default().join("\n")
}

#[test]
fn token_is_ready_when_the_pod_serves_it_and_refused_soon_after_it_is_deleted() {
    let running = Running::start("served");
    let (scene, namespace) = (running.scene, running.namespace.as_str());
    running.until("Programmed", ("True", "Programmed"));
    running.until("LedgerReady", ("True", "LedgerReady"));
    let (minted, took) = measure(|| {
        scene.apply(namespace, &token("agent", namespace, ""));
        let minted = scene.token_where(namespace, "agent", |_| true);
        running.until_answered(&minted, 200);
        minted
    });
    println!("apply to first answer: {took:?}");
    scene.until((namespace, "routertokens", "agent"), "Programmed", ("True", "Programmed"));
    scene.until((namespace, "routertokens", "agent"), "Ready", ("True", "Issued"));
    let received = running.upstream.received();
    let headers = &received.last().unwrap().headers;
    let key = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("x-api-key"));
    assert_eq!(key.map(|(_, value)| value.as_str()), Some("sk-ant-api03-canary"));
    let proxy = scene.object(namespace, "routerproxies", "gateway");
    assert_eq!(proxy["status"]["replicas"], json!({ "desired": 1, "ready": 1, "programmed": 1 }));
    assert_eq!(text(&proxy, "/status/address"), format!("http://gateway.{namespace}.svc:8080"));

    let (_, took) = measure(|| {
        scene.api.client().delete(&Scene::path(namespace, "routertokens", "agent")).unwrap();
        running.until_answered(&minted, 401);
    });
    println!("delete to refusal: {took:?}");
}

#[test]
fn deleted_or_suspended_token_is_refused_within_half_a_second_although_the_files_come_late() {
    const DOOMED: [&str; 5] = ["doomed-0", "doomed-1", "doomed-2", "doomed-3", "doomed-4"];
    let running = Running::start("told");
    let (scene, namespace) = (running.scene, running.namespace.as_str());
    for name in DOOMED.iter().chain(&["paused", "other"]) {
        scene.apply(namespace, &token(name, namespace, ""));
        scene.until((namespace, "routertokens", name), "Programmed", ("True", "Programmed"));
    }
    let text_of = |name: &str| scene.token_where(namespace, name, |_| true);
    let (paused, other) = (text_of("paused"), text_of("other"));
    let doomed = DOOMED.map(|name| (name, text_of(name)));

    running.kubelet.pause(true);
    let mut times = doomed.each_ref().map(|(name, minted)| {
        let (_, took) = measure(|| {
            scene.api.client().delete(&Scene::path(namespace, "routertokens", name)).unwrap();
            running.until_answered(minted, 401);
        });
        took
    });
    times.sort();
    println!("delete to refusal, ahead of the files: {times:?}");
    // The median, because one try can meet whatever else the machine has to do.
    assert!(times[2] < Duration::from_millis(500), "{times:?}");
    scene.apply(namespace, &token("paused", namespace, ", suspend: true"));
    running.until_answered(&paused, 403);
    assert_eq!(running.ask(&other), 200);
    // What the pod reports is what its files say.
    running.until("Programmed", ("False", "Pending"));

    running.kubelet.pause(false);
    running.until("Programmed", ("True", "Programmed"));
    for (token, status) in doomed.iter().map(|(_, token)| (token, 401)).chain([(&paused, 403), (&other, 200)])
    {
        assert_eq!(running.ask(token), status, "the files say the same");
    }
    scene.apply(namespace, &token("paused", namespace, ""));
    running.until_answered(&paused, 200);
}

#[test]
fn use_suspension_and_limits_travel_both_ways() {
    let running = Running::start("used");
    let (scene, namespace) = (running.scene, running.namespace.as_str());
    scene.apply(namespace, &token("agent", namespace, ""));
    let minted = scene.token_where(namespace, "agent", |_| true);
    running.until_answered(&minted, 200);
    scene.apply(namespace, &token("agent", namespace, ", suspend: true"));
    running.until_answered(&minted, 403);
    scene.apply(namespace, &token("agent", namespace, ""));
    running.until_answered(&minted, 200);
    scene.apply(namespace, &token("agent", namespace, ", limits: {maxRequests: 1}"));
    running.until_answered(&minted, 429);
    let served = running.upstream.count();
    let used = || {
        let object = scene.object(namespace, "routertokens", "agent");
        Ok((object["status"]["usage"]["requests"] == served).then_some(object))
    };
    let object = eventually("the use to be in the status", LIMIT, used).unwrap();
    let input = object["status"]["usage"]["inputTokens"]
        .as_u64()
        .and_then(|input| usize::try_from(input).ok())
        .unwrap();
    let answered = running.answered.get();
    // The suspension may have ended one before the vendor told its use.
    assert!(
        answered + 1 >= served && (3 * answered..=3 * served).contains(&input),
        "{answered}, {served}: {input}"
    );
}

#[test]
fn killed_pod_comes_back_and_the_status_says_both() {
    let running = Running::start("killed");
    running.kubelet.pause(true);
    running.kubelet.kill("gateway-0");
    running.until("Available", ("False", "NoReadyPods"));
    running.kubelet.pause(false);
    running.until("Available", ("True", "Available"));
    running.until("Programmed", ("True", "Programmed"));
}

#[test]
fn snapshot_that_somebody_edits_or_deletes_is_written_again() {
    let running = Running::start("edited");
    let (scene, namespace) = (running.scene, running.namespace.as_str());
    scene.apply(namespace, &token("agent", namespace, ""));
    let minted = scene.token_where(namespace, "agent", |_| true);
    running.until_answered(&minted, 200);
    let order = |snapshot: &Value| (snapshot["epoch"].as_u64(), snapshot["generation"].as_u64());
    let before = order(&scene.snapshot(namespace).unwrap());
    let secret = secret_path(namespace, "gateway-snapshot");
    let whole = || {
        let snapshot = scene.snapshot(namespace).filter(|snapshot| order(snapshot) >= before);
        Ok(snapshot.filter(|snapshot| snapshot["tokens"].as_array().is_some_and(|tokens| tokens.len() == 1)))
    };
    scene.api.client().merge(&secret, &data("snapshot.json", "{}")).unwrap();
    eventually("the edited snapshot to be whole again", LIMIT, whole).unwrap();
    scene.api.client().delete(&secret).unwrap();
    eventually("the deleted snapshot to be whole again", LIMIT, whole).unwrap();
    running.until_answered(&minted, 200);
}

#[test]
fn objects_of_a_proxy_are_made_kept_and_collected() {
    let scene = shared();
    let namespace = scene.namespace("objects");
    scene.gateway(&namespace);
    let core = format!("/api/v1/namespaces/{namespace}");
    let set = format!("/apis/apps/v1/namespaces/{namespace}/statefulsets/gateway");
    let paths = [format!("{core}/serviceaccounts/gateway"), format!("{core}/services/gateway"), set.clone()];
    for path in &paths {
        let made = eventually(path, LIMIT, || scene.api.client().get(path)).unwrap();
        assert_eq!(text(&made, "/metadata/ownerReferences/0/kind"), "RouterProxy", "{path}");
    }
    let account = scene.api.client().get(&paths[0]).unwrap().unwrap();
    assert_eq!(account["automountServiceAccountToken"], false);
    scene.api.client().merge(&set, &json!({ "spec": { "replicas": 1 } })).unwrap();
    let kept = || {
        let set = scene.api.client().get(&set)?.unwrap_or_default();
        Ok((set["spec"]["replicas"] == 0).then_some(()))
    };
    eventually("the StatefulSet to be as wanted", LIMIT, kept).unwrap();
    scene.api.client().delete(&Scene::path(&namespace, "routerproxies", "gateway")).unwrap();
    for path in paths.iter().chain([&secret_path(&namespace, "gateway-snapshot")]) {
        let gone = || Ok(scene.api.client().get(path)?.is_none().then_some(()));
        eventually("the objects to be collected", COLLECTED, gone).unwrap();
    }
}

#[test]
fn service_of_somebody_else_is_left_alone_and_everything_else_works() {
    let scene = shared();
    let namespace = scene.namespace("object-conflict");
    let theirs = "{apiVersion: v1, kind: Service, metadata: {name: gateway}, spec: {ports: [{port: 1234}]}}";
    scene.apply(&namespace, theirs);
    scene.gateway(&namespace);
    let gateway = (namespace.as_str(), "routerproxies", "gateway");
    scene.until(gateway, "Accepted", ("False", "ObjectConflict"));
    scene.until_said(&namespace, "gateway", "ObjectConflict");
    scene.apply(&namespace, &token("agent", &namespace, ""));
    scene.token_where(&namespace, "agent", |_| true);
    let service = format!("/api/v1/namespaces/{namespace}/services/gateway");
    let left = scene.api.client().get(&service).unwrap().unwrap();
    assert_eq!(left["spec"]["ports"][0]["port"], 1234);
    scene.api.client().delete(&service).unwrap();
    scene.until(gateway, "Accepted", ("True", "Accepted"));
}

#[test]
fn pod_that_only_carries_the_label_is_not_asked() {
    let scene = shared();
    let namespace = scene.namespace("impostor");
    scene.gateway(&namespace);
    scene.until((&namespace, "routerproxies", "gateway"), "Accepted", ("True", "Accepted"));
    let listener = std::net::TcpListener::bind("127.77.0.1:8081").unwrap();
    listener.set_nonblocking(true).unwrap();
    let pods = format!("/api/v1/namespaces/{namespace}/pods");
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "impostor", "labels": { "router.link-assistant.dev/proxy": "gateway" } },
        "spec": { "containers": [{ "name": "a", "image": "b" }] },
    });
    scene.api.client().create(&pods, &pod).unwrap();
    let status = json!({ "status": { "phase": "Running", "podIP": "127.77.0.1", "podIPs": [{ "ip": "127.77.0.1" }] } });
    scene.api.client().merge(&format!("{pods}/impostor/status"), &status).unwrap();
    // What happens after the pod was seen is seen after it.
    scene.apply(&namespace, &token("agent", &namespace, ""));
    eventually("the token to be served", LIMIT, || Ok(scene.record(&namespace, &namespace, "agent")))
        .unwrap();
    std::thread::sleep(Duration::from_secs(2));
    assert!(listener.accept().is_err(), "an impostor was sent an admin credential");
}

#[test]
fn token_that_the_pod_serves_before_the_snapshot_is_known_to_be_written_is_ready_all_the_same() {
    let api = ApiServer::start().unwrap();
    let scene = Scene::new(&api).unwrap();
    let (namespace, _kubelet) = scene.served("early", "http://127.0.0.1:9");
    let _operator = scene.operator("slow", &[("LA_FAULT", "after-snapshot")]).unwrap();
    scene.until((&namespace, "routerproxies", "gateway"), "Programmed", ("True", "Programmed"));
    scene.apply(&namespace, &token("agent", &namespace, ""));
    let pod = format!("/api/v1/namespaces/{namespace}/pods/gateway-0");
    let mut touches = 0;
    let ready = || {
        // Whoever changes the pod has its kubelet look at the Secret.
        touches += 1;
        let touch = json!({ "metadata": { "annotations": { "example.com/touched": touches.to_string() } } });
        scene.api.client().merge(&pod, &touch)?;
        let ready = scene.condition((&namespace, "routertokens", "agent"), "Ready");
        Ok((ready == ("True".to_owned(), "Issued".to_owned())).then_some(()))
    };
    eventually("the token to be ready", LIMIT, ready).unwrap();
}
