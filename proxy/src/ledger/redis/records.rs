//! Records that all processes of a proxy share through its Redis: texts by name, each changed by whoever knows what
//! it was.
//!
//! Requests never wait for it: the courier brings changes and hears of those of others, four times a second.

use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis::Value;

use super::{Link, Script};
use super::{Shared, demand, lock};
use crate::clock;
use crate::redis_link::Fault;

/// How long a change may take; the server answers in milliseconds when it answers.
const CHANGED_WITHIN: Duration = Duration::from_secs(3);

/// How long the server must have been missed for a change to be refused at once, in milliseconds.
const FOR_LONG_MS: u64 = 1_000;

/// A record by its name.
pub type Named = (String, String);

/// One change: from what is known, or nothing, to what is to be; to nothing forgets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Of which record.
    pub name: String,
    /// What it is so far; empty when there is none.
    pub known: String,
    /// What it is to be.
    pub wanted: String,
}

/// Who hears of all records whenever one of them has changed, and says which others are to change.
pub(super) type Hears = Box<dyn Fn(Vec<Named>) -> Vec<Change> + Send>;

/// The records of one proxy.
#[derive(Clone)]
pub struct SharedRecords {
    shared: Arc<Shared>,
}

/// What the courier has to do for them.
#[derive(Default)]
pub(super) struct Errands {
    changes: Mutex<Vec<Asked>>,
    /// Who is told, and the version it knows.
    hears: Mutex<Option<(Hears, String)>>,
}

/// A change that somebody waits for.
struct Asked {
    change: Change,
    at_ms: u64,
    changed: SyncSender<String>,
}

impl SharedRecords {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Shares with all processes that serve the proxy called `proxy`. `hears` is called from the courier's thread, at
    /// first with all that is there.
    pub fn follow(&self, proxy: &str, hears: Hears) {
        self.shared.tag.get_or_init(|| demand::tag_of(proxy));
        *lock(&self.shared.errands.hears) = Some((hears, String::new()));
        self.shared.work.notify_one();
    }

    /// Changes a record where it is what is known. Gives what it is then, whoever has written it. Blocks.
    ///
    /// # Errors
    /// Why the server cannot be asked.
    pub fn change(&self, change: Change) -> Result<String, String> {
        if let Some(why) = self.shared.trouble_for(FOR_LONG_MS) {
            return Err(why);
        }
        let (sender, changed) = sync_channel(1);
        let asked = Asked { change, at_ms: clock::monotonic_ms(), changed: sender };
        lock(&self.shared.errands.changes).push(asked);
        self.shared.work.notify_one();
        let late = |_| {
            let late = || format!("the server has not answered for {} s", CHANGED_WITHIN.as_secs());
            self.shared.trouble().unwrap_or_else(late)
        };
        changed.recv_timeout(CHANGED_WITHIN).map_err(late)
    }
}

impl std::fmt::Debug for SharedRecords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedRecords").finish_non_exhaustive()
    }
}

impl Errands {
    /// Makes the changes that are asked for.
    pub(super) async fn run(&self, link: &Link, key: &str) -> Result<(), Fault> {
        let changes = std::mem::take(&mut *lock(&self.changes));
        for Asked { change, at_ms, changed } in changes {
            // Who was told that it failed must not find it done later.
            if u128::from(clock::monotonic_ms().saturating_sub(at_ms)) < CHANGED_WITHIN.as_millis() {
                let found = run(link, key, &change).await?;
                let _ = changed.send(found);
            }
        }
        Ok(())
    }

    /// Tells of all records, if any has changed since they were told last.
    pub(super) async fn look(&self, link: &Link, key: &str) -> Result<(), Fault> {
        let Some(known) = lock(&self.hears).as_ref().map(|(_, version)| version.clone()) else {
            return Ok(());
        };
        let answer = link.run(Script::Records, &[key.to_owned()], std::slice::from_ref(&known)).await?;
        let Value::Array(values) = answer else { return Ok(()) };
        let mut texts = values.iter().filter_map(|value| demand::text(value).map(str::to_owned));
        let Some(version) = texts.next().filter(|version| *version != known) else { return Ok(()) };
        let (mut records, mut name) = (Vec::new(), None);
        for text in texts {
            match name.take() {
                Some(name) => records.push((name, text)),
                None => name = Some(text),
            }
        }
        let wanted = match lock(&self.hears).as_mut() {
            Some((hears, known)) => {
                *known = version;
                hears(records)
            }
            None => Vec::new(),
        };
        for change in &wanted {
            run(link, key, change).await?;
        }
        Ok(())
    }
}

async fn run(link: &Link, key: &str, change: &Change) -> Result<String, Fault> {
    let Change { name, known, wanted } = change.clone();
    let answer = link.run(Script::Records, &[key.to_owned()], &[name, known, wanted]).await?;
    Ok(demand::text(&answer).unwrap_or_default().to_owned())
}
