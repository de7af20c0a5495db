//! Opening a sub-directory without leaving the mount: `openat2(2)`, with a fallback for kernels before 5.6.

use crate::error::{Error, Result};
use crate::sys::fs::{open_dir_at, shown, stat_fd};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag};
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};

/// Opens the directory `name` of `dir` if it lies on the same mount and is no symlink; `EXDEV` if something is mounted there.
pub fn open_same_mount(dir: impl AsFd, name: impl AsRef<OsStr>) -> Result<OwnedFd> {
    let name = name.as_ref();
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_NO_XDEV | ResolveFlag::RESOLVE_NO_SYMLINKS);
    match nix::fcntl::openat2(&dir, name, how) {
        Ok(fd) => Ok(fd),
        // EPERM: seccomp filters of container runtimes that are older than the call.
        Err(Errno::ENOSYS | Errno::EPERM) => open_same_device(dir, name),
        Err(errno) => Err(Error::sys(format!("open directory '{}' on the same mount", shown(name)), errno as i32)),
    }
}

/// Before Linux 5.6 only a change of device shows that a mount was entered; a bind mount of the same device does not.
fn open_same_device(dir: impl AsFd, name: &OsStr) -> Result<OwnedFd> {
    let opened = open_dir_at(&dir, name)?;
    if stat_fd(&opened)?.device == stat_fd(&dir)?.device {
        Ok(opened)
    } else {
        Err(Error::sys(format!("open directory '{}' on the same device", shown(name)), Errno::EXDEV as i32))
    }
}
