//! What to do next about one RouterToken, and what to say of it. Pure: one observation in, one decision out.
//!
//! A mint is three steps, each decided anew from what the API server then holds, so that a crash between
//! any two of them continues where it stopped, with the same text:
//!
//! ```text
//! Issue (id recorded: Issuing) -> Store (Secret written) -> Activate (id recorded: Active) -> Rest
//! ```

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use la_core::amount::Unit;
use la_core::id::TokenId;
use la_core::report::SubjectUsage;
use la_crds::RouterToken;
use la_crds::conditions::{self, Holds, Wanted, kind, reason};
use la_crds::router_token::{RouterTokenStatus, TokenState, TokenText, TokenUsage};

use super::records::{self, Older};
use crate::controllers::budgets::{self, Rolling};
use crate::controllers::status::{USAGE_PERIOD_SECONDS, wait_until};
use crate::events::Note;

/// How long a planned renewal waits for the pods before the new text is put into the Secret all the same.
const PROGRAMMING_PATIENCE_SECONDS: i64 = 60;

/// Until a Secret that is not watched, because it is not ours, is looked at again.
const FOREIGN_PERIOD: Duration = Duration::from_secs(15);

/// Until something that should go away by itself is looked at again.
const SHORTLY: Duration = Duration::from_secs(1);

/// What is known of one RouterToken.
#[derive(Debug, Clone)]
pub(crate) struct Observed<'a> {
    /// The object.
    pub(crate) token: &'a RouterToken,
    /// Now.
    pub(crate) now: Timestamp,
    /// An id that was never used.
    pub(crate) fresh: TokenId,
    /// Its proxy.
    pub(crate) proxy: ProxyState,
    /// Its Secret.
    pub(crate) secret: SecretState,
    /// Whether every pod of the proxy knows the current id.
    pub(crate) served: bool,
    /// What was used, as the pods report.
    pub(crate) counted: Counted,
}

/// What pods report of a token's use.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counted {
    /// Whether any pod reports.
    pub(crate) reported: bool,
    /// The token's own use.
    pub(crate) own: Option<SubjectUsage>,
    /// That of every RouterBudget that covers it.
    pub(crate) pools: Vec<SubjectUsage>,
    /// Rolling windows of its own budgets.
    pub(crate) rolling: Rolling,
}

/// The proxy that a token names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ProxyState {
    /// It does not exist.
    Missing,
    /// It does not admit the token.
    Refusing {
        /// Why, one of [`reason`].
        reason: &'static str,
        /// Why, for a person.
        message: String,
    },
    /// Its signing keys are not known yet.
    Keyless,
    /// Tokens can be minted for it.
    Ready {
        /// The id of the key that signs them.
        key_id: String,
    },
}

/// The Secret that a token names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SecretState {
    /// It does not exist, or may be taken over.
    Free,
    /// It belongs to somebody else.
    Foreign {
        /// Why, and what to do.
        why: String,
    },
    /// It belongs to a RouterToken of this name that was deleted, and will be deleted too.
    Leaving,
    /// It is ours.
    Ours {
        /// The id of the token in it.
        id: String,
        /// The id of the key that signed it.
        key_id: String,
        /// Whether nobody else changed our keys in it.
        intact: bool,
        /// Whether it is what it should be for the current id.
        as_wanted: bool,
    },
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Write the status, which records a new id; then look again.
    Issue,
    /// Write the Secret; then look again.
    Store,
    /// Write the status, which makes the id Active; then look again.
    Activate,
    /// Write the status if it differs, and wait.
    Rest,
}

/// What to do, what to say, when to look again.
#[derive(Debug, Clone)]
pub(crate) struct Decision {
    /// What to do next.
    pub(crate) step: Step,
    /// The status as it should be.
    pub(crate) status: RouterTokenStatus,
    /// Events.
    pub(crate) notes: Vec<Note>,
    /// When to look again at the latest.
    pub(crate) wake: Option<Duration>,
}

/// Why a new text is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// There is none.
    First,
    /// The Secret was deleted.
    Deleted,
    /// The Secret was edited.
    Edited,
    /// The key that signed the current text is gone.
    KeyReplaced,
    /// The current text ends soon, or has another life than the spec asks for.
    Renewal,
    /// The current text has ended.
    Ended,
}

/// Decides the next step.
pub(crate) fn decide(seen: &Observed<'_>) -> Decision {
    let mut draft = Draft::new(seen);
    let step = match &seen.proxy {
        ProxyState::Missing => draft.proxy_missing(),
        ProxyState::Refusing { reason, message } => draft.blocked(reason, message.clone(), true),
        ProxyState::Keyless => draft.keyless(),
        ProxyState::Ready { key_id } => match &seen.secret {
            SecretState::Foreign { why } => draft.foreign(why),
            SecretState::Leaving => draft.leaving(),
            SecretState::Free | SecretState::Ours { .. } => draft.mint(key_id),
        },
    };
    Decision { step, status: draft.status, notes: draft.notes, wake: draft.wake }
}

struct Draft<'a> {
    seen: &'a Observed<'a>,
    status: RouterTokenStatus,
    notes: Vec<Note>,
    wake: Option<Duration>,
}

impl<'a> Draft<'a> {
    fn new(seen: &'a Observed<'a>) -> Self {
        let mut status = seen.token.status.clone().unwrap_or_default();
        status.observed_generation = seen.token.metadata.generation;
        let mut draft = Self { seen, status, notes: Vec::new(), wake: None };
        draft.count_use();
        draft.judge_budgets();
        draft
    }

    fn proxy_missing(&mut self) -> Step {
        let (name, namespace) = (&self.seen.token.spec.proxy_ref.name, self.seen.token.proxy_namespace());
        let message = format!("RouterProxy {namespace}/{name} does not exist");
        self.blocked(reason::PROXY_NOT_FOUND, message, true)
    }

    fn keyless(&mut self) -> Step {
        self.wake = Some(SHORTLY * 5);
        let message = "signing keys of the RouterProxy are not made yet".to_owned();
        self.set(kind::ISSUING, true, reason::ISSUING, message.clone());
        self.set(kind::READY, false, reason::ISSUING, message);
        Step::Rest
    }

    fn foreign(&mut self, why: &str) -> Step {
        self.wake = Some(FOREIGN_PERIOD);
        let message = format!("Secret {} is left alone: {why}", self.seen.token.spec.secret_name);
        self.notes.push(Note::warning(reason::SECRET_CONFLICT, "Mint", message.clone()));
        self.set(kind::ISSUING, false, reason::SECRET_CONFLICT, message.clone());
        self.set(kind::READY, false, reason::SECRET_CONFLICT, message);
        Step::Rest
    }

    fn leaving(&mut self) -> Step {
        self.wake = Some(SHORTLY);
        let message = format!(
            "Secret {} of the deleted RouterToken of this name has not gone yet",
            self.seen.token.spec.secret_name
        );
        self.set(kind::ISSUING, true, reason::ISSUING, message.clone());
        self.set(kind::READY, false, reason::ISSUING, message);
        Step::Rest
    }

    fn blocked(&mut self, reason: &'static str, message: String, unserved: bool) -> Step {
        self.notes.push(Note::warning(reason, "Mint", message.clone()));
        self.set(kind::ISSUING, false, reason, message.clone());
        if unserved {
            self.set(kind::PROGRAMMED, false, reason, message.clone());
        }
        self.set(kind::READY, false, reason, message);
        Step::Rest
    }

    fn mint(&mut self, key_id: &str) -> Step {
        if let Some(cause) = self.cause(key_id) {
            return self.issue(cause);
        }
        let Some(current) = records::current(&self.status.tokens).cloned() else { return Step::Rest };
        let as_wanted = matches!(self.seen.secret, SecretState::Ours { as_wanted: true, .. });
        match current.state {
            TokenState::Issuing if as_wanted => self.activate(&current),
            TokenState::Issuing if self.should_wait(&current) => self.rest(&current),
            TokenState::Active if as_wanted => self.rest(&current),
            TokenState::Issuing | TokenState::Active | TokenState::Revoked => Step::Store,
        }
    }

    fn cause(&self, key_id: &str) -> Option<Cause> {
        let texts = &self.status.tokens;
        let Some(current) = records::current(texts) else { return Some(Cause::First) };
        if let Some(held) = records::held(texts) {
            match &self.seen.secret {
                SecretState::Ours { id, key_id: signed_by, intact, .. } => {
                    if signed_by != key_id {
                        return Some(Cause::KeyReplaced);
                    }
                    if !intact || (*id != held.id && *id != current.id) {
                        return Some(Cause::Edited);
                    }
                }
                SecretState::Free | SecretState::Foreign { .. } | SecretState::Leaving => {
                    return Some(Cause::Deleted);
                }
            }
        }
        let spec = &self.seen.token.spec;
        if spec.suspend {
            return None;
        }
        if current.not_after.0 <= self.seen.now {
            return Some(Cause::Ended);
        }
        let due = records::renewal(spec, current) <= self.seen.now;
        (due || records::has_other_duration(spec, current)).then_some(Cause::Renewal)
    }

    fn issue(&mut self, cause: Cause) -> Step {
        let older = match cause {
            Cause::First | Cause::Renewal | Cause::Ended => Older::Live,
            Cause::Deleted | Cause::Edited | Cause::KeyReplaced => Older::Revoked,
        };
        let new = records::fresh(&self.seen.fresh, &self.seen.token.spec, self.seen.now);
        self.status.tokens = records::with(&self.status.tokens, new, older, self.seen.now);
        self.status.revision = Some(self.status.revision.unwrap_or(0).saturating_add(1));
        let secret = &self.seen.token.spec.secret_name;
        let what = match cause {
            Cause::First => "making the first text".to_owned(),
            Cause::Renewal => "replacing a text before its end".to_owned(),
            Cause::Ended => "replacing a text that has ended".to_owned(),
            Cause::Deleted => format!("Secret {secret} was deleted: its token is revoked, making another"),
            Cause::Edited => format!("Secret {secret} was edited: its token is revoked, making another"),
            Cause::KeyReplaced => {
                "the signing key was lost: tokens signed with it are void, making another".to_owned()
            }
        };
        if older == Older::Revoked {
            self.notes.push(Note::warning(reason::SECRET_RESTORED, "Mint", what.clone()));
        }
        self.set(kind::ISSUING, true, reason::ISSUING, what.clone());
        self.set(kind::PROGRAMMED, false, reason::PENDING, "the proxy does not know the new text yet");
        if cause != Cause::Renewal {
            self.set(kind::READY, false, reason::ISSUING, what);
        }
        Step::Issue
    }

    /// A planned renewal lets the proxy learn of the new text before agents do.
    fn should_wait(&mut self, current: &TokenText) -> bool {
        let now = self.seen.now;
        let held_lives = records::held(&self.status.tokens).is_some_and(|held| held.not_after.0 > now);
        let waited_seconds = now.as_second().saturating_sub(current.not_before.0.as_second());
        held_lives && !self.seen.served && waited_seconds < PROGRAMMING_PATIENCE_SECONDS
    }

    fn activate(&mut self, current: &TokenText) -> Step {
        for text in self.status.tokens.iter_mut().filter(|text| text.id == current.id) {
            text.state = TokenState::Active;
        }
        self.status.last_failure_time = None;
        self.status.failed_issuance_attempts = None;
        let secret = &self.seen.token.spec.secret_name;
        let (reason, message) = match self.status.revision {
            Some(revision) if revision > 1 => {
                (reason::ROTATED, format!("wrote text {revision} to Secret {secret}"))
            }
            _ => (reason::ISSUED, format!("wrote the token to Secret {secret}")),
        };
        self.notes.push(Note::normal(reason, "Mint", message.clone()));
        self.set(kind::ISSUING, false, reason::ISSUED, message);
        self.ready(&TokenText { state: TokenState::Active, ..current.clone() });
        Step::Activate
    }

    fn rest(&mut self, current: &TokenText) -> Step {
        let (now, spec) = (self.seen.now, &self.seen.token.spec);
        let renewal = records::renewal(spec, current);
        self.status.renewal_time = (!spec.suspend).then_some(Time(renewal));
        let end = current.not_after.0;
        let next = if spec.suspend { end } else { renewal.min(end) };
        if next > now {
            self.wake_at(next);
        }
        if current.state == TokenState::Issuing {
            self.wake_at(now.saturating_add(SHORTLY * 5).unwrap_or(now));
        }
        self.ready(current);
        Step::Rest
    }

    /// Programmed stays once it is reached for the current text: whether pods are up is the proxy's status.
    fn ready(&mut self, current: &TokenText) {
        let programmed = self.seen.served || conditions::is_true(&self.status.conditions, kind::PROGRAMMED);
        if programmed {
            self.set(
                kind::PROGRAMMED,
                true,
                reason::PROGRAMMED,
                "every pod of the proxy knows the newest text",
            );
        } else {
            let message = "not every pod of the proxy knows the newest text yet";
            self.set(kind::PROGRAMMED, false, reason::PENDING, message);
        }
        let renewing = current.state == TokenState::Issuing;
        if self.seen.token.spec.suspend {
            self.suspended();
        } else if current.not_after.0 <= self.seen.now {
            self.set(kind::READY, false, reason::EXPIRED, "the newest text has ended");
        } else if renewing {
            // The text before it is in the Secret and served; Ready says what it said.
        } else if programmed {
            self.set(kind::READY, true, reason::ISSUED, "the Secret holds a token that its proxy serves");
        } else {
            self.set(kind::READY, false, reason::PENDING, "waiting until the proxy's pods know the token");
        }
    }

    fn suspended(&mut self) {
        let ready = conditions::find(&self.status.conditions, kind::READY);
        if ready.is_none_or(|ready| ready.reason != reason::SUSPENDED) {
            self.notes.push(Note::normal(
                reason::SUSPENDED,
                "Suspend",
                "requests with this token are refused",
            ));
        }
        self.set(kind::READY, false, reason::SUSPENDED, "suspend is set: requests are answered 403");
    }

    /// Use is written down now and then, and at once when it is worth an Event.
    fn count_use(&mut self) {
        let Some(own) = &self.seen.counted.own else { return };
        let before = self.status.usage.take();
        let told = before.as_ref().map(|usage| usage.windows.as_slice()).unwrap_or_default();
        let rolling = &self.seen.counted.rolling;
        let (windows, notes) = budgets::stand(told, &own.budgets, rolling, self.seen.now);
        let count = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let now = TokenUsage {
            observed_at: Time(Timestamp::from_second(self.seen.now.as_second()).unwrap_or(self.seen.now)),
            requests: count(own.requests),
            input_tokens: count(own.tokens.total_input()),
            output_tokens: count(own.tokens.output_tokens),
            cost_usd: Unit::Usd.text(own.nano_usd),
            windows,
        };
        let Some(before) = before else {
            self.notes.extend(notes);
            self.status.usage = Some(now);
            return;
        };
        let same = TokenUsage { observed_at: before.observed_at.clone(), ..now.clone() } == before;
        let due = before.observed_at.0.as_second().saturating_add(USAGE_PERIOD_SECONDS);
        if same {
            self.status.usage = Some(before);
        } else if !notes.is_empty() || due <= self.seen.now.as_second() {
            self.notes.extend(notes);
            self.status.usage = Some(now);
        } else {
            self.status.usage = Some(before);
            let due = Timestamp::from_second(due).unwrap_or(self.seen.now);
            self.wake_in(wait_until(due, self.seen.now));
        }
    }

    /// Says whether a budget has nothing left, once there is one that is counted. While no pod reports, what
    /// was said stays.
    fn judge_budgets(&mut self) {
        let counted = &self.seen.counted;
        let owners = || counted.own.iter().chain(&counted.pools);
        let said = conditions::find(&self.status.conditions, kind::BUDGET_EXHAUSTED).is_some();
        let counts = owners().any(|usage| !usage.budgets.is_empty());
        if counted.reported && (said || counts) {
            let exhausted: Vec<_> = owners().flat_map(budgets::exhausted).collect();
            let wanted = budgets::condition(&exhausted);
            let generation = self.seen.token.metadata.generation;
            conditions::set(&mut self.status.conditions, wanted, generation, self.seen.now);
        }
    }

    fn wake_at(&mut self, at: Timestamp) {
        self.wake_in(wait_until(at, self.seen.now));
    }

    fn wake_in(&mut self, wait: Duration) {
        self.wake = Some(self.wake.map_or(wait, |wake| wake.min(wait)));
    }

    fn set(
        &mut self,
        kind: &'static str,
        holds: impl Into<Holds>,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        let wanted = Wanted::new(kind, holds, reason, message);
        let generation = self.seen.token.metadata.generation;
        conditions::set(&mut self.status.conditions, wanted, generation, self.seen.now);
    }
}

#[cfg(test)]
mod tests;
