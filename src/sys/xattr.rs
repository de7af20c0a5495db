//! Extended attributes, through descriptors.

use crate::error::{Error, Result};
use crate::sys::fs::{c_string, shown};
use nix::errno::Errno;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Whether the error says that there is no such attribute, or that the filesystem has none of that kind.
pub fn is_absent(error: &Error) -> bool {
    [libc::ENODATA, libc::EOPNOTSUPP].contains(&error.errno())
}

/// Sets an attribute of an open file or directory.
pub fn set(fd: impl AsFd, name: &str, value: &[u8]) -> Result<()> {
    let key = c_string(name)?;
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: `key` is NUL-terminated and lives through the call; pointer and length describe `value`.
    let rc = unsafe { libc::fsetxattr(fd, key.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    Errno::result(rc).map(drop).map_err(|e| Error::sys(format!("set xattr '{}'", shown(name)), e as i32))
}

/// An attribute's value, of at most `N` bytes.
pub fn get<const N: usize>(fd: impl AsFd, name: &str) -> Result<Vec<u8>> {
    let key = c_string(name)?;
    let mut value = [0_u8; N];
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: `key` is NUL-terminated and lives through the call; pointer and length describe `value`.
    let got = unsafe { libc::fgetxattr(fd, key.as_ptr(), value.as_mut_ptr().cast(), N) };
    let got = Errno::result(got).map_err(|e| Error::sys(format!("get xattr '{}'", shown(name)), e as i32))?;
    Ok(value[..usize::try_from(got).unwrap_or(0)].to_vec())
}

/// Whether there is such an attribute, whatever its value; a filesystem without such attributes has none.
pub fn is_set(fd: impl AsFd, name: &str) -> Result<bool> {
    let key = c_string(name)?;
    // SAFETY: `key` is NUL-terminated and lives through the call; with a size of 0 nothing is written (getxattr(2)).
    let got = unsafe { libc::fgetxattr(fd.as_fd().as_raw_fd(), key.as_ptr(), std::ptr::null_mut(), 0) };
    has(Errno::result(got), || format!("get xattr '{}'", shown(name)))
}

/// The same of the file or directory at `path` below an open directory, symlinks followed.
pub fn is_set_below(dir: impl AsFd, path: &str, name: &str) -> Result<bool> {
    /// Before Linux 6.13, or under a seccomp filter that is older than the call.
    static MISSING: AtomicBool = AtomicBool::new(false);
    if !MISSING.load(Relaxed) {
        match getxattrat(dir.as_fd(), path, name)? {
            Err(Errno::ENOSYS | Errno::EPERM) => MISSING.store(true, Relaxed),
            asked => return has(asked, || format!("get xattr '{}' of '{}'", shown(name), shown(path))),
        }
    }
    is_set_at(Path::new(&format!("/proc/thread-self/fd/{}/{path}", dir.as_fd().as_raw_fd())), name)
}

/// `getxattrat(2)` for the size only.
fn getxattrat(dir: BorrowedFd<'_>, path: &str, name: &str) -> Result<nix::Result<libc::c_long>> {
    /// `asm-generic/unistd.h`; the same on every architecture that this library is built for.
    const NUMBER: libc::c_long = 464;
    /// `struct xattr_args` of `linux/xattr.h`.
    #[repr(C)]
    struct Arguments {
        value: u64,
        size: u32,
        flags: u32,
    }
    let (place, key) = (c_string(path)?, c_string(name)?);
    let size_only = Arguments { value: 0, size: 0, flags: 0 };
    // SAFETY: both strings are NUL-terminated and live through the call, as do the arguments, of which their size is told; with a
    // size of 0 in them nothing is written.
    let got = unsafe {
        let (dir, arguments) = (dir.as_raw_fd(), &raw const size_only);
        libc::syscall(NUMBER, dir, place.as_ptr(), 0, key.as_ptr(), arguments, size_of::<Arguments>())
    };
    Ok(Errno::result(got))
}

/// The same of the file or directory at `path`, symlinks followed.
pub fn is_set_at(path: &Path, name: &str) -> Result<bool> {
    let place = c_string(path)?;
    let key = c_string(name)?;
    // SAFETY: both are NUL-terminated and live through the call; with a size of 0 nothing is written (getxattr(2)).
    let got = unsafe { libc::getxattr(place.as_ptr(), key.as_ptr(), std::ptr::null_mut(), 0) };
    has(Errno::result(got), || format!("get xattr '{}' of '{}'", shown(name), shown(path)))
}

/// Whether the attribute of which the size was asked is there.
fn has<S>(asked: nix::Result<S>, call: impl FnOnce() -> String) -> Result<bool> {
    match asked {
        Ok(_) => Ok(true),
        Err(Errno::ENODATA | Errno::EOPNOTSUPP) => Ok(false),
        Err(e) => Err(Error::sys(call(), e as i32)),
    }
}

/// Removes an attribute.
pub fn remove(fd: impl AsFd, name: &str) -> Result<()> {
    let key = c_string(name)?;
    // SAFETY: `key` is NUL-terminated and lives through the call.
    let rc = unsafe { libc::fremovexattr(fd.as_fd().as_raw_fd(), key.as_ptr()) };
    Errno::result(rc).map(drop).map_err(|e| Error::sys(format!("remove xattr '{}'", shown(name)), e as i32))
}
