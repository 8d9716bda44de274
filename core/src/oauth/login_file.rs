//! A login as a file or Secret holds it, whole, and rewritten in place.

use std::fmt;
use std::ops::Range;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use super::{Fingerprint, Renewed};
use crate::credential::Credential;
use crate::credential::claude::{self, FIRST_MILLISECONDS, LoginError};
use crate::secret::Secret;

const NESTED: [&str; 2] = ["claudeAiOauth", "claude_ai_oauth"];
const ACCESS: [&str; 2] = ["accessToken", "access_token"];
const REFRESH: [&str; 2] = ["refreshToken", "refresh_token"];
const EXPIRY: [&str; 2] = ["expiresAt", "expires_at"];

/// The whole text of a login, with its refresh token. Never leaves the store it came from, but for the token
/// endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginFile {
    text: Secret,
    access_token: Secret,
    refresh_token: Option<Secret>,
    expires_at: Option<i64>,
    scopes: Vec<String>,
    places: Places,
}

/// Where in the text the values are that a renewal replaces.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Places {
    access_token: Range<usize>,
    refresh_token: Option<Range<usize>>,
    /// With whether it is in milliseconds.
    expiry: Option<(Range<usize>, bool)>,
    /// The name that an expiry gets where there is none so far.
    expiry_name: &'static str,
}

/// The members of a JSON object, as they stand in the text.
struct Object<'a>(Vec<(String, &'a RawValue)>);

impl LoginFile {
    /// Reads a login: nested under `claudeAiOauth`, as Claude Code writes it, or flat. All values are of one
    /// of the two.
    ///
    /// # Errors
    /// As [`claude::login`], and when the refresh token is no text.
    pub fn read(text: Secret) -> Result<Self, LoginError> {
        let credential = claude::login(text.expose())?;
        let Credential::OAuth { access_token, expires_at } = credential else {
            return Err(LoginError::NoToken);
        };
        let json = text.expose();
        let object = Object::of(json, json)?;
        let nested = match object.member(json, NESTED)? {
            Some(raw) if raw.get() != "null" => Some(Object::of(json, raw.get())?),
            _ => None,
        };
        let has_token = |object: &Object<'_>| object.text(json, ACCESS).is_ok_and(|token| token.is_some());
        let login = nested.filter(has_token).unwrap_or(object);
        let (raw, _) = login.text(json, ACCESS)?.ok_or(LoginError::NoToken)?;
        let expiry = login.member(json, EXPIRY)?;
        let refresh = login.text(json, REFRESH)?;
        let [camel, snake] = EXPIRY;
        let expiry_name = if login.has("accessToken") { camel } else { snake };
        let places = Places {
            access_token: place(json, raw),
            refresh_token: refresh.as_ref().map(|(raw, _)| place(json, raw)),
            expiry: expiry.map(|raw| (place(json, raw), is_in_milliseconds(raw))),
            expiry_name,
        };
        let refresh_token = refresh.map(|(_, token)| token);
        let scopes = login.scopes();
        Ok(Self { access_token, refresh_token, expires_at, scopes, places, text })
    }

    /// The whole text.
    pub fn text(&self) -> &Secret {
        &self.text
    }

    /// What goes out to the vendor's API.
    pub fn access_token(&self) -> &Secret {
        &self.access_token
    }

    /// The fingerprint of the access token.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.access_token)
    }

    /// What goes out to the token endpoint, once.
    pub fn refresh_token(&self) -> Option<&Secret> {
        self.refresh_token.as_ref()
    }

    /// When the access token ends, in Unix seconds, if the file says so.
    pub fn expires_at(&self) -> Option<i64> {
        self.expires_at
    }

    /// What the login is good for, as it was stored with it.
    pub fn scopes(&self) -> &[String] {
        &self.scopes
    }

    /// The login as a proxy uses it.
    pub fn credential(&self) -> Credential {
        Credential::OAuth { access_token: self.access_token.clone(), expires_at: self.expires_at }
    }

    /// Whether both are one login: they have the same refresh token, or the same access token.
    pub fn is_same_login(&self, other: &Self) -> bool {
        let refresh = self.refresh_token.is_some() && self.refresh_token == other.refresh_token;
        refresh || self.access_token == other.access_token
    }

    /// The same file with what was renewed: access token, refresh token and expiry under the names and in the
    /// unit they had. Every other byte stays.
    ///
    /// # Errors
    /// When the text that results cannot be read again.
    pub fn renewed(&self, with: &Renewed) -> Result<Self, LoginError> {
        let Places { access_token, refresh_token, expiry, expiry_name } = &self.places;
        let quoted = |token: &Secret| Value::from(token.expose()).to_string();
        let in_unit = |is_ms: bool| with.expires_at.saturating_mul(if is_ms { 1_000 } else { 1 }).to_string();
        let mut edits = Vec::new();
        match expiry {
            Some((place, is_ms)) => {
                edits.push((access_token.clone(), quoted(&with.access_token)));
                edits.push((place.clone(), in_unit(*is_ms)));
            }
            None => {
                let both = format!(r#"{},"{expiry_name}":{}"#, quoted(&with.access_token), in_unit(true));
                edits.push((access_token.clone(), both));
            }
        }
        if let (Some(place), Some(token)) = (refresh_token, &with.refresh_token) {
            edits.push((place.clone(), quoted(token)));
        }
        Self::read(Secret::new(edited(self.text.expose(), edits)))
    }
}

/// `text` with some places of it replaced.
fn edited(text: &str, mut edits: Vec<(Range<usize>, String)>) -> String {
    edits.sort_by_key(|(place, _)| place.start);
    let mut result = String::with_capacity(text.len() + 64);
    let mut from = 0;
    for (place, new) in edits {
        result.push_str(text.get(from..place.start).unwrap_or_default());
        result.push_str(&new);
        from = place.end;
    }
    result.push_str(text.get(from..).unwrap_or_default());
    result
}

impl<'a> Object<'a> {
    /// The members of the object `part` of the text `whole`.
    fn of(whole: &str, part: &'a str) -> Result<Self, LoginError> {
        serde_json::from_str(part).map_err(|_| shape(whole, part))
    }

    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(other, _)| other == name)
    }

    /// The one member of these names.
    fn member(&self, whole: &str, names: [&str; 2]) -> Result<Option<&'a RawValue>, LoginError> {
        let mut found = self.0.iter().filter(|(name, _)| names.contains(&&**name)).map(|(_, raw)| *raw);
        let first = found.next();
        match found.next() {
            Some(second) => Err(shape(whole, second.get())),
            None => Ok(first),
        }
    }

    /// The one member of these names that is a text with anything in it.
    fn text(&self, whole: &str, names: [&str; 2]) -> Result<Option<(&'a RawValue, Secret)>, LoginError> {
        let Some(raw) = self.member(whole, names)? else { return Ok(None) };
        let text: Option<String> = serde_json::from_str(raw.get()).map_err(|_| shape(whole, raw.get()))?;
        let text = Secret::new(text.unwrap_or_default());
        Ok((!text.expose().trim().is_empty()).then_some((raw, text)))
    }

    /// A list of texts, or one text with spaces; what else there is asks for nothing.
    fn scopes(&self) -> Vec<String> {
        let Ok(Some(raw)) = self.member("", ["scopes", "scope"]) else { return Vec::new() };
        match serde_json::from_str(raw.get()) {
            Ok(Value::String(text)) => text.split_whitespace().map(str::to_owned).collect(),
            Ok(Value::Array(list)) => {
                list.iter().filter_map(|scope| scope.as_str().map(str::to_owned)).collect()
            }
            _ => Vec::new(),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(members)
            }
        }
        from.deserialize_map(Members).map(Object)
    }
}

/// Where in `whole` the bytes of `part` are, which is a slice of it.
fn place(whole: &str, part: &RawValue) -> Range<usize> {
    let start = part.get().as_ptr().addr().saturating_sub(whole.as_ptr().addr());
    start..start.saturating_add(part.get().len())
}

/// Values from [`FIRST_MILLISECONDS`] on are; so is one that is none, as Claude Code writes milliseconds.
fn is_in_milliseconds(value: &RawValue) -> bool {
    value.get().parse::<f64>().map_or(true, |time| time >= FIRST_MILLISECONDS)
}

/// The error that points at `part` of `whole`.
fn shape(whole: &str, part: &str) -> LoginError {
    let start = part.as_ptr().addr().saturating_sub(whole.as_ptr().addr());
    let before = whole.get(..start).unwrap_or_default();
    let column = before.rsplit('\n').next().unwrap_or_default().len() + 1;
    LoginError::Shape { line: before.matches('\n').count() + 1, column }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> LoginFile {
        LoginFile::read(Secret::new(text)).unwrap()
    }

    fn renewed() -> Renewed {
        Renewed {
            access_token: Secret::new("sk-ant-oat01-new"),
            refresh_token: Some(Secret::new("sk-ant-ort01-new")),
            expires_at: 1_900_000_000,
            scopes: Vec::new(),
        }
    }

    #[test]
    fn renewal_replaces_three_values_and_keeps_every_other_byte() {
        let cases = [
            (
                "as Claude Code writes it",
                "{\n  \"z\": [1, 2],\n  \"claudeAiOauth\": {\n    \"accessToken\": \"sk-ant-oat01-old\",\n    \"refreshToken\" : \"sk-ant-ort01-old\",\n    \"expiresAt\": 1790000000000,\n    \"scopes\": [\"b\", \"a\"],\n    \"x\\u0079\": 1.50\n  },\n  \"mcpOAuth\": {\"accessToken\": \"other\"}\n}\n",
                "{\n  \"z\": [1, 2],\n  \"claudeAiOauth\": {\n    \"accessToken\": \"sk-ant-oat01-new\",\n    \"refreshToken\" : \"sk-ant-ort01-new\",\n    \"expiresAt\": 1900000000000,\n    \"scopes\": [\"b\", \"a\"],\n    \"x\\u0079\": 1.50\n  },\n  \"mcpOAuth\": {\"accessToken\": \"other\"}\n}\n",
            ),
            (
                "flat, in seconds, in another order",
                r#"{"expires_at":1790000000.5,"refresh_token":"r","access_token":"sk-ant-oat01-old","k":null}"#,
                r#"{"expires_at":1900000000,"refresh_token":"sk-ant-ort01-new","access_token":"sk-ant-oat01-new","k":null}"#,
            ),
            (
                "nested wins over flat",
                r#"{"accessToken":"flat-token","claudeAiOauth":{"accessToken":"sk-ant-oat01-old","refreshToken":"r","expiresAt":1}}"#,
                r#"{"accessToken":"flat-token","claudeAiOauth":{"accessToken":"sk-ant-oat01-new","refreshToken":"sk-ant-ort01-new","expiresAt":1900000000}}"#,
            ),
            (
                "nested without a token does not",
                r#"{"claudeAiOauth":{"accessToken":"","refreshToken":"n"},"accessToken":"sk-ant-oat01-old","refreshToken":"f"}"#,
                r#"{"claudeAiOauth":{"accessToken":"","refreshToken":"n"},"accessToken":"sk-ant-oat01-new","expiresAt":1900000000000,"refreshToken":"sk-ant-ort01-new"}"#,
            ),
            (
                "no expiry is a known expiry afterwards",
                r#"{"access_token":"sk-ant-oat01-old","refresh_token":"r","expires_at":null}"#,
                r#"{"access_token":"sk-ant-oat01-new","refresh_token":"sk-ant-ort01-new","expires_at":1900000000000}"#,
            ),
        ];
        for (sentence, before, after) in cases {
            let file = read(before).renewed(&renewed()).unwrap();
            assert_eq!(file.text().expose(), after, "{sentence}");
            assert_eq!(file.expires_at(), Some(1_900_000_000), "{sentence}");
            assert_eq!(file.refresh_token().map(Secret::expose), Some("sk-ant-ort01-new"), "{sentence}");
        }
    }

    #[test]
    fn old_refresh_token_stays_when_no_other_came() {
        let file = read(r#"{"accessToken":"sk-ant-oat01-old","refreshToken":"keep-me","expiresAt":1}"#);
        let file = file.renewed(&Renewed { refresh_token: None, ..renewed() }).unwrap();
        assert_eq!(
            file.text().expose(),
            r#"{"accessToken":"sk-ant-oat01-new","refreshToken":"keep-me","expiresAt":1900000000}"#
        );
    }

    #[test]
    fn scopes_are_a_list_or_a_text() {
        let scopes =
            |more: &str| read(&format!(r#"{{"accessToken":"sk-ant-oat01-old"{more}}}"#)).scopes().join("|");
        assert_eq!(scopes(r#","scopes":["user:a","user:b"]"#), "user:a|user:b");
        assert_eq!(scopes(r#","scope":"user:a user:b""#), "user:a|user:b");
        assert_eq!(scopes(r#","scopes":[1,null]"#), "");
        assert_eq!(scopes(""), "");
    }

    #[test]
    fn login_without_a_refresh_token_is_one() {
        for more in ["", r#","refreshToken":null"#, r#","refreshToken":"""#, r#","refreshToken":" ""#] {
            let file = read(&format!(r#"{{"accessToken":"sk-ant-oat01-old"{more}}}"#));
            assert_eq!(file.refresh_token(), None, "{more}");
        }
    }

    #[test]
    fn refresh_token_that_is_no_text_or_there_twice_is_refused_at_its_place() {
        for more in [r#""refreshToken":["canary"]"#, r#""refreshToken":"a","refresh_token":"canary""#] {
            let text = format!("{{\"accessToken\":\"sk-ant-oat01-old\",\n {more}}}");
            let error = LoginFile::read(Secret::new(text)).unwrap_err();
            assert!(matches!(error, LoginError::Shape { line: 2, .. }), "{more}: {error:?}");
            assert!(!error.to_string().contains("canary"));
        }
    }

    #[test]
    fn one_login_is_known_by_either_token() {
        let file = |access: &str, refresh: &str| {
            read(&format!(r#"{{"accessToken":"sk-ant-{access}","refreshToken":"{refresh}"}}"#))
        };
        let one = file("one", "r1");
        assert!(one.is_same_login(&file("two", "r1")) && one.is_same_login(&file("one", "r2")));
        assert!(!one.is_same_login(&file("two", "r2")));
        let bare = |access: &str| read(&format!(r#"{{"accessToken":"sk-ant-{access}"}}"#));
        assert!(!bare("one").is_same_login(&bare("two")), "no refresh token is not the same one");
    }

    proptest! {
        #[test]
        fn any_neighbours_survive_a_renewal(
            before in ".{0,20}", name in "[a-z\"\\\\é]{1,8}", value in ".{0,20}"
        ) {
            let quote = |text: &str| Value::from(text).to_string();
            // No name of ours begins so.
            let name = quote(&format!("q{name}"));
            let text = |access: &str, refresh: &str, end: &str| format!(
                r#"{{{name}:{},"accessToken":"{access}","x":{{{}:1}} , "refreshToken":"{refresh}","expiresAt":{end}}}"#,
                quote(&value), quote(&before),
            );
            let file = read(&text("sk-ant-oat01-old", "old", "1790000000000"));
            let renewed = file.renewed(&renewed()).unwrap();
            prop_assert_eq!(
                renewed.text().expose(),
                text("sk-ant-oat01-new", "sk-ant-ort01-new", "1900000000000")
            );
        }
    }
}
