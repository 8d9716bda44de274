//! The gateway's answer passes through, byte for byte and no faster than the client reads it.

use std::task::{Context, Poll, ready};

use la_dialects::anthropic::error::{self, kinds};

use super::desk::Desk;
use crate::http1::response::ResponseHead;
use crate::http1::write::{field, status_line};
use crate::listener::client::Client;
use crate::listener::passing::{self, Stop};
use crate::listener::seat::End;
use crate::upstream::connection::Connection;

/// How long the gateway may send nothing; longer than it lets a vendor by default.
const IDLE_MS: u64 = 330_000;

/// Passes the answer on to its end.
pub(super) async fn run(
    desk: &Desk,
    client: &mut Client,
    head: ResponseHead,
    mut connection: Box<Connection>,
) {
    let is_stream = begin(client, head, &connection);
    client.seat().begin_phase(IDLE_MS);
    let passed = std::future::poll_fn(|context| poll(client, &mut connection, context)).await;
    client.seat().leave_request();
    let (kind, why) = match passed {
        Ok(()) => return desk.pool.put(&desk.gateway.place, connection),
        Err(Stop::ClientGone) => return client.cut(),
        Err(Stop::BrokenOff) => (kinds::API, "the gateway broke off its answer"),
        Err(Stop::Ended(End::Due | End::Overdue)) => (kinds::TIMEOUT, "the gateway stopped sending"),
        Err(Stop::Ended(_)) => (kinds::API, "the sidecar is stopping; try again"),
    };
    // The connection is dropped, which cancels the request at the gateway.
    let id = desk.next_id();
    tracing::warn!(request.id = %id, "an answer was cut: {why}");
    let event = is_stream.then(|| error::event(kind, why, id.as_str()));
    client.break_off(event.as_ref().map(|event| event.as_ref())).await;
}

/// Writes the head; says whether the answer is a stream of events.
fn begin(client: &mut Client, head: ResponseHead, connection: &Connection) -> bool {
    let out = client.begin_head();
    status_line(out, head.status);
    let mut is_stream = false;
    for (name, value) in connection.fields() {
        is_stream |= name == b"content-type" && value.starts_with(b"text/event-stream");
        // The date is written anew.
        if name != b"date" && !connection.is_hop_by_hop(name) {
            field(out, name, value);
        }
    }
    client.end_head(head.framing);
    is_stream
}

fn poll(
    client: &mut Client,
    connection: &mut Connection,
    context: &mut Context<'_>,
) -> Poll<Result<(), Stop>> {
    loop {
        ready!(passing::poll_part(client, connection, context))?;
        client.seat().begin_phase(IDLE_MS);
        let ends = connection.is_ended();
        let sent = client.send(context, connection.part(), ends);
        if ends {
            return Poll::Ready(Ok(()));
        }
        sent.map_err(|_| Stop::ClientGone)?;
    }
}
