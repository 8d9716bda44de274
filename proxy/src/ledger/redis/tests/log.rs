//! The usage logs of several processes count, together, as the server does.

use std::path::PathBuf;

use la_core::amount::Unit;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tempfile::TempDir;

use super::*;
use crate::ledger::conformance::{MINUTE_MS, NOON_MS, Party, amounts, covering, one, spent};
use crate::ledger::{Demand, Reservation};
use crate::usage_log::{self, Bounds, Recount};

/// As the scripts have it.
const TOLD_WITHIN_MS: u64 = 5_000;

const LEASE: Time = Time { clock: Clock::Key, lease_ms: super::super::LEASE_MS };

/// Processes of one proxy, each with a data folder.
struct Fleet {
    shared: Shared,
    folders: Vec<TempDir>,
    now_ms: u64,
}

impl Fleet {
    fn new(processes: usize) -> Self {
        let folders = (0..processes).map(|_| TempDir::new().unwrap()).collect();
        let fleet = Self { shared: Shared::start(), folders, now_ms: NOON_MS };
        fleet.shared.set_clock(NOON_MS);
        fleet
    }

    fn start(&self, at: usize, keeping: Keeping) -> Arc<Ledger> {
        let settings = RedisSettings {
            url: self.shared.server.url().parse().unwrap(),
            on_unavailable: OnUnavailable::Deny,
        };
        logged(settings, (self.folders[at].path(), keeping), Counter::default(), LEASE)
    }

    fn logging(&self, at: usize) -> Arc<Ledger> {
        self.start(at, Keeping::On(Bounds::default()))
    }

    fn pass(&mut self, by_ms: u64) {
        self.now_ms += by_ms;
        self.shared.set_clock(self.now_ms);
    }

    /// Waits until charges are kept for logs by the clock of now, which does not leap in life.
    async fn heard(&self) {
        let until = || {
            let answer = self.shared.server.command(&["HGET", "{la:gateway}:log", "until"]).unwrap();
            answer.lines().nth(1).and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or(0)
        };
        while until() <= self.now_ms {
            tokio::time::sleep(std::time::Duration::from_millis(25)).await;
        }
    }

    fn logs(&self) -> Vec<PathBuf> {
        self.folders.iter().map(|folder| usage_log::folder(folder.path())).collect()
    }

    /// What the logs come to, and what they lack or have too much.
    async fn counted(&self, ledger: &Ledger) -> (Recount, Vec<String>) {
        let book = ledger.counted().await.unwrap();
        let recount = usage_log::recount(&self.logs(), book.entries).unwrap();
        let faults = recount.differences(&book).iter().map(|difference| format!("{difference:?}")).collect();
        (recount, faults)
    }

    /// Waits until every charge has its line.
    async fn agrees(&self, ledger: &Ledger, what: &str) -> Recount {
        let mut last = None;
        for _ in 0..200 {
            let (recount, faults) = self.counted(ledger).await;
            if recount.is_whole && faults.is_empty() {
                return recount;
            }
            last = Some((recount.notes, faults));
            tokio::time::sleep(std::time::Duration::from_millis(25)).await;
        }
        panic!("{what}: {last:?}");
    }

    fn lines(&self) -> Vec<serde_json::Value> {
        let files =
            self.logs().into_iter().flat_map(|folder| std::fs::read_dir(folder).into_iter().flatten());
        let paths = files.map(|file| file.unwrap().path());
        let texts = paths.filter(|path| path.extension().is_some_and(|end| end == "jsonl"));
        let texts: Vec<_> = texts.map(|path| std::fs::read_to_string(path).unwrap()).collect();
        texts.iter().flat_map(|text| text.lines()).map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn parties() -> [Party; 3] {
    [
        Party::token("a").hard(Unit::Requests, 1_000, "lifetime").hard(Unit::Tokens, 9_000, "rolling/1h"),
        Party::token("b").hard(Unit::Usd, 100_000, "Hour@UTC").rate(Unit::Requests, 100, "1s", 100),
        Party::pool("p").hard(Unit::Usd, 500_000, "rolling/24h").hard(Unit::Tokens, 50_000, "Day@UTC"),
    ]
}

/// Requests of all kinds of ending; one in ten is left open when its process dies.
#[tokio::test]
async fn logs_of_three_processes_count_as_the_server_through_ends_and_kills() {
    let mut fleet = Fleet::new(3);
    let mut dice = StdRng::seed_from_u64(7);
    let mut ledgers = [0, 1, 2].map(|at| fleet.logging(at));
    let parties = parties();
    let mut late = 0;
    for round in 0..6 {
        let mut open: Vec<(usize, Reservation)> = Vec::new();
        for _ in 0..60 {
            fleet.pass([1, 40, 700][dice.random_range(0..3)]);
            let (process, caller) = (dice.random_range(0..3), dice.random_range(0..2));
            let covering = covering(&[&parties[caller], &parties[2]]);
            let demand =
                Demand::once(&covering, amounts(dice.random_range(1..200), dice.random_range(1..900)));
            open.extend(ledgers[process].reserve(&demand, fleet.now_ms).await.ok().map(|one| (process, one)));
            if open.len() > 3 {
                let (_, mut reservation) = open.swap_remove(dice.random_range(0..open.len()));
                if dice.random_bool(0.2) {
                    let _ = reservation.raise(&Demand::once(&covering, amounts(9, 9)), fleet.now_ms).await;
                }
                match dice.random_range(0..5) {
                    0 => reservation.release(),
                    1 => drop(reservation),
                    _ => {
                        reservation.settle(&spent(dice.random_range(0..250), dice.random_range(0..900)));
                    }
                }
            }
        }
        // One process dies with what it has open, and another comes in its place.
        let killed = round % 3;
        let (lost, kept): (Vec<_>, Vec<_>) = open.into_iter().partition(|(process, _)| *process == killed);
        late += lost.len();
        ledgers[killed].end(crate::ledger::Ending::Abandoned).unwrap();
        lost.into_iter().for_each(|(_, reservation)| std::mem::forget(reservation));
        for (_, reservation) in kept {
            reservation.settle(&spent(5, 7));
        }
        ledgers[killed] = fleet.logging(killed);
        fleet.pass(LEASE.lease_ms);
        fleet.agrees(&ledgers[(killed + 1) % 3], &format!("round {round}")).await;
        fleet.pass(20 * MINUTE_MS);
        fleet.heard().await;
    }
    let expired = fleet.lines().iter().filter(|line| line["late"] == "expired").count();
    assert!(late > 0 && expired >= 2 * late, "{late} were open, of a token and a pool each: {expired} lines");
}

#[tokio::test]
async fn charge_of_a_process_that_died_before_its_line_is_told_by_another() {
    let mut fleet = Fleet::new(2);
    let token = Party::token("a").hard(Unit::Tokens, 1_000, "lifetime");
    let covering = covering(&[&token]);
    let (killed, other) = (fleet.logging(0), fleet.logging(1));
    let demand = Demand::once(&covering, amounts(90, 50));
    killed.reserve(&demand, fleet.now_ms).await.unwrap().settle(&spent(10, 5));
    killed.quiet().await;
    other.reserve(&demand, fleet.now_ms).await.unwrap().settle(&spent(10, 5));
    other.quiet().await;
    // The server has settled it, and the process dies before it hears of that: twice the same answer.
    let held = killed.reserve(&demand, fleet.now_ms).await.unwrap();
    let link = remote(&killed).shared.linked().await.ok().unwrap();
    let (keys, came_to) = (demand::keys(&token.subject), spent(30, 7));
    let arguments =
        demand::ending(&remote(&killed).shared.name(2), Some((&came_to.amounts, &came_to.tokens)));
    let first = link.run(Script::Finish, &keys, &arguments).await.unwrap();
    assert_eq!(link.run(Script::Finish, &keys, &arguments).await.unwrap(), first);
    killed.end(crate::ledger::Ending::Abandoned).unwrap();
    std::mem::forget(held);
    let (recount, _) = fleet.counted(&other).await;
    assert_eq!(recount.notes, ["the log lacks 1 charges, 3 to 3"]);

    fleet.pass(TOLD_WITHIN_MS);
    let recount = fleet.agrees(&other, "told by another").await;
    let (requests, tokens, nano_usd) = recount.totals(&token.subject);
    assert_eq!((requests, tokens.output_tokens, nano_usd), (3, 25, 17));
    let lines = fleet.lines();
    let told = |number: u64| {
        let its = lines.iter().filter(|line| line["number"] == number);
        its.map(|line| line["late"].as_str()).collect::<Vec<_>>()
    };
    assert_eq!((told(2), told(3)), (vec![None], vec![Some("killed")]), "{lines:?}");
    // Whether the server had heard of the first line of the one that died is chance.
    assert!(told(1).contains(&None), "{lines:?}");
    // It stays there no longer than that.
    let kept = || fleet.shared.server.command(&["HKEYS", "{la:gateway}:log"]).unwrap();
    for _ in 0..200 {
        if !kept().contains("c:") {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
    }
    panic!("{}", kept());
}

#[tokio::test]
async fn log_goes_on_over_a_restart_and_begins_anew_where_the_server_forgot() {
    let mut fleet = Fleet::new(1);
    let token = Party::token("a").hard(Unit::Requests, 100, "lifetime");
    let covering = covering(&[&token]);
    let demand = Demand::once(&covering, one());
    for round in 0..2 {
        let ledger = fleet.logging(0);
        ledger.reserve(&demand, fleet.now_ms).await.unwrap().settle(&spent(1, 1));
        fleet.agrees(&ledger, &format!("round {round}")).await;
        ledger.close().unwrap();
        fleet.pass(MINUTE_MS);
    }
    let folder = fleet.logs().remove(0);
    let file = |number: u64| folder.join(format!("usage-{number}.jsonl"));
    assert!(file(1).exists() && !file(2).exists(), "one file goes on");
    // Without a log meanwhile, there is a gap.
    let silent = fleet.start(0, Keeping::Off);
    fleet.pass(2 * 2 * LEASE.lease_ms);
    silent.reserve(&demand, fleet.now_ms).await.unwrap().settle(&spent(1, 1));
    silent.quiet().await;
    silent.close().unwrap();
    let ledger = fleet.logging(0);
    ledger.reserve(&demand, fleet.now_ms).await.unwrap().settle(&spent(1, 1));
    ledger.quiet().await;
    let (recount, faults) = fleet.counted(&ledger).await;
    assert_eq!(
        (recount.is_whole, &recount.notes[..]),
        (false, &["the log lacks 1 charges, 3 to 3".to_owned()][..])
    );
    assert!(!faults.is_empty());
    ledger.close().unwrap();
    fleet.shared.server.command(&["FLUSHALL"]).unwrap();
    fleet.shared.set_clock(fleet.now_ms);
    let ledger = fleet.logging(0);
    ledger.reserve(&demand, fleet.now_ms).await.unwrap().settle(&spent(1, 1));
    let recount = fleet.agrees(&ledger, "after all was lost").await;
    assert!(file(2).exists() && recount.notes[0].contains("usage-2.jsonl"), "{:?}", recount.notes);
    assert_eq!(recount.totals(&token.subject).0, 1);
}
