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
    const FIVE_HOUR: Self = Self::short(*b"5h");
    const SEVEN_DAY: Self = Self::short(*b"7d");

    const fn short([first, second]: [u8; 2]) -> Self {
        let mut bytes = [0; MAX_NAME_BYTES];
        (bytes[0], bytes[1]) = (first, second);
        Self { length: 2, bytes }
    }

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
                .and_then(|(_, family)| known_family(family.as_bytes()))
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

    /// The window of this name, which begins with the first call. None when it is no name, or there are too many.
    pub fn window_mut(&mut self, name: &[u8]) -> Option<&mut Window> {
        let (window, name) = match name {
            b"5h" => (&mut self.five_hour, WindowName::FIVE_HOUR),
            b"7d" => (&mut self.seven_day, WindowName::SEVEN_DAY),
            _ => {
                let name = WindowName::new(name)?;
                let its = |w: &&mut Window| w.name == name || w.name == WindowName::default();
                (self.scoped.iter_mut().find(its)?, name)
            }
        };
        window.name = name;
        Some(window)
    }
}

/// A time that a vendor gives as Unix seconds or as RFC 3339, in Unix seconds, if it lies ahead and at most
/// [`MAX_AHEAD_SECONDS`].
pub fn time_ahead(value: &[u8], now: i64) -> Option<i64> {
    let at = match digits(value) {
        Some(seconds) => seconds,
        None => {
            let text = std::str::from_utf8(value).ok()?;
            text.parse().ok().or_else(|| text.parse::<Timestamp>().ok().map(upper_second))?
        }
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
pub fn permille(value: &[u8]) -> Option<u32> {
    // As it is usually written, and without a float.
    if let [whole @ b'0'..=b'9', b'.', fraction @ ..] = value
        && let [tenths @ b'0'..=b'9'] | [tenths @ b'0'..=b'9', b'0'..=b'9'] = fraction
    {
        let hundredths = fraction.get(1).copied().unwrap_or(b'0');
        let digits = [(*whole, 1000), (*tenths, 100), (hundredths, 10)];
        return Some(digits.into_iter().map(|(digit, worth)| u32::from(digit - b'0') * worth).sum());
    }
    let part = std::str::from_utf8(value).ok()?.parse::<f64>().ok()?;
    (0.0..=1000.0).contains(&part).then_some((part * 1000.0).round() as u32)
}

/// A number that is written in digits only and surely fits.
fn digits(value: &[u8]) -> Option<i64> {
    /// 10^18.
    const MOST: usize = 18;
    let mut number = 0;
    for b in value.iter().take(MOST) {
        let digit = b.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        number = number * 10 + i64::from(digit);
    }
    (1..=MOST).contains(&value.len()).then_some(number)
}

fn believable_wait(seconds: f64) -> Option<u32> {
    let is_believable = seconds > 0.0 && seconds <= MAX_AHEAD_SECONDS as f64;
    is_believable.then_some(seconds.ceil() as u32)
}

/// A moment in Unix seconds, rounded up: a limit is not over before its time.
fn upper_second(at: Timestamp) -> i64 {
    at.as_second() + i64::from(at.subsec_nanosecond() > 0)
}
