//! The gateway's answer passes through, byte for byte and no faster than the client reads it.

use std::task::{Context, Poll, ready};

use la_dialects::anthropic::error::{self, kinds};

use super::desk::Desk;
use crate::http1::response::ResponseHead;
use crate::http1::write::{field, status_line};
use crate::listener::client::Client;
use crate::listener::seat::End;
use crate::upstream::connection::Connection;

/// How long the gateway may send nothing; longer than it lets a vendor by default.
const IDLE_MS: u64 = 330_000;

/// Fields that are not passed on: those of one connection (RFC 9110 §7.6.1), and what is written anew.
const LEFT_BEHIND: [&[u8]; 9] = [
    b"connection",
    b"keep-alive",
    b"proxy-connection",
    b"proxy-authenticate",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
    b"content-length",
    b"date",
];

/// How reading the gateway's answer ended.
enum Stop {
    Complete,
    /// It must be cut: the kind of error, and why.
    Early(&'static str, &'static str),
    ClientGone,
}

/// Passes the answer on to its end.
pub(super) async fn run(desk: &Desk, client: &mut Client, head: ResponseHead, mut connection: Connection) {
    let is_stream = begin(client, head, &connection);
    client.seat().begin_phase(IDLE_MS);
    let stop = std::future::poll_fn(|context| poll(client, &mut connection, context)).await;
    client.seat().leave_request();
    match stop {
        Stop::Complete => desk.pool.put(&desk.gateway.place, connection),
        // The connection is dropped, which cancels the request at the gateway.
        Stop::ClientGone => client.cut(),
        Stop::Early(kind, why) => {
            let id = desk.next_id();
            tracing::warn!(request.id = %id, "an answer was cut: {why}");
            if !is_stream || !client.can_append() {
                return client.cut();
            }
            let event = error::event(kind, why, id.as_str());
            // A client that has gone meanwhile needs no event.
            let _ =
                std::future::poll_fn(|context| Poll::Ready(client.send(context, event.as_ref(), true))).await;
        }
    }
}

/// Writes the head; says whether the answer is a stream of events.
fn begin(client: &mut Client, head: ResponseHead, connection: &Connection) -> bool {
    let out = client.begin_head();
    status_line(out, head.status);
    let mut is_stream = false;
    for (name, value) in connection.fields() {
        is_stream |= name == b"content-type" && value.starts_with(b"text/event-stream");
        if !LEFT_BEHIND.contains(&name) {
            field(out, name, value);
        }
    }
    client.end_head(head.framing);
    is_stream
}

fn poll(client: &mut Client, connection: &mut Connection, context: &mut Context<'_>) -> Poll<Stop> {
    loop {
        match (client.seat().end(), client.is_blocked()) {
            // It is the client that has taken nothing for as long as the gateway may be silent.
            (Some(End::Due), true) => return Poll::Ready(Stop::ClientGone),
            (Some(End::Due | End::Overdue), false) => {
                return Poll::Ready(Stop::Early(kinds::TIMEOUT, "the gateway stopped sending"));
            }
            (Some(_), _) => {
                return Poll::Ready(Stop::Early(kinds::API, "the sidecar is stopping; try again"));
            }
            (None, true) if ready!(client.poll_flush(context)).is_err() => {
                return Poll::Ready(Stop::ClientGone);
            }
            (None, _) => {}
        }
        match connection.poll_part(context) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => {
                return Poll::Ready(Stop::Early(kinds::API, "the gateway broke off its answer"));
            }
            Poll::Pending => match client.poll_flush(context) {
                Poll::Ready(Err(_)) => return Poll::Ready(Stop::ClientGone),
                _ => return client.poll_gone(context).map(|()| Stop::ClientGone),
            },
        }
        client.seat().begin_phase(IDLE_MS);
        let ends = connection.is_ended();
        let sent = client.send(context, connection.part(), ends);
        if ends {
            return Poll::Ready(Stop::Complete);
        }
        if sent.is_err() {
            return Poll::Ready(Stop::ClientGone);
        }
    }
}
