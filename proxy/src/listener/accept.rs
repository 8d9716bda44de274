//! One thread: accepts, sweeps, and drains.

use std::io;
use std::net;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use la_dialects::anthropic::error::{self, kinds};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::seat::{SWEEP_EVERY_MS, Seats};
use super::worker::{BodyBudget, RequestIds, Worker};
use super::{DataPlane, Phase, connection};
use crate::clock;
use crate::config::live::LiveCell;
use crate::ledger::Ledger;
use crate::observe::metrics::{Kind, Metrics, Reason};
use crate::pipeline::authenticate::Memo;
use crate::pipeline::callers::Callers;
use crate::upstream::Pool;

/// How long ended requests may take to tell their clients.
const CUT_MS: u64 = 1_000;

/// How long to wait when no connection can be accepted, because the process has no file left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long a client that is one too many may take to read why.
const TURN_AWAY: Duration = Duration::from_secs(1);

/// Most clients that one thread turns away at a time; more are closed without a word.
const MAX_TURNED_AWAY: usize = 64;

/// What all threads share.
pub(super) struct Shared {
    pub(super) plane: DataPlane,
    pub(super) live: Arc<LiveCell>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) bodies: Arc<BodyBudget>,
    /// Client connections of all threads.
    pub(super) open: AtomicUsize,
    /// Requests that were ended because the time to drain was over.
    pub(super) cut: AtomicU64,
}

/// Runs one thread to its end.
pub(super) fn run(shared: Arc<Shared>, socket: net::TcpListener, phase: watch::Receiver<Phase>) {
    let ledger = Arc::clone(&shared.ledger);
    let mut builder = Builder::new_current_thread();
    // What was settled since is written down in one go when the thread has nothing else to do.
    builder.enable_io().enable_time().on_thread_park(move || ledger.write_down());
    let runtime = match builder.build_local(LocalOptions::default()) {
        Ok(runtime) => runtime,
        Err(e) => return tracing::error!("a thread of the data port cannot start: {e}"),
    };
    // What is left when this returns is dropped with the runtime, and settled by being dropped.
    runtime.block_on(async {
        if let Err(e) = serve(&shared, socket, phase).await {
            tracing::error!("a thread of the data port cannot listen: {e}");
        }
    });
}

async fn serve(
    shared: &Arc<Shared>,
    socket: net::TcpListener,
    mut phase: watch::Receiver<Phase>,
) -> io::Result<()> {
    let listener = TcpListener::from_std(socket)?;
    let worker = Rc::new(worker(shared));
    let turned_away = Rc::new(());
    let mut changes = shared.live.subscribe();
    let mut ticks = interval(Duration::from_millis(SWEEP_EVERY_MS));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while *phase.borrow_and_update() == Phase::Serving {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => welcome(shared, &worker, &turned_away, socket),
                Err(e) => {
                    tracing::warn!("a connection cannot be accepted: {e}");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            _ = ticks.tick() => sweep(&worker),
            _ = changes.changed() => sweep(&worker),
            _ = phase.changed() => {}
        }
    }
    // Whoever the kernel has already let in is still served.
    while let Ok(Ok((socket, _))) = timeout(Duration::ZERO, listener.accept()).await {
        welcome(shared, &worker, &turned_away, socket);
    }
    drop(listener);
    drain(shared, &worker, &mut phase).await;
    Ok(())
}

fn worker(shared: &Shared) -> Worker {
    Worker {
        live: Arc::clone(&shared.live),
        ledger: Arc::clone(&shared.ledger),
        metrics: Arc::clone(&shared.metrics),
        bodies: Arc::clone(&shared.bodies),
        max_body_bytes: shared.plane.max_body_bytes,
        request_log: shared.plane.request_log,
        buffers: Rc::default(),
        seats: Seats::default(),
        pool: Pool::default(),
        memo: Memo::default(),
        callers: Callers::default(),
        ids: RequestIds::new(),
    }
}

fn sweep(worker: &Worker) {
    worker.seats.sweep(&worker.live.load());
    worker.pool.sweep();
}

fn welcome(shared: &Arc<Shared>, worker: &Rc<Worker>, turned_away: &Rc<()>, socket: TcpStream) {
    let Some(place) = Place::take(shared) else {
        worker.metrics.refusal(Reason::Connections);
        worker.metrics.request(Kind::Local, 503, 0);
        if Rc::strong_count(turned_away) <= MAX_TURNED_AWAY {
            tokio::task::spawn_local(turn_away(socket, too_many(worker), Rc::clone(turned_away)));
        }
        return;
    };
    let worker = Rc::clone(worker);
    tokio::task::spawn_local(async move {
        connection::serve(worker, socket).await;
        drop(place);
    });
}

/// One of the connections that the process may have.
struct Place(Arc<Shared>);

impl Place {
    fn take(shared: &Arc<Shared>) -> Option<Self> {
        if shared.open.fetch_add(1, Ordering::Relaxed) >= shared.plane.max_connections {
            shared.open.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        shared.metrics.connections.inc();
        Some(Self(Arc::clone(shared)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        self.0.metrics.connections.dec();
    }
}

fn too_many(worker: &Worker) -> Bytes {
    let body = error::body(kinds::API, "too many connections; try again", worker.ids.next().as_str());
    let head = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         retry-after: 1\r\nconnection: close\r\n\r\n",
        body.len()
    );
    [head.into_bytes(), body].concat().into()
}

/// Says 503 and goes on reading for a moment, so that closing does not reset what was said.
async fn turn_away(mut socket: TcpStream, answer: Bytes, _one: Rc<()>) {
    let _ = timeout(TURN_AWAY, async {
        socket.write_all(&answer).await?;
        socket.shutdown().await?;
        let mut scratch = [0; 1_024];
        while socket.read(&mut scratch).await? > 0 {}
        io::Result::Ok(())
    })
    .await;
}

/// Lets open requests end; ends them when their time is over.
async fn drain(shared: &Shared, worker: &Rc<Worker>, phase: &mut watch::Receiver<Phase>) {
    worker.seats.ask_to_leave();
    let mut ticks = interval(Duration::from_millis(SWEEP_EVERY_MS / 10));
    let mut cut_at_ms = None;
    while !worker.seats.is_empty() {
        ticks.tick().await;
        sweep(worker);
        let now_ms = clock::note();
        match (*phase.borrow_and_update(), cut_at_ms) {
            (_, Some(cut_at_ms)) if now_ms > cut_at_ms + CUT_MS => return,
            (Phase::CutAt(at_ms), None) if now_ms >= at_ms => {
                shared.cut.fetch_add(worker.seats.stop(), Ordering::Relaxed);
                cut_at_ms = Some(now_ms);
            }
            _ => {}
        }
    }
}
