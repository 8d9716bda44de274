//! Where the limits of a thread's last callers are counted, so that a caller who comes again is not looked up.
//!
//! Bounded: each slot holds the last caller that fell to it, and its memory goes to the next one.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use la_core::budget::Cover;

use crate::config::live::TokenEntry;

/// How many callers. A cover of four budgets takes a kilobyte.
const SLOTS: usize = 32;

/// The covers of one thread.
#[derive(Default)]
pub struct Covers(RefCell<Vec<Option<Kept>>>);

struct Kept {
    /// Held, so that nothing else comes to lie where it lies.
    token: Arc<TokenEntry>,
    cover: Rc<RefCell<Cover>>,
}

impl Covers {
    /// The cover of a caller: what a ledger has made of it, or an empty one.
    pub(super) fn of(&self, token: &Arc<TokenEntry>) -> Rc<RefCell<Cover>> {
        let mut slots = self.0.borrow_mut();
        if slots.is_empty() {
            slots.resize_with(SLOTS, || None);
        }
        let Some(slot) = slots.get_mut(slot_of(token)) else { return Rc::default() };
        match slot {
            Some(kept) if Arc::ptr_eq(&kept.token, token) => {}
            Some(kept) if Rc::strong_count(&kept.cover) == 1 => {
                kept.token = Arc::clone(token);
                kept.cover.borrow_mut().forget();
            }
            _ => *slot = Some(Kept { token: Arc::clone(token), cover: Rc::default() }),
        }
        slot.as_ref().map_or_else(Rc::default, |kept| Rc::clone(&kept.cover))
    }
}

fn slot_of(token: &Arc<TokenEntry>) -> usize {
    Arc::as_ptr(token).addr() / size_of::<TokenEntry>() % SLOTS
}

#[cfg(test)]
mod tests {
    use la_core::budget::{Book, Grants};
    use la_core::id::{Subject, TokenId};

    use super::*;
    use crate::config::live::Standing;

    fn entry(name: &str) -> Arc<TokenEntry> {
        Arc::new(TokenEntry {
            subject: Subject::of("gateway", "team", name).unwrap(),
            id: TokenId::try_from(name.to_owned()).unwrap(),
            not_before: 0,
            not_after: i64::MAX,
            standing: Standing::Good,
            limits: Arc::default(),
            pools: Box::default(),
            providers: Box::default(),
            account: None,
            thresholds: Box::default(),
        })
    }

    #[test]
    fn caller_finds_its_own_cover_again_and_never_that_of_another() {
        let (covers, mut book) = (Covers::default(), Book::new(Grants::Endless));
        let tokens: Vec<_> = (0..10 * SLOTS).map(|at| entry(&format!("agent-{at}"))).collect();
        for token in &tokens {
            let cover = covers.of(token);
            assert_eq!(cover.borrow().meters(), 0, "{}", token.subject);
            book.renew(&mut cover.borrow_mut(), &token.covering());
            assert!(Rc::ptr_eq(&cover, &covers.of(token)));
        }
        let last = tokens.last().unwrap();
        let in_use = covers.of(last);
        for token in &tokens {
            drop(covers.of(token));
        }
        assert_eq!(in_use.borrow().meters(), 1, "whoever uses it keeps it");
        assert_eq!(covers.0.borrow().len(), SLOTS);
    }
}
