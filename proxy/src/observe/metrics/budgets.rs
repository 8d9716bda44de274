//! What was reserved, settled and charged beyond a reservation, in each unit, and how well it was known.

use la_core::amount::{Amounts, Unit};
use la_dialects::anthropic::usage::Quality;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use crate::observe::settlement::{Settlement, quality_label};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QualityLabel {
    quality: &'static str,
}

/// One counter for each unit.
type Sums = [Counter; Unit::ALL.len()];

/// The handles.
pub(super) struct Counters {
    reserved: Sums,
    settled: Sums,
    overrun: Sums,
    qualities: [Counter; QUALITIES.len()],
    implausible: Counter,
}

const QUALITIES: [Quality; 3] = [Quality::Complete, Quality::Partial, Quality::Unknown];

impl Counters {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let reserved = sums(registry, "reserved", "held for requests before they were sent");
        let settled = sums(registry, "settled", "charged for requests that have ended");
        let overrun = sums(registry, "overrun", "charged beyond what was held");
        let qualities = {
            let family = Family::<QualityLabel, Counter>::default();
            registry.register(
                "settlements",
                "Requests settled, by how well their use is known",
                family.clone(),
            );
            QUALITIES.map(|quality| {
                family.get_or_create(&QualityLabel { quality: quality_label(quality) }).clone()
            })
        };
        let implausible = Counter::default();
        registry.register(
            "implausible_answers",
            "Answers with counts that cannot be believed, charged as they were reserved",
            implausible.clone(),
        );
        Self { reserved, settled, overrun, qualities, implausible }
    }

    pub(super) fn reserved(&self, amounts: &Amounts) {
        add(&self.reserved, amounts);
    }

    pub(super) fn settled(&self, settlement: &Settlement) {
        add(&self.settled, &settlement.charged.amounts);
        add(&self.overrun, &settlement.overrun);
        if let Some(counter) = self.qualities.get(settlement.quality as usize) {
            counter.inc();
        }
        if settlement.is_implausible {
            self.implausible.inc();
        }
    }
}

fn sums(registry: &mut Registry, name: &str, what: &str) -> Sums {
    Unit::ALL.map(|unit| {
        let (suffix, plural) = match unit {
            Unit::Requests => ("requests", "Requests"),
            Unit::Tokens => ("tokens", "Tokens"),
            Unit::Usd => ("nano_usd", "Nano-dollars"),
        };
        let counter = Counter::default();
        registry.register(format!("{name}_{suffix}"), format!("{plural} {what}"), counter.clone());
        counter
    })
}

fn add(sums: &Sums, amounts: &Amounts) {
    for (counter, unit) in sums.iter().zip(Unit::ALL) {
        if amounts.of(unit) > 0 {
            counter.inc_by(amounts.of(unit));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_quality_stands_at_its_index() {
        for (at, quality) in QUALITIES.into_iter().enumerate() {
            assert_eq!(quality as usize, at, "{quality:?}");
        }
    }
}
