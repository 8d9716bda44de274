//! The chart, the plain manifests and the samples against a real API server, in a namespace that enforces
//! the Pod Security Standard `restricted`.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use la_tests::cluster::{ApiServer, component};

const NAMESPACE: &str = "la-router";

/// The repository.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/"))
}

fn read(path: &str) -> Result<String> {
    std::fs::read_to_string(root().join(path)).with_context(|| path.to_owned())
}

fn rendered(options: &[&str]) -> Result<String> {
    let output = Command::new(component("helm", "helm")?)
        .args(["template", "la-router", "charts/la-router", "--namespace", NAMESPACE])
        .args(options)
        .current_dir(root())
        .output()?;
    ensure!(output.status.success(), "helm template: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// A namespace that enforces `restricted`, and says so of Deployments too.
fn restricted(api: &ApiServer, name: &str) -> Result<()> {
    let levels = ["enforce", "warn"].map(|mode| format!("pod-security.kubernetes.io/{mode}: restricted"));
    let labels = levels.join(", ");
    api.apply(
        "default",
        &format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}, labels: {{{labels}}}}}}}"),
    )
}

/// What the API server says against `yaml`, without storing it: refusals and warnings.
fn said_against(api: &ApiServer, yaml: &str) -> Result<String> {
    let answer =
        api.kubectl(&["apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-"], yaml)?;
    Ok(if answer.success && answer.stderr.is_empty() { String::new() } else { answer.stderr })
}

#[test]
fn chart_and_samples_are_accepted_where_restricted_is_enforced() {
    let api = ApiServer::start().unwrap();
    restricted(&api, NAMESPACE).unwrap();
    restricted(&api, "agents").unwrap();
    let chart = rendered(&[]).unwrap();
    assert_eq!(said_against(&api, &chart).unwrap(), "", "the rendered chart");
    assert_eq!(said_against(&api, &read("deploy/install.yaml").unwrap()).unwrap(), "", "deploy/install.yaml");

    let root_user = chart.replace("runAsNonRoot: true", "runAsNonRoot: false");
    assert!(said_against(&api, &root_user).unwrap().contains("restricted"), "the check sees nothing");

    api.apply(NAMESPACE, &chart).unwrap();
    let providers = ["provider", "accounts", "workload-identity"];
    let others = ["proxy", "budget", "token", "agent-job", "claude-code", "forwarder-job"];
    for sample in providers.into_iter().chain(others) {
        let yaml = read(&format!("deploy/samples/{sample}.yaml")).unwrap();
        assert_eq!(said_against(&api, &yaml).unwrap(), "", "deploy/samples/{sample}.yaml");
    }
    operator_has_its_rights_and_no_more(&api);
    operator_asks_for_tokens_of_listed_service_accounts_only(&api);
    tenants_write_tokens_only(&api);
}

fn can(api: &ApiServer, who: &[&str], verb: &str, what: &str, namespace: &str) -> bool {
    let what: Vec<&str> = what.split(' ').collect();
    let question = [&["auth", "can-i", verb], &what[..], &["-n", namespace, "--quiet"], who].concat();
    api.kubectl(&question, "").is_ok_and(|answer| answer.success)
}

fn operator_has_its_rights_and_no_more(api: &ApiServer) {
    let operator = ["--as", "system:serviceaccount:la-router:la-router-operator"];
    let cases = [
        ("watch", "routertokens.router.link-assistant.dev", "agents", true),
        ("patch", "routerproxies.router.link-assistant.dev --subresource=status", "agents", true),
        ("watch", "routerbudgets.router.link-assistant.dev", "agents", true),
        ("patch", "routerbudgets.router.link-assistant.dev --subresource=status", "agents", true),
        ("create", "routerbudgets.router.link-assistant.dev", "agents", false),
        ("create", "secrets", "agents", true),
        ("update", "secrets", "agents", true),
        ("patch", "pods", "agents", true),
        ("patch", "leases.coordination.k8s.io/la-router-operator", NAMESPACE, true),
        ("patch", "leases.coordination.k8s.io/another", NAMESPACE, false),
        ("create", "routertokens.router.link-assistant.dev", "agents", false),
        ("delete", "routerproxies.router.link-assistant.dev", "agents", false),
        ("create", "pods", "agents", false),
        ("delete", "secrets", "agents", false),
        ("create", "pods --subresource=exec", "agents", false),
        ("create", "serviceaccounts --subresource=token", "agents", false),
        ("delete", "namespaces", "agents", false),
        ("create", "clusterrolebindings.rbac.authorization.k8s.io", "agents", false),
    ];
    for (verb, what, namespace, wanted) in cases {
        assert_eq!(
            can(api, &operator, verb, what, namespace),
            wanted,
            "operator: {verb} {what} in {namespace}"
        );
    }
}

fn operator_asks_for_tokens_of_listed_service_accounts_only(api: &ApiServer) {
    let listed = r#"workloadIdentity.serviceAccounts=[{"namespace":"la-router","name":"claude"}]"#;
    let only = ["--show-only", "templates/operator-identities.yaml", "--set-json", listed];
    api.apply(NAMESPACE, &rendered(&only).unwrap()).unwrap();
    let operator = ["--as", "system:serviceaccount:la-router:la-router-operator"];
    for (what, namespace, wanted) in [
        ("serviceaccounts/claude --subresource=token", NAMESPACE, true),
        ("serviceaccounts/la-router-operator --subresource=token", NAMESPACE, false),
        ("serviceaccounts/claude --subresource=token", "agents", false),
    ] {
        assert_eq!(can(api, &operator, "create", what, namespace), wanted, "{what} in {namespace}");
    }
}

fn tenants_write_tokens_only(api: &ApiServer) {
    let binding = "{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: team}, \
         roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: edit}, \
         subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: dev}]}";
    assert!(api.apply("agents", binding).is_ok(), "the role binding of a tenant");
    let kinds = [
        ("routertokens", true),
        ("routerbudgets", false),
        ("upstreamproviders", false),
        ("routerproxies", false),
    ];
    let aggregated = || {
        let can_write =
            can(api, &["--as", "dev"], "create", "routertokens.router.link-assistant.dev", "agents");
        Ok(can_write.then_some(()))
    };
    let waited = la_tests::cluster::eventually(
        "roles to be aggregated",
        std::time::Duration::from_secs(20),
        aggregated,
    );
    assert!(waited.is_ok(), "{waited:?}");
    for (kind, wanted) in kinds {
        let what = format!("{kind}.router.link-assistant.dev");
        assert!(can(api, &["--as", "dev"], "get", &what, "agents"), "tenant: get {kind}");
        assert_eq!(can(api, &["--as", "dev"], "create", &what, "agents"), wanted, "tenant: create {kind}");
    }
}
