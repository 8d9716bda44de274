//! ServiceAccount, Service and StatefulSet of a RouterProxy.
//!
//! The pods satisfy the Pod Security Standard `restricted`, have no rights at the API server, and write
//! only to their data volume.

use std::collections::BTreeMap;

use la_crds::names::{LABEL_COMPONENT, LABEL_MANAGED_BY, LABEL_NAME, LABEL_PROXY, MANAGER, snapshot_secret};
use la_crds::router_proxy::{Ledger, LedgerSpec, OnUnavailable};
use serde_json::{Value, json};

use super::{Owner, sealed};
use crate::names;

/// Where the snapshot Secret is mounted: as a directory, because a `subPath` mount never changes.
const SNAPSHOT_DIRECTORY: &str = "/etc/la-router/snapshot";

/// Where the ledger lives.
const DATA_DIRECTORY: &str = "/var/lib/la-router";

/// Where the Secret with the URL of Redis is mounted.
const REDIS_DIRECTORY: &str = "/etc/la-router/redis";

/// The file in it.
const REDIS_URL: &str = "url";

/// The user of the proxy's image.
const USER: i64 = 65_532;

/// Seconds between the end of the drain and the kubelet's SIGKILL.
const GRACE_BEYOND_DRAIN_SECONDS: u64 = 10;

/// What pods of a proxy are made of.
pub(crate) struct Pods<'a> {
    /// The RouterProxy.
    pub(crate) owner: Owner<'a>,
    /// The image.
    pub(crate) image: &'a str,
    /// How many pods: 0 or 1 unless the ledger is in Redis.
    pub(crate) replicas: i32,
    /// How long streams may go on after SIGTERM.
    pub(crate) drain: std::time::Duration,
    /// Requests and limits, as users wrote them.
    pub(crate) resources: Value,
    /// Where they count use.
    pub(crate) ledger: &'a LedgerSpec,
    /// Whether each request is logged.
    pub(crate) request_log: bool,
    /// Admin port.
    pub(crate) admin_port: u16,
}

/// The labels of everything that belongs to `proxy`.
pub(crate) fn labels(proxy: &str) -> BTreeMap<&'static str, &str> {
    BTreeMap::from([
        (LABEL_NAME, MANAGER),
        ("app.kubernetes.io/instance", proxy),
        (LABEL_COMPONENT, names::COMPONENT_PROXY),
        (LABEL_MANAGED_BY, MANAGER),
        (LABEL_PROXY, proxy),
    ])
}

/// The ServiceAccount: an identity without any right and without a mounted token.
pub(crate) fn service_account(owner: &Owner<'_>) -> Value {
    sealed(json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata(owner),
        "automountServiceAccountToken": false,
    }))
}

/// The Service that agents call. The admin port is not part of it.
pub(crate) fn service(owner: &Owner<'_>) -> Value {
    sealed(json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(owner),
        "spec": {
            "type": "ClusterIP",
            "selector": { (LABEL_PROXY): owner.name, (LABEL_COMPONENT): names::COMPONENT_PROXY },
            "ports": [{ "name": "http", "port": 8080, "protocol": "TCP", "targetPort": "http" }],
        },
    }))
}

impl Pods<'_> {
    /// The StatefulSet. The volume of an embedded ledger outlives it: it remembers what was used.
    pub(crate) fn stateful_set(&self) -> Value {
        let mut spec = json!({
            "replicas": self.replicas,
            "serviceName": self.owner.name,
            "podManagementPolicy": "Parallel",
            "selector": { "matchLabels": { LABEL_PROXY: self.owner.name,
                LABEL_COMPONENT: names::COMPONENT_PROXY } },
            "template": { "metadata": { "labels": labels(self.owner.name) }, "spec": self.pod() },
        });
        if let (Some(claim), Some(spec)) = (self.claim(), spec.as_object_mut()) {
            spec.insert("volumeClaimTemplates".to_owned(), json!([claim]));
        }
        sealed(json!({
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "metadata": metadata(&self.owner),
            "spec": spec,
        }))
    }

    /// The claim for the volume of an embedded ledger.
    fn claim(&self) -> Option<Value> {
        let Ledger::Embedded(ledger) = &self.ledger.place else { return None };
        let storage = &ledger.storage;
        let mut claim = json!({
            "accessModes": ["ReadWriteOnce"],
            "resources": { "requests": { "storage": storage.size } },
        });
        if let (Some(class), Some(claim)) = (&storage.storage_class_name, claim.as_object_mut()) {
            claim.insert("storageClassName".to_owned(), class.as_str().into());
        }
        Some(json!({ "metadata": { "name": "data" }, "spec": claim }))
    }

    fn pod(&self) -> Value {
        let grace_seconds = self.drain.as_secs().saturating_add(GRACE_BEYOND_DRAIN_SECONDS);
        json!({
            "serviceAccountName": self.owner.name,
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "terminationGracePeriodSeconds": grace_seconds,
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER,
                "fsGroupChangePolicy": "OnRootMismatch",
                "seccompProfile": { "type": "RuntimeDefault" },
            },
            "containers": [self.container()],
            "volumes": self.volumes(),
        })
    }

    fn volumes(&self) -> Vec<Value> {
        let mut volumes = vec![json!({ "name": "snapshot", "secret": {
            "secretName": snapshot_secret(self.owner.name), "defaultMode": 0o440 } })];
        if !matches!(self.ledger.place, Ledger::Embedded(_)) {
            volumes.push(json!({ "name": "data", "emptyDir": {} }));
        }
        if let Some(url) = self.ledger.url_secret() {
            volumes.push(json!({ "name": "redis", "secret": { "secretName": url.name, "defaultMode": 0o440,
                "items": [{ "key": url.key, "path": REDIS_URL }] } }));
        }
        volumes
    }

    fn mounts(&self) -> Vec<Value> {
        let mut mounts = vec![
            json!({ "name": "snapshot", "mountPath": SNAPSHOT_DIRECTORY, "readOnly": true }),
            json!({ "name": "data", "mountPath": DATA_DIRECTORY }),
        ];
        if self.ledger.url_secret().is_some() {
            mounts.push(json!({ "name": "redis", "mountPath": REDIS_DIRECTORY, "readOnly": true }));
        }
        mounts
    }

    fn environment(&self) -> Vec<Value> {
        let place = match self.ledger.place {
            Ledger::Embedded(_) => "embedded",
            Ledger::Redis(_) => "redis",
            Ledger::Memory(_) => "memory",
        };
        let mut environment = vec![
            json!({ "name": "POD_UID", "valueFrom": { "fieldRef": { "apiVersion": "v1",
                "fieldPath": "metadata.uid" } } }),
            json!({ "name": "LEDGER", "value": place }),
        ];
        // The proxy refuses settings that mean nothing to its ledger.
        if self.ledger.url_secret().is_some() {
            let otherwise = match self.ledger.on_unavailable {
                OnUnavailable::Deny => "deny",
                OnUnavailable::Allow => "allow",
            };
            let file = format!("{REDIS_DIRECTORY}/{REDIS_URL}");
            environment.push(json!({ "name": "LEDGER_ON_UNAVAILABLE", "value": otherwise }));
            environment.push(json!({ "name": "REDIS_URL_FILE", "value": file }));
        }
        environment
    }

    fn container(&self) -> Value {
        json!({
            "name": "la-router",
            "image": self.image,
            "args": self.arguments(),
            "env": self.environment(),
            "ports": [
                { "name": "http", "containerPort": 8080, "protocol": "TCP" },
                { "name": "admin", "containerPort": self.admin_port, "protocol": "TCP" },
            ],
            "startupProbe": probe("/livez", 1, 60),
            "livenessProbe": probe("/livez", 10, 3),
            "readinessProbe": probe("/readyz", 2, 1),
            "resources": self.resources,
            "securityContext": {
                "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "runAsNonRoot": true,
                "capabilities": { "drop": ["ALL"] },
            },
            "volumeMounts": self.mounts(),
        })
    }

    fn arguments(&self) -> Vec<String> {
        let admin = format!("0.0.0.0:{}", self.admin_port);
        let drain = la_core::duration::format(self.drain);
        let mut arguments: Vec<String> = [
            ["--snapshot-dir", SNAPSHOT_DIRECTORY],
            ["--data-dir", DATA_DIRECTORY],
            ["--host", "0.0.0.0"],
            ["--port", "8080"],
            ["--admin-listen", &admin],
            ["--drain", &drain],
        ]
        .into_iter()
        .flatten()
        .map(str::to_owned)
        .collect();
        arguments.insert(0, "serve".to_owned());
        if !self.request_log {
            arguments.extend(["--request-log".to_owned(), "false".to_owned()]);
        }
        arguments
    }
}

fn metadata(owner: &Owner<'_>) -> Value {
    json!({
        "name": owner.name,
        "namespace": owner.namespace,
        "labels": labels(owner.name),
        "ownerReferences": [owner.reference()],
    })
}

fn probe(path: &str, period_seconds: u32, failures: u32) -> Value {
    json!({
        "httpGet": { "path": path, "port": "admin", "scheme": "HTTP" },
        "periodSeconds": period_seconds, "failureThreshold": failures, "timeoutSeconds": 2,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pods(ledger: &LedgerSpec) -> Pods<'_> {
        let owner = Owner { kind: "RouterProxy", namespace: "platform", name: "gateway", uid: "uid-1" };
        Pods {
            owner,
            image: "la-router:1",
            replicas: 1,
            drain: std::time::Duration::from_secs(30),
            resources: json!({}),
            ledger,
            request_log: true,
            admin_port: 8081,
        }
    }

    #[test]
    fn stateful_set_is_a_stateful_set_to_the_api_types() {
        let set: k8s_openapi::api::apps::v1::StatefulSet =
            serde_json::from_value(pods(&LedgerSpec::default()).stateful_set()).unwrap();
        let pod = set.spec.unwrap().template.spec.unwrap();
        assert_eq!(pod.automount_service_account_token, Some(false));
        assert_eq!(pod.termination_grace_period_seconds, Some(40));
        let snapshot = &pod.containers[0].volume_mounts.as_ref().unwrap()[0];
        assert_eq!(snapshot.sub_path, None, "a subPath mount never sees a new snapshot");
    }

    #[test]
    fn pod_is_told_where_to_count_use_and_has_what_that_needs() {
        let redis = json!({ "redis": { "urlSecretRef": { "name": "shared", "key": "redis-url" } } });
        let allow = json!({ "redis": redis["redis"], "onUnavailable": "Allow" });
        let file = Some("/etc/la-router/redis/url");
        let cases = [
            ("embedded", json!({ "embedded": {} }), ("embedded", None), None, true),
            ("memory", json!({ "memory": {} }), ("memory", None), None, false),
            ("redis", redis, ("redis", Some("deny")), file, false),
            ("redis that may be away", allow, ("redis", Some("allow")), file, false),
        ];
        for (sentence, ledger, (place, otherwise), file, keeps) in cases {
            let ledger: LedgerSpec = serde_json::from_value(ledger).unwrap();
            let set: k8s_openapi::api::apps::v1::StatefulSet =
                serde_json::from_value(pods(&ledger).stateful_set()).unwrap();
            let spec = set.spec.unwrap();
            assert_eq!(spec.volume_claim_templates.is_some(), keeps, "{sentence}");
            let pod = spec.template.spec.unwrap();
            let container = &pod.containers[0];
            let variable = |name: &str| {
                let environment = container.env.iter().flatten();
                environment.filter(|one| one.name == name).find_map(|one| one.value.as_deref())
            };
            assert_eq!(variable("LEDGER"), Some(place), "{sentence}");
            assert_eq!(variable("LEDGER_ON_UNAVAILABLE"), otherwise, "{sentence}");
            assert_eq!(variable("REDIS_URL_FILE"), file, "{sentence}");
            let volumes = pod.volumes.unwrap();
            let secret = volumes.iter().find(|volume| volume.name == "redis").map(|volume| {
                let secret = volume.secret.as_ref().unwrap();
                let item = &secret.items.as_ref().unwrap()[0];
                (secret.secret_name.as_deref().unwrap(), item.key.as_str(), item.path.as_str())
            });
            assert_eq!(secret, file.map(|_| ("shared", "redis-url", "url")), "{sentence}");
            let given: Vec<_> = volumes.iter().map(|volume| volume.name.as_str()).collect();
            for mount in container.volume_mounts.iter().flatten() {
                let claimed = keeps && mount.name == "data";
                assert!(claimed || given.contains(&mount.name.as_str()), "{sentence}: {}", mount.name);
            }
        }
    }

    #[test]
    fn pod_satisfies_the_restricted_standard() {
        let set = pods(&LedgerSpec::default()).stateful_set();
        let pod = &set["spec"]["template"]["spec"];
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
        let container = &pod["containers"][0]["securityContext"];
        assert_eq!(container["allowPrivilegeEscalation"], false);
        assert_eq!(container["capabilities"]["drop"], json!(["ALL"]));
        assert_eq!(container["readOnlyRootFilesystem"], true);
    }

    #[test]
    fn service_does_not_offer_the_admin_port() {
        let owner = Owner { kind: "RouterProxy", namespace: "platform", name: "gateway", uid: "uid-1" };
        assert_eq!(service(&owner)["spec"]["ports"].as_array().unwrap().len(), 1);
    }
}
