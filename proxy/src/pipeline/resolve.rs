//! Stage 4: which provider serves the model.

use std::sync::Arc;

use crate::config::live::{Live, ProviderEntry};
use crate::refuse::Refusal;
use crate::surface::{Found, Operation};

/// The provider that the request goes to; `asked` is the model that its body names.
pub(super) fn provider(live: &Live, found: &Found<'_>, asked: &str) -> Result<Arc<ProviderEntry>, Refusal> {
    let model = match found.operation {
        Operation::Messages | Operation::CountTokens => asked,
        Operation::Model => found.model.unwrap_or_default(),
        // A list of models is asked of whoever serves first.
        Operation::Models | Operation::Health | Operation::Root => {
            return live.first_provider().cloned().ok_or(Refusal::NoProvider);
        }
    };
    live.provider_for(model).cloned().ok_or_else(|| Refusal::Model { model: model.to_owned() })
}
