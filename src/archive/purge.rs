//! Whiteouts in a plain directory tree: deleting what was there before this layer, and nothing of this layer.

use super::dirs::Dir;
use super::plan::Owner;
use crate::error::Result;
use crate::error::errno::ENOTEMPTY;
use crate::sys::fs::{self, FileKind};
use crate::sys::place::{self, Time};
use crate::sys::subdir;
use crate::tree::{self, Next, Visitor};
use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::ffi::OsStr;
use std::hash::BuildHasher;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

/// Remembers what this layer has placed, as far as a whiteout could hit it: names in directories that were there before.
/// Eight bytes for each of those, for each new directory, and for each one that was purged; nothing when `on` is false.
pub(super) struct Placed {
    on: bool,
    keyed: RandomState,
    names: HashSet<u64>,
    new_dirs: HashSet<u64>,
    /// Directories that have been purged and are still there: no more of the lower layers will ever be in them. None is gone
    /// through twice, whatever markers the archive repeats or nests.
    purged: HashSet<u64>,
}

impl Placed {
    pub(super) fn new(on: bool) -> Placed {
        Placed { on, keyed: RandomState::new(), names: HashSet::new(), new_dirs: HashSet::new(), purged: HashSet::new() }
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

    /// Whether nothing in a directory or below it can be a lower layer's.
    fn holds_no_lower(&self, inode: u64) -> bool {
        self.new_dirs.contains(&inode) || self.purged.contains(&inode)
    }

    /// Whether a name that exists is a lower layer's.
    pub(super) fn is_lower(&self, dir: BorrowedFd<'_>, name: &[u8]) -> Result<bool> {
        if !self.on {
            return Ok(false);
        }
        let inode = fs::stat_fd(dir)?.inode;
        Ok(!self.new_dirs.contains(&inode) && !self.names.contains(&self.key(inode, name)))
    }

    /// Deletes a name of the lower layers with everything below it. Says whether directories of theirs had to stay for what
    /// this layer has in them: they are then such as no entry describes, and belong to `implied`.
    pub(super) fn remove(&mut self, dir: &Dir, name: &[u8], implied: Owner, stop: &dyn Fn() -> bool) -> Result<bool> {
        if self.holds_no_lower(dir.inode) {
            return Ok(false);
        }
        let name = OsStr::from_bytes(name);
        let mut purge = Purge::new(self, implied);
        purge.go_into(dir.as_fd())?;
        match fs::stat_at(dir, name) {
            Err(e) if fs::is_absent(&e) => return Ok(false),
            Err(e) => return Err(e),
            Ok(stat) if stat.kind != FileKind::Dir => purge.file(dir.as_fd(), name)?,
            Ok(_) if purge.done_already(dir.as_fd(), name)? => {}
            Ok(_) => {
                tree::walk(subdir::open_same_mount(dir, name)?, &mut purge, stop)?;
                purge.leave(dir.as_fd(), Some(name))?;
            }
        }
        Ok(purge.reset)
    }

    /// Deletes everything of the lower layers in a directory. Says what [`Placed::remove`] says.
    pub(super) fn empty(&mut self, dir: &Dir, implied: Owner, stop: &dyn Fn() -> bool) -> Result<bool> {
        if self.holds_no_lower(dir.inode) {
            return Ok(false);
        }
        let mut purge = Purge::new(self, implied);
        tree::walk(fs::open_dir_at(dir, ".")?, &mut purge, stop)?;
        Ok(purge.reset)
    }
}

/// Deletes what the layer has not placed.
struct Purge<'p> {
    placed: &'p mut Placed,
    implied: Owner,
    /// Inode and modification time of the directories on the way down.
    way: Vec<(u64, Time)>,
    reset: bool,
}

impl<'p> Purge<'p> {
    fn new(placed: &'p mut Placed, implied: Owner) -> Purge<'p> {
        Purge { placed, implied, way: Vec::new(), reset: false }
    }

    fn go_into(&mut self, dir: BorrowedFd<'_>) -> Result<u64> {
        let inode = fs::stat_fd(dir)?.inode;
        self.way.push((inode, place::modification_time(dir)?));
        Ok(inode)
    }

    /// Keeps a directory for what the layer has in it.
    fn keep(&mut self, dir: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd> {
        let kept = fs::open_dir_at(dir, name)?;
        if !self.has_placed(name) {
            self.reset = true;
            super::describe::implied(&kept, self.implied)?;
        }
        Ok(kept)
    }

    /// Whether the layer has placed this name of the directory that is being visited.
    fn has_placed(&self, name: &OsStr) -> bool {
        self.way.last().is_some_and(|(dir, _)| self.placed.names.contains(&self.placed.key(*dir, name.as_bytes())))
    }
}

impl Visitor for Purge<'_> {
    fn file(&mut self, dir: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
        if self.has_placed(name) { Ok(()) } else { tree::delete_file(dir, name) }
    }

    /// Nothing of the lower layers is in directories that the layer has made, nor in those that were purged before.
    fn done_already(&mut self, dir: BorrowedFd<'_>, name: &OsStr) -> Result<bool> {
        let inode = match fs::stat_at(dir, name) {
            Err(e) if fs::is_absent(&e) => return Ok(true),
            stat => stat?.inode,
        };
        if self.placed.new_dirs.contains(&inode) || (!self.has_placed(name) && fs::remove_dir_at(dir, name).is_ok()) {
            return Ok(true);
        }
        let purged = self.placed.purged.contains(&inode);
        if purged {
            self.keep(dir, name)?;
        }
        Ok(purged)
    }

    fn enter(&mut self, dir: BorrowedFd<'_>) -> Result<()> {
        let inode = self.go_into(dir)?;
        self.placed.purged.insert(inode);
        Ok(())
    }

    /// What cannot go because the layer has something in it stays, with the time that it had.
    fn leave(&mut self, dir: BorrowedFd<'_>, name: Option<&OsStr>) -> Result<Next> {
        let (inode, mtime) = self.way.pop().unwrap_or((0, Time::KEEP));
        let Some(name) = name else { return Ok(Next::On) };
        let gone = if self.has_placed(name) { Ok(false) } else { tree::delete_dir(dir, name).map(|()| true) };
        match gone {
            // Not to be remembered any more, so that memory is for those that stay.
            Ok(true) => drop(self.placed.purged.remove(&inode)),
            Err(e) if e.errno() != ENOTEMPTY => return Err(e),
            _ => place::set_times(self.keep(dir, name)?, Time::KEEP, mtime)?,
        }
        Ok(Next::On)
    }

    fn mount_point(&mut self, name: &OsStr) -> Result<()> {
        Err(tree::mounted(name))
    }
}
