//! The usage log of a process whose ledger is in a Redis: a line for each charge that it had made there, and for
//! those that their own process did not live to tell.
//!
//! The server numbers the charges of all processes, and keeps each until some log has a line of it. A `kill -9` can
//! therefore make a line stand in two logs, never in none; the number tells that it is the same.

use std::io;
use std::path::PathBuf;

use la_core::amount::Amounts;
use la_core::budget::{SavedBook, SavedOwner, SavedPart, Spent};
use la_core::id::Subject;
use la_core::usage::Usage;
use redis::Value;

use super::demand::{self, Counted};
use super::{Ended, LEASE_MS, Shared, lock};
use super::{Link, Script};
use crate::clock;
use crate::redis_link::Fault;
use crate::usage_log::{self, Bounds, Charge, Late, Opening, UsageLog};

/// How long charges are kept at the server after a process with a log was heard of last: what its holds became while
/// it was away is there when it comes back.
const KEPT_MS: u64 = 2 * LEASE_MS;

/// Within which no end is brought to the server without having it keep charges.
const HEARD_WITHIN_MS: u64 = KEPT_MS / 4;

/// How long after a failure the folder is tried again.
const RETRY_MS: u64 = 10_000;

/// Where the log is, and how much of it is kept.
#[derive(Debug, Clone)]
pub(super) struct LogPlace {
    pub(super) data_dir: PathBuf,
    pub(super) bounds: Bounds,
}

/// The log, and what the server is still to hear of it.
pub(super) struct Charges {
    place: LogPlace,
    log: Option<UsageLog>,
    /// What the ledger was called when it was heard of last, and how many charges there were at least.
    known: (String, u64),
    /// Names of charges that have a line.
    told: Vec<String>,
    heard_ms: Option<u64>,
    failed_ms: Option<u64>,
    trouble: Option<String>,
}

/// One charge, as the server tells it.
struct Told {
    number: u64,
    time_ms: u64,
    is_expired: bool,
    spent: Spent,
    cost_nano_usd: u64,
    owners: Vec<Subject>,
    parts: Vec<SavedPart>,
}

/// What the server says of the charges of all processes.
struct News {
    ledger: String,
    entries: u64,
    untold: Vec<(String, Value)>,
}

impl Charges {
    pub(super) fn new(place: LogPlace) -> Self {
        Self {
            place,
            log: None,
            known: (String::new(), 0),
            told: Vec::new(),
            heard_ms: None,
            failed_ms: None,
            trouble: None,
        }
    }

    /// Has the server keep charges, where it may have forgotten to.
    pub(super) async fn ready(&mut self, link: &Link, shared: &Shared) -> Result<(), Fault> {
        let now_ms = clock::monotonic_ms();
        let is_heard = self.heard_ms.is_some_and(|heard| now_ms.saturating_sub(heard) < HEARD_WITHIN_MS);
        if is_heard { Ok(()) } else { self.keep_up(link, shared).await }
    }

    /// Says which charges have a line, and writes those of processes that are gone.
    pub(super) async fn keep_up(&mut self, link: &Link, shared: &Shared) -> Result<(), Fault> {
        let Some(key) = shared.log_key() else { return Ok(()) };
        // Where nothing can be written, charges must not pile up at the server.
        let kept_ms = if self.trouble.is_some() { 0 } else { KEPT_MS };
        let mut arguments = vec![kept_ms.to_string(), shared.process.clone()];
        arguments.extend(self.told.iter().cloned());
        let answer = link.run(Script::Log, &[key], &arguments).await?;
        self.told.clear();
        let Some(news) = News::read(&answer) else { return Ok(()) };
        self.heard_ms = Some(clock::monotonic_ms());
        self.follow(link, shared, &news).await?;
        for (name, value) in &news.untold {
            if let Some(told) = Told::read(value) {
                let late = if told.is_expired { Late::Expired } else { Late::Killed };
                self.push(name, &told, None, Some(late));
            }
        }
        self.write_down(shared);
        Ok(())
    }

    /// Adds the line of a request that ended here, if `answer` says that it was charged.
    pub(super) fn tell(&mut self, name: &str, answer: &Value, ended: &Ended) {
        if let Some(told) = Told::read(answer) {
            self.push(name, &told, Some(ended), None);
        }
    }

    /// Hands the lines to the kernel.
    pub(super) fn write_down(&mut self, shared: &Shared) {
        if let Some(log) = &mut self.log {
            log.write_down(clock::unix_milliseconds());
        }
        let trouble = self.trouble.clone().or_else(|| self.log.as_ref().and_then(UsageLog::trouble));
        *lock(&shared.log_trouble) = trouble;
    }

    fn push(&mut self, name: &str, told: &Told, ended: Option<&Ended>, late: Option<Late>) {
        // Without a log it stays at the server, for as long as charges are kept there.
        let (Some(log), Some((subject, pools))) = (&mut self.log, told.owners.split_first()) else { return };
        let facts = ended.and_then(|ended| ended.told.as_ref());
        let charge = Charge {
            number: told.number,
            time_ms: facts.map_or(told.time_ms, |facts| facts.time_ms),
            subject,
            pools: pools.iter().collect(),
            reserved: ended.map_or_else(
                || usage_log::amounts(&told.parts, |part| part.reserved),
                |ended| ended.reserved,
            ),
            spent: told.spent,
            cost_nano_usd: told.cost_nano_usd,
            parts: told.parts.clone(),
            late,
        };
        log.push(&charge, facts);
        self.known.1 = self.known.1.max(told.number);
        self.told.push(name.to_owned());
    }

    /// Opens the log, or goes on in another file where the one that is there is full or belongs to another ledger.
    async fn follow(&mut self, link: &Link, shared: &Shared, news: &News) -> Result<(), Fault> {
        let now_ms = clock::monotonic_ms();
        if self.failed_ms.is_some_and(|failed| now_ms.saturating_sub(failed) < RETRY_MS) {
            return Ok(());
        }
        if self.log.is_none() {
            self.go_on(news).unwrap_or_else(|error| self.fail(&error));
        }
        let (ledger, entries) = &self.known;
        // A server that has lost charges gives their numbers again.
        let continues = *ledger == news.ledger && *entries <= news.entries;
        let is_due = self.log.as_ref().is_none_or(|log| log.is_due(clock::unix_milliseconds()));
        if is_due || !continues {
            let book = read_book(link, shared).await?;
            let opening = Opening { continues, ledger: Some(news.ledger.clone()), book };
            if let Err(error) = self.turn(&opening) {
                self.fail(&error);
                return Ok(());
            }
        }
        self.known = (news.ledger.clone(), news.entries);
        Ok(())
    }

    /// Goes on where an earlier process has ended, if that was the same ledger.
    fn go_on(&mut self, news: &News) -> io::Result<()> {
        let folder = usage_log::folder(&self.place.data_dir);
        let Some(ends) = usage_log::ends(&folder)? else { return Ok(()) };
        let Some(entries) = ends.entries.filter(|_| ends.ledger.as_ref() == Some(&news.ledger)) else {
            return Ok(());
        };
        self.log = Some(UsageLog::go_on(&ends, self.place.bounds.within(&self.place.data_dir)?)?);
        self.known = (news.ledger.clone(), entries);
        Ok(())
    }

    fn turn(&mut self, opening: &Opening) -> io::Result<()> {
        let folder = usage_log::folder(&self.place.data_dir);
        let bounds = self.place.bounds.within(&self.place.data_dir)?;
        let last = usage_log::ends(&folder)?.map_or(0, |ends| ends.number);
        let next = usage_log::begin(&folder, last.saturating_add(1), bounds)?;
        usage_log::write_opening(&folder, next.number(), opening)?;
        match &mut self.log {
            Some(log) => log.turn(next).sync_all()?,
            None => self.log = Some(next),
        }
        (self.failed_ms, self.trouble) = (None, None);
        usage_log::prune(&folder, bounds, clock::unix_milliseconds())
    }

    fn fail(&mut self, error: &io::Error) {
        let folder = usage_log::folder(&self.place.data_dir);
        let why = format!("usage log cannot go on in another file of {}: {error}", folder.display());
        if self.trouble.is_none() {
            tracing::error!("{why}; requests are served and counted all the same");
        }
        self.failed_ms = Some(clock::monotonic_ms());
        // What is open goes on.
        self.trouble = self.log.is_none().then_some(why);
    }
}

/// Everything that the server counts of this proxy.
pub(super) async fn read_book(link: &Link, shared: &Shared) -> Result<SavedBook, Fault> {
    let mut book = SavedBook { version: SavedBook::VERSION, ..SavedBook::default() };
    let Some(pattern) = shared.owners_pattern() else { return Ok(book) };
    let mut owners: Vec<_> =
        link.names(&pattern).await?.iter().filter_map(|key| demand::owner_of(key)).collect();
    owners.sort();
    owners.dedup();
    let keys: Vec<_> = owners.iter().flat_map(demand::keys).collect();
    if keys.is_empty() {
        return Ok(book);
    }
    let unreadable = || Fault::Refused("tells what it counts in a way that cannot be read".to_owned());
    let Value::Array(values) = link.run(Script::Book, &keys, &[]).await? else { return Err(unreadable()) };
    let [Value::Int(entries), Value::Int(now_ms), all @ ..] = &values[..] else { return Err(unreadable()) };
    (book.entries, book.at_ms) = (demand::whole(*entries), demand::whole(*now_ms));
    for (subject, value) in owners.into_iter().zip(all) {
        // An owner may have been forgotten since its name was read.
        let Some(Counted { tokens, nano_usd, meters, .. }) = Counted::read(value) else { continue };
        book.held.extend(demand::held(&subject, value));
        book.owners.push(SavedOwner { subject, last_seen_ms: book.at_ms, tokens, nano_usd, meters });
    }
    Ok(book)
}

impl News {
    fn read(value: &Value) -> Option<Self> {
        let Value::Array(values) = value else { return None };
        let [ledger, Value::Int(entries), untold @ ..] = &values[..] else { return None };
        let pairs = untold.chunks_exact(2).filter_map(|pair| match pair {
            [name, charge] => Some((demand::text(name)?.to_owned(), charge.clone())),
            _ => None,
        });
        let (ledger, entries) = (demand::text(ledger)?.to_owned(), demand::whole(*entries));
        Some(Self { ledger, entries, untold: pairs.collect() })
    }
}

impl Told {
    /// Reads what `note` in `owner.lua` has written; nothing when it is no charge.
    fn read(value: &Value) -> Option<Self> {
        let mut lines = demand::text(value)?.lines();
        let mut words = lines.next()?.split(' ');
        let number = |word: Option<&str>| word?.parse::<u64>().ok();
        let (charge, time_ms) = (number(words.next())?, number(words.next())?);
        // Until when it is left to whom is the server's.
        let is_expired = words.nth(1)? == "expired";
        let mut next = || number(words.next());
        let amounts = Amounts { requests: next()?, tokens: next()?, nano_usd: next()? };
        let tokens = Usage {
            input_tokens: next()?,
            cache_write_tokens: next()?,
            cache_read_tokens: next()?,
            output_tokens: next()?,
        };
        let cost_nano_usd = next()?;
        let (mut owners, mut parts) = (Vec::<Subject>::new(), Vec::new());
        for line in lines {
            match line.split_once(' ')? {
                ("o", key) => owners.push(demand::owner_of(key)?),
                (_, part) => parts.push(demand::part(owners.last()?, part)?),
            }
        }
        let amounts = if is_expired { usage_log::amounts(&parts, |part| part.charged) } else { amounts };
        let spent = Spent { amounts, tokens };
        Some(Self { number: charge, time_ms, is_expired, spent, cost_nano_usd, owners, parts })
    }
}
