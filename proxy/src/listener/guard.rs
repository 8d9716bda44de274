//! A client's socket that lets the HTTP library see only requests that were judged good.
//!
//! The usual head arrives in one read and stays where it was read to. One that arrives in parts is held
//! back until it is complete. In place of a bad one the library is given a request that means nothing,
//! and the seat says what to answer to it; nothing that the client sent after it is ever read as HTTP.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::framing::{Follower, Passed};
use super::seat::Seat;
use super::violation::Violation;

/// What the HTTP library reads instead of a bad head.
const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

/// How long to go on reading after a refusal, so that the client can read it: closing with unread bytes
/// would reset the connection and discard what was sent.
const LINGER_MS: u64 = 3_000;

/// Most bytes to read in that time: a body over the limit is read to its end.
const MAX_LINGER_BYTES: usize = 64 * 1024 * 1024;

/// Bytes read at a time where the library's own buffer is not read into.
const SCRATCH_BYTES: usize = 4 * 1024;

/// A client's socket.
pub(super) struct Guard {
    socket: TcpStream,
    seat: Rc<Seat>,
    follower: Follower,
    /// Bytes that were read but not passed on: first those that may be, then an unfinished head.
    held: Vec<u8>,
    /// How many of the held bytes may be passed on.
    ready: usize,
    state: State,
    shut: bool,
    lingered_bytes: usize,
}

enum Read {
    Some,
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// Reading has ended for good; the library waits for nothing.
    Deaf,
    /// The body that is being read is malformed.
    BrokenBody,
}

impl Guard {
    /// Guards `socket`, whose connection sits on `seat`.
    pub(super) fn new(socket: TcpStream, seat: Rc<Seat>) -> Self {
        seat.expect_head();
        let follower = Follower::default();
        Self {
            socket,
            seat,
            follower,
            held: Vec::new(),
            ready: 0,
            state: State::Open,
            shut: false,
            lingered_bytes: 0,
        }
    }

    /// Puts the stand-in where the bad head was.
    fn accuse(&mut self, violation: Violation) {
        if self.follower.is_in_head() {
            self.seat.accuse(self.follower.heads() + 1, violation);
            self.held.truncate(self.ready);
            self.held.extend_from_slice(STAND_IN);
            self.ready = self.held.len();
            self.state = State::Deaf;
        } else {
            self.seat.accuse(self.follower.heads(), violation);
            self.state = State::BrokenBody;
        }
        self.seat.head_ends();
        self.seat.expect(LINGER_MS);
    }

    /// Gives as much of what is ready as fits.
    fn give(&mut self, buffer: &mut ReadBuf<'_>) {
        let count = self.ready.min(buffer.remaining());
        buffer.put_slice(self.held.get(..count).unwrap_or_default());
        self.held.drain(..count);
        self.ready -= count;
        if self.held.is_empty() {
            self.held = Vec::new();
        }
    }

    /// Reads more of an unfinished head.
    fn poll_more_head(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Read>> {
        let mut scratch = [0; SCRATCH_BYTES];
        let mut read = ReadBuf::new(&mut scratch);
        ready!(Pin::new(&mut self.socket).poll_read(context, &mut read))?;
        if read.filled().is_empty() {
            self.held.clear();
            return Poll::Ready(Ok(Read::End));
        }
        self.held.extend_from_slice(read.filled());
        let passed = self.follower.pass(&self.held);
        self.ready = passed.count;
        self.conclude(passed);
        Poll::Ready(Ok(Read::Some))
    }

    /// Reads straight into the library's buffer, and takes back what must not be passed on yet.
    fn poll_direct(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<Read>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.socket).poll_read(context, buffer))?;
        let fresh = buffer.filled().get(before..).unwrap_or_default();
        if fresh.is_empty() {
            return Poll::Ready(Ok(Read::End));
        }
        let passed = self.follower.pass(fresh);
        if passed.count < fresh.len() {
            self.held.extend_from_slice(fresh.get(passed.count..).unwrap_or_default());
            buffer.set_filled(before + passed.count);
        }
        self.conclude(passed);
        Poll::Ready(Ok(Read::Some))
    }

    fn conclude(&mut self, passed: Passed) {
        if passed.count > 0 {
            self.seat.head_ends();
        }
        if let Some(violation) = passed.violation {
            self.accuse(violation);
        } else if self.held.len() > self.ready {
            self.seat.head_begins();
        }
    }

    /// Whether the client may still be sending something that nobody will read.
    fn must_linger(&self) -> bool {
        self.state != State::Open || !self.follower.is_in_head() || !self.held.is_empty()
    }

    fn poll_linger(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let mut scratch = [0; SCRATCH_BYTES];
        while self.lingered_bytes < MAX_LINGER_BYTES {
            let mut read = ReadBuf::new(&mut scratch);
            if ready!(Pin::new(&mut self.socket).poll_read(context, &mut read)).is_err()
                || read.filled().is_empty()
            {
                break;
            }
            self.lingered_bytes += read.filled().len();
        }
        Poll::Ready(())
    }
}

impl AsyncRead for Guard {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        loop {
            if self.ready > 0 {
                self.give(buffer);
                return Poll::Ready(Ok(()));
            }
            match self.state {
                State::Open => {}
                State::Deaf => return Poll::Pending,
                State::BrokenBody => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
            }
            let step = if self.held.is_empty() {
                self.poll_direct(context, buffer)
            } else {
                self.poll_more_head(context)
            };
            match step {
                Poll::Pending if self.seat.is_head_late() => self.accuse(Violation::HeadTooSlow),
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
                Poll::Ready(Ok(Read::End)) => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(Read::Some)) if buffer.filled().len() > before => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(Read::Some)) => {}
            }
        }
    }
}

impl AsyncWrite for Guard {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.shut {
            ready!(Pin::new(&mut self.socket).poll_shutdown(context))?;
            self.shut = true;
            self.seat.expect(LINGER_MS);
        }
        if self.must_linger() {
            ready!(self.poll_linger(context));
        }
        Poll::Ready(Ok(()))
    }
}
