//! What the one thread forwards with: the token, the gateway's address, and connections to both sides.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use http::HeaderValue;
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;

use super::probe::Readiness;
use super::token::TokenFile;
use crate::clock;
use crate::config::live::Live;
use crate::listener::seat::Seats;
use crate::listener::worker::{RequestId, RequestIds};
use crate::settings::ForwardSettings;
use crate::upstream::endpoint::Endpoint;

/// How long a connection to the gateway is kept without a request; the gateway keeps it for 75 s.
const KEPT_MS: u64 = 30_000;

/// Most connections to the gateway that wait for their next request.
const MAX_KEPT: usize = 64;

/// A connection to the gateway.
pub(super) type Sender = SendRequest<Incoming>;

/// The thread's own things.
pub(super) struct Desk {
    pub(super) gateway: Endpoint,
    token: TokenFile,
    seats: Seats,
    ids: RequestIds,
    kept: RefCell<Vec<(Sender, u64)>>,
    open: Rc<Cell<usize>>,
    readiness: Arc<Readiness>,
}

/// One of the connections that clients may have.
pub(super) struct Place(Rc<Cell<usize>>);

impl Desk {
    pub(super) fn new(settings: &ForwardSettings) -> Result<Self, String> {
        let gateway =
            Endpoint::parse(&settings.gateway).map_err(|e| format!("--gateway: {} {e}", settings.gateway))?;
        let desk = Self {
            gateway,
            token: TokenFile::new(settings.token_file.clone()),
            seats: Seats::default(),
            ids: RequestIds::new(),
            kept: RefCell::default(),
            open: Rc::default(),
            readiness: Arc::default(),
        };
        desk.follow_token();
        Ok(desk)
    }

    /// The value of `authorization`, if there is a token.
    pub(super) fn bearer(&self) -> Option<HeaderValue> {
        self.token.bearer()
    }

    pub(super) fn seats(&self) -> &Seats {
        &self.seats
    }

    pub(super) fn readiness(&self) -> Arc<Readiness> {
        self.readiness.clone()
    }

    /// A name for an answer made here.
    pub(super) fn next_id(&self) -> RequestId {
        self.ids.next()
    }

    /// Wakes whatever is due, lets go of old connections, and looks at the token's file.
    pub(super) fn sweep(&self, nothing: &Arc<Live>) {
        self.seats.sweep(nothing);
        let oldest_ms = clock::monotonic_ms().saturating_sub(KEPT_MS);
        self.kept.borrow_mut().retain(|(sender, since_ms)| *since_ms >= oldest_ms && !sender.is_closed());
        self.follow_token();
    }

    /// A connection to the gateway that waits for a request.
    pub(super) fn take(&self) -> Option<Sender> {
        let mut kept = self.kept.borrow_mut();
        while let Some((sender, _)) = kept.pop() {
            if !sender.is_closed() {
                return Some(sender);
            }
        }
        None
    }

    /// Keeps a connection whose last answer ended cleanly.
    pub(super) fn keep(&self, sender: Sender) {
        let mut kept = self.kept.borrow_mut();
        if kept.len() < MAX_KEPT && !sender.is_closed() {
            kept.push((sender, clock::monotonic_ms()));
        }
    }

    /// A place for one more client, if there are fewer than `most`.
    pub(super) fn place(&self, most: usize) -> Option<Place> {
        if self.open.get() >= most {
            return None;
        }
        self.open.set(self.open.get() + 1);
        Some(Place(Rc::clone(&self.open)))
    }

    fn follow_token(&self) {
        let had = self.bearer().is_some();
        match self.token.look() {
            Ok(true) => tracing::info!("token was {}", if had { "replaced" } else { "read" }),
            Ok(false) => {}
            Err(error) => tracing::warn!("{error}{}", if had { "; the last one stays in use" } else { "" }),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}
