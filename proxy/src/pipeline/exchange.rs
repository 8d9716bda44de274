//! Stage 9a: one request on one connection, up to the head of its answer.
//!
//! The only thing ever sent twice here is a request of which a kept connection provably took nothing.

use super::admit::Admitted;
use crate::config::live::ProviderEntry;
use crate::http1::response::{BadHead, ResponseHead};
use crate::listener::client::Client;
use crate::listener::seat::End;
use crate::listener::worker::Worker;
use crate::observe::metrics::Failure;
use crate::refuse::{self, Refusal};
use crate::upstream;
use crate::upstream::connection::{AskError, Connection};

/// Who sends, and to whom.
type Route<'a> = (&'a Worker, &'a ProviderEntry);

/// Why there is no head.
pub(super) enum Lost {
    /// The request must end.
    Ended(Refusal),
    /// The attempt failed, as this says.
    Failed(Refusal),
}

/// Sends a request, which is all `pieces` in their order, and waits for the head of the answer.
pub(super) async fn run(
    route: Route<'_>,
    client: &mut Client,
    admitted: &mut Admitted,
    pieces: [&[u8]; 4],
) -> Result<(ResponseHead, Box<Connection>), Lost> {
    let (worker, provider) = route;
    if let Some(kept) = worker.pool.take(&provider.endpoint.place)
        && let Some(answered) = ask(route, client, admitted, (kept, pieces)).await?
    {
        return Ok(answered);
    }
    let connection = connect(route, client).await?;
    let answered = ask(route, client, admitted, (connection, pieces)).await?;
    answered.ok_or_else(|| broken(route))
}

async fn connect(route: Route<'_>, client: &mut Client) -> Result<Box<Connection>, Lost> {
    let (worker, provider) = route;
    client.seat().begin_phase(provider.timeouts.connect_ms);
    // Boxed: it is rare, and large enough to weigh on every request otherwise.
    let connecting = Box::pin(upstream::connect(&provider.endpoint.place, &worker.buffers));
    match client.race(connecting).await {
        Ok(Ok(connection)) => {
            worker.metrics.upstream_connections.inc();
            Ok(connection)
        }
        Ok(Err(e)) => {
            tracing::warn!(provider.name = %provider.name, "provider {} cannot be reached: {e}", provider.name);
            worker.metrics.failure(Failure::Connect);
            Err(Lost::Failed(Refusal::Unreachable { provider: provider.name.to_string() }))
        }
        Err(end) => Err(ended(route, client, end, "connect")),
    }
}

/// Nothing when the connection took nothing of the request.
async fn ask(
    route: Route<'_>,
    client: &mut Client,
    admitted: &mut Admitted,
    (mut connection, pieces): (Box<Connection>, [&[u8]; 4]),
) -> Result<Option<(ResponseHead, Box<Connection>)>, Lost> {
    client.seat().begin_phase(route.1.timeouts.first_byte_ms);
    admitted.set_sent(true);
    match client.race(connection.ask(pieces)).await {
        Ok(Ok(head)) => Ok(Some((head, connection))),
        Ok(Err(AskError::Unsent)) => {
            admitted.set_sent(false);
            Ok(None)
        }
        Ok(Err(AskError::Broken)) => Err(broken(route)),
        Ok(Err(AskError::BadHead(bad))) => Err(unbelieved(route, bad)),
        Err(end) => Err(ended(route, client, end, "answer")),
    }
}

fn unbelieved(route: Route<'_>, bad: BadHead) -> Lost {
    let (worker, provider) = (route.0, route.1.name.to_string());
    if bad == BadHead::Framing {
        worker.metrics.failure(Failure::Answer);
        return Lost::Failed(Refusal::Ambiguous { provider });
    }
    tracing::warn!(provider.name = provider, "provider {provider} sent what is no answer: {bad}");
    broken(route)
}

fn broken((worker, provider): Route<'_>) -> Lost {
    worker.metrics.failure(Failure::Send);
    Lost::Failed(Refusal::Broken { provider: provider.name.to_string() })
}

/// What the end of a wait means: that of the attempt when its phase took too long, else that of the request.
pub(super) fn ended((worker, provider): Route<'_>, client: &Client, end: End, what: &'static str) -> Lost {
    if matches!(end, End::Due | End::Overdue) {
        worker.metrics.failure(Failure::Timeout);
    }
    let refusal = refuse::ended(end, &provider.name, what);
    if end == End::Due {
        client.seat().try_again();
        return Lost::Failed(refusal);
    }
    Lost::Ended(refusal)
}
