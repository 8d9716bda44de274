//! What processes that share a Redis agree on about the tokens of manifests.
//!
//! A text follows from key and record, and so does not differ where the record is the same: its id follows from the
//! RouterToken and how often it was minted, and whoever writes the record first also says when the text was issued
//! and when it ends. What was revoked or has ended stays so: of two records the earlier end counts.

use std::collections::BTreeMap;

use la_core::id::TokenId;
use ring::digest::{SHA256, digest};

use super::{Record, StoreError};
use crate::ledger::{Change, Named, SharedRecords};

/// How often a change is begun anew because others were faster.
const TRIES: usize = 16;

/// The id of the text that is minted for a RouterToken at `epoch`: 1 at first, one more with every rotation.
pub(super) fn id_of(proxy: &str, (namespace, name): (&str, &str), epoch: u64) -> TokenId {
    let hash = digest(&SHA256, format!("{proxy}\n{namespace}/{name}\n{epoch}").as_bytes());
    let mut bytes = [0; 16];
    bytes.iter_mut().zip(hash.as_ref()).for_each(|(byte, hashed)| *byte = *hashed);
    // Where random ids are expected, this one is as good as those.
    TokenId::from_random(bytes)
}

/// Writes a record unless there is one of that id; gives the one that is there.
///
/// # Errors
/// When the server cannot be asked.
pub(super) fn create(shared: &SharedRecords, record: &Record) -> Result<Record, StoreError> {
    let change = Change { name: record.id.to_string(), known: String::new(), wanted: text(record)? };
    read(&shared.change(change).map_err(StoreError::Shared)?)
}

/// Brings about that every process knows at least what `record` says. Gives what all know.
///
/// # Errors
/// When the server cannot be asked, or others change the same record again and again.
pub(super) fn agree(shared: &SharedRecords, record: &Record) -> Result<Record, StoreError> {
    let (mut known, mut wanted) = (String::new(), text(record)?);
    for _ in 0..TRIES {
        let change = Change { name: record.id.to_string(), known: known.clone(), wanted: wanted.clone() };
        let found = shared.change(change).map_err(StoreError::Shared)?;
        if found == wanted {
            return read(&found);
        }
        wanted = if found.is_empty() { text(record)? } else { text(&merged(&read(&found)?, record))? };
        known = found;
        if known == wanted {
            return read(&known);
        }
    }
    Err(StoreError::Shared("others change the same token again and again".to_owned()))
}

/// What two processes know of one text, together.
pub(super) fn merged(one: &Record, other: &Record) -> Record {
    let revoked_at = one.revoked_at.into_iter().chain(other.revoked_at).min();
    Record { expires_at: one.expires_at.min(other.expires_at), revoked_at, ..one.clone() }
}

/// Takes in what all know of the tokens of `proxy` at `now` (Unix seconds), and says what they do not know yet, or need not any more.
pub(super) fn take_in(own: &mut Vec<Record>, proxy: &str, all: &[Named], now: i64) -> Vec<Change> {
    let mut changes = Vec::new();
    own.retain(|record| !record.is_forgotten(now));
    let ours = own.iter().enumerate().filter(|(_, record)| record.proxy == proxy);
    let mut unknown: BTreeMap<_, _> = ours.map(|(at, record)| (record.id.clone(), at)).collect();
    for (name, known) in all {
        // What a newer version has written is left alone, and what is of a proxy of that name in another namespace.
        let Some(theirs) = read(known).ok().filter(|theirs| theirs.proxy == proxy) else { continue };
        let change = |wanted| Change { name: name.clone(), known: known.clone(), wanted };
        if theirs.is_forgotten(now) {
            changes.push(change(String::new()));
            continue;
        }
        match unknown.remove(&theirs.id).and_then(|at| own.get_mut(at)) {
            None => own.push(theirs),
            Some(ours) => {
                *ours = merged(&theirs, ours);
                changes.extend(text(ours).ok().filter(|_| *ours != theirs).map(change));
            }
        }
    }
    for record in unknown.into_values().filter_map(|at| own.get(at)) {
        let created = |wanted| Change { name: record.id.to_string(), known: String::new(), wanted };
        changes.extend(text(record).ok().map(created));
    }
    changes
}

fn text(record: &Record) -> Result<String, StoreError> {
    serde_json::to_string(record).map_err(|error| StoreError::Shared(error.to_string()))
}

fn read(text: &str) -> Result<Record, StoreError> {
    serde_json::from_str(text)
        .map_err(|error| StoreError::Shared(format!("a record cannot be read: {error}")))
}

#[cfg(test)]
mod tests {
    use super::super::Origin;
    use super::*;

    const NOW: i64 = 1_790_000_000;

    fn record(epoch: u64) -> Record {
        Record {
            id: id_of("team/gateway", ("team", "agent"), epoch),
            proxy: "team/gateway".to_owned(),
            namespace: "team".to_owned(),
            name: "agent".to_owned(),
            label: String::new(),
            issued_at: NOW,
            expires_at: NOW + 3_600,
            revoked_at: None,
            max_requests: None,
            origin: Origin::Manifest { duration_seconds: 3_600, retain: false },
        }
    }

    fn named(record: &Record) -> Named {
        (record.id.to_string(), text(record).unwrap())
    }

    #[test]
    fn id_follows_from_proxy_token_and_epoch_and_from_nothing_else() {
        let id = |proxy, place, epoch| id_of(proxy, place, epoch);
        let first = id("team/gateway", ("team", "agent"), 1);
        assert_eq!(id("team/gateway", ("team", "agent"), 1), first);
        for other in [
            id("team/gateway", ("team", "agent"), 2),
            id("team/gateway", ("team", "other"), 1),
            id("team/gateway", ("other", "agent"), 1),
            id("other/gateway", ("team", "agent"), 1),
        ] {
            assert_ne!(other, first);
        }
    }

    #[test]
    fn what_one_process_knows_of_an_end_no_other_undoes() {
        let known = record(1);
        let revoked = Record { revoked_at: Some(NOW + 5), ..known.clone() };
        let expired = Record { expires_at: NOW + 9, ..known.clone() };
        for (here, there) in
            [(&known, &revoked), (&revoked, &known), (&revoked, &expired), (&expired, &revoked)]
        {
            let mut own = vec![here.clone()];
            let changes = take_in(&mut own, "team/gateway", &[named(there)], NOW + 10);
            let together = merged(here, there);
            assert_eq!(own, std::slice::from_ref(&together));
            assert_eq!(own[0].revoked_at, Some(NOW + 5));
            // The others are told what they do not know, and only then.
            let told: Vec<_> =
                changes.iter().map(|change| (change.known.clone(), change.wanted.clone())).collect();
            let expected = (together != *there).then(|| (text(there).unwrap(), text(&together).unwrap()));
            assert_eq!(told, expected.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn records_go_both_ways_and_are_forgotten_everywhere() {
        let (ours, theirs) = (record(1), record(2));
        let foreign = Record { proxy: "other/gateway".to_owned(), ..record(3) };
        let mut own = vec![ours.clone()];
        let unreadable = ("x".to_owned(), "{\"newer\":1}".to_owned());
        let all = [named(&theirs), named(&foreign), unreadable];
        let changes = take_in(&mut own, "team/gateway", &all, NOW);
        assert_eq!(own, [ours.clone(), theirs.clone()]);
        let (name, wanted) = named(&ours);
        assert_eq!(changes, [Change { name, known: String::new(), wanted }]);

        let later = NOW + 3_600 + 31 * 86_400;
        let changes = take_in(&mut own, "team/gateway", &[named(&theirs)], later);
        let (name, known) = named(&theirs);
        assert_eq!((own.len(), changes), (0, vec![Change { name, known, wanted: String::new() }]));
    }
}
