//! One workload identity whose token is in a file: does what its [`Exchanger`] says, and tells how it stands.
//!
//! The file is read at every exchange, because whoever writes it replaces it, and the vendor takes each token once.

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use la_core::credential::Credential;
use la_core::oauth::Answer;
use la_core::oauth::federation::{Action, Assertion, Event, Exchanger, Federation, Obtained, Standing};

use super::Shared;
use super::desk::{Desk, Heard, now_ms};
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
    desk: Desk,
    identity: Identity,
    shared: Rc<Shared>,
    exchanger: Exchanger,
    action: Action,
    /// What is served, or why nothing is.
    served: Option<Result<Credential, String>>,
}

impl Exchange {
    pub(super) fn new(desk: Desk, identity: Identity, shared: Rc<Shared>) -> Self {
        let (exchanger, action) = Exchanger::start(shared.plan(&desk.account), None, now_ms());
        Self { desk, identity, shared, exchanger, action, served: None }
    }

    /// Goes on until told to stop. Nothing is lost then: an identity can always be exchanged again.
    pub(super) async fn run(mut self) {
        while !self.desk.is_stopped() {
            let event = match std::mem::replace(&mut self.action, Action::Read) {
                Action::Read => Event::Read(read_assertion(&self.identity.token_file)),
                Action::Post(assertion) => match self.post(&assertion).await {
                    Some(event) => event,
                    None => return,
                },
                Action::Wait { until_ms } => {
                    self.desk.unknown = None;
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
        self.desk.show_underway();
        let exchange = self.shared.client.exchange(&self.identity.federation, assertion);
        let late = tokio::time::sleep(FIRST_WITHIN);
        tokio::pin!(exchange, late);
        let answer = loop {
            let Desk { stop, unknown, .. } = &mut self.desk;
            tokio::select! {
                answer = &mut exchange => break answer,
                () = &mut late, if unknown.is_some() => *unknown = None,
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
        if self.served.as_ref() == Some(&served) || self.desk.is_stopped() {
            return;
        }
        self.served = Some(served.clone());
        let before = self.shared.cell.load().serial();
        self.shared.homes.set_exchanged(&self.desk.account.key(), served);
        if self.desk.unknown.is_some() {
            // Nothing is served yet; whoever begins looks first.
            return;
        }
        self.desk.served_anew(before).await;
    }

    async fn wait(&mut self, until_ms: i64) -> Event {
        loop {
            match self.desk.listen(Some(until_ms)).await {
                Heard::Due | Heard::Stopped => return Event::Due,
                Heard::Refused(token) => return Event::Demanded(token),
                Heard::Asked => return Event::Asked,
                // The file is read when an exchange is due.
                Heard::Changed => {}
            }
        }
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
        if self.desk.shown.message != message && !message.is_empty() {
            tracing::warn!(
                provider.name = self.desk.account.provider,
                account.name = self.desk.account.name,
                "identity of account {} is not exchanged: {message}",
                self.desk.account.key()
            );
        } else if self.desk.shown.last != last {
            tracing::info!(
                provider.name = self.desk.account.provider,
                account.name = self.desk.account.name,
                "identity of account {} was exchanged",
                self.desk.account.key()
            );
        }
        self.desk.show(Renewal { stage, last, message });
    }
}
