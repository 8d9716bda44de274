//! The usage log counts as the ledger does, through ends, kills and power cuts.

use super::budgets::Load;
use super::*;
use crate::usage_log::{self, Recount};

/// What the log of a data folder comes to, and in what it differs from the ledger that is open there.
fn counted(dir: &Path, ledger: &Ledger) -> (Recount, Vec<usage_log::Difference>) {
    let book = ledger.saved().unwrap();
    let recount = usage_log::recount(&[usage_log::folder(dir)], book.entries).unwrap();
    let differences = recount.differences(&book);
    (recount, differences)
}

#[track_caller]
fn agrees(dir: &Path, ledger: &Ledger, what: &str) {
    let (recount, differences) = counted(dir, ledger);
    assert_eq!(differences, [], "{what}: {:?}", recount.notes);
    assert!(recount.is_whole, "{what}: {:?}", recount.notes);
}

#[test]
fn log_counts_as_the_ledger_after_a_kill_at_any_request() {
    let (mut charges, mut late) = (0, 0);
    for seed in 0..rounds(40) {
        let (dir, pauses) = (tempfile::tempdir().unwrap(), Arc::new(Pauses::default()));
        let small = Setup { segment_bytes: 2_000, probe: pauses.probe(), ..setup(dir.path()) };
        let ledger = open(small).unwrap();
        let mut load = Load::new(seed);
        for round in 0..200 {
            load.step(&ledger);
            if round % 10 != 0 {
                continue;
            }
            let what = format!("seed {seed}, round {round}");
            agrees(dir.path(), &ledger, &what);
            let image = pauses.image(dir.path());
            let after = open(setup(image.path())).unwrap();
            agrees(image.path(), &after, &what);
            late += after.saved().unwrap().entries - ledger.saved().unwrap().entries;
            // And it goes on from there.
            load.probe_on(&after);
            agrees(image.path(), &after, &format!("{what}, afterwards"));
        }
        charges += ledger.saved().unwrap().entries;
    }
    assert!(charges > 100 && late > 100, "{charges} charges, {late} at kills");
}

#[test]
fn line_that_a_kill_kept_from_the_log_is_written_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(setup(dir.path())).unwrap();
    spend(&ledger, "a", 9);
    let killed = image(dir.path());
    let file = usage_log::folder(killed.path()).join("usage-1.jsonl");
    let text = std::fs::read_to_string(&file).unwrap();
    for keep in [text.len(), text.len() - 1, text.len() / 2, 1, 0] {
        let again = image(killed.path());
        let file = usage_log::folder(again.path()).join("usage-1.jsonl");
        std::fs::write(&file, &text[..keep]).unwrap();
        let after = open(setup(again.path())).unwrap();
        agrees(again.path(), &after, &format!("{keep} bytes kept"));
        let lines = std::fs::read_to_string(&file).unwrap();
        assert_eq!(lines.lines().count(), 9, "{keep} bytes kept");
    }
}

#[test]
fn power_cut_begins_the_log_anew_with_what_is_counted_then() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(setup(dir.path())).unwrap();
    spend(&ledger, "a", 9);
    let cut = image(dir.path());
    let after = open(after_power_cut(cut.path())).unwrap();
    agrees(cut.path(), &after, "after the power cut");
    spend(&after, "a", 2);
    agrees(cut.path(), &after, "and later");
    let (recount, _) = counted(cut.path(), &after);
    assert!(recount.notes[0].contains("usage-2.jsonl"), "{:?}", recount.notes);
}

#[test]
fn log_goes_on_over_closes_and_says_when_it_was_off() {
    let dir = tempfile::tempdir().unwrap();
    for log in [Keeping::On(BOUNDS), Keeping::Owed, Keeping::On(BOUNDS)] {
        let ledger = open(Setup { log, ..setup(dir.path()) }).unwrap();
        agrees(dir.path(), &ledger, "open");
        if log != Keeping::Owed {
            spend(&ledger, "a", 3);
        }
        ledger.close().unwrap();
    }
    let ledger = open(Setup { log: Keeping::Off, ..setup(dir.path()) }).unwrap();
    spend(&ledger, "a", 2);
    let (recount, differences) = counted(dir.path(), &ledger);
    assert_eq!((recount.is_whole, differences.is_empty()), (false, false));
    assert_eq!(recount.notes, ["the log lacks 2 charges, 7 to 8"]);
    ledger.close().unwrap();
    let ledger = open(setup(dir.path())).unwrap();
    spend(&ledger, "a", 1);
    agrees(dir.path(), &ledger, "on again");
}

#[test]
fn log_keeps_within_its_bounds_and_what_is_left_counts_as_the_ledger() {
    let dir = tempfile::tempdir().unwrap();
    let bounds = Bounds { max_bytes: 512 << 10, ..BOUNDS };
    let ledger = open(Setup { log: Keeping::On(bounds), ..setup(dir.path()) }).unwrap();
    let folder = usage_log::folder(dir.path());
    let held = reserve(&ledger, "a", None).unwrap();
    let len_bytes = || {
        let files = std::fs::read_dir(&folder).unwrap();
        files.filter_map(|entry| entry.ok()?.metadata().ok()).map(|meta| meta.len()).sum::<u64>()
    };
    for round in 0..200 {
        spend(&ledger, "a", 10);
        // The keeper removes files when the disk has the next one, and may be syncing now.
        let soon = (0..10_000).any(|_| {
            std::thread::sleep(Duration::from_millis(u64::from(len_bytes() > bounds.max_bytes)));
            len_bytes() <= bounds.max_bytes
        });
        assert!(soon, "round {round}");
    }
    agrees(dir.path(), &ledger, "with a request open");
    held.settle(&spent(1));
    agrees(dir.path(), &ledger, "in the end");
    assert!(!folder.join("usage-1.jsonl").exists(), "the oldest went");
    let mode = |path: &Path| {
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(path).unwrap().permissions())
    };
    ledger.close().unwrap();
    assert_eq!(mode(&folder) & 0o777, 0o700);
    for entry in std::fs::read_dir(&folder).unwrap() {
        assert_eq!(mode(&entry.unwrap().path()) & 0o777, 0o600);
    }
}

#[test]
fn log_that_cannot_be_written_refuses_nothing_and_says_what_it_lacks() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(setup(dir.path())).unwrap();
    spend(&ledger, "a", 3);
    // As on a full disk: every write to this file fails.
    let full = usage_log::Ends {
        path: "/dev/full".into(),
        number: 1,
        len_bytes: 0,
        entries: None,
        ledger: None,
        begun_ms: 0,
    };
    ledger.shared().lock().log = Some(usage_log::UsageLog::go_on(&full, BOUNDS).unwrap());
    spend(&ledger, "a", 2_000);
    assert_eq!(ledger.health(), Ok(()));
    let trouble = ledger.log_trouble().unwrap();
    assert!(trouble.contains("/dev/full") && trouble.contains("lines are lost"), "{trouble}");
    let (recount, _) = counted(dir.path(), &ledger);
    assert_eq!((recount.is_whole, recount.entries), (false, 3), "{:?}", recount.notes);
    ledger.close().unwrap();
    drop(ledger);
    agrees(dir.path(), &open(setup(dir.path())).unwrap(), "after the next start");
}
