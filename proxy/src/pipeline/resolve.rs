//! Stage 4: which providers may serve the model, in the order in which they are tried.

use std::sync::Arc;

use la_core::id::Subject;

use crate::config::live::{CandidateEntry, Live, ProviderEntry, RouteEntry, TokenEntry};
use crate::refuse::Refusal;
use crate::surface::{Found, Operation};

/// Who may serve a request: the candidates of its route that its token lets it reach.
#[derive(Clone, Copy)]
pub(super) struct Way<'a> {
    live: &'a Live,
    token: &'a TokenEntry,
    /// Where it leads.
    pub(super) route: &'a RouteEntry,
}

/// A provider, and what the model is called there.
#[derive(Clone, Copy)]
pub(super) struct Stop<'a> {
    pub(super) provider: &'a Arc<ProviderEntry>,
    pub(super) candidate: &'a CandidateEntry,
}

/// Finds the way of a request; `asked` is the model that its body names.
pub(super) fn way<'a>(
    live: &'a Live,
    token: &'a TokenEntry,
    found: &Found<'_>,
    asked: &str,
) -> Result<Way<'a>, Refusal> {
    let model = match found.operation {
        Operation::Messages | Operation::CountTokens => asked,
        Operation::Model => found.model.unwrap_or_default(),
        // A list of models is asked of whoever serves first.
        Operation::Models | Operation::Health | Operation::Root => {
            let way = live.first_route().map(|route| Way { live, token, route });
            return way.filter(|way| way.stops().next().is_some()).ok_or(Refusal::NoProvider);
        }
    };
    let way = live.route_for(model).map(|route| Way { live, token, route });
    // A model that the token cannot reach anywhere is not there for it.
    way.filter(|way| way.stops().next().is_some()).ok_or_else(|| Refusal::Model { model: model.to_owned() })
}

impl<'a> Way<'a> {
    /// The providers, the first to be tried first.
    pub(super) fn stops(self) -> impl Iterator<Item = Stop<'a>> {
        let Self { live, token, route } = self;
        route.candidates.iter().filter_map(move |candidate| {
            let provider = live.provider(candidate.provider)?;
            token.may_reach(&provider.name).then_some(Stop { provider, candidate })
        })
    }

    /// Whose request it is.
    pub(super) fn subject(self) -> &'a Subject {
        &self.token.subject
    }

    /// After how long without a byte a client gets a comment, if ever.
    pub(super) fn keep_alive_ms(self) -> Option<u64> {
        self.live.snapshot().keep_alive_ms
    }

    /// The one account that may serve, if the token is bound to one.
    pub(super) fn pin(self) -> Option<&'a str> {
        self.token.account.as_deref()
    }
}

impl<'a> Stop<'a> {
    /// What the vendor is asked for when a client asks for `asked`.
    pub(super) fn model(self, asked: &'a str) -> &'a str {
        self.candidate.model.as_ref().map_or(asked, |model| &model.text)
    }
}
