//! Extended attributes, through descriptors.

use crate::error::{Error, Result};
use crate::sys::fs::{c_string, shown};
use nix::errno::Errno;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

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
    match Errno::result(got) {
        Ok(_) => Ok(true),
        Err(Errno::ENODATA | Errno::EOPNOTSUPP) => Ok(false),
        Err(e) => Err(Error::sys(format!("get xattr '{}'", shown(name)), e as i32)),
    }
}

/// The same of the file or directory at `path` below an open directory, symlinks followed.
pub fn is_set_below(dir: impl AsFd, path: &str, name: &str) -> Result<bool> {
    // getxattrat is of Linux 6.13.
    is_set_at(Path::new(&format!("/proc/thread-self/fd/{}/{path}", dir.as_fd().as_raw_fd())), name)
}

/// The same of the file or directory at `path`, symlinks followed.
pub fn is_set_at(path: &Path, name: &str) -> Result<bool> {
    let place = c_string(path)?;
    let key = c_string(name)?;
    // SAFETY: both are NUL-terminated and live through the call; with a size of 0 nothing is written (getxattr(2)).
    let got = unsafe { libc::getxattr(place.as_ptr(), key.as_ptr(), std::ptr::null_mut(), 0) };
    match Errno::result(got) {
        Ok(_) => Ok(true),
        Err(Errno::ENODATA | Errno::EOPNOTSUPP) => Ok(false),
        Err(e) => Err(Error::sys(format!("get xattr '{}' of '{}'", shown(name), shown(path)), e as i32)),
    }
}

/// Removes an attribute.
pub fn remove(fd: impl AsFd, name: &str) -> Result<()> {
    let key = c_string(name)?;
    // SAFETY: `key` is NUL-terminated and lives through the call.
    let rc = unsafe { libc::fremovexattr(fd.as_fd().as_raw_fd(), key.as_ptr()) };
    Errno::result(rc).map(drop).map_err(|e| Error::sys(format!("remove xattr '{}'", shown(name)), e as i32))
}
