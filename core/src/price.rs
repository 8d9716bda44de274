//! What a request costs, and the most that it can cost.
//!
//! [`cost_nano_usd`] turns what a vendor counted into money and needs nothing but the counts and a [`Price`],
//! so a change of prices can be replayed over recorded counts. [`most_nano_usd`] bounds it from above before
//! anything is sent: no [`Billed`] within the [`Bounds`] costs more. All arithmetic is in whole pico-dollars,
//! in which every published price is exact, and is rounded up to nano-dollars once a request. Which model
//! has which price is the business of [`Book`].

use serde::{Deserialize, Serialize};

use crate::usage::{InferenceGeo, ServiceTier, Speed, Terms, Usage};

mod book;
mod overrides;
mod table;

pub use book::{Book, Unpriced};
pub use overrides::{LongContextOverride, Override, OverrideError, PerMillion};
pub use table::{Row, Source, TABLE};

/// What is known of one model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Model {
    /// How much it takes and gives.
    pub limits: Limits,
    /// What it costs.
    pub price: Price,
}

/// How much a model takes and gives, in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Input and output of one request together; no request has more input than this.
    pub context_window: u64,
    /// Most output of one request.
    pub max_output_tokens: u64,
    /// Most input that one image counts as, whatever its size: the vendor scales larger ones down.
    pub image_tokens: u64,
}

impl Limits {
    /// Those of a model that is not known. What only the model's limits would bound then has no bound.
    pub const UNKNOWN: Self =
        Self { context_window: u64::MAX, max_output_tokens: u64::MAX, image_tokens: u64::MAX };
}

/// The price of one model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Price {
    /// What tokens cost.
    pub rates: Rates,
    /// What they cost in a request with a long input, if that is dearer.
    pub long_context: Option<LongContext>,
    /// What tokens cost otherwise than by default.
    pub multipliers: Multipliers,
    /// One web search, in pico-dollars. No multiplier applies to it.
    pub web_search: u64,
}

/// What tokens cost, in pico-dollars each, which is micro-dollars per million of them: $0.125 per million
/// tokens is 125,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    /// Input that no prompt cache has to do with.
    pub input: u64,
    /// Input written to a cache for the shorter lifetime: 5 minutes at Anthropic, 30 at OpenAI.
    pub cache_write_5m: u64,
    /// Input written to a cache for the longer lifetime: 1 hour at Anthropic, 12 at OpenAI.
    pub cache_write_1h: u64,
    /// Input read from a cache.
    pub cache_read: u64,
    /// Output.
    pub output: u64,
}

/// Other rates for requests with a long input. They hold for every token of such a request, not only for
/// those above the threshold: so do all vendors in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LongContext {
    /// The most input, read from and written to a cache included, that still costs the base rates.
    pub above_input_tokens: u64,
    /// What every token costs above it; none of them less than the base rate.
    pub rates: Rates,
}

/// By how much the rates are multiplied, in percent. 100 where a vendor does not offer the thing: a request
/// that asks for it all the same runs, and costs, as usual.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Multipliers {
    /// In [`Tier::Fast`].
    pub fast: u32,
    /// In [`Tier::Flex`].
    pub flex: u32,
    /// In [`Tier::Batch`].
    pub batch: u32,
    /// When the request had to stay in one region; on top of the tier's.
    pub regional: u32,
}

/// How a vendor served a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Tier {
    /// As usual, and with capacity that was bought beforehand (Anthropic's Priority Tier).
    #[default]
    Standard,
    /// Faster: `speed: fast` at Anthropic, `service_tier: priority` or `fast` at OpenAI.
    Fast,
    /// Slower (OpenAI).
    Flex,
    /// In a batch.
    Batch,
}

/// What of a request is billed. No token is in two of the counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Billed {
    /// Input that no prompt cache has to do with.
    pub input_tokens: u64,
    /// Input written to a cache for the shorter lifetime.
    pub cache_write_5m_tokens: u64,
    /// Input written to a cache for the longer lifetime, or for one that is not known.
    pub cache_write_1h_tokens: u64,
    /// Input read from a cache.
    pub cache_read_tokens: u64,
    /// Output, hidden thinking included.
    pub output_tokens: u64,
    /// Web searches run by the vendor.
    pub web_searches: u64,
    /// How it was served.
    pub tier: Tier,
    /// Whether it had to stay in one region.
    pub regional: bool,
}

/// Most that a request can use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Most input, read from and written to a cache included.
    pub input_tokens: u64,
    /// Most output.
    pub output_tokens: u64,
    /// How long input may be cached for.
    pub caching: Caching,
    /// Whether it may be served in [`Tier::Fast`].
    pub fast: bool,
    /// Whether it may have to stay in one region.
    pub regional: bool,
}

/// For how long a request may have its input cached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Caching {
    /// It writes to no cache. It may still read.
    None,
    /// The shorter lifetime at most.
    FiveMinutes,
    /// Either lifetime.
    OneHour,
}

impl Billed {
    /// What a vendor's counts come to. What it does not say, or says in a way that is not known, counts at the
    /// dearest rate that it can mean.
    pub fn new(usage: &Usage, terms: &Terms) -> Self {
        let not_short = usage.cache_write_tokens.saturating_sub(terms.cache_write_5m_tokens);
        Self {
            input_tokens: usage.input_tokens,
            cache_write_5m_tokens: terms.cache_write_5m_tokens,
            cache_write_1h_tokens: not_short.max(terms.cache_write_1h_tokens),
            cache_read_tokens: usage.cache_read_tokens,
            output_tokens: usage.output_tokens,
            web_searches: terms.web_search_requests,
            tier: match (terms.speed, terms.service_tier) {
                (Some(Speed::Fast | Speed::Other), _) | (_, Some(ServiceTier::Other)) => Tier::Fast,
                (_, Some(ServiceTier::Batch)) => Tier::Batch,
                (_, Some(ServiceTier::Standard | ServiceTier::Priority) | None) => Tier::Standard,
            },
            regional: matches!(terms.inference_geo, Some(InferenceGeo::Us | InferenceGeo::Other)),
        }
    }

    /// All input, cached or not, saturating.
    pub fn total_input(&self) -> u64 {
        [self.cache_write_5m_tokens, self.cache_write_1h_tokens, self.cache_read_tokens]
            .into_iter()
            .fold(self.input_tokens, u64::saturating_add)
    }
}

impl Bounds {
    /// Most tokens of any kind, saturating: what a budget in tokens reserves.
    pub fn total_tokens(&self) -> u64 {
        self.input_tokens.saturating_add(self.output_tokens)
    }
}

impl Price {
    /// The rates for a request with so much input.
    fn rates_for(&self, total_input: u64) -> &Rates {
        match &self.long_context {
            Some(long) if total_input > long.above_input_tokens => &long.rates,
            _ => &self.rates,
        }
    }
}

/// What a request cost in nano-dollars, rounded up once, saturating.
///
/// Never less for more of anything, in the same tier.
pub fn cost_nano_usd(billed: &Billed, price: &Price) -> u64 {
    let rates = price.rates_for(billed.total_input());
    let tokens = sum([
        (billed.input_tokens, rates.input),
        (billed.cache_write_5m_tokens, rates.cache_write_5m),
        (billed.cache_write_1h_tokens, rates.cache_write_1h),
        (billed.cache_read_tokens, rates.cache_read),
        (billed.output_tokens, rates.output),
    ]);
    let tier_percent = match billed.tier {
        Tier::Standard => 100,
        Tier::Fast => price.multipliers.fast,
        Tier::Flex => price.multipliers.flex,
        Tier::Batch => price.multipliers.batch,
    };
    let region_percent = if billed.regional { price.multipliers.regional } else { 100 };
    let searches = sum([(billed.web_searches, price.web_search)]);
    total(tokens, [tier_percent, region_percent], searches)
}

/// The most that a request within `bounds` can cost, in nano-dollars: all its input at the dearest rate that
/// could apply.
pub fn most_nano_usd(bounds: &Bounds, price: &Price) -> u64 {
    let rates = price.rates_for(bounds.input_tokens);
    let uncached = rates.input.max(rates.cache_read);
    let input = match bounds.caching {
        Caching::None => uncached,
        Caching::FiveMinutes => uncached.max(rates.cache_write_5m),
        Caching::OneHour => uncached.max(rates.cache_write_5m).max(rates.cache_write_1h),
    };
    let tokens = sum([(bounds.input_tokens, input), (bounds.output_tokens, rates.output)]);
    let Multipliers { fast, flex, batch, regional } = price.multipliers;
    let tier_percent = if bounds.fast { fast } else { 100 };
    let region_percent = if bounds.regional { regional } else { 100 };
    total(tokens, [tier_percent.max(100).max(flex).max(batch), region_percent.max(100)], 0)
}

/// Adds up counts times pico-dollars, saturating.
fn sum<const N: usize>(parts: [(u64, u64); N]) -> u128 {
    parts.into_iter().fold(0, |sum: u128, (count, each)| {
        sum.saturating_add(u128::from(count).saturating_mul(u128::from(each)))
    })
}

/// Multiplies the tokens, adds what is not multiplied, and rounds up to nano-dollars.
fn total(tokens: u128, percents: [u32; 2], unmultiplied: u128) -> u64 {
    const WHOLE: u128 = 100 * 100;
    const PICO_PER_NANO: u128 = 1_000;
    let multiplied = percents.into_iter().fold(tokens, |sum, percent| sum.saturating_mul(percent.into()));
    let sum = multiplied.saturating_add(unmultiplied.saturating_mul(WHOLE));
    match u64::try_from(sum) {
        // What nearly every request costs is divided by a constant in one word.
        Ok(sum) => sum.div_ceil(WHOLE as u64 * PICO_PER_NANO as u64),
        Err(_) => u64::try_from(sum.div_ceil(WHOLE * PICO_PER_NANO)).unwrap_or(u64::MAX),
    }
}

#[cfg(test)]
mod tests;
