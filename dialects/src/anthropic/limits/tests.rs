use la_core::account::reading::{Overage, Reach, WindowName};

use super::*;

/// 2026-09-21T14:13:20Z.
const NOW: i64 = 1_790_000_000;

fn read_text(fields: &str) -> Reading {
    let fields = fields.lines().filter_map(|line| line.trim().split_once(": "));
    read(fields.map(|(name, value)| (name.as_bytes(), value.as_bytes())), NOW)
}

#[test]
fn head_of_a_subscription_is_read_whole() {
    let reading = read_text(
        "content-type: application/json
         anthropic-ratelimit-unified-7d_oi-reset: 1790500000
         anthropic-ratelimit-unified-status: rejected
         anthropic-ratelimit-unified-reset: 1790003600
         anthropic-ratelimit-unified-representative-claim: five_hour
         anthropic-ratelimit-unified-5h-status: rejected
         anthropic-ratelimit-unified-5h-utilization: 1.02
         anthropic-ratelimit-unified-5h-reset: 1790003600
         anthropic-ratelimit-unified-5h-surpassed-threshold: 0.9
         anthropic-ratelimit-unified-7d-status: allowed_warning
         anthropic-ratelimit-unified-7d-utilization: 0.17
         anthropic-ratelimit-unified-7d-reset: 2026-09-25T00:00:00.5Z
         anthropic-ratelimit-unified-7d_oi-status: allowed
         anthropic-ratelimit-unified-7d_opus-utilization: 0.5
         anthropic-ratelimit-unified-overage-status: rejected
         anthropic-ratelimit-unified-overage-reset: 1790000001
         anthropic-ratelimit-unified-overage-utilization: 0.1
         anthropic-ratelimit-unified-overage-disabled-reason: out_of_credits
         anthropic-ratelimit-unified-fallback: available
         anthropic-ratelimit-unified-fallback-percentage: 0.5
         retry-after: 3600",
    );
    assert_eq!(reading.overall, Some(Status::Rejected));
    assert_eq!((reading.resets_at, reading.retry_after_seconds), (Some(NOW + 3600), Some(3600)));
    let rejected = Some(Status::Rejected);
    assert_eq!(reading.overage, Overage { status: rejected, is_in_use: false, is_disabled: true });
    let window = |name: &[u8], status, utilization, resets_at| Window {
        name: WindowName::new(name).unwrap(),
        status,
        utilization,
        resets_at,
    };
    let windows: Vec<_> = reading.windows().copied().collect();
    assert_eq!(
        windows,
        [
            window(b"5h", Some(Status::Rejected), Some(1020), Some(NOW + 3600)),
            window(b"7d", Some(Status::Warning), Some(170), Some(1_790_294_401)),
            window(b"7d_oi", Some(Status::Allowed), None, Some(1_790_500_000)),
            window(b"7d_opus", None, Some(500), None),
        ]
    );
    let reach: Vec<_> = windows.iter().map(|window| window.name.reach()).collect();
    assert_eq!(reach, [Reach::Account, Reach::Account, Reach::Model, Reach::Family("opus")]);
}

#[test]
fn head_that_says_nothing_of_limits_is_an_empty_reading() {
    let fields =
        "content-type: text/event-stream\nrequest-id: req_1\nanthropic-organization-id: org\nretry: 5
        anthropic-ratelimit-: 1\nanthropic-ratelimit-unified-: rejected\nx-ratelimit-unified-status: rejected
        anthropic-ratelimit-unified--status: rejected\nanthropic-ratelimit-unified-overage-reset: 1790000009
        anthropic-ratelimit-unified-UPPER-status: rejected\nanthropic-priority-input-tokens-remaining: 0";
    assert_eq!(read_text(fields), Reading::default());
}

#[test]
fn nonsense_is_as_if_it_were_not_there() {
    for time in [
        "0",
        "-1",
        "nan",
        "NaN",
        "inf",
        "",
        "soon",
        "1790000000",
        "1789999999",
        "1790000001.5",
        "4070908800",
        "1790003600000",
        "99999999999999999999",
        "2026-09-21",
        "2026-09-21T14:13:20Z",
        "2096-09-21T14:13:20Z",
        "Mon, 21 Sep 2026",
    ] {
        let fields = format!(
            "anthropic-ratelimit-unified-reset: {time}\nanthropic-ratelimit-unified-5h-reset: {time}
             anthropic-ratelimit-tokens-remaining: 0\nanthropic-ratelimit-tokens-reset: {time}"
        );
        let reading = read_text(&fields);
        let times = (reading.resets_at, reading.five_hour().resets_at, reading.spent_until);
        assert_eq!(times, (None, None, None), "{time}");
    }
    for part in ["nan", "inf", "-0.1", "", "half", "50%", "1e9"] {
        let reading = read_text(&format!("anthropic-ratelimit-unified-5h-utilization: {part}"));
        assert_eq!(reading.five_hour().utilization, None, "{part}");
    }
    for status in ["", "Rejected", "denied", "allowed "] {
        let reading = read_text(&format!("anthropic-ratelimit-unified-status: x{status}"));
        assert_eq!(reading.overall, None, "{status}");
    }
}

#[test]
fn wait_is_read_in_every_form() {
    for (fields, expected) in [
        ("retry-after: 51811", Some(51_811)),
        ("retry-after: 0.2", Some(1)),
        ("retry-after: 0", None),
        ("retry-after: -5", None),
        ("retry-after: nan", None),
        ("retry-after: 1e300", None),
        ("retry-after: 3153600000", None),
        ("retry-after: Mon, 21 Sep 2026 14:14:20 GMT", Some(60)),
        ("retry-after: Mon, 21 Sep 2026 14:13:20 GMT", None),
        ("retry-after: Sun, 06 Nov 1994 08:49:37 GMT", None),
        ("retry-after: Fri, 21 Sep 2096 14:13:20 GMT", None),
        ("retry-after: later", None),
        ("retry-after-ms: 1500\nretry-after: 60", Some(2)),
        ("retry-after: 60\nretry-after-ms: 1500", Some(2)),
        ("retry-after: 60\nretry-after-ms: soon", Some(60)),
        ("retry-after-ms: 0\nretry-after: 60", Some(60)),
    ] {
        assert_eq!(read_text(fields).retry_after_seconds, expected, "{fields}");
    }
}

#[test]
fn plain_limit_counts_when_nothing_of_it_remains() {
    for (fields, expected) in [
        ("requests-remaining: 0\nrequests-reset: 2026-09-21T14:14:20Z", Some(NOW + 60)),
        ("requests-reset: 2026-09-21T14:14:20Z\nrequests-remaining: 0", Some(NOW + 60)),
        ("requests-remaining: 1\nrequests-reset: 2026-09-21T14:14:20Z", None),
        ("requests-limit: 0\nrequests-reset: 2026-09-21T14:14:20Z", None),
        ("tokens-remaining: 0", None),
        (
            "input-tokens-remaining: 0\ninput-tokens-reset: 2026-09-21T14:13:30Z\noutput-tokens-remaining: 0
             output-tokens-reset: 2026-09-21T14:13:25Z\ntokens-remaining: 9\ntokens-reset: 2026-09-21T15:13:20Z",
            Some(NOW + 10),
        ),
    ] {
        let prefixed: Vec<_> =
            fields.lines().map(|line| format!("anthropic-ratelimit-{}", line.trim())).collect();
        assert_eq!(read_text(&prefixed.join("\n")).spent_until, expected, "{fields}");
    }
}

#[test]
fn windows_beyond_the_bound_never_push_out_those_of_the_account() {
    let mut fields = String::new();
    for at in 0..50 {
        fields += &format!("anthropic-ratelimit-unified-7d_new{at}-status: rejected\n");
    }
    fields +=
        "anthropic-ratelimit-unified-7d-status: rejected\nanthropic-ratelimit-unified-5h-status: allowed";
    let reading = read_text(&fields);
    assert_eq!(reading.windows().count(), 8);
    assert!(reading.seven_day().is_rejected() && !reading.five_hour().is_rejected());
}
