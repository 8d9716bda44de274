//! Who may use the admin API on the port.

use la_core::report::verify_admin;
use la_core::secret::Secret;
use la_core::token::VerifyingKey;
use subtle::ConstantTimeEq as _;

/// Credentials that open the admin API.
#[derive(Debug, Default)]
pub struct Access {
    /// The flat key of a router that stands alone.
    pub key: Option<Secret>,
    /// The UID of the pod that an operator's credential must name.
    pub pod_uid: Option<String>,
}

impl Access {
    /// Whether any credential could open it.
    pub fn exists(&self) -> bool {
        self.key.is_some() || self.pod_uid.is_some()
    }

    /// Whether the value of an `authorization` header opens it at `now` (Unix seconds).
    pub fn admits(&self, authorization: Option<&[u8]>, keys: &[VerifyingKey], now: i64) -> bool {
        let Some(presented) = authorization.and_then(bearer) else { return false };
        let by_key = self.key.as_ref().is_some_and(|key| {
            // Lengths may differ in time; the key's length is no secret worth keeping.
            key.expose().as_bytes().ct_eq(presented).into()
        });
        let by_operator = self.pod_uid.as_ref().is_some_and(|uid| {
            std::str::from_utf8(presented).is_ok_and(|jwt| verify_admin(jwt, keys, uid, now).is_ok())
        });
        by_key || by_operator
    }
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| rest.trim_ascii()).filter(|rest| !rest.is_empty())
}

#[cfg(test)]
mod tests {
    use la_core::report::{ADMIN_TYPE, AdminClaims};
    use la_core::token::SigningKey;

    use super::*;

    #[test]
    fn flat_key_opens_only_whole() {
        let access = Access { key: Some(Secret::new("the-key")), pod_uid: None };
        let admits = |value: &str| access.admits(Some(value.as_bytes()), &[], 0);
        assert!(admits("Bearer the-key") && admits("bearer the-key"));
        let empty = Access { key: Some(Secret::default()), pod_uid: None };
        assert!(!empty.admits(Some(b"Bearer "), &[], 0));
        for bad in ["the-key", "Bearer the-ke", "Bearer the-key2", "Bearer ", "Basic the-key"] {
            assert!(!admits(bad), "{bad}");
        }
        assert!(!access.admits(None, &[], 0));
    }

    #[test]
    fn operator_credential_opens_its_own_pod_only() {
        let key = SigningKey::from_seed([4; 32]);
        let keys = [key.verifying().unwrap()];
        let claims = AdminClaims { aud: "uid-1".to_owned(), iat: 100, exp: 160 };
        let value = format!("Bearer {}", key.sign(ADMIN_TYPE, &claims).unwrap().expose());
        let admits = |uid: &str, now| {
            Access { key: None, pod_uid: Some(uid.to_owned()) }.admits(Some(value.as_bytes()), &keys, now)
        };
        assert!(admits("uid-1", 120));
        assert!(!admits("uid-2", 120) && !admits("uid-1", 160));
    }
}
