//! What follows from a report: which objects are reconciled because of it.

use std::collections::HashMap;
use std::sync::Arc;

use kube::ResourceExt as _;
use kube::runtime::reflector::ObjectRef;
use la_core::id::Subject;
use la_core::report::{Report, SubjectUsage};
use la_crds::RouterToken;
use la_crds::conditions::{is_true, kind};
use tokio::sync::watch;

use super::{PodState, Target};
use crate::clock;
use crate::controllers::{budgets, upstream_provider};
use crate::names::ObjectName;
use crate::shared::Shared;

/// Takes a report in and queues what it concerns.
pub(super) fn report(shared: &Arc<Shared>, target: &Target, state: &watch::Sender<PodState>, report: Report) {
    let before = state.borrow().report.clone();
    let changed = before.as_ref().map(without_usage) != Some(without_usage(&report));
    let order_changed =
        before.as_ref().map(|b| (b.epoch, b.generation)) != Some((report.epoch, report.generation));
    let accounts_changed = before.as_ref().map(|b| &b.accounts) != Some(&report.accounts);
    if accounts_changed {
        demand(shared, target, &report);
    }
    let used = newly_used(before.as_ref(), &report);
    state.send_modify(|state| {
        state.report = Some(report);
        state.reported_at = Some(clock::instant());
        state.unreachable = None;
    });
    if changed {
        shared.queues.proxies.push_named(&target.proxy.namespace, &target.proxy.name);
    }
    if accounts_changed {
        queue_providers(shared, &target.proxy.namespace);
    }
    if order_changed {
        queue_unprogrammed(shared, &shared.stores.tokens_of(&target.proxy));
    }
    for subject in used {
        queue_subject(shared, &target.proxy, &subject);
    }
}

/// Has logins renewed and identities exchanged whose access token the vendor has refused.
fn demand(shared: &Shared, target: &Target, report: &Report) {
    for account in &report.accounts {
        let Some(token) = account.refused.as_ref().and_then(|token| token.parse().ok()) else { continue };
        let name = ObjectName::new(&target.proxy.namespace, &account.provider);
        shared.exchanges.demand(&name, &account.name, token);
        let provider = ObjectRef::new(&account.provider).within(&target.proxy.namespace);
        let Some(provider) = shared.stores.providers.get(&provider) else { continue };
        let named = upstream_provider::logins(&provider);
        for (login, _) in named.into_iter().filter(|(_, named)| *named == account.name) {
            shared.refreshers.demand(&login, token);
        }
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

/// The use of `subject`, as the pods of `proxy` report it.
pub(crate) fn usage_of(shared: &Shared, proxy: &ObjectName, subject: &Subject) -> Option<SubjectUsage> {
    let pods = shared.fleet.pods_of(proxy);
    let found = shared.stores.proxies.get(&ObjectRef::new(&proxy.name).within(&proxy.namespace));
    let is_shared = found.is_some_and(|proxy| proxy.spec.ledger.url_secret().is_some());
    let counted = if is_shared { Counted::Together } else { Counted::Apart };
    combine(pods.values(), subject, counted)
}

/// How pods count use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Counted {
    /// In one ledger, so that each reports the use of all.
    Together,
    /// Each for itself.
    Apart,
}

fn combine<'a>(
    pods: impl Iterator<Item = &'a PodState>,
    subject: &Subject,
    counted: Counted,
) -> Option<SubjectUsage> {
    let mut reports: Vec<_> = pods.filter_map(|pod| Some((pod.reported_at, pod.report.as_ref()?))).collect();
    reports.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
    let mut found = reports
        .into_iter()
        .filter_map(|(_, report)| report.usage.iter().find(|usage| usage.subject == *subject).cloned());
    match counted {
        Counted::Together => found.next(),
        Counted::Apart => found.reduce(|sum, one| SubjectUsage {
            requests: sum.requests.saturating_add(one.requests),
            open: sum.open.saturating_add(one.open),
            tokens: sum.tokens.plus(&one.tokens),
            nano_usd: sum.nano_usd.saturating_add(one.nano_usd),
            ..sum
        }),
    }
}

fn without_usage(report: &Report) -> Report {
    Report { usage: Vec::new(), revision: 0, ..report.clone() }
}

/// Subjects that have used something since, or whose budgets stand otherwise.
fn newly_used(before: Option<&Report>, after: &Report) -> Vec<Subject> {
    let standing = |usage: &SubjectUsage| (usage.requests, usage.nano_usd, usage.budgets.clone());
    let known: HashMap<&Subject, _> = before
        .iter()
        .flat_map(|report| &report.usage)
        .map(|usage| (&usage.subject, standing(usage)))
        .collect();
    let news = |usage: &&SubjectUsage| known.get(&usage.subject) != Some(&standing(usage));
    after.usage.iter().filter(news).map(|usage| usage.subject.clone()).collect()
}

fn queue_providers(shared: &Shared, namespace: &str) {
    for provider in shared.stores.providers.state() {
        if provider.namespace().as_deref() == Some(namespace) {
            shared.queues.providers.push_named(namespace, &provider.name_any());
        }
    }
}

/// Those of `tokens` whose newest text not every pod of their proxy was known to serve.
pub(crate) fn queue_unprogrammed(shared: &Shared, tokens: &[Arc<RouterToken>]) {
    for token in tokens {
        let status = token.status.as_ref();
        if !status.is_some_and(|status| is_true(&status.conditions, kind::PROGRAMMED)) {
            shared.queues.tokens.push_named(&token.namespace().unwrap_or_default(), &token.name_any());
        }
    }
}

/// The token, or the RouterBudget and the tokens that it covers.
fn queue_subject(shared: &Shared, proxy: &ObjectName, subject: &Subject) {
    if let Some((namespace, name)) = budgets::pool_name(subject) {
        shared.queues.budgets.push_named(namespace, name);
        let snapshot = shared.published.newest(proxy).map(|edition| edition.snapshot);
        let records = snapshot.iter().flat_map(|snapshot| &snapshot.tokens);
        for record in records.filter(|record| record.pools.contains(subject)) {
            queue_token(shared, proxy, &record.subject);
        }
    } else {
        queue_token(shared, proxy, subject);
    }
}

/// Subjects of tokens are `proxy/namespace/name`.
fn queue_token(shared: &Shared, proxy: &ObjectName, subject: &Subject) {
    let mut parts = subject.as_str().splitn(3, '/');
    if let (Some(name), Some(namespace), Some(token)) = (parts.next(), parts.next(), parts.next())
        && name == proxy.name
    {
        shared.queues.tokens.push_named(namespace, token);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use la_core::amount::Unit;
    use la_core::budget::Enforcement;
    use la_core::report::BudgetUse;
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

    #[test]
    fn budget_that_stands_otherwise_is_news_even_without_a_request() {
        let budget = |used| BudgetUse {
            name: "day".to_owned(),
            unit: Unit::Requests,
            enforcement: Enforcement::Hard,
            used,
            limit: 10,
            resets_at_ms: None,
            threshold: None,
        };
        let report = |used_now| Report {
            usage: vec![SubjectUsage { budgets: vec![budget(used_now)], ..used("a", 1) }],
            ..Report::default()
        };
        assert_eq!(newly_used(Some(&report(3)), &report(0)).len(), 1);
        assert_eq!(newly_used(Some(&report(3)), &report(3)).len(), 0);
    }

    #[test]
    fn use_is_summed_over_pods_unless_they_count_it_in_one_ledger() {
        let start = clock::instant();
        let pod = |requests, age: u64| PodState {
            report: Some(Report { usage: vec![used("a", requests)], ..Report::default() }),
            reported_at: Some(start + Duration::from_secs(100 - age)),
            ..PodState::default()
        };
        let silent = PodState::default();
        let pods = [pod(5, 20), pod(7, 1), pod(6, 10), silent];
        let subject = Subject::of("gateway", "team-a", "a").unwrap();
        let requests = |counted| combine(pods.iter(), &subject, counted).map(|usage| usage.requests);
        assert_eq!(requests(Counted::Together), Some(7), "the freshest report");
        assert_eq!(requests(Counted::Apart), Some(18));
        let other = Subject::of("gateway", "team-a", "b").unwrap();
        assert_eq!(combine(pods.iter(), &other, Counted::Together), None);
    }
}
