//! What to do next for one federated identity.
//!
//! Whoever drives an [`Exchanger`] performs the [`Action`] it was given and reports the [`Event`] that came of it,
//! one after the other. There is nothing to store and nothing to lose: an exchange that came to nothing is tried
//! again, in seconds where the endpoint or the identity provider is in trouble, in minutes to an hour where the
//! vendor does not accept the identity, because only a person can change that.
//!
//! The vendor takes an identity token once, if it has an id of its own. One that was exchanged before and is refused
//! now says nothing of the identity: the next token is waited for.

use std::fmt;

use super::{Assertion, Denied};
use crate::credential::Credential;
use crate::oauth::plan::{Demands, backoff_ms};
use crate::oauth::{Answer, Fingerprint, Plan, Renewed, Trouble};
use crate::secret::Secret;

/// When to look whether there is another identity token than the one that was used up.
const LOOK_AGAIN_MS: i64 = 10_000;

/// First wait after the vendor did not accept the identity, and the longest.
const DENIED_MS: (i64, i64) = (60_000, 3_600_000);

/// What has happened.
#[derive(Debug)]
pub enum Event {
    /// The identity token was asked for: here it is, or why there is none, for a person and without any part of it.
    Read(Result<Assertion, String>),
    /// What came of the post.
    Answered(Answer<Denied>),
    /// The time that was waited for has come.
    Due,
    /// The vendor has refused this access token.
    Demanded(Fingerprint),
    /// A person wants a new access token, or has changed what was in the way.
    Asked,
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Get the newest identity token: [`Event::Read`].
    Read,
    /// Exchange it: [`Event::Answered`].
    Post(Assertion),
    /// Wait for [`Event::Due`], [`Event::Demanded`] or [`Event::Asked`].
    Wait {
        /// When it is due, in Unix milliseconds.
        until_ms: i64,
    },
}

/// An access token that an identity was exchanged for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obtained {
    /// What goes out to the vendor.
    pub access_token: Secret,
    /// When it ends, in Unix seconds.
    pub expires_at: i64,
    /// When it was made, in Unix seconds.
    pub obtained_at: i64,
}

/// How an identity stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It is being exchanged.
    Underway,
    /// It will be exchanged again before its access token ends.
    Planned,
    /// It could not be exchanged, for a reason that may pass.
    Delayed(Hindrance),
    /// The vendor does not accept it. It is tried again, but seldom.
    Denied(Denied),
}

/// Why an exchange came to nothing, where that says nothing of the identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hindrance {
    /// There is no identity token.
    NoAssertion(String),
    /// The identity token that there is was exchanged before.
    UsedUp,
    /// The endpoint has not decided.
    Endpoint(Trouble),
}

impl fmt::Display for Hindrance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAssertion(why) => f.write_str(why),
            Self::UsedUp => {
                f.write_str("the vendor takes an identity token once, and there is no newer one yet")
            }
            Self::Endpoint(trouble) => trouble.fmt(f),
        }
    }
}

/// The state of one identity.
#[derive(Debug)]
pub struct Exchanger {
    plan: Plan,
    obtained: Option<Obtained>,
    /// What is posted now, or was posted last.
    posted: Option<Fingerprint>,
    /// The identity token that the present access token was made of.
    exchanged: Option<Fingerprint>,
    is_underway: bool,
    /// Somebody cannot wait until it is due.
    is_wanted: bool,
    demands: Demands,
    obstacle: Option<Obstacle>,
    /// Attempts in a row that failed as the obstacle says.
    attempts: u32,
    /// Nothing is asked for before.
    not_before_ms: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Obstacle {
    Hindrance(Hindrance),
    Denied(Denied),
}

impl Exchanger {
    /// An identity and the first thing to do. `known` is an access token of it that is served already. Of the plan
    /// only counts when an access token is due.
    pub fn start(plan: Plan, known: Option<Obtained>, now_ms: i64) -> (Self, Action) {
        let mut exchanger = Self {
            plan,
            obtained: known,
            posted: None,
            exchanged: None,
            is_underway: false,
            is_wanted: false,
            demands: Demands::default(),
            obstacle: None,
            attempts: 0,
            not_before_ms: i64::MIN,
        };
        let action = exchanger.rest(now_ms);
        (exchanger, action)
    }

    /// What to do after `event` at `now_ms` (Unix milliseconds).
    pub fn next(&mut self, event: Event, now_ms: i64) -> Action {
        match event {
            Event::Read(Ok(assertion)) => return self.read(assertion, now_ms),
            Event::Read(Err(why)) => self.hindered(Hindrance::NoAssertion(why), None, now_ms),
            Event::Answered(answer) => self.answered(answer, now_ms),
            Event::Demanded(token) => self.demand(token, now_ms),
            Event::Asked => {
                self.is_wanted = true;
                if matches!(self.obstacle, Some(Obstacle::Denied(_))) {
                    self.not_before_ms = i64::MIN;
                }
            }
            Event::Due => {}
        }
        self.rest(now_ms)
    }

    /// How it stands.
    pub fn standing(&self) -> Standing {
        match &self.obstacle {
            Some(Obstacle::Denied(why)) => Standing::Denied(*why),
            Some(Obstacle::Hindrance(why)) => Standing::Delayed(why.clone()),
            None if self.is_underway => Standing::Underway,
            None => Standing::Planned,
        }
    }

    /// The access token, if there ever was one.
    pub fn obtained(&self) -> Option<&Obtained> {
        self.obtained.as_ref()
    }

    fn read(&mut self, assertion: Assertion, now_ms: i64) -> Action {
        let (token, is_used_up) = (assertion.fingerprint(), self.is_used_up());
        if is_used_up && self.posted == Some(token) {
            self.hindered(Hindrance::UsedUp, None, now_ms);
            return self.rest(now_ms);
        }
        self.posted = Some(token);
        Action::Post(assertion)
    }

    fn is_used_up(&self) -> bool {
        self.obstacle == Some(Obstacle::Hindrance(Hindrance::UsedUp))
    }

    fn answered(&mut self, answer: Answer<Denied>, now_ms: i64) {
        match answer {
            Answer::Renewed(renewed) => self.renewed(renewed, now_ms),
            Answer::Refused(Denied::Identity) if self.posted.is_some() && self.posted == self.exchanged => {
                self.hindered(Hindrance::UsedUp, None, now_ms);
            }
            Answer::Refused(why) => {
                let (first, longest) = DENIED_MS;
                let attempts = self.failed(Obstacle::Denied(why));
                let wait_ms = first.saturating_mul(1 << attempts.saturating_sub(1).min(16)).min(longest);
                self.not_before_ms = now_ms.saturating_add(wait_ms);
            }
            Answer::TryLater { trouble, after_seconds } => {
                self.hindered(Hindrance::Endpoint(trouble), after_seconds, now_ms);
            }
        }
    }

    fn renewed(&mut self, renewed: Renewed, now_ms: i64) {
        let Renewed { access_token, expires_at, .. } = renewed;
        self.obtained = Some(Obtained { access_token, expires_at, obtained_at: now_ms.div_euclid(1_000) });
        self.exchanged = self.posted;
        (self.obstacle, self.attempts, self.is_wanted) = (None, 0, false);
        self.not_before_ms = i64::MIN;
    }

    fn hindered(&mut self, why: Hindrance, after_seconds: Option<i64>, now_ms: i64) {
        let is_rate_limited = why == Hindrance::Endpoint(Trouble::RateLimited);
        let is_used_up = why == Hindrance::UsedUp;
        let attempts = self.failed(Obstacle::Hindrance(why));
        let wait_ms = match after_seconds {
            Some(seconds) => seconds.saturating_mul(1_000),
            None if is_used_up => LOOK_AGAIN_MS,
            None => backoff_ms(attempts, is_rate_limited),
        };
        self.not_before_ms = now_ms.saturating_add(wait_ms);
    }

    /// Notes what is in the way, and says for the how-manieth time in a row anything is.
    fn failed(&mut self, obstacle: Obstacle) -> u32 {
        self.attempts = self.attempts.saturating_add(1);
        self.obstacle = Some(obstacle);
        self.attempts
    }

    /// At most one exchange follows from any number of refusals of one access token.
    fn demand(&mut self, token: Fingerprint, now_ms: i64) {
        let current = self.obtained.as_ref().map(|obtained| Fingerprint::of(&obtained.access_token));
        let age_ms =
            self.obtained.as_ref().map(|obtained| now_ms - obtained.obtained_at.saturating_mul(1_000));
        if let Some(wait_ms) = self.demands.take(token, current, age_ms) {
            self.is_wanted = true;
            self.not_before_ms = self.not_before_ms.max(now_ms.saturating_add(wait_ms));
        }
    }

    fn rest(&mut self, now_ms: i64) -> Action {
        let due_ms = match &self.obtained {
            Some(obtained) if !self.is_wanted => {
                let lifetime = obtained.expires_at.saturating_sub(obtained.obtained_at);
                let ends_ms = obtained.expires_at.saturating_mul(1_000);
                self.plan.due_ms(ends_ms, Some(lifetime.saturating_mul(1_000)))
            }
            _ => now_ms,
        };
        let until_ms = due_ms.max(self.not_before_ms);
        self.is_underway = until_ms <= now_ms;
        if self.is_underway { Action::Read } else { Action::Wait { until_ms } }
    }
}

impl Obtained {
    /// The access token as a proxy uses it.
    pub fn credential(&self) -> Credential {
        Credential::OAuth { access_token: self.access_token.clone(), expires_at: Some(self.expires_at) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oauth::Jitter;

    const START: i64 = 1_800_000_000;
    const START_MS: i64 = START * 1_000;
    const MINUTE_MS: i64 = 60_000;

    fn plan() -> Plan {
        let (renews, before_ms) = (true, Plan::BEFORE_DEFAULT_MS);
        Plan { renews, before_ms, jitter: Jitter::of("claude", "main"), serves_unstored: true }
    }

    fn started() -> Exchanger {
        let (exchanger, action) = Exchanger::start(plan(), None, START_MS);
        assert_eq!((action, exchanger.standing()), (Action::Read, Standing::Underway));
        exchanger
    }

    fn assertion(number: u32) -> Assertion {
        Assertion::read(&format!("a.b.{number}")).unwrap()
    }

    fn read(number: u32) -> Event {
        Event::Read(Ok(assertion(number)))
    }

    /// An access token called `name` that lives for an hour.
    fn granted(name: &str, now_ms: i64) -> Event {
        Event::Answered(Answer::Renewed(Renewed {
            access_token: Secret::new(name),
            refresh_token: None,
            expires_at: now_ms / 1_000 + 3_600,
            scopes: Vec::new(),
        }))
    }

    fn denied() -> Event {
        Event::Answered(Answer::Refused(Denied::Identity))
    }

    fn wait_ms(action: &Action, now_ms: i64) -> i64 {
        let Action::Wait { until_ms } = action else { panic!("{action:?}") };
        until_ms - now_ms
    }

    #[test]
    fn identity_is_exchanged_at_once_and_again_with_a_fifth_to_three_tenths_of_the_life_left() {
        let mut exchanger = started();
        assert_eq!(exchanger.next(read(1), START_MS), Action::Post(assertion(1)));
        let action = exchanger.next(granted("one", START_MS), START_MS);
        let wait_ms = wait_ms(&action, START_MS);
        assert!((42 * MINUTE_MS..=48 * MINUTE_MS).contains(&wait_ms), "{wait_ms}");
        assert_eq!(exchanger.standing(), Standing::Planned);
        let expected =
            Credential::OAuth { access_token: Secret::new("one"), expires_at: Some(START + 3_600) };
        assert_eq!(exchanger.obtained().map(Obtained::credential), Some(expected));
        assert_eq!(exchanger.next(Event::Due, START_MS + wait_ms), Action::Read);
    }

    #[test]
    fn access_token_that_is_served_already_is_not_exchanged_before_it_is_due() {
        let known = Obtained {
            access_token: Secret::new("one"),
            expires_at: START + 3_000,
            obtained_at: START - 600,
        };
        let (exchanger, action) = Exchanger::start(plan(), Some(known.clone()), START_MS);
        assert!(wait_ms(&action, START_MS) > 30 * MINUTE_MS, "{action:?}");
        assert_eq!((exchanger.standing(), exchanger.obtained()), (Standing::Planned, Some(&known)));
        let (_, action) = Exchanger::start(plan(), Some(known), START_MS + 45 * MINUTE_MS);
        assert_eq!(action, Action::Read);
    }

    #[test]
    fn refused_access_token_is_exchanged_once_however_many_say_so() {
        let mut exchanger = started();
        exchanger.next(read(1), START_MS);
        exchanger.next(granted("one", START_MS), START_MS);
        let (now_ms, one) = (START_MS + 10 * MINUTE_MS, Fingerprint::of(&Secret::new("one")));
        let other = Fingerprint::of(&Secret::new("other"));
        assert!(matches!(exchanger.next(Event::Demanded(other), now_ms), Action::Wait { .. }));
        assert_eq!(exchanger.next(Event::Demanded(one), now_ms), Action::Read);
        exchanger.next(read(2), now_ms);
        let action = exchanger.next(granted("two", now_ms), now_ms);
        assert!(wait_ms(&action, now_ms) > 0);
        for _ in 0..3 {
            let again = exchanger.next(Event::Demanded(one), now_ms);
            assert_eq!(again, action, "a token that is replaced is no reason");
        }
    }

    #[test]
    fn identity_that_is_not_accepted_is_tried_seldom_and_heals() {
        let (mut exchanger, mut now_ms) = (started(), START_MS);
        let mut waits = Vec::new();
        for attempt in 0..8 {
            assert_eq!(exchanger.next(read(attempt), now_ms), Action::Post(assertion(attempt)));
            let action = exchanger.next(denied(), now_ms);
            assert_eq!(exchanger.standing(), Standing::Denied(Denied::Identity));
            waits.push(wait_ms(&action, now_ms) / MINUTE_MS);
            now_ms += wait_ms(&action, now_ms);
            assert_eq!(exchanger.next(Event::Due, now_ms), Action::Read);
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        exchanger.next(read(9), now_ms);
        exchanger.next(granted("one", now_ms), now_ms);
        assert_eq!(exchanger.standing(), Standing::Planned);
    }

    #[test]
    fn person_who_asks_need_not_wait_for_what_was_not_accepted_but_for_the_endpoint() {
        let mut exchanger = started();
        exchanger.next(read(1), START_MS);
        exchanger.next(denied(), START_MS);
        assert_eq!(exchanger.next(Event::Asked, START_MS), Action::Read);
        exchanger.next(read(2), START_MS);
        let limited = Answer::TryLater { trouble: Trouble::RateLimited, after_seconds: Some(7) };
        exchanger.next(Event::Answered(limited), START_MS);
        let action = exchanger.next(Event::Asked, START_MS);
        assert_eq!(wait_ms(&action, START_MS), 7_000);
        let why = Hindrance::Endpoint(Trouble::RateLimited);
        assert_eq!(exchanger.standing(), Standing::Delayed(why));
    }

    #[test]
    fn trouble_is_waited_out_longer_each_time() {
        let (mut exchanger, mut now_ms) = (started(), START_MS);
        let mut waits = Vec::new();
        for failure in [
            Event::Read(Err("no ServiceAccount".to_owned())),
            Event::Read(Err("no ServiceAccount".to_owned())),
            Event::Answered(Answer::later(Trouble::Status(500))),
        ] {
            let action = exchanger.next(failure, now_ms);
            waits.push(wait_ms(&action, now_ms));
            now_ms += wait_ms(&action, now_ms);
            assert_eq!(exchanger.next(Event::Due, now_ms), Action::Read);
        }
        assert_eq!(waits, [5_000, 10_000, 20_000]);
    }

    #[test]
    fn identity_token_that_was_exchanged_before_is_not_posted_again_once_refused() {
        let mut exchanger = started();
        exchanger.next(read(1), START_MS);
        exchanger.next(granted("one", START_MS), START_MS);
        let now_ms = START_MS + 10 * MINUTE_MS;
        exchanger.next(Event::Demanded(Fingerprint::of(&Secret::new("one"))), now_ms);
        assert_eq!(exchanger.next(read(1), now_ms), Action::Post(assertion(1)), "it may have no id");
        let mut action = exchanger.next(denied(), now_ms);
        for look in 1..=20 {
            let now_ms = now_ms + look * LOOK_AGAIN_MS;
            assert_eq!(action, Action::Wait { until_ms: now_ms }, "look {look}");
            assert_eq!(exchanger.standing(), Standing::Delayed(Hindrance::UsedUp));
            assert_eq!(exchanger.next(Event::Due, now_ms), Action::Read);
            action = exchanger.next(read(1), now_ms);
        }
        exchanger.next(Event::Due, now_ms + 210_000);
        assert_eq!(exchanger.next(read(2), now_ms + 210_000), Action::Post(assertion(2)));
        exchanger.next(denied(), now_ms + 210_000);
        assert_eq!(exchanger.standing(), Standing::Denied(Denied::Identity), "a new one was refused");
    }
}
