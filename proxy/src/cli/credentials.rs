//! `credentials sync`: copies the login of the macOS keychain to a file, through the system's own tool, and has
//! launchd do so again and again.
//!
//! A login that was renewed from the file is newer than the keychain's, and stays.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use la_core::duration;
use la_core::oauth::{Fingerprint, LoginFile};
use la_core::secret::Secret;

use super::say;
use crate::app::Failure;
use crate::data_dir::write_whole;
use crate::refresh::store::{NotClaimed, Store};
use crate::settings::{Lookup, SyncArgs};

/// What Claude Code calls its item in the keychain.
const SERVICE: &str = "Claude Code-credentials";

/// What launchd calls the job.
const LABEL: &str = "dev.link-assistant.la-router.credentials-sync";

const FILE_DEFAULT: &str = ".claude/claude-credentials.json";
const EVERY_DEFAULT: Duration = Duration::from_secs(300);

/// How long another process may be about to renew the login in the file, and how often it is asked.
const CLAIM_TRIES: u32 = 40;
const CLAIM_PAUSE: Duration = Duration::from_secs(1);

/// What one look has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Written,
    /// The file has this login already.
    Same,
    /// The file has a newer login.
    Newer,
}

/// What there is to do, and with what.
struct Sync {
    security: PathBuf,
    service: String,
    user: Option<String>,
    file: PathBuf,
}

/// Runs `credentials sync`.
pub(super) fn sync(args: &SyncArgs, lookup: &Lookup) -> Result<(), Failure> {
    let fault = |what: String| Failure::Configuration(vec![what]);
    let every = args.every.as_deref().map(duration::parse).transpose();
    let every = every.map_err(|e| fault(format!("--every: {e}")))?;
    if every.is_some_and(|every| every < Duration::from_secs(1)) {
        return Err(fault("--every: is shorter than 1s".to_owned()));
    }
    let home = lookup.named("HOME").map(|home| PathBuf::from(home.text));
    let home = home.ok_or_else(|| fault("HOME is not set".to_owned()))?;
    let file = args.to.clone().unwrap_or_else(|| home.join(FILE_DEFAULT));
    let agent = Agent { home: &home, launchctl: &args.launchctl_tool };
    if args.remove {
        return agent.remove();
    }
    if args.install {
        return agent.install(&file, every.unwrap_or(EVERY_DEFAULT));
    }
    let sync = Sync {
        security: args.security_tool.clone(),
        service: service(lookup.named("CLAUDE_CONFIG_DIR").map(|dir| dir.text)),
        user: lookup.named("USER").map(|user| user.text),
        file,
    };
    loop {
        match (sync.once(), every) {
            (Ok(outcome), _) => say(&sync.told(outcome))?,
            (Err(failure), None) => return Err(Failure::Runtime(failure)),
            (Err(failure), Some(_)) => say(&format!("{failure}\n"))?,
        }
        match every {
            Some(every) => std::thread::sleep(every),
            None => return Ok(()),
        }
    }
}

/// With a configuration folder of its own, Claude Code adds the start of its SHA-256 (observed in 2026).
fn service(config_dir: Option<String>) -> String {
    let Some(dir) = config_dir else { return SERVICE.to_owned() };
    let digest = Fingerprint::of(&Secret::new(dir)).to_string();
    format!("{SERVICE}-{}", digest.get(..8).unwrap_or_default())
}

impl Sync {
    fn once(&self) -> Result<Outcome, String> {
        let login = self.keychain()?;
        let folder = self.file.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder).map_err(|e| format!("{} cannot be made: {e}", folder.display()))?;
        // Nobody renews the login in the file between looking at it and writing.
        let mut store = Store::new(folder.to_owned());
        claim(&mut store).map_err(|e| format!("{} cannot be locked: {e}", folder.display()))?;
        let failed = |e: io::Error| format!("{} cannot be written: {e}", self.file.display());
        match fs::read_to_string(&self.file).map(Secret::new) {
            Ok(text) => match LoginFile::read(text) {
                Ok(there) if there.is_same_login(&login) => return Ok(Outcome::Same),
                Ok(there) if there.expires_at() >= login.expires_at() => return Ok(Outcome::Newer),
                // Older, or of no use to anybody.
                Ok(_) | Err(_) => {}
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        write_whole(&self.file, login.text().expose().as_bytes()).map_err(failed)?;
        Ok(Outcome::Written)
    }

    /// The user's own item; an item of nobody in particular only when there is none.
    fn keychain(&self) -> Result<LoginFile, String> {
        let own = self.user.as_ref().map(|user| self.item(&["-a", user])).transpose()?.flatten();
        let text = match own {
            Some(text) => text,
            None => self.item(&[])?.ok_or_else(|| {
                format!("the keychain has no item {:?}; log in with Claude Code", self.service)
            })?,
        };
        LoginFile::read(text).map_err(|error| format!("the keychain's item {:?} {error}", self.service))
    }

    fn item(&self, which: &[&str]) -> Result<Option<Secret>, String> {
        let mut command = Command::new(&self.security);
        command.arg("find-generic-password").args(["-s", &self.service]).args(which).arg("-w");
        let output = command.output().map_err(|error| {
            format!("{} cannot be run: {error}; there is a keychain on macOS only", self.security.display())
        })?;
        if !output.status.success() {
            return Ok(None);
        }
        let text = String::from_utf8(output.stdout);
        Ok(text.ok().map(|text| Secret::new(text.trim())).filter(|text| !text.is_empty()))
    }

    fn told(&self, outcome: Outcome) -> String {
        let file = self.file.display();
        match outcome {
            Outcome::Written => format!("{file} has the keychain's login\n"),
            Outcome::Same => format!("{file} has the keychain's login already\n"),
            Outcome::Newer => format!("{file} has a newer login than the keychain, which stays\n"),
        }
    }
}

fn claim(store: &mut Store) -> io::Result<()> {
    for _ in 0..CLAIM_TRIES {
        match store.claim() {
            Ok(()) => return Ok(()),
            Err(NotClaimed::Failed(error)) => return Err(error),
            Err(NotClaimed::Busy) => std::thread::sleep(CLAIM_PAUSE),
        }
    }
    Err(io::Error::other("another process holds it"))
}

/// The job that launchd runs.
struct Agent<'a> {
    home: &'a Path,
    launchctl: &'a Path,
}

impl Agent<'_> {
    fn install(&self, file: &Path, every: Duration) -> Result<(), Failure> {
        let failed = |what: &str, e: io::Error| Failure::Runtime(format!("{what}: {e}"));
        let program = std::env::current_exe().map_err(|e| failed("this program is not found", e))?;
        let file = std::path::absolute(file).map_err(|e| failed("--to", e))?;
        let plist = self.plist();
        let folder = plist.parent().unwrap_or(self.home);
        fs::create_dir_all(folder).map_err(|e| failed(&folder.display().to_string(), e))?;
        let text = property_list(&program, &file, every);
        write_whole(&plist, text.as_bytes()).map_err(|e| failed(&plist.display().to_string(), e))?;
        // One that runs already goes on with its old settings otherwise; there may be none.
        let _ = self.launchctl("bootout", &plist);
        self.launchctl("bootstrap", &plist).map_err(Failure::Runtime)?;
        say(&format!("{} keeps {}, every {}\n", plist.display(), file.display(), duration::format(every)))
    }

    fn remove(&self) -> Result<(), Failure> {
        let plist = self.plist();
        let _ = self.launchctl("bootout", &plist);
        match fs::remove_file(&plist) {
            Ok(()) => say(&format!("{} is removed\n", plist.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => say("nothing was installed\n"),
            Err(error) => Err(Failure::Runtime(format!("{}: {error}", plist.display()))),
        }
    }

    fn plist(&self) -> PathBuf {
        self.home.join("Library/LaunchAgents").join(format!("{LABEL}.plist"))
    }

    fn launchctl(&self, what: &str, plist: &Path) -> Result<(), String> {
        let domain = format!("gui/{}", rustix::process::getuid().as_raw());
        let run = Command::new(self.launchctl).arg(what).arg(domain).arg(plist).output();
        match run {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => Err(format!("launchctl {what} ended with {}", output.status)),
            Err(error) => Err(format!("{} cannot be run: {error}", self.launchctl.display())),
        }
    }
}

fn property_list(program: &Path, file: &Path, every: Duration) -> String {
    let (program, file) = (escaped(program), escaped(file));
    let seconds = every.as_secs().max(1);
    format!(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
<dict>
  <key>Label</key><string>{LABEL}</string>
  <key>ProgramArguments</key>
  <array>
    <string>{program}</string>
    <string>credentials</string>
    <string>sync</string>
    <string>--to</string>
    <string>{file}</string>
  </array>
  <key>StartInterval</key><integer>{seconds}</integer>
  <key>RunAtLoad</key><true/>
</dict>
</plist>
"#
    )
}

fn escaped(path: &Path) -> String {
    path.display().to_string().replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// Makes a program. Through another process: one that this process has open cannot be run by it.
    fn program(path: &Path, script: &str) {
        let mut shell = Command::new("/bin/sh");
        shell
            .args(["-c", "printf '#!/bin/sh\\n%s\\n' \"$1\" > \"$0\" && chmod 700 \"$0\""])
            .arg(path)
            .arg(script);
        assert!(shell.status().unwrap().success());
    }

    /// A folder with a tool `security` that prints what `script` says.
    fn sync_with(script: &str) -> (tempfile::TempDir, Sync) {
        let folder = tempfile::tempdir().unwrap();
        let security = folder.path().join("security");
        program(&security, script);
        let file = folder.path().join("home/claude-credentials.json");
        let sync = Sync { security, service: service(None), user: Some("me".to_owned()), file };
        (folder, sync)
    }

    fn login(token: &str, expires_at: i64) -> String {
        format!(
            r#"{{"claudeAiOauth":{{"accessToken":"sk-ant-oat01-{token}","refreshToken":"r-{token}","expiresAt":{expires_at}}},"x":1}}"#
        )
    }

    /// Prints `login` for the item of `me` only.
    fn keychain(login: &str) -> String {
        format!(
            "[ \"$*\" = 'find-generic-password -s Claude Code-credentials -a me -w' ] && echo '{login}' || exit 44"
        )
    }

    #[test]
    fn keychain_item_becomes_a_private_file_whole() {
        let (_folder, sync) = sync_with(&keychain(&login("one", 1_790_000_000_000)));
        assert_eq!(sync.once(), Ok(Outcome::Written));
        assert_eq!(fs::read_to_string(&sync.file).unwrap(), login("one", 1_790_000_000_000));
        let mode = fs::metadata(&sync.file).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        assert_eq!(sync.once(), Ok(Outcome::Same));
    }

    #[test]
    fn own_item_is_asked_for_before_one_of_nobody() {
        let any = format!(
            "case \"$*\" in *'-a me'*) exit 44;; *) echo '{}';; esac",
            login("any", 1_790_000_000_000)
        );
        let (_folder, sync) = sync_with(&any);
        assert_eq!(sync.once(), Ok(Outcome::Written));
        assert!(fs::read_to_string(&sync.file).unwrap().contains("sk-ant-oat01-any"));
    }

    #[test]
    fn newer_rotation_in_the_file_stays_and_an_older_or_damaged_one_does_not() {
        let ours = 1_790_000_100_000;
        for (there, outcome) in [
            (login("ours", ours + 1_000), Outcome::Newer),
            (login("ours", ours), Outcome::Newer),
            (login("ours", ours - 1_000), Outcome::Written),
            ("{".to_owned(), Outcome::Written),
        ] {
            let (_folder, sync) = sync_with(&keychain(&login("keychain", ours)));
            fs::create_dir_all(sync.file.parent().unwrap()).unwrap();
            fs::write(&sync.file, &there).unwrap();
            assert_eq!(sync.once(), Ok(outcome), "{there}");
            let stays = outcome == Outcome::Newer;
            assert_eq!(fs::read_to_string(&sync.file).unwrap() == there, stays, "{there}");
        }
    }

    #[test]
    fn item_that_is_missing_or_no_login_writes_nothing_and_is_not_shown() {
        for (script, part) in [
            ("exit 44".to_owned(), "the keychain has no item"),
            (keychain("canary"), "is not JSON"),
            (keychain("{\"canary\":1}"), "holds no access token"),
        ] {
            let (_folder, sync) = sync_with(&script);
            let error = sync.once().unwrap_err();
            assert!(error.contains(part) && !error.contains("canary"), "{error}");
            assert!(!sync.file.exists());
        }
        let (_folder, sync) = sync_with("");
        let sync = Sync { security: PathBuf::from("/no/such/tool"), ..sync };
        assert!(sync.once().unwrap_err().contains("on macOS only"));
    }

    #[test]
    fn folder_of_its_own_has_an_item_of_its_own() {
        assert_eq!(service(Some("abc".to_owned())), "Claude Code-credentials-ba7816bf");
    }

    #[test]
    fn agent_is_installed_for_launchd_and_removed_again() {
        let folder = tempfile::tempdir().unwrap();
        let (launchctl, calls) = (folder.path().join("launchctl"), folder.path().join("calls"));
        program(&launchctl, &format!("echo \"$1\" >> {}", calls.display()));
        let agent = Agent { home: folder.path(), launchctl: &launchctl };
        agent.install(Path::new("/a & b/login.json"), Duration::from_secs(90)).unwrap();
        let text = fs::read_to_string(agent.plist()).unwrap();
        for part in ["<string>/a &amp; b/login.json</string>", "<integer>90</integer>", LABEL] {
            assert!(text.contains(part), "{text}");
        }
        agent.remove().unwrap();
        assert!(!agent.plist().exists());
        assert_eq!(fs::read_to_string(calls).unwrap(), "bootout\nbootstrap\nbootout\n");
        agent.remove().unwrap();
    }
}
