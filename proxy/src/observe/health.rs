//! One line and one count for every change of an account's state.

use jiff::Timestamp;
use la_core::account::health::{Change, Event, Policy};

use super::metrics::Metrics;
use crate::clock;
use crate::config::live::AccountEntry;

/// Lets an account learn what came of a request, and tells of the change that this made.
pub fn learn(metrics: &Metrics, account: &AccountEntry, event: &Event<'_>, policy: &Policy) {
    if let Some(change) = account.known.note(event, clock::noted_seconds(), policy) {
        changed(metrics, account, &change);
    }
}

/// Tells of the change that what another replica has seen made.
pub fn heard(account: &AccountEntry, change: &Change) {
    let (provider, name) = (&*account.provider, &*account.name);
    let (scope, what) = match change {
        Change::Closed { scope, until, why } => {
            let until = shown(*until);
            (
                scope,
                format!("{}, as another replica has seen; it rests for {scope} until {until}", why.as_str()),
            )
        }
        Change::Opened { scope, .. } => (scope, format!("serves {scope} again, as another replica says")),
    };
    tracing::info!(
        provider.name = provider,
        account.name = name,
        scope = %scope,
        "account {provider}/{name} {what}",
    );
}

fn shown(until: Option<i64>) -> String {
    let until = until.and_then(|until| Timestamp::from_second(until).ok());
    until.map_or_else(|| "its credential changes".to_owned(), |until| until.to_string())
}

fn changed(metrics: &Metrics, account: &AccountEntry, change: &Change) {
    let (provider, name) = (&*account.provider, &*account.name);
    match change {
        Change::Closed { scope, until, why } => {
            metrics.cooldown(scope);
            let until = shown(*until);
            tracing::warn!(
                provider.name = provider,
                account.name = name,
                scope = %scope,
                "account {provider}/{name} {}; it rests for {scope} until {until}",
                why.as_str(),
            );
        }
        Change::Opened { scope, .. } => tracing::info!(
            provider.name = provider,
            account.name = name,
            scope = %scope,
            "account {provider}/{name} serves {scope} again",
        ),
    }
}
