//! The running proxy pods: what they report, how they are hurried to a new snapshot, and what they are told ahead
//! of it.
//!
//! Only pods that a RouterProxy owns through its StatefulSet are asked. Each has one task that polls its
//! admin port, nudges its kubelet and tells it which tokens to refuse; it ends with the pod.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use la_core::report::Report;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::names::ObjectName;
use crate::published::Order;
use crate::shared::Shared;

mod admin;
mod lag;
mod link;
mod nudge;
mod poll;
pub(crate) mod spread;
mod tell;

/// What is known of one pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PodState {
    /// What it last reported, unless it cannot be reached now.
    pub(crate) report: Option<Report>,
    /// When it did.
    pub(crate) reported_at: Option<Instant>,
    /// Why it cannot be reached.
    pub(crate) unreachable: Option<String>,
    /// Whether it is on its way out.
    pub(crate) leaving: bool,
}

/// The running proxy pods.
#[derive(Default)]
pub(crate) struct Fleet {
    links: Mutex<HashMap<ObjectName, Link>>,
}

/// The task that follows one pod.
struct Link {
    proxy: ObjectName,
    uid: String,
    address: IpAddr,
    leaving: bool,
    state: watch::Sender<PodState>,
    _task: AbortOnDropHandle<()>,
}

/// A pod as a link needs it.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// The pod.
    pub(crate) pod: ObjectName,
    /// Its UID: whom the admin credential is good for.
    pub(crate) uid: String,
    /// Its proxy.
    pub(crate) proxy: ObjectName,
    /// Where it is.
    pub(crate) address: IpAddr,
    /// Whether it is on its way out.
    pub(crate) leaving: bool,
}

impl PodState {
    /// The order of the snapshot that the pod serves.
    pub(crate) fn order(&self) -> Option<Order> {
        self.report.as_ref().map(|report| (report.epoch, report.generation))
    }
}

impl Fleet {
    /// Follows exactly the `targets` of `proxy`.
    pub(crate) fn follow(&self, shared: &Arc<Shared>, proxy: &ObjectName, targets: Vec<Target>) {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted: BTreeMap<_, _> = targets.into_iter().map(|target| (target.pod.clone(), target)).collect();
        links.retain(|pod, link| {
            link.proxy != *proxy
                || wanted.get(pod).is_some_and(|t| t.uid == link.uid && t.address == link.address)
        });
        for (pod, target) in wanted {
            let link = links.entry(pod).or_insert_with(|| start(Arc::downgrade(shared), &target));
            if link.leaving != target.leaving {
                link.leaving = target.leaving;
                link.state.send_modify(|state| state.leaving = target.leaving);
            }
        }
    }

    /// What is known of the pods of `proxy`, by pod.
    pub(crate) fn pods_of(&self, proxy: &ObjectName) -> BTreeMap<String, PodState> {
        let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let own = links.iter().filter(|(_, link)| link.proxy == *proxy);
        own.map(|(pod, link)| (pod.name.clone(), link.state.borrow().clone())).collect()
    }

    /// Whether any pod of `proxy` reports.
    pub(crate) fn reports(&self, proxy: &ObjectName) -> bool {
        self.pods_of(proxy).values().any(|pod| pod.report.is_some())
    }

    /// Whether there are pods of `proxy`, and all of them serve a snapshot of at least `order`.
    pub(crate) fn serves(&self, proxy: &ObjectName, order: Order) -> bool {
        let pods = self.pods_of(proxy);
        let mut staying = pods.values().filter(|pod| !pod.leaving).peekable();
        staying.peek().is_some() && staying.all(|pod| pod.order().is_some_and(|served| served >= order))
    }
}

fn start(shared: Weak<Shared>, target: &Target) -> Link {
    let state = watch::Sender::new(PodState { leaving: target.leaving, ..PodState::default() });
    let task = tokio::spawn(link::run(shared, target.clone(), state.clone()));
    Link {
        proxy: target.proxy.clone(),
        uid: target.uid.clone(),
        address: target.address,
        leaving: target.leaving,
        state,
        _task: AbortOnDropHandle::new(task),
    }
}

/// The pod as a target, once it has an address and while it may serve.
pub(crate) fn target(pod: &Pod, proxy: &ObjectName) -> Option<Target> {
    let status = pod.status.as_ref()?;
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return None;
    }
    Some(Target {
        pod: ObjectName::of(pod),
        uid: pod.uid()?,
        proxy: proxy.clone(),
        address: status.pod_ip.as_deref()?.parse().ok()?,
        leaving: pod.metadata.deletion_timestamp.is_some(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pod_is_asked_once_it_has_an_address_and_until_it_ended() {
        let proxy = ObjectName::new("platform", "gateway");
        let pod = |status: serde_json::Value| -> Pod {
            serde_json::from_value(serde_json::json!({
                "metadata": { "name": "gateway-0", "namespace": "platform", "uid": "uid-1" }, "status": status,
            }))
            .unwrap()
        };
        let cases = [
            ("without an address", serde_json::json!({}), false),
            ("running", serde_json::json!({ "phase": "Running", "podIP": "10.0.0.1" }), true),
            ("failed", serde_json::json!({ "phase": "Failed", "podIP": "10.0.0.1" }), false),
            ("with a strange address", serde_json::json!({ "podIP": "example.com" }), false),
        ];
        for (sentence, status, expected) in cases {
            assert_eq!(target(&pod(status), &proxy).is_some(), expected, "a pod {sentence}");
        }
    }
}
