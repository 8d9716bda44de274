//! One client connection, from the first byte to the last.

use std::convert::Infallible;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::framing::MAX_HEAD_BYTES;
use super::guard::Guard;
use super::seat::Seat;
use super::worker::Worker;
use crate::{clock, pipeline};

/// Most bytes that a connection buffers: the largest head that the guard lets through, and room to spare.
const MAX_BUFFER_BYTES: usize = MAX_HEAD_BYTES + 8 * 1024;

/// Serves requests until client, vendor or router have had enough.
pub(super) async fn serve(worker: Rc<Worker>, socket: TcpStream) {
    clock::note();
    let seat = worker.seats.take();
    let service = service_fn(|request| {
        let answer = pipeline::handle(Rc::clone(&worker), Rc::clone(&seat), request);
        async { Ok::<_, Infallible>(answer.await) }
    });
    converse(&seat, socket, service).await;
}

/// Has `service` answer what comes over `socket`, until either side or `seat` has had enough.
pub(crate) async fn converse<S, B>(seat: &Rc<Seat>, socket: TcpStream, service: S)
where
    S: HttpService<Incoming, ResBody = B>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    // Events of a stream are small and must not wait for each other.
    let _ = socket.set_nodelay(true);
    let guard = Guard::new(socket, Rc::clone(seat));
    let connection =
        http1::Builder::new().max_buf_size(MAX_BUFFER_BYTES).serve_connection(TokioIo::new(guard), service);
    let mut connection = pin!(connection);
    let mut told = false;
    std::future::poll_fn(|context| {
        clock::note();
        seat.sit(context.waker());
        if seat.is_over() || seat.is_stuck() {
            return Poll::Ready(());
        }
        if seat.is_leaving() && !std::mem::replace(&mut told, true) {
            connection.as_mut().graceful_shutdown();
        }
        // How a connection ended matters to nobody: its requests have been settled by their own endings.
        connection.as_mut().poll(context).map(drop)
    })
    .await;
}
