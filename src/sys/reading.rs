//! The calls that read a layer: single names below an open directory, or descriptors. Nothing is followed and nobody waits,
//! whatever a container put under a name.

use crate::error::{Error, Result};
use crate::sys::fs::{c_string, check, shown};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::Whence;
use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

/// A fifo's other end, a terminal: neither is waited for.
const CALM: OFlag = OFlag::O_NOFOLLOW.union(OFlag::O_NONBLOCK).union(OFlag::O_NOCTTY).union(OFlag::O_CLOEXEC);

/// Opens the file `name` for reading. The directory is of a mount on which device nodes cannot be opened (`nodev`).
pub fn open_file(dir: impl AsFd, name: &OsStr) -> Result<OwnedFd> {
    let opened = nix::fcntl::openat(dir, name, OFlag::O_RDONLY | CALM, Mode::empty());
    check(opened, || format!("open '{}'", shown(name)))
}

/// The same where the mount is like any other: looks at what the name is before it opens it, because opening a device may do
/// something, and leaves no access time. `EACCES` for what is no regular file.
pub fn open_file_warily(dir: impl AsFd, name: &OsStr) -> Result<OwnedFd> {
    let node = open_node(dir, name)?;
    let stat = check(nix::sys::stat::fstat(&node), || "fstat")?;
    if stat.st_mode & libc::S_IFMT != libc::S_IFREG {
        return Err(Error::sys(format!("open '{}', which is no regular file", shown(name)), libc::EACCES));
    }
    let path = format!("/proc/thread-self/fd/{}", node.as_raw_fd());
    let open =
        |more| nix::fcntl::open(path.as_str(), OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | more, Mode::empty());
    let opened = match open(OFlag::O_NOATIME) {
        Err(Errno::EPERM) => open(OFlag::empty()), // not the owner, and without CAP_FOWNER
        other => other,
    };
    check(opened, || format!("open '{}' (is /proc mounted?)", shown(name)))
}

/// A descriptor of whatever `name` is, without opening it (`O_PATH`).
pub fn open_node(dir: impl AsFd, name: &OsStr) -> Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    check(nix::fcntl::openat(dir, name, flags, Mode::empty()), || format!("open '{}'", shown(name)))
}

/// Reads until `into` is full or the file ends; says how much there was.
pub fn fill(fd: impl AsFd, into: &mut [u8]) -> Result<usize> {
    let mut got = 0;
    while got < into.len() {
        match nix::unistd::read(&fd, &mut into[got..]) {
            Ok(0) => break,
            Ok(count) => got += count,
            Err(Errno::EINTR) => {}
            Err(e) => return Err(Error::sys("read", e as i32)),
        }
    }
    Ok(got)
}

/// Moves the position of an open file.
pub fn seek(fd: impl AsFd, to: u64) -> Result<()> {
    let offset = i64::try_from(to).unwrap_or(i64::MAX);
    check(nix::unistd::lseek(fd, offset, Whence::SeekSet).map(drop), || format!("seek to {to}"))
}

/// Where the next data begin at or after `from`, and where the hole behind them; `None`: there are no more.
pub fn next_data(fd: impl AsFd, from: u64) -> Result<Option<(u64, u64)>> {
    let find = |at: i64, what| nix::unistd::lseek(&fd, at, what);
    let start = match find(i64::try_from(from).unwrap_or(i64::MAX), Whence::SeekData) {
        Err(Errno::ENXIO) => return Ok(None),
        start => check(start, || "seek to data")?,
    };
    let end = check(find(start, Whence::SeekHole), || "seek to a hole")?;
    Ok(Some((start.cast_unsigned(), end.cast_unsigned())))
}

/// The names of the attributes of an open file or directory, each ended by a NUL byte, in place of what `names` held. None where
/// the filesystem has no attributes.
pub fn xattr_names(fd: impl AsFd, names: &mut Vec<u8>) -> Result<()> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: the pointer is NULL with a length of 0, or both describe a buffer; the borrow keeps the descriptor open.
    growing(names, "list xattrs", |pointer, length| unsafe { libc::flistxattr(fd, pointer.cast(), length) }).map(drop)
}

/// The value of an attribute of an open file or directory, if it is there.
pub fn xattr(fd: impl AsFd, key: &[u8]) -> Result<Option<Vec<u8>>> {
    let (fd, name) = (fd.as_fd().as_raw_fd(), c_string(OsStr::from_bytes(key))?);
    let mut value = Vec::new();
    // SAFETY: the name is NUL-terminated; pointer and length as above.
    let found = growing(&mut value, "get xattr", |pointer, length| unsafe {
        libc::fgetxattr(fd, name.as_ptr(), pointer.cast(), length)
    })?;
    Ok(found.then_some(value))
}

/// As [`xattr_names`], of a descriptor of [`open_node`].
pub fn node_xattr_names(node: impl AsFd, names: &mut Vec<u8>) -> Result<()> {
    let path = own_path(node)?;
    // SAFETY: the path is NUL-terminated; pointer and length as above.
    growing(names, "list xattrs", |pointer, length| unsafe { libc::listxattr(path.as_ptr(), pointer.cast(), length) })
        .map(drop)
}

/// As [`xattr`], of a descriptor of [`open_node`].
pub fn node_xattr(node: impl AsFd, key: &[u8]) -> Result<Option<Vec<u8>>> {
    let (path, name) = (own_path(node)?, c_string(OsStr::from_bytes(key))?);
    let mut value = Vec::new();
    // SAFETY: both strings are NUL-terminated; pointer and length as above.
    let found = growing(&mut value, "get xattr", |pointer, length| unsafe {
        libc::getxattr(path.as_ptr(), name.as_ptr(), pointer.cast(), length)
    })?;
    Ok(found.then_some(value))
}

fn own_path(node: impl AsFd) -> Result<CString> {
    c_string(format!("/proc/thread-self/fd/{}", node.as_fd().as_raw_fd()))
}

/// As much as most answers have.
const FIRST: usize = 1024;

/// Calls until the buffer is large enough for the answer. `false`: there is no such attribute, or none at all.
fn growing(into: &mut Vec<u8>, call: &str, ask: impl Fn(*mut u8, usize) -> isize) -> Result<bool> {
    into.resize(into.capacity().max(FIRST), 0);
    loop {
        match Errno::result(ask(into.as_mut_ptr(), into.len())) {
            Ok(length) => {
                into.truncate(usize::try_from(length).unwrap_or(0));
                return Ok(true);
            }
            // The longest list and the longest value have 64 KiB (linux/limits.h).
            Err(Errno::ERANGE) if into.len() <= 1 << 16 => into.resize(into.len() * 4, 0),
            Err(Errno::ENODATA | Errno::EOPNOTSUPP) => {
                into.clear();
                return Ok(false);
            }
            Err(e) => return Err(Error::sys(call, e as i32)),
        }
    }
}

/// Major and minor number of a device.
#[must_use]
pub fn device_numbers(device: u64) -> (u64, u64) {
    (libc::major(device).into(), libc::minor(device).into())
}
