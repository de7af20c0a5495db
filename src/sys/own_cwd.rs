//! Doing something in another current directory, without changing the process's.

use crate::error::{Error, Kind, Result};
use crate::sys::fs::check;
use crate::sys::process::SignalsBlocked;
use nix::sched::CloneFlags;
use std::os::fd::BorrowedFd;

/// Runs `work` on a thread of its own whose current directory is `dir`. The thread is gone when this returns.
pub fn run_in<T: Send>(dir: BorrowedFd<'_>, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let body = || {
        // The current directory is shared by all threads until it is unshared (unshare(2), CLONE_FS).
        check(nix::sched::unshare(CloneFlags::CLONE_FS), || "unshare CLONE_FS")?;
        check(nix::unistd::fchdir(dir), || "fchdir")?;
        work()
    };
    std::thread::scope(|scope| {
        // A handler of the host program would run in the wrong directory: the thread starts with all signals blocked.
        let blocked = SignalsBlocked::now();
        let thread = std::thread::Builder::new().name("graphdriver-cwd".to_owned()).spawn_scoped(scope, body);
        drop(blocked);
        let thread = thread.map_err(|e| Error::sys("start a thread", e.raw_os_error().unwrap_or(libc::EAGAIN)))?;
        thread.join().unwrap_or_else(|_| Err(Error::new(Kind::Internal, "a thread panicked")))
    })
}
