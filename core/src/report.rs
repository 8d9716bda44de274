//! What a proxy reports of itself, and the credential that lets the operator ask.

use serde::{Deserialize, Serialize};

use crate::amount::Unit;
use crate::budget::{Enforcement, Standing};
use crate::id::Subject;
use crate::token::{TokenError, VerifyingKey, open};
use crate::usage::Usage;

/// The `typ` of an admin credential, so that none can pass as a token and no token as one.
pub const ADMIN_TYPE: &str = "la-admin+jwt";

/// Longest life of an admin credential, in seconds.
pub const ADMIN_LIFETIME_SECONDS: i64 = 60;

/// How a sentence of [`Report::not_ready`] begins when the ledger is why the process takes no requests.
pub const LEDGER_REASON: &str = "ledger cannot count use: ";

/// What an admin credential claims.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminClaims {
    /// The UID of the one pod it is good for.
    pub aud: String,
    /// When it was made, in Unix seconds.
    pub iat: i64,
    /// Until when it is good, exclusive; at most [`ADMIN_LIFETIME_SECONDS`] after `iat`.
    pub exp: i64,
}

/// The state of one proxy process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Report {
    /// Rises whenever anything but `usage` changes; what a long poll waits on.
    pub revision: u64,
    /// `(epoch, generation)` of the snapshot that is served.
    pub epoch: u64,
    /// See `epoch`.
    pub generation: u64,
    /// Whether the process takes requests.
    pub ready: bool,
    /// Why not, one sentence each.
    pub not_ready: Vec<String>,
    /// Objects that were left out of the snapshot, one sentence each.
    pub faults: Vec<String>,
    /// What its ledger is called, for as long as the ledger's files last. Another name is another ledger, and
    /// what the one before had counted is lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ledger_id: Option<String>,
    /// What the process does without, one sentence each; it takes requests all the same.
    pub degraded: Vec<String>,
    /// Every account of every provider.
    pub accounts: Vec<AccountReport>,
    /// Tokens with a text that is valid now.
    pub live_tokens: u64,
    /// Use by subject, for subjects that were ever used.
    pub usage: Vec<SubjectUsage>,
}

/// The state of one account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AccountReport {
    /// The provider's name.
    pub provider: String,
    /// The account's name.
    pub name: String,
    /// Whether it can serve.
    pub state: AccountState,
    /// Why it cannot, or what endangers it, without any part of the credential.
    #[serde(default)]
    pub message: String,
    /// Until when it rests, in Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<i64>,
    /// When its credential stops working, in Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential_expires_at: Option<i64>,
    /// When its credential was renewed last by this process, in Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_refresh_time: Option<i64>,
    /// The fingerprint of the credential that the vendor answered 401 to, while it is the current one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// How much of the window of five hours is used, in permille.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub five_hour_permille: Option<u32>,
    /// How much of the window of seven days is used, in permille.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seven_day_permille: Option<u32>,
    /// Models and families of models that it does not serve for now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resting: Vec<RestReport>,
}

/// A model, or a family of models, that an account does not serve for now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestReport {
    /// Which.
    pub model: String,
    /// Until when, in Unix seconds.
    pub until: i64,
    /// Why.
    pub message: String,
}

/// Whether an account can serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AccountState {
    /// It can.
    Ready,
    /// It rests, because the vendor asked for it or failed too often.
    Cooling,
    /// Its owner has taken it out of service.
    Disabled,
    /// Its credential cannot serve, and a new one has been asked for.
    Renewing,
    /// Its credential cannot serve, and the vendor gives no new one until somebody logs in.
    LoginRequired,
    /// Its credential is missing or unreadable.
    Missing,
    /// Its credential has passed its end.
    Expired,
    /// The vendor answered 401 to its current credential.
    Unauthorized,
}

/// What a subject has used, for as long as it is remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SubjectUsage {
    /// Who.
    pub subject: Subject,
    /// Requests that were settled.
    pub requests: u64,
    /// Requests that are open now.
    pub open: u64,
    /// Tokens that were settled.
    pub tokens: Usage,
    /// What they cost, in nano-dollars.
    #[serde(default)]
    pub nano_usd: u64,
    /// How its budgets stand, in the order in which they are written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub budgets: Vec<BudgetUse>,
}

/// How one budget stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BudgetUse {
    /// Its name.
    pub name: String,
    /// What it counts.
    pub unit: Unit,
    /// What happens at the limit.
    pub enforcement: Enforcement,
    /// What is settled and open in the window.
    pub used: u64,
    /// The limit.
    pub limit: u64,
    /// When the window ends, or the oldest part of a rolling one leaves, in Unix milliseconds; never for a
    /// lifetime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resets_at_ms: Option<u64>,
    /// The highest of the owner's thresholds that is reached, in percent of the limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<u8>,
}

impl AccountReport {
    /// An account in a state, of which nothing else is known.
    pub fn new(provider: &str, name: &str, state: AccountState, message: String) -> Self {
        Self {
            provider: provider.to_owned(),
            name: name.to_owned(),
            state,
            message,
            until: None,
            credential_expires_at: None,
            last_refresh_time: None,
            refused: None,
            five_hour_permille: None,
            seven_day_permille: None,
            resting: Vec::new(),
        }
    }
}

impl BudgetUse {
    /// How a budget stands, for an owner who is told at these percentages of its limit.
    pub fn new(standing: &Standing, thresholds: &[u8]) -> Self {
        let Standing { name, unit, enforcement, used, limit, resets_at_ms, .. } = standing;
        let percent = |amount: u64, percent: u8| u128::from(amount) * u128::from(percent);
        let is_reached = |threshold: &u8| percent(*used, 100) >= percent(*limit, *threshold);
        Self {
            name: name.to_string(),
            unit: *unit,
            enforcement: *enforcement,
            used: *used,
            limit: *limit,
            resets_at_ms: *resets_at_ms,
            threshold: thresholds.iter().copied().filter(is_reached).max(),
        }
    }
}

/// Checks an admin credential for the pod `uid` at `now` (Unix seconds).
///
/// # Errors
/// Which check failed.
pub fn verify_admin(jwt: &str, keys: &[VerifyingKey], uid: &str, now: i64) -> Result<(), TokenError> {
    let claims: AdminClaims = open(jwt, ADMIN_TYPE, keys)?;
    if claims.aud != uid {
        return Err(TokenError::WrongAudience);
    }
    if claims.exp <= now || claims.exp.saturating_sub(claims.iat) > ADMIN_LIFETIME_SECONDS {
        return Err(TokenError::Expired);
    }
    if claims.iat > now.saturating_add(ADMIN_LIFETIME_SECONDS) {
        return Err(TokenError::NotYetValid);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::SigningKey;

    #[test]
    fn highest_threshold_that_is_reached_is_told() {
        let standing = |used, limit| Standing {
            owner: Subject::of("gateway", "team", "agent").unwrap(),
            name: "daily".into(),
            unit: Unit::Usd,
            enforcement: Enforcement::Hard,
            used,
            open: 0,
            limit,
            resets_at_ms: None,
        };
        for (used, limit, thresholds, reached) in [
            (0, 10, &[50, 80][..], None),
            (4, 10, &[50, 80], None),
            (5, 10, &[80, 50], Some(50)),
            (8, 10, &[50, 80], Some(80)),
            (99, 10, &[50, 100, 80], Some(100)),
            (u64::MAX, u64::MAX, &[100], Some(100)),
            (u64::MAX - 1, u64::MAX, &[100], None),
            (9, 10, &[], None),
        ] {
            let told = BudgetUse::new(&standing(used, limit), thresholds).threshold;
            assert_eq!(told, reached, "{used} of {limit} with {thresholds:?}");
        }
    }

    #[test]
    fn admin_credential_is_good_for_one_pod_and_one_minute() {
        let key = SigningKey::from_seed([3; 32]);
        let keys = [key.verifying().unwrap()];
        let sign = |aud: &str, iat, exp| {
            key.sign(ADMIN_TYPE, &AdminClaims { aud: aud.to_owned(), iat, exp }).unwrap().expose().to_owned()
        };
        assert_eq!(verify_admin(&sign("pod-1", 100, 160), &keys, "pod-1", 159), Ok(()));
        assert_eq!(verify_admin(&sign("pod-1", 100, 160), &keys, "pod-1", 160), Err(TokenError::Expired));
        assert_eq!(verify_admin(&sign("pod-1", 100, 161), &keys, "pod-1", 120), Err(TokenError::Expired));
        assert_eq!(
            verify_admin(&sign("pod-2", 100, 160), &keys, "pod-1", 120),
            Err(TokenError::WrongAudience)
        );
        let token = key.sign("JWT", &AdminClaims { aud: "pod-1".to_owned(), iat: 100, exp: 160 }).unwrap();
        assert!(verify_admin(token.expose(), &keys, "pod-1", 120).is_err());
    }
}
