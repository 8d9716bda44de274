//! Disks that are full, read-only or fail to sync under a real router with several clients: it refuses within a second,
//! says so, is not corrupted, and serves again without a restart once the disk is well.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use la_tests::caller::{Call, Caller};
use la_tests::cluster::{Client, eventually, la_router, measure};
use la_tests::disk::Disk;
use la_tests::fakes::FakeUpstream;
use la_tests::fakes::vendor::{self, Known};
use la_tests::router::{Router, Setup};
use tempfile::TempDir;
use tokio::task::{JoinSet, block_in_place};

const BODY: &str =
    r#"{"model":"claude-opus-5","max_tokens":16,"stream":false,"messages":[{"role":"user","content":"hi"}]}"#;

/// Clients that ask at the same time.
const CLIENTS: usize = 8;

/// A file system of its own, of so many bytes. Gone when dropped.
struct Small {
    folder: TempDir,
}

impl Small {
    fn mount(size: &str) -> Self {
        let folder = TempDir::with_prefix("la-router-small-").unwrap();
        run("mount", &["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"], folder.path());
        Self { folder }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Leaves no room at all.
    fn fill(&self) {
        let block = vec![7; 1 << 16];
        let mut file = std::fs::File::create(self.path().join("filler")).unwrap();
        while std::io::Write::write_all(&mut file, &block).is_ok() {}
        while std::io::Write::write_all(&mut file, &[7]).is_ok() {}
    }

    fn clear(&self) {
        std::fs::remove_file(self.path().join("filler")).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

fn run(program: &str, args: &[&str], last: &Path) {
    let output = Command::new(program).args(args).arg(last).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?} needs root and a kernel that permits it: {said}");
}

/// Clients that ask without a pause. Gone when dropped.
struct Load {
    /// What each of them was answered last.
    last: Arc<[AtomicU16; CLIENTS]>,
    _clients: JoinSet<()>,
}

impl Load {
    fn start(scene: &Scene) -> Self {
        let last: Arc<[AtomicU16; CLIENTS]> = Arc::default();
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let (call, last) = (Call::message(&scene.token, BODY), Arc::clone(&last));
            let address = scene.router.address();
            clients.spawn(async move {
                let mut caller = Caller::connect(address).await.unwrap();
                while caller.write(&call.bytes()).await.is_ok() {
                    let Ok(reply) = caller.reply(false).await else { return };
                    last[number].store(reply.status, Ordering::SeqCst);
                    if reply.header("connection").is_some_and(|value| value == "close") {
                        caller = Caller::connect(address).await.unwrap();
                    }
                }
            });
        }
        Self { last, _clients: clients }
    }

    /// Whether this was the last answer to every client.
    fn all_got(&self, status: u16) -> bool {
        self.last.iter().all(|last| last.load(Ordering::SeqCst) == status)
    }
}

/// A router, its upstream, a token without a limit.
struct Scene {
    upstream: FakeUpstream,
    router: Router,
    token: String,
}

impl Scene {
    async fn set(environment: &[(&str, String)], data: Option<&Path>) -> Self {
        let upstream = FakeUpstream::start(vendor::script(Known::default())).await.unwrap();
        let setup = Setup::flags(&upstream.base_url());
        let setup = environment.iter().fold(setup, |setup, (name, value)| setup.env(name, value));
        let setup = data.iter().fold(setup, |setup, data| setup.data_dir(data));
        let router = setup.start().unwrap();
        let token = router.issue(&[]).unwrap();
        let scene = Self { upstream, router, token };
        assert_eq!(scene.ask().await, 200);
        scene
    }

    async fn ask(&self) -> u16 {
        Call::message(&self.token, BODY).send(self.router.address()).await.unwrap().status
    }

    fn readiness(&self) -> (u16, String) {
        let answer = Client::new(self.router.admin()).send("GET", "/readyz", "", "").unwrap();
        (answer.status, answer.body)
    }

    /// Within a second from when the disk is `broken`, under load, every client is refused and readiness is off.
    async fn refuses_once(&self, broken: impl FnOnce()) {
        let load = Load::start(self);
        let is_on = || Ok(load.all_got(200).then_some(()));
        block_in_place(|| eventually("every client to be served", Duration::from_secs(20), is_on)).unwrap();
        let is_off = || Ok((load.all_got(503) && self.readiness().0 == 503).then_some(()));
        let (refused, took) = block_in_place(|| {
            broken();
            let what = "every client to be refused and readiness to be off";
            measure(|| eventually(what, Duration::from_secs(1), is_off))
        });
        refused.unwrap();
        println!("every client was refused and readiness was off after {took:?}");
        let served = self.upstream.count();
        assert!(self.readiness().1.contains("ledger cannot count use"), "{:?}", self.readiness());
        for _ in 0..20 {
            assert_eq!(self.ask().await, 503);
        }
        assert!(load.all_got(503));
        assert_eq!(self.upstream.count(), served, "a refused request reached the vendor");
    }

    async fn recovers(&self) {
        let ready = || Ok((self.readiness().0 == 200).then_some(()));
        eventually("the router to be ready again", Duration::from_secs(5), ready).unwrap();
        for _ in 0..20 {
            assert_eq!(self.ask().await, 200);
        }
    }

    /// What is counted is what the vendor saw, after a kill and by the log, and nothing has panicked.
    fn ends_whole(mut self) {
        self.router.kill();
        self.router.restart().unwrap();
        let (_, usage) = self.router.ask_admin("GET", "/v1/usage", "").unwrap();
        assert_eq!(
            (&usage["data"][0]["requests"], &usage["data"][0]["open"]),
            (&self.upstream.count().into(), &0.into())
        );
        let mut command = Command::new(la_router().unwrap());
        command.env_clear().env("DATA_DIR", self.router.data_dir());
        let output = command.args(["ledger", "recompute"]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(!self.router.log().contains("panicked"), "{}", self.router.log());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_disk_refuses_within_a_second_and_recovers_with_its_space() {
    let small = Small::mount("16m");
    let scene = Scene::set(&[], Some(&small.path().join("data"))).await;
    for _ in 0..2 {
        scene.refuses_once(|| small.fill()).await;
        small.clear();
        scene.recovers().await;
    }
    scene.ends_whole();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disk_that_turns_read_only_refuses_within_a_second() {
    let disk = Disk::new().unwrap();
    let scene = Scene::set(&disk.environment("{dir}/data"), None).await;
    scene.refuses_once(|| disk.read_only(true).unwrap()).await;
    disk.read_only(false).unwrap();
    scene.recovers().await;
    scene.ends_whole();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sync_that_fails_refuses_within_a_second() {
    let disk = Disk::new().unwrap();
    let scene = Scene::set(&disk.environment("{dir}/data"), None).await;
    // What is granted already is durable and may be spent: the disk shows that it is broken at the next sync.
    let broken = || {
        disk.fail_syncs(true).unwrap();
        let failed = || Ok((disk.failed_syncs() > 0).then_some(()));
        eventually("a sync to fail", Duration::from_secs(60), failed).unwrap();
    };
    scene.refuses_once(broken).await;
    disk.fail_syncs(false).unwrap();
    scene.recovers().await;
    scene.ends_whole();
}

#[test]
fn folder_on_a_read_only_file_system_is_refused_at_the_start_by_its_name() {
    let small = Small::mount("1m");
    run("mount", &["-o", "remount,ro"], small.path());
    let mut command = Command::new(la_router().unwrap());
    command.env_clear().env("HOME", small.path()).env("ANTHROPIC_API_KEY", la_tests::router::API_KEY);
    let output = command.args(["serve", "--port", "0", "--admin-listen", "127.0.0.1:0"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&small.path().display().to_string()) && said.contains("--data-dir"), "{said}");
}
