//! A disk that can be watched and broken: a shim between a real process and its files, compiled on the spot.
//!
//! The tape that it writes has every change of a folder in order, and from the tape any disk can be made that
//! a loss of power at any moment could have left: of what was never synced, some may be there and some not.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use rand::Rng as _;
use rand::rngs::StdRng;
use tempfile::TempDir;

/// The shim, and the files by which it is told what to do.
pub struct Disk {
    folder: TempDir,
}

/// Everything that happened to a folder, in order.
pub struct Tape {
    changes: Vec<Change>,
    /// How long the tape was after each change, in bytes.
    ends: Vec<u64>,
}

/// What became of a file or of names in a folder.
#[derive(Debug, Clone)]
enum Change {
    Create(PathBuf),
    Write(PathBuf, u64, Vec<u8>),
    Resize(PathBuf, u64),
    Sync(PathBuf),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

/// Which of the changes that were never synced a disk has.
pub enum Kept<'a> {
    /// None of them.
    None,
    /// All of them, as after a kill.
    All,
    /// Each with a chance of one half.
    Some(&'a mut StdRng),
}

/// A disk while it is made: names, and what is under them.
#[derive(Default)]
struct Making {
    names: BTreeMap<PathBuf, usize>,
    files: Vec<Vec<u8>>,
}

/// A change by what it changes: a file by its number, or names in a folder.
enum Step<'a> {
    File(usize, &'a Change),
    Names(&'a Change, usize),
}

impl Disk {
    /// Compiles the shim.
    ///
    /// # Errors
    /// When there is no C compiler, or it fails; the message names it.
    pub fn new() -> Result<Self> {
        let folder = TempDir::with_prefix("la-router-disk-")?;
        let source = folder.path().join("shim.c");
        std::fs::write(&source, include_str!("disk/shim.c"))?;
        let mut compiler = Command::new("cc");
        compiler.args(["-O1", "-shared", "-fPIC", "-o"]).arg(folder.path().join("shim.so"));
        let output =
            compiler.arg(&source).arg("-ldl").output().context("cc, the C compiler, cannot be run")?;
        ensure!(output.status.success(), "cc: {}", String::from_utf8_lossy(&output.stderr));
        Ok(Self { folder })
    }

    /// What a process must have in its environment whose changes of `dir` are to be taped.
    pub fn environment(&self, dir: &str) -> Vec<(&'static str, String)> {
        let place = |name: &str| self.folder.path().join(name).display().to_string();
        vec![
            ("LD_PRELOAD", place("shim.so")),
            ("LA_DISK_DIR", dir.to_owned()),
            ("LA_DISK_TAPE", place("tape")),
            ("LA_DISK_BAD", place("bad")),
            ("LA_DISK_READONLY", place("read-only")),
        ]
    }

    /// What a process must have in its environment that is to believe in another boot of the machine.
    ///
    /// # Errors
    /// When the file of the boot's id cannot be written.
    pub fn other_boot(&self) -> Result<Vec<(&'static str, String)>> {
        let boot = self.folder.path().join("boot");
        std::fs::write(&boot, "another-boot\n")?;
        let shim = self.folder.path().join("shim.so");
        Ok(vec![("LD_PRELOAD", shim.display().to_string()), ("LA_DISK_BOOT", boot.display().to_string())])
    }

    /// Lets every sync fail, or none.
    ///
    /// # Errors
    /// When the file that says so cannot be written or removed.
    pub fn fail_syncs(&self, fail: bool) -> Result<()> {
        self.say("bad", fail)
    }

    /// How many syncs have failed since they were to.
    pub fn failed_syncs(&self) -> u64 {
        std::fs::metadata(self.folder.path().join("bad")).map_or(0, |meta| meta.len())
    }

    /// Refuses every change of the folder as a file system does that was mounted anew for reading only, or none.
    ///
    /// # Errors
    /// As [`Disk::fail_syncs`].
    pub fn read_only(&self, is: bool) -> Result<()> {
        self.say("read-only", is)
    }

    fn say(&self, name: &str, is: bool) -> Result<()> {
        let file = self.folder.path().join(name);
        if is {
            std::fs::write(file, "")?
        } else {
            std::fs::remove_file(file)?
        }
        Ok(())
    }

    /// How long the tape is now, in bytes.
    pub fn taped_bytes(&self) -> u64 {
        std::fs::metadata(self.folder.path().join("tape")).map_or(0, |meta| meta.len())
    }

    /// What is on the tape.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn tape(&self) -> Result<Tape> {
        Tape::read(&std::fs::read(self.folder.path().join("tape"))?).context("the tape is torn")
    }
}

impl Tape {
    fn read(bytes: &[u8]) -> Option<Self> {
        let (mut changes, mut ends, mut rest) = (Vec::new(), Vec::new(), bytes);
        while !rest.is_empty() {
            let (head, body) = rest.split_first_chunk::<17>()?;
            let number = |at: usize| head.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes);
            let offset = u64::from_le_bytes(head.get(9..)?.try_into().ok()?);
            let (path, body) = body.split_at_checked(number(1)? as usize)?;
            let (data, after) = body.split_at_checked(number(5)? as usize)?;
            let name = |bytes: &[u8]| Some(PathBuf::from(std::str::from_utf8(bytes).ok()?));
            let path = name(path)?;
            changes.push(match head[0] {
                1 => Change::Create(path),
                2 => Change::Write(path, offset, data.to_vec()),
                3 => Change::Resize(path, offset),
                4 => Change::Sync(path),
                5 => Change::Rename(path, name(data)?),
                6 => Change::Remove(path),
                _ => return None,
            });
            rest = after;
            ends.push((bytes.len() - rest.len()) as u64);
        }
        Some(Self { changes, ends })
    }

    /// How many changes there are.
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Whether nothing has happened.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// How many changes the tape had when it was `bytes` long.
    pub fn changes_at(&self, bytes: u64) -> usize {
        self.ends.partition_point(|end| *end <= bytes)
    }

    /// Makes in `to` what `from` could be after the first `count` changes and a loss of power.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn disk(&self, count: usize, kept: Kept<'_>, (from, to): (&Path, &Path)) -> Result<()> {
        let steps = self.steps(count);
        let mut making = Making::default();
        let mut chance = chances(kept);
        for (step, is_synced) in steps.iter().zip(synced(&steps)) {
            if is_synced || chance() {
                making.apply(step);
            }
        }
        for (name, file) in making.names {
            let Ok(inner) = name.strip_prefix(from) else { continue };
            let place = to.join(inner);
            std::fs::create_dir_all(place.parent().unwrap_or(to))?;
            std::fs::write(place, making.files.get(file).context("a name without a file")?)?;
        }
        Ok(())
    }

    /// The first `count` changes, each file by a number that its names do not change.
    fn steps(&self, count: usize) -> Vec<Step<'_>> {
        let (mut names, mut next, mut steps) = (BTreeMap::<&Path, usize>::new(), 0, Vec::new());
        for change in self.changes.iter().take(count) {
            match change {
                Change::Create(path) => {
                    names.insert(path, next);
                    steps.push(Step::Names(change, next));
                    next += 1;
                }
                Change::Rename(from, to) => {
                    let Some(file) = names.remove(from.as_path()) else { continue };
                    names.insert(to, file);
                    steps.push(Step::Names(change, file));
                }
                Change::Remove(path) => {
                    let Some(file) = names.remove(path.as_path()) else { continue };
                    steps.push(Step::Names(change, file));
                }
                Change::Write(path, ..) | Change::Resize(path, _) => {
                    steps.extend(names.get(path.as_path()).map(|file| Step::File(*file, change)));
                }
                Change::Sync(path) => match names.get(path.as_path()) {
                    Some(file) => steps.push(Step::File(*file, change)),
                    None => steps.push(Step::Names(change, usize::MAX)),
                },
            }
        }
        steps
    }
}

/// Of each step, whether a sync of the same file, or of the folder of its name, follows.
fn synced(steps: &[Step<'_>]) -> Vec<bool> {
    let (mut files, mut folders) = (BTreeSet::new(), BTreeSet::new());
    let mut is_synced = |step: &Step<'_>| match step {
        Step::File(file, Change::Sync(_)) => {
            files.insert(*file);
            true
        }
        Step::File(file, _) => files.contains(file),
        Step::Names(Change::Create(path) | Change::Rename(_, path) | Change::Remove(path), _) => {
            path.parent().is_some_and(|folder| folders.contains(folder))
        }
        Step::Names(Change::Sync(folder), _) => {
            folders.insert(folder.clone());
            true
        }
        Step::Names(..) => true,
    };
    let mut synced: Vec<bool> = steps.iter().rev().map(&mut is_synced).collect();
    synced.reverse();
    synced
}

fn chances(kept: Kept<'_>) -> Box<dyn FnMut() -> bool + '_> {
    match kept {
        Kept::None => Box::new(|| false),
        Kept::All => Box::new(|| true),
        Kept::Some(dice) => Box::new(move || dice.random()),
    }
}

impl Making {
    fn apply(&mut self, step: &Step<'_>) {
        match step {
            Step::Names(change, file) => match change {
                Change::Create(path) => self.name(path, *file),
                Change::Rename(from, to) => {
                    self.names.remove(from);
                    self.name(to, *file);
                }
                Change::Remove(path) => {
                    self.names.remove(path);
                }
                _ => {}
            },
            Step::File(file, change) => {
                self.grow(*file);
                let Some(content) = self.files.get_mut(*file) else { return };
                match change {
                    Change::Resize(_, len) => content.resize(usize::try_from(*len).unwrap_or(0), 0),
                    Change::Write(_, offset, data) => {
                        let at = usize::try_from(*offset).unwrap_or(0);
                        content.resize(content.len().max(at + data.len()), 0);
                        if let Some(place) = content.get_mut(at..at + data.len()) {
                            place.copy_from_slice(data);
                        }
                    }
                    _ => {}
                }
            }
        }
    }

    fn name(&mut self, path: &Path, file: usize) {
        self.grow(file);
        self.names.insert(path.to_owned(), file);
    }

    fn grow(&mut self, file: usize) {
        self.files.resize_with(self.files.len().max(file + 1), Vec::new);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(tape: &Tape, count: usize, kept: Kept<'_>) -> Vec<(String, String)> {
        let to = TempDir::new().unwrap();
        tape.disk(count, kept, (Path::new("/d"), to.path())).unwrap();
        let mut files: Vec<_> = std::fs::read_dir(to.path())
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| {
                let text = std::fs::read_to_string(entry.path()).unwrap();
                (entry.file_name().to_string_lossy().into_owned(), text)
            })
            .collect();
        files.sort();
        files
    }

    #[test]
    fn disk_has_all_that_was_synced_and_of_the_rest_what_is_kept() {
        let path = |name: &str| PathBuf::from(format!("/d{name}"));
        let changes = vec![
            Change::Create(path("/a.new")),
            Change::Write(path("/a.new"), 0, b"one".to_vec()),
            Change::Sync(path("/a.new")),
            Change::Rename(path("/a.new"), path("/a")),
            Change::Sync(path("")),
            Change::Write(path("/a"), 3, b" two".to_vec()),
            Change::Remove(path("/a")),
        ];
        let tape = Tape { ends: (1..=changes.len() as u64).collect(), changes };
        let file = |name: &str, text: &str| vec![(name.to_owned(), text.to_owned())];
        assert_eq!(files(&tape, 4, Kept::None), [], "no name was synced");
        assert_eq!(files(&tape, 2, Kept::All), file("a.new", "one"));
        assert_eq!(files(&tape, 5, Kept::None), file("a", "one"));
        assert_eq!(files(&tape, 7, Kept::None), file("a", "one"));
        assert_eq!(files(&tape, 6, Kept::All), file("a", "one two"));
        assert_eq!(files(&tape, 7, Kept::All), []);
        assert_eq!((tape.changes_at(0), tape.changes_at(3)), (0, 3));
    }
}
