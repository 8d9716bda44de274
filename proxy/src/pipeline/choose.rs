//! Stage 6: which account's credential goes out.
//!
//! Providers go by priority. Within one, a session stays on its account for as long as that can serve it; any
//! other request goes where the provider's strategy puts it. An account is chosen together with a place among
//! the requests that it serves at a time, and, where it has only just rested, with the right to try it.

use std::sync::Arc;

use la_core::account::AccountId;
use la_core::account::affinity::{Binding, SessionKey};
use la_core::account::choice::{self, Candidate, Chooser};
use la_core::account::health::{Standing, StopAt, Why};

use crate::accounts::{Probe, Sessions, Slot};
use crate::config::live::{AccountEntry, Fitness};
use crate::listener::worker::Worker;
use crate::refuse::{NoneLeft, Refusal};

use super::resolve::{Stop, Way};

/// A wait that the vendor asked for is short up to this many seconds: a session comes back from it.
const SHORT_WAIT_SECONDS: i64 = 60;

/// What an account is chosen for.
#[derive(Clone, Copy)]
pub(super) struct Wish<'a> {
    pub(super) way: Way<'a>,
    /// The model that the client asked for.
    pub(super) asked: &'a str,
    /// Whose session, and which, if the request belongs to one.
    pub(super) session: Option<&'a str>,
    /// The wall clock in Unix seconds.
    pub(super) now: i64,
}

/// An account, and all that a request needs to be sent with it.
pub(super) struct Chosen<'a> {
    pub(super) stop: Stop<'a>,
    pub(super) account: Arc<AccountEntry>,
    /// Its place among the requests of the account.
    pub(super) slot: Slot,
    /// The right to try the account.
    pub(super) probe: Option<Probe>,
    /// Whether the vendor had refused its credential when it was chosen.
    pub(super) was_refused: bool,
    /// The session that is on the account, if it is.
    pub(super) kept: Option<Kept<'a>>,
}

/// A session on the account that its request goes to.
#[derive(Clone, Copy)]
pub(super) struct Kept<'a> {
    sessions: &'a Sessions,
    key: SessionKey,
    seen: Binding,
}

/// How eagerly an account is taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    /// For a request that is at home nowhere.
    Fresh,
    /// For one whose session is on it.
    Bound,
    /// Because nobody else is left: only the vendor can say whether it works again.
    Last,
}

/// Chooses an account that is none of `tried`, with a place that is held; nothing when none can serve now.
pub(super) async fn with_place<'a>(
    worker: &Worker,
    wish: Wish<'a>,
    tried: &[AccountId],
) -> Option<Chosen<'a>> {
    let mut passed_over = tried.to_vec();
    loop {
        let Chosen { slot, account, .. } = match self::account(worker, wish, &passed_over)? {
            chosen if chosen.slot.is_held() => return Some(chosen),
            unheld => unheld,
        };
        // With a place of its own it is chosen again: until now no session has heard of it.
        match slot.ask(account.wishes.max_concurrency).await {
            Some(place) => drop(place),
            None => passed_over.push(account.known.id),
        }
    }
}

/// Chooses an account that is none of `tried`; nothing when none can serve now. Where replicas count requests
/// together its place may not be [held](Slot::is_held): then nothing else has happened so far.
pub(super) fn account<'a>(worker: &Worker, wish: Wish<'a>, tried: &[AccountId]) -> Option<Chosen<'a>> {
    let by = |need| wish.way.stops().find_map(|stop| at_provider(worker, wish, tried, (stop, need)));
    by(Need::Fresh).or_else(|| by(Need::Last))
}

fn at_provider<'a>(
    worker: &Worker,
    wish: Wish<'a>,
    tried: &[AccountId],
    (stop, need): (Stop<'a>, Need),
) -> Option<Chosen<'a>> {
    let home = wish.home(stop);
    let bound = home.and_then(|(sessions, key)| sessions.bound(key, wish.now));
    let Some(((sessions, key), seen)) = home.zip(bound) else {
        let mut chosen = fresh(wish, tried, (stop, need, home))?;
        if !chosen.slot.is_held() {
            return Some(chosen);
        }
        chosen.kept = home.map(|(sessions, key)| {
            let seen = sessions.place(key, chosen.account.known.id, wish.now);
            Kept { sessions, key, seen }
        });
        return Some(chosen.unless_moved());
    };
    let at_home = stop.provider.account(seen.account);
    let stays = at_home.filter(|account| !tried.contains(&account.known.id) && wish.may(account));
    if let Some(mut chosen) = stays.and_then(|account| take(wish, stop, account, Need::Bound)) {
        chosen.kept = Some(Kept { sessions, key, seen });
        return Some(chosen);
    }
    let mut chosen = fresh(wish, tried, (stop, need, home))?;
    if !chosen.slot.is_held() {
        return Some(chosen);
    }
    let (to, model) = (chosen.account.known.id, stop.model(wish.asked));
    let comes_back = at_home.is_some_and(|account| comes_back(account, model, wish.now));
    let (now_on, step) = if comes_back {
        sessions.escape(key, seen, to, wish.now)
    } else {
        let (now_on, step) = sessions.rebind(key, seen, to, wish.now);
        (Some(now_on), step)
    };
    step.into_iter().for_each(|step| worker.metrics.affinity(step));
    chosen.kept = now_on.map(|seen| Kept { sessions, key, seen });
    Some(chosen.unless_moved())
}

/// Takes an account for a request whose session is on none that can serve it.
fn fresh<'a>(
    wish: Wish<'a>,
    tried: &[AccountId],
    (stop, need, home): (Stop<'a>, Need, Option<(&'a Sessions, SessionKey)>),
) -> Option<Chosen<'a>> {
    let provider = stop.provider;
    let may = |account: &&Arc<AccountEntry>| !tried.contains(&account.known.id) && wish.may(account);
    if let [account] = &*provider.accounts {
        return Some(account).filter(may).and_then(|account| take(wish, stop, account, need));
    }
    let left: Vec<_> = provider.accounts.iter().filter(may).collect();
    let candidates: Vec<_> = left.iter().map(|account| candidate(account, wish.now)).collect();
    let chooser = home.map_or_else(|| Chooser::Turn(provider.next_turn()), |(_, key)| Chooser::Session(key));
    let mut order = choice::order(provider.selection, chooser, &candidates);
    order.find_map(|at| take(wish, stop, left.get(at)?, need))
}

fn candidate(account: &AccountEntry, now: i64) -> Candidate {
    let known = &account.known;
    Candidate {
        id: known.id,
        priority: account.wishes.priority,
        weight: account.wishes.weight,
        in_flight: known.in_flight(),
        max_concurrency: account.wishes.max_concurrency,
        served: known.served(),
        utilization: known.utilization(now),
    }
}

/// Takes an account if it can serve now.
fn take<'a>(wish: Wish<'a>, stop: Stop<'a>, account: &Arc<AccountEntry>, need: Need) -> Option<Chosen<'a>> {
    let (known, model) = (&account.known, stop.model(wish.asked));
    let was_refused = match account.fitness(wish.now) {
        Fitness::Able => false,
        Fitness::Refused if need == Need::Last && !account.is_renewable() => true,
        _ => return None,
    };
    let policy = &stop.provider.health;
    let may_stop = need != Need::Bound && policy.stop_at != StopAt::default();
    if may_stop && known.stopped_until(wish.now, policy).is_some() {
        return None;
    }
    let probe = match known.standing(model, wish.now) {
        Standing::Open => None,
        Standing::HalfOpen => Some(known.claim_probe(model, wish.now)?),
        Standing::Closed { why, .. } if is_worth_a_try(why, need) => None,
        Standing::Closed { .. } => return None,
    };
    let slot = known.take_slot(account.wishes.max_concurrency)?;
    Some(Chosen { stop, account: Arc::clone(account), slot, probe, was_refused, kept: None })
}

/// Whether an account that rests is asked all the same.
fn is_worth_a_try(why: Why, need: Need) -> bool {
    match why {
        // It says nothing of the account: a session that is on it is worth more.
        Why::Overloaded => need != Need::Fresh,
        // Nothing is won by refusing what nobody else can serve, and the vendor never said until when.
        Why::Failing | Why::Forbidden | Why::Throttled => need == Need::Last,
        Why::Limit | Why::ToldToWait | Why::Unauthorized => false,
    }
}

/// Whether an account that cannot serve a request now soon will: its session stays.
fn comes_back(account: &AccountEntry, model: &str, now: i64) -> bool {
    match account.fitness(now) {
        Fitness::Able => {}
        Fitness::Refused | Fitness::Expired => return account.is_renewable(),
        Fitness::Missing | Fitness::Disabled => return false,
    }
    match account.known.standing(model, now) {
        Standing::Open | Standing::HalfOpen => true,
        Standing::Closed { why: Why::Overloaded | Why::Throttled | Why::Failing, .. } => true,
        Standing::Closed { why: Why::ToldToWait, until } => {
            until.is_some_and(|until| until.saturating_sub(now) <= SHORT_WAIT_SECONDS)
        }
        Standing::Closed { why: Why::Limit | Why::Unauthorized | Why::Forbidden, .. } => false,
    }
}

/// Why no account can serve, for the client.
pub(super) fn nobody(wish: Wish<'_>) -> Refusal {
    let mut eligible = 0;
    let mut first: Option<(Rest, &AccountEntry)> = None;
    for stop in wish.way.stops() {
        for account in stop.provider.accounts.iter().filter(|account| wish.may(account)) {
            let Some(rest) = rest(stop, account, wish) else { continue };
            eligible += 1;
            let is_earlier = first
                .is_none_or(|(known, _)| rest.until.unwrap_or(i64::MAX) < known.until.unwrap_or(i64::MAX));
            if is_earlier {
                first = Some((rest, account));
            }
        }
    }
    let Some((Rest { until, why, is_limit }, account)) = first else {
        let accounts = wish.way.stops().flat_map(|stop| &stop.provider.accounts);
        let reports = accounts.filter(|account| wish.may(account)).map(|account| account.report(wish.now));
        return Refusal::NoAccount(reports.collect());
    };
    Refusal::NoneLeft(Box::new(NoneLeft {
        model: wish.asked.to_owned(),
        eligible,
        first: (account.provider.to_string(), account.name.to_string()),
        why,
        is_limit,
        returns_at: until,
        now: wish.now,
    }))
}

/// Why an account that may serve a request does not now.
#[derive(Clone, Copy)]
struct Rest {
    /// In Unix seconds, where it is known.
    until: Option<i64>,
    why: &'static str,
    is_limit: bool,
}

/// Nothing for an account that cannot serve at all.
fn rest(stop: Stop<'_>, account: &AccountEntry, wish: Wish<'_>) -> Option<Rest> {
    let soon = Some(wish.now.saturating_add(1));
    match account.fitness(wish.now) {
        Fitness::Able => {}
        Fitness::Refused | Fitness::Expired if account.is_renewable() => {
            return Some(Rest { until: soon, why: "waits for a new credential", is_limit: false });
        }
        Fitness::Refused | Fitness::Expired | Fitness::Missing | Fitness::Disabled => return None,
    }
    let (known, policy) = (&account.known, &stop.provider.health);
    Some(match known.standing(stop.model(wish.asked), wish.now) {
        Standing::Closed { until, why } => {
            let is_limit = matches!(why, Why::Limit | Why::ToldToWait | Why::Throttled);
            Rest { until, why: why.as_str(), is_limit }
        }
        Standing::Open | Standing::HalfOpen => match known.stopped_until(wish.now, policy) {
            Some(at) => Rest { until: Some(at), why: "takes no new sessions", is_limit: true },
            None => Rest { until: soon, why: "serves as many requests as it may", is_limit: false },
        },
    })
}

impl<'a> Wish<'a> {
    /// Whether the token lets an account serve it.
    pub(super) fn may(self, account: &AccountEntry) -> bool {
        self.way.pin().is_none_or(|pin| *account.name == *pin)
    }

    /// Where the request's session is remembered at a provider, if it has one and the route remembers any.
    fn home(self, stop: Stop<'a>) -> Option<(&'a Sessions, SessionKey)> {
        let sessions = self.way.route.sessions.as_deref()?;
        let (session, model) = (self.session?, stop.model(self.asked));
        Some((sessions, SessionKey::of(self.way.subject(), &stop.provider.name, model, session)))
    }
}

impl<'a> Chosen<'a> {
    /// An account with a new credential, if it can serve.
    pub(super) fn renewed(wish: Wish<'a>, stop: Stop<'a>, account: &Arc<AccountEntry>) -> Option<Self> {
        take(wish, stop, account, Need::Bound)
    }

    /// Forgets the session if it is on another account than the request.
    fn unless_moved(mut self) -> Self {
        let id = self.account.known.id;
        self.kept = self.kept.filter(|kept| kept.seen.account == id);
        self
    }
}

impl Kept<'_> {
    /// The account served the request.
    pub(super) fn served(self, worker: &Worker, now: i64) {
        if let Some(step) = self.sessions.keep(self.key, self.seen, now) {
            worker.metrics.affinity(step);
        }
    }
}
