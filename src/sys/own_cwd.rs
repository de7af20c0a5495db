//! Doing something in another current directory, without changing the process's.

use crate::error::Result;
use crate::sys::fs::check;
use crate::sys::process::SignalsBlocked;
use crate::sys::threads;
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
        let thread = threads::start(scope, "graphdriver-cwd", body);
        drop(blocked);
        threads::outcome_of(thread?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::fs;
    use crate::sys::process::blocked_signals;
    use std::os::fd::AsFd;
    use std::path::{Path, PathBuf};

    /// The working directory of the calling thread, and whether a handler of the host could run on it.
    fn here() -> (PathBuf, bool) {
        let blocked = blocked_signals(Path::new("/proc/thread-self"));
        let alarm = 1 << (libc::SIGALRM - 1);
        (std::fs::read_link("/proc/thread-self/cwd").unwrap(), blocked & alarm == 0)
    }

    #[test]
    fn the_directory_is_the_threads_and_no_handler_runs_in_it() {
        let before = here();
        let dir = fs::open_dir(Path::new("/proc")).unwrap();
        assert_eq!(run_in(dir.as_fd(), || Ok(here())).unwrap(), ("/proc".into(), false));
        assert_eq!(here(), before);
        assert!(before.1 && before.0.as_os_str() != "/proc");
    }
}
