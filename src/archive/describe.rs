//! Sets what an entry says about the file or directory that was made for it: owner, mode, attributes, times.

use super::acl;
use super::plan::{self, Metadata, Owner};
use crate::error::{Kind, Result};
use crate::sys::fs::shown;
use crate::sys::place;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::OnceLock;

pub(super) const SETID: u32 = 0o6000;
/// The mode of a directory that no entry describes.
pub(super) const IMPLIED_MODE: u32 = 0o755;
/// `E2BIG` of `asm-generic/errno-base.h`: the kernel takes no attribute as long as this.
const E2BIG: i32 = 7;

/// What a layer loses without being refused for it. Each kind is worth one line in the log, not one for each file; and the host's
/// log is nothing to call from inside the layer.
#[derive(Default)]
pub(super) struct Losses {
    acl: OnceLock<String>,
    xattr: OnceLock<String>,
    device: OnceLock<String>,
}

impl Losses {
    /// An entry's ACL that is not among its attributes, if that is so.
    pub(super) fn acl(&self, path: &[u8], metadata: &Metadata) {
        if metadata.acl_lost {
            self.acl.get_or_init(|| format!("ACLs without numeric ids were left out, the first of '{}'", text(path)));
        }
    }

    /// A filesystem that has no such attributes, or the kernel none so long, is worth a warning, not the layer.
    pub(super) fn xattr(&self, outcome: Result<()>, key: &[u8]) -> Result<()> {
        match outcome {
            Err(e) if e.kind() == Kind::Unsupported || e.errno() == E2BIG => {
                self.xattr.get_or_init(|| format!("the filesystem does not take the xattr '{}': {e}", text(key)));
                Ok(())
            }
            other => other,
        }
    }

    /// A character device 0:0, which overlay would take for a whiteout.
    pub(super) fn device(&self, path: &[u8]) {
        let what = || format!("character devices 0:0 cannot be in a layer of overlay: left out, the first '{}'", text(path));
        self.device.get_or_init(what);
    }

    /// Logs all of them.
    pub(super) fn log(&self) {
        for line in [&self.acl, &self.xattr, &self.device].into_iter().filter_map(OnceLock::get) {
            crate::log::warn!("{line}");
        }
    }
}

fn text(bytes: &[u8]) -> String {
    shown(OsStr::from_bytes(bytes))
}

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
    /// `own`: whom new files belong to; `plain`: the directory hands neither a group nor an ACL down.
    pub(super) fn of(metadata: &Metadata, own: Owner, plain: bool) -> Amends {
        let owner = metadata.owner != own || !plain;
        Amends { owner, acl: !plain, mode: !plain || (owner && metadata.mode & SETID != 0) }
    }
}

/// Finishes a new regular file whose content is written.
pub(super) fn file(fd: &OwnedFd, path: &[u8], metadata: &Metadata, amends: Amends, losses: &Losses) -> Result<()> {
    if amends.owner {
        place::set_owner(fd, metadata.owner.uid, metadata.owner.gid)?;
    }
    if amends.acl {
        place::remove_xattr(fd, acl::ACCESS)?;
    }
    if amends.mode {
        place::set_mode(fd, metadata.mode)?;
    }
    losses.acl(path, metadata);
    xattrs(fd.as_fd(), metadata, losses)?;
    place::set_times(fd, metadata.atime, metadata.mtime)
}

/// Sets the attributes of an open file or directory.
pub(super) fn xattrs(fd: BorrowedFd<'_>, metadata: &Metadata, losses: &Losses) -> Result<()> {
    metadata.xattrs.iter().try_for_each(|(key, value)| losses.xattr(place::set_xattr(fd, key, value), key))
}

/// Makes of a directory what one is that no entry describes, whatever it inherited or was before.
pub(super) fn implied(dir: &OwnedFd, owner: Owner) -> Result<()> {
    place::set_owner(dir, owner.uid, owner.gid)?;
    remove_xattrs(dir.as_fd())?;
    place::set_mode(dir, IMPLIED_MODE)
}

/// Removes the attributes that archives set.
///
/// # Errors
/// A system call fails.
pub fn remove_xattrs(dir: BorrowedFd<'_>) -> Result<()> {
    let keys = place::list_xattrs(dir)?;
    keys.iter().filter(|key| plan::is_of_archives(key)).try_for_each(|key| place::remove_xattr(dir, key))
}
