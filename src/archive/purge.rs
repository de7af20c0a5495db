//! Whiteouts in a plain directory tree: deleting what was there before this layer, and nothing of this layer.

use super::dirs::Dir;
use crate::error::Result;
use crate::sys::fs::{self, FileKind};
use crate::tree;
use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::ffi::OsStr;
use std::hash::BuildHasher;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

/// Remembers what this layer has placed, as far as a whiteout could hit it: names in directories that were there before.
/// Eight bytes for each of those and for each new directory; nothing when `on` is false.
pub(super) struct Placed {
    on: bool,
    keyed: RandomState,
    names: HashSet<u64>,
    new_dirs: HashSet<u64>,
}

impl Placed {
    pub(super) fn new(on: bool) -> Placed {
        Placed { on, keyed: RandomState::new(), names: HashSet::new(), new_dirs: HashSet::new() }
    }

    fn key(&self, dir: u64, name: &[u8]) -> u64 {
        self.keyed.hash_one((dir, name))
    }

    /// A name is being placed.
    pub(super) fn note(&mut self, dir: &Dir, name: &[u8]) {
        if self.on && !self.new_dirs.contains(&dir.inode) {
            self.names.insert(self.key(dir.inode, name));
        }
    }

    /// A directory was made.
    pub(super) fn note_new_dir(&mut self, dir: BorrowedFd<'_>) -> Result<()> {
        if self.on {
            self.new_dirs.insert(fs::stat_fd(dir)?.inode);
        }
        Ok(())
    }

    /// A directory that no entry describes was made in `parent`.
    pub(super) fn note_made(&mut self, parent: BorrowedFd<'_>, name: &[u8], dir: BorrowedFd<'_>) -> Result<()> {
        if self.on {
            let inode = fs::stat_fd(parent)?.inode;
            if !self.new_dirs.contains(&inode) {
                self.names.insert(self.key(inode, name));
            }
        }
        self.note_new_dir(dir)
    }

    /// Whether a name that exists is a lower layer's.
    pub(super) fn is_lower(&self, dir: BorrowedFd<'_>, name: &[u8]) -> Result<bool> {
        if !self.on {
            return Ok(false);
        }
        let inode = fs::stat_fd(dir)?.inode;
        Ok(!self.new_dirs.contains(&inode) && !self.names.contains(&self.key(inode, name)))
    }

    /// Deletes a name of the lower layers with everything below it.
    pub(super) fn remove(&self, dir: &Dir, name: &[u8]) -> Result<()> {
        if self.new_dirs.contains(&dir.inode) {
            return Ok(());
        }
        self.remove_in(dir.as_fd(), dir.inode, OsStr::from_bytes(name)).map(drop)
    }

    /// Deletes everything of the lower layers in a directory.
    pub(super) fn empty(&self, dir: &Dir) -> Result<()> {
        if self.new_dirs.contains(&dir.inode) { Ok(()) } else { self.empty_in(dir.as_fd(), dir.inode).map(drop) }
    }

    /// Whether the name is gone.
    fn remove_in(&self, dir: BorrowedFd<'_>, inode: u64, name: &OsStr) -> Result<bool> {
        let placed = self.names.contains(&self.key(inode, name.as_bytes()));
        match fs::stat_at(dir, name) {
            Err(e) if fs::is_absent(&e) => Ok(true),
            Err(e) => Err(e),
            Ok(stat) if stat.kind != FileKind::Dir => {
                if !placed {
                    fs::remove_file_at(dir, name)?;
                }
                Ok(!placed)
            }
            Ok(stat) if self.new_dirs.contains(&stat.inode) => Ok(false),
            Ok(_) if self.names.is_empty() => tree::remove(dir, name).map(|()| true),
            Ok(stat) => {
                let below = fs::open_dir_at(dir, name)?;
                let gone = self.empty_in(below.as_fd(), stat.inode)? && !placed;
                if gone {
                    fs::remove_dir_at(dir, name)?;
                }
                Ok(gone)
            }
        }
    }

    /// Whether the directory is empty now.
    fn empty_in(&self, dir: BorrowedFd<'_>, inode: u64) -> Result<bool> {
        let mut names = Vec::new();
        fs::each_entry(dir, |entry| {
            names.push(entry.name);
            Ok(())
        })?;
        let mut empty = true;
        for name in names {
            empty &= self.remove_in(dir, inode, &name)?;
        }
        Ok(empty)
    }
}
