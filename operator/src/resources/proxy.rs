//! ServiceAccount, Service and StatefulSet of a RouterProxy.
//!
//! The pods satisfy the Pod Security Standard `restricted`, have no rights at the API server, and write
//! only to their data volume.

use std::collections::BTreeMap;

use la_crds::names::{LABEL_COMPONENT, LABEL_MANAGED_BY, LABEL_NAME, LABEL_PROXY, MANAGER, snapshot_secret};
use serde_json::{Value, json};

use super::{Owner, sealed};
use crate::names;

/// Where the snapshot Secret is mounted: as a directory, because a `subPath` mount never changes.
const SNAPSHOT_DIRECTORY: &str = "/etc/la-router/snapshot";

/// Where the ledger lives.
const DATA_DIRECTORY: &str = "/var/lib/la-router";

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
    /// How many pods: 0 or 1 while the ledger is embedded.
    pub(crate) replicas: i32,
    /// How long streams may go on after SIGTERM.
    pub(crate) drain: std::time::Duration,
    /// Requests and limits, as users wrote them.
    pub(crate) resources: Value,
    /// Size of the ledger's volume.
    pub(crate) storage_size: &'a str,
    /// Its storage class; the cluster's default when absent.
    pub(crate) storage_class: Option<&'a str>,
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
    /// The StatefulSet. Its volume outlives it: the ledger remembers what was used.
    pub(crate) fn stateful_set(&self) -> Value {
        let mut claim = json!({
            "accessModes": ["ReadWriteOnce"],
            "resources": { "requests": { "storage": self.storage_size } },
        });
        if let (Some(class), Some(claim)) = (self.storage_class, claim.as_object_mut()) {
            claim.insert("storageClassName".to_owned(), class.into());
        }
        sealed(json!({
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "metadata": metadata(&self.owner),
            "spec": {
                "replicas": self.replicas,
                "serviceName": self.owner.name,
                "podManagementPolicy": "Parallel",
                "selector": { "matchLabels": { (LABEL_PROXY): self.owner.name,
                    (LABEL_COMPONENT): names::COMPONENT_PROXY } },
                "template": { "metadata": { "labels": labels(self.owner.name) }, "spec": self.pod() },
                "volumeClaimTemplates": [{ "metadata": { "name": "data" }, "spec": claim }],
            },
        }))
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
            "volumes": [{ "name": "snapshot", "secret": {
                "secretName": snapshot_secret(self.owner.name), "defaultMode": 0o440 } }],
        })
    }

    fn container(&self) -> Value {
        json!({
            "name": "la-router",
            "image": self.image,
            "args": self.arguments(),
            "env": [{ "name": "POD_UID", "valueFrom": { "fieldRef": { "apiVersion": "v1",
                "fieldPath": "metadata.uid" } } }],
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
            "volumeMounts": [
                { "name": "snapshot", "mountPath": SNAPSHOT_DIRECTORY, "readOnly": true },
                { "name": "data", "mountPath": DATA_DIRECTORY },
            ],
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

    fn pods() -> Pods<'static> {
        let owner = Owner { kind: "RouterProxy", namespace: "platform", name: "gateway", uid: "uid-1" };
        Pods {
            owner,
            image: "la-router:1",
            replicas: 1,
            drain: std::time::Duration::from_secs(30),
            resources: json!({}),
            storage_size: "1Gi",
            storage_class: None,
            request_log: true,
            admin_port: 8081,
        }
    }

    #[test]
    fn stateful_set_is_a_stateful_set_to_the_api_types() {
        let set: k8s_openapi::api::apps::v1::StatefulSet =
            serde_json::from_value(pods().stateful_set()).unwrap();
        let pod = set.spec.unwrap().template.spec.unwrap();
        assert_eq!(pod.automount_service_account_token, Some(false));
        assert_eq!(pod.termination_grace_period_seconds, Some(40));
        let snapshot = &pod.containers[0].volume_mounts.as_ref().unwrap()[0];
        assert_eq!(snapshot.sub_path, None, "a subPath mount never sees a new snapshot");
    }

    #[test]
    fn pod_satisfies_the_restricted_standard() {
        let set = pods().stateful_set();
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
