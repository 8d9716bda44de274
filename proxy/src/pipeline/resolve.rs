//! Stage 4: which provider serves the model.

use std::sync::Arc;

use crate::config::live::{Live, ProviderEntry};
use crate::refuse::Refusal;
use crate::surface::{Found, Operation};

use super::read::Content;

/// The provider that the request goes to.
pub(super) fn provider(
    live: &Live,
    found: &Found<'_>,
    content: &Content,
) -> Result<Arc<ProviderEntry>, Refusal> {
    let model = match found.operation {
        Operation::Messages | Operation::CountTokens => content.model(),
        Operation::Model => found.model.unwrap_or_default(),
        // A list of models is asked of whoever serves first.
        Operation::Models | Operation::Health | Operation::Root => {
            return live.first_provider().cloned().ok_or(Refusal::NoProvider);
        }
    };
    live.provider_for(model).cloned().ok_or_else(|| Refusal::Model { model: model.to_owned() })
}
