//! What a library does to threads and processes, kept small: a lock between processes, threads that take no signals, and calls
//! that the host's thread comes out of as it went in.

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

/// Gives a lock of [`lock_exclusive`] back, also where a child that was forked meanwhile has the descriptor as well.
pub fn unlock(fd: impl AsFd) {
    // SAFETY: takes two integers; the borrow keeps the descriptor open. It fails for no descriptor that could be locked.
    unsafe { libc::flock(fd.as_fd().as_raw_fd(), libc::LOCK_UN) };
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
            [_, "FLOCK", _, "WRITE" | "READ", pid, place, ..] if *place == wanted => pid.parse().ok().filter(|&pid| pid > 0),
            _ => None,
        }
    })
}

// Of pthread.h; the libc crate lacks them.
const PTHREAD_CANCEL_DISABLE: libc::c_int = 1;
unsafe extern "C" {
    fn pthread_setcancelstate(state: libc::c_int, old: *mut libc::c_int) -> libc::c_int;
}

/// Runs `work`, which must not unwind, on a thread of the host program so that it is neither cancelled in the middle (Rust code
/// cannot be unwound by `pthread_cancel`) nor killed by `SIGXFSZ` where a file grows beyond `RLIMIT_FSIZE`: the write fails
/// with `EFBIG`, which says as much. Both are afterwards as they were; a cancellation meanwhile takes effect after that.
pub fn undisturbed<T>(work: impl FnOnce() -> T) -> T {
    let mut cancellation = 0;
    // SAFETY: writes the old state where the pointer says.
    unsafe { pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &raw mut cancellation) };
    let size_signal = SizeSignal::block();
    let outcome = work();
    size_signal.restore();
    // SAFETY: takes the state that it gave, and may be told to keep the present one to itself.
    unsafe { pthread_setcancelstate(cancellation, &raw mut cancellation) };
    outcome
}

/// `SIGXFSZ`, blocked for the calling thread.
struct SizeSignal {
    only: libc::sigset_t,
    was_blocked: bool,
    was_pending: bool,
}

impl SizeSignal {
    fn block() -> SizeSignal {
        // SAFETY: integer arrays for which zero is a value; the calls fill in and read the sets they are given.
        unsafe {
            let (mut only, mut before): (libc::sigset_t, libc::sigset_t) = (std::mem::zeroed(), std::mem::zeroed());
            libc::sigemptyset(&raw mut only);
            libc::sigaddset(&raw mut only, libc::SIGXFSZ);
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const only, &raw mut before);
            let was_blocked = libc::sigismember(&raw const before, libc::SIGXFSZ) == 1;
            let mut pending: libc::sigset_t = std::mem::zeroed();
            // What was not blocked cannot have been pending.
            let was_pending = was_blocked
                && libc::sigpending(&raw mut pending) == 0
                && libc::sigismember(&raw const pending, libc::SIGXFSZ) == 1;
            SizeSignal { only, was_blocked, was_pending }
        }
    }

    /// Takes back what the work has caused, and unblocks what was not blocked; the host may have changed the rest of its mask in
    /// a callback.
    fn restore(self) {
        let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the calls read the set and the time they are given; null pointers ask for no answer.
        unsafe {
            if !self.was_pending {
                libc::sigtimedwait(&raw const self.only, std::ptr::null_mut(), &raw const at_once);
            }
            if !self.was_blocked {
                libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const self.only, std::ptr::null_mut());
            }
        }
    }
}

/// The two halves of a device number (`st_dev`).
#[must_use]
pub fn device_numbers(device: u64) -> (u64, u64) {
    (nix::sys::stat::major(device), nix::sys::stat::minor(device))
}

/// The signals that a thread blocks, as bits, the first one for signal 1: `thread` is its directory in `/proc` (`proc(5)`, `SigBlk`).
#[cfg(test)]
pub(crate) fn blocked_signals(thread: &std::path::Path) -> u64 {
    let status = std::fs::read_to_string(thread.join("status")).unwrap();
    let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:\t")).unwrap();
    u64::from_str_radix(blocked, 16).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_lock_is_found_by_device_and_inode() {
        let table = "1: POSIX  ADVISORY  WRITE 11 08:01:5678 0 EOF\n2: FLOCK  ADVISORY  READ  12 08:01:5679 0 EOF\n\
            3: FLOCK  ADVISORY  WRITE 13 103:0a:5678 0 EOF\n3: -> FLOCK  ADVISORY  WRITE 14 08:01:5678 0 EOF\n\
            4: FLOCK  ADVISORY  WRITE 0 08:01:99 0 EOF\n5: FLOCK  ADVISORY  WRITE 15 08:01:5678 0 EOF\nshort\n";
        assert_eq!(holder(table, (8, 1), 5678), Some(15));
        assert_eq!(holder(table, (8, 1), 5679), Some(12), "one who shares it");
        assert_eq!(holder(table, (0x103, 10), 5678), Some(13));
        assert_eq!((holder(table, (8, 1), 99), holder(table, (8, 1), 1)), (None, None), "another namespace; nobody");
    }

    /// Whether `SIGXFSZ` is blocked for, and pending at, the calling thread.
    fn size_signal() -> (bool, bool) {
        // SAFETY: as in `SizeSignal::block`.
        unsafe {
            let (mut mask, mut pending): (libc::sigset_t, libc::sigset_t) = (std::mem::zeroed(), std::mem::zeroed());
            libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), &raw mut mask);
            libc::sigpending(&raw mut pending);
            let is_in = |set: &libc::sigset_t| libc::sigismember(set, libc::SIGXFSZ) == 1;
            (is_in(&mask), is_in(&pending))
        }
    }

    fn raise() {
        // SAFETY: sends a signal to the calling thread, which has it blocked.
        unsafe { libc::raise(libc::SIGXFSZ) };
    }

    #[test]
    fn the_threads_own_signals_are_as_they_were() {
        std::thread::spawn(|| {
            undisturbed(|| undisturbed(raise));
            assert_eq!(size_signal(), (false, false));
            let blocked = SizeSignal::block();
            undisturbed(raise);
            assert_eq!(size_signal(), (true, false));
            raise();
            undisturbed(raise);
            assert_eq!(size_signal(), (true, true), "the host's own signal is the host's");
            blocked.restore();
        })
        .join()
        .unwrap();
    }
}
