//! Workload identities that the operator exchanges: with real tokens of a real ServiceAccount, at a scripted endpoint.

use std::thread;
use std::time::Duration;

use la_tests::cluster::{Kubelet, Operator, eventually};
use la_tests::fakes::oauth::RULE;

use super::refresh::{Renewing, ask, many_across};
use super::scene::{LIMIT, text};

const AUDIENCE: &str = "https://api.anthropic.com";

/// The credential of the ServiceAccount `claude` for this audience.
fn identity(audience: &str) -> String {
    let [rule, organization, service_account, workspace] = RULE.map(|(_, id)| id);
    format!(
        "{{workloadIdentity: {{federationRuleId: {rule}, organizationId: {organization}, serviceAccountId: \
         {service_account}, workspaceId: {workspace}, tokenFrom: {{serviceAccount: {{name: claude, audience: \
         \"{audience}\"}}}}}}}}"
    )
}

fn subject(renewing: &Renewing) -> String {
    format!("system:serviceaccount:{}:claude", renewing.namespace)
}

fn service_account(renewing: &Renewing) {
    let account = "{apiVersion: v1, kind: ServiceAccount, metadata: {name: claude}}";
    renewing.scene().apply(&renewing.namespace, account);
}

/// Neither an access token nor a JWT is in what people see.
fn tells_no_credential(renewing: &Renewing, operators: &[&Operator]) {
    let provider = renewing.scene().object(&renewing.namespace, "upstreamproviders", "claude").to_string();
    let logs = operators.iter().map(|operator| operator.process.log());
    for told in logs.chain([provider]) {
        for credential in ["canary", "sk-ant-", "eyJ"] {
            assert!(!told.contains(credential), "{credential} is in {told}");
        }
    }
}

#[test]
fn refused_access_token_costs_one_exchange_that_no_client_sees_and_a_new_leader_costs_none() {
    const GATEWAYS: [&str; 2] = ["one", "two"];
    let renewing = Renewing::empty("identity");
    renewing.vault.trust(&subject(&renewing), AUDIENCE);
    service_account(&renewing);
    renewing.account_with(&identity(AUDIENCE));
    let kubelet = Kubelet::start(&renewing.api, &renewing.namespace).unwrap();
    let mut first = renewing.operator("first", &[]);
    let texts = renewing.gateways(GATEWAYS);
    let account = renewing.until_account("the exchange", |account| account["state"] == "Ready");
    assert!(
        account["credentialExpiresAt"].is_string() && account["lastRefreshTime"].is_string(),
        "{account}"
    );
    let asked = |at: usize| ask(&kubelet, GATEWAYS[at % 2], &texts[at % 2]);
    assert_eq!([asked(0), asked(1)], ["200", "200"], "{}", first.process.log());
    assert_eq!((renewing.vault.exchanges(), renewing.vault.violations()), (1, Vec::new()));

    let refused = many_across(400, asked, || renewing.vault.kill_access_tokens());
    assert!(refused.is_empty(), "{} were not answered 200: {refused:?}", refused.len());
    assert_eq!(renewing.vault.exchanges(), 2, "{}", first.process.log());
    let before = renewing.until_account("the second exchange", |new| {
        new["state"] == "Ready" && new["lastRefreshTime"] != account["lastRefreshTime"]
    });

    first.process.terminate().unwrap();
    assert!(first.process.wait(LIMIT).unwrap().success(), "{}", first.process.log());
    let second = renewing.operator("second", &[]);
    let reconciled = || Ok(second.process.log().contains("every object is known").then_some(()));
    eventually("the second operator at work", LIMIT, reconciled).unwrap();
    // What it would do wrongly it would do at once.
    thread::sleep(Duration::from_secs(5));
    assert_eq!([asked(0), asked(1)], ["200", "200"], "{}", second.process.log());
    assert_eq!(renewing.vault.exchanges(), 2, "{}", second.process.log());
    let after = renewing.until_account("the status", |account| account["state"] == "Ready");
    assert_eq!(after["lastRefreshTime"], before["lastRefreshTime"]);
    // What it took over it can exchange as well.
    renewing.vault.kill_access_tokens();
    assert_eq!(asked(0), "200", "{}", second.process.log());
    assert_eq!((renewing.vault.exchanges(), renewing.vault.violations()), (3, Vec::new()));
    tells_no_credential(&renewing, &[&first, &second]);
}

#[test]
fn what_stands_in_the_way_of_an_identity_is_said_once_and_heals() {
    let renewing = Renewing::empty("denied");
    let (scene, namespace) = (renewing.scene(), renewing.namespace.as_str());
    let provider = (namespace, "upstreamproviders", "claude");
    renewing.account_with(&identity("somebody-else"));
    renewing.vault.trust(&subject(&renewing), AUDIENCE);
    let operator = renewing.operator("only", &[]);

    scene.until(provider, "CredentialsResolved", ("False", "NoIdentityToken"));
    let told = renewing.account();
    assert_eq!(text(&told, "/message"), format!("ServiceAccount {namespace}/claude does not exist"));
    service_account(&renewing);

    scene.until(provider, "CredentialsResolved", ("False", "IdentityDenied"));
    let told = renewing.account();
    assert_eq!(told["state"], "IdentityDenied", "{told}");
    let whom = format!("subject {} and audience somebody-else", subject(&renewing));
    assert!(text(&told, "/message").contains(&whom), "{told}");
    let calls = renewing.vault.calls().len();
    thread::sleep(Duration::from_secs(5));
    assert_eq!(renewing.vault.calls().len(), calls, "an identity that is not accepted was posted again");
    assert_eq!(scene.times_said(namespace, "claude", "IdentityDenied"), 1);

    renewing.account_with(&identity(AUDIENCE));
    scene.until(provider, "CredentialsResolved", ("True", "Resolved"));
    renewing.until_account("the corrected identity", |account| {
        account["state"] == "Ready" && text(account, "/message").is_empty()
    });
    assert_eq!((renewing.vault.exchanges(), renewing.vault.violations()), (1, Vec::new()));
    tells_no_credential(&renewing, &[&operator]);
}
