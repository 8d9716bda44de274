//! One client connection as its thread sees it: what it waits for, until when, and why it must end.
//!
//! Instead of arming a timer for every phase of every request, a connection writes down when it is due,
//! and a sweep over all seats of a thread, four times a second, wakes those that are. A connection is one
//! task, so waking it wakes whatever in it waits: the head, the body, the vendor's answer.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;

use crate::clock;
use crate::config::live::{Live, Standing, TokenEntry};

/// Between two sweeps, in milliseconds: how late anything due may be noticed.
pub const SWEEP_EVERY_MS: u64 = 250;

/// How long a head may take from its first byte.
const HEAD_MS: u64 = 30_000;

/// How long a connection may be without a request.
const IDLE_MS: u64 = 75_000;

/// Not due at all.
const NEVER: u64 = u64::MAX;

/// Why a request must end before it is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The phase it is in has taken too long.
    Due,
    /// All phases together have taken too long.
    Overdue,
    /// Its token was revoked or removed.
    Revoked,
    /// Its token was suspended.
    Suspended,
    /// The router is stopping.
    Stopping,
    /// Its client has gone.
    Gone,
}

/// One connection.
pub struct Seat {
    waker: OnceCell<Waker>,
    /// When the connection is due to have done something, outside requests.
    connection_due_ms: Cell<u64>,
    connection_over: Cell<bool>,
    /// Whether a part of a head has come.
    head_begun: Cell<bool>,
    /// Whether a request is being served.
    busy: Cell<bool>,
    leaving: Cell<bool>,
    due_ms: Cell<u64>,
    overdue_ms: Cell<u64>,
    /// When its task wants to look again, whatever else happens.
    alarm_ms: Cell<u64>,
    end: Cell<Option<End>>,
    token: RefCell<Option<Arc<TokenEntry>>>,
    /// The [`Live::serial`] that the token was last found good in.
    serial: Cell<u64>,
}

/// All seats of one thread.
#[derive(Default)]
pub struct Seats {
    all: RefCell<Vec<Rc<Seat>>>,
}

impl Seat {
    fn new() -> Self {
        Self {
            waker: OnceCell::new(),
            connection_due_ms: Cell::new(NEVER),
            connection_over: Cell::new(false),
            head_begun: Cell::new(false),
            busy: Cell::new(false),
            leaving: Cell::new(false),
            due_ms: Cell::new(NEVER),
            overdue_ms: Cell::new(NEVER),
            alarm_ms: Cell::new(NEVER),
            end: Cell::new(None),
            token: RefCell::new(None),
            serial: Cell::new(0),
        }
    }

    /// Remembers the task that serves this connection. A task's waker never changes.
    pub fn sit(&self, waker: &Waker) {
        self.waker.get_or_init(|| waker.clone());
    }

    /// No byte of a next head has come.
    pub fn expect_head(&self) {
        self.head_begun.set(false);
        self.expect(IDLE_MS);
    }

    /// The first bytes of a head have come, not all.
    pub fn head_begins(&self) {
        if !self.head_begun.replace(true) {
            self.expect(HEAD_MS);
        }
    }

    /// The client has taken some of what it was sent, and gets time for the rest.
    pub fn takes(&self) {
        self.expect(IDLE_MS);
    }

    /// The client gets `ms` to take what it was sent.
    pub fn expect(&self, ms: u64) {
        self.connection_over.set(false);
        if !self.busy.get() {
            self.connection_due_ms.set(clock::noted_ms().saturating_add(ms));
        }
    }

    /// Whether a head has begun and its time has passed.
    pub fn is_head_late(&self) -> bool {
        self.connection_over.get() && self.head_begun.get()
    }

    /// Whether the connection has nothing to do and its time has passed.
    pub fn is_over(&self) -> bool {
        self.connection_over.get() && !self.head_begun.get() && !self.busy.get()
    }

    /// Whether the connection should close as soon as it has no request.
    pub fn is_leaving(&self) -> bool {
        self.leaving.get()
    }

    /// A request begins: its head has come, good or bad.
    pub fn begin_request(&self) {
        self.head_begun.set(false);
        self.busy.set(true);
        self.connection_due_ms.set(NEVER);
    }

    /// The phase that begins now may take `ms`.
    pub fn begin_phase(&self, ms: u64) {
        self.due_ms.set(clock::noted_ms().saturating_add(ms));
    }

    /// Forgets that a phase took too long: another attempt is made.
    pub fn try_again(&self) {
        if self.end.get() == Some(End::Due) {
            self.end.set(None);
        }
    }

    /// Wakes the task at `at_ms`, or earlier. What it does then is its own business.
    pub fn wake_by(&self, at_ms: u64) {
        self.alarm_ms.set(self.alarm_ms.get().min(at_ms));
    }

    /// Whatever the request does, it may take `ms` from now.
    pub fn limit_request(&self, ms: u64) {
        self.overdue_ms.set(clock::noted_ms().saturating_add(ms));
    }

    /// Ends the request when `token` stops being good.
    pub fn depend_on(&self, token: &Arc<TokenEntry>, live: &Live) {
        self.serial.set(live.serial());
        *self.token.borrow_mut() = Some(Arc::clone(token));
    }

    /// Why the request must end, if it must.
    pub fn end(&self) -> Option<End> {
        self.end.get()
    }

    /// Forgets the request.
    pub fn leave_request(&self) {
        self.due_ms.set(NEVER);
        self.overdue_ms.set(NEVER);
        self.alarm_ms.set(NEVER);
        self.end.set(None);
        self.token.borrow_mut().take();
        self.busy.set(false);
        self.expect(IDLE_MS);
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
    }

    fn sweep(&self, now_ms: u64, live: &Arc<Live>) {
        if self.connection_due_ms.get() <= now_ms && !self.connection_over.replace(true) {
            self.wake();
        }
        if self.alarm_ms.get() <= now_ms {
            self.alarm_ms.set(NEVER);
            self.wake();
        }
        if self.end.get().is_some() {
            return;
        }
        let end = if self.overdue_ms.get() <= now_ms {
            Some(End::Overdue)
        } else if self.due_ms.get() <= now_ms {
            Some(End::Due)
        } else {
            self.token_end(live)
        };
        if end.is_some() {
            self.end.set(end);
            self.wake();
        }
    }

    fn token_end(&self, live: &Arc<Live>) -> Option<End> {
        if self.serial.replace(live.serial()) == live.serial() {
            return None;
        }
        let token = self.token.borrow();
        match live.token(&token.as_ref()?.id).map(|entry| entry.standing) {
            Some(Standing::Good) => None,
            Some(Standing::Suspended) => Some(End::Suspended),
            Some(Standing::Revoked) | None => Some(End::Revoked),
        }
    }
}

impl Seats {
    /// A seat for a new connection.
    pub fn take(&self) -> Rc<Seat> {
        let seat = Rc::new(Seat::new());
        self.all.borrow_mut().push(Rc::clone(&seat));
        seat
    }

    /// Wakes whatever is due, and lets go of connections that have gone.
    pub fn sweep(&self, live: &Arc<Live>) {
        let now_ms = clock::note();
        self.all.borrow_mut().retain(|seat| {
            seat.sweep(now_ms, live);
            Rc::strong_count(seat) > 1
        });
    }

    /// Asks every connection to close once its request has ended.
    pub fn ask_to_leave(&self) {
        for seat in self.all.borrow().iter() {
            seat.leaving.set(true);
            seat.wake();
        }
    }

    /// Ends every request that is open; says how many there were.
    pub fn stop(&self) -> u64 {
        let mut open = 0;
        for seat in self.all.borrow().iter().filter(|seat| Rc::strong_count(seat) > 1) {
            open += u64::from(seat.busy.get());
            seat.end.set(Some(End::Stopping));
            seat.connection_over.set(true);
            seat.wake();
        }
        open
    }

    /// Whether no connection is left.
    pub fn is_empty(&self) -> bool {
        self.all.borrow().iter().all(|seat| Rc::strong_count(seat) == 1)
    }
}
