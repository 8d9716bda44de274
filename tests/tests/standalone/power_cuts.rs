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
use la_tests::router::Router;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::budgeted::{self, MODEL, UNITS, add_token, meters};

/// Most requests of the token.
const LIMIT: u64 = 250;

/// Requests of one life of the router, some at a time.
const REQUESTS: usize = 48;

fn body(model: &str) -> String {
    format!(
        r#"{{"model":"{model}","max_tokens":16,"stream":true,"messages":[{{"role":"user","content":"hi"}}]}}"#
    )
}

/// How long the tape was when each request arrived at the vendor.
type Arrivals = Arc<Mutex<Vec<u64>>>;

async fn ask(router: &Router, token: &str) {
    for _ in 0..REQUESTS / 4 {
        let mut asking = JoinSet::new();
        for _ in 0..4 {
            let (call, address) = (Call::message(token, body(MODEL)), router.address());
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
    let setup = budgeted::setup(&upstream.base_url());
    let environment = disk.environment("{dir}/data");
    let setup = environment.iter().fold(setup, |setup, (name, value)| setup.env(name, value));
    let mut router = setup.start().unwrap();
    let token = add_token(&router, "agent", LIMIT);
    ask(&router, &token).await;
    router.terminate().unwrap();
    router.wait(Duration::from_secs(20)).unwrap();
    router.restart().unwrap();
    ask(&router, &token).await;
    router.kill();
    router.restart().unwrap();
    ask(&router, &token).await;
    let known = upstream.count();
    let mut open = JoinSet::new();
    for _ in 0..3 {
        let (call, address) = (Call::message(&token, body("hold-60000")), router.address());
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

/// One moment of the recorded run.
struct Moment<'a> {
    tape: &'a Tape,
    data_dir: &'a Path,
    changes: usize,
    /// What the vendor had billed or was about to, by [`UNITS`].
    truth: [u64; UNITS.len()],
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
            for (unit, truth) in UNITS.into_iter().zip(self.truth) {
                let (counted, killed) = (meters(&cut, "agent", unit), meters(&killed, "agent", unit));
                assert!(truth == 0 || !counted.is_empty(), "{what}: nothing of {unit} is counted");
                for SavedMeter { window, settled: taken, .. } in counted {
                    assert!(*taken >= truth, "{what}: {taken} {unit} counted of {truth}: given away");
                    assert!(unit != Unit::Requests || *taken <= LIMIT, "{what}: {taken} counted of {LIMIT}");
                    let known = killed.iter().find(|meter| meter.window == *window);
                    let most = known.map_or(0, |meter| meter.granted.max(meter.settled));
                    assert!(*taken <= most, "{what}: {taken} {unit} counted of {most} granted or open");
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
    let lines = budgeted::lines(&router);
    let bills = UNITS.map(|unit| budgeted::bill(&lines, unit));
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
        let truth =
            std::array::from_fn(
                |at| if UNITS[at] == Unit::Requests { arrived } else { answered * bills[at] },
            );
        let data_dir = router.data_dir();
        let moment = Moment { tape: &tape, data_dir: &data_dir, changes, truth };
        moment.check(&environment, &mut dice, 3);
    }
}
