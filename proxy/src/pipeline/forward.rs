//! Stage 9: the request goes out, once, and the head of the vendor's answer comes in.
//!
//! The only thing ever tried twice is a request of which a kept connection provably took nothing.

use crate::config::live::ProviderEntry;
use crate::http1::response::{BadHead, ResponseHead};
use crate::listener::client::Client;
use crate::listener::seat::End;
use crate::listener::worker::Worker;
use crate::observe::metrics::Failure;
use crate::refuse::{self, Refusal};
use crate::upstream;
use crate::upstream::connection::{AskError, Connection};

use super::admit::Admitted;

/// The head of an answer, and the connection that the rest of it comes over.
pub(super) struct Answered {
    /// The vendor's head.
    pub(super) head: ResponseHead,
    /// To be kept once the answer has ended cleanly.
    pub(super) connection: Connection,
}

/// Who sends, and to whom.
#[derive(Clone, Copy)]
pub(super) struct Way<'a> {
    /// The thread.
    pub(super) worker: &'a Worker,
    /// The vendor.
    pub(super) provider: &'a ProviderEntry,
}

/// What is sent.
#[derive(Clone, Copy)]
pub(super) struct Outgoing<'a> {
    /// Its head.
    pub(super) head: &'a [u8],
    /// Its body.
    pub(super) body: &'a [u8],
}

/// Sends the request and waits for the head of the answer.
pub(super) async fn send(
    way: Way<'_>,
    client: &mut Client,
    admitted: &mut Admitted,
    request: Outgoing<'_>,
) -> Result<Answered, Refusal> {
    client.seat().limit_request(way.provider.timeouts.total_ms);
    if let Some(kept) = way.worker.pool.take(&way.provider.endpoint.place)
        && let Some(answered) = attempt(way, client, admitted, kept, request).await?
    {
        return judge(way, answered);
    }
    let connection = connect(way, client).await?;
    match attempt(way, client, admitted, connection, request).await? {
        Some(answered) => judge(way, answered),
        None => Err(broken(way)),
    }
}

async fn connect(way: Way<'_>, client: &mut Client) -> Result<Connection, Refusal> {
    let Way { worker, provider } = way;
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
            Err(Refusal::Unreachable { provider: provider.name.to_string() })
        }
        Err(end) => Err(ended(way, end, "connect")),
    }
}

/// Nothing when the connection took nothing of the request.
async fn attempt(
    way: Way<'_>,
    client: &mut Client,
    admitted: &mut Admitted,
    mut connection: Connection,
    request: Outgoing<'_>,
) -> Result<Option<Answered>, Refusal> {
    client.seat().begin_phase(way.provider.timeouts.first_byte_ms);
    admitted.set_sent(true);
    match client.race(connection.ask(request.head, request.body)).await {
        Ok(Ok(head)) => Ok(Some(Answered { head, connection })),
        Ok(Err(AskError::Unsent)) => {
            admitted.set_sent(false);
            Ok(None)
        }
        Ok(Err(AskError::Broken)) => Err(broken(way)),
        Ok(Err(AskError::BadHead(bad))) => Err(unbelieved(way, bad)),
        Err(end) => Err(ended(way, end, "answer")),
    }
}

/// Refuses answers that only whoever holds the credential should follow.
fn judge(way: Way<'_>, answered: Answered) -> Result<Answered, Refusal> {
    let status = answered.head.status;
    if !(200..300).contains(&status) && !(400..600).contains(&status) {
        way.worker.metrics.failure(Failure::Answer);
        return Err(Refusal::Answer { provider: way.provider.name.to_string(), status });
    }
    if status == 401 {
        way.worker.metrics.failure(Failure::Unauthorized);
    }
    Ok(answered)
}

fn unbelieved(way: Way<'_>, bad: BadHead) -> Refusal {
    let provider = way.provider.name.to_string();
    if bad == BadHead::Framing {
        way.worker.metrics.failure(Failure::Answer);
        return Refusal::Ambiguous { provider };
    }
    tracing::warn!(provider.name = provider, "provider {provider} sent what is no answer: {bad}");
    broken(way)
}

fn broken(way: Way<'_>) -> Refusal {
    way.worker.metrics.failure(Failure::Send);
    Refusal::Broken { provider: way.provider.name.to_string() }
}

fn ended(way: Way<'_>, end: End, what: &'static str) -> Refusal {
    if matches!(end, End::Due | End::Overdue) {
        way.worker.metrics.failure(Failure::Timeout);
    }
    refuse::ended(end, &way.provider.name, what)
}
