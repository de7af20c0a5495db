//! The project id of a file or directory (`ioctl_xfs_fsgetxattr(2)`): by which project quota tells what belongs together.

use crate::error::Result;
use crate::sys::fs::check;
use nix::fcntl::OFlag;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// `struct fsxattr` of `linux/fs.h`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    padding: [u8; 8],
}

/// `FS_XFLAG_PROJINHERIT` of `linux/fs.h`.
const INHERIT: u32 = 0x200;

// `FS_IOC_FSGETXATTR`, `FS_IOC_FSSETXATTR` of linux/fs.h.
nix::ioctl_read!(get_attributes, b'X', 31, Attributes);
nix::ioctl_write_ptr!(set_attributes, b'X', 32, Attributes);

/// A project id, and whether what is made in the directory gets it too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Project {
    /// The id; 0 is everything that was never given one.
    pub id: u32,
    /// New entries inherit it.
    pub inherited: bool,
}

fn attributes(fd: impl AsFd) -> Result<Attributes> {
    let mut attributes = Attributes::default();
    // SAFETY: the kernel fills in the struct, which outlives the call; the borrow keeps the descriptor open.
    check(unsafe { get_attributes(fd.as_fd().as_raw_fd(), &raw mut attributes) }, || "read project id")?;
    Ok(attributes)
}

/// Reads the project of an open file or directory: 0 where the filesystem has no such thing.
pub fn project(fd: impl AsFd) -> Result<Project> {
    let attributes = match attributes(fd) {
        Err(e) if [libc::ENOTTY, libc::EOPNOTSUPP].contains(&e.errno()) => Attributes::default(),
        read => read?,
    };
    Ok(Project { id: attributes.project, inherited: attributes.flags & INHERIT != 0 })
}

/// Gives an open file or directory to a project, with all it occupies; what is inside stays where it is.
pub fn set_project(fd: impl AsFd, project: Project) -> Result<()> {
    let mut attributes = attributes(&fd)?;
    attributes.project = project.id;
    attributes.flags = if project.inherited { attributes.flags | INHERIT } else { attributes.flags & !INHERIT };
    // SAFETY: the kernel reads the struct, which outlives the call; the borrow keeps the descriptor open.
    let outcome = unsafe { set_attributes(fd.as_fd().as_raw_fd(), &raw const attributes) };
    check(outcome.map(drop), || format!("set project id {}", project.id))
}

/// Opens a file without a name on the filesystem of a directory: to try things out on, gone when it is closed.
pub fn nameless_file(dir: impl AsFd) -> Result<OwnedFd> {
    let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
    check(nix::fcntl::openat(dir, ".", flags, nix::sys::stat::Mode::from_bits_truncate(0o600)), || "make a nameless file")
}
