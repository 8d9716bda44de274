//! A change of prices, replayed over the log: what everything in it would have cost.

use std::collections::{BTreeMap, HashSet};
use std::io;
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
    files::read_whole(|| replay_once(folders, prices))
}

fn replay_once(folders: &[PathBuf], prices: &Book) -> io::Result<Replayed> {
    let (mut replayed, mut shared) = (Replayed::default(), HashSet::new());
    for folder in folders {
        for number in files::numbers(folder)? {
            let ledger = files::read_head(folder, number)?.and_then(|head| head.ledger);
            for line in files::lines(folder, number)? {
                let (at, text) = line?;
                let unreadable = |error| io::Error::other(format!("{at}: {error}"));
                let line: Line = serde_json::from_str(&text).map_err(unreadable)?;
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

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};
    use std::io::Write as _;
    use std::thread;

    use rustix::fs::{CWD, Mode, mkfifoat};

    use super::super::{Bounds, prune};
    use super::*;

    #[test]
    fn log_whose_oldest_files_go_while_it_is_read_is_replayed_as_it_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = |number| files::path(folder.path(), number);
        let line = |cost| {
            let charge =
                r#"{"number":1,"subject":"gateway/team/agent","usage":{},"meters":[],"costNanoUsd":"#;
            format!("{charge}{cost}}}\n")
        };
        // At a pipe the reader waits, with all files listed and none read.
        mkfifoat(CWD, path(1), Mode::RUSR | Mode::WUSR).unwrap();
        fs::write(path(2), line(10)).unwrap();
        fs::write(path(3), line(100)).unwrap();
        let replayed = thread::scope(|scope| {
            let reader = scope.spawn(|| replay(&[folder.path().to_owned()], &Book::default()));
            let mut pipe = OpenOptions::new().write(true).open(path(1)).unwrap();
            prune(folder.path(), Bounds { max_bytes: 0, ..Bounds::default() }, 0).unwrap();
            pipe.write_all(line(1).as_bytes()).unwrap();
            drop(pipe);
            reader.join().unwrap()
        });
        let costs: Vec<_> = replayed.unwrap().costs.into_values().collect();
        assert_eq!(costs, [(100, 100)]);
    }
}
