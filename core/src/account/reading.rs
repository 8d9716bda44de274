//! What the head of one answer says of an account's limits.
//!
//! Every answer of every request is read, so a reading is held in place and nothing is allocated for it. What
//! is in a reading is usable: a time that has passed, or is further ahead than any limit lasts, is not there.

use std::fmt;

use jiff::Timestamp;
use jiff::fmt::rfc2822;

use super::known_family;

/// Furthest time ahead that is believed, in seconds: a year. No vendor has a longer limit, and what is
/// further is nonsense.
pub const MAX_AHEAD_SECONDS: i64 = 366 * 86_400;

/// Most windows that are kept beside the two of the account.
const MAX_SCOPED_WINDOWS: usize = 6;

/// Longest name of a window, in bytes.
const MAX_NAME_BYTES: usize = 31;

/// What one answer said of limits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reading {
    /// What the vendor says of the account and the request together.
    pub overall: Option<Status>,
    /// When the limit that the vendor thinks decides is reset, in Unix seconds.
    pub resets_at: Option<i64>,
    /// How long the vendor asks to wait, at least 1.
    pub retry_after_seconds: Option<u32>,
    /// When the last of the plain limits (requests, tokens) of which nothing remains is reset, in Unix seconds.
    pub spent_until: Option<i64>,
    /// What goes beyond the limits and is paid for apart.
    pub overage: Overage,
    pub(super) five_hour: Window,
    pub(super) seven_day: Window,
    pub(super) scoped: [Window; MAX_SCOPED_WINDOWS],
}

/// How a limit stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// There is room.
    Allowed,
    /// There is little room.
    Warning,
    /// There is none.
    Rejected,
}

/// Use beyond the limits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Overage {
    /// Whether it is possible.
    pub status: Option<Status>,
    /// Whether this request used it.
    pub is_in_use: bool,
    /// Whether the vendor gives a reason why it is off.
    pub is_disabled: bool,
}

impl Overage {
    /// Whether the account can be used when its limits are not enough.
    pub fn is_usable(&self) -> bool {
        let is_possible = match self.status {
            Some(status) => status != Status::Rejected,
            None => self.is_in_use,
        };
        is_possible && !self.is_disabled
    }
}

/// One window of a limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Window {
    /// What the vendor calls it, such as `5h`.
    pub name: WindowName,
    /// How it stands.
    pub status: Option<Status>,
    /// How much of it is used, in thousandths; can exceed 1000.
    pub utilization: Option<u32>,
    /// When it is reset, in Unix seconds.
    pub resets_at: Option<i64>,
}

impl Window {
    /// Whether the vendor refuses because of it.
    pub fn is_rejected(&self) -> bool {
        self.status == Some(Status::Rejected)
    }
}

/// Whom a window concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Every model of the account.
    Account,
    /// The models of a family.
    Family(&'static str),
    /// The model that was asked for: nothing is known of others.
    Model,
}

/// What a vendor calls a window: up to 31 bytes of `[a-z0-9_]`.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct WindowName {
    length: u8,
    bytes: [u8; MAX_NAME_BYTES],
}

impl WindowName {
    /// A name that can be a window's.
    pub fn new(name: &[u8]) -> Option<Self> {
        let is_plain = |b: &u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_');
        let mut bytes = [0; MAX_NAME_BYTES];
        bytes.get_mut(..name.len())?.copy_from_slice(name);
        let length = u8::try_from(name.len()).ok()?;
        (!name.is_empty() && name.iter().all(is_plain)).then_some(Self { length, bytes })
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..usize::from(self.length)).unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or_default()
    }

    /// Whom it concerns: `5h` and `7d` the account, `7d_opus` a family, any other the model asked for.
    pub fn reach(&self) -> Reach {
        match self.as_str() {
            "5h" | "7d" => Reach::Account,
            name => name
                .split_once('_')
                .and_then(|(_, family)| known_family(family))
                .map_or(Reach::Model, Reach::Family),
        }
    }
}

impl fmt::Debug for WindowName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl Reading {
    /// The window of five hours.
    pub fn five_hour(&self) -> &Window {
        &self.five_hour
    }

    /// The window of seven days.
    pub fn seven_day(&self) -> &Window {
        &self.seven_day
    }

    /// The windows that the answer named: those of the account, then at most six others in the order in which
    /// they came.
    pub fn windows(&self) -> impl Iterator<Item = &Window> {
        let all = [&self.five_hour, &self.seven_day].into_iter().chain(&self.scoped);
        all.filter(|window| window.name != WindowName::default())
    }

    /// The window of this name, which begins with the first call. None when there are too many.
    pub fn window_mut(&mut self, name: WindowName) -> Option<&mut Window> {
        let window = match name.as_str() {
            "5h" => &mut self.five_hour,
            "7d" => &mut self.seven_day,
            _ => self.scoped.iter_mut().find(|w| w.name == name || w.name == WindowName::default())?,
        };
        window.name = name;
        Some(window)
    }
}

/// A time that a vendor gives as Unix seconds or as RFC 3339, in Unix seconds, if it lies ahead and at most
/// [`MAX_AHEAD_SECONDS`].
pub fn time_ahead(text: &str, now: i64) -> Option<i64> {
    let at = match text.parse() {
        Ok(seconds) => seconds,
        Err(_) => text.parse::<Timestamp>().ok().map(upper_second)?,
    };
    (1..=MAX_AHEAD_SECONDS).contains(&at.checked_sub(now)?).then_some(at)
}

/// A wait that a vendor gives as seconds or as an HTTP date, in whole seconds, rounded up, if it is not over
/// and at most [`MAX_AHEAD_SECONDS`].
pub fn wait_seconds(text: &str, now: i64) -> Option<u32> {
    match text.parse::<f64>() {
        Ok(seconds) => believable_wait(seconds),
        Err(_) => {
            let at = rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
            believable_wait(upper_second(at).checked_sub(now)? as f64)
        }
    }
}

/// As [`wait_seconds`], of a number of milliseconds.
pub fn wait_of_ms(text: &str) -> Option<u32> {
    believable_wait(text.parse::<f64>().ok()? / 1000.0)
}

/// A part of a whole as thousandths: `0.17` is 170, `1.02` is 1020. None above a thousandfold.
pub fn permille(text: &str) -> Option<u32> {
    let part = text.parse::<f64>().ok()?;
    (0.0..=1000.0).contains(&part).then_some((part * 1000.0).round() as u32)
}

fn believable_wait(seconds: f64) -> Option<u32> {
    let is_believable = seconds > 0.0 && seconds <= MAX_AHEAD_SECONDS as f64;
    is_believable.then_some(seconds.ceil() as u32)
}

/// A moment in Unix seconds, rounded up: a limit is not over before its time.
fn upper_second(at: Timestamp) -> i64 {
    at.as_second() + i64::from(at.subsec_nanosecond() > 0)
}
