//! `/livez`, `/readyz` and `/metrics` of the operator.

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;

use crate::metrics::Metrics;
use crate::watch::WatchHealth;

/// Serves probes and metrics until dropped. Every replica does, leader or not.
///
/// # Errors
/// When the listener fails.
pub(crate) async fn serve(
    listener: TcpListener,
    metrics: Arc<Metrics>,
    health: Arc<WatchHealth>,
) -> std::io::Result<()> {
    let livez = move || {
        let dead = health.hopeless();
        async move {
            match dead.as_slice() {
                [] => (StatusCode::OK, "ok\n".to_owned()),
                dead => (StatusCode::INTERNAL_SERVER_ERROR, format!("watches fail: {}\n", dead.join(", "))),
            }
        }
    };
    let router = Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(|| async { "ok\n" }))
        .route("/metrics", get(move || async move { metrics.encode() }));
    axum::serve(listener, router).await
}
