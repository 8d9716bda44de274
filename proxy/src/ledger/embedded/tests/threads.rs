//! Many threads with a runtime each, as the data plane has them.

use std::sync::atomic::AtomicU64;

use super::*;

const THREADS: u64 = 4;
const TASKS: u64 = 16;

/// 64 clients on four threads reserve, and end reservations in every way, until nothing is left.
fn hammer(ledger: &Arc<Ledger>, limit: u64) -> (u64, u64) {
    let (settled, dropped) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let (ledger, settled, dropped) = (Arc::clone(ledger), Arc::clone(&settled), Arc::clone(&dropped));
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
                let local = tokio::task::LocalSet::new();
                for task in 0..TASKS {
                    let (ledger, settled, dropped) =
                        (Arc::clone(&ledger), Arc::clone(&settled), Arc::clone(&dropped));
                    local.spawn_local(async move {
                        for round in task.. {
                            let Ok(reservation) =
                                reserve_request(&ledger, &subject("a"), Some(limit), NOW).await
                            else {
                                return;
                            };
                            tokio::task::yield_now().await;
                            match round % 5 {
                                0 => reservation.release(),
                                1 => {
                                    drop(reservation);
                                    dropped.fetch_add(1, Ordering::Relaxed);
                                }
                                _ => {
                                    reservation.settle(&spent(2));
                                    settled.fetch_add(1, Ordering::Relaxed);
                                }
                            }
                        }
                    });
                }
                runtime.block_on(local);
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    (settled.load(Ordering::Relaxed), dropped.load(Ordering::Relaxed))
}

/// A client that meets a full budget gives up while others still release: take the rest one by one.
fn take_rest(ledger: &Ledger, limit: u64) -> u64 {
    let mut rest = 0;
    while let Ok(reservation) = reserve(ledger, "a", Some(limit)) {
        reservation.settle(&spent(2));
        rest += 1;
    }
    rest
}

#[test]
fn threads_together_spend_exactly_the_limit() {
    let dir = tempfile::tempdir().unwrap();
    let embedded = open(Setup { segment_bytes: 20_000, ..setup(dir.path()) }).unwrap();
    for (name, ledger) in [("embedded", embedded), ("memory", Ledger::memory())] {
        for limit in [100, 5_000, 20_000] {
            let before = ledger.usage(&subject("a")).unwrap_or_default();
            let (settled, dropped) = hammer(&ledger, limit);
            let rest = take_rest(&ledger, limit);
            let used = ledger.usage(&subject("a")).unwrap();
            assert_eq!(before.settled + settled + dropped + rest, limit, "{name}");
            assert_eq!((used.settled, used.open), (limit, 0), "{name}");
            let output = before.tokens.output_tokens + 2 * (settled + rest);
            assert_eq!(used.tokens, tokens(output), "{name}");
        }
        if name == "embedded" {
            drop(ledger);
            let ledger = open(setup(dir.path())).unwrap();
            assert_eq!(used(&ledger, "a"), (20_000, 0));
            assert!(matches!(
                reserve(&ledger, "a", Some(20_000)),
                Err(ReserveError::Refused(why)) if why.limit == 20_000
            ));
        }
    }
}
