//! Files of format 1, from before budgets had units and windows. One whose process ended in order is read
//! and written anew; any other is refused, because its journal cannot be read here.

use la_core::amount::Unit;
use la_core::budget::{SavedMeter, SavedOwner, Window};
use la_core::id::Subject;
use la_core::usage::Usage;
use redb::{ReadTransaction, ReadableTable as _, TableDefinition};

use super::store::{Unusable, unusable};

/// Settled, open, last seen in Unix seconds; then input, cache-write, cache-read and output tokens.
type Totals = (u64, u64, i64, u64, u64, u64, u64);

const GRANTS: TableDefinition<'_, &str, u64> = TableDefinition::new("grants");
const TOTALS: TableDefinition<'_, &str, Totals> = TableDefinition::new("totals");

/// Everybody: all that was counted then were requests of a lifetime.
pub(super) fn owners(read: &ReadTransaction) -> Result<Vec<SavedOwner>, Unusable> {
    let grants = read.open_table(GRANTS).map_err(unusable)?;
    let totals = read.open_table(TOTALS).map_err(unusable)?;
    let mut owners = Vec::new();
    for grant in grants.iter().map_err(unusable)? {
        let (subject, granted) = grant.map_err(unusable)?;
        let found = totals.get(subject.value()).map_err(unusable)?.map(|found| found.value());
        let (settled, open, last_seen, input_tokens, cache_write_tokens, cache_read_tokens, output_tokens) =
            found.unwrap_or_default();
        let subject = Subject::try_from(subject.value().to_owned());
        owners.push(SavedOwner {
            subject: subject.map_err(|e| Unusable::Damaged(format!("a subject {e}")))?,
            last_seen_ms: u64::try_from(last_seen).unwrap_or_default().saturating_mul(1_000),
            tokens: Usage { input_tokens, cache_write_tokens, cache_read_tokens, output_tokens },
            nano_usd: 0,
            meters: vec![SavedMeter {
                unit: Unit::Requests,
                window: Window::Lifetime,
                start_ms: 0,
                settled,
                open,
                granted: granted.value(),
                granted_until_ms: u64::MAX,
                periods: Vec::new(),
            }],
        });
    }
    Ok(owners)
}

#[cfg(test)]
pub(super) mod tests {
    //! Writes files as la-router 0.1.0 did.

    use std::path::Path;

    use redb::{Database, TableDefinition};

    use super::{GRANTS, TOTALS};

    /// One subject with 7 requests settled, 2 open and 64 granted, and a journal without records.
    pub(in crate::ledger::embedded) fn write(dir: &Path, subject: &str, clean: bool) {
        let database = Database::create(dir.join("ledger.redb")).unwrap();
        let write = database.begin_write().unwrap();
        {
            write.open_table(GRANTS).unwrap().insert(subject, 64).unwrap();
            let totals = (7, 2, 1_800_000_000, 10, 20, 30, 40);
            write.open_table(TOTALS).unwrap().insert(subject, totals).unwrap();
            let head: TableDefinition<'_, &str, u64> = TableDefinition::new("head");
            let mut head = write.open_table(head).unwrap();
            head.insert("format", 1).unwrap();
            head.insert("segment", 3).unwrap();
            head.insert("clean", u64::from(clean)).unwrap();
            let boot: TableDefinition<'_, &str, &str> = TableDefinition::new("boot");
            write.open_table(boot).unwrap().insert("boot", "boot-1").unwrap();
        }
        write.commit().unwrap();
        let header = [b"la-jrnl\0".as_slice(), &1_u32.to_le_bytes(), &3_u64.to_le_bytes()].concat();
        std::fs::write(dir.join("journal-3.log"), header).unwrap();
    }
}
