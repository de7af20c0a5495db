//! Open directories of the layer: every path of the archive is resolved here, once, to a descriptor.

use super::limits::Limits;
use super::plan::Owner;
use super::walk;
use crate::error::Result;
use crate::error::errno::{EACCES, ERANGE};
use crate::sys::fs::{self, Stat};
use crate::sys::place::{self, Time};
use crate::sys::{openat2, xattr};
use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

/// Directories held open at most, the root not counted.
const OPEN: usize = 24;

/// An open directory.
pub(super) struct Dir {
    fd: OwnedFd,
    pub(super) inode: u64,
    /// The times it gets back when it is put away: what is placed in it must not change them.
    pub(super) times: Cell<(Time, Time)>,
    pub(super) changed: Cell<bool>,
    /// New files have the mode they are made with, and get neither group nor ACL from it.
    pub(super) plain: Cell<bool>,
    /// Whom new files belong to, once one was looked at: where a mount option (`grpid`) or the directory says so, not to the group
    /// of the thread.
    pub(super) given: Cell<Option<Owner>>,
    /// It is marked as one that may hold whiteouts.
    pub(super) whiteouts: Cell<bool>,
    used: Cell<u64>,
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

const SETGID: u32 = 0o2000;
/// The bits of a mode that are no file type.
pub(super) const PERMISSIONS: u32 = 0o7777;

impl Dir {
    fn new(fd: OwnedFd, inode: u64) -> Result<Dir> {
        let mtime = place::modification_time(&fd)?;
        let dir = Dir {
            fd,
            inode,
            times: Cell::new((Time::KEEP, mtime)),
            changed: Cell::new(false),
            plain: Cell::new(true),
            given: Cell::new(None),
            whiteouts: Cell::new(false),
            used: Cell::new(0),
        };
        dir.look()?;
        Ok(dir)
    }

    /// Finds out anew whether new files inherit something.
    pub(super) fn look(&self) -> Result<()> {
        self.given.set(None);
        self.plain.set(!hands_down(&self.fd)?);
        Ok(())
    }

    /// What the kernel makes of new files in here, as the first of them shows: one call for a directory, none for a file.
    /// `mode` is what it was made with, where that says something.
    pub(super) fn given(&self, mode: Option<u32>, first: impl FnOnce() -> Result<Stat>) -> Result<Owner> {
        if let Some(owner) = self.given.get() {
            return Ok(owner);
        }
        let stat = first()?;
        if mode.is_some_and(|mode| mode != stat.mode & PERMISSIONS) {
            self.plain.set(false);
        }
        let owner = Owner { uid: stat.uid, gid: stat.gid };
        self.given.set(Some(owner));
        Ok(owner)
    }

    fn put_away(&self) -> Result<()> {
        if self.changed.replace(false) {
            let (access, modification) = self.times.get();
            place::set_times(&self.fd, access, modification)?;
        }
        Ok(())
    }
}

/// Whether what is made in a directory gets its group or an ACL from it.
pub(super) fn hands_down(dir: impl AsFd) -> Result<bool> {
    let setgid = fs::stat_fd(&dir)?.mode & SETGID != 0;
    match xattr::get::<4>(&dir, "system.posix_acl_default") {
        Ok(_) => Ok(true),
        Err(e) if xattr::is_absent(&e) => Ok(setgid),
        // It is there, and longer than asked for.
        Err(e) if e.errno() == ERANGE => Ok(true),
        Err(e) => Err(e),
    }
}

/// The open directories, by inode and by the paths that led to them.
pub(super) struct Dirs {
    root: Rc<Dir>,
    open: Vec<Rc<Dir>>,
    paths: Vec<(Vec<u8>, Rc<Dir>)>,
    steps: walk::Steps,
    clock: u64,
}

impl Dirs {
    pub(super) fn new(root: OwnedFd, limits: &Limits) -> Result<Dirs> {
        let inode = fs::stat_fd(&root)?.inode;
        let root = Rc::new(Dir::new(root, inode)?);
        Ok(Dirs { root, open: Vec::new(), paths: Vec::new(), steps: walk::Steps::new(limits), clock: 0 })
    }

    pub(super) fn root(&self) -> Rc<Dir> {
        Rc::clone(&self.root)
    }

    fn touch(&mut self, dir: &Dir) {
        self.clock += 1;
        dir.used.set(self.clock);
    }

    /// The directory that `path` leads to. `make` is asked where something is missing or in the way.
    pub(super) fn get(&mut self, path: &[u8], make: Option<walk::Make<'_>>) -> Result<Rc<Dir>> {
        if path.is_empty() {
            return Ok(self.root());
        }
        if let Some((_, dir)) = self.paths.iter().rev().find(|(known, _)| known == path) {
            let dir = Rc::clone(dir);
            self.touch(&dir);
            return Ok(dir);
        }
        let root = Rc::clone(&self.root);
        let mut walk = |make: Option<walk::Make<'_>>| walk::open(root.as_fd(), path, make, &mut self.steps);
        let found = match openat2::open_in_root(root.as_fd(), path) {
            Ok(Some(fd)) => Ok(fd),
            Ok(None) => walk(None),
            // With fs.protected_symlinks the kernel looks at no link of others in a sticky directory; the walk reads it.
            Err(e) if e.errno() == EACCES => walk(None),
            Err(e) => Err(e),
        };
        let fd = match found {
            Err(e) if walk::can_be_made(&e) && make.is_some() => walk(make)?,
            found => found?,
        };
        self.add(path.to_vec(), fd)
    }

    /// Remembers an open directory and the path that led to it.
    pub(super) fn add(&mut self, path: Vec<u8>, fd: OwnedFd) -> Result<Rc<Dir>> {
        let inode = fs::stat_fd(&fd)?.inode;
        let known = std::iter::once(&self.root).chain(&self.open).find(|dir| dir.inode == inode);
        let dir = match known {
            Some(dir) => Rc::clone(dir),
            None => {
                self.make_room()?;
                let dir = Rc::new(Dir::new(fd, inode)?);
                self.open.push(Rc::clone(&dir));
                dir
            }
        };
        self.touch(&dir);
        if self.paths.len() >= 2 * OPEN {
            self.paths.remove(0);
        }
        self.paths.push((path, Rc::clone(&dir)));
        Ok(dir)
    }

    fn make_room(&mut self) -> Result<()> {
        if self.open.len() < OPEN {
            return Ok(());
        }
        let oldest = self.open.iter().enumerate().min_by_key(|(_, dir)| dir.used.get()).map_or(0, |(index, _)| index);
        let dir = self.open.swap_remove(oldest);
        self.paths.retain(|(_, known)| !Rc::ptr_eq(known, &dir));
        dir.put_away()
    }

    /// Forgets what paths lead to, because a directory or a symlink was removed.
    pub(super) fn forget_paths(&mut self) {
        self.paths.clear();
    }

    /// Finds out anew, for every directory, whether new files inherit something.
    pub(super) fn look_again(&self) -> Result<()> {
        self.open.iter().try_for_each(|dir| dir.look())
    }

    /// Gives every directory its times.
    pub(super) fn finish(self) -> Result<()> {
        for dir in self.open.iter().chain(std::iter::once(&self.root)) {
            dir.put_away()?;
        }
        Ok(())
    }
}
