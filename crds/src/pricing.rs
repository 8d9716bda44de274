//! The schema of prices that a provider's owner writes down.
//!
//! What they mean, and whether they fit the built-in table, is the business of [`la_core::price`].

use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

/// US dollars per million tokens.
pub(crate) const PER_MILLION: &str = "^[0-9]{1,10}([.][0-9]{1,6}0*)?$";

/// Most overrides of one provider.
const MOST: usize = 64;

/// At most 64 overrides, each model once.
pub(crate) fn overrides(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": MOST,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["model"],
        "items": {
            "type": "object",
            "required": ["model"],
            "properties": {
                "model": {
                    "type": "string", "minLength": 1, "maxLength": 256,
                    "description": "The model, as requests name it.",
                },
                "perMillion": per_million("What tokens cost, in US dollars per million."),
                "longContext": {
                    "type": "object",
                    "description": "What tokens cost in a request with a long input, if that is dearer. Holds for the whole request.",
                    "required": ["aboveInputTokens"],
                    "properties": {
                        "aboveInputTokens": tokens("The most input that still costs the base prices."),
                        "perMillion": per_million("What tokens cost above it; what is not given costs as below."),
                    },
                },
                "perThousandSearches": dollars("US dollars for 1,000 web searches."),
                "fastPercent": percent("What the fast tier costs, in percent of the usual."),
                "flexPercent": percent("What the flex tier costs, in percent of the usual."),
                "batchPercent": percent("What a batch costs, in percent of the usual."),
                "regionalPercent": percent("What a request that has to stay in one region costs, in percent of the usual."),
                "contextWindow": tokens("Most input and output of one request together."),
                "maxOutputTokens": tokens("Most output of one request."),
                "imageTokens": tokens("Most tokens that one image counts as."),
            },
        },
    })
}

fn per_million(about: &str) -> Value {
    json!({
        "type": "object",
        "description": about,
        "properties": {
            "input": dollars("Input that no prompt cache has to do with."),
            "cacheWrite5m": dollars("Input written to a cache for the shorter lifetime."),
            "cacheWrite1h": dollars("Input written to a cache for the longer lifetime."),
            "cacheRead": dollars("Input read from a cache."),
            "output": dollars("Output."),
        },
    })
}

fn dollars(about: &str) -> Value {
    json!({ "type": "string", "maxLength": 20, "pattern": PER_MILLION, "description": about })
}

fn percent(about: &str) -> Value {
    json!({ "type": "integer", "format": "int32", "minimum": 1, "maximum": 10_000, "description": about })
}

fn tokens(about: &str) -> Value {
    json!({ "type": "integer", "format": "int64", "minimum": 1, "maximum": 1_000_000_000, "description": about })
}
