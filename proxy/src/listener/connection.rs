//! One client connection, from the first byte to the last.

use std::pin::pin;
use std::rc::Rc;

use tokio::net::TcpStream;

use super::client::Client;
use super::seat::Seat;
use super::worker::Worker;
use crate::{clock, pipeline};

/// Serves requests until client, vendor or router have had enough.
pub(super) async fn serve(worker: Rc<Worker>, socket: TcpStream) {
    let seat = worker.seats.take();
    sit(&seat, async {
        clock::note();
        let mut client = Client::new(socket, Rc::clone(&seat), Rc::clone(&worker.buffers));
        while let Some(head) = client.request().await {
            pipeline::handle(&worker, &mut client, head).await;
        }
        client.close().await;
    })
    .await;
}

/// Does `work` on `seat`, which wakes it when something is due, and notes the time whenever it wakes.
pub(crate) async fn sit(seat: &Seat, work: impl Future<Output = ()>) {
    let mut work = pin!(work);
    std::future::poll_fn(|context| {
        clock::note();
        seat.sit(context.waker());
        work.as_mut().poll(context)
    })
    .await;
}
