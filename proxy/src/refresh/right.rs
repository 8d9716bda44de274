//! Who renews the login of a folder: a refresh token is used up only by a process that can store its
//! successor, and not beside another that uses it too.

use std::fmt;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, StatxFlags, access, statx};

use crate::settings::{Policy, RefreshSettings};

/// Why a login is not renewed here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Followed {
    /// It was said so.
    Never,
    /// Claude Code uses it too.
    OwnHome,
    /// There is nothing to renew it with.
    NoRefreshToken,
    /// The account does not use it, because another one does.
    NotServed,
    /// Its successor could not be stored.
    ReadOnly(PathBuf),
    /// It is mounted as a single file, which cannot be replaced.
    SingleFile(PathBuf),
    /// It belongs to another user, who could not read its successor.
    Foreign(PathBuf),
}

impl fmt::Display for Followed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Never => f.write_str("--refresh is `never`"),
            Self::OwnHome => {
                f.write_str("Claude Code uses and renews it too; give --refresh to renew it here")
            }
            Self::NoRefreshToken => f.write_str("it has no refresh token"),
            Self::NotServed => f.write_str("the account cannot use it"),
            Self::ReadOnly(file) => write!(f, "{} is read-only", file.display()),
            Self::SingleFile(file) => {
                write!(
                    f,
                    "{} is mounted as a single file and cannot be replaced; mount its folder",
                    file.display()
                )
            }
            Self::Foreign(file) => write!(f, "{} belongs to another user", file.display()),
        }
    }
}

/// Whether the login in `file` of the folder `home` is renewed here.
///
/// # Errors
/// Why not.
pub fn judge(settings: &RefreshSettings, home: &Path, file: &Path) -> Result<(), Followed> {
    if settings.policy == Policy::Never {
        return Err(Followed::Never);
    }
    // A link, and a mount under another name, lead to the same place.
    let file = fs::canonicalize(file).map_err(|_| Followed::ReadOnly(file.to_owned()))?;
    if settings.policy == Policy::Auto && is_own(settings, home) {
        return Err(Followed::OwnHome);
    }
    storable(&file)
}

fn is_own(settings: &RefreshSettings, home: &Path) -> bool {
    let home = fs::canonicalize(home).unwrap_or_else(|_| home.to_owned());
    settings.own_homes.iter().any(|own| fs::canonicalize(own).is_ok_and(|own| own == home))
}

/// Whether a successor can be put in the place of a file. A file without any right to write is read-only for
/// the superuser too: somebody meant it to stay.
fn storable(file: &Path) -> Result<(), Followed> {
    let read_only = || Followed::ReadOnly(file.to_owned());
    let folder = file.parent().ok_or_else(read_only)?;
    let meta = fs::metadata(file).map_err(|_| read_only())?;
    let is_writable = |path: &Path| {
        let mode = fs::metadata(path).map_or(0, |meta| meta.permissions().mode());
        mode & 0o222 != 0 && access(path, Access::WRITE_OK).is_ok()
    };
    if !is_writable(file) || !is_writable(folder) {
        return Err(read_only());
    }
    if is_mount_point(file, folder) {
        return Err(Followed::SingleFile(file.to_owned()));
    }
    let user = rustix::process::geteuid();
    if !user.is_root() && meta.uid() != user.as_raw() {
        return Err(Followed::Foreign(file.to_owned()));
    }
    Ok(())
}

/// Where the kernel cannot tell (before Linux 5.8), renewing finds out when the file cannot be replaced.
fn is_mount_point(file: &Path, folder: &Path) -> bool {
    let mount = |path: &Path| {
        let stat = statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID).ok()?;
        (stat.stx_mask & StatxFlags::MNT_ID.bits() != 0).then_some(stat.stx_mnt_id)
    };
    matches!((mount(file), mount(folder)), (Some(file), Some(folder)) if file != folder)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use la_core::oauth::TokenEndpoint;

    use super::*;

    fn settings(policy: Policy, own: &Path) -> RefreshSettings {
        RefreshSettings {
            policy,
            own_homes: vec![own.to_owned()],
            endpoint: TokenEndpoint::default(),
            exchange_url: String::new(),
            before: Duration::from_secs(300),
        }
    }

    #[test]
    fn own_home_needs_to_be_asked_for_and_never_is_never() {
        let folder = tempfile::tempdir().unwrap();
        let (home, link) = (folder.path().join("home"), folder.path().join("link"));
        fs::create_dir(&home).unwrap();
        std::os::unix::fs::symlink(&home, &link).unwrap();
        let file = home.join(".credentials.json");
        fs::write(&file, "{}").unwrap();
        let other = folder.path().join("other");
        for (policy, own, expected) in [
            (Policy::Auto, &other, Ok(())),
            (Policy::Auto, &home, Err(Followed::OwnHome)),
            (Policy::Auto, &link, Err(Followed::OwnHome)),
            (Policy::Always, &home, Ok(())),
            (Policy::Never, &other, Err(Followed::Never)),
        ] {
            assert_eq!(judge(&settings(policy, own), &home, &file), expected, "{policy:?} {own:?}");
        }
    }

    #[test]
    fn what_cannot_be_stored_is_never_renewed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(".credentials.json");
        fs::write(&file, "{}").unwrap();
        let settings = settings(Policy::Always, Path::new("/nowhere"));
        let judged = || judge(&settings, folder.path(), &file);
        assert_eq!(judged(), Ok(()));
        let real = fs::canonicalize(&file).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o400)).unwrap();
        assert_eq!(judged(), Err(Followed::ReadOnly(real.clone())));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o500)).unwrap();
        assert_eq!(judged(), Err(Followed::ReadOnly(real)));
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
    }
}
