//! Opening a sub-directory without leaving the mount: `openat2(2)`, with a fallback for kernels before 5.6.

use crate::error::{Error, Result};
use crate::sys::fs::{open_dir_at, shown, stat_fd};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag};
use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// Opens the directory `name` of `dir` if it lies on the same mount and is no symlink; `EXDEV` if something is mounted there.
pub fn open_same_mount(dir: impl AsFd, name: impl AsRef<OsStr>) -> Result<OwnedFd> {
    let name = name.as_ref();
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_NO_XDEV | ResolveFlag::RESOLVE_NO_SYMLINKS);
    match nix::fcntl::openat2(&dir, name, how) {
        Ok(fd) => Ok(fd),
        // EPERM, EACCES: filters of container runtimes that are older than the call.
        Err(Errno::ENOSYS | Errno::EPERM | Errno::EACCES) => open_and_compare(dir, name),
        Err(errno) => Err(Error::sys(format!("open directory '{}' on the same mount", shown(name)), errno as i32)),
    }
}

/// Before Linux 5.6 it is opened first, and then looked whether that has left the mount. A change of device shows it too, where
/// the filesystem tells no mount.
fn open_and_compare(dir: impl AsFd, name: &OsStr) -> Result<OwnedFd> {
    let opened = open_dir_at(&dir, name)?;
    let same_device = stat_fd(&opened)?.device == stat_fd(&dir)?.device;
    if same_device && mount_id(&opened)? == mount_id(&dir)? {
        Ok(opened)
    } else {
        Err(Error::sys(format!("open directory '{}' on the same mount", shown(name)), Errno::EXDEV as i32))
    }
}

/// Which mount an open directory is on (`name_to_handle_at(2)`, Linux 2.6.39); `None` where the filesystem has no handles, or a
/// filter of system calls forbids to ask.
fn mount_id(dir: impl AsFd) -> Result<Option<libc::c_int>> {
    // `struct file_handle` with no room for a handle: the call fails for that, and gives the mount all the same.
    let (mut handle, mut mount): ([libc::c_uint; 2], libc::c_int) = ([0, 0], 0);
    let fd = dir.as_fd().as_raw_fd();
    let (call, flags) = (libc::SYS_name_to_handle_at, libc::AT_EMPTY_PATH);
    // SAFETY: the path is NUL-terminated, the handle states that it has no bytes, the mount is one int; all outlive the call, and
    // the borrow keeps the descriptor open.
    let rc = unsafe { libc::syscall(call, fd, c"".as_ptr(), handle.as_mut_ptr(), &raw mut mount, flags) };
    match Errno::result(rc) {
        Err(Errno::EOVERFLOW) => Ok(Some(mount)),
        Ok(_) | Err(Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EPERM | Errno::EACCES) => Ok(None),
        Err(errno) => Err(Error::sys("name_to_handle_at: which mount a directory is on", errno as i32)),
    }
}
