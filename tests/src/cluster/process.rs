//! A started process with its output in a file, killed when dropped.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{eventually, watchdog};

/// A child process. Dropping it kills it; so does the end of the test process.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with both outputs appended to the file `log`.
    ///
    /// # Errors
    /// When the file or the process cannot be made.
    pub fn spawn(command: &mut Command, log: &Path) -> Result<Self> {
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("{}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("starting {}", command.get_program().display()))?;
        watchdog::adopt(child.id())?;
        Ok(Self { child, log: log.to_owned() })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// When the system cannot tell.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// How it ended, at the latest after `limit`.
    ///
    /// # Errors
    /// When it did not end.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("the end of process {}", self.id());
        eventually(&what, limit, || self.ended())
    }

    /// Asks it to end (SIGTERM).
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub fn terminate(&self) -> Result<()> {
        Command::new("kill").arg(self.id().to_string()).status().context("sending SIGTERM")?;
        Ok(())
    }

    /// Ends it at once (SIGKILL) and waits.
    pub fn kill(&mut self) {
        // An error means that it has ended already, which is what was asked for.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = watchdog::release(self.child.id());
    }

    /// Everything it has written so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
