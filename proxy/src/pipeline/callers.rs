//! What a thread has found out about its last callers, so that one who comes again is not looked up.
//!
//! Bounded: each slot holds the last caller that fell to it, and its memory goes to the next one.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use la_core::budget::Cover;

use super::disclose::Fields;
use crate::config::live::TokenEntry;

/// How many callers. One with four budgets takes two kilobytes.
const SLOTS: usize = 32;

/// The callers of one thread.
#[derive(Default)]
pub struct Callers(RefCell<Vec<Option<Rc<Known>>>>);

/// What is known of one caller.
pub struct Known {
    /// Held, so that nothing else comes to lie where it lies.
    pub(super) token: Arc<TokenEntry>,
    /// Where its limits are counted: what a ledger has made of them, or nothing yet.
    pub(super) cover: RefCell<Cover>,
    /// What it is told of its budgets.
    pub(super) fields: RefCell<Fields>,
}

impl Callers {
    /// What is known of the one with this token.
    pub(super) fn of(&self, token: &Arc<TokenEntry>) -> Rc<Known> {
        let mut slots = self.0.borrow_mut();
        if slots.is_empty() {
            slots.resize_with(SLOTS, || None);
        }
        let Some(slot) = slots.get_mut(slot_of(token)) else { return Rc::new(Known::new(token)) };
        if let Some(known) = slot {
            if Arc::ptr_eq(&known.token, token) {
                return Rc::clone(known);
            }
            if let Some(unused) = Rc::get_mut(known) {
                unused.token = Arc::clone(token);
                unused.cover.get_mut().forget();
                unused.fields.get_mut().forget();
                return Rc::clone(known);
            }
        }
        Rc::clone(slot.insert(Rc::new(Known::new(token))))
    }
}

impl Known {
    fn new(token: &Arc<TokenEntry>) -> Self {
        Self { token: Arc::clone(token), cover: RefCell::default(), fields: RefCell::default() }
    }
}

fn slot_of(token: &Arc<TokenEntry>) -> usize {
    Arc::as_ptr(token).addr() / size_of::<TokenEntry>() % SLOTS
}

#[cfg(test)]
mod tests {
    use la_core::budget::{Book, Grants};

    use super::*;

    #[test]
    fn caller_finds_its_own_cover_again_and_never_that_of_another() {
        let (callers, mut book) = (Callers::default(), Book::new(Grants::Endless));
        let tokens: Vec<_> =
            (0..10 * SLOTS).map(|at| Arc::new(TokenEntry::named(&format!("agent-{at}")))).collect();
        for token in &tokens {
            let caller = callers.of(token);
            assert_eq!(caller.cover.borrow().meters(), 0, "{}", token.subject);
            assert_eq!(caller.token.subject, token.subject);
            book.renew(&mut caller.cover.borrow_mut(), &token.covering());
            assert!(Rc::ptr_eq(&caller, &callers.of(token)));
        }
        let last = tokens.last().unwrap();
        let in_use = callers.of(last);
        for token in &tokens {
            drop(callers.of(token));
        }
        assert_eq!(in_use.cover.borrow().meters(), 1, "whoever uses it keeps it");
        assert_eq!(callers.0.borrow().len(), SLOTS);
    }
}
