//! Minted tokens as files: the keys that a minted Secret would have, readable by their owner only.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use la_core::secret::Secret;
use la_crds::router_token::Output;

use crate::data_dir::write_derived;

/// Every file that is ever written; others in the folder are left alone.
const FILES: [&str; 3] = ["token", "ANTHROPIC_BASE_URL", "ANTHROPIC_AUTH_TOKEN"];

/// Where the files of one token go.
pub(super) fn folder(tokens_dir: &Path, namespace: &str, name: &str) -> PathBuf {
    tokens_dir.join(namespace).join(name)
}

/// Makes the folder hold exactly these outputs. Files that are right already are not touched.
///
/// # Errors
/// When a file cannot be written.
pub(super) fn write(folder: &Path, outputs: &[Output], token: &Secret, base_url: &str) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let wanted = |file: &str| match file {
        "token" => outputs.contains(&Output::Token).then_some(token.expose()),
        "ANTHROPIC_BASE_URL" => outputs.contains(&Output::AnthropicEnv).then_some(base_url),
        _ => outputs.contains(&Output::AnthropicEnv).then_some(token.expose()),
    };
    for file in FILES {
        let path = folder.join(file);
        match wanted(file) {
            Some(text) if fs::read(&path).is_ok_and(|found| found == text.as_bytes()) => {}
            Some(text) => write_derived(&path, text.as_bytes())?,
            None => remove_file(&path)?,
        }
    }
    Ok(())
}

/// Removes the files, and the folder when nothing else is in it.
///
/// # Errors
/// When a file cannot be removed.
pub(super) fn remove(folder: &Path) -> io::Result<()> {
    for file in FILES {
        remove_file(&folder.join(file))?;
    }
    // It stays where somebody else put something into it.
    let _ = fs::remove_dir(folder);
    Ok(())
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
