//! One account, ready to be used, and what is known of its credential.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use http::HeaderValue;
use la_core::account::health::{Cooldown, Health};
use la_core::account::{AccountId, Scope};
use la_core::credential::Credential;
use la_core::oauth::Fingerprint;
use la_core::report::{AccountReport, AccountState, RestReport};
use la_core::secret::Secret;
use la_core::snapshot::{self, CredentialSource};

use crate::accounts::Known;

/// One account and what is known of its credential.
pub struct AccountEntry {
    /// The provider's name.
    pub provider: Arc<str>,
    /// Its own name.
    pub name: Arc<str>,
    /// What its owner wishes for it.
    pub wishes: Wishes,
    /// How it fares, whatever its credential.
    pub known: Arc<Known>,
    pub(super) credential: Result<Credential, String>,
    proof: Option<Proof>,
    pub(super) refused: AtomicBool,
    /// Whether this process gets the credential by itself, and so may renew it.
    pub(super) is_own: bool,
    renewal: Mutex<Renewal>,
}

/// How the renewal of a credential stands. Carried over from one snapshot to the next by the account's name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Renewal {
    pub stage: RenewalStage,
    /// When it was renewed last, in Unix seconds.
    pub last: Option<i64>,
    /// What there is to say of it, such as why it waits; no part of a credential.
    pub message: String,
}

/// Where the renewal of a credential is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RenewalStage {
    /// Nobody that is known here renews it.
    #[default]
    Nobody,
    /// It will be renewed before its end, or when the vendor refuses it.
    Planned,
    /// A new one has been asked for.
    Underway,
    /// It was renewed and is served, but is not stored so far and would be lost with the process.
    Unstored,
    /// The vendor gives no new one until somebody logs in, or corrects what it knows of an identity.
    LoginRequired,
}

/// A credential as it goes out.
#[derive(Clone)]
pub enum Proof {
    /// The value of `authorization`.
    Bearer(HeaderValue),
    /// The value of `x-api-key`.
    ApiKey(HeaderValue),
}

/// What the owner of an account wishes for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wishes {
    /// Lower goes first, where the provider's selection looks at it.
    pub priority: u32,
    /// How much of the load it takes beside others.
    pub weight: u32,
    /// Most requests that it serves at a time.
    pub max_concurrency: Option<u32>,
    /// Whether it is out of service.
    pub is_disabled: bool,
}

/// Whether an account can serve at all, however it fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fitness {
    /// It can.
    Able,
    /// Its owner has taken it out of service.
    Disabled,
    /// Its credential is missing or unreadable.
    Missing,
    /// Its credential has passed its end.
    Expired,
    /// The vendor answered 401 to its current credential.
    Refused,
}

impl AccountEntry {
    /// Whether it can serve at all at `now` (Unix seconds), however it fares.
    pub fn fitness(&self, now: i64) -> Fitness {
        match &self.credential {
            _ if self.wishes.is_disabled => Fitness::Disabled,
            Ok(credential) if self.proof.is_some() => match self.refused.load(Ordering::Relaxed) {
                _ if credential.is_expired(now) => Fitness::Expired,
                true => Fitness::Refused,
                false => Fitness::Able,
            },
            _ => Fitness::Missing,
        }
    }

    /// Whether it can serve at `now` (Unix seconds).
    pub fn state(&self, now: i64) -> AccountState {
        match self.fitness(now) {
            Fitness::Disabled => AccountState::Disabled,
            Fitness::Missing => AccountState::Missing,
            Fitness::Expired => self.or_renewal(AccountState::Expired),
            Fitness::Refused => self.or_renewal(AccountState::Unauthorized),
            Fitness::Able if self.known.look(|health| rest(health, now).is_some()) => AccountState::Cooling,
            Fitness::Able => AccountState::Ready,
        }
    }

    /// Of a credential that cannot serve, its renewal says more.
    fn or_renewal(&self, state: AccountState) -> AccountState {
        match self.renewal().stage {
            RenewalStage::Nobody | RenewalStage::Planned | RenewalStage::Unstored => state,
            RenewalStage::Underway => AccountState::Renewing,
            RenewalStage::LoginRequired => AccountState::LoginRequired,
        }
    }

    /// Whether somebody will renew its credential, so that waiting for another one makes sense.
    pub fn is_renewable(&self) -> bool {
        matches!(self.renewal().stage, RenewalStage::Planned | RenewalStage::Underway)
    }

    /// How its renewal stands.
    pub fn renewal(&self) -> Renewal {
        self.renewal.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_renewal(&self, renewal: Renewal) {
        *self.renewal.lock().unwrap_or_else(PoisonError::into_inner) = renewal;
    }

    /// Notes that the vendor has accepted the credential that it had refused before.
    pub fn accepted(&self) {
        if self.refused.swap(false, Ordering::Relaxed) {
            let (provider, name) = (&*self.provider, &*self.name);
            tracing::info!(
                provider.name = provider,
                account.name = name,
                "vendor accepts the credential of account {provider}/{name} again",
            );
        }
    }

    /// Its access token, where the vendor has refused it.
    pub fn refused_token(&self) -> Option<&Secret> {
        match &self.credential {
            Ok(Credential::OAuth { access_token, .. }) if self.refused.load(Ordering::Relaxed) => {
                Some(access_token)
            }
            _ => None,
        }
    }

    /// Its state and, where it cannot serve, why.
    pub fn report(&self, now: i64) -> AccountReport {
        let state = self.state(now);
        let renewal = self.renewal();
        let message = match (state, &self.credential) {
            (AccountState::Disabled, _) => "its owner has taken it out of service".to_owned(),
            (AccountState::Missing, Err(message)) => message.clone(),
            (AccountState::Missing, Ok(_)) => "credential has characters that no header may carry".to_owned(),
            (AccountState::Expired, _) => and_renewal("credential has expired", &renewal),
            (AccountState::Unauthorized, _) => {
                and_renewal("vendor answered 401 to this credential", &renewal)
            }
            _ => renewal.message,
        };
        let mut report = AccountReport::new(&self.provider, &self.name, state, message);
        if let Ok(Credential::OAuth { expires_at, .. }) = &self.credential {
            report.credential_expires_at = *expires_at;
        }
        report.last_refresh_time = renewal.last;
        report.refused = self.refused_token().map(|token| Fingerprint::of(token).to_string());
        self.known.look(|health| tell(health, now, &mut report));
        report
    }

    /// Its credential as it goes out, where it has one.
    pub fn proof(&self) -> Option<&Proof> {
        self.proof.as_ref()
    }
}

/// What is wrong with a credential, and what there is to say of its renewal.
fn and_renewal(wrong: &str, renewal: &Renewal) -> String {
    match renewal.message.as_str() {
        "" => wrong.to_owned(),
        message => format!("{wrong}; {message}"),
    }
}

/// What keeps an account from every model, and for how long.
fn rest(health: &Health, now: i64) -> Option<&Cooldown> {
    let of_all = health.cooldowns(now).filter(|cooldown| cooldown.scope == Scope::Account);
    of_all.max_by_key(|cooldown| cooldown.until)
}

/// Tells how an account fares.
fn tell(health: &Health, now: i64, report: &mut AccountReport) {
    if let Some(rest) = rest(health, now).filter(|_| report.state == AccountState::Cooling) {
        report.until = Some(rest.until);
        rest.why.as_str().clone_into(&mut report.message);
    }
    let utilization = health.utilization(now);
    (report.five_hour_permille, report.seven_day_permille) = (utilization.five_hour, utilization.seven_day);
    report.resting = health
        .cooldowns(now)
        .filter_map(|cooldown| {
            let model = match &cooldown.scope {
                Scope::Account => return None,
                Scope::Family(family) => (*family).to_owned(),
                Scope::Model(model) => model.to_string(),
            };
            Some(RestReport { model, until: cooldown.until, message: cooldown.why.as_str().to_owned() })
        })
        .collect();
}

/// The account as `account` says, with what there is as its credential.
pub(super) fn prepare_account(
    provider: Arc<str>,
    account: &snapshot::Account,
    credential: Result<Credential, String>,
) -> AccountEntry {
    let proof = credential.as_ref().ok().and_then(proof);
    let known = Known::new(AccountId::of(&provider, &account.name));
    let wishes = Wishes {
        priority: account.priority,
        weight: account.weight,
        max_concurrency: account.max_concurrency,
        is_disabled: account.disabled,
    };
    let stage = if account.renewable { RenewalStage::Planned } else { RenewalStage::Nobody };
    AccountEntry {
        provider,
        name: account.name.as_str().into(),
        wishes,
        known,
        credential,
        proof,
        refused: AtomicBool::new(false),
        is_own: account.credential != CredentialSource::Published,
        renewal: Mutex::new(Renewal { stage, ..Renewal::default() }),
    }
}

fn proof(credential: &Credential) -> Option<Proof> {
    let sensitive = |text: &str| {
        let mut value = HeaderValue::from_str(text).ok().filter(|_| !text.is_empty())?;
        value.set_sensitive(true);
        Some(value)
    };
    match credential {
        Credential::OAuth { access_token, .. } if access_token.is_empty() => None,
        Credential::OAuth { access_token, .. } => {
            sensitive(&format!("Bearer {}", access_token.expose())).map(Proof::Bearer)
        }
        Credential::ApiKey { key } => sensitive(key.expose()).map(Proof::ApiKey),
    }
}
