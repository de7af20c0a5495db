//! `quotactl(2)` by the path of a block device node, for kernels before 5.14, which have no `quotactl_fd`.

use crate::sys::fs::c_string;
use nix::errno::Errno;
use std::os::fd::AsFd;
use std::path::Path;

/// One command on the filesystem that holds `fd`, by the node of its device; `data` is the struct that the command reads or writes.
/// A node of another device, which the filesystem may have had before, is as good as none.
pub(super) fn quotactl<T>(fd: impl AsFd, node: &Path, command: i32, id: u32, data: &mut T) -> Result<(), Errno> {
    if nix::sys::stat::stat(node)?.st_rdev != nix::sys::stat::fstat(fd)?.st_dev {
        return Err(Errno::ENOTBLK);
    }
    let node = c_string(node.as_os_str()).map_err(|_| Errno::EINVAL)?;
    // The kernel's `qid_t` is unsigned; the C library declares an int of the same bits.
    let id = id.cast_signed();
    // SAFETY: the path is NUL-terminated and `data` has the layout of the command's struct, as `sys::quota` asserts; both
    // outlive the call.
    let rc = unsafe { libc::quotactl(command, node.as_ptr(), id, std::ptr::from_mut(data).cast()) };
    Errno::result(rc).map(drop)
}
