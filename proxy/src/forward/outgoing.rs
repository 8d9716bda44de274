//! One request on its way to the gateway: the client's own credentials are left behind, ours is attached.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use la_dialects::anthropic::error::{self, kinds};

use super::desk::Desk;
use super::relay;
use crate::http1::body::Framing;
use crate::http1::buffers::Buffers;
use crate::http1::request::RequestHead;
use crate::http1::response::ResponseHead;
use crate::http1::violation::Violation;
use crate::http1::write::{self, field};
use crate::listener::client::{BodyError, Client};
use crate::listener::seat::End;
use crate::refuse::{self, Refusal, X_REQUEST_ID};
use crate::upstream;
use crate::upstream::connection::{AskError, Connection};

/// How long a connection to the gateway may take.
const CONNECT_MS: u64 = 10_000;

/// How long the gateway may take to answer; longer than it gives a vendor by default.
const FIRST_BYTE_MS: u64 = 660_000;

/// What is not passed on besides fields of one connection: what is written anew, and what a client may hold
/// that the gateway must not see.
const LEFT_BEHIND: [&[u8]; 6] =
    [b"expect", b"host", b"authorization", b"proxy-authorization", b"cookie", b"x-api-key"];

/// Why a request was not answered by the gateway.
enum Problem {
    Head(Violation),
    NoToken,
    Unreachable,
    Broken,
    Late(&'static str),
    Stopping,
    Gone,
}

/// Answers one request.
pub(super) async fn handle(desk: &Desk, client: &mut Client, head: Result<RequestHead, Violation>) {
    let sent = match head {
        Ok(head) => {
            let mut outgoing = desk.buffers.take();
            let sent = forward(desk, client, &head, &mut outgoing).await;
            desk.buffers.give(outgoing);
            client.recycle(head);
            sent
        }
        Err(violation) => Err(Problem::Head(violation)),
    };
    match sent {
        Ok((head, connection)) => relay::run(desk, client, head, connection).await,
        Err(Problem::Gone) => client.cut(),
        Err(problem) => refused(desk, client, &problem),
    }
}

async fn forward(
    desk: &Desk,
    client: &mut Client,
    head: &RequestHead,
    outgoing: &mut Vec<u8>,
) -> Result<(ResponseHead, Box<Connection>), Problem> {
    rewrite(desk, head, outgoing)?;
    let ends = client.body_is_read();
    let mut exchange = Exchange { head, buffers: &desk.buffers, outgoing, sent: 0, begun: false, ends };
    if let Some(kept) = desk.pool.take(&desk.gateway.place)
        && let Some(answered) = exchange.attempt(client, kept).await?
    {
        return Ok(answered);
    }
    client.seat().begin_phase(CONNECT_MS);
    let connecting = Box::pin(upstream::connect(&desk.gateway.place, &desk.buffers));
    let connection = match client.race(connecting).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            tracing::warn!("gateway cannot be reached: {error}");
            return Err(Problem::Unreachable);
        }
        Err(end) => return Err(ended(end, "connect")),
    };
    exchange.attempt(client, connection).await?.ok_or(Problem::Broken)
}

/// The client's request as the gateway gets it: same method, path, query and body.
fn rewrite(desk: &Desk, head: &RequestHead, out: &mut Vec<u8>) -> Result<(), Problem> {
    let bearer = desk.bearer().ok_or(Problem::NoToken)?;
    for part in [head.method(), " ", &desk.gateway.prefix, head.path()] {
        out.extend_from_slice(part.as_bytes());
    }
    if let Some(query) = head.query() {
        out.push(b'?');
        out.extend_from_slice(query.as_bytes());
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
    field(out, b"host", desk.gateway.host_header.as_bytes());
    field(out, b"authorization", bearer.as_bytes());
    for (name, value) in head.fields() {
        if !LEFT_BEHIND.contains(&name) && !head.is_hop_by_hop(name) {
            field(out, name, value);
        }
    }
    if head.framing != Framing::Length(0) || head.method() == "POST" {
        write::framing(out, head.framing);
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(head.behind());
    Ok(())
}

/// A request that goes out as it comes in, and the wait for its answer.
struct Exchange<'a> {
    head: &'a RequestHead,
    buffers: &'a Buffers,
    /// The head, then one part of the body after the other.
    outgoing: &'a mut Vec<u8>,
    /// So many bytes of `outgoing` are sent.
    sent: usize,
    /// Whether anything was sent before `outgoing`.
    begun: bool,
    /// Whether the request ends with `outgoing`.
    ends: bool,
}

/// Why a request cannot be sent to its end.
enum Stop {
    /// The gateway takes no more.
    Connection,
    Client(Problem),
}

impl Exchange<'_> {
    /// Nothing when the connection took nothing of the request.
    async fn attempt(
        &mut self,
        client: &mut Client,
        mut connection: Box<Connection>,
    ) -> Result<Option<(ResponseHead, Box<Connection>)>, Problem> {
        client.seat().begin_phase(FIRST_BYTE_MS);
        connection.begin();
        let answered = std::future::poll_fn(|context| {
            let step = self.poll(client, &mut connection, context);
            match (step, client.seat().end()) {
                (Poll::Pending, Some(end)) => Poll::Ready(Err(ended(end, "answer"))),
                (Poll::Pending, None) => client.poll_gone(context).map(|()| Err(Problem::Gone)),
                (done, _) => done,
            }
        });
        Ok(answered.await?.map(|head| (head, connection)))
    }

    fn poll(
        &mut self,
        client: &mut Client,
        connection: &mut Connection,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<ResponseHead>, Problem>> {
        match self.poll_send(client, connection, context) {
            Poll::Ready(Ok(())) => connection.end_request(),
            // An answer to a part of the request is an answer, and may be why the rest was not taken.
            Poll::Ready(Err(Stop::Connection)) if self.begun || self.sent > 0 => {}
            Poll::Ready(Err(Stop::Connection)) => return Poll::Ready(Ok(None)),
            Poll::Ready(Err(Stop::Client(problem))) => return Poll::Ready(Err(problem)),
            Poll::Pending => {}
        }
        match ready!(connection.poll_head(context, self.head.method() == "HEAD")) {
            Ok(head) if head.status < 200 => Poll::Ready(Err(Problem::Broken)),
            Ok(head) => Poll::Ready(Ok(Some(head))),
            Err(AskError::Unsent | AskError::Broken | AskError::BadHead(_)) => {
                Poll::Ready(Err(Problem::Broken))
            }
        }
    }

    /// Ready when the whole request is sent.
    fn poll_send(
        &mut self,
        client: &mut Client,
        connection: &mut Connection,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Stop>> {
        loop {
            let sending = connection.poll_send(context, [self.outgoing], &mut self.sent);
            ready!(sending).map_err(|_| Stop::Connection)?;
            if self.ends {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_next(client, context)).map_err(Stop::Client)?;
        }
    }

    /// Puts the next part of the body in place of what was sent.
    fn poll_next(&mut self, client: &mut Client, context: &mut Context<'_>) -> Poll<Result<(), Problem>> {
        let mut part = self.buffers.take();
        let read = client.poll_body(context, &mut part);
        if let Poll::Ready(Ok(())) = read {
            (self.begun, self.sent, self.ends) = (true, 0, client.body_is_read());
            self.outgoing.clear();
            write::part(self.outgoing, self.head.framing, &part, self.ends);
            client.seat().begin_phase(FIRST_BYTE_MS);
        }
        self.buffers.give(part);
        read.map_err(|error| match error {
            BodyError::Malformed => Problem::Head(Violation::Chunk),
            BodyError::Gone => Problem::Gone,
            BodyError::Ended(end) => ended(end, "answer"),
        })
    }
}

fn ended(end: End, what: &'static str) -> Problem {
    match end {
        End::Due | End::Overdue => Problem::Late(what),
        End::Revoked | End::Suspended | End::Stopping => Problem::Stopping,
        End::Gone => Problem::Gone,
    }
}

fn refused(desk: &Desk, client: &mut Client, problem: &Problem) {
    let id = desk.next_id();
    client.seat().leave_request();
    let (status, kind, message) = match problem {
        Problem::Head(violation) => return client.answer(&refuse::answer(&Refusal::Head(*violation), id)),
        Problem::NoToken => {
            (StatusCode::BAD_GATEWAY, kinds::API, "the sidecar has no token yet; try again".to_owned())
        }
        Problem::Unreachable => {
            (StatusCode::BAD_GATEWAY, kinds::API, "the gateway cannot be reached".to_owned())
        }
        Problem::Broken | Problem::Gone => (
            StatusCode::BAD_GATEWAY,
            kinds::API,
            "the connection to the gateway broke before it answered".to_owned(),
        ),
        Problem::Late(what) => {
            (StatusCode::GATEWAY_TIMEOUT, kinds::TIMEOUT, format!("the gateway did not {what} in time"))
        }
        Problem::Stopping => {
            (StatusCode::SERVICE_UNAVAILABLE, kinds::API, "the sidecar is stopping; try again".to_owned())
        }
    };
    tracing::warn!(http.status = status.as_u16(), request.id = %id, "request {id} was not forwarded: {message}");
    let mut response = Response::new(Bytes::from(error::body(kind, &message, id.as_str())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Ok(id) = HeaderValue::from_str(id.as_str()) {
        response.headers_mut().insert(X_REQUEST_ID, id);
    }
    client.answer(&response);
}
