//! Tokens that a proxy is told to refuse before it has the snapshot that says so.
//!
//! Files take a second and longer to reach a pod; this takes one request of its admin port. It can only refuse:
//! what a token may do is said by snapshots alone, and the snapshot that [`Refusals`] name has the last word.

use serde::{Deserialize, Serialize};

use crate::id::TokenId;

/// What has become of a minted text that could be used before. The later, the worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Its token was stopped for now: 403.
    Suspended,
    /// It was revoked: 403.
    Revoked,
    /// It is in no snapshot any more: 401.
    Removed,
}

/// Texts that are refused from the snapshot `(epoch, generation)` on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refusals {
    /// See `generation`.
    pub epoch: u64,
    /// `(epoch, generation)` of the first snapshot that says the same.
    pub generation: u64,
    /// Ids with [`Verdict::Removed`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<TokenId>,
    /// Ids with [`Verdict::Revoked`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revoked: Vec<TokenId>,
    /// Ids with [`Verdict::Suspended`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub suspended: Vec<TokenId>,
}

impl Refusals {
    /// Most bytes of one message.
    pub const MOST_BYTES: usize = 64 << 10;

    /// Most ids in one message, so that it is never longer than [`Self::MOST_BYTES`].
    pub const MOST_IDS: usize = 900;

    /// Most ids that a proxy keeps until it has the snapshots that refuse them.
    pub const MOST_KEPT: usize = 65_536;

    /// Everything in `refused`, in as many messages as it takes.
    pub fn split((epoch, generation): (u64, u64), refused: &[(TokenId, Verdict)]) -> Vec<Self> {
        refused
            .chunks(Self::MOST_IDS)
            .map(|chunk| {
                let mut message = Self { epoch, generation, ..Self::default() };
                for (id, verdict) in chunk {
                    match verdict {
                        Verdict::Removed => message.removed.push(id.clone()),
                        Verdict::Revoked => message.revoked.push(id.clone()),
                        Verdict::Suspended => message.suspended.push(id.clone()),
                    }
                }
                message
            })
            .collect()
    }

    /// The place of the first snapshot that says the same.
    pub fn order(&self) -> (u64, u64) {
        (self.epoch, self.generation)
    }

    /// Every id and what has become of it.
    pub fn iter(&self) -> impl Iterator<Item = (&TokenId, Verdict)> {
        let with = |verdict| move |id| (id, verdict);
        let removed = self.removed.iter().map(with(Verdict::Removed));
        let revoked = self.revoked.iter().map(with(Verdict::Revoked));
        removed.chain(revoked).chain(self.suspended.iter().map(with(Verdict::Suspended)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longest_message_fits_into_its_bytes() {
        let id = |number: usize| TokenId::try_from(format!("{number:a>64}")).unwrap();
        let refused: Vec<_> = (0..=Refusals::MOST_IDS).map(|number| (id(number), Verdict::Revoked)).collect();
        let messages = Refusals::split((u64::MAX, u64::MAX), &refused);
        let [first, second] = messages.as_slice() else { panic!("{} messages", messages.len()) };
        assert!(serde_json::to_vec(first).unwrap().len() <= Refusals::MOST_BYTES);
        assert_eq!((first.iter().count(), second.iter().count()), (Refusals::MOST_IDS, 1));
        assert_eq!(second.order(), (u64::MAX, u64::MAX));
    }

    #[test]
    fn every_id_keeps_its_verdict() {
        let refused =
            [("gone", Verdict::Removed), ("stolen", Verdict::Revoked), ("paused", Verdict::Suspended)]
                .map(|(id, verdict)| (TokenId::try_from(id.to_owned()).unwrap(), verdict));
        let [message] = Refusals::split((1, 2), &refused).try_into().unwrap();
        let text =
            r#"{"epoch":1,"generation":2,"removed":["gone"],"revoked":["stolen"],"suspended":["paused"]}"#;
        assert_eq!(serde_json::to_string(&message).unwrap(), text);
        assert!(message.iter().eq(refused.iter().map(|(id, verdict)| (id, *verdict))));
        assert_eq!(Refusals::split((1, 2), &[]), []);
    }
}
