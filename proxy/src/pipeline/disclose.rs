//! What a caller is told of its budgets with every answer: a field for each, its own first, then its pools'.
//!
//! `la-budget-NAME: unit=USD; limit=5; used=1.25; reset=1790000000`, where what is used includes what is open, and
//! `reset` (Unix seconds) is when the window ends or the oldest part of a rolling one leaves; a lifetime has none.
//! A pool's has `; pool=NAMESPACE/NAME`, one that does not refuse `; enforcement=Soft` or `Shadow`.

use std::rc::Rc;

use la_core::amount::Unit;
use la_core::budget::{Budget, Enforcement, Reading, Standing};
use la_core::id::Subject;

use super::callers::Known;
use crate::config::live::TokenEntry;

/// Most fields in one answer.
const MOST_FIELDS: usize = 16;

/// How the budgets of a caller read with one of its requests.
pub(super) struct Told {
    caller: Rc<Known>,
    readings: Vec<Reading>,
}

/// The fields of one caller as they were written last: all but the use in them is mostly the same every time.
#[derive(Default)]
pub(super) struct Fields {
    resets_at_ms: Vec<Option<u64>>,
    /// What each use is written in, and what stands before it.
    uses: Vec<(Unit, Vec<u8>)>,
    /// What stands behind the last use.
    end: Vec<u8>,
}

/// A field but for the use.
struct Field<'a> {
    owner: &'a Subject,
    name: &'a str,
    unit: Unit,
    limit: u64,
    enforcement: Enforcement,
    resets_at_ms: Option<u64>,
}

impl Told {
    /// `readings` are of all budgets that cover the caller, in their order.
    pub(super) fn new(caller: &Rc<Known>, readings: Vec<Reading>) -> Self {
        Self { caller: Rc::clone(caller), readings }
    }

    /// Writes the fields as they stand in a head.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        if !self.readings.is_empty() {
            self.caller.fields.borrow_mut().write(out, &self.caller.token, &self.readings);
        }
    }
}

impl Fields {
    /// Forgets whose they are.
    pub(super) fn forget(&mut self) {
        self.resets_at_ms.clear();
    }

    fn write(&mut self, out: &mut Vec<u8>, token: &TokenEntry, readings: &[Reading]) {
        let readings = readings.get(..MOST_FIELDS).unwrap_or(readings);
        if !self.resets_at_ms.iter().eq(readings.iter().map(|reading| &reading.resets_at_ms)) {
            self.renew(token, readings);
        }
        for ((unit, before), reading) in self.uses.iter().zip(readings) {
            out.extend_from_slice(before);
            unit.write(reading.used, out);
        }
        out.extend_from_slice(&self.end);
    }

    fn renew(&mut self, token: &TokenEntry, readings: &[Reading]) {
        self.resets_at_ms = readings.iter().map(|reading| reading.resets_at_ms).collect();
        (self.uses, self.end) = (Vec::new(), Vec::new());
        let covering = token.covering();
        let budgets =
            covering.iter().flat_map(|covering| covering.budgets.iter().map(|one| (covering.owner, one)));
        for ((owner, budget), reading) in budgets.zip(readings) {
            let field = Field::of(owner, budget, reading.resets_at_ms);
            let mut before = std::mem::take(&mut self.end);
            before.extend_from_slice(&field.name());
            before.extend_from_slice(b": ");
            field.before_use(&mut before);
            self.uses.push((field.unit, before));
            field.after_use(&mut self.end);
            self.end.extend_from_slice(b"\r\n");
        }
    }
}

/// The fields by name and value.
pub(super) fn fields(standings: &[Standing]) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
    standings.iter().take(MOST_FIELDS).map(|standing| {
        let Standing { owner, name, unit, limit, enforcement, resets_at_ms, used, .. } = standing;
        let field = Field {
            owner,
            name,
            unit: *unit,
            limit: *limit,
            enforcement: *enforcement,
            resets_at_ms: *resets_at_ms,
        };
        let mut value = Vec::new();
        field.before_use(&mut value);
        unit.write(*used, &mut value);
        field.after_use(&mut value);
        (field.name(), value)
    })
}

impl<'a> Field<'a> {
    fn of(owner: &'a Subject, budget: &'a Budget, resets_at_ms: Option<u64>) -> Self {
        let Budget { name, unit, limit, enforcement, .. } = budget;
        Self { owner, name, unit: *unit, limit: *limit, enforcement: *enforcement, resets_at_ms }
    }

    fn name(&self) -> Vec<u8> {
        let name = self.name.bytes().map(|b| b.to_ascii_lowercase());
        b"la-budget-".iter().copied().chain(name).collect()
    }

    fn before_use(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"unit=");
        out.extend_from_slice(self.unit.name().as_bytes());
        out.extend_from_slice(b"; limit=");
        self.unit.write(self.limit, out);
        out.extend_from_slice(b"; used=");
    }

    fn after_use(&self, out: &mut Vec<u8>) {
        if let Some(at_ms) = self.resets_at_ms {
            out.extend_from_slice(b"; reset=");
            Unit::Requests.write(at_ms.div_ceil(1_000), out);
        }
        if let Some(pool) = self.owner.pool() {
            out.extend_from_slice(b"; pool=");
            out.extend_from_slice(pool.as_bytes());
        }
        match self.enforcement {
            Enforcement::Hard => {}
            Enforcement::Soft => out.extend_from_slice(b"; enforcement=Soft"),
            Enforcement::Shadow => out.extend_from_slice(b"; enforcement=Shadow"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use la_core::budget::{Admits, Limits, Window};

    use super::*;
    use crate::config::live::Pool;

    const NOON_MS: u64 = 1_790_000_000_001;

    fn budget(name: &str, unit: Unit, limit: u64) -> Budget {
        let (window, enforcement, admits) = (Window::Lifetime, Enforcement::Hard, Admits::default());
        Budget { name: name.into(), unit, limit, window, enforcement, admits }
    }

    fn token(budgets: Vec<Budget>, pools: Vec<(&str, Vec<Budget>)>) -> TokenEntry {
        let pool = |(name, budgets): (&str, Vec<Budget>)| {
            Arc::new(Pool {
                subject: Subject::of_pool("gateway", "platform", name).unwrap(),
                budgets,
                thresholds: Box::default(),
            })
        };
        TokenEntry {
            limits: Arc::new(Limits { budgets, ..Limits::default() }),
            pools: pools.into_iter().map(pool).collect(),
            ..TokenEntry::named("agent")
        }
    }

    fn reading(used: u64, resets_at_ms: Option<u64>) -> Reading {
        Reading { used, resets_at_ms }
    }

    fn written(fields: &mut Fields, token: &TokenEntry, readings: &[Reading]) -> String {
        let mut out = Vec::new();
        fields.write(&mut out, token, readings);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_budget_is_told_in_a_field_of_its_own() {
        let soft = Budget { enforcement: Enforcement::Soft, ..budget("life_time", Unit::Tokens, 5) };
        let token = token(vec![budget("Daily", Unit::Usd, 5_000_000_000)], vec![("all", vec![soft])]);
        let expected = "la-budget-daily: unit=USD; limit=5; used=1.25; reset=1790000001\r\n\
             la-budget-life_time: unit=Tokens; limit=5; used=7; pool=platform/all; enforcement=Soft\r\n";
        let readings = [reading(1_250_000_000, Some(NOON_MS)), reading(7, None)];
        let mut fields = Fields::default();
        assert_eq!(written(&mut fields, &token, &readings), expected);
        assert_eq!(written(&mut fields, &token, &readings), expected, "also what is remembered");
    }

    #[test]
    fn refusal_tells_the_same_as_an_answer() {
        let token = token(vec![budget("Daily", Unit::Usd, 5_000_000_000)], Vec::new());
        let standing = Standing {
            owner: token.subject.clone(),
            name: "Daily".into(),
            unit: Unit::Usd,
            enforcement: Enforcement::Hard,
            used: 1_250_000_000,
            open: 250_000_000,
            limit: 5_000_000_000,
            resets_at_ms: Some(NOON_MS),
        };
        let as_fields = |(name, value): (Vec<u8>, Vec<u8>)| {
            format!("{}: {}\r\n", String::from_utf8(name).unwrap(), String::from_utf8(value).unwrap())
        };
        let refusal: String = fields(std::slice::from_ref(&standing)).map(as_fields).collect();
        assert_eq!(refusal, written(&mut Fields::default(), &token, &[Reading::from(&standing)]));
    }

    #[test]
    fn field_tells_of_a_new_window_as_soon_as_it_begins() {
        let token = token(vec![budget("daily", Unit::Requests, 9)], Vec::new());
        let mut fields = Fields::default();
        for reset in [1, 2, 3] {
            let told = written(&mut fields, &token, &[reading(reset, Some(1_000 * reset))]);
            assert_eq!(
                told,
                format!("la-budget-daily: unit=Requests; limit=9; used={reset}; reset={reset}\r\n")
            );
        }
    }

    #[test]
    fn head_stays_of_a_bounded_size() {
        let many = (0..=MOST_FIELDS).map(|at| budget(&format!("b{at}"), Unit::Requests, 9)).collect();
        let token = token(many, Vec::new());
        let told = written(&mut Fields::default(), &token, &vec![reading(1, None); MOST_FIELDS + 1]);
        assert_eq!(told.matches("\r\n").count(), MOST_FIELDS);
    }
}
