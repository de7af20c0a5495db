//! Resolving a path of the layer name by name: to make the directories that are missing, and to find those that exist where
//! the kernel has no `openat2` (before Linux 5.6) or the path is too long for it.
//!
//! Every step opens one name of an open directory and follows no symlink; symlinks are read and resolved here, `..` by
//! walking down again from the root. Nothing outside the root can be reached, whoever moves what meanwhile.

use crate::error::{Error, Result};
use crate::sys::fs::{self, FileKind, Stat, shown};
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// Asked for a name that is missing (no `Stat`), or neither directory nor symlink, on the way; returns whether it has made a
/// directory of it.
pub(super) type Make<'m> = &'m mut dyn FnMut(BorrowedFd<'_>, &[u8], Option<&Stat>) -> Result<bool>;

/// Symlinks followed for one path at most: the kernel's own number (`MAXSYMLINKS`, path_resolution(7)).
const SYMLINKS: u32 = 40;

const ENOENT: i32 = 2;
const EXDEV: i32 = 18;
const ENOTDIR: i32 = 20;
const ELOOP: i32 = 40;

/// Whether a failure to open a path may be cured by making directories.
pub(super) fn can_be_made(error: &Error) -> bool {
    [ENOENT, ENOTDIR].contains(&error.errno())
}

fn failed(path: &[u8], errno: i32) -> Error {
    Error::sys(format!("open directory '{}'", shown(OsStr::from_bytes(path))), errno)
}

/// Opens the directory that `path` leads to.
pub(super) fn open(root: BorrowedFd<'_>, path: &[u8], make: Make<'_>) -> Result<OwnedFd> {
    let device = fs::stat_fd(root)?.device;
    let mut here = fs::open_dir_at(root, ".")?;
    // The names from the root to `here`, none of them a symlink.
    let mut real: Vec<Vec<u8>> = Vec::new();
    let mut pending: Vec<Vec<u8>> = reversed(path);
    let mut symlinks = 0;
    while let Some(name) = pending.pop() {
        match name.as_slice() {
            b"" | b"." => continue,
            b".." => {
                real.pop();
                here = fs::open_dir_at(root, ".")?;
                for name in &real {
                    here = fs::open_dir_at(&here, OsStr::from_bytes(name))?;
                }
                continue;
            }
            _ => {}
        }
        match fs::open_dir_at(&here, OsStr::from_bytes(&name)) {
            Ok(dir) if fs::stat_fd(&dir)?.device != device => return Err(failed(path, EXDEV)),
            Ok(dir) => {
                here = dir;
                real.push(name);
            }
            Err(e) if e.errno() == ENOENT => {
                if !make(here.as_fd(), &name, None)? {
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
                    if text.starts_with(b"/") {
                        real.clear();
                        here = fs::open_dir_at(root, ".")?;
                    }
                    pending.extend(reversed(&text));
                } else if make(here.as_fd(), &name, Some(&stat))? {
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

fn reversed(path: &[u8]) -> Vec<Vec<u8>> {
    path.rsplit(|byte| *byte == b'/').map(<[u8]>::to_vec).collect()
}
