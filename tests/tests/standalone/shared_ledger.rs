//! One budget for several routers that share nothing but a real Redis: it holds under load, while a router is
//! killed, and while the server is restarted.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use la_tests::caller::{Call, Caller};
use la_tests::cluster::{Client, eventually};
use la_tests::fakes::FakeUpstream;
use la_tests::fakes::vendor::{self, Known};
use la_tests::gateway::{Gateway, Token};
use la_tests::redis::RedisServer;
use tokio::task::JoinSet;

const CLIENTS: usize = 64;
const LIMIT: u64 = 1_000;

const TOKEN: Token = Token { name: "shared", max_requests: Some(LIMIT), max_usd: None, suspended: false };

/// What clients were answered, all together.
#[derive(Default)]
struct Answers {
    complete: AtomicU64,
    /// Clients that ended because the budget was used up.
    exhausted: AtomicU64,
    /// Anything that should not have been answered.
    odd: std::sync::Mutex<Vec<String>>,
}

fn start(upstream: &FakeUpstream, server: &RedisServer) -> Vec<Gateway> {
    let start = |_| {
        let args = ["--ledger", "redis", "--redis-url", &server.url(), "--threads", "1"];
        Gateway::start(&upstream.base_url(), "sk-ant-api03-canary-key", &[TOKEN], &args).unwrap()
    };
    (0..3).map(start).collect()
}

fn call(gateway: &Gateway, number: usize) -> Call {
    let stream = number % 2 == 1;
    let body = format!(
        r#"{{"model":"claude-opus-5","max_tokens":16,"stream":{stream},"messages":[{{"role":"user","content":"hi"}}]}}"#
    );
    Call::message(gateway.token(TOKEN.name).unwrap(), body)
}

/// Asks again and again until the budget is used up or the router is gone; a little later after a 503.
async fn ask_on(router: SocketAddr, call: Call, answers: Arc<Answers>) {
    let Ok(mut caller) = Caller::connect(router).await else { return };
    while caller.write(&call.bytes()).await.is_ok() {
        let Ok(reply) = caller.reply(false).await else { return };
        match (reply.status, reply.complete) {
            (200, true) => {
                answers.complete.fetch_add(1, Ordering::SeqCst);
            }
            (200, false) => return,
            (429, _) => {
                answers.exhausted.fetch_add(1, Ordering::SeqCst);
                return;
            }
            (503, _) => tokio::time::sleep(Duration::from_millis(20)).await,
            (status, _) => {
                answers.odd.lock().unwrap().push(format!("{status}: {}", reply.text()));
                return;
            }
        }
        if reply.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
            match Caller::connect(router).await {
                Ok(again) => caller = again,
                Err(_) => return,
            }
        }
    }
}

fn clients(gateways: &[Gateway], answers: &Arc<Answers>) -> JoinSet<()> {
    let mut clients = JoinSet::new();
    for (number, gateway) in (0..CLIENTS).zip(gateways.iter().cycle()) {
        clients.spawn(ask_on(gateway.address(), call(gateway, number), Arc::clone(answers)));
    }
    clients
}

/// The lifetime of requests as the server has it: settled and open, and open.
fn counted(server: &RedisServer) -> (u64, u64) {
    let key = "{la:gateway}:use:gateway/tests/shared";
    let get = |field: &str| {
        let answer = server.command(&["HGET", key, field]).unwrap();
        answer.lines().nth(1).and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    };
    (get("t:R|lifetime"), get("o:R|lifetime"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_clients_of_three_routers_get_a_thousand_requests_of_a_thousand() {
    let upstream = FakeUpstream::start(vendor::script(Known::default())).await.unwrap();
    let server = RedisServer::start(&[]).unwrap();
    let gateways = start(&upstream, &server);
    let answers = Arc::new(Answers::default());
    clients(&gateways, &answers).join_all().await;
    assert_eq!(*answers.odd.lock().unwrap(), Vec::<String>::new());
    assert_eq!(answers.exhausted.load(Ordering::SeqCst), CLIENTS as u64);
    assert_eq!((answers.complete.load(Ordering::SeqCst), upstream.count() as u64), (LIMIT, LIMIT));
    // The last answers may be over a moment before they are settled.
    let settled = eventually("all to be settled", Duration::from_secs(5), || {
        Ok(Some(counted(&server)).filter(|(_, open)| *open == 0))
    });
    assert_eq!(settled.unwrap(), (LIMIT, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_router_and_restarted_server_give_nothing_away_and_lose_only_what_was_open() {
    let upstream = FakeUpstream::start(vendor::script(Known::default())).await.unwrap();
    let mut server = RedisServer::start(&["--appendonly", "yes", "--appendfsync", "always"]).unwrap();
    let mut gateways = start(&upstream, &server);
    let answers = Arc::new(Answers::default());
    let load = clients(&gateways, &answers);
    let arrived = |count: usize| move |upstream: &FakeUpstream| (upstream.count() >= count).then_some(());
    let patience = Duration::from_secs(30);
    eventually("a third to arrive", patience, || Ok(arrived(300)(&upstream))).unwrap();
    gateways[2].kill();
    eventually("half to arrive", patience, || Ok(arrived(500)(&upstream))).unwrap();
    server.restart().unwrap();
    load.join_all().await;
    assert_eq!(*answers.odd.lock().unwrap(), Vec::<String>::new());
    // Each client of the killed router had at most one request open.
    let (received, open_at_the_kill) = (upstream.count() as u64, (CLIENTS / 3) as u64);
    assert!((LIMIT - open_at_the_kill..=LIMIT).contains(&received), "{received} received");
    assert!(answers.exhausted.load(Ordering::SeqCst) >= (CLIENTS - CLIENTS / 3 - 1) as u64);
    let (charged, _) = counted(&server);
    assert_eq!(charged, LIMIT, "what was open at the kill is charged");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn router_without_its_server_is_not_ready_within_a_second_and_ready_once_it_is_back() {
    let upstream = FakeUpstream::start(vendor::script(Known::default())).await.unwrap();
    let mut server = RedisServer::start(&["--appendonly", "yes", "--appendfsync", "always"]).unwrap();
    let gateway = start(&upstream, &server).remove(0);
    let ready = || Client::new(gateway.admin()).send("GET", "/readyz", "", "");
    server.kill();
    eventually("readiness to go", Duration::from_secs(1), || {
        Ok(ready().is_ok_and(|answer| answer.status == 503 && answer.body.contains("ledger")).then_some(()))
    })
    .unwrap();
    let refused = call(&gateway, 0).send(gateway.address()).await.unwrap();
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(refused.header("retry-after").is_some() && upstream.count() == 0);
    server.restart().unwrap();
    eventually("readiness to come back", Duration::from_secs(5), || {
        Ok(ready().is_ok_and(|answer| answer.status == 200).then_some(()))
    })
    .unwrap();
    let answered = call(&gateway, 0).send(gateway.address()).await.unwrap();
    assert_eq!(answered.status, 200, "{}", answered.text());
}
