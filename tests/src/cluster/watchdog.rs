//! Ends what a test process has started when that process ends, even by a signal.
//!
//! `Drop` does not run for statics, on abort or on `kill -9`. So a shell holds the reading end of a pipe whose
//! writing end only this process has: it is told each process id and directory, and cleans up at end of file.

use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{LazyLock, Mutex};

use anyhow::{Context as _, Result, anyhow};

/// Lines are `+PID`, `-PID` and `DIRECTORY` (absolute).
const SCRIPT: &str = r#"
trap '' INT TERM HUP
pids= dirs=
while IFS= read -r line; do
  case $line in
    +*) pids="$pids ${line#+} " ;;
    -*) pids=$(printf %s "$pids" | sed "s/ ${line#-} / /") ;;
    /*) dirs="$dirs $line" ;;
  esac
done
for pid in $pids; do kill -9 "$pid" 2>/dev/null; done
for dir in $dirs; do rm -rf "$dir" 2>/dev/null || { sleep 1; rm -rf "$dir"; }; done
"#;

static WATCHDOG: LazyLock<Result<Mutex<Child>, String>> = LazyLock::new(|| {
    Command::new("sh")
        .args(["-c", SCRIPT])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map(Mutex::new)
        .map_err(|error| format!("starting the watchdog: {error}"))
});

/// Has the process killed at the end.
pub(super) fn adopt(pid: u32) -> Result<()> {
    tell(&format!("+{pid}"))
}

/// Forgets a process that has ended, whose id may come to belong to another.
pub(super) fn release(pid: u32) -> Result<()> {
    tell(&format!("-{pid}"))
}

/// Has the directory removed at the end, after the processes.
pub(super) fn remove_at_end(directory: &Path) -> Result<()> {
    tell(directory.to_str().context("temporary directory is not UTF-8")?)
}

fn tell(line: &str) -> Result<()> {
    let watchdog = WATCHDOG.as_ref().map_err(|error| anyhow!("{error}"))?;
    let mut watchdog = watchdog.lock().map_err(|_| anyhow!("watchdog's lock is poisoned"))?;
    let pipe = watchdog.stdin.as_mut().context("watchdog has no pipe")?;
    writeln!(pipe, "{line}").context("telling the watchdog")
}
