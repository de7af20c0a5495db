//! Opening a directory by a path from an archive, as if the layer were the whole file system (Linux 5.6).
//!
//! On older kernels, and for paths longer than the kernel takes at once, the caller goes from name to name itself.

use crate::error::Result;
use crate::sys::fs::{self, check, shown};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag};
use std::ffi::OsStr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

/// The kernel gives up with EAGAIN when anything on the machine is renamed while it resolves a `..` (openat2(2)).
const ATTEMPTS: u32 = 64;

/// Opens the directory `path` below `root`. `..` stays inside `root`; what is mounted inside is not entered. `Ok(None)`: this
/// kernel or this path needs the walk. So does one that leads through a symlink: the kernel would go through as many names as the
/// texts of 40 symlinks hold, and tell nobody.
pub fn open_in_root(root: BorrowedFd<'_>, path: &[u8]) -> Result<Option<OwnedFd>> {
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV);
    for _ in 0..ATTEMPTS {
        match nix::fcntl::openat2(root, path, how) {
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            // ENOSYS: before 5.6. EPERM: seccomp filters of container runtimes that are older than the call.
            Err(Errno::ENOSYS | Errno::EPERM | Errno::ENAMETOOLONG | Errno::ELOOP) => return Ok(None),
            other => return check(other.map(Some), || format!("open directory '{}'", shown(OsStr::from_bytes(path)))),
        }
    }
    Ok(None)
}

/// Opens the directory `path` below `root`, following no symlink at all and entering no mount. `Ok(None)`: the path is too long.
pub fn open_no_links(root: BorrowedFd<'_>, path: &[u8]) -> Result<Option<OwnedFd>> {
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV);
    match nix::fcntl::openat2(root, path, how) {
        Err(Errno::ENOSYS | Errno::EPERM) => by_name(root, path).map(Some),
        Err(Errno::ENAMETOOLONG) => Ok(None),
        other => check(other.map(Some), || format!("open directory '{}'", shown(OsStr::from_bytes(path)))),
    }
}

/// The same, name by name.
fn by_name(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd> {
    let mut here = fs::open_dir_at(root, ".")?;
    for name in path.split(|&b| b == b'/').filter(|name| !name.is_empty()) {
        here = fs::open_dir_at(&here, OsStr::from_bytes(name))?;
    }
    Ok(here)
}
