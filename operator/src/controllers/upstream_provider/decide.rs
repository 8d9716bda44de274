//! What to say of one UpstreamProvider. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use la_core::credential::{Credential, Credentials};
use la_core::oauth::Standing;
use la_core::oauth::federation::{Hindrance, Standing as ExchangeStanding};
use la_core::report::{AccountReport, AccountState as ReportedState};
use la_core::snapshot::credential_key;
use la_crds::UpstreamProvider;
use la_crds::compile::ObjectFault;
use la_crds::conditions::{self, Holds, Wanted, kind, reason};
use la_crds::upstream_provider::{
    Account, AccountCredential, AccountState, AccountStatus, IdentityToken, UpstreamProviderStatus,
    Utilization,
};

use crate::events::Note;
use crate::refresh::{ExchangeState, State};

/// What is known of one UpstreamProvider.
#[derive(Debug, Clone)]
pub(crate) struct Observed<'a> {
    /// The object.
    pub(crate) provider: &'a UpstreamProvider,
    /// Now.
    pub(crate) now: Timestamp,
    /// What is wrong with it and the Secrets it names.
    pub(crate) faults: &'a [ObjectFault],
    /// The credentials that were read, by `provider/account`.
    pub(crate) credentials: &'a Credentials,
    /// What pods say of its accounts.
    pub(crate) reports: &'a [AccountReport],
    /// How the renewal of logins stands, by account.
    pub(crate) renewals: &'a BTreeMap<String, State>,
    /// How the exchange of identities stands, by account.
    pub(crate) exchanges: &'a BTreeMap<String, ExchangeState>,
}

/// What to say, and when to look again.
#[derive(Debug, Clone)]
pub(crate) struct Decision {
    /// The status as it should be.
    pub(crate) status: UpstreamProviderStatus,
    /// Events.
    pub(crate) notes: Vec<Note>,
    /// When to look again at the latest.
    pub(crate) wake: Option<Duration>,
}

/// Decides what to say.
pub(crate) fn decide(seen: &Observed<'_>) -> Decision {
    let mut status = seen.provider.status.clone().unwrap_or_default();
    status.observed_generation = seen.provider.metadata.generation;
    status.accounts = accounts(seen);
    let (ready, all) = (count_ready(&status.accounts), status.accounts.len());
    status.available = Some(format!("{ready}/{all}"));
    for wanted in [accepted(seen), resolved(seen, &status.accounts), usable(&status.accounts, ready)] {
        conditions::set(&mut status.conditions, wanted, seen.provider.metadata.generation, seen.now);
    }
    let notes = notes(seen, &status.accounts);
    Decision { wake: next_end(seen, &status.accounts), status, notes }
}

fn accounts(seen: &Observed<'_>) -> Vec<AccountStatus> {
    let accounts = seen.provider.spec.backend.accounts().iter().enumerate();
    accounts.map(|(at, account)| account_status(seen, at, account)).collect()
}

fn account_status(seen: &Observed<'_>, at: usize, account: &Account) -> AccountStatus {
    let name = account.name.as_str();
    let provider = seen.provider.metadata.name.as_deref().unwrap_or_default();
    let credential = seen.credentials.get(&credential_key(provider, name));
    let is_it = |report: &&AccountReport| report.provider == provider && report.name == name;
    let told: Vec<_> = seen.reports.iter().filter(is_it).collect();
    let expires_at = match credential {
        Some(Credential::OAuth { expires_at, .. }) => *expires_at,
        Some(Credential::ApiKey { .. }) | None => None,
    };
    let renewal = seen.renewals.get(name);
    let login_required = login_required(renewal);
    let exchange = seen.exchanges.get(name);
    let (state, message) = match credential {
        _ if account.disabled => (AccountState::Disabled, "its owner has taken it out of service".to_owned()),
        None if exchange.is_some() => (AccountState::Missing, "its identity is being exchanged".to_owned()),
        None => unresolved(seen, at),
        Some(credential) => served(credential, &told, seen.now),
    };
    let (state, message) = match (state, login_required) {
        (AccountState::Expired | AccountState::Unauthorized | AccountState::Renewing, Some(why)) => {
            (AccountState::LoginRequired, why)
        }
        // It serves while its access token lasts.
        (AccountState::Ready, Some(why)) => (AccountState::Ready, why),
        (AccountState::Expired | AccountState::Unauthorized, None) if is_underway(renewal) => {
            (AccountState::Renewing, "a new access token was asked for".to_owned())
        }
        (state, _) => after_exchange((state, message), account, seen),
    };
    let time = |second: i64| Timestamp::from_second(second).ok().map(Time);
    AccountStatus {
        name: name.to_owned(),
        state,
        message,
        until: told.iter().filter_map(|report| report.until).max().and_then(time),
        credential_expires_at: expires_at.and_then(time),
        last_refresh_time: match exchange {
            Some(exchange) => exchange.obtained.as_ref().and_then(|obtained| time(obtained.obtained_at)),
            None => {
                renewal.and_then(|renewal| Timestamp::from_millisecond(renewal.renewed_at_ms?).ok()).map(Time)
            }
        },
        utilization: utilization(&told),
    }
}

/// What somebody has to do about a login that cannot be renewed.
fn login_required(renewal: Option<&State>) -> Option<String> {
    match renewal?.standing {
        Standing::LoginRequired(why) => Some(format!(
            "its login cannot be renewed: {why}; log in again and put the new login into the Secret"
        )),
        _ => None,
    }
}

/// What the exchange of its identity says of an account that is in `state` without it.
fn after_exchange(
    (state, message): (AccountState, String),
    account: &Account,
    seen: &Observed<'_>,
) -> (AccountState, String) {
    let Some(exchange) = seen.exchanges.get(&account.name) else { return (state, message) };
    let is_out = matches!(
        state,
        AccountState::Missing | AccountState::Expired | AccountState::Unauthorized | AccountState::Renewing
    );
    match (state, hindrance(account, seen)) {
        // It serves while its access token lasts.
        (AccountState::Ready, Some((_, why))) => (state, why),
        (_, Some((reason::IDENTITY_DENIED, why))) if is_out => (AccountState::IdentityDenied, why),
        (_, Some((_, why))) if is_out => (AccountState::Missing, why),
        (AccountState::Expired | AccountState::Unauthorized, None) => {
            (AccountState::Renewing, "a new access token was asked for".to_owned())
        }
        (AccountState::Missing, None) => match &exchange.standing {
            ExchangeStanding::Delayed(why) => (state, format!("{why}; trying again")),
            _ => (state, message),
        },
        _ => (state, message),
    }
}

/// What somebody has to do so that the identity of an account can be exchanged, and the reason of it.
fn hindrance(account: &Account, seen: &Observed<'_>) -> Option<(&'static str, String)> {
    match &seen.exchanges.get(&account.name)?.standing {
        ExchangeStanding::Denied(why) => {
            let identity = identity_of(account, seen.provider).unwrap_or_default();
            Some((reason::IDENTITY_DENIED, format!("its identity{identity} cannot be exchanged: {why}")))
        }
        ExchangeStanding::Delayed(Hindrance::NoAssertion(why)) => {
            Some((reason::NO_IDENTITY_TOKEN, why.clone()))
        }
        ExchangeStanding::Delayed(_) | ExchangeStanding::Planned | ExchangeStanding::Underway => None,
    }
}

/// Subject and audience of an identity, as its tokens state them.
fn identity_of(account: &Account, provider: &UpstreamProvider) -> Option<String> {
    let AccountCredential::WorkloadIdentity(identity) = &account.credential else { return None };
    let IdentityToken::ServiceAccount(token) = &identity.token_from else { return None };
    let namespace = provider.metadata.namespace.as_deref().unwrap_or_default();
    let (name, audience) = (&token.name, &token.audience);
    Some(format!(", subject system:serviceaccount:{namespace}:{name} and audience {audience},"))
}

fn is_underway(renewal: Option<&State>) -> bool {
    renewal.is_some_and(|renewal| matches!(renewal.standing, Standing::Planned | Standing::Underway))
}

fn served(credential: &Credential, told: &[&AccountReport], now: Timestamp) -> (AccountState, String) {
    if credential.is_expired(now.as_second()) {
        let message = "its credential has passed its end; log in again and update the Secret";
        return (AccountState::Expired, message.to_owned());
    }
    reported(told)
}

/// The highest that any pod saw: each hears of its own requests only.
fn utilization(told: &[&AccountReport]) -> Utilization {
    let highest = |of: fn(&AccountReport) -> Option<u32>| {
        let permille = told.iter().filter_map(|report| of(report)).max();
        permille.and_then(|permille| i32::try_from(permille / 10).ok())
    };
    Utilization {
        five_hour: highest(|report| report.five_hour_permille),
        seven_day: highest(|report| report.seven_day_permille),
    }
}

fn unresolved(seen: &Observed<'_>, at: usize) -> (AccountState, String) {
    let place = format!("accounts[{at}]");
    match seen.faults.iter().find(|fault| fault.field.contains(&place)) {
        Some(fault) if fault.reason == reason::CREDENTIAL_MALFORMED => {
            (AccountState::Malformed, fault.message.clone())
        }
        Some(fault) => (AccountState::Missing, fault.message.clone()),
        None => (AccountState::Missing, "the provider as a whole cannot be used".to_owned()),
    }
}

/// What keeps the account from serving in any pod.
fn reported(told: &[&AccountReport]) -> (AccountState, String) {
    let in_state = |state| told.iter().find(|report| report.state == state);
    for (theirs, ours) in [
        (ReportedState::LoginRequired, AccountState::LoginRequired),
        (ReportedState::Unauthorized, AccountState::Unauthorized),
        (ReportedState::Renewing, AccountState::Renewing),
        (ReportedState::Disabled, AccountState::Disabled),
        (ReportedState::Cooling, AccountState::Cooling),
    ] {
        match in_state(theirs) {
            Some(report) if report.message.is_empty() && ours == AccountState::Unauthorized => {
                return (ours, "the vendor answered 401 to its credential".to_owned());
            }
            Some(report) => return (ours, report.message.clone()),
            None => {}
        }
    }
    (AccountState::Ready, String::new())
}

fn is_credential_fault(fault: &ObjectFault) -> bool {
    fault.field.contains(".credential")
}

fn accepted(seen: &Observed<'_>) -> Wanted {
    match seen.faults.iter().find(|fault| !is_credential_fault(fault)) {
        Some(fault) => {
            Wanted::new(kind::ACCEPTED, false, fault.reason, format!("{}: {}", fault.field, fault.message))
        }
        None => Wanted::new(kind::ACCEPTED, true, reason::ACCEPTED, "the spec makes sense"),
    }
}

fn resolved(seen: &Observed<'_>, accounts: &[AccountStatus]) -> Wanted {
    let hindrances: BTreeMap<_, _> = hindrances(seen).collect();
    let unread: Vec<_> = accounts
        .iter()
        .filter(|account| {
            let is_unread = matches!(account.state, AccountState::Missing | AccountState::Malformed);
            is_unread || hindrances.contains_key(&account.name)
        })
        .map(|account| format!("{}: {}", account.name, account.message))
        .collect();
    if unread.is_empty() {
        return Wanted::new(kind::CREDENTIALS_RESOLVED, true, reason::RESOLVED, "every credential was read");
    }
    let fault = seen.faults.iter().find(|fault| is_credential_fault(fault)).map(|fault| fault.reason);
    let hindered = hindrances.values().next().map(|(reason, _)| *reason);
    let exchanging = seen.exchanges.values().any(|exchange| exchange.obtained.is_none());
    let reason = fault.or(hindered).or(exchanging.then_some(reason::EXCHANGING));
    let reason = reason.unwrap_or(reason::INVALID_FIELD);
    Wanted::new(kind::CREDENTIALS_RESOLVED, false, reason, unread.join("; "))
}

/// What stands in the way of identities, by account.
fn hindrances<'a>(seen: &'a Observed<'_>) -> impl Iterator<Item = (&'a String, (&'static str, String))> {
    let accounts = seen.provider.spec.backend.accounts().iter().filter(|account| !account.disabled);
    accounts.filter_map(|account| Some((&account.name, hindrance(account, seen)?)))
}

fn usable(accounts: &[AccountStatus], ready: usize) -> Wanted {
    let all = accounts.len();
    let (holds, reason): (Holds, _) = match ready {
        0 => (Holds::False, reason::NO_USABLE_ACCOUNT),
        some if some < all => (Holds::True, reason::PARTLY_AVAILABLE),
        _ => (Holds::True, reason::AVAILABLE),
    };
    Wanted::new(kind::READY, holds, reason, format!("{ready} of {all} accounts can serve"))
}

fn notes(seen: &Observed<'_>, accounts: &[AccountStatus]) -> Vec<Note> {
    let faults = seen.faults.iter();
    let mut notes: Vec<_> = faults
        .map(|fault| Note::warning(fault.reason, "Resolve", format!("{}: {}", fault.field, fault.message)))
        .collect();
    notes.extend(hindrances(seen).map(|(account, (reason, why))| {
        Note::warning(reason, "Exchange", format!("account {account}: {why}"))
    }));
    for account in accounts {
        let said = format!("account {}: {}", account.name, account.message);
        if let Some(why) = login_required(seen.renewals.get(&account.name)) {
            let said = format!("account {}: {why}", account.name);
            notes.push(Note::warning(reason::LOGIN_REQUIRED, "Refresh", said));
            continue;
        }
        match account.state {
            AccountState::Unauthorized => {
                notes.push(Note::warning(reason::ACCOUNT_AUTH_FAILED, "Serve", said))
            }
            AccountState::Expired => notes.push(Note::warning(reason::EXPIRED, "Serve", said)),
            // Missing and malformed ones are told as faults, logins and identities above; a rest is no news for long.
            AccountState::Ready
            | AccountState::LoginRequired
            | AccountState::IdentityDenied
            | AccountState::Missing
            | AccountState::Malformed
            | AccountState::Renewing
            | AccountState::Cooling
            | AccountState::Disabled => {}
        }
    }
    notes
}

fn count_ready(accounts: &[AccountStatus]) -> usize {
    accounts.iter().filter(|account| account.state == AccountState::Ready).count()
}

/// Until the next credential passes its end.
fn next_end(seen: &Observed<'_>, accounts: &[AccountStatus]) -> Option<Duration> {
    let ends = accounts.iter().filter_map(|account| account.credential_expires_at.as_ref());
    let next = ends.map(|end| end.0).filter(|end| *end > seen.now).min()?;
    let wait = Duration::try_from(next.duration_since(seen.now)).unwrap_or_default();
    Some(wait.saturating_add(Duration::from_millis(50)))
}

#[cfg(test)]
mod tests;
