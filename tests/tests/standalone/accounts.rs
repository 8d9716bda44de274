//! Sessions over a pool of accounts, served by three routers, behind a front that asks them in turn: every session is
//! on one account, leaves it for one request when the vendor is overloaded, and moves once when the account has nothing
//! left. All of it holds for routers that share nothing and for routers that share a Redis; what those know of each
//! other besides is in `fleet.rs`.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use la_core::credential::{Credential, Credentials};
use la_core::secret::Secret;
use la_core::snapshot::{Account, Backend, CREDENTIALS_FILE, CredentialSource, SNAPSHOT_FILE, Snapshot};
use la_tests::caller::Call;
use la_tests::cluster::eventually;
use la_tests::fakes::vendor::{self, Known};
use la_tests::fakes::{Answer, FakeUpstream, Script};
use la_tests::gateway::{self, Token};
use la_tests::proof::rounds;
use la_tests::redis::RedisServer;
use la_tests::router::{Router, Setup};
use tokio::task::JoinSet;

const CALLERS: usize = 20;
const ROUTERS: usize = 3;

/// How long the vendor of routers that share something thinks before it answers: much less than any, and time enough
/// for the others to hear what one of them has learned.
const THINKING: Duration = Duration::from_millis(100);

/// What the routers have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Share {
    Nothing,
    Redis,
}

impl Share {
    const BOTH: [Self; 2] = [Self::Nothing, Self::Redis];
}

/// What an account does to its next requests instead of serving them.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// 529, so many times.
    Overloaded(u32),
    /// 429 with a limit that is used up for an hour, so many times.
    Limited(u32),
}

/// Who served what, and who fails.
#[derive(Default)]
pub(crate) struct Ledger {
    /// The accounts that served each session, in order, without repetitions in a row.
    pub(crate) served: BTreeMap<String, Vec<String>>,
    /// How often each account was asked, whatever came of it.
    pub(crate) asked: BTreeMap<String, usize>,
    faults: HashMap<String, Fault>,
}

pub(crate) struct Scene {
    _upstream: FakeUpstream,
    pub(crate) redis: Option<RedisServer>,
    pub(crate) seen: Arc<Mutex<Ledger>>,
    pub(crate) routers: Vec<Router>,
    snapshot: Snapshot,
    texts: BTreeMap<String, Secret>,
    turn: usize,
}

fn key(account: &str) -> String {
    format!("sk-ant-api03-{account}")
}

pub(crate) fn account(name: &str) -> Account {
    Account::new(name, CredentialSource::Published)
}

fn script(seen: Arc<Mutex<Ledger>>, share: Share) -> Script {
    let usual = vendor::script(Known::default());
    let thinking = if share == Share::Redis { THINKING } else { Duration::ZERO };
    Arc::new(move |request| {
        let name =
            request.header("x-api-key").unwrap_or_default().trim_start_matches("sk-ant-api03-").to_owned();
        let session = request.header("x-claude-code-session-id").unwrap_or_default().to_owned();
        let mut seen = seen.lock().unwrap();
        *seen.asked.entry(name.clone()).or_default() += 1;
        match seen.faults.get_mut(&name) {
            Some(Fault::Limited(left)) if *left > 0 => {
                *left -= 1;
                return vendor::limited();
            }
            Some(Fault::Overloaded(left)) if *left > 0 => {
                *left -= 1;
                return Answer::error(529, "overloaded_error", "Overloaded");
            }
            _ => {}
        }
        let served = seen.served.entry(session).or_default();
        if served.last() != Some(&name) {
            served.push(name);
        }
        usual(request).delayed(thinking)
    })
}

pub(crate) fn files(snapshot: &Snapshot) -> [(&'static str, String); 2] {
    let Backend::Anthropic { accounts, .. } = &snapshot.providers[0].backend;
    let credential = |account: &Account| Credential::ApiKey { key: Secret::new(key(&account.name)) };
    let named = accounts.iter().map(|account| (format!("vendor/{}", account.name), credential(account)));
    let credentials: Credentials = named.collect();
    [
        (CREDENTIALS_FILE, serde_json::to_string(&credentials).unwrap()),
        (SNAPSHOT_FILE, serde_json::to_string(snapshot).unwrap()),
    ]
}

impl Scene {
    pub(crate) async fn start(share: Share) -> Self {
        let seen: Arc<Mutex<Ledger>> = Arc::default();
        let upstream = FakeUpstream::start(script(Arc::clone(&seen), share)).await.unwrap();
        let tokens = ["one", "two"].map(|name| Token { name: name.to_owned(), ..Token::default() });
        let (mut snapshot, texts) = gateway::snapshot(&upstream.base_url(), &tokens).unwrap();
        let Backend::Anthropic { accounts, .. } = &mut snapshot.providers[0].backend;
        *accounts = ["a", "b", "c", "d", "e"].map(account).to_vec();
        let redis = (share == Share::Redis).then(|| RedisServer::start(&[]).unwrap());
        let start = |_| {
            let setup = Setup::snapshot(&files(&snapshot)).env("POD_UID", "test");
            let setup = match &redis {
                // Without it they go on: this is about accounts, not about budgets.
                Some(redis) => setup.arg("--ledger", "redis").arg("--redis-url", &redis.url()),
                None => setup,
            };
            let setup = if redis.is_some() { setup.arg("--ledger-on-unavailable", "allow") } else { setup };
            setup.start().unwrap()
        };
        let routers = (0..ROUTERS).map(start).collect();
        Self { _upstream: upstream, redis, seen, routers, snapshot, texts, turn: 0 }
    }

    /// One turn of a session, by the router whose turn it is.
    pub(crate) fn turn(&mut self, token: &str, session: &str) -> impl Future<Output = ()> + use<> {
        let address = self.routers[self.turn % ROUTERS].address();
        self.turn += 1;
        let session = session.to_owned();
        let body = r#"{"model":"claude-opus-5","max_tokens":64,"stream":true,"messages":[{"role":"user","content":"hi"}]}"#;
        let call =
            Call::message(self.texts[token].expose(), body).header("x-claude-code-session-id", &session);
        async move {
            let reply = call.send(address).await.unwrap();
            assert!(reply.status == 200 && reply.complete, "{session}: {} {}", reply.status, reply.text());
            let text = reply.text();
            assert_eq!(text.matches("event: message_start").count(), 1, "{session}: {text}");
        }
    }

    /// So many turns of every caller's session, one after the other; those of all callers at the same time.
    pub(crate) async fn turns(&mut self, count: usize) {
        for _ in 0..count {
            let turns: Vec<_> = (0..CALLERS).map(|caller| self.turn("one", &format!("s{caller}"))).collect();
            turns.into_iter().collect::<JoinSet<()>>().join_all().await;
        }
    }

    /// The accounts that served each session.
    pub(crate) fn served(&self) -> BTreeMap<String, Vec<String>> {
        self.seen.lock().unwrap().served.clone()
    }

    pub(crate) fn fail(&self, account: &str, fault: Fault) {
        self.seen.lock().unwrap().faults.insert(account.to_owned(), fault);
    }

    /// Has all routers serve other accounts, and waits until they do.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut Vec<Account>)) {
        let Backend::Anthropic { accounts, .. } = &mut self.snapshot.providers[0].backend;
        change(accounts);
        self.snapshot.generation += 1;
        for router in &self.routers {
            for (name, text) in files(&self.snapshot) {
                let path = router.directory().join("snapshot").join(name);
                let next = path.with_extension("next");
                std::fs::write(&next, text).unwrap();
                std::fs::rename(next, path).unwrap();
            }
        }
        let line = format!("la_router_snapshot_generation {}", self.snapshot.generation);
        for router in &self.routers {
            eventually("the accounts to be served", Duration::from_secs(10), || {
                let answer =
                    la_tests::cluster::Client::new(router.admin()).send("GET", "/metrics", "", "")?;
                Ok(answer.body.contains(&line).then_some(()))
            })
            .unwrap();
        }
    }
}

#[tokio::test]
async fn every_session_is_on_one_account_whichever_router_serves_it() {
    for share in Share::BOTH {
        let mut scene = Scene::start(share).await;
        scene.turns(rounds(50)).await;
        let served = scene.served();
        assert!(served.values().all(|accounts| accounts.len() == 1), "{share:?}: {served:?}");
        let homes: std::collections::BTreeSet<_> = served.values().flatten().collect();
        assert!(homes.len() >= 3, "twenty sessions spread: {homes:?}");
    }
}

#[tokio::test]
async fn one_overload_is_one_escape_and_a_return_and_a_used_up_limit_is_one_move() {
    for share in Share::BOTH {
        let mut scene = Scene::start(share).await;
        scene.turns(ROUTERS).await;
        let homes = scene.served();
        let home = homes["s0"][0].clone();
        scene.fail(&home, Fault::Overloaded(1));
        scene.turn("one", "s0").await;
        scene.turns(rounds(50)).await;
        let served = scene.served();
        let [first, other, back] = &served["s0"][..] else { panic!("{:?}", served["s0"]) };
        assert!(first == &home && other != &home && back == &home, "{:?}", served["s0"]);
        scene.fail(&home, Fault::Limited(u32::MAX));
        scene.turns(rounds(50)).await;
        for (session, accounts) in scene.served() {
            let before = &served[&session];
            let moves = accounts.len() - before.len();
            let was_there = before.last() == Some(&home);
            assert_eq!(moves, usize::from(was_there), "{share:?}: {session}: {accounts:?}");
        }
    }
}

#[tokio::test]
async fn prompts_of_two_tokens_never_share_a_session() {
    for share in Share::BOTH {
        let mut scene = Scene::start(share).await;
        for caller in 0..CALLERS {
            scene.turn("one", &format!("one-{caller}")).await;
        }
        // The same names, by another token: were they the same sessions, they would be on the same accounts.
        for caller in 0..CALLERS {
            scene.turn("two", &format!("one-{caller}")).await;
        }
        let served = scene.served();
        let differ = served.values().filter(|accounts| accounts.len() == 2).count();
        assert!(differ >= CALLERS / 2, "{differ} of {CALLERS} are elsewhere: {served:?}");
    }
}

#[tokio::test]
async fn accounts_added_removed_and_disabled_in_between_move_only_their_own_sessions() {
    for share in Share::BOTH {
        let mut scene = Scene::start(share).await;
        scene.turns(ROUTERS).await;
        let before = scene.served();
        scene.change(|accounts| accounts.push(account("f")));
        scene.turns(ROUTERS).await;
        assert_eq!(scene.served(), before, "a new account takes no session that is at home");
        scene.change(|accounts| {
            accounts.retain(|account| account.name != "a");
            accounts.iter_mut().for_each(|account| account.disabled = account.name == "b");
        });
        scene.turns(rounds(50)).await;
        for (session, accounts) in scene.served() {
            let lost_its_home = ["a", "b"].contains(&before[&session][0].as_str());
            assert_eq!(accounts.len(), 1 + usize::from(lost_its_home), "{share:?}: {session}: {accounts:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owner_can_end_a_rest_and_forget_the_sessions_of_an_account() {
    let mut scene = Scene::start(Share::Nothing).await;
    scene.turn("one", "session").await;
    let home = scene.seen.lock().unwrap().served["session"][0].clone();
    let (router, other) = (&scene.routers[0], &scene.routers[1]);
    let delete = |router: &Router, account: &str, what: &str| {
        router.ask_admin("DELETE", &format!("/v1/accounts/vendor/{account}/{what}"), "").unwrap()
    };
    let forgotten = |count: usize| (200, serde_json::json!({ "forgotten": count }));
    assert_eq!(delete(other, &home, "sessions"), forgotten(0), "it has seen none");
    assert_eq!(delete(router, &home, "sessions"), forgotten(1));
    assert_eq!(delete(router, &home, "sessions"), forgotten(0), "it is forgotten");
    let (status, refusal) = delete(router, "nobody", "cooldowns");
    assert_eq!(status, 404, "{refusal}");
    assert!(refusal.to_string().contains("there is no account vendor/nobody"), "{refusal}");

    scene.seen.lock().unwrap().faults.insert(home.clone(), Fault::Limited(u32::MAX));
    scene.turn = 0;
    scene.turn("one", "session").await;
    let state = |router: &Router| {
        let accounts = router.ask_admin("GET", "/v1/accounts", "").unwrap().1;
        let found =
            accounts["data"].as_array().unwrap().iter().find(|one| one["name"] == home.as_str()).cloned();
        found.unwrap()["state"].as_str().unwrap().to_owned()
    };
    assert_eq!(state(&scene.routers[0]), "Cooling");
    assert_eq!(delete(&scene.routers[0], &home, "cooldowns"), forgotten(1));
    assert_eq!(state(&scene.routers[0]), "Ready");
}
