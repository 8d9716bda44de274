//! An answer on its way through: read from upstream no faster than the client takes it.

use std::task::{Context, Poll, ready};

use super::client::Client;
use super::seat::End;
use crate::upstream::connection::Connection;

/// Why no next part is passed on.
pub(crate) enum Stop {
    /// Upstream broke off.
    BrokenOff,
    /// The request must end.
    Ended(End),
    /// The client has gone, or has taken nothing for as long as upstream may be silent.
    ClientGone,
}

/// Finds the next part of the answer, which is then [`Connection::part`], once the client has taken the
/// ones before.
pub(crate) fn poll_part(
    client: &mut Client,
    connection: &mut Connection,
    context: &mut Context<'_>,
) -> Poll<Result<(), Stop>> {
    match (client.seat().end(), client.is_blocked()) {
        (Some(End::Due), true) => return Poll::Ready(Err(Stop::ClientGone)),
        (Some(end), _) => return Poll::Ready(Err(Stop::Ended(end))),
        (None, true) => ready!(client.poll_flush(context)).map_err(|_| Stop::ClientGone)?,
        (None, false) => {}
    }
    match connection.poll_part(context) {
        Poll::Ready(found) => Poll::Ready(found.map_err(|_| Stop::BrokenOff)),
        Poll::Pending => match client.poll_flush(context) {
            Poll::Ready(Err(_)) => Poll::Ready(Err(Stop::ClientGone)),
            _ if client.beat(context).is_err() => Poll::Ready(Err(Stop::ClientGone)),
            _ => client.poll_gone(context).map(|()| Err(Stop::ClientGone)),
        },
    }
}
