//! Stage 5a: the most that a request can use and cost, before it is admitted.
//!
//! Nothing is spent on it unless a budget of tokens or money, or a rate of tokens, covers the caller. What
//! nobody can bound, or nobody has a price for, is refused where a Hard budget must hold and does not say
//! otherwise; where it may pass, what can be bounded is reserved and what it came to is charged.

use la_core::amount::{Amounts, Unit};
use la_core::budget::{Budget, Covering, Enforcement};
use la_core::price::{self, Bounds, Limits, Price};
use la_dialects::anthropic::bounds::Estimate;

use crate::refuse::{self, Refusal};

use super::read::Asked;
use super::resolve::{Stop, Way};

/// What is known of a request before it runs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measured {
    /// The most it can use, if any limit asks for that.
    pub(super) bounds: Option<Bounds>,
    /// Whether it may use more than that all the same.
    pub(super) is_unbounded: bool,
    /// What its model costs, if that is known.
    pub(super) price: Option<Price>,
    /// What is to be reserved.
    pub(super) amounts: Amounts,
    /// Whether its answer is to be a stream.
    pub(super) is_stream: bool,
}

/// Measures a request for a message where it goes first, with the amounts of the dearest place that it may go to.
/// Places where it must not go for its limits do not count.
///
/// # Errors
/// Why it may go nowhere.
pub(super) fn dearest(
    covering: &[Covering<'_>],
    way: Way<'_>,
    asked: &Asked<'_>,
) -> Result<Measured, Refusal> {
    let (mut dearest, mut refused): (Option<Measured>, Option<Refusal>) = (None, None);
    for stop in way.stops() {
        match (at(covering, stop, asked), &mut dearest) {
            (Ok(other), Some(first)) => first.amounts = most(&first.amounts, &other.amounts),
            (Ok(first), None) => dearest = Some(first),
            (Err(why), _) => refused = refused.or(Some(why)),
        }
    }
    dearest.ok_or_else(|| refused.unwrap_or(Refusal::NoProvider))
}

/// Measures a request for a message at one of the places that it may go to.
///
/// # Errors
/// Why it must not go there.
pub(super) fn at(covering: &[Covering<'_>], stop: Stop<'_>, asked: &Asked<'_>) -> Result<Measured, Refusal> {
    let asked = Asked { model: stop.model(asked.model), ..*asked };
    message(covering, &stop.provider.prices, &asked)
}

/// Measures a request for a message.
fn message(covering: &[Covering<'_>], prices: &price::Book, asked: &Asked<'_>) -> Result<Measured, Refusal> {
    let known = prices.model(asked.model).ok();
    let price = known.map(|model| model.price);
    let amounts = Amounts::of_requests(1);
    let unweighed =
        Measured { bounds: None, is_unbounded: false, price, amounts, is_stream: asked.is_stream };
    let Some(extent) = asked.extent else { return Ok(unweighed) };
    let limits = known.map_or(Limits::UNKNOWN, |model| model.limits);
    let estimate = extent.estimate(asked.max_tokens, &limits);
    let mut bounds = estimate.bounds;
    let unbounded = unbounded(&estimate, asked.model);
    judge(covering, unbounded.as_deref(), price.is_some(), asked.model)?;
    if bounds.input_tokens == u64::MAX {
        bounds.input_tokens = asked.body_bytes as u64;
    }
    let nano_usd = price.map_or(0, |price| price::most_nano_usd(&bounds, &price));
    let amounts = Amounts { requests: 1, tokens: bounds.total_tokens(), nano_usd };
    Ok(Measured { bounds: Some(bounds), is_unbounded: unbounded.is_some(), amounts, ..unweighed })
}

/// The larger amount of each unit.
fn most(a: &Amounts, b: &Amounts) -> Amounts {
    Amounts {
        requests: a.requests.max(b.requests),
        tokens: a.tokens.max(b.tokens),
        nano_usd: a.nano_usd.max(b.nano_usd),
    }
}

/// Whether limits must know how much a request uses.
pub(super) fn weighs(covering: &[Covering<'_>]) -> bool {
    covering.iter().any(|Covering { budgets, rates, .. }| {
        let mut units = budgets.iter().map(|budget| budget.unit).chain(rates.iter().map(|rate| rate.unit));
        units.any(|unit| unit != Unit::Requests)
    })
}

/// Why nobody can bound it, if so.
fn unbounded(estimate: &Estimate<'_>, model: &str) -> Option<String> {
    let unknown_window = || {
        let has_bound = estimate.bounds.input_tokens < u64::MAX;
        (!has_bound).then(|| {
            format!(
                "it holds images or documents, and the limits of model {model:?} are not known; \
                 add it to the provider's `pricing.overrides`"
            )
        })
    };
    estimate.unbounded.map(|what| what.to_string()).or_else(unknown_window)
}

/// Refuses what a Hard budget can neither judge nor may let pass.
fn judge(
    covering: &[Covering<'_>],
    unbounded: Option<&str>,
    is_priced: bool,
    model: &str,
) -> Result<(), Refusal> {
    if unbounded.is_none() && is_priced {
        return Ok(());
    }
    for Covering { owner, budgets, .. } in covering {
        let is_judge =
            |budget: &&Budget| budget.enforcement == Enforcement::Hard && budget.unit != Unit::Requests;
        for budget in budgets.iter().filter(is_judge) {
            let named = || refuse::named(&budget.name, owner);
            if let Some(what) = unbounded.filter(|_| !budget.admits.unbounded) {
                return Err(Refusal::Unbounded { what: what.to_owned(), budget: named() });
            }
            if budget.unit == Unit::Usd && !is_priced && !budget.admits.unpriced {
                return Err(Refusal::Unpriced { model: model.to_owned(), budget: named() });
            }
        }
    }
    Ok(())
}
