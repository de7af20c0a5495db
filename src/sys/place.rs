//! The calls that put one archive entry into a directory: single-component names below an open directory, or descriptors.

use crate::error::{Error, Kind, Result};
use crate::sys::fs::{c_string, check, shown};
use crate::sys::node_mode;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::Mode;
use std::ffi::{CString, OsStr};
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

/// A point in time as the kernel takes it: seconds since 1970, and nanoseconds (0 to 999,999,999) after them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Time {
    /// Whole seconds, negative before 1970.
    pub seconds: i64,
    /// Nanoseconds into that second.
    pub nanos: u32,
}

impl Time {
    /// Leave it as it is (`UTIME_OMIT`).
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // the constant has 30 bits
    pub const KEEP: Time = Time { seconds: 0, nanos: libc::UTIME_OMIT as u32 };

    // The C types differ between architectures.
    #[allow(clippy::useless_conversion, clippy::unnecessary_cast)]
    fn timespec(self) -> libc::timespec {
        libc::timespec { tv_sec: self.seconds as libc::time_t, tv_nsec: self.nanos as libc::c_long }
    }
}

fn outcome<D: fmt::Display>(rc: libc::c_int, call: impl FnOnce() -> D) -> Result<()> {
    check(Errno::result(rc).map(drop), call)
}

/// Makes a regular file of a name that must be free, open for writing. The mode is applied as it is (the caller has no umask).
pub fn create_file(dir: impl AsFd, name: &[u8], mode: u32) -> Result<OwnedFd> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let name = single(name)?;
    let made = nix::fcntl::openat(dir, name.as_c_str(), flags, Mode::from_bits_truncate(mode));
    check(made, || call("create file", name.as_bytes()))
}

/// Makes a directory.
pub fn make_dir(dir: impl AsFd, name: &[u8], mode: u32) -> Result<()> {
    let name = single(name)?;
    let made = nix::sys::stat::mkdirat(dir, name.as_c_str(), Mode::from_bits_truncate(mode));
    check(made, || call("mkdir", name.as_bytes()))
}

/// Gives the file `target` in `from` the second name `name`; a symlink is linked itself, not followed.
pub fn link(from: impl AsFd, target: &[u8], dir: impl AsFd, name: &[u8]) -> Result<()> {
    let (old, new) = (single(target)?, single(name)?);
    check(nix::unistd::linkat(from, old.as_c_str(), dir, new.as_c_str(), AtFlags::empty()), || {
        format!("link '{}' to '{}'", shown(OsStr::from_bytes(name)), shown(OsStr::from_bytes(target)))
    })
}

/// Writes all of `bytes` at the descriptor's position.
pub fn write_all(fd: impl AsFd, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        match nix::unistd::write(&fd, bytes) {
            Ok(0) => return Err(Error::sys("write (nothing was written)", libc::EIO)),
            Ok(n) => bytes = &bytes[n..],
            Err(Errno::EINTR) => {}
            Err(e) => return Err(Error::sys("write", e as i32)),
        }
    }
    Ok(())
}

/// Writes all of `bytes` at this offset of the file.
pub fn write_all_at(fd: impl AsFd, mut bytes: &[u8], mut offset: u64) -> Result<()> {
    let call = |offset| format!("pwrite at {offset}");
    while !bytes.is_empty() {
        let at = i64::try_from(offset).map_err(|_| Error::sys(call(offset), libc::EFBIG))?;
        match nix::sys::uio::pwrite(&fd, bytes, at) {
            Ok(0) => return Err(Error::sys(call(offset), libc::EIO)),
            Ok(n) => (bytes, offset) = (&bytes[n..], offset + n as u64),
            Err(Errno::EINTR) => {}
            Err(e) => return Err(Error::sys(call(offset), e as i32)),
        }
    }
    Ok(())
}

/// Makes the file exactly this long.
pub fn set_length(fd: impl AsFd, length: u64) -> Result<()> {
    let to = i64::try_from(length).map_err(|_| Error::sys(format!("ftruncate to {length}"), libc::EFBIG))?;
    check(nix::unistd::ftruncate(fd, to), || format!("ftruncate to {length}"))
}

/// Starts write-back of a range of a file and does not wait for it.
pub fn start_write_back(fd: impl AsFd, offset: u64, length: u64) -> Result<()> {
    let (from, count) = (i64::try_from(offset).unwrap_or(i64::MAX), i64::try_from(length).unwrap_or(0));
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: the call takes numbers only, and the borrow keeps the descriptor open.
    let rc = unsafe { libc::sync_file_range(fd, from, count, libc::SYNC_FILE_RANGE_WRITE) };
    outcome(rc, || "sync_file_range")
}

/// Sets the owner of an open file.
pub fn set_owner(fd: impl AsFd, uid: u32, gid: u32) -> Result<()> {
    let (u, g) = (nix::unistd::Uid::from_raw(uid), nix::unistd::Gid::from_raw(gid));
    check(nix::unistd::fchown(fd, Some(u), Some(g)), || format!("chown to {uid}:{gid}"))
}

/// Sets the mode of an open file.
pub fn set_mode(fd: impl AsFd, mode: u32) -> Result<()> {
    check(nix::sys::stat::fchmod(fd, Mode::from_bits_truncate(mode)), || format!("chmod to {mode:o}"))
}

/// Sets the access and modification times of an open file.
pub fn set_times(fd: impl AsFd, access: Time, modification: Time) -> Result<()> {
    let times = [access.timespec(), modification.timespec()];
    // SAFETY: a null path means the descriptor itself (utimensat(2)); the array has the two elements the call reads.
    let rc = unsafe { libc::futimens(fd.as_fd().as_raw_fd(), times.as_ptr()) };
    outcome(rc, || "set times")
}

/// Sets the access and modification times of a name, not following a symlink.
pub fn set_times_at(dir: impl AsFd, name: &[u8], access: Time, modification: Time) -> Result<()> {
    let times = [access.timespec(), modification.timespec()];
    let key = single(name)?;
    let dir = dir.as_fd().as_raw_fd();
    // SAFETY: the name is NUL-terminated, the array has the two elements the call reads, the borrow keeps `dir` open.
    let rc = unsafe { libc::utimensat(dir, key.as_ptr(), times.as_ptr(), libc::AT_SYMLINK_NOFOLLOW) };
    outcome(rc, || call("set times of", name))
}

/// The modification time of an open file.
pub fn modification_time(fd: impl AsFd) -> Result<Time> {
    let st = check(nix::sys::stat::fstat(fd), || "fstat")?;
    // The C types differ between architectures.
    #[allow(clippy::unnecessary_cast, clippy::useless_conversion)]
    Ok(Time { seconds: st.st_mtime as i64, nanos: u32::try_from(st.st_mtime_nsec).unwrap_or(0) })
}

/// Sets an attribute of a name that is not opened (a device node, a fifo): goes through the working directory, which
/// therefore has to be the calling thread's own (`confine`). Does not follow a symlink.
pub fn set_xattr_at(dir: impl AsFd, name: &[u8], key: &[u8], value: &[u8]) -> Result<()> {
    let (path, attribute) = (single(name)?, c_string(OsStr::from_bytes(key))?);
    let set = || {
        // SAFETY: both strings are NUL-terminated and live through the call; pointer and length describe `value`.
        let rc = unsafe { libc::lsetxattr(path.as_ptr(), attribute.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
        outcome(rc, || format!("set xattr '{}'", shown(OsStr::from_bytes(key))))
    };
    inside(dir, set)
}

/// Does something in a directory, and goes back to the root.
fn inside(dir: impl AsFd, work: impl FnOnce() -> Result<()>) -> Result<()> {
    check(nix::unistd::fchdir(dir), || "fchdir")?;
    let done = work();
    check(nix::unistd::chdir("/"), || "chdir to the root")?;
    done
}

/// Sets the mode of a name that is not opened, as [`set_xattr_at`] sets an attribute of it.
pub fn set_mode_at(dir: impl AsFd, name: &[u8], mode: u32) -> Result<()> {
    node_mode::set(dir, &single(name)?, mode)
}

/// Removes an attribute as [`set_xattr_at`] sets it; one that is not there is fine.
pub fn remove_xattr_at(dir: impl AsFd, name: &[u8], key: &[u8]) -> Result<()> {
    let (path, attribute) = (single(name)?, c_string(OsStr::from_bytes(key))?);
    // SAFETY: both strings are NUL-terminated and live through the call.
    inside(dir, || removed(unsafe { libc::lremovexattr(path.as_ptr(), attribute.as_ptr()) }, key))
}

fn removed(rc: libc::c_int, key: &[u8]) -> Result<()> {
    match Errno::result(rc) {
        Err(Errno::ENODATA | Errno::EOPNOTSUPP) => Ok(()),
        other => check(other.map(drop), || format!("remove xattr '{}'", shown(OsStr::from_bytes(key)))),
    }
}

/// Sets an attribute, whose name is bytes, of an open file or directory.
pub fn set_xattr(fd: impl AsFd, key: &[u8], value: &[u8]) -> Result<()> {
    let attribute = c_string(OsStr::from_bytes(key))?;
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: the name is NUL-terminated and lives through the call; pointer and length describe `value`.
    let rc = unsafe { libc::fsetxattr(fd, attribute.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    outcome(rc, || format!("set xattr '{}'", shown(OsStr::from_bytes(key))))
}

/// The names of the attributes of an open file or directory; none where the filesystem has no attributes.
pub fn list_xattrs(fd: impl AsFd) -> Result<Vec<Vec<u8>>> {
    // `XATTR_LIST_MAX` of linux/limits.h: a longer list cannot be had from the kernel either.
    let mut names = vec![0_u8; 1 << 16];
    // SAFETY: pointer and length describe `names`; the borrow keeps the descriptor open.
    let got = unsafe { libc::flistxattr(fd.as_fd().as_raw_fd(), names.as_mut_ptr().cast(), names.len()) };
    match Errno::result(got) {
        Err(Errno::EOPNOTSUPP) => Ok(Vec::new()),
        other => {
            names.truncate(usize::try_from(check(other, || "list xattrs")?).unwrap_or(0));
            Ok(names.split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect())
        }
    }
}

/// The value of an attribute of an open directory, however long.
pub fn xattr(fd: impl AsFd, key: &[u8]) -> Result<Vec<u8>> {
    let attribute = c_string(OsStr::from_bytes(key))?;
    // The kernel's own bound (`XATTR_SIZE_MAX` of linux/limits.h).
    let mut value = vec![0_u8; 64 << 10];
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: `attribute` is NUL-terminated and lives through the call; pointer and length describe `value`.
    let got = unsafe { libc::fgetxattr(fd, attribute.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    let got =
        Errno::result(got).map_err(|e| Error::sys(format!("get xattr '{}'", shown(OsStr::from_bytes(key))), e as i32))?;
    value.truncate(usize::try_from(got).unwrap_or(0));
    Ok(value)
}

/// Removes an attribute of an open file or directory; one that is not there is fine.
pub fn remove_xattr(fd: impl AsFd, key: &[u8]) -> Result<()> {
    let attribute = c_string(OsStr::from_bytes(key))?;
    // SAFETY: the name is NUL-terminated and lives through the call; the borrow keeps the descriptor open.
    let rc = unsafe { libc::fremovexattr(fd.as_fd().as_raw_fd(), attribute.as_ptr()) };
    removed(rc, key)
}

/// The device number of `major`:`minor`, if both fit the kernel's 12 and 20 bits.
pub fn device(major: u64, minor: u64) -> Option<u64> {
    let (major, minor) = (u32::try_from(major).ok()?, u32::try_from(minor).ok()?);
    (major < 1 << 12 && minor < 1 << 20).then(|| libc::makedev(major, minor))
}

/// A name that stays in its directory: the last guard against a mistake further up.
fn single(name: &[u8]) -> Result<CString> {
    if [&b""[..], b".", b".."].contains(&name) || name.contains(&b'/') {
        return Err(Error::new(Kind::Internal, format!("'{}' is no single name", shown(OsStr::from_bytes(name)))));
    }
    c_string(OsStr::from_bytes(name))
}

fn call(what: &str, name: &[u8]) -> String {
    format!("{what} '{}'", shown(OsStr::from_bytes(name)))
}
