//! The thread between this process and the server: it tells, asks, listens, and keeps up what is held.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use futures::future::join_all;
use la_core::account::AccountId;
use la_core::account::affinity::DEFAULT_CAPACITY;
use la_core::account::sharing::{News, Unreadable};
use la_core::oauth::Fingerprint;
use redis::Value;
use tokio::sync::watch;

use super::outbox::{LoginWanted, Mail, PlaceWanted, Questions};
use super::wire::{self, Keys, Script, Told};
use super::{Shared, Stage, lock};
use crate::accounts::{Known, Sessions, Slot, Step};
use crate::clock;
use crate::config::live::{AccountEntry, Live, ProviderEntry};
use crate::observe;
use crate::redis_link::{self, Clock, Fault};
use crate::upstream::endpoint::Place;

type Link = redis_link::Link<Script>;

/// How long an end of a request waits for others before its place is given back.
const GATHER_FOR: Duration = Duration::from_millis(2);

/// How long places are held that nobody keeps up, in milliseconds.
const PLACES_MS: u64 = 10_000;

/// How long the right to renew a login lasts that nobody keeps up, in milliseconds: twice as long as one call of a
/// token endpoint may take.
const LOGIN_MS: u64 = 60_000;

/// How often what is held is kept up.
const KEEP_UP_EVERY: Duration = Duration::from_secs(3);

/// How long the server waits for news before it says that there are none, in milliseconds: a server that is gone is
/// missed when it does not even say that.
const NEWS_WAIT_MS: u64 = 400;

/// Most news in one answer. Whoever is so far behind reads everything anew: the server may have let go of some.
const NEWS_AT_ONCE: usize = 1_024;

/// What is told together.
const BATCH: usize = 256;

/// Shortest and longest pause between two attempts to connect, in milliseconds.
const PAUSES_MS: (u64, u64) = (50, 2_000);

struct Courier {
    shared: Arc<Shared>,
    keys: Keys,
    /// The name of what the server held when everything was read last.
    held_last: Option<String>,
}

/// What was read when everything was.
struct All {
    /// The name of it; another one, if the server has lost what it had.
    name: String,
    /// The last of the news that are in it.
    last: String,
}

/// Starts the thread.
pub(super) fn start(shared: &Arc<Shared>) -> Result<JoinHandle<()>, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .build()
        .map_err(|error| format!("no runtime: {error}"))?;
    let courier = Courier { shared: Arc::clone(shared), keys: Keys::of(""), held_last: None };
    std::thread::Builder::new()
        .name("fleet".to_owned())
        .spawn(move || runtime.block_on(courier.run()))
        .map_err(|error| format!("no thread: {error}"))
}

impl Courier {
    async fn run(mut self) {
        let mut is_ending = self.shared.is_ending.subscribe();
        let mut pause_ms = PAUSES_MS.0;
        let mut place = Arc::clone(&self.shared.url.place);
        self.until_something_is_served(&mut is_ending).await;
        while !*is_ending.borrow() {
            let Err(fault) = self.connected(&place, &mut pause_ms).await else { return };
            self.go_on_alone(&fault);
            place = self.shared.url.place_after(&fault);
            let pause = tokio::time::sleep(Duration::from_millis(pause_ms));
            tokio::select! { () = pause => {}, _ = is_ending.changed() => {} }
            pause_ms = pause_ms.saturating_mul(2).min(PAUSES_MS.1);
        }
    }

    /// A process without a configuration so far has nothing to share, and no name to share it by.
    async fn until_something_is_served(&self, is_ending: &mut watch::Receiver<bool>) {
        let mut served = self.shared.cell.subscribe();
        while self.shared.cell.load().serial() == 0 && !*is_ending.borrow() {
            self.shared.stage.send_replace(Stage::Alone("nothing is served so far".to_owned()));
            tokio::select! { _ = served.changed() => {}, _ = is_ending.changed() => {} }
        }
    }

    /// Works until the connection fails, or all is over.
    async fn connected(&mut self, place: &Place, pause_ms: &mut u64) -> Result<(), Fault> {
        let url = &self.shared.url;
        let (voice, ear) =
            tokio::try_join!(Link::open(url, place, Clock::Server), Link::open(url, place, Clock::Server))?;
        // From before it is looked at: a change meanwhile is seen.
        let served = self.shared.cell.subscribe();
        let live = self.shared.cell.load();
        self.keys = Keys::of(&live.snapshot().proxy);
        self.employ(&live);
        // What was learned alone comes first: what is read then has it.
        self.tell(&voice).await?;
        let All { name, last } = self.read_all(&voice).await?;
        for account in accounts(&live) {
            account.known.tell_again();
        }
        if self.held_last.as_ref() != Some(&name) {
            tables(&live).into_iter().for_each(|table| table.tell_again(clock::unix_seconds()));
            self.held_last = Some(name);
        }
        self.tell(&voice).await?;
        self.shared.outbox.open(true);
        self.answer(&voice, true).await?;
        *pause_ms = PAUSES_MS.0;
        self.shared.stage.send_replace(Stage::Together);
        tracing::info!("what is known of accounts is shared through {url}");
        tokio::select! {
            heard = self.listen(&ear, last) => heard,
            told = self.speak(&voice, served) => told,
        }
    }

    /// Tells and asks, as soon as there is something, until all is over.
    async fn speak(&self, link: &Link, mut served: watch::Receiver<u64>) -> Result<(), Fault> {
        let outbox = &self.shared.outbox;
        let mut is_ending = self.shared.is_ending.subscribe();
        let mut is_time = tokio::time::interval(KEEP_UP_EVERY);
        is_time.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let mut keeps_up = false;
            tokio::select! {
                biased;
                () = outbox.hurry() => {}
                _ = is_time.tick() => keeps_up = true,
                _ = served.changed() => self.served_changed(link).await?,
                _ = is_ending.changed() => {
                    self.answer(link, true).await?;
                    return self.tell(link).await;
                }
                () = outbox.work() => {
                    let _ = tokio::time::timeout(GATHER_FOR, outbox.hurry()).await;
                }
            }
            self.answer(link, keeps_up).await?;
            self.tell(link).await?;
        }
    }

    /// Hears what others tell.
    async fn listen(&self, link: &Link, mut last: String) -> Result<(), Fault> {
        let news = self.keys.news();
        loop {
            let listen = wire::listen(&news, &last, (NEWS_AT_ONCE, NEWS_WAIT_MS));
            let entries = wire::entries(&link.send(&listen).await?);
            let is_behind = entries.len() >= NEWS_AT_ONCE;
            for (id, told) in entries {
                self.hear(told);
                last = id;
            }
            if is_behind {
                last = self.read_all(link).await?.last;
            }
        }
    }

    /// Hears everything that is known.
    async fn read_all(&self, link: &Link) -> Result<All, Fault> {
        let live = self.shared.cell.load();
        let tables = tables(&live);
        let mut keys = self.keys.rests();
        keys.push(self.keys.name());
        keys.extend(tables.iter().flat_map(|table| self.keys.sessions(table.ttl_seconds)));
        let answer =
            link.run(Script::Read, &keys, &[redis_link::process_name().map_err(Fault::Refused)?]).await?;
        let [name, last, rests, forgotten, sessions @ ..] = wire::list(&answer) else {
            return Err(Fault::Refused("answers a script with something else".to_owned()));
        };
        for (account, times) in wire::pairs(forgotten) {
            // Who has not heard of it yet forgets now; who starts has nothing to forget.
            if let Ok(Told::Forgotten(account, times)) = Told::forgotten(&account, &times)
                && let Some((_, account)) = find(&live, account)
                && account.known.hear_forgotten(times)
            {
                self.hear(Ok(Told::News(account.known.id, News::Forgotten)));
            }
        }
        for (field, value) in wire::pairs(rests) {
            self.hear(Told::rest(&field, &value));
        }
        for (table, known) in tables.iter().zip(sessions) {
            for (field, value) in wire::pairs(known) {
                self.hear(Told::session(table.ttl_seconds, &field, &value));
            }
        }
        let of =
            |value| wire::text(value).ok_or_else(|| Fault::Refused("has news without an order".to_owned()));
        Ok(All { name: of(name)?, last: of(last)? })
    }

    fn hear(&self, told: Result<Told, Unreadable>) {
        let (live, now) = (self.shared.cell.load(), clock::unix_seconds());
        match told {
            Ok(Told::News(account, news)) => {
                if let Some((provider, account)) = find(&live, account)
                    && let Some(change) = account.known.hear(&news, now, &provider.health)
                {
                    observe::health::heard(account, &change);
                }
            }
            Ok(Told::Forgotten(id, times)) => {
                if let Some((_, account)) = find(&live, id) {
                    account.known.hear_forgotten(times);
                    self.hear(Ok(Told::News(id, News::Forgotten)));
                }
            }
            Ok(Told::Session { ttl_seconds, key, account }) => {
                let table = tables(&live).into_iter().find(|table| table.ttl_seconds == ttl_seconds);
                if table.is_some_and(|table| table.follow(key, account, now)) {
                    self.shared.metrics.affinity(Step::Follow);
                }
            }
            Ok(Told::SessionsForgotten(account)) => {
                for table in tables(&live) {
                    table.forget_here(account);
                }
            }
            Err(Unreadable) => {
                if !self.shared.said_unreadable.swap(true, Ordering::Relaxed) {
                    let url = &self.shared.url;
                    tracing::warn!(
                        "{url} holds something of accounts that this version cannot read; it is passed over"
                    );
                }
            }
        }
    }

    /// Brings everything to the server that waits.
    async fn tell(&self, link: &Link) -> Result<(), Fault> {
        let mail = self.shared.outbox.take_mail();
        let told = self.bring(link, &mail).await;
        if told.is_err() {
            self.shared.outbox.put_back(mail);
        }
        told
    }

    async fn bring(&self, link: &Link, mail: &Mail) -> Result<(), Fault> {
        for news in mail.news.chunks(BATCH) {
            link.run(Script::Rest, &self.keys.rests(), &wire::rest_arguments(news)).await?;
        }
        let mut by_ttl = BTreeMap::<u32, Vec<_>>::new();
        for ((ttl_seconds, key), notice) in &mail.sessions {
            by_ttl.entry(*ttl_seconds).or_default().push((*key, *notice));
        }
        for (ttl_seconds, notices) in by_ttl {
            let [sessions, ends] = self.keys.sessions(ttl_seconds);
            let keys = [self.keys.news(), sessions, ends];
            for notices in notices.chunks(BATCH) {
                let mut arguments = vec![ttl_seconds.to_string(), DEFAULT_CAPACITY.to_string()];
                let of_each = notices.iter().flat_map(|(key, notice)| wire::session_arguments(*key, *notice));
                arguments.extend(of_each);
                let answer = link.run(Script::Bind, &keys, &arguments).await?;
                for ((key, notice), known) in notices.iter().zip(wire::list(&answer)) {
                    let known =
                        wire::text(known).ok_or(Unreadable).and_then(|text| wire::read_versioned(&text));
                    // Another replica was first: the session is where that has it.
                    if known != Ok(notice.to) {
                        self.hear(known.map(|account| Told::Session { ttl_seconds, key: *key, account }));
                    }
                }
            }
        }
        for account in &mail.forgotten {
            let mut keys = vec![self.keys.news()];
            let live = self.shared.cell.load();
            keys.extend(tables(&live).iter().flat_map(|table| self.keys.sessions(table.ttl_seconds)));
            link.run(Script::Forget, &keys, &[wire::versioned(*account)]).await?;
        }
        Ok(())
    }

    /// Answers everybody who waits, and keeps up what is held if it is time.
    async fn answer(&self, link: &Link, keeps_up: bool) -> Result<(), Fault> {
        let Questions { places, logins } = self.shared.outbox.take_questions();
        let (places, logins) =
            tokio::join!(self.places(link, places, keeps_up), self.logins(link, logins, keeps_up));
        places.and(logins)
    }

    /// Holds as many places of every account with a limit as are in use and wanted.
    async fn places(&self, link: &Link, wanted: Vec<PlaceWanted>, keeps_up: bool) -> Result<(), Fault> {
        let live = self.shared.cell.load();
        let mut by_account = BTreeMap::<AccountId, (Arc<Known>, u32, Vec<PlaceWanted>)>::new();
        for account in accounts(&live) {
            if let Some(most) = account.wishes.max_concurrency {
                by_account.insert(account.known.id, (Arc::clone(&account.known), most, Vec::new()));
            }
        }
        for one in wanted {
            let of = || (Arc::clone(&one.known), one.most, Vec::new());
            by_account.entry(one.known.id).or_insert_with(of).2.push(one);
        }
        let held = by_account.into_values().filter_map(|(known, most, wanted)| {
            let count = known.places.count();
            let is_due = !wanted.is_empty() || count.held != Some(count.used) || (keeps_up && count.used > 0);
            is_due.then(|| self.hold(link, (known, most), wanted))
        });
        join_all(held).await.into_iter().collect()
    }

    async fn hold(
        &self,
        link: &Link,
        (known, most): (Arc<Known>, u32),
        wanted: Vec<PlaceWanted>,
    ) -> Result<(), Fault> {
        let more = u32::try_from(wanted.len()).unwrap_or(u32::MAX);
        let wants = known.places.count().used.saturating_add(more);
        let uses = known.places.lower(wants);
        let numbers = [u64::from(uses), u64::from(wants), u64::from(most), PLACES_MS];
        let mut arguments = vec![self.shared.process.clone()];
        arguments.extend(numbers.map(|number| number.to_string()));
        let answer = link.run(Script::Hold, &self.keys.places(known.id), &arguments).await;
        let held = answer.and_then(|answer| match answer {
            Value::Int(held) => Ok(u32::try_from(held).unwrap_or_default()),
            _ => Err(Fault::Refused("answers a script with something else".to_owned())),
        });
        // Before anybody who waits is let go: without the server the process counts alone.
        known.places.hold(held.as_ref().ok().copied());
        held?;
        for PlaceWanted { most, answer, .. } in wanted {
            let slot = known.take_slot(Some(most)).filter(Slot::is_held);
            // Whoever has left gives it back at once.
            let _ = answer.send(slot);
        }
        Ok(())
    }

    async fn logins(&self, link: &Link, wanted: Vec<LoginWanted>, keeps_up: bool) -> Result<(), Fault> {
        let given_up = std::mem::take(&mut lock(&self.shared.logins).given_up);
        for token in given_up {
            self.lease(link, token, 0).await?;
        }
        for LoginWanted { token, answer } in wanted {
            let is_held = self.lease(link, token, LOGIN_MS).await?;
            if is_held {
                lock(&self.shared.logins).held.push(token);
            }
            if answer.send(is_held).is_err() && is_held {
                lock(&self.shared.logins).held.retain(|held| *held != token);
                self.lease(link, token, 0).await?;
            }
        }
        let held = if keeps_up { lock(&self.shared.logins).held.clone() } else { Vec::new() };
        for token in held {
            if !self.lease(link, token, LOGIN_MS).await? {
                tracing::warn!(
                    "another process took over a login that this one renews: its right had run out"
                );
            }
        }
        Ok(())
    }

    async fn lease(&self, link: &Link, token: Fingerprint, for_ms: u64) -> Result<bool, Fault> {
        let arguments = [self.shared.process.clone(), for_ms.to_string()];
        let answer = link.run(Script::Login, &self.keys.login(token), &arguments).await?;
        Ok(matches!(answer, Value::Int(1)))
    }

    /// Has everything that is served now told of and counted together. Says whether some of it was not before.
    fn employ(&self, live: &Live) -> bool {
        for table in tables(live) {
            table.join(&self.shared.outbox);
        }
        let mut is_new = false;
        for account in accounts(live) {
            is_new |= account.known.join(&self.shared.outbox);
            if account.wishes.max_concurrency.is_none() {
                account.known.places.hold(None);
            }
        }
        is_new
    }

    async fn served_changed(&self, link: &Link) -> Result<(), Fault> {
        let live = self.shared.cell.load();
        if !self.keys.are_of(&live.snapshot().proxy) {
            return Err(Fault::Lost("another proxy is served now".to_owned()));
        }
        if self.employ(&live) {
            self.read_all(link).await?;
            for account in accounts(&live) {
                account.known.tell_again();
            }
        }
        Ok(())
    }

    /// Without the server every replica goes by what it knows.
    fn go_on_alone(&self, fault: &Fault) {
        let live = self.shared.cell.load();
        for account in accounts(&live) {
            account.known.places.hold(None);
        }
        // After that: who is not answered counts alone.
        self.shared.outbox.open(false);
        let stage = Stage::Alone(fault.to_string());
        if self.shared.stage.send_replace(stage.clone()) != stage {
            let url = &self.shared.url;
            tracing::warn!(
                "what is known of accounts is not shared through {url}: {fault}; each replica goes by its own"
            );
        }
    }
}

fn accounts(live: &Live) -> impl Iterator<Item = &Arc<AccountEntry>> {
    live.providers().iter().flat_map(|provider| &provider.accounts)
}

fn find(live: &Live, id: AccountId) -> Option<(&ProviderEntry, &Arc<AccountEntry>)> {
    live.providers().iter().find_map(|provider| Some((&**provider, provider.account(id)?)))
}

/// The sessions that are served, those that are remembered for the same time once.
fn tables(live: &Live) -> Vec<&Arc<Sessions>> {
    let mut tables: Vec<&Arc<Sessions>> = Vec::new();
    for sessions in live.routes().iter().filter_map(|route| route.sessions.as_ref()) {
        if !tables.iter().any(|known| known.ttl_seconds == sessions.ttl_seconds) {
            tables.push(sessions);
        }
    }
    tables
}
