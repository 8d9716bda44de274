//! What the other tests of this directory rely on.

use std::net::IpAddr;
use std::time::Duration;

use la_tests::cluster::{ApiServer, Client, Kubelet, eventually};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn garbage_collection_by_owner_reference_is_real() {
    let api = ApiServer::shared().unwrap();
    let namespace = api.namespace("collected").unwrap();
    let maps = format!("/api/v1/namespaces/{namespace}/configmaps");
    let map = |name: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
    let owner = api.client().create(&maps, &map("owner")).unwrap();
    let mut owned = map("owned");
    owned["metadata"]["ownerReferences"] =
        json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["metadata"]["uid"]}]);
    api.client().create(&maps, &owned).unwrap();
    api.client().delete(&format!("{maps}/owner")).unwrap();
    let gone = || Ok(api.client().get(&format!("{maps}/owned"))?.is_none().then_some(()));
    eventually("the owned object to be collected", LIMIT, gone).unwrap();
}

#[test]
fn refused_object_comes_with_the_servers_words() {
    let api = ApiServer::shared().unwrap();
    let namespace = api.namespace("refused").unwrap();
    let error =
        api.apply(&namespace, "{apiVersion: v1, kind: ConfigMap, metadata: {name: Upper}}").unwrap_err();
    assert!(error.to_string().contains("lowercase RFC 1123 subdomain"), "{error}");
}

#[test]
fn audit_log_counts_only_what_operators_write() {
    let api = ApiServer::shared().unwrap();
    let namespace = api.namespace("audited").unwrap();
    let mark = api.audit_mark();
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ours"}});
    api.client().create(&format!("/api/v1/namespaces/{namespace}/configmaps"), &map).unwrap();
    let config = api.operator_kubeconfig();
    let create =
        ["--kubeconfig", config.to_str().unwrap(), "create", "configmap", "theirs", "-n", &namespace];
    let answer = api.kubectl(&create, "").unwrap();
    assert!(answer.success, "{}", answer.stderr);
    let ours = |write: &la_tests::cluster::Write| write.namespace == namespace;
    let writes: Vec<_> = api.operator_writes_since(mark).unwrap().into_iter().filter(ours).collect();
    assert_eq!(writes.len(), 1, "{writes:?}");
    let write = &writes[0];
    assert_eq!(
        (&*write.verb, &*write.resource, &*write.name, write.status),
        ("create", "configmaps", "theirs", 201)
    );
}

const SET: &str = r#"
apiVersion: v1
kind: Secret
metadata: {name: snapshot}
stringData:
  snapshot.json: '{"version":1,"epoch":1,"generation":1,"proxy":"x/gateway","audience":"la-router/x/gateway",
    "keys":[],"adminKeys":[],"tokens":[],"providers":[],"routes":[]}'
  credentials.json: '{}'
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: gateway}
spec:
  serviceName: gateway
  selector: {matchLabels: {app: gateway}}
  template:
    metadata: {labels: {app: gateway}}
    spec:
      containers:
      - name: proxy
        image: ignored
        args: [serve, --snapshot-dir, /etc/la-router/snapshot, --data-dir, /var/lib/la-router, --host, 0.0.0.0,
          --port, "8080", --admin-listen, "0.0.0.0:8081"]
        env: [{name: POD_UID, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}]
        ports: [{name: http, containerPort: 8080}, {name: admin, containerPort: 8081}]
        readinessProbe: {httpGet: {path: /readyz, port: admin}}
        volumeMounts:
        - {name: snapshot, mountPath: /etc/la-router/snapshot}
        - {name: data, mountPath: /var/lib/la-router}
      volumes:
      - {name: snapshot, secret: {secretName: snapshot}}
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
"#;

#[test]
fn pod_of_a_stateful_set_is_a_real_proxy_that_comes_back() {
    let api = ApiServer::shared().unwrap();
    let namespace = api.namespace("kubelet").unwrap();
    let kubelet = Kubelet::start(api, &namespace).unwrap();
    api.apply(&namespace, SET).unwrap();
    let pod = format!("/api/v1/namespaces/{namespace}/pods/gateway-0");
    let ready = |restarts: u64| {
        eventually("the proxy's pod to be ready", LIMIT, || {
            let pod = api.client().get(&pod)?;
            let state = pod.map(|pod| pod["status"]["containerStatuses"][0].clone()).unwrap_or_default();
            Ok((state["ready"] == true && state["restartCount"] == restarts).then_some(()))
        })
        .unwrap_or_else(|error| panic!("{error}: {}", kubelet.log("gateway-0")));
    };
    ready(0);
    let address = kubelet.address("gateway-0").unwrap();
    assert!(is_serving(address));
    kubelet.kill("gateway-0");
    assert!(!is_serving(address));
    ready(1);
    assert!(is_serving(address));
    api.client().delete(&format!("/apis/apps/v1/namespaces/{namespace}/statefulsets/gateway")).unwrap();
    let ended = || Ok((!is_serving(address)).then_some(()));
    eventually("the deleted pod's process to end", LIMIT, ended).unwrap();
}

fn is_serving(address: IpAddr) -> bool {
    Client::new((address, 8080).into())
        .send("GET", "/health", "", "")
        .is_ok_and(|answer| answer.status == 200)
}
