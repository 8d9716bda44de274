//! Costs to the nano-dollar, bounds that hold, and overrides that are refused.

use proptest::prelude::*;

use super::*;

/// What is shown; the model; input, 5-minute and 1-hour cache writes, cache reads, output; web searches; tier;
/// whether in one region; and nano-dollars, worked out from the published dollars per million tokens with
/// fractions, apart from this code.
type Case = (&'static str, &'static str, [u64; 5], u64, Tier, bool, u64);

#[rustfmt::skip]
const COSTS: &[Case] = &[
    ("nothing at all costs nothing", "claude-opus-5-5", [0, 0, 0, 0, 0], 0, Tier::Standard, false, 0),
    ("one token of input", "claude-opus-5-5", [1, 0, 0, 0, 0], 0, Tier::Standard, false, 4_000),
    ("one token of output", "claude-opus-5-5", [0, 0, 0, 0, 1], 0, Tier::Standard, false, 20_000),
    ("one token read from a cache", "claude-opus-5-5", [0, 0, 0, 1, 0], 0, Tier::Standard, false, 200),
    ("one token cached for five minutes", "claude-opus-5-5", [0, 1, 0, 0, 0], 0, Tier::Standard, false, 5_000),
    ("one token cached for an hour", "claude-opus-5-5", [0, 0, 1, 0, 0], 0, Tier::Standard, false, 8_000),
    ("every kind at once", "claude-opus-5-5", [2_000, 300, 8_000, 140_000, 1_500], 0, Tier::Standard, false, 131_500_000),
    ("fast mode doubles all of it", "claude-opus-5-5", [2_000, 300, 8_000, 140_000, 1_500], 0, Tier::Fast, false, 263_000_000),
    ("only in the United States, a tenth more", "claude-opus-5-5", [2_000, 300, 8_000, 140_000, 1_500], 0, Tier::Standard, true, 144_650_000),
    ("fast and only in the United States", "claude-opus-5-5", [2_000, 300, 8_000, 140_000, 1_500], 0, Tier::Fast, true, 289_300_000),
    ("in a batch, half", "claude-opus-5-5", [2_000, 300, 8_000, 140_000, 1_500], 0, Tier::Batch, false, 65_750_000),
    ("in a batch, only in the United States", "claude-opus-5-5", [2_000, 300, 8_000, 140_000, 1_500], 0, Tier::Batch, true, 72_325_000),
    ("the vendor's worked example", "claude-opus-5", [50_000, 0, 0, 0, 15_000], 0, Tier::Standard, false, 625_000_000),
    ("the vendor's worked example with a cache", "claude-opus-5", [10_000, 0, 0, 40_000, 15_000], 0, Tier::Standard, false, 445_000_000),
    ("the newest Fable reads a cache at a fortieth", "claude-fable-5-2", [12, 0, 248, 905_000, 4_096], 0, Tier::Standard, false, 348_904_000),
    ("the newest Fable, fast", "claude-fable-5-2", [12, 0, 248, 905_000, 4_096], 0, Tier::Fast, false, 697_808_000),
    ("the newest Mythos costs what Fable does", "claude-mythos-5-2", [7, 0, 0, 0, 7], 0, Tier::Standard, false, 336_000),
    ("Fable 5.1 reads a cache at a fortieth", "claude-fable-5-1", [0, 0, 0, 999_999, 1], 0, Tier::Standard, false, 250_049_750),
    ("Fable 5.1 has no fast mode", "claude-fable-5-1", [1_000, 0, 0, 0, 1_000], 0, Tier::Fast, false, 60_000_000),
    ("Mythos 5.1 writes to a cache", "claude-mythos-5-1", [0, 1_001, 2_002, 0, 0], 0, Tier::Standard, false, 52_552_500),
    ("Fable 5 reads a cache at a tenth", "claude-fable-5", [0, 0, 0, 999_999, 1], 0, Tier::Standard, false, 1_000_049_000),
    ("Mythos 5", "claude-mythos-5", [123, 456, 789, 1_011, 1_213], 0, Tier::Standard, false, 84_371_000),
    ("Opus 5, fast", "claude-opus-5", [1_234, 0, 0, 0, 5_678], 0, Tier::Fast, false, 296_240_000),
    ("Opus 4.8, fast, only in the United States", "claude-opus-4-8", [1, 2, 3, 4, 5], 0, Tier::Fast, true, 383_900),
    ("Opus 4.7 with a million tokens of input costs no more each", "claude-opus-4-7", [900_000, 0, 0, 0, 100], 0, Tier::Standard, false, 4_502_500_000),
    ("Opus 4.6 runs a fast request as usual", "claude-opus-4-6", [1_234, 0, 0, 0, 5_678], 0, Tier::Fast, false, 148_120_000),
    ("Opus 4.5 by its alias", "claude-opus-4-5", [100, 100, 100, 100, 100], 0, Tier::Standard, false, 4_675_000),
    ("Sonnet 5.5 reads a cache at a twentieth", "claude-sonnet-5-5", [5, 0, 0, 60_001, 700], 0, Tier::Standard, false, 13_010_100),
    ("Sonnet 5 reads a cache at a tenth", "claude-sonnet-5", [5, 0, 0, 60_001, 700], 0, Tier::Standard, false, 19_010_200),
    ("Sonnet 4.6 with three searches", "claude-sonnet-4-6", [105, 7_345, 0, 7_123, 6_039], 3, Tier::Standard, false, 150_580_650),
    ("a search costs the same in a fast, regional request", "claude-opus-5-5", [0, 0, 0, 0, 0], 1, Tier::Fast, true, 10_000_000),
    ("a search costs the same in a batch", "claude-sonnet-4-6", [0, 0, 0, 0, 0], 1, Tier::Batch, false, 10_000_000),
    ("Sonnet 4.5, a long five-minute write", "claude-sonnet-4-5", [3, 180_000, 0, 0, 64_000], 0, Tier::Standard, false, 1_635_009_000),
    ("Haiku 5.5 with just as much input as is cheap", "claude-haiku-5-5", [40_000, 10_000, 10_000, 40_000, 1_000], 0, Tier::Standard, false, 8_150_000),
    ("Haiku 5.5 with one token more costs five times as much, all of it", "claude-haiku-5-5", [40_001, 10_000, 10_000, 40_000, 1_000], 0, Tier::Standard, false, 40_750_500),
    ("Haiku 5.5 counts cache reads towards a long input", "claude-haiku-5-5", [1, 0, 0, 100_000, 1], 0, Tier::Standard, false, 5_003_000),
    ("Haiku 5.5, long, in a batch", "claude-haiku-5-5", [100_001, 0, 0, 0, 3], 0, Tier::Batch, false, 25_004_000),
    ("Haiku 5.5: one read of a cache, in a batch, is half of ten nano-dollars", "claude-haiku-5-5", [0, 0, 0, 1, 0], 0, Tier::Batch, false, 5),
    ("Haiku 5.5: 137.5 nano-dollars are rounded up once", "claude-haiku-5-5", [0, 1, 0, 0, 0], 0, Tier::Standard, true, 138),
    ("Haiku 5.5: two halves make a whole, rounded only then", "claude-haiku-5-5", [0, 2, 0, 0, 0], 0, Tier::Standard, true, 275),
    ("Haiku 5.5: 68.75 nano-dollars", "claude-haiku-5-5", [0, 1, 0, 0, 0], 0, Tier::Batch, true, 69),
    ("Haiku 4.5, the vendor's support tickets", "claude-haiku-4-5", [37_000_000, 0, 0, 0, 0], 0, Tier::Standard, false, 37_000_000_000),
    ("Haiku 4.5 with an hour's cache", "claude-haiku-4-5", [9, 0, 12_345, 678, 910], 0, Tier::Standard, false, 29_316_800),
    ("GPT-6.2 Sol with just as much input as is cheap", "gpt-6.2-sol", [200_000, 2_000, 0, 70_000, 500], 0, Tier::Standard, false, 417_000_000),
    ("GPT-6.2 Sol with one token more", "gpt-6.2-sol", [200_001, 2_000, 0, 70_000, 500], 0, Tier::Standard, false, 831_504_000),
    ("GPT-6.2 Sol caches for twelve hours", "gpt-6.2-sol", [0, 0, 1_000, 0, 0], 0, Tier::Standard, false, 5_000_000),
    ("GPT-6.2 Sol, fast and long", "gpt-6.2-sol", [300_000, 0, 0, 0, 1], 0, Tier::Fast, false, 2_400_030_000),
    ("GPT-6.1 Terra, flex", "gpt-6.1-terra", [1_001, 0, 0, 2_001, 303], 0, Tier::Flex, false, 1_308_025),
    ("GPT-6.1 Sol in one region", "gpt-6.1-sol", [11, 13, 0, 17, 19], 0, Tier::Standard, true, 270_820),
    ("GPT-6 Astra, long, in a batch", "gpt-6-astra", [272_001, 0, 0, 0, 128_000], 0, Tier::Batch, false, 7_520_010_000),
    ("GPT-6 Sol reads a cache", "gpt-6-sol", [0, 0, 0, 54_321, 0], 0, Tier::Standard, false, 10_864_200),
    ("GPT-6 Luna, flex, in one region", "gpt-6-luna", [1, 1, 0, 1, 1], 0, Tier::Flex, true, 405),
    ("GPT-6 Luna, long", "gpt-6-luna", [272_001, 0, 0, 0, 1_000], 0, Tier::Standard, false, 55_150_200),
    ("GPT-5.6 Luna", "gpt-5.6-luna", [1_000, 100, 0, 10, 1], 0, Tier::Standard, false, 226_400),
];

fn billed([input, cache_write_5m, cache_write_1h, cache_read, output]: [u64; 5]) -> Billed {
    Billed {
        input_tokens: input,
        cache_write_5m_tokens: cache_write_5m,
        cache_write_1h_tokens: cache_write_1h,
        cache_read_tokens: cache_read,
        output_tokens: output,
        ..Billed::default()
    }
}

#[test]
fn costs_are_the_published_prices_to_the_nano_dollar() {
    for (what, model, counts, web_searches, tier, regional, nano_usd) in COSTS {
        let price = Book::default().model(model).unwrap().price;
        let billed =
            Billed { web_searches: *web_searches, tier: *tier, regional: *regional, ..billed(*counts) };
        assert_eq!(cost_nano_usd(&billed, &price), *nano_usd, "{what}");
    }
}

#[test]
fn what_a_vendor_leaves_open_counts_at_the_dearest_it_can_mean() {
    let usage = Usage { input_tokens: 1, cache_write_tokens: 100, cache_read_tokens: 3, output_tokens: 4 };
    let plain = Terms::default();
    let expected = billed([1, 0, 100, 3, 4]);
    for (terms, expected, what) in [
        (plain, expected, "a cache of unknown lifetime is the longer one"),
        (
            Terms { cache_write_5m_tokens: 60, ..plain },
            billed([1, 60, 40, 3, 4]),
            "the rest is the longer one",
        ),
        (
            Terms { cache_write_5m_tokens: 60, cache_write_1h_tokens: 40, web_search_requests: 2, ..plain },
            Billed { web_searches: 2, ..billed([1, 60, 40, 3, 4]) },
            "both lifetimes and searches as said",
        ),
        (
            Terms { cache_write_5m_tokens: 100, cache_write_1h_tokens: 1, ..plain },
            billed([1, 100, 1, 3, 4]),
            "parts that are more than their sum",
        ),
        (Terms { service_tier: Some(ServiceTier::Priority), ..plain }, expected, "bought beforehand"),
        (
            Terms { service_tier: Some(ServiceTier::Batch), ..plain },
            Billed { tier: Tier::Batch, ..expected },
            "batch",
        ),
        (
            Terms { service_tier: Some(ServiceTier::Other), ..plain },
            Billed { tier: Tier::Fast, ..expected },
            "a new tier",
        ),
        (Terms { speed: Some(Speed::Fast), ..plain }, Billed { tier: Tier::Fast, ..expected }, "fast"),
        (
            Terms { speed: Some(Speed::Other), ..plain },
            Billed { tier: Tier::Fast, ..expected },
            "a new speed",
        ),
        (Terms { inference_geo: Some(InferenceGeo::Global), ..plain }, expected, "anywhere"),
        (
            Terms { inference_geo: Some(InferenceGeo::Us), ..plain },
            Billed { regional: true, ..expected },
            "in the US",
        ),
        (
            Terms { inference_geo: Some(InferenceGeo::Other), ..plain },
            Billed { regional: true, ..expected },
            "elsewhere",
        ),
    ] {
        assert_eq!(Billed::new(&usage, &terms), expected, "{what}");
    }
}

#[test]
fn a_cost_can_be_replayed_from_what_was_recorded() {
    let (_, model, counts, web_searches, tier, regional, nano_usd) = COSTS[29];
    let record = serde_json::to_string(&Billed { web_searches, tier, regional, ..billed(counts) }).unwrap();
    let replayed: Billed = serde_json::from_str(&record).unwrap();
    assert_eq!(cost_nano_usd(&replayed, &Book::default().model(model).unwrap().price), nano_usd, "{record}");
}

#[test]
fn counts_beyond_all_money_saturate() {
    let price = Book::default().model("claude-fable-5").unwrap().price;
    let all = Billed { web_searches: u64::MAX, tier: Tier::Fast, regional: true, ..billed([u64::MAX; 5]) };
    assert_eq!(cost_nano_usd(&all, &price), u64::MAX);
    let bounds = Bounds {
        input_tokens: u64::MAX,
        output_tokens: u64::MAX,
        caching: Caching::OneHour,
        fast: true,
        regional: true,
    };
    assert_eq!(most_nano_usd(&bounds, &price), u64::MAX);
    assert_eq!(bounds.total_tokens(), u64::MAX);
}

#[test]
fn every_row_is_whole_and_says_where_it_is_from() {
    let mut ids: Vec<&str> = TABLE.iter().flat_map(|row| row.ids.iter().copied()).collect();
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count, "an id is in two rows");
    for Row { ids, model: Model { limits, price }, source } in TABLE {
        let what = ids[0];
        assert!(source.page.starts_with("https://"), "{what}");
        assert!(source.read.len() == 10 && source.read.starts_with("2026-"), "{what}");
        assert!(0 < limits.max_output_tokens && limits.max_output_tokens < limits.context_window, "{what}");
        assert!(0 < limits.image_tokens && limits.image_tokens <= limits.context_window, "{what}");
        let Rates { input, cache_write_5m, cache_write_1h, cache_read, output } = price.rates;
        assert!(0 < cache_read && cache_read < input && input < output, "{what}");
        assert_eq!(cache_write_5m * 4, input * 5, "{what}: the shorter cache write is 1.25 times the input");
        assert!(cache_write_5m <= cache_write_1h, "{what}");
        if let Some(LongContext { above_input_tokens, rates }) = price.long_context {
            assert!(above_input_tokens < limits.context_window, "{what}");
            assert!(rates.input > input && rates.output > output && rates.cache_read > cache_read, "{what}");
        }
    }
}

#[test]
fn a_model_is_found_by_every_documented_spelling() {
    let book = Book::default();
    for (spelling, same_as) in [
        ("claude-sonnet-4-5", "claude-sonnet-4-5-20250929"),
        ("claude-sonnet-4-5@20250929", "claude-sonnet-4-5-20250929"),
        ("anthropic.claude-sonnet-4-5-20250929-v1:0", "claude-sonnet-4-5-20250929"),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", "claude-sonnet-4-5-20250929"),
        ("global.anthropic.claude-opus-4-6-v1", "claude-opus-4-6"),
        ("eu.anthropic.claude-haiku-5-5", "claude-haiku-5-5"),
    ] {
        assert!(std::ptr::eq(book.model(spelling).unwrap(), book.model(same_as).unwrap()), "{spelling}");
    }
}

#[test]
fn a_model_that_is_only_similar_has_no_price() {
    for id in [
        "",
        "claude",
        "claude-opus",
        "claude-opus-5-5-20270101",
        "claude-opus-5-6",
        "claude-opus-55",
        "claude-sonnet-4",
        "claude-sonnet-4-5-20990929",
        "claude-sonnet-4-5@20990929",
        "Claude-Opus-5",
        " claude-opus-5",
        "claude-opus-5[1m]",
        "us.claude-opus-5",
        "mars.anthropic.claude-opus-5",
        "us.us.anthropic.claude-opus-5",
        "gpt-6.2",
        "gpt-6.2-astra",
        "gpt-6.2-sol-pro",
    ] {
        assert_eq!(Book::default().model(id), Err(Unpriced { model: id.to_owned() }), "{id:?}");
    }
    let error = Unpriced { model: "m".to_owned() }.to_string();
    assert!(error.contains("\"m\"") && error.contains("pricing.overrides"), "{error}");
}

fn given(json: &str) -> Override {
    serde_json::from_str(json).unwrap()
}

#[test]
fn an_override_changes_what_it_names_and_nothing_else() {
    let table = Book::default();
    let discount =
        r#"{"model": "claude-sonnet-4-5", "perMillion": {"output": "12.000001"}, "fastPercent": 150}"#;
    let book = Book::with(&[given(discount)]).unwrap();
    let (new, old) =
        (*book.model("claude-sonnet-4-5@20250929").unwrap(), *table.model("claude-sonnet-4-5").unwrap());
    let mut expected = old;
    expected.price.rates.output = 12_000_001;
    expected.price.multipliers.fast = 150;
    assert_eq!(new, expected, "by another spelling too");
    assert_eq!(book.model("claude-opus-5"), table.model("claude-opus-5"));
}

#[test]
fn an_override_can_add_a_model() {
    let whole = r#"{"model": "qwen", "contextWindow": 32768, "maxOutputTokens": 8192,
        "perMillion": {"input": "0.5", "cacheWrite5m": "0", "cacheWrite1h": "0", "cacheRead": "0", "output": "2"},
        "longContext": {"aboveInputTokens": 16000, "perMillion": {"input": "0.6"}}, "perThousandSearches": "5"}"#;
    let model = *Book::with(&[given(whole)]).unwrap().model("qwen").unwrap();
    assert_eq!(
        model.limits,
        Limits { context_window: 32_768, max_output_tokens: 8_192, image_tokens: 32_768 }
    );
    assert_eq!(cost_nano_usd(&billed([16_000, 0, 0, 0, 1]), &model.price), 8_002_000);
    assert_eq!(cost_nano_usd(&billed([16_001, 0, 0, 0, 1]), &model.price), 9_602_600);
    let search = Billed { web_searches: 1, tier: Tier::Batch, ..Billed::default() };
    assert_eq!(cost_nano_usd(&search, &model.price), 5_000_000);
}

/// An override of `claude-opus-5` unless it names another model, and a part of its error.
#[rustfmt::skip]
const FAULTY: &[(&str, &str)] = &[
    (r#""perMillion": {"input": "-1"}"#,
     r#"pricing.overrides[0].perMillion.input: "-1" is not an amount of money; write US dollars with digits and a point only, such as "0.125""#),
    (r#""perMillion": {"cacheWrite1h": "3,5"}"#, r#"perMillion.cacheWrite1h: "3,5" is not an amount of money"#),
    (r#""perMillion": {"cacheRead": "0.0000001"}"#, r#"perMillion.cacheRead: "0.0000001" is too fine; give at most six digits"#),
    (r#""perMillion": {"output": "1000000.1"}"#, r#"perMillion.output: "1000000.1" is too much; give at most 1000000"#),
    (r#""maxOutputTokens": 0"#, r#"maxOutputTokens: "0" is out of range; give 1 to 1000000000"#),
    (r#""imageTokens": 18446744073709551615"#, r#"imageTokens: "18446744073709551615" is out of range"#),
    (r#""batchPercent": 0"#, r#"batchPercent: "0" is out of range; give 1 to 10000"#),
    (r#""perThousandSearches": "ten""#, r#"perThousandSearches: "ten" is not an amount of money"#),
    (r#""longContext": {"aboveInputTokens": 5, "perMillion": {"output": "1"}}"#, r#"longContext.perMillion: "" would be cheaper than a short input"#),
    (r#""longContext": {"aboveInputTokens": 0}"#, r#"longContext.aboveInputTokens: "0" is out of range"#),
    (r#""model": "claude-haiku-5-5", "perMillion": {"output": "2.6"}"#,
     r#"longContext: "" would be cheaper than a short input; give `longContext.perMillion` prices"#),
    (r#""model": "x", "contextWindow": 1, "maxOutputTokens": 1, "perMillion": {"input": "1"}"#,
     r#"perMillion.cacheWrite5m: "" is missing, and the model is not in the table; give US dollars"#),
    (r#""model": "x""#, r#"contextWindow: "" is missing, and the model is not in the table; give a number of tokens"#),
    (r#""model": """#, r#"model: "" is no model id; give 1 to 256 bytes"#),
];

#[test]
fn a_faulty_override_is_refused_by_field_value_and_remedy() {
    for (fields, error) in FAULTY {
        let model = if fields.contains("\"model\"") { "" } else { r#""model": "claude-opus-5", "# };
        let errors = Book::with(&[given(&format!("{{{model}{fields}}}"))]).unwrap_err();
        assert!(errors.iter().any(|found| found.to_string().contains(error)), "{fields}: {errors:#?}");
    }
}

#[test]
fn two_overrides_of_one_model_and_all_other_faults_are_reported_together() {
    let overrides = [
        r#"{"model": "claude-opus-4-5"}"#,
        r#"{"model": "claude-opus-5", "perMillion": {"input": "x", "output": "y"}}"#,
        r#"{"model": "claude-opus-4-5-20251101"}"#,
    ];
    let errors = Book::with(&overrides.map(given)).unwrap_err();
    let found: Vec<_> = errors.iter().map(|error| (error.index, error.field.as_str())).collect();
    assert_eq!(found, [(1, "perMillion.input"), (1, "perMillion.output"), (2, "model")]);
    assert!(errors[2].to_string().contains("overridden before"));
}

#[test]
fn unknown_fields_of_an_override_are_refused() {
    for json in [r#"{"model": "m", "price": "1"}"#, r#"{"model": "m", "perMillion": {"cacheWrite": "1"}}"#] {
        assert!(serde_json::from_str::<Override>(json).is_err(), "{json}");
    }
}

fn any_tokens() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0..300_000_u64, 1 => 99_990..100_010_u64, 1 => 271_990..272_010_u64, 1 => any::<u64>()]
}

fn any_rates() -> impl Strategy<Value = Rates> {
    prop::array::uniform5(0..60_000_000_u64).prop_map(
        |[input, cache_write_5m, cache_write_1h, cache_read, output]| Rates {
            input,
            cache_write_5m,
            cache_write_1h,
            cache_read,
            output,
        },
    )
}

/// Prices of the table, and any other that an override could make.
fn any_price() -> impl Strategy<Value = Price> {
    let own = (any_rates(), any_rates(), prop::option::of(any_tokens()), prop::array::uniform4(1..400_u32));
    let own = own.prop_map(|(rates, more, above, [fast, flex, batch, regional])| Price {
        rates,
        long_context: above.map(|above_input_tokens| LongContext {
            above_input_tokens,
            rates: Rates {
                input: rates.input + more.input,
                cache_write_5m: rates.cache_write_5m + more.cache_write_5m,
                cache_write_1h: rates.cache_write_1h + more.cache_write_1h,
                cache_read: rates.cache_read + more.cache_read,
                output: rates.output + more.output,
            },
        }),
        multipliers: Multipliers { fast, flex, batch, regional },
        web_search: 0,
    });
    prop_oneof![prop::sample::select(TABLE).prop_map(|row| row.model.price), own]
}

fn any_billed() -> impl Strategy<Value = Billed> {
    let tier = prop::sample::select(vec![Tier::Standard, Tier::Fast, Tier::Flex, Tier::Batch]);
    (prop::array::uniform5(any_tokens()), tier, any::<bool>()).prop_map(|(counts, tier, regional)| Billed {
        tier,
        regional,
        ..billed(counts)
    })
}

/// The narrowest bounds around some counts, with some room.
fn around(billed: &Billed, room: [u64; 2]) -> Bounds {
    Bounds {
        input_tokens: billed.total_input().saturating_add(room[0]),
        output_tokens: billed.output_tokens.saturating_add(room[1]),
        caching: match (billed.cache_write_5m_tokens, billed.cache_write_1h_tokens) {
            (0, 0) => Caching::None,
            (_, 0) => Caching::FiveMinutes,
            _ => Caching::OneHour,
        },
        fast: billed.tier == Tier::Fast,
        regional: billed.regional,
    }
}

/// A tenth of the cases, unless the whole proof is asked for.
fn cases(full: u32) -> ProptestConfig {
    #[expect(clippy::disallowed_methods, reason = "tests read their own switch")]
    let whole = std::env::var_os("LA_PROOF").is_some_and(|value| value == "1");
    ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(if whole { full } else { full / 10 })
    }
}

proptest! {
    #![proptest_config(cases(30_000))]

    #[test]
    fn nothing_within_the_bounds_costs_more_than_the_most(
        billed in any_billed(), price in any_price(), room in prop::array::uniform2(0..1_000_u64),
    ) {
        let most = most_nano_usd(&around(&billed, room), &price);
        prop_assert!(cost_nano_usd(&billed, &price) <= most);
    }

    #[test]
    fn more_of_anything_never_costs_less(
        billed in any_billed(), price in any_price(), which in 0..6_usize, more in 0..300_000_u64,
    ) {
        let mut larger = billed;
        let count = [
            &mut larger.input_tokens,
            &mut larger.cache_write_5m_tokens,
            &mut larger.cache_write_1h_tokens,
            &mut larger.cache_read_tokens,
            &mut larger.output_tokens,
            &mut larger.web_searches,
        ].into_iter().nth(which).unwrap();
        *count = count.saturating_add(more);
        prop_assert!(cost_nano_usd(&billed, &price) <= cost_nano_usd(&larger, &price));
    }

    #[test]
    fn wider_bounds_never_hold_less(
        billed in any_billed(), price in any_price(), room in prop::array::uniform2(0..300_000_u64),
    ) {
        let bounds = around(&billed, [0, 0]);
        let wider = Bounds { caching: Caching::OneHour, ..around(&billed, room) };
        prop_assert!(most_nano_usd(&bounds, &price) <= most_nano_usd(&wider, &price));
    }
}
