//! The thread that keeps the connection, renews what is open, and brings every end of a request to the server.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use futures::future::join_all;
use la_core::id::Subject;
use redis::Value;
use ring::rand::{SecureRandom as _, SystemRandom};

use super::charges::{self, Charges};
use super::demand::{self, Counted};
use super::{Ended, LEASE_MS, Link, Script, Shared, lock};
use crate::clock;
use crate::ledger::state::{Ending, REMEMBERED_MS};
use crate::redis_link::Fault;

/// How often the server is asked whether it is there: it is missed within a second.
const PING_EVERY: Duration = Duration::from_millis(250);

/// How long it may take to say so.
const PING_WITHIN: Duration = Duration::from_millis(500);

/// How often leases are renewed: three times while they last.
const RENEW_EVERY_MS: u64 = LEASE_MS / 3;

/// How often the server is judged again.
const CHECK_EVERY_MS: u64 = 60_000;

/// How often use is read for reports.
const LOOK_EVERY_MS: u64 = 10_000;

/// How often keys of subjects that a snapshot names are kept for longer.
const KEEP_EVERY_MS: u64 = 3_600_000;

/// Shortest and longest pause between two attempts to connect.
const PAUSES_MS: (u64, u64) = (50, 2_000);

/// How long an end waits for others: one that goes alone stands, at the server, before the next reservation of
/// the same client.
const GATHER_FOR: Duration = Duration::from_millis(2);

/// Ends that are sent together.
const BATCH: usize = 256;

/// How long an end is offered to a server that does not take it; its hold has long expired then.
const GIVE_UP_MS: u64 = 3_600_000;

/// How long a close waits for the server.
const FLUSH_WITHIN_MS: u64 = 5_000;

struct Courier {
    shared: Arc<Shared>,
    charges: Option<Charges>,
    renewed_ms: u64,
    checked_ms: u64,
    looked_ms: u64,
    kept_ms: u64,
}

/// Starts the thread.
pub(super) fn start(shared: &Arc<Shared>) -> Result<JoinHandle<Result<(), String>>, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .build()
        .map_err(|error| format!("no runtime: {error}"))?;
    let shared = Arc::clone(shared);
    let charges = shared.log.clone().map(Charges::new);
    let courier = Courier { shared, charges, renewed_ms: 0, checked_ms: 0, looked_ms: 0, kept_ms: 0 };
    std::thread::Builder::new()
        .name("ledger".to_owned())
        .spawn(move || runtime.block_on(courier.run()))
        .map_err(|error| format!("no thread: {error}"))
}

impl Courier {
    async fn run(mut self) -> Result<(), String> {
        let (mut pause_ms, mut deadline_ms) = (PAUSES_MS.0, None);
        loop {
            match self.connect().await {
                Ok(link) => {
                    pause_ms = PAUSES_MS.0;
                    if self.serve(&link).await {
                        return self.left();
                    }
                }
                Err(fault) => {
                    self.shared.worry(&fault);
                    self.pause(pause_ms).await;
                    pause_ms = pause_ms.saturating_mul(2).min(PAUSES_MS.1);
                }
            }
            let ending = *lock(&self.shared.ending);
            let now_ms = clock::monotonic_ms();
            match ending {
                Some(Ending::Abandoned) => return Ok(()),
                Some(Ending::Closed) if now_ms >= *deadline_ms.get_or_insert(now_ms + FLUSH_WITHIN_MS) => {
                    return self.left();
                }
                Some(Ending::Closed) if self.shared.ends.borrow().unknown() == 0 => return Ok(()),
                _ => {}
            }
        }
    }

    /// Connects, and makes good what could not be said meanwhile before anything new is reserved.
    async fn connect(&mut self) -> Result<Arc<Link>, Fault> {
        let place = lock(&self.shared.place).clone();
        let link = Arc::new(Link::open(&self.shared.settings.url, &place, self.shared.time.clock).await?);
        self.keep_log(&link).await?;
        self.renew(&link).await?;
        self.flush(&link).await?;
        *lock(&self.shared.trouble) = None;
        self.shared.said_unrecorded.store(false, Ordering::Relaxed);
        self.shared.link.send_replace(Some(Arc::clone(&link)));
        tracing::info!("ledger is in {}", self.shared.settings.url);
        self.checked_ms = clock::monotonic_ms();
        Ok(link)
    }

    /// Works until the connection fails, or, which it then says, the ledger has ended.
    async fn serve(&mut self, link: &Arc<Link>) -> bool {
        let mut ping = tokio::time::interval(PING_EVERY);
        ping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let is_time = tokio::select! {
                biased;
                () = self.shared.work.notified() => false,
                _ = ping.tick() => true,
            };
            if !is_time {
                // Over at once when somebody waits for an end.
                let _ = tokio::time::timeout(GATHER_FOR, self.shared.hurry.notified()).await;
            }
            let done = async {
                self.flush(link).await?;
                self.tell_readers(link).await?;
                self.run_errands(link, is_time).await?;
                if is_time {
                    self.keep_up(link).await?;
                }
                Ok(())
            };
            if let Err(fault) = done.await {
                self.shared.fail(link, &fault);
            }
            let is_current =
                self.shared.link.borrow().as_ref().is_some_and(|current| Arc::ptr_eq(current, link));
            let ending = *lock(&self.shared.ending);
            match ending {
                Some(Ending::Abandoned) => return true,
                Some(Ending::Closed) if is_current => {
                    // What is not said here is told a second time, by another process.
                    let _ = self.keep_log(link).await;
                    return true;
                }
                _ if !is_current => return false,
                _ => {}
            }
        }
    }

    /// What is due by the clock.
    async fn keep_up(&mut self, link: &Link) -> Result<(), Fault> {
        let late = |_| Fault::Lost(format!("has not answered for {} ms", PING_WITHIN.as_millis()));
        tokio::time::timeout(PING_WITHIN, link.ping()).await.map_err(late)??;
        self.keep_log(link).await?;
        let now_ms = clock::monotonic_ms();
        if now_ms.saturating_sub(self.renewed_ms) >= RENEW_EVERY_MS {
            self.renew(link).await?;
        }
        if now_ms.saturating_sub(self.checked_ms) >= CHECK_EVERY_MS {
            self.checked_ms = now_ms;
            link.check().await?;
        }
        let others = self.shared.keeps_others.swap(false, Ordering::Relaxed);
        if others || now_ms.saturating_sub(self.looked_ms) >= LOOK_EVERY_MS {
            self.looked_ms = now_ms;
            self.look(link, now_ms).await?;
        }
        Ok(())
    }

    /// Brings ends to the server, oldest first. What it has not acknowledged waits on.
    async fn flush(&mut self, link: &Link) -> Result<(), Fault> {
        if self.shared.ends.borrow().unknown() > 0
            && let Some(charges) = &mut self.charges
        {
            charges.ready(link, &self.shared).await?;
        }
        loop {
            let batch: Vec<_> = {
                let mut waiting = lock(&self.shared.waiting);
                let count = waiting.len().min(BATCH);
                waiting.drain(..count).collect()
            };
            if batch.is_empty() {
                return Ok(());
            }
            let answers = join_all(batch.iter().map(|ended| self.finish(link, ended))).await;
            let (sent, mut failed) = (batch.len(), None);
            let mut back = Vec::new();
            for (ended, answer) in batch.into_iter().zip(answers) {
                let fault = match answer {
                    Ok(answer) => {
                        let tell = |charges: &mut Charges| {
                            charges.tell(&self.shared.name(ended.hold), &answer, &ended)
                        };
                        self.charges.iter_mut().for_each(tell);
                        continue;
                    }
                    Err(fault) => fault,
                };
                if clock::monotonic_ms().saturating_sub(ended.at_ms) < GIVE_UP_MS {
                    back.push(ended);
                }
                failed = Some(fault);
            }
            // Whoever hears that an end is known finds its line.
            self.charges.iter_mut().for_each(|charges| charges.write_down(&self.shared));
            let acknowledged = (sent - back.len()) as u64;
            let mut waiting = lock(&self.shared.waiting);
            back.into_iter().rev().for_each(|ended| waiting.push_front(ended));
            drop(waiting);
            self.shared.ends.send_modify(|ends| ends.acknowledged += acknowledged);
            if let Some(fault) = failed {
                return Err(fault);
            }
        }
    }

    async fn keep_log(&mut self, link: &Link) -> Result<(), Fault> {
        match &mut self.charges {
            Some(charges) => charges.keep_up(link, &self.shared).await,
            None => Ok(()),
        }
    }

    /// Changes shared records as was asked for, and, when it is time, looks for what others have changed.
    async fn run_errands(&mut self, link: &Link, is_time: bool) -> Result<(), Fault> {
        let Some(key) = self.shared.records_key() else { return Ok(()) };
        self.shared.errands.run(link, &key).await?;
        if is_time { self.shared.errands.look(link, &key).await } else { Ok(()) }
    }

    /// Reads everything that is counted, for those who wait for it.
    async fn tell_readers(&mut self, link: &Link) -> Result<(), Fault> {
        let readers = std::mem::take(&mut *lock(&self.shared.readers));
        if readers.is_empty() {
            return Ok(());
        }
        let book = charges::read_book(link, &self.shared).await?;
        // Who does not wait any more does not mind.
        readers.into_iter().for_each(|reader| drop(reader.send(book.clone())));
        Ok(())
    }

    async fn finish(&self, link: &Link, ended: &Ended) -> Result<Value, Fault> {
        let keys: Vec<_> = ended.owners.iter().flat_map(demand::keys).collect();
        let spent = ended.spent.as_ref().map(|spent| (&spent.amounts, &spent.tokens));
        let arguments = demand::ending(&self.shared.name(ended.hold), spent);
        link.run(Script::Finish, &keys, &arguments).await
    }

    /// Renews every open hold of this process, one command per owner.
    async fn renew(&mut self, link: &Link) -> Result<(), Fault> {
        self.renewed_ms = clock::monotonic_ms();
        let mut holds = HashMap::<Subject, Vec<String>>::new();
        for (hold, owners) in lock(&self.shared.open).iter() {
            for owner in owners.iter() {
                holds.entry(owner.clone()).or_default().push(self.shared.name(*hold));
            }
        }
        let owners: Vec<_> = holds.into_iter().collect();
        for some in owners.chunks(BATCH) {
            let renewed = join_all(some.iter().map(async |(owner, holds)| {
                let mut arguments = vec![self.shared.time.lease_ms.to_string(), REMEMBERED_MS.to_string()];
                arguments.extend_from_slice(holds);
                link.run(Script::Renew, &demand::keys(owner), &arguments).await.map(drop)
            }));
            renewed.await.into_iter().collect::<Result<(), _>>()?;
        }
        Ok(())
    }

    /// Reads how everybody stands, and has the server keep whom a snapshot names.
    async fn look(&mut self, link: &Link, now_ms: u64) -> Result<(), Fault> {
        let keeps = self.kept_ms == 0 || now_ms.saturating_sub(self.kept_ms) >= KEEP_EVERY_MS;
        let keep_ms = if keeps { REMEMBERED_MS } else { 0 };
        let subjects: Vec<_> = lock(&self.shared.keep).iter().cloned().collect();
        for some in subjects.chunks(BATCH) {
            let looks = join_all(some.iter().map(async |subject| {
                link.run(Script::Look, &demand::keys(subject), &[keep_ms.to_string()]).await
            }));
            for (subject, value) in some.iter().zip(looks.await) {
                if let Some(counted) = Counted::read(&value?) {
                    lock(&self.shared.mirror).look(subject, counted);
                }
            }
        }
        if keeps && !subjects.is_empty() {
            self.kept_ms = now_ms;
        }
        Ok(())
    }

    /// Waits some half to all of the pause, so that replicas do not come back at once; less when the ledger ends.
    async fn pause(&self, pause_ms: u64) {
        let mut byte = [0];
        let _ = SystemRandom::new().fill(&mut byte);
        let part_ms = pause_ms / 2 + pause_ms * u64::from(byte[0]) / 512;
        if lock(&self.shared.ending).is_none() {
            let pause = Duration::from_millis(part_ms);
            let _ = tokio::time::timeout(pause, self.ended()).await;
        } else {
            tokio::time::sleep(Duration::from_millis(PAUSES_MS.0)).await;
        }
    }

    async fn ended(&self) {
        while lock(&self.shared.ending).is_none() {
            self.shared.work.notified().await;
        }
    }

    /// Nothing may be left when the ledger has been closed.
    fn left(&self) -> Result<(), String> {
        let left = self.shared.ends.borrow().unknown();
        let is_closed = *lock(&self.shared.ending) == Some(Ending::Closed);
        self.shared.link.send_replace(None);
        if is_closed && left > 0 {
            let why = self.shared.trouble().unwrap_or_default();
            return Err(format!("{left} requests stay charged as reserved: {why}"));
        }
        Ok(())
    }
}
