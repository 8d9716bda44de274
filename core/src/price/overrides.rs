//! Prices that a provider's owner writes down: negotiated ones, and those of models the table does not have.
//!
//! For a model of the table, what is not given keeps its place. For any other model all five rates and both
//! limits are needed: nothing is guessed. Every fault is reported, with its field, value and remedy.

use serde::{Deserialize, Serialize};

use super::{Limits, LongContext, Model, Multipliers, Price, Rates};
use crate::amount::Unit;

/// One entry of `pricing.overrides`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Override {
    /// The model, as requests name it.
    pub model: String,
    /// What tokens cost.
    pub per_million: PerMillion,
    /// What they cost in a request with a long input, if that is dearer.
    pub long_context: Option<LongContextOverride>,
    /// US dollars for 1,000 web searches; none when neither here nor in the table.
    pub per_thousand_searches: Option<String>,
    /// What the fast tier costs, in percent of the usual; 100 when neither here nor in the table, as below.
    pub fast_percent: Option<u32>,
    /// What the flex tier costs, in percent of the usual.
    pub flex_percent: Option<u32>,
    /// What a batch costs, in percent of the usual.
    pub batch_percent: Option<u32>,
    /// What a request that has to stay in one region costs, in percent of the usual.
    pub regional_percent: Option<u32>,
    /// Most input and output of one request together, in tokens.
    pub context_window: Option<u64>,
    /// Most output of one request, in tokens.
    pub max_output_tokens: Option<u64>,
    /// Most that one image counts as, in tokens; the context window when neither here nor in the table.
    pub image_tokens: Option<u64>,
}

/// US dollars per million tokens, as decimal texts with at most six digits after the point.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PerMillion {
    /// Input that no prompt cache has to do with.
    pub input: Option<String>,
    /// Input written to a cache for the shorter lifetime.
    pub cache_write_5m: Option<String>,
    /// Input written to a cache for the longer lifetime.
    pub cache_write_1h: Option<String>,
    /// Input read from a cache.
    pub cache_read: Option<String>,
    /// Output.
    pub output: Option<String>,
}

/// Other prices for requests with a long input. They hold for the whole request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LongContextOverride {
    /// The most input that still costs the base prices.
    pub above_input_tokens: u64,
    /// What tokens cost above it; what is not given costs as below.
    #[serde(default)]
    pub per_million: PerMillion,
}

/// What is wrong with an override.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("pricing.overrides[{index}].{field}: {value:?} {fault}; {remedy}")]
pub struct OverrideError {
    /// Which override, counted from 0.
    pub index: usize,
    /// The field in it.
    pub field: String,
    /// What it holds; empty when nothing.
    pub value: String,
    /// What is wrong with that.
    pub fault: &'static str,
    /// What to do.
    pub remedy: &'static str,
}

/// Dearest rate: $1,000,000 per million tokens.
const MAX_RATE: u64 = 1_000_000_000_000;

/// Largest multiplier: a hundredfold.
const MAX_PERCENT: u32 = 10_000;

/// Largest limit, in tokens; so far none is above 1,050,000.
const MAX_TOKENS: u64 = 1_000_000_000;

const NANO_PER_MICRO: u64 = 1_000;

/// The model with the override at `index` applied.
pub(super) fn apply(
    index: usize,
    given: &Override,
    base: Option<&Model>,
) -> Result<Model, Vec<OverrideError>> {
    let mut check = Check { index, errors: Vec::new() };
    if given.model.is_empty() || given.model.len() > 256 {
        check.fail(
            "model",
            &given.model,
            "is no model id",
            "give 1 to 256 bytes, as requests name the model",
        );
    }
    let base_rates = base.map(|model| model.price.rates);
    let rates = check.rates("perMillion", &given.per_million, base_rates);
    let long_context = match &given.long_context {
        Some(long) => Some(check.long_context(long, rates)),
        None => check.inherited(base, rates),
    };
    let limits = check.limits(given, base.map(|model| model.limits));
    let multipliers = check.multipliers(given, base.map(|model| model.price.multipliers));
    let web_search = match &given.per_thousand_searches {
        // Nano-dollars for a thousand are pico-dollars for one.
        Some(text) => check.nano_usd("perThousandSearches", text),
        None => base.map_or(0, |model| model.price.web_search),
    };
    let price = Price { rates, long_context, multipliers, web_search };
    if check.errors.is_empty() { Ok(Model { limits, price }) } else { Err(check.errors) }
}

/// The error for a second override of one model.
pub(super) fn repeated(index: usize, given: &Override) -> OverrideError {
    OverrideError {
        index,
        field: "model".to_owned(),
        value: given.model.clone(),
        fault: "is overridden before, maybe by another of its names",
        remedy: "keep one of the two",
    }
}

struct Check {
    index: usize,
    errors: Vec<OverrideError>,
}

impl Check {
    fn fail(&mut self, field: &str, value: impl ToString, fault: &'static str, remedy: &'static str) {
        let (field, value) = (field.to_owned(), value.to_string());
        self.errors.push(OverrideError { index: self.index, field, value, fault, remedy });
    }

    fn rates(&mut self, path: &str, given: &PerMillion, base: Option<Rates>) -> Rates {
        let mut rate = |name: &str, text: &Option<String>, base: Option<u64>| {
            self.rate(&format!("{path}.{name}"), text.as_deref(), base)
        };
        Rates {
            input: rate("input", &given.input, base.map(|base| base.input)),
            cache_write_5m: rate("cacheWrite5m", &given.cache_write_5m, base.map(|base| base.cache_write_5m)),
            cache_write_1h: rate("cacheWrite1h", &given.cache_write_1h, base.map(|base| base.cache_write_1h)),
            cache_read: rate("cacheRead", &given.cache_read, base.map(|base| base.cache_read)),
            output: rate("output", &given.output, base.map(|base| base.output)),
        }
    }

    /// A rate in pico-dollars per token. Zero after a fault, of which the error keeps anybody from use.
    fn rate(&mut self, field: &str, text: Option<&str>, base: Option<u64>) -> u64 {
        let Some(text) = text else {
            if base.is_none() {
                let remedy = "give US dollars per million tokens, \"0\" if there is no charge";
                self.fail(field, "", "is missing, and the model is not in the table", remedy);
            }
            return base.unwrap_or_default();
        };
        let nano_usd = self.nano_usd(field, text);
        if !nano_usd.is_multiple_of(NANO_PER_MICRO) {
            self.fail(field, text, "is too fine", "give at most six digits after the point");
        }
        let rate = nano_usd / NANO_PER_MICRO;
        if rate > MAX_RATE {
            self.fail(field, text, "is too much", "give at most 1000000 dollars per million tokens");
        }
        rate
    }

    fn nano_usd(&mut self, field: &str, text: &str) -> u64 {
        Unit::Usd.parse(text).unwrap_or_else(|_| {
            let remedy = "write US dollars with digits and a point only, such as \"0.125\"";
            self.fail(field, text, "is not an amount of money", remedy);
            0
        })
    }

    fn long_context(&mut self, given: &LongContextOverride, base: Rates) -> LongContext {
        let rates = self.rates("longContext.perMillion", &given.per_million, Some(base));
        let above_input_tokens =
            self.tokens("longContext.aboveInputTokens", Some(given.above_input_tokens), None);
        self.not_cheaper("longContext.perMillion", rates, base);
        LongContext { above_input_tokens, rates }
    }

    /// The table's rates for long input, unless the override has raised the base above them.
    fn inherited(&mut self, base: Option<&Model>, rates: Rates) -> Option<LongContext> {
        let long = base?.price.long_context?;
        self.not_cheaper("longContext", long.rates, rates);
        Some(long)
    }

    /// More input must never make a request cheaper, or a bound would not be one.
    fn not_cheaper(&mut self, field: &str, long: Rates, base: Rates) {
        let pairs = [
            (long.input, base.input),
            (long.cache_write_5m, base.cache_write_5m),
            (long.cache_write_1h, base.cache_write_1h),
            (long.cache_read, base.cache_read),
            (long.output, base.output),
        ];
        if pairs.iter().any(|(long, base)| long < base) {
            let remedy = "give `longContext.perMillion` prices that are at least those of `perMillion`";
            self.fail(field, "", "would be cheaper than a short input", remedy);
        }
    }

    fn limits(&mut self, given: &Override, base: Option<Limits>) -> Limits {
        let context_window =
            self.tokens("contextWindow", given.context_window, base.map(|base| base.context_window));
        let max_output_tokens =
            self.tokens("maxOutputTokens", given.max_output_tokens, base.map(|base| base.max_output_tokens));
        let image_tokens = base.map_or(context_window, |base| base.image_tokens);
        Limits {
            context_window,
            max_output_tokens,
            image_tokens: self.tokens("imageTokens", given.image_tokens, Some(image_tokens)),
        }
    }

    fn tokens(&mut self, field: &str, given: Option<u64>, base: Option<u64>) -> u64 {
        match given.or(base) {
            Some(tokens) if given.is_none() || (1..=MAX_TOKENS).contains(&tokens) => tokens,
            Some(tokens) => {
                self.fail(field, tokens, "is out of range", "give 1 to 1000000000 tokens");
                tokens
            }
            None => {
                let fault = "is missing, and the model is not in the table";
                self.fail(field, "", fault, "give a number of tokens");
                0
            }
        }
    }

    fn multipliers(&mut self, given: &Override, base: Option<Multipliers>) -> Multipliers {
        let base = base.unwrap_or(Multipliers { fast: 100, flex: 100, batch: 100, regional: 100 });
        Multipliers {
            fast: self.percent("fastPercent", given.fast_percent, base.fast),
            flex: self.percent("flexPercent", given.flex_percent, base.flex),
            batch: self.percent("batchPercent", given.batch_percent, base.batch),
            regional: self.percent("regionalPercent", given.regional_percent, base.regional),
        }
    }

    fn percent(&mut self, field: &str, given: Option<u32>, base: u32) -> u32 {
        let percent = given.unwrap_or(base);
        if !(1..=MAX_PERCENT).contains(&percent) {
            self.fail(field, percent, "is out of range", "give 1 to 10000, 100 for no difference");
        }
        percent
    }
}
