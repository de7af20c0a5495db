//! Resolving a path of the layer name by name: to make the directories that are missing, and to find those that exist where
//! the kernel has no `openat2` (before Linux 5.6) or the path is too long for it.
//!
//! Every step opens one name of an open directory and follows no symlink; symlinks are read and resolved here. `..` is opened
//! too, and must be the directory that the walk came through; if it is not, because somebody moved one, the walk goes down
//! again from the root. Nothing outside the root can be reached, whoever moves what meanwhile.

use super::limits::{FREE_NAMES, Limits};
use crate::error::errno::{ELOOP, ENOENT, ENOTDIR};
use crate::error::{Error, Kind, Result};
use crate::sys::fs::{self, FileKind, Stat, shown};
use crate::sys::subdir;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// Asked for a name on the way that is missing (no `Stat`), or neither a directory nor a symlink to one; returns whether it
/// has made a directory of it. If not, a symlink is followed, and asked for is what it lacks.
pub(super) type Make<'m> = &'m mut dyn FnMut(&Spot<'_>, Option<&Stat>) -> Result<bool>;

/// A name on the way.
pub(super) struct Spot<'a> {
    pub(super) dir: BorrowedFd<'a>,
    pub(super) name: &'a [u8],
    /// The directories on the way from the root to `dir`, with their inodes; none of them is a symlink.
    passed: &'a [Passed],
}

impl Spot<'_> {
    /// The path of `dir` from the root.
    pub(super) fn parent(&self) -> Vec<Vec<u8>> {
        self.passed.iter().map(|(name, _)| name.clone()).collect()
    }
}

/// Symlinks followed for one path at most: the kernel's own number (`MAXSYMLINKS`, path_resolution(7)).
const SYMLINKS: u32 = 40;

/// Names gone through for one path at most, those of its symlinks included: four times what the longest path has.
const STEPS: u32 = 4 * 4096;

/// Whether a failure to open a path may be cured by making directories.
pub(super) fn can_be_made(error: &Error) -> bool {
    [ENOENT, ENOTDIR].contains(&error.errno())
}

fn failed(path: &[u8], errno: i32) -> Error {
    Error::sys(format!("open directory '{}'", shown(OsStr::from_bytes(path))), errno)
}

/// Counts the names that the paths of a layer make the walk go through.
pub(super) struct Steps {
    /// For one path.
    path: u32,
    /// For all of them, how many there may still be.
    left: u64,
    /// What each path adds to that, beside its own names.
    symlinks: u32,
}

impl Steps {
    pub(super) fn new(limits: &Limits) -> Steps {
        Steps { path: 0, left: FREE_NAMES, symlinks: limits.symlinks }
    }

    /// Another path begins. Its own names are paid for by the archive, which holds them; twice, because those that are made are
    /// gone through again.
    fn begin(&mut self, path: &[u8]) {
        let names = path.split(|byte| *byte == b'/').count() as u64;
        self.left = self.left.saturating_add(2 * names + u64::from(self.symlinks));
        self.path = 0;
    }

    fn count(&mut self) -> Result<()> {
        self.path += 1;
        if self.path > STEPS {
            return Err(Error::new(Kind::Limit, format!("limit 'path': symlinks make more than {STEPS} names of a path")));
        }
        self.left = self.left.checked_sub(1).ok_or_else(|| {
            let text = format!("limit 'symlinks': symlinks make more than {} names more of each path", self.symlinks);
            Error::new(Kind::Limit, text)
        })?;
        Ok(())
    }
}

/// Opens the directory that `path` leads to, or what `make` makes of it.
pub(super) fn open(root: BorrowedFd<'_>, path: &[u8], make: Option<Make<'_>>, steps: &mut Steps) -> Result<OwnedFd> {
    steps.begin(path);
    resolve(root, path, make, steps)
}

/// A directory on the way from the root: its name, which is no symlink's, and its inode.
type Passed = (Vec<u8>, u64);

/// The parent of `here`, the last of which in `real` has just been taken off.
fn climb(root: BorrowedFd<'_>, here: &OwnedFd, device: u64, root_inode: u64, real: &[Passed]) -> Result<OwnedFd> {
    let expected = real.last().map_or(root_inode, |(_, inode)| *inode);
    // Looked at before it is opened: what is above a directory that was moved is not touched.
    let above = fs::stat_at(here, "..")?;
    if (above.device, above.inode) == (device, expected) {
        let parent = fs::open_dir_at(here, "..")?;
        let found = fs::stat_fd(&parent)?;
        if (found.device, found.inode) == (device, expected) {
            return Ok(parent);
        }
    }
    let mut here = fs::open_dir_at(root, ".")?;
    for (name, _) in real {
        here = subdir::open_same_mount(&here, OsStr::from_bytes(name))?;
    }
    Ok(here)
}

fn resolve(root: BorrowedFd<'_>, path: &[u8], mut make: Option<Make<'_>>, steps: &mut Steps) -> Result<OwnedFd> {
    let top = fs::stat_fd(root)?;
    let device = top.device;
    let mut here = fs::open_dir_at(root, ".")?;
    let mut real: Vec<Passed> = Vec::new();
    let mut pending: Vec<Vec<u8>> = reversed(path);
    let mut symlinks = 0;
    // A search alone asks nobody, and never looks where a symlink leads but by following it.
    let searching = make.is_none();
    let mut ask = |dir: &OwnedFd, name: &[u8], passed: &[Passed], stat: Option<&Stat>| match make.as_mut() {
        Some(make) => make(&Spot { dir: dir.as_fd(), name, passed }, stat),
        None => Ok(false),
    };
    while let Some(name) = pending.pop() {
        steps.count()?;
        match name.as_slice() {
            b"" | b"." => continue,
            b".." => {
                // The root is its own parent.
                if real.pop().is_some() {
                    here = climb(root, &here, device, top.inode, &real)?;
                }
                continue;
            }
            _ => {}
        }
        match subdir::open_same_mount(&here, OsStr::from_bytes(&name)) {
            Ok(dir) => {
                real.push((name, fs::stat_fd(&dir)?.inode));
                here = dir;
            }
            Err(e) if e.errno() == ENOENT => {
                if !ask(&here, &name, &real, None)? {
                    return Err(failed(path, ENOENT));
                }
                pending.push(name);
            }
            Err(e) if [ENOTDIR, ELOOP].contains(&e.errno()) => {
                let stat = fs::stat_at(&here, OsStr::from_bytes(&name))?;
                if stat.kind == FileKind::Symlink {
                    symlinks += 1;
                    if symlinks > SYMLINKS {
                        return Err(failed(path, ELOOP));
                    }
                    let text = fs::read_link_at(&here, OsStr::from_bytes(&name))?.into_vec();
                    if !searching
                        && !leads_to_directory(root, &real, &text, steps)?
                        && ask(&here, &name, &real, Some(&stat))?
                    {
                        pending.push(name);
                        continue;
                    }
                    if text.starts_with(b"/") {
                        real.clear();
                        here = fs::open_dir_at(root, ".")?;
                    }
                    pending.extend(reversed(&text));
                } else if ask(&here, &name, &real, Some(&stat))? {
                    pending.push(name);
                } else {
                    return Err(failed(path, ENOTDIR));
                }
            }
            Err(e) => return Err(e),
        }
    }
    Ok(here)
}

/// Whether a symlink with this text, in the directory with these names, leads to a directory as things are.
fn leads_to_directory(root: BorrowedFd<'_>, real: &[Passed], text: &[u8], steps: &mut Steps) -> Result<bool> {
    let mut path = Vec::new();
    for (name, _) in real.iter().filter(|_| !text.starts_with(b"/")) {
        path.extend_from_slice(name);
        path.push(b'/');
    }
    path.extend_from_slice(text);
    match resolve(root, &path, None, steps) {
        Ok(_) => Ok(true),
        Err(e) if can_be_made(&e) || e.errno() == ELOOP => Ok(false),
        Err(e) => Err(e),
    }
}

fn reversed(path: &[u8]) -> Vec<Vec<u8>> {
    path.rsplit(|byte| *byte == b'/').map(<[u8]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_up_costs_no_more_than_the_way_down_and_both_are_bounded() {
        let path = std::env::temp_dir().join(format!("graphdriver-walk-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(path.join("a/b")).unwrap();
        let root = fs::open_dir(&path).unwrap();
        let steps = |text: &str| {
            let mut steps = Steps::new(&Limits::default());
            let opened = open(root.as_fd(), text.as_bytes(), None, &mut steps);
            opened.map(|dir| (fs::stat_fd(&dir).unwrap().inode, steps.path))
        };
        let b = fs::stat_fd(fs::open_dir(&path.join("a/b")).unwrap()).unwrap().inode;
        assert_eq!(steps("a/b/../../a/b/../../../../a/b").unwrap(), (b, 12));
        // Twelve symlinks, each of which goes up and down its 4000 bytes' worth, and leads to the next.
        for n in 0..12 {
            let text = format!("{}l{}", "../a/".repeat(800), n + 1);
            std::os::unix::fs::symlink(text, path.join(format!("a/l{n}"))).unwrap();
        }
        std::os::unix::fs::symlink("b", path.join("a/l12")).unwrap();
        assert_eq!(steps("a/l10").unwrap().0, b);
        assert_eq!(steps("a/l0").unwrap_err().kind(), Kind::Limit);
        std::fs::remove_dir_all(&path).unwrap();
    }
}
