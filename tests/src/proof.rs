//! How long the long random tests run.

/// `full` rounds when `LA_PROOF=1`, as `make proof` sets it, else a tenth.
#[expect(clippy::disallowed_methods, reason = "the edge where tests read their one switch")]
pub fn rounds(full: usize) -> usize {
    let whole = std::env::var_os("LA_PROOF").is_some_and(|value| value == "1");
    if whole { full } else { full.div_ceil(10) }
}

/// The seed of a random test: `LA_SEED`, or the current time. A failure message must name it.
#[expect(clippy::disallowed_methods, reason = "the edge where tests read their seed and the clock")]
pub fn seed() -> u64 {
    let given = std::env::var("LA_SEED").ok().and_then(|text| text.parse().ok());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    given.unwrap_or_else(|| now.map_or(1, |now| u64::from(now.subsec_nanos())))
}
