//! Sets what an entry says about the file or directory that was made for it: owner, mode, attributes, times.

use super::acl;
use super::dirs::PERMISSIONS;
use super::losses::{Loss, Losses};
use super::plan::{Metadata, Owner};
use crate::error::Result;
use crate::sys::fs;
use crate::sys::place::{self, Time};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

pub(super) const SETID: u32 = 0o6000;
/// The mode of a directory that no entry describes.
pub(super) const IMPLIED_MODE: u32 = 0o755;

/// What of a new file or node is not yet as its entry says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Amends {
    /// It belongs to somebody else.
    pub(super) owner: bool,
    /// It has an ACL from its directory.
    pub(super) acl: bool,
    /// Its mode was changed: by its directory's ACL, or by changing the owner, which clears setuid and setgid.
    pub(super) mode: bool,
}

impl Amends {
    /// `given`: whom new files in the directory belong to; `plain`: they have the mode they were made with, and no ACL.
    pub(super) fn of(metadata: &Metadata, given: Owner, plain: bool) -> Amends {
        let owner = metadata.owner != given;
        Amends { owner, acl: !plain, mode: !plain || (owner && metadata.mode & SETID != 0) }
    }
}

/// Finishes a new regular file whose content is written.
pub(super) fn file(fd: &OwnedFd, path: &[u8], metadata: &Metadata, amends: Amends, losses: &Losses<'_>) -> Result<()> {
    if amends.owner {
        place::set_owner(fd, metadata.owner.uid, metadata.owner.gid)?;
    }
    if amends.acl {
        place::remove_xattr(fd, acl::ACCESS)?;
    }
    if amends.mode {
        place::set_mode(fd, metadata.mode)?;
    }
    xattrs(fd.as_fd(), path, metadata, losses)?;
    place::set_times(fd, metadata.atime, metadata.mtime)
}

/// Sets the attributes of an open file or directory.
pub(super) fn xattrs(fd: BorrowedFd<'_>, path: &[u8], metadata: &Metadata, losses: &Losses<'_>) -> Result<()> {
    losses.entry(path, &metadata.lost);
    let set = |(key, value): &(Vec<u8>, Vec<u8>)| losses.attribute(place::set_xattr(fd, key, value), path, metadata, key);
    metadata.xattrs.iter().try_for_each(set)
}

/// Makes of a directory what one is that no entry describes, whatever it inherited or was before.
pub(super) fn implied(dir: &OwnedFd, owner: Owner) -> Result<()> {
    place::set_owner(dir, owner.uid, owner.gid)?;
    remove_xattrs(dir.as_fd())?;
    place::set_mode(dir, IMPLIED_MODE)
}

/// Makes of a new directory what overlayfs would make of it by copying `below` up: owner, mode, attributes that archives can have,
/// and time.
pub(super) fn copied_up(dir: &OwnedFd, below: &OwnedFd) -> Result<()> {
    let stat = fs::stat_fd(below)?;
    place::set_owner(dir, stat.uid, stat.gid)?;
    remove_xattrs(dir.as_fd())?;
    place::set_mode(dir, stat.mode & PERMISSIONS)?;
    for key in place::list_xattrs(below)?.iter().filter(|key| Loss::of_class(key).is_none()) {
        place::set_xattr(dir, key, &place::xattr(below, key)?)?;
    }
    place::set_times(dir, Time::KEEP, place::modification_time(below)?)
}

/// Removes the attributes that archives set.
///
/// # Errors
/// A system call fails.
pub fn remove_xattrs(dir: BorrowedFd<'_>) -> Result<()> {
    let keys = place::list_xattrs(dir)?;
    keys.iter().filter(|key| Loss::of_class(key).is_none()).try_for_each(|key| place::remove_xattr(dir, key))
}
