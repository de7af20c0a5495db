//! What a library does to threads and processes, kept small: a lock between processes, and threads that take no signals.

use crate::error::{Error, Result};
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

/// All signals are blocked for the calling thread while this lives. A thread that it starts meanwhile never takes one: the host
/// program's handlers run on its own threads only.
pub struct SignalsBlocked {
    before: libc::sigset_t,
}

impl SignalsBlocked {
    /// Blocks them.
    #[must_use]
    pub fn now() -> SignalsBlocked {
        // SAFETY: integer arrays for which zero is a value.
        let (mut all, mut before): (libc::sigset_t, libc::sigset_t) = unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        // SAFETY: writes the set it is given.
        unsafe { libc::sigfillset(&raw mut all) };
        // SAFETY: reads one set and writes the other. It fails only for a bad first argument (pthread_sigmask(3)).
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, &raw mut before) };
        SignalsBlocked { before }
    }
}

impl Drop for SignalsBlocked {
    fn drop(&mut self) {
        // SAFETY: reads the set; as above.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, std::ptr::null_mut()) };
    }
}

/// Who holds the lock of [`lock_exclusive`] on an inode, where the kernel tells: not in another PID namespace (`proc(5)`, `locks`).
#[must_use]
pub fn lock_holder(device: u64, inode: u64) -> Option<u32> {
    holder(&std::fs::read_to_string("/proc/locks").ok()?, device_numbers(device), inode)
}

/// A line reads `1: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF`, with the device's numbers in hexadecimal.
fn holder(table: &str, (major, minor): (u64, u64), inode: u64) -> Option<u32> {
    let wanted = format!("{major:02x}:{minor:02x}:{inode}");
    table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        match fields.as_slice() {
            [_, "FLOCK", _, "WRITE", pid, place, ..] if *place == wanted => pid.parse().ok().filter(|&pid| pid > 0),
            _ => None,
        }
    })
}

/// The two halves of a device number (`st_dev`).
#[must_use]
pub fn device_numbers(device: u64) -> (u64, u64) {
    (nix::sys::stat::major(device), nix::sys::stat::minor(device))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_lock_is_found_by_device_and_inode() {
        let table = "1: POSIX  ADVISORY  WRITE 11 08:01:5678 0 EOF\n2: FLOCK  ADVISORY  READ  12 08:01:5678 0 EOF\n\
            3: FLOCK  ADVISORY  WRITE 13 103:0a:5678 0 EOF\n3: -> FLOCK  ADVISORY  WRITE 14 08:01:5678 0 EOF\n\
            4: FLOCK  ADVISORY  WRITE 0 08:01:99 0 EOF\n5: FLOCK  ADVISORY  WRITE 15 08:01:5678 0 EOF\nshort\n";
        assert_eq!(holder(table, (8, 1), 5678), Some(15));
        assert_eq!(holder(table, (0x103, 10), 5678), Some(13));
        assert_eq!((holder(table, (8, 1), 99), holder(table, (8, 1), 1)), (None, None), "another namespace; nobody");
    }
}
