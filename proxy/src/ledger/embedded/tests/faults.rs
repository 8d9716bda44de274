//! Disks that are full or fail: nothing is given away, and work goes on once they are well again.

use super::*;

fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("{what} did not happen within 5 s");
}

#[test]
fn full_disk_stops_reservations_and_ends_without_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let broken = Arc::new(AtomicBool::new(false));
    let probe: Probe = {
        let broken = Arc::clone(&broken);
        Arc::new(move |_| match broken.load(Ordering::SeqCst) {
            true => Err(std::io::Error::from(std::io::ErrorKind::StorageFull)),
            false => Ok(()),
        })
    };
    let ledger = open(Setup { probe, ..setup(dir.path()) }).unwrap();
    spend(&ledger, "a", 5);
    let held = [reserve(&ledger, "a", None).unwrap(), reserve(&ledger, "a", None).unwrap()];
    let full = Arc::clone(&ledger.shared().lock().segment.as_ref().unwrap().full);
    broken.store(true, Ordering::SeqCst);
    full.store(true, Ordering::SeqCst);

    let refused = reserve(&ledger, "a", None).err().unwrap();
    assert!(matches!(&refused, ReserveError::Unavailable(why) if why.contains("journal-1.log")), "{refused}");
    assert!(ledger.health().is_err());
    assert_eq!(used(&ledger, "a"), (5, 2), "a refusal changes nothing");
    let [settled, released] = held;
    settled.settle(&spent(1));
    released.release();
    assert_eq!(used(&ledger, "a"), (6, 0));
    let killed = open(setup(image(dir.path()).path())).unwrap();
    assert_eq!(used(&killed, "a"), (7, 0), "what could not be recorded as ended is charged");
    std::thread::sleep(Duration::from_millis(600));
    assert!(ledger.health().is_err(), "nothing has been written yet");

    broken.store(false, Ordering::SeqCst);
    eventually("recovery", || ledger.health().is_ok());
    spend(&ledger, "a", 1);
    let killed = open(setup(image(dir.path()).path())).unwrap();
    assert_eq!(killed.usage(&subject("a")), Some(Use { settled: 7, open: 0, tokens: tokens(7) }));
    assert!(journals(dir.path()).len() <= 2, "{:?}", journals(dir.path()));
}

#[test]
fn failure_of_any_step_refuses_and_then_recovers() {
    let steps = [
        Step::Granting,
        Step::GrantWritten,
        Step::SegmentMade,
        Step::Switched,
        Step::CheckpointWritten,
        Step::Swept,
    ];
    for failing in steps {
        let dir = tempfile::tempdir().unwrap();
        let armed = Arc::new(AtomicBool::new(false));
        let probe: Probe = {
            let armed = Arc::clone(&armed);
            Arc::new(move |step| match step == failing && armed.swap(false, Ordering::SeqCst) {
                true => Err(std::io::Error::other("injected")),
                false => Ok(()),
            })
        };
        let ledger = open(Setup { segment_bytes: 300, probe, ..setup(dir.path()) }).unwrap();
        let (mut settled, mut refused) = (0, 0);
        while settled < 400 {
            if settled == 100 && refused == 0 {
                armed.store(true, Ordering::SeqCst);
            }
            match reserve(&ledger, "a", Some(400)) {
                Ok(reservation) => {
                    reservation.settle(&spent(1));
                    settled += 1;
                }
                Err(ReserveError::Unavailable(why)) => {
                    refused += 1;
                    assert!(why.contains("injected"), "{failing:?}: {why}");
                    assert!(!armed.load(Ordering::SeqCst));
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(other) => panic!("{failing:?}: {other}"),
            }
        }
        eventually("recovery", || ledger.health().is_ok());
        assert!(!armed.load(Ordering::SeqCst), "{failing:?} was never reached");
        assert_eq!(used(&ledger, "a"), (400, 0), "{failing:?}");
        drop(ledger);
        let ledger = open(setup(dir.path())).unwrap();
        assert_eq!(
            ledger.usage(&subject("a")),
            Some(Use { settled: 400, open: 0, tokens: tokens(400) }),
            "{failing:?}"
        );
    }
}

#[test]
fn disk_that_does_not_answer_is_reported_after_a_second() {
    let dir = tempfile::tempdir().unwrap();
    let stuck = Arc::new(AtomicBool::new(true));
    let probe: Probe = {
        let stuck = Arc::clone(&stuck);
        Arc::new(move |_| {
            while stuck.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(())
        })
    };
    let ledger = open(Setup { probe, ..setup(dir.path()) }).unwrap();
    let refused = reserve(&ledger, "a", None).err().unwrap();
    assert!(matches!(&refused, ReserveError::Unavailable(why) if why.contains("not answered")), "{refused}");
    assert!(ledger.health().is_err());
    stuck.store(false, Ordering::SeqCst);
    eventually("recovery", || ledger.health().is_ok());
    spend(&ledger, "a", 1);
}

#[test]
fn directory_that_cannot_be_written_is_refused_with_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let refused = open(setup(&file.join("data"))).err().unwrap();
    assert!(matches!(refused, OpenError::Io { .. }), "{refused}");
    assert!(refused.to_string().contains("file/data"), "{refused}");
}

#[test]
fn write_that_fails_refuses_every_reservation_that_waited_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(setup(dir.path())).unwrap();
    spend(&ledger, "a", 1);
    ledger.shared().lock().segment.as_ref().unwrap().full.store(true, Ordering::SeqCst);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let who = subject("a");
    let (first, second) = runtime.block_on(async {
        tokio::join!(
            reserve_request(&ledger, &who, Some(9), NOW),
            reserve_request(&ledger, &who, Some(9), NOW)
        )
    });
    assert!(
        matches!(first, Err(ReserveError::Unavailable(_)))
            && matches!(second, Err(ReserveError::Unavailable(_)))
    );
    assert_eq!(used(&ledger, "a"), (1, 0), "a refusal changes nothing");
}

#[test]
fn reservation_that_is_given_up_before_it_was_written_down_never_was() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(setup(dir.path())).unwrap();
    spend(&ledger, "a", 1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let who = subject("a");
        let mut reserving = Box::pin(reserve_request(&ledger, &who, Some(9), NOW));
        let waiting =
            std::future::poll_fn(|context| std::task::Poll::Ready(reserving.as_mut().poll(context))).await;
        assert!(waiting.is_pending());
        assert_eq!(used(&ledger, "a"), (1, 1));
    });
    assert_eq!(used(&ledger, "a"), (1, 0));
}
