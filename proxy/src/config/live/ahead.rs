//! Tokens that are refused ahead of the snapshot that refuses them.

use std::collections::HashMap;
use std::sync::Arc;

use la_core::id::TokenId;
use la_core::refusals::{Refusals, Verdict};

use super::{Standing, TokenEntry};

/// What was told of snapshots that are not served yet, by id, with the place of the snapshot.
#[derive(Debug, Default)]
pub(super) struct Ahead(HashMap<TokenId, ((u64, u64), Verdict)>);

/// Why refusals were not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("more than {} ids would wait for their snapshots", Refusals::MOST_KEPT)]
pub struct TooMany;

impl Ahead {
    /// Takes in what the snapshot `served` does not say already; gives the number of ids of which that is news.
    pub(super) fn add(&mut self, refusals: &Refusals, served: (u64, u64)) -> Result<usize, TooMany> {
        let order = refusals.order();
        if order <= served {
            return Ok(0);
        }
        let unknown = refusals.iter().filter(|(id, _)| !self.0.contains_key(*id)).count();
        if self.0.len().saturating_add(unknown) > Refusals::MOST_KEPT {
            return Err(TooMany);
        }
        let mut news = 0;
        for (id, verdict) in refusals.iter() {
            let told = (order, verdict);
            if self.0.get(id).is_none_or(|known| *known < told) {
                self.0.insert(id.clone(), told);
                news += 1;
            }
        }
        Ok(news)
    }

    /// Forgets what the snapshot `served` says itself, or has taken back.
    pub(super) fn reached(&mut self, served: (u64, u64)) {
        self.0.retain(|_, (order, _)| *order > served);
    }

    /// Has the tokens refused as their snapshots will have it.
    pub(super) fn take_from(&self, tokens: &mut HashMap<TokenId, Arc<TokenEntry>>) {
        for (id, (_, verdict)) in &self.0 {
            let standing = match verdict {
                Verdict::Suspended => Standing::Suspended,
                Verdict::Revoked => Standing::Revoked,
                Verdict::Removed => {
                    tokens.remove(id);
                    continue;
                }
            };
            if let Some(entry) = tokens.get_mut(id).filter(|entry| entry.standing != Standing::Revoked) {
                *entry = Arc::new(TokenEntry { standing, ..(**entry).clone() });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> TokenId {
        TokenId::try_from(text.to_owned()).unwrap()
    }

    fn message(generation: u64, refused: &[(&str, Verdict)]) -> Refusals {
        let refused: Vec<_> = refused.iter().map(|(text, verdict)| (id(text), *verdict)).collect();
        Refusals::split((1, generation), &refused).pop().unwrap()
    }

    fn entry(text: &str, standing: Standing) -> (TokenId, Arc<TokenEntry>) {
        let entry = TokenEntry { standing, ..TokenEntry::named(text) };
        (id(text), Arc::new(entry))
    }

    /// How `a`, `b` and `c`, of which a snapshot has `c` revoked, stand with what is known ahead.
    fn standings(ahead: &Ahead) -> [Option<Standing>; 3] {
        let all = [("a", Standing::Good), ("b", Standing::Good), ("c", Standing::Revoked)];
        let mut tokens = all.map(|(text, standing)| entry(text, standing)).into();
        ahead.take_from(&mut tokens);
        all.map(|(text, _)| tokens.get(&id(text)).map(|entry| entry.standing))
    }

    #[test]
    fn what_was_told_holds_until_its_snapshot_and_nothing_is_allowed_by_it() {
        use Standing::{Good, Revoked, Suspended};
        let mut ahead = Ahead::default();
        let served = (1, 5);
        let both = message(7, &[("a", Verdict::Removed), ("b", Verdict::Revoked), ("c", Verdict::Suspended)]);
        assert_eq!(ahead.add(&both, served), Ok(3));
        assert_eq!(standings(&ahead), [None, Some(Revoked), Some(Revoked)]);
        assert_eq!(ahead.add(&both, served), Ok(0), "it was told before");
        ahead.reached((1, 6));
        assert_eq!(standings(&ahead), [None, Some(Revoked), Some(Revoked)], "that is older");
        assert_eq!(ahead.add(&message(9, &[("b", Verdict::Suspended)]), served), Ok(1));
        assert_eq!(ahead.add(&message(8, &[("b", Verdict::Removed)]), served), Ok(0), "it is outdated");
        ahead.reached((1, 7));
        assert_eq!(standings(&ahead), [Some(Good), Some(Suspended), Some(Revoked)]);
        ahead.reached((2, 0));
        assert_eq!(standings(&ahead), [Some(Good), Some(Good), Some(Revoked)]);
        assert_eq!(ahead.add(&both, (2, 0)), Ok(0), "the snapshot that is served is later");
    }

    #[test]
    fn more_than_can_be_kept_changes_nothing() {
        let mut ahead = Ahead::default();
        let many: Vec<_> =
            (0..Refusals::MOST_KEPT).map(|n| (id(&format!("id-{n}")), Verdict::Revoked)).collect();
        for message in Refusals::split((1, 2), &many) {
            ahead.add(&message, (1, 1)).unwrap();
        }
        let more = message(2, &[("a", Verdict::Revoked), ("id-1", Verdict::Removed)]);
        assert_eq!(ahead.add(&more, (1, 1)), Err(TooMany));
        assert_eq!(standings(&ahead)[0], Some(Standing::Good));
        assert_eq!(
            ahead.add(&message(2, &[("id-1", Verdict::Removed)]), (1, 1)),
            Ok(1),
            "it is kept already"
        );
    }
}
