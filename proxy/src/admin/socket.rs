//! The admin socket: a file in the data folder that only its owner can open.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;

use tokio::net::UnixListener;

use crate::data_dir::DataDir;

/// Its name in the data folder.
pub const SOCKET_FILE: &str = "admin.sock";

/// Listens on the socket of a data folder that this process holds; a socket left behind is replaced.
///
/// # Errors
/// When it cannot be made, such as in a folder whose path is longer than a socket's may be (107 bytes).
pub fn bind(data_dir: &DataDir) -> io::Result<UnixListener> {
    let path = data_dir.file(SOCKET_FILE);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // The process's umask makes it private from the start; this is for a socket made without one.
    let listener = UnixListener::bind(&path)?;
    fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    Ok(listener)
}
