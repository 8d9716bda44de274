//! Whether an account can be used for a model, from what its answers said.
//!
//! The rules, each for itself:
//!
//! * A limit that the vendor calls used up closes what it names (the account, a family, the model) until its
//!   reset and 1 to 30 s more. Nothing does while the vendor allows requests all the same, or while overage is
//!   usable and wanted. How full a limit is closes nothing.
//! * Any other time that a 429 states (`retry-after`, the reset of a plain limit) closes the model only.
//! * A 429 that states no time closes the model for at most a minute, and twice as long every time that it
//!   happens again after that; 529 the same from 1 s to 60 s.
//! * Faults of the vendor and of the way to it close the account when enough of them follow each other; 403
//!   does at once, and 401 until the credential changes.
//! * What was closed without a stated time lets one request through when its time is over. That one's answer
//!   opens it, or closes it for twice as long. After a 529 there is no such stage: it says nothing of the
//!   account.
//! * A success ends nothing before its time. A client's mistakes change nothing.

use serde::{Deserialize, Serialize};

use super::reading::{Reach, Reading, Status, Window};
use super::{Class, Scope};

/// At most so long after its reset a limit is tried again, in seconds: not all at once, and not before.
const MAX_SLACK_SECONDS: i64 = 30;

/// Longest first cooldown after a 429 that states no time, in seconds.
const MAX_FIRST_THROTTLE_SECONDS: i64 = 60;

/// Shortest and longest pause of a model after a 529, in seconds.
const OVERLOAD_SECONDS: (i64, i64) = (1, 60);

/// After this, in seconds, a probe that has not reported is given back.
const PROBE_SECONDS: i64 = 120;

/// What callers are told to wait, in seconds, while a probe is out.
const PROBE_WAIT_SECONDS: i64 = 5;

/// Most cooldowns of families and models; the one that ends first leaves.
const MAX_SCOPED: usize = 16;

/// How an account's answers are judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Policy {
    /// So many faults in a row close the account; 0 never.
    pub consecutive_failures: u32,
    /// The first cooldown where no time is stated, in seconds.
    pub cooldown_seconds: u32,
    /// The longest cooldown of any kind, in seconds. By default 8 days: the longest published window and a day.
    pub max_cooldown_seconds: u32,
    /// Whether `retry-after` is believed.
    pub honour_retry_after: bool,
    /// From which use on an account gets no new sessions.
    pub stop_at: StopAt,
    /// Whether to go on beyond the limits where the account pays for it.
    pub use_overage: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            cooldown_seconds: 60,
            max_cooldown_seconds: 691_200,
            honour_retry_after: true,
            stop_at: StopAt::default(),
            use_overage: true,
        }
    }
}

/// From which use of a window on an account gets no new sessions, in thousandths of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct StopAt {
    /// Of the window of five hours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub five_hour: Option<u32>,
    /// Of the window of seven days.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seven_day: Option<u32>,
}

/// How full the windows of an account are, in thousandths; unknown where nothing was heard since the reset.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Utilization {
    /// The window of five hours.
    pub five_hour: Option<u32>,
    /// The window of seven days.
    pub seven_day: Option<u32>,
}

impl Utilization {
    /// Of the fuller one; 0 if neither is known.
    pub fn fuller(&self) -> u32 {
        self.five_hour.max(self.seven_day).unwrap_or_default()
    }
}

/// What became of a request that went to an account.
#[derive(Debug, Clone, Copy)]
pub struct Event<'a> {
    /// The model that the vendor was asked for.
    pub model: &'a str,
    /// What came.
    pub outcome: Outcome<'a>,
}

/// What came of a request.
#[derive(Debug, Clone, Copy)]
pub enum Outcome<'a> {
    /// An answer that is no error.
    Served(&'a Reading),
    /// An error answer, or an error where a stream should begin.
    Refused {
        /// The HTTP status.
        status: u16,
        /// What it means.
        class: Class,
        /// What its head said.
        reading: &'a Reading,
    },
    /// None: no connection, a reset, or nothing in time.
    NoAnswer,
}

/// Why an account cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Why {
    /// A limit is used up, and its reset is known.
    Limit,
    /// The vendor said how long to wait.
    ToldToWait,
    /// The vendor said 429, and no time.
    Throttled,
    /// The vendor has no capacity for the model.
    Overloaded,
    /// The vendor said 401 to the credential.
    Unauthorized,
    /// The vendor said 403, for no reason that has to do with the request.
    Forbidden,
    /// Too many requests in a row failed.
    Failing,
}

impl Why {
    /// In words, to follow the name of an account.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Limit => "has used up a limit",
            Self::ToldToWait => "was told to wait",
            Self::Throttled => "was throttled",
            Self::Overloaded => "met a vendor without capacity",
            Self::Unauthorized => "has a credential that the vendor does not accept",
            Self::Forbidden => "is not permitted by the vendor",
            Self::Failing => "had too many failures in a row",
        }
    }
}

/// Whether an account can be used for a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It can.
    Open,
    /// By one request, which has to [claim](Health::claim_probe) it.
    HalfOpen,
    /// It cannot.
    Closed {
        /// Until when at least, in Unix seconds; unknown if only another credential helps.
        until: Option<i64>,
        /// What holds longest.
        why: Why,
    },
}

/// A change of state, for one line of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Something closed.
    Closed {
        /// What.
        scope: Scope,
        /// Until when, in Unix seconds; unknown if only another credential helps.
        until: Option<i64>,
        /// Why.
        why: Why,
    },
    /// Something that was closed serves again.
    Opened {
        /// What.
        scope: Scope,
        /// Why it had been closed.
        why: Why,
    },
}

/// A time in which an account is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cooldown {
    /// For what.
    pub scope: Scope,
    /// Until when, exclusive, in Unix seconds.
    pub until: i64,
    /// Why.
    pub why: Why,
    /// How often it was closed without a success in between.
    pub(super) strikes: u32,
    /// Whether its end is one that the vendor stated.
    pub(super) is_stated: bool,
    /// The request that tries whether it is over.
    pub(super) probe: Option<Probe>,
}

/// The one request that may try an account that is [half open](Standing::HalfOpen).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    number: u64,
    /// When it is free again, in Unix seconds.
    until: i64,
}

impl Cooldown {
    fn is_over(&self, now: i64) -> bool {
        self.until <= now
    }

    /// Whether one request has to show that it is over.
    fn needs_probe(&self) -> bool {
        !self.is_stated && self.why != Why::Overloaded
    }
}

/// What is known of one account.
#[derive(Debug, Clone, Default)]
pub struct Health {
    /// Those included that are over, and that no request has shown to be.
    pub(super) cooldowns: Vec<Cooldown>,
    is_unauthorized: bool,
    pub(super) failures: u32,
    probes: u64,
    five_hour: Fill,
    seven_day: Fill,
}

/// How full a window is until when.
#[derive(Debug, Clone, Copy, Default)]
struct Fill {
    utilization: u32,
    resets_at: i64,
}

impl Fill {
    fn observe(&mut self, window: &Window) {
        if let (Some(utilization), Some(resets_at)) = (window.utilization, window.resets_at) {
            *self = Self { utilization, resets_at };
        }
    }

    fn at(self, now: i64) -> Option<u32> {
        (self.resets_at > now).then_some(self.utilization)
    }
}

impl Health {
    /// Learns what became of a request at `now` (Unix seconds); `random` is any number. Gives the widest change
    /// of state that it made.
    pub fn note(&mut self, event: &Event<'_>, now: i64, random: u64, policy: &Policy) -> Option<Change> {
        let slack = 1 + (random % MAX_SLACK_SECONDS as u64) as i64;
        Noting { health: self, model: event.model, now, slack, policy }.note(event.outcome)
    }

    /// Whether nothing is held against the account: then every model is [open](Standing::Open).
    pub fn has_no_trouble(&self) -> bool {
        self.cooldowns.is_empty() && !self.is_unauthorized && self.failures == 0
    }

    /// Whether the account can be used for a model.
    pub fn standing(&self, model: &str, now: i64) -> Standing {
        if self.is_unauthorized {
            return Standing::Closed { until: None, why: Why::Unauthorized };
        }
        let covering = || self.cooldowns.iter().filter(|cooldown| cooldown.scope.covers(model));
        if let Some(longest) = covering().filter(|c| !c.is_over(now)).max_by_key(|c| c.until) {
            return Standing::Closed { until: Some(longest.until), why: longest.why };
        }
        let waiting = || covering().filter(|cooldown| cooldown.needs_probe());
        match waiting().find(|cooldown| cooldown.probe.is_some_and(|probe| probe.until > now)) {
            Some(probed) => {
                Standing::Closed { until: Some(now.saturating_add(PROBE_WAIT_SECONDS)), why: probed.why }
            }
            None if waiting().next().is_some() => Standing::HalfOpen,
            None => Standing::Open,
        }
    }

    /// Until when the account takes no new sessions because a window is as full as `policy` lets it become.
    pub fn stopped_until(&self, now: i64, policy: &Policy) -> Option<i64> {
        let stopped = |fill: Fill, at: Option<u32>| {
            let is_reached = at.zip(fill.at(now)).is_some_and(|(at, utilization)| utilization >= at);
            is_reached.then_some(fill.resets_at)
        };
        let StopAt { five_hour, seven_day } = policy.stop_at;
        stopped(self.five_hour, five_hour).max(stopped(self.seven_day, seven_day))
    }

    /// Takes the one request that may try a model of an account that is [half open](Standing::HalfOpen). Whoever
    /// has it [gives it back](Self::release_probe) once it has [noted](Self::note) what came, or if it was not
    /// sent; after two minutes it is free again in any case.
    pub fn claim_probe(&mut self, model: &str, now: i64) -> Option<Probe> {
        if self.standing(model, now) != Standing::HalfOpen {
            return None;
        }
        self.probes += 1;
        let probe = Probe { number: self.probes, until: now.saturating_add(PROBE_SECONDS) };
        let covering = self.cooldowns.iter_mut().filter(|cooldown| cooldown.scope.covers(model));
        covering.for_each(|cooldown| cooldown.probe = Some(probe));
        Some(probe)
    }

    /// Gives back a probe. Without a verdict since, another request may try.
    pub fn release_probe(&mut self, probe: Probe) {
        let held = self.cooldowns.iter_mut().filter(|cooldown| cooldown.probe == Some(probe));
        held.for_each(|cooldown| cooldown.probe = None);
    }

    /// The account has another credential: what the vendor said of the one before counts no more.
    pub fn credential_changed(&mut self) {
        self.is_unauthorized = false;
        self.cooldowns.retain(|cooldown| cooldown.why != Why::Forbidden);
    }

    /// Forgets every reason not to use the account, and says how many there were. How full its windows are
    /// stays known.
    pub fn clear(&mut self) -> usize {
        let cleared = self.cooldowns.len() + usize::from(self.is_unauthorized);
        self.cooldowns.clear();
        self.is_unauthorized = false;
        self.failures = 0;
        cleared
    }

    /// How full its windows are.
    pub fn utilization(&self, now: i64) -> Utilization {
        Utilization { five_hour: self.five_hour.at(now), seven_day: self.seven_day.at(now) }
    }

    /// The cooldowns that last.
    pub fn cooldowns(&self, now: i64) -> impl Iterator<Item = &Cooldown> {
        self.cooldowns.iter().filter(move |cooldown| !cooldown.is_over(now))
    }

    /// Keeps a cooldown in the place of the last one of its kind; says whether there was room for it.
    pub(super) fn put(&mut self, cooldown: Cooldown) -> bool {
        let is_same = |c: &&mut Cooldown| c.scope == cooldown.scope && c.why == cooldown.why;
        if let Some(known) = self.cooldowns.iter_mut().find(is_same) {
            *known = cooldown;
        } else if cooldown.scope == Scope::Account || self.has_room(cooldown.until) {
            self.cooldowns.push(cooldown);
        } else {
            return false;
        }
        true
    }

    /// Whether the vendor said 401 to the credential.
    pub fn is_unauthorized(&self) -> bool {
        self.is_unauthorized
    }

    /// Makes room for a cooldown of a family or model that ends at `until`, unless that is the first to end.
    fn has_room(&mut self, until: i64) -> bool {
        let is_scoped = |cooldown: &Cooldown| cooldown.scope != Scope::Account;
        if self.cooldowns.iter().filter(|cooldown| is_scoped(cooldown)).count() < MAX_SCOPED {
            return true;
        }
        let scoped = self.cooldowns.iter().enumerate().filter(|(_, cooldown)| is_scoped(cooldown));
        let first = scoped.min_by_key(|(_, cooldown)| cooldown.until);
        match first.map(|(at, cooldown)| (at, cooldown.until)) {
            Some((at, ends)) if ends <= until => {
                self.cooldowns.swap_remove(at);
                true
            }
            _ => false,
        }
    }
}

/// One event while it is learned from.
struct Noting<'a> {
    health: &'a mut Health,
    model: &'a str,
    now: i64,
    slack: i64,
    policy: &'a Policy,
}

impl Noting<'_> {
    fn note(mut self, outcome: Outcome<'_>) -> Option<Change> {
        match outcome {
            Outcome::Served(reading) => {
                self.observe(reading);
                let opened = self.succeed();
                self.close_limits(reading, true).or(opened)
            }
            Outcome::Refused { status, class, reading } => {
                self.observe(reading);
                self.refused(status, class, reading)
            }
            Outcome::NoAnswer => self.fail(),
        }
    }

    fn observe(&mut self, reading: &Reading) {
        self.health.five_hour.observe(reading.five_hour());
        self.health.seven_day.observe(reading.seven_day());
    }

    fn refused(&mut self, status: u16, class: Class, reading: &Reading) -> Option<Change> {
        match class {
            Class::Client | Class::ContextTooLong => None,
            Class::Overload => self.back_off(self.this_model(), Why::Overloaded),
            Class::Quota => {
                let limits = self.close_limits(reading, false);
                let stated = self.close_stated(reading);
                let change = limits.or(stated);
                if self.is_closed() { change } else { self.back_off(self.this_model(), Why::Throttled) }
            }
            Class::Auth => {
                let limits = self.close_limits(reading, false);
                let closed = if status == 401 {
                    self.unauthorized()
                } else {
                    self.back_off(Scope::Account, Why::Forbidden)
                };
                closed.or(limits)
            }
            Class::Unknown => {
                let limits = self.close_limits(reading, false);
                self.fail().or(limits)
            }
        }
    }

    /// Closes what the vendor's windows call used up, each until its own reset.
    fn close_limits(&mut self, reading: &Reading, served: bool) -> Option<Change> {
        let is_allowed = reading.overall.is_some_and(|status| status != Status::Rejected);
        if is_allowed || self.goes_beyond(reading) {
            return None;
        }
        let is_rejected = reading.overall.is_some();
        // The overall reset stands in for one that is missing, and for windows that were not named.
        let overall = reading.resets_at.filter(|_| is_rejected);
        let mut account = None;
        let mut change = None;
        let mut is_explained = false;
        for window in reading.windows().filter(|window| window.is_rejected()) {
            is_explained = true;
            let Some(until) = window.resets_at.or(overall) else { continue };
            let closed = match window.name.reach() {
                Reach::Account => {
                    account = account.max(Some(until));
                    None
                }
                Reach::Family(name) => self.close(Scope::Family(name), until, Why::Limit),
                // What was just served is not what an unknown window is about.
                Reach::Model if served && !is_rejected => None,
                Reach::Model => self.close(self.this_model(), until, Why::Limit),
            };
            change = change.or(closed);
        }
        if let Some(until) = overall.filter(|_| !is_explained) {
            let is_well = [reading.five_hour(), reading.seven_day()].iter().any(|w| w.status.is_some());
            let scope = if is_well { self.this_model() } else { Scope::Account };
            change = self.close(scope, until, Why::Limit);
        }
        account.and_then(|until| self.close(Scope::Account, until, Why::Limit)).or(change)
    }

    /// Whether the account can be used although its limits are used up.
    fn goes_beyond(&self, reading: &Reading) -> bool {
        self.policy.use_overage && reading.overage.is_usable()
    }

    /// Closes the model for as long as a 429 states beside its windows.
    fn close_stated(&mut self, reading: &Reading) -> Option<Change> {
        let is_beyond = reading.overall == Some(Status::Rejected) && self.goes_beyond(reading);
        if is_beyond {
            return None;
        }
        let wait = reading.retry_after_seconds.filter(|_| self.policy.honour_retry_after);
        let wait = wait.map(|seconds| self.now.saturating_add(seconds.into()));
        let says_nothing = reading.overall.is_none() && reading.windows().all(|w| w.status.is_none());
        let overall = reading.resets_at.filter(|_| says_nothing);
        let until = wait.max(reading.spent_until).max(overall)?;
        let is_covered = |c: &Cooldown| c.scope.covers(self.model) && c.is_stated && c.until >= until;
        if self.health.cooldowns.iter().any(is_covered) {
            return None;
        }
        self.close(self.this_model(), until, Why::ToldToWait)
    }

    fn unauthorized(&mut self) -> Option<Change> {
        let was = std::mem::replace(&mut self.health.is_unauthorized, true);
        let change = Change::Closed { scope: Scope::Account, until: None, why: Why::Unauthorized };
        (!was).then_some(change)
    }

    /// One more fault in a row. Where a probe is due, one is enough.
    fn fail(&mut self) -> Option<Change> {
        self.health.failures = self.health.failures.saturating_add(1);
        let is_due = |c: &Cooldown| c.needs_probe() && c.is_over(self.now) && c.scope.covers(self.model);
        let due: Vec<_> = self.health.cooldowns.iter().filter(|c| is_due(c)).cloned().collect();
        let closed_again =
            due.into_iter().filter_map(|Cooldown { scope, why, .. }| self.back_off(scope, why));
        let closed_again = closed_again.fold(None, |widest, change| widest.or(Some(change)));
        let enough = self.policy.consecutive_failures;
        if enough == 0 || self.health.failures < enough {
            return closed_again;
        }
        self.back_off(Scope::Account, Why::Failing).or(closed_again)
    }

    /// The account served the model: what was closed for it and is over is forgotten.
    fn succeed(&mut self) -> Option<Change> {
        self.health.failures = 0;
        let (model, now) = (self.model, self.now);
        let mut opened: Option<Cooldown> = None;
        self.health.cooldowns.retain(|cooldown| {
            let is_forgotten = cooldown.is_over(now) && cooldown.scope.covers(model);
            if is_forgotten && opened.as_ref().is_none_or(|other| other.scope != Scope::Account) {
                opened = Some(cooldown.clone());
            }
            !is_forgotten
        });
        opened.map(|Cooldown { scope, why, .. }| Change::Opened { scope, why })
    }

    fn is_closed(&self) -> bool {
        let is_closing = |c: &Cooldown| c.scope.covers(self.model) && !c.is_over(self.now);
        self.health.is_unauthorized || self.health.cooldowns.iter().any(is_closing)
    }

    fn this_model(&self) -> Scope {
        Scope::Model(self.model.into())
    }

    /// Closes until a time that the vendor stated, unless it is closed that long.
    fn close(&mut self, scope: Scope, stated: i64, why: Why) -> Option<Change> {
        if stated <= self.now {
            return None;
        }
        let cap = self.now.saturating_add(self.policy.max_cooldown_seconds.into());
        let until = stated.saturating_add(self.slack).min(cap);
        let known = self.health.cooldowns.iter().find(|c| c.scope == scope && c.why == why);
        let known_until = known.map_or(self.now, |known| known.until);
        if known_until >= until.min(stated) {
            return None;
        }
        let is_news = known_until <= self.now || until - known_until > MAX_SLACK_SECONDS;
        let is_stated = until >= stated;
        let change = self.put(Cooldown { scope, until, why, strikes: 0, is_stated, probe: None });
        change.filter(|_| is_news)
    }

    /// Closes for a time that doubles with every strike, unless it is closed still.
    fn back_off(&mut self, scope: Scope, why: Why) -> Option<Change> {
        let known = self.health.cooldowns.iter().find(|c| c.scope == scope && c.why == why);
        if known.is_some_and(|known| !known.is_over(self.now)) {
            return None;
        }
        let cooldown = i64::from(self.policy.cooldown_seconds);
        let (first, most) = match why {
            Why::Overloaded => OVERLOAD_SECONDS,
            Why::Throttled => (cooldown.min(MAX_FIRST_THROTTLE_SECONDS), i64::MAX),
            _ => (cooldown, i64::MAX),
        };
        let before = known.map_or(0, |known| known.strikes);
        let lasts = first.saturating_mul(1 << before.min(32));
        let lasts = lasts.min(most).min(self.policy.max_cooldown_seconds.into());
        let (until, strikes) = (self.now.saturating_add(lasts), before.saturating_add(1));
        self.put(Cooldown { scope, until, why, strikes, is_stated: false, probe: None })
    }

    fn put(&mut self, cooldown: Cooldown) -> Option<Change> {
        let Cooldown { until, why, ref scope, .. } = cooldown;
        let change = Change::Closed { scope: scope.clone(), until: Some(until), why };
        self.health.put(cooldown).then_some(change)
    }
}

#[cfg(test)]
mod tests;
