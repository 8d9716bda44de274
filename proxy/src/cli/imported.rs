//! What an export holds, judged row by row before any of it is taken.

use std::collections::BTreeSet;

use la_core::budget::{SavedBook, SavedOwner};
use serde_json::Value;

/// The owners of an export.
///
/// # Errors
/// Everything that is wrong with it, each fault with its place.
pub(super) fn owners(text: &str) -> Result<Vec<SavedOwner>, Vec<String>> {
    let value: Value = serde_json::from_str(text)
        .map_err(|error| vec![format!("is not JSON as `export` prints it: {error}")])?;
    let version = value.get("version").and_then(Value::as_u64);
    if version != Some(SavedBook::VERSION.into()) {
        let found = value.get("version").map_or_else(|| "nothing".to_owned(), Value::to_string);
        let known = SavedBook::VERSION;
        return Err(vec![format!(
            "version: is {found}, this la-router reads {known}; export with the same release"
        )]);
    }
    let Some(rows) = value.get("owners").and_then(Value::as_array) else {
        return Err(vec!["owners: must be the list that `export` prints".to_owned()]);
    };
    let (mut owners, mut faults, mut seen) = (Vec::new(), Vec::new(), BTreeSet::new());
    for (at, row) in rows.iter().enumerate() {
        match owner(row) {
            Ok(owner) if !seen.insert(owner.subject.clone()) => {
                faults.push(format!("owners[{at}].subject: {} is there twice; leave one out", owner.subject));
            }
            Ok(owner) => owners.push(owner),
            Err(fault) => faults.push(format!("owners[{at}]{fault}")),
        }
    }
    if faults.is_empty() { Ok(owners) } else { Err(faults) }
}

fn owner(row: &Value) -> Result<SavedOwner, String> {
    let owner: SavedOwner = serde_json::from_value(row.clone()).map_err(|error| {
        let subject = row.get("subject").and_then(Value::as_str).unwrap_or("without a subject");
        format!(" ({subject}): {error}")
    })?;
    for (at, meter) in owner.meters.iter().enumerate() {
        let same =
            |other: &&la_core::budget::SavedMeter| other.unit == meter.unit && other.window == meter.window;
        let place = format!(" ({}): meters[{at}]", owner.subject);
        if owner.meters.iter().filter(same).count() > 1 {
            return Err(format!("{place}: {} of {} is there twice; leave one out", meter.unit, meter.window));
        }
        if meter.settled.checked_add(meter.open).is_none() {
            return Err(format!(
                "{place}.settled: {} is beyond counting together with what is open",
                meter.settled
            ));
        }
        if !meter.periods.windows(2).all(|pair| matches!(pair, [(a, _), (b, _)] if a < b)) {
            return Err(format!("{place}.periods: must rise by their beginnings"));
        }
    }
    Ok(owner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const METER: &str = r#"{"unit":"Requests","window":"lifetime","startMs":0,"settled":3,"open":1,"granted":9,"grantedUntilMs":9}"#;

    fn export(version: u32, owners: &[(&str, &str)]) -> String {
        let rows = owners.iter().map(|(subject, meters)| {
            format!(
                r#"{{"subject":"{subject}","lastSeenMs":1,"tokens":{{}},"nanoUsd":5,"meters":[{meters}]}}"#
            )
        });
        let rows: Vec<_> = rows.collect();
        format!(r#"{{"version":{version},"entries":7,"atMs":9,"owners":[{}]}}"#, rows.join(","))
    }

    #[test]
    fn every_faulty_row_is_named_and_nothing_else_is_taken() {
        let twice = format!("{METER},{METER}");
        let fraction = METER.replace(":3", ":3.5");
        let window = METER.replace("lifetime", "Fortnight@UTC");
        let text = export(
            1,
            &[("p/n/a", METER), ("p/n/a", ""), ("p/n/b", &twice), ("p/n/c", &fraction), ("p/n/d", &window)],
        );
        let faults = owners(&text).unwrap_err();
        let starts = [
            "owners[1].subject: p/n/a",
            "owners[2] (p/n/b): meters[1]",
            "owners[3] (p/n/c)",
            "owners[4] (p/n/d)",
        ];
        assert_eq!(faults.len(), starts.len(), "{faults:#?}");
        assert!(faults[0].starts_with(starts[0]), "{faults:#?}");
        for (fault, start) in faults.iter().zip(starts).skip(2) {
            assert!(fault.starts_with(start), "{faults:#?}");
        }
    }

    #[test]
    fn what_is_no_export_of_this_version_is_refused_with_what_it_is() {
        for (text, says) in [
            ("nonsense".to_owned(), "is not JSON"),
            ("{}".to_owned(), "version: is nothing"),
            (export(7, &[]), "version: is 7, this la-router reads 1"),
            (r#"{"version":1}"#.to_owned(), "owners: must be the list"),
        ] {
            let faults = owners(&text).unwrap_err();
            assert!(faults.len() == 1 && faults[0].contains(says), "{faults:?}");
        }
        let [owner] = &owners(&export(1, &[("p/n/a", METER)])).unwrap()[..] else { panic!() };
        assert_eq!((owner.nano_usd, owner.meters[0].settled), (5, 3));
    }
}
