//! Limits of requests, tokens and money hold under load and over kills: the ledger never counts less than the vendor
//! has billed, and never more than that and the bounds of what was open at the kills.

use std::collections::HashMap;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use la_core::amount::{Amounts, Unit};
use la_core::budget::SavedBook;
use la_tests::caller::{Call, Caller};
use la_tests::cluster::{eventually, la_router};
use la_tests::fakes::FakeUpstream;
use la_tests::proof;
use la_tests::router::{Router, Setup};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::Value;
use tokio::task::JoinSet;

use crate::budgeted;

/// What clients were answered, all together.
#[derive(Default)]
struct Answers {
    /// Whole answers with status 200.
    complete: AtomicU64,
    /// A refusal because a budget is used up.
    exhausted: Mutex<Option<String>>,
    /// Anything that should not have been answered.
    odd: Mutex<Vec<String>>,
}

impl Answers {
    fn exhausted(&self) -> Option<String> {
        self.exhausted.lock().unwrap().clone()
    }
}

/// Asks again and again on one connection, until a budget is used up or the router is gone; a little later when
/// what is left is held by open requests.
async fn ask_on(router: std::net::SocketAddr, call: Call, answers: Arc<Answers>) {
    let Ok(mut caller) = Caller::connect(router).await else { return };
    while caller.write(&call.bytes()).await.is_ok() {
        let Ok(reply) = caller.reply(false).await else { return };
        match (reply.status, reply.complete) {
            (200, true) => {
                answers.complete.fetch_add(1, Ordering::SeqCst);
            }
            (200 | 429, false) => return,
            (429, _) if reply.text().contains("held by open requests") => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            (429, _) => {
                *answers.exhausted.lock().unwrap() = Some(reply.text());
                return;
            }
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

/// `count` clients, every other one streaming.
fn clients(
    router: &Router,
    (name, token): (&str, &str),
    count: usize,
    answers: &Arc<Answers>,
) -> JoinSet<()> {
    let mut clients = JoinSet::new();
    for number in 0..count {
        let call = Call::message(token, budgeted::body(name, number % 2 == 1));
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
    let upstream = FakeUpstream::start(budgeted::vendor(|_, _| ())).await.unwrap();
    let router = Setup::flags(&upstream.base_url()).start().unwrap();
    let token = router.issue(&["--max-requests", "1000"]).unwrap();
    let answers = Arc::new(Answers::default());
    clients(&router, ("agent", &token), 64, &answers).join_all().await;
    assert_eq!(*answers.odd.lock().unwrap(), Vec::<String>::new());
    assert!(answers.exhausted().is_some());
    assert_eq!((answers.complete.load(Ordering::SeqCst), upstream.count()), (1000, 1000));
    // The last answers may be over a moment before they are settled.
    let settled = eventually("all to be settled", Duration::from_secs(5), || {
        Ok(Some(counted(&router)).filter(|(_, open)| *open == 0))
    });
    assert_eq!(settled.unwrap(), (1000, 0));
}

/// Clients under whose load a router is killed; each has at most one request open.
const CLIENTS: u64 = 16;

/// For how many whole answers the scarce budget of a token lasts.
const LIMIT: u64 = 600;

/// What the vendor has billed each token.
type Bills = Arc<Mutex<HashMap<String, Amounts>>>;

/// One token's whole life, which ends when its scarce budget is used up.
struct Life {
    name: String,
    token: String,
    scarce: Unit,
    limits: Amounts,
    answers: Arc<Answers>,
    kills: u64,
}

impl Life {
    fn start(router: &Router, number: usize) -> Self {
        let (name, scarce) = (format!("agent-{number}"), Unit::ALL[number % Unit::ALL.len()]);
        let limits = budgeted::limits(scarce, LIMIT);
        let token = budgeted::add_token(router, &name, &limits);
        Self { name, token, scarce, limits, answers: Arc::default(), kills: 0 }
    }

    fn load(&self, router: &Router) -> JoinSet<()> {
        clients(router, (&self.name, &self.token), CLIENTS as usize, &self.answers)
    }

    fn kill(&mut self, router: &mut Router) {
        router.kill();
        self.kills += 1;
    }

    /// What must hold after every start: truth, at most what is counted, at most truth and the bounds of what
    /// was open at the kills; and of a budget that is used up less is left than one request may use.
    fn check(&self, router: &Router, bills: &Bills, what: &str) {
        let (status, book) = router.ask_admin("GET", "/v1/ledger", "").unwrap();
        assert_eq!(status, 200, "{what}: {book}");
        let book: SavedBook = serde_json::from_value(book).unwrap();
        let truth = bills.lock().unwrap().get(&self.name).copied().unwrap_or_default();
        let complete = self.answers.complete.load(Ordering::SeqCst);
        assert_eq!(*self.answers.odd.lock().unwrap(), Vec::<String>::new(), "{what}");
        assert!(complete <= truth.requests, "{what}: {complete} answered, {} sent", truth.requests);
        let charges = self.charges(router);
        let open: Vec<_> =
            charges.iter().filter(|(is_open, _)| *is_open).map(|(_, amounts)| amounts).collect();
        assert!(open.len() as u64 <= self.kills * CLIENTS, "{what}: {} were open at kills", open.len());
        let bounds = open.into_iter().fold(Amounts::default(), |sum, amounts| sum.plus(amounts));
        for unit in Unit::ALL {
            let (truth, bounds, limit) = (truth.of(unit), bounds.of(unit), self.limits.of(unit));
            let meters = budgeted::meters(&book, &self.name, unit);
            assert!(truth == 0 || !meters.is_empty(), "{what}: nothing of {unit} is counted");
            for meter in meters {
                let counted = meter.settled;
                let what = format!("{what}: {unit}: {counted} counted, {truth} billed");
                assert_eq!(meter.open, 0, "{what}, something is open after the start");
                assert!(counted >= truth, "{what}");
                assert!(counted <= truth + bounds, "{what}, {bounds} were open at kills");
                assert!(counted <= limit, "{what} of {limit}");
                if let Some(said) = self.answers.exhausted().filter(|_| unit == self.scarce) {
                    let most = charges.iter().map(|(_, amounts)| amounts.of(unit)).max().unwrap_or_default();
                    assert!(said.contains(&format!("budget {unit} ")), "{what}: {said}");
                    assert!(
                        counted + most > limit,
                        "{what} of {limit}, and no request takes more than {most}"
                    );
                }
            }
        }
    }

    /// What was reserved for each request that was charged, and whether it was open at a kill.
    fn charges(&self, router: &Router) -> Vec<(bool, Amounts)> {
        let subject = format!("gateway/team/{}", self.name);
        let lines = budgeted::lines(router);
        let lines = lines.iter().filter(|line| line["subject"] == subject);
        let reserved = |line: &Value| serde_json::from_value(line["reserved"].clone()).unwrap();
        lines.map(|line| (line["late"] == "open", reserved(line))).collect()
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
    let seed = proof::seed();
    let mut random = StdRng::seed_from_u64(seed);
    let bills = Bills::default();
    let script = {
        let bills = Arc::clone(&bills);
        budgeted::vendor(move |name, amounts| {
            let mut bills = bills.lock().unwrap();
            let bill = bills.entry(name.to_owned()).or_default();
            *bill = bill.plus(&amounts);
        })
    };
    let upstream = FakeUpstream::start(script).await.unwrap();
    let mut router = budgeted::setup(&upstream.base_url()).start().unwrap();
    let (mut life, mut lives, mut round) = (Life::start(&router, 0), 0, 0);
    // At least one token of each unit is spent to its end.
    while round < proof::rounds(300) || lives < Unit::ALL.len() {
        let load = life.load(&router);
        tokio::time::sleep(Duration::from_micros(random.random_range(0..250_000))).await;
        life.kill(&mut router);
        load.join_all().await;
        router.restart().unwrap();
        let what = format!("seed {seed}, round {round}");
        life.check(&router, &bills, &what);
        if round % 10 == 0 {
            recomputed(&router, &what);
        }
        round += 1;
        if life.answers.exhausted().is_some() {
            lives += 1;
            life = Life::start(&router, lives);
        }
    }
    // The last token is spent without another kill.
    life.load(&router).join_all().await;
    assert!(life.answers.exhausted().is_some(), "seed {seed}");
    life.kill(&mut router);
    router.restart().unwrap();
    let what = format!("seed {seed}, at the end");
    life.check(&router, &bills, &what);
    recomputed(&router, &what);
    println!("seed {seed}: {round} kills, {} tokens used up, {} requests", lives + 1, upstream.count());
}
