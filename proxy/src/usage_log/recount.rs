//! Counting the ledger again from the log, and comparing the two.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::path::Path;

use la_core::amount::Unit;
use la_core::budget::{SavedBook, SavedMeter, SavedOwner, SavedPart, Window};
use la_core::id::Subject;
use la_core::usage::Usage;

use super::files;
use super::line::Line;

/// What the log says was used.
#[derive(Debug, Default)]
pub struct Recount {
    owners: BTreeMap<Subject, Counted>,
    /// The number of the last charge that was counted.
    pub entries: u64,
    /// Whether everything since the ledger's beginning, or since a known state of it, is counted.
    pub is_whole: bool,
    /// What the log lacks or has too much, one sentence each.
    pub notes: Vec<String>,
}

/// One owner, as the log has it.
#[derive(Debug, Default)]
struct Counted {
    tokens: Usage,
    nano_usd: u64,
    /// What was charged in each period of each window, by its beginning.
    meters: BTreeMap<(Unit, String), BTreeMap<u64, u64>>,
}

/// One number in which log and ledger differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Whose.
    pub subject: Subject,
    /// What is counted.
    pub what: String,
    /// By the log.
    pub logged: u64,
    /// By the ledger.
    pub held: u64,
}

/// Counts the log in `folder` again, up to the charge `entries`.
///
/// # Errors
/// When a file cannot be read.
pub fn recount(folder: &Path, entries: u64) -> io::Result<Recount> {
    let mut counted = Recount::default();
    let numbers = files::numbers(folder)?;
    if numbers.is_empty() {
        counted.notes.push(format!("there is no usage log in {}", folder.display()));
    }
    for number in numbers {
        if let Some(opening) = files::read_opening(folder, number)? {
            let follows = counted.is_whole && opening.continues && opening.book.entries == counted.entries;
            if !follows {
                counted.begin(&opening.book, number);
            }
        }
        for (at, line) in BufReader::new(File::open(files::path(folder, number))?).lines().enumerate() {
            match serde_json::from_str::<Line>(&line?) {
                Ok(line) if line.number > entries => return Ok(counted),
                Ok(line) => counted.add(&line),
                Err(error) => {
                    counted.notes.push(format!("usage-{number}.jsonl line {}: {error}", at + 1));
                    counted.is_whole = false;
                }
            }
        }
    }
    if counted.entries < entries {
        counted.lacks(counted.entries + 1, entries);
    }
    Ok(counted)
}

impl Recount {
    /// Every number in which it differs from what a ledger holds.
    pub fn differences(&self, book: &SavedBook) -> Vec<Difference> {
        let nobody = Counted::default();
        let mut all = Vec::new();
        for owner in &book.owners {
            let counted = self.owners.get(&owner.subject).unwrap_or(&nobody);
            let mut check = |what: String, logged, held| {
                if logged != held {
                    all.push(Difference { subject: owner.subject.clone(), what, logged, held });
                }
            };
            let (logged, held) = (&counted.tokens, &owner.tokens);
            check("input tokens".to_owned(), logged.input_tokens, held.input_tokens);
            check("cache write tokens".to_owned(), logged.cache_write_tokens, held.cache_write_tokens);
            check("cache read tokens".to_owned(), logged.cache_read_tokens, held.cache_read_tokens);
            check("output tokens".to_owned(), logged.output_tokens, held.output_tokens);
            check("nano-dollars".to_owned(), counted.nano_usd, owner.nano_usd);
            for meter in &owner.meters {
                let (unit, window) = (meter.unit, meter.window.to_string());
                for (start_ms, held) in charged(owner, meter, &book.held) {
                    let periods = counted.meters.get(&(unit, window.clone()));
                    let logged = periods.and_then(|periods| periods.get(&start_ms)).copied().unwrap_or(0);
                    check(format!("{unit} of {window} since {start_ms}"), logged, held);
                }
            }
        }
        all
    }

    /// Requests, tokens and nano-dollars of a subject.
    pub fn totals(&self, subject: &Subject) -> (u64, Usage, u64) {
        let Some(counted) = self.owners.get(subject) else { return Default::default() };
        let requests = counted.meters.get(&(Unit::Requests, Window::Lifetime.to_string()));
        (requests.map_or(0, |periods| periods.values().sum()), counted.tokens, counted.nano_usd)
    }

    fn begin(&mut self, book: &SavedBook, number: u64) {
        if self.entries > 0 {
            self.notes
                .push(format!("counted from usage-{number}.jsonl: what is before does not lead up to it"));
        }
        self.owners.clear();
        (self.entries, self.is_whole) = (book.entries, true);
        for owner in &book.owners {
            let counted = self.owners.entry(owner.subject.clone()).or_default();
            (counted.tokens, counted.nano_usd) = (owner.tokens, owner.nano_usd);
            for meter in &owner.meters {
                let periods = charged(owner, meter, &book.held).into_iter().collect();
                counted.meters.insert((meter.unit, meter.window.to_string()), periods);
            }
        }
    }

    fn add(&mut self, line: &Line) {
        // A file can begin with what was to go to the one before.
        if line.number <= self.entries {
            return;
        }
        if line.number > self.entries + 1 {
            self.lacks(self.entries + 1, line.number - 1);
        }
        self.entries = line.number;
        let caller = self.owners.entry(line.subject.clone()).or_default();
        caller.tokens = caller.tokens.plus(&line.usage);
        caller.nano_usd = caller.nano_usd.saturating_add(line.cost_nano_usd);
        for part in &line.meters {
            let owner = self.owners.entry(part.owner.clone()).or_default();
            let periods = owner.meters.entry((part.unit, part.window.to_string())).or_default();
            let sum = periods.entry(part.start_ms).or_default();
            *sum = sum.saturating_add(part.charged);
        }
    }

    fn lacks(&mut self, first: u64, last: u64) {
        self.is_whole = false;
        self.notes.push(format!("the log lacks {} charges, {first} to {last}", last - first + 1));
    }
}

/// What was charged on a meter, by the beginning of each period that counts. What is held is not charged yet.
fn charged(owner: &SavedOwner, meter: &SavedMeter, held: &[SavedPart]) -> Vec<(u64, u64)> {
    if !matches!(meter.window, Window::Rolling { .. }) {
        return vec![(meter.start_ms, meter.settled)];
    }
    let is_its = |part: &&SavedPart| {
        part.owner == owner.subject && part.unit == meter.unit && part.window == meter.window
    };
    let held_since = |start_ms: u64| {
        let parts = held.iter().filter(is_its).filter(|part| part.start_ms == start_ms);
        parts.fold(0_u64, |sum, part| sum.saturating_add(part.reserved))
    };
    let periods = meter.periods.iter();
    periods.map(|(start_ms, taken)| (*start_ms, taken.saturating_sub(held_since(*start_ms)))).collect()
}
