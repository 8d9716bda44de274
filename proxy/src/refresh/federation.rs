//! One workload identity whose token is in a file: does what its [`Exchanger`] says, and tells how it stands.
//!
//! The file is read at every exchange, because whoever writes it replaces it, and the vendor takes each token once.

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use la_core::credential::Credential;
use la_core::oauth::federation::{Action, Assertion, Event, Exchanger, Federation, Obtained, Standing};
use la_core::oauth::{Answer, Fingerprint, Jitter, Plan};
use la_core::snapshot::credential_key;

use super::Shared;
use super::caretaker::{Account, Asker, Ears, LOOK_EVERY, PUBLISHED_WITHIN};
use crate::clock;
use crate::config::live::{Renewal, RenewalStage};
use crate::credentials::read_assertion;
use crate::observe::metrics::Refresh;

/// How long the first exchange may keep a router from starting to serve.
const FIRST_WITHIN: Duration = Duration::from_secs(5);

/// An identity as a snapshot names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) federation: Federation,
    pub(super) token_file: PathBuf,
}

/// Exchanges one identity for as long as its account is served.
pub(super) struct Exchange {
    account: Account,
    identity: Identity,
    shared: Rc<Shared>,
    ears: Ears,
    exchanger: Exchanger,
    action: Action,
    seen_refused: Option<Fingerprint>,
    askers: Vec<Asker>,
    told: Renewal,
    /// What is served, or why nothing is.
    served: Option<Result<Credential, String>>,
}

impl Exchange {
    pub(super) fn new(account: Account, identity: Identity, shared: Rc<Shared>, ears: Ears) -> Self {
        let plan = Plan {
            renews: true,
            before_ms: i64::try_from(shared.settings.before.as_millis()).unwrap_or(i64::MAX),
            jitter: Jitter::of(&account.provider, &account.name),
            serves_unstored: true,
        };
        let (exchanger, action) = Exchanger::start(plan, None, now_ms());
        Self {
            account,
            identity,
            shared,
            ears,
            exchanger,
            action,
            seen_refused: None,
            askers: Vec::new(),
            told: Renewal::default(),
            served: None,
        }
    }

    /// Goes on until told to stop. Nothing is lost then: an identity can always be exchanged again.
    pub(super) async fn run(mut self) {
        while !*self.ears.stop.borrow() {
            let event = match std::mem::replace(&mut self.action, Action::Read) {
                Action::Read => Event::Read(read_assertion(&self.identity.token_file)),
                Action::Post(assertion) => match self.post(&assertion).await {
                    Some(event) => event,
                    None => return,
                },
                Action::Wait { until_ms } => {
                    self.ears.known = None;
                    // Whoever asked is told how far it came.
                    for asker in self.askers.drain(..) {
                        let _ = asker.send(());
                    }
                    self.wait(until_ms).await
                }
            };
            self.action = self.exchanger.next(event, now_ms());
            self.serve().await;
            self.tell();
        }
    }

    /// Nothing when told to stop meanwhile.
    async fn post(&mut self, assertion: &Assertion) -> Option<Event> {
        self.show(Renewal { stage: RenewalStage::Underway, ..self.told.clone() });
        let exchange = self.shared.client.exchange(&self.identity.federation, assertion);
        let late = tokio::time::sleep(FIRST_WITHIN);
        tokio::pin!(exchange, late);
        let answer = loop {
            let Ears { stop, known, .. } = &mut self.ears;
            tokio::select! {
                answer = &mut exchange => break answer,
                () = &mut late, if known.is_some() => *known = None,
                _ = stop.changed() => return None,
            }
        };
        self.count(&answer);
        Some(Event::Answered(answer))
    }

    fn count<R>(&self, answer: &Answer<R>) {
        self.shared.metrics.refresh(match answer {
            Answer::Renewed(_) => Refresh::Renewed,
            Answer::Refused(_) => Refresh::Refused,
            Answer::TryLater { .. } => Refresh::Delayed,
        });
    }

    /// Has the newest access token served, or why there is none, and waits until it is.
    async fn serve(&mut self) {
        let obtained = self.exchanger.obtained().map(Obtained::credential);
        let served = match (obtained, self.exchanger.standing()) {
            (Some(credential), Standing::Denied(why)) if credential.is_expired(clock::unix_seconds()) => {
                Err(format!("its identity cannot be exchanged: {why}"))
            }
            (Some(credential), _) => Ok(credential),
            (None, Standing::Denied(why)) => Err(format!("its identity cannot be exchanged: {why}")),
            (None, Standing::Delayed(why)) => Err(format!("{why}; trying again")),
            (None, Standing::Underway | Standing::Planned) => return,
        };
        // Told to stop, it may have been replaced by another identity of the same account.
        if self.served.as_ref() == Some(&served) || *self.ears.stop.borrow() {
            return;
        }
        self.served = Some(served.clone());
        let before = self.shared.cell.load().serial();
        self.shared.homes.set_exchanged(&self.key(), served);
        if self.ears.known.is_some() {
            // Nothing is served yet; whoever begins looks first.
            return;
        }
        let Self { shared, ears, .. } = self;
        let served =
            async { while shared.cell.load().serial() == before && ears.served.changed().await.is_ok() {} };
        // Late or not, requests find it at the next look.
        let _ = tokio::time::timeout(PUBLISHED_WITHIN, served).await;
    }

    async fn wait(&mut self, until_ms: i64) -> Event {
        loop {
            if let Some(token) = self.newly_refused() {
                return Event::Demanded(token);
            }
            let left_ms = until_ms.saturating_sub(now_ms());
            if left_ms <= 0 {
                return Event::Due;
            }
            let left = Duration::from_millis(left_ms.unsigned_abs()).min(LOOK_EVERY);
            let Ears { served, asked, stop, .. } = &mut self.ears;
            tokio::select! {
                () = tokio::time::sleep(left) => {}
                _ = served.changed() => {}
                Ok(()) = stop.changed() => return Event::Due,
                Some(asker) = asked.recv() => {
                    self.askers.push(asker);
                    return Event::Asked;
                }
            }
        }
    }

    /// The access token that the vendor refuses, once.
    fn newly_refused(&mut self) -> Option<Fingerprint> {
        let live = self.shared.cell.load();
        let account = live.account(&self.account.provider, &self.account.name)?;
        let refused = account.refused_token().map(Fingerprint::of);
        let is_new = refused != self.seen_refused;
        self.seen_refused = refused;
        refused.filter(|_| is_new)
    }

    fn tell(&mut self) {
        let (stage, message) = match self.exchanger.standing() {
            Standing::Planned => (RenewalStage::Planned, String::new()),
            Standing::Underway => (RenewalStage::Underway, String::new()),
            Standing::Delayed(why) => (RenewalStage::Planned, format!("{why}; trying again")),
            Standing::Denied(why) => {
                (RenewalStage::LoginRequired, format!("its identity cannot be exchanged: {why}"))
            }
        };
        let last = self.exchanger.obtained().map(|obtained| obtained.obtained_at);
        if self.told.message != message && !message.is_empty() {
            tracing::warn!(
                provider.name = self.account.provider,
                account.name = self.account.name,
                "identity of account {} is not exchanged: {message}",
                self.key()
            );
        } else if self.told.last != last {
            tracing::info!(
                provider.name = self.account.provider,
                account.name = self.account.name,
                "identity of account {} was exchanged",
                self.key()
            );
        }
        self.show(Renewal { stage, last, message });
    }

    fn show(&mut self, renewal: Renewal) {
        self.shared.cell.set_renewal(&self.account.provider, &self.account.name, renewal.clone());
        self.told = renewal;
    }

    fn key(&self) -> String {
        credential_key(&self.account.provider, &self.account.name)
    }
}

fn now_ms() -> i64 {
    i64::try_from(clock::unix_milliseconds()).unwrap_or(i64::MAX)
}
