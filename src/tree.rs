//! Whole directory trees: deleting them and measuring them.
//!
//! Containers can make trees deeper than any path or descriptor limit. The walk therefore keeps a bounded number of directories
//! open on its way down, and comes back up to the others through `..`, checking that it arrives where it came from. It never
//! follows a symlink and never enters a mount. Memory is taken for the names of sub-directories that are still to be visited on
//! the way down, and by measuring for each inode with several names.

use crate::error::errno::{EPERM, EXDEV};
use crate::error::{Context, Error, Kind, Result};
use crate::sys::fs::{self, FileKind, Stat};
use crate::sys::{dirents, inode_flags, subdir};
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What a tree occupies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of disk space allocated.
    pub bytes: u64,
    /// Inodes in use.
    pub inodes: u64,
}

/// Directories kept open on the way down.
const OPEN: usize = 32;

/// What a walk does at each step. Directories are entered before [`Visitor::leave`] is called for them.
pub(crate) trait Visitor {
    /// A name that is not a directory.
    fn file(&mut self, dir: BorrowedFd<'_>, name: &OsStr) -> Result<()>;
    /// A directory that may be done with without being entered; returns whether it is.
    fn done_already(&mut self, dir: BorrowedFd<'_>, name: &OsStr) -> bool;
    /// A directory is about to be listed.
    fn enter(&mut self, dir: BorrowedFd<'_>) -> Result<()>;
    /// Everything below `name` was visited; `dir` is its parent.
    fn leave(&mut self, dir: BorrowedFd<'_>, name: &OsStr) -> Result<()>;
    /// Something is mounted on the directory `name`.
    fn mount_point(&mut self, name: &OsStr) -> Result<()>;
}

/// A directory on the way down.
struct Level {
    place: At,
    name: OsString,
    pending: Vec<OsString>,
}

/// Where a level is: open, or who it was when it was closed for the sake of deeper ones.
enum At {
    Open(OwnedFd),
    Closed(Stat),
}

/// Visits everything in the directory `top` and below it, which itself is entered and not left.
pub(crate) fn walk(top: OwnedFd, visitor: &mut impl Visitor) -> Result<()> {
    let mut levels = Vec::new();
    descend(top, OsString::new(), &mut levels, visitor)?;
    while let Some(level) = levels.last_mut() {
        let At::Open(here) = &level.place else {
            return Err(Error::new(Kind::Internal, "a walk lost its place"));
        };
        if let Some(name) = level.pending.pop() {
            if visitor.done_already(here.as_fd(), &name) {
                continue;
            }
            match subdir::open_same_mount(here, &name) {
                Ok(below) => descend(below, name, &mut levels, visitor)?,
                Err(e) if e.errno() == EXDEV => visitor.mount_point(&name)?,
                Err(e) if fs::is_absent(&e) => {} // deleted by someone else meanwhile
                Err(e) => return Err(e),
            }
        } else if let Some(done) = levels.pop() {
            ascend(done, &mut levels, visitor)?;
        }
    }
    Ok(())
}

/// Lists a directory that has just been opened, and makes it the deepest level.
fn descend(dir: OwnedFd, name: OsString, levels: &mut Vec<Level>, visitor: &mut impl Visitor) -> Result<()> {
    visitor.enter(dir.as_fd())?;
    let mut pending = Vec::new();
    dirents::each_from_here(&dir, |entry| {
        let is_dir = match entry.kind {
            Some(kind) => kind == FileKind::Dir,
            None => fs::stat_at(&dir, &entry.name)?.kind == FileKind::Dir,
        };
        if is_dir {
            pending.push(entry.name);
            Ok(())
        } else {
            visitor.file(dir.as_fd(), &entry.name)
        }
    })?;
    levels.push(Level { place: At::Open(dir), name, pending });
    if let Some(far) = levels.len().checked_sub(OPEN + 1) {
        if let At::Open(fd) = &levels[far].place {
            levels[far].place = At::Closed(fs::stat_fd(fd)?);
        }
    }
    Ok(())
}

/// Goes back to the parent of the level that is done.
fn ascend(done: Level, levels: &mut [Level], visitor: &mut impl Visitor) -> Result<()> {
    let Some(parent) = levels.last_mut() else { return Ok(()) };
    if let (At::Closed(expected), At::Open(from)) = (&parent.place, &done.place) {
        parent.place = At::Open(climb(from, expected)?);
    }
    let left = match &parent.place {
        At::Open(dir) => visitor.leave(dir.as_fd(), &done.name),
        At::Closed(_) => Err(Error::new(Kind::Internal, "a walk lost its place")),
    };
    left.context(|| format!("in {}", path_of(levels)))
}

fn path_of(levels: &[Level]) -> String {
    let names: Vec<String> = levels.iter().skip(1).take(16).map(|level| fs::shown(&level.name)).collect();
    format!("'/{}'", names.join("/"))
}

fn climb(from: &OwnedFd, expected: &Stat) -> Result<OwnedFd> {
    let parent = fs::open_dir_at(from, "..")?;
    let found = fs::stat_fd(&parent)?;
    if (found.device, found.inode) == (expected.device, expected.inode) {
        Ok(parent)
    } else {
        Err(Error::new(Kind::Busy, "a directory was moved away while its tree was being walked"))
    }
}

/// Deletes `name` in `dir`, whatever it is, with everything below it. A name that does not exist is an error (`ENOENT`).
///
/// # Errors
/// Something is mounted inside, or a name cannot be deleted; what was reached before is gone.
pub fn remove(dir: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
    if fs::stat_at(dir, name)?.kind != FileKind::Dir {
        return Delete.file(dir, name);
    }
    match subdir::open_same_mount(dir, name) {
        Ok(top) => walk(top, &mut Delete).context(|| format!("delete '{}'", fs::shown(name)))?,
        Err(e) if e.errno() == EXDEV => Delete.mount_point(name)?,
        Err(e) => return Err(e),
    }
    Delete.leave(dir, name)
}

/// Deletes everything in a directory, but not the directory.
///
/// # Errors
/// As for [`remove`].
pub fn empty(dir: BorrowedFd<'_>) -> Result<()> {
    walk(fs::open_dir_at(dir, ".")?, &mut Delete)
}

/// Deletes all that is visited.
pub(crate) struct Delete;

impl Visitor for Delete {
    fn file(&mut self, dir: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
        unlocking(dir, name, || fs::remove_file_at(dir, name))
    }

    /// An empty directory takes one call this way, and a full one only one call more.
    fn done_already(&mut self, dir: BorrowedFd<'_>, name: &OsStr) -> bool {
        fs::remove_dir_at(dir, name).is_ok()
    }

    fn enter(&mut self, _: BorrowedFd<'_>) -> Result<()> {
        Ok(())
    }

    fn leave(&mut self, dir: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
        unlocking(dir, name, || fs::remove_dir_at(dir, name))
    }

    fn mount_point(&mut self, name: &OsStr) -> Result<()> {
        let what = format!("'{}' is a mount point", fs::shown(name));
        Err(Error::new(Kind::Busy, what).hint("unmount it first; nothing below it was touched"))
    }
}

/// Tries again without the immutable and append-only flags of the name and of its directory if they were in the way. A name
/// that is gone already is what was wanted.
fn unlocking(dir: BorrowedFd<'_>, name: &OsStr, delete: impl Fn() -> Result<()>) -> Result<()> {
    match delete() {
        Err(e) if fs::is_absent(&e) => Ok(()),
        Err(e) if e.errno() == EPERM => {
            let unlocked = inode_flags::unlock(dir).unwrap_or(false);
            let regular = fs::stat_at(dir, name).is_ok_and(|st| matches!(st.kind, FileKind::File | FileKind::Dir));
            let unlocked = (regular && inode_flags::unlock_at(dir, name).unwrap_or(false)) || unlocked;
            if unlocked { delete() } else { Err(e) }
        }
        outcome => outcome,
    }
}

/// The sum of the sizes, in bytes, of all that is not a directory, each inode once.
///
/// # Errors
/// Something cannot be read.
pub fn size(dir: BorrowedFd<'_>) -> Result<u64> {
    let mut measured = Measure::default();
    walk(fs::open_dir_at(dir, ".")?, &mut measured)?;
    Ok(measured.size)
}

/// The same, of what was changed at this moment ([`Stat::changed`]) or later.
///
/// # Errors
/// Something cannot be read.
pub fn size_changed_since(dir: BorrowedFd<'_>, since: (i64, i64)) -> Result<u64> {
    let mut measured = Measure { since, ..Measure::default() };
    walk(fs::open_dir_at(dir, ".")?, &mut measured)?;
    Ok(measured.size)
}

/// The disk space and the inodes that a tree occupies, its top directory included, each inode once.
///
/// # Errors
/// Something cannot be read.
pub fn usage(dir: BorrowedFd<'_>) -> Result<Usage> {
    let mut measured = Measure::default();
    walk(fs::open_dir_at(dir, ".")?, &mut measured)?;
    Ok(measured.usage)
}

#[derive(Default)]
struct Measure {
    size: u64,
    usage: Usage,
    /// Older files do not count; all are younger than the default.
    since: (i64, i64),
    linked: HashSet<(u64, u64)>,
}

impl Measure {
    /// Counts what is not a directory, unless another of its names was met before.
    fn count(&mut self, stat: &Stat) {
        if stat.links == 1 || self.linked.insert((stat.device, stat.inode)) {
            // Sparse files may add up to more than there are numbers for.
            self.size = self.size.saturating_add(stat.size);
            self.add(stat);
        }
    }

    fn add(&mut self, stat: &Stat) {
        self.usage.bytes = self.usage.bytes.saturating_add(stat.allocated);
        self.usage.inodes += 1;
    }
}

impl Visitor for Measure {
    fn file(&mut self, dir: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
        let stat = match fs::stat_at(dir, name) {
            Err(e) if fs::is_absent(&e) => return Ok(()), // a container may be at work in there
            outcome => outcome?,
        };
        if stat.changed < self.since {
            return Ok(());
        }
        self.count(&stat);
        Ok(())
    }

    fn done_already(&mut self, _: BorrowedFd<'_>, _: &OsStr) -> bool {
        false
    }

    fn enter(&mut self, dir: BorrowedFd<'_>) -> Result<()> {
        self.add(&fs::stat_fd(dir)?);
        Ok(())
    }

    fn leave(&mut self, _: BorrowedFd<'_>, _: &OsStr) -> Result<()> {
        Ok(())
    }

    fn mount_point(&mut self, _: &OsStr) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Scratch {
            let path = std::env::temp_dir().join(format!("graphdriver-tree-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Scratch(path)
        }

        fn fd(&self) -> OwnedFd {
            fs::open_dir(&self.0).unwrap()
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = remove(fs::open_dir(self.0.parent().unwrap()).unwrap().as_fd(), self.0.file_name().unwrap());
        }
    }

    #[test]
    fn deletes_a_tree_and_spares_what_its_links_name() {
        let (outside, inside) = (Scratch::new("outside"), Scratch::new("inside"));
        std::fs::write(outside.0.join("keep"), "x").unwrap();
        std::fs::create_dir_all(inside.0.join("a/b/c")).unwrap();
        std::fs::write(inside.0.join("a/b/f"), "y").unwrap();
        symlink(&outside.0, inside.0.join("a/link")).unwrap();
        remove(inside.fd().as_fd(), OsStr::new("a")).unwrap();
        assert!(!inside.0.join("a").exists() && outside.0.join("keep").exists());
        assert!(fs::is_absent(&remove(inside.fd().as_fd(), OsStr::new("a")).unwrap_err()));
    }

    #[test]
    fn depth_is_no_limit() {
        let scratch = Scratch::new("deep");
        let mut dir = scratch.fd();
        for _ in 0..5000 {
            fs::make_dir_at(&dir, "d", 0o700).unwrap();
            dir = fs::open_dir_at(&dir, "d").unwrap();
        }
        assert_eq!(usage(scratch.fd().as_fd()).unwrap().inodes, 5001);
        empty(scratch.fd().as_fd()).unwrap();
        assert_eq!(usage(scratch.fd().as_fd()).unwrap().inodes, 1);
    }

    #[test]
    fn more_than_can_be_counted_is_the_most() {
        let scratch = Scratch::new("most");
        std::fs::write(scratch.0.join("f"), "x").unwrap();
        let mut stat = fs::stat_at(scratch.fd(), "f").unwrap();
        stat.size = i64::MAX as u64;
        let mut measured = Measure::default();
        (0..3).for_each(|_| measured.count(&stat));
        assert_eq!(measured.size, u64::MAX);
    }

    #[test]
    fn size_counts_each_inode_once_and_no_directory() {
        let scratch = Scratch::new("size");
        std::fs::write(scratch.0.join("a"), [0; 1000]).unwrap();
        std::fs::hard_link(scratch.0.join("a"), scratch.0.join("b")).unwrap();
        std::fs::create_dir(scratch.0.join("d")).unwrap();
        symlink("12345", scratch.0.join("d/l")).unwrap();
        assert_eq!(size(scratch.fd().as_fd()).unwrap(), 1005);
        assert_eq!(usage(scratch.fd().as_fd()).unwrap().inodes, 4);
        let last = fs::stat_at(scratch.fd(), "d").unwrap().changed;
        assert_eq!(size_changed_since(scratch.fd().as_fd(), (last.0 + 1, 0)).unwrap(), 0);
        assert_eq!(size_changed_since(scratch.fd().as_fd(), (0, 1)).unwrap(), 1005);
    }
}
