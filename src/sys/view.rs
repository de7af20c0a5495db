//! A second view of a mounted tree, seen by its owner only: nothing can be written through it, device nodes in it cannot be
//! opened, reading leaves no access times, and what is mounted inside the tree is not in it (`open_tree(2)` of Linux 5.2,
//! `mount_setattr(2)` of Linux 5.12).

use crate::error::{Error, Result};
use crate::sys::fs::open_dir_at;
use crate::sys::mount::Flags;
use crate::sys::newmount::attr;
use nix::errno::Errno;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

// linux/mount.h
const OPEN_TREE_CLONE: libc::c_uint = 1;
const MS_PRIVATE: u64 = 1 << 18;
/// The three values of access times are one field, which has to be cleared before one of them is set.
const ATTR_ATIME: u32 = 0x70;

/// `struct mount_attr`
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

/// What a view forbids.
pub const ATTRIBUTES: u32 = attr::RDONLY | attr::NODEV | attr::NOEXEC | attr::NOSUID | attr::NOATIME;

/// The same in the words of `mount(2)`.
pub const FLAGS: Flags =
    Flags::MS_RDONLY.union(Flags::MS_NODEV).union(Flags::MS_NOEXEC).union(Flags::MS_NOSUID).union(Flags::MS_NOATIME);

/// A tree in a mount of its own, which goes when this is dropped.
pub struct View {
    root: OwnedFd,
    _mount: OwnedFd,
}

impl AsFd for View {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

impl View {
    /// A view of the directory `name` of a mount that is attached nowhere and has these [`ATTRIBUTES`].
    pub fn of_mount(mount: OwnedFd, name: &str) -> Result<View> {
        Ok(View { root: open_dir_at(&mount, name)?, _mount: mount })
    }

    /// A view of an open directory. `Ok(None)`: the kernel cannot make one, or not of this directory.
    pub fn of_dir(dir: impl AsFd) -> Result<Option<View>> {
        match clone(dir.as_fd()).and_then(|mount| restrict(&mount).map(|()| mount)) {
            Ok(mount) => View::of_mount(mount, ".").map(Some),
            // ENOSYS: before 5.12. EPERM: seccomp filters that are older than the calls. EINVAL: a mount that must not be bound.
            Err(Errno::ENOSYS | Errno::EPERM | Errno::EINVAL) => Ok(None),
            Err(errno) => Err(Error::sys("make a view of a directory", errno as i32)),
        }
    }
}

fn clone(dir: BorrowedFd<'_>) -> nix::Result<OwnedFd> {
    let flags = OPEN_TREE_CLONE | libc::O_CLOEXEC.cast_unsigned() | libc::AT_EMPTY_PATH.cast_unsigned();
    // SAFETY: the path is NUL-terminated and constant; the borrow keeps the descriptor open.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, dir.as_raw_fd(), c"".as_ptr(), flags) };
    let fd = libc::c_int::try_from(Errno::result(fd)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just opened it for us and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn restrict(mount: &OwnedFd) -> nix::Result<()> {
    let what = MountAttr { set: ATTRIBUTES.into(), clear: ATTR_ATIME.into(), propagation: MS_PRIVATE, userns: 0 };
    let (fd, empty, size) = (mount.as_raw_fd(), c"".as_ptr(), size_of::<MountAttr>());
    // SAFETY: the path is NUL-terminated and constant; the struct outlives the call and its size is passed along.
    let rc = unsafe { libc::syscall(libc::SYS_mount_setattr, fd, empty, libc::AT_EMPTY_PATH, &raw const what, size) };
    Errno::result(rc).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::fs;

    #[test]
    fn a_view_is_read_only_and_knows_no_devices() {
        let dir = std::env::temp_dir().join(format!("graphdriver-view-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let fd = fs::open_dir(&dir).unwrap();
        fs::make_node_at(&fd, "null", 0o020_666, libc::makedev(1, 3)).unwrap();
        let view = View::of_dir(&fd).unwrap().expect("this kernel has mount_setattr");
        assert_eq!(fs::write_new_at(&view, "new", b"", 0o600, false).unwrap_err().errno(), libc::EROFS);
        let open = nix::fcntl::openat(&view, "null", nix::fcntl::OFlag::O_RDONLY, nix::sys::stat::Mode::empty());
        assert_eq!(open.unwrap_err(), Errno::EACCES);
        drop(view);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
