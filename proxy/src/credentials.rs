//! Claude logins in folders: read, and read again when they change, never written.

use std::io;
use std::path::{Path, PathBuf};

use la_core::credential::Credential;
use la_core::credential::claude::{FILE_NAMES, LoginError, SearchError, find_login};
use la_core::secret::Secret;

/// Most bytes of such a file; a real one has about one kilobyte.
const MAX_BYTES: u64 = 1 << 20;

/// Why a folder gives no login. Never shows what is in its files.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    #[error("no Claude login in {home}; log in with Claude Code, or give another folder")]
    None { home: PathBuf },
    #[error("{file} cannot be read: {error}")]
    Unreadable { file: PathBuf, error: io::Error },
    #[error("{file} {error}", error = .error)]
    Faulty { file: PathBuf, error: LoginError },
}

/// The files of `home` that may hold a login.
pub fn candidates(home: &Path) -> impl Iterator<Item = PathBuf> {
    FILE_NAMES.iter().map(|name| home.join(name))
}

/// The login of a Claude home: that of the first file that has one.
///
/// # Errors
/// When no file has one, or one that comes before it cannot be read or understood.
pub fn read_home(home: &Path) -> Result<Credential, HomeError> {
    let mut unreadable = None;
    let found = find_login(|name| {
        if unreadable.is_some() {
            return None;
        }
        let file = home.join(name);
        match read(&file) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                unreadable = Some(HomeError::Unreadable { file, error });
                None
            }
        }
    });
    match (unreadable, found) {
        (_, Ok((_, credential))) => Ok(credential),
        (Some(error), Err(_)) => Err(error),
        (None, Err(SearchError::Faulty { name, error })) => {
            Err(HomeError::Faulty { file: home.join(name), error })
        }
        (None, Err(SearchError::NoToken { .. } | SearchError::NoFile)) => {
            Err(HomeError::None { home: home.to_owned() })
        }
    }
}

fn read(file: &Path) -> io::Result<Secret> {
    let size = std::fs::metadata(file)?.len();
    if size > MAX_BYTES {
        return Err(io::Error::other(format!("has {size} bytes, a login has less than {MAX_BYTES}")));
    }
    std::fs::read_to_string(file).map(Secret::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_file_with_a_token_gives_the_login() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("credentials.json"), r#"{"mcpOAuth":{}}"#).unwrap();
        std::fs::write(home.path().join("auth.json"), r#"{"accessToken":"sk-ant-oat01-second"}"#).unwrap();
        let login = r#"{"claudeAiOauth":{"accessToken":"sk-ant-oat01-first","expiresAt":1790000000000}}"#;
        std::fs::write(home.path().join(".credentials.json"), login).unwrap();
        let Credential::OAuth { access_token, expires_at } = read_home(home.path()).unwrap() else {
            panic!()
        };
        assert_eq!((access_token.expose(), expires_at), ("sk-ant-oat01-first", Some(1_790_000_000)));
    }

    #[test]
    fn faulty_or_unreadable_file_ends_the_search_and_is_named() {
        let home = tempfile::tempdir().unwrap();
        assert!(matches!(read_home(home.path()), Err(HomeError::None { .. })));
        std::fs::write(home.path().join("auth.json"), r#"{"accessToken":"sk-ant-oat01-second"}"#).unwrap();
        std::fs::write(home.path().join("credentials.json"), "canary").unwrap();
        let error = read_home(home.path()).unwrap_err().to_string();
        assert!(error.contains("credentials.json") && !error.contains("canary"), "{error}");
        std::fs::remove_file(home.path().join("credentials.json")).unwrap();
        std::fs::create_dir(home.path().join("credentials.json")).unwrap();
        assert!(matches!(read_home(home.path()), Err(HomeError::Unreadable { .. })));
    }
}
