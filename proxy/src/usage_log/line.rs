//! What one line says: what the request was, by whoever served it, and what was charged, by the ledger.

use std::io::Write as _;

use la_core::amount::{Amounts, Unit};
use la_core::budget::{SavedPart, Spent};
use la_core::id::Subject;
use la_core::price::Billed;
use la_core::usage::Usage;
use serde::{Deserialize, Serialize};

/// What is known of a request beside its charge.
#[derive(Debug, Clone, Copy, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Facts<'a> {
    /// When it ended, in Unix milliseconds.
    #[serde(skip)]
    pub time_ms: u64,
    /// Its name.
    pub request_id: &'a str,
    /// The id of the token's text.
    pub token: &'a str,
    /// Who served it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<&'a str>,
    /// With which credential.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<&'a str>,
    /// The model that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<&'a str>,
    /// The model that the vendor says it ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub served_model: Option<&'a str>,
    /// The status of the answer.
    pub status: u16,
    /// How it ended.
    pub ending: &'a str,
    /// How far its use is known: `complete`, `partial` or `unknown`.
    pub quality: &'a str,
    /// What decides its cost, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub billed: Option<Billed>,
}

/// [`Facts`] as they are written.
#[derive(Debug, Clone)]
pub struct Told {
    pub(crate) time_ms: u64,
    members: Vec<u8>,
}

/// What the ledger says of one charge.
#[derive(Debug, Clone)]
pub struct Charge<'a> {
    /// Its number: one more than that of the charge before.
    pub number: u64,
    /// When it was charged, in Unix milliseconds.
    pub time_ms: u64,
    /// Whom.
    pub subject: &'a Subject,
    /// The pools that were charged too.
    pub pools: Vec<&'a Subject>,
    /// What was reserved.
    pub reserved: Amounts,
    /// What it came to.
    pub spent: Spent,
    /// What it cost; nothing when that is not known.
    pub cost_nano_usd: u64,
    /// On which meters.
    pub parts: Vec<SavedPart>,
    /// Why the line was not written when the request ended.
    pub late: Option<Late>,
}

/// Why a line is written at a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Late {
    /// The process was killed before it could; the request had ended.
    Killed,
    /// The request was open when the process was killed, and is charged as it was reserved.
    Open,
    /// Nobody renewed what the request held in a Redis. One line for each subject that it was held of.
    Expired,
}

/// The amounts of a request, by the meters that count them: each counts all of it.
pub fn amounts(parts: &[SavedPart], amount: impl Fn(&SavedPart) -> u64) -> Amounts {
    let of = |unit: Unit| parts.iter().filter(|part| part.unit == unit).map(&amount).max().unwrap_or(0);
    Amounts { requests: of(Unit::Requests), tokens: of(Unit::Tokens), nano_usd: of(Unit::Usd) }
}

/// A line as it is read back.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Line {
    pub(super) number: u64,
    pub(super) subject: Subject,
    #[serde(default)]
    pub(super) model: Option<String>,
    #[serde(default)]
    pub(super) served_model: Option<String>,
    #[serde(default)]
    pub(super) billed: Option<Billed>,
    pub(super) usage: Usage,
    pub(super) cost_nano_usd: u64,
    pub(super) meters: Vec<SavedPart>,
}

/// The ledger's half of a line.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Charged<'a> {
    subject: &'a Subject,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pools: &'a [&'a Subject],
    usage: &'a Usage,
    cost_nano_usd: u64,
    reserved: &'a Amounts,
    charged: &'a Amounts,
    meters: &'a [SavedPart],
    #[serde(skip_serializing_if = "Option::is_none")]
    late: Option<Late>,
}

impl Facts<'_> {
    /// As they are written.
    pub fn told(&self) -> Told {
        let mut members = serde_json::to_vec(self).unwrap_or_default();
        // What stands between the braces becomes part of the line, after a comma.
        members.pop();
        if let Some(brace) = members.first_mut() {
            *brace = b',';
        }
        Told { time_ms: self.time_ms, members }
    }
}

impl Charge<'_> {
    /// Appends the line, with its end.
    pub(super) fn write(&self, told: Option<&Told>, line: &mut Vec<u8>) {
        let milliseconds = i64::try_from(self.time_ms).unwrap_or(i64::MAX);
        let time = jiff::Timestamp::from_millisecond(milliseconds).unwrap_or(jiff::Timestamp::MAX);
        // Writing to memory does not fail.
        let _ = write!(line, r#"{{"number":{},"time":"{time:.3}""#, self.number);
        line.extend_from_slice(told.map_or(&[][..], |told| &told.members));
        let charged = Charged {
            subject: self.subject,
            pools: &self.pools,
            usage: &self.spent.tokens,
            cost_nano_usd: self.cost_nano_usd,
            reserved: &self.reserved,
            charged: &self.spent.amounts,
            meters: &self.parts,
            late: self.late,
        };
        let at = line.len();
        let _ = serde_json::to_writer(&mut *line, &charged);
        if let Some(brace) = line.get_mut(at) {
            *brace = b',';
        }
        line.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn charge(subject: &Subject) -> Charge<'_> {
        let part = SavedPart {
            owner: subject.clone(),
            unit: Unit::Requests,
            window: "lifetime".parse().unwrap(),
            start_ms: 0,
            reserved: 1,
            charged: 1,
        };
        let tokens = Usage { input_tokens: 3, output_tokens: 4, ..Usage::default() };
        let amounts = Amounts { requests: 1, tokens: 7, nano_usd: 9 };
        Charge {
            number: 12,
            time_ms: 1_800_000_000_250,
            subject,
            pools: Vec::new(),
            reserved: Amounts { requests: 1, tokens: 50, nano_usd: 60 },
            spent: Spent { amounts, tokens },
            cost_nano_usd: 9,
            parts: vec![part],
            late: None,
        }
    }

    #[test]
    fn line_is_one_json_object_of_facts_and_charge() {
        let subject = Subject::of("gateway", "team", "agent").unwrap();
        let facts = Facts { request_id: "req_1", model: Some("a \"b\"\n"), status: 200, ..Facts::default() };
        let mut bytes = Vec::new();
        charge(&subject).write(Some(&facts.told()), &mut bytes);
        Charge { late: Some(Late::Open), ..charge(&subject) }.write(None, &mut bytes);
        let text = String::from_utf8(bytes).unwrap();
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert_eq!(lines[0]["time"], "2027-01-15T08:00:00.250Z");
        assert_eq!((&lines[0]["model"], &lines[0]["status"]), (&"a \"b\"\n".into(), &200.into()));
        assert_eq!(lines[0]["charged"]["nanoUsd"], 9);
        assert_eq!(lines[1]["late"], "open");
        let read: Line = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!((read.number, read.usage.output_tokens, read.meters.len()), (12, 4, 1));
    }
}
