//! Text that must not be seen: a credential, a key, a token.
//!
//! A [`Secret`] prints nothing through `Debug`, has no `Display`, and is wiped when dropped. Serialising
//! one takes an explicit `#[serde(with = "la_core::secret::exposed")]`, so that no status, log field or
//! error can carry it by accident.

use zeroize::{Zeroize, ZeroizeOnDrop};

/// A text that `Debug` hides and `Drop` wipes.
#[derive(Clone, Default, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself. Whoever calls this answers for where it goes.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether the text is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Writes and reads a [`Secret`] in plain, for the files and Kubernetes Secrets made to hold it.
pub mod exposed {
    use serde::{Deserialize, Deserializer, Serializer};

    use super::Secret;

    /// Writes the text itself.
    pub fn serialize<S: Serializer>(secret: &Secret, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(secret.expose())
    }

    /// Reads the text.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Secret, D::Error> {
        String::deserialize(from).map(Secret)
    }
}

#[cfg(test)]
mod tests {
    use super::Secret;

    #[test]
    fn debug_of_a_secret_prints_nothing_of_it() {
        let shown = format!("{:?}", Some(Secret::new("sk-ant-canary")));
        assert_eq!(shown, "Some(Secret(…))");
    }
}
