//! Sockets of the data port: threads that accept, connections they serve, and how both end.
//!
//! Every thread has a socket, a runtime and connections of its own; the kernel spreads clients over the
//! sockets. Draining closes the sockets, lets open requests end, and at the deadline ends what is left.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;

mod accept;
pub(crate) mod client;
pub(crate) mod connection;
pub(crate) mod passing;
mod pulse;
pub mod seat;
pub(crate) mod socket;
pub mod worker;

use accept::Shared;
use worker::BodyBudget;

use crate::config::live::LiveCell;
use crate::ledger::Ledger;
use crate::observe::metrics::Metrics;

/// How the data port is served.
#[derive(Debug, Clone)]
pub struct DataPlane {
    /// Address and port; port 0 takes any free one.
    pub listen: SocketAddr,
    /// Threads, each with a socket and connections of its own.
    pub threads: usize,
    /// Most client connections; one more is answered 503 and closed.
    pub max_connections: usize,
    /// Most bytes of one request body.
    pub max_body_bytes: usize,
    /// Most bytes of all request bodies held at a time.
    pub body_budget_bytes: usize,
    /// Whether every request is logged.
    pub request_log: bool,
}

/// A data port that is served.
pub struct Running {
    local_addr: SocketAddr,
    phase: watch::Sender<Phase>,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// How serving ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Requests that were still open at the deadline and were cut.
    pub cut: u64,
}

/// What the threads are to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Serving,
    /// Accept nothing, finish what is open.
    Draining,
    /// End what is still open at this moment, in milliseconds of the monotonic clock.
    CutAt(u64),
}

impl DataPlane {
    /// Starts serving.
    ///
    /// # Errors
    /// When the address cannot be listened on, or a thread cannot be started.
    pub fn start(
        self,
        live: Arc<LiveCell>,
        ledger: Arc<Ledger>,
        metrics: Arc<Metrics>,
    ) -> io::Result<Running> {
        let sockets = socket::listen(self.listen, self.threads.max(1))?;
        let local_addr = sockets.first().map_or(Ok(self.listen), std::net::TcpListener::local_addr)?;
        let (phase, _) = watch::channel(Phase::Serving);
        let bodies = BodyBudget::new(self.body_budget_bytes, Arc::clone(&metrics));
        let (open, cut) = (AtomicUsize::new(0), AtomicU64::new(0));
        let shared = Arc::new(Shared { plane: self, live, ledger, metrics, bodies, open, cut });
        let mut running = Running { local_addr, phase, shared, threads: Vec::new() };
        for (at, socket) in sockets.into_iter().enumerate() {
            let (shared, phase) = (Arc::clone(&running.shared), running.phase.subscribe());
            let thread = std::thread::Builder::new().name(format!("data-{at}"));
            running.threads.push(thread.spawn(move || accept::run(shared, socket, phase))?);
        }
        Ok(running)
    }
}

impl Running {
    /// The address that is listened on.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Stops accepting; open requests go on, idle connections close.
    pub fn begin_drain(&self) {
        self.phase.send_if_modified(|phase| {
            let serving = *phase == Phase::Serving;
            if serving {
                *phase = Phase::Draining;
            }
            serving
        });
    }

    /// Waits until every request has ended, at most for `deadline`, then ends what is left. Afterwards
    /// every reservation is settled. Blocks.
    pub fn join(mut self, deadline: Duration) -> Drained {
        let wait_ms = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
        self.phase.send_replace(Phase::CutAt(crate::clock::monotonic_ms().saturating_add(wait_ms)));
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the data port ended with a panic");
            }
        }
        Drained { cut: self.shared.cut.load(std::sync::atomic::Ordering::Relaxed) }
    }
}

impl Drop for Running {
    /// Ends at once what was not drained.
    fn drop(&mut self) {
        self.phase.send_replace(Phase::CutAt(0));
    }
}
