//! The sidecar in its forwarding form, in front of a scripted gateway.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use la_tests::caller::{Call, Caller};
use la_tests::cluster::{Client, Process, eventually, la_router, measure};
use la_tests::fakes::{Answer, Break, FakeUpstream, always, sha256};
use tempfile::TempDir;

struct Sidecar {
    process: Process,
    address: SocketAddr,
    admin: SocketAddr,
    folder: TempDir,
}

fn spawn(gateway: &str, token: Option<&str>) -> Sidecar {
    let folder = TempDir::new().unwrap();
    if let Some(token) = token {
        std::fs::write(folder.path().join("token"), token).unwrap();
    }
    let free = || TcpListener::bind("127.0.0.1:0").unwrap();
    let (a, b) = (free(), free());
    let (address, admin) = (a.local_addr().unwrap(), b.local_addr().unwrap());
    drop((a, b));
    let mut command = Command::new(la_router().unwrap());
    command
        .env_clear()
        .args(["forward", "--gateway", gateway, "--token-file"])
        .arg(folder.path().join("token"));
    command.args(["--listen", &address.to_string(), "--admin-listen", &admin.to_string(), "--drain", "2s"]);
    let process = Process::spawn(&mut command, &folder.path().join("log")).unwrap();
    Sidecar { process, address, admin, folder }
}

impl Sidecar {
    fn readyz(&self) -> Option<u16> {
        Client::new(self.admin).send("GET", "/readyz", "", "").ok().map(|answer| answer.status)
    }

    fn until_ready(&self) {
        let ready = eventually("the sidecar", Duration::from_secs(10), || {
            Ok((self.readyz() == Some(200)).then_some(()))
        });
        assert!(ready.is_ok(), "{}", self.process.log());
    }

    fn folder(&self) -> &Path {
        self.folder.path()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn token_is_attached_and_the_clients_own_credentials_are_left_behind() {
    let budget = "unit=USD; limit=5; used=1.25; reset=1790000000";
    let answer = Answer::json(200, r#"{"ok":true}"#).header("la-budget-daily", budget);
    let gateway = FakeUpstream::start(always(answer)).await.unwrap();
    let sidecar = spawn(&gateway.base_url(), Some("la_sk_one\n"));
    sidecar.until_ready();
    let body = format!(r#"{{"model":"m","text":"{}"}}"#, "x".repeat(300_000));
    let call = Call::new("POST", "/v1/messages?beta=true")
        .bearer("canary-1")
        .header("x-api-key", "canary-2")
        .header("cookie", "canary=3")
        .header("proxy-authorization", "canary-4")
        .header("anthropic-beta", "some-flag")
        .header("connection", "x-mine")
        .header("x-mine", "canary-5")
        .json(body.clone());
    let reply = call.send(sidecar.address).await.unwrap();
    assert_eq!((reply.status, reply.text().as_str()), (200, r#"{"ok":true}"#));
    assert_eq!(reply.header("la-budget-daily"), Some(budget), "agents see how their budgets stand");
    let received = gateway.received();
    let [request] = received.as_slice() else { panic!("{received:?}") };
    assert_eq!(request.target, "/v1/messages?beta=true");
    assert_eq!(request.header("authorization"), Some("Bearer la_sk_one"));
    assert_eq!(request.header("anthropic-beta"), Some("some-flag"));
    assert_eq!(request.header("host"), Some(gateway.address().to_string().as_str()));
    assert_eq!(request.body_sha256, sha256(body.as_bytes()));
    assert!(!format!("{:?}", request.headers).contains("canary"), "{:?}", request.headers);
    assert!(!sidecar.process.log().contains("la_sk_one") && !sidecar.process.log().contains("canary"));
    assert_eq!(gateway.violations(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn rotated_token_is_followed() {
    let gateway = FakeUpstream::start(always(Answer::json(200, "{}"))).await.unwrap();
    let sidecar = spawn(&gateway.base_url(), Some("la_sk_one"));
    sidecar.until_ready();
    std::fs::write(sidecar.folder().join("draft"), "la_sk_two").unwrap();
    std::fs::rename(sidecar.folder().join("draft"), sidecar.folder().join("token")).unwrap();
    eventually("the new token", Duration::from_secs(10), || {
        Ok(sidecar.process.log().contains("replaced").then_some(()))
    })
    .unwrap();
    Call::message("none", "{}").send(sidecar.address).await.unwrap();
    assert_eq!(gateway.received().last().unwrap().header("authorization"), Some("Bearer la_sk_two"));
    std::fs::remove_file(sidecar.folder().join("token")).unwrap();
    eventually("the warning", Duration::from_secs(10), || {
        Ok(sidecar.process.log().contains("stays in use").then_some(()))
    })
    .unwrap();
    assert_eq!(Call::message("none", "{}").send(sidecar.address).await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn sidecar_waits_for_token_and_gateway() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = port.local_addr().unwrap();
    drop(port);
    let sidecar = spawn(&format!("http://{address}"), None);
    eventually("probes", Duration::from_secs(10), || Ok(sidecar.readyz())).unwrap();
    assert_eq!(sidecar.readyz(), Some(503));
    let reply = Call::message("none", "{}").send(sidecar.address).await.unwrap();
    assert_eq!(
        (reply.status, &reply.json()["error"]["type"]),
        (502, &"api_error".into()),
        "{}",
        reply.text()
    );
    std::fs::write(sidecar.folder().join("token"), "la_sk_late").unwrap();
    let reply = Call::message("none", "{}").send(sidecar.address).await.unwrap();
    assert_eq!((reply.status, &reply.json()["type"]), (502, &"error".into()), "{}", reply.text());
    let gateway = FakeUpstream::start_on(address, always(Answer::json(200, "{}"))).await.unwrap();
    sidecar.until_ready();
    assert_eq!(Call::message("none", "{}").send(sidecar.address).await.unwrap().status, 200);
    assert_eq!(gateway.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_and_refusals_pass_byte_for_byte() {
    let events: Vec<String> = (0..200).map(|n| format!("event: ping\ndata: {{\"n\":{n}}}\r\n\n")).collect();
    let stream = Answer::stream(&events);
    let gateway = FakeUpstream::start(always(stream.byte_by_byte())).await.unwrap();
    let sidecar = spawn(&gateway.base_url(), Some("la_sk_one"));
    sidecar.until_ready();
    let reply = Call::message("none", "{}").send(sidecar.address).await.unwrap();
    assert_eq!(reply.header("content-type").map(|kind| kind.starts_with("text/event-stream")), Some(true));
    assert!(reply.complete && reply.text() == events.concat());
    gateway.set_script(always(Answer::error(429, "rate_limit_error", "later").header("retry-after", "7")));
    let reply = Call::message("none", "{}").send(sidecar.address).await.unwrap();
    assert_eq!((reply.status, reply.header("retry-after")), (429, Some("7")));
    gateway.set_script(always(Answer::stream(&events).broken(Break::Reset, 100)));
    let reply = Call::message("none", "{}").send(sidecar.address).await.unwrap();
    assert!(reply.text().contains("event: error"), "{}", reply.text());
    gateway.set_script(always(Answer::none(Break::Close)));
    let reply = Call::message("none", "{}").send(sidecar.address).await.unwrap();
    assert_eq!(reply.status, 502, "{}", reply.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_heads_never_reach_the_gateway() {
    let gateway = FakeUpstream::start(always(Answer::json(200, "{}"))).await.unwrap();
    let sidecar = spawn(&gateway.base_url(), Some("la_sk_one"));
    sidecar.until_ready();
    for head in [
        "POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n{}",
        "GET http://elsewhere/ HTTP/1.1\r\nhost: x\r\n\r\n",
        "CONNECT elsewhere:443 HTTP/1.1\r\nhost: x\r\n\r\n",
        "GET /v1/models HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
    ] {
        let mut caller = Caller::connect(sidecar.address).await.unwrap();
        caller.write(head.as_bytes()).await.unwrap();
        let reply = caller.reply(false).await.unwrap();
        assert!((400..500).contains(&reply.status), "{head:?}: {}", reply.status);
    }
    assert_eq!(gateway.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn sidecar_ends_promptly_when_its_pod_does() {
    let gateway = FakeUpstream::start(always(Answer::json(200, "{}"))).await.unwrap();
    let mut sidecar = spawn(&gateway.base_url(), Some("la_sk_one"));
    sidecar.until_ready();
    // A connection that is kept open must not delay the end.
    let mut caller = Caller::connect(sidecar.address).await.unwrap();
    caller.write(&Call::message("none", "{}").bytes()).await.unwrap();
    assert_eq!(caller.reply(false).await.unwrap().status, 200);
    sidecar.process.terminate().unwrap();
    let (status, time) = measure(|| sidecar.process.wait(Duration::from_secs(10)).unwrap());
    assert_eq!(status.code(), Some(0));
    assert!(time < Duration::from_secs(1), "{time:?}");
}
