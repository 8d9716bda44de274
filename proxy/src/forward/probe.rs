//! Whether the sidecar can work: it has a token, and the gateway has answered once.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;

use super::desk::Desk;
use crate::admin;
use crate::app::{Failure, not_bound};
use crate::upstream;

/// Between two tries to reach the gateway.
const TRY_EVERY: Duration = Duration::from_millis(250);

/// How long one try may take.
const TRY_FOR: Duration = Duration::from_secs(5);

/// Tries between two log lines that say that the gateway is still awaited.
const SAY_EVERY: u32 = 40;

/// What the readiness probe answers from.
#[derive(Default)]
pub(super) struct Readiness {
    gateway_was_reached: AtomicBool,
    has_token: AtomicBool,
}

/// Answers `/livez` and `/readyz` on `address`.
///
/// # Errors
/// When the port is taken.
pub(super) async fn start(address: SocketAddr, readiness: Arc<Readiness>) -> Result<(), Failure> {
    let listener = TcpListener::bind(address).await.map_err(|e| Failure::Runtime(not_bound(address, &e)))?;
    let router = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .with_state(readiness);
    tokio::spawn(admin::serve(listener, router));
    Ok(())
}

/// Tries until there is a token and the gateway can be connected to; says so once.
pub(super) async fn wait_for_gateway(desk: Rc<Desk>) {
    let readiness = desk.readiness();
    let mut tries: u32 = 0;
    loop {
        let has_token = desk.bearer().is_some();
        readiness.has_token.store(has_token, Ordering::Relaxed);
        if !readiness.gateway_was_reached.load(Ordering::Relaxed) {
            let problem = reach(&desk).await;
            readiness.gateway_was_reached.store(problem.is_none(), Ordering::Relaxed);
            match problem {
                None => tracing::info!("gateway was reached"),
                Some(problem) if tries.is_multiple_of(SAY_EVERY) => {
                    tracing::warn!("waiting for the gateway: {problem}")
                }
                Some(_) => {}
            }
        }
        if has_token && readiness.gateway_was_reached.load(Ordering::Relaxed) {
            return;
        }
        tries = tries.wrapping_add(1);
        tokio::time::sleep(TRY_EVERY).await;
    }
}

async fn reach(desk: &Desk) -> Option<String> {
    match tokio::time::timeout(TRY_FOR, upstream::connect(&desk.gateway.place, &desk.buffers)).await {
        Ok(Ok(connection)) => {
            desk.pool.put(&desk.gateway.place, connection);
            None
        }
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some(format!("no connection within {} s", TRY_FOR.as_secs())),
    }
}

async fn readyz(State(readiness): State<Arc<Readiness>>) -> (StatusCode, &'static str) {
    if !readiness.has_token.load(Ordering::Relaxed) {
        (StatusCode::SERVICE_UNAVAILABLE, "there is no token yet\n")
    } else if !readiness.gateway_was_reached.load(Ordering::Relaxed) {
        (StatusCode::SERVICE_UNAVAILABLE, "gateway was not reached yet\n")
    } else {
        (StatusCode::OK, "ok\n")
    }
}
