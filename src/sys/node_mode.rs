//! Setting the mode of a name that is not opened (a device node, a fifo) without following a symlink (Linux 6.6).
//!
//! Older kernels have no such call, and following is dangerous: a process that can write into the layer could put a symlink
//! there this instant. They get the mode as an ACL that says no more than a mode, which the kernel makes a mode of. That leaves
//! the other bits as they are: setuid and setgid, which a change of the owner takes away, do not come back. Of a node they mean
//! nothing.

use crate::error::Result;
use crate::sys::fs::{check, shown};
use crate::sys::place;
use nix::errno::Errno;
use std::ffi::{CStr, OsStr};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;

/// The number of the call, the same on every architecture (`asm-generic/unistd.h`).
const FCHMODAT2: libc::c_long = 452;

/// Sets the mode of `name` in `dir`. As [`place::set_xattr_at`], only for threads with a working directory of their own.
pub fn set(dir: impl AsFd, name: &CStr, mode: u32) -> Result<()> {
    let fd = dir.as_fd().as_raw_fd();
    // SAFETY: the name is NUL-terminated and lives through the call, the borrow keeps the descriptor open.
    let rc = unsafe { libc::syscall(FCHMODAT2, fd, name.as_ptr(), mode, libc::AT_SYMLINK_NOFOLLOW) };
    match Errno::result(rc) {
        // EPERM: seccomp filters of container runtimes that are older than the call.
        Err(Errno::ENOSYS | Errno::EPERM) => {
            place::set_xattr_at(dir, name.to_bytes(), b"system.posix_acl_access", &as_acl(mode))
        }
        other => check(other.map(drop), || format!("chmod '{}'", shown(OsStr::from_bytes(name.to_bytes())))),
    }
}

/// The permission bits as an attribute's value (`linux/posix_acl_xattr.h`): a version, then owner, group and others, each a tag,
/// permissions and no id.
fn as_acl(mode: u32) -> Vec<u8> {
    let mut value = 2_u32.to_le_bytes().to_vec();
    for (tag, shift) in [(0x01_u16, 6), (0x04, 3), (0x20, 0)] {
        value.extend_from_slice(&tag.to_le_bytes());
        value.extend_from_slice(&((mode >> shift & 7) as u16).to_le_bytes());
        value.extend_from_slice(&u32::MAX.to_le_bytes());
    }
    value
}
