//! What the files hold over closes, kills and power cuts, and how broken ones are refused.

use la_core::amount::Unit;
use la_core::budget::{SavedMeter, SavedOwner, Window};
use la_core::snapshot::LedgerRecord;

use super::*;
use crate::ledger::embedded::{earlier, segment};

#[test]
fn clean_close_is_exact_even_over_a_power_cut() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(setup(dir.path())).unwrap();
    spend(&ledger, "a", 10);
    reserve(&ledger, "a", None).unwrap().release();
    ledger.close().unwrap();
    ledger.close().unwrap();
    assert!(matches!(reserve(&ledger, "a", None), Err(ReserveError::Unavailable(_))));
    drop(ledger);
    let ledger = open(after_power_cut(dir.path())).unwrap();
    let expected = Use { settled: 10, open: 0, tokens: tokens(10) };
    assert_eq!(ledger.usage(&subject("a")), Some(expected));
    assert_eq!(ledger.usage_all().len(), 1);
}

#[test]
fn kill_forgets_nothing_and_charges_what_was_open() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(setup(dir.path())).unwrap();
    spend(&ledger, "a", 10);
    let open_ones = [reserve(&ledger, "a", None).unwrap(), reserve(&ledger, "b", None).unwrap()];
    let killed = image(dir.path());
    drop(open_ones);
    let ledger = open(setup(killed.path())).unwrap();
    assert_eq!(ledger.usage(&subject("a")), Some(Use { settled: 11, open: 0, tokens: tokens(10) }));
    assert_eq!(used(&ledger, "b"), (1, 0));
    assert!(granted(&ledger, "a") > 11, "the rest of the grant is still there");
    // And it stays so over the next kill.
    spend(&ledger, "a", 1);
    assert_eq!(used(&open(setup(image(killed.path()).path())).unwrap(), "a"), (12, 0));
}

#[test]
fn power_cut_charges_the_grant_and_no_more_than_the_limit() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(setup(dir.path())).unwrap();
    for _ in 0..5 {
        reserve(&ledger, "small", Some(20)).unwrap().settle(&spent(1));
    }
    spend(&ledger, "large", 5);
    let cut = image(dir.path());
    for journal in journals(cut.path()) {
        let file = std::fs::OpenOptions::new().write(true).open(journal).unwrap();
        file.set_len(20).unwrap();
    }
    let after = open(after_power_cut(cut.path())).unwrap();
    assert_eq!(used(&after, "small"), (20, 0));
    assert!(matches!(reserve(&after, "small", Some(20)), Err(ReserveError::Refused(_))));
    let grant = granted(&ledger, "large");
    assert_eq!(used(&after, "large"), (grant, 0));
    assert!(grant <= 5 + 128, "{grant} granted for 5 requests");
}

#[test]
fn settling_after_the_close_is_not_lost() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(setup(dir.path())).unwrap();
    let late = [reserve(&ledger, "a", None).unwrap(), reserve(&ledger, "a", None).unwrap()];
    ledger.close().unwrap();
    let [settled, released] = late;
    settled.settle(&spent(7));
    released.release();
    let ledger = open(setup(image(dir.path()).path())).unwrap();
    assert_eq!(ledger.usage(&subject("a")), Some(Use { settled: 1, open: 0, tokens: tokens(7) }));
}

#[test]
fn segment_without_records_goes_on_unless_an_earlier_ledger_may_still_write_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(setup(dir.path())).unwrap();
    spend(&ledger, "a", 1);
    let late = reserve(&ledger, "b", None).unwrap();
    ledger.close().unwrap();
    let empty = journals(dir.path());
    let second = open(setup(dir.path())).unwrap();
    assert_ne!(journals(dir.path()), empty, "the first ledger has a request open");
    late.settle(&Spent::request(tokens(7)));
    spend(&second, "a", 1);
    second.close().unwrap();
    drop(second);
    let empty = journals(dir.path());
    let third = open(setup(dir.path())).unwrap();
    assert_eq!(journals(dir.path()), empty);
    spend(&third, "a", 1);
    let after_kill = open(setup(image(dir.path()).path())).unwrap();
    assert_eq!((used(&after_kill, "a"), used(&after_kill, "b")), ((3, 0), (1, 0)));
}

#[test]
fn ledger_keeps_its_name_for_as_long_as_its_files_last() {
    let dir = tempfile::tempdir().unwrap();
    let named = |name: &str| Setup { fresh_id: name.to_owned(), ..setup(dir.path()) };
    let ledger = open(named("first")).unwrap();
    spend(&ledger, "a", 1);
    assert_eq!(ledger.id().as_deref(), Some("first"));
    let killed = Setup { dir: image(dir.path()).path().to_owned(), ..named("second") };
    drop(ledger);
    for setup in [named("second"), Setup { boot: "boot-2".to_owned(), ..named("third") }] {
        let ledger = open(setup).unwrap();
        assert_eq!(ledger.id().as_deref(), Some("first"));
        ledger.close().unwrap();
    }
    assert_eq!(open(killed).unwrap().id().as_deref(), Some("second"), "its volume was lost");
    assert_eq!(Ledger::memory().id(), None);
}

/// The floors of a ledger: so many requests of `a` in its life.
fn floors(requests: u64) -> Vec<SavedOwner> {
    let (unit, window) = (Unit::Requests, Window::Lifetime);
    let meter = SavedMeter {
        unit,
        window,
        start_ms: 0,
        settled: requests,
        open: 0,
        granted: requests,
        granted_until_ms: u64::MAX,
        periods: Vec::new(),
    };
    vec![SavedOwner { meters: vec![meter], tokens: tokens(40), nano_usd: 9, ..SavedOwner::new(subject("a")) }]
}

fn until_healthy(ledger: &Ledger) {
    for _ in 0..500 {
        if ledger.health().is_ok() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("{:?}", ledger.health());
}

#[test]
fn ledger_that_is_not_the_one_that_counts_refuses_until_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(setup(dir.path())).unwrap();
    spend(&ledger, "a", 1);
    let record = |id: &str| LedgerRecord { id: id.to_owned(), floors: Vec::new() };
    ledger.expect(Some(&record("lost")), NOW);
    let why = ledger.health().unwrap_err();
    assert!(why.starts_with("it is fresh and not lost, which has counted so far"), "{why}");
    let refused = reserve(&ledger, "a", None).err().unwrap();
    assert!(matches!(&refused, ReserveError::Unavailable(said) if *said == why), "{refused}");
    assert!(ledger.is_stranger());
    ledger.expect(Some(&record("fresh")), NOW);
    assert!(!ledger.is_stranger());
    spend(&ledger, "a", 1);
    ledger.expect(Some(&record("lost")), NOW);
    ledger.expect(None, NOW);
    spend(&ledger, "a", 1);
    let memory = Ledger::memory();
    memory.expect(Some(&record("lost")), NOW);
    assert_eq!(memory.health(), Ok(()), "it has nothing to lose");
}

#[test]
fn floors_are_on_disk_before_anything_is_reserved_and_are_taken_once() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(setup(dir.path())).unwrap();
    let record = LedgerRecord { id: "fresh".to_owned(), floors: floors(3) };
    ledger.expect(Some(&record), NOW);
    until_healthy(&ledger);
    assert_eq!(ledger.usage(&subject("a")), Some(Use { settled: 3, open: 0, tokens: tokens(40) }));
    let after_kill = open(setup(image(dir.path()).path())).unwrap();
    assert_eq!(used(&after_kill, "a"), (3, 0));
    let after_cut = open(after_power_cut(image(dir.path()).path())).unwrap();
    assert_eq!(used(&after_cut, "a"), (3, 0));

    let held = reserve(&ledger, "a", Some(5)).unwrap();
    ledger.expect(Some(&record), NOW);
    assert_eq!(ledger.health(), Ok(()), "it counts that much already");
    assert_eq!(used(&ledger, "a"), (3, 1), "what is open stays open");
    held.settle(&spent(1));
    reserve(&ledger, "a", Some(5)).unwrap().settle(&spent(1));
    let refused = reserve(&ledger, "a", Some(5)).err().unwrap();
    assert!(matches!(refused, ReserveError::Refused(_)), "{refused}");

    // No line of the usage log tells of the floors, so it goes on in a file that begins with them.
    let (folder, book) = (crate::usage_log::folder(dir.path()), ledger.saved().unwrap());
    let recount = || crate::usage_log::recount(std::slice::from_ref(&folder), book.entries).unwrap();
    let mut counted = recount();
    for _ in 0..500 {
        if counted.is_whole && counted.differences(&book).is_empty() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
        counted = recount();
    }
    panic!("{:?}, {:?}", counted.differences(&book), counted.notes);
}

#[test]
fn second_ledger_on_a_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(setup(dir.path())).unwrap();
    let refused = open(setup(dir.path())).err().unwrap();
    assert!(matches!(refused, OpenError::InUse { .. }), "{refused}");
    drop(first);
    open(setup(dir.path())).unwrap();
}

#[test]
fn unused_subject_without_a_token_is_forgotten_after_30_days() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(setup(dir.path())).unwrap();
    for name in ["kept", "gone", "open"] {
        spend(&ledger, name, 3);
    }
    let still_open = reserve(&ledger, "open", None).unwrap();
    let keep = std::collections::BTreeSet::from([subject("kept")]);
    ledger.retain(&keep, NOW + 30 * DAY - 1);
    assert_eq!(ledger.usage_all().len(), 3, "30 days are not over");
    ledger.retain(&keep, NOW + 30 * DAY);
    for _ in 0..500 {
        if ledger.usage_all().len() == 2 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert_eq!(
        (used(&ledger, "gone"), used(&ledger, "kept"), used(&ledger, "open")),
        ((0, 0), (3, 0), (3, 1))
    );
    spend(&ledger, "gone", 1);
    still_open.release();
    ledger.close().unwrap();
    drop(ledger);
    let ledger = open(setup(dir.path())).unwrap();
    assert_eq!((used(&ledger, "gone"), used(&ledger, "kept")), ((1, 0), (3, 0)));
}

#[test]
fn use_outlives_the_token_by_30_days_though_the_token_was_idle_before() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(setup(dir.path())).unwrap();
    spend(&ledger, "a", 3);
    let (with, without) =
        (std::collections::BTreeSet::from([subject("a")]), std::collections::BTreeSet::new());
    ledger.retain(&with, NOW + 100 * DAY);
    ledger.retain(&without, NOW + 101 * DAY);
    ledger.retain(&without, NOW + 131 * DAY - 1);
    ledger.close().unwrap();
    assert_eq!(used(&ledger, "a"), (3, 0));
}

/// A file, and what is done to it.
type Damage = (&'static str, fn(&Path));

#[test]
fn damage_is_refused_with_one_sentence_and_nothing_is_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(setup(dir.path())).unwrap();
    spend(&ledger, "a", 60);
    let damages: [Damage; 6] = [
        ("ledger.redb", |dir| std::fs::write(dir.join("ledger.redb"), b"").unwrap()),
        ("ledger.redb", |dir| std::fs::write(dir.join("ledger.redb"), vec![7; 20_000]).unwrap()),
        ("ledger.redb", |dir| std::fs::remove_file(dir.join("ledger.redb")).unwrap()),
        ("journal-1.log", |dir| flip(&dir.join("journal-1.log"), 100)),
        ("journal-1.log", |dir| flip(&dir.join("journal-1.log"), 3)),
        ("journal-1.log", |dir| std::fs::remove_file(dir.join("journal-1.log")).unwrap()),
    ];
    for (file, damage) in damages {
        let broken = image(dir.path());
        damage(broken.path());
        let before = contents(broken.path(), file);
        let refused = open(setup(broken.path())).err().unwrap();
        assert!(matches!(refused, OpenError::Damaged { .. }), "{file}: {refused}");
        let sentence = refused.to_string();
        assert!(sentence.contains(file) && !sentence.contains('\n'), "{sentence}");
        assert!(contents(broken.path(), file) == before, "{file}: it was changed");
    }
}

fn set_format(journal: &Path, version: u8) {
    let mut bytes = std::fs::read(journal).unwrap();
    bytes[8] = version;
    std::fs::write(journal, bytes).unwrap();
}

#[test]
fn file_of_a_later_format_is_refused_as_such() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(setup(dir.path())).unwrap());
    let journal = dir.path().join("journal-1.log");
    set_format(&journal, 5);
    let refused = open(setup(dir.path())).err().unwrap();
    assert!(matches!(refused, OpenError::Format { found: 5, .. }), "{refused}");
}

#[test]
fn journal_of_format_3_is_taken_over_when_it_has_no_records() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(setup(dir.path())).unwrap();
    spend(&ledger, "a", 3);
    ledger.close().unwrap();
    drop(ledger);
    let last = || *segment::numbers(dir.path()).unwrap().last().unwrap();
    let (number, journal) = (last(), segment::path(dir.path(), last()));
    set_format(&journal, 3);

    let ledger = open(setup(dir.path())).unwrap();
    assert_eq!(used(&ledger, "a"), (3, 0));
    assert!(last() > number, "what is written now goes to a segment of this format");
    spend(&ledger, "a", 1);
    drop(ledger);
    assert_eq!(used(&open(setup(dir.path())).unwrap(), "a"), (4, 0), "and is read after a kill");
}

#[test]
fn journal_of_format_3_with_records_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(setup(dir.path())).unwrap();
    spend(&ledger, "a", 3);
    drop(ledger);
    let journal = dir.path().join("journal-1.log");
    set_format(&journal, 3);
    let bytes = std::fs::read(&journal).unwrap();
    let refused = open(setup(dir.path())).err().unwrap();
    assert!(matches!(refused, OpenError::Format { found: 3, .. }), "{refused}");
    assert!(std::fs::read(&journal).unwrap() == bytes, "it was changed");
}

#[test]
fn ledger_of_format_1_is_taken_over_when_it_ended_in_order() {
    for boot in ["boot-1", "boot-2"] {
        let dir = tempfile::tempdir().unwrap();
        earlier::tests::write(dir.path(), subject("a").as_str(), true);
        let ledger = open(Setup { boot: boot.to_owned(), ..setup(dir.path()) }).unwrap();
        assert_eq!(used(&ledger, "a"), (9, 0));
        assert_eq!(ledger.usage(&subject("a")).unwrap().tokens.cache_read_tokens, 30);
        spend(&ledger, "a", 1);
        drop(ledger);
        let ledger = open(Setup { boot: boot.to_owned(), ..setup(dir.path()) }).unwrap();
        assert_eq!(used(&ledger, "a"), (10, 0), "and it is of this format from then on");
    }
}

#[test]
fn ledger_of_format_1_that_was_killed_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    earlier::tests::write(dir.path(), subject("a").as_str(), false);
    let refused = open(setup(dir.path())).err().unwrap();
    assert!(matches!(refused, OpenError::Format { found: 1, .. }), "{refused}");
    assert!(refused.to_string().contains("start and stop that one first"), "{refused}");

    let dir = tempfile::tempdir().unwrap();
    earlier::tests::write(dir.path(), subject("a").as_str(), true);
    let journal = dir.path().join("journal-3.log");
    let late = [std::fs::read(&journal).unwrap(), b"a record".to_vec()].concat();
    std::fs::write(&journal, late).unwrap();
    let refused = open(setup(dir.path())).err().unwrap();
    assert!(matches!(refused, OpenError::Format { found: 1, .. }), "{refused}");
    assert!(refused.to_string().contains("journal-3.log"), "{refused}");
}

/// A flipped bit is found, or is where nothing is stored: never a panic, never a lower count.
#[test]
fn no_flipped_bit_of_the_redb_file_lowers_a_count() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(setup(dir.path())).unwrap();
    spend(&ledger, "a", 60);
    ledger.close().unwrap();
    let len = std::fs::metadata(dir.path().join("ledger.redb")).unwrap().len() as usize;
    let mut refused = 0;
    for round in 0..150_usize {
        let broken = image(dir.path());
        let at = if round < 100 { round * 3 } else { round.wrapping_mul(2_654_435_761) % len };
        flip(&broken.path().join("ledger.redb"), at);
        match open(setup(broken.path())) {
            Ok(ledger) => assert!(used(&ledger, "a").0 >= 60, "byte {at}"),
            Err(OpenError::Damaged { .. } | OpenError::Format { .. }) => refused += 1,
            Err(other) => panic!("byte {at}: {other}"),
        }
    }
    assert!(refused > 0);
}

fn flip(file: &Path, at: usize) {
    let mut bytes = std::fs::read(file).unwrap();
    bytes[at] ^= 0x10;
    std::fs::write(file, bytes).unwrap();
}

/// The names of all files, and what the broken one holds. (redb repairs itself after a kill.)
fn contents(dir: &Path, file: &str) -> (Vec<std::ffi::OsString>, Option<Vec<u8>>) {
    let mut names: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    (names, std::fs::read(dir.join(file)).ok())
}
