//! What requests are charged, whatever their ending, beside the bill of a vendor that knows what it has reported and
//! said: 500 runs of each of twelve endings, a tenth in CI, each broken off at a random place.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use la_core::budget::LimitsSpec;
use la_core::secret::Secret;
use la_core::snapshot::{Route, Snapshot, Timeouts};
use la_tests::caller::{Call, Caller};
use la_tests::cluster::{Client, eventually};
use la_tests::fakes::vendor::{self, Turn};
use la_tests::fakes::{Answer, Bill, Break, FakeUpstream, Received, Script, tokens};
use la_tests::gateway::{self, Token};
use la_tests::proof;
use la_tests::router::{ADMIN_KEY, API_KEY, Router, Setup};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::sync::watch;

/// Runs of each ending.
const RUNS: usize = 500;

const MAX_TOKENS: u64 = 1_024;

/// What is added to a body's bytes to bound its input.
const FRAME_TOKENS: u64 = 256;

/// $1 for a million tokens of input and $5 for one of output; its provider waits for long.
const PATIENT: (&str, u64, u64) = ("claude-haiku-4-5", 1_000, 5_000);

/// $5 and $25; its provider does not wait for long.
const IMPATIENT: (&str, u64, u64) = ("claude-opus-4-6", 5_000, 25_000);

/// How a request ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Finished,
    Json,
    GoneBefore,
    Gone,
    Reset,
    Truncated,
    ErrorEvent,
    Stalled,
    Refused,
    Failed,
    Revoked,
    Stopped,
}

/// Those that each run comes to on its own.
const ALONE: [Kind; 10] = [
    Kind::Finished,
    Kind::Json,
    Kind::GoneBefore,
    Kind::Gone,
    Kind::Reset,
    Kind::Truncated,
    Kind::ErrorEvent,
    Kind::Stalled,
    Kind::Refused,
    Kind::Failed,
];

/// One request, and what the vendor is to do with it.
#[derive(Debug, Clone, Copy)]
struct Plan {
    kind: Kind,
    number: usize,
    is_stream: bool,
    thinks: bool,
    characters: usize,
    hidden_tokens: u64,
    input_tokens: u64,
    /// Where the answer breaks off, in thousandths of it.
    cut: usize,
}

/// What a token was charged so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Charged {
    requests: u64,
    open: u64,
    tokens: u64,
    nano_usd: u64,
}

type Usage = HashMap<String, Charged>;

impl Kind {
    /// How many tokens share the runs, all at one time: more where most of the time passes waiting.
    fn lanes(self) -> usize {
        if self == Self::Stalled { 25 } else { 5 }
    }
}

impl Plan {
    fn new(kind: Kind, number: usize, random: &mut StdRng) -> Self {
        let is_stream = match kind {
            Kind::Json => false,
            Kind::Reset | Kind::Truncated | Kind::Stalled | Kind::GoneBefore | Kind::Failed => {
                random.random_bool(0.8)
            }
            _ => true,
        };
        Self {
            kind,
            number,
            is_stream,
            thinks: random.random_bool(0.3),
            characters: random.random_range(1..400),
            hidden_tokens: random.random_range(0..200),
            input_tokens: random.random_range(1..120),
            cut: random.random_range(0..1_000),
        }
    }

    fn model(&self) -> (&'static str, u64, u64) {
        if self.kind == Kind::Stalled { IMPATIENT } else { PATIENT }
    }

    /// By which its request is known to the vendor.
    fn mark(&self) -> String {
        format!("{:?}-{};", self.kind, self.number)
    }

    fn body(&self) -> String {
        let Self { thinks, is_stream, characters, hidden_tokens, input_tokens, cut, .. } = self;
        let user_id =
            format!("{}{is_stream};{thinks};{characters};{hidden_tokens};{input_tokens};{cut}", self.mark());
        json!({
            "model": self.model().0, "stream": is_stream, "max_tokens": MAX_TOKENS, "metadata": {"user_id": user_id},
            "messages": [{"role": "user", "content": "Say something."}],
        })
        .to_string()
    }

    /// What the vendor reads of it.
    fn of(request: &Received) -> Option<Self> {
        let body = request.json();
        let mut parts = body.pointer("/metadata/user_id")?.as_str()?.split(';');
        let (kind, number) = parts.next()?.split_once('-')?;
        let all = ALONE.into_iter().chain([Kind::Revoked, Kind::Stopped]);
        let mut kinds = all.filter(|other| format!("{other:?}") == kind);
        Some(Self {
            kind: kinds.next()?,
            number: number.parse().ok()?,
            is_stream: parts.next()? == "true",
            thinks: parts.next()? == "true",
            characters: parts.next()?.parse().ok()?,
            hidden_tokens: parts.next()?.parse().ok()?,
            input_tokens: parts.next()?.parse().ok()?,
            cut: parts.next()?.parse().ok()?,
        })
    }

    fn turn(&self) -> Turn {
        let thinking = self.thinks.then(|| "A summary of what was thought.".to_owned());
        let shown = self.characters + thinking.as_ref().map_or(0, |text| text.len());
        let hidden = if self.thinks { self.hidden_tokens } else { 0 };
        Turn {
            model: self.model().0.to_owned(),
            thinking,
            text: "word".chars().cycle().take(self.characters).collect(),
            tool: None,
            input_tokens: self.input_tokens,
            output_tokens: tokens(shown) + hidden + 3,
        }
    }

    fn answer(&self) -> Answer {
        let turn = self.turn();
        let mut events = vendor::stream(&turn);
        let whole = match self.kind {
            Kind::GoneBefore => return Answer::none(Break::Stall).billed(Bill::default()),
            Kind::Refused => return refusal(&[400, 403, 404, 413, 429, 503, 529], self.cut),
            Kind::Failed => return refusal(&[500, 502, 504], self.cut),
            Kind::ErrorEvent => {
                events.truncate(self.cut * events.len() / 1_000);
                events.push("event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"x\"}}\n\n".to_owned());
                Answer::stream(&events)
            }
            _ if self.is_stream => Answer::stream(&events),
            _ => Answer::json(200, vendor::json(&turn)),
        };
        let after = whole.framed_bytes() * self.cut / 1_000;
        let answer = match self.kind {
            Kind::Reset => whole.broken(Break::Reset, after),
            Kind::Truncated => whole.broken(Break::Close, after),
            Kind::Gone | Kind::Stalled | Kind::Revoked | Kind::Stopped => whole.broken(Break::Stall, after),
            _ => whole,
        };
        let sent = answer.sent();
        let bill = if self.is_stream {
            Bill::of_stream(&sent, self.hidden_tokens)
        } else {
            Bill::of_json(&sent, turn.output_tokens)
        };
        answer.billed(bill)
    }

    /// Compares what the request was charged with the vendor's bill.
    fn check(&self, bill: &Bill, charged: &Charged) {
        let (_, per_input, per_output) = self.model();
        let owed = (
            bill.input_tokens + bill.output_tokens,
            bill.input_tokens * per_input + bill.output_tokens * per_output,
        );
        let found = (charged.tokens, charged.nano_usd);
        let what = format!("{self:?}: {bill:?}, {charged:?}");
        assert_eq!((charged.requests, charged.open), (1, 0), "{what}");
        if self.kind == Kind::Refused {
            assert_eq!(found, (0, 0), "the vendor ran nothing: {what}");
        } else if bill.is_final {
            assert_eq!(found, owed, "the final counts are the bill: {what}");
        } else {
            assert!(found.0 >= owed.0.max(1) && found.1 >= owed.1.max(1), "less than was used: {what}");
        }
        let bound = self.body().len() as u64 + FRAME_TOKENS;
        // A request that does not say where it may run may cost a tenth more.
        let most = (bound + MAX_TOKENS, (bound * per_input + MAX_TOKENS * per_output) * 11 / 10);
        assert!(found.0 <= most.0 && found.1 <= most.1, "more than was reserved: {what}");
    }
}

fn refusal(statuses: &[u16], at: usize) -> Answer {
    let status = statuses[at % statuses.len()];
    Answer::error(status, "api_error", "scripted").billed(Bill::default())
}

fn script() -> Script {
    Arc::new(|request| match Plan::of(request) {
        Some(plan) => plan.answer(),
        None => Answer::error(400, "invalid_request_error", "no plan"),
    })
}

/// A router, its vendor, and what its tokens are charged.
struct Scene {
    upstream: FakeUpstream,
    router: Router,
    snapshot: Snapshot,
    texts: HashMap<String, Secret>,
    usage: watch::Receiver<Usage>,
    over: Arc<AtomicBool>,
    runtime: Handle,
}

impl Scene {
    fn start(upstream: FakeUpstream, lanes: &[String]) -> Self {
        let named: Vec<_> =
            lanes.iter().map(|name| Token { name: name.clone(), ..Token::default() }).collect();
        let (mut snapshot, texts) = gateway::snapshot(&upstream.base_url(), &named).unwrap();
        let limits: LimitsSpec = serde_json::from_value(json!({
            "budgets": [
                {"name": "money", "unit": "USD", "limit": "1000"},
                {"name": "tokens", "unit": "Tokens", "limit": "1000000000", "window": {"rolling": "24h"}},
            ],
        }))
        .unwrap();
        snapshot.tokens.iter_mut().for_each(|token| token.limits = Arc::new(limits.clone()));
        let short = Timeouts { connect_ms: 2_000, first_byte_ms: 1_500, idle_ms: 1_500, total_ms: 60_000 };
        let mut impatient = snapshot.providers[0].clone();
        (impatient.name, impatient.timeouts) = ("impatient".to_owned(), short);
        snapshot.providers.push(impatient);
        let models = vec![IMPATIENT.0.to_owned()];
        snapshot.routes.insert(0, Route::to("impatient", models));
        let files = gateway::snapshot_files(&snapshot, API_KEY).unwrap();
        let router = Setup::snapshot(&files).env("POD_UID", "test").arg("--drain", "0s").start().unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let usage = follow_usage(&router, &over);
        let texts = texts.into_iter().collect();
        Self { upstream, router, snapshot, texts, usage, over, runtime: Handle::current() }
    }

    /// Sends a request and does to it what the client has to do.
    async fn ask(&self, lane: &str, plan: &Plan) {
        let call = Call::message(self.texts[lane].expose(), plan.body());
        match plan.kind {
            Kind::GoneBefore | Kind::Gone => drop(self.begin(&call, plan).await),
            // However it is answered, the bill is what counts.
            _ => drop(call.send(self.router.address()).await),
        }
    }

    /// Sends a request and waits until all that the vendor sends is here.
    async fn begin(&self, call: &Call, plan: &Plan) -> Caller {
        let mut caller = Caller::connect(self.router.address()).await.unwrap();
        // To an older client a body is not in chunks, and its bytes can be counted.
        let bytes = call.bytes();
        let older = String::from_utf8(bytes).unwrap().replacen(" HTTP/1.1\r\n", " HTTP/1.0\r\n", 1);
        caller.write(older.as_bytes()).await.unwrap();
        let bill = self.bill(plan).await;
        if plan.kind != Kind::GoneBefore {
            assert_eq!(caller.head().await.unwrap().status, 200, "{plan:?}");
            let mut seen = 0;
            while seen < bill.sent_bytes {
                let part = caller.some().await.unwrap();
                assert!(!part.is_empty(), "{plan:?}: {seen} of {}", bill.sent_bytes);
                seen += part.len();
            }
        }
        caller
    }

    /// The vendor's bill, once it has the request.
    async fn bill(&self, plan: &Plan) -> Bill {
        for _ in 0..5_000 {
            if let Some(bill) = self.upstream.bill_of(&plan.mark()) {
                return bill;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        panic!("never arrived: {plan:?}");
    }

    /// What a lane was charged since it was charged `before`, once its request is settled.
    async fn settled(&self, lane: &str, before: &Charged) -> Charged {
        let mut usage = self.usage.clone();
        let is_over = |usage: &Usage| {
            let now = usage.get(lane).copied().unwrap_or_default();
            now.requests > before.requests && now.open == 0
        };
        let now = tokio::time::timeout(Duration::from_secs(20), usage.wait_for(is_over)).await;
        now.unwrap_or_else(|_| panic!("{lane} is not settled")).unwrap()[lane]
    }

    /// All runs of one lane, one after the other.
    fn run(&self, kind: Kind, lane: &str, numbers: impl Iterator<Item = usize>, seed: u64) {
        let mut before = Charged::default();
        for number in numbers {
            let plan = Plan::new(kind, number, &mut StdRng::seed_from_u64(seed ^ number as u64));
            self.runtime.block_on(async {
                self.ask(lane, &plan).await;
                let now = self.settled(lane, &before).await;
                plan.check(&self.bill(&plan).await, &now.since(&before));
                before = now;
            });
        }
    }

    /// Publishes the snapshot with every token suspended or not.
    fn suspend(&mut self, suspended: bool) {
        self.snapshot.generation += 1;
        self.snapshot.tokens.iter_mut().for_each(|token| token.suspended = suspended);
        let directory = self.router.directory().join("snapshot");
        for (name, text) in gateway::snapshot_files(&self.snapshot, API_KEY).unwrap() {
            std::fs::write(directory.join("next"), text).unwrap();
            std::fs::rename(directory.join("next"), directory.join(name)).unwrap();
        }
        let generation = self.snapshot.generation;
        eventually("the snapshot to be loaded", Duration::from_secs(10), || {
            let (_, status) = self.router.ask_admin("GET", "/status", "")?;
            Ok((status.to_string().contains(&format!("\"generation\":{generation}"))).then_some(()))
        })
        .unwrap();
    }

    /// Opens a stream in every lane, has `end` end them all, and compares.
    async fn end_together(&mut self, kind: Kind, plans: &[(String, Plan)], end: impl Fn(&mut Self)) {
        let before = self.usage.borrow().clone();
        let begun = plans.iter().map(|(lane, plan)| {
            let call = Call::message(self.texts[lane].expose(), plan.body());
            let scene = &*self;
            async move { scene.begin(&call, plan).await }
        });
        let callers = futures::future::join_all(begun).await;
        end(self);
        for (lane, plan) in plans {
            assert_eq!(plan.kind, kind);
            let before = before.get(lane).copied().unwrap_or_default();
            let now = self.settled(lane, &before).await;
            plan.check(&self.bill(plan).await, &now.since(&before));
        }
        drop(callers);
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

impl Charged {
    fn read(entry: &Value) -> Self {
        let count = |pointer: &str| entry.pointer(pointer).and_then(Value::as_u64).unwrap_or_default();
        let kinds = ["inputTokens", "cacheWriteTokens", "cacheReadTokens", "outputTokens"];
        Self {
            requests: count("/requests"),
            open: count("/open"),
            tokens: kinds.iter().map(|kind| count(&format!("/tokens/{kind}"))).sum(),
            nano_usd: count("/nanoUsd"),
        }
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            requests: self.requests - before.requests,
            open: self.open,
            tokens: self.tokens - before.tokens,
            nano_usd: self.nano_usd - before.nano_usd,
        }
    }
}

/// Asks a router what its tokens were charged, again and again.
fn follow_usage(router: &Router, over: &Arc<AtomicBool>) -> watch::Receiver<Usage> {
    let (sender, receiver) = watch::channel(Usage::new());
    let (admin, over) = (router.admin(), Arc::clone(over));
    std::thread::spawn(move || {
        let bearer = format!("Bearer {ADMIN_KEY}");
        while !over.load(Ordering::Relaxed) {
            let answer = Client::new(admin).send_with("GET", "/v1/usage", &[("authorization", &bearer)], "");
            let usage = answer.ok().and_then(|answer| serde_json::from_str::<Value>(&answer.body).ok());
            let entries = usage.as_ref().and_then(|usage| usage["data"].as_array());
            if let Some(entries) = entries {
                let lane = |entry: &Value| {
                    let subject = entry["subject"].as_str().unwrap_or_default();
                    (subject.rsplit('/').next().unwrap_or_default().to_owned(), Charged::read(entry))
                };
                sender.send_replace(entries.iter().map(lane).collect());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    receiver
}

fn lanes(kind: Kind, count: usize) -> Vec<String> {
    (0..count).map(|lane| format!("{kind:?}-{lane}").to_lowercase()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_is_charged_the_vendors_bill_or_not_less_than_was_seen_of_it() {
    let (seed, runs) = (proof::seed(), proof::rounds(RUNS));
    let upstream = FakeUpstream::start(script()).await.unwrap();
    let all: Vec<_> = ALONE.iter().flat_map(|kind| lanes(*kind, kind.lanes())).collect();
    let scene = Scene::start(upstream, &all);
    std::thread::scope(|scope| {
        for kind in ALONE {
            for (at, lane) in lanes(kind, kind.lanes()).into_iter().enumerate() {
                let scene = &scene;
                scope.spawn(move || scene.run(kind, &lane, (at..runs).step_by(kind.lanes()), seed));
            }
        }
    });
    assert_eq!(scene.upstream.violations(), Vec::<String>::new(), "seed {seed}");
    println!("seed {seed}: {runs} runs of each of {} endings", ALONE.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revoked_and_stopped_requests_are_charged_not_less_than_was_seen_of_them() {
    const TOGETHER: usize = 50;
    let (seed, runs) = (proof::seed(), proof::rounds(RUNS));
    let upstream = FakeUpstream::start(script()).await.unwrap();
    let lanes = lanes(Kind::Revoked, TOGETHER);
    let mut scene = Scene::start(upstream, &lanes);
    let mut random = StdRng::seed_from_u64(seed);
    for first in (0..runs).step_by(TOGETHER) {
        for kind in [Kind::Revoked, Kind::Stopped] {
            let numbers = first..(first + TOGETHER).min(runs);
            let plans = lanes.iter().cloned().zip(numbers.map(|number| Plan::new(kind, number, &mut random)));
            let plans: Vec<_> = plans.collect();
            let end = |scene: &mut Scene| match kind {
                Kind::Revoked => scene.suspend(true),
                _ => {
                    scene.router.terminate().unwrap();
                    assert!(scene.router.wait(Duration::from_secs(10)).unwrap().success(), "seed {seed}");
                    scene.router.restart().unwrap();
                }
            };
            scene.end_together(kind, &plans, end).await;
            if kind == Kind::Revoked {
                scene.suspend(false);
            }
        }
    }
    println!("seed {seed}: {runs} runs of each of two endings");
}
