use super::*;

fn ms(instant: &str) -> u64 {
    let instant: Timestamp = instant.parse().unwrap();
    u64::try_from(instant.as_millisecond()).unwrap()
}

fn window(text: &str) -> Window {
    text.parse().unwrap()
}

/// A window, an instant, beginning and end of its period, and what is special there.
type Case = (&'static str, &'static str, &'static str, &'static str, &'static str);

const CALENDAR: [Case; 16] = [
    (
        "Hour@UTC",
        "2026-08-01T10:59:59.999Z",
        "2026-08-01T10:00:00Z",
        "2026-08-01T11:00:00Z",
        "last millisecond",
    ),
    ("Hour@UTC", "2026-08-01T11:00:00Z", "2026-08-01T11:00:00Z", "2026-08-01T12:00:00Z", "first"),
    (
        "Hour@Asia/Kolkata",
        "2026-08-01T10:40:00Z",
        "2026-08-01T10:30:00Z",
        "2026-08-01T11:30:00Z",
        "half past in UTC",
    ),
    (
        "Hour@Europe/Berlin",
        "2026-10-25T00:30:00Z",
        "2026-10-25T00:00:00Z",
        "2026-10-25T01:00:00Z",
        "two o'clock",
    ),
    (
        "Hour@Europe/Berlin",
        "2026-10-25T01:30:00Z",
        "2026-10-25T01:00:00Z",
        "2026-10-25T02:00:00Z",
        "two o'clock again",
    ),
    (
        "Hour@Australia/Lord_Howe",
        "2026-04-04T15:10:00Z",
        "2026-04-04T15:00:00Z",
        "2026-04-04T15:30:00Z",
        "half an hour shown twice",
    ),
    ("Day@Europe/Berlin", "2026-03-29T12:00:00Z", "2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z", "23 hours"),
    ("Day@Europe/Berlin", "2026-10-25T12:00:00Z", "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z", "25 hours"),
    (
        "Day@America/Sao_Paulo",
        "2018-11-04T12:00:00Z",
        "2018-11-04T03:00:00Z",
        "2018-11-05T02:00:00Z",
        "a midnight that is skipped",
    ),
    (
        "Day@Pacific/Apia",
        "2011-12-30T09:59:00Z",
        "2011-12-29T10:00:00Z",
        "2011-12-30T10:00:00Z",
        "before a day that is skipped",
    ),
    (
        "Day@America/St_Johns",
        "2010-11-07T02:45:00Z",
        "2010-11-07T02:30:00Z",
        "2010-11-08T03:30:00Z",
        "an evening shown again after midnight",
    ),
    (
        "Week@UTC",
        "2026-08-02T23:59:59Z",
        "2026-07-27T00:00:00Z",
        "2026-08-03T00:00:00Z",
        "Sunday is the last day",
    ),
    (
        "Week@UTC",
        "2026-01-01T00:00:00Z",
        "2025-12-29T00:00:00Z",
        "2026-01-05T00:00:00Z",
        "over the year's end",
    ),
    (
        "Month@America/New_York",
        "2024-02-29T12:00:00Z",
        "2024-02-01T05:00:00Z",
        "2024-03-01T05:00:00Z",
        "a leap year",
    ),
    (
        "Month@America/New_York",
        "2026-03-31T12:00:00Z",
        "2026-03-01T05:00:00Z",
        "2026-04-01T04:00:00Z",
        "daylight saving begins in it",
    ),
    (
        "Month@UTC",
        "1970-01-01T00:00:00Z",
        "1970-01-01T00:00:00Z",
        "1970-02-01T00:00:00Z",
        "the first millisecond",
    ),
];

#[test]
fn calendar_periods_begin_and_end_where_the_zone_says() {
    for (text, now, start, end, why) in CALENDAR {
        let period = Period { start_ms: ms(start), end_ms: ms(end) };
        assert_eq!(window(text).period_at(ms(now)), period, "{text} at {now}: {why}");
    }
}

#[test]
fn calendar_periods_follow_each_other_without_gap_or_overlap() {
    let (from, until) = (ms("2026-01-01T00:00:00Z"), ms("2028-01-01T00:00:00Z"));
    let zones = [
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        "Asia/Kathmandu",
        "Australia/Lord_Howe",
        "Africa/Casablanca",
    ];
    for (zone, every) in
        zones.iter().flat_map(|zone| ["Hour", "Day", "Week", "Month"].map(|every| (zone, every)))
    {
        let window = window(&format!("{every}@{zone}"));
        let mut period = window.period_at(from);
        while period.end_ms < until {
            assert_eq!(window.period_at(period.start_ms), period, "{window}: first moment");
            assert_eq!(window.period_at(period.end_ms - 1), period, "{window}: last moment");
            let next = window.period_at(period.end_ms);
            assert_eq!(next.start_ms, period.end_ms, "{window}");
            period = next;
        }
    }
}

#[test]
fn rolling_window_has_at_most_120_periods_and_is_never_shorter_than_said() {
    for length_ms in [1, 7, 118, 119, 120, 121, 1_000, 60_000, 3_600_000, 86_400_000, 2_592_000_000] {
        let window = Window::Rolling { length_ms };
        let now = 1_800_000_000_123_u64;
        let mut counting = 0;
        let mut period = window.period_at(now);
        while window.leaves_at(period.start_ms).unwrap() > now {
            counting += 1;
            period = window.period_at(period.start_ms - 1);
        }
        assert!(counting <= ROLLING_BUCKETS, "{length_ms} ms: {counting}");
        assert!(now - (period.end_ms - 1) >= length_ms, "{length_ms} ms: something younger has left");
    }
}

#[test]
fn windows_read_as_they_are_written() {
    for text in [
        "lifetime",
        "Hour@UTC",
        "Day@Europe/Berlin",
        "Month@America/Argentina/Buenos_Aires",
        "rolling/1h30m",
        "rolling/1ms",
    ] {
        assert_eq!(window(text).to_string(), text);
    }
    assert_eq!(window("Day@europe/berlin"), window("Day@Europe/Berlin"), "one zone, one window");
    for (text, error) in [
        ("", WindowError::UnknownWindow),
        ("day@UTC", WindowError::UnknownWindow),
        ("Year@UTC", WindowError::UnknownWindow),
        ("Day@Mars/Olympus", WindowError::UnknownZone),
        ("Day@", WindowError::UnknownZone),
        ("rolling/0s", WindowError::Empty),
        ("rolling/1.5h", WindowError::Empty),
        ("rolling/-1h", WindowError::Empty),
    ] {
        assert_eq!(text.parse::<Window>(), Err(error), "{text:?}");
    }
}

#[test]
fn times_that_no_calendar_has_are_one_period() {
    assert_eq!(window("Day@UTC").period_at(u64::MAX), Period::EVER);
    assert_eq!(window("Hour@UTC").period_at(u64::MAX), Period::EVER);
}
