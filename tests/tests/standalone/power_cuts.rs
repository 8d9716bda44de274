//! Loss of power at every change that a real router makes on its disk: no request, token or dollar is given away,
//! and nobody loses more than what was granted and what was open.

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use la_core::amount::{Amounts, Unit};
use la_core::budget::{SavedBook, SavedMeter};
use la_tests::caller::Call;
use la_tests::cluster::la_router;
use la_tests::disk::{Disk, Kept, Tape};
use la_tests::fakes::FakeUpstream;
use la_tests::proof;
use la_tests::router::Router;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::budgeted::{self, add_token, meters};

/// For how many whole answers the scarce budget of a token lasts: not for all that is asked.
const LIMIT: u64 = 44;

/// Requests of one token in one life of the router, some at a time.
const REQUESTS: usize = 16;

/// A token, and which of its budgets binds it.
struct Agent {
    name: String,
    scarce: Unit,
    limits: Amounts,
    token: String,
}

/// A request at the vendor.
#[derive(Clone)]
struct Arrival {
    /// How long the tape was.
    taped_bytes: u64,
    name: String,
    billed: Amounts,
}

/// A router whose life is on tape.
struct Run {
    router: Router,
    agents: [Agent; Unit::ALL.len()],
    arrivals: Vec<Arrival>,
}

impl Agent {
    fn new(router: &Router, scarce: Unit) -> Self {
        let (name, limits) = (scarce.name().to_lowercase(), budgeted::limits(scarce, LIMIT));
        let token = add_token(router, &name, &limits);
        Self { name, scarce, limits, token }
    }

    /// How many of the requests were refused, by its scarce budget.
    async fn ask(&self, router: &Router) -> usize {
        let mut refused = 0;
        for _ in 0..REQUESTS / 4 {
            let mut asking = JoinSet::new();
            for _ in 0..4 {
                let call = Call::message(&self.token, budgeted::body(&self.name, true));
                let address = router.address();
                asking.spawn(async move { call.send(address).await.unwrap() });
            }
            for reply in asking.join_all().await {
                let said = reply.text();
                let is_refusal = reply.status == 429 && said.contains(&format!("budget {} ", self.scarce));
                assert!(reply.status == 200 || is_refusal, "{} {said}", reply.status);
                refused += usize::from(is_refusal);
            }
        }
        refused
    }
}

/// Three lives of one router: one ends in order, one is killed, and one is killed with requests open.
async fn lives(disk: &Arc<Disk>) -> Run {
    let arrivals: Arc<Mutex<Vec<Arrival>>> = Arc::default();
    let script = {
        let (disk, arrivals) = (Arc::clone(disk), Arc::clone(&arrivals));
        budgeted::vendor(move |name, billed| {
            let (taped_bytes, name) = (disk.taped_bytes(), name.to_owned());
            arrivals.lock().unwrap().push(Arrival { taped_bytes, name, billed });
        })
    };
    let upstream = FakeUpstream::start(script).await.unwrap();
    let setup = budgeted::setup(&upstream.base_url());
    let environment = disk.environment("{dir}/data");
    let setup = environment.iter().fold(setup, |setup, (name, value)| setup.env(name, value));
    let mut router = setup.start().unwrap();
    let agents = Unit::ALL.map(|unit| Agent::new(&router, unit));
    ask_all(&router, &agents).await;
    router.terminate().unwrap();
    router.wait(Duration::from_secs(20)).unwrap();
    router.restart().unwrap();
    ask_all(&router, &agents).await;
    router.kill();
    router.restart().unwrap();
    let known = upstream.count();
    let mut open = JoinSet::new();
    for agent in &agents {
        let (call, address) =
            (Call::message(&agent.token, budgeted::held_body(&agent.name)), router.address());
        open.spawn(async move { call.send(address).await });
    }
    while upstream.count() < known + agents.len() {
        tokio::task::yield_now().await;
    }
    let refused = ask_all(&router, &agents).await;
    assert!(refused.iter().all(|count| *count > 0), "not every budget binds: {refused:?}");
    router.kill();
    drop(open);
    let arrivals = arrivals.lock().unwrap().clone();
    Run { router, agents, arrivals }
}

async fn ask_all(router: &Router, agents: &[Agent]) -> Vec<usize> {
    let mut refused = Vec::new();
    for agent in agents {
        refused.push(agent.ask(router).await);
    }
    refused
}

/// What a router makes of a disk, after a kill or a loss of power.
fn reopened(data_dir: &Path, environment: &[(&str, String)], what: &str) -> SavedBook {
    let mut command = Command::new(la_router().unwrap());
    command.env_clear().envs(environment.iter().map(|(name, value)| (name, value)));
    let output = command.env("DATA_DIR", data_dir).args(["ledger", "export"]).output().unwrap();
    assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// One moment of the recorded run.
struct Moment<'a> {
    tape: &'a Tape,
    run: &'a Run,
    changes: usize,
}

impl Moment<'_> {
    fn disk(&self, kept: Kept<'_>) -> TempDir {
        let to = TempDir::new().unwrap();
        self.tape.disk(self.changes, kept, (&self.run.router.data_dir(), to.path())).unwrap();
        to
    }

    fn check(&self, environment: &[(&str, String)], dice: &mut StdRng, subsets: usize) {
        let what = format!("after {} of {} changes", self.changes, self.tape.len());
        let killed = reopened(self.disk(Kept::All).path(), &[], &what);
        for number in 0..=subsets {
            let disk = self.disk(if number == 0 { Kept::None } else { Kept::Some(&mut *dice) });
            let what = format!("{what}, disk {number}");
            let cut = reopened(disk.path(), environment, &what);
            for agent in &self.run.agents {
                self.check_agent(agent, (&cut, &killed), &what);
            }
        }
    }

    fn check_agent(&self, agent: &Agent, (cut, killed): (&SavedBook, &SavedBook), what: &str) {
        let truth = self.truth(&agent.name);
        for unit in Unit::ALL {
            let (truth, limit) = (truth.of(unit), agent.limits.of(unit));
            let (counted, killed) = (meters(cut, &agent.name, unit), meters(killed, &agent.name, unit));
            assert!(truth == 0 || !counted.is_empty(), "{what}: nothing of {unit} is counted");
            for SavedMeter { window, settled: taken, .. } in counted {
                let what = format!("{what}: {taken} {unit} of {} counted", agent.name);
                assert!(*taken >= truth, "{what}, {truth} billed: given away");
                assert!(*taken <= limit, "{what} of {limit}");
                let known = killed.iter().find(|meter| meter.window == *window);
                let most = known.map_or(0, |meter| meter.granted.max(meter.settled));
                assert!(*taken <= most, "{what} of {most} granted or open");
            }
        }
    }

    /// What the vendor had billed an agent or was about to.
    fn truth(&self, name: &str) -> Amounts {
        let is_past = |arrival: &&Arrival| self.tape.changes_at(arrival.taped_bytes) <= self.changes;
        let arrivals = self.run.arrivals.iter().filter(|arrival| arrival.name == name).filter(is_past);
        arrivals.fold(Amounts::default(), |sum, arrival| sum.plus(&arrival.billed))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn power_cut_after_any_change_of_the_disk_gives_nothing_away() {
    let disk = Arc::new(Disk::new().unwrap());
    let run = lives(&disk).await;
    let tape = disk.tape().unwrap();
    let seed = proof::seed();
    let mut dice = StdRng::seed_from_u64(seed);
    println!("seed {seed}: {} changes, {} requests", tape.len(), run.arrivals.len());
    assert!(tape.len() > 300 && run.arrivals.len() > 100);
    let environment = disk.other_boot().unwrap();
    // Every change in full, else one in ten.
    let stride = if proof::rounds(10) == 10 { 1 } else { 10 };
    let first = dice.random_range(0..stride);
    for changes in (first..=tape.len()).step_by(stride) {
        let moment = Moment { tape: &tape, run: &run, changes };
        moment.check(&environment, &mut dice, 3);
    }
}
