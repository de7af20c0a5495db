//! Deleting: all that can be, and a report of what is left.

use super::walk::{Next, Visitor, walk};
use crate::error::errno::{ENOTEMPTY, EPERM, EXDEV};
use crate::error::{Context, Error, Kind, Result};
use crate::sys::fs::{self, FileKind, shown};
use crate::sys::{inode_flags, subdir};
use std::ffi::OsStr;
use std::os::fd::BorrowedFd;

/// Deletes `name` in `dir`, whatever it is, with everything below it. A name that does not exist is an error (`ENOENT`).
///
/// # Errors
/// A name cannot be deleted, or something is mounted on it. All else is gone; the error is that of the first of them, and says
/// how many are left.
pub fn remove(dir: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
    remove_unless(dir, name, &|| false)
}

/// [`remove`], unless `stop` says so, which is asked before each name.
///
/// # Errors
/// As for [`remove`]; [`Kind::Cancelled`] when it was stopped.
pub fn remove_unless(dir: BorrowedFd<'_>, name: &OsStr, stop: &dyn Fn() -> bool) -> Result<()> {
    let mut delete = Delete::default();
    if fs::stat_at(dir, name)?.kind != FileKind::Dir {
        return delete_file(dir, name);
    }
    let mut next = Next::Again;
    while next == Next::Again {
        match subdir::open_same_mount(dir, name) {
            Ok(top) => walk(top, &mut delete, stop).context(|| format!("delete '{}'", shown(name)))?,
            Err(e) if e.errno() == EXDEV => return Err(mounted(name)),
            Err(e) => return Err(e),
        }
        next = delete
            .leave(dir, Some(name))
            .or_else(|e| delete.obstacle(format!("'{}'", shown(name)), e).map(|()| Next::On))?;
    }
    delete.outcome().context(|| format!("delete '{}'", shown(name)))
}

/// Deletes everything in a directory, but not the directory.
///
/// # Errors
/// As for [`remove`].
pub fn empty(dir: BorrowedFd<'_>) -> Result<()> {
    empty_unless(dir, &|| false)
}

/// [`empty`], unless `stop` says so, which is asked before each name.
///
/// # Errors
/// As for [`remove_unless`].
pub fn empty_unless(dir: BorrowedFd<'_>, stop: &dyn Fn() -> bool) -> Result<()> {
    let mut delete = Delete::default();
    loop {
        walk(fs::open_dir_at(dir, ".")?, &mut delete, stop)?;
        match delete.way.pop() {
            Some(top) if delete.may_go_on(&top) => {}
            Some(Deleting { unread: Some(cause), .. }) => {
                delete.obstacle("'.'".to_owned(), cause)?;
                return delete.outcome();
            }
            _ => return delete.outcome(),
        }
    }
}

/// Deletes all that is visited, and goes past what cannot be.
#[derive(Default)]
struct Delete {
    way: Vec<Deleting>,
    deleted: u64,
    left: u64,
    first: Vec<(String, Error)>,
}

/// A directory on the way down, while its content is being deleted.
struct Deleting {
    /// How many names had been deleted when it was entered.
    deleted: u64,
    /// Something in it could not be.
    keeps: bool,
    /// Why it was not read to its end. What was not seen may be nothing.
    unread: Option<Error>,
}

/// Obstacles that are told with their reasons.
const TOLD: usize = 3;

impl Delete {
    /// Whether going through a directory again may find more to delete. A filesystem whose offsets do not outlast deletions
    /// (tmpfs before Linux 6.6) makes the walk pass over names.
    fn may_go_on(&self, dir: &Deleting) -> bool {
        !dir.keeps && dir.deleted < self.deleted
    }

    fn keep_parent(&mut self) {
        if let Some(parent) = self.way.last_mut() {
            parent.keeps = true;
        }
    }

    /// Says what is left, if anything is.
    fn outcome(self) -> Result<()> {
        let mut told = self.first.into_iter();
        let Some((path, cause)) = told.next() else { return Ok(()) };
        if self.left == 1 {
            return Err(cause.context(format!("all but {path} is deleted")));
        }
        let others: Vec<String> = told.map(|(path, error)| format!("{path}: {error}")).collect();
        Err(cause.context(path).context(format!("{} names are left ({}), the first of them", self.left, others.join("; "))))
    }
}

impl Visitor for Delete {
    fn file(&mut self, dir: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
        delete_file(dir, name)?;
        self.deleted += 1;
        Ok(())
    }

    /// An empty directory takes one call this way, and a full one only one call more.
    fn done_already(&mut self, dir: BorrowedFd<'_>, name: &OsStr) -> Result<bool> {
        let done = fs::remove_dir_at(dir, name).is_ok();
        self.deleted += u64::from(done);
        Ok(done)
    }

    fn enter(&mut self, _: BorrowedFd<'_>) -> Result<()> {
        self.way.push(Deleting { deleted: self.deleted, keeps: false, unread: None });
        Ok(())
    }

    fn leave(&mut self, dir: BorrowedFd<'_>, name: Option<&OsStr>) -> Result<Next> {
        let (Some(done), Some(name)) = (self.way.pop(), name) else { return Ok(Next::On) };
        match delete_dir(dir, name) {
            Ok(()) => self.deleted += 1,
            Err(e) if e.errno() != ENOTEMPTY => return Err(e),
            Err(_) if self.may_go_on(&done) => return Ok(Next::Again),
            Err(e) => match done.unread {
                Some(cause) => return Err(cause),
                // Why is known: it holds what could not be deleted.
                None if done.keeps => self.keep_parent(),
                None => return Err(e),
            },
        }
        Ok(Next::On)
    }

    fn mount_point(&mut self, name: &OsStr) -> Result<()> {
        Err(mounted(name))
    }

    fn obstacle(&mut self, path: String, error: Error) -> Result<()> {
        self.left += 1;
        self.keep_parent();
        if self.first.len() < TOLD {
            self.first.push((path, error));
        }
        Ok(())
    }

    fn unread(&mut self, _: String, error: Error) -> Result<()> {
        if let Some(dir) = self.way.last_mut() {
            dir.unread = Some(error);
        }
        Ok(())
    }
}

/// Deletes a name that is not a directory.
pub(crate) fn delete_file(dir: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
    unlocking(dir, name, || fs::remove_file_at(dir, name))
}

/// Deletes an empty directory.
pub(crate) fn delete_dir(dir: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
    unlocking(dir, name, || fs::remove_dir_at(dir, name))
}

/// Why nothing is deleted here.
pub(crate) fn mounted(name: &OsStr) -> Error {
    let what = format!("'{}' is a mount point", shown(name));
    Error::new(Kind::Busy, what).hint("unmount it first; nothing below it was touched")
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
