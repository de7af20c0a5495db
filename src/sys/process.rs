//! What a library does to threads and processes, kept small: a lock between processes, threads that take no signals, and calls
//! that the host's thread comes out of as it went in.

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

#[cfg(test)]
mod tests {
    use super::*;

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
