//! What a caller is told of its budgets with every answer: a field for each, its own first, then its pools'.
//!
//! `la-budget-NAME: unit=USD; limit=5; used=1.25; reset=1790000000`, where what is used includes what is open, and
//! `reset` (Unix seconds) is when the window ends or the oldest part of a rolling one leaves; a lifetime has none.
//! A pool's has `; pool=NAMESPACE/NAME`, one that does not refuse `; enforcement=Soft` or `Shadow`.

use la_core::amount::Unit;
use la_core::budget::{Enforcement, Standing};

/// Most fields in one answer.
const MOST_FIELDS: usize = 16;

/// Writes the fields as they stand in a head.
pub(super) fn write(out: &mut Vec<u8>, standings: &[Standing]) {
    for standing in standings.iter().take(MOST_FIELDS) {
        name(out, standing);
        out.extend_from_slice(b": ");
        value(out, standing);
        out.extend_from_slice(b"\r\n");
    }
}

/// The fields by name and value.
pub(super) fn fields(standings: &[Standing]) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
    standings.iter().take(MOST_FIELDS).map(|standing| {
        let (mut its_name, mut its_value) = (Vec::new(), Vec::new());
        name(&mut its_name, standing);
        value(&mut its_value, standing);
        (its_name, its_value)
    })
}

fn name(out: &mut Vec<u8>, standing: &Standing) {
    out.extend_from_slice(b"la-budget-");
    out.extend(standing.name.bytes().map(|b| b.to_ascii_lowercase()));
}

fn value(out: &mut Vec<u8>, standing: &Standing) {
    let Standing { owner, unit, limit, used, .. } = standing;
    out.extend_from_slice(b"unit=");
    out.extend_from_slice(unit.name().as_bytes());
    out.extend_from_slice(b"; limit=");
    out.extend_from_slice(unit.shown(*limit).as_bytes());
    out.extend_from_slice(b"; used=");
    out.extend_from_slice(unit.shown(*used).as_bytes());
    if let Some(at_ms) = standing.resets_at_ms {
        out.extend_from_slice(b"; reset=");
        out.extend_from_slice(Unit::Requests.shown(at_ms.div_ceil(1_000)).as_bytes());
    }
    if let Some(pool) = owner.pool() {
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
        let mut out = Vec::new();
        write(&mut out, &[standing.clone(), pool]);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "la-budget-daily: unit=USD; limit=5; used=1.25; reset=1790000001\r\n\
             la-budget-life_time: unit=Tokens; limit=5; used=7; pool=platform/all; enforcement=Soft\r\n"
        );
        let many = vec![standing; MOST_FIELDS + 1];
        assert_eq!(fields(&many).count(), MOST_FIELDS, "a head stays of a bounded size");
    }
}
