//! How long a reservation takes. A measurement, run by hand with `--release -- --ignored --nocapture`.

use std::time::Instant;

use super::*;

#[test]
#[ignore = "a measurement, not a proof"]
#[expect(clippy::disallowed_methods, reason = "measures")]
fn reserve_and_settle_take_a_few_microseconds() {
    let dir = tempfile::tempdir().unwrap();
    let opened = Instant::now();
    let ledger = open(setup(dir.path())).unwrap();
    println!("made in {:?}", opened.elapsed());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let (count, who) = (1_000_000_u32, subject("a"));
    runtime.block_on(async {
        let first = Instant::now();
        ledger.reserve_request(&who, Some(u64::MAX), NOW).await.unwrap().settle(&spent(300));
        println!("first request {:?}", first.elapsed());
        let (start, mut slowest) = (Instant::now(), std::time::Duration::ZERO);
        for round in 0..count {
            let began = Instant::now();
            let now = NOW + i64::from(round / 100_000);
            ledger.reserve_request(&who, Some(u64::MAX), now).await.unwrap().settle(&spent(300));
            slowest = slowest.max(began.elapsed());
        }
        println!("reserve and settle {:?}, slowest {slowest:?}", start.elapsed() / count);
    });
    drop(ledger);
    let opened = Instant::now();
    let ledger = open(setup(dir.path())).unwrap();
    println!("opened after a kill in {:?}", opened.elapsed());
    let closing = Instant::now();
    ledger.close().unwrap();
    println!("closed in {:?}", closing.elapsed());
}
