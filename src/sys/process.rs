//! What a library does to threads and processes, kept small: a lock between processes, and threads that take no signals.

use crate::error::{Error, Result};
use crate::sys::fs::check;
use nix::errno::Errno;
use std::os::fd::{AsFd, AsRawFd};

/// Takes an exclusive lock on an open file or directory (`flock(2)`); false if another process, or another open of it, has
/// one. It lasts until the descriptor is closed.
pub fn lock_exclusive(fd: impl AsFd) -> Result<bool> {
    // nix's lock owns the descriptor; this one is also used for `openat`.
    // SAFETY: takes two integers; the borrow keeps the descriptor open.
    let rc = unsafe { libc::flock(fd.as_fd().as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
    match Errno::result(rc) {
        Ok(_) => Ok(true),
        Err(Errno::EWOULDBLOCK) => Ok(false),
        Err(errno) => Err(Error::sys("flock", errno as i32)),
    }
}

/// Blocks all signals for the calling thread, so that the host program's handlers run on its own threads only.
pub fn block_signals() -> Result<()> {
    // SAFETY: an integer array for which zero is a value; sigfillset then fills it in.
    let mut all: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: writes the set it is given.
    unsafe { libc::sigfillset(&raw mut all) };
    // SAFETY: reads the set; the old mask is not asked for.
    let rc = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, std::ptr::null_mut()) };
    check(if rc == 0 { Ok(()) } else { Err(Errno::from_raw(rc)) }, || "pthread_sigmask")
}

/// The two halves of a device number (`st_dev`).
#[must_use]
pub fn device_numbers(device: u64) -> (u64, u64) {
    (nix::sys::stat::major(device), nix::sys::stat::minor(device))
}
