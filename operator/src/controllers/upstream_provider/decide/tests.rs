//! One sentence per state of an UpstreamProvider.

use la_core::secret::Secret;

use super::*;

fn provider() -> UpstreamProvider {
    serde_json::from_value(serde_json::json!({
        "apiVersion": "router.link-assistant.dev/v1alpha1", "kind": "UpstreamProvider",
        "metadata": { "name": "claude", "namespace": "platform", "generation": 3 },
        "spec": { "backend": { "anthropic": { "accounts": [
            { "name": "first", "credential": { "oauth": { "secretRef": { "name": "login" } } } },
            { "name": "second", "credential": { "apiKey": { "secretRef": { "name": "key" } } } },
        ] } } },
    }))
    .unwrap()
}

fn login(expires_at: i64) -> (String, Credential) {
    let credential = Credential::OAuth { access_token: Secret::new("t"), expires_at: Some(expires_at) };
    ("claude/first".to_owned(), credential)
}

fn key() -> (String, Credential) {
    ("claude/second".to_owned(), Credential::ApiKey { key: Secret::new("k") })
}

fn fault(field: &str, reason: &'static str) -> ObjectFault {
    ObjectFault {
        kind: "UpstreamProvider",
        namespace: "platform".to_owned(),
        name: "claude".to_owned(),
        field: field.to_owned(),
        reason,
        message: "told by compile".to_owned(),
    }
}

fn refused(account: &str) -> AccountReport {
    AccountReport::new("claude", account, ReportedState::Unauthorized, String::new())
}

struct Case {
    sentence: &'static str,
    faults: Vec<ObjectFault>,
    credentials: Vec<(String, Credential)>,
    reports: Vec<AccountReport>,
    /// Status and reason of Accepted, CredentialsResolved, Ready; then `available`.
    expected: [(&'static str, &'static str); 3],
    available: &'static str,
    states: [AccountState; 2],
    events: Vec<&'static str>,
}

const GOOD: (&str, &str) = ("True", "Accepted");

fn cases() -> Vec<Case> {
    let missing = "spec.backend.anthropic.accounts[0].credential.oauth.secretRef";
    vec![
        Case {
            sentence: "every credential was read",
            faults: vec![],
            credentials: vec![login(200), key()],
            reports: vec![],
            expected: [GOOD, ("True", "Resolved"), ("True", "Available")],
            available: "2/2",
            states: [AccountState::Ready, AccountState::Ready],
            events: vec![],
        },
        Case {
            sentence: "a Secret is missing and the other account serves",
            faults: vec![fault(missing, reason::SECRET_NOT_FOUND)],
            credentials: vec![key()],
            reports: vec![],
            expected: [GOOD, ("False", "SecretNotFound"), ("True", "PartlyAvailable")],
            available: "1/2",
            states: [AccountState::Missing, AccountState::Ready],
            events: vec!["SecretNotFound"],
        },
        Case {
            sentence: "a login is malformed",
            faults: vec![fault(missing, reason::CREDENTIAL_MALFORMED)],
            credentials: vec![key()],
            reports: vec![],
            expected: [GOOD, ("False", "CredentialMalformed"), ("True", "PartlyAvailable")],
            available: "1/2",
            states: [AccountState::Malformed, AccountState::Ready],
            events: vec!["CredentialMalformed"],
        },
        Case {
            sentence: "one credential has ended and the vendor refuses the other",
            faults: vec![],
            credentials: vec![login(100), key()],
            reports: vec![refused("second")],
            expected: [GOOD, ("True", "Resolved"), ("False", "NoUsableAccount")],
            available: "0/2",
            states: [AccountState::Expired, AccountState::Unauthorized],
            events: vec!["Expired", "AccountAuthFailed"],
        },
        Case {
            sentence: "the spec breaks a rule",
            faults: vec![fault("spec.backend.anthropic.baseURL", reason::INVALID_FIELD)],
            credentials: vec![],
            reports: vec![],
            expected: [("False", "InvalidField"), ("False", "InvalidField"), ("False", "NoUsableAccount")],
            available: "0/2",
            states: [AccountState::Missing, AccountState::Missing],
            events: vec!["InvalidField"],
        },
    ]
}

#[test]
fn status_says_what_is_wrong_and_what_serves() {
    for case in cases() {
        let provider = provider();
        let credentials: Credentials = case.credentials.into_iter().collect();
        let decision = decide(&Observed {
            provider: &provider,
            now: Timestamp::from_second(100).unwrap(),
            faults: &case.faults,
            credentials: &credentials,
            reports: &case.reports,
        });
        let kinds = [kind::ACCEPTED, kind::CREDENTIALS_RESOLVED, kind::READY];
        let found = kinds.map(|kind| {
            let condition = conditions::find(&decision.status.conditions, kind).unwrap();
            (condition.status.as_str(), condition.reason.as_str())
        });
        assert_eq!(found, case.expected, "{}", case.sentence);
        assert_eq!(decision.status.available.as_deref(), Some(case.available), "{}", case.sentence);
        let states: Vec<_> = decision.status.accounts.iter().map(|account| account.state).collect();
        assert_eq!(states, case.states, "{}", case.sentence);
        let events: Vec<_> = decision.notes.iter().map(|note| note.reason).collect();
        assert_eq!(events, case.events, "{}", case.sentence);
    }
}

#[test]
fn provider_is_looked_at_again_when_a_credential_ends() {
    let provider = provider();
    let credentials: Credentials = [login(160), key()].into_iter().collect();
    let decision = decide(&Observed {
        provider: &provider,
        now: Timestamp::from_second(100).unwrap(),
        faults: &[],
        credentials: &credentials,
        reports: &[],
    });
    assert_eq!(decision.wake.map(|wake| wake.as_secs()), Some(60));
}
