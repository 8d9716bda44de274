//! What routers that share a Redis know of each other's accounts.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use la_core::snapshot::{Account, Backend};
use la_tests::caller::Call;
use la_tests::cluster::eventually;
use la_tests::fakes::FakeUpstream;
use la_tests::fakes::vendor::{self, Known};
use la_tests::gateway::{self, Token};
use la_tests::proof::rounds;
use la_tests::redis::RedisServer;
use la_tests::router::{Router, Setup};
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::accounts::{Fault, Scene, Share, account, files};

const PATIENCE: Duration = Duration::from_secs(20);

fn state(router: &Router, account: &str) -> String {
    let accounts = router.ask_admin("GET", "/v1/accounts", "").unwrap().1;
    let accounts = accounts["data"].as_array().unwrap();
    let found = accounts.iter().find(|one| one["name"] == account).map(|one| one["state"].clone());
    found.as_ref().and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn until_all_are(scene: &Scene, account: &str, wanted: &str) {
    eventually(&format!("all to have {account} {wanted}"), PATIENCE, || {
        Ok(scene.routers.iter().all(|router| state(router, account) == wanted).then_some(()))
    })
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limit_that_one_router_sees_moves_every_session_once_and_nobody_asks_the_account_again() {
    let mut scene = Scene::start(Share::Redis).await;
    scene.turns(3).await;
    let before = scene.served();
    let home = before["s0"][0].clone();
    // One request in all is refused; the account would serve every other.
    scene.fail(&home, Fault::Limited(1));
    scene.turns(1).await;
    let asked = |scene: &Scene| scene.seen.lock().unwrap().asked[&home];
    let asked_before = asked(&scene);
    scene.turns(rounds(50)).await;
    assert_eq!(asked(&scene), asked_before, "{home} rests for all");
    for (session, accounts) in scene.served() {
        let was_there = before[&session].last() == Some(&home);
        assert_eq!(
            accounts.len() - before[&session].len(),
            usize::from(was_there),
            "{session}: {accounts:?}"
        );
    }
    until_all_are(&scene, &home, "Cooling");
    let path = format!("/v1/accounts/vendor/{home}/cooldowns");
    assert_eq!(scene.routers[1].ask_admin("DELETE", &path, "").unwrap().0, 200);
    until_all_are(&scene, &home, "Ready");
    let moved = scene.served();
    scene.turns(3).await;
    assert_eq!(scene.served(), moved, "no session comes back from where it went");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn router_that_starts_anew_knows_where_sessions_are_and_what_rests() {
    let mut scene = Scene::start(Share::Redis).await;
    scene.turns(2).await;
    let home = scene.served()["s0"][0].clone();
    scene.fail(&home, Fault::Limited(1));
    scene.turns(3).await;
    let before = scene.served();
    for router in &mut scene.routers {
        router.kill();
        router.restart().unwrap();
    }
    until_all_are(&scene, &home, "Cooling");
    scene.turns(3).await;
    assert_eq!(scene.served(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_go_on_without_the_server_and_what_was_learned_meanwhile_is_shared_after_it() {
    let mut scene = Scene::start(Share::Redis).await;
    scene.turns(2).await;
    let before = scene.served();
    scene.redis.as_mut().unwrap().kill();
    scene.turns(rounds(50)).await;
    assert_eq!(scene.served(), before, "every session stays where it is");
    let home = before["s0"][0].clone();
    scene.fail(&home, Fault::Limited(1));
    scene.turns(1).await;
    let cooling = scene.routers.iter().filter(|router| state(router, &home) == "Cooling").count();
    assert_eq!(cooling, 1, "one has seen it");
    scene.redis.as_mut().unwrap().restart().unwrap();
    until_all_are(&scene, &home, "Cooling");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_an_owner_forgets_at_one_router_begin_anew_at_all() {
    let mut scene = Scene::start(Share::Redis).await;
    scene.turns(3).await;
    let homes = scene.served();
    let home = homes["s0"][0].clone();
    let disable = |name: String| {
        move |accounts: &mut Vec<Account>| {
            accounts.iter_mut().for_each(|account| account.disabled = account.name == name);
        }
    };
    scene.change(disable(home.clone()));
    scene.turns(3).await;
    scene.change(disable(String::new()));
    scene.turns(3).await;
    let moved = scene.served();
    assert!(moved["s0"].len() == 2, "it stays where it went: {:?}", moved["s0"]);
    for name in ["a", "b", "c", "d", "e"] {
        let path = format!("/v1/accounts/vendor/{name}/sessions");
        assert_eq!(scene.routers[0].ask_admin("DELETE", &path, "").unwrap().0, 200);
    }
    // By its hash every session begins where it began.
    let is_home =
        |scene: &Scene| scene.served().iter().all(|(session, on)| on.last() == homes[session].last());
    for _ in 0..100 {
        scene.turns(1).await;
        if is_home(&scene) {
            break;
        }
    }
    let begun = scene.served();
    scene.turns(6).await;
    assert!(is_home(&scene) && scene.served() == begun, "{begun:?}");
}

/// How long each answer of the vendor takes at least.
const ANSWER_TAKES: Duration = Duration::from_millis(30);

/// Most requests that arrived within the time of one answer, which is less than what was served at a time.
fn most_at_once(arrivals: &[Instant]) -> usize {
    let at_once = |end: &Instant| {
        arrivals.iter().filter(|at| *at <= end && end.duration_since(**at) < ANSWER_TAKES).count()
    };
    arrivals.iter().map(at_once).max().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn account_serves_no_more_at_a_time_than_it_may_through_three_routers_and_as_many() {
    const MOST: u32 = 4;
    let arrivals: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let (usual, arrived) = (vendor::script(Known::default()), Arc::clone(&arrivals));
    let upstream = FakeUpstream::start(Arc::new(move |request| {
        arrived.lock().unwrap().push(Instant::now());
        usual(request).delayed(ANSWER_TAKES)
    }))
    .await
    .unwrap();
    let server = RedisServer::start(&[]).unwrap();
    let token = Token { name: "one".to_owned(), ..Token::default() };
    let (mut snapshot, texts) = gateway::snapshot(&upstream.base_url(), &[token]).unwrap();
    let Backend::Anthropic { accounts, .. } = &mut snapshot.providers[0].backend;
    *accounts = vec![Account { max_concurrency: Some(MOST), ..account("a") }];
    let start = |_| {
        let setup = Setup::snapshot(&files(&snapshot)).env("POD_UID", "test");
        setup.arg("--ledger", "redis").arg("--redis-url", &server.url()).start().unwrap()
    };
    let routers: Vec<Router> = (0..3).map(start).collect();
    let body = r#"{"model":"claude-opus-5","max_tokens":64,"messages":[{"role":"user","content":"hi"}]}"#;
    let mut clients = JoinSet::new();
    for number in 0..12 {
        let address = routers[number % routers.len()].address();
        let call = Call::message(texts["one"].expose(), body);
        clients.spawn(async move {
            let (mut served, mut refused) = (0, 0);
            while served < rounds(200) {
                let reply = call.send(address).await.unwrap();
                match reply.status {
                    200 => served += 1,
                    503 if reply.text().contains("serves as many requests as it may") => {
                        refused += 1;
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                    status => panic!("{status}: {}", reply.text()),
                }
            }
            refused
        });
    }
    let refused: usize = clients.join_all().await.into_iter().sum();
    let arrivals = arrivals.lock().unwrap();
    assert_eq!(arrivals.len(), 12 * rounds(200), "what is refused is not sent");
    assert_eq!(most_at_once(&arrivals), MOST as usize, "{refused} were refused");
    assert!(refused > 0, "nobody was in the way of anybody");
}
