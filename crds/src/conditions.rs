//! Conditions of our kinds: their types, their reasons, and how one is set.
//!
//! Reasons are part of the interface: people and alerts match on them.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// Condition types.
pub mod kind {
    /// The object does what it is for.
    pub const READY: &str = "Ready";
    /// A token's text is being made.
    pub const ISSUING: &str = "Issuing";
    /// Every ready pod serves the newest state of the object.
    pub const PROGRAMMED: &str = "Programmed";
    /// The spec makes sense.
    pub const ACCEPTED: &str = "Accepted";
    /// Every credential was found and read.
    pub const CREDENTIALS_RESOLVED: &str = "CredentialsResolved";
    /// At least one pod is ready.
    pub const AVAILABLE: &str = "Available";
    /// Use can be counted.
    pub const LEDGER_READY: &str = "LedgerReady";
    /// A Hard budget has nothing left.
    pub const BUDGET_EXHAUSTED: &str = "BudgetExhausted";
}

/// Reasons of conditions, Events and faults.
pub mod reason {
    /// A token's text is in its Secret and served.
    pub const ISSUED: &str = "Issued";
    /// A token's text is being made.
    pub const ISSUING: &str = "Issuing";
    /// A newer text replaced an older one.
    pub const ROTATED: &str = "Rotated";
    /// A text could not be made.
    pub const ISSUANCE_FAILED: &str = "IssuanceFailed";
    /// A text that ends soon could not be replaced.
    pub const RENEWAL_FAILED: &str = "RenewalFailed";
    /// The owner has stopped the token.
    pub const SUSPENDED: &str = "Suspended";
    /// The newest text has passed its end.
    pub const EXPIRED: &str = "Expired";
    /// A Secret of that name belongs to somebody else.
    pub const SECRET_CONFLICT: &str = "SecretConflict";
    /// The minted Secret was deleted or edited, so a new text was made and the old one revoked.
    pub const SECRET_RESTORED: &str = "SecretRestored";
    /// The RouterProxy does not exist.
    pub const PROXY_NOT_FOUND: &str = "ProxyNotFound";
    /// The RouterProxy does not admit tokens of this namespace.
    pub const NAMESPACE_NOT_ADMITTED: &str = "NamespaceNotAdmitted";
    /// The UpstreamProvider does not exist.
    pub const PROVIDER_NOT_FOUND: &str = "ProviderNotFound";
    /// The Secret does not exist.
    pub const SECRET_NOT_FOUND: &str = "SecretNotFound";
    /// The key does not exist in the Secret, or none was named and there are several.
    pub const SECRET_KEY_NOT_FOUND: &str = "SecretKeyNotFound";
    /// The credential cannot be read.
    pub const CREDENTIAL_MALFORMED: &str = "CredentialMalformed";
    /// The form of credential works only where manifests are read from a folder.
    pub const DIRECTORY_IN_CLUSTER: &str = "DirectoryInCluster";
    /// An identity token in a file works only where manifests are read from a folder.
    pub const TOKEN_FILE_IN_CLUSTER: &str = "TokenFileInCluster";
    /// The token of a ServiceAccount can be asked for only in a cluster.
    pub const SERVICE_ACCOUNT_OUTSIDE_CLUSTER: &str = "ServiceAccountOutsideCluster";
    /// A field breaks a rule of its schema.
    pub const INVALID_FIELD: &str = "InvalidField";
    /// Two objects or parts have one name.
    pub const DUPLICATE: &str = "Duplicate";
    /// Every credential was found and read.
    pub const RESOLVED: &str = "Resolved";
    /// Some accounts can serve, others cannot.
    pub const PARTLY_AVAILABLE: &str = "PartlyAvailable";
    /// No account can serve.
    pub const NO_USABLE_ACCOUNT: &str = "NoUsableAccount";
    /// A login cannot be renewed any more; somebody has to log in again.
    pub const LOGIN_REQUIRED: &str = "LoginRequired";
    /// A login that was just renewed has no place any more, and nobody who names it.
    pub const LOGIN_DROPPED: &str = "LoginDropped";
    /// The vendor does not accept a workload identity.
    pub const IDENTITY_DENIED: &str = "IdentityDenied";
    /// A workload identity is being exchanged.
    pub const EXCHANGING: &str = "Exchanging";
    /// There is no token of the ServiceAccount that a workload identity names.
    pub const NO_IDENTITY_TOKEN: &str = "NoIdentityToken";
    /// The vendor answered 401 to an account's credential.
    pub const ACCOUNT_AUTH_FAILED: &str = "AccountAuthFailed";
    /// The spec makes sense.
    pub const ACCEPTED: &str = "Accepted";
    /// Every ready pod serves the newest state.
    pub const PROGRAMMED: &str = "Programmed";
    /// Some pod has not loaded the newest state yet.
    pub const PENDING: &str = "Pending";
    /// At least one pod is ready.
    pub const AVAILABLE: &str = "Available";
    /// No pod is ready.
    pub const NO_READY_PODS: &str = "NoReadyPods";
    /// No pod should run.
    pub const SCALED_TO_ZERO: &str = "ScaledToZero";
    /// An object that the RouterProxy needs belongs to somebody else.
    pub const OBJECT_CONFLICT: &str = "ObjectConflict";
    /// A pod cannot count use.
    pub const LEDGER_UNAVAILABLE: &str = "LedgerUnavailable";
    /// Use can be counted.
    pub const LEDGER_READY: &str = "LedgerReady";
    /// Another ledger is in the place of the one that has counted so far.
    pub const LEDGER_LOST: &str = "LedgerLost";
    /// Another ledger counts from now on, from the use last reported.
    pub const LEDGER_ACCEPTED: &str = "LedgerAccepted";
    /// A limit is above a ceiling of the RouterProxy.
    pub const ABOVE_CEILING: &str = "AboveCeiling";
    /// A RouterBudget that covers the token is faulty, so the token is refused.
    pub const BUDGET_FAULTY: &str = "BudgetFaulty";
    /// A RouterBudget covers no token.
    pub const COVERS_NOTHING: &str = "CoversNothing";
    /// A RouterBudget covers tokens.
    pub const COVERING: &str = "Covering";
    /// A budget has reached one of its thresholds.
    pub const BUDGET_THRESHOLD: &str = "BudgetThreshold";
    /// A Hard budget has nothing left.
    pub const BUDGET_EXHAUSTED: &str = "BudgetExhausted";
    /// Every Hard budget has something left.
    pub const WITHIN_BUDGET: &str = "WithinBudget";
    /// It cannot be known now.
    pub const UNKNOWN: &str = "Unknown";
}

/// Whether a condition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    /// It does.
    True,
    /// It does not.
    False,
    /// It cannot be told.
    Unknown,
}

/// A condition as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Its type, one of [`kind`].
    pub kind: &'static str,
    /// Whether it holds.
    pub holds: Holds,
    /// Why, one of [`reason`].
    pub reason: &'static str,
    /// Why, for a person.
    pub message: String,
}

impl Holds {
    /// The text of a condition's `status`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<bool> for Holds {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

impl Wanted {
    /// A condition as it should be.
    pub fn new(
        kind: &'static str,
        holds: impl Into<Holds>,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self { kind, holds: holds.into(), reason, message: message.into() }
    }
}

/// Sets one condition for `generation`. Its transition time moves to `now` only when its status changes, so
/// that setting the same again changes nothing.
pub fn set(conditions: &mut Vec<Condition>, wanted: Wanted, generation: Option<i64>, now: Timestamp) {
    let status = wanted.holds.as_str();
    let old = conditions.iter().position(|condition| condition.type_ == wanted.kind);
    let since = old
        .and_then(|at| conditions.get(at))
        .filter(|condition| condition.status == status)
        .map_or(Time(now), |condition| condition.last_transition_time.clone());
    let new = Condition {
        type_: wanted.kind.to_owned(),
        status: status.to_owned(),
        reason: wanted.reason.to_owned(),
        message: wanted.message,
        observed_generation: generation,
        last_transition_time: since,
    };
    match old.and_then(|at| conditions.get_mut(at)) {
        Some(place) => *place = new,
        None => conditions.push(new),
    }
}

/// The condition of one type.
pub fn find<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// Whether the condition of one type is there and holds.
pub fn is_true(conditions: &[Condition], kind: &str) -> bool {
    find(conditions, kind).is_some_and(|condition| condition.status == Holds::True.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn transition_time_moves_only_when_the_status_changes() {
        let mut conditions = Vec::new();
        set(&mut conditions, Wanted::new(kind::READY, false, reason::ISSUING, "first"), Some(1), at(10));
        set(
            &mut conditions,
            Wanted::new(kind::READY, false, reason::SECRET_CONFLICT, "second"),
            Some(2),
            at(20),
        );
        let ready = find(&conditions, kind::READY).unwrap();
        assert_eq!((ready.last_transition_time.0, ready.observed_generation), (at(10), Some(2)));
        assert_eq!((ready.reason.as_str(), ready.message.as_str()), ("SecretConflict", "second"));
        set(&mut conditions, Wanted::new(kind::READY, true, reason::ISSUED, ""), Some(2), at(30));
        assert_eq!(find(&conditions, kind::READY).unwrap().last_transition_time.0, at(30));
        assert!(is_true(&conditions, kind::READY) && conditions.len() == 1);
    }

    #[test]
    fn setting_the_same_condition_again_changes_nothing() {
        let mut conditions = Vec::new();
        let wanted = Wanted::new(kind::PROGRAMMED, Holds::Unknown, reason::PENDING, "1 of 2 pods");
        set(&mut conditions, wanted.clone(), Some(1), at(10));
        let before = conditions.clone();
        set(&mut conditions, wanted, Some(1), at(99));
        assert_eq!(conditions, before);
    }
}
