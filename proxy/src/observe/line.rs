//! One line and one set of counts per request, whatever its ending.
//!
//! A [`Line`] is begun with the request and concluded once; one that is dropped before is a request whose
//! client went away. It carries names and numbers only: no credential, no text of either side.

use std::rc::Rc;
use std::sync::Arc;

use la_core::id::{Subject, TokenId};
use la_core::price::Billed;
use la_core::usage::Usage;
use la_dialects::anthropic::usage::{Name, Observed, Quality};

use super::metrics::Kind;
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
    model: Option<Box<str>>,
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
            model: None,
            concluded: false,
        }
    }

    /// Notes whose request it is.
    pub fn token(&mut self, token: &Arc<TokenEntry>) {
        self.token = Some(Arc::clone(token));
    }

    /// Notes which account serves it.
    pub fn account(&mut self, account: &Arc<AccountEntry>) {
        self.account = Some(Arc::clone(account));
    }

    /// Notes the model asked for.
    pub fn model(&mut self, model: &str) {
        self.model = Some(model.into());
    }

    /// What the usage log is to say of it: the answer's status, how it ended, what was observed.
    pub fn facts<'a>(&'a self, status: u16, ending: &'a str, observed: Option<&'a Observed>) -> Facts<'a> {
        let account = self.account.as_deref();
        let quality = match observed.map_or(Quality::Unknown, Observed::quality) {
            Quality::Complete => "complete",
            Quality::Partial => "partial",
            Quality::Unknown => "unknown",
        };
        Facts {
            time_ms: clock::unix_milliseconds(),
            request_id: self.id.as_str(),
            token: self.token.as_deref().map_or("", |token| token.id.as_str()),
            provider: account.map(|account| &*account.provider),
            account: account.map(|account| &*account.name),
            model: self.model.as_deref(),
            served_model: observed.and_then(|observed| observed.model.as_ref()).map(Name::as_str),
            status,
            ending,
            quality,
            billed: observed.and_then(|seen| seen.usage.map(|usage| Billed::new(&usage, &seen.terms))),
        }
    }

    /// Concludes it: the answer's status, how it ended, what it used.
    pub fn conclude(&mut self, status: u16, outcome: &str, usage: Option<&Usage>) {
        if std::mem::replace(&mut self.concluded, true) {
            return;
        }
        let duration_ms = clock::noted_ms().saturating_sub(self.begun_ms);
        self.worker.metrics.request(self.kind, status, duration_ms);
        if let Some(usage) = usage {
            self.worker.metrics.tokens(usage);
        }
        if self.worker.request_log {
            self.write(status, outcome, usage.copied().unwrap_or_default(), duration_ms);
        }
    }

    fn write(&self, status: u16, outcome: &str, usage: Usage, duration_ms: u64) {
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
            model = self.model.as_deref(),
            usage.input_tokens = usage.total_input(),
            usage.output_tokens = usage.output_tokens,
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
