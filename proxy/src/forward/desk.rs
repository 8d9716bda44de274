//! What the one thread forwards with: the token, the gateway's address, and connections to both sides.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use http::HeaderValue;

use super::probe::Readiness;
use super::token::TokenFile;
use crate::config::live::Live;
use crate::http1::buffers::Buffers;
use crate::listener::seat::Seats;
use crate::listener::worker::{RequestId, RequestIds};
use crate::settings::ForwardSettings;
use crate::upstream::Pool;
use crate::upstream::endpoint::Endpoint;

/// The thread's own things.
pub(super) struct Desk {
    pub(super) gateway: Endpoint,
    token: TokenFile,
    seats: Seats,
    ids: RequestIds,
    /// Connections to the gateway.
    pub(super) pool: Pool,
    /// Memory that goes round.
    pub(super) buffers: Rc<Buffers>,
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
            pool: Pool::default(),
            buffers: Rc::default(),
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
        self.pool.sweep();
        self.follow_token();
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
