//! One sentence per state of an UpstreamProvider.

use la_core::oauth::federation::{Denied, Obtained};
use la_core::oauth::{Refused, Trouble};
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

fn resting(account: &str) -> AccountReport {
    let told = AccountReport::new("claude", account, ReportedState::Cooling, "limit is used up".to_owned());
    AccountReport { until: Some(160), five_hour_permille: Some(1_005), ..told }
}

/// What is seen at second 100 of a provider whose `credentials` were read and of which nothing else is told.
fn look<'a>(provider: &'a UpstreamProvider, credentials: &'a Credentials) -> Observed<'a> {
    Observed {
        provider,
        now: Timestamp::from_second(100).unwrap(),
        faults: &[],
        credentials,
        reports: &[],
        renewals: const { &BTreeMap::new() },
        exchanges: const { &BTreeMap::new() },
    }
}

struct Case {
    sentence: &'static str,
    faults: Vec<ObjectFault>,
    credentials: Vec<(String, Credential)>,
    reports: Vec<AccountReport>,
    /// Of the first account's login.
    renewal: Option<Standing>,
    /// Status and reason of Accepted, CredentialsResolved, Ready; then `available`.
    expected: [(&'static str, &'static str); 3],
    available: &'static str,
    states: [AccountState; 2],
    events: Vec<&'static str>,
}

const GOOD: (&str, &str) = ("True", "Accepted");

/// Everything is well.
impl Default for Case {
    fn default() -> Self {
        Self {
            sentence: "",
            faults: vec![],
            credentials: vec![login(200), key()],
            reports: vec![],
            renewal: None,
            expected: [GOOD, ("True", "Resolved"), ("True", "Available")],
            available: "2/2",
            states: [AccountState::Ready, AccountState::Ready],
            events: vec![],
        }
    }
}

fn cases() -> Vec<Case> {
    let missing = "spec.backend.anthropic.accounts[0].credential.oauth.secretRef";
    vec![
        Case { sentence: "every credential was read", ..Case::default() },
        Case {
            sentence: "a Secret is missing and the other account serves",
            faults: vec![fault(missing, reason::SECRET_NOT_FOUND)],
            credentials: vec![key()],
            expected: [GOOD, ("False", "SecretNotFound"), ("True", "PartlyAvailable")],
            available: "1/2",
            states: [AccountState::Missing, AccountState::Ready],
            events: vec!["SecretNotFound"],
            ..Case::default()
        },
        Case {
            sentence: "a login is malformed",
            faults: vec![fault(missing, reason::CREDENTIAL_MALFORMED)],
            credentials: vec![key()],
            expected: [GOOD, ("False", "CredentialMalformed"), ("True", "PartlyAvailable")],
            available: "1/2",
            states: [AccountState::Malformed, AccountState::Ready],
            events: vec!["CredentialMalformed"],
            ..Case::default()
        },
        Case {
            sentence: "one credential has ended and the vendor refuses the other",
            credentials: vec![login(100), key()],
            reports: vec![refused("second")],
            expected: [GOOD, ("True", "Resolved"), ("False", "NoUsableAccount")],
            available: "0/2",
            states: [AccountState::Expired, AccountState::Unauthorized],
            events: vec!["Expired", "AccountAuthFailed"],
            ..Case::default()
        },
        Case {
            sentence: "the spec breaks a rule",
            faults: vec![fault("spec.backend.anthropic.baseURL", reason::INVALID_FIELD)],
            credentials: vec![],
            expected: [("False", "InvalidField"), ("False", "InvalidField"), ("False", "NoUsableAccount")],
            available: "0/2",
            states: [AccountState::Missing, AccountState::Missing],
            events: vec!["InvalidField"],
            ..Case::default()
        },
    ]
}

fn cases_of_renewal() -> Vec<Case> {
    vec![
        Case {
            sentence: "the vendor refuses a login that is being renewed",
            reports: vec![refused("first")],
            renewal: Some(Standing::Underway),
            expected: [GOOD, ("True", "Resolved"), ("True", "PartlyAvailable")],
            available: "1/2",
            states: [AccountState::Renewing, AccountState::Ready],
            ..Case::default()
        },
        Case {
            sentence: "a login that is given up serves while its access token lasts",
            renewal: Some(Standing::LoginRequired(Refused::InvalidGrant)),
            events: vec!["LoginRequired"],
            ..Case::default()
        },
        Case {
            sentence: "a login that is given up and has ended needs a person, who is told once",
            credentials: vec![login(100), key()],
            renewal: Some(Standing::LoginRequired(Refused::InvalidGrant)),
            expected: [GOOD, ("True", "Resolved"), ("True", "PartlyAvailable")],
            available: "1/2",
            states: [AccountState::LoginRequired, AccountState::Ready],
            events: vec!["LoginRequired"],
            ..Case::default()
        },
        Case {
            sentence: "an account that rests in one pod is no news, but seen",
            reports: vec![
                resting("second"),
                AccountReport::new("claude", "second", ReportedState::Ready, String::new()),
            ],
            expected: [GOOD, ("True", "Resolved"), ("True", "PartlyAvailable")],
            available: "1/2",
            states: [AccountState::Ready, AccountState::Cooling],
            ..Case::default()
        },
    ]
}

#[test]
fn status_says_what_is_wrong_and_what_serves() {
    for case in cases().into_iter().chain(cases_of_renewal()) {
        let provider = provider();
        let credentials: Credentials = case.credentials.into_iter().collect();
        let renewal = |standing| ("first".to_owned(), State { standing, renewed_at_ms: Some(90_000) });
        let renewals = case.renewal.map(renewal).into_iter().collect();
        let decision = decide(&Observed {
            faults: &case.faults,
            reports: &case.reports,
            renewals: &renewals,
            ..look(&provider, &credentials)
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
    let decision = decide(&look(&provider, &credentials));
    assert_eq!(decision.wake.map(|wake| wake.as_secs()), Some(60));
}

#[test]
fn status_says_until_when_an_account_rests_and_how_full_its_windows_are() {
    let provider = provider();
    let credentials: Credentials = [login(200), key()].into_iter().collect();
    let renewed = State { standing: Standing::Planned, renewed_at_ms: Some(90_000) };
    let renewals = BTreeMap::from([("first".to_owned(), renewed)]);
    let reports = [resting("second")];
    let observed = Observed { reports: &reports, renewals: &renewals, ..look(&provider, &credentials) };
    let accounts = serde_json::to_value(decide(&observed).status.accounts).unwrap();
    assert_eq!(accounts[0]["lastRefreshTime"], "1970-01-01T00:01:30Z");
    assert_eq!(accounts[1]["until"], "1970-01-01T00:02:40Z");
    assert_eq!(accounts[1]["message"], "limit is used up");
    assert_eq!(accounts[1]["utilization"], serde_json::json!({ "fiveHour": 100 }));
}

fn identity() -> UpstreamProvider {
    let mut provider = provider();
    let accounts = serde_json::json!([{ "name": "first", "credential": { "workloadIdentity": {
        "federationRuleId": "fdrl_1", "organizationId": "00000000-0000-0000-0000-000000000000",
        "serviceAccountId": "svac_1", "tokenFrom": { "serviceAccount": { "name": "claude" } },
    } } }]);
    let la_crds::upstream_provider::Backend::Anthropic(backend) = &mut provider.spec.backend;
    backend.accounts = serde_json::from_value(accounts).unwrap();
    provider
}

#[test]
fn status_says_how_an_identity_stands_and_what_is_in_its_way() {
    let denied = || ExchangeStanding::Denied(Denied::Identity);
    let no_token = || ExchangeStanding::Delayed(Hindrance::NoAssertion("no ServiceAccount".to_owned()));
    let trouble = || ExchangeStanding::Delayed(Hindrance::Endpoint(Trouble::Status(500)));
    // What, the standing, when its access token ends; state, CredentialsResolved, Events.
    let cases = [
        ("the first exchange", ExchangeStanding::Underway, None, AccountState::Missing, "Exchanging", ""),
        ("endpoint in trouble at first", trouble(), None, AccountState::Missing, "Exchanging", ""),
        ("exchanged", ExchangeStanding::Planned, Some(200), AccountState::Ready, "Resolved", ""),
        ("endpoint in trouble later", trouble(), Some(200), AccountState::Ready, "Resolved", ""),
        ("late", ExchangeStanding::Underway, Some(90), AccountState::Renewing, "Resolved", ""),
        ("denied at first", denied(), None, AccountState::IdentityDenied, "IdentityDenied", "IdentityDenied"),
        (
            "denied, but it serves",
            denied(),
            Some(200),
            AccountState::Ready,
            "IdentityDenied",
            "IdentityDenied",
        ),
        ("denied", denied(), Some(90), AccountState::IdentityDenied, "IdentityDenied", "IdentityDenied"),
        ("no token", no_token(), None, AccountState::Missing, "NoIdentityToken", "NoIdentityToken"),
    ];
    for (sentence, standing, expires_at, state, resolved, event) in cases {
        let provider = identity();
        let obtained = expires_at.map(|expires_at| Obtained {
            access_token: Secret::new("t"),
            expires_at,
            obtained_at: 50,
        });
        let credentials = obtained.iter().map(|o| ("claude/first".to_owned(), o.credential())).collect();
        let exchanges = BTreeMap::from([("first".to_owned(), ExchangeState { standing, obtained })]);
        let decision = decide(&Observed { exchanges: &exchanges, ..look(&provider, &credentials) });
        let account = &decision.status.accounts[0];
        assert_eq!(account.state, state, "{sentence}");
        assert_eq!(account.last_refresh_time.is_some(), expires_at.is_some(), "{sentence}");
        let found = conditions::find(&decision.status.conditions, kind::CREDENTIALS_RESOLVED).unwrap();
        assert_eq!(found.reason, resolved, "{sentence}");
        let events: Vec<_> = decision.notes.iter().map(|note| note.reason).collect();
        assert_eq!(events.join(","), event, "{sentence}");
        if event == "IdentityDenied" {
            let subject =
                "subject system:serviceaccount:platform:claude and audience https://api.anthropic.com,";
            assert!(account.message.contains(subject), "{sentence}: {}", account.message);
        }
    }
}
