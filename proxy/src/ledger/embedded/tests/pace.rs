//! How long a reservation takes. A measurement, run by hand with `--release -- --ignored --nocapture`.

use std::time::Instant;

use la_core::amount::Amounts;
use la_core::budget::{Budget, Covering, Spent};
use la_core::price::Billed;

use super::*;
use crate::ledger::Demand;
use crate::usage_log::Facts;

#[test]
#[ignore = "a measurement, not a proof"]
fn reserve_and_settle_take_a_few_microseconds() {
    for log in [Keeping::Off, Keeping::On(BOUNDS)] {
        pace(log);
    }
}

#[expect(clippy::disallowed_methods, reason = "measures")]
fn pace(log: Keeping) {
    println!("{log:?}");
    let dir = tempfile::tempdir().unwrap();
    let opened = Instant::now();
    let ledger = open(Setup { log, ..setup(dir.path()) }).unwrap();
    println!("made in {:?}", opened.elapsed());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let (count, who) = (300_000_u32, subject("a"));
    let model = Some("claude-opus-5");
    let (request_id, token) = ("req_0123456789abcdef01234567", "0123456789abcdef0123456789abcdef");
    let (provider, account, billed) = (Some("anthropic"), Some("primary"), Some(Billed::default()));
    let (status, ending, quality) = (200, "complete", "complete");
    let facts = Facts {
        time_ms: NOW_MS,
        request_id,
        token,
        provider,
        account,
        model,
        served_model: model,
        status,
        ending,
        quality,
        billed,
    };
    runtime.block_on(async {
        let first = Instant::now();
        reserve_request(&ledger, &who, Some(u64::MAX), NOW).await.unwrap().settle(&spent(300));
        println!("first request {:?}", first.elapsed());
        let (start, mut slowest) = (Instant::now(), std::time::Duration::ZERO);
        for round in 0..count {
            let began = Instant::now();
            let now = NOW + i64::from(round / 100_000);
            let mut reservation = reserve_request(&ledger, &who, Some(u64::MAX), now).await.unwrap();
            reservation.describe(&facts);
            reservation.settle(&spent(300));
            slowest = slowest.max(began.elapsed());
        }
        println!("reserve and settle {:?}, slowest {slowest:?}", start.elapsed() / count);
    });
    drop(ledger);
    let opened = Instant::now();
    let ledger = open(Setup { log, ..setup(dir.path()) }).unwrap();
    println!("opened after a kill in {:?}", opened.elapsed());
    let closing = Instant::now();
    ledger.close().unwrap();
    println!("closed in {:?}", closing.elapsed());
}

/// Resident memory in KiB.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
#[ignore = "a measurement, not a proof"]
#[expect(clippy::disallowed_methods, reason = "measures")]
fn four_budgets_of_ten_thousand_tokens_take_a_few_megabytes() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(setup(dir.path())).unwrap();
    let budgets = super::budgets::budgets();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let amounts = Amounts { requests: 1, tokens: 300, nano_usd: 900_000 };
    let spent = Spent { amounts, ..spent(300) };
    runtime.block_on(async {
        let (pool, before) = (subject("pool"), resident_kib());
        for number in 0..10_000 {
            let owner = subject(&format!("agent-{number}"));
            let covering = [Covering::pool(&owner, &budgets[..4]), Covering::pool(&pool, &[])];
            ledger.reserve(&Demand::once(&covering, amounts), NOW_MS).await.unwrap().settle(&spent);
        }
        println!("{} KiB more for 10,000 tokens", resident_kib() - before);
        let (owner, count) = (subject("busy"), 300_000_u32);
        let large: Vec<_> = budgets.iter().cloned().map(|b| Budget { limit: u64::MAX, ..b }).collect();
        let covering = [Covering::pool(&owner, &large[..4]), Covering::pool(&pool, &large[4..])];
        let start = Instant::now();
        for round in 0..count {
            let demand = Demand::once(&covering, amounts);
            let now_ms = NOW_MS + u64::from(round / 10);
            ledger.reserve(&demand, now_ms).await.unwrap().settle(&spent);
        }
        println!("reserve and settle over five budgets {:?}", start.elapsed() / count);
    });
}
