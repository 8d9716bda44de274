//! What the scripts are told and what they tell, in their order.

use la_core::amount::{Amounts, Unit};
use la_core::budget::{
    Covering, Enforcement, Level, Rate, Refused, RefusedBy, SavedMeter, SavedPart, Window,
};
use la_core::id::Subject;
use la_core::usage::Usage;
use redis::Value;

use crate::ledger::state::REMEMBERED_MS;

/// The largest whole number up to which doubles, which scripts count with, are exact: 2^53 - 1.
pub(super) const MOST: u64 = (1 << 53) - 1;

/// Stands between a proxy's tag and an owner in the name of the owner's hash.
pub(super) const USE: &str = ":use:";

/// Which step of a request asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asks {
    First,
    Again,
}

/// What a hold is to take.
pub(super) struct Ask<'a> {
    pub(super) hold: &'a str,
    pub(super) asks: Asks,
    pub(super) lease_ms: u64,
    pub(super) amounts: &'a Amounts,
}

/// What one owner is asked.
pub(super) struct Seat<'a> {
    pub(super) owner: &'a Subject,
    limit: Option<u64>,
    meters: Vec<Meter<'a>>,
    rates: &'a [Rate],
}

/// A unit in a window, which a request is counted on once, however many budgets look at it.
struct Meter<'a> {
    unit: Unit,
    window: &'a Window,
    /// The lowest Hard limit.
    hard: Option<u64>,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Admitted,
    Refused,
    /// Ask again, with the period of a calendar that the server is in.
    Unknown,
    /// There is no such hold any more.
    Ended,
}

/// The answer.
pub(super) struct Told {
    pub(super) outcome: Outcome,
    /// The server's time, in Unix milliseconds.
    pub(super) now_ms: u64,
    /// Rises from answer to answer.
    pub(super) moment: u64,
    /// How every owner stands now, in their order.
    pub(super) owners: Vec<ToldOwner>,
}

pub(super) struct ToldOwner {
    /// Requests that are open.
    open: u64,
    pub(super) meters: Vec<SavedMeter>,
    levels: Vec<Level>,
}

/// The two keys of an owner. The tag in braces keeps all of one proxy in one slot of a cluster.
pub(super) fn keys(owner: &Subject) -> [String; 2] {
    let tag = tag(owner);
    [format!("{tag}{USE}{owner}"), format!("{tag}:open:{owner}")]
}

/// What all keys of an owner's proxy begin with.
pub(super) fn tag(owner: &Subject) -> String {
    let text = owner.as_str();
    let proxy = text.rsplitn(3, '/').nth(2).unwrap_or(text);
    tag_of(proxy.strip_prefix("pool:").unwrap_or(proxy))
}

/// What all keys of the proxy called `proxy` begin with.
pub(super) fn tag_of(proxy: &str) -> String {
    format!("{{la:{proxy}}}")
}

/// Whose the first of [`keys`] is.
pub(super) fn owner_of(key: &str) -> Option<Subject> {
    let (_, owner) = key.split_once(USE)?;
    Subject::try_from(owner.to_owned()).ok()
}

/// The seats of a request.
///
/// # Errors
/// One sentence about a limit that cannot be counted exactly.
pub(super) fn seats<'a>(covering: &[Covering<'a>]) -> Result<Vec<Seat<'a>>, String> {
    covering.iter().enumerate().map(|(at, covering)| seat(covering, at == 0)).collect()
}

fn seat<'a>(covering: &Covering<'a>, is_caller: bool) -> Result<Seat<'a>, String> {
    let Covering { owner, budgets, rates, concurrency } = *covering;
    let too_large = |name: &str, limit: u64| {
        format!(
            "{name} of {owner} has limit {limit}; a ledger in Redis counts to {MOST} at most, make it smaller"
        )
    };
    let mut meters: Vec<Meter<'a>> = Vec::new();
    if is_caller {
        // All requests of a caller are counted for ever, whatever limits it has now.
        meters.push(Meter { unit: Unit::Requests, window: &Window::Lifetime, hard: None });
    }
    for budget in budgets {
        if budget.limit > MOST {
            return Err(too_large(&format!("budget {}", budget.name), budget.limit));
        }
        let same = |meter: &Meter<'_>| meter.unit == budget.unit && *meter.window == budget.window;
        let at = meters.iter().position(same).unwrap_or_else(|| {
            meters.push(Meter { unit: budget.unit, window: &budget.window, hard: None });
            meters.len() - 1
        });
        if let Some(meter) = meters.get_mut(at).filter(|_| budget.enforcement == Enforcement::Hard) {
            meter.hard = Some(meter.hard.map_or(budget.limit, |hard| hard.min(budget.limit)));
        }
    }
    for Rate { unit, pace } in rates {
        let full = pace.burst().saturating_mul(pace.per_ms());
        if full > MOST || pace.limit() > MOST {
            return Err(too_large(&format!("rate of {unit} per {} ms", pace.per_ms()), pace.burst()));
        }
    }
    Ok(Seat { owner, limit: concurrency, meters, rates })
}

/// The arguments of the script that reserves, if it is `now_ms` at the server.
pub(super) fn arguments(ask: &Ask<'_>, seats: &[Seat<'_>], now_ms: u64) -> Vec<String> {
    let step = if ask.asks == Asks::First { "first" } else { "again" };
    let mut texts =
        vec![ask.hold.to_owned(), step.to_owned(), ask.lease_ms.to_string(), REMEMBERED_MS.to_string()];
    texts.extend(amount_texts(ask.amounts));
    for seat in seats {
        let limit = seat.limit.map_or(-1, |limit| i64::try_from(limit.min(MOST)).unwrap_or(-1));
        texts.extend([limit.to_string(), seat.meters.len().to_string(), seat.rates.len().to_string()]);
        for meter in &seat.meters {
            meter.write(now_ms, &mut texts);
        }
        for Rate { unit, pace } in seat.rates {
            texts.extend([format!("g:{}/{}", letter(*unit), pace.per_ms()), number(*unit).to_owned()]);
            texts.extend([pace.limit(), pace.per_ms(), pace.burst()].map(|part| part.to_string()));
        }
    }
    texts
}

/// The arguments of the script that ends a hold.
pub(super) fn ending(hold: &str, spent: Option<(&Amounts, &Usage)>) -> Vec<String> {
    let step = if spent.is_some() { "settle" } else { "release" };
    let mut texts = vec![hold.to_owned(), REMEMBERED_MS.to_string(), step.to_owned()];
    if let Some((amounts, tokens)) = spent {
        texts.extend(amount_texts(amounts));
        let kinds =
            [tokens.input_tokens, tokens.cache_write_tokens, tokens.cache_read_tokens, tokens.output_tokens];
        texts.extend(kinds.map(|kind| kind.min(MOST).to_string()));
    }
    texts
}

/// Beyond what can be counted everything is refused, so one more says enough.
fn amount_texts(amounts: &Amounts) -> [String; 3] {
    Unit::ALL.map(|unit| amounts.of(unit).min(MOST + 1).to_string())
}

const fn letter(unit: Unit) -> &'static str {
    match unit {
        Unit::Requests => "R",
        Unit::Tokens => "T",
        Unit::Usd => "U",
    }
}

/// The place of a unit's amount.
const fn number(unit: Unit) -> &'static str {
    match unit {
        Unit::Requests => "1",
        Unit::Tokens => "2",
        Unit::Usd => "3",
    }
}

impl Meter<'_> {
    fn write(&self, now_ms: u64, texts: &mut Vec<String>) {
        texts.extend([format!("{}|{}", letter(self.unit), self.window), number(self.unit).to_owned()]);
        let period = self.window.period_at(now_ms);
        match self.window {
            Window::Lifetime => texts.push("lifetime".to_owned()),
            Window::Calendar { .. } => {
                texts.push("calendar".to_owned());
                texts.extend([period.start_ms, period.end_ms.min(MOST)].map(|moment| moment.to_string()));
            }
            Window::Rolling { .. } => {
                let width_ms = period.end_ms.saturating_sub(period.start_ms).clamp(1, MOST);
                texts.push("rolling".to_owned());
                texts.extend([width_ms, self.window.counts_for_ms().min(MOST)].map(|span| span.to_string()));
            }
        }
        texts.push(self.hard.map_or_else(|| "-1".to_owned(), |hard| hard.to_string()));
    }
}

impl Told {
    /// Reads the answer to [`arguments`].
    pub(super) fn read(value: &Value, seats: &[Seat<'_>]) -> Option<Self> {
        let Value::Array(values) = value else { return None };
        let (first, rest) = values.split_first()?;
        let outcome = match text(first)? {
            "admitted" => Outcome::Admitted,
            "refused" => Outcome::Refused,
            "unknown" => Outcome::Unknown,
            "ended" => Outcome::Ended,
            _ => return None,
        };
        let mut numbers = rest.iter().map_while(|value| match value {
            Value::Int(number) => Some(*number),
            _ => None,
        });
        let (now_ms, moment) = (whole(numbers.next()?), whole(numbers.next()?));
        let mut owners = Vec::new();
        if matches!(outcome, Outcome::Admitted | Outcome::Refused) {
            for seat in seats {
                owners.push(ToldOwner::read(seat, now_ms, &mut numbers)?);
            }
        }
        Some(Self { outcome, now_ms, moment, owners })
    }

    /// What of rates and open requests refuses `amounts`: of several, what stands longest.
    pub(super) fn refused_by_pace(
        &self,
        seats: &[Seat<'_>],
        amounts: &Amounts,
        asks: Asks,
    ) -> Option<Refused> {
        let each = seats.iter().zip(&self.owners);
        let rates = each.clone().flat_map(|(seat, told)| {
            let levels = seat.rates.iter().zip(&told.levels);
            levels.filter_map(|(rate, level)| {
                let wanted = amounts.of_rate(rate.unit, asks == Asks::First);
                by_rate(seat.owner, *rate, *level, wanted, self.now_ms)
            })
        });
        let full = each.filter_map(|(seat, told)| {
            let limit = seat.limit.filter(|limit| asks == Asks::First && told.open >= *limit)?;
            Some(Refused {
                by: RefusedBy::Concurrency,
                owner: seat.owner.clone(),
                name: "".into(),
                unit: Unit::Requests,
                used: told.open,
                limit,
                wanted: 1,
                resets_at_ms: None,
                retry_at_ms: None,
            })
        });
        rates.chain(full).max_by_key(Refused::stands_until)
    }
}

fn by_rate(owner: &Subject, rate: Rate, level: Level, wanted: u64, now_ms: u64) -> Option<Refused> {
    if wanted == 0 || level.admits(&rate.pace, wanted, now_ms) {
        return None;
    }
    let retry_at_ms = level.wait_ms(&rate.pace, wanted, now_ms).map(|wait| now_ms.saturating_add(wait));
    Some(Refused {
        by: RefusedBy::Rate,
        owner: owner.clone(),
        name: "".into(),
        unit: rate.unit,
        used: level.units(&rate.pace, now_ms),
        limit: rate.pace.burst(),
        wanted,
        resets_at_ms: retry_at_ms,
        retry_at_ms,
    })
}

impl ToldOwner {
    fn read(seat: &Seat<'_>, now_ms: u64, numbers: &mut impl Iterator<Item = i64>) -> Option<Self> {
        let open = whole(numbers.next()?);
        let mut meters = Vec::with_capacity(seat.meters.len());
        for meter in &seat.meters {
            let (start_ms, oldest) = (whole(numbers.next()?), numbers.next()?);
            let (taken, open) = (whole(numbers.next()?), whole(numbers.next()?));
            let mut periods = Vec::new();
            loop {
                let start = numbers.next()?;
                if start < 0 {
                    break;
                }
                periods.push((whole(start), whole(numbers.next()?)));
            }
            if periods.is_empty() && oldest >= 0 {
                periods.push((whole(oldest), taken));
            }
            meters.push(saved(meter.unit, meter.window.clone(), (start_ms, taken, open), periods));
        }
        let mut levels = Vec::with_capacity(seat.rates.len());
        for _ in seat.rates {
            levels.push(Level::of(whole(numbers.next()?), now_ms));
        }
        Some(Self { open, meters, levels })
    }
}

/// A meter as a book keeps it: when its period began, what is taken, what of that is open.
fn saved(unit: Unit, window: Window, counts: (u64, u64, u64), periods: Vec<(u64, u64)>) -> SavedMeter {
    let (start_ms, taken, open) = counts;
    let settled = taken.saturating_sub(open);
    SavedMeter { unit, window, start_ms, settled, open, granted: 0, granted_until_ms: u64::MAX, periods }
}

/// All that is counted of an owner.
pub(super) struct Counted {
    pub(super) moment: u64,
    pub(super) tokens: Usage,
    pub(super) nano_usd: u64,
    pub(super) meters: Vec<SavedMeter>,
}

impl Counted {
    /// Reads the answer of the script that looks; nothing also when the owner is not known.
    pub(super) fn read(value: &Value) -> Option<Self> {
        let Value::Array(values) = value else { return None };
        let (head, fields) = values.split_at_checked(2)?;
        let Some(Value::Int(moment)) = head.get(1) else { return None };
        let mut counted =
            Self { moment: whole(*moment), tokens: Usage::default(), nano_usd: 0, meters: Vec::new() };
        if fields.is_empty() {
            return None;
        }
        for pair in fields.chunks_exact(2) {
            let [field, value] = pair else { continue };
            let (kind, rest) = text(field)?.split_once(':')?;
            counted.put(kind, rest, text(value)?.parse().unwrap_or_default());
        }
        for meter in &mut counted.meters {
            meter.periods.sort_unstable();
            meter.settled = meter.settled.saturating_sub(meter.open);
        }
        Some(counted)
    }

    /// Puts one field; until all are known, `settled` is all that is taken.
    fn put(&mut self, kind: &str, rest: &str, amount: u64) {
        match (kind, rest) {
            ("u", "input") => self.tokens.input_tokens = amount,
            ("u", "write") => self.tokens.cache_write_tokens = amount,
            ("u", "read") => self.tokens.cache_read_tokens = amount,
            ("u", "output") => self.tokens.output_tokens = amount,
            ("u", "nano") => self.nano_usd = amount,
            ("b", rest) => {
                let Some((start, name)) = rest.split_once(':') else { return };
                let (Ok(start), Some(meter)) = (start.parse(), self.meter(name)) else { return };
                meter.periods.push((start, amount));
            }
            (kind, name) => {
                let Some(meter) = self.meter(name) else { return };
                match kind {
                    "s" => meter.start_ms = amount,
                    "t" => meter.settled = amount,
                    "o" => meter.open = amount,
                    _ => {}
                }
            }
        }
    }

    fn meter(&mut self, name: &str) -> Option<&mut SavedMeter> {
        let (unit, window) = meter_of(name)?;
        let same = |meter: &SavedMeter| meter.unit == unit && meter.window == window;
        let at = self.meters.iter().position(same).unwrap_or_else(|| {
            self.meters.push(saved(unit, window, (0, 0, 0), Vec::new()));
            self.meters.len() - 1
        });
        self.meters.get_mut(at)
    }
}

/// What the holds of an owner have taken, in the answer that [`Counted::read`] reads.
pub(super) fn held(owner: &Subject, value: &Value) -> Vec<SavedPart> {
    let Value::Array(values) = value else { return Vec::new() };
    let pairs = values.get(2..).unwrap_or_default().chunks_exact(2);
    let holds = pairs.filter_map(|pair| match pair {
        [field, parts] if text(field)?.starts_with("h:") => text(parts),
        _ => None,
    });
    let lines = holds.flat_map(|parts| parts.lines().filter_map(|line| line.strip_prefix("m ")));
    lines.filter_map(|line| part(owner, &format!("{line} 0"))).collect()
}

/// Reads a part of a charge: a meter, when its period began, what was held of it and what was charged.
pub(super) fn part(owner: &Subject, line: &str) -> Option<SavedPart> {
    let mut words = line.split(' ');
    let (unit, window) = meter_of(words.next()?)?;
    let mut number = || words.next()?.parse().ok();
    let (start_ms, reserved, charged) = (number()?, number()?, number()?);
    Some(SavedPart { owner: owner.clone(), unit, window, start_ms, reserved, charged })
}

fn meter_of(name: &str) -> Option<(Unit, Window)> {
    let (unit, window) = name.split_once('|')?;
    let unit = Unit::ALL.into_iter().find(|known| letter(*known) == unit)?;
    Some((unit, window.parse().ok()?))
}

pub(super) fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

pub(super) fn whole(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}
