//! Mounting something that nobody else is to see, on kernels whose mounts must be attached somewhere (before Linux 5.2).

use crate::error::Result;
use crate::sys::fs::{check, open_dir};
use crate::sys::own_cwd;
use nix::errno::Errno;
use nix::mount::MsFlags;
use nix::sched::CloneFlags;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

/// Lets `mount`, in the working directory `here`, mount something on `target` in a mount namespace that only a thread of its own
/// is in, and returns the root of what is mounted. The mount goes with the descriptor, or with the process.
pub fn root_of(here: BorrowedFd<'_>, target: &Path, mount: impl FnOnce() -> Result<()> + Send) -> Result<OwnedFd> {
    // A thread that shares its working directory with others may not leave the namespace (unshare(2)). Its own comes along: a
    // descriptor would lead to the mounts of the namespace that it was opened in.
    own_cwd::run_in(here, || {
        check(nix::sched::unshare(CloneFlags::CLONE_NEWNS), || "unshare(CLONE_NEWNS)")?;
        let private =
            nix::mount::mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>);
        check(private, || "make the mounts of a thread its own").map_err(|e| match private {
            Err(Errno::EINVAL) => e.hint("the root of this chroot is no mount point: bind it on itself before chroot(2)"),
            _ => e,
        })?;
        mount()?;
        open_dir(target)
    })
}
