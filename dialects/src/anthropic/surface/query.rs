//! The few query parameters that reach an upstream, checked and written anew in a fixed order.

use std::borrow::Cow;

use super::{NotFound, Operation, is_id};

/// Most entries on a page of models; the vendor's own limit (its `api/models-list` page, August 2026).
const MAX_PAGE: u16 = 1000;

#[derive(Default)]
struct Parameters<'a> {
    beta: Option<&'a str>,
    limit: Option<&'a str>,
    after_id: Option<&'a str>,
    before_id: Option<&'a str>,
}

/// The query to send for `operation`, from the client's.
///
/// # Errors
/// The first parameter that is unknown, repeated, or has a value outside its range.
pub(super) fn rebuild(operation: Operation, query: &str) -> Result<Option<Cow<'static, str>>, NotFound> {
    if query.is_empty() {
        return Ok(None);
    }
    let mut found = Parameters::default();
    for pair in query.split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let refuse = || NotFound::Query { name: shown(name) };
        let slot = match (operation, name) {
            (Operation::Messages | Operation::CountTokens, "beta") if value == "true" => &mut found.beta,
            (Operation::Models, "limit") if is_page_size(value) => &mut found.limit,
            (Operation::Models, "after_id") if is_id(value) => &mut found.after_id,
            (Operation::Models, "before_id") if is_id(value) => &mut found.before_id,
            _ => return Err(refuse()),
        };
        if slot.replace(value).is_some() {
            return Err(refuse());
        }
    }
    Ok(Some(found.write()))
}

impl Parameters<'_> {
    fn write(&self) -> Cow<'static, str> {
        if self.beta.is_some() {
            return Cow::Borrowed("beta=true");
        }
        let named = [("limit", self.limit), ("after_id", self.after_id), ("before_id", self.before_id)];
        let pairs = named.iter().filter_map(|(name, value)| value.map(|value| format!("{name}={value}")));
        Cow::Owned(pairs.collect::<Vec<_>>().join("&"))
    }
}

fn is_page_size(text: &str) -> bool {
    let plain = !text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit());
    plain && text.parse::<u16>().is_ok_and(|size| (1..=MAX_PAGE).contains(&size))
}

/// A parameter's name as it may be repeated in an error message: a credential in a query is no name.
fn shown(name: &str) -> String {
    let plain = name.len() <= 24 && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    if plain { name.to_owned() } else { String::new() }
}
