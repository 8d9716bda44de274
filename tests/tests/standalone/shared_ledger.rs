//! One budget of requests or of money for several routers that share nothing but a real Redis: it holds under load,
//! while a router is killed, and while the server is restarted.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use la_core::amount::Unit;
use la_core::budget::LimitsSpec;
use la_tests::caller::{Call, Caller};
use la_tests::cluster::{Client, eventually, la_router};
use la_tests::fakes::FakeUpstream;
use la_tests::fakes::vendor::{self, Known};
use la_tests::gateway::{Gateway, Token};
use la_tests::redis::RedisServer;
use serde_json::json;
use tokio::task::JoinSet;

const CLIENTS: usize = 64;
const LIMIT: u64 = 1_000;

/// What the vendor bills for an answer, in nano-dollars: 25 tokens of input at $5 for a million, 42 of output at $25.
const BILL: u64 = 25 * 5_000 + 42 * 25_000;

const TOKEN: &str = "shared";

/// What clients were answered, all together.
#[derive(Default)]
struct Answers {
    complete: AtomicU64,
    /// What those clients were told that ended because the budget was used up.
    exhausted: Mutex<Vec<String>>,
    /// Anything that should not have been answered.
    odd: Mutex<Vec<String>>,
}

fn requests() -> LimitsSpec {
    LimitsSpec::of_requests(Some(LIMIT))
}

fn dollars() -> LimitsSpec {
    let limit = Unit::Usd.text(LIMIT * BILL);
    serde_json::from_value(json!({"budgets": [{"name": "money", "unit": "USD", "limit": limit}]})).unwrap()
}

fn start(upstream: &FakeUpstream, server: &RedisServer, limits: &LimitsSpec) -> Vec<Gateway> {
    let start = |_| {
        let token = Token { name: TOKEN.to_owned(), limits: limits.clone(), suspended: false };
        let args = ["--ledger", "redis", "--redis-url", &server.url(), "--threads", "1"];
        Gateway::start(&upstream.base_url(), "sk-ant-api03-canary-key", &[token], &args).unwrap()
    };
    (0..3).map(start).collect()
}

fn call(gateway: &Gateway, number: usize) -> Call {
    let stream = number % 2 == 1;
    let body = format!(
        r#"{{"model":"claude-opus-5","max_tokens":64,"stream":{stream},"messages":[{{"role":"user","content":"hi"}}]}}"#
    );
    Call::message(gateway.token(TOKEN).unwrap(), body)
}

/// Asks again and again until the budget is used up or the router is gone; a little later after a 503, and when what
/// is left is held by open requests.
async fn ask_on(router: SocketAddr, call: Call, answers: Arc<Answers>) {
    let Ok(mut caller) = Caller::connect(router).await else { return };
    while caller.write(&call.bytes()).await.is_ok() {
        let Ok(reply) = caller.reply(false).await else { return };
        match (reply.status, reply.complete) {
            (200, true) => {
                answers.complete.fetch_add(1, Ordering::SeqCst);
            }
            (200, false) => return,
            (429, _) if !reply.text().contains("held by open requests") => {
                answers.exhausted.lock().unwrap().push(reply.text());
                return;
            }
            (429 | 503, _) => tokio::time::sleep(Duration::from_millis(20)).await,
            (status, _) => {
                answers.odd.lock().unwrap().push(format!("{status}: {}", reply.text()));
                return;
            }
        }
        if !caller.go_on(&reply, router).await {
            return;
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

/// A lifetime as the server has it, of requests (`R`) or of nano-dollars (`U`): settled and open, and open.
fn counted(server: &RedisServer, unit: char) -> (u64, u64) {
    let key = "{la:gateway}:use:gateway/tests/shared";
    let get = |field: &str| {
        let answer = server.command(&["HGET", key, field]).unwrap();
        answer.lines().nth(1).and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    };
    (get(&format!("t:{unit}|lifetime")), get(&format!("o:{unit}|lifetime")))
}

/// What is settled once nothing is open: the last answers may be over a moment before.
fn settled(server: &RedisServer, unit: char) -> u64 {
    let settled = eventually("all to be settled", Duration::from_secs(5), || {
        let (taken, open) = counted(server, unit);
        Ok((open == 0).then_some(taken))
    });
    settled.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_clients_of_three_routers_get_a_thousand_requests_of_a_thousand() {
    let upstream = FakeUpstream::start(vendor::script(Known::default())).await.unwrap();
    let server = RedisServer::start(&[]).unwrap();
    let gateways = start(&upstream, &server, &requests());
    let answers = Arc::new(Answers::default());
    clients(&gateways, &answers).join_all().await;
    assert_eq!(*answers.odd.lock().unwrap(), Vec::<String>::new());
    assert_eq!(answers.exhausted.lock().unwrap().len(), CLIENTS);
    assert_eq!((answers.complete.load(Ordering::SeqCst), upstream.count() as u64), (LIMIT, LIMIT));
    assert_eq!(settled(&server, 'R'), LIMIT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_clients_of_three_routers_leave_less_than_one_reservation_of_their_dollars() {
    let upstream = FakeUpstream::start(vendor::script(Known::default())).await.unwrap();
    let server = RedisServer::start(&[]).unwrap();
    let gateways = start(&upstream, &server, &dollars());
    let answers = Arc::new(Answers::default());
    clients(&gateways, &answers).join_all().await;
    assert_eq!(*answers.odd.lock().unwrap(), Vec::<String>::new());
    let (settled, limit) = (settled(&server, 'U'), LIMIT * BILL);
    let complete = answers.complete.load(Ordering::SeqCst);
    assert_eq!((complete, settled), (upstream.count() as u64, complete * BILL));
    let refusals = answers.exhausted.lock().unwrap().clone();
    assert_eq!(refusals.len(), CLIENTS);
    for said in refusals {
        // What one more request may use, which is what is reserved for it.
        let (_, wanted) = said.split_once("this request may use ").unwrap_or_else(|| panic!("{said}"));
        let reservation = Unit::Usd.parse(wanted.split(' ').next().unwrap()).unwrap();
        assert!(settled <= limit, "{settled} of {limit} settled");
        assert!(
            settled > limit - reservation,
            "{settled} of {limit} settled, {reservation} reserved: {said}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_router_and_restarted_server_give_nothing_away_and_lose_only_what_was_open() {
    let upstream = FakeUpstream::start(vendor::script(Known::default())).await.unwrap();
    let mut server = RedisServer::start(&["--appendonly", "yes", "--appendfsync", "always"]).unwrap();
    let mut gateways = start(&upstream, &server, &requests());
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
    assert!(answers.exhausted.lock().unwrap().len() >= CLIENTS - CLIENTS / 3 - 1);
    let (charged, _) = counted(&server, 'R');
    assert_eq!(charged, LIMIT, "what was open at the kill is charged");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn router_without_its_server_is_not_ready_within_a_second_and_ready_once_it_is_back() {
    let upstream = FakeUpstream::start(vendor::script(Known::default())).await.unwrap();
    let mut server = RedisServer::start(&["--appendonly", "yes", "--appendfsync", "always"]).unwrap();
    let gateway = start(&upstream, &server, &requests()).remove(0);
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

/// What `ledger recompute` says beside one router, with the data folders of all others.
fn recompute(gateways: &[Gateway]) -> (bool, String) {
    let [beside, others @ ..] = gateways else { return (false, "no router".to_owned()) };
    let mut command = Command::new(la_router().unwrap());
    command.env_clear().env("DATA_DIR", beside.directory().join("data")).args(["ledger", "recompute"]);
    for other in others {
        command.arg("--also").arg(other.directory().join("data"));
    }
    let output = command.output().unwrap();
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), said)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn usage_logs_of_three_routers_count_together_as_their_server_though_one_was_killed() {
    let upstream = FakeUpstream::start(vendor::script(Known::default())).await.unwrap();
    let server = RedisServer::start(&[]).unwrap();
    let mut gateways = start(&upstream, &server, &dollars());
    for number in 0..30 {
        let answer = call(&gateways[number % 3], number).send(gateways[number % 3].address()).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    // What it had not told the server yet would be open for a minute more.
    assert_eq!(settled(&server, 'U'), 30 * BILL);
    gateways[2].kill();
    let agreed = eventually("log and ledger to agree", Duration::from_secs(20), || {
        let (agrees, said) = recompute(&gateways);
        Ok(agrees.then_some(said))
    });
    let agreed = agreed.unwrap();
    assert!(
        agreed.contains("gateway/tests/shared") && agreed.ends_with("log and ledger agree\n"),
        "{agreed}"
    );
    // Without one of the logs its charges are missed.
    let (agrees, said) = recompute(&gateways[..2]);
    assert!(!agrees && said.contains("the log lacks"), "{said}");
    // Beside nobody there is nobody to ask.
    gateways.iter_mut().for_each(Gateway::kill);
    let (agrees, said) = recompute(&gateways);
    assert!(!agrees && said.contains("use is counted in a Redis"), "{said}");
}
