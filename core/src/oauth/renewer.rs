//! What to do next for one login.
//!
//! Whoever drives a [`Renewer`] performs the [`Action`] it was given and reports the [`Event`] that came of
//! it, one after the other. That alone makes one call per rotation of however many requests ask; between
//! processes, the exclusive read does.
//!
//! # Guarantees
//! * Between the endpoint's answer and the store there is nothing: [`Action::Store`] follows at once.
//! * Nothing is published that is not stored, unless [`Plan::serves_unstored`].
//! * A refusal is evidence about the token that was posted, not about the login: the store is read again,
//!   twice, before a login is given up, and a login that was given up costs no further call.

use super::plan::{Demands, backoff_ms};
use super::{Answer, Fingerprint, LoginFile, Plan, Refused, Renewed, Trouble};
use crate::secret::Secret;

/// When to read a second time, after a refusal, what another may just be storing.
const READ_AGAIN_AFTER_MS: i64 = 2_000;

/// When to try again to take the right to renew, to store, or to read what cannot be read.
const RETRY_MS: i64 = 1_000;

/// How long before its end an access token is warned about that nobody renews here.
const WARN_BEFORE_MS: i64 = 3_600_000;

/// What has happened.
#[derive(Debug)]
pub enum Event {
    /// The store holds this login, or none.
    Read(Option<LoginFile>),
    /// The store cannot be read, or what it holds cannot be understood.
    Unreadable,
    /// Another has the right to renew this login now.
    Busy,
    /// What came of the post.
    Answered(Answer),
    /// What came of storing.
    Stored {
        /// Otherwise the store holds what it held.
        is_done: bool,
    },
    /// What was to be published or said, was.
    Done,
    /// The time that was waited for has come.
    Due,
    /// The store may hold something else.
    Changed,
    /// The vendor has refused this access token.
    Demanded(Fingerprint),
    /// A person wants it renewed.
    Asked,
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Read the store: [`Event::Read`] or [`Event::Unreadable`].
    Read {
        /// First take the sole right to renew and to store ([`Event::Busy`] when another has it), and keep
        /// it until the next wait in which nothing [is unstored](Renewer::is_unstored).
        exclusive: bool,
    },
    /// Ask the token endpoint for the successor of this login: [`Event::Answered`].
    Post(LoginFile),
    /// Write this, and do nothing before: [`Event::Stored`].
    Store(LoginFile),
    /// Let requests use this from now on: [`Event::Done`].
    Publish(LoginFile),
    /// Say once that somebody has to log in: [`Event::Done`].
    GiveUp(Refused),
    /// Say once that the access token ends, at this time in Unix seconds, and nobody renews it here:
    /// [`Event::Done`].
    Warn {
        /// When it ends.
        expires_at: i64,
    },
    /// Wait for [`Event::Due`], [`Event::Changed`], [`Event::Demanded`] or [`Event::Asked`].
    Wait {
        /// When it is due, in Unix milliseconds; never, when absent.
        until_ms: Option<i64>,
    },
}

/// How a login stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Nothing was read so far, or there is no login.
    Missing,
    /// It is followed: it has no refresh token, or others renew it.
    Followed,
    /// It will be renewed.
    Planned,
    /// It is being renewed.
    Underway,
    /// An attempt decided nothing; the next comes at this time.
    Delayed {
        /// What was in the way.
        trouble: Trouble,
        /// When, in Unix milliseconds.
        until_ms: i64,
    },
    /// It was renewed, and what came cannot be stored so far.
    Unstored,
    /// Somebody has to log in.
    LoginRequired(Refused),
}

/// The state of one login.
#[derive(Debug)]
pub struct Renewer {
    plan: Plan,
    phase: Phase,
    /// What the store held when it was read last.
    login: Option<LoginFile>,
    published: Option<Fingerprint>,
    warned: Option<Fingerprint>,
    /// How long the access token lives in all, where that is known.
    lifetime_ms: Option<i64>,
    /// When it was renewed here.
    renewed_at_ms: Option<i64>,
    /// Somebody cannot wait until it is due.
    is_wanted: bool,
    /// Tokens that the vendor has refused.
    demands: Demands,
    /// Nothing is posted before.
    not_before_ms: i64,
    /// Posts in a row that decided nothing, and what was in the way.
    troubles: u32,
    trouble: Option<Trouble>,
}

#[derive(Debug)]
enum Phase {
    /// Nothing is under way.
    Idle,
    /// The next read is followed by a post, if it is needed still.
    Claiming,
    /// An answer is awaited.
    Posting,
    /// This refresh token was posted and refused; what is read from `until_ms` on decides.
    Doubting { refused: Secret, until_ms: i64 },
    /// What was renewed is not stored.
    Storing(Box<Unstored>),
    /// This refresh token was refused for good.
    Dead { refused: Secret, why: Refused },
}

/// A renewed login that is nowhere but here.
#[derive(Debug)]
struct Unstored {
    /// The refresh token that was posted, and is used up.
    posted: Secret,
    renewed: Renewed,
    /// What the store is to hold.
    file: LoginFile,
    /// When to try again; not known before the first try failed.
    retry_ms: Option<i64>,
}

impl Renewer {
    /// A login of which nothing is known, and the first thing to do.
    pub fn start(plan: Plan) -> (Self, Action) {
        let renewer = Self {
            plan,
            phase: Phase::Idle,
            login: None,
            published: None,
            warned: None,
            lifetime_ms: None,
            renewed_at_ms: None,
            is_wanted: false,
            demands: Demands::default(),
            not_before_ms: i64::MIN,
            troubles: 0,
            trouble: None,
        };
        (renewer, Action::Read { exclusive: false })
    }

    /// What to do after `event` at `now_ms` (Unix milliseconds).
    pub fn next(&mut self, event: Event, now_ms: i64) -> Action {
        let is_open = matches!(self.phase, Phase::Doubting { .. } | Phase::Storing(_));
        match event {
            Event::Read(found) => self.read(found, now_ms),
            Event::Unreadable | Event::Busy => self.not_read(now_ms),
            Event::Answered(answer) => self.answered(answer, now_ms),
            Event::Stored { is_done } => self.stored(is_done, now_ms),
            Event::Demanded(token) => {
                self.demand(token, now_ms);
                self.rest(now_ms)
            }
            Event::Asked if matches!(self.phase, Phase::Dead { .. }) => Action::Read { exclusive: false },
            Event::Asked => {
                self.is_wanted = true;
                self.rest(now_ms)
            }
            Event::Changed => Action::Read { exclusive: is_open },
            Event::Due if is_open => Action::Read { exclusive: true },
            Event::Due | Event::Done => self.rest(now_ms),
        }
    }

    /// Renews from now on, or only follows what others store.
    pub fn allow(&mut self, renews: bool) {
        self.plan.renews = renews;
    }

    /// How the login stands.
    pub fn standing(&self) -> Standing {
        match (&self.phase, &self.login) {
            (Phase::Dead { why, .. }, _) => Standing::LoginRequired(*why),
            (Phase::Storing(unstored), _) if unstored.retry_ms.is_some() => Standing::Unstored,
            (Phase::Idle, None) => Standing::Missing,
            (Phase::Idle, Some(login)) if !self.can_renew(login) => Standing::Followed,
            (Phase::Idle, Some(_)) => match self.trouble {
                Some(trouble) => Standing::Delayed { trouble, until_ms: self.not_before_ms },
                None => Standing::Planned,
            },
            _ => Standing::Underway,
        }
    }

    /// Whether a renewed login could not be stored so far, and would be lost with this machine.
    pub fn is_unstored(&self) -> bool {
        matches!(self.phase, Phase::Storing(_))
    }

    /// When it was renewed last by this machine, in Unix milliseconds.
    pub fn renewed_at_ms(&self) -> Option<i64> {
        self.renewed_at_ms
    }

    /// What the store held when it was read last.
    pub fn login(&self) -> Option<&LoginFile> {
        self.login.as_ref()
    }

    fn can_renew(&self, login: &LoginFile) -> bool {
        self.plan.renews && login.refresh_token().is_some()
    }

    fn read(&mut self, found: Option<LoginFile>, now_ms: i64) -> Action {
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Claiming => match found {
                Some(found) if self.is_same_as(&found) && self.can_renew(&found) => {
                    self.phase = Phase::Posting;
                    self.login = Some(found.clone());
                    Action::Post(found)
                }
                other => self.adopt(other, now_ms),
            },
            Phase::Doubting { refused, until_ms } if same_grant(found.as_ref(), &refused) => {
                if now_ms < until_ms {
                    self.phase = Phase::Doubting { refused, until_ms };
                    return Action::Wait { until_ms: Some(until_ms) };
                }
                self.give_up(refused, Refused::InvalidGrant)
            }
            Phase::Dead { refused, why } if same_grant(found.as_ref(), &refused) => {
                self.phase = Phase::Dead { refused, why };
                self.rest(now_ms)
            }
            // What is stored may have changed in its other parts, or be gone, but nobody has logged in anew.
            Phase::Storing(mut unstored)
                if found.is_none() || same_grant(found.as_ref(), &unstored.posted) =>
            {
                if let Some(file) = found.and_then(|found| found.renewed(&unstored.renewed).ok()) {
                    unstored.file = file;
                }
                let file = unstored.file.clone();
                self.phase = Phase::Storing(unstored);
                Action::Store(file)
            }
            _ => self.adopt(found, now_ms),
        }
    }

    fn is_same_as(&self, found: &LoginFile) -> bool {
        self.login.as_ref().is_some_and(|login| {
            login.access_token() == found.access_token() && login.refresh_token() == found.refresh_token()
        })
    }

    /// Takes what others have stored.
    fn adopt(&mut self, found: Option<LoginFile>, now_ms: i64) -> Action {
        let is_same = found.as_ref().is_some_and(|found| self.is_same_as(found));
        if !is_same {
            let is_first = self.login.is_none();
            let left_ms = |login: &LoginFile| Some(ends_at_ms(login)?.saturating_sub(now_ms));
            // What appears now was made just now; of what was there before, nobody knows.
            self.lifetime_ms = found.as_ref().filter(|_| !is_first).and_then(left_ms);
            (self.renewed_at_ms, self.is_wanted) = (None, false);
            (self.troubles, self.trouble, self.not_before_ms) = (0, None, i64::MIN);
        }
        self.login = found;
        self.rest(now_ms)
    }

    fn not_read(&mut self, now_ms: i64) -> Action {
        if matches!(self.phase, Phase::Claiming) {
            self.phase = Phase::Idle;
        }
        let until_ms = Some(now_ms.saturating_add(RETRY_MS));
        match self.phase {
            Phase::Dead { .. } => Action::Wait { until_ms: None },
            _ => Action::Wait { until_ms },
        }
    }

    fn answered(&mut self, answer: Answer, now_ms: i64) -> Action {
        self.phase = Phase::Idle;
        let Some(login) = &self.login else { return self.rest(now_ms) };
        let Some(posted) = login.refresh_token().cloned() else { return self.rest(now_ms) };
        match answer {
            Answer::Renewed(renewed) => match login.renewed(&renewed) {
                Ok(file) => {
                    let unstored = Unstored { posted, renewed, file: file.clone(), retry_ms: None };
                    self.phase = Phase::Storing(Box::new(unstored));
                    Action::Store(file)
                }
                Err(_) => self.delay(Trouble::NotUnderstood, None, now_ms),
            },
            Answer::Refused(Refused::InvalidGrant) => {
                let until_ms = now_ms.saturating_add(READ_AGAIN_AFTER_MS);
                self.phase = Phase::Doubting { refused: posted, until_ms };
                Action::Read { exclusive: true }
            }
            Answer::Refused(why) => self.give_up(posted, why),
            Answer::TryLater { trouble, after_seconds } => self.delay(trouble, after_seconds, now_ms),
        }
    }

    fn delay(&mut self, trouble: Trouble, after_seconds: Option<i64>, now_ms: i64) -> Action {
        self.troubles = self.troubles.saturating_add(1);
        let backoff_ms = || backoff_ms(self.troubles, trouble == Trouble::RateLimited);
        let after_ms = after_seconds.map_or_else(backoff_ms, |seconds| seconds.saturating_mul(1_000));
        self.trouble = Some(trouble);
        self.not_before_ms = now_ms.saturating_add(after_ms);
        self.rest(now_ms)
    }

    fn give_up(&mut self, refused: Secret, why: Refused) -> Action {
        self.phase = Phase::Dead { refused, why };
        Action::GiveUp(why)
    }

    fn stored(&mut self, is_done: bool, now_ms: i64) -> Action {
        let Phase::Storing(unstored) = &mut self.phase else { return self.rest(now_ms) };
        let (file, expires_at) = (unstored.file.clone(), unstored.renewed.expires_at);
        if !is_done {
            unstored.retry_ms = Some(now_ms.saturating_add(RETRY_MS));
            let is_new = self.published != Some(file.fingerprint());
            if is_new && self.plan.serves_unstored {
                self.published = Some(file.fingerprint());
                return Action::Publish(file);
            }
            return self.rest(now_ms);
        }
        self.phase = Phase::Idle;
        self.published = Some(file.fingerprint());
        self.lifetime_ms = Some(expires_at.saturating_mul(1_000).saturating_sub(now_ms));
        (self.renewed_at_ms, self.is_wanted) = (Some(now_ms), false);
        (self.troubles, self.trouble) = (0, None);
        self.login = Some(file.clone());
        Action::Publish(file)
    }

    /// At most one post follows from any number of refusals of one token.
    fn demand(&mut self, token: Fingerprint, now_ms: i64) {
        let current = self.login.as_ref().map(LoginFile::fingerprint);
        let age_ms = self.renewed_at_ms.map(|at_ms| now_ms.saturating_sub(at_ms));
        if let Some(wait_ms) = self.demands.take(token, current, age_ms) {
            self.is_wanted = true;
            self.not_before_ms = self.not_before_ms.max(now_ms.saturating_add(wait_ms));
        }
    }

    /// What there is to do when nothing has happened.
    fn rest(&mut self, now_ms: i64) -> Action {
        match &self.phase {
            Phase::Doubting { until_ms, .. } => Action::Wait { until_ms: Some(*until_ms) },
            Phase::Storing(unstored) => Action::Wait { until_ms: unstored.retry_ms },
            Phase::Dead { .. } => Action::Wait { until_ms: None },
            Phase::Idle | Phase::Claiming | Phase::Posting => self.idle(now_ms),
        }
    }

    fn idle(&mut self, now_ms: i64) -> Action {
        self.phase = Phase::Idle;
        let Some(login) = &self.login else { return Action::Wait { until_ms: None } };
        let token = login.fingerprint();
        if self.published != Some(token) {
            self.published = Some(token);
            return Action::Publish(login.clone());
        }
        if !self.can_renew(login) {
            return self.follow(now_ms);
        }
        let due_ms = ends_at_ms(login).map(|at_ms| self.plan.due_ms(at_ms, self.lifetime_ms));
        let due_ms = if self.is_wanted { Some(now_ms) } else { due_ms };
        match due_ms.map(|at_ms| at_ms.max(self.not_before_ms)) {
            Some(at_ms) if at_ms <= now_ms => {
                self.phase = Phase::Claiming;
                Action::Read { exclusive: true }
            }
            until_ms => Action::Wait { until_ms },
        }
    }

    /// Warns once of the end of a token that is not renewed here.
    fn follow(&mut self, now_ms: i64) -> Action {
        let Some(login) = &self.login else { return Action::Wait { until_ms: None } };
        let token = Some(login.fingerprint());
        let Some(expires_at) = login.expires_at().filter(|_| self.warned != token) else {
            return Action::Wait { until_ms: None };
        };
        let warn_ms = expires_at.saturating_mul(1_000).saturating_sub(WARN_BEFORE_MS);
        if warn_ms > now_ms {
            return Action::Wait { until_ms: Some(warn_ms) };
        }
        self.warned = token;
        Action::Warn { expires_at }
    }
}

fn ends_at_ms(login: &LoginFile) -> Option<i64> {
    login.expires_at().map(|at| at.saturating_mul(1_000))
}

/// Whether the store holds the very refresh token that was posted.
fn same_grant(found: Option<&LoginFile>, posted: &Secret) -> bool {
    found.is_some_and(|found| found.refresh_token() == Some(posted))
}

#[cfg(test)]
mod tests;
