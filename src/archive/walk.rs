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

/// Asked for a name on the way that is missing (no `Stat`), or neither a directory nor a symlink to one; returns whether it
/// has made a directory of it. If not, a symlink is followed, and asked for is what it lacks.
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

/// Opens the directory that `path` leads to, or what `make` makes of it.
pub(super) fn open(root: BorrowedFd<'_>, path: &[u8], mut make: Option<Make<'_>>) -> Result<OwnedFd> {
    let device = fs::stat_fd(root)?.device;
    let mut here = fs::open_dir_at(root, ".")?;
    // The names from the root to `here`, none of them a symlink.
    let mut real: Vec<Vec<u8>> = Vec::new();
    let mut pending: Vec<Vec<u8>> = reversed(path);
    let mut symlinks = 0;
    // A search alone asks nobody, and never looks where a symlink leads but by following it.
    let searching = make.is_none();
    let mut ask = |dir: &OwnedFd, name: &[u8], stat: Option<&Stat>| match make.as_mut() {
        Some(make) => make(dir.as_fd(), name, stat),
        None => Ok(false),
    };
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
                if !ask(&here, &name, None)? {
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
                    if !searching && !leads_to_directory(root, &real, &text)? && ask(&here, &name, Some(&stat))? {
                        pending.push(name);
                        continue;
                    }
                    if text.starts_with(b"/") {
                        real.clear();
                        here = fs::open_dir_at(root, ".")?;
                    }
                    pending.extend(reversed(&text));
                } else if ask(&here, &name, Some(&stat))? {
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
fn leads_to_directory(root: BorrowedFd<'_>, real: &[Vec<u8>], text: &[u8]) -> Result<bool> {
    let mut path = if text.starts_with(b"/") { Vec::new() } else { real.join(&b'/') };
    path.push(b'/');
    path.extend_from_slice(text);
    match open(root, &path, None) {
        Ok(_) => Ok(true),
        Err(e) if can_be_made(&e) || e.errno() == ELOOP => Ok(false),
        Err(e) => Err(e),
    }
}

fn reversed(path: &[u8]) -> Vec<Vec<u8>> {
    path.rsplit(|byte| *byte == b'/').map(<[u8]>::to_vec).collect()
}
