//! Inode flags (`ioctl_iflags(2)`): immutable and append-only.

use crate::error::Result;
use crate::sys::fs::{check, shown};
use nix::fcntl::OFlag;
use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd};

/// `FS_IMMUTABLE_FL | FS_APPEND_FL` of `linux/fs.h`: what keeps even root from deleting.
const LOCKED: libc::c_int = 0x10 | 0x20;

// `FS_IOC_GETFLAGS`, `FS_IOC_SETFLAGS` of linux/fs.h. They are declared with a long but move an int.
nix::ioctl_read_bad!(get_flags, nix::request_code_read!(b'f', 1, size_of::<libc::c_long>()), libc::c_int);
nix::ioctl_write_ptr_bad!(set_flags, nix::request_code_write!(b'f', 2, size_of::<libc::c_long>()), libc::c_int);

/// Takes the immutable and append-only flags off an open file or directory; true if there were any.
pub fn unlock(fd: impl AsFd) -> Result<bool> {
    let raw = fd.as_fd().as_raw_fd();
    let mut flags: libc::c_int = 0;
    // SAFETY: the kernel writes one int to `flags`, which outlives the call; the borrow keeps the descriptor open.
    check(unsafe { get_flags(raw, &raw mut flags) }, || "read inode flags")?;
    if flags & LOCKED == 0 {
        return Ok(false);
    }
    let cleared = flags & !LOCKED;
    // SAFETY: the kernel reads one int from `cleared`, which outlives the call.
    check(unsafe { set_flags(raw, &raw const cleared) }, || "clear inode flags")?;
    Ok(true)
}

/// The same for the regular file `name`, which may be a link into nowhere but is not followed.
pub fn unlock_at(dir: impl AsFd, name: &OsStr) -> Result<bool> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let opened = nix::fcntl::openat(dir, name, flags, nix::sys::stat::Mode::empty());
    unlock(check(opened, || format!("open '{}'", shown(name)))?)
}
