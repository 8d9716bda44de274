//! What a caller is told of its budgets with every answer: a field for each, its own first, then its pools'.
//!
//! `la-budget-NAME: unit=USD; limit=5; used=1.25; reset=1790000000`, where what is used includes what is open, and
//! `reset` (Unix seconds) is when the window ends or the oldest part of a rolling one leaves; a lifetime has none.
//! A pool's has `; pool=NAMESPACE/NAME`, one that does not refuse `; enforcement=Soft` or `Shadow`.

use std::cell::RefCell;
use std::sync::Arc;

use la_core::amount::Unit;
use la_core::budget::{Enforcement, Standing};

/// Most fields in one answer.
const MOST_FIELDS: usize = 16;

/// How many fields a thread remembers.
const SLOTS: usize = 64;

/// The fields by which a thread told of budgets lately: all but the use in them is mostly the same every time.
#[derive(Default)]
pub struct Remembered(RefCell<Vec<Option<Field>>>);

/// A field without what is used.
struct Field {
    /// What it tells of. Its name is held, so that no other budget's comes to lie where it lies.
    standing: Standing,
    before_used: Vec<u8>,
    after_used: Vec<u8>,
}

impl Remembered {
    fn write(&self, out: &mut Vec<u8>, standing: &Standing) {
        let mut slots = self.0.borrow_mut();
        if slots.is_empty() {
            slots.resize_with(SLOTS, || None);
        }
        let at = Arc::as_ptr(&standing.name).addr() / size_of::<usize>() % SLOTS;
        let Some(slot) = slots.get_mut(at) else { return };
        if !slot.as_ref().is_some_and(|field| field.tells_of(standing)) {
            *slot = Some(Field::new(standing));
        }
        let Some(field) = slot else { return };
        out.extend_from_slice(&field.before_used);
        out.extend_from_slice(standing.unit.shown(standing.used).as_bytes());
        out.extend_from_slice(&field.after_used);
    }
}

impl Field {
    fn new(standing: &Standing) -> Self {
        let (mut before_used, mut after_used) = (name(standing), Vec::new());
        before_used.extend_from_slice(b": ");
        limit(&mut before_used, standing);
        rest(&mut after_used, standing);
        after_used.extend_from_slice(b"\r\n");
        Self { standing: standing.clone(), before_used, after_used }
    }

    /// Whether all but what is used is the same. A name is that of one budget, which is a pool's or not.
    fn tells_of(&self, other: &Standing) -> bool {
        let known = &self.standing;
        Arc::ptr_eq(&known.name, &other.name)
            && known.resets_at_ms == other.resets_at_ms
            && (known.limit, known.unit, known.enforcement) == (other.limit, other.unit, other.enforcement)
    }
}

/// Writes the fields as they stand in a head.
pub(super) fn write(out: &mut Vec<u8>, standings: &[Standing], remembered: &Remembered) {
    for standing in standings.iter().take(MOST_FIELDS) {
        remembered.write(out, standing);
    }
}

/// The fields by name and value.
pub(super) fn fields(standings: &[Standing]) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
    standings.iter().take(MOST_FIELDS).map(|standing| {
        let mut value = Vec::new();
        limit(&mut value, standing);
        value.extend_from_slice(standing.unit.shown(standing.used).as_bytes());
        rest(&mut value, standing);
        (name(standing), value)
    })
}

fn name(standing: &Standing) -> Vec<u8> {
    let name = standing.name.bytes().map(|b| b.to_ascii_lowercase());
    b"la-budget-".iter().copied().chain(name).collect()
}

fn limit(out: &mut Vec<u8>, Standing { unit, limit, .. }: &Standing) {
    out.extend_from_slice(b"unit=");
    out.extend_from_slice(unit.name().as_bytes());
    out.extend_from_slice(b"; limit=");
    out.extend_from_slice(unit.shown(*limit).as_bytes());
    out.extend_from_slice(b"; used=");
}

/// What comes behind the use.
fn rest(out: &mut Vec<u8>, standing: &Standing) {
    if let Some(at_ms) = standing.resets_at_ms {
        out.extend_from_slice(b"; reset=");
        out.extend_from_slice(Unit::Requests.shown(at_ms.div_ceil(1_000)).as_bytes());
    }
    if let Some(pool) = standing.owner.pool() {
        out.extend_from_slice(b"; pool=");
        out.extend_from_slice(pool.as_bytes());
    }
    match standing.enforcement {
        Enforcement::Hard => {}
        Enforcement::Soft => out.extend_from_slice(b"; enforcement=Soft"),
        Enforcement::Shadow => out.extend_from_slice(b"; enforcement=Shadow"),
    }
}

#[cfg(test)]
mod tests {
    use la_core::id::Subject;

    use super::*;

    fn written(standings: &[Standing], remembered: &Remembered) -> String {
        let mut out = Vec::new();
        write(&mut out, standings, remembered);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_budget_is_told_in_a_field_of_its_own() {
        let own = Subject::of("gateway", "team", "agent").unwrap();
        let standing = Standing {
            owner: own,
            name: "Daily".into(),
            unit: Unit::Usd,
            enforcement: Enforcement::Hard,
            used: 1_250_000_000,
            open: 250_000_000,
            limit: 5_000_000_000,
            resets_at_ms: Some(1_790_000_000_001),
        };
        let pool = Standing {
            owner: Subject::of_pool("gateway", "platform", "all").unwrap(),
            name: "life_time".into(),
            unit: Unit::Tokens,
            enforcement: Enforcement::Soft,
            used: 7,
            limit: 5,
            resets_at_ms: None,
            ..standing.clone()
        };
        let both = [standing.clone(), pool];
        let expected = "la-budget-daily: unit=USD; limit=5; used=1.25; reset=1790000001\r\n\
             la-budget-life_time: unit=Tokens; limit=5; used=7; pool=platform/all; enforcement=Soft\r\n";
        let remembered = Remembered::default();
        assert_eq!(written(&both, &remembered), expected);
        assert_eq!(written(&both, &remembered), expected, "also what is remembered");
        let as_fields = |(name, value): (Vec<u8>, Vec<u8>)| {
            format!("{}: {}\r\n", String::from_utf8(name).unwrap(), String::from_utf8(value).unwrap())
        };
        assert_eq!(fields(&both).map(as_fields).collect::<String>(), expected);
        let many = vec![standing; MOST_FIELDS + 1];
        assert_eq!(fields(&many).count(), MOST_FIELDS, "a head stays of a bounded size");
    }

    #[test]
    fn what_is_remembered_of_a_budget_is_never_told_of_another() {
        let remembered = Remembered::default();
        let standing = |name: String, limit| Standing {
            owner: Subject::of("gateway", "team", "agent").unwrap(),
            name: name.into(),
            unit: Unit::Requests,
            enforcement: Enforcement::Hard,
            used: 1,
            open: 0,
            limit,
            resets_at_ms: None,
        };
        let many: Vec<_> = (0..10 * SLOTS as u64).map(|at| standing(format!("b{at}"), at)).collect();
        for _ in 0..2 {
            for (at, standing) in many.iter().enumerate() {
                let expected = format!("la-budget-b{at}: unit=Requests; limit={at}; used=1\r\n");
                assert_eq!(written(std::slice::from_ref(standing), &remembered), expected);
            }
        }
        let raised = Standing { limit: 9_000, ..many[0].clone() };
        assert_eq!(written(&[raised], &remembered), "la-budget-b0: unit=Requests; limit=9000; used=1\r\n");
    }
}
