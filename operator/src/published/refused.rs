//! Texts that could be used and may not be any more: what proxies are told ahead of their files.

use std::collections::HashMap;

use la_core::id::TokenId;
use la_core::refusals::Verdict;
use la_core::snapshot::Snapshot;

use super::Order;

/// How long a text is remembered, in seconds. Unprompted a kubelet takes two minutes at most to bring a snapshot; a
/// pod that has not followed by then has trouble that no message ends.
const REMEMBERED_SECONDS: i64 = 3_600;

/// Texts that could be used lately and may not be any more.
#[derive(Debug, Default)]
pub(super) struct Refused(HashMap<TokenId, Entry>);

#[derive(Debug)]
struct Entry {
    /// The first snapshot that refuses it.
    since: Order,
    verdict: Verdict,
    /// When nobody needs to be told any more, in Unix seconds.
    until: i64,
}

impl Refused {
    /// Takes in that `after` stands in the place of `before` from `now` (Unix seconds) on.
    pub(super) fn compare(&mut self, before: &Snapshot, after: &Snapshot, now: i64) {
        let standings: HashMap<&TokenId, Option<Verdict>> = standings(after).collect();
        let verdict = |id: &TokenId| standings.get(id).copied().unwrap_or(Some(Verdict::Removed));
        self.0.retain(|id, entry| match verdict(id) {
            Some(verdict) => {
                entry.verdict = verdict;
                now < entry.until
            }
            None => false,
        });
        for issued in before.tokens.iter().filter(|token| !token.suspended).flat_map(|token| &token.ids) {
            // One that has come to its end is refused by every snapshot.
            if issued.revoked || issued.not_after <= now {
                continue;
            }
            if let Some(verdict) = verdict(&issued.id) {
                let until = issued.not_after.min(now.saturating_add(REMEMBERED_SECONDS));
                self.0.insert(issued.id.clone(), Entry { since: after.order(), verdict, until });
            }
        }
    }

    /// What a proxy that serves the snapshot `served` does not know of at `now` (Unix seconds).
    pub(super) fn since(&self, served: Order, now: i64) -> Vec<(TokenId, Verdict)> {
        let unknown = self.0.iter().filter(|(_, entry)| entry.since > served && now < entry.until);
        unknown.map(|(id, entry)| (id.clone(), entry.verdict)).collect()
    }
}

/// Every text of a snapshot, with what keeps it from being used.
fn standings(snapshot: &Snapshot) -> impl Iterator<Item = (&TokenId, Option<Verdict>)> {
    snapshot.tokens.iter().flat_map(|token| {
        token.ids.iter().map(|issued| {
            let verdict = match (issued.revoked, token.suspended) {
                (true, _) => Some(Verdict::Revoked),
                (false, true) => Some(Verdict::Suspended),
                (false, false) => None,
            };
            (&issued.id, verdict)
        })
    })
}

#[cfg(test)]
mod tests {
    use la_core::id::Subject;
    use la_core::snapshot::{IssuedId, TokenRecord};

    use super::*;

    /// A snapshot with one token for each text. `!` stands for a text that was revoked, `~` for one that is suspended.
    fn snapshot(generation: u64, texts: &[&str]) -> Snapshot {
        let record = |text: &&str| {
            let id = TokenId::try_from(text.trim_start_matches(['!', '~']).to_owned()).unwrap();
            let subject = Subject::of("gateway", "team-a", id.as_str()).unwrap();
            let revoked = text.starts_with('!');
            let issued = IssuedId { id, not_before: 0, not_after: 10_000, revoked };
            let record = TokenRecord::new(subject, vec![issued], Default::default());
            TokenRecord { suspended: text.starts_with('~'), ..record }
        };
        let tokens = texts.iter().map(record).collect();
        Snapshot { epoch: 1, generation, tokens, ..Snapshot::empty("platform/gateway") }
    }

    /// What a proxy is told that serves the generation `served`.
    fn told(refused: &Refused, served: u64, now: i64) -> Vec<(String, Verdict)> {
        let mut told: Vec<_> = refused.since((1, served), now);
        told.sort_by(|one, other| one.0.cmp(&other.0));
        told.into_iter().map(|(id, verdict)| (id.to_string(), verdict)).collect()
    }

    #[test]
    fn proxy_is_told_what_may_not_be_used_any_more_since_the_snapshot_that_it_serves() {
        let editions: [&[&str]; 4] =
            [&["a", "b", "c", "d", "!e", "~f"], &["!a", "~b", "d"], &["!a", "b", "d"], &["d"]];
        let editions: Vec<_> = (1..).zip(editions).map(|(n, texts)| snapshot(n, texts)).collect();
        let mut refused = Refused::default();
        let mut step = |to: usize| {
            refused.compare(&editions[to - 2], &editions[to - 1], 100);
            let since = |served| told(&refused, served, 100);
            [since(1), since(3)]
        };
        let named = |id: &str, verdict| (id.to_owned(), verdict);
        let (removed, revoked, suspended) = (Verdict::Removed, Verdict::Revoked, Verdict::Suspended);
        assert_eq!(step(2), [vec![named("a", revoked), named("b", suspended), named("c", removed)], vec![]]);
        assert_eq!(step(3), [vec![named("a", revoked), named("c", removed)], vec![]], "b is used again");
        let all = ["a", "b", "c"].map(|id| named(id, removed)).to_vec();
        assert_eq!(step(4), [all, vec![named("b", removed)]]);
        assert_eq!(told(&refused, 1, 100 + REMEMBERED_SECONDS), [], "the files have come since");
    }

    #[test]
    fn text_that_has_come_to_its_end_is_told_to_nobody() {
        let mut refused = Refused::default();
        refused.compare(&snapshot(1, &["a"]), &snapshot(2, &[]), 9_999);
        assert_eq!(told(&refused, 1, 9_999).len(), 1);
        assert_eq!(told(&refused, 1, 10_000), []);
        let mut refused = Refused::default();
        refused.compare(&snapshot(1, &["a"]), &snapshot(2, &[]), 10_000);
        assert_eq!(told(&refused, 1, 0), []);
    }
}
