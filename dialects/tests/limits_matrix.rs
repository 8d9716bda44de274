//! Every combination of what an answer can say of limits, through parser and health, against a table.
//!
//! The table below is the reviewed oracle. It is written from the header texts alone and shares nothing with
//! the parser, the classes or the health: a row says in which combinations it holds, which models it closes and
//! until when. All rows that hold apply, the latest end counts, and what no row closes is open. The models are
//! the one that was asked for, one of its family, and one of another family.

use std::ops::RangeInclusive;

use la_core::account::health::{Event, Health, Outcome, Policy, Standing};
use la_dialects::anthropic::{classify, limits};

const NOW: i64 = 1_790_000_000;
const ASKED: &str = "claude-opus-5";
const SIBLING: &str = "claude-opus-4-5-20251101";
const OTHER: &str = "claude-haiku-4-5";

/// One answer, by the texts of its head. An empty text is a header that is not there.
#[derive(Debug, Clone, Copy)]
struct Case {
    /// The HTTP status, and what the body of an error says.
    answer: &'static str,
    overall: &'static str,
    overall_reset: &'static str,
    five_hour: &'static str,
    five_hour_reset: &'static str,
    seven_day: &'static str,
    seven_day_reset: &'static str,
    /// `7d_opus` or `7d_oi`.
    scoped_name: &'static str,
    scoped: &'static str,
    scoped_reset: &'static str,
    overage: &'static str,
    retry_after: &'static str,
    /// Whether the owner wants to go on beyond the limits.
    wants_overage: bool,
}

/// Which models a row closes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Closes {
    Asked,
    Family,
    All,
}

/// Until when.
enum Until {
    /// This time that the vendor stated, and 1 to 30 s more.
    Stated(i64),
    /// So many seconds from now.
    Seconds(i64),
}

struct Row {
    says: &'static str,
    holds: fn(&Case) -> bool,
    closes: Closes,
    until: fn(&Case) -> Until,
}

const ANSWERS: [&str; 5] = ["200", "429", "403 quota", "403 bare", "529"];
const STATUSES: [&str; 4] = ["", "allowed", "allowed_warning", "rejected"];
/// Nonsense comes in turns, see `with_nonsense`.
const FIVE_HOUR_RESETS: [&str; 4] = ["", "1790003600", "1789999999", "nonsense"];
const SEVEN_DAY_RESETS: [&str; 4] = ["", "1790200000", "1700000000", "nonsense"];
const SCOPED_RESETS: [&str; 3] = ["1790090000", "1789990000", "nonsense"];
const OVERALL_RESETS: [&str; 2] = ["", "1790007200"];
const OVERAGES: [&str; 4] = ["", "allowed", "rejected", "allowed but disabled"];
const RETRIES: [&str; 4] = ["", "30", "20000", "nonsense"];

/// What is no time at all, or none that can be believed.
const NONSENSE: [&str; 9] =
    ["0", "-5", "NaN", "inf", "soon", "4102444800", "1790003600000", "99999999999999999999", "1e99"];

/// The vendor refuses for its limits, and nothing makes up for it: rows of windows hold only then.
fn is_out(case: &Case) -> bool {
    let goes_on = case.wants_overage && case.overage == "allowed";
    case.overall != "allowed" && case.overall != "allowed_warning" && !goes_on && case.answer != "529"
}

/// The answer is a refusal for a limit.
fn is_quota(case: &Case) -> bool {
    case.answer == "429" || case.answer == "403 quota"
}

/// The refusal comes in spite of overage: nothing that it states is a time to wait for.
fn is_beyond(case: &Case) -> bool {
    case.overall == "rejected" && case.wants_overage && case.overage == "allowed"
}

fn no_window_is_rejected(case: &Case) -> bool {
    case.five_hour != "rejected" && case.seven_day != "rejected" && case.scoped != "rejected"
}

fn is_silent(case: &Case) -> bool {
    case.overall.is_empty()
        && case.five_hour.is_empty()
        && case.seven_day.is_empty()
        && case.scoped.is_empty()
}

const TABLE: [Row; 19] = [
    Row {
        says: "5h rejected, its reset ahead: the account until then",
        holds: |c| is_out(c) && c.five_hour == "rejected" && c.five_hour_reset == "1790003600",
        closes: Closes::All,
        until: |_| Until::Stated(1_790_003_600),
    },
    Row {
        says: "5h rejected without a time, overall too with one: the account until that",
        holds: |c| {
            is_out(c)
                && c.five_hour == "rejected"
                && c.five_hour_reset != "1790003600"
                && c.overall == "rejected"
                && c.overall_reset == "1790007200"
        },
        closes: Closes::All,
        until: |_| Until::Stated(1_790_007_200),
    },
    Row {
        says: "7d rejected, its reset ahead: the account until then",
        holds: |c| is_out(c) && c.seven_day == "rejected" && c.seven_day_reset == "1790200000",
        closes: Closes::All,
        until: |_| Until::Stated(1_790_200_000),
    },
    Row {
        says: "7d rejected without a time, overall too with one: the account until that",
        holds: |c| {
            is_out(c)
                && c.seven_day == "rejected"
                && c.seven_day_reset != "1790200000"
                && c.overall == "rejected"
                && c.overall_reset == "1790007200"
        },
        closes: Closes::All,
        until: |_| Until::Stated(1_790_007_200),
    },
    Row {
        says: "7d_opus rejected, its reset ahead: that family until then",
        holds: |c| {
            is_out(c)
                && c.scoped_name == "7d_opus"
                && c.scoped == "rejected"
                && c.scoped_reset == "1790090000"
        },
        closes: Closes::Family,
        until: |_| Until::Stated(1_790_090_000),
    },
    Row {
        says: "7d_opus rejected without a time, overall too with one: that family until that",
        holds: |c| {
            is_out(c)
                && c.scoped_name == "7d_opus"
                && c.scoped == "rejected"
                && c.scoped_reset != "1790090000"
                && c.overall == "rejected"
                && c.overall_reset == "1790007200"
        },
        closes: Closes::Family,
        until: |_| Until::Stated(1_790_007_200),
    },
    Row {
        says: "7d_oi rejected on a refusal, its reset ahead: the model asked for until then",
        holds: |c| {
            is_out(c)
                && c.answer != "200"
                && c.scoped_name == "7d_oi"
                && c.scoped == "rejected"
                && c.scoped_reset == "1790090000"
        },
        closes: Closes::Asked,
        until: |_| Until::Stated(1_790_090_000),
    },
    Row {
        says: "7d_oi rejected on a 200: the model asked for only if overall is rejected too",
        holds: |c| {
            is_out(c)
                && c.answer == "200"
                && c.overall == "rejected"
                && c.scoped_name == "7d_oi"
                && c.scoped == "rejected"
                && c.scoped_reset == "1790090000"
        },
        closes: Closes::Asked,
        until: |_| Until::Stated(1_790_090_000),
    },
    Row {
        says: "7d_oi rejected without a time, overall too with one: the model asked for until that",
        holds: |c| {
            is_out(c)
                && c.scoped_name == "7d_oi"
                && c.scoped == "rejected"
                && c.scoped_reset != "1790090000"
                && c.overall == "rejected"
                && c.overall_reset == "1790007200"
        },
        closes: Closes::Asked,
        until: |_| Until::Stated(1_790_007_200),
    },
    Row {
        says: "only overall rejected, and neither 5h nor 7d is told: the account until the overall reset",
        holds: |c| {
            is_out(c)
                && c.overall == "rejected"
                && c.overall_reset == "1790007200"
                && no_window_is_rejected(c)
                && c.five_hour.is_empty()
                && c.seven_day.is_empty()
        },
        closes: Closes::All,
        until: |_| Until::Stated(1_790_007_200),
    },
    Row {
        says: "only overall rejected, but 5h or 7d has room: the model asked for until the overall reset",
        holds: |c| {
            is_out(c)
                && c.overall == "rejected"
                && c.overall_reset == "1790007200"
                && no_window_is_rejected(c)
                && !(c.five_hour.is_empty() && c.seven_day.is_empty())
        },
        closes: Closes::Asked,
        until: |_| Until::Stated(1_790_007_200),
    },
    Row {
        says: "a refusal for a limit with an overall reset and no status: the model asked for until then",
        holds: |c| is_quota(c) && is_silent(c) && c.overall_reset == "1790007200",
        closes: Closes::Asked,
        until: |_| Until::Stated(1_790_007_200),
    },
    Row {
        says: "a refusal for a limit with retry-after 30: the model asked for until then",
        holds: |c| is_quota(c) && !is_beyond(c) && c.retry_after == "30",
        closes: Closes::Asked,
        until: |_| Until::Stated(1_790_000_030),
    },
    Row {
        says: "a refusal for a limit with retry-after 20000: the model asked for until then",
        holds: |c| is_quota(c) && !is_beyond(c) && c.retry_after == "20000",
        closes: Closes::Asked,
        until: |_| Until::Stated(1_790_020_000),
    },
    Row {
        says: "a refusal for a limit in spite of overage: the model asked for, a minute",
        holds: |c| is_quota(c) && is_beyond(c),
        closes: Closes::Asked,
        until: |_| Until::Seconds(60),
    },
    Row {
        says: "a refusal for a limit that states no time: the model asked for, a minute",
        holds: |c| is_quota(c) && states_no_time(c),
        closes: Closes::Asked,
        until: |_| Until::Seconds(60),
    },
    Row {
        says: "a bare 403: the account, a minute",
        holds: |c| c.answer == "403 bare",
        closes: Closes::All,
        until: |_| Until::Seconds(60),
    },
    Row {
        says: "529: the model asked for, a second, whatever the limits are",
        holds: |c| c.answer == "529",
        closes: Closes::Asked,
        until: |_| Until::Seconds(1),
    },
    Row { says: "anything else: open", holds: |_| false, closes: Closes::All, until: |_| Until::Seconds(0) },
];

/// Nothing in the head says when the model asked for can be used again.
fn states_no_time(c: &Case) -> bool {
    let waits = c.retry_after == "30" || c.retry_after == "20000";
    let has_overall_time = c.overall_reset == "1790007200" && (c.overall == "rejected" || is_silent(c));
    let five_hour = c.five_hour == "rejected" && c.five_hour_reset == "1790003600";
    let seven_day = c.seven_day == "rejected" && c.seven_day_reset == "1790200000";
    let scoped = c.scoped == "rejected" && c.scoped_reset == "1790090000";
    !waits && !(is_out(c) && (five_hour || seven_day || scoped || has_overall_time))
}

/// When a model is usable again, and whether one request has to show it.
fn expected(case: &Case, model: &str) -> Option<(RangeInclusive<i64>, &'static str)> {
    let closes_it = |closes| match closes {
        Closes::All => true,
        Closes::Family => model == ASKED || model == SIBLING,
        Closes::Asked => model == ASKED,
    };
    let rows = TABLE.iter().filter(|row| (row.holds)(case) && closes_it(row.closes));
    let ends = rows.map(|row| match (row.until)(case) {
        Until::Stated(at) => (at + 1..=at + 30, row.says),
        Until::Seconds(seconds) => (NOW + seconds..=NOW + seconds, row.says),
    });
    ends.max_by_key(|(range, _)| *range.end())
}

fn head(case: &Case, nonsense: &'static str) -> Vec<(String, &'static str)> {
    let real = |value| if value == "nonsense" { nonsense } else { value };
    let overage = if case.overage == "allowed but disabled" { "allowed" } else { case.overage };
    let reason = if case.overage == "allowed but disabled" { "out_of_credits" } else { "" };
    let unified = |name: &str| format!("anthropic-ratelimit-unified-{name}");
    let fields = [
        (unified("status"), case.overall),
        (unified("reset"), case.overall_reset),
        (unified("5h-status"), case.five_hour),
        (unified("5h-reset"), real(case.five_hour_reset)),
        // How full a window is closes nothing.
        (unified("5h-utilization"), "1.5"),
        (unified("7d-status"), case.seven_day),
        (unified("7d-reset"), real(case.seven_day_reset)),
        (unified(&format!("{}-status", case.scoped_name)), case.scoped),
        (unified(&format!("{}-reset", case.scoped_name)), real(case.scoped_reset)),
        (unified("overage-status"), overage),
        (unified("overage-disabled-reason"), reason),
        ("retry-after".to_owned(), real(case.retry_after)),
        ("request-id".to_owned(), "req_1"),
    ];
    fields.into_iter().filter(|(_, value)| !value.is_empty()).collect()
}

const QUOTA_BODY: &[u8] =
    br#"{"type":"error","error":{"type":"permission_error","message":"You have hit your usage limit"}}"#;
const BARE_BODY: &[u8] = br#"{"type":"error","error":{"type":"permission_error","message":"Not permitted"}}"#;

/// What parser, classes and health make of it.
fn learn(case: &Case, nonsense: &'static str, random: u64) -> Health {
    let head = head(case, nonsense);
    let fields = head.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    let reading = limits::read(fields, NOW);
    let (status, body): (u16, &[u8]) = match case.answer {
        "200" => (200, b""),
        "429" => (429, b"<html>slow down</html>"),
        "403 quota" => (403, QUOTA_BODY),
        "403 bare" => (403, BARE_BODY),
        _ => (529, b""),
    };
    let outcome = match status {
        200 => Outcome::Served(&reading),
        _ => Outcome::Refused { status, class: classify::class(status, body), reading: &reading },
    };
    let policy = Policy { use_overage: case.wants_overage, ..Policy::default() };
    let mut health = Health::default();
    health.note(&Event { model: ASKED, outcome }, NOW, random, &policy);
    health
}

/// Compares one combination for one model, now, at the stated time and 30 s after it.
fn check(case: &Case, health: &Health, model: &str) -> Result<(), String> {
    let standing = health.standing(model, NOW);
    let Some((range, row)) = expected(case, model) else {
        let is_open = standing == Standing::Open;
        return is_open.then_some(()).ok_or(format!("{model} should be open, is {standing:?}"));
    };
    let told = match standing {
        Standing::Closed { until: Some(until), .. } => until,
        _ => return Err(format!("{model} should be closed until {range:?} ({row}), is {standing:?}")),
    };
    if !range.contains(&told) {
        return Err(format!("{model} should be closed until {range:?} ({row}), is until {told}"));
    }
    let is_closed = |at| matches!(health.standing(model, at), Standing::Closed { .. });
    if !is_closed(range.start() - 1) || is_closed(*range.end()) {
        return Err(format!("{model} should return in {range:?} ({row}) without any traffic"));
    }
    Ok(())
}

/// Each combination once, with its number: all when the whole proof is asked for, else a tenth of them, spread
/// over every value of every header.
fn every_case(mut on: impl FnMut(usize, &Case)) {
    let step = step();
    let mut number = 0_usize;
    let scopes = || {
        let told = |name| {
            let resets = move |status| SCOPED_RESETS.into_iter().map(move |reset| (name, status, reset));
            ["allowed", "rejected"].into_iter().flat_map(resets)
        };
        [("7d_oi", "", "")].into_iter().chain(["7d_opus", "7d_oi"].into_iter().flat_map(told))
    };
    let window = |resets: [&'static str; 4]| {
        let told = move |status| resets.into_iter().map(move |reset| (status, reset));
        STATUSES.into_iter().filter(|status| !status.is_empty()).flat_map(told).chain([("", "")])
    };
    for (five_hour, five_hour_reset) in window(FIVE_HOUR_RESETS) {
        for (seven_day, seven_day_reset) in window(SEVEN_DAY_RESETS) {
            for (scoped_name, scoped, scoped_reset) in scopes() {
                for rest in 0..4 * 2 * 4 * 4 * 5 * 2 {
                    let case = Case {
                        answer: ANSWERS[rest % 5],
                        overall: STATUSES[rest / 5 % 4],
                        overall_reset: OVERALL_RESETS[rest / 20 % 2],
                        overage: OVERAGES[rest / 40 % 4],
                        retry_after: RETRIES[rest / 160 % 4],
                        wants_overage: rest / 640 % 2 == 0,
                        five_hour,
                        five_hour_reset,
                        seven_day,
                        seven_day_reset,
                        scoped_name,
                        scoped,
                        scoped_reset,
                    };
                    if (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32).is_multiple_of(step) {
                        on(number, &case);
                    }
                    number += 1;
                }
            }
        }
    }
}

fn step() -> usize {
    #[expect(clippy::disallowed_methods, reason = "tests read their own switch")]
    let whole = std::env::var_os("LA_PROOF").is_some_and(|value| value == "1");
    if whole { 1 } else { 10 }
}

#[test]
fn account_is_excluded_exactly_when_the_table_says_so() {
    let mut wrong = Vec::new();
    let mut checked = 0;
    every_case(|number, case| {
        checked += 1;
        let nonsense = NONSENSE[number % NONSENSE.len()];
        let health = learn(case, nonsense, number as u64);
        for model in [ASKED, SIBLING, OTHER] {
            if let Err(what) = check(case, &health, model) {
                wrong.push(format!("{what}, {nonsense:?} as nonsense: {case:?}"));
            }
        }
    });
    assert!(
        wrong.is_empty(),
        "{} of {checked} are wrong, among them\n{}",
        wrong.len(),
        wrong[..wrong.len().min(5)].join("\n")
    );
    assert!(checked > 200_000, "only {checked} combinations");
}

#[test]
fn every_row_of_the_table_decides_somewhere() {
    let mut used = [false; TABLE.len()];
    every_case(|_, case| {
        for (row, used) in TABLE.iter().zip(&mut used) {
            *used |= (row.holds)(case) && expected(case, ASKED).is_some_and(|(_, says)| says == row.says);
        }
    });
    let idle: Vec<_> = TABLE.iter().zip(used).filter(|(_, used)| !used).map(|(row, _)| row.says).collect();
    assert_eq!(idle, ["anything else: open"]);
}
