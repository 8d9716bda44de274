//! Prices and limits of the current Claude and OpenAI models, each row with its source and date.
//!
//! A row holds for the ids in it and for no other: a newer, dearer model must not pass for an old one. What
//! could not be read on a vendor's page is left out, such as `claude-mythos-preview`, `gpt-6.2-astra` (cache
//! writes), `gpt-5.6-sol` (its price was promised until 21 November 2026) and OpenAI's Ultrafast mode.
//! Prices are those of the vendor's own API; a cloud that charges otherwise needs overrides. Time in
//! Anthropic's code execution containers ($0.05 an hour after 1,550 free hours a month) is not in an
//! answer's counts and so not priced here.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::{Limits, LongContext, Model, Multipliers, Price, Rates};

/// One model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Every documented way to write it, the vendor's own id first; Bedrock's without a geography in front.
    pub ids: &'static [&'static str],
    /// What is known of it.
    pub model: Model,
    /// From where.
    pub source: Source,
}

/// Where a row comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    /// The vendor's public page.
    pub page: &'static str,
    /// When it was read, as `YYYY-MM-DD`.
    pub read: &'static str,
    /// Whether some of the prices were read in what others quote from that page, not on it.
    pub quoted: bool,
}

impl Row {
    /// The vendor's own id.
    pub fn id(&self) -> &'static str {
        self.ids.first().copied().unwrap_or_default()
    }
}

/// Finds the row of an id, exactly as documented.
pub(super) fn find(id: &str) -> Option<&'static Row> {
    let bare = GEOGRAPHIES
        .iter()
        .find_map(|geography| id.strip_prefix(geography))
        .filter(|bare| bare.starts_with(BEDROCK))
        .unwrap_or(id);
    static ROWS: LazyLock<HashMap<&str, &Row>> =
        LazyLock::new(|| TABLE.iter().flat_map(|row| row.ids.iter().map(move |id| (*id, row))).collect());
    ROWS.get(bare).copied()
}

/// What all of Bedrock's ids for Claude begin with.
const BEDROCK: &str = "anthropic.";

/// What can stand before a Bedrock id to say where it may run (AWS, "inference profiles").
const GEOGRAPHIES: [&str; 6] = ["global.", "us.", "eu.", "apac.", "jp.", "au."];

const ANTHROPIC: Source = Source {
    page: "https://platform.claude.com/docs/en/about-claude/pricing",
    read: "2026-11-22",
    quoted: false,
};
const ANTHROPIC_QUOTED: Source = Source { quoted: true, ..ANTHROPIC };

/// Anthropic: $10 per 1,000 searches. OpenAI's rows have the same until its own price was read.
const SEARCH: u64 = 10_000_000_000;

/// Anthropic: 1M tokens of context, 128K of output, images of up to 4784 tokens (Claude 4.7 and later).
const LARGE: Limits = Limits { context_window: 1_000_000, max_output_tokens: 128_000, image_tokens: 4784 };
/// Anthropic: the same with images of up to 1568 tokens (Claude 4.6).
const LARGE_4_6: Limits = Limits { image_tokens: 1568, ..LARGE };
/// Anthropic: 200K tokens of context, 64K of output (Claude 4.5).
const SMALL: Limits = Limits { context_window: 200_000, max_output_tokens: 64_000, image_tokens: 1568 };

/// Anthropic: half in a batch; 1.1 for `inference_geo: us` (4.6 and later) and for regional endpoints of
/// Bedrock and Google Cloud (4.5 and later).
const USUAL: Multipliers = Multipliers { fast: 100, flex: 100, batch: 50, regional: 110 };
/// Anthropic: the same with fast mode at twice the rates.
const WITH_FAST: Multipliers = Multipliers { fast: 200, ..USUAL };

/// OpenAI: 1.05M tokens of context, 128K of output. An image may be as large as the context.
const OPENAI: Limits =
    Limits { context_window: 1_050_000, max_output_tokens: 128_000, image_tokens: 1_050_000 };
/// OpenAI: Fast mode doubles, Flex and Batch halve, regional processing adds a tenth. Read for the family, not on
/// the page of every model.
const OPENAI_TIERS: Multipliers = Multipliers { fast: 200, flex: 50, batch: 50, regional: 110 };
/// OpenAI: above this much input, input and cache cost twice and output 1.5 times as much, all of it.
const OPENAI_LONG: u64 = 272_000;

/// Every model of which the price is known.
pub static TABLE: &[Row] = &[
    claude(
        &["claude-fable-5-2", "anthropic.claude-fable-5-2"],
        (LARGE, WITH_FAST),
        [8_000_000, 10_000_000, 16_000_000, 200_000, 40_000_000],
        ANTHROPIC_QUOTED,
    ),
    claude(
        &["claude-mythos-5-2", "anthropic.claude-mythos-5-2"],
        (LARGE, WITH_FAST),
        [8_000_000, 10_000_000, 16_000_000, 200_000, 40_000_000],
        ANTHROPIC_QUOTED,
    ),
    claude(
        &["claude-fable-5-1", "anthropic.claude-fable-5-1"],
        (LARGE, USUAL),
        [10_000_000, 12_500_000, 20_000_000, 250_000, 50_000_000],
        ANTHROPIC,
    ),
    claude(
        &["claude-mythos-5-1", "anthropic.claude-mythos-5-1"],
        (LARGE, USUAL),
        [10_000_000, 12_500_000, 20_000_000, 250_000, 50_000_000],
        ANTHROPIC,
    ),
    claude(
        &["claude-fable-5", "anthropic.claude-fable-5"],
        (LARGE, USUAL),
        [10_000_000, 12_500_000, 20_000_000, 1_000_000, 50_000_000],
        ANTHROPIC,
    ),
    claude(
        &["claude-mythos-5", "anthropic.claude-mythos-5"],
        (LARGE, USUAL),
        [10_000_000, 12_500_000, 20_000_000, 1_000_000, 50_000_000],
        ANTHROPIC,
    ),
    claude(
        &["claude-opus-5-5", "anthropic.claude-opus-5-5"],
        (LARGE, WITH_FAST),
        [4_000_000, 5_000_000, 8_000_000, 200_000, 20_000_000],
        quoted("https://platform.claude.com/docs/en/models/opus-5-5/overview"),
    ),
    claude(
        &["claude-opus-5", "anthropic.claude-opus-5"],
        (LARGE, WITH_FAST),
        [5_000_000, 6_250_000, 10_000_000, 500_000, 25_000_000],
        ANTHROPIC,
    ),
    claude(
        &["claude-opus-4-8", "anthropic.claude-opus-4-8"],
        (LARGE, WITH_FAST),
        [5_000_000, 6_250_000, 10_000_000, 500_000, 25_000_000],
        ANTHROPIC,
    ),
    claude(
        &["claude-opus-4-7", "anthropic.claude-opus-4-7"],
        (LARGE, USUAL),
        [5_000_000, 6_250_000, 10_000_000, 500_000, 25_000_000],
        ANTHROPIC,
    ),
    claude(
        &["claude-opus-4-6", "anthropic.claude-opus-4-6-v1"],
        (LARGE_4_6, USUAL),
        [5_000_000, 6_250_000, 10_000_000, 500_000, 25_000_000],
        ANTHROPIC,
    ),
    claude(
        &[
            "claude-opus-4-5-20251101",
            "claude-opus-4-5",
            "claude-opus-4-5@20251101",
            "anthropic.claude-opus-4-5-20251101-v1:0",
        ],
        (SMALL, USUAL),
        [5_000_000, 6_250_000, 10_000_000, 500_000, 25_000_000],
        ANTHROPIC,
    ),
    claude(
        &["claude-sonnet-5-5", "anthropic.claude-sonnet-5-5"],
        (LARGE, USUAL),
        [2_000_000, 2_500_000, 4_000_000, 100_000, 10_000_000],
        ANTHROPIC_QUOTED,
    ),
    claude(
        &["claude-sonnet-5", "anthropic.claude-sonnet-5"],
        (LARGE, USUAL),
        [2_000_000, 2_500_000, 4_000_000, 200_000, 10_000_000],
        ANTHROPIC,
    ),
    claude(
        &["claude-sonnet-4-6", "anthropic.claude-sonnet-4-6"],
        (LARGE_4_6, USUAL),
        [3_000_000, 3_750_000, 6_000_000, 300_000, 15_000_000],
        ANTHROPIC,
    ),
    claude(
        &[
            "claude-sonnet-4-5-20250929",
            "claude-sonnet-4-5",
            "claude-sonnet-4-5@20250929",
            "anthropic.claude-sonnet-4-5-20250929-v1:0",
        ],
        (SMALL, USUAL),
        [3_000_000, 3_750_000, 6_000_000, 300_000, 15_000_000],
        ANTHROPIC,
    ),
    above(
        claude(
            &["claude-haiku-5-5", "anthropic.claude-haiku-5-5"],
            (LARGE, USUAL),
            [100_000, 125_000, 200_000, 10_000, 500_000],
            quoted("https://platform.claude.com/docs/en/models/haiku-5-5/overview"),
        ),
        100_000,
        [500_000, 625_000, 1_000_000, 50_000, 2_500_000],
    ),
    claude(
        &[
            "claude-haiku-4-5-20251001",
            "claude-haiku-4-5",
            "claude-haiku-4-5@20251001",
            "anthropic.claude-haiku-4-5-20251001-v1:0",
        ],
        (SMALL, USUAL),
        [1_000_000, 1_250_000, 2_000_000, 100_000, 5_000_000],
        ANTHROPIC,
    ),
    openai(
        &["gpt-6.2-sol"],
        [2_000_000, 2_500_000, 5_000_000, 100_000, 10_000_000],
        [4_000_000, 5_000_000, 10_000_000, 200_000, 15_000_000],
        page("https://developers.openai.com/api/docs/models/gpt-6.2-sol"),
    ),
    openai(
        &["gpt-6.1-sol", "gpt-6.1-sol-2026-09-29"],
        [2_000_000, 2_500_000, 2_500_000, 100_000, 10_000_000],
        [4_000_000, 5_000_000, 5_000_000, 200_000, 15_000_000],
        quoted("https://developers.openai.com/api/docs/models/gpt-6.1-sol"),
    ),
    openai(
        &["gpt-6.1-terra"],
        [1_000_000, 1_250_000, 2_500_000, 50_000, 5_000_000],
        [2_000_000, 2_500_000, 5_000_000, 100_000, 7_500_000],
        page("https://developers.openai.com/api/docs/models/gpt-6.1-terra"),
    ),
    openai(
        &["gpt-6-astra"],
        [10_000_000, 12_500_000, 12_500_000, 1_000_000, 50_000_000],
        [20_000_000, 25_000_000, 25_000_000, 2_000_000, 75_000_000],
        quoted("https://developers.openai.com/api/docs/models/gpt-6-astra"),
    ),
    openai(
        &["gpt-6-sol"],
        [2_000_000, 2_500_000, 2_500_000, 200_000, 10_000_000],
        [4_000_000, 5_000_000, 5_000_000, 400_000, 15_000_000],
        quoted("https://developers.openai.com/api/docs/models/gpt-6-sol"),
    ),
    openai(
        &["gpt-6-luna"],
        [100_000, 125_000, 125_000, 10_000, 500_000],
        [200_000, 250_000, 250_000, 20_000, 750_000],
        page("https://developers.openai.com/api/docs/models/gpt-6-luna"),
    ),
    openai(
        &["gpt-5.6-luna"],
        [200_000, 250_000, 250_000, 20_000, 1_200_000],
        [400_000, 500_000, 500_000, 40_000, 1_800_000],
        page("https://developers.openai.com/api/docs/models/gpt-5.6-luna"),
    ),
];

const fn page(page: &'static str) -> Source {
    Source { page, read: "2026-11-22", quoted: false }
}

const fn quoted(page: &'static str) -> Source {
    Source { quoted: true, ..self::page(page) }
}

/// Rates in the order in which Anthropic lists them: input, 5-minute and 1-hour cache writes, cache reads,
/// output; in micro-dollars per million tokens.
const fn rates([input, cache_write_5m, cache_write_1h, cache_read, output]: [u64; 5]) -> Rates {
    Rates { input, cache_write_5m, cache_write_1h, cache_read, output }
}

const fn claude(
    ids: &'static [&'static str],
    (limits, multipliers): (Limits, Multipliers),
    base: [u64; 5],
    source: Source,
) -> Row {
    let price = Price { rates: rates(base), long_context: None, multipliers, web_search: SEARCH };
    Row { ids, model: Model { limits, price }, source }
}

const fn openai(ids: &'static [&'static str], base: [u64; 5], long: [u64; 5], source: Source) -> Row {
    above(claude(ids, (OPENAI, OPENAI_TIERS), base, source), OPENAI_LONG, long)
}

/// The same row with other rates above so much input.
const fn above(mut row: Row, above_input_tokens: u64, long: [u64; 5]) -> Row {
    row.model.price.long_context = Some(LongContext { above_input_tokens, rates: rates(long) });
    row
}
