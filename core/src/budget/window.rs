//! Windows: over which stretch of time a budget counts.
//!
//! Time falls into periods, and what is taken in one period stands and falls together: all of time for a
//! lifetime, an hour to a month of a time zone's calendar, or one of at most 120 buckets of a rolling window.
//! Which period an instant belongs to depends on nothing but the instant, so every process agrees.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _, Zoned};
use serde::{Deserialize, Serialize};

use crate::duration;

/// Most periods of a rolling window that count at one time.
pub const ROLLING_BUCKETS: u64 = 120;

const HOUR_MS: i64 = 3_600_000;

/// How long a budget counts before it starts anew.
///
/// Written as text: `lifetime`, `Day@Europe/Berlin`, `rolling/24h`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Window {
    /// For ever.
    Lifetime,
    /// An hour, day, week or month as clocks and calendars in a zone show it, daylight saving included.
    Calendar {
        /// What is counted from its beginning.
        every: Every,
        /// Where.
        zone: Zone,
    },
    /// The last so many milliseconds, at least one.
    Rolling {
        /// How many.
        length_ms: u64,
    },
}

/// A unit of the calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Every {
    /// From the full hour.
    Hour,
    /// From midnight, or the first moment after it where midnight is skipped.
    Day,
    /// From Monday.
    Week,
    /// From the first of the month.
    Month,
}

/// A time zone of the IANA database, which is built in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone(TimeZone);

/// Why a text is not a window or a zone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    /// No such zone.
    #[error("must be a time zone of the IANA database such as UTC or Europe/Berlin")]
    UnknownZone,
    /// No such window.
    #[error("must be lifetime, an Hour, Day, Week or Month@ZONE, or rolling/DURATION")]
    UnknownWindow,
    /// A rolling window of no length.
    #[error("must be a duration of at least 1ms such as 24h or 90m")]
    Empty,
}

/// A stretch of time in Unix milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period {
    /// Its first moment.
    pub start_ms: u64,
    /// The first moment after it; `u64::MAX` is never.
    pub end_ms: u64,
}

impl Window {
    /// A rolling window.
    ///
    /// # Errors
    /// When `length` is under a millisecond or over 2^64 of them.
    pub fn rolling(length: Duration) -> Result<Self, WindowError> {
        match u64::try_from(length.as_millis()) {
            Ok(length_ms) if length_ms > 0 => Ok(Self::Rolling { length_ms }),
            _ => Err(WindowError::Empty),
        }
    }

    /// The period that `now_ms` (Unix milliseconds) is in.
    pub fn period_at(&self, now_ms: u64) -> Period {
        match self {
            Self::Lifetime => Period::EVER,
            Self::Calendar { every, zone } => zone.period_at(*every, now_ms).unwrap_or(Period::EVER),
            Self::Rolling { length_ms } => {
                let width_ms = bucket_ms(*length_ms);
                let start_ms = now_ms / width_ms * width_ms;
                Period { start_ms, end_ms: start_ms.saturating_add(width_ms) }
            }
        }
    }

    /// When what was taken in the period that began at `start_ms` no longer counts; nothing is never.
    pub(super) fn leaves_at(&self, start_ms: u64) -> Option<u64> {
        let end_ms = match self {
            Self::Lifetime => return None,
            Self::Calendar { .. } => self.period_at(start_ms).end_ms,
            Self::Rolling { .. } => start_ms.saturating_add(self.counts_for_ms()),
        };
        Some(end_ms).filter(|end_ms| *end_ms < u64::MAX)
    }

    /// How long a period of a rolling window counts from its beginning: until its last moment has left.
    pub const fn counts_for_ms(&self) -> u64 {
        match self {
            Self::Rolling { length_ms } => length_ms.saturating_add(bucket_ms(*length_ms)),
            Self::Lifetime | Self::Calendar { .. } => u64::MAX,
        }
    }
}

/// A period of a rolling window. The window itself and one period that is partly old make 120 at most.
const fn bucket_ms(length_ms: u64) -> u64 {
    length_ms.div_ceil(ROLLING_BUCKETS - 1)
}

impl Period {
    /// All of time.
    pub const EVER: Self = Self { start_ms: 0, end_ms: u64::MAX };
}

impl Zone {
    /// Its name in the database.
    pub fn name(&self) -> &str {
        self.0.iana_name().unwrap_or("UTC")
    }

    /// Nothing only for times that no calendar has (after the year 9999).
    fn period_at(&self, every: Every, now_ms: u64) -> Option<Period> {
        let now = Timestamp::from_millisecond(i64::try_from(now_ms).ok()?).ok()?;
        let (start_ms, end_ms) = match every {
            Every::Hour => self.hour_at(now)?,
            Every::Day | Every::Week | Every::Month => self.days_at(every, now)?,
        };
        // Before 1970 begins the period that 1970 begins in.
        let start_ms = u64::try_from(start_ms).unwrap_or_default();
        Some(Period { start_ms, end_ms: u64::try_from(end_ms).ok()? })
    }

    /// Hours end early where the clock is changed, so that one that is shown twice is two.
    fn hour_at(&self, now: Timestamp) -> Option<(i64, i64)> {
        let offset_ms = i64::from(self.0.to_offset(now).seconds()) * 1_000;
        let now_ms = now.as_millisecond();
        let start_ms = now_ms - (now_ms + offset_ms).rem_euclid(HOUR_MS);
        let after_now = Timestamp::from_millisecond(now_ms + 1).ok()?;
        let changed_ms = self.0.preceding(after_now).next().map(|change| change.timestamp().as_millisecond());
        let changes_ms = self.0.following(now).next().map(|change| change.timestamp().as_millisecond());
        let start_ms = changed_ms.map_or(start_ms, |changed_ms| start_ms.max(changed_ms));
        let end_ms = now_ms - (now_ms + offset_ms).rem_euclid(HOUR_MS) + HOUR_MS;
        Some((start_ms, changes_ms.map_or(end_ms, |changes_ms| end_ms.min(changes_ms))))
    }

    fn days_at(&self, every: Every, now: Timestamp) -> Option<(i64, i64)> {
        let now = now.to_zoned(self.0.clone());
        let first = every.first_day(now.date())?;
        let (mut start, mut next) = (self.start_of(first)?, every.next(first)?);
        let mut end = self.start_of(next)?;
        // A clock set back over midnight shows the evening twice: the day has begun all the same.
        while end.timestamp() <= now.timestamp() {
            (start, next) = (end, every.next(next)?);
            end = self.start_of(next)?;
        }
        Some((start.timestamp().as_millisecond(), end.timestamp().as_millisecond()))
    }

    fn start_of(&self, day: Date) -> Option<Zoned> {
        day.to_zoned(self.0.clone()).ok()?.start_of_day().ok()
    }
}

impl Every {
    const ALL: [(Self, &'static str); 4] =
        [(Self::Hour, "Hour"), (Self::Day, "Day"), (Self::Week, "Week"), (Self::Month, "Month")];

    fn first_day(self, day: Date) -> Option<Date> {
        match self {
            Self::Hour | Self::Day => Some(day),
            Self::Week => day.checked_sub(i64::from(day.weekday().to_monday_zero_offset()).days()).ok(),
            Self::Month => Some(day.first_of_month()),
        }
    }

    fn next(self, first: Date) -> Option<Date> {
        let step = match self {
            Self::Hour | Self::Day => 1.day(),
            Self::Week => 1.week(),
            Self::Month => 1.month(),
        };
        first.checked_add(step).ok()
    }

    /// What it is called.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(every, _)| *every == self).map_or("", |(_, name)| name)
    }
}

impl FromStr for Zone {
    type Err = WindowError;

    fn from_str(name: &str) -> Result<Self, WindowError> {
        TimeZone::get(name).map(Self).map_err(|_| WindowError::UnknownZone)
    }
}

impl FromStr for Window {
    type Err = WindowError;

    fn from_str(text: &str) -> Result<Self, WindowError> {
        if text == "lifetime" {
            return Ok(Self::Lifetime);
        }
        if let Some(length) = text.strip_prefix("rolling/") {
            return Self::rolling(duration::parse(length).map_err(|_| WindowError::Empty)?);
        }
        let (every, zone) = text.split_once('@').ok_or(WindowError::UnknownWindow)?;
        let every = Every::ALL.iter().find(|(_, name)| *name == every).ok_or(WindowError::UnknownWindow)?.0;
        Ok(Self::Calendar { every, zone: zone.parse()? })
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lifetime => f.write_str("lifetime"),
            Self::Calendar { every, zone } => write!(f, "{}@{}", every.name(), zone.name()),
            Self::Rolling { length_ms } => {
                write!(f, "rolling/{}", duration::format(Duration::from_millis(*length_ms)))
            }
        }
    }
}

impl TryFrom<String> for Window {
    type Error = WindowError;

    fn try_from(text: String) -> Result<Self, WindowError> {
        text.parse()
    }
}

impl From<Window> for String {
    fn from(window: Window) -> Self {
        window.to_string()
    }
}

#[cfg(test)]
mod tests;
