//! Stage 6: which account's credential goes out.

use std::sync::Arc;

use la_core::report::AccountState;

use crate::config::live::{AccountEntry, Proof, ProviderEntry};
use crate::refuse::Refusal;

/// An account and its credential as it goes out.
pub(super) struct Chosen {
    /// The account.
    pub(super) account: Arc<AccountEntry>,
    /// Its credential.
    pub(super) proof: Proof,
}

/// The first account in order that can serve; failing that, the first whose credential the vendor has
/// refused, since only the vendor can say that it works again.
pub(super) fn account(provider: &ProviderEntry, now: i64) -> Result<Chosen, Refusal> {
    let in_state = |state| provider.accounts.iter().find(|account| account.state(now) == state);
    let account = in_state(AccountState::Ready).or_else(|| in_state(AccountState::Unauthorized));
    let chosen = account.and_then(|account| {
        account.proof().map(|proof| Chosen { account: Arc::clone(account), proof: proof.clone() })
    });
    chosen.ok_or_else(|| {
        Refusal::NoAccount(provider.accounts.iter().map(|account| account.report(now)).collect())
    })
}
