//! The mount API of Linux 5.2 (`fsopen(2)`, `fsconfig(2)`, `fsmount(2)`, `move_mount(2)`), which nix does not have.

use crate::error::{Error, Result};
use crate::sys::fs::{c_string, shown};
use nix::errno::Errno;
use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

// linux/mount.h
const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;
const FSCONFIG_SET_FLAG: libc::c_uint = 0;
const FSCONFIG_SET_STRING: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 4;

/// Longest value that `fsconfig` takes as a string, in bytes: the kernel copies it with `strndup_user(…, 256)`.
pub const MAX_STRING: usize = 255;

/// Attributes of a mount, `MOUNT_ATTR_*` of `linux/mount.h`.
pub mod attr {
    /// Read-only.
    pub const RDONLY: u32 = 0x01;
    /// Set-user-id bits do nothing.
    pub const NOSUID: u32 = 0x02;
    /// Device nodes do nothing.
    pub const NODEV: u32 = 0x04;
    /// Nothing can be executed.
    pub const NOEXEC: u32 = 0x08;
    /// Access times are not kept.
    pub const NOATIME: u32 = 0x10;
    /// Access times are always kept.
    pub const STRICTATIME: u32 = 0x20;
    /// Access times of directories are not kept.
    pub const NODIRATIME: u32 = 0x80;
}

/// A filesystem being configured.
pub struct Context(OwnedFd);

impl Context {
    /// Starts on a filesystem of this type. The kernel loads its module if it can. `ENOSYS` before Linux 5.2, `ENODEV` for an
    /// unknown type.
    pub fn open(fstype: &str) -> Result<Context> {
        let name = c_string(fstype)?;
        // SAFETY: the name is NUL-terminated and outlives the call.
        let fd = unsafe { libc::syscall(libc::SYS_fsopen, name.as_ptr(), FSOPEN_CLOEXEC) };
        owned(fd).map(Context).map_err(|e| Error::sys(format!("fsopen '{fstype}'"), e as i32))
    }

    /// Sets an option that takes a value of at most [`MAX_STRING`] bytes.
    pub fn string(&self, key: &str, value: impl AsRef<OsStr>) -> Result<()> {
        let text = c_string(&value)?;
        self.config(FSCONFIG_SET_STRING, key, text.as_ptr(), value.as_ref())
    }

    /// Sets an option that takes no value.
    pub fn flag(&self, key: &str) -> Result<()> {
        self.config(FSCONFIG_SET_FLAG, key, std::ptr::null(), OsStr::new(""))
    }

    /// Makes the filesystem.
    pub fn create(&self) -> Result<()> {
        self.config(FSCONFIG_CMD_CREATE, "", std::ptr::null(), OsStr::new(""))
    }

    fn config(&self, command: libc::c_uint, key: &str, value: *const libc::c_char, shown_value: &OsStr) -> Result<()> {
        let key_c = c_string(key)?;
        let key_ptr = if key.is_empty() { std::ptr::null() } else { key_c.as_ptr() };
        // SAFETY: key and value are NULL or NUL-terminated strings that outlive the call.
        let rc = unsafe { libc::syscall(libc::SYS_fsconfig, self.0.as_raw_fd(), command, key_ptr, value, 0) };
        Errno::result(rc).map(drop).map_err(|errno| {
            let call = match command {
                FSCONFIG_CMD_CREATE => "fsconfig create".to_owned(),
                _ => format!("fsconfig '{key}' '{}'", shown(shown_value)),
            };
            Error::sys(self.explained(call), errno as i32)
        })
    }

    /// Adds what the kernel wrote into the context's log.
    fn explained(&self, call: String) -> String {
        let mut text = call;
        let mut line = [0_u8; 1024];
        while let Ok(n) = nix::unistd::read(&self.0, &mut line) {
            // Each read returns one message with a class letter and a blank in front.
            text.push_str(" [");
            text.push_str(String::from_utf8_lossy(&line[2.min(n)..n]).trim_end());
            text.push(']');
        }
        text
    }

    /// A mount of the created filesystem that is attached nowhere yet.
    pub fn mount(&self, attributes: u32) -> Result<OwnedFd> {
        // SAFETY: takes a descriptor and numbers.
        let fd = unsafe { libc::syscall(libc::SYS_fsmount, self.0.as_raw_fd(), FSMOUNT_CLOEXEC, attributes) };
        owned(fd).map_err(|e| Error::sys(self.explained("fsmount".to_owned()), e as i32))
    }
}

impl From<Context> for OwnedFd {
    fn from(context: Context) -> OwnedFd {
        context.0
    }
}

/// Attaches a mount to the directory `name` of `dir`, following no symlink at its end.
pub fn attach(mount: BorrowedFd<'_>, dir: impl AsFd, name: impl AsRef<OsStr>) -> Result<()> {
    let (name, empty) = (name.as_ref(), c"");
    let target = c_string(name)?;
    // SAFETY: both names are NUL-terminated and outlive the call.
    let rc = unsafe {
        let (from, to) = (mount.as_raw_fd(), dir.as_fd().as_raw_fd());
        libc::syscall(libc::SYS_move_mount, from, empty.as_ptr(), to, target.as_ptr(), MOVE_MOUNT_F_EMPTY_PATH)
    };
    Errno::result(rc).map(drop).map_err(|e| Error::sys(format!("move_mount to '{}'", shown(name)), e as i32))
}

fn owned(fd: libc::c_long) -> nix::Result<OwnedFd> {
    let fd = Errno::result(fd)?;
    let fd = libc::c_int::try_from(fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just opened it for us and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
