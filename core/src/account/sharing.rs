//! What replicas of one proxy tell each other of how an account fares.
//!
//! Each tells what its own answers [changed](news) and [hears](Health::hear) what the others tell, all in one order.
//! A rest that is heard of never ends sooner than it would have; only its end, which one request has shown, and an
//! owner's word do that. How full windows are, faults, however many, and what the vendor said of a credential are
//! each replica's own: one whose own network is broken must not put accounts to rest for all.

use super::health::{Change, Cooldown, Health, Policy, Why};
use super::{Scope, known_family};

/// The version of the form in which a rest is written. What has any other is not read.
const VERSION: u32 = 1;

/// Longest name of a model that others are told of, in bytes: vendors' are far shorter.
const MAX_MODEL_BYTES: usize = 256;

/// What a replica tells of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// It rests.
    Rests(Rest),
    /// A rest that ended at `until`, in Unix seconds, at the latest is over: a request has shown it.
    Over {
        /// For what it rested.
        scope: Scope,
        /// Why.
        why: Why,
        /// When it was to end.
        until: i64,
    },
    /// Its owner has forgotten every reason not to use it.
    Forgotten,
}

/// That an account rests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rest {
    /// For what.
    pub scope: Scope,
    /// Why.
    pub why: Why,
    /// Until when, exclusive, in Unix seconds.
    pub until: i64,
    /// How often it was put to rest without a success in between.
    pub strikes: u32,
    /// Whether its end is one that the vendor stated; otherwise one request has to show it.
    pub is_stated: bool,
}

/// A text that is no rest of the version that is read here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a rest of version {VERSION}")]
pub struct Unreadable;

/// What there is to tell of an account that rested like `before` and rests like `after`.
pub fn news(before: &[Rest], after: &[Rest]) -> Vec<News> {
    let of = |rests: &[Rest], rest: &Rest| {
        rests.iter().find(|other| other.scope == rest.scope && other.why == rest.why).map(|other| other.until)
    };
    let ended = before.iter().filter(|rest| of(after, rest).is_none());
    let over = ended.map(|Rest { scope, why, until, .. }| News::Over {
        scope: scope.clone(),
        why: *why,
        until: *until,
    });
    let begun = after.iter().filter(|rest| of(before, rest).is_none_or(|until| until < rest.until));
    over.chain(begun.cloned().map(News::Rests)).collect()
}

impl Health {
    /// Every rest that others can hear of, those included that nothing has shown to be over.
    pub fn rests(&self) -> Vec<Rest> {
        let is_told = |cooldown: &&Cooldown| match &cooldown.scope {
            Scope::Model(name) if name.len() > MAX_MODEL_BYTES => false,
            _ => WHYS.contains(&cooldown.why),
        };
        self.cooldowns.iter().filter(is_told).map(Rest::from).collect()
    }

    /// Learns at `now` (Unix seconds) what another replica tells. Gives the change of state that it made.
    pub fn hear(&mut self, news: &News, now: i64, policy: &Policy) -> Option<Change> {
        match news {
            News::Rests(rest) => self.hear_rest(rest, now, policy),
            News::Over { scope, why, until } => {
                let opened = Change::Opened { scope: scope.clone(), why: *why };
                self.end_rest(scope, *why, *until).then_some(opened)
            }
            News::Forgotten => {
                let longest = self.cooldowns(now).max_by_key(|cooldown| cooldown.until);
                let opened = longest.map(|c| Change::Opened { scope: c.scope.clone(), why: c.why });
                self.clear();
                opened
            }
        }
    }

    /// Ends a rest, unless it is longer than that; says whether there was one.
    fn end_rest(&mut self, scope: &Scope, why: Why, until: i64) -> bool {
        let before = self.cooldowns.len();
        self.cooldowns.retain(|c| c.scope != *scope || c.why != why || c.until > until);
        let is_ended = self.cooldowns.len() < before;
        if is_ended {
            self.failures = 0;
        }
        is_ended
    }

    fn hear_rest(&mut self, rest: &Rest, now: i64, policy: &Policy) -> Option<Change> {
        let Rest { scope, why, until, strikes, is_stated } = rest;
        let cap = now.saturating_add(policy.max_cooldown_seconds.into());
        let until = (*until).min(cap);
        let known = self.cooldowns.iter().find(|c| c.scope == *scope && c.why == *why);
        let known_until = known.map_or(now, |known| known.until);
        if until <= now || until <= known_until {
            return None;
        }
        let strikes = known.map_or(0, |known| known.strikes).max(*strikes);
        let (scope, why, is_stated) = (scope.clone(), *why, *is_stated);
        let closed = Change::Closed { scope: scope.clone(), until: Some(until), why };
        let is_news = known_until <= now;
        let is_kept = self.put(Cooldown { scope, until, why, strikes, is_stated, probe: None });
        (is_kept && is_news).then_some(closed)
    }
}

impl From<&Cooldown> for Rest {
    fn from(cooldown: &Cooldown) -> Self {
        let Cooldown { scope, until, why, strikes, is_stated, .. } = cooldown;
        Self { scope: scope.clone(), why: *why, until: *until, strikes: *strikes, is_stated: *is_stated }
    }
}

impl Rest {
    /// What it is called among those of its account, as text.
    pub fn name(&self) -> String {
        name(&self.scope, self.why)
    }

    /// The rest of it, as text; the version comes first and the end second.
    pub fn value(&self) -> String {
        let ending = if self.is_stated { "stated" } else { "guessed" };
        format!("{VERSION} {} {} {ending}", self.until, self.strikes)
    }

    /// What was written as a name and a value.
    ///
    /// # Errors
    /// When they are of another version, or none at all.
    pub fn read(name: &str, value: &str) -> Result<Self, Unreadable> {
        let (scope, why) = read_name(name)?;
        let parts: Vec<_> = value.split(' ').collect();
        let [version, until, strikes, ending] = parts[..] else { return Err(Unreadable) };
        if version.parse() != Ok(VERSION) {
            return Err(Unreadable);
        }
        let until = until.parse().ok().filter(|until| *until >= 0).ok_or(Unreadable)?;
        let strikes = strikes.parse().map_err(|_| Unreadable)?;
        let is_stated = match ending {
            "stated" => true,
            "guessed" => false,
            _ => return Err(Unreadable),
        };
        Ok(Self { scope, why, until, strikes, is_stated })
    }
}

/// What a rest for a scope and a reason is called, as text.
pub fn name(scope: &Scope, why: Why) -> String {
    // A model's name may have spaces, and is last.
    format!("{} {scope}", word(why))
}

/// The scope and the reason of what is [called](name) so.
///
/// # Errors
/// When nothing is.
pub fn read_name(name: &str) -> Result<(Scope, Why), Unreadable> {
    let (first, scope) = name.split_once(' ').ok_or(Unreadable)?;
    let why = WHYS.into_iter().find(|why| word(*why) == first).ok_or(Unreadable)?;
    let scope = match scope.split_once(' ') {
        None if scope == "account" => Scope::Account,
        Some(("family", name)) => Scope::Family(known_family(name.as_bytes()).ok_or(Unreadable)?),
        Some(("model", name)) if name.len() <= MAX_MODEL_BYTES => Scope::Model(name.into()),
        _ => return Err(Unreadable),
    };
    Ok((scope, why))
}

/// The reasons that others are told: the vendor's own words.
const WHYS: [Why; 5] = [Why::Limit, Why::ToldToWait, Why::Throttled, Why::Overloaded, Why::Forbidden];

fn word(why: Why) -> &'static str {
    match why {
        Why::Limit => "limit",
        Why::ToldToWait => "wait",
        Why::Throttled => "throttled",
        Why::Overloaded => "overloaded",
        Why::Unauthorized => "unauthorized",
        Why::Forbidden => "forbidden",
        Why::Failing => "failing",
    }
}

#[cfg(test)]
mod tests;
