//! What one thread serves requests with.

use std::cell::Cell;
use std::fmt::Write as _;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ring::rand::{SecureRandom as _, SystemRandom};

use super::seat::Seats;
use crate::config::live::LiveCell;
use crate::http1::buffers::Buffers;
use crate::ledger::Ledger;
use crate::observe::metrics::Metrics;
use crate::pipeline::authenticate::Memo;
use crate::pipeline::callers::Callers;
use crate::upstream::Pool;

/// One thread's own things, and its share of what all threads use.
pub struct Worker {
    /// What is served.
    pub live: Arc<LiveCell>,
    /// Who may use how much.
    pub ledger: Arc<Ledger>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Memory for request bodies.
    pub bodies: Arc<BodyBudget>,
    /// Most bytes of one body.
    pub max_body_bytes: usize,
    /// Whether every request is logged.
    pub request_log: bool,
    /// Memory that goes round.
    pub buffers: Rc<Buffers>,
    /// Connections of clients.
    pub seats: Seats,
    /// Connections to vendors.
    pub pool: Pool,
    /// Tokens that were verified.
    pub memo: Memo,
    /// What it knows of its last callers.
    pub callers: Callers,
    /// Names of requests.
    pub ids: RequestIds,
}

/// Bytes of request bodies that the process may hold at a time.
pub struct BodyBudget {
    limit_bytes: usize,
    held_bytes: AtomicUsize,
    metrics: Arc<Metrics>,
}

/// A part of the budget; given back when dropped.
pub struct BodyShare {
    budget: Arc<BodyBudget>,
    bytes: usize,
}

impl BodyBudget {
    /// A budget of `limit_bytes`.
    pub fn new(limit_bytes: usize, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { limit_bytes, held_bytes: AtomicUsize::new(0), metrics })
    }

    /// An empty share.
    pub fn share(self: &Arc<Self>) -> BodyShare {
        BodyShare { budget: Arc::clone(self), bytes: 0 }
    }
}

impl BodyShare {
    /// Grows to `bytes`; says whether there was room.
    #[must_use]
    pub fn grow_to(&mut self, bytes: usize) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        if more == 0 {
            return true;
        }
        let held = &self.budget.held_bytes;
        let before = held.fetch_add(more, Ordering::Relaxed);
        if before.saturating_add(more) > self.budget.limit_bytes {
            held.fetch_sub(more, Ordering::Relaxed);
            return false;
        }
        self.bytes += more;
        self.budget.metrics.body_bytes.inc_by(i64::try_from(more).unwrap_or(i64::MAX));
        true
    }
}

impl Drop for BodyShare {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.budget.held_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
            self.budget.metrics.body_bytes.dec_by(i64::try_from(self.bytes).unwrap_or(i64::MAX));
        }
    }
}

/// Makes names of requests: unguessable in their first half, counted in their second.
pub struct RequestIds {
    prefix: u64,
    count: Cell<u64>,
}

/// The name of one request: `req_` and 24 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RequestId([u8; 28]);

impl RequestIds {
    /// A line of names that no other thread or process uses.
    pub fn new() -> Self {
        let mut bytes = [0; 8];
        // Names need not be secret; should randomness fail, they are only less unlikely to repeat.
        let _ = SystemRandom::new().fill(&mut bytes);
        Self { prefix: u64::from_le_bytes(bytes), count: Cell::new(0) }
    }

    /// The next name.
    pub fn next(&self) -> RequestId {
        let count = self.count.get();
        self.count.set(count.wrapping_add(1));
        let number = (u128::from(self.prefix) << 32) | u128::from(count & u64::from(u32::MAX));
        let mut text = *b"req_000000000000000000000000";
        for (at, digit) in text.iter_mut().skip(4).enumerate() {
            let nibble = (number >> (4 * (23 - at))) & 0xf;
            *digit = b"0123456789abcdef".get(usize::try_from(nibble).unwrap_or(0)).copied().unwrap_or(b'0');
        }
        RequestId(text)
    }
}

impl Default for RequestIds {
    fn default() -> Self {
        Self::new()
    }
}

impl RequestId {
    /// The text.
    pub fn as_str(&self) -> &str {
        // Made of ASCII only, see above.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl std::fmt::Display for RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::fmt::Debug for RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_char('"')?;
        f.write_str(self.as_str())?;
        f.write_char('"')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_differ_and_have_their_form() {
        let ids = RequestIds { prefix: 0xdead_beef_0000_0001, count: Cell::new(0x1f) };
        assert_eq!(ids.next().as_str(), "req_deadbeef000000010000001f");
        assert_eq!(ids.next().as_str(), "req_deadbeef0000000100000020");
    }

    #[test]
    fn bodies_share_one_budget_and_give_it_back() {
        let budget = BodyBudget::new(100, Arc::new(Metrics::new()));
        let (mut a, mut b) = (budget.share(), budget.share());
        assert!(a.grow_to(60) && !b.grow_to(41) && b.grow_to(40) && a.grow_to(10) && !a.grow_to(61));
        drop(a);
        assert!(b.grow_to(100));
    }
}
