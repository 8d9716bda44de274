//! What one proxy serves, from worlds written as manifests.

use la_core::credential::{Credential, claude};
use la_core::id::TokenId;
use la_core::snapshot::{Backend, CredentialSource};

use super::*;
use crate::manifests::{self, Manifests};

mod pools;

const WORLD: &str = r#"
apiVersion: router.link-assistant.dev/v1alpha1
kind: RouterProxy
metadata: {name: gateway, namespace: platform}
spec:
  tokens: {allowedNamespaces: {from: Selector, selector: {matchLabels: {agents: "yes"}}}}
  routes:
  - {match: {models: ["claude-opus-*"]}, candidates: [{provider: team}]}
  - {candidates: [{provider: company}]}
---
apiVersion: router.link-assistant.dev/v1alpha1
kind: UpstreamProvider
metadata: {name: team, namespace: platform}
spec:
  backend:
    anthropic:
      accounts:
      - {name: login, credential: {oauth: {secretRef: {name: login}}}}
      - {name: spare, credential: {setupToken: {secretRef: {name: tokens, key: spare}}}}
  timeouts: {idle: 1m30s}
---
apiVersion: router.link-assistant.dev/v1alpha1
kind: UpstreamProvider
metadata: {name: company, namespace: platform}
spec:
  backend:
    anthropic: {baseURL: "http://upstream:8080/x", accounts: [{name: key, credential: {apiKey: {secretRef: {name: key}}}}]}
---
apiVersion: router.link-assistant.dev/v1alpha1
kind: UpstreamProvider
metadata: {name: unused, namespace: platform}
spec:
  backend: {anthropic: {accounts: [{name: key, credential: {apiKey: {secretRef: {name: key}}}}]}}
---
apiVersion: router.link-assistant.dev/v1alpha1
kind: RouterToken
metadata: {name: agent, namespace: team-a}
spec: {proxyRef: {name: gateway, namespace: platform}, secretName: agent, label: nightly, suspend: true, limits: {maxRequests: 7}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: team-a, labels: {agents: "yes"}}}
---
apiVersion: v1
kind: Secret
metadata: {name: login, namespace: platform}
stringData:
  .credentials.json: '{"claudeAiOauth":{"accessToken":"sk-ant-oat01-login","refreshToken":"sk-ant-ort01-canary","expiresAt":1790000000000}}'
  notes: nothing
---
{apiVersion: v1, kind: Secret, metadata: {name: tokens, namespace: platform}, stringData: {spare: "sk-ant-oat01-spare\n", other: x}}
---
{apiVersion: v1, kind: Secret, metadata: {name: key, namespace: platform}, stringData: {api-key: sk-ant-api03-key}}
"#;

fn world(change: impl FnOnce(String) -> String) -> Manifests {
    let text = change(WORLD.to_owned());
    manifests::read(&[("world.yaml".to_owned(), text)]).unwrap_or_else(|faults| panic!("{faults:#?}"))
}

fn compiled(manifests: &Manifests, mode: Mode) -> Compiled {
    compiled_with(manifests, mode, &Credentials::new())
}

fn compiled_with(manifests: &Manifests, mode: Mode, exchanged: &Credentials) -> Compiled {
    let id = TokenId::from_random([7; 16]);
    let ids = vec![IssuedId { id, not_before: 0, not_after: 100, revoked: false }];
    let tokens: Vec<_> =
        manifests.tokens.iter().map(|token| MintedToken { token, ids: ids.clone() }).collect();
    compile(&World {
        proxy: &manifests.proxies[0],
        providers: &manifests.providers,
        tokens: &tokens,
        budgets: &manifests.budgets,
        namespaces: &manifests.namespaces,
        secrets: &manifests.secrets,
        exchanged,
        keys: &[],
        admin_keys: &[],
        mode,
    })
}

/// Compiles a changed world, in which each fault is `field: REASON: message`.
fn faults_of(from: &str, to: &str) -> (Compiled, Vec<String>) {
    assert!(WORLD.contains(from), "{from}");
    let compiled = compiled(&world(|text| text.replacen(from, to, 1)), Mode::Cluster);
    let (checked, unusable) = compiled.snapshot.clone().checked().unwrap();
    assert_eq!((&checked, unusable.len()), (&compiled.snapshot, 0), "the snapshot has faults: {unusable:?}");
    let shown = compiled
        .faults
        .iter()
        .map(|f| format!("{}/{} {}: {}: {}", f.kind, f.name, f.field, f.reason, f.message));
    let shown = shown.collect();
    (compiled, shown)
}

#[test]
fn faultless_world_is_served_whole() {
    let Compiled { snapshot, credentials, faults } = compiled(&world(|text| text), Mode::Cluster);
    assert_eq!(faults, []);
    assert_eq!(
        (snapshot.proxy.as_str(), snapshot.audience.as_str()),
        ("platform/gateway", "la-router/platform/gateway")
    );
    assert_eq!((snapshot.epoch, snapshot.generation), (0, 0));
    let routes: Vec<_> =
        snapshot.routes.iter().map(|r| (r.models.join(","), r.candidates[0].provider.as_str())).collect();
    assert_eq!(routes, [("claude-opus-*".to_owned(), "team"), (String::new(), "company")]);
    let names: Vec<_> = snapshot.providers.iter().map(|provider| provider.name.as_str()).collect();
    assert_eq!(names, ["company", "team"], "only what a route leads to is published");
    assert_eq!(snapshot.providers[1].timeouts.idle_ms, 90_000);
    let [token] = &snapshot.tokens[..] else { panic!("{:?}", snapshot.tokens) };
    assert_eq!((token.subject.as_str(), token.label.as_str()), ("gateway/team-a/agent", "nightly"));
    assert_eq!((token.suspended, token.limits.max_requests, token.ids.len()), (true, Some(7), 1));
    let keys: Vec<_> = credentials.keys().map(String::as_str).collect();
    assert_eq!(keys, ["company/key", "team/login", "team/spare"]);
    let Credential::OAuth { access_token, expires_at } = &credentials["team/login"] else { panic!() };
    assert_eq!((access_token.expose(), *expires_at), ("sk-ant-oat01-login", Some(1_790_000_000)));
    let Credential::OAuth { access_token, expires_at: None } = &credentials["team/spare"] else { panic!() };
    assert_eq!(access_token.expose(), "sk-ant-oat01-spare");
}

#[test]
fn refresh_token_is_never_published() {
    let compiled = compiled(&world(|text| text), Mode::Cluster);
    let files = serde_json::to_string(&(&compiled.snapshot, &compiled.credentials)).unwrap();
    assert!(!files.contains("canary") && !files.contains("refresh"));
}

#[test]
fn login_of_two_accounts_serves_the_older_and_the_other_is_told_both() {
    let again = "oauth: {secretRef: {name: login, key: .credentials.json}}";
    let (served, faults) = faults_of("setupToken: {secretRef: {name: tokens, key: spare}}", again);
    let field = "credential.oauth.secretRef.name: Duplicate: Secret login of account";
    let end = "holds the same login as account team/login; log in anew for one of them";
    let second = format!("UpstreamProvider/team spec.backend.anthropic.accounts[1].{field} team/spare {end}");
    assert_eq!(faults, [second]);
    let keys: Vec<_> = served.credentials.keys().map(String::as_str).collect();
    assert_eq!(keys, ["company/key", "team/login"]);

    let elsewhere = |text: String| text.replacen("apiKey: {secretRef: {name: key}}", again, 2);
    let mut shared = world(elsewhere);
    let owners = |shared: &Manifests| -> Vec<_> {
        let faults = compiled(shared, Mode::Cluster).faults;
        faults.iter().map(|fault| (fault.name.clone(), fault.message.clone())).collect()
    };
    let told = |loser: &str, winner: &str| {
        let message = format!(
            "Secret login of account {loser} holds the same login as account {winner}; log in anew for one of them"
        );
        (loser.split('/').next().unwrap().to_owned(), message)
    };
    let by_name = [told("team/login", "company/key"), told("unused/key", "company/key")];
    assert_eq!(owners(&shared), by_name, "of providers that are as old the first by name has it");
    for provider in &mut shared.providers {
        let second = if provider.metadata.name.as_deref() == Some("unused") { 1 } else { 2 };
        let created = jiff::Timestamp::from_second(second).unwrap();
        provider.metadata.creation_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(created));
    }
    let by_age = [told("team/login", "unused/key"), told("company/key", "unused/key")];
    assert_eq!(owners(&shared), by_age);
}

#[test]
fn every_unresolved_credential_is_reported_and_the_rest_served() {
    let cases = [
        (
            "secretRef: {name: login}",
            "secretRef: {name: gone}",
            "spec.backend.anthropic.accounts[0].credential.oauth.secretRef.name: SecretNotFound: Secret platform/gone does not exist",
        ),
        (
            "key: spare",
            "key: gone",
            "spec.backend.anthropic.accounts[1].credential.setupToken.secretRef.key: SecretKeyNotFound: Secret tokens has no key \"gone\", it has \"other\", \"spare\"",
        ),
        (
            "name: tokens, key: spare",
            "name: tokens",
            "spec.backend.anthropic.accounts[1].credential.setupToken.secretRef.name: SecretKeyNotFound: Secret tokens has several keys, say which: \"other\", \"spare\"",
        ),
        (
            "key: spare",
            "key: other",
            "spec.backend.anthropic.accounts[1].credential.setupToken.secretRef.name: CredentialMalformed: key \"other\" of Secret tokens has 1 bytes",
        ),
        (
            "'{\"claudeAiOauth\"",
            "'{\"else\"",
            "spec.backend.anthropic.accounts[0].credential.oauth.secretRef.name: CredentialMalformed: Secret login: no access token in `.credentials.json`",
        ),
        (
            "'{\"claudeAiOauth\"",
            "'claudeAiOauth",
            "spec.backend.anthropic.accounts[0].credential.oauth.secretRef.name: CredentialMalformed: Secret login: `.credentials.json` is not JSON",
        ),
        (
            "  .credentials.json: ",
            "  login.json: ",
            "spec.backend.anthropic.accounts[0].credential.oauth.secretRef.name: SecretKeyNotFound: Secret login has several keys, say which: \"login.json\", \"notes\"",
        ),
    ];
    for (from, to, expected) in cases {
        let (compiled, faults) = faults_of(from, to);
        assert_eq!(faults.len(), 1, "{faults:#?}");
        assert!(faults[0].starts_with(&format!("UpstreamProvider/team {expected}")), "{faults:#?}");
        assert!(!faults[0].contains("canary"), "{faults:#?}");
        assert_eq!(compiled.credentials.len(), 2, "the others are still published");
        let Backend::Anthropic { accounts, .. } = &compiled.snapshot.providers[1].backend;
        assert_eq!(accounts.len(), 2, "the account stays, so that refusals can name it");
    }
}

#[test]
fn route_to_a_missing_provider_refuses_instead_of_falling_through() {
    let (compiled, faults) = faults_of("provider: team}", "provider: gone}");
    assert_eq!(
        faults,
        [
            "RouterProxy/gateway spec.routes[0].candidates[0].provider: ProviderNotFound: UpstreamProvider platform/gone does not exist"
        ]
    );
    assert_eq!(compiled.snapshot.routes[0].candidates[0].provider, "gone");
    let gone = compiled.snapshot.providers.iter().find(|provider| provider.name == "gone").unwrap();
    let Backend::Anthropic { accounts, .. } = &gone.backend;
    assert!(!compiled.credentials.contains_key(&format!("gone/{}", accounts[0].name)));
    assert_eq!(compiled.credentials.keys().collect::<Vec<_>>(), ["company/key"]);
}

#[test]
fn provider_that_breaks_a_rule_gets_no_credential() {
    let mut manifests = world(|text| text);
    let team = manifests.providers.iter_mut().find(|p| p.metadata.name.as_deref() == Some("team")).unwrap();
    let crate::upstream_provider::Backend::Anthropic(backend) = &mut team.spec.backend;
    backend.base_url = "https://attacker.example/?".to_owned();
    let compiled = compiled(&manifests, Mode::Cluster);
    assert_eq!(compiled.faults.len(), 1);
    assert_eq!(compiled.faults[0].reason, reason::INVALID_FIELD);
    assert_eq!(compiled.credentials.keys().collect::<Vec<_>>(), ["company/key"]);
    let shown = serde_json::to_string(&compiled.snapshot).unwrap();
    assert!(!shown.contains("attacker"));
}

#[test]
fn token_of_a_namespace_that_is_not_admitted_is_left_out() {
    for (from, to) in [
        ("labels: {agents: \"yes\"}", "labels: {agents: \"no\"}"),
        ("{apiVersion: v1, kind: Namespace, metadata: {name: team-a, labels: {agents: \"yes\"}}}", ""),
        ("{from: Selector, selector: {matchLabels: {agents: \"yes\"}}}", "{from: Same}"),
    ] {
        let (compiled, faults) = faults_of(from, to);
        assert_eq!(
            faults,
            [
                "RouterToken/agent spec.proxyRef: NamespaceNotAdmitted: RouterProxy platform/gateway does not admit tokens of namespace team-a; see its tokens.allowedNamespaces"
            ]
        );
        assert!(compiled.snapshot.tokens.is_empty());
    }
    let (compiled, faults) =
        faults_of("{from: Selector, selector: {matchLabels: {agents: \"yes\"}}}", "{from: All}");
    assert_eq!((compiled.snapshot.tokens.len(), faults.len()), (1, 0));
}

#[test]
fn namespace_that_is_not_known_matches_no_selector() {
    let mut manifests = world(|text| text.replace("{matchLabels: {agents: \"yes\"}}", "{}"));
    manifests.namespaces.clear();
    let compiled = compiled(&manifests, Mode::Cluster);
    assert!(compiled.snapshot.tokens.is_empty());
    assert_eq!(compiled.faults[0].reason, reason::NAMESPACE_NOT_ADMITTED);
}

#[test]
fn token_of_another_proxy_is_no_concern() {
    let found = |manifests: &Manifests| {
        let compiled = compiled(manifests, Mode::Cluster);
        (compiled.snapshot.tokens.len(), compiled.faults.len())
    };
    let mut manifests = world(|text| text);
    assert_eq!(found(&manifests), (1, 0), "a token of this proxy");
    manifests.tokens[0].spec.proxy_ref.namespace = None;
    assert_eq!(found(&manifests), (0, 0), "one of a proxy of the same name beside it");
}

#[test]
fn directory_is_read_where_manifests_are_and_refused_in_a_cluster() {
    let manifests = world(|text| {
        text.replace("{apiKey: {secretRef: {name: key}}}}]}\n---\napiVersion: router.link-assistant.dev/v1alpha1\nkind: UpstreamProvider\nmetadata: {name: unused", "{directory: {path: /claude}}}]}\n---\napiVersion: router.link-assistant.dev/v1alpha1\nkind: UpstreamProvider\nmetadata: {name: unused")
    });
    let source = |compiled: &Compiled| {
        let Backend::Anthropic { accounts, .. } = &compiled.snapshot.providers[0].backend;
        accounts[0].credential.clone()
    };
    let here = compiled(&manifests, Mode::Manifests);
    assert_eq!(
        (source(&here), here.faults.len()),
        (CredentialSource::Directory { path: "/claude".to_owned() }, 0)
    );
    let there = compiled(&manifests, Mode::Cluster);
    assert_eq!(source(&there), CredentialSource::Published);
    assert_eq!(there.faults[0].reason, reason::DIRECTORY_IN_CLUSTER);
    assert_eq!(there.faults[0].field, "spec.backend.anthropic.accounts[0].credential.directory");
}

const IDENTITY: &str = r#"
---
apiVersion: router.link-assistant.dev/v1alpha1
kind: UpstreamProvider
metadata: {name: company, namespace: platform}
spec:
  backend:
    anthropic:
      refresh: {mode: External}
      accounts:
      - name: workload
        credential:
          workloadIdentity:
            federationRuleId: fdrl_1
            organizationId: 00000000-0000-0000-0000-000000000001
            serviceAccountId: svac_1
            tokenFrom: FROM
"#;

/// A world in which the provider `company` has one workload identity, whose token is from `token_from`.
fn world_of_identity(token_from: &str) -> Manifests {
    world(|text| {
        let others: Vec<_> = text.split("---").filter(|part| !part.contains("{name: company, ")).collect();
        others.join("---") + &IDENTITY.replace("FROM", token_from)
    })
}

#[test]
fn identity_of_a_service_account_is_served_in_a_cluster_once_it_is_exchanged() {
    let manifests = world_of_identity("{serviceAccount: {name: claude}}");
    let waiting = compiled(&manifests, Mode::Cluster);
    let Backend::Anthropic { accounts, .. } = &waiting.snapshot.providers[0].backend;
    let account = &accounts[0];
    assert_eq!((&account.credential, account.renewable), (&CredentialSource::Published, true));
    assert_eq!((waiting.faults.len(), waiting.credentials.contains_key("company/workload")), (0, false));
    let credential = claude::setup_token("sk-ant-oat01-exchanged").unwrap();
    let exchanged = [("company/workload", &credential), ("company/other", &credential)];
    let exchanged = exchanged.map(|(key, credential)| (key.to_owned(), credential.clone())).into();
    let served = compiled_with(&manifests, Mode::Cluster, &exchanged);
    assert_eq!(served.snapshot, waiting.snapshot);
    assert_eq!(served.credentials.get("company/workload"), Some(&credential));
    assert_eq!(served.credentials.get("company/other"), None, "no account asks for it");
    let here = compiled(&manifests, Mode::Manifests);
    assert_eq!(here.faults[0].reason, reason::SERVICE_ACCOUNT_OUTSIDE_CLUSTER);
}

#[test]
fn identity_in_a_file_is_exchanged_where_manifests_are_and_refused_in_a_cluster() {
    let manifests = world_of_identity("{file: {path: /run/token}}");
    let here = compiled(&manifests, Mode::Manifests);
    assert_eq!(here.faults, []);
    let Backend::Anthropic { accounts, .. } = &here.snapshot.providers[0].backend;
    let CredentialSource::Identity { federation, token_file } = &accounts[0].credential else {
        panic!("{accounts:?}")
    };
    let ids = (federation.federation_rule_id.as_str(), federation.service_account_id.as_str());
    assert_eq!((ids, token_file.as_str()), (("fdrl_1", "svac_1"), "/run/token"));
    let there = compiled(&manifests, Mode::Cluster);
    assert_eq!(there.faults[0].reason, reason::TOKEN_FILE_IN_CLUSTER);
    let field = "spec.backend.anthropic.accounts[0].credential.workloadIdentity.tokenFrom.file";
    assert_eq!(there.faults[0].field, field);
}

#[test]
fn order_of_objects_changes_nothing() {
    let mut manifests = world(|text| text);
    let first = compiled(&manifests, Mode::Cluster);
    manifests.providers.reverse();
    manifests.tokens.reverse();
    assert_eq!(compiled(&manifests, Mode::Cluster), first);
}

#[test]
fn fault_is_located_in_its_file() {
    let manifests = world(|text| text.replace("secretRef: {name: login}", "secretRef: {name: gone}"));
    let compiled = compiled(&manifests, Mode::Manifests);
    assert_eq!(
        manifests.locate(&compiled.faults[0]).to_string(),
        "world.yaml: UpstreamProvider platform/team: spec.backend.anthropic.accounts[0].credential.oauth.secretRef.name: Secret platform/gone does not exist"
    );
}

#[test]
fn limits_in_the_snapshot_are_those_in_force_and_a_token_above_a_ceiling_is_left_out() {
    let (compiled, faults) = faults_of(
        "  tokens: {allowedNamespaces",
        "  tokens: {defaults: {concurrency: {limit: 2}}, ceilings: {maxRequests: 7, maxOutputTokens: 9}, allowedNamespaces",
    );
    assert_eq!(faults, [""; 0]);
    let limits = &compiled.snapshot.tokens[0].limits;
    assert_eq!((limits.max_requests, limits.max_output_tokens), (Some(7), Some(9)));
    assert_eq!(limits.concurrency.as_ref().unwrap().limit, 2);
    let (compiled, faults) =
        faults_of("  tokens: {allowedNamespaces", "  tokens: {ceilings: {maxRequests: 6}, allowedNamespaces");
    assert!(compiled.snapshot.tokens.is_empty());
    assert_eq!(
        faults,
        [
            "RouterToken/agent spec.limits.maxRequests: AboveCeiling: is \"7\": the proxy's tokens.ceilings.maxRequests allows at most \"6\"; ask for less"
        ]
    );
}

#[test]
fn token_is_refused_while_the_limits_of_its_proxy_cannot_be_judged() {
    let mut manifests = world(|text| text);
    let calendar = serde_json::json!({ "budgets": [{ "name": "a", "unit": "USD", "limit": "1",
        "window": { "calendar": { "every": "Day", "timeZone": "Mars/Base" } } }] });
    manifests.proxies[0].spec.tokens.ceilings = serde_json::from_value(calendar).unwrap();
    let compiled = compiled(&manifests, Mode::Cluster);
    assert!(compiled.snapshot.tokens.is_empty());
    let kinds: Vec<_> = compiled.faults.iter().map(|fault| (fault.kind, fault.field.as_str())).collect();
    let zone = "spec.tokens.ceilings.budgets[0].window.calendar.timeZone";
    assert_eq!(kinds, [("RouterProxy", zone), ("RouterToken", "spec.proxyRef")]);
}

#[test]
fn prices_travel_with_their_provider_and_a_wrong_one_takes_its_credentials_away() {
    let price = |more: &str| {
        world(|text| {
            text.replacen(
                "  timeouts: {idle: 1m30s}",
                &format!(
                    "  timeouts: {{idle: 1m30s}}\n  pricing: {{overrides: [{{model: our-model{more}}}]}}"
                ),
                1,
            )
        })
    };
    let mut manifests = price(
        ", perMillion: {input: \"1\", cacheWrite5m: \"1\", cacheWrite1h: \"1\", cacheRead: \"1\", output: \"1\"}, contextWindow: 9, maxOutputTokens: 9",
    );
    let served = compiled(&manifests, Mode::Cluster);
    assert_eq!((served.snapshot.providers[1].pricing.len(), served.faults.len()), (1, 0));
    let provider = manifests.providers.iter_mut().find(|p| !p.spec.pricing.is_empty()).unwrap();
    provider.spec.pricing.overrides[0].context_window = None;
    let refused = compiled(&manifests, Mode::Cluster);
    assert_eq!(refused.faults[0].field, "spec.pricing.overrides[0].contextWindow");
    assert_eq!(refused.credentials.keys().collect::<Vec<_>>(), ["company/key"]);
}

#[test]
fn redis_without_its_secret_is_said_in_a_cluster() {
    let redis = "  ledger: {redis: {urlSecretRef: {name: gone, key: url}}}\n  tokens: {allowed";
    let (_, faults) = faults_of("  tokens: {allowed", redis);
    assert_eq!(
        faults,
        [
            "RouterProxy/gateway spec.ledger.redis.urlSecretRef.name: SecretNotFound: Secret platform/gone does not exist"
        ]
    );
    let (_, faults) = faults_of("  tokens: {allowed", &redis.replace("gone", "key"));
    assert_eq!(
        faults,
        [
            "RouterProxy/gateway spec.ledger.redis.urlSecretRef.key: SecretKeyNotFound: Secret key has no key \"url\""
        ]
    );
    let (_, faults) =
        faults_of("  tokens: {allowed", &redis.replace("name: gone, key: url", "name: key, key: api-key"));
    assert_eq!(faults, [""; 0]);
}
