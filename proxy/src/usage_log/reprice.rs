//! A change of prices, replayed over the log: what everything in it would have cost.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::path::Path;

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

/// Replays the whole log in `folder`.
///
/// # Errors
/// When a file cannot be read, or has a line that is none.
pub fn replay(folder: &Path, prices: &Book) -> io::Result<Replayed> {
    let mut replayed = Replayed::default();
    for number in files::numbers(folder)? {
        let path = files::path(folder, number);
        for (at, line) in BufReader::new(File::open(&path)?).lines().enumerate() {
            let unreadable = |error| io::Error::other(format!("{} line {}: {error}", path.display(), at + 1));
            replayed.add(&serde_json::from_str(&line?).map_err(unreadable)?, prices);
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
