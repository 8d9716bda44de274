//! Which model has which price: the table, and what a provider has overridden.

use std::collections::BTreeMap;

use super::table;
use super::{Model, Override, OverrideError, overrides};

/// The prices in force for one provider. By default those of the table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Book {
    /// By the first id of the row, or by the id as given where there is no row.
    overridden: BTreeMap<String, Model>,
}

/// A model of which the price is not known. It is never taken for free, nor for a model with a similar name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "no price is known for model {model:?}; add it to the provider's `pricing.overrides`, \
     or let the budget admit models without a price"
)]
pub struct Unpriced {
    /// The model asked for.
    pub model: String,
}

impl Book {
    /// The table with a provider's overrides. They go by model: one for `claude-sonnet-4-5` holds for every
    /// way to write that model.
    ///
    /// # Errors
    /// Everything that is wrong with any of the overrides.
    pub fn with(given: &[Override]) -> Result<Self, Vec<OverrideError>> {
        let mut overridden = BTreeMap::new();
        let mut errors = Vec::new();
        for (index, given) in given.iter().enumerate() {
            let row = table::find(&given.model);
            match overrides::apply(index, given, row.map(|row| &row.model)) {
                Err(found) => errors.extend(found),
                Ok(model) => {
                    let id = row.map_or(given.model.as_str(), |row| row.id()).to_owned();
                    if overridden.insert(id, model).is_some() {
                        errors.push(overrides::repeated(index, given));
                    }
                }
            }
        }
        if errors.is_empty() { Ok(Self { overridden }) } else { Err(errors) }
    }

    /// What is known of a model, by any documented way to write it.
    ///
    /// # Errors
    /// When neither the table nor an override has it.
    pub fn model(&self, id: &str) -> Result<&Model, Unpriced> {
        let row = table::find(id);
        if let (Some(row), true) = (row, self.overridden.is_empty()) {
            return Ok(&row.model);
        }
        let overridden = self.overridden.get(row.map_or(id, |row| row.id()));
        overridden.or(row.map(|row| &row.model)).ok_or_else(|| Unpriced { model: id.to_owned() })
    }
}
