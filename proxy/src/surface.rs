//! Which operation a request asks for. The table itself belongs to the dialect.

pub use la_dialects::anthropic::surface::{Found, NotFound, Operation, find};

use crate::http1::request::RequestHead;
use crate::observe::metrics::Kind;

/// Finds the operation behind a head, from its method and target as received.
pub(crate) fn of(head: &RequestHead) -> Result<Found<'_>, NotFound> {
    find(head.method(), head.path(), head.query())
}

/// The operation as a metric's label.
pub fn kind(operation: Operation) -> Kind {
    match operation {
        Operation::Messages => Kind::Messages,
        Operation::CountTokens => Kind::CountTokens,
        Operation::Models => Kind::Models,
        Operation::Model => Kind::Model,
        Operation::Health | Operation::Root => Kind::Local,
    }
}
