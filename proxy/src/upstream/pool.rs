//! Connections of one thread that wait for their next request.

use std::cell::RefCell;
use std::sync::Arc;

use super::connection::Connection;
use super::endpoint::Place;
use crate::clock;

/// How long a connection is kept without a request. Shorter than vendors keep theirs, so that they
/// rarely close one just as it is used again.
const KEPT_MS: u64 = 30_000;

/// Most connections kept for one place.
const MAX_KEPT: usize = 512;

/// Waiting connections, by the place they lead to.
#[derive(Default)]
pub struct Pool {
    shelves: RefCell<Vec<Shelf>>,
}

struct Shelf {
    place: Arc<Place>,
    waiting: Vec<(Box<Connection>, u64)>,
}

impl Pool {
    /// The connection to `place` that was used last and can still be used.
    pub fn take(&self, place: &Arc<Place>) -> Option<Box<Connection>> {
        let mut shelves = self.shelves.borrow_mut();
        let shelf = shelves.iter_mut().find(|shelf| shelf.holds(place))?;
        let oldest_ms = clock::noted_ms().saturating_sub(KEPT_MS);
        while let Some((mut connection, since_ms)) = shelf.waiting.pop() {
            if since_ms >= oldest_ms && connection.is_quiet() {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection, if it can carry another request.
    pub fn put(&self, place: &Arc<Place>, mut connection: Box<Connection>) {
        if !connection.persists() {
            return;
        }
        connection.release();
        let kept = (connection, clock::noted_ms());
        let mut shelves = self.shelves.borrow_mut();
        match shelves.iter_mut().find(|shelf| shelf.holds(place)) {
            Some(shelf) if shelf.waiting.len() >= MAX_KEPT => {}
            Some(shelf) => shelf.waiting.push(kept),
            None => shelves.push(Shelf { place: Arc::clone(place), waiting: vec![kept] }),
        }
    }

    /// Lets go of connections that have waited too long or were closed.
    pub fn sweep(&self) {
        let oldest_ms = clock::noted_ms().saturating_sub(KEPT_MS);
        self.shelves.borrow_mut().retain_mut(|shelf| {
            shelf
                .waiting
                .retain_mut(|(connection, since_ms)| *since_ms >= oldest_ms && connection.is_quiet());
            !shelf.waiting.is_empty()
        });
    }
}

impl Shelf {
    fn holds(&self, place: &Arc<Place>) -> bool {
        Arc::ptr_eq(&self.place, place) || self.place == *place
    }
}
