//! Crashes at every byte of a journal and between every two steps of the keeper.

use std::sync::atomic::AtomicU64;

use super::*;
use crate::ledger::embedded::{recover, store};

/// What was known when the journal had a certain length.
struct Mark {
    len_bytes: u64,
    settled: u64,
    /// Settled and open.
    taken: u64,
}

#[test]
fn journal_cut_at_any_byte_gives_what_was_recorded_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(setup(dir.path())).unwrap();
    let (journal, mut marks, mut held) = (dir.path().join("journal-1.log"), Vec::new(), Vec::new());
    let mut settled = 0;
    for round in 0..24_u64 {
        match round % 4 {
            0 | 1 | 3 => held.push(reserve(&ledger, "a", Some(40)).unwrap()),
            _ if round % 8 == 2 => held.remove(0).release(),
            _ => {
                held.remove(0).settle(&spent(round * 1000));
                settled += 1;
            }
        }
        marks.push(Mark {
            len_bytes: std::fs::metadata(&journal).unwrap().len(),
            settled,
            taken: held.len() as u64 + settled,
        });
    }
    let files = image(dir.path());
    let (_store, head, kept) = store::Store::open(files.path()).ok().unwrap();
    let journal = files.path().join("journal-1.log");
    let whole = std::fs::read(&journal).unwrap();
    for end in 20..=whole.len() {
        std::fs::write(&journal, &whole[..end]).unwrap();
        let known = marks.iter().rev().find(|mark| mark.len_bytes <= end as u64);
        let (least, taken) = known.map_or((0, 0), |mark| (mark.settled, mark.taken));
        for (what, setup) in [("kill", setup(files.path())), ("power cut", after_power_cut(files.path()))] {
            let book = recover::recover(&setup, &head, &kept, NOW_MS).unwrap().book;
            let used = book.used(&subject("a")).unwrap_or_default();
            let counted = used.requests;
            assert_eq!(used.open, 0, "{what} at {end}");
            assert!((least..=40).contains(&counted), "{what} at {end}: {counted}, but {least} were settled");
            if what == "kill" {
                assert_eq!(counted, taken, "{what} at {end}: what was taken is charged, and nothing else");
            }
        }
    }
}

/// Counts of what a client could know, for bounds of what an image may say.
#[derive(Default)]
struct Known {
    started: AtomicU64,
    ended: AtomicU64,
}

/// The files at a step; requests that had ended before, and had started after, they were copied.
type Image = (Step, u64, tempfile::TempDir, u64);

#[test]
fn crash_between_any_two_steps_loses_nothing_and_gives_nothing_away() {
    let dir = tempfile::tempdir().unwrap();
    let known = Arc::new(Known::default());
    let images: Arc<Mutex<Vec<Image>>> = Arc::default();
    let probe: Probe = {
        let (known, images, dir) = (Arc::clone(&known), Arc::clone(&images), dir.path().to_owned());
        Arc::new(move |step| {
            let ended = known.ended.load(Ordering::SeqCst);
            let image = image(&dir);
            let started = known.started.load(Ordering::SeqCst);
            images.lock().unwrap().push((step, ended, image, started));
            Ok(())
        })
    };
    let ledger = open(Setup { segment_bytes: 400, probe, ..setup(dir.path()) }).unwrap();
    let limit = 700;
    for _ in 0..limit + 20 {
        known.started.fetch_add(1, Ordering::SeqCst);
        match reserve(&ledger, "a", Some(limit)) {
            Ok(reservation) => {
                reservation.settle(&spent(1));
                known.ended.fetch_add(1, Ordering::SeqCst);
            }
            Err(ReserveError::Refused(_)) => break,
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(used(&ledger, "a"), (limit, 0));
    drop(ledger);
    let images = std::mem::take(&mut *images.lock().unwrap());
    let seen = |wanted| images.iter().filter(|(step, ..)| *step == wanted).count();
    for step in [
        Step::Granting,
        Step::GrantWritten,
        Step::SegmentMade,
        Step::Switched,
        Step::CheckpointWritten,
        Step::Swept,
    ] {
        assert!(seen(step) >= 2, "{step:?} was seen {} times", seen(step));
    }
    for (step, ended, image, started) in images {
        let killed = open(setup(image.path())).unwrap();
        let (counted, _) = used(&killed, "a");
        assert!(counted >= ended && counted <= started, "{step:?}: {counted} not in {ended}..={started}");
        // Going on from here never passes the limit.
        let mut more = 0;
        while let Ok(reservation) = reserve(&killed, "a", Some(limit)) {
            reservation.settle(&spent(1));
            more += 1;
        }
        assert_eq!(counted + more, limit, "{step:?}");
    }
}

#[test]
fn power_cut_between_any_two_steps_never_gives_anything_away() {
    let dir = tempfile::tempdir().unwrap();
    let ended = Arc::new(AtomicU64::new(0));
    let images: Arc<Mutex<Vec<(Step, u64, tempfile::TempDir)>>> = Arc::default();
    let probe: Probe = {
        let (ended, images, dir) = (Arc::clone(&ended), Arc::clone(&images), dir.path().to_owned());
        Arc::new(move |step| {
            let image = image(&dir);
            // Counted after the copy: all that can have been spent by then must be covered by a grant.
            images.lock().unwrap().push((step, ended.load(Ordering::SeqCst), image));
            Ok(())
        })
    };
    let ledger = open(Setup { segment_bytes: 400, probe, ..setup(dir.path()) }).unwrap();
    for _ in 0..600 {
        reserve(&ledger, "a", Some(10_000)).unwrap().settle(&spent(1));
        ended.fetch_add(1, Ordering::SeqCst);
    }
    drop(ledger);
    for (step, ended, image) in std::mem::take(&mut *images.lock().unwrap()) {
        for keep_bytes in [20, 37, 90] {
            let cut = super::image(image.path());
            for journal in journals(cut.path()) {
                let file = std::fs::OpenOptions::new().write(true).open(journal).unwrap();
                let len_bytes = file.metadata().unwrap().len();
                // The header is synced; after it the file may end anywhere or hold zeros.
                file.set_len(len_bytes.min(keep_bytes)).unwrap();
                file.set_len(len_bytes).unwrap();
            }
            let (counted, _) = used(&open(after_power_cut(cut.path())).unwrap(), "a");
            assert!(counted >= ended, "{step:?}: {counted} counted of {ended} spent");
            assert!(counted <= ended + 2 * 4096, "{step:?}: {counted} counted of {ended} spent");
        }
    }
}

#[test]
fn settlement_that_waits_for_the_next_write_is_charged_by_a_crash_and_kept_by_the_write() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(setup(dir.path())).unwrap();
    reserve(&ledger, "a", None).unwrap().settle_soon(&Spent::request(tokens(7)));
    let whole = |settled, count| Some(Use { settled, open: 0, tokens: tokens(count) });
    assert_eq!(ledger.usage(&subject("a")), whole(1, 7));
    let killed = open(setup(image(dir.path()).path())).unwrap();
    assert_eq!(killed.usage(&subject("a")), whole(1, 0), "its request was open when it was killed");
    ledger.write_down();
    let killed = open(setup(image(dir.path()).path())).unwrap();
    assert_eq!(killed.usage(&subject("a")), whole(1, 7));
}

#[test]
fn segment_that_was_being_made_when_the_process_died_is_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(setup(dir.path())).unwrap();
    spend(&ledger, "a", 3);
    let header = std::fs::read(dir.path().join("journal-1.log")).unwrap()[..20].to_vec();
    for len in 0..20 {
        let killed = image(dir.path());
        std::fs::write(killed.path().join("journal-2.log"), &header[..len]).unwrap();
        assert_eq!(used(&open(setup(killed.path())).unwrap(), "a"), (3, 0), "{len} bytes of the header");
        let names: Vec<_> = journals(killed.path());
        assert_eq!(names, [killed.path().join("journal-3.log")], "{len} bytes of the header");
    }
    for lost in [vec![], vec![0; 20], vec![0; 4096]] {
        let cut = image(dir.path());
        std::fs::write(cut.path().join("journal-2.log"), &lost).unwrap();
        assert!(used(&open(after_power_cut(cut.path())).unwrap(), "a").0 >= 3, "{} zeros", lost.len());
    }
    let damaged = image(dir.path());
    std::fs::write(damaged.path().join("journal-2.log"), [0; 20]).unwrap();
    assert!(open(setup(damaged.path())).is_err(), "no kill leaves zeros");
}
