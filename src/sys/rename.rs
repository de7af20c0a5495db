//! Renaming without replacing, and exchanging two names: `renameat2(2)`, Linux 3.15, and where a filesystem or kernel has it not.

use crate::error::{Error, Kind, Result};
use crate::sys::fs::{self, shown};
use nix::errno::Errno;
use nix::fcntl::RenameFlags;
use std::ffi::OsStr;
use std::os::fd::AsFd;

/// Renames within `dir` to a name that must be free. Where the kernel cannot make sure of that, it is looked at first: nobody else
/// makes such names.
pub fn rename_new_at(dir: impl AsFd, from: impl AsRef<OsStr>, to: impl AsRef<OsStr>) -> Result<()> {
    let (dir, from, to) = (dir.as_fd(), from.as_ref(), to.as_ref());
    match nix::fcntl::renameat2(dir, from, dir, to, RenameFlags::RENAME_NOREPLACE) {
        Err(Errno::ENOSYS | Errno::EINVAL) => match fs::stat_at(dir, to) {
            Err(e) if fs::is_absent(&e) => fs::rename_at(dir, from, dir, to),
            Ok(_) => Err(failed(from, to, Errno::EEXIST)),
            Err(e) => Err(e),
        },
        outcome => outcome.map_err(|errno| failed(from, to, errno)),
    }
}

/// Exchanges two names of `dir` in one step; [`Kind::Unsupported`] where kernel or filesystem cannot do that.
pub fn exchange_at(dir: impl AsFd, one: impl AsRef<OsStr>, other: impl AsRef<OsStr>) -> Result<()> {
    let (dir, one, other) = (dir.as_fd(), one.as_ref(), other.as_ref());
    let failed = |errno| Error::sys(format!("exchange '{}' and '{}'", shown(one), shown(other)), errno as i32);
    match nix::fcntl::renameat2(dir, one, dir, other, RenameFlags::RENAME_EXCHANGE) {
        // What the kernel says of a flag that the filesystem does not know.
        Err(Errno::EINVAL) => Err(failed(Errno::EINVAL).with_kind(Kind::Unsupported)),
        outcome => outcome.map_err(failed),
    }
}

fn failed(from: &OsStr, to: &OsStr, errno: Errno) -> Error {
    Error::sys(format!("rename '{}' to '{}' (which must not exist)", shown(from), shown(to)), errno as i32)
}
