//! The limit holds under load and over kills: a vendor never sees more than was allowed, and nothing that a
//! client got an answer to is forgotten.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use la_core::amount::Unit;
use la_core::budget::SavedBook;
use la_tests::caller::{Call, Caller};
use la_tests::cluster::{eventually, la_router};
use la_tests::fakes::FakeUpstream;
use la_tests::fakes::vendor::{self, Known};
use la_tests::proof;
use la_tests::router::{Router, Setup};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::task::JoinSet;

use crate::budgeted::{self, MODEL, UNITS};

/// What clients were answered, all together.
#[derive(Default)]
struct Answers {
    /// Whole answers with status 200.
    complete: AtomicU64,
    /// Refusals because the budget is used up.
    exhausted: AtomicBool,
    /// Anything that should not have been answered.
    odd: std::sync::Mutex<Vec<String>>,
}

fn body(model: &str, stream: bool) -> String {
    format!(
        r#"{{"model":"{model}","max_tokens":16,"stream":{stream},"messages":[{{"role":"user","content":"hi"}}]}}"#
    )
}

/// Asks again and again on one connection, until the budget is used up or the router is gone.
async fn ask_on(router: std::net::SocketAddr, call: Call, answers: Arc<Answers>) {
    let Ok(mut caller) = Caller::connect(router).await else { return };
    while caller.write(&call.bytes()).await.is_ok() {
        let Ok(reply) = caller.reply(false).await else { return };
        match (reply.status, reply.complete) {
            (200, true) => {
                answers.complete.fetch_add(1, Ordering::SeqCst);
            }
            (200, false) => return,
            (429, _) => return answers.exhausted.store(true, Ordering::SeqCst),
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

/// `count` clients, every other one streaming.
fn clients(router: &Router, token: &str, model: &str, count: usize, answers: &Arc<Answers>) -> JoinSet<()> {
    let mut clients = JoinSet::new();
    for number in 0..count {
        let call = Call::message(token, body(model, number % 2 == 1));
        clients.spawn(ask_on(router.address(), call, Arc::clone(answers)));
    }
    clients
}

/// Settled and open requests of every subject together.
fn counted(router: &Router) -> (u64, u64) {
    let (status, usage) = router.ask_admin("GET", "/v1/usage", "").unwrap();
    assert_eq!(status, 200, "{usage}");
    let all = usage["data"].as_array().unwrap();
    let sum = |field: &str| all.iter().map(|subject| subject[field].as_u64().unwrap()).sum();
    (sum("requests"), sum("open"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_clients_get_a_thousand_requests_of_a_thousand() {
    let upstream = FakeUpstream::start(vendor::script(Known::default())).await.unwrap();
    let router = Setup::flags(&upstream.base_url()).start().unwrap();
    let token = router.issue(&["--max-requests", "1000"]).unwrap();
    let answers = Arc::new(Answers::default());
    clients(&router, &token, "claude-opus-5", 64, &answers).join_all().await;
    assert_eq!(*answers.odd.lock().unwrap(), Vec::<String>::new());
    assert!(answers.exhausted.load(Ordering::SeqCst));
    assert_eq!((answers.complete.load(Ordering::SeqCst), upstream.count()), (1000, 1000));
    // The last answers may be over a moment before they are settled.
    let settled = eventually("all to be settled", Duration::from_secs(5), || {
        Ok(Some(counted(&router)).filter(|(_, open)| *open == 0))
    });
    assert_eq!(settled.unwrap(), (1000, 0));
}

/// Clients under whose load a router is killed; each has at most one request open.
const CLIENTS: u64 = 16;

/// One token's whole life: how much was answered in full before the last start.
struct Life {
    name: String,
    token: String,
    answers: Arc<Answers>,
    /// Requests at the vendor before it.
    before: usize,
    kills: u64,
}

impl Life {
    fn start(router: &Router, upstream: &FakeUpstream, number: usize, limit: u64) -> Self {
        let (name, before) = (format!("agent-{number}"), upstream.count());
        let token = budgeted::add_token(router, &name, limit);
        Self { name, token, answers: Arc::default(), before, kills: 0 }
    }

    /// What must hold after every start: truth, at most what is counted, at most truth and the bounds of what
    /// was open at the kills.
    fn check(&self, router: &Router, upstream: &FakeUpstream, limit: u64, what: &str) {
        let (status, book) = router.ask_admin("GET", "/v1/ledger", "").unwrap();
        assert_eq!(status, 200, "{what}: {book}");
        let book: SavedBook = serde_json::from_value(book).unwrap();
        let (complete, sent) =
            (self.answers.complete.load(Ordering::SeqCst), (upstream.count() - self.before) as u64);
        assert_eq!(*self.answers.odd.lock().unwrap(), Vec::<String>::new(), "{what}");
        assert!(sent <= limit, "{what}: the vendor saw {sent} of {limit}");
        let lines = budgeted::lines(router);
        let subject = format!("gateway/team/{}", self.name);
        let open: Vec<_> =
            lines.iter().filter(|line| line["late"] == "open" && line["subject"] == subject).collect();
        assert!(open.len() as u64 <= self.kills * CLIENTS, "{what}: {} were open at kills", open.len());
        for unit in UNITS {
            let field = match unit {
                Unit::Requests => "requests",
                Unit::Tokens => "tokens",
                Unit::Usd => "nanoUsd",
            };
            let truth = sent * budgeted::bill(&lines, unit);
            let bounds: u64 = open.iter().map(|line| line["reserved"][field].as_u64().unwrap()).sum();
            for meter in budgeted::meters(&book, &self.name, unit) {
                let counted = meter.settled;
                assert_eq!(meter.open, 0, "{what}: something is open after the start");
                assert!(counted >= truth, "{what}: {counted} {unit} counted, {truth} billed");
                assert!(
                    counted <= truth + bounds,
                    "{what}: {counted} {unit} counted, {truth} + {bounds} billed"
                );
                if unit == Unit::Requests {
                    assert!(counted <= limit, "{what}: {counted} counted of {limit}");
                    assert!(counted >= complete, "{what}: {complete} answered in full, {counted} counted");
                }
            }
        }
    }

    fn counted_requests(&self, router: &Router) -> u64 {
        let (_, book) = router.ask_admin("GET", "/v1/ledger", "").unwrap();
        let book: SavedBook = serde_json::from_value(book).unwrap();
        budgeted::meters(&book, &self.name, Unit::Requests).first().map_or(0, |meter| meter.settled)
    }
}

/// The usage log comes to what the ledger holds.
fn recomputed(router: &Router, what: &str) {
    let mut command = Command::new(la_router().unwrap());
    command.env_clear().env("DATA_DIR", router.data_dir()).args(["ledger", "recompute"]);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
    assert!(said.ends_with("log and ledger agree\n") && !said.contains("counted from"), "{what}: {said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_at_any_moment_forgets_nothing_and_gives_nothing_away() {
    const LIMIT: u64 = 600;
    let seed = proof::seed();
    let mut random = StdRng::seed_from_u64(seed);
    let upstream = FakeUpstream::start(vendor::script(Known::default())).await.unwrap();
    let mut router = budgeted::setup(&upstream.base_url()).start().unwrap();
    let mut life = Life::start(&router, &upstream, 0, LIMIT);
    let (mut ended, mut spent) = (0, 0);
    for round in 0..proof::rounds(300) {
        let load = clients(&router, &life.token, MODEL, CLIENTS as usize, &life.answers);
        tokio::time::sleep(Duration::from_micros(random.random_range(0..250_000))).await;
        router.kill();
        life.kills += 1;
        load.join_all().await;
        router.restart().unwrap();
        let what = format!("seed {seed}, round {round}");
        life.check(&router, &upstream, LIMIT, &what);
        if round % 10 == 0 {
            recomputed(&router, &what);
        }
        if life.answers.exhausted.load(Ordering::SeqCst) {
            ended += 1;
            spent += life.answers.complete.load(Ordering::SeqCst);
            life = Life::start(&router, &upstream, round + 1, LIMIT);
        }
    }
    // The last token is spent to its end: what kills charged is all that is missing.
    clients(&router, &life.token, MODEL, CLIENTS as usize, &life.answers).join_all().await;
    assert!(life.answers.exhausted.load(Ordering::SeqCst), "seed {seed}");
    router.kill();
    router.restart().unwrap();
    let what = format!("seed {seed}, at the end");
    life.check(&router, &upstream, LIMIT, &what);
    recomputed(&router, &what);
    assert_eq!(life.counted_requests(&router), LIMIT, "seed {seed}");
    println!("seed {seed}: {ended} tokens used up, {spent} requests answered in full");
}
