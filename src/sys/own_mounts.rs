//! Mounting something that nobody else is to see, on kernels whose mounts must be attached somewhere (before Linux 5.2).

use crate::error::{Error, Kind, Result};
use crate::sys::confine::block_signals;
use crate::sys::fs::{check, open_dir};
use nix::mount::MsFlags;
use nix::sched::CloneFlags;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

/// Lets `mount`, in the working directory `here`, mount something on `target` in a mount namespace that only a thread of its own
/// is in, and returns the root of what is mounted. The mount goes with the descriptor, or with the process.
pub fn root_of(here: BorrowedFd<'_>, target: &Path, mount: impl FnOnce() -> Result<()> + Send) -> Result<OwnedFd> {
    let body = || {
        block_signals()?;
        // A thread that shares its root and working directory with others may not leave the namespace (unshare(2)). Its own working
        // directory comes along: a descriptor would lead to the mounts of the namespace that it was opened in.
        check(nix::sched::unshare(CloneFlags::CLONE_FS), || "unshare(CLONE_FS)")?;
        check(nix::unistd::fchdir(here), || "fchdir")?;
        check(nix::sched::unshare(CloneFlags::CLONE_NEWNS), || "unshare(CLONE_NEWNS)")?;
        let private =
            nix::mount::mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>);
        check(private, || "make the mounts of a thread its own")?;
        mount()?;
        open_dir(target)
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("graphdriver-mount".to_owned()).spawn_scoped(scope, body);
        let thread = thread.map_err(|e| Error::sys("start a thread", e.raw_os_error().unwrap_or(libc::EAGAIN)))?;
        thread.join().unwrap_or_else(|_| Err(Error::new(Kind::Internal, "a thread panicked")))
    })
}
