//! What follows from a report: which objects are reconciled because of it.

use std::collections::HashMap;
use std::sync::Arc;

use kube::ResourceExt as _;
use la_core::id::Subject;
use la_core::report::{Report, SubjectUsage};
use la_crds::conditions::{is_true, kind};
use tokio::sync::watch;

use super::{PodState, Target};
use crate::names::ObjectName;
use crate::shared::Shared;

/// Takes a report in and queues what it concerns.
pub(super) fn report(shared: &Arc<Shared>, target: &Target, state: &watch::Sender<PodState>, report: Report) {
    let before = state.borrow().report.clone();
    let changed = before.as_ref().map(without_usage) != Some(without_usage(&report));
    let order_changed =
        before.as_ref().map(|b| (b.epoch, b.generation)) != Some((report.epoch, report.generation));
    let accounts_changed = before.as_ref().map(|b| &b.accounts) != Some(&report.accounts);
    let used = newly_used(before.as_ref(), &report);
    state.send_modify(|state| {
        state.report = Some(report);
        state.unreachable = None;
    });
    if changed {
        shared.queues.proxies.push_named(&target.proxy.namespace, &target.proxy.name);
    }
    if accounts_changed {
        queue_providers(shared, &target.proxy.namespace);
    }
    if order_changed {
        queue_unprogrammed(shared, &target.proxy);
    }
    for subject in used {
        queue_subject(shared, &target.proxy, &subject);
    }
}

/// Takes a failed poll in. Once a pod cannot be reached, what it reported before is not known to hold.
pub(super) fn failure(shared: &Arc<Shared>, target: &Target, state: &watch::Sender<PodState>, why: String) {
    let news = state.borrow().unreachable.as_ref() != Some(&why);
    state.send_modify(|state| {
        state.report = None;
        state.unreachable = Some(why);
    });
    if news {
        shared.queues.proxies.push_named(&target.proxy.namespace, &target.proxy.name);
        queue_providers(shared, &target.proxy.namespace);
    }
}

/// Use by subject, summed over the pods of `proxy`.
pub(crate) fn usage_of(shared: &Shared, proxy: &ObjectName, subject: &Subject) -> Option<SubjectUsage> {
    let pods = shared.fleet.pods_of(proxy);
    let of_pod = |pod: &PodState| {
        pod.report.as_ref().and_then(|r| r.usage.iter().find(|usage| usage.subject == *subject).cloned())
    };
    pods.values().filter_map(of_pod).reduce(|sum, one| SubjectUsage {
        subject: sum.subject,
        requests: sum.requests.saturating_add(one.requests),
        open: sum.open.saturating_add(one.open),
        tokens: sum.tokens.plus(&one.tokens),
        nano_usd: sum.nano_usd.saturating_add(one.nano_usd),
        budgets: sum.budgets,
    })
}

fn without_usage(report: &Report) -> Report {
    Report { usage: Vec::new(), revision: 0, ..report.clone() }
}

fn newly_used(before: Option<&Report>, after: &Report) -> Vec<Subject> {
    let known: HashMap<&Subject, u64> = before
        .iter()
        .flat_map(|report| &report.usage)
        .map(|usage| (&usage.subject, usage.requests))
        .collect();
    let news = |usage: &&SubjectUsage| known.get(&usage.subject) != Some(&usage.requests);
    after.usage.iter().filter(news).map(|usage| usage.subject.clone()).collect()
}

fn queue_providers(shared: &Shared, namespace: &str) {
    for provider in shared.stores.providers.state() {
        if provider.namespace().as_deref() == Some(namespace) {
            shared.queues.providers.push_named(namespace, &provider.name_any());
        }
    }
}

fn queue_unprogrammed(shared: &Shared, proxy: &ObjectName) {
    for token in shared.stores.tokens_of(proxy) {
        let status = token.status.as_ref();
        if !status.is_some_and(|status| is_true(&status.conditions, kind::PROGRAMMED)) {
            shared.queues.tokens.push_named(&token.namespace().unwrap_or_default(), &token.name_any());
        }
    }
}

/// Subjects are `proxy/namespace/name`.
fn queue_subject(shared: &Shared, proxy: &ObjectName, subject: &Subject) {
    let mut parts = subject.as_str().splitn(3, '/');
    if let (Some(name), Some(namespace), Some(token)) = (parts.next(), parts.next(), parts.next())
        && name == proxy.name
    {
        shared.queues.tokens.push_named(namespace, token);
    }
}

#[cfg(test)]
mod tests {
    use la_core::usage::Usage;

    use super::*;

    fn used(name: &str, requests: u64) -> SubjectUsage {
        let subject = Subject::of("gateway", "team-a", name).unwrap();
        SubjectUsage {
            subject,
            requests,
            open: 0,
            tokens: Usage::default(),
            nano_usd: 0,
            budgets: Vec::new(),
        }
    }

    #[test]
    fn only_subjects_whose_use_changed_are_news() {
        let before = Report { usage: vec![used("a", 1), used("b", 2)], ..Report::default() };
        let after = Report { usage: vec![used("a", 1), used("b", 3), used("c", 1)], ..Report::default() };
        let news: Vec<_> = newly_used(Some(&before), &after).iter().map(ToString::to_string).collect();
        assert_eq!(news, ["gateway/team-a/b", "gateway/team-a/c"]);
        assert_eq!(newly_used(None, &after).len(), 3);
    }
}
