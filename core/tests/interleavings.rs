//! The book behind one lock, as a ledger keeps it, under all interleavings of three threads.
//!
//! `cargo test -p la-core --test interleavings`; loom runs every schedule of the lock's critical sections.
//! What is not the lock comes from std: loom need not look at it.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use la_core::amount::{Amounts, Unit};
use la_core::budget::{Book, Budget, Cover, Covering, Denied, Enforcement, Grants, HoldId, Spent, Window};
use la_core::id::Subject;
use loom::sync::Mutex;

const NOW_MS: u64 = 1_800_000_000_000;
const LIMIT: u64 = 2;

struct Ledger {
    book: Book,
    cover: Cover,
    /// Requests that were settled, by whoever settled them.
    settled: u64,
}

fn subject() -> Subject {
    Subject::of("proxy", "agents", "a").unwrap()
}

fn ledger(grants: Grants) -> Arc<Mutex<Ledger>> {
    let mut book = Book::new(grants);
    let (unit, window, enforcement) = (Unit::Requests, Window::Lifetime, Enforcement::Hard);
    let budget =
        Budget { name: "b".into(), unit, limit: LIMIT, window, enforcement, admits: Default::default() };
    let (owner, budgets) = (&subject(), &[budget]);
    let cover = book.cover(&[Covering { owner, budgets, rates: &[], concurrency: None }]);
    Arc::new(Mutex::new(Ledger { book, cover, settled: 0 }))
}

/// Does something under the lock and sees that nothing is over the limit afterwards.
fn locked<T>(ledger: &Mutex<Ledger>, job: impl FnOnce(&mut Ledger) -> T) -> T {
    let mut ledger = ledger.lock().unwrap();
    let done = job(&mut ledger);
    let Ledger { book, cover, settled } = &mut *ledger;
    let standing = &book.standings(cover, NOW_MS)[0];
    assert!(standing.used <= LIMIT, "{} of {LIMIT}", standing.used);
    assert_eq!(standing.used, *settled + standing.open, "settled and open are what is used");
    done
}

fn reserve(ledger: &Mutex<Ledger>) -> Result<HoldId, Denied> {
    locked(ledger, |Ledger { book, cover, .. }| {
        book.reserve(cover, &Amounts::of_requests(1), NOW_MS).map(|admission| admission.hold)
    })
}

fn settle(ledger: &Mutex<Ledger>, hold: HoldId) -> bool {
    locked(ledger, |Ledger { book, settled, .. }| {
        let done = book.settle(hold, &Spent { amounts: Amounts::of_requests(1), ..Spent::default() });
        *settled += u64::from(done.is_some());
        done.is_some()
    })
}

fn release(ledger: &Mutex<Ledger>, hold: HoldId) -> bool {
    locked(ledger, |ledger| ledger.book.release(hold).is_some())
}

fn used(ledger: &Mutex<Ledger>) -> u64 {
    locked(ledger, |Ledger { book, cover, .. }| book.standings(cover, NOW_MS)[0].used)
}

#[test]
fn three_threads_never_pass_the_limit_and_settle_what_they_were_given() {
    loom::model(|| {
        let ledger = ledger(Grants::Endless);
        let threads: Vec<_> = [true, true, false]
            .map(|settles| {
                let ledger = Arc::clone(&ledger);
                loom::thread::spawn(move || match reserve(&ledger) {
                    Ok(hold) if settles => u64::from(settle(&ledger, hold)),
                    Ok(hold) => {
                        assert!(release(&ledger, hold));
                        0
                    }
                    Err(Denied::Refused(refused)) => {
                        assert_eq!((refused.used, refused.limit), (LIMIT, LIMIT));
                        0
                    }
                    Err(other) => panic!("{other:?}"),
                })
            })
            .into_iter()
            .collect();
        let settled: u64 = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
        assert_eq!(used(&ledger), settled);
    });
}

#[test]
fn hold_that_three_threads_end_ends_once() {
    loom::model(|| {
        let ledger = ledger(Grants::Endless);
        let hold = reserve(&ledger).unwrap();
        let threads = [true, true, false].map(|settles| {
            let ledger = Arc::clone(&ledger);
            loom::thread::spawn(move || {
                let ended = if settles { settle(&ledger, hold) } else { release(&ledger, hold) };
                // The place is taken again, so that the number of the old hold could hit the new one.
                (ended, ended && reserve(&ledger).is_ok())
            })
        });
        let outcomes = threads.map(|thread| thread.join().unwrap());
        assert_eq!(outcomes.iter().filter(|(ended, _)| *ended).count(), 1, "{outcomes:?}");
        let open = locked(&ledger, |ledger| ledger.book.standings(&ledger.cover, NOW_MS)[0].open);
        assert_eq!(open, 1, "the next hold is still open: {outcomes:?}");
    });
}

#[test]
fn nothing_is_spent_before_its_grant_is_durable() {
    loom::model(|| {
        let ledger = ledger(Grants::Needed);
        let durable = Arc::new(AtomicU64::new(0));
        let spenders = [(), ()].map(|()| {
            let (ledger, durable) = (Arc::clone(&ledger), Arc::clone(&durable));
            loom::thread::spawn(move || match reserve(&ledger) {
                Ok(hold) => {
                    assert!(durable.load(Ordering::SeqCst) >= 1, "spent before it was granted");
                    assert!(settle(&ledger, hold));
                    1
                }
                Err(Denied::NotGranted) => 0,
                Err(other) => panic!("{other:?}"),
            })
        });
        // The keeper: looks under the lock, writes outside of it, gives under it.
        for _ in 0..2 {
            let grants = locked(&ledger, |ledger| ledger.book.next_grants());
            for grant in &grants {
                durable.store(grant.saved.granted, Ordering::SeqCst);
            }
            locked(&ledger, |ledger| ledger.book.grant(&grants));
        }
        let settled: u64 = spenders.into_iter().map(|thread| thread.join().unwrap()).sum();
        assert_eq!(used(&ledger), settled);
        assert!(settled <= durable.load(Ordering::SeqCst));
    });
}
