//! A pretend kubelet: runs the pods of StatefulSets as plain processes on addresses of loopback.
//!
//! True to the real one where proxies depend on it: Secret volumes change by an atomic link, only after the pod
//! itself changed or a minute has passed (a real kubelet looks at a pod again when the pod changes, otherwise 66 to
//! 113 s later, measured); readiness comes from the pod's own probe; containers are started again. Images,
//! security contexts and resources are ignored: the container is always the real `la-router` of this build.

mod pod;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use self::pod::Pod;
use super::{ApiServer, Client};

const PAUSE: Duration = Duration::from_millis(100);

/// Runs the pods of one namespace until it is dropped.
#[derive(Debug)]
pub struct Kubelet {
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct State {
    client: Client,
    namespace: String,
    directory: PathBuf,
    /// By UID.
    pods: Mutex<BTreeMap<String, Pod>>,
    stop: AtomicBool,
    paused: AtomicBool,
}

impl Kubelet {
    /// Starts to run the pods of `namespace`.
    ///
    /// # Errors
    /// When its directory or thread cannot be made.
    pub fn start(api: &ApiServer, namespace: &str) -> Result<Self> {
        let state = Arc::new(State {
            client: api.client(),
            namespace: namespace.to_owned(),
            directory: api.directory().join(format!("kubelet-{namespace}")),
            pods: Mutex::default(),
            stop: AtomicBool::new(false),
            paused: AtomicBool::new(false),
        });
        std::fs::create_dir_all(&state.directory)?;
        let shared = Arc::clone(&state);
        let thread = std::thread::Builder::new().name("kubelet".to_owned()).spawn(move || shared.run())?;
        Ok(Self { state, thread: Some(thread) })
    }

    /// The address of the running pod `name`.
    pub fn address(&self, name: &str) -> Option<IpAddr> {
        self.state.pods().values().find(|pod| pod.name() == name && pod.is_running()).map(Pod::address)
    }

    /// What the pod's container has written, over all its starts.
    pub fn log(&self, name: &str) -> String {
        self.state.pods().values().find(|pod| pod.name() == name).map(Pod::log).unwrap_or_default()
    }

    /// Kills the pod's container (SIGKILL). It is started again, as `restartPolicy: Always` has it.
    pub fn kill(&self, name: &str) {
        for pod in self.state.pods().values_mut().filter(|pod| pod.name() == name) {
            pod.kill();
        }
    }

    /// Stops doing anything, like a kubelet that hangs; pods go on.
    pub fn pause(&self, paused: bool) {
        self.state.paused.store(paused, Ordering::Relaxed);
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.state.pods().clear();
    }
}

impl State {
    fn pods(&self) -> MutexGuard<'_, BTreeMap<String, Pod>> {
        self.pods.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn run(&self) {
        while !self.stop.load(Ordering::Relaxed) {
            if !self.paused.load(Ordering::Relaxed) {
                // The API server may be stopping; a test that fails for that reason says so itself.
                let _ = self.sync();
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn sync(&self) -> Result<()> {
        let path = format!("/api/v1/namespaces/{}/pods", self.namespace);
        let list = self.client.get(&path)?.context("no list of pods")?;
        let seen: BTreeMap<String, &Value> = list["items"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|pod| (text(pod, "/metadata/uid"), pod))
            .collect();
        let mut pods = self.pods();
        pods.retain(|uid, _| seen.contains_key(uid));
        for (uid, object) in seen {
            if text(object, "/metadata/ownerReferences/0/kind") != "StatefulSet" {
                continue;
            }
            let pod = match pods.entry(uid) {
                std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
                std::collections::btree_map::Entry::Vacant(entry) => {
                    entry.insert(Pod::new(object, &self.directory, next_address())?)
                }
            };
            // One pod that cannot be run must not stop the others; its status says that it is not ready.
            let _ = pod.sync(object, self.client);
        }
        Ok(())
    }
}

/// An address of loopback that no other test of this machine uses.
fn next_address() -> IpAddr {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let [_, _, _, number] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    // 127.0.0.0/16 is left to everybody else.
    IpAddr::from([127, (high & 0x3f) + 64, low, number.max(1)])
}

fn text(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}
