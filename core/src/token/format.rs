//! The text form of a token, read strictly.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{Algorithm, Claims, TokenError, VerifyingKey};
use crate::id::TokenId;

/// What every token starts with.
pub const PREFIX: &str = "la_sk_";

/// Most bytes of a token's text, prefix included. Ours have about 400.
pub const MAX_BYTES: usize = 2_048;

/// Seconds that clocks of issuer and verifier may differ.
const LEEWAY_SECONDS: i64 = 30;

/// A token text taken apart, not yet believed.
#[derive(Debug)]
pub struct Parsed<'a> {
    /// The id its record is kept under.
    pub id: TokenId,
    /// What it claims; believe it only after [`Parsed::verify`].
    claims: Claims,
    jws: Jws<'a>,
}

/// Takes a token text apart without believing it, to find its record.
///
/// # Errors
/// [`TokenError::Malformed`] when the text does not have the form of a token.
pub fn parse(text: &str) -> Result<Parsed<'_>, TokenError> {
    let jwt = text.strip_prefix(PREFIX).ok_or(TokenError::Malformed { reason: "prefix" })?;
    if text.len() > MAX_BYTES {
        return Err(TokenError::Malformed { reason: "length" });
    }
    let jws = Jws::split(jwt)?;
    if jws.header.typ.as_deref().is_some_and(|typ| !typ.eq_ignore_ascii_case("JWT")) {
        return Err(TokenError::Malformed { reason: "type" });
    }
    let claims: Claims = jws.payload()?;
    let id = claims.id().ok_or(TokenError::Malformed { reason: "id" })?;
    Ok(Parsed { id, claims, jws })
}

impl Parsed<'_> {
    /// Checks everything that can be checked without the record, at `now` in Unix seconds.
    ///
    /// # Errors
    /// Which check failed; never to be told to the client.
    pub fn verify(self, keys: &[VerifyingKey], audience: &str, now: i64) -> Result<Claims, TokenError> {
        let key = self.jws.verify(keys)?;
        if (key.kid().is_some() || self.claims.aud.is_some()) && self.claims.aud.as_deref() != Some(audience)
        {
            return Err(TokenError::WrongAudience);
        }
        if self.claims.exp <= now {
            return Err(TokenError::Expired);
        }
        let from = self.claims.nbf.unwrap_or(self.claims.iat);
        if from > now.saturating_add(LEEWAY_SECONDS) {
            return Err(TokenError::NotYetValid);
        }
        Ok(self.claims)
    }
}

/// Checks a bare compact JWT of the given `typ` and gives its claims. Times are the caller's to check.
///
/// # Errors
/// When form, type, key, algorithm or signature are wrong.
pub fn open<T: DeserializeOwned>(jwt: &str, typ: &str, keys: &[VerifyingKey]) -> Result<T, TokenError> {
    if jwt.len() > MAX_BYTES {
        return Err(TokenError::Malformed { reason: "length" });
    }
    let jws = Jws::split(jwt)?;
    if jws.header.typ.as_deref() != Some(typ) {
        return Err(TokenError::Malformed { reason: "type" });
    }
    jws.verify(keys)?;
    jws.payload()
}

#[derive(Debug, Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    typ: Option<String>,
    #[serde(default)]
    kid: Option<String>,
    /// Extensions that must be understood (RFC 7515 §4.1.11); none is.
    #[serde(default)]
    crit: Option<serde::de::IgnoredAny>,
}

#[derive(Debug)]
struct Jws<'a> {
    header: Header,
    payload: &'a str,
    signed: &'a str,
    signature: &'a str,
}

impl<'a> Jws<'a> {
    fn split(jwt: &'a str) -> Result<Self, TokenError> {
        let malformed = TokenError::Malformed { reason: "parts" };
        let (signed, signature) = jwt.rsplit_once('.').ok_or_else(|| malformed.clone())?;
        let (header, payload) = signed.split_once('.').ok_or(malformed)?;
        let header: Header = json_part(header, "header")?;
        if header.crit.is_some() {
            return Err(TokenError::Malformed { reason: "critical extension" });
        }
        Ok(Self { header, payload, signed, signature })
    }

    fn payload<T: DeserializeOwned>(&self) -> Result<T, TokenError> {
        json_part(self.payload, "claims")
    }

    fn verify<'k>(&self, keys: &'k [VerifyingKey]) -> Result<&'k VerifyingKey, TokenError> {
        let kid = self.header.kid.as_deref();
        let key = keys.iter().find(|key| key.kid() == kid).ok_or(TokenError::UnknownKey)?;
        let pinned = match key.algorithm() {
            Algorithm::EdDsa => "EdDSA",
            Algorithm::Hs256 => "HS256",
        };
        if self.header.alg != pinned {
            return Err(TokenError::WrongAlgorithm);
        }
        let signature = URL_SAFE_NO_PAD
            .decode(self.signature)
            .map_err(|_| TokenError::Malformed { reason: "signature" })?;
        key.verify(self.signed.as_bytes(), &signature)?;
        Ok(key)
    }
}

fn json_part<T: DeserializeOwned>(part: &str, what: &'static str) -> Result<T, TokenError> {
    let malformed = |_| TokenError::Malformed { reason: what };
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| TokenError::Malformed { reason: what })
}

#[cfg(test)]
mod tests {
    use super::super::SigningKey;
    use super::*;
    use crate::secret::Secret;

    const NOW: i64 = 1_790_000_000;
    const AUDIENCE: &str = "la-router/platform/gateway";

    fn claims() -> Claims {
        Claims {
            sub: "gateway/team-a/agent".to_owned(),
            jti: TokenId::try_from("id-1".to_owned()).ok(),
            aud: Some(AUDIENCE.to_owned()),
            iat: NOW,
            nbf: None,
            exp: NOW + 60,
        }
    }

    fn shared(text: &str) -> SigningKey {
        SigningKey::from_shared(Secret::new(text)).unwrap()
    }

    fn check(text: &str, keys: &[VerifyingKey], now: i64) -> Result<Claims, TokenError> {
        parse(text)?.verify(keys, AUDIENCE, now)
    }

    #[test]
    fn minted_token_verifies_until_its_last_second() {
        for key in [SigningKey::from_seed([1; 32]), shared("0123456789abcdef0123456789abcdef")] {
            let text = key.mint(&claims()).unwrap();
            let keys = [key.verifying().unwrap()];
            assert_eq!(check(text.expose(), &keys, NOW + 59), Ok(claims()));
            assert_eq!(check(text.expose(), &keys, NOW + 60), Err(TokenError::Expired));
            assert_eq!(check(text.expose(), &keys, NOW - 31), Err(TokenError::NotYetValid));
        }
    }

    #[test]
    fn token_of_link_assistant_router_verifies_by_its_sub() {
        let secret = "0123456789abcdef0123456789abcdef";
        let old = Claims {
            sub: "7f8c2f1e-0d57-4b0e-9d53-7a2f3c1d4e5f".to_owned(),
            jti: None,
            aud: None,
            ..claims()
        };
        let text = shared(secret).mint(&old).unwrap();
        let parsed = parse(text.expose()).unwrap();
        assert_eq!(parsed.id.as_str(), old.sub);
        assert_eq!(parsed.verify(&[shared(secret).verifying().unwrap()], AUDIENCE, NOW), Ok(old));
    }

    #[test]
    fn published_eddsa_vector_has_a_good_signature_under_its_key() {
        let jwt = "eyJ0eXAiOiJKV1QiLCJhbGciOiJFZERTQSIsImtpZCI6ImVkMSJ9.eyJzdWIiOiJ0LTEiLCJpYXQiOjE3OTAwMDAwMDAsImV4cCI6MTc5MDAwMzYwMH0.rPWsb6Zfwf2nB6hamRehYRDw_hdDbLQU0IOKbNTc4ruGiMfa0PyuAZMTQWKbJxqNbpPU1sGFcf_tDkSZ42YSBA";
        let key = VerifyingKey::Ed25519 {
            kid: "ed1".to_owned(),
            public: "gTl3Dqh9F19Wo1Rmw0x-zMuNipG07jeiXfYPW4_Js5Q".to_owned(),
        };
        let claims: Claims = open(jwt, "JWT", &[key]).unwrap();
        assert_eq!(claims.sub, "t-1");
    }

    #[test]
    fn every_forged_token_is_refused_for_its_own_reason() {
        let key = SigningKey::from_seed([1; 32]);
        let keys =
            [key.verifying().unwrap(), shared("0123456789abcdef0123456789abcdef").verifying().unwrap()];
        let good = key.mint(&claims()).unwrap().expose().to_owned();
        let other = Claims { aud: Some("la-router/platform/other".to_owned()), ..claims() };
        let none = Claims { aud: None, ..claims() };
        let part = |json: &str| URL_SAFE_NO_PAD.encode(json);
        let malformed = |reason| TokenError::Malformed { reason };
        let payload = part(&serde_json::to_string(&claims()).unwrap());
        let VerifyingKey::Ed25519 { kid, public } = &keys[0] else { unreachable!() };
        let confused = hmac_with_public_key(kid, public, &payload);
        let tail: String = good.rsplit('.').next().unwrap().to_owned();
        let twice = part(r#"{"sub":"a","sub":"b","jti":"i","iat":1,"exp":9999999999}"#);
        let cases = [
            ("no prefix", good.trim_start_matches(PREFIX).to_owned(), malformed("prefix")),
            ("over-long", format!("{good}{}", "A".repeat(MAX_BYTES)), malformed("length")),
            ("two parts", format!("{PREFIX}a.b"), malformed("parts")),
            (
                "repeated claim",
                format!("{PREFIX}{}.{twice}.{tail}", part(r#"{"alg":"EdDSA"}"#)),
                malformed("claims"),
            ),
            (
                "critical extension",
                format!("{PREFIX}{}.{payload}.{tail}", part(r#"{"alg":"EdDSA","crit":["x"]}"#)),
                malformed("critical extension"),
            ),
            (
                "unknown kid",
                SigningKey::from_seed([9; 32]).mint(&claims()).unwrap().expose().to_owned(),
                TokenError::UnknownKey,
            ),
            (
                "alg none under a kid",
                format!("{PREFIX}{}.{payload}.", part(&format!(r#"{{"alg":"none","kid":"{kid}"}}"#))),
                TokenError::WrongAlgorithm,
            ),
            ("HS256 with the public key as secret", confused, TokenError::WrongAlgorithm),
            (
                "alg EdDSA without kid",
                format!("{PREFIX}{}.{payload}.{tail}", part(r#"{"alg":"EdDSA"}"#)),
                TokenError::WrongAlgorithm,
            ),
            (
                "other secret",
                shared("another-secret-of-at-least-32-bytes!").mint(&claims()).unwrap().expose().to_owned(),
                TokenError::BadSignature,
            ),
            ("other audience", key.mint(&other).unwrap().expose().to_owned(), TokenError::WrongAudience),
            (
                "no audience under a kid",
                key.mint(&none).unwrap().expose().to_owned(),
                TokenError::WrongAudience,
            ),
        ];
        for (what, text, expected) in cases {
            assert_eq!(check(&text, &keys, NOW), Err(expected), "{what}");
        }
    }

    #[test]
    fn changing_any_character_of_a_token_makes_it_bad() {
        let key = SigningKey::from_seed([1; 32]);
        let keys = [key.verifying().unwrap()];
        let good = key.mint(&claims()).unwrap().expose().to_owned();
        for at in 0..good.len() {
            let mut bytes = good.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let text = String::from_utf8(bytes).unwrap();
            assert!(check(&text, &keys, NOW).is_err(), "changed character {at} went unnoticed");
        }
    }

    fn hmac_with_public_key(kid: &str, public: &str, payload: &str) -> String {
        let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"HS256","kid":"{kid}"}}"#));
        let signed = format!("{header}.{payload}");
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, public.as_bytes());
        let tag = URL_SAFE_NO_PAD.encode(ring::hmac::sign(&key, signed.as_bytes()));
        format!("{PREFIX}{signed}.{tag}")
    }
}
