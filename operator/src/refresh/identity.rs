//! Drives one workload identity: does what its [`Exchanger`] says, and tells it what came of it.

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Api;
use kube::api::PostParams;
use la_core::oauth::federation::{Action, Assertion, Event, Exchanger, Standing};
use la_core::secret::Secret;
use tokio::sync::{mpsc, watch};

use super::due;
use super::exchanges::{Hands, Identity, Name, State};
use crate::clock;

/// How long a token of a ServiceAccount lives, in seconds: it is used at once, and Kubernetes makes none that
/// lives shorter.
const TOKEN_SECONDS: i64 = 600;

/// One identity, and how its exchange stands.
pub(super) struct Exchange {
    pub(super) name: Name,
    pub(super) identity: Identity,
    pub(super) exchanger: Exchanger,
    pub(super) told: watch::Sender<State>,
}

impl Exchange {
    /// Exchanges for ever; begins with `action`.
    pub(super) async fn follow(
        mut self,
        hands: &Hands,
        mut action: Action,
        mut events: mpsc::Receiver<Event>,
    ) {
        loop {
            let event = match action {
                Action::Read => Event::Read(self.assertion(hands).await),
                Action::Post(assertion) => {
                    let answer = hands.endpoint.exchange(&self.identity.federation, &assertion).await;
                    hands.metrics.refreshed(&answer);
                    Event::Answered(answer)
                }
                Action::Wait { until_ms } => tokio::select! {
                    () = due(Some(until_ms)) => Event::Due,
                    event = events.recv() => match event {
                        Some(event) => event,
                        None => return,
                    },
                },
            };
            action = self.exchanger.next(event, clock::now_ms());
            self.tell(hands);
        }
    }

    /// A new token of the ServiceAccount: the vendor takes each only once.
    async fn assertion(&self, hands: &Hands) -> Result<Assertion, String> {
        let (namespace, account) = (&self.name.provider.namespace, &self.identity.token);
        let place = format!("ServiceAccount {namespace}/{}", account.name);
        let spec = TokenRequestSpec {
            audiences: vec![account.audience.clone()],
            expiration_seconds: Some(TOKEN_SECONDS),
            ..TokenRequestSpec::default()
        };
        let api: Api<ServiceAccount> = Api::namespaced(hands.client.clone(), namespace);
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let answer = api.create_token_request(&account.name, &PostParams::default(), &request).await;
        let answer = answer.map_err(|error| match &error {
            kube::Error::Api(status) if status.code == 404 => format!("{place} does not exist"),
            kube::Error::Api(status) if status.code == 403 => format!(
                "the operator may not ask for tokens of {place}; list it in the chart's \
                 workloadIdentity.serviceAccounts, or bind a Role that may create its serviceaccounts/token"
            ),
            error => format!("no token of {place}: {error}"),
        })?;
        let token = Secret::new(answer.status.map(|status| status.token).unwrap_or_default());
        Assertion::read(token.expose()).map_err(|error| format!("the token of {place} {error}"))
    }

    fn tell(&self, hands: &Hands) {
        let state = State::of(&self.exchanger);
        let before = self.told.send_replace(state.clone());
        if before == state {
            return;
        }
        let (provider, account) = (&self.name.provider, &self.name.account);
        let is_new = before.obtained != state.obtained;
        if is_new {
            tracing::info!(
                provider.name = %provider.name,
                account.name = account,
                "identity of account {provider}/{account} was exchanged"
            );
        }
        match &state.standing {
            Standing::Denied(why) => tracing::error!(
                provider.name = %provider.name,
                account.name = account,
                "identity of account {provider}/{account} is not exchanged: {why}"
            ),
            Standing::Delayed(why) => tracing::warn!(
                provider.name = %provider.name,
                account.name = account,
                "identity of account {provider}/{account} is not exchanged yet: {why}"
            ),
            Standing::Planned | Standing::Underway => {}
        }
        (hands.on_change)(provider, is_new);
    }
}
