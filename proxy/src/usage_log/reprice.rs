//! A change of prices, replayed over the log: what everything in it would have cost.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::path::PathBuf;

use la_core::id::Subject;
use la_core::price::{Book, cost_nano_usd};

use super::files;
use super::line::Line;

/// What subjects paid, and what they would have paid.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// By subject: nano-dollars as logged, and with the other prices.
    pub costs: BTreeMap<Subject, (u64, u64)>,
    /// Charges whose use is not known: they keep their cost.
    pub unknown: u64,
    /// Charges for models without a price, by model: they keep their cost.
    pub unpriced: BTreeMap<String, u64>,
}

/// Replays the whole logs in `folders`.
///
/// # Errors
/// When a file cannot be read, or has a line that is none.
pub fn replay(folders: &[PathBuf], prices: &Book) -> io::Result<Replayed> {
    let (mut replayed, mut shared) = (Replayed::default(), HashSet::new());
    for folder in folders {
        for number in files::numbers(folder)? {
            let path = files::path(folder, number);
            let ledger = files::read_head(folder, number)?.and_then(|head| head.ledger);
            for (at, line) in BufReader::new(File::open(&path)?).lines().enumerate() {
                let unreadable =
                    |error| io::Error::other(format!("{} line {}: {error}", path.display(), at + 1));
                let line: Line = serde_json::from_str(&line?).map_err(unreadable)?;
                // What several processes share can stand in two of their logs.
                let is_new =
                    ledger.as_ref().is_none_or(|ledger| shared.insert((ledger.clone(), line.number)));
                if is_new {
                    replayed.add(&line, prices);
                }
            }
        }
    }
    Ok(replayed)
}

impl Replayed {
    fn add(&mut self, line: &Line, prices: &Book) {
        let cost = self.costs.entry(line.subject.clone()).or_default();
        let new = match (&line.billed, line.served_model.as_ref().or(line.model.as_ref())) {
            (Some(billed), Some(name)) => match prices.model(name) {
                Ok(model) => cost_nano_usd(billed, &model.price),
                Err(_) => {
                    *self.unpriced.entry(name.clone()).or_default() += 1;
                    line.cost_nano_usd
                }
            },
            _ => {
                self.unknown += 1;
                line.cost_nano_usd
            }
        };
        *cost = (cost.0.saturating_add(line.cost_nano_usd), cost.1.saturating_add(new));
    }
}
