//! What a caller is told when every account that could serve it rests or is busy: how many there are, and when
//! the first is back.

use std::fmt;

use super::limited::shown_time;

/// No account can serve a request now, and some could at another time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoneLeft {
    /// The model, as the client named it; empty where it named none.
    pub model: String,
    /// Accounts that may serve it.
    pub eligible: usize,
    /// The one that is back first: its provider and name.
    pub first: (String, String),
    /// Why it cannot serve now, to follow its name.
    pub why: &'static str,
    /// Whether it is a limit of the vendor's, or of its owner's, that is used up.
    pub is_limit: bool,
    /// When it is back, in Unix seconds, where that is known.
    pub returns_at: Option<i64>,
    /// The wall clock in Unix seconds.
    pub now: i64,
}

impl NoneLeft {
    /// In how many seconds asking again can help; at least 1.
    pub fn retry_after_seconds(&self) -> Option<u64> {
        let wait = self.returns_at?.saturating_sub(self.now).max(1);
        u64::try_from(wait).ok()
    }
}

impl fmt::Display for NoneLeft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { model, eligible, first: (provider, name), why, returns_at, .. } = self;
        match eligible {
            1 => f.write_str("the one account that may serve ")?,
            _ => write!(f, "none of the {eligible} accounts that may serve ")?,
        }
        match &**model {
            "" => f.write_str("this")?,
            model => write!(f, "model {model:?}")?,
        }
        f.write_str(if *eligible == 1 { " cannot now" } else { " can now" })?;
        write!(f, ": account {provider}/{name} {why}")?;
        match returns_at {
            Some(at) => {
                let at_ms = u64::try_from(*at).unwrap_or_default().saturating_mul(1_000);
                write!(f, ", and is the first that is back, at {}", shown_time(at_ms))
            }
            None => f.write_str(", and nobody knows until when"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caller_learns_model_number_and_earliest_return() {
        let one = NoneLeft {
            model: "claude-opus-5".to_owned(),
            eligible: 1,
            first: ("vendor".to_owned(), "main".to_owned()),
            why: "has used up a limit",
            is_limit: true,
            returns_at: Some(1_800_000_000),
            now: 1_799_999_990,
        };
        assert_eq!(
            one.to_string(),
            "the one account that may serve model \"claude-opus-5\" cannot now: account vendor/main has used up \
             a limit, and is the first that is back, at 2027-01-15T08:00:00Z"
        );
        assert_eq!(one.retry_after_seconds(), Some(10));
        let three = NoneLeft { eligible: 3, returns_at: Some(1_799_999_000), ..one };
        assert!(three.to_string().starts_with("none of the 3 accounts that may serve model"), "{three}");
        assert_eq!(three.retry_after_seconds(), Some(1), "a time that has passed is asked again at once");
    }
}
