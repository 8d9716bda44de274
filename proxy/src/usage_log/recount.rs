//! Counting the ledger again from the log, and comparing the two.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use la_core::amount::Unit;
use la_core::budget::{SavedBook, SavedMeter, SavedOwner, SavedPart, Window};
use la_core::id::Subject;
use la_core::usage::Usage;

use serde::Deserialize;

use super::files::{self, Opening, OpeningHead};
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

/// Counts the logs in `folders` again, up to the charge `entries`: one folder of a ledger that one process has, those
/// of all processes that share one. Of the latter, the first says which ledger is meant.
///
/// # Errors
/// When a file cannot be read.
pub fn recount(folders: &[PathBuf], entries: u64) -> io::Result<Recount> {
    files::read_whole(|| count(folders, entries))
}

fn count(folders: &[PathBuf], entries: u64) -> io::Result<Recount> {
    let mut counted = Recount::default();
    let logs = Logs::find(folders, &mut counted.notes)?;
    let numbers = logs.numbers(entries)?;
    counted.begin(&logs, &numbers, entries)?;
    let first = numbers.partition_point(|number| *number <= counted.entries);
    counted.note_gaps(numbers.get(first..).unwrap_or_default(), entries);
    let mut is_counted = vec![false; numbers.len()];
    logs.each_line(|at, text| {
        let line = match serde_json::from_str::<Line>(text) {
            Ok(line) => line,
            Err(error) => {
                counted.notes.push(format!("{at}: {error}"));
                counted.is_whole = false;
                return;
            }
        };
        // A charge can stand in two logs when the process that had it made was killed.
        let place = numbers.binary_search(&line.number).ok().filter(|place| *place >= first);
        let seen = place.and_then(|place| is_counted.get_mut(place));
        if seen.is_some_and(|seen| !std::mem::replace(seen, true)) {
            counted.add(&line);
        }
    })?;
    Ok(counted)
}

/// The files of all folders that tell of one ledger.
struct Logs {
    files: Vec<LogFile>,
}

struct LogFile {
    folder: PathBuf,
    number: u64,
    head: Option<OpeningHead>,
    /// Whether others were before it.
    is_later: bool,
}

/// All that is looked at to know which charges there are.
#[derive(Deserialize)]
struct Numbered {
    number: u64,
}

impl Logs {
    fn find(folders: &[PathBuf], notes: &mut Vec<String>) -> io::Result<Self> {
        let mut ledger = None;
        let mut all = Vec::new();
        for (at, folder) in folders.iter().enumerate() {
            let mut files = Vec::new();
            for (place, number) in files::numbers(folder)?.into_iter().enumerate() {
                let head = files::read_head(folder, number)?;
                files.push(LogFile { folder: folder.clone(), number, head, is_later: place > 0 });
            }
            if files.is_empty() {
                notes.push(format!("there is no usage log in {}", folder.display()));
            }
            if at == 0 {
                ledger =
                    files.iter().rev().find_map(|file| Some(file.head.as_ref()?.ledger.clone())).flatten();
            }
            let is_its = |file: &LogFile| file.head.as_ref().is_none_or(|head| head.ledger == ledger);
            files.retain(is_its);
            // What is before does not lead up to it, and may have its numbers.
            let begins = |file: &LogFile| file.head.as_ref().is_some_and(|head| !head.continues);
            let first = files.iter().rposition(begins).unwrap_or(0);
            all.extend(files.into_iter().skip(first));
        }
        Ok(Self { files: all })
    }

    /// The numbers of all charges up to `entries`, rising, each once.
    fn numbers(&self, entries: u64) -> io::Result<Vec<u64>> {
        let mut numbers = Vec::new();
        self.each_line(|_, text| {
            let number = serde_json::from_str(text).map(|Numbered { number }| number);
            numbers.extend(number.ok().filter(|number| *number <= entries));
        })?;
        numbers.sort_unstable();
        numbers.dedup();
        Ok(numbers)
    }

    /// The file to count from: the first whose opening all charges of `numbers` up to `entries` follow, else the last.
    fn beginning(&self, numbers: &[u64], entries: u64) -> Option<&LogFile> {
        let opens_with = |file: &LogFile| file.head.as_ref().map(|head| head.book.entries);
        let mut openings: Vec<_> =
            self.files.iter().filter_map(|file| Some((opens_with(file)?, file))).collect();
        openings.sort_by_key(|(opening, _)| *opening);
        let leads_up = |opening: u64| {
            let after = numbers.len() - numbers.partition_point(|number| *number <= opening);
            opening <= entries && after as u64 == entries - opening
        };
        let first = openings.iter().find(|(opening, _)| leads_up(*opening));
        first.or(openings.last()).map(|(_, file)| *file)
    }

    fn each_line(&self, mut take: impl FnMut(&str, &str)) -> io::Result<()> {
        for file in &self.files {
            for line in files::lines(&file.folder, file.number)? {
                let (at, text) = line?;
                take(&at, &text);
            }
        }
        Ok(())
    }
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

    /// Starts with what was counted when a file was begun.
    fn begin(&mut self, logs: &Logs, numbers: &[u64], entries: u64) -> io::Result<()> {
        let Some(file) = logs.beginning(numbers, entries) else { return Ok(()) };
        let opening = files::read_opening(&file.folder, file.number)?;
        let Opening { book, .. } = opening.ok_or(io::ErrorKind::NotFound)?;
        if file.is_later {
            let number = file.number;
            self.notes
                .push(format!("counted from usage-{number}.jsonl: what is before does not lead up to it"));
        }
        (self.entries, self.is_whole) = (book.entries, true);
        for owner in &book.owners {
            let counted = self.owners.entry(owner.subject.clone()).or_default();
            (counted.tokens, counted.nano_usd) = (owner.tokens, owner.nano_usd);
            for meter in &owner.meters {
                let periods = charged(owner, meter, &book.held).into_iter().collect();
                counted.meters.insert((meter.unit, meter.window.to_string()), periods);
            }
        }
        Ok(())
    }

    /// Notes which charges up to `entries` are not among those that `numbers` names.
    fn note_gaps(&mut self, numbers: &[u64], entries: u64) {
        for number in numbers {
            if *number > self.entries + 1 {
                self.lacks(self.entries + 1, number - 1);
            }
            self.entries = *number;
        }
        if self.entries < entries {
            self.lacks(self.entries + 1, entries);
        }
    }

    fn add(&mut self, line: &Line) {
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
