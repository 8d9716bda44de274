//! The sidecar in its forwarding form: listens on localhost, attaches the mounted token, and passes
//! everything else on to the gateway and back, byte for byte.
//!
//! One thread, no ledger, no configuration, no vendor credential. Whoever can reach the port can use the
//! token, so the port is loopback only unless told otherwise. Which operations exist, and which headers
//! may pass, is the gateway's to decide.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use la_core::snapshot::Snapshot;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::time::{MissedTickBehavior, interval};

mod desk;
mod outgoing;
mod probe;
mod relay;
mod token;

use desk::Desk;

use crate::app::{Failure, Stop, not_bound};
use crate::config::live::Live;
use crate::listener::client::Client;
use crate::listener::seat::SWEEP_EVERY_MS;
use crate::listener::{connection, socket};
use crate::settings::ForwardSettings;
use crate::{clock, harden};

/// Most connections at a time; one pod's agent has a handful.
const MAX_CONNECTIONS: usize = 1_024;

/// How long cut requests may take to tell their clients.
const CUT_MS: u64 = 500;

/// How long to wait when no connection can be accepted, because the process has no file left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Forwards until SIGTERM or SIGINT.
///
/// # Errors
/// When a port is taken, or the gateway's address makes no sense.
pub fn run(settings: &ForwardSettings) -> Result<(), Failure> {
    harden::process();
    let desk = Desk::new(settings).map_err(|fault| Failure::Configuration(vec![fault]))?;
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .map_err(|e| Failure::Runtime(format!("no runtime: {e}")))?;
    runtime.block_on(serve(Rc::new(desk), settings))
}

async fn serve(desk: Rc<Desk>, settings: &ForwardSettings) -> Result<(), Failure> {
    let mut stop = Stop::new()?;
    let listener = listen(settings)?;
    if let Some(admin) = settings.admin {
        probe::start(admin, desk.readiness()).await?;
    }
    let address = listener.local_addr().map_err(|e| Failure::Runtime(e.to_string()))?;
    tracing::info!("forwarding {address} to {}", settings.gateway);
    tokio::task::spawn_local(probe::wait_for_gateway(Rc::clone(&desk)));
    let nothing = Arc::new(Live::build(Snapshot::empty("-/-"), &Default::default(), &|_| Err(String::new())));
    let mut ticks = interval(Duration::from_millis(SWEEP_EVERY_MS));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let name = loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => welcome(&desk, socket),
                Err(error) => {
                    tracing::warn!("a connection cannot be accepted: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            _ = ticks.tick() => desk.sweep(&nothing),
            name = stop.wait() => break name,
        }
    };
    tracing::info!("{name}: no new requests; open ones have {} s", settings.drain.as_secs());
    drop(listener);
    drain(&desk, &nothing, settings.drain).await;
    tracing::info!("stopped");
    Ok(())
}

fn listen(settings: &ForwardSettings) -> Result<TcpListener, Failure> {
    let fail = |error: &std::io::Error| Failure::Runtime(not_bound(settings.listen, error));
    let listener = socket::listen(settings.listen, 1).map_err(|e| fail(&e))?.pop();
    let listener = listener.ok_or_else(|| Failure::Runtime("nothing is listened on".to_owned()))?;
    TcpListener::from_std(listener).map_err(|e| fail(&e))
}

fn welcome(desk: &Rc<Desk>, socket: TcpStream) {
    let Some(place) = desk.place(MAX_CONNECTIONS) else {
        tracing::warn!("a connection was closed: there are {MAX_CONNECTIONS} already");
        return;
    };
    let desk = Rc::clone(desk);
    tokio::task::spawn_local(async move {
        let seat = desk.seats().take();
        connection::sit(&seat, async {
            let mut client = Client::new(socket, Rc::clone(&seat), Rc::clone(&desk.buffers));
            while let Some(head) = client.request().await {
                outgoing::handle(&desk, &mut client, head).await;
            }
            client.close().await;
        })
        .await;
        drop(place);
    });
}

/// Lets open requests end; cuts them when their time is over.
async fn drain(desk: &Desk, nothing: &Arc<Live>, time: Duration) {
    desk.seats().ask_to_leave();
    let begun_ms = clock::monotonic_ms();
    let time_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let mut is_cut = false;
    let mut ticks = interval(Duration::from_millis(SWEEP_EVERY_MS / 10));
    loop {
        desk.sweep(nothing);
        let passed_ms = clock::monotonic_ms().saturating_sub(begun_ms);
        if desk.seats().is_empty() || passed_ms > time_ms.saturating_add(CUT_MS) {
            return;
        }
        if passed_ms >= time_ms && !std::mem::replace(&mut is_cut, true) {
            let open = desk.seats().stop();
            tracing::warn!("{open} requests were cut at the end of the drain time");
        }
        ticks.tick().await;
    }
}
