//! One line and one set of counts per request, whatever its ending.
//!
//! A [`Line`] is begun with the request and concluded once; one that is dropped before is a request whose
//! client went away. It carries names and numbers only: no credential, no text of either side.

use std::rc::Rc;
use std::sync::Arc;

use la_core::id::{Subject, TokenId};
use la_dialects::anthropic::usage::Name;

use super::metrics::Kind;
use super::settlement::{Settlement, quality_label};
use crate::clock;
use crate::config::live::{AccountEntry, TokenEntry};
use crate::listener::worker::{RequestId, Worker};
use crate::usage_log::Facts;

/// The status that is noted when the client went away before an answer began (as nginx does).
const CLIENT_GONE: u16 = 499;

/// What is known of one request so far.
pub struct Line {
    worker: Rc<Worker>,
    /// Its name.
    pub id: RequestId,
    begun_ms: u64,
    /// What it is for.
    pub kind: Kind,
    token: Option<Arc<TokenEntry>>,
    account: Option<Arc<AccountEntry>>,
    /// Those that were tried before.
    tried: Vec<Arc<AccountEntry>>,
    model: Option<Box<str>>,
    /// What it came to, if the vendor may have it and has not answered.
    unanswered: Option<Box<Settlement>>,
    concluded: bool,
}

impl Line {
    /// Begins with the request.
    pub fn begin(worker: &Rc<Worker>) -> Self {
        Self {
            worker: Rc::clone(worker),
            id: worker.ids.next(),
            begun_ms: clock::noted_ms(),
            kind: Kind::Local,
            token: None,
            account: None,
            tried: Vec::new(),
            model: None,
            unanswered: None,
            concluded: false,
        }
    }

    /// Notes whose request it is.
    pub fn token(&mut self, token: &Arc<TokenEntry>) {
        self.token = Some(Arc::clone(token));
    }

    /// Notes with which account it is tried.
    pub fn attempt(&mut self, account: &Arc<AccountEntry>) {
        self.tried.extend(self.account.replace(Arc::clone(account)));
    }

    /// The account that it was tried with last.
    pub fn account(&self) -> Option<&Arc<AccountEntry>> {
        self.account.as_ref()
    }

    /// Notes the model asked for.
    pub fn model(&mut self, model: &str) {
        self.model = Some(model.into());
    }

    /// The model asked for, once it is noted.
    pub fn asked_model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    /// What the usage log is to say of it: the answer's status, and what it came to.
    pub fn facts<'a>(&'a self, status: u16, settlement: &'a Settlement) -> Facts<'a> {
        Facts {
            time_ms: clock::unix_milliseconds(),
            request_id: self.id.as_str(),
            token: self.token.as_deref().map_or("", |token| token.id.as_str()),
            provider: Some(&*settlement.account.provider),
            account: Some(&*settlement.account.name),
            model: self.model.as_deref(),
            served_model: settlement.model.as_ref().map(Name::as_str),
            status,
            ending: settlement.outcome.label(),
            quality: quality_label(settlement.quality),
            billed: settlement.billed,
        }
    }

    /// Notes what it came to without an answer.
    pub fn unanswered(&mut self, settlement: Option<Settlement>) {
        self.unanswered = settlement.map(Box::new);
    }

    /// Concludes it: the answer's status, how it ended, what it came to.
    pub fn conclude(&mut self, status: u16, outcome: &str, settlement: Option<&Settlement>) {
        if std::mem::replace(&mut self.concluded, true) {
            return;
        }
        let duration_ms = clock::noted_ms().saturating_sub(self.begun_ms);
        self.worker.metrics.request(self.kind, status, duration_ms);
        let unanswered = self.unanswered.take();
        let settlement = settlement.or(unanswered.as_deref());
        if let Some(settlement) = settlement {
            self.account_for(settlement);
        }
        if self.worker.request_log {
            self.write(status, outcome, settlement, duration_ms);
        }
    }

    fn account_for(&self, settlement: &Settlement) {
        if let Some(usage) = &settlement.usage {
            self.worker.metrics.tokens(usage);
        }
        if settlement.is_implausible {
            tracing::warn!(
                request.id = %self.id,
                provider.name = %settlement.account.provider,
                "request {}: the counts of provider {} cannot be believed; it is charged as it was reserved",
                self.id,
                settlement.account.provider,
            );
        }
    }

    /// Which accounts were tried before the last, in order.
    fn tried(&self) -> Option<String> {
        let each: Vec<_> = self.tried.iter().map(|a| format!("{}/{}", a.provider, a.name)).collect();
        (!each.is_empty()).then(|| each.join(","))
    }

    fn write(&self, status: u16, outcome: &str, settlement: Option<&Settlement>, duration_ms: u64) {
        let usage = settlement.and_then(|settlement| settlement.usage).unwrap_or_default();
        let token = self.token.as_deref();
        let account = self.account.as_deref();
        tracing::info!(
            request.id = %self.id,
            operation = self.kind.label(),
            http.status = status,
            duration_ms,
            outcome,
            token.id = token.map(|token| TokenId::as_str(&token.id)),
            token.subject = token.map(|token| Subject::as_str(&token.subject)),
            provider.name = account.map(|account| &*account.provider),
            account.name = account.map(|account| &*account.name),
            attempts = self.tried.len() + usize::from(account.is_some()),
            accounts.tried = self.tried(),
            model = self.model.as_deref(),
            usage.input_tokens = usage.total_input(),
            usage.output_tokens = usage.output_tokens,
            usage.quality = settlement.map(|settlement| quality_label(settlement.quality)),
            cost_nano_usd = settlement.and_then(|settlement| settlement.cost_nano_usd),
            "request {} {status} {outcome}",
            self.id,
        );
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.conclude(CLIENT_GONE, "client gone", None);
    }
}
