//! Loss of power at every change that a real router makes on its disk: nothing is given away, and nobody loses
//! more than what was granted and what was open.

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use la_core::amount::Unit;
use la_core::budget::{SavedBook, SavedMeter};
use la_tests::caller::Call;
use la_tests::cluster::la_router;
use la_tests::disk::{Disk, Kept, Tape};
use la_tests::fakes::FakeUpstream;
use la_tests::fakes::vendor::{self, Known};
use la_tests::proof;
use la_tests::router::{Router, Setup};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinSet;

/// Its subject is [`SUBJECT`].
const MANIFESTS: &str = r#"
apiVersion: router.link-assistant.dev/v1alpha1
kind: RouterProxy
metadata: {name: gateway, namespace: team}
spec: {routes: [{candidates: [{provider: vendor}]}]}
---
apiVersion: router.link-assistant.dev/v1alpha1
kind: UpstreamProvider
metadata: {name: vendor, namespace: team}
spec:
  backend: {anthropic: {baseURL: BASE_URL, accounts: [{name: main, credential: {apiKey: {secretRef: {name: login}}}}]}}
---
apiVersion: v1
kind: Secret
metadata: {name: login, namespace: team}
stringData: {apiKey: sk-ant-api03-canary-key}
---
apiVersion: router.link-assistant.dev/v1alpha1
kind: RouterToken
metadata: {name: agent, namespace: team}
spec: {proxyRef: {name: gateway}, secretName: agent-token, limits: {maxRequests: 250}}
"#;

const SUBJECT: &str = "gateway/team/agent";

/// The limit of each unit in [`MANIFESTS`].
const LIMITS: [(Unit, u64); 1] = [(Unit::Requests, 250)];

/// Requests of one life of the router, some at a time.
const REQUESTS: usize = 48;

const MODEL: &str = "claude-opus-5";

fn body(model: &str) -> String {
    format!(
        r#"{{"model":"{model}","max_tokens":16,"stream":true,"messages":[{{"role":"user","content":"hi"}}]}}"#
    )
}

/// How long the tape was when each request arrived at the vendor.
type Arrivals = Arc<Mutex<Vec<u64>>>;

async fn ask(router: &Router) {
    let token = std::fs::read_to_string(router.directory().join("tokens/team/agent/token")).unwrap();
    for _ in 0..REQUESTS / 4 {
        let mut asking = JoinSet::new();
        for _ in 0..4 {
            let (call, address) = (Call::message(token.trim(), body(MODEL)), router.address());
            asking.spawn(async move { call.send(address).await.unwrap().status });
        }
        assert_eq!(asking.join_all().await, [200; 4]);
    }
}

/// Three lives of one router: one ends in order, one is killed, and one is killed with requests open.
async fn lives(disk: &Arc<Disk>) -> (Router, Arrivals) {
    let arrivals = Arrivals::default();
    let script = {
        let (disk, arrivals, inner) = (Arc::clone(disk), arrivals.clone(), vendor::script(Known::default()));
        Arc::new(move |request: &_| {
            arrivals.lock().unwrap().push(disk.taped_bytes());
            inner(request)
        })
    };
    let upstream = FakeUpstream::start(script).await.unwrap();
    let manifests = MANIFESTS.replace("BASE_URL", &upstream.base_url());
    let setup = Setup::manifests(&[("all.yaml", &manifests)]).arg("--tokens-dir", "{dir}/tokens");
    let environment = disk.environment("{dir}/data");
    let setup = environment.iter().fold(setup, |setup, (name, value)| setup.env(name, value));
    let mut router = setup.start().unwrap();
    ask(&router).await;
    router.terminate().unwrap();
    router.wait(Duration::from_secs(20)).unwrap();
    router.restart().unwrap();
    ask(&router).await;
    router.kill();
    router.restart().unwrap();
    ask(&router).await;
    let token = std::fs::read_to_string(router.directory().join("tokens/team/agent/token")).unwrap();
    let known = upstream.count();
    let mut open = JoinSet::new();
    for _ in 0..3 {
        let (call, address) = (Call::message(token.trim(), body("hold-60000")), router.address());
        open.spawn(async move { call.send(address).await });
    }
    while upstream.count() < known + 3 {
        tokio::task::yield_now().await;
    }
    router.kill();
    drop(open);
    (router, arrivals)
}

/// What a router makes of a disk, after a kill or a loss of power.
fn reopened(data_dir: &Path, environment: &[(&str, String)], what: &str) -> SavedBook {
    let mut command = Command::new(la_router().unwrap());
    command.env_clear().envs(environment.iter().map(|(name, value)| (name, value)));
    let output = command.env("DATA_DIR", data_dir).args(["ledger", "export"]).output().unwrap();
    assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn meters(book: &SavedBook) -> Vec<&SavedMeter> {
    let owner = book.owners.iter().find(|owner| owner.subject.as_str() == SUBJECT);
    owner.map(|owner| owner.meters.iter().collect()).unwrap_or_default()
}

fn meter<'a>(book: &'a SavedBook, like: &SavedMeter) -> Option<&'a SavedMeter> {
    let same = |other: &&SavedMeter| other.unit == like.unit && other.window == like.window;
    meters(book).into_iter().find(same)
}

/// What one request came to, by the vendor's answer as the router's usage log has it.
fn bill(router: &Router, unit: Unit) -> u64 {
    let log = std::fs::read_to_string(router.data_dir().join("usage/usage-1.jsonl")).unwrap();
    let line: Value = serde_json::from_str(log.lines().next().unwrap()).unwrap();
    let usage: la_core::usage::Usage = serde_json::from_value(line["usage"].clone()).unwrap();
    match unit {
        Unit::Requests => 1,
        Unit::Tokens => usage.total_input() + usage.output_tokens,
        Unit::Usd => {
            let billed = serde_json::from_value(line["billed"].clone()).unwrap();
            let book = la_core::price::Book::default();
            la_core::price::cost_nano_usd(&billed, &book.model(MODEL).unwrap().price)
        }
    }
}

/// One moment of the recorded run.
struct Moment<'a> {
    tape: &'a Tape,
    data_dir: &'a Path,
    changes: usize,
    /// Of each unit of [`LIMITS`], what the vendor had billed or was about to.
    truth: Vec<u64>,
}

impl Moment<'_> {
    fn disk(&self, kept: Kept<'_>) -> TempDir {
        let to = TempDir::new().unwrap();
        self.tape.disk(self.changes, kept, (self.data_dir, to.path())).unwrap();
        to
    }

    fn check(&self, environment: &[(&str, String)], dice: &mut StdRng, subsets: usize) {
        let what = format!("after {} of {} changes", self.changes, self.tape.len());
        let killed = reopened(self.disk(Kept::All).path(), &[], &what);
        for number in 0..=subsets {
            let disk = self.disk(if number == 0 { Kept::None } else { Kept::Some(&mut *dice) });
            let what = format!("{what}, disk {number}");
            let cut = reopened(disk.path(), environment, &what);
            for ((unit, limit), truth) in LIMITS.iter().zip(&self.truth) {
                let mut counted = meters(&cut).into_iter().filter(|meter| meter.unit == *unit).peekable();
                assert!(*truth == 0 || counted.peek().is_some(), "{what}: nothing of {unit} is counted");
                for counted in counted {
                    let taken = counted.settled;
                    assert!(taken >= *truth, "{what}: {taken} {unit} counted of {truth}: given away");
                    assert!(taken <= *limit, "{what}: {taken} {unit} counted of {limit}: beyond the limit");
                    let granted = meter(&killed, counted).map_or(0, |meter| meter.granted.max(meter.settled));
                    assert!(taken <= granted, "{what}: {taken} {unit} counted of {granted} granted");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn power_cut_after_any_change_of_the_disk_gives_nothing_away() {
    let disk = Arc::new(Disk::new().unwrap());
    let (router, arrivals) = lives(&disk).await;
    let (tape, arrivals) = (disk.tape().unwrap(), arrivals.lock().unwrap().clone());
    let bills = LIMITS.map(|(unit, _)| bill(&router, unit));
    let seed = proof::seed();
    let mut dice = StdRng::seed_from_u64(seed);
    println!("seed {seed}: {} changes, {} requests", tape.len(), arrivals.len());
    assert!(tape.len() > 300 && arrivals.len() == 3 * REQUESTS + 3);
    let environment = disk.other_boot().unwrap();
    // Every change in full, else one in ten.
    let stride = if proof::rounds(10) == 10 { 1 } else { 10 };
    let first = dice.random_range(0..stride);
    for changes in (first..=tape.len()).step_by(stride) {
        let arrived = arrivals.iter().filter(|bytes| tape.changes_at(**bytes) <= changes).count() as u64;
        // The last three were never answered, and came to one request each.
        let answered = arrived.min(3 * REQUESTS as u64);
        let truth = LIMITS.iter().zip(bills).map(|((unit, _), bill)| match unit {
            Unit::Requests => arrived,
            Unit::Tokens | Unit::Usd => answered * bill,
        });
        let (data_dir, truth) = (router.data_dir(), truth.collect());
        let moment = Moment { tape: &tape, data_dir: &data_dir, changes, truth };
        moment.check(&environment, &mut dice, 3);
    }
}
